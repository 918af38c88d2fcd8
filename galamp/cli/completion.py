"""`galamp completion`: what a shell offers when Tab is pressed: commands, flags and their values.

    galamp completion bash --script--> the shell, once
    Tab --words typed so far--> galamp completion --candidates --> one candidate per line

The script asks galamp itself, so it offers the runs, games and presets that there are now.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from galamp.core.arguments import Parser
from galamp.core.config import RunConfig
from galamp.core.errors import EXIT_OK, GalampError, UserError
from galamp.core.sanitize import clean
from galamp.core.settings import settings

BASH = """\
_galamp() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion --candidates \\
        "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _galamp galamp
"""
ZSH = """\
#compdef galamp
_galamp() {
    local -a found
    found=(${(f)"$("${words[1]}" completion --candidates "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -- "${found[@]}"; else _files; fi
}
compdef _galamp galamp
"""
FISH = """\
function __galamp
    set -l words (commandline -opc)
    $words[1] completion --candidates $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c galamp -a '(__galamp)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
PLACES = {
    "bash": "galamp completion bash >> ~/.bashrc",
    "zsh": "galamp completion zsh >> ~/.zshrc      (after compinit)",
    "fish": "galamp completion fish > ~/.config/fish/completions/galamp.fish",
}
"""Where each script goes."""

Parsers = Callable[[Sequence[str]], argparse.ArgumentParser]
"""Makes the parser of a command line: `main.build_parser`."""


def add_options(parser: Parser) -> None:
    """Give `parser` the options of `galamp completion`, and the command."""
    lines = "\n".join(f"  {place}" for place in PLACES.values())
    parser.usage = "galamp completion {bash,zsh,fish}"
    parser.description = f"Print a script that has Tab complete galamp's words. Once:\n\n{lines}"
    parser.set_defaults(command=completion_command)
    parser.add_argument("shell", nargs="?", metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("--candidates", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def completion_command(args: argparse.Namespace) -> int:
    """`galamp completion`."""
    if args.candidates is not None:
        found = map(clean, candidates(args.candidates, args.build_parser))
        sys.stdout.writelines(f"{candidate}\n" for candidate in found)
        return EXIT_OK
    if args.shell not in SCRIPTS:
        given = "no shell" if args.shell is None else args.shell
        raise UserError(f"completion: {given}: expected one of {', '.join(SCRIPTS)}")
    sys.stdout.write(SCRIPTS[args.shell])
    return EXIT_OK


def candidates(words: Sequence[str], build_parser: Parsers) -> list[str]:
    """Return what the last word may become; nothing where the shell knows better, as for files.

    Args:
        words: what was typed after `galamp`; the last is incomplete, and may be empty.
        build_parser: gives the parser of a command line.
    """
    *before, last = _without_equals(words)
    if not before:
        return _begins(last, _commands(build_parser([])))
    parser = _parser_of(before, build_parser)
    if parser is None:
        return []
    flag, equals, start = last.partition("=")
    if equals and flag in parser._option_string_actions:
        return [f"{flag}={v}" for v in _begins(start, values_of(_action(parser, flag)))]
    action = parser._option_string_actions.get(before[-1])
    if action is not None and action.nargs != 0:
        return _begins(last, values_of(action))
    if last.startswith("-"):
        return _begins(last, _flags(parser))
    return _begins(last, [value for each in parser._get_positional_actions()
                          for value in values_of(each)])  # fmt: skip


def _without_equals(words: Sequence[str]) -> list[str]:
    """Return words as typed: bash hands over `--game=Pong` as three."""
    kept = [word for word in words if word != "="]
    return [*kept, ""] if not words or words[-1] == "=" else kept


def _commands(parser: argparse.ArgumentParser) -> Iterable[str]:
    return parser._get_positional_actions()[0].choices or ()


def _parser_of(words: Sequence[str], build_parser: Parsers) -> argparse.ArgumentParser | None:
    """Return the parser of the command that words begin with; None if that is none."""
    for known in (words, words[:1]):  # a preset that is only half there names no algorithm
        with (
            contextlib.suppress(GalampError, SystemExit),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            commands = build_parser(known)._get_positional_actions()[0]
            found: dict[str, argparse.ArgumentParser] = dict(commands.choices or {})
            return found.get(words[0])
    return None


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags that the help shows, and those that turn switches off."""
    return [
        flag
        for action in parser._get_optional_actions()
        if action.help is not argparse.SUPPRESS
        for flag in action.option_strings
        if flag.startswith("--")
    ]


def _action(parser: argparse.ArgumentParser, flag: str) -> argparse.Action:
    return parser._option_string_actions[flag]


def _begins(start: str, values: Iterable[str]) -> list[str]:
    """Return the values that begin so, in any case of letters."""
    return [value for value in values if value.lower().startswith(start.lower())]


def values_of(action: argparse.Action) -> Iterable[str]:
    """Return the values that an argument takes, as far as they can be listed."""
    if action.choices is not None:
        return map(str, action.choices)
    if str(action.metavar).startswith("RUN"):
        return _runs()
    section, dot, name = action.dest.rpartition(".")
    if name in ("env_id", "game"):
        return _games()
    if not dot and name in LISTS:
        return LISTS[name]()
    config = RunConfig()
    found = (
        s.option.choices for s in settings(config) if dot and (s.section, s.name) == (section, name)
    )
    return next(found, ())


def _games() -> Iterable[str]:
    from galamp.environments.names import list_games

    return list_games()


def _presets() -> Iterable[str]:
    from galamp.cli.presets import PRESETS

    return PRESETS


def _topologies() -> Iterable[str]:
    from galamp.gossip.topologies import TOPOLOGIES

    return TOPOLOGIES


LISTS: dict[str, Callable[[], Iterable[str]]] = {
    "preset": _presets,
    "name": _topologies,  # of galamp topology
    "shell": lambda: SCRIPTS,
}
"""By the name of an argument: what it takes, where no setting says so."""


def _runs() -> list[str]:
    """Return the run folders in `runs`, the newest first."""
    with contextlib.suppress(OSError):
        folders = [each.parent for each in Path("runs").glob("*/config.json")]
        newest = sorted(folders, key=lambda each: each.stat().st_mtime, reverse=True)
        return [str(each) for each in newest]
    return []
