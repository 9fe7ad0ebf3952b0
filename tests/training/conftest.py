"""One training on two processes."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

RANK = """
import os, sys, warnings
os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
warnings.simplefilter("ignore")
"""


@pytest.fixture
def on_two_processes(forked: Callable[..., Any]) -> Callable[..., None]:
    """``on_two_processes(code, **names)``: runs code as rank 0 and 1 of a training."""

    def run(code: str, **names: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            names["port"] = free.getsockname()[1]
        processes = [forked(exec, RANK + code, names | {"rank": rank}) for rank in (0, 1)]
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0, 0]

    return run
