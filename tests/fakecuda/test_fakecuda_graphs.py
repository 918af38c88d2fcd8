"""CUDA graphs of the GPU made of host memory: they do, and refuse, what real ones would here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.fakecuda.inside import counts, on_gpus, reset_counts

pytestmark = [pytest.mark.real]

REFUSED = "operation not permitted when stream is capturing"
SPOILED = "operation failed due to a previous error during capture"


def captured(
    work: Callable[[], object], generator: torch.Generator | None = None
) -> Callable[[], None]:
    """Capture `work`; returns the replay."""
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def locked(count: int) -> Tensor:
    return torch.zeros(count, pin_memory=True)


# Replays


@on_gpus()
def test_nothing_is_done_before_the_replay_and_all_of_it_then() -> None:
    x, total, host = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda"), locked(3)

    def work() -> None:
        total.add_(x * 2.0)
        host.copy_(total, non_blocking=True)

    replay = captured(work)
    assert (total.tolist(), host.tolist()) == ([0.0] * 3, [0.0] * 3)
    replay()
    assert (total.tolist(), host.tolist()) == ([2.0] * 3, [2.0] * 3)
    x.fill_(10.0)  # the memory is the same, what is in it is not
    replay()
    assert (total.tolist(), host.tolist()) == ([22.0] * 3, [22.0] * 3)


@on_gpus()
def test_a_replay_is_one_launch_whatever_is_in_it() -> None:
    x, host = torch.ones(3, device="cuda"), locked(3)

    def work() -> None:
        x.copy_(host, non_blocking=True)
        for _ in range(5):
            x.add_(1.0)
        host.copy_(x, non_blocking=True)

    reset_counts()
    replay = captured(work)
    numbers = counts()
    assert (numbers["kernels"], numbers["to_device"], numbers["to_host"]) == (0, 0, 0)
    reset_counts()
    replay()
    numbers = counts()
    assert numbers.pop("graphs") == 1
    assert not any(numbers.values()), numbers
    assert host.tolist() == [5.0] * 3


@on_gpus()
def test_a_page_locked_source_is_read_at_the_replay() -> None:
    source, target = locked(2), torch.zeros(2, device="cuda")
    replay = captured(lambda: target.copy_(source, non_blocking=True))
    for number in (3.0, 5.0):
        source.fill_(number)
        replay()
        assert target.tolist() == [number] * 2


@on_gpus()
def test_a_replay_computes_what_the_work_itself_would() -> None:
    """Views, results in place and in `out`, lists, several results, a backward pass."""

    def parts(device: str) -> tuple[Callable[[], None], dict[str, Tensor]]:
        torch.manual_seed(1)
        data = {
            "x": torch.randn(6, 4),
            "w": torch.randn(5, 4),
            "grad": torch.zeros(5, 4),
            "square": torch.zeros(5, 4),
            "row": torch.tensor([2]),
            "out": torch.zeros(4),
            "best": torch.zeros(6, dtype=torch.int64),
        }
        data = {name: tensor.to(device) for name, tensor in data.items()}
        weight = torch.nn.Parameter(data["w"])
        weight.grad = data["grad"]
        steps, one = torch.tensor(1e9).to(device), torch.tensor(1.0).to(device)

        def work() -> None:
            data["grad"].zero_()
            logits = torch.nn.functional.linear(data["x"].view(2, 3, 4).flatten(0, 1), weight)
            best, at = logits.max(-1)
            (best.square() + logits.unbind(1)[0]).sum().backward()  # type: ignore[no-untyped-call]
            data["best"][1:].copy_(at[1:])
            torch.add(data["x"].index_select(0, data["row"])[0], 1.0, out=data["out"])
            with torch.no_grad():
                torch._fused_adam_(
                    *([weight], [data["grad"]], [data["grad"]], [data["square"]], [], [steps]),
                    lr=0.1, beta1=0.0, beta2=0.9, weight_decay=0.0, eps=1e-5, amsgrad=False,
                    maximize=False, grad_scale=one, found_inf=one - 1.0,
                )  # fmt: skip

        return work, data

    plain, expected = parts("cpu")
    work, found = parts("cuda")
    replay = captured(work)
    for number in range(3):
        for name, tensor in found.items():
            torch.testing.assert_close(tensor.cpu(), expected[name], rtol=0, atol=1e-6)
        for data in (found, expected):
            data["x"].mul_(1.1), data["row"].fill_(number)
        plain(), replay()
    assert not torch.equal(expected["w"], parts("cpu")[1]["w"])


@on_gpus()
def test_graphs_take_turns() -> None:
    x = torch.ones(1, device="cuda")
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    replays = []
    for step in (lambda: x.add_(1.0), lambda: x.mul_(2.0)):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            step()
        assert graph.pool() == pool
        replays.append(graph.replay)
    add, double = replays
    add(), double(), double(), add()
    assert x.item() == 9.0


@on_gpus(hold=1)
def test_a_replay_is_late_until_it_is_waited_for() -> None:
    source, host = locked(2), locked(2)
    x, target = torch.zeros(2, device="cuda"), torch.zeros(2, device="cuda")

    def work() -> None:
        target.copy_(x)
        target.add_(source.to("cuda", non_blocking=True))
        host.copy_(target, non_blocking=True)

    replay = captured(work)
    x.copy_(locked(2).fill_(1.0), non_blocking=True)
    source.fill_(10.0)
    replay()
    source[1] = 20.0  # a race of the host with the replay
    assert host.tolist() == [0.0, 0.0], "nobody has waited"
    torch.cuda.current_stream().synchronize()
    assert host.tolist() == [11.0, 21.0]
    replay()
    assert (target + 0).tolist() == [11.0, 21.0], "a later kernel of the stream finds it done"


@on_gpus(fails_at="1:aten::sigmoid:2")
def test_a_kernel_of_a_graph_may_fail() -> None:
    torch.cuda.set_device(1)
    x = torch.zeros(1, device="cuda")
    replay = captured(x.sigmoid)
    replay()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        replay()


# Captures


def attempts() -> dict[str, Callable[[Tensor], object]]:
    event, aside = torch.cuda.Event(), torch.cuda.Stream()
    event.record()
    return {
        "a number": lambda x: x[0].item(),
        "a list": lambda x: x.tolist(),
        "a choice": lambda x: bool(x.any()),
        "a copy to the host": lambda x: x.cpu(),
        "a copy to the device": lambda x: x.copy_(torch.ones(3)),
        "a new tensor": lambda x: torch.tensor([1.0], device="cuda"),
        "indices of the host": lambda x: x[torch.tensor([0, 2])],
        "a number of the host": lambda x: torch.where(x > 0, x, torch.tensor(1.0)),
        "a shape": lambda x: x.nonzero(),
        "the device": lambda x: torch.cuda.synchronize(),
        "the stream": lambda x: torch.cuda.current_stream().synchronize(),
        "another stream": lambda x: aside.synchronize(),
        "an event": lambda x: event.synchronize(),
        "a question": lambda x: event.query(),
        "another question": lambda x: torch.cuda.current_stream().query(),
        "page-locked memory": lambda x: torch.zeros(3, pin_memory=True),
    }


@on_gpus()
def test_what_the_host_would_wait_for_is_refused_and_spoils_the_capture() -> None:
    x, stream = torch.ones(3, device="cuda"), torch.cuda.current_stream()
    for name, attempt in attempts().items():
        told = []

        def work(attempt: Callable[[Tensor], object] = attempt, told: list[str] = told) -> None:
            x.add_(1.0)
            try:
                attempt(x)
            except RuntimeError as error:
                told.append(str(error))

        with pytest.raises(RuntimeError, match=SPOILED):
            captured(work)
        assert REFUSED in told[0], name
        assert torch.cuda.current_stream() != stream, f"{name}: as torch leaves it"
        torch.cuda.set_stream(stream)
        assert x.tolist() == [1.0] * 3, name


@on_gpus()
def test_copies_in_a_capture_need_page_locked_memory() -> None:
    x, host = torch.ones(3, device="cuda"), torch.zeros(3)
    for copy in (
        lambda: x.copy_(host, non_blocking=True),
        lambda: host.copy_(x, non_blocking=True),
    ):
        with pytest.raises(RuntimeError, match="unless the CPU tensor is pinned"):
            captured(copy)


@on_gpus()
def test_a_capture_has_a_stream_of_its_own() -> None:
    x, aside = torch.ones(3, device="cuda"), torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="captured on a non-default stream"):
        graph.capture_begin()
    main = torch.cuda.current_stream()

    def elsewhere(stream: torch.cuda.Stream) -> None:
        with torch.cuda.stream(stream):
            x.add_(1.0)

    def joined(stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream())

    for stream in (main, aside):
        with pytest.raises(RuntimeError, match="another stream than the one that is captured"):
            captured(lambda stream=stream: elsewhere(stream))
    with pytest.raises(RuntimeError, match="legacy stream depend on a capturing"):
        captured(lambda: joined(main))
    assert not torch.cuda.is_current_stream_capturing()
    seen = []
    captured(lambda: seen.append((torch.cuda.is_current_stream_capturing(), x.add_(1.0))))
    assert seen[0][0]
    assert x.tolist() == [1.0] * 3


@on_gpus(no_graphs=1)
def test_a_capture_may_be_refused_altogether() -> None:
    x, before = torch.ones(3, device="cuda"), torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="operation not supported"):
        captured(lambda: x.add_(1.0))
    torch.cuda.set_stream(before)
    assert (x + 1.0).tolist() == [2.0] * 3


# Generators in graphs


def draws(generator: torch.Generator, times: int) -> list[list[float]]:
    return [torch.rand(2, device="cuda", generator=generator).tolist() for _ in range(times)]


def place(generator: torch.Generator) -> list[int]:
    """A generator's seed and offset."""
    found: list[int] = generator.get_state().numpy().view(np.uint64).tolist()
    return found


@on_gpus()
def test_every_replay_draws_on_from_where_the_generator_is() -> None:
    mine, plain = (torch.Generator("cuda").manual_seed(5) for _ in range(2))
    expected = draws(plain, 8)
    out = torch.zeros(2, 2, device="cuda")

    def work() -> None:
        for row in out:
            row.copy_(torch.rand(2, device="cuda", generator=mine))

    assert draws(mine, 1) == expected[:1]
    replay = captured(work, mine)
    assert place(mine) == [5, 4], "the capture has drawn nothing"
    replay()
    assert out.tolist() == expected[1:3]
    assert draws(mine, 1) == expected[3:4], "in between without a graph"
    saved = mine.get_state()
    replay()
    assert out.tolist() == expected[4:6]
    assert place(mine) == [5, 24]
    mine.set_state(saved)
    replay()
    assert out.tolist() == expected[4:6], "a state that was set after the capture"
    assert place(mine) == place(mine.clone_state()) == [5, 24]
    mine.manual_seed(6)
    replay()
    assert out.tolist() == draws(torch.Generator("cuda").manual_seed(6), 2)


@on_gpus()
def test_a_generator_has_to_be_registered() -> None:
    generator = torch.Generator("cuda").manual_seed(5)
    with pytest.raises(RuntimeError, match=SPOILED) as told:
        captured(lambda: torch.rand(2, device="cuda", generator=generator))
    assert "unexpected CUDA generator used during capture" in str(told.value.__context__)
    for call in (generator.get_state, generator.seed, generator.initial_seed):
        with pytest.raises(RuntimeError, match="during CUDA graph capture"):
            captured(call)


@on_gpus()
def test_a_capture_that_fails_keeps_the_generator() -> None:
    generator = torch.Generator("cuda").manual_seed(5)
    stream = torch.cuda.current_stream()

    def work() -> None:
        torch.rand(2, device="cuda", generator=generator).tolist()

    with pytest.raises(RuntimeError, match=SPOILED):
        captured(work, generator)
    torch.cuda.set_stream(stream)
    with pytest.raises(RuntimeError, match="outside graph capture encountered unexpectedly"):
        draws(generator, 1)
    twin = torch.Generator("cuda").set_state(generator.get_state())
    assert draws(twin, 1) == draws(torch.Generator("cuda").manual_seed(5), 1)
