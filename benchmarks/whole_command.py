"""The whole command against the usual OpenCV loop, on the same clip, model and machine, in turn.

    python benchmarks/whole_command.py [--clip CLIP] [--view overlay|depth] [--model MODEL.onnx --size WxH
        [--far-is-large]] [--runs N] [--all]

Each run is a separate process, start-up included; every round runs all programs once. The table gives the fastest and
the median run, the least CPU time, the file size, the peak of resident memory, and the median of the rounds' ratios.
The peer is the loop with `mp4v` (MPEG-4 part 2), as most scripts have it. One run of streamdepth runs the model on
every fourth frame only (benchmarks/propagation.py has the error). `--all` adds other settings, and the loop with
streamdepth's encoder and settings. The steady state follows: CPU time of each stage alone and of the whole run, the
speed against what decoding, model and encoding allow, and the use of the cores. The last table compares the results
with the goals.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from support.stages import print_stages
from support.timing import as_installed, machine

if TYPE_CHECKING:
    from streamdepth import DepthEstimator, Look

_LOOP = Path(__file__).parent / "peers" / "opencv_loop.py"
_MOST_STAGE_FRAMES = 300  # all are held in memory, decoded and coloured
_OURS, _EVERY_4, _MP4V = "streamdepth", "streamdepth --model-every 4", "OpenCV loop, mp4v"
_MOST_SIZE = {"overlay": 0.7, "depth": 1.0}
_LEAST_EFFICIENCY, _MOST_MEMORY_MB, _MOST_FIRST_SECONDS = 0.9, 400, 0.8


@dataclass
class Program:
    name: str
    command: list[str]
    output: Path
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    kilobytes: float = 0.0
    memory_mb: float = 0.0

    def warm_up(self) -> None:
        """A short run that is not counted: it compiles kernels and caches files. The loop has nothing to compile."""
        if self.command[1] == "-m":
            command = [*self.command, "--max-frames", "16"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=as_installed())

    def run(self) -> None:
        started = time.monotonic()
        process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=as_installed()
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{self.name}: exit code {process.returncode}")
        self.seconds.append(time.monotonic() - started)
        self.cpu_seconds.append(usage.ru_utime + usage.ru_stime)
        self.memory_mb = max(self.memory_mb, usage.ru_maxrss / 1024)
        self.kilobytes = self.output.stat().st_size / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="default: the synthetic scene at 1280x720")
    parser.add_argument("--view", choices=("overlay", "depth"), default="overlay")
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--size", help="network input, WxH; default: 352x192 with the built-in model, else 256x192")
    parser.add_argument("--far-is-large", action="store_true")
    parser.add_argument(
        "--not-normalized", action="store_true", help="the model takes values in 0..1 without normalization"
    )
    parser.add_argument("--frames", type=int, default=600, help="length of the synthetic clip")
    parser.add_argument("--provider", default="auto", help="streamdepth's provider; the loop uses the CPU provider")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="also other settings, and the loop with x264")
    options = parser.parse_args()
    options.size = options.size or ("352x192" if options.model == "built-in" else "256x192")
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip or make_clip(Path(folder) / "clip.mp4", options.frames)
        programs = programs_of(clip, options, Path(folder))
        for program in programs:
            program.warm_up()
        for _ in range(options.runs):
            for program in programs:
                program.run()
        _print(programs, frames_in(clip))
        efficiency = print_stages(clip, _estimator(options), _MOST_STAGE_FRAMES, _look(options))
        first = _first_frame_seconds(programs[0], options.runs)
        _print_goals(programs, efficiency, first, options)


def programs_of(clip: Path, options: argparse.Namespace, folder: Path) -> list[Program]:
    far = ["--far-is-large"] if options.far_is_large else []
    meaning = ["--sense", "metric_m"] if options.far_is_large else []
    if options.not_normalized:
        meaning += ["--normalize", "none"]
    path = options.model
    if path == "built-in":
        path = str(next(p for p in files("streamdepth.models.builtin").iterdir() if p.name.endswith(".onnx")))
    loop = [sys.executable, str(_LOOP), str(clip), path]
    ours = [sys.executable, "-m", "streamdepth", "run", str(clip), "--model", options.model, *meaning]
    if options.model != "built-in":
        ours += ["--size", options.size]
    ours += ["--provider", options.provider]
    ours += ["--view", options.view, "--overwrite", "--quiet"]
    ours += ["--alpha", "0.6"] if options.view == "overlay" else []

    def run(name: str, *more: str) -> Program:
        output = folder / f"{name}.mp4"
        return Program(name, [*ours, *more, "-o", str(output)], output)

    def peer(name: str, *more: str) -> Program:
        output = folder / f"{name}.mp4"
        return Program(name, [*loop, str(output), "--size", options.size, "--view", options.view, *far, *more], output)

    programs = [run(_OURS), run(_EVERY_4, "--model-every", "4"), peer(_MP4V)]
    if options.all:
        programs += [
            run("streamdepth --model-every 8", "--model-every", "8"),
            run("streamdepth --range ema", "--range", "ema"),
            run("streamdepth --preset veryfast", "--preset", "veryfast"),
            run("streamdepth --codec mpeg4", "--codec", "mpeg4"),
            peer("OpenCV loop, same x264", "--encoder", "x264"),
        ]
    return programs


def _first_frame_seconds(program: Program, runs: int) -> float:
    """Seconds from the start of the command to a file with one frame, on the CPU provider; the fastest run."""
    command = [*program.command, "--max-frames", "1", "--provider", "cpu"]
    first = Program("first frame", command, program.output)
    for _ in range(runs + 1):
        first.run()
    return min(first.seconds)


def _look(options: argparse.Namespace) -> Look:
    from streamdepth import Look, View

    return Look(view=View.OVERLAY, alpha=(0.6, 0.6)) if options.view == "overlay" else Look()


def _estimator(options: argparse.Namespace) -> DepthEstimator:
    from streamdepth import DepthEstimator

    return DepthEstimator(
        options.model,
        provider=options.provider,
        size=None if options.model == "built-in" else options.size,
        sense="metric_m" if options.far_is_large else None,
        preprocessing={"do_normalize": False} if options.not_normalized else None,
    )


def make_clip(path: Path, frames: int = 300) -> Path:
    import av

    from streamdepth import source_for

    source = source_for(f"test:?size=1280x720&rate=30&frames={frames}")
    source.open()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for frame in source.frames():
            container.mux(stream.encode(frame.image.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    source.close()
    return path


def frames_in(clip: Path) -> int:
    import av

    with av.open(str(clip)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _print(programs: list[Program], frames: int) -> None:
    print(f"{machine()}; {frames} frames; `{' '.join(['python', *sys.argv])}`\n")
    heads = [
        "command",
        "fps, best",
        "fps, median",
        "CPU ms / frame",
        "kB / frame",
        "memory",
        "streamdepth is faster by",
    ]
    print(f"| {' | '.join(heads)} |\n|---|---|---|---|---|---|---|")
    for one in programs:
        best, fps = frames / min(one.seconds), frames / statistics.median(one.seconds)
        cpu = min(one.cpu_seconds) / frames * 1e3
        print(
            f"| {one.name} | {best:.1f} | {fps:.1f} | {cpu:.1f} | {one.kilobytes / frames:.1f} "
            f"| {one.memory_mb:.0f} MB | {_ratio(programs[0], one):.2f} |"
        )


def _ratio(ours: Program, other: Program) -> float:
    """How many times faster ``ours`` is: the median of the rounds' ratios."""
    return statistics.median(b / a for a, b in zip(ours.seconds, other.seconds, strict=True))


def _print_goals(programs: list[Program], efficiency: float, first_seconds: float, options: argparse.Namespace) -> None:
    # the goals of the built-in model and FastDepth are lower: the model takes less of the time
    small = options.model == "built-in" or options.far_is_large
    by_name = {program.name: program for program in programs}
    ours, loop = by_name[_OURS], by_name[_MP4V]
    goals = [("faster than the loop with mp4v", _ratio(ours, loop), 2.2 if small else 3.3, True)]
    if not small:
        goals.append(("the same, --model-every 4", _ratio(by_name[_EVERY_4], loop), 6.0, True))
    goals += [
        ("file size against the loop with mp4v", ours.kilobytes / loop.kilobytes, _MOST_SIZE[options.view], False),
        ("fps against cores / (decode + model + encode)", efficiency, _LEAST_EFFICIENCY, True),
        ("peak of resident memory, MB", ours.memory_mb, _MOST_MEMORY_MB, False),
        ("first frame written, CPU provider, s", first_seconds, _MOST_FIRST_SECONDS, False),
    ]
    print("\n| goal | measured | limit | |\n|---|---|---|---|")
    for name, value, limit, at_least in goals:
        met = value >= limit if at_least else value <= limit
        sign = "at least" if at_least else "at most"
        print(f"| {name} | {value:.2f} | {sign} {limit:g} | {'met' if met else 'missed'} |")


if __name__ == "__main__":
    main()
