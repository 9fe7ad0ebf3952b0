"""QGIS styles (QML, QGIS 3.22 and newer) as text: pure functions that do not need QGIS.

QGIS automatically loads ``<stem>.qml`` beside a file, whatever the file's suffix. A mask
``change.tif`` and polygons ``change.geojson`` therefore share one ``change.qml``: `change_qml`
styles both, and each layer reads its own part.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from rscd.base.types import CHANGE_RGB

Colour = tuple[int, int, int]

SCORE_CLASSES: tuple[tuple[float, float, Colour], ...] = (
    (0.0, 0.5, (255, 247, 80)),
    (0.5, 0.6, (255, 200, 0)),
    (0.6, 0.7, (255, 140, 0)),
    (0.7, 0.8, (255, 70, 0)),
    (0.8, 0.9, (255, 0, 70)),
    (0.9, 1.0, CHANGE_RGB),
)
"""(lower, upper, RGB) of the polygons' score, from yellow (unsure) to magenta (sure); saturated,
unlike vegetation, soil and roofs."""

KIND_COLOURS: tuple[tuple[str, Colour], ...] = (
    ("appeared", CHANGE_RGB),
    ("vanished", (0, 190, 255)),
    ("kept", (255, 247, 80)),
    ("undecidable", (255, 255, 255)),
)
"""(kind, RGB) of change events: appeared is magenta, vanished cyan."""

STATUS_COLOURS: tuple[tuple[str, Colour], ...] = (
    ("unreviewed", (255, 200, 0)),
    ("accepted", CHANGE_RGB),
    ("rejected", (0, 190, 255)),
    ("unsure", (255, 255, 255)),
)
"""(status, RGB) of reviewed polygons: what is left to do in yellow, change in magenta."""

ERROR_COLOURS: tuple[tuple[str, Colour], ...] = (
    ("true", (255, 255, 255)),
    ("false", (230, 56, 41)),
    ("missed", (51, 140, 255)),
)
"""(kind, RGB) of the objects of an evaluation, as in its pixel picture."""

REFERENCE_WORDS = ("change", "no change", "unsure")
"""What an interpreter answers at a point; the form of QGIS offers these."""

MASK_COLOUR: Colour = CHANGE_RGB
"""RGB of changed pixels."""

PROBABILITY_RAMP: tuple[tuple[float, Colour, int], ...] = (
    (0.0, SCORE_CLASSES[0][2], 0),
    *((upper, colour, round(255 * upper)) for _, upper, colour in SCORE_CLASSES),
)
"""(probability, RGB, alpha) to interpolate between: the colours of polygons, more opaque for higher
probabilities."""

PICTURE = "picture"
"""Column of a reviewed layer with a JPEG of each polygon before and after, where it has one."""

ALIASES: Mapping[str, str] = {
    "id": "Number",
    "kind": "Kind",
    "class": "Class",
    "score": "Score, 0 to 1",
    "misreg": "Part lost when a date is moved, 0 to 1",
    "iou": "IoU",
    "iou_sum": "Sum of IoU",
    "area_m2": "Area in m²",
    "t1": "Earlier date",
    "t2": "Later date",
    "model": "Model",
    "status": "Status",
    "note": "Note",
    "reviewer": "Reviewer",
    "time": "Decided at",
    "edited": "Outline redrawn",
    PICTURE: "Before and after",
}
"""Names of columns in forms and tables of QGIS; a layer has some of them."""

KIND_WORDS: Mapping[str, str] = {
    "changed": "changed",
    "appeared": "appeared: at t2 alone",
    "vanished": "vanished: at t1 alone",
    "kept": "kept: at both dates",
    "standing": "standing",
    "undecidable": "undecidable",
}
"""What forms and tables of QGIS show for a kind."""


def _map_tip(words: str) -> str:
    """HTML with the picture of a polygon, where it has one, and some words (an expression).

    All of it is one expression that may fail: masks share the style and have no polygons.
    """
    picture = (
        f"coalesce('<img src=\"data:image/jpeg;base64,' || "
        f"to_base64(attribute($currentfeature, '{PICTURE}')) || '\">', '')"
    )
    return f"[% try({picture} || '<div>#' || \"id\" || ' ' || {words} || '</div>', '') %]"


def _of(column: str) -> str:
    """A column in an expression; null where there is none."""
    return f"attribute($currentfeature, '{column}')"


_TIP = _map_tip(
    f"coalesce({_of('kind')}, '')"
    f" || coalesce(', score ' || round({_of('score')}, 2), '')"
    f" || coalesce(', ' || round({_of('area_m2')}) || ' m²', '')"
)
_REVIEW_TIP = _map_tip("coalesce(\"kind\", '') || ' ' || \"status\"")

_FILL_ALPHA = 40  # of 255: the imagery below stays visible
_OUTLINE_MM = 0.5


def change_qml() -> str:
    """Style of change polygons, coloured by their score, and of the change mask.

    Returns:
        QML text: polygons have a nearly transparent fill and a strong outline, graduated by
        ``score`` (`SCORE_CLASSES`), without labels; mask value 1 is `MASK_COLOUR`, values 0 and
        255 are transparent.
    """
    return _document(_mask_pipe() + _graduated_renderer() + _about_polygons(), more=FORMS)


def event_qml(*, dated: bool = True) -> str:
    """Style of change events, coloured by their ``kind`` (`KIND_COLOURS`).

    Args:
        dated: whether the layer has the columns ``t1`` and ``t2``.

    Returns:
        QML text: a nearly transparent fill and a strong outline, without labels.
    """
    return _by_kind(KIND_COLOURS, dated=dated)


def object_qml() -> str:
    """Style of the objects that stand at one date.

    Returns:
        QML text, as `event_qml`.
    """
    return _by_kind((("standing", KIND_COLOURS[2][1]),))


def error_qml() -> str:
    """Style of the objects of an evaluation, coloured by their ``kind`` (`ERROR_COLOURS`).

    Returns:
        QML text, as `event_qml`.
    """
    return _document(_categorized("kind", ERROR_COLOURS))


def point_qml() -> str:
    """Style and form of points to interpret.

    Returns:
        QML text: circles with a hole, white once they are answered and magenta before, so that the
        map's own opinion is not to be seen; a form whose ``reference`` offers `REFERENCE_WORDS`
        and which hides what the map says.
    """
    hidden = ("stratum", "map", "pixel_m2", "stratum_pixels", "stratum_m2", "stratum_points")
    fields = _field("reference", *_choice(REFERENCE_WORDS)) + _field("note", *_LINES)
    fields += "".join(_field(name, *_HIDDEN) for name in hidden)
    locked = "".join(f'<field name="{name}" editable="0"/>' for name in ("id", *hidden))
    asked = "&quot;reference&quot; is null or &quot;reference&quot; = ''"
    rules = "".join(
        f'<rule key="{index}" filter="{text}" symbol="{index}" label="{label}"/>\n'
        for index, (text, label) in enumerate(((asked, "to answer"), ("ELSE", "answered")))
    )
    symbols = _marker("0", CHANGE_RGB) + _marker("1", (255, 255, 255))
    return _document(
        '<renderer-v2 type="RuleRenderer" symbollevels="0" enableorderby="0" forceraster="0">\n'
        f'<rules key="points">\n{rules}</rules>\n<symbols>\n{symbols}</symbols>\n'
        "</renderer-v2>\n"
        f"<fieldConfiguration>{fields}</fieldConfiguration>\n<editable>{locked}</editable>\n"
        "<layerGeometryType>0</layerGeometryType>\n",
        more=FORMS,
    )


def review_qml(*, dated: bool = True) -> str:
    """Style and form of a reviewed layer: polygons coloured by ``status`` (`STATUS_COLOURS`).

    The change mask beside it keeps its style, as in `change_qml`.

    Args:
        dated: whether the layer has the columns ``t1`` and ``t2``.

    Returns:
        QML text: as `event_qml`; in the form and the attribute table ``status`` is chosen from a
        list, and a change of a polygon notes the time, in milliseconds since 1970: a QGIS
        expression has no way to write it in UTC. The map tip shows `PICTURE`.
    """
    fields = "".join(
        _field(name, *widget)
        for name, widget in (
            ("status", _choice(status for status, _ in STATUS_COLOURS)),
            ("note", _LINES),
            ("time", _HIDDEN),
        )
    )
    form = (
        _form(fields)
        + '<defaults><default field="time" expression="to_string(epoch(now()))" applyOnUpdate="1"/>'
        '<default field="status" expression="\'unreviewed\'" applyOnUpdate="0"/></defaults>\n'
        + _tip_and_time(_REVIEW_TIP, dated=dated)
    )
    return _document(_mask_pipe() + _categorized("status", STATUS_COLOURS) + form, more=FORMS)


FORMS = "|Fields|Forms|MapTips|Temporal"
"""More of what a style may hold."""


def _about_polygons(*, dated: bool = True) -> str:
    """Names of columns, words for kinds, map tip and time of plain polygons."""
    return _form("") + _tip_and_time(_TIP, dated=dated)


def _form(fields: str) -> str:
    """Widgets of fields and the names of columns."""
    kinds = _field("kind", *_words(KIND_WORDS))
    aliases = "".join(
        f'<alias index="{index}" field="{field}" name={quoteattr(name)}/>'
        for index, (field, name) in enumerate(ALIASES.items())
    )
    return (
        f"<fieldConfiguration>{kinds}{fields}</fieldConfiguration>\n<aliases>{aliases}</aliases>\n"
    )


def _tip_and_time(tip: str, *, dated: bool) -> str:
    shown = f'<mapTip enabled="1">{escape(tip)}</mapTip>\n'
    if not dated:  # QGIS would show no polygon at any time
        return shown
    # mode 2 are two columns; features without dates are always there. Of rasters it means nothing.
    return f'{shown}<temporal enabled="1" mode="2" startField="t1" endField="t2" limitMode="1"/>\n'


_LINES = ("TextEdit", '<Option type="bool" name="IsMultiline" value="true"/>')
_HIDDEN = ("Hidden", "")


def _choice(words: Iterable[str]) -> tuple[str, str]:
    """Widget and its configuration, to choose one of some words."""
    return _words({word: word for word in words})


def _words(shown: Mapping[str, str]) -> tuple[str, str]:
    """Widget and its configuration, to show words for values and to choose one."""
    offered = "".join(
        f'<Option type="Map"><Option type="QString" name={quoteattr(word)} value="{value}"/>'
        "</Option>"
        for value, word in shown.items()
    )
    return "ValueMap", f'<Option type="List" name="map">{offered}</Option>'


def _field(name: str, widget: str, config: str) -> str:
    return (
        f'<field name="{name}"><editWidget type="{widget}"><config><Option type="Map">{config}'
        "</Option></config></editWidget></field>\n"
    )


def _by_kind(colours: tuple[tuple[str, Colour], ...], *, dated: bool = True) -> str:
    return _document(_categorized("kind", colours) + _about_polygons(dated=dated), more=FORMS)


def _categorized(column: str, colours: tuple[tuple[str, Colour], ...]) -> str:
    categories = "".join(
        f'<category value="{kind}" label="{kind}" symbol="{index}" render="true"/>\n'
        for index, (kind, _) in enumerate(colours)
    )
    return (
        f'<renderer-v2 type="categorizedSymbol" attr="{column}" symbollevels="0" '
        'enableorderby="0" forceraster="0">\n'
        f"<categories>\n{categories}</categories>\n"
        f"{_fill_symbols(colours)}</renderer-v2>\n"
        "<layerGeometryType>2</layerGeometryType>\n"
    )


def probability_qml() -> str:
    """Style of the change probability raster, float32 in [0,1].

    Returns:
        QML text: linear colour ramp `PROBABILITY_RAMP`, transparent where change is improbable.
    """
    items = "".join(
        f'<item value="{value}" label="{value:g}" color="{_hex(colour)}" alpha="{alpha}"/>'
        for value, colour, alpha in PROBABILITY_RAMP
    )
    shader = (
        '<rastershader><colorrampshader colorRampType="INTERPOLATED" classificationMode="1" '
        f'clip="0" minimumValue="0" maximumValue="1">{items}</colorrampshader></rastershader>'
    )
    return _document(
        _pipe(
            '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" '
            f'classificationMin="0" classificationMax="1">{shader}</rasterrenderer>'
        )
    )


def image_qml(
    bands: Sequence[int], low: Sequence[float], high: Sequence[float], alpha: int | None = None
) -> str:
    """Style of an image.

    Args:
        bands: (3,) numbers of red, green and blue, from 1, or (1,) of one grey band.
        low: value of each that is shown black.
        high: value of each that is shown in full.
        alpha: number of the alpha band.

    Returns:
        QML text: each band is stretched between its two values.
    """

    def stretch(name: str, place: int) -> str:
        return (
            f"<{name}><minValue>{low[place]!r}</minValue><maxValue>{high[place]!r}</maxValue>"
            f"<algorithm>StretchToMinimumMaximum</algorithm></{name}>"
        )

    beside = f'opacity="1" alphaBand="{-1 if alpha is None else alpha}" nodataColor=""'
    if len(bands) == 1:
        renderer = (
            f'<rasterrenderer type="singlebandgray" grayBand="{bands[0]}" '
            f'gradient="BlackToWhite" {beside}>{stretch("contrastEnhancement", 0)}'
        )
    else:
        names = ("red", "green", "blue")
        shown = " ".join(f'{c}Band="{n}"' for c, n in zip(names, bands, strict=True))
        stretches = "".join(stretch(f"{c}ContrastEnhancement", i) for i, c in enumerate(names))
        renderer = f'<rasterrenderer type="multibandcolor" {shown} {beside}>{stretches}'
    return _document(_pipe(f"{renderer}</rasterrenderer>"))


_MARK = re.compile(r"<!-- made by rscd: ([0-9a-f]{16}) -->\n")
_EARLIER = frozenset(
    {
        "1d6ccb1e57f6964d",
        "138ca075161bc672",
        "f5d23ea944aba3ac",
        "9d68bf88b279a61e",
        "e1b7d268656dc9df",
        "ec1de008f49f0801",
        "78bc7e9d593e225e",
    }
)
"""Digests of the styles that were written before they had a mark."""


def _document(body: str, more: str = "") -> str:
    head = (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        f'<qgis version="3.22.0" styleCategories="Symbology|Labeling{more}" labelsEnabled="0">\n'
    )
    rest = f"{body}</qgis>\n"
    return f"{head}<!-- made by rscd: {_digest(head + rest)} -->\n{rest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pipe(renderer: str) -> str:
    return f"<pipe>{renderer}</pipe>\n"


def _mask_pipe() -> str:
    entries = (
        (0, (0, 0, 0), 0, "no change"),
        (1, MASK_COLOUR, 255, "change"),
        (255, (0, 0, 0), 0, "no data"),
    )
    palette = "".join(
        f'<paletteEntry value="{value}" color="{_hex(colour)}" alpha="{alpha}" label="{label}"/>'
        for value, colour, alpha, label in entries
    )
    return _pipe(
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">'
        f"<colorPalette>{palette}</colorPalette></rasterrenderer>"
    )


def _graduated_renderer() -> str:
    ranges = "".join(
        f'<range lower="{lower}" upper="{upper}" symbol="{index}" render="true" '
        f'label="{lower:g} - {upper:g}"/>\n'
        for index, (lower, upper, _) in enumerate(SCORE_CLASSES)
    )
    return (
        '<renderer-v2 type="graduatedSymbol" attr="score" graduatedMethod="GraduatedColor" '
        'symbollevels="0" enableorderby="0" forceraster="0">\n'
        f"<ranges>\n{ranges}</ranges>\n{_fill_symbols(SCORE_CLASSES)}"
        f"<source-symbol>\n{_fill_symbol('0', SCORE_CLASSES[-1][2])}</source-symbol>\n"
        "</renderer-v2>\n<layerGeometryType>2</layerGeometryType>\n"
    )


def _fill_symbols(classes: Iterable[tuple[Any, ...]]) -> str:
    """The symbols of classes that each end in their colour, named by their number."""
    symbols = "".join(_fill_symbol(str(index), one[-1]) for index, one in enumerate(classes))
    return f"<symbols>\n{symbols}</symbols>\n"


def _fill_symbol(name: str, colour: Colour) -> str:
    red, green, blue = colour
    options = {
        "color": f"{red},{green},{blue},{_FILL_ALPHA}",
        "style": "solid",
        "outline_color": f"{red},{green},{blue},255",
        "outline_style": "solid",
        "outline_width": str(_OUTLINE_MM),
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    pairs = "".join(
        f'<Option type="QString" name={quoteattr(key)} value={quoteattr(value)}/>'
        for key, value in options.items()
    )
    return (
        f'<symbol type="fill" name="{name}" alpha="1" clip_to_extent="1" force_rhr="0">'
        '<layer class="SimpleFill" enabled="1" locked="0" pass="0">'
        f'<Option type="Map">{pairs}</Option></layer></symbol>\n'
    )


def _marker(name: str, colour: Colour) -> str:
    """A circle that leaves its middle free."""
    red, green, blue = colour
    options = {
        "name": "circle",
        "color": "0,0,0,0",
        "outline_color": f"{red},{green},{blue},255",
        "outline_style": "solid",
        "outline_width": str(_OUTLINE_MM),
        "outline_width_unit": "MM",
        "size": "5",
        "size_unit": "MM",
    }
    pairs = "".join(
        f'<Option type="QString" name={quoteattr(key)} value={quoteattr(value)}/>'
        for key, value in options.items()
    )
    return (
        f'<symbol type="marker" name="{name}" alpha="1" clip_to_extent="1" force_rhr="0">'
        '<layer class="SimpleMarker" enabled="1" locked="0" pass="0">'
        f'<Option type="Map">{pairs}</Option></layer></symbol>\n'
    )


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def is_own_style(path: Path) -> bool:
    """Whether a file is a generated style, which may be replaced without losing the user's work."""
    if path.suffix != ".qml" or not path.is_file():
        return False
    return is_own_qml(path.read_text("utf-8", "replace"))


def is_own_qml(text: str) -> bool:
    """Whether a style is one that this module makes, or made, and nobody has changed since."""
    found = _MARK.search(text)
    if found is None:
        return _digest(text) in _EARLIER
    return found[1] == _digest(_MARK.sub("", text, count=1))
