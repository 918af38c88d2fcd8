"""Gossip graph from a user's text file, read before any child starts.

    bytes --_text--> str --_rows--> one row per learner --_square--> matrix --FromFile--> graph

Row i, column j is the weight of learner j in the average of learner i. Numbers are separated by
blanks or commas, `#` starts a comment, empty lines are ignored. There are two forms:

* Adjacency, if all numbers are 0 or 1: a 1 off the diagonal means that learner i receives from
  learner j. The diagonal is ignored. A permutation, whose rows sum to 1, has this form, because as
  weights it would give a learner's own vector weight 0; so has the identity, which has no edges.
* Weights, otherwise: every row sums to 1; it is divided by its sum, to remove rounding errors.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from galamp.core.errors import UserError
from galamp.gossip.topologies.base import Topology

MAX_BYTES = 64 * 2**20
MAX_LEARNERS = 4096
MAX_CHARACTERS_SHOWN = 20

ROW_TOLERANCE = 1e-6
"""Largest difference of a row's sum from 1: the user's decimals are rounded."""

COLUMN_TOLERANCE = 1e-9
"""Largest difference of a column's sum from 1 in a doubly stochastic matrix."""

EMPTY_FIELD = re.compile(r"^\s*,|,\s*,")

Matrix = NDArray[np.float64]
Pattern = NDArray[np.bool_]


class FromFile(Topology):
    """Graph in a text file; it connects every learner with all others.

    Attributes:
        shown: `file:PATH`, printable, for messages.
        weighted: whether the weights are those of the file; uniform otherwise.
    """

    def __init__(self, path: str, size: int, *, uniform: bool = False) -> None:
        """Read `path`; with `uniform`, ignore the weights in it.

        Raises:
            UserError: the file cannot be read, or holds no connected graph over `size` learners.
        """
        super().__init__(size)
        source = _Source(path)
        self.shown = source.shown
        matrix, adjacency = _square(source, size)
        received = matrix > 0
        np.fill_diagonal(received, False)
        _check_connected(source, received)
        self.weighted = not (adjacency or uniform)
        if not self.weighted:
            matrix = (received + np.eye(size)) / (1 + received.sum(axis=1, keepdims=True))
        self.symmetric = bool((received == received.T).all())
        self.doubly_stochastic = bool((np.abs(matrix.sum(axis=0) - 1) <= COLUMN_TOLERANCE).all())
        self._in, self._out = _Lists(received), _Lists(received.T)
        self._own, self._shares = matrix.diagonal().copy(), matrix[received]

    def out_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the learners that have a weight for `rank`."""
        return self._out.of(rank)

    def in_peers(self, rank: int, round_: int) -> tuple[int, ...]:
        """Return the learners for which `rank` has a weight."""
        return self._in.of(rank)

    def weights(self, rank: int, round_: int) -> tuple[float, ...]:
        """Return the weight of `rank` itself, then the weights of its in-peers, in their order."""
        return (float(self._own[rank]), *self._shares[self._in.span(rank)].tolist())


class _Lists:
    """Columns of the true entries of a square pattern, one row after the other."""

    def __init__(self, pattern: Pattern) -> None:
        self.columns = np.nonzero(pattern)[1].astype(np.int32)
        self.ends = np.cumsum(pattern.sum(axis=1))

    def span(self, row: int) -> slice:
        """Return the part of `columns` that belongs to a row."""
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))

    def of(self, row: int) -> tuple[int, ...]:
        """Return the columns of a row in ascending order."""
        return tuple(self.columns[self.span(row)].tolist())


class _Source:
    """Graph file: its path, and its name in error messages."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.shown = f"file:{path if path.isprintable() else ascii(path)}"

    def refuse(self, line: int | None, what: str) -> NoReturn:
        where = "" if line is None else f", line {line}"
        raise UserError(f"--topology {self.shown}{where}: {what}")


def _text(source: _Source) -> str:
    readable = "expected a readable text file; check the path"
    try:
        path = Path(source.path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe could block, a device could be endless
            source.refuse(None, f"not a regular file; {readable}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1) if status.st_size <= MAX_BYTES else b""
    except OSError as error:
        source.refuse(None, f"{error.strerror or 'cannot be read'}; {readable}")
    except ValueError:  # a zero byte, or no valid text
        source.refuse(None, f"no file can have this name; {readable}")
    if status.st_size > MAX_BYTES or len(content) > MAX_BYTES:
        limit = f"{MAX_BYTES // 2**20} MiB"
        source.refuse(None, f"larger than {limit}, expected at most that; write shorter numbers")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        source.refuse(line, "not UTF-8, expected a text file; save it as plain text")


def _rows(source: _Source, text: str) -> Iterator[tuple[int, Matrix]]:
    """Yield the line number and the numbers of every row; all rows have the same length."""
    first: tuple[int, int] | None = None
    for line, written in enumerate(io.StringIO(text, newline=None), start=1):
        row = written.partition("#")[0].strip()
        if not row:
            continue
        if EMPTY_FIELD.search(row):
            source.refuse(line, "nothing before a comma, expected a number; write 0 for no edge")
        fields = row.replace(",", " ").split(maxsplit=MAX_LEARNERS)
        if len(fields) > MAX_LEARNERS:
            _refuse_size(source, line)
        first = first or (line, len(fields))
        if len(fields) != first[1]:
            source.refuse(
                line,
                f"{len(fields)} numbers, expected {first[1]} as in line {first[0]}; "
                "write one number per learner in every row",
            )
        yield line, _numbers(source, line, fields)


def _refuse_size(source: _Source, line: int) -> NoReturn:
    source.refuse(
        line, f"more than {MAX_LEARNERS} learners, expected at most that; use a smaller graph"
    )


def _numbers(source: _Source, line: int, fields: list[str]) -> Matrix:
    values: list[float] = []
    for field in fields:
        try:
            values.append(float(field))
        except ValueError:
            source.refuse(
                line,
                f"number {len(values) + 1} is {field[:MAX_CHARACTERS_SHOWN]!a}, expected a "
                "number; separate numbers by blanks or commas",
            )
    found = np.array(values)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if wrong.size:
        source.refuse(
            line,
            f"number {wrong[0] + 1} is {found[wrong[0]]:g}, expected a finite number of at least "
            "0; write 0 for no edge",
        )
    return found


def _square(source: _Source, size: int) -> tuple[Matrix, bool]:
    """Return the matrix [n, n], and whether it is an adjacency; if not, its rows sum to 1."""
    lines, rows = [], []
    for line, row in _rows(source, _text(source)):
        lines.append(line)
        rows.append(row)
        if len(rows) > MAX_LEARNERS:
            _refuse_size(source, line)
    if not rows:
        source.refuse(None, "holds no numbers, expected one row per learner; write them")
    if len(rows) != len(rows[0]):
        source.refuse(
            lines[-1],
            f"the last of {len(rows)} rows of {len(rows[0])} numbers, expected as many rows as "
            "columns; write one row per learner",
        )
    if len(rows) != size:
        source.refuse(
            lines[-1],
            f"the last row of a graph of {len(rows)} learners, expected {size}; use another "
            f"graph or --learners {len(rows)}",
        )
    matrix = np.array(rows)
    if ((matrix == 0) | (matrix == 1)).all():
        return matrix, True
    return _normalised(source, lines, matrix), False


def _normalised(source: _Source, lines: list[int], matrix: Matrix) -> Matrix:
    """Check that rows almost sum to 1; return `matrix` with every row divided by its sum."""
    for rank, row in enumerate(matrix):
        total = sum(row.tolist())
        if not abs(total - 1) <= ROW_TOLERANCE:
            source.refuse(
                lines[rank],
                f"the weights of learner {rank} sum to {total:.8g}, expected 1; correct them, or "
                "write only 0 and 1 to have them chosen",
            )
        if row[rank] == 0:
            source.refuse(
                lines[rank],
                f"learner {rank} gives itself weight 0, expected more; write a positive number "
                f"in column {rank + 1}",
            )
        matrix[rank] /= total
    return matrix


def _check_connected(source: _Source, received: Pattern) -> None:
    """Refuse a graph without a path between some two learners; `received` [receiver, sender]."""
    from_first = _reached(received.T)
    if not from_first.all():
        _refuse_unconnected(source, 0, int(np.argmin(from_first)))
    to_first = _reached(received)
    if not to_first.all():
        _refuse_unconnected(source, int(np.argmin(to_first)), 0)


def _refuse_unconnected(source: _Source, sender: int, receiver: int) -> NoReturn:
    source.refuse(
        None,
        f"learner {sender}'s parameters never reach learner {receiver}, expected a path between "
        "any two learners; add edges, or run independent learners with --topology none",
    )


def _reached(forward: Pattern) -> Pattern:
    """Return which learners have a path from learner 0, including itself; `forward` [from, to]."""
    found = np.zeros(len(forward), dtype=np.bool_)
    found[0] = True
    queue = [0]
    while queue:
        fresh = forward[queue.pop()] & ~found
        found |= fresh
        queue += np.flatnonzero(fresh).tolist()
    return found
