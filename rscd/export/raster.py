"""Change masks and probabilities as cloud-optimised GeoTIFFs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.windows import Window

from rscd.base.errors import OutputError, UsageError
from rscd.base.files import require_as_written, write_text, writing
from rscd.base.redact import redacted_data
from rscd.base.types import CHANGE_RGB, IGNORE
from rscd.export.atomic import atomic_folder
from rscd.export.gdal import heeding_gdal
from rscd.export.readback import check_layout, largest_difference, same_rasters
from rscd.geo.changemap import ChangeMap, RawRaster
from rscd.geo.grid import stored_crs
from rscd.geo.settings import own_files, unplaced

CLASS_NAMES = {0: "no change", 1: "change", IGNORE: "no data"}
MASK_COLOURS = {0: (0, 0, 0, 0), 1: (*CHANGE_RGB, 255), IGNORE: (0, 0, 0, 0)}
"""Colour table: change as in the styles, everything else transparent."""

BLOCK_SIZE = 512

LOSSLESS = frozenset({"NONE", "DEFLATE", "LZW", "ZSTD", "LZMA"})
"""Compression methods that are lossless with any other options."""
OVERSHOOTING = frozenset({"CUBIC", "LANCZOS"})
"""Resampling methods whose results may exceed the range of their inputs."""


@dataclass(frozen=True)
class _Kind:
    """Differences between masks and probabilities."""

    description: str
    nodata: float
    defaults: Mapping[str, str]
    """Default creation options."""


WITH_PREDICTOR = ("DEFLATE", "LZW", "LZMA", "ZSTD")
"""Compressions of GDAL's COG driver that a predictor helps."""

_MASK = _Kind("change", IGNORE, {"OVERVIEW_RESAMPLING": "MODE", "WARP_RESAMPLING": "NEAREST"})
_PROBABILITY = _Kind(
    "change probability",
    float("nan"),
    {"OVERVIEW_RESAMPLING": "AVERAGE", "WARP_RESAMPLING": "BILINEAR", "PREDICTOR": "YES"},
)


def write_mask(change_map: ChangeMap, path: Path, options: Mapping[str, str], qml: str) -> None:
    """Write the change mask: uint8, 0 no change, 1 change, 255 nodata; colours, overviews, COG.

    Args:
        change_map: with its mask made (`ChangeMap.threshold_mask`).
        path: ends in .tif or .tiff.
        options: creation options of GDAL's COG driver, by name in upper case.
        qml: QGIS style, written beside it as ``<stem>.qml``.

    Raises:
        OutputError: if it cannot be written, or differs when read back.
        UsageError: for an option the driver does not support, or that would change the values.
    """
    _write_cog(change_map, change_map.mask, path, options, qml, _MASK)


def write_probability(
    change_map: ChangeMap, path: Path, options: Mapping[str, str], qml: str
) -> None:
    """Write the change probability: float32 in [0,1], nodata NaN; overviews, COG.

    Arguments and errors as for `write_mask`.
    """
    _write_cog(change_map, change_map.prob, path, options, qml, _PROBABILITY)


def _write_cog(
    change_map: ChangeMap,
    raster: RawRaster,
    path: Path,
    options: Mapping[str, str],
    qml: str,
    kind: _Kind,
) -> None:
    _check_options(options, kind)
    full = {"COMPRESS": "DEFLATE", "BLOCKSIZE": str(BLOCK_SIZE), **kind.defaults, **options}
    if full["COMPRESS"].upper() not in WITH_PREDICTOR and "PREDICTOR" not in options:
        full.pop("PREDICTOR", None)  # a newer GDAL warns of it
    if "RESAMPLING" in options:  # sets both, and would be ignored beside them
        full = {k: v for k, v in full.items() if k in options or not k.endswith("_RESAMPLING")}
    with atomic_folder(path) as folder:
        scratch, made = folder / "scratch", folder / path.name
        scratch.mkdir()
        plain = scratch / "plain.tif"
        profile = _profile(change_map, raster, kind)
        with _quiet(), heeding_gdal(), rasterio.open(plain, "w", **profile) as dataset:
            _describe(dataset, change_map, kind)
            for box, rows in raster.strips():
                dataset.write(rows, 1, window=Window(0, box.row, box.width, box.height))
        try:
            with writing(path):
                _copy(plain, made, full)
        except OutputError as error:
            _check_driver_takes(change_map, raster.dtype, full, kind)
            raise error from error.__cause__
        _check(plain, made, raster, full)
        write_text(folder / path.with_suffix(".qml").name, qml)


def _copy(plain: Path | str, made: Path | str, options: Mapping[str, str]) -> None:
    with _quiet(), heeding_gdal("--co (see gdal.org/drivers/raster/cog.html)"):
        copy(plain, made, driver="COG", **options)


@contextmanager
def _quiet() -> Iterator[None]:
    with unplaced(), own_files():
        yield


def _profile(change_map: ChangeMap, raster: RawRaster, kind: _Kind) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "height": raster.shape_hw[0],
        "width": raster.shape_hw[1],
        "count": 1,
        "dtype": raster.dtype,
        "nodata": kind.nodata,
        "crs": stored_crs(change_map.grid),
        "transform": change_map.grid.affine,
        "BIGTIFF": "IF_SAFER",
    }


def _describe(dataset: Any, change_map: ChangeMap, kind: _Kind) -> None:
    if kind is _MASK:
        dataset.write_colormap(1, MASK_COLOURS)
        dataset.update_tags(1, **{f"class_{value}": name for value, name in CLASS_NAMES.items()})
    dataset.set_band_description(1, kind.description)
    dataset.update_tags(rscd_provenance=json.dumps(redacted_data(change_map.provenance)))


def _check(plain: Path, made: Path, raster: RawRaster, options: Mapping[str, str]) -> None:
    """Read the result back and compare its pixels with the scene, as far as the options allow.

    Raises:
        OSError: if it differs when read back.
        UsageError: for options that change the values more than they state.
    """
    check_layout(made)
    with _quiet(), heeding_gdal():
        require_as_written(largest_difference(plain, raster.strips()) == 0, "pixels")
        with rasterio.open(plain) as before, rasterio.open(made) as after:
            require_as_written(_about(before) == _about(after), "tags, colours and nodata")
            one, other = ((d.shape, tuple(d.transform), d.crs) for d in (before, after))
            same_grid, reduced = one == other, after.overviews(1)
        if reduced or not same_grid:  # no reference to compare with except a second copy
            again = plain.with_name("again.tif")
            copy(plain, again, driver="COG", **options)
            require_as_written(same_rasters(made, again), "pixels")
        if not same_grid:
            return
        difference = largest_difference(made, raster.strips())
    compression = options["COMPRESS"].upper()
    # of classes none; of probabilities what is asked for, rounded to float32 after the codec
    bound = float(options.get("MAX_Z_ERROR", 0.0)) if raster.dtype == "float32" else 0.0
    if compression in LOSSLESS:
        require_as_written(difference == 0, "pixels")
    elif difference > bound * (1 + 1e-4):
        raise UsageError(
            f"expected creation options that keep the values, found COMPRESS={compression} "
            f"changing them by up to {difference:g}; correct --co"
        )


def _about(dataset: Any) -> tuple[Any, ...]:
    colours = dataset.colormap(1) if dataset.dtypes == ("uint8",) else None
    return dataset.dtypes, str(dataset.nodata), dataset.tags(), dataset.tags(1), colours


def _check_options(options: Mapping[str, str], kind: _Kind) -> None:
    # GDAL divides by the number it parses from this text: 0 crashes the process
    text = options.get("BLOCKSIZE", str(BLOCK_SIZE))
    if not text.isdigit() or int(text) < 16 or int(text) % 16:
        raise UsageError(
            f"expected BLOCKSIZE as a multiple of 16, found: {text}; correct --co BLOCKSIZE"
        )
    for name in ("RESAMPLING", "WARP_RESAMPLING", "OVERVIEW_RESAMPLING"):
        way = options.get(name, "")
        if kind is _PROBABILITY and way.upper() in OVERSHOOTING:
            raise UsageError(
                f"expected a resampling method that keeps probabilities between 0 and 1, found: "
                f"{name}={way}; correct --co, for example {name}=BILINEAR"
            )


def _check_driver_takes(
    change_map: ChangeMap, dtype: str, options: Mapping[str, str], kind: _Kind
) -> None:
    """Check, in memory, whether the options are the reason for a failure of the driver.

    Raises:
        UsageError: if they are.
    """
    pixel = RawRaster(Path(), (1, 1), dtype)
    with MemoryFile(ext=".tif") as plain, MemoryFile(ext=".tif") as made:
        with _quiet(), plain.open(**_profile(change_map, pixel, kind)) as dataset:
            _describe(dataset, change_map, kind)
        try:
            with writing(Path(made.name)):
                _copy(plain.name, made.name, options)
        except OutputError as error:
            cause = " ".join(str(error.__cause__).replace(f"{made.name}: ", "").split())
            raise UsageError(
                f"expected creation options of GDAL's COG driver, found: {cause}; correct --co "
                "(see gdal.org/drivers/raster/cog.html)"
            ) from error
