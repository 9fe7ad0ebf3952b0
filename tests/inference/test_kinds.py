"""Kinds of change polygons: the dates exchanged, kinds are exchanged, and nothing else."""

import geopandas
import numpy as np
import pytest
import torch
from affine import Affine

from rscd import Options, open_pair, predict
from rscd.inference.kinds import kind_of
from rscd.inference.network import save_weights
from rscd.models.networks import build_network

OTHER = {"appeared": "vanished", "vanished": "appeared", "changed": "changed"}


def test_a_building_at_one_date_came_or_went():
    t1 = np.array([0.1, 0.9, 0.8, 0.1, 0.5])
    t2 = np.array([0.9, 0.1, 0.8, 0.1, 0.6])
    assert kind_of(t1, t2, 0.2).tolist() == [
        "appeared", "vanished", "changed", "changed", "changed",
    ]  # fmt: skip


def test_exchanged_dates_exchange_kinds():
    rng = np.random.default_rng(0)
    t1, t2 = rng.integers(0, 256, (2, 500)) / 255
    t2[:50] = t1[:50]
    forth, back = kind_of(t1, t2, 0.2), kind_of(t2, t1, 0.2)
    assert [OTHER[kind] for kind in forth] == back.tolist()
    assert set(forth) == set(OTHER)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that calls what differs in brightness change, and what is bright a building."""
    torch.manual_seed(0)
    args = {"neck_widths": [8, 8, 8, 8], "decoder_widths": [8, 8, 8, 8]}
    network = build_network("semantic-lite", args)
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
def dates(tmp_path_factory, write_tif):
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("dates")
    found = {}
    for dtype, step in (("uint8", 1), ("uint16", 257)):
        pixels = rng.integers(1, 200, (2, 3, 40, 48)).repeat(4, 2).repeat(4, 3) * step
        grid = Affine(0.4, 0, 500_000, 0, -0.4, 5_000_000)
        found[dtype] = [
            write_tif(folder / f"{dtype}{i}.tif", date.astype(dtype), transform=grid)
            for i, date in enumerate(pixels)
        ]
    return found


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_run_tells_kinds_and_exchanged_dates_exchange_them_alone(tmp_path, weights, dates, dtype):
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


def test_models_that_know_no_kinds_say_changed(tmp_path, dates):
    out = tmp_path / "a.gpkg"
    predict(open_pair(*dates["uint8"]), [out], Options(model="cva", threshold=0.01))
    assert set(geopandas.read_file(out, layer="changes")["kind"]) == {"changed"}
