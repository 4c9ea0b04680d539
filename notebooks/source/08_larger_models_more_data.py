# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Larger models, more data
#     question: What does a larger model, more data or longer training buy, and how can you tell beforehand?
#     minutes: 75
#     part: "Part II: pretrain"
# ---

# %% [markdown]
# # 08 · Larger models, more data
#
# You have a computer and an evening. You can train a larger model, or the same model for longer, or spend the evening on
# collecting more text. Which one pays? And can you know it before the evening is over? This lesson finds out: first in the
# toy world, where the best possible loss is known exactly, then on real documentation, where nobody knows it.
#
# **The question of this lesson:** what does a larger model, more data or longer training buy, and how can you tell beforehand?
#
# | | |
# |---|---|
# | You will | count what training costs, compare models at equal cost, predict a run before you make it, and watch a model fill gaps in documentation it has never read |
# | You need | lesson 04 for the sizes, lesson 05 for masking, lesson 06 for the floor and for `fit` |
# | It takes | about 75 minutes, four exercises; the machine needs one to two minutes |
#
# Here is how `docs-small`, the course's model of real documentation, got better while it was trained.

# %%
import math
import os

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nextbert_lite import (
    IGNORE,
    Encoder,
    EncoderConfig,
    MaskedLanguageModel,
    MLMBatches,
    PerfectModel,
    ToyWorld,
    fill_mask,
    fit,
    fresh_batches,
    held_out_loss,
    load,
    load_docs,
    mask_tokens,
    pick_device,
    plots,
    read_card,
    seeded,
    stored_table,
)
from nextbert_lite.checks import lesson_08 as check
from nextbert_lite.corpora.bayes import compare, ratio
from nextbert_lite.training.batches import pieces
from nextbert_lite.use.checkpoints import unseen

seed = int(os.environ.get("NEXTBERT_SEED", 0))
every_row = "NEXTBERT_ALL" in os.environ  # tools/results.py sets it to make the stored tables

# %% [markdown]
# Its **card** is a small file beside the weights. It tells how the model was made, and how its loss on validation
# texts fell, per selected token:

# %%
name = "docs-small"  # section 8 makes a model of your own: put its folder here
card = read_card(name)
points = [(point["step"], point["validation_loss"]) for point in card["training"]["curve"]]
steps, losses = zip(*points, strict=True)
fig, ax = plots.figure()
ax.plot(steps, losses, "o-")
ax.set(xlabel="training step", ylabel="validation loss (nats)")
ax.set_title("The second half of the training bought less than the first")
plots.show(
    fig, alt=f"The loss of {name} falls from {losses[0]:.1f} to {losses[-1]:.1f} nats, steeply at first, then slowly."
)
half = losses[(len(losses) - 1) // 2]
print(f"after {steps[0]:,} steps {losses[0]:.2f}, half way {half:.2f}, at the end {losses[-1]:.2f}")
assert losses[0] - half > half - losses[-1] > 0

# %% [markdown]
# Should one have stopped earlier and taken a larger model instead? From this curve alone you cannot tell: it has no other
# model beside it, and no line that says how low a loss can be. So first a world that has such a line.

# %% [markdown]
# ## 1. What a step costs
#
# A larger model and a longer training are paid in the same coin: multiplications and additions. From lesson 04 you know
# what *one token* costs in *one layer* on the way up: $24C^2 + 4TC$ (with a feed-forward width of 4C). Two things are missing.
#
# **The head.** Each *selected* token goes through a C × C matrix and is compared with all V words: $2C^2 + 2VC$.
#
# **The way back.** For each product $Y = XW$ the gradient needs two products of the same size, one for X and one for W. So
# training costs **three** times the way up.

# %% [markdown]
# ### Exercise 08.1 · count the work ●●○ · 8 minutes
#
# How many operations does training cost for one token, on average, if a share `rate` of the tokens is selected?


# %% tags=["exercise-08.1"]
def training_work(layers, C, T, V, rate):
    """Whole numbers and a share -> operations for one token, a number"""
    ### BEGIN SOLUTION
    layer = 24 * C**2 + 4 * T * C
    head = 2 * C**2 + 2 * V * C
    return 3 * (layers * layer + rate * head)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.training_work(training_work)

# %% [markdown]
# Torch can count while it runs. A batch of toy sentences, up and back:

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
V, T = tokenizer.vocab_size, int(world.lengths.max()) + 2


def work(layers, width, rate=0.3):
    """Operations to train on one token of the toy world, where a share `rate` is selected."""
    return 3 * (layers * (24 * width**2 + 4 * T * width) + rate * (2 * width**2 + 2 * V * width))


def new_model(layers, width):
    """Return an untrained model of this shape for the toy world."""
    sizes = dict(width=width, layers=layers, ffn_width=4 * width, max_len=T)
    return MaskedLanguageModel(Encoder(EncoderConfig(V, **sizes, init_std="fan_in")))


batch = fresh_batches(world.sample_ids, tokenizer, rate=0.3, seed=seed)(0)
tokens, selected = batch["ids"].numel(), int((batch["labels"] != IGNORE).sum())
with FlopCounterMode(display=False) as up_and_back, sdpa_kernel(SDPBackend.MATH):  # torch counts no fused attention
    new_model(layers=2, width=64).loss(**batch).backward()
formula = tokens * work(2, 64, rate=selected / tokens)
print(f"counted {up_and_back.get_total_flops():,}, by formula {formula:,.0f}")
assert up_and_back.get_total_flops() == round(formula)

# %% [markdown]
# Equal to the last digit. (Small things such as norms and the optimizer are not products and are left out, by both.)

# %% [markdown]
# ## 2. Larger, at equal cost
#
# Now fix a **budget**: what 1,150 steps cost for one layer of width 64. A model that needs four times the work for a token
# gets a quarter of the steps.


# %% tags=["nbval-check-output"]
def steps_for(layers, width, budget=1.0):
    """Return how many steps of 64 sentences the budget pays for."""
    return round(budget * 1150 * work(1, 64) / work(layers, width))


for layers, width in [(1, 32), (1, 64), (1, 128), (2, 64), (4, 64)]:
    weights = sum(p.numel() for p in new_model(layers, width).parameters())
    print(f"{layers} layers of width {width:3}: {weights:7,} weights, {steps_for(layers, width):5,} steps")

# %% [markdown]
# What is compared is the **excess**: the model's loss minus the perfect model's, on the same fresh sentences (lesson 06). An
# excess of 0 would be perfect; there is nothing below. All runs share data, batch size and learning rate.

# %% [markdown]
# ### Exercise 08.2 · predict the result ●○○ · 3 minutes
#
# One layer, three widths, the same budget. Which width ends with the *least* excess: 32, 64 or 128?

# %% tags=["exercise-08.2"]
best_width = None
### BEGIN SOLUTION
best_width = 32  # four times the steps of width 64, and the budget is so small that steps are what is missing
### END SOLUTION

# %% tags=["nbval-check-output"]
check.best_width(best_width)


# %% [markdown]
# Now the runs. Two functions make one: `only` draws batches from a small corpus, which section 3 needs; `train` builds a model,
# trains it for a budget, and measures the excess with the package's `compare`.


# %%
def only(n):
    """A corpus of n sentences and no more: return a function that draws batches from it."""
    ids, mask = world.sample_ids(n, seed=10**6 + seed)

    def sample(size, batch_seed):
        rows = torch.randint(n, (size,), generator=seeded(batch_seed, 9))
        return ids[rows], mask[rows]

    return sample


def train(layers=1, width=64, budget=1.0, sentences=0, lr=3e-3):
    """Train on so many sentences (0: new ones in every step) for a budget; return the model and its row."""
    steps = steps_for(layers, width, budget)
    batches = fresh_batches(only(sentences) if sentences else world.sample_ids, tokenizer, rate=0.3, seed=seed)
    torch.manual_seed(seed)
    model = new_model(layers, width)
    fit(model, batches, steps, lr=lr, warmup=min(100, steps // 4), seed=seed)
    found = compare(model, world, n=2000)  # 2,000 sentences that no model has seen, 15 % selected
    row = {"seed": seed, "layers": layers, "width": width, "budget": budget, "sentences": sentences, "lr": lr}
    return model, row | {"steps": steps, "excess": found.excess, "error": found.standard_error}


# %% [markdown]
# All the arms (the variants that are compared), as one list. The stored table has them all; here, two are run before your
# eyes: one layer and four, at the same cost.

# %%
grid = [dict(layers=layers) for layers in (1, 4, 2)] + [dict(width=width) for width in (32, 128)]
grid += [dict(layers=4, lr=lr) for lr in (1.5e-3, 6e-3)]  # is it only the learning rate?
grid += [dict(budget=budget) for budget in (0.25, 0.5, 2.0, 4.0)] + [dict(layers=2, budget=4.0)]
grid += [dict(sentences=n) for n in (100, 200, 400, 800, 10_000)]
grid += [dict(layers=layers, budget=budget) for budget in (0.03, 0.1) for layers in (0, 1)]
grid += [dict(layers=0, budget=0.25)]
results_scale = [train(**arm)[1] for arm in (grid if every_row else grid[:2])]

for row in results_scale[:2]:
    print(f"{row['layers']} layers, {row['steps']:5,} steps: excess {row['excess']:.2f} nats")
one, four = results_scale[:2]
assert four["excess"] > 1.5 * one["excess"]

# %% [markdown]
# The larger model loses. But that was two runs of one seed. All of them, for three seeds, as stored:

# %% tags=["nbval-check-output"]
table = stored_table("08_scale")


def rows_with(layers=1, width=64, budget=1.0, sentences=0, lr=3e-3):
    """Return the stored rows of one arm, one for each seed."""
    wanted = {"layers": layers, "width": width, "budget": budget, "sentences": sentences, "lr": lr}
    return [row for row in table if all(float(row[key]) == value for key, value in wanted.items())]


def excess(**arm):
    """Return the stored excess of one arm: one number for each seed."""
    return torch.tensor([float(row["excess"]) for row in rows_with(**arm)], dtype=torch.float64)


shapes = [(1, 32), (1, 64), (1, 128), (2, 64), (4, 64)]
by_shape = {(layers, width): excess(layers=layers, width=width) for layers, width in shapes}
for (layers, width), values in by_shape.items():
    print(f"{layers} layers of width {width:3}: " + "  ".join(f"{value:.3f}" for value in values))

# %% [markdown]
# The same as a picture. Its axis is logarithmic, because what counts is how many *times* closer to the floor a model is.

# %%
fig, ax = plots.figure(size=(7.0, 3.2))
for place, ((layers, width), values) in enumerate(by_shape.items()):
    ax.plot([place] * 3, values, "o", color=plots.BLUE)
labels = [
    f"{layers} layer{'s' * (layers > 1)} × {width}\n{steps_for(layers, width):,} steps" for layers, width in shapes
]
ax.set_xticks(range(len(shapes)), labels)
ax.set(yscale="log", ylabel="excess over the floor (nats)", xlim=(-0.5, 4.5))
ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
ax.set_title("At a small budget the smallest model wins")
plots.show(fig, alt="Excess of five shapes, three seeds each, at equal cost: least for width 32, most for four layers.")
assert by_shape[1, 32].max() < by_shape[1, 64].min() and by_shape[1, 64].max() < by_shape[1, 128].min()
assert by_shape[1, 64].max() < by_shape[2, 64].min() and by_shape[2, 64].max() < by_shape[4, 64].min()

# %% [markdown]
# In each seed narrower beats wider and shallower beats deeper. (Cost is not all: width 128 and four layers get almost
# equally many steps, and the wide one is a little better.) Before you believe it, two doubts.
#
# **Is the learning rate to blame?** A larger model may want another one. Four layers with half the rate and with twice:

# %% tags=["nbval-check-output"]
for lr in (1.5e-3, 3e-3, 6e-3):
    print(f"four layers, rate {lr:.4f}: " + "  ".join(f"{value:.2f}" for value in excess(layers=4, lr=lr)))
assert min(excess(layers=4, lr=lr).min() for lr in (1.5e-3, 6e-3)) > by_shape[1, 64].max()

# %% [markdown]
# None of these rates brings the four layers near the one. Most likely they lack steps. (Width 128 and two layers we did
# not check.)
#
# **Does it stay so at other budgets?** Here are a few, from 3 % of ours to four times as much, and three depths. A model of 0
# layers is the smallest there is: embeddings, positions and the head. Where, do you think, is it the best of the three?

# %%
budgets = {0: [0.03, 0.1, 0.25], 1: [0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0], 2: [1.0, 4.0]}
by_depth = {layers: torch.stack([excess(layers=layers, budget=x) for x in xs]) for layers, xs in budgets.items()}
fig, ax = plots.figure()
for (layers, values), marker in zip(by_depth.items(), ["^-.", "o-", "s--"], strict=True):
    label = f"{layers} layer{'s' * (layers != 1)} of width 64"
    ax.plot(budgets[layers], values.log().mean(1).exp(), marker, label=label)
ax.set(
    xscale="log", yscale="log", xlabel="budget (1 = 1,150 steps of one layer)", ylabel="excess over the floor (nats)"
)
ax.set_xticks(budgets[1], [f"{x:g}" for x in budgets[1]])
ax.minorticks_off()
ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
ax.set_title("Which size is best depends on the budget")
ax.legend()
plots.show(
    fig,
    alt="Without a layer the excess stays near 2 nats; one layer starts above it, crosses it and falls; two layers come later.",
)
none, one, two = by_depth.values()
assert (none[0] < one[0]).all() and (none[1] > one[1]).all()  # best at 0.03, no longer at 0.1
assert none[2].min() > 1.8
behind = (two - one[[4, 6]]).mean(1)
print(f"steps at budget 0.03: {steps_for(0, 64, 0.03)} without a layer, {steps_for(1, 64, 0.03)} with one")
print(f"two layers are behind one by {behind[0]:.2f} nats at budget 1, by {behind[1]:.2f} at budget 4")
assert (two > one[[4, 6]]).all() and behind[1] < behind[0] / 3

# %% [markdown]
# So "smaller is better" was true for one budget and is no law. With 3 % of it, *no* layer is best, because its steps are
# so cheap. But soon it has learned all that a word's place says about it, and more training is for nothing: it is **too
# small**. One layer passes it. Two layers are **too large** for our budget, and at four times as much still behind,
# though both excesses are small by then; whether they come to lead later these runs do not show.
#
# One more look at the same table, with the mistake that is made most often. Two runs of about as many *steps*:

# %% tags=["nbval-check-output"]
same_steps = {"1 layer": rows_with(budget=0.5), "2 layers": rows_with(layers=2)}
for name_of, rows in same_steps.items():
    shown = "  ".join(f"{float(row['excess']):.2f}" for row in rows)
    print(f"{name_of:<8}, {rows[0]['steps']} steps: excess {shown}")
assert excess(layers=2).mean() < excess(budget=0.5).mean() and excess(layers=2).min() > excess().max()

# %% [markdown]
# At about equal steps two layers look better, at equal cost one layer *is* better. Both are true; they answer different
# questions. A table that compares sizes at equal steps lets the larger one spend more, and does not say so.

# %% [markdown]
# ## 3. More data
#
# So far each step brought new sentences. Real text is finite, so now a corpus of n sentences is all there is, seen again and
# again, with other words hidden each time. Everything else stays: one layer of width 64, budget 1. Guess: with only 100
# sentences, what happens to the loss on those sentences, and on new ones?

# %%
memoriser, row = train(sentences=100)
ids, mask = world.sample_ids(100, seed=10**6 + seed)  # its sentences, and words hidden in them twenty times
ids, mask = ids.repeat(20, 1), mask.repeat(20, 1)
hidden, labels = mask_tokens(ids, tokenizer, generator=seeded(seed, 11))
device = next(memoriser.parameters()).device
with torch.no_grad():
    own = float(memoriser.loss(hidden.to(device), labels.to(device), mask.to(device)))
own_floor = PerfectModel(world).losses(hidden, labels).mean().item()
found = compare(memoriser, world, n=1000)
print(f"on its 100 sentences: loss {own:.2f}, the perfect model {own_floor:.2f}")
print(f"on new sentences:     loss {found.loss:.2f}, the perfect model {found.floor:.2f}")
assert own < own_floor - 0.15 and found.excess > 1

# %% [markdown]
# On its own sentences the model is **below the floor**. Is the floor wrong, then? No. The floor is the least *expected* loss
# on sentences that the world will say next. The perfect model knows the world's rules; it does not know which 100 sentences
# somebody drew from it. This model knows just that. It has learned a world of 100 sentences, in which most gaps have one
# answer, and in that world it is good. You pay for it in the second line: in the real one it is far above the floor.
#
# That is what **overfitting** is, and why only text that was not trained on counts.

# %% [markdown]
# ## 4. A prediction
#
# How does the excess shrink with the number of sentences? Stored are runs with 100, 200, 400. If the three points lie on a
# straight line in a picture with two logarithmic axes, the law is a **power**:
#
# $$\mathrm{excess} = a \cdot n^{-b} \qquad\Longleftrightarrow\qquad \log \mathrm{excess} = \log a - b \log n$$

# %% tags=["nbval-check-output"]
known = torch.tensor([100.0, 200.0, 400.0], dtype=torch.float64)
measured = torch.stack([excess(sentences=int(n)).log().mean() for n in known])  # log of the geometric mean of 3 seeds
x = known.log() - known.log().mean()
b = -(x * measured).sum() / (x**2).sum()  # least squares
a = (measured.mean() + b * known.log().mean()).exp()


def predict(n):
    """Return the excess that the straight line says for n sentences."""
    return float(a * n**-b)


off_line = (a * known**-b / measured.exp()).log().abs().max()
print(f"excess = {a:.0f} · n^-{b:.2f}; the three points are at most {math.expm1(off_line):.0%} off the line")
print(f"predicted: {predict(800):.2f} for 800 sentences, {predict(10_000):.3f} for 10,000")
assert off_line < 0.2

# %% [markdown]
# The prediction stands. Write down whether you trust it, then train.

# %%
_, row = train(sentences=800)
print(f"800 sentences: predicted {predict(800):.2f}, measured {row['excess']:.2f} ± {row['error']:.2f}")
print("stored, three seeds: " + "  ".join(f"{value:.2f}" for value in excess(sentences=800)))
assert 0.6 < row["excess"] / predict(800) < 1.7

# %% [markdown]
# Near enough. And the second prediction, for 10,000? The stored runs have it:

# %%
sizes = [100, 200, 400, 800, 10_000]
by_size = torch.stack([excess(sentences=n) for n in sizes])
line = torch.logspace(2, 4, 50, dtype=torch.float64)
fig, ax = plots.figure()
ax.plot(line, a * line**-b, "--", color=plots.GREY, label="line through the first three")
for values in by_size.T:
    ax.plot(sizes, values, "o", color=plots.BLUE, label="one seed" if values is by_size.T[0] else None)
ax.axhline(excess().log().mean().exp(), color=plots.RED, linestyle=":", label="new sentences in every step")
ax.set(xscale="log", yscale="log", xlabel="different training sentences", ylabel="excess over the floor (nats)")
ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
ax.minorticks_off()
ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
ax.set_title("The line holds until something else runs short")
ax.legend()
plots.show(
    fig, alt="Excess falls on a straight line up to 800 sentences; at 10,000 it is as with new sentences, far above it."
)
print("10,000 sentences, three seeds: " + "  ".join(f"{value:.2f}" for value in by_size[-1]))
assert by_size[-1].min() > 3 * predict(10_000)
assert abs(by_size[-1].mean() / excess().mean() - 1) < 0.3

# %% [markdown]
# One step along the line the prediction is good. At 10,000 sentences it fails: the model is no better than with new
# sentences in every step. Data is no longer what it lacks; now it lacks steps, and the picture in section 2 takes over.
# Hoffmann et al. 2022 write such limits as a **sum**: a floor, a term that shrinks with the number of weights N, a term
# that shrinks with the tokens read D. (It is not our experiment: their texts hardly repeat, so more steps *are* more
# data. And our points do not add up like that: at 800 sentences a sum would say nearly twice what was measured.)
#
# $$L = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}$$
#
# Making one term small does not touch the others. A prediction along one axis is honest as long as that axis is the scarce one.
#
# And training time, for one layer: is that a straight line? Section 2 drew it. Its steepness from one doubling to the next:

# %% tags=["nbval-check-output"]
doublings = one[2:]  # budgets ¼, ½, 1, 2, 4; three seeds
steepness = -(doublings[1:] / doublings[:-1]).log().mean(1) / math.log(2)
for start, end, value in zip(budgets[1][2:], budgets[1][3:], steepness, strict=False):
    print(f"budget {start:g} → {end:g}: like budget^-{value:.2f}")
assert steepness[0] < steepness[1:].min() - 0.3

# %% [markdown]
# No. It is nearly flat, then steep. A line through the first two of these points would mislead you about
# the next. Lesson 06 suggests why: a model learns one rule of the grammar after another, and each has its time. Look
# before you extrapolate.

# %% [markdown]
# ### Exercise 08.3 · find the bug ●●● · 10 minutes
#
# Somebody predicts the *loss* in the same way:


# %%
def extrapolated(x, losses, floor, at):
    log_x, log_y = x.log(), losses.log()
    slope = ((log_x - log_x.mean()) * (log_y - log_y.mean())).sum() / ((log_x - log_x.mean()) ** 2).sum()
    return torch.exp(log_y.mean() + slope * (math.log(at) - log_x.mean()))


floor = found.floor
losses = floor + measured.exp()
print(
    f"10,000 sentences: predicted loss {extrapolated(known, losses, floor, 10_000):.2f}, but the floor is {floor:.2f}"
)
assert extrapolated(known, losses, floor, 10_000) < floor

# %% [markdown]
# A loss that nobody can reach. Find out what is wrong and write it correctly.


# %% tags=["exercise-08.3"]
def extrapolate(x, losses, floor, at):
    """x, losses: (n,), floor and at: numbers -> the loss to expect at `at`, a tensor of one number"""
    ### BEGIN SOLUTION
    log_x, log_y = x.log(), (losses - floor).log()
    slope = ((log_x - log_x.mean()) * (log_y - log_y.mean())).sum() / ((log_x - log_x.mean()) ** 2).sum()
    return floor + torch.exp(log_y.mean() + slope * (math.log(at) - log_x.mean()))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.extrapolate(extrapolate)

# %% [markdown]
# Sound now, and still wrong about 10,000: the formula keeps the floor, but the line does not hold that far.

# %% [markdown]
# ## 5. What transfers to real models
#
# Kaplan et al. 2020 found that the loss of language models follows power laws in parameters, data and compute, over many orders
# of magnitude. Hoffmann et al. 2022 trained more than 400 and asked what you asked in section 2: which size is best for which
# compute? They found that parameters and tokens should grow *together*. Their Chinchilla was trained with the same compute
# as a model four times its size, and beat it. How many tokens did it see for each parameter? And yours?

# %% tags=["nbval-check-output"]
chinchilla = 1.4e12 / 70e9  # tokens and parameters, Hoffmann et al. 2022
toy = steps_for(1, 64) * 64 * T / sum(p.numel() for p in new_model(1, 64).parameters())  # padding included
docs_seen = card["training"]["tokens_seen"] / card["parameters"]
print(
    f"tokens for each parameter: Chinchilla {chinchilla:.0f}, one layer at budget 1 {toy:.0f}, {name} {docs_seen:.0f}"
)

# %% [markdown]
# That ours are near 20 is chance and no sign of a good choice: at the same budget width 32 was better, with far fewer
# weights and far more steps. The ratio does not carry over to this world. And the last number counts repeats:
# `docs-small` went round its texts many times. Section 6 counts their *different* tokens.
#
# What transfers: count operations, not steps; compare at equal cost; the best size depends on the budget; a power law can be
# measured small and read off large, as long as nothing else runs short.
#
# What does not: the numbers. Those models predict the next token of text from everywhere; ours fill gaps in a toy grammar
# of a limited number of sentence patterns, which a model can know completely, so a single layer is soon enough and slopes
# are steep. And nobody knows *their* floor: Hoffmann et al. fit E as one more unknown, you subtracted a known one.

# %% [markdown]
# ## 6. Real text, where no floor is known
#
# Is the loss of `docs-small` good? There is no perfect model of documentation to ask. What you can have is **honest reference
# points**, from the stupid to the clever, all scored on the same hidden tokens of texts that nobody trained on:
#
# * **uniform**: all V tokens alike. Its loss is ln V (lesson 05).
# * **frequencies**: how often each token occurs in the training texts.
# * **left neighbour**: how often each token comes after the one before it, a *bigram* model.
# * the model.

# %%
model, bpe = load(name)
docs = load_docs()
held = unseen(card, docs.test, docs)  # without texts that the model saw, or nearly saw
longest = model.encoder.config.max_len
training = pieces([d.text for d in docs.train], bpe, longest)
test = MLMBatches(pieces([d.text for d in held], bpe, longest), bpe, seed=1_000_003, copies=1)
print(f"{len(held):,} test texts in {len(test)} batches, {sum(test.lengths):,} tokens; V = {bpe.vocab_size:,}")
different = sum(map(len, training))
print(f"{different:,} training tokens, {different / card['parameters']:.1f} for each parameter")
assert len(held) > 300 and different < card["training"]["tokens_seen"] / 5

# %% [markdown]
# All that the two simple models know is one table: how often does token j come after token i in the training texts?

# %%
V_docs = bpe.vocab_size
stream = torch.tensor([token for piece in training for token in piece])
pair = stream[:-1] * V_docs + stream[1:]
counts = torch.bincount(pair, minlength=V_docs**2).view(V_docs, V_docs).float()  # (V, V): before, after
counts[bpe.sep_id] = 0  # what comes after the end of a piece is another text
print(
    f"{counts.sum():,.0f} pairs, {(counts > 0).sum():,} different ones: {(counts > 0).float().mean():.1%} of the table"
)
assert (counts > 0).float().mean() < 0.05

# %% [markdown]
# Most of the table is empty: pairs that did not happen to come up. If an empty cell meant probability 0, one such pair in the
# test texts would make the loss infinite. So the bigram is **interpolated** with the frequencies. With $n_i$ pairs seen after
# token i, it trusts them as if k further ones had been drawn from the frequencies $u_j$:
#
# $$P(j \mid i) = \frac{\mathrm{counts}_{ij} + k\,u_j}{n_i + k}$$
#
# After a token seen often, the pairs decide; after a rare one, the frequencies.

# %% [markdown]
# ### Exercise 08.4 · a bigram that never says never ●●○ · 10 minutes
#
# From the table of counts to the table of probabilities. The frequencies are those of the tokens that come *after*, with 1
# added to each count, so that none is 0.


# %% tags=["exercise-08.4"]
def bigram(counts, k):
    """counts: (V, V), [i, j] = how often j came after i -> P(j | i): (V, V), each row sums to 1"""
    ### BEGIN SOLUTION
    after = counts.sum(0) + 1
    frequencies = after / after.sum()
    return (counts + k * frequencies) / (counts.sum(1, keepdim=True) + k)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.bigram(bigram)

# %% [markdown]
# Now the hidden tokens. One pass over the test texts keeps, for each, what is needed below.

# %%
device = pick_device()
model.to(device)


@torch.no_grad()
def hidden_tokens(batches):
    """For each token that shows [MASK]: its text's number, itself, its neighbours, the model's loss and five best."""
    found = []
    for step in range(len(batches)):
        ids, labels, mask = (batches(step)[key] for key in ("ids", "labels", "mask"))
        original = torch.where(labels == IGNORE, ids, labels)
        gaps = ids == bpe.mask_id
        hidden = model.encoder(ids.to(device), mask.to(device))[gaps.to(device)]
        logits = model.head(hidden, model.encoder.tokens.weight).float().cpu()
        loss = F.cross_entropy(logits, original[gaps], reduction="none").double()
        before, after = original.roll(1, 1)[gaps], original.roll(-1, 1)[gaps]
        found.append(
            (gaps.nonzero()[:, 0] + step * batches.batch_size, original[gaps], before, after, loss, logits.topk(5)[1])
        )
    return [torch.cat(part) for part in zip(*found, strict=True)]


text, token, before, after, loss, best = hidden_tokens(test)
rows = len(test) * test.batch_size
print(f"{len(token):,} hidden tokens in {len(text.unique()):,} pieces of text")

# %% [markdown]
# How far should k go? Chosen on the *validation* texts, not on the test texts.

# %%
frequencies = (counts.sum(0) + 1) / (counts.sum() + V_docs)
seen = counts.sum(1)


def bigram_loss(before, token, k):
    """Return -log P(token | before) of each pair, in nats."""
    return -((counts[before, token] + k * frequencies[token]) / (seen[before] + k)).log().double()


validation = torch.tensor([i for p in pieces([d.text for d in docs.validation], bpe, longest) for i in p])
ks = [1, 3, 10, 30, 100, 300, 1000]
on_validation = [bigram_loss(validation[:-1], validation[1:], k).mean().item() for k in ks]
k = ks[min(range(len(ks)), key=on_validation.__getitem__)]
print("loss on validation texts:", {k: round(value, 2) for k, value in zip(ks, on_validation, strict=True)}, "→ k =", k)

# %% [markdown]
# Everything is there. The four on the same hidden tokens:

# %%
scores = {
    "uniform": torch.full_like(loss, math.log(V_docs)),
    "frequencies": -frequencies[token].log().double(),
    "left neighbour": bigram_loss(before, token, k),
    name: loss,
}
means = {who: ratio(values, text, rows) for who, values in scores.items()}
for who, (mean, error) in means.items():
    print(f"{who:<14} {mean:5.2f} ± {2 * error:.2f} nats: as unsure as among {math.exp(mean):5,.0f} equal choices")
order = [mean for mean, _ in means.values()]
assert all(higher - lower > 0.5 for higher, lower in zip(order, order[1:], strict=False))

# %% [markdown]
# What the last column says: a loss of ln n is that of somebody who knows n equally likely answers and nothing else.

# %%
fig, ax = plots.figure(size=(7.0, 2.6))
bars = ax.barh(list(means), order, color=[plots.GREY, plots.GREY, plots.GREY, plots.BLUE])
ax.bar_label(bars, [f"{value:.2f}" for value in order], padding=3)
ax.invert_yaxis()
ax.set(xlabel="loss on hidden tokens of test texts (nats)", xlim=(0, 9.5))
ax.set_title("Each context that a model can use lowers the loss")
plots.show(
    fig, alt="Bars from uniform over word frequencies and left neighbour down to the model, each clearly shorter."
)

# %% [markdown]
# The `±` is twice the standard error, counted over pieces of text and not over tokens, because the tokens of one piece
# have much in common. (A long text gives several pieces, so the error is, if anything, a little too small.) The simple
# models even have an advantage: what they look at is never hidden or replaced. It is not enough.
#
# The card says a little less for the model, because it also counts the selected tokens that were not hidden but kept or
# replaced (lesson 05), and a kept one can be read off:

# %%
print(f"card, all selected tokens: {card['held_out']['loss']:.2f}; hidden ones only: {means[name][0]:.2f}")
assert 0 < means[name][0] - card["held_out"]["loss"] < 0.6

# %% [markdown]
# Do not hold these numbers against other people's. A loss *per token* depends on the tokenizer: one that cuts text into
# smaller pieces has easier gaps (lesson 07 compares by bits per byte). And the texts of these packages repeat each other; the
# test texts here have no near-duplicate in training, else a model could know them by heart and look clever (section 3).

# %% [markdown]
# ## 7. Fill the gaps
#
# A loss is an average. What does it look like? The first two test entries of each library, in alphabetical order, whose
# summary has 6 to 14 words; the last word of at least five letters that is one token is hidden. No other choice is made. The model
# reads the start of the entry's body too.

# %%
import re


def with_gap(document):
    """Return the summary with a [MASK] and the hidden word, or None if the rule does not fit."""
    words = document.summary.split(" ")
    one_token = [
        i for i, word in enumerate(words) if re.fullmatch("[a-z]{5,}", word) and len(bpe.encode(" " + word)) == 3
    ]
    fits = [i for i in one_token if 2 <= i < len(words) - 1]
    if not 6 <= len(words) <= 14 or not fits:
        return None
    gap = fits[-1]  # a token begins with its space, so [MASK] stands directly behind the word before it
    return " ".join(words[:gap]) + "[MASK]" + "".join(f" {word}" for word in words[gap + 1 :]), words[gap]


firsts = []
for library in ("python", "torch", "numpy", "matplotlib"):
    questions = [(d, *with_gap(d)) for d in held if d.library == library and with_gap(d)]
    for d, question, right in questions[:2]:
        guesses = fill_mask(model, bpe, f"{question}\n\n{d.body[:100]}".strip())[0]
        print(f"{d.name}: {question.replace('[MASK]', ' ____')}\n    hidden: {right}")
        print("    " + "  ".join(f"{guess.strip()} {p:.2f}" for guess, p in guesses))
        firsts.append(guesses[0][0].strip() == right)
print(f"right at once: {sum(firsts)} of {len(firsts)}")

# %% [markdown]
# Now choose the gaps yourself. Twenty sentences such as stand in documentation; a click hides a token. Which tokens can the model tell
# for certain, the small words or those that carry the meaning? Look for a wrong guess that would have been as good.

# %%
from nextbert_lite import MaskingPlayground, show

playground = MaskingPlayground(model, bpe, title="Which gaps can the model fill for certain?")
show(playground, alt="A sentence of documentation with one token masked, and the model's five likeliest tokens for it.")

# %% [markdown]
# The share of the right token, at every place of the first sentence:

# %%
guess = playground.guess("".join(playground.sentences[0]))
for piece, offered, shares in zip(guess.tokens, guess.words, guess.model, strict=True):
    print(
        f"{piece.strip():>10} {shares[offered.index(piece)]:.2f}"
        if piece in offered
        else f"{piece.strip():>10} not among five"
    )

# %% [markdown]
# The rule picks whole words of five letters and more, the hardest kind, as the table below shows. (And a [MASK] need not
# be a new word: an odd guess may continue the word before it.) Look at the wrong ones: are they sensible? A gap often has
# more than one answer that makes sense, and only the author's counts. Eight examples prove nothing, in either direction.
# So count over all hidden tokens, and by kind:
#
# * a **word** stands alone, a **piece** is part of a longer word, the rest is **punctuation**, digits and blanks;
# * **frequent** tokens are the fewest that make up half of the training texts; all others are **rare**.

# %%
spelled = bpe.tokens(range(V_docs))
begins, ends, letters, only_letters = (
    torch.tensor([bool(test_of(t)) for t in spelled])
    for test_of in (
        lambda t: t[:1].isalpha(),
        lambda t: t[-1:].isalpha(),
        lambda t: any(c.isalpha() for c in t),
        lambda t: t.strip().isalpha(),
    )
)
joined = (begins[token] & ends[before]) | (begins[after] & ends[token])
kinds = {
    "word": only_letters[token] & ~joined,
    "piece": letters[token] & ~(only_letters[token] & ~joined),
    "punctuation": ~letters[token],
}
by_frequency = counts.sum(0).sort(descending=True)
enough = int((by_frequency.values.cumsum(0) < counts.sum() / 2).sum()) + 1
frequent = torch.zeros(V_docs, dtype=torch.bool)
frequent[by_frequency.indices[:enough]] = True
print(f"{enough} of {V_docs:,} tokens make up half of the training texts")

# %% [markdown]
# Accuracy for each group, at the first guess and among five. The standard errors are over pieces of text again.

# %%
hit = best == token[:, None]  # (hidden tokens, 5)


def accuracy(some, n):
    """Return how often the right token is among the n best, and its standard error, over texts."""
    return ratio(hit[some, :n].any(1).double(), text[some], rows)


groups = {"all": torch.ones_like(joined)} | {
    f"{kind}, {often}": some & (frequent[token] == (often == "frequent"))
    for kind, some in kinds.items()
    for often in ("frequent", "rare")
}
print(f"{'':<22}{'number':>8}   right at once   among the five best")
for group, some in groups.items():
    (top1, error1), (top5, error5) = accuracy(some, 1), accuracy(some, 5)
    print(f"{group:<22}{int(some.sum()):8,}   {top1:.0%} ± {2 * error1:.0%}       {top5:.0%} ± {2 * error5:.0%}")
assert len(token) >= 500 and kinds["punctuation"].double().mean() > 0.25

# %% [markdown]
# Look how far apart the two colours lie: so often the right token is among the five best, but another comes first.

# %%
fig, ax = plots.figure(size=(7.0, 3.2))
for offset, n, color in [(-0.15, 1, plots.BLUE), (0.15, 5, plots.ORANGE)]:
    values = [accuracy(some, n) for some in groups.values()]
    places = [i + offset for i in range(len(groups))]
    label = "right at once" if n == 1 else "among the five best"
    ax.errorbar(
        [v for v, _ in values], places, xerr=[2 * e for _, e in values], fmt="o", color=color, capsize=3, label=label
    )
ax.set_yticks(range(len(groups)), list(groups))
ax.invert_yaxis()
ax.set(xlabel="share of hidden tokens, ± 2 standard errors", xlim=(0, 1))
ax.set_title("Frequent punctuation is easy, rare words are hard")
ax.legend(loc="lower left")
plots.show(
    fig, alt="Accuracy by kind of token: frequent punctuation highest, rare words lowest, the rest between them."
)
for kind in kinds:
    often, rare = accuracy(groups[f"{kind}, frequent"], 5), accuracy(groups[f"{kind}, rare"], 5)
    if kind != "piece":
        assert often[0] - rare[0] > 3 * (often[1] + rare[1])
assert accuracy(groups["word, rare"], 1)[0] < accuracy(groups["all"], 1)[0]

# %% [markdown]
# Compare the first line with the others. The accuracy over *all* tokens is held up by full stops, brackets and line ends, which
# are many and easy; of the rarer words, which carry what a text is about, far fewer are found. When somebody shows you one
# number, ask of which tokens.

# %% [markdown]
# ## 8. Train your own
#
# The same encoder, small, on the same documentation, for a few seconds. Guess its place among the reference points:

# %%
short = MLMBatches(pieces([d.text for d in docs.train], bpe, 64), bpe, batch_size=32, rate=0.3, seed=seed)
quick = MLMBatches(pieces([d.text for d in held], bpe, 64), bpe, seed=1_000_003, copies=1)
by_steps = {}
for steps in (20, 80, 320):
    torch.manual_seed(seed)
    own_model = MaskedLanguageModel(Encoder(EncoderConfig.preset("tiny", V_docs, init_std=0.02)))
    fit(own_model, short, steps, lr=3e-3, warmup=steps // 4, seed=seed)
    by_steps[steps] = held_out_loss(own_model, quick, 8)
    print(f"{steps} steps: {by_steps[steps]:.2f} nats on test texts")
assert by_steps[20] > by_steps[80] + 0.2 and by_steps[80] > by_steps[320] + 0.05
assert by_steps[320] > means["left neighbour"][0] + 0.5

# %% [markdown]
# More steps, less loss, and still far above the left neighbour. (The measure is not quite that of section 6: it counts
# kept tokens too, which are easy. So do not hold it against the frequencies.) Seconds are hardly enough for any context.
# For a model worth keeping, go to a terminal and give it the time of a coffee, or of a night:
#
# ```
# nextbert-lite pretrain --corpus docs --minutes 20 --out my-docs
# nextbert-lite pretrain --corpus my-texts/ --preset small --minutes 60 --out my-model
# ```
#
# The second reads your own `.txt` files; paragraphs are what it learns from, and some of them are held out. Ctrl-C stops it, the
# same command goes on, and `--help` shows the rest. Then, here or anywhere: `model, tokenizer = load("my-docs")`. To see your
# model in all of sections 6 and 7, set `name` in the second code cell to its folder and run the lesson again.

# %% [markdown]
# ## What to remember
#
# * Cost is counted in **operations**: $3\,(L\,(24C^2 + 4TC) + r\,(2C^2 + 2VC))$ for each token of training. Compare at equal
#   cost, not at equal steps.
# * The best size **depends on the budget**: one too small soon stops learning, one too large has hardly begun. So with an
#   evening to spend: train two sizes and two amounts of text at small budgets, see which change helps, extrapolate that
#   one a single step, and check.
# * Excess against data is a straight line on two logarithmic axes, **while data is what is missing**. Fit it to the excess,
#   not to the loss; predict; then check.
# * A model can be below the floor on what it was trained on. Only text that it has **not seen** counts.
# * Without a floor, use **reference points**: uniform, frequencies, neighbours. And ask which tokens an accuracy counts.

# %% [markdown]
# **What this scale cannot show.** Our budgets are minutes of one processor, and a toy grammar can be known completely. The
# size at which larger models win, the slopes, and how few steps are too few are numbers of this world. At real scale the
# learning rate and batch size would be tuned for each size; here one rate served all, with one check.
#
# **An open problem.** Where is the floor of real language? A fit of the sum above gives an E, but that is no better than the
# belief in the formula. Nobody can say how far the best models are from what is possible.
#
# **Where this comes from**
#
# * Jared Kaplan et al., *Scaling Laws for Neural Language Models*, 2020,
#   [arXiv:2001.08361](https://arxiv.org/abs/2001.08361).
# * Jordan Hoffmann et al., *Training Compute-Optimal Large Language Models*, 2022,
#   [arXiv:2203.15556](https://arxiv.org/abs/2203.15556).
# * Jacob Devlin et al., *BERT*, 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805).
#
# **Next:** the model knows which words fit into a gap. Does it know which *sentences* mean the same? Part III makes it so.
