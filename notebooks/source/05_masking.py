# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Masking
#     question: What does a model learn from when nobody labels anything?
#     minutes: 80
#     part: "Part II: pretrain"
# ---

# %% [markdown]
# # 05 · Masking
#
# > the cook near the ovens ▢ the waiters in the kitchen
#
# You can guess what stood in the gap. A verb; one for a single *cook*, though *ovens* stands next to it; something that
# people do to waiters in a kitchen. Nobody has labelled this sentence for you. Somebody wrote it, somebody else covered a word,
# and now it is a question with a known answer. Any text can be turned into such questions, as many as you like.
#
# **The question of this lesson:** what does a model learn from when nobody labels anything?
#
# | | |
# |---|---|
# | You will | hide words as BERT does and check it with a statistical test, build the head that guesses them, predict the loss before the first step, find two famous bugs and a wrong formula, and see by experiment what the odd rule 80/10/10 does |
# | You need | lesson 04 for the encoder; lesson 00 for cross-entropy; school mathematics for one integral |
# | It takes | about 80 minutes, five exercises; the machine needs half a minute |
#
# Here is what it looks like. Above, what the model sees; below, in colour, what it is asked:

# %%
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import COURSE_SENTENCE, Encoder, EncoderConfig, ToyWorld, plots, seeded
from nextbert_lite.checks import lesson_05 as check
from nextbert_lite.core.encoder import ACTIVATIONS

seed = int(os.environ.get("NEXTBERT_SEED", 0))
world = ToyWorld()
tokenizer = world.tokenizer()
V = tokenizer.vocab_size


def draw_masked(originals, seen, selected, title):
    """Draw the tokens that the model sees as boxes, the selected ones in colour with the right answer below."""
    fig, ax = plots.figure(size=(8.0, 1.5))
    x = 0.0
    for original, token, asked in zip(originals, seen, selected, strict=True):
        width = 0.6 + max(len(token), len(original) if asked else 0)
        colour = "#EEEEEE"
        if asked:
            colour = "#BFE3F5" if token == "[MASK]" else "#BFE5D8" if token == original else "#F6D5BF"
            ax.text(
                x + width / 2, 0.12, original, ha="center", va="center", fontsize=9, weight="bold", color=plots.BLUE
            )
        ax.add_patch(plots.plt.Rectangle((x, 0.4), width - 0.2, 0.5, color=colour))
        ax.text(x + width / 2 - 0.1, 0.65, token, ha="center", va="center", fontsize=8.5)
        x += width
    ax.set(xlim=(0, x), ylim=(0, 1))
    ax.set_axis_off()
    ax.set_title(title)
    return fig


words = COURSE_SENTENCE.split()
gap = words.index("praises")
seen = [*words[:gap], "[MASK]", *words[gap + 1 :]]
fig = draw_masked(
    words, seen, [i == gap for i in range(len(words))], "Cover a word, and the text asks its own question"
)
plots.show(fig, alt="The course's sentence with [MASK] in place of the verb, and below the gap the answer: praises.")

# %% [markdown]
# `[MASK]` is a token like any other, with a vector of its own. It says: here was a word.
#
# ## 1. One gap, by hand
#
# What is the best answer to this question? Of the toy world we know every probability, so we can put each of its words into
# the gap and ask how likely the sentence would be. Guess first: is there one right word?

# %% tags=["nbval-check-output"]
fillings = [" ".join([*words[:gap], word, *words[gap + 1 :]]) for word in world.words]
perfect = world.log_probability(fillings).softmax(dim=0)  # (number of words,)
for word, p in zip(world.words, perfect.tolist(), strict=True):
    if p > 0:
        print(f"{word:>8} {p:.3f}")
assert (perfect > 0).sum() == 3 and perfect[world.words.index("praise")] == 0

# %% [markdown]
# Three words fit equally well, all of them singular. So even the perfect answer is a guess among three, and *praise*, the plural,
# is out: *cook* is one, whatever stands between.
#
# The answer of a model is a share $p_v$ for each of the V words of the vocabulary. The truth is a list too, all 0 but for a 1
# at the word that stood there: it is **one-hot**. The loss compares the two:
#
# $$\text{loss} = -\sum_{v=1}^{V} y_v \ln p_v = -\ln p_{\text{label}}$$
#
# Three students answer. (V counts the five special tokens too.) The first knows nothing, the second that a verb is
# missing, the third knows the whole language. Sum with a loop, over all V words:

# %% tags=["nbval-check-output"]
names = tokenizer.tokens(range(V))
topics = world.grammar["topics"].values()
verbs = {form for topic in topics for verb in topic["verbs"] for form in (verb["singular"], verb["plural"])}
students = {
    "knows nothing": [1 / V] * V,
    "knows verbs": [1 / len(verbs) if name in verbs else 0.0 for name in names],
    "knows all": [0.0] * (V - len(perfect)) + perfect.tolist(),  # the special tokens come first
}
one_hot = [float(name == "praises") for name in names]
by_hand = {}
for student, p in students.items():
    by_hand[student] = -sum(one_hot[v] * math.log(p[v]) for v in range(V) if one_hot[v])
    print(f"{student:>13}: {by_hand[student]:.4f} nats")

# %% [markdown]
# All terms but one are zero times something: of the whole sum the one logarithm at the right word remains. So in practice nobody
# writes a one-hot list. The label is the word's id, and `F.cross_entropy` picks:

# %% tags=["nbval-check-output"]
label = torch.tensor([tokenizer.id("praises")])
for student, p in students.items():
    logits = torch.tensor([p]).log()  # (1, V); the softmax of ln p is p
    loss = F.cross_entropy(logits, label).item()
    print(f"{student:>13}: {loss:.4f} nats")
    assert abs(loss - by_hand[student]) < 1e-5
assert abs(by_hand["knows nothing"] - math.log(V)) < 1e-9 and abs(by_hand["knows all"] - math.log(3)) < 1e-9

# %% [markdown]
# The same numbers. The first is ln V, the last ln 3: a model that knew everything would still not get below that, here. From the
# top to the bottom is what there is to learn at this gap, and to get down the model has to find out about verbs, about
# *cook* being one, and about kitchens.
#
# ## 2. Which words to hide
#
# One hidden word in each sentence is slow: the whole encoder runs for a single answer. Hide all of them, and
# nothing is left to guess from. BERT selects **15 %** of the tokens.

# %% [markdown]
# RoBERTa selects 15 % too. (You may read that it "masks more sparsely": it does not. It draws *new* positions each time a text
# comes, where BERT made ten copies and reused them; lesson 07 compares the two.) Later models
# select more: NeoBERT 20 %, ModernBERT 30 %, and Wettig et al. (2022) find 40 % better for large models.
#
# How to select? A draw for each token, a uniform number between 0 and 1. Where it is below 0.15 the token is
# **selected**. For our sentence:

# %% tags=["nbval-check-output"]
ids = torch.tensor([tokenizer.encode(COURSE_SENTENCE)])  # (B, T) = (1, 13)
draw = torch.rand(ids.shape, generator=seeded(seed, 5))
for token, number in zip(tokenizer.tokens(ids[0]), draw[0].tolist(), strict=True):
    print(f"{token:>8} {number:.2f} {'selected' if number < 0.15 else ''}")

# %% [markdown]
# `[CLS]` and `[SEP]` took part in this draw. They should not: they stand in every text at the same place, and there is nothing to
# learn from guessing them. Nor is there from padding. Special tokens are **never selected**; here they have the ids 0 to 4.
#
# ### Exercise 05.1 · labels ●○○ · 7 minutes
#
# What the loss needs is a tensor of **labels**: the original id where a token was selected, and −100 everywhere else. (−100 is no
# id of anything. It is the number that torch's `cross_entropy` leaves out.)


# %% tags=["exercise-05.1"]
def make_labels(ids, draw, rate):
    """ids: (B, T), draw: (B, T), numbers in [0, 1); selected where draw < rate -> labels (B, T)"""
    ### BEGIN SOLUTION
    selected = (draw < rate) & (ids >= 5)  # ids 0 to 4 are special
    return ids.masked_fill(~selected, -100)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.make_labels(make_labels)

# %% [markdown]
# ## 3. 80/10/10
#
# Now cover the selected words with `[MASK]`, and be done? BERT does not, for a reason that needs a moment. After
# pretraining somebody will use the model, on texts that are complete. There **no `[MASK]` ever occurs**. A model that
# was only ever asked at `[MASK]` has never been asked for anything at an ordinary word.

# %% [markdown]
# So of the selected tokens
#
# * 80 % become `[MASK]`,
# * 10 % become a **random word**,
# * 10 % **stay as they are**,
#
# and the model is asked for the original at all of them. It cannot know which of the words that it sees are true. At each
# one it has to keep what the word says *and* what the neighbours say about it. Section 9 shows by experiment what that does.
#
# ### Exercise 05.2 · corrupt ●●○ · 8 minutes
#
# One more draw for each token decides: below 0.8 it becomes `[MASK]` (its id is 4), from 0.8 to below 0.9 the word that
# `words` has at that place, else it stays. `words` has a random word ready for every place. Only for selected tokens, of
# course.


# %% tags=["exercise-05.2"]
def corrupt(ids, selected, draw, words):
    """ids, words: (B, T) of ids, selected: (B, T) of bool, draw: (B, T) -> what the model sees, (B, T)"""
    ### BEGIN SOLUTION
    corrupted = ids.masked_fill(selected & (draw < 0.8), 4)
    return torch.where(selected & (0.8 <= draw) & (draw < 0.9), words, corrupted)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.corrupt(corrupt)

# %% [markdown]
# Both exercises together are the function that the course uses from here on. The random word may by chance be the original, as in
# Google's code; it is never a special token.

# %%
from nextbert_lite.validate import check_masking, check_targets

IGNORE = -100  # the label of a position that was not selected; torch's cross_entropy leaves it out


def mask_tokens(ids, tokenizer, rate=0.15, generator=None):
    """Select tokens at random and corrupt them: 80 % become [MASK], 10 % a random word, 10 % stay.

    ids: (B, T) -> corrupted ids (B, T) and labels (B, T): the original id where selected, -100 elsewhere.
    """
    check_masking(ids, tokenizer, rate)
    special = torch.tensor(tokenizer.special_ids)
    selected = (torch.rand(ids.shape, generator=generator) < rate) & ~torch.isin(ids, special)
    labels = ids.masked_fill(~selected, IGNORE)
    draw = torch.rand(ids.shape, generator=generator)  # one draw decides what happens: 0.8 / 0.1 / 0.1
    words = torch.randint(tokenizer.vocab_size - len(special), ids.shape, generator=generator)
    for i in tokenizer.special_ids:  # in ascending order: step over each special token
        words += words >= i
    corrupted = ids.masked_fill(selected & (draw < 0.8), tokenizer.mask_id)
    corrupted = torch.where(selected & (0.8 <= draw) & (draw < 0.9), words, corrupted)
    return corrupted, labels


# %% [markdown]
# The course's sentence, masked. To see all three fates at once we select 60 % and look for a draw that has them; a real draw of
# 15 % seldom does.

# %%
for number in range(1000):
    corrupted, labels = mask_tokens(ids, tokenizer, rate=0.6, generator=seeded(number))
    selected = labels != IGNORE
    hidden, kept = selected & (corrupted == tokenizer.mask_id), selected & (corrupted == ids)
    replaced = selected & ~hidden & ~kept
    if min(hidden.sum(), kept.sum(), replaced.sum()) >= 1 and kept.sum() + replaced.sum() == 3:
        break
rows = [tokenizer.tokens(row[0]) for row in (ids, corrupted)]
fig = draw_masked(*rows, selected[0].tolist(), "Asked below: hidden (blue), replaced (orange), kept (green)")
plots.show(
    fig,
    alt="The course's sentence with some words as [MASK], others replaced or kept, and the original below each of them.",
)
assert (labels[~selected] == IGNORE).all() and torch.equal(labels[selected], ids[selected])

# %% [markdown]
# A green word looks like a grey one, and nothing marks an orange one. That is the point: the model is asked below the coloured
# boxes, but sees no colours.
#
# Now you. *corrupt* makes one draw, *100 times* makes a hundred and counts. And a click on a word masks that word alone: the table
# says what the model of lesson 06 puts there, and what a perfect predictor would, which knows the grammar (lesson 06 builds both).
# Which words of the sentence can be told for certain, and at which does even the perfect predictor have to guess?

# %%
from nextbert_lite import MaskingPlayground, load, show

playground = MaskingPlayground(*load("toy-small"), world, title="Which word can be told for certain?")
show(
    playground,
    alt="The course's sentence with its verb masked: praises, serves and feeds, a third each, by both predictors.",
)

# %% [markdown]
# The perfect predictor's share for the right word, at every place:

# %%
guess = playground.guess(COURSE_SENTENCE)
for word, offered, shares in zip(guess.tokens, guess.words, guess.perfect, strict=True):
    print(f"{word:>8} {shares[offered.index(word)]:.2f}" if word in offered else f"{word:>8} under {shares.min():.2f}")
certain = [
    w
    for w, offered, p in zip(guess.tokens, guess.words, guess.perfect, strict=True)
    if w in offered and p[offered.index(w)] > 0.9
]
assert "the" in certain and not {"cook", "praises", "waiters"} & set(certain)

# %% [markdown]
# The grammar's small words are certain. Who, whom and what they do is a guess among a few: no model can know it.
#
# ## 4. Is it really 15 % and 80/10/10?
#
# Code that draws at random is hard to check: its output is different each time, and a wrong share looks like a right one. Here
# is another way to write the three fates, which public code has used. Random word: a draw of 10 %. Kept: *another* draw of
# 10 %. `[MASK]`: the rest.


# %%
def two_draws(ids, tokenizer, rate=0.15, generator=None):
    selected = (torch.rand(ids.shape, generator=generator) < rate) & (ids > 4)
    replaced = selected & (torch.rand(ids.shape, generator=generator) < 0.1)
    kept = selected & (torch.rand(ids.shape, generator=generator) < 0.1) & ~replaced
    words = torch.randint(5, tokenizer.vocab_size, ids.shape, generator=generator)
    corrupted = ids.masked_fill(selected & ~kept, tokenizer.mask_id)
    return torch.where(replaced, words, corrupted), ids.masked_fill(~selected, IGNORE)


# %% [markdown]
# It reads like the sentence in the paper. Is it 80/10/10? Think about it before you go on. We count both, first on 1,000
# sentences:


# %% tags=["nbval-check-output"]
def fates(ids, corrupted, labels):
    """Return how many selected tokens were hidden, replaced and kept."""
    selected = labels != IGNORE
    hidden = (selected & (corrupted == tokenizer.mask_id)).sum().item()
    kept = (selected & (corrupted == ids)).sum().item()
    return [hidden, int(selected.sum()) - hidden - kept, kept]


many, _ = world.sample_ids(100_000, seed=seed)  # (100000, 16)
programs = {"one draw": mask_tokens, "two draws": two_draws}
masked = {name: program(many, tokenizer, generator=seeded(seed, 1)) for name, program in programs.items()}
for name, (corrupted, labels) in masked.items():
    counts = fates(many[:1000], corrupted[:1000], labels[:1000])
    print(f"{name:>9}: {'  '.join(f'{count / sum(counts):.3f}' for count in counts)}  of {sum(counts):,}")

# %% [markdown]
# Each is off a little, as chance would have it. How far off is too far? A test needs one number for "how far", and the
# probability that a *right* program is as far off by chance. The number is Pearson's **χ²** (*chi square*): for each kind, the
# square of the deviation, measured in what was expected.
#
# $$\chi^2 = \sum_{\text{kinds}} \frac{(\text{counted} - \text{expected})^2}{\text{expected}}$$

# %% [markdown]
# For a right program and large counts the chance of a χ² of more than x is known. With three kinds it is $e^{-x/2}$, with
# two kinds it is $\mathrm{erfc}\sqrt{x/2}$. (erfc is the share of a bell curve that lies in its two outer tails; Python
# has it as `math.erfc`. Both formulas are from statistics; we take them without proof, and test one of them below.) That
# is the rate of **false alarms**, and we may choose it: one in a million.


# %% tags=["nbval-check-output"]
def chi_square(counts, shares):
    """How far counts are from what the shares let expect."""
    expected = [sum(counts) * share for share in shares]
    return sum((count - e) ** 2 / e for count, e in zip(counts, expected, strict=True))


def false_alarm(x, kinds):
    """The probability that a right program has a chi square of more than x, for two or three kinds."""
    return math.erfc(math.sqrt(x / 2)) if kinds == 2 else math.exp(-x / 2)


ALARM = 1e-6
limit = -2 * math.log(ALARM)  # for three kinds
print(f"with three kinds a right program exceeds {limit:.1f} once in {1 / ALARM:,.0f} times")

# %% [markdown]
# Do you believe the formula? It can be tested like anything else. We cut the 100,000 sentences into 1,000 parts, test the right
# program on each, and ask for false alarms at a rate of 5 %. Of 1,000 tests, about 50 should ring.
#
# (One detail: a random word is the original in one of W cases, W being the number of words, and then it counts as kept.)

# %%
W = V - 5
shares = [0.8, 0.1 - 0.1 / W, 0.1 + 0.1 / W]
corrupted, labels = masked["one draw"]
parts = zip(many.chunk(1000), corrupted.chunk(1000), labels.chunk(1000), strict=True)
rings = sum(false_alarm(chi_square(fates(*part), shares), kinds=3) < 0.05 for part in parts)
print(f"{rings} of 1,000 tests of a right program ring; expected about 50")
assert abs(rings - 50) < 5 * math.sqrt(1000 * 0.05 * 0.95)  # five standard deviations

# %% [markdown]
# The formula keeps its word, roughly: such a count wanders by some √(1000 · 0.05 · 0.95) ≈ 7, and the parts are small,
# where the formula is an approximation. With more text it gets better. Now the test proper, on about a million words: is
# 15 % selected, and is it 80/10/10? Each program gets two numbers, for the selection and for the fates: the probability
# that a *right* program is at least this far off. One in ten is nothing special; below one in a million we say: wrong.

# %%
ordinary = int((many > 4).sum())
chi = {}
for name, (corrupted, labels) in masked.items():
    counts = fates(many, corrupted, labels)
    selection = chi_square([sum(counts), ordinary - sum(counts)], [0.15, 0.85])
    chi[name] = chi_square(counts, shares)
    print(f"{name}: {sum(counts) / ordinary:.4f} selected,", "  ".join(f"{n / sum(counts):.4f}" for n in counts))
    print(f"{'':>{len(name)}}  false alarm: {false_alarm(selection, 2):.1e} and {false_alarm(chi[name], 3):.1e}")
    assert false_alarm(selection, kinds=2) > ALARM  # both select 15 %
assert false_alarm(chi["one draw"], 3) > ALARM > false_alarm(chi["two draws"], 3)
assert (masked["one draw"][1][many < 5] == IGNORE).all()  # no special token was selected

# %% [markdown]
# Two independent draws of 10 % give **81/10/9**: a token is hidden if it escapes both, and 0.9 · 0.9 = 0.81. The bug is small, it
# stands in public teaching code, and no look at an output would show it. How much text does it take to notice?

# %%
sizes = [300 * 2**k for k in range(9)] + [100_000]
fig, ax = plots.figure()
for (name, (corrupted, labels)), marker in zip(masked.items(), ["o-", "s--"], strict=True):
    curve = [chi_square(fates(many[:n], corrupted[:n], labels[:n]), shares) for n in sizes]
    ax.plot([int((many[:n] > 4).sum()) for n in sizes], curve, marker, markersize=5, label=name)
ax.axhline(limit, color=plots.GREY, linestyle=":")
ax.text(4000, limit * 1.15, "one false alarm in a million", color=plots.GREY, fontsize=9)
ax.set(xscale="log", yscale="log", ylim=(0.05, None), xlabel="words of text", ylabel="χ² against 80/10/10")
ax.set_title("It takes hundreds of thousands of words to tell them apart")
ax.legend()
plots.show(
    fig,
    alt=f"χ² of two draws grows with the words, from below the limit to {chi['two draws']:.0f}; that of one draw stays below.",
)

# %% [markdown]
# χ² of a wrong program grows in proportion to the text, that of a right one does not. (It wanders: chance gives now more, now
# less.) So "it passed the test" says something only together with *how much* was tested. This is why the tests of this course
# take a million words.
#
# ## 5. The head: from a vector to a word
#
# The encoder hands on a vector of C numbers for each token. How does that become a choice among V words? By a dot product with a
# vector for each word: the words whose vectors point the same way get the largest scores.

# %% [markdown]
# And we have a vector for each word already, in the embedding table at the other end of the model. BERT uses the
# **same table** for both (Press and Wolf 2017): the weights are *tied*. Before it stand one more layer and a norm, behind it a
# bias for each word, which can learn how frequent it is.
#
# $$\text{logits} = \mathrm{norm}\big(\mathrm{GELU}(h\,W + b)\big)\; E^\top + \text{bias}$$


# %%
class MLMHead(nn.Module):
    """Hidden states to a score for each word of the vocabulary: dense, activation, layer norm, tied embeddings."""

    def __init__(self, encoder):
        super().__init__()
        C = encoder.config.width
        self.dense = nn.Linear(C, C)
        self.activation = ACTIVATIONS[encoder.config.activation]
        self.norm = nn.LayerNorm(C, eps=encoder.config.eps)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))
        encoder.initialise(self.dense)

    def forward(self, hidden, embedding):
        """hidden: (..., C), embedding: (V, C) -> logits (..., V)."""
        return F.linear(self.norm(self.activation(self.dense(hidden))), embedding, self.bias)


# %% [markdown]
# Encoder and head together are the **masked language model**, MLM for short. Its `loss` is the mean of −ln p over the selected
# tokens, and it computes the head for those alone; section 7 shows why that is allowed.


# %%
class MaskedLanguageModel(nn.Module):
    """An encoder with an MLM head: what is pretrained."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = MLMHead(encoder)

    def forward(self, ids, mask=None):
        """ids: (B, T), mask: (B, T), True = may be attended to -> logits of every position, (B, T, V)."""
        return self.head(self.encoder(ids, mask), self.encoder.tokens.weight)

    def loss(self, ids, labels, mask=None):
        """Return the mean cross-entropy over the selected tokens, in nats; 0 if none was selected."""
        check_targets(labels, ids, self.encoder.config.vocab_size)
        hidden = self.encoder(ids, mask)
        selected = labels != IGNORE
        logits = self.head(hidden[selected], self.encoder.tokens.weight)  # (selected tokens, V)
        total = F.cross_entropy(logits, labels[selected], reduction="sum")
        return total / max(1, len(logits))


# %% [markdown]
# What does tying save? For BERT-base, with its V = 30,522 and C = 768, a second table would be:

# %% tags=["nbval-check-output"]
base = EncoderConfig.preset("base", vocab_size=30522, token_types=2)
with torch.device("meta"):  # shapes only, no memory
    size = sum(p.numel() for p in MaskedLanguageModel(Encoder(base)).parameters())
second_table = base.vocab_size * base.width
print(f"BERT-base with its head: {size:,} parameters; untied {second_table:,} more, {second_table / size:.0%}")
assert second_table > 0.2 * size

# %% [markdown]
# And the table learns from two sides. As input, a word's row gets a gradient when the word is in the batch. As output, every row
# gets one at every gap: up for the right word, down for all the others. We take the two apart by giving the head a copy of
# the table. The parts add up to the gradient of the tied one:

# %% tags=["nbval-check-output"]
torch.manual_seed(seed)
model = MaskedLanguageModel(Encoder(EncoderConfig(vocab_size=V, init_std="fan_in"))).double()
batch_ids, batch_mask = world.sample_ids(8, seed=seed)
corrupted, labels = mask_tokens(batch_ids, tokenizer, rate=0.3, generator=seeded(seed))
table = model.encoder.tokens.weight  # (V, C)
(tied,) = torch.autograd.grad(model.loss(corrupted, labels, batch_mask), table)

copy = table.detach().clone().requires_grad_()
logits = model.head(model.encoder(corrupted, batch_mask), copy)
loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
from_input, from_output = torch.autograd.grad(loss, [table, copy])
torch.testing.assert_close(tied, from_input + from_output, rtol=1e-10, atol=1e-10)
print("rows with a gradient, as input:", int(from_input.any(1).sum()), " as output:", int(from_output.any(1).sum()))
assert from_output.any(1).all() and from_input.any(1).sum() == len(corrupted[batch_mask].unique())

# %% [markdown]
# ## 6. The loss before the first step
#
# A number that you know beforehand is the cheapest test there is. What is the loss of a model that has not learned anything? Lesson
# 00 said ln V: all words equally likely. But the weights of a new model are random, so its logits are not all equal. Is a
# model with random opinions better off than one without, or worse?

# %% [markdown]
# Write the loss out. The softmax puts $e^{z_v}$ over the sum of all of them, so
#
# $$\text{loss} = -\ln \frac{e^{z_{\text{label}}}}{\sum_v e^{z_v}} = \ln \sum_v e^{z_v} - z_{\text{label}} .$$
#
# The logits of a new model have no favourites: their mean is 0, so $z_{\text{label}}$ is 0 on average. And the sum is V times the
# *mean of* $e^z$. What is that? If z has the mean 0, is the mean of $e^z$ equal to $e^0 = 1$?

# %%
z = torch.randn(1_000_000, generator=seeded(seed, 2), dtype=torch.float64)
for sigma in (0.5, 1.0, 1.5):
    mean = (sigma * z).exp().mean().item()
    print(f"σ = {sigma}: mean of e^z = {mean:.3f}, its logarithm {math.log(mean):.3f}, σ²/2 = {sigma**2 / 2:.3f}")
    assert abs(math.log(mean) - sigma**2 / 2) < 5 * math.sqrt((math.exp(sigma**2) - 1) / len(z))

# %% [markdown]
# It is more than 1. $e^z$ gains more from a z above 0 than it loses from one below: $e^1$ and $e^{-1}$ have the mean 1.54. And the
# numbers look like $e^{\sigma^2/2}$. They are. Logits are sums of many small terms, so they follow the bell curve, whose
# density at z is $\frac{1}{\sigma\sqrt{2\pi}} e^{-z^2/2\sigma^2}$. The mean weighs each $e^z$ with it:
#
# $$\text{mean of } e^z = \int e^{z}\, \frac{1}{\sigma\sqrt{2\pi}}\, e^{-z^2/2\sigma^2}\, dz$$

# %% [markdown]
# Put the exponents together and complete the square, as in school:
#
# $$z - \frac{z^2}{2\sigma^2} = \frac{\sigma^2}{2} - \frac{(z - \sigma^2)^2}{2\sigma^2}$$
#
# The first part is a constant and leaves the integral. What stays inside is the bell curve again, moved to the right by
# $\sigma^2$; its area is 1. So the mean is $e^{\sigma^2/2}$, and
#
# $$\boxed{\;\text{loss at the start} \approx \ln V + \frac{\sigma^2}{2}\;}$$
#
# Random opinions cost half their variance.

# %%
grid = torch.linspace(-4, 5, 400)
bell = (-(grid**2) / 2).exp() / math.sqrt(2 * math.pi)
sigmas = torch.linspace(0, 4, 9)
noise = torch.randn(2000, V, generator=seeded(seed, 3))
losses = [((s * noise).logsumexp(-1) - s * noise[:, 7]).mean().item() for s in sigmas.tolist()]

fig, axes = plots.figure(1, 2, size=(8.0, 3.2))
axes[0].plot(grid, bell, label="bell curve, σ = 1")
axes[0].plot(grid, bell * grid.exp(), "--", label="times $e^z$: moved by σ²")
axes[0].set(xlabel="z", ylabel="density", ylim=(0, 0.95))
axes[0].set_title("Times $e^z$ is a bell again")
axes[0].legend(loc="upper left")
axes[1].plot(sigmas, math.log(V) + sigmas**2 / 2, "--", color=plots.GREY, label="ln V + σ²/2")
axes[1].plot(sigmas, losses, "o", color=plots.RED, label="measured")
axes[1].set(xlabel="σ, spread of the logits", ylabel="loss (nats)", ylim=(4, 14))
axes[1].set_title("Right up to σ ≈ 2")
axes[1].legend(loc="upper left")
plots.show(
    fig,
    alt="Left: the bell curve and, taller and further right, the bell curve times e to the z. Right: measured losses of "
    "random logits lie on ln V + σ²/2 up to about 2, below it after.",
)
for s, measured in zip(sigmas.tolist(), losses, strict=True):
    exact = math.log(V) + s**2 / 2
    assert abs(measured - exact) < 0.1 * s + 1e-5 if s <= 1 else measured < exact + 0.1 * s
assert losses[-1] < math.log(V) + sigmas[-1].item() ** 2 / 2 - 1

# %% [markdown]
# With large σ the few largest of the V logits decide, and V words are too few to meet the rare giants that the integral counts.
#
# What is σ in our model? A logit is a dot product $\sum_c h_c E_{vc}$. The head's norm makes the squares of the $C$ numbers $h_c$
# add up to C (mean square 1). The entries of the table are random with standard deviation $s$. Variances of independent terms add
# up, as in lesson 02:
#
# $$\sigma^2 = \sum_c h_c^2\, s^2 = C s^2$$

# %% [markdown]
# ### Exercise 05.3 · predict the result ●●○ · 5 minutes
#
# BERT-base has C = 768 and V = 30,522, and draws its weights with s = 0.02. At which MLM loss does it start? Two digits after
# the point; `math.log` helps.

# %% tags=["exercise-05.3"]
loss_of_a_new_bert = None
### BEGIN SOLUTION
loss_of_a_new_bert = math.log(30522) + 768 * 0.02**2 / 2  # ln V + C s² / 2
### END SOLUTION

# %% tags=["nbval-check-output"]
check.start_loss(loss_of_a_new_bert)

# %% [markdown]
# We measure that one with a random table of that size. Then our own models, from the first to the last layer, with two
# initialisations: BERT's 0.02, and 1/√C, which this course uses (it makes σ = 1). For each, 200 new models, the same 64
# sentences. Predict both before you run the cell: C is 64.

# %%
E = 0.02 * torch.randn(30522, 768, generator=seeded(seed, 4))
h = F.layer_norm(torch.randn(100, 768, generator=seeded(seed, 5)), (768,))
z = h @ E.T  # (100, V)
big = (z.logsumexp(-1) - z.mean(-1)).mean().item()  # the mean over all labels there could be
print(f"BERT-base: measured {big:.2f}, ln V = {math.log(30522):.2f}")
assert abs(big - (math.log(30522) + 768 * 0.02**2 / 2)) < 0.02

# %%
batch_ids, batch_mask = world.sample_ids(64, seed=seed)
corrupted, labels = mask_tokens(batch_ids, tokenizer, generator=seeded(seed))


@torch.no_grad()
def start_losses(init_std, n):
    """Return the losses of n new models, (n,), and the mean variance of their logits."""
    losses, variances = [], []
    for number in range(n):
        torch.manual_seed(1000 * seed + number)
        new = MaskedLanguageModel(Encoder(EncoderConfig(vocab_size=V, init_std=init_std)))
        logits = new(corrupted, batch_mask)[labels != IGNORE]
        losses.append(new.loss(corrupted, labels, batch_mask))
        variances.append(logits.var(dim=-1).mean())
    return torch.stack(losses), torch.stack(variances).mean().item()


for name, init_std in {"s = 0.02": 0.02, "s = 1/√C": 1 / math.sqrt(64)}.items():
    losses, variance = start_losses(init_std, n=200)
    above, error = losses.mean().item() - math.log(V), losses.std().item() / math.sqrt(len(losses))
    expected = 64 * init_std**2 / 2
    print(f"{name}: C s²/2 = {expected:.3f}, half the logits' variance {variance / 2:.3f}", end=", ")
    print(f"measured ln V + {above:.3f} ± {error:.3f}; one model is off by ± {losses.std():.2f}")
    assert abs(above - expected) < 4 * error + 0.005  # 0.005: V is finite
    assert abs(variance / 2 - expected) < 0.05 * expected + 0.001

# %% [markdown]
# Predicted, then measured. A single model is off by a little, because nearly all gaps look the same to it, `[MASK]`, and
# some word that is frequent in the labels happens to score high or low. Both starts are fine; in lesson 06 you will see
# the loss fall by more than a nat in the first five steps. What is *not* fine is what you get when you tie the head to
# `nn.Embedding` as torch initialises it, with s = 1:

# %%
losses, variance = start_losses(init_std=1.0, n=20)
print(f"σ² = {variance:.0f}, loss at the start {losses.mean():.0f}, ln V = {math.log(V):.1f}")
assert losses.mean() > 2 * math.log(V)

# %% [markdown]
# Far beyond where the formula holds, and far too sure of nothing. If your own run starts several times above ln V, look at the
# initialisation first.
#
# ## 7. Only the selected positions
#
# A batch has B · T positions, and 15 % of them have a label. The head can run on all of them, with −100 telling the loss which to
# ignore, or be given only the selected ones. Is that the same? First the full way. The gradient of the loss at each position's logits:

# %%
torch.manual_seed(seed)
model = MaskedLanguageModel(Encoder(EncoderConfig(vocab_size=V, init_std="fan_in"))).double()
one_corrupted, one_labels = mask_tokens(ids, tokenizer, rate=0.3, generator=seeded(seed, 2))
logits = model(one_corrupted)  # (1, T, V)
logits.retain_grad()
F.cross_entropy(logits.flatten(0, 1), one_labels.flatten(), ignore_index=IGNORE).backward()
size = logits.grad.norm(dim=-1)[0]  # (T,)
for token, number in zip(tokenizer.tokens(one_corrupted[0]), size.tolist(), strict=True):
    print(f"{token:>8} {number:.4f}")
selected = one_labels[0] != IGNORE
assert selected.any() and (logits.grad[0, ~selected] == 0).all() and (size[selected] > 0).all()

# %% [markdown]
# Not small: **exactly zero**, in all V logits of all unselected positions. The loss is a mean over the selected tokens, and the
# others' logits do not occur in it. So computing them is work for nothing, and so is their way back. Leave them out, and the
# loss and every gradient of every weight stay the same:

# %%
corrupted, labels = mask_tokens(batch_ids, tokenizer, generator=seeded(seed))


def full_loss(model, ids, labels, mask):
    """The head on every position; cross_entropy leaves out -100."""
    return F.cross_entropy(model(ids, mask).flatten(0, 1), labels.flatten(), ignore_index=IGNORE)


full, sparse = full_loss(model, corrupted, labels, batch_mask), model.loss(corrupted, labels, batch_mask)
gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (full, sparse)]
for a, b in zip(*gradients, strict=True):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
print(f"loss {full.item():.6f} and {sparse.item():.6f}; {len(gradients[0])} gradients, all equal to ten digits")
assert abs(full.item() - sparse.item()) < 1e-10

# %% [markdown]
# How much work is saved? We let torch count the multiplications and additions of a whole step, forward and back:

# %%
from torch.utils.flop_counter import FlopCounterMode


def operations(step):
    """Return how many operations the matrix products of a step take, forward and back."""
    with FlopCounterMode(display=False) as counter:
        step().backward()
    return counter.get_total_flops()


hidden = torch.randn(*labels.shape, 64, dtype=torch.float64, requires_grad=True)
chosen, table = labels != IGNORE, model.encoder.tokens.weight
on_all = operations(lambda: model.head(hidden, table).sum())
on_selected = operations(lambda: model.head(hidden[chosen], table).sum())
ratio = labels.numel() / int(chosen.sum())
print(
    f"the head alone, of {labels.numel()} positions {int(chosen.sum())} are selected: {on_all / on_selected:.1f} × less"
)
assert abs(on_all / on_selected - ratio) < 1e-6

whole = [
    operations(lambda f=f: f(corrupted, labels, batch_mask)) for f in (lambda *b: full_loss(model, *b), model.loss)
]
print(f"the whole step, this small model: {1 - whole[1] / whole[0]:.0%} less")
assert whole[1] < whole[0]

# %% [markdown]
# In a real model the vocabulary is larger, and so is what is saved. For BERT-base, by lesson 04's formula for the encoder (512
# tokens a text) and $2(C^2 + VC)$ for the head, for each token:

# %% tags=["nbval-check-output"]
C, L, T = base.width, base.layers, 512
in_encoder, in_head = L * (24 * C**2 + 4 * T * C), 2 * (C**2 + base.vocab_size * C)
saved = 0.85 * in_head / (in_encoder + in_head)
print(f"encoder {in_encoder / 1e6:.0f} million operations a token, head {in_head / 1e6:.0f}; saved {saved:.0%} of all")
print(f"and memory: logits of 32 such texts take {32 * T * base.vocab_size * 4 / 2**30:.1f} GiB, or 15 % of it")
assert 0.1 < saved < 0.3

# %% [markdown]
# ## 8. Two ways to get the loss wrong
#
# ### Exercise 05.4 · find the bug ●●○ · 8 minutes
#
# This is how a well-known textbook's code computes the loss, in essence. `labels` holds the original at every position here, and
# the mask `selected` is to choose. It runs, and training goes down:


# %%
def buggy_loss(logits, labels, selected):
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return (loss * selected).sum() / selected.sum()


with torch.no_grad():
    logits = model(corrupted, batch_mask)
for share in (0.1, 0.5, 0.9):
    some = torch.rand(labels.shape, generator=seeded(seed)) < share
    print(f"{share:.0%} selected: {buggy_loss(logits, batch_ids, some).item():.4f}")
first, last = (buggy_loss(logits, batch_ids, chosen).item() for chosen in (labels != IGNORE, batch_ids == 0))
assert abs(first - last) < 1e-9  # the mask does nothing at all

# %% [markdown]
# Whatever is selected, the loss is the same. Write it again, right. A batch without a selected token has the loss 0.


# %% tags=["exercise-05.4"]
def selected_loss(logits, labels, selected):
    """logits: (B, T, V), labels: (B, T), selected: (B, T) of bool -> mean loss over the selected tokens"""
    ### BEGIN SOLUTION
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return (losses * selected).sum() / selected.sum().clamp_min(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.selected_loss(selected_loss)

# %% [markdown]
# The other mistake is one of notation, and circulates in text more than in code:
#
# $$-\sum_{i=1}^{N} \ln P(x_i \mid \text{corrupted text}) \qquad\text{in place of}\qquad
# -\frac{1}{|M|}\sum_{i \in M} \ln P(x_i \mid \text{corrupted text})$$
#
# N are all tokens, M the selected ones. Whoever programs the left one asks the model mostly for words that stand in plain sight. Is
# that harmless, since copying is easy? The next section trains a model that way too.

# %% [markdown]
# ## 9. What the rules teach
#
# Four models, 400 steps each, the same sentences and the same 15 % of them selected. What differs is the fate of the
# selected tokens, and for the last one the loss:
#
# | | hidden | replaced | kept | loss over |
# |---|---|---|---|---|
# | only hidden | 100 % | | | selected tokens |
# | hidden or kept | 80 % | | 20 % | selected tokens |
# | BERT's | 80 % | 10 % | 10 % | selected tokens |
# | BERT's, loss everywhere | 80 % | 10 % | 10 % | all real tokens |

# %%
from nextbert_lite import fit

arms = {  # shares of hidden and replaced, the rest is kept; whether the loss is over all tokens
    "only hidden": (1.0, 0.0, False),
    "hidden or kept": (0.8, 0.0, False),
    "BERT's": (0.8, 0.1, False),
    "BERT's, loss everywhere": (0.8, 0.1, True),
}


def mask_by(ids, hide, replace, rate, generator):
    """Select and treat tokens as `mask_tokens` does, with other shares."""
    selected = (torch.rand(ids.shape, generator=generator) < rate) & (ids > 4)
    draw = torch.rand(ids.shape, generator=generator)
    random_words = torch.randint(5, V, ids.shape, generator=generator)
    corrupted = ids.masked_fill(selected & (draw < hide), tokenizer.mask_id)
    corrupted = torch.where(selected & (hide <= draw) & (draw < hide + replace), random_words, corrupted)
    return corrupted, ids.masked_fill(~selected, IGNORE)


def train(hide, replace, everywhere):
    """Return a model that 400 steps of these rules have trained."""

    def batch(step):
        ids, mask = world.sample_ids(64, seed=10_000 * (seed + 1) + step)
        corrupted, labels = mask_by(ids, hide, replace, 0.15, seeded(seed, step))
        return {"ids": corrupted, "labels": ids.masked_fill(~mask, IGNORE) if everywhere else labels, "mask": mask}

    torch.manual_seed(seed)
    model = MaskedLanguageModel(Encoder(EncoderConfig(vocab_size=V, init_std="fan_in")))
    history = fit(model, batch, steps=400, lr=3e-3, warmup=50, seed=seed)
    return model.cpu(), sum(history.loss[-30:]) / 30


# %% [markdown]
# Then three questions, on 500 new sentences:
#
# 1. The sentence is complete. The head is asked at each word *in plain sight*: does it name that word?
# 2. 15 % are `[MASK]`: does it guess them?
# 3. 15 % are random words, so wrong: does it name the right one, or copy the wrong one?
#
# Guess before you run: which model cannot name a word that it sees? Which one copies what is wrong?

# %%
clean, clean_mask = world.sample_ids(500, seed=seed + 77)
with_gaps, gap_labels = mask_by(clean, 1.0, 0.0, 0.15, seeded(seed, 77))
with_errors, error_labels = mask_by(clean, 0.0, 1.0, 0.15, seeded(seed, 78))
wrong = (error_labels != IGNORE) & (with_errors != clean)
answers = {}
for name, rules in arms.items():
    model, reported = train(*rules)
    with torch.no_grad():
        at_words = model(clean, clean_mask).argmax(-1) == clean
        at_gaps = model(with_gaps, clean_mask).argmax(-1) == clean
        at_errors = model(with_errors, clean_mask).argmax(-1)
        loss = model.loss(with_gaps, gap_labels, clean_mask).item()
    shares_right = [at_words[clean > 4], at_gaps[gap_labels != IGNORE], (at_errors == clean)[wrong]]
    answers[name] = [right.float().mean().item() for right in shares_right]
    answers[name] += [(at_errors == with_errors)[wrong].float().mean().item(), loss, reported]
    named, guessed, repaired, copied = answers[name][:4]
    print(
        f"{name:>23}: names {named:.2f}, guesses {guessed:.2f}, repairs {repaired:.2f}, copies {copied:.2f}", end="; "
    )
    print(f"loss in training {reported:.2f}, at gaps {loss:.2f}")

# %%
fig, ax = plots.figure(size=(8.0, 3.4))
questions = ["names a word\nin plain sight", "guesses a\nhidden word", "repairs a\nwrong word", "copies a\nwrong word"]
for number, (name, values) in enumerate(answers.items()):
    bars = ax.bar([q + 0.2 * number - 0.3 for q in range(4)], values[:4], width=0.18, label=name)
ax.set_xticks(range(4), questions)
ax.set(ylabel="share of the words", ylim=(0, 1.05))
ax.set_title("What is kept teaches to look, what is replaced teaches to doubt")
ax.legend(fontsize=8.5, loc="upper right")
plots.show(
    fig,
    alt="Bars for four models: only hidden names under half of the words it sees; hidden or kept names nearly all but "
    "copies many wrong ones; BERT's rule lies between and copies next to none; with the loss everywhere it copies again.",
)
hidden_only, with_kept, berts, everywhere = (answers[name] for name in arms)
assert hidden_only[0] < hidden_only[1]  # sees the word, and does worse than at a gap
assert with_kept[0] > berts[0] > hidden_only[0] + 0.05
assert berts[2] > with_kept[2] + 0.1 and berts[3] < 0.05 < 0.15 < min(with_kept[3], everywhere[3])
assert everywhere[5] < berts[5] / 3 and abs(everywhere[4] - berts[4]) < 0.4

# %% [markdown]
# Read it model by model.
#
# * **Only hidden.** It names a word in plain sight *less* often than it guesses a hidden one. It was never asked there, so
#   nothing taught it to look at the word itself; it says what the neighbours suggest, at a place it was not trained for.
# * **Hidden or kept.** Kept words are the cheapest lesson there is: copy. It names nearly everything that it sees, and where
#   the word is wrong it often copies the error.
# * **BERT's.** A word in plain sight may be wrong, so it has to be weighed against its neighbours. Next to no error is
#   copied, and more words are named than by the first. It pays for this: at the gaps its loss is higher than that of
#   *hidden or kept*, which never had to read a random word; and at the gaps there are none. The rule is a trade.

# %% [markdown]
# * **The loss everywhere** undoes that. Of the words it sees, very few are replaced, so copying is right nearly always,
#   and that is what it learns. And look at the loss it reports in training: wonderful, and about words that nobody needed
#   to guess. At the gaps its loss is far above the number that it reports: compare the last two columns. (It is not worse
#   there than BERT's rule, after these steps and with this seed. What you lose first is the meaning of the number.)
#
# How much does 80/10/10 matter for what BERT is used for? Less than the space that explanations give to it. Devlin et al.
# (2019, table 8) pretrained BERT-base with several shares. MNLI asks whether one sentence follows from another, *named
# entities* which words are names; *fine-tuned* means that all weights are trained on for the task, *as they are* that
# only a small model on top is trained. Higher is better:

# %% [markdown]
# | hidden / kept / replaced | MNLI, fine-tuned | named entities, fine-tuned | named entities, vectors as they are |
# |---|---|---|---|
# | 80 / 10 / 10 | 84.2 | 95.4 | 94.9 |
# | 100 / 0 / 0 | 84.3 | 94.9 | 94.0 |
# | 80 / 20 / 0 | 84.4 | 95.2 | 94.7 |
#
# Whoever fine-tunes all weights loses half a point at most without the rule, and on MNLI nothing; whoever uses the
# vectors *as they are* loses up to 0.9. That fits what you have just seen, in a far larger model and on tasks unlike
# ours. NeoBERT hides everything that it selects.
#
# ## 10. Exactly 15 %, or 15 % on average?
#
# Independent draws give each text a different number of selected tokens. How often none at all, in our sentence of 11 words? You can
# compute that before you count.

# %%
copies = ids.expand(20_000, -1)
_, labels = mask_tokens(copies, tokenizer, generator=seeded(seed, 6))
number = (labels != IGNORE).sum(1)  # (20000,)
none = (number == 0).float().mean().item()
print(f"no word selected: computed {0.85**11:.3f}, counted {none:.3f}; on average {number.float().mean():.2f} selected")
assert abs(none - 0.85**11) < 5 * math.sqrt(0.85**11 * (1 - 0.85**11) / 20_000)

fig, ax = plots.figure(size=(7.0, 2.8))
ax.bar(range(8), [(number == k).float().mean().item() for k in range(8)], color=plots.BLUE, label="independent draws")
ax.bar([2], [1.0], width=0.3, color=plots.ORANGE, label="Google's exact count")
ax.set(xlabel="selected tokens of the course's sentence", ylabel="share of the draws")
ax.set_title("Independent draws: sometimes none, sometimes five")
ax.legend()
plots.show(fig, alt=f"Bars from 0 to 7 selected tokens, {none:.0%} at none; the exact count is always 2.")

# %% [markdown]
# Google's BERT selects an **exact count** in each text: 15 % of its tokens, rounded, at least 1 and at most 20. `[CLS]`
# and `[SEP]` count in "its tokens" and are never selected. Hugging Face's collator (the function that makes batches)
# draws independently, and so does this course: a batch has many texts, a text without a selected token adds nothing to
# its loss, and independent draws make the best possible loss computable, which lesson 06 needs.
#
# ### Exercise 05.5 · an exact count ●●● · 12 minutes
#
# For a padded batch (padding is 0, special tokens are 0 to 4): how many tokens does Google's rule select in each text? Select
# that many of its ordinary words, those with the **lowest** numbers in `draw`.


# %% tags=["exercise-05.5"]
def exact_count(ids, draw, rate):
    """ids: (B, T), draw: (B, T) -> selected (B, T), bool"""
    ### BEGIN SOLUTION
    ordinary = ids >= 5
    count = (rate * (ids != 0).sum(1)).round().clamp(1, 20)  # (B,)
    rank = draw.masked_fill(~ordinary, 2.0).argsort(1).argsort(1)  # 0 for the lowest draw
    return (rank < count[:, None]) & ordinary
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.exact_count(exact_count)

# %% [markdown]
# ## 11. On real text, words come in pieces
#
# In the toy world a token is a word. In real text, cut by BPE (lesson 01), a word may be several. A sentence as it could stand in
# NumPy's documentation, masked piece by piece at 30 %:

# %%
from nextbert_lite import load_docs, train_bpe

docs = load_docs()
bpe = train_bpe((document.text for document in docs.train[::10]), vocab_size=2048)
sentence = "Return the elementwise logarithm of a multidimensional array."
pieces = torch.tensor([bpe.encode(sentence)])


def show_pieces(corrupted, selected, title, alt):
    rows = [[piece.strip() or "␣" for piece in bpe.tokens(row[0])] for row in (pieces, corrupted)]
    plots.show(draw_masked(*rows, selected[0].tolist(), title), alt=alt)


hidden = torch.rand(pieces.shape, generator=seeded(2)).lt(0.3) & (pieces > 4)
show_pieces(
    pieces.masked_fill(hidden, bpe.mask_id),
    hidden,
    "Piece by piece: the rest of a word gives it away",
    "A sentence of documentation cut into pieces; some pieces of long words are hidden while others of them are seen.",
)

# %% [markdown]
# A piece whose word is half in sight is an easy question. How often does that happen? The tokenizer knows which pieces belong to one
# word. Over the held-out documentation, of the selected pieces, which share has another piece of its word in sight?

# %%
in_sight, selected_pieces = 0, 0
encoded = bpe.backend.encode_batch([d.text for d in docs.validation[:300]], add_special_tokens=False)
for number, encoding in enumerate(encoded):
    word_of = torch.tensor(encoding.word_ids)  # (T,), the number of the word of each piece
    hidden = torch.rand(len(word_of), generator=seeded(seed, number)) < 0.15
    seen_of = torch.bincount(word_of[~hidden], minlength=int(word_of.max()) + 1)  # pieces in sight, of each word
    selected_pieces += int(hidden.sum())
    in_sight += int((seen_of[word_of[hidden]] > 0).sum())
print(
    f"{in_sight / selected_pieces:.0%} of {selected_pieces:,} selected pieces have another piece of their word in sight"
)
assert 0.2 < in_sight / selected_pieces < 0.8

# %% [markdown]
# **Whole-word masking** draws once for each word instead, and all its pieces share the draw. It takes one index:

# %%
word_of = torch.tensor([-1, *bpe.backend.encode(sentence, add_special_tokens=False).word_ids, -1])  # -1: special
long_word = torch.bincount(word_of[1:-1]).argmax()  # the word of the most pieces
for number in range(100):  # a draw that hides it, to have something to see
    draw_of_word = torch.rand(int(word_of.max()) + 1, generator=seeded(number))
    if draw_of_word[long_word] < 0.3:
        break
whole = (draw_of_word[word_of] < 0.3)[None] & (pieces > 4)
show_pieces(
    pieces.masked_fill(whole, bpe.mask_id),
    whole,
    "Whole words: all pieces of a word, or none",
    "The same sentence; where a piece is hidden, all pieces of its word are hidden.",
)
assert whole.any()
for word in range(int(word_of.max()) + 1):
    assert whole[0, word_of == word].unique().numel() == 1

# %% [markdown]
# Google's code has this as an option; the original BERT and RoBERTa mask piece by piece, and so do the next lessons, where losses are
# to be compared with theirs.
#
# ## What to remember
#
# * Text asks its own questions: cover a word, and the answer is known. **Select 15 %; of these 80 % `[MASK]`, 10 % a random word,
#   10 % as they are**; never a special token. Labels are −100 elsewhere.
# * One draw decides among three fates. Two draws of 10 % give 81/10/9, and in the output only a **test with a stated
#   false-alarm rate** on enough text shows it.
# * What is kept teaches the model to look at the word, what is replaced to doubt it.
# * The loss starts at **ln V + σ²/2**, with σ² = C s². Check it before you train.
# * The loss is the mean over the **selected** tokens. The logits of all others get exactly zero gradient, so the head
#   need not run there.

# %% [markdown]
# **What this scale cannot show.** Our four models saw 400 steps of a small language. Whether 80/10/10 pays in a large model is
# a question for its downstream tasks, and the published answer is "a little, sometimes".
#
# **An open problem.** How much to hide, and which words? 15 % was a choice of 2018; the best rate depends on the size of
# the model and on how the words are chosen (Wettig et al. 2022), and nobody can compute it beforehand.
#
# **Where this comes from**
#
# * Jacob Devlin et al., *BERT*, 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805); its code,
#   [google-research/bert](https://github.com/google-research/bert), has the exact counts.
# * Yinhan Liu et al., *RoBERTa*, 2019, [arXiv:1907.11692](https://arxiv.org/abs/1907.11692).
# * Ofir Press and Lior Wolf, *Using the Output Embedding to Improve Language Models*, 2017,
#   [arXiv:1608.05859](https://arxiv.org/abs/1608.05859).
# * Alexander Wettig et al., *Should You Mask 15% in Masked Language Modeling?*, 2022,
#   [arXiv:2202.08005](https://arxiv.org/abs/2202.08005).
# * Benjamin Warner et al., *ModernBERT*, 2024, [arXiv:2412.13663](https://arxiv.org/abs/2412.13663); *NeoBERT*, 2025,
#   [arXiv:2502.19587](https://arxiv.org/abs/2502.19587).
# * Wilson L. Taylor, *"Cloze Procedure": A New Tool for Measuring Readability*, Journalism Quarterly 30, 1953: covered words,
#   for people.
# * The bugs: [d2l-en issue 2582](https://github.com/d2l-ai/d2l-en/issues/2582) and the
#   [MLM of labml](https://github.com/labmlai/annotated_deep_learning_paper_implementations).
#
# **Next:** lesson 06 trains this model until it cannot get better, and knows where that is.
