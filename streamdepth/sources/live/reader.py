"""One connection to a live stream, read on its own thread.

libav's network calls cannot be cancelled, only timed out, so they never run on a thread that must react to
``interrupt``. The thread of an abandoned reader ends by libav's deadline.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from streamdepth.core.frame import ColorTags
from streamdepth.core.queues import InterruptibleCondition
from streamdepth.media.filters import Deinterlacer
from streamdepth.media.hwaccel import HwAccel, decoder
from streamdepth.sources.live.timestamps import FrameGaps, LivePace, SkippedFrames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.core.clock import Clock


@dataclass(frozen=True, slots=True)
class LiveDecoding:
    """How a live stream is decoded.

    Attributes:
        low_latency: slice threads instead of frame threads, each of which delays the output by one frame.
        threads: of the decoder, 0 = FFmpeg chooses.
        hwaccel: hardware decoder.
        deinterlace: deinterlace frames that are flagged as interlaced; each waits for its successor.
    """

    low_latency: bool = True
    threads: int = 0
    hwaccel: HwAccel = HwAccel.NONE
    deinterlace: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """The properties of a new connection. ``note``: why it is decoded in software although hardware was requested."""

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
    """A decoded frame; ``pts`` is None if the format has no time stamps.

    ``arrived_ns``: monotonic clock when it was decoded; for a live playlist, when it was due. ``deinterlaced``: since
    the connection began, a frame was interlaced.
    """

    image: av.VideoFrame
    pts: int | None
    time_base: Fraction | None
    arrived_ns: int
    key: bool
    corrupt: bool
    deinterlaced: bool


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A packet that the decoder rejected."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Reference frames were lost: the following frames are damaged, although no decoder marks them."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """This number of frames entered the decoder and will not be output; frames that are output are intact."""

    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the connection: an error, or the end of the stream.

    Attributes:
        finite: a recording of known length ended, not a live stream.
        missing_seconds: by how much such a recording ended early.
    """

    error: Exception | None
    finite: bool = False
    missing_seconds: float = 0.0


class NoVideoError(ValueError):
    """A stream without video that can be decoded."""


Item = Opened | Image | Undecodable | Missing | Skipped | Ended

_CAPACITY = 2
_EARLY_SECONDS, _EARLY_SHARE = 2.0, 0.05
"""A recording ends early by more than both: durations in headers are estimates."""


class Mailbox:
    """A queue of at most two items between reader and source; the reader waits while it is full. Thread-safe."""

    def __init__(self) -> None:
        self.changed = InterruptibleCondition()
        self._items: deque[Item] = deque()
        self._closed = False

    def put(self, item: Item) -> bool:
        """Wait for room; False if the mailbox is closed."""
        with self.changed:
            while len(self._items) >= _CAPACITY and not self._closed:
                self.changed.wait(None)
            if self._closed:
                return False
            self._items.append(item)
            self.changed.notify_all()
            return True

    def take(self, timeout_seconds: float) -> Item | None:
        """The next item; None after the timeout, or if closed."""
        with self.changed:
            if not self._items and not self._closed:
                self.changed.wait(timeout_seconds)
            if self._closed or not self._items:
                return None
            self.changed.notify_all()
            return self._items.popleft()

    def closes_within(self, seconds: float) -> bool:
        """Wait for this time; True if the mailbox was closed meanwhile."""
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
        options: of libav, for the container.
        open_timeout_seconds, read_timeout_seconds: limits of libav's blocking calls.
        explain: replaces the error that ended the stream by a better one; may block as long as opening.
    Attributes:
        active_ns: when the last packet arrived, or the last frame was passed on.
        started_ns: when the reader was made.
        opened: the container is open; frames may wait for a key frame.
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
        self._covered_seconds = 0.0
        self.opened = False
        self.mailbox = Mailbox()
        self.started_ns = self.active_ns = clock.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name=f"live-reader {label}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def abandon(self) -> None:
        """Return at once; the thread ends with libav's call."""
        self.mailbox.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        # Every error belongs to the stream; the source decides what follows.
        try:
            ended = self._read()
        except Exception as exc:
            ended = Ended(self._explain(exc))
        self.mailbox.put(ended)

    def _read(self) -> Ended:
        import av

        hardware = decoder(self._decoding.hwaccel)
        self._note = hardware.note
        with av.open(
            self._url,
            options=dict(self._options),
            metadata_errors="replace",
            timeout=self._timeout,
            hwaccel=hardware.value,
        ) as container:
            self.opened = True
            self._touch()
            if not container.streams.video:
                raise NoVideoError("the stream has no video")
            stream = next((one for one in container.streams.video if one.codec_context is not None), None)
            if stream is None:
                raise NoVideoError("this build of FFmpeg has no decoder for its video")
            # Damage is handled frame by frame, so the decoder has to output damaged frames, marked.
            stream.codec_context.thread_type = "SLICE" if self._decoding.low_latency else "AUTO"
            stream.codec_context.thread_count = self._decoding.threads
            playlist = container.format.name == "hls" and not _is_finite(container)
            # Whole segments arrive at once; a consumer that takes only the newest frame would drop most of them.
            self._pump(container, stream, LivePace() if playlist else None)
            if _is_finite(container):
                return Ended(None, True, self._missing_seconds(container))
        if not playlist or self.mailbox.closed:
            return Ended(None)
        # A live playlist may have ended meanwhile; reading it again as live would repeat its last segments.
        self._touch()
        with av.open(
            self._url, options=dict(self._options), timeout=self._timeout, metadata_errors="replace"
        ) as container:
            return Ended(None, _is_finite(container))

    def _missing_seconds(self, container: InputContainer) -> float:
        duration = (container.duration or 0) / 1e6
        missing = duration - self._covered_seconds
        return missing if missing > max(_EARLY_SECONDS, _EARLY_SHARE * duration) else 0.0

    def _pump(self, container: InputContainer, stream: VideoStream, pace: LivePace | None = None) -> None:
        import av

        # Motion JPEG over HTTP has no time stamps; libav assumes 25 fps.
        timeless = "mpjpeg" in container.format.name or container.format.name in ("mjpeg", "h264", "hevc")
        # A hardware decoder reports the device's format; the format of its frames is known with the first one.
        announced = not stream.codec_context.is_hwaccel and self._announce(stream, None)
        gaps = FrameGaps() if stream.codec_context.name == "h264" else None
        if gaps is not None:
            gaps.found(bytes(stream.codec_context.extradata or b""))
        torn: set[int] = set()
        first_seconds: float | None = None
        skipped_frames = SkippedFrames() if stream.codec_context.name == "hevc" else None
        deinterlacer = Deinterlacer()
        arrivals: deque[int] = deque()
        for packet in _packets(container, stream):
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
                decoded: list[Any] = packet.decode() if packet.stream is not None else []
            except av.error.InvalidDataError:
                if not self.mailbox.put(Undecodable()):
                    return
                continue
            images: list[av.VideoFrame] = []
            for image in decoded:
                arrivals.append(self._clock.monotonic_ns())
                images += deinterlacer.push(image) if self._decoding.deinterlace else [image]
            if not packet.size:
                images += deinterlacer.flush()
            for image in images:
                if not announced:
                    announced = self._announce(stream, image)
                skipped = 0 if skipped_frames is None else skipped_frames.gave(image.pts)
                if skipped and not self.mailbox.put(Skipped(skipped)):
                    return
                time_base = image.time_base or stream.time_base
                if image.pts is not None and time_base is not None:
                    seconds = float(image.pts * time_base)
                    first_seconds = seconds if first_seconds is None else first_seconds
                    self._covered_seconds = max(self._covered_seconds, seconds - first_seconds)
                arrived_ns = arrivals.popleft()
                if pace is not None:
                    arrived_ns = pace.due_ns(image.pts, time_base, self._clock.monotonic_ns())
                    if not self._hold(arrived_ns):
                        return
                item = Image(
                    image=image,
                    pts=None if timeless else image.pts,
                    time_base=time_base,
                    arrived_ns=arrived_ns,
                    key=bool(image.key_frame),
                    corrupt=bool(image.is_corrupt) or image.pts in torn,
                    deinterlaced=deinterlacer.used,
                )
                if torn and image.pts is not None:
                    torn = {pts for pts in torn if pts > image.pts}
                if not self.mailbox.put(item):
                    return
                # Time spent waiting for a slow consumer does not count as silence of the camera.
                self._touch()

    def _hold(self, due_ns: int) -> bool:
        """Wait until a frame is due; False if the mailbox was closed meanwhile."""
        # This wait does not count as silence of the stream.
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
                # libav reports 90000 fps if the rate is unknown.
                rate=Fraction(rate) if rate and 0 < rate <= 480 else None,
                color=color,
                sample_aspect_ratio=Fraction(stream.sample_aspect_ratio or 1),
                note=self._note,
            )
        )

    def _touch(self) -> None:
        self.active_ns = self._clock.monotonic_ns()


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[Any]]:
    """Packets of the stream; an empty one is the last, also before an error."""
    import av

    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        yield av.Packet()
        raise


def _is_finite(container: InputContainer) -> bool:
    return container.duration is not None and container.duration > 0
