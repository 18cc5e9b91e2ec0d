"""One driver a run: whose lease counts."""

import json
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
    with pytest.raises(BusyError, match=r"it stops counting after 60 s"):
        first.renew({}, now=True)
    first.release()
    held = holder(store)
    assert held
    assert held.running == {"train": 1}
    second.release()
    assert holder(store) is None


@pytest.mark.parametrize(
    "stale",
    [
        {"pid": 2**22 + 1},  # above the largest process id
        {"renewed": "2020-01-01T00:00:00Z"},
        {"host": "elsewhere", "renewed": "2020-01-01T00:00:00Z"},
        {"pid": "no number"},
    ],
)
def test_a_dead_drivers_lease_is_no_hindrance(tmp_path: Path, stale: dict) -> None:
    store = Store(tmp_path)
    Lease(store).renew({}, now=True)
    store.write(json.dumps({**json.loads(store.read("driver.json")), **stale}).encode(), "driver.json")
    assert holder(store) is None
    Lease(store).renew({}, now=True)


def test_a_lease_of_another_host_counts_while_it_is_renewed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    Lease(store).renew({}, now=True)
    other = {**json.loads(store.read("driver.json")), "host": "elsewhere", "pid": 2**22 + 1}
    store.write(json.dumps(other).encode(), "driver.json")
    with pytest.raises(BusyError, match="on elsewhere"):
        Lease(store).check()


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
