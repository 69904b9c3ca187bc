"""TwoLayers is a function of its parameters, with the derivatives that methods take."""

from functools import partial

import torch

from bilevel_cli import build
from bilevel_cli.skeletons.model.two_layers import TwoLayers


def test_the_model_is_accepted_and_has_second_derivatives() -> None:
    model = build(partial(TwoLayers, width=4), (1, 8, 8), 10, torch.device("cpu"))
    assert model.not_twice == ""
    params = model.init(torch.Generator().manual_seed(0))
    assert model.apply(params, torch.rand(3, 1, 8, 8)).shape == (3, 10)
