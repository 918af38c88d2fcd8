"""Numbers of actions of the Atari games, as the installed emulator counts them.

`galamp games` shows them. To ask the emulator takes 0.15 s per game, so they are written down;
`tests/environments/test_minimal_actions.py` asks.
"""

from __future__ import annotations

ALL = 18
"""Of all games that are not listed."""

ACTIONS = {
    "air_raid": 6,
    "amidar": 10,
    "assault": 7,
    "asterix": 9,
    "asteroids": 14,
    "atlantis": 4,
    "atlantis2": 4,
    "backgammon": 3,
    "basic_math": 6,
    "beam_rider": 9,
    "blackjack": 4,
    "bowling": 6,
    "breakout": 4,
    "carnival": 6,
    "casino": 4,
    "crazy_climber": 9,
    "demon_attack": 6,
    "enduro": 9,
    "freeway": 3,
    "frogger": 5,
    "galaxian": 6,
    "gopher": 8,
    "journey_escape": 16,
    "kaboom": 4,
    "keystone_kapers": 14,
    "king_kong": 6,
    "koolaid": 9,
    "kung_fu_master": 14,
    "lost_luggage": 9,
    "mr_do": 10,
    "ms_pacman": 9,
    "name_this_game": 6,
    "othello": 10,
    "pacman": 5,
    "phoenix": 8,
    "pong": 6,
    "pooyan": 6,
    "qbert": 6,
    "sir_lancelot": 6,
    "skiing": 3,
    "space_invaders": 6,
    "surround": 5,
    "tetris": 5,
    "tic_tac_toe_3d": 10,
    "time_pilot": 10,
    "turmoil": 12,
    "tutankham": 8,
    "up_n_down": 6,
    "video_checkers": 5,
    "video_chess": 10,
    "video_pinball": 9,
    "wizard_of_wor": 10,
}
"""By the ROM's name: actions that do something in the game, which it is played with by default."""


def actions_of(rom: str) -> int:
    """Return the number of actions of the game of a ROM."""
    return ACTIONS.get(rom, ALL)
