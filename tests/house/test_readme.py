"""README and topics: their commands parse, and their metrics are those that are written."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest

from galamp.algorithms.networks import NETWORKS
from galamp.algorithms.networks.checks import check_network
from galamp.cli import study
from galamp.cli.help import fitted, text_of, topics
from galamp.cli.main import COMMANDS, build_parser, main
from galamp.cli.sweep_file import sweep_from
from galamp.gossip.mixing import STALENESS_TIMEOUT_S
from galamp.storage.event_log import KeptEvent
from galamp.telemetry.metrics_row import metrics_row
from galamp.tools.bench import cli
from galamp.training.resume import restore
from tests.support.command_lines import parsed
from tests.support.loops import each
from tests.support.snapshots import busy

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TEXTS = {"README": README, **{topic: text_of(topic) for topic in topics()}}
MAX_README_LINES, MAX_BLOCK = 150, 78
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")
"""Such as TOPIC, in commands that stand in a sentence."""


def commands_of(text: str) -> list[list[str]]:
    """The commands of the blocks of a text, each as its words, without `bin/` before galamp."""
    lines = [
        line.split(" #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    words = [shlex.split(line) for line in lines if line]
    return [[first.removeprefix("bin/"), *more] for first, *more in words]


LINES = [(name, words) for name, text in TEXTS.items() for words in commands_of(text)]
GALAMP = [" ".join(words[1:]) for _, words in LINES if words[0] == "galamp"]
BENCH = [words[1:] for _, words in LINES if words[0] == "bench"]
STUDY = [words[1:] for _, words in LINES if words[0] == "study"]


def test_every_command_of_a_block_is_known() -> None:
    assert len(GALAMP) > 60
    assert len(BENCH) > 10
    assert len(STUDY) > 5
    for name, words in LINES:
        assert words[0] in ("galamp", "bench", "study", "test"), (name, words)
        assert (ROOT / "bin" / words[0]).exists()


@cache
def parser() -> argparse.ArgumentParser:
    return build_parser()


@each("line", sorted({*GALAMP}))
def test_command_parses(line: str) -> None:
    with pytest.raises(SystemExit, match="0") if "--help" in line else nullcontext():
        assert callable(parser().parse_args(shlex.split(line)).command)


def test_commands_of_the_bench_and_the_study_parse() -> None:
    for words in BENCH:
        assert callable(cli.build_parser().parse_args(words).command), words
    for words in STUDY:
        assert callable(study.build_parser().parse_args(words).command), words


def test_commands_in_sentences_exist() -> None:
    """Also their options, where nothing is left to fill in."""
    for name, text in TEXTS.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for line in re.findall(r"`(?:bin/)?galamp ([a-z][^`]*)`", prose):
            words = shlex.split(line.replace("\n", " "))
            assert words[0] in COMMANDS, (name, line)
            if words[0] == "help" and len(words) > 1 and not PLACEHOLDER.search(words[1]):
                assert words[1] in TEXTS, (name, line)
            for flag in (word for word in words if word.startswith("--") and word != "--help"):
                own = "scaled:" in line  # an algorithm of the user's brings flags
                assert own or flag in flags_of(words[0]), (name, line, flag)


def flags_of(command: str) -> set[str]:
    """The flags of a command."""
    (commands,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {flag for a in commands.choices[command]._actions for flag in a.option_strings}


@pytest.mark.parametrize("topic", topics())
def test_topic_is_printed(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", topic]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (TEXTS[topic], "")
    assert re.match(r"# [A-Z][\w ]+: \w.*\n\n", out), "its title"


@pytest.mark.parametrize("line", ["games", "topology exponential --learners 64", "ls", "help"])
def test_cheap_command_runs(
    line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder without runs; all others need one."""
    assert line == "help" or line in GALAMP
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 0
    assert capsys.readouterr().err == ""


def test_every_metric_is_explained() -> None:
    text = TEXTS["metrics"]
    table = text[text.index("Rows of `metrics.jsonl`") : text.index("## TensorBoard")]
    explained = set(re.findall(r"`([a-z_<>A-Z/]+)`", table)) - {"metrics.jsonl"}
    row = metrics_row(busy(2), 0.0)
    written = {re.sub(r"^learner\d+", "learner<r>", name) for name in row} | {"start"}
    assert explained == written


def test_every_kind_of_event_is_explained() -> None:
    text = TEXTS["runs"]
    listed = text[text.index("Kinds:") : text.index("Lines are only ever added")]
    assert set(re.findall(r"`([a-z-]+)`", listed)) == kinds_of_events()


def kinds_of_events() -> set[str]:
    """What is given as `kind` where events are logged: at the calls, or as a default."""
    found = {KeptEvent().kind, inspect.signature(restore).parameters["kind"].default}
    for path in (ROOT / "galamp").rglob("*.py"):
        module = ast.parse(path.read_text())
        texts = {
            name.id: each.value.value
            for each in module.body
            if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
            for name in each.targets
            if isinstance(name, ast.Name)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                called = [ast.unparse(each) for each in (node.func, *node.args[:1])]
                if any(name.endswith("log_event") for name in called):  # or partial(log_event)
                    given = [word.value for word in node.keywords if word.arg == "kind"]
                    parts = [part for value in given for part in ast.walk(value)]
                    found |= {str(p.value) for p in parts if isinstance(p, ast.Constant)}
                    names = {part.id for part in parts if isinstance(part, ast.Name)}
                    found |= {str(texts[name]) for name in names & texts.keys()}
    return found


def test_the_staleness_of_a_summary_is_explained() -> None:
    (row,) = (line for line in TEXTS["gossip"].splitlines() if line.startswith("| staleness |"))
    assert "`most_staleness` in `summary.json`" in row
    assert f"at most {STALENESS_TIMEOUT_S:.0f} s" in row


def test_every_network_is_explained() -> None:
    text = TEXTS["algorithms"]
    rows = re.findall(r"^\| (`.*?) \|", text[text.index("## Networks") :], re.MULTILINE)
    assert set(NETWORKS) <= set(re.findall(r"`([\w-]+)`", " ".join(rows)))


def test_every_command_is_explained() -> None:
    shown = {words[1] for words in commands_of(TEXTS["commands"])}
    assert shown == {*COMMANDS}


def test_the_network_of_the_example_can_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXTS["extending"], re.DOTALL)
    (code,) = (block for block in blocks if "nn.Module" in block)
    (tmp_path / "my_networks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    check_network("my_networks:make", (4,), "float32", 2, seed=1)


def test_files_that_are_shown_are_read(tmp_path: Path) -> None:
    """A sweep of two arms, two values, two games and three seeds; a search; and one for `run`."""
    shown = {
        name: re.findall(r"```toml\n(.*?)```", text, re.DOTALL) for name, text in TEXTS.items()
    }
    (sweep, search), (run,) = shown["sweeps"], shown["configure"]
    (tmp_path / "sweep.toml").write_text(sweep)
    assert len(sweep_from(tmp_path / "sweep.toml").runs) == 2 * 2 * 2 * 3
    (tmp_path / "search.toml").write_text(search)
    searched = sweep_from(tmp_path / "search.toml")
    assert searched.search is not None
    assert (searched.search.trials, len(searched.search.ranges), len(searched.runs)) == (20, 2, 2)
    (tmp_path / "run.toml").write_text(run)
    assert parsed("--config", str(tmp_path / "run.toml")).algorithm.algorithm == "ppo"


def test_blocks_fit_a_terminal_of_80_columns() -> None:
    """But for the comments of commands, which go above them there."""
    for topic in topics():
        for kind, block in re.findall(r"```(\w+)\n(.*?)```", TEXTS[topic], re.DOTALL):
            lines = fitted(block, MAX_BLOCK) if kind == "sh" else block
            limit = 110 if kind == "sh" else MAX_BLOCK  # a long command can be broken
            assert max(map(len, lines.splitlines())) <= limit, (topic, block)


def test_python_in_blocks_is_python() -> None:
    for name, text in TEXTS.items():
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            compile(code, name, "exec")


def guarantees() -> list[str]:
    """The cells that name the tests, of the table of faults and guarantees."""
    rows = TEXTS["guarantees"].splitlines()
    return [row.split("|")[-2] for row in rows if re.match(r"\| \d", row)]


def test_every_guarantee_has_its_tests() -> None:
    """A cell names files, each followed by parts of the names of tests in it."""
    cells = guarantees()
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


def test_files_that_are_named_exist() -> None:
    """Of the repository, in README, CONTRIBUTING and topics."""
    named = re.compile(r"`((?:galamp|tests|bin)/[\w/.-]+)`")
    for text in (*TEXTS.values(), (ROOT / "CONTRIBUTING.md").read_text()):
        for path in named.findall(text):
            assert (ROOT / path).exists(), path


def test_the_table_of_packages_is_the_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| package |") : text.index("All shared memory is")]
    named = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    found = {path.parent.name for path in (ROOT / "galamp").glob("*/__init__.py")}
    assert (len(named), {*named}) == (12, found)


def test_readme_is_short_and_begins_with_what_one_does() -> None:
    assert len(README.splitlines()) <= MAX_README_LINES
    assert README.index("bin/galamp run") < README.index("\n## ", README.index("\n## ") + 1)
    for topic in topics():
        assert f"galamp help {topic}" in README or f"`{topic}`" in README, topic
    assert not re.search(r"@[A-Z]+@", README), "a place left to fill in"
