"""A shift between the dates is seen, and none is seen where there is none."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from rscd import Options, open_pair, predict
from rscd.geo.registration import (
    REACH_PX,
    Look,
    Shift,
    _likeness,
    estimate_shift,
    sample_boxes,
    shift_of,
    shift_problem,
    warn_of_shift,
)
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box
from rscd.synthetic.towns import Nuisance, plan_town, render_town

MARGIN = 16
HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@pytest.fixture(scope="module")
def town() -> NDArray[Any]:
    """Two dates with other light, season and sensor, and a fifth of the buildings changed."""
    plan = plan_town(5, (384, 416), 0.5, change_share=0.2)
    drawn = replace(Nuisance.draw(np.random.default_rng(5)), shift_px=(0.0, 0.0))
    return render_town(plan, drawn).image


def inner(image: NDArray[Any], cols: float = 0.0, rows: float = 0.0) -> NDArray[Any]:
    """A date without its margin, its content moved to the right and down."""
    moved = ndimage.shift(image.astype(np.float32), (0, rows, cols), order=1, mode="nearest")
    cut = slice(MARGIN, -MARGIN)
    return np.rint(moved[:, cut, cut]).astype(np.uint8)


def opened(
    folder: Path, write_tif: Callable[..., Path], t1: NDArray[Any], t2: NDArray[Any]
) -> ScenePair:
    paths = [
        write_tif(folder / f"{name}.tif", image, transform=HALF_METRE)
        for name, image in (("t1", t1), ("t2", t2))
    ]
    return ScenePair.open(*paths)


@pytest.mark.parametrize(("cols", "rows"), [(6, 4), (-3, 0), (0, -2.5), (11, -9)])
def test_a_shift_between_changed_dates_is_found(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    town: NDArray[Any],
    caplog: pytest.LogCaptureFixture,
    cols: int,
    rows: float,
) -> None:
    pair = opened(tmp_path, write_tif, inner(town[0]), inner(town[1], cols, rows))
    found = warn_of_shift(pair)
    assert found is not None
    assert np.hypot(found.cols - cols, found.rows - rows) < 1
    assert "t2 seems to be shifted" in caplog.text
    assert ("to the left" in caplog.text) == (found.cols < 0)
    assert ("below" in caplog.text) == (found.rows > 0)


def test_a_town_against_itself(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any]
) -> None:
    pair = opened(tmp_path, write_tif, inner(town[0]), inner(town[0], 6, 4))
    found = estimate_shift(pair)
    assert found is not None
    assert (found.cols, found.rows) == pytest.approx((6, 4), abs=0.2)
    assert found.agreeing == found.windows
    assert found.spread < 0.1


def test_dates_that_fit_are_not_warned_of(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    town: NDArray[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = warn_of_shift(opened(tmp_path, write_tif, inner(town[0]), inner(town[1])))
    assert found is not None
    assert found.pixels < 1
    assert not caplog.text


def test_noise_says_nothing(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    t1, t2 = rng.integers(0, 255, (2, 3, 300, 300)).astype(np.uint8)
    assert estimate_shift(opened(tmp_path, write_tif, t1, t2)) is None
    flat = np.full((3, 300, 300), 9, np.uint8)
    assert estimate_shift(opened(tmp_path, write_tif, flat, flat)) is None
    assert estimate_shift(opened(tmp_path, write_tif, flat[:, :40, :50], flat[:, :40, :50])) is None


def test_of_a_huge_scene_few_windows_are_read() -> None:
    boxes = sample_boxes((60_000, 90_000))
    assert len(boxes) == 16
    assert {box.shape_hw for box in boxes} == {(256, 256)}
    assert Box(0, 0, 256, 256) in boxes
    assert Box(60_000 - 256, 90_000 - 256, 256, 256) in boxes


def test_a_run_says_it_in_its_result_and_in_what_it_writes(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    town: NDArray[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = opened(tmp_path, write_tif, inner(town[0]), inner(town[0], 6, 4))
    result = predict(pair, [tmp_path / "a.geojson"], Options(model="cva"))
    assert result.shift is not None
    assert (result.shift["cols"], result.shift["rows"]) == pytest.approx((6, 4), abs=0.2)
    assert "give --register shift" in caplog.text
    assert '"cols": 6.0' in (tmp_path / "a.geojson.json").read_text()


def textured(rng: np.random.Generator, side: int = 256 + 2 * REACH_PX) -> NDArray[Any]:
    return ndimage.gaussian_filter(rng.normal(size=(side, side)), 1.5).astype(np.float32)


def test_what_moves_with_the_sun_counts_little() -> None:
    """Edges on a seventh of the ground lie a pixel further on at t2, as those of shadows do."""
    rng = np.random.default_rng(0)
    windows = []
    for _ in range(3):
        ground, shadow = textured(rng), textured(rng)
        dark = np.zeros(ground.shape, bool)
        dark[60:120, 40:264] = True
        dates = [np.where(dark, np.roll(shadow, by, 1), ground) for by in (0, 1)]
        windows.append(Look(np.stack(dates), np.ones(ground.shape, bool)))
    found = shift_of(windows)
    assert found is not None
    assert found.pixels < 0.06  # 0.15 where all places count alike


@pytest.mark.parametrize("unit", [1e-16, 1e12])
def test_the_unit_of_values_does_not_matter(town: NDArray[Any], unit: float) -> None:
    t1, t2 = (inner(town[0], *by).mean(axis=0) for by in ((0, 0), (2, -1)))
    side = 128 + 2 * REACH_PX
    windows, other = (
        [
            Look((np.stack([t1, t2])[:, row : row + side, col : col + side] * by).astype("f4"),
                 np.ones((side, side), bool))
            for row in (0, 100) for col in (0, 100)
        ]
        for by in (1, unit)
    )  # fmt: skip
    wanted, found = shift_of(windows), shift_of(other)
    assert wanted is not None
    assert found is not None
    assert asdict(found) == pytest.approx(asdict(wanted), abs=1e-3)


def test_likeness_of_edges() -> None:
    edges = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(64, 64)), 1) * (1 + 1j)
    assert _likeness(edges, 2 * edges) == pytest.approx(np.ones((64, 64)))
    assert (_likeness(edges, -edges) == 0).all()
    assert _likeness(edges, 1j * edges).max() < 1e-9
    assert (_likeness(edges, np.zeros_like(edges)) == 0).all()


def test_a_shift_whose_windows_are_not_visible_is_not_known() -> None:
    """Where the dates show the same ground, hardly anything of either is left."""
    rng = np.random.default_rng(0)
    windows = []
    for _ in range(4):
        gray = textured(rng)
        valid = np.zeros(gray.shape, bool)
        valid[:, : REACH_PX + 160] = True
        windows.append(Look(np.stack([gray, np.roll(gray, 20, 1)]), valid))
    assert windows[0].cross() is not None
    assert windows[0].cross(20) is None
    assert shift_of(windows) is None


@pytest.mark.parametrize("cols", [0.1, 0.25, -0.5, 2.4, 12])
def test_fractions_of_a_pixel_are_found(
    tmp_path: Path, write_tif: Callable[..., Path], town: NDArray[Any], cols: float
) -> None:
    """Shifted by a phase in frequency: no interpolation smooths one date alone."""
    spectrum = np.fft.fft2(town[1].astype(float))
    across = np.fft.fftfreq(town.shape[-1])[None, None]
    down = np.fft.fftfreq(town.shape[-2])[None, :, None]
    rows = -0.7 * cols
    moved = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (across * cols + down * rows))).real
    t2 = np.clip(np.rint(moved), 0, 255).astype(np.uint8)
    at_rest = estimate_shift(opened(tmp_path, write_tif, inner(town[0]), inner(town[1])))
    found = estimate_shift(opened(tmp_path, write_tif, inner(town[0]), inner(t2)))
    assert found is not None
    assert at_rest is not None
    assert found.cols - at_rest.cols == pytest.approx(cols, abs=0.1)
    assert found.rows - at_rest.rows == pytest.approx(rows, abs=0.1)
    assert 0 < found.error < 0.2


def test_a_doubtful_shift_is_not_warned_of() -> None:
    seen = Shift(0.9, 0, windows=9, agreeing=9, error=0.1)
    problem = shift_problem(seen)
    assert problem is not None
    assert "0.9 pixels to the right" in problem
    assert shift_problem(replace(seen, error=0.3)) is None
    assert shift_problem(replace(seen, cols=0.4, error=0)) is None
    assert shift_problem(None) is None


@pytest.mark.slow
@pytest.mark.realdata
def test_registered_real_pairs_are_not_warned_of(
    realdata: Path, caplog: pytest.LogCaptureFixture
) -> None:
    geotiffs = realdata / "geotiff"
    dates = sorted((geotiffs / "naip").glob("*.tif"))
    pairs = [
        *((a, a.parents[1] / "B" / a.name) for a in (realdata / "levir-cd").rglob("A/*.png")),
        *((a, a.with_name(a.name.replace("_A", "_B"))) for a in geotiffs.glob("fotbcd/*_A.tif")),
        (geotiffs / "landsat-taizhou/A_2000TM.tif", geotiffs / "landsat-taizhou/B_2003TM.tif"),
        *pairwise(dates),
    ]
    assert len(pairs) == 15
    shifted = {}
    for t1, t2 in pairs:
        if shift_problem(found := estimate_shift(open_pair(t1, t2))) is not None:
            assert found is not None
            shifted[t1.name] = found
        close_handles()
    assert shifted.keys() <= {"val_142_A.tif"}  # the orthophotos of this place do not fit
    assert all(found.pixels < 1.5 for found in shifted.values())
