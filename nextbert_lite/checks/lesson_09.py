"""The checks of lesson 09, The contrastive loss."""

import math
from weakref import finalize

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    solution,
    untouched,
)
from nextbert_lite.core.contrastive import info_nce_loss as courses_info_nce_loss
from nextbert_lite.core.contrastive import nt_xent_loss

__all__ = [
    "gradient_caching",
    "hint",
    "info_nce_loss",
    "mine",
    "repaired_nt_xent",
    "score_gradient",
    "simclr_start",
    "solution",
]


def cosines(generator, B=5, temperature=0.3):
    """The cosines of B anchors and B unrelated positives; rows and columns differ."""
    anchors, positives = F.normalize(torch.randn(2, B, 6, generator=generator), dim=-1)
    return anchors @ positives.T, temperature


def fewer_cosines(generator):
    """Another size, in float64: the result has the dtype of S."""
    S, temperature = cosines(generator, B=4, temperature=0.1)
    return S.double(), temperature


def without_diagonal(scores):
    return scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)


# --- 09.1 the build: info_nce_loss ------------------------------------------------------------------------------------


def some_pairs(generator, B=4, C=6):
    """Anchors and positives of several lengths; partners are alike, and what is done with rows and columns differs."""
    a = torch.randn(B, C, generator=generator)
    p = a + torch.randn(B, C, generator=generator)
    return a * torch.linspace(0.5, 3, B)[:, None], p * torch.linspace(2, 0.7, B)[:, None]


def equal_meanings(B):
    """`same` of B pairs of which the first two, and the first and the last, mean the same; its diagonal is True."""
    same = torch.eye(B, dtype=torch.bool)
    same[0, 1] = same[1, 0] = same[0, -1] = same[-1, 0] = True
    return same


def by_hand(answer, generator):
    a, p = (F.normalize(x, dim=-1) for x in some_pairs(generator))
    return untouched(answer, a, p, 0.5)


def of_any_length(answer, generator):
    return untouched(answer, *some_pairs(generator), 0.5)


def temperatures(answer, generator):
    pairs = some_pairs(generator)
    return *(untouched(answer, *pairs, t) for t in (2.0, 0.1, 0.01)), untouched(answer, *pairs)


def other_batches(answer, generator):
    return tuple(untouched(answer, *some_pairs(generator, B, C), 0.3) for B, C in ((2, 6), (7, 3), (5, 9)))


def both_ways(answer, generator):
    pairs = some_pairs(generator)
    return untouched(answer, *pairs, 0.3, True), answer(*pairs, temperature=0.3, symmetric=False)


def more_negatives(answer, generator):
    (a, p), results = some_pairs(generator), []
    for N in (4, 3):
        hard = 3 * torch.randn(N, 6, generator=generator) + a[0]
        results += [untouched(answer, a, p, 0.3, symmetric, hard) for symmetric in (False, True)]
    try:
        alone = answer(a[:1], p[:1], temperature=0.3, negatives=hard)
    except Exception as error:  # noqa: BLE001 - a learner's code may raise anything
        raise Fault(
            f"for one pair with {N} negatives your code raised {type(error).__name__}: {error}. With negatives, one "
            "pair is a question too: its positive is right and the negatives are wrong."
        ) from None
    return *results, alone


def not_negatives(answer, generator):
    (a, p), same = some_pairs(generator), equal_meanings(4)
    hard = torch.randn(3, 6, generator=generator)
    bare = same & ~torch.eye(4, dtype=torch.bool)
    one_way = untouched(answer, a, p, 0.3, False, None, same), untouched(answer, a, p, 0.3, False, None, bare)
    return *one_way, untouched(answer, a, p, 0.3, True, None, same), untouched(answer, a, p, 0.3, True, hard, same)


def loss_gradients(answer, generator):
    a, p = (x.double().requires_grad_() for x in some_pairs(generator))
    hard = torch.randn(3, 6, generator=generator, dtype=torch.float64).requires_grad_()
    loss = answer(a, p, 0.3, True, hard, equal_meanings(4))
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        raise Fault("no gradient comes back from the loss: keep it a tensor all the way, without `.item()`.")
    return loss, *torch.autograd.grad(loss, (a, p, hard), allow_unused=True, materialize_grads=True)


def wrong_loss(**switches):
    """Return an info_nce_loss that a learner may write; its switches are the mistakes."""
    switch = dict.fromkeys("normalised tau reduced default leaves labels both hard marked stopped".split())
    switch |= switches

    def info_nce_loss(
        anchors,
        positives,
        temperature=0.07 if switch["default"] else 0.05,
        symmetric=False,
        negatives=None,
        same=None,
    ):
        B = len(anchors)
        if switch["stopped"]:
            positives = positives.detach()
        columns = negatives is not None and switch["hard"] not in ("ignored", "each its own")
        keys = torch.cat([positives, negatives]) if columns else positives
        if switch["tau"] == "fixed":
            temperature = 0.05
        if switch["marked"] == "dropped" and same is not None:
            first = ~(same & ~torch.eye(B, dtype=torch.bool)).tril().any(1)  # the first pair of each meaning
            return info_nce_loss(anchors[first], positives[first], temperature, symmetric, negatives)
        if switch["normalised"] == "not":
            scores = anchors @ keys.T
        elif switch["normalised"] == "over the batch":
            scores = F.normalize(anchors, dim=0) @ F.normalize(keys, dim=0).T
        elif switch["normalised"] == "the anchors":
            scores = F.normalize(anchors, dim=-1) @ keys.T
        elif switch["normalised"] == "not the negatives" and columns:
            known = torch.cat([F.normalize(positives, dim=-1), negatives])
            scores = F.normalize(anchors, dim=-1) @ known.T
        else:
            scores = F.normalize(anchors, dim=-1) @ F.normalize(keys, dim=-1).T
        if switch["hard"] == "each its own" and negatives is not None:
            if len(negatives) == B:
                others = (F.normalize(anchors, dim=-1) * F.normalize(negatives, dim=-1)).sum(1, keepdim=True)
            else:
                others = F.normalize(anchors, dim=-1) @ F.normalize(negatives, dim=-1).T
            scores = torch.cat([scores, others], dim=1)
        if switch["hard"] == "of the positives" and columns:
            others = F.normalize(positives, dim=-1) @ F.normalize(negatives, dim=-1).T
            scores = torch.cat([scores[:, :B], others], dim=1)
        if switch["hard"] == "without tau" and columns:
            scores = torch.cat([scores[:, :B], scores[:, B:] * temperature], dim=1)
        if switch["hard"] == "in front" and columns:
            scores = torch.cat([scores[:, B:], scores[:, :B]], dim=1)
        cosine = scores.diagonal()
        scores = {"times": scores * temperature, "forgotten": scores}.get(switch["tau"], scores / temperature)
        if same is not None and switch["marked"] != "ignored":
            others = (
                same if switch["marked"] in ("all", "all, a large number") else same & ~torch.eye(B, dtype=torch.bool)
            )
            others = F.pad(others, (0, scores.shape[1] - B))
            kept = scores
            if switch["marked"] == "inverted":
                others = F.pad(~same & ~torch.eye(B, dtype=torch.bool), (0, scores.shape[1] - B))
            fill = {"zero": 0.0, "all, a large number": -1e9}.get(switch["marked"], -torch.inf)
            scores = scores.masked_fill(others, fill)
        if switch["leaves"]:
            return (without_diagonal(scores).logsumexp(1) - scores.diagonal()).mean()
        if switch["tau"] == "denominator only":
            return (scores.logsumexp(1) - cosine).mean()
        if switch["tau"] == "exp":
            return -(scores.exp().diagonal() / scores.exp().sum(1)).log().mean()
        right = torch.arange(switch["labels"] or B)
        if switch["reduced"] == "columns":
            return F.cross_entropy(scores[:, :B].T, right)
        if switch["reduced"] == "of the mean":
            return -scores.softmax(1).diagonal().mean().log()
        if switch["marked"] == "right too" and same is not None:
            right_too = same | torch.eye(B, dtype=torch.bool)
            ways = [(kept, kept[:, :B])] + ([(kept[:, :B].T, kept[:, :B].T)] if symmetric else [])
            parts = [every.logsumexp(1) - good.masked_fill(~right_too, -torch.inf).logsumexp(1) for every, good in ways]
            return torch.cat(parts).mean()
        loss = F.cross_entropy(scores, right, reduction=switch["reduced"] or "mean")
        if symmetric and switch["both"] != "ignored":
            columns = kept[:, :B] if switch["marked"] == "rows only" and same is not None else scores[:, :B]
            if switch["hard"] == "both ways" and negatives is not None:
                further = F.normalize(negatives, dim=-1) @ F.normalize(positives, dim=-1).T / temperature
                columns = torch.cat([columns, further])
            back = F.cross_entropy(columns.T, right)
            if switch["both"] == "columns":
                return back
            return loss + back if switch["both"] == "sum" else (loss + back) / 2
        return loss

    return info_nce_loss


def loss_by_logsumexp(anchors, positives, temperature=0.05, symmetric=False, negatives=None, same=None):
    a, p = (x / x.norm(dim=1, keepdim=True) for x in (anchors, positives))
    S = torch.einsum("ic,jc->ij", a, p) / temperature
    if same is not None:
        S = torch.where(same & ~torch.eye(len(a), dtype=torch.bool), torch.full_like(S, -math.inf), S)
    wide = S
    if negatives is not None:
        wide = torch.cat([S, a @ F.normalize(negatives).T / temperature], dim=1)
    rows, columns = wide.logsumexp(1) - S.diag(), S.logsumexp(0) - S.diag()
    return torch.cat([rows, columns]).mean() if symmetric else rows.mean()


def loss_by_the_row(anchors, positives, temperature=0.05, symmetric=False, negatives=None, same=None):
    def one_way(a, p, extra):
        losses = []
        for i in range(len(a)):
            keep = [j for j in range(len(p)) if same is None or j == i or not same[i, j]]
            keys = p[keep] if extra is None else torch.cat([p[keep], extra])
            scores = F.cosine_similarity(a[i : i + 1], keys) / temperature
            losses.append(-scores.log_softmax(0)[keep.index(i)])
        return sum(losses) / len(losses)

    loss = one_way(anchors, positives, negatives)
    return (loss + one_way(positives, anchors, None)) / 2 if symmetric else loss


info_nce_loss = Build(
    id="09.1",
    course=courses_info_nce_loss,
    stages=(
        Stage("a case by hand", by_hand),
        Stage("vectors of any length", of_any_length),
        Stage("the temperature", temperatures),
        Stage("other sizes", other_batches),
        Stage("both ways", both_ways),
        Stage("hard negatives", more_negatives),
        Stage("not a negative", not_negatives),
        Stage("gradients, in float64", loss_gradients),
    ),
    mistakes=(
        Mistake(
            "columns",
            wrong_loss(reduced="columns"),
            "this is the loss of the *columns*: the positives look for their anchors. An anchor's answers stand in its "
            "row, so the softmax runs over dimension 1.",
            "https://github.com/jefflai108/Contrastive-Predictive-Coding-PyTorch/issues/19 (the softmax's dimension)",
        ),
        Mistake(
            "times the temperature",
            wrong_loss(tau="times"),
            "you multiplied by the temperature. Scores are *divided* by it: a small temperature makes large scores. "
            "(What is multiplied is sentence-transformers' `scale`, which is 1/τ.)",
            "https://github.com/bowang-lab/BLEEP/issues/5 (one of two similarities is multiplied)",
        ),
        Mistake(
            "temperature in the denominator only",
            wrong_loss(tau="denominator only"),
            "the denominator has the temperature, the right answer's score does not. Divide all scores before anything "
            "else.",
            "https://github.com/RElbers/info-nce-pytorch/pull/17 (found in review)",
        ),
        Mistake(
            "no temperature",
            wrong_loss(tau="forgotten"),
            "the temperature is not used: this is the loss at τ = 1. Divide the cosines by it first.",
            "https://github.com/ZhiyuanDang/NNM/issues/6 (which temperature is it? 1.0)",
        ),
        Mistake(
            "a fixed temperature",
            wrong_loss(tau="fixed"),
            "your function divides by 0.05 whatever `temperature` is. 0.05 is only the default: use the argument.",
            "an argument accepted and forgotten; a fresh reader of this lesson",
        ),
        Mistake(
            "positive out of the denominator",
            wrong_loss(leaves=True),
            "your sum leaves out the right answer itself. A probability is a part of the whole, and the right answer "
            "belongs to the whole: the sum runs over all columns.",
            "https://github.com/MIDA-group/CoMIR/issues/51",
        ),
        Mistake(
            "one loss a row",
            wrong_loss(reduced="none"),
            "these are the losses of the rows, (B,). The function returns their mean, a tensor without dimensions.",
            "https://github.com/wvangansbeke/Unsupervised-Classification/issues/59 (is it averaged or not?)",
        ),
        Mistake(
            "the sum of the rows",
            wrong_loss(reduced="sum"),
            "this is the sum of the rows' losses, so it grows with the batch. The function returns their mean.",
            "https://github.com/wvangansbeke/Unsupervised-Classification/issues/59 (is it averaged or not?)",
        ),
        Mistake(
            "the logarithm of the mean",
            wrong_loss(reduced="of the mean"),
            "you take the mean of the probabilities and then the logarithm. The loss is the mean of the logarithms: a "
            "row that is badly wrong must cost much, and in a mean of probabilities it vanishes.",
            "https://github.com/pietz/simclr/issues/1",
        ),
        Mistake(
            "normalised over the batch",
            wrong_loss(normalised="over the batch"),
            "you divide each *feature* by its length over the batch. Each vector should get the length 1: "
            "`F.normalize(x, dim=-1)`.",
            "https://github.com/tensorflow/similarity/issues/237 (l2_normalize without the right axis)",
        ),
        Mistake(
            "dot products",
            wrong_loss(normalised="not"),
            "your scores are dot products, which grow with the lengths of the vectors. Divide each vector by its "
            "length first: `F.normalize(x, dim=-1)`.",
            "a normalisation that the formula's cos hides",
        ),
        Mistake(
            "only the anchors normalised",
            wrong_loss(normalised="the anchors"),
            "the anchors have the length 1 and the positives do not. A cosine needs both.",
            "half of the normalisation",
        ),
        Mistake(
            "exp and sum",
            wrong_loss(tau="exp"),
            "right, until the temperature is small: in float32 e^(1/τ) is infinite at τ = 0.01, and ∞/∞ is NaN. "
            "`F.cross_entropy`, `log_softmax` and `logsumexp` subtract the largest score first.",
            "softmax written out; a fresh reader of this lesson",
        ),
        Mistake(
            "another default",
            wrong_loss(default=True),
            "right for the temperatures that are passed, but without one your function uses another than 0.05.",
            "0.07 is the default of MoCo, CLIP's start and pytorch-metric-learning",
        ),
        Mistake(
            "four labels",
            wrong_loss(labels=4),
            "your labels are 0, 1, 2, 3 whatever the batch is. There are B pairs: `torch.arange(len(anchors))`.",
            "the labels of the notebook's four sentences",
        ),
        Mistake(
            "one way",
            wrong_loss(both="ignored"),
            "`symmetric=True` changes nothing. It asks for the mean of two losses: rows, and columns, in which each "
            "positive looks for its anchor.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "the sum of both ways",
            wrong_loss(both="sum"),
            "you add up the two directions. `symmetric` is their mean, so that the loss of equal scores is ln B both "
            "ways.",
            "objective.py in google-research/simclr: loss_a + loss_b",
        ),
        Mistake(
            "the columns in place of both",
            wrong_loss(both="columns"),
            "with `symmetric=True` you return the loss of the columns alone. It is the mean of both: rows and columns.",
            "an `if symmetric:` that replaces the loss; a fresh reader of this lesson",
        ),
        Mistake(
            "no hard negatives",
            wrong_loss(hard="ignored"),
            "`negatives` changes nothing. They are N more columns, wrong answers for every anchor: (B, B + N).",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "each its own negative",
            wrong_loss(hard="each its own"),
            "you compare anchor i with negative i alone. Every negative is a wrong answer for *every* anchor, and N "
            "need not be B.",
            "triplets (anchor, positive, negative), in which each anchor has its own",
        ),
        Mistake(
            "negatives without the temperature",
            wrong_loss(hard="without tau"),
            "the hard negatives' cosines are not divided by the temperature, so they hardly count beside the others.",
            "scores of the negatives computed in a line of their own; a fresh reader of this lesson",
        ),
        Mistake(
            "negatives of the positives",
            wrong_loss(hard="of the positives"),
            "you compare the hard negatives with the *positives*. The anchor asks: its cosines with the negatives are "
            "the further columns.",
            "the wrong matrix of two; a fresh reader of this lesson",
        ),
        Mistake(
            "negatives in front",
            wrong_loss(hard="in front"),
            "the hard negatives stand before the positives, and the labels 0 … B - 1 now point at them. Put them "
            "behind: `torch.cat([positives, negatives])`.",
            "the labels of a concatenation; a fresh reader of this lesson",
        ),
        Mistake(
            "negatives in the columns too",
            wrong_loss(hard="both ways"),
            "in the columns you let the positives choose among the hard negatives too. With `symmetric` the negatives "
            "are wrong answers for the anchors only: the columns' loss is that of the (B, B) scores.",
            "hard negatives on both sides, as some libraries have them; a fresh reader of this lesson",
        ),
        Mistake(
            "negatives of any length",
            wrong_loss(normalised="not the negatives"),
            "the hard negatives are not divided by their lengths, so their scores are no cosines.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "`same` not used",
            wrong_loss(marked="ignored"),
            "`same` changes nothing. Where it is True off the diagonal, the score becomes -inf.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "the positive is taken away too",
            wrong_loss(marked="all"),
            "`same` may be True on the diagonal (a pair means the same as itself), and you take away the right "
            "answers there. Only what is off the diagonal goes.",
            "same_texts marks the diagonal too",
        ),
        Mistake(
            "the positive is taken away too, with a large number",
            wrong_loss(marked="all, a large number"),
            "you give -1e9 to the right answers too, because `same` may be True on the diagonal, so the loss is huge. "
            "Only what is off the diagonal goes.",
            "same_texts marks the diagonal too",
        ),
        Mistake(
            "`same` the other way round",
            wrong_loss(marked="inverted"),
            "you take away the answers where `same` is *False*, and these are the real negatives. Where it is True, "
            "the score becomes -inf.",
            "boolean masks have both meanings in torch; a fresh reader of this lesson",
        ),
        Mistake(
            "`same` as further right answers",
            wrong_loss(marked="right too"),
            "you add the probability of the pairs of the same meaning to that of the right answer. They are no right "
            "answers of this row but left out: their score is -inf, and their probability 0.",
            "the supervised contrastive loss, which has several positives; a fresh reader of this lesson",
        ),
        Mistake(
            "pairs left out",
            wrong_loss(marked="dropped"),
            "you take pairs out of the batch because their meaning is there already. Every pair keeps its row: only "
            "the single score [i, j] is left out.",
            "duplicates filtered from the batch; a fresh reader of this lesson",
        ),
        Mistake(
            "zero in place of minus infinity",
            wrong_loss(marked="zero"),
            "you set the score of what is no negative to 0. But e^0 is 1, so it still counts in the denominator. To "
            "leave it out its score must be -inf.",
            "https://github.com/google-research/simclr/issues/20 (why not simply zero?)",
        ),
        Mistake(
            "`same` in the rows only",
            wrong_loss(marked="rows only"),
            "`same` is used in the rows and not in the columns, where anchor i is right for positive j just as well.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "positives without a gradient",
            wrong_loss(stopped=True),
            "the loss is right, but no gradient reaches the positives. Both sides are to learn.",
            "keys without a gradient, which MoCo has on purpose (He et al. 2020, arXiv:1911.05722)",
        ),
    ),
    hints=(
        "Step 1: `F.normalize(anchors, dim=-1) @ F.normalize(positives, dim=-1).T / temperature` is (B, B). The loss "
        "of row i is a cross-entropy with the label i.",
        "`F.cross_entropy(scores, torch.arange(len(scores)))` takes the mean over the rows.",
        "Step 2: the columns are the rows of `scores.T`. Step 3: `keys = torch.cat([positives, negatives])`, and the "
        "labels stay; for the columns use `scores[:, :B].T`, for a hard negative asks no question.",
        "Step 4: `others = same & ~torch.eye(B, dtype=torch.bool)`, then `scores.masked_fill(…, -torch.inf)`. With "
        "negatives the scores have N more columns: `F.pad(others, (0, N))` adds N columns of False.",
    ),
    praise="It is the package's loss, and what sentence-transformers calls MultipleNegativesRankingLoss.",
    other_ways=(loss_by_logsumexp, loss_by_the_row, wrong_loss()),
)

# --- 09.2 find the bug: the positive in the denominator ---------------------------------------------------------------


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


def partner_left_out(a, b, t):
    scores, partner = all_scores(a, b, t)
    mask = torch.eye(len(scores), dtype=torch.bool)[partner]
    return partner_loss(scores.masked_fill(mask, -torch.inf), scores, partner)


def dot_products_of_views(a, b, t):
    views = torch.cat([a, b])
    return F.cross_entropy(without_diagonal(views @ views.T / t), torch.arange(len(views)).roll(len(a)))


def anchors_of_one_side(a, b, t):
    scores, partner = all_scores(a, b, t)
    return F.cross_entropy(without_diagonal(scores)[: len(a)], partner[: len(a)])


def nt_xent_without_the_diagonal(a, b, temperature):
    views = torch.nn.functional.normalize(torch.cat((a, b)), p=2, dim=1)
    n = len(views)
    scores = (views @ views.mT)[~torch.eye(n, dtype=bool)].view(n, n - 1) / temperature  # no row holds itself
    partner = [len(b) - 1 + i for i in range(len(a))] + list(range(len(b)))
    return F.cross_entropy(scores, torch.tensor(partner))


def about_the_denominator(answer, case):
    """The loss of equal views is the logarithm of the number of answers, whatever is done with losses below 0."""
    n = math.exp(answer(*torch.ones(2, 4, 3), 1.0))
    if round(n) not in (2, 3, 4, 5, 6, 8) or abs(n - round(n)) > 1e-3:
        return None
    few = " The partner is one of the 7, and with it in the sum no loss falls below 0, so there is nothing to cut off."
    return (
        f"for 8 equal views your loss is ln {round(n)}, so your denominator has {round(n)} answers for each view. It "
        f"should have 7, because only the view itself is left out.{few if n < 7 else ''}"
    )


repaired_nt_xent = Exercise(
    id="09.2",
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
            lambda a, b, t: courses_info_nce_loss(a, b, t, symmetric=True),
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
            "you take the mean of the probabilities and then the logarithm. The loss is the mean of the logarithms: a "
            "row that is badly wrong must cost much, and in a mean of probabilities it vanishes.",
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
            "the partner left out and the view kept",
            partner_left_out,
            "you leave out the partner and keep the view itself. It is the other way round: the view's cosine with "
            "itself goes, and the partner is the right answer.",
            "torch.eye(2B).roll(B) as the mask; a fresh reader of this lesson",
        ),
        Mistake(
            "the next view as partner",
            lambda a, b, t: F.cross_entropy(without_diagonal(all_scores(a, b, t)[0]), torch.arange(2 * len(a)).roll(1)),
            "your right answers are the neighbours in the list of views. The partner of view i stands B places further "
            "on: `torch.arange(2 * B).roll(B)`.",
            "views in the order a, b, a, b; a fresh reader of this lesson",
        ),
        Mistake(
            "dot products",
            dot_products_of_views,
            "your scores are dot products, which grow with the lengths of the vectors. Divide each view by its length "
            "first: `F.normalize(views, dim=-1)`.",
            "a normalisation that the formula's cos hides",
        ),
        Mistake(
            "the sum over the views",
            lambda a, b, t: 2 * len(a) * nt_xent_loss(a, b, t),
            "this is the sum over the 2B views, so it grows with the batch. The function returns their mean.",
            "https://github.com/wvangansbeke/Unsupervised-Classification/issues/59 (is it averaged or not?)",
        ),
        Mistake(
            "the views of one side only",
            anchors_of_one_side,
            "only the views in a ask for their partners. Those in b are anchors too: the mean runs over all 2B views.",
            "the rows of InfoNCE; a fresh reader of this lesson",
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
        "A cross-entropy is -ln of a probability, so it cannot be below 0. Which part of the whole is missing in the "
        "sum? Print which entries `negatives` holds for B = 2.",
        "k != i leaves out the view itself: the diagonal, `torch.eye(2B)`. The partner stays.",
        "Replace the mask by `torch.eye(N, dtype=torch.bool)`.",
    ),
    praise="Only the view itself is left out, and a solved pair has the loss 0.",
    about=about_the_denominator,
    other_ways=(
        nt_xent_without_the_diagonal,
        lambda a, b, t: nt_xent_loss(b, a, t),
    ),
)

# --- 09.3 predict: SimCLR at the start --------------------------------------------------------------------------------

B = 8

simclr_start = Prediction(
    id="09.3",
    right=2 * math.log(2 * B - 1),
    tolerance=0.02,
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
            "itself among the answers",
            2 * math.log(2 * B),
            "two directions, yes. But a view does not choose among all 2B views: which one is left out?",
            "https://github.com/Lightning-Universe/lightning-bolts/issues/695 (gradient through the pair of x1 with "
            "x1)",
        ),
        Mistake(
            "the partner is left out too",
            2 * math.log(2 * B - 2),
            "two directions, yes. But 2B - 2 leaves out the partner as well, and the partner is the right answer: it "
            "belongs to the sum.",
            "https://github.com/MIDA-group/CoMIR/issues/51",
        ),
        Mistake(
            "one direction, itself among the answers",
            math.log(2 * B),
            "two things: a view is not among its own answers, so they are fewer than 2B; and Google's code returns the "
            "sum of two means.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "one direction, the partner left out",
            math.log(2 * B - 2),
            "two things: the partner is the right answer and belongs to the sum, so there is one answer more; and "
            "Google's code returns the sum of two means.",
            "https://github.com/MIDA-group/CoMIR/issues/51",
        ),
        Mistake(
            "twice ln(B - 1)",
            2 * math.log(B - 1),
            "two directions, yes. But B - 1 is the number of *wrong* answers of the other side. The views of its own "
            "side are answers too, and the partner is one.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the sum over one side",
            B * math.log(2 * B - 1),
            "you add up the losses of the B views of one side. Google's code takes the *mean* of each side and adds up "
            "the two means.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the sum over all views",
            2 * B * math.log(2 * B - 1),
            "you add up the losses of all 2B views. Google's code takes the *mean* of each side and adds up the two "
            "means.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "zero",
            0.0,
            "cosines of 0 are no loss of 0: all answers look equally good, so a view's probability of its partner is 1 "
            "divided by the number of answers.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "base 10",
            2 * math.log10(2 * B - 1),
            "that is the logarithm to base 10. torch's cross-entropy uses the natural one: math.log.",
            "log and log10 mixed up; a fresh reader of this lesson",
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
        "`2 * math.log(2 * 8 - 1)`",
    ),
    praise="A loss in somebody's log can be compared with yours only if you know what was added up.",
)

# --- 09.4 the gradient ------------------------------------------------------------------------------------------------


def right_gradient(S, t):
    return ((S / t).softmax(1) - torch.eye(len(S))) / (t * len(S))


score_gradient = Exercise(
    id="09.4",
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
            "probabilities minus one-hot, that is the core of it. Two factors are missing: 1/τ (chain rule, score = "
            "cosine/τ) and 1/B (the loss is a mean).",
            "the loss of one anchor in place of the mean",
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
            "cosines in the softmax",
            lambda S, t: (S.softmax(1) - torch.eye(len(S))) / (t * len(S)),
            "your probabilities are the softmax of the cosines. The loss takes the softmax of the *scores*, cosine/τ: "
            "divide by τ inside the softmax too.",
            "the chain rule's 1/τ taken for the only one; a fresh reader of this lesson",
        ),
        Mistake(
            "times τ",
            lambda S, t: right_gradient(S, t) * t**2,
            "you multiply by τ where the chain rule divides: score = cosine/τ, so its derivative is 1/τ.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "divided by B twice",
            lambda S, t: right_gradient(S, t) / len(S),
            "you divide by B². The loss is the mean over the B rows, not over the B² entries: divide by B once.",
            "a mean over all entries; a fresh reader of this lesson",
        ),
        Mistake(
            "the transpose",
            lambda S, t: right_gradient(S, t).T,
            "this is the transpose: entry [i, j] belongs to the cosine of anchor i and positive j, as in S.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "both ways",
            lambda S, t: (right_gradient(S, t) + right_gradient(S.T, t).T) / 2,
            "this is the gradient of the *symmetric* loss. Asked for is that of the rows alone.",
            "the loss of CLIP; a fresh reader of this lesson",
        ),
        Mistake(
            "the right answers only",
            lambda S, t: right_gradient(S, t).diag().diag(),
            "only the diagonal has a gradient in yours. Every negative's cosine stands in the denominator, so the loss "
            "depends on it too: its gradient is its probability, times 1/τ and 1/B.",
            "the derivative of the numerator alone; a fresh reader of this lesson",
        ),
        Mistake(
            "one softmax over all",
            lambda S, t: ((S / t).flatten().softmax(0).view_as(S) - torch.eye(len(S))) / (t * len(S)),
            "your probabilities add up to 1 over the whole matrix. Each anchor has a softmax of its own, over its row.",
            "softmax without a dimension; a fresh reader of this lesson",
        ),
        Mistake(
            "columns",
            lambda S, t: right_gradient(S.T, t).T,
            "your probabilities add up to 1 over each column. An anchor's answers stand in its row: softmax over "
            "dimension 1.",
            "https://github.com/YuanGongND/ssast/issues/13 (should dim be 0?)",
        ),
    ),
    hints=(
        "For one row and its scores the gradient is probabilities minus one-hot.",
        "Score = cosine/τ gives a factor 1/τ, the mean over the rows a factor 1/B.",
        "`((S / temperature).softmax(1) - torch.eye(len(S))) / (temperature * len(S))`",
    ),
    praise="In every row the pushes add up to the pull.",
    other_ways=(
        lambda S, t: torch.func.grad(lambda s: F.cross_entropy(s / t, torch.arange(len(s))))(S),
        lambda S, t: (S.div(t).softmax(-1) - torch.diag(torch.ones(len(S)))) / len(S) / t,
    ),
)

# --- 09.5 the build: cached_backward ----------------------------------------------------------------------------------


def cached_backward(model, ids, mask, chunk, loss_of):
    parts = list(zip(ids.split(chunk), mask.split(chunk), strict=True))
    states, vectors = [], []
    with torch.no_grad():  # 1: embed, and remember the generator's states
        for part in parts:
            states.append(torch.get_rng_state())
            vectors.append(model(*part))
    vectors = torch.cat(vectors).requires_grad_()
    loss = loss_of(vectors)
    loss.backward()  # 2: the gradient at the vectors, (N, C)
    for part, state, gradient in zip(parts, states, vectors.grad.split(chunk), strict=True):
        torch.set_rng_state(state)
        model(*part).backward(gradient)  # 3: embed again with the same random numbers, and backward
    return loss.detach()


class Watched(nn.Module):
    """A small model of texts, (N, T) ids and mask -> (N, C), that notes how many texts are embedded, and with a graph.

    Of a tanh autograd keeps the result, until the backward pass has gone through it.
    """

    def __init__(self, generator, V=11, C=5, dropout=0.0):
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, C, generator=generator, dtype=torch.float64))
        self.weight = nn.Parameter(torch.randn(C, C, generator=generator, dtype=torch.float64))
        self.dropout = nn.Dropout(dropout)
        self.inside = self.evaluated = False
        self.texts = self.living = self.peak = 0

    def forward(self, ids, mask):
        self.texts = max(self.texts, len(ids))
        self.evaluated = self.evaluated or not self.training
        real = mask[:, :, None].double()
        mean = (self.table[ids] * real).sum(1) / real.sum(1)
        z = self.dropout(mean) @ self.weight
        self.inside = True
        y = torch.tanh(z)
        self.inside = False
        return y

    def keep(self, tensor):
        rows = len(tensor) if self.inside else 0
        self.living += rows
        self.peak = max(self.peak, self.living)
        kept = Kept(tensor.detach())  # with its graph the two would hold each other alive
        finalize(kept, self.let_go, rows)
        return kept

    def let_go(self, rows):
        self.living -= rows

    def gradients(self):
        return tuple(torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters())


class Kept:
    """A tensor of a graph; it goes with the graph."""

    def __init__(self, tensor):
        self.tensor = tensor


def half_and_half(vectors):
    """The loss of the first half's vectors with the second half's."""
    return courses_info_nce_loss(*vectors.chunk(2), temperature=0.2)


def spread(vectors):
    """Another loss of all vectors, in which each meets each."""
    return (vectors @ vectors.T).square().logsumexp(1).sum()


def batch_of(generator, N=8, T=4, V=11):
    ids = torch.randint(V, (N, T), generator=generator)
    return ids, torch.arange(T) < torch.randint(1, T + 1, (N, 1), generator=generator)


def cached(answer, generator, N=8, chunk=2, loss_of=half_and_half, T=4, C=5, dropout=0.0):
    """Return the model after the answer, what the answer returns, and the batch."""
    model, batch = Watched(generator, C=C, dropout=dropout).train(), batch_of(generator, N, T)
    return model, answer(model, *batch, chunk, loss_of), batch


def the_loss(answer, generator):
    _, loss, _ = cached(answer, generator, chunk=8)
    if not isinstance(loss, torch.Tensor):
        raise Fault("return the loss, as a tensor without a graph: `loss.detach()`.")
    return loss, "with a graph" if loss.requires_grad else "without a graph"


def one_chunk(answer, generator):
    return cached(answer, generator, chunk=8)[0].gradients()


def several_chunks(answer, generator):
    model, _, batch = cached(answer, generator, chunk=4)
    found = model.gradients()
    model.zero_grad()
    half_and_half(model(*batch)).backward()
    equal = all((a - b).abs().max() < 1e-10 for a, b in zip(found, model.gradients(), strict=True))
    return *found, "equal to the whole batch's to ten digits" if equal else "not equal to the whole batch's"


def other_batches_and_losses(answer, generator):
    uneven = cached(answer, generator, N=7, chunk=3, loss_of=spread, T=6, C=3)[0].gradients()
    return *uneven, *cached(answer, generator, N=6, chunk=4)[0].gradients()


def added(answer, generator):
    model, batch = Watched(generator).train(), batch_of(generator)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    answer(model, *batch, 4, half_and_half)
    return model.gradients()


def memory(answer, generator):
    model, batch = Watched(generator).train(), batch_of(generator)
    with torch.autograd.graph.saved_tensors_hooks(model.keep, lambda kept: kept.tensor):
        answer(model, *batch, 2, half_and_half)
    if model.texts > 2:
        raise Fault(
            f"the model got {model.texts} texts in one call, where a chunk has 2. In the first and the third pass it "
            "gets `chunk` texts at a time."
        )
    if model.peak > 2:
        raise Fault(
            f"the graphs of {model.peak} texts lived at the same time, where a chunk has 2: that is the memory that "
            "the three passes are to save. Embed without a graph in the first pass, and call `backward` for each chunk "
            "of the third before you embed the next."
        )
    return "one chunk at a time"


def dropped(answer, generator):
    state, torchs = generator.get_state(), torch.get_rng_state()

    def gradients(seed):
        generator.set_state(state)
        torch.manual_seed(seed)
        model = cached(answer, generator, chunk=3, loss_of=spread, dropout=0.4)[0]
        return model.gradients(), model.evaluated

    (one, evaluated), (other, _) = gradients(1), gradients(2)
    if all(map(torch.equal, one, other)) and not evaluated:
        raise Fault(
            "your function drops the same numbers whatever torch's generator holds, because it seeds it. Then every "
            "training step has the same masks. Keep the state as it stands, and put that state back."
        )
    generator.set_state(state)
    torch.set_rng_state(torchs)
    model, loss, _ = cached(answer, generator, chunk=3, loss_of=spread, dropout=0.4)
    if model.evaluated:
        raise Fault("the model was called in evaluation mode, and so without dropout.")
    return *model.gradients(), loss


def what_stays(answer, generator):
    model, batch = Watched(generator).train(), batch_of(generator)
    before = [p.detach().clone() for p in model.parameters()]
    untouched(lambda *it: answer(model, *it, 4, half_and_half), *batch)
    if any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)):
        raise Fault(
            "the model's weights are changed. The function puts gradients into `.grad`; a step is not its task."
        )
    if not model.training:
        raise Fault("the model was in training mode and is in evaluation mode now. The function leaves the mode alone.")
    return all(p.requires_grad for p in model.parameters())


def wrong_caching(**switches):
    """Return a cached_backward that a learner may write; its switches are the mistakes."""
    switch = dict.fromkeys("passed parts graph clears loss states eval sets last".split()) | switches

    def cached_backward(model, ids, mask, chunk, loss_of):
        loss_of = half_and_half if switch["loss"] else loss_of
        parts = list(zip(ids.split(chunk), mask.split(chunk), strict=True))
        if switch["last"]:
            parts = [(i, m) for i, m in parts if len(i) == chunk]
        if switch["eval"]:
            model.eval()
        if switch["clears"] == "first":
            model.zero_grad()
        if switch["parts"] in ("mean", "sum"):
            losses = [loss_of(model(*part)) for part in parts]
            loss = sum(losses) / (len(losses) if switch["parts"] == "mean" else 1)
            loss.backward()
            return loss.detach()
        states, vectors = [], []
        with torch.no_grad():
            for part in parts:
                states.append(torch.get_rng_state())
                vectors.append(model(*part))
        vectors = torch.cat(vectors).requires_grad_()
        loss = loss_of(vectors)
        loss.backward()
        graphs, gradients = [], vectors.grad.split(chunk)
        if switch["states"] == "backwards":
            parts, gradients = parts[::-1], gradients[::-1]
            torch.set_rng_state(states[0])
        for part, state, gradient in zip(parts, states, gradients, strict=True):
            if switch["states"] not in ("new", "backwards"):
                torch.set_rng_state(states[0] if switch["states"] == "one" else state)
            if switch["clears"] == "each":
                model.zero_grad()
            again = model(*part)
            passed = {
                "ones": torch.ones_like(gradient),
                "mean": gradient / gradient.numel(),
                "chunks": gradient / len(parts),
            }
            g = passed.get(switch["passed"], gradient)
            graphs.append((again * g).sum())
            if switch["graph"] != "kept":
                graphs.pop().backward()
        if graphs:
            sum(graphs).backward()
        return loss if switch["sets"] == "graph" else loss.detach()

    return cached_backward


def cached_by_checkpoint(model, ids, mask, chunk, loss_of):
    parts = zip(ids.split(chunk), mask.split(chunk), strict=True)
    loss = loss_of(torch.cat([checkpoint(model, *part, use_reentrant=False) for part in parts]))
    loss.backward()
    return loss.detach()


def cached_by_slices(model, ids, mask, chunk, loss_of):
    """With an optimiser's view of it: gradients by autograd.grad, added to what is there; the state by fork_rng."""
    starts, states, vectors = range(0, len(ids), chunk), {}, []
    for s in starts:
        states[s] = torch.random.get_rng_state()
        with torch.no_grad():
            vectors.append(model(ids[s : s + chunk], mask[s : s + chunk]))
    whole = torch.cat(vectors).detach().requires_grad_(True)
    loss = loss_of(whole)
    (at_vectors,) = torch.autograd.grad(loss, whole)
    for s in starts:
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(states[s])
            again = model(ids[s : s + chunk], mask[s : s + chunk])
        wanted = [p for p in model.parameters() if p.requires_grad]
        for p, g in zip(wanted, torch.autograd.grad(again, wanted, at_vectors[s : s + chunk]), strict=True):
            p.grad = g if p.grad is None else p.grad + g
        del again
    return loss.detach()


def cached_by_detach(model, ids, mask, chunk, loss_of):
    """The first pass builds a graph for each chunk, which goes at once; the third starts from the first one's state."""
    state = torch.get_rng_state()
    parts = list(zip(ids.split(chunk), mask.split(chunk), strict=True))
    vectors = torch.cat([model(*part).detach() for part in parts]).requires_grad_()
    loss = loss_of(vectors)
    loss.backward()
    torch.set_rng_state(state)
    for part, gradient in zip(parts, vectors.grad.split(chunk), strict=True):
        (model(*part) * gradient).sum().backward()
    return loss.detach()


gradient_caching = Build(
    id="09.5",
    course=cached_backward,
    stages=(
        Stage("the loss", the_loss),
        Stage("one chunk", one_chunk),
        Stage("several chunks", several_chunks),
        Stage("other sizes", other_batches_and_losses),
        Stage("gradients add up", added),
        Stage("memory", memory),
        Stage("dropout", dropped),
        Stage("what stays", what_stays),
    ),
    mistakes=(
        Mistake(
            "the loss with its graph",
            wrong_caching(sets="graph"),
            "the loss that you return still has a graph. Return `loss.detach()`: backward has been done.",
            "a log of losses that keeps every graph alive, as lesson 00 warns",
        ),
        Mistake(
            "the cached gradient is not used",
            wrong_caching(passed="ones"),
            "you go back with a gradient of ones, as `vectors.sum().backward()` does: what pass 2 found is not used. "
            "Pass it on: `vectors.backward(gradient)`, or `(vectors * gradient).sum().backward()`.",
            "https://github.com/luyug/GradCache/issues/29 (what the dot product is for)",
        ),
        Mistake(
            "a mean in place of the sum",
            wrong_caching(passed="mean"),
            "you take the *mean* of vectors times gradients, which divides by the size of a chunk. The chain rule has "
            "a sum: `(vectors * gradient).sum()`.",
            "https://github.com/luyug/GradCache/issues/29 (the surrogate is a plain dot product)",
        ),
        Mistake(
            "divided by the number of chunks",
            wrong_caching(passed="chunks"),
            "you divide by the number of chunks, as gradient accumulation does. Here each chunk's part of the gradient "
            "is already that of the whole loss: the parts add up.",
            "loss / accumulation_steps; a fresh reader of this lesson",
        ),
        Mistake(
            "the smaller last chunk left out",
            wrong_caching(last=True),
            "the texts of a last chunk that is smaller than the others are left out. N need not be a multiple of "
            "`chunk`: `split(chunk)` gives the rest too.",
            "N // chunk chunks, or drop_last; a fresh reader of this lesson",
        ),
        Mistake(
            "gradient accumulation",
            wrong_caching(parts="mean"),
            "this is gradient accumulation: the loss of each chunk alone, then the mean. Each text sees only the "
            "negatives of its own chunk. The loss must be computed once, from the vectors of the whole batch.",
            "https://github.com/huggingface/sentence-transformers/pull/1822 (what it misses, from the maintainer)",
        ),
        Mistake(
            "gradient accumulation, added up",
            wrong_caching(parts="sum"),
            "this adds up the losses of the chunks: each text sees only the negatives of its own chunk. Compute the "
            "loss once, from all vectors.",
            "https://github.com/mdiephuis/SimCLR/issues/13 (losses of batches do not add up)",
        ),
        Mistake(
            "the last chunk only",
            wrong_caching(clears="each"),
            "this is the gradient of the last chunk alone. The parts of all chunks add up: do not clear the gradient "
            "in between, and do not overwrite it.",
            "optimizer.zero_grad() inside the loop, the slip that lesson 00 warns of",
        ),
        Mistake(
            "one fixed loss",
            wrong_caching(loss=True),
            "`loss_of` is not used: your function computes one loss of its own. Any loss of the vectors should do.",
            "the notebook's loss in place of the argument",
        ),
        Mistake(
            "the gradient is cleared first",
            wrong_caching(clears="first"),
            "what was in `.grad` before is lost. Add to it, as `backward` does; clearing is the training loop's task.",
            "zero_grad inside a function that others call twice",
        ),
        Mistake(
            "all graphs at once",
            wrong_caching(graph="kept"),
            "the gradient is right, but the graphs of all chunks live at the same time: that is the memory that the "
            "three passes are to save. Call `backward` for each chunk before you embed the next, without "
            "`retain_graph`.",
            "a surrogate loss added up over the chunks",
        ),
        Mistake(
            "new dropout masks",
            wrong_caching(states="new"),
            "without dropout it is right. With it, your third pass draws new masks, so its vectors are not those that "
            "the gradient belongs to. Keep `torch.get_rng_state()` before each chunk of pass 1 and set it again before "
            "that chunk of pass 3.",
            "https://github.com/luyug/GradCache (its RandContext keeps the state)",
        ),
        Mistake(
            "one state for all chunks",
            wrong_caching(states="one"),
            "you set the first chunk's state before every chunk of the third pass. Each chunk needs its own: in pass 1 "
            "the generator had moved on.",
            "a manual_seed inside the loop",
        ),
        Mistake(
            "dropout switched off",
            wrong_caching(eval=True),
            "you switch dropout off (`model.eval()`) for a pass at least. Train the model as it is, with "
            "the same masks in the first and in the third pass.",
            "eval mode as a way around the masks",
        ),
        Mistake(
            "the chunks backwards",
            wrong_caching(states="backwards"),
            "your third pass takes the chunks in another order than the first, so each chunk gets the masks of another "
            "one. Keep the order of the texts, or set each chunk's own state.",
            "backward read as an order; a fresh reader of this lesson",
        ),
    ),
    hints=(
        "Pass 1 under `torch.no_grad()`, chunk by chunk: `vectors = torch.cat([…]).requires_grad_()` is the start of a "
        "new graph.",
        "Pass 2: `loss = loss_of(vectors)`, `loss.backward()`. Now `vectors.grad` (N, C) holds what pass 3 needs.",
        "Pass 3: `for part, gradient in zip(parts, vectors.grad.split(chunk)): model(*part).backward(gradient)`.",
        "Dropout: `states.append(torch.get_rng_state())` before each chunk of pass 1, `torch.set_rng_state(state)` "
        "before that chunk of pass 3.",
    ),
    praise="The gradient of the whole batch, with the graph of one chunk at a time.",
    other_ways=(cached_by_checkpoint, cached_by_slices, cached_by_detach, wrong_caching()),
)
