# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Larger models, more data
#     question: What does a larger model, more data or longer training buy, and how can you tell beforehand?
#     minutes: 110
#     part: "Part II: pretrain"
# ---

# %% [markdown]
# # 08 · Larger models, more data
#
# You have a computer and an evening. You can train a larger model, train the same model for longer, or spend the evening
# collecting more text. Which one pays off? And can you know it before the evening is over? This lesson measures all three in the
# toy world, where the best possible loss is known exactly. Then it turns to real documentation, where nobody knows it, and asks
# what a model's loss is worth there.
#
# **The question of this lesson:** what does a larger model, more data or longer training buy, and how can you tell beforehand?
#
# | | |
# |---|---|
# | You will | count what training costs, compare models at equal cost, see longer training do harm and stop it in time, predict a run before you make it, and build a strong opponent for a masked language model from counts alone |
# | You need | lesson 04 for the sizes, lesson 05 for masking, lesson 06 for the floor |
# | It takes | about 110 minutes, four exercises; the machine needs about two minutes |
#
# Here is how the validation loss of `docs-small`, the course's model of real documentation, fell during its training.

# %% tags=["hide-input"]
from nextbert_lite import plots, read_card

card = read_card("docs-small")
steps, losses = zip(*[(p["step"], p["validation_loss"]) for p in card["training"]["curve"]], strict=True)
half = losses[(len(losses) - 1) // 2]
fig, ax = plots.figure(size=(7.0, 3.0))
ax.plot(steps, losses, "o-")
ax.axvline(steps[-1] / 2, color=plots.GREY, linestyle=":")
ax.set(xlabel="training step", ylabel="validation loss (nats)")
ax.set_title(
    f"The loss falls {losses[0] - half:.1f} nats from the first point to halfway, {half - losses[-1]:.1f} after it"
)
plots.show(fig, alt=f"The loss falls from {losses[0]:.1f} to {losses[-1]:.1f} nats, steeply at first, then slowly.")

# %% [markdown]
# Was the second half wasted? From this curve you cannot tell. It has no other model beside it and no line that says how low a
# loss can be. Also, the learning rate falls to zero over the run, so a run of half the length would not have ended where this
# one stood halfway. To answer the question you need runs of other sizes and lengths, so let us make some. The imports:

# %%
import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nextbert_lite import IGNORE, Encoder, EncoderConfig, MaskedLanguageModel, ToyWorld, fit, fresh_batches, seeded
from nextbert_lite.checks import lesson_08 as check
from nextbert_lite.corpora.bayes import compare, ratio
from nextbert_lite.course.results import stored_table

# %% [markdown]
# What a run may change: the seed, and whether the stored tables of sections 2 and 3 are recomputed, which takes many minutes.

# %% tags=["parameters"]
seed = 0
every_row = False

# %% [markdown]
# ## 1. What a step costs
#
# A larger model and a longer training run are paid for in the same currency: floating-point operations, that is,
# multiplications and additions. From lesson 04 you know what *one token* costs in *one layer* in the forward pass:
# $24C^2 + 4TC$ operations, where C is the model's width and T the length of the text (with a feed-forward width of 4C). Two
# things are missing.
#
# **The head.** Only a *selected* token goes through it: first through a C × C matrix, then its vector is compared with the
# vectors of all V words. A product of a vector with an m × n matrix takes m · n multiplications and as many additions.
#
# **The backward pass.** For each product $Y = XW$ of the forward pass, the gradient needs two more of the same size: one
# gives the gradient of X, which is handed on to the layer below, and one gives the gradient of W.

# %% [markdown]
# ### Exercise 08.1 · count the work ●●○ · 10 minutes
#
# How many operations does training cost for one token, on average, if a proportion `rate` of the tokens is selected? Count
# the forward and the backward pass, all layers and the head. Ignore norms, activation functions, biases and the optimizer, and
# remember that looking up a row of the embedding table multiplies nothing.


# %% tags=["exercise-08.1"]
def training_work(layers, C, T, V, rate):
    """Whole numbers and a proportion -> operations for one token, a number"""
    ### BEGIN SOLUTION
    layer = 24 * C**2 + 4 * T * C
    head = 2 * C**2 + 2 * V * C
    return 3 * (layers * layer + rate * head)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.training_work(training_work)

# %% [markdown]
# The answer, which the rest of the lesson uses, with L for `layers` and r for `rate`:
#
# $$3\,\bigl(L\,(24C^2 + 4TC) + r\,(2C^2 + 2VC)\bigr)$$
#
# Torch can count while it runs. Here is one batch of toy sentences, forward and backward:

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
V, T = tokenizer.vocab_size, int(world.lengths.max()) + 2


def work(layers, width, T=T, V=V, rate=0.3):
    """Operations to train on one token, where a proportion `rate` is selected; as given, in the toy world."""
    return 3 * (layers * (24 * width**2 + 4 * T * width) + rate * (2 * width**2 + 2 * V * width))


def new_model(layers, width):
    """Return an untrained model of this shape for the toy world."""
    sizes = dict(width=width, layers=layers, ffn_width=4 * width, max_len=T)
    return MaskedLanguageModel(Encoder(EncoderConfig(V, **sizes, init_std="fan_in")))


batch = fresh_batches(world.sample_ids, tokenizer, rate=0.3, seed=seed)(0)
tokens, selected = batch["ids"].numel(), int((batch["labels"] != IGNORE).sum())
with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # torch counts no fused attention
    new_model(layers=2, width=64).loss(**batch).backward()
formula = tokens * work(2, 64, rate=selected / tokens)
print(f"counted {counter.get_total_flops():,}, by formula {formula:,.0f}")
assert counter.get_total_flops() == round(formula)

# %% [markdown]
# Equal to the last digit.
#
# **The rule 6ND.** A layer has $12C^2$ weights (biases aside), so $3 \cdot 24C^2 = 6 \cdot 12C^2$: training costs 6 operations for each
# weight and each token. With N parameters and D tokens in all, that is the rule of thumb of the whole field: **compute ≈ 6ND**.
# How good is it? Guess first: for which of two models is it closer, the small toy model or one
# of the size of `docs-small`?

# %% tags=["nbval-check-output"]
shown = {"toy, 1 layer": (1, 64, T, V), "docs-small": (4, 192, 128, 4096), "BERT-base": (12, 768, 512, 30522)}
for name, (layers, width, length, words) in shown.items():
    inside = layers * 12 * width**2
    table = words * width
    exact = work(layers, width, length, words, rate=0.15)
    all_of_it, no_table = 6 * (inside + table) / exact, 6 * inside / exact
    print(f"{name:<12} 6ND / counted: {all_of_it:.2f} with the embedding table in N, {no_table:.2f} without it")
    assert all_of_it > 1 > no_table

# %% [markdown]
# Every true count lies between the two. If N includes the embedding table, the rule overestimates the cost, because looking up a row
# costs nothing and the head runs on few tokens. If N leaves it out, the rule misses the head and the attention scores. How much the
# choice matters depends on the size of the table relative to the layers, which is V / 12LC. So the rule is closer for the toy model
# than for `docs-small`, because its vocabulary is tiny. With the same vocabulary, the embedding table is a larger part of a smaller
# model. Section 5 shows that a famous disagreement came partly from this. The lesson therefore uses the exact count.

# %% [markdown]
# ## 2. Larger, at equal cost
#
# Now fix a **budget**: what 1,150 steps cost for one layer of width 64. A model that needs four times the work for a token
# gets a quarter of the steps. (An experiment in which many sizes share one budget is called an *IsoFLOP* comparison.)


# %% tags=["nbval-check-output"]
def steps_for(layers, width, budget=1.0):
    """Return how many steps of 64 sentences the budget pays for."""
    return round(budget * 1150 * work(1, 64) / work(layers, width))


shapes = [(1, 32), (1, 64), (1, 128), (2, 64), (4, 64)]
for layers, width in shapes:
    weights = sum(p.numel() for p in new_model(layers, width).parameters())
    print(f"layers {layers}, width {width:3}: {weights:7,} parameters, {steps_for(layers, width):5,} steps")

# %% [markdown]
# What we compare is the **excess**: the model's loss minus the perfect model's, on the same fresh sentences (lesson 06). An
# excess of 0 would be perfect, and no model can have less on average. All runs share the batch size and the learning rate.
# Before you go on, put the five shapes in order: which one ends with the least excess, and which with the most?
#
# Two functions make a run. `only` draws batches from a small corpus, which section 3 needs; `train` builds a model, trains it for
# a budget and measures its excess with the package's `compare`.


# %%
def only(n):
    """A corpus of n sentences and no more: return a function that draws batches from it."""
    ids, mask = world.sample_ids(n, seed=10**6 + seed)

    def sample(size, batch_seed):
        rows = torch.randint(n, (size,), generator=seeded(batch_seed, 9))
        return ids[rows], mask[rows]

    return sample


def train(layers=1, width=64, budget=1.0, sentences=0, lr=3e-3, look=None):
    """Train on so many sentences (0: new ones in every step); return the model and its row of the table."""
    steps = steps_for(layers, width, budget)
    batches = fresh_batches(only(sentences) if sentences else world.sample_ids, tokenizer, rate=0.3, seed=seed)
    torch.manual_seed(seed)
    model = new_model(layers, width)
    watch = {} if look is None else {"evaluate": lambda: look(model), "evaluate_every": 50}
    fit(model, batches, steps, lr=lr, warmup=min(100, steps // 4), seed=seed, **watch)
    found = compare(model, world, n=2000)  # 2,000 sentences that no model has seen, 15 % selected
    row = {"seed": seed, "layers": layers, "width": width, "budget": budget, "sentences": sentences, "lr": lr}
    return model, row | {"steps": steps, "excess": found.excess, "error": found.standard_error}


# %% [markdown]
# All runs of this section and the next, as one list of conditions. The stored table has them all for three seeds; one of them, four
# layers, is run here and now, so that you can see that the table is correct.

# %%
grid = [dict(layers=layers) for layers in (1, 4, 2)] + [dict(width=width) for width in (32, 128)]
grid += [dict(layers=4, lr=lr) for lr in (1.5e-3, 6e-3)]  # is it only the learning rate?
grid += [dict(budget=budget) for budget in (0.25, 0.5, 2.0, 4.0)] + [dict(layers=2, budget=4.0)]
grid += [dict(sentences=n) for n in (100, 200, 400, 800, 10_000)]
grid += [dict(layers=layers, budget=budget) for budget in (0.03, 0.1) for layers in (0, 1)]
grid += [dict(layers=0, budget=0.25)]
results_scale = [train(**condition)[1] for condition in (grid if every_row else [dict(layers=4)])]

# %% tags=["nbval-check-output"]
table = stored_table("08_scale")


def rows_with(layers=1, width=64, budget=1.0, sentences=0, lr=3e-3):
    """Return the stored rows of one condition, one for each seed."""
    wanted = {"layers": layers, "width": width, "budget": budget, "sentences": sentences, "lr": lr}
    return [row for row in table if all(float(row[key]) == value for key, value in wanted.items())]


def excess(**condition):
    """Return the stored excess of one condition: one number for each seed."""
    return torch.tensor([float(row["excess"]) for row in rows_with(**condition)], dtype=torch.float64)


by_shape = {(layers, width): excess(layers=layers, width=width) for layers, width in shapes}
for (layers, width), values in by_shape.items():
    print(f"layers {layers}, width {width:3}: " + "  ".join(f"{value:.3f}" for value in values))

# %% [markdown]
# The stored rows show one number for each of three seeds. Does the run on this machine agree with its row? Training amplifies
# differences in the last digit, so we ask for agreement within a tenth of the mean, about the size of the differences
# between seeds:

# %%
live = next(row for row in results_scale if row["layers"] == 4)["excess"]
print(f"four layers, {steps_for(4, 64)} steps: here {live:.3f}, stored {by_shape[4, 64].mean():.3f} on average")
assert abs(live / by_shape[4, 64].mean() - 1) < 0.1
assert live > 1.5 * by_shape[1, 64].max()  # far behind one layer at the same cost

# %% [markdown]
# Now the picture. Its axis is logarithmic, because what counts is how many *times* closer to the floor a model is.

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.2))
for place, ((layers, width), values) in enumerate(by_shape.items()):
    ax.plot([place] * 3, values, "o", color=plots.BLUE)
labels = [
    f"{layers} layer{'s' * (layers > 1)} × {width}\n{steps_for(layers, width):,} steps" for layers, width in shapes
]
ax.set_xticks(range(len(shapes)), labels)
ax.set(yscale="log", ylabel="excess over the floor (nats)", xlim=(-0.5, 4.5))
ax.set_yticks([0.2, 0.3, 0.5, 1], ["0.2", "0.3", "0.5", "1"])
ax.minorticks_off()
ax.set_title("At this budget the smallest of five shapes wins")
plots.show(fig, alt="Excess of five shapes, three seeds each, at equal cost: least for width 32, most for four layers.")
assert by_shape[1, 32].max() < by_shape[1, 64].min() and by_shape[1, 64].max() < by_shape[1, 128].min()
assert by_shape[1, 64].max() < by_shape[2, 64].min() and by_shape[2, 64].max() < by_shape[4, 64].min()

# %% [markdown]
# In each seed narrower beats wider and shallower beats deeper. Before you believe that this is about *size*, consider two doubts.
#
# **Is the learning rate to blame?** A larger model may want another one. Four layers with half the rate and with twice:

# %% tags=["nbval-check-output"]
for lr in (1.5e-3, 3e-3, 6e-3):
    print(f"four layers, rate {lr:.4f}: " + "  ".join(f"{value:.2f}" for value in excess(layers=4, lr=lr)))
assert min(excess(layers=4, lr=lr).min() for lr in (1.5e-3, 6e-3)) > by_shape[1, 64].max()

# %% [markdown]
# With none of these rates do four layers come close to one layer. (We did not check width 128 and two layers. The professional answer to
# this doubt is a parametrisation in which the best rate stays the same across widths, µP: Yang et al. 2022.)
#
# **Do the large ones merely lack steps?** Look at all the shapes that have had about 300 steps, whatever that cost them:

# %% tags=["nbval-check-output"]
after_300 = {
    "1 layer of width 64": dict(budget=0.25),
    "1 layer of width 128": dict(width=128),
    "4 layers of width 64": dict(layers=4),
}
for shape, condition in after_300.items():
    shown = "  ".join(f"{value:.2f}" for value in excess(**condition))
    print(f"{shape:<20} after {rows_with(**condition)[0]['steps']} steps: {shown}")
assert all(0.9 < value < 1.1 for condition in after_300.values() for value in excess(**condition))

# %% [markdown]
# They all stand at an excess of about 1, between 0.95 and 1.06. One layer of width 64 is there at a quarter of the
# budget, and it has three quarters left to move on. So at 300 steps more weights buy almost nothing, and steps are what these
# models lack. The rows do *not* show that four layers would win in the end: nobody has trained them longer here. Depth may
# also make each step less effective, as a post-norm stack with little warm-up is harder to train (lesson 06).
#
# **Does the order stay the same at other budgets?** Here are budgets from 3 % of ours to four times as much, for three depths. A
# model of 0 layers is the smallest there is: embeddings, positions and the head. At which budgets, do you think, is it the best?

# %% tags=["hide-input"]
budgets = {0: [0.03, 0.1, 0.25], 1: [0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0], 2: [1.0, 4.0]}
by_depth = {layers: torch.stack([excess(layers=layers, budget=x) for x in xs]) for layers, xs in budgets.items()}
fig, ax = plots.figure()
for (layers, values), marker in zip(by_depth.items(), ["^-.", "o-", "s"], strict=True):  # two points make no line
    label = f"{layers} layer{'s' * (layers != 1)} of width 64"
    ax.plot(budgets[layers], values.log().mean(1).exp(), marker, label=label)
ax.set(xscale="log", yscale="log", xlabel="budget (1 = 1,150 steps of one layer)", ylabel="excess (nats)")
ax.set_xticks(budgets[1], [f"{x:g}" for x in budgets[1]])
ax.minorticks_off()
ax.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
ax.set_title("Which size is best depends on the budget")
ax.legend()
plots.show(
    fig,
    alt="Without a layer the excess stays near 2 nats; one layer starts above, crosses it and falls; two come later.",
)
none, one, two = by_depth.values()
assert (none[0] < one[0]).all() and (none[1] > one[1]).all()  # best at 0.03, no longer at 0.1
assert none[2].min() > 1.8 and (two > one[[4, 6]]).all()

# %% [markdown]
# So "smaller is better" was true for one budget and is no law. With 3 % of the budget, *no* layer is best, because its steps are
# so cheap. But it soon learns everything that a word's position can tell it, and further training gains nothing: it is **too
# small**. One layer passes it. Two layers are **too large** for our budget and even for four times as much; whether they lead
# later, these runs do not show. How much does each doubling of the budget buy with one layer?

# %% tags=["nbval-check-output"]
doublings = one[2:]  # budgets ¼, ½, 1, 2, 4; three seeds
steepness = -(doublings[1:] / doublings[:-1]).log().mean(1) / math.log(2)
for start, end, value in zip(budgets[1][2:], budgets[1][3:], steepness, strict=False):
    print(f"budget {start:g} → {end:g}: the excess falls like budget^-{value:.2f}")
assert steepness[0] < steepness[1:].min() - 0.3

# %% [markdown]
# Nearly flat at first, then steep: no straight line. Lesson 06 suggests why: a model learns one rule of the grammar after
# another, each at its own time. If you had measured only the first two budgets, you would have stopped too early.
#
# One more look at the same table, at the mistake that is made most often. Two runs of about as many *steps*:

# %% tags=["nbval-check-output"]
same_steps = {"1 layer": rows_with(budget=0.5), "2 layers": rows_with(layers=2)}
for name, rows in same_steps.items():
    shown = "  ".join(f"{float(row['excess']):.2f}" for row in rows)
    print(f"{name:<8}, {rows[0]['steps']} steps: excess {shown}")
assert excess(layers=2).mean() < excess(budget=0.5).mean() and excess(layers=2).min() > excess().max()

# %% [markdown]
# At equal steps two layers look no worse, and in one seed much better; at equal cost they lost to one layer in every
# seed. The two comparisons answer different questions. A table that compares sizes at equal steps lets the larger one spend
# more, and often does not say so.

# %% [markdown]
# ## 3. Longer, on little data
#
# So far each step brought new sentences. Real text is finite, so now a corpus of n sentences is all we have. It is seen again and
# again, with different tokens masked each time. Everything else stays: one layer of width 64, budget 1. During training we look
# every 50 steps at 400 **validation** sentences, which no model trains on, and keep the weights that did best there.


# %%
class Enough(Exception):
    """Raised to end a run before its last step; used only where the stored table is recomputed (`every_row`)."""


def train_watched(sentences, until=math.inf):
    """Train; return the last model, the best weights with their row, and the excess at each look.

    until: stop when the excess is so many times its least value, because then it will not come back.
    """
    curve, best = [], {}

    def look(model):
        curve.append(compare(model, world, n=400, seed=2_000_003).excess)
        if curve[-1] == min(curve):
            best.update({name: value.clone() for name, value in model.state_dict().items()})
        if curve[-1] > until * min(curve):
            raise Enough

    model = None
    try:
        model, _ = train(sentences=sentences, look=look)
    except Enough:
        pass
    stopped = new_model(1, 64)
    stopped.load_state_dict(best)
    found = compare(stopped, world, n=2000)
    best_step = 50 * (1 + curve.index(min(curve)))
    row = {"seed": seed, "sentences": sentences, "best_step": min(best_step, steps_for(1, 64)), "excess": found.excess}
    return model, stopped, row | {"error": found.standard_error}, curve


# %%
if every_row:
    results_stopped = [train_watched(n, until=1.2)[2] for n in (100, 200, 400, 800)]

# %% [markdown]
# With only 100 sentences, what happens to the loss on those sentences and to the excess on new ones, step after step? Draw your
# guess on paper before you go on.

# %% [markdown]
# ### Exercise 08.2 · predict the result ●●○ · 5 minutes
#
# Training on 100 sentences has 1,150 steps of 64 sentences each. In the first 100 steps, the warm-up, the learning rate rises from 0.
# After how many steps is the excess on *new* sentences least? Give a number of steps between 0 and 1,150 (not of sentences or epochs);
# the check accepts answers within 75 steps of the measured one.

# %% tags=["exercise-08.2"]
guessed_step = None
### BEGIN SOLUTION
guessed_step = 150  # by then the model has seen each sentence about a hundred times, and begins to know them by heart
### END SOLUTION

# %% tags=["nbval-check-output"]
check.best_step(guessed_step)

# %%
memoriser, stopped, row, curve = train_watched(100)
looks = [50 * (i + 1) for i in range(len(curve))]
print("excess at each look:", " ".join(f"{value:.2f}" for value in curve))
print(f"least after {row['best_step']} steps, that is {row['best_step'] * 64 / 100:.0f} times round the 100 sentences")

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.0))
ax.plot(looks, curve, "o-", color=plots.BLUE)
ax.axvline(row["best_step"], color=plots.GREY, linestyle=":", label=f"best: step {row['best_step']}")
ax.set(xlabel="training step", ylabel="excess on new sentences (nats)")
ax.set_title("On 100 sentences, most of the training makes the model worse")
ax.legend()
plots.show(fig, alt="The excess on new sentences falls for a few looks, then rises for the rest of the run.")
assert curve[-1] > 1.2 * min(curve) and row["best_step"] <= 300

# %% [markdown]
# Most of the run does harm. And what does the model at its end do on the 100 sentences themselves?

# %%
from nextbert_lite import PerfectModel, evaluating, mask_tokens

ids, mask = world.sample_ids(100, seed=10**6 + seed)  # the 100 sentences, with tokens hidden in them twenty times
ids, mask = ids.repeat(20, 1), mask.repeat(20, 1)
hidden, labels = mask_tokens(ids, tokenizer, generator=seeded(seed, 11))
device = next(memoriser.parameters()).device
with torch.no_grad(), evaluating(memoriser):
    own_loss = float(memoriser.loss(hidden.to(device), labels.to(device), mask.to(device)))
own_floor = PerfectModel(world).losses(hidden, labels).mean().item()
found = compare(memoriser, world, n=1000)
print(f"on its 100 sentences: loss {own_loss:.2f}, the perfect model {own_floor:.2f}")
print(f"on new sentences:     loss {found.loss:.2f}, the perfect model {found.floor:.2f}")
assert own_loss < own_floor - 0.15 and found.excess > 1

# %% [markdown]
# On its own sentences the model is **below the floor**. Is the floor wrong, then? No. The floor is the least *expected* loss
# on sentences that the world will produce next. The perfect model knows the world's rules; it does not know which 100 sentences
# somebody drew from it. This model knows exactly that. It has learned a world of 100 sentences, in which most masked tokens
# have only one answer. The price is in the second line. That is **overfitting**, and to keep the weights that did best on
# validation data is **early stopping**. What does it save, and at which sizes?

# %% tags=["nbval-check-output"]
stored_stopped = stored_table("08_stopped")
sizes = [100, 200, 400, 800]


def best_excess(n, column="excess"):
    """Return what the stored runs with n sentences gave at their best checkpoint, one number for each seed."""
    return torch.tensor([float(r[column]) for r in stored_stopped if int(r["sentences"]) == n], dtype=torch.float64)


print("sentences  times round   best steps          excess there, and at step 1,150 (means of three seeds)")
for n in sizes:
    steps_of = " ".join(f"{int(s):5}" for s in best_excess(n, "best_step"))
    print(f"{n:9,}  {1150 * 64 / n:11.0f}  {steps_of}   {best_excess(n).mean():.2f}   {excess(sentences=n).mean():.2f}")
assert (best_excess(100) < excess(sentences=100)).all() and (best_excess(200) < excess(sentences=200)).all()
assert (best_excess(800) > 0.97 * excess(sentences=800)).all()

# %%
print(f"100 sentences, best checkpoint: here {row['excess']:.2f}, stored {best_excess(100).mean():.2f} on average")
assert abs(row["excess"] / best_excess(100).mean() - 1) < 0.15

# %% [markdown]
# The stored rows show that "does longer training help?" has no single answer. With 100 sentences the best moment comes early, and
# waiting costs most of a nat. With 800 it comes at the end or close to it, although each sentence is seen 92 times by then, and with
# 400 stopping early changes almost nothing.
#
# How often may text be repeated? Muennighoff et al. 2023 asked this of large language models: *"with constrained data for a fixed
# compute budget, training with up to 4 epochs of repeated data yields negligible changes to loss compared to having unique data"*;
# *"with more repetition, the value of adding compute eventually decays to zero."* Our nearest case is a stored run with
# 10,000 sentences:

# %% tags=["nbval-check-output"]
print(
    f"10,000 sentences, {1150 * 64 / 10_000:.1f} times round: " + " ".join(f"{v:.2f}" for v in excess(sentences=10_000))
)
print("new sentences in every step:     " + " ".join(f"{v:.2f}" for v in excess()))
assert (excess(sentences=10_000) < excess()).all() and excess(sentences=10_000).min() > 0.8 * excess().min()

# %% [markdown]
# No seed does worse with repeated sentences. (Do not read more into the agreement than that: a masked language model draws other masks in
# every epoch, so a repeat is not quite a repeat.)

# %% [markdown]
# ## 4. A prediction
#
# How does the excess shrink with the number of sentences? Take the runs with 100, 200 and 400, each **at its best checkpoint**, because
# at the end of a fixed number of steps you would measure the overfitting, too. If the points lie on a straight line in a picture with
# two logarithmic axes, a **power** fits them:
#
# $$\mathrm{excess} = a \cdot n^{-b} \qquad\Longleftrightarrow\qquad \log \mathrm{excess} = \log a - b \log n$$


# %% tags=["nbval-check-output"]
def fit_power(n, values):
    """n, values: (points,) -> a, b of the least-squares line through the logarithms."""
    x, y = n.log() - n.log().mean(), values.log()
    b = -(x * y).sum() / (x**2).sum()
    return float((y.mean() + b * n.log().mean()).exp()), float(b)


known = torch.tensor([100.0, 200.0, 400.0], dtype=torch.float64)
at_best = torch.stack([best_excess(int(n)).log().mean().exp() for n in known])  # geometric means of three seeds
at_end = torch.stack([excess(sentences=int(n)).log().mean().exp() for n in known])
a, b = fit_power(known, at_best)
off_line = (a * known**-b / at_best).log().abs().max()
print(
    f"best checkpoints: excess = {a:.0f} · n^-{b:.2f}; the three points are at most {math.expm1(off_line):.0%} off the line"
)
print(f"predicted for 800 sentences: {a * 800**-b:.2f}")
print(f"last checkpoints: exponent {fit_power(known, at_end)[1]:.2f}, from the same runs")
assert off_line < 0.2 and fit_power(known, at_end)[1] > b + 0.15

# %% [markdown]
# Two warnings before you trust it. Three points that span a factor of four are a small base, so we say "a power fits", not "the law is
# a power". And the exponent is not a property of the language: it depends on when you stop, as the last line shows.
#
# The prediction stands. Write down what you expect, then train.

# %%
_, _, row_800, curve_800 = train_watched(800)
predicted = float(a * 800**-b)
print(f"800 sentences: predicted {predicted:.2f}, measured {row_800['excess']:.2f} ± {2 * row_800['error']:.2f}")
print("stored, three seeds: " + "  ".join(f"{value:.2f}" for value in best_excess(800)))
spread = max(0.1, float(best_excess(800).log().std()))  # between seeds
assert abs(math.log(row_800["excess"] / predicted)) < math.log(1 / (1 - float(off_line))) + 3 * spread

# %% [markdown]
# Near enough: the miss is no larger than the points' own distance from the line and the differences between seeds allow. (One
# step along a smooth curve is not a hard test; many curves would pass it.) A harder one is 10,000 sentences, along the same line:

# %% tags=["hide-input"]
every_n = [100, 200, 400, 800, 10_000]
line = torch.logspace(2, 4, 50, dtype=torch.float64)
fig, ax = plots.figure()
ax.plot(line, a * line**-b, "--", color=plots.GREY, label="line through the first three, best checkpoints")
for i, n in enumerate(sizes):
    ax.plot([n] * 3, best_excess(n), "o", color=plots.BLUE, label=None if i else "best checkpoint, one seed")
    ax.plot([n] * 3, excess(sentences=n), "x", color=plots.ORANGE, label=None if i else "after 1,150 steps, one seed")
ax.plot([10_000] * 3, excess(sentences=10_000), "x", color=plots.ORANGE)
ax.axhline(excess().log().mean().exp(), color=plots.RED, linestyle=":", label="new sentences in every step")
ax.set(xscale="log", yscale="log", xlabel="different training sentences", ylabel="excess over the floor (nats)")
ax.set_xticks(every_n, [f"{n:,}" for n in every_n])
ax.minorticks_off()
ax.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
ax.set_title("The line holds until something else runs short")
ax.legend(fontsize=8)
plots.show(
    fig, alt="Excess falls along a line up to 800 sentences; at 10,000 it is as with new sentences, far above the line."
)
far = float(a * 10_000**-b)
print(f"10,000 sentences: predicted {far:.3f}, stored {' '.join(f'{v:.2f}' for v in excess(sentences=10_000))}")
assert excess(sentences=10_000).min() > 2 * far

# %% [markdown]
# There the prediction fails. The model is no better than with new sentences in every step: data is no longer what it lacks. Now it
# lacks steps, and the figure of section 2 takes over. A prediction along one axis is honest only as long as that axis is the scarce one.

# %% [markdown]
# ### Exercise 08.3 · find the bug ●●○ · 10 minutes
#
# Somebody predicts the *loss* in the same way, by least squares:


# %%
def extrapolated(x, losses, floor, at):
    log_x, log_y = x.log(), losses.log()
    slope = ((log_x - log_x.mean()) * (log_y - log_y.mean())).sum() / ((log_x - log_x.mean()) ** 2).sum()
    return torch.exp(log_y.mean() + slope * (math.log(at) - log_x.mean()))


floor = found.floor
guess = extrapolated(known, floor + at_best, floor, 10_000)
print(f"10,000 sentences: predicted loss {guess:.2f}, but the floor is {floor:.2f}")
assert guess < floor

# %% [markdown]
# No model can reach this loss. Write the function correctly: `x` and `losses` are tensors (n,), `floor` and `at` are numbers;
# return the loss to expect at `at`, a float or a tensor with one number, and do not change the arguments. Use all the points, and
# take what you need from the arguments and not from the notebook.


# %% tags=["exercise-08.3"]
def extrapolate(x, losses, floor, at):
    """x, losses: (n,), floor and at: numbers -> the loss to expect at `at`"""
    ### BEGIN SOLUTION
    log_x, log_y = x.log(), (losses - floor).log()
    slope = ((log_x - log_x.mean()) * (log_y - log_y.mean())).sum() / ((log_x - log_x.mean()) ** 2).sum()
    return floor + torch.exp(log_y.mean() + slope * (math.log(at) - log_x.mean()))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.extrapolate(extrapolate)

# %% [markdown]
# The prediction is now possible, but it is still wrong about 10,000: the formula keeps the floor, but the line does not hold that far.

# %% [markdown]
# ## 5. What the field found
#
# **Two laws that disagree.** Kaplan et al. 2020 found that the loss of language models follows power laws in parameters, data and
# compute over many orders of magnitude, and that with more compute C one should mostly grow the model: $N \propto C^{0.73}$. Hoffmann et al.
# 2022 trained over 400 models and asked what you asked in section 2, which size is best for which compute. Their answer: *"for
# compute-optimal training, the model size and the number of training tokens should be scaled equally"*, that is, $N \propto C^{0.5}$. What
# is the difference for somebody who has a hundred times the compute?

# %% tags=["nbval-check-output"]
for name, power in {"Kaplan 2020": 0.73, "Hoffmann 2022": 0.5}.items():
    larger = 100**power
    print(f"{name:<14} a model {larger:4.0f} times as large, {100 / larger:4.1f} times as many tokens")

# %% [markdown]
# Such a disagreement costs real money. Hoffmann et al. call the large models of the time undertrained, because their size had grown and
# their data had not; Chinchilla, with a quarter of the parameters of Gopher and the same compute, beat it. Why did two careful groups differ? Pearce and Song 2024 find that much of it comes from
# Kaplan counting parameters *without embeddings*, at small scale, where embeddings are a large part of a model: the two columns of
# your 6ND table. Porian et al. 2024 reproduce Kaplan's law and name three causes: the cost of the last layer left out, a warm-up too
# long for small models, and an optimizer that was not tuned for each size. Section 2 has the third fault, too: one learning rate for
# all shapes, with one check. (Hoffmann's paper fits $L = E + A/N^\alpha + B/D^\beta$, with the floor E as one more unknown;
# Besiroglu et al. 2024 report that the published constants do
# not fit the data. You subtracted a floor that is known.)
#
# **Twenty tokens for each parameter?** That is Chinchilla's ratio, and it answers one question only: how to get the least loss from
# a given amount of *training* compute. Guess by how much encoders differ from it.

# %% tags=["nbval-check-output"]
seen = {  # tokens read in training, parameters
    "Chinchilla": (1.4e12, 70e9),
    "BERT-base": (256 * (900_000 * 128 + 100_000 * 512), 110e6),  # 90 % of the steps at length 128
    "RoBERTa-large": (500_000 * 8192 * 512, 355e6),
    "ModernBERT-base": (2e12, 149e6),
    "docs-small": (card["training"]["tokens_seen"], card["parameters"]),
}
for name, (D, N) in seen.items():
    print(f"{name:<16} {D / N:8,.0f} tokens for each parameter")
ratios = {name: D / N for name, (D, N) in seen.items()}
assert min(ratios[name] for name in ("BERT-base", "RoBERTa-large", "ModernBERT-base")) > 10 * ratios["Chinchilla"]
predicted_tokens = 0.15 * ratios["BERT-base"]  # the loss is taken on these alone
print(f"BERT-base, counted in tokens that it predicts: {predicted_tokens:.0f} for each parameter")
assert predicted_tokens > 2 * ratios["Chinchilla"]

# %% [markdown]
# Encoders are trained far longer, for a good reason: a search engine runs its encoder on millions of texts, so a smaller model
# that costs more to train and less to use is the better bargain. Sardana et al. 2024 put the cost of inference into the formula, and
# found that quality keeps improving up to 10,000 tokens for each parameter. An encoder that stopped at 20 would stop early by a
# factor of 19 to several hundred, compared with BERT, RoBERTa and ModernBERT. (Tokens *read* are compared here. Chinchilla is trained on a
# prediction for each of them, a masked language model only for the selected ones; the last line counts those.) `docs-small`, trained on
# one processor, is the exception in the table.
#
# **Better data instead of more.** Deduplication and filtering also make better models: FineWeb (Penedo et al. 2024) documents what each
# step brings. The toy world has no bad sentences, so this lesson cannot show it.

# %% [markdown]
# ## 6. Real text, where no floor is known
#
# Is the loss of `docs-small` good? There is no perfect model of documentation to ask. What you can have is **honest reference
# points**, from the simplest to the strongest, all scored on the same masked tokens of texts that nobody trained on. An opponent
# is worth beating only if it is strong. A masked language model sees both sides of a masked token, so its opponent must see them, too.

# %%
import re
from collections import Counter, defaultdict
from itertools import pairwise

import torch.nn.functional as F

from nextbert_lite import MaskingPlayground, MLMBatches, fill_mask, held_out_loss, load, load_docs, show
from nextbert_lite.training.batches import pieces
from nextbert_lite.use.checkpoints import unseen

# %%
model, bpe = load("docs-small")  # section 8 makes a model of your own: put its folder here and in the next line
card = read_card("docs-small")
docs = load_docs()
held = unseen(card, docs.test, docs)  # without texts that the model saw, or nearly saw
longest = model.encoder.config.max_len
training = pieces([d.text for d in docs.train], bpe, longest)  # lists of token ids, [CLS] … [SEP]
test = MLMBatches(pieces([d.text for d in held], bpe, longest), bpe, seed=1_000_003, copies=1)
V_docs = bpe.vocab_size
different = sum(map(len, training))
print(f"{len(held):,} test texts in {len(test)} batches, {sum(test.lengths):,} tokens; V = {V_docs:,}")
print(f"{different:,} training tokens, read {card['training']['tokens_seen'] / different:.0f} times by docs-small")
assert len(held) > 300 and card["training"]["tokens_seen"] > 5 * different

# %% [markdown]
# (Twenty-four epochs are far more than Muennighoff's four. The validation loss on the first screen was still falling, so
# overfitting had not set in, but we cannot say how much better as many *new* tokens would have been.)
#
# **Counting.** A *bigram* model predicts from the left neighbour alone: how often did token j come after token i? If the right
# neighbour l is known as well, Bayes' rule combines the two. In a language in which each token depends only on the one before it, a
# chain, the probability of "i j l" is $P(i)\,P(j \mid i)\,P(l \mid j)$, and therefore
#
# $$P(j \mid i, l) = \frac{P(j \mid i)\; P(l \mid j)}{\sum_{j'} P(j' \mid i)\; P(l \mid j')}$$
#
# Documentation is no chain, so this is a model of it and not the truth. Here it is by hand, for four texts of three words:

# %% tags=["nbval-check-output"]
small_words = ["the", "cook", "baker", "bakes", "sings"]
small = [[0, 1, 3], [0, 1, 4], [0, 2, 3], [0, 2, 3]]  # the cook bakes, the cook sings, the baker bakes (twice)
small_pairs = torch.zeros(5, 5)
for i, j in [(i, j) for text in small for i, j in zip(text, text[1:], strict=False)]:
    small_pairs[i, j] += 1
print(small_pairs)
after_the = small_pairs[0] / small_pairs[0].sum()
for right in ("bakes", "sings"):
    to_right = small_pairs[:, small_words.index(right)] / small_pairs.sum(1).clamp(min=1)
    product = after_the * to_right
    product = (product / product.sum()).tolist()
    print(f"the ____ {right}: " + "  ".join(f"{word} {p:.2f}" for word, p in zip(small_words, product, strict=True)))

# %% [markdown]
# From the left alone, *cook* and *baker* are equally likely after *the*; the right neighbour decides. Two things are missing before
# this can face real text.
#
# **Smoothing.** Most cells of the table are empty, namely pairs that did not happen to come up. If an empty cell meant probability 0, a
# single such pair in the test texts would make the loss infinite. So the counts are *interpolated* with the frequencies $u_j$ of the
# tokens. With $n_i$ pairs seen after token i, we act as if k further ones had been drawn from the frequencies:
#
# $$P(j \mid i) = \frac{\mathrm{pairs}_{ij} + k\,u_j}{n_i + k}$$
#
# **Triples.** Where the very context "i ____ l" was seen in training, the tokens that stood there say more than any product of pairs.
# The same trick mixes them in: $k_3$ further triples are drawn from the product above.

# %% [markdown]
# ### Exercise 08.4 · build a model that only counts ●●● · 40 minutes
#
# Write the class `CountingModel`.
#
# * `__init__(self, V, k=100.0, k3=10.0)` keeps the three numbers as `self.V`, `self.k` and `self.k3`. They may be changed later, and the
#   methods then use the new values.
# * `fit(self, texts)` takes a list of texts, each a list of token ids (whole numbers from 0 to V − 1), and makes three attributes:
#   `pairs`, a float32 tensor (V, V) whose entry [i, j] says how often j came right after i; `triples`, a dictionary of dictionaries in which
#   `triples[i, l][j]` says how often j stood between i and l; and `frequencies`, a float32 tensor (V,): how often each token came
#   after another one, that is, the column sums of `pairs`, with 1 added to each *sum*, divided by their total. Count within each text, never
#   across a border. A text may be empty or have one token only. A second `fit` starts from zero. `fit` returns the model itself.
# * `left(self, before)` gives $P(j \mid i)$ as above, with i from `before`.
# * `both(self, before, after)` gives the product of $P(j \mid i)$ and $P(l \mid j)$, both smoothed, divided by its sum over j.
# * `probabilities(self, before, after)` mixes in the triples: $(\mathrm{triples}_{il}[j] + k_3\,\mathrm{both}_j) / (n_{il} + k_3)$, where
#   $n_{il}$ is the number of triples seen around i and l; a context that was never seen gives `both` alone.
#
# In the last three, `before` and `after` are tensors (n,) of token ids, and the result is a float32 tensor (n, V) whose rows sum to 1. No
# method changes its arguments, and asking changes nothing that was counted: no new entry in `triples`. Loops over the
# texts in `fit` and over the n contexts in `probabilities` are fine. `left` and `both` work on all contexts at once, without a loop,
# and no method loops over the V tokens of the vocabulary.
#
# Two things save you time. The lesson's corpus has 1.8 million pairs, so gather their numbers in lists first and count them in one
# call, as the imports of this section suggest (`pairwise`, `Counter`); adding 1 to one cell of a tensor after the other takes many times
# as long. And the keys of `triples` are ints, while the entries of `before` and `after` are tensors: `.tolist()` turns them into ints.


# %% tags=["exercise-08.4", "my-bert-counting"]
class CountingModel:
    """Predicts a hidden token from its two neighbours, by counting what stood beside them in the training texts."""

    def __init__(self, V, k=100.0, k3=10.0):
        ### BEGIN SOLUTION
        self.V, self.k, self.k3 = V, k, k3
        ### END SOLUTION

    def fit(self, texts):
        """texts: lists of token ids, each in 0 … V - 1 -> this model; what an earlier `fit` counted is gone."""
        ### BEGIN SOLUTION
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
        ### END SOLUTION

    def left(self, before):
        """before: (n,) -> P(j | before): (n, V)"""
        ### BEGIN SOLUTION
        seen = self.pairs[before]
        return (seen + self.k * self.frequencies) / (seen.sum(1, keepdim=True) + self.k)
        ### END SOLUTION

    def both(self, before, after):
        """before, after: (n,) -> P(j | before, after) if the language were a chain of pairs: (n, V)"""
        ### BEGIN SOLUTION
        seen = self.pairs[:, after].T + self.k * self.frequencies[after][:, None]
        right = seen / (self.pairs.sum(1) + self.k)  # P(after | j)
        product = self.left(before) * right
        return product / product.sum(1, keepdim=True)
        ### END SOLUTION

    def probabilities(self, before, after):
        """before, after: (n,) -> P(j | before, after), with the triples: (n, V)"""
        ### BEGIN SOLUTION
        mixed = self.k3 * self.both(before, after)
        for row, key in zip(mixed, zip(before.tolist(), after.tolist(), strict=True), strict=True):
            if key in self.triples:
                counts = self.triples[key]
                row[list(counts)] += torch.tensor(list(counts.values()), dtype=row.dtype)
        return mixed / mixed.sum(1, keepdim=True)
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.counting(CountingModel)

# %% tags=["nbval-check-output"]
CountingModel = check.mine("08.4", CountingModel)

# %% [markdown]
# On the small texts it should agree with the calculation by hand, once k is nearly 0 (and k3 very large, so that the triples do not count):

# %% tags=["nbval-check-output"]
by_hand = CountingModel(5, k=1e-6, k3=1e6).fit(small)
p = by_hand.probabilities(torch.tensor([0, 0]), torch.tensor([3, 4]))
print(p.round(decimals=2))
assert (p[0] - torch.tensor([0, 1 / 3, 2 / 3, 0, 0])).abs().max() < 1e-3

# %% [markdown]
# These are the same numbers again. Now the real texts. A window keeps each token that shows [MASK] with two original tokens on either side.

# %%
counting = CountingModel(V_docs).fit(training)
filled = (counting.pairs > 0).float().mean()
print(f"{counting.pairs.sum():,.0f} pairs; {filled:.1%} of the table of pairs is not empty")
print(f"{len(counting.triples):,} different contexts with a token between them")
assert filled < 0.05


def windows(batches):
    """For each token that shows [MASK]: the number of its text, (n,), and five original tokens around it, (n, 5)."""
    texts, found = [], []
    for step in range(len(batches)):
        ids, labels = batches(step)["ids"], batches(step)["labels"]
        original = F.pad(torch.where(labels == IGNORE, ids, labels), (2, 2), value=bpe.pad_id)
        masked = ids == bpe.mask_id
        found.append(original.unfold(1, 5, 1)[masked])
        texts.append(masked.nonzero()[:, 0] + step * batches.batch_size)
    return torch.cat(texts), torch.cat(found)


text, window = windows(test)
token = window[:, 2]
rows = len(test) * test.batch_size
print(
    f"{len(token):,} masked tokens in {len(text.unique()):,} pieces of text; the first window: {bpe.tokens(window[0])}"
)

# %% [markdown]
# How large should k and k3 be? That is chosen on *validation* texts, never on the test texts. A tenth of their masked tokens is enough.


# %%
def score(predict, window, size=1000):
    """predict: windows (n, 5) -> (n, V) -> the loss at each middle token in nats, and whether it came first: (n,)"""
    losses, first = [], []
    for part in window.split(size):
        p = predict(part)
        losses.append(-p.gather(1, part[:, 2:3])[:, 0].log().double())
        first.append(p.argmax(1) == part[:, 2])
    return torch.cat(losses), torch.cat(first).double()


validation = MLMBatches(pieces([d.text for d in docs.validation], bpe, longest), bpe, seed=7, copies=1)
tuning = windows(validation)[1][::10]
tried = {}
for counting.k in (30.0, 100.0, 300.0):
    tried[counting.k] = score(lambda w: counting.both(w[:, 1], w[:, 3]), tuning)[0].mean().item()
counting.k = min(tried, key=tried.get)
print("both neighbours:", {k: round(value, 2) for k, value in tried.items()}, f"→ k = {counting.k:.0f}")
tried = {}
for counting.k3 in (3.0, 10.0, 30.0, 100.0):
    tried[counting.k3] = score(lambda w: counting.probabilities(w[:, 1], w[:, 3]), tuning)[0].mean().item()
counting.k3 = min(tried, key=tried.get)
print("with triples:   ", {k: round(value, 2) for k, value in tried.items()}, f"→ k3 = {counting.k3:.0f}")

# %% [markdown]
# Would a specialist stop at one neighbour on each side? No. The same mixture can be applied once more on top, with contexts of two tokens on
# each side. (A table of all such contexts would be large, so this one keeps those that are asked for below.)


# %%
def context(window):
    """Return the four neighbours of each window, as keys of a dictionary."""
    return [tuple(row) for row in window[:, [0, 1, 3, 4]].tolist()]


asked = set(context(window)) | set(context(tuning))
wide = defaultdict(Counter)
for one in training:
    padded = [bpe.pad_id, bpe.pad_id, *one, bpe.pad_id, bpe.pad_id]
    for a1, a2, j, b1, b2 in zip(*(padded[i:] for i in range(5)), strict=False):
        if (a1, a2, b1, b2) in asked:
            wide[a1, a2, b1, b2][j] += 1


def four_neighbours(window, k5):
    """windows (n, 5) -> (n, V): the counts of the wide contexts, mixed with those of the narrow ones."""
    mixed = k5 * counting.probabilities(window[:, 1], window[:, 3])
    for row, key in zip(mixed, context(window), strict=True):
        if key in wide:
            row[list(wide[key])] += torch.tensor(list(wide[key].values()), dtype=row.dtype)
    return mixed / mixed.sum(1, keepdim=True)


tried = {k5: score(lambda w, k5=k5: four_neighbours(w, k5), tuning)[0].mean().item() for k5 in (0.5, 1.0, 2.0, 4.0)}
k5 = min(tried, key=tried.get)
print("two on each side:", {k: round(value, 2) for k, value in tried.items()}, f"→ k5 = {k5:g}")

# %% [markdown]
# And the model, on the same masked tokens. For each it gives the loss and its five likeliest tokens:

# %%
device = next(model.parameters()).device


@torch.no_grad()
def by_model(batches):
    """Return the model's loss at each token that shows [MASK], (n,), and its five likeliest tokens, (n, 5)."""
    losses, best = [], []
    for step in range(len(batches)):
        ids, labels, mask = (batches(step)[key] for key in ("ids", "labels", "mask"))
        masked = ids == bpe.mask_id
        hidden = model.encoder(ids.to(device), mask.to(device))[masked.to(device)]
        logits = model.head(hidden, model.encoder.tokens.weight).float().cpu()
        losses.append(F.cross_entropy(logits, labels[masked], reduction="none").double())
        best.append(logits.topk(5)[1])
    return torch.cat(losses), torch.cat(best)


loss, best = by_model(test)
assert len(loss) == len(token)

# %% [markdown]
# Before you look: the left neighbour alone and the model are the ends of a scale. How much of the distance between them does counting
# on both sides close? The last column is the *perplexity*, $e^{\mathrm{loss}}$: a loss of ln n is that of somebody who knows that
# the answer is one of n equally likely tokens, and nothing else.

# %%
scores = {
    "uniform": score(lambda w: torch.full((len(w), V_docs), 1 / V_docs), window),
    "frequencies": score(lambda w: counting.frequencies.expand(len(w), V_docs), window),
    "left neighbour": score(lambda w: counting.left(w[:, 1]), window),
    "both neighbours": score(lambda w: counting.both(w[:, 1], w[:, 3]), window),
    "… with triples": score(lambda w: counting.probabilities(w[:, 1], w[:, 3]), window),
    "two on each side": score(lambda w: four_neighbours(w, k5), window),
    "docs-small": (loss, (best[:, 0] == token).double()),
}
means = {who: ratio(values, text, rows) for who, (values, _) in scores.items()}
for who, (mean, error) in means.items():
    top1 = scores[who][1].mean()
    print(f"{who:<17} {mean:5.2f} ± {2 * error:.2f} nats   top-1 {top1:4.0%}   perplexity {math.exp(mean):5,.0f}")
for name, other in zip(list(scores)[1:], scores, strict=False):  # each better than the one above it, paired
    gain, error = ratio(scores[other][0] - scores[name][0], text, rows)
    assert gain > 0 if name == "… with triples" else gain > 4 * error, name
closed = (means["left neighbour"][0] - means["two on each side"][0]) / (
    means["left neighbour"][0] - means["docs-small"][0]
)
print(f"counting closes {closed:.0%} of the distance between the left neighbour and the model")

# %% tags=["hide-input"]
order = [mean for mean, _ in means.values()]
fig, ax = plots.figure(size=(7.0, 3.4))
bars = ax.barh(list(means), order, color=[plots.GREY] * 2 + [plots.ORANGE] * 4 + [plots.BLUE])
ax.bar_label(bars, [f"{value:.2f}" for value in order], padding=3)
ax.invert_yaxis()
ax.set(xlabel="loss on masked tokens of test texts (nats)", xlim=(0, 9.5))
ax.set_title(
    f"Counting closes {closed:.0%} of the distance to the model\n(counts: true neighbours; model: all of a corrupted text)",
    fontsize=10,
)
plots.show(
    fig, alt="Bars from uniform down to the model, each shorter than the last; the left neighbour is the largest step."
)
assert 0.5 < closed < 0.8
assert max(range(1, len(order)), key=lambda i: order[i - 1] - order[i]) == list(means).index("left neighbour")

# %% [markdown]
# Knowing the other side as well brings a bigram more than half the way, and it takes no training to use it. But the input is not
# equal: the counts read the true neighbours, the model a text in which other tokens are masked or replaced, too. So look at the masked
# tokens with four **intact** neighbours, none of which was selected. There both read the same four (and the model the rest of its text).


# %%
def intact_neighbours(batches):
    """For each token that shows [MASK]: whether none of its four neighbours was selected, (n,)."""
    found = []
    for step in range(len(batches)):
        ids, labels = batches(step)["ids"], batches(step)["labels"]
        selected = F.pad(labels != IGNORE, (2, 2), value=False).unfold(1, 5, 1)[ids == bpe.mask_id]
        found.append(selected.sum(1) == 1)  # the token itself
    return torch.cat(found)


intact = intact_neighbours(test)
there = {who: ratio(values[intact], text[intact], rows)[0] for who, (values, _) in scores.items()}
way = there["left neighbour"] - there["docs-small"]
closed_there = {who: (there["left neighbour"] - there[who]) / way for who in ("both neighbours", "two on each side")}
print(f"{intact.double().mean():.0%} of the masked tokens; model {there['docs-small']:.2f} nats; of the distance to it")
print("counting closes " + ", ".join(f"{part:.0%} with {who}" for who, part in closed_there.items()))
assert closed > closed_there["two on each side"] + 0.04 and abs(closed_there["both neighbours"] - 0.5) < 0.05

# %% [markdown]
# With the same input, the right neighbour supplies about half of what a bigram lacks, and the encoder adds more than the figure says.
# (The `±` is twice the standard error, counted over pieces of text and not over tokens, because the tokens of one piece
# have much in common. A long text gives several pieces, so the error is, if anything, a little too small.)
#
# The card reports a lower loss for the model, because it also counts the selected tokens that were kept or replaced (lesson 05),
# and a kept one is easy:

# %%
print(f"card, all selected tokens: {card['held_out']['loss']:.2f}; masked ones only: {means['docs-small'][0]:.2f}")
assert 0 < means["docs-small"][0] - card["held_out"]["loss"] < 0.6

# %% [markdown]
# Do not compare these numbers with other people's. A loss *per token* depends on the tokenizer: one that cuts text into
# smaller pieces has easier tokens to predict (lesson 07 compares by bits per byte). And the texts of these packages repeat
# one another; the test texts here have no near-duplicate in training, or else a model could know them by heart (section 3).

# %% [markdown]
# ## 7. What the model predicts
#
# A loss is an average. What does it look like? Here are two test entries of each library, the first in alphabetical order that fit a
# rule. The summary has 6 to 14 words. The hidden word is the last one that is written in small letters only, has at least five of them,
# is a single token, and is not among the first two words nor the last. The model also reads the start of the entry's body.


# %%
def with_gap(document):
    """Return the summary with a [MASK] and the hidden word, or None if the rule does not fit."""
    words = document.summary.split(" ")
    fits = [
        i
        for i in range(2, len(words) - 1)
        if re.fullmatch("[a-z]{5,}", words[i]) and len(bpe.encode(" " + words[i])) == 3  # [CLS], the word, [SEP]
    ]
    if not 6 <= len(words) <= 14 or not fits:
        return None
    gap = fits[-1]  # a token begins with its space, so [MASK] stands directly behind the word before it
    return " ".join(words[:gap]) + "[MASK]" + "".join(f" {word}" for word in words[gap + 1 :]), words[gap]


firsts = []
for library in ("python", "torch", "numpy", "matplotlib"):
    questions = [(d, *with_gap(d)) for d in held if d.library == library and with_gap(d)]
    for d, question, right in questions[:2]:
        body = d.body[:100].rpartition(" ")[0]  # whole words
        guesses = fill_mask(model, bpe, f"{question}\n\n{body}".strip())[0]
        print(f"{d.name}: {question.replace('[MASK]', ' ____')}\n    hidden: {right}")
        print("    " + "  ".join(f"{guess.strip()} {p:.2f}" for guess, p in guesses))
        firsts.append(guesses[0][0].strip() == right)
print(f"top-1: {sum(firsts)} of {len(firsts)}")

# %% [markdown]
# Look at the wrong ones: are they sensible? A masked word often has more than one answer that makes sense, and only the author's counts.
# (And a [MASK] need not be a new word: an odd guess may continue the word before it.) Now choose the tokens yourself. Here are
# twenty sentences of the kind found in documentation; click a token to hide it. Which can the model predict with
# certainty, the small words or those that carry the meaning?

# %%
playground = MaskingPlayground(model, bpe, title="Which tokens can the model predict for certain?")
show(playground, alt="A sentence of documentation with one token masked, and the model's five likeliest tokens for it.")

# %% [markdown]
# Eight examples prove nothing, in either direction, and neither do twenty sentences. So count over all masked tokens, and by kind:
#
# * a **word** stands alone, a **piece** is part of a longer word, the rest is **punctuation**, digits and blanks;
# * **frequent** tokens are the fewest that make up half of the training texts; all others are **rare**.

# %%
spelled = bpe.tokens(range(V_docs))
begins = torch.tensor([t[:1].isalpha() for t in spelled])
ends = torch.tensor([t[-1:].isalpha() for t in spelled])
letters = torch.tensor([any(c.isalpha() for c in t) for t in spelled])
only_letters = torch.tensor([t.strip().isalpha() for t in spelled])
before, after = window[:, 1], window[:, 3]
joined = (begins[token] & ends[before]) | (begins[after] & ends[token])
kinds = {
    "word": only_letters[token] & ~joined,
    "piece": letters[token] & ~(only_letters[token] & ~joined),
    "punctuation": ~letters[token],
}
by_frequency = counting.pairs.sum(0).sort(descending=True)
enough = int((by_frequency.values.cumsum(0) < counting.pairs.sum() / 2).sum()) + 1
frequent = torch.zeros(V_docs, dtype=torch.bool)
frequent[by_frequency.indices[:enough]] = True
print(f"{enough} of {V_docs:,} tokens make up half of the training texts")

# %% [markdown]
# The accuracy for each group: the model's first guess, its five best, and the first guess of the counts. Where is the model furthest ahead?

# %%
hits = {
    "top-1": scores["docs-small"][1],
    "top-5": (best == token[:, None]).any(1).double(),
    "counts": scores["two on each side"][1],
}
groups = {"all": torch.ones_like(joined)} | {
    f"{kind}, {often}": some & (frequent[token] == (often == "frequent"))
    for kind, some in kinds.items()
    for often in ("frequent", "rare")
}
accuracy = {(g, h): ratio(hit[some], text[some], rows) for g, some in groups.items() for h, hit in hits.items()}
print(f"{'':<22}{'number':>8}   model top-1    model top-5    counts top-1")
for group, some in groups.items():
    cells = [f"{mean:4.0%} ± {2 * error:.0%}" for mean, error in (accuracy[group, h] for h in hits)]
    print(f"{group:<22}{int(some.sum()):8,}   " + "      ".join(cells))
assert len(token) >= 500 and kinds["punctuation"].double().mean() > 0.25

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.4))
for offset, kind, color in [(-0.2, "top-1", plots.BLUE), (0.0, "top-5", plots.GREEN), (0.2, "counts", plots.ORANGE)]:
    values = [accuracy[group, kind] for group in groups]
    label = {"top-1": "model, first guess", "top-5": "model, five best", "counts": "counts, first guess"}[kind]
    ax.errorbar(
        [v for v, _ in values],
        [i + offset for i in range(len(groups))],
        xerr=[2 * e for _, e in values],
        fmt="o",
        color=color,
        capsize=3,
        label=label,
    )
ax.set_yticks(range(len(groups)), list(groups))
ax.invert_yaxis()
ax.set(xlabel="proportion of masked tokens, ± 2 standard errors", xlim=(0, 1))
ax.set_title("Frequent punctuation is easy, rare words are hard")
ax.legend(loc="lower left", fontsize=8)
plots.show(
    fig, alt="Accuracy by kind of token: frequent punctuation highest, rare words lowest, the rest between them."
)
for kind in ("word", "punctuation"):
    often, rare = accuracy[f"{kind}, frequent", "top-5"], accuracy[f"{kind}, rare", "top-5"]
    assert often[0] - rare[0] > 3 * (often[1] + rare[1])
assert accuracy["word, rare", "top-1"][0] < accuracy["all", "top-1"][0]
for often in ("frequent", "rare"):  # how far the model is ahead of the counts
    ahead = {
        kind: accuracy[f"{kind}, {often}", "top-1"][0] - accuracy[f"{kind}, {often}", "counts"][0] for kind in kinds
    }
    assert ahead["punctuation"] > ahead["word"] > ahead["piece"]

# %% [markdown]
# The accuracy over *all* tokens is held up by full stops, brackets and line ends, which are many and easy. Of the rarer words, which carry
# what a text is about, far fewer are found. And the model is furthest ahead of the counts where you may not have looked for it, on
# punctuation, most likely because whether a bracket has to be closed is decided far away, where the counts cannot see it. On pieces of
# words it is hardly ahead. Is that because the neighbours spell the word? Or because the counts always read those neighbours, and the
# model does not? Separate the tokens with intact neighbours from the rest:

# %%
lead = hits["top-1"] - hits["counts"]
print(f"{'model ahead by':<14} four intact neighbours   fewer")
for kind, some in kinds.items():
    parts = [ratio(lead[part], text[part], rows) for part in (some & intact, some & ~intact)]
    print(f"{kind:<14} " + "              ".join(f"{mean:+7.1%} ± {2 * error:.1%}" for mean, error in parts))
    assert parts[0][0] > 4 * parts[0][1] and parts[0][0] > parts[1][0] + 0.03
    assert kind != "piece" or parts[1][0] < -2 * parts[1][1]  # there the counts are ahead

# %% [markdown]
# It was the input. With the same four neighbours to read, the model is well ahead on pieces too; where a neighbour is hidden from it, the
# counts, which still read it, are ahead. When somebody shows you one number, ask which tokens it counts, what counting alone would
# score on them, and whether both had the same input.

# %% [markdown]
# ## 8. Your evening
#
# Now the question of the beginning, on real text, with seconds in place of an evening. The starting point is the `tiny` shape, two
# layers of width 64, trained for 40 steps on pieces of at most 64 tokens. Three things change: four times the **steps**; the same
# with a sixteenth of the **text**; twice the **width** at the cost of the longer run. Which will do most for the loss on held-out texts?

# %%
some = pieces([d.text for d in docs.train], bpe, 64)
quick = MLMBatches(pieces([d.text for d in held], bpe, 64), bpe, seed=1_000_003, copies=1)
costs = {width: work(2, width, 64, V_docs) for width in (64, 128)}
conditions = {
    "40 steps": dict(steps=40),
    "160 steps": dict(steps=160),
    "160 steps, 1/16 of the text": dict(steps=160, texts=some[::16]),
    "twice the width, cost of 160 steps": dict(steps=round(160 * costs[64] / costs[128]), width=128),
}
own = {}
for condition, change in conditions.items():
    steps, width, texts = change["steps"], change.get("width", 64), change.get("texts", some)
    torch.manual_seed(seed)
    sizes_of = dict(width=width, layers=2, ffn_width=4 * width, max_len=64, init_std=0.02)
    own_model = MaskedLanguageModel(Encoder(EncoderConfig(V_docs, **sizes_of)))
    fit(
        own_model,
        MLMBatches(texts, bpe, batch_size=32, rate=0.3, seed=seed),
        steps,
        lr=3e-3,
        warmup=steps // 4,
        seed=seed,
    )
    own[condition] = held_out_loss(own_model, quick, 8)
    epochs = steps * 32 / len(texts)
    print(f"{condition:<35} {steps:4} steps, {epochs:4.1f} epochs: {own[condition]:.2f} nats")
assert own["160 steps"] < own["40 steps"]
assert max(own.values()) - min(own.values()) < 0.3
assert min(own.values()) > means["both neighbours"][0] + 2

# %% [markdown]
# None of them does much. All four models stand where the frequencies stand in section 6: they have learned which tokens are frequent, and
# not yet to use any context. (The measure is not quite the same, as it includes kept tokens, which are easy.) From these numbers you
# could conclude that text and width do not matter. That would be wrong, for the same reason for which no layers at all looked
# best at 3 % of the budget in section 2: **a budget at which nothing has been learned ranks nothing.** How much is enough?

# %%
run = card["training"]
first = run["curve"][0]
minutes = first["step"] * run["seconds"] / run["steps"] / 60
print(
    f"docs-small stood at {first['validation_loss']:.2f} nats after {first['step']:,} steps, {minutes:.0f} minutes of training"
)
assert first["validation_loss"] < min(own.values()) - 0.5

# %% [markdown]
# So on this corpus a comparison needs runs of several minutes each, and the answer for real text stays open here: which of the three pays off
# for *your* texts is an experiment for your evening, made at two or three budgets that are past this first plateau.
#
# For a model worth keeping, open a terminal and let it run through a coffee break, or overnight:
#
# ```
# nextbert-lite pretrain --corpus docs --minutes 20 --out my-docs
# nextbert-lite pretrain --corpus my-texts/ --preset small --minutes 60 --out my-model
# ```
#
# The second reads your own `.txt` files, learns from their paragraphs, and holds some of them out. Ctrl-C stops it, the
# same command resumes it, and `--help` shows the rest. Then, here or anywhere: `model, tokenizer = load("my-docs")`. To see your
# model in all of sections 6 and 7, put its folder into the first cell of section 6 and run the lesson again.

# %% [markdown]
# ## What to remember
#
# * Cost is counted in **operations**, about **6ND**; for small models the embedding table and the head matter, so count exactly.
#   Compare at equal cost, not at equal steps.
# * The best size **depends on the budget**: a model that is too small soon stops learning, one that is too large has hardly begun. So with
#   an evening to spend, compare two sizes and two amounts of text at *several* small budgets, all past the first plateau, and check
#   whether the winner changes as the budget grows. Extrapolate only a trend that is already straight.
# * With little data, **longer training makes a model worse**; keep the best checkpoint on validation data, and measure laws there.
# * Over a small range a power of the data fits the excess, **while data is what is missing**. Fit the excess, not the loss; predict; check.
# * 20 tokens for each parameter is the optimum of training cost alone; encoders, which are used often, are trained far longer.
# * Without a floor, use **strong reference points made by counting**: both neighbours, not one, and the same input for both sides.

# %% [markdown]
# **What this scale cannot show.** Our budgets are minutes of one processor, and a toy grammar can be known completely. The
# size at which larger models win, the slopes, and how few steps are too few are numbers of this world. At real scale the
# learning rate and batch size would be tuned for each size; here one rate served all, with one check. Data quality has no
# place in a world without bad sentences.
#
# **An open problem.** Where is the floor of real language? Lesson 00 tells how Shannon had people guess the next letter
# (1951); today a law with an E in it is fitted to losses, which is no better than the formula is. Nobody knows how far the best models are from what is possible. And does a smooth loss say what a model
# *can do*? Schaeffer et al. 2023 argue that sudden abilities are made by the choice of metric; the plateaus in section 2 are a loss that is not smooth.
#
# **Where this comes from**
#
# * Claude E. Shannon, *Prediction and Entropy of Printed English*, Bell System Technical Journal 30, 1951.
# * Jared Kaplan et al., *Scaling Laws for Neural Language Models*, 2020, [arXiv:2001.08361](https://arxiv.org/abs/2001.08361).
# * Jordan Hoffmann et al., *Training Compute-Optimal Large Language Models*, 2022,
#   [arXiv:2203.15556](https://arxiv.org/abs/2203.15556); Tamay Besiroglu et al., *Chinchilla Scaling: A replication attempt*, 2024,
#   [arXiv:2404.10102](https://arxiv.org/abs/2404.10102).
# * Tim Pearce and Jinyeop Song, *Reconciling Kaplan and Chinchilla Scaling Laws*, 2024,
#   [arXiv:2406.12907](https://arxiv.org/abs/2406.12907); Tomer Porian et al., *Resolving Discrepancies in Compute-Optimal Scaling of
#   Language Models*, 2024, [arXiv:2406.19146](https://arxiv.org/abs/2406.19146).
# * Niklas Muennighoff et al., *Scaling Data-Constrained Language Models*, 2023, [arXiv:2305.16264](https://arxiv.org/abs/2305.16264).
# * Nikhil Sardana et al., *Beyond Chinchilla-Optimal: Accounting for Inference in Language Model Scaling Laws*, 2024,
#   [arXiv:2401.00448](https://arxiv.org/abs/2401.00448).
# * Greg Yang et al., *Tensor Programs V* (µP), 2022, [arXiv:2203.03466](https://arxiv.org/abs/2203.03466).
# * Guilherme Penedo et al., *The FineWeb Datasets*, 2024, [arXiv:2406.17557](https://arxiv.org/abs/2406.17557).
# * Rylan Schaeffer et al., *Are Emergent Abilities of Large Language Models a Mirage?*, 2023,
#   [arXiv:2304.15004](https://arxiv.org/abs/2304.15004).
# * Tokens and parameters: Devlin et al. 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805); Liu et al. 2019,
#   [arXiv:1907.11692](https://arxiv.org/abs/1907.11692); Warner et al. 2024, [arXiv:2412.13663](https://arxiv.org/abs/2412.13663).
#
# **Next:** the model knows which words fit a masked token. Does it know which *sentences* mean the same? Part III trains it to.
