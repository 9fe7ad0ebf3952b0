"""Street pairs from nothing: two views of one background, objects that come, go, change or move.

Every pair carries its exact flow and validity (scene change, section 8). Backgrounds and objects
come from folders or are drawn; a pair is a pure function of its seed. Light and weather are left to
the photometric views of the trainer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter
from torch import Tensor
from torch.utils.data import Dataset

from rscd.data.geometry import (
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
from rscd.errors import DataError
from rscd.types import BoolArray, FloatArray, ShapeHW

Kind = Literal["static", "new", "missing", "replaced", "moved"]

Backgrounds = Callable[[np.random.Generator, ShapeHW], FloatArray]
"""(rng, shape_hw) -> (3,H,W) RGB in 0..255."""

Objects = Callable[[np.random.Generator], FloatArray]
"""rng -> (4,h,w): RGB in 0..255 and alpha in 0..1, cut to its bounding box."""

Layer = FloatArray
"""(4,H,W) on the background's grid: RGB times alpha, and alpha."""


@dataclass(frozen=True)
class StreetSettings:
    """What pairs look like; areas and lengths are parts of the view, so every size looks alike.

    Attributes:
        size: side of the views in pixels; the published pairs have 520.
        kinds: kinds of change, drawn with equal probability.
        transforms: families of viewpoint change with their shares.
        strength: size of the viewpoint change; 1 is the published list, 0.3 nearly equal views.
        object_area: bounds of one object's area.
        max_side: longest side of an object, and of one that is replaced or moved.
        p_flip: probabilities of a mirrored and of an upside-down scene.
        label: ``t2`` marks the objects seen at t2 (the published rule), ``union`` also the places
            where t1 showed another one.
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
class StreetPair:
    """One pair of views with everything known about it.

    Attributes:
        image: (2,3,S,S) float32 RGB in 0..255, index 0 = t1.
        mask_t1: (S,S) bool, the changed objects on the t1 grid.
        mask_t2: the same on the t2 grid.
        flow: (2,S,S) float32 pixels on the t2 grid, pointing to t1; inside a moved object it is the
            object's own.
        kind: what happened.
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
        """(S,S): t2 pixels whose match lies in the t1 view."""
        return inside(self.flow)

    @property
    def union(self) -> BoolArray:
        """(S,S): changed objects of either date on the t2 grid."""
        points = pixel_points(self.mask_t1.shape) + np.moveaxis(self.flow, 0, -1)
        return self.mask_t2 | _covered(self.mask_t1[None].astype(np.float32), points)

    def sample(self, label: Literal["t2", "union"] = "t2") -> dict[str, Tensor]:
        """The pair in the words of a batch: see ``pair_sample``."""
        return pair_sample(
            self.image, self.mask_t2 if label == "t2" else self.union, self.flow, self.valid
        )


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
        ``image``, ``mask`` (1,H,W) int64, ``label`` (), ``flow``, ``valid`` (1,H,W) bool.
    """
    return {
        "image": torch.from_numpy(image),
        "mask": torch.from_numpy(mask[None].astype(np.int64)),
        "label": torch.tensor(int(mask.any())),
        "flow": torch.from_numpy(flow),
        "valid": torch.from_numpy(valid[None]),
    }


def fractal_noise(rng: np.random.Generator, shape_hw: ShapeHW, finest: float = 2.0) -> FloatArray:
    """Smooth noise of all sizes, mean 0 and deviation 1: (H,W).

    Args:
        rng: source of all draws.
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
        rng: source of all draws.
        shape_hw: size of the picture.

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
    for near in np.arange(0.05, 1.0, 0.18):  # dashes, in parts of the way to the viewer
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
    wall = (
        rng.uniform(90, 215) + rng.uniform(-1, 1) * np.array([24, 6, -20]) + rng.uniform(-8, 8, 3)
    )
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
    _fill(
        picture,
        [(foot_x - trunk, foot_y), (foot_x + trunk, foot_y), (foot_x, centre_y)],
        [70.0, 55.0, 40.0],
    )
    rows, columns = (
        slice(max(centre_y - radius, 0), centre_y + radius),
        slice(max(foot_x - radius, 0), foot_x + radius),
    )
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]][:, rows, columns]
    if not x.size:
        return
    leaves = fractal_noise(rng, x.shape, 2)
    crown = np.hypot(x - foot_x, y - centre_y) < radius * (0.8 + 0.15 * leaves)
    shade = 1 + 0.25 * leaves - 0.4 * (y - centre_y) / radius
    green = rng.uniform((45, 75, 25), (85, 125, 55))
    picture[rows, columns] = np.where(
        crown[..., None], green * shade[..., None], picture[rows, columns]
    )


def _fill(picture: FloatArray, corners: list[tuple[int, int]], colour: list[float]) -> None:
    cv2.fillPoly(picture, [np.array(corners, np.int32)], colour)


def procedural_object(rng: np.random.Generator) -> FloatArray:
    """Draw a thing: a star-convex blob, an ellipse or a box with a shaded, textured filling.

    Returns:
        (4,h,w), see ``Objects``; the longest side is about 240 pixels.
    """
    shape_hw = (int(rng.integers(140, 240)), int(rng.integers(140, 240)))
    alpha = _outline(rng, shape_hw)
    texture = _filling(rng, shape_hw)
    # a thing is lit from above and darker towards its rim
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
            axes = (half * rng.uniform(0.7, 1.0, 2)).astype(int).tolist()
            cv2.ellipse(
                alpha, centre.astype(int).tolist(), axes, rng.uniform(-20, 20), 0, 360, 1, -1
            )
        case _:
            corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half * 0.9
            corners = centre + corners * (1 + rng.uniform(-0.12, 0.12, (4, 2)))
            cv2.fillPoly(alpha, [corners.astype(np.int32)], 1)
    return alpha


def _filling(rng: np.random.Generator, shape_hw: ShapeHW) -> FloatArray:
    """(3,h,w): a colour gradient, coloured noise, or a piece of another street."""
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
    """Cut a (4,h,w) object to the bounding box of what shows."""
    shows = rgba[3] > 0.02
    rows, columns = np.flatnonzero(shows.any(1)), np.flatnonzero(shows.any(0))
    if not len(rows):
        raise DataError("expected an object with something opaque, found alpha 0 everywhere")
    return rgba[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@dataclass(frozen=True)
class FolderBackgrounds:
    """Random crops of the pictures of a folder, resized to what is asked for.

    Attributes:
        files: the pictures; see ``from_folder``.
    """

    files: tuple[Path, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> "FolderBackgrounds":
        """Every PNG and JPEG below ``folder``."""
        return cls(_pictures(folder, (".png", ".jpg", ".jpeg")))

    def __call__(self, rng: np.random.Generator, shape_hw: ShapeHW) -> FloatArray:
        """One crop: (3,H,W) RGB in 0..255."""
        picture = _read(self.files[rng.integers(len(self.files))])[..., :3]
        zoom = min(picture.shape[0] / shape_hw[0], picture.shape[1] / shape_hw[1])
        zoom *= 1 / rng.uniform(1, 1.5)  # the published pairs show a random 2/3 of big pictures
        height, width = (max(2, int(side * zoom)) for side in shape_hw)
        top = rng.integers(picture.shape[0] - height + 1)
        left = rng.integers(picture.shape[1] - width + 1)
        part = picture[top : top + height, left : left + width]
        method = cv2.INTER_AREA if zoom > 1 else cv2.INTER_CUBIC
        resized = cv2.resize(part, shape_hw[::-1], interpolation=method)
        return np.ascontiguousarray(np.clip(resized, 0, 255).transpose(2, 0, 1))


@dataclass(frozen=True)
class FolderObjects:
    """The RGBA PNGs of a folder.

    Attributes:
        files: the pictures; see ``from_folder``.
    """

    files: tuple[Path, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> "FolderObjects":
        """Every PNG below ``folder``."""
        return cls(_pictures(folder, (".png",)))

    def __call__(self, rng: np.random.Generator) -> FloatArray:
        """One object: (4,h,w), RGB in 0..255 and alpha in 0..1."""
        file = self.files[rng.integers(len(self.files))]
        picture = _read(file)
        if picture.shape[-1] != 4:
            raise DataError(
                f"expected an object with alpha (RGBA PNG), found {picture.shape[-1]} channels in "
                f"{file}; save the cut-out with its alpha channel"
            )
        scale = np.array([1, 1, 1, 1 / 255], np.float32)
        return trimmed((picture * scale).transpose(2, 0, 1))


def _pictures(folder: Path, suffixes: Sequence[str]) -> tuple[Path, ...]:
    files = tuple(sorted(f for f in folder.rglob("*") if f.suffix.lower() in suffixes))
    if not files:
        raise DataError(
            f"expected pictures ({', '.join(suffixes)}) below {folder}, found none; check the path"
        )
    return files


def _read(file: Path) -> FloatArray:
    """(h,w,3 or 4) float32 in 0..255, colours in RGB order."""
    data = np.fromfile(file, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if picture is None or picture.dtype != np.uint8:
        raise DataError(f"expected an 8-bit picture, found {file} unreadable; remove or re-save it")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    order = [2, 1, 0, *range(3, picture.shape[-1])]
    return np.asarray(picture[..., order], dtype=np.float32)


def street_pair(
    seed: int | Sequence[int],
    settings: StreetSettings | None = None,
    *,
    backgrounds: Backgrounds = procedural_street,
    objects: Objects = procedural_object,
) -> StreetPair:
    """Make one pair; the same arguments give the same bytes.

    Outside the changed objects of both dates, t2 equals t1 warped by the flow: exactly for
    homographies, which look at the background pixel for pixel, and up to a second interpolation
    for affine maps and splines.

    Args:
        seed: one number or several, as for ``numpy.random.default_rng``.
        settings: what pairs look like.
        backgrounds: where backgrounds come from.
        objects: where objects come from.
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
    return StreetPair(np.stack([t1, t2]), mask_t1, mask_t2, flow, kind, transform)


@dataclass(frozen=True)
class _Thing:
    """An object and its place: ``box`` is (left, top, width, height) on the t1 grid."""

    rgba: FloatArray
    box: tuple[float, float, float, float]

    @property
    def centre(self) -> NDArray[np.float64]:
        left, top, width, height = self.box
        return np.array([left + width / 2, top + height / 2])


def _background(
    rng: np.random.Generator, transform: Transform, settings: StreetSettings, draw: Backgrounds
) -> tuple[FloatArray, Frame]:
    """The published canvas sizes: 1248 x 1664 for homographies of 520, else 1040 x 1386."""
    factor = 2.4 if transform == "homography" else 2.0
    shape_hw = (round(factor * settings.size), round(factor * settings.size * 4 / 3))
    picture = draw(rng, shape_hw)
    # each family of transforms is its own mirror image: mirroring the background alone gives the
    # same pairs as mirroring views, masks and flow together
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
    """Draw an object with a size, at a place that both views show whole if there is one."""
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
    """A place on both grids where a box of this size fits, far from ``avoid`` if possible: x, y."""
    at_t2 = pixel_points(flow.shape[1:]).reshape(-1, 2)
    at_t1 = at_t2 + flow.reshape(2, -1).T
    half = np.array(box_hw[::-1]) / 2
    last = np.array(flow.shape[:0:-1]) - 1
    # how far the box sticks out of either view; no place fits objects larger than the overlap
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
    """Flow of an object that went elsewhere, turned and scaled a little: (2,S,S)."""
    _, new_place = _spots(rng, flow, (thing.box[3], thing.box[2]), avoid=thing.centre)
    linear = random_affine(rng, strength, max_shift=0)[:, :2]
    points = pixel_points(flow.shape[1:])
    seen = (points - new_place) @ linear.T + thing.centre
    return np.ascontiguousarray(np.moveaxis(seen - points, -1, 0), dtype=np.float32)


def _layer(thing: _Thing, frame: Frame, background: FloatArray, *, soft: bool) -> Layer:
    """Put an object on the background's grid.

    Args:
        thing: object and box.
        frame: where the t1 view lies in the background.
        background: gives the size.
        soft: smooth the alpha with sigma 1 (copied objects) instead of cutting it at one half
            (replaced and moved ones), as the published pairs do.
    """
    scale, offset = np.array(frame.scale_xy), np.array(frame.offset_xy)
    left, top = np.round(offset + scale * thing.box[:2]).astype(int)
    width, height = np.maximum(np.round(scale * thing.box[2:]).astype(int), 2)
    method = cv2.INTER_AREA if width < thing.rgba.shape[2] else cv2.INTER_LINEAR
    rgba = cv2.resize(
        thing.rgba.transpose(1, 2, 0), (int(width), int(height)), interpolation=method
    )
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
    """Where a (1,H,W) alpha shows at the points, holes filled: (h,w) bool."""
    shown: BoolArray = binary_fill_holes(
        sample((alpha >= 0.5).astype(np.float32), points)[0] >= 0.5
    )
    return shown


class StreetPairs(Dataset[dict[str, Tensor]]):
    """Street pairs by index; pair ``i`` depends on the seed and ``i`` alone, not on the worker.

    Args:
        count: number of pairs.
        seed: seed of the set.
        settings: what pairs look like.
        backgrounds: where backgrounds come from; see ``FolderBackgrounds``.
        objects: where objects come from; see ``FolderObjects``.
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
        self.count = count
        self.seed = seed
        self.settings = settings or StreetSettings()
        self.backgrounds = backgrounds
        self.objects = objects

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """See ``StreetPair.sample``."""
        if not 0 <= index < self.count:
            raise IndexError(f"pair {index} of {self.count}")
        pair = street_pair(
            [self.seed, index], self.settings, backgrounds=self.backgrounds, objects=self.objects
        )
        return pair.sample(self.settings.label)
