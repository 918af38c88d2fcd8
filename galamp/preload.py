"""What the server does and loads before it forks anyone; imported there, and nowhere else.

Nothing here may start a thread: a fork would leave it behind.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
from typing import NoReturn

from setproctitle import setproctitle

from galamp.errors import EXIT_FAILURE
from galamp.forking import FOLDER, SERVER, SUPERVISOR
from galamp.isolation import unguard
from galamp.worker import SUPERVISED, die_with_parent

ORPHANED = signal.SIGUSR2
"""What the kernel sends when the supervisor has ended; its socket is then nobody's."""


def _leave(number: int, frame: object) -> NoReturn:
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)
    os._exit(EXIT_FAILURE)


signal.signal(ORPHANED, _leave)
die_with_parent(int(os.environ[SUPERVISOR]), ORPHANED)
for number in SUPERVISED:
    signal.signal(number, signal.SIG_IGN)
os.environ[SERVER] = str(os.getpid())
unguard(os.environ)
setproctitle("galamp: server")

import ale_py  # noqa: E402, F401
import torch  # noqa: E402, F401

import galamp.environments.atari  # noqa: E402
import galamp.environments.gymnasium  # noqa: E402
import galamp.learner  # noqa: E402
import galamp.simulator  # noqa: E402, F401

gc.collect()
gc.freeze()  # a collection in a child would write to, and so copy, every shared page
