"""Titles of a run's processes, as they are shown in `ps`, in messages and in events.

    galamp[two]: supervisor                 the process of `galamp run --run-dir runs/two`
    galamp[two]: server                     the fork server
    galamp[two]: learner 0, simulator 0.1   its children
    galamp: resource tracker of 4711        Python's own, which starts before the run has a name

`ps -e` and `top` show a thread's name, of 15 characters, which is without the run's.
"""

from __future__ import annotations

import os

from galamp.core.sanitize import clean

MAX_RUN_CHARACTERS = 60
"""Longest name of a run in a title."""


def title_of(role: str, rank: int, worker: int | None) -> str:
    """Return role and rank of a child: `learner 0`, `simulator 0.1`; learners have no `worker`."""
    return f"{role} {rank}" + ("" if worker is None else f".{worker}")


def run_name(folder: str | os.PathLike[str]) -> str:
    """Return the name of a run in titles: its folder's, without what would end it."""
    name = clean(os.path.basename(os.path.abspath(folder))).replace("]", ")")
    return name[:MAX_RUN_CHARACTERS]


def process_title(run: str, title: str) -> str:
    """Return the title of a process of the run of that name; empty: it has none yet."""
    return f"galamp[{run}]: {title}" if run else f"galamp: {title}"


def without_run(title: str) -> str:
    """Return a process title without the name of its run: `galamp: learner 0`."""
    head, bracket, rest = title.partition("]: ")
    return f"galamp: {rest}" if bracket and head.startswith("galamp[") else title


def show_title(run: str, title: str) -> None:
    """Give this process its title, and its first thread the same without the run's name."""
    from setproctitle import setproctitle, setthreadtitle

    setproctitle(process_title(run, title))
    setthreadtitle(process_title("", title))
