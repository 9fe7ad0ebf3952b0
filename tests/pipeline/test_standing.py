"""Buildings of one date, from stored probabilities to a table and a file."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from rscd.geo import changemap
from rscd.geo.changemap import ChangeMap, RawRaster
from rscd.geo.measure import Ground
from rscd.geo.tiles import Box
from rscd.inference.kinds import Standing
from rscd.pipeline.standing import object_polygons, write_objects

GRID = GeoBox((24, 30), Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), "EPSG:32633")
WHOLE = Box(0, 0, 24, 30)
OUTLINING = {
    "ground": Ground(GRID.crs, GRID.affine), "min_area_m2": 4.0, "simplify_m": 0.0,
    "regularize": False, "model": "buildings",
}  # fmt: skip


@pytest.fixture
def found(tmp_path: Path) -> tuple[ChangeMap, Standing]:
    """A building of either date at one place; a second one at t2, half of it without data."""
    change_map = ChangeMap(tmp_path, GRID, 0.5, {"software": "rscd"})
    prob = np.zeros((24, 30), np.float32)
    prob[:, 24:] = np.nan
    t1, t2 = np.full((2, 24, 30), 127, np.uint8)
    t1[2:8, 3:11] = 204
    t2[2:8, 3:11] = 128
    t2[12:20, 20:28] = 255
    t2[22, 0] = 255  # too small
    rasters = []
    for name, dtype, values in (
        ("prob", "float32", prob), ("buildings_t1", "uint8", t1), ("buildings_t2", "uint8", t2),
    ):  # fmt: skip
        raster = RawRaster(tmp_path / f"{name}.img", (24, 30), dtype)
        raster.create()
        raster.write(WHOLE, values)
        rasters.append(raster)
    change_map.threshold_mask()
    _, first, second = rasters
    return change_map, Standing(first, second, 0.2)


def pixels(rows: tuple[int, int], cols: tuple[int, int]) -> shapely.Polygon:
    return shapely.box(
        500_000 + cols[0] / 2, 5_000_000 - rows[1] / 2, 500_000 + cols[1] / 2,
        5_000_000 - rows[0] / 2,
    )  # fmt: skip


def test_a_building_is_where_the_probability_is_half_or_more_and_both_dates_have_data(
    found: tuple[ChangeMap, Standing],
) -> None:
    first = object_polygons(*found, "t1", "2019-05-01", OUTLINING)
    second = object_polygons(*found, "t2", None, OUTLINING)
    assert first.geometry.geom_equals(geopandas.GeoSeries([pixels((2, 8), (3, 11))], crs=32633))[0]
    assert first["score"].tolist() == [0.8]
    assert str(first["t1"][0]).startswith("2019-05-01")
    assert first["t2"].isna().all()
    wanted = [pixels((2, 8), (3, 11)), pixels((12, 20), (20, 24))]
    assert shapely.equals(second.geometry.to_numpy(), wanted).all()
    assert second["score"].tolist() == [round(128 / 255, 4), 1.0]
    assert second["area_m2"].round(0).tolist() == [12, 8]
    assert second["t1"].isna().all()


def test_strips_change_nothing(
    found: tuple[ChangeMap, Standing], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found[1].mask("t2", found[0].mask).read(WHOLE)
    monkeypatch.setattr(changemap, "STRIP_BYTES", 4 * 30 * 5)
    assert len(list(found[0].mask.strips())) == 5
    assert (found[1].mask("t2", found[0].mask).read(WHOLE) == whole).all()
    assert set(np.unique(whole)) == {0, 1, 255}
    assert (whole[:, 24:] == 255).all()


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_written_tables_read_the_same(
    tmp_path: Path, found: tuple[ChangeMap, Standing], suffix: str
) -> None:
    table = object_polygons(*found, "t2", None, OUTLINING)
    path = tmp_path / f"b{suffix}"
    write_objects(table, path, "t2", found[0].provenance, {})
    if suffix == ".parquet":
        back = geopandas.read_parquet(path)
    else:
        back = geopandas.read_file(path, layer="buildings_t2")
    back = back.sort_values("id", ignore_index=True).to_crs(32633)
    assert back["kind"].tolist() == ["standing", "standing"]
    assert back.geometry.geom_equals_exact(table.geometry, 0.02).all()
    assert (tmp_path / "b.qml").exists() == (suffix in (".geojson", ".fgb", ".parquet"))
