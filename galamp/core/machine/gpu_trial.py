"""GPU trial: a short-lived process that tries each GPU in its own child, and reports the results.

Started by `gpus.try_gpus`, by way of `reaper.run_contained`, with its request from JSON. On
standard output it answers with one line of JSON per GPU: `index` and `facts`, or `index` and
`failure`, torch's own words. It exists because a GPU that fails takes the context, and maybe the
process, with it; and because the supervisor itself never makes a context, which takes half a
gigabyte.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from typing import Any, NoReturn

from galamp.core.errors import EXIT_FAILURE, EXIT_OK
from galamp.core.processes.exit_reports import signal_name

MARGIN_S = 30
"""The trial ends itself this long after its timeout, if no other process has ended it."""
POLL_S = 0.01
ELEMENTS = 4096


def main(request: dict[str, Any]) -> NoReturn:
    """Try all GPUs of one request at the same time, answer, and exit."""
    signal.alarm(int(request["timeout_s"]) + MARGIN_S)
    # Only answers may go to standard output: what libraries print goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    # All children write to this file; only appends are atomic there.
    fcntl.fcntl(answer, fcntl.F_SETFL, os.O_APPEND)
    import torch  # once, for all children; each child initialises CUDA itself

    torch.set_num_threads(1)
    until_s = time.monotonic() + request["gpu_timeout_s"]  # without the time to load torch
    children = {_start(index, answer): index for index in request["indices"]}
    while children and time.monotonic() < until_s:
        _reap(children, answer)
        time.sleep(POLL_S)
    for pid, index in children.items():
        os.kill(pid, signal.SIGKILL)
        _write_line(
            answer, index, failure=f"it did not answer within {request['gpu_timeout_s']:g} s"
        )
    os._exit(EXIT_OK)  # does not wait for a child that the kernel cannot end


def _start(index: int, answer: int) -> int:
    """Fork the child that tries GPU number `index`; return its process id."""
    child = os.fork()
    if child:
        return child
    code = EXIT_FAILURE
    try:
        _write_line(answer, index, facts=try_gpu(index))
        code = EXIT_OK
    except Exception as error:
        _write_line(answer, index, failure=str(error) or type(error).__name__)
        code = EXIT_OK
    finally:
        os._exit(code)


def _reap(children: dict[int, int], answer: int) -> None:
    """Reap children that have ended; for those without an answer, report how they ended."""
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            continue
        index, code = children.pop(pid), os.waitstatus_to_exitcode(status)
        if code < 0:
            _write_line(answer, index, failure=f"its trial was ended by {signal_name(-code)}")
        elif code:
            _write_line(answer, index, failure=f"its trial ended with exit code {code}")


def _write_line(answer: int, index: int, **found: Any) -> None:
    """Write one line, in one call: all children write to the same file."""
    os.write(answer, json.dumps({"index": index} | found).encode() + b"\n")


def try_gpu(index: int) -> dict[str, Any]:
    """Compute on a GPU, and copy from and to it; return its facts.

    Raises:
        RuntimeError: it cannot be used.
    """
    import torch

    torch.cuda.set_device(index)
    host = torch.arange(ELEMENTS, dtype=torch.float32)
    there = host.to(f"cuda:{index}")
    back = (there * 2 + 1).cpu()
    if not torch.equal(back, host * 2 + 1):
        raise RuntimeError("it computes wrong numbers: 2x + 1 came back as something else")
    # Typed only in some versions of torch; the attributes depend on the driver.
    known: Any = torch.cuda.get_device_properties(index)
    return {
        "name": str(known.name),
        "uuid": str(getattr(known, "uuid", "")),
        "pci": _address(known),
        "memory_bytes": int(known.total_memory),
    }


def _address(known: Any) -> str:
    """Return the PCI address of a GPU as in sysfs, such as 0000:3b:00.0; "" if it is unknown."""
    parts = [getattr(known, f"pci_{name}_id", None) for name in ("domain", "bus", "device")]
    if None in parts:
        return ""
    domain, bus, device = (int(part or 0) for part in parts)
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"
