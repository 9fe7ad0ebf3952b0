"""Objects of one date as pixels: masks cropped to their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from rscd.base.errors import UsageError
from rscd.base.types import BoolArray, ShapeHW
from rscd.segmenters.overlaps import Overlaps, box_pairs

DUPLICATE_IOU = 0.6
"""Two instances of one date that overlap more are one object found by two prompts."""


@dataclass(frozen=True, eq=False)
class Instance:
    """One object: its pixels inside a box."""

    class_index: int
    """Index into the prompts, foreground first."""
    score: float
    """In [0,1]."""
    bbox: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels of the image, half-open."""
    mask: BoolArray
    """(y1 - y0, x1 - x0) bool."""

    @property
    def slices(self) -> tuple[slice, slice]:
        """Where the box lies in an (H,W) array."""
        x0, y0, x1, y1 = self.bbox
        return slice(y0, y1), slice(x0, x1)

    @property
    def area_px(self) -> int:
        """Number of its pixels."""
        return int(np.count_nonzero(self.mask))


def from_masks(
    masks: NDArray[Any],
    class_index: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    score: Sequence[float] | NDArray[np.floating[Any]] | None = None,
) -> list[Instance]:
    """Crop full-size masks.

    Args:
        masks: (M,H,W), nonzero inside; they may overlap.
        class_index: (M,) prompt index of each; default 0.
        score: (M,) in [0,1]; default 1.

    Returns:
        M instances in the same order; an empty mask becomes an instance without pixels.
    """
    count = len(masks)
    classes = np.zeros(count, int) if class_index is None else class_index
    scores = np.ones(count) if score is None else score
    return [
        _cropped(np.asarray(mask) != 0, int(index), float(value))
        for mask, index, value in zip(masks, classes, scores, strict=True)
    ]


def components(
    foreground: BoolArray, prob: NDArray[np.floating[Any]] | None = None
) -> list[Instance]:
    """Objects of a semantic map: its 8-connected components, holes kept.

    For models without instances. The paper cites border following (Suzuki and Abe
    1985), which joins pixels across corners; filling its outlines would fill courtyards.

    Args:
        foreground: (H,W) bool.
        prob: (K,H,W) probabilities of the foreground prompts in [0,1]: a component belongs to the
            one with the highest mean, its score is the mean of the best plane. Default: class 0,
            score 1.

    Returns:
        Instances ordered by their first pixel, row by row.
    """
    labels, _ = ndimage.label(foreground, structure=np.ones((3, 3), int))
    found = []
    for number, where in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[where] == number
        index, score = 0, 1.0
        if prob is not None:
            inside = prob[(slice(None), *where)][:, mask]
            index = int(np.argmax(inside.mean(axis=1)))
            score = float(inside.max(axis=0).mean())
        rows, cols = where
        found.append(Instance(index, score, (cols.start, rows.start, cols.stop, rows.stop), mask))
    return found


def without_duplicates(
    instances: Sequence[Instance], least_iou: float = DUPLICATE_IOU
) -> list[Instance]:
    """Keep the better one of two instances that overlap, whatever their prompts.

    ``house`` and ``building`` both find the same roof; the IoU sums of the other date would count
    it twice, which matters from a delta above 0 on. Greedy non-maximum suppression on mask IoU.

    Args:
        instances: those of one date.
        least_iou: an instance is dropped if its IoU with a kept, better one is above this.

    Returns:
        The kept instances, in their original order.

    Raises:
        UsageError: if ``least_iou`` is not in [0,1].
    """
    if not 0 <= least_iou <= 1:
        raise UsageError(f"expected an IoU from 0 to 1 for duplicates, found {least_iou}")
    pairs = mask_overlaps(instances, instances)
    order = np.argsort([-instance.score for instance in instances], kind="stable")
    rank = np.empty(len(instances), int)
    rank[order] = np.arange(len(instances))
    near = (pairs.iou > least_iou) & (rank[pairs.first] < rank[pairs.second])
    worse: dict[int, list[int]] = {}
    for better, other in zip(pairs.first[near], pairs.second[near], strict=True):
        worse.setdefault(int(better), []).append(int(other))
    kept = np.ones(len(instances), bool)
    for index in order:
        if kept[index]:
            kept[worse.get(int(index), [])] = False
    return [instance for instance, keep in zip(instances, kept, strict=True) if keep]


def mask_overlaps(first: Sequence[Instance], second: Sequence[Instance]) -> Overlaps:
    """Pixel IoU of all pairs of instances that share a pixel (Eq. 8); most pairs fail a box test.

    Args:
        first: instances of t1; they may overlap each other.
        second: instances of t2 on the same grid.
    """
    near1, near2 = box_pairs(_boxes(first), _boxes(second))
    common = np.fromiter(
        (_common_px(first[i], second[j]) for i, j in zip(near1, near2, strict=True)),
        np.int64,
        len(near1),
    )
    return Overlaps.of(near1, near2, common, _areas_px(first), _areas_px(second))


def paint(
    instances: Sequence[Instance], chosen: Sequence[bool] | BoolArray, shape_hw: ShapeHW
) -> BoolArray:
    """(H,W) bool: the union of the chosen instances."""
    canvas = np.zeros(shape_hw, bool)
    for instance, wanted in zip(instances, chosen, strict=True):
        if wanted:
            canvas[instance.slices] |= instance.mask
    return canvas


def share_inside(instances: Sequence[Instance], area: BoolArray) -> NDArray[np.float64]:
    """Fraction of each instance's pixels inside an area (H,W); 0 for one without pixels."""
    inside = [np.count_nonzero(area[i.slices] & i.mask) for i in instances]
    shares: NDArray[np.float64] = np.asarray(inside, float) / np.maximum(_areas_px(instances), 1)
    return shares


def _cropped(mask: BoolArray, class_index: int, score: float) -> Instance:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Instance(class_index, score, (0, 0, 0, 0), np.zeros((0, 0), bool))
    x0, y0, x1, y1 = int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1
    return Instance(class_index, score, (x0, y0, x1, y1), mask[y0:y1, x0:x1].copy())


def _boxes(instances: Sequence[Instance]) -> NDArray[np.float64]:
    return np.array([instance.bbox for instance in instances], float).reshape(-1, 4)


def _areas_px(instances: Sequence[Instance]) -> NDArray[np.int64]:
    return np.array([instance.area_px for instance in instances], np.int64)


def _common_px(one: Instance, other: Instance) -> int:
    """Number of pixels that two instances share."""
    x0, y0 = (max(a, b) for a, b in zip(one.bbox[:2], other.bbox[:2], strict=True))
    x1, y1 = (min(a, b) for a, b in zip(one.bbox[2:], other.bbox[2:], strict=True))
    if x1 <= x0 or y1 <= y0:
        return 0
    parts = (
        instance.mask[y0 - top : y1 - top, x0 - left : x1 - left]
        for instance, (left, top) in ((one, one.bbox[:2]), (other, other.bbox[:2]))
    )
    return int(np.count_nonzero(np.logical_and(*parts)))


def outline(instance: Instance) -> Any:
    """Pixel-edge outline of an instance in pixel coordinates (col, row).

    Parts that meet at a corner only are parts of one MultiPolygon: one instance is one geometry.
    """
    x0, y0 = instance.bbox[:2]
    mask = instance.mask.astype(np.uint8)
    traced = rasterio.features.shapes(
        mask, mask=mask, connectivity=4, transform=Affine.translation(x0, y0)
    )
    parts = [shapely.geometry.shape(part) for part, _ in traced]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
