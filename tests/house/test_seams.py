"""A thing of each kind is added from outside galamp by one file and one line of a registry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from galamp.core.config import EnvironmentConfig, GossipConfig
from galamp.core.settings import settings
from galamp.environments import names
from galamp.gossip import topologies
from galamp.gossip.topologies.base import Topology
from tests.contracts.environment import EnvironmentContract
from tests.contracts.topology import TopologyContract


@pytest.fixture(scope="class")
def line() -> Iterator[pytest.MonkeyPatch]:
    """A line of a registry, for as long as the tests of a class run."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


class TestTopology(TopologyContract):
    """A gossip graph."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _added(cls, line: pytest.MonkeyPatch) -> None:
        line.setitem(topologies.TOPOLOGIES, "reverse-ring", "tests.support.toys:ReverseRing")

    def make(self, size: int) -> Topology:
        return topologies.make_topology("reverse-ring", size)

    def test_the_flag_offers_it(self) -> None:
        flag = next(s for s in settings(GossipConfig) if s.name == "topology")
        assert "reverse-ring" in flag.option.choices


class TestEnvironmentKind(EnvironmentContract):
    """A kind of environments, told by how its ids begin."""

    config: ClassVar[EnvironmentConfig] = EnvironmentConfig("walk/line")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _added(cls, line: pytest.MonkeyPatch) -> None:
        kinds = {"walk/": "tests.support.toys:Walk", **names.ENVIRONMENTS}
        for kind in reversed(list(names.ENVIRONMENTS)):  # undone, they are in their order again
            line.delitem(names.ENVIRONMENTS, kind)
        for kind, path in kinds.items():
            line.setitem(names.ENVIRONMENTS, kind, path)


def test_what_the_page_for_contributors_shows_is_what_is_tested() -> None:
    """Every block of Python stands in a file of `tests/support` as it is."""
    root = Path(__file__).resolve().parents[2]
    blocks = re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.DOTALL)
    sources = [path.read_text() for path in (root / "tests" / "support").glob("*.py")]
    assert blocks
    for block in blocks:
        assert any(block.strip() in source for source in sources), block
