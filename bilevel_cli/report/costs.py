"""What runs spend: a record for each cost, with everything that reports call it.

A cost is a column of train.csv. To report another column as a cost, add a record to `COSTS`: all
tables, the axes of the page, the budgets of --at and the sentences follow. This module imports
nothing, so that --help answers at once.
"""

from dataclasses import dataclass

STEP, SECONDS = "step", "seconds"  # the costs that eval.csv knows too


@dataclass(frozen=True)
class Cost:
    """A cost of a run.

    Attributes:
        column: Its name in train.csv.
        heading: The head of its column in a terminal and in papers, where there is little room.
        title: The head of its column in the table of the page.
        axis: What the axis is called where curves are drawn against it; None: they never are.
        budget: What --at calls a budget of it; None: there is no such budget.
        unit: What a statement says after the limit of such a budget, as in "20 outer steps".
        sentence: Where runs are compared, in the headline of the page, with braces for the limit.
        peak: Whether it is the most that was taken at once, such as memory, and no sum over steps.
            A budget of a peak is one in which runs fit, not one that they reach. There are no mean
            curves against a peak: it hardly grows, and differs between seeds by accident.
    """

    column: str
    heading: str
    title: str
    axis: str | None
    budget: str | None
    unit: str
    sentence: str
    peak: bool


COSTS = (
    Cost(
        column=STEP,
        heading="steps",
        title="steps",
        axis="outer steps",
        budget="steps",
        unit="outer steps",
        sentence="after {:,.10g} outer steps",
        peak=False,
    ),
    Cost(
        column=SECONDS,
        heading="seconds",
        title="seconds",
        axis="seconds",
        budget="seconds",
        unit="seconds of training",
        sentence="within {:,.4g} seconds",
        peak=False,
    ),
    Cost(
        column="inner_grads",
        heading="grads",
        title="inner gradients",
        axis="inner gradients",
        budget="inner_grads",
        unit="inner gradients",
        sentence="within {:,.10g} inner gradients",
        peak=False,
    ),
    Cost(
        column="hvps",
        heading="products",
        title="Hessian products",
        axis=None,
        budget=None,
        unit="Hessian products",
        sentence="within {:,.10g} Hessian products",
        peak=False,
    ),
    Cost(
        column="peak_memory_mb",
        heading="MB",
        title="memory (MB)",
        axis="peak memory (MB)",
        budget="peak_memory_mb",
        unit="MB of memory",
        sentence="within {:,.4g} MB",
        peak=True,
    ),
)


def columns() -> list[str]:
    """The columns of all costs, in the order of tables."""
    return [cost.column for cost in COSTS]


def cost_of(column: str) -> Cost:
    """The cost with this column."""
    return next(cost for cost in COSTS if cost.column == column)


def axes() -> dict[str, str]:
    """The names of the axes that curves are drawn against, by column."""
    return {cost.column: cost.axis for cost in COSTS if cost.axis is not None}


def budgets() -> dict[str, str]:
    """The columns of the costs that --at knows, by the names that it has for them."""
    return {cost.budget: cost.column for cost in COSTS if cost.budget is not None}
