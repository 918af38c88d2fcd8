"""Where the environment lies, and who may change it: several Pythons, locks, runs in the way."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from galamp.cli import main as cli
from galamp.core import installation
from galamp.core.errors import UserError
from tests import conftest
from tests.support.checkout import BROKEN, KIND, PROBED, Checkout, load
from tests.support.engine import also

pytestmark = [pytest.mark.real, pytest.mark.counted]  # for they start processes


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def place(checkout: Checkout) -> ModuleType:
    return load(checkout, "place")


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Give signals back as they were: the set-up, a process of its own, takes them for ever."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def nothing() -> None:
    """Nobody has asked to stop."""


def environment(folder: Path, says: str = KIND, made_for: str = KIND, code: int = 0) -> Path:
    """Make what looks like an environment of galamp's; its Python says which kind it is."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho {says}\nexit {code}\n")
    python.chmod(0o755)
    for name in ("setup.lock", "setup.made"):
        (folder / name).touch()
    (folder / "setup.made-for").write_text(made_for)
    return python


# Machines with different Pythons


def elsewhere(folder: Path, why: str) -> None:
    python = environment(folder, says="3.9-x86_64" if why == "another version" else KIND)
    if why == "not here":
        python.unlink()
        python.symlink_to("/nowhere/python3.9")
    if why == "another processor":
        (folder / "setup.made-for").write_text("3.11-riscv64")
    if why == "not for this processor":
        python.write_bytes(b"\x7fELF of another processor")
    if why == "a library is missing":
        python.write_text("#!/bin/sh\necho libpython3.11.so.1.0: cannot open >&2\nexit 127\n")
    if why == "it says something else":
        python.write_text("#!/bin/sh\necho error while loading shared libraries\nexit 0\n")
    if why == "only pyvenv.cfg tells":
        (folder / "setup.made-for").unlink()
        (folder / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.9.1\n")


ELSEWHERE = (
    *("not here", "another version", "another processor", "not for this processor"),
    *("only pyvenv.cfg tells", "a library is missing", "it says something else"),
)


@pytest.mark.parametrize("why", ELSEWHERE)
def test_an_environment_of_another_python_is_left_alone(
    place: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    folder = tmp_path / "shared"
    elsewhere(folder, why)
    before = sorted(folder.rglob("*"))
    chosen = place.choose(folder).folder
    assert chosen == tmp_path / f"shared-{KIND}"
    assert sorted(folder.rglob("*")) == before
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{folder} was made with a Python" in told
    assert f"{chosen} is used instead" in told
    elsewhere(chosen, why)
    with pytest.raises(place.Refused, match="remove it if no machine needs it, or name another"):
        place.choose(folder)


def test_both_pythons_find_their_own_environment(checkout: Checkout) -> None:
    checkout.start("run")
    checkout.calls()
    python = checkout.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    before = sorted(checkout.venv.rglob("*"))
    first = checkout.start("run")
    assert first.stdout == "[run]\n"
    assert "is used instead" in first.stderr
    assert checkout.calls()[0].endswith(f"-m venv --prompt galamp {checkout.venv}-{KIND}")
    assert sorted(checkout.venv.rglob("*")) == before
    again = checkout.start("run")
    assert (again.stdout, again.stderr, checkout.calls()) == ("[run]\n", "", [])


def ready(checkout: Checkout, folder: Path, mark: Path) -> Path:
    """Make an environment that says of itself that it is ready, and leaves a mark when it runs."""
    python = environment(folder)
    python.write_text(f'#!/bin/sh\necho "$*" >> "{mark}"\nexit 0\n')
    return python


def test_only_names_that_a_set_up_gives_are_run(checkout: Checkout, tmp_path: Path) -> None:
    mark, machine = tmp_path / "ran", os.uname().machine
    for name in ("3.11", f"3.x-{machine}", "3.11-evil", f"3.11-{machine}-evil", f"3.-{machine}"):
        ready(checkout, Path(f"{checkout.venv}-{name}"), mark)
    assert checkout.start("run").stdout == "[run]\n"
    assert not mark.exists()
    ready(checkout, Path(f"{checkout.venv}-3.99-{machine}"), mark)
    (checkout.venv / "setup.done").unlink()
    checkout.start("run")
    assert "-m galamp run" in mark.read_text(), "the test sees what is run"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("whose", ["folder", "folder/bin", "folder/bin/python"])
def test_what_another_user_has_put_beside_is_not_run(
    checkout: Checkout, tmp_path: Path, whose: str
) -> None:
    mark = tmp_path / "ran"
    elsewhere(checkout.venv, "not here")
    beside = checkout.venv.with_name(f".venv-{KIND}")
    ready(checkout, beside, mark)
    given = beside / Path(whose).relative_to("folder")
    os.chown(given, 4321, -1, follow_symlinks=False)
    done = checkout.start("run")
    assert (done.returncode, done.stderr.count("\n"), mark.exists()) == (2, 2, False)
    assert f"{given} belongs to user 4321" in done.stderr
    os.chown(checkout.root, 4321, -1)
    assert checkout.start("run").returncode == 0
    assert mark.exists(), "the checkout's owner is trusted"


def test_who_owns_what_lies_beside_is_asked(
    place: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without root: the owner is another user."""
    elsewhere(tmp_path / "venv", "not here")
    environment(tmp_path / f"venv-{KIND}")
    owned = os.stat_result([0o755, 0, 0, 0, 7654321, 0, 0, 0, 0, 0])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", lambda _: owned)
        with pytest.raises(place.Refused, match="belongs to user 7654321"):
            place.choose(tmp_path / "venv")


def test_the_third_number_of_the_version_does_not_matter(checkout: Checkout) -> None:
    stamp = load(checkout, "stamp")
    assert stamp.kind() == KIND
    marks = {stamp.fingerprint("", "/x", kind) for kind in (KIND, "3.12-x86_64", "3.11-aarch64")}
    assert len(marks) == len({KIND, "3.12-x86_64", "3.11-aarch64"})


@pytest.mark.parametrize(
    "trouble",
    [
        subprocess.TimeoutExpired("python", 60),
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.EIO, "Input/output error"),
    ],
    ids=repr,
)
def test_a_busy_machine_is_no_verdict(
    place: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    environment(tmp_path / "venv")

    def fail(*_: Any, **__: Any) -> None:
        raise trouble

    monkeypatch.setattr(place.subprocess, "run", fail)
    with pytest.raises(place.SetupError, match=r"did not answer within 60 s|cannot be started now"):
        place.choose(tmp_path / "venv")


UNSURE = {
    "out of memory": f"echo {KIND}; kill -9 $$",
    "out of memory before it speaks": "kill -9 $$",
    "a processor's fault": f"echo {KIND}; kill -4 $$",
    "no memory for a library": f"echo {KIND}; echo 'ImportError: x.so: no memory' >&2; exit 1",
    "a disk's error": f"echo {KIND}; echo 'OSError: [Errno 5] Input/output error' >&2; exit 1",
    "a wrapper of what was killed": f"echo {KIND}; exit 137",
}


@pytest.mark.parametrize("why", UNSURE)
def test_what_may_be_the_machines_fault_is_no_verdict(
    place: ModuleType, tmp_path: Path, why: str
) -> None:
    folder = tmp_path / "venv"
    environment(folder).write_text(f"{PROBED}{UNSURE[why]}\n")
    with pytest.raises(place.Refused, match="start again; ") as told:
        place.choose(folder)
    assert f"{folder / 'bin' / 'python'} " in str(told.value)
    assert "has to be removed" in str(told.value) or f"remove {folder}" in str(told.value)
    assert "\n" not in str(told.value)


def test_what_may_be_the_machines_fault_deletes_nothing(checkout: Checkout, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    environment(folder).write_text(f"#!/bin/sh\n{UNSURE['out of memory']}\n")
    before = sorted(folder.rglob("*"))
    done = checkout.start("run", GALAMP_VENV=str(folder))
    assert (done.returncode, done.stderr.count("\n"), checkout.calls()) == (2, 1, [])
    assert "was ended by signal 9 (Killed)" in done.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_python_that_cannot_be_looked_at_is_not_missing(
    checkout: Checkout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
) -> None:
    install = load(checkout)
    python = environment(tmp_path / "venv")
    really = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path == python:
            raise OSError(code, os.strerror(code), str(path))
        return really(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    monkeypatch.setattr(os.path, "lexists", lambda path: path != python)  # for so it answers
    assert install.main("", sys.executable, str(tmp_path / "venv")) == 70
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert os.strerror(code) in told
    assert python.exists()


def test_an_interrupt_of_the_look_is_no_complaint(
    checkout: Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in a terminal comes to the Python that is tried out as well."""
    install = load(checkout)
    environment(tmp_path / "venv").write_text('#!/bin/sh\nkill -2 "$PPID"\nkill -2 $$\n')
    assert install.main("", sys.executable, str(tmp_path / "venv")) == 130
    assert capsys.readouterr().err == ("galamp: set-up interrupted; the next start picks it up\n")


def fill(folder: Path, what: str) -> Path:
    folder.mkdir()
    if "environment" in what:
        python = environment(folder, code="broken" in what)
        if "broken" in what:
            python.write_text(BROKEN)
        for name in ("setup.made", "setup.made-for", "setup.lock"):
            (folder / name).unlink()
        if "started from before" in what:  # then it has our lock
            (folder / "setup.lock").touch()
            (folder / "setup.made-for").write_text(KIND)
            (folder / "pyvenv.cfg").write_text("version = 3.11.7\nprompt = galamp\n")
        return python
    (folder / what).write_text("precious")
    return folder / what


NOT_MADE = (
    *("notes.txt", ".hidden", "a healthy environment", "a broken environment"),
    "a healthy environment, started from before",
    "a broken environment, started from before",
)


@pytest.mark.parametrize("what", NOT_MADE)
def test_what_galamp_has_not_made_is_refused(place: ModuleType, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "mine"
    kept = fill(folder, what)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(place.Refused, match=f"{folder} is not an environment of galamp's") as told:
        place.choose(folder)
    assert "name another folder in GALAMP_VENV" in str(told.value)
    assert "\n" not in str(told.value)
    assert kept.exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_environment_of_ones_own_is_never_changed(checkout: Checkout, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fill(folder, "a healthy environment")
    (folder / "bin" / "python").write_text(f"{PROBED}echo {KIND}\n")
    before = sorted(folder.rglob("*"))
    done = checkout.start("run", GALAMP_VENV=str(folder))
    assert (done.returncode, done.stderr.count("\n"), checkout.calls()) == (2, 1, [])
    assert sorted(folder.rglob("*")) == before


OWN = [
    ("runs/x/checkpoints", "no Python"),
    ("runs/x/checkpoints", "a broken Python"),
    ("runs/x/checkpoints", "its making was cut short"),
    ("setup.cfg", "no Python"),
    ("source/README.md", "its making was cut short"),
    *(also(own, "no Python") for own in ("notes.txt", ".hidden", "setup.py", "setup.made.txt")),
    *(also(own, "no Python") for own in ("source/mine.py", "bin.old", "library", "man/x")),
]


@pytest.mark.parametrize(("own", "how"), OWN)
def test_what_somebody_has_put_there_since_is_not_removed(
    checkout: Checkout, tmp_path: Path, own: str, how: str
) -> None:
    """The folder was empty when it was named."""
    folder = tmp_path / "mine"
    cut_short(checkout, folder, how)
    (folder / own).parent.mkdir(parents=True, exist_ok=True)
    (folder / own).write_text("precious")
    before = sorted(path for path in folder.rglob("*"))
    done = checkout.start("run", GALAMP_VENV=str(folder))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    first = folder / own.partition("/")[0]
    assert f"{folder} has to be made anew, and {first} is not of a set-up's making" in done.stderr
    assert "move that away, or name another folder in GALAMP_VENV" in done.stderr
    assert checkout.calls() == []
    assert set(before) <= set(folder.rglob("*"))
    assert (folder / own).read_text() == "precious"
    (folder / own).unlink()
    if "/" in own:
        first.rmdir() if own.count("/") == 1 else os.removedirs((folder / own).parent)
    assert checkout.start("run", GALAMP_VENV=str(folder)).stdout == "[run]\n"


def cut_short(checkout: Checkout, folder: Path, how: str) -> None:
    """Set up in an empty folder, and spoil it; the next start has to make it anew."""
    folder.mkdir()
    checkout.start("run", GALAMP_VENV=str(folder))
    if how == "a broken Python":
        (folder / "bin" / "python").write_text(BROKEN)
    else:
        (folder / "bin" / "python").unlink()
    if how == "its making was cut short":
        (folder / "setup.creating").touch()
    checkout.calls()


def test_all_that_a_set_up_makes_is_made_anew(checkout: Checkout, tmp_path: Path) -> None:
    """Among it what venv makes and the stub of it does not, and the links to a read-only source."""
    folder = tmp_path / "mine"
    cut_short(checkout, folder, "no Python")
    for name in ("include", "lib/python3.11/site-packages", "share/man", "source/galamp.egg-info"):
        (folder / name).mkdir(parents=True)
    (folder / "lib64").symlink_to("lib")
    (folder / "source" / "galamp").symlink_to(checkout.root / "galamp")
    for name in ("pyvenv.cfg", ".gitignore", "setup.done-dev"):
        (folder / name).touch()
    assert checkout.start("run", GALAMP_VENV=str(folder)).stdout == "[run]\n"
    assert checkout.calls()[0].endswith(f"-m venv --prompt galamp {folder}")
    left = {path.name for path in folder.iterdir()}
    assert (
        left & {"include", "lib", "lib64", "share", "source", "pyvenv.cfg", ".gitignore"} == set()
    )


def test_what_python_s_own_venv_makes_is_known(checkout: Checkout, tmp_path: Path) -> None:
    install = load(checkout)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "new"], check=True)
    entries = list((tmp_path / "new").iterdir())
    assert len(entries) >= 4
    assert [entry.name for entry in entries if not install.is_made(entry)] == []
    where = install.Place(tmp_path / "new")
    assert all(install.is_made(path) for path in where.kept if path != where.users)


def test_what_comes_while_it_is_made_anew_stays(checkout: Checkout, tmp_path: Path) -> None:
    install = load(checkout)
    where = install.Place(environment(tmp_path / "venv").parent.parent)
    (where.folder / "notes.txt").write_text("precious")
    install.create(where, str(checkout.path / "python3.11"), ())
    assert (where.folder / "notes.txt").read_text() == "precious"


def test_what_was_made_before_there_was_a_mark_is_known(checkout: Checkout) -> None:
    checkout.start("run")
    (checkout.venv / "setup.made").unlink()
    (checkout.venv / "setup.done").unlink()
    assert checkout.start("run").returncode == 2
    (checkout.venv / "pyvenv.cfg").write_text("version = 3.11.7\nprompt = 'galamp'\n")
    checkout.calls()
    assert checkout.start("run").returncode == 0
    assert [("-m pip" in call) for call in checkout.calls()] == [True] * 3
    assert (checkout.venv / "setup.made").exists()


def test_a_folder_that_is_filled_while_others_are_waited_for_is_left_alone(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = load(checkout)
    really = install.take_turn

    def take_turn(place: Any, *more: Any) -> int:
        lock = int(really(place, *more))
        (place.folder / "notes.txt").write_text("precious")
        return lock

    monkeypatch.setattr(install, "take_turn", take_turn)
    with pytest.raises(install.Refused, match="not an environment of galamp's"):
        install.install("", sys.executable, str(tmp_path / "venv"))
    assert (tmp_path / "venv" / "notes.txt").exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOTDIR, errno.EPERM])
def test_a_folder_that_cannot_be_looked_at_is_refused(
    place: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(place.Refused, match=f"{tmp_path} cannot be used .*GALAMP_VENV"):
        place.choose(tmp_path)


@pytest.mark.parametrize("given", ["{}/else where", "{}/a/b/", "relative"])
def test_the_environment_can_lie_elsewhere(checkout: Checkout, tmp_path: Path, given: str) -> None:
    text = given.format(tmp_path)
    done = checkout.start("run", cwd=tmp_path, GALAMP_VENV=text)
    assert (done.returncode, done.stdout) == (0, "[run]\n")
    assert (tmp_path / text / "setup.done").exists()
    assert not checkout.venv.exists()
    checkout.calls()
    assert checkout.start("run", cwd=tmp_path, GALAMP_VENV=text).stderr == ""
    assert checkout.calls() == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_checkout_of_another_user_is_one_line(
    checkout: Checkout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    call: str,
) -> None:
    install = load(checkout)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((Path, "mkdir") if call == "mkdir" else (os, "open")), fail)
    assert install.main("", sys.executable, str(tmp_path / "venv")) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"cannot write to {tmp_path / 'venv'} ({os.strerror(code)})" in told
    assert "GALAMP_VENV=" in told


def test_a_checkout_that_is_read_only_is_installed_by_links(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = load(checkout)
    where = install.Place(tmp_path)
    assert install.source(where) == checkout.root
    monkeypatch.setattr(os, "access", lambda *_: False)
    for _ in range(2):  # an update finds the links of the set-up before
        folder = install.source(where)
        assert (folder / "setup.cfg").resolve() == checkout.root / "setup.cfg"
        assert (folder / "galamp").readlink() == checkout.root / "galamp"
    (folder / "README.md").unlink()
    (folder / "README.md").write_text("precious")
    with pytest.raises(install.Refused, match=r"README\.md is in the way of a set-up"):
        install.source(where)
    assert (folder / "README.md").read_text() == "precious"


# Locks


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_set_up_goes_on_where_files_cannot_be_locked(
    place: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
) -> None:
    where = place.Place(tmp_path / "venv")
    no_locks(monkeypatch, code)
    os.close(place.take_turn(where, nothing, 0.0))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"files cannot be locked ({os.strerror(code)})" in told
    os.close(place.take_alone(where))
    no_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        place.take_turn(where, nothing, 0.0)


def no_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)


def test_waiting_for_another_set_up_has_a_deadline(place: ModuleType, tmp_path: Path) -> None:
    where = place.Place(tmp_path / "venv")
    held = place.take_turn(where, nothing)
    try:
        with pytest.raises(place.SetupError, match=f"process {os.getpid()} still sets up") as told:
            place.take_turn(where, nothing, 0.0)
    finally:
        os.close(held)
    assert "end it if it hangs, then start again" in str(told.value)


def change(checkout: Checkout, how: str) -> dict[str, Any]:
    """Make a set-up necessary; returns how to start."""
    if how == "the gate":
        return {"command": "test"}
    if how == "an update":
        with (checkout.root / "bin" / "constraints.txt").open("a") as file:
            file.write("# changed\n")
    if how == "a broken Python":
        (checkout.venv / "bin" / "python").write_text(BROKEN)
    return {}


@pytest.mark.parametrize("how", ["an update", "a broken Python", "the gate"])
def test_nothing_is_changed_under_a_run(checkout: Checkout, tmp_path: Path, how: str) -> None:
    checkout.start("run")
    checkout.calls()
    how_to_start = change(checkout, how)
    before = sorted(path for path in checkout.venv.rglob("*") if path.name != "in-use.lock")
    with installation.held(["run", "--game", "Pong"], checkout.venv):
        for name in ("one-that-tries-out-a-number-of-learners", "x"):
            installation.name_run(tmp_path / "runs" / name)
        refused = checkout.start("tests", **how_to_start)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    who = f"galamp run, process {os.getpid()} on {socket.gethostname()} since "
    assert f"{checkout.venv} has to be changed, and is in use by {who}" in refused.stderr
    assert f", run folder {tmp_path / 'runs' / 'x'}: end that, or wait" in refused.stderr
    assert checkout.calls() == []
    assert set(before) <= set(checkout.venv.rglob("*"))
    assert checkout.start("tests", **how_to_start).returncode == 0
    assert checkout.calls()


def test_who_is_in_the_way_is_told_runs_first(place: ModuleType, tmp_path: Path) -> None:
    where = place.Place(tmp_path)
    where.lock.touch()
    where.users.mkdir()
    (where.users / "host-1").write_text("galamp run, of a process that was killed\n")
    assert place.users(where) == []
    with installation.held(["eval"], tmp_path):
        assert not (where.users / "host-1").exists()
        with (where.users / "host-2").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("galamp run, process 2 on b, run folder /r\n")
            file.flush()
            with pytest.raises(
                place.Refused, match=r"process 2 on b, run folder /r \(and 1 more\)"
            ):
                place.take_alone(where)
        (where.users / f"{socket.gethostname()}-{os.getpid()}").unlink()
        with pytest.raises(place.Refused, match="could not write down its name"):
            place.take_alone(where)
    os.close(place.take_alone(where))


def test_what_a_run_starts_does_not_hold_the_environment(place: ModuleType, tmp_path: Path) -> None:
    where = place.Place(tmp_path)
    where.lock.touch()
    with installation.held(["run"], tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        os.close(place.take_alone(where))
    finally:
        child.kill()
        child.wait()


def test_nobody_starts_while_it_is_changed(place: ModuleType, tmp_path: Path) -> None:
    where = place.Place(tmp_path)
    where.lock.touch()
    lock = place.take_alone(where)
    with pytest.raises(UserError, match=f"a set-up is changing {tmp_path} now: start again"):
        installation.held(["run"], tmp_path).__enter__()
    os.close(lock)
    with installation.held(["run"], tmp_path), installation.held(["eval"], tmp_path):
        pass


def test_other_environments_are_not_touched(tmp_path: Path) -> None:
    with installation.held(["run"], tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_run_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    (tmp_path / "setup.lock").touch()
    no_locks(monkeypatch, code)
    with installation.held(["run"], tmp_path):
        installation.name_run(tmp_path)


def test_an_environment_that_may_only_be_read_is_held_as_well(
    place: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place.Place(tmp_path)
    where.lock.touch()
    where.in_use.touch()
    really = os.open

    def read_only(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, "Read-only file system")
        return really(path, flags, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", read_only)
        with installation.held(["run"], tmp_path):
            patched.undo()
            with pytest.raises(place.Refused):
                place.take_alone(where)


@pytest.mark.parametrize("words", [["run"], ["eval", "x"], ["attach", "x"]])
def test_every_command_holds_its_environment(
    place: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    where = place.Place(tmp_path)
    where.lock.touch()
    seen = []

    def note_users(_: argparse.Namespace) -> int:
        seen.extend(place.users(where))
        return 0

    parser = cli.Parser()
    parser.add_argument("words", nargs="*")
    parser.set_defaults(command=note_users)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(cli, "build_parser", lambda *_: parser)
    monkeypatch.setattr(cli, "settle_libraries", lambda: None)
    assert cli.main(words) == 0
    assert [line.split(",")[0] for line in seen] == [f"galamp {words[0]}"]
    assert place.users(where) == list(where.users.iterdir()) == []


def full_after(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Have a system call refuse from now on, as a disk that is full or gone does."""

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    def close(descriptor: int) -> None:
        really_close(descriptor)
        fail()

    really_close = os.close
    monkeypatch.setattr(os, call, close if call == "close" else fail)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("close", errno.EDQUOT),
        ("close", errno.EIO),
        ("write", errno.ENOSPC),
        ("write", errno.EDQUOT),
        ("open", errno.ENOSPC),
    ],
)
def test_a_full_disk_keeps_nobody_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    (tmp_path / "setup.lock").touch()
    with monkeypatch.context() as patched:
        full_after(patched, call, code)
        with installation.held(["run"], tmp_path):
            installation.name_run(tmp_path)
    assert not [note for note in installation._notes if note.is_relative_to(tmp_path)]
    left = tmp_path / "in-use"
    assert not left.exists() or list(left.iterdir()) == []


def test_a_note_is_refused_by_a_device_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one: what is written to it fails, and once more as a file object is closed."""
    (tmp_path / "setup.lock").touch()
    monkeypatch.setattr(installation.socket, "gethostname", lambda: "host")
    (tmp_path / "in-use").mkdir()
    (tmp_path / "in-use" / f".host-{os.getpid()}").symlink_to("/dev/full")
    with installation.held(["run"], tmp_path):
        pass
    assert list((tmp_path / "in-use").iterdir()) == []


@pytest.mark.parametrize("word", ["\udcff", "a\nb", "x" * 5000])
def test_no_word_keeps_a_process_from_saying_who_it_is(
    place: ModuleType, tmp_path: Path, word: str
) -> None:
    where = place.Place(tmp_path)
    where.lock.touch()
    with installation.held([word], tmp_path):
        installation.name_run(tmp_path / word[:100])
        (line,) = place.users(where)
        (note,) = where.users.iterdir()
    assert line.startswith("galamp ")
    assert ", run folder /" in line
    assert note.name == f"{socket.gethostname()}-{os.getpid()}"


def test_what_starts_that_were_killed_have_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "setup.lock").touch()
    users = tmp_path / "in-use"
    users.mkdir()
    for name in (".old-1", ".new-2", ".locked-3", "host-4"):
        (users / name).touch()
    for name in (".old-1", ".locked-3"):
        os.utime(users / name, (1.0, 1.0))
    with (users / ".locked-3").open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with installation.held(["run"], tmp_path):
            pass
    assert {note.name for note in users.iterdir()} == {".new-2", ".locked-3"}


@pytest.mark.parametrize("state", ["ready", "a set-up changes it", "a worker"])
def test_the_tests_hold_their_environment(
    place: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    where = place.Place(tmp_path)
    where.lock.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    ends: list[Any] = []
    config: Any = argparse.Namespace(add_cleanup=ends.append)
    if state == "a worker":
        config.workerinput = {}
    lock = place.take_alone(where) if state == "a set-up changes it" else None
    if lock is not None:
        with pytest.raises(pytest.UsageError, match="a set-up is changing"):
            conftest.pytest_configure(config)
        os.close(lock)
        return
    conftest.pytest_configure(config)
    assert [line.split(",")[0] for line in place.users(where)] == ["galamp tests"] * len(ends)
    assert len(ends) == (state == "ready")
    for end in ends:
        end()
    os.close(place.take_alone(where))
