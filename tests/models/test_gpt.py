"""The character model: it looks back only, its parts are the formula, and its bits are those of a
known source."""

import math

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab import datasets
from tensorlab.layers.attention import (
    LatentAttention,
    MultiHeadAttention,
    MultiLinearAttention,
    TensorProductAttention,
)
from tensorlab.models.gpt import (
    GPT,
    Characters,
    bits_per_character,
    train,
    warmup_cosine,
)
from tensorlab.rng import randn


def small(size=7, **options):
    options = {
        "width": 16,
        "depth": 2,
        "heads": 2,
        "context": 8,
        "generator": torch.Generator().manual_seed(0),
    } | options
    return GPT(size, **options)


# -- reduces to


def test_attention_is_softmax_of_the_scores_before(generator):
    layer, x = (
        MultiHeadAttention(6, 2).double(),
        randn(2, 5, 6, generator=generator, dtype=torch.float64),
    )
    q, k, v = layer.qkv(x).split(6, 2)
    parts = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = q[..., head] @ k[..., head].mT / math.sqrt(3)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        parts.append(scores.softmax(-1) @ v[..., head])
    assert torch.allclose(layer(x), layer.out(torch.cat(parts, -1)), atol=1e-12)


def test_a_model_that_knows_nothing_has_the_bits_of_its_alphabet():
    model = small(8)
    nn.init.zeros_(model.token.weight)  # and with it the tied head
    assert bits_per_character(model, torch.randint(8, (100,))) == pytest.approx(3.0, abs=1e-6)


def test_bits_are_the_mean_over_all_windows():
    class Fixed(nn.Module):
        context = 4

        def forward(self, index):
            return torch.tensor([0.5, 0.25, 0.25]).log().expand(*index.shape, 3)

    tokens = torch.tensor([2, 0, 0, 1, 2, 0, 0, 1, 0, 1, 1])  # two windows predict tokens 1 to 8
    assert bits_per_character(Fixed(), tokens, batch=1) == pytest.approx((1 * 5 + 2 * 3) / 8)


ATTENTION = {  # (width, heads) -> a layer
    "heads": MultiHeadAttention,
    "one group": lambda width, heads: MultiHeadAttention(width, heads, groups=1),
    "latent": lambda width, heads: LatentAttention(width, heads, 5, rotary=2),
    "tensor product": lambda width, heads: TensorProductAttention(width, heads),
    "multi-linear": lambda width, heads: MultiLinearAttention(width, 8, 4),
}
LAYERS = {  # what holds the weights of the blocks
    "dense": None,
    "LowRank": lambda w: tl.LowRank.from_dense(w, 3),
    "TTMatrix": lambda w: tl.TTMatrix.from_dense(w, 3),
    "BlockTT": lambda w: tl.BlockTT.from_dense(w, 2),
}


def of_kind(attention, layers):
    """A model in float64 whose logits are far apart."""
    model = small(attention=ATTENTION[attention]).double()
    nn.init.normal_(model.token.weight, generator=torch.Generator().manual_seed(1))
    wide = lambda name, m: name.startswith("blocks") and min(m.weight.shape) > 5
    return model if layers == "dense" else tl.replace_linear(model, wide, LAYERS[layers])


# -- is invariant


@pytest.mark.thorough
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("layers", LAYERS)
def test_generation_with_a_cache_is_the_full_forward(attention, layers):
    model, start = of_kind(attention, layers), torch.tensor([[1, 2], [3, 0]])
    caches, logits = None, []
    text = torch.tensor([[1, 2, 0, 6, 5, 5, 1, 2], [3, 0, 4, 4, 2, 1, 6, 0]])
    for part in text.split((3, 1, 1, 1, 1, 1), 1):
        y, caches = model.step(part, caches)
        logits.append(y)
    whole = model(text)
    scale = 1e4 * torch.finfo(torch.float64).eps * float(whole.detach().abs().max())
    assert torch.allclose(torch.cat(logits, 1), whole, rtol=0, atol=scale)
    draw = lambda cached: model.generate(
        start, 11, cached=cached, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(draw(True), draw(False))  # through the context of 8, and beyond it


def test_a_cache_is_read_once_for_each_character(monkeypatch):
    model, read = small(), []
    step = model.step
    monkeypatch.setattr(
        model, "step", lambda index, *rest: (read.append(index.shape[1]), step(index, *rest))[1]
    )
    model.generate(torch.zeros(1, 3, dtype=torch.int64), 8)
    assert read == [3, 1, 1, 1, 1, 1, 8, 8]  # the window moves from the ninth character on


@pytest.mark.thorough
@pytest.mark.parametrize("attention", ATTENTION)
def test_every_kind_of_attention_looks_back_only_and_learns(attention, generator):
    model, index = of_kind(attention, "dense"), torch.arange(8)[None] % 7
    changed = index.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 7
    a, b = model(index), model(changed)
    assert torch.allclose(a[:, :5], b[:, :5], atol=1e-10) and not torch.allclose(a[:, 5:], b[:, 5:])
    text = Characters("abcdefg" * 60)
    model, tokens = small(text.size, attention=ATTENTION[attention]), text.encode(text.text)
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    *_, last = train(model, adam, tokens, steps=60, generator=generator)
    assert last < 0.5  # log2 7 = 2.8 at the start


def test_a_kind_without_heads_takes_any_width():
    model = GPT(7, width=10, heads=4, context=8, attention=ATTENTION["multi-linear"])
    assert model(torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 7)


def test_a_character_depends_on_those_before_it_only():
    model, index = small(), torch.arange(8)[None] % 7
    changed = index.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 7
    a, b = model(index), model(changed)
    assert torch.allclose(a[:, :5], b[:, :5], atol=1e-6) and not torch.allclose(
        a[:, 5:], b[:, 5:], atol=1e-4
    )


def test_tied_and_untied_heads():
    tied, untied = small(), small(tied=False)
    assert tied.head.weight is tied.token.weight and untied.head.weight is not untied.token.weight
    assert (
        sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
        == 7 * 16
    )


def test_one_seed_one_text():
    model, start = small(), torch.zeros(2, 1, dtype=torch.int64)
    a, b = (model.generate(start, 12, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert a.shape == (2, 13) and torch.equal(a, b) and torch.equal(a[:, :1], start)


def test_cold_text_is_the_likeliest():
    model, start = small(), torch.zeros(1, 1, dtype=torch.int64)
    text = model.generate(start, 3, temperature=1e-4, generator=torch.Generator().manual_seed(0))
    for t in range(1, 4):
        assert text[0, t] == model(text[:, :t])[0, -1].argmax()


def test_it_learns_a_text_that_repeats(generator):
    text = Characters("abcdefg" * 60)
    model, tokens = small(text.size), text.encode(text.text)
    losses = list(
        train(
            model, torch.optim.Adam(model.parameters(), 1e-2), tokens, steps=60, generator=generator
        )
    )
    assert losses[0] > 2.5 and losses[-1] < 0.2 and bits_per_character(model, tokens) < 0.2


# -- by hand


def test_parts_of_a_text_join_to_the_whole():
    text = Characters(datasets.corpus())
    assert "".join(map(text.part, ("train", "valid", "test"))) == text.text
    assert (
        abs(len(text.part("train")) / len(text.text) - 0.9) < 1e-4
        and text.decode(text.encode("def f(x):")) == "def f(x):"
    )


def test_the_schedule_goes_up_and_down():
    share = warmup_cosine(100)
    assert (
        share(0) == 0.1
        and share(9) == 1.0
        and share(55) == pytest.approx(0.5)
        and share(100) == pytest.approx(0.0)
    )


# -- says no


@pytest.mark.parametrize(
    "act, said",
    [
        (lambda: GPT(5, width=10, heads=4), "width=10 and heads=4"),
        (lambda: small()(torch.zeros(1, 9, dtype=torch.int64)), "at most 8 characters, got 9"),
        (
            lambda: small().generate(torch.zeros(2, 0, dtype=torch.int64), 1),
            r"a start \(batch, time\), got \(2, 0\)",
        ),
        (
            lambda: small().generate(torch.zeros(1, 1, dtype=torch.int64), 1, temperature=0),
            "temperature must be .* got 0",
        ),
        (lambda: Characters("ab").encode("abc"), r"got \['c'\]"),
        (lambda: Characters("ab").part("dev"), 'name must be "train", "valid" or "test", got .dev'),
        (
            lambda: bits_per_character(small(), torch.zeros(8, dtype=torch.int64)),
            "more than 8 characters, got 8",
        ),
    ],
)
def test_says_what_came(act, said):
    with pytest.raises(ValueError, match=said):
        act()
