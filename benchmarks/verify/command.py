"""`bilevel-run` on the simulated device: python -m benchmarks.verify.command OVERRIDE..."""

import sys

from benchmarks.verify import simulation


def main() -> None:
    with simulation.entered(simulated=True):
        from bilevel_cli.commands import run  # here: it may import torch, behind the device

        sys.argv[0] = "bilevel-run"
        run.main()


if __name__ == "__main__":
    main()
