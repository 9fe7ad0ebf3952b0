"""Networks by name: what a weights file names, a configuration can build."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rscd.errors import ModelError
from rscd.models.siamese import siamese_unet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "siamese-unet": siamese_unet,
}


def build_network(name: str, args: dict[str, Any]) -> nn.Module:
    """A network with fresh weights.

    Raises:
        ModelError: for an unknown name.
    """
    if name not in NETWORKS:
        raise ModelError(f"expected a network among {', '.join(NETWORKS)}, found {name!r}")
    return NETWORKS[name](**args)


def receptive_radius(network: nn.Module, n_bands: int, size: int = 512) -> int | None:
    """How far a pixel of the result looks, measured by the gradient that reaches the input.

    Args:
        network: image (1,2,C,size,size) -> ``logits``.
        n_bands: C.
        size: side of the probe, a multiple of the network's stride.

    Returns:
        Pixels per side; None when the probe's edge is reached: then it is `size` / 2 or more, or
        the network pools over the whole image.
    """
    network = network.eval()
    image = torch.randn(1, 2, n_bands, size, size, requires_grad=True)
    centre = size // 2
    # a block of outputs: strided networks look farther at some phases than at others
    network(image)["logits"][..., centre : centre + 32, centre : centre + 32].sum().backward()
    gradient = torch.zeros(1) if image.grad is None else image.grad
    reached = gradient.abs().sum(dim=(0, 1, 2)).nonzero()
    first, last = int(reached.min()), int(reached.max())
    if first == 0 or last == size - 1:
        return None
    return max(centre - first, last - centre - 31)


def bytes_per_pixel(network: nn.Module, n_bands: int, size: int = 256) -> int:
    """Working memory of a forward pass per pixel of one image pair, from the size of activations.

    An upper estimate: what the encoder keeps for the decoder, and three times the largest layer.
    """
    sizes: list[int] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    leaves = [m for m in network.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 2, n_bands, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return -(-(3 * max(sizes) + sum(sizes) // 4) // size**2)
