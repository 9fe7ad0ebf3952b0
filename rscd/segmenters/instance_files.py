"""Objects that another program found at one date: COCO JSON, arrays, polygons.

* ``NAME.json``: a list of COCO annotations, or an object with ``annotations`` and ``categories``.
  Each has ``segmentation`` (run lengths, compressed or not, or polygons), ``category_id`` and
  perhaps ``score``. Without ``categories`` the id is the position among the prompts, foreground
  first, as APE writes it for DiffMatch (arXiv 2405.04788).
* ``NAME.npy``: whole numbers (H,W) number the objects, 0 is none; (M,H,W) of 0 and others, or bool,
  are their masks. All are of the first foreground prompt. Floating (C,H,W) are not objects but the
  scores of all prompts.
* ``NAME.geojson``: polygons with the fields ``class`` (a name, or its position among the prompts)
  and ``score``, both optional.

Objects without a score have 1; those of classes that are not asked for are left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio.features
import shapely
import shapely.affinity
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.border import border, reason
from rscd.base.errors import DataError
from rscd.base.types import BoolArray, FloatArray, ShapeHW
from rscd.geo.grid import check_same_world, shape_hw
from rscd.geo.pictures import PICTURE, on_picture
from rscd.geo.polygons import moved
from rscd.geo.tiles import Box
from rscd.geo.vectors import carried, exist, polygonal, read_layer
from rscd.segmenters.instances import Instance, from_masks
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.segmenter import View

SUFFIXES = (".json", ".npy", ".geojson")


def has_objects(path: Path) -> bool:
    """Whether a file holds objects; an array of floating numbers holds scores."""
    return path.suffix in SUFFIXES and (
        path.suffix != ".npy" or not np.issubdtype(_array(path).dtype, np.floating)
    )


def read_scores(base: Path, view: View, prompts: PromptSet) -> dict[str, FloatArray]:
    """Scores (h,w) of all prompts from ``NAME.npy``; empty if there is none.

    Raises:
        DataError: if it does not have one plane for each prompt, or another size.
    """
    path = base / f"{view.name}.npy"
    if not path.is_file() or has_objects(path):
        return {}
    array = _array(path)
    if array.ndim != 3 or len(array) != len(prompts.classes):
        raise DataError(
            f"{path}: expected scores ({len(prompts.classes)},H,W) of "
            f"{', '.join(prompts.classes)}, found shape {array.shape}; name the prompts in the "
            "order of its planes with --foreground and --background"
        )
    cut = _cut(array, path, view).astype(np.float32)
    if not (cut.min() >= 0 and cut.max() <= 1):
        raise DataError(
            f"{path}: expected scores from 0 to 1, found {cut.min():.3g} to {cut.max():.3g}; scale "
            "them first"
        )
    return dict(zip(prompts.classes, cut, strict=True))


def read_objects(base: Path, view: View, prompts: PromptSet) -> list[Instance] | None:
    """Objects of one view, in pixels of it; None if there is no file of them.

    Args:
        base: folder of the date.
        view: whose name the file has.
        prompts: the classes.

    Raises:
        DataError: if the file is damaged, or made for an image of another size or CRS.
    """
    found = [base / f"{view.name}{suffix}" for suffix in SUFFIXES]
    path = next((path for path in found if path.is_file() and has_objects(path)), None)
    if path is None:
        return None
    if path.suffix == ".npy":
        objects: Iterator[Instance] = _of_array(path, view)
    elif path.suffix == ".json":
        objects = _of_coco(path, view, prompts)
    else:
        objects = _of_polygons(path, view, prompts)
    return [one for one in objects if one.area_px]


def scores_of(
    objects: Sequence[Instance], prompts: PromptSet, size_hw: ShapeHW
) -> dict[str, FloatArray]:
    """Scores (h,w) by class where only objects are known: the best object's, 0 beside them.

    Foreground without an object is found nowhere; background without one is unknown and absent.
    """
    planes = {name: np.zeros(size_hw, np.float32) for name in prompts.classes}
    for one in objects:
        part = planes[prompts.classes[one.class_index]][one.slices]
        np.maximum(part, np.float32(one.score) * one.mask, out=part)
    present = {one.class_index for one in objects} | set(range(prompts.n_foreground))
    return {name: planes[name] for index, name in enumerate(planes) if index in present}


def decoded_rle(size: Sequence[int], counts: str | Sequence[int]) -> BoolArray:
    """(H,W) mask of COCO's run lengths, down the columns, beginning with a run outside.

    Args:
        size: [H, W].
        counts: run lengths; or text of five bits per character, low ones first, in which each run
            from the fourth on is the difference to the run two before it.

    Raises:
        ValueError: if the runs do not fill the image.
    """
    runs = _runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
    height, width = (int(side) for side in size)
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"runs of {sum(runs)} pixels for {height} x {width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _runs(text: str) -> list[int]:
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"character {character!r} among run lengths")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # negative
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return runs


def _of_coco(path: Path, view: View, prompts: PromptSet) -> Iterator[Instance]:
    with _border(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        plain = isinstance(content, list)
        rows = content if plain else content["annotations"]
        names = {} if plain else {c["id"]: c["name"] for c in content.get("categories", [])}
    for row in rows:
        with _border(path):
            index = _class_of(names.get(row["category_id"], row["category_id"]), prompts)
            score, shape = float(row.get("score", 1.0)), row["segmentation"]
        if index is None:
            continue
        if isinstance(shape, Mapping):
            with _border(path):
                mask = decoded_rle(shape["size"], shape["counts"])
            yield from from_masks(_cut(mask[None], path, view), [index], [score])
            continue
        with _border(path):
            rings = [shapely.Polygon(np.reshape(ring, (-1, 2))) for ring in shape]
            polygon = shapely.union_all(shapely.make_valid(rings))
        yield from _burnt(polygon, index, score, view)


def _of_array(path: Path, view: View) -> Iterator[Instance]:
    array = _array(path)
    if array.ndim not in (2, 3):
        raise DataError(
            f"{path}: expected numbers of objects (H,W) or masks (M,H,W), found shape "
            f"{array.shape}; save one of these"
        )
    cut = _cut(array, path, view)
    if cut.ndim == 3:
        yield from from_masks(cut)
        return
    for number in np.unique(cut[cut > 0]):
        yield from from_masks((cut == number)[None])


def _of_polygons(path: Path, view: View, prompts: PromptSet) -> Iterator[Instance]:
    frame = read_layer(path, "polygons of objects in")
    polygons = _in_pixels(path, frame, view)
    nothing = [None] * len(frame)
    classes, scores = (frame.get(name, nothing) for name in ("class", "score"))
    for polygon, name, score, here in zip(polygons, classes, scores, exist(polygons), strict=True):
        with _border(path):
            index = 0 if pd.isna(name) else _class_of(name, prompts)
            value = 1.0 if pd.isna(score) else float(score)
        if here and index is not None:
            yield from _burnt(polygon, index, value, view)


def _in_pixels(path: Path, frame: Any, view: View) -> NDArray[Any]:
    """Polygons of a file as (column, row) of the image."""
    polygons = polygonal(np.asarray(frame.geometry.values, dtype=object))
    if view.grid is not None and view.grid.crs is not None:
        source, crs = None if frame.crs is None else CRS(frame.crs), CRS(view.grid.crs)
        check_same_world("objects", path, source, crs)
        return moved(carried(polygons, source, crs), ~view.grid.affine)
    box = view.box or Box(0, 0, *view.rgb.shape[:2])
    height = box.row + box.height if view.grid is None else shape_hw(view.grid)[0]
    return moved(on_picture(polygons, GeoBox((height, 1), PICTURE, None), str(path)), ~PICTURE)


def _class_of(name: Any, prompts: PromptSet) -> int | None:
    """Position of a class among the prompts; None if it is not asked for.

    Raises:
        ValueError: for a number beyond the prompts.
    """
    if isinstance(name, str):
        return prompts.classes.index(name) if name in prompts.classes else None
    index = int(name)
    if not 0 <= index < len(prompts.classes):
        known = f"0 to {len(prompts.classes) - 1} ({', '.join(prompts.classes)})"
        raise ValueError(f"class {index} where the prompts are {known}")
    return index


def _burnt(polygon: Any, index: int, score: float, view: View) -> Iterator[Instance]:
    """The pixels of a view whose centre is in a polygon in pixel coordinates of the image."""
    top, left = (0, 0) if view.box is None else view.box.corner
    height, width = view.rgb.shape[:2]
    here = shapely.affinity.translate(polygon, -left, -top)
    x0, y0, x1, y1 = (round(value) for value in here.buffer(1).bounds)
    x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    if x0 >= x1 or y0 >= y1:
        return
    mask = rasterio.features.rasterize(
        [here], (y1 - y0, x1 - x0), transform=Affine.translation(x0, y0), dtype="uint8"
    )
    yield Instance(index, score, (x0, y0, x1, y1), mask.astype(bool))


def _cut(array: NDArray[Any], path: Path, view: View) -> NDArray[Any]:
    """The part of (..., H, W) that a view shows.

    Raises:
        DataError: if the array has not the size of the image.
    """
    box = view.box or Box(0, 0, *view.rgb.shape[:2])
    rows, cols = slice(box.row, box.row + box.height), slice(box.col, box.col + box.width)
    cut = array[..., rows, cols]
    if cut.shape[-2:] != box.shape_hw or (view.box is None and array.shape[-2:] != box.shape_hw):
        height, width = box.shape_hw
        raise DataError(
            f"{path}: expected {height} x {width} pixels (height x width) as the image has, found "
            f"{array.shape[-2]} x {array.shape[-1]}; resample it onto the image first"
        )
    return cut


def _array(path: Path) -> NDArray[Any]:
    with border(
        lambda error: DataError(
            f"{path}: expected an array saved by numpy.save, found {reason(error)[:120]}; save it "
            "again"
        )
    ):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array


def _border(path: Path) -> AbstractContextManager[None]:
    return border(
        lambda error: DataError(
            f"{path}: expected objects with class and outline (COCO: category_id, segmentation), "
            f"found {reason(error)[:160]}; correct the file, or the prompts"
        )
    )
