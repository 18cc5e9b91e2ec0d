"""One driver a run: whose lease counts."""

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.running.lease import BusyError, Lease, holder
from orchestrator.storage.store import StorageError, Store
from orchestrator.worker.training_progress import epochs_reached


def test_a_driver_that_was_replaced_stops(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = Lease(store), Lease(store)
    first.renew({}, now=True)
    with pytest.raises(BusyError, match="another driver is at work"):
        second.renew({}, now=True)
    store.delete("driver.json")
    second.renew({"train": 1}, now=True)
    with pytest.raises(BusyError, match=r"wait for it, or stop it with `kill \d+`"):
        first.renew({}, now=True)
    first.release()
    held = holder(store)
    assert held
    assert held.running == {"train": 1}
    second.release()
    assert holder(store) is None


def changed(store: Store, age: float = 0.0, **changes: object) -> None:
    """Change what the driver said, and how long ago it said it."""
    content = {**json.loads(store.read("driver.json")), **changes}
    store.write(json.dumps(content).encode(), "driver.json")
    then = time.time() - age
    os.utime(store.path("driver.json"), (then, then))


@pytest.mark.parametrize(
    ("stale", "age"),
    [
        ({"pid": 2**22 + 1}, 0.0),  # above the largest process id
        ({"created": 1e9}, 0.0),  # another process has the id now, as after the restart of a container
        ({"processes": "another machine"}, 61.0),
        ({"processes": None, "created": None}, 61.0),  # as version 0.1 wrote it
        ({"processes": "another machine", "renewed": "2090-01-01T00:00:00Z"}, 61.0),  # its clock is ahead
        ({"processes": "another machine"}, -7200.0),  # the clock of the storage was ahead
        ({"pid": "no number"}, 0.0),
    ],
)
def test_a_dead_drivers_lease_is_no_hindrance(tmp_path: Path, stale: dict, age: float) -> None:
    store = Store(tmp_path)
    Lease(store).renew({}, now=True)
    changed(store, age, **stale)
    assert holder(store) is None
    Lease(store).renew({}, now=True)
    assert os.listdir(tmp_path) == ["driver.json"]


@pytest.mark.parametrize("renewed", ["2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z"])
def test_a_lease_of_another_host_counts_while_it_is_renewed(tmp_path: Path, renewed: str) -> None:
    """By the clock of the storage: that of the host may be wrong."""
    store = Store(tmp_path)
    Lease(store).renew({}, now=True)
    changed(store, 30.0, host="elsewhere", processes="another machine", renewed=renewed)
    with pytest.raises(BusyError, match=r"on elsewhere.*stops counting after 60 s$") as refused:
        Lease(store).check()
    assert "kill" not in str(refused.value), "nobody knows which process that would be here"


def test_a_driver_elsewhere_that_was_heard_of_lately_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that starts again at once goes on by itself; a living driver is noticed by its next heartbeat."""
    monkeypatch.setattr("orchestrator.running.lease.POLL_SECONDS", 0.01)
    monkeypatch.setattr("orchestrator.running.lease.STALE_SECONDS", 1.0)
    store, said = Store(tmp_path), list[str]()
    Lease(store).renew({}, now=True)
    changed(store, 0.5, processes="another machine")
    Lease(store).check(said.append)
    assert holder(store) is None
    assert "waiting up to 1 s for a sign of life" in said[0]

    def alive(text: str) -> None:
        changed(store, processes="another machine", renewed="2030-01-01T00:00:00Z")

    changed(store, processes="another machine")
    with pytest.raises(BusyError, match="another driver is at work"):
        Lease(store).check(alive)


def test_a_process_of_this_host_counts_while_it_lives(tmp_path: Path) -> None:
    """It may be busy for longer than others wait for a sign, for instance with merging files."""
    store = Store(tmp_path)
    first = Lease(store)
    first.renew({}, now=True)
    earlier = first.mine.renewed - timedelta(minutes=10)
    store.write(first.mine.model_copy(update={"renewed": earlier}).model_dump_json().encode(), "driver.json")
    with pytest.raises(BusyError):
        Lease(store).check()


def test_storage_that_does_not_answer_for_a_while_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    lease = Lease(store)
    lease.renew({}, now=True)

    def busy(*_: object) -> None:
        raise OSError("AWS Error SLOW_DOWN")

    monkeypatch.setattr("orchestrator.running.lease.RENEW_SECONDS", 0.0)
    for method in ("read", "names"):
        monkeypatch.setattr(Store, method, busy)
    lease.renew({})
    assert epochs_reached(store, ["a"]) == {}
    with pytest.raises(OSError, match="SLOW_DOWN"):
        lease.renew({}, now=True)


def test_a_full_disk_is_left_to_the_tasks_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(Store(tmp_path))
    lease.renew({}, now=True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "_write", full)
    monkeypatch.setattr("orchestrator.running.lease.RENEW_SECONDS", 0.0)
    lease.renew({})
    with pytest.raises(StorageError, match="No space left"):
        lease.renew({}, now=True)
