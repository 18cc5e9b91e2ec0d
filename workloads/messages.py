"""Short texts of exceptions for users."""


def first_line(error: BaseException) -> str:
    """Type of an exception and the first line of its message."""
    return f"{type(error).__name__}: {message(error)}"


def message(error: object) -> str:
    """The first line of an exception's message."""
    return str(error).strip().partition("\n")[0]


def counted(number: int, what: str) -> str:
    """A number of things: `1 stage`, `2 stages`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
