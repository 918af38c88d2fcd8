"""Bottleneck: what limits the throughput of a run, and which flag changes that. From facts only.

    Facts --bottleneck--> one line, or nothing while too little is known

Pure. A gain is what was measured on this machine (`--learners auto` keeps it), or at most what is
left if a phase took no time (Amdahl 1967). No device is named that learners do not run on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

LEAST_UPDATES = 10
"""Updates of every learner before anything is said."""
CLOSE = 0.15
"""Two largest phases within so much: there is no single limit."""
FULL, IDLE = 0.9, 0.6
"""Share of the cores' time from which they are full, and up to which some are idle."""
MANY_OTHERS = 0.15
SMALL_BATCH, SMALL_GPU_BATCH = 32, 256
IDLE_SIMULATORS = 0.4
IDLE_GPU = 0.4
LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Facts:
    """What is known of a run at one moment.

    Attributes:
        shares: of each phase in the learners' time, their means.
        updates: of the learner with the fewest, in this attempt.
        learners: how many run.
        cores: processors whose time the run may use.
        busy: share of their time in use, by anybody; None: unknown.
        others: share of their time that other programs take.
        envs: environments per learner.
        splits: parts of them that act in turns (`--env-splits`).
        workers: simulators per learner.
        threads: of each learner.
        simulators_idle: share of the simulators' time that they wait; None: unknown.
        on_gpu: whether learners run on GPUs.
        gpu: their mean utilisation; None: unknown.
        gpus: how many GPUs learners use.
        synchronous: whether learners wait for each other by intent.
        max_staleness: see `--max-staleness`.
        rates: agent steps/s by number of learners, measured on this machine.
    """

    shares: Mapping[str, float]
    updates: int
    learners: int
    cores: int
    busy: float | None
    others: float
    envs: int
    splits: int
    workers: int
    threads: int
    simulators_idle: float | None = None
    on_gpu: bool = False
    gpu: float | None = None
    gpus: int = 0
    synchronous: bool = False
    max_staleness: int | None = None
    rates: Mapping[int, float] = field(default_factory=dict)

    @property
    def batch(self) -> float:
        """Environments per forward pass."""
        return self.envs / max(1, self.splits)


def bottleneck(facts: Facts) -> str:
    """Return what limits the throughput and what to change; empty while that is not known."""
    if facts.updates < LEAST_UPDATES or not facts.shares or facts.busy is None:
        return ""
    return next(_machine(facts), "") or _phase(facts)


def _machine(facts: Facts) -> Iterator[str]:
    """Yield what the machine limits, whatever the learners do."""
    best = max(facts.rates, key=lambda count: facts.rates[count], default=facts.learners)
    if best != facts.learners and facts.learners in facts.rates:
        gain = facts.rates[best] / facts.rates[facts.learners] - 1
        if gain >= LEAST_GAIN:
            yield f"--learners {best}: +{gain:.0%}, as measured on this machine"
    if facts.others >= MANY_OTHERS:
        first = max(facts.shares, key=lambda name: facts.shares[name])
        others = f"other programs take {facts.others:.0%} of the cores"
        yield f"{others}; {first} {facts.shares[first]:.0%}"


def _phase(facts: Facts) -> str:
    """Return the advice for the largest phase."""
    first, second = sorted(facts.shares, key=lambda name: -facts.shares[name])[:2]
    share = facts.shares[first]
    if share - facts.shares[second] < CLOSE:
        rest = facts.shares[second]
        return f"balanced: {first} {share:.0%}, {second} {rest:.0%}; no single limit"
    advice = _ADVICE[first](facts, share)
    return f"{first} {share:.0%}{advice}"


def _at_most(share: float) -> str:
    """Return the gain if `share` of the time were saved."""
    return f"at most +{share / (1 - min(share, 0.95)):.0%}"


def _collect(facts: Facts, share: float) -> str:
    assert facts.busy is not None
    if facts.simulators_idle is not None and facts.simulators_idle > IDLE_SIMULATORS:
        if facts.splits == 1 and facts.envs > 1:
            idle = f"simulators idle {facts.simulators_idle:.0%}"
            return f", {idle}: --env-splits 2, {_at_most(share / 2)}"
        return f": both sides wait for wake-ups; simulators idle {facts.simulators_idle:.0%}"
    if facts.busy < IDLE and facts.workers < facts.envs:
        more = min(facts.envs, 2 * facts.workers)
        return f", cores {facts.busy:.0%} busy: --simulator-workers {more}, {_at_most(share / 2)}"
    if facts.busy >= FULL:
        return f": simulators fill {facts.cores} cores; more cores would help"
    return ": waiting for simulators"


def _infer(facts: Facts, share: float) -> str:
    assert facts.busy is not None
    if facts.on_gpu:
        return _on_gpu(facts, share)
    if facts.batch < SMALL_BATCH:
        more = facts.envs * 2
        return f", batches of {facts.batch:.0f}: --num-envs {more}, {_at_most(share / 2)}"
    return _threads(facts, share)


def _update(facts: Facts, share: float) -> str:
    return _on_gpu(facts, share) if facts.on_gpu else _threads(facts, share)


def _threads(facts: Facts, share: float) -> str:
    assert facts.busy is not None
    spare = facts.cores // max(1, facts.learners)
    if facts.busy < IDLE and spare > facts.threads:
        saved = share * (1 - facts.threads / spare)
        return f", cores {facts.busy:.0%} busy: --threads {spare}, {_at_most(saved)}"
    if facts.busy >= FULL:
        return f": the network fills {facts.cores} cores; a smaller one would help"
    return ": the network is the limit"


def _on_gpu(facts: Facts, share: float) -> str:
    if facts.gpu is not None and facts.gpu < IDLE_GPU and facts.learners <= facts.gpus:
        more = 2 * facts.learners
        return f", GPU {facts.gpu:.0%} busy: --learners {more}, {_at_most(share)}"
    if facts.batch < SMALL_GPU_BATCH:
        more = facts.envs * 2
        return f", batches of {facts.batch:.0f}: --num-envs {more}, {_at_most(share / 2)}"
    return ": the network is the limit"


def _gossip(facts: Facts, share: float) -> str:
    if facts.synchronous:
        return f", waiting for the slowest: without --sync {_at_most(share)}"
    if facts.max_staleness is not None and facts.max_staleness > 0:
        more = 4 * facts.max_staleness
        return f", for slower peers: --max-staleness {more}, {_at_most(share)}"
    return f", vectors this large: --gossip-every 2, {_at_most(share / 2)}"


def _other(facts: Facts, share: float) -> str:
    if facts.learners > facts.cores:
        return f", {facts.learners} learners on {facts.cores} cores: fewer --learners"
    return ": neither simulators nor network"


_ADVICE = {
    "collect": _collect,
    "infer": _infer,
    "update": _update,
    "gossip": _gossip,
    "other": _other,
}
