"""Which labels of a table are wrong: how many, which rows, and how sure that is.

`examine.py` is the door. A run of `experiment=label_errors` and tree ensembles each say what they
expect of rows that they have not seen (`forests.py`), `opinion_pool.py` weighs them by how well
they expect, and `error_rates.py` makes of that a probability for each label and a number for all.
"""
