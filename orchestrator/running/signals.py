"""The signals that ask a run to end, and who takes them: the driver alone.

Slurm and systemd send them to every process of a job, a terminal SIGHUP to every one that it started. Ray's processes
would end by them at once, and with them the trainings that the driver is about to ask for a snapshot.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


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
def terminable() -> Iterator[Callable[[], object]]:
    """Let the signals that ask a program to end do so as Ctrl-C does; a second one does not disturb the clearing up.

    Ctrl-C raises KeyboardInterrupt, the others `AskedToEnd`, which is one.

    Batch systems send SIGTERM or SIGUSR1 before they take a machine away, and a terminal SIGHUP when it is closed.

    Yields:
        A function that puts the handlers in place again, for when something has replaced them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        if len(asked) == 1:
            raise meaning(signum)
        if asked.count(signal.SIGINT) > 2:
            os._exit(130)  # for somebody who cannot wait; batch systems say the others more than once

    def heed() -> dict[signal.Signals, Any]:
        heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        return {number: signal.signal(number, stop) for number in heeded}

    before = heed()
    try:
        yield heed
    except (Exception, KeyboardInterrupt) as stopped:
        # Compiled code of Ray's passes each one on as a plain one, and clearing up may fail where Ray ends as well.
        if not asked or isinstance(stopped, type(meaning(asked[0]))):
            raise
        raise meaning(asked[0]) from stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def sheltered() -> Iterator[None]:
    """Block these signals in this thread for the length of a block, in processes that it starts meanwhile for good.

    Only SIGKILL ends those then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
