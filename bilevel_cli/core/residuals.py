"""What the numbers of one row say against the estimate, in the words that all methods share."""

# Where v solves H v = b to the relative residual r, its relative error lies between r / cond(H) and
# r * cond(H). So with r = 0.1 the adjoint is off by ten per cent where H is a multiple of the
# identity, and by an unknown share elsewhere: the most that "solved" may mean.
UNSOLVED = 0.1
# The residual of v = 0: above it, the solve did worse than no solve.
WORSE_THAN_NONE = 1.0
ROUNDING = 1e-5  # relative, of a residual in float32


def adjoint_doubt(row: dict[str, float], setting: str) -> dict[str, str]:
    """The doubt that steps on the adjoint lead away from the solution.

    The residual of steps on minibatches is noisy: it tells something only above that of v = 0.

    Args:
        row: One row of train.csv, as in `residual_doubt`.
        setting: The full name of the step size of the adjoint.

    Returns:
        As `residual_doubt`.
    """
    advice = (
        f"Lower {setting}, which follows the step size of the solver (solver.lr), below "
        "2 / (largest eigenvalue of the inner Hessian); or use method=cg."
    )
    return residual_doubt(row, advice, WORSE_THAN_NONE)


def residual_doubt(row: dict[str, float], advice: str, limit: float) -> dict[str, str]:
    """The doubt that the linear system of the adjoint is not solved, where its residual says so.

    Args:
        row: One row of train.csv. Its column `adjoint_residual` is |H v - b| / |b|; without the
            column there is no doubt.
        advice: The settings to change, by their full names, and the methods to use instead.
        limit: The largest residual that is no reason to doubt, such as `UNSOLVED`.

    Returns:
        What was seen, and the advice, under the name "adjoint_residual"; or nothing.
    """
    residual = row.get("adjoint_residual")
    if residual is None or residual <= limit * (1 + ROUNDING):
        return {}
    return {
        "adjoint_residual": (
            "The linear system of the adjoint is not solved, so that the hypergradient can be far "
            f"off: adjoint_residual={residual:.3g}, where at most {limit:g} is trusted. {advice}"
        )
    }
