"""Command lines of `galamp run` without a run: what they configure, and how they are refused."""

from __future__ import annotations

from typing import Any

import pytest

from galamp.cli.main import build_parser, main
from galamp.cli.run_config import config_from
from galamp.core.config import RunConfig


def parsed(*arguments: str) -> RunConfig:
    line = ["run", *arguments]
    return config_from(build_parser(line).parse_args(line))


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command line gets, without `galamp: ` and a traceback."""
    try:
        code: Any = main(["run", *arguments])
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    line, *details = err.splitlines()
    assert details[:1] in ([], ["Traceback (most recent call last):"])
    return line.removeprefix("galamp: ")
