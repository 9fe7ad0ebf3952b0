"""Networks as graphs for other programs: ONNX, and exported programs of torch (``.pt2``).

Both hold folded weights, take ``image`` (B,2,C,H,W) float32 raw values, t1 first, of any batch and
of sides that are multiples of the card's ``multiple``, and return probabilities, see
`rscd.inference.onnx_network`. Both carry the card. What is written was run at two sizes before, and
gave what the network gives.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rscd.base.border import border, reason
from rscd.base.errors import ModelError
from rscd.base.files import sha256_of, write_verified, writing
from rscd.base.types import CARD_FORMAT, CARD_KEY, Provenance
from rscd.inference.card import WEIGHTS_SHA256
from rscd.inference.kinds import MARGIN
from rscd.inference.models import ONNX_SUFFIX
from rscd.inference.onnx_network import BUILDINGS, CHANGE, IMAGE
from rscd.inference.weights import measured, read_card, read_network, teacher_card
from rscd.models.folding import folded
from rscd.models.logits import change_logit
from rscd.models.networks import bands_of, multiple_of, probe_image

OPSET = 20
"""Version of the standard operators; ONNX Runtime 1.17 and later know them."""
TOLERANCE = 1e-4
"""Largest difference of a probability."""
MOST_SIDE = 1 << 14
"""Largest side of an image in pixels, and largest batch: bounds that torch asks for."""


class Graph(nn.Module):
    """A network that returns probabilities alone."""

    def __init__(self, network: nn.Module, *, buildings: bool) -> None:
        """Take a network in evaluation mode; ``buildings``: whether they are returned too."""
        super().__init__()
        self.network, self.buildings = network, buildings

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B,2,C,H,W) -> (B,H,W) change and, if wanted, (B,2,H,W) buildings."""
        found = self.network(image)
        change = change_logit(found["logits"].float()).sigmoid()[:, 0]
        return (change, found["buildings"].float().sigmoid()) if self.buildings else (change,)


def export_graph(source: Path, target: Path, *, teacher: bool = False) -> Provenance:
    """Write the network of a weights file or checkpoint as a graph.

    Args:
        source: see `rscd.inference.weights.read_card`.
        target: ends in ``.onnx`` or ``.pt2``.
        teacher: the teacher in place of the network that predicts.

    Returns:
        The card, as it is in the file.

    Raises:
        ModelError: the weights cannot be used, or this network cannot be exported.
        OutputError: it cannot be written.
    """
    card, graph, n_bands = graph_of(source, teacher=teacher)
    step = multiple_of(graph.network)
    side = max(2 * step, 64 // step * step)
    with exporting(card, target):
        program = traced(graph, n_bands, side, step)
        write = as_onnx if target.suffix == ONNX_SUFFIX else as_program
        content, run = write(program, graph, card)
        apart = largest_difference(graph, run, n_bands, side, step)
        if not apart <= TOLERANCE:
            raise ValueError(f"probabilities {apart:.1g} apart")
    with writing(target):
        write_verified(target, content)
    return card


def graph_of(source: Path, *, teacher: bool = False) -> tuple[Provenance, Graph, int]:
    """The folded network of a weights file or checkpoint, its card, and its bands per date.

    Raises:
        ModelError: the weights cannot be used.
    """
    card = read_card(source)
    card, tensors = teacher_card(card, source) if teacher else (card, None)
    network = read_network(source, card, tensors)
    card = {key: value for key, value in card.items() if key != "teacher"}
    card |= measured(network, card) | {"format": CARD_FORMAT, WEIGHTS_SHA256: sha256_of(source)}
    n_bands = bands_of(card["network"], card["network_args"])
    image = probe_image(network, n_bands)
    return card, Graph(folded(network, image), buildings=MARGIN in card).eval(), n_bands


def traced(graph: Graph, n_bands: int, side: int, step: int) -> torch.export.ExportedProgram:
    """The graph for any batch and any sides that are multiples of a step.

    Args:
        graph: in evaluation mode.
        n_bands: bands per date.
        side: of the example, in pixels; a multiple of the step.
        step: in pixels.
    """
    image = torch.rand(2, 2, n_bands, side, side + step) * 255
    most = MOST_SIDE // step
    batch, rows, cols = (
        torch.export.Dim(name, min=1, max=high)
        for name, high in (("batch", MOST_SIDE), ("rows", most), ("cols", most))
    )
    sizes = {0: batch, 3: rows * step, 4: cols * step} if step > 1 else {0: batch, 3: rows, 4: cols}
    with torch.no_grad():
        return torch.export.export(graph, (image,), dynamic_shapes={IMAGE: sizes}, strict=False)


Run = Callable[[Tensor], "list[Tensor]"]
"""An image -> the outputs of what was written."""


def as_onnx(program: Any, graph: Graph, card: Provenance) -> tuple[bytes, Run]:
    """An ONNX file with a card, and what it is to run it.

    Raises:
        ModelError: a package is missing; and what the exporter of torch raises.
    """
    check_onnx()
    outputs = [CHANGE, BUILDINGS] if graph.buildings else [CHANGE]
    made: Any = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[IMAGE], output_names=outputs,
        verbose=False,
    )  # fmt: skip
    return onnx_file(made.model_proto, {CARD_KEY: json.dumps(card, sort_keys=True)})


def check_onnx() -> None:
    """Refuse to write ONNX where a package is missing.

    Raises:
        ModelError: one is; it is named.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  (torch needs it)
    except ImportError as error:
        raise ModelError(
            f"expected onnx and onnxscript to write {ONNX_SUFFIX}, found no {error.name}; "
            "pip install 'rscd[export]'"
        ) from error


def onnx_file(model: Any, metadata: Mapping[str, str]) -> tuple[bytes, Run]:
    """The content of an ONNX file of one input, and what it is to run it."""
    import onnx
    import onnxruntime

    for part in (model.graph, *model.functions):
        _forget_places(part)
    onnx.helper.set_model_props(model, dict(metadata))
    content = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [name] = [each.name for each in session.get_inputs()]

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(x) for x in session.run(None, {name: image.numpy()})]

    return content, run


def _forget_places(part: Any) -> None:
    """Drop what the exporter notes of every node: the lines of code, with paths of this machine."""
    for node in part.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _forget_places(inner)
    for name in ("input", "output", "value_info", "initializer"):
        for one in getattr(part, name, ()):
            if not isinstance(one, str):  # functions name theirs
                one.ClearField("metadata_props")
                one.ClearField("doc_string")
    part.ClearField("metadata_props")
    part.ClearField("doc_string")


def as_program(program: Any, graph: Graph, card: Provenance) -> tuple[bytes, Run]:
    """An exported program of torch with a card, and what it is to run it."""
    file = io.BytesIO()
    extra: Mapping[str, Any] = {CARD_KEY: json.dumps(card, sort_keys=True)}
    torch.export.save(program, file, extra_files=dict(extra))
    again = torch.export.load(io.BytesIO(file.getvalue())).module()

    def run(image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(again(image))

    return file.getvalue(), run


def largest_difference(graph: Graph, run: Run, n_bands: int, side: int, step: int) -> float:
    """Of a probability, for images of sizes that were not traced."""
    apart = [0.0]
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((1, side + step, side), (2, side, side + 2 * step)):
        image = torch.rand(batch, 2, n_bands, height, width, generator=generator) * 255
        with torch.no_grad():
            wanted = graph(image)
        for ours, theirs in zip(wanted, run(image), strict=True):
            apart.append(float((ours - theirs).abs().max()))
    return float(np.max(apart))  # NaN, if one is


@contextmanager
def exporting(card: Provenance, target: Path) -> Iterator[None]:
    """Neither warnings nor progress of exporters; what they raise becomes one line.

    Raises:
        ModelError: this network cannot be exported.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), border(lambda e: _not_exported(card, target, e)):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _not_exported(card: Provenance, target: Path, error: Exception) -> ModelError:
    return ModelError(
        f"expected a network that can be written as {target.suffix}, found {card['network']}: "
        f"{reason(error)[:200]}; export it as .safetensors"
    )
