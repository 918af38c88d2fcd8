"""Loaded by a server in tests: there is no room for its first children."""

from __future__ import annotations

import errno
import os

from galamp.workers.forkserver import answer_failed_forks

fork, failures = os.fork, [errno.ENOMEM, errno.EAGAIN]


def fork_if_there_is_room() -> int:
    if failures:
        raise OSError(failures.pop(), "no room")
    return fork()


os.fork = fork_if_there_is_room
answer_failed_forks()
