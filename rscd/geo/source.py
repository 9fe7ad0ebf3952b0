"""Sources: metadata of one raster on disk, and how its pixels are read onto a grid."""

import logging
import os
import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rscd.base.errors import SceneError, UsageError
from rscd.base.types import BoolArray
from rscd.geo.bands import (
    Bands,
    Conversion,
    conversion,
    converted,
    has_own_mask,
    order_problem,
    pair_order,
    units_text,
    usable_pixels,
)
from rscd.geo.grid import gdal_crs, shape_hw
from rscd.geo.pictures import PICTURE
from rscd.geo.settings import beside, is_item, raster_border, unplaced
from rscd.geo.tiles import Box
from rscd.geo.vrt import VrtBand, vrt

MAX_BANDS = 16
MAX_HANDLES = 64
"""Most open datasets per thread; beyond that all are closed and reopened as needed."""
WARP_TOLERANCE_PX = 1e-3
"""Error tolerance of GDAL's approximate coordinate transformation, in source pixels."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One date of a scene on disk: metadata read by opening it once. Holds no file handle."""

    date: str
    """``t1`` or ``t2``, for messages."""
    path: str
    files: tuple[str, ...]
    """All files read through ``path``: the file, its sidecars, the sources of a VRT."""
    grid: GeoBox
    bands: tuple[int, ...]
    """1-based numbers of the bands read."""
    alpha: int | None
    """1-based number of the alpha band; None if there is none, or if it is not used as such because
    it was named among the bands or ``src_nodata`` was given."""
    nodata: float | None
    has_mask: bool
    """Whether the file has its own mask (internal or .msk)."""
    dtype: str
    """Type of the values after conversion by ``into``."""
    palette: bool
    """Whether values are indices into a colour table."""
    stamp: tuple[int, int] | None
    """Modification time in ns and size of the file, None for URLs; a replaced file is reopened."""
    metadata: Bands
    """Metadata of all bands of the file."""
    into: Conversion | None = None
    """What is done to stored values, band by band, to bring them into the units of t1."""
    date_tag: str | None = None
    """The file's TIFFTAG_DATETIME: when the image was made."""
    opens: str | None = None
    """What GDAL opens where ``path`` is a STAC item: the XML of a VRT."""
    gsd_m: float | None = None
    """Side of a pixel in metres as a STAC item says it."""

    @property
    def name(self) -> str:
        """What GDAL opens."""
        return self.opens or self.path

    @property
    def colours(self) -> tuple[str, ...]:
        """Colours of the bands read, empty where the file does not state them."""
        return self.metadata.colours_of(self.bands)


BandChoice = tuple[int, ...] | tuple[str, ...]
"""1-based numbers of bands, or what part of the spectrum they show: STAC's common names."""

Offset = tuple[int, int] | None
"""(columns, rows) from a grid to a source where pixels coincide; None: resampled."""


def parse_bands(text: str) -> tuple[int, ...]:
    """``"1,2,3"`` -> (1, 2, 3).

    Raises:
        UsageError: for anything but positive whole numbers separated by commas.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(
            f"expected band numbers such as 1,2,3, found {text!r}; the first band is 1"
        )
    return tuple(map(int, parts))


def parse_choice(text: str) -> BandChoice:
    """``"1,2,3"`` -> (1, 2, 3) and ``"red,nir"`` -> ("red", "nir").

    Raises:
        UsageError: for numbers among names, and see `parse_bands`.
    """
    parts = tuple(part.strip().lower() for part in text.split(","))
    if not all(re.fullmatch(r"[a-z][a-z0-9_.-]*", part) for part in parts):
        return parse_bands(text)
    if len(set(parts)) < len(parts):
        raise UsageError(f"expected every band once, found {text!r}")
    return parts


def inspect(date: str, path: str, bands: BandChoice | None, src_nodata: float | None) -> Source:
    """Open a raster, or the raster that a STAC item describes, once; record how to read it.

    Raises:
        SceneError: for a file that cannot be used as one date of a scene.
    """
    item = None
    if is_item(path):
        from rscd.geo.stac import item_raster  # other rasters are opened without pystac

        item, bands = item_raster(date, path, bands), None
    name = path if item is None else item.vrt
    with unplaced(), raster_border(date, path), beside(path), rasterio.open(name) as dataset:
        if dataset.count == 0:
            subdatasets = ", ".join(dataset.subdatasets[:3])
            raise SceneError(
                f"expected bands in {date} {path}, found none"
                + (f"; name one of its subdatasets: {subdatasets}" if subdatasets else "")
            )
        metadata = Bands.of(dataset)
        chosen = metadata.data if bands is None else _numbers(date, path, bands, metadata)
        alpha = None if src_nodata is not None or metadata.alpha in chosen else metadata.alpha
        _check_bands(date, path, dataset.count, chosen)
        stored = (dataset.dtypes[b - 1].replace("complex_int16", "complex64") for b in chosen)
        dtype = str(np.result_type(*map(np.dtype, stored)))
        if "complex" in dtype:
            raise SceneError(
                f"expected real pixel values in {date} {path}, found {dtype}; write amplitude or "
                "power first (gdal_translate with a derived band, or the SAR toolbox it came from)"
            )
        return Source(
            date=date,
            path=path,
            files=tuple(dataset.files) if item is None else item.files,
            grid=_grid_of(date, path, dataset),
            bands=chosen,
            alpha=alpha,
            nodata=dataset.nodatavals[chosen[0] - 1] if src_nodata is None else src_nodata,
            has_mask=src_nodata is None and has_own_mask(dataset),
            dtype=dtype,
            palette=any(dataset.colorinterp[b - 1] == ColorInterp.palette for b in chosen),
            stamp=stamp_of(path) if item is None else None,
            metadata=metadata,
            date_tag=dataset.tags().get("TIFFTAG_DATETIME"),
            opens=None if item is None else item.vrt,
            gsd_m=None if item is None else item.gsd_m,
        )


def comparable(t1: Source, t2: Source, *, named: bool) -> tuple[Source, Source]:
    """Two dates whose bands hold the same colours in the same units, as far as the files state.

    Unless the user named bands, they come in the order red, green, blue, then the others, where
    both files name these. Where the files declare different scales and offsets, values of t2 are
    converted to the units of t1. Both are logged, and so is anything the files leave open.

    Args:
        t1: the earlier date.
        t2: the later date, with as many bands.
        named: whether the user named the bands: then their order stays.
    """
    if not named:
        for source in (t1, t2):
            if source.alpha is not None:
                log.info(
                    "%s: band %d is tagged alpha and marks nodata where it is 0; if it is data "
                    "(near infrared), name it with --bands",
                    source.date,
                    source.alpha,
                )
        orders = pair_order(t1.metadata, t2.metadata)
        for source, bands in zip((t1, t2), orders, strict=True):
            if bands != source.bands:
                text = ",".join(map(str, bands))
                log.info("%s: red, green and blue first, as its bands %s", source.date, text)
        t1, t2 = (replace(s, bands=b) for s, b in zip((t1, t2), orders, strict=True))
    if problem := order_problem(t1.metadata, t2.metadata, (t1.bands, t2.bands)):
        log.warning("%s", problem)
    units = [[source.metadata.units[band - 1] for band in source.bands] for source in (t1, t2)]
    into = conversion(*units)
    if into is not None:
        # if only one file declares units, the other may merely have lost them
        level = logging.WARNING if "neither" in map(units_text, units) else logging.INFO
        log.log(
            level,
            "the dates declare different units: t1 %s, t2 %s; t2 is converted to those of t1 "
            "(correct a file that is wrong: gdal_edit.py -scale S -offset O)",
            *map(units_text, units),
        )
        t2 = replace(t2, into=into, dtype=t1.dtype)
    return t1, t2


def stamp_of(path: str) -> tuple[int, int] | None:
    """Modification time in ns and size of a file; None where there is none, such as for URLs."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _numbers(date: str, path: str, bands: BandChoice, metadata: Bands) -> tuple[int, ...]:
    """The numbers of bands that are named by number or colour.

    Raises:
        SceneError: not exactly one band is of a colour.
    """
    known = metadata.colours
    for name in bands:
        if isinstance(name, str) and known.count(name) != 1:
            said = ", ".join(colour or "?" for colour in known)
            raise SceneError(
                f"expected one band named {name} in {date} {path}, found {said}; give band numbers"
                ", or tag the bands (gdal_edit.py -colorinterp_N NAME)"
            )
    return tuple(known.index(b) + 1 if isinstance(b, str) else b for b in bands)


def _check_bands(date: str, path: str, count: int, chosen: tuple[int, ...]) -> None:
    wrong = [b for b in chosen if not 1 <= b <= count]
    if wrong:
        raise SceneError(
            f"expected band numbers from 1 to {count} for {date} {path}, found "
            f"{', '.join(map(str, wrong))}; correct --bands"
        )
    if len(chosen) > MAX_BANDS:
        raise SceneError(
            f"expected at most {MAX_BANDS} bands, found {len(chosen)} in {date} {path}; choose "
            "some with --bands"
        )


def _grid_of(date: str, path: str, dataset: Any) -> GeoBox:
    identity = dataset.transform.is_identity
    if identity and dataset.crs is None and (dataset.gcps[0] or dataset.rpcs is not None):
        kind = "ground control points" if dataset.gcps[0] else "rational polynomial coefficients"
        raise SceneError(
            f"expected a raster on a regular grid for {date}, found only {kind} in {path}; "
            f"rectify it first: gdalwarp {'-tps' if dataset.gcps[0] else '-rpc'} {path} out.tif"
        )
    values = (*dataset.transform[:6], dataset.transform.determinant)
    if dataset.transform.is_degenerate or not np.isfinite(values).all():
        raise SceneError(
            f"expected pixels with an area in {date} {path}, found a degenerate transform "
            f"{tuple(dataset.transform)[:6]}; repair its georeferencing (gdal_edit.py -a_ullr)"
        )
    crs = None if dataset.crs is None else CRS.from_wkt(dataset.crs.to_wkt())
    transform = PICTURE if identity and crs is None else dataset.transform
    return GeoBox((dataset.height, dataset.width), transform, crs)


class _Handles(threading.local):
    """Open datasets of this thread; GDAL handles must not be shared between threads."""

    def __init__(self) -> None:
        self.open: dict[Any, Any] = {}


_handles = _Handles()


def close_handles() -> None:
    """Close the datasets that this thread holds open; the next read reopens them."""
    for dataset in reversed(_handles.open.values()):
        dataset.close()
    _handles.open.clear()


# a forked process would share file positions with its parent
if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=close_handles)


_opening = threading.Lock()
"""Warning filters are global to the process; threads that change them must take turns."""


def _dataset(source: Source) -> Any:
    key = (source.name, source.stamp)
    if key not in _handles.open:
        if len(_handles.open) >= MAX_HANDLES:
            close_handles()
        with _opening, unplaced(), beside(source.path):
            _handles.open[key] = rasterio.open(source.name)
    return _handles.open[key]


def _warped(source: Source, grid: GeoBox) -> Any:
    key = (source, grid)
    if key not in _handles.open:
        dataset = _picked(source) if _needs_picking(source) else _dataset(source)
        options: dict[str, Any] = {"UNIFIED_SRC_NODATA": "YES"}
        if source.nodata is not None and source.alpha is None:
            options |= {"src_nodata": source.nodata}
        _handles.open[key] = warped(dataset, source, grid, Resampling.bilinear, **options)
    return _handles.open[key]


def warped(
    dataset: Any, source: Source, grid: GeoBox, resampling: Resampling, **options: Any
) -> WarpedVRT:
    """An open raster resampled onto a grid, with an alpha band as its last where it has none.

    Args:
        dataset: open, of ``source`` or of its bands alone.
        source: tells the grid and the alpha band.
        grid: the pixels wanted.
        resampling: how.
        **options: further ones of rasterio's `WarpedVRT`.
    """
    height, width = shape_hw(grid)
    if source.alpha is None:
        options |= {"add_alpha": True}
    if source.grid.affine != dataset.transform:
        # of a picture GDAL would count the rows upwards; labels without place lie on their image
        options |= {"src_transform": source.grid.affine}
    return WarpedVRT(
        dataset,
        src_crs=gdal_crs(source.grid),
        crs=gdal_crs(grid),
        transform=grid.affine,
        width=width,
        height=height,
        resampling=resampling,
        tolerance=WARP_TOLERANCE_PX,
        **options,
    )


def _needs_picking(source: Source) -> bool:
    """Whether bands that are not read would influence which pixels GDAL's warper masks.

    It honours any band tagged alpha, and treats a pixel as nodata where all bands of the file are.
    """
    if source.alpha is not None:
        return False
    others = set(source.bands) != set(source.metadata.data)
    return source.metadata.alpha is not None or (
        others and source.nodata is not None and not source.has_mask
    )


def _picked(source: Source) -> Any:
    """A dataset with only the bands read, without their colour interpretation."""
    key = (source, "picked")
    if key not in _handles.open:
        with unplaced():
            _handles.open[key] = rasterio.open(_vrt_of(_dataset(source), source))
    return _handles.open[key]


def _vrt_of(dataset: Any, source: Source) -> str:
    """XML of a VRT of the bands read; georeferencing comes from `Source.grid`."""
    path = str(Path(source.path).absolute()) if Path(source.path).exists() else dataset.files[0]
    bands = [VrtBand(source.opens or path, band, dataset.dtypes[band - 1]) for band in source.bands]
    return vrt(dataset.shape, source.grid.affine, bands)


def read_source(source: Source, offset: Offset, grid: GeoBox, box: Box) -> tuple[Any, BoolArray]:
    """Raw values of a box of a grid, and where they are valid.

    Args:
        source: one date.
        offset: how it is brought onto the grid.
        grid: of the pair.
        box: within the grid.

    Returns:
        (C,h,w) values in the file's type, or float32 after unit conversion; (h,w) bool.

    Raises:
        SceneError: if the file turns out to be damaged.
    """
    with raster_border(source.date, source.path):
        values, usable = _read(source, offset, grid, box)
    return converted(values, source.into), usable


def _read(source: Source, offset: Offset, grid: GeoBox, box: Box) -> tuple[Any, BoolArray]:
    if offset is None:
        dataset = _warped(source, grid)
        window = Window(box.col, box.row, box.width, box.height)
        bands = range(1, dataset.count) if _needs_picking(source) else source.bands
        values = dataset.read([*bands, source.alpha or dataset.count], window=window)
        return values[:-1], values[-1] != 0
    dataset = _dataset(source)
    window = Window(box.col + offset[0], box.row + offset[1], box.width, box.height)
    values = dataset.read(list(source.bands), window=window)
    usable = usable_pixels(
        dataset,
        values,
        alpha=source.alpha,
        nodata=source.nodata,
        own_mask=source.has_mask,
        window=window,
    )
    return values, np.ones(box.shape_hw, bool) if usable is None else usable
