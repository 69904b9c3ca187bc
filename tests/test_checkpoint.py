"""Checkpoints are whole or absent, no larger than what they hold, and never executed."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_structure

from bilevel_cli import checkpoint

STATE: dict[str, Any] = {
    "step": 3,
    "seconds": 1.5,
    "name": "quadratic",
    "none": None,
    "outer": {"lam": torch.tensor([1.0, 2.0], dtype=torch.float64)},
    "carry": {"inner": {"inner": {"z": torch.zeros(2, 3)}, "count": torch.tensor(4.0)}},
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0]}]},
    "sampling": torch.Generator().manual_seed(7).get_state(),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


class Execution:
    """What a pickle of it runs when it is loaded in full."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_a_checkpoint_loads_as_it_was_saved(path: Path) -> None:
    checkpoint.save(path, STATE)
    found = checkpoint.load(path)
    assert tree_structure(found) == tree_structure(STATE)
    for leaf, expected in zip(tree_leaves(found), tree_leaves(STATE), strict=True):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(leaf, expected, rtol=0, atol=0)
        else:
            assert leaf == expected
    generator = torch.Generator()
    generator.set_state(found["sampling"])
    assert torch.equal(
        torch.rand(5, generator=generator),
        torch.rand(5, generator=torch.Generator().manual_seed(7)),
    )
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_an_optimizer_goes_on_from_its_checkpoint(path: Path) -> None:
    def step(optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        x.grad = x**3
        optimizer.step()

    x = torch.tensor([1.0, -2.0])
    optimizer = torch.optim.Adam([x], lr=0.1)
    step(optimizer, x)
    checkpoint.save(path, {"x": x, "optimizer": optimizer.state_dict()})
    found = checkpoint.load(path)
    other = torch.optim.Adam([found["x"]], lr=0.1)
    other.load_state_dict(found["optimizer"])
    for _ in range(2):
        step(optimizer, x)
        step(other, found["x"])
    assert torch.equal(x, found["x"])


def test_a_tensor_that_needs_a_gradient_is_saved_without_it(path: Path) -> None:
    with torch.enable_grad():
        lam = torch.ones(2, requires_grad=True)
        checkpoint.save(path, {"lam": lam, "attached": 2 * lam})
    assert not any(value.requires_grad for value in checkpoint.load(path).values())


@pytest.mark.parametrize("culprit", ["save", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, culprit: str
) -> None:
    checkpoint.save(path, {"step": 1})
    save = torch.save

    def half(state: Any, file: Any) -> None:
        save(state, file)
        file.truncate(100)
        raise OSError("no space left")

    def fail(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(*((torch, "save", half) if culprit == "save" else (os, culprit, fail)))
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    monkeypatch.undo()
    checkpoint.save(path, {"step": 3})
    assert checkpoint.load(path) == {"step": 3}
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_new_checkpoint_is_on_disk_before_it_takes_the_place_of_the_old(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, int]] = []
    replace = os.replace

    def noted_replace(source: Path, target: Path) -> None:
        events.append(("replace", source.stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda file: events.append(("sync", os.fstat(file).st_size)))
    monkeypatch.setattr(os, "replace", noted_replace)
    checkpoint.save(path, STATE)
    size = path.stat().st_size
    assert events == [("sync", size), ("replace", size)]


def test_a_view_is_saved_without_what_it_is_a_view_of(path: Path) -> None:
    whole = torch.zeros(1_000_000)
    views = {"views": [whole[:2], {"again": whole[5:7]}], "expanded": whole[:1].expand(4, 250)}
    checkpoint.save(path, views)
    # 8 MB behind 1004 numbers: 8 kB of them, and the archive's own few.
    assert path.stat().st_size < 20_000
    torch.testing.assert_close(checkpoint.load(path), views, rtol=0, atol=0)


def test_a_checkpoint_is_never_executed(path: Path) -> None:
    trace = path.parent / "executed"
    message = r"needs a whole checkpoint, got .*checkpoint\.pt, which cannot be read: "
    for write in (
        torch.save,
        lambda state, path: path.write_bytes(pickle.dumps(state, protocol=2)),
    ):
        write({"step": Execution(trace)}, path)
        with pytest.raises(ValueError, match=message):
            checkpoint.load(path)
        assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # as it would have been


def test_a_truncated_checkpoint_is_refused(path: Path) -> None:
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for size in range(1, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cannot be read: .* Remove the file to start over"):
            checkpoint.load(path)


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ValueError, match="needs a whole checkpoint, got"):
        checkpoint.load(path)


def test_tensors_move_to_a_device_and_the_rest_stays() -> None:
    tree: Any = {"a": torch.ones(2), "b": {"c": torch.zeros(()), "d": 3, "e": None}, "f": "text"}
    found = checkpoint.to_device(tree, torch.device("meta"))
    assert found["a"].device.type == found["b"]["c"].device.type == "meta"
    assert (found["b"]["d"], found["b"]["e"], found["f"]) == (3, None, "text")
    assert tree["a"].device.type == "cpu"
    assert checkpoint.to_device(7, torch.device("meta")) == 7


@pytest.mark.parametrize("content", [b"", b"step,loss\n1,0.5\n", b"\x80\x02]q\x00.", bytes(300)])
def test_whatever_lies_in_its_place_is_refused_in_one_way(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="A run that continues needs a whole checkpoint"):
        checkpoint.load(path)
