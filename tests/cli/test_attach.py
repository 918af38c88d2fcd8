"""`galamp attach`, with only the test behind the control server; real runs: `test_remote.py`."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from galamp.cli import attach
from galamp.cli.main import main
from galamp.cli.scale import _pending_text
from galamp.core.errors import UserError
from galamp.training.control.server import ControlServer
from tests.support.engine import DEADLINE_S
from tests.support.finished import finished_run
from tests.support.snapshots import busy


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Have a run in `folder` that sends the same snapshot again and again."""
    over = threading.Event()
    folder.mkdir(parents=True)

    def serve() -> None:
        with ControlServer(folder, print) as server:
            ready.set()
            while not over.wait(0.01):
                server.poll()
                server.publish(busy(2, run_dir=str(folder)))

    ready, thread = threading.Event(), threading.Thread(target=serve)
    thread.start()
    ready.wait(DEADLINE_S)
    try:
        yield
    finally:
        over.set()
        thread.join(DEADLINE_S)


def test_one_frame_and_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with shown(tmp_path / "runs" / "a"):
        assert main(["attach", "--once"]) == 0
        frame = capsys.readouterr()
        assert main(["attach", "runs/a", "--once", "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
    assert frame.err == ""
    assert len(frame.out.splitlines()) <= 40
    assert "\x1b" not in frame.out
    for words in ("ALE/Breakout-v5", "left 1 h 03 m", "consensus distance", "--num-envs 8"):
        assert words in frame.out
    assert values["agent_steps"] == 1_240_000
    assert values["system"]["watts"] == 212.0
    assert values["history"]["steps"][:2] == [0, 1000]


def test_the_one_that_runs_is_found_and_several_are_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match="no run is running in"):
        attach.the_running_run(runs)
    (runs / "ended").mkdir(parents=True)
    with shown(runs / "a"):
        (runs / "latest").symlink_to("a")
        assert attach.the_running_run(runs) == runs / "a"
        with (
            shown(runs / "b"),
            pytest.raises(UserError, match=r"2 runs are running: give one of .*/a, .*/b"),
        ):
            attach.the_running_run(runs)


def forbid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system refuse to look into `folder`, as into another user's."""

    def refusing(path: Any, *args: Any, call: Callable[..., Any], **known: Any) -> Any:
        if isinstance(path, str | os.PathLike) and folder in Path(path).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return call(path, *args, **known)

    for name in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, name, functools.partial(refusing, call=getattr(os, name)))


def test_a_folder_of_another_user_is_no_run_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    theirs = finished_run(runs / "a", [1.0])
    with shown(runs / "b"):
        forbid(theirs, monkeypatch)
        assert attach.the_running_run(runs) == runs / "b"


@pytest.mark.parametrize(
    "command", [["attach"], ["attach", "--once"], ["scale", "--learners", "3"]]
)
def test_a_run_that_has_ended_is_told_of_with_what_continues_it(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, code, flags in (
        ("run", {}, ""),
        ("a run", {}, ""),
        ("own", {"env_id": "my:make", "sinks": "jsonl,my:Sink"},
         " --env-id my:make --sinks jsonl,my:Sink"),
    ):  # fmt: skip
        run = finished_run(tmp_path / name, [1.0], **code)
        summary = {"status": "stopped", "agent_steps": 136_305, "start": 1, "failure": None}
        (run / "summary.json").write_text(json.dumps(summary))
        assert main([command[0], str(run), *command[1:]]) == 2
        assert capsys.readouterr() == (
            "",
            f"galamp: {run}: not running, it stopped after 136,305 agent steps; "
            f"go on: galamp run --resume {shlex.quote(str(run))}{flags}\n",
        )


def test_of_a_finished_run_it_is_said_where_the_next_commands_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "a run", [1.0])
    summary = {"status": "finished", "agent_steps": 5, "start": 1, "failure": None}
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["attach", str(run)]) == 2
    told = capsys.readouterr().err
    assert told.endswith(f"it finished after 5 agent steps; what is next: galamp show '{run}'\n")


def test_a_command_to_look_on_by_can_be_pasted() -> None:
    assert _pending_text(Path("a run"), 3).endswith("look on by galamp attach 'a run'")


def test_json_is_for_one_frame(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attach", "x", "--json"]) == 2
    assert "add --once" in capsys.readouterr().err


def test_one_frame_as_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A well-formed SVG that loads nothing; equal frames give equal files; none is replaced."""
    monkeypatch.chdir(tmp_path)
    with shown(tmp_path / "runs" / "a"):
        assert main(["attach", "--once", "-o", "one.svg"]) == 0
        assert main(["attach", "--once", "-o", "two.svg"]) == 0
        assert main(["attach", "--once", "-o", "one.svg"]) == 2
    assert capsys.readouterr().out == ""
    content = (tmp_path / "one.svg").read_text()
    assert content == (tmp_path / "two.svg").read_text()
    assert "url(http" not in content
    assert "font-face" not in content
    words = "".join(ElementTree.fromstring(content).itertext()).replace("\xa0", " ")
    for each in ("ALE/Breakout-v5", "left 1 h 03 m", "consensus distance"):
        assert each in words


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-o", "a.svg"], "add --once"),
        (["--once", "-o", "a.png"], "expected a name that ends in .svg"),
        (["--once", "--overwrite"], "goes with --figure"),
    ],
)
def test_a_picture_that_cannot_be_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attach", "x", *flags]) == 2
    assert message in capsys.readouterr().err
