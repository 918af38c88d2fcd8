"""What limits a run: from facts, with a flag that exists, and never a device that is not there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from galamp.core.config import RunConfig
from galamp.core.settings import settings
from galamp.telemetry.bottleneck import LEAST_UPDATES, Facts, bottleneck

FLAGS = {setting.flag for setting in settings(RunConfig())}
USUAL = Facts(
    shares={"collect": 0.1, "infer": 0.1, "update": 0.1, "gossip": 0.1, "other": 0.1},
    updates=LEAST_UPDATES,
    learners=2,
    cores=2,
    busy=1.0,
    others=0.0,
    envs=4,
    splits=1,
    workers=1,
    threads=1,
    max_staleness=8,
)


def said(phase: str, **known: Any) -> str:
    """Return what is said where `phase` takes 60 % of the time."""
    facts = replace(USUAL, shares=USUAL.shares | {phase: 0.6}, **known)
    text = bottleneck(facts)
    assert set(re.findall(r"--[a-z-]+", text)) <= FLAGS
    assert len(text) <= 80 - 9, "it fits on 80 columns"
    return text


@pytest.mark.parametrize(
    ("phase", "known", "expected"),
    [
        ("infer", {}, "infer 60%, batches of 4: --num-envs 8, at most +43%"),
        ("infer", {"envs": 64}, "the network fills 2 cores"),
        ("infer", {"envs": 64, "busy": 0.3, "cores": 8}, "cores 30% busy: --threads 4"),
        ("collect", {"simulators_idle": 0.5}, "simulators idle 50%: --env-splits 2"),
        ("collect", {"simulators_idle": 0.5, "splits": 2}, "simulators idle 50%"),
        ("collect", {"busy": 0.5}, "cores 50% busy: --simulator-workers 2"),
        ("collect", {}, "simulators fill 2 cores"),
        ("update", {"busy": 0.3, "cores": 8}, "--threads 4"),
        ("gossip", {}, "--max-staleness 32"),
        ("gossip", {"synchronous": True}, "without --sync"),
        ("gossip", {"max_staleness": None}, "--gossip-every 2"),
        ("other", {"learners": 4}, "4 learners on 2 cores: fewer --learners"),
        ("infer", {"on_gpu": True, "gpu": 0.2, "gpus": 2}, "GPU 20% busy: --learners 4"),
        ("update", {"on_gpu": True, "gpu": 0.9, "gpus": 1}, "batches of 4: --num-envs 8"),
        ("update", {"on_gpu": True, "gpu": 0.9, "envs": 512}, "the network is the limit"),
    ],
)
def test_the_advice_fits_the_machine(phase: str, known: dict[str, Any], expected: str) -> None:
    text = said(phase, **known)
    assert expected in text
    assert "cuda" not in text
    if not known.get("on_gpu"):
        assert "GPU" not in text


def test_nothing_is_said_before_every_learner_has_made_some_updates() -> None:
    assert said("infer", updates=LEAST_UPDATES - 1) == ""
    assert said("infer", busy=None) == ""
    assert bottleneck(replace(USUAL, shares={})) == ""


def test_two_large_phases_are_no_single_limit() -> None:
    facts = replace(USUAL, shares={"infer": 0.4, "update": 0.35, "collect": 0.25})
    assert bottleneck(facts) == "balanced: infer 40%, update 35%; no single limit"


def test_a_measured_rate_comes_first() -> None:
    rates = {1: 587.0, 2: 695.0, 4: 651.0}
    expected = "--learners 2: +18%, as measured on this machine"
    assert said("infer", learners=1, rates=rates) == expected
    assert "measured" not in said("infer", learners=2, rates=rates)
    assert "measured" not in said("infer", learners=3, rates=rates), "3 were not measured"


def test_other_programs_are_named_and_the_largest_phase_with_them() -> None:
    assert said("update", others=0.4) == "other programs take 40% of the cores; update 60%"
