"""`streamdepth image`, and images through `run`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streamdepth.cli import main
from tests.support.cli import one_line


class TestStills:
    @pytest.fixture
    def photo(self, tmp_path: Path) -> Path:
        from PIL import Image

        path = tmp_path / "photo.jpg"
        ramp = np.linspace(0, 255, 80 * 60 * 3).reshape(60, 80, 3).astype(np.uint8)
        Image.fromarray(ramp).save(path)
        return path

    @pytest.mark.slow
    @pytest.mark.usefixtures("on_cpu")
    def test_a_still_as_jpg_and_webp(self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from PIL import Image

        outputs = [word for kind in ("png", "jpg", "webp") for word in ("-o", f"{tmp_path}/o.{kind}")]
        assert main(["image", str(photo), *outputs]) == 0
        with (
            Image.open(tmp_path / "o.png") as png,
            Image.open(tmp_path / "o.jpg") as jpg,
            Image.open(tmp_path / "o.webp") as webp,
        ):
            assert (jpg.format, webp.format, jpg.mode) == ("JPEG", "WEBP", "RGB")
            assert np.array_equal(np.asarray(png.convert("RGB")), np.asarray(webp.convert("RGB")))
            shown = np.asarray(png.convert("RGB")).astype(int)
            assert np.abs(shown - np.asarray(jpg)).mean() < 4
        assert main(["image", str(photo), "-o", f"{tmp_path}/p.jpg", "--alpha", "0.3,0.8"]) == 2
        assert "use .png or .webp" in one_line(capsys)
        assert main(["image", str(photo), "-o", f"{tmp_path}/p.webp", "--alpha", "0.3,0.8"]) == 0

    @pytest.mark.slow
    def test_each_form_by_suffix(self, photo: Path, tmp_path: Path) -> None:
        from PIL import Image

        outputs = [str(tmp_path / name) for name in ("o.png", "o.npy", "o.json")]
        arguments = ["image", str(photo), "--style", "viridis", "--alpha", "0.3,0.8"]
        assert main([*arguments, *(part for out in outputs for part in ("-o", out))]) == 0
        with Image.open(outputs[0]) as image:
            assert (image.size, image.mode) == ((80, 60), "RGBA")
            low, high = image.getchannel("A").getextrema()
        assert (low, high) == pytest.approx((0.3 * 255, 0.8 * 255), abs=0.5)
        depth = np.load(outputs[1])
        assert (depth.shape, depth.dtype) == ((60, 80), np.float32)
        node = json.loads(Path(outputs[2]).read_text())
        assert node.keys() == {"data", "image", "width", "height"}
        assert np.allclose(np.reshape(node["data"], (60, 80)), depth)

    def test_the_nodes_form_on_standard_output(self, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["image", str(photo), str(photo), "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["width"] for line in lines] == [80, 80]

    @pytest.mark.usefixtures("on_cpu")
    def test_a_bad_image_of_several_is_passed_over(
        self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad, last = tmp_path / "bad.txt", tmp_path / "last.jpg"
        bad.write_text("no image")
        last.write_bytes(photo.read_bytes())
        assert main(["image", str(photo), str(bad), str(last), "-o", f"{tmp_path}/out/"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert ["bad.txt" in lines[0], lines[1:]] == [True, ["streamdepth: 1 of 3 images failed: bad"]]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["last.png", "photo.png"]
        assert main(["image", str(bad), "-o", f"{tmp_path}/x.png"]) == 1
        assert "bad.txt" in one_line(capsys)

    def test_a_folder_into_a_folder(self, photo: Path, tmp_path: Path) -> None:
        assert main(["image", str(photo.parent), "-o", f"{tmp_path}/out/", "--style", "gray"]) == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.png"]

    def test_images_of_one_name_get_outputs_of_their_own(self, photo: Path, tmp_path: Path) -> None:
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "photo.jpg").write_bytes(photo.read_bytes())
        assert main(["image", f"{tmp_path}/**/*.jpg", "-o", f"{tmp_path}/{{name}}.npy"]) == 0
        assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["photo-2.npy", "photo.npy"]

    @pytest.mark.slow
    def test_a_folder_of_images_run_as_a_film_keeps_their_names(
        self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "more").mkdir()
        photo.rename(tmp_path / "more" / photo.name)
        for folder in ("out", "more"):
            code = main(["run", f"{tmp_path}/more", "-o", f"{tmp_path}/{folder}/{{image}}.webp", "-y", "--quiet"])
            assert code == (0 if folder == "out" else 2)
        assert "contains the images that are read" in one_line(capsys)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.webp"]

    def test_the_input_is_never_the_output(
        self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("soft.jpg").symlink_to(photo)
        Path("hard.jpg").hardlink_to(photo)
        before = photo.read_bytes()
        for output in ("photo.jpg", "./{name}.jpg", "soft.jpg", "hard.jpg"):
            assert main(["image", "photo.jpg", "-o", output, "-y"]) == 2
            assert "is the input; choose another name for the output" in one_line(capsys)
        assert photo.read_bytes() == before

    def test_outputs_that_would_collide_are_refused(
        self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["image", str(photo), str(photo), "-o", str(tmp_path / "o.png")]) == 2
        assert "{name}" in one_line(capsys)
        assert main(["image", str(photo), "-o", str(tmp_path / "o.tiff")]) == 2
        assert ".npy" in one_line(capsys)
