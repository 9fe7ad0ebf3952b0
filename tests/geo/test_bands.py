"""What rasters say of their bands is read in one way by scenes and by folders of pairs."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from rscd.base.errors import SceneError
from rscd.data.folder import PairFolder
from rscd.data.images import read_picture
from rscd.geo.bands import Bands, conversion, converted, pair_order
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box

H, W = 40, 50
RED, GREEN, BLUE = ColorInterp.red, ColorInterp.green, ColorInterp.blue
NIR, ALPHA, NONE = ColorInterp.nir, ColorInterp.alpha, ColorInterp.undefined


def noise(bands: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, (bands, H, W)).astype(np.uint8)


def write(
    path: Path,
    pixels: np.ndarray,
    kinds: list[ColorInterp] | None = None,
    units: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    shift: float = 0.0,
    **profile: Any,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(10, 0, 500_000 + shift, 0, -10, 5_000_000 + shift)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    shape |= {"driver": "GTiff", "dtype": pixels.dtype, "crs": "EPSG:32633"} | profile
    if kinds is not None:
        shape["photometric"] = "MINISBLACK"
    with rasterio.open(path, "w", transform=transform, **shape) as out:
        if kinds is not None:
            out.colorinterp = kinds
        if units is not None:
            out.scales, out.offsets = units
        out.write(pixels)
    return path


def scene(t1: Path, t2: Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    pair = ScenePair.open(t1, t2, **options)
    return pair.read(Box(0, 0, *pair.shape_hw))


def folder(root: Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    sample = PairFolder(root, keys={"image", "valid"}, **options)[0]
    return sample["image"].numpy(), sample["valid"][0].numpy()


READERS = ("scene", "folder")


def read(how: str, root: Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    if how == "folder":
        return folder(root, **options)
    return scene(root / "A" / "x.tif", root / "B" / "x.tif", **options)


@pytest.mark.parametrize("how", READERS)
class TestColours:
    def pair(
        self,
        root: Path,
        kinds1: list[ColorInterp] | None,
        kinds2: list[ColorInterp] | None,
        order1: tuple[int, ...],
        order2: tuple[int, ...],
        bands: int = 3,
    ) -> NDArray[Any]:
        t1, t2 = noise(bands, 1), noise(bands, 2)
        write(root / "A" / "x.tif", t1[list(order1)], kinds1)
        write(root / "B" / "x.tif", t2[list(order2)], kinds2)
        return np.stack([t1, t2]).astype(np.float32)

    def test_both_dates_in_another_order(self, how: str, tmp_path: Path) -> None:
        wanted = self.pair(tmp_path, [BLUE, GREEN, RED], [BLUE, GREEN, RED], (2, 1, 0), (2, 1, 0))
        np.testing.assert_array_equal(read(how, tmp_path)[0], wanted)

    def test_each_date_in_an_order_of_its_own(self, how: str, tmp_path: Path) -> None:
        kinds = [RED, GREEN, BLUE, NIR], [NIR, BLUE, GREEN, RED]
        wanted = self.pair(tmp_path, *kinds, (0, 1, 2, 3), (3, 2, 1, 0), bands=4)
        np.testing.assert_array_equal(read(how, tmp_path)[0], wanted)

    def test_named_bands_stay_in_the_order_named(self, how: str, tmp_path: Path) -> None:
        wanted = self.pair(tmp_path, [BLUE, GREEN, RED], [BLUE, GREEN, RED], (2, 1, 0), (2, 1, 0))
        image, _ = read(how, tmp_path, bands=(1, 3))
        np.testing.assert_array_equal(image, wanted[:, [2, 0]])

    def test_one_date_that_does_not_say(
        self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        kinds = [BLUE, GREEN, RED], [ColorInterp.gray, NONE, NONE]
        wanted = self.pair(tmp_path, *kinds, (2, 1, 0), (2, 1, 0))
        image, _ = read(how, tmp_path)
        np.testing.assert_array_equal(image, wanted[:, ::-1])
        assert "give --bands 3,2,1" in caplog.text

    def test_named_bands_of_two_colours(
        self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.pair(tmp_path, [RED, GREEN, BLUE], [BLUE, GREEN, RED], (0, 1, 2), (2, 1, 0))
        read(how, tmp_path, bands=(1, 2))
        assert "found red in band 1 of t1 and blue in band 1 of t2" in caplog.text

    def test_plain_files_are_read_as_they_are_without_a_word(
        self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        wanted = self.pair(tmp_path, None, None, (0, 1, 2), (0, 1, 2))
        np.testing.assert_array_equal(read(how, tmp_path)[0], wanted)
        assert not caplog.records


@pytest.mark.parametrize("how", READERS)
class TestAlpha:
    def pair(self, root: Path, **options: Any) -> np.ndarray:
        t1, t2 = noise(4, 1), noise(4, 2)
        t1[3, :5, :5] = 0
        for name, pixels in (("A", t1), ("B", t2)):
            write(root / name / "x.tif", pixels, [RED, GREEN, BLUE, ALPHA], **options)
        return np.stack([t1, t2]).astype(np.float32)

    def test_named_as_data_it_masks_nothing(self, how: str, tmp_path: Path) -> None:
        wanted = self.pair(tmp_path)
        image, valid = read(how, tmp_path, bands=(1, 2, 3, 4))
        np.testing.assert_array_equal(image, wanted)
        assert valid.all()

    def test_left_out_it_masks(self, how: str, tmp_path: Path) -> None:
        self.pair(tmp_path)
        _, valid = read(how, tmp_path)
        assert np.count_nonzero(~valid) == 25

    def test_nodata_counts_beside_an_alpha_band_that_is_data(
        self, how: str, tmp_path: Path
    ) -> None:
        self.pair(tmp_path, nodata=0)
        assert read(how, tmp_path, bands=(1, 2, 3, 4))[1].all()
        assert np.count_nonzero(~read(how, tmp_path, bands=(4,))[1]) == 25


def test_a_band_tagged_alpha_is_resampled_like_any_other(tmp_path: Path) -> None:
    pixels = noise(4, 1)
    pixels[3, 10:20, 10:20] = 0
    tagged = write(tmp_path / "t.tif", pixels, [RED, GREEN, BLUE, ALPHA], shift=3)
    plain = write(tmp_path / "p.tif", pixels, [RED, GREEN, BLUE, NONE], shift=3)
    first = write(tmp_path / "a.tif", noise(4), [RED, GREEN, BLUE, NONE])
    for bands in ((1, 2, 3, 4), (4, 1), (4,)):
        for options in ({}, {"src_nodata": 77}):
            image, valid = scene(first, tagged, bands=bands, **options)
            expected, expected_valid = scene(first, plain, bands=bands, **options)
            np.testing.assert_array_equal(valid, expected_valid)
            np.testing.assert_array_equal(image, expected)


def test_the_nodata_of_a_scene_is_that_of_a_band_it_uses(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(2), nodata=0)
    rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")  # holds one for each band
    first, second = (tmp_path / "a.vrt").read_text(encoding="utf-8").split('band="2"')
    second = second.replace("<NoDataValue>0<", "<NoDataValue>7<")
    path = tmp_path / "own.vrt"
    path.write_text(f'{first}band="2"{second}', encoding="utf-8")
    with rasterio.open(path) as dataset:
        assert dataset.nodatavals == (0, 7)
    for band, nodata in ((1, 0), (2, 7)):
        pair = ScenePair.open(path, path, bands=(band,))
        assert (pair.t1.nodata, pair.t2.nodata) == (nodata, nodata)
    with pytest.raises(SceneError, match=r"expected one nodata value .* found 0, 7; choose bands"):
        ScenePair.open(path, path)  # by the value of one of them nothing would be nodata
    assert ScenePair.open(path, path, src_nodata=3).t1.nodata == 3


def test_the_nodata_of_a_scene_may_stand_in_any_of_its_bands(tmp_path: Path) -> None:
    pixels = noise(2)
    pixels[:, 5:9] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=0)
    rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
    text = (tmp_path / "a.vrt").read_text(encoding="utf-8")
    path = tmp_path / "second.vrt"
    path.write_text(text.replace("<NoDataValue>0</NoDataValue>", "", 1), encoding="utf-8")
    with rasterio.open(path) as dataset:
        assert dataset.nodatavals == (None, 0)
    _, valid = scene(path, path)
    np.testing.assert_array_equal(np.flatnonzero(~valid.any(axis=1)), np.arange(5, 9))


def test_a_stated_nodata_takes_the_place_of_an_alpha_band(tmp_path: Path) -> None:
    pixels = noise(4, 1)
    pixels[3, :5, :5] = 0
    pixels[:3, 20:30, 20:30] = 250
    path = write(tmp_path / "t.tif", pixels, [RED, GREEN, BLUE, ALPHA])
    moved = write(tmp_path / "m.tif", pixels, [RED, GREEN, BLUE, ALPHA], shift=1e-9)
    _, valid = scene(path, moved, src_nodata=250)
    assert np.count_nonzero(~valid) == 100


def test_the_left_out_alpha_band_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "t.tif", noise(4), [RED, GREEN, BLUE, ALPHA])
    caplog.set_level(logging.INFO)
    ScenePair.open(path, path)
    assert "band 4 is tagged alpha" in caplog.text
    assert "--bands" in caplog.text
    caplog.clear()
    ScenePair.open(path, path, bands=(1, 2, 3, 4))
    assert not caplog.records


@pytest.mark.parametrize("how", READERS)
class TestUnits:
    def test_t2_comes_in_the_units_of_t1(
        self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stored = noise(2, 1).astype(np.uint16)
        first, second = ((0.5, 0.25), (0.0, 1.0)), ((0.25, 0.125), (-0.5, 1.0))
        write(tmp_path / "A" / "x.tif", stored, units=first)
        # the same physical values: stored x scale + offset
        again = (2 * stored + np.array([2, 0])[:, None, None]).astype(np.uint16)
        write(tmp_path / "B" / "x.tif", again, units=second)
        caplog.set_level(logging.INFO)
        image, _ = read(how, tmp_path)
        np.testing.assert_array_equal(image[0], stored)
        np.testing.assert_array_equal(image[1], stored)
        assert "units" in caplog.text

    def test_only_one_date_declares_units(
        self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stored = noise(2, 1)
        write(tmp_path / "A" / "x.tif", stored, units=((0.5, 0.5), (0.0, 0.0)))
        write(tmp_path / "B" / "x.tif", stored.astype(np.float32) * 0.5)
        image, _ = read(how, tmp_path)
        np.testing.assert_array_equal(image[1], stored)
        assert "neither" in caplog.text

    def test_equal_units_leave_stored_values(
        self, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        for name, seed in (("A", 1), ("B", 2)):
            units = ((1e-4, 1e-4), (-0.1, -0.1))
            write(tmp_path / name / "x.tif", noise(2, seed), units=units)
        image, _ = read(how, tmp_path)
        np.testing.assert_array_equal(image[1], noise(2, 2))
        assert not caplog.records


def test_units_are_converted_after_resampling_and_nodata(tmp_path: Path) -> None:
    stored = noise(1, 1).astype(np.uint16)
    stored[0, 5:9, 5:9] = 9999
    first = write(tmp_path / "a.tif", noise(1, 1), units=((2.0,), (1.0,)))
    units = ((0.5,), (0.0,))
    second = write(tmp_path / "b.tif", stored, units=units, nodata=9999, shift=4)
    same = write(tmp_path / "c.tif", stored, units=((2.0,), (1.0,)), nodata=9999, shift=4)
    image, valid = scene(first, second)
    expected, expected_valid = scene(first, same)
    np.testing.assert_array_equal(valid, expected_valid)
    wanted = (expected[1] * 0.5 - 1) / 2
    np.testing.assert_allclose(image[1][:, valid], wanted[:, valid], rtol=1e-6)


number = st.floats(0.001, 100) | st.floats(-100, -0.001)


@given(st.lists(st.tuples(number, number, number, number), min_size=1, max_size=4))
def test_converted_values_mean_the_same(units: list[tuple[float, float, float, float]]) -> None:
    first, second = [u[:2] for u in units], [u[2:] for u in units]
    stored = np.arange(12, dtype=np.float64).reshape(1, 3, 4).repeat(len(units), 0)
    into = conversion(first, second)
    found = converted(stored, into).astype(np.float64)
    for band, ((scale1, offset1), (scale2, offset2)) in enumerate(zip(first, second, strict=True)):
        physical = stored[band] * scale2 + offset2
        room = 1e-5 * (abs(physical).max() + abs(offset1) + 1)
        np.testing.assert_allclose(found[band] * scale1 + offset1, physical, atol=room)


@given(st.permutations(["red", "green", "blue", "nir", ""]), st.integers(0, 5))
def test_order_by_colour_is_a_permutation_with_rgb_first(colours: list[str], alpha: int) -> None:
    own = Bands(tuple(colours), ((1.0, 0.0),) * 5, alpha or None)
    order, _ = pair_order(own, own)
    assert sorted(order) == list(own.data)
    if alpha == 0 or colours[alpha - 1] not in ("red", "green", "blue"):
        assert own.colours_of(order)[:3] == ("red", "green", "blue")
    else:
        assert order == own.data


def test_a_picture_alone_comes_by_colour_too(tmp_path: Path) -> None:
    pixels = noise(3)
    path = write(tmp_path / "x.tif", pixels[::-1], [BLUE, GREEN, RED])
    np.testing.assert_array_equal(read_picture(path).pixels, pixels)
    np.testing.assert_array_equal(read_picture(path, (1, 2, 3)).pixels, pixels[::-1])
