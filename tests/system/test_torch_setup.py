"""Whole set-ups with a pip that installs torch from indexes which are told to it (fake_pip.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import BROKEN, ROOT, Checkout, load_from
from tests.support.engine import also

pytestmark = pytest.mark.real  # for they start processes

order = load_from(ROOT / "bin", "torch_order")
PIN = next(
    line.partition("==")[2].strip()
    for line in (ROOT / "bin" / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)
HOST = "https://wheels.example/whl"

DEFAULT_CUDA = {"": {PIN: "13.0"}}
"""The index that most have: one build, with CUDA."""
PYTORCH = {
    f"{HOST}/{label}": {f"{PIN}+{label}": cuda}
    for label, cuda in {"cpu": "", "cu126": "12.6", "cu130": "13.0"}.items()
}
H100 = "NVIDIA H100 80GB HBM3"


def here(label: str, version: str) -> Any:
    return order.Installed(version, label)


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


def test_without_a_gpu_the_cpus_build_is_found_among_others(box: Box) -> None:
    box.has = {"": {PIN: "13.0", f"{PIN}+cpu": "", f"{PIN}+cu126": "12.6"}}
    assert box.set_up() == ["galamp: set-up: no NVIDIA GPU: torch for the CPU"]
    assert box.torch == here("cpu", PIN)
    assert sum("torch==" in call for call in box.calls()) == 1
    assert box.set_up() == []
    assert box.calls() == []


def test_an_index_with_one_build_for_the_cpu_will_do(box: Box) -> None:
    box.has = {"": {PIN: ""}}
    box.set_up()
    assert box.torch == here("cpu", PIN)


def test_without_a_gpu_no_cuda_comes_where_that_is_wanted(box: Box) -> None:
    """pip is stopped before it fetches that; the index that the line asks for is then enough."""
    _, refused = box.set_up(2, STUB_PIP_WAITS="yes", GALAMP_TORCH_CUDA="no")
    assert f"the package index has torch {PIN} with CUDA only" in refused
    assert "GALAMP_TORCH_INDEX" in refused
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


def test_where_only_cuda_is_to_be_had_it_is_taken_and_told_first(box: Box) -> None:
    first, told, *more = box.set_up()
    assert first == "galamp: set-up: no NVIDIA GPU: torch for the CPU"
    assert f"the package index has torch {PIN} with CUDA only" in told
    assert "set GALAMP_TORCH_INDEX to the address of an index" in told
    assert "it is taken all the same (Ctrl-C stops)" in told
    assert more == []
    assert box.torch == here("cu130", PIN)
    assert box.set_up() == []
    box.update()
    assert "keeps it" in box.set_up()[0]
    assert box.torch == here("cu130", PIN)


@pytest.mark.parametrize(
    ("driver", "capability", "index", "label"),
    [
        ("580.65.06", "9.0", False, "cu130"),
        ("550.54.15", "9.0", True, "cu126"),
        also("535.183.01", "8.0", True, "cu126"),
        also("580.65.06", "12.0", True, "cu130"),
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("driver", "capability", "why"),
    [
        ("470.256.02", "8.0", "needs driver 525 or newer"),
        also("580.65.06", "3.7", "has code for it"),
    ],
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


@pytest.mark.slow
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


def test_an_environment_that_is_made_anew_gets_the_same(box: Box) -> None:
    """Also where the making is cut short."""
    box.set_up(GALAMP_TORCH_INDEX=HOST)
    (box.venv / "bin" / "python").write_text(BROKEN)
    box.set_up(70, STUB_FAIL="-m venv")
    box.calls()
    box.set_up()
    assert "-m venv" in box.calls()[0]
    assert box.torch == here("cpu", PIN)


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


def test_another_driver_makes_no_set_up_necessary(box: Box) -> None:
    box.has[""] = {f"{PIN}+cpu": ""}
    box.set_up()
    box.gpu("580.65.06")
    assert box.set_up() == []
    box.has = DEFAULT_CUDA | {"": {f"{PIN}+cu130": "13.0"}}
    box.update()
    box.set_up()
    assert box.torch == here("cu130", PIN), "the next set-up finds the GPU"


@pytest.mark.slow
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


def test_an_index_without_the_build_is_one_line(box: Box) -> None:
    box.gpu("550.54.15")
    other = "https://other.example/whl"
    box.has[f"{other}/cu126"] = {"2.9.0+cu126": "12.6"}
    _, told = box.set_up(2, GALAMP_TORCH_INDEX=other)
    assert f"found no torch {PIN} for CUDA 12.6 that this Python can use at {other}/cu126" in told
    assert "correct GALAMP_TORCH_INDEX" in told
    assert not box.ready


def test_an_index_that_is_not_reached_is_tried_once(box: Box) -> None:
    box.has = {}
    told = "\n".join(box.set_up(70))
    assert "could not install torch; the end of" in told
    assert "(from versions: none)" in told
    assert sum("torch==" in call for call in box.calls()) == 1


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


def test_what_was_kept_is_part_of_the_stamp(box: Box) -> None:
    box.set_up(GALAMP_TORCH_INDEX=HOST)
    kept = box.venv / "setup.torch"
    assert kept.read_text() == f"\n{HOST}\ncpu\n"
    kept.write_text(f"\n{HOST}\ncu126\n")
    assert box.set_up() != []
    assert kept.read_text() == f"\n{HOST}\ncpu\n"
