"""A signal that asks a driver to end is what it says it ended by, whatever else happens on the way out."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.running.dispatch import Dispatcher
from orchestrator.running.signals import WARNINGS, AskedToEnd, handlers_kept, sheltered, terminable


def fail_on_the_way_out(number: signal.Signals, way_out: BaseException) -> None:
    """Send this process a signal, and let clearing up after it fail."""
    with terminable():
        try:
            signal.raise_signal(number)
        finally:
            raise way_out


@pytest.fixture
def heeded(number: signal.Signals) -> Iterator[None]:
    """A process in the background, or after nohup, ignores some signals: not here."""
    before = signal.signal(number, signal.default_int_handler)
    yield
    signal.signal(number, before)


@pytest.mark.parametrize("way_out", [ValueError("Ray has ended, too"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_what_fails_after_a_signal_does_not_hide_it(
    number: signal.Signals, way_out: BaseException, heeded: None
) -> None:
    before = signal.getsignal(number)
    expected = KeyboardInterrupt if number == signal.SIGINT else AskedToEnd
    with pytest.raises(expected) as stopped:
        fail_on_the_way_out(number, way_out)
    assert stopped.type is expected
    assert getattr(stopped.value, "signal", "SIGINT") == number.name
    assert signal.getsignal(number) is before


def test_what_fails_without_a_signal_is_told_as_it_is() -> None:
    with pytest.raises(ValueError, match="no signal"), terminable():
        raise ValueError("no signal")


def test_a_task_that_has_just_ended_is_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray 2.60 ends the driver there, within some hundred attempts."""
    cancelled: list[str] = []
    ray: Any = SimpleNamespace(
        wait=lambda references, num_returns, timeout: (references[:1], references[1:]),
        cancel=lambda reference, force: cancelled.append(reference),
    )
    monkeypatch.setattr("orchestrator.running.remote.ray", ray)
    released: list[str] = []
    dispatcher: Any = SimpleNamespace(in_flight={"ended": (), "running": ()}, release=released.append)
    Dispatcher.end_tasks(dispatcher)
    assert cancelled == ["running"]
    assert released == ["ended", "running"]


def test_what_is_started_in_shelter_takes_no_warning() -> None:
    blocked = "import signal; print(*sorted(s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    with sheltered():
        sheltered_ones = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True)
        assert set(WARNINGS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert sheltered_ones.stdout.split() == sorted(number.name for number in WARNINGS)
    assert not set(WARNINGS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_only_ctrl_c_ends_a_driver_in_a_hurry() -> None:
    """Slurm and srun send one process the same warning several times."""

    def warn_often() -> None:
        with terminable():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                for _ in range(4):
                    signal.raise_signal(signal.SIGTERM)

    with pytest.raises(AskedToEnd, match="SIGTERM"):
        warn_often()


def test_a_signal_to_the_thread_that_starts_ray_is_taken_by_the_drivers_handler() -> None:
    """Ray puts a handler in place that ends the process with status 15."""

    def start() -> None:
        with sheltered(), handlers_kept():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(AskedToEnd, match="SIGTERM"), terminable():
        start()
