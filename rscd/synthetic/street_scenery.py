"""Backgrounds and objects for street pairs: from folders of images, or procedural."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from rscd.base.errors import DataError
from rscd.base.types import FloatArray, ShapeHW
from rscd.data.images import IMAGE_SUFFIXES, read_picture

Backgrounds = Callable[[np.random.Generator, ShapeHW], FloatArray]
"""(rng, shape_hw) -> (3,H,W) RGB in 0..255."""

Objects = Callable[[np.random.Generator], FloatArray]
"""rng -> (4,h,w): RGB in 0..255 and alpha in 0..1, cut to its bounding box."""


def fractal_noise(rng: np.random.Generator, shape_hw: ShapeHW, finest: float = 2.0) -> FloatArray:
    """Smooth noise of all scales, mean 0 and standard deviation 1: (H,W).

    Args:
        rng: random generator.
        shape_hw: size.
        finest: size in pixels of the smallest features.
    """
    total = np.zeros(shape_hw, np.float32)
    cells = 2
    while cells * finest <= max(shape_hw):
        grid = rng.standard_normal((cells, cells)).astype(np.float32) / cells**0.6
        total += cv2.resize(grid, shape_hw[::-1], interpolation=cv2.INTER_LINEAR)
        cells *= 2
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), dtype=np.float32)


def procedural_street(rng: np.random.Generator, shape_hw: ShapeHW) -> FloatArray:
    """Draw a street: sky, a row of facades with windows, a road to the vanishing point, trees.

    Args:
        rng: random generator.
        shape_hw: size of the image.

    Returns:
        (3,H,W) float32 RGB in 0..255.
    """
    height, width = shape_hw
    horizon = int(height * rng.uniform(0.5, 0.6))
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = _sky(rng, shape_hw, horizon)
    _draw_ground(rng, picture, horizon)
    _draw_facades(rng, picture, horizon)
    for _ in range(rng.integers(2, 6)):
        _draw_tree(rng, picture, horizon)
    grain = fractal_noise(rng, shape_hw, 1.5)[..., None] * 6
    return np.ascontiguousarray(np.clip(picture + grain, 0, 255).transpose(2, 0, 1))


def _sky(rng: np.random.Generator, shape_hw: ShapeHW, horizon: int) -> FloatArray:
    depth = np.linspace(0, 1, shape_hw[0], dtype=np.float32)[:, None, None] * shape_hw[0] / horizon
    top, bottom = rng.uniform((60, 110, 170), (120, 170, 235)), rng.uniform(190, 235, 3)
    clouds = np.clip(fractal_noise(rng, shape_hw, 8)[..., None] * 25, 0, None)
    sky: FloatArray = (top + (bottom - top) * np.clip(depth, 0, 1) + clouds).astype(np.float32)
    return sky


def _draw_ground(rng: np.random.Generator, picture: FloatArray, horizon: int) -> None:
    height, width = picture.shape[:2]
    picture[horizon:] = rng.uniform(120, 165) + rng.uniform(-8, 8, 3)
    vanishing = (int(width * rng.uniform(0.35, 0.65)), horizon)
    left, right = int(width * rng.uniform(-0.3, 0.2)), int(width * rng.uniform(0.8, 1.3))
    asphalt = (rng.uniform(60, 95) + rng.uniform(-4, 4, 3)).tolist()
    _fill(picture, [vanishing, (right, height), (left, height)], asphalt)
    middle = (left + right) / 2
    for near in np.arange(0.05, 1.0, 0.18):  # dashes, as fractions of the distance to the viewer
        corners = []
        for part, side in ((near, -1), (near, 1), (near + 0.08, 1), (near + 0.08, -1)):
            x = vanishing[0] + part * (middle - vanishing[0]) + side * part * width * 0.008
            corners.append((int(x), int(horizon + part * (height - horizon))))
        _fill(picture, corners, [225.0, 225.0, 215.0])
    coarse = fractal_noise(rng, (height - horizon, width), 3)[..., None] * 9
    picture[horizon:] += coarse


def _draw_facades(rng: np.random.Generator, picture: FloatArray, horizon: int) -> None:
    height, width = picture.shape[:2]
    left = -int(width * rng.uniform(0, 0.1))
    while left < width:
        right = left + int(width * rng.uniform(0.08, 0.25))
        top = int(horizon * rng.uniform(0.0, 0.6))
        base = min(height, horizon + int(height * rng.uniform(0.03, 0.06)))
        _draw_facade(rng, picture, (max(left, 0), top, min(right, width), base))
        left = right


def _draw_facade(
    rng: np.random.Generator, picture: FloatArray, box: tuple[int, int, int, int]
) -> None:
    left, top, right, base = box
    if right - left < 8 or base - top < 8:
        return
    wall = rng.uniform(90, 215) + rng.uniform(-1, 1) * np.array([24, 6, -20])
    wall = wall + rng.uniform(-8, 8, 3)
    plaster = fractal_noise(rng, (base - top, right - left), 2)[..., None] * rng.uniform(4, 10)
    picture[top:base, left:right] = wall + plaster
    glass, trim = rng.uniform(30, 90, 3), np.clip(wall * rng.uniform(0.6, 1.3), 0, 255)
    step = max(8, int(picture.shape[0] * rng.uniform(0.045, 0.08)))
    pane = rng.uniform(0.35, 0.65, 2) * step
    for y in range(top + step // 3, base - step, step):
        for x in range(left + step // 3, right - step // 2, step):
            low, far = y + int(pane[0]), min(x + int(pane[1]), right)
            picture[y - 1 : low + 2, max(x - 1, left) : far + 1] = trim
            picture[y:low, x:far] = glass * rng.uniform(0.7, 1.6)
    picture[top : top + max(2, step // 6), left:right] = trim
    picture[top:base, left : left + 2] *= 0.7


def _draw_tree(rng: np.random.Generator, picture: FloatArray, horizon: int) -> None:
    height, width = picture.shape[:2]
    radius = int(height * rng.uniform(0.05, 0.13))
    foot_x, foot_y = int(rng.uniform(0, width)), int(horizon + height * rng.uniform(0.05, 0.15))
    centre_y = foot_y - int(2.2 * radius)
    trunk = max(2, radius // 10)
    corners = [(foot_x - trunk, foot_y), (foot_x + trunk, foot_y), (foot_x, centre_y)]
    _fill(picture, corners, [70.0, 55.0, 40.0])
    rows = slice(max(centre_y - radius, 0), centre_y + radius)
    columns = slice(max(foot_x - radius, 0), foot_x + radius)
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]][:, rows, columns]
    if not x.size:
        return
    leaves = fractal_noise(rng, x.shape, 2)
    crown = np.hypot(x - foot_x, y - centre_y) < radius * (0.8 + 0.15 * leaves)
    shade = 1 + 0.25 * leaves - 0.4 * (y - centre_y) / radius
    green = rng.uniform((45, 75, 25), (85, 125, 55))
    np.copyto(picture[rows, columns], green * shade[..., None], "same_kind", crown[..., None])


def _fill(picture: FloatArray, corners: list[tuple[int, int]], colour: list[float]) -> None:
    cv2.fillPoly(picture, [np.array(corners, np.int32)], colour)


def procedural_object(rng: np.random.Generator) -> FloatArray:
    """Draw an object: a star-convex blob, an ellipse or a box with a shaded, textured filling.

    Returns:
        (4,h,w), see ``Objects``; the longest side is about 240 pixels.
    """
    shape_hw = (int(rng.integers(140, 240)), int(rng.integers(140, 240)))
    alpha = _outline(rng, shape_hw)
    texture = _filling(rng, shape_hw)
    # an object is lit from above and darker towards its edge
    depth = np.minimum(cv2.distanceTransform(alpha, cv2.DIST_L2, 5) / (0.12 * max(shape_hw)), 1)
    light = (0.7 + 0.3 * depth) * np.linspace(1.15, 0.8, shape_hw[0])[:, None]
    soft = gaussian_filter(alpha.astype(np.float32), rng.uniform(0.01, 0.03) * 0.3 * max(shape_hw))
    rgba = np.concatenate([np.clip(texture * light, 0, 255), soft[None]]).astype(np.float32)
    return trimmed(rgba)


def _outline(rng: np.random.Generator, shape_hw: ShapeHW) -> NDArray[np.uint8]:
    height, width = shape_hw
    alpha = np.zeros(shape_hw, np.uint8)
    centre, half = np.array([width / 2, height / 2]), np.array([width, height]) * 0.46
    match rng.choice(["star", "ellipse", "box"]):
        case "star":
            count = int(rng.integers(7, 15))
            angles = np.sort(rng.uniform(0, 2 * np.pi, count))
            radii = rng.uniform(0.55, 1.0, count)[:, None]
            corners = centre + radii * half * np.stack([np.cos(angles), np.sin(angles)], 1)
            cv2.fillPoly(alpha, [corners.astype(np.int32)], 1)
        case "ellipse":
            axes, middle = half * rng.uniform(0.7, 1.0, 2), centre.astype(int).tolist()
            axes = axes.astype(int).tolist()
            cv2.ellipse(alpha, middle, axes, rng.uniform(-20, 20), 0, 360, 1, -1)
        case _:
            corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half * 0.9
            corners = centre + corners * (1 + rng.uniform(-0.12, 0.12, (4, 2)))
            cv2.fillPoly(alpha, [corners.astype(np.int32)], 1)
    return alpha


def _filling(rng: np.random.Generator, shape_hw: ShapeHW) -> FloatArray:
    """(3,h,w): a colour gradient, coloured noise, or a part of another street."""
    choice = rng.choice(["gradient", "noise", "street"])
    if choice == "street":
        return procedural_street(rng, shape_hw)
    first, second = rng.uniform(40, 215, (2, 1)) + rng.uniform(-45, 45, (2, 3))
    across = np.linspace(0, 1, shape_hw[1])[None, None, :]
    run = across if choice == "gradient" else (np.tanh(fractal_noise(rng, shape_hw, 4)) + 1) / 2
    grain = fractal_noise(rng, shape_hw, 1.5) * 8
    filling = first[:, None, None] * (1 - run) + second[:, None, None] * run + grain
    return np.asarray(np.clip(filling, 0, 255), dtype=np.float32)


def trimmed(rgba: FloatArray) -> FloatArray:
    """Crop a (4,h,w) object to the bounding box of its visible pixels."""
    shows = rgba[3] > 0.02
    rows, columns = np.flatnonzero(shows.any(1)), np.flatnonzero(shows.any(0))
    if not len(rows):
        raise DataError("expected an object with opaque pixels, found alpha 0 everywhere")
    return rgba[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


class FolderBackgrounds:
    """Random crops of the 8-bit images (grey or RGB) below a folder, of the requested size."""

    def __init__(self, folder: str | Path) -> None:
        self.files = _pictures(Path(folder), IMAGE_SUFFIXES)

    def __call__(self, rng: np.random.Generator, shape_hw: ShapeHW) -> FloatArray:
        """One crop: (3,H,W) RGB in 0..255."""
        picture = _read(self.files[rng.integers(len(self.files))])
        zoom = min(picture.shape[1] / shape_hw[0], picture.shape[2] / shape_hw[1])
        zoom /= rng.uniform(1, 1.5)  # the published pairs show 2/3 of large images
        height, width = (max(2, int(side * zoom)) for side in shape_hw)
        top = rng.integers(picture.shape[1] - height + 1)
        left = rng.integers(picture.shape[2] - width + 1)
        part = picture[:3, top : top + height, left : left + width].transpose(1, 2, 0)
        method = cv2.INTER_AREA if zoom > 1 else cv2.INTER_CUBIC
        resized = cv2.resize(part, shape_hw[::-1], interpolation=method)
        return np.ascontiguousarray(np.clip(resized, 0, 255).transpose(2, 0, 1))


class FolderObjects:
    """The 8-bit PNG images with alpha below a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.files = _pictures(Path(folder), {".png"})

    def __call__(self, rng: np.random.Generator) -> FloatArray:
        """One object: (4,h,w), RGB in 0..255 and alpha in 0..1."""
        rgba = _read(self.files[rng.integers(len(self.files))], bands=(1, 2, 3, 4))
        rgba[3] /= 255
        return trimmed(rgba)


def _pictures(folder: Path, suffixes: Collection[str]) -> tuple[Path, ...]:
    files = tuple(sorted(f for f in folder.rglob("*") if f.suffix.lower() in suffixes))
    if not files:
        raise DataError(
            f"expected images ({', '.join(sorted(suffixes))}) below {folder}, found none; "
            "check the path"
        )
    return files


def _read(file: Path, bands: Sequence[int] | None = None) -> FloatArray:
    """(3,h,w) RGB, or the requested bands, float32 in 0..255."""
    pixels = read_picture(file, bands).pixels
    if pixels.dtype != np.uint8:
        raise DataError(f"expected an 8-bit image, found {pixels.dtype} in {file}; convert it")
    return np.asarray(np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels, np.float32)
