"""A QGIS project of a result: both dates, masks, probabilities and polygons, styled, in one file.

Written as XML that QGIS 3.22 and newer read; QGIS is not needed. Files are named as seen from the
project, so that a folder can be moved as a whole.
"""

import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.errors import UsageError
from rscd.base.files import digest_of, write_verified, writing
from rscd.base.place import gdal_name, is_file_name
from rscd.base.redact import redacted
from rscd.base.types import DateName
from rscd.export.outputs import is_vector
from rscd.export.stretch import SHOWN_BANDS, Stretch
from rscd.export.style import change_qml, image_qml, object_qml, probability_qml
from rscd.export.targets import Targets
from rscd.export.vector import LAYER, objects_layer
from rscd.geo.grid import is_georeferenced
from rscd.geo.scene import ScenePair
from rscd.geo.source import Source

SAMPLE_PX = 1024
"""Longest side of the picture from which the stretch of the dates is taken."""
LONLAT = CRS("EPSG:4326")
_VERSION = "3.22.0-Białowieża"
_DATED = (1980, 1, 1, 0, 0, 0)  # the same project, the same bytes

Days = tuple[str | None, str | None]
"""First and last ISO day on which a layer is shown; None: no such end."""


@dataclass(frozen=True)
class Layer:
    """A layer of a project."""

    title: str
    source: str
    """What GDAL opens, seen from the project's folder where it is a file."""
    qml: str
    crs: CRS | None
    days: Days
    vector: bool = False
    visible: bool = True

    @property
    def key(self) -> str:
        """Its name within the project."""
        plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in self.title)
        return f"{plain}_{digest_of([self.title, self.source])[:12]}"


def check_project(pair: ScenePair, targets: Targets) -> None:
    """Check before any work that a project can show a run.

    Raises:
        UsageError: an image is no raster that QGIS opens by name, or an output is uploaded.
    """
    path = targets.project
    if path is None:
        return
    for source in (pair.t1, pair.t2):
        if source.opens is not None or source.kept is not None:
            raise UsageError(
                f"expected rasters that QGIS opens for {path}, found {source.date} "
                f"{redacted(source.path)}, which is a STAC item or in memory; write it to a "
                "GeoTIFF first"
            )
    if targets.remote:
        raise UsageError(
            f"expected outputs of this machine for {path}, found "
            f"{redacted(next(iter(targets.remote.values())))}; write it here, or leave out "
            "--project"
        )


def write_project(
    pair: ScenePair, targets: Targets, days: Mapping[DateName, str | None], title: str
) -> None:
    """Write the project of a run whose other files are written.

    Args:
        pair: both dates.
        targets: what was written; ``project`` is where to.
        days: ISO date of each image, None where it is not known.
        title: of the project.

    Raises:
        OutputError: it cannot be written.
    """
    path = targets.project
    assert path is not None
    layers = [*_results(pair, targets, days), *_images(pair, path.parent, days)]
    text = project_xml(title, layers, pair.grid, (days["t1"], days["t2"]))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{path.stem}.qgs", _DATED), text)
    with writing(path):
        write_verified(path, content.getvalue())


def _results(
    pair: ScenePair, targets: Targets, days: Mapping[DateName, str | None]
) -> Iterator[Layer]:
    """What was found, from top to bottom."""
    assert targets.project is not None
    folder, crs = targets.project.parent, _crs(pair.grid)
    between = (days["t1"], days["t2"])
    vectors = [path for path in targets.outputs if is_vector(path)]
    for path in vectors[:1]:
        source = _vector_source(path, folder, LAYER)
        yield Layer("Change", source, change_qml(), _vector_crs(path, crs), between, vector=True)
    for date, path in targets.objects.items():
        source = _vector_source(path, folder, objects_layer(date))
        yield Layer(
            f"Buildings at {date}", source, object_qml(), _vector_crs(path, crs),
            _shown(date, days), vector=True, visible=False,
        )  # fmt: skip
    masks = [path for path in targets.outputs if not is_vector(path)]
    for path in masks[:1]:
        source = _seen_from(path, folder)
        yield Layer("Mask of change", source, change_qml(), crs, between, visible=not vectors)
    if targets.prob is not None:
        source = _seen_from(targets.prob, folder)
        title = "Probability of change"
        yield Layer(title, source, probability_qml(), crs, between, visible=False)


def _images(pair: ScenePair, folder: Path, days: Mapping[DateName, str | None]) -> Iterator[Layer]:
    """Both dates, the later one above."""
    height, width = pair.shape_hw
    step = max(1.0, max(height, width) / SAMPLE_PX)
    image, _ = pair.thumbnail((max(1, round(height / step)), max(1, round(width / step))))
    dates: tuple[DateName, DateName] = ("t1", "t2")
    for place in (1, 0):
        source = (pair.t1, pair.t2)[place]
        date = dates[place]
        title = f"Image {date}" if days[date] is None else f"Image {date}, {days[date]}"
        yield Layer(
            title,
            _seen_from(Path(source.path), folder) if is_file_name(source.path)
            else gdal_name(source.path),
            _image_style(source, Stretch.of(image[place])),
            _crs(source.grid),
            _shown(date, days),
        )  # fmt: skip


def _image_style(source: Source, stretch: Stretch) -> str:
    """The style of a date whose values are stretched as they were compared."""
    bands = source.bands[: len(stretch.low)]
    low, high = list(map(float, stretch.low)), list(map(float, stretch.high))
    for place, (gain, bias) in enumerate((source.into or ())[:SHOWN_BANDS]):
        if place < len(low):  # back to what the file holds
            low[place], high[place] = (low[place] - bias) / gain, (high[place] - bias) / gain
    return image_qml(bands, low, high, source.alpha)


def _shown(date: DateName, days: Mapping[DateName, str | None]) -> Days:
    """When a date is shown: the earlier one until the later, the later one from its day on."""
    return (days["t1"], days["t2"]) if date == "t1" else (days["t2"], None)


def _seen_from(path: Path, folder: Path) -> str:
    absolute = path.absolute()
    if not absolute.exists():  # one of GDAL's names, as of a part of a file
        return str(path)
    try:
        relative = Path(os.path.relpath(absolute, folder.absolute())).as_posix()
    except ValueError:  # another drive
        return str(absolute)
    return relative if relative.startswith("../") else f"./{relative}"


def _vector_source(path: Path, folder: Path, layer: str) -> str:
    named = f"|layername={layer}" if path.suffix.lower() == ".gpkg" else ""
    return _seen_from(path, folder) + named


def _vector_crs(path: Path, crs: CRS | None) -> CRS | None:
    return LONLAT if path.suffix.lower() == ".geojson" and crs is not None else crs


def _crs(grid: GeoBox) -> CRS | None:
    return CRS(grid.crs) if is_georeferenced(grid) else None


def project_xml(title: str, layers: Sequence[Layer], grid: GeoBox, days: Days) -> str:
    """The text of a ``.qgs`` file.

    Args:
        title: of the project.
        layers: from top to bottom.
        grid: whose extent is shown, in whose CRS.
        days: over which time goes.
    """
    crs = _crs(grid)
    root = Element("qgis", projectname=title, version=_VERSION, saveUser="", saveUserFull="")
    SubElement(root, "homePath", path="")
    SubElement(root, "title").text = title
    _add_crs(SubElement(root, "projectCrs"), crs)
    tree = SubElement(root, "layer-tree-group")
    for layer in layers:
        SubElement(
            tree, "layer-tree-layer", id=layer.key, name=layer.title, source=layer.source,
            providerKey=_provider(layer), checked=f"Qt::{'C' if layer.visible else 'Unc'}hecked",
            expanded="0",
        )  # fmt: skip
    SubElement(tree, "custom-order", enabled="0")
    canvas = SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    left, bottom, right, top = map(float, grid.boundingbox.bbox)
    margins = 0.02 * (right - left), 0.02 * (top - bottom)
    extent = {
        "xmin": left - margins[0], "ymin": bottom - margins[1],
        "xmax": right + margins[0], "ymax": top + margins[1],
    }  # fmt: skip
    box = SubElement(canvas, "extent")
    for name, value in extent.items():
        SubElement(box, name).text = repr(value)
    SubElement(canvas, "rotation").text = "0"
    _add_crs(SubElement(canvas, "destinationsrs"), crs)
    views = SubElement(root, "ProjectViewSettings", UseProjectScales="0")
    view = SubElement(views, "DefaultViewExtent", {k: repr(v) for k, v in extent.items()})
    _add_crs(view, crs)
    drawn = SubElement(root, "projectlayers")
    order = SubElement(root, "layerorder")
    for layer in layers:
        _add_layer(drawn, layer)
        SubElement(order, "layer", id=layer.key)
    _add_properties(root)
    if any(days):
        times = SubElement(
            root, "ProjectTimeSettings", timeStepUnit="d", timeStep="1", frameRate="1",
            cumulativeTemporalRange="0",
        )  # fmt: skip
        _add_range(SubElement(times, "TemporalRange"), days)
    ElementTree.indent(root, " ")
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + ElementTree.tostring(root, "unicode") + "\n"


def _add_layer(parent: Element, layer: Layer) -> None:
    kind = {"type": "vector", "geometry": "Polygon"} if layer.vector else {"type": "raster"}
    about = {"labelsEnabled": "0"} if layer.vector else {}
    made = SubElement(
        parent, "maplayer", kind | about, autoRefreshEnabled="0", hasScaleBasedVisibilityFlag="0",
        refreshOnNotifyEnabled="0", styleCategories="AllStyleCategories",
    )  # fmt: skip
    SubElement(made, "id").text = layer.key
    SubElement(made, "datasource").text = layer.source
    SubElement(made, "layername").text = layer.title
    _add_crs(SubElement(made, "srs"), layer.crs)
    provider = SubElement(made, "provider", {"encoding": "UTF-8"} if layer.vector else {})
    provider.text = _provider(layer)
    flags = SubElement(made, "flags")
    for name, on in (("Identifiable", 1), ("Removable", 1), ("Searchable", 1)):
        SubElement(flags, name).text = str(on)
    style = ElementTree.fromstring(layer.qml)
    # one style serves polygons and masks
    skipped = {"pipe"} if layer.vector else {child.tag for child in style} - {"pipe"}
    made.extend(child for child in style if child.tag not in skipped)
    if not layer.vector and any(layer.days):
        time = SubElement(made, "temporal", enabled="1", mode="0", fetchMode="0")
        _add_range(SubElement(time, "fixedRange"), layer.days)


def _provider(layer: Layer) -> str:
    return "ogr" if layer.vector else "gdal"


def _add_range(parent: Element, days: Days) -> None:
    for name, day in zip(("start", "end"), days, strict=True):
        clock = "" if day is None else f"{day[:10]}T00:00:00Z"
        SubElement(parent, name).text = clock


def _add_crs(parent: Element, crs: CRS | None) -> None:
    about = SubElement(parent, "spatialrefsys", nativeFormat="Wkt")
    if crs is None:
        SubElement(about, "wkt").text = ""
        SubElement(about, "authid").text = ""
        return
    authority = crs.to_authority(min_confidence=100)
    SubElement(about, "wkt").text = crs.to_wkt("WKT2_2019")
    SubElement(about, "authid").text = "" if authority is None else ":".join(authority)
    SubElement(about, "description").text = crs.name
    SubElement(about, "geographicflag").text = str(crs.is_geographic).lower()


def _add_properties(root: Element) -> None:
    """Settings of the project: names of files are relative."""
    settings: Mapping[str, Mapping[str, tuple[str, Any]]] = {
        "Paths": {"Absolute": ("bool", "false")},
        "SpatialRefSys": {"ProjectionsEnabled": ("int", "1")},
    }
    properties = SubElement(root, "properties")
    for group, values in settings.items():
        parent = SubElement(properties, group)
        for name, (kind, value) in values.items():
            SubElement(parent, name, type=kind).text = value
