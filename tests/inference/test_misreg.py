"""Slivers of a wrong registration vanish when a date is moved; real change stays."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy import ndimage

from rscd import Options, open_pair, predict
from rscd.base.errors import UsageError
from rscd.geo.register import usual_error
from rscd.geo.registration import Shift
from rscd.geo.source import close_handles
from rscd.inference.misreg import misreg_reach

SIDE = 160
HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
CVA: dict[str, Any] = {"model": "cva"}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@pytest.fixture
def pair(tmp_path: Path, write_tif: Callable[..., Path]) -> tuple[Path, Path]:
    """Bright roofs on textured ground; at t2 one more, and the others two pixels to the right."""
    rng = np.random.default_rng(0)
    ground = ndimage.gaussian_filter(rng.normal(0, 20, (3, SIDE, SIDE)), (0, 4, 4)) * 2 + 90
    t1, t2 = ground.copy(), ground + rng.normal(0, 1, ground.shape)
    for row, col in ((20, 20), (20, 90), (90, 20)):
        t1[:, row : row + 30, col : col + 30] = 220
        t2[:, row : row + 30, col + 2 : col + 32] = 220
    t2[:, 95:125, 95:125] = 220
    before, after = (
        write_tif(tmp_path / f"{name}.tif", np.clip(date, 0, 255).astype(np.uint8),
                  transform=HALF_METRE)
        for name, date in (("t1", t1), ("t2", t2))
    )  # fmt: skip
    return before, after


def table(pair: tuple[Path, Path], path: Path, **options: Any) -> geopandas.GeoDataFrame:
    how = Options(**CVA, **options)
    predict(open_pair(*pair, how), [path, path.with_suffix(".tif")], how)
    return geopandas.read_file(path)


def test_slivers_go_and_change_stays(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    found = table(pair, tmp_path / "a.fgb", misreg=2.0, min_area_m2=8)
    real = found.area > 150
    assert real.sum() == 1
    assert len(found) == 7

    assert (found.misreg[real] < 0.25).all()
    assert (found.misreg[~real] > 0.8).all()


def test_a_column_only_where_it_is_asked_for(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with_it = table(pair, tmp_path / "a.fgb", misreg="auto")
    without = table(pair, tmp_path / "b.fgb")
    assert list(with_it.columns.drop("misreg")) == list(without.columns)
    assert with_it.geometry.geom_equals(without.geometry).all()
    assert with_it.misreg.between(0, 1).all()


def test_tiles_and_threads_do_not_matter(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    tables = [
        (tmp_path / name, options)
        for name, options in (
            ("a.geojson", {"tile_size": 64, "workers": 2}),
            ("b.geojson", {"tile_size": 1024, "workers": 1}),
        )
    ]
    for path, options in tables:
        table(pair, path, misreg=1.5, **options)
    first, second = (path.read_text() for path, _ in tables)
    assert first.replace('"a"', '"b"') == second


def test_the_date_that_is_not_on_its_grid_is_moved(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    found = table(pair, tmp_path / "a.fgb", misreg=2.0, align="t2", min_area_m2=8)
    real = found.area > 150
    assert real.sum() == 1
    assert (found.misreg[~real] > 0.8).all()
    assert (found.misreg[real] < 0.25).all()


def test_how_far_is_what_the_estimate_leaves_open() -> None:
    assert misreg_reach(2.5, None) == 2.5
    assert misreg_reach("auto", None) == 1.0
    assert misreg_reach("auto", 0.2) == 1.0
    assert misreg_reach("auto", 1.234) == 1.23
    assert misreg_reach("auto", 9.0) == 4.0


def test_without_a_number_it_is_the_error_of_the_registration(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One column says how wrong the registration is, the other how much of a polygon that is."""
    monkeypatch.setattr("rscd.inference.misreg.REACH_PX", (0.0, 4.0))
    found = table(pair, tmp_path / "a.fgb", misreg="auto", register="shift", min_area_m2=0)
    with rasterio.open(tmp_path / "a.tif") as mask:
        provenance = json.loads(mask.tags()["rscd_provenance"])
    assert len(found) > 0
    assert (found.reg_err_px == provenance["misreg_px"]).all()
    assert provenance["misreg_px"] > 0


def test_without_registration_it_is_what_the_shift_leaves(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rscd.inference.misreg.REACH_PX", (0.0, 4.0))
    predict(
        open_pair(*pair), [tmp_path / "a.fgb", tmp_path / "a.tif"], Options(**CVA, misreg="auto")
    )
    with rasterio.open(tmp_path / "a.tif") as mask:
        provenance = json.loads(mask.tags()["rscd_provenance"])
    shift = Shift(**provenance["shift"])
    assert provenance["misreg_px"] == pytest.approx(usual_error(None, shift), abs=0.02)
    assert provenance["misreg_px"] > shift.pixels > 0.5


def test_it_needs_polygons(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="expected polygons among the outputs for --misreg"):
        predict(open_pair(*pair), [tmp_path / "a.tif"], Options(**CVA, misreg=1.0))


def test_nothing_changed(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    predict(open_pair(pair[0], pair[0]), [tmp_path / "a.fgb"], Options(model="cva", misreg="auto"))
    found = geopandas.read_file(tmp_path / "a.fgb")
    assert "misreg" in found
    assert len(found) == 0
