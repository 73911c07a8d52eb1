"""Models by Hub name, through ``huggingface_hub`` itself, against a Hub on 127.0.0.1."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.errors import DeadlineError, ModelError, ModelNotFoundError, StreamDepthError, UsageError
from streamdepth.frame import Sense
from streamdepth.models.hub import HubAccess, fetch, list_repository
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from tests.support.hub import DA_PREPROCESSOR, SUFFIX, FakeHub, FakeRepo, Fault, write_all_dtypes
from tests.support.models import expected_depth, write_depth_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.models.spec import ModelSpec

NAME = "someone/tiny-depth"
KEY = "hf_privatekey12345"


@pytest.fixture(scope="module")
def all_dtypes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Path in the repository -> content."""
    paths = write_all_dtypes(tmp_path_factory.mktemp("dtypes"))
    return {f"onnx/{path.name}": path.read_bytes() for path in paths.values()}


@dataclass
class Setup:
    hub: FakeHub
    repo: FakeRepo
    access: HubAccess

    def resolve(self, name: str = NAME, **settings: Any) -> ModelSpec:
        return resolve(name, access=settings.pop("access", self.access), **settings)


@pytest.fixture
def setup(all_dtypes: dict[str, bytes], tmp_path: Path) -> Iterator[Setup]:
    repo = FakeRepo.of(
        NAME,
        {
            **all_dtypes,
            "config.json": {"model_type": "depth_anything"},
            "preprocessor_config.json": DA_PREPROCESSOR,
            "README.md": b"# tiny",
            "model.safetensors": b"weights of another kind" * 100,
        },
        licence="apache-2.0",
    )
    with FakeHub(repo) as hub:
        yield Setup(hub, repo, HubAccess(endpoint=hub.endpoint, cache_dir=tmp_path / "cache", timeout_seconds=5))


def run(spec: ModelSpec, image_hwc: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(spec.path), providers=["CPUExecutionProvider"])
    fed = {spec.image_input.name: np.ascontiguousarray(image_hwc.transpose(2, 0, 1)[None])}
    return np.asarray(session.run([spec.depth_output.name], fed)[0][0])


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cached_files(access: HubAccess, name: str = NAME) -> set[str]:
    snapshots = access.folder(name) / "snapshots"
    return {p.relative_to(snapshots).as_posix().partition("/")[2] for p in snapshots.rglob("*") if p.is_file()}


# --- what is there


@pytest.mark.parametrize("dtype", SUFFIX)
def test_every_dtype_resolves_and_runs(setup: Setup, dtype: str) -> None:
    spec = setup.resolve(dtype=dtype)
    assert spec.path.name == f"model{SUFFIX[dtype]}.onnx"
    assert (spec.dtype, spec.source, spec.revision) == (dtype, "hub", setup.repo.head)
    assert spec.preprocessing == Preprocessing()
    assert spec.sense is Sense.RELATIVE_INVERSE
    assert (spec.licence, spec.origins["licence"]) == ("apache-2.0", "config")
    assert spec.image_input.dtype == "float32"
    image = np.random.default_rng(1).random((28, 42, 3), np.float32)
    error = float(np.abs(run(spec, image) - expected_depth(image)).max())
    assert error < 0.01


def test_only_what_is_needed_is_fetched(setup: Setup) -> None:
    setup.resolve(dtype="q8")
    assert cached_files(setup.access) == {"config.json", "preprocessor_config.json", "onnx/model_quantized.onnx"}


def test_a_cached_model_costs_one_request_and_a_pinned_one_none(setup: Setup) -> None:
    first = setup.resolve(dtype="fp16")
    setup.hub.forget()
    assert setup.resolve(dtype="fp16") == first
    assert [s.method for s in setup.hub.seen] == ["GET"]
    setup.hub.forget()
    pinned = setup.resolve(dtype="fp16", revision=setup.repo.head)
    assert setup.hub.seen == []
    assert (pinned.path, pinned.revision) == (first.path, first.revision)
    setup.resolve(dtype="q4", revision=setup.repo.head)  # not cached yet
    assert setup.hub.requests("GET", "/lfs/")


@pytest.mark.parametrize(
    ("provider", "dtype"),
    [
        ("cpu", "fp32"),
        ("auto", "fp32"),
        ("cuda", "fp16"),
        ("tensorrt", "fp32"),
        ("openvino", "fp32"),
        ("novel", "fp32"),
    ],
)
def test_auto_goes_by_provider(setup: Setup, provider: str, dtype: str) -> None:
    spec = setup.resolve(provider=provider)
    assert (spec.dtype, spec.origins["dtype"]) == (dtype, "default")


def test_auto_takes_what_there_is(setup: Setup, all_dtypes: dict[str, bytes]) -> None:
    few = {k: v for k, v in all_dtypes.items() if "quantized" in k or "q4f16" in k}
    setup.hub.repos["a/few"] = FakeRepo.of("a/few", few)
    assert setup.resolve("a/few").dtype == "q8"
    assert setup.resolve("a/few", provider="cuda").dtype == "q4f16"
    with pytest.raises(
        ModelNotFoundError, match=r"a/few: has no fp32 file; it has q8, q4f16: choose one of these or auto"
    ):
        setup.resolve("a/few", dtype="fp32")


def test_the_table_knows_what_the_repository_does_not_say(setup: Setup, all_dtypes: dict[str, bytes]) -> None:
    name = "onnx-community/depth-anything-v3-small"
    setup.hub.repos[name] = FakeRepo.of(name, {"onnx/model.onnx": all_dtypes["onnx/model.onnx"]})
    spec = setup.resolve(name)
    assert (spec.sense, spec.origins["sense"]) == (Sense.RELATIVE_DEPTH, "table")
    assert spec.origins["preprocessing"] == "table"
    assert (spec.licence, spec.origins["licence"]) == ("Apache-2.0", "table")
    assert any("no preprocessor file" in note for note in spec.notes)
    assert setup.resolve(name, sense="relative_inverse").origins["sense"] == "user"
    with pytest.raises(UsageError, match=f"sense metric_m: {name} gives relative_depth; leave sense out"):
        setup.resolve(name, sense="metric_m")


def test_files_elsewhere_in_the_repository(setup: Setup, all_dtypes: dict[str, bytes]) -> None:
    graph = all_dtypes["onnx/model.onnx"]
    setup.hub.repos["a/root"] = FakeRepo.of("a/root", {"midas_v21.onnx": graph, "midas_v21_fp16.onnx": graph})
    assert setup.resolve("a/root").path.name == "midas_v21.onnx"
    setup.hub.repos["a/two"] = FakeRepo.of("a/two", {"x/small.onnx": graph, "x/large_q4.onnx": graph})
    with pytest.raises(
        ModelError, match=r"several models \(x/large_q4.onnx, x/small.onnx\); name one file, as in hf://a/two/x"
    ):
        setup.resolve("a/two")
    assert setup.resolve("hf://a/two/x/large_q4.onnx").dtype == "q4"
    with pytest.raises(
        ModelNotFoundError, match=r"a/two: has no file x/medium.onnx; it has x/large_q4.onnx, x/small.onnx"
    ):
        setup.resolve("hf://a/two/x/medium.onnx")
    with pytest.raises(UsageError, match=r"x/small.onnx is fp32; leave the dtype out"):
        setup.resolve("hf://a/two/x/small.onnx", dtype="q8")


def test_the_address_of_a_page_works(setup: Setup) -> None:
    assert setup.resolve(f"{setup.hub.endpoint}/{NAME}").revision == setup.repo.head


def test_external_data_comes_along(setup: Setup, tmp_path: Path) -> None:
    graph = write_depth_model(tmp_path / "made" / "model.onnx", external_data="model.onnx_data")
    weights = graph.with_name("model.onnx_data").read_bytes()
    files = {"onnx/model.onnx": graph.read_bytes(), "onnx/model.onnx_data": weights, "onnx/other.onnx_data": b"x"}
    setup.hub.repos["a/big"] = FakeRepo.of("a/big", files)
    spec = setup.resolve("a/big")
    assert [p.name for p in spec.external_data] == ["model.onnx_data"]
    assert cached_files(setup.access, "a/big") == {"onnx/model.onnx", "onnx/model.onnx_data"}
    image = np.random.default_rng(1).random((14, 28, 3), np.float32)
    np.testing.assert_allclose(run(spec, image), expected_depth(image), atol=1e-5)

    setup.hub.repos["a/cut"] = FakeRepo.of("a/cut", {**files, "onnx/model.onnx_data": weights[:-10]})
    with pytest.raises(ModelError, match=r"a/cut: .*model.onnx_data: truncated.*models pull a/cut --force"):
        setup.resolve("a/cut")
    setup.hub.repos["a/gone"] = FakeRepo.of("a/gone", {"onnx/model.onnx": graph.read_bytes()})
    with pytest.raises(ModelError, match=r"needs onnx/model.onnx_data, which is not in the repository"):
        setup.resolve("a/gone")


# --- revisions


def test_revisions(setup: Setup, all_dtypes: dict[str, bytes]) -> None:
    old = setup.repo.head
    setup.repo.revisions["v1"] = old
    new = setup.repo.push({"onnx/model.onnx": all_dtypes["onnx/model_fp16.onnx"]})
    assert setup.resolve().revision == new
    assert setup.resolve(revision="v1").revision == old
    assert setup.resolve(revision=old).revision == old
    with pytest.raises(ModelNotFoundError, match="has no revision 'v9'; give a branch, tag or commit"):
        setup.resolve(revision="v9")
    with pytest.raises(ModelNotFoundError, match="has no revision"):
        setup.resolve(revision="0" * 40)
    for wrong in ("../main", "a..b", "-x", "a b"):
        with pytest.raises(UsageError, match="give a branch, tag or commit"):
            setup.resolve(revision=wrong)


def test_the_cache_learns_what_a_branch_is_now(setup: Setup, all_dtypes: dict[str, bytes]) -> None:
    setup.resolve(dtype="fp32")
    new = setup.repo.push({"onnx/model.onnx": all_dtypes["onnx/model_fp16.onnx"]})
    setup.resolve(dtype="fp32")
    assert setup.resolve(dtype="fp32", access=replace(setup.access, offline=True)).revision == new


# --- tokens


def test_a_private_repository_needs_a_token(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    setup.repo.token = KEY
    with pytest.raises(ModelNotFoundError, match=r"someone/tiny-depth: not found at .* or private; .*HF_TOKEN"):
        setup.resolve()
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtoken4567")
    with pytest.raises(ModelNotFoundError) as caught:
        setup.resolve()
    assert "hf_wrongtoken4567" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", KEY)
    setup.hub.forget()
    assert setup.resolve(dtype="q8").revision == setup.repo.head
    by_server = {name: {s.authorization for s in setup.hub.seen if s.server == name} for name in ("hub", "storage")}
    assert by_server == {"hub": {"Bearer hf_privatekey12345"}, "storage": {""}}


def test_a_token_may_be_given(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    setup.repo.token = KEY
    access = replace(setup.access, token=KEY)
    assert setup.resolve(access=access).revision == setup.repo.head
    assert KEY not in repr(access)


def test_a_gated_repository(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    setup.repo.gated, setup.repo.token = True, KEY
    with pytest.raises(ModelError, match=r"gated; accept its terms at http://127.0.0.1:\d+/someone/tiny-depth and set"):
        setup.resolve()
    monkeypatch.setenv("HF_TOKEN", KEY)
    assert setup.resolve().revision == setup.repo.head


# --- refusals and failures


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "not found at .* or private"),
        (403, "access denied by .* \\(403\\)"),
        (404, "not found at"),
        (418, "refused the request \\(418\\)"),
        (429, "limits the rate"),
        (500, "is out of order \\(500\\); try again later"),
        (503, "is out of order \\(503\\)"),
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
    with pytest.raises(ModelError, match=r"someone/tiny-depth/onnx/model.onnx: .* out of order \(500\)"):
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
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=root) as process:
        try:
            assert setup.hub.stalled.wait(30)
        finally:
            process.kill()
    assert "onnx/model.onnx" not in cached_files(setup.access)
    spec = setup.resolve()
    assert spec.path.read_bytes() == setup.repo.commits[setup.repo.head]["onnx/model.onnx"]


# --- the environment, which huggingface_hub reads when it is imported


def test_the_environment_in_a_process_of_its_own(setup: Setup, tmp_path: Path) -> None:
    code = (
        "import sys; from streamdepth.models.resolve import resolve\n"
        "from streamdepth.errors import StreamDepthError\n"
        "try: spec = resolve(sys.argv[1], dtype='q8')\n"
        "except StreamDepthError as exc: sys.exit(f'{type(exc).__name__}: {exc}')\n"
        "print(spec.path, spec.notes)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {
        "HF_ENDPOINT": setup.hub.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "elsewhere"),
        "HF_TOKEN": KEY,
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    setup.repo.token = KEY

    def call(**more: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, NAME],
            env={**env, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    status, _, err = call(HF_HUB_OFFLINE="1")
    assert status == 1
    assert "ModelNotFoundError: someone/tiny-depth: offline, and revision main is not in the cache" in err
    assert setup.hub.seen == []
    status, out, err = call()
    assert (status, err) == (0, "")
    assert str(tmp_path / "elsewhere") in out
    setup.hub.forget()
    status, out, _ = call(HF_HUB_OFFLINE="1")
    assert status == 0
    assert "offline: using the cache" in out
    assert setup.hub.seen == []


# --- all the way to depth


def test_every_dtype_gives_the_same_depth(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamdepth.estimator import DepthEstimator

    monkeypatch.setenv("HF_ENDPOINT", setup.hub.endpoint)
    picture = np.random.default_rng(2).integers(0, 256, (60, 80, 3), np.uint8)
    depth = {}
    for dtype in SUFFIX:
        estimator = DepthEstimator(NAME, dtype=dtype, provider="cpu", size=56, cache_dir=setup.access.cache)
        try:
            depth[dtype] = estimator(picture).data
        finally:
            estimator.close()
    span = float(np.ptp(depth["fp32"]))
    errors = {dtype: float(np.abs(values - depth["fp32"]).max()) / span for dtype, values in depth.items()}
    assert {dtype for dtype, error in errors.items() if error > 0.01} == set()
