"""Nothing that lies in the working directory runs, unless it was named on the command line.

The commands are started as users start them, from an environment in which galamp is installed as
bin/setup does it: by a finder that comes after Python's own.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import galamp
from galamp.core import isolation
from galamp.core.errors import UserError
from galamp.environments.making import find
from tests.support.engine import also

ROOT = Path(__file__).resolve().parents[2]

processes = pytest.mark.real

FINDER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "galamp":
            return spec_from_file_location(name, {init!r})
        if name.startswith("galamp.") and name.count(".") == 1:
            return PathFinder.find_spec(name, [{package!r}])

sys.meta_path.append(Finder)
"""

POISONED = (
    *(
        "json",
        "numpy",
        "torch",
        "types",
        "random",
        "queue",
        "gymnasium",
        "ale_py",
        "rich",
        "signal",
    ),
    *("socket", "argparse", "dataclasses", "typing", "contextlib", "tempfile", "subprocess"),
    *("multiprocessing", "setproctitle", "sitecustomize", "usercustomize", "cv2", "safetensors"),
    *("__future__", "faulthandler", "importlib", "threading", "_posixsubprocess", "galamp_plugin"),
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which this checkout is installed."""
    venv = tmp_path_factory.mktemp("installed") / ".venv"
    base = Path(sys.executable).resolve()
    site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(base)
    (venv / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    package = ROOT / "galamp"
    finder = FINDER.format(init=str(package / "__init__.py"), package=str(package))
    (site / "finder_of_galamp.py").write_text(finder)
    (site / "galamp.pth").write_text("import finder_of_galamp\n")
    (venv / "setup.lock").touch()  # as if bin/setup had made it
    return venv / "bin" / "python"


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A folder full of modules that others need, each of which leaves a mark when it runs."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for name in POISONED:
        line = f"open({str(tmp_path / 'ran')!r}, 'a').write({name + chr(10)!r})\n"
        (folder / f"{name}.py").write_text(line)
    plugin = folder / "plugin-1.0.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text(
        "[gymnasium.envs]\n__root__ = galamp_plugin\n[torch.backends]\nx = galamp_plugin:x\n"
    )
    return folder


def start(
    python: Path, folder: Path, *words: object, safe: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Start galamp in a folder as bin/galamp does, or, not `safe`, as `python -m galamp`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, *(["-P"] if safe else []), "-m", *map(str, words)],
        cwd=folder,
        env=kept | env,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )


def ran(tmp_path: Path) -> list[str]:
    """Return which of the poisoned modules have run."""
    mark = tmp_path / "ran"
    return mark.read_text().split() if mark.exists() else []


@processes
@pytest.mark.parametrize(
    ("words", "code", "safe"),
    [
        (["--version"], 0, True),
        (["--version"], 0, False),
        (["eval", "."], 2, True),
        (["audit", "."], 2, True),
        also(["eval", "."], 2, False),
        also(["audit", "."], 2, False),
        also(["attach", "."], 2, True),
        also(["scale", ".", "--learners", "1"], 2, True),
        also(["chaos", "--resume", "."], 2, True),
        also(["run", "--resume", "."], 2, False),
        also(["run", "--help"], 0, True),
        also(["games"], 0, True),
        also(["topology", "ring", "--learners", "4"], 0, True),
    ],
)
def test_no_command_runs_what_lies_in_the_folder(
    python: Path, poisoned: Path, words: list[str], code: int, safe: bool
) -> None:
    done = start(python, poisoned, "galamp", *words, safe=safe)
    assert (done.returncode, ran(poisoned.parent)) == (code, []), done.stderr
    assert "Traceback" not in done.stderr


@processes
@pytest.mark.parametrize(
    ("module", "word", "safe"),
    [
        ("galamp", "--version", True),
        ("galamp", "--version", False),
        also("galamp.tools.bench", "--help", True),
        also("galamp.tools.bench", "--help", False),
    ],
)
@pytest.mark.parametrize("inside", ["", "galamp"])
def test_a_clone_in_the_folder_is_in_nobodys_way(
    python: Path, tmp_path: Path, module: str, word: str, safe: bool, inside: str
) -> None:
    """A folder `galamp` is a package to Python, and comes before one that is installed."""
    clone = tmp_path / "galamp"
    (clone / "bin").mkdir(parents=True)
    if inside:
        (clone / "galamp").symlink_to(ROOT / "galamp")
    done = start(python, tmp_path, module, word, safe=safe)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("galamp 0", "usage: bin/bench"))
    assert done.stderr == ""


def folders_named_galamp(tmp_path: Path) -> dict[str, str]:
    """Return values of PYTHONPATH that lead to a folder `galamp` without `__init__.py`."""
    clone, notes = tmp_path / "src" / "galamp", tmp_path / "notes" / "galamp"
    for folder in (clone, notes):
        (folder / "tests").mkdir(parents=True)
    (clone / "galamp").symlink_to(ROOT / "galamp")
    (notes / "config.py").write_text("raise SystemExit")
    return {
        "clone": f"{clone.parent}",
        "notes": f"{notes.parent}",
        "notes first": f"{notes.parent}:{clone.parent}",
        "trailing colon": f"{clone.parent}:",
        "behind another": f"/nowhere:{clone.parent}:{tmp_path}",
    }


WHO = """
from galamp.core import isolation
isolation.be_package()
import galamp, galamp.core.config
print(galamp.__version__, galamp.__file__ == galamp.__spec__.origin, *galamp.__path__)
"""


@processes
@pytest.mark.parametrize(
    "where", ["clone", "notes", "notes first", "trailing colon", "behind another"]
)
def test_no_folder_on_the_path_stands_for_the_package(
    python: Path, tmp_path: Path, where: str
) -> None:
    env = os.environ | {"PYTHONPATH": folders_named_galamp(tmp_path)[where]}
    words = [python, "-P", "-c", WHO]
    done = subprocess.run(words, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{galamp.__version__} True {ROOT / 'galamp'}\n", "")


@processes
@pytest.mark.parametrize(
    ("where", "safe"),
    [("clone", True), ("notes", False), also("trailing colon", True), also("clone", False)],
)
def test_galamp_starts_with_such_a_path(
    python: Path, tmp_path: Path, where: str, safe: bool
) -> None:
    paths = folders_named_galamp(tmp_path)
    done = start(python, tmp_path, "galamp", "--version", safe=safe, PYTHONPATH=paths[where])
    assert (done.stdout, done.stderr) == (f"galamp {galamp.__version__}\n", "")


FACTORY = """
import json, os, queue, sys
from pathlib import Path
import galamp
import gymnasium
import beside  # lies here

def make():
    facts = {
        "from": {m.__file__ for m in (json, queue, gymnasium, sys.modules["numpy"])},
        "beside": beside.VALUE,
        "galamp": (galamp.__version__, *galamp.__path__),
        "last": sys.path[-1] == os.getcwd() and sys.path.count(os.getcwd()) == 1,
        "safe": os.environ.get("PYTHONSAFEPATH"),
        "users": [note.read_text() for note in Path(sys.prefix, "in-use").iterdir()],
    }
    with open(os.environ["TEST_FACTS"], "a") as file:
        file.write(json.dumps(facts, default=sorted) + "\\n")
    return gymnasium.make("CartPole-v1")
"""


@processes
@pytest.mark.parametrize("safe", [True, also(False)])
def test_a_run_of_ones_own_runs_nothing_else(python: Path, poisoned: Path, safe: bool) -> None:
    """The supervisor, the probe, the server and the simulators of a whole run."""
    (poisoned / "mine.py").write_text(FACTORY)
    (poisoned / "beside.py").write_text("VALUE = 7\n")
    told = poisoned.parent / "facts"
    flags = ["--learners", 1, "--num-envs", 2, "--total-steps", 100, "--quiet"]
    named = folders_named_galamp(poisoned.parent)["notes first"]
    done = start(python, poisoned, "galamp", "run", "--env-id", "mine:make", *flags, safe=safe,
                 TEST_FACTS=str(told), PYTHONPATH=named)  # fmt: skip
    assert (done.returncode, ran(poisoned.parent)) == (0, []), done.stderr
    probe, *simulators = map(json.loads, told.read_text().splitlines())
    assert len(simulators) == 2
    for each in (probe, *simulators):
        assert not [path for path in each["from"] if path.startswith(str(poisoned))]
        assert (each["beside"], each["last"], each["safe"]) == (7, True, None)
        assert each["galamp"] == [galamp.__version__, str(ROOT / "galamp")]
        (user,) = each["users"]
        assert user.startswith("galamp run, process ")
    assert "run folder" not in probe["users"][0]
    (run,) = [path for path in (poisoned / "runs").iterdir() if not path.is_symlink()]
    assert all(each["users"][0].endswith(f", run folder {run}\n") for each in simulators)
    assert list((python.parents[1] / "in-use").iterdir()) == []
    for file in poisoned.glob("*.py"):
        shutil.copy(file, run)
    told.unlink()
    for words in (["eval", "."], ["run", "--resume", "."]):
        refused = start(python, run, "galamp", *words, safe=safe, TEST_FACTS=str(told))
        assert (refused.returncode, ran(poisoned.parent), told.exists()) == (2, [], False)
        assert (
            "wants to run your code mine:make: if that is what you want, add --env-id mine:make"
            in (refused.stderr)
        )
    if not safe:
        more = ["--env-id", "mine:make", "--episodes", 1, "--quiet", "--json"]
        played = start(python, run, "galamp", "eval", ".", *more, safe=safe, TEST_FACTS=str(told))
        assert (played.returncode, ran(poisoned.parent), told.exists()) == (0, [], True)


# In this process


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory; what becomes of the path is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(ROOT))])
    return tmp_path


@pytest.mark.parametrize("name", ["json", "queue", "rich", "numpy", "packaging"])
def test_ones_own_modules_come_after_all_others(here: Path, name: str) -> None:
    (here / f"{name}.py").write_text("raise SystemExit")
    (here / f"own_of_{name}.py").write_text("def make(): ...")
    assert find(f"own_of_{name}:make").__module__ == f"own_of_{name}"
    found = PathFinder.find_spec(name)
    assert found is not None
    assert not str(found.origin).startswith(str(here))


@pytest.mark.parametrize(
    ("where", "env_id"),
    [
        ("games_elsewhere.py", "games_elsewhere:make"),
        ("games_elsewhere/__init__.py", "games_elsewhere:make"),
        ("games_elsewhere/inner.py", "games_elsewhere.inner:make"),
    ],
)
def test_what_is_found_elsewhere_adds_no_working_directory(
    here: Path, tmp_path_factory: pytest.TempPathFactory, where: str, env_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    site = tmp_path_factory.mktemp("site")
    sys.path.insert(0, str(site))
    (site / where).parent.mkdir(exist_ok=True)
    if where.endswith("inner.py"):
        (site / "games_elsewhere" / "__init__.py").write_text("")
    (site / where).write_text(
        "try:\n    import orjson_of_ones_own\nexcept ImportError:\n    orjson_of_ones_own = None\n"
        "def make(): return orjson_of_ones_own\n"
    )
    (here / "orjson_of_ones_own.py").write_text("raise SystemExit")
    try:
        assert find(env_id)() is None
    finally:
        for name in [name for name in sys.modules if name.startswith("games_elsewhere")]:
            del sys.modules[name]
    assert str(here) not in sys.path


def test_an_empty_folder_elsewhere_does_not_hide_a_package(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path_factory.mktemp("site")
    sys.path.insert(0, str(site))
    (site / "games_of_mine").mkdir()
    (here / "games_of_mine.py").write_text("def make(): ...\n")
    assert find("games_of_mine:make").__module__ == "games_of_mine"
    del sys.modules["games_of_mine"]


@pytest.mark.parametrize(
    ("file", "env_id"),
    [
        ("queue.py", "queue:make"),
        ("rich/games.py", "rich.games:make"),
        ("json.py", "json:Game-v0"),
        ("numpy/__init__.py", "numpy:make.it"),
        ("time.py", "time:make"),
    ],
)
def test_a_namesake_of_another_module_is_told_as_such(here: Path, file: str, env_id: str) -> None:
    (here / file).parent.mkdir(exist_ok=True)
    (here / file).write_text("def make(): ...")
    mine, module = file.partition("/")[0], env_id.partition(":")[0].partition(".")[0]
    with pytest.raises(
        UserError, match=f"{module} is (/|built in).* comes before {mine} in this folder"
    ):
        find(env_id)


def test_the_probe_gets_the_path_without_the_working_directory(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for first in ("", ".", str(here)):
        monkeypatch.setattr(sys, "path", [first, "/a", "/b"])
        assert isolation.path_for_children() == ["/a", "/b"]
    monkeypatch.setenv("PYTHONPATH", f"/a:{here}")
    assert isolation.path_for_children() == [str(here), "/a", "/b"]
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", ["", str(ROOT), "/a"])
    assert isolation.path_for_children() == ["/a", str(ROOT)]


@pytest.mark.parametrize("flags", [[], ["-P"]])
def test_a_folder_that_was_removed_is_no_obstacle(tmp_path: Path, flags: list[str]) -> None:
    """`_here` is asked for in every process, at its very start."""
    gone = tmp_path / "gone"
    gone.mkdir()
    program = (
        f"import os, sys; sys.path.append({str(ROOT)!r}); os.rmdir(os.getcwd());"
        "from galamp.core import isolation as i; i.leave_working_directory();"
        "g = i.guarded(); g.__enter__();"
        "print(i.path_for_children() == [p for p in sys.path if p], os.environ[i.SAFE_PATH])"
    )
    words = [sys.executable, *flags, "-c", program]
    done = subprocess.run(words, cwd=gone, text=True, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True galamp\n", "")


def test_children_are_guarded_unless_this_is_a_checkout(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(isolation.SAFE_PATH, raising=False)
    monkeypatch.chdir(ROOT)
    with isolation.guarded():
        assert isolation.SAFE_PATH not in os.environ
    monkeypatch.chdir(here)
    with isolation.guarded():
        assert os.environ[isolation.SAFE_PATH]
    assert isolation.SAFE_PATH not in os.environ, "programs around galamp go on as before"
    monkeypatch.setenv(isolation.SAFE_PATH, "1")
    with isolation.guarded():
        isolation.unguard()
    assert os.environ[isolation.SAFE_PATH] == "1", "it was its user's"
    monkeypatch.setenv(isolation.SAFE_PATH, "")
    with isolation.guarded():
        assert os.environ[isolation.SAFE_PATH] == isolation.OURS, "Python takes empty as unset"
    assert os.environ[isolation.SAFE_PATH] == "", "it was its user's"


GUARDED = """
from galamp.workers import forkserver
import subprocess
from multiprocessing import util
probe = "import sys; print(sys.path[0] == '')"
def started():
    words = [sys.executable, *util._args_from_interpreter_flags(), "-c", probe]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()
before = started()
with forkserver._guarded():
    print(started())
print(started() == before)
"""


@processes
@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ([], None),
        ([], ""),
        (["-E"], None),
        also(["-E"], "1"),
        also(["-E", "-P"], None),
        also(["-I"], None),
        also(["-P"], ""),
        also([], "1"),
    ],
)
def test_the_server_does_not_search_here_however_python_was_started(
    tmp_path: Path, flags: list[str], value: str | None
) -> None:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    path = f"import sys; sys.path[:] = [*filter(None, sys.path), {str(ROOT)!r}]\n"
    done = subprocess.run(
        [sys.executable, *flags, "-c", path + GUARDED],
        cwd=tmp_path,
        env=kept | ({} if value is None else {isolation.SAFE_PATH: value}),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("sys.path alone", False),
        ("a mere folder", False),
        ("PYTHONPATH", True),
        ("the working directory", True),
    ],
)
def test_a_package_that_only_this_process_finds_starts_nothing(
    tmp_path: Path, how: str, found: bool
) -> None:
    """Its server would load for ever: Python forgets the path of who starts it."""
    paths = {"PYTHONPATH": str(ROOT), "a mere folder": str(tmp_path / "mere")}
    bare = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; "
    program = (
        f"{bare}sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from galamp.core import isolation\n"
        "print(isolation.is_findable())\n"
    )
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    (tmp_path / "mere" / "galamp").mkdir(parents=True)
    done = subprocess.run(
        [python, "-c", program],
        cwd=ROOT if how == "the working directory" else tmp_path,
        env=os.environ | {"PYTHONPATH": paths.get(how, "")},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (f"{found}\n", "")


@pytest.fixture
def searches(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, object]]]:
    """Have the search answered: how the process that searches ends; returns how it was started."""
    started: list[dict[str, object]] = []
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])

    def answer(ending: int | Exception) -> list[dict[str, object]]:
        def run(words: list[str], **more: object) -> subprocess.CompletedProcess[bytes]:
            started.append({"words": words, **more})
            if isinstance(ending, Exception):
                raise ending
            return subprocess.CompletedProcess(words, ending)

        monkeypatch.setattr(subprocess, "run", run)
        return started

    return answer


@pytest.mark.parametrize(
    ("ending", "found"),
    [
        (0, True),
        (3, False),
        (subprocess.TimeoutExpired("python", 60), True),
        (-9, True),
        (1, True),
        (120, True),
    ],
)
def test_a_look_that_comes_to_nothing_refuses_nothing(
    searches: Callable[..., list[dict[str, object]]], ending: int | Exception, *, found: bool
) -> None:
    started = searches(ending)
    assert isolation.is_findable() is found
    (search,) = started
    assert search["stdin"] == subprocess.DEVNULL
    assert search["timeout"] == isolation.SEARCH_TIMEOUT_S


def test_it_looks_as_the_server_would(
    searches: Callable[..., list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "flags_of_children", lambda: ["-s", "-X", "utf8"])
    started = searches(0)
    isolation.is_findable()
    assert started[0]["words"] == [sys.executable, "-s", "-X", "utf8", "-c", isolation._LOOK]


def test_who_was_started_so_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(isolation.SAFE_PATH, isolation.OURS)
    isolation.unguard()
    assert isolation.SAFE_PATH not in os.environ


@pytest.mark.parametrize("name", ["numpy", "torch", "gymnasium", "cv2"])
def test_what_pythonpath_puts_in_the_place_of_a_package_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = here / "other"
    other.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{other}")
    monkeypatch.setattr(sys, "path", [str(ROOT), str(other), *sys.path])
    assert isolation.warnings() == []
    (other / name).mkdir()
    assert isolation.warnings() == [], "a folder without code, such as a clone, comes last"
    (other / name / "__init__.py").touch()
    (line,) = isolation.warnings()
    assert f"PYTHONPATH puts {other / name} in the place of the {name} that galamp" in line
    monkeypatch.delenv("PYTHONPATH")
    assert isolation.warnings() == []


def test_all_packages_that_are_needed_are_looked_at() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split()
    named = {"ale-py": "ale_py", "opencv-python": "cv2", "pillow": "PIL"}
    wanted = {Requirement(line).name for line in lines}
    assert {named.get(name, name) for name in wanted} == set(isolation.NEEDED)
