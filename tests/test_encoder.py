"""The encoder is BERT, RoBERTa and torch's stack of layers; padding and order change nothing that they must not."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    BERT,
    EXACT,
    FLOAT32,
    ROBERTA,
    batch,
    config,
    few,
    huggingface,
    perturbed,
    torch_encoder,
    torch_names,
)
from torch.testing import assert_close

from nextbert_lite.core.encoder import PRESETS, Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel

DTYPES = [(torch.float64, EXACT), FLOAT32]
LENGTHS = [[7, 7], [7, 4, 1], [1], [12, 1, 5, 11]]


def changed(encoder, **changes):
    """The same weights under another configuration: a planted error."""
    wrong = Encoder(dataclasses.replace(encoder.config, **changes)).to(encoder.norm.weight.dtype)
    kept = {name: tensor for name, tensor in encoder.state_dict().items() if name in wrong.state_dict()}
    wrong.load_state_dict(kept)
    return wrong.eval()


# --- torch's nn.TransformerEncoder ------------------------------------------------------------------------------------


def compare_with_torch(encoder, lengths, tolerance, theirs=None, mask_planted=False):
    """Outputs at real tokens and the gradients of all layers, of ours and of nn.TransformerEncoder."""
    dtype = encoder.norm.weight.dtype
    theirs = torch_encoder(encoder) if theirs is None else theirs
    ids, mask = batch(lengths)
    expected = theirs(encoder.embed(ids), src_key_padding_mask=~mask)
    output = encoder(ids, torch.ones_like(mask) if mask_planted else mask)
    assert_close(output[mask], expected[mask], **tolerance)
    towards = torch.randn(output.shape, generator=torch.Generator().manual_seed(9), dtype=dtype)
    parts = {torch_names(name): p for name, p in encoder.named_parameters() if name.startswith("layers.")}
    others = dict(theirs.named_parameters())
    assert len(parts) == 12 * encoder.config.layers
    mine = torch.autograd.grad((output * towards)[mask].sum(), list(parts.values()))
    other = torch.autograd.grad((expected * towards)[mask].sum(), [others[name] for name in parts])
    for a, b in zip(mine, other, strict=True):
        assert_close(a, b, **tolerance)
    with torch.no_grad():  # torch takes another way without gradients
        expected = theirs(encoder.embed(ids), src_key_padding_mask=~mask)
        assert_close(encoder(ids, mask)[mask], expected[mask], **tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_stack_equals_torchs(norm, lengths, dtype, tolerance):
    encoder = perturbed(Encoder(config(norm=norm))).to(dtype)
    compare_with_torch(encoder, lengths, tolerance)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize(
    ("mistake", "changes"),
    [("a wrong epsilon", {"eps": 1e-12}), ("tanh GELU", {"activation": "gelu_tanh"}), ("ReLU", {"activation": "relu"})],
)
def test_the_comparison_with_torch_catches(mistake, changes, norm):
    encoder = perturbed(Encoder(config(norm=norm)))
    with pytest.raises(AssertionError, match="not close"):
        compare_with_torch(changed(encoder, **changes), [7, 4, 1], EXACT, theirs=torch_encoder(encoder))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_comparison_with_torch_catches_pre_and_post_norm_exchanged(norm):
    encoder = perturbed(Encoder(config(norm=norm)))
    with pytest.raises(AssertionError, match="not close"):
        compare_with_torch(encoder, [7, 4, 1], EXACT, theirs=torch_encoder(encoder, norm_first=norm == "post"))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_comparison_with_torch_catches_a_missing_padding_mask(norm):
    with pytest.raises(AssertionError, match="not close"):
        compare_with_torch(perturbed(Encoder(config(norm=norm))), [7, 4, 1], EXACT, mask_planted=True)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_embeddings_are_a_sum_which_only_post_norm_normalises(norm):
    encoder = perturbed(Encoder(config(norm=norm, token_types=2)))
    ids, _ = batch([7, 4])
    types = (ids > 20).long()
    total = encoder.tokens.weight[ids] + encoder.positions.weight[: ids.shape[1]] + encoder.types.weight[types]
    assert_close(encoder.embed(ids, types), encoder.norm(total) if norm == "post" else total, **EXACT)


# --- transformers' BERT and RoBERTa -----------------------------------------------------------------------------------


def compare_with_huggingface(model, lengths, tolerance, theirs=None, mask_planted=False, types=False):
    """Hidden states of every layer, attention weights and MLM logits, at real tokens."""
    theirs = huggingface(model) if theirs is None else theirs
    encoder = model.encoder
    ids, mask = batch(lengths, pad_id=theirs.config.pad_token_id)
    segment = (torch.arange(ids.shape[1]) >= 2).long().expand_as(ids) if types else None
    with torch.no_grad():
        expected = theirs(
            ids, attention_mask=mask, token_type_ids=segment, output_hidden_states=True, output_attentions=True
        )
        ours_mask = torch.ones_like(mask) if mask_planted else mask
        hidden, inside = encoder(ids, ours_mask, segment if encoder.config.token_types > 1 else None, True)
        logits = model.head(hidden, encoder.tokens.weight)
    assert len(inside.hidden) == len(expected.hidden_states) == encoder.config.layers + 1
    for a, b in zip([*inside.hidden, hidden], [*expected.hidden_states, expected.hidden_states[-1]], strict=True):
        assert_close(a[mask], b[mask], **tolerance)
    for a, b in zip(inside.weights, expected.attentions, strict=True):
        assert_close(a.transpose(1, 2)[mask], b.transpose(1, 2)[mask], **tolerance)
    assert_close(logits[mask], expected.logits[mask], **tolerance)


def mlm(kind, dtype=torch.float64):
    return perturbed(MaskedLanguageModel(Encoder(config(**kind)))).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kind", [BERT, ROBERTA], ids=["BERT", "RoBERTa"])
def test_hidden_states_and_logits_equal_transformers(kind, lengths, dtype, tolerance):
    compare_with_huggingface(mlm(kind, dtype), lengths, tolerance)


@pytest.mark.parametrize("kind", [BERT, ROBERTA], ids=["BERT", "RoBERTa"])
def test_forward_alone_gives_the_same_logits(kind):
    model = mlm(kind)
    ids, mask = batch([7, 4, 1], pad_id=model.encoder.config.pad_id)
    with torch.no_grad():  # the fused path, and the mask that the encoder makes from the padding
        assert_close(model(ids)[mask], huggingface(model)(ids, attention_mask=mask).logits[mask], **EXACT)


def test_token_types_equal_berts():
    compare_with_huggingface(mlm(BERT), [7, 4, 1], EXACT, types=True)


@pytest.mark.parametrize(
    ("mistake", "kind", "changes"),
    [
        ("positions from 0", ROBERTA, {"position_offset": 0, "max_len": 14}),
        ("RoBERTa with BERT's epsilon", ROBERTA, {"eps": 1e-12}),
        ("BERT with RoBERTa's epsilon", BERT, {"eps": 1e-5}),
        ("tanh GELU in RoBERTa", ROBERTA, {"activation": "gelu_tanh"}),
        ("tanh GELU in BERT", BERT, {"activation": "gelu_tanh"}),
        ("no token type in RoBERTa", ROBERTA, {"token_types": 0}),
        ("no token type in BERT", BERT, {"token_types": 0}),
        ("pre-norm in place of post-norm", BERT, {"norm": "pre"}),
        ("another number of heads", BERT, {"heads": 2}),
    ],
)
def test_the_comparison_with_transformers_catches(mistake, kind, changes):
    model = mlm(kind)
    theirs = huggingface(model)
    model.encoder = changed(model.encoder, **changes)
    with pytest.raises(AssertionError, match="not close"):
        compare_with_huggingface(model, [7, 4, 1], EXACT, theirs)


@pytest.mark.parametrize("kind", [BERT, ROBERTA], ids=["BERT", "RoBERTa"])
def test_the_comparison_with_transformers_catches_a_missing_padding_mask(kind):
    with pytest.raises(AssertionError, match="not close"):
        compare_with_huggingface(mlm(kind), [7, 4, 1], EXACT, mask_planted=True)


def test_the_comparison_with_transformers_catches_token_types_that_are_left_out():
    model = mlm(BERT)
    theirs = huggingface(model)
    compare_with_huggingface(model, [7, 4, 1], EXACT, theirs, types=True)
    embed = model.encoder.embed
    model.encoder.embed = lambda ids, token_types: embed(ids)  # every token counts as sentence A's
    with pytest.raises(AssertionError, match="not close"):
        compare_with_huggingface(model, [7, 4, 1], EXACT, theirs, types=True)


def test_robertas_positions_count_real_tokens_from_two():
    encoder = Encoder(config(**ROBERTA))
    assert encoder.position_ids(torch.tensor([[5, 6, 7], [5, 1, 1]])).tolist() == [[2, 3, 4], [2, 1, 1]]
    assert encoder.positions.weight.shape == (12 + 2, 16)  # max_len rows and the offset's, not C
    encoder(torch.full((1, 12), 5))  # max_len tokens fit


def test_berts_positions_count_from_zero():
    encoder = Encoder(config(**BERT))
    assert encoder.position_ids(torch.tensor([[5, 6, 7], [5, 0, 0]])).tolist() == [[0, 1, 2]] * 2
    assert encoder.positions.weight.shape == (12, 16)


# --- properties -------------------------------------------------------------------------------------------------------

KINDS = {
    "BERT": config(**BERT),
    "RoBERTa": config(**ROBERTA),
    "pre-norm": config(norm="pre"),
    "no positions": config(positions="none"),
}
ENCODERS = {name: perturbed(Encoder(kind)) for name, kind in KINDS.items()}
kinds = st.sampled_from(sorted(KINDS))
lengths_of_texts = st.lists(st.integers(1, 8), min_size=1, max_size=4)


@few
@given(kind=kinds, lengths=lengths_of_texts, extra=st.integers(0, 4), seed=st.integers(0, 10**6), opened=st.booleans())
def test_padding_never_changes_a_real_token(kind, lengths, extra, seed, opened):
    encoder = ENCODERS[kind]
    pad_id = encoder.config.pad_id
    ids, _ = batch(lengths, pad_id=pad_id, seed=seed)
    wide = torch.nn.functional.pad(ids, (0, extra), value=pad_id)
    with torch.no_grad():
        together = encoder(wide, return_inside=opened)
        together = together[0] if opened else together
        for row, length in enumerate(lengths):
            alone = encoder(ids[row : row + 1, :length])
            assert_close(together[row, :length], alone[0], **EXACT)


@few
@given(lengths=lengths_of_texts, seed=st.integers(0, 10**6))
def test_what_stands_at_a_masked_place_never_matters(lengths, seed):
    encoder = ENCODERS["BERT"]
    ids, mask = batch(lengths, seed=seed)
    garbage, _ = batch([ids.shape[1]] * len(lengths), seed=seed + 1)
    with torch.no_grad():
        clean = encoder(ids, mask)
        assert_close(encoder(torch.where(mask, ids, garbage), mask)[mask], clean[mask], **EXACT)


@few
@given(seed=st.integers(0, 10**6), T=st.integers(1, 9))
def test_without_positions_permuted_tokens_give_permuted_outputs(seed, T):
    encoder = ENCODERS["no positions"]
    ids, _ = batch([T, T], seed=seed)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert_close(encoder(ids[:, order]), encoder(ids)[:, order], **EXACT)


@pytest.mark.parametrize("kind", ["BERT", "RoBERTa", "pre-norm"])
def test_with_positions_the_order_of_the_tokens_matters(kind):
    ids, _ = batch([6])
    with torch.no_grad():
        assert (ENCODERS[kind](ids.flip(1)) - ENCODERS[kind](ids).flip(1)).abs().max() > 0.1


@few
@given(kind=kinds, lengths=lengths_of_texts, seed=st.integers(0, 10**6))
def test_the_order_of_the_batch_does_not_matter(kind, lengths, seed):
    encoder = ENCODERS[kind]
    ids, _ = batch(lengths, pad_id=encoder.config.pad_id, seed=seed)
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert_close(encoder(ids[order]), encoder(ids)[order], **EXACT)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_open_and_the_fused_path_are_one_function(kind):
    encoder = ENCODERS[kind]
    ids, _ = batch([8, 3, 1], pad_id=encoder.config.pad_id)
    with torch.no_grad():
        opened, inside = encoder(ids, return_inside=True)
        assert_close(opened, encoder(ids), **EXACT)
    assert [tuple(w.shape) for w in inside.weights] == [(3, 4, 8, 8)] * 2


def test_a_mask_of_who_may_look_at_whom_stops_the_look_ahead():
    encoder = ENCODERS["BERT"]
    ids, _ = batch([6, 6])
    mask = torch.ones(6, 6, dtype=torch.bool).tril()[None].expand(2, 6, 6)
    other = ids.clone()
    other[:, 4:] = 7
    with torch.no_grad():
        before, after = encoder(ids, mask), encoder(other, mask)
    assert_close(before[:, :4], after[:, :4], **EXACT)
    assert (before[:, 4:] - after[:, 4:]).abs().max() > 0.1


def test_one_padding_mask_serves_all_texts():
    encoder = ENCODERS["BERT"]
    ids, mask = batch([4, 4])
    mask[:, 3] = False
    with torch.no_grad():
        assert torch.equal(encoder(ids, mask[:1]), encoder(ids, mask))


def test_no_layers_is_an_encoder_of_embeddings():
    ids, _ = batch([4])
    encoder = perturbed(Encoder(config(layers=0)))
    assert torch.equal(encoder(ids), encoder.embed(ids))


def test_weights_are_drawn_with_one_over_root_fan_in_or_the_given_deviation():
    torch.manual_seed(0)
    for init_std, expected in (("fan_in", 1 / 8), (0.02, 0.02)):
        encoder = Encoder(EncoderConfig(vocab_size=500, init_std=init_std))
        for weight in (encoder.tokens.weight, encoder.layers[0].attention.qkv.weight):
            assert abs(weight.std().item() / expected - 1) < 0.03
        assert not encoder.layers[0].ffn_in.bias.any()


# --- what it refuses --------------------------------------------------------------------------------------------------


IDS, MASK = batch([4, 2])
FULL, TRUE = batch([4, 4])
PADDED = FULL.index_fill(0, torch.tensor([1]), 0)  # text 1 is padding only
REFUSED = {  # what the encoder is called with
    "13 tokens": ([torch.full((1, 13), 5)], ValueError, r"13 tokens is longer than .*max_len of 12\..*Cut it"),
    "no texts": ([IDS[:0]], ValueError, "the batch is empty.*Leave out empty texts"),
    "texts of no tokens": ([IDS[:, :0]], ValueError, "the batch is empty.*Leave out empty texts"),
    "nothing at all": ([IDS[:0, :0]], ValueError, "the batch is empty.*Leave out empty texts"),
    "one text": ([torch.tensor([5, 6])], ValueError, r"shape \(2,\); expected \(B, T\).*`ids\[None\]`"),
    "batches": ([IDS[None]], ValueError, r"shape \(1, 2, 4\); expected \(B, T\)"),
    "floats": ([torch.rand(2, 3)], TypeError, r"torch\.float32; they must be a tensor of torch\.int64"),
    "lists": ([[[5, 6]]], TypeError, "are list; .*`pad` of lists makes one"),
    "a mask for ids": ([MASK], TypeError, r"are torch\.bool"),
    "a float mask": ([IDS, MASK.float()], TypeError, r"the mask is torch\.float32; .*`mask\.bool\(\)`"),
    "an inverted mask": ([IDS, ~MASK], ValueError, "of text 1 is the wrong way round.*pass `ids != pad_id`"),
    "an inverted mask, no padding": ([FULL, ~TRUE], ValueError, "text 0 is False everywhere.*True means padding in it"),
    "padding only": ([PADDED], ValueError, "text 1 is False everywhere.*Leave empty texts out"),
    "token types": ([IDS, None, 0 * IDS], ValueError, "token_types were given, .*EncoderConfig"),
}
for wrong in (40, 1000, -1, -100):
    ids = FULL.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(wrong))
    message = rf"token id {wrong} \(text 1, position 2\).* 0 to 39.*another tokenizer"
    REFUSED[f"the id {wrong}"] = [ids], ValueError, message
for shape in [(4, 2), (2, 3), (3, 4), (4,), (2, 1, 1, 4), (2, 4, 3), (3, 4, 4)]:
    mask = torch.ones(shape, dtype=torch.bool)
    REFUSED[f"a mask {shape}"] = [FULL, mask], ValueError, r"does not fit scores of shape \(2, 4"


@pytest.mark.parametrize(("given_to_it", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_what_to_do(given_to_it, error, message):
    with pytest.raises(error, match=message):
        Encoder(config())(*given_to_it)


def test_without_positions_a_text_may_be_of_any_length():
    assert Encoder(config(positions="none"))(torch.full((1, 30), 5)).shape == (1, 30, 16)


IMPOSSIBLE = {
    "vocab_size": [0, -3, 2.5, "40", True],
    "width": [0, 16.0],
    "layers": [-1, 2.0],
    "heads": [0, 3, 32],
    "ffn_width": [-1, 24.0],
    "max_len": [0, None],
    "position_offset": [-1],
    "token_types": [-1, True],
    "pad_id": [-1, 40],
    "dropout": [-0.1, 1.0, float("nan"), "0.1", None],
    "eps": [0.0, -1e-5, float("nan"), float("inf"), "1e-5", None],
    "init_std": [0.0, -0.02, float("nan"), "0.02", "fan in", None],
    "norm": ["middle", None, "Pre"],
    "activation": ["swish", None],
    "positions": ["sinusoidal", True],
}


def test_every_field_has_an_impossible_value_below():
    assert set(IMPOSSIBLE) == {field.name for field in dataclasses.fields(EncoderConfig)}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in IMPOSSIBLE.items() for v in values])
def test_an_impossible_field_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field} is "):
        config(**{field: value})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_exist_and_any_field_can_be_changed(name):
    preset = EncoderConfig.preset(name, vocab_size=100, max_len=9, norm="pre")
    assert (preset.vocab_size, preset.max_len, preset.norm) == (100, 9, "pre")
    assert preset.width == PRESETS[name]["width"]


def test_an_unknown_preset_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValueError, match=r"no preset 'huge'; choose one of \('tiny', 'small', 'base'\)"):
        EncoderConfig.preset("huge", vocab_size=100)


def test_a_configuration_survives_json():
    kind = config(**ROBERTA)
    assert EncoderConfig(**json.loads(json.dumps(kind.to_dict()))) == kind


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().width = 32
