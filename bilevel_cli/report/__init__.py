"""From folders of runs to what may be said of them. Reads files that runs left; imports no torch.

    read -> compare -> show, across, page

1. Read (`read/runs.py`). Every folder with a manifest or a table is a `Run`: its status, its
   settings, train.csv and eval.csv. Rows that a crash tore are left out (`read/tables.py`). What
   was read before comes from the user's cache (`read/contents.py`, `read/cache.py`).
2. Group (`compare/configurations.py`). Runs that differ by their seed alone are a `Configuration`,
   named by the few options that tell it from the others.
3. Choose a budget (`compare/question.py`). The user asks for a metric and for a `Budget` of one
   cost, such as 15 000 inner gradients. Without a limit it is the most that all reached.
4. Measure (`compare/measure.py`). The column of a run with what had been spent at each row is a
   `Course`; its last value within the budget is the number of the run.
5. Compare (`compare/compare.py`, `compare/statistics.py`). The numbers of a configuration become a
   mean with an interval over seeds, a `Row`; the best is marked, and what ties with it.
6. Say what it means (`compare/statements.py`, `compare/fairness.py`). Sentences name the metric,
   the budget, and every run that is not in a mean; warnings name what else differed, such as data.
   All of this is a `Report` (`compare/comparison.py`), the only thing that is shown.
7. Show it: in a terminal (`show/terminal.py`), in papers (`show/papers.py`, `show/figures.py`), on
   a page with curves (`page/page.py`). Which curves stand in front, in which plot and colour, says
   `show/lineup.py`, and which range tells them apart `show/scale.py`. `show/watch.py` does all of
   this again and again, and `outputs.py` names the files that can be written.
8. Of several tasks, each is a comparison of its own, and they are then taken together
   (`across/__init__.py`). What it took to reach a target, and a row for each run, are there too.

What a cost is called in all of these is in `costs.py`, a record for each. A part imports those
before it in this order and none after it: costs, read, compare, show, across, page, outputs.
"""
