"""The lesson on the spectral norm: the sentence against NumPy, the pictures, and the exercises."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import tensorlab as tl
from tensorlab.course.lessons import kron_spectral as lesson
from tensorlab.methods.kron_spectral import schatten


@pytest.mark.thorough
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


@pytest.mark.thorough
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


def test_the_curves_are_errors_by_numpy():
    terms = (3,)
    found, w = lesson.curves("Gaussian", terms), lesson.example_matrix("Gaussian").numpy()
    u, s, vh = np.linalg.svd(w)
    assert found["SVD"] == [(3 * 72, pytest.approx(s[3] / s[0]))]
    error = np.linalg.norm(lesson.error("Gaussian", 3, lesson.MOST).numpy(), 2)
    assert found["Kronecker, spectral"][0][1] == pytest.approx(error / s[0])
    assert "the zero matrix has 1." in lesson.draw_curves(Figure().subplots(), "Gaussian", terms)


def test_what_was_measured_is_shown():
    said = lesson.draw_measured(Figure())
    assert "1.28 to 1.68 times" in said and "110,592 numbers" in said
    assert "87.8 before" in said and "SVD 85.9, SVD, outputs 86.4, Kronecker, Fro" in said


def test_equal_singular_values_settle_the_prediction():
    e = np.linalg.qr(np.random.default_rng(0).normal(size=(36, 36)))[0]
    (value, _), (top, _) = (schatten(torch.as_tensor(e), p) for p in (32, 4096))
    assert lesson.schatten_factor(float(value)) and float(top) == pytest.approx(1, abs=1e-2)
