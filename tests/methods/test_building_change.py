"""Buildings per date, and pairs whose second date is another place."""

from typing import Any

import torch

from rscd.base.types import IGNORE
from rscd.methods.building_change import (
    BUILDING,
    BuildingChange,
    buildings_loss,
    buildings_of,
    with_other_places,
)

NETWORK = {"widths": [4, 6], "depths": [1, 1], "neck_width": 6, "decoder_width": 6}


def batch(count: int = 3, size: int = 16) -> Any:
    random = torch.Generator().manual_seed(0)
    cover = torch.randint(1, 9, (count, 2, size, size), generator=random)
    stands = cover == BUILDING
    return {
        "image": torch.rand(count, 2, 3, size, size, generator=random) * 255,
        "mask": (stands[:, :1] != stands[:, 1:]).long(),
        "land_cover": cover,
    }


def test_building_is_the_class_of_the_towns() -> None:
    from rscd.synthetic.towns import LAND_COVER

    assert LAND_COVER["building"] == BUILDING


def test_unknown_cover_is_unknown_and_all_else_no_building() -> None:
    cover = torch.tensor([BUILDING, 3, IGNORE]).view(1, 1, 1, 3).expand(1, 2, 1, 3)
    given: Any = {"land_cover": cover}
    assert buildings_of(given)[0, 0, 0].tolist() == [1, 0, IGNORE]


def test_without_other_places_the_batch_is_itself() -> None:
    given = batch()
    assert with_other_places(given, 0.0, torch.Generator()) is given


def test_other_places_take_the_next_t2_and_its_truth() -> None:
    given = batch()
    mixed = with_other_places(given, 1.0, torch.Generator())
    torch.testing.assert_close(mixed["image"][:, 0], given["image"][:, 0])
    torch.testing.assert_close(mixed["image"][0, 1], given["image"][1, 1])
    torch.testing.assert_close(mixed["image"][2, 1], given["image"][0, 1])
    t1, t2 = given["land_cover"][0, 0] == BUILDING, given["land_cover"][1, 1] == BUILDING
    mask = mixed["mask"][0, 0]
    assert (mask[t1 ^ t2] == 1).all()
    assert (mask[t1 & t2] == IGNORE).all()
    assert (mask[~t1 & ~t2] == 0).all()


def test_loss_is_least_at_the_share_of_building_and_leaves_out_the_unknown() -> None:
    truth = torch.zeros(1, 2, 4, 4, dtype=torch.long)
    truth[..., :2, :2] = 1
    truth[0, 1, 3, 3] = IGNORE
    right = torch.full((1, 2, 2, 2), -20.0)
    right[..., 0, 0] = 20
    right[0, 1, 1, 1] = 20  # unknown: does not count
    assert buildings_loss(right, truth) < 1e-6
    assert buildings_loss(-right, truth) > 10


def test_losses_are_finite_and_reach_every_parameter() -> None:
    torch.manual_seed(0)
    method = BuildingChange(network_args=NETWORK, losses={"bce": 1, "dice": 1}, other_place=0.5)
    terms = method.losses({"train": batch()}, 0, 1)
    assert set(terms) == {"bce", "dice", "buildings"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_without_any_known_cover_buildings_cost_nothing() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = buildings_loss(logits, torch.full((1, 2, 8, 8), IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
