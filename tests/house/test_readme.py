"""What the README says: its commands parse, and its metrics are the ones that are written."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from galamp.algorithms.networks import NETWORKS
from galamp.algorithms.networks.checks import check_network
from galamp.cli.main import build_parser
from galamp.telemetry.metrics_row import metrics_row
from galamp.tools.bench import cli
from tests.support.snapshots import busy

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("bin/galamp ")])
def test_command_parses(line: str) -> None:
    options = build_parser().parse_args(shlex.split(line)[1:])
    assert callable(options.command)


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("bin/bench ")])
def test_command_of_the_bench_parses(line: str) -> None:
    options = cli.build_parser().parse_args(shlex.split(line)[1:])
    assert callable(options.command)


def test_commands_exist() -> None:
    for line in COMMANDS:
        assert (ROOT / shlex.split(line)[0]).exists(), line


def test_every_metric_is_explained() -> None:
    table = README[README.index("Rows of `metrics.jsonl`") : README.index("## When something")]
    explained = set(re.findall(r"`([a-z_<>A-Z/]+)`", table)) - {"metrics.jsonl"}
    row = metrics_row(busy(2), 0.0)
    written = {re.sub(r"^learner\d+", "learner<r>", name) for name in row} | {"start"}
    assert explained == written


def test_every_network_is_explained() -> None:
    (row,) = re.findall(r"^\| `--network` \|.*$", README, re.MULTILINE)
    assert set(NETWORKS) <= set(re.findall(r"`([\w-]+)`", row))


def test_the_network_of_the_example_can_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = (block for block in blocks if "nn.Module" in block)
    (tmp_path / "my_networks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    check_network("my_networks:make", (4,), "float32", 2, seed=1)


def promises() -> list[str]:
    """The cells that name the tests, of the table of faults and promises."""
    start = README.index("### What is promised")
    rows = README[start : README.index("## Evidence")].splitlines()
    return [row.split("|")[-2] for row in rows if re.match(r"\| \d", row)]


def test_every_promise_has_its_tests() -> None:
    """A cell names files, each followed by parts of the names of tests in it."""
    cells = promises()
    assert len(cells) > 25
    for cell in cells:
        source = ""
        for name in re.findall(r"`([^`]+)`", cell):
            if name.endswith((".py", "/")):
                path = next((ROOT / "tests").rglob(name), None)
                assert path is not None, name
                source = path.read_text() if path.is_file() else ""
            else:
                assert re.search(rf"^ *def test_\w*{name}", source, re.MULTILINE), (name, cell)


def test_first_screen() -> None:
    assert README.index("bin/galamp run") < README.index("\n## "), "the first command comes first"
    assert not re.search(r"@[A-Z]+@", README), "a place left to fill in"
