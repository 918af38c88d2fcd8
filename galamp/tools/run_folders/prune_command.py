"""`galamp prune`: remove older checkpoints, or whole runs; without --yes it only says which.

Only light modules are imported at the top, since the command line imports this one for every
command.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from galamp.core.arguments import whole_number
from galamp.core.errors import EXIT_OK, GalampError
from galamp.core.sanitize import clean
from galamp.storage.links import followed

if TYPE_CHECKING:
    from galamp.tools.run_folders.pruning import Plan

KEEP, MAX_KEEP = 1, 999_999
MAX_SHOWN = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `galamp prune`, and the command."""
    parser.description = (
        "Remove older checkpoints of runs, or whole runs. Without --yes nothing is removed: it "
        "shows what would be."
    )
    parser.set_defaults(command=prune_command)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=followed, help="folders of runs that have ended"
    )
    parser.add_argument(
        "--keep", metavar="N", type=whole_number(1, MAX_KEEP), default=KEEP,
        help="newest checkpoints that stay, besides the best one and the newest whole one "
        f"(default: {KEEP})",
    )  # fmt: skip
    parser.add_argument(
        "--whole", action="store_true",
        help="remove all that the runs have written into these folders; what other commands wrote, "
        "and files of yours, stay",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do remove it")


def prune_command(args: argparse.Namespace) -> int:
    """`galamp prune`: every run is looked at before anything is removed."""
    from galamp.tools.run_folders.pruning import plan_of
    from galamp.tools.run_folders.sizes import size_text

    runs = dict.fromkeys(args.runs)
    plans = [plan_of(run, args.keep, whole=args.whole) for run in runs]
    for plan in plans:
        print("\n".join(_words(plan)), flush=True)
    if not any(plan.goes for plan in plans):
        print("nothing to remove")
    elif not args.yes:
        total = size_text(sum(plan.bytes for plan in plans))
        print(f"nothing is removed yet; to remove it, {total} in all, add --yes")
    else:
        _remove_all(plans, args.keep)
    return EXIT_OK


def _remove_all(plans: list[Plan], keep: int) -> None:
    """Remove everything; a run that cannot be removed does not keep the others."""
    from galamp.tools.run_folders.pruning import remove
    from galamp.tools.run_folders.sizes import size_text

    freed, problems = 0, list[str]()
    for plan in plans:
        try:
            freed += remove(plan, keep) if plan.goes else 0
        except GalampError as error:
            problems += error.problems
    print(f"removed: {size_text(freed)}", flush=True)
    if problems:
        raise GalampError(*problems)


def _words(plan: Plan) -> list[str]:
    """Return what would go of one run, a line each, and what stays."""
    from galamp.tools.run_folders.sizes import size_of, size_text

    run = clean(str(plan.run))
    if plan.whole:
        lines = [f"{run}: the whole run, {size_text(plan.bytes)}"]
        if plan.stays:
            lines.append(f"  stays: {plan.stays} files or folders that the run has not written")
        return lines
    number = len(plan.goes)
    lines = [f"{run}: {number} checkpoint{'' if number == 1 else 's'}, {size_text(plan.bytes)}"]
    lines += [f"  {size_text(size_of(p)):>10}  {clean(p.name)}" for p in plan.goes[:MAX_SHOWN]]
    if number > MAX_SHOWN:
        lines.append(f"  … and {number - MAX_SHOWN} more")
    if plan.note:
        lines.append(f"  note: {clean(plan.note)}")
    return lines
