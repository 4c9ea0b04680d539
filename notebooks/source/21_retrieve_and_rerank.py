# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Retrieve and rerank
#     question: Is a second, slower look at the best hits worth its price?
#     minutes: 170
#     part: "Part V: the next generation"
# ---

# %% [markdown]
# # 21 · Retrieve and rerank
#
# The search engine of lesson 12 never shows your question to a text. It compares counts of words, or two vectors that were made
# without knowing of each other. That is why it can search thousands of texts in a moment. For a third of the questions its first hit
# is wrong, although the right text is mostly among its first twenty.
#
# **The question of this lesson:** is a second, slower look at the best hits worth its price?
#
# | | |
# |---|---|
# | You will | build a cross-encoder, which reads question and text together; find hard negatives for its training and look at the doubtful ones; build late interaction, which compares every token with every token; try to teach a cheap model what the slow one knows; and measure all of it with graded answers, with words alone and with the mixture beside it |
# | You need | lesson 12 for BM25, fusion, MRR and the paired bootstrap, lesson 10 for pooling, lesson 09 for the contrastive loss |
# | It takes | about 170 minutes, six exercises, two of them builds of 35 and 30 minutes |
#
# For 500 questions with known answers, the first search is lesson 12's mixture of BM25 and the shipped encoder. The
# measure is the **MRR**, the mean over the questions of 1 / rank of the right text. Suppose somebody read the first k hits and
# always put the right one on top. How good could the search become?

# %% tags=["hide-input"]
from nextbert_lite import plots, stored_table

everything = [{k: float(v) for k, v in row.items()} for row in stored_table("21_rerank")]
stored = [row for row in everything if not row["fresh"]]
places = [1 / row["fusion"] for row in stored]  # the rank of the right text
depths = [1, 2, 5, 10, 20, 30, 50, 100]
ceilings = [sum(1 if p <= k + 0.01 else 1 / p for p in places) / len(places) for k in depths]

fig, ax = plots.figure(size=(7.0, 3.2))
ax.plot(depths, ceilings, "o-", color=plots.BLUE, label="a perfect reader of the first k")
ax.axhline(ceilings[0], color=plots.GREY, linestyle=":", label="the search by itself")
ax.set_xscale("log")
ax.set_xticks(depths, depths)
ax.minorticks_off()
ax.set(xlabel="k, the hits that are read again (log scale)", ylabel="MRR among 500", ylim=(0.6, 1.0))
ax.legend(loc="lower right")
ax.set_title(f"A perfect reader of ten hits would lift the MRR from {ceilings[0]:.2f} to {ceilings[3]:.2f}")
plots.show(fig, alt="The MRR of a perfect reader rises with k, most of it within the first ten hits.")
assert ceilings[3] > ceilings[0] + 0.1 and ceilings[4] - ceilings[3] < ceilings[3] - ceilings[2]

# %% [markdown]
# About two thirds of the answers are put first already. Of the others, most are among the first twenty hits, and that is what a second
# look could gain. The imports:

# %%
import time
import tomllib

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import Bm25, Encoder, EncoderConfig, embed, fit, load, load_docs, mrr, ndcg_at, pad, seeded
from nextbert_lite.checks import lesson_21 as check
from nextbert_lite.core.contrastive import pool
from nextbert_lite.corpora.harvest import near_pairs, tfidf
from nextbert_lite.training.loop import evaluating
from nextbert_lite.use.rerank import QUERY, Reranker, join, match_keys
from nextbert_lite.use.search import fuse, paired_bootstrap, reciprocal_ranks

# %% [markdown]
# What another run may change:

# %% tags=["parameters"]
seed = 0
every_row = False  # True reads the first hits of all questions again, for the stored tables, which takes many minutes

# %% [markdown]
# ## 1. The first search, and its ceiling
#
# The texts and questions are those of lesson 12: 500 summaries of the test split, each of which looks for its own body among 500.
# Their vectors come from `docs-contrastive`. Later you need the vectors of single tokens, so they are kept; the mean of a text's
# token vectors is what `embed` gives.

# %%
docs = load_docs()
test = docs.pairs("test")
order = torch.randperm(len(test), generator=seeded(0, 12)).tolist()  # the sample of lesson 12
questions, bodies = map(list, zip(*[test[i] for i in order[:500]], strict=True))
encoder, tokenizer = load("docs-contrastive")
T, C = encoder.encoder.config.max_len, encoder.encoder.config.width


@torch.no_grad()
def token_vectors(model, rows):
    """Return the vectors of all tokens of each text (N, T, C) and the mask (N, T), texts of like length together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    ids, mask = pad(rows, tokenizer.pad_id)
    vectors = torch.zeros(*ids.shape, C)
    for some in (order[i : i + 50] for i in range(0, len(rows), 50)):
        longest = int(mask[some].sum(1).max())
        vectors[some, :longest] = model(ids[some, :longest], mask[some, :longest])
    return vectors, mask


def mean_vectors(vectors, mask):
    """(N, T, C), (N, T) -> the mean over the real tokens of each text, length 1, (N, C)"""
    return F.normalize((vectors * mask[..., None]).sum(1), dim=-1)


asked, rows = (tokenizer.encode_batch(texts) for texts in (questions, bodies))  # ids with [CLS] and [SEP]


def cut(rows):
    """Return rows of at most T ids: of a longer one the first T - 1 and its [SEP]."""
    return [row if len(row) <= T else [*row[: T - 1], row[-1]] for row in rows]


short = [cut(asked), cut(rows)]
q_tokens, q_mask = token_vectors(encoder.encoder, short[0])
t_tokens, t_mask = token_vectors(encoder.encoder, short[1])
q_vectors, t_vectors = mean_vectors(q_tokens, q_mask), mean_vectors(t_tokens, t_mask)
torch.testing.assert_close(q_vectors[:3], embed(questions[:3], (encoder, tokenizer)), rtol=1e-4, atol=1e-4)

# %% [markdown]
# BM25 adds up, over the question's words that a text contains, a weight that is larger for rarer words. It is lesson 12's
# tuned one: word stems, and the parts of names. The mixture, `fuse`, brings both scores of a question to mean 0 and
# standard deviation 1 (z-scores), and adds them, weighted. BM25's weight, 0.4, was chosen on validation among as many texts:

# %%
from nextbert_lite import recall_at

bm25 = Bm25(bodies).scores(questions)
first = fuse(bm25, q_vectors @ t_vectors.T, 0.4)  # (500 questions, 500 bodies)
for name, scores in (("BM25", bm25), ("BM25 + encoder", first)):
    found = "  ".join(f"{recall_at(scores, k):.3f}" for k in (1, 5, 10, 20))
    print(f"{name:>14}: MRR {mrr(scores):.3f}   recall@1, 5, 10, 20: {found}")
assert mrr(first) > mrr(bm25) + 0.03 and recall_at(first, 20) > 0.9 and 0.6 < recall_at(first, 1) < 0.7

# %% [markdown]
# Whatever comes second sees the first k hits and nothing else. So recall@k of the first search is the part of the questions that
# a second look can answer at all.

# %% [markdown]
# ### Exercise 21.1 · predict the result ●●○ · 6 minutes
#
# A search put the right answers of ten questions on the ranks 1, 3, 2, 7, 1, 12, 2, 1, 40 and 5. A perfect reader looks at the
# first five hits of each question again and puts the right one on top, if it is there. All other hits stay where they are. What
# is the MRR after that? Give a number; three decimals are enough.

# %% tags=["exercise-21.1"]
perfect = None
### BEGIN SOLUTION
perfect = (7 + 1 / 7 + 1 / 12 + 1 / 40) / 10
### END SOLUTION

# %% tags=["nbval-check-output"]
check.ceiling(perfect)

# %% [markdown]
# ## 2. Question and text in one input
#
# A **cross-encoder** reads both as one sequence, as BERT's two sentences once were:
#
# $$[\text{CLS}]\; \text{question}\; [\text{SEP}]\; \text{text}\; [\text{SEP}] \;\longrightarrow\; \text{one score}$$
#
# Now each token of the question attends to each token of the text, in every layer. Nogueira and Cho (2019) did this with BERT and
# re-ranked the passages that BM25 had found, which was "outperforming the previous state of the art by 27% (relative) in MRR@10".
# The price: nothing can be computed in advance. A new question means a new pass through the model for every text.
#
# In the code the question is called *query*. Our model is small, so it gets a hint where an equal word occurs on the other side.
# Of its four **token types** two say on which side a token is, as in BERT, and two say that the same *token* occurs on the other side as
# well, capitals and the space before it apart. (A token may be a piece of a word. Boualili et al. 2020 mark matches with extra tokens, and a
# full-sized BERT gains by it. Whether ours gains is not measured here.) What counts as the same token? Those that differ in capitals or in the
# space before them have the same key:

# %% tags=["nbval-check-output"]
keys = match_keys(tokenizer)
for word in (" return", "return", " Return", " array"):
    (token,) = tokenizer.encode(word)[1:-1]
    print(f"{word!r:>10}: token {token:>4}, key {keys[token]:>4}")

# %% [markdown]
# ### Exercise 21.2 · join two texts ●●○ · 15 minutes
#
# Write `joined(query, text, keys, max_len)`. `query` and `text` are lists of ids, each with [CLS] as its first and [SEP] as its last,
# as the tokenizer gives them. Return two lists of whole numbers of the same length, at most `max_len`: first the ids of
# *[CLS] query [SEP] text [SEP]*, then their types. (`max_len` leaves room for the query and three specials.)
#
# * Of the query keep the first 32 tokens (`QUERY`), not counting its [CLS] and [SEP]. Of the text keep
#   as many of its first tokens as there is room for.
# * Type 0: the query's side, namely [CLS], its tokens and the first [SEP]. Type 1: the text's side, with the last [SEP].
# * A token of the query whose key (`keys[id]`) is that of a token of the text that is *kept* has type 2 instead; a token of the
#   text whose key is that of a *kept* token of the query has type 3. [CLS] and [SEP] are never
#   matches.
# * Change neither list.


# %% tags=["exercise-21.2"]
def joined(query, text, keys, max_len):
    """query, text: ids with [CLS] and [SEP], keys: id -> key -> ids and types of both in one input"""
    ### BEGIN SOLUTION
    cls, *words, sep = query
    words = words[:QUERY]
    body = text[1:-1][: max_len - 3 - len(words)]
    asked, there = {keys[i] for i in words}, {keys[i] for i in body}
    types = [0, *(2 * (keys[i] in there) for i in words), 0, *(1 + 2 * (keys[i] in asked) for i in body), 1]
    return [cls, *words, sep, *body, sep], types
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.joining(joined)

# %% [markdown]
# The lesson goes on with the package's own, `join`. A pair of short texts, its types below its tokens:

# %% tags=["nbval-check-output"]
pair = [tokenizer.encode(t) for t in ("invert a matrix", "Inverse of a square matrix, or an array.")]
ids, types = join(*pair, keys, 40)
names = [token.strip() for token in tokenizer.tokens(ids)]
widths = [max(len(name), 1) for name in names]
print(" ".join(names))
print(" ".join(f"{kind:>{width}}" for kind, width in zip(types, widths, strict=True)))

# %% [markdown]
# The *in* of *invert* meets the *In* of *Inverse*, two pieces of words; *matrix* and *a* match themselves; *vert* and *verse* do not match.
#
# ## 3. The cross-encoder
#
# How is it trained? Each question comes with its right text and some wrong ones, and the scores of these **candidates** go through
# a softmax. The loss is the cross-entropy of the right one, which you know from lesson 09. (Nogueira and Cho ask
# of each text by itself whether it is right. Gao, Dai and Callan 2021 let a right text compete with negatives from the first search, as here.) One thing is different. There the other texts
# of a batch were wrong answers for free, because their vectors were there anyway. Here each pair of question and text costs a pass of its own.

# %% [markdown]
# ### Exercise 21.3 · build the cross-encoder ●●● · 35 minutes
#
# Write the class `CrossEncoder`, an `nn.Module`.
#
# * `__init__(encoder)` keeps the encoder as `self.encoder` (it has four token types) and makes `self.out`, an `nn.Linear` with a bias from
#   the encoder's width, `encoder.config.width`, to one number.
# * `forward(ids, types, mask)`, each (B, T), `mask` True at the tokens to be read, returns one score for each row, (B,): the mean of the
#   encoder's vectors over the tokens of the mask, through `self.out`. The encoder is called as `self.encoder(ids, mask, types)`. No argument is changed.
# * `loss(ids, types, mask, right)`: the B rows are the candidates of Q questions, B / Q for each, one question after the other. `right` (Q,) says
#   which of its candidates is the right one, from 0. Return the mean over the questions of the cross-entropy over their candidates.
# * `scores(rows, batch_size=32)`: `rows` is a list of (ids, types) as `join` gives them, of any lengths. Return the score of each, (N,), in the
#   order of the rows, on the CPU: `batch_size` rows at a time, padded (`pad`; types are padded with 0), in eval mode and without a graph. Afterwards the model
#   is in the mode in which it was. `evaluating(self)` of the package does this: eval mode, and for each part its own mode afterwards. Leaving out the graph is up to you.
#
# Sorting by length saves padding. Mind the order then.


# %% tags=["exercise-21.3", "my-bert-rerank"]
class CrossEncoder(nn.Module):
    """An encoder of query and text together, with one score as its output."""

    def __init__(self, encoder):
        ### BEGIN SOLUTION
        super().__init__()
        self.encoder = encoder
        self.out = nn.Linear(encoder.config.width, 1)
        encoder.initialise(self.out)
        ### END SOLUTION

    def forward(self, ids, types, mask):
        """ids, types, mask: (B, T), mask True = a real token -> one score a row, (B,)"""
        ### BEGIN SOLUTION
        return self.out(pool(self.encoder(ids, mask, types), mask))[:, 0]
        ### END SOLUTION

    def loss(self, ids, types, mask, right):
        """right: (Q,), the number of the right one among the B / Q candidates of each query -> the mean cross-entropy"""
        ### BEGIN SOLUTION
        return F.cross_entropy(self(ids, types, mask).view(len(right), -1), right)
        ### END SOLUTION

    def scores(self, rows, batch_size=32):
        """rows: a list of (ids, types) -> the score of each, (N,)"""
        ### BEGIN SOLUTION
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        found = torch.zeros(len(rows), dtype=self.out.weight.dtype)
        device = self.out.weight.device
        with torch.no_grad(), evaluating(self):
            for some in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
                ids, mask = pad([rows[i][0] for i in some], self.encoder.config.pad_id)
                types, _ = pad([rows[i][1] for i in some])
                found[some] = self(ids.to(device), types.to(device), mask.to(device)).to(found)
        return found
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.cross_encoder(CrossEncoder)

# %% [markdown]
# From here on the lesson reads with your class, if it passes:

# %% tags=["nbval-check-output"]
CrossEncoder = check.mine("21.3", CrossEncoder)


# %% [markdown]
# Three helpers: a new model, the second look at the first hits of each question, and the new order. What was not read
# again keeps its order and comes after what was.


# %%
def new_cross_encoder():
    """Return a cross-encoder with the weights of docs-contrastive; types and output are untrained."""
    torch.manual_seed(seed)
    model = CrossEncoder(Encoder(EncoderConfig(**encoder.encoder.config.to_dict() | {"token_types": 4})))
    missing = model.encoder.load_state_dict(encoder.encoder.state_dict(), strict=False).missing_keys
    assert missing == ["types.weight"]
    return model


def read_again(model, first, asked, rows, depth=20):
    """Return the numbers of each question's first hits, (Q, depth), and the cross-encoder's scores of them."""
    top = first.topk(depth).indices
    pairs = [join(asked[i], rows[j], keys, T) for i in range(len(top)) for j in top[i].tolist()]
    with torch.autocast("cpu", torch.bfloat16, enabled=every_row):  # the tables' many passes, lesson 18
        return top, model.scores(pairs).view(-1, depth)


def reordered(first, top, scores, weight):
    """Return scores (Q, N) by which the hits that were read come first, in their new order; the rest stays as it was.

    weight: the first search's share in the new order, both as z-scores among the hits that were read.
    """
    new = fuse(first.gather(1, top), scores, weight).double()
    return (first.double() - 1e3).scatter(1, top, new)  # - 1000: below every z-score


# %% [markdown]
# First the control: *before* training, with the encoder of the search inside. Which MRR do you expect when it orders the first 20
# hits by itself?

# %%
own = torch.arange(500)  # the body of question i is text i
some = 12
top, scores = read_again(new_cross_encoder(), first[:some], asked[:some], rows)
by_luck = sum(1 / r for r in range(1, 21)) / 20  # the mean over all orders of 20 hits, the right one among them
print(f"{some} questions: first search {mrr(first[:some], own[:some]):.2f}", end=", ")
print(f"untrained cross-encoder {mrr(reordered(first[:some], top, scores, 0.0), own[:some]):.2f}", end=", ")
print(f"a random order, on average {by_luck:.2f}")
assert mrr(reordered(first[:some], top, scores, 0.0), own[:some]) < mrr(first[:some], own[:some]) - 0.2

# %% [markdown]
# It destroys the order: neither its output nor its token types were ever trained. Twelve questions are few, so do not read the last digits. Section 5 has the same control on 50.

# %% [markdown]
# ## 4. Hard negatives, and doubtful ones
#
# Which wrong texts should it train on? Drawn at random, nearly all of them are about something else, and a glance is enough. What it
# will have to tell apart are the first hits of a search. So search the **training split** with its own summaries and take the first hits
# that are wrong: **hard negatives**. ANCE (Xiong et al. 2020) showed why that matters for encoders, and searches anew while the encoder learns.
#
# But are they wrong? A body that says in other words what the right one says answers the question, too. Called wrong, it teaches
# the model to reject right answers: a **false negative**. RocketQA (Qu et al. 2020) names "the existence of unlabeled positives" among
# the difficulties of such training, and "denoised hard negatives" among its remedies. There a strong cross-encoder decides what to take out.
# We have only the **near-duplicates** of lesson 12, pairs of texts with a cosine of at least 0.6 over their words. Is a near-duplicate a false negative?
#
# A small part of the training split, searched by BM25:

# %%
n_train = 300
pairs = docs.pairs("train")
chosen = torch.randperm(len(pairs), generator=seeded(seed, 21)).tolist()[:n_train]
summaries, texts = map(list, zip(*[pairs[i] for i in chosen], strict=True))
found_in_training = Bm25(texts).scores(summaries)
near = torch.zeros(n_train, n_train, dtype=torch.bool)
vectors = tfidf(texts)
for a, b in near_pairs(vectors, vectors):
    near[a, b] = True
near.fill_diagonal_(False)
print(f"{near.any(1).float().mean():.0%} of {n_train} bodies have a near-duplicate among the others")

# %% [markdown]
# In the whole split more do, because there are more others:

# %%
all_bodies = [body for _, body in pairs]
vectors = tfidf(all_bodies)
twins = {a for a, b in near_pairs(vectors, vectors) if a != b}
print(f"{len(twins) / len(all_bodies):.0%} of {len(all_bodies):,} training bodies have a near-duplicate in the split")
assert len(twins) / len(all_bodies) > near.any(1).float().mean()

# %% [markdown]
# ### Exercise 21.4 · hard negatives ●●○ · 12 minutes
#
# Write `negatives_of(scores, near, k)`. `scores` (N, N) are those of a search, higher is better, and text i is the right answer of query i.
# `near` (N, N), boolean, is True where text j is a near-duplicate of text i; ignore its diagonal. Return the numbers of the `k` best
# texts for each query that are neither its right text nor near to it, (N, k), whole numbers (int64), the best first; among equal scores the lower
# number first. Each query has at least k such texts. Scores may be below 0. Change no argument.


# %% tags=["exercise-21.4"]
def negatives_of(scores, near, k):
    """scores: (N, N), text i answers query i, near: (N, N) bool -> the k best wrong texts of each query, (N, k)"""
    ### BEGIN SOLUTION
    out = near | torch.eye(len(scores), dtype=torch.bool)
    return scores.masked_fill(out, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :k]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.negatives(negatives_of)

# %% [markdown]
# The lesson goes on with the check's own, `hard_negatives`. How often would a near-duplicate have been among the negatives, at which rank of the wrong texts? Guess first.

# %%
from nextbert_lite.checks.lesson_21 import hard_negatives

careless = hard_negatives(found_in_training, torch.zeros_like(near), 50)  # near-duplicates left in
doubtful = near.gather(1, careless).float()
for name, ranks in (
    ("1", slice(0, 1)),
    ("2", slice(1, 2)),
    ("3", slice(2, 3)),
    ("4 to 10", slice(3, 10)),
    ("11 to 50", slice(10, 50)),
):
    print(f"rank {name:>8}: {doubtful[:, ranks].mean():.2%} are near-duplicates of the right text")
print(f"   all texts: {near.float().mean():.2%}")
assert doubtful[:, 0].mean() > 5 * doubtful[:, 3:10].mean()

# %% [markdown]
# The first wrong hit is a near-duplicate far more often than a text farther down. Which of them would have answered the question? Read some, the question and the
# summary of the near-duplicate:

# %%
for q in doubtful[:, :3].any(1).nonzero()[:10, 0].tolist():
    for j in careless[q, :3][doubtful[q, :3].bool()].tolist():
        print(f"{' '.join(summaries[q].split())[:58]:<60}| {' '.join(summaries[j].split())[:58]}")

# %% [markdown]
# As far as these summaries tell, most of the ten would not: they are *siblings*, like sentences about another thing. The cosine over words alone does not tell these from a text that says the same. They are
# the hard negatives that the model will have to tell apart one day. So taking out all near-duplicates, as exercise 21.4 and the training of the course's model do, is the safe choice, and it may be the
# costly one: what the model never sees as a negative, it is not taught to reject. A reader, or a strong cross-encoder as in RocketQA, would take out fewer. (This lesson does not train the twin that keeps
# them, so it cannot say what that would bring.)

# %% [markdown]
# ### A short training
#
# 300 questions, three hard negatives each, rows of 64 tokens to save time, 25 steps: enough to see the loss fall, not enough for a good model.

# %%
negatives = hard_negatives(found_in_training, near, 8)
train_asked, train_rows = tokenizer.encode_batch(summaries), tokenizer.encode_batch(texts)


def candidates(step, queries=8, wrong=3, length=64):
    """Return a batch: some queries, each with its right text first and some of its hard negatives."""
    generator = seeded(seed, step, 21)
    batch = []
    for q in torch.randperm(n_train, generator=generator)[:queries].tolist():
        drawn = negatives[q][torch.randperm(8, generator=generator)[:wrong]].tolist()
        batch += [join(train_asked[q], train_rows[i], keys, length) for i in (q, *drawn)]
    (ids, mask), (types, _) = (pad(list(side)) for side in zip(*batch, strict=True))
    return {"ids": ids, "types": types, "mask": mask, "right": torch.zeros(queries, dtype=torch.long)}


brief = new_cross_encoder()
history = fit(brief, candidates, steps=25, lr=5e-4, warmup=5, seed=seed, progress=False)
brief.cpu()
print(f"loss: first five steps {sum(history.loss[:5]) / 5:.2f}, last five {sum(history.loss[-5:]) / 5:.2f}", end="; ")
print(f"guessing among four: {torch.tensor(4.0).log():.2f}")
assert sum(history.loss[-5:]) < sum(history.loss[:5])

# %% [markdown]
# ## 5. What the second look is worth
#
# The course ships a cross-encoder, `docs-rerank`. It was trained with the same loss for longer, on all summaries of the training split, each with three of its
# first hundred wrong hits of BM25 and the encoder. Its card tells how
# (`tools/reranker.py` makes it):

# %% tags=["nbval-check-output"]
from nextbert_lite import read_card

card = read_card("docs-rerank")
training = card["training"]
print(card["corpus"]["pairs"])
print(
    f"{training['steps']} steps of {training['queries']} queries, {training['max_len']} tokens a row, from {training['start']}; loss at the end {training['curve'][-1]:.2f}"
)

# %% [markdown]
# Its weights go into your class. How should its scores be mixed with the first search's? The weight was chosen on 300 validation questions, a
# random sample, among as many bodies as in the test. At 0 the cross-encoder orders the 20 hits alone, at 1 nothing changes. Where do you expect the best one?

# %%
trained = new_cross_encoder()
trained.load_state_dict(Reranker.load("docs-rerank").model.state_dict())
SHARES = [i / 10 for i in range(11)]
results_shares = []
if every_row:
    validation = docs.pairs("validation")
    drawn = torch.randperm(len(validation), generator=seeded(0, 12)).tolist()[:500]
    val_asked, val_bodies = map(list, zip(*[validation[i] for i in drawn], strict=True))
    val_vectors = [embed(part, (encoder, tokenizer), long="cut") for part in (val_asked[:300], val_bodies)]
    val_first = fuse(Bm25(val_bodies).scores(val_asked[:300]), val_vectors[0] @ val_vectors[1].T, 0.4)
    val_ids = [tokenizer.encode_batch(part) for part in (val_asked[:300], val_bodies)]
    val_top, val_scores = read_again(trained, val_first, *val_ids)
    by_share = [reciprocal_ranks(reordered(val_first, val_top, val_scores, x), torch.arange(300)) for x in SHARES]
    for i in range(300):
        row = {f"share_{x:.1f}": float(values[i]) for x, values in zip(SHARES, by_share, strict=True)}
        results_shares.append({"seed": seed} | row)

# %% [markdown]
# What that gave, from the stored table:

# %% tags=["hide-input"]
val_rows = stored_table("21_shares")
columns = [torch.tensor([float(row[f"share_{x:.1f}"]) for row in val_rows]) for x in SHARES]
shares = [float(c.mean()) for c in columns]
share = SHARES[max(range(11), key=lambda i: shares[i])]
seemed = paired_bootstrap(columns[SHARES.index(share)], columns[-1])
fig, ax = plots.figure(size=(7.0, 2.9))
ax.plot(SHARES, shares, "o-", color=plots.BLUE)
ax.axhline(shares[-1], color=plots.GREY, linestyle=":", label="the first search")
ax.set(xlabel="share of the first search (0: only the cross-encoder)", ylabel="MRR, 300 validation questions")
ax.legend()
ax.set_title(f"On validation {share:.1f} is best, {seemed[0]:+.3f} over the first search")
plots.show(fig, alt="The MRR over the first search's share: highest in between, lower at both ends.")
assert 0 < share < 1 and max(shares) > max(shares[0], shares[-1])

# %% [markdown]
# On these questions a mixture is ahead of both. But the best of eleven was chosen on these very questions, so here it flatters (lesson 12). The weight
# was chosen for 20 hits and is used for 5 and 10 as well.
#
# Now the test, with that weight. All questions with 20 hits each are nearly 14,000 passes, so they are stored, question by question. (The stored ones are
# computed in half precision.) The first 30 questions are read here as well:

# %%
n_read = 500 if every_row else 30


def searches_of(first, words, top, scores):
    """Return the scores of each search: the words alone, the first search, and its hits in a new order."""
    found = {"bm25": words, "fusion": first}
    for depth in (5, 10, 20):
        found[f"reranked_{depth}"] = reordered(first, top[:, :depth], scores[:, :depth], share)
    return found | {"alone": reordered(first, top, scores, 0.0)}


top, scores = read_again(trained, first[:n_read], asked[:n_read], rows)
searches = searches_of(first[:n_read], bm25[:n_read], top, scores)
live = {name: reciprocal_ranks(s, own[:n_read]) for name, s in searches.items()}
results_rerank = []
if every_row:
    _, raw = read_again(new_cross_encoder(), first[:50], asked[:50], rows)
    untrained = reciprocal_ranks(reordered(first[:50], top[:50], raw, 0.0), own[:50])
    for i in range(500):
        row = {"seed": seed, "fresh": 0, "untrained": float(untrained[i]) if i < 50 else -1.0}
        results_rerank.append(row | {name: float(v[i]) for name, v in live.items()})
    others = [test[i] for i in order[500:]]  # the questions that were never looked at, among all bodies of the split
    o_asked, o_bodies = [pair[0] for pair in others], [pair[1] for pair in others] + bodies
    o_words = Bm25(o_bodies).scores(o_asked)
    o_vectors = [embed(part, (encoder, tokenizer), long="cut") for part in (o_asked, o_bodies)]
    o_first = fuse(o_words, o_vectors[0] @ o_vectors[1].T, 0.4)
    o_read = read_again(trained, o_first, *(tokenizer.encode_batch(part) for part in (o_asked, o_bodies)))
    found = {
        name: reciprocal_ranks(s, torch.arange(len(others)))
        for name, s in searches_of(o_first, o_words, *o_read).items()
    }
    for i in range(len(others)):
        row = {"seed": seed, "fresh": 1, "untrained": -1.0}
        results_rerank.append(row | {name: float(v[i]) for name, v in found.items()})

# %% [markdown]
# Do the two agree?

# %%
for name in ("bm25", "fusion", "reranked_20", "alone"):
    there = torch.tensor([row[name] for row in stored[:n_read]])
    here = live[name].float()
    print(
        f"{name:>12}: here {here.mean():.3f}, stored {there.mean():.3f}; {(here - there).abs().lt(1e-3).sum()} of {n_read} equal"
    )
    assert (here - there).abs().mean() < 0.05

# %% [markdown]
# The table, with each difference's interval over the questions, by the paired bootstrap: the questions are drawn anew
# many times, each with both its values (lesson 12). What do you expect of reading 20 hits rather than 5?


# %%
def table_of(rows):
    """Return a tensor for each column of the stored rows."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name != "seed"}


def against(values, others):
    """Return the mean difference with its interval over the questions, and what it says, as a text."""
    mean, low, high = paired_bootstrap(values, others)
    verdict = "ahead" if low > 0 else "behind" if high < 0 else "undecided"
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) {verdict}"


column = table_of(stored)
NAMES = {
    "bm25": "BM25 (tuned)",
    "fusion": "BM25 + encoder",
    "alone": "20 hits, cross-encoder alone",
    "reranked_5": "5 hits, mixed",
    "reranked_10": "10 hits, mixed",
    "reranked_20": "20 hits, mixed",
}
print(f"{'':>29}  MRR    against BM25 + encoder (95 %)")
for name, label in NAMES.items():
    shown = "" if name == "fusion" else against(column[name], column["fusion"])
    print(f"{label:>29}  {column[name].mean():.3f}  {shown}")
ceiling = sum(1 if p < 20.5 else 1 / p for p in places) / 500
print(f"{'20 hits, a perfect reader':>29}  {ceiling:.3f}")
print(f"the weight's own validation questions: {against(columns[SHARES.index(share)], columns[-1])}")
print(f"20 hits against 5, mixed: {against(column['reranked_20'], column['reranked_5'])}")
untrained = column["untrained"][:50].mean()
print(
    f"first 50 questions: untrained {untrained:.3f}, a random order {by_luck:.3f}, trained, alone "
    f"{column['alone'][:50].mean():.3f}, first search {column['fusion'][:50].mean():.3f}"
)
gain = {name: paired_bootstrap(column[name], column["fusion"]) for name in NAMES if name != "fusion"}
assert gain["bm25"][2] < 0 and gain["alone"][2] < 0
assert all(gain[f"reranked_{k}"][1] < 0 < gain[f"reranked_{k}"][2] for k in (5, 10, 20))
assert untrained < column["alone"][:50].mean() - 0.2 and abs(untrained - by_luck) < 0.1

# %% [markdown]
# Each line compares with *BM25 + encoder*: **ahead** or **behind** where the interval has no 0 in it, else **undecided**. First the control: the untrained reader is about as good
# as a random order (whose 0.180 supposes that the right text is among the 20), far below the trained one. So training matters.
#
# The trained reader **alone** is behind the search that chose its hits, by more than chance among the questions would explain. The **mixture** is undecided at every depth, and 20 hits rather than 5
# make no difference that these questions could show. On validation the same weight was ahead. Little of that is left here, so a gain on the questions that chose the weight can be luck. A perfect
# reader of the same hits would be far above all of them, though a real one might not get all of that, because some bodies are written almost alike.
#
# These 500 test questions were looked at twice before, with earlier states of this reader and other weights. After two looks the third is no clean test. But the split has 192 more questions,
# and none of them was asked while this reader was made. Here they are, among all bodies of the split, with the same model and the same weight:

# %%
fresh = table_of([row for row in everything if row["fresh"]])
print(f"{len(fresh['fusion'])} fresh questions: BM25 + encoder {fresh['fusion'].mean():.3f}")
for name in ("alone", "reranked_5", "reranked_20"):
    print(f"{NAMES[name]:>29}  {fresh[name].mean():.3f}  {against(fresh[name], fresh['fusion'])}")
both = {name: torch.cat([column[name], fresh[name]]) for name in ("fusion", "reranked_20")}
print(f"all {len(everything)} together, 20 hits, mixed: {against(both['reranked_20'], both['fusion'])}")
moved = both["reranked_20"] - both["fusion"]
up, down = moved[moved > 1e-4], moved[moved < -1e-4]
print(
    f"the right text moved up in {len(up)}, by {up.mean():+.2f} on average, and down in {len(down)}, by {down.mean():+.2f}"
)
print(
    f"{(both['fusion'][moved < -1e-4] > 0.99).float().mean():.0%} of those that moved down had been first, "
    f"{(both['reranked_20'][moved > 1e-4] > 0.99).float().mean():.0%} of those that moved up became first"
)
new = {name: paired_bootstrap(fresh[name], fresh["fusion"]) for name in ("alone", "reranked_20")}
assert new["alone"][2] < 0 and new["reranked_20"][1] < 0 < new["reranked_20"][2]
assert len(up) > len(down) and up.mean() < -down.mean()

# %% [markdown]
# The same verdicts. Most questions keep their rank. The right text moves up more often than down, but a move down costs more of the MRR, because more of these left the first rank than of the others reached it.

# %% [markdown]
# ### How long it takes
#
# One question, on your machine, in milliseconds. (Times differ from run to run.)

# %% tags=["times"]
searcher = Bm25(bodies)


def milliseconds(call, times=5):
    """Return the shortest of some calls, in ms."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


one = [join(asked[0], rows[j], keys, T) for j in top[0].tolist()]
cost = {
    "BM25": milliseconds(lambda: searcher.scores(questions[:1])),
    "the question's vector": milliseconds(lambda: embed(questions[:1], (encoder, tokenizer))),
    "20 hits read again": milliseconds(lambda: trained.scores(one)),
}
for name, value in cost.items():
    print(f"{name:>22}: {value:8.2f} ms")
assert cost["20 hits read again"] > 2 * cost["the question's vector"]

# %% [markdown]
# Quality and price side by side. Is it worth it?

# %% tags=["hide-input", "times"]
fig, axes = plots.figure(1, 2, size=(9.5, 3.2))
depths = [0, 5, 10, 20]
values = [column["fusion"].mean(), *(column[f"reranked_{k}"].mean() for k in depths[1:])]
best_possible = [sum(1 if p <= k + 0.01 else 1 / p for p in places) / 500 for k in depths]
axes[0].plot(depths, values, "o-", color=plots.BLUE, label="mixed with the cross-encoder")
axes[0].plot(depths, best_possible, "^:", color=plots.GREY, label="a perfect reader")
axes[0].set(xlabel="hits that are read again", ylabel="MRR among 500", xticks=depths)
axes[0].legend(fontsize=8)
bars = axes[1].bar(range(3), list(cost.values()), color=[plots.GREY, plots.ORANGE, plots.BLUE])
axes[1].bar_label(bars, [f"{value:.2f}" if value < 1 else f"{value:.0f}" for value in cost.values()])
axes[1].margins(y=0.15)
axes[1].set_xticks(range(3), ["BM25", "vector", "20 hits"])
axes[1].set(ylabel="milliseconds for one question", title="What it costs")
axes[0].set_title("What it gives")
ratio = cost["20 hits read again"] / cost["the question's vector"]
fig.suptitle(f"20 hits: {values[-1] - values[0]:+.3f} of MRR, undecided, at {ratio:.0f} times the price of the vector")
plots.show(
    fig, alt="Left: the MRR over the number of hits read, below the perfect reader's. Right: times of one question."
)

# %% [markdown]
# So is it worth its price? For this reader the answer is **no**: a difference that 692 questions cannot tell from none, for many times the price of the question's vector. A better reader of
# the same size would change the first number and not the second; a larger one would change both.

# %% [markdown]
# ## 6. Late interaction
#
# Between one vector a text and one pass a pair there is a third way. Keep the vectors of *all* tokens of a text, computed in advance. Each token of the question
# looks for its best partner in the text, and the cosines of these best partners are added up. ColBERT (Khattab and Zaharia 2020) calls it
# **late interaction**, and the sum of maxima is called MaxSim (all vectors of length 1):
#
# $$S(q, d) = \sum_{i \in q} \max_{j \in d}\; q_i \cdot d_j$$
#
# A small case first. Two tokens of a question, three of a text, vectors of length 1:

# %% tags=["nbval-check-output"]
question = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
total = 0.0
for q in question:
    cosines = [float(q @ t) for t in text]
    total += max(cosines)
    print("  ".join(f"{c:.1f}" for c in cosines), f"  best {max(cosines):.1f}")
print(f"score {total:.1f}")

# %% [markdown]
# ### Exercise 21.5 · build late interaction ●●● · 30 minutes
#
# Write `max_sim(query, query_mask, text, text_mask, chunk=64)`. `query` (Q, T, C) and `text` (N, S, C) are token vectors of any length, `query_mask` (Q, T) and
# `text_mask` (N, S) are True at real tokens; each question and each text has at least one. Return the scores of all pairs, (Q, N), float32.
#
# * Vectors are brought to length 1 first, on both sides.
# * Only real tokens count, on both sides. Cosines may all be below 0.
# * Take `chunk` texts at a time, so that the cosines of all tokens with all tokens, Q · T · N · S numbers, are never there at once. N need not be
#   a multiple of `chunk`. Nor are their products with the width still in them, C times as many: multiply with `einsum` or `@`.
# * A model can be trained through it: no `detach`. Change no argument.
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | all products by `torch.einsum`, the maximum, the sum | lengths of vectors |
# | 2 | length 1 | masks |
# | 3 | the two masks, −∞ for the text's | memory (masks, if you filled with 0) |
# | 4 | chunks | nothing more |


# %% tags=["exercise-21.5", "my-bert-rerank"]
def max_sim(query, query_mask, text, text_mask, chunk=64):
    """query: (Q, T, C), text: (N, S, C), their masks True = a token -> ColBERT's score of each pair, (Q, N)"""
    ### BEGIN SOLUTION
    query, text = F.normalize(query, dim=-1), F.normalize(text, dim=-1)
    found = []
    for vectors, real in zip(text.split(chunk), text_mask.split(chunk), strict=True):
        cosine = torch.einsum("qtc,nsc->qnts", query, vectors)
        best = cosine.masked_fill(~real[None, :, None], -torch.inf).amax(-1)  # over the text's tokens, (Q, n, T)
        found.append((best * query_mask[:, None]).sum(-1))
    return torch.cat(found, dim=1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.late(max_sim)

# %% [markdown]
# The lesson goes on with yours, if it passes:

# %% tags=["nbval-check-output"]
max_sim = check.mine("21.5", max_sim)

# %% [markdown]
# The same number as in the small case, and then the search: 100 questions, the first 32 token vectors of each, among 500 bodies, with the token vectors of `docs-contrastive`. It was never
# trained for this, only its mean was. Are its single tokens good for anything? The controls take other vectors for the same tokens: the encoder's *table*, which knows no
# context; and a *random* table, in which equal tokens are equal and all others nearly unrelated.

# %%
whole = torch.ones(1, 3, dtype=torch.bool)
print(f"{max_sim(question[None], whole[:, :2], text[None], whole).item():.1f}")
n_late, cut_at = 100, 32
q_ids, t_ids = pad(short[0], tokenizer.pad_id)[0], pad(short[1], tokenizer.pad_id)[0]
table = encoder.encoder.tokens.weight.detach()
random_table = torch.randn(table.shape, generator=seeded(seed, 5))
kinds = {
    "last layer": (q_tokens, t_tokens),
    "its table, no context": (table[q_ids], table[t_ids]),
    "a random table": (random_table[q_ids], random_table[t_ids]),
}
late_scores = {
    name: max_sim(q[:n_late, :cut_at], q_mask[:n_late, :cut_at], t, t_mask, chunk=32) for name, (q, t) in kinds.items()
}
late_scores["one vector a text"] = (q_vectors @ t_vectors.T)[:n_late]
late_scores["BM25"] = bm25[:n_late]
single = reciprocal_ranks(late_scores["one vector a text"], own[:n_late])
print(f"{'':>22}  MRR    against one vector a text (95 %)")
for name, s in late_scores.items():
    shown = "" if name == "one vector a text" else against(reciprocal_ranks(s, own[:n_late]), single)
    print(f"{name:>22}: {mrr(s, own[:n_late]):.3f}  {shown}")
late_mrr = {name: mrr(s, own[:n_late]) for name, s in late_scores.items()}
assert (
    late_mrr["last layer"] > late_mrr["a random table"] + 0.15 and late_mrr["BM25"] > late_mrr["a random table"] + 0.15
)
assert late_mrr["its table, no context"] < late_mrr["a random table"] + 0.02

# %% [markdown]
# Nobody trained the single tokens for this, and yet on these 100 questions they are undecided against the single vector, and far ahead of the table's vectors. The encoder's own table, as it is, is no better
# than a random one. So the layers make the tokens useful. How much of that is context is not measured: a token that goes through the layers alone is changed, too, and the table may gain if its mean is
# subtracted (try both). A random table is nearly a search for equal tokens. BM25 finds much more with equal words; it also has a weight for rare ones, a rule for long texts, stems, and the parts of names.
# ([CLS] and [SEP] are tokens like others here, as in ColBERT.)
#
# And mixed with BM25, in place of the single vector? A weight that is good for one need not be good for the other, so here are several:

# %% tags=["times"]
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6)
print(f"{'BM25’s weight':>22}  " + "  ".join(f"{w:5.1f}" for w in WEIGHTS))
best_of = {}
for name in ("one vector a text", "last layer", "a random table"):
    each = [reciprocal_ranks(fuse(bm25[:n_late], late_scores[name], w), own[:n_late]) for w in WEIGHTS]
    best_of[name] = max(each, key=lambda v: v.mean())
    print(f"{'BM25 + ' + name:>24}  " + "  ".join(f"{v.mean():.3f}" for v in each))
print(
    f"last layer against one vector, each at its best: {against(best_of['last layer'], best_of['one vector a text'])}"
)
numbers = int(t_mask.sum()) * C
print(
    f"one vector a text: {500 * C:,} numbers for 500 texts; all tokens: {numbers:,}, {numbers / (500 * C):.0f} times as many"
)
one_question = milliseconds(lambda: max_sim(q_tokens[:1, :cut_at], q_mask[:1, :cut_at], t_tokens, t_mask))
print(f"one question against the tokens of all 500 texts: {one_question:.0f} ms")
level = paired_bootstrap(best_of["last layer"], best_of["one vector a text"])
assert level[1] < 0 < level[2]

# %% [markdown]
# (Each best weight is chosen on these very questions, which flatters both.) The two are undecided. The memory is the price of late interaction: that many times the numbers. (GTE-ModernColBERT, for example, reduces each vector to 128.)

# %% [markdown]
# ## 7. Can a cheap model learn from the slow one?
#
# **Distillation**: let the cross-encoder score candidates of training questions, and train a model that is cheap to use to give like scores. The two models' scores
# have different scales, so Hofstätter et al. (2020) compare *margins*, the right text's score minus a wrong one's:
#
# $$\text{Margin-MSE} = \text{mean}\left[ \left( (s^+ - s^-) - (t^+ - t^-) \right)^2 \right]$$
#
# with s for the student and t for the teacher. (Our student's scores are cosines times a learned scale.) Our student is as cheap as can be: one matrix M, 192 × 192, that moves a question's vector before the cosine is taken; the vectors of
# the texts stay as they are in the index. Two controls have the same candidates and the same steps: one learns from the *labels* only (right or wrong), the other from the teacher's margins for *another question*.
#
# The candidates are 300 questions of the validation split, each with its right text and four wrong ones that BM25 found. Not of the training split: there both models were trained on these very
# pairs, so their scores there say little about new ones. Before anything is trained: who puts the right one of the five first more often, the teacher or its student?

# %%
validation = docs.pairs("validation")
drawn = torch.randperm(len(validation), generator=seeded(seed, 22)).tolist()[:300]
v_asked, v_bodies = map(list, zip(*[validation[i] for i in drawn], strict=True))
wrong = hard_negatives(Bm25(v_bodies).scores(v_asked), torch.zeros(300, 300, dtype=torch.bool), 4)
five = torch.cat([torch.arange(300)[:, None], wrong], dim=1)  # the right one and four wrong, (300, 5)
v_ids = [tokenizer.encode_batch(part) for part in (v_asked, v_bodies)]
v_vectors = [mean_vectors(*token_vectors(encoder.encoder, cut(part))) for part in v_ids]
teacher = trained.scores([join(v_ids[0][q], v_ids[1][i], keys, T) for q in range(300) for i in five[q].tolist()])
teacher = teacher.view(300, 5)
before = (v_vectors[0][:, None] * v_vectors[1][five]).sum(-1)
right_first = [(scores.argmax(1) == 0).float() for scores in (teacher, before)]
print(f"right one of five first: teacher {right_first[0].mean():.0%}, student {right_first[1].mean():.0%}")
print(f"teacher against student: {against(*right_first)}")

# %% [markdown]
# Now the training, with the test's MRR at several steps:

# %%


def margin_mse(student, teacher):
    """student, teacher: (Q, K) scores, the right text in column 0 -> the mean squared difference of the margins"""
    margins = [scores[:, :1] - scores[:, 1:] for scores in (student, teacher)]
    return (margins[0] - margins[1]).square().mean()


STEPS = (0, 10, 20, 50, 100, 200)


def train_map(loss):
    """Return the reciprocal ranks on the test after each of STEPS of training a matrix that moves the questions' vectors."""
    M, scale = nn.Parameter(torch.eye(C)), nn.Parameter(torch.tensor(3.0))
    optimizer, found = torch.optim.Adam([M, scale], lr=1e-4), []
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            found.append(reciprocal_ranks(F.normalize(q_vectors @ M.detach().T, dim=-1) @ t_vectors.T))
        moved = F.normalize(v_vectors[0] @ M.T, dim=-1)
        student = scale.exp() * (moved[:, None] * v_vectors[1][five]).sum(-1)
        optimizer.zero_grad()
        loss(student).backward()
        optimizer.step()
    return found


curves = {
    "margins of the teacher": train_map(lambda s: margin_mse(s, teacher)),
    "labels only": train_map(lambda s: F.cross_entropy(s, torch.zeros(300, dtype=torch.long))),
    "margins of another question": train_map(lambda s: margin_mse(s, teacher.roll(1, 0))),
}
print(f"{'':>28}  200 steps against none (95 %)")
for name, found in curves.items():
    print(f"{name:>28}  {against(found[-1], found[0])}")
taught, shuffled = curves["margins of the teacher"], curves["margins of another question"]
print(f"the teacher’s margins against another question’s, 200 steps: {against(taught[-1], shuffled[-1])}")
start = taught[0].mean()
best = max((v.mean() - start, STEPS[i], name) for name, found in curves.items() for i, v in enumerate(found))
print(f"the best of all: {best[0]:+.3f}, {best[2]} after {best[1]} steps; the start is {start:.3f}")
assert best[0] < 0.02 and all(paired_bootstrap(found[-1], found[0])[2] < 0 for found in curves.values())

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.0))
for (name, found), style, colour in zip(
    curves.items(), ("o-", "s--", "^:"), (plots.BLUE, plots.ORANGE, plots.GREY), strict=True
):
    ax.plot(STEPS, [v.mean() for v in found], style, color=colour, label=name)
ax.set(xlabel="steps of training", ylabel="MRR on the test")
ax.legend(fontsize=8)
ax.set_title(f"At these steps never more than {best[0]:+.3f}, and in the end all do harm")
plots.show(fig, alt="The MRR of three trainings over their steps: none rises much above its start.")

# %% [markdown]
# None of the three brings a gain worth the name at any of these steps, and after 200 all have made it worse, the one with the right labels as well. So the harm is not the teacher's alone. A matrix has
# 36,864 numbers, and 300 questions are perhaps too few for them, or the candidates, all hits of BM25, too unlike the 500 texts of the test. The control says more. The margins of *another question* do as
# much or as little as the teacher's own (the interval says whether), so with these questions nothing can be shown to come from the teacher. (Another seed draws other questions.) A teacher should know
# something that its student does not, *on the questions that it is asked*, and the first cell shows by how little ours is ahead, if at all. Hofstätter et al. had the questions of MS MARCO, far more than
# ours.

# %% [markdown]
# ## 8. Questions as people might type them
#
# The summary of a body is a polite question. The course has a set of questions as somebody would type them, in eight kinds, with graded answers: 3 answers fully, 2 in part or with a
# detour, 1 is related, everything else 0. They were written before any search was made, and graded: the first 15 hits of three searches, and what else the writer knew. (Language models
# wrote and graded them. A second reader, who did not see the first grades, gave the same grade to 81.5 % of the pairs that are not 0 for both; over all pairs quadratic kappa is 0.97, unweighted 0.89, as the head of
# `data/questions.toml` reports. Both may be the same model with one rule. So that shows that the rule can be followed, not that people would grade so. Everything that was not found counts as 0,
# which is unkind to a new kind of search.)
#
# With **grades** in place of one right answer, nDCG@k is the measure (lesson 12). The grade itself is the gain here; others take $2^g - 1$.
#
# $$\text{nDCG@}k = \frac{\sum_{r \le k} g_r / \log_2(1 + r)}{\text{the same for the best order of all texts}}$$

# %% tags=["nbval-check-output"]
from nextbert_lite.files import share_dir

typed_questions = tomllib.loads((share_dir("data") / "questions.toml").read_text(encoding="utf-8"))["question"]
print(f"{len(typed_questions)} questions, {sum(len(q['answers']) for q in typed_questions)} graded answers")
for q in typed_questions[:2]:
    print(f"{q['text']}: {', '.join(f'{name} {grade}' for name, grade in list(q['answers'].items())[:3])} …")

# %% [markdown]
# ### Exercise 21.6 · find the bug ●●○ · 20 minutes
#
# A colleague measures with graded answers and reports two strange things. A search that puts one weakly related text first, and finds none of the three texts that would answer fully, gets the
# best possible value. And a search that gives all texts the same score gets another value when the corpus is sorted by name.
#
# ```python
# def graded_ndcg(scores, grades, k):
#     worth = 1 / torch.log2(2 + torch.arange(k))
#     order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
#     gained = grades.gather(1, order)
#     best = gained.sort(dim=1, descending=True).values
#     return ((gained * worth).sum(1) / (best * worth).sum(1).clamp(min=1e-9)).mean().item()
# ```
#
# Write it right. `scores` and `grades` are (Q, N); a grade is 0 or more and is itself the gain, and each question has a text with a grade above 0; k is at most N. The value is the mean over the questions
# of DCG@k / (the DCG@k of the best order that there is), a number. Texts with equal scores stand in every order equally often: take the mean over these orders, exactly. Change no argument. Write the measure
# itself: do not call `ndcg_at` (loops, and what else the package offers, are fine).


# %% tags=["exercise-21.6"]
def graded_ndcg(scores, grades, k):
    """scores, grades: (Q, N) -> nDCG@k, the mean over the queries, a float"""
    ### BEGIN SOLUTION
    N = scores.shape[1]
    worth = 1 / torch.log2(2 + torch.arange(N, dtype=torch.float64))
    worth[k:] = 0
    above = (scores[:, None] > scores[:, :, None]).sum(2)  # texts with a higher score, (Q, N)
    equal = (scores[:, None] == scores[:, :, None]).sum(2)
    upto = F.pad(worth.cumsum(0), (1, 0))  # what the first 0, 1, … ranks are worth together
    mean_worth = (upto[above + equal] - upto[above]) / equal
    best = grades.sort(dim=1, descending=True).values
    return ((grades * mean_worth).sum(1) / (best * worth).sum(1)).mean().item()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.graded_measure(graded_ndcg)

# %% [markdown]
# The lesson goes on with the package's `ndcg_at`. These questions are asked to all documents of the corpus, thousands of them, as the command `nextbert-lite search` does. (Most of
# these documents, but none of the questions, were in the training of both models.) BM25 can do that here and now; the vectors of all documents take minutes, so what needs them is
# stored.

# %%
all_documents = docs.documents
names_of = [d.name for d in all_documents]
place_of = {name: i for i, name in enumerate(names_of)}
people_grades = torch.zeros(len(typed_questions), len(names_of))
for i, q in enumerate(typed_questions):
    for name, grade in q["answers"].items():
        if name in place_of:
            people_grades[i, place_of[name]] = grade
answered = people_grades.sum(1) > 0
typed = [q["text"] for q in typed_questions]


def each_ndcg(scores, grades):
    """Return nDCG@10 of each question, a list."""
    return [ndcg_at(s[None], 10, grades=g[None]) for s, g in zip(scores, grades, strict=True)]


by_words = Bm25([f"{d.name}\n{d.text}" for d in all_documents]).scores(typed)
results_people = []
if every_row:
    from nextbert_lite.course.documentation import open_index
    from nextbert_lite.use.search import WEIGHT

    index = open_index()
    typed_first = fuse(by_words, embed(typed, (encoder, tokenizer)) @ index.vectors.T, WEIGHT)
    typed_ids = tokenizer.encode_batch(typed)
    all_ids = tokenizer.encode_batch([d.text for d in all_documents])
    typed_top, typed_scores = read_again(trained, typed_first, typed_ids, all_ids)
    typed_searches = {"bm25": by_words, "fusion": typed_first}
    typed_searches["reranked"] = reordered(typed_first, typed_top, typed_scores, share)
    typed_searches["alone"] = reordered(typed_first, typed_top, typed_scores, 0.0)
    each = {name: each_ndcg(s[answered], people_grades[answered]) for name, s in typed_searches.items()}
    kinds_of = [q["kind"] for q, yes in zip(typed_questions, answered, strict=True) if yes]
    results_people = [
        {"seed": seed, "kind": kind} | {name: v[i] for name, v in each.items()} for i, kind in enumerate(kinds_of)
    ]

# %% [markdown]
# The live row and the stored ones:

# %%
people = stored_table("21_people")
typed_values = {
    name: torch.tensor([float(r[name]) for r in people]) for name in ("bm25", "fusion", "reranked", "alone")
}
live_bm25 = ndcg_at(by_words[answered], 10, grades=people_grades[answered])
print(f"BM25: here {live_bm25:.3f}, stored {typed_values['bm25'].mean():.3f}")
assert abs(live_bm25 - typed_values["bm25"].mean()) < 0.001
for name, v in typed_values.items():
    print(f"{name:>9}: nDCG@10 {v.mean():.3f}  {'' if name == 'fusion' else against(v, typed_values['fusion'])}")
typed_gain = {name: paired_bootstrap(typed_values[name], typed_values["fusion"]) for name in ("reranked", "alone")}
assert typed_gain["alone"][2] < 0 and typed_gain["reranked"][1] < 0 < typed_gain["reranked"][2]

# %% [markdown]
# The differences are those against *fusion*, BM25 with the encoder. With 64 questions, only where two searches rank almost alike is the interval narrow. The mixture is undecided, as among the summaries. The
# cross-encoder **alone** is behind, and that is so among the summaries as well. Whether it is the language of the questions, the names, which it does not read and BM25 does, the texts, which begin with
# their summaries here, or the reader itself, this table cannot say.
#
# By kind of question, nDCG@10:

# %%
kinds_asked = [r["kind"] for r in people]
for kind in dict.fromkeys(kinds_asked):
    of_kind = torch.tensor([k == kind for k in kinds_asked])
    values = "  ".join(f"{name} {typed_values[name][of_kind].mean():.2f}" for name in ("bm25", "fusion", "reranked"))
    print(f"{kind:>10} ({int(of_kind.sum()):>2}): {values}")
in_kind = {k: typed_values["fusion"][torch.tensor([x == k for x in kinds_asked])].mean() for k in set(kinds_asked)}
assert min(in_kind, key=in_kind.get) == "paraphrase"

# %% [markdown]
# Lowest are the *paraphrases*, which share few words with their answer. (Small groups: read the differences within them as anecdotes.)

# %% [markdown]
# ## 9. The command
#
# ```
# nextbert-lite search "invert a matrix" --rerank
# ```
#
# reads the first 20 hits again and mixes the two scores, as above. (On the typed questions that changed nothing that 64 questions can show.) In Python, the scores of three texts:

# %%
reader = Reranker.load("docs-rerank")
three = ["Invert the x axis of the plot.", "Return the inverse of a square matrix.", "Draw a histogram of the values."]
for text, score in zip(three, reader.scores("invert a matrix", three).tolist(), strict=True):
    print(f"{score:+.1f}  {text}")

# %% [markdown]
# ## What to remember
#
# * A second look costs many times the first, and it is worth that only if an interval on new questions says so. Here it does not.
# * **Retrieve, then rerank**: a cheap search over everything, a slow reader for its first hits. recall@k of the first is the proportion that
#   the second can put first at best.
# * A **cross-encoder** lets every token of the question see every token of the text. It costs a pass for each pair, and nothing can be
#   computed in advance.
# * **Mix** its scores with those of the first search, with a weight chosen on validation, and report the gain on a *test* that was not looked at. A small
#   cross-encoder alone can be worse than the search whose hits it reads.
# * **Hard negatives** come from a search, and near-duplicates of the answer come with them. Some may be false negatives;
#   of those read here more were siblings of the answer, which the model has to tell apart. Read some before you take them out.
# * **Late interaction** keeps a vector for each token of a text: computed in advance, and many times the memory.
# * A distillation needs **controls**: the same student with labels only, and with the teacher's scores of another question. And measure first whether the teacher is
#   better than its student on these questions.
# * For **graded answers** use nDCG, with the best order of *all* texts in the denominator, ties by their mean, and an interval over the questions.

# %% [markdown]
# **What this scale cannot show.** A cross-encoder of two and a half million weights, trained for half an hour on five thousand summaries, says little about one that was trained
# on hundreds of thousands of real questions. There is one reader here, from one seed. It was trained with 96 tokens a row and reads 128, so of a long text it sees the beginning
# only, while BM25 counts all of it. The sizes of the gains are those of this corpus. The typed questions are few, graded by language models from the hits of three searches,
# none of them a reranker. And approximate search, which makes the first stage fast among millions, is not needed here at all.
#
# **What the field did since.** Large language models were asked to rank the hits themselves: "properly instructed LLMs can
# deliver competitive, even superior results to state-of-the-art supervised methods on popular IR benchmarks" (Sun et al. 2023).
# BEIR, a benchmark of search on 18 data sets (lesson 12), found that "re-ranking and late-interaction-based models on average
# achieve the best zero-shot performances, however, at high computational costs". Sentence Transformers got a new trainer for
# rerankers in 2025; in its announcement a small model, trained on the data at hand, "easily outperforms" 13 public ones on that
# data, some of them larger. Thakur et al. (2025) let language models look for false negatives in training sets, relabel them as
# right, and gain by it, for encoders and rerankers alike. Late interaction came back with PyLate (Chaffin and Sourty 2025) and
# GTE-ModernColBERT, a ColBERT on the modern encoder of lesson 15, with 128 numbers a token, trained by distillation. And Jacob
# et al. (2024) let rerankers read more and more hits: the best ones "provide initial improvements when scoring progressively
# more documents, but their effectiveness gradually declines and can even degrade quality beyond a certain limit".
#
# **An open problem.** One would hope that a reader who sees more never does worse, and yet the rerankers of Jacob et al. did when they were given more hits. A score that
# was trained on the first hits of one search may mean little for texts that this search would never have found. How do you train a reader that can be trusted
# with *any* text?
#
# **Where this comes from**
#
# * Rodrigo Nogueira and Kyunghyun Cho, *Passage Re-ranking with BERT*, 2019, [arXiv:1901.04085](https://arxiv.org/abs/1901.04085).
# * Lila Boualili, Jose Moreno and Mohand Boughanem, *MarkedBERT: Integrating Traditional IR Cues in Pre-trained Language Models for Passage Retrieval*,
#   SIGIR 2020, [doi:10.1145/3397271.3401194](https://doi.org/10.1145/3397271.3401194).
# * Omar Khattab and Matei Zaharia, *ColBERT*, 2020, [arXiv:2004.12832](https://arxiv.org/abs/2004.12832); Antoine Chaffin and Raphaël Sourty, *PyLate: Flexible Training and
#   Retrieval for Late Interaction Models*, 2025, [arXiv:2508.03555](https://arxiv.org/abs/2508.03555), and the model card of
#   [GTE-ModernColBERT-v1](https://huggingface.co/lightonai/GTE-ModernColBERT-v1).
# * Lee Xiong et al., *Approximate Nearest Neighbor Negative Contrastive Learning for Dense Text Retrieval* (ANCE), 2020,
#   [arXiv:2007.00808](https://arxiv.org/abs/2007.00808); Yingqi Qu et al., *RocketQA*, 2020, [arXiv:2010.08191](https://arxiv.org/abs/2010.08191); Nandan Thakur et al.,
#   *Hard Negatives, Hard Lessons* (on arXiv at first: *Fixing Data That Hurts Performance*), 2025, [arXiv:2505.16967](https://arxiv.org/abs/2505.16967).
# * Sebastian Hofstätter et al., *Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation*, 2020,
#   [arXiv:2010.02666](https://arxiv.org/abs/2010.02666).
# * Luyu Gao, Zhuyun Dai and Jamie Callan, *Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline*, 2021, [arXiv:2101.08751](https://arxiv.org/abs/2101.08751);
#   Weiwei Sun et al., *Is ChatGPT Good at Search? Investigating Large Language Models as Re-Ranking Agents*, 2023, [arXiv:2304.09542](https://arxiv.org/abs/2304.09542).
# * Mathew Jacob et al., *Drowning in Documents: Consequences of Scaling Reranker Inference*, 2024, [arXiv:2411.11767](https://arxiv.org/abs/2411.11767).
# * Tom Aarsen, [Training and Finetuning Reranker Models with Sentence Transformers v4](https://huggingface.co/blog/train-reranker), 2025.
# * Frank McSherry and Marc Najork, *Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores*, ECIR 2008.
#
# **Next:** lesson 22 looks inside a model and asks which explanations you can believe.
