"""How commands end that cannot go on: one sentence, and an exit status."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import typer

from workloads.messages import text_of

INTERRUPTED = 130
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


def fail(error: Exception, status: int, text: str = "") -> NoReturn:
    """Say in one sentence what went wrong, or where it was raised if METAPRUNE_TRACEBACK is set, and exit."""
    if os.environ.get("METAPRUNE_TRACEBACK"):
        raise error
    typer.echo(f"metaprune: {text or text_of(error)}", err=True)
    raise typer.Exit(status) from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Say that a command was stopped where Ctrl-C ends the block, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("metaprune: stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def refusing_bad_input() -> Iterator[None]:
    """Turn what the library says of bad input into one sentence and exit status 2."""
    try:
        with interruptible():
            yield
    except (ValueError, OSError) as error:
        fail(error, 2)


def refuse_empty(arguments: list[str]) -> None:
    """Refuse arguments without a letter: what a script has for an unset variable would else mean the default."""
    for before, argument in zip(["metaprune", *arguments], arguments, strict=False):
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            where = f"what follows '{before}'" if argument == "" else f"'{argument}'"
            typer.echo(f"metaprune: {where} is empty: give a value, or leave it out", err=True)
            sys.exit(2)
