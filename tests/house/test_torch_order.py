"""What pip is told to get the build of torch that fits, and what is made of its answers."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.checkout import ROOT, load_from

order = load_from(ROOT / "bin", "torch_order")
RANGE = "torch>=2.11,<2.14"
HOST = "https://wheels.example/whl"

NO_GPU = order.Choice("cpu", "cpu", "no GPU", False)
FITS_126 = order.Choice("cu126", "cu126", "an H100", True)
FITS_130 = order.Choice("cu130", "cu130", "an H100", True)
TOO_OLD = order.Choice("cpu", "cpu", "a K80", True)
UNKNOWN = order.Choice("default", None, "a riscv64", False)


def settings(torch: str = "", where: str = "", cuda: bool = True, changed: bool = False) -> Any:
    return order.Settings(torch, where, cuda, changed)


def here(label: str, version: str = "2.13.0") -> Any:
    return order.Installed(version, label)


def index(address: str, name: str) -> tuple[tuple[str, ...], ...]:
    return (("--extra-index-url", address, name),)


@pytest.mark.parametrize(
    ("choice", "wanted", "present", "tries", "guarded"),
    [
        # By its exact name, then whatever there is; no CUDA without a GPU
        (NO_GPU, settings(), None, (("torch==2.13.0+cpu",), ("torch==2.13.0",)), True),
        (FITS_126, settings(), None, (("torch==2.13.0+cu126",), ("torch==2.13.0",)), False),
        (TOO_OLD, settings(), None, (("torch==2.13.0+cpu",), ("torch==2.13.0",)), False),
        (UNKNOWN, settings(), None, (("torch==2.13.0",),), True),
        (NO_GPU, settings(cuda=False), None,
         (("torch==2.13.0+cpu",), ("torch==2.13.0",)), True),
        # An index of the user's: the build's folder, or the one that is named
        (NO_GPU, settings(where=HOST), None, index(f"{HOST}/cpu", "torch==2.13.0+cpu"), True),
        (FITS_126, settings(where=f"{HOST}/"), None,
         index(f"{HOST}/cu126", "torch==2.13.0+cu126"), False),
        (FITS_126, settings(where=f"{HOST}/cu130"), None,
         index(f"{HOST}/cu130", "torch==2.13.0+cu130"), False),
        (NO_GPU, settings(where=f"{HOST}/rocm7.2"), None,
         index(f"{HOST}/rocm7.2", "torch==2.13.0+rocm7.2"), False),
        (UNKNOWN, settings(where=HOST), None, index(HOST, "torch==2.13.0"), True),
        # Something else altogether
        (FITS_126, settings("torch==2.12.0+cu130"), None, (("torch==2.12.0+cu130", RANGE),), False),
        (NO_GPU, settings("torch==2.12.0+cu130", HOST), None,
         (("--extra-index-url", HOST, "torch==2.12.0+cu130", RANGE),), False),
        (NO_GPU, settings("/x/torch-2.13.0-a-b-c.whl", changed=True), here("cpu"),
         (("/x/torch-2.13.0-a-b-c.whl", RANGE),), False),
        (NO_GPU, settings("/x/torch-2.13.0-a-b-c.whl"), here("cpu"), ((RANGE,),), False),
        # What machines with GPUs use is not taken away by one with other GPUs, or without
        (NO_GPU, settings(), here("cu130"), (("torch==2.13.0+cu130",), ("torch==2.13.0",)), False),
        (FITS_126, settings(), here("cu130", "2.12.0"),
         (("torch==2.13.0+cu130",), ("torch==2.13.0",)), False),
        (FITS_126, settings(where=HOST), here("cu130"),
         index(f"{HOST}/cu130", "torch==2.13.0+cu130"), False),
        # but where that is asked for, where it is no longer built, and in place of the CPU's
        (FITS_126, settings(where=HOST, changed=True), here("cu130"),
         index(f"{HOST}/cu126", "torch==2.13.0+cu126"), False),
        (FITS_126, settings(), here("cu128"),
         (("torch==2.13.0+cu126",), ("torch==2.13.0",)), False),
        (FITS_130, settings(), here("cpu"), (("torch==2.13.0+cu130",), ("torch==2.13.0",)), False),
    ],
)  # fmt: skip
def test_what_pip_is_asked_for(
    choice: Any, wanted: Any, present: Any, tries: tuple[tuple[str, ...], ...], guarded: bool
) -> None:
    told = order.order("2.13.0", RANGE, choice, wanted, present)
    assert (told.tries, told.guarded) == (tries, guarded)
    assert "\n" not in told.words
    assert wanted.torch in told.words
    kept = present and present.label != choice.folder and f"+{present.label}" in tries[0][-1]
    assert ("keeps it" in told.words) == bool(kept)


@pytest.mark.parametrize(
    ("choice", "driver", "got", "words"),
    [
        (FITS_126, "550.54.15", here("cu126"), ()),
        (FITS_126, "550.54.15", None, ()),
        (FITS_126, "550.54.15", here("cu130"), ("CUDA 13.0", "GALAMP_TORCH_INDEX", "cu126")),
        (FITS_126, "550.54.15", here("cpu"), ("the CPU", "GALAMP_TORCH_INDEX", "cu126")),
        (FITS_126, "550.54.15", here("cu999"), ()),
        (FITS_130, "580.65.06", here("cu126"), ()),
        (FITS_130, "580.65.06", here("cpu"), ("the CPU", "GALAMP_TORCH_INDEX", "cu130")),
        (TOO_OLD, "470.57", here("cpu"), ()),
        (TOO_OLD, "470.57", here("cu130"), ("CUDA 13.0", "runs on the CPU", "GALAMP_TORCH_INDEX")),
        (NO_GPU, "", here("cu130"), ()),
        (UNKNOWN, "", here("cpu"), ()),
    ],
)
def test_what_came_of_it(choice: Any, driver: str, got: Any, words: tuple[str, ...]) -> None:
    cards = (load_from(ROOT / "bin", "torch_build").Card("NVIDIA H100", (9, 0)),)
    told = order.advice("2.13.0", choice, order.Machine(driver=driver, cards=cards), got)
    assert bool(told) == bool(words)
    assert [word for word in words if word not in told] == []
    assert "\n" not in told


@pytest.mark.parametrize(
    ("line", "stops"),
    [
        ("Collecting nvidia-cudnn-cu13==9.20.0.48 (from torch==2.13.0)", True),
        ("Collecting cuda-toolkit[cublas,cudart]==13.0.2 (from torch==2.13.0)", True),
        ("Processing /a b/nvidia_nccl_cu13-2.29.7-py3-none-any.whl (from torch)", True),
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (530.7 MB)", True),
        ("  Downloading https://h/whl/torch-2.13.0-cp311-x86_64.whl (2.1 GB)", True),
        ("Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (1024 MB)", True),
        ("  Downloading torch-2.13.0-cp311-cp311-x86_64.whl.metadata (31 kB)", False),
        ("  Downloading torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl (191.8 MB)", False),
        ("Requirement already satisfied: nvidia-cublas in /x (from torch)", False),
        ("Collecting torch==2.13.0", False),
        ("Processing /wheels/torch-2.13.0-cp311-cp311-linux_x86_64.whl", False),
        ("Collecting filelock (from torch==2.13.0)", False),
    ],
)
def test_the_signs_of_cuda_in_what_pip_says(line: str, stops: bool) -> None:
    said = f"Looking in indexes: https://h/simple\n{line}\nmore\n"
    assert bool(order.WITH_CUDA.search(said)) == stops


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GALAMP_TORCH", "torch-2.13.0-cp311-cp311-linux_x86_64.whl"),
        ("GALAMP_TORCH", "numpy-2.0.0-cp311-cp311-linux_x86_64.whl"),
        ("GALAMP_TORCH", "numpy"),
        ("GALAMP_TORCH", "torchvision==1.0"),
        ("GALAMP_TORCH", "--index-url https://h torch"),
        ("GALAMP_TORCH", "cu126"),
        ("GALAMP_TORCH_INDEX", "cu126"),
        ("GALAMP_TORCH_INDEX", "--trusted-host"),
        ("GALAMP_TORCH_CUDA", "yes"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(order.Refused, match=f"^{name}=") as told:
        order.Settings.read(tmp_path)
    assert value in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "value",
    [
        "torch", "torch==2.12.0+cu130", "torch >= 2.12, < 2.13", "torch[opt-einsum]~=2.12.0",
        "torch @ https://h/torch-2.13.0-cp311-cp311-linux_x86_64.whl",
        "https://h/torch-2.13.0-cp311-cp311-linux_x86_64.whl",
    ],
)  # fmt: skip
def test_requirements_and_wheels_of_torch_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GALAMP_TORCH", value)
    assert order.Settings.read(tmp_path) == settings(value, changed=True)


def test_a_real_installation_is_read_without_starting_it() -> None:
    got = order.installed(Path(sys.prefix))
    assert got is not None
    assert got.version == torch.__version__.partition("+")[0]
    built = torch.version.cuda
    assert got.label == ("cu" + built.replace(".", "") if built else "cpu")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("__version__ = '2.13.0+cu126'\ncuda: Optional[str] = '12.6'\n", here("cu126")),
        ("__version__ = '2.13.0'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.2.1'\n",
         here("rocm")),
        ("__version__ = '2.12.1+xpu'\ncuda = None\nxpu: Optional[str] = '20250301'\n",
         here("xpu", "2.12.1")),
        ("__vers", here("cpu", "")),
    ],
)  # fmt: skip
def test_builds_are_told_by_their_version_file(tmp_path: Path, lines: str, expected: Any) -> None:
    assert order.installed(tmp_path) is None
    file = tmp_path / "lib" / "python3.12" / "site-packages" / "torch" / "version.py"
    file.parent.mkdir(parents=True)
    file.write_text(lines)
    assert order.installed(tmp_path) == expected


def test_environments_from_before_are_still_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was kept there, and their stamps were made of what they are made of here."""
    stamp = load_from(ROOT / "bin", "stamp")
    for name in ("GALAMP_TORCH", "GALAMP_TORCH_INDEX"):
        monkeypatch.delenv(name, raising=False)
    parts = [b"dev", b"3.11-x86_64", os.fsencode(ROOT), os.fsencode(tmp_path.resolve())]
    parts += [(ROOT / name).read_bytes() for name in stamp.MADE_FROM]
    before = hashlib.sha256(b"\0".join(parts)).hexdigest()
    assert stamp.fingerprint("dev", str(tmp_path), "3.11-x86_64") == before
    marks = {before}
    for name, value in {"GALAMP_TORCH": "torch==2.12.0", "GALAMP_TORCH_INDEX": HOST}.items():
        monkeypatch.setenv(name, value)
        marks.add(stamp.fingerprint("dev", str(tmp_path), "3.11-x86_64"))
    assert len(marks) == 3
