"""The checks of lesson 22, Looking inside."""

import torch
from scipy.stats import kendalltau, rankdata, spearmanr
from torch import nn

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    flat,
    hint,
    mine,
    run,
    same,
    solution,
    untouched,
)
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel

__all__ = [
    "activation_patching",
    "certain_cells",
    "explanation_scorer",
    "hint",
    "integrated_gradients",
    "mine",
    "solution",
]

# --- 22.1 the build: score_explanation --------------------------------------------------------------------------------


def mean_ranks(x):
    """x: (n,) -> the rank of each value, from 0; equal values share the mean of their ranks"""
    below = (x[None, :] < x[:, None]).sum(1)
    equal = (x[None, :] == x[:, None]).sum(1)
    return below + (equal - 1).double() / 2


def score_explanation(scores, truth, words):
    """scores, truth: (B, T), words: boolean (B, T) -> rank correlations (B,) and hits (B,), float64"""
    correlations, hits = torch.full((2, len(scores)), torch.nan, dtype=torch.float64)
    for i in range(len(scores)):
        s, t = scores[i, words[i]].abs(), truth[i, words[i]]
        if len(t) == 0 or (t == t[0]).all():
            continue  # the text asks nothing
        a, b = mean_ranks(s), mean_ranks(t)
        a, b = a - a.mean(), b - b.mean()
        lengths = a.norm() * b.norm()
        correlations[i] = a @ b / lengths if lengths > 0 else 0
        hits[i] = (t[s == s.max()] == t.max()).double().mean()
    return correlations, hits


def distinct(generator, *shape):
    """Return positive numbers of which no two are equal, unevenly spaced."""
    n = torch.Size(shape).numel()
    return ((torch.randperm(n, generator=generator) + 1.0) ** 3).view(shape) / n**3


def one_text(answer, generator):
    """Seven words whose ranks agree in part: five in order, then the largest truth moved down, then up."""
    truth = torch.tensor([[0.01, 0.02, 0.05, 0.1, 0.3, 0.9, 0.6]])
    scores = torch.tensor([[1.0, 3.0, 2.0, 5.0, 80.0, 900.0, 6.0]])
    order = torch.randperm(7, generator=generator)
    every = torch.ones(1, 7, dtype=torch.bool)
    found = both(answer(scores[:, order], truth[:, order], every), 1)
    scores[0, 5] = 4.0  # the word with the largest truth no longer has the largest score
    return *found, *both(answer(scores[:, order], truth[:, order], every), 1)


def both(result, n):
    """Return the two results; Fault for anything else than two tensors (n,), float64."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Fault(f"it returns {describe(result)}; expected `return correlations, hits`.")
    for name, value in zip(("correlations", "hits"), result, strict=True):
        if not isinstance(value, torch.Tensor):
            raise Fault(f"the {name} are {describe(value)}; expected a tensor with one number for each text.")
        if value.ndim == 1 and len(value) < n:
            raise Fault(
                f"the {name} are {len(value)} of {n} numbers. Each text has its own, NaN where it asks nothing: leave "
                "out none, and return after the loop."
            )
        if value.shape == ():
            raise Fault(
                f"the {name} are one number. Return one for each of the {n} texts, (B,): the lesson takes means and "
                "paired intervals over texts later."
            )
        if value.shape != (n,):
            raise Fault(f"the {name} have the shape {tuple(value.shape)}; expected ({n},), one number for each text.")
        if value.dtype != torch.float64:
            raise Fault(f"the {name} are {value.dtype}; expected torch.float64: make ranks with `.double()`.")
    return tuple(result)


def with_others(answer, generator, T=11):
    """One text in which tokens that do not count, at the ends and in the middle, have the largest scores."""
    scores, truth = distinct(generator, 1, T), distinct(generator, 1, T)
    words = torch.ones(1, T, dtype=torch.bool)
    words[0, [0, 4, T - 1]] = False
    scores[0, ~words[0]] = torch.tensor([5.0, 3.0, 0.0])
    truth[0, ~words[0]] = torch.tensor([0.0, 2.0, 0.5])
    return both(answer(scores, truth, words), 1)


def signs(answer, generator):
    """The size counts: the strongest word speaks against the guess; and one explanation is the wrong way round."""
    truth = distinct(generator, 1, 8)
    against = truth * torch.where(torch.randperm(8, generator=generator) % 2 == 0, -1.0, 1.0)
    against[0, truth[0].argmax()] = -1.5
    every = torch.ones(1, 8, dtype=torch.bool)
    return *both(answer(against, truth, every), 1), *both(answer(2 - truth, truth, every), 1)


def ties(answer, generator):
    """Equal scores and equal truths: shared ranks, and the expectation of the hit."""
    truth = torch.tensor([[0.7, 0.0, 0.7, 0.0, 0.0, 0.2, 0.0, 0.0]])
    of_three = torch.tensor([[0.1, 0.5, 0.5, -0.5, 0.0, 0.0, 0.3, 0.3]])  # one of the three is right
    second = torch.tensor([[0.1, 0.0, 0.9, 0.0, 0.2, 0.3, -0.05, 0.0]])  # the second of two right words
    of_two = torch.tensor([[-0.9, 0.9, 0.0, 0.0, 0.2, 0.3, 0.0, 0.0]])  # the first of the two is right
    drawn = torch.randint(-3, 4, (1, 8), generator=generator) / 4
    every = torch.ones(1, 8, dtype=torch.bool)
    nearly = of_three.double() + 1e-12 * torch.arange(8)  # no two are equal
    found = [both(answer(scores, truth, every), 1) for scores in (of_three, second, of_two, drawn, nearly)]
    return tuple(value for pair in found for value in pair)


def several_texts(answer, generator, B=5, T=9):
    """Texts on different scales, of different lengths."""
    scores, truth = distinct(generator, B, T), distinct(generator, B, T)
    scale = 10.0 ** torch.arange(B)[:, None]
    lengths = torch.randint(4, T + 1, (B, 1), generator=generator)
    lengths[0] = T - 2
    words = torch.arange(T) < lengths
    scores[0, truth[0].masked_fill(~words[0], 0).argmax()] = 2  # a hit among the words, though others have more
    return both(answer((scores + 5 * ~words) * scale, (truth + 3 * ~words) / scale, words), B)


def nothing_asked(answer, generator):
    """Equal truths: NaN; equal scores: 0 and chance; no word and one word: NaN."""
    truth = torch.tensor([[0.0] * 4, [0.0, 0.4, 0.0, 0.1], [0.2, 0.4, 0.0, 0.1], [0.2, 0.4, 0.0, 0.1], [0.3] * 4])
    scores = distinct(generator, 5, 4)
    scores[1] = 0.25
    words = torch.ones(5, 4, dtype=torch.bool)
    words[2], words[3, 1:] = False, False
    return both(answer(scores, truth, words), 5)


def leaves_arguments(answer, generator):
    scores, truth = distinct(generator, 2, 6) - 0.4, distinct(generator, 2, 6).double()
    words = torch.ones(2, 6, dtype=torch.bool)
    words[:, -1] = False
    return both(untouched(answer, scores, truth, words, names=("scores", "truth", "words")), 2)


def other_texts(answer, generator):
    a = several_texts(answer, generator, B=2, T=15)
    return *a, *both(answer(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool)), 0)


def wrong_scorer(**switches):
    """Return a score_explanation that a learner may write; its switches are the mistakes."""
    names = "abs rho ranks ties only counted hit edge gives order"
    switch = dict.fromkeys(names.split()) | switches

    def ranked(x):
        if switch["ranks"] == "values":
            return x.double()
        if switch["ranks"] == "argsort once":
            return x.argsort().double()
        if switch["ties"] == "order":
            return x.argsort(stable=True).argsort().double()
        below, equal = (x[None] < x[:, None]).sum(1).double(), (x[None] == x[:, None]).sum(1)
        return {
            "least": below,
            "greatest": below + equal - 1,
            "whole": below + (equal - 1) // 2,
            "dense": x.unique(return_inverse=True)[1].double(),
        }.get(switch["ties"], mean_ranks(x))

    def score(scores, truth, words):
        B = len(scores)
        correlations, hits = torch.full((2, B), torch.nan, dtype=torch.float64)
        if switch["abs"] == "in place":
            scores.abs_()
        elif switch["abs"] is None:
            scores = scores.abs()
        elif switch["abs"] == "clamped":
            scores = scores.clamp(min=0)
        if switch["counted"] == "zero":
            scores, truth, words = scores * words, truth * words, torch.ones_like(words)
        if switch["counted"] == "others":
            words = ~words
        if switch["counted"] == "scores":
            scores, words = scores * words, torch.ones_like(words)
        if switch["counted"] == "all":
            words = torch.ones_like(words)
        if switch["counted"] == "ends":
            words = torch.ones_like(words)
            words[:, [0, -1]] = False
        pooled = None
        if switch["ranks"] == "pooled":
            pooled = torch.zeros(2, *scores.shape, dtype=torch.float64)
            pooled[:, words] = torch.stack([mean_ranks(scores[words]), mean_ranks(truth[words])])
        if switch["ranks"] == "of the row":
            pooled = [torch.stack([mean_ranks(row) for row in x]) for x in (scores, truth)]
        for i in range(B):
            s, t = scores[i, words[i]], truth[i, words[i]]
            sized = s.abs() if switch["abs"] == "hit only" else s
            s = s.abs() if switch["abs"] == "ranks only" else s
            if len(t) == 0:
                if switch["edge"] == "no words":
                    t.max()
                continue
            if (t == t[0]).all():
                if switch["edge"] in ("truth counts", "truth hits", "half"):
                    correlations[i] = torch.nan if switch["edge"] == "half" else 0
                    hits[i] = 0 if switch["edge"] == "truth counts" else 1
                continue
            a, b = ((mean_ranks if switch["only"] in names else ranked)(x) for x, names in ((s, ["t"]), (t, ["s"])))
            if pooled is not None:
                a, b = (p[i, words[i]] for p in pooled)
            n = len(a)
            if switch["rho"] == "formula":
                rho = 1 - 6 * (a - b).square().sum() / (n * (n * n - 1))
            elif switch["rho"] == "kendall":
                rho = torch.tensor(kendalltau(s.numpy(), t.numpy()).statistic)
            else:
                if switch["rho"] != "cosine":
                    a, b = a - a.mean(), b - b.mean()
                lengths = a.norm() * b.norm()
                rho = a @ b / lengths if lengths > 0 or switch["edge"] == "constant" else torch.zeros(())
                rho = rho * {"n": (n - 1) / n, "n - 1": n / (n - 1)}.get(switch["rho"], 1)
            if switch["rho"] == "abs":
                rho = abs(rho)
            if switch["order"]:
                rho = -rho
            correlations[i] = rho
            s = scores[i, words[i]] if switch["abs"] == "ranks only" else sized
            top = s == s.max()
            right = t == t.max()
            hits[i] = {
                None: (right[top]).double().mean(),
                "argmax": right[s.argmax()].double(),
                "all": right[top].all().double(),
                "any": (right & top).any().double(),
                "one right": (torch.arange(n) == t.argmax())[top].double().mean(),
                "same argmax": (s.argmax() == t.argmax()).double(),
                "of the right": top[right].double().mean(),
                "sets": torch.equal(top, right) * torch.ones((), dtype=torch.float64),
            }[switch["hit"]]
        if switch["gives"] == "means":
            return correlations.nanmean(), hits.nanmean()
        if switch["gives"] == "float32":
            return correlations.float(), hits.float()
        if switch["gives"] == "exchanged":
            return hits, correlations
        if switch["edge"] == "constant hit":
            for i in range(B):
                s = scores[i, words[i]]
                if len(s) and (s == s[0]).all() and not hits[i].isnan():
                    hits[i] = 0
        return correlations, hits

    return score


def scored_by_scipy(scores, truth, words):
    found = []
    for s, t, w in zip(scores.abs(), truth, words, strict=True):
        s, t = s[w], t[w]
        if len(t) < 2 or t.max() == t.min():
            found.append((torch.nan, torch.nan))
            continue
        best, top = t.max(), (s == s.max()).nonzero().flatten().tolist()
        rho = 0.0 if s.max() == s.min() else spearmanr(s.numpy(), t.numpy()).statistic
        found.append((float(rho), sum(float(t[j] == best) for j in top) / len(top)))
    table = torch.tensor(found, dtype=torch.float64).view(-1, 2)
    return table[:, 0], table[:, 1]


def scored_by_rankdata(scores, truth, words):
    rho, hit = [], []
    for i in range(scores.shape[0]):
        s = torch.abs(scores[i][words[i]]).double()
        t = truth[i][words[i]].double()
        if t.numel() == 0 or bool((t.max() - t.min()) == 0):
            rho.append(torch.tensor(float("nan")))
            hit.append(torch.tensor(float("nan")))
            continue
        a, b = torch.tensor(rankdata(s)), torch.tensor(rankdata(t))
        r = torch.corrcoef(torch.stack([a, b]))[0, 1]
        rho.append(torch.nan_to_num(r, nan=0.0))
        hit.append(((s == s.max()) & (t == t.max())).sum() / (s == s.max()).sum())
    if not rho:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return torch.stack(rho).double(), torch.stack(hit).double()


def scored_at_once(scores, truth, words):
    """Without a loop over texts: everything (B, T, T), and what does not count left out of the sums."""

    def centred(x):
        pair = words[:, :, None] & words[:, None, :]
        below = ((x[:, None, :] < x[:, :, None]) & pair).sum(-1)
        equal = ((x[:, None, :] == x[:, :, None]) & pair).sum(-1)
        ranks = (below + (equal - 1).double() / 2) * words
        return (ranks - ranks.sum(1, keepdim=True) / words.sum(1, keepdim=True)) * words

    s, t = scores.double().abs(), truth.double()
    a, b = centred(s), centred(t)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    rho = torch.where(lengths > 0, (a * b).sum(1) / lengths.clamp(min=1e-12), 0)
    if s.shape[0] == 0:
        return rho, rho
    low = torch.finfo(torch.float64).min
    top = words & (s == s.masked_fill(~words, low).amax(1, keepdim=True))
    best = words & (t == t.masked_fill(~words, low).amax(1, keepdim=True))
    hit = (top & best).sum(1).double() / top.sum(1)
    nothing = (best == words).all(1)
    return rho.masked_fill(nothing, torch.nan), hit.masked_fill(nothing, torch.nan)


NEARLY_RIGHT = (
    (dict(ranks="values", only="s"), "the scores enter by their values, only the truths are ranked. Rank both lists."),
    (dict(ranks="values", only="t"), "the truths enter by their values, only the scores are ranked. Rank both lists."),
    (dict(rho="cosine"), "this is the cosine of the two lists of ranks. First subtract from each list its mean."),
    (dict(rho="n"), "the correlation is too small: `std` divides by n − 1, your covariance by n. Use one of the two."),
    (dict(rho="n - 1"), "the correlation is too large: the covariance is divided by n − 1, the deviations by n."),
    (dict(gives="exchanged"), "the two results are exchanged. Return the correlations first, then the hits."),
    (dict(counted="others"), "you take the tokens that do *not* count. `words` is True for those that do."),
    (dict(counted="scores"), "only the *scores* of tokens that do not count become 0. Leave them out of both lists."),
    (dict(ranks="of the row"), "you rank all tokens, then choose some. First choose those that count, then rank."),
    (dict(abs="none", rho="abs"), "you take the size of the correlation. Take that of the scores, before the ranks."),
    (dict(ties="greatest"), "equal values share the *greatest* of their ranks. Take the mean of these ranks."),
    (dict(ties="dense"), "two equal values occupy *two* ranks, so the rank of the next value is 2 more, not 1."),
    (dict(ties="whole"), "the mean of two ranks may lie halfway; yours is rounded down. Divide with `/`, not `//`."),
    (dict(ties="order", only="s"), "equal truths share their ranks, equal scores do not. Treat both lists alike."),
    (dict(ties="order", only="t"), "equal scores share their ranks, equal truths do not. Treat both lists alike."),
)
SPECIAL = ("all truths are 0", "all scores are equal", "no word counts", "only one word counts", "all truths are 0.3")


def about_scores(answer, stage):
    """Say which variant gives the stage's results, or in which text a hit or a special case is wrong."""
    calls, seeded = [], lambda: torch.Generator().manual_seed(1000)
    found = stage.run(lambda *case: calls.append((case, answer(*case))) or calls[-1][1], seeded())
    for switches, sentence in NEARLY_RIGHT:
        wrong = stage.run(wrong_scorer(**switches), seeded())
        if same(found, wrong) and not same(wrong, stage.run(score_explanation, seeded())):
            return sentence
    for case, yours in calls:
        if not all(same(answer(*case), yours) for _ in range(9)):
            return "two calls with the same arguments give different results. Draw nothing: compute the expectation."
        for i, (rho, hit, your_rho, your_hit) in enumerate(zip(*score_explanation(*case), *yours, strict=True)):
            if same(your_rho, rho) and same(your_hit, hit):
                continue
            if stage.run is nothing_asked:
                return (
                    f"where {SPECIAL[i]}, the correlation should be {rho:.2f} and the hit {hit:.2f}; yours are "
                    f"{your_rho:.2f} and {your_hit:.2f}."
                )
            if stage.run is ties and case[0].dtype == torch.float64:
                return "values that are nearly equal are taken for equal. Compare them exactly, in their own dtype."
            if not same(your_rho, rho):
                return None
            s, t = case[0][i, case[2][i]].abs(), case[1][i, case[2][i]]
            first, best = ((x == x.max()).nonzero()[:, 0].tolist() for x in (s, t))
            return (
                f"the correlations are right, a hit is not. Of {len(s)} words that count, numbered from 0, those "
                f"with the largest score are {first}, with the largest truth {best}. Expected {hit:.2f}; yours is "
                f"{your_hit:.2f}."
            )
    return None


explanation_scorer = Build(
    id="22.1",
    course=score_explanation,
    stages=(
        Stage("one text", one_text),
        Stage("only the words", with_others),
        Stage("signs", signs),
        Stage("ties", ties),
        Stage("several texts", several_texts),
        Stage("what asks nothing", nothing_asked),
        Stage("what stays", leaves_arguments),
        Stage(OTHER_SIZES, other_texts),
    ),
    mistakes=(
        Mistake(
            "argsort taken for ranks",
            wrong_scorer(ranks="argsort once"),
            "`argsort` gives the *places* of the values in sorted order, not the rank of each value. Apply it "
            "twice, or count for each value how many are smaller.",
            "https://github.com/statlab/permute/issues/191",
        ),
        Mistake(
            "no ranks",
            wrong_scorer(ranks="values"),
            "this is the correlation of the *values*, in which one large score decides everything. Replace scores and "
            "truths by their ranks first.",
            "Pearson's correlation taken for Spearman's: numpy.corrcoef on the raw scores",
        ),
        Mistake(
            "Kendall's tau",
            wrong_scorer(rho="kendall"),
            "this is Kendall's tau, which counts pairs in the same order. The text asks for the ordinary "
            "correlation of the two lists of ranks, which is Spearman's.",
            "scipy.stats.kendalltau in place of spearmanr",
        ),
        Mistake(
            "one list upside down",
            wrong_scorer(order=True),
            "the correlation has the wrong sign: one of the two lists is ranked from the largest down, the other from "
            "the smallest up. Rank both the same way.",
            "argsort(descending=True) on the scores only",
        ),
        Mistake(
            "all tokens counted",
            wrong_scorer(counted="all"),
            "`words` is not used: the gap, special tokens and padding are counted. They have no say in the truth, and "
            "attention to [CLS] would count as an error, or as a hit.",
            "explanations scored with [CLS] and [SEP]; https://github.com/meta-pytorch/captum/issues/1178",
        ),
        Mistake(
            "only the ends left out",
            wrong_scorer(counted="ends"),
            "you leave out the first and the last token, and no others. `words` also excludes the gap and other tokens "
            "in the middle, and padding at the end.",
            "ids[1:-1], which fits a text without gaps and padding",
        ),
        Mistake(
            "zeros in place of leaving out",
            wrong_scorer(counted="zero"),
            "tokens that do not count are set to one value (zero, or −∞) and so are still ranked, with agreement "
            "at the bottom that nobody earned. Leave them out: `scores[i, words[i]]`.",
            "multiplying by a mask, as lesson 01 warns for means",
        ),
        Mistake(
            "no absolute value",
            wrong_scorer(abs="none"),
            "a strongly negative score ranks last. The truth measures how much a word matters, not in which direction, "
            "so take absolute values of the scores first.",
            "gradient × input ranked with its sign",
        ),
        Mistake(
            "negative scores cut off",
            wrong_scorer(abs="clamped"),
            "negative scores are set to zero. A word that speaks against the guess matters too: take its absolute "
            "value.",
            "the ReLU of a saliency map",
        ),
        Mistake(
            "absolute values in the ranks only",
            wrong_scorer(abs="ranks only"),
            "the correlation takes the size of the scores, the hit does not: a strongly negative score is the largest "
            "too. Take absolute values once, before both.",
            "abs() inside the ranking helper; a fresh reader of this lesson",
        ),
        Mistake(
            "absolute values in the hit only",
            wrong_scorer(abs="hit only"),
            "the hit takes the size of the scores, the ranks do not. Take absolute values once, before both.",
            "abs() beside argmax only; a fresh reader of this lesson",
        ),
        Mistake(
            "the correlation without its sign",
            wrong_scorer(rho="abs"),
            "the absolute value belongs to the scores, not to the correlation: an explanation in the reverse order "
            "would get full marks.",
            "abs() applied to the result; a fresh reader of this lesson",
        ),
        Mistake(
            "ties broken by position",
            wrong_scorer(ties="order"),
            "equal values get different ranks, by their position in the text. They share the mean of the ranks "
            "that they occupy.",
            "https://github.com/TheAlgorithms/Python/issues/14887",
        ),
        Mistake(
            "ties at the least rank",
            wrong_scorer(ties="least"),
            "equal values share the *least* of their ranks, as in sports. Spearman's correlation needs the mean of the "
            "ranks that they occupy: add half of the number of the other equal ones.",
            "https://github.com/simple-statistics/simple-statistics/pull/554",
        ),
        Mistake(
            "the formula without ties",
            wrong_scorer(rho="formula"),
            "1 − 6 Σd² / (n(n² − 1)) holds only where no two values are equal. Compute the correlation of the two "
            "lists of ranks.",
            "https://github.com/TheAlgorithms/Python/issues/14887",
        ),
        Mistake(
            "the first of the tied",
            wrong_scorer(hit="argmax"),
            "`argmax` takes the first of several equal scores. The hit is an expectation: of the words with the "
            "largest score, the proportion that is right.",
            "argmax on tied scores: an explanation of equal scores would always name the first word",
        ),
        Mistake(
            "all of the tied",
            wrong_scorer(hit="all"),
            "a hit counts only if *all* of the tied words are right. Take the proportion of them that are right.",
            "all() in place of mean(); a fresh reader of this lesson",
        ),
        Mistake(
            "one of the tied is enough",
            wrong_scorer(hit="any"),
            "a hit counts fully if *any* of the tied words is right, so equal scores everywhere would always hit. Take "
            "the proportion of the tied words that are right.",
            "optimistic ranks; lesson 12 has the same convention for MRR",
        ),
        Mistake(
            "one right word only",
            wrong_scorer(hit="one right"),
            "where several words share the largest truth, each of them is right. You accept only the first.",
            "truth.argmax()",
        ),
        Mistake(
            "two argmaxes compared",
            wrong_scorer(hit="same argmax"),
            "you compare two `argmax`es, which take the first of equal values, in the scores and in the truths. "
            "Ties must count by their expectation, and every word with the largest truth is right.",
            "scores.argmax() == truth.argmax()",
        ),
        Mistake(
            "the proportion of the right ones",
            wrong_scorer(hit="of the right"),
            "this is how many of the right words are among the first. The exercise asks for the other proportion: how "
            "many of the words with the largest score are right.",
            "recall in place of precision",
        ),
        Mistake(
            "the same sets",
            wrong_scorer(hit="sets"),
            "a hit counts only if the tied words are exactly the right ones. Take the proportion of the words with the "
            "largest score that are right.",
            "two masks compared with torch.equal",
        ),
        Mistake(
            "ranked over all texts",
            wrong_scorer(ranks="pooled"),
            "the ranks are those among the words of *all* texts. Scores of two texts live on two scales: rank "
            "within each text.",
            "argsort on the flattened batch",
        ),
        Mistake(
            "NaN for equal scores",
            wrong_scorer(edge="constant"),
            "an explanation with equal scores gives 0/0. It has no order, and the text says: its correlation is 0.",
            "scipy.stats.spearmanr returns nan for a constant input",
        ),
        Mistake(
            "no hit for equal scores",
            wrong_scorer(edge="constant hit"),
            "where all scores are equal, the hit is what a word drawn at random gets, not 0.",
            "a special case that forgets the expectation; a fresh reader of this lesson",
        ),
        Mistake(
            "a text that asks nothing counts as wrong",
            wrong_scorer(edge="truth counts"),
            "where all truths are equal there is no order and no first word to find: both results are NaN, so that the "
            "text can be left out of the mean.",
            "zero_division=0 as a habit",
        ),
        Mistake(
            "a text that asks nothing counts as a hit",
            wrong_scorer(edge="truth hits"),
            "where all truths are equal, any word has the largest one, and you count a hit. Nothing was asked "
            "there: both results are NaN.",
            "the general case without a look at equal truths",
        ),
        Mistake(
            "only the correlation is NaN",
            wrong_scorer(edge="half"),
            "where all truths are equal the correlation is NaN and a hit is counted. Such a text asks nothing: "
            "both results are NaN.",
            "0/0 gives the one NaN, and nothing the other",
        ),
        Mistake(
            "a text without words",
            wrong_scorer(edge="no words"),
            "a text in which no word counts raises an error, because `max` of nothing does not exist. Its "
            "results are NaN.",
            "padding-only rows; a fresh reader of this lesson",
        ),
    ),
    hints=(
        "Loop over the texts, and take `s = scores[i, words[i]].abs()` and `t = truth[i, words[i]]`.",
        "A rank from 0: `(x[None, :] < x[:, None]).sum(1)` counts for each value how many are smaller. Add half of the "
        "number of *other* equal values.",
        "Centre both lists of ranks; the correlation is `a @ b / (a.norm() * b.norm())`. Look at a length of 0 first.",
        "The hit: `(t[s == s.max()] == t.max()).double().mean()`.",
        "Start with `torch.full((B,), torch.nan, dtype=torch.float64)` and skip the texts that ask nothing.",
    ),
    praise="Within each text, ties shared, nothing counted that has no say.",
    other_ways=(scored_by_scipy, scored_by_rankdata, scored_at_once, wrong_scorer()),
    about=about_scores,
)

# --- 22.2 find the bug ------------------------------------------------------------------------------------------------


def right_gradients(f, x, baseline, steps):
    total = torch.zeros_like(x)
    for k in range(steps):
        alpha = (k + 0.5) / steps
        point = (baseline + alpha * (x - baseline)).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(f(point).sum(), point)
        total = total + gradient / steps
    return ((x - baseline) * total).sum(-1).detach()


def bent(x):
    """(B, T, C) -> (B,): curved, and different at each position."""
    weight = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None] / x.shape[1]
    return (x * weight).sum((1, 2)).pow(3) / 3 + (x.pow(3) * weight).sum((1, 2))


def lines(generator):
    x, baseline = torch.randn(2, 3, 4, 5, generator=generator)
    return bent, x, baseline, 6


def other_lines(generator):
    x, baseline = torch.randn(2, 1, 6, 3, generator=generator)
    return (lambda y: y.prod(-1).sum(1)), x, baseline, 8


def wrong_gradients(path="right", times="change", gather="mean", over=-1):
    def integrate(f, x, baseline, steps):
        total, summed = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(steps):
            alpha = (k + 0.5) / steps
            point = {
                "right": baseline + alpha * (x - baseline),
                "scaled": alpha * x,
                "added": baseline + alpha * x,
                "at x": x.clone(),
                "halves": alpha * (x - baseline),
            }[path]
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(f(point).sum(), point)
            summed = summed + gradient
            total = gradient if gather == "last" else total + gradient
        mean = total if gather == "sum" else total / steps
        factor = {"change": x - baseline, "x": x, "back": baseline - x, "one": torch.ones_like(x)}[times]
        product = factor * mean
        found = product.norm(dim=-1) if over == "norm" else product if over is None else product.sum(-1)
        return found.detach()

    return integrate


def gradients_by_batch(f, x, baseline, steps):
    """All points at once, and the sum written as an einsum."""
    alpha = (torch.arange(steps, dtype=x.dtype) + 0.5) / steps
    points = torch.lerp(baseline[None], x[None], alpha[:, None, None, None]).detach().requires_grad_()
    f(points.flatten(0, 1)).sum().backward()
    return torch.einsum("btc,btc->bt", x.detach() - baseline.detach(), points.grad.mean(0))


def gradients_by_alpha(f, x, baseline, steps):
    x, baseline = x.detach(), baseline.detach()
    way, total = x - baseline, 0
    for alpha in torch.linspace(0.5 / steps, 1 - 0.5 / steps, steps).tolist():
        point = ((1 - alpha) * baseline + alpha * x).clone().requires_grad_(True)
        total = total + torch.autograd.grad(f(point).sum(), [point])[0]
    return (way * (total / steps)).sum(dim=2)


ONE_NUMBER = "`f` gives one number for each text, and torch takes gradients of one number only: `f(point).sum()`."
NO_LEAF = "torch takes no gradient in a point of which it keeps no record: `point.detach().requires_grad_()`."
NO_GRAPH = (
    "`f` runs under `torch.no_grad()`, so torch records nothing that it could differentiate. Leave `no_grad` out, and "
    "detach the result instead."
)


def about_gradients(answer, case):
    """Say at which points an answer asks f, and, where these are right, what becomes of the gradients."""
    (f, x, baseline, steps), points, recorded = case, [], [True]

    def asked_at(p):
        points.append(p.detach().clone())
        recorded.append(torch.is_grad_enabled())
        return f(p)

    yours = run(lambda: answer(asked_at, x, baseline, steps), ())
    if isinstance(yours, RuntimeError):
        no_record = NO_LEAF if recorded[-1] else NO_GRAPH
        errors = {"only for scalar outputs": ONE_NUMBER, "does not require grad": no_record}
        return next((sentence for words, sentence in errors.items() if words in str(yours)), None)
    if not isinstance(yours, torch.Tensor):
        return None
    way, right = x - baseline, right_gradients(*case)
    if yours.shape != right.shape:
        done = {3: "nothing is summed", 2: "the sum runs over the tokens"}.get(yours.ndim, "too much is summed")
        return f"{done}. Each token gets one number, (B, T): sum over the features, the last axis."
    if not points:
        return "`f` is never asked."
    if yours.dtype != right.dtype or any(len(p) % len(x) or p.shape[1:] != x.shape[1:] for p in points):
        return None  # text by text, for example
    asked = torch.cat(points).reshape(-1, *x.shape)
    alpha = ((asked - baseline) * way).sum((1, 2, 3)) / way.square().sum()
    if not same(asked, baseline + alpha[:, None, None, None] * way):
        return "you ask `f` at points beside the straight line from the baseline to x, of each text its own."
    middle = (torch.arange(steps) + 0.5) / steps
    if not same(alpha.sort().values, middle):
        places, wanted = (", ".join(f"{a:.2f}" for a in each[:steps].tolist()) for each in (alpha, middle))
        more = ", …" if len(alpha) > steps else ""
        return f"with {steps} steps you ask `f` at α = {places}{more}. The middles of the steps are {wanted}."
    if same(yours, right.abs()):
        return "the sign is lost: a token that lowers f has a negative attribution."
    ratio = (yours / right).mean()
    if same(yours, right * ratio):
        means = ((len(x), " Is there a mean over the texts?"), (x.shape[2], " Is there a mean over the features?"))
        why = next((sentence for n, sentence in means if abs(ratio * n - 1) < 1e-3), "")
        return f"every value is {ratio:.4g} times what it should be.{why}"
    return (
        "your points are right. Look at what becomes of the gradients: each is taken in the point itself and enters "
        "the mean once; the mean is multiplied by x − baseline and summed over the features."
    )


def leaves_no_graph(answer, case):
    f, x, baseline, steps = case
    if answer(*case).requires_grad:
        return "it still has a graph. Return the attributions with `.detach()`."
    if x.requires_grad or baseline.requires_grad:
        return "`requires_grad` of an argument is switched on afterwards. Switch it on for your points only."
    weight = torch.ones((), requires_grad=True)  # as a model's embeddings
    if getattr(run(lambda: answer(f, x * weight, baseline * weight, steps), ()), "requires_grad", False):
        return "where x comes with a graph, as a model's embeddings do, the result has one, too: `.detach()` it."
    return None


integrated_gradients = Exercise(
    id="22.2",
    right=right_gradients,
    inputs=lines,
    also=other_lines,
    mistakes=(
        Mistake(
            "the line starts at zero",
            wrong_gradients("scaled"),
            "the points still lie on the line from *zero* to x, while the last line multiplies by x − baseline. Start "
            "at the baseline: baseline + α (x − baseline).",
            "the midpoints of the text's own function; integrated gradients with alpha * x is a line from zero",
        ),
        Mistake(
            "the line goes too far",
            wrong_gradients("added"),
            "baseline + α x ends at baseline + x, which is not the text. What is walked is x − baseline.",
            "a fix that adds the baseline and forgets the difference; a fresh reader of this lesson",
        ),
        Mistake(
            "the line is shifted",
            wrong_gradients("halves"),
            "α (x − baseline) runs from zero to the difference. Add the baseline, so that the line begins there.",
            "a fix that forgets the starting point; a fresh reader of this lesson",
        ),
        Mistake(
            "one gradient only",
            wrong_gradients("at x"),
            "all gradients are taken at x itself, so this is gradient × change. They belong to the points on the line.",
            "the interpolation left out",
        ),
        Mistake(
            "times the input",
            wrong_gradients(times="x"),
            "the mean gradient must be multiplied by what was walked, x − baseline, not by x.",
            "gradient × input carried over",
        ),
        Mistake(
            "both changed",
            wrong_gradients("scaled", "x"),
            "now it is right for a baseline of zeros, and for no other: the baseline is not used. Let the line start "
            "there, and multiply by x − baseline.",
            "a fix that makes the two lines agree at zero; a fresh reader of this lesson",
        ),
        Mistake(
            "the line walked backwards",
            wrong_gradients(times="back"),
            "the sign is turned: multiply by x − baseline, from the baseline to the text.",
            "baseline - x; https://github.com/meta-pytorch/captum/issues/1413 (exchanging the two turns the sign)",
        ),
        Mistake(
            "not multiplied",
            wrong_gradients(times="one"),
            "this is the mean gradient on the line. Multiply it by what was walked, x − baseline.",
            "the factor in front of the integral overlooked",
        ),
        Mistake(
            "a sum in place of the mean",
            wrong_gradients(gather="sum"),
            "the gradients are added up and not divided by the number of steps, so more steps give larger "
            "attributions.",
            "the 1/m of the Riemann sum forgotten",
        ),
        Mistake(
            "the last gradient only",
            wrong_gradients(gather="last"),
            "only the last step's gradient is kept, divided by the number of steps. Add up all of them.",
            "total = gradient / steps inside the loop",
        ),
        Mistake(
            "lengths in place of sums",
            wrong_gradients(over="norm"),
            "the features are combined by their length, which has no sign and does not add up to f(x) − "
            "f(baseline). Sum over the features.",
            "the norm used to summarise attributions in many notebooks",
        ),
    ),
    hints=(
        "At which α is the point equal to x, and at which α should it be equal to the baseline?",
        "With α = 0 the buggy point is zero, whatever the baseline is.",
        "`point = baseline + alpha * (x - baseline)`, and `.detach()` the result.",
    ),
    praise="The line starts at the baseline, so the sums are f(x) − f(baseline).",
    other_ways=(gradients_by_batch, gradients_by_alpha),
    limit=leaves_no_graph,
    about=about_gradients,
)

# --- 22.3 the build: restored -----------------------------------------------------------------------------------------


def restored(model, clean, corrupt, module, position, measure, donor=None, head=None):
    """ids (B, T), position (B,), measure: logits -> (B,); the proportion that one moved activation restores, (B,)"""
    b, recorded = torch.arange(len(corrupt)), []
    place, part = module, slice(None)
    if head is not None:
        D = module.out.in_features // module.H
        place, part = module.out, slice(head * D, (head + 1) * D)

    def moved(x):
        x = x.clone()
        if not recorded:  # the run that gives the activation
            recorded.append(x)
        else:
            x[b, position, part] = recorded[0][b, position, part]
        return x

    def on_output(module, inputs, output):
        return (moved(output[0]), *output[1:]) if isinstance(output, tuple) else moved(output)

    def on_input(module, inputs):
        return (moved(inputs[0]), *inputs[1:])

    with torch.no_grad():
        m_clean, m_corrupt = measure(model(clean)), measure(model(corrupt))
        handle = place.register_forward_hook(on_output) if head is None else place.register_forward_pre_hook(on_input)
        try:
            model(clean if donor is None else donor)
            m_patched = measure(model(corrupt))
        finally:
            handle.remove()
    return (m_patched - m_corrupt) / (m_clean - m_corrupt)


class Reusing(nn.Module):
    """Token embeddings whose result lies in memory of the module's own, written over in every run."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.memory = tokens, {}

    def forward(self, ids):
        x = self.tokens(ids).detach()
        return self.memory.setdefault(x.shape, x.clone()).copy_(x)


class Remembering(nn.Module):
    """A model that reads the memory of its embeddings a second time, at its end."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.own = model, Reusing(model.encoder.tokens)

    def forward(self, ids):
        x = self.own(ids)
        for layer in self.inner.encoder.layers:
            x, _ = layer(x)
        return self.inner.head(x + self.own.memory[x.shape], self.inner.encoder.tokens.weight)


class Patched:
    """A random model, texts that differ at one position each, and a measure of two logits."""

    def __init__(self, generator, B=4, T=7, V=17, C=12, H=3, layers=2):
        config = EncoderConfig(V, width=C, layers=layers, heads=H, ffn_width=2 * C, max_len=T + 3)
        with torch.random.fork_rng(devices=[]):
            self.model = MaskedLanguageModel(Encoder(config)).eval().double()
        for parameter in self.model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
        self.clean = torch.randint(5, V, (B, T), generator=generator)
        self.spot = torch.randint(1, T - 1, (B,), generator=generator)
        self.spot[: min(B, 2)] = torch.tensor([1, 3])[:B]  # not all at the same position
        self.corrupt = self.clean.clone()
        self.corrupt[torch.arange(B), self.spot] = 5 + (self.clean[torch.arange(B), self.spot] - 4) % (V - 5)
        self.other = torch.randint(5, V, (B, T), generator=generator)
        self.gap = torch.randint(0, T, (B,), generator=generator)
        self.layers = self.model.encoder.layers
        self.dropout = self.model.encoder.dropout

    def measure(self, logits):
        b = torch.arange(len(logits))
        return logits[b, self.gap, 6] - logits[b, self.gap, 7]

    def run(self, answer, module, position=None, **more):
        position = self.spot if position is None else position
        measure = more.pop("measure", self.measure)
        texts = self.clean.clone(), self.corrupt.clone()
        result = answer(self.model, self.clean, self.corrupt, module, position, measure, **more)
        if not (torch.equal(texts[0], self.clean) and torch.equal(texts[1], self.corrupt)):
            raise Fault("the ids that came in are changed. Patch activations, not the texts.")
        if not torch.is_grad_enabled():
            raise Fault(
                "gradients stay switched off afterwards. Use `with torch.no_grad():`, which ends with its block."
            )
        if isinstance(result, torch.Tensor) and result.shape == () and len(self.clean) > 1:
            raise Fault(
                f"it returns one number. Return one for each of the {len(self.clean)} texts, (B,): means are taken "
                f"later."
            )
        return result


def one_pair(answer, generator):
    case = Patched(generator, B=1)
    somewhere = (case.spot + 2) % case.clean.shape[1]
    found = [case.run(answer, case.layers[0].norm2, place) for place in (case.spot, somewhere)]
    return *found, case.run(answer, case.layers[1].norm2, case.gap), case.run(answer, case.layers[0].ffn_out)


def own_positions(answer, generator):
    case = Patched(generator, B=5)
    return case.run(answer, case.layers[0].norm2), case.run(answer, case.layers[1].norm2, case.gap)


def tensors_and_tuples(answer, generator):
    case = Patched(generator)
    first, last = case.layers
    places = ((first, case.spot), (last.attention, case.gap), (first.attention, case.spot), (first.ffn_out, case.spot))
    return tuple(case.run(answer, module, position) for module, position in places)


def from_a_donor(answer, generator):
    case = Patched(generator)
    same = case.run(answer, case.layers[0], donor=case.corrupt)
    if isinstance(same, torch.Tensor) and same.shape == case.spot.shape and 1e-9 < same.abs().max() < 1e-3:
        raise Fault("the corrupted text's own activation must change exactly nothing, and it does change a little.")
    return same, case.run(answer, case.layers[0], donor=case.other), case.run(answer, case.dropout, donor=case.other)


def one_head(answer, generator):
    case = Patched(generator)
    places = ((0, 1, case.spot), (1, 0, case.gap), (0, 2, case.spot))  # of the last layer, only the gap is read
    found = [case.run(answer, case.layers[i].attention, place, head=h) for i, h, place in places]
    return *found, case.run(answer, case.layers[1].attention, case.gap, head=0, donor=case.other)


def any_measure(answer, generator):
    """A measure that is no difference of logits, on every position."""
    case = Patched(generator)

    def measure(logits):
        return logits.log_softmax(-1).exp().square().sum((1, 2))

    return case.run(answer, case.layers[0], measure=measure), case.run(answer, case.layers[1], measure=measure)


def hooks(model):
    return [
        hook
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        for hook in hooks.values()
    ]


LEFT = (
    "a hook of yours is still on the model when the function has ended. Every later run would be patched, without an "
    "error. Keep the handle that registering gives, and call its `remove()`."
)
LEFT_BY_ERROR = (
    "when `measure` or the model raises an error, a hook of yours stays on the model: the next run, of whoever catches "
    "the error, is still patched. Put `handle.remove()` into `finally`."
)
OTHERS_GONE = (
    "a hook that was on the module before your function ran is gone. Remove your own by its handle; do not clear all."
)


def no_trace(answer, generator):
    case, seen = Patched(generator), []
    theirs = [m.register_forward_hook(lambda *call: seen.append(1)) for m in (case.layers[0], case.dropout)]
    theirs.append(case.layers[0].attention.out.register_forward_pre_hook(lambda *call: seen.append(1)))
    before = hooks(case.model)
    found = []
    for more in ({}, {"head": 1}):
        module = case.layers[0].attention if more else case.layers[0]
        found.append(case.run(answer, module, **more))
        now = hooks(case.model)
        if any(all(one is not other for other in before) for one in now):
            raise Fault(LEFT)
        if len(now) < len(before):
            raise Fault(OTHERS_GONE)
    for calls in (1, 2, 3):
        count = []

        def failing(logits, calls=calls, count=count):
            count.append(1)
            if len(count) == calls:
                raise ArithmeticError("this measure fails")
            return case.measure(logits)

        try:
            case.run(answer, case.layers[0], measure=failing)
        except ArithmeticError:
            count.clear()
        if len(count) >= calls:
            raise Fault("an error of `measure` is caught and lost. Use `finally` without `except`: the error goes on.")
        if any(all(one is not other for other in before) for one in hooks(case.model)):
            raise Fault(LEFT_BY_ERROR)
        for bad in (
            {"donor": torch.full_like(case.clean, 999)},
            {"head": 0, "donor": torch.full_like(case.clean, 999)},
        ):
            try:
                case.run(answer, case.layers[0].attention, **bad)
            except (ValueError, IndexError, RuntimeError):
                pass
        if any(all(one is not other for other in before) for one in hooks(case.model)):
            raise Fault(LEFT_BY_ERROR)
    for handle in theirs:
        handle.remove()
    return tuple(found)


def leaves_the_model(answer, generator):
    """A graph, the model, and a module whose result is not the caller's to change."""
    case = Patched(generator)
    if case.run(answer, case.layers[0]).requires_grad:
        raise Fault("the result still has a graph. Put `@torch.no_grad()` above the function.")
    weights = {name: value.clone() for name, value in case.model.state_dict().items()}
    model = Remembering(case.model)
    found = answer(model, case.clean, case.corrupt, model.own, case.spot, lambda logits: logits.square().mean((1, 2)))
    if any(not torch.equal(value, weights[name]) for name, value in case.model.state_dict().items()):
        raise Fault("the model's weights are changed.")
    if case.model.training:
        raise Fault("the model came in evaluation mode and is in training mode now.")
    return found


def other_models(answer, generator):
    case = Patched(generator, B=3, T=5, V=23, C=20, H=5, layers=3)
    heads = [case.run(answer, case.layers[2].attention, case.gap, head=h) for h in (0, 4)]
    return case.run(answer, case.layers[1]), *heads


def wrong_patching(**switches):
    """Return a restored that a learner may write; its switches are the mistakes."""
    names = "ratio direction where stream donor head hooks graph place tuples"
    switch = dict.fromkeys(names.split()) | switches

    def patch(model, clean, corrupt, module, position, measure, donor=None, head=None):
        b, kept = torch.arange(len(corrupt)), []
        if switch["direction"] == "noising":
            base, source = clean, corrupt
        elif switch["direction"] == "clean twice":
            base, source = clean, clean
        elif switch["direction"] == "texts":
            base = source = corrupt.clone()
            base[b, position] = clean[b, position]
        else:
            base, source = corrupt, clean
        if switch["donor"] == "or":
            source = donor or clean
        elif donor is not None and switch["donor"] != "ignored":
            source = donor
        if switch["donor"] == "is clean" and donor is not None:
            clean = donor
        position = position + {"next": 1, "before": -1}.get(switch["where"], 0)
        position = position.clamp(0, clean.shape[1] - 1)
        part, place, inner = slice(None), module, False
        if (head if switch["head"] == "zero" else head is not None) and switch["head"] != "ignored":
            inner = switch["head"] != "after"
            place = module.out if inner else module
            D = module.out.in_features // module.H
            part = {
                "strided": slice(head, None, module.H),
                "heads for width": slice(head * module.H, head * module.H + module.H),
                "one more": slice((head + 1) * D, (head + 2) * D),
                "to the end": slice(head * D, None),
                "all": slice(None),
            }.get(switch["head"], slice(head * D, (head + 1) * D))
        inner = inner or switch["stream"] == "input"

        def swap(x):
            new = x if switch["place"] == "in place" else x.clone()
            if switch["where"] == "all":
                new[:, :, part] = kept[0][:, :, part]
            elif switch["where"] == "first":
                new[:, position[0], part] = kept[0][:, position[0], part]
            elif switch["where"] == "pairs":
                new[:, position, part] = kept[0][:, position, part]
            elif switch["where"] == "one row":
                new[0, position[0], part] = kept[0][0, position[0], part]
            elif switch["where"] == "added":
                new[b, position, part] = new[b, position, part] + kept[0][b, position, part]
            else:
                new[b, position, part] = kept[0][b, position, part]
            return new

        def record_out(module, inputs, output):
            x = output[0] if isinstance(output, tuple) and switch["tuples"] != "tensors only" else output
            x = output[0] if switch["tuples"] == "always" else x
            kept.append(x if switch["place"] == "no copy" else x.clone())

        def record_in(module, inputs):
            kept.append(inputs[0].clone())

        def swap_out(module, inputs, output):
            if switch["tuples"] == "always":
                return (swap(output[0]), *output[1:])
            if isinstance(output, tuple):
                return swap(output[0]) if switch["tuples"] == "lost" else (swap(output[0]), *output[1:])
            return swap(output)

        def swap_in(module, inputs):
            return (swap(inputs[0]), *inputs[1:])

        def add(recording):
            if inner:
                return place.register_forward_pre_hook(record_in if recording else swap_in)
            return place.register_forward_hook(record_out if recording else swap_out)

        m_clean, m_corrupt = measure(model(clean)), measure(model(corrupt))
        if switch["hooks"] == "finally":
            handles = [add(True)]
            try:
                model(source)
                handles.pop().remove()
                handles.append(add(False))
                m_patched = measure(model(base))
            finally:
                for handle in handles:
                    handle.remove()
        else:
            handle = add(True)
            model(source)
            if switch["hooks"] != "recorder left":
                handle.remove()
            handle = add(False)
            m_patched = measure(model(base))
            if switch["hooks"] == "cleared":
                place._forward_hooks.clear()
                place._forward_pre_hooks.clear()
            elif switch["hooks"] != "left":
                handle.remove()
        found = {
            "raw": m_patched,
            "difference": m_patched - m_corrupt,
            "of clean": m_patched / m_clean,
            "by clean": (m_patched - m_corrupt) / m_clean,
            "by corrupt": (m_patched - m_corrupt) / m_corrupt,
            "lost": (m_clean - m_patched) / (m_clean - m_corrupt),
            "sign": (m_patched - m_corrupt) / (m_corrupt - m_clean),
            "from clean": (m_patched - m_clean) / (m_clean - m_corrupt),
            "no brackets": m_patched - m_corrupt / (m_clean - m_corrupt),
            "size": (m_patched - m_corrupt).abs() / (m_clean - m_corrupt).abs(),
            "clamped": ((m_patched - m_corrupt) / (m_clean - m_corrupt)).clamp(0, 1),
        }.get(switch["ratio"], (m_patched - m_corrupt) / (m_clean - m_corrupt))
        return found.mean() if switch["ratio"] == "mean" else found

    switch["hooks"] = switch["hooks"] or "finally"
    return patch if switch["graph"] else torch.no_grad()(patch)


def without_a_batch_of_hooks(model, clean, corrupt, module, position, measure, donor=None, head=None):
    """With torch.no_grad as a block, a context for the hook, and a boolean mask for the place."""
    target = module if head is None else module.out
    with torch.no_grad():
        reference, base = measure(model(clean)), measure(model(corrupt))
        store = {}

        def keep(module, inputs, output=None):
            taken = inputs[0] if head is not None else output
            store["x"] = (taken[0] if isinstance(taken, tuple | list) else taken).detach().clone()

        def put(module, inputs, output=None):
            taken = inputs[0] if head is not None else output
            x = taken[0] if isinstance(taken, tuple | list) else taken
            here = torch.zeros(x.shape, dtype=torch.bool)
            for i, p in enumerate(position.tolist()):
                if head is None:
                    here[i, p] = True
                else:
                    width = x.shape[-1] // module_heads
                    here[i, p, head * width : head * width + width] = True
            x = torch.where(here, store["x"], x)
            if head is not None:
                return (x,)
            return (x, *taken[1:]) if isinstance(taken, tuple | list) else x

        module_heads = getattr(module, "H", 1)
        results = []
        for function, ids in ((keep, clean if donor is None else donor), (put, corrupt)):
            register = target.register_forward_hook if head is None else target.register_forward_pre_hook
            handle = register(function)
            try:
                results.append(model(ids))
            finally:
                handle.remove()
        return (measure(results[1]) - base) / (reference - base)


@torch.no_grad()
def with_logits_first(model, clean, corrupt, module, position, measure, donor=None, head=None):
    """One recording of the module's forward in place of hooks: its `forward` is exchanged for a while."""
    recorded, original = {}, (module if head is None else module.out).forward
    place = module if head is None else module.out
    D = None if head is None else module.out.in_features // module.H

    def change(x):
        if "x" not in recorded:
            recorded["x"] = x.clone()
            return x
        y = x.clone()
        for i in range(len(y)):
            if head is None:
                y[i, position[i]] = recorded["x"][i, position[i]]
            else:
                y[i, position[i], head * D : (head + 1) * D] = recorded["x"][i, position[i], head * D : (head + 1) * D]
        return y

    def forward(*inputs, **more):
        if head is not None:
            return original(change(inputs[0]), *inputs[1:], **more)
        output = original(*inputs, **more)
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    clean_logits, corrupt_logits = model(clean), model(corrupt)
    place.forward = forward
    try:
        model(donor if donor is not None else clean)
        patched_logits = model(corrupt)
    finally:
        del place.forward
    low, high = measure(corrupt_logits), measure(clean_logits)
    return (measure(patched_logits) - low) / (high - low)


def copied(value):
    if isinstance(value, tuple):
        return tuple(map(copied, value))
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def watched(answer, case, module, **more):
    """Run an answer; return its result, what `measure` was given, and the model's runs.

    A run's `before` is what the module gives (for a head: what its output layer gets), `after` what became of it.
    """
    runs, given, late = [], [], []
    place = module if more.get("head") is None else module.out
    register = place.register_forward_hook if place is module else place.register_forward_pre_hook

    def keep(key):
        return register(lambda *call: runs[-1].update({key: copied(call[-1])}))

    def begins(model, inputs):
        runs.append({"ids": inputs[0].clone()})
        late.append(keep("after"))  # registered last, so called after the answer's hooks

    def ends(model, inputs, output):
        runs[-1]["logits"] = output
        late.pop().remove()

    def measure(logits):
        given.append(logits)
        return case.measure(logits)

    keep("before")
    case.model.register_forward_pre_hook(begins)
    case.model.register_forward_hook(ends)
    return run(lambda: case.run(answer, module, measure=measure, **more), ()), given, runs


def about_patching(answer, stage):
    """Say what an answer's hooks did to the activations, or, where the patch is right, what the formula made of it."""
    ways = {one_head: ({"head": 1}, {"head": 0, "donor": 1}), from_a_donor: ({"donor": 1},)}.get(stage.run, ({},))
    for more in ways:
        case = Patched(torch.Generator().manual_seed(1))
        texts = {"clean": case.clean, "corrupt": case.corrupt}
        if "donor" in more:
            texts["donor"] = case.other
            more = more | {"donor": case.other}
        layer = case.layers[0]
        whole = layer if stage.run in (tensors_and_tuples, from_a_donor) else layer.norm2
        module = layer.attention if "head" in more else whole
        said = told(*watched(answer, case, module, **more), case, texts, more.get("head"))
        if said:
            return said
    return None


def told(found, given, runs, case, texts, head):
    """Return the first thing that is wrong with the runs of an answer, in a sentence."""
    B, T, C = *case.clean.shape, case.model.encoder.config.width
    D = C if head is None else C // case.layers[0].attention.H
    part = [*range(C)][(head or 0) * D :][:D]
    place, what = ("`module`", "what it gives") if head is None else ("`module.out`", "what goes into it")
    source = "donor" if "donor" in texts else "clean"
    logits = [r["logits"] for r in runs if "logits" in r]
    strange = [x for x in given if not any(torch.equal(x, y) for y in logits)]
    no_logits = f"`measure` gets {describe(*strange[:1] or [0])}, not all logits of a run, as the model returned them."
    if any(x.shape != logits[0].shape for x in strange):
        return no_logits
    for r in runs:
        r["name"] = next((name for name, ids in texts.items() if torch.equal(ids, r["ids"])), None)
        if r["name"] is None:
            return None if len(r["ids"]) > B else "a run gets ids that are neither `clean` nor `corrupt` nor `donor`."
        if [*map(describe, flat(r.get("after")))] != [*map(describe, flat(r.get("before")))]:
            return f"the module gives {describe(r['before'])}; your hook makes of it {describe(r.get('after'))}."
        r["x"], r["new"] = (flat(r.get(key))[0] for key in ("before", "after"))
        r["patched"] = r["x"] is not None and not torch.equal(r["x"], r["new"])
    patched = [r for r in runs if r["patched"]]
    if not patched:
        return (
            f"no run is patched. Are your hooks on {place}? Does one record in the run on `{source}` only, "
            f"and does the other return the new value of {what}?"
        )
    if strange:
        return no_logits
    last = patched[-1]
    if last["name"] != "corrupt":
        return f"the run on `{last['name']}` is patched. It is the run on `corrupt` that takes the activation."
    plain = {r["name"]: r for r in reversed(runs) if not r["patched"]}
    origin = plain.get(source)
    if origin is None or not {"clean", "corrupt"} <= plain.keys():
        names = ", ".join(f"`{name}`" for name in texts if name not in plain)
        return f"there is no run on {names} without a replacing hook, which the activation or the formula needs."
    for i, t in enumerate(case.spot.tolist()):
        changed = last["new"][i] != last["x"][i]
        places, features = (changed.any(d).nonzero()[:, 0].tolist() for d in (1, 0))
        if places != [t]:
            return f"in text {i} the positions {places} are changed. `position` asks for {t} alone."
        if not set(features) <= set(part):
            return f"the features {features} are changed. Those of head {head} are {part}."
        put, vectors = last["new"][i, t, part], [(r, j, k) for r in runs for j in range(B) for k in range(T)]
        if not torch.equal(put, origin["x"][i, t, part]):
            same_as = (
                f"that of text {j} at {k}, `{r['name']}`" for r, j, k in vectors if same(put, r["x"][j, k, part])
            )
            return (
                f"the vector that you put at position {t} of text {i} is {next(same_as, 'none that a run gave')}. Put "
                f"what the run on `{source}` gave there."
            )
    clean, corrupt, patched = (case.measure(r["logits"]).detach() for r in (plain["clean"], plain["corrupt"], last))
    right = (patched - corrupt) / (clean - corrupt)
    if not isinstance(found, torch.Tensor) or found.shape != right.shape or same(found, right):
        return None
    i = int((found - right).abs().argmax())
    return (
        f"the patch is right, the formula is not. In text {i} m(clean) is {clean[i]:.3f}, m(corrupted) "
        f"{corrupt[i]:.3f}, m(patched) {patched[i]:.3f}, so {right[i]:.3f} is restored; yours is {found[i]:.3f}."
    )


activation_patching = Build(
    id="22.3",
    course=restored,
    stages=(
        Stage("one pair", one_pair),
        Stage("a position for each text", own_positions),
        Stage("tensors and tuples", tensors_and_tuples),
        Stage("a donor", from_a_donor),
        Stage("one head", one_head),
        Stage("any measure", any_measure),
        Stage("no trace", no_trace),
        Stage("what stays", leaves_the_model),
        Stage(OTHER_SIZES, other_models),
    ),
    mistakes=(
        Mistake(
            "the direction exchanged",
            wrong_patching(direction="noising"),
            "you put the corrupted run's activation into the clean run. That asks what is necessary; the text asks "
            "what suffices: record on `clean`, patch the run on `corrupt`.",
            "Heimersheim and Nanda 2024, *How to use and interpret activation patching*: noising and denoising",
        ),
        Mistake(
            "the clean text twice",
            wrong_patching(direction="clean twice"),
            "the run that is patched is on `clean`, and gets its own activation. Patch the run on `corrupt`.",
            "model(clean) copied from the line above; a fresh reader of this lesson",
        ),
        Mistake(
            "the text patched",
            wrong_patching(direction="texts"),
            "you exchange the *word* in the text. Leave the texts alone, and move the vector that `module` gives.",
            "ids taken for activations; a fresh reader of this lesson",
        ),
        Mistake(
            "not normalised",
            wrong_patching(ratio="difference"),
            "this is how far the measure moves, not which part of the way. Divide by m(clean) − m(corrupted).",
            "logit differences of two texts that cannot be compared",
        ),
        Mistake(
            "the measure itself",
            wrong_patching(ratio="raw"),
            "this is the patched run's measure. Subtract the corrupted run's and divide by the difference of the "
            "two runs.",
            "the patched logit difference plotted as it is",
        ),
        Mistake(
            "divided by the clean measure",
            wrong_patching(ratio="of clean"),
            "you divide the patched measure by the clean one. A patch that does nothing would then give m(corrupted) / "
            "m(clean), not 0: subtract m(corrupted) above and below.",
            "a percentage of the clean logit difference",
        ),
        Mistake(
            "half of the baseline",
            wrong_patching(ratio="by clean"),
            "the numerator is right, the denominator is m(clean) alone. The whole way is m(clean) − m(corrupted).",
            "the corrupted run's measure taken for zero",
        ),
        Mistake(
            "divided by the corrupted measure",
            wrong_patching(ratio="by corrupt"),
            "the denominator is m(corrupted). The whole way is m(clean) − m(corrupted).",
            "a relative change, as of prices",
        ),
        Mistake(
            "what is lost",
            wrong_patching(ratio="lost"),
            "this is 1 minus the proportion: it says what is still missing. A patch that does nothing must give 0.",
            "the noising formula with a denoising patch",
        ),
        Mistake(
            "measured from the clean run",
            wrong_patching(ratio="from clean"),
            "you subtract m(clean) in the numerator, so a patch that does nothing gives −1. Subtract m(corrupted).",
            "the two baselines exchanged; a fresh reader of this lesson",
        ),
        Mistake(
            "the sign turned",
            wrong_patching(ratio="sign"),
            "the sign is turned: the denominator is m(clean) − m(corrupted).",
            "corrupted minus clean, in one of the two differences only",
        ),
        Mistake(
            "brackets forgotten",
            wrong_patching(ratio="no brackets"),
            "the numerator lacks its brackets: a − b / c divides b alone.",
            "the formula typed on one line",
        ),
        Mistake(
            "the size only",
            wrong_patching(ratio="size"),
            "the sign of the proportion is lost. A patch that pushes the measure further away has a negative one.",
            "abs() of both differences",
        ),
        Mistake(
            "cut to 0 and 1",
            wrong_patching(ratio="clamped"),
            "the proportion is cut off at 0 and 1. It may be negative, or more than 1, and both tell something.",
            "clamp(0, 1) for a colour map",
        ),
        Mistake(
            "one position too far",
            wrong_patching(where="next"),
            "you patch one position further to the right than asked. `position` counts in ids already, with [CLS] "
            "at 0.",
            "the offset of [CLS] added a second time",
        ),
        Mistake(
            "one position too early",
            wrong_patching(where="before"),
            "you patch one position further to the left than asked. `position` counts in ids, with [CLS] at 0.",
            "the offset of [CLS] taken off",
        ),
        Mistake(
            "the whole stream",
            wrong_patching(where="all"),
            "you move the activations of all positions. Then nothing can be located: a whole layer always restores "
            "everything. Move the vector at `position` only.",
            "output[:] = cached; every layer of the residual stream then restores 1",
        ),
        Mistake(
            "added in place of replaced",
            wrong_patching(where="added"),
            "you add the recorded vector to the one that is there. Patching replaces it.",
            "activation addition, which is another method",
        ),
        Mistake(
            "the module's input",
            wrong_patching(stream="input"),
            "you move what goes *into* the module. Move what it gives: a forward hook, not a forward pre-hook.",
            "resid_pre in place of resid_post; https://github.com/TransformerLensOrg/TransformerLens/pull/1319",
        ),
        Mistake(
            "tensors only",
            wrong_patching(tuples="tensors only"),
            "this works for modules that give a tensor. The course's layers give a tuple, the tensor first: work on "
            "`output[0]`, and return a tuple with the other parts.",
            "a layer that returns hidden states and weights; https://github.com/TransformerLensOrg/TransformerLens",
        ),
        Mistake(
            "the tuple lost",
            wrong_patching(tuples="lost"),
            "your hook replaces a tuple by its first part, and the model then unpacks a tensor. Return a tuple "
            "with the other parts: `(x, *output[1:])`.",
            "return hidden in a hook on a layer that returns a tuple",
        ),
        Mistake(
            "always a tuple",
            wrong_patching(tuples="always"),
            "you take `output[0]` of every output. Of a tensor that is the first *text*. Look first: "
            "`isinstance(output, tuple)`.",
            "output[0] copied from a hook on a layer",
        ),
        Mistake(
            "donor or clean",
            wrong_patching(donor="or"),
            "`donor or clean` asks whether a tensor is true, which torch refuses for more than one value. Ask "
            "`donor is None`.",
            "the idiom for lists and strings",
        ),
        Mistake(
            "head 0 taken for none",
            wrong_patching(head="zero"),
            "`if head:` is false for head 0, so the whole output is moved there. Ask `head is not None`.",
            "a truth value in place of a comparison with None",
        ),
        Mistake(
            "the first text's position for all",
            wrong_patching(where="first"),
            "every text is patched at the position of the first one. Each has its own: `x[torch.arange(B), position]`.",
            "x[:, position[0]], right for one text",
        ),
        Mistake(
            "all positions of the batch",
            wrong_patching(where="pairs"),
            "`x[:, position]` takes *all* the positions in *every* text. Pair rows and positions: "
            "`x[torch.arange(B), position]`.",
            "indexing with a slice beside a tensor of indices",
        ),
        Mistake(
            "the first text only",
            wrong_patching(where="one row"),
            "only the first text of the batch is patched.",
            "x[0, position], right for one text",
        ),
        Mistake(
            "one mean",
            wrong_patching(ratio="mean"),
            "it returns one number. Return one for each of the 5 texts, (B,): means are taken later.",
            "the mean over the batch taken inside",
        ),
        Mistake(
            "the donor ignored",
            wrong_patching(donor="ignored"),
            "`donor` is not used: the activation still comes from `clean`. With the corrupted text as its own donor a "
            "patch must change nothing.",
            "an argument that was added and not passed on",
        ),
        Mistake(
            "the donor taken for the clean text",
            wrong_patching(donor="is clean"),
            "the donor also replaces the clean run in the formula. Only the activation comes from it: m(clean) stays "
            "that of `clean`.",
            "clean = donor at the top of the function; a fresh reader of this lesson",
        ),
        Mistake(
            "all heads moved",
            wrong_patching(head="ignored"),
            "the outputs of all heads are moved. Only the features h·D to (h + 1)·D of what goes into `module.out` "
            "belong to the head.",
            "an argument that was added and not passed on",
        ),
        Mistake(
            "cut out behind the heads",
            wrong_patching(head="after"),
            "you cut features out of what the attention *gives*. There the output layer has mixed all heads. Hook what "
            "goes into `module.out`, where they still lie side by side.",
            "the output of nn.MultiheadAttention read as if it were the heads'",
        ),
        Mistake(
            "every H-th feature",
            wrong_patching(head="strided"),
            "you take every H-th feature. Head h has D features side by side: h·D to (h + 1)·D.",
            "view(B, T, D, H) in place of (B, T, H, D), as lesson 03 names it",
        ),
        Mistake(
            "H taken for D",
            wrong_patching(head="heads for width"),
            "you take H features from h·H on. A head has D = C / H features: h·D to (h + 1)·D.",
            "the number of heads and the width of a head exchanged",
        ),
        Mistake(
            "the next head",
            wrong_patching(head="one more"),
            "this is the next head's part: heads count from 0.",
            "heads counted from 1, as the text of lesson 06 prints them",
        ),
        Mistake(
            "from the head to the end",
            wrong_patching(head="to the end"),
            "the slice has no end: you move this head and all behind it.",
            "x[..., h * D :]",
        ),
        Mistake(
            "the hook stays",
            wrong_patching(hooks="left"),
            LEFT,
            "https://github.com/TransformerLensOrg/TransformerLens/issues/1323",
        ),
        Mistake(
            "the hook stays after an error",
            wrong_patching(hooks="only at the end"),
            LEFT_BY_ERROR,
            "https://github.com/TransformerLensOrg/TransformerLens/pull/156",
        ),
        Mistake(
            "the hooks of others removed",
            wrong_patching(hooks="cleared"),
            OTHERS_GONE,
            "https://github.com/TransformerLensOrg/TransformerLens/pull/1638",
        ),
        Mistake(
            "a graph",
            wrong_patching(graph=True),
            "the result still has a graph. Put `@torch.no_grad()` above the function.",
            "patching without torch.no_grad, whose graphs fill the memory",
        ),
        Mistake(
            "changed in place",
            wrong_patching(place="in place"),
            "your hook changes in place what the module gives. Here the module gives its own memory, which the "
            "model reads again later, so two things were patched. Change a copy: `x = output.clone()`.",
            "output[:, pos] = cache in a hook",
        ),
        Mistake(
            "recorded without a copy",
            wrong_patching(place="no copy"),
            "the recorded tensor is the module's own memory, and the next run writes over it, so nothing was "
            "moved. Record a copy: `output.clone()`.",
            "cache[name] = output in a hook: `detach` does not copy",
        ),
    ),
    hints=(
        "Three runs are measured: `measure(model(clean))`, `measure(model(corrupt))`, and the corrupted run while "
        "a hook replaces one vector. A fourth run, on the donor, only records.",
        "A hook that records: `def keep(module, inputs, output): store.append(output.clone())`. One that replaces "
        "returns the new output. Some modules give a tuple: then work on its first part and return a tuple.",
        "At its own position for each text: `x[torch.arange(B), position] = stored[torch.arange(B), position]`.",
        "One head: hook `module.out` with `register_forward_pre_hook`; its input is `inputs[0]`, (B, T, H·D); change "
        "the features `slice(head * D, (head + 1) * D)` and return a tuple.",
        "`handle = ….register_forward_hook(f)`, then `try:` the runs, `finally: handle.remove()`.",
    ),
    praise="One activation moved, the right part of the way measured, and no trace left.",
    other_ways=(without_a_batch_of_hooks, with_logits_first, wrong_patching()),
    about=about_patching,
)

# --- 22.4 predict -----------------------------------------------------------------------------------------------------


MIDDLE = "After layer 1 nothing is exact for *any* weights: attention has carried a little of the subject everywhere."


def about_cells(guess):
    """Say which of the two numbers is right, and what the other one leaves out or counts too much."""
    if len(guess) != 2 or not all(isinstance(n, int | float) for n in guess):
        return "The answer is a pair, (how many are exactly 1, how many exactly 0)."
    ones, zeros = guess
    if ones + zeros > 39:
        return f"There are 39 numbers in all, and you count {ones + zeros}."
    if ones < 2:
        return "A 1 is missing: look at where the two texts differ, and at the position at which m is read."
    if ones > 2:
        return f"There are fewer ones, because one position at a time is moved. {MIDDLE}"
    if zeros > 26:
        return f"The ones are right, the zeros too many. {MIDDLE}"
    if zeros > 24:
        return "The ones are right, the zeros too many: where one of a row's 13 numbers is 1, twelve are left."
    if zeros > 12:
        return "The ones are right, the zeros too few: each row has 13 numbers, [CLS] and [SEP] included."
    return "The ones are right, but zeros are missing: *two* of the three rows are decided, and each has a 1."


certain_cells = Prediction(
    id="22.4",
    right=(2, 24),
    mistakes=(
        Mistake(
            "layer 1 decided too",
            (3, 36),
            "that decides the middle row too. After layer 1 *every* position has read the subject a little, so none of "
            "its 13 numbers is exactly 0, and the subject's own need not be exactly 1.",
            "each depth taken to have one position that carries everything",
        ),
        Mistake(
            "all others zero",
            (2, 37),
            "the two ones are right. But after layer 1 every position has read the subject a little, so the 13 "
            "numbers of that row are not *exactly* anything.",
            "what prints as 0.00 taken for 0",
        ),
        Mistake(
            "the embeddings only",
            (1, 12),
            "the row of the embeddings is right. But in the last row the prediction is read at one position only, so "
            "that row is decided as well.",
            "the last layer forgotten",
        ),
        Mistake(
            "the last layer open",
            (1, 24),
            "the zeros are right. In the last row the gap's own vector is all that the head reads: moving it brings "
            "everything back.",
            "the last layer's gap forgotten",
        ),
        Mistake(
            "the subject in every row",
            (3, 24),
            "the zeros are right. The subject after layer 1 is *nearly* 1 in this model; for other weights it need "
            "not be.",
            "a guess from this model's result",
        ),
        Mistake(
            "counted the other way round",
            (24, 2),
            "the two numbers are exchanged: first how many are exactly 1.",
            "the order of the pair",
        ),
        Mistake(
            "whole rows of ones",
            (26, 13),
            "a *whole* row that is moved brings everything back. Here one position at a time is moved.",
            "patching a layer taken for patching a position",
        ),
    ),
    hints=(
        "After the embeddings the two runs differ at one position. What do you move at the other twelve?",
        "After the last layer the head reads the gap only. What do the other positions change?",
        "Between the two rows nothing is exact: attention has carried a little of the subject everywhere.",
    ),
    praise="Two rows check the code: any right code gives them. Only the row between them is a finding.",
    about=about_cells,
)
