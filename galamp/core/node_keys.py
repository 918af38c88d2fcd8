"""Files of a node's keys, as `galamp keys` makes them: which they are, and whether they are safe.

    DIR, node --keys_in--> NodeKeys: ca.pem, node-0.pem, node-0.key --> the bridge's port

Runs in the supervisor before any process starts. The files are read by the network library.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from galamp.core.errors import UserError
from galamp.core.settings import shown

AUTHORITY = "ca.pem"


class NodeKeys(NamedTuple):
    """Paths: the run's authority, this node's certificate, and its private key."""

    authority: str
    certificate: str
    key: str


def name_of(node: int) -> str:
    """Return the name that a node's certificate is made out to: what it may send goes by it."""
    return f"node-{node}"


def names_of(node: int) -> tuple[str, str, str]:
    """Return the names of the files that a node needs."""
    return AUTHORITY, f"{name_of(node)}.pem", f"{name_of(node)}.key"


def keys_in(folder: Path, node: int) -> NodeKeys:
    """Return the keys of a node in a folder.

    Raises:
        UserError: they are not there, or others than their owner may read the private one.
    """
    found = NodeKeys(*(os.path.abspath(folder / name) for name in names_of(node)))
    for path in found:
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            raise UserError(
                f"--keys {shown(folder)}: has no {os.path.basename(path)} that can be read; make "
                "keys with galamp keys, and copy to each machine its own"
            )
    if os.stat(found.key).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(f"--keys {shown(folder)}: others can read {found.key}: chmod 600 it")
    return found
