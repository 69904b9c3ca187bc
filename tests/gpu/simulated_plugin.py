"""pytest -p simulated_plugin -m gpu: the tests marked gpu, on the simulated device."""

import contextlib

import pytest
import simulated_cuda  # before torch

_simulation = contextlib.ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    _simulation.enter_context(simulated_cuda.simulated())


def pytest_unconfigure(config: pytest.Config) -> None:
    _simulation.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("gpu"):
            if reason := mark.kwargs.get("hardware"):
                item.add_marker(pytest.mark.skip(f"only a real GPU shows it: {reason}"))
