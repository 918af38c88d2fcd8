"""Control groups of the kernel's own for tests, below this process's, where that is allowed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from galamp.core.machine.memory import control_groups


@contextlib.contextmanager
def real_group(controller: str, **limits: str) -> Iterator[Path]:
    """Make a group below this process's own, and remove it once all in it have ended.

    Args:
        controller: of version 1; of version 2 there is one hierarchy for all.
        limits: what is written to the files `<controller>.<name>`; the dots of names as `_`.
    """
    chains = [chain for chain in control_groups(controller=controller) if chain]
    for own in sorted((chain[0] for chain in chains), key=lambda group: group.kind):
        inner = own.folder / f"galamp-test-{os.getpid()}"
        try:
            inner.mkdir()
        except OSError:
            continue
        try:
            for name, text in limits.items():
                (inner / f"{controller}.{name}").write_text(text)
        except OSError:
            inner.rmdir()
            continue
        try:
            yield inner
        finally:
            inner.rmdir()
        return
    pytest.skip(f"no control group can be made here that limits {controller}")
