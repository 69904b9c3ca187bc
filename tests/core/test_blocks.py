"""Minibatches are blocks, which every epoch visits once each, and which weigh examples alike."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bilevel_cli.core.blocks import Blocks, check_batch_size, epochs, epochs_ahead, mean
from bilevel_cli.core.random import Epoch, Stream
from bilevel_cli.runs import checkpoint


def stream(seed: int = 0) -> Stream:
    source = Stream()
    source.manual_seed(seed)
    return source


def plain(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("counts", [[1] * 21, [2] * 11, [3, 1, 9, 5, 4], [20, 1]])
def test_an_epoch_of_a_stream_has_each_number_once_whatever_the_calls(counts: list[int]) -> None:
    source = stream()
    drawn = torch.cat([epochs("inner", 7, count, source) for count in counts])
    for epoch in drawn[:21].reshape(3, 7):
        assert epoch.sort().values.tolist() == list(range(7))
    # Three epochs in one order would be a cycle, not a sample.
    assert len({tuple(epoch.tolist()) for epoch in drawn[:21].reshape(3, 7)}) > 1


def test_how_a_stream_is_asked_does_not_change_what_it_says() -> None:
    one, other = stream(), stream()
    at_once = epochs("inner", 5, 12, one)
    assert torch.equal(at_once, torch.cat([epochs("inner", 5, 1, other) for _ in range(12)]))


SIZES = {"inner": 1, "outer": 5, "meta": 12}  # a name has one size, as `epochs` asks for
ASKED = st.lists(st.tuples(st.sampled_from(sorted(SIZES)), st.integers(1, 13)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(ASKED, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_epochs_drawn_ahead_are_those_of_the_steps(
    asked: list[tuple[str, int]], stretches: list[int], seed: int
) -> None:
    # Some names are asked for twice in a step, some take more than an epoch, some exactly one.
    step = [Epoch(name, SIZES[name], taken) for name, taken in asked]
    ahead, one_by_one = stream(seed), stream(seed)
    for steps in stretches:
        found = epochs_ahead(step, steps, ahead)
        rows = [[epochs(*epoch, one_by_one) for epoch in step] for _ in range(steps)]
        for place, numbers in enumerate(found):
            assert torch.equal(numbers, torch.stack([row[place] for row in rows]))
        # A checkpoint between two stretches is that of single steps, entry by entry.
        left, right = ahead.state(), one_by_one.state()
        assert torch.equal(left["random"], right["random"])
        assert list(left["orders"]) == list(right["orders"])
        assert all(torch.equal(left["orders"][n], right["orders"][n]) for n in left["orders"])


def test_epochs_of_two_names_do_not_mix() -> None:
    source = stream()
    drawn: dict[str, list[Tensor]] = {"inner": [], "outer": []}
    for _ in range(6):
        drawn["inner"].append(epochs("inner", 6, 1, source))
        drawn["outer"].append(epochs("outer", 3, 1, source))
    assert torch.cat(drawn["inner"]).sort().values.tolist() == list(range(6))
    assert torch.cat(drawn["outer"][:3]).sort().values.tolist() == list(range(3))
    assert torch.cat(drawn["outer"][3:]).sort().values.tolist() == list(range(3))


def test_a_plain_generator_draws_what_its_seed_says_and_nothing_earlier_changes() -> None:
    fresh, used = plain(), plain()
    epochs("inner", 9, 4, used)
    used.manual_seed(0)
    assert torch.equal(epochs("inner", 9, 4, fresh), epochs("inner", 9, 4, used))
    assert not torch.equal(epochs("inner", 9, 9, plain(0)), epochs("inner", 9, 9, plain(1)))


def test_the_first_epoch_of_a_stream_is_that_of_a_plain_generator() -> None:
    assert torch.equal(epochs("inner", 9, 9, stream(3)), epochs("inner", 9, 9, plain(3)))


@pytest.mark.parametrize("before", [0, 3, 7, 10])
def test_a_restored_stream_continues_bit_for_bit(before: int, tmp_path: Path) -> None:
    source = stream()
    for _ in range(before):
        epochs("inner", 7, 1, source)
        epochs("outer", 4, 1, source)
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"sampling": source.state()})
    expected = [epochs(name, size, 5, source) for name, size in (("inner", 7), ("outer", 4))]
    expected.append(torch.rand(3, generator=source))

    other = stream(99)
    epochs("inner", 7, 2, other)
    other.restore(checkpoint.load(path)["sampling"])
    found = [epochs(name, size, 5, other) for name, size in (("inner", 7), ("outer", 4))]
    found.append(torch.rand(3, generator=other))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_saved_state_does_not_move_with_the_stream() -> None:
    source = stream()
    epochs("inner", 7, 3, source)
    state = source.state()
    left = state["orders"]["inner"].clone()
    epochs("inner", 7, 6, source)
    assert torch.equal(state["orders"]["inner"], left)


@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (10, 5), (10, 10), (7, 4), (7, 1)])
def test_the_mean_over_blocks_is_the_mean_over_examples(size: int, batch_size: int) -> None:
    losses = torch.randn(size)
    blocks = Blocks({"loss": losses, "row": torch.arange(size)}, batch_size)
    assert blocks.count == -(-size // batch_size)
    drawn = blocks.draw("inner", blocks.count, plain())
    means = [
        mean(drawn["loss"][k], {name: value[k] for name, value in drawn.items()})
        for k in range(blocks.count)
    ]
    torch.testing.assert_close(torch.stack(means).mean(), losses.mean(), rtol=1e-13, atol=1e-15)
    # A repeated example counts for nothing; each true one occurs with the weight of all others.
    weights = torch.zeros(size).index_add(0, drawn["row"].flatten(), drawn["weight"].flatten())
    torch.testing.assert_close(weights, torch.full((size,), blocks.count / size), rtol=0, atol=0)


def test_a_block_says_its_number_and_always_holds_the_same_examples() -> None:
    blocks = Blocks({"row": torch.arange(10), "x": torch.randn(10, 2, 3)}, 4)
    source = stream()
    seen: dict[int, Tensor] = {}
    for _ in range(9):
        one = blocks.one("inner", source)
        number = int(one["block"])
        assert one["x"].shape == (4, 2, 3)
        assert torch.equal(seen.setdefault(number, one["row"]), one["row"])
    assert sorted(seen) == [0, 1, 2]
    assert {int(row) for rows in seen.values() for row in rows} == set(range(10))


def test_all_examples_at_once_are_neither_copied_nor_weighted_nor_random() -> None:
    x = torch.randn(10, 3)
    source = plain()
    before = source.get_state()
    batch = Blocks({"x": x}, None).draw("inner", 1000, source)
    assert set(batch) == {"x", "block"}
    assert batch["x"].shape == (1000, 10, 3)
    assert batch["x"].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert batch["block"].tolist() == [0] * 1000
    assert torch.equal(source.get_state(), before)
    one = Blocks({"x": x}, None).one("outer", source)
    assert torch.equal(mean(one["x"][:, 0], one), x[:, 0].mean())


def test_blocks_that_divide_the_examples_share_their_memory() -> None:
    x = torch.randn(12, 3)
    found = Blocks({"x": x}, 4).tensors["x"]
    assert found.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_that_cannot_be_cut_is_refused(batch_size: int) -> None:
    message = (
        f"Task needs batch_size from 1 to 10, all its examples, got batch_size={batch_size}. "
        "Use batch_size=null for all of them."
    )
    with pytest.raises(ValueError, match=message):
        check_batch_size("Task", "batch_size", batch_size, 10)
    for accepted in (None, 1, 10):
        check_batch_size("Task", "batch_size", accepted, 10)
