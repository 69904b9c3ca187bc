"""What a word on the command line may have meant."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bilevel_cli.config import options

# Words of the field that name one thing. The first is the name that messages prefer.
SYNONYMS = (
    ("lr", "learning_rate", "step_size", "stepsize", "rate", "alpha", "eta"),
    ("inner_lr", "lr_inner"),
    ("outer_steps", "epochs", "steps", "iterations", "iters", "num_steps", "n_epochs", "max_iter"),
    (
        "inner_steps",
        "unroll_steps",
        "inner_iterations",
        "inner_epochs",
        "unroll",
        "num_inner_steps",
    ),
    ("batch_size", "batch", "bs", "minibatch", "minibatch_size"),
    ("seed", "random_seed", "random_state", "rng"),
    ("l2", "weight_decay", "wd", "regularisation", "regularization"),
    ("momentum", "beta", "beta1"),
    ("window", "truncation", "truncate", "horizon"),
    ("max_steps", "cg_steps", "terms", "max_iterations"),
    ("ways", "way", "n_way", "num_ways", "num_classes"),
    ("shots", "shot", "k_shot", "num_shots"),
    ("episodes", "meta_batch_size", "tasks_per_batch"),
    ("share", "noise_rate", "noise_ratio", "fraction"),
    ("eval_every", "eval_interval", "eval_freq", "evaluate_every"),
    ("log_every", "log_interval", "log_freq", "print_every"),
    ("save_every", "checkpoint_every", "save_interval", "save_freq"),
    ("dtype", "precision"),
    ("threads", "num_threads", "workers", "num_workers"),
    ("task", "problem", "benchmark"),
    ("method", "algorithm", "hypergradient", "algo"),
    ("solver", "inner_solver", "inner_optimizer"),
    ("optimizer", "outer_optimizer", "optimiser", "optim", "meta_optimizer"),
    ("scheduler", "lr_scheduler", "schedule"),
    ("data", "dataset", "data_set"),
    ("model", "network", "net", "architecture", "arch", "backbone"),
    ("device", "gpu", "accelerator"),
    ("metrics", "metric"),
    ("loggers", "logger"),
)
_MOST = 4  # suggestions in a message


def settings_like(typed: str, known: Iterable[str]) -> list[str]:
    """The settings that a key may have meant, likeliest first.

    Those whose last word is that of the key; else, or names the same thing; else, is spelled
    nearly so. Settings of the group that the key names come first.
    """
    unwanted = (
        r"suggest\.|.*(?:^|\.)_"  # what a task suggests is set by the setting that follows it
    )
    known = list(dict.fromkeys(name for name in known if not re.match(unwanted, name)))
    root, _, _ = typed.partition(".")
    last = typed.rpartition(".")[2]

    def nearness(name: str) -> tuple[bool, int, int]:
        return name.partition(".")[0] != root, name.count("."), known.index(name)

    same = [name for name in known if name.rpartition(".")[2] == last]
    alike = _synonyms(last)
    synonymous = [name for name in known if name.rpartition(".")[2] in alike]
    for found in (same, synonymous):
        within = [name for name in found if name.partition(".")[0] == root]
        if "." in typed and within:
            return sorted(within, key=nearness)[:_MOST]
        if found and found is same:
            return sorted(found, key=nearness)[:_MOST]
    whole = difflib.get_close_matches(typed, known, n=1, cutoff=0.75)
    if whole or synonymous:
        return whole or sorted(synonymous, key=nearness)[:_MOST]
    lasts = {name.rpartition(".")[2]: name for name in sorted(known, key=nearness, reverse=True)}
    near = difflib.get_close_matches(last, lasts, n=1, cutoff=0.7)
    return [lasts[name] for name in near] or difflib.get_close_matches(typed, known, 1, 0.5)


def meant(word: str, folders: Sequence[Path], known: Iterable[str]) -> str:
    """A message about a word that is no setting: `reweight` for task=reweight.

    Args:
        word: As it was typed.
        folders: Where to look besides conf/: what --config-dir names.
        known: The settings of the configuration.
    """
    groups = options.groups()
    if word in groups:
        return f"{word} needs a value: {word}=... See bilevel-run {word}=?"
    if word in set(known):
        return f"{word} needs a value: {word}=..."
    choices: dict[str, list[str]] = {}
    for group in groups:
        for name in options.names(group, folders):
            choices.setdefault(name, []).append(f"{group}={name}")
    name = word if word in choices else next(iter(difflib.get_close_matches(word, choices, 1)), "")
    if name:
        return f"{word!r} alone says too little. Did you mean {either(choices[name])}?"
    near = difflib.get_close_matches(word, [*groups, *known], 1, 0.7)
    near = near or [group for group in groups if group in _synonyms(word)]
    hint = f" Did you mean {near[0]}=...?" if near else ""
    return (
        f"bilevel-run takes group=option and key=value, got {word!r}.{hint}\n"
        "See bilevel-run --help."
    )


def either(names: Sequence[str]) -> str:
    """'a, b or c'."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _synonyms(word: str) -> set[str]:
    return {other for words in SYNONYMS if word in words for other in words}
