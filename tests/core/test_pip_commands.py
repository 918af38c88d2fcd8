"""Messages about packages that are missing: each ends with a command that works when pasted."""

from __future__ import annotations

import ast
import configparser
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from galamp.core import pip_commands
from galamp.core.errors import GalampError
from galamp.core.machine.gpu_meters import Nvml
from galamp.core.pip_commands import install_extra
from galamp.environments.preprocessing import opencv
from galamp.gossip import cluster
from galamp.telemetry.sinks import load_sinks
from galamp.tools.bench import minatar
from galamp.tools.doctor import checks
from galamp.tools.export.formats import format_of
from galamp.tools.export_logs import tensorboard, wandb
from galamp.tools.figures import rendered
from galamp.tools.keys.certificates import make_keys
from galamp.tools.play import window
from galamp.tools.play.game import Moment
from galamp.tools.profile.recording import py_spy
from galamp.tools.study import stable_baselines3
from galamp.tools.sweep.search import require_optuna

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/a folder/bin/python"
MISSING = (
    "cryptography", "cv2", "matplotlib", "minatar", "onnx", "optuna", "pynvml", "stable_baselines3",
    "tensorboard", "wandb", "zenoh",
)  # fmt: skip
ANEW = ("--force-reinstall", "--no-deps")


def extras() -> set[str]:
    """The extras that setup.cfg has."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return {*parser["options.extras_require"]}


def refused(call: Callable[[], object]) -> str:
    """What a call raises, as text."""
    with pytest.raises((GalampError, ImportError)) as caught:
        call()
    return str(caught.value)


def fix(check: Callable[[], object]) -> str:
    """What `galamp doctor` says to do for its one finding."""
    (found,) = check()  # type: ignore[misc]
    return str(found.fix)


def broken_window() -> None:
    def refuse(*_: object) -> None:
        raise window.cv2.error("no windows")

    frame = np.zeros((9, 9, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window.cv2, "namedWindow", refuse)
        window.Window("a game", ("NOOP",)).show(frame, Moment([frame], None, 0.0, 1, 1), "")


TOLD: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "--sinks tensorboard": (
        lambda: refused(lambda: load_sinks("tensorboard")),
        ("galamp[tensorboard]",),
    ),
    "--sinks wandb": (lambda: refused(lambda: load_sinks("wandb")), ("galamp[wandb]",)),
    "export-logs --tensorboard": (
        lambda: refused(lambda: tensorboard.export(Path(), Path())),
        ("galamp[tensorboard]",),
    ),
    "export-logs --wandb": (
        lambda: refused(lambda: wandb.export(Path(), Path(), "")),
        ("galamp[wandb]",),
    ),
    "export": (lambda: refused(lambda: format_of("onnx")), ("galamp[onnx]",)),
    "keys": (lambda: refused(lambda: make_keys(Path(), 1, 1)), ("galamp[cluster]",)),
    "--nodes": (lambda: refused(lambda: cluster.port_class(cluster.ZENOH)), ("galamp[cluster]",)),
    "profile": (lambda: refused(py_spy), ("galamp[profile]",)),
    "search": (lambda: refused(require_optuna), ("galamp[search]",)),
    "GPU meters": (lambda: refused(lambda: Nvml([])), ("galamp[gpu]",)),
    "doctor: py-spy": (lambda: fix(checks.tracing), ("galamp[profile]",)),
    "doctor: games": (
        lambda: fix(checks.games),
        (*ANEW, f"ale-py=={metadata.version('ale-py')}"),
    ),
    "figures": (lambda: refused(lambda: rendered(lambda: None)), ("matplotlib",)),  # type: ignore[arg-type,return-value]
    "preprocessing": (lambda: refused(opencv), ("opencv-python",)),
    "--window": (lambda: refused(broken_window), (*ANEW, "opencv-python")),
    "bench": (lambda: refused(minatar.breakout), ("--no-deps", "minatar")),
    "study": (lambda: refused(lambda: stable_baselines3.train(1, 1)), ("stable-baselines3",)),
}


@pytest.fixture
def _nothing_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package is there that galamp can do without, nor any that a wrong installation lacks."""
    for name in list(sys.modules):
        own = name.startswith("galamp.") and name.rpartition(".")[2] in ("tensorboard", "wandb")
        if name.partition(".")[0] in MISSING or (own and "sinks" in name):
            monkeypatch.delitem(sys.modules, name)
    for name in MISSING:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(checks, "list_games", list)
    monkeypatch.setattr(sys, "executable", PYTHON)
    monkeypatch.setattr(pip_commands, "_extras", lambda: sorted(extras()))


@pytest.mark.usefixtures("_nothing_optional")
@pytest.mark.parametrize("who", TOLD)
def test_a_message_ends_with_a_command_for_the_python_that_runs_galamp(who: str) -> None:
    told, words = TOLD[who]
    text = told()
    command = shlex.split(text[text.index(shlex.quote(PYTHON)) :])
    assert command == [PYTHON, "-m", "pip", "install", *words]
    assert {word[7:-1] for word in words if word.startswith("galamp[")} <= extras()


def test_an_opencv_that_cannot_be_loaded_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """To install what is already there would change nothing."""

    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "cv2":
                raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert refused(opencv).endswith(f" {' '.join(ANEW)} opencv-python-headless")


def test_no_message_has_a_command_of_its_own() -> None:
    """Docstrings may: they are read in a checkout."""
    found = []
    for package in (ROOT / "galamp").rglob("*.py"):
        tree = ast.parse(package.read_text())
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [
            f"{package.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and id(node) not in alone
            and "pip install" in str(node.value)
        ]
    assert found == []


@pytest.mark.parametrize("known", [[], ["older"]])
def test_where_pip_does_not_know_the_extra_the_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, known: list[str]
) -> None:
    """Else it would look for a package of that name elsewhere, or install nothing."""
    monkeypatch.setattr(pip_commands, "_extras", lambda: known)
    assert shlex.split(install_extra("gpu"))[-2:] == ["-e", f"{ROOT}[gpu]"]


def test_an_installed_galamp_is_asked_for_its_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", absent)
    assert install_extra("gpu").endswith(f"{ROOT}[gpu]'")


def test_the_command_is_understood_by_the_shell_and_by_pip() -> None:
    """Of an extra whose packages are all there, so that nothing is looked for."""
    command = pip_commands.pip_install("galamp[profile]")
    ended = subprocess.run(
        ["sh", "-c", f"{command} --dry-run --no-index --no-deps"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "already satisfied: galamp[profile]" in ended.stdout
