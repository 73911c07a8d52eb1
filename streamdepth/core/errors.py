"""Errors, and secrets removed from their messages and from all other text that is shown or stored.

Each error has the root :class:`StreamDepthError` and is also the matching builtin exception. A message is one line:
``thing: what is wrong; what to do``. Every message is passed through :func:`redact`, which treats ambiguous text as a
secret rather than as a host name: see :func:`split_userinfo` for the rule.
"""

from __future__ import annotations

import difflib
import re
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALIKE = 0.7
"""One wrong letter in a word of four scores 0.75, as does ``.mp5``. Unrelated words that share letters score less
(``nope`` and ``copper``: 0.6)."""

_MASK = "***"
_STREAMING = frozenset({"rtsp", "rtsps", "rtspu", "rtmp", "rtmps", "srt", "rtp", "udp", "tcp"})

# The character after a quote or bracket decides whether it is part of a password or closes a string.
_IN_URL = r"(?:[^\s\"'<>]|[\"'<>](?=[^\s,)\]}:;>/\"']))"
_URL = re.compile(rf"(?P<head>(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{{0,31}})://)(?P<rest>{_IN_URL}+)")
_NESTED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://")
_ENCODED_URL = re.compile(
    r"(?P<head>[A-Za-z][A-Za-z0-9+.-]{0,31}(?::|%(?:25){0,3}3A)(?:/|%(?:25){0,3}2F){2})(?P<rest>[^\s\"'<>&]+)",
    re.IGNORECASE,
)
_IPV6_HOST = re.compile(r"\[[0-9A-Fa-f:.]+(?:%\w+)?\]")
_ENCODED_AT = re.compile(r"@|%(?:25){0,3}40", re.IGNORECASE)

_SENSITIVE = (
    r"(?:access[_-]?token|refresh[_-]?token|id[_-]?token|auth[_-]?token|api[_-]?key|client[_-]?secret|"
    r"pass(?:word|wd|phrase)?|pwd|secret|token)"
)
_QUERY = re.compile(
    rf"(?P<key>(?:[?&;]|%(?:25)*(?:3F|26|3B))(?:{_SENSITIVE}|auth|key|sig(?:nature)?)(?:=|%(?:25)*3D))[^\s&;#\"'<>]+",
    re.IGNORECASE,
)
_QUOTED_FIELD = re.compile(
    rf"(?P<key>(?<![A-Za-z]){_SENSITIVE}\\?[\"']?\s*[:=]\s*b?)(?P<quote>\\?[\"'])(?P<value>(?:\\.|(?!(?P=quote)).)+)(?P=quote)",
    re.IGNORECASE,
)
_BARE_FIELD = re.compile(rf"(?P<key>(?<![A-Za-z?&;]){_SENSITIVE}=)[^\s&;#,\"'<>()]+", re.IGNORECASE)

_PARAMETERS = r"\w+=(?:\\?\"[^\"]*\"|[^,\s\"'\\]+)(?:\s*,\s*\w+=(?:\\?\"[^\"]*\"|[^,\s\"'\\]+))*"
_AUTH_HEADER = re.compile(
    r"(?P<key>\b(?:Proxy-)?Authorization\b[\"']?\s*[:=,]\s*b?[\"']?)"
    rf"(?P<kind>\w+[ \t]+)?(?:{_PARAMETERS}|[^\s\"'\\,;]+)",
    re.IGNORECASE,
)
_KEY_HEADER = re.compile(r"(?P<key>\bX-(?:Api-Key|Auth-Token)[\"']?\s*[:=,]\s*b?[\"']?)[^\s\"'\\,;]+", re.IGNORECASE)
_BEARER = re.compile(r"(?P<key>\bBearer[ \t]+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_(?:[A-Za-z0-9]{20,}|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{8,})")


_WINSOCK: dict[object, str] = {
    10013: "permission denied",
    10048: "address already in use",
    10049: "cannot assign requested address",
    10051: "network is unreachable",
    10053: "software caused connection abort",
    10054: "connection reset by peer",
    10060: "connection timed out",
    10061: "connection refused",
    10065: "no route to host",
    11001: "name or service not known",
}
_MSVC: dict[object, int] = {
    100: 10048, 101: 10049, 106: 10053, 107: 10061, 108: 10054, 110: 10065, 118: 10051, 138: 10060,
}  # fmt: skip
"""The codes of errno.h on Windows, which FFmpeg returns there; Python's ``errno`` has those of Winsock."""


class StreamDepthError(Exception):
    """Root of all errors this library raises.

    Attributes:
        stage: pipeline stage the error came from (``"capture"``, ``"infer"``, ...), empty outside a pipeline.
        source: redacted id of the source being processed, empty if there is none.
        exit_code: exit code of the command line.
    """

    exit_code = 1

    def __init__(self, message: str, *, stage: str = "", source: str = "") -> None:
        super().__init__(redact(message))
        self.stage = stage
        self.source = redact(source)

    @property
    def message(self) -> str:
        """The redacted message without the source."""
        return str(self.args[0])

    def __str__(self) -> str:
        return self._from(self.source)

    def _from(self, *parts: str) -> str:
        where = " of ".join(part for part in parts if part and part not in self.message)
        return f"{where}: {self.message}" if where else self.message


class UsageError(StreamDepthError, ValueError):
    """An invalid option, argument or configuration value (exit code 2)."""

    exit_code = 2


class SourceError(StreamDepthError, OSError):
    """A source that cannot be opened or read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """A source that does not exist."""


class ModelError(StreamDepthError, ValueError):
    """A model that cannot be loaded, or that is not a depth model."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """A model, revision or dtype that does not exist."""


class ProviderError(StreamDepthError, RuntimeError):
    """An execution provider that was requested by name and cannot run on this machine."""


class InferenceError(StreamDepthError, RuntimeError):
    """The model failed while running."""


class SinkError(StreamDepthError, OSError):
    """An output that cannot be opened or written."""


class OutputExistsError(SinkError, FileExistsError):
    """An output that already exists and may not be overwritten."""


class DisplayError(SinkError):
    """A window that cannot be opened, usually because there is no display."""


class DataFormatError(StreamDepthError, ValueError):
    """An image, tensor or depth file whose content does not match its description."""


class MissingDependencyError(StreamDepthError, ImportError):
    """An optional package that is not installed; the message contains the install command."""


class DeadlineError(StreamDepthError, TimeoutError):
    """An operation that did not finish within its deadline."""


class StageError(StreamDepthError, RuntimeError):
    """An exception from a callback or another library that ended a pipeline; ``__cause__`` is the original."""

    def __str__(self) -> str:
        return self._from(self.stage, self.source)


class StopPipeline(Exception):  # noqa: N818 - a request, not an error
    """Raised by a sink or a callback to end the run normally, for example when a window is closed."""


def plain_reason(error: BaseException, system: str = sys.platform) -> str:
    """The message of the operating system or FFmpeg in lower case; network errors of Windows in the words of POSIX."""
    code = getattr(error, "errno", None)
    known = _WINSOCK.get(_MSVC.get(code, code) if system == "win32" else code)
    return known or (str(getattr(error, "strerror", None) or error) or type(error).__name__).lower()


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'X'?)"`` for the most similar known word, or an empty string if none is similar."""
    found = difflib.get_close_matches(word, [one for one in known if one != word], n=1, cutoff=_ALIKE)
    return f" (did you mean {found[0]!r}?)" if found else ""


def install_command(extra: str) -> str:
    """The command that installs an extra. The package is not published, so the command names the source folder."""
    return f"pip install '.[{extra}]' in the source folder of streamdepth"


def redact(text: str) -> str:
    """Return ``text`` with URL user information, secret parameters and fields, auth headers and Hub tokens masked.

    The URL or header may be part of any text, such as the ``repr`` of an exception. Idempotent. Thread-safe.
    """
    text = _URL.sub(lambda m: m["head"] + _mask_rest(m["scheme"], m["rest"]), text)
    text = _ENCODED_URL.sub(_mask_encoded, text)
    text = _QUERY.sub(lambda m: f"{m['key']}{_MASK}", text)
    text = _AUTH_HEADER.sub(_mask_header, text)
    text = _KEY_HEADER.sub(lambda m: f"{m['key']}{_MASK}", text)
    text = _BEARER.sub(lambda m: f"{m['key']}{_MASK}", text)
    text = _QUOTED_FIELD.sub(lambda m: f"{m['key']}{m['quote']}{_MASK}{m['quote']}", text)
    text = _BARE_FIELD.sub(lambda m: f"{m['key']}{_MASK}", text)
    return _HUB_TOKEN.sub(_MASK, text)


def one_line(text: str) -> str:
    """``redact(text)`` on one line: each run of white space becomes one space. Thread-safe."""
    return redact(" ".join(text.split()))


def split_userinfo(url: str) -> tuple[str | None, str]:
    """``"scheme://user:pass@host/x"`` -> ``("user:pass", "scheme://host/x")``; None without user information.

    RFC 3986 (3.2.1) requires ``@ / ? #`` in a password to be escaped, but users type them unescaped. User information
    therefore extends to the last ``@`` of the URL if the part before the first ``/`` contains an ``@`` or no valid
    port, and for streaming schemes also if it contains a port (``rtsp://admin:12/34@cam``: camera paths contain no
    ``@``). Other URLs are left as they are: ``http://host:80/@name``, ``https://host/@scope/package``.
    """
    match = _URL.match(url)
    if match is None:
        return None, url
    end = _userinfo_end(match["scheme"], url[match.end("head") :])
    if end is None:
        return None, url
    rest = url[match.end("head") :]
    return rest[:end], match["head"] + rest[end + 1 :]


def _userinfo_end(scheme: str, rest: str) -> int | None:
    at = rest.rfind("@")
    if at < 0:
        return None
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in authority:
        return at
    host, colon, port = authority.rpartition(":")
    if not colon or _IPV6_HOST.fullmatch(authority):
        return None
    plain_port = port.isascii() and port.isdigit() and (":" not in host or _IPV6_HOST.fullmatch(host) is not None)
    return at if not plain_port or scheme.lower() in _STREAMING else None


def _mask_rest(scheme: str, rest: str) -> str:
    done = 0
    while "@" in rest[done:]:
        end = _userinfo_end(scheme, rest[done:])
        if end is not None:
            return f"{rest[:done]}{_MASK}@{rest[done + end + 1 :]}"
        # Another URL may follow without white space in between.
        nested = _NESTED.search(rest, done)
        if nested is None:
            break
        scheme, done = nested.group()[:-3], nested.end()
    return rest


def _mask_encoded(match: re.Match[str]) -> str:
    head, rest = match["head"], match["rest"]
    if head.endswith("://") and "@" in rest:
        return match.group()
    marks = list(_ENCODED_AT.finditer(rest))
    if not marks:
        return match.group()
    plain = rest
    for _ in range(4):
        plain = unquote(plain)
    if _userinfo_end(head.split("%")[0].split(":")[0], plain) is None:
        return match.group()
    last = marks[-1]
    return head + _MASK + rest[last.start() :]


def _mask_header(match: re.Match[str]) -> str:
    return f"{match['key']}{match['kind'] or ''}{_MASK}"
