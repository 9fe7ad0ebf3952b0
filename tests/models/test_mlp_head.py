"""DiffMatch's heads against the reference arrays."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rscd.models.encoders import Backbone
from rscd.models.mlp_head import LightHead, feature_distance, resize_distance
from rscd.models.networks import build_network
from rscd.models.siamese import Siamese, training_heads, training_outputs
from tests.conftest import Golden


def part(arrays: Any, prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): torch.from_numpy(arrays[key])
        for key in arrays
        if key.startswith(prefix)
    }


def parts_of(arrays: Any, *, training: bool) -> tuple[Siamese, nn.Module, LightHead]:
    """The heads of a file behind no encoder: network, second classifier, segmentation head."""
    diff, seg, second = (part(arrays, name) for name in ("diff.", "seg.", "diff.conv_seg_for_vl."))
    count = sum(1 for key in arrays if key.startswith("feat1_"))
    channels = [arrays[f"feat1_{k}"].shape[1] for k in range(count)]
    classes, width = diff["conv_seg.weight"].shape[:2]
    decoder, segmentation = (LightHead(channels, width=width, n_classes=classes) for _ in range(2))
    decoder.load_state_dict({k: v for k, v in diff.items() if "for_vl" not in k})
    segmentation.load_state_dict(seg)
    classifier = nn.Conv2d(width, classes, 1)
    classifier.load_state_dict(second)
    network = Siamese(
        normalize=nn.Identity(),
        backbone=Backbone(nn.Identity(), (3,), 1, any_size=True, statistics=((), ())),
        fusion="abs",
        decoder=decoder,
    )
    return network.train(training), classifier, segmentation.train(training)


@pytest.mark.golden
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_heads_match_the_reference_arrays(golden: Golden, mode: str) -> None:
    files = golden.files("diffmatch/heads_forward*.npz")
    assert files
    for file in files:
        arrays = np.load(file)
        network, classifier, segmentation = parts_of(arrays, training=mode == "train")
        decoder = network.decoder
        assert isinstance(decoder, LightHead)
        count = len(decoder.convs)
        t1, t2 = (
            [torch.from_numpy(arrays[f"feat{date}_{k}"]) for k in range(count)] for date in (1, 2)
        )
        size = arrays[f"{mode}_logits_cr"].shape[-2:]
        with torch.no_grad():
            image = torch.empty(1, *size)
            out = training_outputs(network, classifier, segmentation, t1, t2, image)
            stretched = feature_distance(out["embed_t1"], out["embed_t2"], axis=-1)
            found = {
                "logits_cr": out["logits"],
                "logits_vl": out["vl_logits"],
                "logits_seg1": out["sem_t1"],
                "logits_seg2": out["sem_t2"],
                "q1": out["embed_t1"],
                "q2": out["embed_t2"],
                "dist_channel": out["distance"],
                "dist_channel_lowres": feature_distance(out["embed_t1"], out["embed_t2"]),
                "dist_authors_lastaxis": resize_distance(stretched, size),
            }
            # once more from the start: in train mode the first call has moved running statistics
            again = parts_of(arrays, training=mode == "train")[0].decoder
            assert isinstance(again, LightHead)
            diffs = [(b - a).abs() for a, b in zip(t1, t2, strict=True)]
            q = again.features(diffs)
            found["lowres_logits_cr"] = again.conv_seg(q)
            found["lowres_logits_vl"] = classifier(q)
        for name, value in found.items():
            np.testing.assert_allclose(
                value.numpy(),
                arrays[f"{mode}_{name}"],
                rtol=1e-4,
                atol=5e-4,
                err_msg=f"{file.name} {mode}_{name}",
            )


def built(**args: Any) -> Siamese:
    network = build_network("siamese-mlp", args)
    assert isinstance(network, Siamese)
    return network


def test_parameters_are_those_of_the_paper() -> None:
    network = built()
    classifier, segmentation = training_heads(network)
    parts: Any = {
        "encoder": network.encoder,
        "decoder": network.decoder,
        "classifier": classifier,
        "segmentation": segmentation,
    }
    count = {name: sum(p.numel() for p in x.parameters()) for name, x in parts.items()}
    assert count == {
        "encoder": 23_508_032,
        "decoder": 1_248_772 - 514,
        "classifier": 514,  # the paper counts it to the decoder
        "segmentation": 1_248_258,
    }
    assert sum(count.values()) == 26_005_062


def test_encoder_dilates_as_the_paper_does() -> None:
    encoder: Any = built().encoder
    layers = encoder.model.layer4
    assert [block.conv2.dilation[0] for block in layers] == [1, 2, 2]
    assert [block.conv2.stride[0] for block in layers] == [1, 1, 1]


def test_outputs_for_training_hold_the_prediction() -> None:
    network = built(encoder="tu-resnet18", width=16)
    network.eval()
    classifier, segmentation = training_heads(network)
    classifier.eval()
    segmentation.eval()
    image = torch.rand(2, 2, 3, 64, 96) * 255
    with torch.inference_mode():
        plain = network(image)
        t1, t2 = network.encode(image)
        full = training_outputs(network, classifier, segmentation, t1, t2, image)
    assert set(plain) == {"logits"}
    assert torch.equal(plain["logits"], full["logits"])
    shapes = {name: tuple(value.shape) for name, value in full.items()}
    assert shapes == {
        **dict.fromkeys(["logits", "vl_logits", "sem_t1", "sem_t2"], (2, 2, 64, 96)),
        **dict.fromkeys(["embed_t1", "embed_t2"], (2, 16, 16, 24)),
        "distance": (2, 64, 96),
    }


def test_batch_norm_sees_one_date_at_a_time() -> None:
    network: Any = built(encoder="tu-resnet18", width=16)
    network.order = "t1-first"
    classifier, segmentation = training_heads(network)
    image = torch.rand(2, 2, 3, 64, 64)
    t1, t2 = network.encode(image)
    training_outputs(network, classifier, segmentation, t1, t2, image)
    assert network.encoder.model.bn1.num_batches_tracked == 2
    assert network.decoder.fusion_conv.bn.num_batches_tracked == 1
    assert segmentation.fusion_conv.bn.num_batches_tracked == 2
    joint: Any = build_network("siamese-mlp", {"encoder": "tu-resnet18", "width": 16})
    joint(image)
    assert joint.encoder.model.bn1.num_batches_tracked == 1


def test_distance_of_equal_features_has_a_gradient() -> None:
    q = torch.zeros(1, 4, 2, 2, requires_grad=True)
    distance = feature_distance(q, torch.zeros(1, 4, 2, 2))
    distance.sum().backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
    assert distance.max() < 1e-5
