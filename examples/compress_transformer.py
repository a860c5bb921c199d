"""Compress a language model of Hugging Face to half of the numbers of its layers, in one call.

python examples/compress_transformer.py [--keep 0.5] [--steps 500] [--save FILE]

The model is a small GPT-2, made from its configuration and trained for two minutes on the
characters of Python's language reference: numbers that are random have nothing to be found in them.
Nothing is downloaded. Where `transformers` is not installed, it is a GPT of ours. For a model that
you have:

    model = AutoModelForCausalLM.from_pretrained("...")
    batches = [tokenizer(texts, return_tensors="pt").input_ids ...]
"""

import argparse

import torch
from torch.nn.functional import cross_entropy

import tensorlab as tl
from tensorlab.datasets import corpus
from tensorlab.models.gpt import GPT, Characters, warmup_cosine

CONTEXT = 64


def build(vocabulary: int, generator: torch.Generator):
    """A model, the names of the layers to compress, and how it is called for its logits."""
    sizes = dict(vocab_size=vocabulary, n_positions=CONTEXT, n_embd=96, n_layer=2, n_head=4)
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ModuleNotFoundError:
        ours = GPT(vocabulary, width=96, depth=2, heads=4, context=CONTEXT, generator=generator)
        return ours, "blocks.*", lambda model, ids: model(ids)
    options = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, **options))
    return theirs, "transformer.h.*", lambda model, ids: model(ids).logits


def windows(tokens: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Pieces of a text, from random places: (count, CONTEXT)."""
    starts = torch.randint(len(tokens) - CONTEXT, (count, 1), generator=generator)
    return tokens[starts + torch.arange(CONTEXT)]


def bits(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The mean of -log2 p(next character)."""
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) / torch.tensor(2).log()


def main(keep: float = 0.5, steps: int = 500, save: str | None = None, batch: int = 32):
    """Train, compress, compare; returns bits per character before and after, and the model."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    text = Characters(corpus())
    tokens, unseen = (text.encode(text.part(part)) for part in ("train", "test"))
    model, names, forward = build(text.size, g)

    adam = torch.optim.AdamW(model.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, warmup_cosine(steps))
    for _ in range(steps):
        ids = windows(tokens, batch, g)
        adam.zero_grad()
        bits(forward(model, ids), ids).backward()
        adam.step()
        rate.step()

    model.eval()
    held_out = windows(unseen, 16 * batch, g)
    with torch.no_grad():
        before = float(bits(forward(model, held_out), held_out))
    batches = [windows(tokens, batch, g) for _ in range(8)]  # no labels are needed
    options = dict(names=names, forward=forward, outputs="classes", generator=g)
    model = tl.compress(model, batches, keep=keep, unseen=[held_out], **options)
    with torch.no_grad():
        after = float(bits(forward(model, held_out), held_out))

    print(model.compression)
    print(f"{type(model).__name__}: {before:.3f} bits per character before, {after:.3f} after")
    if save is not None:
        tl.save_compressed(save, model)
        tl.load_compressed(save, build(text.size, g)[0])
        print(f"saved in {save}, and read into a new model")
    return before, after, model


if __name__ == "__main__":
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--keep", type=float, default=0.5)
    options.add_argument("--steps", type=int, default=500)
    options.add_argument("--save", metavar="FILE")
    main(**vars(options.parse_args()))
