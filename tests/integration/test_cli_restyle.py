"""``streamdepth restyle``: what it paints is what the run painted, and frames keep their times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.cli.main import main
from tests.support.cli import one_line
from tests.support.media import read_pts, write_clip

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw_other(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Unlike the marks: a bright disc that moves over a dark ground."""
    y, x = np.mgrid[:height, :width]
    inside = (x - width * 0.7) ** 2 + (y - height * 0.6 - index) ** 2 < (height / 4) ** 2
    return np.repeat(np.where(inside, 230, 20).astype(np.uint8)[..., None], 3, axis=2)


def frames(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


@pytest.fixture
def stored(clip: Path, tmp_path: Path) -> Path:
    run = ["run", str(clip), "--provider", "cpu", "-q", "--data", f"{tmp_path}/depth.mkv", "-o", f"{tmp_path}/run.mp4"]
    assert main(run) == 0
    return tmp_path / "depth.mkv"


def test_the_same_look_gives_the_same_frames(stored: Path, clip: Path, tmp_path: Path) -> None:
    assert main(["restyle", str(stored), str(clip), "-o", f"{tmp_path}/again.mp4"]) == 0
    assert read_pts(tmp_path / "again.mp4") == read_pts(clip)
    for one, other in zip(frames(tmp_path / "run.mp4"), frames(tmp_path / "again.mp4"), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 3  # 16-bit codes, and depth at the frame's size


def test_another_look_without_the_clip(stored: Path, tmp_path: Path) -> None:
    assert main(["restyle", str(stored), "-o", f"{tmp_path}/gray/", "--style", "grayscale", "--range", "frame"]) == 0
    names = sorted(path.name for path in (tmp_path / "gray").iterdir())
    assert names == [f"{index:06d}.png" for index in range(12)]
    (image,) = frames(tmp_path / "gray" / names[0])
    assert (image == image[..., :1]).all()
    assert np.ptp(image) > 200


def test_frames_without_depth_are_left_out_and_counted(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = write_clip(tmp_path / "longer.mp4", frames=20, width=64, height=48)
    capsys.readouterr()
    assert main(["restyle", str(stored), str(longer), "-o", f"{tmp_path}/some.mp4"]) == 0
    assert "8 frames of longer.mp4 have no depth and are left out" in capsys.readouterr().err
    assert len(frames(tmp_path / "some.mp4")) == 12


def test_a_clip_that_the_depth_does_not_belong_to(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "shape.mp4", frames=12, width=64, height=64)
    write_clip(tmp_path / "other.mp4", frames=12, width=64, height=48, draw=draw_other)
    write_clip(tmp_path / "short.mp4", frames=5, width=64, height=48)
    capsys.readouterr()
    for name, message in (
        ("shape.mp4", "shape.mp4: is 64x64, but the depth in"),
        ("short.mp4", "short.mp4: only 5 of the 12 depth frames of"),
        ("other.mp4", "other.mp4: frame 0 is not the one that the depth in"),
    ):
        assert main(["restyle", str(stored), f"{tmp_path}/{name}", "-o", f"{tmp_path}/x.mp4", "-q"]) == 1
        assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["DEPTH"], 2, "no output for the depth; add -o OUT"),
        (["DEPTH", "-o", "x.mp4", "--view", "side"], 2, "--view side shows frames, too; name the clip after the depth"),
        (["DEPTH", "-o", "DEPTH", "-y"], 2, "depth.mkv: is the input; choose another name for the output"),
        (["DEPTH", "CLIP", "-o", "CLIP", "-y"], 2, "is the input; choose another name for the output"),
        (["none.mkv", "-o", "x.mp4"], 1, "none.mkv"),
        (["CLIP", "-o", "x.mp4"], 1, "not depth data of streamdepth"),
    ],
)
def test_wrong_use(
    stored: Path,
    clip: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    places = {"DEPTH": str(stored), "CLIP": str(clip)}
    assert main(["restyle", *(places.get(word, word) for word in arguments)]) == code
    assert message in one_line(capsys)
    assert not Path("x.mp4").exists()
