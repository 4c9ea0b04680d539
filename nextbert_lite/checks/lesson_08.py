"""The checks of lesson 08, Larger models, more data."""

import copy
import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import torch

from nextbert_lite.checks.core import Build, Exercise, Mistake, Prediction, Stage, hint, mine, solution, untouched

__all__ = ["best_step", "counting", "extrapolate", "hint", "mine", "solution", "training_work"]


# --- 08.1 what training costs -----------------------------------------------------------------------------------------


def a_shape(generator):
    layers, quarter, T, V = (int(torch.randint(2, 9, (), generator=generator)) for _ in range(4))
    rate = 0.1 + 0.4 * float(torch.rand((), generator=generator))
    return layers, 16 * quarter, 10 * T, 100 * V + 7, rate


def counted(layers, C, T, V, rate, passes=3, square=24, scores=4, dense=2, table=2, lookup=0):
    layer = square * C**2 + scores * T * C
    head = dense * C**2 + table * V * C
    return passes * (layers * layer + rate * head + lookup * V * C)


training_work = Exercise(
    id="08.1",
    right=counted,
    inputs=a_shape,
    reads=lambda operations: torch.as_tensor(operations, dtype=torch.float64),
    mistakes=(
        Mistake(
            "forward only",
            lambda *shape: counted(*shape, passes=1),
            "this is the forward pass alone. In the backward pass each product Y = XW needs two more: one for the "
            "gradient of X and one for that of W. That makes three in all.",
            "https://github.com/karpathy/nanoGPT/issues/322 (2N for the forward pass, 6N for training)",
        ),
        Mistake(
            "back counted once",
            lambda *shape: counted(*shape, passes=2),
            "the backward pass costs twice the forward pass, not once: one product for the gradient of X and one for "
            "that of W. That makes three in all.",
            "https://github.com/AI-Hypercomputer/torchprime/pull/49 (where the factor 3 comes from)",
        ),
        Mistake(
            "head on all tokens",
            lambda layers, C, T, V, rate: counted(layers, C, T, V, 1.0),
            "the head runs on all tokens here. It is needed for the selected ones only: `rate * head`.",
            "transformers' BertForMaskedLM runs its head on all positions, google-research/bert on the selected ones",
        ),
        Mistake(
            "head in each layer",
            lambda layers, C, T, V, rate: layers * counted(1, C, T, V, rate),
            "you multiply the head by the number of layers too. There is one head, behind the last layer.",
            "brackets: layers * (layer + rate * head)",
        ),
        Mistake(
            "multiply-add as one",
            lambda *shape: counted(*shape) / 2,
            "this is half: you count a multiplication and the addition after it as one operation. The lesson counts "
            "both (24 C² = 2 · 12 C²); many tools do not, and say FLOPs all the same.",
            "https://github.com/facebookresearch/fvcore/issues/69",
        ),
        Mistake(
            "half the attention",
            lambda *shape: counted(*shape, scores=2),
            "2 T C is one of attention's two products: the scores. The blend of the values is another 2 T C.",
            "https://github.com/karpathy/nanoGPT/issues/456",
        ),
        Mistake(
            "no attention",
            lambda *shape: counted(*shape, scores=0),
            "the term 4 T C is missing: scores and blends are products too, without weights of their own. The rule "
            "6ND, 'six operations for each weight', leaves them out.",
            "https://github.com/karpathy/nanoGPT/issues/322",
        ),
        Mistake(
            "dense layer forgotten",
            lambda *shape: counted(*shape, dense=0),
            "the head has a C × C matrix before it meets the words: 2 C² more for each selected token.",
            "BERT's head is dense, activation, norm, then the tied table (google-research/bert): easily taken for the "
            "table alone",
        ),
        Mistake(
            "look-up as a product",
            lambda *shape: counted(*shape, lookup=2),
            "you count 2 V C for the embedding of each token as well. Looking up a row multiplies nothing.",
            "https://github.com/pytorch/torchtitan/pull/280, https://github.com/huggingface/trl/pull/5698",
        ),
        Mistake(
            "the whole text",
            lambda layers, C, T, V, rate: T * counted(layers, C, T, V, rate),
            "this is the work for a whole text of T tokens. The exercise asks for *one* token on average: T enters in "
            "the term 4 T C alone, because one token is compared with all T.",
            "https://github.com/karpathy/nanoGPT/issues/322 (operations for a token and for a sequence)",
        ),
    ),
    hints=(
        "The forward pass for one token: all layers, and a proportion `rate` of a head: 2 C² for its matrix, 2 V C for "
        "the comparison with V words.",
        "The backward pass makes two products for each one of the forward pass, so training costs three times as much.",
        "`3 * (layers * (24 * C**2 + 4 * T * C) + rate * (2 * C**2 + 2 * V * C))`",
    ),
    praise="Three times the forward pass, and the head only where it is needed.",
    other_ways=(
        lambda L, C, T, V, r: 6 * (L * (12 * C * C + 2 * T * C) + r * C * (C + V)),
        lambda L, C, T, V, r: sum(3 * (24 * C**2 + 4 * T * C) for _ in range(L)) + 3 * r * (2 * C**2 + 2 * V * C),
    ),
)

# --- 08.2 predict the best step ---------------------------------------------------------------------------------------

best_step = Prediction(
    id="08.2",
    right=150.0,
    tolerance=75.0,
    mistakes=(
        Mistake(
            "the end",
            1150.0,
            "training loss is least at the end, and this asks for the excess on *new* sentences. A batch has 64 of the "
            "100 sentences: how often has the model seen each of them by then?",
            "the loss of the training data taken for that of the language",
        ),
        Mistake(
            "the middle",
            575.0,
            "by the middle of the run the model has seen each sentence 368 times. It began to learn them by heart long "
            "before.",
            "a guess without an estimate",
        ),
        Mistake(
            "one epoch",
            2,
            "after two steps the model has seen each sentence about once, but so far it has learned almost nothing: "
            "the learning rate is still in its warm-up. Repeats are useful for a while.",
            "the rule of a single epoch of large language models, carried over",
        ),
        Mistake(
            "four epochs",
            6,
            "four epochs are six steps here, and the warm-up alone has a hundred. The rule of four epochs (Muennighoff "
            "et al. 2023) says how long a repeat is worth as much as new text, not when the loss begins to rise.",
            "arXiv:2305.16264: a finding on billions of tokens, carried over",
        ),
        Mistake(
            "within the warm-up",
            70.0,
            "too early: the warm-up alone has a hundred steps, and while the learning rate is still small the model "
            "learns little, neither the language nor the 100 sentences.",
            "an estimate from the number of epochs, without the learning rate",
        ),
        Mistake(
            "a quarter of the run",
            300.0,
            "too late: by step 300 the model has seen each of the 100 sentences 192 times, and the excess has been "
            "rising for a while.",
            "a guess without an estimate",
        ),
        Mistake(
            "before the middle",
            450.0,
            "much too late: by step 450 the model has seen each of the 100 sentences 288 times, and the excess began "
            "to rise long before.",
            "a guess without an estimate",
        ),
    ),
    hints=(
        "A step reads 64 sentences. After how many steps has the model seen each of the 100 sentences fifty times?",
        "The warm-up has 100 steps. The rise begins soon after it.",
    ),
    praise="About a hundred epochs; after that the model learns the 100 sentences, and no longer the language.",
)

# --- 08.3 find the bug: a line through the loss, not through the excess -----------------------------------------------


def a_power_law(generator):
    floor, a, b = (0.3 + float(torch.rand((), generator=generator)) for _ in range(3))
    x = torch.tensor([100.0, 200.0, 400.0, 800.0], dtype=torch.float64)
    noise = (0.1 * torch.randn(4, generator=generator, dtype=torch.float64)).exp()
    return x, floor + 20 * a * x**-b * noise, floor, 5000.0


def fewer_points(generator):
    x, losses, floor, _ = a_power_law(generator)
    return x[1:], losses[1:], floor, 3000.0


def through(x, y, at):
    """Return the value at `at` of the least-squares line through the points."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return y.mean() + slope * (at - x.mean())


def right_extrapolation(x, losses, floor, at):
    return floor + through(x.log(), (losses - floor).log(), math.log(at)).exp()


def from_the_ends(x, losses, floor, at):
    return right_extrapolation(x[[0, -1]], losses[[0, -1]], floor, at)


extrapolate = Exercise(
    id="08.3",
    right=right_extrapolation,
    inputs=a_power_law,
    also=fewer_points,
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda x, losses, floor, at: through(x.log(), losses.log(), math.log(at)).exp(),
            "the bug is still there: the line goes through the logarithm of the *loss*, so it falls to 0 in the end, "
            "through the floor. What shrinks to 0 is the excess: take (losses - floor).log(), and add the floor again.",
            "arXiv:2302.09049: a power law of the loss, extrapolated literally, says that language has entropy 0",
        ),
        Mistake(
            "floor not added",
            lambda x, losses, floor, at: through(x.log(), (losses - floor).log(), math.log(at)).exp(),
            "this is the excess at that point. The loss is the excess plus the floor.",
            "the floor subtracted before the fit and forgotten after it",
        ),
        Mistake(
            "only one axis logarithmic",
            lambda x, losses, floor, at: floor + through(x, (losses - floor).log(), at).exp(),
            "x is not logarithmic: this fits excess = a · exp(-b x), which vanishes far too fast. A power law needs "
            "the logarithm of both.",
            "exponential and power law confused: semilogy in place of loglog",
        ),
        Mistake(
            "a line through the excess itself",
            lambda x, losses, floor, at: through(x, losses, at),
            "this is a straight line in x and loss without logarithms: far out it goes below 0.",
            "linear regression on the raw points",
        ),
        Mistake(
            "the first and the last point",
            from_the_ends,
            "your line goes through the first and the last point only. With noise in them it is a worse guess than the "
            "least-squares line through all.",
            "a slope read off a picture by its two ends",
        ),
        Mistake(
            "10 and e mixed",
            lambda x, losses, floor, at: floor + through(x.log10(), (losses - floor).log10(), math.log10(at)).exp(),
            "log10 on the way in, exp on the way out: exp undoes log, 10 ** undoes log10.",
            "numpy and torch call the natural logarithm log, calculators log10",
        ),
    ),
    hints=(
        "Where does the curve go for x → ∞? A line in the logarithm of y goes to y = 0.",
        "Which quantity goes to 0? Fit that one.",
        "`log_y = (losses - floor).log()`, and `floor + torch.exp(…)` at the end.",
    ),
    praise="The excess follows the line, the loss stops at the floor.",
    other_ways=(
        lambda x, y, f, at: f + np.exp(np.polyval(np.polyfit(x.log().numpy(), (y - f).log().numpy(), 1), math.log(at))),
        lambda x, y, f, at: float(
            f + 10 ** np.polyval(np.polyfit(x.log10().numpy(), (y - f).log10().numpy(), 1), math.log10(at))
        ),
    ),
)

# --- the build: CountingModel -----------------------------------------------------------------------------------------


class CountingModel:
    """Predicts a hidden token from its two neighbours, by counting what stood beside them in the training texts."""

    def __init__(self, V, k=100.0, k3=10.0):
        self.V, self.k, self.k3 = V, k, k3

    def fit(self, texts):
        """texts: lists of token ids, each in 0 … V - 1 -> this model; what an earlier `fit` counted is gone."""
        keys = [i * self.V + j for text in texts for i, j in pairwise(text)]
        counts = torch.bincount(torch.tensor(keys, dtype=torch.long), minlength=self.V**2)
        self.pairs = counts.view(self.V, self.V).float()
        self.triples = defaultdict(Counter)
        for text in texts:
            for i, j, l in zip(text, text[1:], text[2:], strict=False):
                self.triples[i, l][j] += 1
        after = self.pairs.sum(0) + 1
        self.frequencies = after / after.sum()
        return self

    def left(self, before):
        """before: (n,) -> P(j | before): (n, V)"""
        seen = self.pairs[before]
        return (seen + self.k * self.frequencies) / (seen.sum(1, keepdim=True) + self.k)

    def both(self, before, after):
        """before, after: (n,) -> P(j | before, after) if the language were a chain of pairs: (n, V)"""
        seen = self.pairs[:, after].T + self.k * self.frequencies[after][:, None]
        right = seen / (self.pairs.sum(1) + self.k)  # P(after | j)
        product = self.left(before) * right
        return product / product.sum(1, keepdim=True)

    def probabilities(self, before, after):
        """before, after: (n,) -> P(j | before, after), with the triples: (n, V)"""
        mixed = self.k3 * self.both(before, after)
        for row, key in zip(mixed, zip(before.tolist(), after.tolist(), strict=True), strict=True):
            if key in self.triples:
                counts = self.triples[key]
                row[list(counts)] += torch.tensor(list(counts.values()), dtype=row.dtype)
        return mixed / mixed.sum(1, keepdim=True)


WORDS = 7  # token 6 is never drawn, token 5 is only ever the last of a text


def some_texts(generator, V=WORDS, n=6):
    """Texts of 3 to 9 tokens in which pairs and triples repeat; borders between texts matter."""
    lengths = torch.randint(3, 10, (n,), generator=generator).tolist()
    texts = [torch.randint(V - 2, (length,), generator=generator).tolist() for length in lengths]
    return [[*text, V - 2] for text in texts] + [texts[0]]


def contexts(generator, V=WORDS, n=WORDS):
    return (torch.randint(V - 2, (n,), generator=generator) for _ in range(2))


def fitted(answer, generator, V=WORDS, k=2.5, k3=1.5):
    return answer(V, k, k3).fit(some_texts(generator, V))


def spelled(triples):
    """Return a table of triples as sorted rows, whatever kind of dictionary it is."""
    return sorted((*key, j, int(n)) for key, counts in triples.items() for j, n in counts.items() if n)


def pairs_counted(answer, generator):
    model = answer(WORDS, 2.5, 1.5)
    result = untouched(model.fit, some_texts(generator))
    return model.pairs, "fit returns the model" if result is model else "fit does not return the model"


def triples_counted(answer, generator):
    return spelled(fitted(answer, generator).triples)


def from_the_left(answer, generator):
    model = fitted(answer, generator)
    before, _ = contexts(generator)
    return model.frequencies, untouched(model.left, before)


def from_both_sides(answer, generator):
    return untouched(fitted(answer, generator).both, *contexts(generator))


def with_triples(answer, generator):
    return untouched(fitted(answer, generator).probabilities, *contexts(generator))


def never_seen(answer, generator):
    model = fitted(answer, generator)
    size = len(model.triples)
    unseen, seen = torch.tensor([WORDS - 1, 0, WORDS - 2]), torch.tensor([0, WORDS - 1, WORDS - 1])
    found = model.left(unseen), model.both(unseen, seen), model.probabilities(unseen, seen)
    grown = len(model.triples) - size
    return *found, f"{grown} triples more after asking" if grown else "no triple more after asking"


def fitted_again(answer, generator):
    model = fitted(answer, generator)
    texts = some_texts(generator)
    model.fit(copy.deepcopy(texts))
    both = model.probabilities(*contexts(generator))
    model.fit([[], [3], [1, 2]])  # texts too short for a triple, or a pair
    return both, model.pairs, spelled(model.triples), model.probabilities(*contexts(generator))


def other_words(answer, generator):
    model = fitted(answer, generator, V=11, k=0.5, k3=4.0)
    before, after = contexts(generator, 11, 3)
    found = model.pairs, model.left(before[:1]), model.both(before, after), model.probabilities(before, after)
    model.k, model.k3 = 2.0, 0.7  # from now on
    return *found, model.probabilities(before, after)


class Wrong(CountingModel):
    """CountingModel as a learner may write it; its switches are the mistakes."""

    borders, turned, once, key, triple_borders, adds_up, silent = True, False, False, "around", True, False, False
    of, added, smoothing, keeps = 0, 1, "frequencies", True
    right, joined, normalised, least = "chain", "product", True, 0
    mixing, normalised3, looks = "counts", True, "in"

    def fit(self, texts):
        old = (self.pairs, self.triples) if self.adds_up and hasattr(self, "pairs") else None
        whole = [[token for text in texts for token in text]]
        super().fit(texts if self.borders else whole)
        if self.once:
            self.pairs = (self.pairs > 0).float()
        if self.turned:
            self.pairs = self.pairs.T.contiguous()
        if self.key == "before" or not self.triple_borders:
            self.triples = defaultdict(Counter)
            for text in texts if self.triple_borders else whole:
                for i, j, l in zip(text, text[1:], text[2:], strict=False):
                    if self.key == "before":
                        self.triples[i, j][l] += 1
                    else:
                        self.triples[i, l][j] += 1
        if old:
            self.pairs = self.pairs + old[0]
            for key, counts in old[1].items():
                self.triples[key] += counts
        if self.of == "all":
            after = torch.zeros(self.V)
            for text in texts:
                for token in text:
                    after[token] += 1
            after += self.added
        else:
            after = self.pairs.sum(self.of) + self.added
        self.frequencies = after / after.sum()
        return None if self.silent else self

    def left(self, before):
        seen = self.pairs[before]
        if self.smoothing == "each":
            return (seen + self.k) / (seen.sum(1, keepdim=True) + self.k * self.V)
        if self.smoothing == "nothing":
            return seen / seen.sum(1, keepdim=True)
        return (seen + self.k * self.frequencies) / (seen.sum(1, keepdim=self.keeps) + self.k)

    def both(self, before, after):
        if self.right == "turned":  # P(j | after) as if the text ran on from it
            right = CountingModel.left(self, after)
        elif self.right == "backwards":  # P(j comes before `after`)
            seen = self.pairs[:, after].T
            before_it = self.pairs.sum(1) + 1
            right = (seen + self.k * before_it / before_it.sum()) / (seen.sum(1, keepdim=True) + self.k)
        elif self.right == "unsmoothed":
            right = self.pairs[:, after].T / self.pairs.sum(1).clamp(min=self.least)
        elif self.right == "counts":
            right = self.pairs[:, after].T + self.k * self.frequencies[after][:, None]
        else:
            right = (self.pairs[:, after].T + self.k * self.frequencies[after][:, None]) / (self.pairs.sum(1) + self.k)
        joint = self.left(before) * right if self.joined == "product" else self.left(before) + right
        total = joint.sum(1, keepdim=True)
        if self.right == "unsmoothed" and self.least:  # somebody who guards one division guards both
            total = total.clamp(min=1e-9)
        return joint / total if self.normalised else joint

    def probabilities(self, before, after):
        mixed = self.k3 * self.both(before, after)
        for row, key in zip(mixed, zip(before.tolist(), after.tolist(), strict=True), strict=True):
            if self.looks == "index" or key in self.triples:
                counts = self.triples[key]
                new = torch.tensor(list(counts.values()), dtype=row.dtype)
                if self.mixing == "alone" and counts:
                    row.zero_()
                if self.mixing == "proportions":
                    new = new / new.sum()
                row[list(counts)] += new
        return mixed / mixed.sum(1, keepdim=True) if self.normalised3 else mixed


def wrong(**switches):
    return type("CountingModel", (Wrong,), switches)


class ByLoops:
    """Another way: dictionaries and loops, one row after the other."""

    def __init__(self, V, k=100.0, k3=10.0):
        self.V, self.k, self.k3 = V, k, k3

    def fit(self, texts):
        self.pairs, self.triples = torch.zeros(self.V, self.V), {}
        for text in texts:
            for place in range(1, len(text)):
                self.pairs[text[place - 1], text[place]] += 1
            for place in range(1, len(text) - 1):
                counts = self.triples.setdefault((text[place - 1], text[place + 1]), {})
                counts[text[place]] = counts.get(text[place], 0) + 1
        self.frequencies = (self.pairs.sum(0) + 1) / (self.pairs.sum() + self.V)
        return self

    def left(self, before):
        rows = [self.pairs[i] + self.k * self.frequencies for i in before.tolist()]
        return torch.stack([row / row.sum() for row in rows])

    def both(self, before, after):
        every = self.left(torch.arange(self.V))
        product = torch.stack([every[i] * every[:, l] for i, l in zip(before.tolist(), after.tolist(), strict=True)])
        return product / product.sum(1, keepdim=True)

    def probabilities(self, before, after):
        rows = []
        for p, i, l in zip(self.both(before, after), before.tolist(), after.tolist(), strict=True):
            seen = self.triples.get((i, l), {})
            counts = torch.tensor([float(seen.get(j, 0)) for j in range(self.V)])
            rows.append((counts + self.k3 * p) / (counts.sum() + self.k3))
        return torch.stack(rows)


counting = Build(
    id="08.4",
    course=CountingModel,
    stages=(
        Stage("pairs", pairs_counted),
        Stage("triples", triples_counted),
        Stage("from the left", from_the_left),
        Stage("from both sides", from_both_sides),
        Stage("with the triples", with_triples),
        Stage("never seen", never_seen),
        Stage("fitted again", fitted_again),
        Stage("other sizes", other_words),
    ),
    mistakes=(
        Mistake(
            "across the borders",
            wrong(borders=False),
            "the last token of a text and the first of the next one are counted as a pair. They are not neighbours: "
            "count within each text.",
            "the first edition of this lesson made one stream of all texts and had to mend the counts afterwards",
        ),
        Mistake(
            "before and after exchanged",
            wrong(turned=True),
            "`pairs` is turned: [i, j] should say how often j came right *after* i.",
            "the two axes of a table of pairs exchanged",
        ),
        Mistake(
            "each pair once",
            wrong(once=True),
            "each different pair counts once. If a pair comes up five times, its cell is 5. (`pairs[i, j] += 1` with "
            "tensors of indices adds only once for indices that repeat: use bincount, a loop, or "
            "`index_put_(…, accumulate=True)`.)",
            "numpy's documentation of ufunc.at and torch's of index_put_ (accumulate)",
        ),
        Mistake(
            "fit returns nothing",
            wrong(silent=True),
            "the counts are right, but `fit` returns nothing: end it with `return self`, so that one can write "
            "`CountingModel(V).fit(texts)`.",
            "a method without return; scikit-learn's fit returns the estimator",
        ),
        Mistake(
            "the third token predicted",
            wrong(key="before"),
            "your triples say which token came after two others, as in a trigram model that writes from left to right. "
            "Here the token in the *middle* is hidden: the key is (token before, token after).",
            "trigram models of the usual kind",
        ),
        Mistake(
            "triples across the borders",
            wrong(triple_borders=False),
            "the pairs stay within their texts, but the triples run from the end of one text into the next.",
            "a second loop over a stream of all texts",
        ),
        Mistake(
            "frequencies of the token before",
            wrong(of=1),
            "the frequencies are those of the tokens that come *before*: you summed the rows. `pairs.sum(0)` sums over "
            "i and leaves j.",
            "the two axes of a table of pairs exchanged",
        ),
        Mistake(
            "frequencies of all tokens",
            wrong(of="all"),
            "your frequencies count the first token of each text too, and nothing comes before it. They are the column "
            "sums of `pairs`: how often a token came *after* another one.",
            "the usual unigram counts: every token of the text",
        ),
        Mistake(
            "nothing added to the frequencies",
            wrong(added=0),
            "a token that never came has frequency 0 and could never be predicted: add 1 to each column sum before you "
            "divide.",
            "https://github.com/nltk/nltk/issues/602 (what is left for unseen events)",
        ),
        Mistake(
            "pairs alone",
            wrong(smoothing="nothing"),
            "the frequencies are not mixed in: pairs that did not come up get probability 0, and a token that nothing "
            "came after gives 0 / 0 = NaN.",
            "https://github.com/nltk/nltk/issues/2332",
        ),
        Mistake(
            "add-k",
            wrong(smoothing="each"),
            "this is add-k smoothing: k is added to each cell, so what is held back is shared out *equally*. Share k "
            "out by the frequencies: then an unseen pair with a frequent token is likelier than one with a rare one.",
            "NLTK's Lidstone estimator, where an interpolation was wanted (https://github.com/nltk/nltk/issues/380)",
        ),
        Mistake(
            "keepdim forgotten",
            wrong(keeps=False),
            "the rows' sums have the shape (n,), and torch lines them up with the columns: the rows do not sum to 1. "
            "Keep the dimension: sum(1, keepdim=True).",
            "broadcasting, as in exercise 02.1",
        ),
        Mistake(
            "the text runs on from the right neighbour",
            wrong(right="turned"),
            "you multiply by P(j | after), as if j came after the right neighbour. It comes before it: the factor is "
            "P(after | j), a column of the table.",
            "the row in place of the column",
        ),
        Mistake(
            "conditioned on the right neighbour",
            wrong(right="backwards"),
            "you multiply P(j | before) by the probability of j *given* the token after it. That counts twice how "
            "frequent j is. By Bayes' rule the factor is P(after | j): divide column `after` by what came after j, "
            "n_j + k.",
            "two predictors multiplied without Bayes' rule (product of experts)",
        ),
        Mistake(
            "the right side not smoothed",
            wrong(right="unsmoothed", least=1),
            "the factor from the right, P(l | j), is not smoothed, so a pair (j, l) that did not come up rules j out, "
            "whatever the left says. Smooth it as in `left`: add k · u_l to the count and k to n_j.",
            "`left` smoothed, the second factor taken straight from the table",
        ),
        Mistake(
            "the right side not smoothed, 0 / 0",
            wrong(right="unsmoothed"),
            "the factor from the right, P(l | j), is not smoothed, so a token j that nothing came after gives 0 / 0 = "
            "NaN. Smooth it as in `left`: add k · u_l to the count and k to n_j.",
            "`left` smoothed, the second factor taken straight from the table",
        ),
        Mistake(
            "counts in place of probabilities",
            wrong(right="counts"),
            "the factor from the right is not divided by n_j + k: it is a count, not P(after | j), and favours "
            "frequent tokens j.",
            "a column taken as it is; the rows of the result are normalised, so it looks right",
        ),
        Mistake(
            "added in place of multiplied",
            wrong(joined="sum"),
            "you add the two probabilities. A token that fits on one side only then still looks good; multiplied, it "
            "must fit on both.",
            "linear interpolation of two language models",
        ),
        Mistake(
            "both sides not normalised",
            wrong(normalised=False),
            "the rows of `both` do not sum to 1: divide each by its sum.",
            "the denominator of Bayes' rule left out",
        ),
        Mistake(
            "triples alone where there are any",
            wrong(mixing="alone"),
            "where a triple was seen, you use the triples alone, so every other token gets probability 0. Mix: counts "
            "plus k3 times `both`.",
            "back-off without discounting (Katz 1987 discounts)",
        ),
        Mistake(
            "proportions in place of counts",
            wrong(mixing="proportions"),
            "you add the *proportions* of the triples, so a context seen once weighs as much as one seen a thousand "
            "times. Add the counts: k3 then says how many further triples `both` is worth.",
            "interpolation with a constant weight",
        ),
        Mistake(
            "the mixture not normalised",
            wrong(normalised3=False),
            "the rows of `probabilities` do not sum to 1: divide each by its sum, n + k3.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "asking makes entries",
            wrong(looks="index"),
            "the probabilities are right, but asking for a context that was never seen makes an entry for it: "
            "`defaultdict` stores what you look up. Ask with `.get(key)` or `key in …`.",
            "Python's documentation of defaultdict",
        ),
        Mistake(
            "a second fit adds up",
            wrong(adds_up=True),
            "a second `fit` adds to the counts of the first. Start from zero in `fit`, not in `__init__`.",
            "counts made once, in the constructor",
        ),
    ),
    hints=(
        "Pairs: make one list of the numbers i · V + j over all neighbours of all texts (`itertools.pairwise`); "
        "`torch.bincount(…, minlength=V * V).view(V, V).float()` counts them. An empty list needs `dtype=torch.long`.",
        "Triples: `defaultdict(Counter)`; in each text, `for i, j, l in zip(text, text[1:], text[2:])`, and "
        "`triples[i, l][j] += 1`.",
        "`left`: rows `pairs[before]`, plus k times the frequencies, divided by the rows' sums (keepdim) plus k.",
        "`both`: the column `pairs[:, after].T` plus k times `frequencies[after][:, None]`, divided by "
        "`pairs.sum(1) + k`, is P(after | j) for each j. Multiply by `left(before)`, divide by the rows' sums.",
        "`probabilities`: start from `k3 * both(…)`, add each context's counts to its row, divide by the rows' sums.",
    ),
    praise="A model of a language without a single weight that was trained.",
    other_ways=(ByLoops,),
)
