from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from rscd.base.errors import DataError
from rscd.models.flow import inside, warp
from rscd.synthetic.street_pairs import (
    Kind,
    StreetSettings,
    SyntheticPair,
    SyntheticStreet,
    street_pair,
)
from rscd.synthetic.street_scenery import (
    FolderBackgrounds,
    FolderObjects,
    fractal_noise,
    procedural_object,
    procedural_street,
    trimmed,
)

KINDS = get_args(Kind)
TRANSFORMS = ("affine", "homography", "tps")


def made(
    kind: str, transform: str, seed: int = 0, size: int = 96, **others: object
) -> SyntheticPair:
    settings = StreetSettings(size=size, kinds=(kind,), transforms=((transform, 1.0),), **others)  # type: ignore[arg-type]
    return street_pair([seed, KINDS.index(kind), TRANSFORMS.index(transform)], settings)


def warp_difference(pair: SyntheticPair) -> np.ndarray:
    """(S,S): mean absolute difference of warped t1 and t2, 0..1."""
    t1, flow = torch.from_numpy(pair.image[:1]), torch.from_numpy(pair.flow)[None]
    difference: np.ndarray = (warp(t1, flow)[0].numpy() - pair.image[1]) / 255
    return np.abs(difference).mean(0)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_warping_t1_gives_t2_outside_the_change(kind: str, transform: str) -> None:
    for seed in range(2):
        # small views minify the drawn street until its windows alias: measured at a usual size
        pair = made(kind, transform, seed, size=224)
        # alpha is soft over some pixels around what the mask calls the object
        away = pair.valid & ~binary_dilation(pair.union, iterations=6)
        assert away.mean() > 0.1
        difference = warp_difference(pair)[away]
        assert difference.mean() < (1e-3 if transform == "homography" else 0.01)
        if transform == "homography" and kind in ("static", "replaced", "moved"):
            assert difference.max() < 1e-4  # nothing but the background, or hard edges


@pytest.mark.parametrize("kind", KINDS)
def test_masks_say_what_changed(kind: str) -> None:
    pair = made(kind, "homography", seed=3)
    if kind == "static":
        assert not pair.mask_t1.any()
        assert not pair.mask_t2.any()
        return
    core = pair.valid & pair.mask_t2
    assert core.any()
    difference = warp_difference(pair)[core]
    if kind == "moved":
        inner = pair.valid & ~binary_dilation(~pair.mask_t2, iterations=3)
        assert warp_difference(pair)[inner].mean() < 0.01  # t1's object lands on t2's
        old_place = pair.valid & pair.union & ~binary_dilation(pair.mask_t2, iterations=3)
        assert warp_difference(pair)[old_place].mean() > 0.02
    else:
        assert np.median(difference) > 0.02


def test_union_adds_what_t1_showed() -> None:
    pair = made("replaced", "affine", seed=1)
    assert pair.union[pair.mask_t2].all()
    t1_mask = torch.from_numpy(pair.mask_t1.astype(np.float32))[None, None]
    seen = warp(t1_mask, torch.from_numpy(pair.flow)[None])[0, 0].numpy() >= 0.5
    assert pair.union[seen].all()
    labels = pair.sample("union")["mask"].sum(), pair.sample("t2")["mask"].sum()
    assert labels[0] > labels[1]


def test_validity_is_the_definition_of_the_torch_side() -> None:
    pair = made("moved", "tps")
    expected = inside(torch.from_numpy(pair.flow)[None])[0, 0].numpy()
    np.testing.assert_array_equal(pair.valid, expected)


def test_samples_speak_the_words_of_a_batch() -> None:
    data = SyntheticStreet(3, seed=5, settings=StreetSettings(size=64))
    batch = torch.utils.data.default_collate([data[0], data[1]])
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert shapes == {
        "image": ((2, 2, 3, 64, 64), torch.float32),
        "mask": ((2, 1, 64, 64), torch.int64),
        "label": ((2,), torch.int64),
        "flow": ((2, 2, 64, 64), torch.float32),
        "valid": ((2, 1, 64, 64), torch.bool),
        "use_flow": ((2,), torch.float32),
    }
    assert 0 <= batch["image"].min() < batch["image"].max() <= 255
    with pytest.raises(IndexError):
        data[3]


def test_pairs_depend_on_seed_and_index_alone() -> None:
    settings = StreetSettings(size=48)
    first = [SyntheticStreet(4, seed=1, settings=settings)[i] for i in (0, 1, 2)]
    again = [SyntheticStreet(9, seed=1, settings=settings)[i] for i in (2, 1, 0)][::-1]
    other = SyntheticStreet(4, seed=2, settings=settings)[0]
    for one, two in zip(first, again, strict=True):
        for key, value in one.items():
            assert torch.equal(value, two[key])
    assert not torch.equal(first[0]["image"], other["image"])
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_workers_make_the_same_pairs() -> None:
    data = SyntheticStreet(4, settings=StreetSettings(size=32))
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2)
    for index, loaded in enumerate(loader):
        assert torch.equal(loaded["image"], data[index]["image"])


def test_objects_keep_to_their_area() -> None:
    shares = []
    for seed in range(12):
        pair = made("missing", "affine", seed, size=80, strength=0.0)
        shares.append(pair.mask_t1.mean())
    assert min(shares) > 0.02
    assert max(shares) < 0.29


def test_no_viewpoint_change_leaves_a_plain_pair() -> None:
    pair = made("static", "homography", strength=0.0)
    assert np.abs(pair.flow).max() < 1e-3
    assert pair.valid[1:-1, 1:-1].all()
    np.testing.assert_allclose(pair.image[0], pair.image[1], atol=0.1)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    scenes, things = tmp_path / "scenes", tmp_path / "things"
    scenes.mkdir()
    things.mkdir()
    for name, shape_hw in [
        ("wide.jpg", (90, 160)),
        ("tall.png", (150, 70)),
        ("gray.png", (99, 99)),
    ]:
        picture = procedural_street(rng, shape_hw).transpose(1, 2, 0)[..., ::-1]
        cv2.imwrite(
            str(scenes / name), picture.astype(np.uint8)[..., 0 if "gray" in name else slice(None)]
        )
    rgba = procedural_object(rng) * np.array([1, 1, 1, 255])[:, None, None]
    cv2.imwrite(
        str(things / "thing.png"), rgba.transpose(1, 2, 0)[..., [2, 1, 0, 3]].astype(np.uint8)
    )
    return scenes, things


def test_folders_of_backgrounds_and_objects(folders: tuple[Path, Path]) -> None:
    backgrounds = FolderBackgrounds(folders[0])
    objects = FolderObjects(folders[1])
    assert len(backgrounds.files) == 3
    data = SyntheticStreet(
        4, settings=StreetSettings(size=40), backgrounds=backgrounds, objects=objects
    )
    for index in range(4):
        assert data[index]["image"].std() > 5
    thing = objects(np.random.default_rng(0))
    assert thing.shape[0] == 4
    assert 0 <= thing[3].min() < thing[3].max() <= 1


def test_folder_backgrounds_keep_colours_and_aspect(tmp_path: Path) -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[..., 2] = 200  # red in the order of OpenCV
    cv2.imwrite(str(tmp_path / "red.png"), picture)
    drawn = FolderBackgrounds(tmp_path)(np.random.default_rng(0), (30, 50))
    assert drawn.shape == (3, 30, 50)
    np.testing.assert_allclose(drawn.mean((1, 2)), [200, 0, 0], atol=1e-3)


def test_folders_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        FolderBackgrounds(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match=r"broken\.png"):
        FolderBackgrounds(tmp_path)(rng, (8, 8))
    cv2.imwrite(str(tmp_path / "broken.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="band"):
        FolderObjects(tmp_path)(rng)
    cv2.imwrite(str(tmp_path / "broken.png"), np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(DataError, match="8-bit image, found uint16"):
        FolderBackgrounds(tmp_path)(rng, (8, 8))
    with pytest.raises(DataError, match="alpha 0 everywhere"):
        trimmed(np.zeros((4, 5, 5), np.float32))


def test_noise_is_standardised_and_smooth() -> None:
    noise = fractal_noise(np.random.default_rng(0), (64, 80))
    assert abs(noise.mean()) < 1e-4
    assert abs(noise.std() - 1) < 1e-3
    assert np.abs(np.diff(noise, axis=1)).mean() < 0.5


def test_settings_as_a_dictionary_are_an_error_that_says_what_to_write() -> None:
    given: Any = {"size": 64}
    with pytest.raises(DataError, match=r"expected settings as StreetSettings, found dict; write"):
        SyntheticStreet(2, settings=given)
