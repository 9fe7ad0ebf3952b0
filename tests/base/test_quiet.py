"""Silence that threads share, and what it leaves behind."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from rscd.base.quiet import quiet


def test_what_is_named_is_silent_and_nothing_else() -> None:
    with quiet("no news", UserWarning):
        warnings.warn("No news of today", UserWarning, stacklevel=1)
        with pytest.warns(UserWarning, match="other"):
            warnings.warn("other", UserWarning, stacklevel=1)
        with pytest.warns(RuntimeWarning):
            warnings.warn("no news", RuntimeWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="no news"):
        warnings.warn("no news", UserWarning, stacklevel=1)


def test_the_last_thread_that_leaves_ends_it() -> None:
    """The first one in is the first one out, which `warnings.catch_warnings` cannot take."""
    before = list(warnings.filters)
    both_in, first_out = threading.Barrier(2), threading.Event()

    def run(first: bool) -> None:
        with quiet("no news"):
            both_in.wait(10)
            if not first:
                assert first_out.wait(10)
                warnings.warn("no news", UserWarning, stacklevel=1)
        first_out.set()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (True, False)))
    assert warnings.filters == before


@pytest.mark.parametrize("outer", ["ignore", "error"])
def test_filters_of_the_user_stay(outer: Literal["ignore", "error"]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter(outer)
        before = list(warnings.filters)
        with quiet():
            warnings.warn("no news", UserWarning, stacklevel=1)
        assert warnings.filters == before


def test_it_ends_after_an_error() -> None:
    before = list(warnings.filters)
    with pytest.raises(ValueError, match="x"), quiet():
        raise ValueError("x")
    assert warnings.filters == before
