"""Every command, snippet, link and example of the documentation, run or checked as it stands.

Parts that a test machine lacks are simulated: a camera at OpenCV's boundary, a virtual display, RTSP servers on free
ports of the loopback interface. Commands that do not end by themselves get ``--max-frames``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamdepth.image.estimator import DepthEstimator
from streamdepth.serve.site import WebSite
from tests.support import need
from tests.support.media import write_clip
from tests.support.models import write_depth_model
from tests.support.paths import ROOT
from tests.support.rtsp import GstServer, unused_port
from tests.support.screen import x_display

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
DOCUMENTS = tuple(
    ROOT / name
    for name in (
        "README.md",
        "CHANGELOG.md",
        ".github/CONTRIBUTING.md",
        "benchmarks/README.md",
        "configs/README.md",
        "streamdepth/README.md",
        "streamdepth/models/builtin/MODEL_CARD.md",
        "streamdepth/models/builtin/training/README.md",
    )
)
_MOST_README_BYTES = 10_240

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = _BLOCK.findall(README)
INSTALL, TEST = (body.strip() for kind, body in BLOCKS[:2])
COMMANDS = list(
    dict.fromkeys(
        line
        for kind, body in [*BLOCKS[2:], *_BLOCK.findall(REFERENCE)]
        if kind == "sh"
        for line in body.strip().splitlines()
    )
)
SNIPPETS = [body for kind, body in BLOCKS if kind == "python"]
EXAMPLES = {
    "custom_sink.py": ["clip.mp4", "example.mp4"],
    "still_images.py": ["photos", "example_depth"],
    "stream_to_numpy.py": ["clip.mp4", "example.npz"],
}

_NEEDED = ("streamdepth", "pyproject.toml", "README.md", "LICENSE")

# Runs the real command with a simulated camera.
LAUNCHER = """#!{python}
import sys
if "0" in sys.argv or any("live-overlay" in part or "robotics" in part for part in sys.argv):
    import cv2, numpy
    class Camera:
        def __init__(self, *_): self.count = 0
        def isOpened(self): return True
        def read(self):
            self.count += 1
            return True, numpy.full((48, 64, 3), self.count * 7 % 256, numpy.uint8)
        def get(self, prop): return 30.0 if prop == 5 else 0.0
        def set(self, prop, value): return False
        def release(self): pass
    cv2.VideoCapture = Camera
if __name__ == "__main__":
    from streamdepth.cli import main
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files the recipes name."""
    folder = tmp_path_factory.mktemp("readme")
    write_clip(folder / "clip.mp4", frames=10, width=64, height=48, audio=True)
    (folder / "film.mp4").symlink_to("clip.mp4")
    (folder / "clips").mkdir()
    for name in ("one", "two"):
        write_clip(folder / "clips" / f"{name}.mp4", frames=4, width=64, height=48)
    from PIL import Image

    ramp = np.linspace(0, 255, 60 * 80 * 3).reshape(60, 80, 3).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "photo.jpg")
    (folder / "photos").mkdir()
    for name in ("one.jpg", "two.png"):
        Image.fromarray(ramp).save(folder / "photos" / name)
    write_depth_model(folder / "model.onnx")
    (folder / "configs").symlink_to(ROOT / "configs")
    launcher = folder / "bin" / "streamdepth"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    return folder


def bounded(command: str) -> list[str]:
    """The command's words; live sources stop after a few frames."""
    words = shlex.split(command, comments=True)
    live = words[1:2] == ["run"] and (words[2] == "0" or "://" in words[2] or "live-overlay" in command)
    return [*words, "--max-frames", "8"] if live else words


def run(words: list[str], desk: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(words, cwd=desk, env=env, capture_output=True, text=True, timeout=100)


def test_the_readme_starts_with_two_commands() -> None:
    assert "pip install ." in INSTALL
    assert "streamdepth run test:" in INSTALL
    assert TEST == ".ci/run"
    assert os.access(ROOT / TEST, os.X_OK)


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= _MOST_README_BYTES


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_extra_exists(path: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    text = path.read_text(encoding="utf-8")
    assert "streamdepth[" not in text, "the package is not published: name the checkout, as in '.[web]'"
    assert {name for names in re.findall(r"\.\[([a-z,]+)\]", text) for name in names.split(",")} <= extras


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, desk: Path) -> None:
    if not command.startswith("streamdepth "):
        need.program(command.split()[0])
    if command.startswith("streamdepth restyle "):
        assert run(["streamdepth", "run", "clip.mp4", "--data", "depth.mkv", "-y"], desk).returncode == 0
    with ExitStack() as stack:
        environment = {}
        if "--show" in command or "live-overlay" in command:
            environment["DISPLAY"] = stack.enter_context(x_display())
        if "rtsp://" in command:
            command = _with_servers(command, stack)
        if command.startswith("curl "):
            command = command.replace("http://127.0.0.1:8080", stack.enter_context(_stills_server()))
        if "s3://" in command:
            environment |= stack.enter_context(_bucket(desk / "clips"))
        if "--engine ray" in command:
            need.module("ray", "the extra ray")
        replaces = command.startswith("streamdepth ") and (" -o " in command or "--data" in command)
        replaces = replaces and "--resume" not in command
        done = run([*bounded(command), *(["-y"] if replaces else [])], desk, **environment)
    assert done.returncode == 0, done.stderr
    if command.startswith("curl "):
        _check_answer(desk / shlex.split(command)[-1])


@contextmanager
def _bucket(clips: Path) -> Iterator[dict[str, str]]:
    """The environment for a server with ``s3://bucket/clips/``."""
    server_module = need.module("moto.server", "moto[s3,server]")
    s3fs = need.module("s3fs", "the extra cloud")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        files = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=url)  # noqa: S106
        files.mkdir("bucket")
        for clip in clips.iterdir():
            files.put_file(str(clip), f"bucket/clips/{clip.name}")
        yield {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }
    finally:
        server.stop()


@contextmanager
def _stills_server() -> Iterator[str]:
    """The server of ``streamdepth serve`` on a free port."""
    with DepthEstimator() as estimator:
        site = WebSite("http://127.0.0.1:0", estimator=estimator, environ={})
        site.start()
        try:
            yield site.address
        finally:
            site.stop()


def _check_answer(path: Path) -> None:
    """Depth of the 80x60 image, in the format of its suffix."""
    if path.suffix == ".json":
        node = json.loads(path.read_bytes())
        assert (node["width"], node["height"], len(node["data"])) == (80, 60, 80 * 60)
    elif path.suffix == ".npy":
        assert np.load(path).shape == (60, 80)
    else:
        from PIL import Image

        with Image.open(path) as answer:
            assert (answer.format, answer.size) == ("PNG", (80, 60))


def _with_servers(command: str, stack: ExitStack) -> str:
    """Start the RTSP server that a recipe expects, and insert its port and a free one."""
    server = stack.enter_context(GstServer())
    command = command.replace("rtsp://127.0.0.1:8554/cam", server.url("/cam"))
    command = command.replace("rtsp://127.0.0.1:8554/in/depth", server.url("/in"))
    return command.replace("127.0.0.1:8555", f"127.0.0.1:{unused_port()}")


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number: int, desk: Path) -> None:
    if "depth.mkv" in SNIPPETS[number]:
        assert run(["streamdepth", "run", "clip.mp4", "--data", "depth.mkv", "-y"], desk).returncode == 0
    (desk / "out.mkv").unlink(missing_ok=True)
    done = run([sys.executable, "-c", SNIPPETS[number]], desk)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_example_is_run() -> None:
    found = {path.name for path in (ROOT / "configs" / "examples").iterdir() if path.suffix == ".py"}
    assert found == {*EXAMPLES, "ros2_node.py"}  # that one in tests/integration/test_ros2_example.py


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, desk: Path) -> None:
    done = run([sys.executable, f"configs/examples/{name}", *EXAMPLES[name]], desk)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (desk / EXAMPLES[name][-1]).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmark_programs_start(path: Path, desk: Path) -> None:
    """Imports of every program resolve, and ``benchmarks/README.md`` names it."""
    done = run([sys.executable, str(path), "--help"], desk)
    assert done.returncode == 0, done.stderr
    assert f"`{path.name}`" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.timeout(900)
def test_the_first_command_on_a_fresh_checkout(tmp_path: Path) -> None:
    """The files git tracks, a new virtual environment, the package registry."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git checkout")
    probe = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path / "probe"), "hatchling"]
    if subprocess.run(probe, capture_output=True, timeout=100).returncode:
        pytest.skip("no package registry can be reached")
    checkout = tmp_path / "streamdepth"
    checkout.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_NEEDED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    command = INSTALL.replace("python3", sys.executable, 1)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(["bash", "-c", command], cwd=checkout, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (checkout / "depth.mp4").stat().st_size > 10_000


def test_every_option_stands_in_the_table() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "streamdepth", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
    ).stdout
    options = set(re.findall(r"(--[a-z][a-z-]+)", help_text)) - {"--help"}
    table = REFERENCE[REFERENCE.index("## Options\n") : REFERENCE.index("## Camera modules")]
    assert len(options) > 40
    assert not {option for option in options if f"`{option}`" not in table}
