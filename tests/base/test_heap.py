"""Freed memory stays, counted in page faults of processes of their own."""

import os
import subprocess
import sys
from typing import Any

import pytest

CODE = """
import resource, sys
from rscd.base.heap import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(b"x") * (40 << 20)
del block
start = faults()
for _ in range(10):
    block = bytearray(b"x") * (40 << 20)
    del block
print(kept, (faults() - start) * resource.getpagesize() // (40 << 20))
"""


def run(how: str, **settings: Any) -> tuple[str, int]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    line = [sys.executable, "-c", CODE, how]
    done = subprocess.run(line, env=env | settings, capture_output=True, text=True, check=True)
    kept, blocks = done.stdout.split()
    return kept, int(blocks)


@pytest.mark.skipif(
    "glibc" not in str(getattr(os, "confstr", str)("CS_GNU_LIBC_VERSION")).lower(),
    reason="the C library is not glibc",
)
class TestGlibc:
    def test_blocks_are_faulted_in_once(self) -> None:
        assert run("keep") == ("True", 0)
        kept, blocks = run("leave")
        assert kept == "None"
        assert blocks >= 9, "without it each block costs its pages again"

    @pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
    def test_settings_of_the_user_stand(self, name: str) -> None:
        value = "2" if name.startswith("MALLOC") else "glibc.malloc.arena_max=2"
        assert run("keep", **{name: value})[0] == "False"
