"""The audit of several nodes: what one has taken from another, that one has published."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from galamp.cli.main import main
from galamp.core.errors import UserError
from galamp.gossip.transport.publication import FOLLOWS, Publication
from galamp.storage.gossip_log import GOSSIP, Lost, Start
from galamp.tools.audit.across import Crossing, crossings

Lines = Iterable[dict[str, Any]]
LANES, EVERY = 2, 4


def start(node: int, number: int = 1) -> dict[str, Any]:
    zero = ((0.0,) * EVERY,) * EVERY
    return Start(number, EVERY, "ring", False, 0.0, zero, (node, 2)).as_dict()


def made(
    learner: int, number: int, version: int, incarnation: int = 0, checksum: int = 0
) -> dict[str, Any]:
    """A publication; each has its own round."""
    fixed = learner, number, version + 100, version, incarnation, 1.0, 1.0, ()
    return Publication(*fixed, checksum=checksum).as_dict()


def folder(at: Path, *lines: dict[str, Any]) -> Path:
    at.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (at / GOSSIP).write_text(text)
    return at


def own(versions: Iterable[int], learner: int = 1) -> list[dict[str, Any]]:
    return [made(learner, number, version) for number, version in enumerate(versions, 1)]


def taken(*pairs: tuple[int, int], learner: int = 3) -> list[dict[str, Any]]:
    """Mirrored vectors, (epoch, version): learner 3 is, on either node, lane 1 of the other one."""
    return [made(learner, n, version, epoch) for n, (epoch, version) in enumerate(pairs, 1)]


def crossed(tmp_path: Path, zero: Lines, *ones: Lines) -> Crossing:
    """What node 1, in one folder or several, has given node 0."""
    runs = [folder(tmp_path / "zero", start(0), *zero)]
    for number, lines in enumerate(ones):
        runs.append(folder(tmp_path / f"one{number}", *lines))
    (found,) = [each for each in crossings(runs) if each.sender == 1]
    assert found.receiver == 0
    assert found.vectors == found.found + found.unknown + found.false
    return found


def test_what_was_published_and_taken_in_order_agrees(tmp_path: Path) -> None:
    """However many were left out on the way; what followed a learner here was not taken."""
    follows = made(3, 9, 77, FOLLOWS)
    zero = [*taken((1, 2), (1, 5), (1, 6)), follows]
    found = crossed(tmp_path, zero, [start(1), *own(range(1, 8))])
    assert found == Crossing(1, 0, 3, 3, 0, 0)


@pytest.mark.parametrize(
    "pairs", [[(1, 2), (1, 2)], [(1, 5), (1, 2)], [(1, 2), (1, 4)]], ids=["twice", "old", "never"]
)
def test_a_replay_an_older_one_and_one_that_nobody_made_are_false(
    pairs: list[tuple[int, int]], tmp_path: Path
) -> None:
    published = [1, 2, 3, 5, 6]
    assert crossed(tmp_path, taken(*pairs), [start(1), *own(published)]).false == 1


def test_of_another_learner_it_is_false(tmp_path: Path) -> None:
    one = [start(1), *own([1, 2], learner=0), *own([7, 8], learner=1)]
    assert crossed(tmp_path, taken((1, 2)), one).false == 1


def summed(*versions: int, learner: int, epoch: int = 0, of: int) -> list[dict[str, Any]]:
    """Publications whose checksums say of which learner they are."""
    return [
        made(learner, number, version, epoch, 1000 * of + version)
        for number, version in enumerate(versions, 1)
    ]


def test_a_frame_of_another_lane_is_false_though_rounds_and_updates_are_the_same(
    tmp_path: Path,
) -> None:
    one = [start(1), *summed(1, 2, 3, learner=0, of=10), *summed(1, 2, 3, learner=1, of=11)]
    right = [*summed(1, 2, 3, learner=2, epoch=1, of=10), *summed(2, 3, learner=3, epoch=1, of=11)]
    assert crossed(tmp_path, right, one) == Crossing(1, 0, 5, 5, 0, 0)
    wrong = [*summed(1, 2, learner=3, epoch=1, of=11), made(3, 3, 3, 1, 10_003)]
    for name, lines in (("swapped", one), ("gaps", [*one, Lost(1, 4).as_dict()])):
        (tmp_path / name).mkdir()
        assert crossed(tmp_path / name, wrong, lines) == Crossing(1, 0, 3, 2, 0, 1)


def test_a_frame_of_an_older_start_is_false_under_a_new_epoch(tmp_path: Path) -> None:
    older = [start(1), *summed(1, 2, 3, learner=1, of=11)]
    newer = [start(1, 2), *summed(1, 2, 3, learner=1, of=21)]
    replayed = [*summed(1, 2, learner=3, epoch=2, of=21), made(3, 3, 3, 2, 11_003)]
    assert crossed(tmp_path, replayed, [*older, *newer]) == Crossing(1, 0, 3, 2, 0, 1)


def test_records_without_checksums_are_compared_by_round_and_updates(tmp_path: Path) -> None:
    """Those of an older galamp, of rounds that stay on a machine, and of rounded vectors."""
    one = [start(1), *own([1, 2]), made(1, 3, 3, 0, 11_003)]
    zero = [*summed(1, 2, learner=3, epoch=1, of=11), made(3, 3, 3, 1)]
    assert crossed(tmp_path, zero, one) == Crossing(1, 0, 3, 3, 0, 0)


def test_what_a_killed_incarnation_and_its_successor_published_may_both_come(
    tmp_path: Path,
) -> None:
    one = [start(1), made(1, 1, 5, 0, 7), made(1, 2, 5, 1, 8), made(1, 3, 6, 1, 9)]
    zero = [made(3, 1, 5, 1, 8), made(3, 2, 6, 1, 9)]
    assert crossed(tmp_path, zero, one) == Crossing(1, 0, 2, 2, 0, 0)


@pytest.mark.parametrize("gap", [[], [Lost(1, 4).as_dict()]], ids=["whole", "with a gap"])
def test_a_vector_that_a_killed_incarnation_has_not_recorded_is_unknown(
    gap: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Its successor published another one of the same round and updates, with the next number."""
    zero = [made(3, 1, 5, 1, 7), made(3, 2, 6, 1, 8), made(3, 3, 7, 1, 10)]
    for name, number, false in (("killed", 3, 0), ("in its place", 2, 1)):
        later = made(1, number, 6, 1, 9), made(1, number + 1, 7, 1, 10)
        one = [start(1), made(1, 1, 5, 0, 7), *later, *gap]
        (tmp_path / name).mkdir()
        assert crossed(tmp_path / name, zero, one) == Crossing(1, 0, 3, 2, 1 - false, false)
    again = [*zero, made(3, 4, 6, 1, 11)]
    one = [start(1), made(1, 1, 5, 0, 7), made(1, 3, 6, 1, 9), made(1, 4, 7, 1, 10), *gap]
    (tmp_path / "more").mkdir()
    assert crossed(tmp_path / "more", again, one).false == 1, "one only"


def test_what_may_be_in_a_gap_or_after_the_end_is_unknown(tmp_path: Path) -> None:
    one = [start(1), *own([1, 2, 3]), Lost(1, 4).as_dict(), made(1, 5, 9)]
    assert crossed(tmp_path, taken((1, 2), (1, 4), (1, 9)), one).unknown == 1
    ends = [start(1), *own([1, 2, 3])]
    again = tmp_path / "again"
    again.mkdir()
    assert crossed(again, taken((1, 2), (1, 4)), ends).unknown == 1


def test_every_start_of_a_node_is_told_apart(tmp_path: Path) -> None:
    """In one folder, after a resume, or in another one: their numbers begin anew."""
    resumed = [start(1), *own([1, 2, 3]), start(1, 2), *own([2, 8, 9])]
    anew = [start(1), *own([1, 4])]
    zero = taken((1, 1), (1, 3), (2, 2), (2, 8), (3, 1), (3, 4))
    assert crossed(tmp_path, zero, resumed, anew) == Crossing(1, 0, 6, 6, 0, 0)


def test_the_command_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero = folder(tmp_path / "zero", start(0), *own([1, 2]), *taken((1, 1)))
    one = folder(tmp_path / "one", start(1), *own([1, 2]), *taken((1, 2)))
    words = ["audit", str(zero), str(one)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("all agrees\n")
    assert max(map(len, shown.splitlines())) <= 80
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert [len(found["runs"]), len(found["across"])] == [2, 2]
    with (one / GOSSIP).open("a") as file:
        file.write(json.dumps(made(3, 2, 1, 1)) + "\n")
    assert main(words) == 1
    assert "1 vector that nobody published" in capsys.readouterr().out
    assert main([*words, "--figure", str(tmp_path / "figure.png")]) == 2


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    alone = Start(1, 2, "ring", False, 0.0, ((0.0, 0.0),) * 2)
    runs = [folder(tmp_path / "zero", start(0)), folder(tmp_path / "alone", alone.as_dict())]
    with pytest.raises(UserError, match="is of a run on one machine"):
        crossings(runs)
    three = Start(1, 6, "ring", False, 0.0, ((0.0,) * 6,) * 6, (1, 3))
    runs[1] = folder(tmp_path / "three", three.as_dict())
    with pytest.raises(UserError, match="these are of different runs"):
        crossings(runs)
