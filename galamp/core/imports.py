"""Modules that the user names: where they are looked for.

Used by the parent and by processes that make environments.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator


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


@contextlib.contextmanager
def searching_here_for(name: str) -> Iterator[None]:
    """Do so while the block runs: what is imported later is not looked for there."""
    here, added = os.getcwd(), search_here_for(name)
    try:
        yield
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(here)


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
