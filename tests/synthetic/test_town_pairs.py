"""Endless towns: one number, one town, whoever draws it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from rasterio.features import rasterize

from rscd.base.errors import DataError
from rscd.synthetic.town_pairs import TownPairs
from rscd.synthetic.towns import LAND_COVER

ALL = {"image", "mask", "label", "valid", "land_cover", "changes", "buildings"}


def towns(**options: Any) -> TownPairs:
    return TownPairs(**{"length": 4, "seed": 5, "patch_size": 64, **options})


@pytest.mark.slow
def test_a_number_names_a_town() -> None:
    first, second = towns()[3], pickle.loads(pickle.dumps(towns()))[3]
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["mask"], second["mask"])
    assert not torch.equal(first["image"], towns()[2]["image"])
    assert not torch.equal(first["image"], towns(seed=6)[3]["image"])
    assert towns()[10**12]["image"].shape == (2, 3, 64, 64)  # beyond the length is no end
    with pytest.raises(IndexError, match="numbered from 0"):
        towns()[-1]


@pytest.mark.slow
def test_samples_hold_what_was_asked_for() -> None:
    dataset = towns(patch_size=(64, 96), keys=ALL, gsd_m=1.0, change_share=0.9, bands=4)
    for index in range(4):
        sample = dataset[index]
        assert set(sample) == ALL | {"name", "gsd_m"}
        assert sample["image"].shape == (2, 4, 64, 96)
        assert sample["image"].dtype == torch.float32
        assert sample["mask"].shape == sample["valid"].shape == (1, 64, 96)
        assert sample["mask"].dtype == torch.int64
        assert sample["label"] == int(sample["mask"].any())
        assert set(np.unique(sample["land_cover"])) <= set(LAND_COVER.values())
        polygons = [polygon for _, polygon in sample["changes"]]
        burnt = rasterize(polygons, (64, 96), transform=Affine.identity()) if polygons else 0
        np.testing.assert_array_equal(sample["mask"][0], np.broadcast_to(burnt, (64, 96)))
        assert {kind for kind, _ in sample["changes"]} <= {"appeared", "vanished"}
        for date, standing in enumerate(sample["buildings"]):
            burnt = rasterize(standing, (64, 96)) if standing else np.zeros((64, 96))
            built = sample["land_cover"][date].numpy() == LAND_COVER["building"]
            assert (built[burnt > 0]).all()
    assert set(towns(keys=["image"])[0]) == {"image", "name", "gsd_m"}
    assert set(towns(keys=["changes"])[0]) == {"changes", "name", "gsd_m"}  # draws no picture


def test_knobs_hold_or_draw() -> None:
    dataset = towns(
        gsd_m=[0.3, 0.9],
        nuisance={
            "strength": [0.2, 0.4], "shift_px": [2, 4], "haze": 0.1, "off_nadir_deg": [5, 9],
            "t2": {"haze": 0.5, "jpeg_quality": [50, 60]}, "warp_px": 0,
        },
        style={"urban": [0.8, 0.9], "roofs": "slate"},
    )  # fmt: skip
    drawn = [dataset.conditions(index) for index in range(20)]
    lengths = [float(np.hypot(*n.shift_px)) for n in drawn]
    assert all(2 <= length <= 4 for length in lengths)
    assert len({round(length, 6) for length in lengths}) == 20
    assert {(n.t1.haze, n.t2.haze) for n in drawn} == {(0.1, 0.5)}
    assert all(5 <= c.off_nadir_deg <= 9 for n in drawn for c in (n.t1, n.t2))
    assert all(n.t1.off_nadir_deg != n.t2.off_nadir_deg for n in drawn)
    assert {n.t2.jpeg_quality for n in drawn} <= set(range(50, 61))
    assert {n.warp_px for n in drawn} == {0}
    plans = [dataset.plan(index) for index in range(5)]
    assert all(0.3 <= p.gsd_m <= 0.9 and 0.8 <= p.style.urban <= 0.9 for p in plans)
    assert {p.style.roofs for p in plans} == {"slate"}


def test_turning_one_knob_leaves_the_others_alone() -> None:
    plain = towns().conditions(1)
    hazy = towns(nuisance={"haze": [0, 1]}).conditions(1)
    assert hazy.t1.exposure == plain.t1.exposure
    assert hazy.t1.haze != plain.t1.haze
    assert hazy.shift_px == plain.shift_px
    assert towns(nuisance={"haze": 1}).plan(1).seed == towns().plan(1).seed


@pytest.mark.slow
def test_growth_decides_what_change_is() -> None:
    def kinds(**style: Any) -> list[str]:
        dataset = towns(gsd_m=2.0, change_share=0.8, keys=["changes"], style=style)
        return [kind for index in range(8) for kind, _ in dataset[index]["changes"]]

    for growth, low, high in ((1.0, 0.97, 1.0), (0.0, 0.0, 0.03), (0.5, 0.25, 0.75)):
        found = kinds(urban=0.9, growth=growth)
        assert len(found) > 50
        assert low <= found.count("appeared") / len(found) <= high
    with pytest.raises(DataError, match="growth from 0 to 1, found 2"):
        towns(style={"growth": 2})


@pytest.mark.slow
def test_shrubs_and_ponds_are_nuisances() -> None:
    bare = {"urban": 0, "wood": 0, "tree_cover": 0.1}

    def trees(shrubs: float) -> int:
        dataset = towns(patch_size=256, gsd_m=1.0, style={**bare, "shrubs": shrubs})
        return sum(len(dataset.plan(index).trees) for index in range(4))

    def water(ground_change: float) -> torch.Tensor:
        dataset = towns(
            patch_size=256, gsd_m=1.0, keys=["land_cover", "mask"], change_share=0,
            nuisance={"ground_change": ground_change}, style={**bare, "river": 0, "ponds": 1},
        )  # fmt: skip
        samples = [dataset[index] for index in range(4)]
        assert not any(sample["mask"].any() for sample in samples)
        covers = torch.stack([sample["land_cover"] for sample in samples])
        return covers.eq(LAND_COVER["water"]).sum(dim=(0, 2, 3))

    assert trees(1) > trees(0.5) > trees(0)
    same, other = water(0), water(1)
    assert same[0] == same[1] > 100
    assert other[0] == same[0] != other[1]
    for knob in ("shrubs", "ponds"):
        with pytest.raises(DataError, match=f"{knob} from 0 to 1, found 2"):
            towns(style={knob: 2})


def test_no_nuisance_leaves_unchanged_ground_alone() -> None:
    off = dict.fromkeys(
        ("strength", "shift_px", "warp_px", "cars_move", "crop_change", "ground_change",
         "tree_change", "noise", "cloud_shadow"), 0,
    )  # fmt: skip
    same = {"greenness": 0.5, "sun_azimuth_deg": 150, "sun_elevation_deg": 50, "exposure": 1,
            "off_nadir_deg": 0, "view_azimuth_deg": 0, "ambient": 0.2, "leaf_off": 0}  # fmt: skip
    dataset = towns(nuisance={**off, **same}, change_share=0)
    sample = dataset[0]
    gray = sample["image"].mean(dim=1)
    assert not sample["mask"].any()
    # colour casts remain drawn; the scene itself is the same
    assert np.corrcoef(gray[0].ravel(), gray[1].ravel())[0, 1] > 0.99


@pytest.mark.slow
def test_a_cache_returns_the_same_pixels(tmp_path: Path) -> None:
    plain, kept = towns(keys=ALL), towns(keys=ALL, cache=tmp_path, fresh=False)
    for _ in range(2):
        for key in ("image", "mask", "land_cover", "label"):
            assert torch.equal(kept[1][key], plain[1][key])
    (file,) = tmp_path.rglob("*.npz")
    other = towns(keys=ALL, cache=tmp_path, nuisance={"haze": 0.3})
    assert not torch.equal(other[1]["image"], plain[1]["image"])  # other knobs, other folder
    np.savez(file, image=np.full((2, 3, 64, 64), 7, np.uint8), mask=np.zeros((1, 64, 64), np.uint8),
             land_cover=np.zeros((2, 64, 64), np.uint8))  # fmt: skip
    assert (kept[1]["image"] == 7).all()  # read, not drawn again


def test_kept_pixels_need_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = towns(cache=tmp_path, gsd_m=[0.3, 0.8])
    first = kept[1]
    monkeypatch.setattr(TownPairs, "plan", lambda *_: pytest.fail("planned"))
    again = kept[1]
    assert again["gsd_m"] == first["gsd_m"]
    assert torch.equal(again["image"], first["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "at least one town"),
        ({"keys": ["flow"]}, "keys of towns: .*, found flow"),
        ({"nuisance": {"fog": 1}}, "town nuisance: expected strength, shift_px, .*, found fog"),
        ({"nuisance": {"t2": {"warp_px": 1}}}, r"nuisance\.t2: .*, found warp_px"),
        ({"nuisance": {"haze": [0.5, 0.1]}}, r"haze: expected a number or \[low, high\]"),
        ({"nuisance": {"haze": 3}}, "town parameters: expected haze from 0 to 1, found 3"),
        ({"style": {"rural": 1}}, "style: .*, found rural"),
        ({"gsd_m": 0}, "town parameters"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        towns(**options)
