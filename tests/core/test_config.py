"""Settings: what is accepted, what is refused and how it is told, and their JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from galamp.algorithms.networks import NETWORKS
from galamp.core.config import EnvironmentConfig, RunConfig, from_dict, to_dict
from galamp.core.errors import UserError
from galamp.core.settings import AUTO, Setting, allowed, check, settings
from galamp.gossip.topologies import TOPOLOGIES

SETTINGS = {setting.name: setting for setting in settings(RunConfig())}


def refused(setting: str, value: Any) -> str:
    """The complaint about a value; fails where the value is taken."""
    with pytest.raises(UserError) as caught:
        check(SETTINGS[setting], value)
    return str(caught.value)


# What there is


def test_every_setting_has_its_own_flag_and_a_meaning() -> None:
    flags = [setting.flag for setting in settings(RunConfig())]
    assert len(flags) == len(set(flags)) > 30
    assert all(setting.option.help.strip() for setting in settings(RunConfig()))
    assert SETTINGS["num_envs"].flag == "--num-envs"
    assert SETTINGS["num_envs"].section == "environment"
    assert SETTINGS["seed"].section == ""


def test_every_default_is_a_value_that_is_accepted() -> None:
    for setting in settings(RunConfig()):
        assert check(setting, setting.default) == setting.default, setting.name


def test_registries_are_the_choices() -> None:
    assert SETTINGS["topology"].option.choices == tuple(TOPOLOGIES)
    assert SETTINGS["algorithm"].option.choices == ("a2c", "vtrace", "ppo", "pqn")
    assert SETTINGS["network"].option.choices == ("auto", *NETWORKS)
    assert set(SETTINGS["protocol"].option.choices) == {"classic", "machado"}
    assert SETTINGS["name"].option.choices == ()


# JSON


def changed() -> RunConfig:
    """A config of which every section differs from the default."""
    return from_dict(
        {
            "seed": 7,
            "total_steps": 123_456,
            "environment": {"env_id": "CartPole-v1", "sticky_actions": 0.25, "noop_max": 0},
            "algorithm": {"learning_rate": 1e-3, "num_steps": 20},
            "model": {"network": "nature"},
            "gossip": {"topology": "none", "sync": True},
            "resources": {"learners": 4, "device": "cuda:0,cuda:1", "pin": False},
            "report": {"name": "größer", "keep_checkpoints": 5},
        }
    )


@pytest.mark.parametrize("config", [RunConfig(), changed()], ids=["default", "changed"])
def test_a_config_survives_json(config: RunConfig) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_the_json_form_names_every_setting_in_its_section() -> None:
    stored = to_dict(changed())
    for setting in settings(RunConfig()):
        section = stored[setting.section] if setting.section else stored
        assert (setting.name in section) == setting.option.stored
    assert stored["environment"]["sticky_actions"] == 0.25
    assert stored["seed"] == 7


def test_what_is_missing_takes_its_default() -> None:
    assert from_dict({}) == RunConfig()
    assert from_dict({"gossip": {}}) == RunConfig()
    assert from_dict({"gossip": {"sync": True}}).gossip.topology == "ring"


@pytest.mark.parametrize("protocol", ["classic", "machado"])
@pytest.mark.parametrize("env_id", ["ALE/Breakout-v5", "ALE/Pong-v5", "CartPole-v1", "my.own:game"])
def test_a_config_of_before_the_fire_setting_presses_it_in_atari(
    env_id: str, protocol: str
) -> None:
    """It was pressed under both protocols; elsewhere there is no such thing."""
    config = RunConfig(environment=EnvironmentConfig(env_id, protocol=protocol))
    stored = to_dict(config)
    assert from_dict(stored).environment.fire_reset is None
    del stored["environment"]["fire_reset"], stored["environment"]["max_episode_steps"]
    del stored["algorithm"]["rmsprop_form"]
    found = from_dict(stored)
    assert found.environment.fire_reset is (True if env_id.startswith("ALE/") else None)
    assert found.environment.max_episode_steps is None
    assert found.algorithm.rmsprop_form == "torch"
    environment = dataclasses.replace(found.environment, fire_reset=None)
    assert dataclasses.replace(found, environment=environment) == config


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sed": 1}, "sed (did you mean seed"),
        ({"gossip": {"topologie": "ring"}}, "gossip.topologie (did you mean gossip.topology"),
        ({"gosip": {"topology": "ring"}}, "gosip.topology (did you mean gossip.topology"),
        ({"seed": {"value": 1}}, "seed.value"),
        ({"gossip": 5}, "gossip"),
        ({"zzzzzzzz": 1}, "zzzzzzzz"),
    ],
)
def test_an_unknown_setting_is_refused_and_the_nearest_named(
    values: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(values)
    assert str(caught.value).startswith("unknown setting " + told)


# Numbers


@pytest.mark.parametrize("setting", [s for s in settings(RunConfig()) if s.option.low is not None])
def test_limits_belong_to_the_range_and_what_is_beyond_does_not(setting: Setting) -> None:
    low, high = setting.option.low, setting.option.high
    assert low is not None
    below = low - 1 if setting.kind is int else math.nextafter(low, -math.inf)
    assert check(setting, low) == low
    if below != AUTO or not setting.option.auto:
        assert allowed(setting) in refused(setting.name, below)
    if high is not None:
        above = high + 1 if setting.kind is int else math.nextafter(high, math.inf)
        assert check(setting, high) == high
        assert allowed(setting) in refused(setting.name, above)


@pytest.mark.parametrize(
    ("setting", "given", "taken"),
    [
        ("num_envs", "16", 16),
        ("num_envs", 16, 16),
        ("num_envs", 16.0, 16),
        ("num_envs", "16.0", 16),
        ("total_steps", "1e6", 1_000_000),
        ("total_steps", "2.5e6", 2_500_000),
        ("total_steps", "10_000_000", 10_000_000),
        ("seed", "+3", 3),
        ("seed", " 3 ", 3),
        ("gamma", "0.5", 0.5),
        ("gamma", 1, 1.0),
        ("learning_rate", "7e-4", 7e-4),
        ("learning_rate", None, None),
        ("rmsprop_eps", "1_0e-6", 1e-5),
    ],
)
def test_numbers_as_people_write_them(setting: str, given: Any, taken: Any) -> None:
    value = check(SETTINGS[setting], given)
    assert value == taken
    assert type(value) is type(taken)


@pytest.mark.parametrize(
    ("setting", "given"),
    [
        *(("num_envs", junk) for junk in ("", " ", "x", "1.5", "1e", "0x10", "1__0", "_1", "1,0")),
        *(("num_envs", junk) for junk in (1.5, True, False, None, [16], {"a": 1}, b"16", 1j)),
        *(("total_steps", junk) for junk in ("1e-6", "1e999", "nan", "inf")),
        *(("gamma", junk) for junk in ("nan", "-nan", "inf", "-inf", "1e999", math.nan, math.inf)),
        *(("gamma", junk) for junk in (True, None, "", "half", [0.5])),
        *(("max_grad_norm", junk) for junk in ("inf", math.inf, "1e400", 10**400)),
        *(("sync", junk) for junk in ("true", "yes", 1, 0, None, "")),
        *(("name", junk) for junk in (1, None, True, ["a"], b"a")),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_refused(setting: str, given: Any) -> None:
    told = refused(setting, given)
    assert told.startswith(SETTINGS[setting].flag + " ")
    assert "expected " + allowed(SETTINGS[setting]) in told


def test_a_refusal_says_what_came_and_what_was_expected() -> None:
    assert refused("num_envs", "0") == "--num-envs 0: expected a whole number from 1 to 4096"
    assert refused("seed", -1) == "--seed -1: expected a whole number from 0 to 2147483647"
    assert refused("total_steps", "x") == (
        "--total-steps x: expected a whole number from 1 to 1000000000000000 (agent steps)"
    )
    assert (
        refused("rmsprop_alpha", 1) == "--rmsprop-alpha 1.0: expected a number from 0 to 0.999999"
    )
    assert refused("max_grad_norm", 0) == "--max-grad-norm 0.0: expected a number of at least 1e-09"
    assert refused("gamma", "nan") == "--gamma nan: expected a number from 0 to 1"
    assert (
        refused("learners", "") == "--learners '': expected a whole number from 1 to 1024 or auto"
    )
    assert refused("topology", "rign") == (
        f"--topology rign: expected one of {', '.join(TOPOLOGIES)}, or file:... "
        "(did you mean ring?)"
    )


# Auto


@pytest.mark.parametrize("setting", [s for s in settings(RunConfig()) if s.option.auto])
def test_auto_is_the_word_and_the_stored_form(setting: Setting) -> None:
    assert check(setting, "auto") == AUTO
    assert check(setting, AUTO) == AUTO
    assert check(setting, "3") == 3
    assert "or auto" in refused(setting.name, "0"), "a count of none is a mistake, not a choice"
    assert "or auto" in refused(setting.name, False)
    assert "or auto" in refused(setting.name, "Auto!")


def test_auto_is_not_taken_elsewhere() -> None:
    refused("num_envs", "auto")
    refused("num_envs", AUTO)


# Junk

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -(10**5000), "9" * 400, "9" * 5000, "1e308", "1e-999", "\n", "\0"])
)
JUNK = (
    LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=2)
)


@given(st.sampled_from(list(settings(RunConfig()))), JUNK)
@example(SETTINGS["total_steps"], 10**5000)
@example(SETTINGS["total_steps"], "9" * 5000)
@example(SETTINGS["max_grad_norm"], 10**5000)
@example(SETTINGS["num_envs"], "9" * 400)
@example(SETTINGS["topology"], "a\nb")
@example(SETTINGS["num_envs"], "1\r\n2" * 100)
def test_any_value_is_taken_in_range_or_refused_in_one_line(setting: Setting, value: Any) -> None:
    try:
        taken = check(setting, value)
    except UserError as error:
        told = str(error)
        assert told.startswith(setting.flag + " ")
        assert told.isprintable()
        assert len(told) < 400
        return
    if taken is None:
        assert setting.optional
        return
    assert type(taken) is setting.kind
    known = setting.option
    assert not known.choices or taken in known.choices
    if isinstance(taken, int | float) and not (known.auto and taken == AUTO):
        assert isinstance(taken, int) or math.isfinite(taken)
        assert known.low is None or taken >= known.low
        assert known.high is None or taken <= known.high
    assert check(setting, taken) == taken


SECTIONS = {setting.section for setting in settings(RunConfig())}
KEYS = st.sampled_from([*SETTINGS, *sorted(SECTIONS), "sedd"]) | st.text(max_size=8)


@given(st.dictionaries(KEYS, JUNK | st.dictionaries(KEYS, JUNK, max_size=3), max_size=4))
def test_any_json_object_is_a_config_or_refused(values: dict[str, Any]) -> None:
    try:
        config = from_dict(values)
    except UserError:
        return
    assert from_dict(to_dict(config)) == config
