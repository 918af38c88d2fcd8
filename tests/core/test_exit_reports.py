"""How the end of a child is reported: whose report counts, what 255 means, which signal it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from galamp.core.errors import EXIT_FAILURE, EXIT_OK, GalampError
from galamp.core.processes import exit_reports
from galamp.core.processes.exit_reports import Report, read_report, report_of, signal_name, tail
from galamp.core.processes.probe_process import Probing
from galamp.supervision.child_failure import ChildFailure, failure_of
from galamp.workers.child import ChildSpec

INCARNATION = "0123456789abcdef"
TOLD = {
    "incarnation": INCARNATION,
    "cause": "failed: x",
    "details": "Traceback",
    "deliberate": True,
    "time": 1.0,
}


def ended(folder: Path, code: int | None, *, server_lost: bool = False) -> ChildFailure | None:
    """What is told of learner 0, process 31, which has ended with `code`."""
    log = str(folder / "learner-0.log")
    spec = ChildSpec("learner", 0, None, "", (), log, incarnation_id=INCARNATION)
    return failure_of(spec, 31, code, server_lost=server_lost)


def report_path(folder: Path) -> Path:
    return folder / "learner-0.crash-31.json"


def test_the_report_of_its_own_incarnation_counts(tmp_path: Path) -> None:
    report_path(tmp_path).write_text(json.dumps(TOLD))
    assert ended(tmp_path, 70) == ChildFailure("learner 0", "failed: x", "Traceback", True)


@pytest.mark.parametrize("incarnation", ["", "fedcba9876543210", None])
def test_a_report_of_another_incarnation_with_the_same_process_id_is_none(
    tmp_path: Path, incarnation: str | None
) -> None:
    """In a container process ids come again with every start."""
    told = TOLD | {"incarnation": incarnation}
    if incarnation is None:
        del told["incarnation"]  # as galamp wrote them before
    report_path(tmp_path).write_text(json.dumps(told))
    failure = ended(tmp_path, -9)
    assert failure is not None
    assert (failure.cause, failure.deliberate) == ("was ended by SIGKILL", False)
    assert failure.external
    assert failure.killed, "else it would not be told as for want of memory"


DAMAGED: dict[str, str | bytes] = {
    "empty": "",
    "cut off": json.dumps(TOLD)[:-9],
    "no JSON": b"\xff\x00",
    "a list": "[1]",
    "a number": "7",
    "without a cause": json.dumps({k: v for k, v in TOLD.items() if k != "cause"}),
    "a cause that is a number": json.dumps(TOLD | {"cause": 7}),
    "details that are none": json.dumps(TOLD | {"details": None}),
    "deliberate in words": json.dumps(TOLD | {"deliberate": "yes"}),
    "nested": "[" * 100_000,
    "a long number": '{"incarnation": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_report_is_none(tmp_path: Path, kind: str) -> None:
    content = DAMAGED[kind]
    report_path(tmp_path).write_bytes(content.encode() if isinstance(content, str) else content)
    failure = ended(tmp_path, -11)
    assert failure is not None
    assert failure.cause == "was ended by SIGSEGV"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "huge"])
def test_what_is_no_file_of_usual_size_is_no_report(tmp_path: Path, kind: str) -> None:
    path, whole = report_path(tmp_path), tmp_path / "whole"
    whole.write_text(json.dumps(TOLD))
    if kind == "link":
        path.symlink_to(whole)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(whole.read_bytes())
        os.truncate(path, 2**40)
    assert read_report(whole, INCARNATION) == Report("failed: x", "Traceback", True)
    assert read_report(path, INCARNATION) is None


@pytest.mark.parametrize(("lost", "cause"), [(True, "ended with the server"), (False, "exit(255)")])
def test_255_is_the_server_only_where_that_is_gone(tmp_path: Path, lost: bool, cause: str) -> None:
    """It is also what `exit(-1)` in C gives, the commonest end of native code."""
    (tmp_path / "learner-0.log").write_text("cannot open level 3\n")
    failure = ended(tmp_path, 255, server_lost=lost)
    assert failure is not None
    assert cause in failure.cause
    assert ("level 3" in failure.details) == (not lost)


def test_a_child_that_could_not_write_why_it_failed_is_not_taken_for_native_code(
    tmp_path: Path,
) -> None:
    """Two such ends may have two causes: they are no repetition, which would end the run."""
    (tmp_path / "learner-0.log").write_text("ValueError: the last words\n")
    cause = "failed, and could not write why"
    told = ChildFailure("learner 0", cause, "ValueError: the last words\n", external=True)
    assert ended(tmp_path, EXIT_FAILURE) == told


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (9, "SIGKILL"),
        (32, "signal 32"),
        (34, "SIGRTMIN"),
        (35, "SIGRTMIN+1"),
        (40, "SIGRTMIN+6"),
        (63, "SIGRTMIN+29"),
        (64, "SIGRTMAX"),
    ],
)
def test_every_signal_has_its_word(tmp_path: Path, number: int, name: str) -> None:
    assert signal_name(number) == name
    failure = ended(tmp_path, -number)
    assert failure is not None
    assert failure.cause == f"was ended by {name}"
    probe = SimpleNamespace(returncode=-number)
    assert cast(property, Probing.ending).fget(probe) == f"killed by {name}"  # type: ignore[misc]


def test_of_a_log_only_its_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    os.truncate(log, 2**42)
    with log.open("ab") as file:
        file.write(b"the last line\n")
    assert tail(str(log)).endswith("\0the last line\n")
    log.write_text("short")
    assert tail(str(log)) == "short"
    assert tail(str(tmp_path / "none")) == ""
    assert tail(str(tmp_path)) == ""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_any_error_can_be_reported(tmp_path: Path) -> None:
    assert report_of(GalampError("x")).cause == "failed: x"
    assert report_of(Mute()).cause.startswith("raised Mute: (its text is unknown")
    long = report_of(ValueError("é\udc80" * 10**6))
    exit_reports.write_report(tmp_path / "report.json", INCARNATION, long, 0.0)
    assert read_report(tmp_path / "report.json", INCARNATION) == long


@pytest.mark.parametrize("character", ["x", "\n", "\x01", "é", "\udc80", "\U0001f600"])
def test_a_report_of_any_characters_can_be_read(tmp_path: Path, character: str) -> None:
    report = report_of(ValueError(character * 10**6))
    exit_reports.write_report(tmp_path / "report.json", INCARNATION, report, 0.0)
    assert read_report(tmp_path / "report.json", INCARNATION) == report


def test_a_cause_is_one_line() -> None:
    """CUDA tells of its errors in several."""
    cause = report_of(RuntimeError("CUDA error: unspecified\nCompile with `TORCH_USE_CUDA_DSA`\n"))
    assert (
        cause.cause
        == "raised RuntimeError: CUDA error: unspecified Compile with `TORCH_USE_CUDA_DSA`"
    )


# The first and last lines of a child, in a process of its own.

CHILD = """
import os, sys
from types import SimpleNamespace
from galamp.workers.child import ChildSpec, child_main
if sys.argv[1] == "served":
    os.environ["GALAMP_SERVER"] = str(os.getppid())
target, cores, log = sys.argv[2], eval(sys.argv[3]), sys.argv[4]
spec = ChildSpec("simulator", 0, 0, target, cores, log, 1, incarnation_id="one")
child_main(spec, SimpleNamespace(open=lambda: "the task arrived"))
"""


def live(
    log: Path, *, target: str = "builtins:print", cores: str = "()", served: bool = True
) -> int:
    """Run a child from start to end; returns its exit code."""
    words = [sys.executable, "-c", CHILD, "served" if served else "", target, cores, str(log)]
    environment = {name: v for name, v in os.environ.items() if name != "GALAMP_SERVER"}
    return subprocess.run(words, env=environment, timeout=60, capture_output=True).returncode


@pytest.mark.real
@pytest.mark.counted
def test_a_child_that_ends_well(tmp_path: Path) -> None:
    assert live(tmp_path / "log") == EXIT_OK
    assert (tmp_path / "log").read_text() == "the task arrived\n"


@pytest.mark.real
@pytest.mark.counted
def test_what_a_child_starts_is_ended_by_signals(tmp_path: Path) -> None:
    """Else `process.terminate(); process.wait()` in an environment would wait for ever."""
    assert live(tmp_path / "log", target="tests.support.families:take_signals") == EXIT_OK
    expected = ["SIGTERM -15"] * 2 + ["SIGINT -2"] * 2 + ["SIGQUIT -3"] * 2
    assert (tmp_path / "log").read_text().splitlines() == expected


@pytest.mark.real
@pytest.mark.counted
@pytest.mark.parametrize("place", ["gone/log", ".", "/proc/log"])
def test_a_child_without_a_log_works(tmp_path: Path, place: str) -> None:
    """The folder was removed, is something else, or lies on a disk that takes nothing."""
    assert live(tmp_path / place) == EXIT_OK


@pytest.mark.real
@pytest.mark.counted
def test_cores_that_cannot_be_had_end_nothing(tmp_path: Path) -> None:
    assert live(tmp_path / "log", cores="(1023,)") == EXIT_OK
    told = (tmp_path / "log").read_text()
    assert told.startswith("galamp: warning: cores [1023] cannot be had (Invalid argument)")


@pytest.mark.real
@pytest.mark.counted
def test_a_server_that_has_not_loaded_galamp_is_named(tmp_path: Path) -> None:
    assert live(tmp_path / "simulator-0.0.log", served=False) == EXIT_FAILURE
    [report] = tmp_path.glob("simulator-0.0.crash-*.json")
    told = read_report(report, "one")
    assert told is not None
    assert told.cause.startswith("failed: its server has not loaded galamp")


@pytest.mark.real
@pytest.mark.counted
def test_what_a_child_raises_is_reported_under_its_incarnation(tmp_path: Path) -> None:
    code = live(tmp_path / "simulator-0.0.log", target="builtins:int")
    assert code == EXIT_FAILURE
    [report] = tmp_path.glob("simulator-0.0.crash-*.json")
    told = read_report(report, "one")
    assert told is not None
    assert told.cause.startswith("raised ValueError: invalid literal")
    assert read_report(report, "another") is None


@pytest.mark.real
@pytest.mark.counted
def test_a_report_follows_the_folder_where_it_is_renamed(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    log.parent.mkdir()
    assert live(log, target="tests.support.families:rename_the_logs") == EXIT_FAILURE
    [report] = tmp_path.glob("renamed/x.crash-*.json")
    told = read_report(report, "one")
    assert told is not None
    assert told.cause == "raised ValueError: after the folder was renamed"
    assert not log.parent.exists()


@pytest.mark.real
@pytest.mark.counted
def test_a_report_needs_no_standard_error(tmp_path: Path) -> None:
    assert live(tmp_path / "x.log", target="tests.support.families:close_the_log") == EXIT_FAILURE
    [report] = tmp_path.glob("x.crash-*.json")
    told = read_report(report, "one")
    assert told is not None
    assert told.cause == "raised ValueError: without a log"


@pytest.mark.real
@pytest.mark.counted
def test_what_is_no_exception_is_reported_too(tmp_path: Path) -> None:
    assert live(tmp_path / "x.log", target="tests.support.families:interrupted") == EXIT_FAILURE
    [report] = tmp_path.glob("x.crash-*.json")
    told = read_report(report, "one")
    assert told is not None
    assert told.cause == "raised KeyboardInterrupt: by hand"


@pytest.mark.real
@pytest.mark.counted
def test_a_signal_that_ends_a_real_process_has_its_word() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 5)"
    ended = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert signal_name(-ended.returncode) == "SIGRTMIN+5"
    assert int(signal.SIGRTMIN) + 5 == -ended.returncode
