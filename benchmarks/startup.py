"""Start-up time: import, ``--help``, the first frame of a file written.

    python benchmarks/startup.py [--runs N]

Compiled kernels and models and the choice of ``auto`` are cached by a first run that is not counted. Each value is a
whole process, including the start of the interpreter, which has its own row.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.timing import as_installed, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    from streamdepth.bench.run import synthetic_clip
    from streamdepth.inference.providers import likely

    with tempfile.TemporaryDirectory() as folder:
        clip = synthetic_clip(Path(folder) / "clip.mkv", 5)
        run = [sys.executable, "-m", "streamdepth", "run", str(clip), "--max-frames", "1", "--overwrite", "--quiet"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import streamdepth": [sys.executable, "-c", "import streamdepth"],
            "import cv2, onnxruntime (imports of the OpenCV loop)": [
                sys.executable,
                "-c",
                "import cv2, numpy, onnxruntime",
            ],
            "streamdepth --help": [sys.executable, "-m", "streamdepth", "--help"],
            f"first frame of a 720p file written, --provider auto ({likely()} here)": [
                *run, "-o", str(Path(folder) / "out.mp4"),
            ],
            "the same, --provider cpu": [*run, "--provider", "cpu", "-o", str(Path(folder) / "cpu.mp4")],
            "the same, --provider cpu --range ema": [
                *run, "--provider", "cpu", "--range", "ema", "-o", str(Path(folder) / "ema.mp4"),
            ],
        }  # fmt: skip
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(options.runs + 1):
            for name, command in commands.items():
                started = time.monotonic()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=as_installed())
                if number:
                    taken[name].append(time.monotonic() - started)
    print(f"{machine()}; `{' '.join(['python', *sys.argv])}`\n")
    print("| | best s | median s |")
    print("|---|---|---|")
    for name, seconds in taken.items():
        print(f"| {name} | {min(seconds):.2f} | {statistics.median(seconds):.2f} |")


if __name__ == "__main__":
    main()
