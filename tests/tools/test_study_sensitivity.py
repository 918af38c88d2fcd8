"""`bin/study`: what runs of H1 had to reach, and what other rules would have found."""

from __future__ import annotations

import io

import pytest

from galamp.tools.compare.reaching import Reaching, exact_test
from galamp.tools.study import plan
from galamp.tools.study.report import report
from galamp.tools.study.rows import Row
from galamp.tools.study.scale import Scale
from galamp.tools.study.sensitivity import ARMS, AS_DECIDED, other_rules, to_reach
from galamp.tools.study.study import WAITS, Study
from galamp.tools.study.text_report import show
from tests.support.study_rows import row

SCALES = {"breakout": Scale(0.0, 10.0), "freeway": Scale(10.0, 30.0)}
REFERENCE = {"breakout": (8.0, 10.0, 13.0), "freeway": (30.0, 30.0, 30.0)}
FINALS = {
    # Breakout is reached above 5, 4 and 6.5; Freeway, at 20, by nobody.
    (plan.GALA_256, "breakout"): (4.5, 5.0, 6.0, 3.0),
    (plan.A2C_256, "breakout"): (6.0, 7.0, 7.0, 8.0),
    (plan.GALA_256, "freeway"): (11.0, 12.0, 13.0, 20.0),
    (plan.A2C_256, "freeway"): (11.0, 12.0, 13.0, 19.0),
}


def study() -> Study:
    robustness = [
        row(arm, game, seed, final, mean=final + 1.0)
        for (arm, game), finals in FINALS.items()
        for seed, final in enumerate(finals)
    ]
    reference = [
        row(plan.A2C_16, game, seed, final)
        for game, finals in REFERENCE.items()
        for seed, final in enumerate(finals)
    ]
    of: dict[str, list[Row]] = {name: [] for name in plan.BLOCKS}
    of |= {"robustness": robustness, "reference": reference}
    return Study(of, {name: [each.cell for each in kept] for name, kept in of.items()}, SCALES)


def test_what_is_to_reach_is_halfway_from_random_actions_to_the_reference() -> None:
    breakout, freeway = to_reach(study())
    assert (breakout["to_reach"], freeway["to_reach"]) == (5.0, 20.0)
    assert (breakout["least"], breakout["reference"], breakout["most"]) == (8.0, 10.0, 13.0)
    assert breakout["above"] == {plan.GALA_256: 1, plan.A2C_256: 4}, "5 itself is not above"
    assert freeway["above"] == {plan.GALA_256: 0, plan.A2C_256: 0}
    assert freeway["runs"] == {plan.GALA_256: 4, plan.A2C_256: 4}


def test_other_rules_count_otherwise() -> None:
    rules = {each["rule"]: [each["above"][arm] for arm in ARMS] for each in other_rules(study())}
    assert rules == {
        AS_DECIDED: [1, 4],
        "least reference run": [3, 4],
        "greatest reference run": [0, 3],
        "mean of all learners": [4, 4],  # with Freeway's 21 of GALA's last run
        "without breakout": [0, 0],
    }


def test_their_p_is_that_of_the_test_of_h1() -> None:
    found = {each["rule"]: each["p"] for each in other_rules(study())}
    ours, theirs = ([Reaching(1.0, at < count) for at in range(4)] for count in (1, 4))
    nobody = [Reaching(1.0, False)] * 4
    assert found[AS_DECIDED] == pytest.approx(exact_test([ours, nobody], [theirs, nobody]))
    assert found["without breakout"] == 1.0


def test_there_is_nothing_to_tell_before_the_first_pair_of_runs() -> None:
    empty = Study({name: [] for name in plan.BLOCKS}, {name: [] for name in plan.BLOCKS}, SCALES)
    assert (to_reach(empty), other_rules(empty)) == ([], [])


def test_the_report_shows_them() -> None:
    text = io.StringIO()
    show(report(study()), text, 160)
    assert "least reference run" in text.getvalue()
    assert "8.00, 10.00, 13.00" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 160


def test_a_hypothesis_whose_p_is_known_says_that_it_waits_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = study()
    monkeypatch.setattr(Study, "lacks", lambda self, block, *arms: iter(()))
    p = other_rules(found)[0]["p"]
    decided = found.decisions()[0]
    assert decided.test.p == p
    assert (decided.verdict == "open") == (WAITS in decided.test.found) == (0.05 / 3 < p < 0.05)
    monkeypatch.setattr("galamp.tools.study.hypotheses.exact_test", lambda ours, theirs: 0.03)
    waits = found.decisions()[0]
    assert waits.verdict == "open"
    assert WAITS in waits.test.found
