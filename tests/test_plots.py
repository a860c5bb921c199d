"""Each picture draws something and says, with the right numbers, what is seen."""

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
