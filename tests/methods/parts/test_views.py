from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rscd.base.errors import UsageError
from rscd.base.types import Batch
from rscd.methods.parts.draws import view_generator
from rscd.methods.parts.views import (
    Weak,
    crop,
    cutmix,
    cutmix_boxes,
    cutmix_maps,
    flip,
    resize,
    rolled,
    rot90,
    weak_view,
)
from rscd.models.flow import inside, pixel_grid, warp


def smooth_batch(count: int = 2, bands: int = 3, height: int = 40, width: int = 40) -> Batch:
    """Pairs whose t2 is t1 warped by their flow, with a changed square and a column of ignore."""
    x, y = pixel_grid((height, width))
    bands_xy = [torch.sin(x / (5 + b)) * torch.cos(y / (6 + b)) * 100 + 128 for b in range(bands)]
    t1 = torch.stack(bands_xy)[None].repeat(count, 1, 1, 1)
    shifts = torch.linspace(-3, 3, count).view(-1, 1, 1)
    flow = torch.stack([2 + y / 20 + shifts, -1.5 + x / 25 - shifts], dim=1)
    mask = torch.zeros(count, 1, height, width, dtype=torch.long)
    mask[..., 10:20, 12:22] = 1
    mask[..., 0] = 255
    return Batch(
        image=torch.stack([t1, warp(t1, flow)], 1),
        mask=mask,
        valid=inside(flow),
        flow=flow,
        label=torch.ones(count, dtype=torch.long),
        vl_change=mask.clone(),  # type: ignore[typeddict-unknown-key]
    )


def warp_error(batch: Batch) -> float:
    t1, t2 = batch["image"].unbind(1)
    away = (warp(t1, batch["flow"]) - t2).abs().amax(1, keepdim=True)
    return float(away[batch["valid"] & inside(batch["flow"])].max())


def coordinate_batch(count: int, height: int, width: int) -> Batch:
    grid = pixel_grid((height, width)) + 1
    image = grid.expand(count, 2, 2, height, width).clone()
    code = (grid[0] + 1000 * grid[1]).long().expand(count, 1, height, width).clone()
    return Batch(image=image, mask=code, valid=torch.ones_like(code, dtype=torch.bool))


@pytest.mark.golden
def test_cutmix_matches_the_reference_arrays(golden: Any) -> None:
    files = golden.files("diffmatch/cutmix*.npz")
    assert files
    for file in files:
        arrays = np.load(file)
        cases = sorted({key.split("_")[0] for key in arrays})
        assert cases
        for case in cases:
            box = torch.from_numpy(arrays[f"{case}_box"])
            for kind in ("img", "mask", "conf"):
                base = torch.from_numpy(arrays[f"{case}_{kind}"])
                before = base.clone()
                out = cutmix_maps(base, torch.from_numpy(arrays[f"{case}_{kind}_mix"]), box)
                assert torch.equal(out, torch.from_numpy(arrays[f"{case}_{kind}_out"]))
                assert torch.equal(base, before)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_cutmix_with_itself_is_the_identity(seed: int) -> None:
    batch = smooth_batch(3)
    box = cutmix_boxes(3, (40, 40), view_generator(seed), p_empty=0.0)
    mixed = cutmix(batch, batch, box)
    for key in ("image", "mask", "flow", "vl_change"):
        assert torch.equal(mixed[key], batch[key]), key  # type: ignore[typeddict-item]


def test_cutmix_takes_every_map_from_the_partner_inside_the_box() -> None:
    batch = smooth_batch(2)
    batch["image"] = batch["image"] + torch.tensor([0.0, 1000]).view(2, 1, 1, 1, 1)
    box = torch.zeros(2, 40, 40, dtype=torch.bool)
    box[0, 5:15, 8:30] = True
    partner = rolled(batch)
    mixed = cutmix(batch, partner, box)
    inner = (0, ..., slice(5, 15), slice(8, 30))
    for key in ("image", "mask", "flow", "vl_change"):
        assert torch.equal(mixed[key][inner], batch[key][1][inner[1:]])  # type: ignore[typeddict-item]
        assert torch.equal(mixed[key][1], batch[key][1])  # type: ignore[typeddict-item]
    assert torch.equal(mixed["image"][0, ..., :5, :], batch["image"][0, ..., :5, :])


def test_cutmix_keeps_only_matches_on_one_side_of_the_border() -> None:
    batch = smooth_batch(4)
    batch["image"] = batch["image"] + 500 * torch.arange(4).view(4, 1, 1, 1, 1)
    box = cutmix_boxes(4, (40, 40), view_generator(3), p_empty=0.0)
    mixed = cutmix(batch, rolled(batch), box)
    assert warp_error(mixed) < 0.01
    assert mixed["valid"].float().mean() > 0.3
    everywhere = cutmix(batch, rolled(batch), box)
    everywhere["valid"] = torch.ones_like(mixed["valid"])
    assert warp_error(everywhere) > 100


def test_cutmix_drops_or_recomputes_the_label() -> None:
    batch = smooth_batch(2)
    batch["mask"][1] = 0
    box = torch.ones(2, 40, 40)
    assert cutmix(batch, rolled(batch), box)["label"].tolist() == [0, 1]
    unlabeled = Batch(image=batch["image"], label=batch["label"])
    assert "label" not in cutmix(unlabeled, unlabeled, box)


def test_cutmix_refuses_partners_that_lack_a_map_and_boxes_that_do_not_fit() -> None:
    batch = smooth_batch(2)
    with pytest.raises(UsageError, match="lacks flow, mask, valid, vl_change"):
        cutmix(batch, Batch(image=batch["image"]), torch.zeros(2, 40, 40))
    with pytest.raises(UsageError, match="box"):
        cutmix_maps(batch["image"], batch["image"], torch.zeros(2, 20, 20))


def test_cutmix_boxes_follow_the_published_distribution() -> None:
    boxes = cutmix_boxes(1500, (256, 256), view_generator(0)).float()
    filled = boxes[boxes.flatten(1).any(1)]
    assert 0.46 < len(filled) / 1500 < 0.54
    area = filled.mean((1, 2))
    assert 0.018 < area.min() < area.max() <= 0.4
    assert abs(area.mean() - 0.207) < 0.012
    height, width = filled.amax(2).sum(1), filled.amax(1).sum(1)
    assert torch.equal(height * width, filled.sum((1, 2)))
    aspect = height / width
    assert 0.28 < aspect.min() < aspect.max() < 3.5
    assert abs(aspect.median() - 1.5) < 0.15


@pytest.mark.parametrize("dim", [-1, -2])
def test_flips_keep_the_pair_consistent(dim: int) -> None:
    batch = smooth_batch()
    flipped = flip(batch, dim)
    assert warp_error(flipped) < 1e-3
    assert torch.equal(flipped["mask"], batch["mask"].flip(dim))
    again = flip(flipped, dim)
    assert again.keys() == batch.keys()
    for key in batch:
        assert torch.equal(again[key], batch[key]), key  # type: ignore[literal-required]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turns_keep_the_pair_consistent(turns: int) -> None:
    batch = smooth_batch(height=30, width=44)
    turned = rot90(batch, turns)
    assert warp_error(turned) < 1e-3
    back = rot90(turned, -turns)
    for key in ("image", "flow", "mask", "valid"):
        assert torch.equal(back[key], batch[key]), key


@pytest.mark.parametrize("shape_hw", [(60, 50), (30, 36)])
def test_resizing_keeps_the_pair_consistent(shape_hw: tuple[int, int]) -> None:
    batch = resize(smooth_batch(), shape_hw)
    # samples beyond t1's border are black; interpolation mixes them into their neighbours
    batch["valid"] = -torch.nn.functional.max_pool2d(-batch["valid"].float(), 7, 1, 3) > 0.5
    batch["valid"][..., :4, :] = batch["valid"][..., -4:, :] = False
    batch["valid"][..., :4] = batch["valid"][..., -4:] = False
    assert batch["mask"].unique().tolist() == [0, 1, 255]
    assert warp_error(batch) < 4.0


def test_cropping_keeps_the_pair_consistent_and_marks_what_left_the_window() -> None:
    batch = crop(smooth_batch(), 6, 9, (20, 24))
    assert batch["image"].shape[-2:] == (20, 24)
    assert warp_error(batch) < 1e-3
    assert not batch["valid"][~inside(batch["flow"])].any()


def test_cropping_pads_right_and_below_with_the_value_of_each_kind() -> None:
    batch = smooth_batch()
    batch["confidence"] = torch.ones(2, 1, 40, 40)  # type: ignore[typeddict-unknown-key]
    padded = crop(batch, 30, 0, (16, 48))
    corner = (..., slice(10, None), slice(40, None))
    expected = {"image": 0, "mask": 255, "vl_change": 255, "valid": 0, "flow": 0, "confidence": 0}
    for key, value in expected.items():
        assert (padded[key][corner] == value).all(), key  # type: ignore[literal-required]
    assert padded["label"].tolist() == [0, 0]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), height=st.integers(20, 50), width=st.integers(20, 50))
def test_weak_view_shares_its_geometry_over_dates_and_maps(
    seed: int, height: int, width: int
) -> None:
    batch = coordinate_batch(3, height, width)
    recipe = Weak(32, p_vflip=0.5, rot90=True)
    view = weak_view(batch, recipe, view_generator(seed))
    assert view["image"].shape == (3, 2, 2, 32, 32)
    assert torch.equal(view["image"][:, 0], view["image"][:, 1])
    valid = view["valid"][:, 0]
    x, y = view["image"][:, 0].unbind(1)
    code = view["mask"][:, 0]
    assert ((x - code % 1000).abs()[valid] <= 1.3).all()
    assert ((y - code // 1000).abs()[valid] <= 1.3).all()
    assert (code[~valid] == 255).all()
    assert (view["image"].amax((1, 2))[~valid] == 0).all()


def test_weak_view_with_flow_keeps_the_pair_consistent() -> None:
    batch = smooth_batch(4, height=64, width=64)
    batch["valid"] = -torch.nn.functional.max_pool2d(-batch["valid"].float(), 9, 1, 4) > 0.5
    view = weak_view(batch, Weak(48, scale=(1.0, 1.0), rot90=True), view_generator(5))
    assert warp_error(view) < 1e-2
    scaled = weak_view(batch, Weak(48, rot90=True), view_generator(5))
    scaled["valid"] = -torch.nn.functional.max_pool2d(-scaled["valid"].float(), 9, 1, 4) > 0.5
    assert warp_error(scaled) < 4.0


def test_weak_view_draws_the_published_sizes() -> None:
    batch = coordinate_batch(1, 100, 50)
    generator = view_generator(0)
    ratios = set()
    flips = 0
    for _ in range(300):
        view = weak_view(batch, Weak(128), generator)
        rows = int(view["valid"][0, 0].any(1).sum())
        columns = int(view["valid"][0, 0].any(0).sum())
        flips += int(not view["valid"][0, 0, 0, 0])
        ratios.add(rows)
        assert columns == int(rows / 2 + 0.5)
    assert min(ratios) == 80
    assert max(ratios) == 120
    assert 110 < flips < 190


def test_views_are_the_same_for_the_same_keys_only() -> None:
    batch = smooth_batch()

    def view(*keys: int) -> torch.Tensor:
        return weak_view(batch, Weak(32), view_generator(*keys))["image"]

    assert torch.equal(view(7, 3, 0), view(7, 3, 0))
    assert not torch.equal(view(7, 3, 0), view(7, 3, 1))
    assert not torch.equal(view(7, 3, 0), view(8, 3, 0))
