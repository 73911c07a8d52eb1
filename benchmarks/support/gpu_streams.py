"""The number of 1080p streams that one GPU sustains."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av

from streamdepth.core.errors import StreamDepthError
from streamdepth.core.host import cores
from streamdepth.core.look import Look, View
from streamdepth.image.estimator import DepthEstimator
from streamdepth.pipeline import Pipeline, RunStats
from streamdepth.sinks.select import sink_for
from streamdepth.sources.select import source_for
from support.budget import Budget, numbers

if TYPE_CHECKING:
    import argparse

    from streamdepth.core.contracts import Source

_SUSTAINED = 0.01
_RATE = 30
_LOOK = Look(alpha=(0.6, 0.6), view=View.OVERLAY)


@dataclass(frozen=True)
class StreamRow:
    streams: int
    provider: str
    batch: int
    seen_fps: float
    dropped: float
    latency_p95_ms: float | None
    model_ms: float
    busiest: str
    busy: float
    cpu: float

    @property
    def sustained(self) -> bool:
        return self.dropped <= _SUSTAINED


def measure_streams(provider: str, options: argparse.Namespace, budget: Budget, rows: list[StreamRow]) -> None:
    width, height = map(int, options.stream_size.split("x"))
    with tempfile.TemporaryDirectory(prefix="streamdepth-gpu-") as folder:
        clip = make_clip(Path(folder) / "clip.mkv", width, height, int(options.stream_seconds * _RATE))
        with DepthEstimator(options.model, provider=provider, size=options.size, sense=options.sense) as estimator:
            stream([source_for(str(clip), max_frames=_RATE)], estimator)  # not counted: compiles kernels
            for count in numbers(options.streams):
                if budget.left_seconds() < 20 + 2 * options.stream_seconds:
                    budget.skip(f"{count} streams: {budget.left_seconds():.0f} s left")
                    continue
                print(f"{count} streams ...", flush=True)
                try:
                    row = stream([source_for(str(clip)) for _ in range(count)], estimator)
                except StreamDepthError as error:
                    budget.skip(f"{count} streams: {error}")
                    return
                rows.append(row)
                if not row.sustained:
                    return


def make_clip(path: Path, width: int, height: int, frames: int) -> Path:
    """The built-in scene in H.264 as cameras send it: one key frame per second, no B-frames."""
    source = source_for(f"test:?size={width}x{height}&rate={_RATE}&frames={min(frames, 2 * _RATE)}")
    source.open()
    images = [frame.image.reformat(format="yuv420p") for frame in source.frames()]
    source.close()
    with av.open(str(path), "w") as container:
        encoding = {"preset": "veryfast", "crf": "23", "tune": "zerolatency", "g": str(_RATE)}
        video = container.add_stream("libx264", rate=_RATE, options=encoding)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            image = images[number % len(images)]
            image.pts, image.time_base = number, Fraction(1, _RATE)
            container.mux(video.encode(image))
        container.mux(video.encode(None))
    return path


def stream(sources: list[Source], estimator: DepthEstimator) -> StreamRow:
    count = len(sources)
    cpu = time.process_time()
    with Pipeline(
        sources, estimator, lambda _: [sink_for("null:", look=_LOOK)], policy="latest", batch=min(count, 32)
    ) as pipeline:
        stats = pipeline.run()
    cpu_share = (time.process_time() - cpu) / max(stats.seconds, 1e-9) / cores()
    busiest, busy = bounded_by(stats, count)
    return StreamRow(
        streams=count,
        provider=stats.provider,
        batch=stats.batch,
        seen_fps=round(stats.processed / stats.seconds / count, 2),
        dropped=round(sum(stats.dropped.values()) / max(1, stats.captured), 4),
        latency_p95_ms=stats.latency_ms.get("p95"),
        model_ms=stats.stages_ms["infer"]["median"],
        busiest=busiest,
        busy=round(busy, 3),
        cpu=round(cpu_share, 3),
    )


def bounded_by(stats: RunStats, count: int) -> tuple[str, float]:
    """The stage whose threads are busy for the largest share of the time, and that share."""
    threads = {"infer": 1, "prepare": 1}  # shared by all streams; the other stages have one thread per stream
    shares = {
        name: stats.processed * times["median"] / 1e3 / max(stats.seconds, 1e-9) / threads.get(name, count)
        for name, times in stats.stages_ms.items()
        if not name.startswith("sink ")
    }
    name = max(shares, key=lambda one: shares[one])
    return ("decode" if name == "capture" else name), shares[name]


def print_streams(rows: list[StreamRow], size: str) -> None:
    if not rows:
        return
    columns = ["provider", "batch", "fps each", "dropped", "latency p95", "busiest stage", f"CPU, {cores()} cores"]
    print(f"\n| {size} streams | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        latency = "-" if row.latency_p95_ms is None else f"{row.latency_p95_ms:.0f} ms"
        print(
            f"| {row.streams} | {row.provider} | {row.batch} | {row.seen_fps:.1f} of {_RATE} | {row.dropped:.1%} "
            f"| {latency} | {row.busiest}, {row.busy:.0%} | {row.cpu:.0%} |"
        )
    sustained = max((row.streams for row in rows if row.sustained), default=0)
    print(f"\nsustained: {sustained} streams")
