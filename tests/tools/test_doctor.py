"""`galamp doctor`: what is found on machines of all kinds, and what is told to do about it."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest

from galamp.cli.main import main
from galamp.core.machine.process_limits import Room
from galamp.tools.doctor import checks, trial
from galamp.tools.doctor import command as doctor
from galamp.tools.doctor.finding import Finding
from galamp.tools.doctor.trial import Found, findings_of, tried

GIB = 2**30


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


class Terminal(io.StringIO):
    """A terminal of some encoding."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_processors_and_who_else_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 9.0, 9.0))
    monkeypatch.setattr(checks, "allowed_processors", lambda: None)
    assert list(checks.processors()) == [
        Finding("processors", "4 of 8: 0-2,5"),
        Finding("load", "0.5 in the last minute"),
    ]
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    monkeypatch.setattr(checks, "allowed_processors", lambda: 1.5)
    quota, load = checks.processors()
    assert quota.text == "4 of 8: 0-2,5; a control group allows the time of 1.5"
    assert "--learners" in quota.fix
    assert load.fix == "end other programs for full speed"

    def unknown() -> NoReturn:
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert only(checks.processors()) == quota


@pytest.mark.parametrize(
    ("flags", "said", "slow"),
    [
        (["avx2", "avx512f", "avx512_bf16"], "avx512f, bf16: --precision bf16", False),
        (["avx2"], "avx2, no bf16: --precision bf16 would be slower", False),
        (["sse2"], "no avx2, no bf16", True),
        (["asimd", "bf16"], "asimd, bf16", False),
    ],
)
def test_what_a_processor_computes_with(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], said: str, slow: bool
) -> None:
    monkeypatch.setattr("galamp.core.machine.machine.processor_flags", lambda: flags)
    monkeypatch.setattr(checks, "processor_flags", lambda: flags)
    found = only(checks.processor())
    assert said in found.text
    assert bool(found.fix) is slow


def test_limits_that_are_low_are_told_with_a_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checks, "available_bytes", lambda: GIB // 2)
    assert only(checks.memory()).text == "0.5 GiB free"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    assert only(checks.files()) == Finding("open files", "256, up to 512", "raise it: ulimit -Hn")
    monkeypatch.setattr(checks, "least_room", lambda: Room(9, "pids.max of the container"))
    assert only(checks.processes()).text == "9 more, by pids.max of the container"
    for check in (checks.memory, checks.files, checks.processes):
        assert only(check()).fix
    monkeypatch.setattr(checks, "available_bytes", lambda: 8 * GIB)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(checks, "least_room", lambda: None)
    for check in (checks.memory, checks.files, checks.processes):
        assert not only(check()).fix
    monkeypatch.setattr(checks, "list_games", list)
    assert "ale-py" in only(checks.games()).fix


def test_a_disk_that_takes_nothing_prevents_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = only(checks.disk(tmp_path / "runs" / "not" / "there"))
    assert found.text.endswith(f"GiB free for {tmp_path}/runs/not/there")
    (tmp_path / "file").touch()
    assert only(checks.disk(tmp_path / "file")).prevents
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = only(checks.disk(tmp_path / "runs"))
    assert (found.prevents, found.text) == (True, f"{tmp_path} cannot be written to")


@pytest.mark.parametrize(
    ("scope", "root", "text", "fix"),
    [
        ("0", False, "py-spy may read runs", ""),
        ("1", False, "galamp profile may read runs, which permit it (ptrace_scope 1)", ""),
        ("1", True, "py-spy may read runs", ""),
        ("2", False, "the kernel lets only root read runs (ptrace_scope 2)", "sysctl"),
        ("2", True, "py-spy may read runs", ""),
        ("3", False, "the kernel lets nobody read runs (ptrace_scope 3)", "boot"),
        ("3", True, "the kernel lets nobody read runs (ptrace_scope 3)", "boot"),
        ("", False, "py-spy may read runs", ""),
    ],
)
def test_who_may_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scope: str, root: bool, text: str, fix: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/bin/py-spy")
    file = tmp_path / checks.PTRACE_SCOPE
    file.parent.mkdir(parents=True)
    file.write_text(scope)
    found = only(checks.tracing(tmp_path, root=root))
    assert found.text == text
    assert fix in found.fix
    assert bool(found.fix) is bool(fix)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert only(checks.tracing(tmp_path, root=root)).fix.endswith("galamp[profile]'")


@pytest.mark.parametrize(
    ("environment", "encoding", "size", "text", "fixes"),
    [
        ({"TERM": "xterm-256color"}, "utf-8", (80, 24), "80 x 24, utf-8, 256 colours", 0),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "UTF-8", (99, 50), "all colours", 0),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "utf-8", (80, 24), "no colours", 0),
        ({"TERM": "dumb"}, "ascii", (40, 10), "40 x 10, ascii, few colours", 3),
    ],
)
def test_terminals(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    encoding: str,
    size: tuple[int, int],
    text: str,
    fixes: int,
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size(size))
    stream = Terminal()
    monkeypatch.setattr(Terminal, "encoding", encoding)
    found = only(checks.terminal(stream, environment))
    assert found.text.endswith(text)
    assert len([each for each in found.fix.split("; ") if each]) == fixes
    assert only(checks.terminal(io.StringIO(), environment)).text.startswith("none")


FOUND = Found(
    "2.13.0+cpu", "", (), {}, "ALE/Breakout-v5", {"emulate": 0.5, "act": 0.25, "learn": 0.25}
)


def test_what_a_trial_has_found(tmp_path: Path) -> None:
    torch, gpu, speed = findings_of(FOUND, tmp_path)
    assert torch == Finding("PyTorch", "2.13.0+cpu, for the CPU")
    assert gpu == Finding("GPU", "none: learners compute on the processors")
    assert speed.text.startswith("Breakout: 1,000 agent steps/s on one core")
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / trial.DRIVER).write_text("NVRM version: 580.1\nGCC\n")
    _, gpu, _ = findings_of(FOUND, tmp_path)
    assert "NVRM version: 580.1" in gpu.text
    assert "for CUDA" in gpu.fix
    with_gpus = Found(
        "2", "13.0", ("cuda:0 H200",), {"cuda:1": "too old"}, "CartPole-v1", {"act": 1.0}
    )
    _, first, second, _ = findings_of(with_gpus, tmp_path)
    assert first == Finding("GPU", "cuda:0 H200")
    assert second == Finding("GPU", "cuda:1 cannot be used", "too old")


@pytest.mark.real
def test_a_trial_on_this_machine() -> None:
    found = {finding.what: finding for finding in tried(0.0)}
    assert {"PyTorch", "GPU", "speed"} <= set(found)
    assert not any(finding.prevents for finding in found.values())


def test_a_torch_that_cannot_be_loaded_prevents_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('built for another processor')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = only(tried(0.0))
    assert finding.prevents
    assert finding.text.endswith("ImportError: built for another processor")


def test_an_environment_that_cannot_be_made_is_not_taken_for_a_broken_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gymnasium.py").write_text("raise ImportError('no such\\nlibrary')")
    monkeypatch.syspath_prepend(tmp_path)
    found = {finding.what: finding for finding in tried(0.0)}
    assert not any(finding.prevents for finding in found.values())
    assert found["PyTorch"].fix == ""
    assert "cannot be trained: ImportError: no such" in found["speed"].text
    assert "\n" not in found["speed"].text
    assert "galamp run --env-id" in found["speed"].fix


def test_findings_become_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, low = Finding("a", "fine"), Finding("disk", "full " * 20, "remove something")
    monkeypatch.setattr(checks, "CHECKS", (lambda: [good], lambda: [low]))
    monkeypatch.setattr(trial, "tried", lambda: [])
    assert main(["doctor"]) == 0
    first, second, _, last = capsys.readouterr().out.splitlines()
    assert first == "ok a           fine"
    assert second.startswith("!  disk        full full")
    assert second.endswith("-> remove something"), "a line each, for grep"
    assert last == "Runs are possible."
    lines = list(doctor.lines_of(low, 40))
    assert max(map(len, lines)) <= 40
    assert lines[-1].strip() == "-> remove something"
    monkeypatch.setattr(trial, "tried", lambda: [Finding("torch", "no", "install", True)])
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("\nNo run is possible before that is done.\n")
    monkeypatch.setattr(checks, "CHECKS", ())
    monkeypatch.setattr(trial, "tried", lambda: [good])
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nAll is well.\n")
