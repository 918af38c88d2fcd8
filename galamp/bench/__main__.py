"""`python -m galamp.bench`: the command line of bin/bench."""

from __future__ import annotations

from galamp.bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
