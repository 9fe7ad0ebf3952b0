"""KD-MSI's classifier against the reference arrays and its structural facts (section 2.2)."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.models.cam import COMBINATIONS
from rscd.models.networks import build_network
from tests.conftest import Golden

SMALL = {"encoder": "tu-test_resnet", "output_stride": 16}


def canonical(name: str) -> str:
    return name.removeprefix("model.")


def close(found: Tensor, expected: Tensor, what: str) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-6, err_msg=what)


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_forward_matches_the_reference_arrays(
    golden: Golden,
    fill_by_rule: Callable[..., nn.Module],
    pairs_of: Callable[..., Tensor],
    combination: str,
) -> None:
    files = golden.files("kdmsi/classifier_*.npz")
    assert files
    network = build_network("cam", {"combination": combination})
    for file in files:
        arrays = np.load(file)
        training = any(key.startswith("post_") for key in arrays)
        fill_by_rule(network, int(arrays["seed"]), canonical).train(training)
        with torch.no_grad():
            out = network(pairs_of(arrays))
        close(out["label_logit"], arrays[f"logits_{combination}"], file.name)
        close(out["cam"], arrays[f"features_{combination}"], file.name)
        state = network.state_dict()
        for key in arrays:
            if key.startswith("post_"):
                close(state[f"model.{key.removeprefix('post_')}"], arrays[key], f"{file} {key}")


@pytest.mark.golden
def test_parameter_names_and_order_are_the_published_ones(golden: Golden) -> None:
    files = golden.files("kdmsi/param_groups_classifier_*.npz")
    assert files
    for file in files:
        arrays = np.load(file)
        combination, batch_norm = file.stem.removeprefix("param_groups_classifier_").split("_")[:2]
        network = build_network("cam", {"combination": combination, "batch_norm": batch_norm})
        found = {name: p.numel() for name, p in network.named_parameters()}
        expected = dict(zip(arrays["param_names"].tolist(), arrays["numel"].tolist(), strict=True))
        assert found == expected, file.name
        for group in range(4):
            members = arrays["param_names"][arrays["group_index"] == group].tolist()
            assert members == [n for n in found if n in set(members)], "order within a group"


def test_minus_changes_its_sign_with_the_dates_and_abs_does_not() -> None:
    image = torch.rand(2, 2, 3, 64, 64) * 255
    for combination, sign in {"minus": -1, "abs": 1}.items():
        network = build_network("cam", SMALL | {"combination": combination}).eval()
        with torch.inference_mode():
            torch.testing.assert_close(network(image)["cam"], sign * network(image.flip(1))["cam"])


def test_linear_combinations_cannot_call_both_directions_change() -> None:
    """G(a,b) + G(b,a) = G(a,a) + G(b,b): where nothing scores below 0, one direction does too."""
    first, second = torch.rand(2, 2, 3, 64, 64) * 255
    for combination, linear in {"minus": True, "cat": True, "abs": False}.items():
        network = build_network("cam", SMALL | {"combination": combination}).eval()
        with torch.inference_mode():
            seen = {
                name: network(torch.stack(dates, 1))["cam"]
                for name, dates in {
                    "ab": (first, second), "ba": (second, first),
                    "aa": (first, first), "bb": (second, second),
                }.items()
            }  # fmt: skip
        both, none = seen["ab"] + seen["ba"], seen["aa"] + seen["bb"]
        assert torch.allclose(both, none, atol=1e-4 * float(seen["ab"].abs().max())) == linear


def test_equal_dates_give_exactly_one_half() -> None:
    same = torch.rand(1, 1, 3, 64, 64).expand(1, 2, 3, 64, 64) * 255
    for combination, floor in {"minus": True, "abs": True, "cat": False}.items():
        network = build_network("cam", SMALL | {"combination": combination}).eval()
        with torch.inference_mode():
            out = network(same)
        assert bool((out["cam"] == 0).all()) is floor, combination
        assert bool((out["logits"].sigmoid() == 0.5).all()) is floor


def test_label_is_the_mean_of_the_map() -> None:
    network = build_network("cam", SMALL)
    out = network(torch.rand(3, 2, 3, 64, 96) * 255)
    assert out["cam"].shape == (3, 1, 4, 6)
    torch.testing.assert_close(out["label_logit"], out["cam"].mean((2, 3)))


def test_normal_batch_norm_sees_t2_first_and_one_date_at_a_time() -> None:
    network: Any = build_network("cam", SMALL)
    image = torch.rand(2, 2, 3, 64, 64) * 255
    by_hand = copy.deepcopy(network)
    with torch.no_grad():
        network(image)
        raw = by_hand.normalize(image)
        by_hand.model(raw[:, 1])
        by_hand.model(raw[:, 0])
    for (name, found), expected in zip(
        network.state_dict().items(), by_hand.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected), name
    assert network.model.model.bn1.num_batches_tracked == 2


def test_fixed_batch_norm_trains_as_it_evaluates() -> None:
    network = build_network("cam", SMALL | {"batch_norm": "fix"}).train()
    image = torch.rand(1, 2, 3, 64, 64) * 255
    with torch.no_grad():
        torch.testing.assert_close(network(image)["cam"], network.eval()(image)["cam"])


def test_fewer_stages_give_finer_maps() -> None:
    for depth, side in ((5, 4), (4, 4), (3, 8)):
        network = build_network("cam", SMALL | {"depth": depth})
        assert network(torch.rand(2, 2, 3, 64, 64) * 255)["cam"].shape == (2, 1, side, side)
        assert network.multiple == 64 // side


def test_unknown_combination_is_refused() -> None:
    with pytest.raises(ModelError, match="expected combination cat, minus, abs"):
        build_network("cam", SMALL | {"combination": "plus"})
    with pytest.raises(ModelError, match="batch_norm normal, fix"):
        build_network("cam", SMALL | {"batch_norm": "none"})
