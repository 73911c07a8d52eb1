"""Who may talk to a web server: token, sessions, hosts and origins."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from streamdepth.serve.api import failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = "streamdepth"
_SESSIONS = 256
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PAUSE_SECONDS = 0.3
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class AuthMiddleware:
    """Decides about every request before its handler sees it.

    With a token, all but ``open_paths`` needs it: as ``Authorization: Bearer``, or as the cookie that ``POST /login``
    gives for it. Without one (loopback only) the ``Host`` must be a loopback name, so that no site can reach the server
    by rebinding its own name. Requests from other origins are refused, whoever's cookie they propagate.
    """

    def __init__(self, token: str | None, open_paths: frozenset[str]) -> None:
        self._token = token
        self._open_paths = open_paths
        self._sessions: OrderedDict[str, None] = OrderedDict()
        self._page: Handler | None = None

    @property
    def closed(self) -> bool:
        """True where a token is needed."""
        return self._token is not None

    def login_page(self, handler: Handler) -> None:
        """What ``GET /`` gets without a token."""
        self._page = handler

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        if self._token is not None and request.path not in self._open_paths and not self._known(request):
            if "Authorization" in request.headers:
                await asyncio.sleep(_PAUSE_SECONDS)
            if request.path == "/" and request.method == "GET" and self._page is not None:
                return await self._page(request)
            return failure(401, "a token is needed; send it as Authorization: Bearer TOKEN, or open the page's link")
        return await handler(request)

    async def login(self, request: web.Request) -> web.StreamResponse:
        """``POST /login`` with ``{"token": ...}``."""
        try:
            content = await request.json()
        except ValueError:
            content = None
        given = content.get("token") if isinstance(content, dict) else None
        if self._token is None or not isinstance(given, str) or not _same(given, self._token):
            await asyncio.sleep(_PAUSE_SECONDS)
            return failure(401, "that is not the token; it stands where streamdepth was started")
        session = secrets.token_urlsafe(24)
        self._sessions[session] = None
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        reply = web.Response(status=204)
        reply.set_cookie(COOKIE, session, httponly=True, samesite="Strict", path="/")
        return reply

    def _known(self, request: web.Request) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._token is not None and _same(given.strip(), self._token):
            return True
        return request.cookies.get(COOKIE, "") in self._sessions

    def _refused(self, request: web.Request) -> web.Response | None:
        host = request.headers.get("Host", "")
        if self._token is None and not _is_loopback_name(host):
            return failure(403, "this server answers to loopback names only; open it as http://127.0.0.1 or localhost")
        changes = request.method not in _SAFE_METHODS or "Upgrade" in request.headers
        origin = request.headers.get("Origin")
        if origin is not None and changes and urlsplit(origin).netloc.lower() != host.lower():
            return failure(403, "the request comes from another site")
        site, mode = request.headers.get("Sec-Fetch-Site"), request.headers.get("Sec-Fetch-Mode")
        if site in ("cross-site", "same-site") and (changes or mode != "navigate"):
            return failure(403, "the request comes from another site")
        return None


async def harden(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every answer."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "streamdepth"
    if not request.path.startswith("/static/"):
        response.headers.setdefault("Cache-Control", "no-store")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _is_loopback_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
