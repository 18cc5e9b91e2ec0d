"""Criteria, methods and transport beyond what the golden numbers pin."""

import hashlib
import inspect
import linecache
import sys

import pytest
import torch
import torchvision
from torch import nn

from workloads.compression import Network, Sources, compress, score
from workloads.compression.criteria import CRITERIA, importance
from workloads.compression.methods import METHODS, maps
from workloads.compression.methods.fusing import fusion_preserving
from workloads.compression.methods.selecting import most_important
from workloads.compression.pairings import Pairings
from workloads.compression.transport import exact_plan, pairwise_distances, proportional, uniform
from workloads.config import ChoiceConfig, CompressionConfig
from workloads.plugins import CRITERION, METHOD, MODEL, Plugin
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.finding import trace
from workloads.structure.groups import Group, Maps
from workloads.structure.layers import get_layer


@pytest.fixture
def merged(vgg: nn.Module):
    structure = trace(vgg, torch.zeros(1, 1, 32, 32))
    merge_batch_norm(vgg, structure)
    return vgg, structure.groups


BATCHES = [(torch.randn(16, 1, 32, 32), torch.arange(16) % 10) for _ in range(2)]


def given(model: nn.Module, group: Group) -> dict:
    """All that a criterion may ask for; weights' norms stand in for the deviations that batch-norm knew."""
    norms = {name: get_layer(model, name).weight.detach().flatten(1).norm(dim=1) for name in group.layers}
    statistics = {name: (torch.zeros_like(norm), norm) for name, norm in norms.items()}
    return {
        "batches": BATCHES,
        "images": [images for images, _ in BATCHES],
        "seed": 1,
        "example": torch.zeros(1, 1, 32, 32),
        "statistics": statistics,
    }


@pytest.mark.parametrize("criterion", CRITERIA)
def test_importances_are_finite_scores_for_every_group(merged, criterion: str) -> None:
    model, groups = merged
    for group in groups:
        scores = importance(criterion, model, group, **given(model, group))
        assert scores.shape == (group.size,)
        assert (scores >= 0).all()
        assert torch.equal(scores, importance(criterion, model, group, **given(model, group)))


# fpgm keeps what is unlike the rest, which may be a dead neuron.
@pytest.mark.parametrize("criterion", sorted(set(CRITERIA) - {"random", "lamp", "fpgm"}))
def test_a_dead_neuron_matters_least(merged, criterion: str) -> None:
    model, groups = merged
    layer, reader = model.features[0], model.features[4]
    with torch.no_grad():
        layer.weight[3], layer.bias[3], reader.weight[:, 3] = 0, 0, 0
    scores = importance(criterion, model, groups[-1], **given(model, groups[-1]))
    assert scores.argmin() == 3
    assert scores[3] == 0


def test_lamp_in_its_own_order_ranks_like_the_norm(merged) -> None:
    model, groups = merged
    own = importance("lamp", model, groups[0], options={"restore_order": True})
    published = importance("lamp", model, groups[0])
    assert sorted(own.tolist()) == sorted(published.tolist())
    pairings = Pairings(model, groups[0])
    norms = pairings.incoming.norm(dim=1) + pairings.outgoing.norm(dim=1)
    assert torch.equal(own.argsort(), norms.argsort())


def test_a_criterion_of_the_wrong_shape_is_refused(merged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CRITERIA, "broken", lambda model, group: torch.ones(2))
    with pytest.raises(ValueError, match=r"'broken' gave scores of shape \(2,\) for the 8 pairings of group 7"):
        importance("broken", merged[0], merged[1][7])
    monkeypatch.setitem(CRITERIA, "broken", lambda model, group: [1.0] * 8)
    with pytest.raises(ValueError, match="criterion 'broken' gave list: it has to return a tensor of scores"):
        importance("broken", merged[0], merged[1][7])
    with pytest.raises(ValueError, match="criterion 'taylor' needs training batches"):
        importance("taylor", merged[0], merged[1][7])


def test_intra_fusions_columns_sum_to_one_also_in_degenerate_groups(merged) -> None:
    model, groups = merged
    with torch.no_grad():
        for index in (0, 4):
            model.features[index].weight.zero_()
    pairings = Pairings(model, groups[-1])
    for scores in (torch.zeros(8), torch.rand(8)):
        for m in (1, 3, 8):
            options = {"source_marginal": "importance", "target_marginal": "importance"}
            pair = maps("intra-fusion", pairings, scores, m, options=options)
            assert pair.P.shape == (m, 8)
            assert pair.P.isfinite().all()


def test_ties_keep_the_earlier_neurons() -> None:
    assert most_important(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]), 3).tolist() == [0, 1, 4]


@pytest.mark.parametrize(("n", "m"), [(6, 6), (7, 4), (5, 1)])
def test_plans_have_their_marginals_and_least_cost(n: int, m: int) -> None:
    cost = torch.rand(n, m, generator=torch.Generator().manual_seed(n))
    plan = exact_plan(uniform(n), uniform(m), cost)
    torch.testing.assert_close(plan.sum(1), uniform(n))
    torch.testing.assert_close(plan.sum(0), uniform(m))
    # The dual of the linear programme certifies that no plan is cheaper.
    from scipy.optimize import linprog

    rows = [[float(k // m == i) for k in range(n * m)] for i in range(n)]
    columns = [[float(k % m == j) for k in range(n * m)] for j in range(m)]
    best = linprog(cost.double().flatten().numpy(), A_eq=rows + columns, b_eq=[1 / n] * n + [1 / m] * m).fun
    assert float((plan * cost).sum()) == pytest.approx(best, abs=1e-7)


def test_an_unconverged_plan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.compression.transport.MAX_ITERATIONS", 1)
    with pytest.raises(RuntimeError, match="optimal transport of 60 to 40 neurons did not converge"):
        exact_plan(uniform(60), uniform(40), torch.rand(60, 40))


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (64, 2.0), (150, 1.0), (150, 2.0)])
def test_distances_are_to_the_bit_those_of_all_pairs(n: int, p: float) -> None:
    vectors = torch.randn(n, 37, generator=torch.Generator().manual_seed(n))
    all_pairs = torch.cdist(vectors, vectors, p=p, compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(pairwise_distances(vectors, p), all_pairs)


def test_mass_in_proportion() -> None:
    torch.testing.assert_close(proportional(torch.tensor([1.0, 3.0])), torch.tensor([0.25, 0.75]).double())
    assert torch.equal(proportional(torch.zeros(4)), uniform(4))


def test_own_code_is_found_and_versioned(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_one.py").write_text("def score(model, group, *, power=1):\n    return 1\n")
    criterion = CRITERION.plugin("own_one:score", {"power": 2})
    assert (criterion.own, criterion.draws, len(criterion.code or "")) == (True, False, 16)
    with pytest.raises(ValueError, match=r"criterion 'own_one:score' has no option 'powr'; did you mean 'power'\?"):
        CRITERION.plugin("own_one:score", {"powr": 2})
    for options in ({"restore_norm": "no"}, {"p": "2"}):
        with pytest.raises(ValueError, match=f"option '{next(iter(options))}' of method 'fusion-preserving' is '"):
            METHOD.plugin("fusion-preserving", options)
    assert METHOD.plugin("fusion-preserving", {"restore_norm": False, "p": 2}).code is None
    message = "option 'source_marginal' of method 'intra-fusion' is 'unifrom': it should be 'uniform', 'imp"
    with pytest.raises(ValueError, match=message):
        METHOD.plugin("intra-fusion", {"source_marginal": "unifrom"})
    (tmp_path / "own_bad.py").write_text("def broken(:\n")
    with pytest.raises(ValueError, match=r"the module cannot be imported \(SyntaxError"):
        CRITERION.plugin("own_bad:broken")


def test_a_partial_is_versioned_by_the_module_that_names_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = []
    for number in (1, 2):
        content = f"import functools, workloads.criteria as c\nscore = functools.partial(c.l1)\nversion = {number}\n"
        (tmp_path / f"own_partial{number}.py").write_text(content)
        versions.append(CRITERION.plugin(f"own_partial{number}:score").code)
    assert versions[0] != versions[1]


def test_functions_that_do_not_take_what_they_are_given_are_refused() -> None:
    def two(pairings, importance, *, strength: float = 1.0):
        raise AssertionError

    def four(pairings, importance, m, generator, *, model):
        raise AssertionError

    with pytest.raises(
        ValueError, match=r"method 'it' has to take \(pairings, importance, m\), but too many positional"
    ):
        Plugin(METHOD, "it", two).check()
    Plugin(METHOD, "it", four).check()
    Plugin(METHOD, "it", fusion_preserving).check()


def test_what_a_kind_does_not_offer_is_refused_with_what_it_does_offer() -> None:
    def by_original(model, group, *, original):
        raise AssertionError

    def by_masks(pairings, importance, m, masks):
        raise AssertionError

    offers = "batches, images, generator, example, statistics"
    with pytest.raises(ValueError, match=rf"asks for 'original', which no criterion is given: .* may ask for {offers}"):
        Plugin(CRITERION, "it", by_original).check()
    with pytest.raises(
        ValueError, match=r"asks for 'masks', which no method is given: beside \(pairings, importance, m\)"
    ):
        Plugin(METHOD, "it", by_masks).check()


def test_a_criterion_gets_images_and_a_method_gets_batches(merged) -> None:
    model, groups = merged

    def by_images(model, group, *, images):
        return torch.full((group.size,), float(sum(map(len, images))))

    def by_batches(pairings, importance, m, *, batches, example):
        assert len(batches) == 1
        assert example.shape == (1, 1, 32, 32)
        first = torch.eye(pairings.size)[:m]
        return Maps(first, first)

    criteria, methods = {**CRITERIA, "by-images": by_images}, {**METHODS, "by-batches": by_batches}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workloads.compression.criteria.CRITERIA", criteria)
        patch.setattr("workloads.compression.methods.METHODS", methods)
        network = Network.prepared(model, torch.zeros(1, 1, 32, 32))
        images = torch.randn(6, 1, 32, 32)
        sources = Sources(images[:1], batches=[(images, torch.arange(6))], images=[images[:4], images[4:]])
        assert score(network, 0, ChoiceConfig(name="by-images"), sources)[1].tolist() == [6.0] * groups[0].size
        config = CompressionConfig(sparsity=0.5, group=0, criterion="by-images", method="by-batches")
        assert compress(network, config, sources).structure.groups[0].size == groups[0].size // 2


def test_own_code_is_versioned_with_all_own_modules_that_it_imports(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "own_package"
    package.mkdir()
    files = {
        "own_scores.py": "import torch\nfrom own_package.parts import part as score\n",
        "own_package/__init__.py": "",
        "own_package/parts.py": "from . import constants\n\ndef part(model, group):\n    from own_late import late\n",
        "own_package/constants.py": "import own_scores\n",
        "own_late.py": "def late(): ...\n",
        "own_other.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)

    def version() -> str | None:
        return CRITERION.plugin("own_scores:score").code

    first = version()
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}# edited\n")
        linecache.checkcache()
        assert (version() == first) == (name == "own_other.py"), name
        (tmp_path / name).write_text(content)
        linecache.checkcache()
        assert version() == first


def test_to_version_own_code_imports_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_noisy").mkdir()
    (tmp_path / "own_noisy" / "__init__.py").write_text("raise RuntimeError\n")
    (tmp_path / "own_noisy" / "part.py").write_text("")
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import own_noisy.part, not_there.at_all\n"
    (tmp_path / "own_guarded.py").write_text(f"{guarded}def score(model, group): ...\n")
    first = CRITERION.plugin("own_guarded:score").code
    (tmp_path / "own_noisy" / "part.py").write_text("# edited\n")
    assert CRITERION.plugin("own_guarded:score").code != first
    assert "own_noisy" not in sys.modules


def test_of_installed_code_the_defining_module_counts() -> None:
    module = sys.modules[torchvision.models.resnet18.__module__]
    digest = hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]
    assert MODEL.plugin("torchvision.models:resnet18").code == digest


def too_many(pairings: Pairings, importance: torch.Tensor, m: int) -> Maps:
    matrix = torch.eye(pairings.size)[: m + 1]
    return Maps(matrix, matrix)


def not_numbers(pairings: Pairings, importance: torch.Tensor, m: int) -> Maps:
    matrix = torch.eye(pairings.size)[:m]
    return Maps(matrix, matrix / 0)


def a_pair(pairings: Pairings, importance: torch.Tensor, m: int) -> tuple:
    return (torch.eye(m), torch.eye(m))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("too_many", r"'.*too_many' gave a map P of shape \(4, \d+\); from \d+ to 3 pairings it has to be \(3, \d+\)"),
        ("not_numbers", "'.*not_numbers' gave a map Q that is not finite"),
        ("a_pair", r"'.*a_pair' gave tuple: it has to return workloads.groups.Maps\(P, Q\)"),
    ],
)
def test_maps_that_cannot_be_are_refused(merged, method: str, message: str) -> None:
    model, (group, *_) = merged
    with pytest.raises(ValueError, match=message):
        maps(f"{__name__}:{method}", Pairings(model, group), torch.ones(group.size), 3)


def test_nothing_merges_into_a_neuron_without_weights(merged) -> None:
    model, (group, *_) = merged
    pairings = Pairings(model, group)
    pairings.incoming[:2], pairings.bias[:2] = 0, 0
    scores = torch.arange(group.size, 0, -1.0)
    found = maps("neuron-merging", pairings, scores, 2, options={"threshold": -2.0})
    assert torch.equal(found.Q, found.P)
