"""Where Python looks for modules: in the working directory only for what its user has named.

    bin/galamp          python -P: the working directory is not searched
    python -m galamp    Python searches it first; `leave_working_directory` ends that
    the server          python -c would search it first; `guarded` forbids that, and where Python
                        ignores its environment, `flags_of_children`
    the probe           python -P -c, with the path of its parent that `path_for_children` gives
    --env-id my:make    `user_code.imported` puts it last, behind all that is installed; for
                        --network and --algorithm as well
    --sinks my:Sink     `user_code.searching_here_for` puts it last while that module is imported
    all of them         `be_package`: a folder named galamp, such as a clone, that lies where Python
                        searches is no package, and does not stand for the one that is installed

A folder that somebody else has filled, such as a run that was downloaded, must not run code just
because one stands in it. PYTHONPATH is its user's own choice and stays: so there is no `-E` and no
`-I`, which would ignore PYTHONHASHSEED, too. A virtual environment has no user site, so `-s` would
change nothing.

Only what Python has loaded before it comes here is imported: not even `__future__`.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The folder that holds the package."""

SAFE_PATH, OURS = "PYTHONSAFEPATH", "galamp"
"""What Python reads as `-P`, unless it is empty, and its value where that is not the user's."""

LOOK_LIMIT_S = 60.0
"""A Python that is to say whether it finds this package is waited for so long."""

_MISSING = 3
"""How it says that it does not: no exit code of Python's own."""

_LOOK = f"""
import importlib.util, sys
try:
    found = importlib.util.find_spec("galamp.workers.preload")
except ImportError:
    found = None
sys.exit(0 if found else {_MISSING})
"""
"""How it looks: a mere folder `galamp` would be found, too, and not what is in the package."""

NEEDED = (
    "torch",
    "numpy",
    "gymnasium",
    "ale_py",
    "cv2",
    "rich",
    "matplotlib",
    "safetensors",
    "setproctitle",
)
"""Packages that galamp imports, besides its own."""


def _here() -> str:
    """Return the working directory; nothing where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _lies_here() -> bool:
    """Whether this package lies in the working directory."""
    here = _here()
    return here != "" and os.path.realpath(here) == HOME


def _named() -> list[str]:
    """Return the folders of PYTHONPATH."""
    text = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return [os.path.abspath(folder) for folder in text.split(os.pathsep) if folder]


def leave_working_directory() -> None:
    """Undo that `python -m` searches the working directory first; to be called before imports.

    Where this package lies there itself, it is searched last. What Python loads before a module of
    `-m` begins is beyond reach, and a folder with a whole package `galamp` in it runs that.
    """
    if not sys.flags.safe_path and sys.path[:1] == [_here()]:
        here = sys.path.pop(0)
        if _lies_here():
            sys.path.append(here)
    be_package()


def be_package() -> None:
    """Have the module `galamp` be this package.

    Python takes a folder without `__init__.py` on its path for a package in parts, before an
    editable installation is asked. Its submodules are found all the same, so this one is here.
    """
    galamp = sys.modules["galamp"]
    if hasattr(galamp, "__version__"):
        return
    from importlib.util import spec_from_file_location

    folder = os.path.join(HOME, "galamp")
    spec = spec_from_file_location(
        "galamp", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    galamp.__spec__, galamp.__loader__, galamp.__file__ = spec, spec.loader, spec.origin
    galamp.__path__ = [folder]
    spec.loader.exec_module(galamp)


def is_findable() -> bool:
    """Whether a Python that is started from here finds this package.

    It does not where only what this process has added to its own `sys.path` leads there. One that
    has not answered in time, or was killed, has not said so: a server that cannot load says why.
    """
    if _lies_here() or HOME in _named() or HOME not in map(os.path.realpath, sys.path):
        return True
    import subprocess

    with guarded():
        try:
            words = [sys.executable, *flags_of_children(), "-c", _LOOK]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, timeout=LOOK_LIMIT_S)
        except subprocess.TimeoutExpired:
            return True
    return done.returncode != _MISSING


def flags_of_children() -> list[str]:
    """Return the flags that a Python started from here gets: it searches where this one does.

    One that ignores its environment (-E) has its children ignore `guarded`, too.
    """
    import subprocess

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    unguarded = sys.flags.ignore_environment and not sys.flags.safe_path
    return [*flags, "-P"] if unguarded and not _lies_here() else flags


class guarded:  # contextlib may not have been loaded yet
    """Have every Python that is started meanwhile leave out the working directory.

    Not where this package lies there: then it is a checkout that is run without being installed.
    What this process starts otherwise is not galamp's affair.
    """

    def __enter__(self) -> None:
        """Begin."""
        self._resume_point = os.environ.get(SAFE_PATH)
        self._ours = not _lies_here() and not self._resume_point
        if self._ours:
            os.environ[SAFE_PATH] = OURS

    def __exit__(self, *_: object) -> None:
        """Leave the environment as it was."""
        if not self._ours:
            return
        if self._resume_point is None:
            os.environ.pop(SAFE_PATH, None)
        else:
            os.environ[SAFE_PATH] = self._resume_point


def unguard() -> None:
    """Take `guarded` back in a process so started: what an environment starts is its own affair."""
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]


def path_for_children() -> list[str]:
    """Return `sys.path` without the working directory, unless PYTHONPATH names it.

    Where this package lies there itself, it comes last.
    """
    here, named = _here(), _named()
    if not here:
        return [folder for folder in sys.path if folder]
    kept = [folder for folder in sys.path if folder in named or os.path.abspath(folder) != here]
    return [*kept, HOME] if _lies_here() and HOME not in kept else kept


def warnings() -> list[str]:
    """Return a line for each package that PYTHONPATH puts in the place of an installed one."""
    from importlib.machinery import PathFinder

    named = [folder for folder in _named() if os.path.realpath(folder) != HOME]
    others = [folder for folder in sys.path if folder not in named]
    lines = []
    for name in NEEDED if named else ():
        found = PathFinder.find_spec(name, named)
        if found is None or found.loader is None:  # a folder without `__init__.py`: comes last
            continue
        if PathFinder.find_spec(name, others) is not None:
            place = next(iter(found.submodule_search_locations or [str(found.origin)]))
            lines.append(
                f"warning: PYTHONPATH puts {place} in the place of the {name} that galamp was "
                "installed with: if that is not meant, unset PYTHONPATH"
            )
    return lines
