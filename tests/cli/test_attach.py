"""`galamp attach`, with only the test behind the control server; real runs: `test_remote.py`."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from galamp.cli import attach
from galamp.cli.main import main
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


@pytest.mark.parametrize(
    "command", [["attach"], ["attach", "--once"], ["scale", "--learners", "3"]]
)
def test_a_run_that_has_ended_is_told_of_with_what_continues_it(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "run", [1.0])
    summary = {"status": "stopped", "agent_steps": 136_305, "start": 1, "failure": None}
    (run / "summary.json").write_text(json.dumps(summary))
    assert main([command[0], str(run), *command[1:]]) == 2
    assert capsys.readouterr() == (
        "",
        f"galamp: {run}: not running, it stopped after 136,305 agent steps; "
        f"go on: galamp run --resume {run}\n",
    )


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
