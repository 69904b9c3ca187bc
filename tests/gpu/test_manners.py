"""What the simulated device takes for the manners of a GPU. Where there is a GPU, it has them.

A statement that fails on a GPU alone is a fault of the simulation.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import adam
from waits import nobody_waits

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")
Operation = Callable[[Tensor], Any]  # of positive numbers [4, 4] on the device

WAITING: dict[str, Operation] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "tensor": lambda x: torch.tensor(1.0, device=DEVICE),
    "to": lambda x: torch.ones(3).to(DEVICE),
    "copy_": lambda x: x.copy_(torch.ones(4, 4)),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 1],
    "write by a mask": lambda x: x.index_put_([x > 1], x[0].repeat(4)),
    "index from the host": lambda x: x[torch.tensor([0, 1])],
    "masked_select": lambda x: x.masked_select(x > 1),
    "unique": lambda x: torch.unique(x),
    "bincount": lambda x: x.long().flatten().bincount(),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones_like(x[0]).long(), 0),
    "solve": lambda x: torch.linalg.solve(x @ x.T + x.diag().diag(), x),
    "inv": lambda x: torch.linalg.inv(x @ x.T + x.diag().diag()),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.T + 9 * x.diag().diag()),
    "eigh": lambda x: torch.linalg.eigh(x + x.T),
    "pinv": lambda x: torch.linalg.pinv(x),
    "symmetric pinv": lambda x: torch.linalg.pinv(x + x.T, hermitian=True),
    "svd": lambda x: torch.linalg.svd(x),
}
FREE: dict[str, Operation] = {
    "number of the host": lambda x: x * torch.tensor(2.0),
    "where with it": lambda x: torch.where(x > 1, x, torch.tensor(2.0)),
    "fill by a mask": lambda x: x.masked_fill_(x > 1, 0.0),
    "assign by a mask": lambda x: x.__setitem__(x > 1, 0.0),
    "index": lambda x: x[x.argmax(1)],
    "full": lambda x: torch.full((3,), 2.0, device=DEVICE),
    "sort": lambda x: x.sort(1),
    "topk": lambda x: x.topk(2),
    "solve_ex": lambda x: torch.linalg.solve_ex(x, x),
    "cholesky_ex": lambda x: torch.linalg.cholesky_ex(x),
    "qr": lambda x: torch.linalg.qr(x),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.argmax(1), 4),
    "pinned": lambda x: torch.ones(3).pin_memory().to(DEVICE, non_blocking=True),
    "late copy": lambda x: x.to("cpu", non_blocking=True),
}
REFUSED: dict[str, tuple[str, Operation]] = {
    "two devices": ("same device", lambda x: x + torch.ones(4)),
    "product": ("same device", lambda x: x @ torch.ones(4)),
    "joined": ("same device", lambda x: torch.cat([x[0], torch.ones(1)])),
    "stacked": ("same device", lambda x: torch.stack([x.sum(), torch.tensor(1.0)])),
    "generator of the host": (
        "'cuda' device type for generator",
        lambda x: torch.rand(3, generator=torch.Generator(), device=DEVICE),
    ),
    "generator of the device": (
        "'cpu' device type for generator",
        lambda x: torch.rand(3, generator=torch.Generator(DEVICE)),
    ),
    "second device": ("invalid device ordinal|index", lambda x: x.to("cuda:77")),
    "too much": ("out of memory", lambda x: torch.empty(2**50, device=DEVICE)),
}
UNREPEATED: dict[str, Operation] = {
    "cumsum": lambda x: x.cumsum(0),
    "median": lambda x: x.median(1),
    "kthvalue": lambda x: x.kthvalue(2),
    "histc": lambda x: x.histc(3),
    "put_": lambda x: x.put_(x.argmax(1), x[0]),
}
REPEATED: dict[str, Operation] = {
    "cumsum": lambda x: x.long().cumsum(0),
    "median": lambda x: x.median(),
    "index_add": lambda x: x.index_add(0, x.argmax(1), x),
    "scatter_add": lambda x: x.scatter_add(0, x.argmax(1, keepdim=True), x),
}


@pytest.fixture
def x() -> Tensor:
    found = torch.arange(1.0, 17.0, device=DEVICE).reshape(4, 4).sin() + 1.5
    for warm in (torch.linalg.solve_ex, torch.linalg.cholesky_ex, torch.matmul):
        warm(
            *[found] * (1 if warm is torch.linalg.cholesky_ex else 2)
        )  # libraries wait when loaded
    return found


@pytest.fixture
def nobody_may_wait() -> Iterator[None]:
    with nobody_waits():
        yield


@pytest.fixture
def all_repeats() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("operation", WAITING.values(), ids=WAITING)
def test_the_host_waits(operation: Operation, x: Tensor, nobody_may_wait: None) -> None:
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        operation(x)


@pytest.mark.parametrize("operation", FREE.values(), ids=FREE)
def test_the_host_does_not_wait(operation: Operation, x: Tensor, nobody_may_wait: None) -> None:
    operation(x)


@pytest.mark.parametrize(("words", "operation"), REFUSED.values(), ids=REFUSED)
def test_an_operation_is_refused(words: str, operation: Operation, x: Tensor) -> None:
    with pytest.raises(RuntimeError, match=words):
        operation(x)


@pytest.mark.parametrize("operation", UNREPEATED.values(), ids=UNREPEATED)
def test_results_that_do_not_repeat_are_refused(
    operation: Operation, x: Tensor, all_repeats: None
) -> None:
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        operation(x)


@pytest.mark.parametrize("operation", REPEATED.values(), ids=REPEATED)
def test_results_that_repeat_are_not(operation: Operation, x: Tensor, all_repeats: None) -> None:
    operation(x)


def test_numbers_of_the_device_are_no_array_of_numpy(x: Tensor) -> None:
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        x.numpy()


def test_a_backward_pass_runs_on_a_thread_of_its_own(x: Tensor) -> None:
    threads = []
    with torch.enable_grad():
        variable = x.clone().requires_grad_()
        doubled = 2 * variable
        doubled.register_hook(lambda grad: threads.append(threading.get_ident()))  # type: ignore[no-untyped-call]  # torch's
        (slope,) = torch.autograd.grad((doubled * variable).sum(), variable)
    assert torch.equal(slope, 4 * x)
    assert threads != [threading.get_ident()]


def test_an_optimizer_takes_all_tensors_at_once(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [x.clone().requires_grad_(), x[0].clone().requires_grad_()]
    taken, step = [], adam._multi_tensor_adam

    def noted(*given: Any, **more: Any) -> None:
        taken.append(1)
        step(*given, **more)

    monkeypatch.setattr(adam, "_multi_tensor_adam", noted)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(parameters, lr=0.1).step()
    assert taken == [1]
    # The first step of Adam has the length of the step size.
    torch.testing.assert_close(parameters[0], x - 0.1, rtol=1e-6, atol=0)


def test_memory_is_counted_from_the_first_tensor_on_it_to_the_last() -> None:
    before = torch.cuda.memory_allocated()
    held = torch.ones(2**20, device=DEVICE)
    part = held[:3]
    del held
    assert torch.cuda.memory_allocated() == before + 8 * 2**20
    del part
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() >= before + 8 * 2**20
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == before


def test_what_torch_keeps_is_not_free_until_it_is_given_back() -> None:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    held = torch.ones(2**23, device=DEVICE)
    del held
    assert torch.cuda.mem_get_info()[0] <= free - 8 * 2**23
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info() == (free, total)


def test_a_copy_that_nobody_waited_for_is_there_once_somebody_waits(x: Tensor) -> None:
    late = x.to("cpu", non_blocking=True)
    torch.cuda.synchronize()
    assert late.tolist() == x.tolist()
    pinned = torch.ones(4, 4).pin_memory()
    assert pinned.is_pinned()
    x.copy_(pinned, non_blocking=True)
    assert x.tolist() == torch.ones(4, 4).tolist()
