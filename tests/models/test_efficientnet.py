"""The encoder against timm's, which it takes its weights and names from."""

import pytest
import timm
import torch

from rscd.models.efficientnet import Lite0Encoder


@pytest.mark.parametrize("n_bands", [3, 4])
def test_maps_and_gradients_are_those_of_timm(n_bands: int) -> None:
    torch.manual_seed(0)
    encoder = Lite0Encoder(n_bands)
    peer = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, out_indices=(0, 1, 2, 3), in_chans=n_bands
    )
    peer.blocks = peer.blocks[:5]
    peer.load_state_dict(encoder.state_dict())
    image = torch.randn(2, n_bands, 64, 96)
    for network in (encoder, peer):
        network.train()(image)  # statistics move alike
    torch.testing.assert_close(encoder.state_dict(), peer.state_dict())
    for found, expected in zip(encoder.eval()(image), peer.eval()(image), strict=True):
        assert torch.equal(found, expected)
    for network in (encoder, peer):
        network.train()(image)[-1].square().mean().backward()
    torch.testing.assert_close(encoder.conv_stem.weight.grad, peer.conv_stem.weight.grad)


def test_random_weights_keep_the_size_of_activations() -> None:
    torch.manual_seed(0)
    deepest = Lite0Encoder(3).train()(torch.randn(4, 3, 64, 64))[-1]
    assert 0.3 < deepest.std() < 3
