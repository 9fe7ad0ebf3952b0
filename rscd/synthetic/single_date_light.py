"""Effects of season, sun and sensor on a real image: (H,W,3) float32 in 0..1, RGB."""

import cv2
import numpy as np
from numpy.typing import NDArray

from rscd.base.types import FloatArray

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def seasoned(rng: np.random.Generator, image: FloatArray, share: float = 0.4) -> FloatArray:
    """Change the tint of green areas, from bare and brown to lush, with probability ``share``."""
    if rng.random() >= share:
        return image
    green = image[..., 1] - 0.5 * (image[..., 0] + image[..., 2])
    weight = np.clip(green * 12 + rng.uniform(-0.2, 0.3), 0, 1)[..., None]
    soft = np.asarray(cv2.GaussianBlur(weight, (0, 0), 1.0), np.float32)[..., None]
    tint = rng.uniform((0.75, 0.65, 0.6), (1.5, 1.15, 1.25)).astype(np.float32)
    return np.asarray(image * (1 + soft * (tint - 1)), np.float32)


def shaded(
    rng: np.random.Generator, image: FloatArray, building: NDArray[np.bool_], gsd_m: float
) -> FloatArray:
    """Add shadows of buildings, and sometimes of something outside the image."""
    drawn = rng.random()
    if drawn >= 0.45:
        return image
    height, width = building.shape
    cast: FloatArray = np.zeros((height, width), np.float32)
    if drawn < 0.35:
        length = rng.uniform(2, 9) / gsd_m
        angle = rng.uniform(0, 2 * np.pi)
        solid = building.astype(np.float32)
        steps = int(length / 2) + 2
        for part in np.linspace(0, length, steps)[1:]:
            along, down = part * np.cos(angle), part * np.sin(angle)
            move = np.array([[1, 0, along], [0, 1, down]], np.float32)
            moved = np.asarray(cv2.warpAffine(solid, move, (width, height)), np.float32)
            cast = np.maximum(cast, moved)
        cast *= 1 - solid
    else:
        size = len(cast)
        points = rng.uniform(-0.3, 1.3, (int(rng.integers(3, 6)), 2)) * size
        hull = cv2.convexHull(points.astype(np.float32))
        cv2.fillConvexPoly(cast, np.round(hull).astype(np.int32), 1.0)
    soft = np.asarray(cv2.GaussianBlur(cast, (0, 0), rng.uniform(0.5, 1.5)), np.float32)
    dark = rng.uniform(0.3, 0.8) * np.array([0.95, 1.0, 1.08], np.float32)
    return np.asarray(image * (1 - soft[..., None] * (1 - dark)), np.float32)


def lit(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Light and sensor: gamma, contrast, colour, haze, blur, noise, compression; 0..1 to 0..255."""
    strength = rng.uniform(0.2, 1.0)

    def around_one(width: float) -> float:
        return float(np.exp(rng.uniform(-width, width) * strength))

    out = np.clip(image, 0, 1) ** np.float32(around_one(0.45))
    gray = out @ LUMA
    saturation = 0.0 if rng.random() < 0.05 else around_one(0.5)
    out = gray[..., None] + np.float32(saturation) * (out - gray[..., None])
    cast = np.exp(rng.uniform(-0.12, 0.12, 3) * strength)
    gain = (cast * around_one(0.35)).astype(np.float32)
    middle = np.float32(gray.mean())
    contrast = np.float32(around_one(0.4))
    out = ((out - middle) * contrast + middle) * gain
    if rng.random() < 0.25:  # haze
        thick = np.float32(rng.uniform(0, 0.3) * strength)
        out = out * (1 - thick) + thick * np.float32(rng.uniform(0.5, 0.9))
    out += np.float32(rng.uniform(-0.08, 0.08) * strength)
    if rng.random() < 0.4:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 1.3)), np.float32)
    elif rng.random() < 0.3:  # sharpened, like archive imagery
        out += np.float32(rng.uniform(0.2, 0.8)) * (out - cv2.GaussianBlur(out, (0, 0), 1.0))
    if rng.random() < 0.4:
        sigma = rng.uniform(0.003, 0.035)
        out += rng.standard_normal(out.shape, np.float32) * np.float32(sigma)
    out = np.round(np.clip(out, 0, 1) * 255)
    if rng.random() < 0.4:
        quality = int(rng.integers(35, 95))
        _, packed = cv2.imencode(".jpg", out.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.float32)
    return np.asarray(out, np.float32)
