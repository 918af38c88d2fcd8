"""How often and how soon a child is started anew."""

from __future__ import annotations

from galamp.supervision.restart_policy import (
    MAX_DELAY_S,
    MAX_DIVERGED,
    QUIET_S,
    WINDOW_S,
    Failure,
    RestartPolicy,
)


def loss(progress: int = 0, cause: str = "was ended by SIGKILL") -> Failure:
    return Failure(cause, progress)


def test_the_first_loss_costs_no_time_and_more_in_a_row_cost_more() -> None:
    restart_policy = RestartPolicy(100)
    delays = [restart_policy.delay_s(loss(n), float(n)) for n in range(1, 12)]
    assert delays[:5] == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == MAX_DELAY_S


def test_who_has_lived_quietly_is_started_at_once() -> None:
    restart_policy = RestartPolicy(100)
    assert restart_policy.delay_s(loss(1), 0.0) == 0.0
    assert restart_policy.delay_s(loss(2), 1.0) == 0.25
    assert restart_policy.delay_s(loss(3), 2.0 + QUIET_S) == 0.0


def test_too_many_within_the_time_are_too_many() -> None:
    restart_policy = RestartPolicy(2)
    assert restart_policy.delay_s(loss(1), 0.0) is not None
    assert restart_policy.delay_s(loss(2), 1.0) is not None
    assert restart_policy.delay_s(loss(3), WINDOW_S - 1.0) is None
    restart_policy = RestartPolicy(2)
    for n in range(20):
        assert restart_policy.delay_s(loss(n), n * (WINDOW_S / 2 + 1)) is not None


def test_the_same_failure_at_the_same_place_is_not_tried_a_third_time() -> None:
    restart_policy = RestartPolicy(100)
    assert restart_policy.delay_s(loss(300, "raised ValueError: x"), 0.0) is not None
    assert not restart_policy.repeats
    assert restart_policy.delay_s(loss(300, "raised ValueError: x"), 100.0) is None
    assert restart_policy.repeats


def test_another_cause_or_place_is_another_failure() -> None:
    restart_policy = RestartPolicy(100)
    for n, (progress, cause) in enumerate([(300, "a"), (301, "a"), (301, "b"), (0, "c"), (0, "c")]):
        assert restart_policy.delay_s(loss(progress, cause), 100.0 * n) is not None


def test_where_others_have_ended_it_says_nothing() -> None:
    restart_policy = RestartPolicy(100)
    for n in range(5):
        killed = Failure("was ended by SIGKILL", 300, external=True)
        assert restart_policy.delay_s(killed, 100.0 * n) is not None
        assert not restart_policy.repeats


def test_who_gives_up_by_itself_is_believed_sooner() -> None:
    restart_policy = RestartPolicy(100)
    for n in range(MAX_DIVERGED):
        assert restart_policy.delay_s(Failure(f"failed after {n}", n, True), 100.0 * n) is not None
    assert restart_policy.delay_s(Failure("failed after 9", 9, True), 900.0) is None
