"""One image at a time against ``transformers`` (Python) and ``@huggingface/transformers`` (Node.js), same weights.

    python benchmarks/export_depth_anything.py FOLDER
    python benchmarks/stills.py FOLDER [--size 252x252] [--python PYTHON_WITH_TRANSFORMERS] [--node FOLDER_WITH_PACKAGE]

Each program is a separate process that loads the model once; programs run in turn. A peer that is not installed is
reported and skipped. The images are synthetic, 1280x720. The peers convert an image in memory to depth at its size and
a grey image in memory; streamdepth to depth alone, to depth and an encoded PNG, and to both for all images at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from support.timing import machine

_WAYS = {"depth alone": "depth", "depth and PNG": "png", "depth and PNG, each()": "each"}
_PEERS = Path(__file__).parent / "peers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="252x252")
    parser.add_argument("--python", default=sys.executable, help="a Python that has transformers and torch")
    parser.add_argument("--node", type=Path, help="a folder whose node_modules holds @huggingface/transformers")
    parser.add_argument("--runs", type=int, default=5, help="runs of each image in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = _images(Path(folder))
        given = [str(options.folder), str(options.runs), options.size, *images]
        ours = [sys.executable, str(_PEERS / "streamdepth_stills.py"), *given]
        commands = {f"streamdepth, {way}": ours for way in _WAYS}
        if subprocess.run([options.python, "-c", "import transformers, torch"], capture_output=True).returncode == 0:
            commands["transformers pipeline"] = [options.python, str(_PEERS / "transformers_py.py"), *given]
        else:
            print("transformers: skipped, not installed\n")
        script = None if options.node is None else options.node / "streamdepth_peer.mjs"
        if script is not None and shutil.which("node") and (options.node / "node_modules").is_dir():
            # Node.js resolves imports next to the script
            shutil.copy(_PEERS / "transformers_js.mjs", script)
            commands["@huggingface/transformers"] = ["node", str(script), *given]
        else:
            print("@huggingface/transformers: skipped, no Node.js or no --node folder with it\n")
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                times[name] += _run(command, _WAYS.get(name.removeprefix("streamdepth, "), ""))
    print(f"{machine()}; {options.size}; `{' '.join(['python', *sys.argv])}`\n")
    heads = [f"{way} is faster by" for way in _WAYS]
    print(f"| on the same weights, one image | median ms | best ms | {' | '.join(heads)} |")
    print(f"|---|---|---|{'---|' * len(_WAYS)}")
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        ratios = [f"{medians[name] / medians[f'streamdepth, {way}']:.2f}" for way in _WAYS]
        print(f"| {name} | {medians[name]:.0f} | {min(found):.0f} | {' | '.join(ratios)} |")


def _run(command: list[str], way: str) -> list[float]:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"STREAMDEPTH_STILLS": way})
    if done.returncode:
        raise SystemExit(f"{command[1]} failed: {done.stderr[-800:]}")
    times: list[float] = json.loads(done.stdout.strip().splitlines()[-1])["times"]
    return times


def _images(folder: Path) -> list[str]:
    from PIL import Image

    from streamdepth.media.scene import pattern

    paths = [folder / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        Image.fromarray(pattern(1280, 720, number)).save(path)
    return [str(path) for path in paths]


if __name__ == "__main__":
    main()
