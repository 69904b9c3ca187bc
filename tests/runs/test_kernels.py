"""Runs whose kernels are chosen by measuring repeat bit for bit, wherever they go on."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runners import built
from torch import Tensor

import bilevel_cli
from bilevel_cli.machine import place
from bilevel_cli.machine.device import settings_restored
from bilevel_cli.nn import choosing
from bilevel_cli.runs.clock import Clock

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this build of torch has no oneDNN",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a run on images of the size of MNIST's, whose products are worth a choice."""
    random, y = np.random.default_rng(0), np.arange(800) % 10
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, x=random.integers(0, 255, (800, 784)).astype(np.uint8), y=y)
    data = ["data=npz", f"data.path={path}", "data.train=500", "data.validation=250"]
    return ["task=reweight", *data, "inner_steps=2", "solver.lr=0.05", "log_every=1"]


@pytest.fixture
def deciding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Has all cases that are measured from now on decided for one kernel, with an empty cache."""
    folders = iter(range(100))

    def decide(kernel: str) -> None:
        folder = tmp_path / f"cache{next(folders)}"
        monkeypatch.setattr(choosing, "user_cache", lambda: folder)
        monkeypatch.setattr(choosing, "decided", lambda *_: kernel)

    return decide


def carried_out(folder: Path, *settings: str) -> tuple[dict[str, str], Tensor]:
    """The kernels that a run took, and the weights that it learned."""
    with settings_restored():
        run = built(folder, *settings)
        run.run()
        run.save()
        return choosing.current().taken, run.state.outer["weight_logits"]


def test_a_run_that_is_stopped_and_goes_on_elsewhere_is_the_uninterrupted_one_bit_for_bit(
    images: list[str], deciding: Callable[[str], None], tmp_path: Path
) -> None:
    deciding("torch")
    taken, weights = carried_out(tmp_path / "whole", *images, "outer_steps=4")
    assert set(taken.values()) == {"torch"}
    deciding("onednn")  # another machine
    _, others = carried_out(tmp_path / "other", *images, "outer_steps=4")
    assert not torch.equal(others, weights)

    deciding("torch")
    carried_out(tmp_path / "stopped", *images, "outer_steps=2")
    deciding("onednn")
    followed, found = carried_out(tmp_path / "stopped", *images, "outer_steps=4")
    assert followed == taken
    assert torch.equal(found, weights)


def test_the_manifest_notes_which_kernels_a_run_took_and_what_choosing_cost(
    images: list[str], deciding: Callable[[str], None], tmp_path: Path
) -> None:
    deciding("torch")
    bilevel_cli.run(*images, "device=cpu", "outer_steps=1", folder=tmp_path / "run")
    noted = json.loads((tmp_path / "run" / "manifest.json").read_text())["kernels"]
    threads = torch.get_num_threads()
    product = "product [500, 784] by [10, 784] in rows and rows"
    case = f"{product}, threads={threads}, matmul_precision=highest"
    assert noted["taken"][case] == "torch"
    assert noted["seconds"] > 0
    assert noted["processor"] == choosing.processor()
    assert noted["instructions"].startswith(torch.backends.cpu.get_cpu_capability())


@pytest.mark.parametrize("how", ["several processes", "deterministic", "fixed"])
def test_kernels_are_the_usual_ones_where_nothing_can_or_may_be_measured(
    how: str, images: list[str], deciding: Callable[[str], None], monkeypatch: Any, tmp_path: Path
) -> None:
    deciding("torch")
    settings = {
        "several processes": "device.linear=auto",
        "deterministic": "device.deterministic=true",
        "fixed": "device.linear=fixed",
    }
    if how == "several processes":
        monkeypatch.setattr(place, "here", lambda: place.Place(0, 2, 0, 2))
    with settings_restored():
        run = built(tmp_path / "run", *images, settings[how])
        with torch.no_grad():
            run.estimate(*next(run._advance()))
        assert not choosing.current().measuring
        assert not choosing.current().taken


def test_the_clock_of_a_run_stands_still_while_kernels_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]

    def kernel() -> Tensor:
        now[0] += 1
        return torch.ones(1)

    clock, choices = Clock(), choosing.Choices(True, tmp_path)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock.start()
    chosen = choices.fastest("case", "usual", {"usual": kernel, "other": kernel}, to_measure=True)
    assert choices.seconds > 0
    chosen()
    clock.stop()
    assert clock.seconds == 1.0
