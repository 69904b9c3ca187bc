"""Speed and memory against the published implementations of the same hypergradients.

    python -m benchmarks all        everything, in about 20 minutes on two cores
    python -m benchmarks all --size quick --rounds 3 --seconds 6
    python -m benchmarks report     docs/benchmarks.md from the CSV files of a full run alone
    python -m benchmarks --help     the other things to measure, each with options of its own

Raw measurements go to a folder of CSV files, outputs/benchmarks_full; tables of anything but a full
run stay beside theirs. A workload (`workloads/`) states
a problem once; a peer (`peers/`) is one published library, used as its own documentation shows, and
is left out where it is not installed.
"""
