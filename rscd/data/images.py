"""Pixels and label values of single image files.

PNG, JPEG, BMP and WebP images are decoded by OpenCV, everything else (GeoTIFF first of all, and all
labels) by GDAL. Neither tells a truncated PNG or JPEG: its end marker is looked for here.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

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
from rscd.geo.labels import (
    IGNORE_CODED,
    Coding,
    MaskRule,
    coding_of,
    contradiction,
    declared_nodata,
    distinct,
    needs_values,
    read_stored,
    says_255_is_change,
)
from rscd.geo.settings import input_files

PLAIN_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".vrt"})
IMAGE_SUFFIXES = PLAIN_SUFFIXES | RASTER_SUFFIXES


def label_suffix(image: Path) -> str:
    """Suffix of label files made for an image: ``.tif`` unless it is a plain picture."""
    return ".png" if image.suffix.lower() in PLAIN_SUFFIXES else ".tif"


ELSEWHERE_PX = 0.5
"""Corners of two files of a pair may lie this far apart."""

RGB_KINDS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where the pixels of a file lie."""

    crs: rasterio.crs.CRS | None
    transform: rasterio.Affine


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image file."""

    pixels: NDArray[Any]
    """(C,H,W) in the file's own dtype; RGB order; without an alpha band."""
    valid: BoolArray | None
    """(H,W), from alpha, nodata, mask band or NaN; None if the file declares nothing."""
    crs: rasterio.crs.CRS | None = None
    transform: rasterio.Affine | None = None
    """Pixel to CRS, of the upper-left corner; None for files without georeferencing."""

    @property
    def shape_hw(self) -> ShapeHW:
        """(height, width) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def place(self) -> Place | None:
        """CRS and transform, if the file has these."""
        return None if self.transform is None else Place(self.crs, self.transform)

    @property
    def bounds(self) -> Bounds | None:
        """(left, bottom, right, top) in CRS units, if the file has a transform."""
        if self.transform is None:
            return None
        left, bottom, right, top = array_bounds(*self.shape_hw, self.transform)
        return left, bottom, right, top


@contextmanager
def open_raster(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open a raster with GDAL; raises DataError with its name if it cannot be read."""
    with _image_border(path):
        with warnings.catch_warnings():
            # pixel coordinates are allowed here, so a missing transform needs no warning
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with input_files(path):
                dataset = rasterio.open(path)
        with dataset:
            yield dataset


def _image_border(path: Path) -> AbstractContextManager[None]:
    def to_error(error: Exception) -> DataError:
        found = found_in(path, error, "copy or download the file again")
        return DataError(f"{shown(path)}: cannot be read, {found}")

    return border(to_error)


def read_picture(path: Path, bands: Sequence[int] | None = None) -> Picture:
    """Read one image file.

    Args:
        path: PNG, JPEG, BMP, WebP or anything GDAL opens.
        bands: 1-based bands to keep, in this order; by default all but an alpha band, red, green
            and blue first if the file names them. Naming the alpha band makes it data: some writers
            tag the near infrared of RGB+NIR as alpha.

    Returns:
        Pixels (C,H,W) in the file's dtype, with validity and georeferencing if known.

    Raises:
        DataError: if the file is missing, damaged or lacks one of the bands.
    """
    if path.suffix.lower() in PLAIN_SUFFIXES:
        return _plain_picture(path, bands)
    return _raster_picture(path, bands)


def read_pair(t1: Path, t2: Path, bands: Sequence[int] | None = None) -> tuple[Picture, Picture]:
    """Read both dates of a pair so that their bands have the same colours in the same units.

    Like `rscd.geo.scene.ScenePair`; see `rscd.geo.source.comparable`.

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
        f"the dates declare different units: t1 {own}, t2 {other}; t2 is converted to those of t1"
    )
    _warn_of_folder(t2.parent, text)
    return first, replace(second, pixels=converted(second.pixels, into))


@cache
def _warn_of_folder(folder: Path, text: str) -> None:
    """Warn once per folder and text: training reads each pair many times."""
    log.warning("%s: %s", folder, text)


_elsewhere: set[Path] = set()
"""Folders of which `say_elsewhere` has warned."""


def say_elsewhere(
    path: Path, place: Place | None, like: Place | None, shape_hw: tuple[int, ...]
) -> None:
    """Warn once per folder and process if a file lies elsewhere than the image it belongs to.

    Files of a folder of pairs belong together pixel by pixel, whatever their georeferencing says;
    one that is shifted or upside down is no error, but rarely meant. Without a CRS a transform does
    not tell: labelling tools write such.
    """
    if place is None or like is None or path.parent in _elsewhere:
        return
    if place.crs is None or like.crs is None or like.transform.is_degenerate:
        return
    if place.crs == like.crs:
        height, width = shape_hw
        corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], float)
        own = np.array([~like.transform @ (place.transform @ tuple(at)) for at in corners])
        apart = float(np.hypot(*(own - corners).T).max())
        if apart <= ELSEWHERE_PX:
            return
        found = f"it lies up to {apart:.3g} pixels from t1 of the pair"
    else:
        found = "its CRS is not that of t1 of the pair"
    _elsewhere.add(path.parent)
    log.warning(
        "%s: by its georeferencing %s; pixels are taken as they are stored. If that is wrong, warp "
        "it onto t1, or read the rasters as scenes",
        *(path, found),
    )


def said_of(path: Path) -> Bands:
    """Band metadata of an image file, from its header; PNG, JPEG and the like are grey or RGB.

    Raises:
        DataError: if the file is missing or damaged.
    """
    with open_raster(path) as dataset:
        return Bands.of(dataset)


@dataclass(frozen=True, eq=False)
class StoredLabel:
    """One decoded label file."""

    path: Path
    values: NDArray[Any]
    """(H,W) in the file's dtype."""
    known: BoolArray | None
    """(H,W) where alpha or the file's own mask let the values count; None where it has neither."""
    nodata: float | None
    """Declared value."""
    place: Place | None = None
    """None for files without georeferencing."""

    def coding(self, rule: MaskRule = "strict") -> Coding:
        """What the values mean.

        Raises:
            DataError: see `rscd.geo.labels.coding_of`.
        """
        found: Iterable[float] = ()
        if needs_values(rule, self.nodata):
            found = distinct(self.values if self.known is None else self.values[self.known])
        return coding_of(str(self.path), rule, self.nodata, found)

    @property
    def unlabelled(self) -> BoolArray:
        """(H,W) where the file declares nodata (other than 0), masks pixels, or holds NaN."""
        return np.asarray(self.decoded("nonzero") == IGNORE)

    def decoded(self, rule: MaskRule = "strict") -> ByteArray:
        """(H,W) uint8: 0 no change, 1 change, 255 ignore.

        Raises:
            DataError: the file holds values the rule does not cover.
        """
        return self.coding(rule).decode(self.values, self.known)


@contextmanager
def open_label(path: Path) -> Iterator[rasterio.DatasetReader]:
    """Open a label file of any format, as `open_raster` does; see `read_label`."""
    if path.suffix.lower() in PLAIN_SUFFIXES:
        check_end(path)
    with open_raster(path) as dataset:
        yield dataset


def read_label(path: Path) -> StoredLabel:
    """Read a label file as one band, with the pixels it declares unlabelled.

    GDAL reads labels of every format: it leaves numbers of a colour table alone, which OpenCV turns
    into colours.

    Raises:
        DataError: if the file is missing, damaged or coloured.
    """
    with open_label(path) as dataset:
        values, known = read_stored(str(path), dataset)
        if path.suffix.lower() in PLAIN_SUFFIXES and known is not None and not known.all():
            text = "transparent pixels of labels count as pixels without label (255), not as 0"
            _warn_of_folder(path.parent, text)
        unplaced = dataset.transform.is_identity
        place = None if unplaced else Place(dataset.crs, dataset.transform)
        return StoredLabel(path, values, known, declared_nodata(dataset), place)


def read_label_values(path: Path) -> NDArray[Any]:
    """The stored values of `read_label` only."""
    return read_label(path).values


def read_mask(path: Path, rule: MaskRule = "strict", like: Place | None = None) -> ByteArray:
    """Read a label file.

    Args:
        path: of the file.
        rule: how stored values are read.
        like: place of the image whose pixels it labels, if known; see `say_elsewhere`.

    Returns:
        (H,W) uint8: 0 no change, 1 change, 255 ignore, also where the file declares nodata.

    Raises:
        DataError: if the file cannot be read or holds values the rule does not cover, or 255 means
            ignore there and change in another file of the folder.
    """
    label = read_label(path)
    say_elsewhere(path, label.place, like, label.values.shape)
    coding = label.coding(rule)
    check_agreement(label, coding, rule)
    mask = coding.decode(label.values, label.known)
    if rule == IGNORE_CODED and label.nodata != IGNORE:
        _watch(label)
    return mask


_meaning: dict[tuple[Path, bool], tuple[Path, int]] = {}
"""By folder: a file in which 255 means change (True) and one in which it means ignore (False), as
far as this process has read them, and when they were changed."""


def check_agreement(label: StoredLabel, coding: Coding, rule: MaskRule = "strict") -> None:
    """A file tells what its 255 means; the files of a folder must not contradict each other.

    Raises:
        DataError: two of them do, as far as this process has read them.
    """
    path, means_change = label.path, says_255_is_change(rule, label.nodata, coding)
    if means_change is None:
        return
    _meaning[path.parent, means_change] = path, path.stat().st_mtime_ns
    other, changed = _meaning.get((path.parent, not means_change), (path, 0))
    if other != path and other.is_file() and other.stat().st_mtime_ns == changed:
        alone, beside = (path, other) if means_change else (other, path)
        raise contradiction(str(path.parent), alone.name, beside.name)


_ignored: dict[Path, set[str] | None] = {}
"""By folder: files read so far that hold 255 = ignore; None once one holds 1, or it was said."""

FILES_WITHOUT_CHANGE = 20


def _watch(label: StoredLabel) -> None:
    """Say it if many files of a folder hold 255 = ignore and none holds 1: 255 may be change."""
    folder = label.path.parent
    files = _ignored.setdefault(folder, set())
    if files is None:
        return
    if (label.values == 1).any():
        _ignored[folder] = None
    elif (label.values == IGNORE).any():
        files.add(label.path.name)
        if len(files) == FILES_WITHOUT_CHANGE:
            _ignored[folder] = None
            text = (
                f"255 is read as ignore, and none of the {len(files)} files that hold it holds 1; "
                "if it means change, give the values of the layer: {0: 0, 255: 1}"
            )
            _warn_of_folder(folder, text)


def fill_invalid(picture: Picture) -> FloatArray:
    """Pixels as float32 (C,H,W), with 0 where the image is invalid."""
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
            bands, grey otherwise.
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
    """True if a PNG can store these (C,H,W) pixels without loss."""
    return png_holds(len(pixels), str(pixels.dtype))


def png_holds(bands: int, dtype: str) -> bool:
    """True if a PNG can store this number of bands of a dtype without loss."""
    return dtype in {"uint8", "uint16"} and bands in {1, 3}


def _png(name: str, pixels: NDArray[Any]) -> bytes:
    if not fits_png(pixels):
        raise DataError(
            f"{name}: PNG stores 1 or 3 bands of 8 or 16 bits, found {len(pixels)} of "
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
    # without this GDAL treats the fourth of four 8-bit bands as alpha
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
    """1-based bands to read from a file with ``count`` bands, the last of which may be alpha."""
    if bands is None:
        return list(range(1, count + 1 - alpha))
    if not bands or min(bands) < 1 or max(bands) > count:
        raise DataError(
            f"{path}: bands {list(bands)} were requested, the file has bands 1 to {count}; "
            "change the band choice"
        )
    return list(bands)


def _plain_picture(path: Path, bands: Sequence[int] | None) -> Picture:
    array = _decode(path)
    pixels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    alpha = len(pixels) == 4
    if bands is None and len(pixels) >= 3:  # a view, because copies of this common case are costly
        return Picture(pixels[2::-1], pixels[3] > 0 if alpha else None)
    chosen = _chosen(path, len(pixels), alpha, bands)
    order = [2, 1, 0, 3] if len(pixels) >= 3 else list(range(len(pixels)))  # OpenCV returns BGR
    valid = pixels[3] > 0 if alpha and 4 not in chosen else None
    return Picture(pixels[[order[band - 1] for band in chosen]], valid)


def _decode(path: Path) -> NDArray[Any]:
    with _image_border(path):
        data = path.read_bytes()
        _check_tail(path, data[-1024:])
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if array is None:
            raise ValueError("no image")
    return np.asarray(array)


def check_end(path: Path) -> None:
    """Check the end marker of a PNG or JPEG without decoding it.

    Raises:
        DataError: if the file is missing or truncated.
    """
    with _image_border(path), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        _check_tail(path, file.read())


def _check_tail(path: Path, tail: bytes) -> None:
    # OpenCV 4 fills missing rows with grey instead of failing, so check the end marker
    marker = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
    if not tail or marker.get(path.suffix.lower(), b"") not in tail:
        raise ValueError("the file is truncated")


def _raster_picture(path: Path, bands: Sequence[int] | None) -> Picture:
    with open_raster(path) as dataset:
        said = Bands.of(dataset)
        chosen = list(said.by_colour() or said.data)
        if bands is not None:
            chosen = _chosen(path, dataset.count, alpha=False, bands=bands)
        pixels = dataset.read(chosen)
        alpha = None if said.alpha in chosen else said.alpha
        nodata, own_mask = dataset.nodatavals[chosen[0] - 1], has_own_mask(dataset)
        valid = usable_pixels(dataset, pixels, alpha=alpha, nodata=nodata, own_mask=own_mask)
        transform = None if dataset.transform.is_identity else dataset.transform
        crs = dataset.crs
    if np.issubdtype(pixels.dtype, np.floating):
        finite = np.isfinite(pixels).all(axis=0)
        if valid is not None:
            valid = valid & finite
        elif not finite.all():
            valid = finite
    return Picture(pixels, valid, crs, transform)
