"""Change events of two segmented dates as polygons: the table that `rscd events` writes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import geopandas
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.errors import DataError, UsageError
from rscd.base.types import BoolArray
from rscd.events.pixels import ChangeLabels, DateEvents
from rscd.geo.dates import dates_of
from rscd.geo.measure import Ground
from rscd.geo.polygons import geometries, to_world
from rscd.geo.table import feature_table
from rscd.segmenters.instances import Instance, outline, share_inside

KINDS = ("appeared", "vanished", "kept", "undecidable")
"""Fate of an object; ``kept`` and ``undecidable`` only if requested."""

MAJORITY = 0.5
"""Fraction of an object's pixels that must be reliable, or flip, to avoid a flag."""


def event_polygons(
    labels: ChangeLabels,
    grid: GeoBox | None = None,
    *,
    classes: Sequence[str],
    kinds: Sequence[str] = ("appeared", "vanished"),
    min_area_m2: float = 0.0,
    min_score: float = 0.0,
    gsd_m: float | None = None,
    t1: str | None = None,
    t2: str | None = None,
    model: str | None = None,
    inside: BoolArray | None = None,
) -> geopandas.GeoDataFrame:
    """Outline the objects that appeared or vanished, along their pixel edges.

    Flags, joined by commas, mark objects to review: ``unreliable`` (less than half of its
    pixels reach gamma at both dates), ``unsupported`` (the semantic map flips on less than half of
    an event's pixels), ``edge`` (it reaches the border of the grid or nodata, so part of it may
    be missing), ``undecidable`` (the other date has no image there).

    Args:
        labels: of `rscd.events.pixels.change_labels`.
        grid: where the pixels lie; None for pixel coordinates.
        classes: names of the prompts, foreground first.
        kinds: those of `KINDS` that the table contains. Kept objects have the outline of t2.
        min_area_m2: smaller objects are omitted.
        min_score: objects with a lower score are omitted.
        gsd_m: metres per pixel where there is no CRS; without it ``area_m2`` is null.
        t1: ISO date of the earlier image.
        t2: ISO date of the later image.
        model: name of the segmenter.
        inside: (H,W), where events are requested: objects are judged as wholes, and their outlines
            clipped (and flagged ``edge``). None: everywhere.

    Returns:
        One row per object, those of t2 before those of t1: ``id`` (from 1), ``kind``, ``class``
        (of its prompt), ``score`` (of the segmenter), ``iou_sum`` (with the objects of the other
        date), ``area_m2``, ``flags``, ``t1``, ``t2``, ``model``, ``geometry`` (Polygon or
        MultiPolygon). The same columns and types when nothing changed.

    Raises:
        UsageError: for an unknown kind, invalid or reversed dates, or if metres are requested and
            the pixel size is unknown.
        DataError: if the grid and the labels differ in shape.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"expected kinds {', '.join(KINDS)}, found {', '.join(unknown)}")
    days = dates_of((t1, t2))
    if grid is not None and tuple(grid.shape) != labels.mixed.shape:
        raise DataError(
            f"expected a grid of {labels.mixed.shape} pixels as the labels have, found "
            f"{tuple(grid.shape)}"
        )
    transform = Affine.identity() if grid is None else grid.affine
    crs = None if grid is None or grid.crs is None else CRS(grid.crs)
    ground = Ground(crs, transform, gsd_m)
    if min_area_m2 > 0:
        ground.require_metres("filter by area")
    wanted = [
        row
        for event, date in (("appeared", labels.events.t2), ("vanished", labels.events.t1))
        for row in map(partial(_cut, inside=inside), _rows(labels, date, event))
        if row is not None and row.kind in kinds and row.instance.score >= min_score
    ]
    outlines = geometries(outline(row.instance) for row in wanted)
    areas = ground.areas_m2(outlines)
    large = areas >= min_area_m2 if min_area_m2 > 0 else np.ones(len(wanted), bool)
    rows = [row for row, keep in zip(wanted, large, strict=True) if keep]
    columns = {
        "id": np.arange(1, len(rows) + 1),
        "kind": [row.kind for row in rows],
        "class": [classes[row.instance.class_index] for row in rows],
        "score": [row.instance.score for row in rows],
        "iou_sum": [row.iou_sum for row in rows],
        "area_m2": areas[large],
        "flags": [",".join(row.flags) for row in rows],
        "t1": days[0],
        "t2": days[1],
        "model": model,
    }
    return feature_table(columns, to_world(outlines[large], transform), crs)


@dataclass(frozen=True)
class _Row:
    kind: str
    instance: Instance
    iou_sum: float
    flags: tuple[str, ...]


def _cut(row: _Row, inside: BoolArray | None) -> _Row | None:
    """The requested part of an object, None if there is none."""
    if inside is None:
        return row
    mask = row.instance.mask & inside[row.instance.slices]
    if not mask.any():
        return None
    if np.array_equal(mask, row.instance.mask):
        return row
    flags = row.flags if "edge" in row.flags else (*row.flags, "edge")
    return replace(row, instance=replace(row.instance, mask=mask), flags=flags)


def _rows(labels: ChangeLabels, date: DateEvents, event: str) -> list[_Row]:
    """Objects of one date; kept objects appear only with t2."""
    trusted = share_inside(date.instances, labels.reliable) >= MAJORITY
    flips = share_inside(date.instances, labels.flips == 1) >= MAJORITY
    edge = _at_edge(date.instances, labels.valid)
    rows = []
    for index, instance in enumerate(date.instances):
        changed, unseen = bool(date.changed[index]), bool(date.undecidable[index])
        if not (changed or unseen) and event == "vanished":
            continue
        flags = {
            "unreliable": not trusted[index],
            "unsupported": changed and not flips[index],
            "edge": edge[index],
            "undecidable": unseen,
        }
        kind = event if changed else "undecidable" if unseen else "kept"
        raised = tuple(name for name, is_raised in flags.items() if is_raised)
        rows.append(_Row(kind, instance, float(date.iou_sum[index]), raised))
    return rows


def _at_edge(instances: Sequence[Instance], valid: BoolArray) -> BoolArray:
    """(M,) whether an object touches the border of the grid or a pixel without an image."""
    inner = np.zeros(valid.shape, bool)
    # pixels whose four neighbours all have an image
    inner[1:-1, 1:-1] = (
        valid[1:-1, 1:-1] & valid[:-2, 1:-1] & valid[2:, 1:-1] & valid[1:-1, :-2] & valid[1:-1, 2:]
    )
    return share_inside(instances, ~inner) > 0
