"""The checks of lesson 12, A search engine."""

import math
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    hint,
    mine,
    run,
    solution,
    untouched,
)
from nextbert_lite.use.search import best_weight, fuse, mrr, ranks, reciprocal_ranks

__all__ = [
    "bm25",
    "bootstrap",
    "fused_mrr",
    "hint",
    "mean_reciprocal_ranks",
    "mine",
    "pool_size",
    "solution",
    "weighted_mean",
]

# --- the build 12.1: BM25 ---------------------------------------------------------------------------------------------


class BM25:
    """An index of texts by their words, which gives each text's BM25 score for a query."""

    def __init__(self, texts, words_of, k1=1.5, b=0.75):
        """texts: a list of str; words_of: a function, text -> the list of its words"""
        self.words_of, self.N = words_of, len(texts)
        counts = [Counter(words_of(text)) for text in texts]
        found = {}  # word -> [(number of a text, how often the word occurs in it), ...]
        for i, count in enumerate(counts):
            for word, f in count.items():
                found.setdefault(word, []).append((i, f))
        sizes = [len(pairs) for pairs in found.values()]  # in how many texts each word occurs
        where, f = torch.tensor([pair for pairs in found.values() for pair in pairs]).T
        n = torch.tensor(sizes).repeat_interleave(torch.tensor(sizes))  # the same for each pair
        lengths = torch.tensor([float(count.total()) for count in counts])
        rare = torch.log(1 + (self.N - n + 0.5) / (n + 0.5))
        often = f / (f + k1 * (1 - b + b * lengths[where] / lengths.mean()))
        pieces = zip(where.split(sizes), (rare * often).split(sizes), strict=True)
        self.postings = dict(zip(found, pieces, strict=True))  # word -> (numbers of its texts, what it adds to each)

    def scores(self, queries):
        """queries: a list of str -> each text's score for each query, (Q, N)"""
        scores = torch.zeros(len(queries), self.N)
        for row, query in zip(scores, queries, strict=True):
            for word in self.words_of(query):
                if word in self.postings:
                    where, adds = self.postings[word]
                    row[where] += adds
        return scores


def plain_split(text):
    return text.lower().split()


def by_commas(text):
    return [word for word in text.split(",") if word]


VOCABULARY = [f"word{i}" for i in range(12)]


def some_texts(generator, lengths, vocabulary=VOCABULARY, between=" "):
    """Return texts of these numbers of words; the first words of the vocabulary are the most frequent."""
    weights = 1 / (1 + torch.arange(len(vocabulary), dtype=torch.float))
    draws = [torch.multinomial(weights, n, replacement=True, generator=generator) if n else () for n in lengths]
    return [between.join(vocabulary[i] for i in draw) for draw in draws]


def scored(answer, texts, queries, words_of=plain_split, **options):
    """Return the scores of an answer's index; Fault if a list that it was given is changed."""
    index = untouched(answer, texts, words_of, *options.values(), names=("texts", "words_of", "k1", "b"))
    if not callable(getattr(index, "scores", None)):
        raise Fault("an index needs a method `scores(queries)`.")
    scores = untouched(index.scores, queries, names=("queries",))
    if not isinstance(scores, torch.Tensor):
        raise Fault(f"`scores` should return a tensor of shape (queries, texts); yours is {describe(scores)}.")
    return scores


def shape_of_scores(answer, generator):
    scores = scored(answer, ["Red fox", "a red red box"], ["red", "fox", "box fox"])
    return f"scores of shape {tuple(scores.shape)} and {scores.dtype}"


def rarity(answer, generator):
    """Each word twice in a text, all texts of six words: only rarity counts."""
    order = torch.randperm(9, generator=generator).tolist()
    rows = [(VOCABULARY[0], VOCABULARY[1 + (i > 3)], VOCABULARY[3 + order[i]]) for i in range(9)]
    return scored(answer, [" ".join([*row, *row]) for row in rows], VOCABULARY)


def repetition(answer, generator):
    """Texts of one length, words that occur several times."""
    return scored(answer, some_texts(generator, [8] * 10), VOCABULARY)


def lengths_differ(answer, generator):
    lengths = torch.randint(2, 40, (10,), generator=generator).tolist()
    return scored(answer, some_texts(generator, lengths), VOCABULARY)


def longer_queries(answer, generator):
    texts = some_texts(generator, torch.randint(2, 20, (8,), generator=generator).tolist())
    queries = ["word0 word2", "Word1 WORD3", "word1 word1 word4", "zebra", "word2 zebra word5", ""]
    return scored(answer, texts, queries)


def empty_text(answer, generator):
    texts = some_texts(generator, [5, 0, 9, 3, 0, 12])
    return scored(answer, texts, VOCABULARY)


def read_once(answer, generator):
    """Count the calls of words_of."""
    texts, calls = some_texts(generator, [6] * 5), []

    def counted(text):
        calls.append(text)
        return plain_split(text)

    index = answer(texts, counted)
    at_first = Counter(calls)
    calls.clear()
    index.scores(["word0 word1", "word2"])
    again = sum(call in set(texts) for call in calls)
    return (
        f"`words_of` is called {'once' if set(at_first.values()) == {1} else 'more than once'} for a text at the start",
        f"and {'not at all' if not again else 'again'} for the texts when a query comes",
    )


def other_sizes(answer, generator):
    texts = some_texts(generator, [3, 7, 1, 12], ["Aa", "Bb", "Cc", "Dd"], ",")
    texts.append(texts[1])
    first = scored(answer, texts, ["Aa,Bb", "Cc", "aa"], by_commas, k1=0.9, b=0.4)
    return first, scored(answer, texts[:2], ["Dd,Aa"], by_commas, k1=2.0, b=0.0)


class Wrong:
    """BM25 as a learner may write it, without postings; its switches are the mistakes."""

    idf, often, counted, relative, asked = "lucene", "saturated", "texts", "length", "each word"
    through, unknown, constants, reads, texts_counted = "words_of", "skipped", "given", "once", "all"
    adds_up = True

    def __init__(self, texts, words_of, k1=1.5, b=0.75):
        self.k1, self.b = (k1, b) if self.constants == "given" else (1.5, 0.75)
        self.words_of, self.texts = words_of, texts
        self.counts = [Counter(words_of(text)) for text in texts]
        if self.reads == "twice":
            self.lengths = [len(words_of(text)) for text in texts]
        elif self.relative == "distinct":
            self.lengths = [len(count) for count in self.counts]
        elif self.relative == "characters":
            self.lengths = [len(text) for text in texts]
        else:
            self.lengths = [sum(count.values()) for count in self.counts]

    def scores(self, queries):
        if self.reads == "each time":
            self.counts = [Counter(self.words_of(text)) for text in self.texts]
        scores = torch.zeros(len(queries), len(self.counts))
        for q, query in enumerate(queries):
            words = self.words_of(query) if self.through == "words_of" else query.split()
            for word in dict.fromkeys(words) if self.asked == "a set" else words:
                f = torch.tensor([float(count[word]) for count in self.counts])
                if self.unknown == "an error" and not f.any():
                    raise KeyError(word)
                scores[q] = (
                    scores[q] + self.of_word(f) if self.adds_up else torch.where(f > 0, self.of_word(f), scores[q])
                )
        return scores

    def of_word(self, f):
        lengths = torch.tensor(self.lengths, dtype=torch.float)
        N, n = len(f), f.count_nonzero() if self.counted == "texts" else f.sum()
        mean = lengths.mean()
        if self.texts_counted == "those with words":
            N, mean = lengths.count_nonzero(), lengths[lengths > 0].mean()
        elif self.texts_counted == "those with words, in the mean":
            mean = lengths[lengths > 0].mean()
        if not f.any():
            return torch.zeros(len(f))
        rare = {
            "lucene": lambda: torch.log(1 + (N - n + 0.5) / (n + 0.5)),
            "no 1 +": lambda: torch.log((N - n + 0.5) / (n + 0.5)),
            "tf-idf": lambda: torch.log(torch.tensor(N / n)) if not torch.is_tensor(n) else torch.log(N / n),
            "none": lambda: torch.tensor(1.0),
        }[self.idf]()
        if self.often == "count":
            return rare * f
        relative = {"none": torch.ones_like(lengths), "upside down": mean / lengths}.get(self.relative, lengths / mean)
        grown = f / (f + self.k1 * (1 - self.b + self.b * relative))
        return (rare * grown * (self.k1 + 1 if self.often == "times k1 + 1" else 1)).nan_to_num(0.0)


def wrong(**switches):
    return type("BM25", (Wrong,), switches)


class DenseBM25:
    """Another way: a dense table, texts × words."""

    def __init__(self, texts, words_of, k1=1.5, b=0.75):
        self.words_of = words_of
        rows = [words_of(text) for text in texts]
        self.column = {word: j for j, word in enumerate(dict.fromkeys(w for row in rows for w in row))}
        f = torch.zeros(len(texts), len(self.column))
        for i, row in enumerate(rows):
            for word in row:
                f[i, self.column[word]] += 1
        n, length = (f > 0).sum(0), f.sum(1, keepdim=True)
        idf = torch.log((len(texts) + 1) / (n + 0.5))
        self.table = idf * f / (f + k1 * (1 - b + b * length / length.mean()))

    def scores(self, queries):
        asked = [[self.column[w] for w in self.words_of(query) if w in self.column] for query in queries]
        return torch.stack([self.table[:, columns].sum(1) for columns in asked])


OWN_WORDS = (
    "the query does not go through `words_of`. Where the index holds *matrix*, a query for *Matrix* finds nothing: "
    "texts and queries need the same treatment."
)
QUERIES = {"red": "", "": " A query without any word gets zeros.", "zebra": " A word that no text has adds nothing."}


def about_bm25(answer, stage):
    """Take the scores apart: what raises and what is shared, then the two factors and the length by themselves."""
    asked, texts = [], ["red fox", "a red red box", "red fox"]
    for query, wanted in QUERIES.items():
        found = run(lambda text: answer(texts, plain_split).scores([text]), (query,))
        if isinstance(found, Exception):
            return f"a query {query!r} raises {type(found).__name__}: {str(found).rstrip('.')}.{wanted}"
    index = answer(texts, lambda text: asked.append(text) or plain_split(text))
    first, _ = index.scores(["fox"]), answer(["fox fox", "red box", "box"], plain_split)
    if not first.any():
        return "all scores are 0: that is step 1. Next is how rare each word of the query is, and how often it occurs."
    if not torch.equal(index.scores(["fox"]), first):
        return (
            "asked again, after another index was made, the same query gets other scores. What an index keeps belongs "
            "to `self`; make it anew in `__init__`, and leave it as it is in `scores`."
        )
    if "fox" not in asked:
        return OWN_WORDS
    if not torch.allclose(index.scores(["box", "fox"])[1:], first):
        return "a query's scores depend on the query before it in the list. Begin each with a row of zeros of its own."
    if not torch.allclose(index.scores(["red zebra fox"]), index.scores(["red"]) + first):
        return (
            "a query's scores should be the sum over its words. 'red zebra fox' should get those of 'red' and of 'fox'."
        )
    if first.shape == (1, 3) and first[0, 0] != first[0, 2]:
        return "two texts with the same words get different scores. Keep the texts by number: none replaces another."
    columns = answer(["red fox", "", "box"], plain_split).scores(["red"]).shape[1]
    if columns != 3:
        return (
            f"3 texts, one of them without words, give {columns} columns. A text without words keeps its own, of zeros."
        )
    rows = [["a"] * (i < 1) + ["b"] * 4 * (i == 1) + ["c"] * (i < 3) + ["d"] * (i < 7) for i in range(9)]
    nine = [" ".join([*row, *(f"x{i}y{j}" for j in range(8 - len(row)))]) for i, row in enumerate(rows)]
    scores = answer(nine, plain_split).scores(["a", "b", "c", "d"])  # each of the nine texts has eight words
    grown = (scores[1, 1] / scores[0, 0]).item()
    if abs(grown - 20 / 11) > 1e-3:
        return (
            "of two words that occur in one text each, of the mean length, the one that occurs four times there should "
            f"count 1.82 times as much as the other (f / (f + k1), k1 = 1.5); in yours it counts {grown:.2f} times as "
            f"much: see {'what becomes of f' if abs(grown - 1) < 1e-3 else 'n, the fraction and its brackets'}."
        )
    rare = [2.5 * scores[row, 0].item() for row in (0, 2, 3)]
    right = [math.log(10 / (n + 0.5)) for n in (1, 3, 7)]  # 1 + (9 - n + 0.5) / (n + 0.5) = 10 / (n + 0.5)
    quotients = [a / b for a, b in zip(rare, right, strict=True)]
    if max(abs(q - 1) for q in quotients) > 1e-3:
        shown = [", ".join(f"{x:.2f}" for x in values) for values in (rare, right)]
        return f"the rarity of words in 1, 3 and 7 of 9 texts is {shown[0]} in yours; expected {shown[1]}. " + (
            "See N, n (in how many texts the word occurs), and the brackets."
            if max(quotients) - min(quotients) > 1e-3
            else f"All are {quotients[0]:.2f} times as large: is it the natural logarithm, and f alone above the line?"
        )
    two = answer(["one a", "two b c d e f"], plain_split).scores(["one", "two"]).diag().tolist()
    relative = [round(((math.log(2) / score - 1) / 1.5 - 0.25) / 0.75, 3) + 0.0 for score in two]
    if abs(relative[0] - 0.5) + abs(relative[1] - 1.5) > 1e-3:
        return (
            f"for texts of 2 and 6 words, ℓ divided by the mean comes to {relative[0]:.2f} and {relative[1]:.2f} in "
            "yours; expected 0.50 and 1.50, inside of k1 · (1 - b + b · …)."
        )
    for name, k1, b in (("k1", 0.5, 0.75), ("b", 1.5, 0.25)):
        if torch.equal(answer(texts, plain_split, k1, b).scores(["fox"]), first):
            return f"`{name}` does nothing in yours. Use the argument."
    return None


bm25 = Build(
    id="12.1",
    about=about_bm25,
    course=BM25,
    stages=(
        Stage("shapes", shape_of_scores),
        Stage("how rare", rarity),
        Stage("how often", repetition),
        Stage("how long", lengths_differ),
        Stage("queries", longer_queries),
        Stage("empty texts", empty_text),
        Stage("other sizes", other_sizes),
        Stage("texts read once", read_once),
    ),
    mistakes=(
        Mistake(
            "no 1 + in the logarithm",
            wrong(idf="no 1 +"),
            "the 1 + inside the logarithm is missing: a word that occurs in more than half of the texts gets a "
            "negative weight, and a text that has it ends up below one that has nothing.",
            "https://github.com/haifengl/smile/issues/682",
        ),
        Mistake(
            "the rarity of TF-IDF",
            wrong(idf="tf-idf"),
            "this is ln(N / n), the rarity of TF-IDF. BM25 has ln(1 + (N - n + 0.5) / (n + 0.5)), which is not 0 for a "
            "word of every text.",
            "the inverse document frequency of the cell above, section 1",
        ),
        Mistake(
            "no weight for rarity",
            wrong(idf="none"),
            "the factor for how rare the word is has been left out: a word of every text counts as much as one that "
            "occurs in a single text.",
            "https://github.com/headroomlabs-ai/headroom/pull/646",
        ),
        Mistake(
            "times k1 + 1",
            wrong(often="times k1 + 1"),
            "that is the older form, with (k1 + 1) above the line. Lucene dropped it: all scores shrink by the same "
            "factor, and no order changes. Leave it out here.",
            "https://issues.apache.org/jira/browse/LUCENE-8563",
        ),
        Mistake(
            "the word's total",
            wrong(counted="occurrences"),
            "n should be the number of *texts* that hold the word, not how often it occurs in all of them together. A "
            "word ten times in one text is still a rare word.",
            "https://github.com/Michael-JB/bm25/pull/20",
        ),
        Mistake(
            "no saturation",
            wrong(often="count"),
            "this is count times rarity: five times the word, five times the score, in texts of any length. The "
            "fraction with k1 below the line is missing.",
            "plain TF-IDF, section 1",
        ),
        Mistake(
            "lengths ignored",
            wrong(relative="none"),
            "the lengths do nothing (b = 0): a long text holds more words by chance and wins. Multiply k1 by "
            "1 - b + b · length / mean length.",
            "b = 0 in Robertson and Zaragoza 2009, section 3.5",
        ),
        Mistake(
            "length upside down",
            wrong(relative="upside down"),
            "the length goes in upside down: long texts gain by their length. It is the text's length divided by the "
            "mean length.",
            "the fraction turned over, section 1",
        ),
        Mistake(
            "distinct words",
            wrong(relative="distinct"),
            "your length counts each word of a text once. ℓ is the number of all its words, repeated ones too: the sum "
            "of the counts, not how many keys there are.",
            "len(Counter(words)) taken for len(words)",
        ),
        Mistake(
            "characters",
            wrong(relative="characters"),
            "your length is in characters, `len(text)`. ℓ is the number of words of the text: the sum of its counts.",
            "len(text) taken for the number of words",
        ),
        Mistake(
            "each word of the query once",
            wrong(asked="a set"),
            "a word that comes twice in the query should count twice: the sum runs over the words of the query, not "
            "over the set of them.",
            "https://github.com/dorianbrown/rank_bm25/issues/10 (which words of a query the sum runs over)",
        ),
        Mistake(
            "the last word overwrites",
            wrong(adds_up=False),
            "a word of the query overwrites what the words before it gave. A text's score is the sum over the words: "
            "`row[numbers] += values`.",
            "= in place of +=",
        ),
        Mistake(
            "the query's own words",
            wrong(through="split"),
            OWN_WORDS,
            "a query that is tokenized in another way than the index",
        ),
        Mistake(
            "an unknown word is an error",
            wrong(unknown="an error"),
            "a query may have a word that no text has. It adds nothing, so skip it: `if word in self.postings`.",
            "a dict looked up without asking whether it has the key",
        ),
        Mistake(
            "texts without words left out",
            wrong(texts_counted="those with words"),
            "a text without words is a text all the same: it counts in N and, with length 0, in the mean length.",
            "empty rows filtered out before counting",
        ),
        Mistake(
            "the mean without empty texts",
            wrong(texts_counted="those with words, in the mean"),
            "your mean length leaves out the texts without words. They count in it with length 0, as they count in N.",
            "the mean of the lengths above 0",
        ),
        Mistake(
            "k1 and b of the notebook",
            wrong(constants="its own"),
            "your index has k1 = 1.5 and b = 0.75 whatever it is told. Use the arguments.",
            "constants of the cell above written into the function",
        ),
        Mistake(
            "texts read at each query",
            wrong(reads="each time"),
            "the scores are right, but each call of `scores` goes through all texts again. An index does that work "
            "once, in `__init__`.",
            "https://github.com/dorianbrown/rank_bm25/issues/12 (speed of a search without an index)",
        ),
        Mistake(
            "texts read twice",
            wrong(reads="twice"),
            "the scores are right, but `words_of` runs more than once over the same text, and it is the slow part. "
            "Keep what it returned: the length of a text is the sum of its counts.",
            "a second pass for the lengths",
        ),
    ),
    hints=(
        "In `__init__`: `counts = [Counter(words_of(text)) for text in texts]`. The length of a text is "
        "`count.total()`.",
        "Keep each word's texts: `found.setdefault(word, []).append((i, f))`. n is `len(found[word])`.",
        "What the word adds to each of its texts: `math.log(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b "
        "* lengths[i] / mean))`, with the lengths as a tensor. Store `self.postings[word] = (numbers, values)`, two "
        "tensors.",
        "In `scores`: a row of zeros for each query; for each word of `self.words_of(query)` that is in "
        "`self.postings`, `row[numbers] += values`.",
        "If the index takes long: make one tensor of all pairs, compute all values at once, and cut them by "
        "`values.split(sizes)`.",
    ),
    praise="Rare words weigh more, repetition pays less and less, and length is no merit.",
    other_ways=(DenseBM25, wrong()),
)

# --- 12.2 ranks with ties ---------------------------------------------------------------------------------------------


def tied_scores(generator):
    scores = torch.randint(0, 5, (8, 12), generator=generator).float()
    scores[0] = 0  # a search that found nothing
    return scores, torch.randint(0, 12, (8,), generator=generator)


def no_ties(generator):
    return torch.randn(6, 7, generator=generator), torch.randint(0, 7, (6,), generator=generator)


def own(scores, right):
    return scores.gather(1, right[:, None])


def place_in_order(scores, right, descending=True):
    order = torch.argsort(scores, dim=1, descending=descending, stable=True)
    return 1 / (1 + (order == right[:, None]).float().argmax(1))


def by_digamma(scores, right):
    before, equal = (scores > own(scores, right)).sum(1), (scores == own(scores, right)).sum(1)
    return ((before + equal + 1.0).double().digamma() - (before + 1.0).double().digamma()).float() / equal


def worth_of_every_place(scores, right):
    in_order, same = scores.sort(1, descending=True).values, own(scores, right)
    worth = (in_order == same) / torch.arange(1, scores.shape[1] + 1)
    return worth.sum(1) / (in_order == same).sum(1)


class Calls(TorchFunctionMode):
    """Counts what is called of torch, and rows that become lists."""

    number = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.number += len(args[0]) if function is torch.Tensor.tolist and args[0].ndim else 1
        return function(*args, **(kwargs or {}))


def loops_over_questions(answer, case):
    """The text asks for no loop over the questions: more of them must not make more operations."""
    scores, right = case
    counts = []
    for repeats in (1, 10):
        with Calls() as counted:
            answer(scores.repeat(repeats, 1), right.repeat(repeats))
        counts.append(counted.number)
    if counts[1] > counts[0] + 15:
        return "it loops over the questions. Work on all rows at once: a comparison with a column (Q, 1), and `sum(1)`."
    return None


LOWEST_FIRST = "the lowest score comes first in yours. Scores, unlike distances, are good when they are high."


def about_ranks(answer, case):
    """Ask without ties first, then for the small case of the text."""
    scores, right = no_ties(torch.Generator().manual_seed(0))
    wanted, found = reciprocal_ranks(scores, right).float(), answer(scores.clone(), right.clone())
    shape = tuple(getattr(found, "shape", ()))
    if shape in ((), (7,)):
        advice = "Leave the mean out." if shape == () else "Count along the texts of each question: `sum(1)`."
        return f"for 6 questions and 7 texts the shape is {shape}; expected (6,), a number for each question. {advice}"
    if shape != (6,) or found.dtype != torch.float32:
        return None
    if torch.equal(answer(scores.clone(), (right + 1) % 7), found):
        return "`right` does nothing in yours. The right text of question i is number `right[i]`, which need not be i."
    if torch.allclose(answer(-scores, right.clone()), wanted):
        return LOWEST_FIRST
    if not torch.allclose(found, wanted, atol=1e-4):
        i = int((found - wanted).abs().argmax())
        return (
            f"already without ties, a right text of rank {1 / wanted[i]:.0f} gets {found[i]:.4f}; expected "
            f"{wanted[i]:.4f}. The best rank is 1."
        )
    value = float(answer(torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]]), torch.tensor([2]))[0])
    why = {
        13 / 12: "You have their sum: divide by how many there are.",
        3 / 8: "Those between the first and the last count too.",
    }
    return (
        f"without ties yours is right. Where the possible ranks are 2, 3 and 4, yours gives {value:.4f}; the mean of "
        f"1/2, 1/3 and 1/4 is 0.3611. {next((s for x, s in why.items() if abs(x - value) < 1e-4), '')}".rstrip()
    )


mean_reciprocal_ranks = Exercise(
    id="12.2",
    limit=loops_over_questions,
    about=about_ranks,
    right=lambda scores, right: reciprocal_ranks(scores, right).float(),
    inputs=tied_scores,
    mistakes=(
        Mistake(
            "one over the middle place",
            lambda scores, right: 1 / ranks(scores, right),
            "this is one over the *middle* of the tied ranks. The mean of 1/1 and 1/3 is 0.67, one over their middle "
            "is 0.5: a search that gives all texts the same score would get less than chance gets. Take the mean of "
            "the reciprocals.",
            "the first edition of this lesson; McSherry and Najork 2008",
        ),
        Mistake(
            "ties in one's favour",
            lambda scores, right: 1 / (1 + (scores > own(scores, right)).sum(1)),
            "you count ties in your favour: only texts with a *higher* score come before the right one. A search that "
            "gives every text the same score would have a perfect MRR of 1.",
            "https://github.com/baharefatemi/SimplE/issues/4",
        ),
        Mistake(
            "ties against oneself",
            lambda scores, right: 1 / (scores >= own(scores, right)).sum(1),
            "you count every tie against the search: a text with the same score comes before the right one. In a "
            "random order the right one may have any of their ranks: take the mean of 1/rank over them.",
            "https://github.com/Accenture/AmpliGraph/issues/212",
        ),
        Mistake(
            "the order decides ties",
            place_in_order,
            "a sort puts equal scores in the order in which the texts happen to be in your list. Turn the list "
            "around, and the result changes. Take the mean of 1/rank over the ranks that equal scores share.",
            "https://github.com/embeddings-benchmark/mteb/issues/5092",
        ),
        Mistake(
            "the lowest score first",
            lambda scores, right: place_in_order(scores, right, descending=False),
            LOWEST_FIRST,
            "argsort's default is ascending",
        ),
        Mistake(
            "the rank itself",
            lambda scores, right: ranks(scores, right),
            "these are the ranks. The reciprocal, 1 / rank, is asked for.",
            "mean rank and mean reciprocal rank mixed up",
        ),
        Mistake(
            "ranks from zero",
            lambda scores, right: 1 / (ranks(scores, right) - 1),
            "your ranks start at 0, so the best one gives a division by zero. The first rank is 1.",
            "an index taken for a rank: Python counts from 0",
        ),
    ),
    hints=(
        "The right text's own score, a column: `own = scores.gather(1, right[:, None])`.",
        "`before = (scores > own).sum(1)` texts are ahead of it. `equal = (scores == own).sum(1)` have its score, "
        "itself included. So its ranks are before + 1 to before + equal.",
        "A sum of 1/rank over neighbouring ranks is a difference of two running sums: "
        "`sums = F.pad((1 / torch.arange(1, scores.shape[1] + 1)).cumsum(0), (1, 0))`; return "
        "`(sums[before + equal] - sums[before]) / equal`.",
    ),
    praise="A search that knows nothing gets what chance gets.",
    also=no_ties,
    other_ways=(by_digamma, worth_of_every_place),
)

# --- 12.3 predict the result: ten times the texts ---------------------------------------------------------------------


def by_chance(N):
    """The MRR of a search that orders N texts at random."""
    return sum(1 / rank for rank in range(1, N + 1)) / N


def about_the_factor(guess):
    """Say on which side of the plausible numbers a guess is."""
    if not guess > 1:
        return "The MRR becomes smaller, so the number is above 1: the MRR among 500 divided by the MRR among 5,000."
    if guess > 10:
        return "Each rank is a tenth as probable, but there are more ranks, each worth something: it is less than 10."
    return "It does lie between 1 and 10. Compute the mean of 1/rank in both pools, and divide the one by the other."


pool_size = Prediction(
    id="12.3",
    about=about_the_factor,
    right=by_chance(500) / by_chance(5000),
    tolerance=0.06,
    mistakes=(
        Mistake(
            "ten",
            10.0,
            "that holds for the probability of the first rank, for recall@10, and for one over the mean rank. But the "
            "MRR adds what all ranks are worth, and among 5,000 texts there are 4,500 ranks more, each worth a little.",
            "the chance of a first rank taken for the mean of 1/rank, section 3",
        ),
        Mistake(
            "none",
            1.0,
            "the sum 1 + 1/2 + 1/3 + … hardly grows, but each rank now has the probability 1/5000 in place of 1/500.",
            "a measure between 0 and 1 taken for one that does not depend on the number of texts",
        ),
        Mistake(
            "the sums alone",
            sum(1 / r for r in range(1, 5001)) / sum(1 / r for r in range(1, 501)),
            "that is the ratio of the two sums of 1/rank. Each sum is divided by its number of texts.",
            "the division forgotten, section 3",
        ),
        Mistake(
            "turned over",
            by_chance(5000) / by_chance(500),
            "that is the MRR among 5,000 divided by that among 500. The question is by what it is divided.",
            "a ratio turned over",
        ),
        Mistake(
            "the logarithms",
            10 * math.log(500) / math.log(5000),
            "you took ln N for the sum 1 + 1/2 + … + 1/N, which is nearly 0.58 larger. That is close; add up the sums "
            "themselves.",
            "the sum replaced by its integral",
        ),
        Mistake(
            "how much the sum grows",
            math.log(10),
            "ln 10 is by how much the sum 1 + 1/2 + … + 1/N *grows*, from 6.8 to 9.1. The MRR is the sum divided by N.",
            "a difference taken for a quotient",
        ),
        Mistake(
            "the square root",
            math.sqrt(10),
            "a square root belongs to the standard deviation of a mean. This is the mean of 1/rank over N ranks.",
            "the law of large numbers taken for a law of pools",
        ),
    ),
    hints=(
        "Each of the N ranks is equally likely. What is rank r worth?",
        "Among N texts: (1 + 1/2 + 1/3 + … + 1/N) / N.",
        "`mrr = lambda N: sum(1 / r for r in range(1, N + 1)) / N`; then `mrr(500) / mrr(5000)`",
    ),
    praise="So a number without the size of its pool says little.",
)

# --- 12.5 the vector of a bag -----------------------------------------------------------------------------------------


def tokens_and_tables(generator, B=3, T=7, V=20, C=4):
    ids = torch.randint(5, V, (B, T), generator=generator)
    lengths = torch.tensor([T] + [T - 2] * (B - 1))
    mask = torch.arange(T) < lengths[:, None]
    ids[:, 0] = 0  # <s>
    ids[:, 1] = 4  # <mask>
    ids[0, 3] = ids[0, 2]
    ids[torch.arange(B), lengths - 1] = 2  # </s>
    ids[1].masked_fill_(~mask[1], 1)  # <pad>; further texts have ordinary ids there, which do not count either
    return ids, mask, torch.randn(V, C, generator=generator), torch.randn(V, generator=generator)


def bag_of(counts=lambda ids, mask: mask & (ids >= 5), weigh=torch.exp, divide=lambda w: w.sum(1, keepdim=True)):
    def pooled(ids, mask, vectors, log_weights):
        w = weigh(log_weights[ids]) * counts(ids, mask)
        return (w[:, :, None] * vectors[ids]).sum(1) / divide(w)

    return pooled


def bag_by_loop(ids, mask, vectors, log_weights):
    rows = []
    for row, real in zip(ids, mask, strict=True):
        own = row[real & (row > 4)]
        rows.append(log_weights[own].softmax(0) @ vectors[own])  # e^l / Σ e^l: weights that sum to 1
    return torch.stack(rows)


def about_bag(answer, case):
    """With the unit matrix for vectors, the result is what each token weighs."""
    ids, mask, _, log_weights = case
    wanted = bag_of()(ids, mask, torch.eye(len(log_weights)), log_weights)
    found = run(answer, (ids, mask, torch.eye(len(log_weights)), log_weights))
    if "must match the size" in str(found):
        return (
            f"two shapes do not fit: {found}. (B, T) beside (B, T, C) needs a last dimension of 1, and so does the sum "
            "of the weights, (B,), beside (B, C): `keepdim`."
        )
    if found.isnan().any():
        return "the weights of a text add up to 0 in yours. `mask` is True at the tokens and False at padding."
    if (extra := (found.abs() > 1e-6) & (wanted == 0)).any():
        i, token = extra.nonzero()[0].tolist()
        kind = "special" if token < 5 else "padding" if token in ids[i] else "not in the text"
        return (
            f"token {token} is {kind} and has the weight {found[i, token]:.3f} in text {i}; expected 0. (What is set "
            "to 0 before `exp` is 1 after it.)"
        )
    ratio = torch.where(wanted > 0, found / wanted, torch.nan)
    least, most = ratio.nan_to_num(torch.inf).amin(1), ratio.nan_to_num(-torch.inf).amax(1)
    if (i := int((most / least).argmax())) >= 0 and most[i] < 1.001 * least[i]:
        if torch.allclose(found.norm(dim=1), torch.ones(len(found))):
            return "your vectors are made to length 1. The weighted mean itself is asked for."
        i = int((found.sum(1) - 1).abs().argmax())
        return (
            f"the weights of text {i} add up to {found[i].sum():.3f}; expected 1. Divide by the sum of the same "
            "weights as above the line, those of the tokens that count."
        )
    a, b = (ratio[i] == most[i]).nonzero()[0].item(), (ratio[i] == least[i]).nonzero()[0].item()
    return (
        f"in text {i} the weights of tokens {a} and {b} are as {found[i, a] / found[i, b]:.3f} to 1; expected "
        f"{wanted[i, a] / wanted[i, b]:.3f} to 1. Each is e to the power of its entry, as often as the token occurs."
    )


weighted_mean = Exercise(
    id="12.5",
    about=about_bag,
    right=bag_of(),
    inputs=tokens_and_tables,
    also=lambda generator: tokens_and_tables(generator, 2, 6, 9, 3),
    mistakes=(
        Mistake(
            "padding counted",
            bag_of(counts=lambda ids, mask: (ids >= 5) | ~mask),
            "padding has a vector here too: the vector of a text depends on how long the other texts of its batch are. "
            "Where `mask` is False the weight is 0.",
            "https://github.com/UKPLab/sentence-transformers/issues/185 (mean pooling over padding)",
        ),
        Mistake(
            "the mask not used",
            bag_of(counts=lambda ids, mask: ids >= 5),
            "`mask` is not used. Padding may have any id, so only `mask` tells that it does not count.",
            "padding taken for a special token, because its id is one in most batches",
        ),
        Mistake(
            "token 4 counted",
            bag_of(counts=lambda ids, mask: mask & (ids >= 4)),
            "token 4 is counted. It is the last of the special ids; the first word piece has the id 5.",
            "off by one at the edge of the special ids",
        ),
        Mistake(
            "special tokens counted",
            bag_of(counts=lambda ids, mask: mask),
            "the special tokens, ids 0 to 4, are counted. Every text begins and ends with them, so they tell nothing: "
            "their weight is 0.",
            "a mean over the whole row, as lesson 10 takes it",
        ),
        Mistake(
            "off by one at the special tokens",
            bag_of(counts=lambda ids, mask: mask & (ids > 5)),
            "token 5 is left out. The special ids are 0 to 4; the first word piece has the id 5.",
            "off by one at the edge of the special ids",
        ),
        Mistake(
            "no weights",
            bag_of(weigh=torch.ones_like),
            "this is the plain mean. Each token has a weight of its own, e to the power of `log_weights`.",
            "mean pooling of lesson 10",
        ),
        Mistake(
            "logarithms as weights",
            bag_of(weigh=lambda x: x),
            "`log_weights` holds the logarithms of the weights, which may be negative. Take `.exp()` first.",
            "the parameter used as if it were the weight",
        ),
        Mistake(
            "divided by the number of tokens",
            bag_of(divide=lambda w: (w > 0).sum(1, keepdim=True)),
            "you divide by the number of tokens. A weighted mean is divided by the sum of its weights.",
            "the mean's denominator kept when weights came in",
        ),
        Mistake(
            "not divided",
            bag_of(divide=lambda w: 1.0),
            "this is the weighted sum. Divide by the sum of the weights.",
            "the denominator of the formula left out",
        ),
    ),
    hints=(
        "The weights of the tokens, (B, T): `log_weights[ids].exp()`, times 0 where a token does not count.",
        "A token counts where `mask & (ids >= 5)`.",
        "`(w[:, :, None] * vectors[ids]).sum(1) / w.sum(1, keepdim=True)`",
    ),
    praise="No order, no context: a table, looked up and averaged.",
    other_ways=(bag_by_loop,),
)

# --- 12.6 find the bug: the fusion that chose on the test -------------------------------------------------------------


def two_searches(generator):
    """Return BM25 and cosines on validation and on test; another of the two is better on each."""

    def scores(quality):
        noise = torch.randn(60, 60, generator=generator)
        scale = 1 + 9 * torch.rand(60, 1, generator=generator)
        shift = 10 * torch.rand(60, 1, generator=generator)
        return (noise + quality * torch.eye(60)) * scale + shift

    return scores(2.6), scores(1.6), scores(1.6), scores(2.2)


def whole(scores):
    return (scores - scores.mean()) / scores.std(correction=0)


def by_column(scores):
    return (scores - scores.mean(0)) / scores.std(0, correction=0)


def chosen_and_measured(choose_on, measure_on, z=None):
    """Return a `fused_mrr` that chooses the weight on one split and measures on another."""

    def mixed(a, b, w):
        return fuse(a, b, w) if z is None else w * z(a) + (1 - w) * z(b)

    def measured(a_validation, b_validation, a_test, b_test):
        splits = {"validation": (a_validation, b_validation), "test": (a_test, b_test)}
        found = {i / 20: mrr(mixed(*splits[choose_on], i / 20)) for i in range(21)}
        weight = max(found, key=found.get)
        return torch.tensor(mrr(mixed(*splits[measure_on], weight)))

    return measured


def the_other_way(a_validation, b_validation, a_test, b_test):
    weight, _ = best_weight(a_validation, b_validation)
    return torch.tensor(mrr(fuse(b_test, a_test, weight)))


def weight_by_loop(bm25_validation, cosine_validation, bm25_test, cosine_test):
    def z(s):
        return (s - s.mean(1, keepdim=True)) / s.std(1, keepdim=True)  # another deviation, the same order

    def score(a, b, w):
        mixed = w * z(a) + (1 - w) * z(b)
        return (1 / (1 + (mixed > mixed.diag()[:, None]).sum(1))).mean()

    best = max((i / 20 for i in range(21)), key=lambda w: score(bm25_validation, cosine_validation, w))
    return score(bm25_test, cosine_test, best)


def at_the_edges(answer, case):
    """Ask where only weight 1 or only weight 0 is best, and where all from 0.55 on are equally good."""

    def turned(*row):
        return torch.stack([torch.tensor(row).roll(i) for i in range(3)])  # a row for each text

    words, cosines = turned(1.0, 0.99, -2.0), turned(0.0, 2.0, 1.0)
    for weight, pair in ((1, (words, cosines)), (0, (cosines, words))):
        if abs(float(answer(*pair, *pair)) - 1) > 1e-4:
            return (
                f"where the weight {weight} alone is best on validation, you do not find it. Try all 21, from 0 to 1."
            )
    level = torch.eye(2), 1 - torch.eye(2)
    if abs(float(answer(*level, turned(1.0, 2.0, 0.0), turned(2.0, 0.0, 1.0))) - 1) > 1e-4:
        return "of equally good weights you do not take the smallest. A later one should win only if it is better, `>`."
    return None


GRID = [*(i / 20 for i in range(21)), *range(2, 21)]  # the weights, and their numbers taken for weights
SCALES = {  # what is said of a way to make the scores comparable -> the way
    "": lambda s: (s - s.mean(1, keepdim=True)) / s.std(1, keepdim=True),
    "the mean and the deviation are of all scores together, not of each question": whole,
    "without `keepdim=True` the means of the questions are laid along the texts": lambda s: (s - s.mean(1)) / s.std(1),
    "no question's scores are divided by their standard deviation, so the larger scores decide": lambda s: s,
    "the scores are brought between 0 and 1, which is no z-score": lambda s: (
        (s - s.amin(1, keepdim=True)) / (s.amax(1, keepdim=True) - s.amin(1, keepdim=True))
    ),
}


def about_fused(answer, case):
    """Look for the scale, the split and the weight that give the answer's numbers."""
    cases = [case, *(two_searches(torch.Generator().manual_seed(seed)) for seed in (11, 12))]
    found = [run(answer, one) for one in cases]
    if isinstance(found[0], Exception):
        return "`best_weight` returns two things, the weight and its MRR." if "tuple" in str(found[0]) else None
    best = [best_weight(*one[:2])[0] for one in cases]
    if all(abs(x - w) < 1e-6 for x, w in zip(found, best, strict=True)):
        return "this is the weight. The MRR on the test with that weight is asked for."
    for split, first in (("test", 2), ("validation", 0)):
        for said, z in SCALES.items():
            weights = []
            for one, x in zip(cases, found, strict=True):
                a, b = map(z, one[first : first + 2])
                weights.append([w for w in GRID if abs(mrr(w * a + (1 - w) * b) - x) < 2e-5])
            if all(weights):
                wrong = (
                    f"but {said}" if said else f"with right z-scores; the best weight on validation is {best[0]:.2f}"
                )
                return f"yours is the MRR on {split} with the weight {weights[0][0]:.2f}, {wrong}."
    return "no single weight gives this MRR. Choose one on validation, then compute the MRR on the test once, with it."


fused_mrr = Exercise(
    id="12.6",
    limit=at_the_edges,
    about=about_fused,
    right=chosen_and_measured("validation", "test"),
    inputs=two_searches,
    also=lambda generator: tuple(s[:n, :n] for s, n in zip(two_searches(generator), (40, 40, 50, 50), strict=True)),
    mistakes=(
        Mistake(
            "both bugs",
            chosen_and_measured("test", "test", whole),
            "both bugs are still there: the weight is the one that suits the test best, and the z-scores are taken "
            "over all queries at once.",
            "https://github.com/maxpumperla/hyperas/issues/193",
        ),
        Mistake(
            "chosen on the test",
            chosen_and_measured("test", "test"),
            "the z-scores are right now, but the weight is still chosen on the test queries and then reported on the "
            "same ones. The maximum of 21 numbers flatters. Choose on validation.",
            "https://github.com/okankop/Driver-Anomaly-Detection/issues/11",
        ),
        Mistake(
            "one mean for all queries",
            chosen_and_measured("validation", "test", whole),
            "chosen on validation, good. But the mean and the deviation are of the whole matrix: a query with large "
            "scores then leans on one search, a query with small ones on the other. Each query has its own: `mean(1, "
            "keepdim=True)`.",
            "https://github.com/ohdearquant/khive/issues/876",
        ),
        Mistake(
            "one mean a text",
            chosen_and_measured("validation", "test", by_column),
            "your mean goes down the columns, over the queries for one text. A query's scores are in a row: "
            "`mean(1, keepdim=True)`.",
            "dim=0 in place of dim=1",
        ),
        Mistake(
            "validation reported",
            chosen_and_measured("validation", "validation"),
            "this is the MRR on validation, where the weight was chosen. Report the test, with that weight.",
            "https://github.com/keras-team/keras-tuner/issues/1018",
        ),
        Mistake(
            "the weight on the other search",
            the_other_way,
            "on the test your weight belongs to the other search: w goes to BM25 in both places.",
            "two arguments exchanged",
        ),
    ),
    hints=(
        "Which split does the buggy version look at when it takes the maximum? Over what does `scores.mean()` go?",
        "`best_weight(bm25_validation, cosine_validation)` gives the weight and its MRR; `fuse` takes z-scores per "
        "query.",
        "`weight, _ = best_weight(bm25_validation, cosine_validation)`, then `mrr(fuse(bm25_test, cosine_test, "
        "weight))`.",
    ),
    praise="Chosen on one set of queries, reported on another.",
    other_ways=(weight_by_loop,),
)

# --- the build 12.4: the paired bootstrap -----------------------------------------------------------------------------


def paired_bootstrap(a, b, generator, samples=10_000, level=0.95):
    """a, b: (Q,), what two searches get for the same questions -> mean of a - b, and the ends of its interval"""
    difference = (a - b).double()
    Q = len(difference)
    drawn = torch.randint(Q, (samples, Q), generator=generator)  # numbers of questions, with repetition
    means = difference[drawn].mean(1)  # one for each sample, (samples,)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return difference.mean().item(), low, high


def interval(answer, a, b, seed=0, **options):
    """Return the three numbers of an answer; Fault if they are not three floats, or an argument was changed."""
    generator = torch.Generator().manual_seed(seed)
    result = untouched(lambda a, b: answer(a, b, generator, **options), a, b)
    kinds = [type(one) for one in result] if isinstance(result, tuple | list) else []
    if kinds != [float] * 3:
        seen = f"({', '.join(kind.__name__ for kind in kinds)})" if kinds else describe(result)
        raise Fault(
            f"expected three Python floats, `return mean, low, high`; yours returns {seen}. (`.item()` turns a "
            "tensor or a NumPy number into a Python float.)"
        )
    return result


def pairs_of(generator, Q=400):
    """Two searches that do well on the same questions: their difference varies less than either."""
    easy = torch.rand(Q, generator=generator, dtype=torch.float64)
    return [easy + 0.1 * torch.rand(Q, generator=generator, dtype=torch.float64) + shift for shift in (0.05, 0.0)]


def mean_difference(answer, generator):
    mean, low, high = interval(answer, *pairs_of(generator))
    return torch.tensor(mean), "low ≤ mean ≤ high" if low <= mean <= high else "the ends do not enclose the mean"


def by_hand(answer, generator):
    """Ten differences, nine of them 0: the mean of a sample is a binomial number / 10, so both ends are known."""
    found = []
    for i, level in ((0, 0.95), (9, 0.4)):
        a = torch.zeros(10, dtype=torch.float64)
        a[i] = 1.0
        found.append(interval(answer, a, torch.zeros_like(a), seed=i, samples=2000, level=level))
    return torch.tensor(found)


WIDTHS = {  # the width of the interval, divided by what it should be
    (0.93, 1.07): "the interval is as wide as it should be",
    (0.8, 0.87): "the interval is too narrow: it leaves out 5 % at each end, so it is one of 90 %",
    (1.32, 1.52): "the interval is too wide: each sample has only half as many questions as there are",
    (2.5, 12.0): "the interval is far too wide: a and b are drawn apart, or the differences are not averaged",
}


def width(answer, generator):
    a, b = pairs_of(generator)
    _, low, high = interval(answer, a, b)
    wanted = 2 * 1.96 * (a - b).std(correction=0).item() / len(a) ** 0.5  # for so many questions, nearly
    return verdict((high - low) / wanted)


def verdict(ratio):
    return next(
        (words for (a, b), words in WIDTHS.items() if a <= ratio <= b), f"the interval has {ratio:.1f} times the width"
    )


def one_sample(answer, generator):
    a, b = (x[:30] for x in pairs_of(generator))
    mean, low, high = interval(answer, a, b, samples=1)
    exact = abs(mean - (a - b).mean().item()) < 1e-9
    return (
        "with one sample both ends are its mean" if low == high else "`samples` is not obeyed",
        "the mean is that of a - b" if exact else "the first number is the mean of the samples, not that of a - b",
    )


def levels(answer, generator):
    a, b = pairs_of(generator)
    (_, low, high), (_, outer_low, outer_high) = (interval(answer, a, b, level=level) for level in (0.5, 0.99))
    ratio = (outer_high - outer_low) / max(high - low, 1e-12)  # 2.576 / 0.674 for a normal distribution
    return (
        "another level gives another interval" if 3.3 < ratio < 4.4 else f"the widths at 0.99 and 0.5: {ratio:.1f} : 1"
    )


def repeatable(answer, generator):
    a, b = (x[:50] for x in pairs_of(generator))
    first, second = (interval(answer, a, b, seed=3) for _ in range(2))
    other = interval(answer, a, b, seed=4)
    return (
        "the same generator, the same interval" if first == second else "the same generator, another interval",
        "another generator, another interval" if other != first else "another generator changes nothing",
    )


def wrong_bootstrap(
    sign=1, draw="with repetition", paired=True, of="means", tails=2, generator_used="given", fixed=None, first="mean",
    obeys_level=True, normal=False, mirrored=False,
):  # fmt: skip
    """Return a bootstrap as a learner may write it; its switches are the mistakes."""

    def paired_bootstrap(a, b, generator, samples=10_000, level=0.95):
        a, b, Q = a.double(), b.double(), len(a)
        level = level if obeys_level else 0.95
        if generator_used == "none":
            generator = None
        elif generator_used == "its own":
            generator = torch.Generator().manual_seed(0)
        S = fixed or samples
        if draw == "half":
            rows = torch.randint(Q, (S, Q // 2), generator=generator)
        elif draw == "shuffled":
            rows = torch.stack([torch.randperm(Q, generator=generator) for _ in range(min(S, 50))])
        else:
            rows = torch.randint(Q, (S, Q), generator=generator)
        if paired:
            means = (a - b)[rows].mean(1)
        else:
            means = a[rows].mean(1) - b[torch.randint(Q, (S, Q), generator=generator)].mean(1)
        means = (a - b) if of == "differences" else means
        tail = (1 - level) / tails
        low, high = sign * means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype))
        middle = sign * (means if first == "samples" else a - b).mean()
        if normal:
            half = 1.96 * (means.std(correction=0) if normal == "of the means" else (a - b).std() / Q**0.5)
            low, high = middle - half, middle + half
        if mirrored:
            low, high = 2 * middle - high, 2 * middle - low
        return middle.item(), min(low, high).item(), max(low, high).item()

    return paired_bootstrap


def bootstrap_by_loop(a, b, generator, samples=10_000, level=0.95):
    difference, means = (a - b).double(), []
    for start in range(0, samples, 500):
        size = (min(500, samples - start), len(difference))
        drawn = (torch.rand(size, generator=generator, dtype=torch.float64) * size[1]).long()
        means.extend(difference[drawn].mean(1).tolist())
    means.sort()
    cut = (1 - level) / 2
    return sum(difference.tolist()) / len(difference), means[int(cut * samples)], means[-1 - int(cut * samples)]


DIFFERENCES = (
    "these are the quantiles of the differences of single questions. The interval is for their *mean*: draw samples, "
    "take the mean of each, then the quantiles of these means."
)


def about_bootstrap(answer, stage):
    """Ask for a wide and a narrow interval, and compare both with what they nearly should be."""
    a, b = pairs_of(torch.Generator().manual_seed(0))
    d, Q, S = a - b, len(a), 2000
    error = d.std(correction=0).item() / Q**0.5
    mean, low, high = interval(answer, a, b, samples=S)
    _, narrow_low, narrow_high = interval(answer, a, b, samples=S, level=0.5)
    if abs(mean - d.mean().item()) > 1e-6:
        return f"the first number is {mean:.4f}; expected {d.mean().item():.4f}, the mean of a - b."
    if low > high:
        return "the upper end comes before the lower: `return mean, low, high`."
    if high - low < 0.02 * error:
        return "the means of your samples are all equal. Draw each sample anew, with repetition."
    if abs((low + high) / 2 / mean - Q) < 0.2 * Q:
        return f"your ends are about Q = {Q} times too large: the mean of each sample is asked for, not its sum."
    if max(abs(low), abs(high)) < 4 * error < mean:
        return "your ends are distances from the mean. The ends themselves are asked for: quantiles of the means."
    eye, zeros = torch.eye(10, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    never = [i for i, one in enumerate(eye) if interval(answer, one, zeros, samples=S)[2] == 0]
    if len(never) == 1:
        return (
            f"of 10 questions, number {never[0]} (from 0) is never drawn. `torch.randint(10, …)` gives 0 to 9, not 10."
        )
    ends = d.quantile(torch.tensor([0.025, 0.975], dtype=d.dtype)).tolist()
    if max(abs(low - ends[0]), abs(high - ends[1])) < 3 * error:
        return DIFFERENCES
    wide, narrow = ((y - x) / 2 / error for x, y in ((low, high), (narrow_low, narrow_high)))
    if wide == narrow and wide > 2.3:
        return "your ends are the smallest and the largest mean. Leave out (1 - level) / 2 of the means at each end."
    ratio = wide / 1.96  # 1.96 and 0.674 are the quantiles 0.975 and 0.75 of a normal distribution
    if 0.85 < ratio * 0.674 / narrow < 1.18 and not 0.9 < ratio < 1.1:
        return (
            f"the means vary as if each were taken over {Q / ratio**2:.0f} questions. There should be `samples` means "
            f"(here {S}), each over Q questions (here {Q}): see the axes of the draw and of the mean."
        )
    tails = [50 * math.erfc(x / 2**0.5) for x in (wide, narrow)]
    if abs(tails[0] - 2.5) > 0.7 or abs(tails[1] - 25) > 2.5:
        return (
            f"at level 0.95 your ends leave out about {tails[0]:.1f} % of the means each, at level 0.5 about "
            f"{tails[1]:.0f} %; expected 2.5 % and 25 %, (1 - level) / 2."
        )
    return None


bootstrap = Build(
    id="12.4",
    about=about_bootstrap,
    course=paired_bootstrap,
    stages=(
        Stage("the mean", mean_difference),
        Stage("a case by hand", by_hand),
        Stage("the width", width),
        Stage("samples", one_sample),
        Stage("level", levels),
        Stage("the generator", repeatable),
    ),
    mistakes=(
        Mistake(
            "b - a",
            wrong_bootstrap(sign=-1),
            "this is the mean of b - a: a better search a would get a negative difference.",
            "two arguments exchanged",
        ),
        Mistake(
            "drawn without repetition",
            wrong_bootstrap(draw="shuffled"),
            "each of your samples holds every question once, so all means are equal. Draw with repetition: "
            "`torch.randint(Q, (samples, Q), generator=generator)`, not `randperm`.",
            "a permutation taken for a resample; replace=False in a library's call",
        ),
        Mistake(
            "quantiles of the differences",
            wrong_bootstrap(of="differences"),
            DIFFERENCES,
            "the spread of questions taken for that of a mean",
        ),
        Mistake(
            "a normal interval",
            wrong_bootstrap(normal=True),
            "this is the mean ± 1.96 standard errors. For few or lopsided differences it is another interval (here it "
            "reaches below 0, though no difference does). Take the quantiles of the means of the samples.",
            "the textbook's interval in place of the percentiles",
        ),
        Mistake(
            "a normal interval of the means",
            wrong_bootstrap(normal="of the means"),
            "this is the mean ± 1.96 standard deviations of the samples' means, which takes them for a normal "
            "distribution (here it reaches below 0, though no difference does). Take the quantiles of the means.",
            "the standard bootstrap interval in place of the percentiles; Efron and Tibshirani 1993, chapter 13",
        ),
        Mistake(
            "mirrored at the mean",
            wrong_bootstrap(mirrored=True),
            "these are the quantiles mirrored at the mean, 2 · mean - quantile: the *basic* bootstrap. Here the ends "
            "are the quantiles of the means themselves.",
            "SciPy's method='basic' in place of 'percentile'",
        ),
        Mistake(
            "not paired",
            wrong_bootstrap(paired=False),
            "a and b are drawn apart: the sample of a has other questions than that of b, and what makes a question "
            "easy or hard for both goes into the interval. Draw once, and take the difference on the same questions.",
            "a bootstrap for two independent groups; Efron and Tibshirani 1993, chapter 8",
        ),
        Mistake(
            "5 % at each end",
            wrong_bootstrap(tails=1),
            "you leave out 1 - level at *each* end, so your interval of 95 % is one of 90 %. Half of it goes to each "
            "end: the quantiles (1 - level) / 2 and 1 - (1 - level) / 2.",
            "np.percentile(means, [5, 95]) for an interval of 95 %",
        ),
        Mistake(
            "half as many",
            wrong_bootstrap(draw="half"),
            "your samples have half as many questions as there are, so their means vary more. Each sample has Q.",
            "subsampling taken for the bootstrap",
        ),
        Mistake(
            "always 10,000",
            wrong_bootstrap(fixed=10_000),
            "`samples` is not used: your function draws as many as it likes.",
            "a number of the text written into the function",
        ),
        Mistake(
            "the mean of the samples",
            wrong_bootstrap(first="samples"),
            "the first number should be the mean of a - b itself. The mean of the samples is near it, and changes with "
            "every generator.",
            "the middle of the bootstrap distribution reported as the estimate",
        ),
        Mistake(
            "always 95 %",
            wrong_bootstrap(obeys_level=False),
            "`level` is not used: the interval is one of 95 % whatever is asked for.",
            "0.025 and 0.975 written into the function",
        ),
        Mistake(
            "torch's own random numbers",
            wrong_bootstrap(generator_used="none"),
            "your draws do not come from `generator`: called twice with the same one, it gives two intervals. Hand it "
            "on: `torch.randint(…, generator=generator)`.",
            "the argument accepted and forgotten",
        ),
        Mistake(
            "a generator of its own",
            wrong_bootstrap(generator_used="its own"),
            "your function makes a generator of its own, so every call has the same draws. Use the one that it is "
            "given.",
            "a seed set inside a function",
        ),
    ),
    hints=(
        "The difference for each question first: `difference = (a - b).double()`, (Q,). From here on the two searches "
        "cannot come apart.",
        "Samples are rows of question numbers: `drawn = torch.randint(Q, (samples, Q), generator=generator)`.",
        "`difference[drawn].mean(1)` is one mean for each sample. Then `.quantile(…)` at (1 - level) / 2 and 1 minus "
        "that.",
    ),
    praise="Whatever makes a question hard for both searches has dropped out.",
    other_ways=(bootstrap_by_loop,),
)
