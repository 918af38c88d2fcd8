"""Folders of sweeps for tests."""

from __future__ import annotations

from pathlib import Path

from galamp.tools.sweep.ledger import Ledger


def made(tmp_path: Path) -> Ledger:
    """The ledger of a sweep of `try.toml`, whose runs are in a folder beside that file."""
    folder = tmp_path / "runs"
    folder.mkdir(exist_ok=True)
    return Ledger(folder, tmp_path / "try.toml")
