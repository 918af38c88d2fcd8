"""Bent config.json files of a run that is to go on: settings in range, or one line."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from galamp.cli.main import build_parser
from galamp.cli.run_config import config_from
from galamp.core.config import RunConfig, from_dict, to_dict
from galamp.core.errors import UserError
from galamp.core.settings import AUTO, settings
from galamp.storage.run_folder import RunFolder, read_json
from tests.fuzz.bending import EDITS, bent_json, edited, examples, told_in_one_line

STORED = json.loads(
    json.dumps(to_dict(RunConfig()) | {"resolved": {"network": "gala", "learners": [{"rank": 0}]}})
)
CONTENT = json.dumps(STORED, indent=2).encode()


@functools.cache
def parser() -> argparse.ArgumentParser:
    """That of `galamp run`; the command line is never what is bent here."""
    return build_parser(["run"])


def settings_or_told(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    try:
        config = config_from(parser().parse_args(["run", "--resume", str(folder)]))
    except UserError as error:
        told_in_one_line(error)
        return
    assert from_dict(to_dict(config)) == config
    for setting in settings(RunConfig()):
        section = getattr(config, setting.section) if setting.section else config
        value = getattr(section, setting.name)
        known = setting.option
        if isinstance(value, int | float) and not (known.auto and value == AUTO):
            assert known.low is None or value >= known.low
            assert known.high is None or value <= known.high


@examples(60, 1200)
def test_bytes(thorough: Any, tmp_path: Path) -> None:
    @thorough
    @given(EDITS)
    def bent(edits: list[tuple[str, float, int, bytes]]) -> None:
        settings_or_told(tmp_path, edited(CONTENT, edits))

    bent()


@examples(60, 1500)
def test_values(thorough: Any, tmp_path: Path) -> None:
    @thorough
    @given(bent_json(STORED))
    @example({"": {"seed": 1}})
    @example({"seed": {"": 1}})
    @example(STORED | {"resolved": 1})
    def bent(document: Any) -> None:
        settings_or_told(tmp_path, json.dumps(document).encode())

    bent()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 10**6, b'{"a":' * 10**5, b"9" * 10**6, b"NaN"],
    ids=lambda content: content[:4].hex(),
)
def test_bombs(tmp_path: Path, content: bytes) -> None:
    settings_or_told(tmp_path, content)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "."])
def test_what_is_no_file_or_has_no_end(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").symlink_to(name)
    with pytest.raises(UserError, match=r"cannot read|no config\.json"):
        read_json(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"no config\.json"):
        RunFolder.open(tmp_path)


def test_a_giant_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="more than"):
        read_json(tmp_path / "config.json")


PATHS = st.text(st.characters(exclude_characters="\0"), max_size=300).map(
    lambda text: text.encode(errors="replace").decode()
)


@examples(40, 500)
def test_paths(thorough: Any, tmp_path: Path) -> None:
    """Whatever is given as the run to go on with, be it too long, odd, or a folder of others."""
    (tmp_path / "empty").mkdir()

    @thorough
    @given(PATHS)
    @example("empty")
    @example("/dev/null")
    @example("a" * 300)
    @example("a/" * 3000)
    @example("a\nb")
    def bent(path: str) -> None:
        words = ["run", f"--resume={tmp_path}/{path}"]
        with pytest.raises(UserError) as refused:
            config_from(parser().parse_args(words))
        assert len(refused.value.problems) == 1

    bent()
