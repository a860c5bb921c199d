"""The lesson on the spectral norm: the sentence against NumPy, the pictures, and the exercises."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import tensorlab as tl
from tensorlab.course.lessons import kron_spectral as lesson
from tensorlab.methods.kron_spectral import schatten


def test_the_sentence_says_both_errors():
    e = lesson.ContinuationExplorer()
    e.set(matrix="signs", terms=3, power=4)
    found = [
        np.linalg.norm(lesson.error("signs", 3, k).numpy(), p) for p in (2, "fro") for k in (1, 4)
    ]
    assert f"{100 * (1 - found[1] / found[0]):.1f} % below" in e.sentence
    assert f"{100 * (found[3] / found[2] - 1):.1f} % above" in e.sentence


def test_p_2_is_the_frobenius_sum():
    w = lesson.example_matrix("Gaussian")
    want = w - tl.kron_svd(w, lesson.LEFT, 3).to_dense()
    assert torch.allclose(lesson.error("Gaussian", 3, 1), want)


def test_spectral_errors_fall_and_frobenius_errors_rise():
    spectral, frobenius = lesson.norms("Gaussian", 6)
    assert spectral[-1] < 0.8 * spectral[0] and frobenius[-1] > frobenius[0]
    assert all(b < a * 1.001 for a, b in zip(spectral, spectral[1:]))


def test_the_worst_input():
    e = lesson.error("Gaussian", 6, 1)
    x = lesson.worst_input(e)
    assert float((e @ x).norm()) == pytest.approx(float(torch.linalg.matrix_norm(e, 2)))
    assert "at most" in lesson.draw_worst(Figure())


def test_the_shapes_of_a_hybrid():
    value = tl.kron_hybrid(lesson.example_matrix("Gaussian"), 200, shapes=[(36, 1), (6, 6)]).value
    assert f"{value.numel} numbers" in lesson.draw_shapes(Figure(), value)


def test_a_wrong_value_is_a_sentence_and_the_picture_stays():
    e = lesson.ContinuationExplorer()
    picture = e.view.value
    e.boxes["power"].value = "9"
    assert "power: needs a whole number in 1..8, got 9" in e.status.value.replace("p = 2^", "power")
    assert e.view.value == picture
    with pytest.raises(ValueError, match="got marble"):
        lesson.example_matrix("marble")


def test_right_answers():
    def gradient(e, p):
        u, s, vh = torch.linalg.svd(e, full_matrices=False)
        rho = s / s[0]
        return u * (rho ** (p - 1) / (rho**p).sum() ** ((p - 1) / p)) @ vh

    assert lesson.schatten_gradient(gradient)
    assert lesson.schatten_gradient(lambda e, p: schatten(e, p)[1])
    assert lesson.schatten_factor(36 ** (1 / 32)) and not lesson.schatten_factor(6)
    assert not lesson.enough(2) and not lesson.enough(256)
