"""A GPU measured: the engine against the bare ONNX Runtime session, precision, batches, CUDA graphs, 1080p streams.

    python benchmarks/gpu.py [--model M] [--size WxH] [--provider P]... [--batches 1,2,...] [--minutes 10] [--json F]

model: one setting per row. The engine reads images from host memory and returns depth to it, as in a run. Two peers use
the same graph, options and GPU and are timed in turn with it: the bare session (``session.run`` with float32 arrays;
aim: a ratio of at least 0.95), and the bound, the same session on arrays that stay on the device. The error is the mean
difference from float32 on the CPU, as a share of the range.

streams: 1, 2, 4 ... clips of 1920x1080, decoded at their own pace like cameras, in one pipeline. A count is sustained
when at most 1 % of the frames are dropped; the first count that is not ends the series. The busiest stage is given with
the share of time it works.

A setting that cannot run, or not in the time left, is skipped with the reason. ``--provider cpu`` runs everything that
does not need a GPU, to test this program.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from support.budget import Budget, numbers
from support.gpu_streams import StreamRow, measure_streams, print_streams
from support.timing import machine, side_by_side

from streamdepth.core.errors import StreamDepthError, UsageError
from streamdepth.inference import agreement, fused, nvidia
from streamdepth.inference.engine import Engine
from streamdepth.inference.preprocess import image_of
from streamdepth.inference.providers import ON_DEVICE, provider_named, why_not
from streamdepth.inference.sessions import open_session
from streamdepth.media.scene import pattern
from streamdepth.models.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.models.spec import ModelSpec


@dataclass(frozen=True)
class Setting:
    provider: str
    dtype: str
    batch: int
    graph: bool

    def __str__(self) -> str:
        return f"{self.provider} {self.dtype} batch {self.batch}{'' if self.graph else ' without CUDA graph'}"


@dataclass(frozen=True)
class ModelRow:
    """Milliseconds per frame, medians. ``ratio`` is the bare session's time divided by the engine's."""

    setting: Setting
    graph: bool
    frame_ms: float
    fps: float
    bare_ms: float
    bound_ms: float
    ratio: float
    error: float
    start_seconds: float
    note: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--size", help="network input size, fixed for CUDA graphs; default: the model's for 16:9")
    parser.add_argument("--sense", help="sense of a model whose sense is unknown")
    parser.add_argument("--provider", action="append", help="cuda, tensorrt, cpu; repeatable; default: cuda, tensorrt")
    parser.add_argument("--batches", default="1,2,4,8,16,32")
    parser.add_argument("--tensorrt-batches", default="1,8", help="each needs an engine to be built")
    parser.add_argument("--seconds", type=float, default=2.0, help="per setting")
    parser.add_argument("--streams", default="1,2,4,8,16,32")
    parser.add_argument("--stream-size", default="1920x1080")
    parser.add_argument("--stream-seconds", type=float, default=10.0)
    parser.add_argument("--minutes", type=float, default=9.5, help="settings beyond this time are skipped")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    options = parser.parse_args()
    import onnxruntime as ort  # after streamdepth, which disables its telemetry

    budget = Budget(options.minutes * 60)
    print(
        f"{machine()}; GPU {nvidia.gpu_name() or 'none'}; onnxruntime {ort.__version__}; {options.model}\n", flush=True
    )
    there = [name for name in options.provider or list(ON_DEVICE) if runs(name, budget)]
    if options.size is None:
        spec = resolve(options.model, sense=options.sense)
        options.size = "x".join(map(str, network_size(spec)))
    models: list[ModelRow] = []
    for name in there:
        measure_models(name, options, budget, models)
    print_models(models)
    streams: list[StreamRow] = []
    if there:
        measure_streams(there[0], options, budget, streams)
        print_streams(streams, options.stream_size)
    else:
        budget.skip("streams: no provider to run them on")
    if options.json is not None:
        where = {"machine": machine(), "gpu": nvidia.gpu_name(), "onnxruntime": str(ort.__version__)}
        what = {"model": options.model, "size": options.size}
        rows = {"settings": models, "streams": streams}
        values = {name: [asdict(row) for row in some] for name, some in rows.items()}
        options.json.write_text(json.dumps({**where, **what, **values, "skipped": budget.skipped}, indent=2) + "\n")


def runs(name: str, budget: Budget) -> bool:
    try:
        reason = why_not(provider_named(name))
    except StreamDepthError as error:
        reason = str(error)
    if reason:
        budget.skip(f"{name}: {reason}")
    return not reason


def network_size(spec: ModelSpec) -> tuple[int, int]:
    from streamdepth.inference.geometry import plan

    return plan(spec, 1920, 1080).net_size


def settings(provider: str, options: argparse.Namespace) -> list[Setting]:
    """float32 and half precision, then batches, then batches without CUDA graphs."""
    batches = numbers(options.tensorrt_batches if provider == "tensorrt" else options.batches)
    if provider not in ON_DEVICE:
        return [Setting(provider, "fp32", batch, graph=False) for batch in batches]
    dtypes = ["fp32", "fp16"]
    first = [Setting(provider, dtype, batches[0], graph=True) for dtype in dtypes]
    rest = [Setting(provider, "fp16", batch, graph=True) for batch in batches[1:]]
    return [*first, *rest, *(Setting(provider, "fp16", batch, graph=False) for batch in (batches[0], batches[-1]))]


def spec_for(setting: Setting, options: argparse.Namespace) -> ModelSpec:
    """The model as used with this setting, without the preprocessing that an engine adds to the graph."""
    spec = resolve(options.model, dtype="fp32", size=options.size, sense=options.sense)
    if setting.dtype == "fp32":
        return spec
    if setting.provider == "tensorrt":  # takes float32 graphs; dtype by default allows it half precision
        return replace(spec, origins={**spec.origins, "dtype": "default"})
    return fused.halved(spec)


def measure_models(provider: str, options: argparse.Namespace, budget: Budget, rows: list[ModelRow]) -> None:
    start_seconds = 0.0
    for setting in settings(provider, options):
        if budget.left_seconds() < 30 + 1.5 * start_seconds and rows:
            budget.skip(
                f"{setting}: {budget.left_seconds():.0f} s left; the last setting took {start_seconds:.0f} s to start"
            )
            continue
        print(f"{setting} ...", flush=True)
        try:
            row = measure(setting, options)
        except StreamDepthError as error:
            budget.skip(f"{setting}: {error}")
            continue
        start_seconds = row.start_seconds
        rows.append(row)
        if setting.graph and not row.graph:
            budget.skip(f"CUDA graph of {setting}: {row.note or 'not recorded'}")


def measure(setting: Setting, options: argparse.Namespace) -> ModelRow:
    spec = spec_for(setting, options)
    started = time.monotonic()
    engine = Engine(spec, provider=setting.provider, batch=setting.batch, cuda_graph=setting.graph)
    try:
        engine.check(1920, 1080)
        start_seconds = time.monotonic() - started
        image = image_of(pattern(1920, 1080))
        slot = engine.acquire(engine.network_size(1920, 1080))
        for row in range(engine.batch):
            slot.write(row, image)
        if engine.batch != setting.batch:
            raise UsageError(f"its graph takes {engine.batch} images at once")
        # a graph of batch 1 runs images one by one; so must its peers
        turns = setting.batch // engine.rows_per_run
        fed = agreement.inputs(spec)
        if spec.fixed_batch is None:
            fed = batch_of(fed, setting.batch)
        bare = open_session(spec, setting.provider, batch=setting.batch, graph=False)
        output = spec.depth_output.name
        bound = bound_run(bare.session, fed, output, bare.device or "cpu")
        times = side_by_side(
            {
                "ours": lambda: engine.run(slot, engine.batch),
                "bare": in_turn(lambda: bare.session.run([output], fed), turns),
                "bound": in_turn(bound, turns),
            },
            rounds=200,
            seconds=options.seconds,
        )
        each = {name: timing.median_ms / setting.batch for name, timing in times.items()}
        return ModelRow(
            setting,
            engine.cuda_graph,
            frame_ms=round(each["ours"], 4),
            fps=round(1000 / each["ours"], 1),
            bare_ms=round(each["bare"], 4),
            bound_ms=round(each["bound"], 4),
            ratio=round(each["bare"] / each["ours"], 3),
            error=round(error_of(spec, bare.session, options), 6),
            start_seconds=round(start_seconds, 1),
            note=engine.note,
        )
    finally:
        engine.close()


def batch_of(fed: dict[str, Any], batch: int) -> dict[str, Any]:
    """Inputs of the built-in image, repeated ``batch`` times."""
    return {name: np.repeat(value, batch, axis=0) for name, value in fed.items()}


def bound_run(session: Any, fed: dict[str, Any], output: str, device: str) -> Callable[[], object]:
    """A run of the session on inputs that stay on the device."""
    import onnxruntime as ort

    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(v), device, 0) for name, v in fed.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output(output, device)
    return lambda: (session.run_with_iobinding(binding), values)


def in_turn(run: Callable[[], object], turns: int) -> Callable[[], object]:
    return lambda: [run() for _ in range(turns)]


def error_of(spec: ModelSpec, session: Any, options: argparse.Namespace) -> float:
    truth = resolve(options.model, dtype="fp32", size=options.size, sense=options.sense)
    fed, output = agreement.inputs(truth), truth.depth_output.name
    wanted = np.asarray(open_session(truth, "cpu").session.run([output], fed)[0], np.float64)
    got = np.asarray(session.run([spec.depth_output.name], agreement.inputs(spec))[0], np.float64)
    return float(np.abs(got - wanted).mean() / max(float(np.ptp(wanted)), 1e-20))


def print_models(rows: list[ModelRow]) -> None:
    if not rows:
        return
    print("\n| setting | CUDA graph | ours, ms / frame | fps | bare session | ratio | no copies | error | start |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.setting} | {'yes' if row.graph else 'no'} | {row.frame_ms:.3f} | {row.fps:.0f} "
            f"| {row.bare_ms:.3f} ms | {row.ratio:.2f} | {row.bound_ms:.3f} ms | {row.error:.1e} "
            f"| {row.start_seconds:.0f} s |"
        )
    print()


if __name__ == "__main__":
    try:
        main()
    except StreamDepthError as error:  # the model itself cannot be loaded
        raise SystemExit(str(error)) from None
