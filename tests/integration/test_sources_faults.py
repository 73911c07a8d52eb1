"""Files after public bug reports: what a source gives of them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from PIL import Image

from streamdepth.core.errors import SourceError
from streamdepth.core.frame import ColorTags
from streamdepth.media import images
from streamdepth.sources.images import ImagesSource
from streamdepth.sources.select import source_for
from tests.support.faulty_media import (
    add_clap,
    add_pixel_crop,
    joined_ts,
    jpeg,
    shared_case,
    write_packets,
    write_tiled_heic,
)
from tests.support.files import read
from tests.support.media import draw_index, read_index, write_clip

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import Frame, StreamInfo

RED, LIME, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def all_of(source: Source) -> tuple[StreamInfo, list[Frame]]:
    info = source.open()
    try:
        return info, list(source.frames())
    finally:
        source.close()


def test_side_data_of_an_unknown_type_costs_no_frame(tmp_path: Path) -> None:
    path = write_packets(tmp_path / "exif.avi", "mjpeg", [jpeg(index, orientation=3) for index in range(3)])
    _, frames, source = read(path)
    assert (len(frames), source.notes) == (3, ())
    with av.open(str(path)) as container, pytest.raises(ValueError, match="not a valid Type"):
        _ = next(container.decode(video=0)).side_data
    # Orientation 3 is a rotation by 180 degrees: the bright half is on the right.
    right_is_bright = frames[0].to_rgb()[:, -8:].mean() > 150
    assert right_is_bright == (frames[0].to_rgb()[:, :8].mean() < 50)


def test_packets_without_content_do_not_end_a_file(tmp_path: Path) -> None:
    contents = [b"" if index in (3, 7, 8) else jpeg(index) for index in range(12)]
    _, frames, source = read(write_packets(tmp_path / "repeats.mkv", "mjpeg", contents))
    assert [round(frame.seconds * 25) for frame in frames] == [0, 1, 2, 4, 5, 6, 9, 10, 11]
    assert (dict(source.dropped), source.notes) == ({}, ())


def test_damaged_packets_are_counted_and_skipped(tmp_path: Path) -> None:
    contents = [b"\xff\xd8 no image" if index in (3, 7) else jpeg(index) for index in range(12)]
    _, frames, source = read(write_packets(tmp_path / "damaged.mkv", "mjpeg", contents))
    assert (len(frames), dict(source.dropped)) == (10, {"corrupt": 2})


def test_a_file_with_mostly_damaged_packets_is_an_error(tmp_path: Path) -> None:
    contents = [jpeg(index) if index % 3 == 0 else b"\xff\xd8 no image" for index in range(12)]
    source = source_for(write_packets(tmp_path / "damaged.mkv", "mjpeg", contents))
    source.open()
    with pytest.raises(SourceError, match="only 4 of about 12 frames could be decoded; the file is damaged"):
        list(source.frames())
    source.close()


def test_a_header_that_counts_more_frames_is_no_damage(tmp_path: Path) -> None:
    contents = [b"" if index % 5 == 4 else jpeg(index) for index in range(25)]
    _, frames, source = read(write_packets(tmp_path / "dropped.avi", "mjpeg", contents))
    assert (len(frames), source.notes) == (20, ())


@pytest.mark.parametrize("length", [25, 75])
def test_a_clock_that_jumps_back_goes_on(tmp_path: Path, length: int) -> None:
    path = joined_ts(tmp_path / "joined.ts", [{"frames": length}, {"frames": length}])
    _, frames, source = read(path)
    assert len(frames) == 2 * length
    assert frames[-1].seconds - frames[0].seconds == pytest.approx((2 * length - 1) / 25, abs=0.005)
    note = "jumps of the clock to an earlier time: 1; later frames continue from the time before the jump"
    assert source.notes == (note,)


def test_a_change_of_size_is_letterboxed(tmp_path: Path) -> None:
    white = {"draw": lambda _, width, height: np.full((height, width, 3), 255, np.uint8)}
    path = joined_ts(tmp_path / "a.ts", [{"frames": 10, **white}, {"frames": 10, "width": 96, "height": 120, **white}])
    info, frames, source = read(path)
    assert (info.width_px, info.height_px, len(frames)) == (160, 120, 20)
    last = frames[-1].to_rgb()
    # 96x120 fits into 160x120 at its own size, with black at both sides.
    assert last[:, :30].max() < 20
    assert last[:, -30:].max() < 20
    assert last[:, 36:-36].min() > 235
    assert dict(source.repaired)["size"] == 10


def test_a_change_of_the_pixel_aspect_is_letterboxed(tmp_path: Path) -> None:
    white = {"draw": lambda _, width, height: np.full((height, width, 3), 255, np.uint8), "frames": 10}
    wide = {"sample_aspect_ratio": Fraction(4, 3), **white}
    info, frames, _ = read(joined_ts(tmp_path / "a.ts", [{"sample_aspect_ratio": Fraction(1), **white}, wide]))
    assert info.sample_aspect_ratio == 1
    last = frames[-1].to_rgb()
    # 4:3 pixels make the frame wider: bars above and below of 15 of 120 rows each.
    assert last[:12].max() < 20
    assert last[-12:].max() < 20
    assert last[20:-20].min() > 235


def test_the_clean_aperture_of_an_mp4_is_applied(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clap.mp4", frames=3, width=128, height=96)
    _, before, _ = read(path)
    add_clap(path, 96, 64)
    info, frames, _ = read(path)
    assert (info.width_px, info.height_px) == (96, 64)
    assert all((frame.width_px, frame.height_px) == (96, 64) for frame in frames)
    np.testing.assert_array_equal(
        frames[1].image.to_ndarray(format="gray"), before[1].image.to_ndarray(format="gray")[16:80, 16:112]
    )


def test_the_pixel_crop_of_matroska_is_applied(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "crop.mkv", frames=3, width=128, height=96, color=ColorTags(1, 1, 1, 1))
    _, before, _ = read(path)
    add_pixel_crop(path, top=16, bottom=16)
    info, frames, _ = read(path)
    assert (info.width_px, info.height_px, len(frames)) == (128, 64, 3)
    np.testing.assert_array_equal(
        frames[1].image.to_ndarray(format="gray"), before[1].image.to_ndarray(format="gray")[16:80]
    )


def test_the_start_of_a_container_is_the_origin(tmp_path: Path) -> None:
    info, frames, _ = read(write_clip(tmp_path / "late.ts", frames=5, pts=range(1000, 1005)))
    assert info.origin_seconds == frames[0].pts * frames[0].time_base
    info, frames, _ = read(write_clip(tmp_path / "plain.mp4", frames=5))
    assert info.origin_seconds == 0
    assert frames[0].pts == 0


def save_animation(path: Path, kind: str, durations: list[int]) -> Path:
    images = [Image.fromarray(draw_index(index, 64, 48)) for index in range(len(durations))]
    more = {"lossless": True} if kind == "WEBP" else {}
    images[0].save(path, kind, save_all=True, append_images=images[1:], duration=durations, **more)
    return path


@pytest.mark.parametrize(("name", "kind"), [("a.webp", "WEBP"), ("a.png", "PNG"), ("a.avif", "AVIF"), ("a.gif", "GIF")])
def test_animated_images_are_videos(tmp_path: Path, name: str, kind: str) -> None:
    path = save_animation(tmp_path / name, kind, [100, 200, 300])
    info, frames = all_of(source_for(path))
    assert [read_index(frame.to_rgb()) for frame in frames] == [0, 1, 2]
    assert [round(frame.seconds, 2) for frame in frames] == [0, 0.1, 0.3]
    assert info.duration_seconds == pytest.approx(0.6, abs=0.01)
    assert float(frames[-1].image.duration * frames[-1].time_base) == pytest.approx(0.3, abs=0.01)


def test_pages_of_a_tiff_are_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(draw_index(index, 64, 48)) for index in range(4)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    info, frames = all_of(source_for(tmp_path / "pages.tif"))
    assert [read_index(frame.to_rgb()) for frame in frames] == [0, 1, 2, 3]
    assert (info.frame_count, info.rate) == (4, Fraction(25))


def test_of_an_animation_in_a_folder_one_frame_is_read_with_a_note(tmp_path: Path) -> None:
    save_animation(tmp_path / "a.webp", "WEBP", [100, 200, 300])
    Image.fromarray(draw_index(7, 64, 48)).save(tmp_path / "b.png")
    source = ImagesSource(tmp_path)
    _, frames = all_of(source)
    assert [read_index(frame.to_rgb()) for frame in frames] == [0, 7]
    assert source.notes == (
        f"{tmp_path / 'a.webp'}: only the first of 3 frames is read; name the file alone to read all",
    )


def assert_stripes(frame: Frame) -> None:
    assert (frame.width_px, frame.height_px) == (192, 64)
    rgb = frame.to_rgb().astype(int)
    for column, color in ((32, RED), (96, LIME), (160, BLUE)):
        assert np.abs(rgb[32, column] - color).max() < 30


def test_the_tiles_of_a_heic_are_assembled(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif", reason="pi-heif is not installed")
    path = write_tiled_heic(tmp_path / "grid.heic", [RED, LIME, BLUE])
    assert_stripes(all_of(source_for(path))[1][0])
    Image.fromarray(draw_index(0, 64, 48)).save(tmp_path / "z.png")
    assert_stripes(all_of(source_for(tmp_path))[1][0])


def test_without_pi_heif_a_tiled_heic_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamdepth.sources.images.heif_installed", lambda: False)
    monkeypatch.setattr(images, "heif_installed", lambda: False)
    path = write_tiled_heic(tmp_path / "grid.heic", [RED, LIME, BLUE])
    with pytest.raises(SourceError, match=r"grid.heic: is an image of 3 tiles.*pip install '\.\[heif\]'") as caught:
        source_for(path).open()
    assert str(caught.value).endswith("or convert it to JPEG")
    assert "\n" not in str(caught.value)
    single = write_tiled_heic(tmp_path / "one.heic", [LIME])
    _, frames = all_of(source_for(single))
    assert np.abs(frames[0].to_rgb()[32, 32].astype(int) - LIME).max() < 30


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("exif_mjpeg.avi", 3, None),
        ("th.ogv", 19, None),
        ("editlist.mp4", 37, None),
        ("skip.avi", 43, None),
        ("pixelcrop.mkv", 10, (128, 64)),
        ("clap.mp4", 10, (96, 64)),
        ("anim4.webp", 4, None),
        ("neg.mkv", 50, None),
        ("inter.mp4", 50, None),
    ],
)
def test_shared_cases(name: str, count: int, size: tuple[int, int] | None) -> None:
    source = source_for(shared_case(name))
    info, frames = all_of(source)
    assert len(frames) == count
    assert not any("damaged" in note for note in source.notes)
    if size is not None:
        assert (info.width_px, info.height_px) == size
    if name == "inter.mp4":
        assert "deinterlaced" in info.note


def test_shared_heic() -> None:
    pytest.importorskip("pi_heif", reason="pi-heif is not installed")
    assert_stripes(all_of(source_for(shared_case("grid.heic")))[1][0])


def test_shared_joined_recordings() -> None:
    for name, count, seconds in (("join.ts", 150, 5.96), ("concat.ts", 50, 1.96)):
        _, frames = all_of(source_for(shared_case(name)))
        assert len(frames) == count
        assert frames[-1].seconds - frames[0].seconds == pytest.approx(seconds, abs=0.01)
