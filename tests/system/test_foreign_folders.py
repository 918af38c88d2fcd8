"""Run folders from elsewhere: what they name is not followed out of them, what lies there stays."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from galamp.cli import main as cli
from galamp.cli.main import build_parser
from galamp.cli.run_config import config_from, configured
from galamp.core.config import GossipConfig, RunConfig, to_dict
from galamp.core.disk import temporary_name
from galamp.core.errors import CheckpointError, UserError
from galamp.core.machine.machine import plain_machine
from galamp.storage import checkpoint as ck
from galamp.storage import checkpoint_format, inspection, mounts, run_folder
from galamp.storage.checkpoint import CheckpointNotWritten
from galamp.storage.inspection import in_container, shared_with
from galamp.storage.mounts import keeps_modes
from galamp.storage.run_folder import RunFolder
from galamp.tools.evaluation.report import _target
from galamp.tools.evaluation.trained import locate
from galamp.training.resolve import resolve_run
from galamp.training.resume import graph_file
from tests.storage.test_odd_disks import refusing, saver
from tests.storage.test_run_folder import create
from tests.support.checkpoints import made, reseal, without_waiting_for_the_disk

__all__ = ["without_waiting_for_the_disk"]


def stored(path: Path, topology: str) -> Path:
    config = RunConfig(gossip=GossipConfig(topology=topology))
    (path / "config.json").write_text(json.dumps(to_dict(config)))
    return path


# The graph


@pytest.mark.parametrize("how", ["missing", "a link", "a folder"])
def test_a_stored_path_of_a_graph_is_not_opened(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2 hunter2\n")
    run = tmp_path / "run"
    run.mkdir()
    stored(run, f"file:{secret}")
    if how == "a link":
        (run / "topology.txt").symlink_to(secret)
    elif how == "a folder":
        (run / "topology.txt").mkdir()
    for words in (["run"], ["run", "--dry-run"], ["chaos"]):
        assert cli.main([*words, "--resume", str(run)]) == 2
        told = capsys.readouterr().err
        assert "hunter2" not in told
        assert told.count("\n") == 1
        assert "run: its gossip graph topology.txt is missing, or no plain file: name" in told
    again = ["run", "--resume", str(run), "--topology", f"file:{secret}"]
    config = config_from(build_parser().parse_args(again))
    plan: Any = type("Plan", (), {"config": config})
    assert graph_file(plan, run) == secret
    (run / "topology.txt").unlink() if how == "a link" else None
    if how != "a folder":
        (run / "topology.txt").write_text("0 1\n1 0\n")
        assert graph_file(plan, run) == run / "topology.txt"
        config_from(build_parser().parse_args(again[:3]))


@pytest.mark.parametrize("more", [[], ["--topology"]])
def test_a_graph_that_is_named_is_the_one_that_is_taken(tmp_path: Path, more: list[str]) -> None:
    """Under the same name as before, too: the file may be another by now."""
    named = tmp_path / "graph.txt"
    named.write_text("0 1\n1 0\n")
    folder = RunFolder.create(None, str(tmp_path / "run"), "CartPole-v1", "x", 1, datetime.now())
    config = to_dict(RunConfig(gossip=GossipConfig(topology=f"file:{named}")))
    assert not folder.write_config(config, named.read_bytes())
    folder.close()
    named.write_text("0 1 \n1 0\n# anew\n")
    words = ["run", "--resume", str(folder.path), *more, *[f"file:{named}" for _ in more]]
    with configured(build_parser().parse_args(words)) as (settled, resumed):
        assert resumed is not None
        resolved = resolve_run(with_two(settled), plain_machine(range(2), 0, 2**20), resumed.kept)
        assert resolved.graph is not None
        assert resolved.graph.path == (named if more else folder.path / "topology.txt")
        assert (folder.path / "topology.txt").read_text() == "0 1\n1 0\n", "not before it begins"
        assert resumed.write_config(to_dict(settled), resolved.graph.content) is bool(more)
    assert ("anew" in (folder.path / "topology.txt").read_text()) is bool(more)


def with_two(config: RunConfig) -> RunConfig:
    resources = dataclasses.replace(config.resources, learners=2, device="cpu")
    return dataclasses.replace(config, resources=resources)


# Links


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint of somebody else's."""
    return ck.save(made_folder(tmp_path / "other" / "checkpoints"), made(900))


def made_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("name", ["best", "latest"])
@pytest.mark.parametrize("absolute", [True, False])
def test_links_of_a_run_lead_to_its_own_checkpoints_only(
    tmp_path: Path, other: Path, name: str, *, absolute: bool
) -> None:
    folder = made_folder(tmp_path / "run" / "checkpoints")
    own = ck.save(folder, made(100))
    target = other if absolute else Path("../../other/checkpoints") / other.name
    (folder / name).symlink_to(target)
    assert locate(tmp_path / "run").path == own
    with pytest.raises(CheckpointError, match=rf"{name}: leads to {other}, expected a checkpoint"):
        locate(folder / name)
    with pytest.raises(CheckpointError, match="expected a checkpoint beside it"):
        ck.find(folder / name)
    again = saver(folder, [])
    again.resume_best()
    assert again._best_path is None
    (folder / name).unlink()
    (folder / name).symlink_to(own if absolute else own.name)
    assert locate(folder / name).path == own


def test_a_report_goes_to_the_folder_that_was_named(tmp_path: Path, other: Path) -> None:
    run = made_folder(tmp_path / "run")
    (run / "checkpoints").symlink_to(other.parent)
    for named in (run, tmp_path / "link"):
        if named != run:
            named.symlink_to("run")
        found = locate(named)
        assert found.path.resolve() == other
        assert _target("", found, "mean").parent == run
    for named in (other, other.parent, other.parent.parent):
        assert _target("", locate(named), "mean").parent == other.parent.parent


# Numbers


@pytest.mark.parametrize("sequence", [2**53, 2**62, 2**63 - 1])
def test_a_checkpoint_with_the_last_number_of_all_does_not_end_saving(
    tmp_path: Path, sequence: int
) -> None:
    with_sequence(ck.save(tmp_path, made(100)), sequence)
    with pytest.raises(CheckpointError, match="sequence: expected"):
        ck.find(tmp_path)
    for steps in (200, 300):
        assert ck.find(ck.save(tmp_path, made(steps)).parent).path.name.endswith(str(steps))


def test_at_the_limit_of_numbers_saving_goes_on(tmp_path: Path) -> None:
    with_sequence(ck.save(tmp_path, made(100)), checkpoint_format.SEQUENCE_LIMIT - 1)
    for steps in (200, 300):
        assert ck.find(ck.save(tmp_path, made(steps)).parent).path.name.endswith(str(steps))


def with_sequence(path: Path, sequence: int) -> None:
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    manifest["sequence"] = sequence
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    reseal(path)


# What killed starts left


def left_by(host: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: host)
        with temporary_name(folder) as path:
            name = path
    name.mkdir()
    (name / "learner-0.safetensors").write_bytes(b"x" * 1000)
    return name


@pytest.mark.parametrize("host", ["4f5e1c9a7b21", "here"])
@pytest.mark.parametrize("local", ["", "fuse.sshfs"])
def test_what_killed_containers_left_half_written_goes_at_the_next_start(
    tmp_path: Path, host: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path, tmp_path / "run")
    run.write_config({})
    run.close()
    run.checkpoints.mkdir()
    left = [left_by(f"{host}-{i}", run.checkpoints, monkeypatch) for i in range(3)]
    monkeypatch.setattr(run_folder, "local_locks", lambda path: local)
    again = RunFolder.open(run.path)
    assert [path.exists() for path in left] == [bool(local)] * 3
    with temporary_name(run.checkpoints) as mine:
        mine.write_bytes(b"")
        again.remove_dead()
        assert mine.exists()
    again.close()


def test_what_others_left_goes_where_a_checkpoint_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path, tmp_path / "run")
    run.write_config({})
    run.checkpoints.mkdir()
    left = left_by("elsewhere", run.checkpoints, monkeypatch)
    save = ck.save

    def small(folder: Path, content: Any) -> Path:
        if left.exists():
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise CheckpointNotWritten("no room") from full
        return save(folder, content)

    monkeypatch.setattr(ck, "save", small)
    writer = saver(run.checkpoints, [])
    writer._remove_dead = run.remove_dead
    assert writer._save(made(1)).is_dir()
    run.close()


# What is not galamp's


@pytest.mark.parametrize("name", ["logs/notes", "logs/all.log", "monitor/plot.png", "logs/w&b.log"])
def test_a_link_that_is_never_written_to_refuses_nothing(tmp_path: Path, name: str) -> None:
    run = create(tmp_path, tmp_path / "run")
    run.write_config({})
    run.close()
    (run.path / name).symlink_to(tmp_path)
    RunFolder.open(run.path).close()


@pytest.mark.parametrize(
    "name", [".DS_Store", "._x", "lost+found", "desktop.ini", "Thumbs.db", "notes"]
)
def test_what_systems_put_into_folders_leaves_them_empty(tmp_path: Path, name: str) -> None:
    folder = made_folder(tmp_path / "mine")
    made_folder(folder / name) if name == "lost+found" else (folder / name).write_text("")
    if name == "notes":
        with pytest.raises(UserError, match="not empty"):
            create(tmp_path, folder)
        return
    create(tmp_path, folder).close()
    assert os.listdir(folder) == [name]
    run = create(tmp_path, folder)
    run.write_config({})
    run.close()


# Modes


@pytest.mark.parametrize(
    ("kind", "options", "keeps"),
    [
        ("9p", "rw,aname=drvfs;path=C:\\;uid=1000", False),
        ("9p", "rw,aname=drvfs;path=C:\\;metadata;uid=1000", True),
        ("exfat", "rw,umask=0000", False),
        ("vfat", "rw", False),
        ("ext4", "rw", True),
        ("", "rw", True),
    ],
)
def test_where_chmod_changes_nothing_it_is_not_advised(
    tmp_path: Path, kind: str, options: str, monkeypatch: pytest.MonkeyPatch, *, keeps: bool
) -> None:
    table, run = tmp_path / "mountinfo", made_folder(tmp_path / "run")
    table.write_text(f"1 0 8:1 / {run} rw - {kind} /dev/x {options}\n" if kind else "")
    run.chmod(0o777)
    monkeypatch.setattr(mounts, "MOUNTS", table)
    assert keeps_modes(run) == keeps
    assert (shared_with(run) is None) == (not keeps)


@pytest.mark.parametrize(("euid", "contained"), [(0, True), (0, False), (4711, True)])
def test_root_in_a_container_is_not_told_who_owns_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, euid: int, *, contained: bool
) -> None:
    os.chown(tmp_path, 1234, -1) if os.geteuid() == 0 else None
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(inspection, "in_container", lambda: contained)
    if os.stat(tmp_path).st_uid == euid:
        pytest.skip("nobody else's folder can be had here")
    assert (shared_with(tmp_path) is None) == (euid == 0 and contained)


def test_a_container_is_known_by_its_marks(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    users = tmp_path / "proc" / "self" / "uid_map"
    assert not in_container(tmp_path)
    users.write_text("         0          0 4294967295\n")
    assert not in_container(tmp_path)
    (tmp_path / ".dockerenv").write_text("")
    assert in_container(tmp_path)
    (tmp_path / ".dockerenv").unlink()
    users.write_text("         0     100000      65536\n")
    assert in_container(tmp_path)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EPROTO])
def test_a_disk_that_refuses_everything_is_not_one_without_links(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ck.save(tmp_path, made(1))
    monkeypatch.setattr(os, "symlink", refusing(number))
    monkeypatch.setattr(os, "write", refusing(number))
    with pytest.raises(CheckpointNotWritten, match=os.strerror(number)):
        ck.point(tmp_path, "latest", path)
    assert not os.path.lexists(tmp_path / "latest")
