"""The script that `ray submit cluster.yaml orchestrator/submit.py run EXPERIMENT ...` carries to the head node.

It is `metaprune` on the cluster that it finds itself on.
"""

import os
import sys

if __name__ == "__main__":
    # As a script its own folder leads the path, where modules such as `plan` would hide others of that name.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    os.environ.setdefault("RAY_ADDRESS", "auto")

    from metaprune.__main__ import main

    main()
