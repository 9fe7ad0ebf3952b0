"""Synthetic street pairs: two views of one background with objects that change or move.

Every pair carries its exact flow and validity (scene change, section 8). Backgrounds and objects
come from ``street_scenery``; a pair is a pure function of its seed. Light and weather are added by
the photometric views in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter
from torch import Tensor
from torch.utils.data import Dataset

from rscd.base.errors import DataError
from rscd.base.types import BoolArray, FloatArray
from rscd.synthetic.geometry import (
    Frame,
    Points,
    Transform,
    central_frame,
    inside,
    pixel_points,
    random_affine,
    random_flow,
    sample,
    scaled_frame,
)
from rscd.synthetic.street_scenery import Backgrounds, Objects, procedural_object, procedural_street

Kind = Literal["static", "new", "missing", "replaced", "moved"]

Layer = FloatArray
"""(4,H,W) on the background's grid: RGB times alpha, and alpha."""


@dataclass(frozen=True)
class StreetSettings:
    """Settings of pairs; areas and lengths are fractions of the view, so that all sizes look alike.

    Attributes:
        size: side of the views in pixels; the published pairs have 520.
        kinds: kinds of change, drawn with equal probability.
        transforms: families of viewpoint change with their fractions.
        strength: size of the viewpoint change; 1 is the published list, 0.3 nearly equal views.
        object_area: bounds of one object's area.
        max_side: longest side of an object, and of one that is replaced or moved.
        p_flip: probabilities of a mirrored and of an upside-down scene.
        label: ``t2`` marks the objects seen at t2 (the published rule), ``union`` also the
            positions of changed objects in t1.
    """

    size: int = 520
    kinds: tuple[Kind, ...] = get_args(Kind)
    transforms: tuple[tuple[Transform, float], ...] = (
        ("homography", 0.5),
        ("affine", 0.25),
        ("tps", 0.25),
    )
    strength: float = 1.0
    object_area: tuple[float, float] = (0.037, 0.26)
    max_side: tuple[float, float] = (0.75, 200 / 520)
    p_flip: tuple[float, float] = (0.5, 0.5)
    label: Literal["t2", "union"] = "t2"


@dataclass(frozen=True)
class SyntheticPair:
    """One pair of views with its ground truth.

    Attributes:
        image: (2,3,S,S) float32 RGB in 0..255, index 0 = t1.
        mask_t1: (S,S) bool, the changed objects on the t1 grid.
        mask_t2: likewise on the t2 grid.
        flow: (2,S,S) float32 pixels on the t2 grid, pointing to t1; inside a moved object it
            follows the object.
        kind: kind of change.
        transform: family of the viewpoint change.
    """

    image: FloatArray
    mask_t1: BoolArray
    mask_t2: BoolArray
    flow: FloatArray
    kind: Kind
    transform: Transform

    @property
    def valid(self) -> BoolArray:
        """(S,S): t2 pixels whose match is in the t1 view."""
        return inside(self.flow)

    @property
    def union(self) -> BoolArray:
        """(S,S): changed objects of either date on the t2 grid."""
        points = pixel_points(self.mask_t1.shape) + np.moveaxis(self.flow, 0, -1)
        return self.mask_t2 | _covered(self.mask_t1[None].astype(np.float32), points)

    def sample(self, label: Literal["t2", "union"] = "t2") -> dict[str, Tensor]:
        """The pair with the keys of a batch, see ``pair_sample``."""
        mask = self.mask_t2 if label == "t2" else self.union
        return pair_sample(self.image, mask, self.flow, self.valid)


def pair_sample(
    image: FloatArray, mask: BoolArray, flow: FloatArray, valid: BoolArray
) -> dict[str, Tensor]:
    """A pair of arrays as the tensors of a sample.

    Args:
        image: (2,C,H,W) float32.
        mask: (H,W), True where changed.
        flow: (2,H,W) float32.
        valid: (H,W).

    Returns:
        ``image``, ``mask`` (1,H,W) int64, ``label`` (), ``flow``, ``use_flow`` () float32 1,
        ``valid`` (1,H,W) bool.
    """
    return {
        "image": torch.from_numpy(image),
        "mask": torch.from_numpy(mask[None].astype(np.int64)),
        "label": torch.tensor(int(mask.any())),
        "flow": torch.from_numpy(flow),
        "use_flow": torch.tensor(1.0),
        "valid": torch.from_numpy(valid[None]),
    }


def street_pair(
    seed: int | Sequence[int],
    settings: StreetSettings | None = None,
    *,
    backgrounds: Backgrounds = procedural_street,
    objects: Objects = procedural_object,
) -> SyntheticPair:
    """Make one pair; the same arguments give byte-identical pairs.

    Outside the changed objects of both dates, t2 equals t1 warped by the flow: exactly for
    homographies, which use the background at full resolution, and up to a second interpolation for
    affine maps and splines.

    Args:
        seed: one number or several, as for ``numpy.random.default_rng``.
        settings: of the pairs.
        backgrounds: source of backgrounds.
        objects: source of objects.
    """
    settings = settings or StreetSettings()
    rng = np.random.default_rng(seed)
    kind: Kind = settings.kinds[rng.integers(len(settings.kinds))]
    shares = np.array([share for _, share in settings.transforms])
    transform = settings.transforms[rng.choice(len(shares), p=shares / shares.sum())][0]
    flow = random_flow(rng, transform, settings.size, strength=settings.strength)
    background, frame = _background(rng, transform, settings, backgrounds)
    standing = _thing(rng, objects, flow, settings, settings.max_side[0])
    background = _over(_layer(standing, frame, background, soft=True), background)
    things = _things(rng, kind, objects, flow, settings)
    layers = [_layer(t, frame, background, soft=kind in ("new", "missing")) for t in things]
    before = layers[0] if kind in ("missing", "replaced", "moved") else None
    after = layers[-1] if kind in ("new", "replaced") else None
    t1 = sample(_over(before, background), frame.points())
    t2 = sample(_over(after, background), frame.points(flow))
    nothing = np.zeros((settings.size, settings.size), dtype=bool)
    mask_t1 = _covered(layers[0][3:], frame.points()) if layers else nothing
    shown_by = flow
    if kind == "moved":
        shown_by = _object_flow(rng, things[0], flow, settings.strength)
        t2 = _over(sample(layers[0], frame.points(shown_by)), t2)
    mask_t2 = _covered(layers[-1][3:], frame.points(shown_by)) if layers else nothing
    flow = np.where(mask_t2, shown_by, flow)
    return SyntheticPair(np.stack([t1, t2]), mask_t1, mask_t2, flow, kind, transform)


@dataclass(frozen=True)
class _Thing:
    """An object and its position: ``box`` is (left, top, width, height) on the t1 grid."""

    rgba: FloatArray
    box: tuple[float, float, float, float]

    @property
    def centre(self) -> NDArray[np.float64]:
        left, top, width, height = self.box
        return np.array([left + width / 2, top + height / 2])


def _background(
    rng: np.random.Generator, transform: Transform, settings: StreetSettings, draw: Backgrounds
) -> tuple[FloatArray, Frame]:
    """A background of published size: 1248 x 1664 for homographies of 520, else 1040 x 1386."""
    factor = 2.4 if transform == "homography" else 2.0
    shape_hw = (round(factor * settings.size), round(factor * settings.size * 4 / 3))
    picture = draw(rng, shape_hw)
    # each family of transforms is symmetric under mirroring: mirroring only the background is
    # equivalent to mirroring views, masks and flow
    for axis, chance in zip((2, 1), settings.p_flip, strict=True):
        if rng.random() < chance:
            picture = np.flip(picture, axis)
    frame = central_frame if transform == "homography" else scaled_frame
    return np.ascontiguousarray(picture), frame(shape_hw, settings.size)


def _things(
    rng: np.random.Generator,
    kind: Kind,
    objects: Objects,
    flow: FloatArray,
    settings: StreetSettings,
) -> list[_Thing]:
    if kind == "static":
        return []
    if kind in ("new", "missing"):
        return [_thing(rng, objects, flow, settings, settings.max_side[0])]
    first = _thing(rng, objects, flow, settings, settings.max_side[1])
    if kind == "moved":
        return [first]
    left, top, width, height = first.box
    stretch = np.sqrt(rng.uniform(0.8, 1.2))
    return [first, _Thing(objects(rng), (left, top, width * stretch, height / stretch))]


def _thing(
    rng: np.random.Generator,
    objects: Objects,
    flow: FloatArray,
    settings: StreetSettings,
    max_side: float,
) -> _Thing:
    """Draw an object with a size, at a position where both views show it whole, if there is one."""
    rgba, size = objects(rng), settings.size
    area = rng.uniform(*settings.object_area) * size**2
    scale = np.sqrt(area / rgba[3].sum())
    scale = min(scale, max_side * size / max(rgba.shape[1:]))
    height, width = scale * rgba.shape[1], scale * rgba.shape[2]
    at_t1, _ = _spots(rng, flow, (height, width))
    return _Thing(rgba, (at_t1[0] - width / 2, at_t1[1] - height / 2, width, height))


def _spots(
    rng: np.random.Generator,
    flow: FloatArray,
    box_hw: tuple[float, float],
    *,
    avoid: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x, y on both grids where a box of this size fits, far from ``avoid`` if possible."""
    at_t2 = pixel_points(flow.shape[1:]).reshape(-1, 2)
    at_t1 = at_t2 + flow.reshape(2, -1).T
    half = np.array(box_hw[::-1]) / 2
    last = np.array(flow.shape[:0:-1]) - 1
    # by how much the box exceeds either view; objects larger than the overlap fit nowhere
    beyond = np.maximum.reduce(
        [half - at_t1, at_t1 + half - last, half - at_t2, at_t2 + half - last]
    )
    cost = np.maximum(beyond, 0).sum(1)
    if avoid is not None:
        cost += np.maximum(2 * half.max() - np.linalg.norm(at_t1 - avoid, axis=1), 0)
    chosen = rng.choice(np.flatnonzero(cost <= cost.min() + 1e-9))
    return at_t1[chosen], at_t2[chosen]


def _object_flow(
    rng: np.random.Generator, thing: _Thing, flow: FloatArray, strength: float
) -> FloatArray:
    """Flow of a moved object, slightly rotated and scaled: (2,S,S)."""
    _, new_place = _spots(rng, flow, (thing.box[3], thing.box[2]), avoid=thing.centre)
    linear = random_affine(rng, strength, max_shift=0)[:, :2]
    points = pixel_points(flow.shape[1:])
    seen = (points - new_place) @ linear.T + thing.centre
    return np.ascontiguousarray(np.moveaxis(seen - points, -1, 0), dtype=np.float32)


def _layer(thing: _Thing, frame: Frame, background: FloatArray, *, soft: bool) -> Layer:
    """Place an object on the background's grid.

    Args:
        thing: object and box.
        frame: position of the t1 view in the background.
        background: gives the size.
        soft: smooth the alpha with sigma 1 (copied objects) instead of thresholding it at one half
            (replaced and moved ones), as in the published pairs.
    """
    scale, offset = np.array(frame.scale_xy), np.array(frame.offset_xy)
    left, top = np.round(offset + scale * thing.box[:2]).astype(int)
    width, height = np.maximum(np.round(scale * thing.box[2:]).astype(int), 2)
    method = cv2.INTER_AREA if width < thing.rgba.shape[2] else cv2.INTER_LINEAR
    size = (int(width), int(height))
    rgba = cv2.resize(thing.rgba.transpose(1, 2, 0), size, interpolation=method)
    rgba = np.pad(rgba.transpose(2, 0, 1), ((0, 0), (4, 4), (4, 4)), mode="edge")
    inner = np.pad(rgba[3, 4:-4, 4:-4], 4)
    alpha = gaussian_filter(inner, 1.0) if soft else (inner >= 0.5).astype(np.float32)
    layer = np.zeros((4, *background.shape[1:]), np.float32)
    rows = slice(max(top - 4, 0), max(min(top + height + 4, layer.shape[1]), 0))
    columns = slice(max(left - 4, 0), max(min(left + width + 4, layer.shape[2]), 0))
    cut = (
        slice(None),
        slice(rows.start - top + 4, rows.stop - top + 4),
        slice(columns.start - left + 4, columns.stop - left + 4),
    )
    layer[:, rows, columns] = np.concatenate([rgba[:3] * alpha, alpha[None]])[cut]
    return layer


def _over(layer: Layer | None, picture: FloatArray) -> FloatArray:
    return picture if layer is None else layer[:3] + picture * (1 - layer[3:])


def _covered(alpha: FloatArray, points: Points) -> BoolArray:
    """Where a (1,H,W) alpha is opaque at the points, with holes filled: (h,w) bool."""
    opaque = sample((alpha >= 0.5).astype(np.float32), points)[0] >= 0.5
    shown: BoolArray = binary_fill_holes(opaque)
    return shown


class SyntheticStreet(Dataset[dict[str, Tensor]]):
    """Street pairs by index; pair ``i`` depends only on the seed and ``i``, not on the worker.

    Args:
        count: number of pairs.
        seed: seed of the set.
        settings: of the pairs.
        backgrounds: source of backgrounds; see ``FolderBackgrounds``.
        objects: source of objects; see ``FolderObjects``.

    Raises:
        DataError: if the settings are something else, such as a dictionary.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        settings: StreetSettings | None = None,
        backgrounds: Backgrounds = procedural_street,
        objects: Objects = procedural_object,
    ) -> None:
        if not isinstance(settings, StreetSettings | None):
            raise DataError(
                f"expected settings as StreetSettings, found {type(settings).__name__}; write "
                "StreetSettings(size=...), of a dictionary StreetSettings(**it)"
            )
        self.count = count
        self.seed = seed
        self.settings = settings or StreetSettings()
        self.backgrounds = backgrounds
        self.objects = objects

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """See ``SyntheticPair.sample``."""
        if not 0 <= index < self.count:
            raise IndexError(f"pair {index} of {self.count}")
        pair = street_pair(
            [self.seed, index], self.settings, backgrounds=self.backgrounds, objects=self.objects
        )
        return pair.sample(self.settings.label)
