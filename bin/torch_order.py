"""Says what pip is told to get a build of torch, and what came of it; used by install.py.

    Settings.read(folder)      GALAMP_TORCH and others, as they are set now or were at the last time
    order(...)                 what pip is asked for, one try after the other until one is there
    installed(folder)          which build lies in an environment, without starting it
    advice(...)                what to do where that is not the one that fits

    GALAMP_TORCH          a requirement of torch's, or a wheel: taken in place of any choice
    GALAMP_TORCH_INDEX    the address of an index with a folder per build, or of one such folder
    GALAMP_TORCH_CUDA     `no`: no build with CUDA may come where there is no NVIDIA GPU

Without an index of its own, the build is looked for where pip is told to look anyway: by its exact
name (`2.13.0+cu126`) first, for a mirror may have several, then as whatever `2.13.0` is there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import stamp
from place import Refused
from torch_build import CPU, Choice, Machine, builds_of, pretty, served

BUILD = re.compile(r"cpu|cu\d+|rocm[\d.]+|xpu")
REQUIREMENT = re.compile(r"torch\s*(\[[\w\s,-]*\]\s*)?([<>=!~@].*)?")

WITH_CUDA = re.compile(
    r"^(Collecting |Processing .*/)(nvidia|cuda)[-_]"
    r"|^ *Downloading \S*torch-\S+\.whl \(([4-9]\d\d(\.\d+)? M|\d{4,}(\.\d+)? M|[\d.]+ G)B\)",
    re.MULTILINE,
)
"""What pip says as it meets a package of NVIDIA's that torch needs and is not there yet: it reads
what torch needs before it fetches any of that, and fetches all before it installs. Where an index
does not tell the needs, it fetches torch to read them: then by its size, of 400 MB and more with
CUDA, under 250 MB without."""


class Settings(NamedTuple):
    """What the user has asked for."""

    torch: str
    where: str
    """The index, without user and password."""
    cuda: bool
    """Whether a build with CUDA may come without a GPU, where there is no other."""
    changed: bool
    """Whether `torch` or `where` are others than at the last set-up."""

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Return what is set in the environment, or else was at the folder's last set-up.

        Raises:
            Refused: it cannot be what is meant.
        """
        torch, where = stamp.torch_asked(str(folder))
        cuda = os.environ.get("GALAMP_TORCH_CUDA", "")
        if cuda not in ("", "no"):
            raise Refused(f"GALAMP_TORCH_CUDA={cuda}: expected no, or nothing")
        wheel = torch.endswith(".whl") and os.path.basename(torch).startswith("torch-")
        changed = (torch, where) != stamp.torch_kept(str(folder))[:2]
        if changed and wheel and "://" not in torch and not os.path.isfile(torch):
            raise Refused(f"GALAMP_TORCH={torch}: there is no such file")
        if torch and not wheel and not REQUIREMENT.fullmatch(torch):
            raise Refused(
                f"GALAMP_TORCH={torch}: expected a requirement of torch's such as "
                "torch==2.13.0+cu126, or the path of a wheel"
            )
        if where and "://" not in where:
            raise Refused(
                f"GALAMP_TORCH_INDEX={where}: expected the address of a package index, such as "
                "https://HOST/FOLDER"
            )
        return cls(torch, where, cuda != "no", changed)

    @property
    def address(self) -> str:
        """The index with the user and password that may be set now, but are never kept."""
        now = os.environ.get("GALAMP_TORCH_INDEX", "").strip()
        return now if stamp.bare(now) == self.where else self.where

    @property
    def is_file(self) -> bool:
        """Whether a wheel is named, which pip takes for installed if its version is."""
        return self.torch.endswith(".whl") or "://" in self.torch


class Order(NamedTuple):
    """What pip is told."""

    words: str
    tries: tuple[tuple[str, ...], ...]
    """Arguments of `pip install`; each but the last may name what is in no index."""
    guarded: bool
    """Whether to stop at the first package of NVIDIA's: they would be of no use."""
    label: str


class Installed(NamedTuple):
    """What lies in an environment."""

    version: str
    label: str


def order(
    version: str,
    asked_range: str,
    choice: Choice,
    settings: Settings,
    present: Installed | None,
) -> Order:
    """Return what to tell pip.

    Args:
        version: the tested version of torch, such as 2.13.0.
        asked_range: setup.cfg's requirement of torch, which holds for GALAMP_TORCH too.
        choice: what fits this machine.
        settings: what the user wants.
        present: what the environment has, where that is to be kept.
    """
    if settings.torch:
        index = ("--extra-index-url", settings.address) if settings.where else ()
        words = f"torch as GALAMP_TORCH says: {settings.torch}"
        asked: tuple[str, ...] = (settings.torch, asked_range)
        if present and settings.is_file and not settings.changed:
            asked = (asked_range,)  # it is installed from there, and may lie there no more
        return Order(words, ((*index, *asked),), False, "")
    words, label = choice.words, choice.folder or ""
    old = present.label if present and not settings.changed else ""
    if label not in ("", old) and old in {build.label for build in builds_of(version)}:
        # Machines may share the environment: what runs on the GPUs of another is not taken away.
        label = old
        words += (
            f"; the environment has torch for {pretty(label)} and keeps it: for another, remove "
            "it, or name another folder in GALAMP_VENV"
        )
    guarded = not choice.useful and label in ("", CPU)
    if settings.where:
        address, label = within(settings.address, label)
        exact = f"torch=={version}+{label}" if label else f"torch=={version}"
        words += f", from {stamp.bare(address)}"
        guarded = guarded and label in ("", CPU)
        return Order(words, (("--extra-index-url", address, exact),), guarded, label)
    plain = (f"torch=={version}",)
    if not label:
        return Order(words, (plain,), guarded, label)
    return Order(words, ((f"torch=={version}+{label}",), plain), guarded, label)


def within(address: str, label: str) -> tuple[str, str]:
    """Return where an index has a build, and which; an address that names one is taken as it is."""
    address = address.rstrip("/")
    last = address.rpartition("/")[2]
    if BUILD.fullmatch(last):
        return address, last
    return (f"{address}/{label}", label) if label else (address, "")


def installed(folder: Path) -> Installed | None:
    """Return which torch lies in an environment, None if there is none; nothing is run."""
    for path in sorted(folder.glob("lib/python3.*/site-packages/torch/version.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        values = dict(re.findall(r"^(\w+)\b.*?=\s*'([^']*)'", text, re.MULTILINE))
        label = CPU
        if "cuda" in values:
            label = "cu" + values["cuda"].replace(".", "")
        elif "hip" in values or "xpu" in values:
            label = "rocm" if "hip" in values else "xpu"
        return Installed(values.get("__version__", "").partition("+")[0], label)
    return None


def advice(version: str, choice: Choice, machine: Machine, got: Installed | None) -> str:
    """Return a line on what came of a choice, "" where it is as good as the choice."""
    if got is None or choice.folder in (None, got.label) or not choice.useful:
        return ""
    known = {build.label: build for build in builds_of(version)}
    if choice.label == CPU:
        return (
            f"torch for {pretty(got.label)} is all that the package index has: it runs on the CPU "
            "as well; one for the CPU is a tenth of its size (GALAMP_TORCH_INDEX)"
        )
    wanted = len(served(known[choice.label], machine))
    if got.label != CPU and (
        got.label not in known or len(served(known[got.label], machine)) >= wanted
    ):
        return ""
    return (
        f"what is installed is torch for {pretty(got.label)}, with which training is not on every "
        f"GPU here: set GALAMP_TORCH_INDEX to the address of an index that has the build for "
        f"{pretty(choice.label)} ({choice.label}), as PyTorch's own has, and start again"
    )


def only_cuda(version: str, *, taken: bool) -> str:
    """Return the line for a machine without an NVIDIA GPU where only CUDA is to be had."""
    end = "; it is taken all the same (Ctrl-C stops)" if taken else " (GALAMP_TORCH_CUDA=no)"
    return (
        f"the package index has torch {version} with CUDA only, several gigabytes of no use "
        "without an NVIDIA GPU: to spare them, set GALAMP_TORCH_INDEX to the address of an index "
        "that has it for the CPU, which PyTorch's installation page shows after --index-url" + end
    )


def missing(version: str, label: str, where: str) -> str:
    """Return the line for an index of the user's that lacks what was looked for."""
    build = f" for {pretty(label)}" if label else ""
    return (
        f"found no torch {version}{build} that this Python can use at {where}: correct "
        "GALAMP_TORCH_INDEX, or name what to install in GALAMP_TORCH"
    )
