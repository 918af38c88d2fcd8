"""`python -m galamp`: the command line."""

from __future__ import annotations

from galamp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
