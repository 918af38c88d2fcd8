"""gossip.jsonl: which learner mixed which version, and the measured distances between learners.

Runs in the supervisor, the one writer; `galamp audit` reads it, also while the run continues.

    entry.as_dict() --GossipLog--> gossip.jsonl --read_gossip--> entries, checked, one by one

Vector (learner, number) is a learner's parameters after its number-th round; a start of the run
gives number 0. A line comes after all lines that it refers to. A killed process leaves at most one
incomplete line; readers skip it and the next writer removes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from galamp.core.disk import Where, as_named, finite, open_plain
from galamp.gossip.transport.publication import Publication, Source
from galamp.storage.run_logs import AppendOnly, Warn

GOSSIP = "gossip.jsonl"
LINE_LIMIT_BYTES = 32 * 2**20
"""No line is longer: the distances between 1,024 learners take two thirds of it."""

BRACKET_LIMIT = 4096
"""No line has more lists and objects; each takes ten times more memory than disk, and time."""

LARGEST = 1e100
"""No valid number is larger: float32 vectors of any length lie closer together than that."""

COUNT_LIMIT = 2**63

MAX_LEARNERS = 1024
"""Most learners of a run; the audit takes memory for their square."""

Matrix: TypeAlias = tuple[tuple[float, ...], ...]


class Start(NamedTuple):
    """A start of the run: earlier vectors are forgotten; `distances` are between numbers 0."""

    start: int
    learners: int
    topology: str
    sync: bool
    wall_s: float
    distances: Matrix

    def as_dict(self) -> dict[str, Any]:
        """Return the line's object."""
        return {"kind": "start"} | self._asdict()


class Lost(NamedTuple):
    """Vector (learner, number) has no known relation to any other; numbers may jump here."""

    learner: int
    number: int

    def as_dict(self) -> dict[str, Any]:
        """Return the line's object."""
        return {"kind": "lost"} | self._asdict()


class Rebase(NamedTuple):
    """The unknown vector (learner, number) was measured at `distance` from a known one."""

    learner: int
    number: int
    anchor: tuple[int, int]
    distance: float

    def as_dict(self) -> dict[str, Any]:
        """Return the line's object."""
        return {"kind": "rebase"} | self._asdict()


class Measurement(NamedTuple):
    """L2 distances measured between vectors (r, numbers[r]), and their certificates at that time.

    Attributes:
        wall_s: seconds since the start.
        global_step: agent steps.
        numbers: [learners].
        distances: [learners], each one's to the mean of all.
        pairwise: the greatest between two.
        norm: L2 norm of the mean.
        certificate: [learners], bounds of `distances`; None where unknown.
        certificate_pairwise: bound of `pairwise`; None where unknown.
        radius: theoretical radius in lock-step; None where it does not apply.
    """

    wall_s: float
    global_step: int
    numbers: tuple[int, ...]
    distances: tuple[float, ...]
    pairwise: float
    norm: float
    certificate: tuple[float, ...] | None
    certificate_pairwise: float | None
    radius: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the line's object."""
        return {"kind": "measurement"} | self._asdict()


class Damaged(NamedTuple):
    """A complete line that is none of the above, and its error."""

    wrong: str


Entry: TypeAlias = Start | Publication | Lost | Rebase | Measurement


class GossipLog:
    """Writer of the file; a failing disk is reported once and costs only lines."""

    def __init__(self, path: Path, warn: Warn, where: Where = as_named) -> None:
        self._file = AppendOnly(path, warn, where)

    @property
    def failed(self) -> int:
        """Number of pieces that the disk refused; their content has to be declared lost."""
        return self._file.failed

    def append(self, entries: list[dict[str, Any]]) -> bool:
        """Add a line for each entry, all by one write; returns whether all were written."""
        if not entries:
            return True
        return self._file.append("".join(map(_line, entries)).encode())


def _line(entry: dict[str, Any]) -> str:
    try:
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"
    except (TypeError, ValueError):
        # Diverged parameters, or NumPy scalars: readers take null for no number.
        return json.dumps(finite(entry), allow_nan=False, separators=(",", ":")) + "\n"


def read_gossip(path: Path) -> Iterator[Entry | Damaged]:
    """Yield exactly one item per complete line, in order: their count gives line numbers.

    An incomplete last line is skipped. Only one line is in memory, whatever the size of the file.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    with open_plain(path) as file:
        while line := file.readline(LINE_LIMIT_BYTES):
            if line.endswith(b"\n"):
                yield parse(line)
            elif len(line) == LINE_LIMIT_BYTES:
                while (rest := file.readline(LINE_LIMIT_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield Damaged(f"more than {LINE_LIMIT_BYTES} bytes in a line")


def parse(line: bytes) -> Entry | Damaged:
    """Return the entry of a line, or its error."""
    if line.count(b"[") + line.count(b"{") > BRACKET_LIMIT:
        return Damaged(f"more than {BRACKET_LIMIT} lists and objects in a line")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return Damaged("not JSON")
    if not isinstance(values, dict):
        return Damaged("expected a JSON object")
    kind = values.get("kind")
    build = _BUILDERS.get(kind) if isinstance(kind, str) else None
    if build is None:
        return Damaged(f"kind: expected {', '.join(_BUILDERS)}")
    try:
        return build(values)
    except _WrongError as error:
        return Damaged(f"{kind}: {error}")


class _WrongError(Exception):
    """The error of a line."""


def _start(values: dict[str, Any]) -> Start:
    learners = _count(values, "learners")
    if not 1 <= learners <= MAX_LEARNERS:
        raise _WrongError(f"learners: expected 1 to {MAX_LEARNERS}")
    rows = _list(values, "distances", learners)
    distances = tuple(_amounts({"distances": row}, "distances", learners) for row in rows)
    topology, sync = values.get("topology"), values.get("sync")
    if not isinstance(topology, str) or not isinstance(sync, bool):
        raise _WrongError("expected topology to be text, and sync to be true or false")
    start, wall_s = _count(values, "start"), _amount(values, "wall_s")
    return Start(start, learners, topology, sync, wall_s, distances)


def _publication(values: dict[str, Any]) -> Publication:
    mixed = values.get("mixed")
    if not isinstance(mixed, list):
        raise _WrongError("mixed: expected a list")
    return Publication(
        _count(values, "learner"),
        _count(values, "number"),
        _count(values, "round"),
        _count(values, "version"),
        _count(values, "incarnation"),
        _amount(values, "length"),
        _amount(values, "own"),
        tuple(map(_message, mixed)),
    )


def _message(value: object) -> Source:
    match value:
        case [peer, number, weight]:
            message = {"peer": peer, "number": number, "weight": weight}
            parts = _count(message, "peer"), _count(message, "number"), _amount(message, "weight")
            return Source(*parts)
    raise _WrongError("mixed: expected lists of peer, number, weight")


def _lost(values: dict[str, Any]) -> Lost:
    return Lost(_count(values, "learner"), _count(values, "number"))


def _rebase(values: dict[str, Any]) -> Rebase:
    peer, number = _list(values, "anchor", 2)
    anchor = {"anchor": peer, "its number": number}
    return Rebase(
        _count(values, "learner"),
        _count(values, "number"),
        (_count(anchor, "anchor"), _count(anchor, "its number")),
        _amount(values, "distance"),
    )


def _measurement(values: dict[str, Any]) -> Measurement:
    distances = _amounts(values, "distances")
    numbers = _list(values, "numbers", len(distances))
    certificate = values.get("certificate")
    if certificate is not None:
        certificate = _amounts(values, "certificate", len(distances))
    return Measurement(
        _amount(values, "wall_s"),
        _count(values, "global_step"),
        tuple(_count({"numbers": number}, "numbers") for number in numbers),
        distances,
        _amount(values, "pairwise"),
        _amount(values, "norm"),
        certificate,
        _amount_or_none(values, "certificate_pairwise"),
        _amount_or_none(values, "radius"),
    )


_BUILDERS: dict[str, Callable[[dict[str, Any]], Entry]] = {
    "start": _start,
    "publication": _publication,
    "lost": _lost,
    "rebase": _rebase,
    "measurement": _measurement,
}


def _count(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if type(value) is int and 0 <= value < COUNT_LIMIT:
        return value
    raise _WrongError(f"{name}: expected a whole number from 0")


def _amount(values: dict[str, Any], name: str) -> float:
    value = values.get(name)
    # NaN and infinity fail the comparison; a huge int is compared before the conversion.
    if (type(value) is float or type(value) is int) and 0 <= value <= LARGEST:
        return float(value)
    raise _WrongError(f"{name}: expected a finite number from 0")


def _amount_or_none(values: dict[str, Any], name: str) -> float | None:
    return None if values.get(name) is None else _amount(values, name)


def _list(values: dict[str, Any], name: str, length: int | None = None) -> list[Any]:
    value = values.get(name)
    if isinstance(value, list) and length in (None, len(value)):
        return value
    raise _WrongError(f"{name}: expected a list" + ("" if length is None else f" of {length}"))


def _amounts(values: dict[str, Any], name: str, length: int | None = None) -> tuple[float, ...]:
    return tuple(_amount({name: value}, name) for value in _list(values, name, length))
