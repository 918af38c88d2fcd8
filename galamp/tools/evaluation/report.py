"""Evaluation, from path to report.

    path --locate, read--> Trained --> Agent x rows --play--> games x rows --> report, JSON file

Runs in one process, with the emulator's and torch's own threads; a short-lived process probes the
environment first, since a bad ROM ends its process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from galamp.algorithms.networks import check_network_asked
from galamp.core.config import EnvironmentConfig
from galamp.core.disk import in_home, write_new
from galamp.core.errors import GalampError, UserError
from galamp.core.seeding import seed_for, seed_generators
from galamp.core.user_code import check_all_asked
from galamp.environments import (
    EnvironmentSpec,
    finish_probe,
    make_environment,
    start_probe,
)
from galamp.environments.base import closing_quietly
from galamp.environments.failures import failures_reported
from galamp.environments.names import ATARI, canonical_env_id, check_asked
from galamp.environments.protocols import AtariProtocol, resolve
from galamp.storage.checkpoint import Found
from galamp.telemetry.display.streams import STARTING, announce
from galamp.tools.evaluation.config import EACH, EvaluationConfig
from galamp.tools.evaluation.playing import Act, Game, play, score
from galamp.tools.evaluation.references import SOURCE, misfit, reference_for
from galamp.tools.evaluation.table import Progress
from galamp.tools.evaluation.trained import MEAN, Learner, Trained, locate, read
from galamp.tools.evaluation.whole_games import whole_games, with_step_limit

if TYPE_CHECKING:
    import torch

    from galamp.tools.evaluation.agent import Agent

AS_ASKED = ("sticky_actions", "noop_max", "fire_reset", "max_frames", "max_episode_steps")
"""Settings of the training's environment that an evaluation can change."""
MAX_ENVS = 16
MAX_TORCH_THREADS = 4
"""Batches of a few observations are no faster with more."""


def evaluate(
    path: Path, config: EvaluationConfig, progress: Progress
) -> tuple[dict[str, Any], Path]:
    """Evaluate the checkpoint that `path` means; returns the report and the file for `write`.

    Raises:
        UserError: the checkpoint, the environment, the device or the output cannot be used.
    """
    began_s = time.monotonic()
    found = locate(path, config.which)
    for line in found.skipped:
        sys.stderr.write(f"galamp: warning: damaged checkpoint passed over: {line}\n")
    wanted = _wanted(config.learner)
    trained = read(found.path, MEAN if wanted == EACH else wanted)
    _check_asked(trained, config)
    target = _target(config.output, found, config.learner)
    environment = evaluation_environment(trained.environment, config)
    if not config.quiet:
        announce(STARTING, sys.stderr)
    agents, spec = _prepare(trained, wanted, environment, config)
    trained = trained.without_learners()  # the agents have their own copies
    environment = with_step_limit(environment, spec)
    games, spec = _play_all(agents, environment, config, progress)
    atari = resolve(environment) if spec.env_id.startswith(ATARI) else None
    report = {
        "env_id": spec.env_id,
        "protocol": spec.protocol,
        "checkpoint": str(trained.path),
        "agent_steps": trained.agent_steps,
        "num_envs": environment.num_envs,
        "max_frames": atari.max_frames if atari else None,
        "max_episode_steps": spec.max_episode_steps,
        "own_step_limit": spec.max_episode_steps != environment.max_episode_steps,
        "greedy": config.greedy,
        "seed": config.seed,
        "device": str(agents[0].device),
        **_scores(spec, atari, agents, games),
    }
    return report | _circumstances(began_s), target


def _prepare(
    trained: Trained,
    wanted: Learner | Literal["each"],
    environment: EnvironmentConfig,
    config: EvaluationConfig,
) -> tuple[list[Agent], EnvironmentSpec]:
    """Return the agents, and the environment's specification, probed while torch is imported.

    Nothing is built of the checkpoint before it is known to be of that environment.
    """
    probe = start_probe(environment, timeout_s=config.start_timeout_s, seed=config.seed)
    try:
        device = _device(config.device)
    except BaseException:
        probe.cancel()
        raise
    spec = finish_probe(probe)
    trained.check_fits(spec)
    return _agents(trained, wanted, device, config.network), spec


def write(target: Path, report: dict[str, Any]) -> Path:
    """Write a report to a new file and return its path.

    A name that was taken in the meantime gets the suffix `-2`, `-3`, ...

    Raises:
        GalampError: the disk refuses; nothing is left of the file.
    """
    content = json.dumps(report, allow_nan=False, indent=1).encode() + b"\n"
    for number in itertools.count(1):
        path = target if number == 1 else target.with_stem(f"{target.stem}-{number}")
        try:
            write_new(path, content)
            return path
        except FileExistsError:
            continue
        except BaseException as error:
            with contextlib.suppress(OSError):
                path.unlink()
            if isinstance(error, OSError):
                raise GalampError(f"{path} not written: {error.strerror}") from None
            raise
    raise AssertionError("unreachable")


def evaluation_environment(
    trained: EnvironmentConfig, config: EvaluationConfig
) -> EnvironmentConfig:
    """Return the training's environment, changed to score whole games by true rewards."""
    asked: dict[str, Any] = {name: getattr(config, name) for name in AS_ASKED}
    given = {name: value for name, value in asked.items() if value is not None}
    envs = min(config.episodes, config.num_envs or MAX_ENVS)
    return replace(whole_games(trained), **(given | {"num_envs": envs}))


def _check_asked(trained: Trained, config: EvaluationConfig) -> None:
    """Refuse another environment or network than the checkpoint's, and code not asked for.

    Raises:
        UserError: see `check_asked`.
    """
    trained_in, asked = trained.environment.env_id, config.env_id
    check_asked(trained_in, asked, "the checkpoint")
    if asked and canonical_env_id(asked) != canonical_env_id(trained_in):
        raise UserError(f"--env-id {asked}: the checkpoint is of {trained_in}; name that")
    stored = trained.environment.wrapper
    check_all_asked("--wrapper", stored, config.wrapper, "the checkpoint", "add")
    network = trained.checkpoint.identity.network
    check_network_asked(network, config.network, "the checkpoint")
    if config.network not in ("", network):
        raise UserError(f"--network {config.network}: the checkpoint is of {network}; name that")


def _wanted(text: str) -> int | Literal["mean", "each"]:
    if text == MEAN:
        return MEAN
    if text == EACH:
        return EACH
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    raise UserError(f"--learner {text}: expected mean, each, or a learner's rank such as 0")


def _target(output: str, found: Found, learner: str) -> Path:
    """Return the file to write; checked before the games are played."""
    if output:
        path = in_home(output)
        if os.path.lexists(path):
            raise UserError(f"--output {path}: exists already; name a new file")
    else:
        checkpoint = found.path
        # In the named folder, wherever its checkpoints are.
        run = checkpoint.parent if found.place == checkpoint else found.place
        run = run.parent if run.name == "checkpoints" else run
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = run / f"eval-{checkpoint.name}-{learner}-{now}.json"
    if not os.path.isdir(path.parent) or not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path.parent}: no folder that can be written to; use another --output")
    return path


def _device(name: str) -> torch.device:
    """Return the device of that name, and set a useful number of torch threads."""
    import torch

    from galamp.core.machine.torch_device import usable_device

    device = usable_device(name)
    threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)), MAX_TORCH_THREADS)
    torch.set_num_threads(threads if device.type == "cpu" else 1)
    return device


def _agents(
    trained: Trained, wanted: Learner | Literal["each"], device: torch.device, network: str
) -> list[Agent]:
    from galamp.tools.evaluation.agent import Agent

    learners: list[Learner] = [*trained.ranks, MEAN] if wanted == EACH else [wanted]
    return [Agent(trained, learner, device, network=network) for learner in learners]


def _play_all(
    agents: list[Agent], environment: EnvironmentConfig, how: EvaluationConfig, progress: Progress
) -> tuple[list[list[Game]], EnvironmentSpec]:
    """Let every agent play, all with the same seeds of environments and action sampling.

    Returns:
        each agent's games, and the environment's specification.
    """
    seeds = [seed_for(how.seed, 1 + env_index) for env_index in range(environment.num_envs)]
    threads = min(len(seeds), len(os.sched_getaffinity(0)))
    games = []
    seed_generators(how.seed)
    with failures_reported(environment.env_id):
        envs = make_environment(environment, seeds, threads=threads)
    envs.bootstraps = False  # nobody learns from these games
    with closing_quietly(envs):
        for agent in agents:
            agent.seed(seed_for(how.seed, 0))
            seed_generators(how.seed)
            act = _policy(agent, how.greedy)
            with progress.of(agent.learner, how.episodes) as tally:
                games.append(play(envs, act, how.episodes, tally.game, tally.stepped))
        return games, envs.spec


def _policy(agent: Agent, greedy: bool) -> Act:
    agent.reset()

    def act(
        observations: NDArray[Any], first: NDArray[np.bool_], envs: NDArray[np.int64]
    ) -> NDArray[Any]:
        return agent.policy_actions(observations, greedy=greedy, first=first, envs=envs)

    return act


def _scores(
    spec: EnvironmentSpec,
    atari: AtariProtocol | None,
    agents: list[Agent],
    games: list[list[Game]],
) -> dict[str, Any]:
    """Return a result per agent, and the published reference scores.

    References under other settings are left out, with the reason.
    """
    reference = reference_for(spec.env_id)
    unlike = misfit(atari) if reference and atari else None
    if unlike:
        reference = None
    results = [
        {
            "learner": agent.learner,
            "mean_of": agent.mean_of,
            **score(played, reference).to_dict(),
            "returns": [game.ret for game in played],
            "lengths": [game.length for game in played],
        }
        for agent, played in zip(agents, games, strict=True)
    ]
    published = {**reference._asdict(), "source": SOURCE} if reference else None
    return {"results": results, "reference": published, "reference_misfit": unlike}


def _circumstances(began_s: float) -> dict[str, Any]:
    """Return time, machine and versions of the evaluation."""
    from galamp.training.summary import versions

    return {
        "wall_s": round(time.monotonic() - began_s, 3),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "versions": versions(),
    }
