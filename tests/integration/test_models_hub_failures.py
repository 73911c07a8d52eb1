"""A Hub that refuses, fails, sends rubbish or is not there, and what the cache then does."""

from __future__ import annotations

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from streamdepth.core.errors import DeadlineError, ModelError, ModelNotFoundError, StreamDepthError, UsageError
from streamdepth.models.hub import fetch, list_repository
from tests.support.hub import FakeRepo, Fault
from tests.support.hub_model import NAME, Setup, cached_files, files_of_all_dtypes, hub_with_model
from tests.support.models import write_depth_model
from tests.support.paths import ROOT
from tests.support.rtsp import unused_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def all_dtypes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of_all_dtypes(tmp_path_factory.mktemp("dtypes"))


@pytest.fixture
def setup(all_dtypes: dict[str, bytes], tmp_path: Path) -> Iterator[Setup]:
    with hub_with_model(all_dtypes, tmp_path / "cache") as made:
        yield made


# --- refusals and failures


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "not found at .* or private"),
        (403, "access denied by .* \\(403\\)"),
        (404, "not found at"),
        (418, "refused the request \\(418\\)"),
        (429, "limits the rate"),
        (500, "failed \\(500\\); try again later"),
        (503, "failed \\(503\\)"),
    ],
)
def test_the_hub_refuses(setup: Setup, status: int, said: str) -> None:
    setup.hub.faults.append(Fault("/api/models/", status=status))
    with pytest.raises(ModelError, match=said) as caught:
        setup.resolve()
    assert str(caught.value).startswith(NAME)
    assert "\n" not in str(caught.value)


def test_a_file_fails_after_the_listing(setup: Setup) -> None:
    setup.hub.faults.append(Fault("GET /lfs/", status=500))
    with pytest.raises(ModelError, match=r"someone/tiny-depth/onnx/model.onnx: .* failed \(500\)"):
        setup.resolve()
    setup.hub.faults.clear()
    assert setup.resolve().revision == setup.repo.head


def test_a_file_that_vanished(setup: Setup) -> None:
    listing = list_repository(setup.access, NAME)
    with pytest.raises(ModelNotFoundError, match=r"has no file onnx/none.onnx at main"):
        fetch(setup.access, listing, "onnx/none.onnx")


def test_unknown_repository(setup: Setup) -> None:
    with pytest.raises(ModelNotFoundError, match="someone/else: not found at"):
        setup.resolve("someone/else")


@pytest.mark.parametrize("name", ["a/b--c", "a/b..c", f"{'x' * 97}/y"])
def test_names_the_hub_cannot_have(setup: Setup, name: str) -> None:
    with pytest.raises(UsageError, match="a Hub name is org/name"):
        setup.resolve(name)


def test_a_hub_that_does_not_answer(setup: Setup) -> None:
    setup.hub.faults.append(Fault("/api/models/", stall=True))
    impatient = replace(setup.access, timeout_seconds=0.3)
    with pytest.raises(DeadlineError, match=r"did not answer in time; check the network"):
        setup.resolve(access=impatient)


@pytest.mark.parametrize("body", [b"{}", b"<html>Log in to the hotel's network</html>"])
def test_something_that_is_no_hub(setup: Setup, body: bytes) -> None:
    setup.hub.faults.append(Fault("/api/models/", status=200, body=body))
    with pytest.raises(StreamDepthError, match=r"check .*HF_ENDPOINT"):
        setup.resolve()


# --- without a network


def test_no_network_and_nothing_cached(setup: Setup) -> None:
    nowhere = replace(setup.access, endpoint=f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(ModelError, match=r"cannot reach http://127.0.0.1:\d+ \(.*refused.*\); check the network"):
        setup.resolve(access=nowhere)


@pytest.mark.parametrize("how", ["refused", "silent", "down"])
def test_the_cache_stands_in_for_the_hub(setup: Setup, how: str) -> None:
    spec = setup.resolve(dtype="q8")
    access = setup.access
    if how == "refused":
        access = replace(access, endpoint=f"http://127.0.0.1:{unused_port()}")
    elif how == "silent":
        setup.hub.faults.append(Fault("/api/", stall=True))
        access = replace(access, timeout_seconds=0.3)
    else:
        setup.hub.faults.append(Fault("/api/", status=503))
    again = setup.resolve(dtype="auto", access=access)
    assert (again.path, again.dtype) == (spec.path, "q8")
    assert again.notes[0].startswith(NAME)
    assert "using the cache" in again.notes[0]
    assert setup.repo.head[:8] in again.notes[0]
    with pytest.raises(ModelNotFoundError, match="has no fp16 file; it has q8"):
        setup.resolve(dtype="fp16", access=access)


def test_refused_access_is_not_hidden_by_the_cache(setup: Setup) -> None:
    setup.resolve()
    setup.hub.faults.append(Fault("/api/", status=401))
    with pytest.raises(ModelNotFoundError, match="or private"):
        setup.resolve()


def test_offline(setup: Setup) -> None:
    offline = replace(setup.access, offline=True)
    with pytest.raises(ModelNotFoundError, match=r"offline, and revision main is not in the cache .*; go online once"):
        setup.resolve(access=offline)
    spec = setup.resolve(dtype="q4")
    setup.hub.forget()
    again = setup.resolve(access=offline)
    assert (again.path, again.dtype) == (spec.path, "q4")
    assert "offline: using the cache" in again.notes[0]
    assert setup.hub.seen == []


def test_offline_without_the_weights(setup: Setup, tmp_path: Path) -> None:
    graph = write_depth_model(tmp_path / "made" / "model.onnx", external_data="model.onnx_data")
    weights = graph.with_name("model.onnx_data").read_bytes()
    setup.hub.repos["a/big"] = FakeRepo.of(
        "a/big", {"onnx/model.onnx": graph.read_bytes(), "onnx/model.onnx_data": weights}
    )
    spec = setup.resolve("a/big")
    spec.external_data[0].unlink()
    with pytest.raises(ModelNotFoundError, match=r"needs onnx/model.onnx_data, which is not in the cache"):
        setup.resolve("a/big", access=replace(setup.access, offline=True))
    assert setup.resolve("a/big").external_data == spec.external_data


# --- broken transfers, broken caches


def test_a_broken_transfer_resumes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    # it writes, and so resumes, by chunks of 10 MiB
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 256)
    setup.hub.faults.append(Fault("GET /lfs/", cut_after=700, times=1))
    told: list[tuple[str, int, int | None]] = []
    spec = setup.resolve(progress=lambda *seen: told.append(seen))
    assert [s.range for s in setup.hub.requests("GET", "/lfs/")] == ["", "bytes=512-"]
    assert spec.path.read_bytes() == setup.repo.commits[setup.repo.head]["onnx/model.onnx"]
    graph = [seen for seen in told if seen[0] == "onnx/model.onnx"]
    size = len(setup.repo.commits[setup.repo.head]["onnx/model.onnx"])
    assert graph[0] == ("onnx/model.onnx", 0, size)
    assert graph[-1] == ("onnx/model.onnx", size, size)
    assert [done for _, done, _ in graph] == sorted(done for _, done, _ in graph)


def test_stopping_a_download_leaves_nothing_half_done(setup: Setup) -> None:
    class StopError(Exception):
        pass

    def stop(_file: str, done_bytes: int, _total: int | None) -> None:
        if done_bytes:
            raise StopError

    with pytest.raises(StopError):
        setup.resolve(progress=stop)
    assert not list((setup.access.folder(NAME) / "blobs").glob("*.incomplete"))
    assert "onnx/model.onnx" not in cached_files(setup.access)
    assert setup.resolve().revision == setup.repo.head


def test_a_truncated_cache_entry_is_named_with_the_way_out(setup: Setup) -> None:
    spec = setup.resolve()
    blob = spec.path.resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    with pytest.raises(
        ModelError, match=r"damaged cache entry .*model.onnx \(\d+ of \d+ bytes\); run `streamdepth models pull"
    ) as caught:
        setup.resolve()
    assert str(spec.path) in str(caught.value)
    with pytest.raises(ModelError, match=r"damaged.*models pull someone/tiny-depth --force"):
        setup.resolve(access=replace(setup.access, offline=True))
    again = setup.resolve(force=True)
    assert again.path.read_bytes() == setup.repo.commits[setup.repo.head]["onnx/model.onnx"]


def test_a_damaged_configuration_in_the_cache(setup: Setup) -> None:
    spec = setup.resolve()
    config = spec.path.parents[1] / "config.json"
    config.resolve().write_bytes(b"{" * config.stat().st_size)
    with pytest.raises(ModelError, match=r"damaged cache entry.*config.json: not valid JSON.*--force"):
        setup.resolve()
    assert setup.resolve(force=True) == spec


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello\n", "a text file, not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"", "empty file"),
    ],
)
def test_a_repository_with_something_else_in_it(setup: Setup, content: bytes, said: str) -> None:
    setup.hub.repos["a/odd"] = FakeRepo.of("a/odd", {"onnx/model.onnx": content})
    with pytest.raises(ModelError, match=f"a/odd: .*{said}"):
        setup.resolve("a/odd")


def test_a_repository_without_onnx_files(setup: Setup) -> None:
    setup.hub.repos["a/torch"] = FakeRepo.of("a/torch", {"model.safetensors": b"x"})
    with pytest.raises(ModelNotFoundError, match="a/torch: has no ONNX files; export the model to ONNX"):
        setup.resolve("a/torch")


def test_many_at_once(setup: Setup) -> None:
    with ThreadPoolExecutor(6) as pool:
        specs = list(pool.map(lambda _: setup.resolve(dtype="q8"), range(6)))
    assert all(spec == specs[0] for spec in specs)
    assert specs[0].path.read_bytes() == setup.repo.commits[setup.repo.head]["onnx/model_quantized.onnx"]


def test_a_cache_that_cannot_be_written(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot write to the cache \(.*file.*\); set HF_HUB_CACHE"):
        setup.resolve(access=replace(setup.access, cache_dir=tmp_path / "file"))


def test_a_full_disk(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download._chmod_and_move", full)
    with pytest.raises(ModelError, match=r"no space left in the cache; free some, or set HF_HUB_CACHE"):
        setup.resolve()
    monkeypatch.undo()
    assert setup.resolve().revision == setup.repo.head


def test_a_process_killed_within_a_download(setup: Setup) -> None:
    setup.hub.faults.append(Fault("GET /lfs/", cut_after=700, stall=True, times=1))
    code = (
        "import sys; from pathlib import Path; from streamdepth.models.resolve import resolve\n"
        "from streamdepth.models.hub import HubAccess\n"
        "resolve(sys.argv[1], access=HubAccess(endpoint=sys.argv[2], cache_dir=Path(sys.argv[3])))"
    )
    arguments = [NAME, setup.hub.endpoint, str(setup.access.cache)]

    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT) as process:
        try:
            assert setup.hub.stalled.wait(30)
        finally:
            process.kill()
    assert "onnx/model.onnx" not in cached_files(setup.access)
    spec = setup.resolve()
    assert spec.path.read_bytes() == setup.repo.commits[setup.repo.head]["onnx/model.onnx"]
