"""A snapshot as one row of metrics: the public names of metrics.jsonl, TensorBoard and the others.

    Snapshot --metrics_row--> {"global_step": ..., "charts/episodic_return": ...} --> metric sinks

Runs in the supervisor. Pure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from galamp.telemetry.snapshot import Snapshot, SystemReading

GIB = 2**30
JOULES_PER_FRAME = "system/joules_per_frame"


def mean_of(gauges: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each gauge over the learners that have it."""
    names = dict.fromkeys(name for each in gauges for name in each)
    return {name: float(np.mean([g[name] for g in gauges if name in g])) for name in names}


def metrics_row(snapshot: Snapshot, former_s: float) -> dict[str, Any]:
    """Return a snapshot under the public metric names; the x axis is `global_step`."""
    learners = snapshot.learners
    row: dict[str, Any] = {
        "global_step": snapshot.agent_steps,
        "emulator_frames": snapshot.agent_steps * snapshot.frames_per_step,
        "wall_s": former_s + snapshot.elapsed_s,
        "charts/episodic_return": snapshot.mean_return,
        "charts/episodic_length": snapshot.mean_length,
        "charts/episodes": snapshot.episodes,
        "charts/SPS": snapshot.agent_steps_per_s,
        "charts/learning_rate": snapshot.learning_rate,
        "charts/restarts": snapshot.restarts,
        "gossip/consensus_distance": snapshot.consensus.rms,
        "gossip/pairwise_distance": snapshot.consensus.pairwise,
        "gossip/certificate": snapshot.consensus.certificate,
        "gossip/certificate_ratio": snapshot.consensus.ratio,
        "gossip/radius": snapshot.consensus.radius,
        "gossip/gradient_correlation": snapshot.consensus.gradient_correlation,
        "gossip/staleness": max((each.staleness for each in learners), default=0),
        "gossip/sent": sum(each.sent for each in learners),
        "gossip/received": sum(each.received for each in learners),
        "gossip/overwritten": sum(each.overwritten for each in learners),
    }
    row |= {f"losses/{name}": value for name, value in snapshot.losses.items()}
    row |= _system(snapshot.system)
    shares = mean_of([each.phase_shares for each in learners])
    row |= {f"perf/{name}_share": value for name, value in shares.items()}
    for each in learners:
        name = f"learner{each.rank}/"
        row |= {
            name + "agent_steps": each.agent_steps,
            name + "updates": each.updates,
            name + "SPS": each.agent_steps_per_s,
            name + "episodic_return": each.mean_return,
            name + "staleness": each.staleness,
            name + "envs": each.envs,
            name + "incarnation": each.incarnation,
            name + "distance": each.distance,
        }
    return row


def _system(seen: SystemReading) -> dict[str, Any]:
    """Return what the run takes of the machine; None where that is not known."""
    rates = [gpu.utilisation for gpu in seen.gpus if gpu.utilisation is not None]
    used = [gpu.memory_bytes for gpu in seen.gpus if gpu.memory_bytes is not None]
    return {
        "system/cpu": seen.run_share,
        "system/cpu_others": seen.others_share,
        "system/memory": None if seen.memory_bytes is None else seen.memory_bytes / GIB,
        "system/gpu": float(np.mean(rates)) if rates else None,
        "system/gpu_memory": sum(used) / GIB if used else None,
        "system/watts": seen.watts,
        JOULES_PER_FRAME: seen.joules_per_frame,
    }
