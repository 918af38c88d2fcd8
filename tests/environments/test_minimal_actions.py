"""The numbers of actions that `galamp games` shows are those of the emulator."""

from __future__ import annotations

import pytest
from ale_py import ALEInterface, LoggerMode, roms

from galamp.environments.minimal_actions import ACTIONS, actions_of
from galamp.environments.names import ATARI, list_games, rom_name
from tests.support.engine import also

ROMS = [rom_name(f"{ATARI}{game}-v5") for game in list_games()]
SOME = {"breakout", "pong", "seaquest", "journey_escape"}


def test_only_games_that_there_are_have_a_number() -> None:
    assert set(ACTIONS) <= set(ROMS)


@pytest.mark.parametrize("rom", [rom if rom in SOME else also(rom) for rom in ROMS])
def test_the_emulator_counts_as_many(rom: str) -> None:
    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    emulator.loadROM(roms.get_rom_path(rom))
    assert actions_of(rom) == len(emulator.getMinimalActionSet())
