"""Encoders of segmentation-models-pytorch and timm: their names, and removal of unused stages."""

import torch
from torch import nn

from rscd.base.errors import ModelError

STRIDE_16 = "resnet50-s16"
LITE = "lite0"


def check_smp_names(name: str, weights: str | None) -> None:
    """Refuse encoders and weights that neither segmentation-models-pytorch nor timm has.

    Raises:
        ModelError: listing the available names.
    """
    from segmentation_models_pytorch.encoders import encoders
    from timm import is_model

    timm_name = name.removeprefix("tu-").partition(".")[0]
    if name not in encoders and not (name.startswith("tu-") and is_model(timm_name)):
        raise ModelError(
            f"expected an encoder of segmentation-models-pytorch, 'tu-' and one of timm, 'tg-' and "
            f"one of TorchGeo, {STRIDE_16!r} or {LITE!r}, found {name!r}"
        )
    known = () if name.startswith("tu-") else tuple(encoders[name]["pretrained_settings"])
    if weights is not None and weights not in (known or ("imagenet",)):
        raise ModelError(
            f"expected weights of {name} among {', '.join(known or ('imagenet',))}, or null, or a "
            f"local file, found {weights!r}"
        )


def drop_unused(name: str, encoder: nn.Module, n_bands: int) -> None:
    """Remove the stages that a shallow encoder keeps but never runs.

    Their parameters would get no gradient, which distributed training refuses, and enlarge files.
    """
    if name.startswith("tu-"):  # timm itself omits stages that are not requested
        return
    called: set[nn.Module] = set()
    hooks = [
        module.register_forward_hook(lambda module, *_: called.add(module))
        for module in encoder.modules()
    ]
    training = encoder.training
    with torch.no_grad():
        encoder.eval()(torch.zeros(1, n_bands, 64, 64))
    encoder.train(training)
    for hook in hooks:
        hook.remove()
    _drop(encoder, called)


def _drop(module: nn.Module, called: set[nn.Module]) -> None:
    for name, child in module.named_children():
        if called.isdisjoint(child.modules()):
            setattr(module, name, nn.Identity())
        elif child not in called:  # a container whose members are called one by one
            _drop(child, called)
