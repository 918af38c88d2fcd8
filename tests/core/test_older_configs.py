"""Configs that an older galamp has written: read as they were meant, under the names of today."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from galamp.algorithms import ALGORITHMS
from galamp.core.config import RunConfig, from_dict, to_dict
from galamp.core.errors import UserError
from galamp.core.older_configs import RENAMED, RENAMED_CHOICES, SWITCHES, renamed, up_to_date
from galamp.core.settings import settings

SETTINGS = {(setting.section, setting.name): setting for setting in settings(RunConfig())}
METHODS = {"gala": "gossip", "a2c": "single", "data-parallel": "allreduce"}


def test_former_names_lead_to_settings_and_choices_of_today() -> None:
    for (section, former), name in RENAMED.items():
        assert (section, name) in SETTINGS
        assert (section, former) not in SETTINGS
    for setting, choices in RENAMED_CHOICES.items():
        now = SETTINGS[setting].option.choices
        assert set(choices.values()) <= set(now)
        assert not set(choices) & set(now)
    assert set(RENAMED) >= SWITCHES


@pytest.mark.parametrize("name", ["ppo", "pqn", "a2c"])
@pytest.mark.parametrize(("anneals", "schedule"), [(True, "linear"), (False, "constant")])
def test_a_learning_rate_that_fell_falls_on(name: str, anneals: bool, schedule: str) -> None:
    read = from_dict({"algorithm": {"algorithm": name, "anneal_lr": anneals}})
    assert to_dict(read)["algorithm"]["lr_schedule"] == schedule


def test_a_setting_of_the_users_keeps_a_name_that_was_galamps() -> None:
    stored = {"algorithm": {"anneal_lr": True}}
    assert up_to_date(stored, {("algorithm", "anneal_lr")}) == stored
    assert up_to_date(stored) == {"algorithm": {"lr_schedule": "linear"}}


def test_no_word_is_a_method_and_an_algorithm() -> None:
    assert not set(SETTINGS["gossip", "method"].option.choices) & set(ALGORITHMS)


@pytest.mark.parametrize("former", METHODS)
def test_a_method_under_its_former_name_is_the_same(former: str) -> None:
    stored = to_dict(RunConfig())
    stored["gossip"]["method"] = former
    before = copy.deepcopy(stored)
    assert from_dict(stored).gossip.method == METHODS[former]
    assert stored == before, "what was read is left alone"


def test_a_setting_under_its_former_name_is_the_same() -> None:
    stored = to_dict(from_dict({"resources": {"env_splits": 3}}))
    stored["resources"]["batches"] = stored["resources"].pop("env_splits")
    before = copy.deepcopy(stored)
    assert from_dict(stored) == from_dict({"resources": {"env_splits": 3}})
    assert stored == before, "what was read is left alone"


@pytest.mark.parametrize("names", [("batches", "env_splits"), ("env_splits", "batches")])
def test_a_setting_under_both_names_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"unknown setting resources\.batches"):
        from_dict({"resources": dict.fromkeys(names, 2)})


@pytest.mark.parametrize("value", [17, "many", None, [2], {"a": 1}])
def test_a_wrong_value_is_told_under_the_name_of_today(value: Any) -> None:
    with pytest.raises(UserError, match=r"--env-splits .*: expected a whole number from 1 to 16"):
        from_dict({"resources": {"batches": value}})


def test_a_config_of_today_is_left_as_it_is() -> None:
    stored = to_dict(from_dict({"seed": 3, "gossip": {"method": "independent"}}))
    assert up_to_date(stored) == stored


def test_an_older_run_reads_observations_by_their_type_as_it_did() -> None:
    stored = to_dict(RunConfig())
    assert from_dict(stored).environment.observation_reading == "space"
    for env_id in ("CartPole-v1", "ALE/Pong-v5"):
        older = {k: v for k, v in stored["environment"].items() if k != "observation_reading"}
        config = from_dict({**stored, "environment": older | {"env_id": env_id}})
        assert config.environment.observation_reading == "dtype"


@pytest.mark.parametrize("value", [["gala"], {"gala": 1}, None, 1, True, "GALA", "gal"])
def test_what_was_no_choice_then_either_is_refused(value: Any) -> None:
    assert renamed("gossip", "method", value) == ("method", value)
    with pytest.raises(UserError, match=r"--method .*: expected "):
        from_dict({"gossip": {"method": value}})


def test_former_choices_belong_to_their_setting() -> None:
    assert from_dict({"model": {"network": "gala"}}).model.network == "gala"
    assert from_dict({"algorithm": {"algorithm": "a2c"}}).algorithm.algorithm == "a2c"


@pytest.mark.parametrize(
    "values", [{"gossip": 3}, {"": {"method": "gala"}}, {"method": "gala"}, {"batches": 2}]
)
def test_sections_that_are_none_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="unknown setting"):
        from_dict(values)
