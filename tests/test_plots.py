"""Each picture draws something and says, with the right numbers, what is seen."""

import math

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from tensors import smooth

import tensorlab as tl
from tensorlab import plots


@pytest.fixture
def ax():
    return Figure().subplots()


def test_singular_values(ax):
    said = plots.singular_values(ax, {"a": torch.tensor([2.0, 1.0, 0.01]), "b": torch.ones(4)}, 0.1)
    assert said == "Singular values above 1.0e-01 of the largest: a 2 of 3, b 4 of 4."
    assert len(ax.lines) == 3 and ax.get_yscale() == "log"
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 3


def test_image(ax):
    assert plots.image(ax, torch.rand(4, 6, 3), "four by six") == "A picture of 4 by 6 points: four by six."
    assert len(ax.images) == 1


def test_error_against_storage(ax):
    said = plots.error_against_storage(ax, {"SVD": [(10, 0.5), (20, 0.25)], "TT": [(10, 0.125)]}, (10, 0.5))
    assert said == "Smallest relative error shown: SVD 0.25, TT 0.12." and len(ax.lines) == 3


def test_train_is_to_scale(ax):
    tt = tl.tt_svd(smooth((4, 8, 4)), rtol=1e-3)
    said = plots.train(ax, tt)
    assert f"ranks {tt.ranks[0]}, {tt.ranks[1]} stores {tt.numel} of 128" in said
    assert [box.get_height() for box in ax.patches] == [4, 8, 4]
    assert [t.get_text() for t in ax.texts] == ["4", str(tt.ranks[0]), "8", str(tt.ranks[1]), "4"]


def test_tree_has_a_box_for_each_node_and_a_bar_for_each_value(ax):
    x = smooth((4, 3, 5))
    ht = tl.ht_svd(x, rtol=1e-2, tree=((2, 0), 1))
    spectra = tl.ht_svd(x, rtol=0.0, tree=ht.tree).singular_values()
    said = plots.tree(ax, ht, spectra)
    ranks = dict(zip(["(2 0)", "(1)", "(2)", "(0)"], ht.ranks, strict=True))
    assert f"ranks {', '.join(f'{n} {r}' for n, r in ranks.items())} stores {ht.numel} of 60 numbers." in said
    assert [t.get_text() for t in ax.texts] == ["2 0 1", str(ht.ranks[0]), "2 0", str(ht.ranks[1]), "1",
                                                str(ht.ranks[2]), "2", str(ht.ranks[3]), "0"]  # fmt: skip
    assert len(ax.lines) == 4 and len(ax.patches) == 4 + sum(map(len, spectra.values()))
    blue = [p for p in ax.patches if p.get_facecolor()[:3] == matplotlib.colors.to_rgb(plots.COLOURS[0])]
    assert len(blue) == sum(ht.ranks)
    second = ax.patches[2].get_height() / ax.patches[1].get_height()  # of the first node, on a scale of sixteen decades
    s = torch.linalg.svdvals(x.permute(2, 0, 1).reshape(20, 3))
    assert second == pytest.approx(1 + math.log10(s[1] / s[0]) / 16)
    assert "ranks none stores 4 of 4" in plots.tree(Figure().subplots(), tl.ht_svd(torch.ones(4), 1))


def test_convergence_and_terms(ax):
    assert plots.convergence(ax, {"x": [1.0, 0.1, 0.0]}) == "Relative errors: x 0 after 3 sweeps."
    said = plots.terms(Figure().subplots(), [0.0, -0.9375], [1.0, 2.5])
    assert said == "The smallest cosine between two terms is -0.938, the largest weight 2.50 times |x|."


def test_core(ax):
    g = torch.zeros(3, 3, 3)
    g[0, 0, 0], g[2, 2, 2] = 10.0, 0.5
    assert plots.core(ax, g) == "The leading block of size 1 holds 99.8 % of the energy of the core."
    assert plots.core(ax, torch.ones(2, 2, 2)).startswith("The leading block of size 2 holds 100.0 %")


def test_unfolding_spectra():
    x = smooth((3, 4, 5))
    spectra = plots.unfolding_spectra(x)
    assert torch.allclose(spectra["cut 2"], torch.linalg.svdvals(x.reshape(12, 5)))


def test_crosses(ax):
    said = plots.crosses(ax, torch.rand(5, 7), [4, 1], [0, 6], "a plane")
    assert said == "2 pivots: rows 1, 4 and columns 0, 6 are read."
    assert [line.get_ydata()[0] for line in ax.lines[:2]] == [1, 4] and len(ax.lines) == 5


def test_error_against_work(ax):
    said = plots.error_against_work(ax, {"a": [(10, 0.5), (100, 1e-3)], "b": [(10, 0.25)]}, 1e-2)
    assert said == "a: error 1.0e-03 after 100 evaluations; b: error 2.5e-01 after 10 evaluations."
    assert len(ax.lines) == 3 and ax.get_yscale() == "log"


def test_tangent_step():
    ax = Figure().add_subplot(projection="3d")
    x, free = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.5], [0.5, 0.75]])
    tangent, back = torch.tensor([[1.0, 0.5], [0.5, 0.0]]), torch.tensor([[1.0, 0.5], [0.5, 0.25]])
    said = plots.tangent_step(ax, x, free, tangent, back)
    assert said.startswith("The projection moves the step by 0.750 onto the tangent plane, the retraction by 0.250 back")
    shown = {line.get_label(): torch.tensor([c[-1] for c in line.get_data_3d()]) for line in ax.lines}
    for name, m in (("x", x), ("retraction", back)):
        p, q, r = shown[name].tolist()
        assert (r * r - p * p - q * q) / 2 == pytest.approx(float(torch.linalg.det(m)), abs=1e-6)  # 0: on the cone
    assert {"gradient step", "projection"} <= shown.keys()


def test_success(ax):
    said = plots.success(ax, {"a": [(2, 0.0), (4, 1.0)], "b": [(2, 0.5), (4, 0.75)]})
    assert said == "Entries per degree of freedom with which every run recovers: a from 4, b at no number shown."
    assert len(ax.lines) == 2


def test_marginals(ax):
    said = plots.marginals(ax, torch.tensor([0.25, 0.5]), torch.tensor([0.3125, 0.5]))
    assert said == "A 1 has probabilities from 0.250 to 0.500; the frequencies in the samples are off by up to 0.062."
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.5, 0.3125, 0.5] and ax.patches[2].get_hatch()


def test_covariances(ax):
    exact = torch.tensor([[0.25, 0.1, -0.2], [0.1, 0.25, 0.0], [-0.2, 0.0, 0.25]])
    sampled = exact + 0.0625
    assert plots.covariances(ax, exact, sampled) == (
        "The largest covariance of two modes is -0.200, of modes 0 and 2, -0.138 in the samples."
    )
    shown = torch.as_tensor(ax.images[0].get_array().filled(9.0))
    assert torch.equal(shown.triu(1), exact.triu(1)) and torch.equal(shown.tril(-1), sampled.tril(-1))
    assert ax.images[0].get_clim() == pytest.approx((-0.2, 0.2))
