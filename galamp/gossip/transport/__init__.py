"""Transports of published vectors, by name. A new one: a file here, a line, the contract test.

    name --transport_class--> class --specs--> shared arrays     in the supervisor, before the start
                              class(context) --> one learner's end of one exchange    in a learner

Importing this package loads no torch, and no transport.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galamp.gossip.transport.base import Transport

SHARED_MEMORY = "shared-memory"
"""The transport of all runs: their learners are on one machine."""

TRANSPORTS = {SHARED_MEMORY: "galamp.gossip.transport.shared_memory:SharedMemoryTransport"}
"""Name -> `module:Class`, imported on use."""


def transport_class(name: str) -> type[Transport]:
    """Return the class of the transport `name`.

    Raises:
        KeyError: there is no such transport.
    """
    module, _, kind = TRANSPORTS[name].partition(":")
    found: type[Transport] = getattr(importlib.import_module(module), kind)
    return found
