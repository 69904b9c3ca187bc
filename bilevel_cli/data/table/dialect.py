"""How a table writes its values: the settings by which texts become numbers, dates or nothing."""

import codecs
from dataclasses import dataclass, replace
from typing import Any

from bilevel_cli.data.table.name import Name, Value

SPACES = " \u00a0\u202f\u2009"  # plain, no-break, narrow no-break and thin
APOSTROPHES = "'\u2019"
NEGATIVES = ("parentheses", "trailing", "typographic")
ORDERS = ("year_first", "day_first", "month_first")


@dataclass(frozen=True)
class Dialect:
    """How values are written.

    Attributes:
        encoding: Of a CSV file, as Python calls it.
        separator: Between the fields of a CSV file, one character.
        decimal: The decimal sign of numbers, a point or a comma.
        thousands: What separates their thousands; one space or apostrophe stands for all kinds of
            it. "" says that there is none, None that nothing was said.
        signs: Currency, percent and other signs to be removed from numbers.
        negatives: How negative numbers are written besides -1: parentheses, (1); trailing, 1-;
            typographic, with U+2212 or a dash.
        dates: The order of dates besides 2024-05-31: year_first, day_first, month_first or None.
        missing: Texts that mean a missing value, besides an empty field.
        keep_default_na: Whether NA, NaN, None, null and others mean a missing value too.
        text: Columns that are read as texts, whatever is in them.
        sheet: Of a workbook, by its name; None for the only one that is not hidden.
    """

    encoding: str
    separator: str
    decimal: str
    thousands: str | None
    signs: tuple[str, ...]
    negatives: tuple[str, ...]
    dates: str | None
    missing: tuple[str, ...]
    keep_default_na: bool
    text: tuple[str, ...]
    sheet: str | None

    @property
    def numbers(self) -> tuple[str, str]:
        """The decimal sign, and what separates thousands."""
        return self.decimal, self.thousands or ""

    def with_(self, **given: Any) -> "Dialect":
        """With other settings; lists become tuples. What is no setting is passed over."""
        known: dict[str, Any] = {
            name: tuple(map(str, value)) if isinstance(value, list) else value
            for name, value in given.items()
            if name in vars(self)
        }
        found = replace(self, **known)
        return replace(found, separator=found.separator.replace("\\t", "\t"))

    def checked(self, name: Name) -> "Dialect":
        """Itself.

        Raises:
            ValueError: A setting is none of its values, or two contradict each other.
        """

        def refused(setting: str, what: str, value: Value) -> ValueError:
            return ValueError(
                f"{name.who} needs {setting} to be {what}, got {value!r}. Correct "
                f"{name.spell(setting, value)}."
            )

        try:
            known = codecs.lookup(self.encoding)._is_text_encoding
        except (LookupError, ValueError):
            known = False
        if not known:
            raise refused("encoding", "one of Python's, such as utf-8 or cp1252", self.encoding)
        if len(self.separator) != 1 or self.separator in '"\r\n':
            raise refused("separator", "one character", self.separator)
        if self.decimal not in (".", ","):
            raise refused("decimal", "'.' or ','", self.decimal)
        if self.thousands not in (None, "", ".", ",", *SPACES, *APOSTROPHES):
            raise refused("thousands", "'.', ',', a space, an apostrophe or null", self.thousands)
        if self.thousands == self.decimal:
            raise refused("thousands", "another than data.decimal", self.thousands)
        for sign in self.signs:
            # "-" and "(" are no signs to remove: the number would be another one.
            if not sign.strip() or any(c.isdigit() or c in "+-\u2212()" for c in sign[:1]):
                raise refused("signs", "currency signs and the like", self.signs)
        if not set(self.negatives) <= set(NEGATIVES):
            raise refused("negatives", f"of {', '.join(NEGATIVES)}", self.negatives)
        if self.dates not in (None, *ORDERS):
            raise refused("dates", f"one of {', '.join(ORDERS)} or null", self.dates)
        return self


PLAIN = Dialect("utf-8", ",", ".", None, (), (), None, (), True, (), None)
