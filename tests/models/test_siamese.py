"""Encoder, fusion and decoder fit together whatever each of them is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rscd.base.errors import ModelError
from rscd.models.fusion import FUSIONS, fuse, fused_channels
from rscd.models.networks import build_network

DECODERS: dict[str, Any] = {
    "siamese-unet": {"decoder_channels": [32, 16, 16, 8, 8]},
    "siamese-mlp": {"width": 16, "output_stride": 32},
    "siamese-deeplab": {"output_stride": 32},
}


def pairs(n: int = 1, n_bands: int = 3, side: int = 64) -> Tensor:
    return torch.rand(n, 2, n_bands, side, side, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("network", DECODERS)
def test_every_fusion_with_every_decoder(network: str, fusion: str) -> None:
    built = build_network(network, DECODERS[network] | {"encoder": "resnet18", "fusion": fusion})
    with torch.inference_mode():
        assert built.eval()(pairs())["logits"].shape[2:] == (64, 64)


@pytest.mark.parametrize(
    "encoder",
    ["mobilenet_v2", "mit_b0", "tu-convnext_atto", "tg-resnet18", "tg-swin_v2_t", "resnet50-s16"],
)
@pytest.mark.parametrize("network", DECODERS)
def test_every_kind_of_encoder_with_every_decoder(network: str, encoder: str) -> None:
    args = DECODERS[network] | {"encoder": encoder, "fusion": "abs"}
    if encoder == "tu-convnext_atto" and network == "siamese-unet":
        args = args | {"fusion": "concat"}
    built = build_network(network, args).eval()
    with torch.inference_mode():
        assert built(pairs())["logits"].shape[2:] == (64, 64)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "tg-resnet18", "tg-swin_t"])
@pytest.mark.parametrize("n_bands", [1, 4, 13])
def test_every_kind_of_encoder_takes_any_bands(encoder: str, n_bands: int) -> None:
    args = DECODERS["siamese-mlp"] | {"encoder": encoder, "n_bands": n_bands}
    built = build_network("siamese-mlp", args).eval()
    with torch.inference_mode():
        assert built(pairs(1, n_bands))["logits"].shape == (1, 2, 64, 64)


def test_fusions_do_what_their_names_say() -> None:
    t1, t2 = torch.tensor([[[[1.0]]]]), torch.tensor([[[[-3.0]]]])
    expected = {
        "concat": [1, -3],
        "concat-reversed": [-3, 1],
        "diff": [-4],
        "diff-reversed": [4],
        "abs": [4],
    }
    assert expected.keys() == FUSIONS.keys()
    for name, values in expected.items():
        (fused,) = fuse(name, [t1], [t2])
        assert fused.flatten().tolist() == values
        assert fused_channels(name, [1]) == [len(values)]


def test_exchanged_dates_of_the_signed_difference_are_told_apart() -> None:
    built = build_network("siamese-unet", DECODERS["siamese-unet"] | {"fusion": "diff"}).eval()
    image = pairs()
    with torch.inference_mode():
        assert not torch.allclose(built(image)["logits"], built(image.flip(1))["logits"])


def test_dates_in_one_batch_or_apart_give_the_same_prediction() -> None:
    image = pairs(2)
    state = None
    found = []
    for order in ("joint", "t1-first", "t2-first"):
        built: Any = build_network("siamese-mlp", {"encoder": "tu-resnet18", "width": 16}).eval()
        built.order = order
        state = state or built.state_dict()
        built.load_state_dict(state)
        with torch.inference_mode():
            found.append(built(image)["logits"])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_a_shallow_encoder_keeps_only_what_it_runs() -> None:
    shallow: Any = build_network("siamese-unet", {"decoder_channels": [16, 8]})
    names = {name.split(".")[1] for name, _ in shallow.encoder.named_parameters()}
    stages = {name.split(".")[0] for name, _ in shallow.encoder.named_parameters()}
    assert stages == {"conv1", "bn1", "layer1"}, names
    assert shallow.multiple == 4


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet-b0", "densenet121"])
def test_dropping_stages_changes_no_output(name: str) -> None:
    from segmentation_models_pytorch.encoders import get_encoder

    from rscd.models.smp_encoders import drop_unused

    encoder = get_encoder(name, depth=3, weights=None).eval()
    image = torch.rand(1, 3, 64, 64)
    count = sum(p.numel() for p in encoder.parameters())
    with torch.inference_mode():
        before = encoder(image)
        drop_unused(name, encoder, 3)
        after = encoder(image)
    assert not encoder.training
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert sum(p.numel() for p in encoder.parameters()) < count


def test_unknown_parts_are_user_errors() -> None:
    with pytest.raises(ModelError, match="a fusion among concat"):
        build_network("siamese-unet", {"fusion": "minus"})
    with pytest.raises(ModelError, match="an encoder of segmentation-models-pytorch"):
        build_network("siamese-unet", {"encoder": "resnet19"})
    with pytest.raises(ModelError, match="an encoder of segmentation-models-pytorch"):
        build_network("siamese-unet", {"encoder": "tu-resnet19"})
    with pytest.raises(ModelError, match="one of normal, fix"):
        build_network("siamese-unet", {"batch_norm": "frozen"})
