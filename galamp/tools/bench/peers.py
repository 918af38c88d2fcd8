"""Peers that galamp is compared with, each in an environment of its own, created on first use.

    .venv-peers/NAME/          a virtual environment with the peer's packages, beside bin/
    .venv-peers/NAME/done      what it was made from; missing until it is complete
    .venv-peers/NAME.log       pip's output
    .venv-peers/NAME.lock      held while it is created

Runs in the bench. Versions that galamp needs too are galamp's tested ones (bin/constraints.txt), so
a difference in speed is not one of torch or of the emulator.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from galamp.core.errors import GalampError, RunFailed, UserError, did_you_mean
from galamp.tools.bench.processes import Program
from galamp.tools.bench.runs import ROOT, System, Workload

ENVIRONMENTS = ROOT / ".venv-peers"
CONSTRAINTS = ROOT / "bin" / "constraints.txt"
SCRIPTS = Path(__file__).parent / "peer_scripts"
STEP_DEADLINE_S = 1800.0

Say = Callable[[str], None]
"""Called with a piece of progress; a line comes in two pieces, before and after the work."""


@dataclass(frozen=True)
class Peer:
    """Another program that trains the same network on the same game.

    Attributes:
        name: its name.
        script: its program in `peer_scripts/`.
        networks: those of galamp's networks that it can train.
        requirements: packages that pip installs for it, in this order; empty where galamp's own
            environment is enough.
        exceptions: packages that are installed after that, against galamp's tested versions.
        precisions: those of galamp's precisions that it supports, if it has a choice.
        flags: arguments of its script besides those of the workload.
        multiple: its environments have to be a multiple of this.
        named_only: whether it takes part only if it is named, since it cannot be installed on
            every machine.
    """

    name: str
    script: str
    networks: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    multiple: int = 1
    named_only: bool = False


A2C, PPO = "a2c", "ppo"
A2C_PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="stable-baselines3",
            script="sb3.py",
            networks=("nature",),
            flags=("--algorithm", A2C),
            # torch alone first: left to itself, the next line may fetch another build of it.
            requirements=(
                "torch",
                "stable-baselines3==2.9.2 gymnasium[atari] ale-py opencv-python",
            ),
        ),
        Peer(
            name="sample-factory",
            script="sample_factory_appo.py",
            networks=("nature",),
            flags=("--algorithm", A2C),
            # Its metadata wants gymnasium below 1.0 and numpy below 2.0, and would bring an older
            # emulator with them. It runs with the tested emulator, so it is installed without what
            # it asks for, and what it really imports is named here.
            requirements=(
                "torch",
                "sample-factory==2.1.1 --no-deps",
                "gymnasium[atari] ale-py opencv-python signal-slot-mp==1.0.5 faster-fifo==1.5.2 "
                "psutil==7.2.2 colorlog==6.12.0 tensorboardX==2.6.5 protobuf==7.36.2",
            ),
            # It stores arrays of one element as scalars, which numpy 2.4 no longer allows.
            exceptions=("numpy==2.3.5",),
        ),
        Peer(
            name="plain-loop",
            script="plain_loop.py",
            networks=("nature", "gala"),
            precisions=("float32", "bf16"),
        ),
    )
}


PPO_FLAGS = ("--algorithm", PPO)
PPO_PEERS = {
    peer.name: peer
    for peer in (
        replace(A2C_PEERS["stable-baselines3"], flags=PPO_FLAGS),
        # A minibatch of its is a number of whole rollouts: a quarter of the environments.
        replace(A2C_PEERS["sample-factory"], flags=PPO_FLAGS, multiple=4),
        Peer(name="plain-loop", script="plain_ppo.py", networks=("nature",)),
        Peer(
            name="envpool-loop",
            script="plain_ppo.py",
            networks=("nature",),
            flags=("--vector", "envpool"),
            requirements=("torch", "envpool==1.2.5 gymnasium ale-py opencv-python"),
            named_only=True,
        ),
    )
}

PEERS = {A2C: A2C_PEERS, PPO: PPO_PEERS}
"""Algorithm of `bin/bench peers` -> its peers by name."""

NUM_ENVS = {A2C: 16, PPO: 4}
"""Usual environments per learner: two learners' are the eight of published settings of PPO."""


def chosen(names: list[str], workload: Workload) -> list[Peer]:
    """Return the peers of these names, or all that need not be named.

    Raises:
        UserError: an unknown name, or a peer that cannot train the workload.
    """
    known = PEERS[workload.algorithm]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"--peer {unknown[0]}: expected one of {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    usual = [peer for peer in known.values() if not peer.named_only]
    peers = [known[name] for name in dict.fromkeys(names)] or usual
    for peer in peers:
        _check(peer, workload)
    return peers


def _check(peer: Peer, workload: Workload) -> None:
    """Raise a UserError if `peer` cannot train the workload."""
    if workload.network not in peer.networks:
        raise UserError(
            f"--network {workload.network}: {peer.name} trains {' or '.join(peer.networks)} only; "
            f"use that, or leave it out by naming the others with --peer"
        )
    if workload.total_envs % peer.multiple:
        raise UserError(
            f"--num-envs {workload.num_envs}: {peer.name} takes a multiple of {peer.multiple} "
            f"environments, here {workload.total_envs} of all learners together; choose other "
            f"numbers, or leave it out by naming the others with --peer"
        )


def peer_system(peer: Peer, workload: Workload, python: Path) -> System:
    """Return the system that measures `peer` with its `python`."""
    command: tuple[object, ...] = (
        *(python, "-E", "-s", SCRIPTS / peer.script, "--game", workload.rom),
        *("--num-envs", workload.total_envs, "--network", workload.network),
        *(("--precision", workload.precision) if workload.precision in peer.precisions else ()),
        *peer.flags,
    )
    return System(peer.name, tuple(map(str, command)))


def prepare(peer: Peer, say: Say) -> Path:
    """Return the Python that runs `peer`, after creating its environment if it is not complete.

    Raises:
        UserError: another bench is creating it now.
        RunFailed: a step failed; the next start tries again from the beginning.
    """
    if not peer.requirements:
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer.name
    python, done = folder / "bin" / "python", folder / "done"
    made_from = _fingerprint(peer, folder)
    with _locked(peer.name):
        if not (done.is_file() and done.read_text(encoding="utf-8") == made_from):
            shutil.rmtree(folder, ignore_errors=True)
            _log(peer).write_text("", encoding="utf-8")
            pip = [python, "-I", "-m", "pip", "install"]
            create = [sys.executable, "-I", "-m", "venv", "--prompt", peer.name, folder]
            _step(peer, "create environment", create, say)
            tested = [(names, ["-c", CONSTRAINTS]) for names in peer.requirements]
            for names, limits in (*tested, *((names, []) for names in peer.exceptions)):
                install = [*pip, *limits, *names.split()]
                _step(peer, f"install {names.partition(' ')[0]}", install, say)
            done.write_text(made_from, encoding="utf-8")
    return python


def _fingerprint(peer: Peer, folder: Path) -> str:
    wanted = (*peer.requirements, *peer.exceptions)
    parts = (*wanted, sys.version, str(folder), CONSTRAINTS.read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _log(peer: Peer) -> Path:
    return ENVIRONMENTS / f"{peer.name}.log"


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold the lock on creating an environment; it ends with this process, so it is never stale.

    Where files cannot be locked, there is no lock: a bench is seldom started twice at once.
    """
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{name}: another bench is making its environment: wait until it has"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield


def _step(peer: Peer, what: str, command: Sequence[object], say: Say) -> None:
    """Run one step of a set-up, with one line of progress."""
    say(f"galamp: bench: {peer.name}: {what} ...")
    start_s = time.monotonic()
    failure = ""
    with Program(command, ROOT, _log(peer)) as program:
        try:
            code = program.wait(STEP_DEADLINE_S)
            failure = f"{program.last_line()} (code {code})" if code else ""
        except GalampError as error:
            failure = str(error)
    say(f" {'failed after ' if failure else ''}{time.monotonic() - start_s:.1f} s\n")
    if failure:
        raise RunFailed(f"{peer.name}: could not {what}: {failure}; see {_log(peer)}")
