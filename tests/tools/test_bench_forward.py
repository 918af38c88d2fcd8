"""`bin/bench forward`: both forward passes learn the same, and the table tells them apart."""

from __future__ import annotations

import os

import pytest
import torch

from galamp.algorithms.cached_conv import CachedConvForward
from galamp.algorithms.forward import RecomputedForward
from galamp.telemetry.display.console import text_lines
from galamp.tools.bench import forwards, parts
from galamp.tools.bench.forwards import AUTOGRAD, CACHED, forwards_table, measure
from galamp.tools.bench.options import add_forward
from galamp.tools.bench.parts import ACT, LEARN, Parts

GAME = "ALE/Breakout-v5"


def test_one_has_the_cache_and_the_other_has_not() -> None:
    kinds = {
        cached: type(Parts(GAME, 1, "gala", cached=cached).algorithm._forward)  # type: ignore[attr-defined]
        for cached in (True, False)
    }
    assert kinds == {True: CachedConvForward, False: RecomputedForward}


def test_they_take_turns_and_the_process_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "BLOCK_S", 1e-6)
    seen: list[int] = []

    def noted(of: Parts) -> dict[str, float]:
        seen.append(id(of))
        return parts.train_block(of)

    monkeypatch.setattr(forwards, "train_block", noted)
    before = os.sched_getaffinity(0), torch.get_num_threads()
    found = measure(GAME, 1, "gala", "float32", blocks=2)
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before
    assert seen == [*seen[:2]] * 3
    assert len(set(seen)) == 2
    assert {name: len(blocks) for name, blocks in found.items()} == {CACHED: 2, AUTOGRAD: 2}
    assert all(
        each[part] > 0 for blocks in found.values() for each in blocks for part in (ACT, LEARN)
    )


def test_the_table_has_the_ratio_of_each_pair_of_blocks() -> None:
    found = {
        CACHED: [{ACT: 1.0, LEARN: 1.0}, {ACT: 2.0, LEARN: 2.0}, {ACT: 1.0, LEARN: 3.0}],
        AUTOGRAD: [{ACT: 1.0, LEARN: 3.0}, {ACT: 2.0, LEARN: 4.0}, {ACT: 1.0, LEARN: 3.0}],
    }
    first, second = text_lines(forwards_table(found))[-2:]
    assert first.split()[3:] == ["1.0000", "2.0000", "4.0000", "1.00", "(1.00", "-", "1.00)"]
    assert second.split()[2:] == ["1.0000", "3.0000", "4.0000", "1.50", "(1.00", "-", "2.00)"]


def test_the_command_has_its_options() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_forward(parser)
    args = parser.parse_args(["--network", "gala", "--num-envs", "4", "--precision", "bf16"])
    assert (args.network, args.num_envs, args.precision) == ("gala", 4, "bf16")
