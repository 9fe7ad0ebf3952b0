"""KD-MSI's DeepLabV3+ against the reference arrays, and what makes it that one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.models.networks import build_network
from tests.conftest import Golden

SMALL = {"encoder": "mobilenet_v2", "output_stride": 32}


def canonical(name: str) -> str:
    return name.removeprefix("encoder.").removeprefix("decoder.")


@pytest.mark.golden
@pytest.mark.slow
def test_forward_matches_the_reference_arrays(
    golden: Golden, fill_by_rule: Callable[..., nn.Module], pairs_of: Callable[..., Tensor]
) -> None:
    files = golden.files("kdmsi/deeplab_*.npz")
    assert files
    network: Any = build_network("siamese-deeplab", {}).eval()
    for file in files:
        arrays = np.load(file)
        fill_by_rule(network, int(arrays["seed"]), canonical)
        image = pairs_of(arrays)
        with torch.inference_mode():
            t1, t2 = network.encode(image)
            high, low = t1[-1] - t2[-1], t1[2] - t2[2]
            aspp = network.decoder.aspp(high)
            small = network.decoder.decoder(aspp, low)
            logits = network(image)["logits"]
        step = int(arrays["logits_subsample"])
        expected = {
            "high_shape": high.shape,
            "low_shape": low.shape,
            "high_diff_first8": high[:, :8],
            "high_diff_mean": high.mean(),
            "high_diff_absmean": high.abs().mean(),
            "low_diff_first2": low[:, :2],
            "low_diff_absmean": low.abs().mean(),
            "aspp_first16": aspp[:, :16],
            "aspp_absmean": aspp.abs().mean(),
            "decoder_logits": small,
            "logits_full": logits[..., ::step, ::step],
        }
        for name, found in expected.items():
            np.testing.assert_allclose(
                np.asarray(found), arrays[name], rtol=1e-4, atol=1e-5, err_msg=f"{file} {name}"
            )
        argmax = np.packbits(logits.argmax(1).numpy().astype(np.uint8))
        assert np.array_equal(argmax, arrays["logits_argmax"]), file.name
        assert tuple(logits.shape) == tuple(arrays["logits_shape"])


def test_parameters_are_those_of_the_paper() -> None:
    network: Any = build_network("siamese-deeplab", {})
    assert sum(p.numel() for p in network.parameters()) == 40_347_298
    assert sum(p.numel() for p in network.encoder.parameters()) == 23_508_032
    assert {m.dilation for m in network.encoder.modules() if isinstance(m, torch.nn.Conv2d)} == {
        (1, 1)
    }
    # groups of section 3.5: encoder weights, encoder biases, scratch weights, scratch biases
    counts = [0, 0, 0, 0]
    for name, _ in network.named_parameters():
        counts[2 * (not name.startswith("encoder.")) + name.endswith("bias")] += 1
    assert counts == [106, 53, 19, 10]


@pytest.mark.parametrize("side", [50, 64, 100])
def test_encoder_takes_any_size(side: int) -> None:
    network: Any = build_network("siamese-deeplab", {}).eval()
    with torch.inference_mode():
        t1, _ = network.encode(torch.rand(1, 2, 3, side, side))
        assert t1[-1].shape[-1] == -(-side // 16)
        assert network(torch.rand(1, 2, 3, side, side))["logits"].shape[-2:] == (side, side)


def test_fixed_batch_norm_keeps_its_statistics_and_learns_its_scale() -> None:
    network: Any = build_network("siamese-deeplab", SMALL)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    image = torch.rand(1, 2, 3, 64, 64) * 255
    network.train()
    before = {k: v.clone() for k, v in network.encoder.state_dict().items()}
    trained = network(image)["logits"]
    with torch.inference_mode():
        evaluated = network.eval()(image)["logits"]
    torch.testing.assert_close(trained, evaluated)
    F.cross_entropy(trained, torch.ones(1, 64, 64, dtype=torch.long)).backward()
    torch.optim.SGD(network.parameters(), 0.1).step()
    after = network.encoder.state_dict()
    norms = {k.rpartition(".")[0] for k in after if k.endswith("running_mean")}
    assert norms
    for name in norms:
        assert torch.equal(before[f"{name}.running_mean"], after[f"{name}.running_mean"])
        assert torch.equal(before[f"{name}.running_var"], after[f"{name}.running_var"])
    assert any(not torch.equal(before[f"{name}.bias"], after[f"{name}.bias"]) for name in norms)


def test_exchanged_dates_change_the_sign_of_the_features_only_before_the_norms() -> None:
    network = build_network("siamese-deeplab", SMALL).eval()
    image = torch.rand(1, 2, 3, 64, 64) * 255
    with torch.inference_mode():
        assert not torch.allclose(network(image)["logits"], network(image.flip(1))["logits"])
