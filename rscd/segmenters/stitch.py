"""Windows over an image, and the merging of their segmentations.

Scores are cut, not blended: every pixel belongs to the window whose centre is nearest along each
axis. Objects cut by a seam are joined if both halves agree inside the zone that two windows share.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from rscd.base.errors import UsageError
from rscd.base.types import BoolArray, ShapeHW
from rscd.geo.tiles import Box, Tile
from rscd.segmenters.instances import Instance
from rscd.segmenters.overlaps import box_pairs
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.segmenter import Segmenter, SemanticPrediction, View, check_prediction

SAME_SHARE = 0.5
"""Two halves are one object if they share this fraction of the smaller one inside the zone."""


def windows(
    shape_hw: ShapeHW, tile: int | None, overlap: int, part: Box | None = None
) -> list[Tile]:
    """Full-size windows with their cores, row by row.

    Args:
        shape_hw: of the image.
        tile: side of a window; None for the whole image.
        overlap: pixels that neighbours share; the last window of a row or column shares more.
        part: only those windows of the image that overlap this box.

    Returns:
        Tiles whose read boxes lie inside the image and are ``tile`` wide where the image is, and
        whose write boxes cover each pixel that is read once: the cut is at the middle of each
        overlap.

    Raises:
        UsageError: see `check_windows`.
    """
    whole = Box(0, 0, *shape_hw)
    if tile is None:
        return [Tile(0, whole, whole)]
    check_windows(tile, overlap)
    seen = part or whole
    rows = _spans(shape_hw[0], tile, overlap, (seen.row, seen.row + seen.height))
    cols = _spans(shape_hw[1], tile, overlap, (seen.col, seen.col + seen.width))
    boxes = [
        (Box(r0, c0, r1 - r0, c1 - c0), Box(kr0, kc0, kr1 - kr0, kc1 - kc0))
        for (r0, r1), (kr0, kr1) in rows
        for (c0, c1), (kc0, kc1) in cols
    ]
    return [Tile(index, read, write) for index, (read, write) in enumerate(boxes)]


def check_windows(tile: int | None, overlap: int) -> None:
    """Check the parameters of windows.

    Raises:
        UsageError: if the overlap is not smaller than the tile, or the tile is empty.
    """
    if tile is None:
        return
    if tile < 1:
        raise UsageError(f"expected a tile of at least one pixel, found {tile}; correct it")
    if not 0 <= overlap < tile:
        raise UsageError(
            f"expected an overlap from 0 to below the tile of {tile} pixels, found {overlap}; "
            "correct either"
        )


Span = tuple[int, int]


def _spans(size: int, tile: int, overlap: int, part: Span) -> list[tuple[Span, Span]]:
    """(window, core) of one axis as (start, stop), for the windows that overlap a part."""
    last = max(size - tile, 0)
    starts = [*range(0, last, tile - overlap), last]
    every = [(start, min(start + tile, size)) for start in starts]
    reads = [read for read in every if read[0] < part[1] and part[0] < read[1]]
    cuts = [(a[1] + b[0]) // 2 for a, b in pairwise(reads)]
    cores = zip([reads[0][0], *cuts], [*cuts, reads[-1][1]], strict=True)
    return list(zip(reads, cores, strict=True))


def around(tiles: Sequence[Tile]) -> Box:
    """The bounding box of windows."""
    first, last = tiles[0].read, tiles[-1].read
    height, width = last.row + last.height - first.row, last.col + last.width - first.col
    return Box(first.row, first.col, height, width)


def segment(
    segmenter: Segmenter,
    view: View,
    prompts: PromptSet,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    plan: Sequence[Tile] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SemanticPrediction:
    """Segment an image, or the part of one that windows cover, window by window.

    Args:
        segmenter: the backend.
        view: the whole image; or with ``plan`` what its windows cover (`around`), with ``box`` its
            position in the image.
        prompts: the classes.
        tile: side of a window; default that of the backend.
        overlap: pixels shared by neighbours; default likewise.
        plan: the windows, in pixels of the whole image; default all of them.
        progress: progress callback, called with the windows done and their total.

    Returns:
        Scores (C,H,W) and instances in coordinates of the view.
    """
    info = segmenter.info
    shape_hw = (view.rgb.shape[0], view.rgb.shape[1])
    side = info.tile if tile is None else tile
    if plan is None:
        plan = windows(shape_hw, side, info.overlap if overlap is None else overlap)
    elif view.box is not None:
        plan = [one.moved(-view.box.row, -view.box.col) for one in plan]
    prob = np.empty((len(prompts.classes), *shape_hw), np.float32)
    objects: list[list[Instance]] = []
    for start in range(0, len(plan), info.images_per_call):
        tiles = plan[start : start + info.images_per_call]
        views = [_window(view, one.read) for one in tiles]
        for one, part, found in zip(tiles, views, segmenter.predict(views, prompts), strict=True):
            check_prediction(found, part, prompts)
            prob[(slice(None), *one.write.slices)] = found.prob[(slice(None), *one.inner)]
            if found.instances is not None:
                objects.append([_placed(i, one.read) for i in found.instances])
        progress(min(start + info.images_per_call, len(plan)), len(plan))
    merged = merge(objects, [one.read for one in plan]) if objects else None
    instances = merged if info.native_instances else None
    return SemanticPrediction(prob, prompts.classes, prompts.n_foreground, instances)


def _window(view: View, box: Box) -> View:
    part = view.rgb[box.slices]
    if part.shape == view.rgb.shape:
        return view
    return replace(view, rgb=part, box=box if view.box is None else box.moved(*view.box.corner))


def _placed(instance: Instance, box: Box) -> Instance:
    x0, y0, x1, y1 = instance.bbox
    return replace(instance, bbox=(x0 + box.col, y0 + box.row, x1 + box.col, y1 + box.row))


def merge(objects: Sequence[Sequence[Instance]], reads: Sequence[Box]) -> list[Instance]:
    """Join the pieces of objects that several windows contain.

    Args:
        objects: instances of each window, in coordinates of the image.
        reads: the windows.

    Returns:
        One instance per object: the union of its pieces, with the best score.
    """
    # 10 MB that predictions without segmenters do not need
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if len(objects) == 1:
        return list(objects[0])
    pieces = [(i, number) for number, found in enumerate(objects) for i in found]
    joined = [(a, a) for a in range(len(pieces))]
    boxes = np.array([i.bbox for i, _ in pieces], float).reshape(-1, 4)
    for a, b in zip(*box_pairs(boxes, boxes), strict=True):
        (one, w1), (other, w2) = pieces[a], pieces[b]
        if a >= b or w1 == w2 or one.class_index != other.class_index:
            continue
        if _agreement(one, other, reads[w1], reads[w2]) >= SAME_SHARE:
            joined.append((a, b))
    edges = coo_array((np.ones(len(joined)), np.array(joined).reshape(-1, 2).T))
    count, group = connected_components(edges, directed=False)
    groups: list[list[Instance]] = [[] for _ in range(count)]
    for (instance, _), number in zip(pieces, group, strict=True):
        groups[number].append(instance)
    return [_union(group) for group in groups]


def _agreement(one: Instance, other: Instance, window1: Box, window2: Box) -> float:
    """Shared pixels over the smaller object, both counted only in the zone of two windows."""
    shared = window1.common(window2)
    if min(shared.shape_hw) <= 0:
        return 0.0
    right, bottom = shared.col + shared.width, shared.row + shared.height
    zone = (shared.col, shared.row, right, bottom)
    masks = [_drawn([instance], zone) for instance in (one, other)]
    smaller = min(int(mask.sum()) for mask in masks)
    return int((masks[0] & masks[1]).sum()) / smaller if smaller else 0.0


def _union(group: list[Instance]) -> Instance:
    if len(group) == 1:
        return group[0]
    boxes = np.array([instance.bbox for instance in group])
    x0, y0 = (int(v) for v in boxes[:, :2].min(axis=0))
    x1, y1 = (int(v) for v in boxes[:, 2:].max(axis=0))
    box = (x0, y0, x1, y1)
    score = max(instance.score for instance in group)
    return Instance(group[0].class_index, score, box, _drawn(group, box))


def _drawn(group: Sequence[Instance], box: tuple[int, int, int, int]) -> BoolArray:
    """(h,w) bool of a box: the union of some objects inside it."""
    x0, y0, x1, y1 = box
    canvas = np.zeros((y1 - y0, x1 - x0), bool)
    for instance in group:
        a0, b0, a1, b1 = instance.bbox
        left, top, right, bottom = max(a0, x0), max(b0, y0), min(a1, x1), min(b1, y1)
        if left < right and top < bottom:
            part = instance.mask[top - b0 : bottom - b0, left - a0 : right - a0]
            canvas[top - y0 : bottom - y0, left - x0 : right - x0] |= part
    return canvas
