"""System time and page faults of `rscd predict`, with freed memory kept and given back.

    python benchmarks/system_time.py [--size 2304] [--repeat 2] [--model buildings]

A network, by default the one that ships, on a synthetic town of `rscd sample`. In each repeat, each
in a process of its own, start-up included:

- kept: the command as a user sees it;
- given back: with `MALLOC_ARENA_MAX` set, at which `rscd` leaves the C library as it is;
- start-up: the imports alone, without a scene.

Prints JSON: wall clock, user and system seconds, page faults in millions, peak MB of each repeat,
system over user seconds, and the ratio of the fastest processor times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

RSCD = [sys.executable, "-m", "rscd"]
WAYS = {"kept": {}, "given back": {"MALLOC_ARENA_MAX": str(8 * (os.cpu_count() or 1))}}


def run(line: list[str], **settings: str) -> dict[str, float]:
    """One command, as the kernel accounts for it."""
    start = time.perf_counter()
    child = subprocess.Popen(line, env=os.environ | settings, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {child.returncode}")
    return {
        "wall_s": round(time.perf_counter() - start, 1),
        "user_s": round(usage.ru_utime, 1),
        "system_s": round(usage.ru_stime, 1),
        "faults_M": round(usage.ru_minflt / 1e6, 2),
        "peak_MB": round(usage.ru_maxrss / 1000),
    }


def main() -> None:
    """Run the command and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=2304, help="side of the scene in pixels")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--model", default="buildings")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in (*WAYS, "start-up")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        town = folder / "town"
        subprocess.run(
            [*RSCD, "sample", "-o", str(town), "--size", f"{options.size},{options.size}", "-q"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        images = [str(town / f"scene_{date}.tif") for date in ("t1", "t2")]
        out = str(folder / "change.geojson")
        line = [*RSCD, "predict", *images, "-m", options.model, "-o", out, "--overwrite", "-q"]
        runtime = "onnx_network, onnxruntime" if options.model == "buildings" else "network"
        start_up = [sys.executable, "-c", f"import rscd.pipeline.maps, rscd.inference.{runtime}"]
        for _ in range(options.repeat):
            for way, settings in WAYS.items():
                found[way].append(run(line, **settings))
            found["start-up"].append(run(start_up))

    def cpu(way: str) -> float:
        return min(one["user_s"] + one["system_s"] for one in found[way])

    result: dict[str, Any] = {
        "machine": machine(),
        "megapixels": round(options.size**2 / 1e6, 1),
        "runs": found,
        "system_over_user": {
            way: [round(one["system_s"] / one["user_s"], 3) for one in runs]
            for way, runs in found.items()
        },
        "cpu_kept_over_given_back": round(cpu("kept") / cpu("given back"), 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
