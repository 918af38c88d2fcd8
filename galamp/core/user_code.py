"""Code of the user's, by its name: whether it may be imported, where it is looked for, its errors.

    name in a stored config --check_asked--> the same name on the command line, or a UserError
    package.module:factory --imported, attribute--> what is called
    what it raises --failure_line, traceback_of--> one line with the place in its code, and more

Used for environments, networks and metric sinks, in every process that makes one.
Whoever wrote a config or a checkpoint does not decide what is run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import galamp
from galamp.core.errors import GalampError, UserError

NEAR_ENOUGH = 0.7
"""A guess at what an unknown name meant is at least so like it, of the few that a module has."""

MOST_DETAILS = 20_000
"""Characters of a traceback; one of endless recursion is longer."""


def check_asked(flag: str, stored: str, asked: str, holder: str, how: str) -> None:
    """Refuse to import a module that only a stored text names: anyone may have written that.

    Names without a colon are galamp's or Gymnasium's own and need no such word.

    Args:
        flag: what the user names it by.
        stored: the name in a config or checkpoint.
        asked: the name that the user has given now, or empty.
        holder: what holds the stored text, for the message.
        how: what the user has to do, up to the name.

    Raises:
        UserError: the user has not named it, or has named another where a module would be imported
            for either.
    """
    if ":" not in stored + asked or asked == stored:
        return
    if asked:
        raise UserError(f"{flag} {asked}: {holder} is of {stored}; name that")
    raise UserError(
        f"{holder} wants to run your code {stored}: if that is what you want, {how} {stored}"
    )


def imported(what: str, name: str, expected: str) -> ModuleType:
    """Import a module of the user's; what is raised from inside it is not this function's.

    The working directory is searched, too, for what is not found elsewhere: a file in it may have
    the name of a module that others need, or ask for and can do without.

    Args:
        what: what the user has named, for the message.
        name: the module.
        expected: which forms of a name there are.

    Raises:
        UserError: there is no such module.
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
    """Search the working directory, too, for a module that is not found elsewhere; say whether.

    It comes last: a file in it may have the name of a module that others need, or ask for and can
    do without.
    """
    here = os.getcwd()
    if here in sys.path or _is_installed(name.partition(".")[0]):
        return False
    sys.path.append(here)
    return True


@contextmanager
def searching_here_for(name: str) -> Iterator[None]:
    """Do so while the block runs: what is imported later is not looked for there."""
    here, added = os.getcwd(), search_here_for(name)
    try:
        yield
    finally:
        if added:
            with suppress(ValueError):
                sys.path.remove(here)


def attribute(module: ModuleType, path: str) -> Any:
    """Return what `path`, with dots, names in a module; None if there is no such thing."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def callables(module: ModuleType) -> list[str]:
    """Return the names of what a module offers to be called."""
    return [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]


def _is_installed(package: str) -> bool:
    """Whether a package or module is found without the working directory."""
    if package in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # no name that a module can have
        return False
    # A folder without code is a part of a package of which the working directory may have another.
    return spec is not None and spec.origin is not None


def refuse_namesake(what: str, name: str) -> None:
    """Tell that a module which was not the one meant has the name of one in the working directory.

    Raises:
        UserError: it is so.
    """
    first = name.partition(".")[0]
    mine = next((p for p in (Path(first), Path(f"{first}.py")) if p.exists()), None)
    module = sys.modules.get(first)
    places = getattr(module, "__path__", [getattr(module, "__file__", None) or "built into Python"])
    if mine is None or module is None or Path(next(iter(places))).is_relative_to(os.getcwd()):
        return
    raise UserError(
        f"{what}: {first} is {next(iter(places))} here, which comes before {mine} in this "
        "folder: give yours another name"
    )


def failure_line(what: str, error: BaseException, *others: ModuleType) -> str:
    """Return in one line what the user's code raised, and where; not in packages of `others`."""
    text = " ".join(f"raised {type(error).__name__}: {error}".split()).removesuffix(":")
    return f"{what}: {text} ({_place(error, others)})"


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error with its notes, or its end where it is very long."""
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= MOST_DETAILS else f"...{text[-MOST_DETAILS:]}"


@contextmanager
def mistakes_told(what: str, *others: ModuleType) -> Iterator[None]:
    """Run the user's code; what it raises becomes a `UserError` of one line, with its traceback.

    Raises:
        UserError: it raised something, or tried to end the process.
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
    """Return file, line and function of the user's code from which an error came.

    That is the innermost frame which is nobody else's; where there is none, which is not galamp's.
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
