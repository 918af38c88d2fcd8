"""What is left of an attempt once it has ended, so that the next one has its memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from galamp.training.control.server import ControlServer
from galamp.training.result import RunResult
from galamp.training.session import PendingScale, Session
from galamp.training.supervisor import Supervisor
from tests.training.test_checkpointing import of_a_run


def test_an_attempt_that_makes_room_for_another_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next one is refused where there is room for it, but not for both at once."""
    rescaled = RunResult("rescaled", 0, scale_to=3)
    monkeypatch.setattr(Supervisor, "run", lambda self: rescaled)
    saver = of_a_run(tmp_path, [])
    attempt: Any = SimpleNamespace(
        run_layout=saver._run_layout, saver=saver, evaluator=None,
        recorder=SimpleNamespace(close=lambda: None),
    )  # fmt: skip
    held = weakref.ref(saver._run_layout), weakref.ref(saver._run_layout.arrays)
    with ControlServer(tmp_path, pytest.fail) as control_server:
        session = object.__new__(Session)
        session._control_server, session._callbacks = control_server, ()
        session._display = session._signals = cast(Any, None)
        session._pending_scale = PendingScale(control_server.confirm)
        assert session._supervise(attempt) is rescaled
        del attempt, saver
        gc.collect()
        assert [each() for each in held] == [None, None]
