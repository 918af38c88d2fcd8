"""gossip.jsonl: which learner mixed which version, and the measured distances between learners.

Runs in the supervisor, the one writer; `galamp audit` reads it, also while the run continues.

    entry.as_dict() --GossipLog--> gossip.jsonl --read_gossip--> entries, checked, one by one

Vector (learner, number) is a learner's parameters after its number-th round; a start of the run
gives number 0. A line comes after all lines that it refers to. A killed process leaves at most one
incomplete line; readers skip it and the next writer removes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

from galamp.core.cluster_config import MAX_NODES
from galamp.core.decode import Limits, Range, decode
from galamp.core.disk import Where, as_named, finite, open_plain
from galamp.core.json_values import DecodeError, json_object
from galamp.gossip.transport.publication import Publication
from galamp.storage.run_logs import AppendOnly, Warn

GOSSIP = "gossip.jsonl"
LINE_LIMIT_BYTES = 32 * 2**20
"""No line is longer: the distances between 1,024 learners take two thirds of it."""

BRACKET_LIMIT = 4096
"""No line has more lists and objects; each takes ten times more memory than disk, and time."""

LARGEST = 1e100
"""No valid number is larger: float32 vectors of any length lie closer together than that."""

LIMITS = Limits(number=Range(0.0, LARGEST), more_fields=True)

MAX_LEARNERS = 1024
"""Most learners of a run; the audit takes memory for their square."""

Node: TypeAlias = Annotated[int, Range(0, MAX_NODES)]
Matrix: TypeAlias = tuple[tuple[float, ...], ...]


class Start(NamedTuple):
    """A start of the run: earlier vectors are forgotten; `distances` are between numbers 0.

    `place`: which node this is, of how many; None on one machine. Its own learners come first.
    `outer`: whether outer steps take the place of averages, and so are part of the updates.
    `adopted`: whether learners may leave their numbers 0 for what others have published before they
    publish: no later vector is known by its distance to these. So it is on one of several nodes.
    Versions that did not write it took `distances` for those of the vectors that learners began
    with. Bounds of their records hold if they were, and are replayed as they were made.
    """

    start: int
    learners: Annotated[int, Range(1, MAX_LEARNERS)]
    topology: str
    sync: bool
    wall_s: float
    distances: Matrix
    place: tuple[Node, Node] | None = None
    outer: bool = False
    adopted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the line's object."""
        line = {"kind": "start"} | self._asdict()
        if self.place is None:
            del line["place"]
        for name in ("outer", "adopted"):
            if not line[name]:
                del line[name]
        return line


class Lost(NamedTuple):
    """Vector (learner, number) has no known relation to any other; numbers may jump here."""

    learner: int
    number: int

    def as_dict(self) -> dict[str, Any]:
        """Return the line's object."""
        return {"kind": "lost"} | self._asdict()


class Rebase(NamedTuple):
    """The unknown vector (learner, number) was measured at `distance` from a known one.

    `anew`: it was known, but its learner is on another node, whose record is not in this one.
    """

    learner: int
    number: int
    anchor: tuple[int, int]
    distance: float
    anew: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the line's object."""
        line = {"kind": "rebase"} | self._asdict()
        if not self.anew:
            del line["anew"]
        return line


class Measurement(NamedTuple):
    """L2 distances measured between vectors (r, numbers[r]), and their certificates at that time.

    Attributes:
        wall_s: training time over all starts of the run, in seconds.
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
    certificate: tuple[float, ...] | None = None
    certificate_pairwise: float | None = None
    radius: float | None = None

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
        self._has_begun = False
        """Whether a start of the run has been written."""

    @property
    def failed(self) -> int:
        """Number of pieces that the disk refused; their content has to be declared lost."""
        return self._file.failed

    @property
    def is_gone(self) -> bool:
        """Whether the last entries were not written, since the start of the run is gone.

        The file was removed, moved or emptied. It has to begin again with that start, and what
        vectors there have been since is unknown.
        """
        return self._file.is_gone

    def append(self, entries: list[dict[str, Any]]) -> bool:
        """Add a line for each entry, all by one write; returns whether all were written."""
        if not entries:
            return True
        begins = entries[0]["kind"] == "start"
        text = "".join(map(_line, entries))
        done = self._file.append(text.encode(), goes_on=self._has_begun and not begins)
        self._has_begun = self._has_begun or (begins and done)
        return done


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
        values = json_object(line)
    except DecodeError as error:
        return Damaged(str(error))
    kind = values.get("kind")
    entry = _KINDS.get(kind) if isinstance(kind, str) else None
    if entry is None:
        return Damaged(f"kind: expected {', '.join(_KINDS)}")
    try:
        return _same_sizes(decode(entry, values, LIMITS, str(kind)))
    except DecodeError as error:
        return Damaged(str(error))


_KINDS: dict[str, type[Entry]] = {
    "start": Start,
    "publication": Publication,
    "lost": Lost,
    "rebase": Rebase,
    "measurement": Measurement,
}


def _same_sizes(entry: Entry) -> Entry:
    """Return an entry whose lists all have a value for every learner.

    Raises:
        DecodeError: one has more or fewer.
    """
    if isinstance(entry, Start):
        for row in (entry.distances, *entry.distances):
            _need_size("start", "distances", row, entry.learners)
    if isinstance(entry, Measurement):
        _need_size("measurement", "numbers", entry.numbers, len(entry.distances))
        if entry.certificate is not None:
            _need_size("measurement", "certificate", entry.certificate, len(entry.distances))
    return entry


def _need_size(kind: str, name: str, values: tuple[object, ...], size: int) -> None:
    if len(values) != size:
        raise DecodeError(f"{kind}: {name}: expected a list of {size}, found one of {len(values)}")
