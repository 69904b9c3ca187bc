"""LastSteps keeps the contract of methods, and refuses what it cannot use."""

import pytest

from bilevel_cli import check_method
from bilevel_cli.skeletons.method.last_steps import LastSteps


def test_the_contract_of_methods_is_kept() -> None:
    check_method(LastSteps(window=2))


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window >= 1, got 0"):
        LastSteps(window=0)
