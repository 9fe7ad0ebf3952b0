"""Folders of outside data; tests that need them skip with a reason when they are absent."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

ROOT = Path(__file__).parents[1]


def _folder(variable: str, default: str, what: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{what} not found at {folder}; set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    return _folder("RSCD_GOLDEN", "golden", "golden arrays")


@pytest.fixture(scope="session")
def realdata() -> Path:
    return _folder("RSCD_DATA", "data", "real image pairs")


@pytest.fixture(scope="session")
def write_tif() -> Callable[..., Path]:
    """``write_tif(path, pixels, **profile)``: a small GeoTIFF of (C,H,W) or (H,W) pixels.

    In UTM zone 33 at 10 m where nothing else is said. Also takes ``mask`` ((H,W) bool, stored in
    the file), ``alpha`` (the last band is one), ``gcps`` and ``rpcs``.
    """

    def write(
        path: Path,
        pixels: NDArray[Any],
        *,
        mask: NDArray[np.bool_] | None = None,
        alpha: bool = False,
        **profile: Any,
    ) -> Path:
        bands = pixels[None] if pixels.ndim == 2 else pixels
        count, height, width = bands.shape
        defaults = {"transform": Affine(10, 0, 500_000, 0, -10, 5_000_000), "crs": "EPSG:32633"}
        options = {"driver": "GTiff", "dtype": bands.dtype, **defaults, **profile}
        options = {name: value for name, value in options.items() if value is not None}
        with (
            warnings.catch_warnings(),
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        ):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", height=height, width=width, count=count, **options
            ) as dataset:
                if alpha:
                    kinds = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 2)
                    dataset.colorinterp = [*kinds, ColorInterp.alpha]
                dataset.write(bands)
                if mask is not None:
                    dataset.write_mask(mask)
        return path

    return write


def pytest_configure(config: pytest.Config) -> None:
    # both multiply affines with `*`, of which affine 3.1 announces that it will go some day
    for package in ("odc", "rasterio"):
        config.addinivalue_line(
            "filterwarnings", f"ignore:Use `@` matmul:PendingDeprecationWarning:{package}\\."
        )


@pytest.fixture(autouse=True)
def fresh_logger():
    """The command line sets the level of the package's logger for its process."""
    yield
    logger = logging.getLogger("rscd")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
