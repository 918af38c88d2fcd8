"""The command line: what it refuses and how, what it offers, and what it does not import."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import galamp
from galamp.algorithms.networks import NETWORKS
from galamp.cli import games
from galamp.cli import main as cli
from galamp.cli import run as run_module
from galamp.cli.main import COMMANDS, Command, build_parser, main
from galamp.cli.run_config import config_from
from galamp.core.config import ReportConfig, RunConfig, from_dict, to_dict
from galamp.core.errors import CheckpointError, RunFailed
from galamp.core.settings import Setting, allowed, settings
from galamp.gossip.topologies import TOPOLOGIES
from galamp.storage.own_code import own_code_flags
from galamp.telemetry.display.exit_message import exit_message
from galamp.telemetry.display.streams import STARTING
from tests.support.engine import also

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "ale_py", "gymnasium", "cv2", "rich", "multiprocessing", "subprocess"}
SETTINGS = {setting.name: setting for setting in settings(RunConfig())}
DEADLINE_S = 60.0


def python(
    *arguments: str, measured: bool = True, **known: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python with this working tree on its path; `measured`: coverage may come along."""
    inherited = {k: v for k, v in os.environ.items() if measured or "COVERAGE" not in k}
    return subprocess.run(
        [sys.executable, *arguments],
        text=True,
        capture_output=True,
        timeout=DEADLINE_S,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        **known,
    )


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that a refused command line gets, without `galamp: `."""
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    lines = err.splitlines()
    assert all(line.startswith("galamp: ") for line in lines), err
    return [line.removeprefix("galamp: ") for line in lines]


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """See to it that a refusal which is missing fails a test instead of starting a run."""

    def command(args: argparse.Namespace) -> int:
        raise AssertionError(f"would train: {config_from(args)}")

    monkeypatch.setattr(run_module, "run_command", command)


def parsed(*arguments: str) -> RunConfig:
    words = ["run", *arguments]
    return config_from(build_parser(words).parse_args(words))


# Refusals


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--num-envs", "0"), "--num-envs 0: expected a whole number from 1 to 4096"),
        (("--num-envs=many",), "--num-envs many: expected a whole number from 1 to 4096"),
        (("--learners", "1.5"), "--learners 1.5: expected a whole number from 1 to 1024 or auto"),
        (("--gamma", "1.01"), "--gamma 1.01: expected a number from 0 to 1"),
        (("--learning-rate", "nan"), "--learning-rate nan: expected a number from 0 to 10"),
        (("--seed", "-1"), "--seed -1: expected a whole number from 0 to 2147483647"),
        (("--topology", "rnig"),
         f"--topology rnig: expected one of {', '.join(TOPOLOGIES)}, or file:... "
         "(did you mean ring?)"),
        (("--protocol", "clasic"),
         "--protocol clasic: expected one of classic, machado (did you mean classic?)"),
        (("--game", "CartPole-v1"),
         "--game CartPole-v1: expected an Atari game; other environments go by --env-id"),
        (("--game", "Pong", "--env-id", "ALE/Pong-v5"),
         "--game and --env-id: both name the environment; give one of them"),
        (("--resume", "nowhere"), "--resume nowhere: no run folder (it has no config.json)"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert complaint(capsys, "run", *arguments) == [told]


@pytest.mark.parametrize("bound", ["3", "8", "inf"])
def test_lock_step_takes_no_other_bound(capsys: pytest.CaptureFixture[str], bound: str) -> None:
    assert complaint(capsys, "run", "--sync", "--max-staleness", bound) == [
        f"--max-staleness {bound}: has no meaning in lock-step (--sync), where a learner waits in "
        "every round; leave one of the two out"
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--sync"], ["--sync", "--max-staleness", "0"], ["--max-staleness", "3"],
        ["--preset", "debug"], ["--preset", "debug", "--no-sync", "--max-staleness", "3"],
    ],
)  # fmt: skip
def test_lock_step_takes_its_own_bound(words: list[str]) -> None:
    parsed(*words)


NUMBERS = [setting for setting in settings(RunConfig()) if setting.kind in (int, float)]


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_every_number_is_checked(capsys: pytest.CaptureFixture[str], setting: Setting) -> None:
    expected = f"{setting.flag} many: expected {allowed(setting)}"
    assert complaint(capsys, "run", setting.flag, "many") == [expected]


def test_all_problems_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for setting in NUMBERS for word in (setting.flag, "many")]
    lines = complaint(capsys, "run", *words, "--env-id", "CartPol-v1", "--topology", "tree")
    assert len(lines) == len(NUMBERS) + 2
    for setting in NUMBERS:
        assert sum(line.startswith(setting.flag + " many: ") for line in lines) == 1
    assert sum(line.startswith("--topology tree: ") for line in lines) == 1
    assert sum(line.startswith("--env-id: unknown environment 'CartPol-v1'") for line in lines) == 1


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (("run", "--lerners", "4"), "unknown option --lerners (did you mean --learners"),
        (("run", "--lerners=4"), "unknown option --lerners (did you mean --learners"),
        (("run", "--num_envs", "4"), "unknown option --num_envs (did you mean --num-envs"),
        (("run", "--toplogy", "ring"), "unknown option --toplogy (did you mean --topology"),
        (("eval", "x", "--episods", "4"), "unknown option --episods (did you mean --episodes"),
        (("--versoin", "games"), "unknown option --versoin (did you mean --version"),
        (("run", "--qqqqq"), "unknown option --qqqqq; see galamp run --help"),
        (("run", "Breakout"), "unknown argument Breakout; see galamp run --help"),
        (("run", "--seed"), "argument --seed: expected one argument; see galamp run --help"),
        (("run", "--quiet=3"), "argument --quiet/--no-quiet: ignored explicit argument '3'"),
        (("runn",), "unknown command runn (did you mean run"),
        (("rum",), "unknown command rum (did you mean run?); see galamp help"),
        (("xyzzy",), "unknown command xyzzy; see galamp help"),
        (("--quiet",), "the following arguments are required: COMMAND; see galamp --help"),
        (("run", "--lrn", "1"), "unknown option --lrn; see galamp run --help"),
    ],
)
def test_words_that_fit_nowhere_are_refused_with_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], begins: str
) -> None:
    (line,) = complaint(capsys, *arguments)
    assert line.startswith(begins)


def test_an_unknown_game_costs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = python("-m", "galamp", "run", "--game", "Breakot", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("galamp: --game: unknown ")
    assert "(did you mean Breakout" in line
    assert list(tmp_path.iterdir()) == [], "a run folder was made"
    # Processor time, for this machine may be busy; alone, it is what the user waits.
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s < 3.0


# Imports


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = """
import json, sys
from galamp.cli.main import build_parser, main
seen = [sorted(sys.modules)]
build_parser().format_help()
seen.append(sorted(sys.modules))
assert main(["run", "--game", "ALE/Breakot", "--learners", "0"]) == 2
seen.append(sorted(sys.modules))
print(json.dumps(seen))
"""
    # A measurement of coverage would import modules of its own.
    ended = python("-c", code, cwd=tmp_path, measured=False)
    assert ended.returncode == 0, ended.stderr
    imported, built, refused = (set(names) for names in json.loads(ended.stdout))
    assert not imported & (HEAVY | {"numpy"})
    assert not built & (HEAVY - {"subprocess"})
    # What is not even imported cannot have started a process or made a folder.
    engine = {"galamp.training.train", "galamp.supervision.child", "galamp.storage.run_folder"}
    assert not refused & (HEAVY - {"subprocess"} | engine)


# Settings


def test_flags_reach_the_config() -> None:
    config = parsed(
        "--seed=3", "--total-steps", "1e6", "--num-envs", "8", "--learning-rate", "1e-3", "--sync",
        "--no-pin", "--learners", "auto", "--simulator-workers", "2", "--topology", "none",
        "--name", "first try", "--no-clip-rewards", "--env-id", "CartPole-v1",
    )  # fmt: skip
    assert config == from_dict(
        {
            "seed": 3,
            "total_steps": 1_000_000,
            "environment": {
                "env_id": "CartPole-v1",
                "num_envs": 8,
                "clip_rewards": False,
                "observation_reading": "space",
            },
            "algorithm": {"learning_rate": 1e-3},
            "gossip": {"topology": "none", "sync": True},
            "resources": {"pin": False, "learners": 0, "simulator_workers": 2},
            "report": {"name": "first try"},
        }
    )


def test_without_flags_everything_is_at_its_default() -> None:
    assert parsed() == RunConfig()


@pytest.mark.parametrize("name", ["Breakout", "breakout", "ALE/Breakout-v5"])
def test_a_game_goes_by_any_of_its_names(name: str) -> None:
    assert parsed("--game", name).environment.env_id == name
    assert parsed("--env-id", name).environment.env_id == name


# Resuming


@pytest.fixture
def stored(tmp_path: Path) -> RunConfig:
    """A run's config, in the folder as the engine stores it."""
    values = {"seed": 9, "environment": {"env_id": "ALE/Pong-v5", "num_envs": 4},
              "algorithm": {"learning_rate": 0.002}, "resources": {"learners": 3, "threads": 2},
              "gossip": {"topology": "none"}}  # fmt: skip
    config = from_dict(values)
    text = json.dumps(
        to_dict(config) | {"resolved": {"network": "gala", "learners": [{"rank": 0}]}}
    )
    (tmp_path / "config.json").write_text(text)
    return config


@pytest.mark.real
def test_a_resumed_run_goes_on_as_it_was(stored: RunConfig, tmp_path: Path) -> None:
    assert stored != RunConfig()
    assert parsed("--resume", str(tmp_path)) == stored


def test_flags_override_what_is_stored(stored: RunConfig, tmp_path: Path) -> None:
    config = parsed(
        "--resume", str(tmp_path), "--total-steps", "77", "--threads", "auto", "--quiet"
    )
    values = to_dict(stored)
    values["total_steps"] = 77
    values["resources"]["threads"] = 0
    values["report"]["quiet"] = True
    assert config == from_dict(values)


def test_whoever_did_not_ask_for_lock_step_is_told_how_to_leave_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert complaint(capsys, "run", "--preset", "debug", "--max-staleness", "3") == [
        "--max-staleness 3: has no meaning in lock-step (--sync), where a learner waits in every "
        "round; leave it out, or add --no-sync"
    ]


def test_a_run_that_was_begun_with_lock_step_and_a_bound_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    former = from_dict({"gossip": {"sync": True, "max_staleness": 3}})
    (tmp_path / "config.json").write_text(json.dumps(to_dict(former)))
    resumed = "--resume", str(tmp_path)
    assert parsed(*resumed) == parsed(*resumed, "--sync") == former
    assert parsed(*resumed, "--max-staleness", "0").gossip.max_staleness == 0
    assert parsed(*resumed, "--no-sync", "--max-staleness", "5").gossip.max_staleness == 5
    [told] = complaint(capsys, "run", *resumed, "--max-staleness", "5")
    assert told.startswith("--max-staleness 5: has no meaning in lock-step")


def keep(folder: Path, env_id: str) -> RunConfig:
    """Store the config of a run in an environment of that name."""
    config = from_dict({"environment": {"env_id": env_id}})
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    return config


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules that must not be imported; returns a run folder in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "nice").mkdir(parents=True)
    for file in (tmp_path / "evil.py", tmp_path / "runs" / "nice" / "payload.py"):
        file.write_text("open('ran', 'w')")
    return tmp_path / "runs" / "nice"


CODE = ("evil:make", "evil:Game-v0", "runs.nice.payload:make", "  evil:make ", "os:abort")


def of_both_commands(names: Sequence[str]) -> list[Any]:
    """All names with `run`, and one of them with `chaos`, which does as `run`."""
    others = [also("chaos", name) for name in names[1:]]
    return [*(("run", name) for name in names), ("chaos", names[0]), *others]


@pytest.mark.parametrize(("command", "env_id"), of_both_commands(CODE))
def test_a_run_folder_alone_runs_no_code(
    capsys: pytest.CaptureFixture[str], trap: Path, command: str, env_id: str
) -> None:
    """Whoever made it may have named any module: its user has to name it, too."""
    config, named = keep(trap, env_id), env_id.strip()
    (line,) = complaint(capsys, command, "--resume", str(trap))
    assert line == (
        f"--resume {trap}: the run wants to run your code {named}: if that is what you want, add "
        f"--env-id {named}"
    )
    (line,) = complaint(capsys, command, "--resume", str(trap), "--env-id", "evil:other")
    assert line == f"--env-id evil:other: --resume {trap}: the run is of {named}; name that"
    assert parsed("--resume", str(trap), "--env-id", env_id) == config
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("command", "network"), of_both_commands(["evil:make", "runs.nice.payload:make", "os:abort"])
)
def test_a_run_folder_alone_runs_no_code_for_its_network(
    capsys: pytest.CaptureFixture[str], trap: Path, command: str, network: str
) -> None:
    config = from_dict({"model": {"network": network}})
    (trap / "config.json").write_text(json.dumps(to_dict(config)))
    (line,) = complaint(capsys, command, "--resume", str(trap))
    assert line == (
        f"--resume {trap}: the run wants to run your code {network}: if that is what you want, "
        f"add --network {network}"
    )
    for other in ("evil:other", "mlp", "auto"):
        (line,) = complaint(capsys, command, "--resume", str(trap), "--network", other)
        assert line == f"--network {other}: --resume {trap}: the run is of {network}; name that"
    assert parsed("--resume", str(trap), "--network", network) == config
    assert not Path("ran").exists()


def test_a_run_of_a_network_of_galamps_takes_no_code_for_another(
    capsys: pytest.CaptureFixture[str], trap: Path
) -> None:
    keep(trap, "CartPole-v1")
    (line,) = complaint(capsys, "run", "--resume", str(trap), "--network", "evil:make")
    assert line == f"--network evil:make: --resume {trap}: the run is of auto; name that"
    assert not Path("ran").exists()


@pytest.mark.parametrize("network", ["gela", "evil", "evil:", ":make", "a b:c", "evil:make;ls", ""])
def test_names_of_no_network_are_refused(
    capsys: pytest.CaptureFixture[str], trap: Path, network: str
) -> None:
    (line,) = complaint(capsys, "run", "--network", network)
    near = " (did you mean gala?)" if network == "gela" else ""
    listed = ", ".join(NETWORKS)
    told = f": expected one of auto, {listed}, or package.module:factory for one of yours"
    assert line.startswith("--network ")
    assert f"{told}{near}" in line
    assert not Path("ran").exists()


@pytest.mark.parametrize("env_id", ["evil:make; rm -rf ~", "$(evil):make", "evil:make\x1b[2J"])
def test_what_is_to_be_typed_holds_nothing_for_the_shell(
    capsys: pytest.CaptureFixture[str], trap: Path, env_id: str
) -> None:
    keep(trap, env_id)
    (line,) = complaint(capsys, "run", "--resume", str(trap))
    assert "expected package.module:factory" in line
    assert "add --env-id" not in line


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1", "ale_py:ALE/Pong-v5", "Pong"])
def test_environments_that_are_installed_are_not_asked_for_again(trap: Path, env_id: str) -> None:
    config = keep(trap, env_id)
    assert parsed("--resume", str(trap)) == config


@pytest.mark.parametrize(
    ("name", "value", "flags"),
    [
        ("quiet", True, ["--quiet"]),
        ("json", True, ["--json"]),
        ("on_hangup", "stop", ["--on-hangup", "stop"]),
    ],
)
def test_how_a_run_was_shown_is_not_taken_from_it(
    stored: RunConfig, tmp_path: Path, name: str, value: object, flags: list[str]
) -> None:
    """Nor from the config of an older version, which has it."""
    values = to_dict(stored)
    values["report"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert getattr(parsed("--resume", str(tmp_path)).report, name) == getattr(ReportConfig, name)
    assert getattr(parsed("--resume", str(tmp_path), *flags).report, name) == value


@pytest.mark.parametrize(
    ("flags", "told"), [(["--learners", "1"], STARTING), (["--quiet"], ""), (["--json"], STARTING)]
)
def test_something_is_said_before_torch_loads(flags: list[str], told: str) -> None:
    leave = "lambda: sys.exit('torch' in sys.modules)"
    code = (
        f"import sys; from galamp.cli import main, run; run.start_server = {leave};"
        f"main.main({['run', *flags]})"
    )
    ended = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "damaged: not JSON: expected a JSON object"),
        ("[]", "damaged: expected a JSON object"),
        ('{"sed": 1}', "unknown setting sed (did you mean seed"),
        ('{"seed": -1}', "--seed -1: expected a whole number"),
    ],
)
def test_a_stored_config_that_is_damaged_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    (line,) = complaint(capsys, "run", "--resume", str(tmp_path))
    assert told in line


# Help


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with contextlib.suppress(SystemExit):
        assert main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = help_of(capsys, command)
    assert text.startswith(f"usage: galamp {command}")
    assert not re.search(r"--[a-z-]+, --no-", text), "a switch stands once"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    for name, command in COMMANDS.items():
        assert re.search(rf"\n  {name} +{re.escape(command.help)}\n", text)
    assert max(map(len, text.splitlines())) < 80
    with pytest.raises(SystemExit):
        main(["help", "games"])
    assert capsys.readouterr().out == help_of(capsys, "games")
    for words in ((), ("-h",)):
        assert main(words) == 0
        assert capsys.readouterr() == (text, "")
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith(f"{text}\ntopics, ")


def test_the_help_of_a_run_begins_with_examples_and_eight_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, "run")
    examples, _, rest = text.partition("\nthe flags that matter most:\n")
    lines = [line.split("  ")[1] for line in examples.splitlines() if line.startswith("  ")]
    assert len(lines) == 2
    for line in lines:
        assert callable(build_parser().parse_args(line.split()[1:]).command)
    first = rest.partition("\n\n")[0]
    assert len(re.findall(r"^  --", first, re.MULTILINE)) == 8
    assert max(map(len, text.splitlines())) < 80


def test_the_help_of_chaos_names_its_own_flags_only(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "chaos")
    assert "--faults-every-s" in text
    assert "see galamp run --help" in text
    assert "--num-envs" not in text
    assert config_from(build_parser().parse_args(["chaos", "--num-envs", "3"]))


def test_a_command_line_loads_its_own_command_only() -> None:
    code = (
        "import sys; from galamp.cli.main import build_parser; build_parser(['games']);"
        "print(*sorted(n for n in sys.modules if n.startswith('galamp.')))"
    )
    loaded = python("-c", code, measured=False).stdout.split()
    assert "galamp.cli.games" in loaded
    assert not {"galamp.cli.run", "galamp.core.config"} & set(loaded)


TOY = """
def add_options(parser):
    parser.add_argument("--to", default="nobody")
    parser.set_defaults(command=say)

def say(args):
    print("hello", args.to)
    return 3
"""


def test_a_command_is_a_module_and_a_line_in_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also one from outside the package, with nothing of galamp in it."""
    (tmp_path / "toy_command.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "COMMANDS", COMMANDS | {"toy": Command("toy_command", "say hello")})
    assert main(["toy", "--to", "you"]) == 3
    assert capsys.readouterr().out == "hello you\n"
    assert re.search(r"\n  toy +say hello\n", help_of(capsys))
    assert help_of(capsys, "toy").startswith("usage: galamp toy")
    (line,) = complaint(capsys, "toy", "--tow", "you")
    assert line.startswith("unknown option --tow (did you mean --to?)")


@pytest.mark.parametrize("name", COMMANDS)
def test_libraries_are_settled_before_a_command_that_trains_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = []
    monkeypatch.setattr(cli, "settle_libraries", lambda: settled.append(name))
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert settled == [name] * (name in ("run", "chaos"))


@pytest.fixture
def run_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is said of each option, lines joined."""
    monkeypatch.setenv("COLUMNS", "400")
    entries: dict[str, str] = {}
    words = ""
    for line in help_of(capsys, "run").splitlines():
        head, _, text = line.strip().partition("  ")
        if line.startswith("  -"):
            words, entries[head] = head, text.strip()
        elif line.startswith("   "):
            entries[words] = f"{entries.get(words, '')} {line.strip()}".strip()
    return entries


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--seed N", "seed of everything random (default: 1)"),
        ("--total-steps N", "over all learners (default: 10000000 agent steps)"),
        ("--learners N", "once (default: one per core, at most 8; on GPUs one each)"),
        ("--rmsprop-eps X", "(default: 1e-05)"),
        ("--sticky-actions X", "(default: the protocol's)"),
        ("--[no-]clip-rewards", "(default: the protocol's)"),
        ("--[no-]sync", "everyone waits for the slowest (default: no)"),
        ("--[no-]pin", "(default: yes)"),
        (
            "--topology NAME",
            f"gossip graph, or file:PATH with a matrix of weights or links; one of "
            f"{', '.join(TOPOLOGIES)}, file:PATH (default: ring)",
        ),
        ("--learning-rate X", "(default: 7e-4 times the square root of --learners)"),
    ],
)
def test_help_shows_defaults(run_help: dict[str, str], flag: str, said: str) -> None:
    assert run_help[flag].endswith(said)


def test_help_mentions_each_setting_with_its_meaning_and_default(
    run_help: dict[str, str],
) -> None:
    texts = {words.split()[0].replace("[no-]", ""): text for words, text in run_help.items()}
    for setting in settings(RunConfig()):
        text = texts[setting.flag]
        assert text.startswith(setting.option.help)
        assert text.count("(default: ") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"galamp {galamp.__version__}\n"


def test_games_lists_one_name_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["games"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert {"Breakout", "Pong", "SpaceInvaders"} <= set(names)
    assert names == sorted(set(names))


# Endings


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RunFailed("learner 0 died"), 70, "galamp: learner 0 died\n"),
        (CheckpointError("damaged"), 2, "galamp: damaged\n"),
        (KeyboardInterrupt(), 130, "galamp: interrupted\n"),
    ],
)
def test_endings_are_exit_codes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def end(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(games, "games_command", end)
    assert main(["games"]) == code
    assert capsys.readouterr().err == told


def test_too_few_descriptors_are_no_defect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(args: argparse.Namespace) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(games, "games_command", end)
    assert complaint(capsys, "games") == ["Too many open files: raise the limit (ulimit -n)"]


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", 70),
        (FileNotFoundError(2, "No such file or directory", "a\nb"), r"No .* \(a\\nb\)", 70),
        (PermissionError(13, "Permission denied", b"/x"), r"Permission denied \(.*/x.*\)", 70),
        (OSError("no words from the system"), "no words from the system", 70),
        (TimeoutError(110, "Connection timed out"), "Connection timed out", 70),
    ],
)
def test_what_the_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    told: str,
    code: int,
) -> None:
    def end(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(games, "games_command", end)
    assert main(["games"]) == code
    assert re.fullmatch(f"galamp: {told}\n", capsys.readouterr().err)


def test_a_working_directory_that_was_removed_is_told_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(games, "games_command", lambda _: print(os.getcwd()))
    assert main(["games"]) == 2
    assert capsys.readouterr().err == (
        "galamp: No such file or directory: the working directory was removed; go to another\n"
    )


FULL = """
import sys
sys.argv = ["galamp", *sys.argv[1:]]
from galamp.cli import games, main
games.games_command = lambda options: print("a game") or 0
raise SystemExit(main.main())
"""


@pytest.mark.parametrize(("words", "to"), [(["games"], "stdout"), (["eval", "/no"], "stderr")])
def test_output_that_goes_to_a_full_disk_is_one_line(words: list[str], to: str) -> None:
    """Buffered output is written by Python once more at exit."""
    with open("/dev/full", "w") as full:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {to: full}
        program = [sys.executable, "-c", FULL, *words]
        ended = subprocess.run(program, cwd=ROOT, text=True, timeout=DEADLINE_S, **pipes)
    if to == "stdout":
        assert (ended.returncode, ended.stderr) == (70, "galamp: No space left on device\n")
    else:
        assert (ended.returncode, ended.stdout) == (2, "")


def test_a_defect_of_galamp_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(games, "games_command", end)
    with pytest.raises(ZeroDivisionError):
        main(["games"])


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_left_is_no_error(buffered: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "galamp", "games"],
            cwd=ROOT,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
            env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
        )
    finally:
        os.close(write)
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_the_closing_line_says_how_it_ended_and_what_to_do_next() -> None:
    summary = {
        "status": "finished",
        "agent_steps": 1234567,
        "mean_return_100": 20.456,
        "run_dir": "runs/x",
        "env_id": "ALE/Pong-v5",
    }
    assert exit_message(summary) == (
        "finished: 1,234,567 agent steps, mean score of the last 100 episodes 20.46\n"
        "files    runs/x\n"
        "look at it: galamp show runs/x\n"
        "draw it: galamp plot runs/x\n"
        "evaluate it: galamp eval runs/x\n"
    )
    facts = {"wall_s": 125.0, "start": 2, "agent_steps_per_s": 1200.0, "restarts": 1}
    facts |= {"best_mean_return_100": 20.5, "status": "stopped", "mean_return_100": None}
    assert exit_message(summary | facts) == (
        "stopped: 1,234,567 agent steps\n"
        "time     2 m 05 s   over 2 starts   1,200 agent steps/s   1 restart\n"
        "best     mean score 20.50   best checkpoint: runs/x/checkpoints/best\n"
        "files    runs/x\n"
        "look at it: galamp show runs/x\n"
        "evaluate it: galamp eval runs/x\n"
        "go on: galamp run --resume runs/x\n"
    )
    evaluated = exit_message(summary | facts | {"evaluation": {"best": 17.5, "best_at": 1000}})
    assert "\nbest     evaluation 17.50   runs/x/checkpoints/best\n" in evaluated


def test_the_next_commands_name_the_users_own_code_again() -> None:
    """A module is imported only if it is named, and by commands that take it."""
    config = to_dict(RunConfig()) | {
        "environment": {"env_id": "my.own:make", "wrapper": ["my.own:One", "my.own:Two"]},
        "model": {"network": "my.nets:small"},
        "report": {"sinks": "jsonl,my.sinks:Mine"},
    }
    summary = {"agent_steps": 5, "mean_return_100": None, "run_dir": "runs/my x"}
    told = exit_message(summary | {"status": "stopped"}, *own_code_flags(config))
    named = "--env-id my.own:make --wrapper my.own:One --wrapper my.own:Two --network my.nets:small"
    assert told.splitlines()[-3:] == [
        "look at it: galamp show 'runs/my x'",
        f"evaluate it: galamp eval 'runs/my x' {named}",
        f"go on: galamp run --resume 'runs/my x' {named} --sinks jsonl,my.sinks:Mine",
    ]
