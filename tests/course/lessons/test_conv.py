"""The explorers of factorized convolutions: the sentence holds the numbers of the package; a wrong
value is a sentence."""

import re

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import conv as lesson

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def explorer():
    return lesson.ConvExplorer("Tucker")


@pytest.mark.thorough
@pytest.mark.parametrize("structure", ["Tucker", "spatial", "SVD", "TT"])
@pytest.mark.parametrize("rank", [2, 7])
def test_the_sentence_is_that_of_the_layer(explorer, structure, rank):
    explorer.set(structure=structure, rank=rank)
    layer = lesson.network().second
    chain = {
        "Tucker": tl.tucker_conv,
        "spatial": tl.spatial_conv,
        "SVD": tl.svd_conv,
        "TT": tl.tt_conv,
    }[structure](layer, rank)
    weights = sum(p.numel() for p in chain.parameters()) - layer.bias.numel()
    assert f" {weights} weights. The layer before had {layer.weight.numel()} " in explorer.sentence
    with torch.no_grad():
        x = torch.eye(8 * 9).reshape(
            72, 8, 3, 3
        )  # each entry of the kernel in turn; the pixel in the middle sees them all
        entries = lambda m: m(x)[..., 1, 1] - layer.bias
        error = (entries(chain) - entries(layer)).norm() / entries(layer).norm()
    assert float(re.search(r"kernel is ([\d.]+)\.$", explorer.sentence)[1]) == pytest.approx(
        float(error), abs=1e-3
    )
    pixels = 64
    dense = 2 * pixels * 16 * 8 * 9
    assert f"{dense / (2 * pixels * weights):.2f} times fewer FLOPs" in explorer.sentence


def test_cp_is_balanced_and_counts_its_terms(explorer):
    explorer.set(structure="CP", rank=3)
    assert (
        f"4 convolutions with 8, 3, 3, 3, 16 channels and {3 * (8 + 3 + 3 + 16)} weights"
        in explorer.sentence
    )


def test_a_wrong_value_is_a_sentence_and_the_picture_stays(explorer):
    picture, before = explorer.view.value, explorer.value("rank")
    for wrong in ("0", "99", "many"):
        explorer.boxes["rank"].value = wrong
        assert f"rank: needs a whole number in 1..16, got {wrong}" in explorer.status.value
        assert explorer.view.value == picture and explorer.value("rank") == before
    with pytest.raises(
        ValueError, match="structure: needs one of CP, Tucker, TT, spatial, SVD, got wavelet"
    ):
        explorer.set(structure="wavelet")
    explorer.boxes["rank"].value = str(before)


@pytest.mark.thorough
def test_terms_grow_without_the_ridge_only():
    e = lesson.TermsExplorer()
    energies = []
    for sweeps in (20, 120):
        e.set(digits=2, sweeps=sweeps)
        energies.append(
            [
                float(n)
                for n in re.search(
                    r"sum: ALS ([\d.e+]+), ridge 1e-2 ([\d.e+]+)\. ", e.sentence
                ).groups()
            ]
        )
    (als, ridge), (als_later, ridge_later) = energies
    assert als_later > 1.5 * als and ridge_later < 1.1 * ridge
    start = tl.CP.randn(
        (3, 3, 3), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    plain = tl.cp_als(lesson.diverging(), 2, init=start, tol=0.0, max_iter=120)
    assert als_later == pytest.approx(tl.cp_degeneracy(plain.value), rel=1e-2)
    assert f"ALS {plain.history[-1]:.3f}" in e.sentence


def test_the_tucker_rank_is_that_of_alternating_fits():
    assert lesson.tucker_rank(next(r for r in range(1, 17) if _tucker_error(r) <= 0.5))


@pytest.mark.thorough
def test_rivals_cost_what_is_said():
    found = lesson.race((0.3,), tuning=1, seeds=1)
    layers = lambda row: 269184 / row["flops"] - 9216 - 1920  # without the first and the last
    for name, (row,) in found.items():
        if name != "dense":
            assert layers(row) <= 0.3 * (147456 + 110592) * (1 + 1e-9)
    assert found["narrow"][0]["after"] == found["narrow"][0]["before"]


def _tucker_error(rank):
    w = lesson.network().second.weight.detach()
    fit = tl.hooi(w.double(), (rank, min(rank, 8), 3, 3), max_iter=50)
    return float((fit.value.to_dense() - w).norm() / w.norm())
