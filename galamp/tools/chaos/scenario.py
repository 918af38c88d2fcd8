"""Chaos scenario: a run callback with warm-up, faults and calm, while all invariants are checked.

    Supervisor --tick--> ChaosScenario: sample throughput, check invariants, inject due faults
                           |  at the end, or at the first breach
                           +--> Supervisor.finish

Runs in the supervisor's loop; every step of it is short.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

from galamp.telemetry.snapshot import Goal
from galamp.tools.chaos.clock import Clock
from galamp.tools.chaos.injector import Disturb, InjectedFault, Injector
from galamp.tools.chaos.invariants import Breach, Invariant
from galamp.tools.chaos.link import Disturbance, LinkView, of_link
from galamp.tools.chaos.link_watch import LinkWatch
from galamp.tools.chaos.monitor import InvariantMonitor
from galamp.tools.chaos.other_view import OtherView
from galamp.tools.chaos.recovery import WINDOW_S, Throughput
from galamp.tools.chaos.schedule import MACHINE, Fault, draw
from galamp.tools.chaos.second_node import SecondNode
from galamp.training.supervisor import Supervisor

SAMPLE_EVERY_S, WEIGH_EVERY_S = 0.1, 5.0
LATE_TIMEOUT_S = 15.0
"""Faults that could not be injected this long after the last one was due are left out."""
OVER = object()
CALM_S = 2 * WINDOW_S
"""Time for which throughput is measured after the last fault is over."""
CALM_TIMEOUT_S = 60.0
STOP_OF_LIMIT = 0.8
"""Longest stop of a process that is continued, as a share of the hang limit."""


class ChaosScenario:
    """The faults of one run, and their results."""

    def __init__(
        self,
        seconds: float,
        warm_up_s: float,
        seed: int,
        every_s: float,
        second: SecondNode | None = None,
    ) -> None:
        """Plan `seconds` of faults drawn from `seed`, about `every_s` apart.

        With a `second` node, the bridge and the link to it are targets, too.
        """
        self._second = second
        self.seconds, self.warm_up_s, self.seed, self.every_s = seconds, warm_up_s, seed, every_s
        self.faults: tuple[Fault, ...] = ()
        self.began_s: float | None = None
        """Time at which the warm-up ended; None before."""
        self.complete = False
        """Whether all faults were injected, and the calm after them has passed."""
        self.breach: Breach | None = None
        self.broken_s = 0.0
        self.throughput = Throughput()
        self._warm_s: float | None = None
        """Time at which the warm-up began."""
        self._sample, self._weigh = Clock(SAMPLE_EVERY_S), Clock(WEIGH_EVERY_S)
        self._injector: Injector | None = None
        self._monitor: InvariantMonitor | None = None
        self._resolved: Generator[None] | None = None

    def tick(self, supervisor: Supervisor) -> None:
        """Do the next step, unless the run is ending."""
        self._resolved = self._resolved or self._run(supervisor)
        supervisor.recorder.goal = self.goal(time.monotonic())
        if ends(supervisor):
            self._resolved.close()
        elif next(self._resolved, OVER) is OVER:
            supervisor.finish()  # also where the run continues with another number of learners

    def goal(self, now_s: float) -> Goal:
        """Return the progress by time: warm-up, faults and calm."""
        whole_s = self.warm_up_s + self.seconds + CALM_S
        if self.began_s is None:
            passed_s = 0.0 if self._warm_s is None else min(now_s - self._warm_s, self.warm_up_s)
            text = f"warm-up: {passed_s:.0f} of {self.warm_up_s:.0f} s"
        else:
            faults_s = now_s - self.began_s
            passed_s = min(whole_s, self.warm_up_s + faults_s)
            text = f"{min(faults_s, self.seconds):.0f} of {self.seconds:.0f} s"
            text += f"   fault {len(self.injected_faults)} of {len(self.faults)}"
        broken = 0 if self.breach is None else 1
        text += f"   {broken} {'invariant' if broken == 1 else 'invariants'} broken"
        return Goal(passed_s / whole_s, text, max(0.0, whole_s - passed_s))

    @property
    def injected_faults(self) -> list[InjectedFault]:
        """The faults that were injected."""
        return self._injector.injected_faults if self._injector else []

    @property
    def invariants(self) -> list[Invariant]:
        """The invariants that were checked."""
        return self._monitor.invariants if self._monitor else []

    def _run(self, supervisor: Supervisor) -> Generator[None]:
        """The whole scenario, one iteration of the supervisor's loop at a time."""
        while not works(supervisor):
            yield
        injector, monitor = self._start(supervisor)
        try:
            yield from self._warm_up(supervisor, monitor)
            yield from self._inject(supervisor, injector, monitor)
            yield from self._calm(supervisor, injector, monitor)
            self.complete = self.breach is None
        finally:
            injector.release()
            monitor.close()

    def _start(self, supervisor: Supervisor) -> tuple[Injector, InvariantMonitor]:
        run_layout = supervisor.run_layout
        self.faults = draw(
            self.seed,
            learners=run_layout.count,
            workers=run_layout.shape.workers,
            seconds=self.seconds,
            every_s=self.every_s,
            max_stop_s=STOP_OF_LIMIT * run_layout.plan.config.resources.hang_after_s,
            link=self._second is not None,
        )
        view = None
        if self._second is not None:
            other = OtherView(self._second.folder, run_layout.plan.ranks.node)
            view = LinkView(run_layout, other)
        self._injector = Injector(supervisor.children, self.faults, self._disturber(view))
        folder = Path(supervisor.recorder.snapshot().run_dir)
        watch = None
        if view is not None and self._second is not None:
            watch = LinkWatch(supervisor, self._injector, view, self._second)
        self._monitor = InvariantMonitor(supervisor, self._injector, folder, watch)
        supervisor.recorder.log_event(
            f"chaos: seed {self.seed}, {len(self.faults)} faults for {run_layout.count} learners "
            f"and {run_layout.plan.simulators} simulators, after {self.warm_up_s:g} s without",
            kind="chaos",
        )
        return self._injector, self._monitor

    def _disturber(self, view: LinkView | None) -> Disturb | None:
        """Return what begins a fault of the link, or of the other machine, if there is one."""
        if view is None or self._second is None:
            return None
        second = self._second

        def begin(fault: Fault, now_s: float) -> Disturbance | None:
            if fault.role == MACHINE:
                if not (second.saved and view.present):
                    return None
                return Disturbance(fault, now_s, view, second.kill, second.start_again)
            return of_link(fault, now_s, second.link, view)

        return begin

    def _warm_up(self, supervisor: Supervisor, monitor: InvariantMonitor) -> Generator[None]:
        """Measure the usual duration of a turn."""
        learners = supervisor.children.learners
        first = [child.work for child in learners]
        from_s = self._warm_s = time.monotonic()
        while (passed_s := time.monotonic() - from_s) < self.warm_up_s or not monitor.quiet:
            self._step(supervisor, monitor)
            yield
        slowest = min(child.work - work for child, work in zip(learners, first, strict=True))
        monitor.set_usual_turn(passed_s / max(1, slowest))
        monitor.weigh()
        self.began_s = time.monotonic()

    def _inject(
        self, supervisor: Supervisor, injector: Injector, monitor: InvariantMonitor
    ) -> Generator[None]:
        """Inject every fault, when it is due or as soon after as its target is ready."""
        assert self.began_s is not None
        until_s = self.began_s + self.seconds
        while (now_s := time.monotonic()) < until_s or injector.waiting:
            if now_s > until_s + LATE_TIMEOUT_S:
                return
            for injected in injector.tick(now_s, self.began_s):
                fault = injected.fault
                supervisor.recorder.log_event(
                    f"chaos {fault.number}/{len(self.faults)}: {fault.words}", kind="chaos"
                )
            self._step(supervisor, monitor)
            if not injector.open and monitor.quiet and self._weigh.due(now_s):
                monitor.weigh()
            yield

    def _calm(
        self, supervisor: Supervisor, injector: Injector, monitor: InvariantMonitor
    ) -> Generator[None]:
        """Wait until all targets work again, and measure throughput."""
        assert self.began_s is not None
        injector.waiting.clear()
        from_s = since_s = time.monotonic()
        while (now_s := time.monotonic()) < since_s + CALM_S or not monitor.quiet:
            if now_s > from_s + CALM_TIMEOUT_S:
                break
            since_s = now_s if injector.open else since_s
            list(injector.tick(now_s, self.began_s))
            self._step(supervisor, monitor)
            yield
        if monitor.quiet:  # else a checkpoint that is being written is open
            monitor.weigh()

    def _step(self, supervisor: Supervisor, monitor: InvariantMonitor) -> None:
        """Sample and check; at the first breach, end the run."""
        now_s = time.monotonic()
        if self._sample.due(now_s):
            steps = sum(child.work for child in supervisor.children.learners)
            self.throughput.add(now_s, steps)  # of this machine: others' come late, if they come
        monitor.tick(now_s)
        if monitor.breach is not None and self.breach is None:
            self.breach, self.broken_s = monitor.breach, now_s
            supervisor.recorder.log_event(f"chaos: broken: {self.breach.name}", kind="chaos")
            supervisor.finish()


def works(supervisor: Supervisor) -> bool:
    """Return whether every learner has made agent steps."""
    return all(child.has_worked for child in supervisor.children.learners)


def ends(supervisor: Supervisor) -> bool:
    """Return whether the run is ending: its total is reached, or a stop was requested."""
    leaving = any(child.row["done"] for child in supervisor.children.learners)
    return leaving or supervisor.recorder.status == "stopping"
