"""What libav is told about live streams, and what its errors mean to people."""

from __future__ import annotations

from streamdepth.core.redact import redact
from streamdepth.net.tls import TlsError
from streamdepth.net.url import PASSWORD_VARIABLE, USER_VARIABLE


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
