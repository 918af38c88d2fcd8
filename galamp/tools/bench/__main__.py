"""`python -m galamp.tools.bench`: the command line of bin/bench."""

from galamp.core import isolation

if __name__ == "__main__":
    isolation.leave_working_directory()
    from galamp.tools.bench.cli import main

    raise SystemExit(main())
