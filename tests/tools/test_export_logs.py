"""`galamp export-logs`, read back by the real TensorBoard and the real W&B where they are there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from galamp.cli.main import main
from galamp.storage.event_log import EventLog
from galamp.storage.run_logs import MetricsLog
from galamp.telemetry.sinks import wandb_run
from galamp.telemetry.sinks.scalars import scalars
from galamp.tools.export_logs.timed_rows import timed_rows
from tests.support.finished import finished_run, write_rows
from tests.support.offline_wandb import wandb_rows

BEGAN_S = 1_700_000_000.0


def lacking(package: str) -> pytest.MarkDecorator:
    """Skip where a package that is an extra of the same name is missing."""
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"the package {package} is not installed: pip install 'galamp[{package}]'",
    )


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    """A run whose second start went on from step 2,000 of 3,000, a day later."""
    run = finished_run(tmp_path / "run", [1.0, 2.0, 9.0], seed=7)
    log = MetricsLog(run / "metrics.jsonl", 2, 2000, print)
    write_rows(log, [4.0, 5.0], first=3)
    for start, time_s, wall_s in ((1, 108.0, 108.0), (2, 86_400.0 + 36.0, 108.0)):
        EventLog(run / "events.jsonl", start, print).append(
            BEGAN_S + time_s, 0.0, "a", wall_s=wall_s
        )
    return run


def test_rows_that_count_have_the_time_of_their_start(resumed: Path) -> None:
    found = list(timed_rows(resumed))
    assert [row["global_step"] for _, row in found] == [1000, 2000, 3000, 4000]
    assert [row["charts/episodic_return"] for _, row in found] == [1.0, 2.0, 4.0, 5.0]
    second = 86_400.0 - 72.0
    seconds = [36.0, 72.0, second + 108.0, second + 144.0]
    assert [time_s - BEGAN_S for time_s, _ in found] == pytest.approx(seconds)


def test_without_events_rows_end_when_the_file_was_written(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", [1.0, 2.0])
    changed = (run / "metrics.jsonl").stat().st_mtime
    assert [time_s for time_s, _ in timed_rows(run)] == pytest.approx([changed - 36.0, changed])


def test_tags_are_cleanrls() -> None:
    row = {"global_step": 5, "losses/clip_fraction": 0.5, "losses/entropy": 1, "a": None, "b": "x"}
    assert dict(scalars(row)) == {"losses/clipfrac": 0.5, "losses/entropy": 1.0}


@lacking("tensorboard")
@pytest.mark.filterwarnings("default")
def test_tensorboard_reads_every_row_that_counts(
    resumed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["export-logs", str(resumed), "--tensorboard"]) == 0
    assert f"tensorboard --logdir {resumed}/tensorboard" in capsys.readouterr().err
    found = EventAccumulator(str(resumed / "tensorboard"))
    found.Reload()
    tags = {
        "charts/episodic_return", "charts/episodic_length", "charts/SPS", "losses/value_loss",
        "losses/policy_loss", "losses/entropy", "gossip/consensus_distance", "learner0/SPS",
    }  # fmt: skip
    assert tags <= set(found.Tags()["scalars"])
    assert not {"global_step", "start"} & set(found.Tags()["scalars"])
    read = [(each.step, each.value) for each in found.Scalars("charts/episodic_return")]
    assert read == [(1000, 1.0), (2000, 2.0), (3000, 4.0), (4000, 5.0)]
    assert main(["export-logs", str(resumed), "--tensorboard"]) == 2
    assert "has event files" in capsys.readouterr().err
    new = resumed / "a new one"
    assert main(["export-logs", str(resumed), "--tensorboard", "-o", str(new)]) == 0
    assert f"to {new}; look at them: tensorboard --logdir '{new}'" in capsys.readouterr().err
    assert len(list(new.iterdir())) == 1


@lacking("wandb")
@pytest.mark.filterwarnings("default")
def test_wandb_takes_every_row_offline(
    resumed: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["export-logs", str(resumed), "--wandb-project", "pong"]) == 0
    (folder,) = (resumed / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder}" in capfd.readouterr().err
    rows, run = wandb_rows(folder)
    assert [row["global_step"] for row in rows] == [1000, 2000, 3000, 4000]
    assert [row["charts/episodic_return"] for row in rows] == [1.0, 2.0, 4.0, 5.0]
    assert rows[0]["_timestamp"] == pytest.approx(BEGAN_S + 36.0)
    assert (run.project, run.display_name) == ("pong", "run")
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["seed"] == 7


@pytest.mark.parametrize(
    ("variables", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "k"}, "", "online"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "", "disabled"),
        ({}, "machine api.wandb.ai login user password k\n", "online"),
        (
            {"WANDB_BASE_URL": "http://here:80"},
            "machine api.wandb.ai login u password k\n",
            "offline",
        ),
        ({}, "not a netrc", "offline"),
    ],
)
def test_wandb_is_online_only_where_there_is_a_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    netrc: str,
    mode: str,
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_run.mode() == mode


def test_the_starts_of_a_run_are_one_run_at_wandb(tmp_path: Path) -> None:
    first = wandb_run.run_id(tmp_path)
    assert wandb_run.run_id(tmp_path) == first
    assert len(first) == 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "expected --tensorboard, --wandb, or both"),
        (["--tensorboard", "-o", "{file}/x"], "cannot be a folder"),
        (["--tensorboard"], "no metrics yet|needs the package tensorboard"),
        (["--wandb"], "no metrics yet|needs the package wandb"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    run = finished_run(tmp_path / "run", [])
    file = run / "config.json"
    assert main(["export-logs", str(run), *(word.format(file=file) for word in words)]) == 2
    told_now = capsys.readouterr().err
    assert told_now.count("\n") == 1
    assert any(part in told_now for part in told.split("|"))
    assert not (run / "wandb").exists()


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export-logs", str(tmp_path), "--tensorboard"]) == 2
    assert "not a run folder" in capsys.readouterr().err
