"""Leaks between parts of a split: equal pixels, neighbouring tiles, shared parents and ground."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from pyproj import CRS

from rscd.data.images import Picture
from rscd.data.splits import Split
from rscd.data.tiles import Tile, near_pairs, parent_of
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

    @property
    def counts(self) -> dict[str, int]:
        """Leaks by kind."""
        return dict(Counter(leak.kind for leak in self.leaks))

    def text(self) -> str:
        """One line per kind and pair of parts, with an example."""
        if not self.leaks:
            return f"no leaks (checked: {', '.join(self.checked)})"
        groups: dict[tuple[str, tuple[str, str]], list[Leak]] = {}
        for leak in self.leaks:
            groups.setdefault((leak.kind, leak.parts), []).append(leak)
        return "\n".join(
            f"{kind}: {len(found)} between {parts[0]} and {parts[1]}, first "
            f"{found[0].first} and {found[0].second}"
            for (kind, parts), found in groups.items()
        )


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
    distance: float = 0.0,
) -> LeakReport:
    """Find pairs of different parts that share pixels, borders or parents.

    :class:`Split` already guarantees that no name is in two parts. A part named ``buffer`` is not
    used and so cannot leak; ``labeled`` and ``unlabeled`` are both training.

    Args:
        split: the parts.
        tiles: locations of the pairs, if known.
        hashes: content hashes of each date by name; None skips the comparison of pixels.
        distance: largest distance that counts as touching, in the units of the boxes.
    """
    owner = {name: _role(part) for part, names in split.parts.items() for name in names}
    owner = {name: role for name, role in owner.items() if role != "buffer"}
    placed = [tile for tile in tiles if tile.name in owner]
    leaks = _parents(owner) + [
        Leak("touching", a, b, (owner[a], owner[b]))
        for a, b in near_pairs(placed, distance)
        if owner[a] != owner[b]
    ]
    if hashes is not None:
        leaks += _equal_content(owner, hashes)
    checked = ["names", "parents"] + ["touching"] * bool(placed)
    checked += ["content"] * (hashes is not None)
    return LeakReport(tuple(dict.fromkeys(leaks)), tuple(checked))


def _role(part: str) -> str:
    return "train" if part in {"labeled", "unlabeled"} else part


def _parents(owner: Mapping[str, str]) -> list[Leak]:
    groups: dict[str, list[str]] = {}
    for name in owner:
        groups.setdefault(parent_of(name), []).append(name)
    return _across("parent", groups, owner)


def _equal_content(owner: Mapping[str, str], hashes: Mapping[str, Sequence[str]]) -> list[Leak]:
    groups: dict[str, list[str]] = {}
    for name in owner:
        for value in dict.fromkeys(hashes.get(name, ())):
            if value != NO_CONTENT:
                groups.setdefault(value, []).append(name)
    return _across("content", groups, owner)


def _across(kind: str, groups: Mapping[str, Sequence[str]], owner: Mapping[str, str]) -> list[Leak]:
    """One leak per group and pair of parts, not one per pair of samples."""
    leaks = []
    for names in groups.values():
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(owner[name], name)
        parts = list(first)
        for i, a in enumerate(parts):
            leaks += [Leak(kind, first[a], first[b], (a, b)) for b in parts[i + 1 :]]
    return leaks
