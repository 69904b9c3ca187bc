"""Whether the GPU of this machine gives the numbers of its CPU, and what it is worth.

    make verify-gpu PYTHON=python3      on a machine with a GPU: offline, in under ten minutes
    python3 -m benchmarks.verify --simulate --out DIR      the same on a simulated GPU: a dry run

A section is a file in `sections/`. It has items, and a function that checks one of them and returns
a `Row` (`rows.py`). Processes of their own claim the items of a section (`worker.py`), so one that
is killed takes one item with it, and each section has its own time (`schedule.py`). The page and
the JSON are written anew after each section (`page.py`).
"""
