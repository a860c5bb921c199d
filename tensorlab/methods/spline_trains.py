"""What a train of coefficients makes of B-splines: values, masses, their logarithms [Novikov2021].

    q(x) = <A, b(x_0) o ... o b(x_{d-1})>,     v_{k+1} = v_k sum_i b_i(x_k) G_k[i]
    Z = <A, (D o ... o D) A>,                  S_{k+1} = sum_ij D_ij G_k[i]ᵀ S_k G_k[j]

Of the terms of a sum over i, degree + 1 are not zero. Trains are lists of cores here, so that an
optimizer can hold them; what is multiplied along one is brought to size 1 at every core, its
logarithm summed apart.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..formats.tt import TT
from .splines import Splines, Where

CHUNK = 1 << 21  # numbers of an intermediate result, by which rows are taken at a time


def active_slices(core: Tensor, interval: Tensor, values: Tensor) -> Tensor:
    """sum_a values[n, a] core[:, interval[n] + a, :], the q + 1 slices that are not zero: (n, r,
    q)."""
    index = interval[:, None] + torch.arange(values.shape[1], device=interval.device)
    table = core.permute(1, 0, 2).flatten(1).contiguous()  # (m, r q)
    found = embedding_bag(index, table, mode="sum", per_sample_weights=values)
    return found.reshape(-1, core.shape[0], core.shape[2])


def gram_step(state: Tensor, core: Tensor, gram: Tensor) -> Tensor:
    """sum_ij D_ij G[i]ᵀ S G[j]: (n, r, r) -> (n, q, q)."""
    y = torch.einsum("nab,bmc->namc", state, torch.einsum("mk,bkc->bmc", gram, core))
    return torch.einsum("amd,namc->ndc", core, y)


def whitened(train: TT, order, roots: Tensor) -> TT:
    """G' = Cᵀ G in each core, D = C Cᵀ in `roots`: a train whose norm is that of the function."""
    cores = (torch.einsum("mk,amb->akb", roots[k], g) for k, g in zip(order, train.cores))
    return TT(tuple(cores))


def bare(core: Tensor, root: Tensor) -> Tensor:
    """C^-T G' along the mode of the splines: the coefficients of a whitened core."""
    r, m, q = core.shape
    rows = core.permute(1, 0, 2).reshape(m, -1)
    rows = torch.linalg.solve_triangular(root.mT, rows, upper=True)
    return rows.reshape(m, r, q).permute(1, 0, 2)


def log_square(train, order, where: Where) -> Tensor:
    """log q(x_n)^2, differentiable; where q is zero its gradient is none."""
    row, log = train[0].new_ones(len(where.interval), 1), 0.0
    for k, core in zip(order, train):
        row = (row[:, None] @ active_slices(core, where.interval[:, k], where.values[:, k]))[:, 0]
        size = row.detach().abs().amax(1).clamp_min(torch.finfo(row.dtype).tiny)
        row, log = row / size[:, None], log + size.log()
    return 2 * (row[:, 0].abs().clamp_min(1e-30).log() + log)


def mean_log(cores, orders, splines: Splines, where: Where) -> Tensor:
    """mean_n log sum_c q_c(x_n)^2 - log sum_c Z_c, differentiable."""
    masses = []
    for train, order in zip(cores, orders):
        state, mass = train[0].new_ones(1, 1, 1), 0.0
        for k, core in zip(order, train):
            state = gram_step(state, core, splines.gram[k])
            size = state.detach().abs().amax()
            state, mass = state / size, mass + size.log()
        masses.append(state[0, 0, 0].log() + mass)
    logs = [log_square(train, order, where) for train, order in zip(cores, orders)]
    return torch.stack(logs).logsumexp(0).mean() - torch.stack(masses).logsumexp(0)


def mean_value(cores, where: Where) -> Tensor:
    """mean_n q(x_n), a block of rows at a time, each computed again for its gradient."""
    from torch.utils.checkpoint import checkpoint  # loads sympy in older versions of torch

    def part(interval, values, *cores):
        row = values.new_ones(len(interval), 1)
        for k, core in enumerate(cores):
            row = (row[:, None] @ active_slices(core, interval[:, k], values[:, k]))[:, 0]
        return row.sum()

    step = max(1, CHUNK // max(core.shape[0] * core.shape[2] for core in cores))
    blocks = zip(where.interval.split(step), where.values.split(step))
    total = sum(checkpoint(part, i, v, *cores, use_reentrant=False) for i, v in blocks)
    return total / len(where.interval)
