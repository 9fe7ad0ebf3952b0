"""Whether a GPU can be there at all, without importing torch to ask."""

import ctypes
from pathlib import Path

DRIVERS = ("libcuda.so.1", "nvcuda.dll")
"""The library of NVIDIA's driver on Linux and Windows, which torch loads too."""
AMD = Path("/dev/kfd")
"""Where AMD's driver stands on Linux."""


def worth_a_look(device: str) -> bool:
    """Whether a computation for a device may belong on a GPU, so that torch should be asked.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    return device == "cuda" or (device == "auto" and driver_there())


def driver_there() -> bool:
    """Whether a driver is installed that torch could use."""
    return AMD.exists() or any(map(_loads, DRIVERS))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
