"""`python -m benchmarks.stochastic CASE SIZE DATA`: one case, in a fresh process."""

import sys

from benchmarks.stochastic import measure

if __name__ == "__main__":
    measure.one(*sys.argv[1:])
