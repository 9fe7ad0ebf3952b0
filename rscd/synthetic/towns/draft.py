"""A plan being made, and helpers for all kinds of blocks: planting, water, building."""

import math
from dataclasses import dataclass, field

import numpy as np

from rscd.synthetic.towns.buildings import draw_building
from rscd.synthetic.towns.layout import Warp
from rscd.synthetic.towns.parts import (
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

MARGIN_M = 45.0
"""Margin of a plan around the image: the longest shadow that is drawn."""

GROUND, GARDEN, WATER, VERGE, STREET, MARK = range(6)
"""Layers, drawn in this order."""


@dataclass
class Draft:
    """A plan being made: all contents of the town, and the random generator."""

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
    river_width: float = 0.0
    frame: tuple[float, float] = (0.0, 0.0)
    """Width and height of the image, metres."""
    fine: bool = True
    """Whether the resolution shows cars, fences and the like."""
    tree_scale: float = 1.0
    """Factor for fewer and larger crowns if single trees cannot be resolved."""
    lot_change: float = 0.0
    """Probability that a lot differs between the dates."""

    def chance(self, p: float) -> bool:
        """True with probability ``p``."""
        return bool(self.rng.random() < p)

    def pick(self, *names: str) -> str:
        """A random one of some names."""
        return names[int(self.rng.integers(len(names)))]

    def between(self, low: float, high: float) -> float:
        """A uniform random number."""
        return float(self.rng.uniform(low, high))

    def ground(
        self, points: Points, material: str, dates: int = BOTH, layer: int = GROUND,
        rows: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Area:  # fmt: skip
        """Add an area with its own hue and tone."""
        return Area(
            points, material, float(self.rng.random()), self.between(0.9, 1.1), dates, layer, rows
        )

    def add_area(
        self, points: Points, material: str, dates: int = BOTH, layer: int = GROUND
    ) -> None:
        """Add an area."""
        self.areas.append(self.ground(points, material, dates, layer))

    def add_line(
        self, points: Points, width: float, material: str, dates: int, layer: int,
        *, hue: float | None = None, tone: float = 1.0, height: float = 0.0,
    ) -> None:  # fmt: skip
        """Add a line; its hue is random unless given."""
        hue = float(self.rng.random()) if hue is None else hue
        self.lines.append(Line(points, width, material, hue, tone, dates, layer, height))

    def add_swap(self, before: Area, after: Area, *, crop: bool = False) -> None:
        """Add ground whose cover may change as a nuisance."""
        self.swaps.append(Swap(before, after, float(self.rng.random()), crop))

    def add_tree(
        self, x: float, y: float, dates: int = BOTH, radius: tuple[float, float] = (1.6, 4.6),
        evergreen: bool | None = None,
    ) -> None:  # fmt: skip
        """Plant a tree."""
        r = self.between(*radius) * (1.0 if self.chance(0.7) else 0.7)
        green = self.chance(self.style.evergreen) if evergreen is None else evergreen
        height = r * self.between(1.2, 1.9) + 1.0
        self.trees.append(
            Tree(x, y, r, height, green, float(self.rng.random()), dates, float(self.rng.random()))
        )

    def add_car(self, x: float, y: float, angle: float, taken: float, dates: int = BOTH) -> None:
        """Add a parking space, occupied with probability ``taken`` at either date."""
        if not self.fine:
            return
        a, b, c, d, e, f, g = self.rng.random(7)
        slip = (0.8 * (e - 0.5), 0.8 * (f - 0.5))
        self.spots.append(ParkingSpot(x, y, angle, (a < taken, b < taken), (c, d), slip, g, dates))


def beyond(draft: Draft, points: Points) -> bool:
    """Whether some points and everything between them are outside the image and its margin."""
    low, high = points.min(axis=0) - MARGIN_M, points.max(axis=0) + MARGIN_M
    width, height = draft.frame
    return bool(low[0] > width or low[1] > height or high[0] < 0 or high[1] < 0)


def wet(draft: Draft, points: Points, margin: float) -> bool:
    """Whether any of some points is within ``margin`` metres of the river bank."""
    if draft.river is None:
        return False
    gap = points[:, None, :] - draft.river[None, :, :]
    return bool((gap**2).sum(axis=2).min() < (draft.river_width / 2 + margin) ** 2)


def plant(draft: Draft, box: tuple[float, float, float, float], spacing: float, share: float,
          dates: int = BOTH, radius: tuple[float, float] = (1.8, 4.4)) -> None:  # fmt: skip
    """Plant trees on a jittered grid over a (u,v) rectangle; ``share`` of the cells get one."""
    u0, v0, u1, v1 = box
    if u1 <= u0 or v1 <= v0:
        return
    spacing *= draft.tree_scale
    radius = (radius[0] * draft.tree_scale, radius[1] * draft.tree_scale)
    us, vs = np.meshgrid(np.arange(u0, u1, spacing), np.arange(v0, v1, spacing))
    uv = np.stack((us.ravel(), vs.ravel()), 1)
    uv = uv[draft.rng.random(len(uv)) < share]
    uv = uv + draft.rng.uniform(-0.45, 0.45, uv.shape) * spacing
    plant_at(draft, draft.warp(uv), dates, radius, None)


def plant_at(
    draft: Draft, places: Points, dates: int, radius: tuple[float, float], evergreen: bool | None
) -> None:
    """Plant trees at world positions, except in the river or far outside."""
    low, high = -MARGIN_M, np.asarray(draft.frame) + MARGIN_M
    for place in places[((places > low) & (places < high)).all(axis=1)]:
        if not wet(draft, place[None], 0.5):
            draft.add_tree(float(place[0]), float(place[1]), dates, radius, evergreen)


def clumps(draft: Draft, box: tuple[float, float, float, float], share: float,
           dates: int = BOTH) -> None:  # fmt: skip
    """Plant scattered groups of trees, as on pasture and in scrub."""
    u0, v0, u1, v1 = box
    if u1 <= u0 or v1 <= v0:
        return
    count = draft.rng.poisson(max(share * (u1 - u0) * (v1 - v0) / 700, 0))
    for _ in range(int(count)):
        u, v = draft.between(u0, u1), draft.between(v0, v1)
        n = int(draft.rng.integers(1, 7))
        near = draft.rng.normal(0, 4.5, (n, 2)) + np.asarray([u, v])
        near = np.clip(near, (u0, v0), (u1, v1))
        plant_at(draft, draft.warp(near), dates, (1.0, 4.4), None)


def blob(draft: Draft, u: float, v: float, half_u: float, half_v: float) -> Points:
    """A smooth irregular outline around a position."""
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    r = np.ones_like(t)
    for k in (2, 3, 5):
        r += draft.between(0.04, 0.3 / k) * np.sin(k * t + draft.between(0, 2 * math.pi))
    return draft.warp(np.stack((u + half_u * r * np.cos(t), v + half_v * r * np.sin(t)), 1))


def build(draft: Draft, kind: str, place: tuple[float, float, float], size: tuple[float, float],
          dates: int) -> Building | None:  # fmt: skip
    """Add a building unless it is in the river."""
    number = len(draft.buildings) + 1
    building = draw_building(draft.rng, draft.style, kind, place, size, number, dates)
    if wet(draft, np.asarray(building.footprint.exterior.coords), 3.0):
        return None
    draft.buildings.append(building)
    return building


def lot_dates(draft: Draft, change: float) -> tuple[int, ...]:
    """Dates of the houses of a lot: one entry per building, none for an empty lot."""
    if draft.chance(change):
        growth = draft.style.growth
        shares = (0.6, 0.22, 0.18) if growth is None else (growth, 1 - growth, 0.0)
        return {0: (T2,), 1: (T1,), 2: (T1, T2)}[int(draft.rng.choice(3, p=shares))]
    return () if draft.chance(0.08) else (BOTH,)
