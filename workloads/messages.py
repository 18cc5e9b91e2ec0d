"""What is told of an exception."""


def first_line(error: BaseException) -> str:
    """Type of an exception and the first line of its message."""
    return f"{type(error).__name__}: {message(error)}"


def message(error: object) -> str:
    """The first line of an exception's message."""
    return str(error).strip().partition("\n")[0]
