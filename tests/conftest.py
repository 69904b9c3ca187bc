from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def double_precision_without_grad() -> Iterator[None]:
    """Tests compare derivatives to 1e-9, in the mode in which the runner works."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        yield
    torch.set_default_dtype(torch.float32)
