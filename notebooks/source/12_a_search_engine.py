# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: A search engine
#     question: Does your encoder find what you look for, and how do you know?
#     minutes: 95
#     part: "Part III: contrast"
# ---

# %% [markdown]
# # 12 · A search engine
#
# You want to invert a matrix and do not know what the function is called. The documentation of Python, PyTorch, NumPy and
# Matplotlib lies on your disk: thousands of texts. You type *how do I invert a matrix*.
#
# **The question of this lesson:** does your encoder find what you look for, and how do you know?
#
# | | |
# |---|---|
# | You will | build search by words, train two models that search by meaning, mix them, measure all of them honestly, see how a careless split flatters, and end with a search box over your own tools |
# | You need | lesson 09 for the contrastive loss, lesson 10 for `SentenceEncoder`; lesson 01 for tokens |
# | It takes | about 95 minutes, five exercises; the machine needs about two and a half minutes |
#
# Before any model, the way that search engines have worked for decades: by words. Each word of your question that stands in
# a text adds something to the text's score. Will the first five hits help you? Guess before you look.

# %%
import math
import os
import re
from collections import Counter

import torch
import torch.nn.functional as F
from bm25s.stopwords import STOPWORDS_EN
from torch import nn

from nextbert_lite import (
    Bm25,
    Encoder,
    PairBatches,
    SearchIndex,
    SentenceEncoder,
    embed,
    fit,
    info_nce_loss,
    load,
    load_docs,
    mrr,
    ndcg_at,
    pad,
    paired_bootstrap,
    pick_device,
    plots,
    read_card,
    recall_at,
    search_box,
    seeded,
    stored_table,
)
from nextbert_lite.checks import lesson_12 as check
from nextbert_lite.corpora.python_docs import near_duplicates
from nextbert_lite.use.search import (
    PLAIN,
    best_weight,
    fuse,
    hits_text,
    ranks,
    reciprocal_rank_fusion,
    reciprocal_ranks,
    terms,
    z_scores,
)
from nextbert_lite.views.search_box import hits_html

seed = int(os.environ.get("NEXTBERT_SEED", 0))
docs = load_docs()
masked_model, tokenizer = load("docs-small")

# %% [markdown]
# The five best hits, and what each word of the question adds to their scores:

# %%
question = "how do I invert a matrix"
documents = [f"{document.name}\n{document.text}" for document in docs.documents]
by_words = Bm25(documents, **PLAIN)
first_hits = by_words.scores([question])[0].topk(5).indices.tolist()
words_of_hits = [by_words.words(question, i) for i in first_hits]
names = [docs.documents[i].name for i in first_hits]

fig, ax = plots.figure(size=(8.0, 2.9))
left = [0.0] * 5
for word, colour in (("how", plots.GREY), ("do", plots.PINK), ("invert", plots.BLUE), ("matrix", plots.ORANGE)):
    parts = [found.get(word, 0.0) for found in words_of_hits]
    ax.barh(range(5), parts, left=left, color=colour, label=word)
    left = [a + b for a, b in zip(left, parts, strict=True)]
ax.set_yticks(range(5), names)
ax.invert_yaxis()
ax.set(xlabel="score (what each word adds)")
ax.set_title("The words are found, the answer is not")
ax.set_xlim(0, 5.2)
ax.legend(loc="center right")
plots.show(fig, alt="Bars of the five first hits, split by word; four of them have nothing but the word invert.")
assert not {"numpy.linalg.inv", "torch.linalg.inv", "torch.inverse"} & set(names)

# %% [markdown]
# And this is what you were after:

# %% tags=["nbval-check-output"]
wanted = next(document for document in docs.documents if document.name == "numpy.linalg.inv")
print(f"{wanted.name}: {wanted.summary}")
assert "invert" not in wanted.text.lower().split()

# %% [markdown]
# `numpy.invert` flips bits. The function that you want stands below the figure. Its text says *inverse* and *inverted*, you said
# *invert*, and for a search by plain words these are three words that have nothing in common.
#
# In section 3 you ask again with better words, and at the end of the lesson with a model.
#
# ## 1. Search by words, by hand
#
# Five small texts and a question:

# %% tags=["nbval-check-output"]
TEXTS = [
    "Return the inverse of a square matrix.",
    "Invert the x axis of the plot.",
    "Multiply a matrix by a matrix, or a matrix by a vector.",
    "Draw a histogram of the values.",
    "Compute the pseudo inverse of a matrix. The matrix may have any shape, square or not.",
]
QUERY = "inverse of a matrix"
STOP = set(STOPWORDS_EN)  # "the", "of" and 31 others, so frequent in English that they are left out


def words_of(text):
    """Return the words of two or more letters, in lower case, without stop words."""
    return [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOP]


counts = [Counter(words_of(text)) for text in TEXTS]
for word in words_of(QUERY):
    print(f"{word:>8}: {[c[word] for c in counts]} times in the five texts")

# %% [markdown]
# Which text should win? Two ideas, both old:
#
# * **How often.** A text that says *matrix* twice is more about matrices than one that says it once.
# * **How rare.** *matrix* stands in more of our texts than *inverse* does. The rarer word tells more.
#
# The second is the **inverse document frequency**, idf: with N texts, of which n hold the word, $\ln(N / n)$. It is 0 for a
# word of every text. The two multiplied and summed over the question's words are called **TF-IDF**:

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
# The last text wins. It is also the longest, and long texts hold more of everything. **BM25** (*best match*, number 25 of a
# series of trials) repairs two things:
#
# $$\text{BM25} = \sum_{\text{words}} \underbrace{\ln\left(1 + \frac{N - n + 0.5}{n + 0.5}\right)}_{\text{how rare}} \cdot
# \underbrace{\frac{f}{f + k_1 \left(1 - b + b\, \ell / \bar\ell\right)}}_{\text{how often}}$$
#
# f is how often the word stands in the text, ℓ how many words the text has, $\bar\ell$ the mean of that. Usual values
# are $k_1$ from 1.2 to 2, here 1.5, and $b = 0.75$. This is the formula of Lucene, an open-source search library (Robertson and
# Zaragoza 2009; Kamphuis et al. 2020 compare eight variants and find no significant difference in how well they search).

# %% [markdown]
# The fraction never exceeds 1, however often the word comes. And in a long text ($\ell > \bar\ell$) each mention is worth
# less. With loops:

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
print("  ".join(f"{score:.2f}" for score in by_hand))
assert max(by_hand) == by_hand[0]

# %% [markdown]
# Now the first text wins: it says the same in fewer words. The course's `Bm25` uses the library bm25s, which computes the
# scores once for all texts and keeps them. `PLAIN` holds the options of this section: words as they are, $k_1 = 1.5$, $b = 0.75$.
# The same numbers:

# %% tags=["nbval-check-output"]
scores = Bm25(TEXTS, **PLAIN).scores([QUERY])[0]
print("  ".join(f"{score:.2f}" for score in scores.tolist()))
torch.testing.assert_close(scores, torch.tensor(by_hand))

# %% [markdown]
# The second factor of BM25, *how often*, as a curve for texts of three lengths. In which text is one mention worth most?

# %%
fig, ax = plots.figure(size=(7.0, 3.0))
f = torch.arange(0, 21)
for relative, colour in ((0.5, plots.BLUE), (1.0, plots.ORANGE), (3.0, plots.GREEN)):
    ax.plot(f, f / (f + 1.5 * (0.25 + 0.75 * relative)), color=colour, label=f"{relative:g} × the mean length")
ax.axhline(1, color=plots.GREY, linestyle=":")
ax.set(xlabel="how often the word stands in the text", ylabel="factor of BM25", xticks=range(0, 21, 5))
ax.set_title("Each mention adds less than the one before")
ax.legend(title="text of")
plots.show(fig, alt="Three curves that rise fast and level off below 1; for long texts they rise more slowly.")

# %% [markdown]
# ### Exercise 12.1 · one word in all texts ●●○ · 10 minutes
#
# The same without loops, for one word and N texts at once: `counts` says how often the word stands in each text, `lengths`
# how many words each text has. $k_1 = 1.5$, $b = 0.75$.


# %% tags=["exercise-12.1"]
def word_scores(counts, lengths):
    """counts: (N,), lengths: (N,), both float -> what the word adds to each text's score, (N,)"""
    ### BEGIN SOLUTION
    N, n = len(counts), (counts > 0).sum()
    rare = torch.log(1 + (N - n + 0.5) / (n + 0.5))
    return rare * counts / (counts + 1.5 * (1 - 0.75 + 0.75 * lengths / lengths.mean()))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.word_scores(word_scores)

# %% [markdown]
# ## 2. Questions with known answers
#
# To compare searches you need many questions of which you know the answer. Nobody has to write them: each entry of the
# documentation has a **summary**, its first sentence, and a **body**, all the rest. The summary is the question, its own
# body the one right answer. (A question that people type looks different; section 10 comes to that.)
#
# The corpus has three splits, and no text has a near-duplicate in another split (section 8 shows why that matters).

# %%
test, validation, train = docs.pairs("test"), docs.pairs("validation"), docs.pairs("train")
order = torch.randperm(len(test), generator=seeded(seed, 12)).tolist()
test = [test[i] for i in order]  # the first 500 are the questions of the test
bodies = [body for _, body in [*test, *validation, *train]]
Q, n_test, n_held = 500, len(test), len(test) + len(validation)
asked = {"validation": [s for s, _ in validation], "test": [s for s, _ in test[:Q]]}
columns = {"validation": slice(n_test, n_held), "test": slice(0, Q)}  # where their bodies stand
right = {"validation": n_test + torch.arange(len(validation)), "test": torch.arange(Q)}  # the same among all bodies

print(
    f"{len(train):,} pairs to train on, {len(validation)} to choose by, {Q} of {n_test} to report, {len(bodies):,} bodies"
)
print(f"\nquestion: {validation[3][0]}\nanswer:   {' '.join(validation[3][1].split())[:150]} …")

# %% [markdown]
# **Train** is for the models' weights. **Validation** is for everything that you choose: settings, weights of a mixture.
# **Test** is for the figures that you report. It is read once, in section 7, when nothing is left to choose.
#
# Each question is asked in two **pools**: find the body among those of the split, or among *all* bodies, those of train too.
# (Those are wrong answers only, so nobody gains by having trained on them.) A figure without its pool says little, so here they
# have names: "validation" and "test" are the small pools, "validation, all" and "test, all" the large ones. BM25 on validation:


# %%
def search_by_words(splits=("validation", "test"), **options):
    """Return BM25's scores in each pool: pool -> (questions, bodies of the pool)."""
    found = {split: Bm25(bodies[columns[split]], **options).scores(asked[split]) for split in splits}
    among_all = Bm25(bodies, **options)  # how rare a word is depends on the pool as well
    return found | {f"{split}, all": among_all.scores(asked[split]) for split in splits}


plain = search_by_words(["validation"], **PLAIN)
for pool, scores in plain.items():
    print(f"{pool:>15}: {scores.shape[0]} questions, {scores.shape[1]:,} bodies")

# %% [markdown]
# ## 3. Rank, MRR, nDCG@10, recall@10
#
# For each question: at which place does its own body stand? That is its **rank**, 1 is best. Three ways to make one number of
# many ranks:
#
# * **MRR**, the *mean reciprocal rank*: the mean of 1/rank. First place counts 1, second 1/2, tenth 1/10.
# * **nDCG@10**, the *normalised discounted cumulative gain*: the mean of $1 / \log_2(1 + \text{rank})$, and 0 beyond place 10. First
#   place counts 1, third 1/2. It is what public comparisons of search report (BEIR, for example), because it can do more:
#   where several texts answer a question, better and worse, their gains add up, and the sum is divided by that of the best order.
# * **recall@10**: the share of the questions whose body is among the first ten.
#
# One thing has to be decided first. Where a question shares no word with its body, BM25 gives 0 to that body and to hundreds
# of others. Which rank is that? In a random order of these texts the body may land on any of their places, each equally
# often. So take the mean over the places, of 1/rank itself. With loops:

# %%
total, gain, within_ten, tied = 0.0, 0.0, 0.0, 0
for i, row in enumerate(plain["validation"].tolist()):
    better = sum(score > row[i] for score in row)
    equal = sum(score == row[i] for score in row)  # itself among them
    places = range(better + 1, better + equal + 1)
    total += sum(1 / place for place in places) / equal
    gain += sum(1 / math.log2(1 + place) for place in places if place <= 10) / equal
    within_ten += sum(place <= 10 for place in places) / equal
    tied += equal > 1
by_loops = [x / len(validation) for x in (total, gain, within_ten)]
print("MRR {:.3f}, nDCG@10 {:.3f}, recall@10 {:.3f}".format(*by_loops))
print(f"{tied / len(validation):.0%} of the bodies share their score with another")

# %% [markdown]
# All questions at once, by the package:

# %%
scores = plain["validation"]
measured = [mrr(scores), ndcg_at(scores, 10), recall_at(scores, 10)]
print("MRR {:.3f}, nDCG@10 {:.3f}, recall@10 {:.3f}".format(*measured))
assert all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(measured, by_loops, strict=True))

# %% [markdown]
# The same. Why the mean of 1/rank, and not one over the middle place? Because the second is another number, and a smaller one. A
# search that gives all texts the same score has learned nothing, and orders them by chance; it must get what chance gets.
#
# ### Exercise 12.2 · reciprocal ranks ●●○ · 12 minutes
#
# The right text of question i is number `right[i]`. Give 1/rank for each question, without a loop over the questions. Texts with equal
# scores stand in a random order, so each of their places is equally likely: return the mean over these places.


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
# The mean hides how different the questions are. How many answers does BM25 put first? Guess, then look:

# %%
rank = ranks(plain["validation"])  # for a picture: among ties the middle place
edges = [1, 2, 4, 11, 101, 1000]
shares = [((a <= rank) & (rank < b)).float().mean().item() for a, b in zip(edges[:-1], edges[1:], strict=True)]
fig, ax = plots.figure(size=(7.0, 2.8))
ax.bar(["1", "2–3", "4–10", "11–100", "beyond"], shares, color=plots.BLUE)
ax.set(xlabel=f"rank of the right body among {len(validation)}", ylabel="share of the questions")
ax.set_title(f"Plain words put {shares[0]:.0%} of the answers first")
plots.show(fig, alt=f"Bars of BM25's ranks: {shares[0]:.0%} at place 1, {shares[-1]:.0%} beyond place 100.")
assert shares[0] > max(shares[1:])

# %% [markdown]
# ### Exercise 12.3 · predict the result ●●○ · 5 minutes
#
# A search that orders 500 texts by chance: what MRR do you expect? (It is more than you may think.)

# %% tags=["exercise-12.3"]
expected_mrr = None
### BEGIN SOLUTION
expected_mrr = sum(1 / r for r in range(1, 501)) / 500
### END SOLUTION

# %% tags=["nbval-check-output"]
check.random_mrr(expected_mrr)

# %% [markdown]
# A search that gives every text the same score gets this too:

# %%
nothing = torch.zeros(500, 500)
chance = sum(1 / r for r in range(1, 501)) / 500
print(f"ordered by chance {chance:.4f}, all scores equal {mrr(nothing):.4f}", end="; ")
print(f"one over the middle place would be {(1 / ranks(nothing)).mean():.4f}")
assert math.isclose(mrr(nothing), chance)

# %% [markdown]
# ### Better words
#
# Before any model: is this the best that words can do? A baseline should be as strong as a specialist would make it, or beating it
# means little. Two things are missing that every search engine has.
#
# * **Stems.** *invert*, *inverts*, *inverted* and *invertible* are four words to a computer. A *stemmer* cuts off English endings by
#   rules (Porter 1980; his later English rules are in the library PyStemmer).
# * **Parts of identifiers.** `clip_grad_norm_` is one word so far. Cut it at `_` and at capitals, and keep the whole as well.
#
# What is compared then:

# %% tags=["nbval-check-output"]
for word in ("inverted", "invertible", "inverse", "clip_grad_norm_", "BCEWithLogitsLoss"):
    print(f"{word:>18}: {', '.join(terms(word))}")
assert terms("inverted") == terms("invertible") != terms("inverse")

# %% [markdown]
# (*inverse* keeps a stem of its own: a stemmer knows endings, not meanings.) How much do they bring, on validation? Guess which of
# the two brings more.

# %%
KINDS_OF_WORDS = {
    "stems": PLAIN | {"stem": True},
    "parts of identifiers": PLAIN | {"split": True},
    "both": PLAIN | {"stem": True, "split": True},
    "both, other k1 and b": {},  # what `Bm25` does if not told otherwise
}
by_kind = {kind: search_by_words(["validation"], **options) for kind, options in KINDS_OF_WORDS.items()}
for pool, before in plain.items():
    own = None if pool == "validation" else right["validation"]
    print(f"\n{pool:>21}  MRR   against plain words (95 %)\n{'plain':>21} {mrr(before, own):.3f}")
    for kind, scores in by_kind.items():
        of = [reciprocal_ranks(s[pool], own) for s in (by_kind[kind], plain)]
        print("{:>21} {:.3f}  {:+.3f} ({:+.3f} to {:+.3f})".format(kind, of[0].mean(), *paired_bootstrap(*of)))
    stems, parts, together, tuned = (mrr(by_kind[kind][pool], own) for kind in KINDS_OF_WORDS)
    assert together > max(stems, parts) and paired_bootstrap(*of)[1] > 0
    assert abs(tuned - together) < (together - mrr(before, own)) / 4

# %% [markdown]
# The interval in brackets is that of section 7: where all of it lies above 0, the difference is more than the luck of these questions.
# Both together bring more than either alone.
#
# The last row has another $k_1$ and $b$, chosen on validation too, from a grid that is stored with the course. It was measured among all
# bodies with their names before them, because that is what the command `nextbert-lite search` searches. Beside better words it changes
# little:

# %%
grid_rows = [row for row in stored_table("12_bm25") if row["words"] == "parts and whole, stems"]
k1s, bs = (sorted({float(row[name]) for row in grid_rows}) for name in ("k1", "b"))
hill = torch.zeros(len(k1s), len(bs))
for row in grid_rows:
    hill[k1s.index(float(row["k1"])), bs.index(float(row["b"]))] = float(row["mrr_named"])
fig, ax = plots.figure(size=(6.0, 3.6))
image = ax.imshow(hill, cmap="cividis", aspect="auto")
for (i, j), value in zip(
    ((i, j) for i in range(len(k1s)) for j in range(len(bs))), hill.flatten().tolist(), strict=True
):
    ax.text(j, i, f"{value:.3f}", ha="center", va="center", color="black" if value > 0.47 else "white", fontsize=9)
ax.set_xticks(range(len(bs)), bs)
ax.set_yticks(range(len(k1s)), k1s)
ax.grid(False)
ax.set(xlabel="b (how much long texts lose)", ylabel="k₁ (how soon repetition saturates)")
ax.set_title("A broad hill: b near 0.9, and k₁ hardly matters")
plots.show(fig, alt="A table of the MRR on validation over k1 and b: highest near k1 0.9 and b 0.9, lowest at b 0.5.")
top = hill.flatten().argmax().item()
print(f"the best: k1 = {k1s[top // len(bs)]}, b = {bs[top % len(bs)]}")

# %% [markdown]
# And the question of the first page, with better words:

# %%
better_words = Bm25(documents)
first_hits = better_words.scores([question])[0].topk(3).indices.tolist()
for i in first_hits:
    adds = ", ".join(f"{word} {part:.1f}" for word, part in better_words.words(question, i).items())
    print(f"{docs.documents[i].name:>25}: {adds}")
assert docs.documents[first_hits[0]].name in ("torch.linalg.inv", "numpy.linalg.inv")

# %% [markdown]
# Found, though the text says *inverse*: somewhere in it stands *inverted* or *invertible*. So a part of what looks like understanding is
# *endings*. From here on **BM25** means the better one; the plain one stays in the
# tables, because it is what many papers and libraries compare with.

# %%
bm25 = by_kind["both, other k1 and b"] | search_by_words(["test"])  # measured in section 7
found = {"BM25, plain": plain | search_by_words(["test"], **PLAIN), "BM25": bm25}


def on_validation(name):
    """Return the MRR of a search in the small pool of validation."""
    return mrr(found[name]["validation"])


# %% [markdown]
# ## 4. A bag of vectors
#
# BM25 knows that *inverse* and *inverses* are the same, and nothing else. The simplest thing that can learn more: give each
# token a vector, and take the mean over a text. No attention, no order, each token's vector the same in every text: a
# **static bag** (Iyyer et al. 2015; Arora et al. 2017; what libraries call *static embeddings* today). Rare tokens should count more, as in BM25, so each token has a weight too, which starts at its idf and is learned:
# $$z = \frac{\sum_t w_t\, e_t}{\sum_t w_t}$$
#
# $e_t$ is the vector of token t, $w_t$ its weight, z the vector of the text.

# %% [markdown]
# It is trained by the loss of lesson 09: a summary has to find its own body among those of the batch. This is the baseline that an
# encoder has to beat to be worth its price.


# %%
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
# C = 192 is the width of `docs-small`, so the comparison is between vectors of the same size. Ten epochs, settings chosen on
# validation:

# %%
T = 128  # tokens of a text that the models read; docs-small has no positions for more


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


bag = train_bag(train)

# %% [markdown]
# To search by vectors: one vector of length 1 for each text, and the cosine of question and body. As in lesson 10, texts of
# like length go through a model together:


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

    keys: the vectors of all bodies; without them only the bodies of validation and test are encoded, for the small pools.
    """
    if keys is None:
        keys = vectors_of(model, bodies[:n_held])
    queries = {split: vectors_of(model, questions) for split, questions in asked.items()}
    scores = {split: queries[split] @ keys[columns[split]].T for split in asked}
    return scores | ({f"{s}, all": q @ keys.T for s, q in queries.items()} if len(keys) == len(bodies) else {})


# %% [markdown]
# The bag reads the first T tokens of a body, as the models below do, which have no positions for more. But a bag has no such limit:
# it can read the whole body, and so does BM25. Both, on validation:


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
for name in found:
    print(f"{name:>17}: MRR {on_validation(name):.3f} on validation")
assert on_validation("static bag") < on_validation("static bag, whole") < on_validation("BM25")

# %% [markdown]
# Both are below BM25, but not by much for a mean of token vectors that knows nothing of order. Reading on helps the bag on these
# questions; section 7 asks whether that holds for others.
#
# What has it learned? The tokens nearest to a few of ours, by the cosine of their vectors. (Some are pieces of words. A word can
# come twice, with the space before it and without.)

# %%
table = F.normalize(bag.vectors.weight.detach().cpu(), dim=-1)
for word in ("inverse", "color", "random", "file"):
    i = tokenizer.encode(" " + word)[1]
    near = (table @ table[i]).topk(6).indices[1:]
    print(f"{tokenizer.tokens([i])[0].strip():>8}: {', '.join(t.strip() for t in tokenizer.tokens(near))}")

# %% [markdown]
# ## 5. The masked model, and your own training
#
# `docs-small` was pretrained on the training split's texts: it fills gaps (lesson 08). Lesson 10 has shown what the mean of its
# vectors is worth for search. Here it is among more bodies:

# %%
device = pick_device()
found["masked model"] = search_by(SentenceEncoder(masked_model.encoder.to(device)))
start_mrr = on_validation("masked model")
print(f"masked model, mean of its vectors: MRR {start_mrr:.3f} on validation")
assert start_mrr < on_validation("static bag")

# %% [markdown]
# Far below a bag. Now train it for search, with what lessons 09 and 10 have taught: pairs of summary and body, the other
# bodies of the batch as wrong answers, both directions, temperature 0.05. Texts are cut at 40 tokens *in training*
# only, and dropout is off: both save time.
#
# You have a minute. How much can it gain? Guess a factor.

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


yours, history = train_encoder()

# %% [markdown]
# And the search with it, on the same questions as before:

# %%
found["your encoder"] = search_by(yours)
after = on_validation("your encoder")
print(f"{STEPS} steps: MRR {start_mrr:.3f} → {after:.3f} on validation, {after / start_mrr:.2f} times as much")
assert after > 1.5 * start_mrr

# %% [markdown]
# The loss of each step. The dotted line is what a model pays that guesses among the bodies of the batch:

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
# The step down comes where the second epoch begins. From there on every pair has been seen once, and the loss says less about
# new texts.
#
# A large gain for so few steps. How large it looks depends on how many texts there are to choose from; among 500 test bodies section 7
# has it.
#
# A lesson has no time for more, so the course ships an encoder, `docs-contrastive`, that was trained from the same start for much
# longer and on other kinds of pairs too (`nextbert-lite pairs --data docs` makes such a one). Its card says how:

# %% tags=["nbval-check-output"]
card = read_card("docs-contrastive")
training = card["training"]
print(f"{training['steps']:,} steps of {training['batch']} pairs: {card['corpus']['pairs']}")

# %% [markdown]
# Besides summary and body, it was shown spans of a text with what surrounds them, and the names of the training split's entries
# with their texts. The package's `embed` gives its vectors in one line; it is what you use outside of this lesson:

# %%
shipped, _ = load("docs-contrastive")
two = ["Compute the inverse of a matrix.", "Draw a histogram."]
torch.testing.assert_close(embed(two, "docs-contrastive"), vectors_of(shipped, two), rtol=1e-4, atol=1e-4)

shipped = shipped.to(device)
body_vectors = vectors_of(shipped, bodies)
found["shipped encoder"] = search_by(shipped, body_vectors)
for name in found:
    print(f"{name:>17}: MRR {on_validation(name):.3f} on validation")
assert after < on_validation("static bag")

# %% [markdown]
# Your minute is not enough to reach the bag, which took less time. Keep that in mind when somebody shows you an encoder and no bag.
#
# (An encoder can read whole bodies as well: in windows of T tokens, and the mean of their vectors; `embed(…, long="windows")` does
# that. It takes longer, and is left out here.)
#
# ## 6. Two searches together
#
# Where BM25 and a model fail on different questions, a mixture may beat both. But how do you add a BM25 score and a cosine? A cosine
# is at most 1. BM25 has no such limit, and its scale changes from question to question: more words, larger scores.
#
# Make them comparable. For each question, over all texts: subtract the mean, divide by the standard deviation. What is left is a
# **z-score**: how many deviations a text stands above the average of this question.

# %%
row = bm25["validation"][0]  # one question's scores
z = (row - row.mean()) / row.std(correction=0)
torch.testing.assert_close(z, z_scores(bm25["validation"])[0])
print(f"BM25 of the first question: {row.min():.1f} to {row.max():.1f}; as z-scores {z.min():.1f} to {z.max():.1f}")

# %% [markdown]
# Then mix with a weight w between 0 and 1:
#
# $$\text{score} = w \cdot z(\text{BM25}) + (1 - w) \cdot z(\text{cosine})$$
#
# Which w? Try 21 of them on validation and keep the best (the package's `best_weight` does that). And validation in *which pool*?
# Among ten times as many texts there are ten times as many wrong answers with a high cosine, and another weight may be the best. So
# choose it in each pool for that pool:

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

# %%
fig, axes = plots.figure(1, 2, size=(9.5, 3.6))
weights = {}
for ax, size, pool in zip(axes, ("", ", all"), (f"{len(validation)} bodies", f"{len(bodies):,} bodies"), strict=True):
    for number, name in enumerate(models):
        if size in curves[name]:
            weights[name + size] = grid[curves[name][size].index(max(curves[name][size]))]
            ax.plot(grid, curves[name][size], color=f"C{number}", label=name)
            ax.plot(weights[name + size], max(curves[name][size]), "o", color=f"C{number}")
    ax.set(xlabel="w (0: only the model, 1: only BM25)", ylabel=f"MRR on validation among {pool}")
axes[0].legend(title="BM25 and", fontsize=8)
fig.suptitle("The best weight depends on the model and on the pool")
plots.show(
    fig,
    alt="Curves of the MRR over the weight of BM25, in the small pool and in the large one, with their tops marked.",
)
for name, w in weights.items():
    print(f"BM25 + {name:>22}: w = {w:.2f}")
assert weights["static bag, all"] > weights["static bag"]

# %% [markdown]
# The bag needs more of BM25 in the large pool. Careful with the sentence "the best of 21": the maximum is chosen on these questions, so
# on these questions it flatters. What it is worth shows on others.
#
# A second recipe needs no weight at all. **Reciprocal rank fusion** forgets the scores and adds up ranks (Cormack et al. 2009,
# with k = 60):
# $$\text{score} = \frac{1}{k + \text{rank by BM25}} + \frac{1}{k + \text{rank by the model}}$$
#
# Two mixtures more. One takes three searches in two steps: first the bag and the shipped encoder, then BM25 and what came out. The
# other joins the encoder with the *plain* BM25, so that you see what the better words are worth beside a model.

# %%
both, _ = join(found["static bag, whole"], found["shipped encoder"])
mixtures["BM25 + bag + shipped"], _ = join(bm25, both)
mixtures["BM25, plain + shipped"], _ = join(found["BM25, plain"], found["shipped encoder"])
for name in models:
    pools = [pool for pool in found[name] if pool != "validation, all"]  # to choose by, the small pool is enough
    mixtures[f"RRF: BM25, {name}"] = {s: reciprocal_rank_fusion(bm25[s], found[name][s]) for s in pools}
for name, scores in mixtures.items():
    large = (
        f", {mrr(scores['validation, all'], right['validation']):.3f} among all" if "validation, all" in scores else ""
    )
    print(f"{name:>28}: MRR {mrr(scores['validation']):.3f} on validation{large}")

# %% [markdown]
# Which mixtures are worse than BM25 by itself? And which is the best, to be tested below?

# %%
alone = on_validation("BM25")
hurt = [name for name, scores in mixtures.items() if mrr(scores["validation"]) < alone]
print(f"BM25 alone: {alone:.3f}. Below it: {', '.join(hurt) or 'none'}")
best_mixture = max(mixtures, key=lambda name: mrr(mixtures[name]["validation"]))
print(f"The best on validation: {best_mixture}")
assert "RRF: BM25, masked model" in hurt

# %% [markdown]
# RRF gives both searches the same say. The masked model is far weaker than BM25, and the mixture falls far below BM25 alone; a
# chosen weight gives it a small say. RRF also forgets how far apart two scores are; whether that is what costs it is not measured
# here. The mixture that goes into the test as *the best* is chosen now, on validation: the one that is printed above.
#
# ### Exercise 12.4 · find the bug ●●○ · 10 minutes
#
# A colleague reports the MRR of a fusion. Two things are wrong with this code; the weights tried are right.
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
# Text i answers question i. Write it right; the functions of this section may help.


# %% tags=["exercise-12.4"]
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
# 500 questions are a sample. Other 500 would give another figure. How large a difference between two searches is more than chance?
#
# The **paired bootstrap** asks the sample itself. Take for each question the difference of the two searches in
# 1/rank. Draw 500 questions from the 500, *with* repetition, and take the mean difference; do that thousands of times. The middle
# 95 % of these means are the interval. Where all of it lies above 0, the first search is the better one, and not by the luck
# of these 500 questions (at a level of 95 %). Of nothing else: another seed of a training, another pool, another choice among
# many mixtures are not in it.

# %% [markdown]
# By hand, for the bag and BM25 on the 684 validation questions (the test is still to wait):

# %%
a, b = (reciprocal_ranks(found[name]["validation"]) for name in ("static bag", "BM25"))
drawn = torch.randint(len(a), (2000, len(a)), generator=seeded(seed, 7))  # 2,000 samples of the questions
means = (a - b)[drawn].mean(1)
low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
print(f"bag - BM25 on validation: {(a - b).mean():+.3f}, 95 % from {low:+.3f} to {high:+.3f}")
mean, package_low, package_high = paired_bootstrap(a, b)
print(f"the package's, with 10,000: {mean:+.3f}, 95 % from {package_low:+.3f} to {package_high:+.3f}")
assert abs(low - package_low) < 0.005 and abs(high - package_high) < 0.005

# %% [markdown]
# *Paired* matters: both searches get the same questions, easy and hard ones, and only the difference counts.
#
# Now everything is chosen. The test, with all searches at once:

# %%
everyone = found | mixtures
reciprocal = {
    pool: {name: reciprocal_ranks(s[pool], right["test"]) for name, s in everyone.items() if pool in s}
    for pool in ("test", "test, all")
}


def compare(a, b, pool="test", questions=slice(None)):
    """Return MRR of a - MRR of b with its interval, and as words."""
    mean, low, high = paired_bootstrap(*(reciprocal[pool][name][questions] for name in (a, b)))
    return mean, low, high, f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def show_table(pool):
    """Print what each search gets on the test questions in a pool."""
    n = everyone["BM25"][pool].shape[1]
    print(f"{f'among {n:,}':>28}   MRR  nDCG@10  recall@10  MRR - BM25 (95 %)")
    chances = mrr(torch.zeros(1, n), torch.tensor([0])), ndcg_at(torch.zeros(1, n), 10, torch.tensor([0])), 10 / n
    print("{:>28} {:.3f}    {:.3f}      {:.3f}".format("ordered by chance", *chances))
    for name in reciprocal[pool]:
        own = everyone[name][pool], 10, right["test"]
        against = "" if name == "BM25" else compare(name, "BM25", pool)[3]
        print(
            f"{name:>28} {reciprocal[pool][name].mean():.3f}    {ndcg_at(*own):.3f}      {recall_at(*own):.3f}  {against}"
        )


show_table("test")

# %% [markdown]
# And in the large pool: the same questions, and *all* bodies to choose from, more than ten times as many. How much is lost? Guess.

# %%
show_table("test, all")
assert all(reciprocal["test, all"][name].mean() < reciprocal["test"][name].mean() for name in reciprocal["test, all"])

# %% [markdown]
# (For the masked model and your encoder the vectors of all bodies would cost another minute.)
#
# The last columns as a picture. A line that does not touch 0 is a difference beyond the luck of the sample:

# %%
fig, axes = plots.figure(1, 2, size=(10.0, 5.0), sharey=True)
listed = sorted((name for name in everyone if name != "BM25"), key=lambda name: reciprocal["test"][name].mean())
for ax, pool in zip(axes, reciprocal, strict=True):
    for y, name in enumerate(listed):
        if name in reciprocal[pool]:
            mean, low, high, _ = compare(name, "BM25", pool)
            colour = plots.BLUE if low > 0 else plots.RED if high < 0 else plots.GREY
            ax.plot([low, high], [y, y], color=colour)
            ax.plot(mean, y, "o", color=colour)
    ax.axvline(0, color="black", linewidth=1)
    ax.set(xlabel=f"MRR - MRR of BM25, among {everyone['BM25'][pool].shape[1]:,}")
axes[0].set_yticks(range(len(listed)), listed)
fig.suptitle("The best mixture is above BM25, and the plain BM25 is far below it (95 % intervals; grey: undecided)")
plots.show(
    fig, alt="Intervals of each search's MRR against BM25 in the two pools: mixtures with trained models lie highest."
)

# %% [markdown]
# (There are many lines, and at 95 % one in twenty would stray by chance: look at those far from 0.)
#
# What we set out to show, as asserts. Better words lift BM25 in both pools. Alone, neither a bag nor your encoder reaches it. The mixture
# that was chosen on validation is above it:

# %%
for pool in reciprocal:
    print(f"{'BM25 against the plain one, ' + pool:>40}: {compare('BM25', 'BM25, plain', pool)[3]}")
    assert compare("BM25", "BM25, plain", pool)[1] > 0
    for name in ("static bag", "static bag, whole"):
        assert compare(name, "BM25", pool)[2] < 0  # alone: behind it
    print(f"{best_mixture + ' against BM25, ' + pool:>40}: {compare(best_mixture, 'BM25', pool)[3]}")
assert compare(best_mixture, "BM25")[1] > 0
for name in ("masked model", "your encoder"):
    assert compare(name, "BM25")[2] < 0

# %% [markdown]
# And where does the shipped encoder stand, alone and in a mixture? The interval answers, for the encoder that you have:

# %%
VERDICT = {(True, False): "ahead", (False, True): "behind", (False, False): "undecided"}
questions_on_it = [
    ("shipped encoder", "BM25"),
    ("shipped encoder", "static bag"),
    ("shipped encoder", "static bag, whole"),
    ("BM25 + shipped encoder", "BM25"),
    ("BM25 + shipped encoder", "BM25 + static bag, whole"),
    ("BM25, plain + shipped", "BM25"),
]
for pool in reciprocal:
    for a, b in questions_on_it:
        mean, low, high, words = compare(a, b, pool)
        print(f"{pool:>9}: {a:>22} against {b:<24} {words} {VERDICT[low > 0, high < 0]}")
assert compare("BM25 + shipped encoder", "BM25")[1] > 0

# %% [markdown]
# Three things to read off. *Alone* an encoder of this size has to be compared with a good BM25 and with a bag, or it looks better than
# it is. *Mixed*, it finds answers that words do not find. And whoever joins it with plain words only should look at the last line of
# each pool: BM25 by itself, with better words, may do as well.
#
# What was the choice of a weight for each pool worth? The large pool once with the small pool's weight, once with its own:

# %%
in_large = reciprocal["test, all"]
for name in models:
    if name + ", all" in weights:
        parts = bm25["test, all"], found[name]["test, all"]
        own, borrowed = (reciprocal_ranks(fuse(*parts, weights[key]), right["test"]) for key in (name + ", all", name))
        gain, low, high = paired_bootstrap(own, borrowed)
        changed = f"w = {weights[name]:.2f} → {weights[name + ', all']:.2f}"
        print(f"BM25 + {name:>17}: {changed}  {gain:+.3f} ({low:+.3f} to {high:+.3f})")
        print(
            f"{'against BM25':>22}: {'{:+.3f} → {:+.3f}'.format(*(m.mean() - in_large['BM25'].mean() for m in (borrowed, own)))}"
        )

# %% [markdown]
# The first number is the gain by the pool's own weight. The two below are the mixture against BM25, with the borrowed weight and with its
# own: a mixture that seems to add nothing, or to harm, may have been given the wrong weight.
#
# Does reading whole bodies help the bag on the test as it did on validation?

# %%
of = [reciprocal_ranks(found[name]["validation"]) for name in ("static bag, whole", "static bag")]
print("whole against first {} tokens, validation: {:+.3f} ({:+.3f} to {:+.3f})".format(T, *paired_bootstrap(*of)))
print(f"{'test':>40}: {compare('static bag, whole', 'static bag')[3]}")

# %% [markdown]
# Compare the two lines. A figure from one split alone would have told you more than is known.
#
# What your minute of training has gained over the masked model, and the rows for the stored table:

# %%
results_search = []
for name, scores in everyone.items():
    row = {"seed": seed, "search": name, "encoder": card["made"]}
    for key in ("test", "test, all"):
        if key in scores:
            size = "500" if key == "test" else "all"
            row |= {
                f"mrr_{size}": mrr(scores[key], right["test"]),
                f"ndcg_{size}": ndcg_at(scores[key], 10, right["test"]),
            }
            row[f"recall_{size}"] = recall_at(scores[key], 10, right["test"])
    results_search.append(row)
live = {row["search"]: row for row in results_search}
ratio = live["your encoder"]["mrr_500"] / live["masked model"]["mrr_500"]
print(f"your encoder: {ratio:.2f} times the MRR of the masked model, among {Q}")
assert ratio > 1.3

# %% [markdown]
# One seed decides the sample of questions, the order of the batches and the bag's first vectors. The stored table has more than one.
# Their samples overlap (500 of the same 692), and BM25, the masked model and the shipped encoder are the same in all of them. So
# the spread is smaller than that of new questions and new trainings would be:

# %% tags=["nbval-check-output"]
stored = stored_table("12_search")
seeds = sorted({row["seed"] for row in stored})
print(f"\nmean (lowest to highest) of {len(seeds)} seeds\n{'':>28}  MRR among 500           MRR among all")
for name in dict.fromkeys(row["search"] for row in stored):
    columns_of = [[float(r[c]) for r in stored if r["search"] == name and r[c]] for c in ("mrr_500", "mrr_all")]
    shown = [f"{sum(v) / len(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in columns_of if v]
    print(f"{name:>28}  {'   '.join(shown)}")

# %% [markdown]
# For each seed: what your minute brings over the masked model. And does this run agree with the table? (The rows with the shipped
# encoder are compared only where the table was made with the encoder that you have.)

# %%
by_seed = {(row["seed"], row["search"]): float(row["mrr_500"]) for row in stored}
for s in seeds:
    print(f"seed {s}: your encoder / masked model: {by_seed[s, 'your encoder'] / by_seed[s, 'masked model']:.2f}")
same_encoder = {row["encoder"] for row in stored} == {card["made"]}
comparable = [name for name in live if (str(seed), name) in by_seed and (same_encoder or "shipped" not in name)]
apart = max((abs(by_seed[str(seed), name] - live[name]["mrr_500"]) for name in comparable), default=0.0)
print(f"the largest difference between this run and the stored row of its seed: {apart:.2f}")
assert apart < 0.03

# %% [markdown]
# ## 8. What a careless split would have told you
#
# Documentation repeats itself: the same sentences stand under many names. The corpus of this course puts texts that are nearly
# the same into the *same* split. What if you had not known, and had drawn the test at random, as one does with a new data set?

# %%
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
    (b for _, b in careless_train), key=lambda b: len(words_of_it & (w := set(words_of(b)))) / len(words_of_it | w)
)
name_of = {d.body: d.name for d in docs.documents}
for kind, body in (("test", careless_test[i][1]), ("training", like)):
    print(f"{kind:>8}: {name_of[body]}: {' '.join(body.split())[:130]} …")

# %% [markdown]
# (Near means: give each text a vector of its words' TF-IDF, section 1; two texts are near if the cosine of these vectors is more
# than 0.6. The corpus was grouped with the word weights of all its texts,
# here they come from fewer, so one at the border may show up.)
#
# Train the same bag on the careless split, with the same settings, and ask 500 of *its* test questions. BM25 learns nothing
# from training texts, so it is our measure of how hard the questions are. What do you expect of bag minus BM25?

# %%
summaries, own_bodies = map(list, zip(*careless_test, strict=True))
careless_bag = train_bag(careless_train)
careless = {"BM25": Bm25(own_bodies).scores(summaries)}
careless["static bag"] = vectors_of(careless_bag, summaries) @ vectors_of(careless_bag, own_bodies).T
careless_reciprocal = {name: reciprocal_ranks(scores) for name, scores in careless.items()}
believed = {}
for split, values in (("by groups", reciprocal["test"]), ("careless", careless_reciprocal)):
    believed[split] = paired_bootstrap(values["static bag"], values["BM25"])
    mean, low, high = believed[split]
    print(f"{split:>9}: BM25 {values['BM25'].mean():.3f}, bag {values['static bag'].mean():.3f}, ", end="")
    print(f"bag - BM25 {mean:+.3f} ({low:+.3f} to {high:+.3f})")

# %% [markdown]
# Where does the difference come from? The same questions, split by whether their body has a near-duplicate in training:

# %%
flags = torch.tensor(near["careless"])
fig, ax = plots.figure(size=(7.0, 3.0))
kinds = {"no near-duplicate\nin training": ~flags, "near-duplicate\nin training": flags}
advantage = {}
for x, (kind, chosen) in enumerate(kinds.items()):
    values = {name: v[chosen] for name, v in careless_reciprocal.items()}
    advantage[kind] = paired_bootstrap(values["static bag"], values["BM25"])
    for shift, (name, v) in zip((-0.18, 0.18), values.items(), strict=True):
        ax.bar(x + shift, v.mean(), width=0.34, color=plots.GREY if name == "BM25" else plots.BLUE)
        ax.text(x + shift, v.mean() + 0.01, f"{v.mean():.2f}", ha="center")
ax.set_xticks(range(2), [f"{kind}\n({int(chosen.sum())} questions)" for kind, chosen in kinds.items()])
ax.set(ylabel="MRR among 500", ylim=(0, 1))
ax.legend(ax.patches[:2], list(careless_reciprocal), loc="upper left", ncols=2)
ax.set_title("The careless lead lies on bodies with a near-duplicate in training")
plots.show(fig, alt="Two pairs of bars, BM25 and bag, for questions without and with a near-duplicate in training.")

# %% [markdown]
# The differences with their intervals:

# %%
for kind, (mean, low, high) in advantage.items():
    print(f"{' '.join(kind.split()):>30}: bag - BM25 {mean:+.3f} ({low:+.3f} to {high:+.3f})")
(clean, *_), (flattered, *_) = advantage.values()
assert flattered > clean and believed["careless"][0] > believed["by groups"][0]

# %% [markdown]
# The same model, the same settings, and against BM25 the bag looks far better than it is on new texts. And look where that comes
# from: the questions whose body has a near-duplicate in training. There a model need not understand, it can remember.
# (The two kinds of questions may differ in other ways too; but without a near-duplicate the advantage is smaller.)
#
# Whoever reports the careless figure does not lie, and is wrong about what happens on new texts. Before you believe a table, ask how
# the split was made.
#
# ## 9. Where each fails
#
# A mean over questions hides which ones. The first suspicion: BM25 needs shared words. For each test question, the share of its words
# that stand in its body:


# %%
def shared(question, body):
    """Return the share of the question's words that the body has."""
    asked_words = set(words_of(question)) or {""}
    return len(asked_words & set(words_of(body))) / len(asked_words)


overlap = torch.tensor([shared(s, b) for s, b in test[:Q]])
body_tokens = torch.tensor([len(row) for row in tokenizer.encode_batch([b for _, b in test[:Q]])])
KINDS = {
    "under 1/3 of the words": overlap < 1 / 3,
    "1/3 to 2/3": (overlap >= 1 / 3) & (overlap < 2 / 3),
    "2/3 and more": overlap >= 2 / 3,
}
shown = ["BM25, plain", "BM25", "static bag", "shipped encoder", best_mixture]

# %% [markdown]
# Five searches, three kinds of questions. Which search falls furthest from right to left? (The groups are made of what plain BM25 sees,
# so it *must* fall far. Look at the others.)

# %%
fig, ax = plots.figure(size=(8.0, 3.4))
for number, name in enumerate(shown):
    values = [reciprocal["test"][name][chosen] for chosen in KINDS.values()]
    errors = [1.96 * v.std() / len(v) ** 0.5 for v in values]
    x = [k + 0.17 * number - 0.34 for k in range(3)]
    ax.bar(x, [v.mean() for v in values], width=0.15, yerr=errors, label=name, error_kw={"linewidth": 1})
ax.set_xticks(range(3), [f"{kind}\n({int(chosen.sum())} questions)" for kind, chosen in KINDS.items()])
ax.set(xlabel="words of the question that stand in the body", ylabel="MRR among 500, ± 95 %", ylim=(0, 1))
ax.set_title("With few shared words every search does worse")
ax.legend(fontsize=8)
plots.show(fig, alt="Bars by shared words: with few, every search falls, those by words furthest.")

# %% [markdown]
# And the difference between encoder and BM25, at both ends:

# %%
few, many = KINDS["under 1/3 of the words"], KINDS["2/3 and more"]
for kind, chosen in (("few shared words", few), ("many", many)):
    for name in ("shipped encoder", best_mixture):
        print(f"{kind:>16}: {name} - BM25 {compare(name, 'BM25', 'test', chosen)[3]}")
drop = {name: (reciprocal["test"][name][many].mean() - reciprocal["test"][name][few].mean()).item() for name in shown}
assert min(drop.values()) > 0 and max(drop, key=drop.get) == "BM25, plain"
assert drop["BM25"] < drop["BM25, plain"]  # stems and parts find some of the words that plain BM25 misses

# %% [markdown]
# By length of the body, and by library. (T tokens is what the models read of a body. BM25 reads all of it.)

# %%
library_of = {d.body: d.library for d in docs.documents}
libraries = [library_of[b] for _, b in test[:Q]]
groups = {"bodies up to 64 tokens": body_tokens <= 64, f"more than {T}": body_tokens > T}
groups |= {name: torch.tensor([lib == name for lib in libraries]) for name in sorted(set(libraries))}
print(f"{'':>22}  {'questions':>9}  {'  '.join(shown)}")
for kind, chosen in groups.items():
    values = [f"{reciprocal['test'][name][chosen].mean():.2f}".rjust(len(name)) for name in shown]
    print(f"{kind:>22}  {int(chosen.sum()):>9}  {'  '.join(values)}")
short, long = (reciprocal["test"]["BM25"][chosen].mean() for chosen in list(groups.values())[:2])
assert short < long

# %% [markdown]
# Read the smaller groups with care: the fewer questions, the more is chance. (Bodies of 65 to 128 tokens are in neither of the
# first two lines.) The pattern to see is in these two: BM25 does far worse on short bodies. A likely reason is that a short body
# has few words to match.
#
# ## 10. In your own words
#
# Summaries are written by the author of the body, often with the same words. You do not know these words; that is why you search. Twelve
# questions as somebody would type them, written for this lesson and not taken from the corpus, and for each the names that answer
# it. (Some of these names are not among the texts searched here: an entry needs a body, and a repeated summary or body was kept
# once. The cell after the next prints how many are.)

# %%
OWN_WORDS = {
    "how do I invert a matrix": ["numpy.linalg.inv", "torch.linalg.inv", "numpy.linalg.pinv", "torch.linalg.inv_ex"],
    "draw a histogram": ["matplotlib.axes.Axes.hist", "matplotlib.pyplot.hist"],
    "split a string at commas": ["str.split", "str.rsplit", "re.split", "numpy.char.split", "numpy.strings.split"],
    "make random numbers reproducible": ["torch.manual_seed", "random.Random.seed", "numpy.random.seed"],
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
# The weight is that of the large pool. (The command's own, `WEIGHT` in `nextbert_lite/use/search.py`, was chosen in the same way, with
# bodies read in windows and names before them.) A document's vector is here the mean of its summary's and its body's, which are both known, so the index is made in seconds. BM25
# reads the name as well.

# %%
by_body = {b: v for b, v in zip(bodies, body_vectors, strict=True)}
searched = [d for d in docs.documents if d.body in by_body]
summary_vectors = vectors_of(shipped, [d.summary or d.body for d in searched])
index = SearchIndex(
    searched,
    (shipped, tokenizer),
    weight=weights["shipped encoder, all"],
    vectors=F.normalize(summary_vectors + torch.stack([by_body[d.body] for d in searched]), dim=-1),
)
names = [d.name for d in searched]
relevant = torch.tensor([[name in right for name in names] for right in OWN_WORDS.values()])
print(f"{len(names):,} documents; right answers among them: {relevant.sum(1).tolist()}")
assert relevant.any(1).all()

# %% [markdown]
# Four searches, and at which place the first right answer stands (among equal scores the place to expect):

# %%
questions = list(OWN_WORDS)
cosine = embed(questions, (shipped, tokenizer)) @ index.vectors.T
own = {"plain": Bm25([f"{d.name}\n{d.text}" for d in searched], **PLAIN).scores(questions)}
own |= {"BM25": index.bm25.scores(questions), "encoder": cosine}
own["both"] = fuse(own["BM25"], own["encoder"], index.weight)
place = {}
for name, s in own.items():
    best = s.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)  # the best score of a right answer, (12, 1)
    tied = (s == best) & ~relevant
    place[name] = 1 + (s > best).sum(1) + tied.sum(1) / (1 + ((s == best) & relevant).sum(1))  # expected, among ties
print(f"{'place of the first right answer':>46}  {'  '.join(own)}   first hit of both")
for i, text in enumerate(questions):
    places = "  ".join(f"{place[name][i]:>{len(name)}.0f}" for name in own)
    print(f"{text:>46}  {places}   {names[int(own['both'][i].argmax())]}")

# %% [markdown]
# ### Exercise 12.5 · several right answers ●●○ · 7 minutes
#
# These questions have more than one right answer. Which share of the questions has at least one right text among the first k?


# %% tags=["exercise-12.5"]
def hits_at(scores, relevant, k):
    """scores: (Q, N), relevant: (Q, N), bool, True = a right answer -> the share of answered questions, a number"""
    ### BEGIN SOLUTION
    first = scores.topk(k, dim=1).indices  # (Q, k)
    return relevant.gather(1, first).any(1).float().mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.hits_at(hits_at)

# %% [markdown]
# With k = 10, and nDCG@10, in which every right answer of a question counts:

# %%
answered = {name: int((p <= 10).sum()) for name, p in place.items()}
for name, number in answered.items():
    gained = ndcg_at(own[name], 10, grades=relevant.float())  # with all right answers of a question
    print(f"{name:>8}: {number} of {len(questions)} have a right answer among the first ten; nDCG@10 {gained:.2f}")

# %% [markdown]
# Twelve questions are an anecdote, not a measurement: one more or less is chance. But they show what no table shows. Look at the first
# hits, at those that are wrong too, and ask what each search took the question for.
#
# ## 11. The search box
#
# The hits of the first question, with both scores and the words that brought them:

# %%
hits = index.search(question, k=5)
print(hits_text(hits))

# %% [markdown]
# And as a box. Type a question and press Enter. Words of your question are set in bold where a summary has them.

# %%
from IPython.display import display

if "TQDM_DISABLE" in os.environ:  # a stored page cannot hold a live box: show one answer
    display({"text/html": hits_html(index.search("draw a histogram", 3)), "text/plain": "Three hits."}, raw=True)
else:
    display(search_box(index))

# %% [markdown]
# The same outside of a notebook, over all documents, in two ways:
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
# The first search makes an index of all documents, which takes a minute or two, and keeps it; it is made again when your
# packages change.
#
# ## What to remember
#
# * **BM25** adds up rare words, with saturation and a correction for length. It is the baseline of every table on search, and worth
#   its care: **stems** and **parts of identifiers** bring more than its two constants. A trained **static bag** is the second baseline.
# * **MRR** is the mean of 1/rank, **nDCG@k** discounts by a logarithm, **recall@k** is the share among the first k. Among ties
#   take the mean over their orders, so that a search that knows nothing gets what chance gets. Say among how many texts.
# * Fuse by **z-scores per question** with a weight chosen **on validation, in a pool of the size that you search**; report on the
#   test, with a paired interval.
# * **Split by groups of near-duplicates.** On a random split a model can look good by remembering.
# * A minute of contrastive training lifts a masked model far, and leaves it behind a bag and behind BM25. In a mixture with BM25 a
#   longer trained encoder is worth something even so.

# %% [markdown]
# **What this scale cannot show.** A small encoder, four libraries, questions written by the answer's author. Where large
# encoders trained on millions of real questions stand against BM25 is measured elsewhere. In BEIR (Thakur et al. 2021) BM25 was
# ahead of many of them on texts unlike their training data. Since then that has turned round: E5 (Wang et al. 2022) reports to be the
# first model to beat BM25 on BEIR without labelled data.
#
# **An open problem.** One vector for a text of any length, compared by one cosine: for every width there are combinations of
# relevant texts that no set of such vectors can return (Weller et al. 2025). Search by many vectors a text, or by words *and* vectors
# as here, is an answer that costs memory or a weight to tune; nobody knows the best one.
#
# **Where this comes from**
#
# * Stephen Robertson and Hugo Zaragoza, *The Probabilistic Relevance Framework: BM25 and Beyond*, 2009; Chris Kamphuis et al.,
#   *Which BM25 Do You Mean? A Large-Scale Reproducibility Study of Scoring Variants*, ECIR 2020. The library:
#   [bm25s](https://github.com/xhluca/bm25s), Xing Han Lù, 2024, [arXiv:2407.03618](https://arxiv.org/abs/2407.03618).
# * Gordon Cormack, Charles Clarke and Stefan Büttcher, *Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods*,
#   SIGIR 2009.
# * Bradley Efron and Robert Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13.
# * Frank McSherry and Marc Najork, *Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores*,
#   ECIR 2008; Martin Porter, *An algorithm for suffix stripping*, 1980.
# * Mohit Iyyer et al., *Deep Unordered Composition Rivals Syntactic Methods for Text Classification*, ACL 2015; Sanjeev Arora et al., *A
#   Simple but Tough-to-Beat Baseline for Sentence Embeddings*, ICLR 2017.
# * Liang Wang et al., *Text Embeddings by Weakly-Supervised Contrastive Pre-training* (E5), 2022,
#   [arXiv:2212.03533](https://arxiv.org/abs/2212.03533).
# * Nandan Thakur et al., *BEIR*, 2021, [arXiv:2104.08663](https://arxiv.org/abs/2104.08663).
# * Orion Weller et al., *On the Theoretical Limitations of Embedding-Based Retrieval*, 2025,
#   [arXiv:2508.21038](https://arxiv.org/abs/2508.21038).
#
# **Next:** part IV puts the encoder to work on labels.
