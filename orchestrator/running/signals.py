"""The signals that ask a run to end, and who takes them: the driver alone.

Slurm and systemd send them to every process of a job, a terminal SIGHUP to every one that it started. Ray's processes
would end by them at once, and with them the trainings that the driver is about to ask for a snapshot.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterator
from types import FrameType

WARNINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
STOPPING = (signal.SIGINT, *WARNINGS)


class AskedToEnd(KeyboardInterrupt):
    """A batch system or a closed terminal wants the machine back; the run can go on elsewhere or later.

    Attributes:
        signal: that said so, such as SIGTERM.
    """

    def __init__(self, number: int):
        self.signal = signal.Signals(number).name
        super().__init__(self.signal)


def meaning(number: int) -> KeyboardInterrupt:
    """What a signal is raised as."""
    return KeyboardInterrupt() if number == signal.SIGINT else AskedToEnd(number)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let the signals that ask a program to end do so as Ctrl-C does; a second one does not disturb the clearing up.

    Ctrl-C raises KeyboardInterrupt, the others `AskedToEnd`, which is one.

    Batch systems send SIGTERM or SIGUSR1 before they take a machine away, and a terminal SIGHUP when it is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        if len(asked) == 1:
            raise meaning(signum)
        if asked.count(signal.SIGINT) > 2:
            os._exit(130)  # for somebody who cannot wait; batch systems say the others more than once

    heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    except (Exception, KeyboardInterrupt) as stopped:
        # Compiled code of Ray's passes each one on as a plain one, and clearing up may fail where Ray ends as well.
        if not asked or isinstance(stopped, type(meaning(asked[0]))):
            raise
        raise meaning(asked[0]) from stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def sheltered(numbers: Collection[signal.Signals] = WARNINGS) -> Iterator[None]:
    """Block signals in this thread for the length of a block, in processes that it starts meanwhile for good.

    Args:
        numbers: which; Ctrl-C is heeded unless it is among them. Ray keeps that from its processes itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Put this process's handlers of the signals back at the end of a block that replaces them, as Ray's start does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number in STOPPING if (handler := signal.getsignal(number)) is not None}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
