"""An aiohttp application on a thread and event loop of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, cast

from aiohttp import web

from streamdepth.core.errors import DeadlineError, SinkError
from streamdepth.core.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.serve.options import Listen

_START_SECONDS = 5.0
_STOP_SECONDS = 5.0
_DRAIN_SECONDS = 0.5
_KEEPALIVE_SECONDS = 30.0
LOGGER = "streamdepth.web"
"""Where aiohttp reports clients that send garbage; silent unless the application sets up logging."""


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
        self.refused = 0

    def start(self) -> None:
        """Listen and serve.

        Raises:
            SinkError: the port is taken or may not be used.
        """
        bound = _bind(self._listen)
        self.port = int(bound.getsockname()[1])
        ready: Future[None] = Future()
        name = f"web-server {self._listen.address}:{self.port}"
        self._thread = threading.Thread(target=self._work, args=(bound, ready), name=name, daemon=True)
        self._thread.start()
        ready.result(_START_SECONDS)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's loop; for ``call_soon_threadsafe``, once started."""
        assert self._loop is not None  # noqa: S101 - set before start() returns
        return self._loop

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
        except RuntimeError:  # the loop ended between the two
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
        runner = web.AppRunner(
            self._make_app(),
            access_log=None,
            logger=_logger(),
            handle_signals=False,
            shutdown_timeout=_DRAIN_SECONDS,
            keepalive_timeout=_KEEPALIVE_SECONDS,
        )
        await runner.setup()
        server = None
        try:
            server = await self._loop.create_server(lambda: _Admitting(self, runner), sock=bound, backlog=128)
            ready.set_result(None)
            await self._stopping.wait()
        finally:
            if server is not None:
                server.close()
            await runner.cleanup()

    def admit(self, transport: asyncio.Transport, runner: web.AppRunner) -> None:
        """Hand a new connection on to aiohttp, or close it where there are as many as may be. On the loop."""
        assert runner.server is not None  # noqa: S101 - after setup()
        if len(runner.server.connections) >= self._max_connections:
            self.refused += 1
            transport.close()
            return
        handler = runner.server()
        transport.set_protocol(handler)
        handler.connection_made(transport)


class _Redacted(logging.Filter):
    """Garbage is quoted, and may hold anything a client sends, its token too."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args, record.exc_info = redact(record.getMessage()), (), None
        return True


def _logger() -> logging.Logger:
    logger = logging.getLogger(LOGGER)
    if not logger.filters:
        logger.addFilter(_Redacted())
        logger.addHandler(logging.NullHandler())
    return logger


class _Admitting(asyncio.Protocol):
    """A connection before it is admitted.

    The loop makes the protocols of all waiting connections before it tells the first of them that it is made. Where
    connections come in a burst, a limit checked when a protocol is made would see none of the others.
    """

    def __init__(self, server: WebServer, runner: web.AppRunner) -> None:
        self._server, self._runner = server, runner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.admit(cast("asyncio.Transport", transport), self._runner)


def _bind(listen: Listen) -> socket.socket:
    bound = socket.socket(listen.family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listen.address, listen.port))
        bound.setblocking(False)
    except OSError as exc:
        bound.close()
        where = f"http://{listen.host}:{listen.port}"
        raise SinkError(f"{where}: cannot listen there ({exc.strerror}); choose another port or address") from exc
    return bound
