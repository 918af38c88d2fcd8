"""Two nodes behind a cable that is cut: nobody is told, both go on, and it heals by itself."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from galamp.gossip.cluster import PORTS
from tests.support.engine import STREAMS, command, end, wait_for
from tests.support.net_namespaces import ADDRESSES, Cabled, two_machines
from tests.support.scenarios import rows
from tests.system.test_cluster import events, last, node, until_mixing, until_reported

pytest.importorskip("zenoh")


def begin(cabled: Cabled, number: int, folder: Path, stack: ExitStack, transport: str) -> None:
    address = f"tcp/{ADDRESSES[0]}:7447"
    words = command(*node(address, number, transport), "--insecure-network", "--run-dir", folder)
    process = subprocess.Popen(cabled.within(number, words), text=True, **STREAMS)
    stack.callback(end, process)


def counted(folder: Path, name: str, more: int) -> None:
    """Wait until a count of a node has grown."""
    before = last(folder)[name]
    wait_for(lambda: last(folder)[name] > before + more, f"more {name}")


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("transport", sorted(PORTS))
def test_a_silent_cut_is_noticed_and_heals(transport: str, tmp_path: Path) -> None:
    folders = [tmp_path / "zero", tmp_path / "one"]
    with two_machines() as cabled, ExitStack() as stack:
        for number, folder in enumerate(folders):
            begin(cabled, number, folder, stack, transport)
        for folder in folders:
            until_mixing(folder)
            assert any("insecure" in line for line in events(folder))
        for times in (1, 2):
            cabled.cut()
            cut_s = time.monotonic()
            for number, folder in enumerate(folders):
                until_reported(folder, f"node {1 - number} is gone", times)
            noticed_s = time.monotonic() - cut_s
            for folder in folders:
                counted(folder, "learner0/updates", 20)
            time.sleep(max(0.0, 6.0 - (time.monotonic() - cut_s)))
            cabled.heal()
            healed_s = time.monotonic()
            for number, folder in enumerate(folders):
                until_reported(folder, f"node {1 - number} is there", times + 1)
            for folder in folders:
                counted(folder, "gossip/received", 20)
            passed_s = time.monotonic() - healed_s
            print(f"noticed after {noticed_s:.1f} s, mixed again after {passed_s:.1f} s")
        for folder in folders:
            counts = [row["global_step"] for row in rows(folder)]
            assert counts == sorted(counts)
            assert last(folder)["charts/restarts"] == 0, "nobody died of it"
            assert not any("refused" in line for line in events(folder))
