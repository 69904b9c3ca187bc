"""A user's own table."""

from bilevel_cli.data.table.source import OwnTable as OwnTable
from bilevel_cli.data.table.source import RegressionTable as RegressionTable
from bilevel_cli.data.table.source import Table as Table
