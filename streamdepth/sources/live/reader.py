"""One connection to a live stream, read on a thread of its own.

libav's network calls cannot be cancelled from outside, only timed out, so they never run on the thread that has to
answer ``interrupt``. A reader that is given up keeps to itself until its own deadline ends it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from streamdepth.core.frame import ColorTags
from streamdepth.core.queues import InterruptibleCondition
from streamdepth.media.hwaccel import HwAccel, decoder
from streamdepth.sources.live.loss import FrameGaps, SkippedFrames
from streamdepth.sources.live.timestamps import LivePace

if TYPE_CHECKING:
    from collections.abc import Callable

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.core.clock import Clock


@dataclass(frozen=True, slots=True)
class LiveDecoding:
    """How a live stream is decoded.

    Attributes:
        low_latency: slices, not frames, in parallel: frame threads hold back one frame each.
        threads: of the decoder, 0 = FFmpeg chooses.
        hwaccel: where, if there is such hardware.
    """

    low_latency: bool = True
    threads: int = 0
    hwaccel: HwAccel = HwAccel.NONE


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection stands and says what it carries. ``note``: that it is decoded in software, where it should not."""

    width_px: int
    height_px: int
    pix_fmt: str
    codec: str
    rate: Fraction | None
    color: ColorTags
    sample_aspect_ratio: Fraction
    note: str


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded frame; ``pts`` is None where the format carries no real time.

    ``arrived_ns``: monotonic clock when it was decoded, or, of a live playlist, when it was due.
    """

    image: av.VideoFrame
    pts: int | None
    time_base: Fraction | None
    arrived_ns: int
    key: bool
    corrupt: bool


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A packet the decoder refused."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Images that others refer to did not arrive: what follows is damaged, though no decoder says so."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """So many images the decoder took without a word and will never hand out; what it does hand out is whole."""

    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will come: an error, or the end of what the server sent.

    ``finite`` marks the end of a recording with a known length rather than a live stream that broke off.
    """

    error: Exception | None
    finite: bool = False


Item = Opened | Image | Undecodable | Missing | Skipped | Ended

_CAPACITY = 2


class Mailbox:
    """At most two items between a reader and the source; a full one makes the reader wait. Thread-safe."""

    def __init__(self) -> None:
        self.changed = InterruptibleCondition()
        self._items: deque[Item] = deque()
        self._closed = False

    def put(self, item: Item) -> bool:
        """Wait for room; False once the mailbox is closed."""
        with self.changed:
            while len(self._items) >= _CAPACITY and not self._closed:
                self.changed.wait(None)
            if self._closed:
                return False
            self._items.append(item)
            self.changed.notify_all()
            return True

    def take(self, timeout_seconds: float) -> Item | None:
        """The next item, or None after the timeout or once closed."""
        with self.changed:
            if not self._items and not self._closed:
                self.changed.wait(timeout_seconds)
            if self._closed or not self._items:
                return None
            self.changed.notify_all()
            return self._items.popleft()

    def closes_within(self, seconds: float) -> bool:
        """Wait so long, or until closed."""
        with self.changed:
            return self.changed.wait_for(lambda: self._closed, seconds)

    def close(self) -> None:
        with self.changed:
            self._closed = True
            self._items.clear()
            self.changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed


class LiveReader:
    """Opens a URL and fills its mailbox until the stream ends, fails or ``abandon`` is called.

    Args:
        url: with credentials.
        options: libav's, for the container.
        open_timeout_seconds, read_timeout_seconds: bounds of libav's own blocking calls.
        explain: puts a better error in the place of one that ended the stream; may block as long as opening may.
    """

    def __init__(
        self,
        url: str,
        options: dict[str, str],
        *,
        open_timeout_seconds: float,
        read_timeout_seconds: float,
        decoding: LiveDecoding,
        clock: Clock,
        label: str,
        explain: Callable[[Exception], Exception],
    ) -> None:
        self._url = url
        self._options = options
        self._timeout = (open_timeout_seconds, read_timeout_seconds)
        self._decoding = decoding
        self._note = ""
        self._clock = clock
        self._explain = explain
        self.mailbox = Mailbox()
        self.active_ns = clock.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name=f"live-reader {label}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def abandon(self) -> None:
        """Return at once; the thread ends by itself when libav's call does."""
        self.mailbox.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        # What goes wrong here is a fact about the stream; the source decides what it means.
        try:
            finite = self._read()
        except Exception as exc:
            self.mailbox.put(Ended(self._explain(exc)))
        else:
            self.mailbox.put(Ended(None, finite))

    def _read(self) -> bool:
        import av

        hardware = decoder(self._decoding.hwaccel)
        self._note = hardware.note
        with av.open(
            self._url, options=dict(self._options), timeout=self._timeout, hwaccel=hardware.value
        ) as container:
            self._touch()
            if not container.streams.video:
                raise ValueError("it carries no video")
            stream = container.streams.video[0]
            # Corruption is judged frame by frame, so the decoder has to hand damaged ones out, marked.
            stream.codec_context.thread_type = "SLICE" if self._decoding.low_latency else "AUTO"
            stream.codec_context.thread_count = self._decoding.threads
            playlist = container.format.name == "hls" and not _is_finite(container)
            # Segments arrive whole: what has no pace of its own would overrun whoever takes the newest image only.
            self._pump(container, stream, LivePace() if playlist else None)
            if _is_finite(container):
                return True
        if not playlist or self.mailbox.closed:
            return False
        # A playlist that was live may have got its end since; opened again as live it would give its window once more.
        self._touch()
        with av.open(self._url, options=dict(self._options), timeout=self._timeout) as container:
            return _is_finite(container)

    def _pump(self, container: InputContainer, stream: VideoStream, pace: LivePace | None = None) -> None:
        import av

        # Motion JPEG over HTTP carries no times; libav makes up 25 fps.
        timeless = "mpjpeg" in container.format.name or container.format.name in ("mjpeg", "h264", "hevc")
        # A decoder on hardware names the device's format; that of its images is known with the first of them.
        announced = not stream.codec_context.is_hwaccel and self._announce(stream, None)
        gaps = FrameGaps() if stream.codec_context.name == "h264" else None
        if gaps is not None:
            gaps.found(bytes(stream.codec_context.extradata or b""))
        torn: set[int] = set()
        skipped_frames = SkippedFrames() if stream.codec_context.name == "hevc" else None
        for packet in container.demux(stream):
            if self.mailbox.closed:
                return
            self._touch()
            if gaps is not None and gaps.found(bytes(packet)) and not self.mailbox.put(Missing()):
                return
            if gaps is None and packet.is_corrupt and packet.pts is not None:
                torn.add(packet.pts)
            if skipped_frames is not None:
                skipped_frames.took(packet.pts)
            try:
                images = packet.decode()
            except av.error.InvalidDataError:
                if not self.mailbox.put(Undecodable()):
                    return
                continue
            for image in images:
                if not announced:
                    announced = self._announce(stream, image)
                skipped = 0 if skipped_frames is None else skipped_frames.gave(image.pts)
                if skipped and not self.mailbox.put(Skipped(skipped)):
                    return
                time_base = image.time_base or stream.time_base
                if pace is not None and not self._hold(pace.due_ns(image.pts, time_base, self._clock.monotonic_ns())):
                    return
                item = Image(
                    image=image,
                    pts=None if timeless else image.pts,
                    time_base=time_base,
                    arrived_ns=self._clock.monotonic_ns(),
                    key=bool(image.key_frame),
                    corrupt=bool(image.is_corrupt) or image.pts in torn,
                )
                if torn and image.pts is not None:
                    torn = {pts for pts in torn if pts > image.pts}
                if not self.mailbox.put(item):
                    return
                # Time spent waiting for a slow consumer is no silence of the camera's.
                self._touch()

    def _hold(self, due_ns: int) -> bool:
        """Keep an image until it is due; False once given up."""
        # Held back, it is no silence of the stream's.
        self.active_ns = due_ns
        while (left_ns := due_ns - self._clock.monotonic_ns()) > 0:
            if self.mailbox.closes_within(left_ns / 1e9):
                return False
        return True

    def _announce(self, stream: VideoStream, image: av.VideoFrame | None) -> bool:
        context = stream.codec_context
        width_px = image.width if image else context.width
        height_px = image.height if image else context.height
        pix_fmt = image.format.name if image else context.pix_fmt
        if not width_px or not height_px or not pix_fmt:
            return False
        color = (
            ColorTags.of(image)
            if image
            else ColorTags(
                matrix=int(context.colorspace),
                range=int(context.color_range),
                primaries=int(context.color_primaries),
                transfer=int(context.color_trc),
            )
        )
        rate = stream.average_rate or stream.guessed_rate
        return self.mailbox.put(
            Opened(
                width_px=width_px,
                height_px=height_px,
                pix_fmt=pix_fmt,
                codec=context.name,
                # libav answers 90000 fps where it knows nothing.
                rate=Fraction(rate) if rate and 0 < rate <= 480 else None,
                color=color,
                sample_aspect_ratio=Fraction(stream.sample_aspect_ratio or 1),
                note=self._note,
            )
        )

    def _touch(self) -> None:
        self.active_ns = self._clock.monotonic_ns()


def _is_finite(container: InputContainer) -> bool:
    return container.duration is not None and container.duration > 0
