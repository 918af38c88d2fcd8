"""A resume looks at nothing of its run before it has the lock, and follows links once."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galamp.cli import chaos, run_config
from galamp.cli import main as cli
from galamp.cli import run as run_module
from galamp.core.config import RunConfig, to_dict
from galamp.core.errors import UserError
from galamp.storage import checkpoint as checkpoints
from galamp.storage import run_folder
from galamp.storage.links import followed
from galamp.storage.locks import Lock, take_lock
from galamp.storage.run_folder import RunFolder, StoredChoices
from galamp.training import train
from galamp.training.resume_point import ResumePoint
from tests.storage.test_run_folder import create
from tests.support.checkpoints import PONG, without_waiting_for_the_disk
from tests.training.test_resume_point import SIZES, whole, with_progress

__all__ = ["without_waiting_for_the_disk"]


class SeenError(Exception):
    """Ends a command once it is seen what it goes on with."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has ended."""
    folder = create(tmp_path, tmp_path / "run")
    folder.write_config(to_dict(RunConfig(seed=1)))
    folder.close()
    checkpoints.save(folder.checkpoints, whole())
    return folder.path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Config and checkpoint that a command goes on with; no process starts, nothing is trained."""
    found: list[Any] = []

    def survey(config: RunConfig, kept: StoredChoices) -> tuple[Any, Any]:
        found.append(config)
        sketch = SimpleNamespace(state_sizes=SIZES, normaliser=None)
        return SimpleNamespace(identity=PONG, sketch=sketch), SimpleNamespace(plan=None)

    def load_resume_point(*args: Any) -> ResumePoint:
        found.append(real(*args))
        raise SeenError

    real = train.load_resume_point
    for module, name in (
        (run_module, "claim_process"),
        (chaos, "claim_process"),
        (run_module, "start_server"),
        (train, "start_server"),
    ):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr(train, "survey", survey)
    monkeypatch.setattr(train, "load_resume_point", load_resume_point)
    return found


CHAOS = ["--total-steps", "1000000000000", "--hang-after-s", "3", "--max-restarts", "1000000",
         "--verify-gossip", "--checkpoint-every-s", "5"]  # fmt: skip


@pytest.mark.parametrize("command", [["run"], ["chaos", *CHAOS]], ids=["run", "chaos"])
def test_what_a_run_writes_until_its_lock_is_free_is_gone_on_from(
    run: Path, seen: list[Any], command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def free_at_last(folder: Path, started: datetime) -> Lock:
        (run / "config.json").write_text(json.dumps(to_dict(RunConfig(seed=2))))
        checkpoints.save(run / "checkpoints", with_progress(agent_steps=200)(whole()))
        return take_lock(folder, started)

    monkeypatch.setattr(run_folder, "take_lock", free_at_last)
    with pytest.raises(SeenError):
        cli.main([*command, "--resume", str(run), "--quiet"])
    config, resume_point = seen
    assert (config.seed, resume_point.checkpoint.progress["agent_steps"]) == (2, 200)
    RunFolder.open(run).close()  # it is given back


@pytest.mark.parametrize("given", [0, 2, 6, len(CHAOS)])
def test_chaos_changes_no_run_for_good_unless_told(
    run: Path, seen: list[Any], given: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "config.json").read_bytes()
    words = ["chaos", "--resume", str(run), "--quiet", *CHAOS[:given]]
    if given == len(CHAOS):
        with pytest.raises(SeenError):
            cli.main(words)
        return
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    for word in CHAOS:
        if word.startswith("--"):
            assert (f"add {word} " in told or f" {word} " in told) == (word not in words)
    assert (run / "config.json").read_bytes() == before
    assert seen == []


@pytest.mark.parametrize("wrong", ["config", "flag", "checkpoint"])
def test_what_is_refused_gives_the_lock_back(
    run: Path, seen: list[Any], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--resume", str(run), "--quiet"]
    if wrong == "config":
        (run / "config.json").write_text("{")
    elif wrong == "flag":
        words += ["--seed", "x"]
    else:
        next((run / "checkpoints").glob("ckpt-*/MANIFEST.json")).write_text("{")
    assert cli.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    RunFolder.open(run).close()


def test_a_run_in_use_is_told_before_anything_of_it_is_read(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    living = RunFolder.open(run)
    (run / "config.json").write_text("{")
    assert cli.main(["run", "--resume", str(run)]) == 2
    assert "run: in use by process" in capsys.readouterr().err
    living.close()


@pytest.mark.parametrize("words", [["run", "--resume"], ["chaos", "--resume"], ["attach"],
                                   ["audit"], ["scale", "--learners", "2"]])  # fmt: skip
def test_a_link_is_followed_when_the_command_line_is_read(
    run: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    Path("a-link").symlink_to("run")
    args = cli.build_parser().parse_args([*words, "a-link"])
    found = folder_of(args)
    Path("a-link").unlink()
    Path("a-link").symlink_to("nowhere")
    assert found == run
    typed = cli.build_parser().parse_args([*words, "run"])
    assert Path("run") == folder_of(typed)


def folder_of(args: argparse.Namespace) -> Path:
    """The one folder that a command line names."""
    named = [vars(args).get(name) for name in ("resume", "run", "runs")]
    (found,) = [each for each in named if each is not None]
    return found[0] if isinstance(found, list) else found


def test_a_link_above_a_run_is_followed_too(run: Path) -> None:
    link = run.parent / "runs"
    link.symlink_to(".")
    assert followed(str(link / "run")) == run
    (run.parent / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="no run folder"):
        run_config._check_run_folder(followed(str(run.parent / "loop")))
