"""`galamp play`: the picture in cells, the keys, the pace, and a terminal that is restored."""

from __future__ import annotations

import os
import re
import signal
import termios
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.text import Text

from galamp.cli.main import main
from galamp.core.action_spec import DiscreteActions
from galamp.core.box_actions import BoxActions
from galamp.core.errors import UserError
from galamp.environments.base import EnvironmentSpec
from galamp.tools.play import keyboard as keyboards
from galamp.tools.play import show, window
from galamp.tools.play.game import Decision, Moment
from galamp.tools.play.half_blocks import BLOCK, fitted, lines, nearest
from galamp.tools.play.keyboard import HELD_S, Keyboard
from galamp.tools.play.screen import View, composed
from galamp.tools.play.show import Player, Quit, chunks
from galamp.tools.play.terminal import CLOSE, OPEN, parsed
from galamp.tools.play.window import Window
from tests.support.engine import OnTerminal, also, wait_for
from tests.tools.test_evaluate import saved
from tests.tools.test_record import OF_STILLS, OWN

FULL = (
    "NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT",
    "UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE",
    "DOWNLEFTFIRE",
)  # fmt: skip
BREAKOUT = ("NOOP", "FIRE", "RIGHT", "LEFT")


def still(value: int, height: int = 210, width: int = 160) -> Any:
    return np.full((height, width, 3), value, np.uint8)


# The picture


@pytest.mark.parametrize(
    ("columns", "rows", "shape"), [(80, 20, (40, 30, 3)), (10, 20, (14, 10, 3)), (1, 1, (2, 1, 3))]
)
def test_a_frame_fits_into_the_cells(columns: int, rows: int, shape: tuple[int, ...]) -> None:
    small = fitted(still(7), columns, rows)
    assert small.shape == shape
    assert small.shape[0] <= 2 * rows + 1
    assert (small == 7).all()


def test_a_ball_of_few_pixels_stays_visible() -> None:
    frame = still(0)
    frame[100:104, 80:82] = 200
    assert fitted(frame, 80, 20).max() >= 100


def test_cells_hold_two_pixels_and_name_a_colour_once() -> None:
    picture = np.array([[[1, 2, 3]] * 3, [[4, 5, 6]] * 3], np.uint8)
    (line,) = lines(picture, true_colour=True)
    assert line == f"\x1b[38;2;1;2;3;48;2;4;5;6m{BLOCK * 3}\x1b[0m"
    (line,) = lines(picture, true_colour=False)
    assert line == f"\x1b[38;5;16;48;5;232m{BLOCK * 3}\x1b[0m"


@pytest.mark.parametrize(
    ("rgb", "number"),
    [((0, 0, 0), 16), ((255, 255, 255), 231), ((255, 0, 0), 196), ((128, 128, 128), 244)],
)
def test_colours_of_xterm(rgb: tuple[int, int, int], number: int) -> None:
    assert nearest(np.array([[rgb]], np.uint8))[0, 0] == number


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 12), (20, 5), (1, 1)])
@pytest.mark.parametrize("names", [BREAKOUT, FULL, ()])
def test_no_row_is_wider_than_the_terminal(size: tuple[int, int], names: tuple[str, ...]) -> None:
    decision = Decision(np.zeros(1), "LEFT", -1.5, dict.fromkeys(names, 0.1), taken=1)
    view = View("ALE/Breakout-v5", "q quit   space pause   + - speed", true_colour=True)
    moment = Moment([still(3)], decision, 1234.0, 3, 17_000)
    rows = composed(still(3), moment, view, size, "x 1, paused")
    assert len(rows) <= size[1]
    assert max(Text.from_ansi(row).cell_len for row in rows) <= max(size[0], 2)
    text = "\n".join(Text.from_ansi(row).plain for row in rows)
    if size[0] >= 40:
        assert "1234" in text
        assert "paused" in text
    if size == (120, 40):
        assert all(name[:9] in text for name in names)


# Keys and pace


def test_keys_of_a_terminal() -> None:
    sent = "\x1b[A\x1b[Dq \x1bOC\x1b[15~+\x1b[1;5A"
    assert parsed(sent) == ["up", "left", "q", " ", "right", "+"]
    functions = "\x1bOP\x1bOQ\x1bOR\x1bOS"  # F1 to F4 are no letters
    assert parsed(f"p{functions}\x1bOA{functions}") == ["p", "up"]
    assert parsed("\x1bO") == []


def spec_of(*meanings: str, actions: Any = None) -> EnvironmentSpec:
    actions = actions or DiscreteActions(len(meanings))
    return EnvironmentSpec("x", (1,), "float32", actions, meanings, 1, False, "")


@pytest.mark.parametrize(
    ("meanings", "keys", "expected"),
    [
        (FULL, [], "NOOP"),
        (FULL, ["up", "right", " "], "UPRIGHTFIRE"),
        (FULL, ["left", "right"], "RIGHT"),
        (BREAKOUT, [" "], "FIRE"),
        (BREAKOUT, ["left", " "], "LEFT"),
        (BREAKOUT, ["up"], "NOOP"),
        (("0", "1"), ["right"], "1"),
        (("0", "1", "2"), [], "1"),
        (("0", "1", "2"), ["right"], "2"),
        (("0", "1", "2", "3"), ["3"], "3"),
        (("0", "1", "2", "3"), ["7"], "0"),
    ],
)
def test_keys_of_a_person(meanings: tuple[str, ...], keys: list[str], expected: str) -> None:
    keyboard = Keyboard(spec_of(*meanings))
    for key in keys:
        keyboard.press(key)
    decision = keyboard.decide(np.zeros((1, 1)), True)
    assert decision.action == expected
    assert decision.actions.tolist() == [meanings.index(expected)]


def test_a_key_is_held_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"s": 10.0}
    monkeypatch.setattr(keyboards, "time", SimpleNamespace(monotonic=lambda: now["s"]))
    keyboard = Keyboard(spec_of(*BREAKOUT))
    keyboard.press("left")
    now["s"] += HELD_S * 0.9
    assert keyboard.decide(np.zeros(1), False).action == "LEFT"
    now["s"] += HELD_S * 0.2
    assert keyboard.decide(np.zeros(1), False).action == "NOOP"


def test_numbers_cannot_be_chosen_by_keys() -> None:
    with pytest.raises(UserError, match=r"--human: x takes .*, and keys can only choose discrete"):
        Keyboard(spec_of(actions=BoxActions((-1.0,), (1.0,))))


@pytest.mark.parametrize(
    ("fps", "merges", "expected"),
    [(60.0, True, [(2, 2), (4, 2)]), (60.0, False, [(2, 2), (3, 2)]), (240.0, True, [(4, 4)])],
)
def test_frames_that_are_shown_as_one(
    fps: float, merges: bool, expected: list[tuple[int, int]]
) -> None:
    found = chunks([still(1), still(2), still(4), still(3)], fps, merges=merges)
    assert [(int(frame[0, 0, 0]), number) for frame, number in found] == expected


class Script:
    """A screen without a terminal, whose clock stands still but for what is waited."""

    def __init__(self, keys: dict[int, str]) -> None:
        self.now_s, self.pressed = 0.0, keys
        self.shown: list[tuple[int, str, float]] = []

    def show(self, frame: Any, moment: Moment, state: str) -> None:
        self.shown.append((moment.step, state, round(self.now_s, 3)))

    def keys(self, timeout_s: float) -> list[str]:
        self.now_s += timeout_s
        key = self.pressed.pop(len(self.shown), "")
        return [key] if key else []


def played(monkeypatch: pytest.MonkeyPatch, keys: dict[int, str], **known: Any) -> Script:
    screen = Script(keys)
    monkeypatch.setattr(show, "time", SimpleNamespace(monotonic=lambda: screen.now_s))
    game = (Moment([still(1)], None, 0.0, 1, step) for step in range(4))
    Player(screen, 10.0, merges=True, **known).play(game)
    return screen


def test_a_game_is_shown_at_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    assert played(monkeypatch, {}).shown == [(step, "x 1", step / 10) for step in range(4)]


def test_a_pause_and_another_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = played(monkeypatch, {2: " ", 3: " ", 5: "-"})
    assert [(step, state) for step, state, _ in screen.shown] == [
        (0, "x 1"), (1, "x 1"), (1, "x 1, paused"), (1, "x 1"), (2, "x 1"), (2, "x 0.75"),
        (3, "x 0.75"),
    ]  # fmt: skip
    faster = played(monkeypatch, {1: "+"})
    assert faster.shown[-1][1] == "x 1.5"
    assert faster.shown[-1][2] < 0.3


def test_keys_of_a_person_go_to_the_person(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    screen = played(monkeypatch, {1: " ", 2: "left"}, press=taken.append)
    assert taken == [" ", "left"]
    assert {state for _, state, _ in screen.shown} == {"x 1"}
    with pytest.raises(Quit):
        played(monkeypatch, {2: "q"})


# Windows and terminals


def test_without_a_display_or_a_terminal_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in window.DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    assert main(["play", "nowhere", "--window"]) == 2
    assert "--window: there is no display (DISPLAY)" in capsys.readouterr().err
    assert main(["play", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("galamp: play: needs a terminal")
    assert error.count("\n") == 1


def test_a_window_shows_what_a_video_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    visible = {"value": 1.0}
    fake = {
        "namedWindow": lambda *_: None,
        "imshow": lambda _, picture: shown.append(picture),
        "setWindowTitle": lambda *_: None,
        "getWindowProperty": lambda *_: visible["value"],
        "waitKeyEx": lambda _: 65361,
        "destroyAllWindows": lambda: None,
    }
    for name, function in fake.items():
        monkeypatch.setattr(window.cv2, name, function)
    moment = Moment([still(9)], None, 5.0, 1, 2)
    one = Window("a game", BREAKOUT)
    one.show(still(9), moment, "x 1")
    one.show(still(9), moment, "x 1")
    assert [picture.shape for picture in shown] == [(492, 320, 3)] * 2
    assert one.keys(0.0) == ["left"]
    visible["value"] = 0.0
    with pytest.raises(Quit):
        one.show(still(9), moment, "x 1")
    monkeypatch.setattr(window.cv2, "imshow", refuse)
    with pytest.raises(UserError, match=r"pip install .* opencv-python$"):
        Window("a game", BREAKOUT).show(still(9), moment, "x 1")


NUM_LOCK, SHIFT = 0x10 << 16, 0x1 << 16


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ([65361], ["left"]),
        ([NUM_LOCK | 65361], ["left"]),
        ([SHIFT | NUM_LOCK | 65364], ["down"]),
        ([NUM_LOCK | ord("q")], ["q"]),
        ([SHIFT | ord("+")], ["+"]),
        ([65360], []),  # Home, whose last byte is that of P
        ([65505, SHIFT | ord("P")], ["P"]),
    ],
)
def test_keys_of_a_window(
    sent: list[int], keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter([*sent, *[-1] * 9])
    now = {"s": 0.0}

    def wait(left_ms: int) -> int:
        now["s"] += 0.01
        return next(numbers)

    monkeypatch.setattr(window.cv2, "waitKeyEx", wait)
    monkeypatch.setattr(window, "time", SimpleNamespace(monotonic=lambda: now["s"]))
    assert Window("a game", BREAKOUT).keys(0.05) == keys


def refuse(*_: object) -> None:
    raise window.cv2.error("The function is not implemented. Rebuild the library with GTK+")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stills")
    saved(folder, OF_STILLS, 1, steps=700)
    return folder


def flags_of(terminal: OnTerminal) -> Any:
    return termios.tcgetattr(terminal.master)


@pytest.fixture
def endless(run: Path) -> Iterator[tuple[OnTerminal, Any]]:
    """A game without end on a terminal, and the terminal's settings before it."""
    with OnTerminal("play", run, "--episodes", 10_000, *OWN, columns=80, lines=24) as terminal:
        before = flags_of(terminal)
        wait_for(lambda: "score" in terminal.read(), "a picture")
        assert flags_of(terminal) != before
        yield terminal, before


def ended(terminal: OnTerminal) -> bool:
    """Whether the command has ended; its terminal is read, so that it never waits for that."""
    terminal.read()
    return terminal.process.poll() is not None


def restored(terminal: OnTerminal, before: Any) -> str:
    """Whether the settings and the screen are as they were; returns what was printed then."""
    wait_for(lambda: ended(terminal), "the end of the game")
    assert flags_of(terminal) == before
    whole = terminal.read()
    assert whole.count(OPEN) == whole.count(CLOSE) == 1
    return whole.rpartition(CLOSE)[2]


@pytest.mark.real
def test_a_terminal_is_restored_by_q(endless: tuple[OnTerminal, Any]) -> None:
    terminal, before = endless
    terminal.press(b" ")
    wait_for(lambda: "x 1, paused" in terminal.read(), "a pause")
    terminal.press(b"+")
    wait_for(lambda: "x 1.5, paused" in terminal.read(), "another pace")
    terminal.press(b" q")
    after = restored(terminal, before)
    assert terminal.process.returncode == 0
    assert re.search(r"episode \d+: score \d+", after)
    assert BLOCK in terminal.seen


@pytest.mark.real
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), also(signal.SIGINT, 130), also(signal.SIGQUIT, 131)]
)
def test_a_terminal_is_restored_by_a_signal(
    endless: tuple[OnTerminal, Any], number: int, code: int
) -> None:
    terminal, before = endless
    os.kill(terminal.process.pid, number)
    restored(terminal, before)
    assert terminal.process.returncode == code


@pytest.mark.real
def test_a_person_gets_a_score(run: Path) -> None:
    with OnTerminal("play", run, "--human", *OWN) as terminal:
        wait_for(lambda: "left and right, or 0-1" in terminal.read(), "the keys")
        wait_for(lambda: ended(terminal), "the end of the game")
        assert "episode 1: score 7" in terminal.read()
        assert terminal.process.returncode == 0
