"""Change masks and probabilities as cloud-optimised GeoTIFFs."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy
from rasterio.windows import Window

from rscd.errors import OutputError, UsageError
from rscd.export.atomic import atomic_folder
from rscd.geo.changemap import ChangeMap, RawRaster
from rscd.geo.grid import stored_crs
from rscd.geo.settings import own_files
from rscd.types import IGNORE

CLASS_NAMES = {0: "no change", 1: "change", IGNORE: "no data"}
MASK_COLOURS = {0: (0, 0, 0, 0), 1: (230, 25, 75, 255), IGNORE: (0, 0, 0, 0)}
"""Change in a red that stands out on imagery; everything else transparent."""

BLOCK_SIZE = 512


def write_mask(change_map: ChangeMap, path: Path, options: Mapping[str, str], qml: str) -> None:
    """Write the change mask: uint8, 0 no change, 1 change, 255 nodata; colours, overviews, COG.

    Args:
        change_map: with its mask made (`ChangeMap.threshold_mask`).
        path: ends in .tif or .tiff.
        options: creation options of GDAL's COG driver, by name.
        qml: QGIS style, written beside as ``<stem>.qml``.

    Raises:
        OutputError: when it cannot be written.
        UsageError: for an option the driver does not take.
    """
    _write_cog(
        change_map,
        change_map.mask,
        path,
        {"OVERVIEW_RESAMPLING": "MODE", **options},
        qml,
        nodata=IGNORE,
        description="change",
    )


def write_probability(
    change_map: ChangeMap, path: Path, options: Mapping[str, str], qml: str
) -> None:
    """Write the change probability: float32 in [0,1], nodata NaN; overviews, COG.

    Arguments and errors as for `write_mask`.
    """
    _write_cog(
        change_map,
        change_map.prob,
        path,
        {"OVERVIEW_RESAMPLING": "AVERAGE", "PREDICTOR": "YES", **options},
        qml,
        nodata=float("nan"),
        description="change probability",
    )


def _write_cog(
    change_map: ChangeMap,
    raster: RawRaster,
    path: Path,
    options: Mapping[str, str],
    qml: str,
    *,
    nodata: float,
    description: str,
) -> None:
    _check_block_size(options)
    with atomic_folder(path) as folder:
        plain = folder / "plain.tif"
        try:
            _write_plain(change_map, raster, plain, nodata, description)
            with warnings.catch_warnings(), own_files(), _heeding_option_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                copy(
                    plain,
                    folder / path.name,
                    driver="COG",
                    **{"COMPRESS": "DEFLATE", "BLOCKSIZE": str(BLOCK_SIZE), **options},
                )
        except RasterioError as error:
            cause = " ".join(str(error.__cause__ or error).split())
            raise OutputError(
                f"expected to write {path}, found: {cause}; check free space and permissions"
            ) from error
        plain.unlink()
        (folder / path.with_suffix(".qml").name).write_text(qml, encoding="utf-8")


def _write_plain(
    change_map: ChangeMap, raster: RawRaster, plain: Path, nodata: float, description: str
) -> None:
    height, width = raster.shape_hw
    grid = change_map.grid
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": raster.dtype,
        "nodata": nodata,
        "crs": stored_crs(grid),
        "transform": grid.affine,
        "BIGTIFF": "IF_SAFER",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(plain, "w", **profile) as dataset:
            if raster.dtype == "uint8":
                dataset.write_colormap(1, MASK_COLOURS)
                names = {f"class_{value}": name for value, name in CLASS_NAMES.items()}
                dataset.update_tags(1, **names)
            dataset.set_band_description(1, description)
            dataset.update_tags(rscd_provenance=json.dumps(change_map.provenance))
            for strip in raster.strips():
                rows = raster.read_rows(strip.row, strip.row + strip.height)
                window = Window(0, strip.row, width, strip.height)
                dataset.write(np.asarray(rows, raster.dtype), 1, window=window)


def _check_block_size(options: Mapping[str, str]) -> None:
    # GDAL divides by what it makes of this text, and takes the process along
    text = options.get("BLOCKSIZE", str(BLOCK_SIZE))
    if not text.isdigit() or int(text) < 16 or int(text) % 16:
        raise UsageError(
            f"expected BLOCKSIZE as a multiple of 16, found: {text}; correct --co BLOCKSIZE"
        )


class _OptionWarnings(logging.Handler):
    """Collects what GDAL says of creation options: it warns and goes on without them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        kind, _, text = record.getMessage().partition(" in ")
        if kind in ("CPLE_NotSupported", "CPLE_IllegalArg"):
            self.found.append(text)


@contextmanager
def _heeding_option_warnings() -> Iterator[None]:
    logger = logging.getLogger("rasterio._env")
    handler = _OptionWarnings()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if handler.found:
        raise UsageError(
            f"expected creation options of GDAL's COG driver, found: {handler.found[0]}; correct "
            "--co (see gdal.org/drivers/raster/cog.html)"
        )
