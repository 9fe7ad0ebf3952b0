from typing import Any

import numpy as np
import pytest
import torch

from rscd.base.errors import DataError
from rscd.base.types import LAYERS
from rscd.labels.guided_towns import FAULTS, GuidedTowns
from rscd.synthetic.town_pairs import TownPairs
from rscd.synthetic.towns import LAND_COVER
from rscd.training.module import ChangeDataModule

TOWNS: dict[str, Any] = {
    "length": 4, "patch_size": 64, "gsd_m": 1.5, "style": {"urban": [0.6, 1.0]},
    "change_share": [0.3, 0.6], "fresh": False,
}  # fmt: skip
PERFECT = dict.fromkeys(FAULTS, 0.0) | {"confidence": 1.0}


def test_labels_of_a_perfect_segmenter_are_the_land_cover() -> None:
    towns = GuidedTowns(TOWNS, faults=PERFECT, gamma=0.0, keys=("land_cover", *LAYERS))
    changed = 0
    for index in range(4):
        sample = towns[index]
        changed += int((sample["vl_change"] == 1).sum())
        building = sample["land_cover"] == LAND_COVER["building"]
        for date, layer in enumerate(LAYERS[1:]):
            assert torch.equal(sample[layer][0] == 1, building[date])
        flips = building[0] != building[1]
        pixel = GuidedTowns(TOWNS, faults=PERFECT, gamma=0.0, change="pixel")[index]
        assert torch.equal(pixel["vl_change"][0] == 1, flips)
        assert not (sample["vl_change"][0] == 1)[~flips].any()
    assert changed > 0


def test_towns_are_those_without_labels_and_faults_come_again() -> None:
    guided, plain = GuidedTowns(TOWNS), TownPairs(**TOWNS)
    assert len(guided) == len(plain)
    assert guided.endless == plain.endless
    for index in (0, 3):
        sample, again = guided[index], GuidedTowns(TOWNS)[index]
        assert torch.equal(sample["image"], plain[index]["image"])
        assert all(torch.equal(sample[key], again[key]) for key in LAYERS)
        assert all(sample[key].shape == sample["mask"].shape for key in LAYERS)
        assert all(set(sample[key].unique().tolist()) <= {0, 1, 255} for key in LAYERS)
    other = GuidedTowns(TOWNS, faults={"seed": 1})
    assert any(not torch.equal(guided[i]["vl_t1"], other[i]["vl_t1"]) for i in range(4))


def test_worse_segmenters_give_worse_labels() -> None:
    def error(faults: dict[str, Any]) -> float:
        keys = ("land_cover", "vl_t2")
        towns = GuidedTowns(TOWNS, faults=PERFECT | faults, gamma=0.0, keys=keys)
        samples = [towns[i] for i in range(4)]
        truth = [s["land_cover"][1] == LAND_COVER["building"] for s in samples]
        return np.mean(
            [
                ((s["vl_t2"][0] == 1) != t).float().mean()
                for s, t in zip(samples, truth, strict=True)
            ]
        )

    found = [error(f) for f in ({}, {"ragged_px": 1.0}, {"ragged_px": 1.0, "missed": 0.6})]
    assert found == sorted(found)
    assert found[0] < found[1]


@pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated")
def test_only_asked_keys_come_and_no_mask_reaches_the_unlabeled_stream() -> None:
    assert set(GuidedTowns(TOWNS, keys=("image", "vl_t1"))[0]) >= {"image", "vl_t1"}
    assert "land_cover" not in GuidedTowns(TOWNS)[0]
    assert not set(GuidedTowns(TOWNS, keys=("image",))[0]) & {*LAYERS, "mask", "land_cover"}
    stream = {
        "class_path": "rscd.labels.guided_towns.GuidedTowns", "init_args": {"towns": TOWNS}
    }  # fmt: skip
    module = ChangeDataModule(
        {"unlabeled": stream}, batch_size=2, needs={"unlabeled": {"image", *LAYERS}}
    )
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))[0]["unlabeled"]
    assert {key for key in batch if torch.is_tensor(batch[key])} == {"image", *LAYERS}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faults": {"missed": 2}}, "faults: expected missed from 0 to 1"),
        ({"faults": {"blind": 1}}, "faults: .*blind"),
        ({"keys": ("image", "vl_t3")}, "vl_t3"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GuidedTowns(TOWNS, **options)
