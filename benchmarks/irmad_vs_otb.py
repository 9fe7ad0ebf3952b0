"""IR-MAD beside Orfeo ToolBox's MultivariateAlterationDetector: the same variates, and how fast.

Orfeo ToolBox computes the MAD transform once, without reweighting: its variates are compared with
those of the first iteration. Seconds per megapixel are of one thread each, Orfeo ToolBox reading
and writing GeoTIFF (it has no other way), IR-MAD without reading: first iteration alone, and whole
(all iterations on the sample, then every pixel's probability).

    python benchmarks/irmad_vs_otb.py T1.tif T2.tif [T1.tif T2.tif ...] [--tile-up 6]
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import scipy
from numpy.typing import NDArray

from rscd.inference.detectors.irmad import Irmad
from rscd.inference.predictor import Block

APPLICATION = "otbcli_MultivariateAlterationDetector"


def main() -> None:
    """Compare each pair as it is, then tiled up with noise; one JSON object per pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rasters", nargs="+", type=Path, help="t1 and t2 of each pair in turn")
    parser.add_argument("--tile-up", type=int, default=6, help="copies per side for the timing")
    options = parser.parse_args()
    if shutil.which(APPLICATION) is None:
        print(f"skipped: {APPLICATION} not found; on Debian: apt install otb-bin")
        return
    print(json.dumps(machine()))
    for t1, t2 in zip(options.rasters[::2], options.rasters[1::2], strict=True):
        image = np.stack([_read(t1), _read(t2)])
        small, large = compare(image), compare(tiled_up(image, options.tile_up))
        print(json.dumps({"pair": [t1.name, t2.name], "as_it_is": small, "tiled_up": large}))


def machine() -> dict[str, object]:
    """What the numbers belong to."""
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def _read(path: Path) -> NDArray[np.float32]:
    with rasterio.open(path) as source:
        pixels: NDArray[np.float32] = source.read(out_dtype="float32")
    return pixels


def tiled_up(image: NDArray[np.float32], copies: int) -> NDArray[np.float32]:
    """Copies side by side with noise, so that none repeats exactly."""
    rng = np.random.default_rng(0)
    large = np.tile(image, (1, 1, copies, copies))
    return large + rng.standard_normal(large.shape, np.float32)


def compare(image: NDArray[np.float32]) -> dict[str, object]:
    """Variates and seconds of both on one pair (2, C, H, W); all pixels count as valid for both."""
    megapixels = image[0, 0].size / 1e6
    with tempfile.TemporaryDirectory() as folder:
        theirs, their_seconds, rho = orfeo(image, Path(folder))
    ours, first_seconds = first_variates(image)
    start = time.perf_counter()
    predictor = Irmad().fit(blocks(image), image[0, 0].size)
    fit_seconds = time.perf_counter() - start
    start = time.perf_counter()
    predictor(image[None], np.ones((1, *image.shape[2:]), bool))
    predict_seconds = time.perf_counter() - start
    per_megapixel = {
        "otb": their_seconds / megapixels,
        "irmad_first_iteration": first_seconds / megapixels,
        "irmad_fit": fit_seconds / megapixels,
        "irmad_predict": predict_seconds / megapixels,
        "irmad_whole": (fit_seconds + predict_seconds) / megapixels,
    }
    return {
        "shape": image.shape,
        "abs_correlation": correlations(ours, theirs),
        "otb_rho": rho,
        "seconds_per_megapixel": per_megapixel,
        "ratio_whole": per_megapixel["irmad_whole"] / per_megapixel["otb"],
    }


def correlations(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> list[float]:
    """Of variate with variate, most correlated pair first; Orfeo ToolBox sorts the other way."""
    pairs = zip(ours, theirs[::-1], strict=True)
    return [abs(float(np.corrcoef(a.ravel(), b.ravel())[0, 1])) for a, b in pairs]


def first_variates(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """(C, H, W) standardised variates after one iteration, and the seconds they took."""
    start = time.perf_counter()
    predictor = Irmad(max_iterations=1).fit(blocks(image), image[0, 0].size)
    centred = image - np.array(predictor.centre, np.float32)[:, :, None, None]
    variates = np.einsum("ktc,tchw->khw", np.array(predictor.weights, np.float32), centred)
    return variates, time.perf_counter() - start


def blocks(image: NDArray[np.float32], size: int = 512) -> Iterator[Block]:
    """The lattice over an image in memory."""
    height, width = image.shape[2:]
    corners = [(top, left) for top in range(0, height, size) for left in range(0, width, size)]
    for index, (top, left) in enumerate(corners):
        part = image[:, :, top : top + size, left : left + size]
        yield Block(index, part, np.ones(part.shape[2:], bool), 0)


def orfeo(
    image: NDArray[np.float32], folder: Path
) -> tuple[NDArray[np.float32], float, list[float]]:
    """Variates (C, H, W), seconds and correlations of Orfeo ToolBox."""
    files = [folder / "t1.tif", folder / "t2.tif"]
    for file, date in zip(files, image, strict=True):
        count, height, width = date.shape
        with rasterio.open(
            file, "w", driver="GTiff", count=count, height=height, width=width, dtype="float32",
            transform=rasterio.Affine(1, 0, 0, 0, -1, height), crs="EPSG:32631",
        ) as sink:  # fmt: skip
            sink.write(date)
    out = folder / "mad.tif"
    command = [APPLICATION, "-in1", files[0], "-in2", files[1], "-out", out, "float"]
    threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **threads}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{APPLICATION} failed: {done.stderr or done.stdout}")
    rho = [line.split("Rho:")[1] for line in done.stdout.splitlines() if "Rho:" in line]
    return _read(out), seconds, [float(value) for value in rho[0].split()] if rho else []


if __name__ == "__main__":
    main()
