"""Snapshots of runs for the tests of what shows them."""

from __future__ import annotations

from typing import Any

from galamp.telemetry.snapshot import (
    LEARNER_PHASES,
    ConsensusReading,
    EdgeSnapshot,
    Event,
    GpuReading,
    LearnerSnapshot,
    MetricHistory,
    Snapshot,
    SystemReading,
    WorkerState,
)


def learner(rank: int, of: int, **known: Any) -> LearnerSnapshot:
    """Return a busy learner whose every number can be told from the others'."""
    values: dict[str, Any] = {
        "state": WorkerState.RUNNING,
        "device": f"cuda:{rank % 2}",
        "agent_steps_per_s": 1111.0 + rank,
        "phase_shares": dict(zip(LEARNER_PHASES, (0.41, 0.14, 0.31, 0.04, 0.1), strict=True)),
        "mean_return": 20.5 + rank,
        "staleness": rank % 8,
        "envs": 16,
        "sent": 2000 + rank,
        "received": 3000 + rank,
        "overwritten": 40 + rank,
        "distance": 0.501 + rank / 100,
        "out_peers": ((rank + 1) % of,) if of > 1 else (),
    }
    return LearnerSnapshot(rank=rank, **(values | known))


def busy(number: int, /, **known: Any) -> Snapshot:
    """Return a run in full swing."""
    values: dict[str, Any] = {
        "env_id": "ALE/Breakout-v5",
        "protocol": "classic: no sticky actions, 30 no-ops, life loss ends, clipped rewards",
        "run_dir": "runs/ALE-Breakout-v5__ring__s1__20250101-120000",
        "status": "running",
        "elapsed_s": 4000.0,
        "agent_steps": 1_240_000,
        "total_steps": 10_000_000,
        "frames_per_step": 4,
        "agent_steps_per_s": 2310.0,
        "learners": tuple(learner(rank, number) for rank in range(number)),
        "episodes": 1234,
        "mean_return": 34.2,
        "best_mean_return": 36.1,
        "mean_length": 812.4,
        "curve": tuple((1000 * i, 1.5 + i * 0.3) for i in range(100)),
        "losses": {
            "policy_loss": -0.0123,
            "value_loss": 0.345,
            "entropy": 1.213,
            "grad_norm": 0.482,
            "explained_variance": 0.553,
        },
        "consensus": ConsensusReading(
            distances=tuple(0.501 + rank / 100 for rank in range(number)),
            rms=0.42,
            pairwise=0.81,
            certificate=2.7,
            ratio=0.3,
            radius=4.5,
            gradient_correlation=0.07,
        ),
        "events": (Event(60.0, "checkpoint 1 saved"), Event(90.0, "checkpoint 2 saved")),
        "restarts": 2,
        "former_s": 60.0,
        "attempt": 2,
        "remaining_s": 3792.2,
        "max_staleness": 8,
        "max_grad_norm": 0.5,
        "edges": tuple(
            EdgeSnapshot((rank - 1) % number, rank, rank % 8, 100 + rank, 0.5)
            for rank in range(number if number > 1 else 0)
        ),
        "has_ages": number > 1,
        "system": SystemReading(
            cores=(0, 1, 2, 3),
            loads=(1.0, 0.9, 0.8, 0.7),
            run_share=0.8,
            others_share=0.05,
            memory_bytes=3 * 2**30,
            free_bytes=20 * 2**30,
            gpus=(GpuReading("cuda:0", "H200", 0.71, 5 * 2**30, 141 * 2**30, 212.0),),
            watts=212.0,
            joules_per_frame=0.0229,
        ),
        "bottleneck": "infer 51%, batches of 4: --num-envs 8, at most +34%",
        "history": MetricHistory(
            7,
            tuple(range(0, 100_000, 1000)),
            {
                "charts/episodic_return": tuple(i / 10 for i in range(100)),
                "charts/SPS": tuple(2000.0 + i for i in range(100)),
                **{
                    f"learner{r}/episodic_return": (None,) * 50
                    + tuple(float(i + r) for i in range(50))
                    for r in range(number)
                },
            },
        ),
    }
    return Snapshot(**(values | known))


EMPTY = Snapshot("CartPole-v1", "", "runs/x", "starting", 0.0, 0, 1000, 1, 0.0)
