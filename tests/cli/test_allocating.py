"""What is freed is kept: counted in the pages that the machine hands out, not in seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from consistency_lens.cli.allocating import keep_freed_memory

PAGES = """
import resource, sys, torch
from consistency_lens.cli.allocating import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory({})
def fill():
    return float(torch.ones(16 << 20).sum())  # 64 MB, freed again
for _ in range(10):  # what torch sets up at first lies behind some of them
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(way: str) -> int:
    found = subprocess.run([sys.executable, "-c", PAGES, way], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_a_tensor_takes_the_pages_of_the_one_before() -> None:
    again, kept = pages("leave"), pages("keep")
    assert again > 5 * 1000 and kept < again / 50


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_has_set_malloc_keeps_his_settings(name: str) -> None:
    assert not keep_freed_memory({"PATH": "/bin", name: "1"})
