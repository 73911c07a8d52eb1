"""The usual OpenCV loop: read, resize, run, colour map, blend, write, on one thread."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--size", default="256x192", help="network input, WxH")
    parser.add_argument("--far-is-large", action="store_true")
    parser.add_argument("--view", choices=("overlay", "depth"), default="overlay")
    parser.add_argument("--encoder", choices=("mp4v", "x264"), default="mp4v")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))

    session = ort.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    capture = cv2.VideoCapture(options.clip)
    rate = capture.get(cv2.CAP_PROP_FPS)
    frame_size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    write, close = (_mp4v if options.encoder == "mp4v" else partial(_x264, view=options.view))(
        options.out, rate, frame_size
    )
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        small = cv2.cvtColor(cv2.resize(frame, (width, height)), cv2.COLOR_BGR2RGB)
        pixels = (small.astype(np.float32) / 255.0).transpose(2, 0, 1)[np.newaxis]
        depth = np.squeeze(session.run(None, {name: np.ascontiguousarray(pixels)})[0])
        lo, hi = depth.min(), depth.max()
        near = (hi - depth if options.far_is_large else depth - lo) / max(hi - lo, 1e-6)
        gray = cv2.resize((near * 255).astype(np.uint8), frame_size)
        colored = cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)
        write(cv2.addWeighted(frame, 0.4, colored, 0.6, 0) if options.view == "overlay" else colored)
    close()


def _mp4v(out: str, rate: float, size: tuple[int, int]) -> tuple[Callable[[NDArray[Any]], None], Callable[[], None]]:
    writer = cv2.VideoWriter(out, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    return writer.write, writer.release


def _x264(
    out: str, rate: float, size: tuple[int, int], *, view: str
) -> tuple[Callable[[NDArray[Any]], None], Callable[[], None]]:
    """streamdepth's encoder with the same settings, so that only the loop differs."""
    import av

    from streamdepth.core.look import View
    from streamdepth.sinks.encoding import encoder_options, encoder_threads

    container = av.open(out, "w")
    options = encoder_options("libx264", View(view), transparent=False)
    stream = container.add_stream("libx264", rate=round(rate), options={"g": str(2 * round(rate)), **options})
    stream.codec_context.thread_count = encoder_threads(*size)
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"

    def write(frame: NDArray[Any]) -> None:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))

    def close() -> None:
        container.mux(stream.encode(None))
        container.close()

    return write, close


if __name__ == "__main__":
    main()
