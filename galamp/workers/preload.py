"""What the server does and loads before it forks anyone; imported there, and nowhere else.

Nothing here may start a thread: a fork would leave it behind. What cannot be imported is told to
the supervisor: the standard library would pass over it, and fork children that lack it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import warnings
from typing import NoReturn

from galamp.core.errors import EXIT_FAILURE
from galamp.core.isolation import be_package, unguard
from galamp.core.processes.reaper import adopt_orphans, die_with_parent, end_children
from galamp.workers.forkserver import (
    FOLDER,
    ORPHANED,
    SERVER,
    SUPERVISED,
    SUPERVISOR,
    answer_failed_forks,
    make_room_for_children,
    word_of,
)

END_S = 1.0
"""What the kernel has not ended so long after a kill is left to it."""


def _leave(number: int, frame: object) -> None:
    """Once the supervisor has ended: end everyone below, and leave nothing.

    The same signal comes to whoever was stopped and is told to go on.
    """
    if os.getppid() != int(os.environ[SUPERVISOR]) and os.getpid() == int(os.environ[SERVER]):
        _end()


def _end() -> NoReturn:
    end_children(END_S)
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)  # its socket is nobody's now
    os._exit(EXIT_FAILURE)


def _tell(failure: str) -> None:
    """Say that the server has loaded, or what has failed."""
    word = word_of(os.getpid())
    with contextlib.suppress(OSError):
        draft = word.with_suffix(".tmp")
        draft.write_text(failure)
        draft.replace(word)


def _load() -> None:
    """Import what children need."""
    from setproctitle import setproctitle

    setproctitle("galamp: server")

    import ale_py  # noqa: F401
    import torch  # noqa: F401

    import galamp.algorithms.cached_conv
    import galamp.algorithms.networks.perceptron
    import galamp.environments.atari
    import galamp.environments.gymnasium
    import galamp.workers.learner
    import galamp.workers.simulator  # noqa: F401


be_package()
os.environ[SERVER] = str(os.getpid())
signal.signal(ORPHANED, _leave)
die_with_parent(int(os.environ[SUPERVISOR]), ORPHANED)
for number in SUPERVISED:
    signal.signal(number, signal.SIG_IGN)
unguard()
make_room_for_children()
adopt_orphans()
answer_failed_forks()
# Of orphans that it reaps.
warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
try:
    _load()
except Exception as error:  # whatever an import raises
    _tell(f"{type(error).__name__}: {error}")
    raise
gc.collect()
gc.freeze()  # a collection in a child would write to, and so copy, every shared page
_tell("")
