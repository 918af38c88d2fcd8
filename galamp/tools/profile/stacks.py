"""Stacks of a profile: what py-spy has sampled of one process, and the phase of each sample.

    "main (...);Learner.run (...);...;Wakeup.wait (...) 73" --parse--> Samples of {stack: count}
    stack --without_plumbing--> from the process's own loop on
    stack --phase_of--> as the dashboard measures it; --is_idle--> whether it waits

Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

Stack = tuple[str, ...]
"""Frames `function (file:line)`, the outermost first."""

SUPERVISOR = "supervisor"
ROLES = ("learner", "simulator", SUPERVISOR)

ENTRIES = {
    "learner": ("main (galamp/workers/learner.py",),
    "simulator": ("main (galamp/workers/simulator.py",),
    SUPERVISOR: ("Supervisor.run (galamp/training/supervisor.py",),
}
"""Role -> the outermost frame that is kept: all below is how a process came to it."""

OTHER = "other"
PHASES: dict[str, tuple[tuple[str, str], ...]] = {
    "learner": (
        ("gossip", r"Learner\.(_exchange|_reduce) "),
        ("update", r"Learner\._update "),
        ("collect", r"LearnerPort\.(start_rollout|receive) |Collector\._receive "),
        ("infer", r"Collector\.collect "),
    ),
    "simulator": (
        ("wait", r"SimulatorPort\.actions "),
        ("step", r"\w+\.(step|reset|__init__) \(galamp/environments/|make_environment "),
    ),
    SUPERVISOR: (
        ("wait", r"Children\.wait "),
        ("save", r"Supervisor\._save |Saver\."),
        ("display", r"Supervisor\._refresh_display "),
    ),
}
"""Role -> (phase, beginning of a frame of it); of several in a stack, the innermost counts."""

IDLE = re.compile(r"(Wakeup\.wait|\w+\.select|select|poll|sleep|wait) \(")
"""Beginning of the innermost frame of a process that waits: py-spy counts the first as busy."""

_LINE = re.compile(r"(?P<stack>.+) (?P<count>\d{1,9})")


@dataclass(frozen=True)
class Samples:
    """Samples of one process.

    Attributes:
        title: such as `learner 0`.
        stacks: stack, from the process's own loop on -> how often it was seen.
    """

    pid: int
    title: str
    stacks: Counter[Stack]

    @property
    def role(self) -> str:
        """First word of the title."""
        return self.title.partition(" ")[0]

    @property
    def total(self) -> int:
        """Number of samples."""
        return self.stacks.total()


def parse(pid: int, title: str, text: str) -> Samples:
    """Return the samples in py-spy's raw output; lines of another form are left out."""
    role, stacks = title.partition(" ")[0], Counter[Stack]()
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            stack = without_plumbing(role, tuple(match["stack"].split(";")))
            stacks[stack] += int(match["count"])
    return Samples(pid, title, stacks)


def without_plumbing(role: str, stack: Stack) -> Stack:
    """Return a stack from its process's own loop on; whole, if it is not there yet."""
    for at, frame in enumerate(stack):
        if frame.startswith(ENTRIES.get(role, ())):
            return stack[at:]
    return stack


def phase_of(role: str, stack: Stack) -> str:
    """Return the phase that a stack of a role belongs to."""
    for frame in reversed(stack):
        for phase, begins in PHASES.get(role, ()):
            if re.match(begins, frame):
                return phase
    return OTHER


def is_idle(stack: Stack) -> bool:
    """Return whether a process with this stack waits."""
    return IDLE.match(stack[-1]) is not None


def phases_of(role: str) -> list[str]:
    """Return the names of a role's phases, in the dashboard's order."""
    if role == "learner":
        return ["collect", "infer", "update", "gossip", OTHER]
    return [*(phase for phase, _ in PHASES.get(role, ())), OTHER]


def shares(samples: Samples) -> dict[str, float]:
    """Return phase -> share of the process's samples; empty without samples."""
    found = Counter[str]()
    for stack, count in samples.stacks.items():
        found[phase_of(samples.role, stack)] += count
    return {name: found[name] / samples.total for name in phases_of(samples.role) if samples.total}


def idle_share(samples: Samples) -> float:
    """Return the share of samples in which the process waits; 0 without samples."""
    idle = sum(count for stack, count in samples.stacks.items() if is_idle(stack))
    return idle / samples.total if samples.total else 0.0


def busiest(all_samples: Iterable[Samples], most: int) -> list[tuple[str, float]]:
    """Return the innermost frames of busy samples, the most frequent first, with their shares.

    The share is of all samples of these processes, idle ones included.
    """
    found, total = Counter[str](), 0
    for samples in all_samples:
        total += samples.total
        for stack, count in samples.stacks.items():
            if not is_idle(stack):
                found[stack[-1]] += count
    return [(frame, count / total) for frame, count in found.most_common(most)]
