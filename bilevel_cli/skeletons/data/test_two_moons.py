"""TwoMoons gives every example to one part, with the label that it should have."""

import torch

from bilevel_cli.skeletons.data.two_moons import TwoMoons


def test_every_example_is_in_one_part() -> None:
    parts = TwoMoons(50, 0.1, None, None, None).splits(torch.Generator().manual_seed(0))
    assert [len(part.y) for part in parts] == [60, 20, 20]
    index = torch.cat([part.index for part in parts])
    assert torch.equal(index.sort().values, torch.arange(100))


def test_without_noise_the_points_of_the_first_class_are_on_a_circle() -> None:
    pool, _ = TwoMoons(50, 0.0, None, None, None).read()
    assert pool.x.is_floating_point()
    radius = pool.x[pool.y == 0].norm(dim=1)
    torch.testing.assert_close(radius, torch.ones_like(radius))
