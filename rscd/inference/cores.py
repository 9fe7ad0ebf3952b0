"""How many cores a run may use."""

import os


def usable_cores() -> int:
    """Cores this process is bound to; all of the machine where nothing binds it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def network_threads(workers: int = 1) -> int:
    """Threads that one call of a network may use beside others.

    Never more than ``OMP_NUM_THREADS`` says: several processes on the same cores, each with threads
    for all of them, wait for each other most of the time.

    Args:
        workers: calls at the same time.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, usable_cores() // workers)
    return min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share
