"""Several tasks: what may be said of a method on all of them, and what it took to reach a target.

A score of one task says nothing beside a score of another. So runs of several tasks are first
compared task by task (`across/apart.py`), each at its own metric, direction and budget. Then

* each task ranks its configurations (`across/friedman.py`), which needs no common scale;
* scores are put on one (`across/normalised.py`), for means and performance profiles;
* pairs are compared (`across/pairings.py`, `across/improvement.py`): how probably is a run of one
  better than a run of the other, and on how many tasks is that no chance.

`across/overall.py` has all of it in one `Overall`, `across/told.py` what it says in sentences;
`across/printed.py` and `across/exported.py` show it, and `page/overview.py` on the page.
`across/reached.py` asks what it took to reach a target, and `across/tidy.py` writes a row a run.
"""
