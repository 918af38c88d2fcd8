"""One word per quantity of gossip, on screen and in reports: that of its name in metrics.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from galamp.cli.main import main
from galamp.telemetry.display import panels
from galamp.telemetry.display.help_view import help_view
from galamp.tools.audit import figure, report
from galamp.tools.plot.metrics import TITLES
from tests.support.finished import finished_run
from tests.support.snapshots import busy
from tests.tools.test_audit import audited, ring

TOPICS = Path(__file__).resolve().parents[2] / "galamp/cli/topics"
NAMES = re.findall(r"`gossip/(\w+)`", (TOPICS / "metrics.md").read_text())
WORDS = {name.replace("_", " ") for name in NAMES}
DISTANCES = ("consensus distance", "pairwise distance")

OTHER_WORDS = re.compile(
    r"farthest two|greatest pair|(greatest|largest) distance|proven|proved|between two learners\s",
    re.IGNORECASE,
)
"""What these quantities were called elsewhere."""


def test_the_screen_says_the_words_of_the_topic() -> None:
    snapshot = busy(3)
    shown = [line.plain for line in panels.distances(snapshot, 60)]
    labels = {re.split(r"\s{2,}", line)[0] for line in shown}
    assert labels >= {*DISTANCES, "certificate", "certificate ratio", "radius"}
    assert labels <= WORDS
    assert "pairwise distance" in panels.distance(snapshot.consensus)
    explained = "\n".join(line.plain for line in help_view(snapshot, 100))
    assert all(word in explained for word in (*DISTANCES, "certificate"))


def test_audit_says_the_words_of_the_topic(tmp_path: Path) -> None:
    text = "\n".join(report.lines(report.summary(tmp_path, audited(ring(1, 20)))))
    for word in DISTANCES:
        assert word in WORDS
        assert re.search(rf"^ ?{word} ", text, re.MULTILINE), text
    assert "certificate" in text
    assert not OTHER_WORDS.search(text)
    for labels in (figure.LABELS, figure.RATIO_LABELS):
        assert sorted(re.split(r" \(", label)[0] for label in labels.values()) == [*DISTANCES]
    assert not OTHER_WORDS.search(Path(figure.__file__).read_text())


def test_topology_says_the_words_of_the_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "ring", "--learners", "4"]) == 0
    text = capsys.readouterr().out
    for word in DISTANCES:
        assert re.search(rf"^  {word} ", text, re.MULTILINE), text
    assert not OTHER_WORDS.search(text)
    assert main(["topology", "ring", "--learners", "4", "--json"]) == 0
    ball = capsys.readouterr().out
    assert '"consensus_distance"' in ball
    assert '"pairwise_distance"' in ball


def test_reports_and_plots_say_the_words_of_the_topic(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", [])
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert re.search(r"pairwise distance</\w+>.*<dt>certificate</\w+>", page)
    assert not OTHER_WORDS.search(page)
    titled = {name for name in NAMES if f"gossip/{name}" in TITLES}
    assert titled >= {"consensus_distance", "pairwise_distance", "certificate"}
    for name in titled:
        assert TITLES[f"gossip/{name}"].startswith(name.replace("_", " "))
