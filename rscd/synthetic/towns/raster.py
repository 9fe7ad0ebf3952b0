"""From plan to raster: cover and height of every pixel at one date.

A ``Canvas`` is a window of the world's pixel grid at the resolution the town is drawn in (finer
than the image). Every drawn object has a number; a table maps numbers to colours later, so that
season and light cost nothing here.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rscd.base.types import FloatArray
from rscd.synthetic.towns.materials import MATERIALS
from rscd.synthetic.towns.parts import Area, Box, Line, ParkingSpot, Points, Tree

_SHIFT = 6
"""Fractional bits of OpenCV's drawing coordinates."""


@dataclass
class Canvas:
    """A window of the world being drawn.

    ``ids`` (h,w) int32 indexes ``looks``; ``height`` (h,w) float32 metres; ``detail`` (h,w)
    float32 multiplies brightness.
    """

    col: int
    row: int
    res: float
    ids: NDArray[np.int32]
    height: FloatArray
    detail: FloatArray
    looks: list[tuple[str, float, float]] = field(default_factory=list)
    """(material, hue, tone) of each number."""
    floor_ids: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """``ids`` before anything was built or planted."""
    bare_ids: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """``ids`` before trees were planted."""
    bare_height: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in the world, metres."""
        left, top = self.col * self.res, self.row * self.res
        height, width = self.ids.shape
        return left, top, left + width * self.res, top + height * self.res

    def number(self, material: str, hue: float, tone: float) -> int:
        """A new number for an object with this look."""
        self.looks.append((material, hue, tone))
        return len(self.looks) - 1

    def pixels(self, points: Points) -> NDArray[np.int32]:
        """World metres -> OpenCV fixed-point pixels of this window."""
        xy = points / self.res - (self.col + 0.5, self.row + 0.5)
        return np.rint(xy * (1 << _SHIFT)).astype(np.int32)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        """Rows and columns within ``reach`` metres of a position; None if all are outside."""
        left = max(math.floor((x - reach) / self.res) - self.col, 0)
        top = max(math.floor((y - reach) / self.res) - self.row, 0)
        right = min(math.ceil((x + reach) / self.res) + 1 - self.col, self.ids.shape[1])
        bottom = min(math.ceil((y + reach) / self.res) + 1 - self.row, self.ids.shape[0])
        if right <= left or bottom <= top:
            return None
        return slice(top, bottom), slice(left, right)


def blank(col: int, row: int, shape_hw: tuple[int, int], res: float) -> Canvas:
    """An empty window: pasture everywhere."""
    return Canvas(
        col, row, res,
        np.zeros(shape_hw, np.int32), np.zeros(shape_hw, np.float32), np.ones(shape_hw, np.float32),
        [("meadow", 0.4, 1.0)],
    )  # fmt: skip


def draw_ground(canvas: Canvas, thing: Area | Line) -> None:
    """Draw an area or a line."""
    if isinstance(thing, Area):
        draw_area(canvas, thing)
    else:
        draw_line(canvas, thing)


def fray(canvas: Canvas, textures: FloatArray) -> None:
    """Make the borders of natural ground ragged by up to about a metre."""
    h, w = canvas.ids.shape
    columns, rows = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    middle, fine = textures[1], textures[2]
    columns += (0.6 * middle + 0.4 * fine) / np.float32(canvas.res)
    rows += (0.6 * fine - 0.5 * middle) / np.float32(canvas.res)
    # float32 represents every number below 2^24 exactly
    numbers, edge = canvas.ids.astype(np.float32), cv2.BORDER_REPLICATE
    frayed = cv2.remap(numbers, columns, rows, cv2.INTER_NEAREST, borderMode=edge)
    canvas.ids = frayed.astype(np.int32)


def draw_area(canvas: Canvas, area: Area) -> None:
    """Fill a polygon; crop rows become stripes of brightness."""
    number = canvas.number(area.material, area.hue, area.tone)
    points = canvas.pixels(area.points)
    cv2.fillPoly(canvas.ids, [points], number, lineType=cv2.LINE_8, shift=_SHIFT)
    angle, period, depth = area.rows
    if depth == 0 or period < 2 * canvas.res:
        return
    low, high = area.points.min(axis=0), area.points.max(axis=0)
    reach = float((high - low).max()) / 2
    middle = (low + high) / 2
    window = canvas.window(float(middle[0]), float(middle[1]), reach)
    if window is None:
        return
    u, v = local_axes(canvas, window, 0.0, 0.0, angle)
    wave = 1 + depth * np.sin(v * (2 * math.pi / period) + 0.2 * np.sin(u * 0.11))
    np.copyto(canvas.detail[window], wave.astype(np.float32), where=canvas.ids[window] == number)


def draw_line(canvas: Canvas, line: Line) -> None:
    """Draw a polyline of constant width, with its height if it has one."""
    thickness = round(line.width / canvas.res)
    if thickness < 1:
        if line.width < 0.35 * canvas.res:
            return
        thickness = 1
    number = canvas.number(line.material, line.hue, line.tone)
    points = [canvas.pixels(line.points)]
    cv2.polylines(canvas.ids, points, False, number, thickness, cv2.LINE_8, _SHIFT)
    if line.height:
        cv2.polylines(canvas.height, points, False, line.height, thickness, cv2.LINE_8, _SHIFT)


def local_axes(
    canvas: Canvas, window: tuple[slice, slice], x: float, y: float, angle: float
) -> tuple[FloatArray, FloatArray]:
    """Coordinates (u,v) in metres of a window's pixel centres, in axes rotated about (x,y)."""
    rows, columns = window
    xs = (np.arange(columns.start, columns.stop) + canvas.col + 0.5) * canvas.res - x
    ys = (np.arange(rows.start, rows.stop) + canvas.row + 0.5) * canvas.res - y
    c, s = math.cos(angle), math.sin(angle)
    u = (c * xs)[None, :] + (s * ys)[:, None]
    v = (-s * xs)[None, :] + (c * ys)[:, None]
    return u.astype(np.float32), v.astype(np.float32)


def draw_box(canvas: Canvas, box: Box) -> None:
    """Draw a box where it is higher than its surroundings; decals paint, sunk surfaces cut in."""
    window = canvas.window(box.x, box.y, math.hypot(box.half_u, box.half_v))
    if window is None:
        return
    u, v = local_axes(canvas, window, box.x, box.y, box.angle)
    du = np.asarray(box.half_u - np.abs(u), np.float32)
    dv = np.asarray(box.half_v - np.abs(v), np.float32)
    inside = (du >= 0) & (dv >= 0)
    top = _surface(box, du, dv)
    number = canvas.number(box.material, box.hue, box.tone)
    if box.shape not in {"decal", "sunk"}:
        inside &= top > canvas.height[window]
    if box.shape != "decal":
        np.copyto(canvas.height[window], top, where=inside)
    np.copyto(canvas.ids[window], number, where=inside)
    seam: FloatArray | float = 1.0
    if box.seam > 2 * canvas.res:
        seam = (1 + 0.05 * np.sign(np.sin(u * (2 * math.pi / box.seam)))).astype(np.float32)
    np.copyto(canvas.detail[window], seam, where=inside)


def _surface(box: Box, du: FloatArray, dv: FloatArray) -> FloatArray:
    """Height of the top of a box over its own coordinates."""
    if box.shape == "gable":
        return np.asarray(box.z + box.slope * dv, np.float32)
    if box.shape == "hip":
        return np.asarray(box.z + box.slope * np.minimum(du, dv), np.float32)
    return np.full(du.shape, box.z, np.float32)


def draw_car(canvas: Canvas, spot: ParkingSpot, date_index: int, redraw: bool) -> None:
    """Park a car; at t2 a redrawn spot has another car, or none."""
    index = date_index if redraw else 0
    if not spot.taken[index] or canvas.res > 1.6:
        return
    slip, hue = spot.slip[index], spot.hues[index]
    x = spot.x + math.cos(spot.angle) * slip
    y = spot.y + math.sin(spot.angle) * slip
    body = Box(x, y, spot.angle, 2.15, 0.88, 1.0, 0.0, "flat", "car", hue, 1.0)
    draw_box(canvas, body)
    if canvas.res < 0.4:
        draw_box(canvas, body._replace(half_u=1.35, half_v=0.72, z=1.25, material="glass"))
        draw_box(canvas, body._replace(half_u=0.75, half_v=0.68, z=1.4))


@lru_cache(maxsize=4096)
def crown(radius_px: int, variant: int) -> FloatArray:
    """The relief of a tree crown: (n,n) float32, 0 outside, up to 1 at the top.

    A few spheres of foliage on a common dome, with a ragged outline. Pure in its arguments.
    """
    rng = np.random.default_rng((radius_px, variant))
    size = int(radius_px * 1.3) + 1
    ys, xs = np.mgrid[-size : size + 1, -size : size + 1].astype(np.float32) / radius_px
    theta = np.arctan2(ys, xs)
    edge = np.ones_like(theta)
    for k in (2, 3, 5, 8):
        edge += rng.uniform(0.02, 0.10) * np.sin(k * theta + rng.uniform(0, 6.283))
    rho = np.hypot(xs, ys) / edge
    dome = np.sqrt(np.clip(1 - rho**2, 0, 1))
    leaves = np.zeros_like(dome)
    for _ in range(int(4 + 2 * min(radius_px, 16))):
        r, t = math.sqrt(rng.random()) * 0.85, rng.uniform(0, 6.283)
        size_r = rng.uniform(0.18, 0.38)
        d2 = ((xs - r * math.cos(t)) ** 2 + (ys - r * math.sin(t)) ** 2) / size_r**2
        lift = math.sqrt(max(1 - r * r, 0)) * 0.72
        np.maximum(
            leaves, np.where(d2 < 1, lift + size_r * np.sqrt(np.clip(1 - d2, 0, 1)), 0), out=leaves
        )
    relief = np.maximum(0.75 * dome, leaves * (dome > 0.05))
    return np.asarray(np.clip(relief, 0, 1) * (rho < 1), np.float32)


def draw_tree(canvas: Canvas, tree: Tree) -> None:
    """Draw a crown where it is higher than its surroundings."""
    radius_px = max(round(tree.radius / canvas.res), 1)
    if radius_px > 12:  # sizes are rounded coarsely to keep the cache small
        radius_px = round(radius_px / 3) * 3
    relief = crown(radius_px, int(tree.hue * 7919) % 12)
    size = relief.shape[0] // 2
    left = math.floor(tree.x / canvas.res) - canvas.col - size
    top = math.floor(tree.y / canvas.res) - canvas.row - size
    h, w = canvas.ids.shape
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + 2 * size + 1, w), min(top + 2 * size + 1, h)
    if x1 <= x0 or y1 <= y0:
        return
    part = relief[y0 - top : y1 - top, x0 - left : x1 - left]
    window = slice(y0, y1), slice(x0, x1)
    raised = part * np.float32(tree.height)
    over = (part > 0) & (raised > canvas.height[window])
    number = canvas.number("conifer" if tree.evergreen else "broadleaf", tree.hue, 1.0)
    np.copyto(canvas.height[window], raised, where=over)
    np.copyto(canvas.ids[window], number, where=over)
    np.copyto(canvas.detail[window], np.float32(1), where=over)


def cover_codes(canvas: Canvas, classes: dict[str, int]) -> NDArray[np.uint8]:
    """(N,) land-cover value of each number of a canvas."""
    return np.asarray([classes[MATERIALS[m].cover] for m, _, _ in canvas.looks], np.uint8)
