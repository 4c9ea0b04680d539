"""Without its padding a batch gives the same numbers: outputs, gradients, and whatever is built on them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nextbert_lite import (
    Encoder,
    EncoderConfig,
    MaskedLanguageModel,
    ModernConfig,
    ModernEncoder,
    MultiHeadAttention,
    SentenceEncoder,
    seeded,
)
from nextbert_lite.core import unpadding
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.core.unpadding import Packed, packed_if_it_pays

V = 50
SIZES = {"width": 32, "layers": 3, "heads": 4, "ffn_width": 48, "max_len": 512, "init_std": "fan_in"}
ENCODERS = {
    "BERT": lambda: Encoder(EncoderConfig(V, **SIZES, token_types=2)),
    "RoBERTa's positions": lambda: Encoder(EncoderConfig(V, **SIZES, position_offset=2, pad_id=1)),
    "pre-norm": lambda: Encoder(EncoderConfig(V, **SIZES, norm="pre")),
    "modern": lambda: ModernEncoder(ModernConfig(V, **SIZES, kv_heads=2)),
    "modern, local layers": lambda: ModernEncoder(ModernConfig(V, **SIZES, window=3, global_every=2)),
}
LENGTHS = {"one token beside 512": [1, 512], "all lengths": list(range(1, 30)), "some alike": [7, 3, 7, 7, 1, 20, 3]}


def batch_of(lengths, pad_id=0):
    """Return random ids with padding on the right, and their mask."""
    generator = seeded(0, len(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, V, mask.shape, generator=generator)
    return ids.masked_fill(~mask, pad_id), mask


def perturbed(model):
    """Return the model in float64 with random norms and biases, so that none of them is 0 or 1."""
    model = model.double()
    generator = seeded(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.fixture
def packing(monkeypatch):
    """Return a switch: True packs every batch that has padding, False none."""

    def switch(on):
        monkeypatch.setattr(unpadding, "A_CALL", -1 if on else math.inf)

    return switch


def with_gradients(model, call):
    model.zero_grad()
    out = call()
    out.square().sum().backward()
    return out.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_hidden_states_and_gradients_are_those_of_the_padded_batch(make, lengths, packing):
    model = perturbed(make())
    ids, mask = batch_of(lengths, model.config.pad_id)
    results = []
    for on in (True, False):
        packing(on)
        assert (packed_if_it_pays(ids, mask, model.config.pad_id, model.layers) is not None) == on
        results.append(with_gradients(model, lambda: model(ids, mask)[mask]))
    (ours, our_gradients), (padded, gradients) = results
    torch.testing.assert_close(ours, padded, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(our_gradients, gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_the_losses_of_training_are_those_of_the_padded_batch(make, packing):
    ids, mask = batch_of(LENGTHS["some alike"], make().config.pad_id)
    labels = torch.where((torch.rand(ids.shape, generator=seeded(2)) < 0.3) & mask, ids, IGNORE)
    mlm, sentences = perturbed(MaskedLanguageModel(make())), perturbed(SentenceEncoder(make(), "first-last"))
    results = []
    for on in (True, False):
        packing(on)
        one = with_gradients(mlm, lambda: mlm.loss(ids, labels, mask))
        two = with_gradients(sentences, lambda: sentences.loss(ids, mask, ids.flip(0), mask.flip(0)))
        results.append((one, two))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), st.integers(0, 1000))
def test_what_is_packed_comes_back_to_its_place(lengths, seed):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    packed = Packed(mask)
    x = torch.randn(*mask.shape, 3, generator=seeded(seed))
    flat = packed.pack(x)
    assert flat.shape == (1, sum(lengths), 3)
    torch.testing.assert_close(packed.unpack(flat), x * mask[:, :, None], rtol=0, atol=0)


def test_attention_never_goes_from_one_text_to_another(packing):
    packing(True)
    model = perturbed(ENCODERS["BERT"]())
    ids, mask = batch_of([5, 5, 9])
    before = model(ids, mask)
    ids[0, :5] = torch.tensor([9, 8, 7, 6, 5])
    after = model(ids, mask)
    torch.testing.assert_close(after[1:][mask[1:]], before[1:][mask[1:]], rtol=0, atol=0)
    assert not torch.allclose(after[0, :5], before[0, :5])


class Own(nn.Module):
    """A learner's attention, which knows nothing of packed batches."""

    def __init__(self, C, H):
        super().__init__()
        self.inner = MultiHeadAttention(C, H)

    def forward(self, x, mask=None, return_weights=False):
        assert isinstance(mask, torch.Tensor) and mask.ndim == 4
        return self.inner(x, mask, return_weights)


class Inherited(MultiHeadAttention):
    def forward(self, x, mask=None, return_weights=False):
        assert isinstance(mask, torch.Tensor) and mask.ndim == 4
        return super().forward(x, mask, return_weights)


@pytest.mark.parametrize("attention", [Own, Inherited])
def test_an_attention_of_the_learners_own_gets_the_padded_batch(attention, packing):
    packing(True)
    model = ENCODERS["BERT"]()
    model.layers[1].attention = attention(32, 4)
    ids, mask = batch_of([3, 9])
    assert model(ids, mask).shape == (2, 9, 32)


def test_a_layer_without_an_attention_gets_the_padded_batch(packing):
    packing(True)
    model = ENCODERS["BERT"]()
    model.layers[1].attention = None
    model.layers[1].forward = lambda x, mask, return_weights=False: (x, None)
    ids, mask = batch_of([3, 9])
    assert model(ids, mask).shape == (2, 9, 32)


def test_a_hook_sees_the_padded_batch(packing):
    packing(True)
    model, seen = ENCODERS["BERT"](), []
    ids, mask = batch_of([3, 9])
    handle = model.layers[1].ffn_in.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    model(ids, mask)
    handle.remove()
    assert seen == [(2, 9, 48)]


@pytest.mark.parametrize("what", ["hides a word", "hides a word from one", "shows a pad", "inside asked for"])
def test_whatever_is_no_plain_padding_keeps_its_numbers(what, packing):
    model = perturbed(ENCODERS["BERT"]())
    ids, mask = batch_of([4, 9])
    if what == "hides a word":
        mask[0, 1] = False
    elif what == "hides a word from one":
        mask = mask[:, None, :].repeat(1, 9, 1)
        mask[0, 2, 1] = False
    elif what == "shows a pad":
        mask[0, 5] = True
    inside = what == "inside asked for"
    results = []
    for on in (True, False):
        packing(on)
        hidden = model(ids, mask, return_inside=inside)
        results.append(hidden[0] if inside else hidden)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_little_padding_stays(packing):
    model = Encoder(EncoderConfig(V, width=64, layers=1, heads=4, ffn_width=64, max_len=64))
    ids, mask = batch_of([10, 11, 12, 12])
    assert packed_if_it_pays(ids, mask, 0, model.layers) is None
    ids, mask = batch_of([2] * 60 + [60])
    assert packed_if_it_pays(ids, mask, 0, model.layers) is not None


def test_dropout_works_on_a_packed_batch(packing):
    """Of 1 - p of the features, and of no others: the mean over many draws is that without dropout (4 of 5 sigma)."""
    packing(True)
    torch.manual_seed(0)
    attention = MultiHeadAttention(32, 4, dropout=0.5)
    _, mask = batch_of([3, 9])
    packed = Packed(mask)
    x = packed.pack(torch.randn(2, 9, 32, generator=seeded(3)))
    attention.train()
    with torch.no_grad():
        draws = torch.stack([attention(x, packed)[0] for _ in range(2000)])
        attention.eval()
        plain = attention(x, packed)[0]
    z = (draws.mean(0) - plain) / (draws.std(0) / math.sqrt(len(draws)))
    assert draws.std(0).min() > 0 and z.abs().max() < 5.5  # 384 features: a false alarm in 70,000 runs
