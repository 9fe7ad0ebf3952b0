"""Masks and probabilities as GeoTIFFs."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.enums import ColorInterp

from rscd.base.errors import OutputError, UsageError
from rscd.export.raster import MASK_COLOURS, write_mask, write_probability
from rscd.geo.changemap import ChangeMap
from rscd.geo.tiles import Box

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
PROVENANCE = {"software": "rscd", "t1": {"path": "a.tif"}, "parameters": {"threshold": None}}


def make(
    folder: Path,
    shape: tuple[int, int] = (700, 900),
    transform: Affine = UTM,
    crs: str | None = "EPSG:32633",
    seed: int = 0,
) -> tuple[ChangeMap, NDArray[Any]]:
    """A change map with blocks of change, and its probabilities as an array."""
    folder.mkdir()
    prob = np.random.default_rng(seed).random(shape, np.float32) * 0.4
    height, width = shape
    prob[height // 4 : height // 2, width // 4 : width // 2] = 0.9
    prob[: height // 8, : width // 8] = np.nan
    change_map = ChangeMap(folder, GeoBox(shape, transform, crs), 0.5, PROVENANCE)
    change_map.prob.create()
    change_map.prob.write(Box(0, 0, *shape), prob)
    change_map.threshold_mask()
    return change_map, prob


@pytest.fixture
def change_map(tmp_path: Path) -> ChangeMap:
    return make(tmp_path / "work")[0]


def assert_cloud_optimised(path: Path, overviews: list[int]) -> None:
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.overviews(1) == overviews
    # the order of a COG: all directories before all pixels, overviews before the full image
    with rasterio.open(path) as dataset:
        at = [
            int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=level))
            for level in (None, *range(len(overviews)))
        ]
    assert at == sorted(at, reverse=True)


def test_a_mask_carries_all_it_needs(tmp_path: Path, change_map: ChangeMap) -> None:
    path = tmp_path / "change.tif"
    write_mask(change_map, path, {}, "<qgis/>")
    assert_cloud_optimised(path, [2])
    with rasterio.open(path) as dataset:
        assert dataset.dtypes == ("uint8",)
        assert dataset.nodata == 255
        assert dataset.crs.to_epsg() == 32633
        assert dataset.transform == UTM
        assert dataset.colorinterp == (ColorInterp.palette,)
        colours = dataset.colormap(1)
        # a TIFF's palette knows no transparency; QGIS takes it from the .qml
        assert {v: colours[v][:3] for v in MASK_COLOURS} == {
            v: c[:3] for v, c in MASK_COLOURS.items()
        }
        mask = dataset.read(1)
        tags = dataset.tags(1)
        assert json.loads(dataset.tags()["rscd_provenance"]) == PROVENANCE
        assert dataset.descriptions == ("change",)
        assert dataset.compression.name == "deflate"
    assert (tags["class_0"], tags["class_1"], tags["class_255"]) == (
        "no change",
        "change",
        "no data",
    )
    np.testing.assert_array_equal(mask, change_map.mask.read(Box(0, 0, *mask.shape)))
    assert set(np.unique(mask)) == {0, 1, 255}
    assert path.with_suffix(".qml").read_text() == "<qgis/>"


def test_overviews_of_a_mask_hold_its_values_alone(tmp_path: Path, change_map: ChangeMap) -> None:
    path = tmp_path / "change.tif"
    write_mask(change_map, path, {}, "")
    with rasterio.open(path, overview_level=0) as dataset:
        small = dataset.read(1)
    assert small.shape == (350, 450)
    assert set(np.unique(small)) == {0, 1, 255}
    assert (small[175 // 2 + 2 : 175 - 2, 225 // 2 + 2 : 225 - 2] == 1).all()


def test_probabilities_stay_as_they_are(tmp_path: Path) -> None:
    change_map, prob = make(tmp_path / "work")
    path = tmp_path / "prob.tif"
    write_probability(change_map, path, {}, "<qgis/>")
    assert_cloud_optimised(path, [2])
    with rasterio.open(path) as dataset:
        assert dataset.dtypes == ("float32",)
        assert np.isnan(dataset.nodata)
        assert dataset.transform == UTM
        assert json.loads(dataset.tags()["rscd_provenance"]) == PROVENANCE
        assert dataset.descriptions == ("change probability",)
        found = dataset.read(1)
    np.testing.assert_array_equal(found, prob)
    assert path.with_suffix(".qml").read_text() == "<qgis/>"
    with rasterio.open(path, overview_level=0) as dataset:
        small = dataset.read(1)
    np.testing.assert_allclose(small[200, 300], prob[400:402, 600:602].mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (Affine(7, 3, 5e5, 3, -7, 5e6), "EPSG:32633"),
        (Affine(10, 0, 5e5, 0, 10, 5e6), "EPSG:32633"),  # south at the top
        (Affine(1e-4, 0, 15, 0, -1e-4, 45), "EPSG:4326"),
        (Affine(1, 0, 100, 0, -1, 200), None),
        (Affine(0.5, 0, 2.6e6, 0, -0.5, 1.2e6), CRS("EPSG:2056").to_wkt("WKT1_ESRI")),
    ],
)
def test_georeferencing_is_that_of_the_grid(
    tmp_path: Path, transform: Affine, crs: str | None
) -> None:
    change_map, _ = make(tmp_path / "work", (20, 30), transform, crs)
    for write, name in ((write_mask, "change.tif"), (write_probability, "prob.tif")):
        write(change_map, tmp_path / name, {}, "")
        with rasterio.open(tmp_path / name) as dataset:
            np.testing.assert_allclose(dataset.transform[:6], transform[:6])
            if crs is None:
                assert dataset.crs is None
            else:
                assert CRS(dataset.crs.to_wkt()).equals(CRS(crs), ignore_axis_order=True) or (
                    dataset.crs.to_epsg() == 2056
                )


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pixels_without_georeferencing(tmp_path: Path) -> None:
    change_map, _ = make(tmp_path / "work", (20, 30), Affine.identity(), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody is bothered with it while writing
        write_mask(change_map, tmp_path / "change.tif", {}, "")
    with rasterio.open(tmp_path / "change.tif") as dataset:
        assert dataset.transform.is_identity
        assert dataset.crs is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (513, 1)])
def test_odd_sizes(tmp_path: Path, shape: tuple[int, int]) -> None:
    change_map, prob = make(tmp_path / "work", shape)
    write_mask(change_map, tmp_path / "change.tif", {}, "")
    write_probability(change_map, tmp_path / "prob.tif", {}, "")
    with rasterio.open(tmp_path / "prob.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), prob)
    with rasterio.open(tmp_path / "change.tif") as dataset:
        assert dataset.shape == shape


def test_creation_options_reach_the_driver(tmp_path: Path, change_map: ChangeMap) -> None:
    path = tmp_path / "change.tif"
    write_mask(change_map, path, {"COMPRESS": "LZW", "BLOCKSIZE": "256"}, "")
    with rasterio.open(path) as dataset:
        assert dataset.compression.name == "lzw"
        assert dataset.block_shapes == [(256, 256)]


@pytest.mark.parametrize(
    "options",
    [{"COMPRESS": "NONSENSE"}, {"BLOCKSIZE": "a"}, {"BLOCKSIZE": "17"}, {"NONSENSE": "1"}],
)
def test_wrong_creation_options_leave_nothing(
    tmp_path: Path, change_map: ChangeMap, options: dict[str, str]
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"found: .*; correct --co") as caught:
        write_mask(change_map, tmp_path / "change.tif", options, "")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_the_same_map_gives_the_same_bytes(tmp_path: Path, change_map: ChangeMap) -> None:
    for name in ("a", "b"):
        write_mask(change_map, tmp_path / f"{name}.tif", {}, "")
        write_probability(change_map, tmp_path / f"{name}-prob.tif", {}, "")
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert (tmp_path / "a-prob.tif").read_bytes() == (tmp_path / "b-prob.tif").read_bytes()


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path, change_map: ChangeMap) -> None:
    with pytest.raises(OutputError, match=r"expected to write .*none/change\.tif"):
        write_mask(change_map, tmp_path / "none" / "change.tif", {}, "")


def test_a_damaged_scratch_file_leaves_nothing(
    tmp_path: Path, change_map: ChangeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(change_map.mask), "read", broken)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="Input/output error"):
        write_mask(change_map, tmp_path / "change.tif", {}, "")
    assert sorted(tmp_path.iterdir()) == before
