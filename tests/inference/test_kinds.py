"""Kinds of change polygons: the dates exchanged, kinds are exchanged, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.features import rasterize

from rscd import Options, open_pair, predict
from rscd.geo.polygons import trace
from rscd.inference.adapted import Adapted, adapted
from rscd.inference.kinds import finds_buildings, kind_of, stored
from rscd.inference.network import Network, load_network, save_weights
from rscd.inference.tiled import scene_tiles
from rscd.inference.views import multi_scale
from rscd.models.networks import build_network
from rscd.pipeline import maps

OTHER = {"appeared": "vanished", "vanished": "appeared", "changed": "changed"}


def test_a_building_at_one_date_came_or_went() -> None:
    t1 = np.array([0.1, 0.9, 0.8, 0.1, 0.5])
    t2 = np.array([0.9, 0.1, 0.8, 0.1, 0.6])
    assert kind_of(t1, t2, 0.2).tolist() == [
        "appeared", "vanished", "changed", "changed", "changed",
    ]  # fmt: skip


def test_exchanged_dates_exchange_kinds() -> None:
    rng = np.random.default_rng(0)
    t1, t2 = rng.integers(0, 256, (2, 500)) / 255
    t2[:50] = t1[:50]
    forth, back = kind_of(t1, t2, 0.2), kind_of(t2, t1, 0.2)
    assert [OTHER[kind] for kind in forth] == back.tolist()
    assert set(forth) == set(OTHER)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that calls what differs in brightness change, and what is bright a building."""
    torch.manual_seed(0)
    args = {"neck_widths": [8, 8, 8, 8], "decoder_widths": [8, 8, 8, 8]}
    network: Any = build_network("semantic-lite", args)
    card = {
        "halo": 32, "multiple": 16, "patch_size": 128, "threshold": 0.5, "kind_margin": 0.02,
        "gsd_m": 0.5, "min_area_m2": 2,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("kinds") / "w.safetensors"
    network.buildings.weight.data *= 5
    network.head.weight.data *= 50
    image = torch.rand(1, 2, 3, 96, 96).round() * 200
    with torch.inference_mode():
        network.head.bias.data -= network.eval()(image)["logits"].median()
    save_weights(path, network, "semantic-lite", args, card)
    return path


@pytest.fixture(scope="module")
def dates(
    tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("dates")
    found = {}
    kinds = {"uint8": (1, 0.4), "uint16": (257, 0.4), "half a metre": (1, 0.5)}
    for name, (step, size_m) in kinds.items():
        dtype = "uint16" if step > 1 else "uint8"
        pixels = rng.integers(1, 200, (2, 3, 40, 48)).repeat(4, 2).repeat(4, 3) * step
        grid = Affine(size_m, 0, 500_000, 0, -size_m, 5_000_000)
        found[name] = [
            write_tif(folder / f"{name}{i}.tif", date.astype(dtype), transform=grid)
            for i, date in enumerate(pixels)
        ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_run_tells_kinds_and_exchanged_dates_exchange_them_alone(
    tmp_path: Path, weights: Path, dates: dict[str, Any], dtype: str
) -> None:
    tables = []
    for name, paths in (("forth", dates[dtype]), ("back", dates[dtype][::-1])):
        out = tmp_path / f"{name}.gpkg"
        predict(open_pair(*paths), [out], Options(model=str(weights)))
        tables.append(geopandas.read_file(out, layer="changes"))
    forth, back = tables
    assert len(forth) > 5
    assert set(forth["kind"]) >= {"appeared", "vanished"}
    assert [OTHER[kind] for kind in forth["kind"]] == back["kind"].tolist()
    rest = ["id", "class", "score", "area_m2", "model", "geometry"]
    assert forth[rest].equals(back[rest])


def test_one_pass_finds_what_a_second_one_would(
    tmp_path: Path, weights: Path, dates: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is that second pass: the buildings of each tile, averaged under the pixels."""
    network = load_network(weights, "cpu", 1)
    pair = open_pair(*dates["half a metre"])
    tiles = scene_tiles(pair, 80, network.tiling)
    seen = []
    outputs = Network.outputs
    monkeypatch.setattr(maps, "measure_seam", lambda *_: None)  # which looks again by intention

    def noted(*given: Any) -> Any:
        seen.append(given)
        return outputs(*given)

    monkeypatch.setattr(Network, "outputs", noted)
    options = Options(model=str(weights), tile_size=80, regularize=False, min_area_m2=0)
    predict(pair, [tmp_path / "c.tif", tmp_path / "c.gpkg"], options, prob=tmp_path / "prob.tif")
    assert len(seen) == len(tiles) == 6
    standing, change = np.zeros((2, *pair.shape_hw), np.uint8), np.zeros(pair.shape_hw, np.float32)
    for tile in tiles:
        image, valid = pair.context(tile.read)
        with torch.inference_mode():
            found = outputs(network, torch.from_numpy(image[None]))["buildings"][0].sigmoid()
        standing[:, *tile.write.slices] = np.rint(found.numpy()[:, *tile.inner] * 255)
        change[tile.write.slices] = network(image[None], valid[None])[0][tile.inner]
    with rasterio.open(tmp_path / "prob.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), change)
    outlines = trace(tmp_path / "c.tif")
    numbered = zip(outlines, range(1, len(outlines) + 1), strict=True)
    labels = rasterize(numbered, pair.shape_hw, dtype="int32").ravel()
    sums = (np.bincount(labels, date.ravel()) for date in standing)
    t1, t2 = (total[1:] / np.bincount(labels)[1:] / 255 for total in sums)
    table = geopandas.read_file(tmp_path / "c.gpkg", layer="changes")
    assert table["kind"].tolist() == kind_of(t1, t2, 0.02).tolist()
    assert set(table["kind"]) >= {"appeared", "vanished"}


@pytest.mark.parametrize("gsd_m", [0.5, 0.4])
def test_at_any_resolution_change_is_the_same_with_buildings(weights: Path, gsd_m: float) -> None:
    model = adapted(load_network(weights, "cpu", 1), 3, gsd_m, eight_bit=True)
    image = np.random.default_rng(0).integers(0, 200, (1, 2, 3, 80, 80)).astype(np.float32)
    valid = np.ones((1, 80, 80), bool)
    assert isinstance(model, Adapted if gsd_m == 0.4 else Network)
    assert finds_buildings(model)
    prob, found = model.with_buildings(image, valid)
    np.testing.assert_array_equal(prob, model(image, valid))
    assert found.shape == (1, 2, 80, 80)
    back, exchanged = model.with_buildings(np.ascontiguousarray(image[:, ::-1]), valid)
    np.testing.assert_array_equal(back, prob)
    np.testing.assert_array_equal(exchanged[:, ::-1], found)


def test_views_find_none(weights: Path) -> None:
    views = multi_scale(load_network(weights, "cpu", 1), msi="1", tta=None, eight_bit=True)
    for model in (views, adapted(views, 3, 0.4, eight_bit=True)):
        assert not finds_buildings(model)


def test_a_mask_needs_no_buildings(
    tmp_path: Path, weights: Path, dates: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "with_buildings", None)
    result = predict(open_pair(*dates["uint8"]), [tmp_path / "c.tif"], Options(model=str(weights)))
    assert result.changed_pixels > 0


def test_stored_values_are_rounded_and_only_those_wanted() -> None:
    prob = np.array([[[0, 1, 0.5, np.nan]], [[0.0019, 0.002, 1.0000001, np.inf]]], np.float32)
    found = stored(prob, np.array([[True, True, True, False]]))
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 255, 128, 0]], [[0, 1, 255, 0]]]


def test_models_that_know_no_kinds_say_changed(tmp_path: Path, dates: dict[str, Any]) -> None:
    out = tmp_path / "a.gpkg"
    predict(open_pair(*dates["uint8"]), [out], Options(model="cva", threshold=0.01))
    assert set(geopandas.read_file(out, layer="changes")["kind"]) == {"changed"}
