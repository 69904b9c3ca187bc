"""What a run leaves, and what commands promise: files, columns, keys, words, options, exit codes.

A program that reads a run of an earlier version reads one of this version too. Whoever changes a
constant of this file breaks such programs, checkpoints, or the numbers that a seed gives.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import bilevel_run, exit_code
from configs import small

from bilevel_cli import errors
from bilevel_cli.commands import check, distilled, init, labels, report
from bilevel_cli.core.random import generator, stream_seed

HELP = Path(__file__).parent / "help"

TINY = ["task=quadratic", "device=cpu", "inner_steps=2", "outer_steps=4"]
TINY += ["log_every=1", "eval_every=2", "save_every=2"]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The folder of a run that ended with some exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, folder: str = "run", code: int = 0) -> Path:
        assert bilevel_run(monkeypatch, *overrides, f"hydra.run.dir={folder}") == code
        return tmp_path / folder

    return run


def columns(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return next(csv.reader(file))


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if path.suffix != ".partial"}


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


# ---- the files of a run

HYDRA = {f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")}
ALWAYS = {"bilevel.log", "checkpoint.pt", "eval.csv", "lock", "manifest.json", "train.csv"}

VERSIONS = ["bilevel-cli", "python", "platform", "torch", "numpy", "hydra-core", "omegaconf"]
MANIFEST = [
    *("status", "error", "doubts", "started", "ended"),
    *("command", "working_directory", "versions", "git_commit"),
    *("settings_sha256", "settings", "choices"),
    *("data", "data_sha256", "first_step", "higher_is_better"),
    *("device", "gpu", "threads", "processes", "cores"),
]
CHECKPOINT = [
    *("step", "seconds", "inner_grads", "hvps", "outer", "optimizer", "scheduler", "carry"),
    *("sampling", "extras", "noise", "draws", "settings", "origin", "diverged_at", "restores"),
    *("doubts", "descent", "judged", "tables", "kernels"),
]
ORIGIN = ["bilevel-cli", "git_commit", "torch", "threads", "processes", "device", "data"]


def test_a_run_leaves_its_files_and_no_others(ran: Callable[..., Path]) -> None:
    folder = ran(*TINY)
    assert files(folder) == ALWAYS | HYDRA | {"checkpoint.previous.pt", "outer.pt"}


def test_the_columns_of_train_csv_are_the_runs_the_methods_the_metrics_and_the_costs(
    ran: Callable[..., Path],
) -> None:
    folder = ran(*TINY, "method=cg", "metrics=[hypergradient_gap,norms]")
    assert columns(folder / "train.csv") == [
        *("step", "seconds", "outer_loss", "grad_norm"),
        *("inner_loss_start", "inner_loss_end"),
        *("adjoint_residual", "adjoint_stopped"),
        *("gap_relative_error", "gap_cosine"),
        *("outer_norm", "outer_displacement", "inner_norm", "inner_displacement"),
        *("inner_grads", "hvps", "peak_memory_mb"),
    ]


def test_the_columns_of_eval_csv_are_the_tasks_scores_and_then_those_of_a_fresh_solve(
    ran: Callable[..., Path],
) -> None:
    scores = ["value", "hypergradient_norm", "inner_distance"]
    fresh = ["joint_loss", "retrained_loss", *(f"retrained_{name}" for name in scores)]
    assert columns(ran(*TINY) / "eval.csv") == ["step", "seconds", *scores]
    folder = ran(*TINY, "retrain=3", folder="retrained")
    assert columns(folder / "eval.csv") == ["step", "seconds", *scores, *fresh]


def test_the_keys_of_a_manifest_and_of_a_checkpoint_are_in_their_order(
    ran: Callable[..., Path],
) -> None:
    folder = ran(*TINY)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest) == [*MANIFEST, "diverged_at", "restores", "kernels"]
    assert list(manifest["kernels"]) == ["processor", "instructions", "seconds", "taken"]
    assert list(manifest["versions"]) == VERSIONS
    assert manifest["choices"] == {
        "task": "quadratic",
        "method": "reverse",
        "solver": "gd",
        "start": "warm",
        "optimizer": "adam",
        "scheduler": "constant",
        "device": "cpu",
    }
    assert (manifest["status"], manifest["error"], manifest["first_step"]) == ("completed", None, 0)
    assert (folder / "manifest.json").read_text() == json.dumps(manifest, indent=2) + "\n"
    for name, step in (("checkpoint.pt", 4), ("checkpoint.previous.pt", 2)):
        kept = loaded(folder / name)
        assert list(kept) == CHECKPOINT
        assert kept["step"] == step
        assert list(kept["origin"]) == ORIGIN
        assert list(kept["tables"]) == ["train", "eval"]
        assert list(kept["sampling"]) == list(kept["extras"]) == ["random", "orders"]


def test_a_checkpoint_ends_in_the_digest_of_what_is_before(ran: Callable[..., Path]) -> None:
    body, last = (ran(*TINY) / "checkpoint.pt").read_bytes().rsplit(b"bilevel-cli", 1)
    assert last == b" checkpoint 1 sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n"


def test_a_job_of_a_sweep_leaves_a_note_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${seed}"]
    assert bilevel_run(monkeypatch, "-m", *arguments) == 0
    assert files(tmp_path / "sweep" / "1") == ALWAYS | HYDRA | {
        *("checkpoint.previous.pt", "job.json", "outer.pt")
    }
    text = (tmp_path / "sweep" / "1" / "job.json").read_text()
    note = json.loads(text)
    assert list(note) == ["status", "settings", "error", "code", "score", "returned", "sources"]
    assert text == json.dumps(note) + "\n"
    assert note["status"] == "completed"
    assert re.fullmatch("[0-9a-f]{64}", note["settings"])
    assert note["score"][0] == "value"


def test_replicas_have_a_folder_for_each_seed(ran: Callable[..., Path]) -> None:
    folder = ran(*TINY, "replicas=2", "seed=3")
    runs = {path.name for path in folder.iterdir() if path.is_dir()}
    assert runs == {".hydra", "seed=3", "seed=4"}
    for name in ("seed=3", "seed=4"):
        assert ALWAYS - {"bilevel.log"} <= files(folder / name)


RESULTS = {
    "reweight": {"weights.csv"},
    "meta": {"initialisation.pt"},
    "ridge": {"hyperparameters.csv"},
    "hpo": {"hyperparameters.csv"},
    "distill": {"distilled.npz", "distilled.png"},
}


@pytest.mark.parametrize("task", RESULTS)
def test_the_files_of_results_have_their_names(task: str, ran: Callable[..., Path]) -> None:
    folder = ran(f"task={task}", *small(task), "device=cpu", "inner_steps=1", "outer_steps=1")
    assert RESULTS[task] <= files(folder)


# ---- the words from which random numbers come

# stream_seed(0, word) and stream_seed(7, word).
STREAMS = {
    "initialisation": [1952974914541233639, 2863736146990721210],
    "first sample": [5671932499462237547, 2284849795855837464],
    "first extra minibatches": [6776420838011693153, 5150449601663861419],
    "sampling": [1196928559710480898, 1260773175821635534],
    "extra minibatches": [7603380972411636574, 5865957960146326211],
    "noise": [5127903134280592399, 5594294352030921857],
    "data": [736872305540241488, 4237268861321998237],
    "re-training": [2561096731590126965, 7580400885299698895],
    "selection": [8515419408401167262, 4080300513941845979],
    "retraining": [7276170548514236382, 1035755944546678738],
    "teacher": [4554268607781872375, 9119524820047493861],
}


@pytest.mark.parametrize("word", STREAMS)
def test_a_word_and_a_seed_give_the_numbers_that_they_gave(word: str) -> None:
    assert [stream_seed(seed, word) for seed in (0, 7)] == STREAMS[word]


def test_the_numbers_of_a_stream_are_torchs_at_its_seed() -> None:
    drawn = torch.randint(2**31, (3,), generator=generator(0, "sampling"))
    source = torch.Generator().manual_seed(STREAMS["sampling"][0])
    assert torch.equal(drawn, torch.randint(2**31, (3,), generator=source))


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The words that are hashed with a seed while a test runs."""
    seen: set[str] = set()
    digest = hashlib.sha256

    def sha256(data: Any = b"", **options: Any) -> Any:
        if isinstance(data, bytes) and (found := re.fullmatch(rb"\d+/([a-z -]+)", data)):
            seen.add(found[1].decode())
        return digest(data, **options)

    monkeypatch.setattr(hashlib, "sha256", sha256)
    return seen


RUN = {"initialisation", "data", "first sample", "first extra minibatches"}
RUN |= {"sampling", "extra minibatches", "noise", "inner steps"}


def test_a_run_draws_from_the_streams_of_these_words(
    words: set[str], ran: Callable[..., Path]
) -> None:
    ran("task=reweight", *small("reweight"), "device=cpu", "outer_steps=1", "retrain=2")
    assert words == RUN | {"re-training"}


def test_a_comparison_of_distilled_sets_has_its_streams_and_its_files(
    words: set[str], ran: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = ["task.learn_labels=true", "device=cpu", "inner_steps=1", "outer_steps=1"]
    folder = ran("task=distill", *small("distill"), *soft)
    words.clear()
    options = ["--models", "own", "--seeds", "1", "--steps", "2", "--scores"]
    options += ["--sizes", "1", "--mixed", "1", "--agreement"]
    with torch.enable_grad():
        assert exit_code("x", distilled.main, monkeypatch, folder, *options) == 0
    assert words == {*("data", "selection", "retraining", "teacher", "pruning", "stopped early")}
    tables = {f"{name}.csv" for name in ("comparison", "ranking", "pruned", "mixed", "agreement")}
    assert tables <= files(folder)
    assert columns(folder / "comparison.csv") == ["set", "model", "mean", "std", "seeds", "bytes"]
    assert columns(folder / "pruned.csv") == ["set", "size", "model", "mean", "std", "seeds"]
    assert columns(folder / "mixed.csv") == [
        *("real", "model", "mixed_accuracy", "mixed_std", "real_accuracy", "real_std", "seeds")
    ]
    assert columns(folder / "agreement.csv") == [
        *("set", "agreement_early", "std", "expected", "accuracy", "stopped", "seeds")
    ]


@pytest.mark.parametrize(
    ("task", "epochs"),
    [("meta_weight_net", ["inner", "outer"]), ("learning_to_reweight", ["inner", "outer", "meta"])],
)
def test_epochs_have_their_names_in_a_checkpoint(
    task: str, epochs: list[str], ran: Callable[..., Path]
) -> None:
    folder = ran(f"task={task}", *small(task), "device=cpu", "inner_steps=1", "outer_steps=1")
    assert list(loaded(folder / "checkpoint.pt")["sampling"]["orders"]) == epochs


# ---- names of outer parameters, which are in checkpoints and results

HPO = ["task=hpo", *small("hpo"), "device=cpu"]
PREFIXES = {
    "init.": ["task=quadratic", "start=learned"],
    "lr.": ["task=quadratic", "solver=meta_sgd"],
    "shared.": [
        "task=meta",
        "task.adapt=head",
        "task.episodes=2",
        "task.eval_episodes=4",
        "model=mlp",
    ],
    "log_penalty.": [*HPO],
    "augmentation.": [*HPO, "task/augmentation=network"],
    "log_magnitude.": ["task=hpo", "data.train=20", "task/augmentation=transforms"],
    "weight_net.": ["task=meta_weight_net", *small("meta_weight_net")],
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_outer_parameters_have_their_prefixes(prefix: str, ran: Callable[..., Path]) -> None:
    folder = ran(*PREFIXES[prefix], "device=cpu", "inner_steps=1", "outer_steps=1")
    assert any(name.startswith(prefix) for name in loaded(folder / "checkpoint.pt")["outer"])


# ---- commands

COMMANDS = {
    "bilevel-check": check,
    "bilevel-distilled": distilled,
    "bilevel-init": init,
    "bilevel-labels": labels,
    "bilevel-report": report,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_its_options(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code(command, COMMANDS[command].main, monkeypatch, "--help") == 0
    # Where lines break is Python's to say.
    assert capsys.readouterr().out.split() == (HELP / f"{command}.txt").read_text().split()


def test_the_commands_are_these() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.findall(r"^(bilevel-\w+) = ", text, re.MULTILINE) == [
        *("bilevel-run", "bilevel-check", "bilevel-distilled", "bilevel-labels"),
        *("bilevel-report", "bilevel-init"),
    ]


def test_exit_codes_of_a_run_say_how_it_ended(
    ran: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (errors.Failed.code, errors.UsageError.code, errors.Unwritten.code) == (1, 2, 3)
    ran(*TINY, "method=cgg", code=2)
    ran(*TINY, "outer_steps=none", code=2)
    folder = ran(*TINY, "solver.lr=1e300", folder="diverged", code=1)
    assert json.loads((folder / "manifest.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("bilevel-check", ["method=cgg"]),
        ("bilevel-check", ["--nothing"]),
        ("bilevel-distilled", ["nowhere"]),
        ("bilevel-report", ["nowhere"]),
        ("bilevel-report", []),
    ],
)
def test_a_wrong_argument_of_another_command_is_exit_code_2(
    command: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(command, COMMANDS[command].main, monkeypatch, *arguments) == 2
