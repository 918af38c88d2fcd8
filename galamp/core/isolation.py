"""Module search: modules come from the working directory only if the user has named them.

    bin/galamp          python -P: the working directory is not searched
    python -m galamp    Python searches it first; `leave_working_directory` stops that
    the server          python -c would search it first; `guarded` prevents that, and where Python
                        ignores its environment, `flags_of_children`
    the probe           python -P -c, with the parent's path from `path_for_children`
    --env-id my:make    `user_code.imported` searches it last, after all installed packages; for
                        --network and --algorithm as well
    --sinks my:Sink     `user_code.searching_here_for` searches it last, for that import only
    all of them         `be_package`: a folder named galamp, such as a clone, in a folder that
                        Python searches is not taken for the installed package

A folder with files of another person, such as a downloaded run, must not run code only because it
is the working directory. PYTHONPATH is the user's choice and stays: so `-E` and `-I` are not used;
they would also ignore PYTHONHASHSEED. A virtual environment has no user site, so `-s` would change
nothing.

This module imports only modules that Python has already loaded at its start, not even `__future__`.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The folder that holds the package."""

SAFE_PATH, OURS = "PYTHONSAFEPATH", "galamp"
"""Environment variable that works like `-P` unless it is empty, and its value if galamp sets it."""

SEARCH_TIMEOUT_S = 60.0
"""Longest wait for a Python that checks whether it finds this package."""

_MISSING = 3
"""Exit code of that Python if it does not; Python itself does not use this code."""

_LOOK = f"""
import importlib.util, sys
try:
    found = importlib.util.find_spec("galamp.workers.preload")
except ImportError:
    found = None
sys.exit(0 if found else {_MISSING})
"""
"""Program of that check. It searches for a module: a mere folder `galamp` would be found, too."""

NEEDED = (
    "torch",
    "numpy",
    "gymnasium",
    "ale_py",
    "cv2",
    "rich",
    "matplotlib",
    "PIL",
    "safetensors",
    "setproctitle",
)
"""Packages of others that galamp imports."""


def _here() -> str:
    """Return the working directory; "" if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _lies_here() -> bool:
    """Whether this package is in the working directory."""
    here = _here()
    return here != "" and os.path.realpath(here) == HOME


def _named() -> list[str]:
    """Return the folders of PYTHONPATH."""
    text = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return [os.path.abspath(folder) for folder in text.split(os.pathsep) if folder]


def leave_working_directory() -> None:
    """Stop the search in the working directory that `python -m` adds; call this before imports.

    If this package itself is there, the directory is searched last. Modules that Python loads
    before this point cannot be controlled, and a folder with a complete package `galamp` runs that
    one.
    """
    if not sys.flags.safe_path and sys.path[:1] == [_here()]:
        here = sys.path.pop(0)
        if _lies_here():
            sys.path.append(here)
    be_package()


def be_package() -> None:
    """Make the module `galamp` this package.

    Python takes a folder `galamp` without `__init__.py` on its path for a namespace package, before
    it asks an editable installation. Submodules such as this one are found all the same.
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
    """Whether a Python that this process starts finds this package.

    It does not if the package is found only by a folder that this process has added to its own
    `sys.path`. Without an answer in time the result is True: a server that cannot load reports why.
    """
    if _lies_here() or HOME in _named() or HOME not in map(os.path.realpath, sys.path):
        return True
    import subprocess

    with guarded():
        try:
            words = [sys.executable, *flags_of_children(), "-c", _LOOK]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, timeout=SEARCH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return True
    return done.returncode != _MISSING


def flags_of_children() -> list[str]:
    """Return the flags for a Python that this process starts, so that it searches the same folders.

    If this Python ignores its environment (-E), its children ignore `guarded` as well.
    """
    import subprocess

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    unguarded = sys.flags.ignore_environment and not sys.flags.safe_path
    return [*flags, "-P"] if unguarded and not _lies_here() else flags


class guarded:  # contextlib may not have been loaded yet
    """Make every Python that is started within the block skip the working directory.

    Unless this package is there: then it is a checkout that runs without an installation. Programs
    that this process starts outside the block are not affected.
    """

    def __enter__(self) -> None:
        """Set the variable, unless the user has set it."""
        self._before = os.environ.get(SAFE_PATH)
        self._ours = not _lies_here() and not self._before
        if self._ours:
            os.environ[SAFE_PATH] = OURS

    def __exit__(self, *error: object) -> None:
        """Restore the variable."""
        if not self._ours:
            return
        if self._before is None:
            os.environ.pop(SAFE_PATH, None)
        else:
            os.environ[SAFE_PATH] = self._before


def unguard() -> None:
    """Undo `guarded` in a process that was started in it: it must not affect a user's programs."""
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]


def path_for_children() -> list[str]:
    """Return `sys.path` without the working directory, unless PYTHONPATH names it.

    If this package itself is there, the directory comes last.
    """
    here, named = _here(), _named()
    if not here:
        return [folder for folder in sys.path if folder]
    kept = [folder for folder in sys.path if folder in named or os.path.abspath(folder) != here]
    return [*kept, HOME] if _lies_here() and HOME not in kept else kept


def warnings() -> list[str]:
    """Return a warning for each package that PYTHONPATH puts in place of an installed one."""
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
