# %% [markdown] tags=["lesson"]
# name = "a model compressed"
# minutes = 75
# needs = ["23_kashin", "25_weighted_svd"]
# aims = [
#     "compress a trained model by one call, by a share or by a budget of bytes or FLOPs",
#     "read its certificate, and say where it is not to be trusted",
#     "build its parts: the forecast, rounding with feedback, ranks and formats by a budget",
#     "look at what a compressed model gets wrong",
# ]
# take = [
#     "A compression is a calibration, a choice for each layer by its predicted loss, and a certificate on data that neither has seen.",
#     "Bits save bytes but no operation, low rank saves both: which is best depends on the budget, and formats are compared at equal size by what they do to the outputs.",
#     "Layers compressed one at a time forecast all of them together while changes are small; where they are large only the measurement counts.",
# ]

# %% [markdown]
# # How small can a trained model become, and who says that it still works?
#
# One call, `tl.compress`, cuts the blocks of the transformer that reads digits row by row. On the left is its certificate on digits that it has not seen:
# how far each layer alone moves the answers, the forecast from these, and what is measured. On the right are digits that it can read no more.

# %%
from tensorlab.course.lessons import compress as lesson

lesson.CompressExplorer()

# %% [markdown]
# ## One call
#
# 400 digits without labels are the calibration; the 497 test digits are for the certificate alone.

# %%
import copy
import tempfile
from pathlib import Path

import torch

import tensorlab as tl
from tensorlab.course.claims import say
from tensorlab.course.digits import digits, trained_reader
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.methods.candidates import FAMILIES, FITTED
from tensorlab.methods.weighted import metrics

full = trained_reader()
x, _, unseen, truth = digits()
model = tl.compress(
    copy.deepcopy(full),
    [x[:400]],
    keep=0.3,
    method="kfac",
    names="blocks.*",
    outputs="classes",
    unseen=[unseen],
    generator=torch.Generator().manual_seed(0),
)
found = model.compression
print(found.certificate)

# %%
share = found.kept
say(
    f"It keeps {share['numbers of the layers']:.1%} of the numbers of the blocks, {share['numbers of the model']:.1%} of those of the model, and {share['FLOPs of the model']:.1%} of the FLOPs. "
    f"It reads {lesson.read(model):.1%} of the unseen digits, the full model {lesson.read(full):.1%}; {found.certificate.changed:.1%} of the answers are others.",
    share["numbers of the layers"] <= 0.3,
    lesson.read(full) - lesson.read(model) < 0.06,
    abs(lesson.read(full) - lesson.read(model)) <= found.certificate.changed + 1e-9,
)

# %% [markdown]
# ## The mathematics
#
# From calibration to certificate, each step is a separate lesson or an exercise below.
#
# 1. **Statistics**, in one pass: the mean of $x x^{\mathsf T}$ for the inputs of each layer, the sum of $g g^{\mathsf T}$ for gradients of its outputs. Without labels the
#    loss is the cross-entropy at classes that the model itself draws.
# 2. **Choices**: for each layer and each [format](00b_vocabulary.ipynb), the predicted loss $|L (w - \hat w) R|^2$ of lesson 25, bytes and FLOPs. Losses of layers add up, so
#    a budget is met greedily: by what is lost for each byte that is saved.
# 3. **Bits** know the inputs, too [Frantar2023]. Columns are rounded one after another, and each hands its error on to those that follow. With $H$ the mean of
#    $x x^{\mathsf T}$ and $H^{-1} = U^{\mathsf T} U$, $U$ upper triangular:
#
# $$ \hat z_k = \text{nearest level}, \qquad z_{\text{rest}} \leftarrow z_{\text{rest}} - \frac{z_k - \hat z_k}{U_{kk}}\, U_{k, \text{rest}} . $$
#
# 4. **Targets** (method "auto"): each layer is fitted to what the *full* model does there, from inputs of the compressed one [Wang2025].
# 5. **Certificate**: with $d_k$ the change of the outputs when layer $k$ alone is compressed, all of them are forecast to change by
#
# $$ 2 \Big( 1 - \prod_k \big( 1 - \tfrac12 d_k \big) \Big) \ \text{ for vectors of length one}, \qquad \sum_k d_k \ \text{ for the divergence of classes} , $$
#
# and beside it is what is measured, with its 95 % interval.
#
# By hand, with uniform [ranks](00b_vocabulary.ipynb#Rank) and the whitened SVD:


# %%
def compress_by_hand(model, x, keep, names):
    """Each layer in `names` as the best low rank for its inputs: {name: ŵ}."""
    cut = {}
    for name, s in tl.calibrate(model, [x], names).items():
        w = model.get_submodule(name).weight
        r = int(keep * w.numel() / sum(w.shape))
        cut[name] = tl.weighted_svd(w, r, right=metrics(s, "whitened")[1]).to_dense()
    return cut


@torch.no_grad()
def change(model, cut, x):
    """The mean divergence of the answers when these weights take the place of the model's."""
    p, other = model(x).log_softmax(1), copy.deepcopy(model)
    for name, w in cut.items():
        other.get_submodule(name).weight.copy_(w)
    return float((p.exp() * (p - other(x).log_softmax(1))).sum(1).mean())


cut = compress_by_hand(full, x[:400], 0.5, "blocks.*")
alone = {name: change(full, {name: w}, unseen) for name, w in cut.items()}
forecast, measured = sum(alone.values()), change(full, cut, unseen)
library = lesson.certificate(50, "whitened")
say(
    f"At half of the numbers the layers alone forecast a change of {forecast:.3f}, and all of them move the answers by {measured:.3f}. `tl.compress` says "
    f"{library.forecast:.3f} and {library.measured:.3f}.",
    abs(forecast - library.forecast) < 0.01 * forecast,
    abs(measured - library.measured) < 0.01 * measured,
)

# %% [markdown]
# ## Forecast and measurement
#
# The forecast needs one pass for each layer and says *which* layer does the harm. How good is it?

# %%
percents = fast((20, 50), full=(20, 25, 30, 40, 50, 60, 80))
methods = fast(("kfac",), full=("kfac", "svd"))
picture(lambda figure: lesson.draw_forecasts(figure, percents, methods), figsize=(7, 3.6))

# %%
pairs = {p: lesson.certificate(p, "kfac") for p in percents}
off = {p: c.forecast / c.measured for p, c in pairs.items()}
plain, ours = lesson.certificate(30, "svd"), lesson.certificate(30, "kfac")
say(
    f"With 50 % kept by kfac the forecast is {off[50]:.2f} of what is measured, with 20 % it is {off[20]:.2f}: layers that all do harm do more than their sum. "
    f"At 30 % the plain SVD moves the answers {plain.measured / ours.measured:.0f} times as far as kfac.",
    0.5 < off[50] < 2,
    off[20] < 0.9,
    plain.measured > 4 * ours.measured,
)

# %% [markdown]
# A certificate lists its own doubts. Here it has 497 digits where 500 would do, and it says so where the forecast is more than 35 % off: the layers of "auto" are
# fitted to make up for each other, which a forecast from each alone cannot know.
#
# ## Rivals at equal size
#
# Bytes of the blocks: low rank by the plain SVD and by kfac, the same in 4 bits, bits alone with feedback, and narrower networks trained from scratch on all 1300
# digits *with* their labels.

# %%
sizes = lesson.sizes(
    fast((30,), full=(20, 30, 50, 75)),
    fast((16,), full=(12, 16, 20, 24)),
    fast((3,), full=(2, 3, 4, 8)),
)
picture(lambda figure: lesson.draw_sizes(figure, sizes), figsize=(9, 3.6))

# %%
at = {name: dict(points) for name, points in sizes.items()}
(dense, whole), *_ = sizes["dense"]
least = lambda name: min(b for b, right in sizes[name] if right >= whole - fast(0.04, full=0.03))
say(
    f"Dense, {dense:,} bytes read {whole:.1%}. At most a few digits in a hundred are lost with {least('bits'):,.0f} bytes in bits, with {least('kfac in 4 bits'):,.0f} in factors of 4 bits, "
    f"and with {least('kfac'):,.0f} in factors of 32.",
    max(least("bits"), least("kfac in 4 bits")) < dense / 7,
    least("kfac in 4 bits") < 0.2 * least("kfac"),
)

# %% [markdown]
# ## A budget in bytes, or in FLOPs
#
# FLOPs are the operations of a forward pass. `budget={"bytes": 0.1}` makes every [format](00b_vocabulary.ipynb#Format) a candidate for every layer, compares the best plan of each family with the mixed one by what they do to the answers,
# and takes the best, in orange. With `{"flops": 0.4}` the winner is another: bits save no operation. (*Pivoted* is low rank with r rows of the product kept as they are,
# which saves $r^2$ numbers; *tt*, *block tt*, *kronecker* and *monarch* are fitted to the data. A family that cannot meet a budget has no bar.)

# %%
models = {
    "10 % of the bytes": lesson.planned("bytes", 0.1, fast(("bits", "low rank"), full=FAMILIES)),
    "40 % of the FLOPs": lesson.planned("flops", 0.4, fast(("low rank", "pivoted"), full=FAMILIES)),
}
picture(lambda figure: lesson.draw_plans(figure, models), figsize=(9, 3.2))

# %%
of_bytes, of_flops = (m.compression for m in models.values())
say(
    f"Within a tenth of the bytes the plan '{of_bytes.family}' moves the answers by {of_bytes.measured[of_bytes.family]:.2g}, low rank in 32 bits by {of_bytes.measured['low rank']:.2g}. Within 40 % of the FLOPs the best is "
    f"'{of_flops.family}', by {of_flops.measured[of_flops.family]:.2g}; bits alone cannot meet that budget.",
    of_bytes.measured["low rank"] > 50 * of_bytes.measured[of_bytes.family],
    "bits" in of_bytes.measured and "bits" not in of_flops.measured,
    all(min(c.measured.values()) == c.measured[c.family] for c in (of_bytes, of_flops)),
)

# %% [markdown]
# ## What goes wrong, digit by digit
#
# A score hides which answers changed. On the left is each unseen digit, by how probable its true class is to the full model and to the compressed one; on the right what is
# taken for what, and how often. The model is the plain SVD at 30 %.

# %%
broken = lesson.compressed(30, "svd")
picture(lambda figure: lesson.draw_wrong(figure, broken), figsize=(9, 3.6))

# %%
same, others = lesson.sureness(broken)
lost = {m: len(lesson.lost(lesson.compressed(30, m))) for m in ("svd", "kfac")}
say(
    f"The full model gave its answers the probability {same:.3f} (median) where the compressed one agrees, and {others:.3f} where it does not: it was nearly as sure of what "
    f"is lost. The plain SVD loses {lost['svd']} digits that the full model reads, kfac at the same share {lost['kfac']}.",
    0.7 * same < others < same,
    lost["svd"] > 3 * lost["kfac"],
)

# %% [markdown]
# ## A file, and back
#
# A compressed model is a file of safetensors, and comes back into the architecture that it came from.

# %%
path = Path(tempfile.mkdtemp()) / "model.safetensors"
tl.save_compressed(path, models["10 % of the bytes"])
again = tl.load_compressed(path, copy.deepcopy(full))
before = 4 * sum(p.numel() for p in full.parameters())
say(
    f"The file has {path.stat().st_size:,} bytes, for {before:,} bytes of numbers of the full model; the answers are the same. What is not in the blocks is kept whole, "
    f"{of_bytes.kept['bytes of the model']:.0%} of the bytes are left of the model and {of_bytes.kept['bytes of the layers']:.0%} of the blocks.",
    path.stat().st_size < before / 2,
    torch.equal(again(unseen), models["10 % of the bytes"](unseen)),
    of_bytes.kept["bytes of the model"] > of_bytes.kept["bytes of the layers"],
)

# %% [markdown]
# ## Where it loses
#
# *At small sizes* low rank falls apart before bits do, and where there are labels and time a smaller network that is trained beats low rank in 32 bits.
# *Trains and Kronecker sums* lose here, though they are fitted to the data: see the bars above. And the forecast is a sum: it knows nothing of how layers
# work together.

# %%
small = sizes["trained smaller"][0]
near = min(sizes["kfac"], key=lambda point: abs(point[0] - small[0]))
say(
    f"A network trained with {small[0]:,} bytes reads {small[1]:.1%}, kfac with {near[0]:,.0f} bytes {near[1]:.1%}; {min(b for b, _ in sizes['bits']):,.0f} bytes in bits read "
    f"{min(sizes['bits'])[1]:.1%}.",
    fast(True, full=small[1] > near[1]),
    min(sizes["bits"])[1] > whole - 0.04,
    all(
        moved > 5 * c.measured[c.family]
        for c in (of_bytes, of_flops)
        for name, moved in c.measured.items()
        if name in FITTED
    ),
)

# %% [markdown]
# ## Exercises
#
# Exercises 2 to 5 are the parts of `compress`. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: ten layers (★, 3 minutes)
#
# Outputs are vectors of length one. Each of ten layers, compressed alone, moves them by $d_k = 0.1$. What does the certificate forecast for all of them?

# %%
ten_layers = ...
lesson.ten_layers(ten_layers)

# %% [markdown] tags=["hints"]
# Use the formula with the product: ten equal factors.
#
# Each factor is 1 - 0.05.

# %% tags=["solution"]
ten_layers = 2 * (1 - (1 - 0.1 / 2) ** 10)

# %% [markdown]
# ### 2. The forecast (★, 5 minutes)
#
# Write `forecast(alone)`: the forecast for vectors from a tensor of changes by each layer alone. A change may be more than 2: then its factor counts as 0.


# %%
def forecast(alone): ...


lesson.forecast(forecast)

# %% [markdown] tags=["hints"]
# `(1 - alone / 2)` has the factors; `.prod()` multiplies them.
#
# `.clamp_min(0)` before the product.


# %% tags=["solution"]
def forecast(alone):
    return 2 * (1 - (1 - alone / 2).clamp_min(0).prod())


# %% [markdown]
# ### 3. Rounding with feedback (★★★, 15 minutes)
#
# Write `round_row(z, h, levels)`: a row z (n,) in the given levels, from the left, each entry's error handed on to those after it; h (n, n) is the mean of
# $x x^{\mathsf T}$. Return the levels that were taken, (n,), and leave z as it is.


# %%
def round_row(z, h, levels): ...


lesson.round_row(round_row)

# %% [markdown] tags=["hints"]
# `torch.linalg.cholesky(a)` gives the lower C with a = C Cᵀ; with a the inverse of h, U = Cᵀ.
#
# In a loop over k: `levels[(levels - z[k]).abs().argmin()]`, the error divided by `u[k, k]`, times `u[k, k + 1:]`, taken off `z[k + 1:]` of a copy.


# %% tags=["solution"]
def round_row(z, h, levels):
    u = torch.linalg.cholesky(torch.linalg.inv(h)).mT
    z, q = z.clone(), torch.zeros_like(z)
    for k in range(len(z)):
        q[k] = levels[(levels - z[k]).abs().argmin()]
        z[k + 1 :] -= (z[k] - q[k]) / u[k, k] * u[k, k + 1 :]
    return q


# %% [markdown]
# ### 4. Ranks by a budget (★★, 10 minutes)
#
# Write `greedy_ranks(spectra, costs, budget)`: begin with rank 0 everywhere; take one component after another, always that with the most loss ($s^2$) for each number that it stores;
# stop at the first that does not fit into the budget, or when there is none left. `spectra[k]` falls, a component of layer k stores `costs[k]` numbers. Return the ranks.


# %%
def greedy_ranks(spectra, costs, budget): ...


lesson.greedy_ranks(greedy_ranks)

# %% [markdown] tags=["hints"]
# The next component of layer k is `spectra[k][ranks[k]]`, as long as `ranks[k] < len(spectra[k])`.
#
# All components of all layers can be sorted by s² / cost at once: within a layer they fall already.


# %% tags=["solution"]
def greedy_ranks(spectra, costs, budget):
    parts = [(float(v**2) / c, k) for k, (s, c) in enumerate(zip(spectra, costs)) for v in s]
    ranks = [0] * len(spectra)
    for _, k in sorted(parts, reverse=True):
        budget -= costs[k]
        if budget < 0:
            break
        ranks[k] += 1
    return ranks


# %% [markdown]
# ### 5. A format for each layer (★★★, 15 minutes)
#
# Write `choose(tables, budget)`: `tables[k]` has a row (bytes, loss) for each format that layer k could have, the dense one first. Begin with all layers dense. While the bytes of all layers are
# above the budget, make the one change, of one layer to a format of fewer bytes than it has now, that adds the least loss for each byte saved. Return the number of each layer's row.


# %%
def choose(tables, budget): ...


lesson.choose(choose)

# %% [markdown] tags=["hints"]
# Keep a list `at` of rows, all 0 at first. Make a list of all possible changes, and take the least.
#
# A change of layer k to row i: `(t[i, 1] - t[at[k], 1]) / (t[at[k], 0] - t[i, 0])`, where the denominator is positive.


# %% tags=["solution"]
def choose(tables, budget):
    at = [0] * len(tables)
    while sum(float(t[i, 0]) for t, i in zip(tables, at)) > budget:
        steps = []
        for k, t in enumerate(tables):
            now = t[at[k]]
            for i, row in enumerate(t):
                if row[0] < now[0]:
                    steps.append((float((row[1] - now[1]) / (now[0] - row[0])), k, i))
        _, k, i = min(steps)
        at[k] = i
    return at


# %% [markdown]
# ### 6. Explore (★, 5 minutes)
#
# In the explorer at the top, with method svd and 32 bits: which is the least share, a multiple of ten percent from 20 up, at which at most 10 % of the answers are others? Then look at kfac there.

# %%
least_kept = ...
lesson.least_kept(least_kept)

# %% [markdown] tags=["hints"]
# The sentence below the picture says how many of the answers are others.
#
# Try 20, 30, 40, ... percent.

# %% tags=["solution"]
least_kept = next(p for p in range(20, 90, 10) if lesson.certificate(p, "svd").changed <= 0.1)
