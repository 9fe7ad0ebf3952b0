"""Peak resident memory of `rscd predict`, for a small scene and one 16 times larger.

    python benchmarks/memory.py [--size 3000] [--max-memory 500MB] [--huge] [--network]

Every run is a process of its own, from start-up to the finished mask (.tif) and polygons (.gpkg),
with the detector irmad; its peak is VmHWM of /proc, so this needs Linux. ``--huge`` adds a pair of
30,000 x 15,000 (1.5 GB of disk in the temporary folder while it runs); ``--network`` a
ResNet-18 siamese U-Net with random weights on 3,000 x 3,000. Both import torch before anything
else, and the peak includes it. Prints JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine
from predict_overhead import make_pair, make_weights

GROWTH = 4
"""The large scene is this many times as high and as wide."""

HUGE_HW = (15_000, 30_000)
NETWORK_SIZE = 3000


def child(torch: bool, arguments: list[str]) -> None:
    """Run `rscd` in this process; then print the peak of its memory in MiB on stderr."""
    if torch:
        import torch as _  # noqa: F401
    import rscd.cli

    code = rscd.cli.main(arguments)
    status = Path("/proc/self/status").read_text()
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    print(json.dumps({"code": code, "peak_mib": round(peak_kib / 1024)}), file=sys.stderr)


def measure(
    folder: Path, pair: tuple[Path, Path], *options: str, torch: bool = False
) -> dict[str, Any]:
    """One run of `rscd predict`: peak, time, and what it found."""
    outputs = ["-o", str(folder / "out.tif"), "-o", str(folder / "out.gpkg")]
    predict = ["predict", *map(str, pair), *outputs, "-q", "--json", "--overwrite", *options]
    before = ["--torch"] if torch else []
    run = subprocess.run(
        [sys.executable, __file__, *before, "--child", *predict],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(run.stderr.splitlines()[-1])
    if said["code"]:
        return {"failed": run.stderr.splitlines()[0]}
    result = json.loads(run.stdout)
    return {
        "peak_mib": said["peak_mib"],
        "seconds": result["seconds"],
        "n_polygons": result["n_polygons"],
        "changed_share": round(result["changed_share"], 4),
    }


def irmad_runs(folder: Path, size: int, limit: str) -> dict[str, Any]:
    """Small and 16 times larger, free and limited."""
    found: dict[str, Any] = {}
    for side in (size, GROWTH * size):
        pair = make_pair(folder, side, side)
        for name, options in (("free", ()), (f"--max-memory {limit}", ("--max-memory", limit))):
            found[f"irmad {side} x {side} {name}"] = measure(folder, pair, "-m", "irmad", *options)
        remove(pair)
    return found


def huge_run(folder: Path) -> dict[str, Any]:
    """The scene that must stay under 2 GB."""
    height, width = HUGE_HW
    pair = make_pair(folder, height, width)
    found = measure(folder, pair, "-m", "irmad", torch=True)
    remove(pair)
    return {f"irmad {width} x {height}, with torch imported": found}


def network_run(folder: Path) -> dict[str, Any]:
    """A network, whose activations dominate."""
    pair = make_pair(folder, NETWORK_SIZE, NETWORK_SIZE)
    weights = folder / "random.safetensors"
    make_weights(weights)
    found = measure(folder, pair, "-m", str(weights), torch=True)
    remove(pair)
    return {f"network {NETWORK_SIZE} x {NETWORK_SIZE}, torch included": found}


def remove(pair: tuple[Path, Path]) -> None:
    """Make room for the next scene."""
    for path in pair:
        path.unlink()


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=3000, help="pixels per side of the small scene")
    parser.add_argument("--max-memory", default="500MB", help="limit of the limited runs")
    parser.add_argument("--huge", action="store_true", help="also 30,000 x 15,000")
    parser.add_argument("--network", action="store_true", help="also a network")
    parser.add_argument("--only", action="store_true", help="leave the two sizes out")
    parser.add_argument("--torch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.torch, options.child)
        return
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.only:
            runs |= irmad_runs(folder, options.size, options.max_memory)
        if options.huge:
            runs |= huge_run(folder)
        if options.network:
            runs |= network_run(folder)
    print(json.dumps({"machine": machine("torch"), "runs": runs}, indent=2))


if __name__ == "__main__":
    main()
