"""The page's API: frames, state, controls, statistics, and depth at a point."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from streamdepth.core.errors import UsageError
from streamdepth.serve.api import LOOK_KEYS, ApiError, look_changes, palettes_css
from streamdepth.serve.bodies import drop
from streamdepth.serve.channel import LiveChannel
from streamdepth.serve.feed import npy, png
from streamdepth.serve.rtc import Peers
from streamdepth.serve.view import METRICS_CONTENT_TYPE, SAMPLE_SECONDS, Metrics
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.depth.range import RangeSwitch
    from streamdepth.serve.bodies import BodyReader
    from streamdepth.serve.feed import Shown
    from streamdepth.serve.images_api import ImagesApi
    from streamdepth.serve.jobs import JobRunner
    from streamdepth.serve.options import WebSettings
    from streamdepth.serve.view import LiveView

_BOUNDARY = "streamdepth-frame"
_CONTROLS = (*LOOK_KEYS, "range", "stabilize", "paused")
_MESSAGE_BYTES = 4096
_SOCKETS = 64
_IDLE_SECONDS = 5.0
_SEND_BUFFER_BYTES = 1 << 17
"""By default the kernel buffers megabytes for a slow viewer, which is then seconds behind."""


class LiveApi:
    """Routes of the live views. Belongs to one event loop.

    Every route takes ``?source=NAME`` where several sources are shown; the default is the first.

    Args:
        views: the live views, at least one.
        images, jobs: None where no model is served.
        model: name of the served model.
        rtc_address: the only address for WebRTC media; None = every address of this machine.
    """

    def __init__(
        self,
        views: Sequence[LiveView],
        settings: WebSettings,
        clock: Clock,
        bodies: BodyReader,
        *,
        images: ImagesApi | None,
        jobs: JobRunner | None,
        model: str | None,
        rtc_address: str | None,
    ) -> None:
        self._settings = settings
        self._bodies = bodies
        self._images = images
        self._jobs = jobs
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="web-jpeg")
        self._channels = [LiveChannel(view, self._encoder, settings.jpeg_quality) for view in views]
        self._palettes: dict[str, list[str]] | None = None
        self._viewers: Counter[str] = Counter()
        self._peers = Peers(clock, address=rtc_address, limit=settings.max_rtc_viewers)

    def show_soon(self, views: Sequence[LiveView]) -> None:
        """Show these views from now on. Any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self._loop.call_soon_threadsafe(self._show, views)

    def _show(self, views: Sequence[LiveView]) -> None:
        known = {id(channel.view): channel for channel in self._channels}
        self._channels = [
            known.get(id(view)) or LiveChannel(view, self._encoder, self._settings.jpeg_quality) for view in views
        ]
        for channel in known.values():
            if channel not in self._channels:
                channel.close()

    def add_to(self, app: web.Application) -> None:
        router = app.router
        router.add_get("/healthz", self.health)
        router.add_get("/metrics", self.metrics)
        router.add_get("/v1/state", self.state)
        router.add_get("/v1/palettes", self.palettes)
        router.add_post("/v1/control", self.control)
        router.add_get("/v1/live.mjpg", self.mjpeg)
        router.add_get("/v1/live.jpg", self.image)
        router.add_post("/v1/live/offer", self.offer)
        router.add_get("/v1/live/socket", self.socket)
        router.add_get("/v1/live/probe", self.probe)
        router.add_post("/v1/live/snapshot", self.snapshot)
        router.add_get("/v1/live/snapshot/{number:[0-9]{1,12}}.{kind:png|npy}", self.snapshot_file)
        app.cleanup_ctx.append(self._background)
        app.on_shutdown.append(self._shutdown)

    # Health, state, control -------------------------------------------------------------------------------------

    async def health(self, _: web.Request) -> web.StreamResponse:
        """Whether the server runs. Holds nothing secret, so that health checks need no token."""
        live = any(channel.view.stream is not None for channel in self._channels)
        return web.json_response({"status": "ok", "version": __version__, "live": live})

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        """Statistics in the Prometheus text format."""
        views = []
        for channel in self._channels:
            stream = channel.view.stream
            views.append((None if stream is None else stream.source_id, channel.sample, channel.view.source_status))
        metrics = Metrics(
            version=__version__,
            views=views,
            sinks=[sink for channel in self._channels for sink in channel.view.sampler.sinks],
            images=self._images.counts if self._images is not None else {},
            jobs=Counter(str(job.state) for job in self._jobs.jobs) if self._jobs is not None else {},
        )
        return web.Response(body=metrics.text(), headers={"Content-Type": METRICS_CONTENT_TYPE})

    async def state(self, request: web.Request) -> web.StreamResponse:
        """Everything that the page shows, as JSON."""
        channel = self._channel(request)
        return web.json_response({**self._state(channel), "stats": channel.sample})

    async def palettes(self, _: web.Request) -> web.StreamResponse:
        """Palette name -> nine colours from far to near."""
        if self._palettes is None:
            self._palettes = await self._loop.run_in_executor(None, palettes_css)
        return web.json_response(self._palettes)

    async def control(self, request: web.Request) -> web.StreamResponse:
        """Change look, ``range``, ``stabilize`` or ``paused`` of a live view for all its viewers.

        An invalid value changes nothing.
        """
        channel = self._channel(request)
        view = channel.view
        content = await self._bodies.json_object(request)
        unknown = set(content) - set(_CONTROLS)
        if unknown:
            raise ApiError(400, f"unknown control {', '.join(sorted(unknown))[:200]}; there are {', '.join(_CONTROLS)}")
        paused, switch = content.get("paused", view.feed.paused), view.stabilize_switch
        for key in ("paused", "stabilize"):
            if not isinstance(given := content.get(key, False), bool):
                raise ApiError(400, f"{key} is true or false, not {str(given)[:60]!r}")
        if "stabilize" in content and switch is None:
            raise ApiError(400, "stabilization of this run was set at its start and cannot change")
        changes = look_changes(content)
        if "range" in content:
            _set_range(view.range_switch, content["range"])
        if "stabilize" in content and switch is not None:
            await self._loop.run_in_executor(None, switch.set, content["stabilize"])  # loads OpenCV
        view.control.update(**changes)
        view.feed.paused = paused
        if changes or "range" in content:
            await self._loop.run_in_executor(self._encoder, view.repaint)
        channel.announce()
        return web.json_response(self._state(channel))

    def _channel(self, request: web.Request) -> LiveChannel:
        name = request.query.get("source")
        if name is None:
            return next((channel for channel in self._channels if channel.view.name), self._channels[0])
        for channel in self._channels:
            if channel.view.name == name:
                return channel
        names = ", ".join(channel.view.name for channel in self._channels if channel.view.name) or "none"
        raise ApiError(404, f"no source is called {name[:100]!r}; there are {names}")

    def _state(self, channel: LiveChannel) -> dict[str, Any]:
        return {
            "version": __version__,
            **channel.state(),
            "sources": [
                {"id": one.view.name, "shown": one.view.feed.latest is not None}
                for one in self._channels
                if one.view.name or len(self._channels) == 1
            ],
            "model": self._model,
            "stills": self._images is not None,
            "jobs": self._jobs is not None,
            "max_upload": self._settings.max_upload_bytes,
        }

    # Frames -----------------------------------------------------------------------------------------------------

    async def mjpeg(self, request: web.Request) -> web.StreamResponse:
        """Motion JPEG, which every browser shows. All viewers share one encoder; a slow viewer sees fewer frames."""
        channel = self._channel(request)
        if self._viewers["mjpeg"] >= self._settings.max_viewers:
            raise ApiError(503, f"there are {self._settings.max_viewers} viewers already", retry_after_seconds=5)
        self._viewers["mjpeg"] += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"})
            _limit_send_buffer(request)
            await response.prepare(request)
            await response.write(f"--{_BOUNDARY}\r\n".encode())
            await self._send_parts(channel, request, response)
        finally:
            self._viewers["mjpeg"] -= 1
        return response

    async def _send_parts(self, channel: LiveChannel, request: web.Request, response: web.StreamResponse) -> None:
        number, repeated_at = 0, 0.0
        while not (self._closing or channel.closed):
            shown = await channel.next_shown(number, _IDLE_SECONDS)
            now = self._loop.time()
            if shown is None or (shown.number == number and now - repeated_at < _IDLE_SECONDS):
                continue
            repeated_at = now
            if number:
                channel.skipped(shown.number - number - 1)
            number = shown.number
            data = await channel.jpeg_of(shown)
            # The boundary follows the image: browsers show an image when they see where it ends.
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\nX-Frame: {shown.index}\r\n\r\n"
            try:
                async with asyncio.timeout(self._settings.stall_seconds):
                    await response.write(head.encode() + data + f"\r\n--{_BOUNDARY}\r\n".encode())
            except TimeoutError:
                channel.view.feed.count_dropped("stalled viewer")
                drop(request)
                return
            except ConnectionError:
                return

    async def image(self, request: web.Request) -> web.StreamResponse:
        """The newest frame as JPEG."""
        channel = self._channel(request)
        shown = _required(channel.view.feed.latest)
        headers = {"X-Frame": str(shown.index)}
        return web.Response(body=await channel.jpeg_of(shown), content_type="image/jpeg", headers=headers)

    async def offer(self, request: web.Request) -> web.StreamResponse:
        """Answer a browser's WebRTC offer with one video track."""
        channel = self._channel(request)
        content = await self._bodies.json_object(request)
        return web.json_response(await self._peers.answer(content, channel.next_shown, channel.skipped))

    async def snapshot(self, request: web.Request) -> web.StreamResponse:
        """Keep the newest frame, so that its image and depth can be fetched. The newest four are kept."""
        channel = self._channel(request)
        shown = _required(channel.view.feed.hold())
        base = f"/v1/live/snapshot/{shown.number}"
        query = f"?source={request.query['source']}" if "source" in request.query else ""
        depth = shown.depth
        content = {
            "frame": shown.index,
            "seconds": shown.seconds,
            "image": f"{base}.png{query}",
            "depth": f"{base}.npy{query}",
            "sense": str(depth.sense),
            "depth_size": [depth.width_px, depth.height_px],
        }
        return web.json_response(content, status=201)

    async def snapshot_file(self, request: web.Request) -> web.StreamResponse:
        shown = self._channel(request).view.feed.held(int(request.match_info["number"]))
        if shown is None:
            raise ApiError(404, "this snapshot is no longer kept; take another one")
        kind = request.match_info["kind"]
        work = (png, shown.image) if kind == "png" else (npy, shown.depth.values)
        data: bytes = await self._loop.run_in_executor(None, *work)
        stem = "image" if kind == "png" else "depth"
        headers = {"Content-Disposition": f'attachment; filename="streamdepth-{stem}-{shown.index:06d}.{kind}"'}
        return web.Response(
            body=data, content_type="image/png" if kind == "png" else "application/x-npy", headers=headers
        )

    # Statistics and points --------------------------------------------------------------------------------------

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Sends ``{type: state}`` when it changes and ``{type: stats}`` twice a second; answers ``{type: probe}``."""
        channel = self._channel(request)
        if self._viewers["pages"] >= _SOCKETS:
            raise ApiError(503, f"{_SOCKETS} pages are open already", retry_after_seconds=5)
        page = web.WebSocketResponse(max_msg_size=_MESSAGE_BYTES, heartbeat=15)
        self._viewers["pages"] += 1
        name = secrets.token_urlsafe(9)
        try:
            try:
                await page.prepare(request)
            except (ValueError, web.HTTPBadRequest) as error:  # aiohttp decodes the key before it is checked
                raise ApiError(400, "the WebSocket handshake is not valid; open the page again") from error
            pusher = asyncio.create_task(self._push(channel, page, name))
            try:
                async for message in page:
                    if message.type is not WSMsgType.TEXT:
                        break
                    await page.send_json(_answer(channel, message.data))
                    await asyncio.sleep(0)  # messages that are there are read without waiting: others have their turn
            except ConnectionError:
                pass
            finally:
                pusher.cancel()
                await asyncio.gather(pusher, return_exceptions=True)
        finally:
            self._viewers["pages"] -= 1
            await self._peers.leave(name)
        return page

    async def _push(self, channel: LiveChannel, page: web.WebSocketResponse, name: str) -> None:
        state: dict[str, Any] = {}
        await page.send_json({"type": "history", "page": name, "samples": channel.view.sampler.history})
        while not (self._closing or channel.closed):
            now = self._state(channel)
            if now != state:
                await page.send_json({"type": "state", **now})
                state = now
            await page.send_json({"type": "stats", **channel.sample})
            await channel.wait_news()
        await page.close(code=1001, message=b"the server stops")

    async def probe(self, request: web.Request) -> web.StreamResponse:
        """Depth at ``?x=&y=``, 0..1 of the frame from its top left corner."""
        channel = self._channel(request)
        try:
            x, y = float(request.query["x"]), float(request.query["y"])
        except (KeyError, ValueError):
            raise ApiError(400, "x and y are numbers 0..1 from the frame's top left corner") from None
        _required(channel.view.feed.latest)
        return web.json_response(channel.depth_at(x, y))

    async def _background(self, _: web.Application) -> AsyncIterator[None]:
        sampler = asyncio.create_task(self._sample())
        yield
        sampler.cancel()
        await asyncio.gather(sampler, return_exceptions=True)
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def _sample(self) -> None:
        while True:
            viewers = {"pages": self._viewers["pages"], "mjpeg": self._viewers["mjpeg"], "webrtc": self._peers.count}
            for channel in self._channels:
                channel.take_sample(viewers)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _shutdown(self, _: web.Application) -> None:
        self._closing = True
        for channel in self._channels:
            channel.close()
        await self._peers.close()


def _answer(channel: LiveChannel, text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
        if message["type"] != "probe":
            raise ValueError
        x, y = float(message["x"]), float(message["y"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {"type": "error", "error": 'send {"type": "probe", "x": 0..1, "y": 0..1}'}
    return {"type": "depth", **channel.depth_at(x, y)}


def _required(shown: Shown | None) -> Shown:
    if shown is None:
        raise ApiError(404, "there is no frame yet")
    return shown


def _set_range(switch: RangeSwitch | None, text: Any) -> None:
    """Set the range mode that a client chose.

    Raises:
        UsageError: not a mode, ``shot``, or the run's range cannot change.
    """
    from streamdepth.depth.range import RangeSpec

    if switch is None:
        raise UsageError("the range of this run was set at its start and cannot change")
    if not isinstance(text, str):
        raise UsageError(f"range is ema, frame or fixed:LO,HI, not {str(text)[:60]!r}")
    switch.set(RangeSpec.parse(text))


def _limit_send_buffer(request: web.Request) -> None:
    """Limit the data that is on its way to a viewer."""
    transport = request.transport
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
