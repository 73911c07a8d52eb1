"""No secret survives redaction, in whatever text it comes; nothing else is touched."""

from __future__ import annotations

import string
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamdepth.core.errors import SourceError, one_line, redact, split_userinfo

_VISIBLE = "".join(chr(code) for code in range(33, 127))
# A quote or bracket at the end of a password cannot be told from the one that closes a string around the URL.
_PASSWORDS = st.text(_VISIBLE, min_size=6, max_size=24).map(lambda text: f"Zq{text}Xw7")
_USERS = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12).map(lambda text: f"Uv9{text}")
_HOSTS = st.sampled_from(["cam", "cam.example.com", "127.0.0.1", "[::1]", "10.0.0.7:8554", "[fe80::1]:554", "cam:80"])
_PATHS = st.sampled_from(["", "/", "/stream", "/a/b.sdp", "/x?profile=1", "/x#t"])
_SCHEMES = st.sampled_from(["rtsp", "rtsps", "http", "https", "rtmp"])
_FRAMES = st.sampled_from(
    [
        "{}",
        "cannot open {}",
        "'{}'",
        '"{}"',
        "({})",
        "<{}>",
        "a={}, b=1",
        "{}\nnext line",
        "[{}; {}]",
        '{{"url": "{}"}}',
    ]
)


def safe_ending(password: str) -> bool:
    """Where a bare URL would end within the password for any reader, or a string around it would."""
    return not any(
        mark in "\"'<>" and (index + 1 == len(password) or password[index + 1] in ",)]}:;>/\"'@")
        for index, mark in enumerate(password)
    )


def wrap(frame: str, url: str) -> str:
    return frame.replace("{}", url).replace("{{", "{").replace("}}", "}")


@given(_SCHEMES, _USERS, _PASSWORDS, _HOSTS, _PATHS, _FRAMES)
@example("rtsp", "Uv9", "Zqp@ss/w0rdXw7", "cam", "/s", "{}")
@example("rtsp", "Uv9", "Zqp://x@yXw7", "cam", "/s", "'{}'")
def test_percent_encoded_userinfo(scheme: str, user: str, password: str, host: str, path: str, frame: str) -> None:
    text = wrap(frame, f"{scheme}://{user}:{quote(password, safe='')}@{host}{path}")
    clean = redact(text)
    assert quote(password, safe="") not in clean
    assert user not in clean
    assert f"@{host}{path}" in clean
    assert redact(clean) == clean


@given(st.sampled_from(["rtsp", "rtsps", "http", "https"]), _USERS, _PASSWORDS.filter(safe_ending), _HOSTS, _FRAMES)
@example("rtsp", "Uv9", "12/34", "cam", "{}")
def test_bare_userinfo(scheme: str, user: str, password: str, host: str, frame: str) -> None:
    clean = redact(wrap(frame, f"{scheme}://{user}:{password}@{host}/stream"))
    assert password not in clean
    assert user not in clean
    assert f"@{host}/stream" in clean
    assert redact(clean) == clean


@given(_USERS, _PASSWORDS, _HOSTS)
def test_exception_reprs(user: str, password: str, host: str) -> None:
    url = f"rtsp://{user}:{quote(password, safe='')}@{host}/x"
    secret = quote(password, safe="")
    for error in (OSError(5, "Input/output error", url), ValueError(url), RuntimeError({"url": url}), KeyError((url,))):
        assert secret not in redact(repr(error))
        assert secret not in redact(str(error))
        assert secret not in repr(SourceError(f"{url}: {error!r}", source=url))


@given(_USERS, _PASSWORDS, _HOSTS, st.integers(1, 3))
def test_urls_inside_queries(user: str, password: str, host: str, depth: int) -> None:
    url = f"rtsp://{user}:{quote(password, safe='')}@{host}/x"
    for _ in range(depth):
        url = quote(url, safe="")
    clean = redact(f"GET /play?url={url}&speed=1 HTTP/1.1")
    assert user not in clean
    assert quote(password, safe="") not in clean
    assert clean.endswith("&speed=1 HTTP/1.1")
    assert redact(clean) == clean


_TOKENS = st.text(string.ascii_letters + string.digits + "-_.~", min_size=8, max_size=40).map(lambda text: f"Tk8{text}")
_NAMES = st.sampled_from(
    ["token", "access_token", "api_key", "apikey", "password", "pwd", "secret", "auth", "sig", "key"]
)


@given(_NAMES, _TOKENS, st.booleans())
def test_secret_query_parameters(name: str, token: str, last: bool) -> None:
    query = urlencode({"a": "1", name: token} if last else {name: token, "a": "1"})
    for text in (f"https://host/x?{query}", f"wss://host/x?{query} closed", f"'https://host/?{query}'"):
        clean = redact(text)
        assert token not in clean
        assert "a=1" in clean
        assert redact(clean) == clean


@given(_TOKENS, st.sampled_from(["Basic", "Bearer", "Token", "basic"]))
def test_auth_headers(token: str, kind: str) -> None:
    for text in (
        f"Authorization: {kind} {token}\r\nCSeq: 2",
        f"{{'Authorization': '{kind} {token}', 'Accept': 'x'}}",
        f"b'Authorization: {kind} {token}\\r\\nCSeq: 2'",
        f"('Proxy-Authorization', '{kind} {token}')",
        f'{{"authorization": "{kind} {token}"}}',
        f"X-Api-Key: {token}",
    ):
        clean = redact(text)
        assert token not in clean
        assert redact(clean) == clean
        assert "CSeq" in clean or "CSeq" not in text


def test_digest_header() -> None:
    fields = 'username="admin", realm="cam", nonce="abc", uri="rtsp://cam/x", response="f00"'
    clean = redact(f"Authorization: Digest {fields}\r\nCSeq: 3")
    assert clean == "Authorization: Digest ***\r\nCSeq: 3"


@given(st.sampled_from(["token", "password", "secret", "api_key", "access_token"]), _TOKENS)
def test_fields(name: str, token: str) -> None:
    for text in (
        f"Source({name}='{token}', size=3)",
        f'{{"{name}": "{token}"}}',
        f"{name}={token}",
        f"MY_{name.upper()}={token}",
        f"{{'{name}': b'{token}'}}",
    ):
        clean = redact(text)
        assert token not in clean
        assert redact(clean) == clean


@given(st.text(string.ascii_letters + string.digits, min_size=34, max_size=34))
def test_hub_tokens(tail: str) -> None:
    clean = redact(f"401 for hf_{tail} at hub")
    assert tail not in clean
    assert clean == "401 for *** at hub"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtsp://cam:554/stream",
        "rtsp://[fe80::1]:554/stream",
        "http://host:80/@name",
        "https://host/@scope/package@1.2",
        "https://host/a:b@c",
        "mail me@example.com or see http://host/ and you@example.com",
        "wrong password: give --password or set one",
        "token: 5 of 7",
        "hf_hub_download and hf_transformers",
        "a key=3 and monkey=2, keyboard=x",
        "C:\\videos\\a@b.mp4",
        "/home/me/a@b.mp4",
        "file:///home/a@b.mp4",
        "frame 3 @ 25 fps, 1920x1080",
        '"rtsp://a:1/x","c@d"',
        "time 12:30:01 // note@here",
        "author=Jane, authorization is needed",
        "https://host/x?size=3&keyframe=2&signal=4",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(string.ascii_letters + string.digits + " .,;!()-_/\n", max_size=200))
def test_plain_prose_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=300))
def test_any_text_is_taken_and_stable(text: str) -> None:
    clean = redact(text)
    assert redact(clean) == clean


def test_long_text_takes_no_time() -> None:
    """Patterns that backtrack would take minutes here."""
    for text in ("a" * 100_000, "rtsp://" * 5_000, "%3A%2F%2F" * 5_000, "a=" * 20_000 + "'" * 1_000, "x@" * 20_000):
        redact(text)


@given(_SCHEMES, _USERS, _PASSWORDS.filter(safe_ending), _HOSTS, st.sampled_from(["", "/", "/a/b"]))
def test_split_userinfo(scheme: str, user: str, password: str, host: str, path: str) -> None:
    assert split_userinfo(f"{scheme}://{user}:{password}@{host}{path}") == (
        f"{user}:{password}",
        f"{scheme}://{host}{path}",
    )
    assert split_userinfo(f"{scheme}://{host}{path}") == (None, f"{scheme}://{host}{path}")


def test_one_line_of_many() -> None:
    assert one_line(" rtsp://me:secret@cam/1:\n\tno answer ") == "rtsp://***@cam/1: no answer"
