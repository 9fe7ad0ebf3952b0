"""ScenePair: two rasters on one grid, compared with what rasterio and formulas say."""

import math
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.rpc import RPC
from rasterio.warp import calculate_default_transform, reproject
from scipy.ndimage import binary_erosion

from rscd.base.errors import GridMismatchError, RscdError, SceneError, UsageError
from rscd.base.types import Align
from rscd.geo.grid import apply, compose
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles, inspect, looked_at, parse_bands, read_source
from rscd.geo.tiles import Box, plan_tiles

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
HEIGHT, WIDTH = 40, 60


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


def noise(
    shape: tuple[int, int, int] = (3, HEIGHT, WIDTH),
    dtype: str | type[Any] = np.uint8,
    seed: int = 0,
) -> NDArray[Any]:
    high = {"u": 250, "i": 250, "f": 1}[np.dtype(dtype).kind]
    return (np.random.default_rng(seed).random(shape) * high + 1).astype(dtype)


def whole(pair: ScenePair) -> tuple[NDArray[Any], NDArray[Any]]:
    return pair.read(Box(0, 0, *pair.shape_hw))


def moved(cols: float, rows: float, base: Affine = UTM) -> Affine:
    return compose(base, Affine.translation(cols, rows))


def centres(grid: GeoBox) -> tuple[NDArray[Any], NDArray[Any]]:
    """CRS coordinates of all pixel centres, (h,w) each."""
    col, row = np.meshgrid(np.arange(grid.shape[1]) + 0.5, np.arange(grid.shape[0]) + 0.5)
    return apply(grid.affine, col, row)


def painted(
    function: Callable[..., Any],
    shape: tuple[int, int],
    transform: Affine,
    crs_to: tuple[str, str] | None = None,
) -> NDArray[Any]:
    """An image whose values are a function of the coordinates of its pixel centres."""
    col, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x, y = apply(transform, col, row)
    if crs_to is not None:
        x, y = Transformer.from_crs(*crs_to, always_xy=True).transform(x, y)
    return function(x, y).astype(np.float32)


class TestOneGrid:
    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32", "float64"])
    def test_values_are_those_of_rasterio(
        self, tmp_path: Path, write_tif: Callable[..., Path], dtype: str
    ) -> None:
        a, b = noise(dtype=dtype, seed=1), noise(dtype=dtype, seed=2)
        if dtype == "int8":
            a, b = a % 100, b % 100
        pair = ScenePair.open(write_tif(tmp_path / "a.tif", a), write_tif(tmp_path / "b.tif", b))
        image, valid = whole(pair)
        assert image.dtype == np.float32
        assert image.shape == (2, 3, HEIGHT, WIDTH)
        np.testing.assert_array_equal(image, np.stack([a, b]).astype(np.float32))
        assert valid.dtype == bool
        assert valid.all()
        assert pair.alignment["t1"] == pair.alignment["t2"] == "read as it is"

    @settings(max_examples=40, deadline=None)
    @given(st.integers(-120, 120), st.integers(-120, 120), st.integers(1, 150), st.integers(1, 150))
    def test_boxes_anywhere_are_the_reflected_scene(
        self, tmp_path_factory: pytest.TempPathFactory, row: int, col: int, h: int, w: int
    ) -> None:
        pair = self.shared_pair(tmp_path_factory)
        top, left = max(0, -row), max(0, -col)
        bottom, right = max(0, row + h - HEIGHT), max(0, col + w - WIDTH)
        image, valid = whole(pair)
        wide = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")
        wide_valid = np.pad(valid, ((top, bottom), (left, right)))
        window = slice(row + top, row + top + h), slice(col + left, col + left + w)
        got, got_valid = pair.read(Box(row, col, h, w))
        np.testing.assert_array_equal(got, wide[:, :, window[0], window[1]])
        np.testing.assert_array_equal(got_valid, wide_valid[window])

    _pair: ScenePair | None = None

    @classmethod
    def shared_pair(cls, tmp_path_factory: pytest.TempPathFactory) -> ScenePair:
        if cls._pair is None:
            folder = tmp_path_factory.mktemp("shared")
            for name, seed in (("a.tif", 1), ("b.tif", 2)):
                with rasterio.open(
                    folder / name,
                    "w",
                    driver="GTiff",
                    height=HEIGHT,
                    width=WIDTH,
                    count=3,
                    dtype="uint8",
                    crs="EPSG:32633",
                    transform=UTM,
                ) as dataset:
                    dataset.write(noise(seed=seed))
            cls._pair = ScenePair.open(folder / "a.tif", folder / "b.tif")
        return cls._pair

    def test_a_scene_of_one_pixel(self, tmp_path: Path, write_tif: Callable[..., Path]) -> None:
        a = write_tif(tmp_path / "a.tif", np.full((1, 1, 1), 7, np.uint8))
        image, valid = ScenePair.open(a, a).read(Box(-3, -2, 8, 5))
        assert (image == 7).all()
        assert valid.sum() == 1
        assert valid[3, 2]

    def test_bands_are_chosen_in_the_order_asked(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = noise((16, 5, 5))
        path = write_tif(tmp_path / "a.tif", a)
        assert ScenePair.open(path, path).n_bands == 16
        pair = ScenePair.open(path, path, bands=(7, 2))
        np.testing.assert_array_equal(whole(pair)[0][0], a[[6, 1]])

    def test_a_pair_is_a_value_that_can_be_pickled(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise(seed=1))
        b = write_tif(tmp_path / "b.tif", noise(seed=2), transform=moved(3.5, 2.5))
        pair = ScenePair.open(a, b).crop(
            shapely.box(500_100, 4_999_700, 500_300, 4_999_900), mask=True
        )
        before = whole(pair)
        again = pickle.loads(pickle.dumps(pair))
        assert again == pair
        for one, other in zip(before, whole(again), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_pair_serves_many_threads(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(
            tmp_path / "a.tif",
            noise((2, 200, 200), seed=1),
            tiled=True,
            blockxsize=16,
            blockysize=16,
        )
        b = write_tif(tmp_path / "b.tif", noise((2, 200, 200), seed=2), transform=moved(0.5, 0.25))
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        tiles = plan_tiles(pair.shape_hw, 24, 5)
        inner = [tile.write for tile in tiles]
        with ThreadPoolExecutor(4) as pool:
            for box, (part, part_valid) in zip(inner, pool.map(pair.read, inner), strict=True):
                at = slice(box.row, box.row + box.height), slice(box.col, box.col + box.width)
                np.testing.assert_array_equal(part, image[:, :, at[0], at[1]])
                np.testing.assert_array_equal(part_valid, valid[at])

    def test_a_file_that_was_replaced_is_read_anew(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        path = write_tif(tmp_path / "a.tif", noise(seed=1))
        whole(ScenePair.open(path, path))
        path.unlink()
        fresh = noise((1, 9, 9), seed=2)
        write_tif(path, fresh)
        np.testing.assert_array_equal(whole(ScenePair.open(path, path))[0][0], fresh)


class TestAlignment:
    @pytest.mark.parametrize(
        "base",
        [
            UTM,
            compose(UTM, Affine.rotation(30)),
            compose(UTM, Affine.scale(1, -1)),
            Affine.identity(),
        ],
    )
    @pytest.mark.parametrize("align", ["t1", "t2"])
    def test_whole_pixel_shifts_are_cut_out_and_not_resampled(
        self, tmp_path: Path, write_tif: Callable[..., Path], base: Affine, align: Align
    ) -> None:
        a, b = noise(seed=1), noise((3, 50, 30), seed=2)
        t2_base = moved(7, -4, base)
        pair = ScenePair.open(
            write_tif(tmp_path / "a.tif", a, transform=base),
            write_tif(tmp_path / "b.tif", b, transform=t2_base),
            align=align,
        )
        image, valid = whole(pair)
        np.testing.assert_array_equal(image[0], a[:, 0:40, 7:37])
        np.testing.assert_array_equal(image[1], b[:, 4:44, 0:30])
        assert valid.all()
        assert "not resampled" in pair.alignment["t1"]
        assert "cropped" in pair.alignment["t2"]
        np.testing.assert_allclose(
            [*pair.grid.affine[:6]], [*moved(7, 0, base)[:6]], rtol=1e-9, atol=1e-7
        )

    def test_sizes_that_differ_by_a_row(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a, b = noise(seed=1), noise((3, HEIGHT + 1, WIDTH - 1), seed=2)
        pair = ScenePair.open(write_tif(tmp_path / "a.tif", a), write_tif(tmp_path / "b.tif", b))
        assert pair.shape_hw == (HEIGHT, WIDTH - 1)
        image, valid = whole(pair)
        np.testing.assert_array_equal(image[0], a[:, :, :-1])
        np.testing.assert_array_equal(image[1], b[:, :-1])
        assert valid.all()

    @settings(max_examples=15, deadline=None)
    @given(st.floats(-3, 3), st.floats(-3, 3))
    def test_a_fraction_of_a_pixel_interpolates_a_ramp_exactly(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        write_tif: Callable[..., Path],
        cols: float,
        rows: float,
    ) -> None:
        folder = tmp_path_factory.mktemp("ramp")

        def ramp(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
            return (x - 500_000) / 10 + 3 * (5_000_000 - y) / 10

        t2_transform = moved(cols, rows)
        a = write_tif(folder / "a.tif", painted(ramp, (HEIGHT, WIDTH), UTM))
        b = write_tif(
            folder / "b.tif", painted(ramp, (HEIGHT, WIDTH), t2_transform), transform=t2_transform
        )
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        close_handles()
        inner = slice(1, -1), slice(1, -1)  # at the rim t2 ends: half a pixel is extrapolated
        # pixels that coincide to a hundredth are taken as they are
        assert np.abs(image[1] - image[0])[0][inner].max() < 4 * 0.015
        assert valid[inner].all()

    @pytest.mark.parametrize("scale", [0.25, 0.8, 1.7])
    def test_another_resolution_reproduces_a_smooth_image(
        self, tmp_path: Path, write_tif: Callable[..., Path], scale: float
    ) -> None:
        def wave(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
            return 100 + 50 * np.sin(x / 90) * np.cos(y / 110)

        t2_transform = compose(moved(-2.3, -1.7), Affine.scale(scale))
        shape = math.ceil(45 / scale), math.ceil(66 / scale)
        a = write_tif(tmp_path / "a.tif", painted(wave, (HEIGHT, WIDTH), UTM))
        b = write_tif(
            tmp_path / "b.tif", painted(wave, shape, t2_transform), transform=t2_transform
        )
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        assert pair.shape_hw == (HEIGHT, WIDTH)
        assert valid.all()
        assert "resampled (bilinear)" in pair.alignment["t2"]
        assert np.abs(image[1] - image[0])[0, 1:-1, 1:-1].max() < 1.5

    @pytest.mark.parametrize("align", ["t1", "t2"])
    @pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32632", "EPSG:2154"])
    def test_another_crs_reproduces_a_smooth_image(
        self, tmp_path: Path, write_tif: Callable[..., Path], crs: str, align: Align
    ) -> None:
        def wave(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
            return 100 + 50 * np.sin((x - 5e5) / 90) * np.cos((y - 5e6) / 110)

        transform, width, height = calculate_default_transform(
            "EPSG:32633", crs, WIDTH, HEIGHT, 500_000, 4_999_600, 500_600, 5_000_000
        )
        a = write_tif(tmp_path / "a.tif", painted(wave, (HEIGHT, WIDTH), UTM))
        b = write_tif(
            tmp_path / "b.tif",
            painted(wave, (height, width), transform, (crs, "EPSG:32633")),
            transform=transform,
            crs=crs,
        )
        pair = ScenePair.open(a, b, align=align)
        image, valid = whole(pair)
        x, y = centres(pair.grid)
        if align == "t2":
            x, y = Transformer.from_crs(crs, "EPSG:32633", always_xy=True).transform(x, y)
        exact = wave(x, y)
        assert valid.mean() > 0.7
        inner = binary_erosion(valid, np.ones((3, 3)))  # at the rim half a pixel is extrapolated
        for date in image:
            assert np.abs(date[0] - exact)[inner].max() < 1.5
            assert np.abs(date[0] - exact)[valid].max() < 3

    def test_positions_are_exact_to_a_hundredth_of_a_pixel(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        """Bilinear resampling of column and row numbers tells where each pixel was taken from."""
        t2_transform = Affine(0.2, 0, 0, 0, -0.2, 65)  # over 30 degrees, where meridians converge
        cols, rows = np.meshgrid(np.arange(150) + 0.5, np.arange(125) + 0.5)
        t1_transform = Affine(8000, 0, 3_600_000, 0, -8000, 4_000_000)
        a = write_tif(
            tmp_path / "a.tif",
            np.zeros((2, 200, 200), np.float32),
            transform=t1_transform,
            crs="EPSG:3035",
        )
        b = write_tif(
            tmp_path / "b.tif",
            np.stack([cols, rows]).astype(np.float32),
            transform=t2_transform,
            crs="EPSG:4326",
        )
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        assert pair.shape_hw == (200, 200)
        to_degrees = Transformer.from_crs("EPSG:3035", "EPSG:4326", always_xy=True)
        exact = apply(~t2_transform, *to_degrees.transform(*centres(pair.grid)))
        assert valid.mean() > 0.9
        inner = binary_erosion(valid, np.ones((5, 5)))
        assert np.abs(image[1] - np.stack(exact))[:, inner].max() < 0.01

    def test_no_half_pixel_shift_between_two_crs(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        # a shift of 0.05 pixels would show on this slope of 20 per pixel
        transform, width, height = calculate_default_transform(
            "EPSG:32633", "EPSG:3857", WIDTH, HEIGHT, 500_000, 4_999_600, 500_600, 5_000_000
        )

        def slope(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
            return 2 * (x - 500_000) - 2 * (y - 5_000_000)

        a = write_tif(tmp_path / "a.tif", painted(slope, (HEIGHT, WIDTH), UTM))
        b = write_tif(
            tmp_path / "b.tif",
            painted(slope, (height, width), transform, ("EPSG:3857", "EPSG:32633")),
            transform=transform,
            crs="EPSG:3857",
        )
        image, valid = whole(ScenePair.open(a, b))
        difference = (image[1] - image[0])[0, 2:-2, 2:-2]
        assert valid[2:-2, 2:-2].all()
        assert np.abs(difference).max() < 0.5

    @pytest.mark.parametrize(
        "linear",
        [
            Affine.rotation(33),
            Affine.rotation(-120),
            Affine.scale(1, -1),
            Affine.scale(-1, 1),
            compose(Affine.rotation(20), Affine.shear(10, 5)),
        ],
    )
    def test_rotated_and_flipped_transforms(
        self, tmp_path: Path, write_tif: Callable[..., Path], linear: Affine
    ) -> None:
        def wave(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
            return 100 + 50 * np.sin((x - 5e5) / 90) * np.cos((y - 5e6) / 110)

        # turned about the middle of the scene, and large enough to cover it
        t2_transform = compose(moved(30, 20), compose(linear, Affine.translation(-50, -50)))
        a = write_tif(tmp_path / "a.tif", painted(wave, (HEIGHT, WIDTH), UTM))
        b = write_tif(
            tmp_path / "b.tif", painted(wave, (100, 100), t2_transform), transform=t2_transform
        )
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        assert pair.shape_hw == (HEIGHT, WIDTH)
        assert valid.all()
        assert np.abs(image[1] - image[0]).max() < 1.5

    def test_outside_a_rotated_footprint_nothing_is_valid(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        t2_transform = compose(
            moved(30, 20), compose(Affine.rotation(45), Affine.translation(-14, -14))
        )
        a = write_tif(tmp_path / "a.tif", noise((1, HEIGHT, WIDTH)))
        b = write_tif(tmp_path / "b.tif", noise((1, 28, 28)), transform=t2_transform)
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        x, y = centres(pair.grid)
        u, v = apply(~t2_transform, x, y)
        np.testing.assert_array_equal(valid, (u > 0) & (u < 28) & (v > 0) & (v < 28))
        assert (image[:, :, ~valid] == 0).all()

    def test_partial_overlap_keeps_the_intersection(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise(seed=1))
        b = write_tif(tmp_path / "b.tif", noise(seed=2), transform=moved(40.5, 25.5))
        pair = ScenePair.open(a, b)
        assert pair.shape_hw == (15, 20)
        assert whole(pair)[1].all()

    @settings(max_examples=8, deadline=None)
    @given(st.integers(5, 64), st.integers(0, 9))
    def test_warped_tiles_equal_the_warped_whole_to_the_bit(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        write_tif: Callable[..., Path],
        tile_size: int,
        halo: int,
    ) -> None:
        folder = tmp_path_factory.mktemp("warp")
        a = write_tif(folder / "a.tif", noise((2, 90, 150), np.uint16, seed=1))
        transform, width, height = calculate_default_transform(
            "EPSG:32633", "EPSG:3857", 150, 90, 500_000, 4_999_100, 501_500, 5_000_000
        )
        b = write_tif(
            folder / "b.tif",
            noise((2, height, width), np.float32, seed=2),
            transform=transform,
            crs="EPSG:3857",
        )
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        close_handles()
        tiles = plan_tiles(pair.shape_hw, tile_size, halo)
        np.random.default_rng(0).shuffle(tiles)
        for tile in tiles:
            part, part_valid = pair.read(tile.read)
            box = tile.write
            at = slice(box.row, box.row + box.height), slice(box.col, box.col + box.width)
            np.testing.assert_array_equal(
                part[:, :, tile.inner[0], tile.inner[1]], image[:, :, at[0], at[1]]
            )
            np.testing.assert_array_equal(part_valid[tile.inner], valid[at])
        close_handles()

    def test_none_accepts_equal_grids_alone(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise(seed=1))
        assert ScenePair.open(a, a, align="none").shape_hw == (HEIGHT, WIDTH)
        shifted = write_tif(tmp_path / "b.tif", noise(seed=2), transform=moved(2.5, -1))
        with pytest.raises(GridMismatchError, match=r"column 2\.50, row -1\.00 of t1"):
            ScenePair.open(a, shifted, align="none")
        smaller = write_tif(tmp_path / "c.tif", noise((3, HEIGHT - 1, WIDTH)))
        with pytest.raises(GridMismatchError, match="60 x 39 px"):
            ScenePair.open(a, smaller, align="none")
        lonlat = write_tif(
            tmp_path / "d.tif",
            noise(),
            transform=Affine(1e-4, 0, 15, 0, -1e-4, 45.15),
            crs="EPSG:4326",
        )
        with pytest.raises(GridMismatchError, match="EPSG:4326"):
            ScenePair.open(a, lonlat, align="none")


class TestMismatches:
    def test_no_overlap_names_both_bounds(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise())
        b = write_tif(tmp_path / "b.tif", noise(), transform=moved(100, 0))
        with pytest.raises(GridMismatchError, match=r"\(500000, .*\(501000, .*EPSG:32633"):
            ScenePair.open(a, b)

    def test_a_crs_on_one_side_only(self, tmp_path: Path, write_tif: Callable[..., Path]) -> None:
        a = write_tif(tmp_path / "a.tif", noise())
        b = write_tif(tmp_path / "b.tif", noise(), crs=None)
        for pair in ((a, b), (b, a)):
            with pytest.raises(GridMismatchError, match=r"gdal_edit.py -a_srs EPSG:32633 .*b\.tif"):
                ScenePair.open(*pair)

    def test_pixels_alone_need_one_size(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise(seed=1), crs=None, transform=None)
        b = write_tif(tmp_path / "b.tif", noise(seed=2), crs=None, transform=None)
        image, valid = whole(ScenePair.open(a, b))
        np.testing.assert_array_equal(image[1], noise(seed=2))
        assert valid.all()
        c = write_tif(tmp_path / "c.tif", noise((3, 10, 60)), crs=None, transform=None)
        with pytest.raises(GridMismatchError, match="60 x 40 and 60 x 10"):
            ScenePair.open(a, c)

    def test_grids_without_a_crs_are_aligned_in_their_one_plane(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        def ramp(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
            return x / 10 - 3 * y / 10

        plane, other = Affine(10, 0, 0, 0, -10, 0), Affine(10, 0, 4, 0, -10, -7)
        a = write_tif(
            tmp_path / "a.tif", painted(ramp, (HEIGHT, WIDTH), plane), crs=None, transform=plane
        )
        b = write_tif(
            tmp_path / "b.tif", painted(ramp, (HEIGHT, WIDTH), other), crs=None, transform=other
        )
        pair = ScenePair.open(a, b)
        image, valid = whole(pair)
        assert pair.grid.crs is None
        assert valid[1:-1, 1:-1].all()
        np.testing.assert_allclose(image[1, 0, 1:-1, 1:-1], image[0, 0, 1:-1, 1:-1], atol=1e-3)

    def test_numbers_of_bands_that_differ(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a, b = write_tif(tmp_path / "a.tif", noise()), write_tif(tmp_path / "b.tif", noise()[:1])
        with pytest.raises(SceneError, match=r"3 in .*a\.tif and 1 in .*b\.tif; .*--bands"):
            ScenePair.open(a, b)
        assert ScenePair.open(a, b, bands=(1,)).n_bands == 1

    def test_band_numbers_that_do_not_exist(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise())
        with pytest.raises(SceneError, match=r"from 1 to 3 .* found 4, 9; correct --bands"):
            ScenePair.open(a, a, bands=(1, 4, 9))

    def test_seventeen_bands_are_too_many(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise((17, 4, 4)))
        with pytest.raises(SceneError, match="at most 16 bands, found 17"):
            ScenePair.open(a, a)
        assert ScenePair.open(a, a, bands=tuple(range(2, 18))).n_bands == 16


class TestValidity:
    def pair(
        self,
        tmp_path: Path,
        write_tif: Callable[..., Path],
        a: NDArray[Any],
        b: NDArray[Any],
        **profile: Any,
    ) -> ScenePair:
        return ScenePair.open(
            write_tif(tmp_path / "a.tif", a, **profile), write_tif(tmp_path / "b.tif", b, **profile)
        )

    @pytest.mark.parametrize(
        ("dtype", "nodata"),
        [
            ("uint8", 0),
            ("uint8", 255),
            ("int16", -32768),
            ("uint16", 65535),
            ("float32", -9999),
            ("float32", -3.4028234663852886e38),
            ("float64", -1.7976931348623157e308),
            ("float32", math.nan),
            ("float32", 0.1),
        ],
    )
    @pytest.mark.filterwarnings("ignore:overflow encountered in cast")
    def test_nodata_of_either_date_suffices(
        self, tmp_path: Path, write_tif: Callable[..., Path], dtype: str, nodata: float
    ) -> None:
        a, b = noise(dtype=dtype, seed=1), noise(dtype=dtype, seed=2)
        a[:, 3, 4] = nodata
        b[:, 5, 6] = nodata
        image, valid = whole(self.pair(tmp_path, write_tif, a, b, nodata=nodata))
        expected = np.ones((HEIGHT, WIDTH), bool)
        expected[3, 4] = expected[5, 6] = False
        np.testing.assert_array_equal(valid, expected)
        assert (image[:, :, ~valid] == 0).all()

    def test_one_band_at_nodata_is_a_dark_pixel_and_all_bands_are_none(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = noise()
        a[0, 3, 4] = 0
        a[:, 5, 6] = 0
        valid = whole(self.pair(tmp_path, write_tif, a, noise(), nodata=0))[1]
        assert valid[3, 4]
        assert not valid[5, 6]

    def test_one_band_at_nodata_stays_dark_when_resampled(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        b = np.full((2, HEIGHT, WIDTH), 100, np.uint8)
        b[0, 10:20, 10:20] = 0
        t1 = write_tif(tmp_path / "a.tif", noise((2, HEIGHT, WIDTH)), nodata=0)
        t2 = write_tif(tmp_path / "b.tif", b, nodata=0, transform=moved(0.5, 0.5))
        image, valid = whole(ScenePair.open(t1, t2))
        assert valid[1:, 1:].all()
        assert (image[1, 0, 11:20, 11:20] == 0).all()
        assert (image[1, 0, 10, 11:20] == 50).all()
        assert (image[1, 1, 1:, 1:] == 100).all()

    def test_nan_without_declared_nodata(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = noise(dtype=np.float32)
        a[1, 3, 4], a[0, 7, 7] = np.nan, np.inf
        image, valid = whole(self.pair(tmp_path, write_tif, a, noise(dtype=np.float32)))
        assert np.argwhere(~valid).tolist() == [[3, 4], [7, 7]]
        assert np.isfinite(image).all()

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_alpha_is_validity_and_no_band(
        self, tmp_path: Path, write_tif: Callable[..., Path], dtype: str
    ) -> None:
        a = noise((4, HEIGHT, WIDTH), dtype)
        a[3] = np.iinfo(dtype).max
        a[3, 3, 4], a[3, 5, 5] = 0, 1
        pair = self.pair(tmp_path, write_tif, a, a, alpha=True)
        assert pair.n_bands == 3
        valid = whole(pair)[1]
        assert np.argwhere(~valid).tolist() == [[3, 4]]

    def test_internal_mask(self, tmp_path: Path, write_tif: Callable[..., Path]) -> None:
        mask = np.ones((HEIGHT, WIDTH), bool)
        mask[:5, :7] = False
        pair = self.pair(tmp_path, write_tif, noise(seed=1), noise(seed=2), mask=mask)
        np.testing.assert_array_equal(whole(pair)[1], mask)

    def test_src_nodata_takes_the_place_of_what_the_files_say(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        a = noise()
        a[:, 3, 4], a[:, 5, 6] = 0, 99
        path = write_tif(tmp_path / "a.tif", a, nodata=0)
        valid = whole(ScenePair.open(path, path, src_nodata=99))[1]
        assert valid[3, 4]
        assert not valid[5, 6]

    @pytest.mark.parametrize("nodata", [-9999.0, 300.0, math.nan, 0.5])
    @pytest.mark.parametrize("shift", [0, 0.5])
    def test_a_nodata_value_the_type_cannot_hold_marks_nothing(
        self, tmp_path: Path, write_tif: Callable[..., Path], nodata: float, shift: float
    ) -> None:
        a = write_tif(tmp_path / "a.tif", noise(seed=1))
        b = write_tif(tmp_path / "b.tif", noise(seed=2), transform=moved(shift, shift))
        valid = whole(ScenePair.open(a, b, src_nodata=nodata))[1]
        assert valid[1:-1, 1:-1].all()

    @pytest.mark.parametrize("kind", ["nodata", "nan", "alpha", "mask", "src_nodata", "bare nan"])
    def test_validity_is_carried_through_resampling(
        self, tmp_path: Path, write_tif: Callable[..., Path], kind: str
    ) -> None:
        """A pixel is valid where t2 is; no value of an invalid pixel leaks into its neighbours."""
        b = np.full((2, HEIGHT, WIDTH), 100, np.float32)
        hole = np.zeros((HEIGHT, WIDTH), bool)
        hole[10:20, 12:30] = True
        profile: dict[str, Any] = {}
        options: dict[str, Any] = {}
        fill: float = 7000
        if kind == "nodata":
            profile = {"nodata": 7000}
        elif kind in ("nan", "bare nan"):
            profile, fill = {"nodata": math.nan if kind == "nan" else None}, np.nan
        elif kind == "alpha":
            b = np.concatenate([b, np.where(hole, 0, 255).astype(np.float32)[None]])
            profile = {"alpha": True}
        elif kind == "mask":
            profile = {"mask": ~hole}
        elif kind == "src_nodata":
            options = {"src_nodata": 7000}
        b[:2, hole] = fill
        t1 = write_tif(tmp_path / "a.tif", np.full((2, HEIGHT, WIDTH), 100, np.float32))
        t2 = write_tif(tmp_path / "b.tif", b, transform=moved(0.5, 0.5), **profile)
        pair = ScenePair.open(t1, t2, **options)
        image, valid = whole(pair)
        assert not valid[11:20, 13:30].any()
        assert valid[1:9, 1:].all()
        assert valid[22:, 1:].all()
        assert np.abs(image[1][:, valid] - 100).max() < 1e-3

    def test_a_mask_beside_src_nodata_no_longer_counts(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        mask = np.ones((HEIGHT, WIDTH), bool)
        mask[:5] = False
        a = noise()
        a[:, 20, 20] = 99
        t1 = write_tif(tmp_path / "a.tif", a, mask=mask)
        t2 = write_tif(tmp_path / "b.tif", a, mask=mask, transform=moved(0, 0.5))
        same = whole(ScenePair.open(t1, t1, src_nodata=99))[1]
        assert np.argwhere(~same).tolist() == [[20, 20]]
        resampled = whole(ScenePair.open(t1, t2, src_nodata=99))[1]
        assert resampled[1:15].all()

    @pytest.mark.parametrize("bands", [None, (1, 2)])
    @pytest.mark.parametrize("bent", [False, True])
    def test_a_mask_counts_beside_a_declared_nodata_however_it_is_read(
        self,
        tmp_path: Path,
        write_tif: Callable[..., Path],
        bands: tuple[int, ...] | None,
        bent: bool,
    ) -> None:
        """GDAL's rule, and that of pixels read as they are: the mask decides."""
        mask = np.ones((HEIGHT, WIDTH), bool)
        mask[10:20] = False
        a = noise()
        a[:, 25:30] = 0
        t1 = write_tif(tmp_path / "a.tif", a, mask=mask, nodata=0)
        t2 = write_tif(tmp_path / "b.tif", noise(seed=1), transform=moved(0, 0.5))
        native = whole(ScenePair.open(t1, t1, bands=bands))[1]
        np.testing.assert_array_equal(native, mask)
        pair = ScenePair.open(t2, t1, bands=bands)
        if bent:
            corners = ((col, row) for col in (0.0, WIDTH) for row in (0.0, HEIGHT))
            ties = tuple((col, row, *(UTM @ (col, row))) for col, row in corners)
            pair = pair.registered("t2", (0, 0), ties)
        valid = whole(pair)[1]
        assert not valid[10:19].any()
        assert valid[:8].all()
        assert valid[21:-1].all()

    def test_a_mask_counts_beside_a_band_tagged_alpha_that_is_data(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        mask = np.ones((HEIGHT, WIDTH), bool)
        mask[10:20] = False
        masked = write_tif(tmp_path / "a.tif", noise(), alpha=True)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(masked, "r+") as dataset:
            dataset.write_mask(mask)
        plain = write_tif(tmp_path / "b.tif", noise(seed=1), transform=moved(0, 0.5))
        valid = whole(ScenePair.open(plain, masked, bands=(1, 2, 3)))[1]
        assert not valid[10:19].any()
        assert valid[:8].all()
        assert valid[21:-1].all()

    @pytest.mark.parametrize("shift", [0, 0.5])
    def test_src_nodata_is_the_number_that_the_pixels_hold(
        self, tmp_path: Path, write_tif: Callable[..., Path], shift: float
    ) -> None:
        a = noise(dtype=np.float32)
        a[:, 10:20] = 0.1
        t1 = write_tif(tmp_path / "a.tif", noise(dtype=np.float32, seed=1))
        t2 = write_tif(tmp_path / "b.tif", a, transform=moved(0, shift))
        valid = whole(ScenePair.open(t1, t2, src_nodata=0.1))[1]
        assert not valid[11:20].any()
        assert valid[1:9].all()


class TestAreasOfInterest:
    def test_a_rectangle_crops(self, tmp_path: Path, write_tif: Callable[..., Path]) -> None:
        a = noise()
        path = write_tif(tmp_path / "a.tif", a)
        pair = ScenePair.open(path, path).crop(
            shapely.box(500_100, 4_999_800, 500_200, 4_999_950), mask=False
        )
        np.testing.assert_array_equal(whole(pair)[0][0], a[:, 5:20, 10:20])
        assert "cropped at column 10, row 5" in pair.alignment["t1"]

    def test_outside_polygons_nothing_is_valid(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        path = write_tif(tmp_path / "a.tif", noise())
        corners = [(500_100, 4_999_800), (500_304, 4_999_800), (500_100, 5_000_000)]
        triangle = shapely.Polygon(corners)
        pair = ScenePair.open(path, path).crop(triangle, mask=True)
        x, y = centres(pair.grid)
        np.testing.assert_array_equal(whole(pair)[1], shapely.contains_xy(triangle, x, y))
        part = pair.read(Box(5, 3, 7, 9))[1]
        np.testing.assert_array_equal(part, whole(pair)[1][5:12, 3:12])

    def test_areas_that_miss_the_scene(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        path = write_tif(tmp_path / "a.tif", noise())
        pair = ScenePair.open(path, path)
        with pytest.raises(GridMismatchError, match=r"touches the scene, found .*--bbox-crs"):
            pair.crop(shapely.box(0, 0, 1, 1), mask=False)
        with pytest.raises(GridMismatchError, match="an empty one"):
            pair.crop(shapely.Polygon(), mask=True)


class TestUnusableFiles:
    def refused(self, path: Path, match: str, error: type[SceneError] = SceneError) -> None:
        with pytest.raises(error, match=match) as caught:
            whole(ScenePair.open(path, path))
        assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.tif", "no file at .*none.tif")

    def test_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.tif"
        path.touch()
        self.refused(path, "t1, found an empty file at .*empty.tif")

    def test_text(self, tmp_path: Path) -> None:
        path = tmp_path / "text.tif"
        path.write_text("not a raster")
        self.refused(path, r"found text at .*text\.tif; check the file")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "found a folder at .*; name a file in it")

    @pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, write_tif: Callable[..., Path], share: float) -> None:
        path = write_tif(tmp_path / "a.tif", noise((3, 300, 300)), compress="deflate")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        self.refused(path, "damage or an unknown format in .*a.tif")

    def test_truncated_and_resampled(self, tmp_path: Path, write_tif: Callable[..., Path]) -> None:
        good = write_tif(tmp_path / "a.tif", noise((3, 300, 300)))
        bad = write_tif(
            tmp_path / "b.tif", noise((3, 300, 300)), compress="deflate", transform=moved(0.5, 0.5)
        )
        bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
        with pytest.raises(SceneError, match=r"t2, found damage .*b\.tif"):
            whole(ScenePair.open(good, bad))

    @pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
    def test_complex(self, tmp_path: Path, write_tif: Callable[..., Path], dtype: str) -> None:
        pixels = np.ones((1, 4, 4), np.complex64 if dtype == "complex_int16" else dtype)
        path = write_tif(tmp_path / "a.tif", pixels, dtype=dtype)
        self.refused(path, "real pixel values")

    def test_ground_control_points_alone(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        gcps = [
            GroundControlPoint(row=r, col=c, x=15 + c * 1e-4, y=45 - r * 1e-4)
            for r, c in ((0, 0), (0, 60), (40, 0), (40, 60))
        ]
        path = write_tif(tmp_path / "a.tif", noise(), gcps=gcps, transform=None, crs="EPSG:4326")
        self.refused(path, "only ground control points .*gdalwarp -tps")

    def test_rational_polynomials_alone(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        rpcs = RPC(
            height_off=0,
            height_scale=500,
            lat_off=45,
            lat_scale=0.1,
            line_off=20,
            line_scale=20,
            long_off=15,
            long_scale=0.1,
            samp_off=30,
            samp_scale=30,
            line_num_coeff=[0.0, 0, 1] + [0.0] * 17,
            line_den_coeff=[1.0] + [0.0] * 19,
            samp_num_coeff=[0.0, 1] + [0.0] * 18,
            samp_den_coeff=[1.0] + [0.0] * 19,
        )
        path = write_tif(tmp_path / "a.tif", noise(), rpcs=rpcs, transform=None, crs=None)
        self.refused(path, "only rational polynomial coefficients .*gdalwarp -rpc")

    @pytest.mark.parametrize(
        "transform",
        [
            Affine(10, 0, 5e5, 0, 0, 5e6),
            Affine(1, 1, 5e5, 1, 1, 5e6),
            Affine(np.nan, 0, 5e5, 0, -10, 5e6),
            Affine(10, 0, np.nan, 0, -10, 5e6),
            Affine(10, 0, 5e5, 0, -10, np.inf),
            Affine(1e300, 0, 5e5, 0, -1e300, 5e6),
            Affine(1e-300, 0, 5e5, 0, -1e-300, 5e6),
        ],
    )
    def test_degenerate_transforms(
        self, tmp_path: Path, write_tif: Callable[..., Path], transform: Affine
    ) -> None:
        path = write_tif(tmp_path / "a.tif", noise(), transform=transform)
        self.refused(path, "degenerate transform")


def test_band_lists() -> None:
    assert parse_bands("1, 2,10") == (1, 2, 10)
    for text in ("", "0", "1,,2", "-1", "1.5", "a", "1 2"):
        with pytest.raises(UsageError, match="band numbers such as 1,2,3"):
            parse_bands(text)


ODD_REASONS = "degenerate|control points|polynomial|real pixel|at most 16|damage"


@pytest.mark.realdata
def test_every_odd_file_works_against_itself_or_says_why(realdata: Path) -> None:
    worked = 0
    for path in sorted((realdata / "geotiff" / "odd").glob("*.tif")):
        try:
            pair = ScenePair.open(path, path)
            image, valid = pair.read(Box(0, 0, *(min(n, 600) for n in pair.shape_hw)))
        except RscdError as error:
            message = str(error)
            assert re.search(ODD_REASONS, message), (path, message)
        else:
            worked += 1
            assert np.isfinite(image).all(), path
            np.testing.assert_array_equal(image[0], image[1])
            with rasterio.open(path) as dataset:
                window = ((0, valid.shape[0]), (0, valid.shape[1]))
                raw = dataset.read(list(pair.t1.bands), window=window).astype(np.float32)
            np.testing.assert_array_equal(image[0][:, valid], raw[:, valid])
        finally:
            close_handles()
    assert worked >= 15


@pytest.mark.realdata
def test_naip_dates_meet_on_one_grid(realdata: Path) -> None:
    paths = sorted((realdata / "geotiff" / "naip").glob("*.tif"))
    assert len(paths) == 4
    for t1 in paths:
        for t2 in paths:
            pair = ScenePair.open(t1, t2)
            image, valid = pair.read(Box(0, 0, 200, 200))
            assert valid.mean() > 0.9, (t1.name, t2.name, pair.alignment)
            # one place at all dates: the images resemble each other
            grey = image.mean(axis=1)[:, valid]
            if t1 != t2:
                assert pair.shape_hw >= (1, 1)
            else:
                np.testing.assert_array_equal(grey[0], grey[1])
            close_handles()


@pytest.mark.realdata
def test_one_raster_in_two_crs_is_no_change(
    realdata: Path, tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    source = realdata / "geotiff" / "fotbcd" / "val_25_A.tif"
    with rasterio.open(source) as dataset:
        pixels = dataset.read()
        transform, width, height = calculate_default_transform(
            dataset.crs, "EPSG:4326", dataset.width, dataset.height, *dataset.bounds
        )
        warped = np.zeros((dataset.count, height, width), np.float32)
        reproject(
            pixels.astype(np.float32),
            warped,
            src_transform=dataset.transform,
            src_crs=dataset.crs,
            dst_transform=transform,
            dst_crs="EPSG:4326",
            resampling=Resampling.cubic,
            dst_nodata=np.nan,
            init_dest_nodata=True,
        )
    other = write_tif(
        tmp_path / "lonlat.tif", warped, transform=transform, crs="EPSG:4326", nodata=math.nan
    )
    image, valid = whole(ScenePair.open(source, other))
    assert valid.mean() > 0.98
    a, b = (date.mean(axis=0)[valid] for date in image)
    shifted_a, shifted_b = image[0].mean(axis=0)[:, 1:], image[0].mean(axis=0)[:, :-1]
    one_pixel_off = np.abs(shifted_a - shifted_b).mean()
    assert np.abs(a - b).mean() < 0.5 * one_pixel_off
    assert np.corrcoef(a, b)[0, 1] > 0.98


@settings(max_examples=25, deadline=None)
@example(shift=(1.5, 1.5), corner=(68, 432), crs="EPSG:32633")  # a box that ends with GDAL's blocks
@given(
    shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    corner=st.tuples(st.integers(0, 300), st.integers(0, 700))
    | st.just((68, 432)),  # at blocks' ends
    crs=st.sampled_from(["EPSG:32633", "EPSG:32632"]),
)
def test_what_lies_outside_the_pixels_looked_at_does_not_matter(
    shift: tuple[float, float], corner: tuple[int, int], crs: str
) -> None:
    values = noise((1, 400, 800))
    meta: dict[str, Any] = {"driver": "GTiff", "height": 400, "width": 800, "count": 1,
                            "dtype": "uint8", "crs": "EPSG:32633", "transform": UTM}  # fmt: skip
    with TemporaryDirectory() as folder:
        whole_file, cut_file = Path(folder) / "whole.tif", Path(folder) / "cut.tif"
        with rasterio.open(whole_file, "w", **meta) as out:
            out.write(values)
        source = inspect("t1", whole_file, None, None)
        if crs == "EPSG:32633":
            grid = GeoBox((400, 800), moved(*shift), crs)
        else:
            x, y = Transformer.from_crs(32633, crs, always_xy=True).transform(UTM.c, UTM.f)
            grid = GeoBox((400, 800), moved(*shift, Affine(10, 0, x, 0, -10, y)), crs)
        box = Box(*corner, 60, 80)
        part = looked_at(source, grid, box)
        assert part is not None
        alone = np.full_like(values, 255)
        alone[:, *part.slices] = values[:, *part.slices]
        with rasterio.open(cut_file, "w", **meta) as out:
            out.write(alone)
        found = [
            read_source(inspect("t1", path, None, None), None, grid, box)[0]
            for path in (whole_file, cut_file)
        ]
        close_handles()
    assert np.array_equal(*found)


def test_a_geocentric_crs_is_refused(write_tif: Callable[..., Path], tmp_path: Path) -> None:
    path = write_tif(tmp_path / "t.tif", noise(), crs="EPSG:4936", transform=UTM)
    with pytest.raises(SceneError, match=r"found the geocentric EPSG:4936; warp it to another"):
        ScenePair.open(path, path)
