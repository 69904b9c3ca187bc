"""What a search chooses from: the ranges and lists that a command line names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer

from bilevel_cli.errors import UsageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Space:
    """The settings of the trials of a search: those that all share, and those that are searched.

    Args:
        shared: Overrides that every trial has.
        searched: By the names of settings, the overrides that name a range or a list.
    """

    shared: list[str]
    searched: dict[str, Override]

    @classmethod
    def of(cls, overrides: Sequence[str], loader: ConfigLoader | None) -> "Space":
        """The space of some overrides, of which the last one of a setting counts.

        Args:
            overrides: Those of hydra.sweeper.params, and then those of the command line.
            loader: Knows the options that `glob(*)` stands for.

        Raises:
            UsageError: Nothing is to be searched.
        """
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        last = {override.get_key_element().lstrip("+~"): override for override in parsed}
        searched = {name: one for name, one in last.items() if one.is_sweep_override()}
        if not searched:
            raise UsageError(
                "A search needs settings to search, got none. Name a range or a list, such as "
                "'solver.lr=interval(0.01,1)' or method=reverse,neumann."
            )
        shared = [str(one.input_line) for name, one in last.items() if name not in searched]
        return cls(shared, searched)

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """What Optuna draws the searched settings from.

        Raises:
            UsageError: A range is empty, or a logarithmic one holds zero.
        """
        found = {}
        for name, override in self.searched.items():
            try:
                found[name] = _distribution(override)
            except ValueError as error:
                reason = " ".join(str(error).split())
                raise UsageError(
                    f"{name} needs a range that can be searched, got {override.input_line}: "
                    f"{reason}"
                ) from error
        return found

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial.

        Args:
            values: Of the searched settings, as Optuna chose them.
        """
        chosen = [
            f"{override.get_key_element()}={values[name]}"
            for name, override in self.searched.items()
        ]
        return [*self.shared, *chosen]


def _distribution(override: Override) -> "BaseDistribution":
    from optuna.distributions import (  # here: it takes a second to import
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    sweep: Any = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high, log = sweep.start, sweep.end, "log" in sweep.tags
        assert low is not None
        assert high is not None
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(low, high, log=log)
    values: list[Any] = [*override.sweep_iterator(transformer=Transformer.encode)]
    if not values:
        raise ValueError("it is empty.")
    if not override.is_range_sweep():
        return CategoricalDistribution(values)
    values, step = sorted(values), abs(sweep.step)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(values[0], values[-1], step=int(step))
    return FloatDistribution(values[0], values[-1], step=float(step))
