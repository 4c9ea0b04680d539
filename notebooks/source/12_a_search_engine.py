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
    Encoder,
    PairBatches,
    SearchIndex,
    SentenceEncoder,
    embed,
    fit,
    info_nce_loss,
    load,
    load_docs,
    pad,
    pick_device,
    plots,
    search_box,
    seeded,
    stored_table,
)
from nextbert_lite.checks import lesson_12 as check
from nextbert_lite.corpora.python_docs import near_duplicates
from nextbert_lite.use.search import (
    Bm25,
    best_weight,
    fuse,
    hits_text,
    mrr,
    paired_bootstrap,
    ranks,
    recall_at,
    reciprocal_rank_fusion,
    z_scores,
)
from nextbert_lite.views.search_box import hits_html

seed = int(os.environ.get("NEXTBERT_SEED", 0))
every_row = "NEXTBERT_ALL" in os.environ  # tools/results.py sets it to make the stored table
docs = load_docs()
masked_model, tokenizer = load("docs-small")

# %% [markdown]
# The five best hits, and what each word of the question adds to their scores:

# %%
question = "how do I invert a matrix"
by_words = Bm25([f"{document.name}\n{document.text}" for document in docs.documents])
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
# `numpy.invert` flips bits. The function that you want stands below the figure. Its text says *inverse*, you said *invert*, and
# for a search by words these two have nothing in common.
#
# At the end of this lesson you ask again.
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
# are $k_1 = 1.5$ and $b = 0.75$. This is the variant of Lucene, an open-source search library (Robertson and Zaragoza 2009;
# Kamphuis et al. 2020 compare eight variants and find no significant difference in how well they search).

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
# scores once for all texts and keeps them. The same numbers:

# %% tags=["nbval-check-output"]
scores = Bm25(TEXTS).scores([QUERY])[0]
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

print(
    f"{len(train):,} pairs to train on, {len(validation)} to choose by, {Q} of {n_test} to report, {len(bodies):,} bodies"
)
print(f"\nquestion: {validation[3][0]}\nanswer:   {' '.join(validation[3][1].split())[:150]} …")

# %% [markdown]
# **Train** is for the models' weights. **Validation** is for everything that you choose: settings, weights of a mixture.
# **Test** is for the figures that you report. It is read once, in section 7, when nothing is left to choose.
#
# Two sizes of the question: find the body among those of the split, or among *all* bodies, those of train too. (Those are
# wrong answers only, so nobody gains by having trained on them.) BM25 on validation:

# %%
all_scores = Bm25(bodies).scores([*asked["validation"], *asked["test"]])  # (684 + 500, all bodies)
bm25 = {
    "validation": all_scores[: len(validation), columns["validation"]],
    "test": all_scores[len(validation) :, columns["test"]],
    "all": all_scores[len(validation) :],
}
print(f"validation {tuple(bm25['validation'].shape)}, test {tuple(bm25['test'].shape)}, all {tuple(bm25['all'].shape)}")

# %% [markdown]
# ## 3. Rank, MRR, recall@10
#
# For each question: at which place does its own body stand? That is its **rank**, 1 is best. Two ways to make one number of
# many ranks:
#
# * **MRR**, the *mean reciprocal rank*: the mean of 1/rank. First place counts 1, second 1/2, tenth 1/10.
# * **recall@10**: the share of the questions whose body is among the first ten.

# %%
total, within_ten = 0.0, 0
for i, row in enumerate(bm25["validation"].tolist()):
    better = sum(score > row[i] for score in row)
    equal = sum(score == row[i] for score in row) - 1  # besides itself
    rank = 1 + better + equal / 2
    total += 1 / rank
    within_ten += rank <= 10
print(f"MRR {total / len(validation):.3f}, recall@10 {within_ten / len(validation):.3f}")

# %% [markdown]
# All questions at once, by the package:

# %%
scores = bm25["validation"]
print(f"MRR {mrr(scores):.3f}, recall@10 {recall_at(scores, 10):.3f}")
assert abs(mrr(scores) - total / len(validation)) < 1e-6
assert abs(recall_at(scores, 10) - within_ten / len(validation)) < 1e-6

# %% [markdown]
# The same. Look at the line with `equal`. Where a question shares no word with its body, BM25 gives 0 to that body and to
# hundreds of others. Which place is that? Ordered by chance, the body lands in the middle of them on average, so that is
# its rank.
#
# ### Exercise 12.2 · reciprocal ranks ●●○ · 10 minutes
#
# The right text of question i is number `right[i]`. Give 1/rank for each question, without a loop. Texts with equal scores share
# the middle of their places.


# %% tags=["exercise-12.2"]
def reciprocal_ranks(scores, right):
    """scores: (Q, N), higher is better, right: (Q,) -> 1 / rank of the right text, (Q,)"""
    ### BEGIN SOLUTION
    own = scores.gather(1, right[:, None])  # (Q, 1)
    before, equal = (scores > own).sum(1), (scores == own).sum(1)
    return 1 / (1 + before + (equal - 1) / 2)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.reciprocal_ranks(reciprocal_ranks)

# %% [markdown]
# The mean hides how different the questions are. How many answers does BM25 put first? Guess, then look:

# %%
rank = ranks(bm25["validation"])
edges = [1, 2, 4, 11, 101, 1000]
shares = [((a <= rank) & (rank < b)).float().mean().item() for a, b in zip(edges[:-1], edges[1:], strict=True)]
fig, ax = plots.figure(size=(7.0, 2.8))
ax.bar(["1", "2–3", "4–10", "11–100", "beyond"], shares, color=plots.BLUE)
ax.set(xlabel=f"rank of the right body among {len(validation)}", ylabel="share of the questions")
ax.set_title(f"Words alone put {shares[0]:.0%} of the answers first")
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
# ## 4. A bag of vectors
#
# BM25 knows that *inverse* and *inverse* are the same, and nothing else. The simplest thing that can learn more: give each
# token a vector, and take the mean over a text. No attention, no order, each token's vector the same in every text: a
# **static bag**. Rare tokens should count more, as in BM25, so each token has a weight too, which starts at its idf and is learned:
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
    """Return the cosines of questions and bodies: of validation, of test, and of the test questions with all bodies.

    keys: the vectors of all bodies; without them only the bodies of validation and test are encoded.
    """
    if keys is None:
        keys = vectors_of(model, bodies if every_row else bodies[:n_held])
    queries = {split: vectors_of(model, questions) for split, questions in asked.items()}
    found = {split: queries[split] @ keys[columns[split]].T for split in asked}
    return found | {"all": queries["test"] @ keys.T} if len(keys) == len(bodies) else found


# %% [markdown]
# BM25 and the bag on validation:

# %%
found = {"BM25": bm25, "static bag": search_by(bag, vectors_of(bag, bodies))}
for name in found:
    print(f"{name:>10}: MRR {mrr(found[name]['validation']):.3f} on validation")

# %% [markdown]
# Below BM25, as the two printed figures show; and it is a mean of token vectors that knows nothing of order.
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
start_mrr = mrr(found["masked model"]["validation"])
print(f"masked model, mean of its vectors: MRR {start_mrr:.3f} on validation")
assert start_mrr < mrr(found["static bag"]["validation"])

# %% [markdown]
# Far below a bag. Now train it for search, with what lessons 09 and 10 have taught: pairs of summary and body, the other
# bodies of the batch as wrong answers, both directions, temperature 0.05. Texts are cut at 40 tokens *in training*
# only, and dropout is off: both save time.
#
# You have a minute. How much can it gain? Guess a factor.

# %%
STEPS, BATCH, CUT, RATE = 160, 48, 40, 7e-4


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
after = mrr(found["your encoder"]["validation"])
print(f"{STEPS} steps: MRR {start_mrr:.3f} → {after:.3f} on validation, {after / start_mrr:.2f} times as much")
assert after > 1.6 * start_mrr

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
first_epoch = len(train) // BATCH
before, later = history.loss[first_epoch - 20 : first_epoch], history.loss[first_epoch : first_epoch + 20]
print(f"last 20 steps of the first epoch: {sum(before) / 20:.2f}; first 20 of the second: {sum(later) / 20:.2f}")
assert sum(later) < sum(before)

# %% [markdown]
# The step down comes where the second epoch begins. From there on every pair has been seen once, and the loss says less about
# new texts.
#
# A large gain for so few steps. How large it looks depends on how many texts there are to choose from: section 7 has it among 500
# and among all bodies.
#
# A lesson has no time for more, so the course ships an encoder, `docs-contrastive`, that was trained from the same start for about
# forty minutes, with texts of up to 128 tokens. Four pairs in ten are of other kinds: a name and its text, a piece of a text and
# what surrounds it (`nextbert-lite pairs --data docs` makes such a one). The package's `embed` gives its vectors in one line; it is
# what you use outside of this lesson:

# %%
shipped, _ = load("docs-contrastive")
two = ["Compute the inverse of a matrix.", "Draw a histogram."]
torch.testing.assert_close(embed(two, "docs-contrastive"), vectors_of(shipped, two), rtol=1e-4, atol=1e-4)

shipped = shipped.to(device)
body_vectors = vectors_of(shipped, bodies)
found["shipped encoder"] = search_by(shipped, body_vectors)
for name in found:
    print(f"{name:>15}: MRR {mrr(found[name]['validation']):.3f} on validation")
assert after < mrr(found["static bag"]["validation"])

# %% [markdown]
# Your minute is not enough to reach the bag, which took less time. Keep that in mind when somebody shows you an encoder and no bag.
#
# One more thing in the bag's favour. All models here read the first T tokens of a body, because `docs-small` has no positions for
# more. A bag has no such limit: it can read the whole body, and so does BM25. An encoder can take a body in windows of T tokens and
# the mean of their vectors; `embed(…, long="windows")` does that. Both, on validation:

# %%
bodies_of_validation = bodies[columns["validation"]]
rows = tokenizer.encode_batch(bodies_of_validation)
with torch.no_grad():
    whole = [bag(*(x.to(device) for x in pad([row], tokenizer.pad_id))).cpu()[0] for row in rows]
questions_by_bag = vectors_of(bag, asked["validation"])
whole_bag = questions_by_bag @ F.normalize(torch.stack(whole), dim=-1).T
in_windows = embed(bodies_of_validation, (shipped, tokenizer), long="windows")
whole_shipped = vectors_of(shipped, asked["validation"]) @ in_windows.T
for name, scores in (("static bag", whole_bag), ("shipped encoder", whole_shipped)):
    print(f"{name:>15}: first {T} tokens {mrr(found[name]['validation']):.3f}, whole bodies {mrr(scores):.3f}")
assert mrr(whole_bag) > mrr(found["static bag"]["validation"]) + 0.02

# %% [markdown]
# The bag gains much by reading on, and more than the encoder does. So where this lesson says "a bag of the same width", it means
# one that reads as much as the encoder. One that reads everything is the best of the vector models on validation.
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
# Which w? Try 21 of them on validation and keep the best. That is `best_weight`.

# %%
others = [name for name in found if name != "BM25"]
fig, ax = plots.figure(size=(7.5, 3.4))
grid = [i / 20 for i in range(21)]
weights = {}
for name in others:
    curve = [mrr(fuse(bm25["validation"], found[name]["validation"], w)) for w in grid]
    weights[name], best = best_weight(bm25["validation"], found[name]["validation"])
    assert math.isclose(best, max(curve))
    ax.plot(grid, curve, label=name)
    ax.plot(weights[name], best, "o", color=ax.lines[-1].get_color())
ax.set(xlabel="w, the weight of BM25 (0: only the model, 1: only BM25)", ylabel="MRR on validation")
ax.set_title("At its best weight, each mixture beats BM25 on validation")
ax.legend(title="BM25 and", fontsize=9)
plots.show(fig, alt="Four curves of the MRR over the weight; each rises above its right end, where only BM25 counts.")
for name in others:
    print(f"BM25 + {name:>15}: w = {weights[name]:.2f}")

# %% [markdown]
# Each curve has its top inside. Careful with the sentence "the best of 21": the maximum is chosen on these questions, so on
# these questions it flatters. What it is worth shows on others.
#
# A second recipe needs no weight at all. **Reciprocal rank fusion** forgets the scores and adds up ranks (Cormack et al. 2009,
# with k = 60):
# $$\text{score} = \frac{1}{k + \text{rank by BM25}} + \frac{1}{k + \text{rank by the model}}$$
#
# One mixture more takes three searches in two steps: first the bag and the shipped encoder, then BM25 and what came out. Each step
# has its weight from `best_weight`.

# %%
mixtures = {}  # name -> split -> scores
for name in others:
    mixtures[f"BM25 + {name}"] = {s: fuse(bm25[s], scores, weights[name]) for s, scores in found[name].items()}
    mixtures[f"RRF: BM25, {name}"] = {s: reciprocal_rank_fusion(bm25[s], scores) for s, scores in found[name].items()}
weights["both"], _ = best_weight(found["static bag"]["validation"], found["shipped encoder"]["validation"])
models = {s: fuse(found["static bag"][s], found["shipped encoder"][s], weights["both"]) for s in bm25}
weights["all three"], _ = best_weight(bm25["validation"], models["validation"])
mixtures["BM25 + bag + shipped"] = {s: fuse(bm25[s], models[s], weights["all three"]) for s in bm25}
for name, scores in mixtures.items():
    print(f"{name:>28}: MRR {mrr(scores['validation']):.3f} on validation")

# %% [markdown]
# Which mixtures are worse than BM25 by itself? And which is the best, to be tested below?

# %%
alone = mrr(bm25["validation"])
hurt = [name for name, scores in mixtures.items() if mrr(scores["validation"]) < alone]
print(f"BM25 alone: {alone:.3f}. Below it: {', '.join(hurt) or 'none'}")
best_mixture = max(mixtures, key=lambda name: mrr(mixtures[name]["validation"]))
print(f"The best on validation: {best_mixture}")
assert all(mrr(mixtures[f"BM25 + {name}"]["validation"]) > alone for name in others)
assert "RRF: BM25, masked model" in hurt

# %% [markdown]
# RRF gives both searches the same say. The masked model is far weaker than BM25, and the mixture falls far below BM25 alone; a
# chosen weight gives it a small say. With the bag and your encoder RRF falls short too, though the chosen weights give them more
# than half. RRF also forgets how far apart two scores are; whether that is what costs it is not measured here. The mixture that
# goes into the test as *the best* is chosen now, on validation: the one that is printed above.
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
# of these 500 questions (at a level of 95 %).

# %% [markdown]
# By hand, for the bag and BM25 on the 684 validation questions (the test is still to wait):

# %%
a, b = (1 / ranks(found[name]["validation"]) for name in ("static bag", "BM25"))
drawn = torch.randint(len(a), (2000, len(a)), generator=seeded(seed, 7))  # 2,000 samples of the questions
means = (a - b)[drawn].mean(1)
low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
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
reciprocal = {name: 1 / ranks(scores["test"]) for name, scores in everyone.items()}
print(f"{'among 500':>28}   MRR  recall@10  MRR - BM25 (95 %)")
print(f"{'ordered by chance':>28} {sum(1 / r for r in range(1, Q + 1)) / Q:.3f}      {10 / Q:.3f}")
for name, scores in everyone.items():
    mean, low, high = paired_bootstrap(reciprocal[name], reciprocal["BM25"])
    against = "" if name == "BM25" else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
    print(f"{name:>28} {mrr(scores['test']):.3f}      {recall_at(scores['test'], 10):.3f}  {against}")

# %% [markdown]
# The last column as a picture. A line that does not touch 0 is a difference beyond the luck of the sample:

# %%
fig, ax = plots.figure(size=(8.0, 4.6))
listed = sorted((name for name in everyone if name != "BM25"), key=lambda name: reciprocal[name].mean())
for y, name in enumerate(listed):
    mean, low, high = paired_bootstrap(reciprocal[name], reciprocal["BM25"])
    colour = plots.BLUE if low > 0 else plots.RED if high < 0 else plots.GREY
    ax.plot([low, high], [y, y], color=colour)
    ax.plot(mean, y, "o", color=colour)
ax.axvline(0, color="black", linewidth=1)
ax.set_yticks(range(len(listed)), listed)
ax.set(xlabel="MRR - MRR of BM25 and its 95 % interval: blue above 0, red below, grey undecided")
ax.set_title("The best mixture is above BM25, beyond chance")
plots.show(
    fig, alt="Intervals of each search's MRR against BM25: the mixtures of BM25 with trained models lie highest."
)

# %% [markdown]
# (There are many lines, and at 95 % one in twenty would stray by chance: look at those far from 0.)
#
# Read it from below. Alone, none of these vector models is clearly ahead of BM25. Mixed with it by a chosen weight, each of
# the trained ones lifts it: they find other answers than words do. Ranks added without a weight (RRF) do less.
#
# What we set out to show, as asserts: the best mixture is above BM25, and the shipped encoder is at least as good as a bag of the
# same width. For the second, compare the two splits before you believe it:

# %%
gain, low, high = paired_bootstrap(reciprocal[best_mixture], reciprocal["BM25"])
print(f"{best_mixture} against BM25: {gain:+.3f}, 95 % from {low:+.3f} to {high:+.3f}")
assert low > 0
for split in ("validation", "test"):
    two = [1 / ranks(found[name][split]) for name in ("shipped encoder", "static bag")]
    mean, low, high = paired_bootstrap(*two)
    print(f"shipped encoder against static bag, {split}: {mean:+.3f}, 95 % from {low:+.3f} to {high:+.3f}")
assert mrr(found["shipped encoder"]["test"]) >= mrr(found["static bag"]["test"])
for name in others:
    assert paired_bootstrap(reciprocal[name], reciprocal["BM25"])[1] < 0  # alone: not clearly ahead
    assert reciprocal[f"BM25 + {name}"].mean() > reciprocal[f"RRF: BM25, {name}"].mean()
    assert name == "masked model" or paired_bootstrap(reciprocal[f"BM25 + {name}"], reciprocal["BM25"])[1] > 0

# %% [markdown]
# On the test the encoder is ahead. On validation the bag was, but that interval holds 0. So among some hundred texts they are
# about level. A figure from one split alone would have told you more than is known.
#
# And among *all* bodies, where the same questions have many more wrong answers to choose from. How much is lost? Guess.

# %%
first = torch.arange(Q)  # the bodies of the test questions stand first
bm25_all = 1 / ranks(bm25["all"], first)
results_search = []
print(f"{f'among {len(bodies):,}':>28}   MRR  recall@10  MRR - BM25 (95 %)")
n_all = len(bodies)
print(f"{'ordered by chance':>28} {sum(1 / r for r in range(1, n_all + 1)) / n_all:.3f}      {10 / n_all:.3f}")
for name, scores in everyone.items():
    row = {"seed": seed, "search": name}
    row |= {"mrr_500": mrr(scores["test"]), "recall_500": recall_at(scores["test"], 10)}
    if "all" in scores:
        row |= {"mrr_all": mrr(scores["all"], first), "recall_all": recall_at(scores["all"], 10, first)}
        mean, low, high = paired_bootstrap(1 / ranks(scores["all"], first), bm25_all)
        against = "" if name == "BM25" else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
        print(f"{name:>28} {row['mrr_all']:.3f}      {row['recall_all']:.3f}  {against}")
        assert row["mrr_all"] < row["mrr_500"]
    results_search.append(row)

# %% [markdown]
# Among all bodies everything is harder. BM25 loses least, the bag most: compare with the first table. Most of the new wrong
# answers are texts that the models were trained on; whether that or their number costs more is not measured here. What the
# mixtures bring shrinks too: with the bag alone nothing is left, and the mixture of three is no longer the best. Their weights
# were chosen among fewer texts. A table that does not say among how many texts it searched says little.
#
# (For the masked model and your encoder the vectors of all bodies would cost another minute. The stored table below has them.)
#
# What your minute of training has gained over the masked model:

# %%
live = {row["search"]: row for row in results_search}
ratio = live["your encoder"]["mrr_500"] / live["masked model"]["mrr_500"]
print(f"your encoder: {ratio:.2f} times the MRR of the masked model, among {Q}")
assert ratio > 1.4
kept = {name: row["mrr_all"] / row["mrr_500"] for name, row in live.items() if "mrr_all" in row}
assert kept["static bag"] < kept["shipped encoder"] < kept["BM25"]

# %% [markdown]
# One seed decides the sample of questions, the order of the batches and the bag's first vectors. The stored table has three.
# Their samples overlap (500 of the same 692), and BM25, the masked model and the shipped encoder are the same in all three. So
# the spread is smaller than that of new questions and new trainings would be:

# %% tags=["nbval-check-output"]
stored = stored_table("12_search")
seeds = sorted({row["seed"] for row in stored})
print(f"\nmean (lowest to highest) of {len(seeds)} seeds\n{'':>28}  MRR among 500           MRR among all")
for name in dict.fromkeys(row["search"] for row in stored):
    columns_of = [[float(r[c]) for r in stored if r["search"] == name] for c in ("mrr_500", "mrr_all")]
    shown = [f"{sum(v) / len(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in columns_of]
    print(f"{name:>28}  {'   '.join(shown)}")

# %% [markdown]
# Your minute falls short of doubling the masked model's MRR on the test. The shipped encoder, trained longer, more than doubles it
# among all bodies. For both, the factor is larger among all bodies than among 500.
#
# Do the claims of this lesson hold for each of the seeds? And does this run agree with the table?

# %%
by_seed, by_seed_all = ({(r["seed"], r["search"]): float(r[c]) for r in stored} for c in ("mrr_500", "mrr_all"))
for s in seeds:
    for name in ("your encoder", "shipped encoder"):
        ratios = [table_of[s, name] / table_of[s, "masked model"] for table_of in (by_seed, by_seed_all)]
        print(f"seed {s}: {name:>15} / masked model: {ratios[0]:.2f} among {Q}, {ratios[1]:.2f} among all")
        assert ratios[0] > 1.4 and ratios[1] > ratios[0]
    assert ratios[1] > 2  # the shipped encoder
    assert by_seed[s, "shipped encoder"] >= by_seed[s, "static bag"]
    assert by_seed[s, "BM25 + bag + shipped"] > by_seed[s, "BM25"]
    assert by_seed_all[s, "BM25 + bag + shipped"] > by_seed_all[s, "BM25"]
same_seed = [by_seed.get((str(seed), name), row["mrr_500"]) - row["mrr_500"] for name, row in live.items()]
print(f"the largest difference between this run and the stored row of its seed: {max(map(abs, same_seed)):.2f}")
assert max(map(abs, same_seed)) < 0.03

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
careless_reciprocal = {name: 1 / ranks(scores) for name, scores in careless.items()}
believed = {}
for split, values in (("by groups", reciprocal), ("careless", careless_reciprocal)):
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
shown = ["BM25", "static bag", "shipped encoder", best_mixture]

# %% [markdown]
# Four searches, three kinds of questions. Which search falls furthest from right to left?

# %%
fig, ax = plots.figure(size=(8.0, 3.4))
for number, name in enumerate(shown):
    values = [reciprocal[name][chosen] for chosen in KINDS.values()]
    errors = [1.96 * v.std() / len(v) ** 0.5 for v in values]
    x = [k + 0.2 * number - 0.3 for k in range(3)]
    ax.bar(x, [v.mean() for v in values], width=0.18, yerr=errors, label=name, error_kw={"linewidth": 1})
ax.set_xticks(range(3), [f"{kind}\n({int(chosen.sum())} questions)" for kind, chosen in KINDS.items()])
ax.set(xlabel="words of the question that stand in the body", ylabel="MRR among 500, ± 95 %", ylim=(0, 1))
ax.set_title("With few shared words every search does worse, BM25 most")
ax.legend(fontsize=9)
plots.show(fig, alt="Bars by shared words: with few, BM25 falls furthest; with many, it is level or ahead.")

# %% [markdown]
# And the difference between encoder and BM25, at both ends:

# %%
few, many = KINDS["under 1/3 of the words"], KINDS["2/3 and more"]
for kind, chosen in (("few shared words", few), ("many", many)):
    mean, low, high = paired_bootstrap(reciprocal["shipped encoder"][chosen], reciprocal["BM25"][chosen])
    print(f"{kind:>16}: shipped encoder - BM25 {mean:+.3f} ({low:+.3f} to {high:+.3f})")
drop = {name: (reciprocal[name][many].mean() - reciprocal[name][few].mean()).item() for name in shown}
assert max(drop, key=drop.get) == "BM25" and min(drop.values()) > 0

# %% [markdown]
# By length of the body, and by library. (T tokens is what the models read of a body. BM25 reads all of it.)

# %%
library_of = {d.body: d.library for d in docs.documents}
libraries = [library_of[b] for _, b in test[:Q]]
groups = {"bodies up to 64 tokens": body_tokens <= 64, f"more than {T}": body_tokens > T}
groups |= {name: torch.tensor([lib == name for lib in libraries]) for name in sorted(set(libraries))}
print(f"{'':>22}  {'questions':>9}  {'  '.join(shown)}")
for kind, chosen in groups.items():
    values = [f"{reciprocal[name][chosen].mean():.2f}".rjust(len(name)) for name in shown]
    print(f"{kind:>22}  {int(chosen.sum()):>9}  {'  '.join(values)}")
short, long = (reciprocal["BM25"][chosen].mean() for chosen in list(groups.values())[:2])
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
# A document's vector is here the mean of its summary's and its body's, which are both known, so the index is made in seconds. BM25
# reads the name as well.

# %%
by_body = {b: v for b, v in zip(bodies, body_vectors, strict=True)}
searched = [d for d in docs.documents if d.body in by_body]
summary_vectors = vectors_of(shipped, [d.summary or d.body for d in searched])
index = SearchIndex(
    searched,
    (shipped, tokenizer),
    weight=weights["shipped encoder"],
    vectors=F.normalize(summary_vectors + torch.stack([by_body[d.body] for d in searched]), dim=-1),
)
names = [d.name for d in searched]
relevant = torch.tensor([[name in right for name in names] for right in OWN_WORDS.values()])
print(f"{len(names):,} documents; right answers among them: {relevant.sum(1).tolist()}")
assert relevant.any(1).all()

# %% [markdown]
# Three searches, and at which place the first right answer stands:

# %%
questions = list(OWN_WORDS)
cosine = embed(questions, (shipped, tokenizer)) @ index.vectors.T
own = {"BM25": index.bm25.scores(questions), "encoder": cosine}
own["both"] = fuse(own["BM25"], own["encoder"], index.weight)
place = {}
for name, s in own.items():
    best = s.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)  # the best score of a right answer, (12, 1)
    place[name] = (s > best).sum(1) + 1
print(f"{'place of the first right answer':>46}  {'  '.join(own)}   first hit of both")
for i, text in enumerate(questions):
    places = "  ".join(f"{int(place[name][i]):>{len(name)}}" for name in own)
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
# With k = 10:

# %%
answered = {name: int((p <= 10).sum()) for name, p in place.items()}
for name, number in answered.items():
    print(f"{name:>8}: {number} of {len(questions)} questions have a right answer among the first ten")

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
# * **BM25** adds up rare words, with saturation and a correction for length. It is the baseline of every table on search; a
#   trained **static bag** is the second.
# * **MRR** is the mean of 1/rank, **recall@k** the share among the first k. Ties get the middle of their places. Say among how many texts.
# * Fuse by **z-scores per question** with a weight chosen **on validation**; report on the test, with a paired interval.
# * **Split by groups of near-duplicates.** On a random split a model can look good by remembering.
# * A minute of contrastive training lifts a masked model far. Forty bring it about level with a static bag (same width, same
#   128 tokens) among some hundred texts, and ahead of it among all 6,910. Its worth is largest where question and answer
#   share few words, and in a mixture with BM25.

# %% [markdown]
# **What this scale cannot show.** A small encoder, four libraries, questions written by the answer's author. Where large
# encoders trained on millions of real questions stand against BM25 is measured elsewhere: in BEIR (Thakur et al.
# 2021) BM25 was still ahead of many of them on texts unlike their training data.
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
# * Nandan Thakur et al., *BEIR*, 2021, [arXiv:2104.08663](https://arxiv.org/abs/2104.08663).
# * Orion Weller et al., *On the Theoretical Limitations of Embedding-Based Retrieval*, 2025,
#   [arXiv:2508.21038](https://arxiv.org/abs/2508.21038).
#
# **Next:** part IV puts the encoder to work on labels.
