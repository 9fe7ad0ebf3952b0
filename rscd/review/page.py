"""The review page: one HTML file with everything in it, or a page whose pictures are served."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import shapely

from rscd.base.errors import OutputError, UsageError
from rscd.base.files import write_verified, writing
from rscd.base.types import Progress, silent
from rscd.export.style import KIND_COLOURS, PICTURE, SCORE_CLASSES, change_qml
from rscd.geo.reviewed import COLUMNS
from rscd.review.choose import ORDER
from rscd.review.decisions import MEMBER, VERSION, outline_data
from rscd.review.layer import ChangeLayer, outlines, read_change_layer, write_layer
from rscd.review.tiles import TILE_PX, Levels, both_dates, embedded_thumbs, embedded_tiles
from rscd.review.view import View, open_view

SCRIPTS = ("data", "store", "map", "list", "stats", "draw", "main")
"""Scripts of the page in their order; `leaflet` comes before them."""
SUFFIX = ".html"
MAX_SIZE = 50_000_000
"""Bytes of the page, unless asked otherwise."""
THUMBS_SHARE, MOST_THUMBS_SHARE = 0.5, 0.85
"""Fractions of the room for pictures that thumbnails should take, and may where the smallest need
more."""

_DECIMALS = 1  # of display pixels, in which the page draws


@dataclass(frozen=True)
class Pictures:
    """What the page shows besides text."""

    levels: Levels
    tiles: Mapping[str, str]
    """Content in base64 by ``t1/z/x/y``; empty where a server gives them."""
    thumbs: Mapping[str, tuple[str, str]]
    """Before and after, in base64 by id."""
    served: bool = False


@dataclass(frozen=True)
class Report:
    """Summary of a page that was written; plain data, see ``--json``."""

    output: str
    polygons: int
    bytes: int
    finest_zoom: int
    """0: the map has every pixel of the scene; -1: half of them along each side, and so on."""
    thumbnails: int
    """Polygons that have a picture before and after in the list."""


def check_page(target: Path, *, overwrite: bool) -> None:
    """Check before any work that a page can be written.

    Raises:
        UsageError: the suffix is another.
        OutputError: the file is there.
    """
    if target.suffix.lower() != SUFFIX:
        raise UsageError(f"expected a report ending in {SUFFIX}, found {target}; change the suffix")
    if target.exists() and not overwrite:
        raise OutputError(
            f"expected a new file, found {target}; choose another name, or --overwrite"
        )


def write_report(
    layer: ChangeLayer,
    view: View,
    target: Path,
    *,
    max_size: int = MAX_SIZE,
    progress: Progress = silent,
) -> Report:
    """Write the review page: complete, or not at all.

    Thumbnails come first; the map has the finest zoom for which there is room.

    Args:
        layer: to review.
        view: the scene under it.
        target: HTML file.
        max_size: bytes that it may take.
        progress: progress callback.

    Raises:
        UsageError: outlines and the smallest pictures need more bytes.
        OutputError: it cannot be written.
    """
    shapes = view.to_display(layer.table.geometry.to_numpy(), layer.table.crs)
    data = page_data(layer, view, shapes)
    nothing = Pictures(Levels(0, 0), {}, {})
    room = max_size - len(page_html(data, nothing).encode())
    thumbs = _thumbs(layer, view, shapes, room, progress)
    room -= len(_json(thumbs))
    found = embedded_tiles(view, room - 1000, progress) if room > 0 else None
    if found is None:
        raise UsageError(
            f"expected room for outlines and pictures of {len(shapes)} polygons in "
            f"{max_size / 1e6:g} MB, found none for the map; raise --max-size, or use --serve"
        )
    levels, tiles = found
    content = page_html(data, Pictures(levels, tiles, thumbs)).encode()
    with writing(target):
        write_verified(target, content)
    return Report(str(target), len(shapes), len(content), levels.finest, len(thumbs))


def _thumbs(
    layer: ChangeLayer, view: View, shapes: Any, room: int, progress: Progress
) -> dict[str, tuple[str, str]]:
    """Thumbnails by id, those of the best scores first where not all fit."""
    if room <= 0:
        return {}
    scores = _numbers(layer, "score")
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")
    usual, most = int(THUMBS_SHARE * room), int(MOST_THUMBS_SHARE * room)
    found = embedded_thumbs(view, shapes[order], usual, most, progress)
    ids = layer.table["id"].to_numpy()[order]
    return {str(i): pair for i, pair in zip(ids, found, strict=True) if pair is not None}


def _numbers(layer: ChangeLayer, name: str) -> Any:
    """(N,) float64 values of a column, NaN where there are none."""
    if name not in layer.table.columns:
        return np.full(len(layer.table), np.nan)
    values = pd.to_numeric(layer.table[name].astype(object), errors="coerce")
    return values.to_numpy(np.float64, na_value=np.nan)


def with_pictures(layer: ChangeLayer, view: View) -> ChangeLayer:
    """A layer with a column of pictures before and after, which a GeoPackage can hold."""
    shapes = view.to_display(layer.table.geometry.to_numpy(), layer.table.crs)
    made = [both_dates(view, shape) for shape in shapes]
    column = pd.Series(made, index=layer.table.index, dtype=pd.ArrowDtype(pa.binary()))
    return replace(layer, table=layer.table.assign(**{PICTURE: column}))


def store_pictures(path: Path, t1: str | None = None, t2: str | None = None) -> None:
    """Add pictures before and after to the change polygons of a GeoPackage.

    Args:
        path: as `rscd predict` wrote it.
        t1: raster of the earlier date, instead of the one that the layer names.
        t2: of the later date.

    Raises:
        DataError: see `rscd.review.layer.read_change_layer`.
        SceneError: a raster cannot be read.
        OutputError: it cannot be written; the polygons stay as they were.
    """
    read = read_change_layer(path)
    layer = with_pictures(read, open_view(read, t1, t2))
    plain = layer.table.drop(columns=list(COLUMNS))  # nothing is decided about them
    write_layer(replace(layer, table=plain), path, change_qml())


def page_data(layer: ChangeLayer, view: View, shapes: Any) -> dict[str, Any]:
    """All that the page knows, but for the pictures: plain data.

    Args:
        layer: to review.
        view: the scene under it.
        shapes: (N,) its polygons in display pixels.
    """
    x, y = view.lattice(layer.table.crs)
    height, width = view.shape_hw
    return {
        "layer": {"name": layer.path.name, "identity": layer.identity},
        "member": MEMBER,
        "version": VERSION,
        "dates": [
            {"name": Path(source.path).name, "day": _day(layer, source.date)}
            for source in (view.pair.t1, view.pair.t2)
        ],
        "size": [width, height],
        "tile": TILE_PX,
        "lattice": {"x": x.tolist(), "y": y.tolist()},
        "colours": {kind: _hex(colour) for kind, colour in KIND_COLOURS},
        "scores": [[low, high, _hex(colour)] for low, high, colour in SCORE_CLASSES],
        "features": _features(layer, shapes),
    }


def _day(layer: ChangeLayer, date: str) -> str | None:
    if date not in layer.table.columns:
        return None
    days = {str(value) for value in layer.table[date].dropna()}
    return days.pop() if len(days) == 1 else None


def _features(layer: ChangeLayer, shapes: Any) -> list[dict[str, Any]]:
    """The polygons with what is known of each, in the order of the layer."""
    table = layer.table
    scores, areas, turns = (_numbers(layer, name) for name in ("score", "area_m2", ORDER))
    texts = {
        name: table[name].astype(object).to_list() if name in table else [None] * len(table)
        for name in ("kind", "class", "status", "note", "reviewer", "time")
    }
    return [
        {
            "id": int(number),
            "score": _number(scores[row]),
            "area": _number(areas[row]),
            "turn": _number(turns[row]),
            "edited": bool(edited),
            **{name: _plain(values[row]) for name, values in texts.items()},
            "outline": _rings(shape),
            "geometry": outline_data(stored),
        }
        for row, (number, edited, shape, stored) in enumerate(
            zip(table["id"], table["edited"], shapes, outlines(layer), strict=True)
        )
    ]


def _rings(shape: Any) -> list[list[list[list[float]]]]:
    """Parts, their rings, their corners (x, y)."""
    return [
        [
            np.round(shapely.get_coordinates(ring), _DECIMALS).tolist()
            for ring in shapely.get_rings(part)
        ]
        for part in shapely.get_parts(shape)
    ]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(value: Any) -> str | None:
    return None if value is None or pd.isna(value) else str(value)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def page_html(data: Mapping[str, Any], pictures: Pictures) -> str:
    """The page; nothing that comes from files is markup in it.

    Args:
        data: of `page_data`.
        pictures: in it, or served beside it.
    """
    library, *own = (_asset(f"{name}.js") for name in ("leaflet", *SCRIPTS))
    # a page is one file: what the library's style sheet would load beside it is not used
    styles = re.sub(r"url\([^)]*\)", "none", _asset("leaflet.css")) + _asset("page.css")
    script = library + "\n" + '(function () {\n"use strict";\n' + "\n".join(own) + "\n}());\n"
    levels = [pictures.levels.coarsest, pictures.levels.finest]
    shown: dict[str, Any] = {"levels": levels, "tiles": pictures.tiles, "thumbs": pictures.thumbs}
    shown["served"] = pictures.served
    sources = "'self' data:" if pictures.served else "data:"
    return Template(_asset("page.html")).substitute(
        policy=f"default-src 'none'; img-src {sources}; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{_digest(script)}'; base-uri 'none'; form-action 'none'",
        licence=_asset("leaflet-LICENSE.txt").replace("--", "- -"),
        styles=styles,
        data=_json(data),
        pictures=_json(shown),
        script=script,
    )


def _asset(name: str) -> str:
    return files("rscd.review").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _json(data: Any) -> str:
    """JSON that can stand within HTML: no text in it ends its element or begins a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
