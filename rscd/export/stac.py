"""Results as STAC items (version 1.1), and items of many results as a collection."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pystac.utils import str_to_datetime

from rscd.base.errors import UsageError
from rscd.base.files import sha256_of, write_whole, writing
from rscd.base.types import DateName, Provenance
from rscd.base.version import version
from rscd.geo.dates import parse_date
from rscd.geo.grid import shape_hw
from rscd.geo.vectors import carried

_SCHEMAS = "https://stac-extensions.github.io"
PROJ = f"{_SCHEMAS}/projection/v2.0.0/schema.json"
RASTER = f"{_SCHEMAS}/raster/v2.0.0/schema.json"
FILE = f"{_SCHEMAS}/file/v2.1.0/schema.json"
PROCESSING = f"{_SCHEMAS}/processing/v1.2.0/schema.json"

LICENSE = "other"
"""Of a collection: that of the images, which nobody has told."""

MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".geojson": "application/geo+json",
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".qml": "application/xml",
    ".json": "application/json",
}
MASK = {"name": "change", "data_type": "uint8", "nodata": 255}
PROB = {"name": "probability", "data_type": "float32", "nodata": "nan"}


def result_item(
    name: str,
    grid: GeoBox,
    days: Mapping[DateName, str | None],
    files: Mapping[str, Path],
    provenance: Provenance,
    beside: Path,
) -> dict[str, Any]:
    """The STAC item of a result.

    Args:
        name: id of the item.
        grid: of the result.
        days: ISO date of each image; at least one.
        files: by what they are: ``polygons``, ``mask``, ``prob``, ``preview`` or anything else.
        provenance: of the result.
        beside: folder of the item, from which the files are named.

    Returns:
        JSON data, with the extensions proj, raster, file and processing.

    Raises:
        UsageError: no date is known, without which there is no item.
    """
    known = [f"{parse_date(day, date)}T00:00:00Z" for date, day in days.items() if day is not None]
    if not known:
        raise UsageError(
            "expected the date of an image for a STAC item, found none; give --t1-date, --t2-date"
        )
    span = {"start_datetime": known[0], "end_datetime": known[-1]} if len(known) == 2 else {}
    place = _place(grid)
    model = provenance["model"]
    item = pystac.Item(
        id=name,
        geometry=place["geometry"],
        bbox=place["bbox"],
        datetime=None if span else str_to_datetime(known[0]),
        properties=span
        | place["proj"]
        | {
            "processing:software": {"rscd": version()},
            "processing:lineage": f"change between {provenance['t1']['path']} and "
            f"{provenance['t2']['path']} by {model['name']}",
            "rscd:model": model["name"],
            "rscd:provenance": {k: v for k, v in provenance.items() if k != "model"},
        },
        stac_extensions=[PROJ, RASTER, FILE, PROCESSING],
    )
    size = place["proj"].get("proj:transform")
    for what, path in files.items():
        item.add_asset(what, _asset(what, path, beside, None if size is None else abs(size[0])))
    found: dict[str, Any] = item.to_dict(include_self_link=False)
    return found


def write_item(path: Path, item: Mapping[str, Any]) -> None:
    """Write an item; complete or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path):
        write_whole(path, json.dumps(item, indent=2) + "\n")


def write_collection(path: Path, items: Sequence[Path], name: str) -> None:
    """Write a collection of items that lie below its folder.

    Args:
        path: of the collection.
        items: their files, at least one.
        name: id of the collection.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path):
        read = [pystac.Item.from_dict(json.loads(item.read_text("utf-8"))) for item in items]
        boxes = np.array([item.bbox for item in read if item.bbox is not None])
        times = [
            time
            for item in read
            for time in (
                item.datetime,
                item.common_metadata.start_datetime,
                item.common_metadata.end_datetime,
            )
            if time is not None
        ]
        world = [-180.0, -90.0, 180.0, 90.0]
        bbox = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)] if len(boxes) else world
        collection = pystac.Collection(
            id=name,
            description=f"Change between two images of each of {len(read)} places",
            license=LICENSE,
            extent=pystac.Extent(
                pystac.SpatialExtent([list(map(float, bbox))]),
                pystac.TemporalExtent([[min(times), max(times)]]),
            ),
        )
        for item, file in zip(read, items, strict=True):
            href = f"./{file.relative_to(path.parent).as_posix()}"
            collection.add_link(
                pystac.Link("item", href, media_type="application/geo+json", title=item.id)
            )
        write_whole(path, json.dumps(collection.to_dict(False), indent=2) + "\n")


def _place(grid: GeoBox) -> dict[str, Any]:
    """Geometry, bounds and proj fields of a grid; without CRS nobody knows where it lies."""
    height, width = shape_hw(grid)
    proj: dict[str, Any] = {"proj:shape": [height, width]}
    proj["proj:transform"] = [float(value) for value in grid.affine[:6]]
    if grid.crs is None:
        return {"geometry": None, "bbox": None, "proj": proj | {"proj:code": None}}
    crs = CRS(grid.crs)
    authority = crs.to_authority(min_confidence=100)
    if authority is not None:
        proj["proj:code"] = ":".join(authority)
    else:
        proj |= {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    outline = np.array([shapely.Polygon(grid.extent.geom.exterior.coords)], object)
    lonlat = shapely.orient_polygons(carried(outline, crs, CRS("OGC:CRS84"))[0])
    bounds = [round(float(side), 7) for side in lonlat.bounds]
    proj["proj:bbox"] = [float(side) for side in grid.boundingbox.bbox]
    geometry = shapely.transform(lonlat, lambda points: points.round(7))
    return {"geometry": shapely.geometry.mapping(geometry), "bbox": bounds, "proj": proj}


def _asset(what: str, path: Path, beside: Path, resolution: float | None) -> pystac.Asset:
    """A file as an asset, with its size and SHA-256 as a multihash."""
    fields: dict[str, Any] = {
        "file:size": path.stat().st_size,
        "file:checksum": f"1220{sha256_of(path)}",
    }
    band = {"mask": MASK, "prob": PROB}.get(what)
    if band is not None:
        size = {} if resolution is None else {"raster:spatial_resolution": resolution}
        fields["bands"] = [band | size]
    return pystac.Asset(
        href=f"./{path.relative_to(beside).as_posix()}",
        media_type=MEDIA_TYPES.get(path.suffix.lower()),
        roles=["overview" if what == "preview" else "data"],
        extra_fields=fields,
    )
