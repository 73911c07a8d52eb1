"""WebRTC for the page: the newest image to each peer, without any server but this one."""

from __future__ import annotations

import asyncio
import fractions
from typing import TYPE_CHECKING, Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

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


class FeedTrack(MediaStreamTrack):
    """The feed as a video track: what is newest when the peer's encoder asks. A still feed is repeated."""

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
    """An image of its own (the encoder writes to it), 4:2:0, even, no wider than its bit rate carries."""
    scale = min(1.0, _WIDEST_PX / image.width)
    width, height = (max(2, round(side * scale)) & ~1 for side in (image.width, image.height))
    if (width, height, "yuv420p") == (image.width, image.height, image.format.name):
        return av.VideoFrame.from_ndarray(image.to_ndarray(), format="yuv420p")
    return image.reformat(width=width, height=height, format="yuv420p", interpolation="AREA")


class Peers:
    """The WebRTC connections of a page, bounded. Belongs to one event loop.

    Args:
        address: the one address media goes through; None = every address of this machine.
        most: connections at once.
    """

    def __init__(
        self,
        next_shown: NextShown,
        skipped: Callable[[int], None],
        clock: Clock,
        *,
        address: str | None,
        most: int,
    ) -> None:
        self._next_shown = next_shown
        self._skipped = skipped
        self._clock = clock
        self._address = address
        self._most = most
        self._peers: dict[RTCPeerConnection, str] = {}
        self._timers: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        return len(self._peers)

    async def answer(self, content: dict[str, Any]) -> dict[str, str]:
        """A browser's offer -> the answer, candidates included. ``page`` names the page it is for, which has one.

        Raises:
            ApiError: not an offer (400), or too many viewers (503).
        """
        sdp = content.get("sdp")
        if content.get("type") != "offer" or not isinstance(sdp, str):
            raise ApiError(400, "send a WebRTC offer: {type: 'offer', sdp}")
        page = str(content.get("page", ""))
        await self.leave(page)
        if len(self._peers) >= self._most:
            raise ApiError(503, f"{self._most} WebRTC viewers are watching already", retry_after_seconds=10)
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
                raise ApiError(400, "the offer holds no video")
            peer.addTrack(FeedTrack(self._next_shown, self._skipped, self._clock))
            codecs = RTCRtpSender.getCapabilities("video").codecs
            video.setCodecPreferences(sorted(codecs, key=lambda codec: codec.mimeType != _H264))
            self._stay_on_address(peer)
            await peer.setLocalDescription(await peer.createAnswer())
        except ApiError:
            await self._close(peer)
            raise
        except Exception as error:  # aiortc raises many kinds for a description it cannot use
            await self._close(peer)
            raise ApiError(400, f"the offer cannot be answered ({type(error).__name__}: {error})") from None
        timer = asyncio.create_task(self._expect(peer))
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)
        return {"type": peer.localDescription.type, "sdp": peer.localDescription.sdp}

    async def leave(self, page: str) -> None:
        """A page is gone: its connection need not wait until ICE notices, half a minute later."""
        if page:
            await asyncio.gather(*(self._close(peer) for peer, owner in tuple(self._peers.items()) if owner == page))

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*(self._close(peer) for peer in tuple(self._peers)))

    async def _expect(self, peer: RTCPeerConnection) -> None:
        """A peer that asked and never came makes room."""
        await asyncio.sleep(_CONNECT_SECONDS)
        if peer.connectionState != "connected":
            await self._close(peer)

    async def _close(self, peer: RTCPeerConnection) -> None:
        self._peers.pop(peer, None)
        await peer.close()

    def _stay_on_address(self, peer: RTCPeerConnection) -> None:
        """Offer the page's own address and no other, loopback too, which aioice by itself leaves out."""
        if self._address is None:
            return
        for sender in peer.getSenders():
            connection: Any = sender.transport.transport.iceGatherer._connection
            connection.get_component_candidates = _only(connection.get_component_candidates, self._address)


def _only(gather: Callable[..., Awaitable[Any]], address: str) -> Callable[..., Awaitable[Any]]:
    def on_address(component: int, addresses: list[str], timeout: int = 5) -> Awaitable[Any]:  # noqa: ARG001
        return gather(component, [address], timeout)

    return on_address
