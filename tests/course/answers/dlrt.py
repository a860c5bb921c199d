"""Answers to the exercises of lesson 15."""

import torch

import tensorlab as tl


def widened_by_projection(u, gk):
    """Right by another way: what is new in gk, by an SVD."""
    new = gk - u @ (u.T @ gk)
    return torch.cat([u, torch.linalg.svd(new, full_matrices=False)[0]], 1)


def cut_by_numbers(u, s, v, theta, count=None, turned=True):
    p, sigma, qh = torch.linalg.svd(s)
    tails = sigma.square().flip(0).cumsum(0).flip(0).sqrt()
    r = max(1, int((tails > theta * tails[0]).sum() if count is None else count(sigma, theta)))
    return u @ p[:, :r], sigma[:r].diag(), v @ (qh[:r].T if turned else qh[:, :r])


def lifted(u, s, v, u1, v1):
    return torch.einsum("ma,mr,rq,nq,nb->ab", u1, u, s, v, v1)


def lifted_by_hand(u, s, v, u1, v1):
    return u1.T @ u @ (v1.T @ v @ s.T).T


def step(wide=True, thin=True, scale=lambda h: h):
    def kls(u, s, v, flow, h, theta):
        f = flow(u @ s @ v.T)
        u1, v1 = u, v
        if wide:
            u1, v1 = widened_by_projection(u, f @ v), widened_by_projection(v, f.T @ u)
        s1 = lifted_by_hand(u, s, v, u1, v1) + scale(h) * u1.T @ f @ v1  # W is the same: so is f
        return cut_by_numbers(u1, s1, v1, theta) if thin else (u1, s1, v1)

    return kls


def by_the_package(u, s, v, flow, h, theta):
    w = tl.kls_step(tl.LowRank(u, v, s), flow, h, theta=theta)
    return w.u, w.s, w.v


RIGHT = {
    "stored_numbers": [52960, 52960.0],
    "widened": [widened_by_projection],
    "lifted": [lifted_by_hand],
    "cut": [cut_by_numbers, lambda *case: list(cut_by_numbers(*case))],
    "kls": [step()],
    "largest_theta": [0.02],
    "breakdown": [0.03],
}

WRONG = {
    "widened": [
        (lambda u, gk: torch.cat([u, gk], 1), "should be orthonormal"),
        (lambda u, gk: u, "the step can then add none"),
        (lambda u, gk: torch.linalg.qr(gk)[0], "the old directions are lost"),
        (lambda u, gk: torch.linalg.qr(u + gk)[0], "a sum has as few columns"),
    ],
    "lifted": [
        (lambda u, s, v, u1, v1: u1.T @ (u @ s @ v.T) @ v1, "forms a tensor of shape"),
    ],
    "cut": [
        (lambda u, s, v, theta: u @ s @ v.T, "three tensors"),
        (lambda *case: cut_by_numbers(*case, turned=False), "the rows of Vh"),
        (
            lambda *case: cut_by_numbers(*case, count=lambda s, t: (s > t * s[0]).sum()),
            "the norm of the whole tail",
        ),
        (lambda u, s, v, theta: (u, s, v), "nothing is cut"),
        (lambda u, s, v, theta: (2 * u, s / 2, v), "orthonormal"),
    ],
    "kls": [
        (step(wide=False), "no new direction"),
        (step(thin=False), "the rank has doubled"),
        (step(scale=lambda h: -h), "the sign"),
        (step(scale=lambda h: 1.0), "multiply the flow by h"),
        (step(scale=lambda h: 0.0), "nothing has moved"),
        (by_the_package, "what you are to build"),
    ],
    "largest_theta": [(0.1, "must survive"), (0.005, "a larger one does too")],
    "breakdown": [(0.3, "off by little"), (0.01, "a larger singular value is already")],
}
