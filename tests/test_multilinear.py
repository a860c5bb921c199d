"""Indices in digits, at the ends of what an int64 holds, and what names them."""

import math

import numpy as np
import pytest
import torch

import tensorlab as tl
from tensorlab.multilinear import index_keys

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32]
INTEGERS += [torch.int64, torch.uint64]


@pytest.mark.parametrize("n", [2**31, 2**40, 3**39, 2**62, 2**63])
def test_digits_of_large_modes_are_pythons(n):
    """Both ways, against Python's integers, which have no end."""
    places = [0, 1, n // 3, n - 2, n - 1]
    index = torch.tensor([[i, 5 - k % 6] for k, i in enumerate(places)])
    digits = tl.to_digits(index, (n, 6))
    for i, row in zip(places, digits.tolist()):
        whole = 0
        for digit, p in zip(row, tl.digit_shape((n,))):
            whole = whole * p + digit
        assert whole == i
    assert torch.equal(tl.from_digits(digits, (n, 6)), index)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_narrow_integers_do_not_wrap(dtype):
    digits = torch.ones(2, 40, dtype=dtype)
    assert tl.from_digits(digits, (2**40,)).tolist() == [[2**40 - 1]] * 2
    assert tl.to_digits(torch.tensor([[5, 100]], dtype=dtype), (8, 2**40)).dtype == torch.int64
    assert tl.to_digits(torch.tensor([[5]], dtype=dtype), (8,)).tolist() == [[1, 0, 1]]


def test_what_no_int64_holds_is_refused():
    for n in (2**63 + 1, 2**64, 2**70):
        ones = torch.ones(1, len(tl.digit_shape((n,))), dtype=torch.long)
        said = rf"needs modes of 1 to 2\^63, whose indices are int64, got {n}"
        with pytest.raises(ValueError, match=f"^from_digits: {said}"):
            tl.from_digits(ones, (n,))
        with pytest.raises(ValueError, match=f"^to_digits: {said}"):
            tl.to_digits(torch.tensor([[5]]), (n,))
    assert tl.digit_shape((2**70, 6)) == (2,) * 71 + (3,)  # digits alone have no end


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: tl.to_digits(torch.tensor([[8]]), (8,)), ValueError, "0..7, got 8 in row 0"),
        (lambda: tl.to_digits(torch.tensor([[0], [-9]]), (8,)), ValueError, "got -9 in row 1"),
        (lambda: tl.to_digits(torch.tensor([[3.0]]), (8,)), TypeError, "got torch.float32"),
        (lambda: tl.to_digits(torch.tensor([[True]]), (8,)), TypeError, "got torch.bool"),
        (lambda: tl.to_digits(torch.tensor([3]), (8,)), ValueError, r"\(batch, 1\), got \(1,\)"),
        (lambda: tl.to_digits(torch.tensor([[3, 1]]), (8,)), ValueError, r"got \(1, 2\)"),
        (lambda: tl.to_digits(torch.tensor([[3]]), (8, 0)), ValueError, "1 to 2.63, .*got 0"),
        (lambda: tl.to_digits(torch.tensor([[3]]), (8.0,)), ValueError, "got 8.0"),
        (
            lambda: tl.to_digits(torch.tensor([[2**64 - 1]], dtype=torch.uint64), (2**63,)),
            ValueError,
            "mode 0 has indices in 0..9223372036854775807",
        ),
        (lambda: tl.from_digits(torch.tensor([[1, 0, 2]]), (8,)), ValueError, "mode 2 .*got 2"),
        (lambda: tl.from_digits(torch.tensor([[1, 0]]), (8,)), ValueError, r"3\), got \(1, 2\)"),
        (lambda: tl.from_digits(torch.ones(1, 4).long(), (8,)), ValueError, r"got \(1, 4\)"),
        (lambda: tl.digit_shape((8, 2.5)), ValueError, "digit_shape: .*integers >= 1, got"),
        (lambda: tl.digit_shape((-8,)), ValueError, r"got \(-8,\)"),
        (lambda: tl.balanced_shape(12.0, 2), ValueError, "needs integers .*n=12.0"),
        (lambda: tl.balanced_shape(True, 2), ValueError, "n=True"),
    ],
)
def test_refuses_bad_input(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_negative_indices_lists_empty_batches_and_numpy():
    shape = tuple(np.array([8, 6]))
    assert tl.to_digits([[-1, -6]], shape).tolist() == [[1, 1, 1, 0, 0]]
    assert tl.to_digits(np.array([[5, 3]]), shape).tolist() == [[1, 0, 1, 1, 0]]
    assert tl.to_digits([], shape).shape == (0, 5)
    assert tl.from_digits(torch.zeros(0, 5, dtype=torch.long), shape).shape == (0, 2)
    assert all(type(p) is int for p in tl.digit_shape(shape))
    assert tl.balanced_shape(np.int64(12), np.uint8(2)) == (4, 3)
    assert tl.unfold(torch.ones(2, 3), np.int64(1)).shape == (3, 2)


def test_a_default_device_that_is_not_the_datas():
    index = torch.tensor([[5, 3]])
    with torch.device("meta"):
        digits = tl.to_digits(index, (8, 6))
        assert digits.tolist() == [[1, 0, 1, 1, 0]]
        assert torch.equal(tl.from_digits(digits, (8, 6)), index)


@pytest.mark.parametrize("n", [2, 127, 128, 129, 256, 257, 2**15, 2**16, 2**31, 2**31 + 1, 2**63])
def test_keys_are_equal_where_indices_are(n):
    """A mode of more than 2^31 is told apart too, beside one of 2."""
    ends = torch.tensor([0, 1, n // 2, n - 1])
    index = torch.cartesian_prod(ends, torch.tensor([0, 1])).unique(dim=0)
    keys = index_keys(index, (n, 2))
    assert len(set(keys)) == len(index) and index_keys(index.clone(), (n, 2)) == keys
    assert {len(key) for key in keys} == {2 * math.ceil(math.log2(max(n, 2)) / 8)} or n > 128
