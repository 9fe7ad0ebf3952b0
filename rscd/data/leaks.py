"""Leaks between parts of a split: equal pixels, neighbouring tiles, shared parents and ground."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import shapely
from pyproj import CRS

from rscd.data.images import Picture
from rscd.data.splits import Split
from rscd.data.tiles import Tile, parent_of, touching_pairs
from rscd.geo.vectors import carried


@dataclass(frozen=True)
class Leak:
    """Two pairs of different parts that are not independent."""

    kind: str
    """content (equal pixels at one date), touching (neighbours or overlapping), parent."""
    first: str
    second: str
    parts: tuple[str, str]


@dataclass(frozen=True)
class LeakReport:
    """All leaks between the parts of a split."""

    leaks: tuple[Leak, ...]
    checked: tuple[str, ...]
    """Which kinds could be checked."""


@dataclass(frozen=True, eq=False)
class Ground:
    """Ground that a dataset of scenes shows."""

    name: str
    files: frozenset[str]
    """The images of both dates."""
    dates: tuple[str, str] | None
    """ISO dates of t1 and t2; None: unknown, at any time."""
    area: shapely.Geometry
    crs: CRS | None
    pixel: float
    """Side of a pixel in units of the CRS."""


def shared_ground(ours: Sequence[Ground], theirs: Sequence[Ground]) -> list[tuple[str, str]]:
    """Names of places that show the same ground, at times that overlap or in the same image.

    Neighbours are no leak: ground must be shared across more than a pixel.
    """
    if not ours or not theirs:
        return []
    crs = ours[0].crs
    areas = np.concatenate([carried(np.array([g.area], object), g.crs, crs) for g in theirs])
    tree = shapely.STRtree(areas)
    found = []
    for one in ours:
        inner = shapely.buffer(carried(np.array([one.area], object), one.crs, crs)[0], -one.pixel)
        for other in (theirs[i] for i in sorted(tree.query(inner, predicate="intersects"))):
            placed = one.crs is not None and other.crs is not None
            if one.files & other.files or (placed and _meet(one.dates, other.dates)):
                found.append((one.name, other.name))
    return found


def _meet(first: tuple[str, str] | None, second: tuple[str, str] | None) -> bool:
    if first is None or second is None:
        return True
    a, b = ([np.datetime64(date) for date in dates] for dates in (first, second))
    return bool(a[0] <= b[1] and b[0] <= a[1])


NO_CONTENT = ""
"""Hash of constant images: empty tiles at scene borders are not a leak."""


def content_hash(picture: Picture) -> str:
    """SHA-256 of the decoded pixels with their shape and dtype, whatever the file format."""
    if picture.pixels.size == 0 or (picture.pixels == picture.pixels.flat[0]).all():
        return NO_CONTENT
    header = f"{picture.pixels.shape}{picture.pixels.dtype}".encode()
    return hashlib.sha256(header + picture.pixels.tobytes()).hexdigest()


def check_leaks(
    split: Split,
    tiles: Sequence[Tile] = (),
    hashes: Mapping[str, Sequence[str]] | None = None,
) -> LeakReport:
    """Find pairs of different parts that share pixels, borders or parents.

    :class:`Split` already guarantees that no name is in two parts. A part named ``buffer`` is not
    used and so cannot leak; ``labeled`` and ``unlabeled`` are both training.

    Args:
        split: the parts.
        tiles: locations of the pairs, if known.
        hashes: content hashes of each date by name; None skips the comparison of pixels.
    """
    roles = dict.fromkeys(("labeled", "unlabeled"), "train")
    owner = {
        name: roles.get(part, part)
        for part, names in split.parts.items()
        for name in names
        if part != "buffer"
    }
    placed = [tile for tile in tiles if tile.name in owner]
    leaks = _shared("parent", {name: [parent_of(name)] for name in owner}, owner) + [
        Leak("touching", a, b, (owner[a], owner[b]))
        for a, b in touching_pairs(placed)
        if owner[a] != owner[b]
    ]
    if hashes is not None:
        leaks += _shared("content", hashes, owner)
    checked = ["names", "parents"] + ["touching"] * bool(placed)
    checked += ["content"] * (hashes is not None)
    return LeakReport(tuple(dict.fromkeys(leaks)), tuple(checked))


def _shared(kind: str, keys: Mapping[str, Iterable[str]], owner: Mapping[str, str]) -> list[Leak]:
    """One leak per key and pair of parts, not one per pair of samples."""
    first: dict[str, dict[str, str]] = {}
    for name, part in owner.items():
        for key in keys.get(name, ()):
            if key != NO_CONTENT:
                first.setdefault(key, {}).setdefault(part, name)
    return [
        Leak(kind, names[a], names[b], (a, b))
        for names in first.values()
        for a, b in combinations(names, 2)
    ]
