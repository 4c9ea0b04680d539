"""The checks of lesson 02, Attention."""

import math

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    solution,
    untouched,
)
from nextbert_lite.core.attention import scaled_dot_product_attention
from nextbert_lite.validate import check_mask

__all__ = [
    "attention",
    "causal_mask",
    "hint",
    "mine",
    "padded_attention",
    "softmax_rows",
    "solution",
    "spread",
]


# --- 02.1 softmax of each row -----------------------------------------------------------------------------------------


def scores_with_a_large_row(generator):
    scores = 3 * torch.randn(5, 6, generator=generator)
    scores[1] -= 200.0  # its largest score is far below 0
    scores[2] += 200.0
    scores[4] += 800.0  # exp is infinite in float64 too
    scores[3] = 0.0
    scores[3, 4] = 200.0  # far above its row's mean, median, minimum and first score
    return (scores,)


def no_maximum(scores):
    e = scores.exp()
    return e / e.sum(-1, keepdim=True)


def one_maximum(scores):
    e = (scores - scores.max()).exp()
    return e / e.sum(-1, keepdim=True)


def one_sum(scores):
    e = (scores - scores.max()).exp()
    return e / e.sum()


def never_divided(scores):
    return (scores - scores.amax(-1, keepdim=True)).exp()


softmax_rows = Exercise(
    id="02.1",
    right=lambda scores: scores.softmax(-1),
    inputs=scores_with_a_large_row,
    also=lambda generator: (torch.randn(3, 4, generator=generator),),
    mistakes=(
        Mistake(
            "no maximum subtracted",
            no_maximum,
            "a row with large scores gives NaN: in float32 exp(x) is infinite from x = 89 on, and inf / inf is NaN. "
            "Subtract each row's largest score first; the result is the same, for numerator and denominator shrink "
            "by one factor.",
            "float32 overflow, computed in section 2 of the lesson",
        ),
        Mistake(
            "one maximum for all rows",
            one_maximum,
            "you subtract one number from all rows, so rows far below it become 0 everywhere and 0 / 0 is NaN. "
            "Take each row's own: scores.amax(-1, keepdim=True).",
            "variant of the overflow bug, seen when trying the exercise with a shifted row",
        ),
        Mistake(
            "one sum for all rows",
            one_sum,
            "the whole matrix sums to 1, not each row. Every query has one unit of attention to spend: sum over the "
            "last dimension, with keepdim=True.",
            "https://github.com/gjylt/DoubleAttentionNet/issues/3 (softmax over several dimensions at once)",
        ),
        Mistake(
            "another shift",
            lambda scores: (e := (scores - scores.mean(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True),
            "one row holds 0 and 200, and what you subtract from it leaves a score whose exponential is infinite: NaN. "
            "Subtract each row's largest score, so that no exponent is above 0.",
            "a shift by the mean, the median, the minimum or the first score, tried by a reader of this lesson",
        ),
        Mistake(
            "one sum, each row's maximum",
            lambda scores: (e := (scores - scores.amax(-1, keepdim=True)).exp()) / e.sum(),
            "each row's maximum is subtracted, but you divide by the sum of the whole matrix. Divide each row by its "
            "own sum: e.sum(-1, keepdim=True).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "softmax over columns",
            lambda scores: scores.softmax(0),
            "each column sums to 1, not each row: you normalise over the queries (dim 0). It must be over the keys, "
            "the last dimension.",
            "https://github.com/nerminnuraydogan/vision-transformer/issues/1",
        ),
        Mistake(
            "keepdim forgotten",
            lambda scores: (e := (scores - scores.amax(-1, keepdim=True)).exp()) / e.sum(-1),
            "a sum or a maximum of each row has the shape (T,), and torch tries to line it up with the columns. Keep "
            "the dimension, so that each row meets its own: amax(-1, keepdim=True), sum(-1, keepdim=True).",
            "a fresh reader of this lesson, at the first try",
        ),
        Mistake(
            "never divided",
            never_divided,
            "the rows do not sum to 1: after the exponential, divide each row by its sum.",
            "variant of https://github.com/tracel-ai/burn/pull/4697 (the normalisation is the part that goes wrong)",
        ),
        Mistake(
            "float64",
            lambda scores: ((e := scores.double().exp()) / e.sum(-1, keepdim=True)).float(),
            "float64 only moves the limit: there exp(x) is infinite from x = 710 on, and the test has a row near 800. "
            "Subtract each row's largest score; then float32 is enough.",
            "a reader of this lesson, whose answer passed",
        ),
        Mistake(
            "left in float64",
            lambda scores: (e := scores.double().exp()) / e.sum(-1, keepdim=True),
            "you return float64 and not the dtype of the scores. Nor does it help: in float64 exp(x) is infinite from "
            "x = 710 on. Subtract each row's largest score.",
            "a reader of this lesson",
        ),
        Mistake(
            "the largest absolute value",
            lambda scores: (e := (scores - scores.abs().amax(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True),
            "you subtract the largest *absolute* value. In a row of scores near -200 this takes them to -400, every "
            "exponential is 0, and 0 / 0 is NaN. Subtract the largest score, also when it is negative.",
            "a reader of this lesson, whose answer passed",
        ),
        Mistake(
            "each column's maximum",
            lambda scores: (e := (scores - scores.amax(0)).exp()) / e.sum(-1, keepdim=True),
            "you subtract each *column's* maximum (dim 0). The shift must be one number for the whole row, or it does "
            "not cancel: scores.amax(-1, keepdim=True).",
            "a reader of this lesson",
        ),
        Mistake(
            "shifted above, not below",
            lambda scores: (scores - scores.amax(-1, keepdim=True)).exp() / scores.exp().sum(-1, keepdim=True),
            "the sum below is not that of the shifted exponentials. Subtract the maximum in both, or it does not "
            "cancel: compute e once, then e / e.sum(-1, keepdim=True).",
            "a reader of this lesson",
        ),
        Mistake(
            "clamped",
            lambda scores: (e := scores.clamp(max=88).exp()) / e.sum(-1, keepdim=True),
            "you cut large scores off, so all scores above the limit get the same weight. Subtract each row's largest "
            "score: that keeps their differences.",
            "a reader of this lesson",
        ),
        Mistake(
            "divided by the maximum",
            lambda scores: (e := (scores / scores.amax(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True),
            "you divide the scores by their maximum, and that changes their differences, on which softmax depends. "
            "Subtract the maximum.",
            "a reader of this lesson",
        ),
        Mistake(
            "a fixed number subtracted",
            lambda scores: (e := (scores - 100).exp()) / e.sum(-1, keepdim=True),
            "you subtract the same fixed number everywhere. Some rows are still too large for exp, and others become 0 "
            "everywhere. Subtract what fits each row, its largest score.",
            "a reader of this lesson",
        ),
        Mistake(
            "NaN replaced",
            lambda scores: ((e := scores.exp()) / e.sum(-1, keepdim=True)).nan_to_num(0.0),
            "you replace the NaN, but the weights that stood there are lost, and the row no longer sums to 1. Keep the "
            "NaN from arising: subtract each row's largest score.",
            "a reader of this lesson",
        ),
        Mistake(
            "no exponential",
            lambda scores: scores / scores.sum(-1, keepdim=True),
            "you divide the scores themselves by their sum, and scores may be negative. Take exp of them first.",
            "a reader of this lesson",
        ),
        Mistake(
            "values and places",
            lambda scores: scores - scores.max(-1, keepdim=True),
            "max with a dimension returns two tensors, the values and where they stand. Take `.values`, or use "
            "scores.amax(-1, keepdim=True).",
            "a reader of this lesson",
        ),
    ),
    hints=(
        "Softmax is exp(score) divided by the sum of the row's exp(score).",
        "Before the exponential subtract the row's maximum: `scores.amax(-1, keepdim=True)` has the shape (T, 1).",
        "`e = (scores - scores.amax(-1, keepdim=True)).exp()`, then divide e by `e.sum(-1, keepdim=True)`.",
    ),
    praise="The maximum keeps it finite: row 2 of the test had scores near 200.",
    other_ways=(
        lambda s: F.softmax(s, dim=1),
        lambda s: (s - s.max(1, keepdim=True).values).softmax(1),
        lambda s: s.log_softmax(-1).exp(),
    ),
)

# --- 02.2 predict the spread of q·k -----------------------------------------------------------------------------------

spread = Prediction(
    id="02.2",
    right=2.0,
    mistakes=(
        Mistake(
            "the variance",
            4.0,
            "4 is the factor of the variance: it grows like D. The standard deviation is its square root.",
            "Vaswani et al. 2017, footnote 4, gives the variance; readers take it for the spread",
        ),
        Mistake(
            "no growth",
            1.0,
            "the spread does grow: a sum of more independent terms varies more. They cancel on average, not each time.",
            "the mean of q·k is 0 for every D, which is easily taken for 'nothing changes'",
        ),
        Mistake(
            "√64",
            8.0,
            "8 is the spread at D = 64. The question is by which factor it is larger than the spread at D = 16.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "48 more",
            48.0,
            "48 is how many more features there are. The question is the factor between the two spreads.",
            "difference in place of ratio",
        ),
        Mistake(
            "the other way round",
            0.5,
            "0.5 is the factor from D = 64 to D = 16. The question goes from 16 to 64.",
            "a reader of this lesson",
        ),
        Mistake(
            "the variance at 16",
            16.0,
            "16 is the variance at D = 16. The question is by which factor the standard deviation grows from there to "
            "D = 64.",
            "a reader of this lesson",
        ),
        Mistake(
            "a doubling",
            math.sqrt(2),
            "√2 is the factor for twice as many features. From 16 to 64 there are four times as many.",
            "a reader of this lesson",
        ),
    ),
    hints=("The variance of a sum of D independent terms is D times that of one.", "64 / 16 = 4. And its square root?"),
    praise="The spread of q·k grows like √D: from 4 to 8 here.",
    tolerance=0.05,
)

# --- 02.3 find the bug: a padding mask broadcast over the wrong axis --------------------------------------------------


def padded_batch(generator):
    T = 4  # four texts of four tokens: with B = T torch broadcasts a (B, T) mask over (T, T) without a word
    q, k, v = (torch.randn(4, T, 8, generator=generator) for _ in range(3))
    lengths = torch.tensor([4, 2, 3, 1])
    return q, k, v, torch.arange(T) < lengths[:, None]


def another_padded_batch(generator):
    q, k, v = (torch.randn(3, 5, 6, generator=generator) for _ in range(3))
    return q, k, v, torch.arange(5) < torch.tensor([2, 5, 4])[:, None]


def attend_with(shape_of_mask, zeros=True):
    """Return an attention on padded texts that turns the mask (B, T) into one for the scores with `shape_of_mask`."""

    def attend(q, k, v, mask):
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        hidden = ~shape_of_mask(mask)
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        return (weights.masked_fill(hidden, 0.0) if zeros else weights) @ v

    return attend


def padded_in_place(q, k, v, mask):
    scores = torch.einsum("btd,bsd->bts", q, k).mul_(q.shape[-1] ** -0.5)
    scores[~mask[:, None].expand_as(scores)] = -torch.inf
    return torch.softmax(scores, 2).bmm(v)


def times_mask(q, k, v, mask):
    return ((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) * mask[:, None, :]) @ v


def scores_times_mask(q, k, v, mask):
    return (q @ k.mT / math.sqrt(q.shape[-1]) * mask[:, None, :]).softmax(-1) @ v


def keys_set_to_zero(q, k, v, mask):
    k, v = k * mask[:, :, None], v * mask[:, :, None]
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


padded_attention = Exercise(
    id="02.3",
    right=attend_with(lambda mask: mask[:, None, :]),
    inputs=padded_batch,
    also=another_padded_batch,
    mistakes=(
        Mistake(
            "the bug as it was",
            attend_with(lambda mask: mask),
            "the bug is still there: torch reads the mask (B, T) as if it were (T, T), so token i of every text gets "
            "text i's mask. Give the mask a dimension for the queries.",
            "a mask of the wrong rank with B = T runs without an error in torch 2.13 (the cell above it)",
        ),
        Mistake(
            "queries hidden",
            attend_with(lambda mask: mask[:, :, None], zeros=False),
            "mask[:, :, None] hides the padded *queries*: their rows are NaN, and the real words still look at the "
            "padding. The keys are to be hidden: mask[:, None, :].",
            "https://github.com/hyunwoongko/transformer/pull/40",
        ),
        Mistake(
            "queries hidden, zeros",
            attend_with(lambda mask: mask[:, :, None]),
            "mask[:, :, None] hides the padded *queries*, and the real words still look at the padding. The keys are "
            "to be hidden: mask[:, None, :].",
            "https://github.com/hyunwoongko/transformer/pull/40",
        ),
        Mistake(
            "queries and keys hidden",
            attend_with(lambda mask: mask[:, None, :] & mask[:, :, None], zeros=False),
            "the real words are right, but the padded queries have nothing left to look at: their rows are NaN, and "
            "NaN spreads in the next layer. Hide the keys only; what padded queries compute, nobody reads.",
            "https://github.com/bentrevett/pytorch-seq2seq/issues/119",
        ),
        Mistake(
            "queries and keys hidden, zeros",
            attend_with(lambda mask: mask[:, None, :] & mask[:, :, None]),
            "the real words are right, but you also silenced the padded queries; the exercise hides keys only. What "
            "padded queries compute, nobody reads, and one dimension of the mask is enough.",
            "https://github.com/bentrevett/pytorch-seq2seq/issues/119",
        ),
        Mistake(
            "inverted, zeros",
            attend_with(lambda mask: ~mask[:, None, :]),
            "the right dimension, but the wrong way round: the words look at the padding only, and a text without "
            "padding reads nothing. True means 'may be attended to'.",
            "https://github.com/facebookresearch/detr/issues/96; a fresh reader of this lesson",
        ),
        Mistake(
            "weights times mask",
            times_mask,
            "padding reads nothing, but it got a part of each row before it was hidden, so what is left does not sum "
            "to 1. Hide the scores, with -inf, before the softmax.",
            "https://github.com/huggingface/pytorch-image-models/pull/2236",
        ),
        Mistake(
            "scores times mask",
            scores_times_mask,
            "a padded token's score is 0, and exp(0) = 1: it still gets attention. Its score must be -inf.",
            "https://github.com/awslabs/gluonts/pull/1401",
        ),
        Mistake(
            "no scaling",
            lambda q, k, v, mask: attend_with(lambda m: m[:, None, :])(q * math.sqrt(q.shape[-1]), k, v, mask),
            "the mask is right, but the scores are no longer divided by √D.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "inverted",
            attend_with(lambda mask: ~mask[:, None, :], zeros=False),
            "the mask is the wrong way round: the words look at the padding only, and a text without padding gets "
            "NaN. True means 'may be attended to'.",
            "https://github.com/facebookresearch/detr/issues/96",
        ),
        Mistake(
            "no mask",
            lambda q, k, v, mask: (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v,
            "the padding gets attention like any other word: nothing hides it. Fill its scores with -inf where "
            "mask[:, None, :] is False.",
            "keys cut to the longest text, which is the whole batch; a reader of this lesson",
        ),
        Mistake(
            "keys and values set to 0",
            keys_set_to_zero,
            "you set the padded keys to 0, and so their scores, but exp(0) = 1: they still take a part of each row. "
            "Their scores must be -inf.",
            "a reader of this lesson",
        ),
        Mistake(
            "the shortest text's keys",
            attend_with(lambda mask: mask.all(0)),
            "you let all texts attend only to the places that are real in every text, so the longer ones lose words. "
            "Each text has its own mask: mask[:, None, :].",
            "a reader of this lesson",
        ),
        Mistake(
            "the mask turned round",
            attend_with(lambda mask: mask.mT, zeros=False),
            "you exchange the two dimensions of the mask, so that texts stand where the keys belong. The mask (B, T) "
            "lacks a dimension for the queries: mask[:, None, :].",
            "a reader of this lesson",
        ),
        Mistake(
            "0 times -inf",
            lambda q, k, v, mask: (q @ k.mT + (~mask[:, None, :]).float() * -math.inf).softmax(-1) @ v,
            "everything is NaN, because you multiply a mask by -inf, and 0 · -inf is NaN where nothing is hidden. Put "
            "-inf in with masked_fill.",
            "an additive mask made by a product; a reader of this lesson",
        ),
        Mistake(
            "softmax over the queries",
            lambda q, k, v, mask: (
                (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask[:, None, :], -math.inf).softmax(1) @ v
            ),
            "softmax(1) runs over the queries of a text. Each query divides its attention among the keys, the last "
            "dimension: softmax(-1).",
            "https://github.com/nerminnuraydogan/vision-transformer/issues/1",
        ),
        Mistake(
            ".T of a batch",
            lambda q, k, v, mask: q @ k.permute(2, 1, 0) / math.sqrt(q.shape[-1]),
            "k.T turns round all three dimensions, the batch too. Exchange the last two: k.transpose(-2, -1).",
            "torch: .T of a tensor that is not two-dimensional is deprecated, because it was so often meant as .mT",
        ),
    ),
    hints=(
        "Print the shapes of `scores` and `mask`. Which dimension of the scores is the key's?",
        "scores is (B, T, T): text, query, key. The mask (B, T) knows text and key. What is missing is in the middle.",
        "`mask[:, None, :]` has the shape (B, 1, T) and is broadcast over the queries.",
    ),
    praise="No word looks at padding any more, whatever stands in the other texts of the batch.",
    other_ways=(
        padded_in_place,
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m.unsqueeze(1)),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m[:, None, :].expand(-1, q.shape[1], -1)),
    ),
)

# --- 02.4 the causal mask ---------------------------------------------------------------------------------------------

causal_mask = Exercise(
    id="02.4",
    right=lambda T: torch.ones(T, T, dtype=torch.bool).tril(),
    inputs=lambda generator: (int(torch.randint(3, 8, (), generator=generator)),),
    mistakes=(
        Mistake(
            "the future",
            lambda T: torch.ones(T, T, dtype=torch.bool).triu(),
            "each token sees itself and what comes after it. Row i is the query: it may see the keys 0 to i, the lower "
            "triangle.",
            "torch.triu is what nn.Transformer's documentation uses, with the other meaning of True",
        ),
        Mistake(
            "triu without the diagonal",
            lambda T: torch.ones(T, T, dtype=torch.bool).triu(1),
            "this is torch's mask, in which True means *hidden*. Here True means 'may be attended to': turn it round "
            "with ~.",
            "https://github.com/pytorch/pytorch/pull/39321 (the meaning of True)",
        ),
        Mistake(
            "not itself",
            lambda T: torch.ones(T, T, dtype=torch.bool).tril(-1),
            "a token may not see itself, and the first one sees nothing at all: its row is empty. Keep the diagonal.",
            "https://github.com/pytorch/pytorch/issues/103749 (rows left empty)",
        ),
        Mistake(
            "one too many",
            lambda T: torch.ones(T, T, dtype=torch.bool).tril(1),
            "each token also sees the next one, and a model that is to predict the next word has been told it.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "everything",
            lambda T: torch.ones(T, T, dtype=torch.bool),
            "everybody sees everybody: that is BERT's attention, which needs no mask.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "numbers to add",
            lambda T: torch.full((T, T), -math.inf).triu(1),
            "this is an additive mask of 0 and -inf. It works in code that adds it; here a mask is boolean, so that "
            "nobody has to guess which of the two it is.",
            "nn.Transformer.generate_square_subsequent_mask returns this form",
        ),
        Mistake(
            "ones and zeros",
            lambda T: torch.ones(T, T).tril(),
            "right as a picture, but the dtype is float: `~mask` fails, and a float mask is *added* to the scores by "
            "torch's own function. Make it boolean: dtype=torch.bool.",
            "a float mask runs without an error in torch 2.13: it is added to the scores",
        ),
        Mistake(
            "itself alone",
            lambda T: torch.eye(T, dtype=torch.bool),
            "each token sees itself and nothing else. Row i may also see what came before it: the keys 0 to i.",
            "a reader of this lesson",
        ),
    ),
    hints=("Which keys may query i see? 0 to i.", "torch.tril keeps a matrix's lower triangle, with the diagonal."),
    praise="This one line is the difference between BERT's attention and GPT's.",
    other_ways=(
        lambda T: torch.arange(T)[:, None] >= torch.arange(T),
        lambda T: ~torch.ones(T, T, dtype=bool).triu(1),
        lambda T: torch.tensor([[j <= i for j in range(T)] for i in range(T)]),
    ),
)


# --- 02.5 the build: scaled_dot_product_attention ---------------------------------------------------------------------


def drawn(generator, *shapes, dtype=torch.float32):
    """Return a random tensor of each shape; their features have the variance 1."""
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


def one_query(answer, generator):
    """One query that looks for two of eight features, three keys, values of two numbers: followed by hand."""
    q, k = torch.zeros(1, 8), torch.zeros(3, 8)
    q[0, [0, 3]] = 2.0
    k[[0, 1, 1, 2], [0, 0, 3, 5]] = 1.0  # one of the two features, both, none
    return answer(q, k, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]))


def a_sequence(answer, generator):
    return untouched(answer, *drawn(generator, (5, 8), (5, 8), (5, 8)))


def batches_and_heads(answer, generator):
    shapes = (3, 5, 8), (2, 3, 5, 8), (2, 1, 3, 5, 8)
    return tuple(answer(*drawn(generator, shape, shape, shape)) for shape in shapes)


def other_keys(answer, generator):
    """Queries of one text and keys of another, longer one; values of another width than the keys."""
    return answer(*drawn(generator, (2, 3, 8), (2, 6, 8), (2, 6, 4)))


def padding(B, S):
    """Return a padding mask (B, S): the first text is whole, each further one is shorter by one token."""
    return torch.arange(S) < S - torch.arange(B)[:, None]


def masks(answer, generator):
    q, k, v = drawn(generator, *3 * [(2, 3, 5, 8)])
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    per_head = (torch.rand(2, 3, 5, 5, generator=generator) < 0.6) | torch.eye(5, dtype=torch.bool)
    given = padding(2, 5)[:, None, None, :], causal[None, None], per_head
    found = [untouched(answer, q, k, v, mask) for mask in given]
    return *found, *refused(answer, generator)


def refused(answer, generator):
    """Which error masks give that do not fit: a dimension short with B = T and with B = 1, and one of numbers."""
    square, single, texts = drawn(generator, (4, 4, 8), (1, 4, 8), (2, 4, 8))
    given = {
        "a mask (B, T) with B = T": (square, padding(4, 4)),
        "a mask (B, T) with B = 1": (single, padding(1, 4)),
        "a mask of 1.0 and 0.0": (texts, padding(2, 4)[:, None].float()),
    }
    return tuple(f"{name}: {error_of(answer, x, mask)}" for name, (x, mask) in given.items())


def error_of(answer, x, mask):
    try:
        answer(x, x, x, mask)
    except Exception as error:  # noqa: BLE001 - whichever it is, its name is compared
        return type(error).__name__
    return "no error"


def empty_row(answer, generator):
    """Rows that may attend to nothing, and scores far below and far above those of the other keys."""
    q, k, v = drawn(generator, *3 * [(2, 5, 8)])
    mask = padding(2, 5)[:, None, :].repeat(1, 5, 1)
    mask[1, 2] = False  # query 2 of text 1 may attend to nothing
    nothing = torch.zeros(2, 1, 5, dtype=torch.bool)  # and here no query may attend to anything
    low = -1e5 * torch.eye(1, 8), 1e6 * torch.eye(1, 8).expand(5, -1)  # every score is below -1e10, one is not hidden
    one = torch.arange(5)[None] == 1
    last = torch.zeros(5, 8)
    last[4, 0] = 1.0  # its score is far above the others', and it is hidden
    high, highest = ((size * torch.eye(1, 8), last, v[0], torch.arange(5)[None] < 3) for size in (1e3, 1e11))
    given = (q, k, v, mask), (q, k, v, nothing), (*low, v[0], one), high, highest
    return tuple(untouched(answer, *arguments) for arguments in given)


def dropped(answer, generator):
    """Dropout: the values are the identity twice, so the output shows the weights that were mixed, two times."""
    q, k = drawn(generator, (8, 32, 8), (8, 32, 8))
    v = torch.eye(32).repeat(1, 2)  # (S, 2 S)
    output, weights = answer(q, k, v.expand(8, -1, -1), None, 0.25)
    zero = output[..., :32] == 0
    proportion = zero.double().mean().item()  # of 8 · 32 · 32 weights: the tolerance is six standard errors
    rest = (output[..., :32] - weights / 0.75)[~zero]
    said = "about a quarter" if abs(proportion - 0.25) < 0.03 else f"{proportion:.1f}"
    even = torch.allclose(output[..., :32].sum(-1), torch.ones(8, 32), atol=1e-3)
    again = answer(q, k, v.expand(8, -1, -1), None, 0.25)[0]
    return (
        weights,
        f"of the mixed weights {said} are 0",
        f"the others are divided by 1 - dropout: {bool(rest.numel() and rest.abs().max() < 1e-4)}",
        f"the mixed weights of a row sum to 1: {even}",
        f"each value is mixed with the same weights: {torch.equal(output[..., :32], output[..., 32:])}",
        f"two calls drop the same weights: {torch.equal(output, again)}",
        answer(q, k, v.expand(8, -1, -1), None, 0.0),
    )


def gradients(answer, generator):
    q, k, v = (t.requires_grad_() for t in drawn(generator, *3 * [(2, 5, 8)]))
    mask = padding(2, 5)[:, None, :].repeat(1, 5, 1)
    mask[1, 2] = False
    output, weights = answer(q, k, v, mask)
    (output.square().sum() + weights.square().sum()).backward()
    found = tuple(torch.zeros_like(t) if t.grad is None else t.grad for t in (q, k, v))
    inputs = [t.requires_grad_() for t in drawn(generator, *3 * [(2, 5, 8)])]
    answer(*inputs, None, 0.25)[0].square().sum().backward()
    reached = [t.grad is not None and bool(t.grad.any()) for t in inputs]
    return *found, f"with dropout, gradients reach q, k and v: {reached}"


def other_sizes(answer, generator):
    q, k, v = drawn(generator, (3, 4, 6), (3, 7, 6), (3, 7, 6), dtype=torch.float64)
    found = answer(q, k, v), answer(q, k, v, padding(3, 7)[:, None, :])
    exact = (q @ k.mT / math.sqrt(6)).softmax(-1) @ v
    close = torch.allclose(found[0][0].double(), exact, rtol=1e-10, atol=1e-10)
    return *found, f"right to ten digits in float64: {close}"


def wrong(scores=lambda q, k: q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), hide=None, soft=None, mix=None):
    """Return an attention that a learner may write: one of its steps is the mistake."""

    def attend(q, k, v, mask=None, dropout=0.0):
        s = scores(q, k)
        mask = check_mask(mask, s.shape)
        weights = (soft or right_softmax)(s) if mask is None else (hide or right_hide)(s, mask, soft or right_softmax)
        return (mix or right_mix)(weights, q, k, v, dropout)

    return attend


def right_softmax(scores):
    return scores.softmax(-1)


def right_hide(scores, mask, soft):
    return soft(scores.masked_fill(~mask, -math.inf)).masked_fill(~mask, 0.0)


def right_mix(weights, q, k, v, dropout):
    return F.dropout(weights, dropout) @ v, weights


def returns_dropped(weights, q, k, v, dropout):
    weights = F.dropout(weights, dropout)
    return weights @ v, weights


def not_rescaled(weights, q, k, v, dropout):
    return (weights * (torch.rand_like(weights) >= dropout)) @ v, weights


def renormalised(weights, q, k, v, dropout):
    mixed = F.dropout(weights, dropout)
    return (mixed / mixed.sum(-1, keepdim=True).clamp_min(1e-9)) @ v, weights


def never_checked(q, k, v, mask=None, dropout=0.0):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    weights = scores.softmax(-1) if mask is None else right_hide(scores, mask, right_softmax)
    return right_mix(weights, q, k, v, dropout)


def dropped_scores(q, k, v, mask=None, dropout=0.0):
    scores = F.dropout(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dropout)
    mask = check_mask(mask, scores.shape)
    weights = scores.softmax(-1) if mask is None else right_hide(scores, mask, right_softmax)
    return weights @ v, weights


def without_check(q, k, v, mask=None, dropout=0.0):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is None:
        return right_mix(scores.softmax(-1), q, k, v, dropout)
    return right_mix(right_hide(scores, mask.bool(), right_softmax), q, k, v, dropout)


def no_mask(q, k, v, mask=None, dropout=0.0):
    return scaled_dot_product_attention(q, k, v, None, dropout)


def output_alone(q, k, v, mask=None, dropout=0.0):
    return scaled_dot_product_attention(q, k, v, mask, dropout)[0]


def with_torchs(q, k, v, mask=None, dropout=0.0):
    """Another way: torch's own function for the output, a softmax for the weights."""
    scores = torch.einsum("...td,...sd->...ts", q, k) * q.shape[-1] ** -0.5
    mask = check_mask(mask, scores.shape)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    weights = torch.softmax(scores, -1) if mask is None else torch.where(mask, torch.softmax(scores, -1), 0.0)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout), weights


def with_exponentials(q, k, v, mask=None, dropout=0.0):
    """Another way: no softmax, and sums that may be 0."""
    scores = (q / math.sqrt(q.size(-1))) @ k.mT
    allowed = torch.ones_like(scores, dtype=torch.bool) if check_mask(mask, scores.shape) is None else mask
    largest = scores.detach().masked_fill(~allowed, -1e30).amax(-1, keepdim=True)
    e = (scores - largest).masked_fill(~allowed, -torch.inf).exp()
    weights = e / e.sum(-1, keepdim=True).clamp_min(1e-30)
    kept = torch.bernoulli(torch.full_like(weights, 1 - dropout)) / (1 - dropout)
    return torch.einsum("...ts,...sd->...td", weights * kept, v), weights


def hidden_then_renormalised(at_least):
    def hide(s, m, soft):
        weights = soft(s) * m
        return weights / weights.sum(-1, keepdim=True).clamp_min(at_least)

    return hide


def filled_in_place(s, m, soft):
    return soft(s.masked_fill(~m, -math.inf)).masked_fill_(~m, 0.0)


def output_filled(q, k, v, mask=None, dropout=0.0):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    mask = check_mask(mask, scores.shape)
    if mask is None:
        return right_mix(scores.softmax(-1), q, k, v, dropout)
    output, weights = right_mix(scores.masked_fill(~mask, -math.inf).softmax(-1), q, k, v, dropout)
    empty = ~mask.any(-1, keepdim=True)
    return output.masked_fill(empty, 0.0), weights.masked_fill(empty, 0.0)


def truth_of_the_mask(q, k, v, mask=None, dropout=0.0):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    mask = check_mask(mask, scores.shape)
    weights = right_hide(scores, mask, right_softmax) if mask else scores.softmax(-1)
    return right_mix(weights, q, k, v, dropout)


def checked_as(shape=lambda q, scores: scores.shape, of=lambda mask: mask):
    """Return an attention that gives check_mask another shape, or another mask."""

    def attend(q, k, v, mask=None, dropout=0.0):
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = None if mask is None else check_mask(of(mask), shape(q, scores))
        weights = scores.softmax(-1) if mask is None else right_hide(scores, mask, right_softmax)
        return right_mix(weights, q, k, v, dropout)

    return attend


def four_dimensions(q, k, v, mask=None, dropout=0.0):
    _B, _H, _T, _D = q.shape
    return scaled_dot_product_attention(q, k, v, mask, dropout)


def always_the_same(weights, q, k, v, dropout):
    torch.manual_seed(0)
    return F.dropout(weights, dropout) @ v, weights


attention = Build(
    id="02.5",
    course=scaled_dot_product_attention,
    stages=(
        Stage("one query by hand", one_query),
        Stage("a sequence", a_sequence),
        Stage("batches and heads", batches_and_heads),
        Stage("other keys", other_keys),
        Stage("masks", masks),
        Stage("empty rows, extreme scores", empty_row),
        Stage("dropout", dropped),
        Stage("gradients", gradients),
        Stage("other sizes", other_sizes),
    ),
    mistakes=(
        Mistake(
            "no √D",
            wrong(scores=lambda q, k: q @ k.transpose(-2, -1)),
            "the scores are not divided by √D, the root of q.shape[-1] (section 4).",
            "https://github.com/PAIR-code/tiny-transformers/issues/71, https://github.com/mlc-ai/mlc-llm/pull/3426",
        ),
        Mistake(
            "D in place of √D",
            wrong(scores=lambda q, k: q @ k.transpose(-2, -1) / q.shape[-1]),
            "the scores are divided by D, not by √D. The variance of q·k is D, so its spread is √D.",
            "Vaswani et al. 2017, footnote 4, gives the variance; readers take it for the spread",
        ),
        Mistake(
            "√S",
            wrong(scores=lambda q, k: q @ k.transpose(-2, -1) / math.sqrt(k.shape[-2])),
            "the scores are divided by the root of the number of keys. What makes q·k grow is the number of features "
            "that it sums over, D = q.shape[-1].",
            "https://github.com/Graylab/DL4Proteins-notebooks/issues/12 (another size in place of D)",
        ),
        Mistake(
            "softmax over queries",
            wrong(soft=lambda s: s.softmax(-2)),
            "the softmax runs over the queries, so columns sum to 1 and rows do not. Each query divides one unit of "
            "attention among the keys: softmax(-1).",
            "https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
        ),
        Mistake(
            "no softmax",
            wrong(soft=lambda s: s),
            "the softmax is missing: these are scores, not proportions that sum to 1.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "scaled after the softmax",
            wrong(scores=lambda q, k: q @ k.transpose(-2, -1), soft=lambda s: s.softmax(-1) / math.sqrt(8)),
            "you divide after the softmax, so rows sum to 1/√D and the softmax saw undivided scores. Divide the "
            "scores.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "keys mixed",
            wrong(mix=lambda w, q, k, v, p: (F.dropout(w, p) @ k, w)),
            "you mix the keys. Keys are for being found, values for being read: weights @ v.",
            "https://github.com/cneuralnetwork/solving-ml-papers/issues/1 (k and v confused)",
        ),
        Mistake(
            "results exchanged",
            wrong(mix=lambda w, q, k, v, p: (w, F.dropout(w, p) @ v)),
            "you return the weights first. The order is output, weights.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the output alone",
            output_alone,
            "you return the output alone. The text asks for two results: `return output, weights`.",
            "F.scaled_dot_product_attention returns the output alone",
        ),
        Mistake(
            "one softmax for the whole matrix",
            wrong(soft=lambda s: s.flatten(-2).softmax(-1).view_as(s)),
            "the whole matrix of weights sums to 1, not each row: one query by itself does not show it. softmax(-1).",
            "https://github.com/gjylt/DoubleAttentionNet/issues/3 (softmax over several dimensions at once)",
        ),
        Mistake(
            ".T of a batch",
            wrong(scores=lambda q, k: q @ k.permute(*range(k.ndim - 1, -1, -1)) / math.sqrt(q.shape[-1])),
            "k.T turns round *all* dimensions of a batch, the batch too. Exchange the last two: k.transpose(-2, -1).",
            "torch: .T of a tensor that is not two-dimensional is deprecated, because it was so often meant as .mT",
        ),
        Mistake(
            "softmax over dimension 1",
            wrong(soft=lambda s: s.softmax(1)),
            "softmax(1) is over the keys only as long as there is no batch. Count from the end: softmax(-1).",
            "https://github.com/nerminnuraydogan/vision-transformer/issues/1 (a softmax over the wrong dimension)",
        ),
        Mistake(
            "the values' width",
            lambda q, k, v, mask=None, dropout=0.0: scaled_dot_product_attention(
                q * math.sqrt(q.shape[-1] / v.shape[-1]), k, v, mask, dropout
            ),
            "the scores are divided by the root of the *values'* width. What was summed over are the features of "
            "queries and keys: q.shape[-1].",
            "https://github.com/juho-lee/set_transformer/issues/18",
        ),
        Mistake(
            "no mask",
            no_mask,
            "the mask has no effect: where it is False, the score must become -inf before the softmax.",
            "https://github.com/pytorch/pytorch/issues/32590 and the like: a mask that is accepted and not used",
        ),
        Mistake(
            "the mask checked and forgotten",
            wrong(hide=lambda s, m, soft: soft(s)),
            "you check the mask, but the scores do not use it: where it is False, the score must become -inf before "
            "the softmax.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "queries and keys of the mask exchanged",
            wrong(hide=lambda s, m, soft: right_hide(s, m.mT, soft)),
            "the last two dimensions of your mask are exchanged. Rows are queries and columns are keys, in the mask as "
            "in the scores: use it as it is given.",
            "https://github.com/hyunwoongko/transformer/pull/40",
        ),
        Mistake(
            "the mask means the opposite",
            wrong(hide=lambda s, m, soft: right_hide(s, ~m, soft)),
            "you hide what may be attended to. Here True means 'may be attended to', so fill where the mask is False: "
            "masked_fill(~mask, …). (In torch's key_padding_mask True means hidden.)",
            "https://github.com/facebookresearch/detr/issues/96",
        ),
        Mistake(
            "hidden after the softmax",
            wrong(hide=lambda s, m, soft: soft(s) * m),
            "the hidden weights are 0, but rows no longer sum to 1: what the hidden keys got is lost. Hide the scores "
            "before the softmax.",
            "https://github.com/huggingface/pytorch-image-models/pull/2236",
        ),
        Mistake(
            "scores set to 0",
            wrong(hide=lambda s, m, soft: soft(s * m)),
            "a hidden score is 0, and exp(0) = 1: hidden keys still get attention. The score must be -inf.",
            "https://github.com/awslabs/gluonts/pull/1401, https://github.com/georg-wolflein/good-features/pull/1",
        ),
        Mistake(
            "unchecked",
            without_check,
            "right for every mask that fits, but a mask (B, T) with B = T is taken without a word (exercise 02.3). "
            "Call `mask = check_mask(mask, scores.shape)` before you use it: it raises an error that says what to do.",
            "https://github.com/lucidrains/vit-pytorch/issues/71 (a mask of a dimension too few)",
        ),
        Mistake(
            "never checked",
            never_checked,
            "call `mask = check_mask(mask, scores.shape)` first. Without it a mask (B, T) is taken without a word, and "
            "with B = T it is wrong (exercise 02.3).",
            "https://github.com/lucidrains/vit-pytorch/issues/71 (a mask of a dimension too few)",
        ),
        Mistake(
            "NaN in an empty row",
            wrong(hide=lambda s, m, soft: soft(s.masked_fill(~m, -math.inf))),
            "a row that may attend to nothing is NaN, because its softmax divides 0 by 0, and one NaN makes the whole "
            "batch's loss NaN. Set the hidden weights to 0 after the softmax with masked_fill (NaN times 0 is NaN).",
            "https://github.com/pytorch/pytorch/issues/103749",
        ),
        Mistake(
            "a large negative number",
            wrong(hide=lambda s, m, soft: soft(s.masked_fill(~m, -1e9))),
            "a row that may attend to nothing attends to every hidden key equally, because its scores are all -1e9. "
            "Use -inf, and set the hidden weights to 0 after the softmax.",
            "-10000.0 in google-research/bert's modeling.py; https://github.com/huggingface/transformers/issues/12109",
        ),
        Mistake(
            "a finite number, then zeros",
            wrong(hide=lambda s, m, soft: soft(s.masked_fill(~m, -1e4)).masked_fill(~m, 0.0)),
            "where the real scores are lower than the number that you fill in, hidden keys get the weight, and the row "
            "loses it when they become 0. Fill in -inf, which no score is below.",
            "-10000.0 in google-research/bert's modeling.py",
        ),
        Mistake(
            "never dropped",
            wrong(mix=lambda w, q, k, v, p: (w @ v, w)),
            "`dropout` has no effect: F.dropout(weights, dropout) before the values are mixed.",
            "the argument accepted and forgotten",
        ),
        Mistake(
            "the dropped weights returned",
            wrong(mix=returns_dropped),
            "you return the weights after dropout. Mix with the dropped ones and return those before it, so that what "
            "is looked at is what the model computed.",
            "https://github.com/huggingface/transformers/issues/1146, https://github.com/pytorch/pytorch/issues/42929",
        ),
        Mistake(
            "the output dropped",
            wrong(mix=lambda w, q, k, v, p: (F.dropout(w @ v, p), w)),
            "you drop features of the output. Drop weights: F.dropout(weights, dropout) @ v.",
            "BERT has both dropouts, on the weights and on a layer's output; they are easily confused",
        ),
        Mistake(
            "not rescaled",
            wrong(mix=not_rescaled),
            "weights are dropped, but the others stay as they were, so the output shrinks. F.dropout divides those "
            "that remain by 1 - dropout.",
            "dropout as in Srivastava et al. 2014, which rescales at test time instead",
        ),
        Mistake(
            "rows renormalised",
            wrong(mix=renormalised),
            "you divide the rows by their sums after dropout. F.dropout has divided by 1 - dropout already; leave the "
            "rows as they are, they sum to 1 on average.",
            "a reader of this lesson",
        ),
        Mistake(
            "the scores dropped",
            dropped_scores,
            "you drop scores, and a dropped score is 0, not hidden: exp(0) = 1. Drop weights, after the softmax.",
            "a reader of this lesson",
        ),
        Mistake(
            "the probability to keep",
            wrong(mix=lambda w, q, k, v, p: (F.dropout(w, 1 - p if p else 0.0) @ v, w)),
            "`dropout` is the probability that a weight is set to 0; you take it for the probability that it stays.",
            "TensorFlow 1's tf.nn.dropout took keep_prob, and google-research/bert calls it with 1.0 - dropout_prob",
        ),
        Mistake(
            "the weights detached",
            wrong(mix=lambda w, q, k, v, p: (F.dropout(w, p) @ v, w.detach())),
            "the weights that you return are detached: no gradient flows through them. Return them as they are.",
            "a reader of this lesson",
        ),
        Mistake(
            "detached under dropout",
            wrong(mix=lambda w, q, k, v, p: (F.dropout(w.detach(), p) @ v if p else w @ v, w)),
            "with dropout no gradient reaches queries and keys, so a model in training could not learn where to look. "
            "Give F.dropout the weights themselves.",
            "a reader of this lesson",
        ),
        Mistake(
            "-inf added",
            wrong(
                hide=lambda s, m, soft: soft(
                    s + torch.zeros(m.shape, dtype=s.dtype).masked_fill(~m, -math.inf)
                ).nan_to_num(0.0)
            ),
            "the result is right, but the gradients are NaN: where -inf is added, the NaN of an empty row goes back to "
            "q and k, and what is set to 0 after the softmax does not stop it. Put -inf in with masked_fill, which "
            "passes no gradient back where it filled.",
            "an additive mask of -inf with nan_to_num behind the softmax; torch 2.13",
        ),
        Mistake(
            "times √D",
            wrong(scores=lambda q, k: q @ k.transpose(-2, -1) * math.sqrt(q.shape[-1])),
            "you multiply the scores by √D. Divide by it, so that they spread by 1 whatever D is.",
            "a reader of this lesson",
        ),
        Mistake(
            "D from dimension 1",
            wrong(scores=lambda q, k: q @ k.transpose(-2, -1) / math.sqrt(q.shape[1])),
            "q.shape[1] is D only as long as there is no batch. Count from the end: q.shape[-1].",
            "a reader of this lesson",
        ),
        Mistake(
            "transpose(1, 2)",
            wrong(scores=lambda q, k: q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])),
            "transpose(1, 2) fits a batch (B, T, D) and nothing else; here a sequence has no batch. Count from the "
            "end: k.transpose(-2, -1).",
            "a reader of this lesson",
        ),
        Mistake(
            "transpose(0, 1)",
            wrong(scores=lambda q, k: q @ k.transpose(0, 1) / math.sqrt(q.shape[-1])),
            "transpose(0, 1) exchanges the last two dimensions only as long as there is no batch. Count from the end: "
            "k.transpose(-2, -1).",
            "a reader of this lesson",
        ),
        Mistake(
            "rows and columns exchanged",
            wrong(scores=lambda q, k: k @ q.transpose(-2, -1) / math.sqrt(q.shape[-1])),
            "your weights are (S, T), with a row for each key. A row belongs to a query, (T, S): the scores are "
            "q @ k.transpose(-2, -1), and the weights are mixed as they are, weights @ v.",
            "a reader of this lesson",
        ),
        Mistake(
            "four dimensions expected",
            four_dimensions,
            "you unpack q.shape into four names, but there may be any number of leading dimensions, none included. "
            "Ask for what you need from the end: q.shape[-1].",
            "a reader of this lesson",
        ),
        Mistake(
            "if mask",
            truth_of_the_mask,
            "`if mask:` asks whether a whole tensor is true, which torch cannot say. Ask `if mask is not None:`.",
            "a reader of this lesson",
        ),
        Mistake(
            "checked against the queries",
            checked_as(shape=lambda q, scores: q.shape),
            "check_mask gets the shape of q, (…, T, D). A mask has the shape of the scores, (…, T, S): "
            "check_mask(mask, scores.shape).",
            "a reader of this lesson",
        ),
        Mistake(
            "a dimension added to the mask",
            checked_as(of=lambda mask: mask.unsqueeze(1)),
            "you add a dimension to the mask. It has as many as the scores already, because its caller has added what "
            "was missing: use it as it is given.",
            "a reader of this lesson",
        ),
        Mistake(
            "0 times -inf",
            wrong(hide=lambda s, m, soft: soft(s + (~m) * -math.inf)),
            "you multiply the mask by -inf, and 0 · -inf is NaN, so every score that is *not* hidden becomes NaN. Put "
            "-inf in with masked_fill.",
            "an additive mask made by a product; a reader of this lesson",
        ),
        Mistake(
            "0 times -inf, NaN replaced",
            wrong(hide=lambda s, m, soft: soft(s + (~m) * -math.inf).nan_to_num(0.0)),
            "all weights are 0: you multiply the mask by -inf, 0 · -inf is NaN where nothing is hidden, and nan_to_num "
            "makes zeros of it. Put -inf in with masked_fill.",
            "an additive mask made by a product; a reader of this lesson",
        ),
        Mistake(
            "a finite number, empty rows set to 0",
            wrong(
                hide=lambda s, m, soft: soft(s.masked_fill(~m, -1e4)).masked_fill(~m.any(-1, keepdim=True), 0.0),
            ),
            "where the real scores are lower than the number that you fill in, the hidden keys get the weight and keep "
            "it. Fill in -inf, which no score is below.",
            "-10000.0 in google-research/bert's modeling.py; a reader of this lesson",
        ),
        Mistake(
            "a finite number added, then zeros",
            wrong(hide=lambda s, m, soft: soft(s + (~m) * -1e9).masked_fill(~m, 0.0)),
            "you add a finite number to the hidden scores. A hidden key whose score is larger than that still takes "
            "the weight, and the row loses it when it becomes 0. Hide with -inf, by masked_fill.",
            "-10000.0 in google-research/bert's modeling.py; a reader of this lesson, whose answer passed",
        ),
        Mistake(
            "hidden after the softmax, rows divided again",
            wrong(hide=hidden_then_renormalised(1e-9)),
            "you hide after the softmax and divide each row by what is left. Where a hidden key has by far the largest "
            "score, what is left is 0, and no division brings it back. Hide the scores, before the softmax.",
            "a reader of this lesson, whose answer passed",
        ),
        Mistake(
            "hidden after the softmax, 0 / 0",
            wrong(hide=hidden_then_renormalised(0.0)),
            "you hide after the softmax and divide each row by what is left. That is 0 in an empty row, or where a "
            "hidden key has by far the largest score, and 0 / 0 is NaN. Hide the scores, before the softmax.",
            "a reader of this lesson",
        ),
        Mistake(
            "the values dropped",
            wrong(mix=lambda w, q, k, v, p: (w @ F.dropout(v, p), w)),
            "you drop numbers of the values. Drop weights: F.dropout(weights, dropout) @ v.",
            "a reader of this lesson",
        ),
        Mistake(
            "dropped twice",
            wrong(mix=lambda w, q, k, v, p: (F.dropout(F.dropout(w, p) @ v, p), w)),
            "you drop the weights and the output too. The text asks for the weights alone: F.dropout(weights, dropout) "
            "@ v.",
            "BERT has both dropouts, on the weights and on a layer's output; a reader of this lesson",
        ),
        Mistake(
            "F.dropout's own probability",
            wrong(mix=lambda w, q, k, v, p: (F.dropout(w) @ v if p else w @ v, w)),
            "F.dropout(weights) without a second argument drops half of them. Give it yours: F.dropout(weights, "
            "dropout).",
            "a reader of this lesson",
        ),
        Mistake(
            "a seed within the function",
            wrong(mix=always_the_same),
            "every call drops the same weights, because your function sets the seed of torch's random numbers, and "
            "that of everything else with it. Leave the seed to the caller.",
            "a reader of this lesson, whose answer passed",
        ),
        Mistake(
            "filled in place",
            wrong(hide=filled_in_place),
            "you change the softmax's result in place (masked_fill_, or weights[...] = 0), and the gradient still "
            "needs it as it was. Make a new tensor: weights.masked_fill(~mask, 0.0).",
            "a reader of this lesson; the error of torch's autograd",
        ),
        Mistake(
            "the output filled",
            output_filled,
            "you set the empty rows of the output to 0 and mix the values with NaN weights before it: in the gradient "
            "of v, 0 meets NaN. Set the weights to 0 before they are mixed.",
            "a reader of this lesson",
        ),
        Mistake(
            "softmax in float32",
            wrong(soft=lambda s: s.float().softmax(-1).to(s.dtype)),
            "you compute in float32 on the way, and what comes out is float64 with the digits of float32. Compute in "
            "the dtype of the queries.",
            "mixed precision code does this on purpose, for half precision; a reader of this lesson",
        ),
    ),
    hints=(
        "Without mask and dropout it is three lines: scores (..., T, S), weights, output. `k.transpose(-2, -1)` "
        "exchanges the last two dimensions and leaves the others alone.",
        "`scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])`, then `mask = check_mask(mask, scores.shape)`, "
        "which returns None for None.",
        "If there is a mask: `scores.masked_fill(~mask, -math.inf).softmax(dim=-1)`.",
        "For the row without any True: fill the weights with 0.0 where the mask is False, after the softmax.",
        "`return F.dropout(weights, dropout) @ v, weights`: mixed after dropout, returned before it.",
    ),
    praise="Line for line, it is what the package runs.",
    other_ways=(with_torchs, with_exponentials, wrong()),
)
