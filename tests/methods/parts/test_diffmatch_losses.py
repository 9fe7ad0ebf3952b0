"""The terms of DiffMatch's loss against the reference arrays, by hand, and at their edges."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rscd.base.errors import UsageError
from rscd.methods.parts.diffmatch_losses import (
    balanced_contrastive,
    consistency,
    contrastive_map,
    cross_entropy,
    cross_entropy_map,
    gated,
    guidance_terms,
    guidance_weight,
    labeled_terms,
    pseudo_labels,
    strong_terms,
)
from rscd.methods.parts.diffmatch_recipe import FIXMATCH, VARIANTS, Recipe, recipe_of
from rscd.methods.parts.schedules import poly_lagged
from tests.conftest import Golden


def files(golden: Golden, group: str) -> list[Any]:
    found = golden.files(f"diffmatch/{group}*.npz")
    assert found
    return [np.load(path) for path in found]


def cases(arrays: Any) -> Iterator[dict[str, Tensor]]:
    """The arrays of each numbered case as tensors."""
    numbers = sorted({int(key[1:].partition("_")[0]) for key in arrays if key[1].isdigit()})
    for number in numbers:
        start = f"c{number}_"
        yield {
            key.removeprefix(start): torch.from_numpy(np.asarray(arrays[key]))
            for key in arrays
            if key.startswith(start)
        }


def close(found: Tensor, expected: Tensor, message: str = "") -> None:
    # a mean over nothing is 0 here and not a number there
    expected = torch.nan_to_num(expected.float())
    torch.testing.assert_close(
        found.detach().float(), expected, rtol=1e-4, atol=1e-5, msg=lambda m: message + m
    )


@pytest.mark.golden
def test_contrastive_loss_matches_the_reference_arrays(golden: Golden) -> None:
    for arrays in files(golden, "bcl_loss"):
        margin, eps = float(arrays["margin"]), float(arrays["eps"])
        plain = {k: arrays[k] for k in arrays if k.startswith("c")}
        for case in cases(plain):
            distance = case["dist"].requires_grad_()
            loss = balanced_contrastive(distance, case["target"], margin, eps=eps)
            loss.backward()
            close(contrastive_map(distance, case["target"], margin), case["none"])
            close(loss, case["mean"])
            assert distance.grad is not None
            close(distance.grad, case["grad_mean"])
        for key in arrays:
            if key.endswith("_none") and key.startswith("m"):
                distance, target = (torch.from_numpy(arrays[f"m_{k}"]) for k in ("dist", "target"))
                margin = float(key[1:].removesuffix("_none"))
                close(contrastive_map(distance, target, margin), torch.from_numpy(arrays[key]))
                mean = torch.from_numpy(arrays[key.replace("none", "mean")])
                close(balanced_contrastive(distance, target, margin, eps=eps), mean)


@pytest.mark.golden
def test_gating_matches_the_reference_arrays(golden: Golden) -> None:
    for arrays in files(golden, "confidence_weighted_loss"):
        for case in cases(arrays):
            valid = case["ignore_mask"] != 255
            for mode in ("pixelwise", "pixelratio"):  # the third mode is no average
                found = gated(case["loss"], case["conf"], valid, float(case["thresh"]), mode)
                close(found, case[mode], mode)


@pytest.mark.golden
def test_guidance_matches_the_reference_arrays(golden: Golden) -> None:
    for arrays in files(golden, "vl_guidance_loss"):
        for case in cases(arrays):
            valid = case["ignore_mask"] != 255
            for reduction in ("mean", "mean_valid", "mean_all"):
                found = cross_entropy(case["logits"], case["target"], reduction, valid)
                close(found, case[reduction], reduction)


def view_of(case: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    keys = {"label": "mask", "pseudo": "pseudo", "conf": "confidence", "vl_change": "vl_change"}
    keys |= {"vl_seg1": "vl_t1", "vl_seg2": "vl_t2"}
    view = {
        new: case[f"{name}_{old}"][:, None] for old, new in keys.items() if f"{name}_{old}" in case
    }
    if f"{name}_ignore" in case:
        view["valid"] = (case[f"{name}_ignore"] != 255)[:, None]
    return view


def outputs_of(case: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    keys = {"logits_cr": "logits", "logits_vl": "vl_logits", "dist": "distance"}
    keys |= {"logits_seg1": "sem_t1", "logits_seg2": "sem_t2"}
    return {new: case[f"{name}_{old}"] for old, new in keys.items() if f"{name}_{old}" in case}


@pytest.mark.golden
def test_total_loss_matches_the_reference_arrays(golden: Golden) -> None:
    for arrays in files(golden, "total_loss"):
        for case in cases(arrays):
            recipe = Recipe(lambda_c=float(case["lambda_c"]))
            step, total = int(case["iter"]), int(case["total_iters"])
            now = guidance_weight(step, total, recipe.lambda_vl)
            assert now == pytest.approx(float(case["lambda_vl_now"]), rel=1e-9)
            terms = labeled_terms(outputs_of(case, "x"), view_of(case, "x"), recipe, now)
            terms |= guidance_terms(
                outputs_of(case, "w"), view_of(case, "w"), recipe, now, "w", recipe.vl_reduction
            )
            terms |= strong_terms(outputs_of(case, "s"), view_of(case, "s"), recipe, now)
            expected = {
                "sup": case["out_sup"] / 2,
                "consistency_s": case["out_consistency"] / 2,
                "con_x": recipe.lambda_c / 2 * case["out_con_x"],
                "con_s": recipe.lambda_c / 2 * case["out_con_s"],
            }
            for view in "xws":
                dates = case[f"out_seg1_{view}"] + case[f"out_seg2_{view}"]
                expected[f"vl_{view}"] = now / 6 * case[f"out_vl_{view}"]
                expected[f"seg_{view}"] = now / 12 * dates
            if not recipe.lambda_c:
                del expected["con_x"], expected["con_s"]
            assert terms.keys() == expected.keys()
            for name, value in expected.items():
                close(terms[name], value, name)
            close(torch.stack(list(terms.values())).sum(), case["out_total"])


@pytest.mark.golden
def test_schedules_match_the_reference_arrays(golden: Golden) -> None:
    for arrays in files(golden, "schedules"):
        for case in cases(arrays):
            total, warmup = int(case["total_iters"]), int(case["warmup_iters"])
            base = float(case["base_lr"])
            rates = [base * poly_lagged(step, total, warmup=warmup) for step in range(total)]
            heads = [float(case["head_mult"]) * rate for rate in rates]
            found = np.stack([rates, heads], axis=1)
            np.testing.assert_allclose(found, case["lr_used"].numpy(), rtol=1e-9)
            weights = [guidance_weight(step, total, 0.1) for step in range(total)]
            np.testing.assert_allclose(weights, case["lambda_vl"].numpy(), rtol=1e-9)


def test_worked_examples() -> None:
    loss, conf = torch.tensor([[[1.0, 2], [3, 4]]]), torch.tensor([[[0.96, 0.94], [0.95, 0.99]]])
    valid = torch.tensor([[[True, True], [True, False]]])
    assert float(gated(loss, conf, valid, 0.95)) == pytest.approx(4 / 3)
    assert float(gated(loss, conf, valid, 0.95, "pixelratio")) == pytest.approx(20 / 9)

    logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 255, 255]]])
    valid = torch.tensor([[[True, True, True, False]]])
    expected = {"mean": math.log(2), "mean_all": math.log(2) / 2, "mean_valid": 2 * math.log(2) / 3}
    for reduction, value in expected.items():
        assert float(cross_entropy(logits, target, reduction, valid)) == pytest.approx(value)

    distance, target = torch.tensor([[[0.5, 1, 3, 1.5]]]), torch.tensor([[[0, 0, 1, 1]]])
    assert contrastive_map(distance, target, 2.0).flatten().tolist() == [0.25, 1, 0, 0.25]
    assert float(balanced_contrastive(distance, target, 2.0)) == pytest.approx(0.749963, abs=1e-6)
    assert contrastive_map(distance, target, 2.0, power=1).flatten().tolist() == [0.5, 1, 0, 0.5]

    assert [round(0.02 * poly_lagged(t, 100), 7) for t in (0, 1, 2)] == [0.02, 0.02, 0.0198199]
    assert [guidance_weight(t, 100, 0.1) for t in (0, 50, 99)] == pytest.approx([0.1, 0.05, 0.001])


def test_pseudo_labels_carry_no_gradient_and_ties_go_to_no_change() -> None:
    logits = torch.tensor([[[[0.0, 3.0]], [[0.0, -1.0]]]], requires_grad=True)
    label, confidence = pseudo_labels(logits)
    assert label.tolist() == [[[0, 0]]]
    assert confidence[0, 0, 0] == 0.5
    assert not confidence.requires_grad


def random_view(
    seed: int, n: int = 2, ignored: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def labels(high: int) -> Tensor:
        values = torch.randint(0, high, (n, 1, 5, 4), generator=generator)
        return torch.full_like(values, 255) if ignored else torch.where(values > 1, 255, values)

    outputs = {
        name: torch.randn(n, 2, 5, 4, generator=generator).requires_grad_()
        for name in ("logits", "vl_logits", "sem_t1", "sem_t2")
    }
    outputs["distance"] = (torch.rand(n, 5, 4, generator=generator) * 3).requires_grad_()
    view = {key: labels(3) for key in ("mask", "vl_change", "vl_t1", "vl_t2")}
    view["pseudo"] = torch.randint(0, 2, (n, 1, 5, 4), generator=generator)
    view["confidence"] = torch.rand(n, 1, 5, 4, generator=generator) / 10 + 0.9
    view["valid"] = torch.zeros(n, 1, 5, 4, dtype=torch.bool) if ignored else view["mask"] != 255
    return outputs, view


RECIPES = {
    **VARIANTS,
    "balanced": Recipe(balance_unlabeled=True, power=1),
    "valid": Recipe(vl_reduction="mean_valid", gate="pixelratio"),
    "mean": Recipe(vl_reduction="mean", vl_on_labeled=False),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("n", [1, 3])
def test_a_batch_in_which_all_is_ignored_gives_finite_zero(recipe: Recipe, n: int) -> None:
    outputs, view = random_view(0, n, ignored=True)
    terms = labeled_terms(outputs, view, recipe, 0.1) | strong_terms(outputs, view, recipe, 0.1)
    assert all(value.item() == 0 for value in terms.values()), terms
    torch.stack(list(terms.values())).sum().backward()
    gradients = [value.grad for value in outputs.values() if value.grad is not None]
    assert gradients
    assert all(not gradient.any() for gradient in gradients)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_values_at_ignored_pixels_change_nothing(seed: int) -> None:
    outputs, view = random_view(seed)
    target = view["mask"][:, 0]
    other, _ = random_view(seed + 1)
    hidden = target == 255
    for function, key in (
        (cross_entropy, "logits"),
        (lambda d, y: balanced_contrastive(d, y, 2.0), "distance"),
    ):
        where = hidden[:, None] if key == "logits" else hidden
        mixed = torch.where(where, other[key], outputs[key])
        assert torch.equal(function(outputs[key], target), function(mixed, target))
    assert not cross_entropy_map(outputs["logits"], target)[hidden].any()


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_reductions_are_ordered_and_nothing_confident_costs_nothing(seed: int) -> None:
    outputs, view = random_view(seed)
    target, valid = view["vl_change"][:, 0], view["valid"][:, 0]
    target = torch.where(valid, target, 255)
    found = [
        cross_entropy(outputs["logits"], target, reduction, valid).item()
        for reduction in ("mean_all", "mean_valid", "mean")
    ]
    assert found == sorted(found)
    assert (
        float(consistency(outputs["logits"].detach(), view, replace(FIXMATCH, conf_thresh=1.1)))
        == 0
    )


@given(st.integers(0, 1000), st.floats(0.5, 1), st.floats(0.5, 1))
@settings(max_examples=20, deadline=None)
def test_pseudo_labels_of_change_may_have_a_threshold_of_their_own(
    seed: int, thresh: float, thresh_change: float
) -> None:
    """The loss is that of the pixels of either label, each at its own threshold."""
    outputs, view = random_view(seed)
    apart = replace(Recipe(), conf_thresh=thresh, conf_thresh_change=thresh_change)
    parts = []
    for label, at in ((0, thresh), (1, thresh_change)):
        here = view["pseudo"] == label
        # what has the other label is never sure enough
        seen = {**view, "confidence": torch.where(here, view["confidence"], -1.0)}
        parts.append(consistency(outputs["logits"], seen, replace(FIXMATCH, conf_thresh=at)))
    torch.testing.assert_close(consistency(outputs["logits"], view, apart), parts[0] + parts[1])
    same = replace(Recipe(), conf_thresh=thresh, conf_thresh_change=thresh)
    one = replace(Recipe(), conf_thresh=thresh)
    found, expected = (strong_terms(outputs, view, recipe, 0.1) for recipe in (same, one))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_variants_are_what_the_ablation_names() -> None:
    assert VARIANTS["diffmatch"] == Recipe()
    assert VARIANTS["diffmatch-rescaled"] == Recipe(lambda_c=Recipe().lambda_c / 4)
    assert VARIANTS["supervised"].layers == VARIANTS["fixmatch"].layers == frozenset()
    assert VARIANTS["guided"].layers == VARIANTS["dual-contrast"].layers == {"vl_change"}
    assert VARIANTS["decoupled"].layers == {"vl_change", "vl_t1", "vl_t2"}
    outputs, view = random_view(0)
    names = {
        name: labeled_terms(outputs, view, recipe, 0.1).keys()
        | (strong_terms(outputs, view, recipe, 0.1).keys() if recipe.unlabeled else set())
        for name, recipe in VARIANTS.items()
    }
    fixmatch = {"sup", "consistency_s"}
    assert names == {
        "supervised": {"sup"},
        "fixmatch": fixmatch,
        "unimatch": fixmatch,
        "guided": fixmatch | {"vl_x", "vl_s"},
        "dual": fixmatch | {"vl_x", "vl_s"},
        "dual-contrast": fixmatch | {"vl_x", "vl_s", "con_x", "con_s"},
        "decoupled": fixmatch | {"vl_x", "vl_s", "seg_x", "seg_s"},
        **dict.fromkeys(
            ["diffmatch", "diffmatch-rescaled"],
            fixmatch | {"vl_x", "vl_s", "seg_x", "seg_s", "con_x", "con_s"},
        ),
    }


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("mixmatch", {}, "a variant among supervised"),
        ("diffmatch", {"lambda": 1}, "found lambda"),
        ("diffmatch", {"distance": "rows"}, "'channel' or 'legacy_last_axis' for distance"),
        ("diffmatch", {"gate": "pixelavg"}, "'pixelwise' or 'pixelratio' for gate"),
        ("diffmatch", {"strong_views": 0}, "strong_views of 1 or more"),
        ("diffmatch", {"conf_thresh_change": 1.5}, "conf_thresh_change from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    variant: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_of(variant, changes)
