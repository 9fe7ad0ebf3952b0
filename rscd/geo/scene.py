"""ScenePair: two lazy rasters on one grid."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from rscd.base.errors import GridMismatchError, SceneError
from rscd.base.types import Align, BoolArray, DateName, FloatArray, ShapeHW
from rscd.geo.grid import (
    apply,
    compose,
    crs_name,
    cut,
    grid_text,
    intersection,
    is_georeferenced,
    pixel_size_m,
    pixels_within,
    shape_hw,
    whole_pixel_offset,
)
from rscd.geo.measure import Ground, ground_of
from rscd.geo.pictures import is_picture
from rscd.geo.source import BandChoice, Offset, Source, Tie, comparable, inspect, read_source
from rscd.geo.tiles import Box, reflect

Move = tuple[float, float]
"""x and y, or columns and rows."""


class Reading(NamedTuple):
    """How a pair was opened, see `ScenePair.open`."""

    align: Align = "t1"
    bands: BandChoice | None = None
    src_nodata: float | None = None


_AS_USUAL = Reading()


@dataclass(frozen=True)
class ScenePair:
    """Two dates of one place on one pixel grid, read lazily.

    Construct with `ScenePair.open`. A value: immutable and picklable; file handles live per
    thread and open at the first read, so one pair serves a loop, threads and processes.
    """

    t1: Source
    t2: Source
    scene: GeoBox
    """The grid over the area both dates cover; resampling and tiling refer to it."""
    offset_t1: Offset
    """How ``t1`` is brought onto ``scene``."""
    offset_t2: Offset
    window: Box
    """The requested pixels of ``scene``; their surroundings can be read as well."""
    aoi: BaseGeometry | None = None
    """Area of interest in the grid's CRS; pixels whose centre lies outside are not valid."""
    gsd_m: float | None = None
    """Side of a pixel in metres as stated, for images without georeferencing; see `sized`."""
    move_t1: Move = (0.0, 0.0)
    """Where the content of ``t1`` lies, relative to where its file says: x and y in units of the
    grid's CRS; see `registered`."""
    move_t2: Move = (0.0, 0.0)
    """The same of ``t2``."""
    reading: Reading = _AS_USUAL
    """What was said when it was opened."""

    @property
    def places(self) -> tuple[tuple[Source, Offset, GeoBox], ...]:
        """How each date is read: from a source, with an offset, on a grid.

        The grid is ``scene`` as it lies in the coordinates of that date.
        """
        return (
            (self.t1, self.offset_t1, _moved(self.scene, self.move_t1)),
            (self.t2, self.offset_t2, _moved(self.scene, self.move_t2)),
        )

    @property
    def grid(self) -> GeoBox:
        """The grid of the result: ``window`` of ``scene``."""
        return cut(self.scene, self.window)

    @property
    def pixel_size_m(self) -> float | None:
        """Side of a pixel in metres at the middle of ``grid``; None where nothing tells it."""
        return pixel_size_m(self.grid, self.gsd_m)

    @property
    def ground(self) -> Ground:
        """How the pixels of ``grid`` lie on the ground."""
        return ground_of(self.grid, self.gsd_m)

    @property
    def whole(self) -> "ScenePair":
        """The pair over the whole area both dates cover, without an area of interest."""
        return replace(self, window=_whole(self.scene), aoi=None)

    @property
    def files(self) -> set[str]:
        """All files that either date is read from."""
        return {self.t1.path, self.t2.path, *self.t1.files, *self.t2.files}

    @classmethod
    def open(
        cls,
        t1: str | Path,
        t2: str | Path,
        *,
        align: Align = "t1",
        bands: BandChoice | None = None,
        src_nodata: float | None = None,
        gsd_m: float | None = None,
    ) -> "ScenePair":
        """Inspect two rasters and plan how to read them on one grid.

        Args:
            t1: the earlier date: any raster GDAL opens (path, VRT, ``https://``, ``s3://``,
                ``gs://``, ``az://``, ``/vsi...``), or a STAC item, see `rscd.geo.stac`.
            t2: the later date.
            align: the date whose grid the result uses; the other date is resampled (bilinear) onto
                it where its pixels do not coincide. ``none`` accepts only equal grids.
            bands: 1-based numbers or common names, the same for both dates; default all but alpha,
                red, green and blue first where both files say which they are.
            src_nodata: value that means "no data" in both files, instead of what they declare.
            gsd_m: see `sized`; None takes what STAC items say of images without georeferencing.

        Raises:
            UsageError: see `sized`.
            SceneError: a file that cannot be used; the message names it.
            GridMismatchError: no common area, a CRS on one side only, or ``align="none"`` with
                two grids.
        """
        first = inspect("t1", t1, bands, src_nodata)
        second = inspect("t2", t2, bands, src_nodata)
        if len(first.bands) != len(second.bands):
            raise SceneError(
                f"expected the same bands at both dates, found {len(first.bands)} in {t1} and "
                f"{len(second.bands)} in {t2}; choose common ones with --bands 1,2,3",
                fault="band-count",
            )
        for source in (first, second):
            if source.palette:
                raise SceneError(
                    f"expected measured values in {source.date} {source.path}, found numbers of a "
                    f"colour table; write the colours first: gdal_translate -expand rgb "
                    f"{source.path} out.tif",
                    fault="palette",
                )
        _check_comparable(first, second)
        first, second = comparable(first, second, named=bands is not None)
        anchor, other = (second, first) if align == "t2" else (first, second)
        if align == "none":
            _check_equal_grids(first, second)
        scene = intersection(anchor.grid, other.grid)
        offsets = whole_pixel_offset(scene, first.grid), whole_pixel_offset(scene, second.grid)
        if gsd_m is None and first.gsd_m == second.gsd_m and not is_georeferenced(scene):
            gsd_m = first.gsd_m
        reading = Reading(align, bands, src_nodata)
        return cls(first, second, scene, *offsets, _whole(scene), reading=reading).sized(gsd_m)

    def nudged(self, date: DateName, by_px: tuple[float, float]) -> "ScenePair":
        """The pair with the content of one date moved further.

        Args:
            date: which.
            by_px: columns to the left and rows upwards, in pixels of the grid.
        """
        source, move = (self.t1, self.move_t1) if date == "t1" else (self.t2, self.move_t2)
        cols, rows = self._move_px(move)
        return self.registered(date, (cols + by_px[0], rows + by_px[1]), source.ties)

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width) of the grid in pixels."""
        return self.window.shape_hw

    @property
    def n_bands(self) -> int:
        """Bands read per date."""
        return len(self.t1.bands)

    @property
    def alignment(self) -> dict[str, str]:
        """Description of how both dates were brought onto one grid."""
        return {
            "grid": grid_text(self.grid),
            "t1": _placement(self.offset_t1, self.t1, self.window, self._move_px(self.move_t1)),
            "t2": _placement(self.offset_t2, self.t2, self.window, self._move_px(self.move_t2)),
        }

    def _move_px(self, move: Move) -> Move:
        a, b, _, d, e, _ = (~self.scene.affine)[:6]
        return a * move[0] + b * move[1], d * move[0] + e * move[1]

    def sized(self, gsd_m: float | None) -> "ScenePair":
        """The pair with a stated pixel size, for images without georeferencing.

        Args:
            gsd_m: side of a pixel in metres; None where it is not known.

        Raises:
            UsageError: not above 0, or the images have a pixel size of their own.
        """
        if gsd_m is not None:
            pixel_size_m(self.scene, gsd_m)
        return replace(self, gsd_m=gsd_m)

    def resampled(self, grid: GeoBox) -> "ScenePair":
        """The whole pair on another grid; both dates are resampled from their files."""
        moves = self.move_t1, self.move_t2
        return ScenePair(
            self.t1, self.t2, grid, None, None, _whole(grid), None, None, *moves, self.reading
        )

    def registered(
        self, date: DateName, shift_px: tuple[float, float], ties: tuple[Tie, ...] = ()
    ) -> "ScenePair":
        """The pair with the content of one date moved, as it is read; the grid stays.

        Where that date no longer covers the grid, its pixels are not valid.

        Args:
            date: which is moved.
            shift_px: columns and rows by which its content lies to the right of and below that of
                the other date, in pixels of the grid.
            ties: what is left of a shift that is not the same everywhere, see `Source.ties`.
        """
        a, b, _, d, e, _ = self.scene.affine[:6]
        cols, rows = shift_px
        move = a * cols + b * rows, d * cols + e * rows
        if date == "t1":
            source = replace(self.t1, ties=ties)
            return replace(self, t1=source, offset_t1=None, move_t1=move)
        source = replace(self.t2, ties=ties)
        return replace(self, t2=source, offset_t2=None, move_t2=move)

    def crop(self, geometry: BaseGeometry, *, mask: bool) -> "ScenePair":
        """The pair over the bounding box of a geometry in the grid's CRS.

        Only the result is cropped: its surroundings can still be read (`context`), and each pixel
        is the same as in the whole scene.

        Args:
            geometry: area of interest.
            mask: also mark pixels outside the geometry itself as invalid.

        Raises:
            GridMismatchError: if the geometry does not touch the scene.
        """
        part = None
        if not geometry.is_empty:
            left, bottom, right, top = geometry.bounds
            cols, rows = apply(
                ~self.grid.affine,
                np.array([left, right, left, right]),
                np.array([bottom, bottom, top, top]),
            )
            bounds = (cols.min(), rows.min(), cols.max(), rows.max())
            part = pixels_within(self.shape_hw, bounds)
        if part is None:
            raise GridMismatchError(
                "expected an area of interest that touches the scene, found "
                f"{'an empty one' if geometry.is_empty else geometry.bounds} for a scene over "
                f"{tuple(self.grid.boundingbox.bbox)} ({crs_name(self.grid.crs)}); "
                "check its coordinates and --bbox-crs"
            )
        window = part.moved(self.window.row, self.window.col)
        return replace(self, window=window, aoi=geometry if mask else self.aoi)

    def read(self, box: Box) -> tuple[FloatArray, BoolArray]:
        """Raw values of a box of the grid, and which of its pixels are valid.

        Args:
            box: see `context`.

        Returns:
            image: see `context`; includes values outside the area of interest.
            valid: (h,w) bool, true where both dates can be used, inside grid and area.

        Raises:
            SceneError: if a file turns out to be damaged.
        """
        image, valid = self.context(box)
        valid &= self.inside(box)
        return image, valid

    def inside(self, box: Box) -> BoolArray:
        """(h,w) whether each pixel of a box lies in the grid and the area of interest."""
        inside = box.within(self.shape_hw)
        if self.aoi is not None and inside.any():
            place = box.moved(self.window.row, self.window.col)
            inside &= geometry_mask(
                [self.aoi],
                box.shape_hw,
                compose(self.scene.affine, Affine.translation(place.col, place.row)),
                invert=True,
            )
        return inside

    def context(self, box: Box) -> tuple[FloatArray, BoolArray]:
        """Raw values and validity of a box, regardless of the requested part of the scene.

        Args:
            box: in pixels of the grid; it may extend beyond the grid into the rest of the scene,
                and beyond the scene, which is then continued by reflection.

        Returns:
            image: (2,C,h,w) float32, t1 first, 0 where not valid.
            valid: (h,w) bool, true where both dates can be used; false beyond the scene.

        Raises:
            SceneError: if a file turns out to be damaged.
        """
        height, width = shape_hw(self.scene)
        box = box.moved(self.window.row, self.window.col)
        rows = reflect(box.row, box.row + box.height, height)
        cols = reflect(box.col, box.col + box.width, width)
        inside = Box(
            int(rows.min()),
            int(cols.min()),
            int(rows.max() - rows.min()) + 1,
            int(cols.max() - cols.min()) + 1,
        )
        image, valid = self._read_inside(inside)
        if inside == box:
            return image, valid
        rows -= inside.row
        cols -= inside.col
        image = np.ascontiguousarray(image[:, :, rows[:, None], cols])
        return image, valid[rows[:, None], cols] & box.within((height, width))

    def thumbnail(self, size_hw: ShapeHW) -> tuple[FloatArray, BoolArray]:
        """The requested part of the scene in fewer pixels, from overviews where there are any.

        Args:
            size_hw: rows and columns.

        Returns:
            image: (2,C,h,w) float32, as of `context`.
            valid: (h,w) bool, true where both dates can be used.

        Raises:
            SceneError: if a file turns out to be damaged.
        """
        return self._read_inside(self.window, size_hw)

    def _read_inside(
        self, box: Box, size_hw: ShapeHW | None = None
    ) -> tuple[FloatArray, BoolArray]:
        size_hw = size_hw or box.shape_hw
        image = np.empty((2, self.n_bands, *size_hw), np.float32)
        valid = np.ones(size_hw, bool)
        for date, (source, offset, grid) in enumerate(self.places):
            values, usable = read_source(source, offset, grid, box, size_hw)
            image[date] = values
            valid &= usable
        np.logical_and(valid, np.isfinite(image).all(axis=(0, 1)), out=valid)
        if not valid.all():
            image[:, :, ~valid] = 0
        return image, valid


def _whole(grid: GeoBox) -> Box:
    return Box(0, 0, *shape_hw(grid))


def _check_comparable(t1: Source, t2: Source) -> None:
    if (t1.grid.crs is None) != (t2.grid.crs is None):
        with_crs, without = (t2, t1) if t1.grid.crs is None else (t1, t2)
        raise GridMismatchError(
            f"expected a CRS in both files or in none, found {crs_name(with_crs.grid.crs)} in "
            f"{with_crs.path} and none in {without.path}; assign it: gdal_edit.py -a_srs "
            f"{crs_name(with_crs.grid.crs)} {without.path}",
            fault="missing-crs",
        )
    both_pixels = is_picture(t1.grid) and is_picture(t2.grid)
    if both_pixels and t1.grid.shape != t2.grid.shape:
        raise GridMismatchError(
            "expected two images of one size where there is no georeferencing, found "
            f"{t1.grid.shape[1]} x {t1.grid.shape[0]} and {t2.grid.shape[1]} x "
            f"{t2.grid.shape[0]} pixels; resize or crop one",
            fault="picture-sizes",
        )


def _check_equal_grids(t1: Source, t2: Source) -> None:
    if whole_pixel_offset(t1.grid, t2.grid) == (0, 0) and t1.grid.shape == t2.grid.shape:
        return
    shift = ""
    if t1.grid.crs == t2.grid.crs:
        corner = compose(~t1.grid.affine, t2.grid.affine)
        shift = f", its corner at column {corner.c:.2f}, row {corner.f:.2f} of t1"
    raise GridMismatchError(
        f"expected one grid with --align none, found t1 with {grid_text(t1.grid)} and t2 with "
        f"{grid_text(t2.grid)}{shift}; use --align t1 or --align t2",
        fault="two-grids",
    )


def _moved(grid: GeoBox, move: Move) -> GeoBox:
    if move == (0.0, 0.0):
        return grid
    return GeoBox(grid.shape, compose(Affine.translation(*move), grid.affine), grid.crs)


def _placement(offset: Offset, source: Source, window: Box, move_px: Move) -> str:
    """Description of how a window of the scene is read from a source."""
    if offset is None:
        cols, rows = move_px
        where = f", moved by ({-cols:.2f}, {-rows:.2f}) pixels" if any(move_px) else ""
        bent = " and bent" if source.ties else ""
        return f"resampled (bilinear) from {grid_text(source.grid)}{where}{bent}"
    col, row = offset[0] + window.col, offset[1] + window.row
    if Box(row, col, *window.shape_hw) == _whole(source.grid):
        return "read as it is"
    return f"cropped at column {col}, row {row}, not resampled"
