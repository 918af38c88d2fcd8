"""Real runs on two nodes of one machine: they mix, die, come back, and count once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galamp.core import failpoints
from galamp.gossip.cluster import GLOO, ZENOH
from galamp.gossip.transport.publication import Publication
from galamp.storage import checkpoint as checkpoints
from galamp.storage.checkpoint import Checkpoint
from galamp.storage.event_log import read_events
from galamp.storage.gossip_log import GOSSIP, read_gossip
from galamp.tools.evaluation.trained import MEAN, read
from tests.gossip.test_ports import free_address
from tests.support.engine import (
    DEADLINE_S,
    also,
    galamp,
    run,
    started,
    summary,
    titled,
    training,
    wait_for,
)
from tests.support.scenarios import ENDLESS, gone, rows, stopped, successor

pytest.importorskip("zenoh")

GONE = "node 1 is gone"
ON_TWO = [*ENDLESS, "--topology", "hierarchical", "--nodes-every", 2, "--nodes", 2]
ON_TWO += ["--checkpoint-every-s", 0.5, "--simulator-workers", 1]


def node(address: str, number: int, transport: str = ZENOH) -> list[object]:
    return [*ON_TWO, "--join", address, "--node-rank", number, "--transport", transport]


def events(folder: Path) -> list[str]:
    """What was reported, while it runs or after it."""
    found = folder / "events.jsonl"
    return [event.text for event in read_events(found)] if found.exists() else []


def last(folder: Path) -> dict[str, Any]:
    return rows(folder)[-1]


def mixing(folder: Path) -> bool:
    """Whether both learners mix, in rounds with the other node, too: none grows stale."""
    row = last(folder)
    return row["gossip/received"] > 20 and row["gossip/staleness"] < 10


def told(folder: Path, text: str) -> int:
    """How often an event was reported."""
    return sum(text in line for line in events(folder))


def reported(folder: Path, text: str, times: int = 1) -> bool:
    return told(folder, text) >= times


def until_training(folder: Path) -> None:
    """Wait until a node trains."""
    wait_for(lambda: training(folder), "training")


def until_mixing(folder: Path) -> None:
    """Wait until a node trains and mixes."""
    wait_for(lambda: training(folder) and mixing(folder), "mixing")


def until_reported(folder: Path, text: str, times: int = 1) -> None:
    """Wait for an event."""
    wait_for(lambda: reported(folder, text, times), f"{text!r}, {times} times")


def taken(folder: Path) -> int:
    """Vectors of the other node that this node's bridges have taken so far."""
    (snapshot,) = json.loads(galamp("attach", folder, "--once", "--json").stdout)["nodes"]
    return int(snapshot["received"])


def until_carried(folder: Path) -> None:
    """Wait until vectors of the other node come from now on.

    Whether a bridge that was started anew finds the other node gone first depends on which of them
    speaks sooner, so events do not tell.
    """
    before = taken(folder)
    wait_for(lambda: taken(folder) > before + 5, "vectors of the other node")


class Pair:
    """Two nodes of a run that both train; each is started, killed and started anew."""

    def __init__(self, folder: Path, stack: ExitStack, transport: str) -> None:
        self.address, self._stack, self._transport = free_address(), stack, transport
        self.folders = [folder / "zero", folder / "one"]
        self.processes = [self.start(number, self.folders[number]) for number in range(2)]

    def start(self, number: int, folder: Path) -> subprocess.Popen[str]:
        more: list[object] = ["--run-dir", folder]
        words = node(self.address, number, self._transport)
        return self._stack.enter_context(started(*words, *more))

    def resume(self, number: int) -> None:
        environment = ENDLESS[ENDLESS.index("--env-id") :]
        more = ["--resume", self.folders[number], "--quiet", *environment]
        self.processes[number] = self._stack.enter_context(started(*more))

    def bridge(self, number: int) -> int:
        (found,) = titled(self.processes[number].pid, "bridge")
        return found

    def kill_one(self) -> None:
        """Kill node 1, and wait until node 0 has told of it."""
        zero = self.folders[0]
        before = told(zero, GONE)
        self.processes[1].kill()
        until_reported(zero, GONE, before + 1)


@pytest.fixture(params=[ZENOH, also(GLOO)])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with ExitStack() as stack:
        found = Pair(tmp_path, stack, request.param)
        for folder in found.folders:
            until_mixing(folder)
        yield found


@pytest.mark.real
def test_a_node_that_dies_comes_back_and_no_step_is_lost_or_counted_twice(pair: Pair) -> None:
    zero, one = pair.folders
    assert reported(zero, "node 1 is there")
    assert reported(one, "node 0 is there")

    # A bridge that dies is started anew, and carries on.
    victim = pair.bridge(0)
    os.kill(victim, signal.SIGKILL)
    successor(pair.processes[0].pid, "bridge", victim)
    until_carried(one)
    until_carried(zero)

    # A node that dies: the other one is told at once, and goes on alone.
    orphans = titled(pair.processes[1].pid, "")
    pair.kill_one()
    gone(orphans)
    alone = last(zero)
    wait_for(lambda: last(zero)["learner1/updates"] > alone["learner1/updates"] + 5, "going on")

    # It comes back from its folder.
    pair.resume(1)
    until_reported(one, "goes on from")
    until_carried(one)
    until_carried(zero)

    # And once more, with nothing: what it has done before is not forgotten by the other one.
    pair.kill_one()
    before = last(zero)["global_step"]
    anew = one.with_name("anew")
    pair.processes[1] = pair.start(1, anew)
    until_mixing(anew)
    wait_for(lambda: last(anew)["global_step"] > before, "the count of what others have done")

    stopped(pair.processes[1], anew)
    stopped(pair.processes[0], zero)
    counts = [row["global_step"] for row in rows(zero)]
    assert counts == sorted(counts)
    own = {
        folder: sum(last(folder)[f"learner{r}/agent_steps"] for r in (0, 1))
        for folder in (zero, anew)
    }
    assert summary(zero)["agent_steps"] >= own[zero] + own[anew]
    assert summary(zero)["restarts"] == 1
    for folder in (zero, anew):
        record = json.loads(galamp("audit", folder, "--json").stdout)
        assert record["learners"] == 4
        assert record["passed"], record
    whole = json.loads(galamp("audit", zero, one, anew, "--json").stdout)
    assert whole["passed"], whole["across"]
    taken = {(each["sender"], each["receiver"]): each for each in whole["across"]}
    assert set(taken) == {(0, 1), (1, 0)}
    assert all(each["found"] > 20 for each in taken.values()), taken
    summed = {
        entry.learner < 2
        for entry in read_gossip(zero / GOSSIP)
        if isinstance(entry, Publication) and entry.checksum
    }
    assert summed == {True, False}, "what was published, and what was taken"


@pytest.mark.real
def test_of_two_processes_of_one_node_the_one_that_was_there_ends(tmp_path: Path) -> None:
    """It tells of both in one line, saves, and the other one goes on in its place.

    By gloo the second one is not heard, as long as the first one is.
    """
    with ExitStack() as stack:
        pair = Pair(tmp_path, stack, ZENOH)
        for folder in pair.folders:
            until_mixing(folder)
        overtake(pair)


def overtake(pair: Pair) -> None:
    zero, one = pair.folders
    before = last(zero)["global_step"]
    twin = one.with_name("twin")
    old = pair.processes[1]
    pair.processes[1] = pair.start(1, twin)
    assert old.wait(DEADLINE_S) == 70
    (line,) = [event for event in events(one) if "lost its place" in event]
    assert "start 1 of node 1" in line
    assert "start 2" in line
    assert "--node-rank 1" in line
    assert summary(one)["status"] == "failed"
    assert (one / "checkpoints" / "latest").exists()
    until_mixing(twin)
    wait_for(lambda: last(twin)["global_step"] > before, "the count of what the other one has done")
    stopped(pair.processes[1], twin)
    stopped(pair.processes[0], zero)
    done = sum(
        last(at)[f"learner{rank}/agent_steps"] for at in (zero, one, twin) for rank in (0, 1)
    )
    assert last(zero)["global_step"] <= done, "none is counted twice"
    environment = ENDLESS[ENDLESS.index("--env-id") :]
    refused = run("--resume", zero, "--learners", 3, "--quiet", *environment)
    assert refused.returncode == 2
    was = "was machine 0 of 2 with 2 learners, and would be machine 0 of 2 with 3 learners"
    assert was in refused.stderr


@contextmanager
def two(
    folder: Path, *more: object, secret: bool = False, both: Sequence[object] = ()
) -> Iterator[list[Path]]:
    """Two nodes, the second with `more` settings; they are stopped at the end, and audited."""
    address, common = free_address(), [*both]
    if secret:
        assert galamp("keys", folder / "keys").returncode == 0
        address, common = address.replace("tcp/", "tls/"), [*both, "--keys", folder / "keys"]
    folders = [folder / "zero", folder / "one"]
    with ExitStack() as stack:
        processes = []
        for number, extra in enumerate([common, [*common, *more]]):
            words = [*node(address, number), *extra, "--run-dir", folders[number]]
            processes.append(stack.enter_context(started(*words)))
        yield folders
        for process, where in zip(processes, folders, strict=True):
            stopped(process, where)
    for where in folders:
        assert json.loads(galamp("audit", where, "--json").stdout)["passed"]


@pytest.mark.real
def test_a_node_that_differs_is_told_and_each_trains_for_itself(tmp_path: Path) -> None:
    with two(tmp_path, "--seed", 2) as folders:
        for number, folder in enumerate(folders):
            until_reported(folder, f"node {1 - number} differs: ")
            until_training(folder)
    for folder in folders:
        (line,) = [line for line in events(folder) if "differs" in line]
        assert "seed 1" in line
        assert "seed 2" in line
        own = sum(last(folder)[f"learner{rank}/agent_steps"] for rank in (0, 1))
        assert summary(folder)["agent_steps"] == own, "nobody else's are counted"


@pytest.mark.real
def test_nodes_with_keys_mix_by_tls(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with two(tmp_path, secret=True) as folders:
        for folder in folders:
            until_mixing(folder)


@pytest.mark.real
def test_the_lowest_node_saves_the_mean_of_the_learners_of_all(tmp_path: Path) -> None:
    def saved(folder: Path) -> list[Checkpoint]:
        paths = sorted((folder / "checkpoints").glob("ckpt-*"))
        return [checkpoints.load(path, mean=True) for path in paths]

    def means(folder: Path) -> list[int]:
        return [each.mean.learners for each in saved(folder) if each.mean is not None]

    with two(tmp_path, both=["--checkpoint-every-s", 1, "--keep-checkpoints", 100]) as folders:
        zero, one = folders
        wait_for(lambda: 4 in means(zero), "a mean of all four")
        wait_for(lambda: saved(one), "a checkpoint")
        assert not means(one)
    last_of_zero = saved(zero)[-1]
    assert last_of_zero.mean is not None, "the first to be stopped has the others' still"
    flags = [*ENDLESS[ENDLESS.index("--env-id") :], "--which", "latest", "--episodes", 1, "--json"]
    report = json.loads(galamp("eval", zero, *flags).stdout)
    assert [row["mean_of"] for row in report["results"]] == [last_of_zero.mean.learners]
    trained = read(zero / "checkpoints" / "latest")
    alone = replace(trained, checkpoint=replace(trained.checkpoint, mean=None))
    whole, own = (list(each.parameters(MEAN).values()) for each in (trained, alone))
    assert any((a != b).any() for a, b in zip(whole, own, strict=True))


@pytest.mark.real
@pytest.mark.parametrize(
    "point",
    [
        "bridge.taken",
        also("bridge.mirrored"),
        also("slots.filled"),
        also("ring.written"),
        also("mailbox.written"),
    ],
)
def test_a_run_survives_the_death_of_both_bridges_at(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:40@bridge")
    with two(tmp_path) as folders:
        for folder in folders:
            until_reported(folder, "bridge was ended by SIGKILL")
        for folder in folders:
            until_carried(folder)
    assert [summary(folder)["restarts"] for folder in folders] == [1, 1]


@pytest.mark.real
def test_an_address_that_is_taken_ends_the_run_in_a_line(tmp_path: Path) -> None:
    address = free_address()
    with started(*node(address, 0), "--run-dir", tmp_path / "0"):
        wait_for(lambda: training(tmp_path / "0"), "training")
        ended = run(*node(address, 0), "--run-dir", tmp_path / "1")
    assert ended.returncode == 70
    (line,) = [each for each in ended.stderr.splitlines() if each.startswith("galamp: bridge")]
    assert f"cannot listen at {address}: " in line


@pytest.mark.slow
@pytest.mark.real
def test_half_the_bytes_are_enough(tmp_path: Path) -> None:
    with two(tmp_path, both=["--wire", "bf16"]) as folders:
        for folder in folders:
            until_mixing(folder)
    for folder in folders:
        rounded = json.loads(galamp("audit", folder, "--json").stdout)["rounded"]
        assert rounded["vectors"] > 5
        assert 0.0 < rounded["greatest"] < 1.0
    assert json.loads(galamp("audit", *folders, "--json").stdout)["passed"]


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("transport", [ZENOH, GLOO])
def test_three_nodes_mix_and_their_records_agree(transport: str, tmp_path: Path) -> None:
    """Every node exchanges with both others: 1 and 2 machines further, in turn."""
    addresses = ",".join(free_address() for _ in range(3))
    folders = [tmp_path / name for name in ("zero", "one", "two")]
    with ExitStack() as stack:
        processes = []
        for number, folder in enumerate(folders):
            words = [*node(addresses, number, transport), "--nodes", 3, "--learners", 1]
            processes.append(stack.enter_context(started(*words, "--run-dir", folder)))
        for number, folder in enumerate(folders):
            until_training(folder)
            for other in {0, 1, 2} - {number}:
                until_reported(folder, f"node {other} is there")
        for folder in folders:
            wait_for(lambda at=folder: last(at)["gossip/received"] > 40, "mixing")
        for process, folder in zip(processes, folders, strict=True):
            stopped(process, folder)
    for folder in folders:
        record = json.loads(galamp("audit", folder, "--json").stdout)
        assert (record["learners"], record["passed"]) == (3, True)
    whole = json.loads(galamp("audit", *folders, "--json").stdout)
    assert whole["passed"], whole["across"]
    taken = {(each["sender"], each["receiver"]): each["found"] for each in whole["across"]}
    assert len(taken) == 6
    assert min(taken.values()) > 5, taken
