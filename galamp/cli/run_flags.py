"""Flags of a run: one for every setting, in groups, those that matter most first.

    RunConfig's options --add_settings--> parser of run, and, unseen, of chaos

Runs in the parent, before the command line is parsed.
"""

from __future__ import annotations

import argparse
from typing import Any

from galamp.algorithms import own_settings
from galamp.cli.algorithm_flags import add_own_group, flags_elsewhere
from galamp.cli.presets import PRESETS
from galamp.cli.run_config import SINK_FLAGS, dest_of
from galamp.core.arguments import Parser, add_flag
from galamp.core.config import RunConfig
from galamp.core.older_configs import RENAMED, SWITCHES
from galamp.core.settings import Setting, flag_of, settings
from galamp.storage.links import followed

START = "start"
"""The first group of the help: eight flags, of which these are settings."""
STARTS = (
    ("environment", "env_id"),
    ("algorithm", "algorithm"),
    ("resources", "learners"),
    ("", "total_steps"),
    ("", "seed"),
)

SECTION_TITLES = {
    START: "the flags that matter most",
    "": "settings from elsewhere (default < preset < file or run < flag)",
    "stop": "when to end before --total-steps",
    "evaluation": "evaluation while it trains",
    "environment": "environment (frames: emulator frames; one agent step is --frame-skip frames)",
    "algorithm": "algorithm (those of another one: --algorithm NAME --help)",
    "model": "network",
    "gossip": "gossip",
    "resources": "processes and devices",
    "cluster": "several machines (galamp help cluster)",
    "report": "what is shown and kept",
}

SHORT = {
    "tensorboard": "scalars in RUN/tensorboard",
    "track": "track the run at Weights & Biases, in RUN/wandb where there is no key",
}
"""Flag of `SINK_FLAGS` -> what it does."""

OWN = "algorithm.own"
"""Stands for the group of settings that only the algorithm of this command line has."""


def add_settings(parser: Parser, *, shown: bool = True) -> None:
    """Give `parser` a flag for every setting of its default `usual`, and where others come from.

    Of those that are not `shown` nothing stands in the help.
    """
    usual: RunConfig = parser.get_default("usual")
    groups = _groups(parser, usual, shown)
    _add_others(groups, shown)
    known = {(setting.section, setting.name): setting for setting in settings(usual)}
    for setting in (*(known[key] for key in STARTS), *settings(usual)):
        if setting.flag in parser.flags:
            continue
        add_flag(
            groups[_group_of(setting, usual)],
            setting,
            dest=dest_of(setting.section, setting.name),
            default=argparse.SUPPRESS,
            none="the protocol's",
            hidden=not shown,
        )
    for former in RENAMED.keys() - known.keys():
        _add_former(groups[former[0]], *former)
    parser.elsewhere = flags_elsewhere(usual.algorithm)


def _groups(parser: Parser, usual: RunConfig, shown: bool) -> dict[str, Any]:
    """Return the groups of flags by section; the algorithm's own stand behind everyone's."""
    groups: dict[str, Any] = {}
    for section, title in SECTION_TITLES.items():
        groups[section] = parser.add_argument_group(title)
        if section == "algorithm":
            own = add_own_group(parser, usual.algorithm) if shown else groups[section]
            groups[OWN] = own
    return groups


def _group_of(setting: Setting, usual: RunConfig) -> str:
    if (setting.section, setting.name) in STARTS:
        return START
    own = setting.section == "algorithm" and setting.name in own_settings(type(usual.algorithm))
    return OWN if own else setting.section


def _add_others(groups: dict[str, Any], shown: bool) -> None:
    """Add the flags that are no settings: what names an environment, or settings made elsewhere."""

    def add(section: str, flag: str, metavar: str, text: str, **known: Any) -> None:
        text = text if shown else argparse.SUPPRESS
        groups[section].add_argument(flag, metavar=metavar, help=text, **known)

    add(START, "--game", "NAME", "Atari game, such as Breakout (short for --env-id ALE/...)")
    add(START, "--preset", "NAME", f"a named set of settings: {', '.join(PRESETS)}; "
        "galamp presets says what each is for")  # fmt: skip
    add(START, "--resume", "RUN", "go on with the run in this folder", type=followed)
    add("", "--config", "FILE", "settings from a TOML file, such as galamp config writes")
    add("", "--like", "RUN", "the settings of another run, with a seed of its own", type=followed)
    for name, sink in SINK_FLAGS.items():
        text = f"short for {sink} among --sinks: {SHORT[name]}" if shown else argparse.SUPPRESS
        groups["report"].add_argument(f"--{name}", action="store_true", help=text)


def _add_former(group: Any, section: str, former: str) -> None:
    """Add the former flag of a setting, of which the help says nothing."""
    known: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    if (section, former) in SWITCHES:
        known["action"] = argparse.BooleanOptionalAction
    group.add_argument(flag_of(former), dest=dest_of(section, former), **known)
