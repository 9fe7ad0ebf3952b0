"""Warnings that are no news, silenced in threads.

`warnings.catch_warnings` puts back the filters that it found, which are those of the whole process:
of two threads inside at once, one brings back or takes away what the other one set.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_inside: Counter[tuple[str, type[Warning]]] = Counter()


@contextmanager
def quiet(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Context without certain warnings, in all threads as long as one is inside.

    Args:
        message: regular expression that its beginning matches; empty: any.
        category: of the warnings.
    """
    key = (message, category)
    own = f"(?#rscd){message}"  # never equal to a filter of the user
    entry = ("ignore", re.compile(own, re.IGNORECASE), category, None, 0)
    with _lock:
        _inside[key] += 1
        warnings.filterwarnings("ignore", own, category)  # moves it before those set since
    try:
        yield
    finally:
        with _lock:
            _inside[key] -= 1
            if not _inside[key] and entry in warnings.filters:
                warnings.filters.remove(entry)  # type: ignore[attr-defined]
