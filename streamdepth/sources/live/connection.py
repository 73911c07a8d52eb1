"""The connection a live source has, one at a time, and those it has given up."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from streamdepth.core.redact import redact
from streamdepth.net.tls import TLS_SCHEMES, TlsError
from streamdepth.net.url import PASSWORD_VARIABLE, USER_VARIABLE
from streamdepth.sources.live.reader import Ended, LiveReader, Opened

if TYPE_CHECKING:
    from streamdepth.core.clock import Clock
    from streamdepth.net.tls import TlsConfig
    from streamdepth.net.url import Credentials, LiveUrl
    from streamdepth.sources.live.reader import Item, LiveDecoding

_WORST_ABANDONED = 3
_HLS_SILENCE_SECONDS = 20.0
_CLOSE_SECONDS = 0.5


class LiveLink:
    """Connects, and hands out what comes, each within a deadline.

    A call of libav's that hangs, in a name server's silence for example, is left to its thread: the link goes on
    without it, and has at most 3 such threads at a time.

    Args:
        timeout_seconds: how long connecting, and silence, may last. HLS may be silent for 20 s at least.

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
        clock: Clock,
    ) -> None:
        self._url = url
        self._address = url.with_credentials(credentials)
        self._trust = tls
        self._options = libav_options(url.scheme, transport, decoding.low_latency, timeout_seconds)
        # http may redirect to https.
        if url.scheme in TLS_SCHEMES | {"http"}:
            self._options |= tls.libav_options()
        self._decoding = decoding
        self._timeout_seconds = timeout_seconds
        # HLS comes a segment at a time, 6 s each where its authors follow RFC 8216.
        hls = urlsplit(url.location).path.lower().endswith(".m3u8")
        self._silence_seconds = max(timeout_seconds, _HLS_SILENCE_SECONDS) if hls else timeout_seconds
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
        """The deadline that holds now: for connecting, or for silence."""
        return self._silence_seconds if self._opened else self._timeout_seconds

    def wait(self, seconds: float) -> None:
        """Do nothing for a while, or until ``interrupt``."""
        self._stop.wait(seconds)

    def connect(self) -> Opened | Ended:
        """Returns within ``timeout_seconds``, at once after ``interrupt``."""
        self._opened = False
        if not self._make_room():
            return Ended(RuntimeError("earlier connections have not ended yet"))
        reader = LiveReader(
            self._address,
            self._options,
            open_timeout_seconds=self._timeout_seconds,
            # The first expiry of a read only makes libav hand out the frame it holds back; the second is the error.
            read_timeout_seconds=self._silence_seconds / 2,
            decoding=self._decoding,
            clock=self._clock,
            label=self._url.label,
            explain=lambda error: self._trust.explain(self._url, error, self._timeout_seconds / 2),
        )
        with self._lock:
            if self._stop.is_set():
                return Ended(None)
            self._reader = reader
            reader.start()
        started_ns = self._clock.monotonic_ns()
        while True:
            left = self._timeout_seconds - (self._clock.monotonic_ns() - started_ns) / 1e9
            item = reader.mailbox.take(max(left, 0.0))
            if isinstance(item, (Opened, Ended)):
                self._opened = isinstance(item, Opened)
                return item
            if self._stop.is_set():
                return Ended(None)
            if item is None and left <= 0:
                return Ended(TimeoutError())

    def next_item(self) -> Item | None:
        """What came next; ``Ended`` after too long a silence, None after ``interrupt`` or for want of news."""
        with self._lock:
            reader = self._reader
        if reader is None:
            return Ended(None)
        item = reader.mailbox.take(max(self._silence_seconds - self._silent_seconds(reader), 0.01))
        if item is not None or self._stop.is_set():
            return item
        return Ended(TimeoutError()) if self._silent_seconds(reader) >= self._silence_seconds else None

    def abandon(self) -> None:
        """Give the connection up, at once; its thread ends by libav's own deadline."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.abandon()
            self._abandoned.append(reader)

    def interrupt(self) -> None:
        """End every call, now and later."""
        self._stop.set()
        with self._lock:
            if self._reader is not None:
                self._reader.abandon()

    def close(self) -> None:
        """Returns within a second; idempotent."""
        self.interrupt()
        self.abandon()
        if self._abandoned:
            self._abandoned[-1].join(_CLOSE_SECONDS)

    def _silent_seconds(self, reader: LiveReader) -> float:
        return (self._clock.monotonic_ns() - reader.active_ns) / 1e9

    def _make_room(self) -> bool:
        """Readers whose call has not come back yet are few: more than 3 would be a leak, so wait for one to end."""
        for _ in range(40):
            self._abandoned = [reader for reader in self._abandoned if reader.alive]
            if len(self._abandoned) < _WORST_ABANDONED:
                return True
            if self._stop.wait(self._timeout_seconds / 40):
                return True
        return False


def libav_options(scheme: str, transport: str, low_latency: bool, timeout_seconds: float) -> dict[str, str]:
    """Options for ``av.open``; each was measured to matter, see the comments."""
    microseconds = str(int(timeout_seconds * 1_000_000))
    # libav looks at a stream before it gives anything out. Measured with key frames 2 s apart: "fflags=nobuffer" throws
    # away what it looked at, the key frame included, so the first image came after 2.0 s; keeping it and looking for
    # 0.2 s only, after 0.22 s, with the same 40 ms behind the camera from then on.
    options = {"analyzeduration": "200000" if low_latency else "1000000"}
    if low_latency:
        options["fpsprobesize"] = "0"
    if scheme in ("rtsp", "rtsps"):
        options |= {
            "timeout": microseconds,
            # A key frame of a 4K camera is a burst of several hundred KB; the system's default holds 208 KiB.
            "buffer_size": "2097152",
            "max_delay": "100000" if low_latency else "500000",
        }
        options |= {"rtsp_flags": "prefer_tcp"} if transport == "auto" else {"rtsp_transport": transport}
    elif scheme in ("http", "https"):
        options |= {"rw_timeout": microseconds, "live_start_index": "-1"}
    return options


def reason(error: Exception | None, timeout_seconds: float) -> str:
    """Why a connection ended, for people; never libav's own text where that holds the URL."""
    import av

    if error is None:
        return "the stream ended"
    named: tuple[tuple[type[Exception], str], ...] = (
        (av.error.HTTPUnauthorizedError, "the server wants a user name and password (401)"),
        (av.error.HTTPForbiddenError, "the server refuses access (403)"),
        (av.error.HTTPNotFoundError, "the server has no stream at this path (404)"),
        (av.error.HTTPServerError, "the server cannot serve it now (5xx)"),
        (ConnectionRefusedError, "nothing listens there (connection refused)"),
        (av.error.ExitError, f"nothing came for {timeout_seconds:g} s"),
        (av.error.InvalidDataError, "what came is not a video stream, or no answer came in time"),
        (av.error.ProtocolNotFoundError, "this build of FFmpeg lacks the protocol"),
    )
    for kind, text in named:
        if isinstance(error, kind):
            return text
    if isinstance(error, TimeoutError):
        return (
            str(error.args[0])
            if error.args and not isinstance(error, OSError)
            else f"no answer in {timeout_seconds:g} s"
        )
    if isinstance(error, av.error.FFmpegError):
        return str(error.strerror or type(error).__name__).lower()
    return redact(str(error))


def is_busy(error: Exception | None) -> bool:
    """True where the server itself says that it may work later (5xx)."""
    import av

    return isinstance(error, av.error.HTTPServerError)


def hint(error: Exception | None) -> str:
    """What a person can do about it."""
    import av

    if isinstance(error, TlsError):
        return error.hint
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return f"put user:password@ into the address or set {USER_VARIABLE} and {PASSWORD_VARIABLE}"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "check the path after the host"
    if isinstance(error, av.error.ProtocolNotFoundError):
        return "use rtsp, rtmp, http or udp, or build PyAV on an FFmpeg that has it"
    return "check the address and that the camera runs, or let it retry"
