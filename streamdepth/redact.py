"""The one place where secrets are taken out of text that people or machines will read."""

from __future__ import annotations

import re

_MASK = "***"

# Everything up to the LAST "@" before the path is user information (RFC 3986 3.2.1); passwords people type often hold
# an unescaped "@", "/" never (FFmpeg and every camera vendor require it escaped).
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^\s/\"'<>]*)@")
_SECRET_PARAMETER = re.compile(
    r"(?P<key>[?&;](?:access[_-]?token|api[_-]?key|auth|key|pass(?:word|wd)?|pwd|secret|sig(?:nature)?|token)=)"
    r"[^\s&;#\"'<>]+",
    re.IGNORECASE,
)
_AUTH_HEADER = re.compile(r"(?P<key>\bAuthorization\b[\"']?\s*[:=]\s*[\"']?\w+\s+)[^\r\n\"']+", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def redact(text: str) -> str:
    """Return ``text`` with user information of URLs, secret query parameters, auth headers and Hub tokens masked.

    Idempotent; percent-encoded user information is masked whole. Thread-safe.
    """
    text = _USERINFO.sub(lambda m: f"{m['scheme']}{_MASK}@", text)
    text = _SECRET_PARAMETER.sub(lambda m: f"{m['key']}{_MASK}", text)
    text = _AUTH_HEADER.sub(lambda m: f"{m['key']}{_MASK}", text)
    return _HUB_TOKEN.sub(_MASK, text)
