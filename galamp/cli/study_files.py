"""The files of the study: what they plan, and what is known.

name of a block --sweep_of--> Sweep; all of them, and the stored rows --known--> Study
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from galamp.tools.study import plan

if TYPE_CHECKING:
    from galamp.tools.study.study import Study
    from galamp.tools.sweep.planned import Sweep

CODE = tuple(plan.MINATAR + game for game in plan.GAMES)
"""Environments of the study that its files name."""


def sweep_of(name: str) -> Sweep:
    """Return what the file of a block plans.

    Raises:
        UserError: there is no such block, or its file is wrong.
    """
    from galamp.cli.sweep_file import sweep_from

    return sweep_from(plan.block_named(name).file, CODE)


def known() -> Study:
    """Return all that is known of the study.

    Raises:
        UserError: a file is wrong, or stored rows are damaged.
    """
    from galamp.tools.study.study import study_of

    return study_of({name: sweep_of(name).runs for name in plan.BLOCKS})
