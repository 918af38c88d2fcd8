"""Which checkout trains: the commit of galamp's own files, for the rows of the study.

The results of the study are left out: each row that is added changes them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import galamp

PACKAGE = Path(galamp.__file__).parent
RESULTS = "tools/study/results"
DEADLINE_S = 30.0
DIGITS = 10
CHANGED = "+"


def commit(package: Path = PACKAGE) -> str:
    """Return the commit of a package, with a plus if its files differ; empty without one.

    A package that only lies within the repository of something else has none.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        name = _git(package, "rev-parse", f"--short={DIGITS}", "HEAD").strip()
        changed = _git(package, "status", "--porcelain", "--", ".", f":(exclude){RESULTS}")
    except (OSError, subprocess.SubprocessError):
        return ""
    return name + (CHANGED if changed.strip() else "")


def _git(folder: Path, *words: str) -> str:
    # A hook's variables name another repository; optional locks would change the checkout.
    own = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ("git", "--no-optional-locks", "-C", str(folder), *words),
        capture_output=True, text=True, timeout=DEADLINE_S, check=True, env=own | {"LC_ALL": "C"},
    )  # fmt: skip
    return done.stdout
