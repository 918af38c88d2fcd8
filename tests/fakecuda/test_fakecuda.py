"""The GPU made of host memory, which other tests rely on: it does what a real one would do here."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakecuda.inside import counts, on_gpus, reset_counts

pytestmark = pytest.mark.real


def locked(*shape: int) -> torch.Tensor:
    """Return zeros in page-locked memory of the host."""
    memory = torch.zeros(shape)
    assert torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0) == 0
    return memory


# Devices


@on_gpus(devices=2)
def test_there_are_as_many_devices_as_asked_for() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == torch.accelerator.device_count() == 2
    torch.cuda.set_device("cuda:1")
    assert torch.cuda.current_device() == 1
    assert torch.zeros(1, device="cuda").device == torch.device("cuda:1")
    for wrong in (2, 9):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.zeros(1, device=f"cuda:{wrong}")
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.cuda.set_device(wrong)


@on_gpus()
def test_devices_are_not_mixed() -> None:
    here, there, host = (torch.ones(3, device=name) for name in ("cuda:0", "cuda:1", "cpu"))
    matrix = torch.ones(3, 3, device="cuda:0")
    for other in (there, host):
        for mix in (
            lambda x: here + x,
            lambda x: here.add_(x),
            lambda x: torch.cat((here, x)),
            lambda x: torch.where(x > 0, here, here),
            lambda x: torch.mul(here, 2.0, out=x),
            lambda x: torch._foreach_add([here], [x]),
            lambda x: matrix @ x,
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mix(other)
    assert (here + torch.tensor(1.0)).tolist() == [2.0] * 3, "a number of the host may come along"
    assert here[torch.tensor([0, 2])].tolist() == [1.0] * 2, "and so may indices"
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        here.numpy()


@on_gpus()
def test_it_computes_what_the_cpu_does() -> None:
    x = torch.linspace(-2, 2, 24).view(2, 3, 4)
    weights = torch.linspace(-1, 1, 20).view(5, 4)

    def values(device: str) -> list[torch.Tensor]:
        inputs = x.to(device).requires_grad_()
        layer = weights.to(device)
        out = torch.nn.functional.linear(inputs, layer).softmax(-1)
        best, at = out.max(-1)
        best.square().sum().backward()  # type: ignore[no-untyped-call]
        assert inputs.grad is not None
        grown = torch.add(inputs.detach(), 1.0, out=torch.empty(0, device=device))
        chosen = x.to(device)[x.to(device) > 0]
        longer = torch.ones(2, device=device).resize_(6)[:2]
        return [
            out,
            best,
            at,
            inputs.grad,
            grown,
            chosen,
            longer,
            inputs.detach()[:, 1:, ::2].sort(1)[0],
        ]

    for mine, theirs in zip(values("cuda:2"), values("cpu"), strict=True):
        assert mine.device == torch.device("cuda:2")
        torch.testing.assert_close(mine.cpu(), theirs, rtol=0, atol=1e-6)


@on_gpus()
def test_cuda_cannot_be_used_after_a_fork_in_the_child() -> None:
    torch.zeros(1, device="cuda")
    child = os.fork()
    if not child:
        try:
            torch.zeros(1, device="cuda")
        except RuntimeError as error:
            os._exit(7 if "forked subprocess" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# Counts


@on_gpus()
def test_kernels_copies_and_waits_are_counted() -> None:
    def counted() -> tuple[int, ...]:
        numbers = counts()
        reset_counts()
        assert numbers.pop("graphs") == 0
        return tuple(numbers.values())

    reset_counts()
    x = torch.zeros(4).to("cuda:0")
    assert counted() == (0, 1, 0, 0, 0, 1), "a copy to the device waits"
    y = x + x
    y.view(2, 2)[0].mul_(2.0)
    assert counted() == (2, 0, 0, 0, 0, 0), "views launch nothing"
    y.clone()
    assert counted() == (1, 0, 0, 0, 0, 0), "copies on one device are kernels"
    y.to("cuda:1")
    assert counted() == (0, 0, 0, 1, 0, 0)
    y.cpu()
    assert counted() == (0, 0, 1, 0, 0, 1)
    float(y[0])
    assert counted() == (1, 0, 0, 0, 0, 1)
    y.nonzero()
    assert counted() == (1, 0, 0, 0, 0, 1)
    torch.cuda.synchronize()
    torch.cuda.Stream("cuda:0").synchronize()
    assert counted() == (0, 0, 0, 0, 0, 2)
    x.copy_(torch.zeros(4), non_blocking=True)
    assert counted() == (0, 1, 0, 0, 1, 0)
    torch.zeros(4).copy_(x, non_blocking=True)
    assert counted() == (0, 0, 1, 0, 0, 1), "CUDA waits if memory is not page-locked"
    locked(4).copy_(x, non_blocking=True)
    assert counted() == (0, 0, 1, 0, 1, 0)


# The generator


@on_gpus()
def test_a_generator_is_a_seed_and_an_offset() -> None:
    def draw(generator: torch.Generator) -> list[float]:
        numbers: list[float] = torch.rand(3, device="cuda:1", generator=generator).tolist()
        return numbers

    first, second = (torch.Generator("cuda:1").manual_seed(5) for _ in range(2))
    assert first.get_state().numpy().view(np.uint64).tolist() == [5, 0]
    once, twice = draw(first), draw(first)
    assert once != twice
    state = first.get_state()
    assert (state.numel(), state.device.type) == (16, "cpu")
    again = draw(first)
    second.set_state(state)
    assert draw(second) == again
    for other in (torch.Generator().get_state(), state[:8]):
        with pytest.raises(RuntimeError, match="RNG state is wrong size"):
            second.set_state(other)
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        draw(torch.Generator())
    torch.manual_seed(3)
    numbers = torch.rand(3, device="cuda:0").tolist()
    torch.manual_seed(3)
    assert torch.rand(3, device="cuda:0").tolist() == numbers


# Copies that are held back


@on_gpus(hold=1)
def test_a_copy_to_the_device_is_late_until_its_stream_is_waited_for() -> None:
    for wait in (
        lambda stream, event: torch.cuda.current_stream().wait_stream(stream),
        lambda stream, event: torch.cuda.current_stream().wait_event(event),
        lambda stream, event: event.wait(),
        lambda stream, event: event.synchronize(),
        lambda stream, event: stream.synchronize(),
        lambda stream, event: torch.cuda.synchronize(),
    ):
        source, target = locked(3), torch.zeros(3, device="cuda")
        source.fill_(1.0)
        stream, event = torch.cuda.Stream(), torch.cuda.Event()
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
            event.record()
        assert (target + 0).tolist() == [0.0] * 3, "nobody has waited"
        source[2] = 2.0  # a race of the host with the copy
        wait(stream, event)
        assert (target + 0).tolist() == [1.0, 1.0, 2.0]
        assert torch.cuda.cudart().cudaHostUnregister(source.data_ptr()) == 0


@on_gpus(hold=1)
def test_a_copy_to_the_host_is_late_until_it_is_waited_for() -> None:
    source, target = torch.ones(3, device="cuda"), locked(3)
    target.copy_(source, non_blocking=True)
    source.fill_(2.0)  # in the same stream, and so after the copy
    assert target.tolist() == [0.0] * 3, "nobody has waited"
    torch.cuda.current_stream().synchronize()
    assert target.tolist() == [1.0] * 3


@on_gpus(hold=1)
def test_an_event_stands_for_what_came_before_it() -> None:
    sources, targets = locked(2, 3).fill_(1.0), torch.zeros(2, 3, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        targets[0].copy_(sources[0], non_blocking=True)
        event = torch.cuda.current_stream().record_event()
        targets[1].copy_(sources[1], non_blocking=True)
    event.synchronize()
    assert (targets + 0).tolist() == [[1.0] * 3, [0.0] * 3]
    assert not stream.query()
    assert stream.query()
    assert (targets + 0).tolist() == [[1.0] * 3] * 2


@on_gpus(hold=1)
def test_kernels_of_a_stream_see_what_was_copied_in_it() -> None:
    source, target = locked(3).fill_(1.0), torch.zeros(3, device="cuda")
    target.copy_(source, non_blocking=True)
    assert (target + 0).tolist() == [1.0] * 3


# Faults


@on_gpus(host_register=801)
def test_a_refused_registration_is_told_once_more_by_the_next_kernel() -> None:
    memory, x = torch.zeros(3), torch.zeros(3, device="cuda")
    assert torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0) == 801
    with pytest.raises(RuntimeError, match="operation not supported"):
        x + 1
    assert (x + 1).tolist() == [1.0] * 3


@on_gpus()
def test_memory_is_not_registered_twice() -> None:
    memory, runtime = locked(8), torch.cuda.cudart()
    assert memory.is_pinned()
    assert not torch.zeros(8).is_pinned()
    assert torch.zeros(8).pin_memory().is_pinned()
    assert runtime.cudaHostRegister(memory[4:].data_ptr(), 16, 0) == 712
    assert runtime.cudaHostUnregister(memory.data_ptr()) == 0
    assert runtime.cudaHostUnregister(memory.data_ptr()) == 713


@on_gpus(old_driver=1)
def test_a_driver_that_is_too_old() -> None:
    torch.cuda.set_device(0)
    with pytest.raises(RuntimeError, match="driver on your system is too old"):
        torch.cuda.set_device("cuda:1")


@on_gpus(no_kernel=1)
def test_a_gpu_that_torch_is_not_built_for() -> None:
    assert torch.zeros(1, device="cuda:0").tolist() == [0.0]
    with pytest.raises(RuntimeError, match="no kernel image is available for execution"):
        torch.zeros(1, device="cuda:1")


@on_gpus(memory="1:1048576")
def test_a_device_may_run_out_of_memory() -> None:
    kept = torch.empty(1000, 200, device="cuda:1")
    assert torch.cuda.mem_get_info(1) == (1048576 - 800_000, 1048576)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        kept + 1
    del kept
    assert torch.empty(1000, 200, device="cuda:1").numel() == 200_000
    assert torch.empty(2000, 200, device="cuda:0").numel() == 400_000


@on_gpus(fails_at="1:aten::sigmoid:2")
def test_a_device_may_fail_later() -> None:
    x, y = torch.zeros(1, device="cuda:1"), torch.zeros(1, device="cuda:0")
    x.sigmoid(), y.sigmoid(), y.sigmoid(), y.sigmoid()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            x.sigmoid()


@on_gpus(unplugged="/dev/null")
def test_a_device_may_be_gone(tmp_path: Path) -> None:
    x, y = torch.zeros(1, device="cuda:1"), torch.zeros(1, device="cuda:0")
    file = tmp_path / "gone"
    os.environ["FAKE_CUDA_UNPLUGGED"] = str(file)
    x + 1
    file.write_text("3 1")
    for use in (lambda: x + 1, x.cpu, lambda: torch.cuda.synchronize(1), lambda: x.new_zeros(1)):
        with pytest.raises(RuntimeError, match="CUDA error"):
            use()
    y + 1
