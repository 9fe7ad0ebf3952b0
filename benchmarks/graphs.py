"""Which networks can be written as ONNX, and how far ONNX Runtime is from torch.

    python benchmarks/graphs.py [--networks tiny semantic ...]

Every network with random weights and small encoders, as `rscd model export` writes it: any batch,
any sides that are multiples of the network's. Prints a table: largest difference of a probability
at two sizes that were not traced, kB of the file, processor seconds; or why it cannot be written.
"""

import argparse
import logging
import time
import warnings
from typing import Any

import torch
from tables import markdown

from rscd.inference.graphs import Graph, as_onnx, largest_difference, traced
from rscd.models.networks import NETWORKS, build_network, multiple_of

UNET = {"encoder": "resnet18", "decoder_channels": [32, 16, 8]}
TIMM = {"encoder": "tu-resnet18"}
ARGS: dict[str, dict[str, Any]] = {
    "siamese-unet": UNET,
    "siamese-mlp": TIMM | {"width": 16},
    "siamese-deeplab": TIMM | {"batch_norm": "normal"},
    "cam": TIMM | {"combination": "abs"},
    "simsac": {"low_size": 64},
    "scene-compact": {"low_size": 64},
    "fc-siam-diff": UNET,
    "fc-siam-conc": UNET,
    "changevit": {"img_size": 64},
}
"""Small forms of networks."""


def row(name: str) -> list[object]:
    """A row of the table."""
    torch.manual_seed(0)
    graph = Graph(build_network(name, ARGS.get(name, {})), buildings=False).eval()
    step = multiple_of(graph.network)
    side = max(2 * step, 64 // step * step)
    start = time.process_time()
    try:
        content, run = as_onnx(traced(graph, 3, side, step), graph, {})
        apart = largest_difference(graph, run, 3, side, step)
    except Exception as error:  # of torch's exporter, of any kind
        return [name, " ".join(str(error).split())[:150], "", ""]
    cpu = time.process_time() - start
    return [name, f"{apart:.1e}", len(content) // 1000, f"{cpu:.0f}"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    names = parser.parse_args().networks
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    head = ["network", "largest difference", "kB", "cpu s"]
    print(markdown(head, map(row, names)))


if __name__ == "__main__":
    main()
