"""How many malformed things the slow tests of this folder try."""

from __future__ import annotations

from tests.fuzz import test_checkpoints, test_command_lines, test_configs, test_graphs, test_logs
from tests.fuzz.bending import MANY

MODULES = (test_checkpoints, test_configs, test_graphs, test_command_lines, test_logs)


def test_ten_thousand_and_of_every_kind() -> None:
    assert sum(MANY.values()) >= 10_000
    for module in MODULES:
        own = [many for name, many in MANY.items() if name.startswith(module.__name__)]
        assert sum(own) >= 1000, module.__name__
