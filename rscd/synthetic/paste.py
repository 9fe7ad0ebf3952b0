"""Change pasted into real imagery: buildings of one image appear and vanish in another.

Each object is cut out by a building mask, rotated, scaled, matched in colour, feathered at its edge
and given a shadow. It is then pasted at t2 only (new), at t1 only (missing) or at both dates
(static), so that a pasted appearance alone does not indicate change. The flow between the dates is
known, and outside the changed objects and their shadows t2 equals t1 warped by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, gaussian_filter, label
from torch import Tensor
from torch.utils.data import Dataset

from rscd.base.errors import DataError
from rscd.base.types import BoolArray, FloatArray, ShapeHW
from rscd.synthetic.geometry import inside, pixel_points, sample
from rscd.synthetic.street_pairs import pair_sample


@dataclass(frozen=True)
class PasteSettings:
    """How objects are pasted; lengths are pixels of the images.

    Attributes:
        count: bounds of the number of objects to try; those without free space are omitted.
        shares: relative frequency of new, missing and static objects.
        min_area: smallest object cut out of a donor, in pixels.
        scale: bounds of the change of size.
        feather: sigma of the feathering.
        shadow_length: bounds of the length of the shadows, one draw per pair.
        shadow: bounds of the factor of the values in the shadow; 1 is no shadow.
        gap: smallest distance between an object and other buildings.
        max_shift: largest misregistration of the dates; 0 keeps them aligned.
    """

    count: tuple[int, int] = (1, 6)
    shares: tuple[float, float, float] = (0.4, 0.4, 0.2)
    min_area: int = 100
    scale: tuple[float, float] = (0.8, 1.25)
    feather: float = 0.7
    shadow_length: tuple[float, float] = (2.0, 10.0)
    shadow: tuple[float, float] = (0.4, 0.75)
    gap: int = 2
    max_shift: float = 0.0


@dataclass(frozen=True)
class PastePair:
    """A pair with pasted change.

    Attributes:
        image: (2,C,H,W) float32 raw values, index 0 = t1.
        mask: (H,W) bool on the t2 grid: objects that exist at one date only.
        shadow: (H,W) bool on the t2 grid: pixels around them whose values changed as well.
        flow: (2,H,W) float32 pixels, on the t2 grid, pointing to t1.
        valid: (H,W) bool: usable and in view at both dates.
    """

    image: FloatArray
    mask: BoolArray
    shadow: BoolArray
    flow: FloatArray
    valid: BoolArray

    def sample(self) -> dict[str, Tensor]:
        """The pair with the keys of a batch, see ``pair_sample``."""
        return pair_sample(self.image, self.mask, self.flow, self.valid)


@dataclass(frozen=True)
class _Stamp:
    """A cut-out object: ``values`` (C,h,w), ``alpha`` and ``shade`` (h,w) in 0..1, ``solid``."""

    values: FloatArray
    alpha: FloatArray
    shade: FloatArray
    solid: BoolArray


def paste_change(
    seed: int | Sequence[int],
    donor: FloatArray,
    donor_buildings: BoolArray,
    image: FloatArray,
    settings: PasteSettings | None = None,
    *,
    buildings: BoolArray | None = None,
    valid: BoolArray | None = None,
    value_range: tuple[float, float] = (0.0, 255.0),
) -> PastePair:
    """Make a change pair from one image; the same arguments give byte-identical pairs.

    Args:
        seed: one number or several, as for ``numpy.random.default_rng``.
        donor: (C,h,w) raw values, source of the objects.
        donor_buildings: (h,w), True on buildings; those cut by the border are not used.
        image: (C,H,W) raw values to paste into.
        settings: how they are pasted.
        buildings: (H,W), True on buildings of ``image``: nothing is pasted over them.
        valid: (H,W), usable pixels of ``image``; all if not given.
        value_range: pasted values are clipped to it.

    Raises:
        DataError: if the donor has no whole building, or other bands than ``image``.
    """
    settings = settings or PasteSettings()
    rng = np.random.default_rng(seed)
    if len(donor) != len(image):
        raise DataError(
            f"expected a donor with the {len(image)} bands of the image, found {len(donor)}; "
            "choose the same bands of both"
        )
    shape_hw: ShapeHW = image.shape[1:]
    usable = np.ones(shape_hw, bool) if valid is None else valid
    taken = ~usable if buildings is None else ~usable | buildings
    free = ~taken if (~taken).any() else usable
    donor = np.clip(matched(donor, ~donor_buildings, image, free), *value_range)
    dates = np.stack([image, image]).astype(np.float32)
    changed, shaded = np.zeros(shape_hw, bool), np.zeros(shape_hw, bool)
    sun = _sun(rng, settings)
    factor = rng.uniform(*settings.shadow)
    cutouts = _cutouts(donor_buildings, settings.min_area)
    for _ in range(rng.integers(settings.count[0], settings.count[1] + 1)):
        stamp = _stamp(rng, donor, cutouts[rng.integers(len(cutouts))], sun, settings)
        corner = _free_spot(rng, taken, stamp.solid, settings.gap)
        standing = rng.choice(3, p=np.array(settings.shares) / sum(settings.shares))
        if corner is None:
            continue
        there, here = _windows(corner, stamp.solid.shape, shape_hw)
        for date in ((1,), (0,), (0, 1))[standing]:
            dates[date][:, *there] = _pressed(stamp, dates[date][:, *there], here, factor)
        taken[there] |= stamp.solid[here]
        if standing != 2:
            changed[there] |= stamp.solid[here]
            shaded[there] |= (stamp.shade + stamp.alpha)[here] > 0
    return _misregistered(rng, dates, changed, shaded & ~changed, usable, settings.max_shift)


def matched(
    donor: FloatArray, donor_ground: BoolArray, image: FloatArray, ground: BoolArray
) -> FloatArray:
    """Match the donor's mean and standard deviation, per band and on the ground, to the image.

    Only the ground is compared, so that roofs keep their contrast to it; gains are limited to 0.7
    to 1.4: beyond, roofs saturate over rough ground and lose contrast over smooth ground.

    Args:
        donor: (C,h,w).
        donor_ground: (h,w), True where the donor shows no building; if nowhere, all of it is used.
        image: (C,H,W).
        ground: (H,W), likewise for the image.

    Returns:
        (C,h,w) float32.
    """
    theirs = donor[:, donor_ground if donor_ground.any() else ~donor_ground]
    ours = image[:, ground if ground.any() else ~ground]
    gain = np.clip(ours.std(1) / np.maximum(theirs.std(1), 1e-6), 0.7, 1.4)[:, None, None]
    centred = donor - theirs.mean(1)[:, None, None]
    return np.asarray(centred * gain + ours.mean(1)[:, None, None], dtype=np.float32)


def _cutouts(buildings: BoolArray, min_area: int) -> list[tuple[BoolArray, NDArray[np.float64]]]:
    """Whole buildings of the donor: (mask of that building alone, its centre x, y)."""
    labels, _ = label(buildings)
    whole = []
    for number, (rows, columns) in enumerate(find_objects(labels), start=1):
        inner = rows.start > 0 and columns.start > 0
        inner &= rows.stop < buildings.shape[0] and columns.stop < buildings.shape[1]
        if inner and (labels[rows, columns] == number).sum() >= min_area:
            centre = np.array([columns.start + columns.stop - 1, rows.start + rows.stop - 1]) / 2
            whole.append((labels == number, centre))
    if not whole:
        raise DataError(
            f"expected a donor with a whole building of at least {min_area} pixels, found none; "
            "choose another donor or lower min_area"
        )
    return whole


def _stamp(
    rng: np.random.Generator,
    donor: FloatArray,
    cutout: tuple[BoolArray, NDArray[np.float64]],
    sun_xy: NDArray[np.float64],
    settings: PasteSettings,
) -> _Stamp:
    """Rotate and scale one building, with margins for its feathering and its shadow."""
    building, centre = cutout
    rows, columns = np.nonzero(building)
    scale, angle = rng.uniform(*settings.scale), rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    reach = np.hypot(rows - centre[1], columns - centre[0]).max() * scale
    room = int(np.ceil(reach + 4 * settings.feather + np.hypot(*sun_xy) + 2))
    from_middle = pixel_points((2 * room + 1, 2 * room + 1)) - room
    points = from_middle @ (turn @ mirror).T / scale + centre
    mask = sample(building[None].astype(np.float32), points)[0]
    solid = mask >= 0.5
    # the donor is extended by its border, which affects only the outer edge of the feathering
    last = np.array(building.shape[::-1]) - 1
    return _Stamp(
        values=sample(donor, np.clip(points, 0, last)),
        alpha=gaussian_filter(mask, settings.feather),
        shade=_shade(solid, sun_xy, settings.feather),
        solid=solid,
    )


def _shade(solid: BoolArray, sun_xy: NDArray[np.float64], softness: float) -> FloatArray:
    """The ground an object darkens when its shadow ends ``sun_xy`` pixels away: (h,w) in 0..1."""
    steps = int(np.ceil(np.hypot(*sun_xy))) + 1
    swept = np.zeros(solid.shape, bool)
    for part in np.linspace(0, 1, steps):
        dx, dy = np.round(part * sun_xy).astype(int)
        # the stamp has a margin, so that nothing wraps around
        swept |= np.roll(solid, (dy, dx), (0, 1))
    return np.asarray(gaussian_filter(swept.astype(np.float32), softness), dtype=np.float32)


def _sun(rng: np.random.Generator, settings: PasteSettings) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(*settings.shadow_length) * np.array([np.cos(angle), np.sin(angle)])


def _free_spot(
    rng: np.random.Generator, taken: BoolArray, solid: BoolArray, gap: int
) -> tuple[int, int] | None:
    """Corner (row, column) of a stamp whose object is inside the image on free ground."""
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(rows):
        return None
    low = -rows[0], -columns[0]
    high = taken.shape[0] - rows[-1], taken.shape[1] - columns[-1]
    if high[0] <= low[0] or high[1] <= low[1]:
        return None
    kept_free = binary_dilation(solid, iterations=gap) if gap else solid
    for _ in range(50):
        corner = int(rng.integers(low[0], high[0])), int(rng.integers(low[1], high[1]))
        there, here = _windows(corner, solid.shape, taken.shape)
        if not (taken[there] & kept_free[here]).any():
            return corner
    return None


def _windows(
    corner: tuple[int, int], stamp_hw: ShapeHW, shape_hw: ShapeHW
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the image under a stamp, and the part of the stamp over the image."""
    there, here = [], []
    for start, length, limit in zip(corner, stamp_hw, shape_hw, strict=True):
        first, last = max(start, 0), min(start + length, limit)
        there.append(slice(first, last))
        here.append(slice(first - start, last - start))
    return (there[0], there[1]), (here[0], here[1])


def _pressed(
    stamp: _Stamp, ground: FloatArray, here: tuple[slice, slice], factor: float
) -> FloatArray:
    darkened = ground * (1 - (1 - factor) * stamp.shade[here])
    alpha = stamp.alpha[here]
    return np.asarray(alpha * stamp.values[:, *here] + (1 - alpha) * darkened, dtype=np.float32)


def _misregistered(
    rng: np.random.Generator,
    dates: FloatArray,
    changed: BoolArray,
    shaded: BoolArray,
    usable: BoolArray,
    max_shift: float,
) -> PastePair:
    """Warp t2 by a smooth random flow of at most ``max_shift`` pixels per axis."""
    height, width = changed.shape
    grid = rng.uniform(-max_shift, max_shift, (3, 3, 2)).astype(np.float32)
    smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    flow = np.ascontiguousarray(smooth.transpose(2, 0, 1), dtype=np.float32)
    if max_shift == 0:
        return PastePair(dates, changed, shaded, flow, usable)
    points = pixel_points((height, width)) + np.moveaxis(flow, 0, -1)
    # real images have no black edge where they do not overlap; `valid` marks it
    points = np.clip(points, 0, [width - 1, height - 1])
    maps = np.stack([changed, shaded | changed, ~usable]).astype(np.float32)
    moved_changed, moved_touched, moved_unusable = sample(maps, points)
    mask = moved_changed >= 0.5
    return PastePair(
        image=np.stack([dates[0], sample(dates[1], points)]),
        mask=mask,
        shadow=(moved_touched > 0) & ~mask,
        flow=flow,
        valid=inside(flow) & (moved_unusable == 0) & usable,
    )


class PastedPairs(Dataset[dict[str, Tensor]]):
    """Pasted pairs by index; pair ``i`` depends only on the seed and ``i``, not on the worker.

    Args:
        images: images (C,H,W) to paste into; anything with a length and indexing.
        donors: pairs of (image, building mask), see ``paste_change``.
        count: number of pairs.
        seed: seed of the set.
        settings: how objects are pasted.
        value_range: bounds of the raw values.
    """

    def __init__(
        self,
        images: Sequence[FloatArray],
        donors: Sequence[tuple[FloatArray, BoolArray]],
        count: int,
        *,
        seed: int = 0,
        settings: PasteSettings | None = None,
        value_range: tuple[float, float] = (0.0, 255.0),
    ) -> None:
        self.images = images
        self.donors = donors
        self.count = count
        self.seed = seed
        self.settings = settings or PasteSettings()
        self.value_range = value_range

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """See ``PastePair.sample``."""
        if not 0 <= index < self.count:
            raise IndexError(f"pair {index} of {self.count}")
        rng = np.random.default_rng([self.seed, index])
        image = self.images[int(rng.integers(len(self.images)))]
        donor, buildings = self.donors[int(rng.integers(len(self.donors)))]
        pair = paste_change(
            [self.seed, index, 1],
            donor,
            buildings,
            image,
            self.settings,
            value_range=self.value_range,
        )
        return pair.sample()
