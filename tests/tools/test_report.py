"""`galamp report`: one page with all of a run, that loads nothing and shows every text as it is."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from galamp.cli.main import main
from galamp.storage.event_log import EventLog
from galamp.tools.report.clips import MAX_BYTES
from tests.support.finished import finished_run

NASTY = "<script>alert(1)</script>&\"'\x1b[31m"
VOID = {"meta", "img", "br"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """What a page says and loads; elements have to be closed as they were opened."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.words, self.addresses, self.tags, self.open = "", [], [], []  # type: ignore[var-annotated]
        self.feed(content.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(v) for name, v in attributes if name in ("src", "href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += data + "\n"


def ended_run(path: Path) -> Path:
    """Write a run that was evaluated, and has texts in it that are meant to be markup."""
    run = finished_run(path, [1.0, 2.0, 4.125], seed=7)
    summary = {
        "status": "finished", "agent_steps": 3000, "start": 1, "mean_return_100": 4.125,
        "best_mean_return_100": 5.0625, "wall_s": 108.0, "agent_steps_per_s": 1234.0,
        "episodes": 321, "restarts": 29, "ended_by": "total-steps",
        "reason": NASTY, "failure": None,
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    log = EventLog(run / "events.jsonl", 1, print)
    log.append(1.7e9, 0.0, "begun", kind="start", command=f"galamp run --name '{NASTY}'")
    log.append(
        1.7e9 + 9, 9.0, f"learner 1 was ended by SIGKILL {NASTY}", kind="restart", wall_s=9.0
    )
    evaluation = {
        "results": [{"learner": 0, "mean": 20.25, "standard_error": 0.5, "episodes": 30}],
        "agent_steps": 3000, "greedy": False,
    }  # fmt: skip
    (run / "eval-1.json").write_text(json.dumps(evaluation))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return ended_run(tmp_path / "run")


@pytest.fixture
def young(tmp_path: Path) -> Path:
    """A run that has no rows yet, so that its page has no plots: they take a second to draw."""
    return finished_run(tmp_path / "run", [])


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, with its page."""
    run = ended_run(tmp_path_factory.mktemp("reported") / "run")
    page_of(run)
    return run


def page_of(run: Path, *words: object) -> Page:
    assert main(["report", str(run), *map(str, words)]) == 0
    return page_in(run)


def page_in(run: Path) -> Page:
    return Page((run / "report.html").read_bytes())


def test_every_number_is_the_runs(reported: Path) -> None:
    page = page_in(reported)
    row = json.loads((reported / "metrics.jsonl").read_text().splitlines()[-1])
    for words in (
        "4.125", "5.0625", "321", "29", "3,000 of 10,000,000", "1,234", "1 m 48 s", "--seed 7",
        f"{row['learner1/agent_steps']:,}", f"{row['learner1/SPS']:.6g}",
        f"{row['gossip/pairwise_distance']:.6g}", f"{row['gossip/certificate']:.6g}",
        "20.25 ± 0.50 in 30 games, sampled, learner 0, at 3,000 agent steps",
        "learner 1 was ended by SIGKILL", "galamp run --name", "galamp prune", "config.json",
    ):  # fmt: skip
        assert words in page.words, words


def test_it_loads_nothing_and_runs_nothing(reported: Path) -> None:
    page = page_in(reported)
    assert page.addresses
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "a", "form"} & set(page.tags)
    content = (reported / "report.html").read_text()
    assert "default-src 'none'" in content
    assert "http" not in re.sub(r"base64,[\w+/=]+|http-equiv", "", content)
    assert "prefers-color-scheme: dark" in content


def test_texts_of_a_run_are_no_markup(reported: Path) -> None:
    page = page_in(reported)
    shown = NASTY.replace("\x1b", "\\x1b")
    assert page.words.count(shown) == 3, "reason, event, command"
    assert "\x1b" not in (reported / "report.html").read_text()


def test_plots_are_pictures_of_the_metrics(reported: Path) -> None:
    page = page_in(reported)
    assert len(page.addresses) == 5
    for address in page.addresses:
        svg = base64.b64decode(address.partition(",")[2])
        assert svg.lstrip().startswith(b"<?xml")
        assert b"<path" in svg


@pytest.mark.parametrize(
    ("name", "tag"), [("a.mp4", "video"), ("b.webm", "video"), ("c.gif", "img")]
)
def test_the_newest_clip_is_within_the_page(young: Path, name: str, tag: str) -> None:
    (young / name).write_bytes(b"moving" * 10)
    page = page_of(young)
    assert tag in page.tags
    (clip,) = page.addresses
    assert base64.b64decode(clip.partition(",")[2]) == b"moving" * 10
    assert name in page.words


def test_a_clip_can_be_named(run: Path, tmp_path: Path) -> None:
    (run / "a.mp4").write_bytes(b"a")
    (tmp_path / "other.gif").write_bytes(b"b")
    page = page_of(run, "--clip", tmp_path / "other.gif")
    assert [each for each in page.addresses if "svg" not in each] == ["data:image/gif;base64,Yg=="]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--clip", "{}/none.mp4"], "cannot be read: No such file"),
        (["--clip", "{}/config.json"], "expected a name that ends in .mp4, .webm, .gif"),
        (["--clip", "{}/large.mp4"], "cannot be read"),
        (["-o", "{}/page.pdf"], "expected a name that ends in .html or .htm"),
        (["-o", "{}/none/page.html"], "there is no folder"),
        (["-o", "{}/folder.html", "--overwrite"], "is a folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    (run / "folder.html").mkdir()
    with open(run / "large.mp4", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    before = sorted(run.iterdir())
    assert main(["report", str(run), *(word.format(run) for word in words)]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert sorted(run.iterdir()) == before


def test_a_page_is_replaced_only_if_that_is_said(
    young: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (young / "report.html").write_text("mine")
    assert main(["report", str(young)]) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert (young / "report.html").read_text() == "mine"
    page_of(young, "--overwrite")


def test_a_run_that_has_just_begun_has_a_page(young: Path) -> None:
    (young / "config.json").write_text("{")
    (young / "config.json").write_text(json.dumps({"environment": {"env_id": "CartPole-v1"}}))
    page = page_of(young)
    assert page.addresses == []
    assert "CartPole-v1" in page.words


@pytest.mark.skipif(CHROMIUM is None, reason="no browser here: apt-get install chromium")
@pytest.mark.real
def test_a_real_browser_shows_it(reported: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
            "--enable-logging=stderr", f"--screenshot={tmp_path / 'page.png'}",
            "--window-size=1000,3000", (reported / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "4.125" in done.stdout
    assert "alert(1)" in done.stdout
    assert "<script" not in done.stdout
    assert "Content Security Policy" not in done.stderr, "nothing was refused"
