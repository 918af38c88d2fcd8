"""Commands of the tests are forked, and do what those of a new Python do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

import galamp
from tests.support import engine, template
from tests.support.engine import begun, end
from tests.support.forked import Forked

WORDS = {"--version": 0, "ls nowhere": 2, "run --num-envs x": 2, "topology ring --learners 3": 0}


@pytest.mark.parametrize("words", WORDS)
def test_a_forked_command_says_and_does_what_a_new_python_does(words: str) -> None:
    forked, new = (engine.galamp(*words.split(), new_python=new) for new in (False, True))
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        new.returncode,
        new.stdout,
        new.stderr,
    )
    assert forked.returncode == WORDS[words]


def test_it_is_forked_whatever_libraries_have_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2  # noqa: F401  (sets variables)

    monkeypatch.setenv("QT_QPA_FONTDIR", "elsewhere")
    process = begun("--version")
    assert isinstance(process, Forked)
    assert process.communicate(timeout=60)[0] == f"galamp {galamp.__version__}\n"
    end(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_just_after_the_fork_is_not_taken_as_the_command_takes_it(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a refusal cancels the probe that has just been forked."""
    before = signal.signal(number, lambda *_: os._exit(99))
    monkeypatch.setattr(template, "_close_all_but", lambda _: os.kill(os.getpid(), number))
    server = "from multiprocessing.forkserver import main"
    try:
        pid = template._started("", [server], ())
    finally:
        signal.signal(number, before)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("name", ["PYTHONPATH", "CUDA_VISIBLE_DEVICES"])
def test_what_is_read_early_needs_a_new_python(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/tmp")
    process = begun("--version")
    end(process)
    assert not isinstance(process, Forked)


def test_threads_of_the_tests_are_not_waited_for(tmp_path: Path) -> None:
    """In a fork of this process OpenMP would wait for them: the learner has two as well."""
    torch.set_num_threads(2)
    try:
        torch.ones(2000, 2000).sum()
    finally:
        torch.set_num_threads(1)
    words = "--env-id CartPole-v1 --learners 1 --num-envs 64 --num-steps 64 --threads 2"
    words += " --total-steps 9000"
    ended = engine.run(*words.split(), "--quiet", "--run-dir", tmp_path / "run")
    assert (ended.returncode, ended.stderr) == (0, "")
