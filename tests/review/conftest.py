"""A change layer of squares in rows, as `rscd predict` writes one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely

from rscd.export.vector import write_vector
from rscd.geo.table import feature_table

PROVENANCE = {"software": "rscd 0", "parameters": {"min_area_m2": 1}}
CRS = "EPSG:32633"


def squares(count: int, crs: str | None = CRS):
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

    def make(name="change.gpkg", count=6, crs=CRS, provenance=PROVENANCE) -> Path:
        path = tmp_path / name
        table = squares(count, crs)
        write_vector(table, path, provenance=provenance, pixel_coordinates=True)
        return path

    return make
