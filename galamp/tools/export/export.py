"""Export, from a run to a file that is known to act the same.

    path --locate, read--> Agent --record--> Recording
    Agent.module --Format.written--> bytes --Format.read, verify--> file, file.json

Runs in one process; a short-lived one probes the environment first.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from galamp.core.disk import in_home, replacing, write_new
from galamp.core.errors import GalampError, UserError
from galamp.core.settings import shown
from galamp.storage.checkpoint import Found
from galamp.telemetry.display.streams import print_safely
from galamp.tools.evaluation.agent import Agent
from galamp.tools.evaluation.trained import MEAN, Learner, locate, read
from galamp.tools.export.config import ExportConfig
from galamp.tools.export.description import described
from galamp.tools.export.formats import Example, Format, format_of
from galamp.tools.export.verification import Recording, Verification, record, verify


class Exported(NamedTuple):
    """What was written, and how it was found to be the same."""

    path: Path
    description: Path
    text: str


def export(path: Path, config: ExportConfig, output: str | None, *, overwrite: bool) -> Exported:
    """Export the agent that `path`, `config.learner` and `config.which` mean.

    Raises:
        UserError: the agent, the environment, the format or the file cannot be used.
        GalampError: the export differs from the agent, or the disk refuses; nothing is written.
    """
    format, (learner, which) = format_of(config.format), _wanted(config.learner, config.which)
    found = locate(path, which)
    for line in found.skipped:
        print_safely(f"galamp: warning: damaged checkpoint passed over: {line}\n", sys.stderr)
    file = _target(output, found, f"{learner}{format.ending}", overwrite)
    trained, device = read(found.path, learner), torch.device("cpu")
    agent = Agent(
        trained,
        learner,
        device,
        seed=config.seed,
        env_id=config.env_id,
        wrapper=config.wrapper,
        network=config.network,
    )
    env = agent.env(seed=config.seed)
    try:
        recording = record(agent, env)
    finally:
        env.close()
    content, verified = converted(agent, format, recording)
    description = described(agent, config.format, file.name, verified)
    told = json.dumps(description, allow_nan=False, indent=1).encode() + b"\n"
    beside = _description_of(file)
    _write(file, content, beside, told, overwrite)
    return Exported(file, beside, f"{agent!r}\n{_in_words(verified)}")


def converted(agent: Agent, format: Format, recording: Recording) -> tuple[bytes, Verification]:
    """Return an agent as the content of a file, verified.

    Raises:
        GalampError: the format cannot express its network, or it differs.
    """
    module = agent.module_of(recording.observations.dtype.name).eval()
    observations, states = recording
    example = Example(observations[:2], None if states is None else states[:2])
    try:
        content = format.written(module, example)
        function = format.read(content, module)
    except Exception as error:  # whatever a network of the user's, or the exporter, raises
        reason = " ".join(str(error).split())[:200]
        raise GalampError(
            f"nothing written: network {agent.identity.network} cannot be exported to this format "
            f"({type(error).__name__}: {reason}); choose another --format"
        ) from error
    return content, verify(agent, function, recording)


def _wanted(learner: str, which: str) -> tuple[Learner, str | None]:
    """Return whose parameters, and which checkpoint, `--learner` and `--which` mean.

    `--which` was for both: it may still name whose.

    Raises:
        UserError: one of them means nothing, or they mean two learners.
    """
    whose = _learner(learner)
    if whose is None:
        raise UserError(f"--learner {shown(learner)}: expected mean, or a learner's rank such as 0")
    if which in ("", "best", "latest"):
        return whose, which or None
    named = _learner(which)
    if named is None:
        raise UserError(f"--which {shown(which)}: expected best or latest")
    if whose not in (MEAN, named):
        raise UserError(f"--learner {learner} --which {which}: two learners; leave --which out")
    return named, None


def _learner(text: str) -> Learner | None:
    """Return the learner that a text names; None if it names none."""
    if text == MEAN:
        return MEAN
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _target(output: str | None, found: Found, name: str, overwrite: bool) -> Path:
    """Return the file to write, checked before any work is done.

    Raises:
        UserError: it cannot be written, or it exists, or its description.
    """
    if output:
        file = in_home(output)
    else:
        run = found.path.parent if found.place == found.path else found.place
        run = run.parent if run.name == "checkpoints" else run
        file = run / f"export-{found.path.name}-{name}"
    if not os.path.isdir(file.parent) or not os.access(file.parent, os.W_OK | os.X_OK):
        raise UserError(f"{file.parent}: no folder that can be written to; use another --output")
    for each in (file, _description_of(file)):
        if os.path.isdir(each):
            raise UserError(f"--output {each}: is a folder; add a name")
        if os.path.lexists(each) and not overwrite:
            raise UserError(f"{each}: exists; choose another --output, or give --overwrite")
    return file


def _description_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _write(file: Path, content: bytes, beside: Path, told: bytes, overwrite: bool) -> None:
    """Write an export and its description, both or neither.

    Raises:
        GalampError: the disk refuses, or one of the names was taken meanwhile.
    """
    mine: list[Path] = []
    try:
        if overwrite:  # both are on the disk before any is replaced
            with replacing(file, content), replacing(beside, told):
                return
        for path, part in ((file, content), (beside, told)):
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            mine.append(path)
            write_new(path, part)
    except OSError as error:
        for path in mine:
            path.unlink(missing_ok=True)
        raise GalampError(f"{file} not written: {error.strerror}") from None


def _in_words(verified: Verification) -> str:
    """Return what was verified as a sentence."""
    ties = f", and one as good for {verified.near_ties:,}" if verified.near_ties else ""
    return (
        f"verified on {verified.observations:,} observations of games: the same action for "
        f"{verified.same_actions:,}{ties}; greatest difference of logits "
        f"{verified.logits_difference:.1g}"
    )
