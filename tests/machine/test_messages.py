"""What processes of one run tell each other."""

import errno

import pytest
import torch

from bilevel_cli.errors import UsageError, refusal
from bilevel_cli.machine import messages
from bilevel_cli.runs.divergence import Diverged


class Odd(Exception):
    """Built of other things than its words."""

    def __init__(self, *, step: int) -> None:
        super().__init__(f"at {step}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError("A run needs more."), UsageError),
        (Diverged("At step 3."), Diverged),
        (torch.linalg.LinAlgError("singular"), torch.linalg.LinAlgError),  # type: ignore[attr-defined]
        (OSError(errno.ENOSPC, "No space left"), OSError),
        (Odd(step=3), RuntimeError),
    ],
)
def test_an_error_is_told_with_its_class_and_where_it_came_from(
    error: Exception, kind: type[Exception]
) -> None:
    told = messages._value(messages._bytes(messages.described(error, "On rank 1")))
    found = messages.error_of(told)
    assert type(found) is kind
    assert str(error) in str(found)
    assert found.__notes__[0].startswith("On rank 1: ")
    assert refusal(found, [errno.ENOSPC]) is (found if isinstance(error, OSError) else None)


def test_a_class_that_is_no_error_is_not_built() -> None:
    found = messages.error_of(["subprocess", "Popen", ["touch evil"], "note"])
    assert str(found) == "Popen: touch evil"


def test_a_message_that_names_a_function_is_refused() -> None:
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        messages._value(messages._bytes({"run": print}))
