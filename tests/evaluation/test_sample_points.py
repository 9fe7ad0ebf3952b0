"""Points lie on pixel centres of their stratum, are reproducible, and open with their form."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray

from rscd.base.errors import DataError
from rscd.evaluation.sample_points import PointOptions, sample_points, write_points
from rscd.evaluation.strata import Strata
from rscd.geo.measure import Ground
from rscd.geo.polygons import to_world
from rscd.geo.vectors import read_layer

DEGREES = Affine(0.01, 0, 10, 0, -0.01, 65)


@pytest.fixture
def change_map(tmp_path: Path, write_tif: Callable[..., Path]) -> Callable[..., Any]:
    def make(**profile: Any) -> tuple[Path, NDArray[Any]]:
        mask = np.zeros((60, 80), np.uint8)
        mask[20:30, 20:40] = 1
        mask[50:] = 255
        return write_tif(tmp_path / "change.tif", mask, nodata=255, **profile), mask

    return make


def test_points_are_pixel_centres_of_their_stratum(change_map: Callable[..., Any]) -> None:
    path, mask = change_map()
    points = sample_points(path, PointOptions(200, Strata(near_px=3), 40, seed=3)).table
    assert points["id"].tolist() == list(range(1, 201))
    cols, rows = points.geometry.x / 10 - 50_000, 500_000 - points.geometry.y / 10
    np.testing.assert_allclose(cols % 1, 0.5)
    np.testing.assert_allclose(rows % 1, 0.5)
    at = rows.astype(int), cols.astype(int)
    assert len(set(zip(*at, strict=True))) == 200
    strata = Strata(near_px=3).divide(mask)
    names = np.array(["change", "near", "no-change"])
    assert (points["stratum"] == names[strata[at]]).all()
    np.testing.assert_array_equal(points["map"], mask[at])
    for index, name in enumerate(names):
        own = points[points["stratum"] == name]
        assert (own["stratum_pixels"] == np.count_nonzero(strata == index)).all()
        assert (own["stratum_points"] == len(own)).all()
        assert len(own) >= 40
    assert points["reference"].isna().all()


def test_the_order_says_nothing_of_the_stratum(change_map: Callable[..., Any]) -> None:
    """The first of them are a random sample too."""
    points = sample_points(change_map()[0], PointOptions(300, least=100)).table
    assert set(points["stratum"][:30]) == {"change", "near", "no-change"}
    assert abs(np.corrcoef(points["id"], points.geometry.y)[0, 1]) < 0.2


def test_a_seed_gives_the_same_points_and_another_gives_others(
    change_map: Callable[..., Any], tmp_path: Path
) -> None:
    path, _ = change_map()
    files = [tmp_path / f"{name}.gpkg" for name in "ab"]
    for file in files:
        write_points(sample_points(path, PointOptions(seed=5)), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    one, other = (sample_points(path, PointOptions(seed=seed)).table for seed in (5, 6))
    assert not one.geometry.equals(other.geometry)


def test_areas_are_on_the_ground_in_degrees_too(change_map: Callable[..., Any]) -> None:
    path, _ = change_map(crs="EPSG:4326", transform=DEGREES)
    table = sample_points(path, PointOptions(150, Strata(("change", "no-change")))).table

    ground = Ground("EPSG:4326", DEGREES)
    whole = ground.areas_m2(np.array([shapely.box(20, 20, 40, 30)]))[0]
    own = table[table["stratum"] == "change"]
    assert own["stratum_m2"].iloc[0] == pytest.approx(whole, rel=1e-6)
    to_pixels = to_world(own.geometry.to_numpy(), ~DEGREES)
    squares = shapely.buffer(to_pixels, 0.5, cap_style="square")
    np.testing.assert_allclose(own["pixel_m2"], ground.areas_m2(squares), rtol=1e-5)
    assert own["pixel_m2"].nunique() > 1


def test_pictures_have_points_in_pixels(change_map: Callable[..., Any]) -> None:
    path, mask = change_map(crs=None, transform=None)
    table = sample_points(path).table
    assert table.crs is None
    at = (-table.geometry.y).astype(int), table.geometry.x.astype(int)
    np.testing.assert_array_equal(table["map"], mask[at])
    assert table["pixel_m2"].isna().all()


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_every_format_keeps_the_points(
    change_map: Callable[..., Any], tmp_path: Path, suffix: str
) -> None:
    points = sample_points(change_map()[0], PointOptions(160))
    file = tmp_path / f"points{suffix}"
    write_points(points, file)
    back = read_layer(file, "points").sort_values("id")
    assert (back["stratum"].to_numpy() == points.table["stratum"].to_numpy()).all()
    assert (back["stratum_m2"].to_numpy() == points.table["stratum_m2"].to_numpy()).all()
    there = back.to_crs(points.table.crs).geometry
    assert there.distance(points.table.geometry, align=False).max() < 0.02


def test_the_form_offers_the_answers_and_hides_the_map(
    change_map: Callable[..., Any], tmp_path: Path
) -> None:
    write_points(sample_points(change_map()[0]), tmp_path / "points.gpkg")
    with closing(sqlite3.connect(tmp_path / "points.gpkg")) as package:
        (qml,) = package.execute(
            "SELECT styleQML FROM layer_styles WHERE useAsDefault AND f_table_name = 'points'"
        ).fetchone()
        (kind,) = package.execute("SELECT geometry_type_name FROM gpkg_geometry_columns").fetchone()
        (about,) = package.execute(
            "SELECT metadata FROM gpkg_metadata WHERE metadata LIKE '%software%'"
        ).fetchone()
    assert kind == "POINT"
    assert "sha256" in about
    root = ElementTree.fromstring(qml.partition("\n")[2])
    assert {"Fields", "Forms"} <= set(root.get("styleCategories", "").split("|"))
    widgets = root.findall("fieldConfiguration//field[editWidget]")
    fields = {field.get("name"): field.findall("editWidget")[0] for field in widgets}
    assert fields["reference"].get("type") == "ValueMap"
    offered = [o.get("value") for o in fields["reference"].iter("Option") if o.get("value")]
    assert offered == ["change", "no change", "unsure"]
    assert {"stratum", "map"} <= {n for n, w in fields.items() if w.get("type") == "Hidden"}


def test_strata_without_a_pixel_are_named_and_left_out(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    path = write_tif(tmp_path / "still.tif", np.zeros((30, 30), np.uint8), nodata=255)
    points = sample_points(path, PointOptions(60))
    assert points.empty == ("change", "near")
    assert set(points.table["stratum"]) == {"no-change"}
    assert json.dumps(points.provenance)


def test_what_is_no_change_map_is_refused(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    nothing = write_tif(tmp_path / "nothing.tif", np.full((5, 5), 255, np.uint8), nodata=255)
    prob = write_tif(tmp_path / "prob.tif", np.zeros((5, 5), np.float32))
    for path, words in (
        (nothing, "found none; check its nodata"),
        (prob, "found float32, as probabilities are"),
        (tmp_path / "change.gpkg", "found polygons"),
    ):
        with pytest.raises(DataError, match=words):
            sample_points(path)
