"""Ranks, intervals and tests, against their definitions and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.exhibits import ranking
from reports.statistics import average_ranks, by_method, kruskal_wallis, over_seeds, paired_differences


def rows(accuracies: dict[str, list[list[float]]], **columns: object) -> pd.DataFrame:
    """Evaluations: for each method a list of cells, each a list over seeds."""
    return pd.DataFrame(
        {
            "model": "net",
            "dataset": "digits",
            "pipeline": "whole-data",
            "criterion": "l1",
            "stage": "pruned",
            "note": "",
            "group": float(cell),
            "target_sparsity": 0.5,
            "method": method,
            "seed": seed,
            "accuracy": accuracy,
            **columns,
        }
        for method, cells in accuracies.items()
        for cell, seeds in enumerate(cells)
        for seed, accuracy in enumerate(seeds)
    )


def test_ties_share_their_ranks_and_seeds_are_averaged() -> None:
    frame = rows({"a": [[80, 90], [70, 70]], "b": [[86, 86], [70, 70]], "c": [[84, 86], [10, 10]]})
    assert average_ranks(by_method(frame)).to_dict() == {"a": 2.0, "b": 1.25, "c": 2.75}


def test_only_cells_that_all_methods_have_are_compared() -> None:
    frame = rows({"a": [[80], [70]], "b": [[90]]})
    assert len(by_method(frame)) == 1


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    conventional, other = generator.normal(70, 2, (2, 3, 5))
    found = paired_differences(by_method(rows({"conventional": conventional, "other": other})), "conventional")
    test = stats.ttest_rel(other.mean(0), conventional.mean(0))
    low, high = test.confidence_interval(0.95)
    assert found.loc["other", ["mean", "low", "high", "p", "n"]].tolist() == pytest.approx(
        [(other - conventional).mean(), low, high, test.pvalue, 5]
    )


def test_p_is_corrected_for_the_methods_beside_the_reference() -> None:
    generator = np.random.default_rng(0)
    accuracies = dict(zip(["conventional", "a", "b", "c"], generator.normal(70, 2, (4, 3, 5)), strict=True))
    accuracies["exact"] = accuracies["conventional"] + 1
    found = paired_differences(by_method(rows(accuracies)), "conventional")["p"]
    reference = accuracies.pop("conventional").mean(0)
    accuracies.pop("exact")
    alone = [stats.ttest_rel(values.mean(0), reference).pvalue for values in accuracies.values()]
    first, second, third = sorted(alone)
    expected = np.maximum.accumulate([3 * first, 2 * second, third]).clip(max=1)
    assert sorted(found[["a", "b", "c"]]) == pytest.approx(expected)
    assert found["exact"] < 1e-9
    assert np.isnan(found["conventional"])


def test_one_seed_has_no_interval() -> None:
    found = paired_differences(by_method(rows({"conventional": [[1.0]], "other": [[3.0]]})), "conventional")
    assert found.loc["other", "mean"] == 2
    assert found[["low", "high", "p"]].isna().all(axis=None)


def test_kruskal_and_wallis_cell_by_cell() -> None:
    cells = np.random.default_rng(1).normal(70, 1, (3, 4, 6)).round(1)
    cells[:, 3] = 50.0
    found = kruskal_wallis(rows(dict(zip("abc", cells, strict=True))), ["group", "criterion"], "method")
    expected = [stats.kruskal(*cells[:, cell]).pvalue for cell in range(3)]
    assert found.tolist() == pytest.approx([*expected, 1.0])


def test_kruskal_and_wallis_leave_out_what_has_one_row() -> None:
    samples = {"a": [[1, 2, 3], [1, 2]], "b": [[2, 4], [5]], "c": [[9], [5]]}
    found = kruskal_wallis(rows(samples), ["group"], "method")
    assert found[0.0] == pytest.approx(stats.kruskal([1, 2, 3], [2, 4]).pvalue)
    assert np.isnan(found[1.0])


def test_the_verdict_says_what_the_data_supports() -> None:
    frame = rows(
        {
            "conventional": [[60, 61, 62]],
            "better": [[70, 72, 73]],
            "worse": [[50, 51, 53]],
            "alike": [[59, 62, 62]],
        }
    )
    assert ranking.sentences(frame) == [
        "net, one group: better is above; worse is below; alike is not surely different from conventional pruning "
        "(paired test over 3 seeds at 5 %, corrected for 3 comparisons)."
    ]
    (one_seed,) = ranking.sentences(frame[frame["seed"] == 0])
    assert "no interval" in one_seed
    assert ranking.sentences(frame[frame["method"] != "conventional"]) == []


def test_models_and_scopes_are_ranked_apart() -> None:
    two = {"conventional": [[60, 62]], "other": [[70, 70]]}
    frame = pd.concat([rows(two), rows(two, group=None), rows(two, group=None, stage="fine-tuned", model="second")])
    tables = dict(ranking.ranked(frame))
    assert [row[:3] for row in tables["ranks"].rows[::2]] == [
        ["net", "one group", "other"],
        ["net", "all groups", "other"],
        ["second", "all groups, fine-tuned", "other"],
    ]
    assert tables["ranks"].rows[0][3:] == ["1.00", "70.00", "+9.00", "−3.71 to +21.71", "0.070", "1", "2"]
    assert [row[4] for row in tables["kruskal-wallis"].rows] == ["all", "all", "0"]
    assert "kruskal-wallis" not in dict(ranking.ranked(frame[frame["seed"] == 0]))


def test_the_cells_behind_each_mean_are_its_own_and_what_is_published_has_none() -> None:
    frame = rows({"b": [[1, 2], [3, 4]], "a": [[5, 6], [7, 8]]})
    frame["cell"] = [f"{row.method}{row.group:g}-{row.seed}" for row in frame.itertuples()]
    frame = pd.concat([frame.sample(frac=1, random_state=0), rows({"published": [[9]]})])
    means = over_seeds(frame, ["method", "group"], cells=True).set_index(["method", "group"])
    assert {key: set(cells) for key, cells in means["cells"].items()} == {
        **{(m, float(g)): {f"{m}{g}-0", f"{m}{g}-1"} for m in "ab" for g in (0, 1)},
        ("published", 0.0): set(),
    }
    assert means["mean"]["a", 1.0] == 7.5
    assert over_seeds(frame[:0], ["method"], cells=True).empty
