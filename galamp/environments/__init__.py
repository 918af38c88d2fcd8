"""Environments by name: naming, building, and describing them before anything is started.

Used by the parent (names, and the probe that finds the shapes) and by simulator processes (the
lanes). Emulators are imported only when a lane is built, torch never.

    parent                                   throw-away process
    start_probe(config)  ----- JSON ---->    probe: describe(config) builds one lane
    ... its own start-up ...
    finish_probe(...)    <---- JSON -----    EnvironmentSpec, or one line of complaint
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from galamp.config import EnvironmentConfig
from galamp.environments.base import (
    Environment,
    EnvironmentSpec,
    Episode,
    EpisodeCounter,
    Transition,
)
from galamp.errors import EXIT_USAGE, UserError, did_you_mean

__all__ = [
    "Environment",
    "EnvironmentSpec",
    "Episode",
    "EpisodeCounter",
    "Transition",
    "canonical_env_id",
    "describe",
    "finish_probe",
    "list_games",
    "make_environment",
    "start_probe",
]

ATARI = "ALE/"

ENVIRONMENTS = {
    ATARI: "galamp.environments.atari:AtariEnvironment",
    "": "galamp.environments.gymnasium:GymnasiumEnvironment",
}
"""How a canonical id begins, and the class that builds such environments; the first match wins.

A class takes `(env_id, config, seeds, threads)` and is an `Environment`.
"""

SEED_LIMIT = 2**31
"""Seeds of lanes lie below this: emulators keep them in 32 bits with a sign."""

# The emulator refuses these by ending the process: they have no single-player game.
_TWO_PLAYER_ROMS = {"combat", "joust", "maze_craze", "warlords"}

_ATARI_NAME = re.compile(
    r"(?P<ale>ALE/)?(?P<game>[\w -]+?)(NoFrameskip|Deterministic)?(-v(0|4|5))?", re.IGNORECASE
)


@functools.cache
def _roms() -> dict[str, str]:
    """Return the playable ROMs of the installed ale-py: name without separators -> file's stem."""
    package = importlib.util.find_spec("ale_py")
    if package is None or package.origin is None:
        return {}
    files = (Path(package.origin).parent / "roms").glob("*.bin")
    names = sorted({file.stem for file in files} - _TWO_PLAYER_ROMS)
    return {_folded(name): name for name in names}


def _folded(game: str) -> str:
    return re.sub(r"[\W_]", "", game).lower()


def _game_name(rom: str) -> str:
    return rom.title().replace("_", "")


def list_games() -> list[str]:
    """Return the names of all playable Atari games, such as `SpaceInvaders`, sorted."""
    return [_game_name(rom) for rom in _roms().values()]


def rom_name(env_id: str) -> str:
    """Return the ROM's name, such as `space_invaders`, of a canonical Atari id."""
    match = _ATARI_NAME.fullmatch(env_id)
    assert match is not None, env_id
    return _roms()[_folded(match["game"])]


def canonical_env_id(text: str) -> str:
    """Return the one name under which an environment is stored and compared.

    Atari games in any of their usual spellings (`breakout`, `space_invaders`,
    `SpaceInvadersNoFrameskip-v4`) become `ALE/SpaceInvaders-v5`; which protocol is played is the
    config's to say, not the name's. Gymnasium ids and `package.module:factory` stay as they are.

    Raises:
        UserError: nothing is known by that name; the message offers the nearest.
    """
    text = text.strip()
    match = _ATARI_NAME.fullmatch(text)
    rom = _roms().get(_folded(match["game"])) if match else None
    if rom is not None:
        return f"{ATARI}{_game_name(rom)}-v5"
    if match and match["ale"]:
        near = did_you_mean(match["game"], list_games())
        raise UserError(f"unknown Atari game {text!r:.80}{near}: expected a name such as Breakout")
    if ":" in text or any(text.startswith(p) for p in ENVIRONMENTS if p not in ("", ATARI)):
        return text
    import gymnasium  # 0.17 s that an Atari run need not pay

    if text in gymnasium.registry:
        return text
    near = did_you_mean(match["game"] if match else text, [*list_games(), *gymnasium.registry])
    raise UserError(
        f"unknown environment {text!r:.80}{near}: "
        "expected an Atari game, a Gymnasium id or package.module:factory"
    )


def make_environment(
    config: EnvironmentConfig, seeds: Sequence[int], *, threads: int = 1
) -> Environment:
    """Build an environment with one lane per seed.

    A lane's course depends on its seed and its actions only, not on which other lanes it shares a
    process with, nor on `threads`.

    Args:
        config: names the environment and the protocol; `num_envs` is not read here.
        seeds: one per lane, from 0 to `SEED_LIMIT - 1`.
        threads: threads that the emulator may use.

    Raises:
        UserError: no such environment, or one that cannot be used as `config` says.
    """
    if not seeds or not all(0 <= seed < SEED_LIMIT for seed in seeds):
        raise ValueError(f"seeds: expected one or more from 0 to {SEED_LIMIT - 1}, got {seeds}")
    env_id = canonical_env_id(config.env_id)
    path = next(path for start, path in ENVIRONMENTS.items() if env_id.startswith(start))
    module, _, name = path.partition(":")
    build = getattr(importlib.import_module(module), name)
    environment: Environment = build(env_id, config, seeds, threads)
    return environment


def describe(config: EnvironmentConfig) -> EnvironmentSpec:
    """Build and reset one lane, and return what it is.

    A bad ROM ends the process that calls this: the parent asks a probe instead.

    Raises:
        UserError: as for `make_environment`.
    """
    with contextlib.closing(make_environment(config, [0])) as environment:
        environment.reset()
        return environment.spec


def start_probe(config: EnvironmentConfig) -> subprocess.Popen[str]:
    """Start a process that describes the environment, to be awaited by `finish_probe`."""
    command = [sys.executable, "-m", "galamp.environments.probe"]
    return subprocess.Popen(
        [*command, json.dumps(dataclasses.asdict(config))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def finish_probe(process: subprocess.Popen[str], deadline_s: float = 30.0) -> EnvironmentSpec:
    """Wait for a probe and return the spec that it found; the process is gone afterwards.

    Raises:
        UserError: the probe's own complaint, or how it ended where it could not complain.
    """
    assert isinstance(process.args, list)
    env_id = json.loads(process.args[-1])["env_id"]
    try:
        output, complaint = process.communicate(timeout=deadline_s)
    except BaseException as error:
        process.kill()
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise UserError(f"{env_id}: did not start within {deadline_s:g} s") from None
        raise
    last = (complaint.strip().splitlines() or ["it printed nothing"])[-1]
    if process.returncode == 0 and output:
        return EnvironmentSpec.from_dict(json.loads(output))
    if process.returncode == EXIT_USAGE:
        raise UserError(last)
    raise UserError(f"{env_id}: did not start ({_ending(process.returncode)}): {last}")


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
