"""The members that every format promises: each is there, and its help is true."""

import inspect
import re

import numpy as np
import pytest
import torch

import tensorlab as tl
from cases import FORMATS
from tensorlab.formats.base import Format, MatrixFormat, SplitMatrix
from tensorlab.formats.storage import FORMATS as CLASSES

MEMBERS = """
shape ranks ndim dtype device numel compression tensors with_tensors to to_dense at norm dot scale
round to_tt randn __add__ __sub__ __neg__ __mul__ __truediv__
""".split()
MATRIX = "from_dense apply flops lr_multipliers initial".split()
SPLIT = "out in_ padded_shape".split()


def promised(cls):
    """The names of the contract, by the base classes of a format."""
    return [
        *MEMBERS,
        *(MATRIX if issubclass(cls, MatrixFormat) else ()),
        *(SPLIT if issubclass(cls, SplitMatrix) else ()),
    ]


def member(cls, name):
    return inspect.getattr_static(cls, name)


def function(cls, name):
    found = member(cls, name)
    return found.fget if isinstance(found, property) else inspect.unwrap(getattr(cls, name))


ROWS = [(cls, name) for cls in CLASSES.values() for name in promised(cls)]


@pytest.mark.thorough
@pytest.mark.parametrize(("cls", "name"), ROWS, ids=lambda x: getattr(x, "__name__", x))
def test_each_member_has_help(cls, name):
    said = getattr(cls, name).__doc__
    assert said and "." in said


@pytest.mark.thorough
@pytest.mark.parametrize(("cls", "name"), ROWS, ids=lambda x: getattr(x, "__name__", x))
def test_each_member_takes_what_the_base_class_declares(cls, name):
    base = next(b for b in (Format, MatrixFormat, SplitMatrix) if name in vars(b))
    kind = type(member(base, name))
    assert isinstance(member(cls, name), kind)  # a property, a method or a class method
    if kind is property:
        return
    declared = inspect.signature(function(base, name)).parameters
    taken = inspect.signature(function(cls, name)).parameters
    for key, parameter in declared.items():
        if parameter.kind == parameter.KEYWORD_ONLY:
            assert key in taken


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_public_member_of_a_base_class_is_in_the_contract(cls):
    for base in (Format, MatrixFormat, SplitMatrix):
        if issubclass(cls, base):
            public = [n for n in vars(base) if not n.startswith("_")]
            assert set(public) - {"packed", "unpacked", "unpadded_shape"} <= set(promised(cls))


def made(cls):
    """A format of each class, small, in float64."""
    options = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if cls is tl.TTMatrix:
        return cls.randn((6, 8), 2, **options)
    return cls.randn((6, 8) if issubclass(cls, MatrixFormat) else (3, 4, 5), 2, **options)


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_round_keeps_the_tolerance_that_it_promises(cls):
    x = made(cls)
    if cls in (tl.CP, tl.KronSum, tl.PivotedLowRank):
        with pytest.raises(TypeError, match=f"^{cls.__name__}.round: needs .* got {cls.__name__}"):
            x.round(rtol=0.1)
        return
    with pytest.raises(ValueError, match="needs a rank, an rtol or both, got neither"):
        x.round()
    eps = torch.finfo(x.dtype).eps
    for rtol in (0.0, 0.3, 0.9):
        y = x.round(rtol=rtol)
        assert type(y) is cls and all(a <= b for a, b in zip(y.ranks, x.ranks, strict=True))
        missed = float((x.to_dense() - y.to_dense()).norm())
        assert missed <= (rtol + 64 * eps) * float(x.norm())


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_to_tt_has_the_entries_or_says_why_not(cls):
    x = made(cls) if cls is not tl.HT else tl.HT.from_tt(tl.TT.randn((3, 4, 5), 2))
    if cls.to_tt is Format.to_tt:
        with pytest.raises(
            TypeError, match=f"^{cls.__name__}.to_tt: needs .*, got {cls.__name__}$"
        ):
            x.to_tt()
        return
    tt = x.to_tt()
    assert type(tt) is tl.TT
    found, wanted = (z.to_dense().flatten().sort().values for z in (tt, x))  # a matrix interleaves
    assert float((found - wanted).norm()) <= 64 * torch.finfo(x.dtype).eps * float(x.norm())


class Bare(Format):
    """A format that defines nothing."""


class BareMatrix(MatrixFormat):
    """A matrix that defines nothing."""


@pytest.mark.parametrize(
    ("use", "lacks"),
    [
        (lambda: object.__new__(Bare).shape, "Bare.shape"),
        (lambda: object.__new__(Bare).ranks, "Bare.ranks"),
        (lambda: object.__new__(Bare).round(1), "Bare.round"),
        (lambda: object.__new__(Bare).to_tt(), "Bare.to_tt"),
        (lambda: Bare.randn((2, 2), 1), "Bare.randn"),
        (lambda: object.__new__(BareMatrix).flops(1), "BareMatrix.flops"),
        (lambda: object.__new__(BareMatrix).lr_multipliers(), "BareMatrix.lr_multipliers"),
        (lambda: BareMatrix.from_dense(torch.ones(2, 2), 1), "BareMatrix.from_dense"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_a_format_does_not_define_is_refused_in_one_sentence(use, lacks):
    with pytest.raises(TypeError) as caught:
        use()
    assert re.fullmatch(
        rf"{re.escape(lacks)}: needs a format (that|whose) .*, got Bare\w*", str(caught.value)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_operations_are_those_of_a_number_of_rows(name):
    w = FORMATS[name](generator=torch.Generator().manual_seed(0))
    if not isinstance(w, MatrixFormat):
        return
    assert w.flops(0) >= 0 and w.flops(np.int64(3)) == w.flops(3)
    for batch in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match=rf"{type(w).__name__}.flops: batch must be an"):
            w.flops(batch)


def test_a_low_rank_factor_of_a_kronecker_product_is_cut_at_its_own_rank():
    g = torch.Generator().manual_seed(0)
    for w in (
        tl.LoKr.randn((6, 8), 2, generator=g, dtype=torch.float64),
        tl.LoKr(torch.ones(2, 3).double(), torch.ones(4, 5).double()),
    ):
        cut = w.round(1)
        _, s, _ = torch.linalg.svd(w.a if w.b is None else w.a @ w.b)
        lost = float(w.w1.norm()) * float(s[1:].norm())
        missed = float((w.to_dense() - cut.to_dense()).norm())
        assert cut.ranks == (1,) and abs(missed - lost) <= 64 * 2.3e-16 * float(w.norm())
