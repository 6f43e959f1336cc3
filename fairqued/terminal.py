r"""Text that came from elsewhere, for a terminal: whatever that would act upon is written as \x1b, \u202e and so on."""


def escaped(text: str) -> str:
    """`text` on one line, made of printable characters alone."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def escaped_lines(text: str) -> str:
    """The same, where lines may stay lines."""
    return "\n".join(map(escaped, text.splitlines()))
