"""Gossip between machines: ports of messages between the nodes of a run, by name.

    bridge --publish, tell--> Port --network--> Port --frames, told--> bridge of another node

A new port: a file here, a line, the contract test. Importing this package loads none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galamp.gossip.cluster.port import Port

ZENOH, GLOO = "zenoh", "gloo"

PORTS = {
    ZENOH: "galamp.gossip.cluster.zenoh_port:ZenohPort",
    GLOO: "galamp.gossip.cluster.gloo_port:GlooPort",
}
"""Name -> `module:Class`, imported on use."""


def port_class(name: str) -> type[Port]:
    """Return the class of the port `name`.

    Raises:
        KeyError: there is no such port.
        UserError: the package that it needs is not installed.
    """
    module, _, kind = PORTS[name].partition(":")
    found: type[Port] = getattr(importlib.import_module(module), kind)
    found.check_installed()
    return found
