"""The page itself: files as they are, no build step, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_STATIC = ("app.css", "app.js", "live.js", "graphs.js", "drop.js", "login.js", "icon.svg")
OPEN_PATHS = frozenset({"/static/app.css", "/static/login.js", "/static/icon.svg"})
"""What the login page needs before anybody is known; holds no data."""


class Page:
    """Serves the package's page files from memory."""

    def __init__(self) -> None:
        folder = files(__package__)
        names = (*_STATIC, "index.html", "login.html")
        self._files = {name: folder.joinpath(name).read_bytes() for name in names}

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/", self._handler("index.html"))
        for name in _STATIC:
            app.router.add_get(f"/static/{name}", self._handler(name))

    async def login(self, _: web.Request) -> web.StreamResponse:
        """Asks for the token; status 401."""
        return self._answer("login.html", 401)

    def _handler(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(_: web.Request) -> web.StreamResponse:
            return self._answer(name, 200)

        return serve

    def _answer(self, name: str, status: int) -> web.Response:
        kind = _KINDS[name.rpartition(".")[2]]
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=self._files[name], status=status, content_type=kind, charset="utf-8", headers=headers)
