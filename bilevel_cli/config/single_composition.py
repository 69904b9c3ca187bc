"""How often Hydra composes the configuration of a single run: once."""

import contextlib
from collections.abc import Iterator
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig

MODE = "hydra.mode=RUN"  # what Hydra adds to a command line that chooses no mode

loader: Any = ConfigLoaderImpl


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Has Hydra run the very configuration in which it has looked up `hydra.mode`.

    Hydra composes the configuration of a single run, reads its mode, throws it away, and composes
    the same again: 0.08 seconds of CPU time. What cannot be composed as a single run, such as a
    sweep, is left to Hydra as it was.
    """
    theirs = loader.load_configuration
    asked: dict[tuple[str | None, tuple[str, ...]], DictConfig] = {}

    def load_configuration(
        self: Any,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        given = (self, config_name, overrides)
        if not validate_sweep_overrides:  # Hydra looks up the mode
            with contextlib.suppress(Exception):  # which Hydra meets again, and tells
                config: DictConfig = theirs(*given, RunMode.RUN, from_shell)
                asked[config_name, (*overrides, MODE)] = config
                return config
        found = asked.pop((config_name, tuple(overrides)), None)
        if found is None or run_mode is not RunMode.RUN:
            return theirs(*given, run_mode, from_shell, validate_sweep_overrides)
        found.hydra.mode = RunMode.RUN
        found.hydra.overrides.hydra.append(MODE)
        return found

    loader.load_configuration = load_configuration
    try:
        yield
    finally:
        loader.load_configuration = theirs
