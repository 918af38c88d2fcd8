"""`galamp topology`: what is shown, drawn and refused."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galamp.algorithms.networks import build_model
from galamp.core.errors import GalampError
from galamp.gossip.topologies import TOPOLOGIES, make_topology
from galamp.tools.topology.ascii_graph import braille, hears, matrix, picture
from galamp.tools.topology.command import TopologyConfig, add_options
from galamp.tools.topology.mixing_matrices import Rounds
from tests.support.engine import also


def run(*words: str) -> int:
    """Run the command as the command line does."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(words)
    try:
        return int(args.command(args))
    except GalampError as error:
        sys.stderr.write(f"galamp: {error}\n")
        return error.exit_code


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(*words) == 0
    return capsys.readouterr().out


def as_object(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found = json.loads(told(capsys, *words, "--json"), parse_constant=pytest.fail)
    assert isinstance(found, dict)
    return found


def rounds_of(name: str, size: int) -> Rounds:
    return Rounds(make_topology(name, size))


# What is shown


@pytest.mark.parametrize("size", [2, 7, also(33), 130])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_graph_fits_eighty_columns(
    name: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    delayed = () if size == 130 else ("--delay", "2")
    shown = told(capsys, name, "--learners", str(size), *delayed)
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_long_values_fit_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ("graph" * 30 + ".txt")
    file.write_text("0 1 0\n0 0 1\n1 1 0\n")
    words = ["--learners", "3", "--parameters", "1e12", "--rounds-per-s", "123456.789"]
    shown = told(capsys, f"file:{file}", *words, "--update-norm", "0.123456789", "--delay", "100")
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "doubly stochastic     no" in shown


def test_a_ring_says_what_is_known_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(told(capsys, "ring", "--learners", "8").split())
    for fact in (
        "ring, 8 learners", "Learner 0 hears 7.", "own 0.5, peers 0.5", "beta 0.92388",
        "after 59 rounds", "3.46 MB 27.7 MB", "34.6 MB 277 MB", "at worst 0.6069",
        "consensus distance 0.06614", "exactly",
    ):  # fmt: skip
        assert fact in shown


def test_what_is_not_exact_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = " ".join(told(capsys, "random-pairs", "--learners", "40").split())
    assert "an estimate, measured over" in pairs
    assert "drawn again in every round" in pairs
    assert "simulated: " in pairs
    apart = told(capsys, "none", "--learners", "100")
    assert "never" in apart
    assert "still growing" in " ".join(apart.split())


def test_exact_averaging_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert "averages exactly after 10 rounds" in told(
        capsys, "one-peer-exponential", "--learners", "1024"
    )


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--learners", "12", "--parameters", "1000", "--rounds-per-s", "3", "--seed", "5"]
    found = as_object(capsys, "star", *words, "--gossip-weights", "uniform")
    assert (found["topology"], found["learners"], found["seed"]) == ("star", 12, 5)
    assert found["graph"]["in_peers_most"] == 11
    assert found["graph"]["doubly_stochastic"] is False
    assert found["graph"]["symmetric"] is True
    assert found["consensus"]["beta"] is None
    assert found["consensus"]["rate_per_round"] == pytest.approx(0.5)
    assert found["traffic"]["bytes_per_s"] == 22 * 4000 * 3
    assert found["epsilon_ball"]["worst_case_rms"] is None


def test_machines_are_planned_by_what_they_send_one_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--nodes", "8", "--learners", "32", "--parameters", "1000", "--rounds-per-s", "10"]
    for every, messages in ((2, 2.0), (4, 1.0), (8, 0.5)):
        found = as_object(capsys, "hierarchical", *words, "--nodes-every", str(every))
        assert found["traffic"]["bytes_per_s_per_node"] == messages * 4000 * 10
        assert found["graph"]["in_peers_most"] == 1
    half = as_object(capsys, "hierarchical", *words, "--nodes-every", str(every), "--wire", "bf16")
    assert half["traffic"]["bytes_per_s_per_node"] == messages * 2000 * 10
    assert half["traffic"]["bytes_per_round"] == found["traffic"]["bytes_per_round"]
    ring = as_object(capsys, "ring", *words)
    assert ring["traffic"]["bytes_per_s_per_node"] == 4000 * 10
    assert ring["consensus"]["rounds_to_1_percent"] > 900
    shown = " ".join(told(capsys, "hierarchical", *words).split())
    assert "32 learners on 8 machines" in shown
    assert "a machine sends 40 kB/s to others, 1 message per round" in shown
    assert "after 18 rounds" in shown
    assert "machine" not in told(capsys, "ring", "--learners", "32")
    assert run("ring", "--nodes", "8", "--learners", "12") == 2
    assert "expected a multiple of --nodes 8" in capsys.readouterr().err


def test_the_update_norm_and_the_delay_reach_the_forecast(
    capsys: pytest.CaptureFixture[str],
) -> None:
    once = as_object(capsys, "ring", "--update-norm", "1")["epsilon_ball"]
    twice = as_object(capsys, "ring", "--update-norm", "2")["epsilon_ball"]
    assert twice["consensus_distance"] == pytest.approx(2 * once["consensus_distance"])
    assert twice["worst_case_rms"] == pytest.approx(2 * once["worst_case_rms"])
    old = as_object(capsys, "ring", "--update-norm", "1", "--delay", "3")["epsilon_ball"]
    assert old["method"] == "simulated"
    assert old["consensus_distance"] > once["consensus_distance"]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_json_is_valid_for_every_graph(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_object(capsys, name, "--learners", "9")["topology"] == name


def test_random_graphs_follow_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = [told(capsys, "random-pairs", "--seed", seed) for seed in ("1", "2", "1")]
    assert seeds[0] == seeds[2] != seeds[1]


def test_the_default_size_is_that_of_the_default_network() -> None:
    model = build_model("auto", (4, 84, 84), "uint8", 4, seed=1)
    assert TopologyConfig().parameters == sum(p.numel() for p in model.parameters())


def test_neither_torch_nor_matplotlib_is_loaded() -> None:
    code = (
        "import argparse, sys; from galamp.tools.topology.command import add_options;"
        "assert 'numpy' not in sys.modules; p = argparse.ArgumentParser(); add_options(p);"
        "o = p.parse_args(['torus', '--learners', '40']); o.command(o);"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


# Pictures


def test_dots_become_braille() -> None:
    dots = np.zeros((4, 4), dtype=bool)
    dots[0, 0] = dots[3, 1] = True
    assert braille(dots) == ["⢁" + " "]


@pytest.mark.parametrize("size", [2, 8, 32])
def test_the_circle_numbers_every_learner(size: int) -> None:
    numbers = " ".join(picture(rounds_of("none", size))).split()
    assert sorted(map(int, numbers)) == list(range(size))


def test_lines_join_those_who_hear_one_another() -> None:
    apart, ring = (picture(rounds_of(name, 8)) for name in ("none", "ring"))
    assert not any(char > "\u2800" for line in apart for char in line)
    assert sum(char > "\u2800" for line in ring for char in line) > 40
    # Between 0 at the top and 4 at the bottom there is no link, next to 2 on the right there is.
    assert ring[len(ring) // 2].split() == ["6", "2"]
    assert len({line.strip() for line in ring[1:3]}) == 2


def test_the_matrix_shows_who_hears_whom() -> None:
    rounds = rounds_of("ring", 50)
    expected = np.zeros((50, 50), dtype=bool)
    expected[np.arange(50), np.arange(50) - 1] = True
    assert (hears(rounds, 120) == expected).all()
    lines = matrix(rounds)
    inside = [line.partition("│")[2].rstrip("│") for line in lines if "│" in line]
    assert inside == braille(expected)


def test_many_learners_share_a_dot() -> None:
    seen = hears(rounds_of("ring", 500), 120)
    assert seen.shape == (100, 100)
    assert seen.sum() == 200  # the diagonal, and one beside it
    assert "5 x 5 learners" in matrix(rounds_of("ring", 500))[-1]
    assert hears(rounds_of("complete", 500), 120).all()


def test_graphs_that_change_are_drawn_over_all_their_rounds() -> None:
    changing, fixed = rounds_of("one-peer-exponential", 40), rounds_of("exponential", 40)
    assert (hears(changing, 120) == hears(fixed, 120)).all()


@pytest.mark.parametrize("size", ["6", "40"])
def test_a_png_is_drawn(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib as mpl

    file = tmp_path / "graph.png"
    # As a matplotlibrc in the working directory would have it.
    lying_around = {"text.usetex": True, "savefig.format": "pdf", "text.latex.preamble": "\\x"}
    for name, more in (("torus", ()), ("ring", ("--overwrite",))):
        before = file.read_bytes() if file.exists() else b""
        with mpl.rc_context(lying_around):
            told(capsys, name, "--learners", size, "--figure", str(file), *more)
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.read_bytes() != before
    assert [each.name for each in tmp_path.iterdir()] == ["graph.png"]


# What is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rign"], "did you mean ring?"),
        (["Torus"], "did you mean torus?"),
        (["ring", "--learners", "1"], "--learners 1: expected"),
        (["ring", "--learners", "20000"], "2 to 16384"),
        (["ring", "--learners", "many"], "--learners"),
        (["ring", "--gossip-weights", "equal"], "--gossip-weights equal: expected one of"),
        (["ring", "--gossip-weights", "metropolis"], "--gossip-weights metropolis"),
        (["ring", "--update-norm", "-1"], "--update-norm -1"),
        (["ring", "--delay", "101"], "--delay 101"),
        (["ring", "--parameters", "0"], "--parameters 0"),
        (["ring", "--rounds-per-s", "nan"], "--rounds-per-s nan"),
        (["file:nowhere.txt"], "nowhere.txt"),
        (["two\nlines"], "expected one of"),
        (["ring", "--figure", "no/such/folder/graph.png"], "no folder no/such/folder"),
        (["ring", "--overwrite"], "goes with --figure"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("galamp: ")


def test_a_picture_is_not_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "graph.png"
    file.write_text("mine")
    assert run("ring", "--figure", str(file)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_a_file_of_another_size_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "graph.txt"
    file.write_text("0 1\n1 0\n")
    assert run(f"file:{file}", "--learners", "3") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run(f"file:{file}", "--learners", "2") == 0
