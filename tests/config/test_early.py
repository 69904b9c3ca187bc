"""Wrong values are refused before torch is imported."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from configs import composed
from omegaconf import OmegaConf

from bilevel_cli.config import constructors, early
from bilevel_cli.config.options import groups, names
from bilevel_cli.runs.values import check_values

Q = "task=quadratic"
REFUSED = [
    ([Q, "solver.lr=abc"], "solver.lr needs a number or a Learned, got 'abc'."),
    ([Q, "solver.lr=-1"], "GradientDescent needs a finite step size lr > 0, got lr=-1."),
    ([Q, "outer_steps=-1"], "A run needs outer_steps >= 1, got outer_steps=-1."),
    ([Q, "inner_steps=2.5"], "inner_steps needs a whole number, got 2.5."),
    ([Q, "seed=x"], "seed needs a whole number, got 'x'."),
    ([Q, "replicas=0"], "A run needs replicas from 1 to 10000, got replicas=0."),
    (
        [Q, "device.dtype=float65"],
        "A device needs dtype to be one of float32, float64, got float65.",
    ),
    ([Q, "device.threads=0"], "A device needs threads >= 1 or null, got threads=0."),
    ([Q, "on_divergence=x"], "on_divergence to be one of stop, continue, restore, got x."),
    ([Q, "method=pbgd", "method.gamma=3"], "method.gamma needs a Ramp, got 3. Set method.gamma.i"),
    ([Q, "method=es", "method.std=-1"], "Es needs a finite std > 0, got std=-1"),
    ([Q, "method=fsla", "method.momentum.initial=7"], "Fsla needs a momentum weight <= 1, got mo"),
    (["task.noise.share=2"], "Symmetric needs share in [0, 1), got share=2."),
    (["task.batch_size=x"], "task.batch_size needs a whole number or null, got 'x'."),
    (["optimizer.lr=x"], "optimizer.lr needs a number or a Tensor, got 'x'."),
    (["seed=${nothing}"], "seed reads nothing, which nothing sets."),
]


JUDGED = f"""
import json, sys
sys.path.insert(0, "tests/helpers")
from configs import composed
from bilevel_cli.runs.values import check_values
from bilevel_cli.errors import UsageError
said = []
for overrides, _ in {REFUSED}:
    try:
        check_values(composed(*overrides), {{}})
        said.append("nothing")
    except UsageError as error:
        said.append(str(error))
assert "torch" not in sys.modules
print(json.dumps(said))
"""


def test_a_wrong_value_is_refused_in_the_words_of_its_constructor_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", JUDGED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for said, (overrides, message) in zip(json.loads(done.stdout), REFUSED, strict=True):
        assert message in said, overrides


STRANGER = """
class Base:
    def __init__(self, share):
        if touch():
            raise ValueError("it was carried out")

def touch():
    open(r"%s", "w").close()
    return True
"""


def test_the_checks_of_a_stranger_are_not_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text(STRANGER % (tmp_path / "touched"))
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create({"task": {"_target_": "stranger.Base", "share": 2}})
    early.check(config)
    assert not (tmp_path / "touched").exists()


QUICK = ("task", "solver", "start", "device", "metrics")
GROUPS = [
    pytest.param(group, marks=() if group in QUICK else pytest.mark.slow)
    for group in groups()
    if "/" not in group
]


@pytest.mark.parametrize("group", GROUPS)
def test_no_option_is_refused_as_it_stands(group: str) -> None:
    for option in names(group):
        chosen = f"[{option}]" if group in ("metrics", "loggers") else option
        check_values(composed(f"{group}={chosen}"), {})


def test_checks_parse_no_file_twice_and_no_long_one_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = list[bytes]()

    def noted(source: bytes | str) -> Any:
        parsed.append(source if isinstance(source, bytes) else source.encode())
        return ast.parse(source)

    constructors.parsed.cache_clear()
    # A module of its own, since pytest parses too.
    monkeypatch.setattr(constructors, "ast", SimpleNamespace(**{**vars(ast), "parse": noted}))
    check_values(composed(Q, "method=implicit", "optimizer=sgd"), {})
    files = [source for source in parsed if source.count(b"\n") > 20]
    assert files
    assert len(files) == len(set(files))
    # torch's optimizer.py has 50 kB and lr_scheduler.py 100 kB, which took half of the time.
    assert max(map(len, files)) < 40_000
