"""`galamp record`: the file, its frames and the strip below them, as OpenCV reads them back."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from galamp.cli.main import main
from galamp.core.action_spec import DiscreteActions
from galamp.core.config import EnvironmentConfig
from galamp.core.errors import GalampError, UserError
from galamp.environments import make_environment
from galamp.environments.screens import HEIGHT, WIDTH, FilmedAtari, filmed
from galamp.storage.checkpoint import Identity
from galamp.tools.evaluation.agent import load
from galamp.tools.play import record_command
from galamp.tools.play.game import Decision, Moment, decided, moments, paced
from galamp.tools.play.overlay import TAKEN, Overlay
from galamp.tools.play.record_command import _fps
from galamp.tools.play.video import video_file
from tests.support import stills
from tests.support.engine import also
from tests.tools.test_evaluate import BREAKOUT, saved

STILLS = "tests.support.stills:make"
OF_STILLS = Identity(STILLS, "gymnasium: ...", (1,), DiscreteActions(2), "a2c", "mlp", ())
OWN = ["--env-id", STILLS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stills")
    saved(folder, OF_STILLS, 2, steps=700)
    return folder


def read_back(path: Path) -> tuple[NDArray[Any], float]:
    """All frames of a video, RGB, and its frames per second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return np.array(frames), capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


@pytest.mark.parametrize("name", ["play.mp4", "play.gif"])
def test_a_video_is_read_back(name: str, run: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / name
    assert main(["record", str(run), "-o", str(file), "--episodes", "2", *OWN]) == 0
    out, err = capsys.readouterr()
    assert out == "episode 1: score 7\nepisode 2: score 7\n"
    assert f"{file}, {2 * (1 + stills.STEPS)} frames of 320 x 298, 0.8 s at 20 a second" in err
    frames, fps = read_back(file)
    assert frames.shape == (2 * (1 + stills.STEPS), 298, 320, 3)
    assert fps == pytest.approx(20.0)
    games = frames[:, :240].astype(int)
    for number, game in enumerate(games):
        step = number % (1 + stills.STEPS)
        assert abs(int(np.median(game)) - (20 + 25 * step)) <= 6
        square = game[90:150, 40 * step + 8 : 40 * step + 32]
        assert square.min() > 230
    strips = frames[:, 240:].astype(int)
    assert all(strip.max() > 150 for strip in strips), "there is text"
    changed = [np.abs(a - b).max() > 60 for a, b in itertools.pairwise(strips)]
    assert all(changed), "score and step change with every frame"
    assert list(tmp_path.iterdir()) == [file]


class Screen(io.StringIO):
    """Standard output and standard error on one terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_gone_before_anything_else_is_printed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(record_command, "PROGRESS_EVERY_S", 0.0)
    assert main(["record", str(run), "-o", str(tmp_path / "play.gif"), *OWN]) == 0
    before, told = screen.getvalue().split("episode 1: score 7\n")
    assert "recording: episode 1, step 5, score" in before
    assert before.endswith("\r\x1b[K")
    assert "\x1b" not in told


def test_fewer_frames_play_as_long(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "play.gif"
    words = ["record", str(run), "-o", str(file), "--fps", "5", "--max-steps", "7", *OWN]
    assert main(words) == 0
    frames, fps = read_back(file)
    assert (len(frames), fps) == (2, pytest.approx(5.0))


def test_refusals(run: Path, tmp_path: Path, capsys: Any) -> None:
    there = tmp_path / "there.mp4"
    there.write_text("mine")

    def refused(*words: object) -> str:
        assert main(["record", *map(str, words)]) == 2
        err: str = capsys.readouterr().err.replace(
            "galamp: starting: loading PyTorch, trying the ", ""
        )
        return err

    assert "expected a name that ends in .mp4 or .gif" in refused(run, "-o", "play.avi")
    assert "there is no folder" in refused(run, "-o", tmp_path / "no" / "play.mp4")
    assert "exists; choose another name, or give --overwrite" in refused(run, "-o", there)
    assert there.read_text() == "mine"
    new = tmp_path / "new.mp4"
    assert "wants to run your code" in refused(run, "-o", new)
    assert "cannot be a file: File name too long" in refused(run, "-o", "x" * 300 + ".mp4")
    assert "--fps 21: expected 0.1 to 20" in refused(run, "-o", new, *OWN, "--fps", 21)
    assert "--learner x: expected mean" in refused(run, "-o", new, *OWN, "--learner", "x")
    wrong = refused(run, "-o", new, *OWN, "--checkpoint", "first")
    assert "--checkpoint first: expected best, latest, or a name in" in wrong
    assert "no such path" in refused(run, "-o", new, *OWN, "--checkpoint", "ckpt-1")
    assert not new.exists()


def test_an_environment_without_frames_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stills.Stills.metadata, "render_modes", ["human"])
    with pytest.raises(UserError, match="has no frames: expected render_mode rgb_array"):
        filmed(EnvironmentConfig(env_id=STILLS), 1)
    monkeypatch.setitem(stills.Stills.metadata, "render_modes", ["rgb_array"])
    monkeypatch.setattr(stills.Stills, "render", lambda self: None)
    with pytest.raises(UserError, match="has no frames: expected uint8"):
        filmed(EnvironmentConfig(env_id=STILLS), 1).reset()


@pytest.mark.parametrize("protocol", ["classic", "machado"])
def test_the_screen_of_an_atari_is_of_the_game_that_the_agent_plays(protocol: str) -> None:
    config = EnvironmentConfig(env_id=BREAKOUT.env_id, protocol=protocol, life_loss_ends=False)
    film, alone = filmed(config, 5), make_environment(config, [5])
    draw = np.random.default_rng(0)
    observations, frames = film.reset()
    np.testing.assert_array_equal(observations, alone.reset())
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    resets, left = 0, 230
    while left:
        actions = draw.integers(film.environment.spec.num_actions, size=1)
        transition, frames = film.step(actions)
        np.testing.assert_array_equal(transition.observations, alone.step(actions).observations)
        ends = bool(transition.terminated[0] or transition.truncated[0])
        assert len(frames) == (1 if transition.reset[0] else 4) or ends
        resets += int(transition.reset[0])
        left = min(left, 30) - 1 if resets else left - 1
    assert resets > 0
    assert frames[-1].max() > 100
    film.close()
    alone.close()


def test_a_screen_of_another_game_is_told() -> None:
    config = EnvironmentConfig(env_id="ALE/Pong-v5", life_loss_ends=False)
    film = FilmedAtari(make_environment(config, [5]), config, 6)
    film.reset()

    def go_on() -> None:
        for _ in range(500):
            film.step(np.zeros(1, np.int64))

    with pytest.raises(GalampError, match="its screen shows another game"):
        go_on()


def test_moments_count_episodes_steps_and_scores() -> None:
    film = filmed(EnvironmentConfig(env_id=STILLS), 1)
    firsts: list[bool] = []

    def decide(observations: Any, first: bool) -> Decision:
        firsts.append(first)
        return Decision(np.zeros(1, np.int64))

    found = list(moments(film, decide, 2, 100))
    assert [each.step for each in found] == [*range(8), *range(8)]
    assert [each.score for each in found] == [each.step for each in found]
    assert [each.ended for each in found] == ([False] * 7 + [True]) * 2
    assert [each.decision is None for each in found] == ([True] + [False] * 7) * 2
    assert firsts == ([True] + [False] * 6) * 2
    assert len(list(moments(film, decide, 2, 9))) == 1 + 7 + 1 + 2
    *_, last = moments(film, decide, 2, 7)
    assert (last.episode, last.step, last.ended) == (1, 7, True), "no game of no step after it"


@pytest.mark.parametrize(
    ("share", "merges", "expected"),
    [(1.0, False, [1, 2, 9, 4]), (0.5, False, [2, 4]), (0.5, True, [2, 9]), (0.3, True, [9, 9])],
)
def test_frames_are_left_out_evenly(share: float, merges: bool, expected: list[int]) -> None:
    game = [
        Moment([np.full((1, 1, 3), value, np.uint8)], None, value, 1, number)
        for number, value in enumerate((1, 2, 9, 4))
    ]
    if share == 0.3:
        expected = [9]
    found = list(paced(game, share, merges=merges))
    assert [int(frame[0, 0, 0]) for frame, _ in found] == expected
    assert found[-1][1].step == 3


def test_the_strip_shows_the_action_that_was_taken() -> None:
    frame = np.zeros((210, 160, 3), np.uint8)
    names = tuple(f"ACTION{number}" for number in range(18))
    overlay = Overlay(frame, names)
    assert (overlay.width, overlay.height % 2) == (320, 0)
    shares = dict.fromkeys(names, 0.02) | {"ACTION3": 0.6}
    decision = Decision(np.zeros(1), "ACTION3", 1.0, shares, taken=3)
    picture = overlay.drawn(frame, Moment([frame], decision, 0.0, 1, 1))
    bar = (picture == TAKEN).all(axis=2)
    assert bar[420:].sum() > 150
    assert not bar[:420].any()
    continuous = Decision(np.zeros((1, 2)), "0.5 -0.25", 1.0)
    first = Overlay(frame, ()).drawn(frame, Moment([frame], continuous, 0.0, 1, 1))
    other = Overlay(frame, ()).drawn(frame, Moment([frame], None, 0.0, 1, 1))
    assert (first != other).any()


def test_nothing_is_left_of_a_video_that_failed(tmp_path: Path) -> None:
    def frames() -> Any:
        yield np.zeros((10, 10, 3), np.uint8)
        raise GalampError("the game broke")

    for name in ("play.mp4", "play.gif"):
        with pytest.raises(GalampError, match="the game broke"):
            video_file(str(tmp_path / name), overwrite=False).write(frames(), 10.0)
    assert list(tmp_path.iterdir()) == []


def noise(count: int) -> Iterator[NDArray[np.uint8]]:
    draw = np.random.default_rng(0)
    return (draw.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(count))


@pytest.mark.parametrize("fps", [7.0, 30.0, also(24.0), also(50.0)])
def test_a_gif_lasts_as_long_as_its_frames(fps: float, tmp_path: Path) -> None:
    """Its frames last whole hundredths of a second, which do not add up to another pace."""
    path = tmp_path / "play.gif"
    video_file(str(path), overwrite=False).write(noise(round(2 * fps)), fps)
    with Image.open(path) as image:
        lasted = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert sum(lasted) == 2000
    assert max(lasted) - min(lasted) <= 10


@pytest.mark.parametrize("name", ["play.mp4", "play.gif"])
def test_a_full_disk_is_told_and_the_old_video_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(GalampError, match=f"{name} not written: "):
            video_file(str(path), overwrite=True).write(noise(60), 10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links_gets_its_video(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    file = video_file(str(tmp_path / "play.gif"), overwrite=False)
    assert file.write(noise(2), 10.0).frames == 2
    content = file.path.read_bytes()
    with pytest.raises(GalampError, match="File exists"):
        file.write(noise(3), 10.0)
    assert file.path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file.path]


def test_a_gif_of_too_many_frames_a_second_is_refused() -> None:
    """Browsers show a frame of one hundredth of a second for ten."""
    assert _fps(None, 60.0, 50.0, 30.0) == 30.0
    assert _fps(50.0, 60.0, 50.0, 30.0) == 50.0
    for most, whose in (
        (50.0, "50, the frames that a .gif can"),
        (60.0, "60, the frames that the game"),
    ):
        with pytest.raises(UserError, match=f"--fps 61: expected 0.1 to {whose}"):
            _fps(61.0, 60.0, most, 30.0)


@pytest.mark.parametrize("network", ["mlp", "mlp-gru"])
def test_what_is_shown_is_what_the_agent_goes_by(network: str, tmp_path: Path) -> None:
    """A recurrent network has weighed what it saw before, in this episode only."""
    identity = dataclasses.replace(OF_STILLS, network=network)
    agent = load(saved(tmp_path / "run", identity, 1), network="")
    decide = decided(agent, ("left", "right"), greedy=True)
    draw = np.random.default_rng(1)
    for step in range(20):
        seen = draw.normal(size=(1, 1)).astype(np.float32)
        decision = decide(seen, step % 7 == 0)
        assert sum(decision.shares.values()) == pytest.approx(1.0)
        best = max(decision.shares, key=lambda name: decision.shares[name])
        assert (decision.action, decision.taken) == (best, int(decision.actions[0]))
        forgets = step % 7 == 0 or network == "mlp"
        assert (decision.value == float(agent.value(seen)[0])) == forgets
