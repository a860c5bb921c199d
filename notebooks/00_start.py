# %% [markdown]
# # Start
#
# A line, $x^2$.

# %%
import tensorlab

print(tensorlab.__version__)

# %% tags=["solution"]
1 + 1
