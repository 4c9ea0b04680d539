# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Start here
#     question: Is the machine ready, and do I know enough to begin?
#     minutes: 45
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 00 · Start here
#
# In this course you build the model behind BERT and RoBERTa from nothing: attention, then an encoder; you pretrain it, teach
# it to compare sentences, make a search engine over the documentation on your own disk, and load a published model into
# your own code. Every piece is small enough to read, and every claim is measured in front of you.
#
# **The question of this lesson:** is the machine ready, and do you know enough to begin?
#
# | | |
# |---|---|
# | You will | see that everything runs, meet the exercises and the checks that name your mistake, test what you know, and train a first model down to a limit that you can compute |
# | You need | Python, and to have seen a PyTorch tensor; school mathematics |
# | It takes | about 45 minutes, five exercises; the machine needs seconds |
#
# Run a cell with **Shift + Enter**. Here is the way that lies ahead:

# %%
import math
import textwrap

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import COURSE_SENTENCE, ToyWorld, pick_device, plots
from nextbert_lite.checks import lesson_00 as check
from nextbert_lite.course.workspace import lesson_headers

parts = {}
for lesson in lesson_headers():
    parts.setdefault(lesson["part"], []).append(f"{lesson['number']} {lesson['title']}")
longest = max(len(titles) for titles in parts.values())
fig, ax = plots.figure(size=(8.0, 0.7 + 0.42 * longest))
for column, (part, titles) in enumerate(parts.items()):
    ax.text(column, 0, textwrap.fill(part, 18), weight="bold", color=plots.BLUE, ha="center", va="center")
    for row, title in enumerate(titles, start=1):
        box = {"boxstyle": "round", "fc": "#E8F1F8", "ec": "none"}
        ax.text(column, row, textwrap.fill(title, 20), ha="center", va="center", fontsize=9, bbox=box)
ax.set(xlim=(-0.5, len(parts) - 0.5), ylim=(longest + 0.5, -0.5))
ax.set_axis_off()
ax.set_title(f"{len(parts)} parts, each builds on the one before")
plots.show(fig, alt=f"The course's lessons in {len(parts)} columns, from left to right: {'; '.join(parts)}.")

# %% [markdown]
# ## 1. Is the machine ready?

# %%
device = pick_device()
a = torch.randn(300, 300, generator=torch.Generator().manual_seed(0)).to(device)
assert torch.allclose(a @ torch.eye(300, device=device), a, atol=1e-3)
print("torch", torch.__version__.split("+")[0], "computes on:", device.type)

# %% [markdown]
# If you read *computes on: cpu*, all is well: every lesson runs on a laptop's CPU. A GPU (*cuda*, or *mps* on a Mac) is
# used when there is one. If the cell above failed, look at "When something goes wrong" in the README.
#
# ## 2. How exercises work
#
# Most of what you learn here you learn by writing it. An exercise has three parts: a cell to fill in (in your copy it
# reads `pass  # your code here`), then a cell that checks it, and difficulty and time in its heading. A **check** does more
# than say *wrong*: it knows the usual mistakes and tells you which one it sees. Watch it look at a wrong answer:

# %% tags=["nbval-check-output"]
from nextbert_lite.checks.core import CheckFailed

try:
    check.row_means(lambda x: x.mean(dim=0))
except CheckFailed as message:
    print(message)

# %% [markdown]
# When you are stuck, `check.hint("00.1")` gives a hint, and
# each further call the next one; `check.solution("00.1")` shows a solution.
#
# ### Exercise 00.1 · means of rows ●○○ · 3 minutes
#
# Return the mean of each row of a matrix.


# %% tags=["exercise-00.1"]
def row_means(x):
    """x: (B, T) -> (B,)"""
    ### BEGIN SOLUTION
    return x.mean(dim=-1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.row_means(row_means)

# %% [markdown]
# ## 3. Do you know enough?
#
# Three short tasks. If they go well, you are ready. If one does not, its check says what to read up on; the first chapters
# of any PyTorch tutorial have it.
#
# Shapes are written with the same letters everywhere in this course: `B` texts in a batch, `T` tokens in a text, `C` the
# width of a model (`D` that of a part of it), `H` heads, `V` words in the vocabulary.
#
# ### Exercise 00.2 · predict the result ●○○ · 4 minutes
#
# `torch.ones(8, 1, 5) * torch.ones(3, 1)` works. What is the shape of the result? Answer with a tuple, without running it.

# %% tags=["exercise-00.2"]
shape = None
### BEGIN SOLUTION
shape = (8, 3, 5)  # aligned at the right: 5 with 1, 1 with 3, 8 with nothing
### END SOLUTION

# %% tags=["nbval-check-output"]
check.broadcast(shape)

# %% [markdown]
# ### Exercise 00.3 · all dot products ●○○ · 5 minutes
#
# `a` holds n vectors as rows, `b` holds m. Return the matrix whose entry (i, j) is the dot product of row i of `a` with
# row j of `b`.


# %% tags=["exercise-00.3"]
def dot_products(a, b):
    """a: (n, D), b: (m, D) -> (n, m)"""
    ### BEGIN SOLUTION
    return a @ b.T
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.dot_products(dot_products)

# %% [markdown]
# A model that has to choose among V words gives V numbers, the **logits**. Softmax turns them into probabilities $p$. The
# loss for one example is $-\ln p_{\text{label}}$: nothing when the model was sure and right, large when it was sure and
# wrong. The mean over a batch is the **cross-entropy**. With the natural logarithm its unit is called *nat*.

# %% tags=["nbval-check-output"]
logits = torch.tensor([2.0, 0.0, -1.0])
probabilities = logits.softmax(dim=-1)
for label in range(3):
    p = probabilities[label].item()
    print(f"if the right word is {label}: p = {p:.3f}, loss = {-math.log(p):.3f} nats")

# %% [markdown]
# ### Exercise 00.4 · cross-entropy ●●○ · 8 minutes
#
# Write it for a batch, starting from `log_softmax`. (torch's `F.cross_entropy` does it all at once, and is used below.)


# %% tags=["exercise-00.4"]
def cross_entropy(logits, labels):
    """logits: (B, V), labels: (B,) -> the mean loss in nats, a number."""
    ### BEGIN SOLUTION
    log_probabilities = logits.log_softmax(dim=-1)
    return -log_probabilities[torch.arange(len(labels)), labels].mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.cross_entropy(cross_entropy)

# %% [markdown]
# ## 4. A first model, and a limit that it cannot beat
#
# The course has a language of its own, the **toy world**: small enough to know everything about it. Here are a few of its
# sentences. The first is the one that goes with us through all lessons.

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
print(COURSE_SENTENCE)
for sentence in world.sample(4, seed=0):
    print(sentence.text)
print(f"\n{len(world.words)} words")

# %% [markdown]
# The simplest language model guesses the next word from the last one alone. It is a table: a row of V logits for each of
# the V words. We cut 5,000 sentences into pairs (word, next word); `[CLS]` and `[SEP]` stand for beginning and end. (With
# `[PAD]`, `[UNK]` and `[MASK]` they are five more "words", which lesson 01 explains.)

# %% tags=["nbval-check-output"]
ids, mask = world.sample_ids(5000, seed=1)  # (5000, T); mask: True at real tokens
real = mask[:, 1:]  # pairs whose second word is real
now, following = ids[:, :-1][real], ids[:, 1:][real]
V = tokenizer.vocab_size
print(f"{len(now):,} pairs, V = {V}; the first:", tokenizer.tokens([now[0], following[0]]))

# %% [markdown]
# How well can *any* such table do? For each word the best row is the share of each next word after it, counted. The loss of
# that table is the **floor** for all tables of this kind on these pairs: no training and no trick gets below it.

# %%
counts = torch.bincount(now * V + following, minlength=V * V).view(V, V)  # row: word, column: next word
shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)  # words that never come first: 0, not 0 / 0
losses_of_pairs = -shares[now, following].log()
floor = losses_of_pairs.mean().item()
print(f"the floor: {floor:.3f} nats")
assert 0 < floor < math.log(V)

# %% [markdown]
# Now we train one. Every training loop of this course is this one with more around it: take a batch, compute the loss,
# clear the old gradients, compute the new ones, take a step. `nn.Embedding(V, V)` is the table: `model(ids)` picks rows.
# AdamW, here without its weight decay, is the optimizer of nearly all BERTs.
#
# Before you run it, guess: at which loss does it start, when all logits are 0?

# %%
torch.manual_seed(0)
model = nn.Embedding(V, V)  # row w: the logits of the word after w
nn.init.zeros_(model.weight)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)

losses = []
for step in range(600):
    rows = torch.randint(len(now), (1024,))
    loss = F.cross_entropy(model(now[rows]), following[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

with torch.no_grad():
    reached = F.cross_entropy(model(now), following).item()
print(f"start {losses[0]:.3f}, reached {reached:.3f}, floor {floor:.3f}: {reached - floor:.3f} above it")
assert abs(losses[0] - math.log(V)) < 1e-4
assert floor < reached < floor + 0.03

# %%
fig = plots.loss_curve(
    losses, title="The table learns all that a table can", reference={"floor": floor, "ln V": math.log(V)}
)
plots.show(fig, alt=f"The loss falls from {losses[0]:.2f} to the floor at {floor:.2f} nats and stays there.")

# %% [markdown]
# It starts at ln V: all words are equally likely to a model that knows nothing. It ends just above the floor. What is left
# is not the training's fault, but the model's: a table that saw two words back would have a lower floor. And does it know
# what the subject of our sentence is?

# %%
with torch.no_grad():
    after_ovens = model(torch.tensor(tokenizer.id("ovens"))).softmax(-1)
number = {}
for verbs in ("praises serves feeds", "praise serve feed"):
    ids = [tokenizer.id(verb) for verb in verbs.split()]
    number[verbs] = after_ovens[ids].sum().item()
    n = counts[tokenizer.id("ovens"), ids].sum().item()
    print(f"P({verbs:>20} | ovens) = {number[verbs]:.3f}   seen {n} times")
singular, plural = number.values()
assert 0.4 < singular / plural < 2.5

# %% [markdown]
# It does not. After *ovens* it has seen both about equally often, because the subject of *ovens*'s sentences may be one or
# many, and the table cannot look back to it.
# How a word looks at other words is the question of lesson 02.
#
# ### Exercise 00.5 · find the bug ●●○ · 8 minutes
#
# This loop fits a line to data by gradient descent. It runs, and it is wrong:


# %%
def buggy_train(w, x, y, lr, steps):
    w = w.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=lr)
    for _ in range(steps):
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    return w.detach()


x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
y = x @ torch.tensor([1.0, -2.0, 0.5])
for steps in (5, 10, 15, 20):
    w = buggy_train(torch.zeros(3), x, y, lr=0.1, steps=steps)
    after = ((x @ w - y) ** 2).mean()
    print(f"after {steps:2} steps the loss is {after:.3f}")
assert after > 1  # no better after 20 steps than after 5

# %% [markdown]
# The loss swings up and down instead of falling. Write the loop again, corrected.


# %% tags=["exercise-00.5"]
def train(w, x, y, lr, steps):
    """w: (D,) start, x: (N, D), y: (N,) -> w (D,) after so many steps of SGD on the mean squared error."""
    ### BEGIN SOLUTION
    w = w.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=lr)
    for _ in range(steps):
        loss = ((x @ w - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return w.detach()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.train(train)

# %% [markdown]
# ## What to remember
#
# * A training step is: batch, loss, `zero_grad`, `backward`, `step`.
# * Cross-entropy is the mean of −ln p of the right answers, in nats. A model that knows nothing starts at **ln V**.
# * A kind of model has a **floor** on given data, and a loss means something only beside it.
# * Checks name the mistake, hints come in steps.
#
# **What this scale cannot show.** We counted the floor of one kind of model, a table of pairs. The floor of *all* models is
# the data's own uncertainty. For the toy world it can be computed too, and lesson 06 does; for real English nobody knows it.
#
# **An open problem.** How far today's large language models are from the floor of real text is unknown: estimates of the
# entropy of English go back to Shannon (1951) and still differ.
#
# **Where this comes from**
#
# * Claude E. Shannon, *Prediction and Entropy of Printed English*, Bell System Technical Journal 30, 1951.
# * Ilya Loshchilov and Frank Hutter, *Decoupled Weight Decay Regularization* (AdamW), 2019,
#   [arXiv:1711.05101](https://arxiv.org/abs/1711.05101).
#
# **Next:** lesson 01, from text to tensors.
