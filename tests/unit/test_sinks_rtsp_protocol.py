"""RTSP messages, authentication, pace and RTP media, without a network."""

from __future__ import annotations

import contextlib
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdepth.core.errors import SinkError
from streamdepth.core.frame import ColorTags
from streamdepth.net.url import Credentials
from streamdepth.sinks.rtsp.delivery import sdp, sender_report
from streamdepth.sinks.rtsp.media import Encoder, Pace, output_rate, split_annex_b
from streamdepth.sinks.rtsp.protocol import (
    Authenticator,
    Interleaved,
    Message,
    MessageParser,
    ProtocolError,
    Transport,
    answer_challenge,
    digest_response,
    format_interleaved,
    format_request,
    format_response,
    parse_transport,
)
from tests.support.clock import ManualClock
from tests.support.rtsp import stream_info

_STREAM = (
    b"OPTIONS rtsp://h/x RTSP/1.0\r\nCSeq: 1\r\nX-A: b: c\r\n\r\n"
    b"$\x01\x00\x03abc"
    b"\r\nANNOUNCE rtsp://h/x RTSP/1.0\r\nCSeq: 2\r\nContent-Length: 4\r\n\r\nbody"
    b"RTSP/1.0 401 Unauthorized\r\nCSeq: 3\r\nWWW-Authenticate: Digest a\r\nWWW-Authenticate: Basic b\r\n\r\n"
)


@given(st.lists(st.integers(1, 40), min_size=1))
def test_parser_takes_messages_in_any_pieces(sizes: list[int]) -> None:
    parser, found, rest = MessageParser(), [], _STREAM
    while rest:
        for size in sizes:
            found += parser.feed(rest[:size])
            rest = rest[size:]
    request, packet, announce, response = found
    assert isinstance(request, Message)
    assert (request.method, request.url, request.headers) == ("OPTIONS", "rtsp://h/x", {"cseq": "1", "x-a": "b: c"})
    assert packet == Interleaved(1, b"abc")
    assert isinstance(announce, Message)
    assert announce.body == b"body"
    assert isinstance(response, Message)
    assert (response.is_response, response.status) == (True, 401)
    assert response.challenges == ("Digest a", "Basic b")
    assert not parser.pending


@given(st.binary(max_size=2000))
def test_parser_survives_anything(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        MessageParser().feed(data)


@given(st.binary(min_size=1, max_size=200), st.integers(0, len(_STREAM) - 1))
def test_parser_survives_damage(noise: bytes, at: int) -> None:
    with contextlib.suppress(ProtocolError):
        MessageParser().feed(_STREAM[:at] + noise + _STREAM[at:])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x01",
        b"A" * 20_000,
        b"OPTIONS * RTSP/1.0\r\nCSeq 1\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\nContent-Length: 70000\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\nContent-Length: -1\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\nContent-Length: \xb2\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\n" + b"A: b\r\n" * 100 + b"\r\n",
    ],
)
def test_parser_refuses(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        MessageParser().feed(data)


def test_parser_refuses_floods() -> None:
    request = b"\r\n\r\nOPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    parser = MessageParser()
    assert len(parser.feed(request * 256)) == 256
    with pytest.raises(ProtocolError, match="more than 256 messages at once"):
        parser.feed(request * 257)


def test_messages_hold_no_line_breaks() -> None:
    with pytest.raises(ProtocolError):
        format_response(200, {"CSeq": "1\r\nX: y"})
    assert format_request("A", "u", {"B": "c"}, b"x").endswith(b"Content-Length: 1\r\n\r\nx")
    assert format_interleaved(2, b"ab") == b"$\x02\x00\x02ab"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("RTP/AVP/TCP;unicast;interleaved=4-5", Transport(True, (4, 5))),
        ("RTP/AVP/TCP;unicast;interleaved=4", Transport(True, (4, 5))),
        ("RTP/AVP/TCP", Transport(True, None)),
        ('RTP/AVP;unicast;client_port=5000-5001;mode="PLAY"', Transport(False, (5000, 5001))),
        ("RTP/AVP/UDP;client_port=5000", Transport(False, (5000, 5001))),
        ("RTP/SAVP;client_port=1-2,RTP/AVP/TCP;interleaved=0-1", Transport(True, (0, 1))),
        ("RTP/AVP;multicast;client_port=5000-5001", None),
        ("RTP/AVP;unicast;client_port=0-1", None),
        ("RTP/AVP;unicast;client_port=65535", None),
        ("RTP/AVP;unicast;client_port=99999999-5", None),
        ("RTP/AVP;unicast;client_port=\u0663-4", None),
        ("", None),
    ],
)
def test_transports(header: str, expected: Transport | None) -> None:
    assert parse_transport(header) == expected


@given(st.text(max_size=100))
def test_transport_survives_anything(header: str) -> None:
    parse_transport(header)


def test_digest_of_the_standard() -> None:
    """The worked example of RFC 2617 3.5, and SHA-256 of RFC 7616 3.9.1."""
    fields = {
        "realm": "testrealm@host.com",
        "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093",
        "uri": "/dir/index.html",
        "qop": "auth",
        "nc": "00000001",
        "cnonce": "0a4f113b",
    }
    credentials = Credentials("Mufasa", "Circle Of Life")
    assert digest_response(credentials, "GET", fields) == "6629fae49393a05397450978507c4ef1"
    fields = {
        "realm": "http-auth@example.org",
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "uri": "/dir/index.html",
        "qop": "auth",
        "nc": "00000001",
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        "algorithm": "SHA-256",
    }
    wanted = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    assert digest_response(Credentials("Mufasa", "Circle of Life"), "GET", fields) == wanted


def test_gatekeeper_admits_its_own_challenge_and_no_old_one() -> None:
    clock, right = ManualClock(), Credentials('us"er'.replace('"', ""), "p:w")
    gate = Authenticator(right, clock)
    for challenges in (gate.challenges(), gate.challenges()[1:]):
        proof = answer_challenge(challenges, right, "PLAY", "rtsp://h/x")
        assert gate.admits(proof, "PLAY")
        wrong = answer_challenge(challenges, Credentials("user", "pw"), "PLAY", "rtsp://h/x")
        assert not gate.admits(wrong, "PLAY")
    digest = answer_challenge(gate.challenges(), right, "PLAY", "rtsp://h/x")
    assert not gate.admits(digest, "TEARDOWN")
    clock.advance(301)
    assert not gate.admits(digest, "PLAY")
    assert gate.is_stale(digest)
    assert "stale=true" in gate.challenges(stale=True)[0]
    assert not gate.admits(None, "PLAY")
    assert answer_challenge(["Negotiate x"], right, "PLAY", "u") is None


@given(st.text(max_size=200))
def test_gatekeeper_survives_anything(header: str) -> None:
    gate = Authenticator(Credentials("u", "p"), ManualClock())
    for text in (header, f"Basic {header}", f'Digest nonce="{header}", response="x"', f"Digest {header}"):
        assert not gate.admits(text, "PLAY")
        assert not gate.is_stale(text)


def plain_image(width_px: int = 64, height_px: int = 48, value: int = 100) -> av.VideoFrame:
    planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
    planes[:height_px] = value
    return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def test_pace_gives_the_newest_and_repeats_on_time() -> None:
    clock = ManualClock()
    pace = Pace(Fraction(10), clock)
    assert pace.take(0) is None
    first, second = plain_image(), plain_image()
    pace.submit(first)
    pace.submit(second)
    assert pace.superseded == 1
    due = pace.take(0)
    assert due is not None
    assert (due.image is second, due.fresh) == (True, True)
    assert pace.wait_drained(0)
    times = []
    for _ in range(100):
        clock.advance(0.01)
        again = pace.take(0)
        if again is not None:
            assert not again.fresh
            times.append((clock.now_ns - due.now_ns) / 1e9)
    assert times == pytest.approx([0.15 + 0.1 * step for step in range(9)], abs=1e-6)


def test_pace_keeps_a_distance_and_can_be_hurried() -> None:
    clock = ManualClock()
    pace = Pace(Fraction(10), clock)
    pace.submit(plain_image())
    assert pace.take(0)
    pace.submit(plain_image())
    clock.advance(0.05)
    assert pace.take(0) is None
    clock.advance(0.05)
    due = pace.take(0)
    assert due is not None
    assert due.fresh
    clock.advance(0.01)
    assert pace.take(0) is None
    pace.hurry()
    assert pace.take(0)
    pace.close()
    assert pace.take(5) is None


def test_output_rate() -> None:
    assert output_rate(None, stream_info(rate=25)) == 25
    assert output_rate(None, stream_info(rate=120)) == 30
    assert output_rate(None, stream_info(rate=None)) == 25
    assert output_rate(29.97, stream_info()) == pytest.approx(29.97, abs=1e-3)


def make_encoder(bitrate: int | None = None, *, announce: bool = True) -> Encoder:
    return Encoder(rate=Fraction(25), bitrate=bitrate, gop_seconds=2.0, preset="ultrafast", announce=announce)


def byte_stream(packets: tuple[bytes, ...]) -> bytes:
    """Depacketise by hand (RFC 6184 5.6 to 5.8)."""
    stream = b""
    for packet in packets:
        payload = packet[12:]
        kind = payload[0] & 31
        if kind == 24:
            payload = payload[1:]
            while payload:
                size = int.from_bytes(payload[:2], "big")
                stream += b"\0\0\0\1" + payload[2 : 2 + size]
                payload = payload[2 + size :]
        elif kind == 28:
            if payload[1] & 0x80:
                stream += b"\0\0\0\1" + bytes((payload[0] & 0xE0 | payload[1] & 31,))
            stream += payload[2:]
        else:
            stream += b"\0\0\0\1" + payload
    return stream


def decode(packets: list[tuple[bytes, ...]]) -> list[av.VideoFrame]:
    codec = av.CodecContext.create("h264", "r")
    assert isinstance(codec, av.VideoCodecContext)
    codec.thread_type = "SLICE"
    images: list[av.VideoFrame] = []
    for unit in packets:
        images += codec.decode(av.Packet(byte_stream(unit)))
    return images + codec.decode(None)


def rtp_time(packet: bytes) -> int:
    return int.from_bytes(packet[4:8], "big")


@pytest.mark.parametrize("announce", [True, False])
def test_encoder_packets_decode_to_the_images(announce: bool) -> None:
    encoder = make_encoder(announce=announce)
    units = [encoder.encode(plain_image(value=60 + 10 * n), n * 3600, key=n == 3) for n in range(6)]
    encoder.close()
    assert [unit.key for unit in units] == [True, False, False, True, False, False]
    assert {(later.rtp_time - earlier.rtp_time) % 2**32 for earlier, later in itertools.pairwise(units)} == {3600}
    for unit in units:
        own = [packet for packet in unit.packets if rtp_time(packet) == unit.rtp_time]
        assert len(unit.packets) == len(own) + announce
        assert [packet[1] >> 7 for packet in own] == [0] * (len(own) - 1) + [1]
        assert all(len(packet) <= 1400 for packet in unit.packets)
    images = decode([unit.packets for unit in units])
    means = [image.to_ndarray(format="yuv420p")[:48].mean() for image in images]
    assert means == pytest.approx([60 + 10 * n for n in range(6)], abs=2)


def test_a_parser_gives_a_image_out_before_the_next_one_is_made() -> None:
    """What FFmpeg's RTSP reader does: it knows an image's end only by what starts the next."""
    for announce in (True, False):
        encoder, parser = make_encoder(announce=announce), av.CodecContext.create("h264", "r")
        units = [encoder.encode(plain_image(), n * 3600, key=False) for n in range(4)]
        found = [len(parser.parse(byte_stream(unit.packets))) for unit in units]
        assert found == ([1, 1, 1, 1] if announce else [0, 1, 1, 1])


def test_announced_times_are_kept_and_do_not_drift() -> None:
    encoder = make_encoder()
    pts = [0, 3300, 7500, 10_800, 14_000, 18_100, 100_000, 103_600]
    units = [encoder.encode(plain_image(), one, key=False) for one in pts]
    stamps = [(unit.rtp_time - units[0].rtp_time) % 2**32 for unit in units]
    announced = [(rtp_time(unit.packets[-1]) - units[0].rtp_time) % 2**32 for unit in units]
    assert announced == [one + 3600 for one in pts]
    late = pts.index(100_000)  # nobody looked for a second: that announcement is void
    assert stamps == [0, *announced[: late - 1], 100_000, *announced[late:-1]]
    assert not any(unit.packets[-1][1] >> 7 for unit in units)
    sequence = [int.from_bytes(packet[2:4], "big") for unit in units for packet in unit.packets]
    assert {(later - earlier) % 2**16 for earlier, later in itertools.pairwise(sequence)} == {1}


def test_encoder_takes_other_sizes_formats_and_times() -> None:
    encoder = make_encoder(announce=False)
    odd = av.VideoFrame.from_ndarray(np.full((51, 71, 3), (200, 40, 40), np.uint8), format="rgb24")
    units = [encoder.encode(plain_image(), 0, key=False), encoder.encode(odd, 0, key=False)]
    assert units[1].key
    assert units[1].rtp_time == (units[0].rtp_time + 1) % 2**32
    images = decode([unit.packets for unit in units])
    assert [(image.width, image.height) for image in images] == [(64, 48), (70, 50)]
    assert ColorTags.of(images[1]).matrix == 6
    assert images[1].to_ndarray(format="rgb24").mean(axis=(0, 1)) == pytest.approx((200, 40, 40), abs=6)


def test_encoder_does_not_touch_the_image() -> None:
    image = plain_image()
    image.pts = 7
    make_encoder().encode(image, 900, key=True)
    assert (image.pts, int(image.pict_type)) == (7, 0)


def test_bitrate_is_kept() -> None:
    encoder = make_encoder(bitrate=400_000)
    rng = np.random.default_rng(1)
    sizes = []
    for index in range(75):
        planes = rng.integers(0, 256, (180, 160), dtype=np.uint8)
        unit = encoder.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p"), index * 3600, key=False)
        sizes.append(sum(map(len, unit.packets)))
    assert sum(sizes[25:]) * 8 / 2 < 1.5 * 400_000


def test_low_latency_bounds_how_long_a_image_takes_to_send() -> None:
    """The largest image is what a viewer behind a link of that rate waits longest for."""
    rng = np.random.default_rng(2)
    noise = [rng.integers(0, 256, (360, 320), dtype=np.uint8) for _ in range(4)]
    largest = {}
    for low_latency in (True, False):
        encoder = Encoder(
            rate=Fraction(25), bitrate=1_000_000, gop_seconds=1.0, preset="ultrafast", low_latency=low_latency
        )
        sizes = []
        for index in range(100):
            image = av.VideoFrame.from_ndarray(noise[index % 4 if index % 25 == 0 else 0], format="yuv420p")
            sizes.append(sum(map(len, encoder.encode(image, index * 3600, key=False).packets)))
        largest[low_latency] = max(sizes[25:])
    assert largest[True] * 8 < 0.3 * 1_000_000
    assert largest[False] > 1.2 * largest[True]


def test_sizes_at_the_ends() -> None:
    assert make_encoder().encode(av.VideoFrame(2, 2, "yuv420p"), 0, key=True).packets
    with pytest.raises(SinkError, match="20000x16"):
        make_encoder().encode(av.VideoFrame(20_000, 16, "yuv420p"), 0, key=True)


def test_sdp_is_read_by_libav() -> None:
    encoder = make_encoder()
    encoder.encode(plain_image(), 0, key=True)
    text = sdp(address="::1", sps=encoder.sps, pps=encoder.pps, rate=Fraction(25), control="trackID=0")
    assert "c=IN IP6 ::" in text
    assert "a=rtpmap:96 H264/90000" in text
    assert all(len(line) < 1000 for line in text.split("\r\n"))


def test_annex_b() -> None:
    assert split_annex_b(b"\0\0\0\1\x67ab\0\0\1\x68c\0\0\0\1\x65\0\1") == [b"\x67ab", b"\x68c", b"\x65\0\1"]


def test_sender_report() -> None:
    report = sender_report(5, 0.5, 2**32 + 7, 3, 4)
    assert report[:8] == b"\x80\xc8\x00\x06\x00\x00\x00\x05"
    assert int.from_bytes(report[8:12], "big") == 2_208_988_800
    assert int.from_bytes(report[12:16], "big") == 2**31
    assert [int.from_bytes(report[at : at + 4], "big") for at in (16, 20, 24)] == [7, 3, 4]
    assert report[29] == 202
    assert len(report) == 28 + 4 * (int.from_bytes(report[30:32], "big") + 1)
