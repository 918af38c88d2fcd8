"""Modules of the user's, imported by name: what they are searched in, and what is told of them.

    package.module:name --import_user_module--> the module

Used by whoever builds an environment or an algorithm. Only what its user has named on the command
line now is imported; see `check_asked` of environments and algorithms.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from galamp.core.errors import UserError


def import_user_module(what: str, name: str, expected: str) -> ModuleType:
    """Import a module of the user's; what is raised from inside it is not this function's.

    The working directory is searched, too, for what is not found elsewhere: a file in it may have
    the name of a module that others need, or ask for and can do without.

    Args:
        what: all that the user has named, for messages.
        name: the module.
        expected: the forms that such a name can have.

    Raises:
        UserError: there is no such module.
    """
    if os.getcwd() not in sys.path and not _is_installed(name.partition(".")[0]):
        sys.path.append(os.getcwd())
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
        f"{what}: {first} is {next(iter(places))} here, which comes before {mine} in this folder: "
        "give yours another name"
    )
