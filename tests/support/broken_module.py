"""A module of environments that cannot be imported: it needs another that is not there."""

import tests.that_is_missing_here  # type: ignore[import-not-found]  # noqa: F401
