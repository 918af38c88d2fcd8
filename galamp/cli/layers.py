"""Layers of a command line's settings: default < preset < file or other run < flag.

    preset, --config FILE or --like RUN, flags --Layer each--> merged: values, where each is from

Runs in the parent. Which algorithm's settings there are is known before: `algorithm_flags`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from galamp.cli import config_file
from galamp.cli.presets import Values, preset_values
from galamp.core.config import RunConfig, from_settings
from galamp.core.errors import UserError

ALGORITHM, LEARNERS, SEED = ("algorithm", "algorithm"), ("resources", "learners"), ("", "seed")
WORD = "auto"
"""What asks for the quickest number of learners; the default is one per core."""
SEEDS = 1_000_000
"""Seeds of runs that are like another are below this: short enough for the name of a folder."""

Sources = dict[tuple[str, str], str]
"""Where a value is from, by section and name."""


class Layer(NamedTuple):
    """Settings from one place; the same for `config_file` to name."""

    source: str
    values: Values


class Given(NamedTuple):
    """Settings that are no defaults, and where each is from."""

    values: Values
    sources: Sources


def merged(layers: Sequence[Layer]) -> Given:
    """Return the values of all layers, of which a later one is above an earlier one."""
    values: Values = {}
    sources: Sources = {}
    for layer in layers:
        values |= layer.values
        sources |= dict.fromkeys(layer.values, layer.source)
    return Given(values, sources)


def flag_sources(values: Mapping[tuple[str, str], object]) -> Sources:
    """Return as source of each value its own flag."""
    return {(section, name): f"--{name.replace('_', '-')}" for section, name in values}


def under_flags(args: argparse.Namespace, flags: Values) -> Given:
    """Return what a new run is given: the flags, over whatever else the command line names.

    Raises:
        UserError: of several that exclude one another, of another algorithm, or with wrong values.
    """
    if args.config is not None and args.like is not None:
        raise UserError("--config and --like: both give all settings; give one of them")
    above = _Above(args, flags)
    found = (_preset(args, above), _file(args, flags, above), _like(args, flags, above))
    values, sources = merged([layer for layer in found if layer is not None])
    return Given(values | flags, sources | flag_sources(flags))


def asks_for_quickest(args: argparse.Namespace) -> bool:
    """Return whether `--learners auto`, or the same in a file, asks to find the quickest number."""
    flag = getattr(args, f"{LEARNERS[0]}.{LEARNERS[1]}", None)
    if flag is not None or args.config is None:
        return bool(flag == WORD)
    section = config_file.read(Path(args.config)).get(LEARNERS[0])
    return isinstance(section, dict) and section.get(LEARNERS[1]) == WORD


class _Above(NamedTuple):
    """The command line above presets and files: it decides which algorithm there is."""

    args: argparse.Namespace
    flags: Values

    def check(self, source: str, own: object) -> None:
        """Refuse settings of another algorithm than the one of the run: they are others.

        Raises:
            UserError: `own` is another.
        """
        wanted = self.flags.get(ALGORITHM, self.args.usual.algorithm.algorithm)
        if own in (None, wanted):
            return
        others = (f"--{name} {value}" for name in ("like", "config")
                  if (value := getattr(self.args, name)) is not None)  # fmt: skip
        other = f"--algorithm {wanted}" if ALGORITHM in self.flags else next(others)
        what = "the preset" if source.startswith("--preset") else source.split()[0]
        raise UserError(f"{source}: is of algorithm {own}; leave out {other}, or {what}")


def refuse_beside_resume(args: argparse.Namespace) -> None:
    """Refuse what is for new runs.

    Raises:
        UserError: one of them is given.
    """
    for name in ("preset", "config", "like"):
        value = getattr(args, name)
        if value is not None:
            raise UserError(
                f"--{name} {value}: is for new runs; give single settings with --resume"
            )


def _preset(args: argparse.Namespace, above: _Above) -> Layer | None:
    if args.preset is None:
        return None
    values, source = preset_values(args.preset), f"--preset {args.preset}"
    above.check(source, values[ALGORITHM])
    return Layer(source, values)


def _file(args: argparse.Namespace, flags: Values, above: _Above) -> Layer | None:
    if args.config is None:
        return None
    source, raw = f"--config {args.config}", config_file.read(Path(args.config))
    above.check(source, config_file.algorithm_in(raw))
    values = config_file.checked(raw, args.usual, source)
    _check_own_code(source, values, flags, args.usual)
    return Layer(source, values)


def _check_own_code(source: str, values: Values, flags: Values, usual: RunConfig) -> None:
    """Check that flags name anew what of the user's would be imported: anyone may write a file.

    Raises:
        UserError: only the file names it.
    """
    from galamp.training.resume_config import check_imports

    check_imports(source, from_settings(values, type(usual.algorithm)), flags)


def _like(args: argparse.Namespace, flags: Values, above: _Above) -> Layer | None:
    folder: Path | None = args.like
    if folder is None:
        return None
    source = f"--like {folder}"
    above.check(source, config_file.algorithm_in(config_file.read_stored(folder, source)))
    from galamp.training.resume_config import values_like

    values = values_like(folder, flags)
    if SEED not in flags:
        values[SEED] = random.SystemRandom().randrange(1, SEEDS)
    return Layer(source, values)
