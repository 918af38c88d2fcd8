"""Known tasks with known bars, for `bin/bench learning`: one line of `TASKS` each. Data only.

The bar of CartPole-v1 is Gymnasium's own (`reward_threshold`), that of Acrobot-v1 ten above it.
That of Pendulum-v1 takes a policy that swings up and stands. In Pong PPO is to come within three
points of the most, and V-trace to +15 no later than A2C, as are four learners on two nodes no later
than on one; these runs end at their bar, which saves hours. MinAtar's Breakout shows the latter in
minutes, and so over more seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.errors import UserError, did_you_mean

MINUTE_S = 60.0
CUE = (
    "--env-id galamp.tools.bench.cue:FirstCue --algorithm ppo --learners 1 --num-envs 64 "
    "--num-steps 16 --learning-rate 2e-3"
)
"""A task for a memory; guessing gives a mean return of 0.25 there."""

PONG = {
    "ppo": ("--preset ppo-atari --num-envs 4 --num-minibatches 16", 2_500_000, 18),
    "vtrace": ("--algorithm vtrace --num-envs 8", 3_000_000, 15),
    "a2c": ("--algorithm a2c --num-envs 8", 3_000_000, 15),
}
"""Algorithm -> flags, agent steps and bar for Pong by two learners. Those of PPO have the eight
environments of CleanRL's `ppo_atari.py` together, so each makes as many updates as that, and take
32 transitions at once: by 128 PPO had learned nothing after 0.9 million agent steps."""

OF_FOUR = {
    "1x4": (1, "--algorithm a2c --learners 4 --num-envs 4"),
    "2x2": (2, "--algorithm a2c --learners 2 --num-envs 4 --topology hierarchical"),
}
"""Nodes x learners of each -> number of nodes, and flags."""

MINATAR = {
    "a2c": "--algorithm a2c --learners 2 --num-envs 16",
    "ppo": "--algorithm ppo --learners 2 --num-envs 32 --num-steps 32 --num-minibatches 4 "
    "--learning-rate 2.5e-3 --lr-schedule linear",
    "pqn": "--preset pqn-minatar --learners 2 --num-envs 64 --num-minibatches 16",
}
"""Algorithm -> flags for MinAtar's games."""
MINATAR_STEPS = 1_000_000
MINATAR_BARS = {"breakout": (5.0, 5.3), "asterix": (1.5, 1.6)}
"""Game -> what A2C has to reach, and what the others have to: more than A2C had at the end."""
OF_FOUR_IN_MINATAR = (400_000, 3.0)
"""Agent steps and bar in MinAtar's Breakout, by four learners of four environments."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: its name.
        flags: the arguments of `galamp run`, without `--total-steps`, `--seed` and `--device`.
        steps: agent steps over all learners, within which the bar is to be reached.
        bar: mean return of 100 training episodes in a row that counts as learned.
        limit_s: most time for one training, with start and end.
        slow: whether it is only trained if it is named.
        control: whether it must not reach the bar: what this shows is that another task is hard.
        nodes: on so many nodes, all on this machine.
    """

    name: str
    flags: str
    steps: int
    bar: float
    limit_s: float = 30 * MINUTE_S
    slow: bool = False
    control: bool = False
    nodes: int = 1


def _of_minatar(game: str, algorithm: str) -> Task:
    bar = MINATAR_BARS[game][algorithm != "a2c"]
    flags = f"--env-id galamp.tools.bench.minatar:{game} {MINATAR[algorithm]}"
    return Task(f"minatar-{game}-{algorithm}", flags, MINATAR_STEPS, bar, slow=True)


def _of_pong(algorithm: str) -> Task:
    own, steps, bar = PONG[algorithm]
    flags = f"--game Pong --learners 2 {own} --stop-score {bar}"
    return Task(f"pong-{algorithm}", flags, steps, bar, limit_s=240 * MINUTE_S, slow=True)


def _of_pong_by_four(shape: str) -> Task:
    nodes, own = OF_FOUR[shape]
    _, steps, bar = PONG["a2c"]
    flags = f"--game Pong {own} --stop-score {bar}"
    limit_s = 240 * MINUTE_S
    return Task(f"pong-a2c-{shape}", flags, steps, bar, limit_s=limit_s, slow=True, nodes=nodes)


def _of_minatar_by_four(shape: str) -> Task:
    (nodes, own), (steps, bar) = OF_FOUR[shape], OF_FOUR_IN_MINATAR
    flags = f"--env-id galamp.tools.bench.minatar:breakout {own}"
    return Task(f"minatar-breakout-a2c-{shape}", flags, steps, bar, slow=True, nodes=nodes)


TASKS = {
    task.name: task
    for task in (
        Task(
            "cartpole-a2c", "--env-id CartPole-v1 --preset a2c-classic --learners 1", 200_000, 475
        ),
        Task(
            "cartpole-ppo", "--env-id CartPole-v1 --preset ppo-cartpole --learners 1", 100_000, 475
        ),
        Task(
            "cartpole-pqn", "--env-id CartPole-v1 --preset pqn-cartpole --learners 1", 200_000, 475
        ),
        Task("acrobot-ppo", "--env-id Acrobot-v1 --preset ppo-acrobot --learners 1", 200_000, -90),
        Task(
            "pendulum-ppo", "--env-id Pendulum-v1 --preset ppo-pendulum --learners 2", 200_000, -250
        ),
        Task("cue-gru", f"{CUE} --network mlp-gru", 60_000, 0.9),
        Task("cue-mlp", f"{CUE} --network mlp", 60_000, 0.9, control=True),
        *(_of_pong(algorithm) for algorithm in PONG),
        *(_of_pong_by_four(shape) for shape in OF_FOUR),
        *(_of_minatar(game, algorithm) for game in MINATAR_BARS for algorithm in MINATAR),
        *(_of_minatar_by_four(shape) for shape in OF_FOUR),
    )
}


def chosen(names: list[str]) -> list[Task]:
    """Return the tasks of these names, or all that are not slow.

    Raises:
        UserError: there is none of that name.
    """
    for name in names:
        if name not in TASKS:
            raise UserError(
                f"--task {name}: expected one of {', '.join(TASKS)}{did_you_mean(name, TASKS)}"
            )
    named = [TASKS[name] for name in dict.fromkeys(names)]
    return named or [task for task in TASKS.values() if not task.slow]
