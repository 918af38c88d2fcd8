"""What a run is made of, for config.json, and how it ended: `--json` and summary.json.

Runs in the supervisor, at the beginning of every start and once at the end.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from typing import Any

import galamp
from galamp.core.config import to_dict
from galamp.memory.metrics import POLICY_LAG
from galamp.storage.attempts import attempt_entry
from galamp.supervision.layout import RunLayout
from galamp.supervision.plan import Plan
from galamp.telemetry.recorder import Recorder
from galamp.telemetry.snapshot import Snapshot
from galamp.training.result import RunResult
from galamp.training.start_events import command_line


def summarise(
    result: RunResult, run_layout: RunLayout, recorder: Recorder, start: int, wall_s: float
) -> dict[str, Any]:
    """Return the summary of a run: printed by `--json`, stored in summary.json."""
    snapshot = recorder.snapshot()
    progress = recorder.progress()
    metrics = [row.metrics for row in run_layout.status_board.learners()]
    return {
        "status": result.status,
        "failure": str(result.failure) if result.failure else None,
        "ended_by": result.reason.kind if result.reason else None,
        "reason": result.reason.text if result.reason else None,
        "run_dir": snapshot.run_dir,
        "env_id": snapshot.env_id,
        "protocol": snapshot.protocol,
        "agent_steps": snapshot.agent_steps,
        "emulator_frames": snapshot.agent_steps * snapshot.frames_per_step,
        "wall_s": round(progress["wall_s"], 3),
        "start": start,
        "start_wall_s": round(wall_s, 3),
        "agent_steps_per_s": round(recorder.overall_rate(), 1),
        "updates_per_learner": [learner.updates for learner in snapshot.learners],
        "policy_lag": snapshot.losses.get(POLICY_LAG, 0.0),
        "mixes_per_learner": [each["mixes"] for each in metrics],
        "most_staleness": max(each["most_staleness"] for each in metrics),
        "gossip": gossip_summary(snapshot, run_layout),
        "time_shares": recorder.overall_shares(),
        "episodes": snapshot.episodes,
        "mean_return_100": snapshot.mean_return,
        "best_mean_return_100": snapshot.best_mean_return,
        "evaluation": snapshot.evaluation and dataclasses.asdict(snapshot.evaluation),
        "overflowed_updates": sum(each["overflows"] for each in metrics),
        "restarts": recorder.losses.restarts,
        "given_up": recorder.losses.given_up,
        "seed": run_layout.plan.config.seed,
        "command": command_line(),
        "versions": versions(),
    }


def gossip_summary(snapshot: Snapshot, run_layout: RunLayout) -> dict[str, Any]:
    """Return the gossip settings, and the distances between the learners at the end."""
    gossip, seen = run_layout.plan.config.gossip, snapshot.consensus
    return {
        "method": gossip.method,
        "topology": gossip.topology,
        "global_average_every": gossip.global_average_every,
        "left_out": sum(row.metrics["left_out"] for row in run_layout.status_board.learners()),
        "below_floor": sum(
            row.metrics["below_floor"] for row in run_layout.status_board.learners()
        ),
        "torn": _torn(run_layout),
        "refused": sum(node.refused for node in snapshot.nodes) if snapshot.nodes else None,
        "synchronous": gossip.synchronous,
        "consensus_distance": seen.rms,
        "pairwise_distance": seen.pairwise,
        "certificate": seen.certificate,
        "certificate_ratio": seen.ratio,
        "radius": seen.radius,
        "gradient_correlation": seen.gradient_correlation,
    }


def _torn(run_layout: RunLayout) -> int | None:
    """Return how many copies were found torn; None where none was verified."""
    if not run_layout.plan.config.gossip.verify_gossip:
        return None
    return sum(row.metrics["torn"] for row in run_layout.status_board.learners())


def versions() -> dict[str, str]:
    """Return the versions of galamp, Python and the packages that results depend on."""
    packages = ("torch", "numpy", "gymnasium", "ale-py")
    return {
        "galamp": galamp.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def stored_config(plan: Plan, run_layout: RunLayout) -> dict[str, Any]:
    """Return config.json: the settings with every choice made, and what they led to."""
    return to_dict(plan.asked) | {
        "resolved": {
            "protocol": run_layout.environment.protocol,
            "network": run_layout.sketch.network,
            "parameters": run_layout.sketch.parameters,
            "learners": [
                {"rank": each.rank, "device": each.device, "cores": each.cpus._asdict()}
                for each in plan.learners
            ],
            "versions": versions(),
            **attempt_entry(run_layout.start),
        }
    }
