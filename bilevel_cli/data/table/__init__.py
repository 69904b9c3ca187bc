"""A user's own table."""

from bilevel_cli.data.table.source import OwnTable as OwnTable
from bilevel_cli.data.table.targets import RegressionTable as RegressionTable
from bilevel_cli.data.table.targets import Table as Table
