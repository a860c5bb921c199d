"""Models of others, built from their configurations without weights, and put under the knife.

    replace_linear at full rank     the output stays, to rounding
    add_lora, then merge_lora       it changes by at most 1e-5 of itself
    quantize_model in 8 bits        it changes by no more than the report allows
    saved, and loaded into another  the numbers are equal

What a function leaves or refuses it says in one sentence, and the table of models has that
sentence.
"""

import os
import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

import tensorlab as tl
from cases import FORMATS, make
from tensorlab.formats.base import MatrixFormat
from tensorlab.layers.linear import FactorizedLinear
from tensorlab.methods.lora import LoRALinear

os.environ.setdefault("HF_HUB_OFFLINE", "1")
EPS = torch.finfo(torch.float32).eps
TIED = "shares its weight with"
READ = r"\(MultiheadAttention\)"


class Case(NamedTuple):
    """A model and what is said of it.

    build: () -> the model. inputs: model -> the arguments of a call, by name. left: what
    `replace_linear` and `quantize_model` warn of. adapted: what `add_lora` warns of. refused: why
    nothing can be replaced. bare: whether there is no linear layer at all.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], dict]
    left: str = ""
    adapted: str = ""
    refused: str = ""
    bare: bool = False


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(shape, generator=seeded(1))


# ----------------------------------------------- transformers: each as small as it can be built


WIDE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
TEXT = dict(vocab_size=99, max_position_embeddings=64, **WIDE)
GROUPED = dict(num_key_value_heads=2, pad_token_id=0, **TEXT)
HEADS = dict(head_dim=8, **GROUPED)
GPT = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=64)
IMAGE = dict(image_size=16, patch_size=4, **WIDE)
T5 = dict(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
T5 |= dict(decoder_start_token_id=0)
XLM = dict(vocab_size=99, emb_dim=32, n_layers=2, n_heads=4)
SEQ = dict(vocab_size=99, d_model=32, max_position_embeddings=64)
SEQ |= {
    f"{side}_{what}": n
    for side in ("encoder", "decoder")
    for what, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
}
SEQ |= dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
WAVE = dict(conv_dim=(16, 16), conv_kernel=(8, 4), conv_stride=(4, 2), num_feat_extract_layers=2)
WAVE |= dict(num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, vocab_size=20, **WIDE)
STAGES = dict(hidden_sizes=[8, 16], depths=[1, 1])
SWIN = dict(image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 4])
SWIN |= dict(window_size=4)

CAUSAL = {
    "GPT2LMHeadModel": GPT,
    "GPTBigCodeForCausalLM": GPT,
    "OpenAIGPTLMHeadModel": GPT,
    "GPTJForCausalLM": dict(rotary_dim=4, **GPT),
    "CodeGenForCausalLM": dict(rotary_dim=4, **GPT),
    "CTRLLMHeadModel": dict(dff=48, **GPT),
    "GPTNeoForCausalLM": dict(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        vocab_size=99,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    ),
    "GPTNeoXForCausalLM": TEXT,
    "BioGptForCausalLM": TEXT,
    "PersimmonForCausalLM": TEXT,
    "FalconForCausalLM": TEXT,
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": GROUPED,
    "Qwen2ForCausalLM": GROUPED,
    "PhiForCausalLM": GROUPED,
    "Phi3ForCausalLM": GROUPED,
    "StableLmForCausalLM": GROUPED,
    "OlmoForCausalLM": GROUPED,
    "Olmo2ForCausalLM": GROUPED,
    "CohereForCausalLM": GROUPED,
    "GraniteForCausalLM": GROUPED,
    "Starcoder2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": HEADS,
    "GemmaForCausalLM": HEADS,
    "Gemma2ForCausalLM": HEADS,
    "Gemma3ForCausalLM": HEADS,
    "MixtralForCausalLM": dict(num_local_experts=4, **GROUPED),
    "GptOssForCausalLM": dict(num_local_experts=4, num_experts_per_tok=2, **HEADS),
    "Qwen2MoeForCausalLM": dict(
        num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16, **GROUPED
    ),
    "Qwen3MoeForCausalLM": dict(
        num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2, **HEADS
    ),
    "OPTForCausalLM": dict(
        vocab_size=99,
        hidden_size=32,
        word_embed_proj_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
    ),
    "BloomForCausalLM": dict(vocab_size=99, hidden_size=32, n_layer=2, n_head=4),
    "MptForCausalLM": dict(d_model=32, n_heads=4, n_layers=2, vocab_size=99, max_seq_len=64),
    "XGLMForCausalLM": dict(vocab_size=99, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48),
    "XLNetLMHeadModel": dict(vocab_size=99, d_model=32, n_layer=2, n_head=4, d_inner=48),
    "MambaForCausalLM": dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4),
    "Mamba2ForCausalLM": dict(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        num_heads=8,
        head_dim=8,
        n_groups=1,
        chunk_size=8,
    ),
    "RwkvForCausalLM": dict(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        attention_hidden_size=32,
        rescale_every=0,  # or it divides weights in place
    ),
    "JambaForCausalLM": dict(
        num_experts=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        use_mamba_kernels=False,
        **GROUPED,
    ),
}
ENCODERS = {
    **dict.fromkeys(
        ["BertModel", "BertForMaskedLM", "RobertaForMaskedLM", "CamembertModel", "ErnieModel"], TEXT
    ),
    **dict.fromkeys(["MPNetModel", "FNetModel", "YosoModel", "CanineModel", "LayoutLMModel"], TEXT),
    **dict.fromkeys(["AlbertModel", "ElectraModel"], dict(embedding_size=16, **TEXT)),
    **dict.fromkeys(["ModernBertModel", "EsmModel"], dict(pad_token_id=0, **TEXT)),
    **dict.fromkeys(["ConvBertModel", "RoFormerModel"], dict(embedding_size=32, **TEXT)),
    **dict.fromkeys(
        ["DebertaModel", "DebertaV2Model"],
        dict(relative_attention=True, pos_att_type=["p2c", "c2p"], **TEXT),
    ),
    **dict.fromkeys(["XLMModel", "FlaubertModel"], XLM),
    "DistilBertModel": dict(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "LongformerModel": dict(attention_window=4, **TEXT),
    "BigBirdModel": dict(attention_type="original_full", **TEXT),
    "NystromformerModel": dict(num_landmarks=4, segment_means_seq_len=12, **TEXT),
    "MobileBertModel": dict(
        embedding_size=32, intra_bottleneck_size=16, true_hidden_size=16, **TEXT
    ),
    "FunnelModel": dict(
        vocab_size=99, block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=48
    ),
    "T5EncoderModel": T5,
    "CLIPTextModel": TEXT,
}
TO_SEQUENCES = {
    **dict.fromkeys(
        [
            "T5ForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "LongT5ForConditionalGeneration",
        ],
        T5,
    ),
    **dict.fromkeys(
        [
            "BartForConditionalGeneration",
            "MBartForConditionalGeneration",
            "PegasusForConditionalGeneration",
            "BlenderbotForConditionalGeneration",
            "M2M100ForConditionalGeneration",
            "MarianMTModel",
        ],
        SEQ,
    ),
}
VISION = {
    **dict.fromkeys(
        ["ViTModel", "DeiTModel", "Dinov2Model", "CLIPVisionModel", "SiglipVisionModel"], IMAGE
    ),
    "BeitModel": dict(layer_scale_init_value=1.0, **IMAGE),
    "YolosModel": IMAGE | dict(num_detection_tokens=3, image_size=[16, 16]),
    "SwinModel": SWIN,
    "Swinv2Model": SWIN,
    "ConvNextModel": dict(num_stages=2, layer_scale_init_value=1.0, **STAGES),
    "ConvNextV2Model": dict(num_stages=2, **STAGES),
    "ResNetModel": dict(embedding_size=8, **STAGES),
    "ResNetForImageClassification": dict(embedding_size=8, num_labels=20, **STAGES),
    "RegNetForImageClassification": dict(embedding_size=8, groups_width=4, num_labels=20, **STAGES),
    "BitForImageClassification": dict(embedding_size=8, num_groups=2, num_labels=20, **STAGES),
    "MobileNetV2ForImageClassification": dict(
        depth_multiplier=0.25, image_size=32, initializer_range=0.5, num_labels=20
    ),
    "LevitModel": dict(
        image_size=32,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[1, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    "SegformerModel": dict(
        num_encoder_blocks=2,
        num_attention_heads=[1, 2],
        sr_ratios=[2, 1],
        patch_sizes=[3, 3],
        strides=[2, 2],
        mlp_ratios=[2, 2],
        **STAGES,
    ),
}
AUDIO = {
    **dict.fromkeys(
        ["Wav2Vec2Model", "HubertModel", "WavLMModel", "UniSpeechModel", "Data2VecAudioModel"], WAVE
    ),
    "ASTModel": dict(
        patch_size=4, max_length=16, num_mel_bins=8, time_stride=4, frequency_stride=4, **WIDE
    ),
    "WhisperForConditionalGeneration": dict(
        num_mel_bins=8, max_source_positions=16, max_target_positions=64, **SEQ
    ),
    "Speech2TextForConditionalGeneration": dict(
        input_feat_per_channel=8, conv_channels=16, max_source_positions=64, **SEQ
    ),
}
BOTH = {
    "CLIPModel": dict(
        text_config=dict(eos_token_id=2, **TEXT), vision_config=IMAGE, projection_dim=16
    ),
}

TIED_HEADS = """GPT2LMHeadModel GPTBigCodeForCausalLM OpenAIGPTLMHeadModel CTRLLMHeadModel
    GPTNeoForCausalLM BioGptForCausalLM CohereForCausalLM Starcoder2ForCausalLM GemmaForCausalLM
    Gemma2ForCausalLM Gemma3ForCausalLM OPTForCausalLM BloomForCausalLM MptForCausalLM
    XGLMForCausalLM XLNetLMHeadModel MambaForCausalLM BertForMaskedLM RobertaForMaskedLM
    WhisperForConditionalGeneration Speech2TextForConditionalGeneration""".split()
SAID = {
    **dict.fromkeys([*TIED_HEADS, *TO_SEQUENCES], dict(left=TIED)),
    "SiglipVisionModel": dict(left=READ, adapted=READ),
    # its linear layer overrides forward, and its head is tied
    "FalconForCausalLM": dict(
        refused=r"overrides forward \(FalconLinear\)", adapted=r"\(FalconLinear\)"
    ),
    "ResNetModel": dict(refused=r"needs a name of a (dense )?linear layer \(none\)", bare=True),
}


def transformers_model(name, config):
    def build():
        transformers = pytest.importorskip("transformers", reason="needs the bench extra")
        kind = getattr(transformers, name)
        return kind(kind.config_class(**config))

    return build


def arguments(model) -> dict:
    """What a model of transformers is called with, by the name of its main input."""
    ids = torch.randint(3, 90, (2, 12), generator=seeded(1))
    decoder = dict(decoder_input_ids=ids[:, :7]) if model.config.is_encoder_decoder else {}
    size = getattr(model.config, "image_size", 32)
    size = min(32, size if isinstance(size, int) else size[0])
    name = type(model).__name__
    given = {
        "input_ids": ids,
        "pixel_values": randn(2, 3, size, size),
        "input_values": randn(2, 16, 8) if name == "ASTModel" else randn(2, 400),
        "input_features": randn(2, 8, 32) if "Whisper" in name else randn(2, 16, 8),
    }
    if name in BOTH:
        return dict(input_ids=ids, pixel_values=randn(2, 3, 16, 16))
    return {model.main_input_name: given[model.main_input_name], **decoder}


# -------------------------------------------------------------- torch.nn's own, and convolutions


class Masked(nn.Module):
    """An encoder on sequences of several lengths; what follows their ends is no output."""

    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not options)

    def forward(self, x, mask):
        return self.encoder(x, src_key_padding_mask=mask).masked_fill(mask[..., None], 0)


class Heads(nn.Module):
    """A part that reads or keeps its weights itself, with linear layers before and behind it."""

    def __init__(self, part, width=16, out=16):
        super().__init__()
        self.before, self.part, self.behind = nn.Linear(12, width), part, nn.Linear(out, 5)

    def forward(self, x):
        z = self.before(x)
        if isinstance(self.part, nn.MultiheadAttention):
            return self.behind(self.part(z, z, z)[0])
        if isinstance(self.part, nn.Bilinear):
            return self.behind(self.part(z, z))
        return self.behind(self.part(z)[0])


def conv(i, o, k=3, **options):
    block = nn.Conv2d(i, o, k, padding=k // 2, bias=False, **options)
    return nn.Sequential(block, nn.BatchNorm2d(o), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.body = nn.Sequential(conv(i, o, stride=stride), conv(o, o))
        self.short = conv(i, o, 1, stride=stride)

    def forward(self, x):
        return self.body(x) + self.short(x)


class Dense(nn.Module):
    def __init__(self, i, growth, count):
        super().__init__()
        self.parts = nn.ModuleList(conv(i + k * growth, growth) for k in range(count))

    def forward(self, x):
        for part in self.parts:
            x = torch.cat([x, part(x)], 1)
        return x


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.deep = conv(3, 8), conv(8, 16, stride=2)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        y = self.down(x)
        return self.out(torch.cat([y, self.up(self.deep(y))], 1))


class SqueezeExcite(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(n, n // 4), nn.ReLU(), nn.Linear(n // 4, n))

    def forward(self, x):
        return x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]


def classifier(*layers, width):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 20))


def separable(i, o, stride):
    return nn.Sequential(conv(i, i, groups=i, stride=stride), conv(i, o, 1))


CNNS = {
    "residual": lambda: classifier(conv(3, 8), Residual(8, 8), Residual(8, 16, 2), width=16),
    "separable": lambda: classifier(
        conv(3, 8, stride=2), separable(8, 16, 1), separable(16, 24, 2), width=24
    ),
    "dense": lambda: classifier(conv(3, 8), Dense(8, 4, 3), conv(20, 12, 1), width=12),
    "squeeze and excite": lambda: classifier(conv(3, 16), SqueezeExcite(16), width=16),
    "unet": UNet,
}


def named(*values):
    """The arguments of a call by their places."""
    return lambda model: dict(enumerate(values))


LENGTHS = torch.arange(6) >= torch.tensor([6, 4, 2])[:, None]
SEQUENCE = named(randn(3, 6, 12))
NONE = dict(refused=r"needs a name of a (dense )?linear layer \(none\)", bare=True)
TORCH = {
    "nn.Transformer": Case(
        lambda: nn.Transformer(16, 2, 1, 1, 24, batch_first=True),
        named(randn(2, 6, 16), randn(2, 4, 16)),
        left=READ,
        adapted=READ,
    ),
    "nn.TransformerEncoder": Case(Masked, named(randn(3, 6, 16), LENGTHS), READ, READ),
    "nn.TransformerEncoder, norm first": Case(
        lambda: Masked(norm_first=True), named(randn(3, 6, 16), LENGTHS), READ, READ
    ),
    "nn.MultiheadAttention": Case(
        lambda: Heads(nn.MultiheadAttention(16, 2, batch_first=True)), SEQUENCE, READ, READ
    ),
    "nn.Bilinear": Case(
        lambda: Heads(nn.Bilinear(16, 16, 16)), SEQUENCE, r"\(Bilinear\)", r"\(Bilinear\)"
    ),
    **{
        f"nn.{kind.__name__}": Case(
            lambda kind=kind: Heads(kind(16, 16, batch_first=True)),
            SEQUENCE,
            rf"\({kind.__name__}\)",
            rf"\({kind.__name__}\)",
        )
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
    },
    "nn.AdaptiveLogSoftmaxWithLoss": Case(
        lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 30, [10, 20]),
        named(randn(8, 16), torch.randint(30, (8,), generator=seeded())),
    ),
}

MODELS = {
    name: Case(transformers_model(name, config), arguments, **SAID.get(name, {}))
    for table in (CAUSAL, ENCODERS, TO_SEQUENCES, VISION, AUDIO, BOTH)
    for name, config in table.items()
}
MODELS |= TORCH
MODELS |= {
    name: Case(build, named(randn(2, 3, 16, 16)), **(NONE if name == "unet" else {}))
    for name, build in CNNS.items()
}


# ------------------------------------------------------------------------------------ what is tried


def built(case, seed=0):
    torch.manual_seed(seed)
    return case.build().eval()


@torch.no_grad()
def outputs(model, case):
    """All floating-point tensors that a call gives."""
    given = case.inputs(model)
    out = model(*given.values()) if 0 in given else model(**given)
    parts = out.values() if isinstance(out, dict) else out if isinstance(out, tuple) else (out,)
    return [t for t in parts if isinstance(t, torch.Tensor) and t.is_floating_point()]


def change(found, wanted):
    """|found - wanted| / |wanted|, the largest of all outputs."""
    assert found and all(torch.isfinite(t).all() for t in found)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


def said(act, expected):
    """Do it, and see that it warns of what is expected and of nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = act()
    ours = [str(w.message) for w in caught if "left as they are" in str(w.message)]
    assert len(ours) == bool(expected) and all(re.search(expected, text) for text in ours)
    return result


def full_rank(w):
    return tl.LowRank.from_dense(w, min(w.shape))


def layers(model, kind):
    return [m for m in model.modules() if isinstance(m, kind)]


def reloaded(model, other, path):
    """Another model with the state of this one, by way of a file."""
    tl.save_state(path, model.state_dict())
    other.load_state_dict(tl.load_state(path))
    return other.eval()


every_model = pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)


def test_there_are_models_enough():
    assert len(MODELS) > 100 and not SAID.keys() - MODELS.keys()


@pytest.mark.slow
@every_model
def test_full_rank_keeps_the_output(case, tmp_path):
    model = built(case)
    wanted = outputs(model, case)
    if case.refused:
        with pytest.raises(ValueError, match=f"^replace_linear: .*{case.refused}"):
            tl.replace_linear(model, "*", full_rank)
        assert change(outputs(model, case), wanted) == 0
        return
    factorize = lambda m: tl.replace_linear(m, "*", full_rank)
    said(lambda: factorize(model), case.left)
    found = outputs(model, case)
    # factors and their products round by a few eps, and each layer hands on what came before it
    assert change(found, wanted) <= 32 * EPS * len(layers(model, FactorizedLinear))
    with warnings.catch_warnings(action="ignore"):
        other = factorize(built(case, seed=1))
    assert change(outputs(other, case), found) > 0
    assert change(outputs(reloaded(model, other, tmp_path / "s"), case), found) == 0


@pytest.mark.slow
@every_model
def test_an_adapter_is_nothing_at_first_and_can_be_merged(case, tmp_path):
    model = built(case)
    wanted = outputs(model, case)
    adapt = lambda m: tl.add_lora(m, "*", 2, generator=seeded())
    if case.bare:
        with pytest.raises(ValueError, match=f"^add_lora: .*{case.refused}"):
            adapt(model)
        return
    said(lambda: adapt(model), case.adapted)
    assert change(outputs(model, case), wanted) <= 1e-5
    for k, layer in enumerate(layers(model, LoRALinear)):
        for t in layer.delta.tensors:
            t.data = 0.05 * torch.randn(t.shape, generator=seeded(k))
    trained = outputs(model, case)
    assert change(trained, wanted) > 1e-4
    with warnings.catch_warnings(action="ignore"):
        other = adapt(built(case, seed=1))
    assert change(outputs(reloaded(model, other, tmp_path / "s"), case), trained) == 0
    assert change(outputs(tl.merge_lora(model), case), trained) <= 1e-5


@pytest.mark.slow
@every_model
def test_eight_bits_keep_the_output_within_the_reported_errors(case, tmp_path):
    model = built(case)
    wanted = outputs(model, case)
    if case.refused:
        with pytest.raises(ValueError, match=f"^quantize_model: .*{case.refused}"):
            tl.quantize_model(model, "*", 8)
        assert change(outputs(model, case), wanted) == 0
        return
    said(lambda: tl.quantize_model(model, "*", 8, generator=seeded()), case.left)
    layers = [m for m in model.modules() if isinstance(m, tl.QuantizedLinear)]
    found = outputs(model, case)
    # a layer turns by its error, on average over inputs; those of a chain add up at the most
    assert 0 < change(found, wanted) <= 2 * sum(layer.weight.error for layer in layers)
    with warnings.catch_warnings(action="ignore"):
        other = built(case, seed=1)
        tl.quantize_model(other, "*", 8, generator=seeded(1))
    assert change(outputs(reloaded(model, other, tmp_path / "s"), case), found) == 0
    tl.save_quantized(tmp_path / "q", model)
    dense = tl.load_quantized(tmp_path / "q", built(case, seed=1))
    assert change(outputs(dense, case), found) == 0


NOT_CACHED = [  # the dense model, too, generates something else than a call gives
    "XLNetLMHeadModel",  # its head fills masks
    "RwkvForCausalLM",
    "FalconForCausalLM",  # this one is refused
]
SURGEONS = {
    "replace_linear": lambda model: tl.replace_linear(model, "*", full_rank),
    "add_lora": lambda model: tl.add_lora(model, "*", 2, generator=seeded()),
    "quantize_model": lambda model: tl.quantize_model(model, "*", 8, generator=seeded()),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left as they are")
@pytest.mark.parametrize("surgeon", SURGEONS)
@pytest.mark.parametrize("name", [n for n in CAUSAL if n not in NOT_CACHED])
def test_a_causal_model_still_generates(name, surgeon):
    """Greedily, token by token with a cache, what a call on the whole text gives."""
    model = built(MODELS[name])
    SURGEONS[surgeon](model)
    ids = torch.randint(3, 90, (2, 5), generator=seeded(2))
    model.generation_config.eos_token_id = None  # no end before four tokens
    made = model.generate(ids, max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        again = model(made[:, :-1]).logits[:, -4:].argmax(-1)
    assert torch.equal(made[:, 5:], again)


@pytest.mark.slow
@pytest.mark.parametrize("surgeon", ["replace_linear", "quantize_model"])
def test_a_model_that_writes_to_a_weight_in_place_is_refused_in_one_sentence(surgeon):
    config = {k: n for k, n in CAUSAL["RwkvForCausalLM"].items() if k != "rescale_every"}
    case = MODELS["RwkvForCausalLM"]._replace(build=transformers_model("RwkvForCausalLM", config))
    model = built(case)
    SURGEONS[surgeon](model)
    with pytest.raises(
        TypeError, match="needs a layer whose weight is only multiplied with, got div_"
    ):
        outputs(model, case)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tl.svd_conv, tl.tucker_conv])
@pytest.mark.parametrize("name", [*CNNS, *(n for n in VISION if "ForImage" in n)])
def test_convolutions_at_full_rank_keep_the_output(name, make):
    case = MODELS[name]
    model = built(case)
    wanted = outputs(model, case)
    act = lambda: tl.replace_conv(model, lambda _, m: m.groups == 1, lambda m: make(m, rtol=0.0))
    if "Bit" in name:
        with pytest.raises(ValueError, match="^replace_conv: .*overrides forward"):
            act()
        return
    act()
    assert change(outputs(model, case), wanted) <= 64 * EPS * len(list(model.modules()))


# ----------------------------------------------------------- weights that are read and not called


def weights():
    for name in FORMATS:
        w = make(name, dtype=torch.float32)
        if isinstance(w, MatrixFormat):
            yield pytest.param(FactorizedLinear(w), id=name)
    for method in ("pairs", "uniform"):
        w = tl.quantize(randn(6, 8), method=method, generator=seeded())
        yield pytest.param(tl.QuantizedLinear(w), id=f"Quantized, {method}")


@pytest.mark.parametrize("layer", [*weights()])
def test_a_weight_that_others_read_is_the_matrix(layer):
    dense, x = layer.weight.to_dense(), randn(3, layer.in_features)
    assert torch.equal(nn.functional.linear(x, layer.weight), x @ dense.mT)
    assert torch.equal(layer.weight @ x.mT, dense @ x.mT)
    assert torch.equal(x @ torch.cat([layer.weight, dense]).mT, x @ torch.cat([dense, dense]).mT)
    assert torch.allclose(layer(x), x @ dense.mT, atol=1e-5 * float(dense.detach().norm()))
    for write in (
        lambda w: nn.init.normal_(w),
        lambda w: w.div_(2),
        lambda w: torch.matmul(dense, dense.mT, out=w),
        lambda w: torch.add(w, 1),
    ):
        with pytest.raises(TypeError, match="needs a layer whose weight is only multiplied with, "):
            write(layer.weight)
    assert not hasattr(layer.weight, "SCB") and torch.equal(layer.weight.to_dense(), dense)
    if isinstance(layer, FactorizedLinear):
        nn.functional.linear(x, layer.weight).sum().backward()
        assert all(t.grad is not None and t.grad.any() for t in layer.tensors)
