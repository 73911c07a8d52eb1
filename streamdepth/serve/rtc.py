"""WebRTC for the page: the newest frame to each peer, without external servers."""

from __future__ import annotations

import asyncio
import fractions
from typing import TYPE_CHECKING, Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamdepth.core.frame import converted
from streamdepth.serve.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamdepth.core.clock import Clock
    from streamdepth.serve.feed import Shown

    NextShown = Callable[[int, float], Awaitable[Shown | None]]

_CLOCK_RATE = 90_000
_WIDEST_PX = 1280
_REPEAT_SECONDS = 0.5
_CONNECT_SECONDS = 15.0
_H264 = "video/H264"
_MOST_LINES = {"m=": 16, "a=candidate:": 256}
"""Media descriptions and addresses of an offer. They cost 2.5 and 0.2 ms of the event loop each; a page needs one media
description."""


class FeedTrack(MediaStreamTrack):
    """The feed as a video track: the newest frame whenever the encoder takes one. The last frame is repeated."""

    kind = "video"

    def __init__(self, next_shown: NextShown, skipped: Callable[[int], None], clock: Clock) -> None:
        super().__init__()
        self._next_shown = next_shown
        self._skipped = skipped
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._number = 0
        self._pts = -1

    async def recv(self) -> av.VideoFrame:
        shown = None
        while shown is None:
            if self.readyState != "live":
                raise MediaStreamError
            shown = await self._next_shown(self._number, _REPEAT_SECONDS)
        if self._number and shown.number > self._number + 1:
            self._skipped(shown.number - self._number - 1)
        self._number = shown.number
        frame = await asyncio.get_running_loop().run_in_executor(None, _for_encoder, shown.image)
        self._pts = max(self._pts + 1, (self._clock.monotonic_ns() - self._started_ns) * _CLOCK_RATE // 10**9)
        frame.pts, frame.time_base = self._pts, fractions.Fraction(1, _CLOCK_RATE)
        return frame


def _for_encoder(image: av.VideoFrame) -> av.VideoFrame:
    """A copy for the encoder, which writes to it: 4:2:0, even sides, at most as wide as aiortc's bit rate allows."""
    scale = min(1.0, _WIDEST_PX / image.width)
    width, height = (max(2, round(side * scale)) & ~1 for side in (image.width, image.height))
    if (width, height, "yuv420p") == (image.width, image.height, image.format.name):
        return av.VideoFrame.from_ndarray(image.to_ndarray(), format="yuv420p")
    return converted(image, width=width, height=height, format="yuv420p", interpolation="AREA")


class Peers:
    """The WebRTC connections of a page. Belongs to one event loop.

    Args:
        address: the only address for media; None = every address of this machine.
        limit: simultaneous connections.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        address: str | None,
        limit: int,
    ) -> None:
        self._clock = clock
        self._address = address
        self._limit = limit
        self._peers: dict[RTCPeerConnection, str] = {}
        self._timers: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        return len(self._peers)

    async def answer(
        self, content: dict[str, Any], next_shown: NextShown, skipped: Callable[[int], None]
    ) -> dict[str, str]:
        """Answer a browser's offer, candidates included.

        Args:
            content: ``{type: "offer", sdp, page}``; ``page`` identifies the page, which has one connection at a time.
            next_shown: waits for a frame that is newer than the given number.
            skipped: called with the number of frames that the peer did not see.

        Raises:
            ApiError: not an offer (400), or too many viewers (503).
        """
        sdp = content.get("sdp")
        if content.get("type") != "offer" or not isinstance(sdp, str):
            raise ApiError(400, "send a WebRTC offer: {type: 'offer', sdp}")
        for prefix, most in _MOST_LINES.items():
            if sdp.count(f"\n{prefix}") > most:
                raise ApiError(400, f"the offer has more than {most} '{prefix}' lines; offer one video")
        page = str(content.get("page", ""))
        await self.leave(page)
        if len(self._peers) >= self._limit:
            raise ApiError(503, f"there are {self._limit} WebRTC viewers already", retry_after_seconds=10)
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peers[peer] = page

        @peer.on("connectionstatechange")
        async def changed() -> None:
            if peer.connectionState in ("failed", "closed"):
                await self._close(peer)

        try:
            await peer.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
            video = next((one for one in peer.getTransceivers() if one.kind == "video"), None)
            if video is None:
                raise ApiError(400, "the offer has no video")
            peer.addTrack(FeedTrack(next_shown, skipped, self._clock))
            codecs = RTCRtpSender.getCapabilities("video").codecs
            video.setCodecPreferences(sorted(codecs, key=lambda codec: codec.mimeType != _H264))
            self._stay_on_address(peer)
            await peer.setLocalDescription(await peer.createAnswer())
        except ApiError:
            await self._close(peer)
            raise
        except Exception as error:  # aiortc raises many kinds for an unusable description
            await self._close(peer)
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise ApiError(400, f"the offer cannot be answered ({reason})") from None
        timer = asyncio.create_task(self._close_unconnected(peer))
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)
        return {"type": peer.localDescription.type, "sdp": peer.localDescription.sdp}

    async def leave(self, page: str) -> None:
        """Close the connection of a page that has gone; ICE would notice only half a minute later."""
        if page:
            await asyncio.gather(*(self._close(peer) for peer, owner in tuple(self._peers.items()) if owner == page))

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*(self._close(peer) for peer in tuple(self._peers)))

    async def _close_unconnected(self, peer: RTCPeerConnection) -> None:
        """Close a peer that did not connect."""
        await asyncio.sleep(_CONNECT_SECONDS)
        if peer.connectionState != "connected":
            await self._close(peer)

    async def _close(self, peer: RTCPeerConnection) -> None:
        self._peers.pop(peer, None)
        await peer.close()

    def _stay_on_address(self, peer: RTCPeerConnection) -> None:
        """Offer the page's own address only, including loopback, which aioice leaves out by default."""
        if self._address is None:
            return
        for sender in peer.getSenders():
            connection: Any = sender.transport.transport.iceGatherer._connection
            connection.get_component_candidates = _only(connection.get_component_candidates, self._address)


def _only(gather: Callable[..., Awaitable[Any]], address: str) -> Callable[..., Awaitable[Any]]:
    def on_address(component: int, addresses: list[str], timeout: int = 5) -> Awaitable[Any]:  # noqa: ARG001
        return gather(component, [address], timeout)

    return on_address
