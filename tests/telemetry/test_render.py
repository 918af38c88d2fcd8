"""Whole screens, checked on the text that a terminal of that size shows."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from galamp.telemetry.display.chart import (
    SCORE,
    ChartLine,
    chart,
    known_metrics,
    metric_chart,
    restarts_of,
)
from galamp.telemetry.display.dashboard import PlainLines
from galamp.telemetry.display.game_view import picture
from galamp.telemetry.display.render import render
from galamp.telemetry.display.viewing import VIEWS, Viewing, pressed
from galamp.telemetry.snapshot import (
    ConsensusReading,
    EvaluationReading,
    Event,
    GameFrame,
    Goal,
    LearnerSnapshot,
    MetricHistory,
    Snapshot,
    WorkerState,
)
from tests.support.snapshots import EMPTY, busy, learner

SIZES = [(80, 24), (120, 40), (200, 50)]
GOLDEN = Path(__file__).parent / "frames"
CONSENSUS = {
    "consensus distance": "0.420",
    "pairwise distance": "0.810",
    "certificate": "2.70",
    "certificate ratio": "30.0%",
    "radius": "4.50",
    "gradient correlation": "0.070",
}


def screen(
    snapshot: Snapshot, width: int, height: int, viewing: Viewing | None = None
) -> list[str]:
    """Return the lines that a terminal of that size shows, after checking that they fit."""
    lines = render(snapshot, width=width, height=height, viewing=viewing or Viewing())
    shown = [line.plain.rstrip() for line in lines]
    assert len(shown) <= height
    assert max(map(cell_len, shown)) <= width
    return shown


@pytest.mark.parametrize(("width", "height"), [(40, 10), *SIZES, (160, 50)])
@pytest.mark.parametrize("view", VIEWS.values())
def test_whole_frames(view: str, width: int, height: int) -> None:
    """As `frames` beside this has them; after a wanted change, remove the file and run twice."""
    if view != "overview" and width not in (40, 80, 120):
        return
    game = GameFrame(0, 0, 20, 20, bytes(range(0, 200, 10)).hex() * 20)
    viewing = Viewing(view=view, keys=True, colour=False)
    shown = "\n".join(screen(busy(4, game=game), width, height, viewing)) + "\n"
    file = GOLDEN / f"{view}-{width}x{height}.txt"
    if not file.exists():
        file.write_text(shown)
        pytest.fail(f"{file} was written: look at it")
    assert shown == file.read_text()


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("learners", [1, 2, 4, 8])
def test_every_number_of_every_learner_is_on_the_screen(
    learners: int, width: int, height: int
) -> None:
    lines = screen(busy(learners), width, height)
    for rank in range(learners):
        row = next(line for line in lines if re.match(rf" ?{rank} +running +cuda:", line))
        wide = (f"{2000 + rank:,}", f"{3000 + rank:,}", str(40 + rank), "16") if width > 80 else ()
        always = (f"{1111 + rank:,}", f"{20.5 + rank:.1f}", str(rank % 8))
        for number in (*always, *wide, f"{0.501 + rank / 100:.3f}"):
            assert number in row.split()
        assert re.search("█+▓+▒+░*·*", row)
    text = "\n".join(lines)
    for fact in ("ALE/Breakout-v5", "classic", "1 h 07 m (start 2)", "left 1 h 03 m", "12.4 %"):
        assert fact in text
    for fact in ("34.2", "36.1", "1,234", "812 agent steps", "2,310", "9,240", "-0.012", "0.55"):
        assert fact in text or (fact == "1,234" and width == 80)
    for fact in ("CPU  320 % of 4 cores", "others   20 %", "RAM 3.0 of 23.0 GiB", "212 W"):
        assert fact in text or (fact == "212 W" and width == 80)
    assert "checkpoint 2 saved" in text
    assert ("runs/ALE-Breakout-v5__ring__s1" in text) == (height >= 20 + learners)
    if width == 80:
        assert "pairwise distance 0.81 ≤ 2.7" in text
    else:
        for name, value in CONSENSUS.items():
            assert re.search(rf"{name} +{re.escape(value)}( |$)", text, re.MULTILINE)
    assert "infer 51%, batches of 4: --num-envs 8, at most +34%" in text
    assert ("1 → 0" in text) == (learners == 2)


def columns(lines: list[str]) -> list[int]:
    """Return where the columns of the table of learners end."""
    head = next(line for line in lines if line.lstrip().startswith("# "))
    return [match.end() for match in re.finditer(r"\S+( e[+-]\d)?", head)]


@pytest.mark.parametrize(("width", "height"), [(60, 24), *SIZES])
def test_nothing_moves_when_numbers_change(width: int, height: int) -> None:
    """No bar of 12, 9, 6 and 5 cells, no columns that come and go."""
    usual = screen(busy(3), width, height)
    other = tuple(
        learner(
            rank, 3, incarnation=rank, envs=4 * rank, agent_steps_per_s=3.1e5, mean_return=-20.7e3,
            staleness=0, sent=9, received=10**6, overwritten=10**7, distance=0.513 * 10**-rank,
            state=WorkerState.STARTING,
        )
        for rank in range(3)
    )  # fmt: skip
    changed = screen(busy(3, learners=other, restarts=0, agent_steps=7), width, height)
    assert columns(usual) == columns(changed)
    for at, (before, after) in enumerate(zip(usual, changed, strict=True)):
        for mark in ("│", "┤", "──", "machine", "score", "gossip", "losses", "limit", "events"):
            assert (before.find(mark) == after.find(mark)) or mark == "──", (at, mark)


def test_a_column_of_distances_has_one_exponent() -> None:
    values = (0.00113, 0.0005, 0.001)
    found = tuple(learner(rank, 3, distance=value) for rank, value in enumerate(values))
    lines = screen(busy(3, learners=found), 120, 40)
    assert any("dist e-3" in line for line in lines)
    for rank, text in enumerate(("1.13", "0.50", "1.00")):
        assert text in next(line for line in lines if line.startswith(f" {rank} ")).split()


@pytest.mark.parametrize(("width", "height"), [(30, 6), (40, 10), (59, 30), (200, 8)])
def test_a_small_screen_shows_what_matters_and_nothing_else(width: int, height: int) -> None:
    events = (
        Event(1.0, "learner 3 was ended by SIGKILL", "restart"),
        Event(2.0, "saved", "checkpoint"),
    )
    lines = screen(busy(4, events=events, elapsed_s=61.0, former_s=0.0), width, height)
    text = "\n".join(lines)
    assert len(lines) == 6
    for fact in ("12.4 %", "34.2", "2,310 agent", "4/4 learners ok", "1 m 00 s ago"):
        assert fact in text
    assert ("left 1 h 03 m" in text) == (width > 30)
    assert "losses" not in text


def test_numbers_say_what_they_mean() -> None:
    text = "\n".join(screen(busy(2, losses={"explained_variance": -160.0}), 80, 24))
    assert "explained <-1" in text
    assert "stale≤8" in text
    few = "\n".join(screen(busy(2, episodes=5, best_mean_return=None), 80, 24))
    assert "mean of 5 so far   best after 100" in few
    wide = "\n".join(screen(busy(2), 120, 40))
    assert "grad norm (clipped to 0.5)" in wide
    assert "%)" not in next(line for line in screen(busy(2), 80, 24) if line.startswith("gossip"))


def test_the_last_certificate_stays_with_its_age() -> None:
    reading = ConsensusReading(pairwise=0.81, last_certificate=2.7, last_certificate_age_s=12.0)
    assert "0.81 (≤ 2.7 12 s ago)" in "\n".join(screen(busy(2, consensus=reading), 80, 24))
    assert "2.70 12 s ago" in "\n".join(screen(busy(2, consensus=reading), 120, 40))


def test_chaos_shows_its_own_progress() -> None:
    """Not `0.0 %   4,880 of 1.00T agent steps   left >999 d`."""
    goal = Goal(0.7, "14 of 20 s   fault 4 of 5", 6.0)
    text = "\n".join(screen(busy(2, goal=goal, total_steps=10**12), 80, 24))
    assert "70.0 %   14 of 20 s   fault 4 of 5   left 6 s" in text
    assert "1.00T" not in text


def test_ages_of_edges_are_shown_against_the_bound() -> None:
    lines = render(busy(4), width=80, height=24, viewing=Viewing(view="gossip"))
    row = next(line for line in lines if line.plain.startswith("to 3"))
    assert row.plain.split()[:6] == ["to", "3", "·", "·", "3", "\\"]
    assert any(span.style == "green" for span in row.spans)
    away = tuple(
        learner(r, 4, state=WorkerState.STARTING if r == 2 else WorkerState.RUNNING)
        for r in range(4)
    )
    assert "✕" in next(
        line for line in screen(busy(4, learners=away), 80, 24, Viewing(view="gossip"))
        if line.startswith("to 3")
    )  # fmt: skip


def test_a_picture_has_two_greys_in_a_cell() -> None:
    rows = [b"\x00" * 16, b"\xff" * 16] * 8
    frame = GameFrame(0, 0, 16, 16, b"".join(rows).hex())
    lines = picture(frame, 20, 8, colour=True)
    assert [line.plain for line in lines] == ["  " + "▀" * 16] * 8
    assert {str(span.style) for line in lines for span in line.spans} == {
        "color(232) on color(255)"
    }
    assert [line.plain.strip() for line in picture(frame, 20, 4, colour=False)] == [""] * 4
    assert picture(GameFrame(0, 0, 16, 16, "00"), 20, 8, colour=True)[0].plain == "no whole frame"


def test_keys_choose_the_view_the_metric_and_the_events() -> None:
    snapshot = busy(2, events=tuple(Event(float(n), f"event {n}") for n in range(50)))
    viewing = Viewing(keys=True)
    for key, view in VIEWS.items():
        there, leaves = pressed(viewing, key, snapshot)
        assert (there.view, leaves) == (view, False)
        assert pressed(there, key, snapshot)[0].view == "overview"
    other, _ = pressed(viewing, "m", snapshot)
    assert "agent steps/s" in "".join(screen(snapshot, 80, 24, other)[6:9])
    assert pressed(other, "m", snapshot)[0].metric == 0, "only two have values"
    events, _ = pressed(viewing, "5", snapshot)
    assert "event 49" in "".join(screen(snapshot, 80, 24, events))
    older, _ = pressed(events, "page up", snapshot)
    assert "event 40" not in "".join(screen(snapshot, 80, 24, older))
    assert "event 39" in "".join(screen(snapshot, 80, 24, older))
    assert pressed(older, "page down", snapshot)[0] == events


def test_q_detaches_and_asks_before_it_stops_a_run() -> None:
    assert pressed(Viewing(), "q", EMPTY) == (Viewing(), True)
    asks, leaves = pressed(Viewing(stops=True, keys=True), "q", EMPTY)
    assert not leaves
    assert screen(busy(1), 80, 24, asks)[-1].startswith("Save and stop this run?")
    assert pressed(asks, "n", EMPTY) == (dataclasses.replace(asks, asks=False), False)
    assert pressed(asks, "y", EMPTY)[1]


def test_learners_beyond_the_screen_are_counted_with_their_range_of_speeds() -> None:
    learners = [learner(rank, 32) for rank in range(32)]
    learners[30] = learner(30, 32, state=WorkerState.FAILED, agent_steps_per_s=0.0)
    lines = screen(busy(0, learners=tuple(learners)), 80, 24)
    assert sum("running  cuda" in line for line in lines) == 7
    rest = [1111.0 + rank for rank in range(7, 32) if rank != 30] + [0.0]
    mean = f"{sum(rest) / 25:,.0f}"
    assert f" … and 25 more: min/mean/max 0/{mean}/1,142 agent steps/s, 1 not running" in lines
    assert len([line for line in screen(busy(32), 200, 50) if "running   cuda" in line]) == 32


@pytest.mark.parametrize("shown", [EMPTY, busy(0), busy(1), busy(3), busy(40)])
def test_any_size_is_survived(shown: Snapshot) -> None:
    for width in (1, 5, 43, 79, 110, 160, 300):
        for height in (1, 2, 5, 10, 23, 31, 32, 70):
            for view in VIEWS.values():
                screen(shown, width, height, Viewing(view=view, keys=shown is not EMPTY))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_start_up_shows_unknowns_instead_of_failing(width: int, height: int) -> None:
    new = LearnerSnapshot(0, WorkerState.STARTING, "cpu")
    for snapshot in (EMPTY, dataclasses.replace(EMPTY, learners=(new,))):
        text = "\n".join(screen(snapshot, width, height))
        for fact in ("0.0 %", "left -", "no score yet", "not known yet", "not sampled yet"):
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
    for line in render(snapshot, width=width, height=height):
        console.print(line)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert "[red]\\x1b[2J\\r\\n\\x07\\u202e\\udc80" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)
    pipe = io.StringIO()
    PlainLines(pipe).update(snapshot)
    assert all(char.isprintable() or char == "\n" for char in pipe.getvalue())
    assert len(pipe.getvalue().splitlines()) == 3


def test_the_chart_has_round_numbers_at_both_axes() -> None:
    lines = [line.plain for line in chart((ChartLine(busy(1).curve, "cyan"),), 60, 12)]
    assert [line[:9].split()[0] for line in lines if "┤" in line] == ["30", "20", "10"]
    assert re.match(r" +└┬─+┬─+", lines[-2])
    assert lines[-1].split() == ["0", "50k", "agent", "steps"]
    assert ord(lines[0][-1]) & 0x88, "the last score, the best, is in the last column"


def test_an_outlier_does_not_stretch_the_chart() -> None:
    """All rows carry the curve, not its upper half alone."""
    points = ((0, 0.3), *((1000 * i, 1.0 + 0.002 * i) for i in range(1, 100)))
    lines = [line.plain for line in chart((ChartLine(points, "cyan"),), 60, 12)]
    assert sum(any(char > "\u2800" for char in line) for line in lines) >= 9
    assert min(float(line.split()[0]) for line in lines if "┤" in line) > 0.8


def test_restarts_are_marked_where_they_happened() -> None:
    counts = (None, 0.0, 0.0, 2.0, 2.0, 3.0, 0.0, 0.0, 1.0)  # the second attempt counts anew
    steps = tuple(range(0, 90_000, 10_000))
    scores = tuple(float(step) for step in steps)
    history = MetricHistory(1, steps, {"charts/restarts": counts, SCORE: scores})
    assert restarts_of(busy(1, history=history)) == (30_000, 50_000, 80_000)
    for metric in known_metrics(busy(1, history=history)):
        lines = metric_chart(busy(1, history=history, curve=()), metric, 60, 12)
        axis = lines[-2].plain
        assert axis.startswith("restarts└")
        room = len(axis) - 1 - axis.index("└")
        found = [at - 1 - axis.index("└") for at, char in enumerate(axis) if char == "▲"]
        assert found == [round((room - 1) * share) for share in (3 / 8, 5 / 8, 1)]
    without = MetricHistory(1, steps, {SCORE: scores})
    axis = metric_chart(busy(1, history=without), known_metrics(busy(1))[0], 60, 12)[-2].plain
    assert axis.startswith("        └")
    assert "▲" not in axis


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50)])
def test_the_newest_and_the_best_evaluation_are_on_the_screen(width: int, height: int) -> None:
    seen = EvaluationReading(1_000_000, 31.7, 2.4, 10, 33.8, 750_000)
    text = "\n".join(screen(busy(4, evaluation=seen), width, height))
    for number in ("31.7", "33.8", "1.00M", "750k", "0.48"):
        assert number in text
    assert "eval" not in "\n".join(screen(busy(4), width, height))
