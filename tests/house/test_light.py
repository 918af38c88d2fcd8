"""What the command line must not load before a command needs it, and how fast it answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from galamp.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "torch", "cv2", "gymnasium", "ale_py", "rich", "matplotlib", "multiprocessing")
"""Each takes from 0.05 s to seconds."""
DEADLINE_S = 60.0

PROGRAM = """
import sys
from galamp.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
loaded = sorted(set(sys.modules) & {heavy})
print(*loaded, file=sys.stderr)
"""


def loaded_by(*words: str) -> list[str]:
    """Return which of the heavy packages a command line loads."""
    program = [sys.executable, "-c", PROGRAM.format(heavy=set(HEAVY)), *words]
    clean = {k: v for k, v in os.environ.items() if "COVERAGE" not in k}
    ended = subprocess.run(
        program, text=True, capture_output=True, timeout=DEADLINE_S,
        env={**clean, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--version",),
        ("rum",),
        ("run", "--help"),
        ("chaos", "--help"),
        ("run", "--num-envs", "0"),
        ("games",),
    ],
)
def test_what_is_answered_at_once_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    assert loaded_by(*words) == []


def test_no_parser_loads_anything_heavy() -> None:
    code = (
        "import sys; from galamp.cli.main import build_parser; build_parser().format_help();"
        f"print(*sorted(set(sys.modules) & {set(HEAVY)}))"
    )
    program = [sys.executable, "-c", code]
    clean = {k: v for k, v in os.environ.items() if "COVERAGE" not in k}
    ended = subprocess.run(
        program, text=True, capture_output=True, timeout=DEADLINE_S,
        env={**clean, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("\n", 0), f"one of {list(COMMANDS)}: {ended.stderr}"


@pytest.mark.timing
def test_help_takes_less_than_the_blink_of_an_eye() -> None:
    """By processor time, for the machine may be busy; alone, it is what the user waits."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "galamp", "--help"], capture_output=True, check=True, cwd=ROOT,
        timeout=DEADLINE_S,
    )  # fmt: skip
    after = os.times()
    spent_s = after.children_user + after.children_system
    assert spent_s - before.children_user - before.children_system < 0.3
