"""Memory that a training on a CPU frees in one step is what it asks for in the next one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = -1, 1 << 30  # bytes; what is larger than that goes back at once


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Have malloc keep what is freed. By default it gives tensors of more than 32 MB back to the machine, and each
    page of the next one is fetched and cleared again: a step of large tensors takes up to twice as long.

    Args:
        environment: of the process. Who has set malloc by it keeps his settings.

    Returns:
        Whether it was done. There is nothing to set outside Linux, and in other C libraries than glibc.
    """
    is_set = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environment)
    if is_set or sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _NEVER))
