"""``streamdepth serve`` as people start and end it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_serve_jobs import clip
from tests.support import need
from tests.support.rtsp import watch
from tests.support.web import TOKEN, eventually, http, serving

if TYPE_CHECKING:
    from pathlib import Path


@need.posix_signals
def test_a_clip_is_shown_over_and_over_until_interrupted(tmp_path: Path) -> None:
    clip(tmp_path, 8)
    with serving(str(tmp_path / "clip.mp4"), "--style", "viridis", "--view", "overlay") as (process, url):
        eventually(lambda: http(f"{url}/v1/live.jpg").status == 200, "an image", 60)
        first = int(http(f"{url}/v1/live.jpg").headers["x-frame"])
        assert http(f"{url}/v1/state").json["look"]["style"] == "viridis"

        def frame() -> int:
            return int(http(f"{url}/v1/live.jpg").headers["x-frame"])

        eventually(lambda: frame() == 7, "the last frame", 60)
        eventually(lambda: frame() < 7, "the first again", 60)
        assert 0 <= first < 8
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "streamdepth: interrupted\n")


@need.posix_signals
def test_stills_only_behind_a_token() -> None:
    with serving(STREAMDEPTH_WEB_TOKEN=TOKEN) as (process, url):
        assert TOKEN not in url
        assert http(f"{url}/healthz").json["live"] is False
        assert http(f"{url}/v1/state").status == 401
        state = http(f"{url}/v1/state", headers={"Authorization": f"Bearer {TOKEN}"}).json
        assert state["source"] is None
        assert state["stills"]
        process.send_signal(signal.SIGTERM)
        output = "".join(process.communicate(timeout=20))
    assert process.returncode == 130
    assert TOKEN not in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nosuch.mp4"], 1, "nosuch.mp4"),
        (["test:", "--range", "shot"], 2, "shot"),
        (["test:", "--style", "nosuch"], 2, "nosuch"),
        (["--listen", "http://user:secret@127.0.0.1:1"], 2, "STREAMDEPTH_WEB_TOKEN"),
        (["--listen", "ftp://127.0.0.1"], 2, "http://"),
        (["--token-file", "nosuch"], 2, "nosuch"),
        (["--max-upload", "0"], 2, "max-upload"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, words: str) -> None:
    from streamdepth.cli.main import main

    code_found, errors = captured(main, ["serve", *arguments])
    assert code_found == code
    assert errors.count("\n") == 1
    assert words in errors
    assert "secret" not in errors


def captured(main: object, arguments: list[str]) -> tuple[int, str]:
    import io
    from contextlib import redirect_stderr

    out = io.StringIO()
    with redirect_stderr(out):
        code = main(arguments)  # type: ignore[operator]
    return code, out.getvalue()


@need.posix_signals
def test_several_sources_share_servers() -> None:
    ports = [free_port(), free_port()]
    page, stream = f"http://127.0.0.1:{ports[0]}", f"rtsp://127.0.0.1:{ports[1]}"
    sources = ["test:?size=64x48&rate=10", "test:?size=96x64&rate=10&seed=2"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "streamdepth", "run", *sources),
            *("--serve", f"{stream}/{{name}}", "--serve", page, "--provider", "cpu"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        state = eventually(lambda: state_of(page), "the page", 60)
        assert [source["id"] for source in state["sources"]] == ["test:", "test:#2"]
        sizes = {(image.width, image.height) for path in ("test", "test_2") for image in watch(f"{stream}/{path}", 2)}
        assert sizes == {(64, 48), (96, 64)}
        process.send_signal(signal.SIGINT)
        opened, said = process.communicate(timeout=20)
        assert opened == f"streamdepth: open {page}/\n"
        assert said.splitlines() == [
            *(f"streamdepth: serving {stream}/{path}" for path in ("test", "test_2")),
            "streamdepth: interrupted",
        ]
    finally:
        process.kill()
        process.communicate(timeout=20)


def state_of(page: str) -> Any:
    try:
        state = http(f"{page}/v1/state").json
    except OSError:
        return None
    return state if state["source"] else None


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
