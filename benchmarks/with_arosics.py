"""AROSICS on scenes that `registration.py` wrote; run by an interpreter that has it.

    PYTHON benchmarks/with_arosics.py shifts FOLDER [FOLDER ...]
    PYTHON benchmarks/with_arosics.py correct FOLDER [FOLDER ...]

Each folder has `t1.tif` and `t2.tif`. The first prints JSON with the shift of t2 in pixels, the
second writes `arosics.tif` (COREG: one window of 256, one shift) and `arosics_local.tif`
(COREG_LOCAL: a window of 256 every 48 pixels), t2 on the grid of t1. What it does not know is null,
or not written.
"""

import contextlib
import io
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
from osgeo import gdal, ogr  # noqa: E402


@contextlib.contextmanager
def _config_options(options: Mapping[str, str], thread_local: bool = True) -> Iterator[None]:
    for name, value in options.items():
        gdal.SetConfigOption(name, value)
    yield


if not hasattr(gdal, "config_options"):  # GDAL before 3.8
    gdal.config_options = _config_options
    for kind in (gdal.Dataset, ogr.DataSource):
        kind.__enter__ = lambda self: self
    gdal.Dataset.__exit__ = lambda self, *_: self.FlushCache()
    ogr.DataSource.__exit__ = lambda self, *_: self.Destroy()
from arosics import COREG, COREG_LOCAL  # noqa: E402

COMMON: dict[str, Any] = {"max_shift": 15, "q": True, "CPUs": 1, "progress": False}
WRITTEN: dict[str, Any] = {"fmt_out": "GTiff", "align_grids": True}


def shifts(folders: Sequence[str]) -> list[tuple[float, float] | None]:
    """Columns and rows by which t2 lies right of and below t1; None where it is not known."""
    found: list[tuple[float, float] | None] = []
    for folder in folders:
        try:
            one = COREG(*_dates(folder), ws=(256, 256), **COMMON)
            one.calculate_spatial_shifts()
            moved = one.coreg_info["corrected_shifts_px"]
            found.append((-moved["x"], -moved["y"]))
        except RuntimeError:  # no match
            found.append(None)
    return found


def correct(folders: Sequence[str]) -> dict[str, str]:
    """What went wrong, by folder and method, where a date was not corrected."""
    failed = {}
    for folder in folders:
        ways: dict[str, Any] = {
            "arosics": lambda **more: COREG(ws=(256, 256), **more),
            "arosics_local": lambda **more: COREG_LOCAL(
                grid_res=48, window_size=(256, 256), **more
            ),
        }
        for name, way in ways.items():
            t1, t2 = _dates(folder)
            out = str(Path(folder) / f"{name}.tif")
            try:
                way(im_ref=t1, im_tgt=t2, path_out=out, **COMMON, **WRITTEN).correct_shifts()
            except (RuntimeError, AssertionError, ValueError) as error:
                failed[f"{folder} {name}"] = repr(error)
    return failed


def _dates(folder: str) -> list[str]:
    return [str(Path(folder) / f"{date}.tif") for date in ("t1", "t2")]


def main() -> None:
    """See the module."""
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        found: Any = (shifts if sys.argv[1] == "shifts" else correct)(sys.argv[2:])
    print(json.dumps({"found": found, "seconds": time.process_time() - started}))


if __name__ == "__main__":
    main()
