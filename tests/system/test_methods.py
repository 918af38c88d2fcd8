"""Ways to work together, from the command line to the files of a run, in real processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from galamp.cli.main import main
from galamp.storage import checkpoint
from galamp.storage.canonical_json import encode
from galamp.storage.run_folder import GRAPH
from galamp.storage.run_logs import read_metrics
from tests.support.checkpoints import reseal
from tests.support.engine import run, summary

LEARNERS, ENVS = 2, 3
COMMON = ["--env-id", "CartPole-v1", "--learners", LEARNERS, "--num-envs", ENVS, "--quiet"]
COMMON += ["--simulator-workers", 1, "--env-splits", 1, "--threads", 1, "--seed", 5]
STEPS = 600
A_WHILE = 6_000
"""Agent steps that last long enough for all learners to take part: they start one by one."""


def trained(folder: Path, *flags: object, steps: int = STEPS) -> dict[str, Any]:
    """Train in `folder`; returns the summary."""
    ended = run(*COMMON, "--total-steps", steps, "--run-dir", folder, *flags)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    found = summary(folder)
    assert found["status"] == "finished"
    return found


def config(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows with measurements; a start's first row has none."""
    return [row for row in read_metrics(folder / "metrics.jsonl") if "gossip/sent" in row]


def audit(folder: Path) -> int:
    """Return the exit code of `galamp audit`."""
    return main(["audit", "--json", str(folder)])


def kinds(folder: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in (folder / "gossip.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("gossip", marks=pytest.mark.slow),
        pytest.param("single", marks=pytest.mark.slow),
        pytest.param("allreduce", marks=pytest.mark.slow),
        "independent",
    ],
)
def test_every_method_with_the_same_flags(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "run"
    found = trained(folder, "--method", method, steps=A_WHILE)
    learners, each = (1, LEARNERS * ENVS) if method == "single" else (LEARNERS, ENVS)
    assert found["agent_steps"] >= A_WHILE
    assert sum(found["updates_per_learner"]) * 5 * each == found["agent_steps"]
    stored = config(folder)
    assert stored["resources"]["learners"] == len(found["updates_per_learner"]) == learners
    assert stored["environment"]["num_envs"] == each
    assert stored["algorithm"]["learning_rate"] == 7e-4 * LEARNERS**0.5
    assert stored["gossip"]["method"] == method
    assert len(checkpoint.load(folder / "checkpoints" / "latest").learners) == learners

    told = found["gossip"]
    assert told["method"] == method
    assert told["topology"] == ("ring" if method == "gossip" else "none")
    assert told["synchronous"] == (method == "allreduce")
    assert told["gradient_correlation"] is None
    distance, certificate = told["consensus_distance"], told["certificate"]
    sent = rows(folder)[-1]["gossip/sent"]
    if method == "gossip":
        assert min(found["mixes_per_learner"]) > 0
        assert sent == sum(found["updates_per_learner"])
        assert 0 < distance < certificate
    elif method == "independent":
        assert found["mixes_per_learner"] == [0, 0]
        assert sent == 0
        assert 0 < distance < certificate
    elif method == "allreduce":
        assert found["mixes_per_learner"] == found["updates_per_learner"]
        assert (distance, told["pairwise_distance"], certificate) == (0.0, 0.0, None)
    else:
        assert (sent, certificate) == (0, None)
    if method in ("gossip", "independent"):
        assert told["pairwise_distance"] <= certificate
        assert told["certificate_ratio"] == told["pairwise_distance"] / certificate
        assert audit(folder) == 0
    else:
        assert not (folder / "gossip.jsonl").exists()


@pytest.mark.slow
def test_a_resumed_run_of_a_single_learner_keeps_its_environments(tmp_path: Path) -> None:
    """All environments are one learner's, once, however often the run is gone on with."""
    folder = tmp_path / "run"
    trained(folder, "--method", "single")
    before = config(folder)
    ended = run("--resume", folder, "--total-steps", 2 * STEPS)
    assert ended.returncode == 0, ended.stderr
    after = config(folder)
    for section in ("environment", "algorithm", "gossip", "resources"):
        assert after[section] == before[section]
    assert summary(folder)["start"] == 2


def under_former_names(folder: Path) -> None:
    """Have a run's config and checkpoints say what an older galamp has written."""

    def older(values: dict[str, Any]) -> dict[str, Any]:
        values["gossip"]["method"] = "gala"
        values["resources"]["batches"] = values["resources"].pop("env_splits")
        return values

    (folder / "config.json").write_text(json.dumps(older(config(folder))))
    for path in (folder / "checkpoints").glob("ckpt-*"):
        state = json.loads((path / "state.json").read_text())
        state["config"] = older(state["config"])
        (path / "state.json").write_bytes(encode(state))
        reseal(path)


def test_a_run_of_an_older_galamp_is_played_audited_and_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder)
    before = config(folder)
    under_former_names(folder)
    assert main(["eval", str(folder), "--episodes", "1", "--quiet"]) == 0
    assert audit(folder) == 0
    ended = run("--resume", folder, "--total-steps", 2 * STEPS)
    assert ended.returncode == 0, ended.stderr
    after = config(folder)
    assert after["gossip"] == before["gossip"]
    assert after["resources"] == before["resources"]
    told = [json.loads(line)["text"] for line in (folder / "events.jsonl").read_text().splitlines()]
    assert f"total steps: from {STEPS} to {2 * STEPS}" in told
    assert not any(line.startswith(("method:", "batches:", "env splits:")) for line in told)


GRAPHS = {
    "weights": "# learner 0 listens more\n0.25 0.75\n0.5, 0.5\n",
    "adjacency": "0 1\n1 0\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(GRAPHS))
def test_a_graph_of_ones_own(tmp_path: Path, kind: str) -> None:
    folder, file = tmp_path / "run", tmp_path / "mine.txt"
    file.write_text(GRAPHS[kind])
    found = trained(folder, "--topology", f"file:{file}", steps=A_WHILE)
    assert found["gossip"]["topology"] == f"file:{file}"
    assert min(found["mixes_per_learner"]) > 0
    copy = folder / GRAPH
    assert copy.read_text() == GRAPHS[kind]
    assert weights_of(folder) == ({0.25, 0.5} if kind == "weights" else {0.5})

    file.unlink()
    resumed = run("--resume", folder, "--total-steps", 2 * A_WHILE)
    assert resumed.returncode == 0, resumed.stderr
    later = summary(folder)
    assert (later["start"], later["gossip"]["topology"]) == (2, f"file:{file}")
    mixes = zip(found["mixes_per_learner"], later["mixes_per_learner"], strict=True)
    assert all(after > before for before, after in mixes)
    assert copy.read_text() == GRAPHS[kind]
    assert weights_of(folder) == ({0.25, 0.5} if kind == "weights" else {0.5})
    assert audit(folder) == 0


def weights_of(folder: Path) -> set[float]:
    """Return the weights that learners gave themselves where they mixed."""
    found = set()
    for line in (folder / "gossip.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "publication" and entry["mixed"]:
            found.add(entry["own"])
    return found


@pytest.mark.slow
def test_a_tiny_target_keeps_gossip_going(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = trained(folder, "--target-ball", 1e-9, "--log-every-s", 0.05, steps=A_WHILE)
    assert rows(folder)[-1]["gossip/sent"] == sum(found["updates_per_learner"])


@pytest.mark.slow
def test_a_huge_target_ends_gossip(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = trained(folder, "--target-ball", 1e9, "--log-every-s", 0.05, steps=4 * A_WHILE)
    seen = [row for row in rows(folder) if row["gossip/consensus_distance"] is not None]
    assert len(seen) > 3
    # The first measurement ends it; a learner may be in the middle of a round then.
    half = seen[len(seen) // 2]["gossip/sent"]
    assert seen[-1]["gossip/sent"] <= half < sum(found["updates_per_learner"])
    assert seen[-1]["gossip/consensus_distance"] > 0, "they are measured all the same"
    assert len({row["gossip/consensus_distance"] for row in seen}) > 1
    assert audit(folder) == 0


@pytest.mark.slow
def test_gradients_are_compared(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--gradient-correlation", "--log-every-s", 0.05]
    found = trained(folder, *flags, steps=A_WHILE)
    values = [row["gossip/gradient_correlation"] for row in rows(folder)]
    known = [value for value in values if value is not None]
    assert len(set(known)) > 1
    assert all(-1 <= value <= 1 for value in known)
    assert found["gossip"]["gradient_correlation"] == known[-1]


@pytest.mark.slow
def test_the_record_of_a_run_and_of_its_second_start_is_proof(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--learners", 3, "--log-every-s", 0.1]
    trained(folder, *flags, steps=A_WHILE)
    assert audit(folder) == 0
    ended = run("--resume", folder, "--total-steps", 2 * A_WHILE)
    assert ended.returncode == 0, ended.stderr
    assert kinds(folder).count("start") == 2
    assert audit(folder) == 0
    assert kinds(folder).count("measurement") > 3

    shutil.copytree(folder, tmp_path / "forged", symlinks=True)
    file = tmp_path / "forged" / "gossip.jsonl"
    file.write_text("\n".join(map(shortened, file.read_text().splitlines())) + "\n")
    assert audit(tmp_path / "forged") == 1


def shortened(line: str) -> str:
    """Return a line that tells of updates a hundredth as long as they were."""
    entry = json.loads(line)
    if entry["kind"] == "publication":
        entry["length"] /= 100
    return json.dumps(entry)


@pytest.mark.slow
def test_a_missing_line_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, steps=A_WHILE)
    file = folder / "gossip.jsonl"
    lines = file.read_text().splitlines()
    gone = [i for i, line in enumerate(lines) if json.loads(line)["kind"] == "publication"][9]
    file.write_text("\n".join(lines[:gone] + lines[gone + 1 :]) + "\n")
    assert audit(folder) == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--target-ball", 1, "--sync"], "--target-ball"),
        (["--target-ball", 1, "--max-staleness", 0], "--target-ball"),
        (["--target-ball", 1, "--method", "allreduce"], "--target-ball"),
        (["--method", "single", "--topology", "star"], "--topology star"),
        (["--method", "independent", "--topology", "complete"], "--topology complete"),
        (["--topology", "file:GRAPH"], "the weights of learner 1 sum to 1.1, expected 1"),
        (["--topology", "file:NOT-THERE"], "No such file"),
        (["--gossip-weights", "metropolis", "--learners", 3], "--gossip-weights metropolis"),
        (["--gossip-probability", 1.5], "--gossip-probability"),
        (["--gossip-every", 0], "--gossip-every"),
    ],
)
def test_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[object], told: str
) -> None:
    graph, folder = tmp_path / "graph.txt", tmp_path / "run"
    graph.write_text("0.5 0.5\n0.6 0.5\n")
    words = [str(flag).replace("GRAPH", str(graph)) for flag in flags]
    common = [*COMMON, "--total-steps", STEPS, "--run-dir", folder]
    assert main(["run", *map(str, common), *words]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert told in complaint
    assert not folder.exists(), "nothing was begun"


@pytest.mark.slow
def test_from_any_checkpoint_into_lock_step(tmp_path: Path) -> None:
    """Learners that never waited are in different turns; in lock-step they begin in the same."""
    folder = tmp_path / "run"
    trained(folder, "--topology", "random-pairs", "--learners", 3, steps=A_WHILE // 2)
    ended = run("--resume", folder, "--sync", "--total-steps", A_WHILE)
    assert ended.returncode == 0, ended.stderr
    learners = checkpoint.load(folder / "checkpoints" / "latest").learners
    assert len({learner.counters["turns"] for learner in learners}) == 1
    assert len({learner.counters["rounds"] for learner in learners}) == 1

    refused = run("--resume", folder, "--method", "allreduce", "--topology", "none")
    assert refused.returncode == 2
    assert "the learners in the checkpoint differ" in refused.stderr
    assert refused.stderr.count("\n") == 1
