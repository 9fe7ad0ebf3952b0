"""The probability and mask rasters on disk."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from rscd.base.errors import ModelError
from rscd.geo import changemap
from rscd.geo.changemap import ChangeMap, RawRaster, binarise, check_numbers
from rscd.geo.tiles import Box, plan_tiles

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def change_map(
    folder: Path, shape: tuple[int, int] = (20, 30), threshold: float = 0.5
) -> ChangeMap:
    return ChangeMap(folder, GeoBox(shape, Affine.identity(), None), threshold, {})


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from(["uint8", "float32"]),
    st.randoms(use_true_random=False),
)
def test_boxes_written_in_any_order_make_the_array(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    tile_size: int,
    dtype: str,
    random: Any,
) -> None:
    values = (np.arange(height * width) % 251).reshape(height, width).astype(dtype)
    raster = RawRaster(tmp_path_factory.mktemp("raw") / "a.img", (height, width), dtype)
    raster.create()
    tiles = [tile.write for tile in plan_tiles((height, width), tile_size)]
    random.shuffle(tiles)
    for box in tiles:
        rows, cols = slice(box.row, box.row + box.height), slice(box.col, box.col + box.width)
        raster.write(box, values[rows, cols])
    np.testing.assert_array_equal(raster.read(Box(0, 0, height, width)), values)
    part = Box(height // 2, width // 3, height // 4, width // 2)
    np.testing.assert_array_equal(raster.read(part), values[part.slices])
    with rasterio.open(raster.path) as dataset:  # any GDAL tool opens it
        np.testing.assert_array_equal(dataset.read(1), values)
        assert dataset.dtypes == (dtype,)


def test_strips_cover_the_raster_in_order_and_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changemap, "STRIP_BYTES", 4000)
    raster = RawRaster(tmp_path / "a.img", (37, 130), "float32")
    raster.create()
    strips = [strip for strip, values in raster.strips() if values.shape == strip.shape_hw]
    assert [strip.row for strip in strips] == list(range(0, 37, 7))
    assert sum(strip.height for strip in strips) == 37
    assert all(strip.height * strip.width * 4 <= 4000 for strip in strips)
    wide = RawRaster(tmp_path / "b.img", (3, 5000), "uint8")
    wide.create()
    assert [strip.height for strip, _ in wide.strips()] == [1, 1, 1]


def test_space_is_reserved_at_once(tmp_path: Path) -> None:
    raster = RawRaster(tmp_path / "a.img", (1000, 1000), "float32")
    raster.create()
    assert raster.nbytes == 4_000_000
    assert raster.path.stat().st_blocks * 512 >= raster.nbytes


def test_a_full_disk_shows_when_space_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        RawRaster(tmp_path / "a.img", (10, 10), "uint8").create()


def test_systems_without_reservation_still_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    raster = RawRaster(tmp_path / "a.img", (10, 10), "uint8")
    raster.create()
    assert (raster.read(Box(0, 0, 10, 10)) == 0).all()


def test_a_write_that_the_system_cuts_short_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stingy(io.FileIO):
        def write(self, data: Any, /) -> int:
            return super().write(memoryview(data).cast("B")[:100])

    raster = RawRaster(tmp_path / "a.img", (20, 30), "float32")
    raster.create()
    values = np.random.default_rng(0).random((20, 30), np.float32)
    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Stingy(path, mode))
    for tile_size in (30, 28):  # full rows in one piece, and row by row
        for tile in plan_tiles((20, 30), tile_size):
            box = tile.write
            rows, cols = slice(box.row, box.row + box.height), slice(box.col, box.col + box.width)
            raster.write(box, values[rows, cols])
        np.testing.assert_array_equal(raster.read(Box(0, 0, *values.shape)), values)


@given(st.floats(0, 1), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_change_is_at_or_above_the_threshold(threshold: float, values: list[float]) -> None:
    prob = np.array([[*values, np.nan]], np.float32)
    mask = binarise(prob, threshold)
    assert mask.dtype == np.uint8
    assert mask[0, -1] == 255
    assert mask[0, :-1].tolist() == [int(v >= np.float32(threshold)) for v in prob[0, :-1]]


def test_a_threshold_means_the_same_in_single_precision() -> None:
    prob = np.array([[0.1, 0.3, 0.7]], np.float32)
    for value in (0.1, 0.3, 0.7):  # none of these is exact in float32
        assert binarise(prob, value).tolist() == (prob >= np.float32(value)).astype(int).tolist()


def test_the_mask_is_made_strip_by_strip_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changemap, "STRIP_BYTES", 1000)
    prob = np.random.default_rng(0).random((20, 30), np.float32)
    prob[3:6, 4:9] = np.nan
    result = change_map(tmp_path, threshold=0.8)
    result.prob.create()
    result.prob.write(Box(0, 0, 20, 30), prob)
    changed, valid = result.threshold_mask()
    mask = result.mask.read(Box(0, 0, 20, 30))
    np.testing.assert_array_equal(mask, binarise(prob, 0.8))
    assert (changed, valid) == ((mask == 1).sum(), (mask != 255).sum())
    assert valid == 600 - 15


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_predictions_are_numbers_wherever_there_is_data(broken: float) -> None:
    prob = np.full((3, 4), 0.5, np.float32)
    valid = np.ones((3, 4), bool)
    valid[1, 2] = False
    check_numbers(prob, valid, "x")
    prob[1, 2] = broken
    check_numbers(prob, valid, "x")
    prob[0, 0] = broken
    with pytest.raises(ModelError, match=r"numbers from x, found NaN .* at 1 of 11 pixels"):
        check_numbers(prob, valid, "x")
    with pytest.raises(ModelError, match="numbers from x"):
        check_numbers(np.stack([prob, prob]), valid, "x")
