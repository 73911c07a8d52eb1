"""Time stamps of a live source, the pace of live playlists, and frames lost in transmission or inside the decoder.

A decoder marks damaged frames, but not those it decodes after a whole frame was lost, which happens over UDP to frames
that fit into one packet. Measured with FFmpeg 8.1, with a frame removed and a frame cut in half, for each codec:

- H.264: decoding continues. The stream shows the loss: ``frame_num`` counts reference frames (ITU-T H.264 7.4.3).
- H.265: no output until the next key frame; half a frame is neither marked nor rejected.
- MPEG-2, MPEG-4, VP8 and VP9: decoding continues, and the stream does not show the loss.

In MPEG-TS, libav flags the packet at or before a gap in the continuity counters. Its frame counts as damaged, except
for H.264, where ``frame_num`` is more exact. Not detected over RTP/UDP: half a frame of H.265, and a whole frame of
MPEG-2, MPEG-4, VP8 or VP9. Motion JPEG has no references to lost frames.
"""

from __future__ import annotations

from fractions import Fraction

TIME_BASE = Fraction(1, 90_000)
"""Unit of every live pts: the video clock of RTP and MPEG-TS, which divides the millisecond."""

_NS_PER_TICK = Fraction(1_000_000_000, 90_000)
_JUMP_SECONDS = 5
_LATE_NS = 500_000_000
_AHEAD_NS = 2_000_000_000


class LiveTimeline:
    """Maps the pts of connections to pts that rise strictly during the whole life of the source.

    Within a connection the camera's spacing is preserved. At a discontinuity (a new connection, or a pts that is
    missing, repeats, falls, or jumps more than 5 s further than the clock), the pts continues by the time that the
    monotonic clock measured since the last frame. Not thread-safe.
    """

    def __init__(self) -> None:
        self._last_pts: int | None = None
        self._last_ns = 0
        self._offset: int | None = None

    def restart(self) -> None:
        """A new connection: its pts are unrelated to those of the last one."""
        self._offset = None

    def next_pts(self, pts: int | None, time_base: Fraction | None, arrived_ns: int) -> int:
        """Place the next frame.

        Args:
            pts: of the connection, in ``time_base`` units; None = use the clock.
            arrived_ns: monotonic clock when the frame arrived.
        Returns:
            pts in ``TIME_BASE`` units, 0 for the first frame.
        """
        ticks = None if pts is None or time_base is None else round(pts * time_base / TIME_BASE)
        if self._last_pts is None:
            placed = 0
            self._offset = None if ticks is None else -ticks
        else:
            elapsed = max(round((arrived_ns - self._last_ns) / _NS_PER_TICK), 1)
            by_clock = self._last_pts + elapsed
            placed = by_clock if ticks is None or self._offset is None else ticks + self._offset
            if placed <= self._last_pts or placed > by_clock + _JUMP_SECONDS * 90_000:
                placed = by_clock
            self._offset = None if ticks is None else placed - ticks
        self._last_pts = placed
        self._last_ns = arrived_ns
        return placed


class LivePace:
    """When frames that arrive in bursts are due: their pts, mapped to the monotonic clock.

    The first frame sets the mapping. A frame that was due more than 0.5 s ago (a stall, a slow consumer) or is due in
    more than 2 s (a pts jump, expired segments) sets it again and is due at once. For one connection. Not thread-safe.
    """

    def __init__(self) -> None:
        self._zero_ns: int | None = None

    def due_ns(self, pts: int | None, time_base: Fraction | None, now_ns: int) -> int:
        """When to release the next frame, by the monotonic clock; ``now_ns`` if that is past or unknown.

        Args:
            pts: of the connection, in ``time_base`` units.
        """
        if pts is None or time_base is None:
            return now_ns
        media_ns = round(pts * time_base * 1_000_000_000)
        if self._zero_ns is None or not -_LATE_NS <= self._zero_ns + media_ns - now_ns <= _AHEAD_NS:
            self._zero_ns = now_ns - media_ns
        return max(self._zero_ns + media_ns, now_ns)


_HEAD_BYTES = 64
_MOST_TAKEN = 1000
_CHROMA_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


class FrameGaps:
    """Checks the Annex B packets of one connection; other packets are ignored. Not thread-safe."""

    def __init__(self) -> None:
        self._bits = 0
        self._separate_planes = False
        self._gaps_allowed = True
        self._last: int | None = None

    def found(self, packet: bytes) -> bool:
        """True if reference frames are missing before the frame of this packet."""
        if not packet.startswith((b"\x00\x00\x01", b"\x00\x00\x00\x01")):
            return False
        try:
            return self._look(packet)
        except IndexError:
            # Too short; the decoder reports what is wrong with it.
            return False

    def _look(self, packet: bytes) -> bool:
        at = 0
        while (at := packet.find(b"\x00\x00\x01", at)) >= 0:
            at += 3
            kind = packet[at] & 31
            if kind == 7:
                self._read_parameters(packet[at + 1 : at + 1 + _HEAD_BYTES * 8])
            elif kind in (1, 5):
                return self._read_slice(packet[at : at + _HEAD_BYTES], idr=kind == 5)
        return False

    def _read_parameters(self, data: bytes) -> None:
        reader = _Bits(data)
        profile = reader.take(8)
        reader.take(16)
        reader.golomb()
        self._separate_planes = False
        if profile in _CHROMA_PROFILES:
            chroma = reader.golomb()
            if chroma == 3:
                self._separate_planes = bool(reader.take(1))
            reader.golomb()
            reader.golomb()
            reader.take(1)
            if reader.take(1):
                for number in range(12 if chroma == 3 else 8):
                    if reader.take(1):
                        reader.skip_scaling_list(16 if number < 6 else 64)
        self._bits = reader.golomb() + 4
        order = reader.golomb()
        if order == 0:
            reader.golomb()
        elif order == 1:
            reader.take(1)
            reader.golomb()
            reader.golomb()
            for _ in range(min(reader.golomb(), 255)):
                reader.golomb()
        reader.golomb()
        self._gaps_allowed = bool(reader.take(1))

    def _read_slice(self, data: bytes, *, idr: bool) -> bool:
        if not 4 <= self._bits <= 16:
            return False
        reference = bool(data[0] >> 5 & 3)
        reader = _Bits(data[1:])
        for _ in range(3):
            reader.golomb()
        if self._separate_planes:
            reader.take(2)
        number = reader.take(self._bits)
        last = self._last
        if reference:
            self._last = number
        if idr or last is None or self._gaps_allowed:
            return False
        return number not in (last, (last + 1) % (1 << self._bits))


class SkippedFrames:
    """Counts frames that entered a decoder and are never output, by their pts. Not thread-safe."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._began = False

    def took(self, pts: int | None) -> None:
        if pts is not None and len(self._taken) < _MOST_TAKEN:
            self._taken.add(pts)

    def gave(self, pts: int | None) -> int:
        """How many frames the output of ``pts`` has skipped: frames are output in order of their pts."""
        if pts is None:
            return 0
        skipped = {taken for taken in self._taken if taken < pts}
        self._taken -= skipped | {pts}
        # Frames before the first key frame are not counted as lost.
        began, self._began = self._began, True
        return len(skipped) if began else 0


class _Bits:
    """Reads bits, most significant first, without emulation prevention bytes (7.3.1); IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._value = int.from_bytes(plain, "big")
        self._left = len(plain) * 8

    def take(self, count: int) -> int:
        if count > self._left:
            raise IndexError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """ue(v), 9.1."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise IndexError
        return (1 << zeros) - 1 + self.take(zeros)

    def skip_scaling_list(self, size: int) -> None:
        """scaling_list(), 7.3.2.1.1.1."""
        last = following = 8
        for _ in range(size):
            if following:
                code = self.golomb()
                step = (code + 1) // 2 if code % 2 else -(code // 2)
                following = (last + step) % 256
            last = following or last
