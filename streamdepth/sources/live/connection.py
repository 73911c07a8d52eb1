"""The connection of a live source, the options of libav for it, and its errors in plain words."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from streamdepth.core.errors import plain_reason, redact
from streamdepth.net.url import PASSWORD_VARIABLE, TLS_SCHEMES, USER_VARIABLE, TlsError
from streamdepth.sources.live.reader import Ended, LiveReader, NoVideoError, Opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.clock import Clock
    from streamdepth.net.url import Credentials, LiveUrl, TlsConfig
    from streamdepth.sources.live.reader import Item, LiveDecoding

_MAX_ABANDONED = 3
_KEY_FRAME_SECONDS = 60.0
_HLS_SILENCE_SECONDS = 20.0
_CLOSE_SECONDS = 0.5


class NoKeyFrameError(TimeoutError):
    """Packets arrive, but no frame that can be decoded."""


class LiveLink:
    """Connects and delivers what arrives, each within a deadline.

    A blocked call of libav, for example in name resolution, is abandoned with its thread; there are at most 3 such
    threads at a time.

    Args:
        timeout_seconds: limit for connecting and for silence. HLS may be silent for at least 20 s.
        on_key_frame_wait: called when this time has passed and packets arrive, but no key frame yet.

    Thread-safety: ``interrupt`` from any thread; the rest from one at a time.
    """

    def __init__(
        self,
        url: LiveUrl,
        credentials: Credentials | None,
        tls: TlsConfig,
        *,
        transport: str,
        decoding: LiveDecoding,
        timeout_seconds: float,
        on_key_frame_wait: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._url = url
        self._address = url.with_credentials(credentials)
        self._tls = tls
        self._options = libav_options(url.scheme, transport, decoding.low_latency, timeout_seconds)
        # http may redirect to https
        if url.scheme in TLS_SCHEMES | {"http"}:
            self._options |= tls.libav_options()
        self._decoding = decoding
        self._timeout_seconds = timeout_seconds
        # HLS arrives in segments, of 6 s if its authors follow RFC 8216.
        hls = urlsplit(url.location).path.lower().endswith(".m3u8")
        self._silence_seconds = max(timeout_seconds, _HLS_SILENCE_SECONDS) if hls else timeout_seconds
        self._on_key_frame_wait = on_key_frame_wait
        self._clock = clock
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._reader: LiveReader | None = None
        self._abandoned: list[LiveReader] = []
        self._opened = False

    def interrupted(self) -> bool:
        return self._stop.is_set()

    @property
    def patience_seconds(self) -> float:
        """The limit that applies now: for connecting or for silence."""
        return self._silence_seconds if self._opened else self._timeout_seconds

    def wait(self, seconds: float) -> None:
        """Wait for this time or until ``interrupt``."""
        self._stop.wait(seconds)

    def connect(self) -> Opened | Ended:
        """Connect within ``timeout_seconds``; ends at once after ``interrupt``.

        Any packet counts as an answer: while packets arrive, the first key frame may take up to 60 s.
        """
        self._opened = False
        if not self._make_room():
            return Ended(RuntimeError("earlier connections have not ended yet"))
        reader = LiveReader(
            self._address,
            self._options,
            open_timeout_seconds=self._timeout_seconds,
            # The first expiry of a read only makes libav output the frame it holds; the second one is the error.
            read_timeout_seconds=self._silence_seconds / 2,
            decoding=self._decoding,
            clock=self._clock,
            label=self._url.label,
            explain=lambda error: self._tls.explain(self._url, error, self._timeout_seconds / 2),
        )
        with self._lock:
            if self._stop.is_set():
                return Ended(None)
            self._reader = reader
            reader.start()
        announced = False
        while True:
            item = reader.mailbox.take(max(self._left_seconds(reader, waiting=announced), 0.0))
            if isinstance(item, (Opened, Ended)):
                self._opened = isinstance(item, Opened)
                return item
            if self._stop.is_set():
                return Ended(None)
            if item is not None or self._left_seconds(reader, waiting=announced) > 0:
                continue
            silent = not reader.opened or self._silent_seconds(reader) >= self._silence_seconds
            if announced or silent:
                return Ended(TimeoutError() if silent else NoKeyFrameError())
            announced = True
            self._on_key_frame_wait()

    def next_item(self) -> Item | None:
        """The next item; ``Ended`` after too long a silence, None after ``interrupt`` or if there is none yet."""
        with self._lock:
            reader = self._reader
        if reader is None:
            return Ended(None)
        item = reader.mailbox.take(max(self._silence_seconds - self._silent_seconds(reader), 0.01))
        if item is not None or self._stop.is_set():
            return item
        return Ended(TimeoutError()) if self._silent_seconds(reader) >= self._silence_seconds else None

    def abandon(self) -> None:
        """Abandon the connection at once; its thread ends by libav's deadline."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.abandon()
            self._abandoned.append(reader)

    def interrupt(self) -> None:
        """End every call, now and in future."""
        self._stop.set()
        with self._lock:
            if self._reader is not None:
                self._reader.abandon()

    def close(self) -> None:
        """Return within a second; idempotent."""
        self.interrupt()
        self.abandon()
        if self._abandoned:
            self._abandoned[-1].join(_CLOSE_SECONDS)

    def _left_seconds(self, reader: LiveReader, *, waiting: bool) -> float:
        """Until the next decision about a connection: for a frame, or (``waiting``) for a key frame."""
        left = self._timeout_seconds - (self._clock.monotonic_ns() - reader.started_ns) / 1e9
        if not waiting:
            return left
        return min(self._silence_seconds - self._silent_seconds(reader), left + _KEY_FRAME_SECONDS)

    def _silent_seconds(self, reader: LiveReader) -> float:
        return (self._clock.monotonic_ns() - reader.active_ns) / 1e9

    def _make_room(self) -> bool:
        """Wait until fewer than 3 abandoned readers are left; more would be a leak."""
        for _ in range(40):
            self._abandoned = [reader for reader in self._abandoned if reader.alive]
            if len(self._abandoned) < _MAX_ABANDONED:
                return True
            if self._stop.wait(self._timeout_seconds / 40):
                return True
        return False


def libav_options(scheme: str, transport: str, low_latency: bool, timeout_seconds: float) -> dict[str, str]:
    """Options for ``av.open``; the effect of each was measured."""
    microseconds = str(int(timeout_seconds * 1_000_000))
    # libav probes a stream before it outputs anything. Measured with key frames every 2 s: "fflags=nobuffer" drops the
    # probed packets including the key frame, so that the first frame comes after 2.0 s; keeping them and probing for
    # 0.2 s only gives it after 0.22 s, with the same latency of 40 ms from then on.
    options = {"analyzeduration": "200000" if low_latency else "1000000"}
    if low_latency:
        options["fpsprobesize"] = "0"
    if scheme in ("rtsp", "rtsps"):
        options |= {
            "timeout": microseconds,
            # A key frame of a 4K camera is a burst of several hundred KB; the system's default is 208 KiB.
            "buffer_size": "2097152",
            "max_delay": "100000" if low_latency else "500000",
        }
        options |= {"rtsp_flags": "prefer_tcp"} if transport == "auto" else {"rtsp_transport": transport}
    elif scheme in ("http", "https"):
        options |= {"rw_timeout": microseconds, "live_start_index": "-1"}
    return options


def reason(error: Exception | None, timeout_seconds: float) -> str:
    """Why a connection ended, in plain words; never libav's text if that contains the URL."""
    import av

    if error is None:
        return "the stream ended"
    named: tuple[tuple[type[Exception], str], ...] = (
        (av.error.HTTPUnauthorizedError, "the server requires a user name and password (401)"),
        (av.error.HTTPForbiddenError, "the server refuses access (403)"),
        (av.error.HTTPNotFoundError, "the server has no stream at this path (404)"),
        (av.error.HTTPServerError, "the server cannot serve it now (5xx)"),
        (ConnectionRefusedError, "connection refused"),
        (av.error.ExitError, f"no data for {timeout_seconds:g} s"),
        (av.error.InvalidDataError, "the data is not a video stream, or the answer came too late"),
        (av.error.ProtocolNotFoundError, "this build of FFmpeg lacks the protocol"),
    )
    for kind, text in named:
        if isinstance(error, kind):
            return text
    if isinstance(error, NoKeyFrameError):
        return f"packets arrive, but no key frame in {_KEY_FRAME_SECONDS:g} s"
    if isinstance(error, TimeoutError):
        return (
            str(error.args[0])
            if error.args and not isinstance(error, OSError)
            else f"no answer in {timeout_seconds:g} s"
        )
    if isinstance(error, av.error.FFmpegError):
        return plain_reason(error)
    return redact(str(error))


def is_busy(error: Exception | None) -> bool:
    """True if the server reports a temporary error (5xx)."""
    import av

    return isinstance(error, av.error.HTTPServerError)


def is_silent(error: Exception | None) -> bool:
    """True if nothing arrived in time."""
    import av

    return isinstance(error, TimeoutError | av.error.ExitError) and not isinstance(error, NoKeyFrameError)


def hint(error: Exception | None) -> str:
    """What the user can do."""
    import av

    if isinstance(error, TlsError):
        return error.hint
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return f"put user:password@ into the address or set {USER_VARIABLE} and {PASSWORD_VARIABLE}"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "check the path after the host"
    if isinstance(error, av.error.ProtocolNotFoundError):
        return "use rtsp, rtmp, http or udp, or build PyAV with an FFmpeg that has it"
    if isinstance(error, NoVideoError):
        return "check the path, or set the camera or encoder to H.264 or H.265"
    if isinstance(error, NoKeyFrameError):
        return "set a shorter key frame interval (GOP) in the camera or encoder"
    if isinstance(error, TimeoutError | av.error.ExitError):
        return "check the address and that the camera runs, or raise --timeout if it sends less often"
    return "check the address and that the camera runs, or use --retries to keep trying"
