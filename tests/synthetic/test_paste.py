from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, label

from rscd.base.errors import DataError
from rscd.models.flow import warp
from rscd.synthetic.paste import PastedPairs, PastePair, PasteSettings, matched, paste_change

NEW = PasteSettings(shares=(1, 0, 0), count=(3, 5))


def ground(seed: int, bands: int = 3, height: int = 90, width: int = 110) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 140, (12, 12, bands)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = smooth.reshape(height, width, bands).transpose(2, 0, 1)
    return (picture + rng.normal(0, 2, picture.shape)).astype(np.float32)


def donor(seed: int = 0, bands: int = 3) -> tuple[np.ndarray, np.ndarray]:
    picture = ground(seed, bands, 80, 80)
    buildings = np.zeros((80, 80), bool)
    buildings[10:24, 12:30] = True
    buildings[40:60, 40:52] = True
    buildings[0:9, 60:80] = True  # cut by the border
    return np.where(buildings, 210.0 + picture / 20, picture).astype(np.float32), buildings


def warp_difference(pair: PastePair) -> np.ndarray:
    t1, flow = torch.from_numpy(pair.image[:1]), torch.from_numpy(pair.flow)[None]
    return np.abs(warp(t1, flow)[0].numpy() - pair.image[1]).max(0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), max_shift=st.sampled_from([0.0, 0.4, 3.0]))
def test_warping_t1_gives_t2_outside_objects_and_shadows(seed: int, max_shift: float) -> None:
    pair = paste_change(seed, *donor(), ground(1), PasteSettings(max_shift=max_shift, count=(2, 6)))
    away = pair.valid & ~pair.mask & ~pair.shadow
    assert away.mean() > 0.3
    assert warp_difference(pair)[away].max() < 0.02  # of 255: rounding of positions in float32
    assert np.abs(pair.flow).max() <= max_shift


def test_masks_cover_what_changed_and_nothing_else() -> None:
    for seed in range(10):
        pair = paste_change(seed, *donor(), ground(1), NEW)
        assert pair.mask.any()
        inner = binary_erosion(pair.mask, iterations=2)
        assert warp_difference(pair)[inner].min() > 10  # bright roofs on dark ground
        assert not (pair.mask & pair.shadow).any()
        assert distance_transform_edt(~pair.mask)[pair.shadow].max() < 15  # length 10, soft rim


def test_new_objects_stand_at_t2_missing_ones_at_t1_static_ones_at_both() -> None:
    image = ground(1)
    for shares, shown_t1, shown_t2, changed in [
        ((1, 0, 0), False, True, True),
        ((0, 1, 0), True, False, True),
        ((0, 0, 1), True, True, False),
    ]:
        pair = paste_change(4, *donor(), image, PasteSettings(shares=shares))
        assert (np.abs(pair.image[0] - image).max() > 20) == shown_t1
        assert (np.abs(pair.image[1] - image).max() > 20) == shown_t2
        assert pair.mask.any() == changed


def test_shadows_darken_the_ground() -> None:
    image = ground(1)
    pair = paste_change(
        2, *donor(), image, PasteSettings(shares=(1, 0, 0), shadow=(0.5, 0.5), shadow_length=(9, 9))
    )
    core = pair.shadow & ~binary_dilation(pair.mask, iterations=3)
    ratio = (pair.image[1] / image)[:, core]
    assert 0.49 < ratio.min() < 0.55
    plain = paste_change(
        2, *donor(), image, PasteSettings(shares=(1, 0, 0), shadow=(1.0, 1.0), shadow_length=(9, 9))
    )
    np.testing.assert_allclose((plain.image[1] / image)[:, core], 1, atol=0.05)


def test_objects_keep_off_buildings_nodata_and_each_other() -> None:
    image = ground(1)
    buildings, valid = np.zeros((90, 110), bool), np.ones((90, 110), bool)
    buildings[:, :50] = True
    valid[:, 100:] = False
    pair = paste_change(3, *donor(), image, NEW, buildings=buildings, valid=valid)
    assert pair.mask.any()
    assert not pair.mask[:, :52].any()
    assert not pair.mask[:, 98:].any()
    assert not pair.valid[:, 100:].any()


def test_buildings_cut_by_the_border_stay_behind() -> None:
    picture, buildings = donor()
    buildings[9:] = False
    with pytest.raises(DataError, match="whole building of at least 100 pixels"):
        paste_change(0, picture, buildings, ground(1))


def test_no_room_leaves_a_pair_without_change() -> None:
    image = ground(1)
    full = np.ones((90, 110), bool)
    pair = paste_change(0, *donor(), image, NEW, buildings=full)
    assert not pair.mask.any()
    np.testing.assert_array_equal(pair.image[0], pair.image[1])
    small = ground(1, height=8, width=8)
    assert not paste_change(0, *donor(), small, NEW).mask.any()


@pytest.mark.parametrize("bands", [1, 3, 4, 13])
def test_any_number_of_bands(bands: int) -> None:
    pair = paste_change(1, *donor(0, bands), ground(1, bands), NEW)
    assert pair.image.shape == (2, bands, 90, 110)
    assert pair.image.dtype == np.float32
    with pytest.raises(DataError, match=f"the {bands} bands"):
        paste_change(1, *donor(0, bands + 1), ground(1, bands))


def test_colours_are_matched_on_the_ground() -> None:
    picture, buildings = donor()
    image = 5000 + 12 * ground(7)
    fitted = matched(picture, ~buildings, image, np.ones(image.shape[1:], bool))
    np.testing.assert_allclose(fitted[:, ~buildings].mean(1), image.mean((1, 2)), rtol=1e-3)
    gain = fitted[:, ~buildings].std(1) / picture[:, ~buildings].std(1)
    np.testing.assert_allclose(gain, 1.4, rtol=1e-3)
    same = matched(picture, ~buildings, picture, ~buildings)
    np.testing.assert_allclose(same, picture, rtol=1e-4)


def test_values_are_clipped_to_the_range() -> None:
    image = ground(1)
    pair = paste_change(1, *donor(), image, NEW, value_range=(0, 150))
    assert pair.image.max() <= max(150, image.max()) + 1e-3


def test_pairs_depend_on_seed_and_index_alone() -> None:
    images, donors = [ground(1), ground(2)], [donor(0), donor(3)]
    first, again = PastedPairs(images, donors, 5, seed=1), PastedPairs(images, donors, 9, seed=1)
    for index in (3, 0):
        for key, value in first[index].items():
            assert torch.equal(value, again[index][key])
    assert not torch.equal(first[0]["image"], first[1]["image"])
    assert not torch.equal(first[0]["image"], PastedPairs(images, donors, 5, seed=2)[0]["image"])
    with pytest.raises(IndexError):
        first[5]


def test_samples_collate_into_a_batch() -> None:
    data = PastedPairs([ground(1)], [donor()], 2)
    batch = torch.utils.data.default_collate([data[0], data[1]])
    assert batch["image"].shape == (2, 2, 3, 90, 110)
    assert batch["mask"].shape == batch["valid"].shape == (2, 1, 90, 110)
    assert batch["flow"].shape == (2, 2, 90, 110)


@pytest.mark.realdata
def test_real_buildings_into_real_imagery(realdata: Path) -> None:
    def read(kind: str, name: str) -> np.ndarray:
        picture = cv2.imread(str(realdata / "fotbcd-binary" / kind / name))
        return picture[..., ::-1].transpose(2, 0, 1).astype(np.float32)

    picture, buildings = read("test/B", "val_104.png"), read("test/label", "val_104.png")[0] > 127
    pair = paste_change(7, picture, buildings, read("train/A", "train_8024.png"), NEW)
    away = ~pair.mask & ~pair.shadow
    np.testing.assert_allclose(pair.image[0][:, away], pair.image[1][:, away], atol=1e-3)
    assert label(pair.mask)[1] >= 1
    inner = binary_erosion(pair.mask, iterations=2)
    assert warp_difference(pair)[inner].mean() > 10
