"""Loaded by a server in tests: it has room for its children, without galamp's heavy modules."""

from __future__ import annotations

from galamp.workers.forkserver import raise_file_limit

raise_file_limit()
