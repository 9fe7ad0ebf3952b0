"""Trained networks as models: a weights file describes itself and is never unpickled."""

import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rscd.errors import ModelError
from rscd.inference.predictor import Block, Tiling
from rscd.models.networks import build_network, bytes_per_pixel, receptive_radius
from rscd.types import BoolArray, FloatArray, Provenance

CARD_KEY = "rscd"
FORMAT = 1


def save_weights(
    path: Path, network: nn.Module, name: str, args: Provenance, card: Provenance
) -> None:
    """Write a network's weights with all that prediction needs.

    Args:
        path: ends in .safetensors.
        network: made by ``build_network(name, args)``.
        name: of the network.
        args: plain data.
        card: ``halo``, ``multiple``, ``patch_size`` in pixels, ``threshold``; and whatever else is
            worth knowing (bands, data, metrics, licence).
    """
    n_bands = int(args["n_bands"])
    full = {
        "format": FORMAT,
        "network": name,
        "network_args": dict(args),
        "receptive_radius": receptive_radius(network, n_bands),
        "bytes_per_pixel": bytes_per_pixel(network, n_bands),
        **card,
    }
    partial = path.with_name(f".{path.name}.partial")
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, partial, {CARD_KEY: json.dumps(full, sort_keys=True)})
    partial.replace(path)


def read_card(path: Path) -> Provenance:
    """The card of a weights file, without its tensors.

    Raises:
        ModelError: when it is no such file.
    """
    if not path.is_file():
        raise ModelError(f"expected a weights file, found none at {path}; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"expected a safetensors file, found damage or another format in {path} ({error}); "
            "copy it again"
        ) from error
    if CARD_KEY not in metadata:
        raise ModelError(
            f"expected weights written by rscd, found a safetensors file without its card: {path}"
        )
    card: Provenance = json.loads(metadata[CARD_KEY])
    if card.get("format") != FORMAT:
        raise ModelError(
            f"expected weights of format {FORMAT}, found {card.get('format')} in {path}; update "
            "rscd"
        )
    return card


@dataclass(frozen=True)
class Network:
    """A network in a file, as `Model` and `Predictor`; loads on the first call in each process."""

    path: Path
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """Cores a call may use."""
    name: str
    summary: str
    threshold: float
    tiling: Tiling
    n_bands: int
    sha256: str

    def card(self) -> Provenance:
        """All that the file says of itself, and its hash."""
        return {"name": self.name, "sha256": self.sha256, **read_card(self.path)}

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> "Network":
        """Nothing to learn from the scene: no pass over it."""
        return self

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``.

        Raises:
            ModelError: when the image has other bands than the network.
        """
        if image.shape[2] != self.n_bands:
            raise ModelError(
                f"expected {self.n_bands} bands for {self.name}, found {image.shape[2]}; choose "
                "them with --bands"
            )
        network = loaded(self.path, self.device)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            logits = network(torch.from_numpy(image).to(self.device))["logits"]
            prob: FloatArray = logits.float().sigmoid()[:, 0].cpu().numpy()
        return prob


_lock = threading.Lock()
_networks: dict[tuple[Path, str], nn.Module] = {}


def loaded(path: Path, device: str) -> nn.Module:
    """The network of a weights file, ready to predict; one per process, whoever asks.

    Raises:
        ModelError: see `read_card`.
    """
    with _lock:
        if (path, device) not in _networks:
            card = read_card(path)
            network = build_network(card["network"], card["network_args"])
            network.load_state_dict(load_file(path))
            network = network.eval().to(device)
            if device == "cpu":  # oneDNN then copies less: a quarter less time for a ResNet-18
                network = network.to(memory_format=torch.channels_last)
            _networks[path, device] = network
        return _networks[path, device]


def load_network(path: Path, device: str, threads: int) -> Network:
    """A weights file as a model.

    Args:
        path: written by `save_weights`.
        device: ``auto`` takes a GPU where there is one.
        threads: cores a call may use.

    Raises:
        ModelError: for a file that cannot be used, or a GPU that is not there.
    """
    card = read_card(path)
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("expected a CUDA GPU for --device cuda, found none; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Network(
        path=path,
        device=device,
        threads=threads,
        name=str(card.get("name", path.stem)),
        summary=str(card.get("summary", card["network"])),
        threshold=float(card["threshold"]),
        tiling=_tiling(card, device),
        n_bands=int(card["network_args"]["n_bands"]),
        sha256=sha256,
    )


def _tiling(card: dict[str, Any], device: str) -> Tiling:
    halo, multiple, radius = card["halo"], card["multiple"], card["receptive_radius"]
    return Tiling(
        halo=halo,
        multiple=multiple,
        tile_size=max(multiple, card["patch_size"] - 2 * halo),
        batch_size=8 if device == "cuda" else 1,
        bytes_per_pixel=card["bytes_per_pixel"],
        exact=radius is not None and radius <= halo,
    )
