"""The values of a town. Lengths are metres, x to the right, y downwards, angles radians.

``dates`` states when an object exists: ``T1``, ``T2`` or ``BOTH`` (bits).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from rscd.base.types import ShapeHW

T1, T2, BOTH = 1, 2, 3

Points = NDArray[np.float64]
"""(N,2) world coordinates in metres."""

Kind = Literal["appeared", "vanished"]
Roofs = Literal["tile", "shingle", "slate", "mixed"]


class Area(NamedTuple):
    """A filled polygon on the ground."""

    points: Points
    material: str
    hue: float
    tone: float
    dates: int = BOTH
    layer: int = 0
    rows: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Direction, period and brightness amplitude of crop rows or mowing stripes; 0 = none."""


class Line(NamedTuple):
    """A road, path, wall or hedge of constant width."""

    points: Points
    width: float
    material: str
    hue: float
    tone: float
    dates: int = BOTH
    layer: int = 0
    height: float = 0.0


class Box(NamedTuple):
    """A rectangle in its own axes with a top surface: roof part, roof fitting, car or container.

    ``shape``: ``flat`` at height z; ``gable`` (ridge along the long axis u) and ``hip`` rise from
    the eaves at z with ``slope``; ``sunk`` is flat and cuts into whatever is there; ``decal``
    paints what is under it.
    """

    x: float
    y: float
    angle: float
    half_u: float
    half_v: float
    z: float
    slope: float
    shape: str
    material: str
    hue: float
    tone: float
    seam: float = 0.0
    """Period in metres of standing seams across u; 0 = none."""


class Tree(NamedTuple):
    """One crown. ``draw`` in [0,1) decides whether a nuisance fells or plants it."""

    x: float
    y: float
    radius: float
    height: float
    evergreen: bool
    hue: float
    dates: int
    draw: float


class ParkingSpot(NamedTuple):
    """A space for a car; ``draw`` decides whether it is redrawn for t2 (see ``cars_move``)."""

    x: float
    y: float
    angle: float
    taken: tuple[bool, bool]
    hues: tuple[float, float]
    slip: tuple[float, float]
    """Offset along the car's axis at each draw, metres."""
    draw: float
    dates: int


class Swap(NamedTuple):
    """Ground whose cover changes between the dates without any building, as a nuisance."""

    before: Area
    after: Area
    draw: float
    crop: bool
    """True: crop rotation (parameter ``crop_change``); False: ground works (``ground_change``)."""


@dataclass(frozen=True)
class Building:
    """A building: its roof parts and the dates at which it exists."""

    id: int
    kind: str
    boxes: tuple[Box, ...]
    footprint: Polygon
    """Outline of the roof seen from the nadir, metres."""
    height_m: float
    dates: int


@dataclass(frozen=True)
class Change:
    """A building that exists at one date only."""

    building_id: int
    kind: Kind
    polygon: Polygon


@dataclass(frozen=True)
class TownStyle:
    """Style of a place. ``TownStyle.draw`` gives an endless variety."""

    urban: float = 0.55
    """Fraction of built-up blocks, 0 countryside to 1 town."""
    dense: float = 0.15
    """Fraction of built-up blocks with apartments and shops."""
    industrial: float = 0.15
    """Fraction of built-up blocks with halls."""
    roofs: Roofs = "mixed"
    curvature: float = 0.35
    """0 straight streets, 1 strongly winding."""
    tree_cover: float = 0.5
    wood: float = 0.3
    """Fraction of open blocks that are woods."""
    field: float = 0.4
    """Fraction of open blocks that are farmed."""
    evergreen: float = 0.3
    """Fraction of trees that keep their leaves."""
    arid: float = 0.3
    """0 lush to 1 dry: soil shows through the grass."""
    lot_width_m: float = 19.0
    lot_depth_m: float = 33.0
    river: float = 0.15
    """Probability that a river crosses the plan."""
    clutter: float = 0.5
    """Sheds, containers, piles: objects below 14 square metres are not buildings."""
    growth: float | None = None
    """Fraction of changing blocks and lots that gain buildings; the others lose theirs. A new block
    still replaces a farm. None: 0.85 of blocks; 0.6 of lots, and 0.18 have their house replaced."""
    shrubs: float = 0.0
    """0 no shrubs on pasture, waste land and field margins to 1 ground dotted with them."""
    ponds: float = 0.0
    """Probability that such a block has a pond that may fill or dry out (``ground_change``)."""

    @staticmethod
    def draw(rng: np.random.Generator) -> "TownStyle":
        """A random style."""
        roofs: tuple[Roofs, ...] = get_args(Roofs)
        return TownStyle(
            urban=float(rng.beta(2.2, 1.6)),
            dense=float(rng.beta(1.2, 5)),
            industrial=float(rng.beta(1.2, 5)),
            roofs=roofs[int(rng.choice(4, p=(0.22, 0.36, 0.14, 0.28)))],
            curvature=float(rng.beta(1.5, 2)),
            tree_cover=float(rng.beta(1.6, 1.6)),
            wood=float(rng.beta(2, 3)),
            field=float(rng.beta(2, 3)),
            evergreen=float(rng.beta(1.2, 2.0)),
            arid=float(rng.beta(1.2, 1.6)),
            lot_width_m=float(rng.uniform(15, 27)),
            lot_depth_m=float(rng.uniform(26, 42)),
            clutter=float(rng.uniform(0, 1)),
        )


def _grown(points: Points, by: float = 0.0) -> tuple[float, ...]:
    """(left, top, right, bottom) of some points, enlarged on all sides."""
    return *(points.min(axis=0) - by), *(points.max(axis=0) + by)


@dataclass(frozen=True)
class Town:
    """A plan at both dates; ``render_town`` renders the images.

    World coordinates are metres from the upper left corner of the image, y downwards; the plan
    extends beyond the image by a margin, so that shadows from outside are included.
    """

    seed: int
    shape_hw: ShapeHW
    gsd_m: float
    style: TownStyle
    areas: tuple[Area, ...] = field(repr=False)
    lines: tuple[Line, ...] = field(repr=False)
    buildings: tuple[Building, ...] = field(repr=False)
    props: tuple[tuple[Box, int], ...] = field(repr=False)
    """Sheds and containers with their dates."""
    spots: tuple[ParkingSpot, ...] = field(repr=False)
    trees: tuple[Tree, ...] = field(repr=False)
    swaps: tuple[Swap, ...] = field(repr=False)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Buildings that exist at exactly one date; a replaced building gives two changes."""
        return tuple(
            Change(b.id, "appeared" if b.dates == T2 else "vanished", b.footprint)
            for b in self.buildings
            if b.dates != BOTH
        )

    def standing(self, date: int) -> tuple[Building, ...]:
        """The buildings at one date (``T1`` or ``T2``)."""
        return tuple(b for b in self.buildings if b.dates & date)

    @cached_property
    def tallest_m(self) -> float:
        """Height of the tallest object, metres."""
        heights = [b.height_m for b in self.buildings] + [t.height for t in self.trees]
        return max([*heights, 2.0])

    @cached_property
    def bounds(self) -> Mapping[str, NDArray[np.float64]]:
        """(N,4) bounds by the name of the field; computed once, because every tile asks."""
        rows = {
            "areas": [_grown(area.points) for area in self.areas],
            "lines": [_grown(line.points, line.width / 2 + 1) for line in self.lines],
            "buildings": [building.footprint.bounds for building in self.buildings],
            "trees": [
                (t.x - reach, t.y - reach, t.x + reach, t.y + reach)
                for t, reach in ((tree, 1.3 * tree.radius) for tree in self.trees)
            ],
            "swaps": [_grown(swap.before.points) for swap in self.swaps],
        }
        return {kind: np.asarray(table, np.float64).reshape(-1, 4) for kind, table in rows.items()}

    def within(self, kind: str, frame: tuple[float, float, float, float]) -> list[Any]:
        """Objects of one of `bounds` that touch a frame (left, top, right, bottom)."""
        bounds = self.bounds[kind]
        touch = (bounds[:, :2] < frame[2:]) & (bounds[:, 2:] > frame[:2])
        return [getattr(self, kind)[i] for i in np.flatnonzero(touch.all(axis=1))]
