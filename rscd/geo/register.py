"""Registration: one date of a pair moved, or bent, onto the other, as it is read.

The shift is that of `rscd.geo.registration`. Where it is not the same everywhere, it is estimated
in each of many windows; windows that their neighbours contradict are left out, and a smooth field
goes through the others: a thin plate, as stiff as windows ask for that it does not see. The field
is fixed before a pixel of the result is read, so that no result depends on tiles.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pyproj import CRS
from scipy import ndimage

from rscd.base.errors import SceneError
from rscd.base.types import Align, DateName, Float64Array, Provenance, ShapeHW
from rscd.geo.grid import apply, transformer_between
from rscd.geo.registration import (
    REACH_PX,
    Look,
    Shift,
    estimate_shift,
    looks,
    sample_boxes,
    shift_text,
    surface_of,
    vertex,
)
from rscd.geo.scene import ScenePair
from rscd.geo.source import Tie
from rscd.geo.tiles import Box

if TYPE_CHECKING:
    from scipy.interpolate import RBFInterpolator

Register = Literal["off", "shift", "local"]
"""Whether one date is moved onto the other: not, by one shift, or by a smooth field of shifts."""

MODES: tuple[Register, ...] = ("off", "shift", "local")

LEAST_MOVE_PX = 0.1
"""Shifts below are left as they are: to resample costs more than they do."""
DECIMALS = 2
"""Of shifts in pixels that are applied: what is written down is what was done."""

LOCAL_SIDES_PX = (96, 256)
"""Least and greatest side of the windows of a field."""
LOCAL_PART = 5
"""Of the shorter side of a scene a window of a field is this part."""
LOCAL_PER_SIDE = 12
"""Most windows along each side."""
LOCAL_REACH_PX = 8
"""How far the shift of a window may differ from that of the whole scene."""
LOCAL_CLEAR = 6.0
"""Least height of the peak of one window, in standard deviations."""
LEAST_POINTS = 12
LEAST_SHARE = 0.3
"""Fraction of the windows that must show a clear shift."""
NEIGHBOURS = 8
OUTLIER_PX = 0.75
"""A window whose shift differs further from the median of its neighbours is left out..."""
OUTLIER_SPREADS = 4.0
"""...if that is also so many times the usual difference."""
STIFFNESS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the thin plate, of which the one is taken that foretells left-out windows best."""
FOLDS = 5
LATTICE = 9
"""Points per side at which the field is written down."""

SHARED_PX = 0.05
"""What all windows share biases one shift by this, usually: shadows that moved with the sun."""
SPREAD_FACTOR = 1.6
"""By so much the error of one shift, from place to place, exceeds the spread of its windows, within
which errors even out. Both numbers are those of the scenes from 600 on of
benchmarks/registration_doubt.py; documentation has the table of others."""

ONE_FITS_PX = 1.0
"""Where one shift is usually further off, it does not fit."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """A shift of t2 relative to t1 that varies smoothly over the scene."""

    shift: Shift
    """Of the whole scene."""
    cols: tuple[tuple[float, ...], ...]
    """Shift to the right at `LATTICE` x `LATTICE` points, row by row, from corner to corner."""
    rows: tuple[tuple[float, ...], ...]
    """The same, downwards."""
    windows: int
    """Number of windows with a clear shift."""
    error: float
    """Median distance in pixels of left-out windows from what the field says there."""
    doubt: tuple[tuple[float, ...], ...]
    """How uncertain the field is at the same points, in pixels, see `_doubt`."""

    @property
    def at(self) -> Float64Array:
        """(LATTICE,LATTICE,2) columns and rows."""
        return np.stack([np.array(self.cols), np.array(self.rows)], axis=2)

    @property
    def spread(self) -> float:
        """Largest distance in pixels of the field from its median."""
        away = self.at - np.median(self.at, axis=(0, 1))
        return float(np.hypot(away[..., 0], away[..., 1]).max())


def register(pair: ScenePair, mode: Register, align: Align) -> tuple[ScenePair, Provenance | None]:
    """Move one date onto the other; the grid and what is requested of it stay.

    Args:
        pair: two dates on one grid.
        mode: how.
        align: whose grid carries the result; the other date is moved.

    Returns:
        The pair, and what was done as plain data; None where nothing was to be done.

    Raises:
        SceneError: what both dates share does not tell how they lie.
    """
    if mode == "off":
        return pair, None
    date: DateName = "t1" if align == "t2" else "t2"
    sign = -1 if date == "t1" else 1
    shift = estimate_shift(pair)
    if shift is None:
        raise _unclear("no clear shift in its windows")
    if mode == "shift" and (apart := _error_of_one(shift, shift.cols, shift.rows)) > ONE_FITS_PX:
        log.warning(
            "one shift typically leaves the dates %.1f pixels apart: one is turned, stretched or "
            "bent, or roofs lean; --register local bends a date",
            apart,
        )
    field = estimate_field(pair, shift) if mode == "local" else None
    middle = (shift.cols, shift.rows) if field is None else np.median(field.at, axis=(0, 1))
    cols, rows = (sign * round(float(by), DECIMALS) + 0.0 for by in middle)
    measured = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(shift).items()}
    record: Provenance = {"register": mode, "moved": date, "cols": cols, "rows": rows}
    record["measured"] = measured
    if field is not None:
        record["field"] = {
            **{"cols": field.cols, "rows": field.rows},
            **{"doubt": field.doubt, "windows": field.windows, "error": round(field.error, 3)},
        }
        log.info(
            "registered: %s is moved by (%.2f, %.2f) pixels and bent by up to %.2f more",
            *(date, -cols, -rows, field.spread),
        )
        ties = _ties(pair, date, sign * field.at, (cols, rows))
        return pair.registered(date, (cols, rows), ties), record
    if np.hypot(cols, rows) < LEAST_MOVE_PX:
        log.info("registered as they are: t2 lies %s", shift_text(shift))
        return pair, record | {"cols": 0.0, "rows": 0.0}
    log.info("registered: %s is moved by (%.2f, %.2f) pixels", date, -cols, -rows)
    return pair.registered(date, (cols, rows)), record


def _unclear(found: str) -> SceneError:
    return SceneError(
        f"expected edges that both dates show, to register them, found {found}: too little is "
        "visible at both, or too much changed; register them with ground control points, or give "
        "--register off"
    )


def estimate_field(pair: ScenePair, shift: Shift) -> Field:
    """How the shift between the dates varies over the scene.

    Args:
        pair: on one grid; at most `LOCAL_PER_SIDE` x `LOCAL_PER_SIDE` windows of it are read.
        shift: of the whole scene.

    Raises:
        SceneError: too few windows show a clear shift.
    """
    height, width = pair.whole.shape_hw
    boxes = field_boxes((height, width))
    found = [window_shift(look, shift) for look in looks(pair, boxes)]
    clear = [place for place, one in enumerate(found) if one is not None]
    if len(clear) < max(LEAST_POINTS, LEAST_SHARE * len(boxes)):
        raise _unclear(f"a clear shift in {len(clear)} of {len(boxes)} windows")
    size = np.array([width, height], float)
    middles = np.array([(b.col + b.width / 2, b.row + b.height / 2) for b in boxes])
    points = middles[clear] / size
    shifts = np.array([one for one in found if one is not None])
    kept = _agreeing(points, shifts)
    points, shifts = points[kept], shifts[kept]
    if len(points) < LEAST_POINTS:
        raise _unclear(f"{len(points)} of {len(boxes)} windows that agree")
    stiffness, missed = _stiffness(points, shifts)
    side_points = np.linspace(0, 1, LATTICE)
    lattice = np.stack(np.meshgrid(side_points, side_points), axis=2).reshape(-1, 2)
    field = _plate(points, shifts, stiffness)(lattice)
    field = np.clip(field, shifts.min(axis=0), shifts.max(axis=0))  # beyond the outermost windows
    field = np.round(field, DECIMALS).reshape(LATTICE, LATTICE, 2) + 0.0
    cols, rows = (tuple(map(tuple, field[..., axis].tolist())) for axis in (0, 1))
    doubt = _doubt(lattice * size, points * size, missed, _spacing(middles))
    doubts = np.round(doubt, DECIMALS).reshape(LATTICE, LATTICE)
    error = float(np.median(missed))
    return Field(shift, cols, rows, len(points), error, tuple(map(tuple, doubts.tolist())))


def _spacing(middles: Float64Array) -> float:
    """Usual distance of a window from the next, in pixels."""
    from scipy.spatial import KDTree

    return float(np.median(KDTree(middles).query(middles, k=2)[0][:, 1]))


def _doubt(
    places: Float64Array, points: Float64Array, missed: Float64Array, spacing: float
) -> Float64Array:
    """How uncertain a field is.

    Args:
        places: (N,2) where.
        points: (M,2) middles of the windows that the field goes through.
        missed: (M,) distance in pixels of each from what the field says without it.
        spacing: usual distance of a window from the next.

    Returns:
        (N,) pixels: root mean square of what the field missed at the nearest windows, and in
        proportion more where the nearest is further away than windows usually are.
    """
    from scipy.spatial import KDTree

    away, near = KDTree(points).query(places, k=min(NEIGHBOURS, len(points)))
    spread = np.sqrt((missed[near] ** 2).mean(axis=1))
    found: Float64Array = spread * np.maximum(1, away[:, 0] / spacing)
    return found


def doubt_at(record: Provenance, shape_hw: ShapeHW, points: Float64Array) -> Float64Array:
    """How uncertain a registration is, in pixels of the grid.

    Args:
        record: what `register` did.
        shape_hw: of the whole scene.
        points: (N,2) columns and rows in it.

    Returns:
        (N,): of a field interpolated between its points; of one shift the same everywhere: what
        its windows share, how far they lie apart, and what is left where it is too small for a
        move.
    """
    if "field" not in record:
        return np.full(len(points), _doubt_of_shift(record))
    doubt = np.array(record["field"]["doubt"])
    places = points[:, ::-1].T / np.array(shape_hw)[:, None] * (LATTICE - 1)
    found: Float64Array = ndimage.map_coordinates(doubt, places, order=1, mode="nearest")
    return found


def _doubt_of_shift(record: Provenance) -> float:
    sign = -1 if record["moved"] == "t1" else 1
    return _error_of_one(Shift(**record["measured"]), sign * record["cols"], sign * record["rows"])


def _error_of_one(shift: Shift, cols: float = 0, rows: float = 0) -> float:
    """Usual distance in pixels of what the dates show, where one of them was moved everywhere.

    Args:
        shift: of t2 relative to t1 before.
        cols: by which t2 was taken from further to the right.
        rows: by which it was taken from further below.
    """
    spread = SPREAD_FACTOR * shift.spread
    return math.hypot(SHARED_PX, spread, shift.cols - cols, shift.rows - rows)


def usual_error(record: Provenance | None, shift: Shift | None) -> float | None:
    """How far what the dates show lies apart, usually, in pixels of the grid.

    Args:
        record: what `register` did; None: nothing.
        shift: between the dates as they are compared; None: not known.

    Returns:
        Root mean square over the scene of what `doubt_at` says; without registration the same of a
        shift that was left as it is; None if nothing is known.
    """
    if record is None:
        return None if shift is None else _error_of_one(shift)
    if "field" not in record:
        return _doubt_of_shift(record)
    return float(np.sqrt(np.square(record["field"]["doubt"]).mean()))


def field_boxes(shape_hw: ShapeHW) -> list[Box]:
    """The windows of a scene from which a field is estimated."""
    side = int(np.clip(min(shape_hw) // LOCAL_PART, *LOCAL_SIDES_PX))
    return sample_boxes(shape_hw, side, LOCAL_PER_SIDE)


def window_shift(window: Look, shift: Shift) -> tuple[float, float] | None:
    """Columns and rows of one window, near that of the scene; None if it is not clear."""
    cols, rows = round(shift.cols), round(shift.rows)
    cross = window.cross(cols, rows)
    surface = None if cross is None else surface_of(cross)
    if surface is None:
        return None
    middle = REACH_PX
    near = surface[tuple([slice(middle - LOCAL_REACH_PX, middle + LOCAL_REACH_PX + 1)] * 2)]
    row, col = np.unravel_index(np.argmax(near), near.shape)
    cols, rows = cols + int(col) - LOCAL_REACH_PX, rows + int(row) - LOCAL_REACH_PX
    if near[row, col] < LOCAL_CLEAR or max(abs(cols), abs(rows)) > REACH_PX:
        return None
    fine = window.cross(cols, rows)
    if fine is None:
        return None
    more = vertex(fine)
    return cols + more[0], rows + more[1]


def _agreeing(points: Float64Array, shifts: Float64Array) -> Float64Array:
    """(N,) which windows their neighbours do not contradict."""
    from scipy.spatial import KDTree  # with the plate's, 20 MB that few runs need

    _, near = KDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points)))
    away = shifts - np.median(shifts[near[:, 1:]], axis=1)
    distance = np.hypot(away[:, 0], away[:, 1])
    usual = max(float(np.median(distance)), 1e-3)
    kept: Float64Array = ~((distance > OUTLIER_PX) & (distance > OUTLIER_SPREADS * usual))
    return kept


def _plate(points: Float64Array, shifts: Float64Array, stiffness: float) -> "RBFInterpolator":
    from scipy.interpolate import RBFInterpolator

    return RBFInterpolator(points, shifts, kernel="thin_plate_spline", smoothing=stiffness)


def _stiffness(points: Float64Array, shifts: Float64Array) -> tuple[float, Float64Array]:
    """The stiffness that foretells left-out windows best, and by how many pixels it misses each."""
    fold = np.arange(len(points)) % FOLDS

    def missed(stiffness: float) -> Float64Array:
        away = np.empty_like(shifts)
        for part in range(FOLDS):
            told = _plate(points[fold != part], shifts[fold != part], stiffness)
            away[fold == part] = told(points[fold == part]) - shifts[fold == part]
        found: Float64Array = np.hypot(away[:, 0], away[:, 1])
        return found

    errors = [missed(stiffness) for stiffness in STIFFNESS]
    best = int(np.argmin([np.median(one) for one in errors]))
    return STIFFNESS[best], errors[best]


def _ties(
    pair: ScenePair, date: DateName, field: Float64Array, moved: Sequence[float]
) -> tuple[Tie, ...]:
    """Where the content of a date lies in its file, and where it is to lie.

    Args:
        pair: before it is registered.
        date: that is bent.
        field: (n,n,2) its shift relative to the other date, from corner to corner of the scene.
        moved: columns and rows by which the grid is moved that it is read on.
    """
    source = pair.t1 if date == "t1" else pair.t2
    height, width = pair.whole.shape_hw
    side = np.linspace(0, 1, len(field))
    cols, rows = (axis.ravel() for axis in np.meshgrid(side * width, side * height))

    def to_crs(x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        x, y = apply(pair.scene.affine, x, y)
        if pair.scene.crs == source.grid.crs:
            return x, y
        carry = transformer_between(CRS(pair.scene.crs), CRS(source.grid.crs))
        there: tuple[Float64Array, Float64Array] = carry.transform(x, y)
        return there

    shown = to_crs(cols + field[..., 0].ravel(), rows + field[..., 1].ravel())
    stored = apply(~source.grid.affine, *shown)
    wanted = to_crs(cols + moved[0], rows + moved[1])
    return tuple(zip(*(part.tolist() for part in (*stored, *wanted)), strict=True))
