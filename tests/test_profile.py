"""Lesson 18's two builds beside what they predict and replace: real models, counted operations, the padded encoder."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import step_flops
from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel, seeded
from nextbert_lite.checks.lesson_18 import UnpaddedEncoder, step_profile
from nextbert_lite.training.loop import adamw

SIZES = dict(vocab_size=57, width=12, layers=3, heads=3, ffn_width=40, max_len=20)
KINDS = {
    "BERT": {},
    "RoBERTa": {"position_offset": 2, "token_types": 1},
    "pre-norm": {"norm": "pre"},
    "no positions": {"positions": "none"},
    "no layers": {"layers": 0},
}


def model_of(**changes):
    torch.manual_seed(0)
    return MaskedLanguageModel(Encoder(EncoderConfig(**SIZES | changes)))


def a_batch(lengths=(7, 3, 12, 3, 1)):
    """Return ids, labels and mask, each (B, T)."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 57, mask.shape, generator=seeded(1)).masked_fill(~mask, 0)
    chosen = (torch.rand(mask.shape, generator=seeded(2)) < 0.4) & mask
    return ids, torch.where(chosen, ids, -100), mask


def counted(run):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def padded(encoder, ids, mask):
    x = encoder.embed(ids)
    for layer in encoder.layers:
        x, _ = layer(x, mask[:, None, None])
    return encoder.norm(x) if encoder.config.norm == "pre" else x


@pytest.mark.parametrize("kind", KINDS)
def test_the_profile_is_what_a_model_has_and_does(kind):
    model = model_of(**KINDS[kind])
    ids, _, _ = a_batch((9, 9, 9))
    labels = torch.where(torch.rand(ids.shape, generator=seeded(3)) < 0.3, ids, -100)
    profile = step_profile(model.encoder.config, [9] * 3, int((labels != -100).sum()))
    assert profile["parameters"] == sum(p.numel() for p in model.parameters())
    assert profile["multiplied"] == sum(p.numel() for p in model.encoder.layers.parameters() if p.ndim == 2)
    assert profile["forward"] == counted(lambda: model.loss(ids, labels))
    optimizer = adamw(model, lr=1e-3)
    assert profile["training"] == counted(lambda: model.loss(ids, labels).backward())
    optimizer.step()
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # a table that no layer reads has none
    moments = [t for p in model.parameters() for t in optimizer.state[p].values() if t.ndim or p.ndim == 0]
    held = [*model.parameters(), *(p.grad for p in model.parameters()), *moments]
    assert profile["state"] == sum(t.nbytes for t in held)


def test_the_profile_agrees_with_the_benchmarks_formula():
    config = EncoderConfig(**SIZES | {"ffn_width": 48})
    assert step_profile(config, [5, 9, 2], 4)["training"] == step_flops(12, 3, 57, [5, 9, 2], 4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_without_padding_gives_the_padded_ones_vectors_and_gradients(kind):
    encoder = model_of(**KINDS[kind]).encoder.double()
    packed = UnpaddedEncoder(encoder.config).double()
    packed.load_state_dict(encoder.state_dict())
    ids, _, mask = a_batch()
    aim = torch.randn(*ids.shape, 12, generator=seeded(4), dtype=torch.float64) * mask[:, :, None]
    outputs = padded(encoder, ids, mask), packed(ids, mask)
    assert (outputs[0][mask] - outputs[1][mask]).abs().max() < 1e-10
    assert (outputs[1][~mask] == 0).all()
    for out in outputs:
        (out * aim).sum().backward()
    for one, other in zip(encoder.parameters(), packed.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() < 1e-10


def test_an_encoder_without_padding_trains_a_masked_model():
    model = model_of()
    packed = model_of()
    packed.encoder = UnpaddedEncoder(model.encoder.config)
    packed.encoder.load_state_dict(model.encoder.state_dict())
    ids, labels, mask = a_batch()
    full = model.head(padded(model.encoder, ids, mask)[labels != -100], model.encoder.tokens.weight)
    loss = torch.nn.functional.cross_entropy(full, labels[labels != -100])
    torch.testing.assert_close(packed.loss(ids, labels, mask), loss)


def test_what_an_encoder_without_padding_computes_is_the_profile_of_the_real_lengths():
    packed = UnpaddedEncoder(EncoderConfig(**SIZES))
    ids, _, mask = a_batch()
    assert counted(lambda: packed(ids, mask)) == step_profile(packed.config, mask.sum(1).tolist(), 0)["forward"]
