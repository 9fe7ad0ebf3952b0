"""Images in memory are read as the files they are equal to; what is no image is refused."""

import gc
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  the accessor .odc
import pytest
import rasterio
import xarray
from affine import Affine
from numpy.typing import DTypeLike, NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from rscd import open_pair
from rscd.base.errors import OutputError, UsageError
from rscd.base.scratch import Scratch
from rscd.geo import arrays
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles

PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)
ZONE = "EPSG:32633"
TURNED = Affine(8, 3, 500_000, 3, -8, 5_000_000)


def pixels(
    bands: int = 3, shape: tuple[int, int] = (12, 17), dtype: type[Any] = np.uint8
) -> NDArray[Any]:
    return np.random.default_rng(1).integers(1, 200, (bands, *shape)).astype(dtype)


def as_rioxarray(
    image: NDArray[Any], transform: Affine = PLACE, crs: str = ZONE, **attrs: Any
) -> xarray.DataArray:
    """The DataArray that rioxarray makes of a raster: middles of pixels, spatial_ref."""
    _, height, width = image.shape
    wkt = rasterio.CRS.from_user_input(crs).to_wkt()
    told = {"crs_wkt": wkt, "GeoTransform": " ".join(map(str, transform.to_gdal()))}
    coords = {
        "band": np.arange(1, len(image) + 1),
        "y": transform.f + transform.e * (np.arange(height) + 0.5),
        "x": transform.c + transform.a * (np.arange(width) + 0.5),
        "spatial_ref": xarray.DataArray(0, attrs=told),
    }
    return xarray.DataArray(image, dims=("band", "y", "x"), coords=coords, attrs=attrs)


def read(pair: ScenePair) -> tuple[NDArray[Any], NDArray[Any]]:
    image, valid = pair.read(pair.window)
    return image, valid


def same(one: ScenePair, other: ScenePair) -> None:
    assert one.grid == other.grid
    for a, b in zip(read(one), read(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.t1.dtype, one.t1.bands, one.t1.alpha) == (
        other.t1.dtype,
        other.t1.bands,
        other.t1.alpha,
    )


class TestReadAsFilesAre:
    @pytest.fixture
    def file(self, tmp_path: Path, write_tif: Callable[..., Path]) -> Path:
        return write_tif(tmp_path / "f.tif", pixels())

    def test_datasets(self, file: Path) -> None:
        with rasterio.open(file) as dataset:
            same(open_pair(dataset, dataset), open_pair(file, file))

    def test_a_dataset_of_a_file_is_read_from_the_file(self, file: Path) -> None:
        with rasterio.open(file) as dataset:
            pair = open_pair(dataset, file)
        assert (pair.t1.path, pair.t1.kept) == (str(file), None)

    def test_datasets_in_memory_outlive_their_memory(self, file: Path) -> None:
        with MemoryFile(file.read_bytes()) as memory, memory.open() as dataset:
            pair = open_pair(dataset, file)
        same(pair, open_pair(file, file))

    def test_warped_datasets(self, file: Path) -> None:
        with rasterio.open(file) as dataset, WarpedVRT(dataset, crs=ZONE) as warped:
            same(open_pair(warped, file), open_pair(file, file))

    def test_data_arrays(self, file: Path) -> None:
        array = as_rioxarray(pixels())
        same(open_pair(array, array), open_pair(file, file))
        same(open_pair(array.transpose("x", "y", "band"), file), open_pair(file, file))

    def test_data_arrays_of_rioxarray_itself(self, file: Path) -> None:
        rioxarray = pytest.importorskip("rioxarray")
        with rioxarray.open_rasterio(file) as array:
            same(open_pair(array, array), open_pair(file, file))

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_crs_that_rioxarray_alone_knows(self, file: Path, turned: bool) -> None:
        pytest.importorskip("rioxarray")
        array = as_rioxarray(pixels()).drop_vars("spatial_ref")
        array = array.transpose("x", "y", "band") if turned else array
        with pytest.warns(FutureWarning, match="write_crs"):
            array = array.rio.set_crs(ZONE)
        same(open_pair(array, array), open_pair(file, file))
        assert open_pair(array, array).grid.crs == ZONE

    def test_data_arrays_of_one_band_without_its_dimension(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        file = write_tif(tmp_path / "f.tif", pixels(1))
        same(open_pair(as_rioxarray(pixels(1))[0], file), open_pair(file, file))

    def test_part_of_a_data_array_lies_where_it_was(self, file: Path) -> None:
        part = as_rioxarray(pixels()).isel(y=slice(3, 9), x=slice(5, 15))
        pair = open_pair(part, file)
        assert pair.grid.affine == PLACE @ Affine.translation(5, 3)
        np.testing.assert_array_equal(*read(pair)[0])

    def test_turned_grids(self, tmp_path: Path, write_tif: Callable[..., Path]) -> None:
        file = write_tif(tmp_path / "f.tif", pixels(), transform=TURNED)
        coords = xr_coords(GeoBox((12, 17), TURNED, ZONE), always_yx=True)
        array = xarray.DataArray(pixels(), dims=("band", "y", "x"), coords=coords)
        same(open_pair(array, array), open_pair(file, file))

    @pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float16, bool, ">u2"])
    def test_arrays_of_any_type_have_no_band_taken_as_alpha(
        self, bands: int, dtype: DTypeLike
    ) -> None:
        image = pixels(bands, dtype=np.uint8).astype(dtype)
        image[-1, :4] = 0
        pair = open_pair(image, image, transform=PLACE, crs=ZONE)
        values, valid = read(pair)
        np.testing.assert_array_equal(values[0], image.astype(np.float32))
        assert valid.all()

    def test_arrays(self, file: Path) -> None:
        same(
            open_pair(pixels(), pixels(), transform=PLACE, crs=32633),
            open_pair(file, file),
        )

    def test_arrays_without_place_are_pictures(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        file = write_tif(tmp_path / "f.tif", pixels(), crs=None, transform=None)
        same(open_pair(pixels(), pixels()), open_pair(file, file))

    def test_pieces_are_written_one_after_the_other(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arrays, "STRIP_VALUES", 3 * 17 * 5)
        same(open_pair(as_rioxarray(pixels()), file), open_pair(file, file))

    def test_arrays_of_dask_are_computed_in_pieces(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dask = pytest.importorskip("dask.array")
        monkeypatch.setattr(arrays, "STRIP_VALUES", 3 * 17 * 4)
        computed = []

        def see(block: NDArray[Any]) -> NDArray[Any]:
            computed.append(block.shape)
            return block

        lazy = dask.from_array(pixels(), chunks=(3, 4, 17)).map_blocks(
            see, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
        )
        pair = open_pair(as_rioxarray(pixels()).copy(data=lazy), file)
        assert computed == [(3, 4, 17)] * 3
        same(pair, open_pair(file, file))


class TestNoData:
    def test_masks_of_numpy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrays, "STRIP_VALUES", 3 * 17 * 5)
        image = np.ma.masked_array(pixels(), np.zeros((3, 12, 17), bool))
        image[1, 2:9, 4] = np.ma.masked
        _, valid = read(open_pair(image, pixels(), transform=PLACE, crs=ZONE))
        np.testing.assert_array_equal(valid, ~np.ma.getmaskarray(image).any(axis=0))

    def test_nan(self) -> None:
        image = pixels(dtype=np.float32)
        image[:, 3, 4] = np.nan
        _, valid = read(open_pair(image, image, transform=PLACE, crs=ZONE))
        assert (~valid).nonzero()[0].tolist() == [3]

    @pytest.mark.parametrize("name", ["_FillValue", "nodata"])
    def test_fill_values_of_data_arrays(self, name: str) -> None:
        image = pixels()
        image[:, 3, 4] = 250
        said: dict[str, Any] = {name: 250}
        array = as_rioxarray(image, **said)
        _, valid = read(open_pair(array, array))
        assert np.argwhere(~valid).tolist() == [[3, 4]]
        said = {name: -9999}
        array = as_rioxarray(image, **said)
        assert read(open_pair(array, array))[1].all()

    def test_what_was_undone_on_reading_is_not_done_again(self) -> None:
        array = as_rioxarray(pixels(dtype=np.float32))
        array[:, 0, 0] = 7
        plain = array.copy()
        array.encoding = {"_FillValue": 7.0, "scale_factor": 2.0}
        values, valid = read(open_pair(plain, array))
        assert valid.all()
        np.testing.assert_array_equal(values[1], array.values)

    def test_units_differ(self, caplog: pytest.LogCaptureFixture) -> None:
        """Values of t2 come into the units of t1, as with files."""
        t1 = as_rioxarray(pixels(dtype=np.float32), scale_factor=1.0, add_offset=0.0)
        t2 = as_rioxarray(pixels(dtype=np.float32), scale_factor=2.0, add_offset=1.0)
        values, _ = read(open_pair(t1, t2))
        np.testing.assert_allclose(values[1], 2 * values[0] + 1)


class TestTemporaryFiles:
    def test_they_live_as_long_as_any_pair_made_from_them(self) -> None:
        pair = open_pair(pixels(), pixels(), transform=PLACE, crs=ZONE)
        assert isinstance(pair.t1.kept, Scratch)
        folder = pair.t1.kept.folder
        part = pair.nudged("t2", (1.0, 0.0))
        other = pickle.loads(pickle.dumps(pair))
        del pair
        gc.collect()
        assert read(part)[0].any()
        assert read(other)[0].any()
        close_handles()
        del part
        gc.collect()
        assert not folder.exists()

    def test_of_files_there_are_none(self, tmp_path: Path, write_tif: Callable[..., Path]) -> None:
        file = write_tif(tmp_path / "f.tif", pixels())
        assert open_pair(file, str(file)).t2.kept is None


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("image", "options", "line"),
        [
            (3, {}, "expected a path.* as t1, found int"),
            (None, {}, "found NoneType"),
            ([pixels()], {}, "found list"),
            (pixels()[0, 0], {}, r"found the shape \(17,\)"),
            (np.zeros((0, 4, 4)), {}, r"found the shape \(0, 4, 4\)"),
            (np.moveaxis(pixels(3, (20, 20)), 0, -1), {}, r"numpy.moveaxis\(image, -1, 0\)"),
            (np.full((3, 4, 4), "a"), {}, "expected numbers as pixel values of t1, found <U1"),
            (pixels(), {"transform": (1, 0, 0, 0, -1, 0)}, r"found tuple.*from_gdal"),
            (pixels(), {"transform": PLACE, "crs": "nowhere"}, "found 'nowhere'; correct crs"),
            (pixels(), {"crs": ZONE}, "expected a transform with crs, found none"),
            (as_rioxarray(pixels()), {"transform": PLACE}, "found coordinates in the DataArray"),
            (as_rioxarray(pixels()).rename(y="rows"), {}, "found band, rows, x"),
            (as_rioxarray(pixels()).drop_vars("x"), {}, "found none along x"),
            (as_rioxarray(pixels()).isel(x=[0, 1, 2, 5]), {}, "steps from 10 to 30"),
            (as_rioxarray(pixels()).expand_dims("time"), {}, r"found time, band, y, x.*isel"),
        ],
    )
    def test_with_one_line(self, image: Any, options: dict[str, Any], line: str) -> None:
        with pytest.raises(UsageError, match=line) as found:
            open_pair(image, image, **options)
        assert "\n" not in str(found.value)

    def test_closed_and_writable_datasets(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        file = write_tif(tmp_path / "f.tif", pixels())
        with rasterio.open(file) as dataset:
            pass
        with pytest.raises(UsageError, match=r"found a closed one of .*f\.tif; give its path"):
            open_pair(dataset, file)
        with (
            rasterio.open(file, "r+") as dataset,
            pytest.raises(UsageError, match="found one open for writing"),
        ):
            open_pair(dataset, file)

    def test_more_than_the_disk_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 12 * 17 * 4 - 1)
        )
        with pytest.raises(OutputError, match=r"MB of free disk .* set TMPDIR"):
            open_pair(pixels(dtype=np.float32), pixels(), transform=PLACE, crs=ZONE)
        open_pair(pixels(dtype=np.int16), pixels(), transform=PLACE, crs=ZONE)

    def test_a_grid_for_images_that_have_one(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        file = write_tif(tmp_path / "f.tif", pixels())
        with pytest.raises(UsageError, match="that have a grid of their own; drop them"):
            open_pair(file, file, transform=PLACE)
