"""``/v1/cameras``: list, add, change and remove cameras, and which sources a request may name."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiohttp import web

from streamdepth.core.errors import UsageError
from streamdepth.net.url import parse_live_url
from streamdepth.serve.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamdepth.serve.bodies import BodyReader

T = TypeVar("T")

_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "http", "https"})
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_TEST = re.compile(r"test:(\?seed=[0-9]{1,9})?")
_MAX_CAMERAS = 64
_MAX_CHANGES = 4


class Cameras(Protocol):
    """What the API controls. Methods may block for seconds; thread-safe."""

    def states(self) -> list[dict[str, Any]]:
        """State of every camera, with ``name``."""
        ...

    def set(self, name: str, content: Mapping[str, Any]) -> bool:
        """Add a camera (True), or change it (False)."""
        ...

    def remove(self, name: str) -> None: ...


class CameraAccess:
    """Decides which sources a request may name. Without ``allowed``, none.

    A file, a folder, a device and a playlist on disk are never sources of a request. The host of a URL must be listed:
    an address by a network that contains it, a name literally. Names are not looked up, so that a name whose address
    changes reaches nothing else. Hosts that are listed are trusted: they can redirect to others.

    Args:
        allowed: host names, addresses, networks (``192.168.1.0/24``), and ``test:`` for synthetic scenes.

    Raises:
        UsageError: not one of these.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._tests = False
        for entry in allowed:
            text = entry.strip().lower()
            if text == "test:":
                self._tests = True
                continue
            try:
                self._networks.append(ipaddress.ip_network(text.strip("[]"), strict=False))
            except ValueError:
                if not _HOST.fullmatch(text) or text.replace(".", "").isdecimal():
                    raise UsageError(
                        f"add-cameras {entry}: not a host; use a name, an address, a network such as 192.168.1.0/24, "
                        "or test:"
                    ) from None
                self._names.add(text)

    def check(self, source: Any) -> None:
        """Raises ``ApiError``: 400 for no address of a stream, 403 for one that is not allowed."""
        if not isinstance(source, str) or len(source) > 2048:
            raise ApiError(400, "source is the URL of a camera, such as rtsp://192.168.1.20/stream")
        if source.lower().startswith("test:"):
            if not _TEST.fullmatch(source):
                raise ApiError(400, "a request can name test: or test:?seed=N only")
            if not self._tests:
                raise ApiError(403, "synthetic scenes may not be added; start the server with --add-cameras test:")
            return
        if "\\" in source or "#" in source:  # parsers disagree whether the host ends there
            raise ApiError(400, "\\ and # must be percent-encoded in the URL of a camera")
        if "://" not in source:
            raise ApiError(403, "a request can name network cameras only; add others to the server's file of cameras")
        try:
            host = parse_live_url(source, _SCHEMES).host.lower()
        except UsageError as error:
            raise ApiError(400, str(error)) from None
        if not self._allows(host):
            raise ApiError(
                403, f"cameras on {host[:100]!r} may not be added; start the server with --add-cameras {host[:100]}"
            )

    def _allows(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return _HOST.fullmatch(host) is not None and host in self._names
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        return any(address in network for network in self._networks)


class CamerasApi:
    """Routes of the cameras. Belongs to one event loop."""

    def __init__(self, cameras: Cameras, access: CameraAccess, bodies: BodyReader) -> None:
        self._cameras = cameras
        self._access = access
        self._bodies = bodies
        self._changes = 0
        self._worker = ThreadPoolExecutor(2, thread_name_prefix="web-cameras")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="web-camera-states")

    def add_to(self, app: web.Application) -> None:
        router = app.router
        router.add_get("/v1/cameras", self.every)
        router.add_get("/v1/cameras/{name}", self.one)
        router.add_post("/v1/cameras", self.change)
        router.add_delete("/v1/cameras/{name}", self.remove)
        app.on_cleanup.append(self._close)

    async def every(self, _: web.Request) -> web.StreamResponse:
        """The state of all cameras."""
        return web.json_response({"cameras": await self._states()})

    async def one(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._state(request.match_info["name"]))

    async def change(self, request: web.Request) -> web.StreamResponse:
        """``{"name": ..., "source": URL, ...}`` adds a camera (201); the name of an existing one changes it (200)."""
        content = await self._bodies.json_object(request)
        name = content.pop("name", None)
        if not isinstance(name, str) or not name:
            raise ApiError(400, "name must be a string, the name of the camera")
        known = {state["name"] for state in await self._states()}
        if name not in known and len(known) >= _MAX_CAMERAS:
            raise ApiError(503, f"there are {_MAX_CAMERAS} cameras already; remove one")
        if name not in known or "source" in content:
            self._access.check(content.get("source"))
        added = await self._changed(lambda: self._cameras.set(name, content))
        return web.json_response(await self._state(name), status=201 if added else 200)

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Stop a camera: what it captured is written, its files are completed."""
        name = request.match_info["name"]
        await self._state(name)
        await self._changed(lambda: self._cameras.remove(name))
        return web.Response(status=204)

    async def _changed(self, change: Callable[[], T]) -> T:
        if self._changes >= _MAX_CHANGES:
            raise ApiError(503, "too many cameras are being changed; try again", retry_after_seconds=2)
        self._changes += 1
        work = asyncio.get_running_loop().run_in_executor(self._worker, change)
        work.add_done_callback(self._done)
        return await asyncio.shield(work)

    def _done(self, work: asyncio.Future[Any]) -> None:
        self._changes -= 1
        if not work.cancelled():
            work.exception()  # the client may have left

    async def _states(self) -> list[dict[str, Any]]:
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._cameras.states)

    async def _state(self, name: str) -> dict[str, Any]:
        for state in await self._states():
            if state["name"] == name:
                return state
        raise ApiError(404, f"there is no camera {name[:64]!r}")

    async def _close(self, _: web.Application) -> None:
        for executor in (self._worker, self._reader):
            executor.shutdown(wait=False, cancel_futures=True)
