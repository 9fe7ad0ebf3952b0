"""Both dates in one raster: the bands of t1, then those of t2, on the grid of a pair.

Programs whose networks take one image read such a stack. A ``.vrt`` refers to the rasters, by
names that begin in its own folder where they are files; a ``.tif`` holds the pixels.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.shutil import copy
from rasterio.windows import Window

from rscd.base.errors import UsageError
from rscd.base.files import require_as_written, write_text
from rscd.base.place import gdal_name, is_file_name
from rscd.export.atomic import atomic_folder
from rscd.export.gdal import heeding_gdal
from rscd.export.readback import check_layout, checksum
from rscd.geo.grid import shape_hw, stored_crs
from rscd.geo.scene import ScenePair
from rscd.geo.settings import own_files, raster_border, unplaced
from rscd.geo.source import Offset, Source, close_handles, on_grid
from rscd.geo.tiles import Box
from rscd.geo.vrt import VrtBand, VrtMask, vrt

VRT, TIF = ".vrt", ".tif"
SUFFIXES = (VRT, TIF)
BLOCK = 512
PROBES = 3
"""Places along each side at which a VRT is compared with the pair."""

log = logging.getLogger(__name__)


def stack_files(path: Path, pair: ScenePair) -> list[Path]:
    """Files that `write_stack` writes, the stack itself last.

    Raises:
        UsageError: the suffix is not one of `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"expected a stack ending in {' or '.join(SUFFIXES)}, found {path}; change the suffix"
        )
    if path.suffix.lower() == TIF:
        return [path]
    moved = [source for source, offset, _ in pair.places if offset is None]
    return [*(_beside(path, source) for source in moved), path]


def write_stack(pair: ScenePair, path: Path) -> None:
    """Write both dates as one raster.

    A pixel holds data where both dates do. A ``.tif`` has 0 in all bands and a mask where they do
    not. In a ``.vrt`` the nodata values of the files stay, and a mask comes with them where a date
    has one of its own or is resampled.

    Args:
        pair: two dates on one grid, not cropped.
        path: ends in one of `SUFFIXES`. A date that is resampled for a ``.vrt`` is a VRT of its
            own, ``<stem>.t2.vrt``, beside it.

    Raises:
        UsageError: another suffix.
        SceneError: a raster turns out to be damaged.
        OutputError: it cannot be written, or differs from the pair when read back.
    """
    stack_files(path, pair)
    with atomic_folder(path) as folder, own_files(), unplaced():
        if path.suffix.lower() == TIF:
            _write_tif(pair, folder / path.name)
            return
        probe = folder / "probe"
        probe.mkdir()
        # once seen from where it is tried, once from where it will be
        for place, seen_from in ((probe, probe), (folder, path.parent)):
            for name, text in _vrts(pair, path, seen_from).items():
                write_text(place / name, text)
        with rasterio.open(probe / path.name) as dataset:
            for box in _probes(pair.shape_hw):
                require_as_written(_as_in_pair(dataset, pair, box), "pixels")


def _beside(path: Path, source: Source) -> Path:
    return path.with_name(f"{path.stem}.{source.date}{VRT}")


def _vrts(pair: ScenePair, path: Path, seen_from: Path) -> dict[str, str]:
    """XML by file name, the stack's last; names begin in a folder."""
    found: dict[str, str] = {}
    bands: list[VrtBand] = []
    masks: list[VrtMask] = []
    dtype = _dtype(pair)
    for source, offset, grid in pair.places:
        names = _band_names(source)
        if offset is None:
            name = _beside(path, source).name
            found[name], own, alpha = _resampled(source, grid, seen_from)
            where: tuple[str, bool, Box | None] = (name, True, None)
            masks.append(VrtMask(name, str(alpha), None, relative=True))
        else:
            own = source.bands
            window = Box(offset[1], offset[0], *shape_hw(grid))
            where = (*_seen_from(source.opens or source.path, seen_from), window)
            masks += _own_mask(source, offset, grid, seen_from)
        for place, number in enumerate(own):
            gain, bias = (1.0, 0.0) if source.into is None else source.into[place]
            bands.append(
                VrtBand(
                    where[0],
                    number,
                    dtype,
                    names[place],
                    source.colours[place] if source.date == "t1" else "",
                    nodata=_shown_nodata(source, gain, bias),
                    window=where[2],
                    relative=where[1],
                    gain=gain,
                    bias=bias,
                )
            )
    crs = stored_crs(pair.grid)
    wkt = None if crs is None else crs.to_wkt()
    found[path.name] = vrt(pair.shape_hw, pair.grid.affine, bands, wkt=wkt, masks=masks) + "\n"
    return found


def _shown_nodata(source: Source, gain: float, bias: float) -> float | None:
    """The nodata value of a source in the values that the stack shows."""
    if source.nodata is None or source.alpha is not None:
        return None
    if source.into is None:
        return source.nodata
    return float(np.float32(source.nodata * gain + bias))


def _own_mask(source: Source, offset: Offset, grid: GeoBox, seen_from: Path) -> list[VrtMask]:
    assert offset is not None
    window = Box(offset[1], offset[0], *shape_hw(grid))
    name, relative = _seen_from(source.opens or source.path, seen_from)
    if source.alpha is not None:
        return [VrtMask(name, str(source.alpha), window, relative)]
    return [VrtMask(name, window=window, relative=relative)] if source.has_mask else []


def _resampled(source: Source, grid: GeoBox, seen_from: Path) -> tuple[str, tuple[int, ...], int]:
    """XML of a source resampled onto a grid, the numbers of its bands, and of its alpha band."""
    try:
        with raster_border(source.date, source.path), TemporaryDirectory(prefix="rscd-") as room:
            dataset, bands, alpha = on_grid(source, grid)
            written = Path(room) / f"warped{VRT}"
            with heeding_gdal():
                copy(dataset, written, driver="VRT")
            tree = ElementTree.parse(written)
    finally:
        close_handles()
    for element in tree.iter("SourceDataset"):
        if (element.text or "").lstrip().startswith("<"):
            continue  # the XML of a VRT, in which paths are absolute
        name, relative = _seen_from(source.path, seen_from)
        element.text = name
        element.set("relativeToVRT", f"{relative:d}")
    return ElementTree.tostring(tree.getroot(), "unicode") + "\n", bands, alpha


def _seen_from(path: str, folder: Path) -> tuple[str, bool]:
    """A name by which GDAL finds a raster from a folder, and whether it begins there."""
    if path.lstrip().startswith("<") or not is_file_name(path):
        return gdal_name(path), False
    absolute = Path(path).absolute()
    if not absolute.exists():  # one of GDAL's names, as of a part of a file
        return path, False
    try:
        return Path(os.path.relpath(absolute, folder.absolute())).as_posix(), True
    except ValueError:  # another drive
        return str(absolute), False


def _dtype(pair: ScenePair) -> str:
    """The type of all bands: what is computed with has the precision of float32."""
    dtype = np.result_type(pair.t1.dtype, pair.t2.dtype)
    exact = dtype.kind in "iu" and dtype.itemsize <= 2
    converted = pair.t2.into is not None or pair.t1.into is not None
    return str(dtype) if exact and not converted else "float32"


def _band_names(source: Source) -> list[str]:
    return [
        f"{source.date} {colour or f'band {number}'}"
        for colour, number in zip(source.colours, source.bands, strict=True)
    ]


def _boxes(shape: tuple[int, int]) -> Iterator[Box]:
    height, width = shape
    for row in range(0, height, BLOCK):
        for col in range(0, width, BLOCK):
            yield Box(row, col, min(BLOCK, height - row), min(BLOCK, width - col))


def _probes(shape: tuple[int, int]) -> Iterator[Box]:
    """Small boxes spread over a grid."""
    side = 64
    spans = [
        sorted({round(i * max(0, size - side) / (PROBES - 1)) for i in range(PROBES)})
        for size in shape
    ]
    for row in spans[0]:
        for col in spans[1]:
            yield Box(row, col, min(side, shape[0] - row), min(side, shape[1] - col))


def _as_in_pair(dataset: Any, pair: ScenePair, box: Box) -> bool:
    """Whether a stack holds the values of the pair where both dates hold data."""
    image, valid = pair.context(box)
    window = Window(box.col, box.row, box.width, box.height)
    found = dataset.read(window=window)
    wanted = image.reshape(-1, *box.shape_hw).astype(found.dtype)
    return bool((found[:, valid] == wanted[:, valid]).all())


def _write_tif(pair: ScenePair, path: Path) -> None:
    scratch = path.parent / "scratch"
    scratch.mkdir()
    plain = scratch / "plain.tif"
    dtype = _dtype(pair)
    names = [name for source in (pair.t1, pair.t2) for name in _band_names(source)]
    profile = {
        "driver": "GTiff", "height": pair.shape_hw[0], "width": pair.shape_hw[1],
        "count": len(names), "dtype": dtype, "crs": stored_crs(pair.grid),
        "transform": pair.grid.affine, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "interleave": "band", "photometric": "minisblack", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    sums: list[tuple[Box, int]] = []
    with ExitStack() as open_:
        open_.enter_context(rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"))
        open_.enter_context(heeding_gdal())
        dataset = open_.enter_context(rasterio.open(plain, "w", **profile))
        dataset.descriptions = names
        for box in _boxes(pair.shape_hw):
            image, valid = pair.context(box)
            values = image.reshape(-1, *box.shape_hw).astype(dtype)
            window = Window(box.col, box.row, box.width, box.height)
            dataset.write(values, window=window)
            dataset.write_mask(valid, window=window)
            sums.append((box, checksum(values) ^ checksum(valid)))
    with heeding_gdal():
        copy(
            plain, path, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=BLOCK, BIGTIFF="IF_SAFER",
            OVERVIEW_RESAMPLING="AVERAGE",
        )  # fmt: skip
    check_layout(path)
    with rasterio.open(path) as made:
        for box, wanted in sums:
            window = Window(box.col, box.row, box.width, box.height)
            valid = made.dataset_mask(window=window) != 0
            found = checksum(made.read(window=window)) ^ checksum(valid)
            require_as_written(found == wanted, "pixels")
