"""An aiohttp application on its own thread and event loop, access to it, and the static files of the page."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
import socket
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from aiohttp import web

from streamdepth.core.errors import DeadlineError, SinkError, one_line, plain_reason
from streamdepth.core.host import prepare_listener
from streamdepth.net.calls import GuessDelays
from streamdepth.serve.api import LOGGER, ApiError, failure, harden, internal_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.serve.api import Handler
    from streamdepth.serve.bodies import BodyReader
    from streamdepth.serve.options import Listen

_START_SECONDS = 5.0
_STOP_SECONDS = 5.0
_DRAIN_SECONDS = 0.5
_KEEPALIVE_SECONDS = 30.0
_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_STATIC = ("app.css", "app.js", "live.js", "grid.css", "grid.js", "graphs.js", "drop.js", "login.js", "icon.svg")
OPEN_PATHS = frozenset({"/static/app.css", "/static/login.js", "/static/icon.svg", "/healthz", "/login"})
"""Paths that need no token: the login page's files, which hold no data, the login and the health check."""


class WebServer:
    """Starts, and stops within seconds whatever its clients do. ``start`` and ``stop`` from any thread."""

    def __init__(self, listen: Listen, make_app: Callable[[], web.Application], *, max_connections: int) -> None:
        self._listen = listen
        self._make_app = make_app
        self._max_connections = max_connections
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.port = listen.port

    def start(self) -> None:
        """Listen and serve.

        Raises:
            SinkError: the port is in use or not permitted.
        """
        bound = _bind(self._listen)
        self.port = int(bound.getsockname()[1])
        ready: Future[None] = Future()
        name = f"web-server {self._listen.address}:{self.port}"
        self._thread = threading.Thread(target=self._work, args=(bound, ready), name=name, daemon=True)
        self._thread.start()
        ready.result(_START_SECONDS)

    def stop(self) -> None:
        """End every connection. Idempotent.

        Raises:
            DeadlineError: a handler did not end.
        """
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None or loop is None or stopping is None or not thread.is_alive():
            return
        try:
            loop.call_soon_threadsafe(stopping.set)
        except RuntimeError:  # the loop has just ended
            return
        if threading.current_thread() is not thread:
            thread.join(_STOP_SECONDS)
            if thread.is_alive():
                raise DeadlineError(f"the web server did not end within {_STOP_SECONDS:g} s")

    def _work(self, bound: socket.socket, ready: Future[None]) -> None:
        try:
            asyncio.run(self._serve(bound, ready))
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            bound.close()

    async def _serve(self, bound: socket.socket, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(None, "web-viewers"))
        runner = web.AppRunner(
            self._make_app(),
            handle_signals=False,
            shutdown_timeout=_DRAIN_SECONDS,
            handler_cancellation=True,  # a client that has left needs no answer
        )
        await runner.setup()
        server = None
        try:
            server = await self._loop.create_server(lambda: _NewConnection(self, runner), sock=bound, backlog=128)
            ready.set_result(None)
            await self._stopping.wait()
        finally:
            if server is not None:
                server.close()
            await runner.cleanup()

    def admit(self, transport: asyncio.Transport, runner: web.AppRunner) -> None:
        """Serve a new connection. If there are too many, it replaces one that is idle or has sent no valid token: the
        one whose last answer, or whose beginning, is longest ago. On the loop.
        """
        manager = runner.server
        assert manager is not None and self._loop is not None  # noqa: PT018, S101 - after setup()
        connections = [one for one in manager.connections if isinstance(one, _Connection) and one.transport is not None]
        if len(connections) >= self._max_connections:
            replaceable = [one for one in connections if one.idle or not one.authenticated]
            if not replaceable:
                transport.close()
                return
            min(replaceable, key=lambda one: one.idle_since).force_close()
        connection = _Connection(
            manager,
            loop=self._loop,
            access_log=None,
            logger=_logger(),
            keepalive_timeout=_KEEPALIVE_SECONDS,
            auto_decompress=False,  # 20 KB of zstd become 600 MB, on the loop
        )
        transport.set_protocol(connection)
        connection.connection_made(transport)


class _Connection(web.RequestHandler):
    """A connection whose errors look like all other answers, and that can be closed while it is idle.

    Attributes:
        idle_since: when the last answer ended.
        authenticated: the request that is being handled may be handled, and is not for an open path.
    """

    __slots__ = ("authenticated", "idle_since")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self.idle_since = loop.time()
        self.authenticated = False

    @property
    def idle(self) -> bool:
        """No request is being handled: none has arrived completely, or the answer to the last one was sent."""
        return self._current_request is None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPExpectationFailed):  # raised before the middlewares
            resp = failure(417, "the only expectation that is supported is 100-continue; send no other Expect header")
            harden(resp)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.idle_since = self._loop.time()
            self.authenticated = False

    def handle_error(
        self, _: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that is not HTTP, or whose handler failed outside the middlewares."""
        del message  # quotes what the client sent
        if status >= 500 and exc is not None:
            answer = internal_error(exc)
        else:
            answer = failure(status, "the request is not valid HTTP")
        harden(answer)
        answer.force_close()
        return answer


class _NewConnection(asyncio.Protocol):
    """A connection before it is admitted.

    For a burst of connections asyncio creates all their protocols before it calls ``connection_made`` of the first one:
    a limit that is checked at creation would not see the others.
    """

    def __init__(self, server: WebServer, runner: web.AppRunner) -> None:
        self._server, self._runner = server, runner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.admit(cast("asyncio.Transport", transport), self._runner)


class _Redacted(logging.Filter):
    """Log records quote what clients send, which may be a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args, record.exc_info = one_line(record.getMessage()), (), None
        return True


def _logger() -> logging.Logger:
    logger = logging.getLogger(LOGGER)
    if not logger.filters:
        logger.addFilter(_Redacted())
        logger.addHandler(logging.NullHandler())
    return logger


def _bind(listen: Listen) -> socket.socket:
    bound = socket.socket(listen.family, socket.SOCK_STREAM)
    try:
        prepare_listener(bound)
        bound.bind((listen.address, listen.port))
        bound.setblocking(False)
    except OSError as exc:
        bound.close()
        where = f"http://{listen.name}:{listen.port}"
        raise SinkError(f"{where}: cannot listen ({plain_reason(exc)}); choose another port or address") from exc
    return bound


class Page:
    """Serves the page's files from memory.

    Args:
        grid: the first page is the grid of cameras.
    """

    def __init__(self, *, grid: bool = False) -> None:
        self._home = "grid.html" if grid else "index.html"
        folder = files("streamdepth.serve").joinpath("page")
        self._files = {
            name: folder.joinpath(name).read_bytes() for name in (*_STATIC, "index.html", "grid.html", "login.html")
        }

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/", self._handler(self._home))
        app.router.add_get("/view", self._handler("index.html"))
        for name in _STATIC:
            app.router.add_get(f"/static/{name}", self._handler(name))

    async def login(self, _: web.Request) -> web.StreamResponse:
        """The form that asks for the token; status 401."""
        return self._answer("login.html", 401)

    def _handler(self, name: str) -> Handler:
        async def serve(_: web.Request) -> web.StreamResponse:
            return self._answer(name, 200)

        return serve

    def _answer(self, name: str, status: int) -> web.Response:
        kind = _MEDIA_TYPES[name.rpartition(".")[2]]
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=self._files[name], status=status, content_type=kind, charset="utf-8", headers=headers)


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
        if request.path not in self._open_paths and isinstance(request.protocol, _Connection):
            request.protocol.authenticated = True
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
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            refusal = failure(415, "the body is compressed (Content-Encoding); send it uncompressed")
            refusal.headers["Accept-Encoding"] = "identity"
            return refusal
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
