"""What holds for every data option, and for the sizes of its parts."""

from pathlib import Path

import pytest
import standins
import torch
from configs import composed, options, settings_of
from data_files import message
from hydra.utils import instantiate
from problems import seeded

from bilevel_cli.data.base import (
    SHARES,
    Classes,
    Examples,
    Regression,
    Source,
    TwoClasses,
    shared_out,
)
from bilevel_cli.data.breast_cancer import BreastCancer
from bilevel_cli.data.diabetes import Diabetes
from bilevel_cli.data.digits import Digits
from bilevel_cli.data.ijcnn1 import Ijcnn1
from bilevel_cli.data.representations import Representations

pytestmark = pytest.mark.usefixtures("data_cache")

KINDS = (Source, Classes, Representations)


@pytest.mark.parametrize("name", options("data"))
def test_every_option_is_constructed_without_reading_a_file(name: str, data_cache: Path) -> None:
    assert isinstance(instantiate(settings_of("data", name)), KINDS)
    assert not data_cache.exists()


def test_kinds_of_data_say_what_a_task_may_be_posed_on() -> None:
    assert issubclass(BreastCancer, TwoClasses)
    assert issubclass(Ijcnn1, TwoClasses)
    assert issubclass(TwoClasses, Examples)
    assert not issubclass(Diabetes, Examples)
    assert issubclass(Diabetes, Regression)


@pytest.mark.parametrize("option", options("data"))
def test_every_option_needs_no_file_or_has_a_stand_in_that_it_reads(
    option: str, tmp_path: Path
) -> None:
    write = getattr(standins, option, None)
    data = instantiate(composed(f"data={option}", *(write(tmp_path) if write else [])).data)
    assert isinstance(data, KINDS)
    if isinstance(data, Source):
        parts, again = (data.splits(seeded(0)) for _ in range(2))
        for part, same in zip(parts, again, strict=True):
            assert len(part.x) == len(part.y) == len(part.index) > 0
            assert part.x.dtype == torch.get_default_dtype()
            assert torch.equal(part.x, same.x)
    if isinstance(data, Classes):
        # Enough for an episode of five ways, a shot and a query.
        assert all(part.shape[0] >= 5 and part.shape[1] >= 2 for part in data.classes())
        assert data.split_statement
    if isinstance(data, Representations):
        assert len({len(space) for space in data.spaces()}) == 1


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([None, None, None], [60, 20, 20]),
        ([None, 10, None], [68, 10, 22]),  # 90 as 60 : 20, that is 67.5 and 22.5, rounded to even
        ([30, None, None], [30, 35, 35]),
        ([50, 30, 20], [50, 30, 20]),
        ([None, None], [75, 25]),  # beside an official test set
        ([98, None, None], [98, 1, 1]),
    ],
    ids=str,
)
def test_nulls_share_what_the_other_parts_leave_as_60_20_20(
    sizes: list[int | None], expected: list[int]
) -> None:
    assert shared_out(sizes, 100, SHARES) == expected


def test_a_null_that_is_left_nothing_is_refused() -> None:
    data = Digits(1000, 797, None)
    assert "train + validation + test <= 1797" in message(lambda: data.splits(seeded(0)))
    assert [len(part.y) for part in Digits(None, None, None).splits(seeded(0))] == [1078, 360, 359]
