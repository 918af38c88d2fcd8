"""NUMA placement: puts pages of memory on the node of the processors that use them most.

If the kernel refuses, as in many containers, or has only one node, the placement does not change:
that costs time, and nothing else.
"""

from __future__ import annotations

import ctypes
import platform

_MPOL_PREFERRED = 1
_MBIND = {"x86_64": 237, "aarch64": 235}
"""Architecture -> number of the system call mbind(2), which the C library does not wrap."""
_BITS = 64
MAX_NODES = 1024


def prefer_node(address: int, size_bytes: int, node: int) -> bool:
    """Make the kernel allocate new pages of a memory range on `node`, while it has free memory.

    Args:
        address: start of the range within a mapping, at a page boundary.
        size_bytes: size of the range; its last page is included as a whole. For a shared mapping
            the memory object stores this policy, for all processes that map it.
        node: number of a NUMA node.

    Returns:
        Whether the kernel has accepted the policy.
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
        ctypes.c_ulong(MAX_NODES + 1),  # the kernel uses one bit less than this
        ctypes.c_ulong(0),
    )
    return done == 0
