# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Attention
#     question: How does a word find the other words it needs?
#     minutes: 75
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 02 · Attention
#
# > the cook near the ovens **praises** the waiters in the kitchen
#
# Why *praises* and not *praise*? The word just before it, *ovens*, is plural. The verb agrees with *cook*, four words to
# the left. To choose its form, the verb must find *cook*, past everything that stands between them, and nobody tells it
# where to look.
#
# **The question of this lesson:** how does a word find the other words it needs?
#
# | | |
# |---|---|
# | You will | build attention from loops to one line, know why it divides by √D, hide padding without the usual bugs, and train one attention that finds the subject of a verb |
# | You need | lesson 00: Python, tensors, matrix products, softmax, one training loop |
# | It takes | about 75 minutes, six exercises; the machine needs seconds |
#
# At the end a model will have learned to draw this arc by itself, in this sentence and in others:

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import COURSE_SENTENCE, ToyWorld, plots
from nextbert_lite.checks import lesson_02 as check

torch.manual_seed(0)
words = COURSE_SENTENCE.split()
verb, subject, attractor = words.index("praises"), words.index("cook"), words.index("ovens")

wanted = F.one_hot(torch.tensor(subject), len(words)).float()
fig = plots.attention_from(wanted, words, verb, title="The verb must find cook, past ovens")
plots.show(fig, alt="The course's sentence with one arc, from the verb praises back over ovens to its subject cook.")

# %% [markdown]
# ## 1. Words as vectors that you can read
#
# A model turns each word into a vector of numbers. In a trained model no human can say what one number means. So that we
# can, we write the vectors by hand: eight features, each 0 or 1. The verb's own number is left open: it is what we want to
# find out.

# %% tags=["nbval-check-output"]
features = ["person", "thing", "place", "verb", "small word", "singular", "plural", "first noun"]
lexicon = {
    "cook": ["person", "singular", "first noun"],
    "waiters": ["person", "plural"],
    "ovens": ["thing", "plural"],
    "kitchen": ["place", "singular"],
    "praises": ["verb"],
}
x = torch.tensor([[float(f in lexicon.get(w, ["small word"])) for f in features] for w in words])  # (T, C)
T, C = x.shape
print(f"T = {T} words, C = {C} features")
for word, row in zip(words, x.int().tolist(), strict=True):
    print(f"{word:>8}", row)

# %% [markdown]
# Each word now plays three parts.
#
# * Its **query** says what it is looking for.
# * Its **key** says what it can be found by.
# * Its **value** is what it hands over to a word that found it.
#
# Think of a library: your request is the query, the label on a book's spine is a key, what is written inside is the value.
# A dictionary in Python needs the exact key. Attention is softer: every key matches a bit, and you read a blend of all
# the books, most of it from the best match.
#
# Query, key and value are made from the same vector by three matrices. A model learns them. We write them: a verb looks
# for a person and for the first noun, and a noun looks for words of its own number. The 10 makes the choice clear-cut.

# %% tags=["nbval-check-output"]
W_query = torch.zeros(C, C)  # row: what the word is; column: what it looks for
for is_a, looks_for in [("verb", "person"), ("verb", "first noun"), ("singular", "singular"), ("plural", "plural")]:
    W_query[features.index(is_a), features.index(looks_for)] = 10.0
W_key = torch.eye(C)  # a word is found by its own features
W_value = torch.eye(C)  # and hands them over

q, k, v = x @ W_query, x @ W_key, x @ W_value  # each (T, D); here D = C
D = q.shape[-1]
print("the verb looks for", {f: n for f, n in zip(features, q[verb].tolist(), strict=True) if n})

# %% [markdown]
# ## 2. One query, by hand
#
# How well does a key fit a query? Multiply feature by feature and add up: the **dot product** $q \cdot k$. We do it for
# one query, *praises*, with plain loops. (Why we divide by $\sqrt{D}$ is section 4.)
#
# Before you run the cell, guess: which word gets the largest score? Which one comes second?

# %% tags=["nbval-check-output"]
scores = []
for j in range(T):
    dot = 0.0
    for d in range(D):
        dot += float(q[verb, d] * k[j, d])
    scores.append(dot / math.sqrt(D))

for word, score in zip(words, scores, strict=True):
    print(f"{word:>8} {score:6.3f}")
assert max(range(T), key=scores.__getitem__) == subject

# %% [markdown]
# *cook* fits twice, as a person and as the first noun. *waiters* fits once.
#
# Scores can be any number. We want shares of attention: none negative, all together 1. That is what **softmax** does:
#
# $$w_j = \frac{e^{s_j}}{\sum_i e^{s_i}}$$

# %% tags=["nbval-check-output"]
exponentials = [math.exp(s) for s in scores]
weights_by_hand = [e / sum(exponentials) for e in exponentials]

for word, w in zip(words, weights_by_hand, strict=True):
    print(f"{word:>8} {w:.3f} " + "█" * round(40 * w))
assert abs(sum(weights_by_hand) - 1) < 1e-6

# %% [markdown]
# Most of the attention goes to *cook*. *ovens*, the nearest noun, gets next to none.
#
# What the verb reads is the **weighted sum of the values**:
#
# $$o = \sum_j w_j\, v_j$$

# %% tags=["nbval-check-output"]
output_by_hand = [0.0] * D
for j in range(T):
    for d in range(D):
        output_by_hand[d] += weights_by_hand[j] * float(v[j, d])

for feature, number in zip(features, output_by_hand, strict=True):
    print(f"{feature:>10} {number:.3f}")
assert output_by_hand[features.index("singular")] > 0.9 > 0.1 > output_by_hand[features.index("plural")]

# %% [markdown]
# The verb has read *singular* from the rest of the sentence, although nothing in its query asked for a number. That settles
# *praises* against *praise*.
#
# ### Exercise 02.1 · softmax of each row ●○○ · 8 minutes
#
# Write softmax for a matrix of scores `(T, S)`, T queries by S keys: each row becomes shares that sum to 1. (torch has it
# built in; write it with `exp` and `sum`.) One catch: in float32, `exp(89)` is infinite.

# %% tags=["nbval-check-output"]
print(torch.tensor([88.0, 89.0]).exp())


# %% tags=["exercise-02.1"]
def softmax_rows(scores):
    """scores: (T, S) -> weights (T, S), each row sums to 1."""
    ### BEGIN SOLUTION
    exponentials = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.softmax_rows(softmax_rows)

# %% [markdown]
# ## 3. All queries at once
#
# The loops over `j` and `d` are a matrix product. The dot products of *all* queries with *all* keys are $Q K^\top$:
# row $i$ holds the scores of query $i$.

# %% tags=["nbval-check-output"]
score_matrix = q @ k.T / math.sqrt(D)  # (T, T)
weight_matrix = score_matrix.softmax(dim=-1)  # (T, T), each row sums to 1
output_matrix = weight_matrix @ v  # (T, D)

print("by hand:  ", [round(w, 4) for w in weights_by_hand[:6]])
print("by matrix:", [round(w, 4) for w in weight_matrix[verb, :6].tolist()])
torch.testing.assert_close(weight_matrix[verb], torch.tensor(weights_by_hand))
torch.testing.assert_close(output_matrix[verb], torch.tensor(output_by_hand))

# %% [markdown]
# The same numbers, for all words in three lines. A matrix of weights is best looked at. Read it by rows: a row is the
# word that looks, a column the word that is looked at.

# %%
fig = plots.attention_map(weight_matrix, words, title="praises looks past ovens and finds cook")
plots.show(
    fig,
    alt=f"Attention map of 11 words. The row praises has its largest weight, {weight_matrix[verb, subject]:.2f}, "
    f"on cook and {weight_matrix[verb, attractor]:.2f} on ovens. Small words look everywhere equally.",
)

# %% [markdown]
# (Weights under 0.005 are left without a number.) Small words such as *the* look for nothing: all their scores are 0, so
# they look everywhere equally, 1/11 each. There is no way to look nowhere: a row always sums to 1.
#
# The row of the verb is the arc that we wanted, now computed:

# %%
fig = plots.attention_from(weight_matrix[verb], words, verb, title="Computed: praises looks at cook")
plots.show(fig, alt=f"One thick arc from praises to cook, {weight_matrix[verb, subject]:.2f}, and two faint ones.")

# %% [markdown]
# Now touch it. A row is where one word looks: the arcs above the words. A *column* is who looks at a word: the dashed arcs below. Walk
# over the words with the pointer or the arrow keys. Each row sums to 1; do the columns? Which word is looked at most?

# %%
from nextbert_lite import AttentionExplorer, show

view = AttentionExplorer(words, weight_matrix, token=verb, title="Which word is looked at most?")
show(view, alt="The map of the eleven words, to be pointed at. At first praises is chosen, with a thick arc to cook.")

# %% [markdown]
# Found it? Here are the sums of the columns.

# %% tags=["nbval-check-output"]
looked_at = weight_matrix.sum(dim=0)  # (T,), a sum for each column
for word, total in zip(words, looked_at.tolist(), strict=True):
    print(f"{word:>8} {total:.2f}")
assert words[looked_at.argmax()] == "cook" and looked_at.max() > 1.2 and looked_at.min() < 1

# %% [markdown]
# Nothing makes a column sum to 1. Every word has the same amount of looking to give; how much it gets depends on the others.

# %% [markdown]
# ## 4. Why divide by √D?
#
# ### Exercise 02.2 · predict the result ●○○ · 4 minutes
#
# Take queries and keys whose features are independent random numbers with mean 0 and variance 1. Their dot product adds
# up D such products. By which **factor** does the standard deviation of $q \cdot k$ grow when D goes from 16 to 64?
# Guess before you go on; the next cells measure it.

# %% tags=["exercise-02.2"]
factor = None
### BEGIN SOLUTION
factor = 2.0  # the variance of a sum of D independent terms grows like D, its root like √D: √(64 / 16)
### END SOLUTION

# %% tags=["nbval-check-output"]
check.spread(factor)

# %% [markdown]
# Each product $q_d k_d$ has mean 0 and variance 1. Variances of independent terms add up, so
#
# $$\mathrm{Var}(q \cdot k) = \sum_{d=1}^{D} \mathrm{Var}(q_d k_d) = D .$$
#
# Measured, on 4,000 random pairs for each D:

# %%
generator = torch.Generator().manual_seed(0)
sizes = [4, 16, 64, 256, 1024]
for size in sizes:
    pair = torch.randn(2, 4000, size, generator=generator)
    variance = (pair[0] * pair[1]).sum(-1).var().item()
    print(f"D = {size:4}   Var(q·k) = {variance:7.1f}   Var(q·k) / D = {variance / size:.2f}")
    assert abs(variance / size - 1) < 0.15  # five standard errors at the smallest D

# %% [markdown]
# Large scores are a problem for softmax. It turns *differences* of scores into *ratios* of weights: a score that is 10
# larger gets $e^{10}$ times the weight, more than twenty thousand. So with many features, softmax without the division picks one key
# and ignores the rest; and where a weight is 0 or 1 it no longer changes when the score changes a little: no gradient, no
# learning.
#
# We measure both: the **entropy** of a row of weights, $-\sum_j w_j \ln w_j$ (0 when one key gets everything, $\ln 11$
# when all 11 get the same), and how much the weights move when the scores move a little, the size of softmax's derivative.


# %%
def entropy(weights):
    """Mean entropy of the rows, in nats."""
    return -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean().item()


def gradient_size(weights):
    """Mean size of the table of all ∂w_i / ∂s_j, which is diag(w) - w wᵀ, over the rows."""
    jacobian = torch.diag_embed(weights) - weights[..., :, None] * weights[..., None, :]
    return jacobian.flatten(1).norm(dim=-1).mean().item()


measured = {"q·k": [], "q·k / √D": []}
for size in sizes:
    query, keys = torch.randn(500, 1, size, generator=generator), torch.randn(500, 11, size, generator=generator)
    dots = (query * keys).sum(-1)  # (500, 11)
    for name, row in {"q·k": dots, "q·k / √D": dots / math.sqrt(size)}.items():
        weights = row.softmax(-1)
        measured[name].append((entropy(weights), gradient_size(weights)))

# %%
fig, axes = plots.figure(1, 2, size=(8.0, 3.3))
for name, marker in {"q·k": "s--", "q·k / √D": "o-"}.items():
    for ax, column in zip(axes, (0, 1), strict=True):
        ax.plot(sizes, [row[column] for row in measured[name]], marker, label=name)
axes[0].axhline(math.log(11), color=plots.GREY, linewidth=1, linestyle=":")
axes[0].text(4, math.log(11) + 0.04, "all keys alike: ln 11", color=plots.GREY, fontsize=9)
axes[0].set(xscale="log", xlabel="D, features of a query", ylabel="entropy (nats)", ylim=(0, 2.7))
axes[1].set(xscale="log", xlabel="D, features of a query", ylabel="norm of softmax's derivative", ylim=(0, None))
for ax in axes:
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
axes[0].set_title("Undivided, one key takes it all")
axes[1].set_title("… and the gradient fades with D")
axes[1].legend()
raw, divided = measured["q·k"], measured["q·k / √D"]
plots.show(
    fig,
    alt=f"Two panels over D from 4 to 1024. Without the division entropy falls to {raw[-1][0]:.2f} nats and the "
    f"derivative to {raw[-1][1]:.2f}; with it they stay near {divided[-1][0]:.2f} and {divided[-1][1]:.2f}.",
)
assert raw[-1][0] < 0.2 and raw[-1][1] < 0.3 * divided[-1][1]
assert max(row[0] for row in divided) - min(row[0] for row in divided) < 0.15

# %% [markdown]
# Divided by √D, such scores have variance 1 whatever D is, and the softmax starts in the region where it can learn. This
# is the *scaled* in "scaled dot-product attention" (Vaswani et al. 2017, section 3.2.1).
#
# A model is free to make its scores large later, by learning large queries. We did just that with the 10.0 above.
#
# ### Exercise 02.3 · attention ●●○ · 10 minutes
#
# Now put it together, without loops. Return the output *and* the weights.
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{D}}\right) V$$


# %% tags=["exercise-02.3"]
def attention(q, k, v):
    """q, k, v: (T, D) -> output (T, D), weights (T, T)."""
    ### BEGIN SOLUTION
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights @ v, weights
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.attention(attention)

# %% [markdown]
# ## 5. A function that takes any batch
#
# A model handles B sentences at once, and later H heads at once: queries of shape `(B, T, D)` or `(B, H, T, D)`. Only the
# last two dimensions take part in attention. So we write `k.transpose(-2, -1)` in place of `k.T`, and the same lines work
# for every shape. Version 1:


# %% tags=["nbval-check-output"]
def attention_v1(q, k, v):
    """q: (..., T, D), k: (..., S, D), v: (..., S, D) -> (..., T, D) and (..., T, S)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


output, weights = attention_v1(q, k, v)
torch.testing.assert_close(output, output_matrix)  # the numbers of section 3 again
print("one sentence: ", tuple(output.shape))

batch = torch.randn(3, 8, 5, 4, dtype=torch.float64, generator=generator)  # B = 3, H = 8, T = 5, D = 4
print("B = 3, H = 8: ", tuple(attention_v1(batch, batch, batch)[0].shape))

# %% [markdown]
# torch has this function too, written for speed: it need not store the `(T, S)` matrix of weights. Is ours the same? In
# float64, to ten digits, in the output and in the gradients:

# %% tags=["nbval-check-output"]
q64, k64, v64 = (torch.randn(2, 8, 5, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3))
ours, _ = attention_v1(q64, k64, v64)
torchs = F.scaled_dot_product_attention(q64, k64, v64)
torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-10)

for mine, theirs in zip(
    torch.autograd.grad(ours.square().sum(), [q64, k64, v64]),
    torch.autograd.grad(torchs.square().sum(), [q64, k64, v64]),
    strict=True,
):
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
print("equal to torch's, values and gradients")

# %% [markdown]
# ## 6. Masks: who may look at whom
#
# Sentences of a batch have different lengths. Short ones are filled up with a `[PAD]` token, which means nothing, so
# nobody may look at it. A **mask** says who may be looked at: a boolean tensor, in which **True means: may be attended
# to**. (torch's older modules mean the opposite. In this course it is the same everywhere.)
#
# Hide the words from *in* on, as if they were padding. How would you do it? Three ideas, one of which is right:

# %% tags=["nbval-check-output"]
mask = torch.tensor([True] * 8 + [False] * 3)  # (T,): the last three words are hidden
row = score_matrix[0]  # the first word, "the": all its scores are 0, it looks everywhere equally

ideas = {
    "scores times mask": (row * mask).softmax(-1),
    "weights times mask": row.softmax(-1) * mask,
    "hidden scores = -inf": row.masked_fill(~mask, -math.inf).softmax(-1),
}
for name, w in ideas.items():
    print(f"{name:>20}:  hidden words get {w[~mask].sum():.4f}, all together {w.sum():.4f}")
assert ideas["scores times mask"][~mask].sum() > 0.2 and ideas["weights times mask"].sum() < 0.8
assert ideas["hidden scores = -inf"][~mask].sum() == 0

# %% [markdown]
# * A score of 0 is not "nothing": $e^0 = 1$, the hidden words still get a share.
# * Hiding after the softmax loses the share that was already given away: the rest no longer sums to 1.
# * A score of $-\infty$ is right: $e^{-\infty} = 0$, and the others share everything.
#
# One trap remains: what if a row may look at *nothing*, as in a text that is all padding?

# %% tags=["nbval-check-output"]
print(torch.full((3,), -math.inf).softmax(-1))

# %% [markdown]
# Zero divided by zero. One NaN like this makes the batch's mean loss NaN, and through its gradient every weight. A word that
# may look at nothing should read nothing: zeros. So we set the hidden weights to 0 once more, after the softmax.
#
# ### Exercise 02.4 · masked weights ●●○ · 10 minutes
#
# From scores `(T, S)` and a mask `(T, S)` make weights: hidden keys get exactly 0, the others of a row sum to 1, and a row
# without any True is all zeros.


# %% tags=["exercise-02.4"]
def masked_weights(scores, mask):
    """scores: (T, S), mask: (T, S), True = may be attended to -> weights (T, S)."""
    ### BEGIN SOLUTION
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.masked_weights(masked_weights)

# %% [markdown]
# The last version of our function. New: the mask, and **dropout**, which sets a share of the weights to zero at random during
# training (outside training that share is 0). `check_mask` makes sure that a mask is boolean and has as many dimensions as the scores; exercise 02.5 shows why.

# %%
from nextbert_lite.validate import check_mask


def scaled_dot_product_attention(q, k, v, mask=None, dropout=0.0):
    """softmax(q kᵀ / √D) v and the weights. mask: boolean, True = may be attended to."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    mask = check_mask(mask, scores.shape)  # new
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:  # new
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
        weights = weights.masked_fill(~mask, 0.0)  # a row without any True: zeros, not NaN
    return F.dropout(weights, dropout) @ v, weights


# %% tags=["nbval-check-output"]
some = torch.rand(2, 1, 5, 5, generator=generator) < 0.5
some[0, 0, 2] = False  # one row that may look at nothing
ours, weights = scaled_dot_product_attention(q64, k64, v64, some)
torchs = F.scaled_dot_product_attention(q64, k64, v64, some)
torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-10)
assert ours.isfinite().all() and (ours[0, :, 2] == 0).all()
print("equal to torch's under a mask too; the empty row reads", ours[0, 0, 2].tolist())

# %% [markdown]
# **What you built is what you import**: the package's `nextbert_lite.core.attention.scaled_dot_product_attention` is this code,
# and a test keeps it so.
#
# ### Exercise 02.5 · find the bug ●●● · 12 minutes
#
# A padding mask has the shape `(B, T)`: one row a text. The function below takes one, and runs without an error. It has a
# bug all the same, one that real projects had. The symptom:

# %%
lengths = torch.tensor([4, 2, 3, 1])
padding_mask = torch.arange(4) < lengths[:, None]  # (B, T) = (4, 4)
texts = torch.randn(4, 4, 8, generator=generator)  # (B, T, D)


def buggy_attention(q, k, v, mask):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, T, T)
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return weights @ v


shorter = padding_mask.clone()
shorter[2, 1:] = False  # text 2 becomes shorter; text 0 is untouched
before = buggy_attention(texts, texts, texts, padding_mask)[0]
after = buggy_attention(texts, texts, texts, shorter)[0]
print("text 0 changes by", [round(c, 2) for c in (after - before).abs().amax(-1).tolist()])
assert (after - before).abs().max() > 0.1

# %% [markdown]
# Text 0 changed although only text 2 did. Texts of a batch must not affect each other. Write the function again, corrected:
# the padded *keys* of each text hidden from all of that text's queries. (What padded queries read does not matter; leave
# them alone.)


# %% tags=["exercise-02.5"]
def padded_attention(q, k, v, mask):
    """q, k, v: (B, T, D), mask: (B, T), True = a real token -> output (B, T, D)."""
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, T, T)
    weights = scores.masked_fill(~mask[:, None, :], -math.inf).softmax(dim=-1)
    return weights @ v
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.padded_attention(padded_attention)

# %% [markdown]
# The bug runs only because B = T = 4: torch takes the mask's rows for queries. With any other batch size it would have been
# an error on the first day. The course's functions refuse such a mask always, and say what to do:

# %% tags=["nbval-check-output"]
try:
    scaled_dot_product_attention(texts, texts, texts, padding_mask)
except ValueError as error:
    print(error)

# %% [markdown]
# ### Exercise 02.6 · the causal mask ●○○ · 5 minutes
#
# BERT's words see the whole sentence. GPT's words see only themselves and what came before, because it predicts the next
# word. That difference is one mask. Write it, as a boolean `(T, T)`.


# %% tags=["exercise-02.6"]
def causal_mask(T):
    """Return a boolean (T, T): may query i (row) attend to key j (column)?"""
    ### BEGIN SOLUTION
    return torch.ones(T, T, dtype=torch.bool).tril()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.causal_mask(causal_mask)

# %% [markdown]
# ## 7. Attention does not know the order
#
# Shuffle the words of the sentence. What happens to the output of *praises*? Guess before you run the cell.

# %% tags=["nbval-check-output"]
order = torch.randperm(T, generator=generator)
shuffled, _ = scaled_dot_product_attention(q[order], k[order], v[order])
print("shuffled:", " ".join(words[i] for i in order))
torch.testing.assert_close(shuffled, output_matrix[order])
print("each word reads exactly what it read before")

# %% [markdown]
# Nothing happens: the outputs are shuffled in the same way, and each word's is as before. This is called **permutation
# equivariance**, and the reason is short. A score depends on two words, not on where they stand; and a sum does not
# depend on the order of its terms.
#
# So to attention without a mask, *the cook praises the waiter* and *the waiter praises the cook* are the same bag of words.
# BERT puts the order in as a vector for each position, added to the word's (lesson 01):

# %%
positions = torch.randn(T, C, generator=generator)  # position 0, 1, 2, …: a vector each
first, _ = scaled_dot_product_attention(*[(x + positions) @ W for W in (W_query, W_key, W_value)])
again, _ = scaled_dot_product_attention(*[(x[order] + positions) @ W for W in (W_query, W_key, W_value)])
change = (again - first[order]).abs().max()
print(f"with positions, the largest change is {change:.2f}")
assert change > 0.1

# %% [markdown]
# ## 8. Learned, not written
#
# We wrote the three matrices by hand, and even told the verb which noun is the first. Can gradient descent find all that?
#
# The task: a sentence of the toy world with its verb hidden, a **gap**; is the verb singular or plural? (The toy world is a
# small language that this course ships. Lesson 01 shows it.)

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()


def with_gap(sentence, position):
    """Return the ids of a sentence with [MASK] in place of one word."""
    shown = [*sentence.words[:position], "[MASK]", *sentence.words[position + 1 :]]
    return tokenizer.encode(" ".join(shown), allow_specials=True)


for question in world.agreement_test(3, seed=5):
    text = " ".join(tokenizer.tokens(with_gap(question.sentence, question.position))[1:-1])
    print(f"{text:80} {question.right} or {question.wrong}?")

# %% tags=["nbval-check-output"]
from nextbert_lite import pad


def make_task(n, seed):
    """Return ids (n, T), mask (n, T), labels (n,) with 1 = plural, and where the subject stands (n,)."""
    questions = world.agreement_test(n, seed=seed)
    ids, mask = pad([with_gap(question.sentence, question.position) for question in questions])
    labels = [int(question.sentence.subject_number == "plural") for question in questions]
    subjects = [1 + question.sentence.position(question.sentence.subject) for question in questions]  # 1: [CLS]
    return ids, mask, torch.tensor(labels), torch.tensor(subjects)


train_ids, train_mask, train_labels, _ = make_task(6000, seed=1)
test_ids, test_mask, test_labels, test_subjects = make_task(1500, seed=2)
chance = max(test_labels.float().mean().item(), 1 - test_labels.float().mean().item())
print(
    f"{len(train_ids)} sentences to train on, {len(test_ids)} to test; always the same answer is right in {chance:.2f}"
)

# %% [markdown]
# The model: word and position vectors, one attention, and two logits read off at the gap. Beside it a twin whose words look
# everywhere equally.


# %%
class VerbNumber(nn.Module):
    """One attention that decides whether the hidden verb is singular or plural."""

    def __init__(self, C=32, look_around=True):
        super().__init__()
        self.look_around = look_around
        self.words = nn.Embedding(tokenizer.vocab_size, C)
        self.places = nn.Embedding(20, C)  # no sentence has more than 16 tokens
        self.query, self.key, self.value = (nn.Linear(C, C, bias=False) for _ in range(3))
        self.read = nn.Linear(C, 2)

    def forward(self, ids, mask):
        """ids, mask: (B, T) -> logits (B, 2) and the gap's attention (B, T)."""
        x = 0.3 * (self.words(ids) + self.places.weight[: ids.shape[1]])  # small vectors to start from
        q = self.query(x) if self.look_around else torch.zeros_like(x)  # a query of zeros: equal weights
        output, weights = scaled_dot_product_attention(q, self.key(x), self.value(x), mask[:, None, :])
        gap = ids == tokenizer.mask_id  # True at one place in each row
        return self.read(output[gap]), weights[gap]

    def loss(self, ids, mask, labels):
        return F.cross_entropy(self(ids, mask)[0], labels)


# %% [markdown]
# `fit` is the course's training loop: that of lesson 00, with what longer training needs. It calls `model.loss` on batch
# after batch. Guess: how often will each of the two be right?

# %%
from nextbert_lite import fit


def batches(step):
    rows = torch.randint(len(train_ids), (64,), generator=torch.Generator().manual_seed(step))
    return {"ids": train_ids[rows], "mask": train_mask[rows], "labels": train_labels[rows]}


def trained(look_around, seed):
    torch.manual_seed(seed)
    model = VerbNumber(look_around=look_around)
    fit(model, batches, steps=400, lr=1e-2, warmup=20)
    return model.cpu()


@torch.no_grad()
def tested(model, mask=test_mask):
    """Return which answers are right (n,) and the gaps' attention (n, T)."""
    logits, weights = model(test_ids, mask)
    return logits.argmax(-1) == test_labels, weights


rows = torch.arange(len(test_ids))
equal, finder = trained(look_around=False, seed=1), trained(look_around=True, seed=1)
for name, model in {"looks everywhere equally": equal, "looks where it wants": finder}.items():
    right, weights = tested(model)
    on_subject = weights[rows, test_subjects].mean()
    print(f"{name:>25}: right in {right.float().mean():.3f}; {on_subject:.2f} of the attention on the subject")
    assert right.float().mean() > 0.98 if model is finder else right.float().mean() < 0.9
assert on_subject > 0.5

# %% [markdown]
# Looking everywhere equally, it knows which words are there and how many are plural, but not which one matters. Given the
# freedom to look, it looks at the subject, and nobody told it where that is. Now our own sentence, with its verb hidden:

# %%
ours = torch.tensor([with_gap(world.parse(COURSE_SENTENCE), verb)])
with torch.no_grad():
    logits, weights = finder(ours, ours != tokenizer.pad_id)
labels = tokenizer.tokens(ours[0])
p_singular = logits.softmax(-1)[0, 0].item()
fig = plots.attention_from(
    weights[0], labels, labels.index("[MASK]"), title="Learned: the gap looks at cook, past ovens"
)
plots.show(fig, alt=f"The course's sentence with a gap for the verb: one thick arc, {weights[0, 2]:.2f}, back to cook.")
print(f"P(singular) = {p_singular:.3f}")
assert labels[weights[0].argmax()] == "cook" and p_singular > 0.95

# %% [markdown]
# That is the arc from the beginning, found by gradient descent.
#
# ### Does it find subjects, or places?
#
# The verb's subject is not always the first noun: *"near the ovens the cook …"*, *"it is the waiters that the cook …"*. So
# let us look construction by construction, and then at two that the training never shows, *"near the ovens it is the cook
# that …"* and *"it is the waiters that the cook is praised by"*. Every word of these is known. Whoever has learned what a
# subject is can do them. Guess before you run the cell.

# %%
unseen = ToyWorld(held_out=True).agreement_test(1500, seed=2)
groups = {}
for kind, questions in {"trained": world.agreement_test(1500, seed=2), "never shown": unseen}.items():
    ids, mask = pad([with_gap(question.sentence, question.position) for question in questions])
    labels_here = torch.tensor([int(question.sentence.subject_number == "plural") for question in questions])
    subjects_here = torch.tensor([1 + q.sentence.position(q.sentence.subject) for q in questions])
    with torch.no_grad():
        logits, weights = finder(ids, mask)
    right, looks = logits.argmax(-1) == labels_here, weights[torch.arange(len(ids)), subjects_here]
    for name in sorted({question.sentence.construction for question in questions}):
        rows_here = torch.tensor([question.sentence.construction == name for question in questions])
        groups[name] = right[rows_here].float().mean().item()
        print(
            f"{kind:>11}: {name:<19} right in {groups[name]:.2f}, attention {looks[rows_here].mean():.2f} on the subject"
        )
assert min(share for name, share in groups.items() if name not in ("fronted late cleft", "stranded passive")) > 0.98
assert groups["fronted late cleft"] < 0.75

# %% [markdown]
# In every construction that it was trained on it is right and looks at the subject, wherever that stands. In one of the
# new ones it is nearly guessing, and looks elsewhere. So it has not learned what a subject is. It has learned which *places*
# to look at from which place: the gap knows where it stands, each word knows where it stands, and in the trained sentences
# that is enough. (The other new construction has its subject where the trained *"it is the waiters that the cook
# praises"* has it, and there the same places do.) "It found the subject" was true of every sentence it had been tested on,
# and still too much said. A test on something *unlike* the training is what tells the two apart.
#
# Be careful with such pictures for another reason. Here are eight runs from eight random starts:

# %%
runs = [trained(look_around=True, seed=seed) for seed in range(8)]
elsewhere = []
for seed, model in enumerate(runs):
    right, weights = tested(model)
    elsewhere.append((weights.argmax(-1) != test_subjects).float().mean().item())
    print(f"start {seed}: right in {right.float().mean():.3f}, looks most at another word in {elsewhere[-1]:.0%}")
    assert right.float().mean() > 0.98

# %% [markdown]
# All are right nearly always, and one start or another looks elsewhere in many sentences. Take the one that does so most. Is
# the word that it looks at what it needs? Hide that word from it, and see what happens to its answers:

# %%
odd = runs[max(range(8), key=elsewhere.__getitem__)]
right, weights = tested(odd)
favourite = weights.argmax(-1)
without = test_mask.clone()
without[rows, favourite] = False
right_without, _ = tested(odd, without)
for name, group in {"its subject": favourite == test_subjects, "another word": favourite != test_subjects}.items():
    if group.any():
        plural = test_labels[group].float().mean()
        print(
            f"looks most at {name:>12}: {plural:.0%} plural; right in {right_without[group].float().mean():.2f} without that word"
        )

# %% [markdown]
# Where it looks at the subject, it needs it. Where it looks elsewhere, it hardly needs what it looks at, and these sentences
# have mostly plural subjects: this run has learned to look for a *singular* subject, and to answer *plural* when it finds
# none. A map shows where a model looks. What it needs, only an experiment like this one shows.

# %% [markdown]
# ## What to remember
#
# * Attention is a soft look-up: **query** · **key** gives scores, softmax turns a row of scores into shares, and the
#   output is a blend of the **values** in these shares.
# * Divide by **√D**, or large D makes softmax pick one key and stop learning.
# * Hide with **-inf before** the softmax, on the **key** axis; a row that may look at nothing is zeros. In this course True
#   means *may be attended to*.
# * Attention without a mask **does not know the order** of its words.
#
# **What this scale cannot show.** Our task has one thing to find, and one attention finds it. Words of real sentences need
# several things at once (subject, object, what a pronoun means); lesson 03 shows a task that one attention cannot do and
# two can. And a large weight is not an explanation: whether a model *uses* what it looks at needs an experiment, which
# lesson 06 makes.
#
# **An open problem.** The score matrix has T × T entries, so twice the text costs four times the work. Which of these
# entries can be left out without loss is still being worked out; in ModernBERT two layers out of three see a window of 128
# tokens only (Warner et al. 2024).
#
# **Where this comes from**
#
# * Ashish Vaswani et al., *Attention Is All You Need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762):
#   equation 1 and section 3.2.1.
# * Benjamin Warner et al., *Smarter, Better, Faster, Longer* (ModernBERT), 2024,
#   [arXiv:2412.13663](https://arxiv.org/abs/2412.13663).
#
# **Next:** lesson 03 puts several attentions side by side.
