"""pytest -p simulated_plugin -m gpu: the tests marked gpu, on the simulated device."""

import contextlib

import pytest

UNAVAILABLE = 77  # the exit code where this version of torch takes no simulated device

_failure: Exception | None = None
try:
    import simulated_cuda  # before torch
    import torch
except Exception as error:  # whatever another version of torch makes of its private names
    _failure = error

_simulation = contextlib.ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    failure = _failure
    if failure is None:
        try:
            _simulation.enter_context(simulated_cuda.simulated())
            torch.ones(2, device="cuda").add(1).cpu()
        except Exception as error:
            failure = error
    if failure is not None:
        said = f"No simulated CUDA device: {type(failure).__name__}: {failure}"
        pytest.exit(said, returncode=UNAVAILABLE)


def pytest_unconfigure(config: pytest.Config) -> None:
    _simulation.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("gpu"):
            if reason := mark.kwargs.get("hardware"):
                item.add_marker(pytest.mark.skip(f"only a real GPU shows it: {reason}"))
