"""Files with sidecars that appear completely or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import rasterio
from rasterio.errors import RasterioError

from rscd.base.errors import OutputError
from rscd.base.files import SIDECARS, give_name, output_error, place, remove_tree, sidecars, writing
from rscd.export.database import replacing
from rscd.geo.settings import unplaced

__all__ = ["atomic_folder", "output_error"]

RASTERS = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".jp2"})
"""Formats that may share a world file or other sidecar named after the stem alone."""

_LEFTOVERS = (".tmp", *(suffix for suffix in SIDECARS if suffix.startswith("-")))


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `target`; write files there under their final names.

    Args:
        target: the file to create.

    Read the files back before leaving the block: libraries do not report every failure. On success
    the files in the folder, without subfolders, are moved beside `target`, the file named like
    `target` last, so that its companions exist once it does; sidecars of a replaced file that would
    be read with the new one are deleted. On failure the folder is deleted and nothing has changed.

    Raises:
        OutputError: if the location cannot be written, the disk is full, a GeoPackage of this name
            is open in another program, or a file beside `target` that may belong to another one
            would be read with it.
    """
    # a fixed name, so that the next run removes what a killed run left
    scratch = target.with_name(f".{target.name}.partial")
    try:
        with writing(target):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            yield scratch
            # temporary files that GDAL and SQLite leave after a failure are not part of the result
            made = [
                path
                for path in scratch.iterdir()
                if path.is_file() and not path.name.endswith(_LEFTOVERS)
            ]
            made.sort(key=lambda path: path.name == target.name)  # target last
            for path in made:  # some disks report only now that they are full
                with path.open("r+b") as file:  # Windows flushes what may be written alone
                    os.fsync(file.fileno())
            final = [target.with_name(path.name) for path in made]
            stale = _named_after_the_stem(made[-1], target, {path.name for path in made})
            with replacing(target):
                place(made, final, stale)
    finally:
        if scratch.exists():
            remove_tree(scratch)


def _named_after_the_stem(made: Path, target: Path, own: set[str]) -> list[Path]:
    """Sidecars that would be read with a raster, and belong to the one it replaces.

    Args:
        made: the new raster, under another name.
        target: its final path.
        own: names of files written with it.

    Raises:
        OutputError: for a sidecar that may belong to another raster.
    """
    if target.suffix.lower() not in RASTERS:
        return []
    beside = set(sidecars(target)) | {target, *(target.with_name(name) for name in own)}
    stem = target.stem.lower()
    near = sorted(
        path
        for path in target.parent.iterdir()
        if path.name.lower().startswith((f"{stem}.", f"{stem}_")) and path.is_file()
    )
    near = [path for path in near if path not in beside]
    found = [target.with_name(name) for name in _read_along(made, target.name, near)]
    others = [path for path in near if path.suffix.lower() in RASTERS]
    if found and (others or not target.exists()):
        raise OutputError(
            f"expected no other file to be read with {target}, found {found[0]}; move it "
            "away, or choose another name"
        )
    return found


def _read_along(made: Path, name: str, near: list[Path]) -> list[str]:
    """Names of those files that GDAL reads with a raster beside them."""
    if not near:
        return []
    with TemporaryDirectory(prefix="rscd-") as room:
        for path, linked in ((made, name), *((path, path.name) for path in near)):
            give_name(path.absolute(), Path(room) / linked)
        try:
            with (
                unplaced(),
                rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE"),
                rasterio.open(Path(room) / name) as dataset,
            ):
                found = {Path(file).name for file in dataset.files}
        except RasterioError:
            return []
    return sorted(found - {name})
