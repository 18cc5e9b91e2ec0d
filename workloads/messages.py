"""Short texts of exceptions for users."""


def is_from_outside(error: BaseException) -> bool:
    """Whether it is how Ray ends a worker that gets SIGTERM: no fault of the code that ran."""
    return hasattr(error, "ray_terminate_msg")


def first_line(error: BaseException) -> str:
    """Type of an exception and the first line of its message."""
    return f"{type(error).__name__}: {message(error)}"


def message(error: object) -> str:
    """The first line of an exception's message."""
    return text_of(error).strip().partition("\n")[0]


def text_of(error: object) -> str:
    """An exception's whole message, also where that cannot be made or is not what UTF-8 can hold."""
    try:
        return printable(str(error))
    except Exception:  # of the user's exceptions, whose `__str__` may raise anything
        return "it has a text that cannot be shown"


def printable(text: str) -> str:
    """Text whose letters UTF-8 can hold; others, such as bytes of a file's name, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def counted(number: int, what: str) -> str:
    """A number of things: `1 stage`, `2 stages`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
