"""What pip is told to get the build of torch that fits, and what a start makes of its answers."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkout import BROKEN, ROOT, Checkout, load_from

order = load_from(ROOT / "bin", "torch_order")
PIN = next(
    line.partition("==")[2].strip()
    for line in (ROOT / "bin" / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)
RANGE = "torch>=2.11,<2.14"
HOST = "https://wheels.example/whl"

NO_GPU = order.Choice("cpu", "cpu", "no GPU", False)
FITS_126 = order.Choice("cu126", "cu126", "an H100", True)
FITS_130 = order.Choice("cu130", "cu130", "an H100", True)
TOO_OLD = order.Choice("cpu", "cpu", "a K80", True)
UNKNOWN = order.Choice("default", None, "a riscv64", False)


def settings(torch: str = "", where: str = "", cuda: bool = False, changed: bool = False) -> Any:
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
        (NO_GPU, settings(cuda=True), None,
         (("torch==2.13.0+cpu",), ("torch==2.13.0",)), False),
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
        ("GALAMP_TORCH_CUDA", "1"),
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


# Whole set-ups, with a pip that installs from indexes which are told to it

DEFAULT_CUDA = {"": {PIN: "13.0"}}
"""The index that most have: one build, with CUDA."""
PYTORCH = {
    f"{HOST}/{label}": {f"{PIN}+{label}": cuda}
    for label, cuda in {"cpu": "", "cu126": "12.6", "cu130": "13.0"}.items()
}
H100 = "NVIDIA H100 80GB HBM3"


class Box(Checkout):
    """A machine with the indexes that pip reaches there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.has: dict[str, dict[str, str]] = DEFAULT_CUDA | PYTORCH

    def gpu(self, driver: str, capability: str = "9.0", name: str = H100) -> None:
        self.add_smi(f"{driver}, {capability}, {name}")

    def set_up(self, code: int = 0, **env: str) -> list[str]:
        """Start once, and return what it told apart from the times of its steps."""
        done = self.start("run", STUB_PIP_HAS=json.dumps(self.has), **env)
        assert done.returncode == code, done.stderr
        assert done.stdout == ("" if code else "[run]\n")
        return [line for line in done.stderr.splitlines() if " ... " not in line]

    def update(self) -> None:
        with (self.root / "pyproject.toml").open("a") as file:
            file.write("# changed\n")

    @property
    def torch(self) -> tuple[str, str] | None:
        return order.installed(self.venv)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


real = pytest.mark.real


@real
def test_without_a_gpu_the_cpus_build_is_found_among_others(box: Box) -> None:
    box.has = {"": {PIN: "13.0", f"{PIN}+cpu": "", f"{PIN}+cu126": "12.6"}}
    assert box.set_up() == ["galamp: set-up: no NVIDIA GPU: torch for the CPU"]
    assert box.torch == here("cpu", PIN)
    assert sum("torch==" in call for call in box.calls()) == 1
    assert box.set_up() == []
    assert box.calls() == []


@real
def test_an_index_with_one_build_for_the_cpu_will_do(box: Box) -> None:
    box.has = {"": {PIN: ""}}
    box.set_up()
    assert box.torch == here("cpu", PIN)


@real
def test_without_a_gpu_no_cuda_comes(box: Box) -> None:
    """pip is stopped before it fetches that; the index that the line asks for is then enough."""
    _, refused = box.set_up(2, STUB_PIP_WAITS="yes")
    assert f"the package index has torch {PIN} with CUDA only" in refused
    assert "GALAMP_TORCH_INDEX" in refused
    assert "GALAMP_TORCH_CUDA=yes" in refused
    assert box.torch is None
    assert not box.ready
    box.calls()
    told = box.set_up(GALAMP_TORCH_INDEX=HOST)
    assert told == [f"galamp: set-up: no NVIDIA GPU: torch for the CPU, from {HOST}/cpu"]
    assert box.torch == here("cpu", PIN)
    assert not any("-m venv" in call for call in box.calls())
    assert box.set_up() == [], "the address is kept"
    box.update()
    box.set_up()
    assert box.torch == here("cpu", PIN)


@real
def test_cuda_comes_without_a_gpu_where_that_is_wanted(box: Box) -> None:
    assert len(box.set_up(GALAMP_TORCH_CUDA="yes")) == 1
    assert box.torch == here("cu130", PIN)
    box.update()
    assert "keeps it" in box.set_up()[0]
    assert box.torch == here("cu130", PIN)


@real
@pytest.mark.parametrize(
    ("driver", "capability", "index", "label"),
    [
        ("580.65.06", "9.0", False, "cu130"),
        ("550.54.15", "9.0", True, "cu126"),
        ("580.65.06", "7.0", True, "cu126"),
        ("580.65.06", "12.0", True, "cu130"),
    ],
)
def test_a_gpu_gets_its_build(
    box: Box, driver: str, capability: str, index: bool, label: str
) -> None:
    box.gpu(driver, capability)
    (told,) = box.set_up(**({"GALAMP_TORCH_INDEX": HOST} if index else {}))
    assert f"driver {driver}: torch for CUDA {label[2:4]}.{label[4:]}" in told
    assert box.torch == here(label, PIN)
    assert box.set_up() == []


@real
def test_what_the_default_index_has_is_taken_and_told(box: Box) -> None:
    """The index of the line that says so brings the right build at the next start."""
    box.gpu("550.54.15")
    choice, advice = box.set_up()
    assert "torch for CUDA 12.6" in choice
    assert "what is installed is torch for CUDA 13.0" in advice
    assert "GALAMP_TORCH_INDEX" in advice
    assert box.torch == here("cu130", PIN)
    assert len(box.set_up(GALAMP_TORCH_INDEX=HOST)) == 1
    assert box.torch == here("cu126", PIN)
    assert box.set_up() == []


@real
@pytest.mark.parametrize(
    ("driver", "capability", "why"),
    [("470.256.02", "8.0", "needs driver 525 or newer"), ("580.65.06", "3.7", "has code for it")],
)
def test_a_gpu_that_no_build_fits_is_no_failure(
    box: Box, driver: str, capability: str, why: str
) -> None:
    box.gpu(driver, capability)
    box.has[""] = {f"{PIN}+cpu": "", PIN: "13.0"}
    (told,) = box.set_up()
    assert f"{H100} (compute capability {capability}), driver {driver}" in told
    assert why in told
    assert box.torch == here("cpu", PIN)


@real
def test_torch_can_be_named(box: Box) -> None:
    """The name holds for later starts and set-ups too, until there is another."""
    other = "torch==2.12.0+cu126"
    box.has[""] |= {"2.12.0+cu126": "12.6", "2.11.0+cpu": ""}
    (told,) = box.set_up(GALAMP_TORCH=other)
    assert told == f"galamp: set-up: torch as GALAMP_TORCH says: {other}"
    assert box.torch == here("cu126", "2.12.0")
    assert box.set_up() == []
    assert box.set_up(GALAMP_TORCH=other) == []
    box.update()
    assert box.set_up() == [told]
    assert box.torch == here("cu126", "2.12.0")
    box.set_up(GALAMP_TORCH="torch==2.11.0+cpu")
    assert box.torch == here("cpu", "2.11.0")


@real
def test_an_environment_that_is_made_anew_gets_the_same(box: Box) -> None:
    """Also where the making is cut short."""
    box.set_up(GALAMP_TORCH_INDEX=HOST)
    (box.venv / "bin" / "python").write_text(BROKEN)
    box.set_up(70, STUB_FAIL="-m venv")
    box.calls()
    box.set_up()
    assert "-m venv" in box.calls()[0]
    assert box.torch == here("cpu", PIN)


@real
def test_a_wheel_can_be_named_from_where_one_is(box: Box, tmp_path: Path) -> None:
    name = f"torch-{PIN}+cu126-cp311-cp311-linux_x86_64.whl"
    env = {"STUB_PIP_HAS": "{}", "GALAMP_TORCH": f"./{name}"}
    missing = box.start("run", cwd=tmp_path, **env)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert f"GALAMP_TORCH={tmp_path / name}: there is no such file" in missing.stderr
    (tmp_path / name).touch()
    assert box.start("run", cwd=tmp_path, **env).returncode == 0
    assert box.torch == here("cu126", PIN)
    box.calls()
    assert box.start("run", cwd=tmp_path, **env).stderr == ""
    (tmp_path / name).unlink()
    box.update()
    box.set_up()
    assert box.torch == here("cu126", PIN)


@real
def test_a_wheel_of_the_same_version_takes_the_place_of_the_one_before(
    box: Box, tmp_path: Path
) -> None:
    """pip takes a version for installed, whatever wheel it is from."""
    box.has = {"": {f"{PIN}+cpu": ""}}
    box.set_up()
    wheel = tmp_path / f"torch-{PIN}+cpu-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    box.calls()
    box.set_up(GALAMP_TORCH=str(wheel))
    removed, put = box.calls()[:2]
    assert removed.endswith("-m pip uninstall -y torch")
    assert f" {wheel} torch>=" in put
    assert box.torch == here("cpu", PIN)


@real
def test_another_driver_makes_no_set_up_necessary(box: Box) -> None:
    box.has[""] = {f"{PIN}+cpu": ""}
    box.set_up()
    box.gpu("580.65.06")
    assert box.set_up() == []
    box.has = DEFAULT_CUDA | {"": {f"{PIN}+cu130": "13.0"}}
    box.update()
    box.set_up()
    assert box.torch == here("cu130", PIN), "the next set-up finds the GPU"


@real
def test_machines_that_share_an_environment_leave_each_other_their_gpus(box: Box) -> None:
    box.gpu("580.65.06")
    box.set_up(GALAMP_TORCH_INDEX=HOST)
    for answer in ("No devices were found", f"535.183.01, 9.0, {H100}"):
        box.add_smi(answer)
        assert box.set_up() == []
        box.update()
        (told,) = box.set_up()
        assert "the environment has torch for CUDA 13.0 and keeps it" in told
        assert "GALAMP_VENV" in told
        assert box.torch == here("cu130", PIN)


@real
def test_an_index_without_the_build_is_one_line(box: Box) -> None:
    box.gpu("550.54.15")
    other = "https://other.example/whl"
    box.has[f"{other}/cu126"] = {"2.9.0+cu126": "12.6"}
    _, told = box.set_up(2, GALAMP_TORCH_INDEX=other)
    assert f"found no torch {PIN} for CUDA 12.6 that this Python can use at {other}/cu126" in told
    assert "correct GALAMP_TORCH_INDEX" in told
    assert not box.ready


@real
def test_an_index_that_is_not_reached_is_tried_once(box: Box) -> None:
    box.has = {}
    told = "\n".join(box.set_up(70))
    assert "could not install torch; the end of" in told
    assert "(from versions: none)" in told
    assert sum("torch==" in call for call in box.calls()) == 1


@real
def test_passwords_are_neither_shown_nor_kept(box: Box) -> None:
    secret = "https://me:secret@wheels.example/whl"
    box.has[f"{secret}/cpu"] = PYTORCH[f"{HOST}/cpu"]
    told = box.set_up(GALAMP_TORCH_INDEX=secret)
    assert box.torch == here("cpu", PIN)
    assert any(f"{secret}/cpu" in call for call in box.calls()), "pip gets it"
    kept = [path for path in box.venv.rglob("setup.*") if path.is_file()]
    assert box.venv / "setup.torch" in kept
    assert not [path for path in kept if "secret" in path.read_text()]
    assert "secret" not in "".join(told)
    assert box.set_up() == []
    assert box.set_up(GALAMP_TORCH_INDEX=secret) == []


@real
def test_what_was_kept_is_part_of_the_stamp(box: Box) -> None:
    box.set_up(GALAMP_TORCH_INDEX=HOST)
    kept = box.venv / "setup.torch"
    assert kept.read_text() == f"\n{HOST}\ncpu\n"
    kept.write_text(f"\n{HOST}\ncu126\n")
    assert box.set_up() != []
    assert kept.read_text() == f"\n{HOST}\ncpu\n"


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
