"""Cross approximation, sweep by sweep: what is shown is what `tt_cross` does; a wrong value is a
sentence."""

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import tt_cross as lesson


def played(e, steps):
    for _ in range(steps):
        assert e.step()
    return e.sentence


@pytest.mark.thorough
@pytest.mark.parametrize("modes", [2, 6])
def test_says_what_tt_cross_gives(modes):
    e = lesson.CrossExplorer(modes=modes)
    e.set(digits=4)
    first = e.sentence
    assert first.startswith("Sweep 0:") and "ranks " + ", ".join(["1"] * (modes - 1)) in first
    n = e.grids[modes]
    fit = tl.tt_cross(
        lesson.example_function("1 / norm", modes, n),
        (n,) * modes,
        rtol=1e-4,
        budget=min(e.budget, n**modes),
        generator=torch.Generator().manual_seed(0),
    )
    said = played(e, len(fit.history) - 1)
    assert said.startswith(
        f"Sweep {len(fit.history) - 1}: {fit.evaluations} of {n**modes} entries read"
    )
    assert (
        f"ranks {', '.join(map(str, fit.value.ranks))}, held-out error {fit.error:.1e}, converged"
        in said
    )


@pytest.mark.thorough
def test_no_bond_is_offered_that_is_not_there():
    e = lesson.CrossExplorer(modes=6)
    e.set(bond=5)
    e.set(modes=2)
    assert e.value("bond") == 1
    e.boxes["bond"].value = "3"
    assert "bond: needs a whole number in 1..1, got 3" in e.status.value


def test_a_quadratic_polynomial_is_found_by_its_rival():
    f = lambda index: ((index + 1) / 8.0).double().prod(1) - (index[:, 0] / 8.0).double() ** 2
    fresh = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    assert lesson.quadratic(f, 8, 2, 60, fresh) < 1e-6
    assert lesson.quadratic(lambda i: (i[:, 0] % 2).double(), 8, 2, 60, fresh) > 0.5


def test_the_rival_by_chance_inverts_its_blocks_with_care():
    grid = torch.cartesian_prod(torch.arange(60), torch.arange(60))
    x = lesson.example_function("ripples", 2, 60)(grid).reshape(60, 60)
    errors = [lesson.random_cross(x, r) for r in range(3, 11)]
    assert errors == sorted(errors, reverse=True)  # rounding at the usual cutoff turns them up
    assert errors[-1] < 1e-7


def test_functions_by_hand():
    assert float(
        lesson.example_function("1 / norm", 2, 2)(torch.tensor([[1, 1]]))
    ) == pytest.approx(2**-0.5)
    assert float(
        lesson.example_function("narrow peak", 1, 10)(torch.tensor([[2]]))
    ) == pytest.approx(1000)
