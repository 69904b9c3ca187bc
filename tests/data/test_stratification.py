"""Parts and folds of own data have their share of every class; those of published sets stay."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import standins
import torch
from configs import options, settings_of
from data_files import built
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import seeded
from torch import Tensor

from bilevel_cli.config.constructors import attribute
from bilevel_cli.data.arrays import Arrays
from bilevel_cli.data.base import Examples, Labelled, Source, Splits
from bilevel_cli.data.breast_cancer import BreastCancer
from bilevel_cli.data.image_folder import ImageFolder
from bilevel_cli.data.stratification import stratified, stratified_folds
from bilevel_cli.data.table import RegressionTable, Table

pytestmark = pytest.mark.usefixtures("data_cache")

OWN = {"table", "regression_table", "targets_table", "npz", "image_folder", "pairs"}
COUNTS = st.lists(st.sampled_from([0, 1, 2, 3, 4, 7, 20, 60]), min_size=1, max_size=12)


def shuffled(counts: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Labels with these numbers of rows in each class, and the rows in random order."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seeded(seed))]
    return labels, torch.randperm(len(labels), generator=seeded(seed + 1))


def present(labels: Tensor, rows: Tensor) -> set[int]:
    return set(labels[rows].tolist())


@settings(max_examples=150, deadline=None)
@given(COUNTS, st.lists(st.floats(0, 1), min_size=1, max_size=3), st.integers(0, 2**31))
def test_parts_have_their_sizes_and_every_class_for_which_there_is_room(
    counts: list[int], shares: list[float], seed: int
) -> None:
    labels, order = shuffled(counts, seed)
    sizes: list[int] = []
    for share in shares:
        sizes.append(round(share * (len(order) - sum(sizes))))
    parts = stratified(order, labels, sizes)
    assert [len(rows) for rows in parts] == sizes
    assert len(set(torch.cat(parts).tolist())) == sum(sizes)
    for rows, again in zip(parts, stratified(order, labels, sizes), strict=True):
        assert torch.equal(rows, again)
    used = [rows for rows in parts if len(rows)]
    for number, rows in enumerate(used):
        # A class of one row has none left for the second part, and so on.
        able = {label for label, count in enumerate(counts) if count > number}
        assert len(present(labels, rows) & able) >= min(len(rows), len(able))


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 300), st.integers(10, 300), st.integers(0, 2**31))
def test_of_two_classes_each_part_has_its_proportion_to_less_than_a_row(
    first: int, second: int, seed: int
) -> None:
    labels, order = shuffled([first, second], seed)
    count = first + second
    sizes = [round(0.5 * count), round(0.2 * count), round(0.2 * count)]
    for rows in stratified(order, labels, sizes):
        assert abs(int((labels[rows] == 0).sum()) - len(rows) * first / count) < 1


@settings(max_examples=60, deadline=None)
@given(COUNTS.filter(any), st.integers(2, 9), st.integers(0, 2**31))
def test_folds_differ_by_one_row_at_most_in_all_and_in_every_class(
    counts: list[int], folds: int, seed: int
) -> None:
    labels, order = shuffled(counts, seed)
    fold = stratified_folds(order, labels, folds)
    for which in [fold, *(fold[labels == label] for label in range(len(counts)))]:
        sizes = which.bincount(minlength=folds)
        assert int(sizes.max() - sizes.min()) <= 1


def test_all_options_but_those_of_own_data_are_published_sets() -> None:
    for name in options("data"):
        node = settings_of("data", name)
        data = instantiate(node)
        if isinstance(data, Source):
            assert data.benchmark == (name not in OWN), name
            # As the configuration knows it, without an import.
            assert attribute(node._target_, "benchmark") is data.benchmark


def test_a_published_set_is_cut_as_it_always_was() -> None:
    data = BreastCancer(200, 150, 219)
    order = torch.randperm(569, generator=seeded(3))
    for part, rows in zip(data.splits(seeded(3)), torch.split(order, [200, 150, 219]), strict=True):
        assert torch.equal(part.index, rows)
    folds = data.folds(torch.zeros(569, dtype=torch.long), 5, seeded(3))
    assert torch.equal(folds, order % 5)


def rare_labels(count: int) -> list[str]:
    """Two usual classes and one of three rows, the last ones."""
    return [*["no", "yes"] * ((count - 3) // 2), *["rare"] * 3]


def table(path: Path, count: int, **columns: object) -> Path:
    frame = pd.DataFrame({"x": np.arange(count) ** 2, **columns, "y": rare_labels(count)})
    frame.to_csv(path, index=False)
    return path


def own(tmp_path: Path, kind: str) -> Examples:
    labels = rare_labels(41)
    if kind == "npz":
        np.savez(tmp_path / "my.npz", x=np.arange(41.0)[:, None], y=np.array(labels))
        return built(Arrays, "npz", path=str(tmp_path / "my.npz"))
    if kind == "table":
        return built(Table, "table", path=str(table(tmp_path / "my.csv", 41)), target="y")
    standins.write_images(tmp_path, classes=2, images=19, size=4)
    standins.write_images(tmp_path / "more", classes=1, images=3, size=4)
    (tmp_path / "more" / "n00").rename(tmp_path / "rare")
    (tmp_path / "more").rmdir()
    return built(ImageFolder, "image_folder", root=str(tmp_path), size=4)


@pytest.mark.parametrize("kind", ["table", "npz", "image_folder"])
def test_a_class_of_three_rows_of_own_data_is_in_every_part(tmp_path: Path, kind: str) -> None:
    data = own(tmp_path, kind)
    rare = data.class_names.index("rare")
    for seed in range(5):
        parts = data.splits(seeded(seed))
        assert [len(part.y) for part in parts] == [25, 8, 8]
        assert [int((part.y == rare).sum()) for part in parts] == [1, 1, 1]
    other = data.splits(seeded(5))
    assert not torch.equal(parts.train.index, other.train.index)


def test_a_class_known_to_be_clean_in_part_is_in_every_part(tmp_path: Path) -> None:
    clean = np.arange(61) % 2 == 0  # of the rare class, rows 58 to 60: two of them
    path = table(tmp_path / "my.csv", 61, checked=clean)
    settings = {"path": str(path), "target": "y", "clean": "checked", "validation": 20}
    for seed in range(5):
        parts: Splits = built(Table, "table", **settings).splits(seeded(seed))
        assert [len(part.y) for part in parts] == [31, 20, 10]
        assert [int(clean[part.index].sum()) for part in parts] == [1, 20, 10]
        assert [int((part.y == 1).sum()) for part in parts] == [1, 1, 1]
        assert len(set(torch.cat([part.index for part in parts]).tolist())) == 61


def test_rows_with_a_real_target_are_cut_at_random(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(50) ** 2, "price": np.arange(50) ** 3})
    frame.to_csv(tmp_path / "my.csv", index=False)
    path = str(tmp_path / "my.csv")
    data = built(RegressionTable, "regression_table", path=path, target="price")
    order = torch.randperm(50, generator=seeded(0))
    for part, rows in zip(data.splits(seeded(0)), torch.split(order, [30, 10, 10]), strict=True):
        assert torch.equal(part.index, rows)


class Mine(Examples):
    """A class of somebody's own, with an official test set."""

    num_classes = 3

    def read(self) -> tuple[Labelled, Labelled]:
        def part(y: list[int]) -> Labelled:
            return Labelled(torch.zeros(len(y), 1), torch.tensor(y), torch.arange(len(y)))

        return part([0] * 30 + [1] * 30 + [2] * 2), part([0] * 90 + [1] * 9 + [2])


def test_a_class_of_ones_own_is_own_data_and_its_test_set_is_shared_out_too() -> None:
    parts = Mine(30, None, 10).splits(seeded(0))
    assert [part.y.bincount().tolist() for part in parts] == [[15, 14, 1], [15, 16, 1], [8, 1, 1]]
