r"""`galamp profile`: record all processes of a running run by py-spy, and say where time went.

    RUN/control --"profile"--> its processes, which may be traced meanwhile --record--> Samples
                --"watch"----> the run's own shares of the same time
    Samples --> a table on the screen; flame graphs, a speedscope file, report.json in RUN/profiles

Ctrl-C ends it without a profile. Only light modules are imported at the top.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from galamp.core.arguments import whole_number
from galamp.core.errors import EXIT_OK, GalampError, UserError
from galamp.storage.links import followed

if TYPE_CHECKING:
    from galamp.cli.control_client import ControlClient
    from galamp.telemetry.snapshot import Snapshot
    from galamp.tools.profile.recording import Recording

FOLDER = "profiles"
SECONDS, MAX_SECONDS = 10, 3600
ANSWER_S = 60.0
"""Longest wait for the run: while it is stopped, or between two attempts."""
PERMIT_S = 2.0
"""Wait for all processes to permit tracing, where that is needed: they look between two steps."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp profile`, and the command."""
    parser.description = (
        "Record all processes of a running run at once, and say where their time went. Needs "
        "py-spy, which the extra galamp[profile] brings."
    )
    parser.set_defaults(command=profile_command)
    parser.add_argument("run", metavar="RUN", type=followed, help="folder of a running run")
    parser.add_argument(
        "-d", "--seconds", metavar="S", type=whole_number(1, MAX_SECONDS), default=SECONDS,
        help=f"how long (default: {SECONDS})",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path,
        help=f"folder for the files (default: RUN/{FOLDER}/<time>)",
    )  # fmt: skip


def profile_command(args: argparse.Namespace) -> int:
    """`galamp profile`."""
    from galamp.cli.control_client import ControlClient
    from galamp.telemetry.display.streams import print_safely
    from galamp.tools.profile.recording import py_spy, record
    from galamp.tools.profile.report import lines

    program = py_spy()
    with ControlClient(args.run) as client:
        processes = _permitted(client, args.run)
        folder = _folder(args)
        print_safely(
            f"galamp: recording {len(processes)} processes for {args.seconds} s\n", sys.stderr
        )
        try:
            recording = record(program, processes, args.seconds)
        except BaseException:  # Ctrl-C, too: no empty folder is left
            if args.output is None:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
    snapshot = _snapshot(args.run)
    _write(folder, args, recording, snapshot)
    print("\n".join(lines(str(args.run), args.seconds, recording, snapshot)))
    print(f"\nwritten: {folder}: flame graphs to open in a browser, a file for speedscope.app")
    return EXIT_OK


def _permitted(client: ControlClient, run: Path) -> dict[int, str]:
    """Return process id and title of the run's processes, which this one may trace from now on.

    Raises:
        GalampError: what answers is no run, or it ends.
    """
    from galamp.core.processes.tracing import ptrace_scope

    client.send({"want": "profile"})
    for message in client.messages(ANSWER_S):
        found = message.get("processes")
        if not isinstance(found, dict) or not all(map(_is_process, found.items())):
            raise GalampError(f"{run}: what answers is no run: expected to hear of processes")
        if ptrace_scope():
            time.sleep(PERMIT_S)
        return {int(pid): title for pid, title in found.items()}
    raise GalampError(f"{run}: ended before it was recorded")


def _is_process(entry: tuple[object, object]) -> bool:
    pid, title = entry
    sound = isinstance(pid, str) and pid.isascii() and pid.isdigit() and len(pid) < 10
    return sound and isinstance(title, str) and title.isprintable() and len(title) < 100


def _folder(args: argparse.Namespace) -> Path:
    """Return the new folder for the files.

    Raises:
        UserError: it cannot be made, or is not empty.
    """
    folder: Path = args.output or args.run / FOLDER / f"{datetime.now():%Y%m%d-%H%M%S}"
    try:
        os.makedirs(folder, exist_ok=True)
        used = next(os.scandir(folder), None) is not None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"-o {folder}: cannot be a folder: {why}; name another") from None
    if used:
        raise UserError(f"-o {folder}: is not empty; name another folder")
    return folder


def _snapshot(run: Path) -> Snapshot | None:
    """Return the run's newest snapshot; None if it has ended."""
    from galamp.cli.control_client import ControlClient
    from galamp.training.control.snapshot_json import snapshot_from

    with contextlib.suppress(GalampError), ControlClient(run) as client:
        client.send({"want": "watch"})
        for message in client.messages(ANSWER_S):
            return snapshot_from(message.get("snapshot"))
    return None


def _write(
    folder: Path, args: argparse.Namespace, recording: Recording, snapshot: Snapshot | None
) -> None:
    from galamp.core.disk import write_new
    from galamp.core.processes.titles import run_name
    from galamp.tools.profile.flame_graph import flame_graph
    from galamp.tools.profile.report import as_json
    from galamp.tools.profile.speedscope import speedscope
    from galamp.tools.profile.stacks import ROLES

    name, files = run_name(args.run), {}
    for role in ROLES:
        of_role = [each for each in recording.samples if each.role == role and each.total]
        if of_role:
            title = f"{name}: {role}, {len(of_role)} processes, {args.seconds} s"
            files[f"{role}.svg"] = flame_graph(title, of_role)
    files["profile.speedscope.json"] = speedscope(name, recording.samples, recording.rate)
    report = as_json(args.seconds, recording, snapshot)
    files["report.json"] = json.dumps(report, indent=1).encode()
    for file, content in files.items():
        write_new(folder / file, content)
