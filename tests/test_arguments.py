"""Usual mistakes with arguments: each public door says what was wrong, and no number is wrong in silence."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import config, words
from torch.testing import assert_close

from nextbert_lite import (
    Bm25,
    Classifier,
    LabelledBatches,
    MaskedLanguageModel,
    MLMBatches,
    PairBatches,
    SearchIndex,
    SentenceEncoder,
    TextClassifier,
    alignment,
    fill_mask,
    fine_tune,
    fit,
    info_nce_loss,
    nt_xent_loss,
    pad,
    plots,
    same_texts,
    seeded,
    train_bpe,
    uniformity,
    word_level,
)
from nextbert_lite.core.attention import MultiHeadAttention
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.masking import mask_tokens
from nextbert_lite.corpora.harvest import Document
from nextbert_lite.training.batches import pieces
from nextbert_lite.training.device import pick_device
from nextbert_lite.training.loop import History
from nextbert_lite.use.finetuning import calibration_error, class_logits, fit_temperature
from nextbert_lite.use.search import fuse, ranks, recall_at
from nextbert_lite.views.masking import MaskingPlayground
from nextbert_lite.views.writing import WritingSteps

TOKENIZER = words(35)  # ids 0 to 39
torch.manual_seed(0)
ENCODER = Encoder(config())
MODEL, CLASSIFIER = MaskedLanguageModel(ENCODER), TextClassifier(ENCODER, 2)
A, B = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
IDS, TEXTS = [[2, 5, 6, 3]] * 4, [f"w{i}" for i in range(8)]
DOCUMENTS = [Document(f"name{i}", "torch", "m", f"word{i} of all", "") for i in range(3)]
EYE, HALVES = torch.eye(3), torch.full((2, 2), 0.5)
LABELS = torch.tensor([0, 1])

# --- numbers that were wrong in silence -------------------------------------------------------------------------------

LENGTHS = {"huge": 1e30, "tiny": 1e-30, "zero": 0.0}
NO_DIRECTION = "have a row without a direction: row 1 has the length .* so all its cosines would be 0"


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(
    "number",
    [
        lambda x: info_nce_loss(x, B),
        lambda x: info_nce_loss(A, x),
        lambda x: info_nce_loss(A, B, negatives=x),
        lambda x: nt_xent_loss(x, B),
        lambda x: alignment(A, x),
        uniformity,
        lambda x: SearchIndex(DOCUMENTS, vectors=x),
    ],
    ids=["anchors", "positives", "negatives", "SimCLR", "alignment", "uniformity", "index"],
)
def test_a_vector_without_a_direction_has_no_cosine(number, length):
    x = A.clone()
    x[1] *= length
    with pytest.raises(ValueError, match=NO_DIRECTION):
        number(x)


@pytest.mark.parametrize("length", [1e-6, 1e6])
def test_the_length_of_a_vector_changes_no_loss(length):
    assert_close(info_nce_loss(A * length, B), info_nce_loss(A, B))
    assert_close(uniformity(A * length), uniformity(A))


def test_an_index_searches_by_cosine_whatever_the_length_of_its_vectors():
    model = SentenceEncoder(ENCODER), TOKENIZER
    vectors = torch.randn(3, ENCODER.config.width, generator=torch.Generator().manual_seed(1))
    unit = SearchIndex(DOCUMENTS, model, vectors=F.normalize(vectors, dim=-1)).search("word1", k=3)
    long = SearchIndex(DOCUMENTS, model, vectors=vectors.double() * torch.tensor([[1.0], [50.0], [0.01]])).search(
        "word1", k=3
    )
    assert [hit.document for hit in long] == [hit.document for hit in unit]
    assert [hit.cosine for hit in long] == pytest.approx([hit.cosine for hit in unit], abs=1e-6)
    assert all(abs(hit.cosine) <= 1 + 1e-6 for hit in long)


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array], ids=["lists", "tuples", "tensors", "arrays"])
def test_texts_may_be_lists_tensors_and_arrays_and_give_the_same_batches(kind):
    rows = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 3], [2, 6, 3]]
    given = [kind(row) for row in rows]
    assert torch.equal(pad(given)[0], pad(rows)[0]) and pad(given)[0].dtype == torch.int64
    for make in (
        lambda texts: MLMBatches(texts, TOKENIZER, 2, rate=0.5),
        lambda texts: LabelledBatches(texts, [0, 1, 0, 1], TOKENIZER, 2),
        lambda texts: PairBatches([(texts[0], texts[1]), (texts[2], texts[3]), (texts[1], texts[0])], TOKENIZER, 2),
    ):
        for step in range(3):
            one, other = make(given)(step), make(rows)(step)
            assert all(torch.equal(one[name], other[name]) for name in one)
    assert same_texts(given[:2], [given[1], given[3]]).tolist() == same_texts("ab", "bd").tolist()


def test_a_mask_of_three_dimensions_may_hide_a_part_but_neither_all_nor_the_words_alone():
    ids = torch.tensor([[2, 5, 3, 0]])
    one_way = torch.ones(4, 4, dtype=torch.bool).tril()[None] & (ids != 0)[:, None]
    assert ENCODER(ids, one_way).isfinite().all()
    with pytest.raises(ValueError, match="the mask of text 0 is False everywhere"):
        ENCODER(ids, torch.zeros_like(one_way))
    with pytest.raises(ValueError, match="the mask of text 0 is the wrong way round"):
        ENCODER(ids, (ids == 0)[:, None].expand(1, 4, 4))


def test_decoding_takes_whole_numbers_of_any_kind():
    assert TOKENIZER.decode(np.array([5, 6])) == TOKENIZER.decode(torch.tensor([5, 6])) == TOKENIZER.decode([5, 6])


def test_labels_may_be_whole_numbers_of_any_kind():
    for kind in (torch.int32, torch.uint8, torch.int64):
        batches = LabelledBatches(IDS, torch.tensor([0, 1, 0, 1], dtype=kind), TOKENIZER, 2)
        assert batches(0)["labels"].dtype == torch.int64


def halves(rows):
    return torch.tensor(rows, dtype=torch.bfloat16)


def test_figures_take_lists_and_arrays():
    for kind in (torch.tensor, np.array, list, halves):
        fig = plots.attention_map(kind([[0.25, 0.75], [1.0, 0.0]]), ["a", "b"], title="Two look")
        assert np.allclose(fig.axes[0].images[0].get_array(), [[0.25, 0.75], [1, 0]])
        plots.plt.close(fig)


# --- what is refused, in words ----------------------------------------------------------------------------------------


def tuned(**options):
    return fine_tune(TEXTS, list("xyxyxyxy"), (MODEL, TOKENIZER), report=None, **options)


WHOLE = "{} is {}; it must be a whole number of at least {}"
EXCHANGED = r"the tokenizer is \w+; expected a `Tokenizer`. Were two arguments exchanged"
NO_IDS = r"is .*; expected token ids, a list of whole numbers: `tokenizer.encode_batch\(texts\)` makes"
RANGE = "there is the token id 40; this tokenizer has the ids 0 to 39"
ONE_TEXT = "expected one text's token ids, a list of whole numbers; got"
TWO = torch.tensor([[2, 5, 3], [2, 6, 3]])
ATTENTION = MultiHeadAttention(8, 2)
TYPED = Encoder(dataclasses.replace(ENCODER.config, token_types=2))
NO_WEIGHTS = "these are no attention weights: .* after the softmax"
A_LIST = "must be a list of str"
REFUSED = {
    "attention: one text": (
        lambda: ATTENTION(torch.zeros(3, 8)),
        ValueError,
        r"\(3, 8\); .* \(B, T, C\) .* `x\[None\]`",
    ),
    "attention: another width": (lambda: ATTENTION(torch.zeros(2, 3, 6)), ValueError, r"\(2, 3, 6\); .* C = 8"),
    "attention: an array": (lambda: ATTENTION(np.zeros((2, 3, 8))), ValueError, "of type ndarray; expected a tensor"),
    "attention: float64": (lambda: ATTENTION(torch.zeros(2, 3, 8).double()), TypeError, r"`x.to\(torch.float32\)`"),
    "masking: floats": (lambda: mask_tokens(torch.ones(2, 3), TOKENIZER), TypeError, "token ids are torch.float32"),
    "masking: a list": (lambda: mask_tokens([[5, 6]], TOKENIZER), TypeError, "token ids are list"),
    "masking: out of range": (
        lambda: mask_tokens(torch.tensor([[2, 40]]), TOKENIZER),
        ValueError,
        "token id 40 .text 0",
    ),
    "masking: a rate in words": (lambda: mask_tokens(TWO, TOKENIZER, "15 %"), ValueError, "rate is 15 %; it must be"),
    "masking: no tokenizer": (lambda: mask_tokens(TWO, MODEL), TypeError, EXCHANGED),
    "MLM: labels of floats": (
        lambda: MODEL.loss(TWO, TWO.float()),
        TypeError,
        "labels are torch.float32; .* torch.int64",
    ),
    "MLM: labels out of range": (lambda: MODEL.loss(TWO, TWO + 38), ValueError, r"a label 4\d; .* 0 to 39, or -100"),
    "types: out of range": (
        lambda: TYPED(TWO, token_types=TWO),
        ValueError,
        r"from 0 to 1 \(torch.int64\) of the shape \(2, 3\)",
    ),
    "types: of floats": (lambda: TYPED(TWO, token_types=0.0 * TWO), ValueError, "must be whole numbers"),
    "types: of one text": (lambda: TYPED(TWO, token_types=0 * TWO[0]), ValueError, "must be whole numbers"),
    "logits: NaN": (
        lambda: fit_temperature(torch.full((2, 2), torch.nan), LABELS),
        ValueError,
        "logits are not finite",
    ),
    "logits: a list": (
        lambda: fit_temperature([[1.0, 2.0]], [0]),
        TypeError,
        r"logits are list; expected a tensor \(N, K",
    ),
    "logits: a label": (lambda: fit_temperature(HALVES, LABELS + 1), ValueError, "a label 2; with 2 classes"),
    "logits: no label": (lambda: fit_temperature(HALVES, LABELS - 101), ValueError, "a label -101"),
    "logits: a label left out": (lambda: fit_temperature(HALVES, LABELS * -100), ValueError, "text 1 has no label"),
    "calibration: NaN": (lambda: calibration_error(HALVES * torch.nan, LABELS), ValueError, "not finite"),
    "calibration: logits": (lambda: calibration_error(EYE[:2] * 5, LABELS), ValueError, r"logits become .*softmax\(-1"),
    "calibration: negative": (lambda: calibration_error(HALVES + EYE[:2, :2] * 2 - 1, LABELS), ValueError, "below 0"),
    "calibration: floats": (lambda: calibration_error(HALVES, LABELS.float()), TypeError, "labels are torch.float32"),
    "calibration: bins": (lambda: calibration_error(HALVES, LABELS, 0), ValueError, WHOLE.format("bins", 0, 1)),
    "recall at 0": (lambda: recall_at(EYE, 0), ValueError, WHOLE.format("k", 0, 1)),
    "recall at -3": (lambda: recall_at(EYE, -3), ValueError, WHOLE.format("k", -3, 1)),
    "recall at 1.5": (lambda: recall_at(EYE, 1.5), ValueError, WHOLE.format("k", 1.5, 1)),
    "ranks: floats": (lambda: ranks(EYE, torch.arange(3.0)), ValueError, "`right` must be 3 numbers of texts"),
    "ranks: truths": (lambda: ranks(EYE, torch.ones(3).bool()), ValueError, "`right` must be 3 numbers of texts"),
    "BM25: k1": (lambda: Bm25(["a word"], k1=float("inf")), ValueError, "k1 is inf .* both finite"),
    "ranks: an array": (lambda: ranks(np.eye(3)), TypeError, "the scores are ndarray; expected a tensor"),
    "fuse: lists": (lambda: fuse([[1.0]], [[1.0]], 0.5), TypeError, "the scores are list; expected a tensor"),
    "index: texts": (lambda: SearchIndex(["a b"], vectors=EYE[:1]), TypeError, "expected a list of `Document`s"),
    "index: an array": (lambda: SearchIndex(DOCUMENTS, vectors=np.eye(3)), TypeError, "embeddings are ndarray"),
    "index: width": (
        lambda: SearchIndex(DOCUMENTS, (MODEL, TOKENIZER), vectors=EYE).search("w1"),
        ValueError,
        f"the vectors have the width 3: its model makes {ENCODER.config.width}",
    ),
    "index: k": (lambda: SearchIndex(DOCUMENTS, vectors=EYE).search("w", 1.5), ValueError, WHOLE.format("k", 1.5, 1)),
    "index: queries": (lambda: SearchIndex(DOCUMENTS, vectors=EYE).search(["w"]), TypeError, "the query is list"),
    "uniformity: an array": (lambda: uniformity(np.eye(3)), TypeError, "embeddings are ndarray; .*torch.as_tensor"),
    "masked: floats": (lambda: MLMBatches([[2.5, 3.0]], TOKENIZER), TypeError, NO_IDS),
    "masked: truths": (lambda: MLMBatches([torch.ones(3).bool()], TOKENIZER), TypeError, NO_IDS),
    "masked: texts": (lambda: MLMBatches(["w1 w2"], TOKENIZER), TypeError, NO_IDS),
    "masked: one text": (lambda: MLMBatches([2, 5, 3], TOKENIZER), TypeError, rf"{NO_IDS}.*: \[ids\]"),
    "masked: out of range": (lambda: MLMBatches([[2, 40, 3]], TOKENIZER), ValueError, RANGE),
    "masked: below 0": (lambda: MLMBatches([[2, -1, 3]], TOKENIZER), ValueError, "the token id -1"),
    "masked: exchanged": (lambda: MLMBatches(TOKENIZER, IDS), TypeError, EXCHANGED),
    "masked: seed": (lambda: MLMBatches(IDS, TOKENIZER, seed=-1)(0), ValueError, WHOLE.format("seed", -1, 0)),
    "masked: seed 2.5": (lambda: MLMBatches(IDS, TOKENIZER, seed=2.5)(0), ValueError, WHOLE.format("seed", 2.5, 0)),
    "masked: step": (lambda: MLMBatches(IDS, TOKENIZER)(-1), ValueError, WHOLE.format("step", -1, 0)),
    "labelled: floats": (lambda: LabelledBatches(IDS, [0.5] * 4, TOKENIZER), TypeError, "a label is a text or a float"),
    "labelled: texts": (lambda: LabelledBatches(IDS, list("abcd"), TOKENIZER), TypeError, r"`names.index\(label\)`"),
    "labelled: range": (lambda: LabelledBatches([[2, 40, 3]], [0], TOKENIZER), ValueError, RANGE),
    "labelled: exchanged": (lambda: LabelledBatches(IDS, TOKENIZER, [0] * 4), TypeError, EXCHANGED),
    "pairs: floats": (
        lambda: PairBatches([(IDS[0], [2.0, 3.0])] * 2, TOKENIZER, 2),
        TypeError,
        "positive of pair 0 is",
    ),
    "pairs: range": (lambda: PairBatches([(IDS[0], [2, 40])] * 2, TOKENIZER, 2), ValueError, RANGE),
    "pairs: exchanged": (lambda: PairBatches(TOKENIZER, [(IDS[0], IDS[0])] * 2, 2), TypeError, EXCHANGED),
    "pad: floats": (lambda: pad([[2.5]]), TypeError, NO_IDS),
    "pad: one text": (lambda: pad([2, 5, 3]), TypeError, NO_IDS),
    "pad: a text": (lambda: pad(["abc"]), TypeError, NO_IDS),
    "pad: no pad_id": (lambda: pad([[2, 3]], None), TypeError, "pad_id is NoneType; it must be a token id: `tokenizer"),
    "pad: the tokenizer": (lambda: pad([[2, 3]], TOKENIZER), TypeError, "pad_id is Tokenizer"),
    "labelled: None": (lambda: LabelledBatches(IDS, [0, None, 1, 0], TOKENIZER), TypeError, "or a float, or missing"),
    "labelled: tokens' texts": (
        lambda: LabelledBatches(IDS[:1], [["a", "b", "c", "d"]], TOKENIZER),
        TypeError,
        r"`names.index\(label\)`",
    ),
    "labelled: mixed": (
        lambda: LabelledBatches(IDS[:2], [1, [0, 1, 0, 1]], TOKENIZER),
        ValueError,
        "some texts have one label and some a list",
    ),
    "pieces: no room": (lambda: pieces(["w1 " * 30], TOKENIZER, 2), ValueError, WHOLE.format("max_len", 2, 10)),
    "pieces: room for too few": (
        lambda: pieces(["w1 " * 30], TOKENIZER, 9),
        ValueError,
        WHOLE.format("max_len", 9, 10),
    ),
    "logits of no text": (lambda: class_logits(CLASSIFIER, [], 0), ValueError, "the batch is empty: give at least one"),
    "device: a number": (lambda: pick_device(2.5), ValueError, "there is no device '2.5' here"),
    "seeded: -1": (lambda: seeded(0, -1), ValueError, WHOLE.format("seed", -1, 0)),
    "fit: seed -1": (lambda: fit(MODEL, print, 2, seed=-1), ValueError, WHOLE.format("seed", -1, 0)),
    "fit: seed 2.5": (lambda: fit(MODEL, print, 2, seed=2.5), ValueError, WHOLE.format("seed", 2.5, 0)),
    "decode: floats": (lambda: TOKENIZER.decode([5.7]), TypeError, ONE_TEXT),
    "decode: a batch": (lambda: TOKENIZER.decode(torch.tensor(IDS)), TypeError, ONE_TEXT),
    "decode: one id": (lambda: TOKENIZER.decode(5), TypeError, ONE_TEXT),
    "tokens: floats": (lambda: TOKENIZER.tokens(torch.tensor([5.7])), TypeError, ONE_TEXT),
    "encode: max_len": (lambda: TOKENIZER.encode("w1", max_len=5.5), ValueError, WHOLE.format("max_len", 5.5, 1)),
    "word_level: two words": (
        lambda: word_level(["a", "New York"]),
        ValueError,
        "'New York' is no word: it is blank or",
    ),
    "word_level: blank": (lambda: word_level(["a", ""]), ValueError, "'' is no word: it is blank or holds a space"),
    "word_level: half": (lambda: word_level(["a", "\ud800"]), ValueError, "text 1 holds half a surrogate pair"),
    "train_bpe: half": (lambda: train_bpe(["a\ud800b"]), ValueError, "text 0 holds half a surrogate pair"),
    "word_level: one text": (lambda: word_level("abc"), TypeError, "put a single text into a list"),
    "train_bpe: size": (lambda: train_bpe(["a"], 300.5), ValueError, WHOLE.format("vocab_size", 300.5, 1)),
    "heads: a float": (lambda: MultiHeadAttention(8, 2.0), ValueError, WHOLE.format("heads", 2.0, 1)),
    "map: logits": (lambda: plots.attention_map(A[:, :3] * 3, list("abc")), ValueError, NO_WEIGHTS),
    "map: sums of 3": (lambda: plots.attention_map(torch.ones(3, 3), list("abc")), ValueError, NO_WEIGHTS),
    "heads: logits": (lambda: plots.attention_heads(A[None, :, :3] * 3, list("abc")), ValueError, NO_WEIGHTS),
    "arcs: logits": (lambda: plots.attention_from(-EYE[0], list("abc"), 0), ValueError, NO_WEIGHTS),
    "arcs: query": (
        lambda: plots.attention_from(EYE[0], list("abc"), 1.5),
        ValueError,
        "query 1.5: expected T, T and 0",
    ),
    "map: ids": (lambda: plots.attention_map(EYE, torch.tensor([1, 2, 3])), TypeError, A_LIST),
    "map: one str": (lambda: plots.attention_map(EYE, "abc"), TypeError, A_LIST),
    "map: uneven": (lambda: plots.attention_map([[1.0], [0.5, 0.5]], ["a", "b"]), ValueError, "rows differ in length"),
    "loss: a history": (lambda: plots.loss_curve(History(), title="t"), TypeError, "of a history give `history.loss`"),
    "loss: a matrix": (lambda: plots.loss_curve(EYE, title="t"), ValueError, "expected one finite loss a step"),
    "loss: NaN": (lambda: plots.loss_curve([1, np.nan], title="t"), ValueError, "expected one finite loss a step"),
    "loss: smooth 2.5": (
        lambda: plots.loss_curve([1.0], title="t", smooth=2.5),
        ValueError,
        "`smooth` of at least 1 step",
    ),
    "loss: smooth": (lambda: plots.loss_curve([1.0], title="t", smooth=0), ValueError, "`smooth` of at least 1"),
    "gap: exchanged": (lambda: fill_mask(TOKENIZER, MODEL, "w1 [MASK]"), TypeError, EXCHANGED),
    "gap: an encoder": (lambda: fill_mask(ENCODER, TOKENIZER, "[MASK]"), TypeError, "the model is Encoder; words are"),
    "gap: k": (lambda: fill_mask(MODEL, TOKENIZER, "[MASK]", 0), ValueError, WHOLE.format("k", 0, 1)),
    "writing: a word": (lambda: WritingSteps("tiny", TOKENIZER, "[MASK]"), TypeError, "the model is str; expected one"),
    "writing: exchanged": (lambda: WritingSteps(TOKENIZER, MODEL, "[MASK]"), TypeError, EXCHANGED),
    "view: an encoder": (
        lambda: MaskingPlayground(ENCODER, TOKENIZER, None, ["w1 w2"]),
        TypeError,
        "the model is Encoder; gaps are filled by a MaskedLanguageModel",
    ),
    "view: exchanged": (lambda: MaskingPlayground(TOKENIZER, MODEL, None, ["w1 w2"]), TypeError, EXCHANGED),
    "classifier: exchanged": (lambda: Classifier(TOKENIZER, CLASSIFIER, "ab"), TypeError, EXCHANGED),
    "classifier: labels": (
        lambda: Classifier(CLASSIFIER, TOKENIZER, "abc"),
        ValueError,
        "class for each of the 3 labels",
    ),
    "classifier: an encoder": (
        lambda: Classifier(ENCODER, TOKENIZER, "ab"),
        ValueError,
        "expected a TextClassifier with",
    ),
    "classifier: one label twice": (
        lambda: Classifier(CLASSIFIER, TOKENIZER, "aa"),
        ValueError,
        "names .str., each once",
    ),
    "classifier: numbers": (lambda: Classifier(CLASSIFIER, TOKENIZER, [0, 1]), ValueError, "names .str., each once"),
    "classifier: max_len 0": (
        lambda: Classifier(CLASSIFIER, TOKENIZER, "ab", max_len=0),
        ValueError,
        WHOLE.format("max_len", 0, 3),
    ),
    "classifier: max_len": (lambda: Classifier(CLASSIFIER, TOKENIZER, "ab", max_len=99), ValueError, "at most 12, and"),
    "classifier: long": (lambda: Classifier(CLASSIFIER, TOKENIZER, "ab", long="window"), ValueError, "long 'window'"),
    "classifier: cold": (lambda: Classifier(CLASSIFIER, TOKENIZER, "ab", 0.0), ValueError, "temperature is 0.0"),
    "tuned: epochs": (lambda: tuned(epochs=2.5), ValueError, "epochs is 2.5"),
    "tuned: seed": (lambda: tuned(seed=-1), ValueError, WHOLE.format("seed", -1, 0)),
    "tuned: max_len": (lambda: tuned(max_len=5.5), ValueError, WHOLE.format("max_len", 5.5, 1)),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_usual_mistake_is_told_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()
