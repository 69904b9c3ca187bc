"""Which column of a table a setting means."""

from collections.abc import Sequence

import pandas as pd

from bilevel_cli.data.table import columns
from bilevel_cli.data.table.name import Name
from bilevel_cli.errors import hint


def column_of(frame: pd.DataFrame, setting: str, title: str | None, name: Name) -> columns.Column:
    """The column that a setting names.

    Raises:
        ValueError: There is none of that name, the setting is null, or the values are lists or
            the like.
    """
    (found,) = known(frame, setting, [title], name)
    columns.refuse_no_scalars(frame[found], name)
    return frame[found]


def known(frame: pd.DataFrame, setting: str, titles: Sequence[str | None], name: Name) -> list[str]:
    """The titles that a setting lists, once each of them is a column's.

    Raises:
        ValueError: One of them is not.
    """
    there = [str(column) for column in frame.columns]
    found = []
    for title in titles:
        if title is None or title not in there:
            listed = ", ".join(there[:20]) + ", ..." * (len(there) > 20)
            raise ValueError(
                f"{name.who} needs {setting} to be a column of {name.path}, got "
                f"{title or 'null'}{hint(str(title), there)} It has {listed}. "
                f"Set data.{setting}."
            )
        found.append(title)
    return found
