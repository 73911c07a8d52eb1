"""The whole command against the loop people write today, on the same clip, model and machine, in turn.

    python benchmarks/whole_command.py [--clip CLIP] [--model MODEL.onnx --size WxH [--far-is-large]] [--runs N]

Each run is a process of its own, start-up included; every round runs all of them once. The table gives the fastest and
the median run, the least CPU time, and the median of the rounds' own ratios. Two peers: the loop as written everywhere
(mp4v, which is MPEG-4 part 2), and the same loop with our encoder and its settings.
One of ours uses the loop's encoder; two run the model on some of the frames only (benchmarks/propagation.py has what
that does to depth).

Then the steady state: CPU time of each stage alone beside that of the whole run, how near the run comes to what
decoding, model and encoding allow, and what share of the cores it had, others had, or nobody.
"""

from __future__ import annotations

import argparse
import resource
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
from support.timing import machine

if TYPE_CHECKING:
    from streamdepth import DepthEstimator

_LOOP = Path(__file__).parent / "peers" / "opencv_loop.py"
_EVERY = (4, 8)
_MOST_STAGE_FRAMES = 300  # they are all held in memory, once decoded and once painted


@dataclass
class Program:
    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def run(self) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        subprocess.run(self.command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.seconds.append(time.monotonic() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="default: test: at 1280x720")
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--size", help="network input, WxH; default: 352x192 with the built-in model, else 256x192")
    parser.add_argument("--far-is-large", action="store_true")
    parser.add_argument("--not-normalized", action="store_true", help="the model takes values of 0..1 as they are")
    parser.add_argument("--frames", type=int, default=300, help="of the clip made where none is given")
    parser.add_argument("--provider", default="auto", help="streamdepth's; the loop uses the CPU")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    options.size = options.size or ("352x192" if options.model == "built-in" else "256x192")
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip or make_clip(Path(folder) / "clip.mp4", options.frames)
        programs = programs_of(clip, options, Path(folder))
        for program in programs:  # one round uncounted: kernels get compiled, files cached
            program.run()
            program.seconds.clear()
            program.cpu_seconds.clear()
        for _ in range(options.runs):
            for program in programs:
                program.run()
        _print(programs, frames_in(clip))
        print_stages(clip, _estimator(options), _MOST_STAGE_FRAMES)


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
    ours += ["--view", "overlay", "--alpha", "0.6", "--overwrite"]
    x264 = ["--preset", "veryfast", "--crf", "20"]
    return [
        Program("streamdepth", [*ours, *x264, "-o", str(folder / "ours.mp4")]),
        *(
            Program(
                f"streamdepth --model-every {every}",
                [*ours, *x264, "--model-every", str(every), "-o", str(folder / f"every{every}.mp4")],
            )
            for every in _EVERY
        ),
        Program("streamdepth --range ema", [*ours, *x264, "--range", "ema", "-o", str(folder / "ema.mp4")]),
        Program(
            "streamdepth --range ema --codec mpeg4",
            [*ours, "--codec", "mpeg4", "--range", "ema", "-o", str(folder / "mpeg4.mp4")],
        ),
        Program("OpenCV loop, mp4v", [*loop, str(folder / "loop.mp4"), "--size", options.size, *far]),
        Program(
            "OpenCV loop, same x264",
            [*loop, str(folder / "loop264.mp4"), "--size", options.size, "--encoder", "x264", *far],
        ),
    ]


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
    print("| command | fps, best | fps, median | CPU ms / frame | streamdepth is faster by |")
    print("|---|---|---|---|---|")
    for one in programs:
        ratio = statistics.median(b / a for a, b in zip(programs[0].seconds, one.seconds, strict=True))
        best, fps = frames / min(one.seconds), frames / statistics.median(one.seconds)
        cpu = min(one.cpu_seconds) / frames * 1e3
        print(f"| {one.name} | {best:.1f} | {fps:.1f} | {cpu:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
