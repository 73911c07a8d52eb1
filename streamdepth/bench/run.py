"""The benchmark: every available provider in every requested setting, then the stages of a run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.bench.measure import (
    ModelRun,
    StageCost,
    Stopwatch,
    WholeRun,
    busy_note,
    correlation,
    measure_model,
    measure_stages,
    measure_whole,
    read_clip,
    system_stopwatch,
)
from streamdepth.core.errors import StreamDepthError, UsageError, plain_reason
from streamdepth.core.host import cores
from streamdepth.pipeline.batching import WORTH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.bench.measure import Clip
    from streamdepth.core.contracts import Source
    from streamdepth.inference.model import DepthModel

_TEST_SOURCE = "test:?size=1280x720&rate=30&frames={frames}"
_PROPAGATION = 4
"""``--model-every`` of the second whole run: depth then differs from the model's by 1 to 3 % of the range
(benchmarks/propagation.py)."""
_MOST_LATENCY_MS = 1000.0
_LEAST_CORRELATION = 0.999
FORMAT = 1
_NOISE = 0.1
"""Relative difference of two measurements of the same thing on an idle machine."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All results.

    Attributes:
        recommended: one of ``runs``, None if nothing ran.
        propagating: as ``whole``, with depth propagated between key frames.
    """

    machine: Mapping[str, str]
    model: str
    source: str
    runs: tuple[ModelRun, ...]
    stages: tuple[StageCost, ...]
    whole: WholeRun | None
    recommended: ModelRun | None
    notes: tuple[str, ...] = ()
    propagating: WholeRun | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT, **asdict(self), "machine": dict(self.machine)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BenchReport:
        """
        Raises:
            ValueError, TypeError, KeyError: not such a report.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, not {FORMAT}")
        return cls(
            machine={str(key): str(value) for key, value in values["machine"].items()},
            model=str(values["model"]),
            source=str(values["source"]),
            runs=tuple(ModelRun(**run) for run in values["runs"]),
            stages=tuple(StageCost(**stage) for stage in values["stages"]),
            whole=None if values["whole"] is None else WholeRun(**values["whole"]),
            recommended=None if values["recommended"] is None else ModelRun(**values["recommended"]),
            notes=tuple(values["notes"]),
            propagating=None if values.get("propagating") is None else WholeRun(**values["propagating"]),
        )

    def values_ms(self) -> dict[str, float]:
        """Name -> milliseconds per frame, for comparison."""
        values = {f"model {run.key}": run.frame_ms for run in self.runs if run.frame_ms is not None}
        values |= {f"stage {stage.name} (CPU)": stage.cpu_ms for stage in self.stages}
        if self.whole is not None and self.whole.fps > 0:
            values["whole run"] = 1000 / self.whole.fps
            values["whole run (CPU)"] = self.whole.cpu_ms
        if self.propagating is not None and self.propagating.fps > 0:
            values[f"whole run, --model-every {self.propagating.model_every}"] = 1000 / self.propagating.fps
        return values


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value before and now, in milliseconds per frame."""

    name: str
    before_ms: float
    now_ms: float

    @property
    def ratio(self) -> float:
        """Above 1: faster now."""
        return self.before_ms / self.now_ms if self.now_ms > 0 else float("inf")

    @property
    def outcome(self) -> str:
        """``faster``, ``slower``, or ``same`` within a tenth."""
        if self.ratio > 1 + _NOISE:
            return "faster"
        return "slower" if self.ratio < 1 / (1 + _NOISE) else "same"


def compare(before: BenchReport, now: BenchReport) -> tuple[Comparison, ...]:
    """The values that both reports have, in the order of ``now``."""
    then = before.values_ms()
    return tuple(Comparison(name, then[name], value) for name, value in now.values_ms().items() if name in then)


def load_report(path: Path) -> BenchReport:
    """A report written with ``bench --json``.

    Raises:
        UsageError: it cannot be read or is not such a report.
    """
    try:
        return BenchReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"report {path}: {plain_reason(error)}; give a file written with bench --json") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"report {path}: not a report of bench --json ({error}); write it again") from None


def bench(
    source: str | None = None,
    model: str | Path = "built-in",
    *,
    providers: Sequence[str] = (),
    dtypes: Sequence[str] = ("auto",),
    sizes: Sequence[str] = (),
    batches: Sequence[int] = (1, 2, 4),
    frames: int = 150,
    seconds: float = 1.0,
    threads: int | None = None,
    sense: str | None = None,
    revision: str | None = None,
    progress: Callable[[str], None] | None = None,
    stopwatch: Stopwatch = system_stopwatch,
) -> BenchReport:
    """Measure a model in several settings, recommend one, and measure the stages of a run with it.

    Args:
        source: a clip, named as for ``streamdepth run``; None = a synthetic one of 1280x720.
        providers: names; () = all available ones. A named provider that is not available is reported with the reason.
        dtypes: of the model's files; a missing one is reported.
        sizes: network sizes; () = the model's own.
        batches: frames per model run.
        frames: of the source, at most.
        seconds: for each setting of the model.
        progress: called with what is measured next.
    Raises:
        UsageError: nothing to measure. StreamDepthError: the source cannot be read, or no setting runs.
    """
    if not dtypes or not batches or min(batches) < 1 or frames < 1 or seconds <= 0:
        raise UsageError("bench needs a dtype, batches and frames of 1 or more, and more than 0 seconds")
    from streamdepth.inference.model import DepthModel
    from streamdepth.sources.select import source_for

    say = progress or (lambda _: None)
    load = partial(DepthModel, model, threads=threads, sense=sense, revision=revision)
    with ExitStack() as stack:
        if source is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamdepth-bench-"))
            say("encoding a synthetic clip")
            source = str(synthetic_clip(Path(folder) / "synthetic 1280x720.mkv", frames))
        opened = source_for(source, max_frames=frames)
        if opened.live:
            raise UsageError(f"{opened.id} is live, its frame rate is fixed; measure with a file")
        say(f"decoding {opened.id}")
        clip = read_clip(opened, frames, stopwatch)
        if not clip.frames:
            raise UsageError(f"{opened.id} has no frames to measure with")
        busy = busy_note(cores(), stopwatch)
        runs: list[ModelRun] = []
        references: dict[str, NDArray[np.float32]] = {}
        for provider, dtype, size in product(_providers(providers), dtypes, sizes or ("",)):
            of_batches = partial(_settings, load, clip, references, provider, dtype, size, sorted(set(batches)))
            runs += of_batches(seconds=seconds, say=say, stopwatch=stopwatch)
        best = recommend(runs)
        if best is None:
            raise StreamDepthError(f"{model}: no setting runs here: {'; '.join(dict.fromkeys(r.note for r in runs))}")
        say(f"stages with {best.key}")
        chosen = load(dtype=best.dtype, size=best.size, provider=best.provider)
        again = partial(source_for, source, max_frames=frames)
        stages, whole, propagating = _whole(chosen, lambda: opened.again() or again(), clip, best.batch, stopwatch)
    spec, notes = chosen.spec, (*chosen.spec.notes, *((busy,) if busy else ()))
    return BenchReport(machine(), spec.name, opened.id, tuple(runs), stages, whole, best, notes, propagating)


def recommend(runs: Sequence[ModelRun]) -> ModelRun | None:
    """The fastest setting that agrees with the CPU, at the size measured first, with the smallest sufficient batch."""
    good = [
        run
        for run in runs
        if run.frame_ms is not None and (run.correlation is None or run.correlation >= _LEAST_CORRELATION)
    ]
    good = [run for run in good if run.size == good[0].size]
    prompt = [run for run in good if (run.batch_ms or 0) <= _MOST_LATENCY_MS] or [r for r in good if r.batch == 1]
    best: ModelRun | None = None
    for run in sorted(prompt, key=lambda run: run.batch):
        if best is None or (run.frame_ms or 0) * (WORTH if run.batch > best.batch else 1) < (best.frame_ms or 0):
            best = run
    return best


def machine() -> dict[str, str]:
    """Properties of the machine that the results depend on."""
    import onnxruntime

    names = {"av", "numba", "numpy"}
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "onnxruntime": str(onnxruntime.__version__),
        **{name: importlib.metadata.version(name) for name in sorted(names)},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def synthetic_clip(path: Path, frames: int) -> Path:
    """Encode ``frames`` frames of the synthetic scene as H.264, 1280x720 at 30 fps."""
    import av

    from streamdepth.sources.select import source_for

    source = source_for(_TEST_SOURCE.format(frames=frames))
    source.open()
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "20"})
            stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
            for frame in source.frames():
                container.mux(stream.encode(frame.image.reformat(format="yuv420p")))
            container.mux(stream.encode(None))
    finally:
        source.close()
    return path


def _providers(named: Sequence[str]) -> list[str]:
    from streamdepth.inference.providers import all_providers, why_not

    # The CPU first: others are compared with it.
    names = list(named) or [provider.name for provider in all_providers() if not why_not(provider)]
    return sorted(dict.fromkeys(names), key=lambda name: name != "cpu")


def _settings(
    load: Callable[..., DepthModel],
    clip: Clip,
    references: dict[str, NDArray[np.float32]],
    provider: str,
    dtype: str,
    size: str,
    batches: Sequence[int],
    *,
    seconds: float,
    say: Callable[[str], None],
    stopwatch: Stopwatch,
) -> list[ModelRun]:
    found: list[ModelRun] = []
    try:
        depth_model = load(dtype=dtype, size=size or None, provider=provider, on_status=say)
    except StreamDepthError as error:
        return [ModelRun(provider, dtype, size or "-", batches[0], note=str(error))]
    for batch in batches:
        say(f"{provider} {depth_model.spec.dtype} {size} batch {batch}".replace("  ", " "))
        run, depth = measure_model(depth_model, batch, clip.frames[0], seconds, stopwatch)
        if depth is not None and provider == "cpu":
            references.setdefault(run.size, depth)
        if depth is not None and run.size in references and depth is not references[run.size]:
            run = replace(run, correlation=correlation(depth, references[run.size]))
        found.append(run)
        if run.frame_ms is None or (run.batch_ms or 0) > _MOST_LATENCY_MS:
            break
    return found


def _whole(
    model: DepthModel, again: Callable[[], Source], clip: Clip, batch: int, stopwatch: Stopwatch
) -> tuple[tuple[StageCost, ...], WholeRun, WholeRun]:
    """The stages alone, a whole run, and a whole run with propagation; ``again`` opens the source anew."""
    from streamdepth.core.look import Look, View

    look = Look(alpha=(0.6, 0.6), view=View.OVERLAY)
    engine = model.engine(workers=2)  # as in a run of a file
    try:
        stages = measure_stages(clip, engine, look, stopwatch)
    finally:
        engine.close()

    run = partial(measure_whole, model=model, look=look, stages=stages, cores=cores(), batch=batch, stopwatch=stopwatch)
    return stages, run(again()), run(again(), model_every=_PROPAGATION)
