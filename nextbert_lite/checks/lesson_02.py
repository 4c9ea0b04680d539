"""The checks of lesson 02, Attention."""

import math

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution
from nextbert_lite.core.attention import scaled_dot_product_attention

__all__ = [
    "attention",
    "causal_mask",
    "hint",
    "masked_weights",
    "padded_attention",
    "softmax_rows",
    "solution",
    "spread",
]


# --- 02.1 softmax of each row -----------------------------------------------------------------------------------------


def scores_with_a_large_row(generator):
    scores = 3 * torch.randn(5, 6, generator=generator)
    scores[2] += 200.0
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
            "you subtract one number from all rows, so rows far below it become exp(-200) = 0 everywhere and 0 / 0 is "
            "NaN. Take each row's own: scores.amax(-1, keepdim=True).",
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
            "softmax over columns",
            lambda scores: scores.softmax(0),
            "each column sums to 1, not each row: you normalise over the queries (dim 0). It must be over the keys, "
            "the last dimension.",
            "https://github.com/nerminnuraydogan/vision-transformer/issues/1",
        ),
        Mistake(
            "keepdim forgotten",
            lambda scores: (e := (scores - scores.amax(-1, keepdim=True)).exp()) / e.sum(-1),
            "the sums have the shape (T,), and torch tries to line them up with the columns. Keep the dimension, so "
            "that each row meets its own sum: e.sum(-1, keepdim=True).",
            "a fresh reader of this lesson, at the first try",
        ),
        Mistake(
            "never divided",
            never_divided,
            "the rows do not sum to 1: after the exponential, divide each row by its sum.",
            "variant of https://github.com/tracel-ai/burn/pull/4697 (the normalisation is the part that goes wrong)",
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
    ),
    hints=("The variance of a sum of D independent terms is D times that of one.", "64 / 16 = 4. And its square root?"),
    praise="The spread of q·k grows like √D: from 4 to 8 here.",
    tolerance=0.05,
)

# --- 02.3 attention for all queries -----------------------------------------------------------------------------------


def queries_keys_values(generator):
    return tuple(torch.randn(5, 8, generator=generator) for _ in range(3))


def with_weights(weigh):
    """Return an attention that mixes the values with the weights that `weigh(q, k)` gives."""

    def attend(q, k, v):
        weights = weigh(q, k)
        return weights @ v, weights

    return attend


def keys_mixed(q, k, v):
    weights = (q @ k.T / math.sqrt(8)).softmax(-1)
    return weights @ k, weights


def attention_in_place(q, k, v):
    scores = torch.einsum("td,sd->ts", q, k)
    scores *= q.shape[-1] ** -0.5
    scores -= scores.max()
    scores.exp_()
    scores /= scores.sum(1, keepdim=True)
    return torch.einsum("ts,sd->td", scores, v), scores


def attention_with_loops(q, k, v):
    rows = [torch.stack([(a * b).sum() for b in k]) / math.sqrt(len(q[0])) for a in q]
    weights = torch.stack([row.softmax(0) for row in rows])
    return [weights @ v, weights]


attention = Exercise(
    id="02.3",
    right=lambda q, k, v: scaled_dot_product_attention(q, k, v),
    inputs=queries_keys_values,
    also=lambda generator: tuple(torch.randn(3, 7, 12, generator=generator)),
    mistakes=(
        Mistake(
            "no scaling",
            with_weights(lambda q, k: (q @ k.T).softmax(-1)),
            "the scores are not divided by √D. With D = 8 that is a small difference, with D = 512 the softmax is all "
            "but an argmax and its gradient vanishes (section 4).",
            "https://github.com/mlc-ai/mlc-llm/pull/3426: cosine 0.862 in place of 0.99999 on a BERT",
        ),
        Mistake(
            "divided by D",
            with_weights(lambda q, k: (q @ k.T / 8).softmax(-1)),
            "the scores are divided by D, not by √D: their spread shrinks to 1/√D and attention becomes nearly "
            "uniform.",
            "https://github.com/delzac/cntkx/issues/10 (the square root was missing)",
        ),
        Mistake(
            "multiplied by √D",
            with_weights(lambda q, k: (q @ k.T * math.sqrt(8)).softmax(-1)),
            "the scores are multiplied by √D; divide. (A variable `scale = D ** -0.5` is multiplied, `D ** 0.5` is "
            "divided by.)",
            "https://github.com/esceptico/perceiver-io/issues/9",
        ),
        Mistake(
            "√T",
            with_weights(lambda q, k: (q @ k.T / math.sqrt(5)).softmax(-1)),
            "the scores are divided by √T, the number of tokens. What makes q·k grow is the number of features it "
            "sums over, D = q.shape[-1].",
            "https://github.com/Graylab/DL4Proteins-notebooks/issues/12 (another size in place of D)",
        ),
        Mistake(
            "softmax over queries",
            with_weights(lambda q, k: (q @ k.T / math.sqrt(8)).softmax(0)),
            "the softmax runs over the queries: columns sum to 1, rows do not. Each query shares out one unit among "
            "the keys: softmax(-1).",
            "https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
        ),
        Mistake(
            "keys and queries exchanged",
            with_weights(lambda q, k: (k @ q.T / math.sqrt(8)).softmax(-1)),
            "you compute k qᵀ: row i then says who looks at token i, not whom token i looks at. It is q kᵀ.",
            "the transposed score matrix, compare https://github.com/cneuralnetwork/solving-ml-papers/issues/1",
        ),
        Mistake(
            "scaled after the softmax",
            with_weights(lambda q, k: (q @ k.T).softmax(-1) / math.sqrt(8)),
            "you divide the weights, after the softmax: rows sum to 1/√D, and the softmax saw undivided scores. Divide "
            "the scores.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "no softmax",
            with_weights(lambda q, k: q @ k.T / math.sqrt(8)),
            "the softmax is missing: these are scores, some of them negative, not shares of attention.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "results exchanged",
            lambda q, k, v: scaled_dot_product_attention(q, k, v)[::-1],
            "you return the weights first. The order is output, weights.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "keys mixed",
            keys_mixed,
            "you mix the keys. Keys are for being found, values for being read: weights @ v.",
            "https://github.com/cneuralnetwork/solving-ml-papers/issues/1 (k and v confused)",
        ),
    ),
    hints=(
        "All dot products of all queries with all keys are one matrix product: q @ k.T, of shape (T, T).",
        "D is q.shape[-1]; divide the scores by its square root, then softmax over the last dimension.",
        "`weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(-1)`; return `weights @ v, weights`.",
    ),
    praise="Equal to the package's, and by section 5 to torch's.",
    other_ways=(
        attention_in_place,
        attention_with_loops,
        lambda q, k, v: ((w := (q / q.shape[1] ** 0.5 @ k.T).softmax(1)) @ v, w),
    ),
)

# --- 02.4 masked weights ----------------------------------------------------------------------------------------------


def scores_and_mask(generator):
    scores = torch.randn(4, 5, generator=generator)
    mask = torch.rand(4, 5, generator=generator) < 0.6
    mask[:, 0] = True
    mask[:, 4] = False
    mask[3] = False  # a row that may look at nothing
    return scores, mask


def large_scores_and_mask(generator):
    scores, mask = scores_and_mask(generator)
    return 100 * scores, mask


def right_masked_weights(scores, mask):
    return scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0.0)


def masked_in_place(scores, mask):
    weights = torch.zeros_like(scores)
    for i in range(len(scores)):
        if mask[i].any():
            weights[i, mask[i]] = scores[i, mask[i]].softmax(0)
    return weights


masked_weights = Exercise(
    id="02.4",
    right=right_masked_weights,
    inputs=scores_and_mask,
    mistakes=(
        Mistake(
            "inverted",
            lambda scores, mask: right_masked_weights(scores, ~mask),
            "the mask is the wrong way round: attention goes exactly to what is hidden. Here True means 'may be "
            "attended to', so fill where the mask is False: masked_fill(~mask, …). (torch's key_padding_mask has the "
            "other meaning.)",
            "https://github.com/facebookresearch/detr/issues/96",
        ),
        Mistake(
            "after the softmax",
            lambda scores, mask: scores.softmax(-1) * mask,
            "the hidden weights are 0, but the rows no longer sum to 1: their share was handed out before you took it "
            "away. Mask the scores before the softmax.",
            "https://github.com/huggingface/pytorch-image-models/pull/2236",
        ),
        Mistake(
            "scores set to 0",
            lambda scores, mask: (scores * mask).softmax(-1),
            "a hidden score is 0, and exp(0) = 1: the hidden token still gets attention, often more than the others. "
            "The score must be -inf, because exp(-inf) = 0. (1e-9 in place of -1e9 does the same.)",
            "https://github.com/awslabs/gluonts/pull/1401, https://github.com/georg-wolflein/good-features/pull/1",
        ),
        Mistake(
            "NaN in an empty row",
            lambda scores, mask: scores.masked_fill(~mask, -math.inf).softmax(-1),
            "right except for the row that may look at nothing: it is NaN, because softmax divides 0 by 0, and one NaN "
            "makes the whole batch's loss NaN. Set the hidden weights to 0 once more after the softmax.",
            "https://github.com/pytorch/pytorch/issues/103749",
        ),
        Mistake(
            "large negative number",
            lambda scores, mask: scores.masked_fill(~mask, -1e9).softmax(-1),
            "right except for the row that may look at nothing: it looks at every hidden token equally, in silence "
            "(a large negative number in place of -inf does that). Set the hidden weights to 0 after the softmax.",
            "https://github.com/huggingface/transformers/issues/12109 (why -10000)",
        ),
    ),
    hints=(
        "A hidden token must have the weight 0 and the others must share all of the attention: hide it before softmax.",
        "exp of what is 0? Fill the scores with -inf where the mask is False: scores.masked_fill(~mask, -math.inf).",
        "For the row without any True, fill the weights with 0.0 where the mask is False, after the softmax.",
    ),
    praise="Hidden tokens get exactly 0, rows sum to 1, and an empty row is zeros, not NaN.",
    also=large_scores_and_mask,
    other_ways=(
        masked_in_place,
        lambda s, m: torch.where(m, s, -torch.inf).softmax(-1).nan_to_num(0.0),
    ),
)

# --- 02.5 find the bug: a padding mask stretched over the wrong axis --------------------------------------------------


def padded_batch(generator):
    T = 4  # four texts of four places: with B = T torch stretches a (B, T) mask over (T, T) without a word
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


padded_attention = Exercise(
    id="02.5",
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
    ),
    hints=(
        "Print the shapes of `scores` and `mask`. Which dimension of the scores is the key's?",
        "scores is (B, T, T): text, query, key. The mask (B, T) knows text and key. What is missing is in the middle.",
        "`mask[:, None, :]` has the shape (B, 1, T) and is stretched over the queries.",
    ),
    praise="No word looks at padding any more, whatever stands in the other texts of the batch.",
    other_ways=(
        padded_in_place,
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m.unsqueeze(1)),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m[:, None, :].expand(-1, q.shape[1], -1)),
    ),
)

# --- 02.6 the causal mask ---------------------------------------------------------------------------------------------

causal_mask = Exercise(
    id="02.6",
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
    ),
    hints=("Which keys may query i see? 0 to i.", "torch.tril keeps a matrix's lower triangle, with the diagonal."),
    praise="This one line is the difference between BERT's attention and GPT's.",
    other_ways=(
        lambda T: torch.arange(T)[:, None] >= torch.arange(T),
        lambda T: ~torch.ones(T, T, dtype=bool).triu(1),
        lambda T: torch.tensor([[j <= i for j in range(T)] for i in range(T)]),
    ),
)
