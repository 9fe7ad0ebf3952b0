"""Where the rasters of a layer are, wherever it is read from."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import shapely

from rscd.base.errors import DataError, SceneError
from rscd.base.files import sha256_of
from rscd.base.types import DateName
from rscd.export.vector import SUFFIXES, write_vector
from rscd.geo.origin import rasters_of, read_provenance
from rscd.geo.table import feature_table


@pytest.fixture
def layer(tmp_path: Path, write_tif: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """``made/change.gpkg``, made from rasters that are named from its folder's parent."""
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path)
    about = {}
    for index, date in enumerate(("t1", "t2")):
        file = write_tif(tmp_path / f"{date}.tif", np.full((3, 4, 4), index, np.uint8))
        size = file.stat().st_size
        about[date] = {"path": f"{date}.tif", "bytes": size, "sha256": sha256_of(file)}
    table = feature_table({"id": [1]}, np.array([shapely.box(0, 0, 1, 1)]), "EPSG:32633")
    write_vector(table, tmp_path / "made" / "change.gpkg", provenance=about)
    return tmp_path / "made" / "change.gpkg"


def found(layer: Path) -> Mapping[DateName, str]:
    return rasters_of(layer, read_provenance(layer))


def test_from_where_the_names_hold(layer: Path) -> None:
    assert found(layer) == {"t1": "t1.tif", "t2": "t2.tif"}


def test_beside_the_layer(layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("t1.tif", "t2.tif"):
        shutil.move(tmp_path / name, layer.parent / name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert found(layer) == {d: str(layer.parent / f"{d}.tif") for d in ("t1", "t2")}


def test_another_file_of_that_name_is_passed_over(layer: Path, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "t2.tif", layer.parent / "t2.tif")
    (tmp_path / "t2.tif").write_bytes(b"another")
    assert found(layer)["t2"] == str(layer.parent / "t2.tif")


def test_a_raster_that_is_gone(layer: Path, tmp_path: Path) -> None:
    (tmp_path / "t1.tif").unlink()
    with pytest.raises(SceneError, match=r"expected t1 t1\.tif, .* found no such file"):
        found(layer)


def test_a_raster_that_changed(layer: Path, tmp_path: Path) -> None:
    content = bytearray((tmp_path / "t2.tif").read_bytes())
    content[-1] ^= 1
    (tmp_path / "t2.tif").write_bytes(content)
    with pytest.raises(SceneError, match=r"expected t2 .* found that it changed since"):
        found(layer)


def test_addresses_are_taken_as_they_are(layer: Path) -> None:
    about = {date: {"path": f"https://here/{date}.tif"} for date in ("t1", "t2")}
    assert rasters_of(layer, about) == {d: f"https://here/{d}.tif" for d in ("t1", "t2")}


def test_a_layer_of_another_origin(layer: Path) -> None:
    with pytest.raises(DataError, match="the rasters of both dates in"):
        rasters_of(layer, {"t1": {"path": "a.tif"}})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_keeps_its_provenance(layer: Path, suffix: str) -> None:
    table = feature_table({"id": [1]}, np.array([shapely.box(0, 0, 1, 1)]), "EPSG:32633")
    path = layer.with_name(f"other{suffix}")
    write_vector(table, path, provenance={"software": "this"})
    assert read_provenance(path) == {"software": "this"}
    assert read_provenance(path, "changes") == {"software": "this"}
