"""Number of CPU cores a run may use."""

import os


def usable_cores() -> int:
    """Cores this process may run on: its affinity mask, else all cores of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def network_threads(workers: int = 1) -> int:
    """Threads that one call of a network may use while others run.

    Never more than ``OMP_NUM_THREADS``: several processes that each start threads for all cores
    spend most of their time waiting for each other.

    Args:
        workers: number of concurrent calls.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, usable_cores() // workers)
    return min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share
