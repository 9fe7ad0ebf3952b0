"""Polygons lie where they should in the pictures, whatever the CRS, type and bands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray

from rscd.base.errors import DataError, GridMismatchError, SceneError
from rscd.geo.tiles import Box
from rscd.review.layer import ChangeLayer, outlines, read_change_layer
from rscd.review.view import NODES, View, open_view

SQUARES = [(20 + 40 * n, 20, 40 + 40 * n, 40) for n in range(5)]
FAR = Affine(10, 0, 600_000, 0, -10, 5_000_000)
DEGREES = Affine(6.4e-6, 0, 15.0, 0, -4.5e-6, 45.15)


def displayed(layer: ChangeLayer) -> tuple[View, NDArray[Any]]:
    view = open_view(layer)
    return view, view.to_display(layer.table.geometry.to_numpy(), layer.table.crs)


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"name": "change.geojson"},
        {"name": "change.parquet"},
        {"dtype": "uint16"},
        {"bands": 1},
        {"bands": 5, "dtype": "uint16"},
        {"crs": None, "transform": Affine.identity()},
    ],
    ids=str,
)
def test_the_squares_of_the_layer_are_bright_at_t2(
    make_scene: Callable[..., Path], kinds: dict[str, Any]
) -> None:
    layer = read_change_layer(make_scene(**kinds))
    view, shapes = displayed(layer)
    assert view.shape_hw == (200, 260)
    found = np.round(shapely.bounds(shapes)[:5]).astype(int).tolist()
    assert found == [list(square) for square in SQUARES]
    before, after = view.read(Box(0, 0, 200, 260), (200, 260)).astype(int)
    assert before.shape == (200, 260, 3)
    for number, (left, top, right, bottom) in enumerate(SQUARES):
        inside = np.s_[top:bottom, left:right]
        assert (after[inside].min() == 255) == (number % 2 == 0)
    assert (before.min(), before.max()) == (0, 255), "the texture is stretched"


def test_pixels_in_degrees_are_shown_square(make_scene: Callable[..., Path]) -> None:
    layer = read_change_layer(make_scene(crs="EPSG:4326", transform=DEGREES))
    view, shapes = displayed(layer)
    height, width = view.shape_hw
    # 6.4e-6 degrees of longitude at 45.15 north are about as long as 4.5e-6 of latitude
    assert width / height == pytest.approx(260 / 200, rel=0.02)
    wide = Affine(12.8e-6, 0, 15.0, 0, -4.5e-6, 45.15)
    layer = read_change_layer(make_scene("wide.gpkg", crs="EPSG:4326", transform=wide))
    view, shapes = displayed(layer)
    assert view.shape_hw[1] / view.shape_hw[0] == pytest.approx(2 * 260 / 200, rel=0.02)
    left, top, right, bottom = shapely.bounds(shapes[0])
    _, after = view.read(Box(0, 0, *view.shape_hw), view.shape_hw)
    inside = after[int(top) + 1 : int(bottom) - 1, int(left) + 1 : int(right) - 1]
    assert inside.min() == 255
    assert after[int(top) + 1 : int(bottom) - 1, int(right) + 2 : int(right) + 9].max() < 255


def test_the_lattice_brings_points_back(make_scene: Callable[..., Path]) -> None:
    layer = read_change_layer(make_scene())
    view, shapes = displayed(layer)
    x, y = view.lattice(layer.table.crs)
    assert x.shape == (NODES, NODES)
    height, width = view.shape_hw
    col, row = shapely.get_coordinates(shapes[0])[0]
    at_row, at_col = row / height * (NODES - 1), col / width * (NODES - 1)
    i, j = int(at_row), int(at_col)
    v, u = at_row - i, at_col - j
    found = [
        nodes[i, j] * (1 - u) * (1 - v)
        + nodes[i, j + 1] * u * (1 - v)
        + nodes[i + 1, j] * (1 - u) * v
        + nodes[i + 1, j + 1] * u * v
        for nodes in (x, y)
    ]
    stored = shapely.get_coordinates(outlines(layer)[0])
    assert np.abs(stored - found).max(axis=1).min() < 1.5e-7


def test_only_the_part_that_was_searched_is_shown(make_scene: Callable[..., Path]) -> None:
    path = make_scene(name="change.geojson", count=2)
    note = path.with_name("change.geojson.json")
    about = json.loads(note.read_text())
    about["alignment"]["grid"] = "120 x 60 px of 0.5 m, EPSG:32633"
    note.write_text(json.dumps(about))
    view, shapes = displayed(read_change_layer(path))
    height, width = view.shape_hw
    assert 104 <= height <= 105
    assert 144 <= width <= 145
    assert np.round(shapely.bounds(shapes)[0]).tolist() == [20, 20, 40, 40]


def test_a_date_that_was_moved_is_shown_moved(make_scene: Callable[..., Path]) -> None:
    path = make_scene(name="change.geojson")
    plain = open_view(read_change_layer(path)).read(Box(0, 0, 100, 200), (100, 200))
    note = path.with_name("change.geojson.json")
    about = json.loads(note.read_text())
    about["registration"] = {"register": "shift", "moved": "t2", "cols": 3.0, "rows": -2.0}
    note.write_text(json.dumps(about))
    moved = open_view(read_change_layer(path)).read(Box(0, 0, 100, 200), (100, 200))
    inside = np.s_[10:90, 10:190]
    meant = (plain[0][inside], plain[1][8:88, 13:193])
    for found, wanted in zip((moved[0][inside], moved[1][inside]), meant, strict=True):
        apart = np.abs(found.astype(int) - wanted)
        assert np.median(apart) <= 2, "the stretch differs by a little"
        assert apart.mean() < 4
    about["registration"] |= {"cols": 0.0, "rows": 0.0}
    note.write_text(json.dumps(about))
    same = open_view(read_change_layer(path)).read(Box(0, 0, 100, 200), (100, 200))
    assert np.array_equal(same, plain)


def test_rasters_are_found_beside_the_layer(
    make_scene: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_scene()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("change.gpkg", "t1.tif", "t2.tif"):
        (tmp_path / name).rename(moved / name)
    assert open_view(read_change_layer(moved / path.name)).pair.t1.path == str(moved / "t1.tif")


def test_rasters_that_are_gone_or_changed_are_named(
    make_scene: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_scene()
    layer = read_change_layer(path)
    (tmp_path / "t2.tif").rename(tmp_path / "moved.tif")
    with pytest.raises(SceneError, match=r"t2 .*t2\.tif, which .*no such file"):
        open_view(layer)
    assert open_view(layer, t2=str(tmp_path / "moved.tif")).shape_hw == (200, 260)
    assert not caplog.records
    content = bytearray((tmp_path / "moved.tif").read_bytes())
    content[-1] ^= 1
    (tmp_path / "t2.tif").write_bytes(content)
    with pytest.raises(SceneError, match="changed since; predict again"):
        open_view(layer)
    open_view(layer, t2=str(tmp_path / "t2.tif"))
    assert "is not the file that" in caplog.text


def test_layers_that_name_no_rasters_need_them(
    make_layer: Callable[..., Path],
    make_scene: Callable[..., Path],
    tmp_path: Path,
    write_tif: Callable[..., Path],
) -> None:
    make_scene()
    layer = read_change_layer(make_layer("other.gpkg"))
    with pytest.raises(DataError, match="expected the rasters of both dates in the provenance"):
        open_view(layer)
    rasters = {date: str(tmp_path / f"{date}.tif") for date in ("t1", "t2")}
    assert open_view(layer, **rasters).shape_hw == (200, 260)
    far = write_tif(tmp_path / "far.tif", np.ones((3, 20, 20), np.uint8), transform=FAR)
    with pytest.raises(DataError, match="expected rasters under the polygons"):
        open_view(layer, t1=str(far), t2=str(far))
    plain = read_change_layer(make_layer("plain.gpkg", crs=None))
    with pytest.raises(GridMismatchError, match="CRS"):
        open_view(plain, **rasters)
