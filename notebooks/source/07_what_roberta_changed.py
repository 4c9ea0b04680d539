# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: What RoBERTa changed
#     question: Which of RoBERTa's changes mattered, and how would you know?
#     minutes: 110
#     part: "Part II: pretrain"
# ---

# %% [markdown]
# # 07 · What RoBERTa changed
#
# RoBERTa (Liu et al. 2019) is BERT with another recipe for pretraining, and it was much better than BERT. But its authors
# changed many things at once: the masks, the next-sentence task, the length of the texts, the batch size, the tokenizer, the
# amount of text and the length of training. A good result does not tell you which of these changes earned it.
#
# **The question of this lesson:** which of RoBERTa's changes mattered, and how would you know?
#
# | | |
# |---|---|
# | You will | read the paper's own answer from its tables; write the loop of an ablation, which refuses to change two things at once; build BERT's pairs of segments; repeat four of the paper's comparisons at a small scale; and know what each of them can and cannot show |
# | You need | lessons 05 and 06; lesson 01 for the tokenizers |
# | It takes | about 110 minutes, five exercises, two of them builds of 25 and 30 minutes; the machine needs one to two minutes |
#
# This is the paper's answer (its Table 4): what each step from BERT-large to RoBERTa was worth on two tests. MNLI asks whether
# one sentence follows from another (MNLI-m is its part with texts of the same kinds as in training); SQuAD 2.0 asks for the answer to a question in a text, or for the statement that there is
# none.

# %% tags=["hide-input"]
from nextbert_lite import plots

table_4 = {  # Liu et al. 2019 (arXiv:1907.11692), Table 4: MNLI-m accuracy, SQuAD 2.0 F1
    "BERT-large": (86.6, 81.8),
    "RoBERTa, the same\nkind of text": (89.0, 87.3),
    "+ ten times\nthe text": (89.3, 87.7),
    "+ 300K steps\n(from 100K)": (90.0, 88.7),
    "+ 500K steps": (90.2, 89.4),
}
fig, axes = plots.figure(1, 2, size=(8.6, 3.3), sharey=True)
for ax, column, name in zip(axes, (0, 1), ("MNLI-m accuracy (%)", "SQuAD 2.0 F1 (%)"), strict=True):
    scores = [row[column] for row in table_4.values()]
    for y, (before, after) in enumerate(zip([scores[0], *scores], scores, strict=False)):
        ax.barh(-y, after - before, left=before, color=plots.BLUE if y == 1 else plots.ORANGE, height=0.6)
        ax.plot(after, -y, "k|", markersize=14)
        label = f"{after:.1f}" if y == 0 else f"+{after - before:.1f}"
        ax.text(after, -y, f"  {label}", va="center", fontsize=9)
    ax.set(xlabel=name, xlim=(min(scores) - 0.4, max(scores) + 1.2))
axes[0].set_yticks([-y for y in range(len(table_4))], list(table_4))
fig.suptitle("Most of the gain came before RoBERTa read more text", x=0.01, ha="left")
plots.show(
    fig,
    alt="Steps from BERT-large to RoBERTa: the first adds 2.4 points of MNLI and 5.5 of SQuAD, ten times the text 0.3 and 0.4, longer training 0.9 and 1.7.",
)

# %%
import math
import re
import statistics
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import IGNORE, Encoder, EncoderConfig, MaskedLanguageModel, MLMBatches, MLMHead, ToyWorld, fit
from nextbert_lite.checks import lesson_07 as check

# %% [markdown]
# What a run may change: the seed, and whether the stored tables of this lesson are recomputed, which takes many minutes.

# %% tags=["parameters"]
seed = 0
every_row = False

# %% [markdown]
# ## 1. The paper's own answer
#
# The authors sum up their changes in one sentence (Liu et al. 2019, section 1):
#
# > Our modifications are simple, they include: (1) training the model longer, with bigger batches, over more data; (2) removing
# > the next sentence prediction objective; (3) training on longer sequences; and (4) dynamically changing the masking pattern
# > applied to the training data.
#
# Section 4.4 adds a fifth: **byte-level BPE** with 50,000 pieces in place of WordPiece with 30,000. (RoBERTa does not read
# bytes. It reads pieces of words, as BERT does; only the *alphabet* from which the pieces are built is the 256 bytes.) The larger
# vocabulary adds about 15 million parameters to the base model and 20 million to the large one, so even the size is not quite
# the same.
#
# In the picture, ten times the text is one of the smallest steps: 0.3 points of MNLI. The largest is the first one, on about the
# same text, 16 GB against 13 GB. What does it include? Masks, input, batch and tokenizer, all at once, and something that is easy
# to overlook.

# %% [markdown]
# ### Exercise 07.1 · predict the result ●●○ · 6 minutes
#
# BERT-large trained for 1,000,000 steps of 256 sequences; in 90 % of the steps a sequence had 128 tokens, in the others 512
# (Devlin et al. 2019, appendix A.2). RoBERTa's first row trained for 100,000 steps of 8,192 sequences, all of 512 tokens. By
# which factor did the number of tokens grow that the model read in training, repeats included? Write one number, within 0.3 of it.

# %% tags=["exercise-07.1"]
factor = None
### BEGIN SOLUTION
factor = 8192 * 100_000 * 512 / (256 * 1_000_000 * (0.9 * 128 + 0.1 * 512))
### END SOLUTION

# %% tags=["nbval-check-output"]
check.times_the_tokens(factor)

# %% [markdown]
# Here is the same for all rows of the table, with what each step added:

# %% tags=["nbval-check-output"]
rows = {  # sequences a step, steps, mean tokens a sequence, GB of text
    "BERT-large": (256, 1_000_000, 0.9 * 128 + 0.1 * 512, 13),
    "RoBERTa, the same kind of text": (8192, 100_000, 512, 16),
    "+ ten times the text": (8192, 100_000, 512, 160),
    "+ 300K steps (from 100K)": (8192, 300_000, 512, 160),
    "+ 500K steps": (8192, 500_000, 512, 160),
}
scores = list(table_4.values())
for number, (name, (batch, steps, length, text)) in enumerate(rows.items()):
    read = batch * steps * length / 1e9
    gain = [after - before for after, before in zip(scores[number], scores[max(0, number - 1)], strict=True)]
    print(f"{name:<31} {text:>3} GB, {read:>5,.0f} billion tokens read, MNLI {gain[0]:+.1f}, SQuAD 2.0 {gain[1]:+.1f}")

# %% [markdown]
# So the first step also read almost ten times as many tokens. (All sequences are counted as full here; in both models some are shorter.) The
# table cannot separate the recipe from the length of training, because they change together. What it does separate is the
# *text* from the rest: with the steps held equal, ten times the text adds 0.3, while three times the steps on the same text add 0.7.
# (The added text is of other kinds too, news, web pages and stories, so amount and variety are not told apart.) The authors' own
# conclusion is that BERT "was significantly undertrained".
#
# They also tested three of the choices alone, on the *base* model. Here are BERT's choice and RoBERTa's in each table, and the
# options that they tried and rejected. Guess before you look: by how many points of MNLI do the three choices change the score together?

# %% tags=["hide-input"]
tested = {  # MNLI-m, base model: Liu et al. 2019, Tables 1, 2, 3; BERT's choice first, RoBERTa's last
    "masks": {"static": 84.3, "dynamic": 84.0},
    "input": {"segment pairs\n+ NSP": 84.0, "full sentences,\nno NSP": 84.7},
    "batch": {"256": 84.7, "8K": 84.6},
}
aside = {"input": {"sentence pairs\n+ NSP": 82.9, "document\nsentences": 84.7}, "batch": {"2K": 85.2}}
fig, ax = plots.figure(size=(8.4, 3.4))
for y, (name, pair) in enumerate(tested.items()):
    (old, before), (new, after) = pair.items()
    ax.annotate("", (after, -y), (before, -y), arrowprops={"arrowstyle": "->", "color": plots.BLUE, "lw": 2})
    ax.plot([before, after], [-y, -y], "o", color=plots.BLUE)
    right = after > before
    for label, x, side in ((old, before, not right), (new, after, right)):
        ax.text(x + (0.04 if side else -0.04), -y + 0.12, label, ha="left" if side else "right", fontsize=9)
    for label, x in aside.get(name, {}).items():
        if x != after:
            ax.plot(x, -y, "o", color=plots.GREY)
            ax.text(x, -y + 0.12, label, ha="center", fontsize=9, color=plots.GREY)
ax.set_yticks([0, -1, -2], ["masks (Table 1)", "input (Table 2)", "batch (Table 3)"])
ax.set(xlabel="MNLI-m accuracy (%), base model", ylim=(-2.4, 0.7), xlim=(82.5, 85.7))
total = sum(after - before for before, after in (pair.values() for pair in tested.values()))
ax.set_title(f"The three choices tested alone add up to {total:+.1f} points of MNLI")
plots.show(fig, alt="Arrows from BERT's choice to RoBERTa's: masks minus 0.3, input plus 0.7, batch size minus 0.1.")
print(f"together {total:+.1f} points; from BERT-large to the last row of Table 4 {scores[-1][0] - scores[0][0]:+.1f}")

# %% [markdown]
# A few tenths, up and down, and the paper gives no spread that would tell whether a tenth means anything. So the paper's answer is to
# train longer, then on more text; what was tested alone is small. (The length of the sequences and the tokenizer are part of the first
# step, and no table tests them alone.) That is no reason to skip the small things. You will meet each of them in somebody's recipe,
# with a claim attached, and the question how one would *know* is the same. The rest of this lesson asks it of four of them.

# %% [markdown]
# ## 2. How to compare: masks drawn once, or every time?
#
# Four rules make a comparison fair.
#
# 1. Change **one** thing. A good experimenter makes it impossible to change two by mistake.
# 2. Hold the cost equal. Here that is the number of tokens read, because all models have the same size; lesson 08, which changes
#    the size, counts operations.
# 3. Judge on text that no model has seen, with one measure for all.
# 4. Repeat with other seeds, and compare **within** a seed. Two runs of one seed share their initial weights and their data, so
#    the luck that comes from these cancels in the difference. How much this helps varies, as section 4 shows.
#
# Why does rule 4 matter so much? Take made-up losses of two conditions and five seeds:

# %% tags=["nbval-check-output"]
old = [1.21, 0.94, 1.35, 1.02, 1.17]
new = [1.18, 0.92, 1.30, 1.00, 1.13]
differences = [b - a for a, b in zip(old, new, strict=True)]
for name, values in {"old": old, "new": new, "new - old": differences}.items():
    error = statistics.stdev(values) / math.sqrt(len(values))
    print(f"{name:<10} mean {statistics.mean(values):+.3f}, standard error {error:.3f}")

# %% [markdown]
# Look at the two conditions alone, and the difference of their means is lost in the errors. Look at the *differences*, and it is
# more than five times as large as its error. The **standard error** of a mean of n numbers is their standard deviation (with n − 1) divided by
# √n. As a rule of thumb the true mean lies within two errors; with few seeds be more careful: for 95 % take 2.8 errors with five
# seeds and 4.3 with three (Student's t).

# %% [markdown]
# ### Exercise 07.2 · build the loop of an ablation ●●● · 25 minutes
#
# Write `compare(run, conditions, seeds, against)`. An **ablation** takes one part of a recipe away, or exchanges it, and measures
# what that changes.
#
# * `conditions` is a dict from a name to a dict of settings, such as `{"dynamic": {"copies": None}, "static": {"copies": 1}}`.
#   All conditions have the same settings. `against` names the condition that the others are compared with; it may stand
#   anywhere among them, and the settings of a condition may stand in any order.
# * Each other condition must differ from `against` in exactly one setting. If one does not, raise a `ValueError` whose message
#   contains the name of that condition, before the first run is made.
# * `run(seed=…, **settings)` makes one run and returns its loss, a float. Make one run for each seed in `seeds` (a list of
#   numbers, in any order) and each condition, and no run twice. Call `torch.manual_seed(seed)` immediately before each run.
# * Return a dict from the name of each condition but `against`, in the order of `conditions`, to a pair of floats: the mean over
#   the seeds of *its loss minus the loss of `against` with the same seed*, and the standard error of that mean. With a single
#   seed the error is `math.nan`.
# * Do not modify the arguments.
#
# The check goes in stages: names, means, errors, how the runs are made, what is refused, and other sizes.


# %% tags=["exercise-07.2", "my-bert-pairs"]
def compare(run, conditions, seeds, against):
    """Make one run for each seed and condition; return name -> (mean difference from `against`, its standard error)."""
    ### BEGIN SOLUTION
    base = conditions[against]
    for name, settings in conditions.items():
        changed = [key for key in settings if settings[key] != base[key]]
        if name != against and len(changed) != 1:
            raise ValueError(f"'{name}' differs from '{against}' in {changed}; change exactly one setting.")
    losses = {name: [] for name in conditions}
    for seed in seeds:
        for name, settings in conditions.items():
            torch.manual_seed(seed)
            losses[name].append(run(seed=seed, **settings))
    result = {}
    for name in conditions:
        if name != against:
            differences = [loss - other for loss, other in zip(losses[name], losses[against], strict=True)]
            error = statistics.stdev(differences) / math.sqrt(len(seeds)) if len(seeds) > 1 else math.nan
            result[name] = (statistics.mean(differences), error)
    return result
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.comparison(compare)

# %% [markdown]
# All comparisons below are made by your loop if it passes, and by the course's if not:

# %% tags=["nbval-check-output"]
compare = check.mine("07.2", compare)

# %% [markdown]
# Now the first comparison. BERT's code masked its texts *before* training and stored them: **static** masking. It stored ten
# copies of the data, each with other masks, and went over them for 40 epochs, so that the model met each mask four times (Liu et
# al. 2019, section 4.1). RoBERTa draws the masks when a text is read: **dynamic** masking. `MLMBatches` does both. Watch which
# positions of one text are selected in four epochs:

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
text = tokenizer.encode("the cook near the ovens praises the waiters in the kitchen")
for copies in (1, 2, None):
    batches = MLMBatches([text], tokenizer, batch_size=1, rate=0.3, seed=3, copies=copies)
    chosen = [(batches(epoch)["labels"][0] != IGNORE).nonzero()[:, 0].tolist() for epoch in range(4)]
    print(f"copies = {copies!s:<4}: {chosen}")
    assert not copies or chosen[0] == chosen[copies]

# %% [markdown]
# With one copy each epoch asks the same questions; with two they come back in every second epoch; with `None` they are drawn
# anew. (The rate is 30 % here so that you see something in so short a text. Static and dynamic masking select at the same rate.)
#
# How can a run that was stopped go on with exactly the same masks? They are drawn by a generator that depends on the seed and on
# a *version*: the epoch itself for dynamic masking, the epoch modulo n for n copies.
#
# The experiment: a small BERT (two layers, C = 64) reads 256 toy sentences for 120 epochs. Before you run it, guess which of the
# two has the lower *training* loss in the end, and which the lower loss on new sentences.

# %%
from nextbert_lite import held_out_loss, stored_table


def toy_rows(n, number):
    """Return n sentences as lists of ids without padding."""
    ids, mask = world.sample_ids(n, seed=number)
    return [row[real].tolist() for row, real in zip(ids, mask, strict=True)]


def small_bert(vocab_size, max_len=20, **changes):
    """Return a fresh encoder: two layers, C = 64."""
    return Encoder(EncoderConfig.preset("tiny", vocab_size=vocab_size, max_len=max_len, init_std="fan_in", **changes))


held_out = MLMBatches(toy_rows(2000, 10**6), tokenizer, batch_size=200, seed=10**6, copies=1)
COPIES = {"static ×1": 1, "static ×10": 10, "dynamic": None}


def train_masked(seed, masks, sentences, steps=960):
    """Train on so many sentences; return the mean loss of the last epoch's steps and the held-out loss."""
    torch.manual_seed(seed)
    model = MaskedLanguageModel(small_bert(tokenizer.vocab_size))
    batches = MLMBatches(toy_rows(sentences, seed), tokenizer, batch_size=32, seed=seed, copies=COPIES[masks])
    history = fit(model, batches, steps, lr=2e-3, warmup=50, seed=seed)
    last = history.loss[-len(batches) :]
    return sum(last) / len(last), held_out_loss(model, held_out, len(held_out))


# %% [markdown]
# The learning rate, the number of steps and the batch size are the same in both runs.

# %%
epochs = {256: 120, 1024: 30, 3840: 8}
results_masking = []


def run_masked(seed, masks, sentences):
    training, held = train_masked(seed, masks, sentences)
    results_masking.append(dict(seed=seed, sentences=sentences, masks=masks, training=training, held_out=held))
    print(f"{sentences:,} sentences, {masks:<10}: training {training:.2f}, held out {held:.2f} nats")
    return held


for sentences in epochs if every_row else [256]:
    kinds_of_masks = {
        name: {"masks": name, "sentences": sentences} for name in COPIES if every_row or name != "static ×10"
    }
    live = compare(run_masked, kinds_of_masks, [seed], against="dynamic")
    print({name: f"{mean:+.2f} ± {error:.2f}" for name, (mean, error) in live.items()})
if not every_row:
    by_name = {row["masks"]: row for row in results_masking}
    assert by_name["static ×1"]["training"] < 0.1 < by_name["dynamic"]["training"]

# %% [markdown]
# For comparison, here is the loss of a model that knows only the word frequencies; it equals the entropy of their distribution:

# %%
ids, mask = world.sample_ids(4000, seed=seed)
proportions = torch.bincount(ids[ids > 4]).double() / (ids > 4).sum()  # ids 0 to 4 are special tokens
frequencies = -torch.special.xlogy(proportions, proportions).sum().item()
print(f"knowing only how frequent each word is: {frequencies:.2f} nats")
assert every_row or by_name["static ×1"]["held_out"] > frequencies > by_name["dynamic"]["held_out"] + 1

# %% [markdown]
# With the same masks in every epoch the model has memorised the *answers*. Its training loss is almost zero, and on new text it is
# worse than a list of word frequencies. (One seed has no standard error, hence `nan`. Such a difference does not need one.)
#
# Is the small amount of text to blame, or the repeated masks? The same number of steps on more sentences, with fewer epochs,
# tells. These runs would take too long here, so they were made beforehand with three seeds each, and their losses are stored in a
# table with a row for each run. `compare` reads stored losses instead of making runs: a look-up takes the place of `run`.

# %% tags=["nbval-check-output"]
table = stored_table("07_masking")  # `results_masking` of three seeds


def stored_mask(seed, masks, sentences):
    """Return the stored held-out loss of one run."""
    wanted = (str(seed), masks, str(sentences))
    return next(float(r["held_out"]) for r in table if (r["seed"], r["masks"], r["sentences"]) == wanted)


effects = {}
for sentences, n in epochs.items():
    stored_runs = {name: {"masks": name, "sentences": sentences} for name in COPIES}
    effects[sentences] = compare(stored_mask, stored_runs, [0, 1, 2], against="dynamic")
    for name, (mean, error) in effects[sentences].items():
        met = n / COPIES[name]
        print(
            f"{sentences:>5,} sentences × {n:>3} epochs, {name:<10} (each mask met {max(met, 1):>3.0f}×): {mean:+.3f} ± {error:.3f}"
        )

# %% [markdown]
# The picture shows all runs:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.4, 3.4))
for i, (name, colour, marker) in enumerate(zip(COPIES, (plots.RED, plots.ORANGE, plots.BLUE), "so^", strict=True)):
    for row, n in enumerate(epochs):
        losses = [stored_mask(s, name, n) for s in (0, 1, 2)]
        ax.plot([row + 0.2 * (i - 1)] * 3, losses, marker, color=colour, alpha=0.8, label=name if row == 0 else None)
ax.axhline(frequencies, color=plots.GREY, linestyle=":", label="word frequencies")
ax.set_xticks(range(3), [f"{n:,} sentences\n× {e} epochs" for n, e in epochs.items()])
ax.set(ylabel="held-out loss (nats per selected token)", ylim=(0, None))
ax.set_title("Meeting the same mask again and again does the harm")
ax.legend(loc="center right")
plots.show(
    fig,
    alt="Held-out loss of static and dynamic masks: far apart with 256 sentences and 120 epochs, together with 3,840 and 8.",
)
for row in results_masking if not every_row else []:  # the live runs agree with the stored ones
    stored_losses = [stored_mask(s, row["masks"], 256) for s in (0, 1, 2)]
    assert min(stored_losses) - 0.7 < row["held_out"] < max(stored_losses) + 0.7
assert effects[256]["static ×1"][0] > 2 and effects[256]["static ×10"][0] > 0.2 and effects[1024]["static ×1"][0] > 0.5
assert all(abs(mean) <= 2.8 * error + 1e-9 for mean, error in effects[3840].values())

# %% [markdown]
# The stored rows show that the repeated mask does the harm, and not the small amount of text: the dynamic run read the same 256
# sentences. A mask met 120 or 30 times costs a nat or more. A mask met about ten times costs half a nat with 256 sentences and
# nothing that you could see with 3,840. In the last column the difference is smaller than its error, so these runs cannot tell
# the two apart. (There, ten copies and dynamic masks are the very same run: in eight epochs no copy comes twice.)
#
# **Beside the paper.** Its Table 1, medians of five seeds: static 78.3 / 84.3 / 92.5, dynamic 78.7 / 84.0 / 92.9 on SQuAD 2.0,
# MNLI-m and SST-2 (is a film review positive?). Two up, one down, by tenths. That agrees with our last column: their model met
# each mask four times. What carries over is the rule *count how often a mask comes back*, not the size of an effect:
# above, about ten times did harm with 256 sentences, but no visible harm with 3,840. Dynamic masking costs nothing and is safe when you have little text; it is not what made RoBERTa better.

# %% [markdown]
# ## 3. Does predicting the next sentence help?
#
# BERT reads two segments, A and B, and learns a second task beside the masked tokens: does B follow A, or is it from another
# document? The answer is read off the vector of [CLS]. This is **next-sentence prediction** (NSP).
#
# Here the two papers contradict each other. Devlin et al. 2019 report in their Table 5 (base model):
#
# | | MNLI-m | QNLI | SST-2 | SQuAD 1.1 (F1) |
# |---|---|---|---|---|
# | BERT-base | 84.4 | 88.4 | 92.7 | 88.5 |
# | No NSP | 83.9 | 84.9 | 92.6 | 87.9 |
#
# They conclude that "removing NSP hurts performance significantly on QNLI, MNLI, and SQuAD 1.1". RoBERTa's authors find
# that removing the NSP loss "matches or slightly improves downstream task performance". This is their Table 2 (SQuAD 1.1 / 2.0 F1,
# the others accuracies; RACE holds exam questions with four answers, and QNLI asks whether a sentence answers a question):
#
# | input | SQuAD 1.1 / 2.0 | MNLI-m | SST-2 | RACE |
# |---|---|---|---|---|
# | segment pairs + NSP | 90.4 / 78.7 | 84.0 | 92.9 | 64.2 |
# | sentence pairs + NSP | 88.7 / 76.2 | 82.9 | 92.1 | 63.0 |
# | full sentences, no NSP | 90.4 / 79.1 | 84.7 | 92.5 | 64.8 |
# | document sentences, no NSP | 90.6 / 79.7 | 84.7 | 92.7 | 65.6 |
#
# How can both be right? The authors of RoBERTa offer an explanation (section 4.2):
#
# > It is possible that the original BERT implementation may only have removed the loss term while still retaining the SEGMENT-PAIR
# > input format.
#
# Look at RoBERTa's rows 1 and 3: the loss *and* the input change. `compare` would refuse them:

# %% tags=["nbval-check-output"]
conditions = {
    "pairs": {"mixed": True, "nsp": False},  # segment pairs, half of them foreign; the NSP loss taken away
    "pairs + NSP": {"mixed": True, "nsp": True},  # BERT
    "documents": {"mixed": False, "nsp": False},  # RoBERTa's "document sentences"
}
try:
    compare(lambda **settings: 0.0, conditions, [0], against="pairs + NSP")
except ValueError as error:
    print(error)

# %% [markdown]
# The condition `pairs` is the step in the middle, and probably BERT's "No NSP". Seen from there, each of the two others changes one
# thing. So your runs can tell the two steps apart, at a small scale.
#
# You need documents for that: sentences that belong together. We build them from the toy world, in a small edition with three topics so
# that the runs stay short. (The grammar is a text file; we cut it after the third topic.) A document is two to four sentences about
# **the same two people**.

# %% tags=["nbval-check-output"]
from nextbert_lite import seeded

with tempfile.TemporaryDirectory() as folder:
    grammar = Path(folder) / "three_topics.toml"
    grammar.write_text("[topics.".join(world.path.read_text(encoding="utf-8").split("[topics.")[:4]), encoding="utf-8")
    small_world = ToyWorld(grammar)
words = small_world.tokenizer()
print(f"{len(small_world.words)} words, topics: {', '.join(small_world.grammar['topics'])}")


def people(sentence):
    """Return the two people that a sentence is about, in no order."""
    m = sentence.meaning
    return frozenset([(m.who, m.who_number), (m.whom, m.whom_number)])


def draw_documents(n_sentences, n, number):
    """Return n documents, each a list of two to four sentences about the same two people."""
    groups = defaultdict(list)
    for sentence in small_world.sample(n_sentences, seed=number):
        groups[people(sentence)].append(sentence)
    groups, generator = list(groups.values()), seeded(number)
    which = torch.randint(len(groups), (n,), generator=generator).tolist()
    sizes = torch.randint(2, 5, (n,), generator=generator).tolist()
    pick = torch.rand(n, 4, generator=generator).tolist()
    return [
        [groups[g][int(u * len(groups[g]))] for u in us[:size]] for g, size, us in zip(which, sizes, pick, strict=True)
    ]


def as_ids(documents):
    """Return each sentence as a list of ids, without [CLS] and [SEP]."""
    return [[ids[1:-1] for ids in words.encode_batch([s.text for s in document])] for document in documents]


documents = draw_documents(20_000, 8_000, seed)
document_ids = as_ids(documents)
for sentence, ids in zip(documents[0], document_ids[0], strict=True):
    print(sentence.text, ids[:4], "…")

# %% [markdown]
# ### Exercise 07.3 · build pairs of segments ●●● · 30 minutes
#
# Write `pair_batch(documents, n, tokenizer, generator, mixed, rate)`. Each document is a list of at least two sentences, and a
# sentence is a list of at least one token id, without special tokens. There are at least two documents. Each of the n rows is made
# like this:
#
# * Draw a document i, all equally likely, and a place to cut it: after sentence 1, 2, …, all but the last, equally likely. **A** is
#   everything before the cut, **B** everything after it. (A *segment* may hold several sentences.)
# * With `mixed=True`, each row is **foreign** with probability 1/2, whatever the other rows are. For a foreign row draw another document j,
#   all documents other than i equally likely, and for j a cut of its own in the same way. A stays what it is, and B is everything after
#   the cut of j. With `mixed=False` no row is foreign.
# * The row is [CLS] A [SEP] B [SEP], with the ids of `tokenizer.cls_id` and `tokenizer.sep_id`. The **token types** are 0 up to and
#   including the first [SEP], then 1.
# * The label `not_next` is 0 where B follows A and 1 where it is foreign, so always 0 with `mixed=False`. This is the convention of Google's
#   code and of Hugging Face's `BertForNextSentencePrediction`. Much teaching code has it the other way round, so look it up whenever you
#   load a model.
#
# Rows are padded on the right to the length of the longest, with `tokenizer.pad_id`, which need not be 0; padding has type 0. Then
# `mask_tokens(ids, tokenizer, rate, generator)` of lesson 05 selects and corrupts tokens, and never a special one.
#
# Return a dict of five tensors: `ids` (corrupted), `labels` and `types`, each int64 and (n, T); `mask`, bool and (n, T), True at real
# tokens; `not_next`, int64 and (n,). Draw everything from `generator` (a `torch.Generator`; the lesson makes its own with
# `seeded(number)`) and nothing from torch's own; in which order does not matter. Leave `documents` as it is. The cell below imports
# `mask_tokens` and `pad`: `pad(lists, pad_id)` returns the padded tensor and its mask.


# %%
from nextbert_lite import mask_tokens, pad


# %% tags=["exercise-07.3", "my-bert-pairs"]
def pair_batch(documents, n, tokenizer, generator, mixed=True, rate=0.15):
    """Return n rows [CLS] A [SEP] B [SEP] as a dict: ids, labels, mask, types, each (n, T), and not_next, (n,)."""

    ### BEGIN SOLUTION
    def draw(least, most):
        return int(torch.randint(least, most + 1, (), generator=generator))

    rows, types, not_next = [], [], []
    for _ in range(n):
        i = j = draw(0, len(documents) - 1)
        cut = start = draw(1, len(documents[i]) - 1)
        foreign = mixed and bool(torch.rand((), generator=generator) < 0.5)
        if foreign:
            j = (i + draw(1, len(documents) - 1)) % len(documents)  # any document but i
            start = draw(1, len(documents[j]) - 1)
        a = [token for sentence in documents[i][:cut] for token in sentence]
        b = [token for sentence in documents[j][start:] for token in sentence]
        rows.append([tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id])
        types.append([0] * (len(a) + 2) + [1] * (len(b) + 1))
        not_next.append(int(foreign))
    ids, mask = pad(rows, tokenizer.pad_id)
    corrupted, labels = mask_tokens(ids, tokenizer, rate, generator)
    types, _ = pad(types)
    return {"ids": corrupted, "labels": labels, "mask": mask, "types": types, "not_next": torch.tensor(not_next)}
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.pairs_of_segments(pair_batch)

# %% [markdown]
# The models of this section read the batches of your function if it passes, and the course's if not:

# %% tags=["nbval-check-output"]
pair_batch = check.mine("07.3", pair_batch)

# %% [markdown]
# Here are two rows of a batch, with what the model sees, and the shapes of the five tensors:

# %%
batch = pair_batch(document_ids, 16, words, seeded(seed, 1), rate=0.3)
for row in (int(batch["not_next"].argmin()), int(batch["not_next"].argmax())):  # a pair of each kind
    n_real = int(batch["mask"][row].sum())
    print(
        "not next" if batch["not_next"][row] else "next",
        "|",
        " ".join(words.tokens(batch["ids"][row, :n_real].tolist())),
    )
    print("types:", *batch["types"][row, :n_real].tolist())
print({name: tuple(tensor.shape) for name, tensor in batch.items()})

# %% [markdown]
# The length of a row gives a little away: a document has at most four sentences, so a row with five or six is always foreign. And a
# foreign B may be about the same two people by chance. Then its label is wrong, as it sometimes is in BERT's data. How often?
# Pairs of people are few enough to count:

# %%
of_document = Counter(people(document[0]) for document in documents)
n_documents = len(documents)
wrong = sum(n * (n - 1) for n in of_document.values()) / (n_documents * (n_documents - 1))
print(f"{len(of_document)} pairs of people; {wrong:.1%} of the foreign pairs are about the same two")
assert wrong < 0.02

# %% [markdown]
# The model is an encoder with token types, the MLM head of lesson 05 and a second head with two outputs on [CLS]. BERT's loss is the
# sum of the two losses.


# %%
class PairModel(nn.Module):
    """Masked words, and whether B follows A."""

    def __init__(self, nsp):
        super().__init__()
        self.encoder = small_bert(words.vocab_size, max_len=96, token_types=2)
        self.head = MLMHead(self.encoder)
        self.next = nn.Linear(self.encoder.config.width, 2)  # 0: next, 1: not next
        self.nsp = nsp

    def heads(self, ids, labels, mask, types):
        """Return the loss of the masked words and the logits of the pairs, (B, 2)."""
        hidden = self.encoder(ids, mask, types)
        selected = labels != IGNORE
        logits = self.head(hidden[selected], self.encoder.tokens.weight)
        return F.cross_entropy(logits, labels[selected]), self.next(hidden[:, 0])

    def loss(self, ids, labels, mask, types, not_next):
        masked_words, logits = self.heads(ids, labels, mask, types)
        return masked_words + F.cross_entropy(logits, not_next) if self.nsp else masked_words


# %% [markdown]
# ### Exercise 07.4 · find the bug ●●○ · 8 minutes
#
# Somebody else has written this loss for the same task, and trains with it. The loss of the words falls as it should. The loss of the
# pairs falls to almost zero within some hundred steps. On new pairs, half of which belong together, the accuracy is 50 % and stays
# there. The heads give log-probabilities, so `NLLLoss` is right. In `word_labels` 0 stands for "not selected"; `not_next` is as above.
#
# ```python
# criterion = nn.NLLLoss(ignore_index=0)
# return criterion(word_log_p.flatten(0, 1), word_labels.flatten()) + criterion(pair_log_p, not_next)
# ```
#
# Return the sum of the two losses as it should be, a tensor with one number, through which both heads can be trained. Each loss is a mean:
# over the selected words, and over all pairs. At least one word is selected. Leave the arguments as they are. (B is the number of texts, T
# their length, V the number of words.)


# %% tags=["exercise-07.4"]
def two_losses(word_log_p, word_labels, pair_log_p, not_next):
    """word_log_p: (B, T, V), word_labels: (B, T), pair_log_p: (B, 2), not_next: (B,) -> the sum of both losses."""
    ### BEGIN SOLUTION
    of_words = nn.NLLLoss(ignore_index=0)(word_log_p.flatten(0, 1), word_labels.flatten())
    return of_words + nn.NLLLoss()(pair_log_p, not_next)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.two_losses(two_losses)

# %% [markdown]
# The bug is from a well-known repository (codertimo/BERT-pytorch, issues 32 and 49). You need no training to see what it does. Take
# four pairs, two of each kind, and a model that is undecided: which way does each loss push its logits? And what do the two losses say
# of a model that gives the same answer to everything, and is sure of it?

# %% tags=["nbval-check-output"]
labels = torch.tensor([0, 1, 0, 1])  # next, not next, next, not next
sure = torch.tensor([-10.0, 10.0]).expand(4, 2)  # always "not next"
for name, ignored in {"right": IGNORE, "with the bug": 0}.items():
    logits = torch.zeros(4, 2, requires_grad=True)
    F.cross_entropy(logits, labels, ignore_index=ignored).backward()
    push = [round(-g, 3) + 0.0 for g in logits.grad[:, 1].tolist()]
    of_sure = F.cross_entropy(sure, labels, ignore_index=ignored)
    print(f"{name:<12}: push towards “not next” {push}, loss of always saying so {of_sure:.2f} nats")
assert logits.grad[labels == 0].abs().max() == 0 and of_sure < 1e-6  # with the bug

# %% [markdown]
# With the bug, pairs that belong together exert no push, and all others push one way. The model that ignores its input is perfect by
# this loss. The loss of the words does not show it.
#
# ### The experiment
#
# How do we judge? Not by the accuracy of NSP: a model that was never asked cannot be good at it, and nobody needs it. We look at what
# a pretrained model is *for*:
#
# * the loss of the masked words, on new documents and on new mixed pairs;
# * two **linear probes** on the [CLS] vector. Can a linear rule read off the *topic* of the document (one of three), from only twelve
#   documents whose topic it was told? And *who acts* in the first sentence, from a thousand? Nothing is masked then.
#
# The probe is a least-squares fit of the vectors to 0 and 1 for each answer; the answer with the highest score counts. A little of the
# identity matrix (ridge) keeps the fit from exploding where twelve documents cannot determine 65 numbers. A probe alone says little,
# because a linear rule finds something in *any* vectors (Hewitt and Liang 2019). So there are two controls: always giving the
# commonest answer, and a model that was never trained.


# %%
def probe(vectors, answers, n_train, draws):
    """Fit a linear rule by least squares on n_train vectors of (N, C); return its accuracy on the others."""
    names = sorted(set(answers))
    y = torch.tensor([names.index(answer) for answer in answers])
    x = F.pad(vectors.double(), (0, 1), value=1.0)  # a last feature of ones: the bias
    right = []
    for draw in range(draws):  # the mean over so many choices of the n_train vectors
        order = torch.randperm(len(x), generator=seeded(7, draw))
        train, test = order[:n_train], order[n_train:]
        target = F.one_hot(y[train], len(names)).double()
        weights = torch.linalg.solve(x[train].T @ x[train] + 1e-2 * torch.eye(x.shape[1]), x[train].T @ target)
        right.append(((x[test] @ weights).argmax(1) == y[test]).double().mean().item())
    return sum(right) / draws


# %% [markdown]
# All measures of one model, on new documents that no run has seen. (A few of their sentences also occur in training documents.)

# %%
new_documents = draw_documents(6_000, 2_000, 10**6)
new_ids = as_ids(new_documents)
topics = [small_world.frames[document[0].frame].topic for document in new_documents]
who = [document[0].meaning.who for document in new_documents]


@torch.no_grad()
def judge(model):
    """Return the measures of a pair model, on 2,000 new documents."""
    result = {}
    for name, mixed in (("mlm_documents", False), ("mlm_mixed", True)):
        batch = pair_batch(new_ids, 2000, words, seeded(10**6, int(mixed)), mixed)
        not_next = batch.pop("not_next")
        masked_words, logits = model.heads(**batch)
        result[name] = masked_words.item()
    result["nsp"] = (logits.argmax(1) == not_next).double().mean().item()
    rows = []
    for first, *rest in new_ids:
        rows.append([words.cls_id, *first, words.sep_id, *(t for s in rest for t in s), words.sep_id])
    ids, mask = pad(rows, words.pad_id)  # nothing masked, as when the vectors are used
    types = ((ids == words.sep_id).cumsum(1) - (ids == words.sep_id).long() > 0).long() * mask
    cls = model.encoder(ids, mask, types)[:, 0]
    result["topic"] = probe(cls, topics, n_train=12, draws=20)
    result["who_acts"] = probe(cls, who, n_train=1000, draws=3)
    return result


chance = {name: max(Counter(a).values()) / len(a) for name, a in (("topic", topics), ("who_acts", who))}
print({name: f"the commonest answer is right in {p:.0%}" for name, p in chance.items()})

# %% [markdown]
# And one run. The seed fixes the initial weights and the documents. (30 % of the words are selected in training, because the model
# learns faster then; the rate is not what is compared.) BERT's condition runs live, which takes some time.


# %%
def train_pairs(seed, mixed, nsp, steps=800):
    """Train one run; return the tokens that it read and its measures."""
    torch.manual_seed(seed)
    model, tokens = PairModel(nsp), 0

    def batches(step):
        return pair_batch(document_ids, 32, words, seeded(seed, step), mixed, rate=0.3)

    if steps:
        tokens = sum(fit(model, batches, steps, lr=4e-3, warmup=50, seed=seed).tokens)
    return {"tokens": tokens, **judge(model.cpu().eval())}


results_nsp = []
for name in conditions if every_row else ("pairs + NSP",):
    row = {"seed": seed, "run": name, **train_pairs(seed, **conditions[name])}
    results_nsp.append(row)
    print(f"{name}: {row['tokens']:,} tokens read; masked words {row['mlm_documents']:.2f} nats on documents, ", end="")
    print(f"{row['mlm_mixed']:.2f} on mixed pairs; next or not {row['nsp']:.0%} right")
results_nsp.append({"seed": seed, "run": "untrained", **train_pairs(seed, True, False, steps=0)})
assert results_nsp[0]["nsp"] > 0.65 or every_row

# %% [markdown]
# All conditions are in the stored table, with five seeds. Before you look: which step changes the loss on documents more, taking the NSP loss
# away, or taking the foreign segments out of the input?

# %% tags=["nbval-check-output"]
table = stored_table("07_nsp")  # `results_nsp`, all conditions
seeds = sorted({int(r["seed"]) for r in table})


def stored_pairs(seed, measure="mlm_documents", **settings):
    """Return one stored measure of the run with these settings."""
    name = next((n for n, c in conditions.items() if c == settings), "untrained")
    return next(float(r[measure]) for r in table if r["run"] == name and int(r["seed"]) == seed)


steps_of = {}
for measure in ("mlm_documents", "mlm_mixed", "topic", "who_acts"):
    found = compare(lambda seed, m=measure, **s: stored_pairs(seed, m, **s), conditions, seeds, against="pairs")
    steps_of[measure] = found
    for name, (mean, error) in found.items():
        each = [
            stored_pairs(s, measure, **conditions[name]) - stored_pairs(s, measure, **conditions["pairs"])
            for s in seeds
        ]
        print(f"{measure:<13} {name:<11} minus pairs: {mean:+.3f} ± {error:.3f}  ", *(f"{d:+.3f}" for d in each))
    print(f"{measure:<13} untrained  ", *(f"{stored_pairs(s, measure):.2f}" for s in seeds))

# %% [markdown]
# As a picture: the first two panels show the paired differences of the loss, a mark for each seed. The last shows what the probe for
# the topic finds.

# %% tags=["hide-input"]
# still from the stored `results_nsp`
fig, axes = plots.figure(1, 3, size=(9.4, 3.0))
titles = {"mlm_documents": "new documents", "mlm_mixed": "new mixed pairs"}
for ax, (measure, title) in zip(axes, titles.items(), strict=False):
    for y, (name, colour) in enumerate((("pairs + NSP", plots.RED), ("documents", plots.BLUE))):
        each = [
            stored_pairs(s, measure, **conditions[name]) - stored_pairs(s, measure, **conditions["pairs"])
            for s in seeds
        ]
        ax.plot(each, [-y] * len(each), "o", color=colour, alpha=0.7)
        ax.plot(sum(each) / len(each), -y, "|", color="black", markersize=22)
    ax.axvline(0, color=plots.GREY, linestyle=":")
    ax.set_title(title, fontsize=10, weight="normal")
    ax.set(xlabel="difference from pairs (nats)", ylim=(-1.6, 0.6))
axes[0].set_yticks([0, -1], ["+ NSP loss", "whole documents"])
axes[1].set_yticks([])
colours = {"pairs + NSP": plots.RED, "pairs": plots.ORANGE, "documents": plots.BLUE, "untrained": plots.GREY}
for y, (name, colour) in enumerate(colours.items()):
    values = [stored_pairs(s, "topic", **conditions.get(name, {})) for s in seeds]
    axes[2].plot(values, [-y] * len(values), "o", color=colour, alpha=0.7)
axes[2].axvline(chance["topic"], color=plots.GREY, linestyle=":")
axes[2].set_yticks([-y for y in range(4)], list(colours))
axes[2].set(xlabel="accuracy", xlim=(0.25, 1.03))
axes[2].set_title("topic, read off [CLS]", fontsize=10, weight="normal")
fig.suptitle("The NSP loss costs a little; whole documents mislead on mixed pairs", x=0.01, ha="left")
plots.show(
    fig,
    alt="Differences from the condition pairs: the NSP loss adds a few hundredths of a nat; whole documents add far more on mixed pairs and little on documents. Topic: trained models near 1, untrained near one half.",
)
read = [int(r["tokens"]) for r in table if r["run"] != "untrained"]
assert max(read) / min(read) < 1.03  # all read about as many tokens
for row in results_nsp[:1] if not every_row else []:  # the live run agrees with the stored ones
    stored_losses = [stored_pairs(s, **conditions["pairs + NSP"]) for s in seeds]
    assert min(stored_losses) - 0.15 < row["mlm_documents"] < max(stored_losses) + 0.15
for s in seeds:  # in each seed
    assert stored_pairs(s, **conditions["pairs + NSP"]) > stored_pairs(s, **conditions["pairs"])
mean, error = steps_of["mlm_documents"]["documents"]
assert len(seeds) == 5 and mean < -2.8 * error
assert steps_of["mlm_mixed"]["documents"][0] > 2 * abs(steps_of["mlm_documents"]["documents"][0])
of_topic = {name: [stored_pairs(s, "topic", **conditions.get(name, {})) for s in seeds] for name in colours}
assert min(of_topic["pairs + NSP"] + of_topic["pairs"] + of_topic["documents"]) > max(of_topic["untrained"]) + 0.1
of_who = {name: [stored_pairs(s, "who_acts", **conditions.get(name, {})) for s in seeds] for name in colours}
for trained in list(zip(*of_who.values(), strict=True)):  # one tuple a seed, the untrained model last
    assert max(trained[:3]) < trained[3] and min(trained) > 2 * chance["who_acts"]

# %% [markdown]
# What do you see?
#
# * **The NSP loss** makes the masked words harder to predict, in each of the five seeds, mostly by some hundredths of a nat: the
#   model has a second thing to learn, with the same weights.
# * **The input** decides what a model is good at. On mixed pairs the model that has seen only whole documents is clearly worse, because
#   it trusts the second segment and is misled by a foreign one. On documents its purer input lowers the loss, by hundredths only:
#   the mean is just beyond the 2.8 standard errors that five seeds need, and one seed of the five says the opposite.
# * **The [CLS] vector.** Without NSP no loss reads [CLS] directly, but predicting the masked words trains it as a side effect. A linear
#   rule finds the topic in the vectors of every trained model, with NSP or without, and much less often in those of the untrained one.
# * **Who acts.** Every model is far above the commonest answer (6 %), and the *untrained* model is the best of all. After training,
#   a linear rule finds less about single words in [CLS] than before. So a probe that finds something has not shown that training put it there: without
#   the untrained row you would have reported a result.
#
# Who was right, then? In this small world, taking the NSP loss away and keeping the pairs does no harm to the masked words. Changing the
# input makes the model better on one kind of text and worse on the other. So the two steps are not the same, and papers that take
# different ones may well disagree, as the authors of RoBERTa suspect. The contradiction is not solved by this: BERT's largest loss was on QNLI, where two texts must be
# compared, which is what NSP trains and what none of our measures tests.

# %% [markdown]
# ## 4. How large a batch?
#
# BERT took 256 sequences a step, RoBERTa 8,192. At the same number of tokens a batch 32 times as large leaves 1/32 of the steps.
# What do you lose, and what do you gain?
#
# A gradient over a batch of B texts is the true gradient plus noise, and the noise's variance falls as 1/B. As long as the noise
# dominates, twice the batch makes the step twice as good: half the steps, the same text. Once the noise is small, a larger batch
# gives nearly the same step and only costs more text. The size at which the two balance is the **critical batch size**. McCandlish
# et al. 2018 estimate it by the **gradient noise scale**,
#
# $$B_{\text{noise}} = \frac{\operatorname{tr} \Sigma}{|G|^2}$$
#
# where G is the true gradient and Σ the covariance matrix of one text's gradient; its trace, tr Σ, is the sum of the variances of all
# components. Their law for the steps S and the examples E needed to reach a given loss is $(S/S_{\min} - 1)(E/E_{\min} - 1) = 1$, with
# the fewest steps $S_{\min}$ (with huge batches) and the fewest examples $E_{\min}$ (with tiny ones): a larger batch always saves steps,
# and *never* saves text.
#
# Both numbers can be estimated from the gradients of n batches: their variance, and the squared length of their mean, from which
# the noise that is left in the mean must be subtracted. Guess: is the critical batch size larger at the start of training or at
# the end?

# %%
from nextbert_lite import fresh_batches, load

new_batches = fresh_batches(small_world.sample_ids, words, batch_size=200, seed=10**6)


def noise_scale(model, batches, size, n=32):
    """Estimate the gradient noise scale, in sentences, from the gradients of n batches of this size."""
    gradients = []
    for step in range(n):
        model.zero_grad()
        model.loss(**batches(step)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    gradients = torch.stack(gradients).double()  # (n, parameters)
    noise = gradients.var(0).sum()  # of a batch's gradient: that of one sentence is `size` times as large
    signal = gradients.mean(0).square().sum() - noise / n
    return (size * noise / signal).item()


def train_batches(seed, size, lr, sentences=32_768):
    """Train on so many new sentences in batches of this size; return the model, the steps and the held-out loss."""
    torch.manual_seed(seed)
    model = MaskedLanguageModel(small_bert(words.vocab_size))
    steps = sentences // size
    batches = fresh_batches(small_world.sample_ids, words, size, seed=seed)
    fit(model, batches, steps, lr=lr, warmup=steps // 10, seed=seed)
    return model.cpu(), steps, held_out_loss(model, new_batches, 20)


# %% [markdown]
# Here is one run, live, in the small world and with new sentences drawn for every batch. Some come again by chance, with other masks, but
# there is no fixed set to memorise:

# %%
rates = {16: (1e-3, 2e-3, 4e-3), 64: (2e-3, 4e-3, 8e-3), 256: (4e-3, 8e-3, 1.6e-2)}
results_batch = []
grid = [(size, lr) for size, of_size in rates.items() for lr in of_size]
for size, lr in grid if every_row else [(64, 4e-3)]:
    trained, steps, held = train_batches(seed, size, lr)
    results_batch.append({"seed": seed, "batch": size, "lr": lr, "steps": steps, "held_out": held})
    print(f"batches of {size}, rate {lr:g}: {steps:,} steps, held out {held:.2f} nats, perplexity {math.exp(held):.2f}")

# %% [markdown]
# Here is the noise scale of this run's model before training and after it, and that of `toy-small`, the course's model of the large
# world, which was trained until its loss was close to the floor, the lowest loss that any model can reach in this language:

# %%
torch.manual_seed(seed)
start = MaskedLanguageModel(small_bert(words.vocab_size))
of_small, of_large = (
    fresh_batches(w.sample_ids, t, 64, seed=seed + 10**6) for w, t in ((small_world, words), (world, tokenizer))
)
stages = {"before training": (start, of_small), "after this run": (trained, of_small)}
# `trained` is the model of the run in `results_batch`, above
stages["near the floor"] = (load("toy-small").model, of_large)
scales = {}
for name, (model, batches) in stages.items():
    scales[name] = noise_scale(model.eval(), batches, 64)
    print(f"{name:<16} loss {held_out_loss(model, batches, 20):.2f} nats, noise scale {scales[name]:>9,.0f} sentences")
first, middle, last = scales.values()
assert 0 < first < 64 and all(scale > 10 * first or scale < 0 for scale in (middle, last))  # below 0: no signal left

# %% [markdown]
# At the start every text says the same thing ("learn which words are frequent"), so a few dozen sentences give the direction. The
# better the model, the more the texts disagree. (The last number is rough: near the floor the signal is a small difference of two
# large numbers, and with other batches it may be twice as large.) So the critical batch size grows in training, as the paper found; it depends on the
# task and on the loss already reached, and Zhang et al. 2024 found that it grows with the amount of text read and hardly with the size
# of the model. (The formula is derived for plain gradient descent. For Adam it is a guide, not a law.)
#
# Now the comparison at equal text. You cannot compare two batch sizes at *one* learning rate, because each has its own best one. So
# there are three rates for each of three sizes, 32,768 sentences in every run, three seeds, stored. Guess: which size takes the
# largest rate, and which has the lowest loss?

# %% tags=["nbval-check-output"]
table = stored_table("07_batch")  # `results_batch` of three seeds
by_batch = {  # size -> (rates, seeds)
    size: torch.tensor(
        [[float(r["held_out"]) for r in table if (int(r["batch"]), float(r["lr"])) == (size, lr)] for lr in rates[size]]
    )
    for size in rates
}
best = {size: losses.mean(1).argmin().item() for size, losses in by_batch.items()}  # a rate for all seeds
for size, losses in by_batch.items():
    print(f"batch {size:>3}, {32_768 // size:>5,} steps: best rate {rates[size][best[size]]:g}", end=", held out ")
    print(*(f"{loss:.2f}" for loss in losses[best[size]].tolist()))
sizes = {f"batch {size}": {"size": size} for size in rates}
steps_of_batch = compare(
    lambda seed, size: by_batch[size][best[size], seed].item(), sizes, [0, 1, 2], against="batch 64"
)
print({name: f"{mean:+.3f} ± {error:.3f}" for name, (mean, error) in steps_of_batch.items()})

# %% [markdown]
# All 27 runs in one picture. Look for losses that many runs share:

# %% tags=["hide-input"]
every = torch.cat([losses.flatten() for losses in by_batch.values()])
plateau = every[(every > 1.15) & (every < 1.27)]
fig, ax = plots.figure()
ax.axhspan(1.15, 1.27, color=plots.GREY, alpha=0.2)
ax.text(0.0105, 1.155, "plateau", color=plots.GREY)
for (size, losses), marker, colour in zip(
    by_batch.items(), "o^s", (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True
):
    ax.plot(rates[size], losses.mean(1), marker + "-", color=colour, label=f"{size}: {32_768 // size:,} steps")
    ax.plot(rates[size], losses, marker, color=colour, alpha=0.35, markersize=4)
ax.set_xscale("log", base=2)
ticks = sorted({lr for of_size in rates.values() for lr in of_size})
ax.set_xticks(ticks, [f"{lr:g}" for lr in ticks])
ax.set(xlabel="largest learning rate (log scale)", ylabel="held-out loss (nats per selected token)")
ax.set_title("More than half of the runs end on one plateau,\nsome of every batch size")
ax.legend(title="batch size")
plots.show(
    fig,
    alt="Losses of three batch sizes at three rates each: many runs of all sizes lie in one band near 1.2, a few of the largest batch just above it, the others below.",
)
print(f"{len(plateau)} of {len(every)} runs end on the plateau")
for row in results_batch if not every_row else []:
    stored_losses = by_batch[64][1]
    assert stored_losses.min() - 0.3 < row["held_out"] < stored_losses.max() + 0.3
assert len(plateau) > len(every) / 2
assert all((1.15 < of_size).logical_and(of_size < 1.27).any() for of_size in by_batch.values())
assert [size for size, of_size in by_batch.items() if (of_size >= 1.27).any()] == [256]
assert all(abs(mean) < 4.3 * error for mean, error in steps_of_batch.values())
assert set(best.values()) == {1}  # the middle rate of each grid
assert rates[16][best[16]] < rates[256][best[256]]

# %% [markdown]
# The small marks are runs, the lines means. The stored rows show two things. The best rate *on this grid* grows with the batch; its
# steps are a factor of two, so it says no more than "larger". (Two rules are in use when the batch grows by a factor of k: multiply
# the rate by k for plain gradient descent, by √k for Adam. Malladi et al. 2022 derive the second. The
# best rates here fit it, but that is no evidence: each is the middle one of three, and the middles follow that rule.) And the
# smaller the batch, the lower the mean loss. But you should not trust that order: neither difference reaches the 4.3 standard errors that three seeds need.
#
# And did the pairing of rule 4 pay? Take three of the comparisons above, and work out the error once from the differences within a
# seed, and once as if the two conditions had used different seeds: √(s₁²/n + s₂²/n), with the standard deviation of each.

# %% tags=["nbval-check-output"]
sides = {  # a stored table, what was measured, the condition and the one that it is compared with
    "static ×1, 256 sentences": (
        "07_masking",
        "held_out",
        {"masks": "static ×1", "sentences": "256"},
        {"masks": "dynamic", "sentences": "256"},
    ),
    "NSP loss, on documents": ("07_nsp", "mlm_documents", {"run": "pairs + NSP"}, {"run": "pairs"}),
    "batch 256, not 64": ("07_batch", "held_out", {"batch": "256", "lr": "0.008"}, {"batch": "64", "lr": "0.004"}),
}
ratios = {}
for name, (file, measure, *two) in sides.items():
    stored = stored_table(file)
    a, b = ([float(r[measure]) for r in stored if settings.items() <= r.items()] for settings in two)  # by seed
    within = statistics.stdev(x - y for x, y in zip(a, b, strict=True)) / math.sqrt(len(a))
    apart = math.sqrt((statistics.variance(a) + statistics.variance(b)) / len(a))
    ratios[name] = apart / within
    print(f"{name:<25} error within a seed {within:.3f}, as if apart {apart:.3f}")
static, nsp_loss, batch_size = ratios.values()
assert static < 1.2 and nsp_loss < 1.2 and batch_size > 2

# %% [markdown]
# For the batch sizes the error within a seed is several times smaller: a lucky seed was lucky with each size. For the masks and the
# NSP loss it is hardly smaller: whatever the two runs of a seed shared did not move both
# losses the same way. (With so few seeds the errors themselves are rough.) Pairing is still right, because it costs nothing
# and lets you look at each seed's difference. But do not count on it to save seeds.
#
# The grey band shows why the order is in doubt. More than half of the runs end in it, of all three sizes. Some with the
# largest batch have not come down to it yet, and the others lie below. It looks like the
# plateau of lesson 06, on which a model knows topics but no agreement yet. So what is compared is which runs left the plateau *in
# time*, and a run that left it a little too late looks bad whatever its batch. A comparison early in training says little about
# the end of it.
#
# **Beside the paper.** Its Table 3 holds the amount of text equal too:
#
# | batch | steps | rate | perplexity, held out | MNLI-m | SST-2 |
# |---|---|---|---|---|---|
# | 256 | 1M | 1e-4 | 3.99 | 84.7 | 92.7 |
# | 2K | 125K | 7e-4 | 3.68 | 85.2 | 92.9 |
# | 8K | 31K | 1e-3 | 3.77 | 84.6 | 92.8 |
#
# Larger batches took larger rates there as well. That 2K is *better* than 256 at equal text cannot come from the critical batch size:
# by the law above, a larger batch never saves text. It is more likely a matter of tuning (the paper gives each size its own rate, and
# sets Adam's β₂ to 0.98 because that made large batches more stable). The reason for going on with 8K is in section 4.3: a large
# batch is easy to spread over many GPUs. Recent work turns the question round. Marek et al. 2025 train with batches down to a single
# text, stably and no worse per operation, once Adam's β₂ is scaled so that its memory spans the same number of *tokens*.

# %% [markdown]
# ## 5. WordPiece or byte-level BPE?
#
# WordPiece has pieces of words, built from the characters of its training text; a word with any other character becomes [UNK].
# Byte-level BPE (lesson 01) builds its pieces from the 256 bytes, so nothing is ever unknown. To see clearly what an unknown word
# does to a comparison, we take the extreme: a list of whole **words** against byte-level BPE with equally many tokens, on the
# documentation corpus. Both have to encode the same text, so each text is put into one form first: 24 words and signs with one space
# between them.

# %%
from nextbert_lite import load_docs, train_bpe, word_level

docs = load_docs()


def pieces_of(documents, size=24, longest=160):
    """Return texts of `size` words and signs, with one space between; those of more than `longest` bytes are left out."""
    texts = []
    for document in documents:
        parts = re.findall(r"\w+|[^\w\s]+", document.text)
        texts += [" ".join(parts[i : i + size]) for i in range(0, len(parts) - size + 1, size)]
    return [text for text in texts if len(text.encode()) <= longest]


train_texts, new_texts = pieces_of(docs.train), pieces_of(docs.validation)
counts = Counter(word for text in train_texts for word in text.split())
print(new_texts[0])

# %% [markdown]
# What proportion of the words of new text is unknown, if the vocabulary has the V most frequent words of the training text? Guess for
# V = 2,048, and for 16,384.

# %%
new_words = [word for text in new_texts for word in text.split()]
vocabulary_sizes = [256 * 2**i for i in range(7)]
unknown = []
for V in vocabulary_sizes:
    known = {word for word, _ in counts.most_common(V - 5)}  # five ids are special tokens
    unknown.append(sum(word not in known for word in new_words) / len(new_words))
never = sum(word not in counts for word in new_words) / len(new_words)
bpe = train_bpe(train_texts, vocab_size=2048)
strange = "Łódź, 東京, naïve 🦀, nextbert_lite"
assert bpe.unk_id not in bpe.encode(strange) and bpe.decode(bpe.encode(strange)) == strange
assert not any(bpe.unk_id in ids for ids in bpe.encode_batch(new_texts))
print(
    dict(zip(vocabulary_sizes, (round(p, 3) for p in unknown), strict=True)), "never seen in training:", round(never, 3)
)

# %% [markdown]
# For the BPE, zero is no estimate: every byte is a token, so even a word like "🦀" has an encoding.

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.0))
ax.plot(vocabulary_sizes, unknown, "o-", color=plots.RED, label="words")
ax.plot(vocabulary_sizes, [0.0] * len(unknown), "s-", color=plots.BLUE, label="byte-level BPE")
ax.axhline(never, color=plots.GREY, linestyle=":", label="words never seen in training")
ax.set_xscale("log", base=2)
ax.set_xticks(vocabulary_sizes, [f"{V:,}" for V in vocabulary_sizes])
ax.set(xlabel="vocabulary size V (log scale)", ylabel="proportion of unknown words", ylim=(-0.01, None))
ax.set_title("No list of words is long enough for new text")
ax.legend()
plots.show(
    fig,
    alt="The proportion of unknown words falls as the vocabulary grows but not to zero; for BPE it is zero throughout.",
)
assert all(a > b for a, b in zip(unknown, unknown[1:], strict=False)) and unknown[-1] > never > 0.01

# %% [markdown]
# ### A measure that is the same for both
#
# Which tokenizer is *better* for a model? You cannot tell from the loss per token, because a token is a whole word for the one and a
# part of a word for the other. A fair unit does not depend on the tokenizer. Every text has bytes, so take **bits per byte**: how
# many bits the text takes when it is compressed with the model, for each byte that it has. (Uncompressed it takes 8.) A code that spends
# −log₂ P bits on a text of probability P exists, and none does better on average; so the model's loss, in bits, is that number.
#
# That needs a model which gives a whole text a probability. A masked model does not: it guesses each masked token with all other
# tokens in view, and the pieces of one word give each other away. So in this section the encoder reads from left to right, with the
# causal mask of lesson 02; then the losses of the tokens add up to $-\ln P(\text{text})$, in nats.

# %% [markdown]
# ### Exercise 07.5 · bits per byte ●○○ · 8 minutes
#
# You have the mean loss per token of a text in nats, the number of tokens that the mean was taken over, and the text, a `str`. Return its
# bits per byte, a number, not rounded.
# One nat is 1 / ln 2 bits; bytes are those of the text's UTF-8 encoding. The text is not empty.


# %% tags=["exercise-07.5"]
def bits_per_byte(nats_per_token, n_tokens, text):
    """Return the bits per byte of a text (a str), a float."""
    ### BEGIN SOLUTION
    return nats_per_token * n_tokens / math.log(2) / len(text.encode())
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.bits_per_byte(bits_per_byte)

# %% [markdown]
# ### What does an unknown word cost?
#
# Here a word model cheats without meaning to. Where the text says something rare, it may write [UNK], one frequent token that is easy
# to predict. But [UNK] is not what the text said. To be able to say it, something must **spell** the word behind it. What is that
# worth? Three prices:
#
# * **free**, the flattering one, which is what the loss per token uses;
# * **8 bits a byte**, and one more byte for the end of the word: no knowledge of spelling at all;
# * **a speller**: counts of byte pairs in the rare words of the training text, which know which byte tends to follow which.
#
# The speller predicts byte b after byte a by $(n_{ab} + 5\,p_b) / (n_a + 5)$: the counted proportion, mixed with how frequent b is
# anywhere ($p_b$), as if that had been seen five times. Otherwise a pair that was never seen would have the probability 0 and an
# infinite price.


# %%
class Speller:
    """The price of a word in bits: each byte after the one before it, then an end."""

    def __init__(self, counts):
        self.pairs, self.firsts, self.seconds = Counter(), Counter(), Counter()
        for word, n in counts.items():
            for a, b in self.steps(word):
                self.pairs[a, b] += n
                self.firsts[a] += n
                self.seconds[b] += n
        self.total = self.seconds.total()

    def steps(self, word):
        code = [256, *word.encode(), 256]  # 256 marks both ends
        return zip(code, code[1:], strict=False)

    def p(self, a, b):
        anywhere = (self.seconds[b] + 1) / (self.total + 257)
        return (self.pairs[a, b] + 5 * anywhere) / (self.firsts[a] + 5)

    def bits(self, word):
        return -sum(math.log2(self.p(a, b)) for a, b in self.steps(word))


listed = {word for word, _ in counts.most_common(2048 - 5)}
speller = Speller({word: n for word, n in counts.items() if word not in listed})
for word in ("broadcasting", "xqzzkv"):
    print(f"{word:<13} in bytes {8 * (len(word) + 1)} bits, spelled {speller.bits(word):.0f} bits")
sums = [sum(speller.p(a, b) for b in range(257)) for a in (256, ord("q"))]
assert all(abs(total - 1) < 1e-9 for total in sums)  # a code: its probabilities sum to 1

# %% [markdown]
# The model that reads from left to right, and the runs: the same texts in the same order for both.


# %%
class LeftToRight(nn.Module):
    """An encoder with a causal mask that predicts each next token."""

    def __init__(self, vocab_size):
        super().__init__()
        self.encoder = small_bert(vocab_size, max_len=192)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def nats(self, ids):
        """ids: (B, T) -> the loss of each real token after [CLS], and which token it was."""
        real = ids != self.encoder.config.pad_id
        T = ids.shape[1]
        causal = torch.ones(T, T, dtype=torch.bool, device=ids.device).tril() & real[:, None]  # (B, T, T)
        hidden = self.encoder(ids, causal)[:, :-1]
        logits = F.linear(hidden[real[:, 1:]], self.encoder.tokens.weight, self.bias)
        return F.cross_entropy(logits, ids[:, 1:][real[:, 1:]], reduction="none"), ids[:, 1:][real[:, 1:]]

    def loss(self, ids, mask):
        return self.nats(ids)[0].mean()


def train_reader(kind, V, lr, steps=400):
    """Train on words or BPE with V tokens; return the tokenizer and the model."""
    if kind == "words":
        reader = word_level(word for word, _ in counts.most_common(V - 5))
    else:
        reader = train_bpe(train_texts, V)
    train = reader.encode_batch(train_texts)

    def batch(step):
        rows = torch.randint(len(train), (16,), generator=seeded(seed, step)).tolist()
        ids, mask = pad([train[row] for row in rows], reader.pad_id)
        return {"ids": ids, "mask": mask}

    torch.manual_seed(seed)
    model = LeftToRight(reader.vocab_size)
    fit(model, batch, steps, lr=lr, warmup=150, seed=seed)
    return reader, model.cpu()


# %% [markdown]
# To judge a model, add up the losses of a thousand new texts, in bits, add the price of every [UNK], and divide by the bytes. One more
# number is needed for fairness. Every text here has exactly 24 words and signs, so the word model can know for certain where a text ends, while
# the BPE model has to guess that. `end` is what the ends of the texts cost, in bits per byte.


# %%
@torch.no_grad()
def judge_reader(kind, V, reader, model):
    """Return tokens, loss per token, bits per byte at three prices of an unknown word, and the price of the ends."""
    texts = new_texts[:1000]
    encoded = reader.encode_batch(texts)
    each = [model.nats(pad(encoded[i : i + 50], reader.pad_id)[0]) for i in range(0, 1000, 50)]
    nats, tokens = (torch.cat(parts) for parts in zip(*each, strict=True))
    known = {word for word, _ in counts.most_common(V - 5)}
    rare = [word for text in texts for word in text.split() if word not in known] if kind == "words" else []
    assert len(rare) == int((tokens == reader.unk_id).sum())
    speller = Speller({word: n for word, n in counts.items() if word not in known})
    bits, n_bytes = nats.double().sum().item() / math.log(2), sum(len(text.encode()) for text in texts)
    return {
        "tokens": len(tokens),
        "loss": nats.mean().item(),
        "free": bits / n_bytes,
        "eight": (bits + sum(8 * (len(word.encode()) + 1) for word in rare)) / n_bytes,
        "speller": (bits + sum(speller.bits(word) for word in rare)) / n_bytes,
        "end": nats[tokens == reader.sep_id].double().sum().item() / math.log(2) / n_bytes,
    }


# %% [markdown]
# Two vocabulary sizes and two learning rates for each kind are stored. Here is one of these comparisons live:

# %%
kinds = ("words", "BPE")
results_tokenizers = []
grid = [(1024, 5e-3), (1024, 1e-2), (2048, 5e-3), (2048, 1e-2)]
for V, lr in grid if every_row else [(2048, 1e-2)]:
    for kind in kinds:
        row = judge_reader(kind, V, *train_reader(kind, V, lr))
        results_tokenizers.append({"seed": seed, "tokenizer": kind, "vocab_size": V, "lr": lr, **row})
        print(
            f"{kind:<5} V = {V:,}: {row['tokens']:,} tokens, loss {row['loss']:.2f} nats per token; bits per byte ",
            end="",
        )
        print(
            f"{row['free']:.2f} (free), {row['eight']:.2f} (8 bits), {row['speller']:.2f} (speller); ends {row['end']:.3f}"
        )
if not every_row:
    by_words, by_bpe = results_tokenizers
    assert by_words["loss"] < by_bpe["loss"] - 0.5  # the loss per token says: words, clearly
    assert by_words["eight"] > by_bpe["eight"] + 0.3  # spelled byte by byte: BPE, clearly
    assert by_words["end"] < 0.003 < by_bpe["end"] < 0.05

# %% [markdown]
# The same two models, three verdicts. All stored runs, each kind with the better of its two rates:

# %% tags=["nbval-check-output"]
table = stored_table("07_tokenizers")


def stored_reader(seed, kind, V, price):
    """Return the stored bits per byte at this price, with the rate that is better on average."""
    rows = [r for r in table if r["tokenizer"] == kind and int(r["vocab_size"]) == V]
    better = min(("0.005", "0.01"), key=lambda lr: sum(float(r["loss"]) for r in rows if r["lr"] == lr))
    return next(float(r[price]) for r in rows if r["lr"] == better and int(r["seed"]) == seed)


prices = {"free": "free", "speller": "with a speller", "eight": "8 bits a byte"}
ahead = {}
for V in (1024, 2048):
    for price, title in prices.items():
        two = {kind: {"kind": kind, "V": V, "price": price} for kind in kinds}
        ahead[V, price], error = compare(stored_reader, two, [0, 1, 2], against="BPE")["words"]
        print(f"V = {V:,}, unknown words {title:<15} words - BPE = {ahead[V, price]:+.3f} ± {error:.3f} bits per byte")
    assert ahead[V, "free"] < -0.5 and ahead[V, "eight"] > 0.5 and abs(ahead[V, "speller"]) < 0.15
assert ahead[1024, "speller"] > 0 > ahead[2048, "speller"]

# %% [markdown]
# The same as a picture, with a mark for each seed:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.4, 3.2))
named = [(V, price) for V in (1024, 2048) for price in prices]
for y, (V, price) in enumerate(named):
    for kind, marker, colour in zip(kinds, "os", (plots.RED, plots.BLUE), strict=True):
        values = [stored_reader(s, kind, V, price) for s in (0, 1, 2)]
        label = {"words": "words", "BPE": "byte-level BPE"}[kind] if y == 0 else None
        ax.plot(values, [-y] * 3, marker, color=colour, alpha=0.8, label=label)
ax.set_yticks([-y for y in range(6)], [f"V = {V:,}, unknown {prices[price]}" for V, price in named])
ax.set(xlabel="bits per byte of new text", xlim=(0, None))
ax.set_title("The price of an unknown word decides who wins")
ax.legend(loc="lower left")
plots.show(
    fig, alt="Bits per byte of words and BPE: words far lower if unknown words are free, far higher at 8 bits a byte."
)
for row in results_tokenizers if not every_row else []:
    stored_bits = [stored_reader(s, row["tokenizer"], 2048, "speller") for s in (0, 1, 2)]
    assert min(stored_bits) - 0.1 < row["speller"] < max(stored_bits) + 0.1
    assert ahead[2048, "speller"] + row["end"] < 0  # the sign stays when nobody pays for the ends of the texts

# %% [markdown]
# Go through the three prices.
#
# * **Free**, the word model looks far better, as it did in the loss per token. The unknown words flatter it: it is paid for saying
#   "something rare", and never says what.
# * **At 8 bits a byte** it looks far worse. That overcharges it, because most words are easier to spell than that.
# * **With a speller** the two are close: the stored rows show words a little behind with the short list and a little ahead with the
#   long one. About 0.02 of it is an artefact of our texts: BPE pays for their ends and words do not (`end`, above). Take that off, and
#   the signs stay.
#
# So this experiment does not say that byte-level BPE compresses better. A word list *with a speller* is a fair rival here. But look
# at what you have built: a second model, and a rule for when it speaks. Byte-level BPE has the speller inside, one vocabulary, one
# loss and no [UNK]. (It also reads more tokens for the same text, so each text costs more work. We held the texts equal, because
# tokens of different tokenizers do not compare.)
#
# **Beside the paper.** There is no table. "Early experiments revealed only slight differences between these encodings", with byte-level
# BPE "slightly worse" on some tasks; the authors took it because it can encode any text (section 4.4). WordPiece has pieces to spell
# with and is no list of words, so the difference that they could see was smaller than ours. What carries over is the accounting:
# never compare losses per token across tokenizers, and never let [UNK] go free. Models that really read bytes came later: ByT5 (2021)
# with a plain Transformer, the Byte Latent Transformer (2024) with groups of bytes whose length depends on how predictable they are.

# %% [markdown]
# ## 6. What the field did since
#
# * **Longer training.** ModernBERT (Warner et al. 2024) read 2 trillion tokens, about as many as the last row of our first table, in
#   sequences of up to 8,192 tokens and with 30 % of the tokens masked. Lesson 08 asks how far such training pays.
# * **No NSP.** RoBERTa, XLNet, SpanBERT, ModernBERT and NeoBERT do without it. ALBERT (Lan et al. 2019) asks for the order of two
#   segments instead. Aroca-Ouellette and Rudzicz 2020 tried fourteen auxiliary tasks: they found NSP harmful "due to its context
#   splitting and shallow semantic signal", and six tasks, among them sentence order, that beat masked words alone.
# * **Another main task.** ELECTRA (Clark et al. 2020) puts "which tokens were replaced?" in the *place* of masked words in the encoder
#   that is kept; a second, smaller network fills the masks. DeBERTaV3 (He et al. 2021) showed that this helps a strong model too. Lesson
#   16 compares such tasks.
# * **Encoder or decoder?** Gisserot-Boukhlef et al. 2025 trained 38 models under equal conditions. Masked training gave the better
#   representations on the whole, causal training learned from less data, and causal training *followed by* masked training was best
#   at a fixed budget.
#
# ## What to remember
#
# * **What RoBERTa's gain came from.** By its own Table 4, most of it from the first step: the recipe *together with* ten times as many
#   tokens read, on about the same text. Ten times the text at equal steps added little. The three choices that were tested alone add up
#   to a few tenths.
# * **An ablation** changes one setting, holds the cost equal, compares within a seed, and gives a difference with its standard error.
# * **Masks.** Count how often the same mask comes back, and on how little text. Dynamic masking costs nothing.
# * **NSP.** Taking away the loss and changing the input are two steps. Papers that contradict each other may have changed different
#   things. Labels: 0 is *next* in Google's and Hugging Face's code.
# * **A probe** needs two controls: the commonest answer, and an untrained model.
# * **Batch size.** Well below the critical batch size a larger batch saves steps and costs hardly any text; above it, text is wasted. That
#   size grows as the loss falls. Each batch size needs its own learning rate.
# * **Tokenizers.** Compare in bits per byte, with every unknown word spelled out.
#
# **What this scale cannot show.** Models of two layers that train for seconds stand at the start of the curve whose end RoBERTa's authors
# saw, and the order of recipes at the start need not be the order at the end. Our documents have three topics and no story, so "next"
# means "the same people", which is easier than real prose. And our sentences are too short for the third of the four modifications,
# *longer sequences*: nothing here tells what full-length texts are worth, and in the paper's tables it is never tested alone.
#
# **An open problem.** How do you know beforehand whether a change that helps a small model will help a large one? The comparisons of this
# lesson cost seconds; RoBERTa's cost a day on 1,024 GPUs. Lesson 08 extrapolates a loss to larger sizes. For a *ranking of recipes*, which
# may turn round on the way, we know of no reliable method.
#
# **Where this comes from**
#
# * Yinhan Liu et al., *RoBERTa: A Robustly Optimized BERT Pretraining Approach*, 2019,
#   [arXiv:1907.11692](https://arxiv.org/abs/1907.11692).
# * Jacob Devlin et al., *BERT*, 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805).
# * Stéphane Aroca-Ouellette and Frank Rudzicz, *On Losses for Modern Language Models*, 2020,
#   [arXiv:2010.01694](https://arxiv.org/abs/2010.01694).
# * John Hewitt and Percy Liang, *Designing and Interpreting Probes with Control Tasks*, 2019,
#   [arXiv:1909.03368](https://arxiv.org/abs/1909.03368).
# * Sam McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
#   [arXiv:1812.06162](https://arxiv.org/abs/1812.06162).
# * Hanlin Zhang et al., *How Does Critical Batch Size Scale in Pre-training?*, 2024,
#   [arXiv:2410.21676](https://arxiv.org/abs/2410.21676).
# * Sadhika Malladi et al., *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*, 2022,
#   [arXiv:2205.10287](https://arxiv.org/abs/2205.10287).
# * Martin Marek et al., *Small Batch Size Training for Language Models*, 2025,
#   [arXiv:2507.07101](https://arxiv.org/abs/2507.07101).
# * Linting Xue et al., *ByT5*, 2021, [arXiv:2105.13626](https://arxiv.org/abs/2105.13626); Artidoro Pagnoni et al., *Byte Latent
#   Transformer*, 2024, [arXiv:2412.09871](https://arxiv.org/abs/2412.09871).
# * Zhenzhong Lan et al., *ALBERT*, 2019, [arXiv:1909.11942](https://arxiv.org/abs/1909.11942).
# * Kevin Clark et al., *ELECTRA*, 2020, [arXiv:2003.10555](https://arxiv.org/abs/2003.10555); Pengcheng He et al., *DeBERTaV3*, 2021,
#   [arXiv:2111.09543](https://arxiv.org/abs/2111.09543).
# * Benjamin Warner et al., *ModernBERT*, 2024, [arXiv:2412.13663](https://arxiv.org/abs/2412.13663); *NeoBERT*, 2025,
#   [arXiv:2502.19587](https://arxiv.org/abs/2502.19587).
# * Hippolyte Gisserot-Boukhlef et al., *Should We Still Pretrain Encoders with Masked Language Modeling?*, 2025,
#   [arXiv:2507.00994](https://arxiv.org/abs/2507.00994).
# * codertimo/BERT-pytorch, issues [32](https://github.com/codertimo/BERT-pytorch/issues/32) and
#   [49](https://github.com/codertimo/BERT-pytorch/issues/49): the index that was ignored.
#
# **Next:** lesson 08 makes the model larger and the text longer.
