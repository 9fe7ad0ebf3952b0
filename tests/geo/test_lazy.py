"""Rasters as arrays: any part is read alone, and is what the whole array has there."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  the accessor .odc
import pytest
import xarray
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from rscd.base.errors import SceneError
from rscd.geo import lazy
from rscd.geo.lazy import lazy_array

PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)
ZONE = "EPSG:32633"
TURNED = Affine(8, 3, 500_000, 3, -8, 5_000_000)
PIXELS = np.arange(20, dtype=np.uint8).reshape(4, 5)

INDEX = st.one_of(
    st.integers(-4, 3),
    st.builds(
        slice,
        st.none() | st.integers(-6, 6),
        st.none() | st.integers(-6, 6),
        st.none() | st.integers(1, 3),
    ),
    st.builds(slice, st.none(), st.none(), st.integers(-3, -1)),  # xarray trips over empty ones
    st.lists(st.integers(-4, 3), min_size=1, max_size=4),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> Path:
    return write_tif(tmp_path_factory.mktemp("lazy") / "f.tif", PIXELS)


class TestLazyArrays:
    @settings(max_examples=50)
    @given(rows=INDEX, cols=INDEX)
    def test_any_part_is_that_of_the_array(
        self, small: Path, rows: int | slice | list[Any], cols: int | slice | list[Any]
    ) -> None:
        grid = GeoBox((4, 5), PLACE, ZONE)
        whole = xarray.DataArray(PIXELS, dims=("y", "x"))
        found = lazy_array(small, grid, "mask")[{"y": rows, "x": cols}]
        np.testing.assert_array_equal(found.values, whole[{"y": rows, "x": cols}].values)

    def test_only_what_is_asked_for_is_read(
        self, small: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read_windows: list[tuple[int, ...]] = []

        def window(*values: int) -> Window:
            read_windows.append(values)
            return Window(*values)

        monkeypatch.setattr(lazy, "Window", window)
        array = lazy_array(small, GeoBox((4, 5), PLACE, ZONE), "mask")
        assert (array.shape, array.dtype) == ((4, 5), np.dtype(np.uint8))
        assert not read_windows
        array[1:3, 2].values  # noqa: B018
        assert read_windows == [(2, 1, 1, 2)]

    @pytest.mark.parametrize("transform", [PLACE, TURNED])
    def test_it_knows_its_grid(self, small: Path, transform: Affine) -> None:
        grid = GeoBox((4, 5), transform, ZONE)
        assert lazy_array(small, grid, "mask").odc.geobox == grid

    def test_a_file_that_was_replaced_or_deleted(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        grid = GeoBox((4, 5), PLACE, ZONE)
        file = write_tif(tmp_path / "f.tif", PIXELS[:3])
        with pytest.raises(SceneError, match=r"\(4, 5\) rows and columns .* found \(3, 5\)"):
            lazy_array(file, grid, "mask")
        file.unlink()
        with pytest.raises(SceneError, match=r"f\.tif"):
            lazy_array(file, grid, "mask")

    def test_what_is_kept_lives_as_long_as_any_part(self, small: Path) -> None:
        class Owner:
            pass

        owner = Owner()
        alive = weakref.ref(owner)
        part = lazy_array(small, GeoBox((4, 5), PLACE, ZONE), "mask", owner)[1:3]
        del owner
        assert alive() is not None
        del part
        gc.collect()
        assert alive() is None
