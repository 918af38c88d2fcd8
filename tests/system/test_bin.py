"""The commands in bin/ with a stub in place of Python's venv and pip: nothing is downloaded."""

from __future__ import annotations

import configparser
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.checkout import BROKEN, ROOT, STUB, Checkout, load
from tests.support.engine import also

pytestmark = pytest.mark.real  # for they start processes


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_the_first_start_installs_the_tested_versions_and_runs(checkout: Checkout) -> None:
    done = checkout.start("run", "--name", "two words")
    assert done.returncode == 0
    assert done.stdout == "[run]\n[--name]\n[two words]\n"
    choice, *lines = done.stderr.splitlines()
    assert choice == "galamp: set-up: no NVIDIA GPU: torch for the CPU"
    steps = [line.split(" ...")[0] for line in lines]
    assert steps == [
        f"galamp: set-up: {step}"
        for step in ("create environment", "install torch", "install the rest", "install galamp")
    ]
    assert all(line.endswith(" s") for line in lines)
    venv, torch, rest, package = checkout.calls()
    assert venv.endswith(f"-m venv --prompt galamp {checkout.venv}")
    assert all(f"-c {checkout.root}/bin/constraints.txt" in pip for pip in (rest, package))
    assert f"-c {checkout.venv}/setup.constraints torch==" in torch
    assert torch.endswith("+cpu")
    assert "gymnasium[atari]>=1.1" in rest
    assert "hypothesis" not in rest
    assert package.endswith(" -e .")


def test_the_second_start_installs_nothing(checkout: Checkout) -> None:
    checkout.start("run")
    assert checkout.calls()
    done = checkout.start("run")
    assert (done.stdout, done.stderr) == ("[run]\n", "")
    assert checkout.calls() == []


def test_starts_through_a_symlink(checkout: Checkout, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(checkout.root / "bin" / "galamp")
    done = subprocess.run([link, "run"], env=checkout.env, capture_output=True, check=False)
    assert done.returncode == 0
    assert checkout.ready


@pytest.mark.parametrize("name", ["setup.cfg", also("pyproject.toml"), "bin/constraints.txt"])
def test_a_changed_file_installs_again_into_the_same_environment(
    checkout: Checkout, name: str
) -> None:
    checkout.start("run")
    checkout.calls()
    with (checkout.root / name).open("a") as file:
        file.write("\n# changed\n")
    assert checkout.start("run").returncode == 0
    assert [("-m pip" in call) for call in checkout.calls()] == [True] * 3
    checkout.start("run")
    assert checkout.calls() == []


def test_a_moved_checkout_installs_again(checkout: Checkout) -> None:
    checkout.start("run")
    checkout.calls()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.start("run").returncode == 0
    assert len(checkout.calls()) == 3


def test_a_failed_step_shows_the_log_and_heals_at_the_next_start(checkout: Checkout) -> None:
    failed = checkout.start("run", STUB_FAIL="gymnasium")
    assert failed.returncode == 70
    assert failed.stdout == ""
    assert "install the rest ... failed after" in failed.stderr
    assert "the stub failed on purpose" in failed.stderr
    assert not checkout.ready
    checkout.calls()
    assert checkout.start("run").returncode == 0
    assert [("-m pip" in call) for call in checkout.calls()] == [True] * 3


def test_a_failed_update_is_not_taken_for_ready(checkout: Checkout) -> None:
    checkout.start("run")
    constraints = checkout.root / "bin" / "constraints.txt"
    before = constraints.read_bytes()
    constraints.write_bytes(before + b"# changed\n")
    assert checkout.start("run", STUB_FAIL="gymnasium").returncode == 70
    constraints.write_bytes(before)
    checkout.calls()
    assert checkout.start("run").returncode == 0
    assert len(checkout.calls()) == 3


def test_an_environment_cut_short_is_made_anew(checkout: Checkout) -> None:
    assert checkout.start("run", STUB_FAIL="-m venv").returncode == 70
    leftover = checkout.venv / "lib"
    leftover.mkdir()
    (checkout.venv / "bin").mkdir()
    shutil.copy(checkout.path / "python3.11", checkout.venv / "bin" / "python")
    checkout.calls()
    assert checkout.start("run").returncode == 0
    assert "-m venv" in checkout.calls()[0]
    assert not leftover.exists()


@pytest.mark.parametrize("broken", ["missing", "cannot be used"])
def test_a_broken_python_is_replaced(checkout: Checkout, broken: str) -> None:
    checkout.start("run")
    python = checkout.venv / "bin" / "python"
    python.unlink()
    if broken == "cannot be used":
        python.write_text(BROKEN)
        python.chmod(0o755)
    checkout.calls()
    assert checkout.start("run").stdout == "[run]\n"
    assert "-m venv" in checkout.calls()[0]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_interrupt_ends_pip_and_heals_at_the_next_start(checkout: Checkout, fifo: Path) -> None:
    with checkout.starting(STUB_FIFO=str(fifo)) as process:
        pip = int(fifo.read_text())
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert gone(pip)
    assert not checkout.ready
    assert checkout.start("run").returncode == 0


def test_a_killed_start_takes_pip_with_it(checkout: Checkout, fifo: Path) -> None:
    with checkout.starting(STUB_FIFO=str(fifo)) as process:
        pip = int(fifo.read_text())
        process.kill()
        with (checkout.venv / "setup.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
    assert gone(pip)
    assert not checkout.ready
    assert checkout.start("run").returncode == 0


def test_two_starts_at_once_set_up_once(checkout: Checkout, fifo: Path) -> None:
    with checkout.starting(STUB_FIFO=str(fifo)) as first:
        fifo.read_text()
        with checkout.starting() as second:
            assert second.stderr is not None
            assert "waiting for process" in second.stderr.readline()
            fifo.write_text("go\n")
            for _ in range(2):
                fifo.read_text()
                fifo.write_text("go\n")
            assert first.wait(60) == 0
            assert second.wait(60) == 0
    assert len(checkout.calls()) == 4


def test_half_installed_packages_are_forgotten(checkout: Checkout, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    for name, files in {"whole": ["whole.py"], "cut": [], "torn": ["torn.py"]}.items():
        package = site / f"{name}-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if files:
            (package / "RECORD").write_text(f"{files[0]},,\n__pycache__/{name}.pyc,,\n")
    (site / "whole.py").touch()
    (site / "~runcated").mkdir()
    subprocess.run([venv / "bin" / "python", "-I", "-c", load(checkout).FORGET], check=True)
    assert {path.name for path in site.iterdir()} == {"whole.py", "whole-1.0.dist-info"}


@pytest.mark.parametrize(
    ("bad", "taken"),
    [
        ((), "python3.11"),
        also(("python3.11",), "python3.12"),
        (("python3.11", "python3.12", "python3.13"), "python3"),
    ],
)
def test_the_tested_python_comes_first_and_unfit_ones_are_skipped(
    checkout: Checkout, bad: tuple[str, ...], taken: str
) -> None:
    checkout.only_path()
    for name in ("python3.12", "python3.13", "python3"):
        checkout.add_python(name)
    for number, name in enumerate(bad):
        (checkout.path / name).write_text(f"#!/bin/sh\nexit {1 + 2 * (number % 2)}\n")
    assert checkout.start("run").returncode == 0
    assert (checkout.path / taken).read_text() == STUB
    log = (checkout.venv / "setup.log").read_text()
    assert f"$ {checkout.path}/{taken} -I -m venv" in log


@pytest.mark.parametrize("named", [False, True])
def test_a_python_that_is_too_new_is_one_line(checkout: Checkout, named: bool) -> None:
    checkout.only_path()
    (checkout.path / "python3.11").unlink()
    newer = checkout.add_python("python3")
    newer.write_text("#!/bin/sh\nexit 3\n")
    done = checkout.start("run", **({"GALAMP_PYTHON": str(newer)} if named else {}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{newer} is newer than Python 3.13" in done.stderr
    assert not checkout.venv.exists()


def test_the_newest_python_is_told_from_the_others() -> None:
    """The very program that bin/setup asks, with the version that it looks at."""
    (line,) = [x for x in (ROOT / "bin" / "setup").read_text().splitlines() if "suitable=" in x]
    program = line.partition("'")[2].rpartition("'")[0].replace("import sys; ", "")
    codes = {}
    for minor in range(9, 17):
        asked = SimpleNamespace(version_info=(3, minor, 1), exit=lambda code: code)
        names = {"sys": asked, "code": None}
        exec(program.replace("sys.exit", "code = int"), names)
        codes[minor] = names["code"]
    assert codes == {9: 1, 10: 1, 11: 0, 12: 0, 13: 0, 14: 3, 15: 3, 16: 3}


def test_what_is_for_another_python_is_not_passed_on(checkout: Checkout) -> None:
    """An empty entry of PYTHONPATH is the working directory, which nobody has named."""
    checkout.start("run")
    left = {":/a": "/a", "/a:": "/a", "/a::/b c": "/a:/b c", ":::": "", "/a:.": "/a:.", "/a": "/a"}
    for given, kept in left.items():
        done = checkout.start("paths", PYTHONPATH=given, PYTHONHOME="/nowhere")
        assert (done.stdout, done.stderr) == (f"PYTHONPATH={kept} PYTHONHOME=\n", "")


def test_the_bench_leaves_the_working_directory_out_as_well(checkout: Checkout) -> None:
    assert checkout.start("run", command="bench").stdout == "stub ran the bench\n"


def test_no_python_is_one_line(checkout: Checkout) -> None:
    checkout.only_path()
    (checkout.path / "python3.11").unlink()
    done = checkout.start("run")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "found no Python of at least 3.11" in done.stderr
    assert not checkout.venv.exists()


def test_a_python_without_ensurepip_is_one_line(checkout: Checkout) -> None:
    checkout.only_path()
    done = checkout.start("run", STUB_FAIL="ensurepip")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{checkout.path}/python3.11 lacks venv or ensurepip" in done.stderr


def test_galamp_python_overrides_the_search(checkout: Checkout) -> None:
    mine = checkout.add_python("mine")
    assert checkout.start("run", GALAMP_PYTHON=str(mine)).returncode == 0
    assert f"$ {mine} -I -m venv" in (checkout.venv / "setup.log").read_text()


@pytest.mark.parametrize(
    ("named", "cwd", "taken"),
    [
        also("./mine", "path", "path/./mine"),
        also("path/mine", "", "path/mine"),
        ("../path/mine", "a check out", "a check out/../path/mine"),
    ],
)
def test_a_relative_galamp_python_is_that_of_the_working_directory(
    checkout: Checkout, tmp_path: Path, named: str, cwd: str, taken: str
) -> None:
    checkout.add_python("mine")
    done = checkout.start("run", cwd=tmp_path / cwd, GALAMP_PYTHON=named)
    assert (done.returncode, done.stdout) == (0, "[run]\n")
    assert f"$ {tmp_path}/{taken} -I -m venv" in (checkout.venv / "setup.log").read_text()


def test_a_python_on_a_relative_path_is_found_as_well(checkout: Checkout, tmp_path: Path) -> None:
    path = f"path:{os.environ['PATH']}"
    done = checkout.start("run", cwd=tmp_path, PATH=path)
    assert (done.returncode, done.stdout) == (0, "[run]\n")
    assert f"$ {tmp_path}/path/python3.11 -I -m venv" in (checkout.venv / "setup.log").read_text()


def test_a_word_of_the_shell_is_no_python(checkout: Checkout) -> None:
    done = checkout.start("run", GALAMP_PYTHON="echo")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "GALAMP_PYTHON=echo is not a Python" in done.stderr


def test_a_wrong_galamp_python_is_one_line(checkout: Checkout) -> None:
    done = checkout.start("run", GALAMP_PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "GALAMP_PYTHON=/nowhere/python" in done.stderr


def test_the_gate_installs_the_development_extra_once_for_both(checkout: Checkout) -> None:
    done = checkout.start("tests/test_x.py", "-k", "y", command="test")
    assert done.returncode == 0
    assert "stub ran pytest" in done.stdout
    assert checkout.calls_file.read_text().endswith("-m pytest tests/test_x.py -k y\n")
    _, _, rest, package = checkout.calls()
    assert "hypothesis" in rest
    assert package.endswith(" -e .[dev]")
    assert checkout.start("run").returncode == 0
    assert checkout.calls() == []


def test_the_gate_runs_every_step_and_names_the_failing_ones(checkout: Checkout) -> None:
    passed = checkout.start(command="test")
    assert passed.returncode == 0
    assert passed.stdout.endswith("galamp: the gate passed\n")
    failed = checkout.start(command="test", STUB_FAIL="-m mypy")
    assert failed.returncode == 1
    assert steps_of(failed) == [
        ["format", "ok"],
        ["lint", "ok"],
        ["tests", "ok"],
        ["types", "FAILED"],
        ["timing", "ok"],
    ]
    assert failed.stdout.endswith("galamp: the gate failed: types\n")


def steps_of(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return the gate's steps, each with how it went."""
    return [line.split()[1:3] for line in done.stdout.splitlines() if line.endswith(" s")]


def test_the_fast_gate_leaves_out_what_takes_long(checkout: Checkout) -> None:
    done = checkout.start("--fast", command="test")
    assert done.returncode == 0
    assert done.stdout.endswith("galamp: the gate with --fast passed\n")
    assert steps_of(done) == [[s, "ok"] for s in ("format", "lint", "tests", "types")]
    last = checkout.calls_file.read_text().splitlines()[-1]
    assert last.endswith("-m quick")
    assert checkout.start("--fast", command="test", STUB_FAIL="ruff check").returncode == 1


def test_lines_are_counted_where_that_is_asked_for(checkout: Checkout) -> None:
    done = checkout.start("--coverage", command="test")
    assert done.stdout.endswith("galamp: the gate with --coverage passed\n")
    names = ("format", "lint", "tests", "runs", "types", "timing", "combine", "coverage")
    assert steps_of(done) == [[name, "ok"] for name in names]
    missed = checkout.start("--coverage", command="test", STUB_FAIL="coverage report")
    assert missed.stdout.endswith("galamp: the gate failed: coverage\n")


def test_what_is_timed_is_tried_once_more(checkout: Checkout) -> None:
    once = checkout.start(command="test", STUB_FAIL="-m not slow and timing.")
    assert once.returncode == 0
    assert "galamp: timing: repeated\n" in once.stdout
    assert ["timing", "ok"] in steps_of(once)
    twice = checkout.start(command="test", STUB_FAIL="-m not slow and timing")
    assert twice.returncode == 1
    assert twice.stdout.endswith("galamp: the gate failed: timing\n")
    tries = [c for c in checkout.calls_file.read_text().splitlines() if "and timing" in c]
    assert [" --last-failed" in c for c in tries] == [False, True, False, True]


def test_the_gate_can_be_run_again_and_again_beside_others(checkout: Checkout) -> None:
    done = checkout.start("--times", "3", "--hogs", "2", "tests/test_x.py", command="test")
    assert done.returncode == 0
    *runs, last = done.stdout.splitlines()
    assert [line.split()[1:5] for line in runs] == [["run", str(n), "of", "3"] for n in (1, 2, 3)]
    assert last == "galamp: 3 of 3 passed"
    failed = checkout.start("--times", "2", "--fast", command="test", STUB_FAIL="-m mypy")
    assert failed.returncode == 1
    assert failed.stdout.endswith("galamp: 0 of 2 passed\n")
    assert "the gate failed: types" in failed.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--times", "0"),
        ("--hogs", "x"),
        ("--fast", "tests"),
        ("--coverage", "--fast"),
        ("--times",),
    ],
)
def test_a_mistake_is_told_before_the_gate_begins(
    checkout: Checkout, words: tuple[str, ...]
) -> None:
    done = checkout.start(*words, command="test")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(rf"galamp: ({'|'.join(words)}) ", done.stderr)
    assert not checkout.venv.exists()


def test_every_requirement_has_a_tested_version_in_its_range() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = config["options"]["install_requires"] + config["options.extras_require"]["dev"]
    lines = (ROOT / "bin" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in map(Requirement, asked.split()):
        assert requirement.specifier.contains(Version(pins[requirement.name]))
