"""Pretrained weights: the libraries' own loading code, fed from local files instead of hubs."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import segmentation_models_pytorch.encoders as smp_encoders
import timm
import timm.models._builder as timm_builder
import torch
import torchvision.models._api as torchvision_api
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rscd
from rscd.base.errors import ModelError
from rscd.models.encoders import ResNet50Stride16, build_encoder
from rscd.models.networks import build_network
from rscd.models.torchgeo_nets import torchgeo_weights, weight_statistics


def noise(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of the module's shapes with other values."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else value.clone()
        for name, value in module.state_dict().items()
    }


def offline(*_args: str, **_kwargs: Any) -> None:
    raise URLError("name or service not known")


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def resnet(name: str = "resnet18", **kwargs: Any) -> Any:
    return timm.create_model(name, **kwargs)


def test_imagenet_weights_of_smp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = noise(build_encoder("resnet18", n_bands=3).module)
    save_file(tensors, tmp_path / "model.safetensors")
    asked = []

    def download(repo_id: str, filename: str, revision: str) -> str:
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(smp_encoders, "hf_hub_download", download)
    found = build_encoder("resnet18", n_bands=3, weights="imagenet")
    equal(found.module.state_dict(), tensors)
    assert ("smp-hub/resnet18.imagenet", "model.safetensors") in asked
    mean, std = found.statistics
    assert mean == pytest.approx((123.675, 116.28, 103.53))
    assert std == pytest.approx((58.395, 57.12, 57.375))
    four: Any = build_encoder("resnet18", n_bands=4, weights="imagenet")
    assert four.module.conv1.weight.shape[1] == 4
    assert len(four.statistics[0]) == 4
    network: Any = build_network("siamese-unet", {"weights": "imagenet"})
    assert network.normalize.mean.flatten().tolist() == pytest.approx(list(mean))


def test_imagenet_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = noise(resnet())
    monkeypatch.setattr(timm_builder, "load_state_dict_from_hf", lambda *_, **__: dict(tensors))
    found: Any = build_encoder("tu-resnet18", n_bands=3, weights="imagenet")
    equal(found.module.model.state_dict(), tensors)
    assert build_encoder("tu-resnet18", n_bands=13, weights="imagenet").channels[0] == 13


def test_imagenet_weights_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import resnet50

    tensors = noise(resnet50(weights=None))
    asked = []

    def load(url: str, **options: Any) -> dict[str, Tensor]:
        asked.append((url, options["weights_only"]))
        return dict(tensors)

    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", load)
    found = ResNet50Stride16(pretrained=True)
    equal(found.state_dict(), tensors)
    assert asked == [("https://download.pytorch.org/models/resnet50-0676ba61.pth", True)]
    four = ResNet50Stride16(4, pretrained=True).conv1.weight
    mean = tensors["conv1.weight"].mean(1, keepdim=True)
    torch.testing.assert_close(four, mean.expand(-1, 4, -1, -1) * 3 / 4)


def test_multispectral_weights_of_torchgeo(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = noise(resnet("resnet50", in_chans=13))
    asked = []

    def load(url: str, **options: Any) -> dict[str, Tensor]:
        asked.append((url, options["weights_only"]))
        return dict(tensors)

    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", load)
    found: Any = build_encoder("tg-resnet50", n_bands=13, weights="SENTINEL2_ALL_MOCO")
    equal(found.module.model.state_dict(), tensors)
    assert asked == [(torchgeo_weights("SENTINEL2_ALL_MOCO", "resnet50").url, True)]
    full = build_encoder("tg-resnet50", n_bands=13, weights="ResNet50_Weights.SENTINEL2_ALL_MOCO")
    assert found.statistics == full.statistics == ((0.0,) * 13, (10000.0,) * 13)


def test_satellite_weights_of_a_torchgeo_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import swin_v2_t

    model = swin_v2_t(weights=None)
    model.features[0][0] = nn.Conv2d(9, 96, 4, 4)
    tensors = noise(model)
    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", lambda *_, **__: tensors)
    found: Any = build_encoder("tg-swin_v2_t", n_bands=9, weights="SENTINEL2_MI_MS_SATLAS")
    equal(found.module.model.state_dict(), tensors)
    assert found.statistics[1] == (255.0,) * 3 + (8160.0,) * 6


@pytest.mark.slow
def test_cityscapes_weights_of_btc(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchgeo.models import BTC

    plain = BTC("swin_tiny")
    tensors = {
        "state_dict": noise(plain.encoder.feature_extractor),
        "feat_norms_state_dict": noise(plain.encoder.norms),
    }
    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", lambda *_, **__: tensors)
    network: Any = build_network("btc", {"weights": "cityscapes"})
    encoder = network.network.network.encoder
    equal(encoder.feature_extractor.state_dict(), tensors["state_dict"])
    equal(encoder.norms.state_dict(), tensors["feat_norms_state_dict"])


def test_statistics_of_weights_are_all_their_normalisations() -> None:
    weights = torchgeo_weights("SENTINEL2_RGB_SECO", "resnet50")
    mean, std = weight_statistics(weights)
    raw = torch.rand(3, 256, 256) * 100
    expected = raw.clone()[:, 16:240, 16:240]
    for step in list(weights.transforms)[2:]:
        expected = step(expected)
    found = (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(found[:, 16:240, 16:240], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("siamese-unet", {"weights": "imagenet"}),
        ("siamese-unet", {"encoder": "tu-resnet18", "weights": "imagenet"}),
        ("fc-siam-diff", {"weights": "imagenet"}),
        ("changevit", {"weights": "imagenet"}),
        ("cam", {"weights": "imagenet"}),
        ("btc", {"weights": "cityscapes"}),
        (
            "siamese-mlp",
            {
                "encoder": "tg-resnet50",
                "weights": "SENTINEL2_ALL_MOCO",
                "n_bands": 13,
            },
        ),
    ],
)
def test_without_a_connection_the_error_says_what_to_do(
    name: str, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_args: str, **_kwargs: Any) -> None:
        raise LocalEntryNotFoundError("cannot find the requested files in the local cache")

    monkeypatch.setattr(smp_encoders, "hf_hub_download", missing)
    monkeypatch.setattr(timm_builder, "load_state_dict_from_hf", missing)
    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match=r"could not get them \(.*HF_HOME.*weights: null"):
        build_network(name, args)


def test_weights_that_do_not_exist_or_do_not_fit_are_user_errors() -> None:
    with pytest.raises(ModelError, match=r"weights of resnet18 among imagenet, .*found 'coco'"):
        build_encoder("resnet18", n_bands=3, weights="coco")
    with pytest.raises(ModelError, match="weights of tu-resnet18 among imagenet"):
        build_encoder("tu-resnet18", n_bands=3, weights="coco")
    with pytest.raises(ModelError, match="weights imagenet, a local file or null"):
        build_encoder("resnet50-s16", n_bands=3, weights="coco")
    with pytest.raises(ModelError, match=r"weights of resnet50 among .*SENTINEL2_ALL_MOCO"):
        build_encoder("tg-resnet50", n_bands=13, weights="imagenet")
    with pytest.raises(ModelError, match=r"expected 13 bands \(B1, B2.* found 3"):
        build_encoder("tg-resnet50", n_bands=3, weights="SENTINEL2_ALL_MOCO")
    with pytest.raises(ModelError, match=r"an encoder among resnet18.*found 'vit_small"):
        build_encoder("tg-vit_small_patch16_224", n_bands=3)
    with pytest.raises(ModelError, match="an encoder of segmentation-models-pytorch"):
        build_network("fc-siam-conc", {"encoder": "resnet19"})
    with pytest.raises(ModelError, match="weights of resnet34 among imagenet"):
        build_network("fc-siam-diff", {"weights": "coco"})
    with pytest.raises(ModelError, match=r"a vision transformer of timm.* 'vit_19'"):
        build_network("changevit", {"backbone": "vit_19"})
    with pytest.raises(ModelError, match="weights cityscapes or null, found 'swin_tiny' and 'x'"):
        build_network("btc", {"weights": "x"})
    with pytest.raises(ModelError, match="a backbone among swin_tiny, swin_small, swin_base"):
        build_network("btc", {"backbone": "swin_huge"})
    with pytest.raises(ModelError, match="depth 5"):
        build_encoder("tg-resnet18", n_bands=3, depth=3)


@pytest.mark.parametrize("name", ["resnet18", "tu-resnet18", "tg-resnet18", "resnet50-s16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_file_of_the_whole_classifier(name: str, suffix: str, tmp_path: Path) -> None:
    # as published: names of torchvision or timm, with the classifier, of three bands
    tensors = noise(resnet("resnet50" if "50" in name else "resnet18"))
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    found = build_encoder(name, n_bands=3, weights=str(path)).module.state_dict()
    assert found
    for key, value in found.items():
        assert torch.equal(value, tensors[key.removeprefix("model.")]), key
    four = build_encoder(name, n_bands=4, weights=str(path)).module.state_dict()
    stem = next(value for key, value in four.items() if key.endswith("conv1.weight"))
    torch.testing.assert_close(
        stem.sum(1), tensors["conv1.weight"].sum(1), msg="equal bands, equal response"
    )


def test_the_encoder_of_the_network_that_ships_may_begin_another(tmp_path: Path) -> None:
    """Its file has the tensors by the names of the whole network."""
    file = Path(rscd.__file__).parent / "weights" / "buildings.safetensors"
    tensors = load_file(file)
    encoder = build_encoder("lite0", n_bands=3, weights=str(file), depth=4).module
    found = {name.rpartition("model.")[2]: value for name, value in encoder.state_dict().items()}
    assert len(found) == 198
    assert all(torch.equal(value, tensors[f"encoder.{name}"]) for name, value in found.items())
    save_file({"encoder.half": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"expected all 198 tensors .*, found no"):
        build_encoder("lite0", n_bands=3, weights=f"{tmp_path}/other.safetensors")


def test_local_file_of_an_encoder_itself(tmp_path: Path) -> None:
    encoder = build_encoder("tu-resnet18", n_bands=4).module
    tensors = noise(encoder)
    save_file(tensors, tmp_path / "encoder.safetensors")
    found = build_encoder("tu-resnet18", n_bands=4, weights=f"{tmp_path}/encoder.safetensors")
    equal(found.module.state_dict(), tensors)
    network: Any = build_network(
        "fc-siam-diff", {"weights": _resnet34_file(tmp_path), "decoder_channels": [16, 8, 8]}
    )
    assert bool((network.network.encoder.conv1.weight >= 0).all())


def _resnet34_file(tmp_path: Path) -> str:
    save_file(noise(resnet("resnet34")), tmp_path / "resnet34.safetensors")
    return str(tmp_path / "resnet34.safetensors")


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit('code of a weights file was run')",))


def test_local_files_that_cannot_be_used_are_user_errors(tmp_path: Path) -> None:
    def load(path: Path) -> None:
        build_encoder("resnet18", n_bands=3, weights=str(path))

    with pytest.raises(ModelError, match="found none at"):
        load(tmp_path / "no.pth")
    evil = tmp_path / "evil.pth"
    torch.save({"conv1.weight": Evil()}, evil)
    with pytest.raises(ModelError, match="tensors and nothing else"):
        load(evil)
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="tensors and nothing else"):
        load(tmp_path / "old.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="found damage"):
        load(tmp_path / "damaged.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="dict of tensors"):
        load(tmp_path / "list.pth")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"found no conv1\.weight"):
        load(tmp_path / "other.safetensors")
    save_file(noise(resnet(in_chans=13)), tmp_path / "bands.safetensors")
    with pytest.raises(ModelError, match=r"\(64, 3, 7, 7\) for conv1.weight"):
        load(tmp_path / "bands.safetensors")


def test_timm_builds_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_encoder("tu-resnet18", n_bands=3)
