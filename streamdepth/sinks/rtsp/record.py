"""A client that publishes to an RTSP server (RFC 2326 ANNOUNCE, RECORD) over TCP.

libav's publisher has no deadline: a stopped server blocked its ``mux`` for over 20 s, and at low bit rates the kernel's
buffers hide the stop even longer. This client sends the server a keep-alive request every second.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from streamdepth.core.errors import plain_reason
from streamdepth.net.url import PASSWORD_VARIABLE, TLS_SCHEMES, USER_VARIABLE, tls_error
from streamdepth.sinks.rtsp.protocol import (
    Interleaved,
    Message,
    MessageParser,
    ProtocolError,
    answer_challenge,
    format_interleaved,
    format_request,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamdepth.core.clock import Clock
    from streamdepth.net.url import Credentials, LiveUrl, TlsConfig

CONTROL = "streamid=0"
_AGENT = "streamdepth"
_SLICE_SECONDS = 0.05
_SEND_BUFFER_BYTES = 256 * 1024
_RECEIVE_BYTES = 65_536


class PublishError(Exception):
    """Why publishing failed or ended, in plain words without credentials."""


class RecordClient:
    """One connection to a server. ``interrupt`` from any thread, the rest from one.

    Args:
        tls: accepted certificates for ``rtsps``.
        timeout_seconds: limit for connecting, for each answer and keep-alive, and for a blocked send.
    """

    def __init__(
        self, url: LiveUrl, credentials: Credentials | None, tls: TlsConfig, *, timeout_seconds: float, clock: Clock
    ) -> None:
        self._url = url
        self._location = url.location
        self._credentials = credentials
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._stop = threading.Event()
        self._socket: socket.socket | None = None
        self._parser = MessageParser()
        self._messages: list[Message] = []
        self._cseq = 0
        self._session = ""
        self._challenges: tuple[str, ...] = ()
        self._channels = (0, 1)
        self._asked_ns: int | None = None
        self._asked_cseq = 0
        self._next_ask_ns = 0
        self._answers = 0

    def connect(self, sdp: str) -> None:
        """Connect and start the session.

        Raises:
            PublishError: no connection, no answer, or a refusal.
        """
        self._connect_socket()
        self._request("OPTIONS", self._location)
        self._request("ANNOUNCE", self._location, {"Content-Type": "application/sdp"}, sdp.encode())
        target = f"{self._location.rstrip('/')}/{CONTROL}"
        reply = self._request("SETUP", target, {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"})
        self._session = reply.headers.get("session", "").partition(";")[0].strip()
        transport = reply.headers.get("transport", "")
        for part in transport.split(";"):
            name, _, value = part.strip().partition("=")
            low, _, high = value.partition("-")
            if name == "interleaved" and low.isdigit() and int(low) < 255:
                self._channels = (int(low), int(high) if high.isdigit() and int(high) < 256 else int(low) + 1)
        self._request("RECORD", self._location, {"Range": "npt=0.000-"})
        # The first keep-alive is sent at once, to find out early whether the server answers while it records.
        self._next_ask_ns = self._clock.monotonic_ns()

    def send(self, packets: tuple[bytes, ...], report: bytes | None = None) -> None:
        """Send the packets of one frame; blocks for at most ``timeout_seconds``.

        Raises:
            PublishError: the connection broke or the server does not respond.
        """
        data = b"".join(format_interleaved(self._channels[0], packet) for packet in packets)
        if report is not None:
            data += format_interleaved(self._channels[1], report)
        self._write(data)
        self.poll()

    def poll(self) -> None:
        """Read the server's messages and check that it responds; call this a few times per second.

        Raises:
            PublishError: as for ``send``.
        """
        self._read(0.0)
        for message in self._messages:
            if message.is_response and message.headers.get("cseq") == str(self._asked_cseq):
                self._asked_ns = None
                self._answers += 1
            elif message.is_response and message.status in (401, 454):
                raise PublishError(f"the server ended the session ({message.status})")
            elif not message.is_response and message.method == "TEARDOWN":
                raise PublishError("the server ended the session")
        self._messages.clear()
        now_ns = self._clock.monotonic_ns()
        if self._asked_ns is not None:
            # Some servers answer nothing while they record: the limit applies only to one that has answered.
            if self._answers and now_ns - self._asked_ns > self._timeout_seconds * 1e9:
                raise PublishError(f"the server does not respond, no answer in {self._timeout_seconds:g} s")
        elif now_ns >= self._next_ask_ns:
            self._ask(now_ns)

    def interrupt(self) -> None:
        """Make every call return or raise."""
        self._stop.set()
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown, which removes the encryption under the thread that uses it.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self, *, teardown: bool) -> None:
        """Idempotent. ``teardown``: end the session at the server, without waiting for its answer."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        if teardown and not self._stop.is_set():
            with contextlib.suppress(OSError, ProtocolError):
                sock.settimeout(_SLICE_SECONDS)
                sock.sendall(self._format("TEARDOWN", self._location, {}, b""))
        with contextlib.suppress(OSError):
            sock.close()

    def _ask(self, now_ns: int) -> None:
        self._asked_ns = now_ns
        self._next_ask_ns = now_ns + round(max(min(1.0, self._timeout_seconds / 3), 0.05) * 1e9)
        self._write(self._format("OPTIONS", self._location, {}, b""))
        self._asked_cseq = self._cseq

    def _deadline_ns(self) -> int:
        return self._clock.monotonic_ns() + round(self._timeout_seconds * 1e9)

    def _left_seconds(self, deadline_ns: int) -> float:
        return (deadline_ns - self._clock.monotonic_ns()) / 1e9

    def _connect_socket(self) -> None:
        deadline_ns = self._deadline_ns()
        problem = "no address found"
        for family, kind, protocol, _, address in self._resolve(deadline_ns):
            sock = socket.socket(family, kind, protocol)
            try:
                self._connect_one(sock, address, deadline_ns)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
                sock.settimeout(max(self._left_seconds(deadline_ns), _SLICE_SECONDS))
                self._socket = sock if self._url.scheme not in TLS_SCHEMES else self._wrap(sock)
                if isinstance(self._socket, ssl.SSLSocket) and not self._stop.is_set():
                    # After ``interrupt`` can find the socket: with a silent server this blocks until the deadline.
                    self._socket.do_handshake()
            except OSError as exc:
                self.close(teardown=False)
                sock.close()
                if isinstance(exc, ssl.SSLError):
                    trouble = tls_error(exc)
                    raise PublishError(f"{trouble}; {trouble.hint}") from None
                problem = _plain(exc)
                continue
            except PublishError:
                sock.close()
                raise
            return
        raise PublishError(problem)

    def _wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        return self._tls.context().wrap_socket(
            sock, server_hostname=self._url.host, do_handshake_on_connect=self._tls.checked_by_system
        )

    def _resolve(self, deadline_ns: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        # Without an answer of the name server, getaddrinfo blocks for many seconds and cannot be interrupted.
        found: list[tuple[int, int, int, str, tuple[str, int]]] = []
        problem: list[str] = []

        def look_up() -> None:
            try:
                found.extend(
                    socket.getaddrinfo(self._url.host, self._url.port, type=socket.SOCK_STREAM)  # type: ignore[arg-type]
                )
            except (OSError, UnicodeError) as exc:
                problem.append(_plain(exc))

        worker = threading.Thread(target=look_up, name="rtsp-publish look-up", daemon=True)
        worker.start()
        while worker.is_alive() and self._left_seconds(deadline_ns) > 0 and not self._stop.is_set():
            worker.join(_SLICE_SECONDS)
        if problem:
            raise PublishError(f"{self._url.host}: {problem[0]}")
        if not found:
            raise PublishError(f"{self._url.host}: no address found in {self._timeout_seconds:g} s")
        return list(found)

    def _connect_one(self, sock: socket.socket, address: tuple[str, int], deadline_ns: int) -> None:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
        while not self._stop.is_set():
            left_seconds = self._left_seconds(deadline_ns)
            if left_seconds <= 0:
                raise TimeoutError
            # Windows reports a refused connection in the third set.
            if any(select.select([], [sock], [sock], min(left_seconds, _SLICE_SECONDS))):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
                return
        raise PublishError("interrupted")

    def _request(self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Message:
        for attempt in range(2):
            self._write(self._format(method, url, headers or {}, body))
            reply = self._await_reply(method)
            if reply.status != 401 or attempt or self._credentials is None:
                break
            self._challenges = reply.challenges
        if 200 <= reply.status < 300:
            return reply
        if reply.status in (401, 403):
            way = f"put user:password@ into the address or set {USER_VARIABLE} and {PASSWORD_VARIABLE}"
            raise PublishError(f"the server refuses access ({reply.status}); {way}")
        if reply.status == 404:
            raise PublishError("the server accepts no stream at this path (404); check the path")
        raise PublishError(f"the server answered {reply.status} to {method}")

    def _await_reply(self, method: str) -> Message:
        deadline_ns = self._deadline_ns()
        while not self._stop.is_set():
            while self._messages:
                message = self._messages.pop(0)
                if message.is_response and message.headers.get("cseq", str(self._cseq)) == str(self._cseq):
                    return message
            left_seconds = self._left_seconds(deadline_ns)
            if left_seconds <= 0:
                raise PublishError(f"no answer to {method} in {self._timeout_seconds:g} s")
            self._read(min(left_seconds, _SLICE_SECONDS))
        raise PublishError("interrupted")

    def _format(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
        self._cseq += 1
        all_headers = {"CSeq": str(self._cseq), "User-Agent": _AGENT, **headers}
        if self._session:
            all_headers["Session"] = self._session
        if self._challenges and self._credentials is not None:
            proof = answer_challenge(self._challenges, self._credentials, method, url)
            if proof is not None:
                all_headers["Authorization"] = proof
        return format_request(method, url, all_headers, body)

    def _write(self, data: bytes) -> None:
        if self._socket is None or self._stop.is_set():
            raise PublishError("interrupted")
        try:
            self._socket.settimeout(self._timeout_seconds)
            self._socket.sendall(data)
        except TimeoutError:
            raise PublishError(f"the server does not respond, no data taken for {self._timeout_seconds:g} s") from None
        except OSError as exc:
            raise PublishError(_plain(exc)) from None

    def _read(self, timeout_seconds: float) -> None:
        sock = self._socket
        if sock is None:
            raise PublishError("interrupted")
        try:
            decrypted = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            if not decrypted and not select.select([sock], [], [], timeout_seconds)[0]:
                return
            data = sock.recv(_RECEIVE_BYTES)
            if not data:
                raise PublishError("the server closed the connection")
            self._messages += [item for item in self._parser.feed(data) if not isinstance(item, Interleaved)]
        except TimeoutError:
            return
        except (OSError, ValueError) as exc:
            if isinstance(exc, ProtocolError):
                raise PublishError("the server does not speak RTSP") from None
            raise PublishError("interrupted" if self._stop.is_set() else _plain(exc)) from None


def _plain(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused"
    return plain_reason(exc)
