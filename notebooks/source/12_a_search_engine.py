# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: A search engine
#     question: Does your encoder find what you look for, and how do you know?
#     minutes: 150
#     part: "Part III: contrast"
# ---

# %% [markdown]
# # 12 · A search engine
#
# You want to invert a matrix and do not know what the function is called. The documentation of Python, PyTorch, NumPy and
# Matplotlib is on your disk, thousands of texts. You type *how do I invert a matrix*.
#
# **The question of this lesson:** does your encoder find what you look for, and how do you know?
#
# | | |
# |---|---|
# | You will | build a search engine that compares words and an interval that tells a difference from luck; train two models that compare vectors, combine them with the words, and measure all of them on questions with known answers; see how a careless split flatters a model; and end with a search box over your own tools |
# | You need | lesson 09 for the contrastive loss, lesson 10 for `SentenceEncoder`, lesson 01 for tokens |
# | It takes | about 150 minutes, six exercises, two of them builds; the machine needs two and a half minutes |
#
# Before any model, here is how search engines have worked for decades. Each word of your question that occurs in a text adds
# something to the score of the text. These are the five best hits. Will they help you?

# %% tags=["hide-input"]
from nextbert_lite import Bm25, load_docs, plots
from nextbert_lite.use.search import PLAIN

question = "how do I invert a matrix"
docs = load_docs()
names = [document.name for document in docs.documents]
by_words = Bm25([f"{document.name}\n{document.text}" for document in docs.documents], **PLAIN)
first_hits = by_words.scores([question])[0].topk(5).indices.tolist()
words_of_hits = [by_words.words(question, i) for i in first_hits]

fig, ax = plots.figure(size=(8.0, 2.9))
left = [0.0] * 5
for word, colour in (("how", plots.GREY), ("do", plots.PINK), ("invert", plots.BLUE), ("matrix", plots.ORANGE)):
    parts = [found.get(word, 0.0) for found in words_of_hits]
    ax.barh(range(5), parts, left=left, color=colour, label=word)
    left = [a + b for a, b in zip(left, parts, strict=True)]
ax.set_yticks(range(5), [names[i] for i in first_hits])
ax.invert_yaxis()
ax.set(xlabel="score (what each word adds)")
ax.set_title("The words are found, the answer is not")
ax.set_xlim(0, 5.2)
ax.legend(loc="center right")
plots.show(fig, alt="Bars of the first five hits, split by word; four of them have nothing but the word invert.")
assert not {"numpy.linalg.inv", "torch.linalg.inv", "torch.inverse"} & {names[i] for i in first_hits}

# %% [markdown]
# `numpy.invert` flips bits; it is not what you want. The imports of this lesson (later sections add what only they need):

# %%
import math
import re
import time
from collections import Counter
from functools import cache

import torch
import torch.nn.functional as F
from bm25s.stopwords import STOPWORDS_EN
from torch import nn

from nextbert_lite import load, mrr, ndcg_at, recall_at, seeded, stored_table
from nextbert_lite.checks import lesson_12 as check
from nextbert_lite.use.search import WORD, ranks, reciprocal_ranks, terms

# %% [markdown]
# What a run may change: the seed, which decides the sample of test questions and the two trainings; and whether your encoder is
# also measured among all texts, which takes longer and is done for the stored table only.

# %% tags=["parameters"]
seed = 0
every_row = False

# %% [markdown]
# And this is the function that you were looking for:

# %% tags=["nbval-check-output"]
wanted = docs.documents[names.index("numpy.linalg.inv")]
print(f"{wanted.name}: {wanted.summary}")
assert "invert" not in wanted.text.lower().split()

# %% [markdown]
# Its text says *inverse* and *inverted*, you said *invert*, and for a search that compares whole words these are three words
# with nothing in common. In section 3 you ask again with a better comparison of words, and at the end with a model.

# %% [markdown]
# ## 1. Search by words
#
# Five short texts and a query, which is what a question is called in this field:

# %% tags=["nbval-check-output"]
TEXTS = [
    "Return the inverse of a square matrix.",
    "Invert the x axis of the plot.",
    "Multiply a matrix by a matrix, or a matrix by a vector.",
    "Draw a histogram of the values.",
    "Compute the pseudo inverse of a matrix. The matrix may have any shape, square or not.",
]
QUERY = "inverse of a matrix"
STOP = set(STOPWORDS_EN)  # "the", "of" and others, so frequent in English that they are left out


def words_of(text):
    """Return the words of two or more letters, in lower case, without stop words."""
    return [word for word in map(str.lower, re.findall(r"\b\w\w+\b", text)) if word not in STOP]


counts = [Counter(words_of(text)) for text in TEXTS]
print("the words of the first text:", words_of(TEXTS[0]))
for word in words_of(QUERY):
    print(f"{word:>8}: {[c[word] for c in counts]} times in the five texts")

# %% [markdown]
# Which text should win? Two ideas help, both old:
#
# * **How often.** A text that says *matrix* twice is more about matrices than a text that says it once.
# * **How rare.** *matrix* occurs in more of our texts than *inverse* does. The rarer word tells you more.
#
# The second idea is the **inverse document frequency**, idf. With N texts, of which n contain the word, it is $\ln(N / n)$, which
# is 0 for a word of every text. **TF-IDF** multiplies the two and adds up over the words of the query. Guess which text wins:

# %% tags=["nbval-check-output"]
N = len(TEXTS)
tf_idf = [0.0] * N
for word in words_of(QUERY):
    n = sum(c[word] > 0 for c in counts)
    for i in range(N):
        tf_idf[i] += counts[i][word] * math.log(N / n)
print("  ".join(f"{score:.2f}" for score in tf_idf))
assert max(tf_idf) == tf_idf[4] and tf_idf[2] > 0 == tf_idf[3]

# %% [markdown]
# The last text wins. It is also the longest, and long texts contain more of everything. **BM25** (*best match*, number 25 in a
# series of attempts) corrects two things:
#
# $$\text{BM25} = \sum_{\text{words}} \underbrace{\ln\left(1 + \frac{N - n + 0.5}{n + 0.5}\right)}_{\text{how rare}} \cdot
# \underbrace{\frac{f}{f + k_1 \left(1 - b + b\, \ell / \bar\ell\right)}}_{\text{how often}}$$
#
# Here f is how often the word occurs in the text, ℓ is the number of words of the text, and $\bar\ell$ is the mean of ℓ over all
# texts. Usual values of $k_1$ lie between 1.2 (the default of the search library Lucene) and 2; we take 1.5, and $b = 0.75$.
# The formula is Lucene's; the older form has another factor $(k_1 + 1)$, which changes no order (Robertson and Zaragoza 2009).
# Kamphuis et al. 2020 compared eight variants and found no significant difference in how well they search.
#
# The second factor as a curve, for texts of three lengths. In which text is one mention worth most?

# %%
fig, ax = plots.figure(size=(7.0, 3.0))
f = torch.arange(0, 21)
for relative, colour in ((0.5, plots.BLUE), (1.0, plots.ORANGE), (3.0, plots.GREEN)):
    ax.plot(f, f / (f + 1.5 * (0.25 + 0.75 * relative)), color=colour, label=f"{relative:g} × the mean length")
ax.axhline(1, color=plots.GREY, linestyle=":")
ax.set(xlabel="how often the word occurs in the text", ylabel="factor of BM25", xticks=range(0, 21, 5))
ax.set_title("Each mention adds less than the one before")
ax.legend(title="text of")
plots.show(fig, alt="Three curves that rise fast and level off below 1; for long texts they rise more slowly.")

# %% [markdown]
# The factor never exceeds 1, however often the word comes, and in a long text each mention is worth less. With loops:

# %% tags=["nbval-check-output"]
lengths = [sum(c.values()) for c in counts]
mean_length = sum(lengths) / N
by_hand = [0.0] * N
for word in words_of(QUERY):
    n = sum(c[word] > 0 for c in counts)
    rare = math.log(1 + (N - n + 0.5) / (n + 0.5))
    for i in range(N):
        f = counts[i][word]
        by_hand[i] += rare * f / (f + 1.5 * (1 - 0.75 + 0.75 * lengths[i] / mean_length))
print("lengths", lengths)
print("  ".join(f"{score:.2f}" for score in by_hand))
assert max(by_hand) == by_hand[0]

# %% [markdown]
# Now the first text wins, because it says the same in fewer words. The loops visit every text for every word of a query. A
# search engine does not: it keeps, for each word, the list of the texts that contain it, called the **postings** of the word,
# and for each of these texts the number that the word adds. A query then looks up a few lists and adds.

# %% [markdown]
# ### Exercise 12.1 · build BM25 ●●● · 35 minutes
#
# Write the index as a class, made by `BM25(texts, words_of, k1, b)`, with one method, `scores(queries)`.
#
# * `texts` is a list of strings. `words_of` is a function that turns a string into the list of its words, as above. Queries go
#   through the same function. Neither `texts` nor `queries` may be changed.
# * `scores(queries)` takes a list of strings and returns a tensor of shape (queries, texts) in float32: the score of each text
#   for each query, by the formula above with the arguments `k1` and `b`.
# * A word that comes twice in a query counts twice. A word that no text has adds nothing. A query without any word gets zeros.
# * A text without words gets the score 0. It is a text all the same: it counts in N, and in the mean length with length 0. At
#   least one text has a word.
# * `words_of` is the slow part. Call it once for each text, in `__init__`, and later only for queries.
#
# Write it in steps and run the check after each; it tells you how far you are.
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | count the words of each text; `scores` returns zeros | stage 2, how rare |
# | 2 | rarity, and the second factor with ℓ set to the mean length | stage 4, how long |
# | 3 | lengths | stage 5, queries, if a query can still go wrong |
# | 4 | postings, so that no text is visited twice | nothing more |
#
# The lesson will make such an index of thousands of texts a dozen times. Seconds each time are fine; the last hint says how to
# save some.


# %% tags=["exercise-12.1", "my-bert-search"]
class BM25:
    """An index of texts by their words, which gives each text's BM25 score for a query."""

    def __init__(self, texts, words_of, k1=1.5, b=0.75):
        """texts: a list of str; words_of: a function, text -> the list of its words"""
        ### BEGIN SOLUTION
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
        ### END SOLUTION

    def scores(self, queries):
        """queries: a list of str -> each text's score for each query, (Q, N)"""
        ### BEGIN SOLUTION
        scores = torch.zeros(len(queries), self.N)
        for row, query in zip(scores, queries, strict=True):
            for word in self.words_of(query):
                if word in self.postings:
                    where, adds = self.postings[word]
                    row[where] += adds
        return scores
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.bm25(BM25)

# %% [markdown]
# The rest of the lesson searches with your class if it passes, and with the course's if it does not:

# %% tags=["nbval-check-output"]
BM25 = check.mine("12.1", BM25)

# %% [markdown]
# The same numbers for the third time: from your index, and from bm25s, the library behind the course's own `Bm25` (`PLAIN` holds
# the options of this section).

# %% tags=["nbval-check-output"]
yours_says = BM25(TEXTS, words_of).scores([QUERY])[0]
library_says = Bm25(TEXTS, **PLAIN).scores([QUERY])[0]
for name, scores in (("by hand", torch.tensor(by_hand)), ("your index", yours_says), ("bm25s", library_says)):
    print(f"{name:>10}: {'  '.join(f'{score:.2f}' for score in scores.tolist())}")
torch.testing.assert_close(yours_says, torch.tensor(by_hand))
torch.testing.assert_close(yours_says, library_says)

# %% [markdown]
# A word is a query too, so you can look into the index: this is what each word adds to the five texts. Which word is worth most, and
# why does the same word add unequal numbers?

# %% tags=["nbval-check-output"]
each_word = BM25(TEXTS, words_of).scores(["inverse", "matrix", "square", "plot"])
for word, adds in zip(["inverse", "matrix", "square", "plot"], each_word.tolist(), strict=True):
    print(f"{word:>8}: {'  '.join(f'{a:.2f}' for a in adds)}")
torch.testing.assert_close(each_word[:2].sum(0), yours_says)

# %% [markdown]
# *plot* is the rarest. And *inverse* adds less to the last text than to the first, because the last one is longer. The first two
# rows add up to the score of the query.

# %% [markdown]
# ## 2. Questions with known answers
#
# To compare searches you need many questions whose answers you know. Here nobody has to write them, because each entry of the
# documentation has a **summary**, its first sentence, and a **body**, the rest of the text. The summary serves as the question,
# and its own body is the one right answer. (People type other questions; section 10 comes to that. And some bodies have a
# near-duplicate; section 7 counts them. Most of these are *siblings*, nearly the same text about another thing: the bodies of
# `torch.sinh` and `torch.cosh` look alike, and neither answers the other's question. Some say the same and would answer as well, as
# `numpy.transpose` and `numpy.ndarray.transpose` do. Lesson 21 reads some.)
#
# The corpus has three splits, and no text has a near-duplicate in another split. Section 8 shows why that matters.

# %%
test, validation, train = docs.pairs("test"), docs.pairs("validation"), docs.pairs("train")
order = torch.randperm(len(test), generator=seeded(seed, 12)).tolist()
test = [test[i] for i in order]  # the first 500 are the questions of the test
bodies = [body for _, body in [*test, *validation, *train]]
Q, n_test, n_held = 500, len(test), len(test) + len(validation)
asked = {"validation": [s for s, _ in validation], "test": [s for s, _ in test[:Q]]}
columns = {"validation": slice(n_test, n_held), "test": slice(0, Q)}  # the positions of their bodies
right = {"validation": n_test + torch.arange(len(validation)), "test": torch.arange(Q)}  # the same among all bodies

print(f"{len(train):,} pairs to train on, {len(validation)} to choose by, {Q} of {n_test} to report")
print(f"{len(bodies):,} bodies in all")
print(f"\nquestion: {validation[3][0]}\nanswer:   {' '.join(validation[3][1].split())[:150]} …")

# %% [markdown]
# The training split serves to fit the weights of the models. The **validation split** is for everything that you choose, such as
# settings and the weights of a mixture. The **test split** is for the numbers that you report. It is used once, in section 7,
# when nothing is left to choose.
#
# Each question is asked in two **pools**: find the body among those of the split, or among *all* bodies, including those of the
# training split. (Those are only wrong answers here, so a model gains nothing by having trained on them.) A result without its
# pool says little, so the pools have names: "validation" and "test" are the small pools, "validation, all" and "test, all" the
# large ones. Your BM25 on the validation questions:


# %%
def search_by_words(words_of, splits=("validation", "test"), k1=1.5, b=0.75):
    """Return BM25's scores in each pool: pool -> (questions, bodies of the pool)."""
    found = {split: BM25(bodies[columns[split]], words_of, k1, b).scores(asked[split]) for split in splits}
    among_all = BM25(bodies, words_of, k1, b)  # how rare a word is depends on the pool as well
    return found | {f"{split}, all": among_all.scores(asked[split]) for split in splits}


plain_words = cache(words_of)  # a text goes through it once, and its words are kept
plain = search_by_words(plain_words, ["validation"])
for pool, scores in plain.items():
    print(f"{pool:>15}: {scores.shape[0]} questions, {scores.shape[1]:,} bodies")

# %% [markdown]
# And the library's, in the large pool. How many of all these scores agree?

# %%
library_says = Bm25(bodies, **PLAIN).scores(asked["validation"])
equal = torch.isclose(plain["validation, all"], library_says, rtol=1e-4, atol=1e-4)
print(f"{equal.float().mean():.2%} of {equal.numel():,} scores agree with bm25s")
assert equal.all()

# %% [markdown]
# ## 3. Rank, MRR, nDCG@10, recall@10
#
# For each question, count the position of its own body in the list of results. That is its **rank**; 1 is the best. There are
# three common ways to make one number of many ranks:
#
# * **MRR**, the *mean reciprocal rank*, is the mean of 1/rank. The first rank counts 1, the second 1/2, the tenth 1/10.
# * **nDCG@10**, the *normalised discounted cumulative gain*, is here the mean of $1 / \log_2(1 + \text{rank})$, with 0 beyond rank
#   10. The first rank counts 1, the third 1/2. Public benchmarks of search report it (BEIR, for example), because it also covers
#   questions with several answers of different quality: their gains add up, and the sum is divided by that of the best order.
# * **recall@10** is the proportion of questions whose body is among the first ten.
#
# One thing has to be decided first. When a question shares no word with its body, BM25 gives 0 to that body and to hundreds of
# others. Which rank is that? In a random order of the tied texts, the body is equally likely to get each of their ranks. So take
# the mean over these ranks, of 1/rank itself. A small case: five texts, and the right one is one of three that are tied.

# %% tags=["nbval-check-output"]
five = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])  # (1 question, 5 texts); text 2 is the right one
print("its possible ranks: 2, 3, 4")
print(f"the mean of 1/2, 1/3 and 1/4: {(1 / 2 + 1 / 3 + 1 / 4) / 3:.4f}")
print(f"the package's mrr:            {mrr(five, torch.tensor([2])):.4f}")

# %% [markdown]
# And for the validation questions, with loops:

# %%
total, gain, within_ten, tied = 0.0, 0.0, 0.0, 0
for i, row in enumerate(plain["validation"].tolist()):
    better = sum(score > row[i] for score in row)
    equal = sum(score == row[i] for score in row)  # itself among them
    possible = range(better + 1, better + equal + 1)
    total += sum(1 / rank for rank in possible) / equal
    gain += sum(1 / math.log2(1 + rank) for rank in possible if rank <= 10) / equal
    within_ten += sum(rank <= 10 for rank in possible) / equal
    tied += equal > 1
by_loops = [x / len(validation) for x in (total, gain, within_ten)]
print("MRR {:.3f}, nDCG@10 {:.3f}, recall@10 {:.3f}".format(*by_loops))
print(f"{tied / len(validation):.0%} of the bodies are tied with another one")

# %% [markdown]
# The loops visit every score. You can do without them:

# %% [markdown]
# ### Exercise 12.2 · reciprocal ranks ●●○ · 12 minutes
#
# The right text of question i has the number `right[i]`. Return 1/rank for each question, float32, without a loop over the
# questions. Texts with equal scores are in random order, so each of their ranks is equally likely: return the mean of 1/rank over
# these ranks. A higher score is better. Both arguments stay as they are.


# %% tags=["exercise-12.2"]
def mean_reciprocal_ranks(scores, right):
    """scores: (Q, N), higher is better, right: (Q,) -> 1 / rank of the right text, its mean over the ties' orders, (Q,)"""
    ### BEGIN SOLUTION
    own = scores.gather(1, right[:, None])  # (Q, 1)
    before, equal = (scores > own).sum(1), (scores == own).sum(1)
    sums = F.pad((1 / torch.arange(1, scores.shape[1] + 1)).cumsum(0), (1, 0))  # 0, 1, 1 + 1/2, …
    return (sums[before + equal] - sums[before]) / equal
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.mean_reciprocal_ranks(mean_reciprocal_ranks)

# %% [markdown]
# The package's three functions treat ties in the same way, and give the numbers of the loops:

# %%
scores = plain["validation"]
measured = [mrr(scores), ndcg_at(scores, 10), recall_at(scores, 10)]
print("MRR {:.3f}, nDCG@10 {:.3f}, recall@10 {:.3f}".format(*measured))
assert all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(measured, by_loops, strict=True))

# %% [markdown]
# A mean hides how different the questions are. How many answers does BM25 put first? Guess, then look:

# %%
rank = ranks(plain["validation"])  # for a picture: among ties the middle rank
edges = [1, 2, 4, 11, 101, 1000]
parts = [((a <= rank) & (rank < b)).float().mean().item() for a, b in zip(edges[:-1], edges[1:], strict=True)]
fig, ax = plots.figure(size=(7.0, 2.8))
ax.bar(["1", "2–3", "4–10", "11–100", "beyond"], parts, color=plots.BLUE)
ax.set(xlabel=f"rank of the right body among {len(validation)}", ylabel="proportion of questions")
ax.set_title(f"Plain words put {parts[0]:.0%} of the answers first")
plots.show(fig, alt=f"Bars of BM25's ranks: {parts[0]:.0%} have rank 1, {parts[-1]:.0%} are beyond rank 100.")
assert parts[0] > max(parts[1:])

# %% [markdown]
# ### Exercise 12.3 · predict the result ●●○ · 6 minutes
#
# A search that orders its texts at random is given ten times as many: 5,000 in place of 500. Its recall@10 falls to a tenth. By
# which number is its expected MRR divided? Two digits are enough.

# %% tags=["exercise-12.3"]
divided_by = None
### BEGIN SOLUTION
by_chance = [sum(1 / r for r in range(1, n + 1)) / n for n in (500, 5000)]
divided_by = by_chance[0] / by_chance[1]
### END SOLUTION

# %% tags=["nbval-check-output"]
check.pool_size(divided_by)

# %% [markdown]
# The sum 1 + 1/2 + … + 1/N grows with N, slowly, so the MRR of chance does not fall as fast as the pool grows. A search that gives
# all texts the same score has learned nothing either, and must get what chance gets. That is why ties count by the mean of
# 1/rank. One over the middle rank would be another number, and a smaller one:

# %% tags=["nbval-check-output"]
nothing = torch.zeros(500, 500)
chance = sum(1 / r for r in range(1, 501)) / 500
print(f"ordered by chance {chance:.4f}, all scores equal {mrr(nothing):.4f}", end="; ")
print(f"one over the middle rank would be {(1 / ranks(nothing)).mean():.4f}")
assert math.isclose(mrr(nothing), chance)

# %% [markdown]
# ### Better words
#
# Before any model: is this the best that words can do? A baseline should be as strong as a specialist would make it, because
# otherwise it means little to beat it. Two things are missing that every search engine has.
#
# * **Stems.** *invert*, *inverts*, *inverted* and *invertible* are four words to a computer. A *stemmer* removes English endings by
#   rules (Porter 1980; his later rules for English are in the library PyStemmer).
# * **Parts of identifiers.** `clip_grad_norm_` is one word so far. Split it at `_` and at capitals, and keep the whole as well.
#
# This is what is compared then:

# %% tags=["nbval-check-output"]
for word in ("inverted", "invertible", "inverse", "clip_grad_norm_", "BCEWithLogitsLoss"):
    print(f"{word:>18}: {', '.join(terms(word))}")
assert terms("inverted") == terms("invertible") != terms("inverse")

# %% [markdown]
# (*inverse* keeps a stem of its own, because a stemmer knows endings and no meanings.) Your class does not need to change; it gets
# another function for its words. How much do they bring on the validation questions? Guess which of the two brings more.


# %%
def words_by(**options):
    """Return a function, text -> what BM25 compares, that keeps its results."""
    of_word = cache(lambda word: terms(word, **options))
    return cache(lambda text: [term for word in WORD.findall(text) for term in of_word(word)])


better_words = words_by(stem=True, split=True)
KINDS_OF_WORDS = {
    "stems": (words_by(stem=True, split=False), 1.5, 0.75),
    "parts of identifiers": (words_by(stem=False, split=True), 1.5, 0.75),
    "both": (better_words, 1.5, 0.75),
    "both, other k1 and b": (better_words, 0.9, 0.9),  # what the package's `Bm25` does if not told otherwise
}
by_kind = {kind: search_by_words(words, ["validation"], k1, b) for kind, (words, k1, b) in KINDS_OF_WORDS.items()}
for kind, pools in {"plain": plain, **by_kind}.items():
    small, large = mrr(pools["validation"]), mrr(pools["validation, all"], right["validation"])
    print(f"{kind:>21}: MRR {small:.3f} in the small pool, {large:.3f} in the large one")

# %% [markdown]
# Stems alone seem to gain a little in the small pool. Is that more than luck? These questions are a sample; another sample of
# questions would give another difference. The **paired bootstrap** asks the sample itself how much the difference varies. For
# each question take the difference of the two searches in 1/rank. Draw as many questions as there are from these questions, *with
# repetition*, and take the mean difference. Do that thousands of times. The middle 95 % of these means are the interval.
# Three such samples of five questions:

# %% tags=["nbval-check-output"]
differences = torch.tensor([0.0, 0.5, -0.25, 1.0, 0.0])  # search a minus search b, for five questions
for sample in torch.randint(5, (3, 5), generator=torch.Generator().manual_seed(0)):
    drawn = differences[sample]
    print(f"questions {sample.tolist()}: differences {drawn.tolist()}, mean {drawn.mean():+.2f}")
print(f"all five, once each: mean {differences.mean():+.2f}")

# %% [markdown]
# ### Exercise 12.4 · build the paired bootstrap ●●○ · 20 minutes
#
# `paired_bootstrap(a, b, generator, samples, level)` returns three Python floats: the mean of a − b, and the lower and the upper
# end of its interval.
#
# * `a` and `b` are tensors of shape (Q,), what two searches get for the same Q questions in the same order. They stay as they are.
# * Each of the `samples` samples consists of Q questions, drawn from the Q with repetition, each with its values of both searches.
#   All draws come from `generator`, a `torch.Generator`. You may draw in any order and in parts.
# * The ends are the quantiles of the means of the samples that leave out (1 − `level`) / 2 at each end; how you interpolate
#   between neighbouring means does not matter.
# * The first number is the mean of a − b itself, not that of the samples.


# %% tags=["exercise-12.4", "my-bert-search"]
def paired_bootstrap(a, b, generator, samples=10_000, level=0.95):
    """a, b: (Q,), what two searches get for the same questions -> mean of a - b, and the ends of its interval"""
    ### BEGIN SOLUTION
    difference = (a - b).double()
    Q = len(difference)
    drawn = torch.randint(Q, (samples, Q), generator=generator)  # numbers of questions, with repetition
    means = difference[drawn].mean(1)  # one for each sample, (samples,)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return difference.mean().item(), low, high
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.bootstrap(paired_bootstrap)

# %% [markdown]
# From here on every interval is made by your function if it passes:

# %% tags=["nbval-check-output"]
paired_bootstrap = check.mine("12.4", paired_bootstrap)

# %% [markdown]
# If all of the interval lies above 0, the first search is better by more than the luck of these questions, at a level of 95 %.
# The interval covers nothing else. Another seed of a training, another pool, or the choice of the best of many searches are not
# in it. The package has the same by SciPy, so compare:

# %%
from nextbert_lite.use.search import paired_bootstrap as by_scipy


def interval(a, b):
    """Return the mean of a - b and the ends of its interval, from 2,000 samples: enough for two digits."""
    return paired_bootstrap(a, b, seeded(seed, 7), samples=2000)


stems, before = (reciprocal_ranks(pools["validation"]) for pools in (by_kind["stems"], plain))
print("yours:   {:+.3f} ({:+.3f} to {:+.3f})".format(*interval(stems, before)))
print("SciPy's: {:+.3f} ({:+.3f} to {:+.3f})".format(*by_scipy(stems, before)))
assert all(abs(x - y) < 0.005 for x, y in zip(interval(stems, before), by_scipy(stems, before), strict=True))
assert interval(stems, before)[1] < 0 < interval(stems, before)[2]

# %% [markdown]
# Stems alone are undecided in the small pool. And all kinds of words against the plain ones, in both pools:

# %%
for pool in plain:
    own = None if pool == "validation" else right["validation"]
    print(f"\n{pool:>21}  MRR   against plain words (95 %)\n{'plain':>21} {mrr(plain[pool], own):.3f}")
    for kind, pools in by_kind.items():
        of = [reciprocal_ranks(scores[pool], own) for scores in (pools, plain)]
        print("{:>21} {:.3f}  {:+.3f} ({:+.3f} to {:+.3f})".format(kind, of[0].mean(), *interval(*of)))
    stems, parts, together, tuned = (mrr(by_kind[kind][pool], own) for kind in KINDS_OF_WORDS)
    assert together > max(stems, parts) and interval(*of)[1] > 0
    assert abs(tuned - together) < (together - mrr(plain[pool], own)) / 4

# %% [markdown]
# Both together bring more than either alone. The last row has another $k_1$ and $b$. They were chosen on validation questions too,
# from a grid that is stored with the course and measured among all bodies with their names before them, because that is what the
# command `nextbert-lite search` searches. Beside better words they change little:

# %% tags=["hide-input"]
grid_rows = [row for row in stored_table("12_bm25") if row["words"] == "parts and whole, stems"]
k1s, bs = (sorted({float(row[name]) for row in grid_rows}) for name in ("k1", "b"))
hill = torch.zeros(len(k1s), len(bs))
for row in grid_rows:
    hill[k1s.index(float(row["k1"])), bs.index(float(row["b"]))] = float(row["mrr_named"])
fig, ax = plots.figure(size=(6.0, 3.6))
image = ax.imshow(hill, cmap="cividis", aspect="auto")
for i in range(len(k1s)):
    for j in range(len(bs)):
        shade = "black" if hill[i, j] > 0.47 else "white"
        ax.text(j, i, f"{hill[i, j]:.3f}", ha="center", va="center", color=shade, fontsize=9)
ax.set_xticks(range(len(bs)), bs)
ax.set_yticks(range(len(k1s)), k1s)
ax.grid(False)
ax.set(xlabel="b (how much long texts lose)", ylabel="k₁ (how soon repetition saturates)")
ax.set_title("A broad hill around k₁ = 0.9 and b = 0.9")
plots.show(fig, alt="A table of the MRR on validation over k1 and b: highest near k1 0.9 and b 0.9, lowest at b 0.5.")
top = hill.flatten().argmax().item()
print(f"the best: k1 = {k1s[top // len(bs)]}, b = {bs[top % len(bs)]}")

# %% [markdown]
# The stored rows show the hill. One of them, for the small pool without names, is what you have just measured yourself. Do the
# two agree? (Another version of a library has other texts, so the assert leaves some room.)

# %%
(stored_row,) = (row for row in grid_rows if (float(row["k1"]), float(row["b"])) == (0.9, 0.9))
live = mrr(by_kind["both, other k1 and b"]["validation"])
print(f"stored {float(stored_row['mrr_validation']):.4f}, measured here {live:.4f}")
assert abs(float(stored_row["mrr_validation"]) - live) < 0.01

# %% [markdown]
# And the question of the first page, with better words. What does each word add now?

# %%
documents = [f"{document.name}\n{document.text}" for document in docs.documents]
index_of_words = BM25(documents, better_words, 0.9, 0.9)
first_hits = index_of_words.scores([question])[0].topk(3).indices.tolist()
for i in first_hits:
    adds = {word: index_of_words.scores([word])[0, i].item() for word in question.split()}  # a word is a query too
    print(f"{names[i]:>20}: {', '.join(f'{word} {part:.1f}' for word, part in adds.items() if part > 0)}")
assert names[first_hits[0]] in ("torch.linalg.inv", "numpy.linalg.inv")

# %% [markdown]
# Found, although the first sentence says *inverse*, because somewhere in the text there is *inverted* or *invertible*. So a part
# of what looks like understanding is *endings*. From here on, **BM25** means the one with better words. The plain one stays in all
# tables, because many papers and libraries compare with it.

# %%
bm25 = by_kind["both, other k1 and b"] | search_by_words(better_words, ["test"], 0.9, 0.9)  # measured in section 7
found = {"BM25, plain": plain | search_by_words(plain_words, ["test"]), "BM25": bm25}


def on_validation(name):
    """Return the MRR of a search in the small pool of validation."""
    return mrr(found[name]["validation"])


def show_found():
    """Print what each search so far gets in the small pool of validation."""
    for name in found:
        print(f"{name:>22}: MRR {on_validation(name):.3f} on validation")


# %% [markdown]
# ## 4. A bag of vectors
#
# BM25 knows that *inverse* and *inverses* are the same, and nothing else. The simplest thing that can learn more gives each token a
# vector and takes the mean over a text. There is no attention and no order, and a token has the same vector in every text. We
# call it a **static bag**; the idea is that of deep averaging networks (Iyyer et al. 2015) and weighted averages (Arora et al.
# 2017), and today's libraries call such models *static embeddings*. Rare tokens should count more, as in BM25, so each token has a
# weight too, which starts at its idf and is learned:
#
# $$z = \frac{\sum_t w_t\, e_t}{\sum_t w_t}$$
#
# Here $e_t$ is the vector of token t, $w_t$ its weight, and z the vector of the text.

# %% [markdown]
# ### Exercise 12.5 · the vector of a text ●●○ · 10 minutes
#
# Compute z for a batch. `ids` (B, T) are the tokens, `mask` (B, T) is True where there is a token and not padding, `vectors`
# (V, C) and `log_weights` (V,) are the tables. The weight of a token is e to the power of its entry in `log_weights`. Special
# tokens, ids 0 to 4, do not count, and neither does padding, whatever its id. Each text has at least one token that counts.
# Return a tensor (B, C), and change no argument.


# %% tags=["exercise-12.5"]
def weighted_mean(ids, mask, vectors, log_weights):
    """ids, mask: (B, T), vectors: (V, C), log_weights: (V,) -> the weighted mean of each text's vectors, (B, C)"""
    ### BEGIN SOLUTION
    w = log_weights[ids].exp() * (mask & (ids >= 5))  # (B, T)
    return (w[:, :, None] * vectors[ids]).sum(1) / w.sum(1, keepdim=True)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.weighted_mean(weighted_mean)

# %% [markdown]
# As a model it is trained by the loss of lesson 09: a summary has to find its own body among those of the batch. This is the
# baseline that an encoder has to beat to be worth its price.

# %%
from nextbert_lite import PairBatches, fit, info_nce_loss, pad


class StaticBag(nn.Module):
    """A vector and a weight for each token; a text is the weighted mean."""

    def __init__(self, idf, C=192, temperature=0.1):
        super().__init__()
        self.vectors = nn.Embedding(len(idf), C)
        nn.init.normal_(self.vectors.weight, std=C**-0.5)
        self.log_weights = nn.Parameter(idf.log())  # the logarithm, so that weights stay positive
        self.temperature = temperature

    def forward(self, ids, mask):
        """ids, mask: (B, T) -> (B, C); special tokens do not count"""
        w = self.log_weights[ids].exp() * (mask & (ids >= 5))  # (B, T)
        return (w[:, :, None] * self.vectors(ids)).sum(1) / w.sum(1, keepdim=True)

    def loss(self, ids, mask, positive_ids, positive_mask, same):
        return info_nce_loss(self(ids, mask), self(positive_ids, positive_mask), self.temperature, same=same)


# %% [markdown]
# C = 192 is the width of `docs-small`, so the comparison is between vectors of the same size. The bag trains for ten epochs, with
# settings chosen on the validation split:

# %%
T = 128  # tokens of a text that the models read; docs-small has no positions for more
masked_model, tokenizer = load("docs-small")


def train_bag(pairs):
    """Return a static bag trained on (summary, body) pairs."""
    rows = tokenizer.encode_batch([text for pair in pairs for text in pair], max_len=T)
    n = torch.ones(tokenizer.vocab_size)  # texts that hold each token, and one more
    for row in rows[1::2]:
        n[list(set(row))] += 1
    torch.manual_seed(seed)
    bag = StaticBag((len(pairs) / n).log().clamp(min=0.1))
    batches = PairBatches(list(zip(rows[::2], rows[1::2], strict=True)), tokenizer, batch_size=256, seed=seed)
    fit(bag, batches, steps=10 * len(batches), lr=1e-2, warmup=20, seed=seed)
    return bag


# %% [markdown]
# The cell keeps its seconds, because section 5 compares them with what an encoder takes.

# %%
start = time.perf_counter()
bag = train_bag(train)
bag_seconds = time.perf_counter() - start

# %% [markdown]
# To search by vectors, make one vector of length 1 for each text and take the cosine similarity of question and body. As in lesson
# 10, texts of similar length go through a model together:


# %%
@torch.no_grad()
def vectors_of(model, texts):
    """Return one vector of length 1 for each text, (N, C), of its first T tokens."""
    device = next(model.parameters()).device
    rows = tokenizer.encode_batch(texts, max_len=T)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    vectors = [None] * len(rows)
    for some in (order[i : i + 64] for i in range(0, len(order), 64)):
        ids, mask = pad([rows[i] for i in some], tokenizer.pad_id)
        for i, vector in zip(some, model.eval()(ids.to(device), mask.to(device)).cpu(), strict=True):
            vectors[i] = vector
    return F.normalize(torch.stack(vectors), dim=-1)


def search_by(model, keys=None):
    """Return the cosines of questions and bodies in each pool: pool -> (questions, bodies of the pool).

    keys: the vectors of all bodies, or of those of test and validation only, which is enough for the small pools.
    """
    if keys is None:
        keys = vectors_of(model, bodies[:n_held])
    queries = {split: vectors_of(model, questions) for split, questions in asked.items()}
    scores = {split: queries[split] @ keys[columns[split]].T for split in asked}
    return scores | ({f"{s}, all": q @ keys.T for s, q in queries.items()} if len(keys) == len(bodies) else {})


# %% [markdown]
# The bag reads the first T tokens of a body, as the models below do, which have no positions for more. But a bag has no such limit,
# so it can read the whole body, as BM25 does. Both, on validation:


# %%
@torch.no_grad()
def whole_vectors(bag, texts):
    """Return the bag's vector of all tokens of each text, (N, C), length 1."""
    device = next(bag.parameters()).device
    rows = tokenizer.encode_batch(texts)
    vectors = [bag(*(x.to(device) for x in pad([row], tokenizer.pad_id)))[0].cpu() for row in rows]
    return F.normalize(torch.stack(vectors), dim=-1)


found["static bag"] = search_by(bag, vectors_of(bag, bodies))
found["static bag, whole"] = search_by(bag, whole_vectors(bag, bodies))
show_found()
assert on_validation("static bag") < on_validation("static bag, whole") < on_validation("BM25")

# %% [markdown]
# Both bags are below BM25, but not by much for a mean of token vectors that knows nothing of order. Reading on helps the bag on
# these questions; section 7 asks whether that holds for others.
#
# What has the bag learned? These are the tokens whose vectors have the highest cosine similarity with those of four words. (Some
# are pieces of words. A word can come twice, with the space before it and without.)

# %%
table = F.normalize(bag.vectors.weight.detach().cpu(), dim=-1)
for word in ("inverse", "color", "random", "file"):
    i = tokenizer.encode(" " + word)[1]
    near = (table @ table[i]).topk(6).indices[1:]
    print(f"{tokenizer.tokens([i])[0].strip():>8}: {', '.join(t.strip() for t in tokenizer.tokens(near))}")

# %% [markdown]
# ## 5. The masked model, and your own training
#
# `docs-small` was pretrained on the texts of the training split to predict masked tokens (lesson 08). Lesson 10 showed what the mean
# of its vectors is worth for search. Here it is among more bodies:

# %%
from nextbert_lite import Encoder, SentenceEncoder, embed, pick_device, read_card

device = pick_device()
found["masked model"] = search_by(SentenceEncoder(masked_model.encoder.to(device)))
start_mrr = on_validation("masked model")
print(f"masked model, mean of its vectors: MRR {start_mrr:.3f} on validation")
assert start_mrr < on_validation("static bag")

# %% [markdown]
# It is far below a bag. Now train it for search with what lessons 09 and 10 taught: pairs of summary and body, the other bodies of
# the batch as negatives, both directions, temperature 0.05. Texts are cut at 40 tokens *in training* only, and dropout is off;
# both save time.

# %%
STEPS, BATCH, CUT, RATE = 140, 48, 40, 7e-4


def train_encoder():
    """Return a sentence encoder, trained from docs-small on summaries and bodies."""
    config = masked_model.encoder.config
    encoder = Encoder(type(config)(**(config.to_dict() | {"dropout": 0.0})))
    encoder.load_state_dict(masked_model.encoder.state_dict())
    rows = tokenizer.encode_batch([text for pair in train for text in pair], max_len=CUT)
    batches = PairBatches(list(zip(rows[::2], rows[1::2], strict=True)), tokenizer, batch_size=BATCH, seed=seed)
    model = SentenceEncoder(encoder, "mean", temperature=0.05, symmetric=True, chunk=16)
    history = fit(model, batches, steps=STEPS, lr=RATE, warmup=10, seed=seed)
    return model, history


# %% [markdown]
# You have about a minute. By which factor can the MRR grow? Guess.

# %%
start = time.perf_counter()
yours, history = train_encoder()
encoder_seconds = time.perf_counter() - start

# %% [markdown]
# And the search with it, on the same questions as before:

# %%
found["your encoder"] = search_by(yours, vectors_of(yours, bodies) if every_row else None)
after = on_validation("your encoder")
print(f"{STEPS} steps: MRR {start_mrr:.3f} → {after:.3f} on validation, {after / start_mrr:.2f} times as much")
assert after > 1.5 * start_mrr

# %% [markdown]
# A large gain for so few steps. This is the loss of each step. The dotted line is the loss of a model that guesses among the bodies
# of the batch:

# %%
fig, ax = plots.figure(size=(7.0, 2.8))
ax.plot(range(1, STEPS + 1), history.loss, color=plots.BLUE)
ax.axhline(math.log(BATCH), color=plots.GREY, linestyle=":", label=f"guessing: ln {BATCH}")
ax.set(xlabel="step", ylabel="contrastive loss (nats)", ylim=(0, None))
ax.set_title("The loss steps down where the second epoch begins")
ax.legend()
plots.show(
    fig, alt="The contrastive loss falls within ten steps, stays, and drops again where the second epoch begins."
)
end = len(train) // BATCH  # of the first epoch
blocks = [sum(history.loss[i - 20 : i]) / 20 for i in (end - 40, end - 20, end, end + 20)]  # means of 20 steps each
drops = [a - b for a, b in zip(blocks[:-1], blocks[1:], strict=True)]
print(f"from 20 steps to the next 20: {-drops[0]:+.2f}, {-drops[1]:+.2f}; into the second epoch: {-drops[2]:+.2f}")
assert drops[2] > 2 * max(drops[:2])

# %% [markdown]
# The loss falls where the second epoch begins. From there on every pair has been seen once, and the loss tells you less about new
# texts.
#
# A lesson has no time for more training, so the course ships an encoder, `docs-contrastive`, that was trained from the same start
# for much longer and on other kinds of pairs too (`nextbert-lite pairs --data docs` makes such a model). Its card says how:

# %% tags=["nbval-check-output"]
card = read_card("docs-contrastive")
training = card["training"]
print(f"{training['steps']:,} steps of {training['batch']} pairs: {card['corpus']['pairs']}")

# %% [markdown]
# So besides summary and body, the shipped encoder saw spans of a text with their surroundings, and the names of the training
# entries with their texts. The package's `embed` gives its vectors in one line, and it is what you use outside of this lesson. It
# can also read a text to its end: in windows of T tokens, whose vectors are averaged. Here that is done for the small pools alone,
# because it takes longer:

# %%
shipped, _ = load("docs-contrastive")
two = ["Compute the inverse of a matrix.", "Draw a histogram."]
torch.testing.assert_close(embed(two, "docs-contrastive"), vectors_of(shipped, two), rtol=1e-4, atol=1e-4)

shipped = shipped.to(device)
body_vectors = vectors_of(shipped, bodies)
window_vectors = embed(bodies[:n_held], (shipped, tokenizer), long="windows")

# %% [markdown]
# All searches so far, on validation. Which of them would you take?

# %%
found["shipped encoder"] = search_by(shipped, body_vectors)
found["shipped encoder, whole"] = search_by(shipped, window_vectors)
show_found()
assert after < on_validation("static bag") and bag_seconds < encoder_seconds

# %% [markdown]
# Your minute is not enough to reach the bag, which took less time (the assert compares both the MRR and the seconds). Keep that in
# mind when somebody shows you an encoder and no bag.

# %% [markdown]
# ## 6. Two searches together
#
# Where BM25 and a model fail on different questions, a mixture may beat both. But how do you add a BM25 score and a cosine
# similarity? A cosine is at most 1. BM25 has no such limit, and its scale changes from question to question, because more words
# give larger scores.
#
# Make them comparable. For each question, over all texts, subtract the mean and divide by the standard deviation. The result is a
# **z-score**: by how many standard deviations a text lies above the average of this question.

# %%
from nextbert_lite.use.search import best_weight, fuse, reciprocal_rank_fusion, z_scores

row = bm25["validation"][0]  # one question's scores
z = (row - row.mean()) / row.std(correction=0)
torch.testing.assert_close(z, z_scores(bm25["validation"])[0])
print(f"BM25 of the first question: {row.min():.1f} to {row.max():.1f}; as z-scores {z.min():.1f} to {z.max():.1f}")

# %% [markdown]
# Then mix with a weight w between 0 and 1:
#
# $$\text{score} = w \cdot z(\text{BM25}) + (1 - w) \cdot z(\text{cosine})$$
#
# Which w? Try 21 of them on the validation questions and keep the best (the package's `best_weight` does that). But in *which
# pool*? Among ten times as many texts there are ten times as many wrong answers with a high cosine, so another weight may be the
# best. We choose it in each pool for that pool:

# %%
grid = [i / 20 for i in range(21)]


def curve(a, b, own):
    """Return the MRR of the fusion of two searches for each weight of the grid."""
    a, b = z_scores(a), z_scores(b)
    return [mrr(w * a + (1 - w) * b, own) for w in grid]


def join(a, b):
    """Return the fusion in each pool, with the weight chosen on validation in the pool of that size, and the curves."""
    scores, curves = {}, {}
    for size, own in (("", None), (", all", right["validation"])):
        if f"validation{size}" in a.keys() & b.keys():
            curves[size] = curve(a[f"validation{size}"], b[f"validation{size}"], own)
            w = grid[curves[size].index(max(curves[size]))]
            scores |= {pool: fuse(a[pool], b[pool], w) for pool in (f"validation{size}", f"test{size}")}
    return scores, curves


models = [name for name in found if not name.startswith("BM25")]
mixtures, curves = {}, {}
for name in models:
    mixtures[f"BM25 + {name}"], curves[name] = join(bm25, found[name])
a, b = bm25["validation"], found["static bag"]["validation"]
assert best_weight(a, b) == max(zip(grid, curves["static bag"][""], strict=True), key=lambda pair: pair[1])

# %% [markdown]
# Both pools side by side. Where is the top of each curve?

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(9.5, 3.6))
weights = {}
for ax, size, pool in zip(axes, ("", ", all"), (f"{len(validation)} bodies", f"{len(bodies):,} bodies"), strict=True):
    for number, name in enumerate(models):
        if size in curves[name]:
            weights[name + size] = grid[curves[name][size].index(max(curves[name][size]))]
            ax.plot(grid, curves[name][size], color=f"C{number}", label=name)
            ax.plot(weights[name + size], max(curves[name][size]), "o", color=f"C{number}")
    ax.set(xlabel="w (0: only the model, 1: only BM25)", ylabel=f"MRR on validation among {pool}")
axes[0].legend(title="BM25 and", fontsize=7)
fig.suptitle("The best weight depends on the model and on the pool")
plots.show(
    fig,
    alt="Curves of the MRR over the weight of BM25, in the small pool and in the large one, with their tops marked.",
)
for name, w in weights.items():
    print(f"BM25 + {name:>27}: w = {w:.2f}")
assert weights["static bag, all"] > weights["static bag"]

# %% [markdown]
# The bag needs more of BM25 in the large pool. Be careful with the best of 21: the maximum was chosen on these questions, so on
# these questions it flatters. What it is worth shows on others.
#
# A second recipe needs no weight at all. **Reciprocal rank fusion** forgets the scores and adds up ranks (Cormack et al. 2009,
# with k = 60):
#
# $$\text{score} = \frac{1}{k + \text{rank by BM25}} + \frac{1}{k + \text{rank by the model}}$$
#
# A small case of both recipes, for one question and five texts. The model is sure of one text, BM25 of another:

# %% tags=["nbval-check-output"]
words_say, model_says = torch.tensor([[9.0, 2.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.3, 0.3, 0.9, 0.2, 0.1]])
for name, small in {
    "z(BM25)": z_scores(words_say),
    "z(cosine)": z_scores(model_says),
    "mixed, w = 0.5": fuse(words_say, model_says, 0.5),
    "100 × RRF": 100 * reciprocal_rank_fusion(words_say, model_says),
}.items():
    print(f"{name:>14}: {'  '.join(f'{value:+.2f}' for value in small[0].tolist())}")
# RRF cannot tell how sure a search is: only the order of its texts counts
torch.testing.assert_close(
    reciprocal_rank_fusion(words_say, model_says), reciprocal_rank_fusion(words_say**3, model_says)
)

# %% [markdown]
# RRF gives nearly equal numbers to all five texts, because its constant 60 is large beside their ranks.
#
# There are two more mixtures. One takes three searches in two steps: first the bag and the shipped encoder, then BM25 and what came
# out. The other joins the encoder with the *plain* BM25, so that you see what better words are worth beside a model.

# %%
both, _ = join(found["static bag, whole"], found["shipped encoder"])
mixtures["BM25 + bag + shipped"], _ = join(bm25, both)
mixtures["BM25, plain + shipped"], _ = join(found["BM25, plain"], found["shipped encoder"])
for name in ("masked model", "static bag, whole", "shipped encoder"):
    pools = [pool for pool in found[name] if pool != "validation, all"]  # nothing to choose, the small pool is enough
    mixtures[f"RRF: BM25, {name}"] = {s: reciprocal_rank_fusion(bm25[s], found[name][s]) for s in pools}
for name in ("BM25, plain", "BM25", *mixtures):
    scores = (found | mixtures)[name]
    large = mrr(scores["validation, all"], right["validation"]) if "validation, all" in scores else None
    print(f"{name:>29}: MRR {mrr(scores['validation']):.3f} on validation", end="")
    print("" if large is None else f", {large:.3f} among all")

# %% [markdown]
# Which mixtures are worse than BM25 by itself? And which is the best, to be tested below?

# %%
alone = on_validation("BM25")
hurt = [name for name, scores in mixtures.items() if mrr(scores["validation"]) < alone]
print(f"BM25 alone: {alone:.3f}. Below it: {', '.join(hurt) or 'none'}")
candidates = [name for name, scores in mixtures.items() if "validation, all" in scores]  # to be tested in both pools
best_mixture = max(candidates, key=lambda name: mrr(mixtures[name]["validation"]))
print(f"The best on validation, of those that have both pools: {best_mixture}")
assert "RRF: BM25, masked model" in hurt

# %% [markdown]
# RRF gives both searches the same influence. The masked model is far weaker than BM25, and the mixture falls far below BM25 alone,
# while a chosen weight gives the model little influence. RRF also forgets how far apart two scores are; whether that is what costs
# it is not measured here. The mixture that goes into the test as *the best* is chosen now, on validation, and printed above.

# %% [markdown]
# ### Exercise 12.6 · find the bug ●●○ · 12 minutes
#
# A colleague writes `fused_mrr` and reports two strange things. On every new set of questions the fusion scores lower than
# reported, and nearly always by a little. And when ten long questions are added to a set, the ranks of the *other* questions
# change. The 21 weights are as they should be.
#
# ```python
# def fused_mrr(bm25_validation, cosine_validation, bm25_test, cosine_test):
#     def z(scores):
#         return (scores - scores.mean()) / scores.std(correction=0)
#
#     found = []
#     for i in range(21):
#         w = i / 20
#         found.append(mrr(w * z(bm25_test) + (1 - w) * z(cosine_test)))
#     return max(found)
# ```
#
# Write it right. Each argument is (N, N), scores of N questions and N texts, and text i answers question i; validation and test may
# have another N. The result is the MRR of the fusion on the test questions, a number. Of equally good weights take the smallest.
# In this exercise no question has the same score for all texts. You may use what the package offers (this section's imports) or
# write it yourself.


# %% tags=["exercise-12.6"]
def fused_mrr(bm25_validation, cosine_validation, bm25_test, cosine_test):
    """four (N, N), scores of N questions and N texts -> the MRR of the fusion on the test questions, a number"""
    ### BEGIN SOLUTION
    weight, _ = best_weight(bm25_validation, cosine_validation)
    return mrr(fuse(bm25_test, cosine_test, weight))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.fused_mrr(fused_mrr)

# %% [markdown]
# ## 7. The test, once
#
# Everything is chosen now. First, what do you expect: is a model alone ahead of BM25? Is a mixture? The test, with all searches at
# once. Names with *whole* read the body to its end, as BM25 does; the other models read its first T tokens. (In *BM25 + bag +
# shipped* the bag is the one that reads whole bodies.)

# %%
everyone = found | mixtures
reciprocal = {
    pool: {name: reciprocal_ranks(s[pool], right["test"]) for name, s in everyone.items() if pool in s}
    for pool in ("test", "test, all")
}
measured = {}  # (a, b, pool) -> what `compare` found


def compare(a, b, pool="test", questions=None):
    """Return MRR of a - MRR of b and the ends of its interval, for all test questions or for some."""
    if questions is not None:
        return interval(*(reciprocal[pool][name][questions] for name in (a, b)))
    if (a, b, pool) not in measured:
        measured[a, b, pool] = interval(*(reciprocal[pool][name] for name in (a, b)))
    return measured[a, b, pool]


def in_words(mean, low, high):
    """Return a difference and its interval as text."""
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def show_table(pool):
    """Print what each search gets on the test questions in a pool."""
    n = everyone["BM25"][pool].shape[1]
    print(f"{f'among {n:,}':>29}   MRR  nDCG@10  recall@10  MRR - BM25 (95 %)")
    constant, first = torch.zeros(1, n), torch.tensor([0])
    chances = mrr(constant, first), ndcg_at(constant, 10, first), 10 / n
    print("{:>29} {:.3f}    {:.3f}      {:.3f}".format("ordered by chance", *chances))
    for name, values in reciprocal[pool].items():
        own = everyone[name][pool], 10, right["test"]
        against = "" if name == "BM25" else in_words(*compare(name, "BM25", pool))
        print(f"{name:>29} {values.mean():.3f}    {ndcg_at(*own):.3f}      {recall_at(*own):.3f}  {against}")


# %% [markdown]
# The small pool:

# %%
show_table("test")

# %% [markdown]
# In the large pool the questions are the same, with *all* bodies to choose from. How much is lost? Guess. (The models without a row
# here would need the vectors of all bodies, which would cost another minute or more.)

# %%
show_table("test, all")
assert all(reciprocal["test, all"][name].mean() < reciprocal["test"][name].mean() for name in reciprocal["test, all"])

# %% [markdown]
# The last columns as a picture. An interval that does not touch 0 is a difference beyond the luck of the sample:

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(10.0, 5.0), sharey=True)
listed = sorted((name for name in everyone if name != "BM25"), key=lambda name: reciprocal["test"][name].mean())
for ax, pool in zip(axes, reciprocal, strict=True):
    for y, name in enumerate(listed):
        if name in reciprocal[pool]:
            mean, low, high = compare(name, "BM25", pool)
            colour = plots.BLUE if low > 0 else plots.RED if high < 0 else plots.GREY
            ax.plot([low, high], [y, y], color=colour)
            ax.plot(mean, y, "o", color=colour)
    ax.axvline(0, color="black", linewidth=1)
    ax.set(xlabel=f"MRR - MRR of BM25, among {everyone['BM25'][pool].shape[1]:,}")
axes[0].set_yticks(range(len(listed)), listed)
ahead = []
for pool, rows in reciprocal.items():
    weighted = [name for name in mixtures if name in rows and not name.startswith("RRF")]
    ahead.append(f"{sum(compare(name, 'BM25', pool)[1] > 0 for name in weighted)} of {len(weighted)}")
fig.suptitle(f"Weighted mixtures ahead of BM25: {ahead[0]} among {Q}, {ahead[1]} among all (95 %; grey: undecided)")
plots.show(
    fig, alt="Intervals of each search's MRR against BM25 in the two pools: mixtures with trained models are highest."
)

# %% [markdown]
# (There are many intervals, and at 95 % one in twenty misses by chance, so look at those far from 0.)
#
# What we set out to show, as asserts. Better words lift BM25 in both pools. Alone, neither a bag nor your encoder reaches it. The
# mixture that was chosen on validation is above it in the small pool. In the large pool its lead is smaller, so look at its interval:

# %%
for pool in reciprocal:
    print(f"{'BM25 against the plain one, ' + pool:>40}: {in_words(*compare('BM25', 'BM25, plain', pool))}")
    assert compare("BM25", "BM25, plain", pool)[1] > 0
    for name in ("static bag", "static bag, whole"):
        assert compare(name, "BM25", pool)[2] < 0  # alone: behind it
    print(f"{best_mixture + ' against BM25, ' + pool:>40}: {in_words(*compare(best_mixture, 'BM25', pool))}")
assert compare(best_mixture, "BM25")[1] > 0 and compare(best_mixture, "BM25", "test, all")[2] > 0
assert compare(best_mixture, "BM25", "test, all")[0] < compare(best_mixture, "BM25")[0]
for name in ("masked model", "your encoder"):
    assert compare(name, "BM25")[2] < 0

# %% [markdown]
# And where does the shipped encoder stand, alone and in a mixture? For the encoder that you have, the intervals say:

# %%
VERDICT = {(True, False): "ahead", (False, True): "behind", (False, False): "undecided"}
questions_on_it = [
    ("shipped encoder", "BM25"),
    ("shipped encoder", "static bag"),
    ("shipped encoder, whole", "static bag, whole"),
    ("shipped encoder, whole", "shipped encoder"),
    ("BM25 + shipped encoder", "BM25"),
    ("BM25 + shipped encoder", "BM25 + static bag"),
    ("BM25, plain + shipped", "BM25"),
]
for pool in reciprocal:
    for a, b in questions_on_it:
        if {a, b} <= reciprocal[pool].keys():
            mean, low, high = compare(a, b, pool)
            print(f"{pool:>9}: {a:>22} against {b:<18} {in_words(mean, low, high)} {VERDICT[low > 0, high < 0]}")
assert compare("BM25 + shipped encoder", "BM25")[1] > 0

# %% [markdown]
# Three things to read off. *Alone*, an encoder of this size has to be compared with a good BM25 and with a bag that read the same
# tokens, or it looks better than it is. *Mixed*, it finds answers that words do not find. And if you join it with plain words only,
# look at the last line of each pool: BM25 by itself, with better words, may do as well.
#
# Do intervals change when you resample *groups* of near-duplicates in place of single questions? Questions of one group are alike,
# so they are not as many independent draws as they seem.

# %%
from nextbert_lite.corpora.harvest import group

document_of = {d.body: d for d in docs.documents}
groups = torch.tensor(group([document_of[body] for _, body in test[:Q]]))
_, member, size = groups.unique(return_inverse=True, return_counts=True)
difference = reciprocal["test"][best_mixture] - reciprocal["test"]["BM25"]
sums = torch.zeros(len(size), dtype=torch.float64).index_add(0, member, difference)  # of each group
drawn = torch.randint(len(size), (2000, len(size)), generator=seeded(seed, 9))
means = sums[drawn].sum(1) / size[drawn].sum(1)
by_groups = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
print(f"{(size[member] > 1).float().mean():.0%} of the {Q} bodies have a near-duplicate among them: {len(size)} groups")
print(f"drawn by questions: {in_words(*compare(best_mixture, 'BM25'))}")
print(f"drawn by groups:    {in_words(difference.mean(), *by_groups)}")
_, low, high = compare(best_mixture, "BM25")
assert 0.7 < (by_groups[1] - by_groups[0]) / (high - low) < 1.4

# %% [markdown]
# Hardly. What was the choice of a weight for each pool worth? The large pool once with the small pool's weight, once with its own:

# %%
in_large = reciprocal["test, all"]
for name in models:
    if name + ", all" in weights:
        pair = bm25["test, all"], found[name]["test, all"]
        own, borrowed = (reciprocal_ranks(fuse(*pair, weights[key]), right["test"]) for key in (name + ", all", name))
        changed = f"w = {weights[name]:.2f} → {weights[name + ', all']:.2f}"
        print(f"BM25 + {name:>17}: {changed}  gain {in_words(*interval(own, borrowed))}")
        against = [(values - in_large["BM25"]).mean().item() for values in (borrowed, own)]
        print("{:>24}: {:+.3f} → {:+.3f}".format("against BM25", *against))

# %% [markdown]
# The first number of each model is the gain by the pool's own weight. The two below are the mixture against BM25, with the borrowed
# weight and with its own. A mixture that seems to add nothing, or to do harm, may have been given the wrong weight.
#
# Does reading whole bodies help the bag on the test as it did on validation?

# %%
of = [reciprocal_ranks(found[name]["validation"]) for name in ("static bag, whole", "static bag")]
print(f"whole against first {T} tokens, validation: {in_words(*interval(*of))}")
print(f"{'test':>40}: {in_words(*compare('static bag, whole', 'static bag'))}")

# %% [markdown]
# Compare the two lines: with one split alone you would have believed more than is known.
#
# What your minute of training gained over the masked model, and the rows for the stored table:

# %%
results_search = []
for name, scores in everyone.items():
    row = {"seed": seed, "search": name, "encoder": card["made"]}
    for key, n in (("test", "500"), ("test, all", "all")):
        if key in scores:
            row |= {f"mrr_{n}": mrr(scores[key], right["test"]), f"ndcg_{n}": ndcg_at(scores[key], 10, right["test"])}
            row[f"recall_{n}"] = recall_at(scores[key], 10, right["test"])
    results_search.append(row)
live = {row["search"]: row for row in results_search}
ratio = live["your encoder"]["mrr_500"] / live["masked model"]["mrr_500"]
print(f"your encoder: {ratio:.2f} times the MRR of the masked model, among {Q}")
assert ratio > 1.3

# %% [markdown]
# One seed decides the sample of questions, the order of the batches and the first vectors of the bag. The stored table has more
# than one seed. Their samples overlap (500 of the same test questions), and BM25, the masked model and the shipped encoder are the
# same in all of them. So the spread is smaller than that of new questions and new trainings would be:

# %% tags=["nbval-check-output"]
stored = stored_table("12_search")
seeds = sorted({row["seed"] for row in stored})
print(f"\nmean (lowest to highest) of {len(seeds)} seeds\n{'':>29}  MRR among 500           MRR among all")
for name in dict.fromkeys(row["search"] for row in stored):
    columns_of = [[float(r[c]) for r in stored if r["search"] == name and r[c]] for c in ("mrr_500", "mrr_all")]
    shown = [f"{sum(v) / len(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in columns_of if v]
    print(f"{name:>29}  {'   '.join(shown)}")

# %% [markdown]
# The stored rows show, for each seed, the better words above the plain ones, and BM25 with the shipped encoder above BM25. Does this
# run agree with the stored rows of its seed? (Rows with the shipped encoder are compared only where the table was made with the
# encoder that you have.)

# %%
by_seed = {(row["seed"], row["search"]): float(row["mrr_500"]) for row in stored}
for s in seeds:
    print(f"seed {s}: your encoder / masked model: {by_seed[s, 'your encoder'] / by_seed[s, 'masked model']:.2f}")
    assert by_seed[s, "BM25, plain"] < by_seed[s, "BM25"] < by_seed[s, "BM25 + shipped encoder"]
same_encoder = {row["encoder"] for row in stored} == {card["made"]}
comparable = [name for name in live if (str(seed), name) in by_seed and (same_encoder or "shipped" not in name)]
apart = max((abs(by_seed[str(seed), name] - live[name]["mrr_500"]) for name in comparable), default=0.0)
print(f"the largest difference between this run and the stored row of its seed: {apart:.2f}")
assert apart < 0.03

# %% [markdown]
# ## 8. What a careless split would have told you
#
# Documentation repeats itself: the same sentences occur under many names. The corpus of this course puts texts that are nearly the
# same into the *same* split. What if you had not known, and had drawn the test split at random, as people do with a new data set?

# %%
from nextbert_lite.corpora.python_docs import near_duplicates

pairs = [*test, *validation, *train]
order = torch.randperm(len(pairs), generator=seeded(seed, 8)).tolist()
careless_train = [pairs[i] for i in order[: int(0.8 * len(pairs))]]
careless_test = [pairs[i] for i in order[-Q:]]
near = {
    "by groups": near_duplicates([b for _, b in test[:Q]], [b for _, b in train]),
    "careless": near_duplicates([b for _, b in careless_test], [b for _, b in careless_train]),
}
for name, flags in near.items():
    print(f"{name:>9}: {sum(flags) / Q:.0%} of the test bodies have a near-duplicate among the training bodies")
assert sum(near["by groups"]) / Q < 0.01 < 0.2 < sum(near["careless"]) / Q

# %% [markdown]
# What such a pair looks like:

# %%
i = near["careless"].index(True)  # the first of them, and the training body that has most words in common
words_of_it = set(words_of(careless_test[i][1]))
like = max(
    (b for _, b in careless_train),
    key=lambda b: len(words_of_it & (w := set(plain_words(b)))) / len(words_of_it | w),
)
for kind, body in (("test", careless_test[i][1]), ("training", like)):
    print(f"{kind:>8}: {document_of[body].name}: {' '.join(body.split())[:130]} …")

# %% [markdown]
# (Near means: give each text the vector of the TF-IDF of its words, section 1; two texts are near if the cosine of these vectors is
# more than 0.6. The corpus was grouped with the word weights of all its texts. Here the weights come from fewer texts, so a pair at
# the border may show up.)
#
# Train the same bag on the careless split, with the same settings, and ask 500 of *its* test questions. BM25 learns nothing from
# training texts, so it serves as the measure of how hard the questions are. What do you expect of bag minus BM25?

# %%
careless_bag = train_bag(careless_train)

# %% [markdown]
# Both BM25s and the bag, first on the honest split (the test of section 7), then on the careless one:

# %%
summaries, own_bodies = map(list, zip(*careless_test, strict=True))
careless = {
    "BM25, plain": BM25(own_bodies, plain_words).scores(summaries),
    "BM25": BM25(own_bodies, better_words, 0.9, 0.9).scores(summaries),
    "static bag": vectors_of(careless_bag, summaries) @ vectors_of(careless_bag, own_bodies).T,
}
careless_reciprocal = {name: reciprocal_ranks(scores) for name, scores in careless.items()}
believed = {}
for split, values in (("by groups", reciprocal["test"]), ("careless", careless_reciprocal)):
    believed[split] = interval(values["static bag"], values["BM25"])
    print(f"{split:>9}:", ", ".join(f"{name} {values[name].mean():.3f}" for name in careless), end="; ")
    print(f"bag - BM25 {in_words(*believed[split])}")

# %% [markdown]
# Where does the difference come from? The same questions, split by whether their body has a near-duplicate in training:

# %% tags=["hide-input"]
flags = torch.tensor(near["careless"])
fig, ax = plots.figure(size=(7.0, 3.2))
kinds = {"no near-duplicate\nin training": ~flags, "near-duplicate\nin training": flags}
colours = {"BM25, plain": plots.ORANGE, "BM25": plots.GREY, "static bag": plots.BLUE}
advantage = {}
for x, (kind, chosen) in enumerate(kinds.items()):
    values = {name: v[chosen] for name, v in careless_reciprocal.items()}
    advantage[kind] = values["static bag"] - values["BM25"]
    for shift, (name, v) in zip((-0.26, 0.0, 0.26), values.items(), strict=True):
        ax.bar(x + shift, v.mean(), width=0.24, color=colours[name])
        ax.text(x + shift, v.mean() + 0.01, f"{v.mean():.2f}", ha="center")
ax.set_xticks(range(2), [f"{kind}\n({int(chosen.sum())} questions)" for kind, chosen in kinds.items()])
ax.set(ylabel="MRR among 500", ylim=(0, 1))
ax.legend(ax.patches[:3], list(careless_reciprocal), loc="upper left", ncols=3)
ax.set_title("The careless lead lies on bodies with a near-duplicate in training")
plots.show(fig, alt="Two groups of bars, BM25s and bag, for questions without and with a near-duplicate in training.")

# %% [markdown]
# The differences with their intervals, and the difference between the two kinds of questions:

# %%
for kind, values in advantage.items():
    print(f"{' '.join(kind.split()):>30}: bag - BM25 {in_words(*interval(values, torch.zeros_like(values)))}")
clean, flattered = advantage.values()
more = (flattered.mean() - clean.mean()).item()
error = (flattered.var() / len(flattered) + clean.var() / len(clean)).sqrt().item()  # the two groups are independent
print(f"{'the second minus the first':>30}: {in_words(more, more - 1.96 * error, more + 1.96 * error)}")
assert more > 2 * error and believed["careless"][0] > believed["by groups"][0]

# %% [markdown]
# Perhaps a bag is better at such questions in any case? The control is the honest split. There, too, some of the test bodies have a
# near-duplicate, but among the other test bodies, and none in training. If the kind of question were the reason, the bag would be
# ahead on these as well:

# %%
group_of = group([document_of[body] for _, body in test])
members = Counter(group_of)
twin = torch.tensor([members[number] > 1 for number in group_of[:Q]])
honest = reciprocal["test"]["static bag"] - reciprocal["test"]["BM25"]
for kind, chosen in (("no near-duplicate in the test", ~twin), ("near-duplicate in the test", twin)):
    of = [reciprocal["test"][name][chosen] for name in ("static bag", "BM25")]
    print(f"{kind:>30}: bag - BM25 {in_words(*interval(*of))}, {int(chosen.sum())} questions")
error = (flattered.var() / len(flattered) + honest[twin].var() / int(twin.sum())).sqrt().item()
assert honest[twin].mean() < 0 and flattered.mean() - honest[twin].mean() > 2 * error

# %% [markdown]
# With the same model and the same settings, the bag looks far better against BM25 than it is on new texts. The questions whose body
# has a near-duplicate *in training* account for it. Where the near-duplicate is in the test alone, the bag is behind, as on other
# questions. So it is not the kind of question: the model need not understand what it can remember.
#
# Someone who reports the careless number is not lying, but is wrong about new texts. Before you believe a table, ask how the split
# was made.

# %% [markdown]
# ## 9. Where each fails
#
# A mean over questions hides which ones. The first suspicion is that BM25 needs shared words. For each test question, take the
# proportion of its words that occur in its body:


# %%
def shared(question, body):
    """Return the proportion of the question's words that the body has."""
    asked_words = set(words_of(question)) or {""}
    return len(asked_words & set(words_of(body))) / len(asked_words)


overlap = torch.tensor([shared(s, b) for s, b in test[:Q]])
body_tokens = torch.tensor([len(row) for row in tokenizer.encode_batch([b for _, b in test[:Q]])])
KINDS = {
    "under 1/3 of the words": overlap < 1 / 3,
    "1/3 to 2/3": (overlap >= 1 / 3) & (overlap < 2 / 3),
    "2/3 and more": overlap >= 2 / 3,
}
shown = ["BM25, plain", "BM25", "static bag, whole", "shipped encoder, whole", best_mixture]

# %% [markdown]
# There are five searches and three kinds of questions. Which search falls furthest from right to left? (The groups are made of what
# the plain BM25 sees, so the plain BM25 *must* fall far. Look at the others.)

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(8.0, 3.4))
for number, name in enumerate(shown):
    values = [reciprocal["test"][name][chosen] for chosen in KINDS.values()]
    errors = [1.96 * v.std() / len(v) ** 0.5 for v in values]
    x = [k + 0.17 * number - 0.34 for k in range(3)]
    ax.bar(x, [v.mean() for v in values], width=0.15, yerr=errors, label=name, error_kw={"linewidth": 1})
ax.set_xticks(range(3), [f"{kind}\n({int(chosen.sum())} questions)" for kind, chosen in KINDS.items()])
ax.set(xlabel="words of the question that occur in the body", ylabel="MRR among 500, ± 95 %", ylim=(0, 1))
ax.set_title("With few shared words every search does worse")
ax.legend(fontsize=8)
plots.show(fig, alt="Bars by shared words: with few, every search falls, those by words furthest.")

# %% [markdown]
# And the difference between the encoder and BM25, at both ends:

# %%
few, many = KINDS["under 1/3 of the words"], KINDS["2/3 and more"]
for kind, chosen in (("few shared words", few), ("many", many)):
    for name in ("shipped encoder, whole", best_mixture):
        print(f"{kind:>16}: {name} - BM25 {in_words(*compare(name, 'BM25', 'test', chosen))}")
drop = {name: (reciprocal["test"][name][many].mean() - reciprocal["test"][name][few].mean()).item() for name in shown}
assert min(drop.values()) > 0 and max(drop, key=drop.get) == "BM25, plain"
assert min(drop["BM25"], drop["BM25, plain"]) > max(drop[name] for name in shown[2:])  # by words: furthest
assert drop["BM25"] < drop["BM25, plain"]  # stems and parts find some of the words that plain BM25 misses

# %% [markdown]
# By length of the body, and by library:

# %%
libraries = [document_of[b].library for _, b in test[:Q]]
kinds = {"bodies up to 64 tokens": body_tokens <= 64, f"more than {T}": body_tokens > T}
kinds |= {name: torch.tensor([lib == name for lib in libraries]) for name in sorted(set(libraries))}
print(f"{'':>22}  {'questions':>9}  {'  '.join(shown)}")
for kind, chosen in kinds.items():
    values = [f"{reciprocal['test'][name][chosen].mean():.2f}".rjust(len(name)) for name in shown]
    print(f"{kind:>22}  {int(chosen.sum()):>9}  {'  '.join(values)}")
short, long = (reciprocal["test"]["BM25"][chosen] for chosen in list(kinds.values())[:2])
assert long.mean() - short.mean() > 2 * (short.var() / len(short) + long.var() / len(long)).sqrt()

# %% [markdown]
# Read the smaller groups with care, because with fewer questions more is chance. (Bodies between the two lengths are in neither of the
# first two lines.) The pattern to see is in these two lines: BM25 does far worse on short bodies. A likely reason is that a short
# body has few words to match.

# %% [markdown]
# ## 10. In your own words
#
# A summary is written by the author of the body, often with the same words. You do not know these words; that is why you search.
# Here are twelve questions as somebody would type them. They were written for this lesson and not taken from the corpus, and each
# has names that answer it. (The lists were made by hand and are not complete: a hit outside of them need not be wrong. Some of
# these names are not among the texts searched here, because an entry needs a body, and a repeated summary or body was kept once.
# The cell after the next prints how many are.)

# %%
OWN_WORDS = {
    "how do I invert a matrix": [
        "numpy.linalg.inv",
        "torch.linalg.inv",
        "numpy.linalg.pinv",
        "torch.linalg.inv_ex",
        "numpy.matrix.I",
    ],
    "draw a histogram": ["matplotlib.axes.Axes.hist", "matplotlib.pyplot.hist"],
    "split a string at commas": ["str.split", "str.rsplit", "re.split", "numpy.char.split", "numpy.strings.split"],
    "make random numbers reproducible": ["torch.manual_seed", "random.seed", "numpy.random.seed"],
    "remove a directory and all its files": ["shutil.rmtree"],
    "position of the largest value": ["numpy.argmax", "torch.argmax", "numpy.ndarray.argmax", "torch.max"],
    "solve a system of linear equations": ["numpy.linalg.solve", "torch.linalg.solve"],
    "stop gradients from exploding": ["torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_value_"],
    "switch off some neurons at random": ["torch.nn.Dropout", "torch.nn.functional.dropout", "torch.nn.AlphaDropout"],
    "read a table with columns separated by commas": ["csv.reader", "csv", "numpy.loadtxt", "numpy.genfromtxt"],
    "run two things at the same time": [
        "threading.Thread",
        "multiprocessing.Process",
        "concurrent.futures",
        "threading",
    ],
    "how long does my code take": [
        "timeit",
        "timeit.Timer",
        "timeit.timeit",
        "timeit.Timer.timeit",
        "time.perf_counter",
    ],
}

# %% [markdown]
# The package's `SearchIndex` joins BM25 and an encoder as in section 6; the weight is that of the large pool. (The command's own
# weight was chosen in the same way, with bodies read in windows and names before them.) Here a document's vector is the mean of
# its summary's and its body's, which are known already, so the index is made in seconds. BM25 reads the name as well.

# %%
from nextbert_lite import SearchIndex

by_body = dict(zip(bodies, body_vectors, strict=True))
searched = [d for d in docs.documents if d.body in by_body]
summary_vectors = vectors_of(shipped, [d.summary or d.body for d in searched])
index = SearchIndex(
    searched,
    (shipped, tokenizer),
    weight=weights["shipped encoder, all"],
    vectors=F.normalize(summary_vectors + torch.stack([by_body[d.body] for d in searched]), dim=-1),
)
titles = [d.name for d in searched]
relevant = torch.tensor([[name in right for name in titles] for right in OWN_WORDS.values()])
print(f"{len(titles):,} documents; right answers among them: {relevant.sum(1).tolist()}")
assert relevant.any(1).all()

# %% [markdown]
# Four searches, and the rank of the first right answer (among equal scores, the rank to expect). Before you look: for which of
# the twelve will words be enough?

# %%
questions = list(OWN_WORDS)
named = [f"{d.name}\n{d.text}" for d in searched]
own = {
    "plain": BM25(named, plain_words).scores(questions),
    "BM25": BM25(named, better_words, 0.9, 0.9).scores(questions),
    "encoder": embed(questions, (shipped, tokenizer)) @ index.vectors.T,
}
own["both"] = fuse(own["BM25"], own["encoder"], index.weight)
first_rank = {}
for name, s in own.items():
    best = s.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)  # the best score of a right answer, (12, 1)
    tied = (s == best) & ~relevant
    first_rank[name] = 1 + (s > best).sum(1) + tied.sum(1) / (1 + ((s == best) & relevant).sum(1))  # among ties
print(f"{'rank of the first right answer':>46}  {'  '.join(own)}   first hit of both")
for i, text in enumerate(questions):
    row = "  ".join(f"{first_rank[name][i]:>{len(name)}.0f}" for name in own)
    print(f"{text:>46}  {row}   {titles[int(own['both'][i].argmax())]}")

# %% [markdown]
# How many questions have a right answer among the first ten hits? And nDCG@10, in which every right answer of a question counts:

# %%
for name, first in first_rank.items():
    gained = ndcg_at(own[name], 10, grades=relevant.float())  # with all right answers of a question
    print(f"{name:>8}: {int((first <= 10).sum())} of {len(questions)} within the first ten; nDCG@10 {gained:.2f}")

# %% [markdown]
# Twelve questions are an anecdote, not a measurement: one more or less is chance. But they show what no table shows. Look at the
# first hits, at the wrong ones too, and ask what each search took the question for.

# %% [markdown]
# ## 11. The search box
#
# The hits of the first question, with both scores and the words that brought them:

# %%
from nextbert_lite.use.search import hits_text

print(hits_text(index.search(question, k=5)))

# %% [markdown]
# And as a box to type in. A stored page cannot hold a live one, so below is a single answer. Set `live = True` and run the cell, then
# type a question and press Enter. Words of your question are set in bold where a summary has them.

# %%
from IPython.display import display

from nextbert_lite import search_box
from nextbert_lite.views.search_box import hits_html

live = False
if live:
    display(search_box(index))
else:
    display({"text/html": hits_html(index.search("draw a histogram", 3)), "text/plain": "Three hits."}, raw=True)

# %% [markdown]
# The same works outside of a notebook, over all documents, in two ways:
#
# ```
# nextbert-lite search "invert a matrix"
# ```
#
# ```python
# from nextbert_lite import embed
# vectors = embed(["invert a matrix", "draw a histogram"])  # (2, 192), length 1
# ```
#
# The first search makes an index of all documents, which takes a minute or two, and keeps it; it is made again when your packages
# change.

# %% [markdown]
# ## 12. Words or vectors: what the field did since
#
# BEIR (Thakur et al. 2021) compared ten search systems on 18 data sets of many kinds, most of them unlike what the systems had
# been trained on (the *zero-shot* case). Its abstract says:
#
# > Our results show BM25 is a robust baseline and re-ranking and late-interaction-based models on average achieve the best
# > zero-shot performances, however, at high computational costs.
#
# Vectors of one text each ("dense retrieval") often fell behind words there. That has changed. Of E5, an encoder trained on a very
# large number of weakly related pairs of texts, the authors write (Wang et al. 2022):
#
# > For zero-shot settings, E5 is the first model that outperforms the strong BM25 baseline on the BEIR retrieval benchmark without
# > using any labeled data.
#
# Since then, encoders trained at that scale have been ahead of BM25 on such benchmarks, and the small one of this lesson tells you
# nothing about them. What became of words, and of bags?
#
# * **Learned sparse vectors.** SPLADE (Formal et al. 2021) lets a masked language model decide which words a text should be found
#   by, including words that it does not contain, and with which weight. It keeps the postings that you built in 12.1.
# * **Bags.** Static embeddings were trained again in 2025 on many pairs; their authors report at least 85 % of the quality of common
#   encoders and a hundred to four hundred times their speed on a CPU (sentence-transformers, *Train 400x faster Static
#   Embedding Models*).
# * **More than one vector.** ColBERT (Khattab and Zaharia 2020) keeps a vector for each token and adds up, over the tokens of the
#   query, the best match of each ("late interaction"). A cross-encoder (Nogueira and Cho 2019) reads query and text together; it is
#   too slow for all texts, so it *re-ranks* the best hundred or so of a first search such as yours.
# * **Questions for training.** Our pairs are summaries and bodies, and people ask differently. GPL (Kexin Wang et al. 2022) lets a model
#   write questions for each text, and a cross-encoder say how well they fit.
# * **Where neither is enough.** BRIGHT (Su et al. 2024) collects questions whose answers are found only by reasoning, beyond any
#   match of words or topics. The leading model of a common benchmark, with an nDCG@10 of 59.0 there, scored 18.3 on BRIGHT.
#
# Combining words and vectors, as in section 6, remains common practice, because the two fail on different questions.

# %% [markdown]
# ## What to remember
#
# * **BM25** adds up rare words, with saturation and a correction for length. An index keeps, for each word, its texts and what the
#   word adds to them. **Stems** and **parts of identifiers** bring more than its two constants.
# * A table on search needs two baselines: BM25 with good words, and a trained **static bag** that reads the same tokens.
# * **MRR** is the mean of 1/rank, **nDCG@k** discounts by a logarithm, **recall@k** is the proportion among the first k. Among ties
#   take the mean over their orders, so that a search that knows nothing gets what chance gets. Say among how many texts.
# * **The paired bootstrap** tells a difference from the luck of the questions, and from nothing else.
# * Fuse by **z-scores per question** with a weight chosen **on validation, in a pool of the size that you search**. Report on the
#   test, with a paired interval.
# * **Split by groups of near-duplicates.** On a random split a model can look good by remembering.
# * At this size, a minute of contrastive training lifts a masked model far and leaves it behind a bag and behind BM25. In a mixture
#   with BM25, an encoder that was trained for longer is worth something even so.

# %% [markdown]
# **What this scale cannot show.** This is a small encoder on four libraries, with questions written by the answer's author. It
# cannot tell where large encoders, trained on millions of real questions, stand against BM25. Nor can it show what approximate
# search is for: with some thousands of texts, comparing the question with every one of them is fast enough.
#
# **An open problem.** One vector for a text of any length, compared by one cosine: "the number of top-k subsets of documents capable
# of being returned as the result of some query is limited by the dimension of the embedding" (Weller et al. 2025). The authors build
# simple questions on which the best encoders fail. Search by many vectors a text, or by words *and* vectors as here, costs memory or
# a weight to tune. Which way is best is not known.
#
# **Where this comes from**
#
# * Stephen Robertson and Hugo Zaragoza, *The Probabilistic Relevance Framework: BM25 and Beyond*, 2009; Chris Kamphuis et al.,
#   *Which BM25 Do You Mean? A Large-Scale Reproducibility Study of Scoring Variants*, ECIR 2020. The library:
#   [bm25s](https://github.com/xhluca/bm25s), Xing Han Lù, 2024, [arXiv:2407.03618](https://arxiv.org/abs/2407.03618).
# * Gordon Cormack, Charles Clarke and Stefan Büttcher, *Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
#   Methods*, SIGIR 2009.
# * Bradley Efron and Robert Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13.
# * Frank McSherry and Marc Najork, *Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
#   Scores*, ECIR 2008; Martin Porter, *An algorithm for suffix stripping*, 1980.
# * Mohit Iyyer et al., *Deep Unordered Composition Rivals Syntactic Methods for Text Classification*, ACL 2015; Sanjeev Arora et
#   al., *A Simple but Tough-to-Beat Baseline for Sentence Embeddings*, ICLR 2017; Tom Aarsen,
#   [Train 400x faster Static Embedding Models](https://huggingface.co/blog/static-embeddings), 2025.
# * Nandan Thakur et al., *BEIR*, [arXiv:2104.08663](https://arxiv.org/abs/2104.08663); Liang Wang et al., *Text Embeddings by
#   Weakly-Supervised Contrastive Pre-training* (E5), [arXiv:2212.03533](https://arxiv.org/abs/2212.03533); Hongjin Su et al.,
#   *BRIGHT*, [arXiv:2407.12883](https://arxiv.org/abs/2407.12883).
# * Thibault Formal, Benjamin Piwowarski and Stéphane Clinchant, *SPLADE*, [arXiv:2107.05720](https://arxiv.org/abs/2107.05720); Omar
#   Khattab and Matei Zaharia, *ColBERT*, [arXiv:2004.12832](https://arxiv.org/abs/2004.12832); Rodrigo Nogueira and Kyunghyun Cho,
#   *Passage Re-ranking with BERT*, [arXiv:1901.04085](https://arxiv.org/abs/1901.04085); Kexin Wang et al., *GPL*,
#   [arXiv:2112.07577](https://arxiv.org/abs/2112.07577).
# * Orion Weller et al., *On the Theoretical Limitations of Embedding-Based Retrieval*, 2025,
#   [arXiv:2508.21038](https://arxiv.org/abs/2508.21038).
#
# **Next:** part IV puts the encoder to work on labels.
