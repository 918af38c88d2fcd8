"""A2C's bits are those of older versions: both train, on this machine, and save the same.

Across machines they are not: first weights, for one, are rounded as the processor's linear algebra
does. `test_old_runs.py` compares with what is stored, as closely as that allows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from tests.support.engine import DEADLINE_S, ROOT, run
from tests.support.tensors import saved_by_both

TRAINED = ["--env-id", "CartPole-v1", "--learners", 2, "--num-envs", 4, "--total-steps", 4000,
           "--seed", 3, "--device", "cpu", "--sync", "--topology", "ring", "--quiet"]  # fmt: skip


def unpacked(commit: str, folder: Path) -> Path:
    """Unpack an older version; a checkout without its history skips the test."""
    packed = subprocess.run(["git", "archive", commit, "galamp"], cwd=ROOT, capture_output=True)
    if packed.returncode != 0:
        pytest.skip(f"this checkout has no commit {commit}")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("commit", ["c3d309f"])
def test_lock_step_runs_save_the_same_tensors(tmp_path: Path, commit: str) -> None:
    """Parameters, RMSprop's averages, and the state of the generator."""
    sources, old, new = unpacked(commit, tmp_path / "sources"), tmp_path / "old", tmp_path / "new"
    line = [sys.executable, "-m", "galamp", "run", *map(str, TRAINED), "--run-dir", str(old)]
    variables = os.environ | {"PYTHONPATH": str(sources)}
    subprocess.run(line, cwd=sources, env=variables, check=True, timeout=2 * DEADLINE_S)
    anew = run(*TRAINED, "--run-dir", new)
    assert anew.returncode == 0, anew.stderr
    for saved in saved_by_both(old, new, learners=2):
        assert [name for name, pair in saved.items() if not np.array_equal(*pair)] == []
