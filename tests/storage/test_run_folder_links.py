"""Nothing in a run folder is written through a link; and whoever else may write there is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from galamp.cli import main as cli
from galamp.core.config import RunConfig, to_dict
from galamp.core.disk import open_log, replace_json
from galamp.core.errors import UserError
from galamp.storage import inspection
from galamp.storage.eval_log import EVALUATIONS
from galamp.storage.event_log import EventLog
from galamp.storage.gossip_log import GOSSIP, GossipLog
from galamp.storage.inspection import shared_with
from galamp.storage.locks import LOCK
from galamp.storage.monitor_log import MonitorLog
from galamp.storage.run_folder import RunFolder
from galamp.storage.run_logs import MetricsLog, Warn
from tests.storage.test_run_folder import create

VICTIM = b"a line\nand one without its end"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has ended."""
    folder = create(tmp_path, tmp_path / "run")
    folder.write_config(to_dict(RunConfig()))
    (folder.path / "checkpoints").mkdir()
    folder.close()
    return folder.path


def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(VICTIM)
    return path


FILES = (
    "lock", "metrics.jsonl", "events.jsonl", "gossip.jsonl", "logs/learner-0.log",
    "logs/learner-0.crash-7.tmp", "monitor/0.monitor.csv",
)  # fmt: skip


def test_the_names_that_are_looked_at_are_those_that_are_used(run: Path) -> None:
    folder = RunFolder.open(run)
    appended = (folder.metrics.name, folder.events.name, EVALUATIONS, GOSSIP)
    assert (LOCK, *appended) == inspection.ADDED_TO
    folders = {folder.checkpoints.name, folder.logs.name, folder.monitor.name}
    assert folders == set(inspection.FOLDERS)
    paths = (folder.log_path("learner 0"), folder.monitor_path(0))
    assert {path.suffix for path in paths} == set(inspection.ENDINGS)
    folder.close()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_is_a_link_is_refused(
    run: Path, tmp_path: Path, name: str, *, whole: bool
) -> None:
    target = victim(tmp_path) if whole else tmp_path / "not there yet"
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    with pytest.raises(UserError, match=rf"run/{name}: is a link to .*put the thing itself"):
        RunFolder.open(run)
    assert target.read_bytes() == VICTIM if whole else not target.exists()


@pytest.mark.parametrize("name", ["checkpoints", "logs", "monitor"])
def test_a_folder_that_is_a_link_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    (run / name).rmdir()
    (run / name).symlink_to("../other")
    with pytest.raises(UserError, match=rf"run/{name}: is a link to \.\./other.*whole run folder"):
        RunFolder.open(run)
    assert list((tmp_path / "other").iterdir()) == []
    (run / name).unlink()
    (tmp_path / "link").symlink_to("run")
    RunFolder.open(tmp_path / "link").close()


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "logs/learner-0.log"])
def test_a_link_is_told_in_one_line_before_any_process(
    run: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def started() -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("galamp.cli.run.start_server", started)
    if name == "checkpoints":
        (run / name).rmdir()
    (run / name).symlink_to(tmp_path)
    assert cli.main(["run", "--resume", str(run)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{name}: is a link to" in told


@pytest.mark.parametrize(
    "name", ["lock", "metrics.jsonl", "gossip.jsonl", "logs/learner-0.log", "monitor/0.monitor.csv"]
)
def test_a_file_with_a_second_name_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    target = victim(tmp_path)
    (run / name).unlink(missing_ok=True)
    os.link(target, run / name)
    with pytest.raises(UserError, match=rf"{name}: the file has 2 names .*cp -r"):
        RunFolder.open(run)
    assert target.read_bytes() == VICTIM


def test_files_that_are_made_anew_may_have_a_second_name(run: Path, tmp_path: Path) -> None:
    """As after `cp -al`: what is renamed into their place leaves the others alone."""
    before = (run / "config.json").read_bytes()
    os.link(run / "config.json", tmp_path / "other.json")
    with_new = RunFolder.open(run)
    with_new.write_config({"seed": 1})
    with_new.close()
    assert (tmp_path / "other.json").read_bytes() == before


REPLACED: dict[str, Callable[[RunFolder], object]] = {
    "config.json": lambda run: run.write_config({}),
    "summary.json": lambda run: run.write_summary({}),
    "topology.txt": lambda run: run.write_config({}, b"1"),
    "chaos.json": lambda run: replace_json(run.path / "chaos.json", {}),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_link_is_replaced_where_the_file_is_made_anew(
    run: Path, tmp_path: Path, name: str
) -> None:
    target = victim(tmp_path)
    folder = RunFolder.open(run)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    REPLACED[name](folder)
    folder.close()
    assert target.read_bytes() == VICTIM
    assert not (run / name).is_symlink()


def monitored(path: Path, warn: Warn) -> None:
    log = MonitorLog(path, "E", 0.0, warn)
    log.append(1.0, 1, 1.0)
    log.flush()


WRITERS: dict[str, Callable[[Path, Warn], object]] = {
    "metrics": lambda path, warn: MetricsLog(path, 1, 0, warn),
    "events": lambda path, warn: EventLog(path, 1, warn).append(0.0, 0.0, "x"),
    "gossip": lambda path, warn: GossipLog(path, warn).append([{"kind": "lost"}]),
    "monitor": monitored,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_that_comes_later_is_told_and_not_followed(tmp_path: Path, name: str) -> None:
    told: list[str] = []
    path = tmp_path / name
    target = victim(tmp_path)
    if name == "monitor":
        target.write_bytes(b'#{"t_start": 0}\nr,l,t\n')
    before = target.read_bytes()
    path.symlink_to(target)
    WRITERS[name](path, told.append)
    assert target.read_bytes() == before
    assert [line.partition(";")[0] for line in told] == [
        f"{path}: a link, through which nothing is written"
    ]


def test_what_is_no_plain_file_is_not_written_to(tmp_path: Path) -> None:
    told: list[str] = []
    os.mkfifo(tmp_path / "events")
    EventLog(tmp_path / "events", 1, told.append).append(0.0, 0.0, "x")
    assert "not a plain file" in told[0]


@pytest.mark.parametrize("how", ["link", "folder removed", "folder", "pipe"])
def test_a_process_whose_log_cannot_be_has_none(tmp_path: Path, how: str) -> None:
    path = tmp_path / "logs" / "learner-0.log"
    if how != "folder removed":
        path.parent.mkdir()
    target = victim(tmp_path)
    if how == "link":
        path.symlink_to(target)
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    log = open_log(path)
    os.write(log, b"said")
    os.close(log)
    assert target.read_bytes() == VICTIM
    assert path.parent.exists() == (how != "folder removed")


def test_a_log_is_added_to(tmp_path: Path) -> None:
    for word in (b"one\n", b"two\n"):
        log = open_log(str(tmp_path / "learner-0.log"))
        os.write(log, word)
        os.close(log)
    assert (tmp_path / "learner-0.log").read_bytes() == b"one\ntwo\n"


# Who else may write


def test_a_folder_of_the_user_alone_is_not_told_of(tmp_path: Path) -> None:
    folder = create(tmp_path)
    assert folder.warning is None
    folder.close()
    tmp_path.chmod(0o775)  # umask 002, with the user's own group
    assert shared_with(tmp_path) is None


def test_a_folder_that_others_may_write_to_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    folder = create(tmp_path, tmp_path / "run")
    assert folder.warning is not None
    assert "everyone may write to it" in folder.warning
    assert f"chmod o-w {folder.path}" in folder.warning
    folder.close()
    folder.path.chmod(0o2775)
    monkeypatch.setattr(os, "getegid", lambda: 4711)
    assert "the members of its group may write" in str(shared_with(folder.path))


@pytest.mark.parametrize(("known", "who"), [(True, "alice ("), (False, "")])
def test_a_folder_of_another_user_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, *, known: bool
) -> None:
    def name_of(number: int) -> object:
        if not known:
            raise KeyError
        return type("Entry", (), {"pw_name": "alice"})

    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    monkeypatch.setattr(inspection.pwd, "getpwuid", name_of)
    assert f"belongs to user {who}{owner}" in str(shared_with(tmp_path))
