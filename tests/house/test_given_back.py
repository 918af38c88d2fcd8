"""What the suite gives back after every test, as tests/conftest.py does: no more, no less."""

from __future__ import annotations

import signal

import pytest

from tests import conftest
from tests.support.signals import handling
from tests.support.variables import PYTESTS_OWN


class Noted(dict[str, str]):
    """Variables that note which of them were written."""

    def __init__(self, *of: dict[str, str]) -> None:
        super().__init__(*of)
        self.written: list[str] = []

    def __setitem__(self, name: str, value: str) -> None:
        self.written.append(name)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self.written.append(name)
        super().__delitem__(name)

    def clear(self) -> None:
        self.written += self
        super().clear()


def test_variables_are_given_back_and_no_other_is_touched() -> None:
    noted = Noted({"KEPT": "1", "CHANGED": "1", "REMOVED": "1", PYTESTS_OWN: "a test (setup)"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", noted)
        given_back = conftest.environment_as_before.__wrapped__()
        next(given_back)
        dict.update(noted, {"CHANGED": "2", "NEW": "1", PYTESTS_OWN: "a test (teardown)"})
        dict.__delitem__(noted, "REMOVED")
        assert list(given_back) == []
    assert sorted(noted.written) == ["CHANGED", "NEW", "REMOVED"]
    assert noted == {
        "KEPT": "1", "CHANGED": "1", "REMOVED": "1", PYTESTS_OWN: "a test (teardown)",
    }  # fmt: skip


def test_signals_that_a_test_has_taken_are_told_once_and_given_back() -> None:
    before = handling()
    watching = conftest.signals_as_before.__wrapped__()
    next(watching)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        with pytest.raises(AssertionError, match=r"SIGTERM.*blocked"):
            list(watching)
        assert handling() == before
    finally:
        signal.signal(signal.SIGTERM, before.python["SIGTERM"])
        signal.pthread_sigmask(signal.SIG_SETMASK, before.blocked)
