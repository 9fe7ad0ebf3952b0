"""A change layer of squares in rows, as `rscd predict` writes one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine

from rscd.export.vector import write_vector
from rscd.geo.grid import apply, compose
from rscd.geo.pictures import PICTURE
from rscd.geo.scene import ScenePair
from rscd.geo.table import feature_table
from rscd.pipeline.provenance import describe_pair

PROVENANCE = {"software": "rscd 0", "parameters": {"min_area_m2": 1}}
CRS = "EPSG:32633"
TRANSFORM = Affine(0.5, 0, 499_990.0, 0, -0.5, 5_000_010.0)
"""Of the scenes: the first square is at row and column 20, its side 20 pixels."""


def squares(count: int, crs: str | None = CRS) -> geopandas.GeoDataFrame:
    """A table of 10 m squares, five to a row."""
    x, y = 500_000.0 + 20 * (np.arange(count) % 5), 5_000_000.0 - 20 * (np.arange(count) // 5)
    columns = {
        "id": np.arange(1, count + 1),
        "kind": np.where(np.arange(count) % 2, "vanished", "appeared"),
        "class": None,
        "score": np.linspace(0.5, 0.99, count),
        "area_m2": 100.0,
        "t1": None,
        "t2": None,
        "model": "cva",
    }
    return feature_table(columns, shapely.box(x, y - 10, x + 10, y), crs)


@pytest.fixture
def make_layer(tmp_path: Path) -> Callable[..., Path]:
    """``make_layer(name="change.gpkg", count=6, crs=..., provenance=...)``: its path."""

    def make(
        name: str = "change.gpkg",
        count: int = 6,
        crs: str | None = CRS,
        provenance: dict[str, Any] = PROVENANCE,
    ) -> Path:
        path = tmp_path / name
        table = squares(count, crs)
        write_vector(table, path, provenance=provenance, pixel_coordinates=True)
        return path

    return make


SCENE_PX = (200, 260)


@pytest.fixture
def make_scene(tmp_path: Path, write_tif: Callable[..., Path]) -> Callable[..., Path]:
    """``make_scene(count=6, ...)``: a layer over two rasters that its provenance names.

    Squares of odd number are bright at t2, where t1 is plain texture. ``names`` are of the rasters,
    ``bands`` and ``dtype`` theirs, ``crs`` and ``transform`` those of all; ``columns`` are put into
    the layer.
    """

    def make(
        name: str = "change.gpkg",
        count: int = 6,
        names: tuple[str, str] = ("t1.tif", "t2.tif"),
        bands: int = 3,
        dtype: str = "uint8",
        crs: str | None = CRS,
        transform: Affine = TRANSFORM,
        shape_hw: tuple[int, int] = SCENE_PX,
        columns: dict[str, Any] | None = None,
    ) -> Path:
        table = squares(count, crs)
        onto = PICTURE if crs is None else transform
        if onto != TRANSFORM:
            carry = compose(onto, ~TRANSFORM)
            moved = shapely.transform(
                table.geometry.to_numpy(), lambda p: np.column_stack(apply(carry, *p.T))
            )
            table = table.set_geometry(moved, crs=crs)
        full = np.iinfo(dtype).max
        rows, cols = np.indices(shape_hw)
        texture = (2 + np.sin(rows / 7) + np.cos(cols / 9)) * full / 16
        t1 = np.repeat(texture[None].astype(dtype), bands, axis=0)
        t2 = t1.copy()
        for left, top, right, bottom in (box_px(n) for n in range(0, count, 2)):
            t2[:, top:bottom, left:right] = full // 2
        paths = [tmp_path / file for file in names]
        for path, pixels in zip(paths, (t1, t2), strict=True):
            write_tif(path, pixels, transform=transform, crs=crs)
        provenance = PROVENANCE | describe_pair(ScenePair.open(*paths))
        for column, value in (columns or {}).items():
            table[column] = value
        path = tmp_path / name
        write_vector(table, path, provenance=provenance, pixel_coordinates=True)
        return path

    return make


def box_px(number: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a square in pixels, the first is number 0."""
    left, top = 20 + 40 * (number % 5), 20 + 40 * (number // 5)
    return left, top, left + 20, top + 20
