"""Kernels chosen by measuring: the faster one, once, and the same one again."""

import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pooch
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bilevel_cli.core import autodiff
from bilevel_cli.nn import affine, choosing
from bilevel_cli.nn.affine import Product
from bilevel_cli.nn.choosing import MARGIN, Choices, Memory, decided
from bilevel_cli.records.user_cache import user_cache

CASE = Product(600, 784, 10, "rows", "rows", 1)
WORDS = f"{CASE}, matmul_precision=highest"


class Timed:
    """Two kernels of which each call takes as many seconds as a test says; none passes really."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = {"usual": 1.0, "other": 1.0}
        self.called: list[str] = []
        self.instead: dict[str, Callable[[], str]] = {}
        monkeypatch.setattr(choosing, "seconds_of", self._seconds_of)

    @property
    def kernels(self) -> dict[str, Callable[[], Any]]:
        return {name: lambda name=name: self._call(name) for name in self.seconds}  # type: ignore[misc]

    def choose(self, choices: Choices, case: Product = CASE) -> str:
        """The kernel that a case takes."""
        return str(choices.fastest(case, "usual", self.kernels, to_measure=True)())

    def _call(self, name: str) -> str:
        self.called.append(name)
        return self.instead.get(name, lambda: name)()

    def _seconds_of(self, kernel: Callable[[], str]) -> float:
        return self.seconds[kernel()]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    return Timed(monkeypatch)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"usual": [1.0, 1.0, 1.0], "other": [0.5, 0.5, 0.5]}, "other"),
        ({"usual": [1.0, 1.0, 1.0], "other": [1.01 / MARGIN] * 3}, "usual"),
        ({"usual": [1.0, 1.0, 1.0], "other": [0.99 / MARGIN] * 3}, "other"),
        # What held up the usual kernel in the first rounds is not the kernel.
        ({"usual": [9.0, 9.0, 1.0], "other": [0.9, 0.9, 0.9]}, "usual"),
        # Most rounds say otherwise; one does.
        ({"usual": [1.0, 1.0, 1.0], "other": [0.5, 2.0, 2.0]}, "usual"),
        ({"usual": [1.0, 1.0, 1.0], "other": [0.5, 0.5, 2.0]}, "other"),
    ],
)
def test_a_kernel_replaces_the_usual_one_where_it_is_clearly_faster_in_most_rounds(
    seconds: Mapping[str, list[float]], expected: str
) -> None:
    assert decided("usual", seconds) == expected


def test_a_close_call_is_decided_alike_however_its_measurements_turn_out(
    timed: Timed, tmp_path: Path
) -> None:
    # Two runs, and no cache that the second could read.
    for number, other in enumerate((1.1 / MARGIN, 1.0, MARGIN / 1.1)):
        timed.seconds["other"] = other
        assert timed.choose(Choices(True, tmp_path / str(number))) == "usual"


def test_a_case_is_measured_once_and_remembered_for_the_next_process(
    timed: Timed, tmp_path: Path
) -> None:
    timed.seconds["other"] = 0.1
    first = Choices(True, tmp_path / "new" / "folder")
    assert timed.choose(first) == "other"
    assert len(timed.called) > 6
    timed.called.clear()
    timed.seconds["other"] = 10.0
    assert timed.choose(first) == "other"
    assert timed.choose(Choices(True, first.folder)) == "other"
    assert timed.called == ["other", "other"]
    another = CASE._replace(threads=2)
    assert timed.choose(first, another) == "usual"


def test_what_was_measured_on_another_processor_or_torch_is_not_taken(
    timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.seconds["other"] = 0.1
    assert timed.choose(Choices(True, tmp_path)) == "other"
    timed.seconds["other"] = 10.0
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        assert timed.choose(Choices(True, tmp_path)) == "usual"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.0")
        assert timed.choose(Choices(True, tmp_path)) == "usual"
    assert timed.choose(Choices(True, tmp_path)) == "other"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "damage",
    [
        b'{"case": "product [600, 784] by',  # a disk that was full
        b"\xff\x00\n[]\n3\n{}\n" + json.dumps({"case": 3, "kernel": "other"}).encode(),
        json.dumps({"case": WORDS, "kernel": "of another version"}).encode(),
    ],
)
def test_a_damaged_file_costs_nothing_but_the_measuring(
    damage: bytes, timed: Timed, tmp_path: Path
) -> None:
    timed.seconds["other"] = 0.1
    Memory(tmp_path).path.write_bytes(damage)
    assert timed.choose(Choices(True, tmp_path)) == "other"


def test_neither_does_a_folder_that_cannot_be_written_or_is_none(
    timed: Timed, tmp_path: Path
) -> None:
    timed.seconds["other"] = 0.1
    (tmp_path / "file").touch()
    Memory(tmp_path).path.mkdir()
    for folder in (tmp_path / "file", tmp_path):
        assert timed.choose(Choices(True, folder)) == "other"


def test_of_processes_that_measure_at_once_all_take_what_was_noted_first(
    timed: Timed, tmp_path: Path
) -> None:
    theirs = Memory(tmp_path)

    def other() -> str:
        if not theirs.path.exists():
            theirs.note(WORDS, "usual", {})  # while this process measures
        return "other"

    timed.seconds["other"] = 0.1
    timed.instead["other"] = other
    assert timed.choose(Choices(True, tmp_path)) == "usual"


def test_a_run_that_goes_on_follows_its_choices_on_another_machine(
    timed: Timed, tmp_path: Path
) -> None:
    timed.seconds["other"] = 0.1
    begun = Choices(True, tmp_path / "here")
    timed.choose(begun)
    timed.seconds["other"] = 10.0
    elsewhere = Choices(True, tmp_path / "there")
    assert (
        timed.choose(elsewhere) == "usual"
    )  # in a check of a model, before the checkpoint is read
    elsewhere.follow(begun.taken)
    assert timed.choose(elsewhere) == "other"
    assert elsewhere.taken == begun.taken


def test_nothing_is_measured_where_the_usual_kernels_are_asked_for_or_values_are_missing(
    timed: Timed, tmp_path: Path
) -> None:
    timed.seconds["other"] = 0.1
    assert timed.choose(Choices(False, tmp_path)) == "usual"
    choices = Choices(True, tmp_path)
    assert choices.fastest(CASE, "usual", timed.kernels, to_measure=False)() == "usual"
    assert timed.called == ["usual", "usual"]
    assert not choices.taken
    assert not list(tmp_path.iterdir())


def test_a_run_whose_sizes_change_at_every_step_soon_measures_no_more(
    timed: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "MOST", 3)
    timed.seconds["other"] = 0.1
    choices = Choices(True, tmp_path)
    found = [timed.choose(choices, CASE._replace(rows=rows)) for rows in range(300, 305)]
    assert found == ["other", "other", "other", "usual", "usual"]
    assert timed.choose(choices, CASE._replace(rows=301)) == "other"


def test_two_threads_that_meet_a_case_at_once_take_one_choice(timed: Timed, tmp_path: Path) -> None:
    choices, meet = Choices(True, tmp_path), Barrier(2, timeout=600)
    times = iter((0.1, 10.0))  # of the first measurement, and of a second one

    def choose(_: int) -> str:
        meet.wait()
        timed.seconds["other"] = next(times, 1.0)
        return timed.choose(choices)

    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(choose, range(2)))
    assert len(found) == 1
    assert len(Memory(tmp_path).lines()) == 1


def test_measuring_holds_one_result_at_a_time(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def kernel() -> Tensor:
        assert not alive
        result = torch.ones(3)
        alive.add(result)
        return result

    Choices(True, tmp_path).fastest(CASE, "usual", {"usual": kernel, "other": kernel}, True)()


# --- affine layers --------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path) -> Iterator[Choices]:
    """The choices of a process that measures, with an empty cache."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this build of torch has no kernel of oneDNN for affine layers")
    with affine.kernels_restored():
        affine.use("auto")
        choices = choosing.current()
        choices.folder = tmp_path
        yield choices


def layer() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(600, 784, generator=random).float(), torch.ones(10, 784).float()


def slopes(x: Tensor, weight: Tensor) -> Any:
    return autodiff.grad(lambda x, w: affine.affine(x, w, None).square().sum(), (0, 1))(x, weight)


def test_each_kind_of_product_of_a_layer_is_measured_by_itself(measured: Choices) -> None:
    slopes(*layer())
    threads = torch.get_num_threads()
    assert set(measured.taken) == {
        f"product {sizes}, threads={threads}, matmul_precision=highest"
        for sizes in (
            "[600, 784] by [10, 784] in rows and rows",  # x W^T
            "[10, 600] by [784, 600] in columns and columns",  # G^T x
            "[600, 10] by [784, 10] in rows and columns",  # G W
        )
    }
    assert set(measured.taken.values()) <= {"onednn", "torch"}


def test_measuring_leaves_random_numbers_threads_graphs_and_results_alone(
    measured: Choices,
) -> None:
    x, weight = layer()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = slopes(x, weight)  # with measuring
    assert measured.seconds > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.is_grad_enabled()
    for found, again in zip(first, slopes(x, weight), strict=True):
        assert torch.equal(found, again)
        assert not found.requires_grad


def test_mapped_and_compiled_layers_measure_nothing(measured: Choices) -> None:
    x, weight = layer()
    autodiff.vmap(lambda w: affine.affine(x, w, None))(weight[None])
    compiled = torch.compile(affine.affine, backend="eager", fullgraph=True)
    compiled(x, weight, None)
    with FakeTensorMode() as mode:
        affine.affine(mode.from_tensor(x), mode.from_tensor(weight), None)
    assert not measured.taken


def test_float64_measures_nothing(measured: Choices) -> None:
    slopes(*(z.double() for z in layer()))
    assert not measured.taken


def test_the_cache_is_where_downloads_are() -> None:
    assert user_cache() == Path(pooch.os_cache("bilevel-cli"))


def test_without_a_home_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("platformdirs.user_cache_path", unknown)
    memory = choosing.Memory(user_cache())
    memory.note("case", "kernel", {})
    assert memory.read() == {}
    assert not memory.path.parent.exists()
