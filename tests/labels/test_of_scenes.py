"""Which files make scenes what they are: masks made of others are not kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely

from rscd.data.scenes import Scene, ScenePairs
from rscd.labels.of_scenes import identity

FILES = ("t1.tif", "t2.tif", "labels.gpkg", "area.gpkg", "b1.gpkg", "b2.gpkg", "answers.gpkg")


@pytest.fixture
def folder(tmp_path: Path, write_tif: Callable[..., Path]) -> Path:
    for seed, name in enumerate(("t1.tif", "t2.tif")):
        pixels = np.random.default_rng(seed).integers(1, 255, (3, 16, 16), np.uint8)
        write_tif(tmp_path / name, pixels)
    ground = shapely.box(500_000, 4_999_840, 500_160, 5_000_000)
    for name in FILES[2:]:
        frame = geopandas.GeoDataFrame({"changed": [True]}, geometry=[ground], crs="EPSG:32633")
        frame.to_file(tmp_path / name)
    return tmp_path


def scene(folder: Path, **more: Any) -> str:
    return identity(ScenePairs(Scene(str(folder / "t1.tif"), str(folder / "t2.tif"), **more)))


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"labels": "labels.gpkg", "area": "area.gpkg"}, {"labels.gpkg", "area.gpkg"}),
        ({"buildings": ("b1.gpkg", "b2.gpkg")}, {"b1.gpkg", "b2.gpkg"}),
        ({"answers": "answers.gpkg"}, {"answers.gpkg"}),
    ],
    ids=["labels", "buildings", "answers"],
)
def test_an_identity_follows_the_files_that_are_used(
    folder: Path, given: dict[str, Any], used: set[str]
) -> None:
    def path(name: Any) -> Any:
        return str(folder / name) if isinstance(name, str) else tuple(map(path, name))

    named = {key: path(name) for key, name in given.items()}
    before = scene(folder, **named)
    assert scene(folder, **named) == before
    for name in FILES:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")  # a later and larger file
        changed = scene(folder, **named) != before
        assert changed == (name in used | {"t1.tif", "t2.tif"}), name
        before = scene(folder, **named)
