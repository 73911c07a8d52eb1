"""What the page talks to: images, state, controls, numbers, a look at one point."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from streamdepth.core.frame import Sense
from streamdepth.serve.api import LOOK_KEYS, ApiError, json_object, look_changes, look_state, palettes_css
from streamdepth.serve.feed import jpeg, npy, png, probe
from streamdepth.serve.rtc import Peers
from streamdepth.serve.server import LOGGER
from streamdepth.serve.site import changed_range
from streamdepth.serve.stats import CONTENT_TYPE, SAMPLE_SECONDS, exposition
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streamdepth.serve.feed import Shown
    from streamdepth.serve.images_api import ImagesApi
    from streamdepth.serve.jobs import JobRunner
    from streamdepth.serve.site import WebSite

_BOUNDARY = "streamdepth-frame"
_MESSAGE_BYTES = 4096
_BODY_BYTES = 65_536
_SOCKETS = 64
_IDLE_SECONDS = 5.0
_SEND_BUFFER_BYTES = 1 << 17
"""Left to itself the kernel buffers megabytes for a slow viewer, who would see what was seconds ago."""


class LiveApi:
    """Routes of the live view. Belongs to one event loop; the feed is filled from another thread."""

    def __init__(
        self, site: WebSite, stills: ImagesApi | None, jobs: JobRunner | None, *, rtc_address: str | None
    ) -> None:
        self._site = site
        self._feed = site.feed
        self._settings = site.settings
        self._stills = stills
        self._jobs = jobs
        self._loop = asyncio.get_running_loop()
        self._fresh = asyncio.Event()
        self._news = asyncio.Event()
        self._closing = False
        self._pulsing = False
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="web-jpeg")
        self._jpeg: tuple[int, asyncio.Future[bytes]] | None = None
        self._palettes: dict[str, list[str]] | None = None
        self._viewers: Counter[str] = Counter()
        self._sample: dict[str, Any] = {}
        self._peers = Peers(
            self._next_shown, self._skipped, site.clock, address=rtc_address, most=site.settings.max_rtc_viewers
        )
        self._feed.listen(self._on_feed)

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
        """Alive; holds nothing secret, so that probes need no token."""
        return web.json_response({"status": "ok", "version": __version__, "live": self._site.stream is not None})

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        stream, jobs = self._site.stream, self._jobs
        text = exposition(
            self._sample,
            source=stream.source_id if stream is not None else "",
            status=self._site.source_status,
            stills=self._stills.counts if self._stills is not None else {},
            jobs=Counter(str(job.state) for job in jobs.jobs) if jobs is not None else {},
            version=__version__,
        )
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def state(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({**self._state(), "stats": self._sample})

    async def palettes(self, _: web.Request) -> web.StreamResponse:
        """Palette name -> nine colours from far to near."""
        if self._palettes is None:
            self._palettes = await self._loop.run_in_executor(None, palettes_css)
        return web.json_response(self._palettes)

    async def control(self, request: web.Request) -> web.StreamResponse:
        """Change the look, ``range`` or ``paused`` of the live view, for all who watch: all of it, or nothing."""
        content = await json_object(request, _BODY_BYTES)
        unknown = set(content) - {*LOOK_KEYS, "range", "paused"}
        if unknown:
            raise ApiError(400, f"unknown control {', '.join(sorted(unknown))}")
        paused = content.get("paused", self._feed.paused)
        if not isinstance(paused, bool):
            raise ApiError(400, f"paused is true or false, not {paused!r}")
        changes = look_changes(content)
        if "range" in content:
            changed_range(self._site, content["range"])
        self._site.control.update(**changes)
        self._feed.paused = paused
        if changes or "range" in content:
            await self._loop.run_in_executor(self._encoder, self._site.repaint)
        self._tell()
        return web.json_response(self._state())

    def _state(self) -> dict[str, Any]:
        site, stream, shown = self._site, self._site.stream, self._feed.latest
        source = None
        if stream is not None:
            source = {
                "id": stream.source_id,
                "width": stream.width_px,
                "height": stream.height_px,
                "rate": None if stream.rate is None else round(float(stream.rate), 3),
                "live": stream.live,
                "note": stream.note,
                "status": dict(site.source_status),
            }
        mode = None if site.range_switch is None else str(site.range_switch)
        return {
            "version": __version__,
            "look": look_state(site.control.look),
            "range": {"mode": mode, "switchable": mode is not None},
            "paused": self._feed.paused,
            "source": source,
            "metric": shown is not None and shown.depth.sense is Sense.METRIC_M,
            "sense": None if shown is None else str(shown.depth.sense),
            "model": None if site.estimator is None else site.estimator.spec.name,
            "stills": self._stills is not None,
            "jobs": self._jobs is not None,
            "max_upload": self._settings.max_upload_bytes,
        }

    # Images ---------------------------------------------------------------------------------------------------

    async def mjpeg(self, request: web.Request) -> web.StreamResponse:
        """Motion JPEG: every browser shows it. All viewers share one encoder; a slow one sees fewer images."""
        if self._viewers["mjpeg"] >= self._settings.max_viewers:
            raise ApiError(503, f"{self._settings.max_viewers} viewers are watching already", retry_after_seconds=5)
        self._viewers["mjpeg"] += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"})
            _keep_short(request)
            await response.prepare(request)
            await response.write(f"--{_BOUNDARY}\r\n".encode())
            await self._send_parts(request, response)
        finally:
            self._viewers["mjpeg"] -= 1
        return response

    async def _send_parts(self, request: web.Request, response: web.StreamResponse) -> None:
        number, repeated_at = 0, 0.0
        while not self._closing:
            shown = await self._next_shown(number, _IDLE_SECONDS)
            now = self._loop.time()
            if shown is None or (shown.number == number and now - repeated_at < _IDLE_SECONDS):
                continue
            repeated_at = now
            if number:
                self._skipped(shown.number - number - 1)
            number = shown.number
            data = await self._jpeg_of(shown)
            # The boundary goes after the image: browsers show one when they see where it ends.
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\nX-Frame: {shown.index}\r\n\r\n"
            try:
                async with asyncio.timeout(self._settings.stall_seconds):
                    await response.write(head.encode() + data + f"\r\n--{_BOUNDARY}\r\n".encode())
            except TimeoutError:
                self._feed.count_dropped("stalled viewer")
                if request.transport is not None:
                    request.transport.abort()
                return
            except ConnectionError:
                return

    async def image(self, _: web.Request) -> web.StreamResponse:
        """The newest image, once."""
        shown = self._required(self._feed.latest)
        headers = {"X-Frame": str(shown.index)}
        return web.Response(body=await self._jpeg_of(shown), content_type="image/jpeg", headers=headers)

    async def offer(self, request: web.Request) -> web.StreamResponse:
        """A WebRTC offer of the browser's; answered with one video track."""
        return web.json_response(await self._peers.answer(await json_object(request, _BODY_BYTES)))

    async def snapshot(self, _: web.Request) -> web.StreamResponse:
        """Hold this moment: its image and its depth can then be fetched. The newest four are held."""
        shown = self._required(self._feed.hold())
        base = f"/v1/live/snapshot/{shown.number}"
        depth = shown.depth
        content = {
            "frame": shown.index,
            "seconds": shown.seconds,
            "image": f"{base}.png",
            "depth": f"{base}.npy",
            "sense": str(depth.sense),
            "depth_size": [depth.width_px, depth.height_px],
        }
        return web.json_response(content, status=201)

    async def snapshot_file(self, request: web.Request) -> web.StreamResponse:
        shown = self._feed.held(int(request.match_info["number"]))
        if shown is None:
            raise ApiError(404, "that moment is not held any more; take another snapshot")
        kind = request.match_info["kind"]
        work = (png, shown.image) if kind == "png" else (npy, shown.depth.values)
        data: bytes = await self._loop.run_in_executor(None, *work)
        stem = "image" if kind == "png" else "depth"
        headers = {"Content-Disposition": f'attachment; filename="streamdepth-{stem}-{shown.index:06d}.{kind}"'}
        return web.Response(
            body=data, content_type="image/png" if kind == "png" else "application/x-npy", headers=headers
        )

    def _required(self, shown: Shown | None) -> Shown:
        if shown is None:
            raise ApiError(404, "there is no image yet")
        return shown

    async def _jpeg_of(self, shown: Shown) -> bytes:
        if self._jpeg is None or self._jpeg[0] != shown.number:
            work = self._loop.run_in_executor(self._encoder, jpeg, shown.image, self._settings.jpeg_quality)
            self._jpeg = (shown.number, work)
        return await asyncio.shield(self._jpeg[1])

    async def _next_shown(self, number: int, seconds: float) -> Shown | None:
        """The newest moment, as soon as it is newer than ``number`` or time is up."""
        latest = self._feed.latest
        if latest is None or latest.number <= number:
            fresh = self._fresh
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await fresh.wait()
        return self._feed.latest

    def _skipped(self, count: int) -> None:
        self._feed.count_dropped("slow viewer", count)

    # Numbers and points -----------------------------------------------------------------------------------------

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Pushes ``{type: state}`` when it changed and ``{type: stats}`` twice a second; answers ``{type: probe}``."""
        if self._viewers["pages"] >= _SOCKETS:
            raise ApiError(503, f"{_SOCKETS} pages are open already", retry_after_seconds=5)
        page = web.WebSocketResponse(max_msg_size=_MESSAGE_BYTES, heartbeat=15)
        self._viewers["pages"] += 1
        name = secrets.token_urlsafe(9)
        try:
            await page.prepare(request)
            pusher = asyncio.create_task(self._push(page, name))
            try:
                async for message in page:
                    if message.type is not WSMsgType.TEXT:
                        break
                    await page.send_json(self._answer(message.data))
            except ConnectionError:
                pass
            finally:
                pusher.cancel()
                await asyncio.gather(pusher, return_exceptions=True)
        finally:
            self._viewers["pages"] -= 1
            await self._peers.leave(name)
        return page

    async def _push(self, page: web.WebSocketResponse, name: str) -> None:
        state: dict[str, Any] = {}
        await page.send_json({"type": "history", "page": name, "samples": self._site.board.history})
        while not self._closing:
            now = self._state()
            if now != state:
                await page.send_json({"type": "state", **now})
                state = now
            await page.send_json({"type": "stats", **self._sample})
            await self._news.wait()
        await page.close(code=1001, message=b"the server stops")

    def _answer(self, text: str) -> dict[str, Any]:
        try:
            asked = json.loads(text)
            if asked["type"] != "probe":
                raise ValueError
            x, y = float(asked["x"]), float(asked["y"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"type": "error", "error": 'send {"type": "probe", "x": 0..1, "y": 0..1}'}
        return {"type": "depth", **self._probed(x, y)}

    async def probe(self, request: web.Request) -> web.StreamResponse:
        """Depth at ``?x=&y=``, 0..1 of the frame from its top left corner."""
        try:
            x, y = float(request.query["x"]), float(request.query["y"])
        except (KeyError, ValueError):
            raise ApiError(400, "x and y are numbers 0..1 from the frame's top left corner") from None
        self._required(self._feed.latest)
        return web.json_response(self._probed(x, y))

    def _probed(self, x: float, y: float) -> dict[str, Any]:
        shown = self._feed.latest
        if shown is None or not (0 <= x <= 1 and 0 <= y <= 1):
            return {"x": None, "y": None, "value": None}
        found = probe(shown, x, y)
        return {
            "x": x,
            "y": y,
            "frame": shown.index,
            "value": found.value,
            "nearness": found.nearness,
            "sense": str(found.sense),
            "unit": "m" if found.sense is Sense.METRIC_M else None,
        }

    # Behind the scenes ------------------------------------------------------------------------------------------

    def _on_feed(self) -> None:
        """On the feeding thread: wake the loop, once for however many moments it has not seen yet."""
        if not self._pulsing:
            self._pulsing = True
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._pulse)

    def _pulse(self) -> None:
        self._pulsing = False
        self._fresh.set()
        self._fresh = asyncio.Event()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _background(self, _: web.Application) -> AsyncIterator[None]:
        sampler = asyncio.create_task(self._keep_sampling())
        yield
        sampler.cancel()
        await asyncio.gather(sampler, return_exceptions=True)
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def _keep_sampling(self) -> None:
        while True:
            viewers = {"pages": self._viewers["pages"], "mjpeg": self._viewers["mjpeg"], "webrtc": self._peers.count}
            try:
                sample = self._site.board.sample(viewers)
            except Exception as error:  # numbers must not end the page; the next sample may do better
                logging.getLogger(LOGGER).error("sampling: %s: %s", type(error).__name__, error)
            else:
                shown = self._feed.latest
                sample["range"] = None if shown is None else [shown.range.lo, shown.range.hi]
                self._sample = sample
            self._tell()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _shutdown(self, _: web.Application) -> None:
        self._closing = True
        self._tell()
        self._pulse()
        await self._peers.close()


def _keep_short(request: web.Request) -> None:
    """Bound what is on its way to a viewer."""
    transport = request.transport
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
