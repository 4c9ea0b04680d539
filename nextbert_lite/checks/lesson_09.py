"""The checks of lesson 09, The contrastive loss."""

import copy
import math
from weakref import finalize

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution
from nextbert_lite.core.contrastive import info_nce_loss, nt_xent_loss

__all__ = [
    "gradient_in_chunks",
    "hint",
    "repaired_nt_xent",
    "row_losses",
    "score_gradient",
    "simclr_start",
    "solution",
]

# --- 09.1 one loss a row ----------------------------------------------------------------------------------------------


def cosines(generator, B=5, temperature=0.3):
    """The cosines of B anchors and B unrelated positives; rows and columns differ."""
    anchors, positives = F.normalize(torch.randn(2, B, 6, generator=generator), dim=-1)
    return anchors @ positives.T, temperature


def fewer_cosines(generator):
    return cosines(generator, B=4, temperature=0.1)


def without_diagonal(scores):
    return scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)


row_losses = Exercise(
    id="09.1",
    right=lambda S, t: (S / t).logsumexp(1) - S.diagonal() / t,
    inputs=cosines,
    also=fewer_cosines,
    mistakes=(
        Mistake(
            "times the temperature",
            lambda S, t: (S * t).logsumexp(1) - S.diagonal() * t,
            "you multiplied by the temperature. Scores are *divided* by it: a small temperature makes large scores. "
            "(What is multiplied is sentence-transformers' `scale`, which is 1/τ.)",
            "https://github.com/bowang-lab/BLEEP/issues/5 (one of two similarities is multiplied)",
        ),
        Mistake(
            "no temperature",
            lambda S, t: S.logsumexp(1) - S.diagonal(),
            "the temperature is missing: these are the losses at τ = 1. Divide the cosines by it first.",
            "https://github.com/ZhiyuanDang/NNM/issues/6 (which temperature is it? 1.0)",
        ),
        Mistake(
            "temperature in the denominator only",
            lambda S, t: (S / t).logsumexp(1) - S.diagonal(),
            "the denominator has the temperature, the right answer's score has not. Divide all of S before anything "
            "else.",
            "https://github.com/RElbers/info-nce-pytorch/pull/17 (found in review)",
        ),
        Mistake(
            "columns",
            lambda S, t: (S / t).logsumexp(0) - S.diagonal() / t,
            "this is the loss of each *column*: the positives look for their anchors. An anchor's answers stand in its "
            "row, dimension 1.",
            "https://github.com/jefflai108/Contrastive-Predictive-Coding-PyTorch/issues/19 (the softmax's dimension)",
        ),
        Mistake(
            "shares in place of losses",
            lambda S, t: (S / t).softmax(1).diagonal(),
            "this is the right answer's *share*. The loss is minus its logarithm.",
            "https://github.com/yyliu01/IT2/issues/3 (a formula without the -log)",
        ),
        Mistake(
            "positive out of the denominator",
            lambda S, t: without_diagonal(S / t).logsumexp(1) - S.diagonal() / t,
            "your sum leaves out the right answer itself. A share is a part of the whole, and the right answer "
            "belongs to the whole: the sum runs over all columns. Section 8 shows what this does.",
            "https://github.com/MIDA-group/CoMIR/issues/51",
        ),
        Mistake(
            "the mean",
            lambda S, t: F.cross_entropy(S / t, torch.arange(len(S))),
            "this is the mean over the rows; the exercise asks for the loss of each row, (B,).",
            "https://github.com/wvangansbeke/Unsupervised-Classification/issues/59 (is it averaged or not?)",
        ),
    ),
    hints=(
        "Divide S by the temperature. Then each row is like the logits of one question with B answers.",
        "-ln(e^right / Σ e^s) = ln Σ e^s - right. The right scores are the diagonal.",
        "`scores = S / temperature`, then `scores.logsumexp(1) - scores.diagonal()`",
    ),
    praise="Each row is a little cross-entropy, and its label is its own number.",
    other_ways=(
        lambda S, t: F.cross_entropy(S / t, torch.arange(len(S)), reduction="none"),
        lambda S, t: -(S / t).log_softmax(1).diag(),
        lambda S, t: -torch.log(torch.exp(S / t).diagonal() / torch.exp(S / t).sum(dim=1)),
    ),
)

# --- 09.2 predict: SimCLR at the start --------------------------------------------------------------------------------

B = 512

simclr_start = Prediction(
    id="09.2",
    right=2 * math.log(2 * B - 1),
    tolerance=0.01,
    mistakes=(
        Mistake(
            "ln B",
            math.log(B),
            "ln B is the loss of InfoNCE, where an anchor chooses among B positives. In NT-Xent a view chooses among "
            "all other views of both sides, and this code adds up two directions.",
            "https://github.com/HobbitLong/SupContrast/issues/106 (which loss do equal vectors have?)",
        ),
        Mistake(
            "one direction",
            math.log(2 * B - 1),
            "the number of answers is right, 2B - 1, and this is the usual mean over all views. Google's code returns "
            "the sum of two directions.",
            "objective.py in google-research/simclr, which adds up loss_a and loss_b",
        ),
        Mistake(
            "twice ln B",
            2 * math.log(B),
            "two directions, yes. But each view chooses among more than B answers: its own side's other views are "
            "there too.",
            "https://github.com/google-research/simclr/issues/51 (which of the logits are negatives?)",
        ),
        Mistake(
            "bits",
            2 * math.log2(2 * B - 1),
            "that is in bits, with the logarithm to base 2. torch's cross-entropy uses the natural one: math.log.",
            "losses in nats and in bits mixed up, see lesson 07",
        ),
    ),
    hints=(
        "With all cosines 0 all scores are equal, so a view's loss is ln of the number of its answers. How many are "
        "there?",
        "2B views, and one of them is the view itself: 2B - 1 answers. How many such means does Google's code add up?",
        "`2 * math.log(2 * 512 - 1)`",
    ),
    praise="A loss in somebody's log can be compared with yours only if you know what was added up.",
)

# --- 09.3 the gradient ------------------------------------------------------------------------------------------------


def right_gradient(S, t):
    return ((S / t).softmax(1) - torch.eye(len(S))) / (t * len(S))


score_gradient = Exercise(
    id="09.3",
    right=right_gradient,
    inputs=cosines,
    also=fewer_cosines,
    mistakes=(
        Mistake(
            "no 1/τ",
            lambda S, t: right_gradient(S, t) * t,
            "this is the gradient with respect to the *scores*. The exercise asks for the cosines; score = cosine/τ, "
            "so the chain rule brings a factor 1/τ.",
            "https://github.com/HobbitLong/SupContrast/issues/73 (the factor τ / base_temperature and what it is for)",
        ),
        Mistake(
            "no 1/B",
            lambda S, t: right_gradient(S, t) * len(S),
            "right for each row's own loss, but the loss is the mean over B rows: divide by B.",
            "https://github.com/wvangansbeke/Unsupervised-Classification/issues/59 (is it averaged or not?)",
        ),
        Mistake(
            "neither 1/τ nor 1/B",
            lambda S, t: right_gradient(S, t) * len(S) * t,
            "shares minus one-hot, that is the core of it. Two factors are missing: 1/τ (chain rule, score = "
            "cosine/τ) and 1/B (the loss is a mean).",
            "section 7 of the lesson, whose formula is for the loss of one anchor",
        ),
        Mistake(
            "nobody is pulled",
            lambda S, t: (S / t).softmax(1) / (t * len(S)),
            "the 1 at the right answer is not subtracted, so the positive is pushed away like a negative.",
            "https://github.com/YihengZhang-CV/SeCo-Sequence-Contrastive-Learning/issues/3 (everything a negative?)",
        ),
        Mistake(
            "the other direction",
            lambda S, t: -right_gradient(S, t),
            "the sign is turned: this is the direction of the step, *against* the gradient. The gradient itself is "
            "positive at the negatives.",
            "https://github.com/KevinMusgrave/pytorch-metric-learning/issues/549 (positives pushed, negatives pulled)",
        ),
        Mistake(
            "columns",
            lambda S, t: right_gradient(S.T, t).T,
            "your shares add up to 1 over each column. An anchor's answers stand in its row: softmax over dimension 1.",
            "https://github.com/YuanGongND/ssast/issues/13 (should dim be 0?)",
        ),
    ),
    hints=(
        "For one row and its scores the gradient is shares minus one-hot.",
        "Score = cosine/τ gives a factor 1/τ, the mean over the rows a factor 1/B.",
        "`((S / temperature).softmax(1) - torch.eye(len(S))) / (temperature * len(S))`",
    ),
    praise="In every row the pushes add up to the pull.",
    other_ways=(
        lambda S, t: torch.func.grad(lambda s: F.cross_entropy(s / t, torch.arange(len(s))))(S),
        lambda S, t: (S.div(t).softmax(-1) - torch.diag(torch.ones(len(S)))) / len(S) / t,
    ),
)

# --- 09.4 find the bug: the positive in the denominator ---------------------------------------------------------------


def views_of_texts(generator):
    """Two views each of five texts; the partners are alike, so that the positive counts in the denominator."""
    a = torch.randn(5, 8, generator=generator)
    return a, a + 0.8 * torch.randn(5, 8, generator=generator), 0.4


def all_scores(a, b, t):
    views = F.normalize(torch.cat([a, b]), dim=-1)
    return views @ views.T / t, torch.arange(len(views)).roll(len(a))


def partner_loss(bottom, scores, partner):
    """Return the mean of ln(sum of e^bottom over a row) minus the partner's score."""
    return (bottom.logsumexp(1) - scores[torch.arange(len(scores)), partner]).mean()


def bug_as_it_was(a, b, t):
    scores, partner = all_scores(a, b, t)
    same_text = torch.eye(len(a), dtype=torch.bool).repeat(2, 2)
    return partner_loss(scores.masked_fill(same_text, -torch.inf), scores, partner)


def nothing_left_out(a, b, t):
    scores, partner = all_scores(a, b, t)
    return F.cross_entropy(scores, partner)


def zero_in_place_of_infinity(a, b, t):
    scores, partner = all_scores(a, b, t)
    return F.cross_entropy(scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), 0.0), partner)


def logarithm_of_the_mean(a, b, t):
    scores, partner = all_scores(a, b, t)
    shares = without_diagonal(scores).softmax(1)
    return -shares[torch.arange(len(scores)), partner].mean().log()


def centred_over_the_batch(a, b, t):
    scores, partner = all_scores(a, b, t)
    return F.cross_entropy(without_diagonal(scores - scores.mean(0)), partner)


def whole_matrix_normalised(a, b, t):
    views = torch.cat([a, b])
    views = views / views.norm()
    return F.cross_entropy(without_diagonal(views @ views.T / t), torch.arange(len(views)).roll(len(a)))


def nt_xent_without_the_diagonal(a, b, temperature):
    views = torch.nn.functional.normalize(torch.cat((a, b)), p=2, dim=1)
    n = len(views)
    scores = (views @ views.mT)[~torch.eye(n, dtype=bool)].view(n, n - 1) / temperature  # no row holds itself
    partner = [len(b) - 1 + i for i in range(len(a))] + list(range(len(b)))
    return F.cross_entropy(scores, torch.tensor(partner))


repaired_nt_xent = Exercise(
    id="09.4",
    right=nt_xent_loss,
    inputs=views_of_texts,
    also=lambda generator: (*torch.randn(2, 3, 5, generator=generator), 0.2),
    mistakes=(
        Mistake(
            "the bug as it was",
            bug_as_it_was,
            "the bug is still there: the mask takes away the partner together with the view itself, so the positive "
            "is not in the denominator. Only the diagonal of the (2B, 2B) matrix may go.",
            "https://github.com/Sara-Ahmed/SiT/issues/26 (k != i compared with the code)",
        ),
        Mistake(
            "nothing left out",
            nothing_left_out,
            "now the view itself is among the answers. Its cosine with itself is 1, which no partner can beat: leave "
            "it out, and nothing else.",
            "https://github.com/Lightning-Universe/lightning-bolts/issues/695 (gradient through the pair of x1 with "
            "x1)",
        ),
        Mistake(
            "zero in place of minus infinity",
            zero_in_place_of_infinity,
            "you set the view's own score to 0. But e^0 is 1, so it still counts in the denominator. To leave it out "
            "its score must be -inf.",
            "https://github.com/google-research/simclr/issues/20 (why not simply zero?)",
        ),
        Mistake(
            "the other side only",
            lambda a, b, t: info_nce_loss(a, b, t, symmetric=True),
            "this is symmetric InfoNCE: each view is compared with the other side only. In NT-Xent the B - 1 other "
            "views of its own side are wrong answers too.",
            "https://github.com/Lightning-Universe/lightning-bolts/pull/253 (negative samples missing in nt_xent_loss)",
        ),
        Mistake(
            "the sum of both directions",
            lambda a, b, t: 2 * nt_xent_loss(a, b, t),
            "this is twice the loss: the sum of the means of both directions, as Google's code has it. Asked for is "
            "the mean over the 2B views.",
            "objective.py in google-research/simclr: loss_a + loss_b",
        ),
        Mistake(
            "the logarithm of the mean",
            logarithm_of_the_mean,
            "you take the mean of the shares and then the logarithm. The loss is the mean of the logarithms: a row "
            "that is badly wrong must cost much, and in a mean of shares it vanishes.",
            "https://github.com/pietz/simclr/issues/1",
        ),
        Mistake(
            "centred over the batch",
            centred_over_the_batch,
            "you subtract each column's mean from the scores. A softmax ignores what is the same for a whole *row*; "
            "this differs within a row, so the question is another one.",
            "logits minus their mean over the batch, seen in public teaching code",
        ),
        Mistake(
            "normalised as a whole",
            whole_matrix_normalised,
            "all views together are divided by one length. Every single vector needs length 1: `F.normalize(views, "
            "dim=-1)`.",
            "https://github.com/tensorflow/similarity/issues/237 (l2_normalize without an axis)",
        ),
    ),
    hints=(
        "Which entries of the (2B, 2B) matrix does `same_text` take away? Print it for B = 2.",
        "k != i leaves out the view itself: the diagonal, `torch.eye(2B)`. The partner stays.",
        "Replace the mask by `torch.eye(N, dtype=torch.bool)`.",
    ),
    praise="Only the view itself is left out, and a solved pair has the loss 0.",
    other_ways=(
        nt_xent_without_the_diagonal,
        lambda a, b, t: nt_xent_loss(b, a, t),
    ),
)

# --- 09.5 gradient caching --------------------------------------------------------------------------------------------


def pairs_and_weight(generator):
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return weight, x, x + torch.randn(6, 5, generator=generator, dtype=torch.float64), 2


def uneven_chunks(generator):
    weight, x, y = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((3, 6), (7, 3), (7, 3)))
    return weight, x, y, 4


class GraphRows(TorchFunctionMode):
    """Note how many rows are embedded with a graph: in one call (`most`), and at the same time (`peak`).

    Of a tanh autograd keeps the result, until the way back has passed it.
    """

    def __init__(self, weight):
        super().__init__()
        self.C = weight.shape[1]
        self.most = self.living = self.peak = 0
        self.embeds = False

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        self.embeds = getattr(function, "__name__", "").removesuffix("_") == "tanh"
        out = function(*arguments, **(keywords or {}))
        if self.embeds and out.requires_grad:
            self.most = max(self.most, out.numel() // self.C)
        self.embeds = False
        return out

    def keep(self, tensor):
        rows = tensor.numel() // self.C if self.embeds else 0
        self.living += rows
        self.peak = max(self.peak, self.living)
        kept = Kept(tensor)
        finalize(kept, self.let_go, rows)
        return kept

    def let_go(self, rows):
        self.living -= rows


class Kept:
    """A tensor of a graph; it goes with the graph."""

    def __init__(self, tensor):
        self.tensor = tensor


def too_many_rows(answer, case):
    """Return a sentence when more rows than a chunk are embedded with a graph: at once, or with all graphs kept."""
    weight, _, _, chunk = case
    rows = GraphRows(weight)
    try:
        with rows, torch.autograd.graph.saved_tensors_hooks(rows.keep, lambda kept: kept.tensor):
            answer(*copy.deepcopy(case))
    except RuntimeError:  # torch.func takes no hooks: what one call embeds is seen all the same
        with rows:
            answer(*case)
    if rows.most > chunk:
        return (
            f"{rows.most} rows were embedded at once with a graph, where a chunk has {chunk}: that is the memory that "
            "the three passes are to save. Embed everything under `torch.no_grad()` first, and a chunk at a time, with "
            "a graph, in the third pass."
        )
    if rows.peak > 2 * chunk:  # two: whoever takes a chunk of both sides together
        return (
            f"the graphs of {rows.peak} rows lived at the same time, where a chunk has {chunk}: a graph stays until "
            "backward has gone through it. Call `backward` for each chunk before you embed the next."
        )
    return None


def embed(x, weight):
    return torch.tanh(x @ weight)


def gradient_of(loss_of):
    """Return a function that computes loss_of(weight, x, y, chunk) and gives its gradient at the weight."""

    def gradient(weight, x, y, chunk):
        weight = weight.clone().requires_grad_()
        return torch.autograd.grad(loss_of(weight, x, y, chunk), weight)[0]

    return gradient


def losses_of_chunks(weight, x, y, chunk):
    return [
        info_nce_loss(embed(a, weight), embed(b, weight)) for a, b in zip(x.split(chunk), y.split(chunk), strict=True)
    ]


def vector_gradients(weight, x, y):
    """Return the embeddings' gradients of the full loss, of both sides."""
    sides = [embed(side, weight).detach().requires_grad_() for side in (x, y)]
    return torch.autograd.grad(info_nce_loss(*sides), sides)


def surrogate(reduce, sides=2, last=False):
    """Return the loss of a third pass: what `reduce` makes of a chunk's vectors and their gradient, added up."""

    def loss_of(weight, x, y, chunk):
        gradients = vector_gradients(weight.detach(), x, y)
        parts = [
            reduce(embed(rows, weight), part)
            for side, gradient in list(zip((x, y), gradients, strict=True))[:sides]
            for rows, part in zip(side.split(chunk), gradient.split(chunk), strict=True)
        ]
        return parts[-1] if last else sum(parts)

    return loss_of


def full_loss(weight, x, y, chunk):
    return info_nce_loss(embed(x, weight), embed(y, weight))


def three_passes(weight, x, y, chunk):
    weight = weight.clone().requires_grad_()
    gradient = torch.zeros_like(weight)
    for side, part in zip((x, y), vector_gradients(weight.detach(), x, y), strict=True):
        for rows, g in zip(side.split(chunk), part.split(chunk), strict=True):
            gradient += torch.autograd.grad(embed(rows, weight), weight, g)[0]
    return gradient


def three_passes_by_surrogate(weight, x, y, chunk):
    w = weight.detach().clone().requires_grad_()
    both = torch.cat([x, y])
    with torch.no_grad():
        vectors = torch.cat([(rows @ w).tanh() for rows in both.split(chunk)])
    vectors.requires_grad_()
    info_nce_loss(*vectors.chunk(2)).backward()
    for start in range(0, len(both), chunk):
        rows = slice(start, start + chunk)
        ((both[rows] @ w).tanh() * vectors.grad[rows]).sum().backward()
    return w.grad


def three_passes_by_checkpoint(weight, x, y, chunk):
    w = weight.clone().requires_grad_()
    sides = [
        torch.cat([checkpoint(embed, rows, w, use_reentrant=False) for rows in side.split(chunk)]) for side in (x, y)
    ]
    return torch.autograd.grad(info_nce_loss(*sides), w)[0]


gradient_in_chunks = Exercise(
    id="09.5",
    right=three_passes,
    inputs=pairs_and_weight,
    also=uneven_chunks,
    limit=too_many_rows,
    mistakes=(
        Mistake(
            "gradient accumulation",
            gradient_of(lambda *case: sum(losses := losses_of_chunks(*case)) / len(losses)),
            "this is gradient accumulation: the loss of each chunk alone, then the mean. Each pair sees only the "
            "negatives of its own chunk. The loss must be computed once, from the vectors of the whole batch.",
            "https://github.com/huggingface/sentence-transformers/pull/1822 (what it misses, from the maintainer)",
        ),
        Mistake(
            "gradient accumulation, added up",
            gradient_of(lambda *case: sum(losses_of_chunks(*case))),
            "this adds up the losses of the chunks: each pair sees only the negatives of its own chunk, and the sum "
            "is as many times too large as there are chunks. Compute the loss once, from all vectors.",
            "https://github.com/mdiephuis/SimCLR/issues/13 (losses of batches do not add up)",
        ),
        Mistake(
            "only the anchors",
            gradient_of(surrogate(lambda v, g: (v * g).sum(), sides=1)),
            "the gradient goes back through the anchors only. The positives have been embedded by the same weight, "
            "and their vectors have a gradient too.",
            "keys without a gradient, which MoCo has on purpose (He et al. 2020, arXiv:1911.05722)",
        ),
        Mistake(
            "the last chunk only",
            gradient_of(surrogate(lambda v, g: (v * g).sum(), last=True)),
            "this is the gradient of the last chunk alone. The parts of all chunks, of both sides, add up: do not "
            "clear the gradient in between, and do not overwrite the result.",
            "optimizer.zero_grad() inside the loop, the slip that lesson 00 warns of",
        ),
        Mistake(
            "the cached gradient is not used",
            gradient_of(surrogate(lambda v, g: v.sum())),
            "you go back with a gradient of ones, as `vectors.sum().backward()` does: what pass 2 found is not used. "
            "Pass it on: `vectors.backward(gradient)`, or `(vectors * gradient).sum().backward()`.",
            "https://github.com/luyug/GradCache/issues/29 (what the dot product is for)",
        ),
        Mistake(
            "a mean in place of the sum",
            gradient_of(surrogate(lambda v, g: (v * g).mean())),
            "you take the *mean* of vectors times gradients, which divides by the size of a chunk. The chain rule has "
            "a sum: `(vectors * gradient).sum()`.",
            "https://github.com/luyug/GradCache/issues/29 (the surrogate is a plain dot product)",
        ),
    ),
    hints=(
        "Pass 1 under `torch.no_grad()`: both sides' vectors. `requires_grad_()` makes them the start of a new graph.",
        "Pass 2: `info_nce_loss(a, p).backward()`. Now `a.grad` and `p.grad` hold what pass 3 needs.",
        "Pass 3, for both sides: `for rows, part in zip(x.split(chunk), a.grad.split(chunk)): "
        "torch.tanh(rows @ weight).backward(part)`, with a `weight` that requires a gradient; return `weight.grad`.",
    ),
    praise="The gradient of the whole batch, with the graph of one chunk at a time.",
    other_ways=(
        three_passes_by_surrogate,
        three_passes_by_checkpoint,
    ),
)
