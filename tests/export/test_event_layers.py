"""Event layers: multipolygons stay whole in every format, and the style follows the kind."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from rscd.base.types import CHANGE_RGB
from rscd.data.plots import to_colours
from rscd.export.preview import OUTLINE_RGB
from rscd.export.raster import MASK_COLOURS
from rscd.export.style import KIND_COLOURS, SCORE_CLASSES, change_qml, event_qml
from rscd.export.vector import SUFFIXES, write_vector
from rscd.synthetic.sample import write_sample

SINGLE = shapely.box(500_000, 5_000_000, 500_010, 5_000_010)
SEVERAL = shapely.MultiPolygon(
    [
        shapely.box(500_020, 5_000_000, 500_030, 5_000_010),
        shapely.box(500_040, 5e6, 500_050, 5e6 + 5),
    ]
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shapes", [[SINGLE], [SINGLE, SEVERAL], []])
def test_parts_stay_together(tmp_path: Path, suffix: str, shapes: list[Any]) -> None:
    table = geopandas.GeoDataFrame(
        {"kind": ["appeared", "kept"][: len(shapes)]}, geometry=shapes, crs="EPSG:32633"
    )
    path = tmp_path / f"events{suffix}"
    write_vector(table, path, provenance={}, style=event_qml())
    if suffix == ".parquet":
        found = geopandas.read_parquet(path)
    else:
        found = pyogrio.read_dataframe(path, layer=pyogrio.list_layers(path)[0, 0])
    assert len(found) == len(table)
    assert "kind" in found or (suffix == ".geojson" and not shapes)  # it has no schema of its own
    if not shapes:
        return
    found = found.sort_values("kind").to_crs(table.crs)  # FlatGeobuf has an order of its own
    assert list(found["kind"]) == list(table["kind"])
    gaps = shapely.area(
        shapely.symmetric_difference(found.geometry.to_numpy(), table.geometry.to_numpy())
    )
    assert (gaps < 0.5).all()


def test_change_has_one_colour(tmp_path: Path) -> None:
    """In raster, styles, picture, samples and contact sheets."""
    sample = write_sample(tmp_path, shape_hw=(128, 128), seed=3)
    with rasterio.open(sample["truth_mask"]) as dataset:
        sampled = dataset.colormap(1)[1]
    sheet = np.rint(255 * to_colours(np.array([[1]])))[0, 0]
    for colour in (MASK_COLOURS[1], sampled, OUTLINE_RGB, sheet, SCORE_CLASSES[-1][2]):
        assert tuple(colour)[:3] == CHANGE_RGB
    assert dict(KIND_COLOURS)["appeared"] == CHANGE_RGB
    assert 'value="1" color="#{:02x}{:02x}{:02x}"'.format(*CHANGE_RGB) in change_qml()


def test_the_style_knows_every_kind() -> None:
    tree = ET.fromstring(event_qml().split("\n", 1)[1])
    kinds = [category.get("value") for category in tree.iter("category")]
    assert kinds == [kind for kind, _ in KIND_COLOURS]
    assert len(list(tree.iter("symbol"))) == len(kinds)
