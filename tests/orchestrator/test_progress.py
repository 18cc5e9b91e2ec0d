import io
from collections import Counter

import pytest
from rich.console import Console

from orchestrator.running.progress import LiveProgress, LogProgress, duration, frequency


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr("orchestrator.running.progress.time.monotonic", lambda: now[0])
    return now


def test_the_log_says_how_far_how_fast_and_how_long(clock: list[float]) -> None:
    stream = io.StringIO()
    log = LogProgress(stream)
    log.start(Counter(train=1, compress=5), Counter(compress=1), cost=50.0)
    clock[0] += 10
    log.finished("train", "a", 20.0, None)
    log.running(Counter(compress=2))
    assert "stages, " not in stream.getvalue(), "not every stage is a line"
    clock[0] += 10
    log.finished("compress", "b", 5.0, "ValueError: broken")
    log.finished("compress", "c", 5.0, None)
    clock[0] += 10
    log.running(Counter(compress=1))
    log.stop()
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "6 stages (train 1, compress 5); 1 already done",
        "FAILED compress b: ValueError: broken",
        "3/6 stages, 1 failed, 0 running, 6/min, 30 s elapsed, 20 s left",
    ]


def test_silence_is_broken_by_a_line_while_long_stages_run(clock: list[float]) -> None:
    stream = io.StringIO()
    log = LogProgress(stream)
    log.start(Counter(train=1), Counter(), cost=50.0)
    for _ in range(31):
        clock[0] += 1
        log.running(Counter(train=1))
    assert stream.getvalue().count("0/1 stages, 0 failed, 1 running") == 2
    clock[0] += 3600
    for _ in range(121):
        clock[0] += 1
        log.running(Counter(train=1))
    assert stream.getvalue().count("0/1 stages, 0 failed, 1 running") == 2 + 3, "once a minute in a long run"


def test_frequencies() -> None:
    assert [frequency(rate) for rate in (123.4, 12.0, 1.0, 0.9, 0.1, 0.001, 0.0)] == [
        "123/s", "12/s", "1/s", "54/min", "6/min", "3.6/h", "0/h",
    ]  # fmt: skip


def test_the_live_view_counts_by_kind() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    live = LiveProgress(console)
    live.start(Counter(train=2, compress=4), Counter(), cost=6.0)
    live.running(Counter(train=1))
    live.finished("train", "k", 1.0, None)
    live.finished("compress", "k", 1.0, "ValueError: [red]not markup")
    live.stop()
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]not markup" in printed
    with console.capture() as capture:
        console.print(live.view())
    rows = [line.split() for line in capture.get().splitlines()]
    assert ["train", "1", "0", "0", "2"] in rows
    assert ["compress", "0", "0", "1", "4"] in rows
    assert "1/6 stages, 1 failed, 0 running" in capture.get()


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
