"""Words of other tools: each is answered by galamp's own, in one line."""

from __future__ import annotations

import shlex

import pytest

from galamp.cli.field_words import COMMANDS as WORDS
from galamp.cli.field_words import FLAGS, command_elsewhere, flags_elsewhere
from galamp.cli.main import COMMANDS, build_parser, main

PARSER = build_parser(["run"])
RUN = PARSER._subparsers._group_actions[0].choices["run"]  # type: ignore[union-attr,index]


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        raise SystemExit(main(words))
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("galamp: ")


@pytest.mark.parametrize(
    ("flag", "use"),
    [
        ("--lr", "--learning-rate"),
        ("--total-timesteps", "--total-steps"),
        ("--num-timesteps", "--total-steps"),
        ("--n-envs", "--num-envs"),
        ("--env", "--env-id, or --game for Atari"),
        ("--wandb", "--track"),
        ("--target-score", "--stop-score"),
    ],
)
def test_a_flag_of_other_tools_is_answered(
    capsys: pytest.CaptureFixture[str], flag: str, use: str
) -> None:
    told = f"{flag} is not in galamp; use {use}; see galamp run --help"
    assert complaint(capsys, "run", "--seed", "3", flag, "1") == told
    assert complaint(capsys, "run", f"{flag}=1") == told


@pytest.mark.parametrize(
    ("word", "use"),
    [("train", "galamp run"), ("evaluate", "galamp eval RUN"), ("test", "galamp eval RUN")],
)
def test_a_command_of_other_tools_is_answered(
    capsys: pytest.CaptureFixture[str], word: str, use: str
) -> None:
    assert complaint(capsys, word, "x") == f"{word} is not in galamp; use {use}; see galamp help"


def test_no_word_of_other_tools_is_galamps() -> None:
    assert not set(FLAGS) & set(RUN._option_string_actions)
    assert not set(WORDS) & set(COMMANDS)


def test_answers_lead_to_what_there_is() -> None:
    """An answer that names a flag or a command which is missing is not given."""
    answered = flags_elsewhere({*RUN._option_string_actions, *COMMANDS})
    assert len(answered) > 40
    for flag, told in answered.items():
        for word in shlex.split(told.partition("; use ")[2]):
            if word.startswith("--"):
                assert word.rstrip(",") in {*RUN._option_string_actions, "--clip-coef"}, flag
    assert flags_elsewhere(()).keys() == {
        f for f, use in FLAGS.items() if use.startswith(("nothing", "flags"))
    }
    assert command_elsewhere("train", ("eval",)) == ""
    assert command_elsewhere("nowhere", COMMANDS) == ""
    assert command_elsewhere("enjoy", ("eval",)).endswith("use galamp eval RUN")
    assert command_elsewhere("enjoy", ("eval", "play")).endswith("use galamp play RUN")
