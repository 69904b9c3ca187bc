"""What is compared: the experiments of the bilevel benchmark whose methods have an update rule."""

import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from bilevel_cli.config.options import CONF
from bilevel_cli.config.resolved import resolved
from bilevel_cli.runs.build import build
from bilevel_cli.runs.runner import Runner

RULES = Path(__file__).parent / "rules"
NEVER = 1_000_000_000
# Of the sizes of the real data, for a machine that does not have them.
TABLE = {"_target_": "benchmarks.data.Points", "shape": [22], "num_classes": 2}
IMAGES = {"_target_": "benchmarks.data.Blobs", "shape": [1, 28, 28], "num_classes": 10}
SYNTHETIC: dict[str, dict[str, dict[str, Any]]] = {
    "full": {
        "ijcnn1": {**TABLE, "train": 49990, "validation": 91701},
        "mnist": {**IMAGES, "train": 20000, "validation": 5000},
    },
    "tiny": {
        "ijcnn1": {**TABLE, "shape": [4], "train": 150, "validation": 100},
        "mnist": {**IMAGES, "shape": [1, 3, 3], "train": 150, "validation": 100},
    },
}
# The published step sizes of ijcnn1 let some methods leave what a float holds, on their way to the
# solution. Time does not depend on them.
SMALL = {"ijcnn1": ("suggest.inner_lr=0.01", "suggest.outer_lr=0.1"), "mnist": ()}


def names() -> list[str]:
    """All cases, "PROBLEM METHOD": MNIST where there is an experiment, ijcnn1 for every rule."""
    methods = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    methods = [name for name in methods if (RULES / f"{_module(name)}.py").exists()]
    found = [f"{problem} {name}" for problem in SYNTHETIC["full"] for name in methods]
    return [name for name in found if name.startswith("ijcnn1") or _experiment(name).exists()]


def configured(name: str, *overrides: str, data: str = "", size: str = "full") -> DictConfig:
    """The configuration of a case, at its published step sizes unless `overrides` say others.

    Args:
        name: Of the case.
        overrides: As on the command line of `bilevel-run`.
        data: The folder of the real data; synthetic ones without it.
        size: Of the synthetic data.
    """
    problem, method = name.split()
    experiment = _experiment(name)
    words = [f"experiment={experiment.stem}"] if experiment.exists() else []
    words = words or [f"experiment=benchmark_{problem}", f"method={method}"]
    words += [f"data.root={data}"] if data else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[*words, *overrides])
    if not data:
        source = SYNTHETIC["tiny" if size == "tiny" else "full"][problem]
        OmegaConf.update(config, "data", source, merge=False, force_add=True)
    return config


def built(config: DictConfig, folder: Path) -> Runner:
    """The run of a configuration."""
    return build(config, resolved(config), folder, {})


def _experiment(name: str) -> Path:
    return CONF / "experiment" / f"benchmark_{name.replace(' ', '_')}.yaml"


def _module(method: str) -> str:
    """The file of `bilevel_cli/methods` that an option of `method` names, or its base does."""
    text = (CONF / "method" / f"{method}.yaml").read_text()
    named = re.search(r"_target_: bilevel_cli\.methods\.(\w+)\.\w+\n", text)
    base = re.search(r"defaults:\n  - (\w+)\n", text)
    if named:
        return named[1]
    return _module(base[1]) if base else ""
