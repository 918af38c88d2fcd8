"""`python -m galamp`: the command line. Children import this file, too, and nothing by it."""

from galamp.core import isolation

if __name__ == "__main__":
    isolation.leave_working_directory()
    from galamp.cli.main import main

    raise SystemExit(main())
