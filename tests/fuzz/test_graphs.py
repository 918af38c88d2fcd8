"""Bent files of gossip graphs: a graph that keeps its promises, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from galamp.core.errors import UserError
from galamp.gossip.topologies import make_topology
from tests.fuzz.bending import EDITS, edited, examples, told_in_one_line

WHOLE = [
    b"0 1 1\n1 0 1\n1 1 0\n",
    b"# a ring with weights\n.5, .5, 0, 0\n0, .5, .5, 0\n0, 0, .5, .5\n.5, 0, 0, .5\n",
    b"\xef\xbb\xbf0.9999999 1e-7\r\n1e-7 0.9999999\r\n",
    b"1\n",
]
PIECES = st.sampled_from([b"nan", b"inf", b"-1", b"1e-320", b"1e308", b"0x1", b"1_0", b"#", b",,"])
LINES = st.lists(st.lists(PIECES | st.just(b"1"), max_size=4).map(b" ".join), max_size=4)


@examples(80, 1500)
def test_bytes(thorough: Any, tmp_path: Path) -> None:
    file = tmp_path / "graph.txt"

    @thorough
    @given(st.sampled_from(WHOLE), EDITS, st.integers(1, 4), st.sampled_from(["auto", "uniform"]))
    def bent(
        whole: bytes, edits: list[tuple[str, float, int, bytes]], size: int, weights: str
    ) -> None:
        file.write_bytes(edited(whole, edits))
        graph_or_told(file, size, weights)

    bent()


@examples(40, 500)
def test_numbers(thorough: Any, tmp_path: Path) -> None:
    file = tmp_path / "graph.txt"

    @thorough
    @given(LINES, st.integers(1, 4))
    def bent(lines: list[bytes], size: int) -> None:
        file.write_bytes(b"\n".join(lines))
        graph_or_told(file, size, "metropolis")

    bent()


def graph_or_told(file: Path, size: int, weights: str) -> None:
    try:
        graph = make_topology(f"file:{file}", size, weights)
    except UserError as error:
        told_in_one_line(error)
        return
    for rank in range(size):
        shares = graph.weights(rank, 0)
        assert len(shares) == 1 + len(graph.in_peers(rank, 0))
        assert min(shares) >= 0
        assert shares[0] > 0
        assert np.isclose(sum(shares), 1, rtol=0, atol=1e-9)
