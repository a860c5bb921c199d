# %% [markdown] tags=["lesson"]
# name = "what it costs"
# minutes = 75
# needs = ["01_lowrank", "10_ttmatrix", "15_dlrt"]
# aims = [
#     "count what a training step holds at each of its moments",
#     "say where a smaller layer saves memory and where it does not",
#     "build a step with low rank in the optimizer",
#     "tell a measured energy from a modeled one",
# ]
# take = [
#     "A number that is not stored is saved several times in training: its gradient and the optimizer's averages go with it. What autograd keeps grows with the batch, and more factors keep more of it.",
#     "A gradient has a low numerical rank, but its subspace turns: the sum of the gradients has a higher one, and so has the trained weight.",
#     "Joules are either read from a counter or are a model: seconds, or operations, times watts that somebody has assumed.",
# ]

# %% [markdown]
# # What does a network cost to train and to use?
#
# A layer that keeps half of its numbers does not halve the memory of training. Below, a small encoder in one of four kinds of layers: what is alive at each moment
# of a training step, and at the peak as the batch grows. Move the batch first, then the share that is kept. (GaLore and Dion are optimizers of dense layers
# that step with low rank; for them the share is that of the rank.)

# %%
from tensorlab.course.lessons import cost as lesson

lesson.LedgerExplorer()

# %% [markdown]
# ## The mathematics
#
# The step has four moments: the model is *loaded*, with what the optimizer keeps (its *state*); the *forward* pass adds what autograd keeps for the gradient; the
# *backward* pass the gradients; the optimizer's *step* uses them up. The *peak* is the most that is ever alive. A layer $y_t = W x_t$ with $W$ of $m$ by $n$ and
# $t = 1, \dots, T$ tokens holds, in numbers,
#
# | layer, optimizer | loaded: weights | loaded: state | + forward | + backward |
# |---|---|---|---|---|
# | dense, none | $mn$ | | $T n$ | $mn$ |
# | dense, Adam | $mn$ | $2mn$ | $T n$ | $mn$ |
# | SVD: $W = U V^{\mathsf T}$ of [rank](00b_vocabulary.ipynb#Rank) $r$, Adam | $r(m+n)$ | $2 r (m + n)$ | $T (n + r)$ | $r(m+n)$ |
# | TTM: a [TT-matrix](10_ttmatrix.ipynb), Adam | $\lvert\text{cores}\rvert$ | $2\, \lvert\text{cores}\rvert$ | $T n$ | $\lvert\text{cores}\rvert$, and on the way $mn$ |
# | DLRT, $W = U S V^{\mathsf T}$ of [lesson 15](15_dlrt.ipynb) [Schotthoefer2022] | $r(m+n+r)$ | of $S$ alone | $T (n + r)$ and more | of $U$, $V$, and then of $S$ |
# | dense, GaLore [Zhao2024], $m \le n$ | $mn$ | $r(m + 2n)$ | $T n$ | $mn$ |
# | dense, Dion [Ahn2025] | $mn$ | $mn + nr$ | $T n$ | $mn$ |
#
# The gradient of $W$ is $\sum_t \delta_t x_t^{\mathsf T}$: each product keeps its *input*. Two factors are two products, so that
# $r$ numbers more are kept for each token, and after the forward pass nothing is saved from
#
# $$ T\, r > mn - r (m + n) $$
#
# on. A ledger counts all of that: each storage from the operation that makes it until nobody holds it. `tl.training_memory` sees every operation; what autograd
# keeps can be counted in a dozen lines.

# %%
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import tensorlab as tl
from tensorlab.course.claims import say
from tensorlab.course.lab import fast
from tensorlab.course.widgets import picture
from tensorlab.papers import footprint

storage = lambda t: t.untyped_storage()


def plain_ledger(f, parameters):
    """Bytes that autograd keeps of f() for the gradient, beside the parameters."""
    known, kept = {storage(p).data_ptr() for p in parameters}, {}

    def keep(t):
        if storage(t).data_ptr() not in known:
            kept[storage(t).data_ptr()] = storage(t)  # held: its address is not given away again
        return t

    with saved_tensors_hooks(keep, lambda t: t):
        f()
    return sum(s.nbytes() for s in kept.values())


T, n, m, r = 200, 384, 384, 94
x = torch.randn(T, n, generator=torch.Generator().manual_seed(0))
layers = {
    "dense": nn.Linear(n, m, bias=False),
    "factors": nn.Sequential(nn.Linear(n, r, bias=False), nn.Linear(r, m, bias=False)),
}
kept, memory = {}, {}
for name, layer in layers.items():
    loss = lambda layer=layer: layer(x).sum()
    kept[name] = plain_ledger(loss, layer.parameters())
    memory[name] = tl.training_memory(layer, loss, inputs=[x])
say(
    f"Of {T} tokens the dense layer keeps {kept['dense']:,} bytes, which is $4 T n$, and two factors {kept['factors']:,}, which is $4 T (n + r)$. "
    f"After the forward pass `tl.training_memory` counts {memory['dense'].forward:,} and {memory['factors'].forward:,} with the weights and the loss.",
    kept["dense"] == 4 * T * n,
    kept["factors"] == 4 * T * (n + r),
    memory["dense"].forward == 4 * (m * n + T * n + 1),
    memory["factors"].forward == 4 * (r * (m + n) + T * (n + r) + 1),
)

# %% [markdown]
# ## Where the savings are, and where not
#
# Peaks of the encoder above over those of the dense one, whose optimizer is Adam on the right. All compressed layers keep 49 % of the numbers, GaLore and Dion have a
# quarter of the width as their rank.

# %%
batches = fast((1, 8), full=(1, 2, 4, 8, 16))
picture(lambda figure: lesson.draw_batches(figure, batches), figsize=(9, 4))

# %%
few, many = batches[0], batches[-1]
small, large = (lesson.peak_shares(lesson.WITHOUT, b) for b in (few, many))
first, last = (lesson.peak_shares(lesson.STEPPED, b) for b in (few, many))
loaded = lambda way, b: lesson.ledger(*lesson.STEPPED[f"dense, {way}"], b).load
state = {b: loaded("Adam", b) - loaded("GaLore", b) for b in (few, many)}
say(
    f"Without an optimizer SVD holds {small['SVD']:.2f} of dense at batch {few} and {large['SVD']:.2f} at batch {many}, TTM {small['TTM']:.2f} and {large['TTM']:.2f}: a TTM layer keeps "
    f"its input alone, for it builds $W$ anew in the backward pass. With Adam SVD holds {first['SVD, Adam']:.2f} and {last['SVD, Adam']:.2f}, GaLore on dense layers "
    f"{first['dense, GaLore']:.2f} and {last['dense, GaLore']:.2f}, Dion {first['dense, Dion']:.2f} and {last['dense, Dion']:.2f}. GaLore keeps {state[few] / 2**20:.2f} MiB less than Adam at any batch.",
    state[few] == state[many] > 0,
    small["SVD"] < small["TTM"] < 1,
    large["TTM"] < 1 < large["SVD"],
    first["SVD, Adam"] < small["SVD"],
    first["SVD, Adam"] < min(first["dense, GaLore"], first["dense, Dion"]),
    first["dense, GaLore"] < first["dense, Dion"] < 1,
    first["dense, GaLore"] < last["dense, GaLore"] < last["dense, Dion"] < 1,
)

# %% [markdown]
# The same for an encoder of the size of MiniLM, 6 layers of width 384: recorded by `tensorlab run Chekalina2023footprint`, sequences of 128 tokens, embeddings frozen. *FFN*
# means that only the two wide layers behind the attention of a block are replaced. Crosses are ratios of printed MB, from a talk on the compression of transformers: a BERT
# on a GPU, whose FFN keeps a few percent of its numbers.

# %%
picture(lesson.draw_recorded, figsize=(9, 3.8))

# %%
rows = {b: lesson.recorded(b) for b in (1, 16)}
peak = lambda b, name: rows[b][name]["peak"]
share = lambda b, name, of="dense": peak(b, name) / peak(b, of)
mean_saved = lambda b: rows[b]["dense"]["forward"] - rows[b]["dense"]["load"]
say(
    f"At batch 1 the peak of SVD at 49 % is {share(1, 'SVD all'):.2f} of dense and that of TTM {share(1, 'TTM all'):.2f}; at batch 16 they are {share(16, 'SVD all'):.2f} and "
    f"{share(16, 'TTM all'):.2f}: SVD is *above* dense. Autograd keeps {mean_saved(1):.0f} MiB of one sequence and {mean_saved(16):.0f} of sixteen, beside "
    f"{rows[1]['dense']['load']:.0f} MiB that are loaded. Adam's averages weigh more than any layer saves: dense with Adam holds {share(1, 'dense Adam'):.2f}, GaLore {share(1, 'dense GaLore'):.2f} "
    f"at batch 1.",
    share(1, "SVD all") <= 0.72,
    share(1, "TTM all") <= 0.80,
    share(16, "TTM all") < 1 < share(16, "SVD all"),
    mean_saved(1) < rows[1]["dense"]["load"] < mean_saved(16),
    share(1, "dense Adam") - 1
    > 1 - min(share(1, f"{k} {of}") for k in ("SVD", "TTM") for of in ("all", "FFN")),
    share(1, "dense GaLore") < share(1, "dense Adam"),
)

# %% [markdown]
# ## The rank of one gradient, and of the sum
#
# Methods with low rank in the optimizer keep the weight dense and step in a subspace of the gradient. They live on its low numerical rank, here the least $r$ with
#
# $$ \Big(\sum_{k > r} \sigma_k^2\Big)^{1/2} \le \tfrac{1}{10}\, |\sigma| . $$
#
# A small character model is trained by Adam, and we look at a weight of 32 by 128 of it. What plain gradient descent adds to the weight is a multiple of the *sum* of the gradients; what Adam has added is the third curve.

# %%
steps = fast(8, full=200)
picture(lambda figure: lesson.draw_ranks(figure, (1, 32), steps), figsize=(10, 3.3))

# %%
found = lesson.ranks(32, steps)
one, total, change = found.values()
say(
    f"With 1,024 tokens in a batch one gradient has a rank of {min(one)} to {max(one)} of 32, the sum of {steps} has {total[-1]}, and what Adam has made of them {change[-1]}.",
    max(one) < 16,
    total[-1] > one[-1],
    change[-1] > total[-1],
    fast(True, full=total[-1] >= 2 * sum(one) / len(one)),
)

# %% [markdown]
# So the subspace turns. How much of a gradient lies in the leading subspace of four dimensions: of itself, of one that is taken anew now and then, as GaLore does,
# and of the first of all?

# %%
every = fast(4, full=20)
picture(lambda figure: lesson.draw_held(figure, 32, steps, 4, every), figsize=(8, 3))

# %%
means = {name: sum(v) / len(v) for name, v in lesson.held(32, steps, 4, every).items()}
own, anew, once = means.values()
say(
    f"Its own four directions hold {own:.0%} of a gradient in the mean, those taken every {every} steps {anew:.0%}, those of the first gradient {once:.0%}; four random ones would hold {4 / 32:.1%}.",
    own > anew > once,
    own > 0.8,
)

# %% [markdown]
# ## What is lost by it
#
# The running network, 64 → 64 → 64 → 10, trained to read digits in each of the ways. On the horizontal axis are the bytes between two steps: weights, what the
# optimizer keeps, and nothing of the batch. The rates, `lesson.RATES`, were chosen beforehand, each out of three, on part of the training digits.

# %%
ranks = fast((8,), full=(2, 8, 32))
compared = lesson.compare(ranks, steps=fast(2, full=200), seeds=fast(1, full=2))
picture(lambda figure: lesson.draw_compared(figure, compared), figsize=(8, 3.2))

# %%
at = lambda way: compared[way][0 if way == "Adam" else ranks.index(8)]
dense, dense_right = at("Adam")
said = lambda way: f"{at(way)[0] / dense:.0%} ({at(way)[1]:.1%})"
say(
    f"Dense layers with Adam hold {dense / 1024:.0f} KiB and read {dense_right:.1%}. Of these bytes, at rank 8, GaLore holds {said('GaLore')}, "
    f"Dion {said('Dion')}, factors with Adam {said('SVD')}, DLRT {said('DLRT')}; in brackets is what each reads.",
    at("DLRT")[0] < at("SVD")[0] < at("GaLore")[0] < at("Dion")[0] < dense,
    fast(True, full=min(at(way)[1] for way in ("GaLore", "Dion", "SVD")) > dense_right - 0.06),
)

# %% [markdown]
# ## Inference
#
# A TT-matrix that builds $W$ from its cores for each batch does more than a dense layer. Where it was chosen for training or for storage, *fold* it: the cores are multiplied out once.

# %%
made = lambda layers: footprint.encoder(
    footprint.SIZES["quick"], layers, "all", torch.Generator().manual_seed(1)
)
ids = torch.arange(12).view(1, 12)
with torch.no_grad():
    unfolded, folded = made("TTM")(ids), made("TTM folded")(ids)
times = {b: lesson.recorded(b, "none") for b in (1, 16)}
time = lambda b, name: times[b][name]["time of dense"]
say(
    f"Folded, the outputs are the same to at least five digits, and all layers are dense. Recorded at batch 1: TTM took {time(1, 'TTM all'):.2f} of dense and folded {time(1, 'TTM folded all'):.2f}, "
    f"SVD {time(1, 'SVD all'):.2f}; at batch 16 {time(16, 'TTM all'):.2f}, {time(16, 'TTM folded all'):.2f} and {time(16, 'SVD all'):.2f}.",
    float((unfolded - folded).norm() / folded.norm()) < 1e-5,
    all(
        type(layer) is nn.Linear
        for layer in made("TTM folded").modules()
        if hasattr(layer, "in_features")
    ),
    all(time(b, "TTM all") > 1 for b in (1, 16)),
    all(time(b, "TTM folded all") < 1.05 for b in (1, 16)),
    all(time(b, "SVD all") < 0.8 for b in (1, 16)),
)

# %% [markdown]
# ## Energy is a model here
#
# Few machines let a program read their counters. Where none can be read,
#
# $$ \text{joules} = \text{watts} \cdot \text{seconds}, \qquad \text{seconds} = \frac{\text{operations}}{\text{operations a second}}, $$
#
# with watts that *somebody has assumed*. `tl.energy_of` measures if it can, and its result always says which it was.

# %%
size = footprint.SIZES[fast("quick", full="full")]
batch, tokens = size["batches"][0]
with torch.no_grad():
    words = torch.randint(
        size["words"], (batch, tokens), generator=torch.Generator().manual_seed(0)
    )
    model = footprint.encoder(size, "dense", "none", torch.Generator().manual_seed(0)).eval()
    here = tl.energy_of(lambda: [model(words) for _ in range(10)], watts=15)
say(
    f"Ten inferences of {batch} × {tokens} tokens on this machine: {here}.",
    here.joules > 0,
    "W assumed" in here.how or "measured" in here.how,
)
picture(lesson.draw_inference, figsize=(9, 3.4))

# %%
base = times[1]["dense"]
apart = [
    lesson.joules(row) / lesson.joules(base) / (row["ms"] / base["ms"]) - 1
    for row in times[1].values()
]
talk = {
    name: (row["time of dense (printed)"], row["1e-5 kWh (printed)"] / base["1e-5 kWh (printed)"])
    for name, row in times[1].items()
    if row["ms (printed)"]
}
(ttm_time, ttm_energy), (svd_time, svd_energy) = talk["TTM FFN"], talk["SVD FFN"]
say(
    f"By our model, with 15 W assumed for a core, energy is time again, at most {max(map(abs, apart)):.0%} off because the two were timed apart: it tells nothing more. "
    f"The TTM of the talk takes {ttm_time:.2f} of the time and {ttm_energy:.2f} of the energy, its SVD {svd_time:.2f} and {svd_energy:.2f}: there the watts were not constant.",
    all("15 W assumed" in row["energy of 10"] for row in times[1].values()),
    max(map(abs, apart)) < 0.2,
    ttm_energy < ttm_time,
    svd_energy > svd_time,
)

# %% [markdown]
# ## Where it misleads
#
# * Kept numbers are not kept memory: from some batch on a layer of two factors holds more than a dense one.
# * The ledger counts tensors. What one operation takes and gives back inside, and what the allocator keeps in reserve, is in no row of it.
# * Low rank in the optimizer saves averages, not the weight, nor its gradient, nor what autograd keeps.
# * The talk's tables of memory and time are of models that keep a few percent of their FFN: quality, bytes and time belong in one row, of one model.
#
# ## Exercises
#
# Exercises 2 to 6 build the count and the step of this lesson, each with what came before. A blank says nothing; a wrong answer gets its own hint.
#
# ### 1. Predict: when do factors hold more? (★★, 5 minutes)
#
# A layer of 384 by 384 is replaced by two factors of rank 94. After the forward pass, weights and what autograd keeps counted: from how many tokens on do the factors hold more than the dense layer?

# %%
break_even = ...
lesson.break_even(break_even)

# %% [markdown] tags=["hints"]
# How many numbers do the factors save, and how many more are kept for each token?
#
# $T r > m n - r (m + n)$, and T is a whole number.

# %% tags=["solution"]
break_even = (384 * 384 - 94 * (384 + 384)) // 94 + 1

# %% [markdown]
# ### 2. The bytes of Adam (★, 5 minutes)
#
# Write `adam_bytes(shapes, itemsize)`: all that training by Adam holds of parameters of these shapes between the backward pass and the step, in bytes; `itemsize` is that of one number. A dense layer has one shape, `[(m, n)]`, two factors have
# `[(m, r), (n, r)]`.


# %%
def adam_bytes(shapes, itemsize): ...


lesson.adam_bytes(adam_bytes)

# %% [markdown] tags=["hints"]
# Which tensors have the shape of a parameter?
#
# The parameter, its gradient, and two averages: `math.prod(shape)` numbers each.


# %% tags=["solution"]
def adam_bytes(shapes, itemsize):
    return 4 * itemsize * sum(torch.Size(shape).numel() for shape in shapes)


# %% [markdown]
# ### 3. What autograd keeps (★, 5 minutes)
#
# Write `kept_bytes(tokens, sides, itemsize)`: the bytes that autograd keeps of a chain of products without anything between them, for so many tokens. `sides` are their sizes: `(n, m)` is a dense layer $y = W x$, `(n, r, m)` are two factors.


# %%
def kept_bytes(tokens, sides, itemsize): ...


lesson.kept_bytes(kept_bytes)

# %% [markdown] tags=["hints"]
# The gradient of each weight is a product with the input of that weight.
#
# All sides but the last are inputs.


# %% tags=["solution"]
def kept_bytes(tokens, sides, itemsize):
    return tokens * sum(sides[:-1]) * itemsize


# %% [markdown]
# ### 4. The subspace of a gradient (★★, 5 minutes)
#
# Write `gradient_basis(g, rank)`: orthonormal columns, (m, rank), that span the subspace which holds the most of the gradient g, (m, n), $m \le n$.


# %%
def gradient_basis(g, rank): ...


lesson.gradient_basis(gradient_basis)

# %% [markdown] tags=["hints"]
# What is kept of g is $P P^{\mathsf T} g$; the best such matrix is a truncated SVD.
#
# `torch.linalg.svd(g, full_matrices=False)` gives u, s, vh.


# %% tags=["solution"]
def gradient_basis(g, rank):
    return torch.linalg.svd(g, full_matrices=False)[0][:, :rank]


# %% [markdown]
# ### 5. A step in the subspace (★★★, 15 minutes)
#
# Write `galore_step(w, g, p, first, second, t, lr)`: step t = 1, 2, ... of Adam in the subspace p, as your `gradient_basis` gives it. w and g are (m, n), the averages `first` and `second` are (rank, n). With $R = P^{\mathsf T} G$,
#
# $$ M \leftarrow 0.9\, M + 0.1\, R, \qquad V \leftarrow 0.999\, V + 0.001\, R^2, \qquad W \leftarrow W - \text{lr}\; P\, \frac{M / (1 - 0.9^t)}{\sqrt{V / (1 - 0.999^t)} + 10^{-8}} . $$
#
# Return w and the two averages; write into none of the arguments.


# %%
def galore_step(w, g, p, first, second, t, lr): ...


lesson.galore_step(galore_step)

# %% [markdown] tags=["hints"]
# All of Adam happens to `p.T @ g`, which has few rows.
#
# Only the quotient goes back to (m, n), by p.


# %% tags=["solution"]
def galore_step(w, g, p, first, second, t, lr):
    r = p.T @ g
    first = 0.9 * first + 0.1 * r
    second = 0.999 * second + 0.001 * r**2
    move = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return w - lr * p @ move, first, second


# %% [markdown]
# ### 6. The rank of the sum (★★, 10 minutes)
#
# Write `sum_ranks(gradients, rtol)`: a list of whole numbers, for k = 1, 2, ... the numerical rank of the sum of the first k gradients, which is the least r with $(\sum_{j>r} \sigma_j^2)^{1/2} \le \text{rtol}\, |\sigma|$.


# %%
def sum_ranks(gradients, rtol): ...


lesson.sum_ranks(sum_ranks)

# %% [markdown] tags=["hints"]
# `torch.linalg.svdvals` of the running sum.
#
# Go through r = 0, 1, ... and take the first with `s[r:].norm() <= rtol * s.norm()`.


# %% tags=["solution"]
def sum_ranks(gradients, rtol):
    total, found = 0, []
    for g in gradients:
        total = total + g
        s = torch.linalg.svdvals(total)
        found.append(next(r for r in range(len(s) + 1) if s[r:].norm() <= rtol * s.norm()))
    return found


# %% [markdown]
# ### 7. Joules, and what they rest on (★, 5 minutes)
#
# Write `training_joules(weights, tokens, rate, watts)`: the energy of one training step of dense layers with so many weights, and a sentence that says which watts were assumed. `rate` is operations a second; a multiplication and an addition are two
# operations, and a backward pass takes two products for each of the forward. Return the pair (joules, sentence).


# %%
def training_joules(weights, tokens, rate, watts): ...


lesson.training_joules(training_joules)

# %% [markdown] tags=["hints"]
# Each weight is used once for each token in the forward pass: two operations.
#
# Three products, six operations for each weight and token; divide by the rate, and multiply by the watts.


# %% tags=["solution"]
def training_joules(weights, tokens, rate, watts):
    joules = 6 * weights * tokens / rate * watts
    return (
        joules,
        f"{joules:.3g} J (modeled: {rate:g} operations a second and {watts:g} W assumed)",
    )


# %% [markdown]
# ### 8. Explore: the crossing (★, 5 minutes)
#
# In the explorer at the top choose SVD, a share of 0.49 and no optimizer. What is the least batch at which its peak is above that of the dense layers?

# %%
crossing = ...
lesson.crossing(crossing)

# %% [markdown] tags=["hints"]
# The sentence below the picture gives the ratio to dense.
#
# Move the batch one by one near the crossing of the curves.

# %% tags=["solution"]
crossing = next(
    b
    for b in range(1, 17)
    if lesson.ledger("SVD", "none", 0.49, b).peak > lesson.ledger("dense", "none", 1.0, b).peak
)
