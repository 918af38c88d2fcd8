"""Real file systems of a size of our own, in a private mount namespace, where that is allowed."""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 300.0


@functools.cache
def allowed() -> bool:
    """Whether this process may mount something where nobody else sees it."""
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def within(
    folder: Path, options: str, command: Sequence[object], after: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command while `folder` is a memory file system of its own; `after` still sees it."""
    if not allowed():
        pytest.skip("mounting needs root in a machine or container that allows it")
    mount = f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(folder))}"
    words = shlex.join(map(str, command))
    script = f"{mount} && {{ {words}; code=$?; {after or 'true'}; exit $code; }}"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
