"""A run on a CUDA device is the run on a CPU, whatever is chosen beside task and method."""

import pytest
import shelves
from configs import one_in

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("data_cache")]


@pytest.mark.parametrize(
    "line", [one_in(60, i + 34, " ".join(line)) for i, line in enumerate(shelves.variations())]
)
def test_a_run_on_a_device_is_the_run_on_a_cpu(line: str) -> None:
    assert shelves.faults(*line.split()) == []
