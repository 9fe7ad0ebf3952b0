"""Results as STAC items (version 1.1), and items of many results as a collection."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from rscd.geo.grid import pixel_size_m, shape_hw
from rscd.geo.vectors import carried

_SCHEMAS = "https://stac-extensions.github.io"
PROJ = f"{_SCHEMAS}/projection/v2.0.0/schema.json"
RASTER = f"{_SCHEMAS}/raster/v2.0.0/schema.json"
FILE = f"{_SCHEMAS}/file/v2.1.0/schema.json"
MLM = f"{_SCHEMAS}/mlm/v1.4.0/schema.json"
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
MASK: Mapping[str, Any] = {"name": "change", "data_type": "uint8", "nodata": 255}
PROB: Mapping[str, Any] = {"name": "probability", "data_type": "float32", "nodata": "nan"}


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
        files: by what they are, see `rscd.export.targets.Targets.files`.
        provenance: of the result.
        beside: folder of the item, from which the files are named.

    Returns:
        JSON data, with the extensions proj, raster, file, processing and mlm. The model is an asset
        as well, by the address ``rscd:NAME`` and the hash of its weights.

    Raises:
        UsageError: no date is known, without which there is no item.
    """
    known = [f"{parse_date(day, date)}T00:00:00Z" for date, day in days.items() if day is not None]
    if not known:
        raise UsageError("expected the date of an image for a STAC item, found none")
    span: dict[str, Any] = {}
    if len(known) == 2:
        span = {"start_datetime": known[0], "end_datetime": known[1]}
    place, model = _place(grid), provenance["model"]
    shown = {key: value for key, value in provenance.items() if key != "model"}
    own: dict[str, Any] = {
        "processing:software": {"rscd": version()},
        "processing:lineage": f"change between {provenance['t1']['path']} and "
        f"{provenance['t2']['path']}",
        "rscd:provenance": shown,
    }
    item = pystac.Item(
        id=name,
        geometry=place["geometry"],
        bbox=place["bbox"],
        datetime=None if span else str_to_datetime(known[0]),
        properties=span | place["proj"] | own | model_fields(model),
        stac_extensions=[PROJ, RASTER, FILE, PROCESSING, MLM],
    )
    size_m = pixel_size_m(grid)
    for what, path in files.items():
        item.add_asset(what, _asset(what, path, beside, size_m))
    item.add_asset("model", _model_asset(model))
    found: dict[str, Any] = item.to_dict(include_self_link=False)
    return found


def model_item(card: Provenance) -> dict[str, Any]:
    """The STAC item of a model: of the whole earth and all times, as nothing limits either.

    Args:
        card: of the model, with its ``name``.

    Returns:
        JSON data, with the extensions mlm and file.
    """
    world = shapely.box(-180, -90, 180, 90)
    always: dict[str, Any] = {
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
    }
    about: dict[str, Any] = {"description": card["summary"]} if card.get("summary") else {}
    item = pystac.Item(
        id=str(card["name"]),
        geometry=shapely.geometry.mapping(world),
        bbox=list(world.bounds),
        datetime=None,
        properties=always | about | model_fields(card),
        stac_extensions=[MLM, FILE],
    )
    item.add_asset("model", _model_asset(card))
    found: dict[str, Any] = item.to_dict(include_self_link=False)
    return found


def model_fields(card: Provenance) -> dict[str, Any]:
    """What the mlm extension says of a model that turns two images into a map of change."""
    network = card.get("network")
    n_bands = dict(card.get("network_args") or {}).get("n_bands", 3 if network else -1)
    numbers = ("threshold", "halo", "multiple", "patch_size", "gsd_m", "min_area_m2", "min_score")
    known = {name: card[name] for name in numbers if card.get(name) is not None}
    image = {
        "name": "image",
        "description": "stored values of two images on one grid, the earlier one first",
        "bands": [],
        "input": {
            "shape": [-1, 2, n_bands, -1, -1],
            "dim_order": ["batch", "time", "channel", "height", "width"],
            "data_type": "float32",
        },
    }
    change = {
        "name": "change",
        "description": "probability of change",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, -1, -1],
            "dim_order": ["batch", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [
            {"value": 0, "name": "no-change", "description": "nothing changed"},
            {"value": 1, "name": "change", "description": "something changed"},
        ],
    }
    found: dict[str, Any] = {
        # the extension wants a letter first and three characters at least
        "mlm:name": re.sub(r"[^A-Za-z0-9_.-]", "-", f"rscd-{card['name']}"),
        "mlm:architecture": str(network or card["name"]),
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [image],
        "mlm:output": [change],
    }
    if network:
        found["mlm:framework"] = "ONNX" if card.get("file_format") == "onnx" else "PyTorch"
    return found | ({"mlm:hyperparameters": known} if known else {})


ARTIFACTS = {
    "safetensors": ("safetensors", "safetensors"),
    "ckpt": ("torch.save", "pytorch"),
    "onnx": ("onnx", "onnx"),
}
"""Artifact type and application of the MLM extension, by the format of a file of weights."""


def _model_asset(card: Provenance) -> pystac.Asset:
    """The model as an asset; weights have their SHA-256."""
    digest, network = card.get("sha256"), card.get("network")
    artifact, media = ARTIFACTS[card.get("file_format", "safetensors")]
    kind = {"mlm:artifact_type": artifact if network else "rscd.inference.detectors"}
    return pystac.Asset(
        href=f"rscd:{quote(str(card['name']))}",
        title=str(card["name"]),
        media_type=f"application/octet-stream; application={media}" if network else None,
        roles=["mlm:model", *(["mlm:weights"] if network else [])],
        extra_fields=kind | ({"file:checksum": f"1220{digest}"} if digest else {}),
    )


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


def _asset(what: str, path: Path, beside: Path, size_m: float | None) -> pystac.Asset:
    """A file as an asset, with its size and SHA-256 as a multihash."""
    fields: dict[str, Any] = {
        "file:size": path.stat().st_size,
        "file:checksum": f"1220{sha256_of(path)}",
    }
    band = {"mask": MASK, "prob": PROB}.get(what.partition("_")[0])
    if band is not None and path.suffix.lower() in (".tif", ".tiff"):
        size: dict[str, Any] = (
            {} if size_m is None else {"raster:spatial_resolution": round(size_m, 6)}
        )
        fields["bands"] = [{**band, **size}]
    return pystac.Asset(
        href=f"./{Path(os.path.relpath(path, beside)).as_posix()}",
        media_type=MEDIA_TYPES.get(path.suffix.lower()),
        roles=["overview" if what == "preview" else "data"],
        extra_fields=fields,
    )
