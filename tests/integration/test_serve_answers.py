"""What refusals say: one short line in the client's words, and the headers of every other answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stages import fake_estimator
from tests.support.web import Running, http, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def run() -> Iterator[Running]:
    with running(stills=fake_estimator()) as started:
        yield started


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", {"GET", "HEAD"}),
        ("PUT", "/static/app.css", {"GET", "HEAD"}),
        ("GET", "/login", {"POST"}),
        ("PUT", "/v1/jobs", {"GET", "HEAD", "POST"}),
        ("POST", "/v1/jobs/x", {"GET", "HEAD", "DELETE"}),
    ],
)
def test_a_refused_method_names_those_that_are_allowed(run: Running, method: str, path: str, allowed: set[str]) -> None:
    answer = http(f"{run.url}{path}", method=method)
    assert answer.status == 405
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed  # RFC 9110, 15.5.6


@pytest.mark.parametrize("path", ["/static/nosuch.js", "/nosuch", "/v1/jobs/x", "/v1/state"])
def test_only_files_of_the_page_are_kept_by_caches(run: Running, path: str) -> None:
    assert http(f"{run.url}{path}").headers["cache-control"] == "no-store"
    assert http(f"{run.url}/static/app.js").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"view": "x"}, "view is one of depth, overlay, side, stack, not 'x'"),
        ({"edges": [1]}, "edges is one of bilinear, guided, not [1]"),
        ({"contours": "9" * 5000}, f"contours must be a whole number, not '{'9' * 60}'"),
        ({"style": "0x10"}, "unknown style '0x10'; GET /v1/palettes lists the palettes"),
    ],
)
def test_values_of_a_look(run: Running, content: dict[str, Any], message: str) -> None:
    answer = http(f"{run.url}/v1/control", body=content)
    assert (answer.status, answer.error) == (400, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":' * 60_000, "the JSON is nested too deeply; send an image, a list of them, or an object"),
        (b"1" * 5000, "the body is not JSON (a number has too many digits)"),
        (b'"\xe9"', "the body is not JSON (it is not text in UTF-8)"),
        (b"null", "null is not an image; give base64, a list of them, or a tensor"),
    ],
)
def test_bodies_that_are_no_json(run: Running, body: bytes, message: str) -> None:
    answer = http(f"{run.url}/v1/depth", body=body, kind="application/json")
    assert (answer.status, answer.error) == (400, message)


@pytest.mark.parametrize("path", ["/", "/v1/live.jpg?source=", "/v1/jobs?style="])
def test_messages_are_short(run: Running, path: str) -> None:
    answer = http(f"{run.url}{path}{'a' * 5000}", method="POST" if "jobs" in path else "GET")
    assert answer.status in {400, 404}
    assert len(answer.error) < 420


@pytest.mark.parametrize(
    ("line", "message"),
    [("m=video 9 UDP 96", "more than 16 'm=' lines"), ("a=candidate:1", "256 'a=candidate:' lines")],
)
def test_long_offers_are_refused_before_they_are_parsed(run: Running, line: str, message: str) -> None:
    answer = http(f"{run.url}/v1/live/offer", body={"type": "offer", "sdp": "v=0\r\n" + f"{line}\r\n" * 257})
    assert answer.status == 400
    assert message in answer.error
