"""Parameter groups with separate learning rates (KD-MSI notes, section 3.5)."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

RATES = (1, 2, 10, 20)
"""Multiples of the base rate: pretrained weights and biases, new weights and biases."""


def transfer_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], pretrained: Callable[[str], bool], lr: float
) -> list[dict[str, Any]]:
    """Four groups: pretrained parameters get a low rate, new ones a high rate; biases no decay.

    A parameter is a weight if ``weight`` is in its name, including scales of normalisation layers.
    Weights get the optimiser's weight decay.

    Args:
        parameters: names and parameters; frozen ones are omitted.
        pretrained: whether the parameter with this name is pretrained.
        lr: base rate.

    Returns:
        Groups number 0 to 3 in the order of `RATES`, each with its ``params``, ``lr`` and, for
        biases, ``weight_decay`` 0. Groups may be empty.
    """
    groups: list[dict[str, Any]] = [{"params": [], "lr": rate * lr} for rate in RATES]
    for name, parameter in parameters:
        if parameter.requires_grad:
            is_bias = "weight" not in name
            groups[2 * (not pretrained(name)) + is_bias]["params"].append(parameter)
    for biases in groups[1::2]:
        biases["weight_decay"] = 0.0
    return groups
