"""Variables of this process, given back after a test that has changed some."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

PYTESTS_OWN = "PYTEST_CURRENT_TEST"
"""Says which part of which test runs: another one at a test's end than at its begin."""


def give_back(variables: MutableMapping[str, str], before: Mapping[str, str]) -> None:
    """Set `variables` as they were `before`.

    No others are touched: threads of native libraries may read them, which no lock protects.
    """
    for name in variables.keys() - before.keys() - {PYTESTS_OWN}:
        del variables[name]
    for name in before.keys() - {PYTESTS_OWN}:
        if variables.get(name) != before[name]:
            variables[name] = before[name]
