"""Atari consoles, one emulator per environment: modes, difficulties and the RAM as observation.

    actions [B] --ALEInterface, frame by frame--> frames or RAM --stacked--> observations [B, ...]

Runs in simulator processes and in the probe. ale-py's vector environment, which is much faster, can
do none of these. Everything else is as there, step by step (`ale/vector/preprocessed_env.cpp` of
the Arcade Learning Environment), except how the number of no-ops is drawn from the seed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ale_py
import numpy as np
from ale_py import ALEInterface, roms
from numpy.typing import NDArray

from galamp.core.errors import UserError
from galamp.environments.names import rom_name
from galamp.environments.preprocessing import opencv
from galamp.environments.protocols import RAM, AtariProtocol

SCREEN = 84
"""Height and width of a preprocessed frame, in pixels (Mnih et al. 2015)."""

RAM_BYTES = 128
"""Memory of the Atari 2600."""

Info = dict[str, NDArray[np.int32]]


def observation_shape(protocol: AtariProtocol) -> tuple[int, ...]:
    """Return the shape of an observation: frames [stack, 84, 84], or bytes [stack * 128]."""
    if protocol.obs_type == RAM:
        return (protocol.frame_stack * RAM_BYTES,)
    return (protocol.frame_stack, SCREEN, SCREEN)


class Outcome(NamedTuple):
    """What an agent step of one console gives, besides the observation."""

    reward: int = 0
    terminated: bool = False
    truncated: bool = False


class Consoles:
    """B consoles with the interface of `AtariVectorEnv`, as far as it is used."""

    def __init__(self, env_id: str, protocol: AtariProtocol, num_envs: int) -> None:
        """Load the game B times.

        Raises:
            UserError: the ROM is damaged, or the game has no such mode or difficulty.
        """
        ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._consoles = [Console(env_id, protocol) for _ in range(num_envs)]
        self.ale = self.first = self._consoles[0]

    def reset(self, seed: NDArray[np.int64]) -> tuple[NDArray[np.uint8], Info]:
        """Restart every console from its seed."""
        for console, each in zip(self._consoles, seed.tolist(), strict=True):
            console.load(each)
            console.reset()
        return self._observations(), self._info()

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Advance every console; one whose episode is over only begins the next."""
        pairs = zip(self._consoles, actions.tolist(), strict=True)
        outcomes = [console.step(action) for console, action in pairs]
        rewards, terminated, truncated = map(np.array, zip(*outcomes, strict=True))
        return self._observations(), rewards, terminated, truncated, self._info()

    def _observations(self) -> NDArray[np.uint8]:
        return np.stack([console.observation() for console in self._consoles])

    def _info(self) -> Info:
        numbers = np.array([console.frame_numbers() for console in self._consoles], np.int32)
        return {"frame_number": numbers[:, 0], "episode_frame_number": numbers[:, 1]}


class Console:
    """One console: an emulator, its last two frames, and the stack of what was seen.

    Attributes:
        film: where every frame of a step is kept, [H, W, 3] each; None: nowhere.
    """

    def __init__(self, env_id: str, protocol: AtariProtocol) -> None:
        """Load the game; see `Consoles`."""
        self._env_id, self._how = env_id, protocol
        self.film: list[NDArray[np.uint8]] | None = None
        rom = roms.get_rom_path(rom_name(env_id))
        assert rom is not None, env_id
        self._rom = rom
        self._ale = ALEInterface()
        self._ale.setFloat("repeat_action_probability", protocol.sticky_actions)
        self.load(0)
        self._actions = self.get_action_set()
        self._fires = protocol.fire_reset and ale_py.Action.FIRE in self._actions
        self._screens = np.zeros((2, *self._ale.getScreenDims()), np.uint8)
        self._stack = np.zeros((protocol.frame_stack, *self._seen_shape), np.uint8)
        self._steps, self._lives, self._over = 0, 0, False
        self._cv2: Any = None if protocol.obs_type == RAM else opencv("--mode, --difficulty: need")

    def get_action_set(self) -> list[ale_py.Action]:
        """Return the actions, in order of their numbers."""
        if self._how.full_action_space:
            return self._ale.getLegalActionSet()
        return self._ale.getMinimalActionSet()

    def load(self, seed: int) -> None:
        """Begin anew from a seed, in the mode and difficulty of the protocol.

        Raises:
            UserError: the ROM is damaged, or the game has no such mode or difficulty.
        """
        self._random = np.random.default_rng(seed)
        self._ale.setInt("random_seed", seed)
        try:
            self._ale.loadROM(self._rom)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._env_id}: the ROM cannot be read ({reason}): reinstall ale-py"
            ) from error
        ale, how = self._ale, self._how
        if how.mode is not None:
            self._refuse_other("--mode", how.mode, ale.getAvailableModes())
            ale.setMode(how.mode)
        if how.difficulty is not None:
            self._refuse_other("--difficulty", how.difficulty, ale.getAvailableDifficulties())
            ale.setDifficulty(how.difficulty)

    def reset(self) -> None:
        """Start an episode: FIRE, then no-ops, as the protocol says."""
        self._ale.reset_game()
        if self._fires:
            self._ale.act(ale_py.Action.FIRE)
        noops = int(self._random.integers(max(self._how.noop_max, 1)))
        for _ in range(noops - self._fires):
            self._ale.act(ale_py.Action.NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        self._stack[:] = 0
        self._screens[:] = 0
        self._observe(0)
        self._see()
        self._steps, self._lives, self._over = 0, self._ale.lives(), False
        self.record()

    def step(self, action: int) -> Outcome:
        """Repeat an action for the frame skip, or until the episode is over; or begin the next."""
        if self._over:
            self.reset()
            return Outcome()
        ale, how = self._ale, self._how
        reward, lost = 0, False
        for left in range(how.frame_skip, 0, -1):
            reward += ale.act(self._actions[action])
            self.record()
            self._steps += 1
            game_over, lives = ale.game_over(), ale.lives()
            lost = 0 < lives < self._lives
            if game_over or self._steps >= how.max_frames:
                break
            if left <= len(self._screens):
                self._observe(left - 1)
        self._see()
        self._lives, self._over = lives, game_over or self._steps >= how.max_frames
        terminated = game_over or (how.life_loss_ends and lost)
        return Outcome(reward, terminated, self._steps >= how.max_frames and not terminated)

    def observation(self) -> NDArray[np.uint8]:
        """Return what the agent sees, oldest first: frames [stack, 84, 84] or bytes."""
        return self._stack.reshape(observation_shape(self._how))

    def frame_numbers(self) -> tuple[int, int]:
        """Return the emulator's frames since it was loaded, and within the episode."""
        return self._ale.getFrameNumber(), self._ale.getEpisodeFrameNumber()

    def record(self) -> None:
        """Add the screen as it is now to the film, if there is one."""
        if self.film is not None:
            self.film.append(self._ale.getScreenRGB())

    @property
    def _seen_shape(self) -> tuple[int, ...]:
        return (RAM_BYTES,) if self._how.obs_type == RAM else (SCREEN, SCREEN)

    def _observe(self, place: int) -> None:
        """Keep the screen, for the maximum of the last two; the later is the first of them."""
        if self._how.obs_type != RAM:
            self._screens[place] = self._ale.getScreenGrayscale()

    def _see(self) -> None:
        """Add what is to be seen now to the stack."""
        self._stack[:-1] = self._stack[1:]
        if self._how.obs_type == RAM:
            self._stack[-1] = self._ale.getRAM()
            return
        latest = self._screens[0]
        np.maximum(latest, self._screens[1], out=latest)
        area = self._cv2.INTER_AREA
        self._stack[-1] = self._cv2.resize(latest, (SCREEN, SCREEN), interpolation=area)

    def _refuse_other(self, flag: str, asked: int, available: list[int]) -> None:
        if asked not in available:
            known = ", ".join(map(str, available))
            raise UserError(f"{flag} {asked}: expected one that {self._env_id} has: {known}")
