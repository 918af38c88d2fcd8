"""`--nice`: what learners and simulators leave to other programs that use the same cores."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from galamp.core.config import RunConfig
from tests.support.engine import ROOT

CHILD = """
import os, sys
from galamp.workers.child import ChildSpec, _set_up
role, nice, inherited = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.nice(inherited)
_set_up(ChildSpec(role, 0, 0, "", (), os.devnull, nice=nice))
print(os.nice(0))
"""


@pytest.mark.parametrize(
    ("role", "nice", "inherited", "found"),
    [
        ("learner", 0, 0, 0),
        ("simulator", 5, 0, 5),
        ("learner", 15, 10, 19),
    ],
)
def test_a_child_adds_it_to_the_niceness_of_the_run(
    role: str, nice: int, inherited: int, found: int
) -> None:
    own = os.nice(0)
    words = [sys.executable, "-c", CHILD, role, str(nice), str(inherited)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout == f"{min(19, own + found)}\n", ended.stderr


def test_runs_are_gentle_unless_told_otherwise() -> None:
    assert RunConfig().resources.nice == 5
