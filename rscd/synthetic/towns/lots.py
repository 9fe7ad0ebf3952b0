"""Built-up blocks: gardens and houses, rows, apartments, shops and halls."""

import functools
import math
import operator
from dataclasses import dataclass

import numpy as np

from rscd.synthetic.towns.draft import (
    GARDEN,
    GROUND,
    MARK,
    VERGE,
    WATER,
    Draft,
    beyond,
    blob,
    build,
    clumps,
    lot_dates,
    wet,
)
from rscd.synthetic.towns.layout import Block, Warp, path, rectangle
from rscd.synthetic.towns.open import add_crate
from rscd.synthetic.towns.parts import BOTH, Box, Points


@dataclass(frozen=True)
class Lot:
    """A plot in the (u,v) plane: the street is at ``front``, the garden extends to ``back``."""

    u0: float
    u1: float
    front: float
    back: float

    @property
    def inward(self) -> float:
        """Sign of v from the street into the lot."""
        return 1.0 if self.back > self.front else -1.0

    def v(self, share: float) -> float:
        """V at a fraction of the depth."""
        return self.front + share * (self.back - self.front)

    def outline(self, warp: Warp) -> Points:
        """Outline of the lot in the world."""
        return rectangle(
            warp, self.u0, min(self.front, self.back), self.u1, max(self.front, self.back)
        )


def house_lot(draft: Draft, lot: Lot, standing: tuple[int, ...], when: int, new: bool) -> None:
    """A dwelling with its garden; ``when`` limits all to dates at which the street exists."""
    style = draft.style
    built = _union(standing) & when
    empty = when & ~built
    if built:
        fresh = "soil" if new and draft.chance(0.35) else "lawn"
        lawn = "scrub" if draft.chance(0.3 * style.arid) else fresh
        draft.add_area(lot.outline(draft.warp), lawn, built, GARDEN)
    _vacant(draft, lot, empty, works=bool(standing))
    if empty and draft.chance(0.3):
        low, high = sorted((lot.front, lot.back))
        inner = (lot.u0 + 2, low + 3, lot.u1 - 2, high - 3)
        clumps(draft, inner, 2.0 * style.tree_cover, empty)
    for dates in standing:
        if dates & when:
            _house(draft, lot, dates & when)
    garden_trees(draft, lot, when)
    _fences(draft, lot, when)


def _house(draft: Draft, lot: Lot, dates: int) -> None:
    depth, width = abs(lot.back - lot.front), lot.u1 - lot.u0
    large = draft.style.roofs == "shingle"
    w = min(draft.between(13, 21) if large else draft.between(9.5, 17), width - 3.0)
    d = min(draft.between(10, 15) if large else draft.between(8, 12), 0.45 * depth)
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
    draft.add_line(drive, draft.between(2.8, 5.5), material, dates, VERGE)
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
        shed_u = draft.between(lot.u0 + 2.5, lot.u1 - 2.5)
        sx, sy, turn, _, _ = draft.warp.at(shed_u, lot.back - lot.inward * 2.6)
        size = (draft.between(1.0, 1.8), draft.between(0.9, 1.6))
        hue = float(draft.rng.random())
        shed = Box(sx, sy, turn, *size, 2.1, 0.3, "gable", "crate", hue, 0.9)
        draft.props.append((shed, dates))


def garden_trees(draft: Draft, lot: Lot, dates: int) -> None:
    """Trees and bushes of a garden, away from the house."""
    cover = draft.style.tree_cover / draft.tree_scale**2
    for _ in range(int(draft.rng.poisson(5.0 * cover))):
        v = lot.v(draft.between(0.68, 0.98))
        u = draft.between(lot.u0 + 1, lot.u1 - 1)
        x, y, *_ = draft.warp.at(u, v)
        draft.add_tree(x, y, dates, (0.9, 4.0))
    if draft.chance(0.5 * cover):
        x, y, *_ = draft.warp.at(draft.between(lot.u0, lot.u1), lot.v(0.06))
        draft.add_tree(x, y, dates, (1.2, 3.6))


def _fences(draft: Draft, lot: Lot, dates: int) -> None:
    """Fence or hedge along one side and the back."""
    if not draft.fine or not draft.chance(0.75):
        return
    hedge = draft.chance(0.35 if draft.style.roofs == "shingle" else 0.6)
    material, width, height = ("hedge", 1.1, 1.6) if hedge else ("fence", 0.3, 1.7)
    start = lot.v(draft.between(0.3, 0.5))
    uv = np.asarray([[lot.u0, start], [lot.u0, lot.back], [lot.u1, lot.back]])
    draft.add_line(draft.warp(uv), width, material, dates, VERGE, height=height)


def fill_houses(draft: Draft, block: Block, inset: float, when: int, change: float) -> None:
    """A residential block: two rows of lots back to back, or one if it is shallow."""
    u0, v0, u1, v1 = block.inner(inset)
    new = when != BOTH
    double = v1 - v0 > 44
    middle = (v0 + v1) / 2
    rows = [(v0, middle if double else v1)] + ([(v1, middle)] if double else [])
    for front, back in rows:
        count = max(int((u1 - u0) / (draft.style.lot_width_m * draft.between(0.85, 1.2))), 1)
        edges = np.linspace(u0, u1, count + 1)
        edges[1:-1] += draft.rng.uniform(-1.5, 1.5, count - 1)
        terraced = draft.chance(0.08 if draft.style.roofs != "shingle" else 0.0)
        i = 0
        while i < count:
            span = min(int(draft.rng.integers(1, 3)), count - i) if terraced else 1
            lot = Lot(float(edges[i]), float(edges[i + span]), front, back)
            i += span
            outline = lot.outline(draft.warp)
            if beyond(draft, outline) or wet(draft, outline, 2.0):
                continue
            standing = lot_dates(draft, change)
            if terraced:
                long_lot(draft, lot, standing, when, "row")
            else:
                house_lot(draft, lot, standing, when, new)


_LONG = {"row": (0.32, 0.34), "apartments": (0.62, 0.5), "hall": (0.6, 0.6)}
"""Kind -> its position on the lot, and the fraction of the depth it takes."""


def long_lot(draft: Draft, lot: Lot, standing: tuple[int, ...], when: int, kind: str) -> None:
    """A row, an apartment block or a hall with its yard and parking."""
    built = _union(standing) & when
    if built:
        yards = ("blacktop", "paving", "gravel", "concrete") if kind == "hall" else ("lawn", "lawn")
        draft.add_area(lot.outline(draft.warp), draft.pick(*yards), built, GARDEN)
    _vacant(draft, lot, when & ~built, works=bool(standing))
    for dates in standing:
        if dates & when:
            _long_building(draft, lot, dates & when, kind)
    if kind != "row":
        parking(draft, lot, 0.02, 0.25, when)
    if kind != "hall":
        garden_trees(draft, lot, when)
    elif draft.chance(draft.style.clutter):
        for _ in range(int(draft.rng.integers(1, 9))):
            add_crate(draft, draft.between(lot.u0 + 2, lot.u1 - 2), lot.v(0.95), when)


def _long_building(draft: Draft, lot: Lot, dates: int, kind: str) -> None:
    width, depth = lot.u1 - lot.u0, abs(lot.back - lot.front)
    at, share = _LONG[kind]
    x, y, angle, _, _ = draft.warp.at((lot.u0 + lot.u1) / 2, lot.v(at))
    size = (width * draft.between(0.7, 0.88), depth * share * draft.between(0.75, 1.2))
    if kind == "row":
        size = (width - 2.0, min(size[1], 11.0))
    build(draft, kind, (x, y, angle), size, dates)


def _union(standing: tuple[int, ...]) -> int:
    """The dates at which any building exists."""
    return functools.reduce(operator.or_, standing, 0)


def _vacant(draft: Draft, lot: Lot, when: int, *, works: bool) -> None:
    """The ground of a lot without building: grass, or bare during ``works``.

    As a nuisance the ground is cleared, overgrows, or gets a concrete slab.
    """
    if not when:
        return
    covers = ("meadow", "soil", "scrub", "earthwork", "rubble", "soil", "lawn", "meadow")
    quiet = ("lawn", "meadow", "meadow", "scrub", "lawn", "soil")
    outline = lot.outline(draft.warp)
    before = draft.ground(outline, draft.pick(*(covers if works else quiet)), when, GARDEN)
    after = draft.ground(outline, draft.pick("soil", "earthwork", "meadow"), when, GARDEN)
    if draft.chance(0.3):
        draft.areas.append(before)
        u, v = (lot.u0 + lot.u1) / 2, lot.v(0.45)
        half_u, half_v = draft.between(4, 8), draft.between(4, 7)
        slab = rectangle(draft.warp, u - half_u, v - half_v, u + half_u, v + half_v)
        before = before._replace(points=slab, layer=WATER)
        after = draft.ground(slab, draft.pick("concrete", "paving"), when, WATER)
    draft.add_swap(before, after)


def parking(draft: Draft, lot: Lot, start: float, end: float, dates: int) -> None:
    """Parking bays along the street side of a lot, with painted lines and a few trees."""
    v0, v1 = lot.v(start), lot.v(end)
    area = rectangle(draft.warp, lot.u0 + 1, min(v0, v1), lot.u1 - 1, max(v0, v1))
    draft.add_area(area, "blacktop", dates, WATER)
    taken = draft.between(0.1, 0.9)
    rows = [v0 + lot.inward * 2.8] + ([v1 - lot.inward * 2.8] if abs(v1 - v0) > 13 else [])
    us = np.arange(lot.u0 + 3, lot.u1 - 3, 2.6)
    for v in rows:
        # centre, then both ends of the painted line to its left
        ends = [draft.warp(np.stack((us - du, np.full(len(us), v + dv)), 1))
                for du, dv in ((0, 0), (1.3, -2.4), (1.3, 2.4))]  # fmt: skip
        for i, (centre, near, far) in enumerate(zip(*ends, strict=True)):
            x, y = float(centre[0]), float(centre[1])
            if i % 9 == 8 and draft.chance(0.6):
                draft.add_tree(x, y, dates, (1.2, 2.6))
                continue
            angle = math.atan2(far[1] - near[1], far[0] - near[0])
            draft.add_car(x, y, angle, taken, dates)
            if draft.fine:
                draft.add_line(np.stack((near, far)), 0.12, "paint", dates, MARK, hue=0.5)


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
        outline = lot.outline(draft.warp)
        if beyond(draft, outline) or wet(draft, outline, 2.0):
            continue
        if draft.chance(0.5):
            lot = Lot(lot.u0, lot.u1, lot.back, lot.front)
        if draft.chance(0.08):
            draft.add_area(lot.outline(draft.warp), "blacktop", when, GARDEN)
            parking(draft, lot, 0.04, 0.4, when)
            parking(draft, lot, 0.55, 0.95, when)
            continue
        long_lot(draft, lot, lot_dates(draft, change), when, kind)
