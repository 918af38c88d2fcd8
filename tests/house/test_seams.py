"""A thing of each kind is added from outside galamp by one file and one line of a registry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from galamp.cli.main import COMMANDS, Command, main
from galamp.core.config import EnvironmentConfig, GossipConfig
from galamp.core.settings import settings
from galamp.environments import names
from galamp.gossip import topologies, transport
from galamp.gossip.topologies.base import Topology
from tests.contracts.environment import EnvironmentContract
from tests.contracts.topology import TopologyContract
from tests.contracts.transport import TransportContract


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


def _become(registry: dict[str, str], rows: dict[str, str]) -> None:
    registry.clear()
    registry.update(rows)


class TestEnvironmentKind(EnvironmentContract):
    """A kind of environments, told by how its ids begin."""

    config: ClassVar[EnvironmentConfig] = EnvironmentConfig("walk/line")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _added(cls) -> Iterator[None]:
        before = dict(names.ENVIRONMENTS)  # in an order that matters
        _become(names.ENVIRONMENTS, {"walk/": "tests.support.toys:Walk", **before})
        yield
        _become(names.ENVIRONMENTS, before)


class TestTransport(TransportContract):
    """A transport of gossip."""

    name = "ring"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _added(cls, line: pytest.MonkeyPatch) -> None:
        toy = "tests.support.toy_transport:PublicationsInARing"
        line.setitem(transport.TRANSPORTS, "ring", toy)


class TestCommand:
    """A command."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _added(cls, line: pytest.MonkeyPatch) -> None:
        greet = Command("tests.support.toy_command", "say hello")
        line.setitem(COMMANDS, "greet", greet)

    def test_it_runs_with_its_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["greet", "--times", "2"]) == 0
        assert capsys.readouterr().out == "hello\nhello\n"

    def test_the_help_lists_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        assert "say hello" in capsys.readouterr().out

    def test_its_mistakes_are_told_in_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as left:
            main(["greet", "--tmes", "2"])
        assert left.value.code == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert "did you mean --times" in told


def test_what_the_page_for_contributors_shows_is_what_is_tested() -> None:
    """Every block of Python stands in a file of `tests/support` as it is."""
    root = Path(__file__).resolve().parents[2]
    blocks = re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.DOTALL)
    sources = [path.read_text() for path in (root / "tests" / "support").glob("*.py")]
    assert blocks
    for block in blocks:
        assert any(block.strip() in source for source in sources), block
