# %% [markdown]
# # How few numbers change what a trained network does?
#
# A network that reads upright digits shall learn to read them lying on their side, from 300 examples. All of its weights are frozen; beside two of
# them stands a small trained one. Press *play*, then choose another kind or another rank.

# %%
from tensorlab.course.lab import fast
from tensorlab.course.lessons import lora as lesson

lesson.AdaptPlayer()

# %% [markdown]
# ## The mathematics
#
# Training all weights changes $w$ by some $\Delta$ of its size. LoRA [Hu2021] bets that a $\Delta$ of low rank will do:
#
# $$ y = w x + \tfrac{\alpha}{r}\, B A x, \qquad A\ (r, \text{in}) \text{ Gaussian},\quad B\ (\text{out}, r) = 0 . $$
#
# At the start $BA = 0$: nothing changes. The gradients are $\partial B = \tfrac{\alpha}{r}\, G A^T$ and $\partial A = \tfrac{\alpha}{r}\, B^T G$ with
# $G$ that of the dense weight, so at first only $B$ moves. No SVD is taken anywhere: the rank is chosen, not found. Afterwards
# $w + \tfrac{\alpha}{r} B A$ is one dense matrix again, and inference costs nothing more.
#
# | kind | what is added | at the start |
# |---|---|---|
# | LoRA [Hu2021] | $\frac{\alpha}{r} BA$ | $B = 0$ |
# | rsLoRA [Kalajdzievski2023] | $\frac{\alpha}{\sqrt r} BA$: the size of the change does not fall as $r$ grows | $B = 0$ |
# | DoRA [Liu2024] | $m \odot (w + sBA) / \|w + sBA\|$ by rows: length and direction apart | $m = \|w\|$ |
# | LoKr [Yeh2024] | $s\, w_1 \otimes (ab)$: full rank from few numbers, multiplied as $w_1 X (ab)^T$ | $w_1 = 0$ |
# | dlrt [Schotthoefer2022] | $s\, U S V^T$, trained by the integrator of lesson 15: the rank adapts | $S = 0$ |

# %%
import inspect

import torch
from IPython.display import Code

import tensorlab as tl
from tensorlab.methods import lora

Code(inspect.getsource(lora.LoRALinear.forward), language="python")

# %% [markdown]
# ## What is trained, what is saved

# %%
model = lesson.adapted("lora", 4)
x = lesson.digits()[2]
before = model(x)
print("changed before the first step:", (before - lesson.pretrained()(x)).abs().max().item())
for name, t in tl.lora_state_dict(model).items():
    print(f"{name:50} {tuple(t.shape)}")

# %% [markdown]
# ## All kinds beside each other
#
# Test accuracy on the new task and on the old one, which nothing trains any more. Merged is what the model says once the adapters are part of its
# weights.

# %%
steps = fast(20, full=300)
print(
    f"{'kind':12} {'rank':>5} {'numbers':>8} {'turned':>8} {'upright':>8} {'merged - unmerged':>18}"
)
rows = []
for kind, rank in (
    ("all weights", 0),
    ("lora", 1),
    ("lora", 4),
    ("lora", 16),
    ("rslora", 4),
    ("dora", 4),
    ("lokr", 4),
    ("dlrt", 16),
):
    *_, last = lesson.adapt(kind, max(rank, 1), steps=steps)
    model = last["model"]
    seen = lesson.seen(model)
    gap = ""
    if rank:
        rank = model.layers[1].delta.weight.ranks[0]
        with torch.no_grad():
            y = model(lesson.turned(x))
            gap = f"{float((tl.merge_lora(model)(lesson.turned(x)) - y).abs().max()):.1e}"
    rows.append((kind, seen))
    print(
        f"{kind:12} {rank or '':>5} {seen['numbers']:8} {100 * seen['new']:7.1f}% {100 * seen['old']:7.1f}% {gap:>18}"
    )

# %%
full = rows[0][1]
best = max(rows[1:], key=lambda row: row[1]["new"])
print(f"all weights: {100 * full['new']:.1f} % from {full['numbers']} numbers;")
print(f"the best adapter, {best[0]}: {100 * best[1]['new']:.1f} % from {best[1]['numbers']}")

# %% [markdown]
# ## Where it loses
#
# A turned digit has little to do with the digits the network knows, so the change that is wanted here is large; the last line above says what
# the adapters pay for their few numbers. And freezing the weights does not keep what they did, since their sum with the adapter is used: the column
# "upright" says how much is left of it. What is kept for certain is the way back, the frozen weights themselves. The network is small, too: of 64
# rows a rank of 16 is a quarter.

# %%
spectrum = tl.linalg.singular_values(lesson.change(lesson.fine_tuned()))
share = (spectrum.square().cumsum(0) / spectrum.square().sum())[[0, 3, 15]].tolist()
print(
    "of what training all weights added to layers.1, ranks 1, 4 and 16 hold",
    ", ".join(f"{100 * s:.0f} %" for s in share),
)

# %% [markdown]
# ## Exercises
#
# **Predict.**

# %%
print(lesson.lora_numbers.question)
lesson.lora_numbers(...)

# %% [markdown]
# **Implement.**


# %%
def lora_forward(x, w, a, b, alpha): ...


print(lesson.lora_forward.question)
lesson.lora_forward(lora_forward)

# %% [markdown]
# **Explore.**

# %%
print(lesson.rank_of_change.question)
lesson.rank_of_change(...)
