"""Pairs of task and method on a CUDA device are those on a CPU; and what is not is seen."""

import re
from collections.abc import Iterator
from typing import Any

import mutant_parts
import mutants
import pairs
import pytest
import torch
from configs import crossed, options

from bilevel_cli.core.method import Estimate
from bilevel_cli.machine import capture

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


@pytest.mark.parametrize("part", mutant_parts.FAULTS)
def test_a_copy_of_another_part_with_one_fault_is_caught(part: str) -> None:
    group, name = part.split("=")
    base = mutant_parts.BASES.get(group, "task=quadratic start=warm").split()
    task, *others = [*base, f"{group}._target_=mutant_parts.{name}"]
    row = pairs.check(task.removeprefix("task="), "reverse", *others)
    assert row.refused is None
    assert re.search(mutant_parts.FAULTS[part], " | ".join(row.faults)), row


def test_a_graph_whose_results_the_next_replay_changes_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class GivesItsOwnMemory(capture.Replayed):
        def __call__(self, *given: Any) -> Estimate:
            super().__call__(*given)
            (recording,) = self._recordings.values()
            return Estimate(*recording.results)

    monkeypatch.setattr(capture, "Replayed", GivesItsOwnMemory)
    row = pairs.check("quadratic", "reverse")
    assert re.search("the graph is .* off the eager estimate", " | ".join(row.faults)), row


def test_a_task_or_a_method_without_any_pair_is_named() -> None:
    served, refused = pairs.Row("meta", "iaptt", gap=0.0), pairs.Row("toy", "iaptt", "It is slow.")
    assert pairs.unserved([served, pairs.Row("meta", "cg", "It is a toy.")]) == [
        "method=cg: none of its 1 pairs is served: It is a toy."
    ]
    assert pairs.unserved([served, refused]) == [
        "task=toy: none of its 1 pairs is served: It is slow."
    ]
