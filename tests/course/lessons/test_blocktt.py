"""Structured matrices: what a stored number enters, counted by hand; the law is found again; rings
and sentences agree."""

import math

import pytest
import torch

import tensorlab as tl
from tensorlab.course.lessons import blocktt as lesson

ROWS = [
    (name, n, right, n**2, n, 1 + k / n + (not right))
    for k, name in enumerate(("dense", "BTT"), 1)
    for n in (16, 36, 64)
    for right in (True, False)
]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, counts",
    [
        ("dense", [1]),
        ("low rank", [16, 16]),
        ("Kronecker", [16, 16]),
        ("TT", [16, 16]),
        ("Monarch", [4, 4]),
        ("BTT", [4, 4]),
    ],
)
def test_one_number_enters_so_many_entries(name, counts):
    generator = torch.Generator().manual_seed(0)
    w = lesson.structured(name, 16, 1, generator=generator, dtype=torch.float64)
    assert [int(lesson.reach(w, k, 0.4).sum()) for k in range(len(w.tensors()))] == counts
    e = lesson.StructureExplorer()
    e.set(structure=name)
    assert all(f"one of tensor {k} enters {c}" in e.sentence for k, c in enumerate(counts))
    assert f"stores {w.numel} numbers" in e.sentence
    assert (
        f"the rank of this matrix is {int(torch.linalg.matrix_rank(w.to_dense()))}." in e.sentence
    )


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.StructureExplorer()
    picture = e.view.value
    for wrong in ("9", "abc", "0"):
        e.boxes["rank"].value = wrong
        assert "rank: needs a whole number in 1..4, got " + wrong in e.status.value
        assert e.view.value == picture and e.value("rank") == 1
    with pytest.raises(ValueError, match="got sparse"):
        lesson.structured("sparse", 16)


@pytest.mark.parametrize("law", [(0.5, 2.0, 0.25), (0.0, 3.0, 0.5), (1.0, 10.0, 1.0)])
def test_the_law_is_found_again(law):
    a, b, alpha = law
    found = lesson.law([(c, a + b * c**-alpha) for c in (1e2, 1e3, 1e4, 1e5, 1e6)])
    assert found == pytest.approx(law, rel=0.05, abs=0.02)


def test_scaling_explorer_says_what_was_measured():
    e = lesson.ScalingExplorer(ROWS)
    e.set(structure="BTT", width=2, rates="dense rate")
    assert e.sentence.startswith(
        f"BTT of width 36: loss {2 + 2 / 36:.3f}, with the other learning rates {1 + 2 / 36:.3f}."
    )


def test_rates_are_those_of_the_structure():
    model = lesson.network("BTT", 64, 0)
    groups = lesson.groups(model, 0.01, True)
    assert [g["lr"] for g in groups[:2]] == pytest.approx(
        [0.01 * m for m in model[2].weight.lr_multipliers()]
    )
    assert [g["lr"] for g in lesson.groups(model, 0.01, False)[:2]] == [0.01, 0.01]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_training_learns():
    flops, numbers, loss = lesson.train("BTT", 16, steps=40)
    assert flops == 2 * numbers == 2 * 2 * 2 * 16**1.5 and loss < 0.8 * math.log(10)


def test_block_trains_are_no_worse_than_the_svd_where_they_hold_more():
    found = lesson.held()
    assert found["Monarch"]["BTT, rank 1"] == (1024, pytest.approx(0, abs=1e-10))
    w = lesson.structured(
        "dense", 64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to_dense()
    s = torch.linalg.svdvals(w.reshape(8, 8, 8, 8).permute(1, 2, 0, 3))
    error = float(s[..., 2:].norm() / s.norm())
    assert found["dense"]["BTT, rank 2"] == (2048, pytest.approx(error))


def test_recorded_losses_are_the_least_of_all_rates():
    found = lesson.recorded("digits", 1024)
    assert found["dense", "core"] == (1048576, 0.0078)
    assert found["Kronecker", "dense"] == (2048, 0.0069)


def test_the_package_gives_the_right_answers():
    def fit(w, m, rank):
        left, right = tl.BlockTT.from_dense(w, rank).cores
        return left.reshape(m, m, m, rank), right.reshape(m, rank, m, m)

    assert not lesson.btt_fit(fit)  # forbidden
    w = torch.randn(9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = tl.BlockTT.from_dense(w, 2).to_dense()
    assert torch.allclose(lesson._dense(*lesson._fit(w, 3, 2)), want)
