"""Relative depth made metric by anchors: exact if the model is, robust against wrong points, with a real error."""

from __future__ import annotations

import numpy as np
import pytest

import streamdepth as sd
from streamdepth.core.errors import DataFormatError, UsageError
from streamdepth.depth.alignment import Anchor, Anchoring
from tests.support import need

INVERSE, RELATIVE, METRIC = sd.Sense.RELATIVE_INVERSE, sd.Sense.RELATIVE_DEPTH, sd.Sense.METRIC_M


def scene(width: int = 64, height: int = 48, sense: sd.Sense = INVERSE) -> tuple[sd.DepthMap, np.ndarray]:
    """A floor from 1 to 20 m, and what an exact model says of it."""
    rows = np.geomspace(20, 1, height)[:, None]
    metres = (rows * np.linspace(1, 1.5, width)).astype(np.float32)
    values = (1 / metres - 0.02) / 0.004 if sense is INVERSE else (metres - 0.5) / 3
    return sd.DepthMap(np.ascontiguousarray(values, np.float32), sense), metres


def points(metres: np.ndarray, *places: tuple[int, int]) -> list[tuple[float, float, float]]:
    """Median of the 3x3 around each place, which is what the depth is read with."""
    return [(x, y, float(np.median(metres[y - 1 : y + 2, x - 1 : x + 2]))) for x, y in places]


@pytest.mark.parametrize("sense", [INVERSE, RELATIVE])
def test_an_exact_model_gives_exact_metres(sense: sd.Sense) -> None:
    depth, metres = scene(sense=sense)
    found = sd.align(depth, points(metres, (5, 40), (60, 5), (30, 20)))
    want = (0.004, 0.02) if sense is INVERSE else (3, 0.5)
    assert (found.scale, found.shift) == pytest.approx(want, rel=1e-3)
    assert found.residual < 1e-3
    made = found.apply(depth)
    assert made.sense is METRIC
    assert made.values.dtype == np.float32
    np.testing.assert_allclose(made.values, metres, rtol=2e-3)
    assert made.anchor_error is not None
    assert 0.05 < made.anchor_error < 0.3


def test_a_wrong_point_is_left_out() -> None:
    depth, metres = scene()
    given = points(metres, (5, 40), (60, 5), (30, 20), (10, 30), (50, 44), (20, 10))
    given[3] = (*given[3][:2], given[3][2] * 3)
    found = sd.align(depth, given)
    assert found.used == (True, True, True, False, True, True)
    np.testing.assert_allclose(found.apply(depth).values, metres, rtol=2e-3)


def test_places_are_pixels_of_the_image_or_fractions() -> None:
    depth, metres = scene()
    pixels = points(metres, (5, 40), (60, 5))
    large = [(x * 10 + 4.5, y * 10 + 4.5, z) for x, y, z in pixels]
    fractions = [Anchor((x + 0.5) / 64, (y + 0.5) / 48, z, fraction=True) for x, y, z in pixels]
    scales = {
        round(sd.align(depth, given, size_px=size).scale, 9)
        for given, size in ((pixels, None), (large, (640, 480)), (fractions, None), (fractions, (640, 480)))
    }
    assert len(scales) == 1


def test_the_error_grows_away_from_the_anchors() -> None:
    depth, metres = scene()
    error = sd.align(depth, points(metres, (5, 44), (60, 40))).relative_error(depth)
    assert error.shape == depth.values.shape
    assert error[2].min() > 2 * error[44].max()


@pytest.mark.parametrize("law", ["normal", "few large", "every fifth wrong"])
def test_the_error_is_the_one_that_68_percent_of_the_errors_do_not_exceed(law: str) -> None:
    depth, metres = scene(160, 120)
    within = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        size = metres.shape
        errors = {
            "normal": 0.1 * rng.standard_normal(size),
            "few large": 0.05 * rng.standard_t(2, size).clip(-8, 8),
            "every fifth wrong": np.where(rng.random(size) < 0.2, 0.6, 0.08) * rng.standard_normal(size),
        }[law]
        real = (metres * np.maximum(1 + errors, 0.1)).repeat(4, 0).repeat(4, 1)
        shown = sd.DepthMap(depth.values.repeat(4, 0).repeat(4, 1), INVERSE)
        found = sd.align(shown, [(x, y, real[y, x]) for x, y in rng.integers(2, (638, 478), (60, 2))])
        made = found.apply(shown).values
        within.append((np.abs(real / made - 1) <= found.relative_error(shown)).mean())
    assert 0.64 < np.mean(within) < 0.72


def test_what_lies_beyond_the_horizon_is_at_ten_times_the_farthest_anchor() -> None:
    depth, metres = scene()
    found = sd.align(depth, points(metres, (5, 40), (60, 5)))
    far = sd.DepthMap(np.full((2, 2), -100, np.float32), INVERSE)
    assert found.apply(far).values == pytest.approx(np.full((2, 2), found.farthest_m))
    assert found.farthest_m == pytest.approx(10 * metres[5, 60], rel=0.02)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(5, 5, 1)], "scale and shift need two or more anchors, not 1"),
        ([(5, 5, 1), (5, 40, 9)], "the anchors contradict the depth: points with a larger distance are not farther"),
        ([(5, 5, 1), (30, 40, 2)], "the anchors contradict the depth"),
        ([(5, 5, 1), (5, 5, 1)], "the anchors are all about 1 m away, which fixes a shift but no scale"),
        ([(5, 40, 2), (60, 5, 2.1), (30, 20, 2)], "the anchors are all about 2 m away"),
    ],
)
def test_anchors_that_fix_nothing(given: list[tuple[float, float, float]], message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        sd.align(scene()[0], given)


def test_an_anchor_outside_the_image_is_refused_before_the_first_frame() -> None:
    anchors = [sd.Anchor(5, 5, 1), sd.Anchor(70, 5, 2)]
    message = "anchor 70,5=2: outside the image of 64x48; give pixels of it, or fractions"
    with pytest.raises(UsageError, match=message):
        sd.align(scene()[0], anchors)
    with pytest.raises(UsageError, match=message):
        Anchoring(anchors, (64, 48), live=False)


def test_depth_that_takes_no_anchors() -> None:
    depth, metres = scene()
    found = sd.align(depth, points(metres, (5, 40), (60, 5)))
    with pytest.raises(ValueError, match="this alignment is for depth that is relative_inverse, not metric_m"):
        found.apply(found.apply(depth))
    with pytest.raises(DataFormatError, match="the depth is in metres already"):
        sd.align(found.apply(depth), [(5, 40, 1), (60, 5, 2)])
    hole = sd.DepthMap(depth.values, INVERSE, np.zeros(depth.values.shape, bool))
    with pytest.raises(DataFormatError, match="anchor 5,40=1 lies where the model gives no depth; choose another"):
        sd.align(hole, [(5, 40, 1), (60, 5, 2)])


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("320,240=1.5", Anchor(320, 240, 1.5)),
        ("0.5,0.9=2.0", Anchor(0.5, 0.9, 2.0, fraction=True)),
        (" 0,1=3 ", Anchor(0, 1, 3, fraction=True)),
        ("0.5,2=3", Anchor(0.5, 2, 3)),
    ],
)
def test_anchor_of_text(text: str, want: Anchor) -> None:
    assert Anchor.parse(text) == want


def test_millimetres_are_refused() -> None:
    with pytest.raises(UsageError, match=r"anchor '320,240=1500': not X,Y=METRES with 0 to 1000 metres; give e\.g\."):
        Anchor.parse("320,240=1500")
    with pytest.raises(ValueError, match="an anchor is at most 1000 m away, not 320,240=1500; give metres"):
        Anchor(320, 240, 1500)


@pytest.mark.parametrize("text", ["", "1,2", "1,2=", "1,2=-3", "1,2=0", "a,2=3", "1,2,3=4", "nan,0=1"])
def test_text_that_is_no_anchor(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"not X,Y=METRES with 0 to 1000 metres; give e\.g\. 320,240=1\.5 or 0\.5,0\.9=2\.0"
    ):
        Anchor.parse(text)


def test_anchors_of_which_half_contradict_the_others_are_refused() -> None:
    depth, metres = scene()
    given = points(metres, (5, 40), (60, 5), (30, 20), (10, 30))
    mixed = [(x, y, z * (0.1 if number % 2 else 1)) for number, (x, y, z) in enumerate(given)]
    with pytest.raises(DataFormatError, match="only 2 of 4 anchors agree with each other and the depth; check"):
        sd.align(depth, mixed)


def test_anchors_that_the_model_sees_at_one_depth_are_refused() -> None:
    """A scale from the noise between them would make everything else absurdly near."""
    depth, _ = scene()
    with pytest.raises(DataFormatError, match="the model sees the anchors at nearly one depth, less than 5 % of its"):
        sd.align(depth, [(20, 30, 5), (20, 29, 20)])


class TestShots:
    ANCHORS = (Anchor(0.1, 0.9, 1.3, fraction=True), Anchor(0.9, 0.1, 20.0, fraction=True))

    @staticmethod
    def scaled(factor: float) -> sd.DepthMap:
        depth, _ = scene()
        return sd.DepthMap(depth.values * np.float32(factor), INVERSE)

    def test_constant_over_a_shot_of_a_file(self) -> None:
        anchoring = Anchoring(self.ANCHORS, (64, 48), live=False)
        first = anchoring.update(self.scaled(1), 0, cut=False)
        second = anchoring.update(self.scaled(1.2), 0.04, cut=False)
        assert (second.values[40] < first.values[40]).all()
        third = anchoring.update(self.scaled(1.2), 0.08, cut=True)
        np.testing.assert_allclose(third.values, first.values, rtol=1e-4)

    def test_what_the_user_should_check_is_noted(self) -> None:
        wrong = Anchor(0.5, 0.5, 90, fraction=True)
        anchoring = Anchoring((*self.ANCHORS, Anchor(0.1, 0.1, 15, fraction=True), wrong), (64, 48), live=False)
        anchoring.update(self.scaled(1), 0, cut=False)
        assert anchoring.note == "anchors that contradict the others were not used: 0.5,0.5=90"
        clean = Anchoring(self.ANCHORS, (64, 48), live=False)
        notes = []
        for seconds in (0, 0.04):
            clean.update(self.scaled(1), seconds, cut=True)
            notes.append(clean.note)
        assert notes == ["", "anchors applied anew at cuts: 1; their distances must hold there too"]

    def test_live_it_follows_slowly(self) -> None:
        anchoring = Anchoring(self.ANCHORS, (64, 48), live=True)
        first = anchoring.update(self.scaled(1), 0, cut=False).values[40, 30]
        error = [
            abs(anchoring.update(self.scaled(1.2), seconds, cut=False).values[40, 30] / first - 1)
            for seconds in (0.04, 2.04, 20.0)
        ]
        assert error[0] > error[1] > error[2]
        assert error[0] > 0.1
        assert error[2] < 0.01

    def test_a_covered_lens_keeps_the_last_alignment(self) -> None:
        anchoring = Anchoring(self.ANCHORS, (64, 48), live=True)
        first = anchoring.update(self.scaled(1), 0, cut=False)
        anchoring.update(sd.DepthMap(np.ones((48, 64), np.float32), INVERSE), 0.04, cut=False)
        np.testing.assert_allclose(anchoring.update(self.scaled(1), 0.08, cut=False).values, first.values, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cap_m", "median"), [("indoor_kitchen", 10, 0.14), ("street_kitti", 80, 0.12)])
def test_the_stated_error_is_the_real_one_on_photographs(name: str, cap_m: float, median: float) -> None:
    """Five random points a photograph: 68 % of the errors lie within the stated one, give or take a tenth."""
    import json

    import cv2

    folder = need.shared(f"eval/{name}")
    scale = json.loads((folder / "meta.json").read_text())["scale"]
    rng = np.random.default_rng(3)
    estimator = sd.DepthEstimator(provider="cpu")
    within, errors = [], []
    for path in sorted((folder / "rgb").iterdir())[::4]:
        measured = cv2.imread(str(folder / "depth" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED) / scale
        rows, columns = np.nonzero((measured > 1e-3) & (measured <= cap_m))
        estimate = estimator(str(path))
        assert isinstance(estimate, sd.Estimate)
        depth = sd.DepthMap(estimate.data, estimate.sense)
        for _ in range(5):
            chosen = rng.choice(len(rows), 5, replace=False)
            given = [(columns[i], rows[i], measured[rows[i], columns[i]]) for i in chosen]
            try:
                found = sd.align(depth, given)
            except DataFormatError:  # five points that contradict the model: refused, not measured
                continue
            metres = found.apply(depth).values[rows, columns]
            real = np.abs(metres - measured[rows, columns])
            within.append((real <= found.relative_error(depth)[rows, columns] * metres).mean())
            errors.append(np.median(real / measured[rows, columns]))
    assert len(within) > 8
    assert 0.58 < np.mean(within) < 0.82
    assert np.median(errors) < median


class TestValues:
    MAP = sd.DepthMap(
        np.array([[1, 2, 3, 4], [5, 6, np.nan, 8]], np.float32),
        METRIC,
        np.array([[True] * 4, [True, True, True, False]]),
    )

    def test_at(self) -> None:
        assert (self.MAP.at(0, 0), self.MAP.at(0.99, 0), self.MAP.at(0.3, 1)) == (1, 4, 6)
        assert np.isnan([self.MAP.at(0.6, 0.6), self.MAP.at(1, 1)]).all()
        assert np.isnan(sd.DepthMap(np.full((1, 1), np.inf, np.float32), METRIC).at(0, 0))
        with pytest.raises(ValueError, match=r"fractions between 0 and 1, not 3, 0"):
            self.MAP.at(3, 0)

    def test_a_mask_is_bool(self) -> None:
        with pytest.raises(ValueError, match=r"valid is bool \[2, 4\], not uint8 \[2, 4\]"):
            sd.DepthMap(self.MAP.values, METRIC, np.full((2, 4), 255, np.uint8))

    def test_in_a_box(self) -> None:
        assert self.MAP.min_in((0, 0, 1, 1)) == 1
        assert self.MAP.percentile_in((0, 0, 0.5, 1), 50) == 3.5
        assert self.MAP.nearest_in((0, 0, 1, 1), 0) == 1
        assert sd.DepthMap(self.MAP.values, INVERSE).nearest_in((0, 0, 1, 1), 0) == 8
        assert np.isnan(self.MAP.min_in((0.75, 0.5, 0.25, 0.5)))
        assert self.MAP.min_in((0.3, 0.2, 1e-9, 1e-9)) == self.MAP.at(0.3, 0.2) == 2
        assert self.MAP.min_in((1 - 1e-12, 0, 1e-12, 0.1)) == 4
        for box in ((0, 0, 2, 1), (-0.1, 0, 0.5, 1), (0, 0, 0, 1)):
            with pytest.raises(ValueError, match="a box is x, y, width, height within 0 to 1"):
                self.MAP.min_in(box)
