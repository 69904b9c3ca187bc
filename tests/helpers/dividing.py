"""Runs of one inner problem by several processes, beside the same runs by one.

    python dividing.py COUNT STEPS COMMANDS

takes lists of overrides as JSON, has COUNT processes take STEPS outer steps of each run together,
one run after the other, and prints as JSON what came of each: `gap`, the largest difference to the
numbers that one process finds, relative where they exceed 1; `apart`, whether the processes ended
with other bits than one another; `perturbs`, whether the method compares losses; `refused`, why it
was refused, or empty.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from configs import composed

from bilevel_cli.config.resolved import resolved
from bilevel_cli.core import trees
from bilevel_cli.core.method import Hypergradient
from bilevel_cli.errors import UsageError
from bilevel_cli.machine import joining, messages
from bilevel_cli.machine.ranks import ALONE, Ranks
from bilevel_cli.runs import build


def divided(ranks: Ranks, overrides: list[str], steps: int) -> dict[str, Any]:
    try:
        together, _ = stepped(ranks, overrides, steps)
        alone, method = stepped(ALONE, overrides, steps)
    except UsageError as error:
        return {"gap": 0.0, "apart": False, "perturbs": False, "refused": str(error)}
    every = messages.gather([x.clone() for x in together])
    return {
        "gap": max(gap(x, y) for x, y in zip(together, alone, strict=True)),
        "apart": any(not same(x, y) for xs in every for x, y in zip(xs, every[0], strict=True)),
        "perturbs": method.claim().perturbs,
        "refused": "",
    }


def stepped(
    ranks: Ranks, overrides: list[str], steps: int
) -> tuple[list[torch.Tensor], Hypergradient[Any]]:
    """All numbers after some outer steps: reports, outer parameters, memory; and the method."""
    config = composed("device=cpu", "device.dtype=float64", *overrides)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        runner = build.build(config, resolved(config), Path(folder), {}, ranks)
        reports = []
        for _ in range(steps):
            inputs = runner.state.draw()
            estimate = runner.estimate(*inputs)
            report = runner.state.take(inputs, estimate, runner.judgement.measure)
            reports.append({n: torch.as_tensor(value) for n, value in report.items()})
        found = [*reports, runner.state.outer, runner.state.carry]
        numbers = [x.detach() for tree in found for x in trees.leaves(tree)]
        return numbers, runner.experiment.method


def gap(x: torch.Tensor, y: torch.Tensor) -> float:
    if not x.numel():
        return 0.0
    if not x.isfinite().all() or not y.isfinite().all():
        return 0.0 if torch.equal(x.nan_to_num(), y.nan_to_num()) else float("inf")
    return float(((x - y).abs() / y.abs().clamp(min=1)).max())


def same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.equal(x.nan_to_num(), y.nan_to_num())


def rank_of(number: int, count: int, port: int, output: Path, commands: list[list[str]]) -> None:
    """What one process does."""
    signal.alarm(1200)  # processes that wait for one another would do so for half an hour
    os.environ |= {"TORCHELASTIC_RUN_ID": "forked", "RANK": str(number), "WORLD_SIZE": str(count)}
    os.environ |= {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    steps = int(sys.argv[2])
    if number == 0:
        with joining.leading(lambda: None) as ranks:
            output.write_text(json.dumps([divided(ranks, one, steps) for one in commands]))
    else:
        with joining.following() as (ranks, _):
            for one in commands:
                divided(ranks, one, steps)


def main() -> None:
    count, commands = int(sys.argv[1]), json.loads(sys.argv[3])
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        output = Path(folder) / "found.json"
        children = []
        for number in range(count):
            child = os.fork()
            if not child:
                code = 1
                try:
                    rank_of(number, count, port, output, commands)
                    code = 0
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert ended == [0] * count, ended
        print(output.read_text())


if __name__ == "__main__":
    main()
