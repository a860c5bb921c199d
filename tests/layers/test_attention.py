"""Every kind of attention: it looks back only, its cache continues it, and it is its formula."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tensorlab as tl
from tensorlab.layers.attention import (
    CausalAttention,
    LatentAttention,
    MultiHeadAttention,
    MultiLinearAttention,
    TensorProductAttention,
    cache_bytes,
    causal,
    rotate,
)
from tensorlab.rng import randn

F64, EPS = torch.float64, torch.finfo(torch.float64).eps
TIME, WIDTH, HEADS = 21, 12, 3  # more tokens than two chunks of the multi-linear kind
KINDS = {
    "heads": lambda: MultiHeadAttention(WIDTH, HEADS),
    "heads, rotary": lambda: MultiHeadAttention(WIDTH, HEADS, rotary=True),
    "groups": lambda: MultiHeadAttention(WIDTH, 6, groups=2),
    "one group": lambda: MultiHeadAttention(WIDTH, HEADS, groups=1),
    "latent": lambda: LatentAttention(WIDTH, HEADS, 5),
    "latent, rotary": lambda: LatentAttention(WIDTH, HEADS, 5, rotary=2),
    "latent, absorbed": lambda: LatentAttention(WIDTH, HEADS, 5, rotary=2, absorb=True),
    "tensor product": lambda: TensorProductAttention(WIDTH, HEADS, ranks=(2, 1)),
    "tensor product, rotary": lambda: TensorProductAttention(
        WIDTH, HEADS, query_rank=3, rotary=True
    ),
    "multi-linear": lambda: MultiLinearAttention(WIDTH, TIME + 2, 4, cores=2),
}
STRUCTURED = {
    "LowRank": lambda w: tl.LowRank.from_dense(w, 3),
    "TTMatrix": lambda w: tl.TTMatrix.from_dense(w, 3),
    "Kronecker": lambda w: tl.Kronecker.from_dense(w, 2),
    "Monarch": lambda w: tl.Monarch.from_dense(w, 2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def built(kind):
    """A layer in float64 whose weights make sharp scores."""
    torch.manual_seed(0)
    layer = KINDS[kind]().double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(randn(*p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=F64))
            p.mul_(p.shape[-1] ** -0.5)
    return layer


def tokens(generator, time=TIME, batch=2):
    return randn(batch, time, WIDTH, generator=generator, dtype=F64)


def leak(layer, x):
    """The largest change of an output up to token t when the tokens after it change, over all t."""
    y, moved = layer(x), 0.0
    for t in range(x.shape[1] - 1):
        changed = x.clone()
        changed[:, t + 1 :] += 3.0
        moved = max(moved, float((layer(changed) - y)[:, : t + 1].detach().abs().max()))
    return moved


def close(a, b, size=1e4):
    """Equal to rounding: sums of up to 500 terms of size one, through two layers."""
    return torch.allclose(a, b, rtol=0, atol=size * EPS * max(1.0, float(b.detach().abs().max())))


# -- is invariant


@every_kind
def test_outputs_up_to_a_token_do_not_change_with_those_after_it(kind, generator):
    layer, x = built(kind), tokens(generator)
    assert leak(layer, x) <= 1e4 * EPS
    changed = x.clone()
    changed[:, 4] += 3.0
    assert not torch.allclose(
        layer(changed)[:, 5:], layer(x)[:, 5:], atol=1e-3
    )  # it does look back


def test_the_published_multi_linear_layer_reads_what_it_must_predict(generator):
    """The layer of 2019 has a parameter for a mask that nothing reads; causal=False is that one."""
    x = tokens(generator)
    masked, published = (MultiLinearAttention(WIDTH, TIME, 4, causal=c).double() for c in (1, 0))
    published.load_state_dict(masked.state_dict())
    assert leak(masked, x) <= 1e4 * EPS
    assert leak(published, x) > 0.1
    assert close(published(x)[:, -1], masked(x)[:, -1])  # the last token may read all


@every_kind
@pytest.mark.parametrize("cuts", [(1,) * TIME, (TIME - 3, 1, 1, 1), (4, 9, 8)])
def test_steps_with_a_cache_are_the_full_forward(kind, cuts, generator):
    layer, x, cache, parts = built(kind), tokens(generator), None, []
    for part in x.split(cuts, 1):
        y, cache = layer.step(part, cache)
        parts.append(y)
    assert close(torch.cat(parts, 1), layer(x))
    assert sum(t.numel() for t in cache) == 2 * TIME * layer.cached


@every_kind
def test_cache_bytes_are_those_of_the_cache(kind, generator):
    layer = built(kind)
    _, cache = layer.step(tokens(generator))
    held = sum(t.numel() * t.element_size() for t in cache)
    assert cache_bytes(nn.ModuleList([layer]), batch=2, tokens=TIME) == held
    assert cache_bytes(layer.float(), batch=2, tokens=TIME) == held // 2


@pytest.mark.thorough
@every_kind
@pytest.mark.parametrize("structure", STRUCTURED)
def test_any_format_can_hold_the_projections(kind, structure, generator):
    layer, x = built(kind), tokens(generator)
    tl.replace_linear(layer, lambda name, m: min(m.weight.shape) > 4, STRUCTURED[structure])
    changed = any(isinstance(m, tl.FactorizedLinear) for m in layer.modules())
    first, cache = layer.step(x[:, :9])
    rest, _ = layer.step(x[:, 9:], cache)
    assert changed and close(torch.cat([first, rest], 1), layer(x)) and leak(layer, x) <= 1e4 * EPS
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_turned_products_depend_on_the_distance_alone(generator):
    q, k = (randn(1, 1, 1, 6, generator=generator, dtype=F64) for _ in range(2))
    scores = torch.stack([(rotate(q, a + 3) * rotate(k, a)).sum() for a in (0, 5, 40)])
    assert close(scores, scores[:1].expand(3)) and not torch.allclose(scores[0], (q * k).sum())


def test_a_rotation_does_not_commute_with_a_map_from_the_latent(generator):
    """Why the latent kind keeps rotary entries apart: q and k = K c turned by different angles are
    not absorbed by a matrix that stays the same."""
    up = randn(6, 4, generator=generator, dtype=F64)
    turn = lambda token: rotate(torch.eye(6, dtype=F64)[:, None, None], token)[:, 0, 0].mT
    first, second = (turn(token).mT @ up for token in (1, 2))
    assert not torch.allclose(first, second, atol=0.1)
    basis = torch.linalg.qr(up)[0]  # neither is a turn of the latent: it leaves the columns of K
    assert (first - basis @ (basis.mT @ first)).norm() > 0.1 * first.norm()


# -- reduces to


def test_softmax_attention_is_torchs(generator):
    """An oracle of another author: nn.MultiheadAttention under a causal mask."""
    layer, x = built("heads"), tokens(generator)
    other = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=F64)
    other.in_proj_weight.data, other.in_proj_bias.data = layer.qkv.weight.data, layer.qkv.bias.data
    other.out_proj.load_state_dict(layer.out.state_dict())
    later = torch.ones(TIME, TIME, dtype=torch.bool).triu(1)
    want, _ = other(x, x, x, attn_mask=later, need_weights=False)
    assert close(layer(x), want)


@pytest.mark.parametrize("new", [1, 4, 7])
def test_causal_reads_past_tokens_as_the_formula(new, generator):
    q = randn(2, new, 3, 4, generator=generator, dtype=F64)
    k, v = (randn(2, 7, 3, n, generator=generator, dtype=F64) for n in (4, 5))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / 2
    seen = torch.arange(7) <= torch.arange(7 - new, 7)[:, None]
    want = torch.einsum("bhij,bjhe->bihe", scores.masked_fill(~seen, -math.inf).softmax(-1), v)
    assert close(causal(q, k, v), want)


def test_groups_are_heads_with_equal_keys_and_values(generator):
    layer, x = built("groups"), tokens(generator)
    q, k, v = layer.qkv.weight.split([12, 4, 4])
    repeat = lambda w: w.unflatten(0, (2, 2)).repeat_interleave(3, 0).flatten(0, 1)
    same = MultiHeadAttention(WIDTH, 6).double()
    same.out.load_state_dict(layer.out.state_dict())
    same.qkv.weight.data = torch.cat([q, repeat(k), repeat(v)]).detach()
    q, k, v = layer.qkv.bias[:, None].split([12, 4, 4])
    same.qkv.bias.data = torch.cat([q, repeat(k), repeat(v)])[:, 0].detach()
    assert close(layer(x), same(x)) and 3 * layer.cached == same.cached


@pytest.mark.parametrize("rotary", [0, 4])
def test_absorbed_is_expanded(rotary, generator):
    layer, x = LatentAttention(WIDTH, HEADS, 5, rotary=rotary).double(), tokens(generator)
    ways = []
    for layer.absorb in (True, False):
        y, cache = layer.step(x[:, :-1])
        ways.append(torch.cat([y, layer.step(x[:, -1:], cache)[0]], 1))
    assert close(ways[0], ways[1]) and cache[0].shape == (2, TIME - 1, 5 + rotary)


@pytest.mark.parametrize("absorb", [True, False])
@pytest.mark.parametrize("rank", [WIDTH, WIDTH + 3])
def test_a_latent_of_full_rank_is_multi_head(rank, absorb, generator):
    layer, x = built("heads"), tokens(generator)
    latent = LatentAttention.from_multihead(layer, rank, absorb=absorb)
    assert close(latent(x), layer(x))
    q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in layer.qkv(x).split(WIDTH, 2))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    assert close(latent(x), layer.out(y))


def test_a_latent_of_lower_rank_is_nearest_and_gets_worse(generator):
    layer, x = built("heads"), tokens(generator)
    errors = []
    for rank in (WIDTH, 9, 6, 3):
        latent = LatentAttention.from_multihead(layer, rank)
        both = torch.cat([latent.up_key.weight, latent.up_value.weight]) @ latent.down.weight
        tail = torch.linalg.svdvals(layer.qkv.weight[WIDTH:])[rank:].norm()
        assert close((layer.qkv.weight[WIDTH:] - both).norm(), tail)
        errors.append(float((latent(x) - layer(x)).detach().norm()))
    assert errors == sorted(errors) and errors[1] > 0.01


@pytest.mark.parametrize("rotary", [False, True])
def test_a_tensor_product_that_picks_heads_is_multi_head(rotary, generator):
    layer = MultiHeadAttention(WIDTH, HEADS, rotary=rotary).double()
    x, d = tokens(generator), WIDTH // HEADS
    product = TensorProductAttention(WIDTH, HEADS, ranks=(HEADS, HEADS), rotary=rotary).double()
    weights, biases = layer.qkv.weight.split(WIDTH), layer.qkv.bias.split(WIDTH)
    with torch.no_grad():
        product.query.weight.copy_(weights[0])
        product.query.bias.copy_(biases[0])
        product.out.load_state_dict(layer.out.state_dict())
        for new, w, b in zip((product.key, product.value), weights[1:], biases[1:]):
            a, rest = new.weight.unflatten(0, (HEADS, -1)).split([HEADS, d], 1)
            a.zero_()
            rest.copy_(w.unflatten(0, (HEADS, d)))
            a, rest = new.bias.unflatten(0, (HEADS, -1)).split([HEADS, d], 1)
            a.copy_(HEADS * torch.eye(HEADS))  # the sum over r is divided by R
            rest.copy_(b.unflatten(0, (HEADS, d)))
    assert close(product(x), layer(x))


# -- the multi-linear kind


def from_cube(layer, x):
    """W read by slices of the cube, made with einsum."""
    (j, k), n = layer.pairs, layer.context
    w = layer.out.weight.new_zeros(len(layer.out.weight), n, n)
    w[:, j, k] = layer.out.weight
    t = x.shape[1]
    return torch.einsum("bijk,djk->bid", layer.cube(x), w[:, :t, :t]) + layer.out.bias


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("time", [1, 8, 9, TIME])
def test_multi_linear_is_its_cube(masked, time, generator):
    layer = MultiLinearAttention(WIDTH, TIME, 4, cores=2, causal=masked).double()
    nn.init.normal_(layer.core, generator=generator)
    x = tokens(generator, time)
    assert torch.allclose(layer(x), from_cube(layer, x), rtol=0, atol=1e-12)


def test_the_cube_is_a_cp_of_shared_factors_by_hand():
    layer = MultiLinearAttention(2, 3, 2, causal=False).double()
    with torch.no_grad():
        layer.qkv.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, -1], [2, 0], [0, 3]]))
        layer.core.copy_(torch.tensor([[0.0, math.log(3)]]))  # g = (1/4, 3/4)
    x = torch.tensor([[[1.0, 2], [0, 1], [1, 0]]], dtype=F64)
    q, k, v = x[0] @ layer.qkv.weight.view(3, 2, 2).mT
    assert torch.allclose(
        layer.cube(x)[0], tl.CP(torch.tensor([0.25, 0.75], dtype=F64), (q, k, v)).to_dense()
    )
    # q_0 = (1, 2), k_0 = (3, -1), v_2 = (2, 0):  T_002 = 1/4 · 1 · 3 · 2
    assert layer.cube(x)[0, 0, 0, 2].item() == pytest.approx(1.5)


def test_two_cores_are_one_core_with_their_mean(generator):
    two = MultiLinearAttention(WIDTH, TIME, 4, cores=2).double()
    nn.init.normal_(two.core, generator=generator)
    one = MultiLinearAttention(WIDTH, TIME, 4).double()
    one.load_state_dict(
        two.state_dict() | {"core": two.core.softmax(-1).mean(0, keepdim=True).log()}
    )
    x = tokens(generator)
    assert close(one(x), two(x))


def test_gradients_are_those_of_the_cube(generator):
    layer = MultiLinearAttention(4, 10, 3).double()
    x = randn(1, 10, 4, generator=generator, dtype=F64)
    leaves = list(layer.parameters())
    ours = torch.autograd.grad(layer(x).square().sum(), leaves)
    want = torch.autograd.grad(from_cube(layer, x).square().sum(), leaves)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(ours, want))


# -- captured and transformed


@pytest.mark.thorough
@every_kind
def test_it_is_exported_and_traced_with_a_batch_that_changes(kind, generator):
    layer, x, more = built(kind), tokens(generator), tokens(generator, batch=5)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
    assert close(program.module()(more), layer(more))
    assert close(torch.jit.trace(layer, (x,))(more), layer(more))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["groups", "latent, rotary", "tensor product", "multi-linear"])
def test_it_is_compiled_to_one_graph(kind, generator):
    layer, x = built(kind), tokens(generator)
    torch._dynamo.reset()
    graph = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for batch in (x, tokens(generator, batch=5)):
        assert close(graph(batch), layer(batch))
    leaves = list(layer.parameters())
    ours, want = (torch.autograd.grad(f(x).square().sum(), leaves) for f in (graph, layer))
    assert all(close(a, b) for a, b in zip(ours, want))


@every_kind
def test_gradients_of_samples_are_mapped(kind, generator):
    layer, x = built(kind), tokens(generator, batch=3)
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    loss = lambda p, x: torch.func.functional_call(layer, p, (x,)).square().sum()
    each = torch.vmap(torch.func.grad(loss), (None, 0))(weights, x[:, None])
    whole = torch.func.grad(loss)(weights, x)
    assert all(close(each[name].sum(0), whole[name]) for name in weights)
    if kind == "multi-linear":  # torch's softmax attention has no forward mode
        moved = torch.func.jvp(lambda p: loss(p, x), (weights,), (weights,))[1]
        assert close(moved, sum((whole[name] * weights[name]).sum() for name in weights))


# -- says what came


@pytest.mark.parametrize(
    "act, said",
    [
        (lambda: MultiHeadAttention(10, 4), "MultiHeadAttention: .* got width=10 and heads=4"),
        (lambda: MultiHeadAttention(12, 6, groups=4), "got groups=4 and heads=6"),
        (lambda: MultiHeadAttention(9, 3, rotary=True), "even number of rotary entries, got 3"),
        (lambda: LatentAttention(12, 3, 4, rotary=3), "LatentAttention: .* entries, got 3"),
        (lambda: LatentAttention(12, 3, 0), "LatentAttention: rank must .* got 0"),
        (lambda: LatentAttention(12, 3, 4, rotary=True), "rotary must be an integer .* got True"),
        (lambda: LatentAttention(12, 3, 4, rotary=2.5), "rotary must be an integer .* got 2.5"),
        (lambda: LatentAttention.from_multihead(KINDS["groups"](), 4), "got 2 groups for 6"),
        (lambda: LatentAttention.from_multihead(KINDS["heads, rotary"](), 4), "rotary=True"),
        (lambda: TensorProductAttention(12, 3, ranks=(2, 0)), "ranks must .* got 0"),
        (lambda: TensorProductAttention(12, 5), "width=12 and heads=5"),
        (lambda: TensorProductAttention(9, 3, rotary=True), "rotary entries, got 3"),
        (lambda: TensorProductAttention(12, 3, query_rank=0), "query_rank must .* got 0"),
        (lambda: TensorProductAttention(12, 3, query_rank=1.5), "query_rank must .* got 1.5"),
        (lambda: MultiLinearAttention(12, 0, 3), "context must .* got 0"),
        (lambda: MultiLinearAttention(4, 5, 3)(torch.ones(1, 6, 4)), "at most 5 tokens, got 6"),
        (
            lambda: MultiLinearAttention(4, 5, 3, causal=False).step(
                torch.ones(1, 1, 4), (torch.ones(1, 1, 3),) * 2
            ),
            "all tokens at once, got 2",
        ),
        (lambda: cache_bytes(nn.Linear(2, 2), 1, 1), "with attention, got Linear"),
        (lambda: cache_bytes(KINDS["heads"](), 0, 1), "batch must .* got 0"),
    ],
)
def test_says_what_came(act, said):
    with pytest.raises(ValueError, match=said):
        act()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_without_a_batch_are_refused(kind):
    layer, x = KINDS[kind](), torch.ones(1, 2, 5, WIDTH)
    need = rf"^{type(layer).__name__}: needs x of shape \(batch, tokens, width\), got "
    for odd in (x[0, 0], x[0, 0, 0], x):
        with pytest.raises(ValueError, match=need + re.escape(str(tuple(odd.shape)))):
            layer(odd)
        for make in (getattr(layer, "cube", layer), layer.step):
            with pytest.raises(ValueError, match=need):
                make(odd)


def test_the_base_is_not_built():
    with pytest.raises(TypeError, match="abstract"):
        CausalAttention()


def test_every_kind_is_in_the_table():
    kinds = {type(make()) for make in KINDS.values()}
    ours = {
        kind
        for kind in CausalAttention.__subclasses__()
        if kind.__module__ == CausalAttention.__module__
    }
    assert kinds == ours  # lessons have a kind that reads nothing
