"""A signal that asks a driver to end is what it says it ended by, whatever else happens on the way out."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.running.dispatch import Dispatcher
from orchestrator.running.driver import AskedToEnd, terminable


def fail_on_the_way_out(number: signal.Signals, way_out: BaseException) -> None:
    """Send this process a signal, and let clearing up after it fail."""
    with terminable():
        try:
            signal.raise_signal(number)
        finally:
            raise way_out


@pytest.mark.parametrize("way_out", [ValueError("Ray has ended, too"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_what_fails_after_a_signal_does_not_hide_it(number: signal.Signals, way_out: BaseException) -> None:
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
    monkeypatch.setattr("orchestrator.running.dispatch.ray", ray)
    dispatcher: Any = SimpleNamespace(in_flight={"ended": (), "running": ()})
    Dispatcher.end_tasks(dispatcher)
    assert cancelled == ["running"]
