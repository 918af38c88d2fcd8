"""The loop over values fails with the value's name, and hides the argument from pytest."""

from __future__ import annotations

import inspect

import pytest

from tests.support.loops import each


@each("n", [1, 2, 3])
def odd(n: int, also: int) -> None:
    assert (n + also) % 2


def test_the_failing_value_is_named() -> None:
    with pytest.raises(AssertionError) as caught:
        odd(also=0)
    assert caught.value.__notes__ == ["n = 2"]


def test_pytest_does_not_look_for_a_fixture_of_that_name() -> None:
    assert list(inspect.signature(odd).parameters) == ["also"]
