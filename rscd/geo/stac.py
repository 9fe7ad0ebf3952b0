"""A STAC item as a raster: its assets as one VRT, with what the item says about them.

``item.json`` may stand for a raster, ``item.json#ASSET`` for one of its assets, and
``items.json#ITEM`` or ``items.json#ITEM#ASSET`` for an item of an ItemCollection. Scale, offset and
nodata are those of the item, else those of the file; so are CRS and transform where the file has
none. Both the fields of STAC 1.1 (``bands``) and those of the eo and raster extensions of 1.0
(``eo:bands``, ``raster:bands``) are read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pystac
import rasterio
from affine import Affine
from pyproj import CRS
from pystac.utils import make_absolute_href
from rasterio.enums import ColorInterp

from rscd.base.border import border, found_in
from rscd.base.errors import SceneError
from rscd.base.place import gdal_name, is_remote
from rscd.base.types import ShapeHW
from rscd.geo.bands import Bands, has_own_mask
from rscd.geo.settings import input_files, raster_border, unplaced
from rscd.geo.vrt import COLOURS, VrtBand, VrtMask, vrt

GDAL_COLOURS = {
    **{"nir08": "nir", "nir09": "nir", "swir16": "swir", "swir22": "swir"},
    **{"lwir11": "lwir", "lwir12": "lwir", "rededge071": "rededge", "rededge075": "rededge"},
    **{"rededge078": "rededge"},
}
"""Common names of STAC that GDAL has another word for."""

NO_DATA_ROLES = frozenset({"thumbnail", "overview", "visual", "metadata"})
"""Roles of assets that hold no measurements."""

IMAGES = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "image/png", "image/jpeg")
IMAGE_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ItemRaster:
    """What GDAL opens for an item, and what a raster does not tell."""

    vrt: str
    files: tuple[str, ...]
    """All files that the VRT reads."""
    gsd_m: float | None


@dataclass(frozen=True)
class _Band:
    """A band of an asset, as the item describes it."""

    asset: str
    href: str
    number: int
    """1-based."""
    about: Mapping[str, Any]
    """Its fields, with those of the asset where it has none of its own."""
    shared: Mapping[str, Any]
    """Those of the asset."""
    measured: bool
    """Whether the asset holds measurements, and not a picture of them."""

    def get(self, *names: str) -> Any:
        """The first of some fields that is there; extensions may or may not write their prefix."""
        return next((self.about[name] for name in names if name in self.about), None)

    @property
    def common_name(self) -> str:
        """Part of the spectrum; empty where nothing says it."""
        return str(self.get("eo:common_name", "common_name") or "").lower()

    @property
    def names(self) -> set[str]:
        """By which it can be chosen."""
        return {self.common_name, str(self.get("name") or "").lower()} - {""}


def item_raster(
    date: str, path: str, bands: tuple[int, ...] | tuple[str, ...] | None
) -> ItemRaster:
    """What an item says about its raster.

    Args:
        date: name of the raster in messages: ``t1``.
        path: file or address of the item, see above.
        bands: names, looked for in all assets that hold data, or in the one that is named; or
            numbers in that one. None: all bands of the asset, which may go without its name if no
            other holds data.

    Raises:
        SceneError: for an item that cannot be read, names that are not those of exactly one band,
            and bands that do not lie on one grid.
    """
    item, base, key = _item(date, path)
    known = _bands(item, base)
    if key is not None:
        if key not in item.assets:
            raise SceneError(
                f"expected an asset {key} in {date} {path}, found "
                f"{', '.join(item.assets) or 'none'}; name one of them"
            )
        known = [band for band in known if band.asset == key]
    where = f"{date} {path}"
    if bands and isinstance(bands[0], str):
        chosen = [_named(known, str(name), where) for name in bands]
        return _stacked(item, chosen, where, whole=False)
    assets = {band.asset for band in known if key is not None or band.measured}
    if len(assets) != 1:
        names = ", ".join(f"{b.asset} ({', '.join(sorted(b.names))})" for b in known if b.names)
        raise SceneError(
            f"expected one asset with data in {where}, found {len(assets)}"
            f"{': ' + names if names else ''}; choose bands (-b red,green,blue) or an asset "
            f"({path}#{min(assets, default='ASSET')})"
        )
    first = next(band for band in known if band.asset in assets)
    with _opened(first, where) as dataset:
        count = dataset.count
    about = {band.number: band for band in known if band.asset in assets}
    asset = [
        about.get(n, replace(first, number=n, about=first.shared)) for n in range(1, count + 1)
    ]
    if bands is not None:
        wrong = [n for n in bands if not 1 <= int(n) <= count]
        if wrong:
            raise SceneError(
                f"expected band numbers from 1 to {count} for {where}, found "
                f"{', '.join(map(str, wrong))}; correct --bands"
            )
        asset = [asset[int(n) - 1] for n in bands]
    return _stacked(item, asset, where, whole=bands is None)


def _item(date: str, path: str) -> tuple[pystac.Item, str, str | None]:
    """The item that a path names, the place from which it names its files, and the asset."""
    file, _, rest = path.partition("#")

    what = f"expected a raster or a STAC item for {date},"

    def to_error(error: Exception) -> SceneError:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        return SceneError(f"{what} {found_in(file, cause, 'check the address')}")

    with border(to_error):
        io = pystac.StacIO.default()
        content = io.json_loads(io.read_text(file))
        key, base = rest, file if "://" in file else str(Path(file).absolute())
        features = content.get("features") or [{}]
        if content.get("type") == "FeatureCollection" and "assets" in features[0]:
            name, _, key = rest.partition("#")
            ids = [str(feature.get("id")) for feature in features]
            if ids.count(name) != 1:
                raise SceneError(
                    f"{what} found a collection of {len(ids)} items; name one, such as "
                    f"{file}#{ids[0]}, or compare all with rscd batch"
                )
            content = features[ids.index(name)]
            links = {link.get("rel"): link.get("href") for link in content.get("links", ())}
            base = links.get("self") or base
        if content.get("type") != "Feature" or "assets" not in content:
            raise ValueError(f"JSON of type {content.get('type')}, which is none")
        return pystac.Item.from_dict(content), base, key or None


def _bands(item: pystac.Item, base: str) -> list[_Band]:
    """The bands of all assets that are images."""
    found = []
    for key, asset in item.assets.items():
        image = (asset.media_type or "").lower().startswith(IMAGES)
        href = make_absolute_href(asset.href, base)
        if not image and Path(href.partition("?")[0]).suffix.lower() not in IMAGE_SUFFIXES:
            continue
        roles = set(asset.roles or ())
        own = asset.extra_fields
        lists = [own.get(name) or [] for name in ("eo:bands", "raster:bands", "bands")]
        shared = {k: v for k, v in own.items() if not isinstance(v, list)}
        for number in range(1, max(1, *map(len, lists)) + 1):
            parts = [bands[number - 1] for bands in lists if len(bands) >= number]
            about = shared | {k: v for part in parts for k, v in part.items()}
            measured = not roles & NO_DATA_ROLES
            found.append(_Band(key, href, number, about, shared, measured))
    return found


def _named(known: Sequence[_Band], name: str, where: str) -> _Band:
    """The one band of a name; an asset of that name comes before others that have it as well."""
    found = [band for band in known if name in band.names]
    found = [band for band in known if band.asset.lower() == name] or found
    if len(found) != 1:
        found = [band for band in found if band.measured] or found
    if len(found) == 1:
        return found[0]
    names = sorted({one for band in known for one in band.names | {band.asset.lower()}})
    several = ", ".join(f"{band.asset} (band {band.number})" for band in found)
    raise SceneError(
        f"expected one band named {name} in {where}, found "
        + (
            f"{several}; name the asset: item.json#{found[0].asset}"
            if found
            else f"{', '.join(names) or 'no images'}; choose among these"
        )
    )


def _stacked(item: pystac.Item, bands: Sequence[_Band], where: str, *, whole: bool) -> ItemRaster:
    """Bands as one VRT.

    Args:
        item: tells the date.
        bands: in their order.
        where: date and path, for messages.
        whole: whether these are all bands of one asset, and its alpha band is one.
    """
    grids: dict[str, Any] = {}
    files: dict[str, None] = {}
    masks: dict[str, str] = {}
    stacked = []
    for band in bands:
        with _opened(band, where) as dataset, raster_border(where, band.href):
            grids.setdefault(band.asset, _grid(item, band, dataset))
            # to list what lies beside a remote file takes some fifty requests
            own = [gdal_name(band.href)] if is_remote(band.href) else dataset.files
            files |= dict.fromkeys(own)
            path = own[0]
            if has_own_mask(dataset):
                masks[band.asset] = path
            stacked.append(_vrt_band(band, dataset, path, whole=whole))
    first, *others = grids.values()
    if any(grid != first for grid in others):
        sizes = ", ".join(f"{key} {grid[0][1]} x {grid[0][0]}" for key, grid in grids.items())
        raise SceneError(
            f"expected bands on one grid in {where}, found {sizes} pixels; choose bands of one "
            "resolution with --bands"
        )
    if masks and len(grids) > 1:
        raise SceneError(
            f"expected bands of several files without masks of their own in {where}, found one in "
            f"{', '.join(masks)}; merge them first (gdalbuildvrt -separate)"
        )
    shape_hw, transform, wkt = first
    xml = vrt(
        shape_hw,
        transform,
        stacked,
        wkt=wkt,
        tags=_tags(item),
        masks=[VrtMask(path) for path in list(masks.values())[:1]],
    )
    sizes_m = {band.get("gsd", "raster:spatial_resolution", "spatial_resolution") for band in bands}
    size_m = sizes_m.pop() if len(sizes_m) == 1 else None
    size_m = item.properties.get("gsd") if size_m is None else size_m
    return ItemRaster(xml, tuple(files), None if size_m is None else float(size_m))


@contextmanager
def _opened(band: _Band, where: str) -> Iterator[Any]:
    with input_files(band.href):
        with unplaced(), raster_border(where, band.href):
            dataset = rasterio.open(gdal_name(band.href))
        with dataset:
            yield dataset


def _grid(item: pystac.Item, band: _Band, dataset: Any) -> tuple[ShapeHW, Affine, str | None]:
    """Shape, transform and CRS of a file, the latter two of the item where it has none."""
    about = item.properties | dict(band.about)
    transform, wkt = dataset.transform, None
    if transform.is_identity and len(about.get("proj:transform") or ()) >= 6:
        transform = Affine(*map(float, about["proj:transform"][:6]))
    code = about.get("proj:code") or about.get("proj:epsg") or about.get("proj:wkt2")
    if dataset.crs is not None:
        wkt = dataset.crs.to_wkt()
    elif code is not None:
        wkt = CRS.from_user_input(code).to_wkt("WKT1_GDAL")
    return (dataset.height, dataset.width), transform, wkt


def _vrt_band(band: _Band, dataset: Any, path: str, *, whole: bool) -> VrtBand:
    index = band.number - 1
    if not 0 <= index < dataset.count:
        raise SceneError(
            f"expected {band.number} bands in {band.href} as its item says, found {dataset.count}; "
            "correct the item"
        )
    own = Bands.of(dataset)
    scale, offset = own.units[index]
    stated = [
        band.get("raster:scale", "scale"),
        band.get("raster:offset", "offset"),
        band.get("nodata", "raster:nodata"),
    ]
    colour = GDAL_COLOURS.get(band.common_name, band.common_name)
    if colour not in COLOURS:
        kind = dataset.colorinterp[index]
        # a band that was chosen is data, whatever its file says
        data = kind.name in COLOURS and (whole or kind != ColorInterp.alpha)
        colour = kind.name if data else ""
    nodata = dataset.nodatavals[index] if stated[2] is None else float(stated[2])
    return VrtBand(
        path,
        band.number,
        dataset.dtypes[index],
        name=band.common_name or str(band.get("name") or ""),
        colour=colour,
        scale=scale if stated[0] is None else float(stated[0]),
        offset=offset if stated[1] is None else float(stated[1]),
        nodata=nodata,
    )


def _tags(item: pystac.Item) -> dict[str, str]:
    """When the image was made, as a TIFF says it; of a span of time nothing, unless it is a day."""
    when, about = item.datetime, item.common_metadata
    if when is None and about.start_datetime is not None and about.end_datetime is not None:
        days = {about.start_datetime.date(), about.end_datetime.date()}
        when = about.start_datetime if len(days) == 1 else None
    return {} if when is None else {"TIFFTAG_DATETIME": when.strftime("%Y:%m:%d %H:%M:%S")}
