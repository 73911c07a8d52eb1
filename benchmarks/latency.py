"""Latency measured through pixels: a number is drawn into each frame of the source and read at the sink.

    python benchmarks/latency.py [--rate FPS] [--seconds S] [--size WxH] [--model M] [--overload-seconds S] [--json F]

camera to sink: one process, from the capture of a frame to its coloured image in a sink.
RTSP to RTSP: three processes. A camera serves H.264 over RTSP; streamdepth reads it, infers, colours and serves RTSP; a
viewer plays that and reads the number. This includes two encoders, two decoders and two network connections. Once with
an ordinary camera, once with one that announces the end of each frame as streamdepth's server does.
overload: a camera at twice the model's rate. Latency must not grow: p95 of the first and last quarter are given.

Aim: p95 at most the model's time plus two frame intervals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from support.camera import CounterCamera, NumberSink, number_in
from support.timing import machine

from streamdepth.core.frame import DepthMap, DepthRange, ImageInfo, Result, Sense
from streamdepth.core.look import Look, LookControl, View
from streamdepth.image.estimator import DepthEstimator
from streamdepth.pipeline import Pipeline, RunStats
from streamdepth.sinks.rtsp.server import RtspServerSink
from streamdepth.sources.live.source import LiveSource

_VIEW = View.SIDE
_WARM_UP_SECONDS = 2.0


@dataclass(frozen=True)
class Latencies:
    """Milliseconds from capture to arrival, in order of arrival."""

    name: str
    rate: float
    ms: np.ndarray[Any, np.dtype[np.float64]]
    model_ms: float
    taken: int
    note: str = ""

    def row(self) -> dict[str, Any]:
        median, p95, p99 = (round(float(np.percentile(self.ms, q)), 1) for q in (50, 95, 99))
        aim = None if self.name == "overload" else round(self.model_ms + 2000 / self.rate, 1)
        return {
            "path": self.name,
            "rate": round(self.rate, 1),
            "seen": len(self.ms),
            "taken": self.taken,
            "model_ms": round(self.model_ms, 1),
            "median_ms": median,
            "p95_ms": p95,
            "p99_ms": p99,
            "aim_ms": aim,
            "note": self.note,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=Fraction, default=Fraction(30), help="camera's frames per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--overload-seconds", type=float, default=30.0)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--role", choices=["camera", "relay", "viewer"], help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--announce", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is not None:
        {"camera": _camera, "relay": _relay, "viewer": _viewer}[options.role](options)
        return
    with DepthEstimator(options.model, provider=options.provider) as estimator:
        _to_sink(options, estimator, Fraction(10), 3.0)  # not counted: compiles kernels and fills caches
        ages = [_to_sink(options, estimator, options.rate, options.seconds)]
        ages.append(_over_rtsp(options, ages[0].model_ms))
        ages.append(_over_rtsp(options, ages[0].model_ms, announce=True))
        fastest = Fraction(round(2000 / ages[0].model_ms))
        ages.append(_to_sink(options, estimator, fastest, options.overload_seconds, name="overload"))
    rows = [one.row() for one in ages]
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{machine()}; {options.model}, {options.size}\n")
    print("| path | camera | frames seen of captured | model | median | p95 | p99 | model + 2 frames | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['path']} | {row['rate']:g} fps | {row['seen']} of {row['taken']} | {row['model_ms']} ms "
            f"| {row['median_ms']} ms | {row['p95_ms']} ms | {row['p99_ms']} ms | {row['aim_ms'] or '-'} "
            f"| {row['note']} |"
        )


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def _to_sink(
    options: argparse.Namespace, estimator: DepthEstimator, rate: Fraction, seconds: float, name: str = "camera to sink"
) -> Latencies:
    camera = CounterCamera(*_size(options.size), rate, seconds)
    sink = NumberSink(_VIEW)
    with Pipeline([camera], estimator, [sink]) as pipeline:
        stats = pipeline.run()
    if sink.unread:
        raise SystemExit(f"{sink.unread} frames whose number cannot be read")
    warm = int(_WARM_UP_SECONDS * rate) if seconds > 2 * _WARM_UP_SECONDS else 0
    ms = np.array([(at - camera.due_ns(number)) / 1e6 for number, at in sink.arrivals if number >= warm])
    return Latencies(
        name, float(rate), ms, stats.stages_ms["infer"]["median"], camera.taken - warm, _losses(stats, ms, name)
    )


def _losses(stats: RunStats, ms: np.ndarray[Any, np.dtype[np.float64]], name: str) -> str:
    dropped = sum(stats.dropped.values())
    assert stats.captured == stats.processed + dropped
    if name != "overload":
        return f"{dropped} dropped"
    quarter = len(ms) // 4
    first, last = (float(np.percentile(part, 95)) for part in (ms[:quarter], ms[-quarter:]))
    return f"{dropped} dropped; p95 of first and last quarter {first:.0f}, {last:.0f} ms"


def _over_rtsp(options: argparse.Namespace, model_ms: float, *, announce: bool = False) -> Latencies:
    """Run camera, relay and viewer as processes; the viewer prints number and arrival time of each frame."""
    seconds = options.seconds + 3 * _WARM_UP_SECONDS
    shared = ["--rate", str(options.rate), "--size", options.size, "--model", options.model]
    shared += ["--provider", options.provider, "--seconds", str(seconds)]
    processes: list[subprocess.Popen[str]] = []
    try:
        camera_url, started = _start(processes, "camera", [*shared, *(["--announce"] if announce else [])])
        relay_url, _ = _start(processes, "relay", [*shared, "--url", camera_url])
        viewer = _spawn(processes, "viewer", [*shared, "--url", relay_url])
        out, _ = viewer.communicate(timeout=seconds + 60)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
    seen: dict[int, int] = {}
    for line in out.splitlines():
        number, at = map(int, line.split())
        seen.setdefault(number, at)  # the server repeats a frame when there is no new one
    first = min(seen) + int(_WARM_UP_SECONDS * options.rate)
    chosen = {number: at for number, at in seen.items() if number >= first}
    ms = np.array([(at - started - number * 1e9 / options.rate) / 1e6 for number, at in chosen.items()], np.float64)
    camera = "announcing camera" if announce else "ordinary camera"
    taken = max(chosen) - first + 1
    return Latencies("RTSP to RTSP", float(options.rate), ms, model_ms, taken, f"{camera}; H.264 in and out, TCP")


def _start(processes: list[subprocess.Popen[str]], role: str, arguments: list[str]) -> tuple[str, int]:
    process = _spawn(processes, role, arguments)
    assert process.stdout is not None
    url, started = process.stdout.readline().split()
    return url, int(started)


def _spawn(processes: list[subprocess.Popen[str]], role: str, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--role", role, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    processes.append(process)
    return process


def _camera(options: argparse.Namespace) -> None:
    """Serve numbered frames for the given time."""
    camera = CounterCamera(*_size(options.size), options.rate, options.seconds + 60)
    control = LookControl(Look())
    sink = RtspServerSink("rtsp://127.0.0.1:0/camera", control=control, rate=options.rate, announce=options.announce)
    stream = camera.open()
    sink.open(stream, ImageInfo(stream.width_px, stream.height_px, stream.pix_fmt, stream.color))
    nothing = DepthMap(np.zeros((1, 1), np.float32), Sense.RELATIVE_DEPTH), DepthRange(0, 0)
    for frame in camera.frames():
        if frame.index == 0:
            print(f"rtsp://127.0.0.1:{sink.port}/camera {camera.started_ns}", flush=True)
        sink.process(Result(frame, *nothing, frame.image))
    sink.close()


def _relay(options: argparse.Namespace) -> None:
    """The measured process: a live source, the model, an RTSP server."""
    sink = RtspServerSink("rtsp://127.0.0.1:0/depth", control=LookControl(Look(view=_VIEW)))
    source = LiveSource(options.url)
    with DepthEstimator(options.model, provider=options.provider) as estimator:
        pipeline = Pipeline([source], estimator, [sink])
        pipeline.open()
        print(f"rtsp://127.0.0.1:{sink.port}/depth 0", flush=True)
        pipeline.run()


def _viewer(options: argparse.Namespace) -> None:
    """Play for the given time, then print number and arrival time of each frame."""
    source = LiveSource(options.url, duration_seconds=options.seconds)
    source.open()
    lines = []
    ends = time.monotonic() + options.seconds
    for frame in source.frames():
        now_ns = time.monotonic_ns()
        try:
            lines.append(f"{number_in(frame.image, _VIEW)} {now_ns}")
        except ValueError:
            continue  # black, before the first frame
        if time.monotonic() > ends:
            break
    source.close()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
