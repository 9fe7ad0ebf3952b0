"""DiffMatch's training as a whole: who learns from what, views, passes, and the baselines."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rscd.base.errors import UsageError
from rscd.base.types import CARD_FORMAT, CARD_KEY
from rscd.inference.network import export_weights, load_network
from rscd.inference.weights import read_tensors
from rscd.methods.diffmatch import NETWORK, UNGUIDED, DiffMatch
from rscd.methods.parts.diffmatch_losses import pseudo_labels
from rscd.methods.parts.diffmatch_recipe import VARIANTS
from rscd.methods.registry import METHODS
from rscd.metrics.pixels import count, summarise
from rscd.models.networks import build_network

SMALL = {"encoder": "tu-test_resnet", "width": 16, "mean": [100.0] * 3, "std": [50.0] * 3}
SAME_VIEW = {"patch_size": 64, "scale": [1, 1], "p_hflip": 0}
LAYERS = ("vl_change", "vl_t1", "vl_t2")


def batch(n: int = 2, size: int = 64, seed: int = 0, mask: bool = True) -> dict[str, Tensor]:
    """Squares of light that appear, with exact labels."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 2, 3, size, size, generator=generator) * 60 + 60
    t1, t2 = torch.zeros(2, n, 1, size, size, dtype=torch.long)
    for i in range(n):
        top, left = torch.randint(4, size - 28, (2,), generator=generator).tolist()
        t2[i, :, top : top + 24, left : left + 24] = 1
        t1[i, :, :12, :12] = t2[i, :, :12, :12] = 1
    image += 100 * torch.stack([t1, t2], 1)
    change = (t1 != t2).long()
    found = {"image": image, "vl_change": change, "vl_t1": t1, "vl_t2": t2}
    return found | {"mask": change.clone()} if mask else found


def streams(n: int = 2, size: int = 64) -> dict[str, Any]:
    return {"labeled": batch(n, size, 1), "unlabeled": batch(n, size, 2, mask=False)}


def method(variant: str = "diffmatch", seed: int = 0, **options: Any) -> DiffMatch:
    torch.manual_seed(seed)
    options = {"weak": SAME_VIEW} | options
    return DiffMatch(NETWORK, SMALL, variant, **options)


def step(
    module: DiffMatch, batches: dict[str, Any], seed: int = 3, now: int = 0, total: int = 10
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Losses and gradients by name of parameter, with chance of its own."""
    torch.manual_seed(seed)
    module.zero_grad(set_to_none=True)
    terms: dict[str, Any] = {}
    for part in module.loss_parts(batches, now, total):
        torch.stack(list(part.values())).sum().backward()
        terms |= {name: value.detach() for name, value in part.items()}
    gradients = {
        name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()
    }
    return terms, gradients


GROUPS: dict[str, str | tuple[str, ...]] = {
    "encoder": "network.encoder.",
    "decoder": ("network.decoder.convs.", "network.decoder.fusion_conv."),
    "w_cr": "network.decoder.conv_seg.",
    "w_vl": "vl_classifier.",
    "seg_trunk": ("segmentation.convs.", "segmentation.fusion_conv."),
    "seg_classifier": "segmentation.conv_seg.",
}
ROUTES = {
    "sup": {"encoder", "decoder", "w_cr"},
    "consistency": {"encoder", "decoder", "w_cr"},
    "vl": {"encoder", "decoder", "w_vl"},
    "seg": {"encoder", "seg_trunk", "seg_classifier"},
    "con": {"encoder", "seg_trunk"},
}


@pytest.mark.parametrize("term", [
    "sup", "consistency_s", "con_x", "con_s", "vl_x", "vl_w", "vl_s", "seg_x", "seg_w", "seg_s",
])  # fmt: skip
def test_each_term_teaches_the_parts_that_it_should(term: str) -> None:
    module = method(recipe={"conf_thresh": 0.5, "lambda_c": 1.0})
    torch.manual_seed(3)
    terms = module.losses(streams(), 0, 10)
    terms[term].backward()
    touched = {
        group
        for group, prefix in GROUPS.items()
        for name, p in module.named_parameters()
        if name.startswith(prefix) and p.grad is not None and p.grad.any()
    }
    assert touched == ROUTES[term.partition("_")[0]]


def test_pseudo_labels_come_from_a_pass_that_does_not_learn() -> None:
    """Without any other term, the weak view leaves no trace in the gradients."""
    module = method("fixmatch", recipe={"conf_thresh": 1.1})
    terms, gradients = step(module, streams())
    assert terms["consistency_s"] == 0
    batches = streams()
    batches["unlabeled"]["image"] = batches["unlabeled"]["image"] * 0.5
    module.network.load_state_dict(method("fixmatch").network.state_dict())
    module.eval()  # batch statistics would tell
    _, first = step(module, streams())
    _, second = step(module, batches)
    assert gradients.keys() == first.keys()
    assert all(
        a is not None and b is not None and torch.equal(a, b)
        for a, b in zip(first.values(), second.values(), strict=True)
        if a is not None
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", [1, 2])
def test_every_variant_teaches_all_that_it_may(variant: str, n: int) -> None:
    module = method(variant, recipe={"conf_thresh": 0.0})
    terms, gradients = step(module, streams(n))
    assert all(value.isfinite() for value in terms.values())
    learns = {name for name, p in module.named_parameters() if p.requires_grad}
    assert {name for name, g in gradients.items() if g is not None} == learns
    assert {p for group in module.parameter_groups(1.0) for p in group["params"]} == {
        p for p in module.parameters() if p.requires_grad
    }


@pytest.mark.parametrize("variant", ["supervised", "fixmatch", "unimatch"])
def test_deeplab_trains_where_nothing_is_guided(variant: str) -> None:
    torch.manual_seed(0)
    args = {"encoder": "tu-test_resnet", "fusion": "abs", "batch_norm": "normal"}
    recipe = {"conf_thresh": 0.0}
    module = DiffMatch(UNGUIDED, args, variant, recipe, weak=SAME_VIEW)
    terms, gradients = step(module, streams())
    assert all(value.isfinite() and value > 0 for value in terms.values())
    assert all(gradient is not None for gradient in gradients.values())
    assert ("consistency_f" in terms) == (variant == "unimatch")
    rates = [group["lr"] for group in module.parameter_groups(0.02)]
    assert rates == [0.02, 0.2]


def test_parts_in_turn_give_the_gradients_of_the_sum() -> None:
    module = method("unimatch", recipe={"guidance": "dual", "guide_dates": True, "lambda_c": 0.1})
    state = copy.deepcopy(module.state_dict())
    terms, parts = step(module, streams())
    module.load_state_dict(state)
    module.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    whole = module.losses(streams(), 0, 10)
    torch.stack(list(whole.values())).sum().backward()
    assert whole.keys() == terms.keys()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, parts[name], msg=name)


def test_terms_follow_their_weights() -> None:
    settings: dict[str, Any] = {"recipe": {"conf_thresh": 0.5}}
    first, _ = step(method(**settings), streams(), now=0)
    late, _ = step(method(**settings), streams(), now=9)
    for name in first:
        ratio = 0.1 if name.startswith(("vl", "seg")) else 1.0
        assert late[name].item() == pytest.approx(first[name].item() * ratio, rel=1e-5), name
    heavy, _ = step(method(recipe={"conf_thresh": 0.5, "lambda_c": 1.0}), streams())
    assert heavy["con_x"].item() == pytest.approx(first["con_x"].item() * 10, rel=1e-5)


@pytest.mark.slow
def test_masks_of_unlabeled_pairs_are_never_seen() -> None:
    clean = streams()
    dirty = streams()
    dirty["unlabeled"]["mask"] = torch.randint(-5, 300, (2, 1, 64, 64))
    dirty["unlabeled"]["label"] = torch.tensor([7, 8])
    for variant in VARIANTS:
        module = method(variant)
        if "unlabeled" in module.needs:
            assert not {"mask", "label"} & module.needs["unlabeled"]
        ours, theirs = method(variant), method(variant)
        (terms, gradients), (other, others) = step(ours, clean), step(theirs, dirty)
        assert all(torch.equal(terms[name], other[name]) for name in terms)
        for name, value in gradients.items():
            twin = others[name]
            assert (value is None) == (twin is None)
            assert value is None or twin is None or torch.equal(value, twin)


def test_each_variant_asks_for_what_it_uses() -> None:
    needs = {name: method(name).needs for name in VARIANTS}
    assert needs["supervised"] == {"labeled": {"image", "mask"}}
    assert needs["fixmatch"] == {"labeled": {"image", "mask"}, "unlabeled": {"image"}}
    assert needs["guided"]["unlabeled"] == {"image", "vl_change"}
    assert needs["diffmatch"] == {
        "labeled": {"image", "mask", *LAYERS}, "unlabeled": {"image", *LAYERS}
    }  # fmt: skip
    few = method(recipe={"vl_on_labeled": False}, use_valid=True).needs
    assert few == {"labeled": {"image", "mask"}, "unlabeled": {"image", "valid", *LAYERS}}


def test_batch_norms_see_each_date_and_group_on_its_own() -> None:
    """Partner without a trace, then t1 and t2 of [labelled; weak], then t1 and t2 of strong."""
    module = method()
    seen = []

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append((tuple(inputs[0].shape), layer.training, torch.is_grad_enabled()))

    first: Any = next(m for m in module.network.encoder.modules() if isinstance(m, nn.BatchNorm2d))
    first.register_forward_pre_hook(note)
    step(module, {"labeled": batch(3, 64, 1), "unlabeled": batch(2, 64, 2)})
    rows = [(shape[0], training, grad) for shape, training, grad in seen]
    assert rows == [(4, False, False), (5, True, True), (5, True, True), *[(2, True, True)] * 2]
    decoder: Any = module.network.decoder
    segmentation: Any = module.segmentation
    counts = {
        "encoder": int(first.num_batches_tracked),
        "decoder": int(decoder.fusion_conv.bn.num_batches_tracked),
        "segmentation": int(segmentation.fusion_conv.bn.num_batches_tracked),
    }
    assert counts == {"encoder": 4, "decoder": 2, "segmentation": 4}
    assert module.network.training


def noting(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    """The function, each result of which is appended to the list."""

    def noted(*args: Any) -> Any:
        results.append(function(*args))
        return results[-1]

    return noted


def captured_views(module: DiffMatch, batches: dict[str, Any], seed: int = 3) -> list[Tensor]:
    """What goes into the network: weak partner, [labelled; weak], strong."""
    images = []
    encode = module.network.encode

    def spy(image: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        images.append(image.clone())
        return encode(image)

    module.network.encode = spy  # type: ignore[method-assign]
    step(module, batches, seed)
    return images


def test_strong_views_share_the_geometry_and_the_box_but_not_the_colours() -> None:
    module = method(weak={"patch_size": 48})
    flat = streams()
    ramp = torch.linspace(50, 200, 64).expand(2, 2, 3, 64, 64).clone()
    flat["unlabeled"]["image"] = ramp
    partner, both, strong = captured_views(module, flat)
    weak = both[2:]
    assert torch.equal(weak[:, 0], weak[:, 1])
    assert torch.equal(partner[:, 0], partner[:, 1])
    assert not torch.equal(strong[:, 0], strong[:, 1])
    assert not torch.equal(partner, weak)


@pytest.mark.parametrize("partner", ["other", "same"])
def test_the_partner_is_another_pair_or_another_view_of_the_same(partner: str) -> None:
    module = method(recipe={"cutmix_partner": partner})
    batches = streams()
    for value, image in enumerate(batches["unlabeled"]["image"]):
        image.fill_(100.0 * (value + 1))
    pasted, both, _ = captured_views(module, batches)
    ours = both[2:].amax((1, 2, 3, 4)).tolist()
    theirs = pasted.amax((1, 2, 3, 4)).tolist()
    assert ours == [100, 200]
    assert theirs == ([200, 100] if partner == "other" else [100, 200])


def test_labels_go_where_their_pixels_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random bits as image and as every label map: crops, flips, turns and boxes keep them one."""
    weak = {"patch_size": 48, "scale": [1, 1], "p_vflip": 0.5, "rot90": True}
    module = method(strong={}, weak=weak)
    batches = streams()
    bits = torch.randint(0, 2, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    batches["unlabeled"]["image"] = bits[:, None].expand(-1, 2, 3, -1, -1) * 100.0
    batches["unlabeled"] |= {layer: bits.clone() for layer in LAYERS}
    seen: list[Any] = []
    strong = module._strong
    monkeypatch.setattr(module, "_strong", noting(strong, seen))
    for seed in range(6):
        step(module, batches, seed)
    for view in seen:
        for date in (0, 1):
            shown = (view["image"][:, date, :1] / 100).round().long()
            assert all(torch.equal(view[layer], shown) for layer in LAYERS)


def test_pseudo_labels_are_those_of_the_weak_view_in_train_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = method(recipe={"cutmix_partner": "same"})
    monkeypatch.setattr(
        "rscd.methods.diffmatch.cutmix_boxes",
        lambda n, hw, _: torch.zeros(n, *hw, dtype=torch.bool),
    )
    seen: list[Any] = []
    logits: list[Any] = []
    strong, outputs = module._strong, module._outputs
    monkeypatch.setattr(module, "_strong", noting(strong, seen))
    monkeypatch.setattr(module, "_outputs", noting(outputs, logits))
    step(module, streams())
    label, confidence = pseudo_labels(logits[0]["logits"][2:])
    assert torch.equal(seen[0]["pseudo"][:, 0], label)
    assert torch.equal(seen[0]["confidence"][:, 0], confidence)


def test_padding_and_nodata_count_in_no_loss() -> None:
    """Where the unlabelled pair is not valid, whatever is predicted changes nothing."""
    module = method("fixmatch", recipe={"conf_thresh": 0.0}, use_valid=True)
    batches = streams()
    batches["unlabeled"]["valid"] = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    terms, _ = step(module, batches)
    assert terms["consistency_s"] == 0
    batches["unlabeled"]["valid"][:, :, :32] = True
    terms, _ = step(module, batches)
    assert terms["consistency_s"] > 0


def test_half_precision_still_learns() -> None:
    """Weights cast without gradient for the partner must not be taken for the passes that learn."""
    module = method()
    with torch.autocast("cpu", torch.bfloat16):
        terms, gradients = step(module, streams())
    assert all(value.isfinite() and value.dtype == torch.float32 for value in terms.values())
    assert all(g is not None for g in gradients.values())


def test_the_legacy_distance_is_another_one() -> None:
    ours, _ = step(method(), streams())
    legacy, _ = step(method(recipe={"distance": "legacy_last_axis"}), streams())
    assert ours["sup"] == legacy["sup"]
    assert ours["con_x"] != legacy["con_x"]


def test_one_more_view_of_features_and_of_values() -> None:
    terms, _ = step(method("unimatch", recipe={"conf_thresh": 0.0}), streams())
    assert terms.keys() == {"sup", "consistency_s", "consistency_s2", "consistency_f"}
    assert terms["consistency_s"] != terms["consistency_s2"]


def test_equal_seeds_give_equal_steps() -> None:
    first, second, third = (step(method(), streams(), seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert any(not torch.equal(first[0][name], third[0][name]) for name in first[0])


def test_variants_draw_the_same_views() -> None:
    images = [captured_views(method(name), streams())[1] for name in ("fixmatch", "diffmatch")]
    assert torch.equal(*images)


def test_heads_learn_faster_than_the_encoder() -> None:
    groups = method().parameter_groups(0.02)
    assert [group["lr"] for group in groups] == [0.02, pytest.approx(0.2)]
    encoder = list(method().network.encoder.parameters())
    assert len(groups[0]["params"]) == len(encoder)


def test_only_what_predicts_is_exported(tmp_path: Path) -> None:
    module = method()
    step(module, streams())  # statistics of its own
    module.eval()
    state = {f"method.{name}": value for name, value in module.state_dict().items()}
    card = {
        **{"format": CARD_FORMAT, "halo": 0, "multiple": 16, "patch_size": 64, "threshold": 0.5},
        **{"network": NETWORK, "network_args": SMALL},
    }
    checkpoint = tmp_path / "best.ckpt"
    torch.save({"state_dict": state, CARD_KEY: card}, checkpoint)
    export_weights(checkpoint, tmp_path / "out.safetensors")
    names = read_tensors(tmp_path / "out.safetensors").keys()
    assert names == build_network(NETWORK, SMALL).state_dict().keys()
    image = batch()["image"]
    expected = module.predict(image).detach().numpy()
    for path in (checkpoint, tmp_path / "out.safetensors"):
        pixels = image.numpy()
        everywhere = np.ones((len(pixels), *pixels.shape[-2:]), bool)
        found = load_network(path, "cpu", 1)(pixels, everywhere)
        assert abs(found - expected[:, 0]).max() < 1e-5


@pytest.mark.slow
def test_overfits_four_pairs_and_beats_the_untrained_network() -> None:
    module = method(recipe={"lambda_c": 0.01}, head_lr_mult=2, weak=SAME_VIEW | {"p_hflip": 0.5})
    data = {"labeled": batch(4, 64, 1), "unlabeled": batch(4, 64, 1, mask=False)}
    optimizer = torch.optim.AdamW(module.parameter_groups(2e-3), lr=2e-3)
    total = 80
    for now in range(total):
        step(module, data, seed=now, now=now, total=total)
        optimizer.step()
        if now % 10 == 9 and overlap(module, data["labeled"]) > 0.9:
            return
    pytest.fail(f"{total} steps were not enough")


def overlap(module: DiffMatch, pairs: Mapping[str, Tensor]) -> float:
    """IoU of change."""
    module.eval()
    with torch.no_grad():
        found = module.predict(pairs["image"])[:, 0] >= 0.5
    module.train()
    return summarise(count(found.numpy(), pairs["mask"][:, 0].numpy()))["iou_change"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "siamese-unet"}, "network: siamese-mlp, found siamese-unet"),
        ({"network": UNGUIDED}, "network: siamese-mlp, found siamese-deeplab"),
        (
            {"network": "siamese-unet", "variant": "unimatch"},
            "network: siamese-mlp or siamese-deeplab, found siamese-unet",
        ),
        ({"variant": "mean-teacher"}, "a variant among"),
        ({"recipe": {"tau": 0.9}}, "found tau"),
        ({"weak": {"size": 3}}, "weak view: expected"),
        ({"strong": {"p_grey": 3}}, "photometric view: expected"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DiffMatch(**{"network": NETWORK, "network_args": SMALL} | options)


def test_is_registered() -> None:
    assert METHODS["diffmatch"] is DiffMatch
