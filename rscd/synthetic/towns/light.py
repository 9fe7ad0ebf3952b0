"""Sun and view over a height field: cast shadows, shading, sky light, relief displacement."""

import math

import cv2
import numpy as np

from rscd.base.types import FloatArray

_SLOPE_LIMIT = 1.6


def sun_vector(azimuth_deg: float, elevation_deg: float) -> tuple[float, float, float]:
    """Unit vector to the sun: x east, y south (image rows), z up."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    flat = math.cos(elevation)
    return flat * math.sin(azimuth), -flat * math.cos(azimuth), math.sin(elevation)


def shifted(field: FloatArray, dx: float, dy: float) -> FloatArray:
    """``field`` sampled at (x+dx, y+dy), bilinear, 0 outside."""
    matrix = np.asarray([[1, 0, dx], [0, 1, dy]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(field, matrix, field.shape[::-1], flags=flags))


def cast_shadow(
    height: FloatArray, res: float, sun: tuple[float, float, float], reach_m: float
) -> FloatArray:
    """Shadow cover in [0,1], from the depth of every surface point below the shadow boundary.

    The boundary is ``max over s of height(p + s d) - s tan(elevation)`` with d towards the sun; the
    maximum over 2^k steps is computed by doubling, so that a shadow of n pixels takes log2(n)
    passes.

    Args:
        height: (h,w) metres.
        res: metres per pixel.
        sun: from ``sun_vector``.
        reach_m: longest shadow, metres.

    Returns:
        (h,w) float32: 0 sunlit, 1 in shadow; the edge is half a metre of height wide.
    """
    flat = math.hypot(sun[0], sun[1])
    if flat < 1e-6:  # sun at the zenith
        return np.zeros_like(height)
    drop = res * sun[2] / flat
    boundary = height
    step = 1
    while step * res <= reach_m:
        moved = shifted(boundary, step * sun[0] / flat, step * sun[1] / flat)
        boundary = np.maximum(boundary, moved - np.float32(step * drop))
        step *= 2
    return np.asarray(np.clip((boundary - height - 0.1) * 2.0, 0.0, 1.0), np.float32)


def _minmod(field: FloatArray, axis: int) -> FloatArray:
    """The smaller one-sided difference where both agree in sign, so that walls leave no edge."""
    step = np.diff(field, axis=axis)
    pad = [(0, 0), (0, 0)]
    pad[axis] = (1, 0)
    back = np.pad(step, pad)
    pad[axis] = (0, 1)
    ahead = np.pad(step, pad)
    smaller = np.where(np.abs(back) < np.abs(ahead), back, ahead)
    return np.where(back * ahead > 0, smaller, np.float32(0))


def sunlight(height: FloatArray, res: float, sun: tuple[float, float, float]) -> FloatArray:
    """Direct light on the surface relative to level ground, (h,w) float32 in [0,2.2]."""
    scale = np.float32(1 / res)
    gx = np.clip(_minmod(height, 1) * scale, -_SLOPE_LIMIT, _SLOPE_LIMIT)
    gy = np.clip(_minmod(height, 0) * scale, -_SLOPE_LIMIT, _SLOPE_LIMIT)
    facing = np.float32(sun[2]) - gx * np.float32(sun[0]) - gy * np.float32(sun[1])
    facing /= np.sqrt(1 + gx * gx + gy * gy)
    return np.asarray(np.clip(facing / np.float32(sun[2]), 0, 2.2), np.float32)


def sky_light(height: FloatArray, res: float) -> FloatArray:
    """Approximate visible fraction of the sky: lower near taller objects, (h,w) in [0.55,1]."""
    size = max(round(3.0 / res) | 1, 3)
    around = cv2.blur(height, (size, size))
    return np.asarray(np.clip(1 - 0.12 * (around - height), 0.55, 1.0), np.float32)


def relief_sources(
    height: FloatArray, res: float, lean: tuple[float, float]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Source of each pixel of an oblique view: tall objects lean away from the nadir.

    Args:
        height: (h,w) metres.
        res: metres per pixel.
        lean: displacement of a point per metre of its height, (x,y), metres.

    Returns:
        Source column and row of each pixel, (h,w) float32, and 1 where a wall is seen.
    """
    h, w = height.shape
    xs, ys = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    # two thirds of a pixel per step, in any window
    rise = res / (1.5 * max(math.hypot(*lean), 1e-6))
    steps = math.ceil(float(height.max()) / rise)
    level = np.zeros_like(height)
    wall = np.zeros_like(height)
    for step in range(1, steps + 1):  # from the ground up, so that the highest hit remains
        z = np.float32(step * rise)
        seen = shifted(height, -lean[0] * float(z) / res, -lean[1] * float(z) / res)
        hit = seen >= z
        level[hit] = z
        wall[hit] = (seen[hit] - z > 1.0).astype(np.float32)
    sx, sy = np.float32(lean[0] / res), np.float32(lean[1] / res)
    return xs - level * sx, ys - level * sy, wall
