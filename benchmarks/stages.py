"""Where the processor time of `rscd predict -m buildings` goes, and what makes its network faster.

    python benchmarks/stages.py [--size 2048] [--town 2048] [--probe 512] [--repeat 2]
        [--only WHAT]

On a synthetic town of `rscd sample`, repeated where `--town` is less than `--size`, with one thread
each. Prints JSON, an object per line:

- stages: processor seconds per megapixel of one run in this process, by what they are spent on:
  reading and aligning both dates, resampling to the network's resolution (none here), the network,
  the tiles' way to disk, the checks before the first tile, the mask, the polygons, their
  regularization, and the files; `rest` is what is left of the whole. Beside them the whole over its
  network;
- commands: `rscd predict` from start-up to the end with torch and with ONNX Runtime: processor
  seconds and peak MB of each process, and whether polygons are byte-identical;
- network: processor seconds per megapixel of the bare network on one square image, least of
  all repeats after one call, in variants, with the largest difference of a probability from the
  first one and the share of pixels that change sides of the threshold.

A variant that does not work here is reported with the reason.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from machine import machine
from rasterio.windows import Window
from system_time import run as command

from rscd import Options, open_pair, predict
from rscd.base.heap import keep_freed_memory
from rscd.geo import measure
from rscd.geo.changemap import ChangeMap, RawRaster
from rscd.geo.scene import ScenePair
from rscd.inference import adapted
from rscd.inference.graphs import Graph, traced
from rscd.inference.journal import Journal
from rscd.inference.models import load_model
from rscd.inference.network import load_network, loaded
from rscd.inference.onnx_network import OnnxNetwork
from rscd.inference.shipped import SHIPPED, shipped_path
from rscd.pipeline import maps

STAGES: dict[str, list[tuple[Any, str]]] = {
    "read": [(ScenePair, "context")],
    "resample": [(adapted, "resampled")],
    "network": [(OnnxNetwork, "with_buildings")],
    "to disk": [(RawRaster, "write"), (Journal, "add")],
    "checks": [(maps, "_rehearse"), (maps, "warn_of_shift"), (maps, "warn_of_near_infrared")],
    "mask": [(ChangeMap, "threshold_mask")],
    "polygons": [(maps, "change_polygons")],
    "regularize": [(measure.Ground, "regularize")],
    "files": [(maps, "write_output")],
}
"""Functions whose own time, without that of each other, is that of a stage."""


@contextmanager
def clocks(found: dict[str, float]) -> Iterator[None]:
    """Note the processor time of all `STAGES` in the threads that run them."""
    stack: dict[int, list[str]] = defaultdict(list)
    places = [place for stage in STAGES.values() for place in stage]
    before = [(owner, name, getattr(owner, name)) for owner, name in places]

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **keywords: Any) -> Any:
            outer = stack[threading.get_ident()]
            start = time.thread_time()
            outer.append(stage)
            try:
                return function(*args, **keywords)
            finally:
                outer.pop()
                took = time.thread_time() - start
                found[stage] += took
                if outer:
                    found[outer[-1]] -= took

        return wrapper

    for stage, functions in STAGES.items():
        for owner, name in functions:
            setattr(owner, name, timed(stage, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def repeated(path: Path, target: Path, size: int) -> None:
    """Lay the image over a square of `size` pixels, again and again from its top left corner."""
    with rasterio.open(path) as town:
        image, profile = town.read(), town.profile
    side = image.shape[1]
    profile |= {"height": size, "width": size}
    with rasterio.open(target, "w", **profile) as scene:
        for row in range(0, size, side):
            for col in range(0, size, side):
                window = Window(col, row, min(side, size - col), min(side, size - row))
                scene.write(image[:, : window.height, : window.width], window=window)


def town(folder: Path, size: int, side: int) -> list[str]:
    """Both dates of the scene."""
    shape = f"{min(size, side)},{min(size, side)}"
    subprocess.run(
        [sys.executable, "-m", "rscd", "sample", "-o", folder / "town", "--size", shape, "-q"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    images = [folder / "town" / f"scene_{date}.tif" for date in ("t1", "t2")]
    if side < size:
        for image in images:
            repeated(image, folder / image.name, size)
        images = [folder / image.name for image in images]
    return [str(image) for image in images]


def stages(images: Sequence[str], folder: Path, megapixels: float) -> dict[str, Any]:
    """One run in this process."""
    found: dict[str, float] = defaultdict(float)
    load_model(SHIPPED, "cpu")  # before the clocks are set
    t1, t2 = images
    pair = open_pair(t1, t2)
    cpu, system = time.process_time(), os.times().system
    with clocks(found):
        how = Options(model=SHIPPED, device="cpu", workers=1, overwrite=True)
        result = predict(pair, [folder / "stages.gpkg", folder / "stages.tif"], how)
    cpu, system = time.process_time() - cpu, os.times().system - system
    found["rest"] = cpu - sum(found.values())
    each = {stage: round(seconds / megapixels, 4) for stage, seconds in found.items()}
    return {
        "cpu_s": round(cpu, 1),
        "system_s": round(system, 1),
        "peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        "polygons": result.n_polygons,
        "over_network": round(cpu / found["network"], 3),
        "cpu_s_per_megapixel": each,
    }


def commands(images: list[str], folder: Path, repeat: int) -> dict[str, Any]:
    """Whole commands with both runtimes, in turn."""
    found: dict[str, Any] = {"torch": [], "onnx": []}
    for _ in range(repeat):
        for way, model in (("torch", str(shipped_path())), ("onnx", SHIPPED)):
            out = ["-o", str(folder / f"{way}.geojson"), "-q", "--overwrite", "--device", "cpu"]
            line = [sys.executable, "-m", "rscd", "predict", *images, "-m", model, *out]
            found[way].append(command(line))
    same = (folder / "torch.geojson").read_bytes() == (folder / "onnx.geojson").read_bytes()
    return found | {"identical": same}


Run = Callable[[torch.Tensor], torch.Tensor]
"""An image -> probabilities of change."""


def variants(folder: Path) -> dict[str, Callable[[], Run]]:
    """What makes the network in each of its forms."""
    model = load_network(shipped_path(), "cpu", 1)
    graph = Graph(loaded(model.path, "cpu", model.sha256), buildings=True).eval()

    def plain(image: torch.Tensor) -> torch.Tensor:
        prob: torch.Tensor = graph(image)[0]
        return prob

    def contiguous(image: torch.Tensor) -> torch.Tensor:
        flat = Graph(graph.network.to(memory_format=torch.contiguous_format), buildings=True)
        try:
            prob: torch.Tensor = flat(image)[0]
            return prob
        finally:
            graph.network.to(memory_format=torch.channels_last)

    def without_onednn(image: torch.Tensor) -> torch.Tensor:
        with torch.backends.mkldnn.flags(enabled=False):
            return plain(image)

    def bfloat16(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(image).float()

    def runtime(path: Path) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return lambda image: torch.from_numpy(session.run(["change"], {"image": image.numpy()})[0])

    def compiled() -> Run:
        made = torch.compile(graph, dynamic=False)
        return lambda image: made(image)[0]

    def exported() -> Run:
        program = traced(graph, model.n_bands, 64, model.tiling.multiple).module()
        return lambda image: program(image)[0]

    return {
        "as it is (channels last, oneDNN)": lambda: plain,
        "weights not in channels last": lambda: contiguous,
        "without oneDNN": lambda: without_onednn,
        "bfloat16 (autocast)": lambda: bfloat16,
        "torch.export": exported,
        "ONNX Runtime": lambda: runtime(shipped_path(".onnx")),
        "ONNX Runtime, int8": lambda: runtime(quantized(folder)),
        "torch.compile": compiled,
    }


def quantized(folder: Path) -> Path:
    """The graph with activations and weights of convolutions in eight bits, after calibration."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = iter(CALIBRATION)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(images, None)
            return None if image is None else {"image": image}

    ready, out = folder / "ready.onnx", folder / "int8.onnx"
    quant_pre_process(str(shipped_path(".onnx")), str(ready), skip_symbolic_shape=True)
    quantize_static(str(ready), str(out), Reader(), QuantFormat.QDQ, per_channel=True,
                    op_types_to_quantize=["Conv"])  # fmt: skip
    return out


CALIBRATION: list[np.ndarray] = []


def network(images: list[str], folder: Path, side: int, repeat: int) -> Iterator[dict[str, Any]]:
    """All variants on one square of the scene."""
    torch.set_num_threads(1)
    dates = [rasterio.open(path).read().astype(np.float32) for path in images]
    whole = np.stack(dates)[None]
    image = torch.from_numpy(np.ascontiguousarray(whole[..., :side, :side]))
    CALIBRATION[:] = [
        np.ascontiguousarray(whole[..., row : row + 256, col : col + 256])
        for row in (256, 768) for col in (256, 768)
    ]  # fmt: skip
    threshold = load_network(shipped_path(), "cpu", 1).threshold
    reference = None
    for name, make in variants(folder).items():
        try:
            with torch.inference_mode():
                run = make()
                found = run(image)
                times = []
                for _ in range(repeat):
                    cpu = time.process_time()
                    found = run(image)
                    times.append(time.process_time() - cpu)
        except Exception as error:  # each variant may need what is not installed
            yield {name: " ".join(f"{type(error).__name__}: {error}".split())[:200]}
            continue
        reference = found if reference is None else reference
        sides = (found >= threshold) != (reference >= threshold)
        yield {
            name: {
                "cpu_s_per_megapixel": round(min(times) / (side * side / 1e6), 2),
                "largest_difference": float((found - reference).abs().max()),
                "flipped_share": float(sides.float().mean()),
            }
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=2048, help="side of the scene in pixels")
    parser.add_argument("--town", type=int, help="side of the town that is repeated over it")
    parser.add_argument("--probe", type=int, default=512, help="side of the image of the network")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", choices=("stages", "commands", "network"), action="append")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    keep_freed_memory()  # before any thread has a heap of its own, as the command does
    only = options.only or ["stages", "network", "commands"]
    print(json.dumps({"machine": machine("torch", "onnxruntime"), "size": options.size}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = town(folder, options.size, options.town or options.size)
        if "stages" in only:
            megapixels = options.size**2 / 1e6
            print(json.dumps({"stages": stages(images, folder, megapixels)}), flush=True)
        if "network" in only:
            for row in network(images, folder, options.probe, options.repeat):
                print(json.dumps({"network": row}), flush=True)
        if "commands" in only:
            found = commands(images, folder, options.repeat)
            print(json.dumps({"commands": found}), flush=True)


if __name__ == "__main__":
    main()
