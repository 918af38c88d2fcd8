"""One test that holds for many values: a loop instead of one test id per value."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def each(name: str, values: Iterable[object]) -> Callable[[Callable[..., None]], Any]:
    """Call the test for every value of its argument `name`; a failure's note tells which.

    For cheap tests only: fixtures are made once, and the first failing value ends the test.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def looping(*args: object, **kwargs: object) -> None:
            for value in values:
                try:
                    test(*args, **kwargs, **{name: value})
                except BaseException as error:
                    error.add_note(f"{name} = {value!r}")
                    raise

        signature = inspect.signature(test)
        parameters = [p for p in signature.parameters.values() if p.name != name]
        looping.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return looping

    values = tuple(values)
    return decorate
