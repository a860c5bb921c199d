# %% [markdown]
# # How do you find the smallest of $2^{50}$ numbers when you may look at ten thousand?
#
# Keep a distribution over all of them, look where it points, and move it toward the best of what you saw. The distribution is a
# train, so it fits into a few hundred numbers, and drawing from it is exact. Press *step*: dots are the points of a batch, rings the
# best of them, and beside it stands what the model has learned from those.

# %%
from tensorlab.course.lab import fast
from tensorlab.course.lessons import protes as lesson

lesson.LandscapePlayer()

# %% [markdown]
# ## The mathematics
#
# The model has cores $G_k$ of shape $(r, n, r)$. What stands right of a mode is summed, what stands left is given:
#
# $$ z_d = 1, \quad z_k = \Big(\sum_j G_k[j]\Big) z_{k+1}, \qquad q_0 = 1, \quad q_{k+1} = q_k\, G_k[i_k], $$
#
# and the next index is drawn with
#
# $$ p_k(j \mid i_0, \dots, i_{k-1}) = \frac{|q_k\, G_k[j]\, z_{k+1}|}{\sum_{j'} |q_k\, G_k[j']\, z_{k+1}|} . $$
#
# Then $\log p(i) = \sum_k \log p_k(i_k)$. The cores begin positive, so that $p = P / \sum P$; steps bring minus signs in, and then the
# absolute value makes it another distribution, as exactly normalized. One batch of PROTES [Batsheva2023]:
#
# 1. draw $m$ points and evaluate them;
# 2. keep the $e$ best, the elite $E$;
# 3. take one step of Adam up $\frac1e \sum_{i \in E} \log p(i)$.
#
# Here three things are added. A point that is known is not asked for again. A fifth of each batch are mutants, the best points with
# one or two indices changed. And a constraint is a mask on the cores, below.
#
# The gradient needs no graph: one sweep from the left carries $\partial / \partial z$, one from the right $\partial / \partial q$.

# %%
import inspect
from functools import partial

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab.methods import protes as module
from tensorlab.papers import protes as paper
from tensorlab.papers.protes_problems import RUNS, problem

budget = fast(600, full=10_000)
generator = lambda seed: torch.Generator().manual_seed(seed)
Code(inspect.getsource(module._gradient), language="python")

# %% [markdown]
# What is drawn is what is scored, and it is a distribution at any signs: the sum over a whole grid.

# %%
search = tl.Protes((3, 4, 5, 2), budget=1, generator=generator(0))
search.cores = (
    torch.randn(search.cores.shape, generator=generator(0), dtype=torch.float64) * search.mask
)
grid = torch.cartesian_prod(*[torch.arange(n) for n in search.shape])
p = search.log_prob(grid).exp()
drawn = search.draw(20_000)
seen = torch.tensor([(drawn == row).all(1).double().mean() for row in grid[p.topk(3).indices]])
print(
    f"cores with a minus: {int((search.cores < 0).sum())} of {int(search.mask.sum())} numbers; sum of p: {float(p.sum()):.12f}"
)
print(f"the three most probable: {p.topk(3).values.tolist()}, in 20000 draws {seen.tolist()}")

# %% [markdown]
# ## In fifty dimensions
#
# No picture of $2^{50}$ probabilities, but the share of ones in each mode can be watched. Modes settle one after another; those
# that stay open are what the search is still about.

# %%
lesson.MarginalsPlayer()

# %% [markdown]
# ## Beside random search and TT-cross
#
# Four problems of the paper's twenty, one seed each here; `tensorlab run Batsheva2023 --preset full` runs all, with ten. The reference
# of the knapsack is proved by dynamic programming; that of the cut is the best that anybody we know of has found.

# %%
for key in ("P-07", "P-11", "P-14", "P-15"):
    p = problem(key)
    fit = tl.protes(p.f, p.shape, budget=budget, generator=generator(0))
    rivals = f"random {paper.random_search(p, budget, 0):.6g}, TT-cross {paper.cross_search(p, budget, 0):.6g}"
    print(f"{key} {p.name}: PROTES {fit.value.value:.6g}, {rivals}; reference {p.best:.6g}")
    print(f"      {fit.evaluations} points were given to f, {fit.samples} were drawn, {fit.reason}")

# %% [markdown]
# ## A constraint that does not leak
#
# A control may switch on only for three steps or longer. Words like that are read by an automaton of four states, and its indicator
# is a train whose ranks are the states. The authors begin from that train: the first batch is feasible. But a zero of a core has a
# gradient, Adam moves it, and soon most draws are forbidden. With the mask the zeros stay zeros. Both, from the same start, on P-18:

# %%
p = problem("P-18")
admits = lambda index: RUNS.tt(p.shape).at(index) > 0
masked = tl.Protes(p.shape, budget=10**6, constraint=RUNS, mutants=0, generator=generator(0))
start = tl.TT(
    [core[:r, :, :q] for core, r, q in zip(masked.cores, [1, *[20] * 24], [*[20] * 24, 1])]
)
loose = tl.Protes(p.shape, budget=10**6, init=start, mutants=0, generator=generator(0))
for batch in range(1, fast(6, full=21)):
    shares = []
    for search in (masked, loose):
        index = search.ask()
        ok = admits(index)
        shares.append(float(ok.double().mean()))
        search.tell(torch.where(ok, p.f(index), 1e42))
    if batch in (1, 2, 5, 10, 20):
        print(f"batch {batch:2}: feasible {shares[0]:.2f} with the mask, {shares[1]:.2f} without")

# %% [markdown]
# ## Where it loses
#
# *Smooth functions of few variables.* TT-cross reads off the structure from fibers and needs fewer looks: the number of points at
# which each method first met the proven optimum of the grid.

# %%
for key in ("P-02", "P-08"):
    p, values = problem(key), {"PROTES": [], "TT-cross": []}
    noted = lambda index, name, p=p, values=values: (
        values[name].append(p.f(index)) or values[name][-1]
    )
    tl.protes(partial(noted, name="PROTES"), p.shape, budget=budget, generator=generator(0))
    tl.tt_cross(
        partial(noted, name="TT-cross"), p.shape, rtol=1e-10, budget=budget, generator=generator(0)
    )
    for name, seen in values.items():
        first = (torch.cat(seen) <= p.best + 1e-5 * abs(p.best)).nonzero()[:1, 0].tolist()
        print(
            f"{key} {p.name}, {name}: the optimum was first met at point {first[0] + 1 if first else 'none'} of {len(torch.cat(seen))}"
        )

# %% [markdown]
# *No structure at all.* A needle in a haystack, one entry -1 among zeros: nothing can be learned from the elite, and random search
# is as good. On a grid of $2^{12}$ and with as many looks as a quarter of it, the share of twenty seeds that found it:

# %%
needle = torch.randint(2, (12,), generator=generator(3))
f = lambda index: -(index == needle).all(1).double()
seeds = range(fast(3, full=20))
found = sum(
    tl.protes(f, (2,) * 12, budget=1024, generator=generator(s)).value.value == -1 for s in seeds
)
print(
    f"PROTES found it with {found} of {len(seeds)} seeds; a quarter of the grid holds it with probability 0.25"
)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.signed_table.question)
lesson.signed_table(...)

# %% [markdown]
# **Implement.**


# %%
def conditional(q, core, z): ...


print(lesson.conditional.question)
lesson.conditional(conditional)

# %% [markdown]
# **Explore.**

# %%
print(lesson.feasible_words.question)
lesson.feasible_words(...)
