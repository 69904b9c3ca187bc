"""The two founding papers, run again and compared with what they publish.

    python -m reproductions quick       what fits into 25 minutes on two cores, and the page
    python -m reproductions full        the longer runs too
    python -m reproductions page        docs/reproductions.md from what has been run
    python -m reproductions quick --only memory_toy

An item (`items/`) states the commands of its runs, which numbers of their CSV files are compared
with which published ones, and its figures. Items are found by their files. Runs are in
outputs/reproductions/ITEM/RUN; those that are complete are not run again.
"""
