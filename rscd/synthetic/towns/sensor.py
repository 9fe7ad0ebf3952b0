"""From surfaces to pixels: surface colours, light, air and sensor."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rscd.base.types import FloatArray, ShapeHW
from rscd.synthetic.towns.conditions import Conditions
from rscd.synthetic.towns.light import cast_shadow, relief_sources, sky_light, sun_vector, sunlight
from rscd.synthetic.towns.materials import colours, material_numbers, texture_amplitudes
from rscd.synthetic.towns.noise import smooth_noise
from rscd.synthetic.towns.raster import Canvas

TEXTURE_WAVELENGTHS_M = (40.0, 9.0, 2.2, 0.6)
_SUN_COLOUR = np.asarray([1.03, 1.0, 0.95, 1.0], np.float32)
_SKY_COLOUR = np.asarray([0.86, 0.98, 1.18, 0.8], np.float32)
_AIR_LIGHT = np.asarray([0.30, 0.34, 0.40, 0.22], np.float32)


def texture_stack(seed: int, canvas: Canvas) -> FloatArray:
    """(5,h,w) noise at four wavelengths and one pixel, the same in every window of the world."""
    shape = canvas.ids.shape
    waves = [max(length / canvas.res, 1.0) for length in TEXTURE_WAVELENGTHS_M]
    layers = [
        smooth_noise(seed * 8 + i, canvas.col, canvas.row, shape, wave)
        for i, wave in enumerate((*waves, 1.0))
    ]
    return np.stack(layers)


def thin_out(canvas: Canvas, textures: FloatArray, leaf_off: float) -> None:
    """Let the ground show through broadleaf crowns pixel by pixel."""
    if leaf_off == 0:
        return
    broadleaf = np.asarray([m == "broadleaf" for m, _, _ in canvas.looks])[canvas.ids]
    sieve = 0.45 * textures[2] + 0.8 * textures[3] + 0.4 * textures[4]
    through = broadleaf & (sieve < 1.3 * (leaf_off - 0.5))
    canvas.ids = np.where(through, canvas.bare_ids, canvas.ids)
    canvas.height = np.where(through, canvas.bare_height, canvas.height)


def reflectance(canvas: Canvas, textures: FloatArray, greenness: float, bands: int) -> FloatArray:
    """(h,w,bands) linear reflectance of the cover of each pixel."""
    names, hues, tones = zip(*canvas.looks, strict=True)
    materials = material_numbers(names)
    table, spread = colours(materials, np.asarray(hues, np.float32), greenness)
    tone = np.asarray(tones, np.float32)[:, None]
    table, spread = (table * tone)[:, :bands], (spread * tone)[:, :bands]
    patches = 0.5 * textures[0] + 0.45 * textures[1] + 0.25 * textures[2] + np.float32(0.35)
    amplitude = texture_amplitudes(materials) * np.float32(1.6)
    bright = np.ones(canvas.ids.shape, np.float32)
    for plane, strength in zip(textures, amplitude.T, strict=True):
        bright += np.take(strength, canvas.ids) * plane
    bright = np.clip(bright, 0.35, 1.9) * canvas.detail
    out = np.take(spread, canvas.ids, axis=0)
    out *= _planes(np.clip(patches, 0, 1), bands)
    out += np.take(table, canvas.ids, axis=0)
    out *= _planes(bright, bands)
    return np.asarray(np.maximum(out, 0.004), np.float32)


def _planes(plane: FloatArray, bands: int) -> FloatArray:
    """(h,w,bands) from one plane; several times faster than broadcasting over a short last axis."""
    return np.asarray(cv2.merge([plane] * bands), np.float32)


def light(
    canvas: Canvas, conditions: Conditions, seed: int, reach_m: float, bands: int
) -> FloatArray:
    """(h,w,bands) light on the surface; 1 on open level ground."""
    sun = sun_vector(conditions.sun_azimuth_deg, conditions.sun_elevation_deg)
    direct = sunlight(canvas.height, canvas.res, sun)
    direct *= 1 - cast_shadow(canvas.height, canvas.res, sun, reach_m)
    if conditions.cloud_shadow:
        shape, length = canvas.ids.shape, 130 / canvas.res
        wave = smooth_noise(seed * 8 + 7, canvas.col, canvas.row, shape, length)
        direct *= 1 - conditions.cloud_shadow * np.clip(1.6 * wave - 0.2, 0, 1)
    direct *= 1 - conditions.ambient
    sky = sky_light(canvas.height, canvas.res) * np.float32(conditions.ambient)
    colours_of_light = zip(_SUN_COLOUR[:bands], _SKY_COLOUR[:bands], strict=True)
    planes = [direct * sun_colour + sky * sky_colour for sun_colour, sky_colour in colours_of_light]
    return np.asarray(cv2.merge(planes), np.float32)


def lean_over(radiance: FloatArray, canvas: Canvas, conditions: Conditions) -> FloatArray:
    """The oblique view: roofs and crowns displaced by their height, walls on the near side."""
    if conditions.off_nadir_deg == 0:
        return radiance
    columns, rows, wall = relief_sources(canvas.height, canvas.res, conditions.lean)
    seen = cv2.remap(radiance, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen * _planes(1 - 0.35 * wall, radiance.shape[2]), np.float32)


def expose(light_in: FloatArray, conditions: Conditions) -> FloatArray:
    """Air, gain and tone: linear light -> display values in [0,1], (h,w,bands)."""
    bands = light_in.shape[2]
    gain = np.asarray(conditions.gain, np.float32)[:bands] * np.float32(conditions.exposure)
    value = light_in * (1 - conditions.haze) + _AIR_LIGHT[:bands] * np.float32(conditions.haze)
    value = np.power(np.maximum(value * gain, 0), np.float32(1 / 2.2))
    value = (value - np.float32(0.4)) * np.float32(conditions.contrast) + np.float32(0.4)
    grey = value[..., :3].mean(axis=2, keepdims=True)
    value[..., :3] = grey + (value[..., :3] - grey) * np.float32(conditions.saturation)
    return np.asarray(value, np.float32)


def optics(value: FloatArray, conditions: Conditions) -> FloatArray:
    """Point spread function, then the provider's sharpening."""
    if conditions.blur_px > 0:
        value = np.asarray(cv2.GaussianBlur(value, (0, 0), conditions.blur_px), np.float32)
    if conditions.sharpen > 0:
        soft = cv2.GaussianBlur(value, (0, 0), 1.2)
        value = np.asarray(value + conditions.sharpen * (value - soft), np.float32)
    return value


def add_noise(value: FloatArray, conditions: Conditions, rng: np.random.Generator) -> FloatArray:
    """Sensor noise whose variance grows with the signal, as photon noise does."""
    if conditions.noise == 0:
        return value
    grain = rng.standard_normal(value.shape, dtype=np.float32)
    sigma = np.sqrt(0.4 + 1.2 * np.clip(value, 0, 1)) * np.float32(conditions.noise / 255)
    return np.asarray(value + grain * sigma, np.float32)


def quantise(value: FloatArray, dtype: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Display values in [0,1] -> uint8, or uint16 as linear reflectance x 10000."""
    clipped = np.clip(value, 0, 1)
    if dtype == "uint8":
        return np.asarray(np.rint(clipped * 255), np.uint8)
    return np.asarray(np.rint(np.power(clipped, np.float32(2.2)) * 10000), np.uint16)


def sample_grid(
    origin: tuple[float, float], shape_hw: ShapeHW, step: float, shift: tuple[float, float],
    warp: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Canvas column and row at the centre of each image pixel.

    Args:
        origin: canvas (column,row) of the upper left corner of the window's first pixel.
        shape_hw: size of the window, image pixels.
        step: canvas pixels per image pixel.
        shift: displacement of the content, image pixels.
        warp: (h,w,2) additional displacement, image pixels, or None.

    Returns:
        Two (h,w) float32 arrays for ``cv2.remap``.
    """
    columns = (np.arange(shape_hw[1], dtype=np.float32) + np.float32(0.5 - shift[0]))[None, :]
    rows = (np.arange(shape_hw[0], dtype=np.float32) + np.float32(0.5 - shift[1]))[:, None]
    columns, rows = np.broadcast_to(columns, shape_hw), np.broadcast_to(rows, shape_hw)
    if warp is not None:
        columns, rows = columns - warp[..., 0], rows - warp[..., 1]
    return (
        np.asarray(columns * step + (origin[0] - 0.5), np.float32),
        np.asarray(rows * step + (origin[1] - 0.5), np.float32),
    )


def warp_field(
    seed: int, col: int, row: int, shape_hw: ShapeHW, amplitude_px: float, wavelength_px: float
) -> FloatArray | None:
    """A smooth random displacement of at most about ``amplitude_px``, (h,w,2), or None."""
    if amplitude_px == 0:
        return None
    parts = [
        smooth_noise(seed * 8 + 5 + 1000 * i, col, row, shape_hw, wavelength_px) for i in (1, 2)
    ]
    return np.stack(parts, axis=2) * np.float32(amplitude_px / math.sqrt(2))


def through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An (h,w,3) image after JPEG compression."""
    _, stream = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(stream, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])
