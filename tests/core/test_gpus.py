"""What is known of GPUs before a run takes them: a trial of each, and what its failures mean."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from galamp.cli.dry_run import gpus_in_words
from galamp.core.config import ResourceConfig, RunConfig
from galamp.core.errors import UserError
from galamp.core.machine import gpu_trial, gpus
from galamp.core.machine.gpu_failures import (
    MemoryUse,
    explain,
    first_sentence,
    is_memory_full,
    memory_full,
)
from galamp.core.machine.gpus import GpuFacts, parse_answer, try_gpus
from galamp.core.machine.machine import Gpu, Machine, inspect_machine, plain_machine
from galamp.core.machine.memory import anonymous_file
from galamp.core.machine.mps import mps_folder, mps_in_words
from galamp.core.processes.probe_process import Answer
from galamp.storage.run_folder import StoredChoices
from galamp.supervision.devices import left_out, usable_devices
from galamp.supervision.plan import Plan, changes_kind, make_plan, with_learners
from galamp.training import autotune, train
from galamp.training.resume_config import plans_in
from tests.fakecuda.inside import settings

TORCH = "2.13.0, for CUDA 13.0"
FACTS = {"name": "H200", "uuid": "0-1", "pci": "0000:3b:00.0", "memory_bytes": 2**37}

TRAILER = (
    "\nSearch for `cudaErrorWhatever' in https://x/y.html for more.\nCUDA kernel errors "
    "might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with "
    "`TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
"""What torch 2.13 adds to every error of CUDA."""

WORDS = [
    (
        "CUDA error: invalid device ordinal" + TRAILER,
        "^torch counts it, CUDA does not show it, as where another one is cut up",
    ),
    (
        "CUDA error: the provided PTX was compiled with an unsupported toolchain." + TRAILER,
        "^the driver is too old for this torch",
    ),
    (
        "CUDA error: device-side assert triggered" + TRAILER,
        "^CUDA error: device-side assert triggered: it may be broken",
    ),
    ("CUDA error: something of its own" + TRAILER, "^CUDA error: something of its own$"),
    (
        "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU "
        "driver by downloading and installing a new version from the URL: http://x Alternatively",
        r"^the driver is too old for this torch \(2\.13\.0, for CUDA 13\.0\): update the driver",
    ),
    (
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors "
        "might be asynchronously reported at some other API call, so the stacktrace",
        r"^this torch \(2\.13\.0, for CUDA 13\.0\) was not built for its architecture: install",
    ),
    (
        "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79.11 GiB of"
        " which 1.06 MiB is free.",
        "^its memory is full: end programs that use it",
    ),
    (
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might",
        "^another process has it for itself .*nvidia-smi -c DEFAULT",
    ),
    (
        "CUDA error: system not yet initialized\nCUDA kernel errors might be asynchronously",
        "fabric manager does not run",
    ),
    (
        "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be",
        "^CUDA error: uncorrectable ECC error encountered: it may be broken; see nvidia-smi",
    ),
    (
        "CUDA error: unspecified launch failure\nSearch for `cudaErrorLaunchFailure'",
        "^CUDA error: unspecified launch failure.*: it may be broken",
    ),
    (
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "^Found no NVIDIA driver on your system: install a driver",
    ),
    ("its trial was ended by SIGSEGV", "^its trial was ended by SIGSEGV$"),
    ("something new. And more", "^something new$"),
    ("", "^it failed without a word$"),
]


@pytest.mark.parametrize(("words", "told"), WORDS)
def test_a_failure_is_told_with_its_cause_in_one_line(words: str, told: str) -> None:
    line = explain(words, TORCH)
    assert re.search(told, line), line
    assert "\n" not in line
    assert "asynchronously" not in line


def test_of_long_words_only_the_beginning_is_told() -> None:
    assert len(first_sentence("x" * 10_000)) <= 300


def test_full_memory_says_what_to_change() -> None:
    use = MemoryUse(79 * 2**30, 80 * 2**30, 2**30)
    shared = memory_full("cuda:1", use, learners=4, steps=320, graphs=True)
    assert shared.startswith("cuda:1 has no more memory: 80,896 of 81,920 MiB are in use, 1,024")
    assert "4 learners of this run share it: take fewer --learners, a smaller --num-envs" in shared
    assert "--num-steps, --no-graphs, or another --device" in shared
    alone = memory_full("cuda:1", None, learners=1, steps=320, graphs=False)
    assert alone.startswith("cuda:1 has no more memory: no other learner has it: take a smaller")
    assert "a smaller --num-envs or --num-steps, or another --device" in alone


@pytest.mark.parametrize(
    ("words", "is_so"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 MiB.", True),
        ("CUDA error: out of memory" + TRAILER, True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: an illegal memory access was encountered" + TRAILER, False),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_full_memory_is_known_by_its_words(words: str, is_so: bool) -> None:
    assert is_memory_full(words) == is_so


# The trial's answer


def answer(*lines: object, errors: str = "", in_time: bool = True) -> Answer:
    return Answer("".join(json.dumps(line) + "\n" for line in lines), errors, in_time)


def test_an_answer_speaks_for_each_gpu() -> None:
    facts = {"index": 0, "facts": FACTS}
    failure = {"index": 2, "failure": WORDS[5][0]}
    found = parse_answer(answer(failure, facts), (0, 2), "exit code 0")
    assert found[0] == GpuFacts(**FACTS)  # type: ignore[arg-type]
    assert "was not built for its architecture" in str(found[2])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(errors="A\nImportError: libcudnn.so.9"), "exit code 1): ImportError: libcudnn"),
        (answer(in_time=False), r"could not be tried (not within 120 s): it printed nothing"),
        (Answer("{\n[1]\n3\n{}\n", "", True), "could not be tried (exit code 1)"),
        (answer({"index": 0, "facts": {"name": "x"}}), "could not be tried (exit code 1)"),
        (answer({"index": 7, "facts": FACTS}), "could not be tried (exit code 1)"),
    ],
)
def test_where_there_is_no_answer_that_is_told(given: Answer, why: str) -> None:
    found = parse_answer(given, (0,), "exit code 1")
    assert list(found) == [0]
    assert why in str(found[0])


# What follows for a run


def machine(unusable: dict[str, str], count: int = 3) -> Machine:
    gpus = tuple(Gpu(i, name="H200") for i in range(count) if f"cuda:{i}" not in unusable)
    return Machine(plain_machine(range(8), 0, 2**20).cpus, gpus, 2**20, unusable)


def planned(device: str, found: Machine) -> str:
    return make_plan(
        RunConfig(resources=ResourceConfig(device=device)), found
    ).config.resources.device


def test_auto_leaves_out_what_cannot_be_used_and_says_so() -> None:
    found = machine({"cuda:1": "the driver is too old"})
    assert planned("auto", found) == "cuda:0,cuda:2"
    assert left_out(found) == ["cuda:1 is left out: the driver is too old"]
    assert gpus_in_words(found) == ["cuda:0: H200", "cuda:2: H200", *left_out(found)]
    none = machine({f"cuda:{index}": "it is broken" for index in range(3)})
    assert planned("auto", none) == "cpu"
    assert len(left_out(none)) == 3


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0,cuda:1", "cuda"])
def test_what_is_named_and_cannot_be_used_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(device, machine({"cuda:1": "its memory is full: end programs that use it"}))
    assert str(caught.value) == (
        "--device cuda:1: its memory is full: end programs that use it; or use --device "
        "cuda:0,cuda:2"
    )
    with pytest.raises(UserError, match=r"; or use --device cpu$"):
        planned(device, machine({f"cuda:{index}": "it is broken" for index in range(3)}))


@pytest.mark.parametrize(
    ("asked", "unusable", "used"),
    [
        ("cuda:0,cuda:1", [1], "cuda:0"),
        ("cuda:2,cuda:1,cuda:0", [1, 2], "cuda:0"),
        ("cuda:1,cuda:0", [], "cuda:1,cuda:0"),
        ("cuda:0,cuda:3", [], "cuda:0"),
        ("cuda:3", [], "auto"),
        ("cuda", [1], "cuda:0,cuda:2"),
        ("cuda:1", [1], "cuda:1"),
        ("cpu", [0, 1, 2], "cpu"),
        ("auto", [0], "auto"),
    ],
)
def test_a_run_goes_on_with_those_of_its_gpus_that_can_be_used(
    asked: str, unusable: list[int], used: str
) -> None:
    """Of three; no others are taken, which may be somebody else's, and no CPU unasked."""
    found = machine({f"cuda:{index}": "its memory is full" for index in unusable})
    assert usable_devices(asked, found) == used
    config = RunConfig(resources=ResourceConfig(device=asked, learners=3))
    if used == "cuda:1":
        with pytest.raises(UserError, match=r"--device cuda:1: its memory is full; or use"):
            make_plan(config, found, resumed=True)
        return
    plan = make_plan(config, found, resumed=True)
    assert plan.asked.resources.device == asked, "the next start looks for them again"
    healed = machine({})
    again = make_plan(plan.asked, healed, resumed=True)
    assert again.devices == make_plan(config, healed, resumed=True).devices


def resumed(before: Plan, learners: int, on: Machine) -> Plan:
    """Go on with a run as it was stored."""
    config = before.asked
    if learners != len(before.learners) or changes_kind(before.device, on, before.learners):
        config = with_learners(config, learners, on, before.learners)
    return make_plan(config, on, resumed=True)


@pytest.mark.parametrize("asked", ["auto", "cuda:1,cuda:0", "cuda:0", "cuda:0,cuda:2", "cpu"])
@pytest.mark.parametrize("resume_point", [[], [1], [2]])
@pytest.mark.parametrize("full", [[], [1], [0, 1, 2]])
def test_a_run_once_without_some_of_its_gpus_goes_on_as_one_that_never_was(
    asked: str, resume_point: list[int], full: list[int]
) -> None:
    """With as many learners and with more; excluded GPUs are never taken."""

    def three(indices: list[int]) -> Machine:
        return machine({f"cuda:{index}": "its memory is full" for index in indices})

    def resume(learners: int, number_before: int) -> Plan | str:
        config = RunConfig(resources=ResourceConfig(device=asked, learners=number_before))
        first = make_plan(config, three([]))
        one, two = resumed(first, number_before, three(resume_point)), None
        try:
            two = resumed(one, learners, three(full))
        except UserError as error:
            return str(error)
        config = replace(config, resources=replace(config.resources, learners=learners))
        assert two == make_plan(config, three(full), resumed=True)
        return two

    for learners, number_before in ((2, 2), (4, 2), (1, 2), (2, 1)):
        found = resume(learners, number_before)
        if isinstance(found, str):
            assert asked.startswith("cuda")
            assert "its memory is full" in found
        elif asked.startswith("cuda"):
            assert set(found.devices) <= set(asked.split(","))


def test_other_kinds_of_devices_come_with_other_threads() -> None:
    """Chosen ones, that is; what was asked for stays."""
    none = machine({f"cuda:{index}": "its memory is full" for index in range(3)})
    asked = RunConfig(resources=ResourceConfig(device="auto", learners=2))
    on_cpu = make_plan(asked, none)
    assert resumed(on_cpu, 2, machine({})) == make_plan(asked, machine({}))
    assert resumed(make_plan(asked, machine({})), 2, none) == on_cpu
    wished = replace(asked, resources=replace(asked.resources, threads=3))
    assert resumed(make_plan(wished, none), 2, machine({})).config.resources.threads == 3


def test_gpus_are_counted_up_not_spelt() -> None:
    many = plain_machine(range(64), 12, 2**20)
    asked = RunConfig(resources=ResourceConfig(device="cuda", learners=3))
    before = make_plan(asked, many)
    assert before.devices == ("cuda:0", "cuda:1", "cuda:2") == resumed(before, 3, many).devices


def test_on_another_machine_what_was_chosen_is_chosen_anew() -> None:
    """By what that one has, not by what would have been chosen here."""
    asked = RunConfig(resources=ResourceConfig(device="auto", learners=2))
    large, small = plain_machine(range(64), 0, 2**20), plain_machine(range(8), 1, 2**20)
    assert resumed(make_plan(asked, large), 2, small) == make_plan(asked, small)
    four = replace(asked, resources=replace(asked.resources, learners=4))
    assert resumed(make_plan(asked, large), 4, small) == make_plan(four, small)


@pytest.mark.parametrize(
    ("device", "shown", "tried"),
    [
        ("auto", 2, [0, 1]),
        ("cuda", 2, [0, 1]),
        ("cuda:1", 2, [1]),
        ("cuda:1,cuda:7", 2, [1]),
        ("cuda:3", 2, [0, 1]),
        ("cuda:0", 0, []),
        ("cpu", 2, []),
    ],
)
def test_no_gpu_is_taken_that_was_not_tried(
    device: str, shown: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a run comes from a machine with others, and `auto` chooses for it here."""

    def refuse(indices: list[int]) -> dict[int, str]:
        found.extend(indices)
        return dict.fromkeys(indices, "its memory is full")

    found: list[int] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: shown)
    monkeypatch.setattr("galamp.core.machine.machine.try_gpus", refuse)
    machine = inspect_machine(device)
    assert found == tried
    if device == "cuda:3":
        asked = RunConfig(resources=ResourceConfig(device=device, learners=2))
        assert make_plan(asked, machine, resumed=True).devices == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("resolved", "known"),
    [
        ({"learners": [{"device": "cpu", "cores": [0, 1]}]}, True),
        ({"learners": [{"device": "cpu", "cores": {"learner": [0], "simulators": [1]}}]}, True),
        ({"learners": [{"device": "cpu", "cores": {"learner": [0], "simulators": []}}]}, False),
        ({"learners": [{"device": "cpu"}]}, False),
        ({"learners": [{"device": "cpu", "cores": ["x"]}]}, False),
        ({"learners": [{"device": "cpu", "cores": 7}]}, False),
        ({"learners": []}, False),
        ({"learners": [7]}, False),
        ({"learners": 7}, False),
        ([], False),
        (None, False),
    ],
)
def test_where_a_run_was_is_read_or_is_not_known(resolved: object, known: bool) -> None:
    config = RunConfig(resources=ResourceConfig(learners=1))
    assert bool(plans_in(resolved, config)) is known
    assert not plans_in(resolved, RunConfig()), "nothing was chosen yet"


def test_the_quickest_is_sought_on_those_gpus_that_can_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run is still to have the others."""
    found = machine({"cuda:1": "its memory is full"})
    monkeypatch.setattr(autotune, "inspect_machine", lambda device: found)
    sought: list[str] = []

    def rates(config: RunConfig, *_: object) -> tuple[dict[int, float], str]:
        sought.append(config.resources.device)
        return {3: 100.0}, "measured now"

    monkeypatch.setattr(autotune, "_rates", rates)
    config = RunConfig(resources=ResourceConfig(device="cuda:0,cuda:1"))
    kept, told = StoredChoices(tmp_path, devices=True), list[str]()
    best = autotune.with_quickest(config, told.append, new=False, kept=kept).resources
    assert (sought, best.learners, best.device) == (["cuda:0"], 3, "cuda:0,cuda:1")
    with pytest.raises(UserError, match="--device cuda:1: its memory is full"):
        autotune.with_quickest(config, told.append, new=False)


@pytest.mark.parametrize("named", [False, True])
def test_a_resumed_run_says_which_of_its_gpus_it_goes_on_without(
    named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that this command line names is refused instead."""
    found = machine({"cuda:1": "its memory is full"})
    monkeypatch.setattr(train, "inspect_machine", lambda device: found)
    config = RunConfig(resources=ResourceConfig(device="cuda:0,cuda:1", learners=2))
    if named:
        with pytest.raises(UserError, match="--device cuda:1: its memory is full"):
            train.survey(config, StoredChoices())
        return
    context, resolved = train.survey(config, StoredChoices(devices=True))
    assert {learner.device for learner in resolved.plan.learners} == {"cuda:0"}
    assert left_out(context.machine) == ["cuda:1 is left out: its memory is full"]


# MPS


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_daemon_of_mps_that_is_there_is_told_of(kind: str, tmp_path: Path) -> None:
    place = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert mps_folder(place) is None
    if kind == "pipe":
        os.mkfifo(tmp_path / "control")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "control"))
    assert mps_folder(place) == tmp_path
    assert mps_folder({}, usual=str(tmp_path)) == tmp_path
    assert str(tmp_path) in mps_in_words(tmp_path)


def test_a_file_or_a_link_is_no_daemon(tmp_path: Path) -> None:
    place = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    (tmp_path / "control").touch()
    assert mps_folder(place) is None
    (tmp_path / "control").unlink()
    (tmp_path / "control").symlink_to("/dev/null")
    assert mps_folder(place) is None


# The trial itself


@pytest.mark.real
def test_gpus_are_tried_at_the_same_time_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings(4, old_driver="1", no_kernel="2", memory="3:1000").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gpus, "_tried", {})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    found = inspect_machine("auto")
    assert [(gpu.device, gpu.name) for gpu in found.gpus] == [("cuda:0", "Fake GPU 0")]
    assert found.gpus[0].uuid.endswith("0")
    why = [found.unusable[f"cuda:{index}"] for index in (1, 2, 3)]
    assert why[0].startswith("the driver is too old")
    assert "was not built for its architecture" in why[1]
    assert why[2].startswith("its memory is full")

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("they are tried twice")

    monkeypatch.setattr(gpus, "_try", refuse)
    assert inspect_machine("cuda:0,cuda:1").unusable == {"cuda:1": why[0]}


def test_no_gpu_is_tried_for_a_run_on_cpus_nor_one_that_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def try_none(indices: object) -> dict[int, object]:
        asked.append(indices)
        return {}

    monkeypatch.setattr("galamp.core.machine.machine.try_gpus", try_none)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert inspect_machine("cpu").gpus == ()
    assert asked == []
    assert len(inspect_machine("cuda:1,cuda:7").gpus) == 2
    assert asked == [[1]]
    inspect_machine("cuda")
    assert asked == [[1], [0, 1]]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    inspect_machine("auto")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (lambda index: signal.raise_signal(signal.SIGKILL), "its trial was ended by SIGKILL"),
        (lambda index: time.sleep(60), "it did not answer within 0.5 s"),
        (lambda index: exec("raise SystemExit(3)"), "its trial ended with exit code 70"),
        (lambda index: exec("raise RuntimeError('words')"), "words"),
    ],
    ids=["killed", "hangs", "leaves", "raises"],
)
def test_a_gpu_that_takes_its_trial_along_is_told_of(
    monkeypatch: pytest.MonkeyPatch, work: object, why: str
) -> None:
    """In a child of this process, in the place of the probe's."""
    monkeypatch.setattr(gpu_trial, "try_gpu", work)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        patience_s = 0.5 if "did not answer" in why else 60.0
        gpu_trial.main({"indices": [5], "gpu_timeout_s": patience_s, "timeout_s": 120})
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = json.loads(pipe.readline())
    assert os.waitpid(child, 0)[1] == 0
    assert told == {"index": 5, "failure": why}


def test_no_answer_is_lost_where_many_answer_at_once() -> None:
    """What is answered lies in memory that all children write to at the same time."""
    file, start_s = anonymous_file("galamp-test"), time.monotonic() + 0.5

    def at_once(index: int) -> dict[str, object]:
        time.sleep(max(0.0, start_s - time.monotonic()))
        return FACTS | {"name": "x" * 100_000}

    child = os.fork()
    if not child:
        os.dup2(file, 1)
        gpu_trial.try_gpu = at_once
        gpu_trial.main({"indices": list(range(24)), "gpu_timeout_s": 60.0, "timeout_s": 60})
    assert os.waitpid(child, 0)[1] == 0
    lines = os.pread(file, 2**24, 0).decode().splitlines()
    os.close(file)
    assert sorted(json.loads(line)["index"] for line in lines) == list(range(24))


def test_facts_of_a_stopped_trial_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while GPUs are tried ends the trial."""
    ended: list[object] = []

    class Interrupted:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def answer(self) -> Answer:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            ended.append(self)

    monkeypatch.setattr(gpus, "Probing", Interrupted)
    monkeypatch.setattr(gpus, "_tried", {})
    with pytest.raises(KeyboardInterrupt):
        try_gpus([0])
    assert len(ended) == 1
    assert gpus._tried == {}
