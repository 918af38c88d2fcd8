"""Whole screens, checked on the text that a terminal of that size shows."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from galamp.core.config import RunConfig
from galamp.core.settings import settings
from galamp.telemetry.display import panels
from galamp.telemetry.display.dashboard import PlainLines
from galamp.telemetry.display.render import render
from galamp.telemetry.snapshot import (
    LEARNER_PHASES,
    EvaluationReading,
    Event,
    LearnerSnapshot,
    Snapshot,
    WorkerState,
)
from tests.support.snapshots import EMPTY, busy, learner

SIZES = [(80, 24), (120, 40), (200, 50)]
CONSENSUS = {
    "rms to the mean": "0.420",
    "farthest two": "0.810",
    "proved at most": "2.70",
    "ratio": "30.0%",
    "radius in theory": "4.50",
    "cosine of gradients": "0.070",
}


def screen(snapshot: Snapshot, width: int, height: int) -> list[str]:
    """Return the lines that a terminal of that size shows, after checking that they fit."""
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(render(snapshot, width=width, height=height))
    lines = console.export_text().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    return lines


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("learners", [1, 2, 4, 8])
def test_every_number_of_every_learner_is_on_the_screen(
    learners: int, width: int, height: int
) -> None:
    lines = screen(busy(learners), width, height)
    for rank in range(learners):
        row = next(line for line in lines if re.match(rf" ?{rank} +running +cuda:", line))
        for number in (f"{1111 + rank:,}", f"{2000 + rank:,}", f"{3000 + rank:,}"):
            assert number in row.split()
        for number in (
            f"{20.5 + rank:.1f}",
            str(rank % 8),
            str(40 + rank),
            f"{0.501 + rank / 100:.3f}",
        ):
            assert number in row.split()
        assert re.search("█+▓+▒+░*·+", row)
    text = "\n".join(lines)
    for fact in ("ALE/Breakout-v5", "classic", "running", "1 h 06 m", "left 1 h 03 m", "12.4 %"):
        assert fact in text
    for fact in ("34.2", "36.1", "1,234", "812 agent steps", "2,310", "9,240", "-0.012", "0.55"):
        assert fact in text
    for fact in ("runs/ALE-Breakout-v5__ring__s1", "checkpoint 2 saved"):
        assert fact in text
    if width == 80:
        assert "distance 0.81 ≤ 2.7 (30%)" in text
    else:
        for name, value in CONSENSUS.items():
            assert re.search(rf"{name} +{re.escape(value)}( |$)", text, re.MULTILINE)
    assert "collect: simulators are the limit: more --simulator-workers or cores" in text
    assert ("1 → 0" in text) == (learners == 2)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_but_names_is_abbreviated(width: int, height: int) -> None:
    for number in range(3, 9):
        lines = screen(busy(number, protocol="classic"), width, height)
        assert "…" not in "".join(lines)


def test_learners_beyond_the_screen_are_counted_with_their_range_of_speeds() -> None:
    learners = [learner(rank, 32) for rank in range(32)]
    learners[30] = learner(30, 32, state=WorkerState.FAILED, agent_steps_per_s=0.0)
    lines = screen(busy(0, learners=tuple(learners)), 80, 24)
    assert sum("running cuda" in line for line in lines) == 7
    rest = [1111.0 + rank for rank in range(7, 32) if rank != 30] + [0.0]
    mean = f"{sum(rest) / 25:,.0f}"
    assert f" … and 25 more: min/mean/max 0/{mean}/1,142 agent steps/s, 1 not running" in lines
    assert len([line for line in screen(busy(32), 200, 50) if "running  cuda" in line]) == 32


def test_a_narrow_table_leaves_out_whole_columns() -> None:
    lines = screen(busy(2), 60, 24)
    head = next(i for i, line in enumerate(lines) if line.startswith(" # state"))
    assert lines[head].split()[-4:] == ["time", "score", "stale", "sent"]
    assert lines[head + 1].split()[-3:] == ["20.5", "0", "2,000"]
    assert "…" not in lines[head + 1]


@pytest.mark.parametrize("learners", [0, 1, 3, 40])
def test_any_size_is_survived(learners: int) -> None:
    for width in (1, 5, 43, 79, 110, 160, 300):
        for height in (1, 2, 5, 10, 23, 31, 32, 70):
            screen(busy(learners), width, height)
            screen(EMPTY, width, height)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_start_up_shows_unknowns_instead_of_failing(width: int, height: int) -> None:
    new = LearnerSnapshot(0, WorkerState.STARTING, "cpu")
    for snapshot in (EMPTY, dataclasses.replace(EMPTY, learners=(new,))):
        text = "\n".join(screen(snapshot, width, height))
        for fact in ("0.0 %", "left -", "no score yet", "not known yet"):
            assert fact in text
        assert "emulator" not in text, "an environment without frames has no frame rate"


def test_numbers_that_are_not_finite_are_shown_as_such() -> None:
    nan = float("nan")
    sick = busy(
        1,
        learners=(learner(0, 1, distance=nan, mean_return=nan, agent_steps_per_s=nan),),
        losses={"policy_loss": nan, "value_loss": float("inf")},
        curve=((0, 1.0), (5, nan), (10, 2.0)),
        agent_steps_per_s=nan,
    )
    for size in SIZES:
        text = "\n".join(screen(sick, *size))
        assert "nan" in text
        assert "inf" in text


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_hostile_text_is_shown_not_obeyed(width: int, height: int) -> None:
    bad = "[red]\x1b[2J\r\n\x07\u202e\udc80"
    snapshot = busy(
        1,
        env_id=bad,
        protocol=bad,
        run_dir=bad,
        status=bad[:9],
        topology=bad[:9],
        events=(Event(1.0, bad),),
        losses={bad[:9]: 1.0},
        learners=(learner(0, 1, device=bad[:9]),),
    )
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True)
    console.print(render(snapshot, width=width, height=height))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert "[red]\\x1b[2J\\r\\n\\x07\\u202e\\udc80" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)
    pipe = io.StringIO()
    PlainLines(pipe).update(snapshot)
    assert all(char.isprintable() or char == "\n" for char in pipe.getvalue())
    assert len(pipe.getvalue().splitlines()) == 3


def test_hints_name_only_flags_that_exist_and_fit_80_columns() -> None:
    flags = {setting.flag for setting in settings(RunConfig())}
    assert set(panels.HINTS) == set(LEARNER_PHASES) == set(panels.PHASES)
    for phase, hint in [*panels.HINTS.items(), *panels.HINTS_CUDA.items()]:
        assert set(re.findall(r"--[a-z-]+", hint)) <= flags
        assert len(f"{phase}: {hint}") <= 80 - panels.LABEL_WIDTH


def test_the_hint_follows_the_biggest_phase_of_running_learners_and_the_device() -> None:
    def hint(device: str, **shares: float) -> str:
        one = learner(0, 1, device=device, phase_shares=shares)
        dead = learner(1, 1, device=device, state=WorkerState.FAILED, phase_shares={"other": 1.0})
        return panels.hint(busy(0, learners=(one, dead)), 80)

    assert hint(device="cpu", collect=0.3, update=0.4).startswith("update: learning")
    assert "--device cuda" in hint(device="cpu", infer=0.9)
    assert "--num-envs" in hint(device="cuda:0", infer=0.9)
    assert "--max-staleness" in hint(device="cuda:0", gossip=0.9)


def test_the_chart_is_labelled_with_its_extremes() -> None:
    lines = [line.plain for line in panels.chart(busy(1), 60, 6)]
    assert lines[0].startswith("   31.2 │")
    assert lines[4].startswith("    1.5 │")
    assert len(lines[0]) == 60
    assert ord(lines[0][-1]) & 0x88, "the last score, the best, is in the last column"
    assert re.fullmatch(r" +└ 0 ─+ 99.0k agent steps", lines[5])


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50)])
def test_the_newest_and_the_best_evaluation_are_on_the_screen(width: int, height: int) -> None:
    seen = EvaluationReading(1_000_000, 31.7, 2.4, 10, 33.8, 750_000)
    text = "\n".join(screen(busy(4, evaluation=seen), width, height))
    for number in ("31.7", "33.8", "1.00M", "750k", "0.48"):
        assert number in text
    assert "eval" not in "\n".join(screen(busy(4), width, height))
