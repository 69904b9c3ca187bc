"""A user's own table."""

from bilevel_cli.data.table.predicted import RegressionTable as RegressionTable
from bilevel_cli.data.table.predicted import Table as Table
from bilevel_cli.data.table.predicted import TargetsTable as TargetsTable
from bilevel_cli.data.table.source import OwnTable as OwnTable
