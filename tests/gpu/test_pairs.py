"""Pairs of task and method on a CUDA device are those on a CPU; and what is not is seen."""

import re
from collections.abc import Iterator

import mutants
import pairs
import pytest
import torch
from configs import crossed, options

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("task", "method"), crossed(options("task"), options("method"), 48))
def test_a_pair_on_a_device_is_the_pair_on_a_cpu(task: str, method: str) -> None:
    assert pairs.check(task, method).faults == []


def test_a_copy_of_a_method_is_as_right_as_the_method() -> None:
    row = pairs.check("quadratic", "reverse", "method._target_=mutants.Mutant")
    assert row.served
    assert row.faults == []


@pytest.mark.parametrize("mutant", mutants.FAULTS, ids=lambda mutant: mutant.__name__)
def test_a_copy_of_a_method_with_one_fault_is_caught(mutant: type[mutants.Mutant]) -> None:
    if mutant in mutants.SIMULATED_ALONE and torch.cuda.get_device_name() != "simulated":
        pytest.skip("a GPU does not complain of it, and is wrong only now and then")
    row = pairs.check("quadratic", "reverse", f"method._target_=mutants.{mutant.__name__}")
    assert row.refused is None
    assert re.search(mutants.FAULTS[mutant], " | ".join(row.faults)), row
