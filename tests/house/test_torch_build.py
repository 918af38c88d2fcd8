"""Which build of torch fits a machine: the choice as a table, and what the machine is asked."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT, load_from

build = load_from(ROOT / "bin", "torch_build")
NAMES = {
    "3.7": "Tesla K80",
    "6.1": "NVIDIA GeForce GTX 1080",
    "7.0": "Tesla V100-SXM2-16GB",
    "7.5": "Tesla T4",
    "8.0": "NVIDIA A100-SXM4-40GB",
    "9.0": "NVIDIA H100 80GB HBM3",
    "10.0": "NVIDIA B200",
    "12.0": "NVIDIA GeForce RTX 5090",
}


def machine(driver: str, capabilities: str, **more: Any) -> Any:
    """Return a machine with cards of these compute capabilities, "?" for an unknown one."""
    cards = []
    for text in capabilities.split():
        known = None if text == "?" else tuple(map(int, text.split(".")))
        cards.append(build.Card(NAMES.get(text, f"GPU {text}"), known))
    return build.Machine(driver=driver, cards=tuple(cards), **more)


X86, ARM = {"processor": "x86_64"}, {"processor": "aarch64"}
JETSON = ARM | {"tegra": True}
TABLE: list[tuple[str, str, dict[str, Any], str]] = [
    # No GPU, or none that is NVIDIA's
    ("", "", X86, "cpu"),
    ("", "", ARM, "cpu"),
    ("580.82.07", "", X86, "cpu"),
    ("", "", X86 | {"amd": True}, "cpu"),
    # H100: every driver that knows it
    ("580.65.06", "9.0", X86, "cu130"),
    ("590.44.01", "9.0", X86, "cu130"),
    ("570.172.08", "9.0", X86, "cu126"),
    ("560.35.05", "9.0", X86, "cu126"),
    ("550.54.15", "9.0", X86, "cu126"),
    ("535.183.01", "9.0", X86, "cu126"),
    ("525.147.05", "9.0", X86, "cu126"),
    # A100, L4, RTX 30
    ("580.95.05", "8.0", X86, "cu130"),
    ("535.183.01", "8.0 8.0 8.0 8.0", X86, "cu126"),
    ("525.60.13", "8.0", X86, "cu126"),
    ("515.105.01", "8.0", X86, "cpu"),
    ("470.256.02", "8.0", X86, "cpu"),
    ("560.94", "8.9", X86, "cu126"),
    ("581.57", "8.6", X86, "cu130"),
    # T4, V100, GTX 1080, GTX 980, K80
    ("580.65.06", "7.5", X86, "cu130"),
    ("550.54.15", "7.5", X86, "cu126"),
    ("580.65.06", "7.0", X86, "cu126"),
    ("535.183.01", "7.0 7.0", X86, "cu126"),
    ("470.256.02", "7.0", X86, "cpu"),
    ("580.65.06", "6.1", X86, "cu126"),
    ("525.60.13", "5.2", X86, "cu126"),
    ("470.256.02", "3.7", X86, "cpu"),
    ("580.65.06", "3.7", X86, "cpu"),
    # B200, B300, RTX 50: what has code for them needs driver 580
    ("580.65.06", "10.0", X86, "cu130"),
    ("580.65.06", "10.3", X86, "cu130"),
    ("570.133.20", "10.0", X86, "cpu"),
    ("580.65.06", "12.0", X86, "cu130"),
    ("570.86.10", "12.0", X86, "cpu"),
    # A card of a generation that is not built yet
    ("610.10.01", "13.0", X86, "cpu"),
    # Mixed: the most cards, then the newest
    ("580.65.06", "7.0 9.0", X86, "cu126"),
    ("580.65.06", "7.0 12.0", X86, "cu130"),
    ("580.65.06", "7.0 7.0 12.0", X86, "cu126"),
    ("570.86.10", "9.0 12.0", X86, "cu126"),
    ("580.65.06", "6.1 8.6 12.0", X86, "cu130"),
    # No nvidia-smi, but a driver: taken for common cards
    ("580.65.06", "?", X86, "cu130"),
    ("550.54.15", "?", X86, "cu126"),
    ("", "?", X86, "cpu"),
    ("[N/A]", "9.0", X86, "cpu"),
    # GH200, GB10, T4G; Jetson Thor, Orin with nvidia-smi, and without
    ("580.65.06", "9.0", ARM, "cu130"),
    ("550.54.15", "9.0", ARM, "cu126"),
    ("580.95.05", "12.1", ARM, "cu130"),
    ("570.86.10", "10.0", ARM, "cpu"),
    ("580.65.06", "7.5", ARM, "cpu"),
    ("580.00", "11.0", JETSON, "cu130"),
    ("540.4.0", "8.7", JETSON, "cpu"),
    ("595.10", "8.7", JETSON, "cpu"),
    ("580.00", "?", JETSON, "cpu"),
    ("", "", JETSON, "cpu"),
    # What PyTorch builds nothing for, or galamp knows nothing of
    ("", "", {"processor": "riscv64"}, "default"),
    ("", "", {"processor": "arm64", "system": "Darwin"}, "default"),
    ("580.65.06", "8.0", {"processor": "ppc64le"}, "default"),
]


@pytest.mark.parametrize(("driver", "capabilities", "more", "label"), TABLE)
def test_the_newest_build_that_fits(
    driver: str, capabilities: str, more: dict[str, Any], label: str
) -> None:
    here = machine(driver, capabilities, **more)
    choice = build.choose("2.13.0", here)
    assert choice.label == label
    assert choice.folder == (None if label == "default" else label)
    assert choice.useful == bool(capabilities)
    assert choice.words
    assert "\n" not in choice.words
    assert choice == build.choose("2.13.0", here)


@pytest.mark.parametrize(
    ("version", "driver", "capabilities", "label"),
    [
        ("2.11.0", "550.54.15", "9.0", "cu128"),
        ("2.11.0", "570.86.10", "12.0", "cu128"),
        ("2.11.0", "570.86.10", "7.0", "cu126"),
        ("2.11.0", "570.86.10", "7.0 12.0", "cu128"),
        ("2.11.0", "580.65.06", "12.0", "cu130"),
        ("2.12.1", "550.54.15", "9.0", "cu126"),
        ("2.12.1", "570.86.10", "12.0", "cpu"),
        ("2.14.0", "580.65.06", "9.0", "default"),
    ],
)
def test_versions_have_other_builds(
    version: str, driver: str, capabilities: str, label: str
) -> None:
    assert build.choose(version, machine(driver, capabilities)).label == label


def test_the_builds_of_the_tested_version_are_known() -> None:
    lines = (ROOT / "bin" / "constraints.txt").read_text().splitlines()
    (pin,) = [line for line in lines if line.startswith("torch==")]
    assert build.builds_of(pin.partition("==")[2])


DRIVERS = ("470.57", "525.60.13", "535.1", "570.1", "580.65.06", "600.1")
KINDS = ("5.2", "6.1", "7.0", "7.5", "8.9", "9.0", "10.3", "12.0")


@pytest.mark.parametrize("version", build.BUILDS)
@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
def test_no_other_build_runs_on_more_cards(version: str, processor: str) -> None:
    """All pairs of cards under all drivers."""
    for driver, *pair in itertools.product(DRIVERS, KINDS, KINDS):
        here = machine(driver, " ".join(pair), processor=processor)
        label = build.choose(version, here).label
        runs = {b.label: len(build.served(b, here)) for b in build.builds_of(version)}
        best = max(runs.values())
        newest = [name for name, number in runs.items() if number == best][-1]
        assert label == (newest if best else "cpu")


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (machine("550.54.15", "9.0 9.0"), ("2 x NVIDIA H100", "9.0", "550.54.15", "CUDA 12.6")),
        (machine("470.57", "7.0"), ("Tesla V100", "470.57", "driver 525 or newer", "the CPU")),
        (machine("570.86", "12.0"), ("RTX 5090", "driver 580 or newer", "the CPU")),
        (machine("580.65.06", "3.7"), ("Tesla K80", "3.7", "no build of torch 2.13.0", "the CPU")),
        (machine("580.65.06", "7.0 12.0"), ("CUDA 13.0, which has no code for Tesla V100",)),
        (machine("", "?", trouble="it hangs"), ("does not answer (it hangs)", "the CPU")),
        (machine("", "", trouble="it hangs"), ("no NVIDIA GPU (it hangs)", "the CPU")),
        (machine("", "", amd=True), ("an AMD GPU", "GALAMP_TORCH", "the CPU")),
        (machine("540.4.0", "8.7", **JETSON), ("Jetson", "GALAMP_TORCH", "the CPU")),
        (machine("", "", **JETSON), ("Jetson", "GALAMP_TORCH", "the CPU")),
    ],
)
def test_what_the_user_is_told(here: Any, words: tuple[str, ...]) -> None:
    told = build.choose("2.13.0", here).words
    assert [word for word in words if word not in told] == []


# What nvidia-smi says

MISSING = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running."
)
H100 = build.Card("NVIDIA H100 80GB HBM3", (9, 0))


@pytest.mark.parametrize(
    ("answer", "driver", "cards", "trouble"),
    [
        ("550.54.15, 9.0, NVIDIA H100 80GB HBM3\n" * 2, "550.54.15", (H100, H100), ""),
        ("560.94, 8.9, NVIDIA GeForce RTX 4090\r\n", "560.94",
         (build.Card("NVIDIA GeForce RTX 4090", (8, 9)),), ""),
        ("550.54.15, [N/A], A, of two\n", "550.54.15", (build.Card("A, of two"),), ""),
        ("[N/A], [Not Supported], Orin (nvgpu)\n", "", (build.Card("Orin (nvgpu)"),), ""),
        ("580.65.06, 12.0, NVIDIA GeForce RTX 5090", "580.65.06",
         (build.Card("NVIDIA GeForce RTX 5090", (12, 0)),), ""),
        ("No devices were found\n", "", (), ""),
        ("", "", (), ""),
        (MISSING, "", (), MISSING.partition(".")[0]),
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.1",
         "", (), "Failed to initialize NVML: Driver/library version mismatch"),
        ('Field "compute_cap" is not a valid field to query.\n\n', "", (),
         'Field "compute_cap" is not a valid field to query'),
        ("550.54.15, 9.0, NVIDIA H100 80GB HBM3\n"
         "Unable to determine the device handle for GPU0000:20:00.0: Unknown Error\n",
         "550.54.15", (H100,),
         "Unable to determine the device handle for GPU0000:20:00.0: Unknown Error"),
    ],
)  # fmt: skip
def test_answers_of_nvidia_smi(
    answer: str, driver: str, cards: tuple[Any, ...], trouble: str
) -> None:
    assert build.parse(answer) == (driver, cards, trouble)


def test_a_long_complaint_is_cut() -> None:
    assert len(build.parse("x" * 5000)[2]) == 200


# The machine


class Box:
    """A folder in place of / and a PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.path = folder / "root", folder / "path"
        self.path.mkdir()
        (self.root / "dev").mkdir(parents=True)
        monkeypatch.setenv("PATH", str(self.path))

    def smi(self, script: str) -> None:
        file = self.path / "nvidia-smi"
        file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        file.chmod(0o755)

    def put(self, name: str, text: str = "") -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def driver(self, text: str, *models: str) -> None:
        self.put("proc/driver/nvidia/version", text)
        for number, model in enumerate(models):
            told = f"Model: \t\t {model}\nIRQ:   \t\t 16\n"
            self.put(f"proc/driver/nvidia/gpus/0000:{number:02}:00.0/information", told)

    def inspect(self, limit_s: float = 10.0) -> Any:
        found = build.inspect(self.root, limit_s=limit_s)
        uname = os.uname()
        assert (found.system, found.processor) == (uname.sysname, uname.machine)
        return found


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, monkeypatch)


CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (me@box)\n"
)


def test_a_machine_without_anything(box: Box) -> None:
    found = box.inspect()
    assert (found.driver, found.cards, found.trouble) == ("", (), "")
    assert not found.tegra
    assert not found.amd


def test_other_makers_are_seen(box: Box) -> None:
    box.put("dev/kfd")
    box.put("etc/nv_tegra_release", "# R36\n")
    found = box.inspect()
    assert found.tegra
    assert found.amd


def test_nvidia_smi_is_asked(box: Box, tmp_path: Path) -> None:
    box.smi(f'echo "$*" > {tmp_path}/asked; echo "550.54.15, 9.0, NVIDIA H100 80GB HBM3"')
    found = box.inspect()
    assert (found.driver, found.cards, found.trouble) == ("550.54.15", (H100,), "")
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader"]


def test_windows_has_its_own_place_for_it(box: Box) -> None:
    box.put("usr/lib/wsl/lib/nvidia-smi", "#!/bin/sh\necho '560.94, 8.9, NVIDIA L4'\n")
    (box.root / "usr/lib/wsl/lib/nvidia-smi").chmod(0o755)
    assert box.inspect().cards == (build.Card("NVIDIA L4", (8, 9)),)


@pytest.mark.parametrize(("text", "version"), [(CLOSED, "535.183.01"), (OPEN, "550.54.15")])
def test_without_it_the_driver_is_read(box: Box, text: str, version: str) -> None:
    box.put("dev/nvidia0")
    box.put("dev/nvidiactl")
    box.put("dev/nvidia-uvm")
    box.driver(text, "Tesla T4")
    found = box.inspect()
    assert (found.driver, found.cards) == (version, (build.Card("Tesla T4"),))


def test_a_container_without_the_devices_has_no_gpu(box: Box) -> None:
    """Though /proc shows the driver of its host and all cards."""
    box.driver(OPEN, "Tesla T4", "Tesla T4")
    assert box.inspect().cards == ()
    box.put("dev/nvidia1")
    assert box.inspect().cards == (build.Card("NVIDIA GPU"),)


def test_no_devices_is_an_answer(box: Box) -> None:
    box.put("dev/nvidia0")
    box.driver(OPEN, "Tesla T4")
    box.smi("echo No devices were found; exit 6")
    assert box.inspect().cards == ()


@pytest.mark.parametrize(
    "script",
    [
        "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
        "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2",
        "exit 1",
        "kill -9 $$",
    ],
)
def test_a_failing_nvidia_smi_is_no_verdict(box: Box, script: str) -> None:
    box.smi(script)
    found = box.inspect()
    assert found.cards == ()
    assert found.trouble
    box.put("dev/nvidia0")
    box.driver(CLOSED, "Tesla T4")
    found = box.inspect()
    assert (found.driver, found.cards) == ("535.183.01", (build.Card("Tesla T4"),))


def test_one_that_cannot_be_started(box: Box) -> None:
    box.smi("")
    (box.path / "nvidia-smi").write_bytes(b"\x7fELF of another processor")
    assert "Exec format error" in box.inspect().trouble


@pytest.mark.real
def test_a_hanging_nvidia_smi_has_a_deadline(box: Box, tmp_path: Path) -> None:
    """It and what it has started are ended, and the driver is read."""
    box.put("dev/nvidia0")
    box.driver(CLOSED, "Tesla T4")
    box.smi(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    started_s = time.monotonic()
    found = box.inspect(limit_s=1.0)
    assert time.monotonic() - started_s < 300
    assert found.trouble == "nvidia-smi did not answer within 1 s"
    assert (found.driver, found.cards) == ("535.183.01", (build.Card("Tesla T4"),))
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    give_up_s = time.monotonic() + 60
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < give_up_s, "what it has started still runs"
        time.sleep(0.01)


def test_a_set_up_that_is_stopped_does_not_wait_for_it(box: Box) -> None:
    box.smi("sleep 600")

    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.inspect(box.root, stopped)
