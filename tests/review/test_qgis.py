"""QGIS does what the page does: a status chosen from a list, and what was edited comes out.

As `tests/export/test_qgis.py`, which says which QGIS.
"""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rscd.cli import main
from rscd.export.style import STATUS_COLOURS
from rscd.geo.reviewed import read_reviewed
from rscd.review.decisions import read_review

SCRIPT = """
import json, os, sys
from qgis.core import (QgsApplication, QgsExpression, QgsExpressionContext,
    QgsExpressionContextUtils, QgsVectorLayer)
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1], "changes", "ogr")
fields = layer.fields()
status = fields.indexFromName("status")
widget = layer.editorWidgetSetup(status)
facts = {"renderer": layer.renderer().type(), "by": layer.renderer().classAttribute(),
    "categories": [one.value() for one in layer.renderer().categories()],
    "widget": widget.type(), "map": widget.config().get("map")}
context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(layer))
context.setFeature(next(one for one in layer.getFeatures() if one["id"] == 1))
facts["tip"] = QgsExpression.replaceExpressionText(layer.mapTipTemplate(), context)
layer.startEditing()
feature = next(one for one in layer.getFeatures() if one["id"] == 2)
layer.changeAttributeValue(feature.id(), status, "rejected")
layer.changeAttributeValue(feature.id(), fields.indexFromName("note"), "a shadow")
facts["saved"] = layer.commitChanges()
print("FACTS" + json.dumps(facts), flush=True)
os._exit(0)  # PyQGIS is known to crash while it takes itself down
"""


@pytest.mark.slow
def test_a_layer_is_reviewed_in_qgis(
    make_scene: Callable[..., Path], tmp_path: Path, in_qgis: Callable[..., dict[str, Any]]
) -> None:
    layer = make_scene()
    assert main(["review", "apply", "-q", str(layer), "--pictures"]) == 0
    facts = in_qgis(SCRIPT, str(layer))
    tip = re.fullmatch(r'<img src="data:image/jpeg;base64,(.*?)"><div>(.*)</div>', facts.pop("tip"))
    assert tip is not None
    found, words_of_tip = tip.groups()
    content = np.frombuffer(base64.b64decode(found), np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (128, 256, 3)
    assert words_of_tip == "#1 appeared unreviewed"
    words = [status for status, _ in STATUS_COLOURS]
    assert facts == {
        "renderer": "categorizedSymbol",
        "by": "status",
        "categories": words,
        "widget": "ValueMap",
        "map": [{word: word} for word in words],
        "saved": True,
    }
    out = tmp_path / "review.geojson"
    assert main(["review", "export", "-q", str(layer), "-o", str(out)]) == 0
    (one,) = read_review(out).decisions
    assert (one.id, one.status, one.note) == (2, "rejected", "a shadow")
    assert one.time.startswith("20"), "QGIS noted when"
    assert one.time.endswith("Z")
    assert read_reviewed(layer)["status"].tolist().count("unreviewed") == 5
