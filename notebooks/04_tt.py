# %% [markdown]
# # Tensor trains

# %%
import torch

from tensorlab import tt_svd
from tensorlab.course.widgets import Explorer, Player, choice, decimal, integer, toggle


class Cut(Explorer):
    def __init__(self, x):
        self.x = x
        super().__init__(rank=integer(3, 1, 8), noise=decimal(0.1, 0.001, 1, log=True), norm=choice("fro", ["fro", "max"]), grid=toggle(True))

    def draw(self, figure, rank, noise, norm, grid):
        tt = tt_svd(self.x, rank)
        figure.subplots().bar(range(len(tt.ranks)), tt.ranks)
        return f"Ranks {tt.ranks} <of> {noise:.3g} & {norm}."


# %%
explorer = Cut(torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(0)))
explorer


# %%
class Halving(Player):
    def steps(self, start):
        while start >= 1:
            yield start
            start //= 2

    def draw(self, figure, state, start):
        figure.subplots().bar(0, state)
        return f"{state} of {start} are left."


Halving(start=integer(1000, 1, 10000))
