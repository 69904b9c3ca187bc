"""Every task, data set and method that we ship runs down its inner loss as it comes, or says so."""

import subprocess
import sys
from pathlib import Path

import pytest
from configs import SHARED_DATA, one_in
from runners import built

from bilevel_cli.config.options import pairs
from bilevel_cli.errors import UsageError
from bilevel_cli.runs.runner import Runner

READ = {"mnist", "fashion_mnist", "cifar10", "ijcnn1", "omniglot"}
PART = ["data.train=1000", "data.validation=200"]  # of images that are transformed: all take 7 GB
# No data of ours, which a step size could be said to fit.
OF_THE_USER = {"table", "regression_table", "npz", "image_folder"}
OF_THE_USER |= {"mini_imagenet", "tiered_imagenet", "cifar_fs"}
SOME = {("reweight", "mnist"), ("reweight", "fashion_mnist")}  # of those that take a while to read
FITTING = [
    (task, data)
    for task, fitting in pairs().items()
    for data in fitting or [""]
    if data not in OF_THE_USER
]
PAIRS = [
    pytest.param(*pair, marks=[] if pair in SOME else [pytest.mark.slow])
    if pair[1] in READ
    else one_in(3, n, *pair)
    for n, pair in enumerate(FITTING)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of CIFAR-10, as it is read."""
    folder = tmp_path_factory.mktemp("cifar10")
    script = SHARED_DATA / "unpack_cifar10.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("task", "data"), PAIRS)
def test_the_inner_loss_falls_on_every_pair_of_task_and_data(
    task: str, data: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chosen = [f"task={task}", *([f"data={data}"] if data else [])]
    if data in READ:
        if not SHARED_DATA.is_dir():
            pytest.skip("needs shared/data beside the checkout")
        folder = request.getfixturevalue("root") if data == "cifar10" else SHARED_DATA
        chosen += [f"data.root={folder}"]
        if task == "augmentation" and data != "ijcnn1":
            chosen += PART
    try:
        run = built(tmp_path, "method=none", "outer_steps=1", "retrain=null", *chosen)
    except UsageError as error:  # of a default that does not fit; it says what does
        pytest.skip(str(error))
    row = first_row(run)
    assert not run.judgement.descent.doubts(row, run.state.outer), row


def first_row(run: Runner) -> dict[str, float]:
    """What a row would say of the inner loss of the first outer step; without an evaluation."""
    outer, data, carry = next(run._advance())
    estimate = run.estimate(outer, data, carry)
    found = run.judgement.descent.measure(outer, data, carry, estimate.carry)
    return {"outer_loss": 0.0} | {name: float(value) for name, value in found.items()}
