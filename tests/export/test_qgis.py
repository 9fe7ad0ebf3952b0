"""What an analyst sees: QGIS itself loads the outputs, headless, and renders them.

PyQGIS lives in the system's Python (Debian: python3-qgis), not in the virtual environment; the
check runs there as a script. RSCD_QGIS_PYTHON names another interpreter, RSCD_QGIS_PICTURES a
folder to keep the pictures.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from rscd.export.style import MASK_COLOUR, change_qml, probability_qml
from rscd.export.vector import SUFFIXES, change_polygons, write_vector
from rscd.geo.measure import Ground

UTM = CRS.from_epsg(32631)
TRANSFORM = Affine(2, 0, 500_000, 0, -2, 5_000_000)
BOUNDS = (500_000.0, 4_999_600.0, 500_600.0, 5_000_000.0)
PIXELS = (300, 200)  # of the rendered pictures: one per cell of the scene

SCRIPT = """
import json, os, sys
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
from qgis.core import (QgsApplication, QgsCoordinateReferenceSystem, QgsCoordinateTransform,
    QgsMapRendererSequentialJob, QgsMapSettings, QgsProject, QgsRasterLayer, QgsRectangle,
    QgsVectorLayer)

QgsApplication.setPrefixPath("/usr", True)
application = QgsApplication([], False)
application.initQgis()
job = json.loads(sys.argv[1])
layers, facts = {}, {}
for name, path in job["layers"].items():
    raster = path.endswith(".tif")
    layer = QgsRasterLayer(path, name) if raster else QgsVectorLayer(path, name, "ogr")
    layers[name] = layer
    fact = {"valid": layer.isValid()}
    if layer.isValid():
        box = layer.extent()
        renderer = layer.renderer()  # None where there are no geometries
        fact |= {"crs": layer.crs().authid(), "renderer": renderer and renderer.type(),
            "extent": [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]}
        if not raster:
            fact |= {"features": layer.featureCount(), "labels": layer.labelsEnabled(),
                "fields": [field.name() for field in layer.fields()],
                "aliases": [layer.attributeDisplayName(i) for i in range(len(layer.fields()))],
                "tip": layer.mapTipTemplate()}
            layer.loadDefaultStyle()  # QGIS 3.22 resets times after it has opened a file
            time = layer.temporalProperties()
            fact["time"] = time.isActive() and time.startField()
            if fact["renderer"] == "graduatedSymbol":
                fact["attribute"] = layer.renderer().classAttribute()
                fact["ranges"] = [r.label() for r in layer.renderer().ranges()]
    facts[name] = fact
for picture, names in job["pictures"].items():
    settings = QgsMapSettings()
    settings.setLayers([layers[name] for name in names])
    settings.setDestinationCrs(QgsCoordinateReferenceSystem(job["crs"]))
    settings.setExtent(QgsRectangle(*job["bounds"]))
    settings.setOutputSize(QSize(*job["size"]))
    settings.setBackgroundColor(QColor(255, 255, 255))
    render = QgsMapRendererSequentialJob(settings)
    render.start()
    render.waitForFinished()
    render.renderedImage().save(picture)
print("FACTS" + json.dumps(facts), flush=True)
os._exit(0)  # PyQGIS is known to crash while it takes itself down
"""


def run_qgis(
    pyqgis: str, layers: dict[str, Path], pictures: dict[Path, Any], size: tuple[int, int] = PIXELS
) -> dict[str, Any]:
    job = {
        "layers": {name: str(path) for name, path in layers.items()},
        "pictures": {str(path): names for path, names in pictures.items()},
        "crs": UTM.to_string(),
        "bounds": BOUNDS,
        "size": size,
    }
    quiet = {"QT_QPA_PLATFORM": "offscreen", "HOME": os.environ.get("HOME", "/tmp"), "PATH": ""}
    done = subprocess.run(
        [pyqgis, "-c", SCRIPT, json.dumps(job)],
        check=False,
        capture_output=True,
        text=True,
        env=quiet,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "may only be partially supported" not in done.stderr
    return json.loads(done.stdout.rpartition("FACTS")[2])


def write(path: Path, array: NDArray[Any], dtype: str, nodata: float | None) -> Path:
    bands = array if array.ndim == 3 else array[None]
    with rasterio.open(
        path, "w", driver="GTiff", width=bands.shape[2], height=bands.shape[1],
        count=len(bands), dtype=dtype, nodata=nodata, crs=UTM, transform=TRANSFORM,
    ) as dataset:  # fmt: skip
        dataset.write(bands.astype(dtype))
    return path


def blocks() -> NDArray[Any]:
    """Probability with one block per class of the style; threshold 0.35."""
    prob = np.full((200, 300), 0.05, np.float32)
    for index, value in enumerate((0.4, 0.55, 0.65, 0.75, 0.85, 0.95)):
        prob[40:120, 20 + 45 * index : 50 + 45 * index] = value
    return prob


@pytest.fixture(scope="module")
def qgis(pyqgis: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Facts about every output as QGIS loads it, and the folder with files and pictures."""
    folder = tmp_path_factory.mktemp("qgis")
    prob = blocks()
    mask = (prob > 0.35).astype(np.uint8)
    mask[150:, :] = 255
    texture = np.random.default_rng(0).integers(60, 140, (3, 200, 300))
    layers = {
        "image": write(folder / "image.tif", texture, "uint8", None),
        # One stem for mask and polygons on purpose: both read the same change.qml.
        ".tif": write(folder / "change.tif", mask, "uint8", 255),
        "prob": write(folder / "prob.tif", prob, "float32", np.nan),
    }
    (folder / "change.qml").write_text(change_qml())
    (folder / "prob.qml").write_text(probability_qml())
    found = change_polygons(layers[".tif"], layers["prob"], Ground(UTM, TRANSFORM), model="cva")
    for suffix in SUFFIXES:
        write_vector(found, folder / f"change{suffix}", provenance={})
        write_vector(found[:0], folder / f"empty{suffix}", provenance={})
        layers[suffix] = folder / f"change{suffix}"
        layers[f"empty{suffix}"] = folder / f"empty{suffix}"
    pictures = {
        folder / "polygons.png": [".gpkg", "image"],
        folder / "geojson.png": [".geojson", "image"],
        folder / "mask.png": [".tif", "image"],
        folder / "prob.png": ["prob", "image"],
    }
    facts = run_qgis(pyqgis, layers, pictures)
    keep = os.environ.get("RSCD_QGIS_PICTURES")
    if keep:
        for picture in pictures:
            (Path(keep) / picture.name).write_bytes(picture.read_bytes())
    return facts, folder


def loaded(qgis: tuple[dict[str, Any], Path], name: str) -> dict[str, Any]:
    facts = qgis[0][name]
    if name.endswith(".parquet") and not facts["valid"]:
        pytest.skip("this QGIS reads no Parquet: its GDAL lacks the Arrow driver")
    return facts


def picture(qgis: tuple[dict[str, Any], Path], name: str) -> NDArray[Any]:
    rgba = matplotlib.image.imread(qgis[1] / name)
    return np.rint(rgba[..., :3] * 255).astype(int).transpose(2, 0, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layers_lie_where_they_should(qgis: tuple[dict[str, Any], Path], suffix: str) -> None:
    facts = loaded(qgis, suffix)
    assert facts["valid"]
    assert facts["features"] == 6
    assert {"id", "kind", "class", "score", "area_m2", "t1", "t2", "model"} <= set(facts["fields"])
    expected = [500_040.0, 4_999_760.0, 500_550.0, 4_999_920.0]
    lonlat = rasterio.warp.transform_bounds(UTM, "OGC:CRS84", *expected)
    if suffix == ".geojson":
        assert facts["crs"] in {"EPSG:4326", "OGC:CRS84"}
        assert facts["extent"] == pytest.approx(lonlat, abs=1e-7)
    else:
        assert facts["crs"] == "EPSG:32631"
        assert facts["extent"] == pytest.approx(expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_style_applies_by_itself(qgis: tuple[dict[str, Any], Path], suffix: str) -> None:
    facts = loaded(qgis, suffix)
    assert facts["renderer"] == "graduatedSymbol"
    assert facts["attribute"] == "score"
    assert facts["ranges"][0] == "0 - 0.5"
    assert facts["ranges"][-1] == "0.9 - 1"
    assert not facts["labels"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_map_tips_and_times_apply_by_themselves(
    qgis: tuple[dict[str, Any], Path], suffix: str
) -> None:
    facts = loaded(qgis, suffix)
    named = dict(zip(facts["fields"], facts["aliases"], strict=True))
    assert named["area_m2"] == "Area in m²"
    assert facts["time"] == "t1"
    assert "to_base64" in facts["tip"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_layers_load(qgis: tuple[dict[str, Any], Path], suffix: str) -> None:
    facts = loaded(qgis, f"empty{suffix}")
    assert facts["valid"]
    assert facts["features"] in {0, -1}
    if suffix != ".geojson":  # GeoJSON has no schema
        assert facts["crs"] == "EPSG:32631"
        assert "score" in facts["fields"]


def test_rasters_carry_their_style(qgis: tuple[dict[str, Any], Path]) -> None:
    assert qgis[0][".tif"]["renderer"] == "paletted"
    assert qgis[0]["prob"]["renderer"] == "singlebandpseudocolor"
    assert qgis[0][".tif"]["extent"] == pytest.approx(BOUNDS)


@pytest.mark.parametrize("name", ["polygons.png", "geojson.png"])
def test_polygons_are_drawn_over_the_image_and_the_image_stays_readable(
    qgis: tuple[dict[str, Any], Path], name: str
) -> None:
    drawn = picture(qgis, name)
    row, image = 80, picture(qgis, "mask.png")
    for index in range(6):
        left = 20 + 45 * index
        red, _, blue = drawn[:, row, left - 1 : left + 2].mean(axis=1)
        assert red > blue + 20, "outline"
        inside = drawn[:, 60:100, left + 8 : left + 22]
        assert inside.std(axis=(1, 2)).mean() > 10, "texture shows through the fill"
    outside = np.s_[:, 5:30, 5:290]
    np.testing.assert_array_equal(drawn[outside], image[outside])


def test_mask_shows_change_alone(qgis: tuple[dict[str, Any], Path]) -> None:
    drawn = picture(qgis, "mask.png")
    np.testing.assert_array_equal(drawn[:, 80, 35], MASK_COLOUR)
    assert drawn[:, 160:, :].std() > 10, "nodata is transparent"
    assert drawn[:, 5:30, :].std() > 10, "no change is transparent"


def test_probability_is_a_ramp(qgis: tuple[dict[str, Any], Path]) -> None:
    drawn = picture(qgis, "prob.png")
    blocks = [drawn[:, 50:110, 25 + 45 * i : 45 + 45 * i] for i in range(6)]
    texture = [block.std(axis=(1, 2)).mean() for block in blocks]
    assert texture == sorted(texture, reverse=True), "the surer, the more opaque"
    redness = [block[0].mean() - block[1].mean() for block in blocks]
    assert redness == sorted(redness), "from yellow to magenta"
