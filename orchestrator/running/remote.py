"""What Ray calls in its workers: a function that first makes sure that our code is the code that runs.

Ray puts the driver's working folder and the folder of its script before everything else where a worker looks for
modules. A user's folder `reports/` or file `statistics.py` there would stand in for ours or Python's, and a clone of
metaprune that lies there for the one that the driver runs. So the function travels by value, together with
its arguments as bytes, and both are read only after it has put things in order.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray.cloudpickle

from metaprune._packages import ROOT, script_folder
from orchestrator.worker.work import Context, Outcome, Work

Body = Callable[[Sequence[Work], Context], list[Outcome]]


def end_running(references: "Sequence[ray.ObjectRef[Any]]") -> None:
    """End the processes of the tasks that still run.

    A task that has just ended is left alone: to cancel it while Ray takes its result in ends this process with a
    failed check of Ray's own (ray-project/ray#54260).
    """
    if not references:
        return
    with contextlib.suppress(Exception):  # Ray may have ended, too
        _, running = ray.wait(list(references), num_returns=len(references), timeout=0)
        for reference in running:
            ray.cancel(reference, force=True)


@dataclass(frozen=True)
class RemoteBody:
    """The body of a task in the form that Ray can send.

    Attributes:
        function: takes bytes; to be given to `ray.remote`.
        body: what it calls in the worker.
    """

    function: Callable[[bytes], list[Outcome]]
    body: Body

    def submit(self, remote_function: Any, work: Sequence[Work], context: Context) -> "ray.ObjectRef[Any]":
        """Send work to the remote form of `function`."""
        reference: ray.ObjectRef[Any] = remote_function.remote(ray.cloudpickle.dumps((self.body, work, context)))
        return reference


def in_worker(body: Body) -> RemoteBody:
    """Let a body run in workers on the driver's own packages, where the node has them, else on the installed ones."""
    root = ROOT
    shadowing = [folder for folder in (os.getcwd(), script_folder()) if folder and folder != root]

    def function(arguments: bytes) -> Any:
        # Ray sends a module's function by name, to be imported, but a function within another one by value. Nothing of
        # ours may be named here, not even in annotations, before the lines below have run.
        import os
        import pickle
        import sys

        if "metaprune" not in sys.modules:
            sys.path[:] = [*(entry for entry in sys.path if entry not in shadowing), *shadowing]
            here = os.path.isdir(os.path.join(root, "metaprune"))
            sys.path[:0] = [root] if here else []
            import metaprune  # noqa: F401 - from here on its packages are found beside it

            if here:
                sys.path.remove(root)
        body, work, context = pickle.loads(arguments)
        return body(work, context)

    return RemoteBody(function, body)
