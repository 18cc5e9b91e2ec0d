"""All exhibits by id: those of any run, and the paper's tables and figures."""

from reports.exhibits.any_run import ANY_RUN
from reports.exhibits.exhibit import Exhibit
from reports.exhibits.paper import PAPER

EXHIBITS: dict[str, Exhibit] = {**ANY_RUN, **PAPER}
# Figures of the paper that one entry holds together.
TOGETHER = {
    **{f"figure-{number}": "figures-8-14" for number in range(8, 15)},
    **{f"figure-{number}": "figures-15-18" for number in range(15, 19)},
}
