"""The covertype table, on small stand-ins: the real one is not shipped."""

import bz2
import gzip
from pathlib import Path

import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from problems import seeded

from bilevel_cli.data.covtype import FEATURES, Covtype

ROWS = [[(7 * row + column) % 5 for column in range(FEATURES)] for row in range(40)]
KINDS = [1 + row % 7 for row in range(40)]


def csv() -> str:
    return "".join(f"{','.join(map(str, row))},{k}\n" for row, k in zip(ROWS, KINDS, strict=True))


def svm() -> str:
    lines = zip(ROWS, KINDS, strict=True)
    return "".join(
        f"{k} {' '.join(f'{i + 1}:{x}' for i, x in enumerate(row) if x)}\n" for row, k in lines
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("covtype.data.gz", gzip.compress(csv().encode())),
        ("covtype.data", csv().encode()),
        ("covtype.bz2", bz2.compress(svm().encode())),
    ],
)
def test_the_files_of_uci_and_of_libsvm_are_the_same_table(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    data = Covtype(str(tmp_path), 20, 10, 10)
    pool, official = data.read()
    assert official is None
    assert torch.equal(pool.x, torch.tensor(ROWS).to(pool.x))
    assert torch.equal(pool.y, torch.tensor(KINDS) - 1)
    parts = data.splits(seeded(0))
    assert [len(part.y) for part in parts] == [20, 10, 10]
    torch.testing.assert_close(parts.train.x.mean(0), torch.zeros(FEATURES), atol=1e-5, rtol=0)


def test_what_is_absent_or_another_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Covtype needs covtype.data.gz of UCI .* Set data.root="):
        Covtype(str(tmp_path), 1, 1, 1).read()
    (tmp_path / "covtype.data").write_text("1,2,3\n")
    with pytest.raises(ValueError, match="should hold rows of 54 features"):
        Covtype(str(tmp_path), 1, 1, 1).read()
    (tmp_path / "covtype.data").write_text(csv().replace(",7\n", ",8\n"))
    with pytest.raises(ValueError, match="should hold classes 1 to 7"):
        Covtype(str(tmp_path), 1, 1, 1).read()
    (tmp_path / "covtype.data").write_text("a,b\n")
    with pytest.raises(ValueError, match="cannot be read"):
        Covtype(str(tmp_path), 1, 1, 1).read()


def test_the_benchmark_penalises_each_class_of_its_softmax_regression(tmp_path: Path) -> None:
    (tmp_path / "covtype.data").write_text(csv())
    sizes = ("data.train=20", "data.validation=10", "data.test=10")
    small = ("task.batch_size=5", "task.outer_batch_size=5", f"data.root={tmp_path}", *sizes)
    config = composed("experiment=benchmark_covtype_soba", *small)
    offered = {"device": torch.device("cpu"), "generator": seeded(0)}
    data, model = instantiate(config.data), instantiate(config.model)
    task = instantiate(config.task, data=data, model=model, **offered)
    outer = task.init_outer(seeded(0))
    assert {name: list(value.shape) for name, value in outer.items()} == {
        "log_penalty.head.weight": [7, 1]
    }
    drawn = task.sample(1, seeded(0))
    inner = {"head.weight": torch.randn(7, FEATURES)}
    penalty = (
        0.5 * outer["log_penalty.head.weight"][:, 0].exp() @ inner["head.weight"].square().sum(1)
    )
    plain = task.outer_loss(inner, outer, drawn.inner_at(0))
    weighted = task.inner_loss(inner, outer, drawn.inner_at(0))
    torch.testing.assert_close(weighted - penalty, plain, rtol=1e-4, atol=1e-4)
