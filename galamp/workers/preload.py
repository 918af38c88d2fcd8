"""Start-up of the fork server: what it does and imports before it forks. Imported only there.

Nothing here may start a thread: a forked child would not have it. An import that fails is reported
to the supervisor: the standard library would ignore it, and fork children without the module.
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
from galamp.core.processes.titles import show_title
from galamp.workers.forkserver import (
    FOLDER,
    ORPHANED,
    SERVER,
    SERVER_TITLE,
    SUPERVISED,
    SUPERVISOR,
    answer_failed_forks,
    loaded_file,
    named_run,
    raise_file_limit,
)

END_S = 1.0
"""Longest wait for killed processes to end; after that they are left to the kernel."""


def _on_sigcont(number: int, frame: object) -> None:
    """End all children, and exit, if the supervisor has ended.

    The same signal (SIGCONT) also resumes a stopped process: then nothing happens.
    """
    if os.getppid() != int(os.environ[SUPERVISOR]) and os.getpid() == int(os.environ[SERVER]):
        _end_all()


def _end_all() -> NoReturn:
    end_children(END_S)
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)  # with the socket, not needed any more
    os._exit(EXIT_FAILURE)


def _report_loaded(failure: str) -> None:
    """Report that the server has loaded, or its `failure`, to the supervisor."""
    path = loaded_file(os.getpid())
    with contextlib.suppress(OSError):
        draft = path.with_suffix(".tmp")
        draft.write_text(failure)
        draft.replace(path)


def _import_modules() -> None:
    """Import the modules that children need."""
    show_title(named_run(), SERVER_TITLE)

    import ale_py  # noqa: F401
    import torch  # noqa: F401

    import galamp.algorithms.cached_conv
    import galamp.algorithms.networks.perceptron
    import galamp.environments.atari
    import galamp.environments.gymnasium
    import galamp.gossip.transport.shared_memory
    import galamp.workers.learner
    import galamp.workers.simulator  # noqa: F401


be_package()
os.environ[SERVER] = str(os.getpid())
signal.signal(ORPHANED, _on_sigcont)
die_with_parent(int(os.environ[SUPERVISOR]), ORPHANED)
for number in SUPERVISED:
    signal.signal(number, signal.SIG_IGN)
unguard()
raise_file_limit()
adopt_orphans()
answer_failed_forks()
# The standard library warns about every orphan that this server reaps.
warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
try:
    _import_modules()
except Exception as error:  # an import can raise anything
    _report_loaded(f"{type(error).__name__}: {error}")
    raise
gc.collect()
gc.freeze()  # a collection in a child would write to, and so copy, every shared page
_report_loaded("")
