"""Chooses the build of torch that fits a machine's NVIDIA driver and cards; used by install.py.

    inspect()                  what the machine has: driver, cards, processor
    choose(version, machine)   the newest of PyTorch's builds that runs on the most of its cards,
                               in a line for its user; depends on nothing else

PyTorch builds every version several times: without CUDA (`cpu`), and with some of its releases
(`cu126` is CUDA 12.6). A build runs under a driver that is new enough for its CUDA, on cards that
it has code for. An environment that runs nowhere but on the CPU is always possible, so nothing
here is an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SMI_LIMIT_S = 10.0
END_GRACE_S = 1.0
POLL_S = 0.05
QUERY = ("--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader")
NO_DEVICES = "No devices were found"

Capability = tuple[int, int]


class Build(NamedTuple):
    """One of PyTorch's builds: its name, the oldest driver, and per processor the cards' code."""

    label: str
    driver: tuple[int, ...]
    code: dict[str, tuple[Capability, ...]]


def _code(text: str) -> tuple[Capability, ...]:
    return tuple((int(major), int(minor)) for major, minor in (x.split(".") for x in text.split()))


# Drivers: NVIDIA, "CUDA Compatibility", minor version compatibility, table 1: CUDA 12.x from 525,
# 13.x from 580 on (docs.nvidia.com/deploy/cuda-compatibility).
# Code: PyTorch's RELEASE.md, "PyTorch CUDA Support Matrix", as of 2.11 (pytorch#175253: no Volta in
# 12.8 any more), of 2.12 (#182849: no 12.8 any more), of 2.13 (#187075, as 2.12). Releases hold no
# PTX (#188914; 2.13.0 does by mistake), so a card of a later generation has nothing to run.
# CUDA 13.2 is left out: these versions have it as an experiment, under the same drivers.
CU126 = Build(
    "cu126",
    (525,),
    {"x86_64": _code("5.0 6.0 7.0 7.5 8.0 8.6 9.0"), "aarch64": _code("8.0 9.0")},
)
CU128 = Build(
    "cu128",
    (525,),
    {"x86_64": _code("7.5 8.0 8.6 9.0 10.0 12.0"), "aarch64": _code("8.0 9.0 10.0 12.0")},
)
CU130 = Build(
    "cu130",
    (580,),
    {"x86_64": _code("7.5 8.0 8.6 9.0 10.0 12.0"), "aarch64": _code("8.0 9.0 10.0 11.0 12.0")},
)
BUILDS = {"2.11": (CU126, CU128, CU130), "2.12": (CU126, CU130), "2.13": (CU126, CU130)}
"""Per minor version of torch the builds with CUDA, older ones first."""

CPU, DEFAULT = "cpu", "default"


class Card(NamedTuple):
    """A GPU: its name, and its compute capability where that is known."""

    name: str
    capability: Capability | None = None


class Machine(NamedTuple):
    """What decides about the build."""

    system: str = "Linux"
    processor: str = "x86_64"
    driver: str = ""
    cards: tuple[Card, ...] = ()
    tegra: bool = False
    """A Jetson, say: its GPU is promised to run no code but its very own."""
    amd: bool = False
    trouble: str = ""
    """Why the driver could not be asked."""


class Choice(NamedTuple):
    """A build: its name, its folder in an index that has one per build, and words for the user."""

    label: str
    folder: str | None
    words: str
    useful: bool
    """Whether the machine has an NVIDIA card, so that a build with CUDA is of any use there."""


def pretty(label: str) -> str:
    """Return a build's name in words."""
    if re.fullmatch(r"cu\d{3}", label):
        return f"CUDA {label[2:4]}.{label[4:]}"
    return {CPU: "the CPU"}.get(label, label)


def builds_of(version: str) -> tuple[Build, ...]:
    """Return the builds with CUDA of a version of torch, none where they are not known."""
    return BUILDS.get(".".join(version.split(".")[:2]), ())


def driver_runs(build: Build, machine: Machine) -> bool:
    """Whether the machine's driver is new enough."""
    numbers = re.findall(r"\d+", machine.driver)
    return tuple(map(int, numbers)) >= build.driver


def has_code(build: Build, card: Card, machine: Machine) -> bool:
    """Whether a build has code that runs on a card: its generation's, not of a later member.

    One whose capability is unknown is taken for a common one.
    """
    code = build.code.get(machine.processor, ())
    if machine.tegra:
        return card.capability in code
    if card.capability is None:
        return bool(code)
    major, minor = card.capability
    return any(major == code_major and minor >= code_minor for code_major, code_minor in code)


def served(build: Build, machine: Machine) -> tuple[Card, ...]:
    """Return the machine's cards that a build runs on."""
    if not driver_runs(build, machine):
        return ()
    return tuple(card for card in machine.cards if has_code(build, card, machine))


def choose(version: str, machine: Machine) -> Choice:
    """Return the build of a version of torch for a machine; a pure function."""
    builds = builds_of(version)
    where = f"{machine.processor} under {machine.system}"
    useful = bool(machine.cards)
    if machine.system != "Linux" or machine.processor not in CU130.code or not builds:
        words = f"no builds of torch {version} for {where} are known: as the package index has it"
        return Choice(DEFAULT, None, words, useful)
    if not machine.cards:
        return Choice(CPU, CPU, f"{_without(machine)}: torch for the CPU", useful)
    best = max(builds, key=lambda build: (len(served(build, machine)), builds.index(build)))
    runs = served(best, machine)
    if not runs:
        words = f"{_named(machine)}: {_why_none(version, machine)}; until then torch for the CPU"
        return Choice(CPU, CPU, words, useful)
    words = f"{_named(machine)}: torch for {pretty(best.label)}"
    if left := tuple(card for card in machine.cards if card not in runs):
        words += f", which has no code for {_listed(left)}"
    return Choice(best.label, best.label, words, useful)


def _without(machine: Machine) -> str:
    if machine.tegra:
        return "a Jetson whose GPU no build of PyTorch's serves (GALAMP_TORCH can name NVIDIA's)"
    if machine.amd:
        return "an AMD GPU, which galamp chooses no build for (GALAMP_TORCH can name one)"
    return f"no NVIDIA GPU{f' ({machine.trouble})' if machine.trouble else ''}"


def _why_none(version: str, machine: Machine) -> str:
    """Say why no build runs on any card, and what to do."""
    able = [
        build
        for build in builds_of(version)
        if any(has_code(build, card, machine) for card in machine.cards)
    ]
    if not able and machine.tegra:
        return "no build of PyTorch's is for a Jetson: name NVIDIA's own in GALAMP_TORCH"
    if not able:
        return f"no build of torch {version} has code for it: name one that has in GALAMP_TORCH"
    if not machine.driver:
        trouble = f" ({machine.trouble})" if machine.trouble else ""
        return f"its driver does not answer{trouble}: repair it, then remove the environment"
    oldest = min(build.driver for build in able)
    return (
        f"torch {version} needs driver {oldest[0]} or newer there: update it, then remove the "
        "environment"
    )


def _listed(cards: tuple[Card, ...]) -> str:
    """Return what kinds of cards there are and how many of each."""
    words = []
    for card, number in Counter(cards).items():
        capability = ".".join(map(str, card.capability or ("unknown",)))
        times = f"{number} x " if number > 1 else ""
        words.append(f"{times}{card.name} (compute capability {capability})")
    return ", ".join(words)


def _named(machine: Machine) -> str:
    driver = f", driver {machine.driver}" if machine.driver else ""
    return f"{_listed(machine.cards)}{driver}"


def inspect(
    root: Path = Path("/"),
    check_stopped: Callable[[], None] = lambda: None,
    limit_s: float = SMI_LIMIT_S,
) -> Machine:
    """Find out what the machine has; `root` is where /dev, /proc and /etc lie.

    nvidia-smi is asked where there is one. Where it fails, or there is none, the driver's files
    are read; they lie under /proc in containers without a GPU too, so only devices count.
    """
    driver, cards, trouble = "", tuple[Card, ...](), ""
    wsl = root / "usr/lib/wsl/lib/nvidia-smi"
    smi = shutil.which("nvidia-smi") or (str(wsl) if os.access(wsl, os.X_OK) else "")
    answered = False
    if smi:
        driver, cards, trouble = parse(_answer(smi, check_stopped, limit_s))
        answered = bool(cards) or not trouble
    if not answered:
        cards = _devices(root)
    if cards and not driver:
        driver = _driver(root)
    uname = os.uname()
    return Machine(
        system=uname.sysname,
        processor=uname.machine,
        driver=driver,
        cards=cards,
        tegra=(root / "etc/nv_tegra_release").exists() or "tegra" in uname.release,
        amd=(root / "dev/kfd").exists(),
        trouble=trouble,
    )


def parse(answer: str) -> tuple[str, tuple[Card, ...], str]:
    """Return driver, cards and trouble from nvidia-smi's answer to QUERY, or its complaint.

    A card that has failed comes as a complaint among the lines of the others.
    """
    driver, cards, trouble = "", [], ""
    for line in filter(None, map(str.strip, answer.splitlines())):
        fields = [field.strip() for field in line.split(",", 2)]
        if len(fields) == 3 and re.fullmatch(r"\d+(\.\d+)+|\[.*\]|N/A", fields[0]):
            known = re.fullmatch(r"(\d+)\.(\d+)", fields[1])
            capability = (int(known[1]), int(known[2])) if known else None
            cards.append(Card(fields[2], capability))
            if fields[0][0].isdigit():
                driver = fields[0]
        elif NO_DEVICES not in line:
            trouble = trouble or f"{line.partition('. ')[0].rstrip('.')[:200]}"
    return driver, tuple(cards), trouble


def _answer(smi: str, check_stopped: Callable[[], None], limit_s: float) -> str:
    """Return what nvidia-smi says, in time: beside a driver that hangs it cannot even be killed."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [smi, *QUERY],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            return f"{smi}: {error.strerror}"
        give_up_s = time.monotonic() + limit_s
        try:
            while process.poll() is None:
                check_stopped()
                if time.monotonic() > give_up_s:
                    return f"nvidia-smi did not answer within {limit_s:.0f} s"
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_GRACE_S)
        output.seek(0)
        text = output.read().decode(errors="replace")
        return text if text.strip() else f"nvidia-smi said nothing (exit code {process.returncode})"


def _devices(root: Path) -> tuple[Card, ...]:
    """Return the cards that have a device file, by name where the driver tells as many."""
    with contextlib.suppress(OSError):
        files = [name for name in os.listdir(root / "dev") if re.fullmatch(r"nvidia\d+", name)]
        names = []
        for told in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
            with contextlib.suppress(OSError):
                model = re.search(r"^Model:\s*(.+?)\s*$", told.read_text(errors="replace"), re.M)
                names.append(model[1] if model else "NVIDIA GPU")
        if len(names) != len(files):
            names = ["NVIDIA GPU"] * len(files)
        return tuple(map(Card, names))
    return ()


def _driver(root: Path) -> str:
    """Return the version of the driver that is loaded, "" if none is."""
    with contextlib.suppress(OSError):
        text = (root / "proc/driver/nvidia/version").read_text(errors="replace")
        if version := re.search(r"Kernel Module.*?\s(\d+\.\d+(\.\d+)?)\s", text):
            return version[1]
    return ""
