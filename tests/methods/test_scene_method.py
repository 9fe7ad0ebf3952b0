"""The scene branch: which loss moves what, collapse, and what it learns."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rscd.base.errors import UsageError
from rscd.base.types import Batch
from rscd.methods import scene as scene_module
from rscd.methods.parts.alikeness import dissimilarity
from rscd.methods.parts.edges import canny_edges
from rscd.methods.registry import METHODS
from rscd.methods.scene import WATCH_STEPS, ChangeWatch, Scene, ScenePretrain
from rscd.models.flow import warp

SMALL: dict[str, Any] = {"network": "scene-compact", "network_args": {"low_size": 64}}
LABELLED = {"student_flow", "student_change", "teacher_flow", "teacher_change"}
UNSUPERVISED = {"feature", "regular", "smooth"}
DISTILLED = {"distill_flow", "distill_change"}


def wake(module: nn.Module) -> None:
    """Flow heads begin at zero and would pass no gradient on."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)


def method(**more: Any) -> Scene:
    torch.manual_seed(0)
    built = Scene(**{**SMALL, **more})
    wake(built.network)
    if built.teacher is not None:
        built.teacher.load_state_dict(built.network.decoder.state_dict())
    built.train()
    return built


def pairs(seed: int = 0, n: int = 2, size: int = 64) -> Batch:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, size // 8, size // 8, generator=random) * 255
    t1 = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    flow = torch.zeros(n, 2, size, size)
    flow[:, 0] = 3
    t2 = warp(t1, flow)
    mask = torch.zeros(n, 1, size, size, dtype=torch.long)
    mask[..., 16:40, 24:48] = 1
    t2 = torch.where(mask == 1, 255 - t2, t2)
    return {
        "image": torch.stack([t1, t2], 1),
        "mask": mask,
        "flow": flow,
        "valid": torch.ones(n, 1, size, size, dtype=torch.bool),
    }


def batches() -> dict[str, Batch]:
    return {"train": pairs(0), "target": {"image": pairs(1)["image"]}}


def reached(built: Scene, terms: set[str]) -> dict[str, bool]:
    """Which parts some of the terms give a gradient."""
    built.zero_grad()
    found = built.losses(batches(), 0, 10)
    torch.stack([found[name] for name in terms]).sum().backward()
    assert built.teacher is not None

    def any_gradient(module: nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())

    parts = {
        "encoder": built.network.encoder,
        "student": built.network.decoder,
        "teacher_flow_4": built.teacher.start,
        **{f"teacher_flow_{3 - i}": head for i, head in enumerate(built.teacher.flow_heads)},
        "teacher_change": built.teacher.change_heads,
    }
    return {name: any_gradient(part) for name, part in parts.items()}


TEACHER = {"teacher_flow_4", "teacher_flow_3", "teacher_flow_2", "teacher_flow_1", "teacher_change"}
WARPED = TEACHER - {"teacher_flow_1"}
"""By way of warped features; change does not look at the flow of level 1."""

TABLE = [
    ({"student_flow", "student_change"}, {"encoder", "student"}),
    (DISTILLED, {"encoder", "student"}),
    ({"teacher_flow", "teacher_change"}, TEACHER),
    ({"feature"}, TEACHER),
    ({"regular"}, WARPED),
    ({"smooth"}, WARPED),
]


@pytest.mark.parametrize(("terms", "parts"), TABLE, ids=lambda x: "+".join(sorted(x)))
def test_which_loss_moves_what(terms: set[str], parts: set[str]) -> None:
    found = reached(method(), terms)
    assert {name for name, moved in found.items() if moved} == parts


@pytest.mark.parametrize(
    ("option", "supervised", "unsupervised"),
    [("none", False, False), ("sup", True, False), ("all", True, True)],
)
def test_what_of_the_teacher_reaches_the_encoder(
    option: str, supervised: bool, unsupervised: bool
) -> None:
    built = method(teacher_grad_to_encoder=option)
    assert reached(built, {"teacher_flow", "teacher_change"})["encoder"] is supervised
    assert reached(built, UNSUPERVISED)["encoder"] is unsupervised


def test_features_as_such_learn_nothing_from_their_similarity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With flow cut off nothing is left, even where everything may reach the encoder."""
    built = method(teacher_grad_to_encoder="all")

    seen: list[Tensor] = []

    def note(similarity: Tensor, valid: Tensor) -> Tensor:
        found = dissimilarity(similarity, valid)
        seen.append(found)
        return found

    monkeypatch.setattr(scene_module, "dissimilarity", note)
    assert built.teacher is not None
    for head in built.teacher.flow_heads:
        head.requires_grad_(False)
        for parameter in head.parameters():
            parameter.zero_()
    for parameter in built.teacher.start.parameters():
        parameter.requires_grad_(False).zero_()
    built.losses(batches(), 0, 10)
    gradients = torch.autograd.grad(
        seen[0].sum(), list(built.network.encoder.parameters()), allow_unused=True
    )
    assert all(g is None or not g.any() for g in gradients)


def test_teacher_and_student_start_equal_and_part() -> None:
    built = method()
    assert built.teacher is not None
    image = pairs(3)["image"]

    def both() -> tuple[Tensor, Tensor]:
        built.eval()
        with torch.inference_mode():
            teacher = built.teacher_network().eval()(image)["logits"]
            return built.predict(image), teacher.sigmoid()

    student, teacher = both()
    torch.testing.assert_close(student, teacher)
    built.train()
    optimizer = torch.optim.AdamW(built.parameter_groups(1e-3)[0]["params"], lr=1e-3)
    for part in built.loss_parts(batches(), 0, 10):
        torch.stack(list(part.values())).sum().backward()
    optimizer.step()
    student, teacher = both()
    assert not torch.allclose(student, teacher)
    assert built.teacher_network().encoder is built.network.encoder
    ids = [id(p) for group in built.parameter_groups(1.0) for p in group["params"]]
    assert len(ids) == len(set(ids))


def test_parts_share_no_graph_and_sum_to_the_whole() -> None:
    built = method()
    whole = built.losses(batches(), 0, 10)
    assert whole.keys() == LABELLED | UNSUPERVISED | DISTILLED
    assert all(torch.isfinite(value) for value in whole.values())
    for part in built.loss_parts(batches(), 0, 10):
        torch.stack(list(part.values())).sum().backward()  # each graph is freed
    assert all(p.grad is not None for p in built.parameters() if p.requires_grad)


def test_equal_seeds_give_equal_losses() -> None:
    found = []
    for _ in range(2):
        built = method()
        torch.manual_seed(7)
        found.append(built.losses(batches(), 0, 10))
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"unsup_weight": 0.0, "distill_weight": 0.0}, UNSUPERVISED | DISTILLED),
        ({"unsup_weight": 0.0}, UNSUPERVISED),
        ({"distill_weight": 0.0}, DISTILLED),
        ({"lambda1": 0.0}, {"regular"}),
        ({"lambda2": 0.0}, {"smooth"}),
        ({"separate_decoders": False}, {"teacher_flow", "teacher_change"}),
    ],
)
def test_terms_can_be_left_out(options: dict[str, Any], missing: set[str]) -> None:
    built = method(**options)
    found = built.losses(batches(), 0, 10)
    assert (LABELLED | UNSUPERVISED | DISTILLED) - found.keys() == missing


@pytest.mark.parametrize(
    "options",
    [
        {"distill_change": "soft"},
        {"sim_order": "features"},
        {"sm_axes": "max"},
        {"sm_squeeze": 0.0},
        {"mask_invalid": False},
        {"mask_flow_loss": True},
        {"photometric": {}},
        {"network_args": {"low_size": 64, "n_classes": 2}},
    ],
)
def test_every_option_trains(options: dict[str, Any]) -> None:
    found = method(**options).losses(batches(), 0, 10)
    assert all(torch.isfinite(value) for value in found.values())


def test_both_kinds_of_flow_loss_have_the_weight_that_was_asked_for() -> None:
    mean, total = (
        method(epe_reduction=kind).losses(batches(), 0, 10) for kind in ("mean", "sum_per_batch")
    )
    for name in ("student_flow", "teacher_flow", "distill_flow"):
        assert total[name] > 10 * mean[name] > 0


def test_the_squeeze_reaches_the_smoothness() -> None:
    little, much = (
        method(sm_squeeze=squeeze).losses(batches(), 0, 10)["smooth"] for squeeze in (0.01, 0.2)
    )
    assert much > 1.2 * little


def test_pairs_without_flow_count_for_change_only() -> None:
    built = method(use_flow=True)
    given = batches()
    assert "use_flow" in built.needs["train"]
    given["train"] = {**given["train"], "use_flow": torch.zeros(2)}  # type: ignore[typeddict-unknown-key]
    found = built.losses(given, 0, 10)
    assert float(found["student_flow"].detach()) == 0
    assert float(found["student_change"].detach()) > 0


def test_what_it_may_see() -> None:
    assert METHODS["scene"] is Scene
    assert METHODS["scene-pretrain"] is ScenePretrain
    assert method().needs == {
        "train": {"image", "mask", "flow"},
        "target": {"image"},
    }
    assert ScenePretrain(**SMALL, mask_flow_loss=True).needs == {
        "train": {"image", "mask", "flow", "valid"}
    }


def test_a_frozen_encoder_stays() -> None:
    built = ScenePretrain(**SMALL, freeze_encoder=True).train()
    wake(built.network.decoder)
    assert not built.network.encoder.training
    before = copy.deepcopy(built.network.encoder.state_dict())
    optimizer = torch.optim.AdamW(built.parameter_groups(1e-3)[0]["params"], lr=1e-3)
    torch.stack(list(built.losses(batches(), 0, 10).values())).sum().backward()
    optimizer.step()
    for name, value in built.network.encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_flow_is_predicted_in_pixels() -> None:
    built = method().eval()
    with torch.inference_mode():
        assert built.predict_flow(pairs()["image"]).shape == (2, 2, 64, 64)
        assert built.predict(pairs()["image"]).shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    ("level", "word", "cure"), [(9.0, "everything", "raise"), (-9.0, "nothing", "lower")]
)
def test_collapse_is_explained_once(
    level: float, word: str, cure: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch = ChangeWatch()
    with caplog.at_level(logging.WARNING, "rscd"):
        for _ in range(3 * WATCH_STEPS):
            watch.see(torch.full((1, 1, 4, 4), level))
    assert watch.share == pytest.approx(float(torch.tensor(level).sigmoid()), rel=1e-3)
    assert len(caplog.records) == 1
    assert word in caplog.text
    assert f"{cure} lambda1" in caplog.text


def test_a_healthy_run_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    watch = ChangeWatch()
    for _ in range(2 * WATCH_STEPS):
        watch.see(torch.full((1, 1, 4, 4), -2.0))
    assert not caplog.records


def test_edges_are_where_gray_values_jump() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 10_000
    edge = canny_edges(image, (0.0, 10_000.0))
    assert edge.shape == (1, 1, 32, 32)
    assert set(edge.unique().tolist()) == {0.0, 1.0}
    columns = edge.sum((0, 1, 2)).nonzero().flatten().tolist()
    assert columns
    assert set(columns) <= {14, 15, 16, 17}
    assert not canny_edges(image[:, :, :, :8], (0.0, 10_000.0)).any()
    other = canny_edges(image[:, :1].expand(1, 5, 32, 32), (0.0, 10_000.0))
    assert torch.equal(other, edge)


@pytest.mark.parametrize(("factor", "black"), [(1.0, -400.0), (1.0, 1000.0), (40.0, 5000.0)])
def test_edges_depend_on_values_within_their_range_alone(factor: float, black: float) -> None:
    image = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 1.0
    edge = canny_edges(image, (0.0, 255.0))
    assert edge.any()
    # sums of rounded products may round to the next grey value, so very few pixels may differ
    other = canny_edges(image * factor + black, (black, 255 * factor + black))
    assert (other != edge).float().mean() < 0.01


def test_unusable_arguments_are_user_errors() -> None:
    with pytest.raises(
        UsageError, match=r"network with flow \(simsac, scene-compact\), found tiny"
    ):
        Scene(network="tiny")
    with pytest.raises(UsageError, match="teacher_grad_to_encoder: expected one of none, sup, all"):
        Scene(**SMALL, teacher_grad_to_encoder="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="epe_reduction"):
        ScenePretrain(**SMALL, epe_reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"sm_squeeze from 0 to below 0\.5, found 0\.5"):
        Scene(**SMALL, sm_squeeze=0.5)
    for name in ("distill_change", "sim_order", "sm_axes"):
        wrong: dict[str, Any] = {name: "maps"}
        with pytest.raises(UsageError, match=f"{name}: expected one of"):
            Scene(**SMALL, **wrong)
