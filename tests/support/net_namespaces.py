"""Two machines as the network sees them: namespaces with a cable between, which can be cut."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

ADDRESSES = ("10.213.77.1", "10.213.77.2")


def ip(*words: str, namespace: str | None = None) -> None:
    """Run `ip`, within a namespace if one is given."""
    within = [] if namespace is None else ["-n", namespace]
    subprocess.run(["ip", *within, *words], check=True, capture_output=True, timeout=60)


class Cabled:
    """Namespaces of two machines, by number."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.names = names

    def within(self, machine: int, words: list[str]) -> list[str]:
        """The command line that runs `words` on a machine."""
        return ["ip", "netns", "exec", self.names[machine], *words]

    def cut(self) -> None:
        """Cut the cable: no packet passes, and nobody is told."""
        ip("link", "set", "cable", "down", namespace=self.names[0])

    def heal(self) -> None:
        """Mend it."""
        ip("link", "set", "cable", "up", namespace=self.names[0])


@functools.cache
def allowed() -> bool:
    """Whether this process may make namespaces of the network."""
    if shutil.which("ip") is None:
        return False
    name = f"galamp-trial-{os.getpid()}"
    with contextlib.suppress(subprocess.SubprocessError):
        ip("netns", "add", name)
        ip("netns", "del", name)
        return True
    return False


@contextlib.contextmanager
def two_machines() -> Iterator[Cabled]:
    """Make two, each with its loopback and its end of the cable; both are removed at the end."""
    if not allowed():
        pytest.skip("namespaces of the network need root in a machine that allows them")
    names = f"galamp-{os.getpid()}-0", f"galamp-{os.getpid()}-1"
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns",
           names[1])  # fmt: skip
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("addr", "add", f"{address}/24", "dev", "cable", namespace=name)
            ip("link", "set", "lo", "up", namespace=name)
            ip("link", "set", "cable", "up", namespace=name)
        yield Cabled(names)
    finally:
        for name in names:
            with contextlib.suppress(subprocess.SubprocessError):
                ip("netns", "del", name)
