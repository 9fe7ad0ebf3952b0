"""Segmentations made by another program, read from files.

For models that cannot be installed here (APE, RemoteSAM), building footprints, and masks drawn by
hand. Scores come from rasters in one of two layouts:

* ``t1/NAME.tif t2/NAME.tif`` (or the names of the dates' folders, such as ``A/ B/``), one band per
  class, named in the band description; scores in [0,1], or integers with a scale;
* ``t1/CLASS/NAME.png t2/CLASS/NAME.png``: one mask or score image per class, 0 to 255.

or from ``t1/NAME.npy``. Objects come from ``t1/NAME.json``, ``.npy`` or ``.geojson``, see
`rscd.segmenters.instance_files`; without them connected components take their place, and without
scores the objects' own do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import DataError, UsageError
from rscd.base.types import IGNORE, FloatArray, Provenance
from rscd.data.images import check_agreement, open_raster, read_label
from rscd.data.layout import DATE_FOLDERS
from rscd.geo.labels import distinct
from rscd.geo.tiles import Box
from rscd.segmenters import instance_files
from rscd.segmenters.instances import Instance
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.segmenter import Segmenter, SegmenterInfo, SemanticPrediction, View

RASTERS = (".tif", ".tiff", ".png")
SUFFIXES = (*RASTERS, *instance_files.SUFFIXES)


@dataclass(frozen=True)
class Options:
    """Location of the files."""

    folder: str
    missing: str = "error"
    """Class without scores: ``error``, or ``zero`` for "found nowhere"; with ``complement`` an
    unknown background is the complement of the foreground."""


def build(options: Options) -> "Precomputed":
    """Find the folders.

    Raises:
        UsageError: for an unknown rule for missing classes.
        DataError: if there is no such folder.
    """
    if options.missing not in ("error", "zero", "complement"):
        raise UsageError(
            f"expected missing=error, zero or complement, found {options.missing!r}; correct it"
        )
    dates = _date_folders(Path(options.folder))
    files = (path for date in dates for path in date.rglob("*"))
    objects = any(instance_files.has_objects(path) for path in files)
    return Precomputed(Path(options.folder), options.missing, dates, objects)


@dataclass(frozen=True)
class Precomputed(Segmenter):
    """Reads existing files; see the module docstring."""

    folder: Path
    missing: str
    dates: tuple[Path, Path]
    """Folders of t1 and t2."""
    objects: bool = False
    """Whether any file holds objects: all of them count, whatever their score."""

    @property
    def info(self) -> SegmenterInfo:
        """Whole images, scores unchanged."""
        least = 0.0 if self.objects else 0.5
        return SegmenterInfo(
            "precomputed", native_instances=self.objects, gamma=0.5, instance_threshold=least
        )

    def fingerprint(self) -> Provenance:
        """The folder's files by name, size and modification time."""
        files = sorted(path for path in self.folder.rglob("*") if path.suffix in SUFFIXES)
        stats = [(path.relative_to(self.folder).as_posix(), path.stat()) for path in files]
        listed = [(name, found.st_size, found.st_mtime_ns) for name, found in stats]
        return {"folder": str(self.folder), "missing": self.missing, "files": listed}

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        """Read the files of each view.

        Raises:
            DataError: if a file is missing, lacks a class, or is on another grid.
        """
        found = []
        for view in views:
            prob, objects = self._read(view, prompts)
            found.append(SemanticPrediction(prob, prompts.classes, prompts.n_foreground, objects))
        return found

    def planes(self, view: View, prompts: PromptSet) -> FloatArray:
        """(C,h,w) float32 scores of one view."""
        return self._read(view, prompts)[0]

    def _read(self, view: View, prompts: PromptSet) -> tuple[FloatArray, list[Instance] | None]:
        """Scores, and objects if there are any; the objects' scores where there are no others."""
        base = self.dates[0 if view.date == "t1" else 1]
        objects = instance_files.read_objects(base, view, prompts)
        found = self._bands(base, view) | self._masks(base, view, prompts)
        found |= instance_files.read_scores(base, view, prompts)
        if not found and objects is not None:
            found = instance_files.scores_of(objects, prompts, view.rgb.shape[:2])
        lost = [name for name in prompts.classes if name not in found]
        if lost and (not found or self.missing == "error"):
            raise DataError(
                f"{base}: expected scores of {', '.join(prompts.classes)} for {view.name!r}, found "
                f"{', '.join(found) or 'none'}; add bands described {', '.join(lost)} to "
                f"{view.name}.tif or images {lost[0]}/{view.name}.png, or say "
                "--segmenter-option missing=zero (or complement)"
            )
        height, width = view.rgb.shape[:2]
        planes = np.zeros((len(prompts.classes), height, width), np.float32)
        for index, name in enumerate(prompts.classes):
            if name in found:
                planes[index] = found[name]
        front = planes[: prompts.n_foreground]
        behind = planes[prompts.n_foreground :]
        if self.missing == "complement" and all(p.name in lost for p in prompts.background):
            behind[:] = 1 - front.max(axis=0)
        return planes, objects

    def _bands(self, base: Path, view: View) -> dict[str, FloatArray]:
        path = _file(base, view.name)
        if path is None:
            return {}
        with open_raster(path) as dataset:
            _check_grid(path, dataset, view)
            names = [name for name in dataset.descriptions if name]
            indexes = [i + 1 for i, name in enumerate(dataset.descriptions) if name]
            if not indexes:
                return {}
            values = dataset.read(indexes).astype(np.float32)
            scales = np.array([dataset.scales[i - 1] for i in indexes], np.float32)
            empty = dataset.read_masks(indexes) == 0
        values *= scales[:, None, None]
        values[empty] = 0
        if not (values.min() >= 0 and values.max() <= 1):
            raise DataError(
                f"{path}: expected scores from 0 to 1, found {values.min():.3g} to "
                f"{values.max():.3g}; write them in [0,1] or set the bands' scale"
            )
        return {n: _cut(plane, view.box) for n, plane in zip(names, values, strict=True)}

    def _masks(self, base: Path, view: View, prompts: PromptSet) -> dict[str, FloatArray]:
        found = {}
        for name in prompts.classes:
            path = _file(base / name, view.name)
            if path is None:
                continue
            label = read_label(path)
            values = np.where(label.unlabelled, label.values.dtype.type(0), label.values)
            if set(distinct(values).tolist()) <= {0, 1, IGNORE}:
                coding = label.coding()
                check_agreement(label, coding)
                values = (coding.decode(label.values, label.known) == 1).astype(np.float32)
            elif values.dtype == np.uint8:
                values = values / np.float32(255)
            _check_size(path, values.shape, view)
            found[name] = _cut(values, view.box).astype(np.float32)
        return found


def _date_folders(folder: Path) -> tuple[Path, Path]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder of segmentations, found nothing; check "
            "--segmenter-option folder="
        )
    children = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
    for first, second in (("t1", "t2"), *DATE_FOLDERS):
        if first in children and second in children:
            return children[first], children[second]
    raise DataError(
        f"{folder}: expected the folders t1/ and t2/, found {', '.join(sorted(children)) or 'none'}"
        "; sort the rasters by date"
    )


def _file(folder: Path, name: str) -> Path | None:
    files = (folder / f"{name}{suffix}" for suffix in RASTERS)
    return next((path for path in files if path.is_file()), None)


def _check_grid(path: Path, dataset: Any, view: View) -> None:
    _check_size(path, dataset.shape, view)
    if view.grid is None or view.grid.crs is None:
        return
    same_crs = dataset.crs is not None and view.grid.crs == dataset.crs.to_wkt()
    if not same_crs or not dataset.transform.almost_equals(view.grid.affine, 1e-6):
        raise DataError(
            f"{path}: expected the grid of the image ({view.grid.crs}, {view.grid.affine[:6]}), "
            f"found {dataset.crs} and {tuple(dataset.transform)[:6]}; warp it onto the image first"
        )


def _check_size(path: Path, shape: tuple[int, ...], view: View) -> None:
    whole = view.rgb.shape[:2] if view.box is None else None
    if whole is not None and tuple(shape) != tuple(whole):
        raise DataError(
            f"{path}: expected {whole[0]} x {whole[1]} pixels (height x width) as the image has, "
            f"found {shape[0]} x {shape[1]}; resample it onto the image first"
        )


def _cut(plane: NDArray[Any], box: Box | None) -> NDArray[Any]:
    return plane if box is None else plane[box.slices]
