"""Many cameras in one process: CPU time, frames per second and age of each.

``python benchmarks/scale_cameras.py [--cameras 16] [--rate 5] [--size 640x360] [--batch 8] [--seconds 30]
[--staleness S]``. Each camera is a clip that is played at its rate, so that decoding is measured and encoding is not.
CPU time is that of the process after the first three seconds, in which the model starts. ``--dead N`` adds cameras that
refuse connections, ``--churn`` adds, changes and removes a camera all the time and prints threads, descriptors and
memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av

from streamdepth.core.look import Look, LookControl, View
from streamdepth.image.estimator import DepthEstimator
from streamdepth.pipeline import CameraGroup
from streamdepth.sinks.consumers import NullSink
from streamdepth.sources.file import FileSource
from streamdepth.sources.live.source import LiveSource
from streamdepth.sources.pattern import PatternSource

if TYPE_CHECKING:
    from streamdepth.pipeline import CameraStats

_WARM_UP_SECONDS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--dead", type=int, default=0)
    parser.add_argument("--rate", type=int, default=5)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--staleness", type=float, default=None)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--churn", action="store_true")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        clip = _clip(Path(folder) / "camera.mp4", width, height, given.rate, given.seconds + 30)
        with (
            DepthEstimator() as estimator,
            CameraGroup(estimator, batch=given.batch, max_staleness_seconds=given.staleness) as group,
        ):
            for number in range(given.cameras):
                _add(group, f"camera {number + 1}", clip)
            for number in range(given.dead):
                group.add(f"dead {number + 1}", lambda: LiveSource("rtsp://127.0.0.1:9/none", retry_start=True))
            time.sleep(_WARM_UP_SECONDS)
            before, cpu, started = group.stats(), time.process_time(), time.monotonic()
            churned = _churn(group, clip, given.seconds) if given.churn else None
            if not given.churn:
                time.sleep(given.seconds)
            after, cpu, seconds = group.stats(), time.process_time() - cpu, time.monotonic() - started
    _print(before, after, cpu, seconds, given.cameras)
    if churned is not None:
        print(f"\n{churned} cameras were added, changed and removed")


def _add(group: CameraGroup, name: str, clip: Path) -> None:
    control = LookControl(Look(view=View.OVERLAY))
    group.add(name, lambda: FileSource(str(clip), threads=1), lambda _: [NullSink(control=control)])


def _clip(path: Path, width: int, height: int, rate: int, seconds: float) -> Path:
    """A synthetic scene as H.264; ten seconds are drawn and repeated."""
    source = PatternSource(width_px=width, height_px=height, rate=Fraction(rate), frames=10 * rate)
    source.open()
    images = [frame.image for frame in source.frames()]
    source.close()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(round(rate * seconds)):
            image = images[index % len(images)].reformat(format="yuv420p")
            image.pts, image.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


def _churn(group: CameraGroup, clip: Path, seconds: float) -> int:
    """Add, change and remove a camera until ``seconds`` have passed."""
    ends, count, shown = time.monotonic() + seconds, 0, 0.0
    while time.monotonic() < ends:
        _add(group, "passing", clip)
        group.update("passing", look={"view": View.SIDE}, range="frame")
        time.sleep(0.05)
        group.update("passing", stabilize=count % 2 == 0)
        group.remove("passing")
        count += 1
        if time.monotonic() - shown > seconds / 6:
            shown = time.monotonic()
            print(f"{count:5} changes: {_resources()}")
    print(f"{count:5} changes: {_resources()}")
    return count


def _resources() -> str:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return f"{threading.active_count()} threads, {descriptors} descriptors, {resident:.0f} MB"


def _print(
    before: dict[str, CameraStats], after: dict[str, CameraStats], cpu: float, seconds: float, cameras: int
) -> None:
    print("\n| camera | state | captured, fps | depth, fps | dropped | latency, ms: median, p95 |")
    print("|---|---|---|---|---|---|")
    for name, now in after.items():
        then = before.get(name, now)
        rates = [(getattr(now, key) - getattr(then, key)) / seconds for key in ("captured", "processed")]
        dropped = sum(now.dropped.values()) - sum(then.dropped.values())
        latency = ", ".join(f"{now.latency_ms[key]:.0f}" for key in ("median", "p95") if key in now.latency_ms)
        print(f"| {name} | {now.state} | {rates[0]:.2f} | {rates[1]:.2f} | {dropped} | {latency} |")
    processed = sum(now.processed - before[name].processed for name, now in after.items() if name in before)
    print(
        f"\n{cpu / seconds:.2f} cores, {100 * cpu / seconds / cameras:.1f} % of a core per camera, "
        f"{1000 * cpu / max(processed, 1):.1f} ms of CPU per frame with depth, {processed / seconds:.1f} fps in all"
    )


if __name__ == "__main__":
    main()
