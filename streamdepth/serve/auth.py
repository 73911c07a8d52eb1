"""Access to a web server: token, sessions, allowed hosts and origins."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from streamdepth.net.calls import GuessDelays
from streamdepth.serve.api import ApiError, failure

if TYPE_CHECKING:
    from streamdepth.serve.api import Handler
    from streamdepth.serve.bodies import BodyReader

_SESSIONS = 256
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class AuthMiddleware:
    """Checks every request before its handler runs.

    With a token, every path except ``open_paths`` requires it: as ``Authorization: Bearer``, or as the session cookie
    that ``POST /login`` sets. Without one (loopback only) the ``Host`` must be a loopback name, so that no website can
    reach the server by DNS rebinding. Requests from other origins are refused, whatever cookie they carry.

    Args:
        port: part of the cookie's name, since browsers share cookies between the ports of a host.
        login_page: what ``GET /`` answers without a token.
    """

    def __init__(
        self, token: str | None, open_paths: frozenset[str], *, port: int, bodies: BodyReader, login_page: Handler
    ) -> None:
        self._token = token
        self._open_paths = open_paths
        self._cookie = f"streamdepth-{port}"
        self._bodies = bodies
        self._login_page = login_page
        self._guesses = GuessDelays()
        self._sessions: OrderedDict[str, None] = OrderedDict()

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if self._token is not None and request.path not in self._open_paths and not self._is_authenticated(request):
            if "Authorization" in request.headers:
                await self._delay(request)
            if request.path == "/" and request.method == "GET":
                return await self._login_page(request)
            return failure(401, "a token is required; send it as Authorization: Bearer TOKEN, or open the page's link")
        return await handler(request)

    async def login(self, request: web.Request) -> web.StreamResponse:
        """``POST /login`` with ``{"token": ...}``."""
        try:
            content = await self._bodies.json_object(request)
        except ApiError as error:
            if error.status not in (400, 415):
                raise
            content = {}
        given = content.get("token")
        if self._token is None or not isinstance(given, str) or not _same(given, self._token):
            await self._delay(request)
            return failure(401, "wrong token; use the one that streamdepth printed or was started with")
        session = secrets.token_urlsafe(24)
        self._sessions[session] = None
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        answer = web.Response(status=204)
        answer.set_cookie(self._cookie, session, httponly=True, samesite="Strict", path="/")
        return answer

    async def _delay(self, request: web.Request) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._guesses.next_seconds(request.remote or "", now))

    def _is_authenticated(self, request: web.Request) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._token is not None and _same(given.strip(), self._token):
            return True
        return request.cookies.get(self._cookie, "") in self._sessions

    def _refusal(self, request: web.Request) -> web.Response | None:
        host = request.headers.get("Host", "")
        if self._token is None and not _is_loopback_name(host):
            return failure(403, "this server answers loopback names only; open it as http://127.0.0.1 or localhost")
        changes = request.method not in _SAFE_METHODS or "Upgrade" in request.headers
        origin = request.headers.get("Origin")
        if origin is not None and changes and _netloc(origin) != host.lower():
            return failure(403, "the request comes from another site")
        site, mode = request.headers.get("Sec-Fetch-Site"), request.headers.get("Sec-Fetch-Mode")
        if site in ("cross-site", "same-site") and (changes or mode != "navigate"):
            return failure(403, "the request comes from another site")
        return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


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
