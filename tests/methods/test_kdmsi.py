"""KD-MSI's first stage: losses, groups, steps and short trainings against the reference arrays."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rscd.base.errors import ModelError, UsageError
from rscd.base.types import Batch
from rscd.methods.kdmsi import KdMsi
from rscd.methods.parts.cam_losses import (
    activation_map,
    classification_loss,
    distillation_loss,
    distillation_target,
    gate,
)
from rscd.methods.parts.groups import RATES, transfer_groups
from rscd.methods.parts.schedules import poly
from rscd.methods.registry import METHODS
from rscd.methods.supervised import Supervised
from rscd.metrics.pixels import count, summarise
from rscd.models.cam import CamClassifier
from rscd.models.encoders import Backbone
from rscd.models.fusion import FUSIONS
from rscd.models.normalize import Normalize
from tests.conftest import Golden

SMALL = {"encoder": "tu-test_resnet", "output_stride": 16, "combination": "cat"}


def kdmsi(student: str = "cat", **args: Any) -> KdMsi:
    return KdMsi("cam", SMALL | {"combination": student}, **args)


ORACLE_GRID = [0.1 + 0.05 * k for k in range(18)]


def files(golden: Golden, group: str) -> list[tuple[str, Any]]:
    found = golden.files(f"kdmsi/{group}_*.npz")
    assert found
    return [(path.name, np.load(path)) for path in found]


def batch(n: int = 4, size: int = 64, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 2, 3, size, size, generator=generator) * 255
    label = torch.arange(n) % 2
    mask = torch.zeros(n, 1, size, size, dtype=torch.long)
    mask[:, :, : size // 2] = label[:, None, None, None]
    return {"image": image, "label": label, "mask": mask}


def summed(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.golden
def test_losses_and_gradients_match_the_reference_arrays(golden: Golden) -> None:
    for name, case in files(golden, "kd_loss"):
        teacher = torch.from_numpy(case["features_teacher"]).requires_grad_()
        student = torch.from_numpy(case["features_student"]).requires_grad_()
        label = torch.from_numpy(case["labels"])
        target = distillation_target(teacher, label)
        cls = classification_loss(teacher.mean((2, 3)), label)
        kd = distillation_loss(student, target)
        total = cls + 10 * kd
        total.backward()
        expected = {
            "cam": activation_map(teacher),
            "cam_target": target,
            "prob_student": student.sigmoid(),
            "loss_cls": cls,
            "loss_kd": kd,
            "loss_total": total,
            "grad_teacher": teacher.grad,
            "grad_student": student.grad,
        }
        for key, found in expected.items():
            assert found is not None
            np.testing.assert_allclose(
                found.detach().numpy(), case[key], rtol=1e-6, atol=1e-6, err_msg=f"{name} {key}"
            )


def test_worked_example() -> None:
    teacher = torch.tensor([[[[2.0, -1], [0.5, 1]]]])
    cam = activation_map(teacher)
    torch.testing.assert_close(
        cam[0, 0], torch.tensor([[0.99999, 0], [0.24999375, 0.4999925]]), atol=1e-6, rtol=0
    )
    for label, kd, cls in ((1, 0.140623, 0.428701), (0, 0.25, 1.053701)):
        target = distillation_target(teacher, torch.tensor([label]))
        assert float(distillation_loss(torch.zeros(1, 1, 2, 2), target)) == pytest.approx(
            kd, abs=1e-6
        )
        found = classification_loss(teacher.mean((2, 3)), torch.tensor([label]))
        assert float(found) == pytest.approx(cls, abs=1e-6)


@pytest.mark.parametrize(("peak", "expected"), [(2e-5, 1 / 3), (1e-4, 9 / 11), (1, 0.99998)])
def test_peak_of_the_map(peak: float, expected: float) -> None:
    assert float(activation_map(torch.full((1, 1, 1, 1), peak))) == pytest.approx(
        expected, abs=1e-5
    )
    for nothing in (-1.0, 0.0, 1e-5):
        assert not activation_map(torch.full((1, 1, 2, 2), nothing)).any()


def test_maps_of_a_batch_do_not_depend_on_each_other() -> None:
    maps = torch.randn(5, 1, 4, 6)
    alone = torch.cat([activation_map(m[None]) for m in maps])
    assert torch.equal(activation_map(maps), alone)


@pytest.mark.golden
def test_groups_are_the_published_ones(golden: Golden) -> None:
    for name, case in files(golden, "param_groups"):
        parameters = [
            (n, nn.Parameter(torch.zeros(int(k))))
            for n, k in zip(case["param_names"], case["numel"], strict=True)
        ]
        groups = transfer_groups(parameters, lambda n: n.startswith("model."), 1.0)
        place = {id(p): i for i, group in enumerate(groups) for p in group["params"]}
        found = [place[id(p)] for _, p in parameters]
        np.testing.assert_array_equal(found, case["group_index"], name)
        assert [len(g["params"]) for g in groups] == case["group_counts"].tolist()


def test_groups_of_the_detector() -> None:
    groups = METHODS["detector"]("siamese-deeplab", {"weights": None}).parameter_groups(0.007)
    assert [len(g["params"]) for g in groups] == [106, 53, 19, 10]


@pytest.mark.golden
def test_steps_match_the_reference_arrays(golden: Golden) -> None:
    for name, case in files(golden, "poly_sgd"):
        base, decay, total = (
            float(case["base_lr"]),
            float(case["weight_decay"]),
            int(case["max_step"]),
        )
        names = ("model.weight", "model.bias", "classifier.weight", "classifier.bias")
        parameters = [nn.Parameter(torch.from_numpy(p.copy())) for p in case["init_params"]]
        groups = transfer_groups(
            list(zip(names, parameters, strict=True)), lambda n: n.startswith("model."), base
        )
        optimizer = torch.optim.SGD(
            groups, lr=base, momentum=decay, weight_decay=decay, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(poly, total=total))
        for step, grads in enumerate(case["grads"]):
            used = [group["lr"] for group in optimizer.param_groups]
            np.testing.assert_allclose(used, case["lr_used"][step], rtol=1e-9, err_msg=name)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = torch.from_numpy(grad)
            optimizer.step()
            schedule.step()
            found = np.stack([p.detach().numpy() for p in parameters])
            np.testing.assert_allclose(found, case["params_after"][step], rtol=1e-5, atol=1e-6)
        for group, expected in zip(optimizer.param_groups, case["group_weight_decay"], strict=True):
            assert group["weight_decay"] == expected


def test_poly_by_hand() -> None:
    rates = {0: 1e-3, 1: 9.54885e-4, 10: 5.35887e-4, 19: 6.74642e-5, 25: 6.74642e-5}
    assert {t: 1e-3 * poly(t, 20) for t in rates} == pytest.approx(rates, rel=1e-5)


class Levels(nn.Module):
    """The tiny encoder of the reference trainings, as one level."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.add_module("0", nn.Conv2d(3, 4, 3, stride, 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image, torch.relu(self.get_submodule("0")(image))]


def half_range() -> Normalize:
    return Normalize([127.5] * 3, [127.5] * 3)


def tiny_classifier(combination: str) -> CamClassifier:
    backbone = Backbone(Levels(2), (3, 4), 2, any_size=True, statistics=((), ()))
    return CamClassifier(
        normalize=half_range(), backbone=backbone, combination=combination, batch_norm="normal"
    )


def fill(network: nn.Module, case: Any, prefix: str) -> None:
    state = {
        key.removeprefix(prefix): torch.from_numpy(case[key])
        for key in case
        if key.startswith(prefix)
    }
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"normalize.mean", "normalize.std"}


def pair_batch(case: Any) -> Tensor:
    both = np.stack([case["image_pre"], case["image_post"]], axis=1)
    return torch.from_numpy(both).permute(0, 1, 4, 2, 3).float()


def published_sgd(groups: list[dict[str, Any]], base: float, decay: float) -> Any:
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=base, momentum=decay, weight_decay=decay, nesterov=True)


def best_oracle(maps: Tensor, masks: NDArray[Any], labels: Tensor) -> tuple[float, float]:
    """Change IoU of nearest-resized maps over the thresholds of section 3.6, the first maximum."""
    resized = nn.functional.interpolate(maps, masks.shape[-2:], mode="nearest")[:, 0].numpy()
    gated = resized * labels.numpy()[:, None, None]
    scores = [
        summarise(count(gated > np.float32(t), masks), 1e-10)["iou_change"] for t in ORACLE_GRID
    ]
    best = int(np.argmax(scores))
    return ORACLE_GRID[best], scores[best]


@pytest.mark.golden
def test_short_joint_trainings_match_the_reference(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, case in files(golden, "train_kd"):
        for room in ("base", "kdmsi"):  # of the student, of the teacher
            monkeypatch.setattr(
                f"rscd.methods.{room}.build_network",
                lambda _, args: tiny_classifier(args["combination"]),
            )
        student = {"combination": str(case["combination_student"])}
        method = KdMsi("cam", student, str(case["combination_teacher"]))
        fill(method.teacher, case, "teacher_init_")
        fill(method.network, case, "student_init_")
        base, steps = float(case["base_lr"]), int(case["epochs"])
        optimizer = published_sgd(method.parameter_groups(base), base, float(case["weight_decay"]))
        label = torch.from_numpy(case["image_label"])
        train: dict[str, Batch] = {"train": {"image": pair_batch(case), "label": label}}
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(poly, total=steps))
        masks = (case["mask_uint8"] == 255).astype(np.uint8)
        best = -1.0
        for step in range(steps):
            terms = method.losses(train, step, steps)
            assert float(terms["cls"].detach()) == pytest.approx(
                case["loss_cls"][step], abs=1e-5
            ), name
            assert float(summed(terms).detach()) == pytest.approx(
                case["loss_total"][step], abs=1e-4
            )
            optimizer.zero_grad()
            summed(terms).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                maps = method.network.eval()(train["train"]["image"])["cam"].sigmoid()
            method.train()
            threshold, score = best_oracle(maps, masks, label)
            assert threshold == pytest.approx(case["best_threshold_per_epoch"][step])
            assert 100 * score == pytest.approx(case["best_cIoU_percent_per_epoch"][step], abs=1e-6)
            if score > best:
                best, saved = score, {k: v.clone() for k, v in method.network.state_dict().items()}
        finals = {
            "teacher_final_": method.teacher.state_dict(),
            "student_final_": method.network.state_dict(),
            "saved_": saved,
        }
        for prefix, state in finals.items():
            for key in (k for k in case if k.startswith(prefix)):
                np.testing.assert_allclose(
                    state[key.removeprefix(prefix)].numpy(), case[key], atol=2e-6, err_msg=key
                )


class TinyDetector(nn.Module):
    """The network of the reference detector trainings."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = half_range()
        self.model = Levels(1)
        self.decoder = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        t1, t2 = (self.model(self.normalize(image[:, i]))[-1] for i in (0, 1))
        return {"logits": self.decoder(FUSIONS["diff-reversed"](t1, t2))}


@pytest.mark.golden
def test_short_detector_trainings_match_the_reference(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rscd.methods.base.build_network", lambda *_: TinyDetector())
    for name, case in files(golden, "train_cd"):
        method = Supervised(losses={"ce": 1.0})
        fill(method.network, case, "init_")
        base, steps = float(case["base_lr"]), int(case["epochs"])
        optimizer = published_sgd(
            transfer_groups(
                method.network.named_parameters(), lambda n: n.startswith("model."), base
            ),
            base,
            float(case["weight_decay"]),
        )
        pseudo = torch.from_numpy((case["pseudo_uint8"] == 255).astype(np.int64))[:, None]
        train: dict[str, Batch] = {"train": {"image": pair_batch(case), "mask": pseudo}}
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(poly, total=steps))
        for step in range(steps):
            loss = method.losses(train, step, steps)["ce"]
            assert float(loss.detach()) == pytest.approx(case["loss"][step], abs=1e-5), name
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                guess = method.network(train["train"]["image"])["logits"].argmax(1).numpy()
            found = summarise(count(guess, (case["mask_uint8"] == 255).astype(np.uint8)), 1e-10)
            assert 100 * found["iou_change"] == pytest.approx(
                case["val_cIoU_percent"][step], abs=1e-6
            )
        for key in (k for k in case if k.startswith("final_")):
            np.testing.assert_allclose(
                method.network.state_dict()[key.removeprefix("final_")].numpy(),
                case[key],
                atol=2e-6,
                err_msg=key,
            )


def gradients(method: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def test_parts_one_after_the_other_give_the_gradients_of_the_sum() -> None:
    torch.manual_seed(0)
    method, streams = kdmsi(), {"train": batch()}
    state = copy.deepcopy(method.state_dict())
    summed(method.losses(streams, 0, 1)).backward()
    whole, after = gradients(method), method.state_dict()
    after = {k: v.clone() for k, v in after.items() if isinstance(v, torch.Tensor)}
    method.zero_grad()
    method.load_state_dict(state)
    names = []
    for part in method.loss_parts(streams, 0, 1):
        names += list(part)
        summed(part).backward()
    assert names == ["cls", "kd"]
    found = gradients(method)
    assert found.keys() == whole.keys() == dict(method.named_parameters()).keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert all(torch.equal(method.state_dict()[name], after[name]) for name in after)


def test_parts_hold_one_graph_at_a_time() -> None:
    """What is saved for going back: at no time more than the larger of both networks needs."""
    method, streams = kdmsi(), {"train": batch()}
    alive, peak = 0, 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, peak
            self.tensor = tensor
            alive += tensor.numel()
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.tensor.numel()

    def measured(parts: Callable[..., Any]) -> int:
        nonlocal alive, peak
        alive = peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            for part in parts():
                summed(part).backward()
                del part
        method.zero_grad()
        return peak

    together = measured(lambda: iter([method.losses(streams, 0, 1)]))
    apart = measured(lambda: method.loss_parts(streams, 0, 1))
    assert apart < 0.55 * together


def test_student_does_not_reach_the_teacher() -> None:
    torch.manual_seed(0)
    weights = {}
    for weight in (0.0, 10.0):
        torch.manual_seed(1)
        method = kdmsi(distillation_weight=weight)
        summed(method.losses({"train": batch()}, 0, 1)).backward()
        weights[weight] = gradients(method.teacher)
        assert len(weights[weight]) == len(list(method.teacher.parameters()))
    assert all(torch.equal(weights[0.0][n], weights[10.0][n]) for n in weights[0.0])


def test_only_image_and_label_are_needed_and_seen() -> None:
    for name in ("kdmsi", "cam"):
        method = METHODS[name]("cam", SMALL)
        assert method.needs == {"train": {"image", "label"}}
        streams = batch()
        del streams["mask"]
        assert all(torch.isfinite(t) for t in method.losses({"train": streams}, 0, 1).values())


@pytest.mark.parametrize(("teacher", "student"), [("minus", "cat"), ("abs", "cat"), ("cat", "abs")])
def test_combinations_and_bands(teacher: str, student: str) -> None:
    method = KdMsi("cam", SMALL | {"n_bands": 5, "combination": student}, teacher=teacher)
    assert method.teacher.combination == teacher
    assert method.network.combination == student
    streams = batch(2)
    streams["image"] = torch.rand(2, 2, 5, 64, 64)
    summed(method.losses({"train": streams}, 0, 1)).backward()
    assert all(p.grad is not None for p in method.parameters())
    prob = method.eval().predict(streams["image"])
    assert prob.shape == (2, 1, 64, 64)


def test_other_combinations_of_equal_shape_are_refused() -> None:
    state = kdmsi("minus").state_dict()
    with pytest.raises(ModelError, match=r"expected a checkpoint with combinations .*abs"):
        kdmsi("abs").load_state_dict(state)


def test_what_a_checkpoint_must_say_is_asked_for() -> None:
    for args in ({}, {"network": "cam"}, {"network": "tiny", "network_args": SMALL}):
        with pytest.raises(UsageError, match="expected method_args with network: cam"):
            KdMsi(**args)


def test_validation_is_gated_by_the_labels_of_its_masks() -> None:
    method, val = kdmsi().eval(), batch()
    val["mask"][2, :, 0, 0] = 255  # ignored pixels are no change
    with torch.no_grad():
        plain, found = method.predict(val["image"]), method.evaluate(val)
        assert torch.equal(found, gate(plain, val["label"]))
        assert torch.equal(KdMsi.evaluate(_ungated(method), val), plain)


def _ungated(method: KdMsi) -> KdMsi:
    method.gate_validation = False
    return method


def test_baseline_predicts_its_activation_map() -> None:
    method = METHODS["cam"]("cam", SMALL).eval()
    with torch.no_grad():
        image = batch(2)["image"]
        prob = method.predict(image)
        cam = activation_map(method.network(image)["cam"])
    assert prob.shape == (2, 1, 64, 64)
    assert float(prob.max()) <= float(cam.max())


def test_rates_are_applied_to_both_networks() -> None:
    groups = kdmsi().parameter_groups(0.1)
    assert [g["lr"] / 0.1 for g in groups] == pytest.approx([1, 2, 10, 1, 2, 10])
    assert RATES == (1, 2, 10, 20)
