"""On which NUMA node pages of memory are to lie: near the processors that use them most.

Where the kernel refuses, as in many containers, or knows of one node only, pages lie where they
would have: that costs time, and nothing else.
"""

from __future__ import annotations

import ctypes
import platform

_MPOL_PREFERRED = 1
_MBIND = {"x86_64": 237, "aarch64": 235}
"""Numbers of the system call mbind(2), which the C library does not wrap."""
_BITS = 64
MAX_NODES = 1024


def prefer_node(address: int, size_bytes: int, node: int) -> bool:
    """Have pages that are not there yet be taken from `node`, as long as it has any.

    Args:
        address: of a mapping's part, at the beginning of a page.
        size_bytes: of that part; its last page counts whole. For a shared mapping, it is the
            memory itself that remembers, whoever maps it.
        node: number of a NUMA node.

    Returns:
        Whether the kernel has taken note of it.
    """
    number = _MBIND.get(platform.machine())
    if number is None or not 0 <= node < MAX_NODES:
        return False
    mask = (ctypes.c_ulong * (MAX_NODES // _BITS))()
    mask[node // _BITS] = 1 << node % _BITS
    done: int = ctypes.CDLL(None).syscall(
        ctypes.c_long(number),
        ctypes.c_void_p(address),
        ctypes.c_ulong(size_bytes),
        ctypes.c_ulong(_MPOL_PREFERRED),
        mask,
        ctypes.c_ulong(MAX_NODES + 1),  # the kernel takes one bit less than it is told
        ctypes.c_ulong(0),
    )
    return done == 0
