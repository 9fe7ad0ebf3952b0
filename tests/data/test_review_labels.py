"""What a reviewed layer teaches, pixel by pixel and place by place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray

from rscd.base.errors import DataError, SceneError
from rscd.base.files import sha256_of
from rscd.data.review_labels import AROUND_PX, CONTEXT_PX
from rscd.data.samplers import random_queries
from rscd.data.scene_files import expand
from rscd.data.scenes import Scene, ScenePairs
from rscd.export.vector import write_vector
from rscd.geo.table import feature_table

SIDE = 256
PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
BOXES = {
    "accepted": (40, 40, 60, 70),
    "rejected": (150, 40, 170, 60),
    "unsure": (174, 50, 190, 60),
    "unreviewed": (100, 200, 120, 220),
}


def on_ground(box: tuple[int, int, int, int]) -> shapely.Polygon:
    return shapely.transform(shapely.box(*box), lambda p: p * [0.5, -0.5] + [500_000, 5_000_000])


def pixels(*names: str, grow: int = 0) -> NDArray[Any]:
    found = np.zeros((SIDE, SIDE), bool)
    for name in names:
        left, top, right, bottom = BOXES[name]
        found[max(0, top - grow) : bottom + grow, max(0, left - grow) : right + grow] = True
    return found


@pytest.fixture
def layer(tmp_path: Path, write_tif: Callable[..., Path]) -> Callable[..., Any]:
    """A reviewed layer with its rasters."""
    random = np.random.default_rng(0)
    about = {}
    for date in ("t1", "t2"):
        image = random.integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)
        file = write_tif(tmp_path / f"{date}.tif", image, transform=PLACE)
        size, sha256 = file.stat().st_size, sha256_of(file)
        about[date] = {"path": str(file), "bytes": size, "sha256": sha256, "bands": [1, 2, 3]}

    def write(boxes: dict[str, Any] = BOXES, name: str = "change.gpkg", **parameters: Any) -> str:
        columns = {"id": np.arange(1, len(boxes) + 1), "status": list(boxes)}
        shapes = np.array([on_ground(box) for box in boxes.values()])
        table = feature_table(columns, shapes, "EPSG:32633", own=("id",))
        write_vector(table, tmp_path / name, provenance=about | {"parameters": parameters})
        return str(tmp_path / name)

    return write


def whole(dataset: ScenePairs) -> dict[str, Any]:
    left, bottom, right, top = 500_000, 5_000_000 - SIDE / 2, 500_000 + SIDE / 2, 5_000_000
    return dataset[left:right:0.5, bottom:top:0.5]


@pytest.mark.parametrize("name", ["change.gpkg", "change.geojson", "change.parquet"])
def test_the_mask_says_what_was_decided_and_nothing_else(
    layer: Callable[..., Any], name: str
) -> None:
    """Rasters come from the layer; close around a polygon nothing else changed."""
    mask = whole(ScenePairs(Scene(review=layer(name=name)), keys=["image", "mask"]))["mask"][0]
    mask = mask.numpy()
    np.testing.assert_array_equal(mask == 1, pixels("accepted"))
    assert (mask[pixels("rejected")] == 0).all()
    assert (mask[pixels("unsure", "unreviewed")] == 255).all()
    seen = pixels("accepted", "rejected", grow=AROUND_PX)
    assert (mask[~seen] == 255).all()
    straight = pixels("accepted", grow=1) & ~pixels("accepted")
    assert (mask[straight] == 0).all()


def test_patches_are_drawn_around_decided_polygons(layer: Callable[..., Any]) -> None:
    dataset = ScenePairs(Scene(review=layer()), keys=["image", "mask", "valid"])
    assert len(dataset.index) == 2
    for query in random_queries(dataset, 96, 30, seed=(1,)):
        sample = dataset[query]
        assert sample["image"].shape == (2, 3, 96, 96)
        _, box = dataset.locate(query)
        near = pixels("accepted", "rejected", grow=CONTEXT_PX)
        there = box.within((SIDE, SIDE))
        rows, cols = np.arange(96)[:, None] + box.row, np.arange(96) + box.col
        assert near[np.clip(rows, 0, SIDE - 1), np.clip(cols, 0, SIDE - 1)][there].all()


def test_answers_are_yes_around_accepted_and_no_around_rejected(layer: Callable[..., Any]) -> None:
    dataset = ScenePairs(Scene(review=layer()), keys=["image", "label", "valid"])
    found = {}
    for query in random_queries(dataset, 64, 20, seed=(2,)):
        sample = dataset[query]
        placed, _ = dataset.locate(query)
        assert placed.answer is not None
        found[placed.answer.place.wkb] = int(sample["label"])
        assert (sample["image"][:, :, ~sample["valid"][0]] == 0).all()
    assert sorted(found.values()) == [0, 1]
    no = next(shapely.from_wkb(wkb) for wkb, label in found.items() if label == 0)
    assert no.contains(on_ground(BOXES["rejected"]))
    assert no.intersection(on_ground(BOXES["unsure"])).area == 0
    assert no.area > on_ground(BOXES["rejected"]).area


def test_ground_without_labels_is_drawn_as_a_whole(layer: Callable[..., Any]) -> None:
    dataset = ScenePairs(Scene(review=layer()), keys=["image", "valid"])
    assert len(dataset.index) == 1
    assert dataset.places[0].ground.area == (SIDE / 2) ** 2


def test_an_area_limits_the_places(layer: Callable[..., Any], tmp_path: Path) -> None:
    west = feature_table(
        {"id": [1]}, np.array([on_ground((0, 0, 128, SIDE))]), "EPSG:32633", own=("id",)
    )
    write_vector(west, tmp_path / "west.gpkg", provenance={})
    scene = Scene(review=layer(), area=str(tmp_path / "west.gpkg"))
    for keys in (["image", "mask"], ["image", "label"]):
        assert len(ScenePairs(scene, keys=keys).index) == 1


def test_without_decisions_there_is_nothing_to_learn(layer: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="expected accepted or rejected polygons"):
        ScenePairs(Scene(review=layer({"unsure": (1, 1, 9, 9)})), keys=["image", "mask"])


def test_rasters_that_changed_are_refused(layer: Callable[..., Any], tmp_path: Path) -> None:
    path = layer()
    (tmp_path / "t1.tif").write_bytes((tmp_path / "t2.tif").read_bytes())
    with pytest.raises(SceneError, match=r"t1 .* changed since"):
        ScenePairs(Scene(review=path))
    named = Scene(str(tmp_path / "t1.tif"), str(tmp_path / "t2.tif"), review=path)
    assert ScenePairs(named, keys=["image", "mask"])  # the user says that these are meant


def test_rasters_that_are_read_otherwise_than_the_layer_was_made_are_said(
    layer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = layer(src_nodata=0.0)
    scene = Scene(review=path)
    ScenePairs(scene, src_nodata=0)
    assert not caplog.text
    ScenePairs(scene, bands=(3, 2, 1))
    assert f"{path} was made from bands [1, 2, 3] of t1 (here [3, 2, 1]: set bands)" in caplog.text
    assert "nodata 0 (here as the files say: set src_nodata)" in caplog.text
    caplog.clear()
    (read,) = expand(scene)
    ScenePairs(Scene(read.t1, read.t2, review=path), bands=(3, 2, 1))
    assert not caplog.text, "the user says that these are meant"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": "x.gpkg"}, "expected review alone"),
        ({"t1": "t1.tif"}, "expected t1 and t2 of a scene, found t1.tif"),
    ],
)
def test_scenes_that_say_too_much_or_too_little(
    layer: Callable[..., Any], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        ScenePairs(replace(Scene(review=layer()), **fields))
    with pytest.raises(DataError, match="found none; name both"):
        ScenePairs(Scene())
