"""Minibatches of one inner problem, shared by several processes: a run by them is that of one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from configs import options, small

# Three processes would have batches of 2, 3 and 3 examples.
RIDGE = ["task=ridge", "data=diabetes", *small("ridge"), "inner_steps=2"]
RIDGE += ["task.batch_size=7", "task.outer_batch_size=8"]


def divided(commands: list[list[str]], count: int = 2, steps: int = 3) -> list[dict[str, Any]]:
    script = str(Path(__file__).parents[1] / "helpers" / "dividing.py")
    given = [sys.executable, script, str(count), str(steps), json.dumps(commands)]
    done = subprocess.run(given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_alike(found: list[dict[str, Any]]) -> None:
    assert all(one["refused"] or one["gap"] < 1e-10 for one in found), found
    assert not any(one["apart"] for one in found)


def test_processes_find_what_one_finds() -> None:
    every = options("method")
    some = [[*RIDGE, f"method={name}"] for name in ("sama", "bvfsm", "es")]
    found = divided([*some, [*RIDGE, f"method={every[0]}"]])
    check_alike(found)
    assert not any(one["refused"] for one in found[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_find_what_one_finds_by_every_method_of_first_derivatives(count: int) -> None:
    names = options("method")
    found = dict(zip(names, divided([[*RIDGE, f"method={n}"] for n in names], count), strict=True))
    check_alike(list(found.values()))
    print({name: one["gap"] for name, one in found.items() if not one["refused"]})
    # What core/test_joined.py finds for each method by itself.
    refused = {name for name, one in found.items() if one["refused"]}
    assert all("takes products" in found[name]["refused"] for name in refused - {"direct"})
    assert len(names) - len(refused) >= 16
