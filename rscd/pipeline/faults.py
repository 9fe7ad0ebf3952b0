"""What can be wrong with a pair: the kinds of faults, how bad each is, and how they are found.

Rules that ``rscd predict`` enforces or warns of are not repeated here: its errors and warnings name
their fault themselves (``RscdError.fault``, ``extra={"fault": ...}``), and have the same texts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pyproj.exceptions import ProjError

from rscd.geo.appearance import LEAST_PIXELS, Appearance
from rscd.geo.registration import ADVICE, Shift, shift_problem
from rscd.geo.scene import ScenePair
from rscd.geo.source import Source

Level = Literal["stops", "doubt", "note"]
"""Predict cannot work; it would, but should not be trusted; worth knowing."""

KINDS: dict[str, tuple[Level, str]] = {
    "unreadable": ("stops", "a file that GDAL cannot read, or not to its end"),
    "not-rectified": ("stops", "only ground control points or RPCs in place of a grid"),
    "degenerate-transform": ("stops", "pixels without an area"),
    "complex-values": ("stops", "complex numbers, such as single-look SAR"),
    "palette": ("stops", "numbers of a colour table"),
    "band-count": ("stops", "other numbers of bands at the dates"),
    "missing-crs": ("stops", "a CRS at one date only"),
    "foreign-crs": ("stops", "two CRS between which no rule leads"),
    "picture-sizes": ("stops", "pictures of two sizes without georeferencing"),
    "no-overlap": ("stops", "no common area"),
    "two-grids": ("stops", "two grids where `--align none` was given"),
    "dates-reversed": ("stops", "t1 later than t2"),
    "mostly-nodata": ("doubt", "data at both dates in less than a tenth of the windows"),
    "identical": ("doubt", "the same pixels at both dates"),
    "blank": ("doubt", "one value everywhere at a date"),
    "undeclared-nodata": ("doubt", "a fiftieth or more of one date filled with one value"),
    "band-order": ("doubt", "bands of other colours, as tagged, or as their colours go together"),
    "near-infrared": ("doubt", "near infrared where the network expects red"),
    "value-range": ("doubt", "values of the dates that differ by three bits or more"),
    "pixel-size": ("doubt", "pixels four times larger at one date"),
    "cloud": ("doubt", "3 % of one date bright, even, colourless, with soft edges"),
    "haze": ("doubt", "one date brighter in its darkest parts, with half the contrast"),
    "large-shift": ("doubt", "a shift of surely more than two pixels"),
    "distortion": ("doubt", "a shift that varies by more than a pixel over the scene"),
    "unrelated": ("doubt", "neither common edges nor brightness in common"),
    "units": ("note", "a scale or offset declared at one date only"),
    "date-tag": ("note", "a TIFFTAG_DATETIME that is no date"),
    "one-band": ("note", "`irmad` on one band"),
    "shift": ("note", "a shift of surely more than half a pixel"),
    "coarser": ("note", "pixels half as large again at one date"),
    "brightness": ("note", "one date three times as bright"),
    "contrast": ("note", "one date of two and a half times the contrast"),
    "clipped": ("note", "a quarter of the pixels of one date at the end of their range"),
    "blur": ("note", "one date with two fifths of the fine structure of the other"),
    "season": ("note", "three fifths of the scene green at one date only"),
    "tiny": ("note", "too few common pixels to say how the dates look"),
    "small-overlap": ("note", "less than a tenth of the smaller image in common"),
}
"""Level and description of each; a fault of none of these kinds is named ``other``."""

LARGE_SHIFT_PX = 2.0
SPREAD_PX = 1.0
LEAST_WINDOWS = 6
LEAST_VALID = 0.1
LEAST_FLAT = 0.02
SOLID = 0.8
CLOUDY, VEILED = 0.03, 0.2
"""Share of thick cloud that is named, and that hides what else could be said."""
HAZE_CONTRAST = 0.55
HAZE_LOW = 0.25
HAZE_HIGH = 0.2
GAIN = 3.0
CONTRAST = 2.5
CLIPPED = 0.25
BLUR = 0.4
GREENER = 0.6
BITS = 3
COARSER, MUCH_COARSER = 1.5, 4.0
OVERLAP = 0.1
ALIKE, UNLIKE = 0.3, 0.12
MANY_WINDOWS = 9
LEAST_SIDE_PX = 384
"""In smaller scenes change alone may leave nothing in common."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a pair."""

    kind: str
    """One of `KINDS`, or ``other``."""
    level: Level
    text: str
    mend: str = ""
    """Options of ``rscd predict`` that mend it, or a command; empty: the text says what to do."""


def finding(kind: str, text: str, mend: str = "") -> Finding:
    """A finding with the level of its kind."""
    return Finding(kind, KINDS[kind][0], text, mend)


@dataclass(frozen=True)
class Measured:
    """What was measured of a pair."""

    look: Appearance | None
    """None: hardly a pixel can be used at both dates."""
    valid: float
    """Fraction of the windows that both dates cover."""
    shift: Shift | None
    """None: not known."""
    shifts: tuple[tuple[int, int, float, float], ...]
    """Column and row of the middle of each window with a clear shift, and the shift."""
    windows: int
    common_edges: bool
    """Whether both halves of the windows show one shift, be it clear enough or not."""

    @property
    def spread_px(self) -> float | None:
        """How far the shifts of the windows lie from their median, as a rule (75 % of them)."""
        if len(self.shifts) < LEAST_WINDOWS:
            return None
        away = np.array(self.shifts)[:, 2:]
        away = away - np.median(away, axis=0)
        return float(np.percentile(np.hypot(away[:, 0], away[:, 1]), 75))


def faults_of_grids(pair: ScenePair) -> Iterator[Finding]:
    """What the grids of a pair tell before a pixel is read."""
    shares = overlaps(pair)
    if shares is not None and max(shares) < OVERLAP:
        yield finding(
            "small-overlap",
            f"the images have {100 * max(shares):.1f} % of the smaller one in common; check that "
            "they are of one place",
        )
    sizes = pixel_sizes(pair)
    if sizes is None:
        return
    ratio = max(sizes) / min(sizes)
    if ratio >= COARSER:
        coarse = "t1" if sizes[0] > sizes[1] else "t2"
        text = (
            f"the pixels of {coarse} are {ratio:.3g} times as large as those of the other date; "
            "what they do not show will appear as change"
        )
        kind = "pixel-size" if ratio >= MUCH_COARSER else "coarser"
        yield finding(kind, text, f"--align {coarse}")


def overlaps(pair: ScenePair) -> tuple[float, float] | None:
    """Fraction of the area of either date that both cover; None where no CRS tells both areas."""
    common = abs(pair.scene.affine.determinant) * math.prod(pair.whole.shape_hw)
    shares = []
    for grid in (pair.t1.grid, pair.t2.grid):
        if grid.crs == pair.scene.crs:
            area = abs(grid.affine.determinant) * math.prod(grid.shape)
        elif pair.scene.crs is None:
            return None
        else:
            try:
                area = grid.extent.to_crs(pair.scene.crs).area
            except (ValueError, ProjError):
                return None
        if not 0 < area < math.inf:
            return None
        shares.append(min(common / area, 1.0))
    return shares[0], shares[1]


def pixel_sizes(pair: ScenePair) -> tuple[float, float] | None:
    """Side of the pixels of either date in units of the CRS; None where these differ."""
    if pair.t1.grid.crs != pair.t2.grid.crs:
        return None
    t1, t2 = (math.sqrt(abs(s.grid.affine.determinant)) for s in (pair.t1, pair.t2))
    return t1, t2


def faults_of_pixels(pair: ScenePair, found: Measured) -> Iterator[Finding]:
    """What the pixels of a pair tell."""
    if found.valid < LEAST_VALID:
        yield finding(
            "mostly-nodata",
            f"both dates hold data in {100 * found.valid:.1f} % of the windows looked at; check "
            "nodata values, masks and alpha bands",
        )
    look = found.look
    if look is None:
        if found.valid >= LEAST_VALID:
            yield finding(
                "tiny",
                f"fewer than {LEAST_PIXELS:,} pixels can be used at both dates: nothing is said of "
                "light, sharpness and shift",
            )
        return
    blank = [date for date, span in zip(("t1", "t2"), _ranges(look), strict=True) if span == 0]
    if blank:
        yield finding("blank", f"{' and '.join(blank)} has one value in all windows looked at")
        return
    if look.same:
        yield finding("identical", "the dates have the same pixels: the same image twice?")
        return
    yield from _values(pair, look)
    hazy = (text := _haze(look)) is not None
    if text is not None:
        yield finding("haze", text)
    yield from _visibility(look, hazy=hazy)
    yield from _places(pair, found, look, hazy=hazy)


def exact(value: float) -> str:
    """The shortest text that is read back as this very number."""
    return repr(value).removesuffix(".0")


def _ranges(look: Appearance) -> tuple[float, float]:
    return look.most[0] - look.least[0], look.most[1] - look.least[1]


def _values(pair: ScenePair, look: Appearance) -> Iterator[Finding]:
    sources = pair.t1, pair.t2
    for number, source in enumerate(sources):
        declared = source.nodata is not None or source.has_mask or source.alpha is not None
        if _solid(look, number) and _at_end(source, look, number) and not declared:
            yield finding(
                "undeclared-nodata",
                f"{100 * look.flat[number]:.0f} % of {source.date} are filled with the value "
                f"{look.fill[number]:g}, which it does not declare as nodata",
                f"--src-nodata {exact(look.fill[number])}",
            )
    usual = tuple(range(len(look.order or ())))
    if look.order is not None and look.order != usual and look.likeness >= ALIKE:
        bands = " ".join(f"-b {pair.t2.bands[place]}" for place in look.order)
        yield finding(
            "band-order",
            "the colours of t2 go with those of t1 when its bands are taken in the order "
            f"{', '.join(str(pair.t2.bands[place]) for place in look.order)}",
            f"gdal_translate {bands} {pair.t2.path} t2_in_order.tif",
        )
    bits = used_bits(look)
    if None not in bits and abs(bits[0] - bits[1]) >= BITS:  # type: ignore[operator]
        yield finding(
            "value-range",
            f"values of t1 take {bits[0]} bits and those of t2 {bits[1]}: one of them was scaled; "
            "bring both into one unit (gdal_translate -scale), or declare scale and offset",
        )
        return
    if _haze(look) is None:
        yield from _light(look)


def _solid(look: Appearance, number: int) -> bool:
    """Whether a date has areas of one value in all bands; too much light fills band after band."""
    flat, other = look.flat[number], look.flat[1 - number]
    return (
        flat >= LEAST_FLAT
        and other < flat / 2
        and look.filled[number] >= SOLID * look.clipped[number]
    )


def _at_end(source: Source, look: Appearance, number: int) -> bool:
    """Whether the value that fills much of a date is one that stands for nothing."""
    kind = np.dtype(source.dtype)
    if not np.issubdtype(kind, np.integer):
        return look.fill[number] in (look.least[number], look.most[number])
    return look.fill[number] in (0, np.iinfo(kind).min, np.iinfo(kind).max)


def used_bits(look: Appearance) -> tuple[int | None, int | None]:
    """Bits that the values of either date take; None where they are not whole or negative."""

    def bits(low: float, high: float) -> int | None:
        return int(high).bit_length() if low >= 0 and high >= 1 and high == int(high) else None

    return bits(look.least[0], look.most[0]), bits(look.least[1], look.most[1])


def _haze(look: Appearance) -> str | None:
    """What is said of haze: light is added, most where it is dark."""
    contrast = look.contrast
    if math.isnan(contrast) or contrast == 0:
        return None
    hazy = 1 if contrast < 1 else 0
    clear, part = 1 - hazy, min(contrast, 1 / contrast)
    lifted = look.low[hazy] - look.low[clear] > HAZE_LOW * look.span[clear]
    still_bright = look.high[hazy] > look.high[clear] - HAZE_HIGH * look.span[clear]
    if not (part < HAZE_CONTRAST and lifted and still_bright):
        return None
    return (
        f"t{hazy + 1} has {100 * part:.0f} % of the contrast of the other date and brighter "
        "shadows: haze, or thin cloud; take an image of another day"
    )


def _light(look: Appearance) -> Iterator[Finding]:
    contrast, gain = look.contrast, look.gain
    if math.isnan(contrast) or contrast == 0:
        return
    if not math.isnan(gain) and gain > 0 and max(gain, 1 / gain) >= GAIN:
        yield finding(
            "brightness",
            f"t2 is {gain:.2g} times as bright as t1; detectors allow for it, networks may not",
        )
    elif max(contrast, 1 / contrast) >= CONTRAST:
        yield finding(
            "contrast",
            f"t2 has {contrast:.2g} times the contrast of t1; detectors allow for it, networks may "
            "not",
        )


def _visibility(look: Appearance, *, hazy: bool) -> Iterator[Finding]:
    for number, date in enumerate(("t1", "t2")):
        clipped = look.clipped[number] >= CLIPPED and not _solid(look, number)
        if look.veiled[number] >= CLOUDY and not (hazy or clipped):
            yield finding(
                "cloud",
                f"at least {100 * look.veiled[number]:.0f} % of {date} are bright, even and "
                "colourless where the other date is not: cloud, or snow; leave it and its shadow "
                "out with --aoi",
            )
        if clipped:
            yield finding(
                "clipped",
                f"{100 * look.clipped[number]:.0f} % of the pixels of {date} are at the end of "
                "their range: too dark, too bright, or scaled; take the original image",
            )


def _places(pair: ScenePair, found: Measured, look: Appearance, *, hazy: bool) -> Iterator[Finding]:
    sizes = pixel_sizes(pair)
    one_size = sizes is None or max(sizes) / min(sizes) < COARSER
    sharp = look.sharpness[1] / look.sharpness[0] if look.sharpness[0] > 0 else math.nan
    hidden = hazy or max(look.veiled) >= VEILED
    if one_size and not hidden and sharp > 0 and min(sharp, 1 / sharp) < BLUR:
        yield finding(
            "blur",
            f"{'t2' if sharp < 1 else 't1'} shows {100 * min(sharp, 1 / sharp):.0f} % of the fine "
            "structure of the other date: blurred, or enlarged from coarser pixels",
        )
    if look.plant is not None and not hidden and abs(look.plant[0] - look.plant[1]) >= GREENER:
        yield finding(
            "season",
            f"{100 * look.plant[0]:.0f} % of t1 and {100 * look.plant[1]:.0f} % of t2 are green: "
            "other seasons; fields and trees will appear as change",
        )
    spread, shift = found.spread_px, found.shift
    if max(look.veiled) >= CLOUDY and len(found.shifts) < found.windows / 2:
        spread = None  # the few places that clouds and their shadows leave say little
    if spread is not None and spread > SPREAD_PX:
        yield finding(
            "distortion",
            f"the shift between the dates varies over the scene, by {spread:.1f} pixels as a rule",
            "--register local",
        )
    elif shift is not None and (text := shift_problem(shift)) is not None:
        sure = shift.pixels - 2 * shift.error > LARGE_SHIFT_PX
        yield finding("large-shift" if sure else "shift", text, ADVICE.removeprefix("give "))
    large = found.windows >= MANY_WINDOWS and min(pair.whole.shape_hw) >= LEAST_SIDE_PX
    if not found.common_edges and large and look.likeness < UNLIKE and not hidden:
        yield finding(
            "unrelated",
            "no edges and no brightness in common: other places, or one image turned or mirrored?",
        )
