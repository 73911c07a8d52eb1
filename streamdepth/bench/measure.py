"""Measurement of a model in one setting, of each stage alone, and of a whole run."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from streamdepth.core.errors import StreamDepthError
from streamdepth.core.frame import DepthRange, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import DepthMap, Frame, StreamInfo
    from streamdepth.core.look import Look
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.model import DepthModel, EngineSource

_LEAST_RUNS, _MOST_RUNS = 3, 50
_AVAILABLE = 0.9
_JOIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The model alone, in one setting.

    Attributes:
        size: network input, ``WxH``.
        frame_ms: median milliseconds per frame. None if the setting does not run; ``note`` says why.
        cpu_ms: CPU milliseconds per frame, all threads.
        batch_ms: median milliseconds per batch.
        correlation: with the depth of the same image on the CPU provider; None if nothing was compared.
    """

    provider: str
    dtype: str
    size: str
    batch: int
    frame_ms: float | None = None
    cpu_ms: float | None = None
    batch_ms: float | None = None
    correlation: float | None = None
    note: str = ""

    @property
    def key(self) -> str:
        return f"{self.provider} {self.dtype} {self.size} batch {self.batch}"

    @property
    def options(self) -> str:
        """The setting as command-line options."""
        return f"--provider {self.provider} --dtype {self.dtype} --size {self.size} --batch {self.batch}"


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage alone, with its own threads: milliseconds per frame."""

    name: str
    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class WholeRun:
    """All stages at the same time, as in ``streamdepth run``.

    Attributes:
        bound_fps: frames per second if the cores only decoded, inferred and encoded.
        efficiency: ``fps / bound_fps``.
        idle: share of the cores' time that this process did not use: it waited, or other processes ran.
        elsewhere_cpu_ms: CPU milliseconds per frame beyond the sum of the stages.
        model_every: frames per run of the model; depth of the others was propagated.
    """

    frames: int
    fps: float
    cpu_ms: float
    bound_fps: float
    efficiency: float
    idle: float
    elsewhere_cpu_ms: float
    model_every: int = 1


class Stopwatch(Protocol):
    """Seconds of wall time and of this process's CPU time, both from an arbitrary start."""

    def __call__(self) -> tuple[float, float]: ...


def system_stopwatch() -> tuple[float, float]:
    """The clocks of the machine."""
    return time.monotonic(), time.process_time()


def busy_note(cores: int, stopwatch: Stopwatch = system_stopwatch, seconds: float = 0.2) -> str:
    """Note that other processes use the machine, empty if this one gets 90 % of the CPU time it asks for.

    Args:
        seconds: for which every core is kept busy.
    """
    ended = threading.Event()
    threads = [threading.Thread(target=_spin, args=(ended,), name=f"busy-{core}") for core in range(cores)]
    started = stopwatch()
    for thread in threads:
        thread.start()
    ended.wait(seconds)
    ended.set()
    for thread in threads:
        thread.join(_JOIN_SECONDS)
    wall, cpu = (now - then for now, then in zip(stopwatch(), started, strict=True))
    available = cpu / (wall * cores) if wall > 0 else 1.0
    if available >= _AVAILABLE:
        return ""
    return f"the machine is busy: {available:.0%} of the CPU time was available; repeat when idle"


def _spin(ended: threading.Event) -> None:
    data = bytes(1 << 16)
    while not ended.is_set():
        hashlib.sha256(data)  # without the interpreter's lock


@dataclass(frozen=True, slots=True)
class Clip:
    """Decoded frames to run each stage on."""

    info: StreamInfo
    frames: tuple[Frame, ...]
    decode: StageCost


def read_clip(source: Source, most_frames: int, stopwatch: Stopwatch = system_stopwatch) -> Clip:
    """Decode and time up to ``most_frames`` frames. Closes the source.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        info = source.open()
        with timed("decode", stopwatch) as decode:
            frames = tuple(islice(source.frames(), most_frames))
    finally:
        source.close()
    return Clip(info, frames, decode.cost(len(frames)))


class timed:  # noqa: N801 - a context manager
    """Sum of the times of its ``with`` blocks."""

    def __init__(self, name: str, stopwatch: Stopwatch) -> None:
        self._name, self._stopwatch = name, stopwatch
        self.wall_seconds = self.cpu_seconds = 0.0

    def __enter__(self) -> timed:
        self._started = self._stopwatch()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._stopwatch()
        self.wall_seconds += wall - self._started[0]
        self.cpu_seconds += cpu - self._started[1]

    def cost(self, frames: int) -> StageCost:
        """The sum divided by a number of frames."""
        each = 1e3 / max(1, frames)
        return StageCost(self._name, round(self.wall_seconds * each, 4), round(self.cpu_seconds * each, 4))


def measure_model(
    model: DepthModel, batch: int, image: Frame, seconds: float, stopwatch: Stopwatch = system_stopwatch
) -> tuple[ModelRun, NDArray[np.float32] | None]:
    """Run the model for about ``seconds`` in batches of ``batch``.

    Returns:
        The times, and the depth of ``image``. If the setting does not run, the note says why and depth is None.
    """
    spec = model.spec
    try:
        engine = model.engine(batch=batch)
    except StreamDepthError as error:
        return ModelRun(model.provider, spec.dtype, "-", batch, note=str(error)), None
    try:
        size = engine.network_size(image.width_px, image.height_px)
        name = f"{size[0]}x{size[1]}"
        if engine.batch != batch or (engine.rows_per_run == 1 and batch > 1):
            note = f"its graph takes {engine.rows_per_run} images at once"
            return ModelRun(engine.provider, spec.dtype, name, batch, note=note), None
        slot = engine.acquire(size)
        for row in range(batch):
            slot.write(row, image.image)
        depth = engine.run(slot, batch)[0].values.copy()
        walls: list[float] = []
        cpus: list[float] = []
        while len(walls) < _LEAST_RUNS or (sum(walls) < seconds and len(walls) < _MOST_RUNS):
            with timed("model", stopwatch) as run:
                engine.run(slot, batch)
            walls.append(run.wall_seconds)
            cpus.append(run.cpu_seconds)
        wall_ms = statistics.median(walls) * 1e3
        return (
            ModelRun(
                engine.provider,
                spec.dtype,
                name,
                batch,
                frame_ms=round(wall_ms / batch, 4),
                cpu_ms=round(statistics.fmean(cpus) * 1e3 / batch, 4),
                batch_ms=round(wall_ms, 4),
                note=engine.note,
            ),
            depth,
        )
    except StreamDepthError as error:
        return ModelRun(engine.provider, spec.dtype, "-", batch, note=str(error)), None
    finally:
        engine.close()


def correlation(depth: NDArray[np.float32], reference: NDArray[np.float32]) -> float | None:
    """Pearson's correlation, None if shapes differ or either is flat."""
    from streamdepth.inference.agreement import difference

    found = difference(depth, reference).correlation if depth.shape == reference.shape else None
    return None if found is None else round(found, 6)


def measure_stages(
    clip: Clip, engine: Engine, look: Look, stopwatch: Stopwatch = system_stopwatch
) -> tuple[StageCost, ...]:
    """Run each stage alone over the whole clip, so that none waits for another.

    Every frame is encoded with its own depth: a static overlay encodes in 3/4 of the time. All frames are coloured
    before the first is encoded: the threads of an encoder work on while the next frame is coloured.
    """
    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.look import LookControl
    from streamdepth.sinks.video import VideoSink

    frames = clip.frames
    prepare, model, colorize, encode = (timed(name, stopwatch) for name in ("prepare", "model", "colorize", "encode"))
    slot = engine.acquire(engine.network_size(clip.info.width_px, clip.info.height_px))
    slot.write(0, frames[0].image)
    engine.run(slot, 1)
    depths: list[DepthMap] = []
    for frame in frames:
        with prepare:
            slot.write(0, frame.image)
        with model:
            depths += engine.run(slot, 1)
    span = _span(depths)
    with Colorizer(clip.info) as colorizer, tempfile.TemporaryDirectory(prefix="streamdepth-bench-") as folder:
        colorizer.render(frames[0].image, depths[0], span, look)
        with colorize:
            images = [
                colorizer.render(frame.image, depth, span, look) for frame, depth in zip(frames, depths, strict=True)
            ]
        sink = VideoSink(Path(folder) / "stages.mkv", control=LookControl(look), copy_sound=False)
        sink.open(clip.info, colorizer.image_info(look))
        results = [Result(*parts) for parts in zip(frames, depths, repeat(span), images, strict=False)]
        try:
            with encode:
                for result in results:
                    sink.process(result)
                sink.flush()
        finally:
            sink.close()
    return (clip.decode, *(each.cost(len(frames)) for each in (prepare, model, colorize, encode)))


def _span(depths: Sequence[DepthMap]) -> DepthRange:
    """The common range of all depth maps, as of one shot."""
    from streamdepth.depth.range import PERCENTILES, measure

    samples = np.concatenate([measure(depth).samples for depth in depths])
    lo, hi = np.percentile(samples, PERCENTILES) if samples.size else (0.0, 0.0)
    return DepthRange(float(lo), float(hi))


def measure_whole(
    source: Source,
    model: EngineSource,
    look: Look,
    stages: tuple[StageCost, ...],
    *,
    cores: int,
    batch: int = 1,
    model_every: int = 1,
    stopwatch: Stopwatch = system_stopwatch,
) -> WholeRun:
    """Run a pipeline from source to encoded file, and compare it with the costs of the stages."""
    from streamdepth.core.look import LookControl
    from streamdepth.pipeline import Pipeline
    from streamdepth.sinks.video import VideoSink

    with tempfile.TemporaryDirectory(prefix="streamdepth-bench-") as folder:
        sink = VideoSink(Path(folder) / "whole.mkv", control=LookControl(look), copy_sound=False)
        pipeline = Pipeline([source], model, [sink], batch=batch, model_every=model_every)
        with pipeline, timed("whole", stopwatch) as whole:
            stats = pipeline.run()
    return summary(whole.wall_seconds, whole.cpu_seconds, stats.processed, stages, cores, model_every)


def summary(
    wall_seconds: float,
    cpu_seconds: float,
    frames: int,
    stages: tuple[StageCost, ...],
    cores: int,
    model_every: int = 1,
) -> WholeRun:
    """A whole run compared with its stages."""
    frames_per_run = {"prepare": model_every, "model": model_every}
    costs = {stage.name: stage.cpu_ms / frames_per_run.get(stage.name, 1) for stage in stages}
    unavoidable_ms = sum(costs.get(name, 0.0) for name in ("decode", "model", "encode"))
    fps = frames / wall_seconds if wall_seconds > 0 else 0.0
    cpu_ms = cpu_seconds / max(1, frames) * 1e3
    bound_fps = cores * 1e3 / unavoidable_ms if unavoidable_ms > 0 else 0.0
    return WholeRun(
        frames=frames,
        fps=round(fps, 2),
        cpu_ms=round(cpu_ms, 3),
        bound_fps=round(bound_fps, 2),
        efficiency=round(fps / bound_fps, 3) if bound_fps else 0.0,
        idle=round(max(0.0, 1 - cpu_seconds / (wall_seconds * cores)), 3) if wall_seconds > 0 else 0.0,
        elsewhere_cpu_ms=round(cpu_ms - sum(costs.values()), 3),
        model_every=model_every,
    )
