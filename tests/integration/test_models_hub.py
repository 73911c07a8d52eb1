"""Models by Hub name, through ``huggingface_hub`` itself, against a Hub on 127.0.0.1."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.image.estimator import DepthEstimator
from streamdepth.inference.ort import session_options
from streamdepth.media.scene import pattern
from streamdepth.models.spec import Preprocessing
from tests.support.families import AX1, F, conv, node, write
from tests.support.hub import SUFFIX, FakeRepo
from tests.support.hub_model import KEY, NAME, Setup, cached_files, files_of_all_dtypes, hub_with_model
from tests.support.models import expected_depth, write_depth_model
from tests.support.paths import ROOT

LARGE = pytest.mark.skipif(
    "STREAMDEPTH_LARGE_MODEL" not in os.environ,
    reason="takes 7 GB of memory and a minute; set STREAMDEPTH_LARGE_MODEL=1",
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec


@pytest.fixture(scope="module")
def all_dtypes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of_all_dtypes(tmp_path_factory.mktemp("dtypes"))


@pytest.fixture
def setup(all_dtypes: dict[str, bytes], tmp_path: Path) -> Iterator[Setup]:
    with hub_with_model(all_dtypes, tmp_path / "cache") as made:
        yield made


def run(spec: ModelSpec, image_hwc: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(spec.path), session_options(None), providers=["CPUExecutionProvider"])
    fed = {spec.image_input.name: np.ascontiguousarray(image_hwc.transpose(2, 0, 1)[None])}
    return np.asarray(session.run([spec.depth_output.name], fed)[0][0])


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
    assert (spec.preprocessing.width_px, spec.preprocessing.longest_side) == (504, True)
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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("megabytes", [1, pytest.param(2200, marks=[pytest.mark.slow, LARGE])])
def test_linked_weights_run_with_the_default_provider(
    setup: Setup, tmp_path: Path, megabytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache that huggingface_hub lays out, offline; depth depends on the last value of the weights."""
    values = np.zeros(megabytes * 250_000, np.float32)
    values[-1] = 3
    first, weights = conv("pixel_values", "c")
    nodes = [first, node("Gather", ["large", "last"], "g"), node("Mul", ["c", "g"], "m")]
    nodes.append(node("Squeeze", ["m", "ax1"], "predicted_depth"))
    constants = [weights, AX1, ("last", np.array([values.size - 1]))]
    graph = write(
        tmp_path / "model.onnx",
        nodes,
        [("pixel_values", F, [1, 3, 28, 42])],
        [("predicted_depth", F, [1, 28, 42])],
        constants,
    )
    model = onnx.load(graph)
    large = model.graph.initializer.add(name="large", data_type=F, dims=[values.size], data_location=1)
    for key, value in (("location", "model.onnx_data"), ("offset", "0"), ("length", str(values.nbytes))):
        large.external_data.add(key=key, value=value)
    files = {"onnx/model.onnx": model.SerializeToString(), "onnx/model.onnx_data": values.tobytes()}
    setup.hub.repos["a/linked"] = FakeRepo.of("a/linked", files)
    del files, values
    # this Hub computes the digests of its files for each answer
    spec = setup.resolve("a/linked", access=replace(setup.access, timeout_seconds=300))
    assert spec.path.is_symlink()
    assert spec.external_data[0].is_symlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    image = pattern(42, 28)
    with DepthEstimator("a/linked", cache_dir=setup.access.cache, sense="relative_inverse") as estimator:
        found = estimator(image).data
    chw = (image / np.float32(255) - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    expected = (chw @ weights[1].reshape(3)) * 3
    assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)  # OpenVINO may compute in bfloat16


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


# --- the environment, which huggingface_hub reads when it is imported


@pytest.mark.slow
def test_the_environment_in_a_process_of_its_own(setup: Setup, tmp_path: Path) -> None:
    code = (
        "import sys; from streamdepth.models.resolve import resolve\n"
        "from streamdepth.core.errors import StreamDepthError\n"
        "try: spec = resolve(sys.argv[1], dtype='q8')\n"
        "except StreamDepthError as exc: sys.exit(f'{type(exc).__name__}: {exc}')\n"
        "print(spec.path, spec.notes)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {
        "HF_ENDPOINT": setup.hub.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "elsewhere"),
        "HF_TOKEN": KEY,
        "PYTHONPATH": str(ROOT),
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
    from streamdepth.image.estimator import DepthEstimator

    monkeypatch.setenv("HF_ENDPOINT", setup.hub.endpoint)
    image = np.random.default_rng(2).integers(0, 256, (60, 80, 3), np.uint8)
    depth = {}
    for dtype in SUFFIX:
        estimator = DepthEstimator(NAME, dtype=dtype, provider="cpu", size=56, cache_dir=setup.access.cache)
        try:
            depth[dtype] = estimator(image).data
        finally:
            estimator.close()
    span = float(np.ptp(depth["fp32"]))
    errors = {dtype: float(np.abs(values - depth["fp32"]).max()) / span for dtype, values in depth.items()}
    assert {dtype for dtype, error in errors.items() if error > 0.01} == set()
