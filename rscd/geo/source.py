"""Sources: metadata of one raster on disk, and how its pixels are read onto a grid."""

import logging
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rscd.base.errors import GridMismatchError, SceneError, UsageError
from rscd.base.place import gdal_name, is_remote, named
from rscd.base.types import BoolArray, ShapeHW
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
from rscd.geo.grid import apply, crs_name, cut, footprint_px, gdal_crs, pixels_within, shape_hw
from rscd.geo.pictures import PICTURE
from rscd.geo.remote import check_heedful, expect, look, persistently
from rscd.geo.settings import input_files, is_item, raster_border, unplaced
from rscd.geo.tiles import Box
from rscd.geo.vrt import VrtBand, VrtMask, bent_vrt, vrt

MAX_BANDS = 16
MAX_HANDLES = 64
"""Most open datasets per thread; beyond that all are closed and reopened as needed."""
WARP_TOLERANCE_PX = 1e-3
"""Error tolerance of GDAL's approximate coordinate transformation, in source pixels."""
BEND_TOLERANCE_PX = 0.01
"""The same where it is bent, which costs far more."""
WARP_BLOCK_HW = (128, 512)
"""Rows and columns of the blocks in which GDAL resamples."""
WARP_MARGIN_PX = 2
"""Pixels around a box that resampling may look at as well."""
MOST_FETCHED = 64_000_000
"""Values; of more at once the box of a source that is fetched before it is resampled is not."""

log = logging.getLogger(__name__)

Tie = tuple[float, float, float, float]
"""Column and row in a file, x and y in its CRS."""


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
    stamp: tuple[int, int] | str | None
    """Modification time in ns and size of the file, or its version where it is remote (see
    `rscd.geo.remote.Version`); a replaced file is reopened."""
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
    ties: tuple[Tie, ...] = ()
    """Points where its content lies elsewhere than ``grid`` says, between which it is bent as a
    thin plate is; none: nowhere."""
    kept: object = field(default=None, repr=False, compare=False)
    """What must live as long as this does: the owner of a temporary file."""

    @property
    def name(self) -> str:
        """What GDAL opens."""
        return self.opens or gdal_name(self.path)

    @property
    def colours(self) -> tuple[str, ...]:
        """Colours of the bands read, empty where the file does not state them."""
        return self.metadata.colours_of(self.bands)

    @property
    def remote(self) -> str | None:
        """A file that is read over a network, if any is."""
        return next(filter(is_remote, (self.path, *self.files)), None)


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


def inspect(
    date: str, path: str | Path, bands: BandChoice | None, src_nodata: float | None
) -> Source:
    """Open a raster, or the raster that a STAC item describes, once; record how to read it.

    Args:
        date: name of the raster in messages.
        path: file, address (``https://``, ``s3://``, ``gs://``, ``az://``) or GDAL's own name.
        bands: 1-based numbers; None: all but alpha.
        src_nodata: instead of what the file declares.

    Raises:
        SceneError: for a file that cannot be used as one date of a scene.
    """
    path, item = named(path), None
    if is_item(path):
        from rscd.geo.stac import item_raster  # other rasters are opened without pystac

        item, bands = item_raster(date, path, bands), None
    stamp = stamp_of(path) if item is None else None
    name = path if item is None else item.vrt
    with unplaced(), raster_border(date, path), open_input(name, stamp) as dataset:
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
                "power first (gdal_translate with a derived band, or the SAR toolbox it came from)",
                fault="complex-values",
            )
        # to list what lies beside a remote file takes some fifty requests
        listed = not is_remote(path) or dataset.driver == "VRT"
        files = item.files if item is not None else tuple(dataset.files) if listed else (path,)
        check_heedful(date, path, dataset.driver, files)
        for file in files:
            if is_remote(file) and gdal_name(file) != gdal_name(path):
                expect(file, stamp_of(file))
        return Source(
            date=date,
            path=path,
            files=files,
            grid=_grid_of(date, path, dataset),
            bands=chosen,
            alpha=alpha,
            nodata=_nodata(date, path, dataset, chosen, alpha)
            if src_nodata is None
            else _as_stored(src_nodata, dtype),
            has_mask=src_nodata is None and has_own_mask(dataset),
            dtype=dtype,
            palette=any(dataset.colorinterp[b - 1] == ColorInterp.palette for b in chosen),
            stamp=stamp,
            metadata=metadata,
            date_tag=dataset.tags().get("TIFFTAG_DATETIME"),
            opens=None if item is None else item.vrt,
            gsd_m=None if item is None else item.gsd_m,
        )


@contextmanager
def open_input(path: str, stamp: object) -> Iterator[Any]:
    """An input as GDAL's dataset, wherever it is.

    Args:
        path: see `inspect`; or the XML of a VRT.
        stamp: of `stamp_of`; of a remote file, no other version is read.
    """
    if is_remote(path) and not path.startswith("<"):  # the XML of a VRT has no version
        expect(path, stamp)
    with input_files(path), rasterio.open(gdal_name(path)) as dataset:
        yield dataset


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
        log.warning("%s", problem, extra={"fault": "band-order"})
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
            extra={"fault": "units"},
        )
        t2 = replace(t2, into=into, dtype=t1.dtype)
    return t1, t2


def stamp_of(path: str) -> tuple[int, int] | str | None:
    """Modification time in ns and size of a file, or the version of a remote one; None without."""
    if is_remote(path):
        return look(path).stamp
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


def _nodata(
    date: str, path: str, dataset: Any, chosen: tuple[int, ...], alpha: int | None
) -> float | None:
    """The nodata value that the bands read declare; None where none does."""
    declared = [dataset.nodatavals[band - 1] for band in chosen]
    values = {str(value): value for value in declared if value is not None}  # NaN is not NaN
    if len(values) > 1 and alpha is None and not has_own_mask(dataset):
        raise SceneError(
            f"expected one nodata value in the bands of {date} {path}, found "
            f"{', '.join(f'{value:g}' for value in values.values())}; choose bands with --bands, "
            "or write them with one value (gdalwarp -dstnodata)"
        )
    return next(iter(values.values()), None)


def _as_stored(nodata: float, dtype: str) -> float:
    """A stated nodata value as pixels of a type hold it: 0.1 is another number in float32."""
    kind = np.dtype(dtype)
    if kind.kind != "f" or not math.isfinite(nodata) or abs(nodata) > np.finfo(kind).max:
        return nodata
    return float(kind.type(nodata))


def _grid_of(date: str, path: str, dataset: Any) -> GeoBox:
    identity = dataset.transform.is_identity
    if identity and dataset.crs is None and (dataset.gcps[0] or dataset.rpcs is not None):
        kind = "ground control points" if dataset.gcps[0] else "rational polynomial coefficients"
        raise SceneError(
            f"expected a raster on a regular grid for {date}, found only {kind} in {path}; "
            f"rectify it first: gdalwarp {'-tps' if dataset.gcps[0] else '-rpc'} {path} out.tif",
            fault="not-rectified",
        )
    values = (*dataset.transform[:6], dataset.transform.determinant)
    if dataset.transform.is_degenerate or not np.isfinite(values).all():
        raise SceneError(
            f"expected pixels with an area in {date} {path}, found a degenerate transform "
            f"{tuple(dataset.transform)[:6]}; repair its georeferencing (gdal_edit.py -a_ullr)",
            fault="degenerate-transform",
        )
    crs = None if dataset.crs is None else CRS.from_wkt(dataset.crs.to_wkt())
    if crs is not None and crs.is_geocentric:
        raise SceneError(
            f"expected a geographic or projected CRS in {date} {path}, found the geocentric "
            f"{crs_name(crs)}; warp it to another (gdalwarp -t_srs)"
        )
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
        if source.opens is None and is_remote(source.path):
            expect(source.path, source.stamp)
        with _opening, unplaced(), input_files(source.remote or source.path):
            _handles.open[key] = rasterio.open(source.name)
    return _handles.open[key]


def _warped(source: Source, grid: GeoBox) -> Any:
    key = (source, grid)
    if key not in _handles.open and source.ties:
        with unplaced():
            _handles.open[key] = rasterio.open(_bent(source, grid))
    if key not in _handles.open:
        dataset = _picked(source) if _needs_picking(source) else _dataset(source)
        options: dict[str, Any] = {"UNIFIED_SRC_NODATA": "YES"}
        if source.has_mask:  # beside a nodata value GDAL's warper would ignore it
            options |= {"src_nodata": None}
        elif source.nodata is not None and source.alpha is None:
            options |= {"src_nodata": source.nodata}
        _handles.open[key] = warped(dataset, source, grid, Resampling.bilinear, **options)
    return _handles.open[key]


def on_grid(source: Source, grid: GeoBox) -> tuple[Any, tuple[int, ...], int]:
    """A source resampled onto a grid.

    Returns:
        dataset: open, held by this thread until `close_handles`.
        bands: 1-based numbers in it of the bands that are read.
        alpha: number of the band that is 0 where there is no data.
    """
    dataset = _warped(source, grid)
    if _needs_picking(source) or source.ties:
        return dataset, tuple(range(1, len(source.bands) + 1)), dataset.count
    return dataset, source.bands, source.alpha or dataset.count


def _bent(source: Source, grid: GeoBox) -> str:
    """XML of a VRT in which a source lies on a grid, bent between its ties.

    GDAL's warper bends between points on the ground, but not through rasterio's `WarpedVRT`.
    """
    dataset = _picked(source) if _needs_picking(source) else _dataset(source)
    picked = _needs_picking(source)
    shown = list(range(1, len(source.bands) + 1)) if picked else list(source.bands)
    alpha = None if picked else source.alpha
    return bent_vrt(
        _vrt_of(_dataset(source), source) if picked else source.name,
        [(band, dataset.dtypes[band - 1]) for band in shown],
        shape_hw(grid),
        grid.affine,
        source.ties,
        wkts=None if source.grid.crs == grid.crs else (_wkt(source.grid), _wkt(grid)),
        nodata=source.nodata if alpha is None and not source.has_mask else None,
        alpha=alpha,
        block_hw=WARP_BLOCK_HW,
        tolerance_px=BEND_TOLERANCE_PX,
    )


def _wkt(grid: GeoBox) -> str:
    wkt: str = gdal_crs(grid).to_wkt()
    return wkt


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
    path = gdal_name(source.path)
    path = str(Path(path).absolute()) if Path(path).exists() else path
    bands = [VrtBand(source.opens or path, band, dataset.dtypes[band - 1]) for band in source.bands]
    masks = [VrtMask(source.opens or path)] if source.has_mask else []
    return vrt(dataset.shape, source.grid.affine, bands, masks=masks)


def read_source(
    source: Source, offset: Offset, grid: GeoBox, box: Box, size_hw: ShapeHW | None = None
) -> tuple[Any, BoolArray]:
    """Raw values of a box of a grid, and where they are valid.

    Args:
        source: one date.
        offset: how it is brought onto the grid.
        grid: of the pair.
        box: within the grid.
        size_hw: fewer rows and columns for the same box, from overviews where there are any.

    Returns:
        (C,h,w) values in the file's type, or float32 after unit conversion; (h,w) bool.

    Raises:
        SceneError: if the file turns out to be damaged; `RemoteError` if it could not be fetched.
    """
    remote = source.remote
    with raster_border(source.date, remote or source.path):
        if remote is None:
            values, usable = _read(source, offset, grid, box, size_hw)
        else:
            with input_files(remote):
                values, usable = persistently(
                    (source.path, *source.files),
                    partial(_read_remote, source, offset, grid, box, size_hw),
                    close_handles,
                )
    return converted(values, source.into), usable


def _read_remote(
    source: Source, offset: Offset, grid: GeoBox, box: Box, size_hw: ShapeHW | None
) -> tuple[Any, BoolArray]:
    """As `_read`, with datasets opened anew, of which GDAL reads no further than it is asked to.

    A dataset that stays open is taken to be read from front to back: what lies behind the wanted
    blocks is fetched as well, up to twice as much. What was fetched stays in memory either way.
    """
    try:
        if offset is None and size_hw in (None, box.shape_hw):
            _fetch(source, grid, box)
        return _read(source, offset, grid, box, size_hw)
    finally:
        close_handles()


def _fetch(source: Source, grid: GeoBox, box: Box) -> None:
    """Have GDAL fetch at once what it would piece by piece while it resamples a box of a grid."""
    part = looked_at(source, grid, box)
    if part is not None and part.height * part.width * len(source.bands) <= MOST_FETCHED:
        window = Window(part.col, part.row, part.width, part.height)
        _dataset(source).read(list(source.bands), window=window)


def looked_at(source: Source, grid: GeoBox, box: Box) -> Box | None:
    """The pixels of a source that resampling a box of a grid looks at; None where nothing tells.

    GDAL resamples whole blocks of the result, `WARP_BLOCK_HW`.
    """
    (top, bottom), (left, right) = (
        (start // step * step, min(-(-(start + length) // step) * step, size))
        for start, length, step, size in zip(
            box.corner, box.shape_hw, WARP_BLOCK_HW, shape_hw(grid), strict=True
        )
    )
    try:
        x0, y0, x1, y1 = footprint_px(
            cut(grid, Box(top, left, bottom - top, right - left)), source.grid
        )
    except GridMismatchError:
        return None
    more = WARP_MARGIN_PX + bend_px(source)
    return pixels_within(shape_hw(source.grid), (x0 - more, y0 - more, x1 + more, y1 + more))


def bend_px(source: Source) -> int:
    """Pixels by which the content of a source lies elsewhere than its grid says, at most."""
    if not source.ties:
        return 0
    col, row, x, y = np.array(source.ties).T
    there = apply(~source.grid.affine, x, y)
    return math.ceil(float(np.hypot(there[0] - col, there[1] - row).max()))


def _read(
    source: Source, offset: Offset, grid: GeoBox, box: Box, size_hw: ShapeHW | None
) -> tuple[Any, BoolArray]:
    size_hw = size_hw or box.shape_hw
    if offset is None:
        dataset, bands, alpha = on_grid(source, grid)
        window = Window(box.col, box.row, box.width, box.height)
        wanted = [*bands, alpha]
        values = dataset.read(wanted, window=window, out_shape=(len(wanted), *size_hw))
        return values[:-1], values[-1] != 0
    dataset = _dataset(source)
    window = Window(box.col + offset[0], box.row + offset[1], box.width, box.height)
    shape = (len(source.bands), *size_hw)
    values = dataset.read(list(source.bands), window=window, out_shape=shape)
    usable = usable_pixels(
        dataset,
        values,
        alpha=source.alpha,
        nodata=source.nodata,
        own_mask=source.has_mask,
        window=window,
    )
    return values, np.ones(size_hw, bool) if usable is None else usable
