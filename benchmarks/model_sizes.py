"""Frames per second of the whole command against the size of the model's input, as a table and a plot.

    pip install matplotlib
    python benchmarks/model_sizes.py --model MODEL.onnx [--sizes 126,182,252,350,518] [--plot OUT.png]

The model must take any size (benchmarks/export_depth_anything.py exports one). The clip gets shorter as the input
grows; start-up is included. The commands are those of benchmarks/whole_command.py, once per provider. Compilation for a
size is not counted.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

from support.timing import machine
from whole_command import Program, frames_in, make_clip, programs_of

_LONGEST, _SHORTEST = 300, 120
_SPARING = ("streamdepth --model-every 4",)
_LOOPS = ("OpenCV loop, mp4v", "OpenCV loop, same x264")
Figures = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sizes", default="126,182,252,350,518", help="sides of a square input, ascending")
    parser.add_argument("--providers", default="auto,cpu", help="streamdepth's providers, one curve each")
    parser.add_argument("--runs", type=int, default=2, help="runs of each; the fastest counts")
    parser.add_argument("--plot", type=Path, help="write the plot to this PNG or SVG file")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            frames = max(_SHORTEST, min(_LONGEST, round(_LONGEST * sizes[0] / size)))
            clip = make_clip(Path(folder) / f"{frames}.mp4", frames)
            field = _field(clip, options, size, Path(folder))
            for program in field:
                if program.name not in _LOOPS:
                    Program("", [*program.command, "--max-frames", "2"], program.output).run()
            for _ in range(options.runs):
                for program in field:
                    program.run()
            for program in field:
                figures.setdefault(program.name, []).append(frames_in(clip) / min(program.seconds))
    print(f"{machine()}\n\n| input | {' | '.join(figures)} |\n|---|{'---|' * len(figures)}")
    for row, size in enumerate(sizes):
        print(f"| {size}x{size} | {' | '.join(f'{fps[row]:.1f}' for fps in figures.values())} |")
    if options.plot is not None:
        _draw(options.plot, sizes, figures)


def _field(clip: Path, options: argparse.Namespace, size: int, folder: Path) -> list[Program]:
    asked = copy.copy(options)
    asked.size, asked.far_is_large, asked.not_normalized = f"{size}x{size}", False, False
    asked.view, asked.all = "overlay", True
    field: list[Program] = []
    for provider in options.providers.split(","):
        asked.provider = provider
        ours, *others = programs_of(clip, asked, folder)
        field.append(Program(f"streamdepth, {provider}", ours.command, ours.output))
        sparing = [other for other in others if other.name in _SPARING]
        field += [Program(f"{other.name}, {provider}", other.command, other.output) for other in sparing]
    return field + [other for other in others if other.name in _LOOPS]


def _draw(path: Path, sizes: list[int], figures: Figures) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise SystemExit("--plot needs matplotlib; run pip install matplotlib") from None
    figure, axes = plt.subplots(figsize=(7.2, 4), layout="constrained")
    for name, fps in figures.items():
        axes.plot(sizes, fps, marker="o", linestyle="--" if name in _LOOPS else "-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="side of the model's input, pixels", ylabel="frames per second")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick < 2 * max(max(fps) for fps in figures.values())]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(bottom=0.8 * min(min(fps) for fps in figures.values()))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
