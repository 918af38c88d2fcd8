"""Names of environments: Atari games in any spelling, Gymnasium ids, and users' factories.

Pure, except for the list of ROMs, which is read from the installed ale-py. Used by every process.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from galamp.core import user_code
from galamp.core.errors import UserError, did_you_mean

ATARI = "ALE/"

ENVIRONMENTS = {
    ATARI: "galamp.environments.atari:AtariEnvironment",
    "": "galamp.environments.gymnasium:GymnasiumEnvironment",
}
"""Prefix of a canonical id -> class that builds such environments; the first match wins.

The class is an `Environment` and accepts `(env_id, config, seeds, threads)`, and `progress` if it
`shows_progress`.
"""


VECTOR = "galamp.environments.vector:VectorEnvironment"
"""The class for environments that are their own vector environments (`--vector`)."""


NEAR_ENOUGH = 0.8
"""Smallest similarity, from 0 to 1, of a suggestion for an unknown name."""


_ALE = "ale_py"


_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


_IN_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*|([\w-]+/)?[\w.-]+")
"""Name of a factory, with dots, or a Gymnasium id, with namespace and version."""


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
    """Return the sorted names of all playable Atari games, such as `SpaceInvaders`."""
    return [_game_name(rom) for rom in _roms().values()]


def rom_name(env_id: str) -> str:
    """Return the name of the ROM of a canonical Atari id, such as `space_invaders`."""
    match = _ATARI_NAME.fullmatch(env_id)
    assert match is not None, env_id
    return _roms()[_folded(match["game"])]


def canonical_env_id(text: str) -> str:
    """Return the canonical name of an environment, which is stored and compared.

    Atari games in any of their usual spellings (`breakout`, `space_invaders`,
    `SpaceInvadersNoFrameskip-v4`, `ale_py:ALE/SpaceInvaders-v5`) become `ALE/SpaceInvaders-v5`;
    the config selects the protocol, not the name. Gymnasium ids, `package:EnvId-v0` and
    `package.module:factory` stay as they are; nothing is imported for them.

    Raises:
        UserError: the name is unknown; the message suggests the most similar ones.
    """
    text = text.strip()
    module, colon, name = text.partition(":")
    if colon and module != _ALE:
        _check_form(text, module, name)
        return text
    match = _ATARI_NAME.fullmatch(name if colon else text)
    rom = _roms().get(_folded(match["game"])) if match else None
    if rom is not None:
        return f"{ATARI}{_game_name(rom)}-v5"
    if colon or (match and match["ale"]):
        raise _unknown_game(text, match["game"] if match else name)
    if any(text.startswith(p) for p in ENVIRONMENTS if p not in ("", ATARI)):
        return text
    import gymnasium  # takes 0.17 s, not needed for Atari

    if text in gymnasium.registry:
        return text
    raise _unknown(text, match["game"] if match else text, gymnasium.registry)


def kind_of(env_id: str) -> str:
    """Return which class builds an environment of a canonical id, as `module:Class`."""
    return next(path for start, path in ENVIRONMENTS.items() if env_id.startswith(start))


def check_asked(stored: str, asked: str, holder: str, how: str = "add --env-id") -> None:
    """Refuse to import a module that only a stored file names: the file may come from anyone.

    Environments with an id of Gymnasium or ale-py need no such confirmation.

    Args:
        stored: name of the environment in a config or checkpoint.
        asked: name that the user has given now, or empty.
        holder: the file that holds the stored name, for the message.
        how: what the user must do, up to the name, for the message.

    Raises:
        UserError: the user has not named that environment, or has named another one and one of the
            two needs the import of a module; or a name is unknown.
    """
    stored = canonical_env_id(stored)
    asked = canonical_env_id(asked) if asked else ""
    user_code.check_asked("--env-id", stored, asked, holder, how)


def _check_form(text: str, module: str, name: str) -> None:
    """Raise UserError unless `text` has the form `module:factory` or `module:id`."""
    if not _MODULE.fullmatch(module) or not _IN_MODULE.fullmatch(name):
        raise UserError(
            f"environment {text!r:.80}: expected package.module:factory, or package:EnvId-v0 for "
            "an id that this package registers"
        )


def _unknown_game(text: str, game: str) -> UserError:
    if _is_for_two(game):
        return _for_two(text)
    near = did_you_mean(game, list_games())
    return UserError(f"unknown Atari game {text!r:.80}{near}: expected a name such as Breakout")


def _unknown(text: str, game: str, registered: Iterable[str]) -> UserError:
    """Return the error for an unknown name; it suggests only very similar names."""
    if _is_for_two(game):
        return _for_two(text)
    near = did_you_mean(game, list_games(), cutoff=NEAR_ENOUGH)
    near = near or did_you_mean(text, registered, cutoff=NEAR_ENOUGH)
    return UserError(
        f"unknown environment {text!r:.80}{near}: expected an Atari game, an id of Gymnasium's "
        "own, package:EnvId-v0 for an id that another package registers, or package.module:factory"
    )


def _is_for_two(game: str) -> bool:
    return _folded(game) in map(_folded, _TWO_PLAYER_ROMS)


def _for_two(text: str) -> UserError:
    return UserError(
        f"{text!r:.80} is a game for two players, and left out for that: expected a game for one, "
        "see galamp games"
    )
