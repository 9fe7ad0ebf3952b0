"""A bounded, reproducible sample of a scene's pixels for global statistics."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import SceneError
from rscd.base.types import BoolArray, FloatArray
from rscd.inference.predictor import Block

BUDGET = 4_000_000
"""Numbers kept in memory: 16 MB, or half a million pixels of two dates in four bands."""

SEED = 0x5EED

Indices = NDArray[np.intp]
Look = Callable[[Block, BoolArray, Indices, Indices], FloatArray]


def sample_pixels(blocks: Iterable[Block], *, radius: int = 0, budget: int = BUDGET) -> FloatArray:
    """Draw pixels, or square neighbourhoods, at random from all usable pixels of a scene.

    Every pixel gets a random key that depends only on its block and position; pixels whose key is
    below a rate are kept, and the rate is halved whenever the budget would be exceeded. So the
    sample is uniform over the *usable* pixels however few there are, contains all of them if they
    fit, and is the same for any tile size, batch size and number of workers.

    Args:
        blocks: the scene, in row-major order, with a halo of at least ``radius``.
        radius: 0 for single pixels; r for neighbourhoods of (2r+1) x (2r+1). An unusable neighbour
            takes the value of the centre.
        budget: most values to keep, over dates, bands and neighbours.

    Returns:
        (2, C, (2r+1)**2, n) float32, samples in row-major order of blocks, then of pixels.

    Raises:
        SceneError: if no pixel is usable at both dates.
    """

    def limit(block: Block) -> int:
        n_bands: int = block.image.shape[1]
        return max(1, budget // (2 * n_bands * (2 * radius + 1) ** 2))

    def look(block: Block, usable: BoolArray, rows: Indices, cols: Indices) -> FloatArray:
        return neighbourhoods(block.image, usable, rows, cols, radius)

    return sample(blocks, look, limit)


def sample(blocks: Iterable[Block], look: Look, limit: Callable[[Block], int]) -> FloatArray:
    """Draw what `look` sees at pixels chosen at random, as `sample_pixels` describes.

    Args:
        blocks: the scene, in row-major order.
        look: block, its usable pixels, and rows and columns of n of them -> (..., n) values.
            Not called for a block of which nothing is drawn.
        limit: most samples to keep, told a block.

    Returns:
        (..., n) float32.

    Raises:
        SceneError: if no pixel is usable at both dates.
    """
    kept: list[tuple[NDArray[np.float64], FloatArray]] = []
    rate, total = 1.0, 0
    for block in blocks:
        usable = usable_pixels(block.image, block.valid)
        rows, cols, keys = _candidates(block, usable)
        below = np.flatnonzero(keys < rate)
        while total + below.size > limit(block):
            rate /= 2
            kept = [(k[k < rate], v[..., k < rate]) for k, v in kept]
            total = sum(k.size for k, _ in kept)
            below = below[keys[below] < rate]
        if below.size:
            kept.append((keys[below], look(block, usable, rows[below], cols[below])))
            total += below.size
    if not total:
        raise SceneError("expected pixels usable at both dates, found none; check nodata and masks")
    return np.concatenate([values for _, values in kept], axis=-1)


def usable_pixels(image: FloatArray, valid: BoolArray) -> BoolArray:
    """Valid pixels with finite numbers in all bands of both dates: (2,C,H,W), (H,W) -> (H,W)."""
    return valid & np.isfinite(image).all(axis=(0, 1))


def neighbourhoods(
    image: FloatArray,
    usable: BoolArray,
    rows: Indices,
    cols: Indices,
    radius: int,
) -> FloatArray:
    """The (2, C, (2r+1)**2, n) values around n pixels; unusable neighbours take the centre's."""
    side = range(-radius, radius + 1)
    centre = image[:, :, rows, cols]
    around = [
        np.where(usable[rows + dy, cols + dx], image[:, :, rows + dy, cols + dx], centre)
        for dy in side
        for dx in side
    ]
    return np.stack(around, axis=2)


def _candidates(block: Block, usable: BoolArray) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Rows and columns (in the block with its halo) and random keys of the usable core pixels."""
    halo = block.halo
    height, width = usable.shape
    core = usable[halo : height - halo, halo : width - halo]
    keys = np.random.default_rng([SEED, block.index]).random(core.shape)
    rows, cols = np.nonzero(core)
    return rows + halo, cols + halo, keys[core]
