"""Mutated inputs for the command line and the servers, in a process of its own: ``python -m tests.support.fuzz``.

Prints one JSON object for each case. What must hold: exit code 0, 1 or 2, at most one line of error, no traceback, no
internal error, nothing that libraries print, no file left in the temporary folder; servers answer the next ordinary
request.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image

from streamdepth.cli import main, process

if TYPE_CHECKING:
    from collections.abc import Callable

_ODD = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x80\0\0\0", b"\0\0\0\1")
_TEXT = (
    b"{",
    b"[",
    b": ",
    b"\n- ",
    b"&a *a ",
    b"!!python/object:os.system ",
    b"1e999",
    b"NaN",
    b"\xff\xfe",
    b"null",
    b"-1",
)


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> tuple[str, bytes]:
    """One of several kinds of damage, and its name."""
    kind = rng.choice(["flip", "many", "cut", "head", "splice", "zero", "repeat", "odd", "insert", "text"])
    out, size = bytearray(data), len(data)
    at = rng.randrange(size)
    length = rng.randint(1, max(1, size // 4))
    if kind == "flip":
        for _ in range(rng.randint(1, 8)):
            out[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == "many":
        for _ in range(max(1, size // rng.choice([20, 100, 500]))):
            out[rng.randrange(size)] = rng.randrange(256)
    elif kind == "cut":
        del out[at:]
    elif kind == "head":
        for _ in range(rng.randint(1, 6)):
            out[rng.randrange(min(size, 600))] = rng.randrange(256)
    elif kind == "splice":
        other = rng.choice(others)
        out[at:] = other[rng.randrange(len(other)) :]
    elif kind == "zero":
        out[at : at + length] = bytes(min(length, size - at))
    elif kind == "repeat":
        out[at:at] = out[at : at + length]
    elif kind == "odd":
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(size)
            out[place : place + 4] = rng.choice(_ODD)
    elif kind == "insert":
        out[at:at] = rng.randbytes(rng.randint(1, 2000))
    else:
        out[at:at] = rng.choice(_TEXT)
    return kind, bytes(out)


def videos() -> dict[str, bytes]:
    """Small files of several containers and codecs."""
    made = {}
    for name, codec, pix_fmt in (
        ("a.mp4", "libx264", "yuv420p"), ("b.mkv", "mpeg4", "yuv420p"), ("c.avi", "mjpeg", "yuvj420p"),
        ("d.gif", "gif", "rgb8"), ("e.ts", "mpeg2video", "yuv420p"), ("f.webm", "libvpx-vp9", "yuv420p"),
    ):  # fmt: skip
        out = io.BytesIO()
        suffix = name.rpartition(".")[2]
        with av.open(out, "w", format={"mkv": "matroska", "ts": "mpegts"}.get(suffix, suffix)) as container:
            stream = container.add_stream(codec, rate=10)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
            for index in range(8):
                frame = av.VideoFrame(64, 48, "rgb24")
                frame.planes[0].update(bytes([index * 25]) * frame.planes[0].buffer_size)
                container.mux(stream.encode(frame.reformat(format=pix_fmt)))
            container.mux(stream.encode(None))
        made[name] = out.getvalue()
    return made


def images() -> dict[str, bytes]:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    frames = [Image.fromarray(np.roll(pixels, shift, 1)) for shift in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    made = {}
    for name, form, options in (
        ("a.png", "PNG", {}), ("b.jpg", "JPEG", {}), ("c.webp", "WEBP", {}), ("d.tiff", "TIFF", {}),
        ("e.bmp", "BMP", {}),
        ("f.tiff", "TIFF", {"compression": "packbits"}), ("g.tiff", "TIFF", {"compression": "tiff_lzw", **animated}),
        ("h.tiff", "TIFF", {"compression": "jpeg"}), ("i.png", "PNG", animated), ("j.webp", "WEBP", animated),
        ("k.avif", "AVIF", animated), ("l.jp2", "JPEG2000", {}), ("m.tga", "TGA", {"compression": "tga_rle"}),
        ("n.sgi", "SGI", {}), ("o.pcx", "PCX", {}), ("p.qoi", "QOI", {}),
    ):  # fmt: skip
        out = io.BytesIO()
        frames[0].save(out, form, **options)
        made[name] = out.getvalue()
    return made


class Fuzzer:
    """Runs random cases of one seed below a folder."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.videos, self.images = videos(), images()
        config = b"sources: ['test:?frames=3']\noutput: ['null:']\nrange: ema\nview: side\nalpha: 0.2,0.9\nbatch: 1\n"
        stops = json.dumps([[0, 0, 0, 4], [0.5, 255, 0, 255], [1, 255, 255, 255]]).encode()
        self.texts = {"c.yaml": config, "s.json": stops}
        import streamdepth

        builtin = Path(streamdepth.__file__).parent / "models" / "builtin"
        self.model = next(iter(sorted(builtin.glob("*.onnx")))).read_bytes()
        self.cases: tuple[Callable[[], tuple[str, list[str]]], ...] = (
            self.video, self.video, self.image, self.image, self.config, self.style, self.graph,
        )  # fmt: skip

    def put(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def video(self) -> tuple[str, list[str]]:
        name = self.rng.choice(sorted(self.videos))
        kind, data = mutate(self.rng, self.videos[name], list(self.videos.values()))
        out = self.rng.choice(["out.mp4", "out.mkv", "frames/"])
        arguments = ["run", self.put(name, data), "-o", str(self.folder / "out") + f"/{out}", "--max-frames", "8"]
        return f"{name} {kind}", [*arguments, "--range", self.rng.choice(["shot", "ema"])]

    def image(self) -> tuple[str, list[str]]:
        name = self.rng.choice(sorted(self.images))
        kind, data = mutate(self.rng, self.images[name], list(self.images.values()))
        file, out = self.put(name, data), str(self.folder / "out" / "image.png")
        command = self.rng.choice(
            [["image", file, "-o", out], ["run", file, "-o", str(self.folder / "out" / "i") + "/"]]
        )
        return f"{name} {kind}", command

    def config(self) -> tuple[str, list[str]]:
        kind, data = mutate(self.rng, self.texts["c.yaml"], [self.texts["s.json"]])
        return f"config {kind}", ["run", "--config", self.put("c.yaml", data), "--max-frames", "2"]

    def style(self) -> tuple[str, list[str]]:
        kind, data = mutate(self.rng, self.texts["s.json"], [self.texts["c.yaml"]])
        return f"style {kind}", ["run", "test:?frames=2&size=64x48", "-o", "null:", "-s", self.put("s.json", data)]

    def graph(self) -> tuple[str, list[str]]:
        kind, data = mutate(self.rng, self.model, [self.model])
        file = self.put("m.onnx", data)
        return f"model {kind}", self.rng.choice(
            [["models", "show", file], ["run", "test:?frames=2&size=64x48", "-o", "null:", "--model", file]]
        )

    def run(self) -> dict[str, object]:
        """One case, and what is wrong with it."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        temporary = self.folder / "tmp"
        for place in (self.folder / "out", temporary):
            place.mkdir(parents=True)
        what, arguments = self.rng.choice(self.cases)()
        if arguments[0] == "run":
            arguments += ["-q", "-y", "--provider", "cpu"]
        print(json.dumps({"begins": what}), flush=True)
        started = time.monotonic()
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(arguments)
        text = errors.getvalue()
        wrong = []
        if code not in (0, 1, 2):
            wrong.append(f"exit code {code}")
        if "internal error" in text or "Traceback" in text + out.getvalue():
            wrong.append("internal error")
        if code and text.count("\n") != 1:
            wrong.append(f"{text.count(chr(10))} lines of error")
        if left := [path.name for path in temporary.rglob("*")]:
            wrong.append(f"left {left[:3]}")
        seconds = round(time.monotonic() - started, 2)
        return {"case": what, "code": code, "seconds": seconds, "wrong": wrong, "text": text[-400:]}


def fuzz_server(rng: random.Random, port: int, requests: list[bytes], good: Callable[[], bool]) -> list[str]:
    """Send one mutated request on its own connection; a fault where the server does not serve the next client."""
    kind, data = mutate(rng, rng.choice(requests), requests)
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            connection.sendall(data)
            answer = connection.recv(65536)
            if b" 500 " in answer[:20]:
                return [f"{kind}: {data[:200]!r} was answered {answer[-200:]!r}"]
    return [] if good() else [f"{kind}: the server does not answer after {data[:200]!r}"]


if __name__ == "__main__":
    seed, seconds, where = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    os.environ["TMPDIR"] = str(where / "tmp")
    process.hide_warnings()
    process.route_logs()
    fuzzer, ends = Fuzzer(seed, where), time.monotonic() + seconds
    while time.monotonic() < ends:
        print(json.dumps(fuzzer.run()), flush=True)
