"""Blocks without houses: fields, orchards, woods, parks, ponds, building land."""

import math
from itertools import pairwise

import numpy as np

from rscd.synthetic.towns.draft import (
    GARDEN,
    MARK,
    VERGE,
    WATER,
    Draft,
    beyond,
    blob,
    build,
    clumps,
    lot_dates,
    plant,
    plant_at,
    wet,
)
from rscd.synthetic.towns.layout import Block, path, rectangle
from rscd.synthetic.towns.parts import BOTH, Area, Box


def fill_field(draft: Draft, block: Block, dates: int = BOTH) -> None:
    """Strips of crops whose rows follow the block, with hedges between some."""
    u0, v0, u1, v1 = block.inner(draft.between(3, 7))
    cuts = [u0, *sorted(draft.between(u0, u1) for _ in range(int(draft.rng.integers(0, 3)))), u1]
    along_u = draft.chance(0.6)
    for left, right in pairwise(cuts):
        outline = rectangle(draft.warp, left, v0, right - 1.2, v1)
        angle = draft.warp.at((left + right) / 2, (v0 + v1) / 2)[2]
        angle += 0 if along_u else math.pi / 2
        rows = (angle, draft.between(1.4, 3.5), draft.between(0.0, 0.12))
        crops = ("crop_green", "crop_ripe", "stubble", "plough", "meadow", "crop_green")
        before = draft.ground(outline, str(draft.rng.choice(crops)), dates, rows=rows)
        other = (angle, draft.between(1.4, 3.5), draft.between(0.0, 0.12))
        after = draft.ground(outline, str(draft.rng.choice(crops)), dates, rows=other)
        draft.add_swap(before, after, crop=True)
        if draft.chance(0.5):
            _tramlines(draft, (left, v0, right, v1), along_u, dates)
        if draft.chance(0.3 * draft.style.tree_cover + 0.1):
            plant(draft, (right - 2.5, v0, right + 0.5, v1), 4.0, 0.85, dates)


def _tramlines(
    draft: Draft, strip: tuple[float, float, float, float], along_u: bool, dates: int
) -> None:
    """Wheel tracks of the sprayer, two ruts every 18 to 27 m."""
    u0, v0, u1, v1 = strip
    step, material = draft.between(18, 27), draft.pick("plough", "soil", "stubble")
    low, high = (v0, v1) if along_u else (u0, u1)
    for at in np.arange(low + draft.between(3, step), high - 2, step):
        for rut in (-0.9, 0.9):
            ends = (u0, at + rut, u1, at + rut) if along_u else (at + rut, v0, at + rut, v1)
            points = path(draft.warp, *map(float, ends))
            if not beyond(draft, points) and not wet(draft, points, 1.0):
                draft.add_line(points, 0.45, material, dates, WATER, hue=0.4, tone=0.95)


def fill_orchard(draft: Draft, block: Block, dates: int = BOTH) -> None:
    """Rows of small trees on grass."""
    u0, v0, u1, v1 = block.inner(5)
    draft.add_area(rectangle(draft.warp, u0, v0, u1, v1), "meadow", dates)
    step, radius = draft.between(4.5, 7), draft.between(1.2, 2.2)
    for v in np.arange(v0 + 2, v1, step):
        us = np.arange(u0 + 2, u1, radius * 2.4)
        jitter = draft.rng.normal(0, 0.2, (len(us), 2))
        places = draft.warp(np.stack((us, np.full(len(us), v)), 1) + jitter)
        plant_at(draft, places, dates, (radius * 0.85, radius * 1.1), False)


def fill_open(draft: Draft, block: Block, dates: int = BOTH) -> None:
    """A block without buildings: field, orchard, wood, pasture, park, pond or waste land."""
    style = draft.style
    weights = np.asarray(
        [style.field, 0.08 * style.field, style.wood, 0.35, 0.12, 0.04, 0.10 + 0.1 * style.arid]
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
        _pond(draft, block, dates)
    else:
        ground = {"pasture": "meadow", "park": "lawn", "waste": "scrub"}[use]
        before = draft.ground(rectangle(draft.warp, *full), ground, dates)
        works = str(draft.rng.choice(("soil", "earthwork", "scrub", "meadow")))
        after = draft.ground(rectangle(draft.warp, *full), works, dates)
        draft.add_swap(before, after)
        cover = {"pasture": 0.9, "park": 1.6, "waste": 1.3}[use] * style.tree_cover
        clumps(draft, inner, cover, dates)
        if use != "pasture" or draft.chance(0.2):
            _trails(draft, block, dates)
        if use == "park" and draft.chance(0.6):
            courts(draft, block, dates)
    if use in {"field", "pasture", "waste"}:
        _shrubs(draft, block, dates)
        _fleeting_pond(draft, block, dates)
    if use in {"field", "pasture", "waste"} and draft.chance(0.35):
        farmstead(draft, block, dates)


def _pond(draft: Draft, block: Block, dates: int) -> None:
    """A lake on a meadow, trees to either side."""
    draft.add_area(rectangle(draft.warp, *block.inner(0)), "meadow", dates)
    u, v = (block.u0 + block.u1) / 2, (block.v0 + block.v1) / 2
    size = (min(0.34 * (block.u1 - block.u0), draft.between(14, 48)), 0.3 * (block.v1 - block.v0))
    draft.add_area(blob(draft, u, v, size[0] * 1.1, size[1] * 1.12), "scrub", dates, GARDEN)
    draft.add_area(blob(draft, u, v, *size), "water", dates, WATER)
    for left, right in ((block.u0, u - 1.25 * size[0]), (u + 1.25 * size[0], block.u1)):
        clumps(draft, (left, block.v0 + 3, right, block.v1 - 3), draft.style.tree_cover, dates)


def _shrubs(draft: Draft, block: Block, dates: int) -> None:
    """Scattered low shrubs; a style without them draws no random numbers."""
    if not draft.style.shrubs:
        return
    for _ in range(3):
        u, v = draft.between(block.u0, block.u1), draft.between(block.v0, block.v1)
        half = (draft.between(12, 60), draft.between(8, 40))
        box = (
            max(u - half[0], block.u0 + 2), max(v - half[1], block.v0 + 2),
            min(u + half[0], block.u1 - 2), min(v + half[1], block.v1 - 2),
        )  # fmt: skip
        share = draft.style.shrubs * draft.between(0.1, 0.7)
        plant(draft, box, draft.between(2.2, 6.0), share, dates, (0.5, 1.6))


def _fleeting_pond(draft: Draft, block: Block, dates: int) -> None:
    """A pond at one date, mud or grass at the other, as a nuisance."""
    if not draft.style.ponds or not draft.chance(draft.style.ponds):
        return
    u, v = draft.between(block.u0 + 15, block.u1 - 15), draft.between(block.v0 + 12, block.v1 - 12)
    half = (draft.between(5, 26), draft.between(4, 16))
    draft.add_area(blob(draft, u, v, 1.2 * half[0], 1.2 * half[1]), "scrub", dates, GARDEN)
    outline = blob(draft, u, v, *half)
    states = [
        draft.ground(outline, "water", dates, WATER),
        draft.ground(outline, draft.pick("soil", "meadow", "scrub", "plough"), dates, WATER),
    ]
    before, after = states if draft.chance(0.5) else states[::-1]
    draft.add_swap(before, after)


def courts(draft: Draft, block: Block, dates: int) -> None:
    """Tennis courts and pitches: rectangles that are not buildings."""
    u, v = draft.between(block.u0 + 25, block.u1 - 25), draft.between(block.v0 + 18, block.v1 - 18)
    hue = float(draft.rng.random())
    half_u, half_v = (9.1, 18.2) if draft.chance(0.8) else (14.0, 8.0)
    for i in range(int(draft.rng.integers(1, 4))):
        at = u + i * (2 * half_u + 1.5)
        outer = rectangle(draft.warp, at - half_u, v - half_v, at + half_u, v + half_v)
        draft.areas.append(Area(outer, "court", hue, 1.0, dates, WATER))
        if half_v > 12:
            corners = ((-5.5, -11.9), (5.5, -11.9), (5.5, 11.9), (-5.5, 11.9), (-5.5, -11.9))
            inner = np.asarray([(at + du, v + dv) for du, dv in corners])
            draft.add_line(draft.warp(inner), 0.2, "paint", dates, MARK, hue=0.5)


def farmstead(draft: Draft, block: Block, dates: int) -> None:
    """A few isolated buildings in the open, with a yard, a track and trees."""
    # space for the barns, which are in line with the house, so that none reaches a street
    u0, v0, u1, v1 = block.u0 + 58, block.v0 + 22, block.u1 - 58, block.v1 - 22
    if u1 <= u0 or v1 <= v0:
        return
    u, v = draft.between(u0, u1), draft.between(v0, v1)
    if beyond(draft, draft.warp(np.asarray([[u - 25, v - 25], [u + 25, v + 25]]))):
        return
    draft.add_area(blob(draft, u, v, 20, 15), draft.pick("soil", "gravel", "lawn"), dates, WATER)
    drive = path(draft.warp, u, v, u, block.v0)
    material = draft.pick("gravel", "soil", "paving")
    draft.add_line(drive, draft.between(2.6, 4), material, dates, VERGE, hue=0.4)
    x, y, angle, _, _ = draft.warp.at(u, v)
    turn = draft.between(-0.25, 0.25)
    for i in range(int(draft.rng.integers(1, 4))):
        kind = "house" if i == 0 else "hall"
        size = (draft.between(11, 17), draft.between(9, 12))
        if kind == "hall":
            size = (draft.between(16, 42), draft.between(9, 18))
        far = (0.0, 32.0, -32.0)[i]
        away = (far * math.cos(angle), far * math.sin(angle))
        for stands in lot_dates(draft, draft.lot_change):
            if stands & dates:
                build(draft, kind, (x + away[0], y + away[1], angle + turn), size, stands & dates)
    ring = draft.rng.normal(0, 1, (int(draft.rng.integers(0, 14)), 2))
    ring *= 24 / np.maximum(np.hypot(*ring.T), 1e-6)[:, None]
    plant_at(draft, ring * draft.between(0.9, 1.3) + (x, y), dates, (1.5, 4.6), None)


def _trails(draft: Draft, block: Block, dates: int) -> None:
    """A winding path or wheel track through a block."""
    u0, v0, u1, v1 = block.inner(3)
    ends = (draft.between(u0, u1), v0, draft.between(u0, u1), v1)
    points = path(draft.warp, *ends)
    bend = np.sin(np.linspace(0, math.pi * draft.between(1, 3), len(points)))
    points = points + np.outer(bend, draft.rng.normal(0, 6, 2))
    if beyond(draft, points) or wet(draft, points, 4.0):
        return
    material = str(draft.rng.choice(("gravel", "soil", "paving")))
    draft.add_line(points, draft.between(1.2, 3.0), material, dates, VERGE)


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
    """A container or a pile of material: below 14 square metres, so not a building."""
    x, y, angle, _, _ = draft.warp.at(u, v)
    half = (1.2, 3.0) if draft.chance(0.4) else (draft.between(0.7, 1.6), draft.between(0.7, 1.6))
    draft.props.append(
        (Box(x, y, angle + draft.between(-0.3, 0.3), half[0], half[1], draft.between(0.8, 2.6), 0.0,
             "flat", "crate", float(draft.rng.random()), draft.between(0.8, 1.1)), dates)
    )  # fmt: skip
