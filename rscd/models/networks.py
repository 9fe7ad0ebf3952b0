"""Networks by name, as named in weights files and configurations."""

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
"""Builders that take plain data: ``n_bands``, ``mean``, ``std`` and more.

Each network maps a raw image (B,2,C,H,W) to ``{"logits": (B,K,H,W), ...}``, K 1 or 2, and has an
attribute ``multiple``: image sides should be multiples of it.
"""


def build_network(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Build a network with new weights.

    Args:
        name: one of `NETWORKS`.
        args: of its builder; ``symmetric: true`` wraps any network in `Symmetric`. The argument
            ``weights`` changes only values: if a file or checkpoint is loaded next, None builds the
            same network without a download.

    Raises:
        ModelError: for an unknown name or argument, or weights that cannot be obtained.
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
    except Exception as error:  # impossible sizes raise arbitrary errors in torch and timm
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
    """Symmetric in the dates: the mean of the logits of both orders.

    Training uses the given order only, at half the cost; outputs other than ``logits`` are those of
    the given order.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple_of(network)

    def forward(self, image: Tensor, **options: Any) -> dict[str, Tensor]:
        """Image (B,2,C,H,W) -> outputs of the network, ``logits`` averaged when not training."""
        outputs: dict[str, Tensor] = self.network(image, **options)
        if self.training:
            return outputs
        swapped: dict[str, Tensor] = self.network(image.flip(1), **options)
        return outputs | {"logits": (outputs["logits"] + swapped["logits"]) / 2}


NEGLIGIBLE = 2e-5
"""Share of the influence of all pixels on a result below which tiles are taken to join exactly."""


def receptive_radius(
    network: nn.Module, n_bands: int, size: int | None = None, negligible: float = NEGLIGIBLE
) -> int | None:
    """Number of pixels around a tile that its result depends on, from the input's gradient.

    The influence of the outermost pixels of a receptive field is many orders of magnitude smaller
    than that of the others (Luo et al. 2016, arXiv 1701.04128). What moves no result by more than
    the order of its rounding is not counted: for the network that ships, 191 pixels of 265, and
    probabilities differ by less than 1e-5 where the others are cut off.

    The tile starts and ends at multiples of the network's ``multiple``, as all tiles do; the
    receptive field of a single pixel inside may extend slightly further.

    Args:
        network: image (1,2,C,size,size) -> ``logits``.
        n_bands: C.
        size: side of the probe, rounded up to a multiple of the network's; default the network's
            ``probe_size``, else 512.
        negligible: share of the sum of all gradients that pixels outside the radius may have.

    Returns:
        Pixels per side; None if the probe's edge is reached: the radius is then `size` / 2 or more,
        or the network pools over the whole image (declared by ``local = False``).
    """
    if not getattr(network, "local", True):
        return None
    network = network.eval()
    size = _fitting(network, size or int(getattr(network, "probe_size", 512)))
    tile = _fitting(network, 32)
    image = probe_image(network, n_bands, size).requires_grad_()
    start = _fitting(network, size // 2)
    seen = network(image)["logits"][..., start : start + tile, start : start + tile]
    (gradient,) = torch.autograd.grad(seen.sum(), image)
    influence = gradient.abs().sum(dim=(0, 1, 2)).double()
    if influence[0].any() or influence[-1].any() or influence[:, 0].any() or influence[:, -1].any():
        return None
    place = torch.arange(size)
    away = torch.maximum((start - place).clamp(min=0), (place - (start + tile - 1)).clamp(min=0))
    distance = torch.maximum(away[:, None], away[None, :]).flatten()
    rings = torch.zeros(size, dtype=torch.float64).index_add_(0, distance, influence.flatten())
    beyond = rings.flip(0).cumsum(0).flip(0)  # by distance: of this distance and all above
    return int((beyond > negligible * beyond[0]).nonzero().max())


def probe_image(network: nn.Module, n_bands: int, size: int = 64) -> Tensor:
    """(1,2,n_bands,size,size) noise of an own generator; `size` is rounded up to a multiple."""
    size = _fitting(network, size)
    # not the global generator, whose state is part of resumed training
    return torch.randn(1, 2, n_bands, size, size, generator=torch.Generator().manual_seed(0))


def _fitting(network: nn.Module, size: int) -> int:
    """The next multiple of what the network takes."""
    multiple = multiple_of(network)
    return -(-size // multiple) * multiple


def bytes_per_pixel(network: nn.Module, n_bands: int, size: int = 256) -> int:
    """Working memory of a forward pass per pixel of one image pair, from the size of activations.

    An upper estimate: the encoder's maps kept for the decoder, and three times the largest layer.
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
