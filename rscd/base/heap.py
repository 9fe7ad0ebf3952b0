"""Freed memory stays with the process, where the C library is glibc.

A network's activations are blocks of many megabytes. By default glibc maps each from the kernel and
gives it back when it is freed, so that every tile faults in and clears all its pages again: on a
scene of one megapixel, as much system time as user time.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Parameters of ``mallopt(3)``."""
SETTINGS = {
    M_MMAP_MAX: 0,  # large blocks come from the heap, and go back to it
    M_TRIM_THRESHOLD: 2**31 - 1,  # whose end stays when it is free
    M_TOP_PAD: 64 << 20,
    M_ARENA_MAX: 1,  # the heaps of threads hold 64 MiB at most and are unmapped when empty
}


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the blocks it allocates next.

    The peak grows by what fragments: a fifth on a scene of one megapixel. For processes that belong
    to the project alone: the setting is that of the whole process and cannot be taken back.

    Returns:
        False, with nothing changed, where the C library is another one, or where the user has set
        it up by ``MALLOC_...`` or ``GLIBC_TUNABLES``.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if own or os.name != "posix":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    taken = [library.mallopt(name, value) for name, value in SETTINGS.items()]
    return all(taken)
