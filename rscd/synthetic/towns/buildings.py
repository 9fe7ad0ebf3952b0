"""Buildings as boxes: houses, rows, apartments, shops, halls and barns with roof fittings."""

import math

import numpy as np
from shapely import Polygon, union_all

from rscd.synthetic.towns.parts import Box, Building, TownStyle

ROOF_SETS = {
    "tile": ("roof_tile", "roof_tile", "roof_tile", "roof_brown"),
    "shingle": ("roof_shingle", "roof_shingle", "roof_shingle", "roof_brown"),
    "slate": ("roof_slate", "roof_slate", "roof_shingle", "roof_tile"),
    "mixed": ("roof_tile", "roof_shingle", "roof_slate", "roof_brown"),
}


def outline(box: Box) -> Polygon:
    """The rectangle of a box, metres."""
    c, s = math.cos(box.angle), math.sin(box.angle)
    du = (box.half_u * c, box.half_u * s)
    dv = (-box.half_v * s, box.half_v * c)
    corners = [
        (box.x + i * du[0] + j * dv[0], box.y + i * du[1] + j * dv[1])
        for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    return Polygon(corners)


def ridge_height(box: Box) -> float:
    """Highest point of a box, metres."""
    rise = {"gable": box.half_v, "hip": min(box.half_u, box.half_v)}
    return box.z + box.slope * rise.get(box.shape, 0.0)


def _offset(box: Box, du: float, dv: float) -> tuple[float, float]:
    c, s = math.cos(box.angle), math.sin(box.angle)
    return box.x + c * du - s * dv, box.y + s * du + c * dv


def _on(
    box: Box, du: float, dv: float, half_u: float, half_v: float, rise: float, material: str,
    hue: float,
) -> Box:  # fmt: skip
    """A flat fitting ``rise`` above the roof of ``box`` at (du,dv)."""
    x, y = _offset(box, du, dv)
    shape = "decal" if rise == 0 else "flat"
    return Box(x, y, box.angle, half_u, half_v, box.z + rise, 0.0, shape, material, hue, 1.0)


def _flat_fittings(rng: np.random.Generator, roof: Box) -> list[Box]:
    """Lift housings, ventilators and hatches of a flat roof."""
    fittings = []
    count = int(min(2 + roof.half_u * roof.half_v / 40, 14) * rng.uniform(0.3, 1.2))
    for _ in range(count):
        half = float(rng.uniform(0.5, 1.6))
        du = float(rng.uniform(-0.8, 0.8)) * roof.half_u
        dv = float(rng.uniform(-0.7, 0.7)) * roof.half_v
        depth, rise = half * float(rng.uniform(0.6, 1.4)), float(rng.uniform(0.5, 1.8))
        fittings.append(_on(roof, du, dv, half, depth, rise, "fitting", float(rng.random())))
    if roof.half_u * roof.half_v > 60 and rng.random() < 0.6:
        du = float(rng.uniform(-0.6, 0.6)) * roof.half_u
        fittings.append(_on(roof, du, 0.0, 2.6, 1.9, 2.6, roof.material, roof.hue * 0.7))
    return fittings


def _parapet(roof: Box) -> list[Box]:
    """The sunken surface of a flat roof, whose edge stays 0.5 m above."""
    rim = 0.4
    if min(roof.half_u, roof.half_v) < 2.5:
        return [roof]
    wall = roof._replace(z=roof.z + 0.5, material="fitting", hue=0.3)
    return [wall, roof._replace(half_u=roof.half_u - rim, half_v=roof.half_v - rim, shape="sunk")]


def _solar(rng: np.random.Generator, roof: Box) -> list[Box]:
    """A field of solar panels on one side of a roof."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    half_u = roof.half_u * float(rng.uniform(0.25, 0.7))
    half_v = roof.half_v * float(rng.uniform(0.2, 0.36))
    room = 0.8 * (roof.half_u - half_u)
    du, dv = float(rng.uniform(-room, room)), side * roof.half_v * 0.52
    return [_on(roof, du, dv, half_u, half_v, 0, "solar", float(rng.random()))]


def _skylights(rng: np.random.Generator, roof: Box) -> list[Box]:
    """Rows of translucent panels of a hall."""
    step, offset = float(rng.uniform(5, 9)), roof.half_v * float(rng.uniform(0.35, 0.6))
    count = int(2 * roof.half_u / step) - 1
    size = float(rng.uniform(0.5, 1.0))
    return [
        _on(roof, (i - (count - 1) / 2) * step, side * offset, size, size * 2.2, 0, "skylight", 0.5)
        for i in range(count)
        for side in (-1.0, 1.0)
    ]


def _house(
    rng: np.random.Generator, style: TownStyle, x: float, y: float, angle: float, w: float, d: float
) -> list[Box]:
    """A dwelling with a pitched roof; L- and T-plans get a wing."""
    material = str(rng.choice(ROOF_SETS[style.roofs]))
    hue, tone = float(rng.random()), float(rng.uniform(0.88, 1.12))
    shape = "hip" if rng.random() < (0.7 if style.roofs == "shingle" else 0.3) else "gable"
    slope = float(rng.uniform(0.35, 0.6) if shape == "hip" else rng.uniform(0.45, 0.9))
    if rng.random() < 0.07:
        shape, slope, material = "flat", 0.0, "roof_gravel"
    eaves = float(rng.choice((3.0, 3.2, 5.6))) + float(rng.uniform(-0.2, 0.4))
    turn = angle + float(rng.normal(0, 0.03))
    if d > w:
        turn, w, d = turn + math.pi / 2, d, w
    main = Box(x, y, turn, w / 2, d / 2, eaves, slope, shape, material, hue, tone)
    boxes = [main]
    for side in (1.0, -1.0):
        if rng.random() < 0.5:
            wing_w = d * float(rng.uniform(0.5, 0.85))
            reach = d * float(rng.uniform(0.12, 0.4))
            wx, wy = _offset(main, (w / 2 - wing_w / 2) * float(rng.uniform(-1, 1)), side * reach)
            boxes.append(
                main._replace(x=wx, y=wy, angle=turn + math.pi / 2, half_u=d / 2, half_v=wing_w / 2)
            )
    if shape != "flat" and rng.random() < 0.5:
        cx, cy = _offset(main, float(rng.uniform(-0.7, 0.7)) * w / 2, float(rng.uniform(-1, 1)))
        top = ridge_height(main) + 0.6
        boxes.append(Box(cx, cy, turn, 0.45, 0.35, top, 0.0, "flat", "chimney", hue, tone))
    if shape != "flat" and rng.random() < 0.12:
        boxes += _solar(rng, main)
    return boxes


def _long(
    rng: np.random.Generator, style: TownStyle, x: float, y: float, angle: float, w: float, d: float
) -> list[Box]:
    """A row of terraced houses under one ridge, unit by unit."""
    units = max(round(w / float(rng.uniform(5.5, 7.5))), 1)
    material, hue = str(rng.choice(ROOF_SETS[style.roofs])), float(rng.random())
    eaves, slope = float(rng.uniform(4.5, 7)), float(rng.uniform(0.5, 0.8))
    base = Box(x, y, angle, w / 2, d / 2, eaves, slope, "gable", material, hue, 1.0)
    boxes = []
    for i in range(units):
        step = float(rng.normal(0, 0.5))  # facades are slightly offset from each other
        ux, uy = _offset(base, (i - (units - 1) / 2) * w / units, step)
        tone = float(rng.uniform(0.88, 1.12))
        own = min(max(hue + float(rng.normal(0, 0.2)), 0), 1)
        z = base.z + float(rng.normal(0, 0.25))
        half_u = w / units / 2 + 0.02  # neighbours overlap slightly: no gap between units
        boxes.append(base._replace(x=ux, y=uy, half_u=half_u, hue=own, tone=tone, z=z))
    return boxes


def _apartments(
    rng: np.random.Generator, style: TownStyle, x: float, y: float, angle: float, w: float, d: float
) -> list[Box]:
    """A flat-roofed block of several storeys, sometimes with a wing."""
    depth = min(d, float(rng.uniform(11, 15)))
    material = str(rng.choice(("roof_gravel", "roof_gravel", "roof_bitumen", "roof_white")))
    roof = Box(
        x, y, angle, w / 2, depth / 2, 3.0 * float(rng.integers(3, 7)), 0.0, "flat", material,
        float(rng.random()), float(rng.uniform(0.9, 1.1)),
    )  # fmt: skip
    boxes = _parapet(roof) + _flat_fittings(rng, roof)
    if d > depth + 8 and rng.random() < 0.6:
        side = 1.0 if rng.random() < 0.5 else -1.0
        wx, wy = _offset(roof, side * (w / 2 - depth / 2), (d - depth) / 2)
        wing = roof._replace(
            x=wx, y=wy, angle=angle + math.pi / 2, half_u=d / 2, half_v=depth / 2, z=roof.z - 3.0
        )
        boxes = _parapet(wing) + boxes
    return boxes


def _hall(
    rng: np.random.Generator, style: TownStyle, x: float, y: float, angle: float, w: float, d: float
) -> list[Box]:
    """A long industrial hall or a big shop: metal with seams, or a pale membrane."""
    if d > w:
        angle, w, d = angle + math.pi / 2, d, w
    metal = rng.random() < 0.65
    material = str(
        rng.choice(("roof_metal", "roof_metal", "roof_blue", "roof_shingle"))
        if metal
        else rng.choice(("roof_white", "roof_gravel", "roof_bitumen"))
    )
    roof = Box(
        x, y, angle, w / 2, d / 2, float(rng.uniform(5, 11)),
        float(rng.uniform(0.06, 0.2)) if metal else 0.0, "gable" if metal else "flat", material,
        float(rng.random()), float(rng.uniform(0.85, 1.1)),
        float(rng.uniform(0.9, 2.6)) if metal else 0.0,
    )  # fmt: skip
    boxes = [roof] if metal else _parapet(roof) + _flat_fittings(rng, roof)
    draw = rng.random()
    if draw < 0.45 and d > 12:
        boxes += _skylights(rng, roof)
    elif draw < 0.55:
        boxes += _solar(rng, roof)
    if w > 30 and rng.random() < 0.5:
        side = 1.0 if rng.random() < 0.5 else -1.0
        ax, ay = _offset(roof, side * (w / 2 + 3.5), float(rng.uniform(-0.3, 0.3)) * d)
        half_v, hue = d * float(rng.uniform(0.15, 0.4)), float(rng.random())
        boxes.append(Box(ax, ay, angle, 4.0, half_v, 3.6, 0.0, "flat", "roof_gravel", hue, 1.0))
    return boxes


_BUILDERS = {"house": _house, "row": _long, "apartments": _apartments, "hall": _hall}


def draw_building(
    rng: np.random.Generator,
    style: TownStyle,
    kind: str,
    place: tuple[float, float, float],
    size: tuple[float, float],
    building_id: int,
    dates: int,
) -> Building:
    """A random building of a kind.

    Args:
        rng: random generator.
        style: roof style of the place.
        kind: ``house``, ``row``, ``apartments`` or ``hall``.
        place: x, y (metres) and direction (radians) of its centre.
        size: approximate width along the direction and depth, metres.
        building_id: number of the building in the town.
        dates: when it exists.

    Returns:
        The building; its footprint is the union of its roof parts without fittings.
    """
    boxes = _BUILDERS[kind](rng, style, *place, *size)
    roofs = [b for b in boxes if b.shape not in {"decal", "sunk"} and b.half_u * b.half_v > 7]
    footprint = union_all([outline(b) for b in roofs])
    if footprint.geom_type != "Polygon":  # an annexe may touch only a corner
        footprint = max(footprint.geoms, key=lambda part: part.area)
        boxes = [b for b in boxes if footprint.intersects(outline(b))]
    height_m = max(ridge_height(b) for b in boxes)
    return Building(building_id, kind, tuple(boxes), footprint, height_m, dates)
