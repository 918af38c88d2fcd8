"""The machine as sysfs tells of it: cores and NUMA nodes of processors, nodes of PCI devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from galamp.core.machine.machine import (
    Cpu,
    inspect_cpus,
    inspect_machine,
    lacks_bf16,
    node_of_pci,
    parse_list,
)
from tests.support.sysfs import Socket, build


def test_siblings_and_nodes_are_read(tmp_path: Path) -> None:
    build(tmp_path, [Socket(cores=2), Socket(cores=2)], threads=2)
    assert inspect_cpus([0, 3, 4, 7], tmp_path) == (
        Cpu(0, (0, 0), 0), Cpu(3, (1, 1), 1), Cpu(4, (0, 0), 0), Cpu(7, (1, 1), 1),
    )  # fmt: skip


def test_a_kernel_that_tells_nothing_has_plain_processors(tmp_path: Path) -> None:
    found = inspect_cpus([2, 5], tmp_path)
    assert [cpu.number for cpu in found] == [2, 5]
    assert len({cpu.core for cpu in found}) == 2
    assert {cpu.node for cpu in found} == {0}


@pytest.mark.parametrize("text", ["", "x", "-1", "0-", "9" * 5000, "0-99999999999"])
def test_what_is_no_list_counts_as_none(text: str, tmp_path: Path) -> None:
    build(tmp_path, [Socket(cores=2), Socket(cores=2)], threads=1)
    (tmp_path / "devices/system/node/node1/cpulist").write_text(text)
    (tmp_path / "devices/system/cpu/cpu2/topology/core_id").write_text(text)
    found = inspect_cpus([0, 1, 2, 3], tmp_path)
    assert {cpu.node for cpu in found} == {0}
    assert len({cpu.core for cpu in found}) == 4


@pytest.mark.parametrize(
    ("text", "numbers"), [("0\n", [0]), ("0-2,8\n", [0, 1, 2, 8]), ("\n", []), ("3,1", [3, 1])]
)
def test_lists_of_processors(text: str, numbers: list[int]) -> None:
    assert parse_list(text) == numbers


@pytest.mark.parametrize(("text", "node"), [("1\n", 1), ("-1\n", None), ("what", None)])
def test_the_node_of_a_pci_device(text: str, node: int | None, tmp_path: Path) -> None:
    device = tmp_path / "bus/pci/devices/0000:3b:00.0"
    device.mkdir(parents=True)
    (device / "numa_node").write_text(text)
    assert node_of_pci("0000:3B:00.0", tmp_path) == node
    assert node_of_pci("0000:3c:00.0", tmp_path) is None


@pytest.mark.parametrize(
    ("flags", "lacks"),
    [
        ("flags\t\t: fpu avx2 avx512f\n", True),
        ("flags\t\t: fpu avx512_bf16 avx2\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("", True),
    ],
)
def test_units_for_bf16_are_seen(flags: str, lacks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "model name\t: any\n" + flags)
    assert lacks_bf16() is lacks


def test_this_machine_has_cores_and_files() -> None:
    found = inspect_machine("cpu")
    assert found.cores == tuple(sorted(set(found.cores)))
    assert found.cores
    assert found.gpus == ()
    assert found.descriptors >= 64
