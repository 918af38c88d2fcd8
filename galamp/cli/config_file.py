"""Config files: the settings of a run as TOML, which `--config` reads and `galamp config` writes.

    run.toml --read--> raw values --checked--> values by section and name
    RunConfig, where each value is from --written--> run.toml

Values are checked as those of flags are. Whatever cannot be used is told in one line each.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from galamp.cli.presets import Values
from galamp.core.config import RunConfig, value_in
from galamp.core.disk import read_limited
from galamp.core.errors import NEAR, UserError, did_you_mean
from galamp.core.json_values import DecodeError, json_object
from galamp.core.older_configs import renamed
from galamp.core.sanitize import one_line
from galamp.core.settings import AUTO, Setting, check, duration_text, settings, shown

MAX_BYTES = 2**20
DEFAULT = "default"
"""Where a value is from that nobody has given."""
RUN_DIR = ("report", "run_dir")
"""The one setting that no two runs share, and so is not written."""
COMMENT_COLUMN = 36


def read(path: Path, flag: str = "--config ") -> dict[str, Any]:
    """Return what is in a TOML file; `flag` is how the user has given it.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_limited(path, MAX_BYTES).decode())
    except OSError as error:
        raise UserError(f"{flag}{path}: {error.strerror}; expected a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag}{path}: not TOML: {error}; see galamp config") from None


def read_stored(folder: Path, what: str) -> dict[str, Any]:
    """Return what is in config.json of a run folder; `what` is how the user has named it.

    Raises:
        UserError: it is no run folder, or the file is damaged.
    """
    try:
        return json_object(read_limited(folder / "config.json", MAX_BYTES))
    except OSError:
        raise UserError(f"{what}: no run folder (it has no config.json)") from None
    except DecodeError as error:
        raise UserError(f"{folder / 'config.json'}: damaged: {error}") from None


def algorithm_in(raw: Mapping[str, Any]) -> Any:
    """Return the algorithm that a file names; None if it names none."""
    section = raw.get("algorithm")
    return section.get("algorithm") if isinstance(section, dict) else None


def checked(raw: Mapping[str, Any], config: RunConfig, source: str) -> Values:
    """Return the values of a file, for a run with the sections of `config`.

    Raises:
        UserError: a line for each setting that is unknown, and each value that is wrong.
    """
    known = {(setting.section, setting.name): setting for setting in settings(config)}
    values: Values = {}
    problems: list[str] = []
    for (section, former), value in _flat(raw):
        name = former
        if (section, former) not in known:
            name, value = renamed(section, former, value)
        if (section, name) not in known:
            problems.append(f"{source}: {_unknown(section, former, known)}")
            continue
        try:
            values[section, name] = check(known[section, name], value)
        except UserError as error:
            text = str(error).removeprefix(known[section, name].flag)
            problems.append(f"{source}: {full_name(section, name)}{text}")
    if problems:
        raise UserError(*problems)
    return values


def _flat(raw: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from (((key, name), leaf) for name, leaf in value.items())
        else:
            yield ("", key), value


def _unknown(section: str, name: str, known: Collection[tuple[str, str]]) -> str:
    """Return what is wrong with a name, and what it may mean: a section, or a setting."""
    all_there_are = "galamp config writes all that there are"
    sections = {each for each, _ in known} - {""}
    if section not in sections | {""}:
        near = did_you_mean(section, sections, cutoff=NEAR)
        return f"unknown section {shown(section)}{near}; {all_there_are}"
    elsewhere = [full_name(*key) for key in known if key[1] == name]
    near = did_you_mean(name, [leaf for part, leaf in known if part == section], cutoff=NEAR)
    if elsewhere:
        near = f" (did you mean {elsewhere[0]}?)"
    return f"unknown setting {shown(full_name(section, name))}{near}; {all_there_are}"


def full_name(section: str, name: str) -> str:
    """Return what a setting is called where sections are apart: `gossip.topology`, `seed`."""
    return f"{section}.{name}" if section else name


def written(config: RunConfig, sources: Mapping[tuple[str, str], str], head: str) -> str:
    """Return a config as TOML: every setting of the run with where it is from.

    What only a comment can say stands as one: that a value follows from others, as by default.

    Args:
        config: the settings.
        sources: where those are from that are no defaults.
        head: a line of comment for the first line.
    """
    lines, section = [f"# {one_line(head)}"], ""
    for setting in settings(config):
        key = setting.section, setting.name
        if not setting.option.stored or key == RUN_DIR:
            continue
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        lines.append(_line(setting, value_in(config, setting), sources.get(key, DEFAULT)))
    return "\n".join(lines) + "\n"


def _line(setting: Setting, value: Any, source: str) -> str:
    known = setting.option
    if (value is None and not known.none) or (known.auto and value == AUTO):
        assigned = f"# {setting.name} = ..."
    else:
        assigned = f"{setting.name} = {toml_of(setting, value)}"
    return f"{assigned:<{COMMENT_COLUMN}}  # {one_line(source)}"


def toml_of(setting: Setting, value: Any) -> str:
    """Return a value as TOML; None by the word that it has."""
    if value is None:
        value = setting.option.none
    elif setting.option.duration:
        value = duration_text(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_quoted(text) for text in value)}]"
    if isinstance(value, str):
        return _quoted(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted(text: str) -> str:
    """Return a text in quotes: JSON's escapes are TOML's, but for one."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
