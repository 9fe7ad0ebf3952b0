"""Results and models as STAC items, held against the core schema and what extensions ask for.

The schemas of the extensions are not to be had without a network. Those here are written from the
extensions' texts, and ask for no more than what rscd writes of them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from pyproj import CRS
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import MLMExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.utils import str_to_datetime
from pystac.validation import RegisteredValidator
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from rscd import Options, open_pair, predict
from rscd.base.errors import OutputError, UsageError
from rscd.base.files import sha256_of
from rscd.cli import main
from rscd.export import stac

NUMBERS = {"type": "array", "items": {"type": "number"}}
TEXT = {"type": "string", "minLength": 1}
SHAPED = {
    "type": "object",
    "required": ["shape", "dim_order", "data_type"],
    "properties": {
        "shape": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": -1}},
        "dim_order": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"pattern": "^[a-z_-]+$"},
        },
        "data_type": {"enum": ["uint8", "uint16", "float32"]},
    },
}


def of(fields: dict[str, Any], required: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required), **more}


def on_assets(fields: dict[str, Any]) -> dict[str, Any]:
    return of({"assets": {"additionalProperties": of(fields)}}, ("assets",))


def on_item(fields: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return of({"properties": of(fields, required)}, ("properties",))


BAND = of(
    {
        "name": TEXT,
        "data_type": {"enum": ["uint8", "float32"]},
        "nodata": {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]},
        "raster:spatial_resolution": {"type": "number", "exclusiveMinimum": 0},
    }
)
CODE = {"type": ["string", "null"], "pattern": "^[A-Z]+:[0-9A-Za-z]+$"}
MODEL = {"contains": {"const": "mlm:model"}}
SCHEMAS = {
    stac.PROJ: on_item(
        {
            "proj:code": CODE,
            "proj:wkt2": TEXT,
            "proj:bbox": NUMBERS | {"minItems": 4, "maxItems": 4},
            "proj:shape": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            "proj:transform": NUMBERS | {"minItems": 6, "maxItems": 6},
        }
    ),
    stac.RASTER: on_assets({"bands": {"type": "array", "minItems": 1, "items": BAND}}),
    stac.FILE: on_assets(
        {
            "file:size": {"type": "integer", "minimum": 0},
            # a multihash: SHA-256 is 0x12, of 0x20 bytes
            "file:checksum": {"pattern": "^1220[a-f0-9]{64}$"},
        }
    ),
    stac.PROCESSING: on_item(
        {"processing:software": of({}, additionalProperties=TEXT), "processing:lineage": TEXT}
    ),
    stac.MLM: {
        "allOf": [
            on_item(
                {
                    "mlm:name": {"pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"},
                    "mlm:architecture": TEXT,
                    "mlm:framework": {"enum": ["PyTorch", "ONNX"]},
                    "mlm:tasks": {"items": {"const": "semantic-segmentation"}},
                    "mlm:hyperparameters": {
                        "minProperties": 1,
                        "propertyNames": {"pattern": "^[0-9a-zA-Z_.-]+$"},
                    },
                    "mlm:input": {
                        "items": of(
                            {"bands": {"type": "array"}, "input": SHAPED},
                            ("name", "bands", "input"),
                        )
                    },
                    "mlm:output": {
                        "items": of({"result": SHAPED}, ("name", "tasks", "result")),
                    },
                },
                ("mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"),
            ),
            of(
                {
                    "assets": {
                        "not": {"additionalProperties": of({"roles": {"not": MODEL}})},
                        "additionalProperties": {
                            "if": of({"roles": MODEL}, ("roles",)),
                            "then": of({"mlm:artifact_type": TEXT}, ("mlm:artifact_type",)),
                        },
                    }
                }
            ),
        ]
    },
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Any:
    """pystac's validator with the schemas above."""
    validator = JsonSchemaSTACValidator()
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    validator.schema_cache |= {uri: draft | schema for uri, schema in SCHEMAS.items()}
    before = RegisteredValidator.get_validator()
    RegisteredValidator.set_validator(validator)
    yield
    RegisteredValidator.set_validator(before)


@pytest.fixture
def pair(tmp_path: Path, write_tif: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(tmp_path)
    t1 = np.random.default_rng(0).integers(1, 90, (3, 40, 50)).astype(np.uint8)
    t2 = t1.copy()
    t2[:, 10:20, 10:20] = 250
    return write_tif(tmp_path / "t1.tif", t1), write_tif(tmp_path / "t2.tif", t2)


DAYS = ("--t1-date", "2019-05-01", "--t2-date", "2020-06-02")
COMMAND = ("predict", "t1.tif", "t2.tif", "-m", "cva", "-q")


def test_an_item_beside_its_files(pair: Any, tmp_path: Path) -> None:
    outputs = ("-o", "change.json", "-o", "change.gpkg", "-o", "change.tif", "--prob", "prob.tif")
    assert main([*COMMAND, *outputs, "--preview", "preview.png", *DAYS]) == 0
    item = pystac.Item.from_file("change.json")
    assert sorted(item.validate()) == sorted(
        [*SCHEMAS, "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"]
    )
    start, end = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    assert (str(start)[:10], str(end)[:10]) == ("2019-05-01", "2020-06-02")
    proj = ProjectionExtension.ext(item)
    assert proj.code == "EPSG:32633"
    assert proj.shape == [40, 50]
    assert proj.transform == [10, 0, 500_000, 0, -10, 5_000_000]
    assert item.bbox is not None
    west, south, east, north = item.bbox
    assert 15 <= west < east < 15.01
    assert 45.1 < south < north < 45.2
    assert list(item.assets) == ["polygons", "mask", "prob", "preview", "model"]
    for key, asset in item.assets.items():
        if key != "model":
            href = asset.get_absolute_href()
            assert href is not None
            path = Path(href)
            assert path.parent == tmp_path
            file = FileExtension.ext(asset)
            assert (file.size, file.checksum) == (path.stat().st_size, f"1220{sha256_of(path)}")
    assert item.assets["mask"].extra_fields["bands"][0]["nodata"] == 255
    assert item.assets["prob"].extra_fields["bands"][0]["raster:spatial_resolution"] == (
        pytest.approx(10, rel=1e-3)
    )
    assert RasterExtension.has_extension(item)
    assert item.properties["mlm:name"] == "rscd-cva"
    assert item.properties["rscd:provenance"]["t1"]["sha256"] == sha256_of(pair[0])


def test_the_same_run_gives_the_same_item(pair: Any) -> None:
    outputs = ("-o", "change.geojson", "-o", "change.json", *DAYS)
    assert main([*COMMAND, *outputs]) == 0
    first = Path("change.json").read_bytes()
    assert main([*COMMAND, *outputs]) == 1  # there already
    assert main([*COMMAND, *outputs, "--overwrite"]) == 0
    assert Path("change.json").read_bytes() == first


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (
            ("-o", "x.json", "-o", "x.gpkg"),
            "expected the date of an image for the STAC item x.json",
        ),
        (("-o", "x.json", *DAYS), "found only the STAC item x.json"),
        (("-o", "x.json", "-o", "y.json", "-o", "x.tif", *DAYS), "found x.json and y.json"),
    ],
)
def test_items_that_cannot_be(pair: Any, capsys: Any, more: Any, found: str) -> None:
    assert main([*COMMAND, *more]) == 2
    assert found in capsys.readouterr().err
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["t1.tif", "t2.tif"]


def test_an_item_is_not_written_over_its_input(pair: Any) -> None:
    item = {"href": "t1.tif", "type": "image/tiff"}
    content = pystac.Item("t1", None, None, str_to_datetime("2020-01-01T00:00:00Z"), {})
    Path("t1.json").write_text(json.dumps(content.to_dict() | {"assets": {"image": item}}))
    opened = open_pair("t1.json", "t2.tif")
    with pytest.raises(OutputError, match="found the input t1"):
        predict(opened, ["x.tif", "t1.json"], Options(model="cva", overwrite=True))


@pytest.mark.parametrize("crs", ["EPSG:4326", "+proj=laea +lat_0=10 +lon_0=20", None])
def test_items_of_any_place(tmp_path: Path, write_tif: Any, crs: str | None) -> None:
    from affine import Affine

    place = {"crs": crs, "transform": Affine(1e-4, 0, 20, 0, -1e-4, 10)}
    plane = np.random.default_rng(0).integers(1, 90, (3, 20, 20)).astype(np.uint8)
    path = write_tif(tmp_path / "t.tif", plane, **place)
    options = Options(model="cva", t2_date="2020-01-01")
    predict(open_pair(path, path), [tmp_path / "c.tif", tmp_path / "c.json"], options)
    item = pystac.Item.from_file(str(tmp_path / "c.json"))
    assert item.validate()
    stac.write_collection(tmp_path / "collection.json", [tmp_path / "c.json"], "places")
    (extent,) = pystac.Collection.from_file(str(tmp_path / "collection.json")).extent.spatial.bboxes
    assert extent == ([-180, -90, 180, 90] if crs is None else item.bbox)  # unknown: all of it
    assert item.datetime is not None
    assert item.datetime.year == 2020
    proj = ProjectionExtension.ext(item)
    if crs is None:
        assert (item.geometry, item.bbox, proj.code, proj.wkt2) == (None, None, None, None)
    elif crs.startswith("EPSG"):
        assert proj.code == crs
        assert item.bbox == pytest.approx([20, 9.998, 20.002, 10])
    else:
        assert proj.code is None
        assert CRS(proj.wkt2).equals(CRS(crs))
        assert item.bbox is not None
        assert item.bbox[0] == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("model", ["buildings", "irmad", "pca-kmeans", "file"])
def test_the_item_of_a_model(model: str, buildings: Path, capsys: Any) -> None:
    name = str(buildings) if model == "file" else model
    assert main(["model", "show", name, "--stac"]) == 0
    item = pystac.Item.from_dict(json.loads(capsys.readouterr().out))
    assert len(item.validate()) == 3
    mlm = MLMExtension.ext(item)
    trained = model in ("buildings", "file")
    assert mlm.framework == {"buildings": "ONNX", "file": "PyTorch"}.get(model)
    form = {"buildings": "onnx", "file": "safetensors"}.get(model, "rscd.inference.detectors")
    assert item.assets["model"].extra_fields["mlm:artifact_type"] == form
    classes = item.properties["mlm:output"][0]["classification:classes"]
    assert {one["value"]: one["name"] for one in classes} == {0: "no-change", 1: "change"}
    assert mlm.input[0].input.shape == [-1, 2, 3 if trained else -1, -1, -1]
    checksum = item.assets["model"].extra_fields.get("file:checksum")
    assert (checksum is not None) == trained
    if model == "file":
        assert checksum == f"1220{sha256_of(buildings)}"


def test_no_dates_no_item() -> None:
    with pytest.raises(UsageError, match="expected the date of an image"):
        stac.result_item("x", None, {"t1": None, "t2": None}, {}, {}, Path())  # type: ignore[arg-type]
