# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Start here
#     question: Is the machine ready, and do I know enough to begin?
#     minutes: 85
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 00 · Start here
#
# In this course you build the model behind BERT and RoBERTa from nothing. First you write attention, then an encoder. You
# pretrain it and teach it to compare sentences, you make a search engine over the documentation on your own disk, and you
# load a published model into your own code. Every piece is small enough to read, and every claim is measured in front of you.
#
# **The question of this lesson:** is the machine ready, and do you know enough to begin?
#
# | | |
# |---|---|
# | You will | see that everything runs, meet the exercises and the checks that name your mistake, test what you know, write a training loop, and train your first language model with it, close to a limit that you can compute |
# | You need | Python, and to have seen a PyTorch tensor; school mathematics, and to know what a derivative and a probability are |
# | It takes | about 85 minutes, six exercises, one of them a build of 25 minutes; the machine needs half a minute |
#
# Run a cell with **Shift + Enter**. Here is the road map:

# %% tags=["hide-input"]
import textwrap

from nextbert_lite import plots
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
# Drawing code is folded away, as above: click it to unfold it. A lesson then begins with its imports.

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import COURSE_SENTENCE, ToyWorld, pick_device, seeded
from nextbert_lite.checks import lesson_00 as check
from nextbert_lite.checks.core import CheckFailed

# %% [markdown]
# Everything random in a lesson depends on one number, the **seed**. With this seed you should see the numbers stored here, or
# very nearly. With another seed the numbers change a little, and the conclusions should not.

# %% tags=["parameters"]
seed = 0

# %% [markdown]
# ## 1. Is the machine ready?

# %%
device = pick_device()
a = torch.randn(300, 300, generator=seeded(seed)).to(device)
assert torch.allclose(a @ torch.eye(300, device=device), a, atol=1e-3)
print("torch", torch.__version__.split("+")[0], "computes on:", device.type)

# %% [markdown]
# If you read *computes on: cpu*, all is well: every lesson runs on a laptop's CPU. A GPU (*cuda*, or *mps* on a Mac) is
# used when there is one. If the cell above failed, look at "When something goes wrong" in the README.

# %% [markdown]
# ## 2. How exercises work
#
# Most of what you learn here, you learn by writing it. The heading of an exercise gives its difficulty (●○○ to ●●●) and
# the minutes it may take. Below the heading you find a cell for your answer, which in your copy reads
# `pass  # your code here`, and then a cell that checks it. A **check** does more than say *wrong*: it knows the usual
# mistakes and tells you which one it sees. Watch it look at a wrong answer:

# %% tags=["nbval-check-output"]
try:
    check.row_means(lambda x: x.mean(dim=0))
except CheckFailed as message:
    print(message)

# %% [markdown]
# When you are stuck, `check.hint("00.1")` gives a hint, and each further call gives the next one;
# `check.solution("00.1")` shows a solution. You may also leave an exercise blank and go on.

# %% [markdown]
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
# Three short tasks. If they go well, you are ready. If one gives you trouble, its check tells you what to review; any
# introductory PyTorch tutorial covers it.
#
# Shapes are written with the same letters everywhere in this course: `B` texts in a batch, `T` tokens in a text, `C` the
# width of a model (`D` that of a part of it), `H` heads, `V` words in the vocabulary.

# %% [markdown]
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
# A model that has to choose among V words gives V numbers $z_1, \ldots, z_V$, the **logits**. They may be any numbers.
# **Softmax** turns them into probabilities: each becomes positive, and together they sum to 1.
#
# $$p_i = \frac{e^{z_i}}{e^{z_1} + \cdots + e^{z_V}}$$
#
# The loss for one example is $-\ln p_{\text{label}}$. It is 0 if the model gave the right word the probability 1, and large
# if it gave it a probability near 0. The mean over a batch is the **cross-entropy**. With the natural logarithm, its unit
# is called the *nat*.

# %% tags=["nbval-check-output"]
logits = torch.tensor([2.0, 0.0, -1.0])
probabilities = logits.softmax(dim=-1)
for label in range(3):
    p = probabilities[label].item()
    print(f"if the right word is {label}: p = {p:.3f}, loss = {-math.log(p):.3f} nats")

# %% [markdown]
# `log_softmax` gives the logarithms of these probabilities in one step. In two steps you can lose them: a computer rounds a
# very small probability to 0, and the logarithm of 0 is −∞.

# %% tags=["nbval-check-output"]
far_apart = torch.tensor([200.0, 0.0])
print("softmax, then log:", far_apart.softmax(dim=-1).log().tolist())
print("log_softmax:      ", far_apart.log_softmax(dim=-1).tolist())

# %% [markdown]
# ### Exercise 00.4 · cross-entropy ●●○ · 8 minutes
#
# Write the cross-entropy of a batch, starting from `log_softmax`. Return one number, the mean loss in nats; a Python float
# and a tensor that holds one number both count. It must stay finite where the logits are far apart, as in the cell above.
# (torch's `F.cross_entropy` does it all at once, and is used below. The check cannot tell it from your own, so leave it
# out here for your own sake.)


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
# ## 4. How a model learns
#
# The smallest model has one weight $w$ and predicts $\hat y = w x$. Take two examples, $x = 1, y = 2$ and
# $x = 2, y = 4$, and let the loss be the mean squared error:
#
# $$L(w) = \tfrac12 \left[(w - 2)^2 + (2w - 4)^2\right], \qquad
# \frac{dL}{dw} = (w - 2) + 2\,(2w - 4)$$
#
# The derivative says how the loss changes when $w$ grows a little. To make the loss smaller, move $w$ the other way. How far
# is set by a number that you choose, the **learning rate** (lr):
#
# $$w \leftarrow w - \text{lr} \cdot \frac{dL}{dw}$$
#
# Start at $w = 0$ with the learning rate 0.1. What are the loss, the derivative, and $w$ after one step? Guess, or calculate
# in your head, before you run the cell.

# %% tags=["nbval-check-output"]
w, lr = 0.0, 0.1
for step in range(3):
    loss = ((w - 2) ** 2 + (2 * w - 4) ** 2) / 2
    derivative = (w - 2) + 2 * (2 * w - 4)
    print(f"step {step}: w = {w:.3f}, loss = {loss:.3f}, derivative = {derivative:.3f}")
    w = w - lr * derivative

# %% [markdown]
# With millions of weights nobody writes derivatives by hand. torch records what is computed with a tensor that has
# `requires_grad=True`. This is the **forward pass**. `loss.backward()` then goes back through the record, the **backward
# pass**, and puts the derivative with respect to each weight into its
# `.grad`. All derivatives together are the **gradient**.

# %% tags=["nbval-check-output"]
x, y = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
w = torch.tensor(0.0, requires_grad=True)
loss = ((w * x - y) ** 2).mean()  # forward pass
loss.backward()  # backward pass
print(f"step 0: w = {w.item():.3f}, loss = {loss.item():.3f}, derivative = {w.grad.item():.3f}")
assert (loss.item(), w.grad.item()) == (10.0, -10.0)

# %% [markdown]
# The same numbers as by hand. Taking such steps again and again is **gradient descent**. If each step looks at a few random
# examples, a **batch**, in place of all of them, it is called *stochastic* gradient descent, **SGD**. In torch an
# **optimizer** takes the step: `torch.optim.SGD(parameters, lr=lr)`.

# %% [markdown]
# ### Exercise 00.5 · find the bug ●●○ · 8 minutes
#
# This loop fits three weights to twenty examples by gradient descent. It runs, and something is wrong:


# %%
def buggy_descend(w, x, y, lr, steps):
    w = w.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=lr)
    for _ in range(steps):
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    return w.detach()


x = torch.randn(20, 3, generator=seeded(seed, 1))
y = x @ torch.tensor([1.0, -2.0, 0.5])
for steps in range(0, 32, 4):
    w = buggy_descend(torch.zeros(3), x, y, lr=0.1, steps=steps)
    print(f"after {steps:2} steps the loss is {((x @ w - y) ** 2).mean():.3f}")

# %% [markdown]
# The loss swings up and down instead of falling to 0. Write the loop again, corrected: plain gradient descent. Return the
# weights after `steps` steps as a new tensor without gradient; the caller's `w` must not change.


# %% tags=["exercise-00.5"]
def descend(w, x, y, lr, steps):
    """w: (D,) start, x: (N, D), y: (N,) -> w (D,) after so many steps of gradient descent on the mean squared error."""
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
check.descend(descend)

# %% [markdown]
# **Why it swung, and did not simply fail.** (Read on when you have solved it.) The documentation of torch's
# [`backward`](https://docs.pytorch.org/docs/stable/generated/torch.autograd.backward.html) has the sentence:
#
# > This function accumulates gradients in the leaves - you might need to zero `.grad` attributes or set them to `None`
# > before calling it.
#
# The leaves are the weights. If nothing clears `.grad`, each step follows the *sum* of all gradients so far. That happens
# to be a method with a name. Gradient descent with **momentum** μ keeps a velocity $v$, and for each new gradient $g$ does
#
# $$v \leftarrow \mu v + g, \qquad w \leftarrow w - \text{lr} \cdot v$$
#
# With μ = 0 it is plain gradient descent. With μ = 1 nothing is ever forgotten, so $v$ is exactly the sum: the bug *is*
# momentum with μ = 1. The weights then move like a ball in a bowl without friction, which swings forever (with very large
# steps it would even fly out). The usual μ = 0.9 forgets a tenth of the velocity at each step. That is friction, and the
# ball comes to rest.


# %%
def losses_along(momentum, clear, steps=200):
    """Return the loss before each step of gradient descent, as one tensor."""
    w = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
    found = []
    for _ in range(steps):
        loss = ((x @ w - y) ** 2).mean()
        if clear:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found)


never_cleared = losses_along(momentum=0.0, clear=False)
swings, rests, plain = (losses_along(momentum, clear=True) for momentum in (1.0, 0.9, 0.0))
torch.testing.assert_close(never_cleared, swings, rtol=1e-3, atol=1e-3)  # the same sums, in the same order
last = {"never cleared": never_cleared, "momentum 0.9": rests, "plain": plain}
for name, values in last.items():
    print(f"{name:>13}: loss at first {values[0]:.2f}, largest of the last 50 steps {values[-50:].max():.5f}")
assert never_cleared[-50:].max() > 0.2 * never_cleared[0] and max(rests[-1], plain[-1]) < 0.001 * plain[0]

# %% [markdown]
# Here are the first 80 of the 200 steps. Which curve is the bug?

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.2))
ax.plot(never_cleared[:80], color=plots.RED, label="gradients never cleared = momentum 1")
ax.plot(rests[:80], color=plots.BLUE, linestyle="--", label="momentum 0.9")
ax.plot(plain[:80], color=plots.GREEN, linestyle="-.", label="cleared, no momentum")
top = 1.5 * never_cleared[:80].max().item()  # room for the legend
ax.set(xlabel="step", ylabel="loss (mean squared error)", ylim=(0, top))
ax.set_title("Without zero_grad the loss swings and does not come to rest")
ax.legend(loc="upper right")
plots.show(
    fig,
    alt="Three losses over 80 steps. Without clearing, the loss swings up and down to the end; with momentum 0.9 the swings "
    "die out; without momentum the loss falls smoothly to zero.",
)

# %% [markdown]
# ## 5. Build a training loop
#
# Every model of this course is trained by one kind of loop. The loop works for any model and any data, because it is given
# both:
#
# * `model`, an `nn.Module` with a method `loss`: `model.loss(**batch)` is the mean loss of a batch, a tensor with one number;
# * `batches`, a function: `batches(step)` is the batch of that step, a dict of tensors with names.
#
# (The two stars pass a dict's values on by their names: with `batch = {"x": x, "y": y}`, `model.loss(**batch)` means
# `model.loss(x=x, y=y)`.) Here is the model of section 4 in this form:


# %% tags=["nbval-check-output"]
class Line(nn.Module):
    """ŷ = w x, with one weight."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.0))

    def loss(self, x, y):
        """x, y: (B,) -> the mean squared error, a tensor with one number."""
        return ((self.w * x - y) ** 2).mean()


def two_points(step):
    """Return the same two examples at every step."""
    return {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([2.0, 4.0])}


print(f"loss at w = 0: {Line().loss(**two_points(0)).item():.3f}")

# %% [markdown]
# A loop has one more thing to do. Some layers behave differently while a model is trained. Dropout, for example (lesson 04),
# sets some of the numbers that pass through it to zero, at random. `model.train()` switches the model to **train mode**, and
# `model.eval()` to **eval mode**, in which dropout does nothing. A model in the wrong mode raises no error; it only gives
# worse numbers.

# %% [markdown]
# ### Exercise 00.6 · build the training loop ●●● · 25 minutes
#
# Write `train(model, batches, steps, lr)`. It trains the model in place.
#
# * **The result** is a list with one Python float for each step: the loss of that step's batch, as it was *before* the step
#   changed the weights.
# * **The batches.** Call `batches(step)` once for each step, with step = 0, 1, …, `steps` − 1 in this order. Change nothing in a
#   batch. The loss is `model.loss(**batch)`.
# * **The step** is that of plain SGD: parameter − lr · gradient, without momentum or anything else. Use `torch.optim.SGD` or
#   write it by hand, as you like.
# * **The gradient** is that of this step's loss alone. No gradient of an earlier step counts, nor one that was there before
#   the first step. What is left in `.grad` afterwards does not matter.
# * **Parameters without a gradient** stay as they are: frozen ones (`requires_grad` is False, and stays so) and those that the
#   loss does not depend on.
# * **The mode.** The model trains in train mode, whatever its mode was before, and is in eval mode afterwards.
# * **No steps.** `steps` may be 0. Then no batch is asked for, the weights stay, the list is empty, and the model is in eval
#   mode.
# * Your loop sets no seed. Model and batches stay on the device where they are.
#
# The check goes in eight stages and says how far you are. Write the shortest loop that could work, run it, and go on from
# what the check says.


# %% tags=["exercise-00.6", "my-bert-training"]
def train(model, batches, steps, lr):
    """Train the model in place: step s is one of SGD on `model.loss(**batches(s))`. Return the losses, as floats."""
    ### BEGIN SOLUTION
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    model.train()
    for step in range(steps):
        loss = model.loss(**batches(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.training_loop(train)

# %% [markdown]
# The rest of the lesson trains with your loop if it passes, and with the course's if it does not:

# %% tags=["nbval-check-output"]
train = check.mine("00.6", train)

# %% [markdown]
# Three steps on the two points should give the three losses that you calculated by hand in section 4:

# %% tags=["nbval-check-output"]
losses = train(Line(), two_points, steps=3, lr=0.1)
print("losses:", ", ".join(f"{loss:.3f}" for loss in losses))
assert all(abs(loss - by_hand) < 1e-5 for loss, by_hand in zip(losses, [10.0, 2.5, 0.625], strict=True))

# %% [markdown]
# ## 6. A first language model, and its floor
#
# The course has a language of its own, the **toy world**. It is small enough to know everything about it. Here are a few of
# its sentences; the first one goes with us through all lessons.

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
print(COURSE_SENTENCE)
for sentence in world.sample(4, seed=seed):
    print(sentence.text)
print(f"\n{len(world.words)} words")

# %% [markdown]
# The simplest language model guesses the next word from the last one alone. We cut 5,000 sentences into pairs (word, next
# word). `[CLS]` stands for the beginning of a sentence and `[SEP]` for its end. (With `[PAD]`, `[UNK]` and `[MASK]` they are
# five more "words", which lesson 01 explains.)


# %% tags=["nbval-check-output"]
def pairs(n, seed):
    """Return all pairs (word, next word) of n random sentences, as two rows of word numbers."""
    ids, mask = world.sample_ids(n, seed=seed)  # (n, T); mask: True at real words
    real = mask[:, 1:]  # the pairs whose second word is real
    return ids[:, :-1][real], ids[:, 1:][real]


now, following = pairs(5000, seed)
V = tokenizer.vocab_size
print(f"{len(now):,} pairs, V = {V}; the first three:")
for a, b in zip(now[:3], following[:3], strict=True):
    print(tokenizer.tokens([a, b]))

# %% [markdown]
# The model is a table with a row of V logits for each of the V words. Row w says how likely each word is after w.
# `nn.Embedding(V, V)` is such a table: called with word numbers, it picks their rows. All logits start at 0.


# %%
class NextWord(nn.Module):
    """A table: row w holds the logits of the word after w."""

    def __init__(self, V):
        super().__init__()
        self.table = nn.Embedding(V, V)
        nn.init.zeros_(self.table.weight)

    def forward(self, now):
        """now: (B,) -> logits (B, V)"""
        return self.table(now)

    def loss(self, now, following):
        """now, following: (B,) -> the cross-entropy in nats, a tensor with one number."""
        return F.cross_entropy(self(now), following)


# %% [markdown]
# Before we train such a table, let us count one: how often does each word follow each other word? Here is a corner of the
# counts. Which numbers should be 0, and which large?

# %% tags=["nbval-check-output"]
counts = torch.bincount(now * V + following, minlength=V * V).view(V, V)  # row: word, column: next word
rows, columns = "[CLS] the cook cooks".split(), "the cook cooks praise praises near [SEP]".split()
print(" " * 6, *(f"{word:>8}" for word in columns))
for word in rows:
    print(f"{word:>6}", *(f"{counts[tokenizer.id(word), tokenizer.id(after)]:8,}" for after in columns))

# %% [markdown]
# How well can *any* table do on these pairs? For each word, the best possible row is the observed frequency of every next
# word, the row of counts divided by its sum. (Among all probabilities, these give the observed words the smallest mean −ln p;
# the theorem is called Gibbs' inequality.) The loss of this best table is the **floor on these pairs**: no table of this kind
# gets below it. For comparison we also count the best guess that does not look at the last word.

# %%
frequencies = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)  # rows that never occur: 0, not 0 / 0
floor = -frequencies[now, following].log().mean().item()
alone = counts.sum(dim=0) / counts.sum()  # (V,)
without_context = -alone[following].log().mean().item()
print(f"ln V, all words equally likely:    {math.log(V):.3f} nats")
print(f"best guess without the last word:  {without_context:.3f}")
print(f"best table, the floor:             {floor:.3f}")
assert floor < without_context - 1

# %% [markdown]
# Knowing the last word is worth more than a nat. Now train the table with your loop. A batch is 1,024 random pairs. The
# learning rate, 100, would be absurd for most models. Here it is not. The loss is a mean over the batch, so the row of
# a word that begins one pair in a thousand gets a gradient about a thousandth as long as that word's own loss would give.
#
# Before you run it, guess: at which loss does training start, when all logits are 0?


# %%
def batches(step):
    """Return 1,024 random pairs, which depend on the seed and the step alone."""
    rows = torch.randint(len(now), (1024,), generator=seeded(seed, step))
    return {"now": now[rows], "following": following[rows]}


@torch.no_grad()
def loss_on(model, now, following):
    """Return the model's loss on given pairs, as a float."""
    return model.loss(now, following).item()


model = NextWord(V)
losses = train(model, batches, steps=1000, lr=100.0)
after_large = loss_on(model, now, following)
print(f"start {losses[0]:.3f} (ln V = {math.log(V):.3f}), reached {after_large:.3f}, floor {floor:.3f}")

# %% [markdown]
# It starts at ln V, as it must: when all logits are equal, each word has the probability 1/V, and −ln(1/V) = ln V. It ends
# above the floor. Is the rest a matter of too few steps, or of steps that are too large, so that the weights jump around
# their best values? We train two copies for 600 more steps, one as before, one with a tenth of the learning rate, and look
# at both after every 100 steps. What do you expect of each?


# %%
def train_on(model, lr):
    """Train for 600 more steps. Return their losses, and how far above the floor the model is after each 100."""
    losses, above = [], []
    for done in range(1000, 1600, 100):
        losses += train(model, lambda step, done=done: batches(done + step), steps=100, lr=lr)
        above.append(loss_on(model, now, following) - floor)
    return losses, above


_, above_large = train_on(copy.deepcopy(model), lr=100.0)
later, above_small = train_on(model, lr=10.0)
losses, reached = losses + later, floor + above_small[-1]
for lr, above in ((100, above_large), (10, above_small)):
    print(f"learning rate {lr:>3}, above the floor:", " ".join(f"{value:.3f}" for value in above), "nats")
assert max(above_small) < sum(above_large) / len(above_large) and above_small[-1] < 0.05

# %% [markdown]
# With the large steps the loss goes up and down, so more steps do not settle it; with the small ones it falls and stays. The
# picture shows the losses of the run with small steps at the end. The axis is cut off at 2.8 nats.

# %% tags=["hide-input"]
fig = plots.loss_curve(
    losses,
    title="Small steps at the end bring the loss close to its floor",
    reference={"floor on these pairs": floor},
    smooth=50,
)
ax = fig.axes[0]
ax.axvline(1000, color=plots.GREY, linewidth=1)
ax.text(990, 2.7, "learning rate 100 ", ha="right", va="center", color=plots.GREY)
ax.text(1010, 2.7, " 10", ha="left", va="center", color=plots.GREY)
ax.set(ylim=(1.8, 2.8))
ax.legend(handles=ax.lines[:3], loc="center right", bbox_to_anchor=(1.0, 0.66))
plots.show(
    fig,
    alt=f"The loss falls steeply at first and then stays a little above the floor of {floor:.2f} nats; at step 1,000, where the "
    "learning rate falls from 100 to 10, it drops once more and nearly reaches the floor.",
)

# %% [markdown]
# So a part of what was missing came from the size of the steps, not from the model. And the rest? The difference between a
# model's loss and the floor is its **excess loss**. The next cell splits it by how often the first word of a pair occurs.
# Which rows of the table do you expect to be worst, those of frequent or of rare words?

# %%
with torch.no_grad():
    of_model = -model(now).log_softmax(dim=-1)[torch.arange(len(now)), following]  # (pairs,)
excess = of_model + frequencies[now, following].log()
often = counts.sum(dim=1)[now]  # how often the first word of each pair occurs
by_frequency = {}
for name, least, most in (("under 200 times", 0, 200), ("200 to 2,000 times", 200, 2000), ("more often", 2000, 10**9)):
    chosen = (often >= least) & (often < most)
    by_frequency[name] = excess[chosen].mean().item()
    print(f"{name:>18}: {chosen.sum():6,} pairs, excess {by_frequency[name]:.4f} nats")
assert by_frequency["under 200 times"] > 3 * by_frequency["more often"]

# %% [markdown]
# The rows of rare words are the furthest from their best values. A word that begins one pair in five hundred is in a batch
# twice, on average, so its row moves little. That, too, is a matter of training: the floor itself is the loss of a table.
# Lesson 06 builds this loop with AdamW, an optimizer that gives each parameter a step length of its own.

# %% [markdown]
# ## 7. New sentences
#
# So far every loss was measured on the pairs that the tables were made from. What counts is how a model does on sentences
# that it has not seen. We draw 20,000 fresh ones. The counted table is the best one on *its* pairs. What is its loss on the
# fresh pairs: the same, a little more, or much more? Guess first.

# %%
fresh = pairs(20_000, seed + 1000)
counted_on_fresh = -frequencies[fresh].log().mean().item()
unseen = (counts[fresh] == 0).sum().item()
model_on_fresh = loss_on(model, *fresh)
print(f"counted table: its pairs {floor:.3f}, fresh pairs {counted_on_fresh}")
print(f"trained table: its pairs {reached:.3f}, fresh pairs {model_on_fresh:.3f}")
print(f"{unseen} of {len(fresh[0]):,} fresh pairs were never counted")
assert unseen > 0 and counted_on_fresh == math.inf and reached < model_on_fresh < reached + 0.1

# %% [markdown]
# It is infinite. To a pair that it has never seen, the counted table gives the probability 0, and −ln 0 = ∞, so a single such
# pair makes the mean infinite. The trained table is only a little worse on new pairs, because a softmax never gives exactly 0.
#
# The classic remedy for counting is **smoothing**: add a small number α to every count before dividing. How much? If we chose
# α on the fresh pairs, their loss would no longer be a fair measure. So we choose it on a third sample. The three have names:
# **training**, **validation** and **test** data.


# %%
def smoothed(counts, alpha):
    """Return the table of probabilities after adding alpha to every count."""
    return (counts + alpha) / (counts + alpha).sum(dim=1, keepdim=True)


def loss_of_table(table, now, following):
    return -table[now, following].log().mean().item()


validation = pairs(5000, seed + 2000)
on_validation = {alpha: loss_of_table(smoothed(counts, alpha), *validation) for alpha in (1.0, 0.1, 0.01, 0.001)}
for alpha, loss in on_validation.items():
    print(f"α = {alpha:<5}: validation loss {loss:.3f}")
alpha = min(on_validation, key=on_validation.get)
table = smoothed(counts, alpha)
on_own, on_fresh = (loss_of_table(table, *data) for data in ((now, following), fresh))
print(f"chosen: α = {alpha}, training loss {on_own:.3f}, test loss {on_fresh:.3f}")
assert floor < on_own < on_fresh < math.inf

# %% [markdown]
# The loss on training data flatters a model, and the less data there is, the more it flatters. Here are tables counted from 50
# to 50,000 sentences. Which way will each of the two losses go as the data grow?

# %%
sizes, own, new = (50, 200, 1000, 5000, 20_000, 50_000), [], []
for n in sizes:
    data = pairs(n, seed + 3000)
    counts_n = torch.bincount(data[0] * V + data[1], minlength=V * V).view(V, V)
    own.append(loss_of_table(smoothed(counts_n, 0.0), *data))
    tables = [smoothed(counts_n, a) for a in (0.1, 0.03, 0.01, 0.003)]
    best = min(tables, key=lambda table: loss_of_table(table, *validation))
    new.append(loss_of_table(best, *fresh))
    print(f"{n:>6,} sentences: floor on their own pairs {own[-1]:.3f}, smoothed, on fresh pairs {new[-1]:.3f}")
differences = [b - a for a, b in zip(own, new, strict=True)]
assert min(differences[:4]) > 0.01 and differences[0] > 10 * differences[3] and abs(differences[-1]) < 0.03
assert own[0] < own[2] < own[-1] and new[0] > new[2] > new[-1]

# %% [markdown]
# As a picture, with the area between the two curves shaded:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.3))
ax.plot(sizes, new, "o-", color=plots.BLUE, label="smoothed table, fresh pairs")
ax.plot(sizes, own, "s--", color=plots.ORANGE, label="floor on the table's own pairs")
ax.fill_between(sizes, own, new, color=plots.GREY, alpha=0.12)
ax.set_xscale("log")
ax.set(xlabel="sentences that the table was counted from", ylabel="loss (nats per word)")
ax.set_title("Training loss is too low, test loss too high: with more data they meet")
ax.legend()
plots.show(
    fig,
    alt=f"Two curves against the number of sentences. The loss on fresh pairs falls from {new[0]:.2f} to {new[-1]:.2f}; "
    f"the floor on the table's own pairs rises from {own[0]:.2f} to {own[-1]:.2f}.",
)

# %% [markdown]
# The two curves enclose a second floor, that of *the language* for tables of this kind: the expected loss, on new sentences,
# of the best table that there is. It can be proved that it lies between them, apart from the luck of the sample. On fresh
# pairs no table is better, on average, than the best table for the language. And on a given set of pairs, the best table for
# that set is at least as good as the best table for the language. So one curve approaches from above and the other from
# below. When somebody says that a model is close to the floor, ask which floor is meant.

# %% [markdown]
# ## 8. What a table cannot know
#
# Let the trained table write: each word is drawn from the row of the word before. Claude Shannon did this for English in 1948,
# with a book in place of the table. He opened it at random, read on until he met the last word that he had written, and took
# the word after it. Of the result he says:
#
# > The word transition probabilities are correct but no further structure is included.
#
# What do you expect to be right about the table's sentences, and what wrong?


# %%
@torch.no_grad()
def write(n):
    """Return n texts, from [CLS] to [SEP], each word drawn from the row of the word before."""
    generator, rows, texts = seeded(seed, 1), model.table.weight.softmax(dim=-1), []
    for _ in range(n):
        ids = [tokenizer.cls_id]
        while ids[-1] != tokenizer.sep_id:
            ids.append(torch.multinomial(rows[ids[-1]], 1, generator=generator).item())
        texts.append(" ".join(tokenizer.tokens(ids[1:-1])))
    return texts


written = write(500)
print("\n".join(written[:5]), "\n")
spoken = [sentence.text for sentence in world.sample(500, seed=seed + 4000)]
found = {}
for name, texts in {"the table": written, "the language": spoken}.items():
    rows = [tokenizer.encode(text) for text in texts]  # with [CLS] and [SEP]
    known = [counts_n[a, b] > 0 for row in rows for a, b in zip(row, row[1:], strict=False)]
    possible = world.log_probability(texts).isfinite()  # the language knows the probability of every text
    found[name] = sum(known).item() / len(known), possible.double().mean().item()
    print(f"{name:>12}: {found[name][0]:.1%} of the pairs known, {found[name][1]:.1%} of the sentences possible")
assert found["the table"][0] > 0.95 and found["the table"][1] < 0.2 and found["the language"][1] == 1

# %% [markdown]
# Nearly every pair of neighbours occurs among 50,000 sentences of the language, and yet hardly any text is a sentence of the
# language as a whole. One thing that goes wrong is the verb. It must agree with its subject: the *cook praises*, the *cooks
# praise*. If the subject is the word just before the verb, a table can know it. In our sentence *ovens* stands between *cook*
# and *praises*. How often does the table give the right form of the verb a higher probability than the wrong one, in each of
# the two cases?

# %%
right = {"subject just before the verb": [], "something in between": []}
for question in world.agreement_test(2000, seed=seed):
    sentence, verb = question.sentence, question.position
    case = list(right)[sentence.slots[verb - 1] != sentence.subject]
    row = model.table.weight[tokenizer.id(sentence.words[verb - 1])]  # the logits after the word before the verb
    right[case].append((row[tokenizer.id(question.right)] > row[tokenizer.id(question.wrong)]).item())

accuracy = {}
for case, answers in right.items():
    accuracy[case] = sum(answers) / len(answers)
    print(f"{case:>28}: {accuracy[case]:.3f} right of {len(answers):,} sentences")
chance_error = 0.5 / math.sqrt(len(right["something in between"]))  # one standard error of a coin
assert accuracy["subject just before the verb"] > 0.9
assert abs(accuracy["something in between"] - 0.5) < 4 * chance_error

# %% [markdown]
# Next to its subject the verb is nearly always right. With anything in between, the table is no better than a coin, and no
# training can change that. This can be proved: in the toy world the subject is singular or plural with equal probability,
# whatever other word stands before the verb, and that word is all that the table sees. To choose the verb, a model has to
# look back. How a word looks at other words is the question of lesson 02.

# %% [markdown]
# ## What to remember
#
# * A training step is: batch, loss, `zero_grad`, `backward`, `step`. Before the loop `train()`, after it `eval()`.
# * `backward` adds to the gradients. A loop that never clears them is momentum that forgets nothing, so the loss swings.
# * Cross-entropy is the mean of −ln p of the right answers, in nats. A model whose logits are all equal starts at **ln V**.
# * A loss means something only beside a **floor**, and you have to say on which data: a loss on training data is not a loss on
#   new data. Choose on validation data, report on test data.
# * Checks name the mistake, hints come in steps.
#
# **What this scale cannot show.** We counted the floor of one kind of model, a table of pairs. The floor of *all* models on new
# text is the data's own uncertainty. For the toy world that can be computed too, and lesson 06 does it; for real English
# nobody knows it. (On given training data there is no such floor: a model that learns the data by heart goes below it.) Plain
# SGD was enough for a table; for transformers, Adam and its variants are what nearly everybody uses.
#
# **What the field did since.** Tables of pairs and triples, with better ways of smoothing, were the usual language models until
# networks, which can look back further, replaced them. Losses are still compared with a floor: scaling laws (lesson 08) fit
# the floor of real text as a constant (Hoffmann et al. 2022). How well such a fit determines its constants is disputed.
# Besiroglu et al. (2024) report that the published constants do not fit the data, which they read off the paper's own plots.
#
# **An open problem.** How far today's large language models are from the floor of real text is unknown. Shannon had people guess
# the next letter (1951); today one extrapolates the losses of larger and larger models. Neither gives a floor that can be
# computed, as it can in a toy world.
#
# **Where this comes from**
#
# * Claude E. Shannon, *A Mathematical Theory of Communication*, Bell System Technical Journal 27, 1948: section 3, where the
#   quoted sentence stands, with the text that his table wrote.
# * Claude E. Shannon, *Prediction and Entropy of Printed English*, Bell System Technical Journal 30, 1951.
# * Jordan Hoffmann et al., *Training Compute-Optimal Large Language Models*, 2022,
#   [arXiv:2203.15556](https://arxiv.org/abs/2203.15556).
# * Tamay Besiroglu et al., *Chinchilla Scaling: A replication attempt*, 2024,
#   [arXiv:2404.10102](https://arxiv.org/abs/2404.10102).
#
# **Next:** lesson 01, from text to tensors.
