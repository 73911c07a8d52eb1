"""Who may use a site: tokens, other sites, rebound names, addresses."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.core.errors import UsageError
from streamdepth.serve.options import TOKEN_VARIABLE, check_url, find_token
from streamdepth.serve.site import WebSite
from tests.support.web import TOKEN, Running, http, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVIL = {"Origin": "http://evil.example"}


@pytest.fixture(scope="module")
def run() -> Iterator[Running]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    with running(token=TOKEN) as started:
        yield started


def test_health_needs_nothing(guarded: Running) -> None:
    answer = http(f"{guarded.url}/healthz")
    assert answer.status == 200
    assert answer.json["status"] == "ok"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/state"),
        ("GET", "/metrics"),
        ("GET", "/v1/live.mjpg"),
        ("GET", "/v1/live.jpg"),
        ("GET", "/v1/live/socket"),
        ("GET", "/static/app.js"),
        ("POST", "/v1/control"),
        ("POST", "/v1/live/offer"),
        ("POST", "/v1/live/snapshot"),
        ("GET", "/nosuch"),
    ],
)
def test_without_the_token_nothing_is_said(guarded: Running, method: str, path: str) -> None:
    answer = http(guarded.url + path, method=method)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.error
    assert http(guarded.url + path, method=method, headers={"Authorization": "Bearer wrong-wrong-wrong"}).status == 401


def test_the_token_opens_as_bearer_and_as_session(guarded: Running) -> None:
    assert http(f"{guarded.url}/v1/state", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
    page = http(f"{guarded.url}/")
    assert page.status == 401
    assert b"token" in page.body
    assert http(f"{guarded.url}/login", body={"token": "not-the-right-one"}).status == 401
    assert http(f"{guarded.url}/login", body=b"[]", kind="application/json").status == 401
    answer = http(f"{guarded.url}/login", body={"token": TOKEN})
    assert answer.status == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    session = {"Cookie": cookie.split(";")[0]}
    assert http(f"{guarded.url}/v1/state", headers=session).status == 200
    assert http(f"{guarded.url}/v1/control", body={"bar": False}, headers={**session, **EVIL}).status == 403


def test_other_sites_are_refused(run: Running) -> None:
    for headers in (EVIL, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert control_as(run, headers).status == 403
    own = {"Origin": run.url, "Sec-Fetch-Site": "same-origin"}
    assert control_as(run, own).status == 200
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert http(f"{run.url}/v1/live/socket", headers={**upgrade, "Sec-WebSocket-Key": "x" * 24, **EVIL}).status == 403
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert http(f"{run.url}/v1/live.jpg", headers=embedded).status == 403
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert http(f"{run.url}/", headers=linked).status == 200


def control_as(run: Running, headers: dict[str, str]) -> Any:
    return http(f"{run.url}/v1/control", body={"bar": False}, headers=headers)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1", "[::2]", ""])
def test_rebound_names_are_refused(run: Running, host: str) -> None:
    assert http(f"{run.url}/v1/state", headers={"Host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.9", "[::1]:80", "a.localhost"])
def test_loopback_names_are_not(run: Running, host: str) -> None:
    assert http(f"{run.url}/v1/state", headers={"Host": host}).status == 200


def test_answers_carry_headers_that_keep_others_out(run: Running) -> None:
    headers = http(f"{run.url}/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["server"] == "streamdepth"


def test_beyond_loopback_a_token_is_made() -> None:
    # Bound to loopback all the same: only what the address says counts here.
    site = WebSite("http://0.0.0.0:0", environ={})
    site._listen = None
    from unittest.mock import patch

    with patch("streamdepth.serve.server._bind") as bind:
        bound = socket.create_server(("127.0.0.1", 0))
        bound.setblocking(False)
        bind.return_value = bound
        site.start()
    try:
        assert site.token_generated
        secret = site.entry_url.partition("#token=")[2]
        assert len(secret) >= 32
        assert secret not in site.address
        url = f"http://127.0.0.1:{site.port}/v1/state"
        assert http(url).status == 401
        assert http(url, headers={"Authorization": f"Bearer {secret}"}).status == 200
    finally:
        site.stop()


def test_where_tokens_come_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nsecond line\n")
    assert find_token(token_file=file, environ={}) == TOKEN
    assert find_token(environ={TOKEN_VARIABLE: TOKEN}) == TOKEN
    assert find_token(environ={}) is None
    with pytest.raises(UsageError, match="both given"):
        find_token(TOKEN, file)
    with pytest.raises(UsageError, match="cannot be read"):
        find_token(token_file=tmp_path / "nosuch")
    for bad in ("short", "with spaces in it", "nicht-ascii-ß-aber-lang", ""):
        with pytest.raises(UsageError, match="12") as caught:
            find_token(bad)
        assert not bad or bad not in str(caught.value)


@pytest.mark.parametrize("url", ["https://x:1", "rtsp://x:1", "http://x:1/path", "http://x:1/?a=b", "http://u:p@x:1"])
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url(url)
    assert "u:p" not in str(caught.value)
