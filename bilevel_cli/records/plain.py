"""Text that others wrote, in letters that a terminal shows and does not obey."""


def plain(text: str, most: int | None = None) -> str:
    r"""Text on one line, without letters that a terminal obeys or that hide others.

    White space becomes a space. Control letters, marks that change the direction of writing,
    letters without a width and bytes that are no UTF-8 become escapes, such as \x1b and \u202e.

    Args:
        text: Any, such as the error of a run in a folder that somebody else prepared.
        most: How many letters there may be then; the rest becomes "...". None for all.
    """
    some = text if most is None else text[: most + 1]
    if not some.isprintable():
        some = "".join(" " if letter.isspace() else _shown(letter) for letter in some)
    return some if most is None or len(some) <= most else f"{some[: most - 3]}..."


def plain_name(name: str) -> str:
    r"""The name of a file in letters that `plain` keeps. Two names never become the same."""
    name = name.replace("\\", r"\\")
    return name if name.isprintable() else "".join(map(_shown, name))


def _shown(letter: str) -> str:
    if letter.isprintable():
        return letter
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # os.fsdecode: a byte that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
