"""Cost of each additional source: 1, 2, 4, 8 sources at a fixed rate in one process and in one process per source.

    python benchmarks/sources.py [--rate FPS] [--seconds S] [--counts 1 2 4 8]

Each source is a 640x360 file played at its rate with `--policy latest`, like a camera; depth is computed for every
frame and discarded. CPU time and memory are sums over all processes; loading is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from support.timing import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--one", nargs=2, metavar=("CLIP", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(options.one[0], int(options.one[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = _clip(Path(folder) / "clip.mp4", options.rate, round(options.rate * options.seconds))
        decode_ms = _decode_ms(clip)
        print(f"{machine()}; `{' '.join(['python', *sys.argv])}`; decoding alone {decode_ms:.2f} CPU ms / frame\n")
        print("| sources | | fps of each | dropped | CPU ms / frame | memory, MB |")
        print("|---|---|---|---|---|---|")
        for count in options.counts:
            together = _processes(clip, [count])
            apart = _processes(clip, [1] * count)
            for name, found in (("one process", together), ("one process per source", apart)):
                frames = sum(one["processed"] for one in found)
                fps = frames / count / max(one["seconds"] for one in found)
                cpu = sum(one["cpu_seconds"] for one in found) / frames * 1e3
                dropped, memory = (sum(one[key] for one in found) for key in ("dropped", "memory_mb"))
                print(f"| {count} | {name} | {fps:.1f} | {dropped} | {cpu:.1f} | {memory:.0f} |")


def _processes(clip: Path, counts: list[int]) -> list[dict[str, float]]:
    command = [sys.executable, __file__, "--one", str(clip)]
    running = [subprocess.Popen([*command, str(count)], stdout=subprocess.PIPE, text=True) for count in counts]
    return [json.loads(process.communicate()[0].strip().splitlines()[-1]) for process in running]


def _one(clip: str, count: int) -> dict[str, float]:
    import resource

    import streamdepth as sd
    from streamdepth.sinks.consumers import NullSink
    from streamdepth.sources.file import FileSource

    def cpu() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    sources = [FileSource(clip, source_id=f"camera {number}") for number in range(count)]
    with (
        sd.DepthEstimator() as estimator,
        sd.Pipeline(sources, estimator, lambda _: [NullSink()], policy="latest", range="frame") as pipeline,
    ):
        before = cpu()
        stats = pipeline.run()
        spent = cpu() - before
    return {
        "processed": stats.processed,
        "dropped": sum(stats.dropped.values()),
        "seconds": stats.seconds,
        "cpu_seconds": spent,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _clip(path: Path, rate: int, frames: int) -> Path:
    import av

    from streamdepth.sources.select import source_for

    source = source_for(f"test:?size=640x360&rate={rate}&frames={frames}")
    source.open()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for frame in source.frames():
            container.mux(stream.encode(frame.image.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    source.close()
    return path


def _decode_ms(clip: Path) -> float:
    import time

    import av

    started = time.process_time()
    with av.open(str(clip)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    return (time.process_time() - started) / frames * 1e3


if __name__ == "__main__":
    main()
