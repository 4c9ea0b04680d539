"""The modern encoder is ModernBERT and EuroBERT; its window, its rotation and its blocks do what they say."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import EXACT, batch, exact_rotation, few, largest_difference, modern_huggingface, perturbed, words
from torch import nn
from torch.testing import assert_close

from nextbert_lite import MLMBatches, SentenceEncoder, fill_mask, fit, load
from nextbert_lite.core import modern
from nextbert_lite.core.attention import scaled_dot_product_attention
from nextbert_lite.core.either import encoder_of
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.core.modern import ModernConfig, ModernEncoder, local_attention, near, rotate
from nextbert_lite.use import checkpoints

SMALL = {"vocab_size": 40, "width": 16, "layers": 5, "heads": 4, "ffn_width": 24, "max_len": 512}
MODERNBERT = SMALL | {"window": 8, "theta": 160_000.0, "local_theta": 10_000.0}
EUROBERT = SMALL | {"norm": "rms", "gate": "silu", "kv_heads": 2, "embedding_norm": False, "theta": 250_000.0}
FAMILIES = {"ModernBERT": MODERNBERT, "EuroBERT": EUROBERT, "EuroBERT, all heads": EUROBERT | {"kv_heads": None}}
LENGTHS = [[1], [5], [130], [512], [512, 130, 5, 1]]


def config(**changes):
    return ModernConfig(**{**SMALL, "max_len": 64, "layers": 2, "window": 3, **changes})


def mlm(fields, seed=0):
    return perturbed(MaskedLanguageModel(ModernEncoder(ModernConfig(**fields))), seed)


# --- transformers' ModernBERT and EuroBERT ----------------------------------------------------------------------------


@torch.no_grad()
def difference(ours, theirs, lengths):
    """The largest difference from transformers at a real token: hidden states, and logits where they have our head."""
    ids, mask = batch(lengths, pad_id=ours.encoder.config.pad_id)
    expected = theirs.model(ids, attention_mask=mask.long()).last_hidden_state
    hidden, inside = ours.encoder(ids, mask, return_inside=True)
    found = [largest_difference(ours.encoder(ids, mask)[mask], expected[mask])]
    found.append(largest_difference(hidden[mask], expected[mask]))  # computed openly, with its weights
    assert len(inside.hidden) == ours.encoder.config.layers + 1
    if ours.encoder.config.norm == "layer":
        logits = theirs(ids, attention_mask=mask.long()).logits
        found.append(largest_difference(ours(ids, mask)[mask], logits[mask]))
    return max(found)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_logits_are_transformers_own(family, lengths, monkeypatch):
    exact_rotation(monkeypatch)
    ours = mlm(FAMILIES[family])
    assert difference(ours, modern_huggingface(ours), lengths) < 1e-10


def test_gradients_are_transformers_own(monkeypatch):
    exact_rotation(monkeypatch)
    ours = mlm(MODERNBERT)
    theirs = modern_huggingface(ours)
    ids, mask = batch([130, 20])
    towards = torch.randn(150, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (ours(ids, mask)[mask] * towards).sum().backward()
    (theirs(ids, attention_mask=mask.long()).logits[mask] * towards).sum().backward()
    expected = theirs.model.embeddings.tok_embeddings.weight.grad.clone()
    expected[0] = ours.encoder.tokens.weight.grad[0]  # theirs leaves the row of the padding out
    assert_close(ours.encoder.tokens.weight.grad, expected, **EXACT)
    for layer, other in zip(ours.encoder.layers, theirs.model.layers, strict=True):
        assert_close(layer.attention.qkv.weight.grad, other.attn.Wqkv.weight.grad, **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_so_in_float32_as_transformers_runs(family):
    ours = mlm(FAMILIES[family])
    assert difference(ours.float(), modern_huggingface(ours), [512, 130, 5]) < 1e-4


def the_norm_of_layer_0(ours, patch):
    ours.encoder.layers[0].norm1 = nn.LayerNorm(16, bias=False, dtype=torch.float64)


def gate_and_value(ours, patch):
    for layer in ours.encoder.layers:
        weight = layer.feed_forward.into.weight
        weight.data = weight.data.roll(24, 0)


def another_group(ours, patch):
    patch.setattr(torch.Tensor, "repeat_interleave", lambda x, n, dim: x.repeat(1, n, 1, 1))


def neighbouring_pairs(ours, patch):
    def turned(x, theta):
        D = x.shape[-1]
        order = torch.arange(D).view(-1, 2).T.reshape(-1)  # 0, 2, …, 1, 3, …
        return rotate(x[..., order], theta)[..., order.argsort()]

    patch.setattr(modern, "rotate", turned)


def changed(**changes):
    def plant(ours, patch):
        wrong = ModernEncoder(dataclasses.replace(ours.encoder.config, **changes)).double()
        wrong.load_state_dict(ours.encoder.state_dict())
        ours.encoder = wrong.eval()

    return plant


ERRORS = [
    ("ModernBERT", "theta", changed(theta=150_000.0)),
    ("ModernBERT", "the local theta", changed(local_theta=160_000.0)),
    ("ModernBERT", "a window one wider", changed(window=9)),
    ("ModernBERT", "a window one narrower", changed(window=7)),
    ("ModernBERT", "no window", changed(window=None)),
    ("ModernBERT", "every second layer global", changed(global_every=2)),
    ("ModernBERT", "gate and value exchanged", gate_and_value),
    ("ModernBERT", "another gate", changed(gate="silu")),
    ("ModernBERT", "another epsilon", changed(eps=1e-3)),
    ("ModernBERT", "a norm in layer 0", the_norm_of_layer_0),
    ("ModernBERT", "neighbours turned in pairs", neighbouring_pairs),
    ("EuroBERT", "theta", changed(theta=240_000.0)),
    ("EuroBERT", "gate and value exchanged", gate_and_value),
    ("EuroBERT", "heads grouped otherwise", another_group),
    ("EuroBERT", "another epsilon", changed(eps=1e-3)),
]


@pytest.mark.parametrize(("family", "plant"), [(f, p) for f, _, p in ERRORS], ids=[f"{f}, {e}" for f, e, _ in ERRORS])
def test_the_comparison_catches(family, plant, monkeypatch):
    exact_rotation(monkeypatch)
    ours = mlm(FAMILIES[family])
    theirs = modern_huggingface(ours)
    plant(ours, monkeypatch)
    assert difference(ours, theirs, [130, 20]) > 1e-6


# --- rotation ---------------------------------------------------------------------------------------------------------


@few
@given(half=st.integers(1, 16), theta=st.floats(2, 1e6), T=st.integers(2, 40), seed=st.integers(0, 99))
def test_a_rotated_score_depends_on_the_distance_alone(half, theta, T, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 2 * half, generator=generator, dtype=torch.float64).expand(2, T, 2 * half)
    scores = rotate(q, theta) @ rotate(k, theta).T
    for i in range(T):
        for j in range(T):
            start = max(0, j - i), max(0, i - j)  # as far from each other, at the beginning
            assert_close(scores[i, j], scores[start[1], start[0]], **EXACT)
    assert_close(rotate(q, theta).norm(dim=-1), q.norm(dim=-1), **EXACT)
    assert torch.equal(rotate(q, theta)[0], q[0])


def test_angles_are_exact_in_half_precision_at_a_late_position():
    x = torch.ones(8192, 4, dtype=torch.bfloat16)
    angle = 8191 * 10_000.0 ** -torch.tensor([0.0, 0.5], dtype=torch.float64)
    expected = torch.cat([angle.cos() - angle.sin(), angle.cos() + angle.sin()])
    assert_close(rotate(x)[-1].double(), expected, atol=2e-2, rtol=0)


# --- local attention --------------------------------------------------------------------------------------------------


@few
@given(
    T=st.integers(1, 40),
    window=st.integers(1, 12),
    hidden=st.lists(st.integers(0, 39), max_size=30),
    seed=st.integers(0, 99),
)
def test_local_attention_is_attention_with_a_mask_forward_and_back(T, window, hidden, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(3, 2, 2, T, 4, generator=generator, dtype=torch.float64)
    mask = torch.ones(2, 1, 1, T, dtype=torch.bool)
    mask[1, 0, 0, [t for t in hidden if t < T]] = False  # anywhere: a row may see nothing at all
    towards = torch.randn(2, 2, T, 4, generator=generator, dtype=torch.float64)
    results = []
    for way in (
        lambda q, k, v: local_attention(q, k, v, mask, window),
        lambda q, k, v: scaled_dot_product_attention(q, k, v, mask & near(T, window))[0],
    ):
        q, k, v = (part.clone().requires_grad_() for part in parts)
        out = way(q, k, v)
        results.append([out, *torch.autograd.grad((out * towards).sum(), (q, k, v))])
    for a, b in zip(*results, strict=True):
        assert a.isfinite().all()
        assert_close(a, b, **EXACT)


@pytest.mark.parametrize("T", [23, 24, 25, 63])
def test_an_encoder_that_takes_blocks_equals_one_that_does_not(T, monkeypatch):
    encoder = perturbed(ModernEncoder(config(global_every=2, window=3)))
    ids, mask = batch([T, 5])
    calls = []
    monkeypatch.setattr(modern, "local_attention", lambda *a: calls.append(1) or local_attention(*a))
    blocks = encoder(ids, mask)
    assert bool(calls) == (T >= 24)
    monkeypatch.setattr(modern, "BLOCKS_PAY", 1000)
    assert_close(blocks[mask], encoder(ids, mask)[mask], **EXACT)


def test_the_weights_of_a_local_layer_are_zero_outside_its_window_and_sum_to_1():
    encoder = perturbed(ModernEncoder(config(layers=3, window=3)))
    ids, mask = batch([30, 7])
    _, inside = encoder(ids, mask, return_inside=True)
    far = ~near(30, 3)
    for index, weights in enumerate(inside.weights):
        assert_close(weights.sum(-1)[mask[:, None].expand(2, 4, 30)], torch.ones(4 * 37).double(), **EXACT)
        assert bool((weights[:, :, far] == 0).all()) == (index > 0)
    assert (inside.weights[1][0][:, near(30, 3)] > 0).all()


# --- padding ----------------------------------------------------------------------------------------------------------


@few
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_padding_never_changes_a_real_token(lengths, seed):
    encoder = perturbed(ModernEncoder(config(window=2, kv_heads=2)), seed)
    ids, mask = batch(lengths, seed=seed)
    for explicit in (mask, None):
        together = encoder(ids, explicit)
        for row, length in enumerate(lengths):
            assert_close(together[row, :length], encoder(ids[row : row + 1, :length])[0], **EXACT)


def test_a_mask_of_three_dimensions_says_who_sees_whom():
    encoder = perturbed(ModernEncoder(config(window=None)))
    ids, _ = batch([9])
    causal = torch.ones(1, 9, 9, dtype=torch.bool).tril()
    assert_close(encoder(ids, causal)[:, :4], encoder(ids[:, :4], causal[:, :4, :4]), **EXACT)


# --- what is refused --------------------------------------------------------------------------------------------------

WRONG = {
    "window": ([0, -3, 1.5, True], "window is .*; it must be a whole number of at least 1"),
    "global_every": ([0, None], "global_every is .*; it must be a whole number of at least 1"),
    "ffn_width": ([0], "ffn_width is 0; it must be a whole number"),
    "kv_heads": ([0], "kv_heads is 0; it must be a whole number of at least 1"),
    "kv_heads ": ([3, 8], "kv_heads is .*; it must divide heads, 4"),
    "norm": (["pre", "batch"], r"norm is .*; choose one of \('layer', 'rms'\)"),
    "gate": (["relu", None], r"gate is .*; choose one of \('gelu', 'silu'\)"),
    "embedding_norm": (["yes", None], r"embedding_norm is .*; choose one of \(True, False\)"),
    "theta": ([0, 1, -5.0, float("inf"), float("nan"), "10000", True], "theta is .*; it must be a finite number gre"),
    "local_theta": ([1, -5.0, float("nan"), "x"], "local_theta is .*; it must be a finite number greater than 1"),
    "heads": ([3], "heads is 3 at width 16"),
    "heads ": ([16], "a head has 1 features, and a rotation turns them in pairs: make it even"),
    "max_len": ([0], "max_len is 0"),
    "dropout": ([1.0, -0.1], "dropout is"),
    "eps": ([0.0], "eps is 0.0; it must be greater than 0"),
    "pad_id": ([40], "pad_id is 40; it must be one of the 40 ids"),
    "init_std": ([0.0], "init_std is 0.0; .*fan_in"),
}


@pytest.mark.parametrize(("field", "value", "message"), [(f, v, m) for f, (vs, m) in WRONG.items() for v in vs])
def test_an_impossible_value_is_refused_by_its_name(field, value, message):
    with pytest.raises(ValueError, match=message):
        config(**{field.strip(): value})


def test_a_text_that_cannot_be_read_is_refused():
    encoder = ModernEncoder(config(max_len=8))
    ids = torch.full((1, 8), 7)
    assert encoder(ids).shape == (1, 8, 16)
    for wrong, message in [
        (torch.full((1, 9), 7), "a text of 9 tokens is longer than this model's max_len of 8"),
        (torch.full((1, 8), 40), "token id 40 .* is outside this model's vocabulary: 0 to 39"),
        (torch.zeros(1, 8).long(), "the mask of text 0 is False everywhere"),
        (torch.zeros(0, 8).long(), "the batch is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            encoder(wrong)
    with pytest.raises(ValueError, match="token_types were given, but this model has none"):
        encoder(ids, token_types=torch.zeros_like(ids))


def test_an_unknown_preset_is_refused_and_any_field_of_a_known_one_can_be_changed():
    with pytest.raises(ValueError, match=r"no preset 'tiny'; choose one of .*modern-tiny"):
        ModernConfig.preset("tiny", 100)
    for name, fields in modern.MODERN_PRESETS.items():
        preset = ModernConfig.preset(name, 100, window=5)
        assert preset.window == 5 and preset.width == fields["width"]


# --- trained, saved, loaded -------------------------------------------------------------------------------------------


def test_the_configuration_survives_json_and_says_which_encoder_it_is_of():
    for made in (config(kv_heads=2, local_theta=7.0, norm="rms"), EncoderConfig(vocab_size=40, width=16)):
        encoder = encoder_of(json.loads(json.dumps(made.to_dict())))
        assert encoder.config == made
        assert isinstance(encoder, ModernEncoder if isinstance(made, ModernConfig) else Encoder)


def training(tokenizer):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(5, tokenizer.vocab_size, (16, 30), generator=generator).tolist()
    return MLMBatches(rows, tokenizer, batch_size=4, rate=0.3, seed=0)


def trained(steps, tokenizer, checkpoint=None, stop=None, **options):
    torch.manual_seed(0)
    model = MaskedLanguageModel(ModernEncoder(config(vocab_size=tokenizer.vocab_size, dropout=0.1, window=2)))
    batches = training(tokenizer)

    def batch_of(step):
        if step == stop:
            raise ConnectionError("the power is cut")
        return batches(step)

    fit(model, batch_of, steps, checkpoint=checkpoint, checkpoint_every=2, device="cpu", progress=False, **options)
    return model


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("bf16", [None, True])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path, bf16):
    tokenizer, file = words(35), tmp_path / "training.safetensors"
    whole = trained(6, tokenizer, mixed_precision=bf16)
    with pytest.raises(ConnectionError):
        trained(6, tokenizer, file, stop=5, mixed_precision=bf16)
    assert same(trained(6, tokenizer, file, mixed_precision=bf16), whole)
    torch.manual_seed(0)
    other = MaskedLanguageModel(ModernEncoder(config(vocab_size=tokenizer.vocab_size, dropout=0.1, window=3)))
    with pytest.raises(ValueError, match="window"):  # weights of the same shapes
        fit(other, training(tokenizer), 6, checkpoint=file, device="cpu", progress=False, mixed_precision=bf16)


@pytest.mark.parametrize("make", [MaskedLanguageModel, lambda encoder: SentenceEncoder(encoder, "cls")])
def test_a_checkpoint_is_the_same_model(make, tmp_path):
    tokenizer = words(35)
    model = make(perturbed(ModernEncoder(config(kv_heads=2, norm="rms"))).float()).eval()
    checkpoints.save(tmp_path, model, tokenizer, {"name": "modern"}, half=False)
    again = load(tmp_path).model
    assert type(again) is type(model) and again.encoder.config == model.encoder.config and same(again, model)
    ids, mask = batch([30, 3])
    assert torch.equal(again(ids, mask), model(ids, mask))


def test_every_parameter_learns_and_a_gap_is_filled():
    tokenizer = words(35)
    model = MaskedLanguageModel(ModernEncoder(config()))
    model.loss(**training(tokenizer)(0)).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert len(fill_mask(model, tokenizer, "w1 [MASK] w2", k=2)[0]) == 2


def test_gates_are_the_two_of_the_papers():
    x = torch.randn(3, 16, dtype=torch.float64)
    for gate, activation in (("gelu", F.gelu), ("silu", F.silu)):
        part = modern.GatedFeedForward(config(gate=gate)).double()
        a, g = part.into(x).chunk(2, -1)
        assert_close(part(x), part.out(activation(a) * g), **EXACT)
