"""Pairs made from real images of one date with known buildings.

If only one date is labelled, two dates are made from it, with known change because it was inserted
(single-temporal supervision, Zheng et al. 2021, arXiv 2108.07002). A pair is one of:

* **elsewhere**: t2 is another place. A building at exactly one date is change; where buildings
  overlap they may or may not be the same, so the mask is 255 there;
* **edited**: one place twice. At either date buildings from other places are inserted with the
  ground around them, buildings are covered with adjacent ground, and patches come from elsewhere;
* **kept**: one place twice, and no building appears or vanishes.

In all of them ground without buildings differs as well (other ground, cars, containers, pools),
trees have a season, shadows another direction, roofs lean, t2 is displaced by some pixels, and each
date has its own light and sensor. None of that is change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rscd.base.arguments import check_names
from rscd.base.errors import DataError
from rscd.base.types import IGNORE, ByteArray, FloatArray
from rscd.synthetic.single_date_light import lit, seasoned, shaded

KEPT_GSD_M = 0.4
"""Ground sample distance at which images are stored; views are resampled from it."""
NEVER = frozenset({"panauti", "catanduanes", "kampala"})
"""Places reserved for validation."""
BLOCK, BLOCKS = 16, 8
"""For images without a place: one in this many blocks of neighbouring names is reserved."""
LEAST_BUILDING_PX = 40
"""Area in stored pixels: smaller buildings are not inserted elsewhere."""

Split = Literal["train", "val"]
KEYS = frozenset({"image", "mask", "standing"})


@dataclass(frozen=True)
class Tile:
    """An image of one date.

    Attributes:
        name: set and file.
        image: (H,W,3) uint8 red, green, blue.
        standing: (H,W) uint8: 1 building, 0 none, 255 where there is no image.
        parts: (H,W) int32: number of each building, from 1.
        boxes: x, y, width, height and number of each building that may be inserted elsewhere.
    """

    name: str
    image: ByteArray
    standing: ByteArray
    parts: NDArray[np.int32]
    boxes: NDArray[np.int32]


@dataclass
class View:
    """One date being made: both arrays have the size of the patch."""

    image: FloatArray  # (S,S,3) in 0..255
    standing: ByteArray  # (S,S) 0, 1, 255

    def copy(self) -> "View":
        """A copy of both arrays."""
        return View(self.image.copy(), self.standing.copy())


class SingleDatePairs(Dataset[dict[str, Any]]):
    """An endless dataset of pairs; pair ``n`` depends only on the seed and ``n``.

    A sample has ``image`` (2,3,S,S) float32 in 0..255, ``mask`` (1,S,S) int64 (0, 1, 255),
    ``standing`` (2,S,S) int64, the buildings of each date (0, 1, 255), and ``name``.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split = "train",
        length: int = 1000,
        seed: int = 0,
        patch_size: int = 192,
        *,
        gsd_m: tuple[float, float] = (0.37, 0.67),
        kinds: tuple[float, float, float] = (0.2, 0.55, 0.25),
        shift_px: float = 2.0,
        keys: Sequence[str] | None = None,
    ) -> None:
        """Read all images; they are kept in memory, 0.5 MB per 10 thousand square metres.

        Args:
            root: folder with ``index.csv`` and ``<set>/image``, ``<set>/mask``.
            split: ``train``, or ``val``: other places.
            length: pairs per epoch.
            seed: another seed gives other pairs.
            patch_size: side in pixels.
            gsd_m: bounds of the ground sample distance of a pair, metres per pixel.
            kinds: fractions of pairs elsewhere, edited and kept.
            shift_px: largest displacement of t2.
            keys: required keys of a sample, which may have more.

        Raises:
            DataError: if there are no such images.
        """
        check_names(keys or (), sorted(KEYS), "keys of these pairs", DataError)
        self.length = length
        self.seed = seed
        self.size = patch_size
        self.gsd_m = gsd_m
        self.kinds = np.asarray(kinds) / sum(kinds)
        self.shift_px = shift_px
        self.endless = split == "train"
        """Whether indices beyond the length are valid."""
        groups = read_tiles(Path(root), split)
        self.built = [[t for t in tiles if len(t.boxes)] for tiles in groups]
        self.built = [tiles for tiles in self.built if tiles]
        self.bare = [t for tiles in groups for t in tiles if not (t.standing == 1).any()]
        if not self.built or not self.bare:
            raise DataError(
                f"expected images with buildings and images without in {root} for {split}, "
                f"found {sum(map(len, self.built))} and {len(self.bare)}; check the folder"
            )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Pair ``index``, from 0."""
        rng = np.random.default_rng([self.seed, index])
        kind = int(rng.choice(3, p=self.kinds))
        gsd_m = float(np.exp(rng.uniform(*np.log(self.gsd_m))))
        base = self._view(rng, self._tile(rng), gsd_m)
        joined = np.zeros((self.size, self.size), bool)
        if kind == 0:
            dates = [base, self._view(rng, self._tile(rng), gsd_m)]
            joined[:] = True
        else:
            dates = [base, base.copy()]
            self._change_ground(rng, dates, gsd_m)
        if kind == 1:
            self._edit(rng, dates, joined, gsd_m)
        for date in dates:
            _scatter(rng, date, gsd_m)
        image, mask, standing = self._seen(rng, dates, joined, gsd_m)
        return {
            "image": torch.from_numpy(image),
            "mask": _long(mask)[None],
            "standing": _long(standing),
            "name": f"pair {self.seed}/{index}",
        }

    def _tile(self, rng: np.random.Generator) -> Tile:
        """A random image: three in four have buildings; sets are weighted by the root of size."""
        if rng.random() < 0.25:
            return self.bare[rng.integers(len(self.bare))]
        weights = np.sqrt([len(tiles) for tiles in self.built])
        tiles = self.built[rng.choice(len(self.built), p=weights / weights.sum())]
        return tiles[rng.integers(len(tiles))]

    def _view(self, rng: np.random.Generator, tile: Tile, gsd_m: float) -> View:
        """A patch of an image around a random position, rotated, mirrored and scaled."""
        height, width = tile.standing.shape
        at = rng.uniform(0, 1, 2) * (width, height)
        if len(tile.boxes) and rng.random() < 0.5:
            x, y, w, h, _ = tile.boxes[rng.integers(len(tile.boxes))]
            at = np.array([x + w / 2, y + h / 2]) + rng.normal(0, self.size / 8, 2)
        inside = min(self.size * gsd_m / KEPT_GSD_M, width, height) / 2
        at = np.clip(at, inside, np.maximum((width - inside, height - inside), inside))
        matrix = _onto(rng, at, np.full(2, self.size / 2), KEPT_GSD_M / gsd_m)
        return View(*_warped(tile, matrix, (self.size, self.size)))

    def _change_ground(self, rng: np.random.Generator, dates: list[View], gsd_m: float) -> None:
        """Replace the ground at one date, wherever neither date has a building."""
        for _ in range(rng.integers(3)):
            other = self._view(rng, self.bare[rng.integers(len(self.bare))], gsd_m)
            date = dates[rng.integers(2)]
            if rng.random() < 0.7:
                other.image = _matched(rng, other.image, date.image)
            free = np.logical_and.reduce([d.standing == 0 for d in dates]).astype(np.uint8)
            free = cv2.erode(free, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 8)))
            region = np.asarray(_blob(rng, self.size, (0.02, 0.5)) * free, np.uint8)
            alpha = _soft(region, rng.uniform(0.3, 3.0))[..., None]
            date.image += alpha * (other.image - date.image)

    def _edit(
        self, rng: np.random.Generator, dates: list[View], joined: NDArray[np.bool_], gsd_m: float
    ) -> None:
        """Insert, cover and replace buildings; mark differing origins in ``joined``."""
        for _ in range(rng.choice(3, p=(0.5, 0.35, 0.15))):
            other = self._view(rng, self._tile(rng), gsd_m)
            date = dates[rng.integers(2)]
            if rng.random() < 0.6:
                other.image = _matched(rng, other.image, date.image)
            region = _blob(rng, self.size, (0.03, 0.3))
            _lay(rng, date, other.image, other.standing, region)
            joined |= region > 0
        for _ in range(rng.integers(4)):
            self._cover(rng, dates, joined)
        for _ in range(rng.integers(9)):
            self._set_down(rng, dates, joined, gsd_m)

    def _cover(
        self, rng: np.random.Generator, dates: list[View], joined: NDArray[np.bool_]
    ) -> None:
        """Cover a building with adjacent ground, at one date."""
        date = dates[rng.integers(2)]
        count, parts, found, _ = cv2.connectedComponentsWithStats((date.standing == 1).astype("u1"))
        if count < 2:
            return
        number = int(rng.integers(1, count))
        if found[number, cv2.CC_STAT_AREA] > 0.2 * self.size**2:
            return
        region = (parts == number).astype(np.uint8)
        disc = _disc(int(rng.integers(2, 7)))
        region = np.asarray(cv2.dilate(region, disc), np.uint8)
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        shape = region[top:bottom, left:right]
        for _ in range(12):
            y = int(rng.integers(0, self.size - (bottom - top) + 1))
            x = int(rng.integers(0, self.size - (right - left) + 1))
            window = (slice(y, y + bottom - top), slice(x, x + right - left))
            if (date.standing[window] * shape).any():
                continue
            image = date.image.copy()
            image[top:bottom, left:right] = date.image[window]
            _lay(rng, date, image, np.zeros_like(date.standing), region)
            joined |= region > 0
            return

    def _set_down(
        self, rng: np.random.Generator, dates: list[View], joined: NDArray[np.bool_], gsd_m: float
    ) -> None:
        """Insert a building from another place, with some of its ground."""
        tiles = self.built[rng.integers(len(self.built))]
        tile = tiles[rng.integers(len(tiles))]
        x, y, w, h, number = tile.boxes[rng.integers(len(tile.boxes))]
        scale = KEPT_GSD_M / gsd_m * rng.uniform(0.85, 1.2)
        rim = int(rng.integers(1, 7))
        reach = int(np.hypot(w, h) / 2 * scale + rim + 3)
        if 2 * reach >= self.size:
            return
        middle = np.array([x + w / 2, y + h / 2])
        matrix = _onto(rng, middle, np.full(2, float(reach)), scale)
        side = (2 * reach, 2 * reach)
        image, standing = _warped(tile, matrix, side)
        part = cv2.warpAffine((tile.parts == number).astype(np.uint8), matrix, side)
        region = np.asarray(cv2.dilate(part, _disc(rim)), np.uint8)
        anywhere = rng.random() < 0.1
        for _ in range(12):
            top, left = (int(v) for v in rng.integers(0, self.size - 2 * reach + 1, 2))
            window = (slice(top, top + 2 * reach), slice(left, left + 2 * reach))
            taken = [(d.standing[window] == 1) & (region > 0) for d in dates]
            if anywhere or not np.any(taken):
                break
        else:
            return
        chosen = dates if rng.random() < 0.12 else [dates[rng.integers(2)]]
        state = rng.bit_generator.state
        for date in chosen:
            rng.bit_generator.state = state
            here = View(date.image[window], date.standing[window])
            stamp = _matched(rng, image, here.image) if rng.random() < 0.5 else image
            _lay(rng, here, stamp, standing, region)
        if len(chosen) == 1:
            joined[window] |= region > 0

    def _seen(
        self, rng: np.random.Generator, dates: list[View], joined: NDArray[np.bool_], gsd_m: float
    ) -> tuple[FloatArray, ByteArray, ByteArray]:
        """Image (2,3,S,S), mask (S,S) and buildings (2,S,S) as seen by two sensors.

        A building that appeared is at its position in t2, one that vanished at its position in t1,
        because which date is displaced is unknowable.
        """
        first, second = (date.standing for date in dates)
        unknown = (first == IGNORE) | (second == IGNORE) | ((first & second & 1 == 1) & joined)
        went = (first == 1) & (second == 0)
        came = (second == 1) & (first == 0)
        images, maps = [], []
        shifts = (np.zeros(2), rng.uniform(-self.shift_px, self.shift_px, 2))
        for date, shift, only in zip(dates, shifts, (went, came), strict=True):
            flow = _flow(rng, date.standing == 1, shift)
            labels = np.dstack([date.standing, only, unknown]).astype(np.uint8)
            at, mirror = (flow[..., 0], flow[..., 1]), cv2.BORDER_REFLECT
            labels = np.asarray(cv2.remap(labels, *at, cv2.INTER_NEAREST, borderMode=mirror))
            image = cv2.remap(date.image, *at, cv2.INTER_LINEAR, borderMode=mirror)
            image = seasoned(rng, np.asarray(image / 255, np.float32))
            image = shaded(rng, image, labels[..., 0] == 1, gsd_m)
            images.append(lit(rng, image))
            maps.append(labels)
        mask = ((maps[0][..., 1] | maps[1][..., 1]) > 0).astype(np.uint8)
        mask[(maps[0][..., 2] | maps[1][..., 2]) > 0] = IGNORE
        standing = np.stack([labels[..., 0] for labels in maps])
        image = np.stack(images).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(image, np.float32), mask, standing


def read_tiles(root: Path, split: Split) -> list[list[Tile]]:
    """The images of a split, by set.

    Raises:
        DataError: if there is no index, or an image cannot be read.
    """
    index = root / "index.csv"
    if not index.is_file():
        raise DataError(
            f"expected index.csv with the columns set, name, gsd_m and place in {root}, found "
            "none; give the folder of single-date images"
        )
    table = pd.read_csv(index, dtype={"name": str, "place": str})
    groups = []
    for name, rows in table.groupby("set"):
        held = held_back(str(name), rows)
        chosen = rows[held if split == "val" else ~held]
        files = zip(chosen["name"], chosen["gsd_m"], strict=True)
        groups.append([_tile(root / str(name), file, gsd_m) for file, gsd_m in files])
    return groups


def held_back(name: str, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Images of a set reserved for validation: whole places, or blocks of neighbouring names."""
    if rows["place"].notna().any():
        return np.asarray(rows["place"].isin(NEVER), bool)
    order = rows["name"].rank(method="first").to_numpy().astype(int) - 1
    return np.asarray(order // BLOCK % BLOCKS == 0)


def _tile(folder: Path, name: str, gsd_m: float) -> Tile:
    path = folder / "image" / f"{name}.jpg"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"expected a readable image, found none at {path}")
    mask_path = folder / "mask" / f"{name}.png"
    mask = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) if mask_path.is_file() else None
    blank = cv2.dilate((image.max(2) <= 8).astype(np.uint8), _disc(1))
    blank = cv2.morphologyEx(blank, cv2.MORPH_OPEN, np.ones((25, 25), np.uint8))
    share = np.zeros(image.shape[:2], np.float32) if mask is None else (mask > 0).astype(np.float32)
    factor = gsd_m / KEPT_GSD_M
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    image, share, blank = (
        cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (image, share, blank)
    )
    standing = (share >= 0.5).astype(np.uint8)
    _, parts, found, _ = cv2.connectedComponentsWithStats(standing)
    number = np.arange(len(found))
    left, top, width, height, area = found.T
    inner = (left > 1) & (top > 1) & (left + width < size[0] - 1) & (top + height < size[1] - 1)
    usable = inner & (number > 0) & (area >= LEAST_BUILDING_PX)
    boxes = np.stack([left, top, width, height, number], 1)[usable].astype(np.int32)
    standing[blank > 0] = IGNORE
    rgb = np.ascontiguousarray(image[..., ::-1], np.uint8)
    return Tile(f"{folder.name}/{name}", rgb, standing, parts.astype(np.int32), boxes)


def _onto(
    rng: np.random.Generator, source: FloatArray | NDArray[Any], target: NDArray[Any], scale: float
) -> NDArray[np.float64]:
    """(2,3) matrix from ``source`` to ``target``: rotated, scaled, possibly mirrored."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    return np.column_stack([linear, target - linear @ np.asarray(source, float)])


def _warped(
    tile: Tile, matrix: NDArray[np.float64], side: tuple[int, int]
) -> tuple[FloatArray, ByteArray]:
    """Image and buildings under an affine map; beyond its border an image is mirrored."""
    mode = cv2.BORDER_REFLECT_101
    image = cv2.warpAffine(tile.image, matrix, side, flags=cv2.INTER_LINEAR, borderMode=mode)
    standing = cv2.warpAffine(tile.standing, matrix, side, flags=cv2.INTER_NEAREST, borderMode=mode)
    return np.asarray(image, np.float32), np.asarray(standing, np.uint8)


def _lay(
    rng: np.random.Generator, date: View, image: FloatArray, standing: ByteArray, region: ByteArray
) -> None:
    """Blend an image into a date within a region, with a soft edge."""
    alpha = _soft(region, rng.uniform(0.3, 1.5))[..., None]
    date.image += alpha * (image - date.image)
    date.standing[region > 0] = standing[region > 0]


def _matched(rng: np.random.Generator, image: FloatArray, like: FloatArray) -> FloatArray:
    """Shift mean and standard deviation towards those of another image, by a random fraction."""
    share = rng.uniform(0.4, 1.0)
    mean, std = cv2.meanStdDev(image)
    mean_like, std_like = cv2.meanStdDev(like)
    gain = np.clip(std_like / np.maximum(std, 1.0), 0.6, 1.6) ** share
    offset = mean + share * (mean_like - mean) - gain * mean
    out = image * gain.T.astype(np.float32) + offset.T.astype(np.float32)
    return np.asarray(np.clip(out, 0, 255), np.float32)


def _soft(region: ByteArray, sigma: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(region.astype(np.float32), (0, 0), sigma), np.float32)


def _disc(radius: int) -> ByteArray:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(disc, np.uint8)


def _blob(rng: np.random.Generator, size: int, area: tuple[float, float]) -> ByteArray:
    """(S,S) 1 inside a rotated rectangle or an irregular blob covering a fraction of the patch."""
    out = np.zeros((size, size), np.uint8)
    reach = size * np.sqrt(rng.uniform(*area)) / 2
    centre = rng.uniform(0, size, 2)
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.5:
        axes = (2 * reach * stretch, 2 * reach / stretch)
        points = cv2.boxPoints((tuple(centre), axes, float(rng.uniform(0, 180))))
    else:
        count = int(rng.integers(5, 12))
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = reach * rng.uniform(0.6, 1.5, count)
        points = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    cv2.fillPoly(out, [np.round(points).astype(np.int32)], 1)
    return out


CAR_COLOURS = ((235, 235, 235), (30, 30, 35), (120, 120, 125), (150, 30, 30), (40, 60, 130))
BOX_COLOURS = ((60, 110, 170), (170, 80, 50), (210, 210, 210), (70, 120, 80), (190, 150, 60))
POOL_COLOURS = ((70, 170, 200), (110, 200, 220), (40, 120, 140))


def _scatter(rng: np.random.Generator, date: View, gsd_m: float) -> None:
    """Add cars, and sometimes containers and pools, on ground without buildings."""
    things: list[tuple[tuple[int, int, int], tuple[float, float]]] = []
    if rng.random() < 0.5:
        things += [(CAR_COLOURS[rng.integers(5)], (1.9, 4.5)) for _ in range(rng.integers(1, 16))]
    if rng.random() < 0.1:
        crate = (BOX_COLOURS[rng.integers(5)], (2.5, 6.0 * rng.integers(1, 3)))
        things += [crate] * int(rng.integers(1, 5))
    if rng.random() < 0.1:
        things.append((POOL_COLOURS[rng.integers(3)], (rng.uniform(3, 6), rng.uniform(6, 12))))
    if not things:
        return
    size = len(date.image)
    free = cv2.erode((date.standing == 0).astype(np.uint8), np.ones((9, 9), np.uint8))
    heading = rng.uniform(0, 180)
    for colour, (width, length) in things:
        x, y = rng.integers(0, size, 2)
        if not free[y, x]:
            continue
        angle = float(heading + rng.choice([0.0, 90.0]) + rng.normal(0, 4))
        box = cv2.boxPoints(((float(x), float(y)), (width / gsd_m, length / gsd_m), angle))
        points = np.round(box * 8).astype(np.int32)
        shade = np.round((box + rng.uniform(0.5, 2)) * 8).astype(np.int32)
        layer = date.image
        if rng.random() < 0.5:
            cv2.fillConvexPoly(layer, shade, (45.0, 45.0, 50.0), cv2.LINE_AA, 3)
        tone = tuple(float(c) for c in np.clip(np.array(colour) * rng.uniform(0.7, 1.15), 0, 255))
        cv2.fillConvexPoly(layer, points, tone, cv2.LINE_AA, 3)


def _flow(
    rng: np.random.Generator, building: NDArray[np.bool_], shift: NDArray[np.float64]
) -> FloatArray:
    """(S,S,2) x, y source of each pixel; roofs lean, the ground does not."""
    size = len(building)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(np.float32)
    grid += shift.astype(np.float32)
    if rng.random() < 0.4:
        lean = rng.normal(0, 1.5, 2).astype(np.float32)
        grid += _soft(building.astype(np.uint8), 1.5)[..., None] * lean
    return grid


def _long(values: ByteArray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
