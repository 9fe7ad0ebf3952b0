"""Losses of the scene branch: reference arrays and numbers checked by hand."""

from collections.abc import Iterator
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rscd.methods.parts.alikeness import dissimilarity, in_view, similarity_levels
from rscd.methods.parts.scene_losses import (
    LEVEL_WEIGHTS,
    change_loss,
    change_regularisation,
    distill_change_targets,
    distill_flow_targets,
    edge_smoothness,
    end_point_error,
    feature_metric_loss,
    flow_loss,
    flow_targets,
    grids_of,
    mask_targets,
    soft_focal,
    unsupervised_terms,
    valid_targets,
)
from rscd.models.scene import Levels

LEVELS = ("l4", "l3", "l2", "l1")
LOW = (256, 256)


def cases(golden: Any, pattern: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    files = golden.files(f"scene/{pattern}")
    assert files
    for file in files:
        yield file.name, {k: torch.from_numpy(v) for k, v in np.load(file).items()}


def same(found: Tensor, expected: Tensor, what: str) -> None:
    atol, rtol = (1e-5, 1e-4) if expected.dtype != torch.float64 else (1e-8, 0.0)
    torch.testing.assert_close(found, expected, msg=lambda m: f"{what}: {m}", atol=atol, rtol=rtol)


@pytest.mark.golden
def test_supervised_losses_match_the_reference_arrays(golden: Any) -> None:
    for name, a in cases(golden, "loss_*.npz"):
        flows = [a[f"flow_pred_{level}"] for level in LEVELS]
        changes = [a[f"change_logits_{level}"] for level in LEVELS]
        grids = grids_of(flows)
        targets = flow_targets(a["flow_gt"], LOW, grids)
        valid = valid_targets(a["valid"][:, None].bool(), LOW, grids)
        weights = a["weights"].tolist()
        for reduction in ("mean", "sum_per_batch"):
            found = flow_loss(flows, targets, reduction, weights=weights)
            same(found, a[f"epe_{reduction}"], f"{name} {reduction}")
            masked = flow_loss(flows, targets, reduction, valid=valid, weights=weights)
            same(masked, a[f"epe_masked_{reduction}"], f"{name} masked {reduction}")
            each = [end_point_error(f, t, reduction) for f, t in zip(flows, targets, strict=True)]
            same(torch.stack(each), a[f"epe_level_{reduction}"], f"{name} levels {reduction}")
        gated = flow_loss(flows, targets, use_flow=a["use_flow"], weights=weights)
        same(gated, a["epe_use_flow_mean"], f"{name} gated")

        masks = mask_targets(a["change_gt"].long(), LOW, grids)
        same(change_loss(changes, masks, weights=weights), a["focal_total"], name)
        plain = change_loss(changes, masks, gamma=0.0, weights=weights)
        same(plain, a["focal_total_gamma0"], f"{name} gamma 0")
        levels = [change_loss([z], [y], weights=[1.0]) for z, y in zip(changes, masks, strict=True)]
        same(torch.stack(levels), a["focal_level"], f"{name} focal levels")


@pytest.mark.golden
def test_distillation_matches_the_reference_arrays(golden: Any) -> None:
    for name, a in cases(golden, "distill_*.npz"):
        probs = [a["teacher_change_prob_32"], a["teacher_change_prob_quarter"]]
        unused = torch.full((1,), float("nan"))
        teacher = Levels(
            flow=(unused, a["teacher_flow_32"], unused, a["teacher_flow_quarter"]),
            change=(unused[:, None], probs[0].logit(), unused[:, None], probs[1].logit()),
        )
        flows = [a[f"student_flow_{level}"] for level in LEVELS]
        changes = [a[f"student_change_logits_{level}"] for level in LEVELS]
        grids = grids_of(flows)
        l_v = flow_loss(flows, distill_flow_targets(teacher, grids))
        l_m = change_loss(changes, distill_change_targets(teacher, grids))
        same(l_v, a["l_V"], name)
        same(l_m, a["l_M"], name)
        same(l_v + l_m, a["total"], name)


@pytest.mark.golden
def test_unsupervised_losses_match_the_reference_arrays(golden: Any) -> None:
    for name, a in cases(golden, "unsup_*.npz"):
        t1 = [a[f"feat_ref_{level}"].requires_grad_() for level in (1, 2, 3, 4)]
        t2 = [a[f"feat_query_{level}"].requires_grad_() for level in (1, 2, 3, 4)]
        flow, logit = a["flow"].requires_grad_(), a["change_logit"].requires_grad_()
        size = tuple(a["image_size"].tolist())
        similar = similarity_levels(t1, t2, flow, size)
        valid = in_view(flow, size)
        dissimilar = dissimilarity(similar, valid)
        same(similar, a["sim_levels"], f"{name} levels")
        same(similar.prod(1, keepdim=True), a["similarity"], f"{name} product")
        assert torch.equal(valid, a["valid"]), name
        same(dissimilar, a["dissimilarity"], f"{name} dissimilarity")
        eps = float(a["sm_eps"])
        terms = {
            "feat": feature_metric_loss(dissimilar, logit, valid),
            "cr": change_regularisation(dissimilar, logit),
            "sm": edge_smoothness(dissimilar, logit, a["edge"], eps),
        }
        for term, value in terms.items():
            same(value, a[f"l_{term}"], f"{name} {term}")
            gradients = torch.autograd.grad(
                value, (flow, logit, *t1, *t2), retain_graph=True, allow_unused=True
            )
            for what, gradient in zip(("flow", "logit"), gradients, strict=False):
                expected = a[f"grad_{what}_{term}"]
                found = torch.zeros_like(expected) if gradient is None else gradient
                same(found, expected, f"{name} gradient of {term} to {what}")
            assert all(g is None for g in gradients[2:]), "features learn nothing from it"
        for key in a:
            if key.startswith("total_lambda1_"):
                weights = {"feature": 1.0, "regular": float(key.split("_")[-1]), "smooth": 1.0}
                parts = unsupervised_terms(
                    dissimilar, logit, valid, a["edge"], weights, squeeze=eps
                )
                same(torch.stack(list(parts.values())).sum(), a[key], f"{name} {key}")


def levels_of_520() -> list[Tensor]:
    return [torch.zeros(1, 2, side, side) for side in (16, 32, 65, 130)]


def test_an_error_of_3_and_4_everywhere() -> None:
    flows = levels_of_520()
    targets = [flow + torch.tensor([3.0, 4.0]).view(1, 2, 1, 1) for flow in flows]
    assert float(flow_loss(flows, targets, "mean")) == pytest.approx(5 * 0.43)
    found = float(flow_loss(flows, targets, "sum_per_batch"))
    assert found == pytest.approx(5 * (81.92 + 81.92 + 84.5 + 169), rel=1e-5)


def test_no_error_gives_no_gradient_and_no_nan() -> None:
    flows = [flow.requires_grad_() for flow in levels_of_520()]
    flow_loss(flows, [f.detach().clone() for f in flows]).backward()
    assert all(flow.grad is not None and not flow.grad.any() for flow in flows)


def test_targets_of_both_branches_have_their_units() -> None:
    flow = torch.tensor([26.0, -52.0]).view(1, 2, 1, 1).expand(1, 2, 520, 520)
    targets = flow_targets(flow, LOW, [(16, 16), (32, 32), (65, 65), (130, 130)])
    for target, expected in zip(
        targets, [(12.8, -25.6), (12.8, -25.6), (26, -52), (26, -52)], strict=True
    ):
        assert target[0, :, 5, 5].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("p", "level"), [(0.5, 0.25 * log(2)), (0.75, 0.0179801), (0.25, 0.7797906)]
)
def test_focal_numbers(p: float, level: float) -> None:
    margin = log(p / (1 - p))
    two = [torch.tensor([0.0, margin]).view(1, 2, 1, 1).expand(1, 2, n, n) for n in (2, 4, 2, 4)]
    targets = [torch.ones(1, 1, n, n, dtype=torch.long) for n in (2, 4, 2, 4)]
    total = float(change_loss(two, targets))
    assert total == pytest.approx(level * sum(LEVEL_WEIGHTS), rel=1e-5)
    if p == 0.5:
        assert total == pytest.approx(0.0745133, abs=1e-7)
    one = [z[:, 1:] for z in two]
    assert float(change_loss(one, targets)) == pytest.approx(total, rel=1e-6)
    soft = [t.float() for t in targets]
    assert float(change_loss(one, soft)) == pytest.approx(total, rel=1e-5)


def test_ignored_pixels_do_not_count() -> None:
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.long)
    mask[..., 32:] = 255
    grids = [(4, 4), (8, 8), (8, 8), (16, 16)]
    targets = mask_targets(mask, (64, 64), grids)
    assert set(targets[0].unique().tolist()) == {0, 255}
    logits = [torch.zeros(1, 1, *grid) for grid in grids]
    wild = [z.clone() for z in logits]
    for z, y in zip(wild, targets, strict=True):
        z[y == 255] = 100.0
    assert float(change_loss(wild, targets)) == pytest.approx(float(change_loss(logits, targets)))


def test_soft_targets_of_their_own_probability_still_cost_something() -> None:
    logit = torch.tensor([[[[0.3]]]])
    t, p = 0.8, float(logit.sigmoid())
    expected = -(t * (1 - p) ** 2 * log(p) + (1 - t) * p**2 * log(1 - p))
    assert float(soft_focal(logit, torch.tensor([[[[t]]]]))) == pytest.approx(expected)


def features(scale: float = 1.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [scale * torch.randn(1, 4, n, n, generator=random) for n in (16, 8, 4, 2)]


def test_equal_features_without_flow() -> None:
    flow, logit = torch.zeros(1, 2, 8, 8), torch.randn(1, 1, 8, 8)
    valid = in_view(flow, (32, 32))
    similar = similarity_levels(features(), features(2.0), flow, (32, 32))
    torch.testing.assert_close(similar, torch.ones_like(similar))
    dissimilar = dissimilarity(similar, valid)
    assert float(feature_metric_loss(dissimilar, logit, valid)) == pytest.approx(0, abs=1e-6)
    softplus = float(torch.nn.functional.softplus(logit).mean())
    assert float(change_regularisation(dissimilar, logit)) == pytest.approx(softplus, rel=1e-5)
    edge = torch.ones(1, 1, 32, 32)
    assert float(edge_smoothness(dissimilar, logit, edge)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("order", ["cosine", "features"])
def test_orthogonal_and_opposite_features(order: str) -> None:
    flow = torch.zeros(1, 2, 8, 8)
    sizes = (16, 8, 4, 2)
    a = [torch.tensor([1.0, 0]).view(1, 2, 1, 1).expand(1, 2, n, n) for n in sizes]
    b = [torch.tensor([0.0, 1]).view(1, 2, 1, 1).expand(1, 2, n, n) for n in sizes]
    found = similarity_levels(a, b, flow, (32, 32), order).prod(1)  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.full_like(found, 0.0625))
    opposite = [-a[0], *a[1:]]
    found = similarity_levels(a, opposite, flow, (32, 32), order).prod(1)  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.zeros_like(found))


def pixels(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def logits_of(*probs: float) -> Tensor:
    return torch.tensor(probs, dtype=torch.float64).logit().view(1, 1, 1, -1)


def test_feature_metric_of_two_pixels() -> None:
    dissimilar, valid = pixels(0.2, 0.8).double(), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    logit = logits_of(1e-12, 0.5).requires_grad_()
    loss = feature_metric_loss(dissimilar, logit, valid)
    assert loss.item() == pytest.approx(0.4, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, logit)
    slope = 0.5 * (1 - 0.5)  # of the sigmoid
    assert gradient[..., 1].item() / slope == pytest.approx((0.4 - 0.8) / 1.5, abs=1e-5)
    certain = feature_metric_loss(dissimilar, logits_of(1e-12, 1 - 1e-12), valid)
    assert float(certain) == pytest.approx(0.2, abs=1e-5)
    constant = feature_metric_loss(dissimilar, logits_of(0.3, 0.3), valid)
    assert float(constant) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("similar", "logit", "expected"),
    [
        (1.0, 0.0, 0.693147),
        (0.0625, 0.0, 0.0433217),
        (1.0, log(9), 2.302585),
        (1.0, 60.0, 60.0),
    ],
)
def test_change_regularisation_numbers(similar: float, logit: float, expected: float) -> None:
    z = pixels(logit).requires_grad_()
    loss = change_regularisation(pixels(1 - similar), z)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_smoothness_numbers() -> None:
    prob = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64).expand(1, 1, 2, 4)
    logit = (prob * 2 - 1) * 100  # 0 and 1 to the last bit
    ones = torch.ones(1, 1, 2, 4, dtype=torch.float64)

    def loss(column: int) -> float:
        edge = torch.zeros(1, 1, 2, 4)
        edge[..., column] = 1
        return float(edge_smoothness(ones, logit, edge, 0.01))

    x_term, y_term = 0.0100503, 1.1588303
    assert loss(1) == pytest.approx(x_term + y_term, abs=1e-6)
    assert loss(2) == pytest.approx(3.0734636 + y_term, abs=1e-6)


def test_the_larger_axis_alone() -> None:
    logit = (torch.tensor([0.0, 0, 1, 1]).expand(1, 1, 3, 4) * 2 - 1) * 100
    edge = torch.zeros(1, 1, 3, 4)
    edge[..., 1] = 1
    found = float(edge_smoothness(torch.ones(1, 1, 3, 4), logit, edge, 0.01, "max"))
    assert found == pytest.approx(0.0100503, abs=1e-6)


def test_nothing_in_view_costs_nothing() -> None:
    flow = torch.full((1, 2, 8, 8), 320.0).requires_grad_()
    logit = torch.zeros(1, 1, 8, 8).requires_grad_()
    valid = in_view(flow, (32, 32))
    assert not valid.any()
    dissimilar = dissimilarity(similarity_levels(features(), features(), flow, (32, 32)), valid)
    assert not dissimilar.any()
    loss = feature_metric_loss(dissimilar, logit, valid)
    loss.backward()
    assert loss.item() == 0
    assert flow.grad is not None
    assert logit.grad is not None
    assert torch.isfinite(flow.grad).all()
    assert torch.isfinite(logit.grad).all()


def test_terms_of_no_weight_are_left_out() -> None:
    d, z = torch.rand(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    valid = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    weights = {"feature": 1.0, "regular": 0.0, "smooth": 0.0}
    assert list(unsupervised_terms(d, z, valid, None, weights)) == ["feature"]


def test_teacher_targets_carry_no_gradient() -> None:
    flow = tuple(torch.randn(1, 2, n, n, requires_grad=True) for n in (4, 8, 4, 8))
    change = tuple(torch.randn(1, 1, n, n, requires_grad=True) for n in (4, 8, 4, 8))
    teacher = Levels(flow, change)
    grids = grids_of(flow)
    assert not any(x.requires_grad for x in distill_flow_targets(teacher, grids))
    soft = distill_change_targets(teacher, grids, "soft")
    hard = distill_change_targets(teacher, grids, "hard")
    assert not any(x.requires_grad for x in (*soft, *hard))
    assert torch.equal(hard[3], (change[3] >= 0).long())
    torch.testing.assert_close(soft[3], change[3].sigmoid().detach())


def test_mixed_precision_never_meets_an_entropy_of_probabilities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUDA refuses it in autocast, processors do not."""
    entropy = torch.nn.functional.binary_cross_entropy
    seen = []

    def spy(found: Tensor, wanted: Tensor, *, reduction: str) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.append([found.dtype, wanted.dtype])
        return entropy(found, wanted, reduction=reduction)

    monkeypatch.setattr("rscd.methods.parts.scene_losses.F.binary_cross_entropy", spy)
    logit = torch.randn(1, 1, 4, 4, requires_grad=True)
    edge = (torch.rand(1, 1, 8, 8) > 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = edge_smoothness(torch.ones(1, 1, 4, 4), (logit * 1).bfloat16(), edge)
    assert loss.dtype == torch.float32
    loss.backward()
    assert logit.grad is not None
    assert seen == [[torch.float32, torch.float32]] * 2
