"""`galamp help [TOPIC]`: the texts of `topics/`, one file each, which come with the package.

    topics/TOPIC.md --> laid out and paged on a terminal, as it is anywhere else

The first line of a text is its title, `# Topic: what it explains`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib import resources

from galamp.core.errors import EXIT_OK, UserError, did_you_mean

MAX_WIDTH = 100
"""Columns of a page on wider terminals: longer lines are hard to read."""
MARGIN = 2
"""Columns beside a block of commands."""
_COMMAND = re.compile(r"^((?:galamp|bin/bench) [^#\n]*?) +# ([^\n]*)$", re.MULTILINE)
"""A command with a comment behind it."""
_TEXT_OPTION = re.compile(r"[PkoOpTtD].*")
"""An option of less that takes the rest of the word as a text."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp help`, and the command."""
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help=f"one of {', '.join(topics())}")
    parser.set_defaults(command=help_command)


def help_command(args: argparse.Namespace) -> int:
    """`galamp help`."""
    if args.topic is None:
        sys.stdout.write(topics_list())
        return EXIT_OK
    text = text_of(args.topic)
    if sys.stdout.isatty():
        _page(text)
    else:
        sys.stdout.write(text)
    return EXIT_OK


def topics() -> list[str]:
    """Return the names of all topics, sorted."""
    files = resources.files("galamp.cli").joinpath("topics").iterdir()
    return sorted(file.name.removesuffix(".md") for file in files if file.name.endswith(".md"))


def text_of(topic: str) -> str:
    """Return the text of a topic, Markdown.

    Raises:
        UserError: there is no such topic.
    """
    known = topics()
    if topic not in known:
        raise UserError(f"unknown topic {topic!r}{did_you_mean(topic, known)}; see galamp help")
    file = resources.files("galamp.cli").joinpath("topics", f"{topic}.md")
    return file.read_text(encoding="utf-8")


def topics_list() -> str:
    """Return a line for each topic, of at most 79 columns."""
    known = topics()
    width = max(map(len, known))
    lines = [f"  {topic:<{width}}  {_explained(topic)}" for topic in known]
    return "\n".join(["topics, galamp help TOPIC:", *lines, ""])


def _explained(topic: str) -> str:
    """Return what a topic explains, from its title."""
    title, _, _ = text_of(topic).partition("\n")
    return title.partition(": ")[2]


def fitted(text: str, width: int) -> str:
    """Return a text whose commands have their comments above, where a line would be too long."""
    return _COMMAND.sub(
        lambda found: found[0] if len(found[0]) <= width else f"# {found[2]}\n{found[1]}", text
    )


def _shows_styles(options: str) -> bool:
    """Return whether less with these options shows styles; else it shows their escape codes."""
    for word in options.split():
        if word.startswith("--"):
            if word.lower() == "--raw-control-chars":
                return True
        elif {"R", "r"} & set(_TEXT_OPTION.sub("", word)):
            return True
    return False


def _page(text: str) -> None:
    """Lay a text out for the terminal, and page it where it is longer than that."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.width = min(console.width, MAX_WIDTH)
    # less: ends at once where all fits, shows colours, and leaves the text on the screen.
    options = os.environ.setdefault("LESS", "-FRX")
    with console.pager(styles=_shows_styles(options)):
        console.print(Markdown(fitted(text, console.width - MARGIN)))
