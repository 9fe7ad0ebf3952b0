"""``plan_town``: streets, blocks and lots of a town at two dates, from one seed."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from rscd.base.arguments import check_range
from rscd.base.errors import UsageError
from rscd.base.types import ShapeHW
from rscd.synthetic.towns.draft import MARGIN_M, MARK, STREET, VERGE, WATER, Draft, beyond, plant_at
from rscd.synthetic.towns.layout import (
    Block,
    draw_rows,
    draw_warp,
    path,
    point_in_uv_bounds,
    rectangle,
)
from rscd.synthetic.towns.lots import fill_houses, fill_large
from rscd.synthetic.towns.open import fill_earthwork, fill_open
from rscd.synthetic.towns.parts import BOTH, T1, T2, Box, ParkingSpot, Points, Town, TownStyle


def check_size(shape_hw: ShapeHW, gsd_m: float, change_share: float) -> None:
    """Raise UsageError for invalid sizes, resolutions and fractions."""
    if min(shape_hw) < 1:
        raise UsageError(f"expected a size of at least 1 x 1 pixels, found {shape_hw}")
    if not 0.05 <= gsd_m <= 30:
        raise UsageError(f"expected a ground sample distance of 0.05 to 30 m, found {gsd_m}")
    if not 0 <= change_share <= 1:
        raise UsageError(f"expected a change share from 0 to 1, found {change_share}")


def plan_town(
    seed: int,
    shape_hw: ShapeHW = (256, 256),
    gsd_m: float = 0.5,
    *,
    change_share: float = 0.2,
    style: TownStyle | None = None,
) -> Town:
    """Plan a town at two dates.

    Streets bound rows of blocks in a plane bent by a smooth warp. Whole blocks may be
    developed or cleared between the dates, and single lots may gain, lose or replace their house.

    Args:
        seed: the same seed gives the same town.
        shape_hw: image size in pixels.
        gsd_m: ground sample distance, metres per pixel, 0.05 to 30.
        change_share: expected fraction of building lots that differ between the dates, 0 to 1; half
            of it is in whole blocks, so small images vary widely.
        style: style of the place; drawn from the seed if None.

    Returns:
        The plan. Its buildings have ids, heights, footprints and dates; lots without change have
        the identical building at both dates.

    Raises:
        UsageError: for a size, resolution or fraction out of range.
    """
    check_size(shape_hw, gsd_m, change_share)
    rng = np.random.default_rng(seed)
    style = TownStyle.draw(rng) if style is None else style
    shares = ("shrubs", "ponds") if style.growth is None else ("growth", "shrubs", "ponds")
    check_range(style, shares, 0, 1)
    frame = shape_hw[1] * gsd_m, shape_hw[0] * gsd_m
    draft = Draft(rng, style, draw_warp(rng, style.curvature), frame=frame)
    draft.fine, draft.tree_scale = gsd_m <= 2, max(gsd_m / 1.5, 1.0)
    draft.lot_change = change_share / max(2 - change_share, 1)
    _river(draft)
    blocks = _draw_blocks(draft)
    states = {(b.row, b.u0): _block_state(draft, change_share) for b in blocks}
    _fill(draft, blocks, states)
    _streets(draft, blocks, states)
    town = Town(
        seed, shape_hw, gsd_m, style, tuple(draft.areas), tuple(draft.lines),
        tuple(draft.buildings), tuple(draft.props), tuple(draft.spots), tuple(draft.trees),
        tuple(draft.swaps),
    )  # fmt: skip
    return _crop(town, draft)


def _river(draft: Draft) -> None:
    if not draft.chance(draft.style.river):
        return
    length = 1.5 * math.hypot(*draft.frame) + 200
    t = np.arange(-length / 2, length / 2, 8.0)
    bend = 30 * np.sin(t / draft.between(50, 120)) + 12 * np.sin(t / 23 + 1)
    angle = draft.between(0, math.pi)
    c, s = math.cos(angle), math.sin(angle)
    centre = draft.rng.uniform(0.2, 0.8, 2) * draft.frame
    draft.river = np.stack((c * t - s * bend, s * t + c * bend), 1) + centre
    width = draft.river_width = draft.between(6, 32)
    draft.add_line(draft.river, width + 9, "scrub", BOTH, WATER, hue=0.4, tone=0.95)
    draft.add_line(draft.river, width, "water", BOTH, WATER)
    for x, y in draft.river[:: max(int(2 / (0.1 + draft.style.tree_cover)), 1)]:
        off = (width / 2 + draft.between(2, 6)) * (1 if draft.chance(0.5) else -1)
        draft.add_tree(float(x - s * off), float(y + c * off), radius=(1.5, 4.5))


def _draw_blocks(draft: Draft) -> list[Block]:
    """Blocks that touch the image or its margin."""
    u0, v0, u1, v1 = point_in_uv_bounds(draft.warp, *draft.frame)
    m = MARGIN_M
    borders, cuts = draw_rows(draft.rng, draft.style, (u0 - m, v0 - m, u1 + m, v1 + m))
    blocks = [
        Block(left, borders[row], right, borders[row + 1], row)
        for row, us in enumerate(cuts)
        for left, right in pairwise(us)
    ]
    return [block for block in blocks if not beyond(draft, _inside(draft, block))]


def _inside(draft: Draft, block: Block) -> Points:
    """World positions of 4 x 4 points of a block."""
    side = np.linspace(0, 1, 4)
    us, vs = np.meshgrid(
        block.u0 + side * (block.u1 - block.u0), block.v0 + side * (block.v1 - block.v0)
    )
    return draft.warp(np.stack((us.ravel(), vs.ravel()), 1))


def _block_state(draft: Draft, change_share: float) -> tuple[str, int]:
    """(use, dates at which it is built up) of a block; 0 = open land."""
    style = draft.style
    if not draft.chance(style.urban):
        return "open", 0
    draw = draft.rng.random()
    use = "hall" if draw < style.industrial else "houses"
    if style.industrial <= draw < style.industrial + style.dense:
        use = "apartments"
    if draft.chance(change_share / 2):
        return use, T2 if draft.chance(0.85 if style.growth is None else style.growth) else T1
    return use, BOTH


def _fill(
    draft: Draft, blocks: list[Block], states: dict[tuple[int, float], tuple[str, int]]
) -> None:
    for block in blocks:
        use, when = states[block.row, block.u0]
        absent = BOTH & ~when
        if absent == BOTH:
            fill_open(draft, block)
            continue
        if absent:
            draw = draft.rng.random()
            if draw < 0.4:
                fill_earthwork(draft, block, absent)
            else:
                fill_open(draft, block, absent)
        draft.add_area(rectangle(draft.warp, *block.inner(0)), "lawn", when)
        change = draft.lot_change if when == BOTH else 0.0
        inset = draft.between(6.5, 9.0)
        if use == "houses":
            fill_houses(draft, block, inset, when, change)
        else:
            fill_large(draft, block, inset, when, change, use)


def _streets(
    draft: Draft, blocks: list[Block], states: dict[tuple[int, float], tuple[str, int]]
) -> None:
    """The streets beside built-up blocks, some of them main roads, and tracks in the open."""
    main_rows = {b.row for b in blocks} | {b.row + 1 for b in blocks}
    main_rows = {r for r in sorted(main_rows) if draft.chance(0.22)}
    pale = draft.chance(0.35)
    for block in blocks:
        when = states[block.row, block.u0][1]
        for side in ("top", "bottom", "left", "right"):
            row = block.row + (1 if side == "bottom" else 0)
            main = side in ("top", "bottom") and row in main_rows
            _street(draft, block, side, main, BOTH if main else when, pale)
            if not main and when != BOTH and side in {"top", "left"}:
                _country_road(draft, block, side, BOTH & ~when)


def _side(block: Block, side: str) -> tuple[float, float, float, float]:
    u0, v0, u1, v1 = block.inner(0)
    return {
        "top": (u0, v0, u1, v0),
        "bottom": (u0, v1, u1, v1),
        "left": (u0, v0, u0, v1),
        "right": (u1, v0, u1, v1),
    }[side]


def _street(draft: Draft, block: Block, side: str, main: bool, when: int, pale: bool) -> None:
    if not when:
        return
    points = path(draft.warp, *_side(block, side))
    width = 9.5 if main else 6.6
    material = "pale_road" if pale and not main else "asphalt"
    draft.add_line(points, width + 5.0, "lawn", when, VERGE, hue=0.4)
    draft.add_line(points, width + 3.2, "paving", when, VERGE, hue=0.5)
    draft.add_line(points, width, material, when, STREET, hue=0.5 if main else 0.3)
    if side not in {"top", "left"}:  # the neighbours draw the other two sides
        return
    if beyond(draft, points) or not draft.fine:
        return
    if material == "asphalt":
        _wear(draft, points, width, when)
    if draft.chance(0.35 * draft.style.tree_cover):
        _street_trees(draft, points, width, when)
    if main:
        _dashes(draft, points, when)
    if draft.chance(0.8):
        _kerb_cars(draft, points, width, when)


def _country_road(draft: Draft, block: Block, side: str, when: int) -> None:
    """Between open blocks: a narrow road, a track, a hedge, or nothing."""
    kind = draft.rng.random()
    points = path(draft.warp, *_side(block, side))
    hue = float(draft.rng.random())
    if kind < 0.35:
        draft.add_line(points, 7.0, "meadow", when, VERGE, hue=hue)
        draft.add_line(points, draft.between(4.2, 5.6), "asphalt", when, VERGE, hue=hue)
    elif kind < 0.6:
        material = "gravel" if draft.chance(0.6) else "soil"
        draft.add_line(points, draft.between(2.6, 3.6), material, when, VERGE, hue=hue)
        draft.add_line(points, 0.8, "meadow", when, VERGE, hue=hue)
    if kind > 0.25 and draft.chance(0.7 * draft.style.tree_cover):
        side_m = draft.between(4, 6) * (1 if draft.chance(0.5) else -1)
        near = points + _normals(points) * side_m + draft.rng.normal(0, 0.6, points.shape)
        plant_at(draft, near[draft.rng.random(len(near)) < 0.8], when, (1.6, 4.2), None)


def _wear(draft: Draft, points: Points, width: float, when: int) -> None:
    """Wheel tracks, sealed cracks and mended patches."""
    normal = _normals(points)
    for at in (-0.34, -0.16, 0.16, 0.34):
        track, tone = points + normal * (at * width), draft.between(0.92, 1.04)
        draft.add_line(track, 0.5, "asphalt", when, STREET, hue=0.12, tone=tone)
    for _ in range(int(draft.rng.poisson(len(points) / 14))):
        i = int(draft.rng.integers(len(points) - 1))
        off = normal[i] * draft.between(-0.3, 0.3) * width
        draft.add_line(
            points[i : i + 2] + off, draft.between(0.8, 2.6), draft.pick("seal", "asphalt"), when,
            STREET, hue=float(draft.rng.random()), tone=draft.between(0.85, 1.1),
        )  # fmt: skip


def _street_trees(draft: Draft, points: Points, width: float, when: int) -> None:
    normal, share = _normals(points), draft.between(0.2, 0.7)
    for side in (-1.0, 1.0):
        near = points + normal * side * (width / 2 + 2.2)
        plant_at(draft, near[draft.rng.random(len(near)) < share], when, (1.0, 3.2), None)


def _dashes(draft: Draft, points: Points, when: int) -> None:
    """A broken centre line: 3 m paint, 6 m gap."""
    length = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))))
    for start in np.arange(4.0, length[-1] - 4, 9.0):
        at = np.asarray([start, start + 3.0])
        dash = np.stack([np.interp(at, length, points[:, i]) for i in (0, 1)], 1)
        draft.add_line(dash, 0.15, "paint", when, MARK, hue=0.5)


def _kerb_cars(draft: Draft, points: Points, width: float, when: int) -> None:
    """Cars along the kerb and in the lanes."""
    steps = np.diff(points, axis=0)
    for i in range(len(steps)):
        if not draft.chance(0.16):
            continue
        angle = math.atan2(steps[i, 1], steps[i, 0])
        lane = width / 2 - 1.2 if draft.chance(0.7) else width / 4
        lane *= 1 if draft.chance(0.5) else -1
        x = points[i, 0] - math.sin(angle) * lane
        y = points[i, 1] + math.cos(angle) * lane
        draft.add_car(float(x), float(y), angle, 0.6, when)


def _normals(points: Points) -> Points:
    """(N,2) unit vectors across a line, to the left."""
    normal = np.stack((-np.gradient(points[:, 1]), np.gradient(points[:, 0])), 1)
    return np.asarray(normal / np.maximum(np.hypot(*normal.T), 1e-6)[:, None], np.float64)


def _crop(town: Town, draft: Draft) -> Town:
    """The same town without anything beyond the margin."""
    right, bottom = (side + MARGIN_M for side in draft.frame)
    frame = (-MARGIN_M, -MARGIN_M, right, bottom)

    def near(thing: Box | ParkingSpot) -> bool:
        return -MARGIN_M < thing.x < right and -MARGIN_M < thing.y < bottom

    kept: dict[str, Any] = {kind: tuple(town.within(kind, frame)) for kind in town.bounds}
    kept["props"] = tuple(prop for prop in town.props if near(prop[0]))
    kept["spots"] = tuple(spot for spot in town.spots if near(spot))
    return replace(town, **kept)
