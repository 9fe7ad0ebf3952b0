"""A project holds a run's files under names that move with it; QGIS opens all of them styled.

As test_qgis.py, which says which QGIS.
"""

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import cv2
import numpy as np
import pytest

from rscd.cli import main

DATES = ["--t1-date", "2019-07-14", "--t2-date", "2023-05-01"]
TITLES = ["Change", "Mask of change", "Probability of change", "Image t2, 2023-05-01",
          "Image t1, 2019-07-14"]  # fmt: skip


def make(folder: Path, write_tif: Callable[..., Path], **profile: Any) -> list[str]:
    """Two rasters with one changed square."""
    folder.mkdir(parents=True)
    t1 = np.random.default_rng(0).integers(60, 90, (3, 64, 64)).astype(np.uint8)
    t2 = t1.copy()
    t2[:, 20:40, 10:30] += 120
    return [str(write_tif(folder / f"{n}.tif", a, **profile)) for n, a in (("t1", t1), ("t2", t2))]


def run(pair: list[str], out: Path, *more: str) -> int:
    names = ["-o", out / "change.gpkg", "-o", out / "change.tif", "--prob", out / "prob.tif"]
    args = [*names, "--project", out / "town.qgz", "--min-area", "5000", *more]
    return main(["predict", "-q", *pair, "-m", "cva", *map(str, args)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> Path:
    """The folder of a run, moved since: images in one folder, results in another."""
    folder = tmp_path_factory.mktemp("project")
    pair = make(folder / "here" / "images", write_tif)
    (folder / "here" / "out").mkdir()
    assert run(pair, folder / "here" / "out", *DATES, "--pictures") == 0
    (folder / "here").rename(folder / "there")
    return folder / "there"


def document(path: Path) -> Element:
    with zipfile.ZipFile(path) as archive:
        [name] = archive.namelist()
        assert name == f"{path.stem}.qgs"
        return ElementTree.fromstring(archive.read(name))


def test_every_layer_is_named_as_seen_from_the_project(made: Path) -> None:
    root = document(made / "out" / "town.qgz")
    layers = root.findall("projectlayers/maplayer")
    assert [layer.findtext("layername") for layer in layers] == TITLES
    for layer in layers:
        source = layer.findtext("datasource", "").partition("|")[0]
        assert source.startswith(("./", "../"))
        assert (made / "out" / source).is_file()
    assert root.findtext("properties/Paths/Absolute") == "false"
    keys = [layer.findtext("id") for layer in layers]
    assert len(set(keys)) == len(keys)
    assert [node.get("id") for node in root.findall("layer-tree-group/layer-tree-layer")] == keys
    assert [node.get("id") for node in root.findall("layerorder/layer")] == keys
    assert root.findtext("title") == "town"


def test_the_same_run_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(made, again)
    before = (again / "out" / "town.qgz").read_bytes()
    pair = [str(again / "images" / f"{date}.tif") for date in ("t1", "t2")]
    assert run(pair, again / "out", *DATES, "--overwrite") == 0
    assert (again / "out" / "town.qgz").read_bytes() == before


def test_pictures_without_place_and_dates(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    pair = make(tmp_path / "a", write_tif, crs=None, transform=None)
    args = ["-m", "cva", "-o", tmp_path / "c.geojson", "--pixel-coordinates"]
    args += ["--project", tmp_path / "c.qgz"]
    assert main(["predict", "-q", *pair, *map(str, args)]) == 0
    root = document(tmp_path / "c.qgz")
    layers = root.findall("projectlayers/maplayer")
    assert [layer.findtext("layername") for layer in layers] == ["Change", "Image t2", "Image t1"]
    assert {layer.findtext("srs/spatialrefsys/authid") for layer in layers} == {""}
    assert root.find("ProjectTimeSettings") is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--project", "{}/town.qgs"], "expected a file ending in .qgz for --project"),
        (["--project", "{}/no/town.qgz"], "expected a folder for"),
        (["--project", "{}/there.qgz"], "expected a new file, found"),
        (["--pictures"], "expected a .gpkg of this machine among the outputs for --pictures"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    pair = make(tmp_path / "a", write_tif)
    (tmp_path / "there.qgz").write_text("mine")
    line = ["predict", *pair, "-m", "cva", "-o", str(tmp_path / "c.geojson")]
    assert main([*line, *(word.format(tmp_path) for word in more)]) != 0
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "there.qgz"]


SCRIPT = """
import json, os, sys
from qgis.PyQt.QtCore import QDate, QDateTime, QSize, QTime, Qt
from qgis.PyQt.QtGui import QColor
from qgis.core import (QgsApplication, QgsDateTimeRange, QgsExpression, QgsExpressionContext,
    QgsExpressionContextUtils, QgsMapLayer, QgsMapRendererSequentialJob, QgsMapSettings, QgsProject)
QgsApplication.setPrefixPath("/usr", True)
application = QgsApplication([], False)
application.initQgis()
project = QgsProject.instance()
facts = {"read": project.read(sys.argv[1]), "title": project.title(),
    "crs": project.crs().authid(), "layers": []}
times = project.timeSettings().temporalRange()
facts["time"] = [times.begin().toString("yyyy-MM-dd"), times.end().toString("yyyy-MM-dd")]
root = project.layerTreeRoot()
year = QgsDateTimeRange(QDateTime(QDate(2024, 1, 1), QTime(), Qt.UTC),
    QDateTime(QDate(2024, 12, 31), QTime(), Qt.UTC))
before = QgsDateTimeRange(QDateTime(QDate(2020, 1, 1), QTime(), Qt.UTC),
    QDateTime(QDate(2020, 12, 31), QTime(), Qt.UTC))
for layer in root.layerOrder():
    renderer, time = layer.renderer(), layer.temporalProperties()
    vector = layer.type() == QgsMapLayer.VectorLayer
    fact = {"name": layer.name(), "valid": layer.isValid(), "renderer": renderer.type(),
        "crs": layer.crs().authid(), "on": root.findLayer(layer.id()).isVisible(),
        "timed": time.isActive(),
        "in 2020": time.isVisibleInTemporalRange(before),
        "in 2024": time.isVisibleInTemporalRange(year)}
    if vector:
        fields = layer.fields()
        fact["alias"] = fields[fields.indexFromName("area_m2")].displayName()
        fact["kind"] = layer.editorWidgetSetup(fields.indexFromName("kind")).type()
        fact["fields"] = [time.startField(), time.endField()]
        context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(layer))
        context.setFeature(next(layer.getFeatures()))
        fact["tip"] = QgsExpression.replaceExpressionText(layer.mapTipTemplate(), context)
    facts["layers"].append(fact)
settings = QgsMapSettings()
settings.setLayers(root.checkedLayers())
settings.setDestinationCrs(project.crs())
settings.setExtent(project.viewSettings().defaultViewExtent())
settings.setOutputSize(QSize(400, 400))
settings.setBackgroundColor(QColor(255, 255, 255))
job = QgsMapRendererSequentialJob(settings)
job.start()
job.waitForFinished()
job.renderedImage().save(sys.argv[2])
print("FACTS" + json.dumps(facts), flush=True)
os._exit(0)  # PyQGIS is known to crash while it takes itself down
"""


@pytest.mark.slow
def test_qgis_opens_it_styled(
    made: Path, tmp_path: Path, in_qgis: Callable[..., dict[str, Any]]
) -> None:
    picture = Path(os.environ.get("RSCD_QGIS_PICTURES", tmp_path)) / "project.png"
    facts = in_qgis(SCRIPT, str(made / "out" / "town.qgz"), str(picture))
    layers = {fact.pop("name"): fact for fact in facts.pop("layers")}
    assert facts == {
        "read": True, "title": "town", "crs": "EPSG:32633", "time": ["2019-07-14", "2023-05-01"],
    }  # fmt: skip
    assert list(layers) == TITLES
    assert all(fact["valid"] and fact["crs"] == "EPSG:32633" for fact in layers.values())
    assert [fact["renderer"] for fact in layers.values()] == [
        "graduatedSymbol", "paletted", "singlebandpseudocolor", "multibandcolor", "multibandcolor",
    ]  # fmt: skip
    assert [fact["on"] for fact in layers.values()] == [True, False, False, True, True]
    assert all(fact["timed"] for fact in layers.values())
    shown = {name: (fact["in 2020"], fact["in 2024"]) for name, fact in layers.items()}
    assert shown["Image t1, 2019-07-14"] == (True, False)
    assert shown["Image t2, 2023-05-01"] == (False, True)
    assert shown["Mask of change"] == (True, False)
    change = layers["Change"]
    assert change["fields"] == ["t1", "t2"]
    assert change["alias"] == "Area in m²"
    assert change["kind"] == "ValueMap"
    assert re.fullmatch(
        r'<img src="data:image/jpeg;base64,[A-Za-z0-9+/=]{800,}">'
        r"<div>#1 changed, score [01]\.?\d*, 400\d\d m²</div>",
        change["tip"],
    )
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    outline = (
        np.abs(drawn.astype(int) - [0, 140, 255]).sum(axis=2) < 90
    ).sum()  # BGR of scores up to 0.7
    assert outline > 100
    assert drawn[250:390, 250:390].std(axis=(0, 1)).min() > 5, "the image below it"
