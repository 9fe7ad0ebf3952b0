"""Networks by name: what a weights file names, a configuration can build."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rscd.base.arguments import check_names, made
from rscd.base.errors import ModelError, RscdError
from rscd.models.cam import cam_classifier
from rscd.models.lite import LiteChangeNet
from rscd.models.scene_compact import scene_compact
from rscd.models.semantic import SemanticChangeNet
from rscd.models.siamese import siamese_deeplab, siamese_mlp, siamese_unet
from rscd.models.simsac import simsac
from rscd.models.tiny import TinyChangeNet
from rscd.models.torchgeo_nets import btc, change_vit, fc_siam_conc, fc_siam_diff

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "tiny": TinyChangeNet,
    "semantic": SemanticChangeNet,
    "semantic-lite": LiteChangeNet,
    "siamese-unet": siamese_unet,
    "siamese-mlp": siamese_mlp,
    "siamese-deeplab": siamese_deeplab,
    "cam": cam_classifier,
    "simsac": simsac,
    "scene-compact": scene_compact,
    "fc-siam-diff": fc_siam_diff,
    "fc-siam-conc": fc_siam_conc,
    "changevit": change_vit,
    "btc": btc,
}
"""Builders of plain data: ``n_bands``, ``mean``, ``std`` and more.

Each network maps image (B,2,C,H,W) raw to ``{"logits": (B,K,H,W), ...}``, K 1 or 2, and has an
attribute ``multiple``, of which the sides of images should be.
"""


def build_network(name: str, args: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights.

    Args:
        name: one of `NETWORKS`.
        args: of its builder; ``symmetric: true`` wraps any in `Symmetric`. Their ``weights`` change
            values only: where a file or checkpoint is loaded next, None builds the same network
            without a download.

    Raises:
        ModelError: for an unknown name or argument, or weights that cannot be had.
    """
    builder = _builder(name)
    given = dict(args)
    symmetric = given.pop("symmetric", False)
    what = f"network_args of {name}"
    check_names(given, [*inspect.signature(builder).parameters, "symmetric"], what, ModelError)
    try:
        network = made(builder, given, what)
    except RscdError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(str(error)) from error
    except Exception as error:  # sizes that fit no layer end in any error of torch and timm
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"expected network_args with which {name} can be built, found {given}: {reason}"
        ) from error
    return Symmetric(network) if symmetric else network


def multiple_of(network: nn.Module) -> int:
    """Of which the sides of images should be, in pixels, as the network says; 1 where it does not.

    The only place that has a default for it.
    """
    return int(getattr(network, "multiple", 1))


def bands_of(name: str, args: Mapping[str, Any]) -> int:
    """Bands per date that a network takes.

    Args:
        name: one of `NETWORKS`.
        args: of its builder, whose own default counts where they do not say.

    Raises:
        ModelError: for an unknown name.
    """
    usual = inspect.signature(_builder(name)).parameters["n_bands"].default
    return int(args.get("n_bands", usual))


def _builder(name: str) -> Callable[..., nn.Module]:
    if name not in NETWORKS:
        raise ModelError(f"expected a network among {', '.join(NETWORKS)}, found {name!r}")
    return NETWORKS[name]


class Symmetric(nn.Module):
    """Predicts the same whichever date comes first: the mean of the logits of both orders.

    Training runs the pair as it comes, at half the cost; outputs besides ``logits`` are those of
    the pair as it comes.
    """

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network of `NETWORKS`."""
        super().__init__()
        self.network = network
        self.multiple = multiple_of(network)

    def forward(self, image: Tensor, **options: Any) -> dict[str, Tensor]:
        """Image (B,2,C,H,W) -> what the network gives, ``logits`` averaged when not in training."""
        outputs: dict[str, Tensor] = self.network(image, **options)
        if self.training:
            return outputs
        swapped: dict[str, Tensor] = self.network(image.flip(1), **options)
        return outputs | {"logits": (outputs["logits"] + swapped["logits"]) / 2}


def receptive_radius(network: nn.Module, n_bands: int, size: int | None = None) -> int | None:
    """How many pixels around a tile its result depends on, measured by the gradient of the input.

    The tile starts and ends at multiples of what the network takes, as all tiles do: a single pixel
    inside may look a little farther from itself.

    Args:
        network: image (1,2,C,size,size) -> ``logits``.
        n_bands: C.
        size: side of the probe, rounded up to what the network takes; default what the network
            names as ``probe_size``, else 512.

    Returns:
        Pixels per side; None when the probe's edge is reached: then it is `size` / 2 or more, or
        the network pools over the whole image, which one with ``local = False`` says at once.
    """
    if not getattr(network, "local", True):
        return None
    network = network.eval()
    size = _fitting(network, size or int(getattr(network, "probe_size", 512)))
    tile = _fitting(network, 32)
    random = torch.Generator().manual_seed(0)  # not the global one, which training resumes from
    image = torch.randn(1, 2, n_bands, size, size, generator=random).requires_grad_()
    start = _fitting(network, size // 2)
    seen = network(image)["logits"][..., start : start + tile, start : start + tile]
    (gradient,) = torch.autograd.grad(seen.sum(), image)
    reached = gradient.abs().sum(dim=(0, 1, 2)).nonzero()
    first, last = int(reached.min()), int(reached.max())
    if first == 0 or last == size - 1:
        return None
    return max(start - first, last - (start + tile - 1))


def _fitting(network: nn.Module, size: int) -> int:
    """The next multiple of what the network takes."""
    multiple = multiple_of(network)
    return -(-size // multiple) * multiple


def bytes_per_pixel(network: nn.Module, n_bands: int, size: int = 256) -> int:
    """Working memory of a forward pass per pixel of one image pair, from the size of activations.

    An upper estimate: what the encoder keeps for the decoder, and three times the largest layer.
    """
    sizes: list[int] = []
    size = _fitting(network, size)

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
