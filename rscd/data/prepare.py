"""The published tilings of WHU-CD, LEVIR-CD and DSIFN-CD, from the sets as distributed.

=======  =====================================  ==============================================
name     source                                 256 x 256 tiles, train / val / test
=======  =====================================  ==============================================
whu      one pair, 32507 x 15354                5947 / 743 / 744 of 126 x 59, seeded random
levir    637 pairs 1024 x 1024, split as given  7120 / 1024 / 2048
dsifn    3600 / 340 / 48 pairs 512 x 512        12762 / 1360 / 1830: 1638 tiles move to test
=======  =====================================  ==============================================

(``methods/kdmsi.md`` section 7.) The tiles of WHU-CD's split and DSIFN-CD's move are not published,
so both are seeded and saved. 1638 is not a multiple of the four tiles of a parent: 409
parents move whole and two tiles of a 410th, which the manifest names; ``whole_parents=True`` moves
all four tiles of it and gives 12760 / 1360 / 1832 without that leak.

The result is a folder ``A/ B/ label/ list/`` for :class:`rscd.data.folder.PairFolder` with
``split.json`` and ``manifest.json``.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from rscd.base.claim import Claim, Earlier, alone, everything
from rscd.base.files import write_whole, writing
from rscd.base.types import IGNORE, ShapeHW
from rscd.base.version import version
from rscd.data.images import open_label, read_label_values, read_picture, write_picture
from rscd.data.labels import write_label_list
from rscd.data.sources import Source, open_source
from rscd.data.splits import Split
from rscd.data.tilings import PUBLISHED, Cut, TileOrder, Triple, plan
from rscd.geo.labels import (
    MaskRule,
    Told255,
    coding_in,
    declared_nodata,
    read_stored,
    says_255_is_change,
)

log = logging.getLogger(__name__)

FORMAT = "rscd-tiles/1"
STORED = {0: 0, 1: 255, IGNORE: 127}
"""Stored values of label tiles by mask value."""

BLOCK_CACHE = 64_000_000
"""GDAL's block cache while cutting, bytes; its default is a fraction of the memory."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Manifest:
    """Record of a prepared set; the content of ``manifest.json``."""

    content: Mapping[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by split."""
        return dict(self.content["counts"])

    @property
    def change_share(self) -> dict[str, float]:
        """Fraction of changed pixels by split, without ignored pixels."""
        return dict(self.content["change_share"])


def prepare(
    name: str,
    src: Path | str,
    dst: Path | str,
    *,
    patch: int = 256,
    seed: int = 0,
    mask_values: MaskRule = "strict",
    files: Triple | None = None,
    whole_parents: bool = False,
    tile_order: TileOrder = "rows",
    progress: Progress | None = None,
) -> Manifest:
    """Cut a benchmark set into its published tiles.

    An interrupted run is resumed. Tiles of georeferenced sources are GeoTIFF with
    their own transform, others PNG. At most one row of tiles is in memory.

    Args:
        name: whu, levir or dsifn.
        src: the set as distributed.
        dst: folder to write; new, or left by an earlier run with the same arguments.
        patch: tile side in pixels; narrower strips at the right and lower edge are dropped.
        seed: of WHU-CD's split and DSIFN-CD's move.
        mask_values: how the set's label values are read.
        files: t1, t2 and label raster of ``whu``, if they cannot be identified by name.
        whole_parents: DSIFN-CD only, see the module docstring.
        tile_order: LEVIR-CD only: how the tiles of a scene are numbered. The published lists do not
            say; the manifest does.
        progress: called with tiles done and the total.

    Returns:
        The manifest, also in ``dst/manifest.json``.

    Raises:
        DataError: if the source is incomplete or damaged, or a published source did not give the
            published counts.
        OutputError: if ``dst`` belongs to another run, or cannot be written.
    """
    src, dst = Path(src), Path(dst)
    cuts, split, sources, notes = plan(
        name,
        src,
        patch=patch,
        seed=seed,
        files=files,
        whole_parents=whole_parents,
        tile_order=tile_order,
    )
    if name == "levir":
        notes = [*notes, f"tiles of a scene are numbered by {tile_order}, which no paper states"]
    rule = sorted(mask_values.items()) if isinstance(mask_values, Mapping) else mask_values
    settings = {"name": name, "patch": patch, "seed": seed, "mask_values": repr(rule)}
    settings |= {"whole_parents": whole_parents, "source": _fingerprint(cuts)}
    if tile_order != "rows":
        settings["tile_order"] = tile_order
    claim = Claim(
        dst, "tiles", settings, everything, "give a new folder", Earlier("prepare.json", dict)
    )
    with alone(dst):
        claim.take()
        tiles = {}
        for done, (cut, tile) in enumerate(_write_tiles(cuts, dst, patch, mask_values), 1):
            tiles[cut.name] = tile
            if progress is not None:
                progress(done, len(cuts))
        content = _manifest(name, settings, tiles, split, sources, notes)
        _write_lists(dst, split, tiles)
        write_whole(dst / "manifest.json", json.dumps(content, indent=1) + "\n")
    for check in content["checks"]:
        if not check["ok"]:
            log.warning("%(what)s: expected %(expected)s, found %(found)s", check)
    return Manifest(content)


def _write_tiles(
    cuts: Sequence[Cut], dst: Path, patch: int, rule: MaskRule
) -> Iterator[tuple[Cut, dict[str, Any]]]:
    """Cut each source row by row; existing tiles are only read back."""
    for folder in ("A", "B", "label"):
        (dst / folder).mkdir(parents=True, exist_ok=True)
    told = Told255()
    for files, of_source in groupby(cuts, key=lambda cut: cut.files):
        with (
            rasterio.Env(GDAL_CACHEMAX=BLOCK_CACHE),
            open_source(files[0]) as t1,
            open_source(files[1]) as t2,
            open_label(files[2]) as label,
        ):
            coding = None
            for _, of_row in groupby(of_source, key=lambda cut: cut.row):
                row = list(of_row)
                paths = [_paths(dst, cut, t1) for cut in row]
                if not all(path.is_file() for three in paths for path in three):
                    name = str(files[2])
                    if coding is None:
                        coding = coding_in(name, label, rule)
                        says = says_255_is_change(rule, declared_nodata(label), coding)
                        told.add(files[2], says)
                    window = Window(0, row[0].row, label.width, patch)
                    mask = coding.decode(*read_stored(name, label, window))
                    for valid in (t1.valid, t2.valid):  # tiles have no alpha band
                        if valid is not None:
                            mask[~valid[row[0].row : row[0].row + patch]] = IGNORE
                    strips = [source.strip(row[0].row, patch) for source in (t1, t2)]
                    for cut, three in zip(row, paths, strict=True):
                        _cut_one(cut, three, (*strips, mask[None]), (t1, t2), patch)
                for cut, three in zip(row, paths, strict=True):
                    yield cut, _record(cut, three, patch)


def _paths(dst: Path, cut: Cut, t1: Source) -> Triple:
    suffix = ".tif" if t1.georeferenced or not t1.fits_png else ".png"
    a, b, label = (dst / folder / f"{cut.name}{suffix}" for folder in ("A", "B", "label"))
    return a, b, label if t1.georeferenced else label.with_suffix(".png")


def _cut_one(
    cut: Cut, paths: Triple, strips: Sequence[NDArray[Any]], sources: Sequence[Source], patch: int
) -> None:
    t1 = sources[0]
    window = slice(cut.column, cut.column + patch)
    transform = t1.tile_transform(cut.column, cut.row)
    for path, strip, source in zip(paths[:2], strips[:2], sources[:2], strict=True):
        with writing(path):  # what fails here is not the source's
            tile, own = np.ascontiguousarray(strip[:, :, window]), source.colorinterp
            where = (t1.crs, transform, source.nodata)
            write_picture(path, tile, *where, colorinterp=own, units=source.units)
    stored = np.zeros(256, np.uint8)
    stored[list(STORED)] = list(STORED.values())
    with writing(paths[2]):
        write_picture(paths[2], stored[strips[2][:, :, window]], t1.crs, transform)


def _record(cut: Cut, paths: Triple, patch: int) -> dict[str, Any]:
    t1, t2 = (read_picture(path).pixels for path in paths[:2])
    stored = read_label_values(paths[2])
    digest = hashlib.sha256()
    for array in (t1, t2, stored):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    changed = int(np.count_nonzero(stored == STORED[1]))
    return {
        "parent": cut.parent,
        "window": [cut.column, cut.row, patch, patch],
        "file": paths[0].name,
        "changed": changed,
        "counted": int(np.count_nonzero(stored != STORED[IGNORE])),
        "label": int(changed > 0),
        "sha256": digest.hexdigest(),
    }


def _manifest(
    name: str,
    settings: Mapping[str, Any],
    tiles: Mapping[str, dict[str, Any]],
    split: Split,
    sources: Mapping[str, int] | ShapeHW,
    notes: list[str],
) -> dict[str, Any]:
    owner = {tile: part for part, names in split.parts.items() for tile in names}
    records = {tile: {"split": owner[tile], **record} for tile, record in tiles.items()}
    shares = {part: _share([tiles[n] for n in names]) for part, names in split.parts.items()}
    lines = (f"{n} {r['split']} {r['sha256']}\n" for n, r in sorted(records.items()))
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    checks = _checks(name, settings, sources, split.counts, shares)
    return {
        "format": FORMAT,
        "rscd": version(),
        "settings": dict(settings),
        "counts": split.counts,
        "positive": {p: sum(tiles[n]["label"] for n in names) for p, names in split.parts.items()},
        "change_share": shares,
        "split_hash": split.hash,
        "hash": digest,
        "checks": checks,
        "notes": [*notes, *([] if checks else ["not the published size: nothing to compare with"])],
        "tiles": records,
    }


def _share(records: Sequence[Mapping[str, int]]) -> float:
    counted = sum(record["counted"] for record in records)
    return sum(record["changed"] for record in records) / counted if counted else 0.0


def _checks(
    name: str,
    settings: Mapping[str, Any],
    sources: Mapping[str, int] | ShapeHW,
    counts: Mapping[str, int],
    shares: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Compare with the published numbers, if the source is the published one."""
    known = PUBLISHED[name]
    if sources != known.sources or settings["patch"] != 256:
        return []
    expected = dict(known.counts)
    if settings["whole_parents"]:
        expected |= {"train": expected["train"] - 2, "test": expected["test"] + 2}
    checks = [
        {"what": f"{part} tiles", "expected": n, "found": counts[part], "ok": counts[part] == n}
        for part, n in expected.items()
    ]
    found = shares["test"]
    near = abs(found - known.test_share) <= known.tolerance
    share = {"what": "test change share", "expected": known.test_share, "found": found, "ok": near}
    return [*checks, share]


def _fingerprint(cuts: Sequence[Cut]) -> str:
    """Hash of names, sizes, heads and tails of the source files; enough to detect another set."""
    digest = hashlib.sha256()
    for path in dict.fromkeys(path for cut in cuts for path in cut.files):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(4096))
            file.seek(max(0, size - 4096))
            digest.update(file.read(4096))
    return digest.hexdigest()


def _write_lists(dst: Path, split: Split, tiles: Mapping[str, Mapping[str, Any]]) -> None:
    split.write(dst / "split.json")
    for part, names in split.parts.items():
        ordered = sorted(names)
        suffix = Path(tiles[ordered[0]]["file"]).suffix if ordered else ".png"
        text = "".join(f"{name}{suffix}\n" for name in ordered)
        write_whole(dst / "list" / f"{part}.txt", text)
        labels = {name: tiles[name]["label"] for name in ordered}
        write_label_list(dst / "list" / f"{part}_label.txt", labels, suffix)
