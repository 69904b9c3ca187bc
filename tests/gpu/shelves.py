"""Whole runs on a CUDA device, each with one option of a small run changed, held to a CPU's.

The pairs of tasks and methods have their own check. Here are all other groups of conf/, and the
settings of a run. Options are found by globbing.
"""

import csv
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import standins
import torch
from configs import configured, options, small
from omegaconf import DictConfig
from pairs import ALLOWED_WAITS, GAP, GRAPH_GAP, on_gpu, told, waited, whole_step
from runners import runner_in
from torch import Tensor

from bilevel_cli.config.options import CONF, groups
from bilevel_cli.core import trees
from bilevel_cli.core.method import CannotServe
from bilevel_cli.errors import Failed, UsageError
from bilevel_cli.machine.device import settings_restored
from bilevel_cli.runs import checkpoint, entry
from bilevel_cli.vocabulary import CHECKPOINT, EVAL, TRAIN

SIZES = ("inner_steps=3", "outer_steps=4", "log_every=1", "eval_every=2", "save_every=2")
DEVICE = ("device.dtype=float64", "device.deterministic=true")
REWEIGHT = ("task=reweight", *small("reweight"))
META = ("task=meta", *small("meta"))
TRAJECTORIES = (
    *("task=distill", *small("distill"), "task/objective=trajectory_matching"),
    *("task/networks=experts", "task.networks.count=1", "method=reverse"),
)
# What else a command line may say, where a group of options does not.
SETTINGS = [
    (*REWEIGHT, "retrain=2"),
    (*REWEIGHT, "budget=7"),
    (*REWEIGHT, "start=warm", "budget=7"),
    (*REWEIGHT, "on_divergence=restore"),
    (*REWEIGHT, "on_divergence=continue", "solver.lr=1e200"),
    (*REWEIGHT, "on_divergence=restore", "optimizer=sgd", "optimizer.lr=1e200"),
    (*REWEIGHT, "replicas=2"),
    ("task=hpo", *small("hpo"), "replicas=2"),
    ("task=quadratic", "replicas=3"),
    (*META, "replicas=2"),
    (*META, "device.episodes_chunk=1"),
    (*META, "method=iaptt", "device.episodes_chunk=1"),
    (*META, "method=iaptt", "budget=20"),
    (*META, "device.memory_budget=1kB"),
    (*REWEIGHT, "device.memory_budget=1kB"),
    (*REWEIGHT, "device.memory_budget=1kB", "method=checkpointed"),
    (*REWEIGHT, "device.linear=torch"),
    (*REWEIGHT, "device.threads=1"),
    (*REWEIGHT, "device.matmul_precision=high", "metrics=[precision_gap]"),
    (*REWEIGHT, "task.batch_size=7", "task.outer_batch_size=5"),
    (*REWEIGHT, "task.folds=2"),
    (*REWEIGHT, "task.batch_size=7", "task.outer_batch_size=5", "replicas=2"),
    (*REWEIGHT, "optimizer.fused=true"),
    (*REWEIGHT, "optimizer.fused=false"),
    (*REWEIGHT, "optimizer=sgd", "optimizer.momentum=0.9"),
    (*REWEIGHT, "optimizer=sgd", "optimizer.fused=true"),
    ("task=distill", *small("distill"), "task.learn_labels=true"),
    ("task=distill", *small("distill"), "task.adapt=head"),
    (*TRAJECTORIES, "task/networks/trainer=gsam", "task/segments=accumulated"),
    (*TRAJECTORIES, "task/objective/importance=learned"),
    (*REWEIGHT, "average=0.9", "test_steps=[0,3]"),
    (*META, "average=0.9", "test_steps=[0,3]", "replicas=2"),
]  # fmt: skip
# Groups that are another check's, or change no number, or belong to an option of another group.
OTHERS = (
    *("device", "experiment", "loggers", "task/pruning"),
    *("task/penalty/granularity", "task/networks/trainer", "task/objective/importance"),
)
UNLIKE = ("seconds", "peak_memory_mb", "inner_grads", "hvps")  # columns that say what was spent


def variations() -> list[tuple[str, ...]]:
    """The command lines: a small run with one option changed, for each option of each group."""
    found = []
    for group in groups():
        if (group.split("/")[0] in ("task", "method") and "/" not in group) or group in OTHERS:
            continue
        for option in options(group):
            chosen = f"[{option}]" if group == "metrics" else option
            found.append((*_base(group), f"{group}={chosen}"))
    return [*found, *SETTINGS]


def _base(group: str) -> tuple[str, ...]:
    """A small run that has a group of options."""
    kind, *rest = group.split("/")
    if kind == "method":
        return (*REWEIGHT, "method=implicit")
    if kind in ("model", "data"):
        return ("task=hpo", "data=digits", "data.train=20")[: 3 if kind == "model" else 1]
    if not rest:
        return REWEIGHT
    asks = f"{rest[0]}@task"
    owners = [name for name in options("task") if asks in (CONF / f"task/{name}.yaml").read_text()]
    # Pairs share the groups of `distill`, and refuse those of their options that ask for classes.
    others = ("augmentation", "distill_pairs")
    owner = next(name for name in reversed(owners) if name not in others)
    return (f"task={owner}", *small(owner))


def faults(*overrides: str) -> list[str]:
    """What is wrong with a run on the device, one sentence each. Empty where nothing is.

    The numbers are those of the CPU; an outer step waits for nothing; a CUDA graph gives the same;
    a run that went on gives the same bits; the files can be read where there is no GPU.

    Args:
        overrides: Of the command line.
    """
    with tempfile.TemporaryDirectory() as name, settings_restored(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder, stand_ins = Path(name), Path(name) / "data"
        stand_ins.mkdir()
        written = [
            word
            for o in overrides
            for word in getattr(standins, o.partition("=")[2], lambda _: [])(stand_ins)
            if o.startswith("data=")
        ]
        config = configured(*SIZES, *DEVICE, *overrides, *written)
        return list(_faults(config, folder))


def _faults(config: DictConfig, folder: Path) -> Iterator[str]:
    on_cpu, reason = _ended(config, folder / "cpu", "cpu")
    on_gpu, again = _ended(config, folder / "cuda", "cuda")
    if _kind(reason) != _kind(again):
        yield f"ends otherwise than on a CPU: {again}, {reason}"
        return
    if torch.cuda.get_device_name() == "simulated":  # whose generators draw the numbers of a CPU's
        yield from _unlike(on_gpu, on_cpu, GAP, "the CPU's")
    yield from _on_the_device(folder / "cuda")
    if reason is not None:
        return
    if config.replicas == 1 and config.budget is None and (wait := _wait(config, folder)):
        yield f"an outer step waits: {wait}"
    short = config.copy()
    if "T_max" not in config.scheduler:  # which a longer run has otherwise
        short.outer_steps = 2
    _ended(short, folder / "resumed", "cuda")
    resumed, reason = _ended(config, folder / "resumed", "cuda")
    if reason:
        yield f"does not go on: {reason}"
    else:
        yield from _unlike(resumed, on_gpu, 0.0, "the run that was not stopped")
    config.device.capture = "cuda_graph"
    graph, reason = _ended(config, folder / "graph", "cuda")
    if reason is None:
        yield from _unlike(graph, on_gpu, GRAPH_GAP, "the eager run")
    elif _kind(reason) != "refused":
        yield f"as a graph: {reason}"


def _kind(reason: str | None) -> str | None:
    return reason and reason.partition(":")[0]


def _wait(config: DictConfig, folder: Path) -> str | None:
    """Where an outer step waits that is not allowed to."""
    (folder / "step").mkdir()
    config.device.name = "cuda"
    with torch.no_grad():
        runner = runner_in(config, folder / "step")
        whole_step(runner)
        wait = waited(runner)
    return None if wait and any(part in wait for part in ALLOWED_WAITS) else wait


def _ended(config: DictConfig, folder: Path, device: str) -> tuple[dict[str, Tensor], str | None]:
    """The numbers that a run leaves, and how it ended otherwise than well."""
    config = config.copy()
    config.device.name = device
    reason = None
    try:
        with settings_restored(), torch.no_grad():
            entry.run(config, folder, {})
    except (UsageError, CannotServe) as error:
        return {}, f"refused: {error}"
    except Failed as error:
        reason = f"failed: {error}" + "".join(
            p.read_text()[-1500:] for p in folder.rglob("traceback.txt")
        )
    except Exception as error:
        reason = f"failed: {told(error)}"
    return dict(_numbers(folder)), reason


def _numbers(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.rglob("*.csv")):
        if path.name not in (TRAIN, EVAL):
            continue
        with path.open() as file:
            rows = list(csv.DictReader(file))
        for column in rows[0] if rows else ():
            if column not in UNLIKE:
                values = torch.tensor([float(row[column]) for row in rows], dtype=torch.float64)
                yield f"{path.relative_to(folder)}:{column}", values
    for path in sorted(folder.rglob(CHECKPOINT)):
        saved = checkpoint.load(path)
        for part in ("outer", "carry"):
            for i, leaf in enumerate(trees.leaves(saved[part])):
                yield f"{path.relative_to(folder)}:{part}[{i}]", leaf.double()


def _on_the_device(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.pt"):
        if on_gpu(path):
            yield f"{path.name} cannot be read where there is no GPU"


def _unlike(
    found: dict[str, Tensor], expected: dict[str, Tensor], gap: float, whose: str
) -> Iterator[str]:
    if found.keys() != expected.keys():
        yield f"has other numbers than {whose}: {sorted(found.keys() ^ expected.keys())}"
        return
    for name, b in expected.items():
        a = found[name]
        if a.shape != b.shape:
            yield f"{name} has another shape than {whose}: {a.shape}, {b.shape}"
            continue
        # Where both are not finite, and the same, there is no difference.
        off = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
        if off.any():
            scale = 1e-9 + b.nan_to_num(0.0, 0.0, 0.0).abs().max()
            largest = float((off / scale).nan_to_num(torch.inf).max())
            if not largest <= gap:
                yield f"{name} is {largest:.1e} off {whose}"
