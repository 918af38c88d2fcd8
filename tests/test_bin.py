"""The commands in bin/ with a stub in place of Python's venv and pip: nothing is downloaded.

The stub writes down every call. Asked to make an environment it copies itself there; asked for pip,
galamp, or a step of the gate it only answers; all else goes to the Python that runs the tests.
"""

from __future__ import annotations

import configparser
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

pytestmark = pytest.mark.real  # for they start processes

ROOT = Path(__file__).resolve().parent.parent

STUB = r"""#!/bin/sh
echo "$*" >> "$STUB_CALLS"
if [ -n "$STUB_FAIL" ]; then
    case "$*." in *"$STUB_FAIL"*) echo "the stub failed on purpose"; exit 3 ;; esac
fi
case "$*" in
    *"-m venv "*) for dir; do :; done; mkdir -p "$dir/bin"; cp "$0" "$dir/bin/python" ;;
    *"-m pip install "*)
        if [ -n "$STUB_FIFO" ]; then
            echo "$$" > "$STUB_FIFO"
            exec timeout 60 cat "$STUB_FIFO"
        fi ;;
    *"import sys, pip"*) exec "$STUB_REAL" -c 'import sys; print(sys.version)' ;;
    *half-installed*) ;;
    "-m galamp "*) shift 2; for word; do echo "[$word]"; done ;;
    "-m "*) echo "stub ran $2" ;;
    *) exec "$STUB_REAL" "$@" ;;
esac
"""


class Checkout:
    """A copy of the set-up files in a path with spaces, and a stub python3.13 on PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a check out"
        self.venv = self.root / ".venv"
        self.calls_file = folder / "calls"
        self.path = folder / "path"
        self.path.mkdir()
        shutil.copytree(
            ROOT / "bin", self.root / "bin", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.add_python("python3.13")
        self.env = {
            "PATH": f"{self.path}:{os.environ['PATH']}",
            "STUB_CALLS": str(self.calls_file),
            "STUB_REAL": sys.executable,
        }

    def add_python(self, name: str) -> Path:
        python = self.path / name
        python.write_text(STUB)
        python.chmod(0o755)
        return python

    def only_path(self) -> None:
        """Leave nothing on PATH but the stubs and what the scripts themselves call."""
        for tool in ("bash", "dirname", "readlink", "cp", "mkdir", "sh"):
            (self.path / tool).symlink_to(shutil.which(tool) or tool)
        self.env["PATH"] = str(self.path)

    def start(
        self, *words: str, command: str = "galamp", **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "bin" / command, *words],
            env=self.env | env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @contextmanager
    def starting(self, **env: str) -> Iterator[subprocess.Popen[str]]:
        """Start in the background, in a process group of its own."""
        with subprocess.Popen(
            [self.root / "bin" / "galamp", "run"],
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def calls(self) -> list[str]:
        """Return the set-up calls since the last time, oldest first, by what they do."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line for line in lines if "-m venv" in line or "-m pip install" in line]

    @property
    def ready(self) -> bool:
        return (self.venv / "setup.done").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def load(checkout: Checkout) -> ModuleType:
    """Import the checkout's install.py."""
    folder = checkout.root / "bin"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("install", folder / "install.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("stamp", None)


def test_the_first_start_installs_the_tested_versions_and_runs(checkout: Checkout) -> None:
    done = checkout.start("run", "--name", "two words")
    assert done.returncode == 0
    assert done.stdout == "[run]\n[--name]\n[two words]\n"
    steps = [line.split(" ...")[0] for line in done.stderr.splitlines()]
    assert steps == [
        f"galamp: set-up: {step}"
        for step in ("create environment", "install torch", "install the rest", "install galamp")
    ]
    assert all(line.endswith(" s") for line in done.stderr.splitlines())
    venv, torch, rest, package = checkout.calls()
    assert venv.endswith(f"-m venv --prompt galamp {checkout.venv}")
    assert all(f"-c {checkout.root}/bin/constraints.txt" in pip for pip in (torch, rest, package))
    assert torch.endswith(" torch")
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


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml", "bin/constraints.txt"])
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
    shutil.copy(checkout.path / "python3.13", checkout.venv / "bin" / "python")
    checkout.calls()
    assert checkout.start("run").returncode == 0
    assert "-m venv" in checkout.calls()[0]
    assert not leftover.exists()


@pytest.mark.parametrize("broken", ["dangling", "does not run"])
def test_a_broken_python_is_replaced(checkout: Checkout, broken: str) -> None:
    checkout.start("run")
    python = checkout.venv / "bin" / "python"
    python.unlink()
    if broken == "dangling":
        python.symlink_to("/nowhere/python")
    else:
        python.write_text("#!/bin/sh\nexit 1\n")
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


def test_waiting_for_another_set_up_has_a_deadline(checkout: Checkout) -> None:
    install = load(checkout)
    held = install.take_lock()
    try:
        with pytest.raises(install.SetupError, match=f"process {os.getpid()} still sets up"):
            install.take_lock(0.0)
    finally:
        os.close(held)


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


def test_python_is_searched_newest_first_and_old_ones_are_skipped(checkout: Checkout) -> None:
    checkout.only_path()
    checkout.add_python("python3.12")
    (checkout.path / "python3.13").write_text("#!/bin/sh\nexit 1\n")
    checkout.add_python("python3")
    assert checkout.start("run").returncode == 0
    assert (checkout.path / "python3.12").read_text() == STUB
    calls = checkout.calls()
    assert "-m venv" in calls[0]
    log = (checkout.venv / "setup.log").read_text()
    assert f"$ {checkout.path}/python3.12 -I -m venv" in log


def test_no_python_is_one_line(checkout: Checkout) -> None:
    checkout.only_path()
    (checkout.path / "python3.13").unlink()
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
    assert f"{checkout.path}/python3.13 lacks venv or ensurepip" in done.stderr


def test_galamp_python_overrides_the_search(checkout: Checkout) -> None:
    mine = checkout.add_python("mine")
    assert checkout.start("run", GALAMP_PYTHON=str(mine)).returncode == 0
    assert f"$ {mine} -I -m venv" in (checkout.venv / "setup.log").read_text()


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
        ["types", "FAILED"],
        ["tests", "ok"],
        ["runs", "ok"],
        ["timing", "ok"],
        ["combine", "ok"],
        ["coverage", "ok"],
    ]
    assert failed.stdout.endswith("galamp: the gate failed: types\n")


def steps_of(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return the gate's steps, each with how it went."""
    return [line.split()[1:3] for line in done.stdout.splitlines() if line.endswith(" s")]


def test_the_fast_gate_leaves_out_what_takes_long(checkout: Checkout) -> None:
    done = checkout.start("--fast", command="test")
    assert done.returncode == 0
    assert done.stdout.endswith("galamp: the fast gate passed\n")
    assert steps_of(done) == [[s, "ok"] for s in ("format", "lint", "types", "tests")]
    last = checkout.calls_file.read_text().splitlines()[-1]
    assert last.endswith("-m not slow and not timing and not real")
    assert checkout.start("--fast", command="test", STUB_FAIL="ruff check").returncode == 1


def test_what_is_timed_is_tried_once_more(checkout: Checkout) -> None:
    once = checkout.start(command="test", STUB_FAIL="-m timing.")
    assert once.returncode == 0
    assert "galamp: timing: repeated\n" in once.stdout
    assert ["timing", "ok"] in steps_of(once)
    twice = checkout.start(command="test", STUB_FAIL="-m timing")
    assert twice.returncode == 1
    assert twice.stdout.endswith("galamp: the gate failed: timing\n")
    tries = [c for c in checkout.calls_file.read_text().splitlines() if "-m timing" in c]
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
    "words", [("--times", "0"), ("--hogs", "x"), ("--fast", "tests"), ("--times",)]
)
def test_a_mistake_is_told_before_the_gate_begins(
    checkout: Checkout, words: tuple[str, ...]
) -> None:
    done = checkout.start(*words, command="test")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"galamp: {words[0]} ")
    assert not checkout.venv.exists()


def test_every_requirement_has_a_tested_version_in_its_range() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = config["options"]["install_requires"] + config["options.extras_require"]["dev"]
    lines = (ROOT / "bin" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in map(Requirement, asked.split()):
        assert requirement.specifier.contains(Version(pins[requirement.name]))
