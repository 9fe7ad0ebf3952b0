"""What fills the blocks: gardens and houses, shops and halls, fields, woods, ponds, building land."""

import math
from dataclasses import dataclass, field

import numpy as np
from shapely import Polygon

from rscd.data.town_buildings import draw_building
from rscd.data.town_layout import Block, Warp, path, rectangle
from rscd.data.town_parts import (
    BOTH,
    T1,
    T2,
    Area,
    Box,
    Building,
    Line,
    ParkingSpot,
    Points,
    Swap,
    TownStyle,
    Tree,
)

GROUND, GARDEN, WATER, VERGE, STREET, MARK = range(6)
"""Layers, drawn in this order."""


@dataclass
class Draft:
    """A plan in the making: everything the town holds, and the source of chance."""

    rng: np.random.Generator
    style: TownStyle
    warp: Warp
    areas: list[Area] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    props: list[tuple[Box, int]] = field(default_factory=list)
    spots: list[ParkingSpot] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    river: Points | None = None

    def chance(self, p: float) -> bool:
        """True with probability ``p``."""
        return bool(self.rng.random() < p)

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def ground(
        self, points: Points, material: str, dates: int = BOTH, layer: int = GROUND,
        rows: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Area:  # fmt: skip
        """An area with its own hue and tone."""
        return Area(
            points, material, float(self.rng.random()), self.between(0.9, 1.1), dates, layer, rows
        )

    def add_area(
        self, points: Points, material: str, dates: int = BOTH, layer: int = GROUND
    ) -> None:
        """Put an area down."""
        self.areas.append(self.ground(points, material, dates, layer))

    def add_tree(
        self, x: float, y: float, dates: int = BOTH, radius: tuple[float, float] = (1.6, 4.6),
        evergreen: bool | None = None,
    ) -> None:  # fmt: skip
        """Plant a tree."""
        r = self.between(*radius) * (1.0 if self.chance(0.7) else 0.7)
        green = self.chance(self.style.evergreen) if evergreen is None else evergreen
        height = r * self.between(1.4, 2.4) + 1.0
        self.trees.append(
            Tree(x, y, r, height, green, float(self.rng.random()), dates, float(self.rng.random()))
        )

    def add_car(self, x: float, y: float, angle: float, taken: float, dates: int = BOTH) -> None:
        """A parking place, taken with probability ``taken`` at either date."""
        a, b, c, d, e, f, g = self.rng.random(7)
        self.spots.append(
            ParkingSpot(
                x, y, angle, (a < taken, b < taken), (c, d), (0.8 * (e - 0.5), 0.8 * (f - 0.5)), g, dates
            )
        )  # fmt: skip


def plant(draft: Draft, box: tuple[float, float, float, float], spacing: float, share: float,
          dates: int = BOTH, radius: tuple[float, float] = (1.8, 4.4),
          evergreen: bool | None = None) -> None:  # fmt: skip
    """Trees on a jittered grid over a (u,v) rectangle; each cell is taken with ``share``."""
    u0, v0, u1, v1 = box
    if u1 <= u0 or v1 <= v0:
        return
    us, vs = np.meshgrid(np.arange(u0, u1, spacing), np.arange(v0, v1, spacing))
    uv = np.stack((us.ravel(), vs.ravel()), 1)
    uv = uv[draft.rng.random(len(uv)) < share]
    uv = uv + draft.rng.uniform(-0.45, 0.45, uv.shape) * spacing
    for x, y in draft.warp(uv):
        draft.add_tree(float(x), float(y), dates, radius, evergreen)


def clumps(draft: Draft, box: tuple[float, float, float, float], share: float,
           dates: int = BOTH) -> None:  # fmt: skip
    """Scattered trees that stand in groups, as on pasture and in scrub."""
    u0, v0, u1, v1 = box
    if u1 <= u0 or v1 <= v0:
        return
    count = draft.rng.poisson(max(share * (u1 - u0) * (v1 - v0) / 700, 0))
    for _ in range(int(count)):
        u, v = draft.between(u0, u1), draft.between(v0, v1)
        n = int(draft.rng.integers(1, 7))
        near = draft.rng.normal(0, 4.5, (n, 2)) + np.asarray([u, v])
        near = np.clip(near, (u0, v0), (u1, v1))
        for x, y in draft.warp(near):
            draft.add_tree(float(x), float(y), dates, (1.0, 4.4))


def fill_field(draft: Draft, block: Block, dates: int = BOTH) -> None:
    """Strips of crops whose rows follow the block, with hedges between some."""
    u0, v0, u1, v1 = block.inner(draft.between(3, 7))
    cuts = [u0, *sorted(draft.between(u0, u1) for _ in range(int(draft.rng.integers(0, 3)))), u1]
    along_u = draft.chance(0.6)
    for left, right in zip(cuts[:-1], cuts[1:], strict=True):
        outline = rectangle(draft.warp, left, v0, right - 1.2, v1)
        angle = draft.warp.at((left + right) / 2, (v0 + v1) / 2)[2] + (
            0 if along_u else math.pi / 2
        )
        rows = (angle, draft.between(1.4, 3.5), draft.between(0.0, 0.12))
        crops = ("crop_green", "crop_ripe", "stubble", "plough", "meadow", "crop_green")
        before = draft.ground(outline, str(draft.rng.choice(crops)), dates, rows=rows)
        other = (angle, draft.between(1.4, 3.5), draft.between(0.0, 0.12))
        after = draft.ground(outline, str(draft.rng.choice(crops)), dates, rows=other)
        draft.swaps.append(Swap(before, after, float(draft.rng.random()), True))
        if draft.chance(0.3 * draft.style.tree_cover + 0.1):
            plant(draft, (right - 2.5, v0, right + 0.5, v1), 4.0, 0.85, dates)


def fill_orchard(draft: Draft, block: Block, dates: int = BOTH) -> None:
    """Rows of small trees on grass."""
    u0, v0, u1, v1 = block.inner(5)
    draft.add_area(rectangle(draft.warp, u0, v0, u1, v1), "meadow", dates)
    step, radius = draft.between(4.5, 7), draft.between(1.2, 2.2)
    for v in np.arange(v0 + 2, v1, step):
        us = np.arange(u0 + 2, u1, radius * 2.4)
        jitter = draft.rng.normal(0, 0.2, (len(us), 2))
        for x, y in draft.warp(np.stack((us, np.full(len(us), v)), 1) + jitter):
            draft.add_tree(float(x), float(y), dates, (radius * 0.85, radius * 1.1), False)


def blob(draft: Draft, u: float, v: float, half_u: float, half_v: float) -> Points:
    """A smooth irregular outline around a place."""
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    r = np.ones_like(t)
    for k in (2, 3, 5):
        r += draft.between(0.04, 0.3 / k) * np.sin(k * t + draft.between(0, 2 * math.pi))
    return draft.warp(np.stack((u + half_u * r * np.cos(t), v + half_v * r * np.sin(t)), 1))


def fill_open(draft: Draft, block: Block, dates: int = BOTH, use: str | None = None) -> None:
    """A block without buildings: field, orchard, wood, pasture, park, pond or waste land."""
    style = draft.style
    if use is None:
        weights = np.asarray(
            [style.field, 0.08 * style.field, style.wood, 0.35, 0.12, 0.06, 0.10 + 0.1 * style.arid]
        )
        uses = ("field", "orchard", "wood", "pasture", "park", "pond", "waste")
        use = str(draft.rng.choice(uses, p=weights / weights.sum()))
    inner = block.inner(2)
    full = block.inner(0)
    if use == "field":
        draft.add_area(rectangle(draft.warp, *full), "meadow", dates)
        fill_field(draft, block, dates)
    elif use == "orchard":
        fill_orchard(draft, block, dates)
    elif use == "wood":
        draft.add_area(rectangle(draft.warp, *full), "scrub", dates)
        plant(draft, inner, draft.between(4.2, 6.0), draft.between(0.6, 0.97), dates, (2.2, 4.8))
    elif use == "pond":
        draft.add_area(rectangle(draft.warp, *full), "meadow", dates)
        u, v = (block.u0 + block.u1) / 2, (block.v0 + block.v1) / 2
        size = (0.36 * (block.u1 - block.u0), 0.33 * (block.v1 - block.v0))
        draft.add_area(blob(draft, u, v, size[0] * 1.1, size[1] * 1.12), "scrub", dates, GARDEN)
        draft.add_area(blob(draft, u, v, *size), "water", dates, WATER)
        clumps(draft, block.inner(4), 0.3 * style.tree_cover, dates)
    else:
        ground = {"pasture": "meadow", "park": "lawn", "waste": "scrub"}[use]
        before = draft.ground(rectangle(draft.warp, *full), ground, dates)
        works = str(draft.rng.choice(("soil", "earthwork", "scrub", "meadow")))
        after = draft.ground(rectangle(draft.warp, *full), works, dates)
        draft.swaps.append(Swap(before, after, float(draft.rng.random()), False))
        clumps(
            draft, inner, {"pasture": 0.9, "park": 1.6, "waste": 1.3}[use] * style.tree_cover, dates
        )
        if use != "pasture" or draft.chance(0.2):
            _trails(draft, block, dates)


def _trails(draft: Draft, block: Block, dates: int) -> None:
    """A winding path or wheel track through a block."""
    u0, v0, u1, v1 = block.inner(3)
    ends = (draft.between(u0, u1), v0, draft.between(u0, u1), v1)
    points = path(draft.warp, *ends)
    bend = np.sin(np.linspace(0, math.pi * draft.between(1, 3), len(points)))
    points = points + np.outer(bend, draft.rng.normal(0, 6, 2))
    material = str(draft.rng.choice(("gravel", "soil", "paving")))
    draft.lines.append(
        Line(
            points, draft.between(1.2, 3.0), material, float(draft.rng.random()), 1.0, dates, VERGE
        )
    )


def fill_earthwork(draft: Draft, block: Block, dates: int) -> None:
    """Graded building land: bare earth, tracks, heaps, a few containers."""
    full = block.inner(0)
    material = str(draft.rng.choice(("earthwork", "soil", "earthwork", "scrub")))
    draft.add_area(rectangle(draft.warp, *full), material, dates)
    for _ in range(int(draft.rng.integers(1, 5))):
        u, v = draft.between(block.u0, block.u1), draft.between(block.v0 + 8, block.v1 - 8)
        half = (draft.between(4, 24), draft.between(3, 10))
        ground = str(draft.rng.choice(("soil", "earthwork", "rubble", "scrub")))
        draft.add_area(blob(draft, u, v, *half), ground, dates, GARDEN)
    for _ in range(int(draft.rng.integers(0, 4))):
        _trails(draft, block, dates)
    for _ in range(int(draft.rng.integers(0, 3))):
        add_crate(draft, draft.between(block.u0 + 5, block.u1 - 5),
                  draft.between(block.v0 + 5, block.v1 - 5), dates)  # fmt: skip
    clumps(draft, block.inner(6), 0.15, dates)


def add_crate(draft: Draft, u: float, v: float, dates: int) -> None:
    """A container or a pile of material: below 14 square metres, so no building."""
    x, y, angle, _, _ = draft.warp.at(u, v)
    half = (1.2, 3.0) if draft.chance(0.4) else (draft.between(0.7, 1.6), draft.between(0.7, 1.6))
    draft.props.append(
        (Box(x, y, angle + draft.between(-0.3, 0.3), half[0], half[1], draft.between(0.8, 2.6), 0.0,
             "flat", "crate", float(draft.rng.random()), draft.between(0.8, 1.1)), dates)
    )  # fmt: skip


def _free_of_water(draft: Draft, footprint: Polygon) -> bool:
    if draft.river is None:
        return True
    centre = np.asarray(footprint.centroid.coords[0])
    return bool(np.min(np.hypot(*(draft.river - centre).T)) > 50)


def build(draft: Draft, kind: str, place: tuple[float, float, float], size: tuple[float, float],
          dates: int) -> Building | None:  # fmt: skip
    """Put a building up unless the river runs there."""
    building = draw_building(
        draft.rng, draft.style, kind, place, size, len(draft.buildings) + 1, dates
    )
    if not _free_of_water(draft, building.footprint):
        return None
    draft.buildings.append(building)
    return building


@dataclass(frozen=True)
class Lot:
    """A plot in the (u,v) plane: the street lies at ``front``, the garden reaches to ``back``."""

    u0: float
    u1: float
    front: float
    back: float

    @property
    def inward(self) -> float:
        """Sign of v from the street into the lot."""
        return 1.0 if self.back > self.front else -1.0

    def v(self, share: float) -> float:
        """v at a share of the depth."""
        return self.front + share * (self.back - self.front)

    def outline(self, warp: Warp) -> Points:
        """The lot in the world."""
        return rectangle(
            warp, self.u0, min(self.front, self.back), self.u1, max(self.front, self.back)
        )


def lot_dates(draft: Draft, change: float) -> tuple[int, ...]:
    """When the houses of a lot stand: one entry per building, none for an empty lot."""
    if draft.chance(change):
        return {0: (T2,), 1: (T1,), 2: (T1, T2)}[int(draft.rng.choice(3, p=(0.6, 0.22, 0.18)))]
    return () if draft.chance(0.08) else (BOTH,)


def house_lot(draft: Draft, lot: Lot, standing: tuple[int, ...], when: int, new: bool) -> None:
    """A dwelling with its garden; ``when`` limits everything to dates the street exists."""
    style = draft.style
    built = 0
    for dates in standing:
        built |= dates & when
    empty = when & ~built
    if built:
        fresh = "soil" if new and draft.chance(0.35) else "lawn"
        lawn = "scrub" if draft.chance(0.3 * style.arid) else fresh
        draft.add_area(lot.outline(draft.warp), lawn, built, GARDEN)
    if empty:
        vacant = str(draft.rng.choice(("meadow", "soil", "scrub", "earthwork", "rubble"),
                                      p=(0.3, 0.2, 0.2, 0.2, 0.1)))  # fmt: skip
        before = draft.ground(lot.outline(draft.warp), vacant, empty, GARDEN)
        works = str(draft.rng.choice(("soil", "earthwork", "meadow")))
        after = draft.ground(lot.outline(draft.warp), works, empty, GARDEN)
        draft.swaps.append(Swap(before, after, float(draft.rng.random()), False))
        if draft.chance(0.3):
            clumps(draft, (lot.u0 + 2, min(lot.front, lot.back) + 3, lot.u1 - 2,
                           max(lot.front, lot.back) - 3), 2.0 * style.tree_cover, empty)  # fmt: skip
    for dates in standing:
        if dates & when:
            _house(draft, lot, dates & when)
    garden_trees(draft, lot, when)
    _fences(draft, lot, when)


def _house(draft: Draft, lot: Lot, dates: int) -> None:
    depth, width = abs(lot.back - lot.front), lot.u1 - lot.u0
    w = min(draft.between(9.5, 19), width - 3.5)
    d = min(draft.between(8, 13), 0.45 * depth)
    setback = draft.between(4.5, 9)
    u = (lot.u0 + lot.u1) / 2 + draft.between(-0.3, 0.3) * max(width - w - 4, 0)
    v = lot.front + lot.inward * (setback + 1.3 * d / 2)
    x, y, angle, _, _ = draft.warp.at(u, v)
    house = build(draft, "house", (x, y, angle), (w, d), dates)
    if house is None:
        return
    side = 1.0 if draft.chance(0.5) else -1.0
    drive_u = u + side * (w / 2 - 1.5)
    drive = path(draft.warp, drive_u, lot.front - lot.inward * 2, drive_u, v)
    material = str(draft.rng.choice(("concrete", "paving", "gravel", "blacktop")))
    draft.lines.append(
        Line(drive, draft.between(2.8, 5.5), material, float(draft.rng.random()), 1.0, dates, VERGE)
    )
    cx, cy, along, _, _ = draft.warp.at(drive_u, lot.front + lot.inward * min(setback * 0.6, 4))
    draft.add_car(cx, cy, along + math.pi / 2, 0.45, dates)
    back = v + lot.inward * (d / 2 + 2.2)
    if draft.chance(0.6):
        half = draft.between(2, 4.5)
        patio = rectangle(draft.warp, u - half, back - 2, u + half, back + 2)
        draft.add_area(patio, "paving", dates, WATER)
    if draft.chance(0.1) and depth > 30:
        pool_v = back + lot.inward * 4.5
        draft.add_area(blob(draft, u, pool_v, 4.6, 2.9), "paving", dates, WATER)
        draft.add_area(blob(draft, u, pool_v, 3.6, 2.0), "pool", dates, WATER)
    if draft.chance(draft.style.clutter * 0.6):
        sx, sy, turn, _, _ = draft.warp.at(
            draft.between(lot.u0 + 2.5, lot.u1 - 2.5), lot.back - lot.inward * 2.6
        )
        shed = Box(sx, sy, turn, draft.between(1.0, 1.8), draft.between(0.9, 1.6), 2.1, 0.3, "gable",
                   "crate", float(draft.rng.random()), 0.9)  # fmt: skip
        draft.props.append((shed, dates))


def garden_trees(draft: Draft, lot: Lot, dates: int) -> None:
    """Trees and bushes of a garden, clear of where the house stands."""
    cover = draft.style.tree_cover
    for _ in range(int(draft.rng.poisson(3.2 * cover))):
        v = lot.v(draft.between(0.68, 0.98))
        u = draft.between(lot.u0 + 1, lot.u1 - 1)
        x, y, *_ = draft.warp.at(u, v)
        draft.add_tree(x, y, dates, (0.9, 4.0))
    if draft.chance(0.5 * cover):
        x, y, *_ = draft.warp.at(draft.between(lot.u0, lot.u1), lot.v(0.06))
        draft.add_tree(x, y, dates, (1.2, 3.6))


def _fences(draft: Draft, lot: Lot, dates: int) -> None:
    """Fence or hedge along one side and the back."""
    if not draft.chance(0.75):
        return
    hedge = draft.chance(0.35 if draft.style.roofs == "shingle" else 0.6)
    material, width, height = ("hedge", 1.1, 1.6) if hedge else ("fence", 0.3, 1.7)
    start = lot.v(draft.between(0.3, 0.5))
    uv = np.asarray([[lot.u0, start], [lot.u0, lot.back], [lot.u1, lot.back]])
    draft.lines.append(
        Line(draft.warp(uv), width, material, float(draft.rng.random()), 1.0, dates, VERGE, height)
    )


def fill_houses(draft: Draft, block: Block, inset: float, when: int, change: float) -> None:
    """A residential block: two rows of lots back to back, or one where it is shallow."""
    u0, v0, u1, v1 = block.inner(inset)
    new = when != BOTH
    double = v1 - v0 > 44
    middle = (v0 + v1) / 2
    rows = [(v0, middle if double else v1)] + ([(v1, middle)] if double else [])
    for front, back in rows:
        count = max(int((u1 - u0) / (draft.style.lot_width_m * draft.between(0.85, 1.2))), 1)
        edges = np.linspace(u0, u1, count + 1)
        edges[1:-1] += draft.rng.uniform(-1.5, 1.5, count - 1)
        terraced = draft.chance(0.12 if draft.style.roofs != "shingle" else 0.0)
        i = 0
        while i < count:
            span = int(min(draft.rng.integers(2, 5), count - i)) if terraced else 1
            lot = Lot(float(edges[i]), float(edges[i + span]), front, back)
            standing = lot_dates(draft, change)
            if terraced:
                long_lot(draft, lot, standing, when, "row")
            else:
                house_lot(draft, lot, standing, when, new)
            i += span


def long_lot(draft: Draft, lot: Lot, standing: tuple[int, ...], when: int, kind: str) -> None:
    """A row, an apartment block or a hall with its yard and parking."""
    paved = {"row": "lawn", "apartments": "lawn", "hall": "blacktop"}[kind]
    yard = str(draft.rng.choice((paved, paved, "paving"))) if kind != "hall" else str(
        draft.rng.choice(("blacktop", "paving", "gravel", "concrete"))
    )  # fmt: skip
    built = 0
    for dates in standing:
        built |= dates & when
    if built:
        draft.add_area(lot.outline(draft.warp), yard, built, GARDEN)
    if when & ~built:
        vacant = str(draft.rng.choice(("meadow", "soil", "earthwork", "rubble", "blacktop")))
        before = draft.ground(lot.outline(draft.warp), vacant, when & ~built, GARDEN)
        after = draft.ground(lot.outline(draft.warp), "soil", when & ~built, GARDEN)
        draft.swaps.append(Swap(before, after, float(draft.rng.random()), False))
    width, depth = lot.u1 - lot.u0, abs(lot.back - lot.front)
    share = {"row": 0.34, "apartments": 0.5, "hall": draft.between(0.45, 0.75)}[kind]
    at = {"row": 0.32, "apartments": 0.62, "hall": 0.6}[kind]
    for dates in standing:
        if dates & when:
            x, y, angle, _, _ = draft.warp.at((lot.u0 + lot.u1) / 2, lot.v(at))
            size = (width * draft.between(0.7, 0.88), depth * share * draft.between(0.85, 1.0))
            if kind == "row":
                size = (width - 2.0, min(size[1], 11.0))
            build(draft, kind, (x, y, angle), size, dates & when)
    if kind != "row":
        parking(draft, lot, 0.02, 0.25, when)
    if kind != "hall":
        garden_trees(draft, lot, when)
    if draft.chance(draft.style.clutter) and kind == "hall":
        for _ in range(int(draft.rng.integers(1, 9))):
            add_crate(draft, draft.between(lot.u0 + 2, lot.u1 - 2), lot.v(0.95), when)


def parking(draft: Draft, lot: Lot, start: float, end: float, dates: int) -> None:
    """Bays for cars along the street side of a lot, with painted lines and a few trees."""
    v0, v1 = lot.v(start), lot.v(end)
    area = rectangle(draft.warp, lot.u0 + 1, min(v0, v1), lot.u1 - 1, max(v0, v1))
    draft.add_area(area, "blacktop", dates, WATER)
    taken = draft.between(0.1, 0.9)
    rows = [v0 + lot.inward * 2.8] + ([v1 - lot.inward * 2.8] if abs(v1 - v0) > 13 else [])
    for v in rows:
        us = np.arange(lot.u0 + 3, lot.u1 - 3, 2.6)
        for i, u in enumerate(us):
            x, y, angle, _, _ = draft.warp.at(float(u), v)
            if i % 9 == 8 and draft.chance(0.6):
                draft.add_tree(x, y, dates, (1.2, 2.6))
                continue
            draft.add_car(x, y, angle + math.pi / 2, taken, dates)
            bay = path(draft.warp, float(u) - 1.3, v - 2.4, float(u) - 1.3, v + 2.4)
            draft.lines.append(Line(bay, 0.12, "paint", 0.5, 1.0, dates, MARK))


def fill_large(
    draft: Draft, block: Block, inset: float, when: int, change: float, kind: str
) -> None:
    """A block of halls, or of apartments and shops."""
    u0, v0, u1, v1 = block.inner(inset)
    draft.add_area(rectangle(draft.warp, u0, v0, u1, v1), "lawn", when, GROUND)
    width = draft.between(45, 110) if kind == "hall" else draft.between(38, 70)
    count = max(int((u1 - u0) / width), 1)
    edges = np.linspace(u0, u1, count + 1)
    for i in range(count):
        lot = Lot(float(edges[i]) + 2, float(edges[i + 1]) - 2, v0 + 1, v1 - 1)
        if draft.chance(0.5):
            lot = Lot(lot.u0, lot.u1, lot.back, lot.front)
        if draft.chance(0.08):
            draft.add_area(lot.outline(draft.warp), "blacktop", when, GARDEN)
            parking(draft, lot, 0.04, 0.4, when)
            parking(draft, lot, 0.55, 0.95, when)
            continue
        long_lot(draft, lot, lot_dates(draft, change), when, kind)
