"""``models list``, ``models show`` and ``models pull`` as values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from streamdepth.cli import main
from streamdepth.cli.tools import entry_lines
from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.models.catalog import list_models, pull, show_model
from streamdepth.models.hub import HubAccess
from streamdepth.models.known import find_known, known_models
from streamdepth.models.selection import SUFFIXES, dtype_order, split_dtype
from tests.support.hub import DA_PREPROCESSOR, FakeHub, FakeRepo, Fault
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "onnx-community/depth-anything-v2-small"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    fp32 = write_depth_model(tmp_path / "made" / "model.onnx", external_data="model.onnx_data")
    q8 = write_depth_model(tmp_path / "made" / "model_quantized.onnx").read_bytes()
    files: dict[str, bytes | dict[str, object]] = {
        "onnx/model.onnx": fp32.read_bytes(),
        "onnx/model.onnx_data": fp32.with_name("model.onnx_data").read_bytes(),
        "onnx/model_quantized.onnx": q8,
        "config.json": {"model_type": "depth_anything"},
        "preprocessor_config.json": DA_PREPROCESSOR,
    }
    with FakeHub(FakeRepo.of(NAME, files, licence="apache-2.0"), FakeRepo.of("me/Own", {"own_q4.onnx": q8})) as hub:
        yield hub


@pytest.fixture
def access(hub: FakeHub, tmp_path: Path) -> HubAccess:
    return HubAccess(endpoint=hub.endpoint, cache_dir=tmp_path / "cache", timeout_seconds=5)


def test_the_table_is_sound() -> None:
    names = [model.name for model in known_models()]
    assert len(names) == len({name.lower() for name in names})
    for model in known_models():
        assert set(model.sizes_mb) <= set(SUFFIXES)
        assert all(key.split()[0] in SUFFIXES for key in model.speed_ms)
        assert model.notes or model.sizes_mb
    assert find_known(NAME.upper()) is not None
    assert find_known("some/thing") is None


def test_every_order_has_every_dtype() -> None:
    for provider in ("cpu", "cuda", "tensorrt", "openvino", "coreml", "unheard-of"):
        assert sorted(dtype_order(provider)) == sorted(SUFFIXES)


@pytest.mark.parametrize("dtype", SUFFIXES)
def test_file_names_tell_the_dtype(dtype: str) -> None:
    assert split_dtype(f"model{SUFFIXES[dtype]}") == ("model", dtype)


def test_list_without_a_cache(tmp_path: Path) -> None:
    entries = list_models(HubAccess(cache_dir=tmp_path / "none"))
    assert entries[0].kind == "built-in"
    assert entries[0].sense is Sense.RELATIVE_INVERSE
    assert [e.name for e in entries[1:]] == [m.name for m in known_models()]
    assert not any(e.cached for e in entries)
    small = next(e for e in entries if e.name == NAME)
    assert (small.sizes_mb["q8"], small.licence, small.speed_ms["fp32 518x518"]) == (27, "Apache-2.0", 548)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_list_never_cuts_a_word(width: int, tmp_path: Path) -> None:
    entries = list_models(HubAccess(cache_dir=tmp_path / "none"))
    lines = entry_lines(entries, width)
    assert max(map(len, lines)) <= max(width, 80)
    text = "\n".join(lines).split()
    for entry in entries:
        unit = "metric" if entry.sense is Sense.METRIC_M else "relative"
        assert {entry.name, unit} <= {word.strip(",") for word in text}
    one_line = "onnx-community/depth-anything-v2-base" + " " * 3 + "relative  slow  "
    two_lines = "onnx-community/depth-anything-v2-base\n    relative, slow, CC-BY-NC-4.0, 72-389 MB\n"
    assert (one_line if width > 80 else two_lines) in "\n".join(lines)


def test_show_states_an_unknown_licence_and_leaves_empty_values_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "show", str(write_depth_model(tmp_path / "m.onnx"))]) == 0
    rows = dict(line.split("\t")[:2] for line in capsys.readouterr().out.splitlines())
    assert (rows["licence"], rows["head"], "window" in rows) == ("not stated", '{"kind": "map"}', False)


def test_list_shows_the_cache(access: HubAccess, hub: FakeHub) -> None:
    pull(NAME, dtype="q8", access=access)
    pull("me/Own", access=access)
    hub.forget()
    entries = {e.name: e for e in list_models(access)}
    assert entries[NAME].cached == ("q8",)
    assert entries[NAME].cached_bytes > 1000
    own = entries["me/Own"]
    assert (own.kind, own.sense, own.cached) == ("cached", None, ("q4",))
    assert hub.seen == []


def test_show_downloads_no_model(access: HubAccess, hub: FakeHub) -> None:
    details = show_model(NAME, access=access)
    assert details.spec is None
    assert [(v.dtype, v.file, v.local) for v in details.variants] == [
        ("fp32", "onnx/model.onnx", False),
        ("q8", "onnx/model_quantized.onnx", False),
    ]
    content = hub.repos[NAME].commits[hub.repos[NAME].head]
    assert details.variants[0].size_bytes == len(content["onnx/model.onnx"]) + len(content["onnx/model.onnx_data"])
    assert (details.chosen, details.licence, details.revision) == ("fp32", "Apache-2.0", hub.repos[NAME].head)
    assert details.notes == (f"fp32 is not downloaded; run `streamdepth models pull {NAME}`",)
    assert not hub.requests("GET", "/lfs/.*onnx|resolve/.*onnx")


def test_show_of_what_is_here(access: HubAccess, tmp_path: Path) -> None:
    pull(NAME, access=access)
    details = show_model(NAME, access=access)
    assert details.spec is not None
    assert details.spec.dtype == "fp32"
    assert [v.local for v in details.variants] == [True, False]
    assert show_model(NAME, access=replace(access, offline=True)).spec is not None
    built_in = show_model("built-in", access=access)
    assert built_in.spec is not None
    assert built_in.variants[0].size_bytes == built_in.spec.path.stat().st_size
    write_depth_model(tmp_path / "folder" / "onnx" / "model.onnx")
    write_depth_model(tmp_path / "folder" / "onnx" / "model_fp16.onnx")
    assert [v.dtype for v in show_model(tmp_path / "folder").variants] == ["fp32", "fp16"]
    assert [v.dtype for v in show_model(tmp_path / "folder" / "onnx" / "model.onnx").variants] == ["fp32"]
    with pytest.raises(ModelNotFoundError, match="has no q4 file; it has fp32, q8"):
        show_model(NAME, dtype="q4", access=access)


def test_pull_tells_what_came(access: HubAccess) -> None:
    told: list[str] = []
    done = pull(NAME, access=access, progress=lambda file, *_: told.append(file))
    assert {p.name for p in done.files} == {"model.onnx", "model.onnx_data"}
    assert set(done.downloaded) == {"onnx/model.onnx", "onnx/model.onnx_data"} == set(told)
    again = pull(NAME, access=access)
    assert (again.downloaded, again.repaired) == ((), ())
    forced = pull(NAME, access=access, force=True)
    assert set(forced.downloaded) == set(done.downloaded)


@pytest.mark.parametrize("damage", ["cut", "flipped", "linkless"])
def test_pull_repairs(access: HubAccess, hub: FakeHub, damage: str) -> None:
    path = pull(NAME, access=access).spec.external_data[0]
    sound = path.read_bytes()
    if damage == "cut":
        path.resolve().write_bytes(sound[:-50])
    elif damage == "flipped":
        path.resolve().write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    else:  # a file system without links: the cache holds a copy
        path.unlink()
        path.write_bytes(sound[:-50])
    done = pull(NAME, access=access)
    assert done.repaired == ("onnx/model.onnx_data",)
    assert path.read_bytes() == sound
    hub.forget()
    assert pull(NAME, access=access).repaired == ()


def test_what_comes_in_wrong_is_refused(access: HubAccess, hub: FakeHub) -> None:
    content = hub.repos[NAME].commits[hub.repos[NAME].head]
    import hashlib

    digest = hashlib.sha256(content["onnx/model_quantized.onnx"]).hexdigest()
    flipped = bytearray(content["onnx/model_quantized.onnx"])
    flipped[-1] ^= 1
    hub.lies[digest] = bytes(flipped)
    with pytest.raises(
        ModelError, match=r"model_quantized.onnx: damaged download; run `streamdepth models pull .* --force"
    ):
        pull(NAME, dtype="q8", access=access)
    hub.lies.clear()
    assert pull(NAME, dtype="q8", access=access).repaired == ("onnx/model_quantized.onnx",)


def test_pull_of_what_cannot_be_pulled(access: HubAccess, hub: FakeHub) -> None:
    with pytest.raises(UsageError, match="built-in: is local; only Hub names"):
        pull("built-in", access=access)
    pull(NAME, access=access)
    hub.faults.append(Fault("/api/", status=503))
    with pytest.raises(ModelError, match="cannot be downloaded again"):
        pull(NAME, access=access, force=True)
    assert pull(NAME, access=access).downloaded == ()
