"""User code, by its name: whether it may be imported, where it is searched, and its errors.

    name in a stored config --check_asked--> the same name on the command line, or a UserError
    package.module:name --load--> the function or class of that name
    exception --failure_line, traceback_of--> one line with the place in the code, and a traceback

Used for environments, networks, algorithms and metric sinks, in every process that makes one. The
author of a config or a checkpoint must not decide what code is run: stored text alone imports
nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import galamp
from galamp.core.errors import GalampError, UserError, did_you_mean

NEAR_ENOUGH = 0.7
"""Smallest similarity, from 0 to 1, of a suggestion for an unknown name within a module."""

MAX_DETAILS = 20_000
"""Most characters of a traceback; that of an endless recursion is longer."""


def check_asked(
    flag: str, stored: str, asked: str, holder: str, how: str, *, fixed: bool = False
) -> None:
    """Refuse to import a module that only a stored file names: the file may come from anyone.

    Names without a colon belong to galamp or Gymnasium, and need no confirmation.

    Args:
        flag: flag by which the user names it.
        stored: name in a config or checkpoint.
        asked: name that the user has given now, or empty.
        holder: file that holds the stored name, for the message.
        how: what the user must do, up to the name, for the message.
        fixed: whether another name is refused even if neither needs an import.

    Raises:
        UserError: the user has not given the name, or has given another one, and one of the two
            needs the import of a module.
    """
    needs_import = ":" in stored + asked
    if asked == stored or not (needs_import or (fixed and asked)):
        return
    if asked:
        raise UserError(f"{flag} {asked}: {holder} is of {stored}; name that")
    raise UserError(
        f"{holder} wants to run your code {stored}: if that is what you want, {how} {stored}"
    )


def check_all_asked(
    flag: str, stored: Iterable[str], asked: Iterable[str], holder: str, how: str
) -> None:
    """Check names of which there may be several, in an order that matters; see `check_asked`.

    `how` is what the user must do, up to the first flag.
    """
    between = f" {flag} "
    check_asked(flag, between.join(stored), between.join(asked), holder, f"{how} {flag}")


def load(
    what: str,
    name: str,
    expected: str,
    wanted: Callable[[Any], bool] = callable,
    *,
    noun: str = "function",
) -> Any:
    """Return the function or class of the user's that is called `package.module:name`.

    Args:
        what: flag and value that the user has given, for messages.
        name: its name; attributes of attributes have dots.
        expected: what it has to be, for messages.
        wanted: whether an object is such a thing.
        noun: what such a thing is called, for messages.

    Raises:
        UserError: the module does not exist, its import fails (`details` are the traceback), or it
            has no such thing.
    """
    module_name, _, path = name.partition(":")
    with mistakes_told(f"{what}: importing {module_name}"):
        module = imported(what, module_name, expected)
    found = attribute(module, path)
    if wanted(found):
        return found
    refuse_namesake(what, module_name)
    named = [known for known, value in vars(module).items() if wanted(value) and known[0] != "_"]
    near = did_you_mean(path, named, cutoff=NEAR_ENOUGH)
    raise UserError(f"{what}: {module_name} has no {noun} {path!r}{near}: expected {expected}")


def imported(what: str, name: str, expected: str) -> ModuleType:
    """Import a user's module; exceptions from inside the module are not handled here.

    The working directory is searched as well, but last: a file in it may have the name of a module
    that other packages need, or import if it exists.

    Args:
        what: name that the user has given, for the message.
        name: name of the module.
        expected: allowed forms of a name, for the message.

    Raises:
        UserError: the module does not exist.
    """
    search_here_for(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        refuse_namesake(what, name)
        raise UserError(
            f"{what}: cannot import {name} ({error}): expected {expected}; is it installed, or in "
            "this folder?"
        ) from None


def search_here_for(name: str) -> bool:
    """Add the working directory to the search path if `name` is not found elsewhere.

    Returns whether it was added. It is searched last: a file in it may have the name of a module
    that other packages need, or import if it exists.
    """
    here = os.getcwd()
    if here in sys.path or _is_installed(name.partition(".")[0]):
        return False
    sys.path.append(here)
    return True


@contextmanager
def searching_here_for(name: str) -> Iterator[None]:
    """As `search_here_for`, but only while the block runs."""
    here, added = os.getcwd(), search_here_for(name)
    try:
        yield
    finally:
        if added:
            with suppress(ValueError):
                sys.path.remove(here)


def is_class(value: object) -> bool:
    """Whether `value` is a class."""
    return isinstance(value, type)


def attribute(module: ModuleType, path: str) -> Any:
    """Return the attribute of a module at `path`, with dots; None if it does not exist."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def callables(module: ModuleType) -> list[str]:
    """Return the names of the public callables of a module."""
    return [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]


def _is_installed(package: str) -> bool:
    """Whether a package or module is found without the working directory."""
    if package in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # not a valid name of a module
        return False
    # A folder without `__init__.py` is a namespace package; the working directory may hold another
    # part of it.
    return spec is not None and spec.origin is not None


def refuse_namesake(what: str, name: str) -> None:
    """Refuse a module if a different one of the same name is in the working directory.

    Raises:
        UserError: the imported module is not the one in the working directory.
    """
    first = name.partition(".")[0]
    mine = next((p for p in (Path(first), Path(f"{first}.py")) if p.exists()), None)
    module = sys.modules.get(first)
    places = getattr(module, "__path__", [getattr(module, "__file__", None) or "built into Python"])
    if mine is None or module is None or Path(next(iter(places))).is_relative_to(os.getcwd()):
        return
    raise UserError(
        f"{what}: {first} is {next(iter(places))} here, which comes before {mine} in this "
        "folder: rename yours"
    )


def failure_line(what: str, error: BaseException, *others: ModuleType) -> str:
    """Return one line with an exception of user code, and its place outside packages `others`."""
    text = " ".join(f"raised {type(error).__name__}: {error}".split()).removesuffix(":")
    return f"{what}: {text} ({_place(error, others)})"


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error with its notes; only the end if it is too long."""
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= MAX_DETAILS else f"...{text[-MAX_DETAILS:]}"


@contextmanager
def mistakes_told(what: str, *others: ModuleType) -> Iterator[None]:
    """Run user code; its exception becomes a `UserError` of one line, with its traceback.

    Raises:
        UserError: the code raised an exception, or tried to exit.
    """
    try:
        yield
    except GalampError:
        raise
    except (Exception, SystemExit) as error:
        mistake = UserError(failure_line(what, error, *others))
        mistake.details = traceback_of(error)
        raise mistake from error


def _place(error: BaseException, others: tuple[ModuleType, ...]) -> str:
    """Return file, line and function of the user's code that caused an error.

    That is the innermost frame outside installed packages; if there is none, outside galamp.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    ours = [f"{Path(str(module.__file__)).parent}/" for module in (galamp, *others)]
    for known in ((*ours, *installed, "<frozen"), (*ours, "<frozen"), ours[:1]):
        for frame in reversed(frames):
            if not frame.filename.startswith(tuple(known)):
                return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return f"{frames[-1].filename}:{frames[-1].lineno}"
