"""Pixels and label values of single image files.

PNG, JPEG, BMP and WebP are decoded by OpenCV, everything else (GeoTIFF first of all) by GDAL.
GDAL is not asked for PNG: it returns a truncated file as if it were whole.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import array_bounds

from rscd.base.border import border, found_in, shown
from rscd.base.errors import DataError
from rscd.base.files import appearing, write_bytes
from rscd.base.types import IGNORE, BoolArray, Bounds, ByteArray, FloatArray, ShapeHW
from rscd.geo.bands import (
    Bands,
    conversion,
    converted,
    has_own_mask,
    order_problem,
    pair_order,
    units_text,
    usable_pixels,
)
from rscd.geo.encode import geotiff
from rscd.geo.settings import beside

PLAIN_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".vrt"})
IMAGE_SUFFIXES = PLAIN_SUFFIXES | RASTER_SUFFIXES

MaskRule = Literal["strict", "threshold", "nonzero", "reference"] | Mapping[int, int]
"""How stored label values become 0 (no change), 1 (change) and 255 (ignore).

``strict``: the file holds only {0, 255} or only {0, 1}; anything else is an error (default).
``threshold``: change where the value is at least 128, for gray or JPEG labels.
``nonzero``: change where the value is not 0, as TorchGeo reads labels.
``reference``: change only where the value is 255, as the training loaders of KD-MSI and DiffMatch
read labels (``floor(value / 255)``): a {0, 1} file becomes all no change.
A mapping names every value that may occur, for example ``{0: 0, 255: 1, 127: 255}``.

Pixels that a raster declares to be nodata are 255 whatever the rule, see `StoredLabel`.
"""

IGNORE_CODED: Mapping[int, int] = {0: 0, 1: 1, IGNORE: IGNORE}
"""Mapping of files that already hold 0, 1 and 255 = ignore, as pseudo labels do."""

RGB_KINDS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image file."""

    pixels: NDArray[Any]
    """(C,H,W) in the file's own dtype; RGB order; without an alpha band."""
    valid: BoolArray | None
    """(H,W), from alpha, nodata, mask band or NaN; None where the file declares nothing."""
    crs: rasterio.crs.CRS | None = None
    transform: rasterio.Affine | None = None
    """Pixel to CRS, of the upper-left corner; None for files without georeferencing."""

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def bounds(self) -> Bounds | None:
        """(left, bottom, right, top) in CRS units, where the file has a transform."""
        if self.transform is None:
            return None
        left, bottom, right, top = array_bounds(*self.shape_hw, self.transform)
        return left, bottom, right, top


@contextmanager
def open_raster(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open a raster with GDAL; a file that cannot be read becomes a DataError with its name."""
    with _image_border(path):
        with warnings.catch_warnings():
            # pixel coordinates are legal here, so the missing transform is no news
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with beside(str(path)):
                dataset = rasterio.open(path)
        with dataset:
            yield dataset


def _image_border(path: Path) -> AbstractContextManager[None]:
    def told(error: Exception) -> DataError:
        found = found_in(path, error, "copy or download the file again")
        return DataError(f"{shown(path)}: cannot be read, {found}")

    return border(told)


def read_picture(path: Path, bands: Sequence[int] | None = None) -> Picture:
    """Read one image file.

    Args:
        path: PNG, JPEG, BMP, WebP or anything GDAL opens.
        bands: 1-based bands to keep, in this order; by default all but an alpha band, red, green
            and blue first where the file says which they are. Naming the alpha band makes it data:
            some writers flag the near infrared of RGB+NIR as alpha.

    Returns:
        Pixels (C,H,W) in the file's dtype with validity and georeferencing where known.

    Raises:
        DataError: if the file is missing, damaged or lacks one of the bands.
    """
    if path.suffix.lower() in PLAIN_SUFFIXES:
        return _plain_picture(path, bands)
    return _raster_picture(path, bands)


def read_pair(t1: Path, t2: Path, bands: Sequence[int] | None = None) -> tuple[Picture, Picture]:
    """Read both dates of a pair so that their bands hold the same colours in the same units.

    As `rscd.geo.scene.ScenePair` does it: see `rscd.geo.source.comparable`.

    Args:
        t1: image of the earlier date.
        t2: image of the later date.
        bands: as in `read_picture`.

    Raises:
        DataError: see `read_picture`.
    """
    if t1.suffix.lower() in PLAIN_SUFFIXES and t2.suffix.lower() in PLAIN_SUFFIXES:
        return _plain_picture(t1, bands), _plain_picture(t2, bands)
    said = said_of(t1), said_of(t2)
    chosen = pair_order(*said) if bands is None else (tuple(bands), tuple(bands))
    first, second = read_picture(t1, chosen[0]), read_picture(t2, chosen[1])
    if len(chosen[0]) != len(chosen[1]):
        return first, second
    if problem := order_problem(*said, chosen):
        _warn_of_folder(t1.parent, problem)
    units = [[own.units[b - 1] for b in numbers] for own, numbers in zip(said, chosen, strict=True)]
    into = conversion(*units)
    if into is None:
        return first, second
    own, other = map(units_text, units)
    text = (
        f"the dates declare different units: t1 {own}, t2 {other}; t2 is brought into those of t1"
    )
    _warn_of_folder(t2.parent, text)
    return first, replace(second, pixels=converted(second.pixels, into))


@cache
def _warn_of_folder(folder: Path, text: str) -> None:
    """Once for a folder and text: training reads each pair many times."""
    log.warning("%s: %s", folder, text)


def said_of(path: Path) -> Bands:
    """What an image file says of its bands, from its header; pictures are gray or RGB.

    Raises:
        DataError: if the file is missing or damaged.
    """
    with open_raster(path) as dataset:
        return Bands.of(dataset)


@dataclass(frozen=True, eq=False)
class StoredLabel:
    """One decoded label file."""

    values: NDArray[Any]
    """(H,W) in the file's dtype."""
    unlabelled: BoolArray | None = None
    """(H,W) where the file declares nodata, masks pixels (a picture: by its alpha band), or holds
    NaN; None where it does not.

    A nodata of 0 is what drawing programs leave behind and viewers show as transparent: it is "no
    change" like any other 0.
    """
    nodata: float | None = None
    """Declared value, unless it is 0."""


def read_label(path: Path) -> StoredLabel:
    """Read a label file as one band, and what it declares of pixels without label.

    Returns:
        The stored values; a colour file whose channels agree counts as one band.

    Raises:
        DataError: if the file is missing, damaged or coloured.
    """
    unlabelled, nodata = None, None
    if path.suffix.lower() in PLAIN_SUFFIXES:
        pixels = _decode(path)
        pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
        if len(pixels) == 4:
            unlabelled = _transparent(path, pixels)
        pixels = pixels[:3]
    else:
        with open_raster(path) as dataset:
            said = Bands.of(dataset)
            pixels = dataset.read(list(said.data))
            nodata = None if dataset.nodata == 0 else dataset.nodata
            labelled = usable_pixels(
                dataset, pixels, alpha=said.alpha, nodata=nodata, own_mask=has_own_mask(dataset)
            )
        unlabelled = None if labelled is None else ~labelled
        if np.issubdtype(pixels.dtype, np.floating):
            nothing = np.isnan(pixels[0])
            pixels = np.nan_to_num(pixels, nan=0.0)
            unlabelled = nothing if unlabelled is None else unlabelled | nothing
    if not (pixels[1:] == pixels[:1]).all():
        raise DataError(
            f"{path}: expected a label with one band, found {len(pixels)} that differ; "
            "convert the colours to one band of class values"
        )
    return StoredLabel(np.asarray(pixels[0]), unlabelled, nodata)


def _transparent(path: Path, pixels: NDArray[Any]) -> BoolArray | None:
    """Where a picture of a label (4,H,W) shows nothing: there is no label, unless 0 is meant.

    A colour that a PNG names as transparent is like a declared nodata: where it is 0 or black, as
    drawing programs leave it, it is "no change". An alpha band says of each pixel whether there is
    a label.
    """
    hidden: BoolArray = pixels[3] == 0
    if not hidden.any() or (_names_transparent_colour(path) and not pixels[:3, hidden].any()):
        return None
    _warn_of_folder(
        path.parent, "transparent pixels of labels count as pixels without label (255), not as 0"
    )
    return hidden


def _names_transparent_colour(path: Path) -> bool:
    """Whether a file is a PNG without alpha band, where one colour or index is transparent."""
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(b"\x89PNG") and head[25] in (0, 2, 3)


def read_label_values(path: Path) -> NDArray[Any]:
    """Only the stored values of `read_label`."""
    return read_label(path).values


def read_mask(path: Path, rule: MaskRule = "strict") -> ByteArray:
    """Read a label file.

    Returns:
        (H,W) uint8: 0 no change, 1 change, 255 ignore, also where the file declares nodata.

    Raises:
        DataError: if the file cannot be read or holds values the rule does not cover.
    """
    try:
        return coded(read_label(path), rule)
    except DataError as error:
        text = str(error)
        raise DataError(text if str(path) in text else f"{path}: {text}") from error


def coded(label: StoredLabel, rule: MaskRule = "strict") -> ByteArray:
    """Turn a stored label into 0, 1 and 255; what the file declares to be no label is 255.

    A value that a mapping names as change is change, also where it is the declared nodata.

    Raises:
        DataError: if the rule does not cover a value, which is named.
    """
    if label.unlabelled is None or names_as_change(rule, label.nodata):
        return apply_rule(label.values, rule)
    mask = np.full(label.values.shape, IGNORE, np.uint8)
    known = ~label.unlabelled
    mask[known] = apply_rule(label.values[known], rule)
    return mask


def names_as_change(rule: MaskRule, nodata: float | None) -> bool:
    """Whether a mapping says that the declared nodata means change."""
    return isinstance(rule, Mapping) and nodata is not None and rule.get(nodata) == 1  # type: ignore[call-overload]


def apply_rule(values: NDArray[Any], rule: MaskRule = "strict") -> ByteArray:
    """Turn stored label values into 0, 1 and 255.

    The papers' programs disagree: evaluation of KD-MSI accepts 0 and 255 only, its training (and
    DiffMatch's) takes only 255 for change, TorchGeo anything but 0 (``methods/kdmsi.md`` section 6,
    ``methods/diffmatch.md`` section 5.1). On clean {0, 255} files all rules agree.

    Args:
        values: any shape, the stored values.
        rule: see :data:`MaskRule`.

    Returns:
        uint8 of the same shape: 0 no change, 1 change, 255 ignore.

    Raises:
        DataError: if the rule does not cover a value, which is named.
    """
    if isinstance(rule, Mapping):
        return _mapped(values, rule)
    if rule not in _RULES:
        raise DataError(f"unknown label rule {rule!r}; use {', '.join(_RULES)} or a mapping")
    return _RULES[rule](values)


def _strict(values: NDArray[Any]) -> ByteArray:
    change = values != 0
    stored = values[change]
    if stored.size and not ((stored == 255).all() or (stored == 1).all()):
        raise DataError(
            f"expected label values 0 and 255 (or 0 and 1), found {_some(values)}; "
            "choose mask_values='threshold', 'nonzero', 'reference' or a mapping"
        )
    return np.asarray(change, np.uint8)


_RULES: Mapping[str, Callable[[NDArray[Any]], ByteArray]] = {
    "strict": _strict,
    "threshold": lambda values: np.asarray(values >= 128, np.uint8),
    "nonzero": lambda values: np.asarray(values != 0, np.uint8),
    "reference": lambda values: np.asarray(values == 255, np.uint8),
}


def _mapped(values: NDArray[Any], mapping: Mapping[int, int]) -> ByteArray:
    targets = set(mapping.values())
    if not targets <= {0, 1, IGNORE}:
        raise DataError(f"a label mapping leads to 0, 1 or 255, not to {sorted(targets)}")
    mask = np.zeros(values.shape, np.uint8)
    known = np.zeros(values.shape, bool)
    for stored, wanted in mapping.items():
        here = values == stored
        mask[here] = wanted
        known |= here
    if not known.all():
        raise DataError(
            f"the label mapping covers {sorted(mapping)}, the file also holds "
            f"{_some(values[~known])}; name these values in the mapping"
        )
    return mask


def _some(values: NDArray[Any], most: int = 8) -> str:
    found = np.unique(values)
    return ", ".join(str(v) for v in found[:most]) + (", ..." if len(found) > most else "")


def fill_invalid(picture: Picture) -> FloatArray:
    """Pixels as float32 (C,H,W), with 0 where the picture is not valid."""
    pixels = picture.pixels.astype(np.float32)
    if picture.valid is not None:
        pixels[:, ~picture.valid] = 0
    return pixels


def write_picture(
    path: Path,
    pixels: NDArray[Any],
    crs: rasterio.crs.CRS | None = None,
    transform: rasterio.Affine | None = None,
    nodata: float | None = None,
    *,
    colorinterp: Sequence[ColorInterp] = (),
    units: Sequence[tuple[float, float]] = (),
) -> None:
    """Write (C,H,W) pixels as GeoTIFF (``.tif``) or PNG; the file appears by rename.

    Args:
        path: target.
        pixels: to write.
        crs: of a GeoTIFF.
        transform: of a GeoTIFF.
        nodata: of a GeoTIFF.
        colorinterp: colour interpretation by band of a GeoTIFF; default red, green, blue for three
            bands, gray otherwise.
        units: (scale, offset) by band of a GeoTIFF.

    Raises:
        DataError: if PNG cannot hold the bands or dtype.
    """
    if path.suffix.lower() in RASTER_SUFFIXES:
        content = _geotiff(pixels, crs, transform, nodata, colorinterp, units)
    else:
        content = _png(path.name, pixels)
    with appearing(path) as part:
        write_bytes(part, content)


def fits_png(pixels: NDArray[Any]) -> bool:
    """True if a PNG holds these (C,H,W) pixels without loss."""
    return png_holds(len(pixels), str(pixels.dtype))


def png_holds(bands: int, dtype: str) -> bool:
    """True if a PNG holds so many bands of a dtype without loss."""
    return dtype in {"uint8", "uint16"} and bands in {1, 3}


def _png(name: str, pixels: NDArray[Any]) -> bytes:
    if not fits_png(pixels):
        raise DataError(
            f"{name}: PNG holds 1 or 3 bands of 8 or 16 bit, found {len(pixels)} of "
            f"{pixels.dtype}; write .tif"
        )
    array = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)[:, :, ::-1]
    done, data = cv2.imencode(".png", np.ascontiguousarray(array))
    if not done:
        raise DataError(f"{name}: could not be encoded as PNG")
    return bytes(data.tobytes())


def _geotiff(
    pixels: NDArray[Any],
    crs: rasterio.crs.CRS | None,
    transform: rasterio.Affine | None,
    nodata: float | None,
    colorinterp: Sequence[ColorInterp],
    units: Sequence[tuple[float, float]],
) -> bytes:
    bands, height, width = pixels.shape
    options: dict[str, Any] = {"count": bands, "height": height, "width": width}
    options |= {"dtype": pixels.dtype, "crs": crs, "nodata": nodata, "compress": "deflate"}
    # without this GDAL takes the fourth of four 8-bit bands for alpha
    own = bands == 3 and tuple(colorinterp) in ((), RGB_KINDS)
    options |= {"photometric": "rgb" if own else "minisblack", "alpha": "no"}

    def fill(out: Any) -> None:
        if colorinterp and tuple(colorinterp) != out.colorinterp:
            out.colorinterp = colorinterp
        if any(unit != (1.0, 0.0) for unit in units):
            out.scales, out.offsets = zip(*units, strict=True)
        out.write(pixels)

    return geotiff(fill, transform=transform, **options)


def _chosen(path: Path, count: int, alpha: bool, bands: Sequence[int] | None) -> list[int]:
    """1-based bands to read of a file with ``count`` bands, the last of them perhaps alpha."""
    if bands is None:
        return list(range(1, count + 1 - alpha))
    if not bands or min(bands) < 1 or max(bands) > count:
        raise DataError(
            f"{path}: bands {list(bands)} were asked for, the file has bands 1 to {count}; "
            "change the band choice"
        )
    return list(bands)


def _plain_picture(path: Path, bands: Sequence[int] | None) -> Picture:
    array = _decode(path)
    pixels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    alpha = len(pixels) == 4
    if bands is None and len(pixels) >= 3:  # a view: this is the common case, and copies cost
        return Picture(pixels[2::-1], pixels[3] > 0 if alpha else None)
    chosen = _chosen(path, len(pixels), alpha, bands)
    order = [2, 1, 0, 3] if len(pixels) >= 3 else list(range(len(pixels)))  # OpenCV gives BGR
    valid = pixels[3] > 0 if alpha and 4 not in chosen else None
    return Picture(pixels[[order[band - 1] for band in chosen]], valid)


def _decode(path: Path) -> NDArray[Any]:
    with _image_border(path):
        data = path.read_bytes()
    if _truncated(path.suffix.lower(), data[-1024:]):
        raise _cut_short(path)
    with _image_border(path):
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if array is None:
            raise ValueError("no image")
    return np.asarray(array)


def check_end(path: Path) -> None:
    """Look for the end marker of a PNG or JPEG without decoding it.

    Raises:
        DataError: if the file is missing or truncated.
    """
    with _image_border(path), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        tail = file.read()
    if _truncated(path.suffix.lower(), tail):
        raise _cut_short(path)


def _truncated(suffix: str, tail: bytes) -> bool:
    # OpenCV 4 fills the missing rows with gray instead of failing, so the end marker is looked for
    if suffix == ".png":
        return b"IEND" not in tail
    if suffix in {".jpg", ".jpeg"}:
        return b"\xff\xd9" not in tail
    return not tail


def _raster_picture(path: Path, bands: Sequence[int] | None) -> Picture:
    with open_raster(path) as dataset:
        said = Bands.of(dataset)
        chosen = list(said.by_colour() or said.data)
        if bands is not None:
            chosen = _chosen(path, dataset.count, alpha=False, bands=bands)
        pixels = dataset.read(chosen)
        valid = usable_pixels(
            dataset,
            pixels,
            alpha=None if said.alpha in chosen else said.alpha,
            nodata=dataset.nodatavals[chosen[0] - 1],
            own_mask=has_own_mask(dataset),
        )
        transform = None if dataset.transform.is_identity else dataset.transform
        crs = dataset.crs
    if np.issubdtype(pixels.dtype, np.floating):
        finite = np.isfinite(pixels).all(axis=0)
        if valid is not None:
            valid = valid & finite
        elif not finite.all():
            valid = finite
    return Picture(pixels, valid, crs, transform)


def _cut_short(path: Path) -> DataError:
    found = found_in(path, ValueError("the file is truncated"), "copy or download the file again")
    return DataError(f"{shown(path)}: cannot be read, {found}")
