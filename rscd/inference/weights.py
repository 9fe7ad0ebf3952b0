"""Weights on disk: safetensors with a card in the header, or a training checkpoint.

Neither runs code when it is read: a file that would have to be unpickled is refused.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from rscd.errors import ModelError
from rscd.files import write_verified
from rscd.models.finite import non_finite
from rscd.types import CARD_FORMAT, CARD_KEY, NETWORK_PREFIX, Provenance

CHECKPOINT = ".ckpt"


def write_weights(path: Path, tensors: dict[str, Tensor], card: Provenance) -> None:
    """Write safetensors with their card.

    Args:
        path: ends in .safetensors.
        tensors: of the network.
        card: plain data.

    Raises:
        ModelError: for tensors that hold NaN or infinity.
        OSError: where the file cannot be written, or does not read back as it was written.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    _check_finite(plain, path)
    full = {"format": CARD_FORMAT, **card}
    write_verified(path, save(plain, {CARD_KEY: json.dumps(full, sort_keys=True)}))


def read_card(path: Path) -> Provenance:
    """The card of a weights file.

    Raises:
        ModelError: when it is no such file.
    """
    if not path.is_file():
        raise ModelError(f"expected a weights file, found none at {path}; check the path")
    card = _checkpoint(path).get(CARD_KEY) if _is_checkpoint(path) else _safetensors_card(path)
    if card is None:
        raise ModelError(f"expected weights written by rscd, found a file without its card: {path}")
    if card.get("format") != CARD_FORMAT:
        raise ModelError(
            f"expected weights of format {CARD_FORMAT}, found {card.get('format')} in {path}; "
            "update rscd"
        )
    return dict(card)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the network that predicts, by the network's own names.

    Raises:
        ModelError: when it is no such file, or its tensors hold NaN or infinity.
    """
    tensors = _network_state(path) if _is_checkpoint(path) else dict(load_file(path))
    _check_finite(tensors, path)
    return tensors


def _network_state(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = _checkpoint(path)["state_dict"]
    cut = len(NETWORK_PREFIX)
    return {key[cut:]: value for key, value in state.items() if key.startswith(NETWORK_PREFIX)}


def _check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    broken = non_finite(tensors)
    if broken:
        raise ModelError(
            f"expected weights that are numbers in {path}, found NaN or infinity in "
            f"{len(broken)} of {len(tensors)} tensors, such as {broken[0]}: their training "
            "diverged; take an earlier checkpoint, or train again with a lower model.lr"
        )


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == CHECKPOINT


def _safetensors_card(path: Path) -> Provenance | None:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CARD_KEY)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"expected a safetensors file, found damage or another format in {path} ({error}); "
            "copy it again"
        ) from error
    return None if text is None else json.loads(text)


def _checkpoint(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"expected a checkpoint of plain data, found one that would run code when loaded: "
            f"{path}; it is refused, export its weights as safetensors where they were made"
        ) from error
    except Exception as error:  # damage makes torch.load raise anything
        raise ModelError(
            f"expected a checkpoint, found damage or another format in {path} "
            f"({' '.join(str(error).split())}); copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f"expected a training checkpoint, found {type(content).__name__} in {path}"
        )
    return content
