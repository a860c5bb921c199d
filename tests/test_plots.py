"""Each picture draws something and says, with the right numbers, what is seen."""

import math

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from tensors import smooth

import cases
import tensorlab as tl
from tensorlab import plots


@pytest.fixture
def ax():
    return Figure().subplots()


def test_singular_values(ax):
    said = plots.singular_values(ax, {"a": torch.tensor([2.0, 1.0, 0.01]), "b": torch.ones(4)}, 0.1)
    assert said == "Singular values above 1.0e-01 of the largest: a 2 of 3, b 4 of 4."
    assert len(ax.lines) == 3 and ax.get_yscale() == "log"
    assert (
        len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 3
    )


def test_image(ax):
    assert (
        plots.image(ax, torch.rand(4, 6, 3), "four by six")
        == "A picture of 4 by 6 points: four by six."
    )
    assert len(ax.images) == 1


def test_error_against_storage(ax):
    said = plots.error_against_storage(
        ax, {"SVD": [(10, 0.5), (20, 0.25)], "TT": [(10, 0.125)]}, (10, 0.5)
    )
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
    assert (
        f"ranks {', '.join(f'{n} {r}' for n, r in ranks.items())} stores {ht.numel} of 60 numbers."
        in said
    )
    assert [t.get_text() for t in ax.texts] == [
        "2 0 1",
        str(ht.ranks[0]),
        "2 0",
        str(ht.ranks[1]),
        "1",
        str(ht.ranks[2]),
        "2",
        str(ht.ranks[3]),
        "0",
    ]
    assert len(ax.lines) == 4 and len(ax.patches) == 4 + sum(map(len, spectra.values()))
    blue = [
        p for p in ax.patches if p.get_facecolor()[:3] == matplotlib.colors.to_rgb(plots.COLORS[0])
    ]
    assert len(blue) == sum(ht.ranks)
    second = (
        ax.patches[2].get_height() / ax.patches[1].get_height()
    )  # of the first node, on a scale of sixteen decades
    s = torch.linalg.svdvals(x.permute(2, 0, 1).reshape(20, 3))
    assert second == pytest.approx(1 + math.log10(s[1] / s[0]) / 16)
    assert "ranks none stores 4 of 4" in plots.tree(
        Figure().subplots(), tl.ht_svd(torch.ones(4), 1)
    )


def test_convergence_and_terms(ax):
    assert plots.convergence(ax, {"x": [1.0, 0.1, 0.0]}) == "Relative errors: x 0 after 3 sweeps."
    said = plots.terms(Figure().subplots(), [0.0, -0.9375], [1.0, 2.5])
    assert (
        said
        == "The smallest cosine between two terms is -0.938, the largest weight 2.50 times |x|."
    )


def test_core(ax):
    g = torch.zeros(3, 3, 3)
    g[0, 0, 0], g[2, 2, 2] = 10.0, 0.5
    assert (
        plots.core(ax, g) == "The leading block of size 1 holds 99.8 % of the energy of the core."
    )
    assert plots.core(ax, torch.ones(2, 2, 2)).startswith(
        "The leading block of size 2 holds 100.0 %"
    )


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
    assert said.startswith(
        "The projection moves the step by 0.750 onto the tangent plane, the retraction by 0.250 "
        "back"
    )
    shown = {
        line.get_label(): torch.tensor([c[-1] for c in line.get_data_3d()]) for line in ax.lines
    }
    for name, m in (("x", x), ("retraction", back)):
        p, q, r = shown[name].tolist()
        assert (r * r - p * p - q * q) / 2 == pytest.approx(
            float(torch.linalg.det(m)), abs=1e-6
        )  # 0: on the cone
    assert {"gradient step", "projection"} <= shown.keys()


def test_success(ax):
    said = plots.success(ax, {"a": [(2, 0.0), (4, 1.0)], "b": [(2, 0.5), (4, 0.75)]})
    assert (
        said
        == "Entries per degree of freedom with which every run recovers: a from 4, b at no number "
        "shown."
    )
    assert len(ax.lines) == 2


def test_marginals(ax):
    said = plots.marginals(ax, torch.tensor([0.25, 0.5]), torch.tensor([0.3125, 0.5]))
    assert (
        said
        == "A 1 has probabilities from 0.250 to 0.500; the frequencies in the samples are off by "
        "up to 0.062."
    )
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.5, 0.3125, 0.5] and ax.patches[
        2
    ].get_hatch()


def test_covariances(ax):
    exact = torch.tensor([[0.25, 0.1, -0.2], [0.1, 0.25, 0.0], [-0.2, 0.0, 0.25]])
    sampled = exact + 0.0625
    assert plots.covariances(ax, exact, sampled) == (
        "The largest covariance of two modes is -0.200, of modes 0 and 2, -0.138 in the samples."
    )
    shown = torch.as_tensor(ax.images[0].get_array().filled(9.0))
    assert torch.equal(shown.triu(1), exact.triu(1)) and torch.equal(
        shown.tril(-1), sampled.tril(-1)
    )
    assert ax.images[0].get_clim() == pytest.approx((-0.2, 0.2))


def test_chain_has_a_bar_for_each_stage_to_scale(ax):
    layer = torch.nn.Conv2d(6, 8, 3)
    said = plots.chain(ax, tl.cp_conv(layer, 4, max_iter=1))
    assert said == f"4 convolutions with 6, 4, 4, 4, 8 channels and {4 * (6 + 3 + 3 + 8)} weights."
    assert [bar.get_height() for bar in ax.patches] == [6, 4, 4, 4, 8]
    assert [line.get_linestyle() for line in ax.lines] == [
        "-",
        "--",
        "--",
        "-",
    ]  # those in the middle keep channels apart
    assert "3 × 1" in [t.get_text() for t in ax.texts]
    said = plots.chain(Figure().subplots(), tl.svd_conv(layer, 4))
    assert said == f"2 convolutions with 6, 4, 8 channels and {4 * (6 * 9 + 8)} weights."
    assert (
        plots.chain(Figure().subplots(), layer)
        == "1 convolution with 6, 8 channels and 432 weights."
    )


def test_filters_stand_in_a_sheet(ax):
    kernel = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert plots.filters(ax, kernel, "named") == "2 by 3 filters of 2 by 2, the largest entry 23."
    sheet = torch.tensor(ax.images[0].get_array().filled(math.nan))
    assert (
        sheet.shape == (8, 5)
        and torch.equal(sheet[6:, 3:], kernel[1, 2].double())
        and bool(sheet[2].isnan().all())
    )
    assert ax.images[0].get_clim() == (-23, 23)


def test_term_energy(ax):
    said = plots.term_energy(ax, {"ALS": [1.0, 10.0, 100.0], "ridge": [1.0, 1.5, 2.0]})
    assert (
        said
        == "After 3 sweeps the terms have this many times the energy of their sum: ALS 100, ridge "
        "2."
    )
    assert len(ax.lines) == 2 and ax.get_yscale() == "log"


def test_operations(ax):
    plans = tl.layers.plans.plans(
        tl.TTMatrix.randn(out=(12, 16, 16), in_=(8, 8, 12), rank=64), 2048
    )
    dense = 2 * 2048 * 768 * 3072
    said = plots.operations(ax, plans, dense)
    few = min(plans, key=lambda plan: plan.flops)
    assert f"Of 7 paths {plans[0].forward} should be fastest" in said
    assert f"the fewest has {few.forward}, {few.flops / dense:.3g} times" in said
    widths = [bar.get_width() for bar in ax.patches]
    assert (
        len(widths) == 7
        and widths[-1] == few.flops / dense
        and sum(bar.get_hatch() == "//" for bar in ax.patches) == 6
    )


def test_blocks_have_lines_between_them(ax):
    assert plots.blocks(ax, torch.ones(6, 8), (2, 4), "w") == "A matrix of 6 by 8 in 2 by 4 blocks."
    assert len(ax.lines) == 1 + 3 and ax.get_title() == "w: 6 by 8"


def test_shared_marks_each_entry(ax):
    masks = [torch.eye(3) > 0, torch.ones(3, 3) > 0]
    assert (
        plots.shared(ax, masks)
        == "Of 9 entries, one of tensor 0 enters 3, one of tensor 1 enters 9."
    )
    assert len(ax.patches) == 12


def test_scaling_draws_the_law(ax):
    points = {"dense": [(c, 1 + 2 * c**-0.5) for c in (1.0, 4.0, 16.0)]}
    assert plots.scaling(ax, points, {"dense": (1, 2, 0.5)}, (4.0, 2.0)) == "Exponents: dense 0.50."
    assert ax.lines[0].get_ydata().tolist() == pytest.approx(list(ax.lines[1].get_ydata()))


def test_gathered(ax):
    w = tl.TTMatrix.randn(out=(4, 5), in_=(2, 3), rank=2)
    assert (
        plots.gathered(ax, w, 17, "seventeen")
        == "seventeen, number 17, gathers the slices 3, 2 of 2 cores."
    )
    filled = [p.get_facecolor() for p in ax.patches]
    assert len(filled) == 9 and [i for i, c in enumerate(filled) if filled.count(c) == 2] == [
        3,
        4 + 2,
    ]


def test_neighbors(ax):
    said = plots.neighbors(ax, ["a", "b", "c"], [0.9, 0.8, 0.75], [0.5, -0.25, 0.6], "word")
    assert said == "Its nearest words had cosines from 0.75 to 0.90; now from -0.25 to 0.60."
    assert [p.get_width() for p in ax.patches] == [0.9, 0.5, 0.8, -0.25, 0.75, 0.6]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


def test_clouds(ax):
    assert (
        plots.clouds(ax, torch.zeros(5, 2), torch.ones(3, 2), "two") == "5 points and 3 of a train."
    )
    assert [len(c.get_offsets()) for c in ax.collections] == [5, 3] and ax.get_title() == "two"


def test_the_sum_of_two_squares_is_an_octagon(ax):
    c = math.sqrt(0.5)
    said = plots.zonotope(ax, torch.tensor([[c, -c], [c, c]]))
    assert (
        said
        == f"The sum of the two squares holds a ball of radius {1 + math.sqrt(2):.3f}, one square "
        f"alone a ball of radius 1."
    )
    octagon = torch.tensor(ax.patches[2].get_xy())
    assert len(octagon) == 9 and torch.allclose(
        octagon.norm(dim=1), octagon[0].norm().expand(9), atol=1e-6
    )  # regular
    assert float(octagon[:, 0].max()) == pytest.approx(1 + math.sqrt(2))
    assert "radius 2.000" in plots.zonotope(Figure().subplots(), torch.eye(2))


def test_the_sum_of_two_cubes():
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    ax = Figure().add_subplot(projection="3d")
    said = plots.zonotope(ax, q)
    directions = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1)).double()
    support = (directions.abs().sum(1) + (directions @ q).abs().sum(1)) / directions.norm(dim=1)
    radius = float(said.split("radius ")[1].split(",")[0])
    assert radius == pytest.approx(float(support.min()), rel=2e-3) and len(ax.lines) == 24
    assert "radius 2.000" in plots.zonotope(
        Figure().add_subplot(projection="3d"), torch.eye(3).double()
    )


def test_flat_levels(ax):
    said = plots.flat_levels(
        ax, torch.tensor([1.0, -1.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 0.0, -3.0]), 2.0
    )
    assert said == "The largest entry of u and v is 3.00 |x| / sqrt(N)."
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["u", "v"]


def test_decay_and_error_against_bits(ax):
    said = plots.decay(ax, {"dct": (0.5, 0.01), "givens": (0.5,)})
    assert said == "Relative residual: dct 1.0e-02 after 2 steps, givens 5.0e-01 after 1 steps."
    said = plots.error_against_bits(
        Figure().subplots(), {"pairs": [(4.1, 0.09), (2.1, 0.3)], "uniform": [(4.0, 0.2)]}
    )
    assert said == "Relative error: pairs 0.090 at 4.10 bits, uniform 0.200 at 4.00 bits."


def test_rank_evolution(ax):
    said = plots.rank_evolution(ax, {"a": [9, 4, 3], "b": [9, 9, 5]}, 10)
    assert said == "After 20 steps the ranks are a 3, b 5."
    assert list(ax.lines[0].get_xdata()) == [0, 10, 20] and list(ax.lines[1].get_ydata()) == [
        9,
        9,
        5,
    ]


def test_cuts_counts_what_stands_above_theta(ax):
    said = plots.cuts(ax, {"a": torch.tensor([1.0, 0.3, 0.1]), "b": torch.ones(1)}, 0.2, "share")
    assert said == "Values above 0.2: a 2, b 1." and ax.lines[-1].get_ydata()[0] == 0.2


def test_spread_draws_means_with_whiskers_and_printed_marks(ax):
    curves = {"dense": [(9, [50.0])], "ours": [(2, [40.0, 20.0]), (1, [10.0])]}
    said = plots.spread(ax, curves, "numbers", "% right", {"printed": [(2, 35.0)]})
    assert said == "Highest % right: dense 50, ours 30 at 2, printed 35."
    (bars,) = ax.containers
    assert bars.lines[0].get_ydata().tolist() == [10, 30]
    ends = [segment[:, 1].tolist() for segment in bars.lines[2][0].get_segments()]
    assert ends == [[10, 10], [20, 40]]


def test_ode_errors_puts_what_blows_up_at_the_edge(ax):
    said = plots.ode_errors(
        ax, {"kls": [(0.1, 0.01), (1.0, 0.1)], "usv": [(0.1, math.inf), (1.0, 0.2)]}, "h"
    )
    assert (
        said
        == "Errors: kls 1.0e-02 at 1e-01, 1.0e-01 at 1e+00; usv inf at 1e-01, 2.0e-01 at 1e+00."
    )
    assert list(ax.lines[1].get_ydata()) == [2.0, 0.2]


def test_cone_from_above_says_how_far(ax):
    start, end = torch.diag(torch.tensor([2.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0]))
    said = plots.cone_from_above(ax, start, start, [start, end], {"KLS": end, "other": start})
    assert said == f"Off the flow's end: KLS by 0, other by {5**0.5:.2g}."
    assert [line.get_label() for line in ax.lines if not line.get_label().startswith("_")][-2:] == [
        "KLS",
        "other",
    ]


def test_landscape_names_the_smallest_value(ax):
    values = torch.arange(12.0).reshape(3, 4).flip(0)
    said = plots.landscape(ax, values, torch.tensor([[0, 1], [2, 3]]), torch.tensor([[2, 3]]))
    assert said == "The smallest of 12 values is 0, at (2, 0)."
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 2], [2]] and ax.images[
        0
    ].get_array().shape == (4, 3)


def test_density_names_where_it_is_largest(ax):
    p = torch.tensor([[0.1, 0.2], [0.3, 0.1], [0.1, 0.2]])
    assert (
        plots.density(ax, p, (2, 1))
        == "The model looks most often at (1, 0), with probability 0.3."
    )
    assert list(ax.lines[0].get_xdata()) == [2] and len(plots.density(Figure().subplots(), p)) > 0


def test_marginal_history_counts_settled_modes(ax):
    shares = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.96, 0.04]])
    assert plots.marginal_history(ax, shares).startswith(
        "In the last batch 2 of 3 modes are settled"
    )
    assert ax.images[0].get_array().shape == (3, 2)


def test_density_map_and_lines(ax):
    x, y = torch.linspace(0, 1, 5).double(), torch.linspace(2, 3, 3).double()
    p = torch.zeros(3, 5).double()
    p[2, 1] = 4.0
    points = torch.tensor([[0.5, 2.5], [0.25, 3.0]]).double()
    said = plots.density_map(ax, x, y, p, points)
    assert (
        said == "The density is highest, 4, at (0.25, 3); 2 samples are shown."
        and len(ax.lines) == 1
    )
    p[0, :2] = torch.nan
    assert plots.density_map(ax, x, y, p) == (
        "The density is highest, 4, at (0.25, 3); 0 samples are shown."
        "  At 2 of 15 places, in orange, it is not positive."
    )
    ax = Figure().subplots()
    assert (
        plots.density_lines(ax, x, {"flat": torch.ones(5).double(), "rising": x})
        == "Means: flat 0.50, rising 0.69."
    )
    assert len(ax.lines) == 2


def test_residuals(ax):
    said = plots.residuals(
        ax, {"a": [0.5, 0.1], "b": [1.0, 0.0]}, {"a": [0.2, 0.02], "b": [0.3, 0.03]}
    )
    assert said == "Primal and dual residual after 2 rounds: a 0.1 and 0.02, b 0 and 0.03."
    assert len(ax.lines) == 4 and ax.get_yscale() == "log"


def test_kept_weights(ax):
    said = plots.kept_weights(
        ax, torch.ones(2, 4), torch.tensor([[True, False, False, False]] * 2), "a layer"
    )
    assert said == "2 of 8 weights stay, 25.0 %."
    drawn = ax.images[0].get_array()
    assert int((~drawn.mask).sum()) == 2 and ax.get_title() == "a layer"


def test_shares(ax):
    said = plots.shares(
        ax, {"a": [(0.0, 0.9), (0.5, 0.8)], "b": [(0.0, 0.1)]}, "sparsity", "accuracy", (0.5, 0.8)
    )
    assert said == "Accuracy: a 80.0 % at 0.5, b 10.0 % at 0."
    assert len(ax.lines) == 3 and ax.get_ylabel() == "accuracy in %"


def test_interactions(ax):
    found = [((0, 3), 2.0), ((1,), -1.0), ((2,), 0.5)]
    assert (
        plots.interactions(ax, found, [(0, 3), (2,)])
        == "1 of the 2 planted sets (hatched) are the 2 strongest."
    )
    assert [bar.get_width() for bar in ax.patches] == [2, -1, 0.5]
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [True, False, True]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x0 x3", "x1", "x2"]
    plots.interactions(ax, found, [], "correlation")
    assert ax.get_xlabel() == "correlation"


def test_network_ranks(ax):
    said = plots.network_ranks(
        ax, {"TT": [(2, 2), (4, 4)], "CP": [(2, 2), (4, 2)]}, [(2, 2), (4, 4)], "depth"
    )
    assert (
        said == "At depth 4 the ranks are TT 4, CP 2; the bound for trains is 4."
        and len(ax.lines) == 3
    )


def test_a_dark_figure_mirrors_grays_and_keeps_colors():
    with plots.look():
        figure = Figure()
        ax = figure.subplots()
        ax.plot([0, 1], **plots.style(0))
        ax.axhline(0.5, color="black")
        said = ax.text(0, 0, "on", color="black")
        said.set_gid("on color")
        title = ax.set_title("title")
    plots.darken(figure)
    colored, level = (matplotlib.colors.to_rgb(line.get_color()) for line in ax.lines)
    assert colored == matplotlib.colors.to_rgb(plots.COLORS[0]) and min(level) > 0.9
    assert max(figure.get_facecolor()[:3]) < 0.1 and max(ax.get_facecolor()[:3]) < 0.1
    assert min(matplotlib.colors.to_rgb(title.get_color())) > 0.8 and said.get_color() == "black"


def test_the_style_sheet_has_no_boxes_and_the_colors_of_plots():
    with plots.look():
        ax = Figure().subplots()
        assert not ax.spines["top"].get_visible() and not ax.spines["right"].get_visible()
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert [f"#{color.strip('#')}" for color in cycle] == plots.COLORS


NETWORKS = {
    "LowRank": (2, [3], [7, 5]),
    "LowRank with s": (3, [3, 3], [7, 5]),
    "CP": (3, [3], [4, 3, 5]),
    "Tucker": (4, [2, 3, 2], [4, 3, 5]),
    "TT": (4, [3, 4, 2], [4, 3, 2, 3]),
    "HT": (7, [3, 2, 2, 2, 3, 3], [4, 3, 2, 3]),
    "TTMatrix": (3, [3, 2], [2, 3, 2, 3, 1, 2]),
    "Kronecker": (2, [2], [3, 2, 4, 2]),
    "Kronecker of three factors": (3, [1], [2, 2, 2, 3, 2, 2]),
    "Monarch": (2, [2], [4, 2, 2, 6]),
    "BlockTT of three cores": (3, [2, 2], [2, 2, 2, 3, 2, 2]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_diagram_of_every_format(ax, name):
    fmt, (tensors, ranks, sizes) = cases.make(name), NETWORKS[name]
    said = plots.diagram(ax, fmt)
    listed = lambda numbers: ", ".join(map(str, numbers))
    assert said == (
        f"{type(fmt).__name__}: A network of {tensors} tensors, summed over indices of size "
        f"{listed(ranks)}; open: {listed(sizes)}. It stores {fmt.numel} of "
        f"{fmt.to_dense().numel()} numbers."
    )
    assert len(ax.patches) == tensors
    written = [text.get_text() for text in ax.texts]
    assert sorted(t for t in written if t.isascii() and t.isdigit()) == sorted(
        map(str, [*ranks, *sizes])
    )


def test_diagram_refuses_what_is_no_format(ax):
    with pytest.raises(TypeError, match="diagram: needs one of CP, .*, got Tensor"):
        plots.diagram(ax, torch.ones(2))


@pytest.mark.thorough
def test_accuracy_against_storage(ax):
    curves = {"dense": [(100, 0.975)], "SVD": [(10, 0.5), (20, 0.75)]}
    said = plots.accuracy_against_storage(ax, curves)
    assert said == "Best accuracy shown: dense 97.5 % with 100 numbers, SVD 75.0 % with 20 numbers."
    assert list(ax.lines[1].get_ydata()) == [50, 75]
    assert ax.lines[1].get_color() == plots.COLORS[0]  # as in the errors beside, without the dense


@pytest.mark.thorough
@pytest.mark.parametrize("figsize", [(3, 3), (4.5, 3), (9, 3)])
@pytest.mark.parametrize("low", [0.02, 1.0, 128.0])
@pytest.mark.parametrize("times", [1.1, 3.0, 12.0, 24.0, 120.0, 1e4, 1e9])
def test_marks_of_a_logarithmic_axis_do_not_collide(figsize, low, times):
    with plots.look():
        figure = Figure(figsize, layout="constrained")
        ax = figure.subplots()
        ax.loglog([low, low * times], [low, low * times])
        plots.readable_ticks(figure)
        figure.draw_without_rendering()
    for axis in (ax.xaxis, ax.yaxis):
        shown = [t for m in (True, False) for t in axis.get_ticklabels(minor=m) if t.get_text()]
        shown = [
            t for t in shown if low * 0.9 < t.get_position()[axis is ax.yaxis] < 1.1 * low * times
        ]
        boxes = [t.get_window_extent() for t in shown]
        assert len({t.get_text() for t in shown}) == len(shown) >= 2
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_marks_set_by_hand_stay():
    figure = Figure()
    ax = figure.subplots()
    ax.loglog([1, 50], [1, 50])
    ax.set_xticks([7, 40], ["seven", "forty"])
    plots.readable_ticks(figure)
    figure.draw_without_rendering()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["seven", "forty"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.image(ax, torch.rand(3, 4)),
        lambda ax: plots.crosses(ax, torch.rand(4, 4), [1], [2]),
        lambda ax: plots.density(ax, torch.rand(4, 4)),
        lambda ax: plots.density_map(ax, *2 * [torch.arange(3.0)], torch.rand(3, 3)),
        lambda ax: plots.marginal_history(ax, torch.rand(3, 4)),
        lambda ax: plots.landscape(ax, torch.rand(3, 3), torch.ones(1, 2), torch.ones(1, 2)),
    ],
)
def test_no_grid_is_drawn_over_a_picture(draw):
    with plots.look():
        ax = Figure().subplots()
        draw(ax)
    assert not any(line.get_visible() for line in [*ax.get_xgridlines(), *ax.get_ygridlines()])


def test_gradient_ranks(ax):
    said = plots.gradient_ranks(ax, [(1, 1), (2, 3), (1, 4)], 6)
    assert said == "At step 3 the gradient has rank 1, and the sum of all gradients rank 4 of 6."
    one, total, _ = ax.lines
    assert list(one.get_ydata()) == [1, 2, 1] and list(total.get_ydata()) == [1, 3, 4]
