"""Layout of streets and blocks: rows of blocks in a (u,v) plane, bent by a smooth warp."""

import math
from dataclasses import dataclass

import numpy as np

from rscd.synthetic.towns.parts import Points, TownStyle


@dataclass(frozen=True)
class Warp:
    """A smooth map of the plane: a rotation plus a few long sine waves of displacement."""

    angle: float
    waves: tuple[tuple[float, float, float, float, float], ...]
    """(wave vector x, y in rad/m, phase, displacement x, y in metres) of each wave."""

    def __call__(self, uv: Points) -> Points:
        """(N,2) street coordinates -> (N,2) world coordinates, metres."""
        table = np.asarray(self.waves)
        phase = uv @ table[:, :2].T + table[:, 2]
        bent = uv + np.sin(phase) @ table[:, 3:]
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.asarray(bent @ np.asarray([[c, s], [-s, c]]), np.float64)

    def at(self, u: float, v: float) -> tuple[float, float, float, float, float]:
        """World position, direction of u, and local stretch along u and v at one point."""
        p = self(np.asarray([[u, v], [u + 1.0, v], [u, v + 1.0]]))
        du, dv = p[1] - p[0], p[2] - p[0]
        angle = math.atan2(du[1], du[0])
        return float(p[0, 0]), float(p[0, 1]), angle, math.hypot(*du), math.hypot(*dv)

    def reach(self) -> float:
        """Largest displacement, metres."""
        return sum(math.hypot(wave[3], wave[4]) for wave in self.waves)


def draw_warp(rng: np.random.Generator, curvature: float) -> Warp:
    """A random warp whose gradient stays below 0.71, so that it never folds."""
    waves = []
    for shortest, longest, gradient in ((420, 900, 0.34), (190, 420, 0.27), (110, 200, 0.10)):
        k = 2 * math.pi / rng.uniform(shortest, longest)
        to, along = rng.uniform(0, 2 * math.pi, 2)
        amplitude = curvature * gradient * rng.uniform(0.6, 1.0) / k
        waves.append(
            (
                k * math.cos(to), k * math.sin(to), float(rng.uniform(0, 2 * math.pi)),
                amplitude * math.cos(along), amplitude * math.sin(along),
            )
        )  # fmt: skip
    return Warp(float(rng.uniform(0, 2 * math.pi)), tuple(waves))


@dataclass(frozen=True)
class Block:
    """A block between streets in the (u,v) plane; private ground begins at ``inset``."""

    u0: float
    v0: float
    u1: float
    v1: float
    row: int

    def inner(self, inset: float) -> tuple[float, float, float, float]:
        """(u0, v0, u1, v1) without the streets around it."""
        return self.u0 + inset, self.v0 + inset, self.u1 - inset, self.v1 - inset


def rectangle(warp: Warp, u0: float, v0: float, u1: float, v1: float) -> Points:
    """The outline of a (u,v) rectangle in the world, sides sampled every 12 m."""
    nu, nv = int(abs(u1 - u0) / 12) + 1, int(abs(v1 - v0) / 12) + 1
    us = u0 + (u1 - u0) / nu * np.arange(nu + 1)
    vs = v0 + (v1 - v0) / nv * np.arange(nv + 1)
    uv = np.empty((2 * (nu + nv), 2))
    uv[:nu] = [(u, v0) for u in us[:-1]]
    uv[nu : nu + nv] = [(u1, v) for v in vs[:-1]]
    uv[nu + nv : 2 * nu + nv] = [(u, v1) for u in us[:0:-1]]
    uv[2 * nu + nv :] = [(u0, v) for v in vs[:0:-1]]
    return warp(uv)


def path(warp: Warp, u0: float, v0: float, u1: float, v1: float) -> Points:
    """A straight (u,v) line in the world, sampled every 6 m."""
    n = max(int(math.hypot(u1 - u0, v1 - v0) / 6) + 2, 2)
    return warp(np.stack((np.linspace(u0, u1, n), np.linspace(v0, v1, n)), 1))


def draw_rows(
    rng: np.random.Generator, style: TownStyle, uv_bounds: tuple[float, float, float, float]
) -> tuple[list[float], list[list[float]]]:
    """Street positions: v of every row boundary, and u of the cross streets of each row.

    Cross streets of one row often continue into the next (crossroads) and often do not
    (T-junctions).
    """
    u0, v0, u1, v1 = uv_bounds
    borders = [v0 - float(rng.uniform(20, 80))]
    while borders[-1] < v1:
        depth = 2 * style.lot_depth_m * float(rng.uniform(0.85, 1.2)) + 14
        borders.append(borders[-1] + (depth if rng.random() > 0.15 else 0.62 * depth))
    cuts: list[list[float]] = []
    for _ in range(len(borders) - 1):
        if cuts and rng.random() < 0.35:
            row = [c for c in cuts[-1] if rng.random() < 0.8]
            row = row if row and row[0] <= u0 and row[-1] >= u1 else cuts[-1]
        else:
            row = [u0 - float(rng.uniform(0, 180))]
            while row[-1] < u1:
                row.append(row[-1] + float(rng.uniform(90, 250)))
        cuts.append(row)
    return borders, cuts


def point_in_uv_bounds(warp: Warp, width_m: float, height_m: float) -> tuple[float, ...]:
    """Bounds in (u,v) that cover the world rectangle (0,0)-(width,height)."""
    c, s = math.cos(warp.angle), math.sin(warp.angle)
    corners = np.asarray([[0, 0], [width_m, 0], [width_m, height_m], [0, height_m]], np.float64)
    u = c * corners[:, 0] + s * corners[:, 1]
    v = -s * corners[:, 0] + c * corners[:, 1]
    pad = warp.reach() + 5
    return tuple(float(x) for x in (u.min() - pad, v.min() - pad, u.max() + pad, v.max() + pad))
