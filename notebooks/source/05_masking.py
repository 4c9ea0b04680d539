# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Masking
#     question: What does a model learn from when nobody labels anything?
#     minutes: 130
#     part: "Part II: pretrain"
# ---

# %% [markdown]
# # 05 · Masking
#
# > the cook near the ovens `[MASK]` the waiters in the kitchen
#
# You can guess which word is missing: a verb, in the form for a single *cook* although *ovens* is the noun next to it, and
# something that people do to waiters in a kitchen. Nobody has labelled this sentence for you. Somebody wrote it, somebody
# else covered a word, and it became a question with a known answer. You can turn any text into such questions, as many as you
# like.
#
# **The question of this lesson:** what does a model learn from when nobody labels anything?
#
# | | |
# |---|---|
# | You will | build BERT's masking and test it with statistics, build the head that guesses masked words, predict the loss before the first step, find a famous bug, and measure what the odd rule 80/10/10 costs and buys |
# | You need | lesson 04 for the encoder; lesson 00 for cross-entropy; school mathematics for one integral |
# | It takes | about 130 minutes, five exercises of which two are builds; the machine needs about a minute |
#
# In the picture, the boxes are what the model sees. The word in colour below them is what it is asked for:

# %% tags=["hide-input"]
from nextbert_lite import COURSE_SENTENCE, plots


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
masked = words.index("praises")
seen = [*words[:masked], "[MASK]", *words[masked + 1 :]]
fig = draw_masked(
    words, seen, [i == masked for i in range(len(words))], "Cover a word, and the text asks its own question"
)
plots.show(fig, alt="The course's sentence with [MASK] in place of the verb, and below it the answer: praises.")

# %% [markdown]
# `[MASK]` is a token like any other, with a vector of its own. It says that a word was here. The lesson needs these imports:

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import IGNORE, Encoder, EncoderConfig, PerfectModel, ToyWorld, fit, load, load_docs, pad, seeded
from nextbert_lite.checks import lesson_05 as check
from nextbert_lite.core.encoder import ACTIVATIONS
from nextbert_lite.validate import check_masking, check_targets

# %% [markdown]
# Everything random below depends on one number. Change it and run the lesson again to see which results were luck:

# %% tags=["parameters"]
seed = 0

# %% [markdown]
# ## 1. One masked token, by hand
#
# What is the best answer to the question above? In the toy world we know every probability, so we can put each of its words
# into the masked position and ask how likely the sentence would be. Guess first: is there one right word?

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
V = tokenizer.vocab_size
sentences = [" ".join([*words[:masked], word, *words[masked + 1 :]]) for word in world.words]
perfect = world.log_probability(sentences).softmax(dim=0)  # (number of words,)
for word, p in zip(world.words, perfect.tolist(), strict=True):
    if p > 0:
        print(f"{word:>8} {p:.3f}")
assert (perfect > 0).sum() == 3 and perfect[world.words.index("praise")] == 0

# %% [markdown]
# Three words fit equally well, all of them singular. So even the perfect answer is a guess among three, and the plural
# *praise* is impossible, because the subject is the single *cook* and not the *ovens*.
#
# A model answers with a probability $p_v$ for each of the V words of the vocabulary. The truth is a list too: it is 1 at the
# word that was there and 0 elsewhere, which is called **one-hot**. The loss compares the two lists:
#
# $$\text{loss} = -\sum_{v=1}^{V} y_v \ln p_v = -\ln p_{\text{label}}$$
#
# Here are three answers. The first comes from a model that knows nothing, the second from one that knows that a verb is
# missing, the third from one that knows the whole language. (V counts the five special tokens too.) A loop sums over all V
# words:

# %% tags=["nbval-check-output"]
names = tokenizer.tokens(range(V))
topics = world.grammar["topics"].values()
verbs = {form for topic in topics for verb in topic["verbs"] for form in (verb["singular"], verb["plural"])}
models = {
    "knows nothing": [1 / V] * V,
    "knows verbs": [1 / len(verbs) if name in verbs else 0.0 for name in names],
    "knows all": [0.0] * (V - len(perfect)) + perfect.tolist(),  # the special tokens come first
}
one_hot = [float(name == "praises") for name in names]
by_hand = {}
for model_name, p in models.items():
    by_hand[model_name] = -sum(one_hot[v] * math.log(p[v]) for v in range(V) if one_hot[v])
    print(f"{model_name:>13}: {by_hand[model_name]:.4f} nats")

# %% [markdown]
# Every term but one is multiplied by zero, so only the logarithm at the right word remains. That is why nobody writes a
# one-hot list in practice. The label is the word's id, and `F.cross_entropy` picks the one term:

# %% tags=["nbval-check-output"]
label = torch.tensor([tokenizer.id("praises")])
for model_name, p in models.items():
    logits = torch.tensor([p]).log()  # (1, V); the softmax of ln p is p
    loss = F.cross_entropy(logits, label).item()
    print(f"{model_name:>13}: {loss:.4f} nats")
    assert abs(loss - by_hand[model_name]) < 1e-5
assert abs(by_hand["knows nothing"] - math.log(V)) < 1e-9 and abs(by_hand["knows all"] - math.log(3)) < 1e-9

# %% [markdown]
# The same numbers. The first is ln V and the last is ln 3, because even a model that knew everything would have to choose
# among three words here. To get from the first number to the last, a model has to find out about verbs, about *cook* being
# singular, and about kitchens.

# %% [markdown]
# ## 2. Which tokens to select
#
# Hiding one word of each sentence is slow, because the whole encoder runs for a single answer. Hiding all of them leaves
# nothing to guess from. BERT and RoBERTa select **15 %** of the tokens. Later models select more, for example NeoBERT 20 %
# and ModernBERT 30 %. Wettig et al. (2022) find 40 % better than 15 % for models of the size of BERT-large.
#
# To select tokens, draw a uniform number between 0 and 1 for each of them. Where it is below 0.15, the token is **selected**.
# For our sentence, with its ids:

# %% tags=["nbval-check-output"]
ids = torch.tensor([tokenizer.encode(COURSE_SENTENCE)])  # (B, T) = (1, 13)
print(ids)
draw = torch.rand(ids.shape, generator=seeded(seed, 5))
for token, number in zip(tokenizer.tokens(ids[0]), draw[0].tolist(), strict=True):
    print(f"{token:>8} {number:.2f} {'selected' if number < 0.15 else ''}")

# %% [markdown]
# `[CLS]` and `[SEP]` took part in this draw. They should not, because `[CLS]` comes first and `[SEP]` last in every text, and
# there is nothing to learn from guessing them. The same is true of padding. Special tokens are **never selected**.
#
# The loss will need a tensor of **labels**, with the original id where a token was selected and −100 everywhere else. −100 is
# no token's id. It is the number that torch's `cross_entropy` leaves out, and the course calls it `IGNORE`. At 30 %, so that
# there is something to see:

# %% tags=["nbval-check-output"]
selected = (draw < 0.3) & ~torch.isin(ids, torch.tensor(tokenizer.special_ids))
print(ids.masked_fill(~selected, IGNORE))
assert not selected[:, [0, -1]].any()  # [CLS] and [SEP]

# %% [markdown]
# ## 3. 80/10/10
#
# You could now replace each selected token by `[MASK]` and be done. BERT does not, and its paper says why:
#
# > Although this allows us to obtain a bidirectional pre-trained model, a downside is that we are creating a mismatch between
# > pre-training and fine-tuning, since the `[MASK]` token does not appear during fine-tuning. To mitigate this, we do not always
# > replace "masked" words with the actual `[MASK]` token. (Devlin et al. 2019, section 3.1)
#
# *Fine-tuning* trains a pretrained model further, for one task. People will use the model on complete texts, and a model
# that was only asked at `[MASK]` has never been asked for anything at an ordinary word. So of the selected tokens
#
# * 80 % become `[MASK]`,
# * 10 % become a **random word**,
# * 10 % **stay as they are**,
#
# and the model is asked for the original at all of them. At an ordinary word it cannot know whether the word is true, so it
# has to weigh what the word says against what the context says. Section 9 measures what that does.

# %% [markdown]
# ### Exercise 05.1 · build the masking ●●● · 30 minutes
#
# Write `mask_tokens`, which takes `ids`, (B, T), and returns two new tensors of the same shape and dtype (int64): what the
# model sees, and the labels. `ids` itself must not change. The rules:
#
# * Each ordinary token is selected by an independent draw with probability `rate`. Special tokens are never selected.
# * The labels are the original ids where a token was selected, and −100 elsewhere. A text may end up with no selected token.
# * Each selected token independently becomes `[MASK]` with probability 0.8, or a random word with probability 0.1, or it
#   stays. All other tokens stay.
# * A random word is drawn uniformly from all ordinary words of the vocabulary, for each position anew. It is never a special
#   token, and it may by chance be the original.
# * Every draw comes from `generator` (None stands for torch's own), so that the same state of the generator gives the same
#   result.
#
# Of the tokenizer use `special_ids` (a tuple in ascending order; in other tokenizers the ids are not 0 to 4), `mask_id` and
# `vocab_size`. The order and the kind of your draws are free. Because of that the check cannot compare number by number: it
# measures proportions on hundreds of thousands of tokens, and calls an answer wrong where, by that measure, a right one would
# be as far off less than once in a hundred million times. (`check_masking` of the solution only turns wrong arguments into
# clear errors; you may leave it out.)


# %% tags=["exercise-05.1", "my-bert-masking"]
def mask_tokens(ids, tokenizer, rate=0.15, generator=None):
    """Select tokens at random and corrupt them: 80 % become [MASK], 10 % a random word, 10 % stay.

    ids: (B, T) -> corrupted ids (B, T) and labels (B, T): the original id where selected, -100 elsewhere.
    """
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.mask_tokens(mask_tokens)

# %% [markdown]
# From here on the lesson uses your function if it passes, and the course's if it does not:

# %% tags=["nbval-check-output"]
mask_tokens = check.mine("05.1", mask_tokens)

# %% [markdown]
# Here is the course's sentence, masked. To see all three cases at once we select 60 % and look for a draw that has them,
# because a real draw of 15 % seldom does.

# %%
for number in range(1000):
    corrupted, labels = mask_tokens(ids, tokenizer, rate=0.6, generator=seeded(number))
    selected = labels != IGNORE
    hidden, kept = selected & (corrupted == tokenizer.mask_id), selected & (corrupted == ids)
    replaced = selected & ~hidden & ~kept
    if min(hidden.sum(), kept.sum(), replaced.sum()) >= 1 and kept.sum() + replaced.sum() == 3:
        break
rows = [tokenizer.tokens(row[0]) for row in (ids, corrupted)]
fig = draw_masked(
    *rows, selected[0].tolist(), "Each selected token is asked for: [MASK] blue, replaced orange, kept green"
)
plots.show(
    fig,
    alt="The course's sentence with some words as [MASK], others replaced or kept, and the original below each of them.",
)
assert (labels[~selected] == IGNORE).all() and torch.equal(labels[selected], ids[selected])

# %% [markdown]
# The colours are for you. The model does not see them, so to it a kept word looks like any other, and nothing marks a
# replaced one.
#
# Now you. *corrupt* makes one draw, *100 times* makes a hundred and counts. A click on a word masks that word alone, and the
# table says what the model of lesson 06 puts there and what a perfect predictor, which knows the grammar, would put there
# (lesson 06 builds both). Which words of the sentence are certain, and at which does even the perfect predictor have to
# guess?

# %%
from nextbert_lite import MaskingPlayground, show

playground = MaskingPlayground(*load("toy-small"), world, title="Which word can be told for certain?")
show(
    playground,
    alt="The course's sentence with its verb masked: praises, serves and feeds, a third each, by both predictors.",
)

# %% [markdown]
# The probability that the perfect predictor gives to the right word, at every position. (It lists the five likeliest words;
# *under* says that the right one is not among them.)

# %%
guess = playground.guess(COURSE_SENTENCE)
certain = []
for word, offered, p in zip(guess.tokens, guess.words, guess.perfect, strict=True):
    right = p[offered.index(word)] if word in offered else None
    print(f"{word:>8} {right:.2f}" if right is not None else f"{word:>8} under {p.min():.2f}")
    certain += [word] if right is not None and right > 0.9 else []
assert "the" in certain and not {"cook", "praises", "waiters"} & set(certain)

# %% [markdown]
# The grammar's small words are certain. Who acts, who is acted on and what they do is a guess among several words, which no
# model can avoid.

# %% [markdown]
# ## 4. Is it really 15 % and 80/10/10?
#
# Code that draws at random is hard to check, because its output is different each time and a wrong proportion looks like a
# right one. Here is another way to write the three cases, which public code has used. A draw of 10 % decides on the random
# words, *another* draw of 10 % on the kept ones, and the rest becomes `[MASK]`.


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


# %%
def count_cases(ids, corrupted, labels):
    """Return how many selected tokens became [MASK], were replaced and were kept."""
    selected = labels != IGNORE
    hidden = (selected & (corrupted == tokenizer.mask_id)).sum().item()
    kept = (selected & (corrupted == ids)).sum().item()
    return [hidden, int(selected.sum()) - hidden - kept, kept]


many, _ = world.sample_ids(100_000, seed=seed)  # (100000, 16)
programs = {"one draw": mask_tokens, "two draws": two_draws}
results = {name: program(many, tokenizer, generator=seeded(seed, 1)) for name, program in programs.items()}
for name, (corrupted, labels) in results.items():
    counts = count_cases(many[:1000], corrupted[:1000], labels[:1000])
    print(f"{name:>9}: {'  '.join(f'{count / sum(counts):.3f}' for count in counts)}  of {sum(counts):,}")

# %% [markdown]
# Each is a little off, as chance would have it. How far off is too far? A test needs one number for *how far*, and the
# probability that a *right* program would be at least as far off by chance, the **p-value**. The number is Pearson's **χ²**
# (*chi square*). For each case, it takes the square of the deviation in proportion to the expected count:
#
# $$\chi^2 = \sum_{\text{cases}} \frac{(\text{counted} - \text{expected})^2}{\text{expected}}$$
#
# For large counts the p-value of a χ² of x is known, and depends on the **degrees of freedom**, the number of cases less one.
# With three cases (two degrees of freedom) it is $e^{-x/2}$. With two cases (one degree) it is $\mathrm{erfc}\sqrt{x/2}$, the
# probability that a normal variable is more than $\sqrt{x}$ standard deviations from its mean; Python has it as `math.erfc`.
# Both are from statistics, and we take them without proof.
#
# If you call a program wrong when its p-value is below some limit, then that limit is your rate of **false alarms**. You
# choose it. We take one in a million.


# %% tags=["nbval-check-output"]
def chi_square(counts, proportions):
    """How far counts are from what the proportions let expect."""
    expected = [sum(counts) * proportion for proportion in proportions]
    return sum((count - e) ** 2 / e for count, e in zip(counts, expected, strict=True))


def p_value(x, cases):
    """The probability that a right program has a chi square of more than x, for two or three cases."""
    return math.erfc(math.sqrt(x / 2)) if cases == 2 else math.exp(-x / 2)


ALARM = 1e-6
limit = -2 * math.log(ALARM)  # for three cases
print(f"with three cases a right program exceeds {limit:.1f} once in {1 / ALARM:,.0f} times")

# %% [markdown]
# Do you believe the formula? You can test it like anything else. We draw the counts that a right program would give for 1,500
# selected tokens, 100,000 times over, and raise an alarm at a p-value below 5 %. How many alarms do you expect?

# %%
generator, n, tests = seeded(seed, 9), 1500, 100_000
hidden = torch.binomial(torch.full((tests,), float(n)), torch.full((tests,), 0.8), generator=generator)
replaced = torch.binomial(n - hidden, torch.full((tests,), 0.5), generator=generator)  # half of the rest
counts = torch.stack([hidden, replaced, n - hidden - replaced])  # (3, tests)
expected = n * torch.tensor([0.8, 0.1, 0.1])[:, None]
alarms = ((-((counts - expected) ** 2 / expected).sum(0) / 2).exp() < 0.05).float().mean().item()
print(f"false alarms: {alarms:.2%}, by the formula 5 %")
assert abs(alarms - 0.05) < 5 * math.sqrt(0.05 * 0.95 / tests) + 0.002  # 0.002: counts are whole numbers

# %% [markdown]
# The formula is accurate at this size. Now the test itself, on about a million words: is 15 % selected, and is it 80/10/10?
# Each program gets two p-values. One in ten is unremarkable; below one in a million, we call the program wrong. (A random
# word is the original in one of W cases, W being the number of ordinary words, and then it counts as kept.)

# %%
W = V - 5
proportions = [0.8, 0.1 - 0.1 / W, 0.1 + 0.1 / W]
ordinary = int((many > 4).sum())
chi = {}
for name, (corrupted, labels) in results.items():
    counts = count_cases(many, corrupted, labels)
    selection = chi_square([sum(counts), ordinary - sum(counts)], [0.15, 0.85])
    chi[name] = chi_square(counts, proportions)
    print(f"{name}: {sum(counts) / ordinary:.4f} selected,", "  ".join(f"{n / sum(counts):.4f}" for n in counts))
    print(f"{'':>{len(name)}}  p-values: {p_value(selection, 2):.1e} and {p_value(chi[name], 3):.1e}")
    assert p_value(selection, cases=2) > ALARM  # both select 15 %
assert p_value(chi["one draw"], 3) > ALARM > p_value(chi["two draws"], 3)
assert (results["one draw"][1][many < 5] == IGNORE).all()  # no special token was selected

# %% [markdown]
# Two independent draws of 10 % give **81/10/9**, because a token becomes `[MASK]` if it escapes both, and 0.9 · 0.9 = 0.81.
# The bug is small. It is in public teaching code, and you cannot see it by looking at an output. How much text does it take
# to notice?

# %% tags=["hide-input"]
sizes = [300 * 2**k for k in range(9)] + [100_000]
fig, ax = plots.figure()
for (name, (corrupted, labels)), marker in zip(results.items(), ["o-", "s--"], strict=True):
    curve = [chi_square(count_cases(many[:n], corrupted[:n], labels[:n]), proportions) for n in sizes]
    ax.plot([int((many[:n] > 4).sum()) for n in sizes], curve, marker, markersize=5, label=name)
ax.axhline(limit, color=plots.GREY, linestyle=":")
ax.text(4000, limit * 1.15, "one false alarm in a million", color=plots.GREY, fontsize=9)
ax.set(xscale="log", yscale="log", ylim=(0.05, None), xlabel="words of text", ylabel="χ² against 80/10/10")
ax.set_title("Telling 81/10/9 from 80/10/10 takes more than 100,000 words")
ax.legend()
plots.show(
    fig,
    alt=f"χ² of two draws grows with the words, from below the limit to {chi['two draws']:.0f}; that of one draw stays below.",
)
per_token = chi_square([0.81, 0.1, 0.09], [0.8, 0.1, 0.1])  # what each selected token adds on average
needed = (limit - 2) / (0.15 * per_token)  # 2 is the χ² that a right program has on average
print(f"expected to reach the limit after {needed:,.0f} words")
assert needed > 100_000

# %% [markdown]
# On average, χ² of a wrong program grows by the same amount with each selected token, and χ² of a right one stays near 2, the
# degrees of freedom; both fluctuate. So "it passed the test" says something only together with *how much* was tested. This
# is why exercise 05.1 was checked on hundreds of thousands of tokens.
#
# ## 5. The head: from a vector to a word
#
# The encoder gives a vector of C numbers for each token. How does that become a choice among V words? By a dot product with a
# vector for each word: words whose vectors point the same way get large scores, and the larger the longer the vector.
#
# We have a vector for each word already, in the embedding table at the other end of the model. BERT uses the **same table**
# for both (Press and Wolf 2017), which is called *tying* the weights. A dense layer, an activation function and a norm come
# before it, and a bias for each word after it, which can learn the word's frequency:
#
# $$\text{logits} = \mathrm{norm}\big(\mathrm{GELU}(h\,W + b)\big)\; E^\top + \text{bias}$$
#
# Encoder and head together are the **masked language model**, MLM for short. In shapes, for a toy example of one text of 4
# tokens:

# %% tags=["nbval-check-output"]
h, E = torch.randn(1, 4, 8, generator=seeded(seed, 20)), torch.randn(10, 8, generator=seeded(seed, 21))
print("hidden", tuple(h.shape), " table", tuple(E.shape), " logits", tuple((h @ E.T).shape))
some = torch.tensor([[False, True, False, True]])
print("hidden[selected]", tuple(h[some].shape), " logits", tuple((h[some] @ E.T).shape))

# %% [markdown]
# ### Exercise 05.2 · build the masked language model ●●● · 30 minutes
#
# Write two modules. `MLMHead(encoder)` has exactly the parts `dense` (a linear layer C → C with bias), `norm` (a layer norm
# with the encoder's `eps`) and `bias` (V numbers, 0 at the start). It applies dense, the activation function and the norm, in
# this order, and then the table, which `forward(hidden, embedding)` is given; `hidden` has the shape (…, C). C, V, eps and
# the name of the activation function are in `encoder.config`, as `width`, `vocab_size`, `eps` and `activation`;
# `ACTIVATIONS[name]` is the function. `dense` starts as the encoder's layers do, by `encoder.initialise(self.dense)`.
#
# `MaskedLanguageModel(encoder)` has the parts `encoder` and `head`, and no second table.
#
# * `model(ids, mask)` gives the logits of every position, (B, T, V). `mask`, (B, T), says what may be attended to; the
#   encoder takes it as it is, and takes None.
# * `model.loss(ids, labels, mask)` gives the mean of −ln p over the selected tokens of the whole batch, as a tensor of one
#   number from which `backward()` runs. Selected is where the label is not −100. If nothing is selected, the loss is 0, not
#   NaN, and `backward()` still runs.
#
# The arguments must not change. For the loss you may run the head on all positions or on the selected ones only; section 7
# compares the two. (`check_targets` of the solution only turns wrong arguments into clear errors; you may leave it out.)


# %% tags=["exercise-05.2", "my-bert-masking"]
class MLMHead(nn.Module):
    """Hidden states to a score for each word of the vocabulary: dense, activation, layer norm, tied embeddings."""

    def __init__(self, encoder):
        super().__init__()
        ### BEGIN SOLUTION
        C = encoder.config.width
        self.dense = nn.Linear(C, C)
        self.activation = ACTIVATIONS[encoder.config.activation]
        self.norm = nn.LayerNorm(C, eps=encoder.config.eps)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))
        encoder.initialise(self.dense)
        ### END SOLUTION

    def forward(self, hidden, embedding):
        """hidden: (..., C), embedding: (V, C) -> logits (..., V)."""
        ### BEGIN SOLUTION
        return F.linear(self.norm(self.activation(self.dense(hidden))), embedding, self.bias)
        ### END SOLUTION


class MaskedLanguageModel(nn.Module):
    """An encoder with an MLM head: what is pretrained."""

    def __init__(self, encoder):
        super().__init__()
        ### BEGIN SOLUTION
        self.encoder = encoder
        self.head = MLMHead(encoder)
        ### END SOLUTION

    def forward(self, ids, mask=None):
        """ids: (B, T), mask: (B, T), True = may be attended to -> logits of every position, (B, T, V)."""
        ### BEGIN SOLUTION
        return self.head(self.encoder(ids, mask), self.encoder.tokens.weight)
        ### END SOLUTION

    def loss(self, ids, labels, mask=None):
        """Return the mean cross-entropy over the selected tokens, in nats; 0 if none was selected."""
        ### BEGIN SOLUTION
        check_targets(labels, ids, self.encoder.config.vocab_size)
        hidden = self.encoder(ids, mask)
        selected = labels != IGNORE
        logits = self.head(hidden[selected], self.encoder.tokens.weight)  # (selected tokens, V)
        total = F.cross_entropy(logits, labels[selected], reduction="sum")
        return total / max(1, len(logits))
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.masked_language_model(MaskedLanguageModel)

# %% [markdown]
# The models of this lesson are yours from here on, if your class passes:

# %% tags=["nbval-check-output"]
MaskedLanguageModel = check.mine("05.2", MaskedLanguageModel)

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
# The table also learns from two sides. As input, a word's row gets a gradient when the word is in the batch. As output, every
# row gets one at every selected token: up for the right word, down for all the others. We take the two apart by giving the
# head a copy of the table. The parts add up to the gradient of the tied one:

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
# A number that you know beforehand is the cheapest test there is. What is the loss of a model that has not learned anything?
# Lesson 00 said ln V, when all words are equally likely. But the weights of a new model are random, so its logits are not all
# equal. Is a model with random opinions better off than one without, or worse?
#
# Write the loss out. The softmax divides $e^{z_v}$ by the sum over all words, so
#
# $$\text{loss} = -\ln \frac{e^{z_{\text{label}}}}{\sum_v e^{z_v}} = \ln \sum_v e^{z_v} - z_{\text{label}} .$$
#
# The logits of a new model favour no word, so $z_{\text{label}}$ is 0 on average. And the sum is V times the *mean of* $e^z$.
# If z has the mean 0, is the mean of $e^z$ equal to $e^0 = 1$?

# %%
z = torch.randn(1_000_000, generator=seeded(seed, 2), dtype=torch.float64)
for sigma in (0.5, 1.0, 1.5):
    mean = (sigma * z).exp().mean().item()
    print(f"σ = {sigma}: mean of e^z = {mean:.3f}, its logarithm {math.log(mean):.3f}, σ²/2 = {sigma**2 / 2:.3f}")
    assert abs(math.log(mean) - sigma**2 / 2) < 5 * math.sqrt((math.exp(sigma**2) - 1) / len(z))

# %% [markdown]
# It is more than 1, because $e^z$ gains more from a z above 0 than it loses from one below: $e^1$ and $e^{-1}$ have the mean
# 1.54. And the numbers look like $e^{\sigma^2/2}$. They are. Logits are sums of many small terms, so they are nearly normal,
# with the density $\frac{1}{\sigma\sqrt{2\pi}} e^{-z^2/2\sigma^2}$ at z. The mean weighs each $e^z$ with it:
#
# $$\text{mean of } e^z = \int e^{z}\, \frac{1}{\sigma\sqrt{2\pi}}\, e^{-z^2/2\sigma^2}\, dz$$
#
# Put the exponents together and complete the square, as in school:
#
# $$z - \frac{z^2}{2\sigma^2} = \frac{\sigma^2}{2} - \frac{(z - \sigma^2)^2}{2\sigma^2}$$
#
# The first part is a constant and leaves the integral. What stays inside is the normal density again, moved to the right by
# $\sigma^2$; its area is 1. So the mean is $e^{\sigma^2/2}$, and
#
# $$\boxed{\;\text{loss at the start} \approx \ln V + \frac{\sigma^2}{2}\;}$$
#
# Random opinions cost half their variance. How large may σ be? The integral counts very large z that V words are too few to
# contain: the largest of V normal numbers is at most about $\sigma\sqrt{2 \ln V}$. But the moved density has its mean at
# $\sigma^2$. So the formula must fail where $\sigma^2 > \sigma\sqrt{2\ln V}$, that is where $\sigma > \sqrt{2 \ln V}$. There
# the largest logit decides, and the loss is at most $\sigma\sqrt{2 \ln V}$ on average. Random logits for two sizes of
# vocabulary:

# %%
sigmas = torch.linspace(0, 8, 17)
random_logits = {}
for size, rows in ((V, 2000), (30522, 100)):
    noise = torch.randn(rows, size, generator=seeded(seed, 3))
    random_logits[size] = [((s * noise).logsumexp(-1) - s * noise.mean(-1)).mean().item() for s in sigmas.tolist()]
for size, losses in random_logits.items():
    edge = math.sqrt(2 * math.log(size))
    for s, measured in zip(sigmas.tolist(), losses, strict=True):
        formula = math.log(size) + s**2 / 2
        assert s > edge / 2 or abs(measured - formula) < 0.1  # well below the edge the formula holds
        assert s <= edge or measured < min(formula, s * edge) - 0.2  # above it, less than both
    print(f"V = {size:,}: √(2 ln V) = {edge:.2f}; at σ = 8 the loss is {losses[-1]:.1f}, not {formula:.1f}")

# %% [markdown]
# The same as a figure, on the right. On the left is the step of the proof that moves the density. Lines are the formula, dots
# are measured:

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(8.0, 3.3))
grid = torch.linspace(-4, 5, 400)
bell = (-(grid**2) / 2).exp() / math.sqrt(2 * math.pi)
axes[0].plot(grid, bell, label="normal, σ = 1")
axes[0].plot(grid, bell * grid.exp(), "--", label="times $e^z$: moved by σ²")
axes[0].set(xlabel="z", ylabel="density", ylim=(0, 0.95))
axes[0].set_title("Times $e^z$, the density moves by σ²", fontsize=10)
axes[0].legend(loc="upper left")
for (size, losses), colour, marker in zip(random_logits.items(), (plots.BLUE, plots.ORANGE), "os", strict=True):
    edge = math.sqrt(2 * math.log(size))
    low, high = torch.linspace(0, edge, 50), torch.linspace(edge, 8, 50)
    axes[1].plot(low, math.log(size) + low**2 / 2, color=colour, linewidth=1.2)
    axes[1].plot(high, edge * high, ":", color=colour)
    axes[1].plot(sigmas, losses, marker, color=colour, markersize=4, label=f"V = {size:,}")
    axes[1].axvline(edge, color=colour, linewidth=0.8, alpha=0.5)
axes[1].set(xlabel="σ, standard deviation of the logits", ylabel="loss (nats)")
axes[1].set_title("ln V + σ²/2 holds well below √(2 ln V)", fontsize=10)
axes[1].legend(loc="upper left")
plots.show(
    fig,
    alt="Left: the normal density and, taller and further right, the density times e to the z. Right: measured losses of "
    "random logits for two vocabularies follow ln V plus half the variance, and stay below it from the square root of 2 ln V.",
)

# %% [markdown]
# Beyond the edge (the thin vertical lines) the dots stay below the dotted line, the bound by the largest logit.
#
# What is σ in our model? A logit is a dot product $\sum_c h_c E_{vc}$. The head's norm makes the squares of the $C$ numbers
# $h_c$ add up to C (mean square 1). The entries of the table are random with standard deviation $s$. Variances of independent
# terms add up, as in lesson 02:
#
# $$\sigma^2 = \sum_c h_c^2\, s^2 = C s^2$$
#
# ### Exercise 05.3 · predict the result ●●○ · 5 minutes
#
# A model of BERT-base's size has C = 768 and V = 30,522, and draws the entries of its table from a normal distribution with s
# = 0.02. At which MLM loss does it start? Give two digits after the point; `math.log` helps.

# %% tags=["exercise-05.3"]
loss_of_a_new_bert = None
### BEGIN SOLUTION
loss_of_a_new_bert = math.log(30522) + 768 * 0.02**2 / 2  # ln V + C s² / 2
### END SOLUTION

# %% tags=["nbval-check-output"]
check.start_loss(loss_of_a_new_bert)

# %% [markdown]
# We measure that one with a random table of that size. (Google's code draws from a *truncated* normal distribution, cut off
# at 2s, whose standard deviation is smaller, so its BERT starts a little lower. Hugging Face's does not truncate.)

# %%
h = F.layer_norm(torch.randn(100, 768, generator=seeded(seed, 5)), (768,))
E = torch.empty(30522, 768)
for kind, limit_at in (("normal", 10.0), ("truncated", 2.0)):
    nn.init.trunc_normal_(E, a=-limit_at, b=limit_at, generator=seeded(seed, 4))
    E *= 0.02
    z = h @ E.T  # (100, V)
    measured = (z.logsumexp(-1) - z.mean(-1)).mean().item()  # the mean over all labels there could be
    print(f"{kind:>9}: s = {E.std():.4f}, loss {measured:.2f}; ln V = {math.log(30522):.2f}")
    assert abs(measured - (math.log(30522) + 768 * E.std().item() ** 2 / 2)) < 0.02

# %% [markdown]
# Then our own models, from the first to the last layer, with two initialisations: BERT's 0.02, and 1/√C, which this lesson's
# small models use (it makes σ = 1). For each we make 100 new models and give them the same 64 sentences. Predict both before
# you run the cell: C is 64.

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
    losses, variance = start_losses(init_std, n=100)
    above, error = losses.mean().item() - math.log(V), losses.std().item() / math.sqrt(len(losses))
    expected = 64 * init_std**2 / 2
    print(f"{name}: C s²/2 = {expected:.3f}, half the logits' variance {variance / 2:.3f}", end=", ")
    print(f"measured ln V + {above:.3f} ± {error:.3f}; one model is off by ± {losses.std():.2f}")
    assert abs(above - expected) < 4 * error + 0.005  # 0.005: V is finite
    assert abs(variance / 2 - expected) < 0.05 * expected + 0.001

# %% [markdown]
# Predicted, then measured. A single model is off by a little, because most selected tokens look the same to it, `[MASK]`, and
# some word that is frequent in the labels happens to score high or low. A start half a nat above ln V does no harm: section
# 9 trains from there, and its models are below 2 nats after 600 steps. What is *not* fine is what you get when you tie the
# head to `nn.Embedding` as torch initialises it, with s = 1 and therefore σ = 8. Where will the loss start?

# %%
losses, variance = start_losses(init_std=1.0, n=20)
largest = 8 * torch.randn(2000, V, generator=seeded(seed, 8)).amax(1).mean().item()
print(f"σ² = {variance:.0f}, loss at the start {losses.mean():.0f} nats; ln V = {math.log(V):.1f}")
print(f"the largest of {V} normal numbers with σ = 8 is {largest:.0f} on average")
assert losses.mean() > 2 * math.log(V)
assert abs(random_logits[V][-1] - largest) < 2  # beyond the edge the largest logit decides

# %% [markdown]
# The model is far beyond the edge, so its loss is about its largest logit: it is very sure of a random word. If your own run
# starts several times above ln V, look at the initialisation first. (A loss below the formula need not be a bug. Some recipes
# start the bias at the words' log frequencies, and then the model knows the frequencies before its first step.)

# %% [markdown]
# ## 7. Only the selected positions
#
# A batch has B · T positions, and about 15 % of them have a label. The head can run on all of them, with −100 telling the
# loss which to ignore, or on the selected ones only, as in Google's code (`gather_indexes`) and in fairseq's RoBERTa
# (`masked_tokens`). Is that the same? First on all positions. The size of the loss's gradient at each position's logits:

# %%
torch.manual_seed(seed)
model = MaskedLanguageModel(Encoder(EncoderConfig(vocab_size=V, init_std="fan_in"))).double()
one_corrupted, one_labels = mask_tokens(ids, tokenizer, rate=0.5, generator=seeded(seed, 2))
logits = model(one_corrupted)  # (1, T, V)
logits.retain_grad()
F.cross_entropy(logits.flatten(0, 1), one_labels.flatten(), ignore_index=IGNORE).backward()
size = logits.grad.norm(dim=-1)[0]  # (T,)
for token, number in zip(tokenizer.tokens(one_corrupted[0]), size.tolist(), strict=True):
    print(f"{token:>8} {number:.4f}")
selected = one_labels[0] != IGNORE
assert selected.any() and (logits.grad[0, ~selected] == 0).all() and (size[selected] > 0).all()

# %% [markdown]
# The gradient at unselected positions is **exactly zero**, in all V logits, because the loss is a mean over the selected
# tokens and the other logits do not occur in it. Computing them, and their backward pass, is wasted. Leave them out, and the
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
# How much work is saved? We let torch count the operations of a whole step, forward and backward. (A model of your own whose
# head runs on all positions saves nothing in the second line.)

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
assert whole[1] <= whole[0]

# %% [markdown]
# In a real model the vocabulary is larger, and so is the saving. For BERT-base, by lesson 04's formula for the encoder (512
# tokens a text) and $2(C^2 + VC)$ for the head, for each token:

# %% tags=["nbval-check-output"]
C, L, T = base.width, base.layers, 512
in_encoder, in_head = L * (24 * C**2 + 4 * T * C), 2 * (C**2 + base.vocab_size * C)
saved = 0.85 * in_head / (in_encoder + in_head)
print(f"encoder {in_encoder / 1e6:.0f} million operations a token, head {in_head / 1e6:.0f}; saved {saved:.0%} of all")
print(f"and memory: logits of 32 such texts take {32 * T * base.vocab_size * 4 / 2**30:.1f} GiB, or 15 % of it")
assert 0.1 < saved < 0.3

# %% [markdown]
# The same fact has another side. The whole encoder runs, and only 15 % of its outputs are ever compared with anything, while
# a causal language model (GPT) learns from every token of every pass. That is the usual objection to masked language
# modelling, and where ELECTRA starts: it asks a question at all tokens. Its authors' ablation gives 85.0 on GLUE, a
# collection of tasks on English sentences, when all tokens are asked, and 82.4 when only 15 % are (Clark et al. 2020).

# %% [markdown]
# ## 8. A loss that looks too good
#
# ### Exercise 05.4 · find the bug ●●○ · 8 minutes
#
# This loss has the bug of a well-known textbook's code, in a simpler setting. `originals` holds the original id at *every*
# position here (there is no −100), and `selected` says where the model was asked. To see whether the loss can be trusted, we
# give it the answers of a program that has learned nothing: it repeats what it sees, and answers `[MASK]` where it sees
# `[MASK]`.


# %%
def buggy_loss(logits, originals, selected):
    loss = F.cross_entropy(logits.flatten(0, 1), originals.flatten())
    return (loss * selected).sum() / selected.sum()


corrupted, labels = mask_tokens(batch_ids, tokenizer, generator=seeded(seed))
copying = 8.0 * F.one_hot(corrupted, V).float()  # (B, T, V): logits that say what is there already
at_masks = corrupted == tokenizer.mask_id
right = (copying.argmax(-1) == batch_ids)[at_masks].sum().item()
reported = buggy_loss(copying, batch_ids, labels != IGNORE).item()
print(
    f"{right} of {int(at_masks.sum())} masked tokens right; reported loss {reported:.2f} nats, ln V = {math.log(V):.2f}"
)
assert right == 0 and reported < math.log(V) / 2

# %% [markdown]
# None of the masked tokens is right, and the reported loss is far better than that of guessing at random. Write it again, so
# that it gives the mean over the selected tokens, as a tensor of one number from which `backward()` runs. If nothing is
# selected it is 0 (a number or a tensor).


# %% tags=["exercise-05.4"]
def selected_loss(logits, originals, selected):
    """logits: (B, T, V), originals: (B, T), selected: (B, T) of bool -> mean loss over the selected tokens"""
    ### BEGIN SOLUTION
    losses = F.cross_entropy(logits.flatten(0, 1), originals.flatten(), reduction="none").view(originals.shape)
    return (losses * selected).sum() / selected.sum().clamp_min(1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.selected_loss(selected_loss)

# %% [markdown]
# What the right loss says of the copying program, beside what was reported:

# %%
chosen = labels != IGNORE
honest = F.cross_entropy(copying[chosen], batch_ids[chosen]).item()
print(f"over the selected tokens {honest:.2f} nats, reported {reported:.2f}")
assert honest > math.log(V) > reported

# %% [markdown]
# A sum over *all* tokens, $-\sum_{i=1}^{N} \ln P(x_i \mid \text{corrupted text})$, makes the same mistake, unless i runs over
# the selected positions only. It asks the model mostly for words that are in plain sight. Is that harmless, since copying is
# easy? The next section trains a model that way too.

# %% [markdown]
# ## 9. What the rules teach
#
# We train four models for 600 steps each, on the same sentences, with the same 15 % of the tokens selected. They differ in
# what happens to the selected tokens, and the last one in its loss:
#
# | | `[MASK]` | replaced | kept | loss over |
# |---|---|---|---|---|
# | only masked | 100 % | | | selected tokens |
# | masked or kept | 80 % | | 20 % | selected tokens |
# | BERT's rule | 80 % | 10 % | 10 % | selected tokens |
# | BERT's rule, loss everywhere | 80 % | 10 % | 10 % | all real tokens |

# %%
conditions = {  # proportions of [MASK] and replaced, the rest is kept; whether the loss is over all tokens
    "only masked": (1.0, 0.0, False),
    "masked or kept": (0.8, 0.0, False),
    "BERT's rule": (0.8, 0.1, False),
    "BERT's rule, loss everywhere": (0.8, 0.1, True),
}


def mask_by(ids, hide, replace, rate, generator):
    """Select and treat tokens as `mask_tokens` does, with other proportions."""
    selected = (torch.rand(ids.shape, generator=generator) < rate) & (ids > 4)
    draw = torch.rand(ids.shape, generator=generator)
    random_words = torch.randint(5, V, ids.shape, generator=generator)
    corrupted = ids.masked_fill(selected & (draw < hide), tokenizer.mask_id)
    corrupted = torch.where(selected & (hide <= draw) & (draw < hide + replace), random_words, corrupted)
    return corrupted, ids.masked_fill(~selected, IGNORE)


# %% [markdown]
# Training is one call of `fit`, the loop that lesson 06 builds:


# %%
def train(hide, replace, everywhere):
    """Return a model that 600 steps of these rules have trained, and the loss that it reports at the end."""

    def batch(step):
        ids, mask = world.sample_ids(64, seed=10_000 * (seed + 1) + step)
        corrupted, labels = mask_by(ids, hide, replace, 0.15, seeded(seed, step))
        return {"ids": corrupted, "labels": ids.masked_fill(~mask, IGNORE) if everywhere else labels, "mask": mask}

    torch.manual_seed(seed)
    model = MaskedLanguageModel(Encoder(EncoderConfig(vocab_size=V, init_std="fan_in")))
    history = fit(model, batch, steps=600, lr=3e-3, warmup=50, seed=seed)
    return model.cpu().eval(), sum(history.loss[-30:]) / 30


# %% [markdown]
# Then each model answers three questions, on 500 new sentences:
#
# 1. The sentence is complete. The head is asked at each word *in plain sight*: does it name that word?
# 2. 15 % are `[MASK]`: does it guess them?
# 3. 15 % are random words, so wrong: does it name the right one, or copy the wrong one?
#
# Guess before you run: which model cannot name a word that it sees? Which one copies what is wrong?

# %%
clean, clean_mask = world.sample_ids(500, seed=seed + 77)
with_masks, mask_labels = mask_by(clean, 1.0, 0.0, 0.15, seeded(seed, 77))
with_errors, error_labels = mask_by(clean, 0.0, 1.0, 0.15, seeded(seed, 78))
wrong = (error_labels != IGNORE) & (with_errors != clean)
answers = {}
for name, rules in conditions.items():
    model, reported = train(*rules)
    with torch.no_grad():
        at_words = model(clean, clean_mask).argmax(-1) == clean
        at_masks = model(with_masks, clean_mask).argmax(-1) == clean
        at_errors = model(with_errors, clean_mask).argmax(-1)
        loss = model.loss(with_masks, mask_labels, clean_mask).item()
    answers[name] = {
        "names": at_words[clean > 4].float().mean().item(),
        "guesses": at_masks[mask_labels != IGNORE].float().mean().item(),
        "repairs": (at_errors == clean)[wrong].float().mean().item(),
        "copies": (at_errors == with_errors)[wrong].float().mean().item(),
    } | {"loss": loss, "reported": reported}
    print(f"{name:>28}: " + ", ".join(f"{what} {value:.2f}" for what, value in answers[name].items()))

# %% [markdown]
# The last two columns are the loss at masked tokens of new sentences and the loss that training reported. The first four as a
# figure:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(8.0, 3.4))
questions = ["names a word\nin plain sight", "guesses a\nmasked word", "repairs a\nwrong word", "copies a\nwrong word"]
for number, (name, values) in enumerate(answers.items()):
    ax.bar([q + 0.2 * number - 0.3 for q in range(4)], list(values.values())[:4], width=0.18, label=name)
ax.set_xticks(range(4), questions)
ax.set(ylabel="proportion of the words", ylim=(0, 1.3))
ax.set_title("Kept words teach a model to look, replaced words to doubt")
ax.legend(fontsize=8.5, loc="upper center", ncols=2)
plots.show(
    fig,
    alt="Bars for four models: only masked names about half of the words it sees; masked or kept names nearly all but "
    "copies many wrong ones; BERT's rule is between and copies next to none; with the loss everywhere it copies again.",
)
only_masked, with_kept, berts, everywhere = answers.values()
assert only_masked["names"] < only_masked["guesses"]  # sees the word, and does worse than at a masked token
assert with_kept["names"] > berts["names"] > only_masked["names"] + 0.05
assert berts["repairs"] > with_kept["repairs"] + 0.1
assert berts["copies"] < 0.05 and min(with_kept["copies"], everywhere["copies"]) > berts["copies"] + 0.05
assert everywhere["reported"] < berts["reported"] / 3 and everywhere["loss"] > 3 * everywhere["reported"]

# %% [markdown]
# Model by model:
#
# * **Only masked.** It names a word in plain sight *less* often than it guesses a masked one. It was never asked there, so
#   nothing taught it to look at the word itself; it says what the context suggests.
# * **Masked or kept.** Copying a kept word is easily learned. The model names nearly everything that it sees, and where the
#   word is wrong it often copies the error.
# * **BERT's rule.** A word in plain sight may be wrong, so it has to be weighed against its context. Next to no error is
#   copied, and more words are named than by the first model.
# * **The loss everywhere** undoes that. Few of the words that it sees are replaced, so copying is nearly always right, and
#   that is what it learns. Compare its last two columns: the reported loss is excellent, and mostly about words that nobody
#   needed to guess. At masked tokens its loss is many times higher. What you lose is the meaning of the number.
#
# ### What the rule costs
#
# After these 600 steps, BERT's rule has a higher loss at masked tokens than *masked or kept*. Is that the price of the random
# words, which make the context less reliable? Two of the four models are controls: "only masked" never reads a random word, and
# "loss everywhere" reads as many as BERT's rule has. Guess where they are.

# %%
for name, values in answers.items():
    print(f"{name:>28}: {values['loss']:.2f} nats at masked tokens")
    assert values["loss"] < 2  # from a start near ln V + 0.5
assert min(berts["loss"], only_masked["loss"]) > max(with_kept["loss"], everywhere["loss"]) + 0.1

# %% [markdown]
# "Only masked" is as slow as BERT's rule without any random words, and "loss everywhere" is fast with them. So reading random
# words is not what slows a model down here. The two fast models have something else in common: they are often asked at a word
# that they see and can nearly always trust. With this recipe and after 600 steps, that helps.
#
# This was the speed of learning. To know the price itself, we need the best possible predictors. In the toy world we have them:
# the one that must reckon with random words, as after 80/10/10, and the one that may trust every word in sight. Both answer the
# same masked tokens of 2,000 sentences. How much higher is the loss of the first? Guess.

# %%
from nextbert_lite.corpora.bayes import posterior

fresh, fresh_mask = world.sample_ids(2000, seed=seed + 78)
with_masks, mask_labels = mask_by(fresh, 1.0, 0.0, 0.15, seeded(seed, 79))
asked = mask_labels != IGNORE
doubting = PerfectModel(world, rate=0.15).losses(with_masks, mask_labels)  # (selected tokens,)
trusting = -posterior(world, with_masks)[asked].gather(1, mask_labels[asked][:, None])[:, 0].log()
price = (doubting - trusting).mean().item()
print(f"best after 80/10/10: {doubting.mean():.4f} nats, best that trusts every word: {trusting.mean():.4f}")
print(f"the price of 80/10/10 for a perfect predictor: {price:.5f} nats")
assert abs(price) < 0.002

# %% [markdown]
# For a perfect predictor the rule costs about 0.0002 nats. And a model that was trained with it to the end? The course ships
# lesson 06's, trained with 80/10/10:

# %%
trained, _ = load("toy-small")
with torch.no_grad():
    logits = trained.eval()(with_masks, fresh_mask)[asked].double()
excess = F.cross_entropy(logits, mask_labels[asked]).item() - trusting.mean().item()
print(f"lesson 06's model, trained with 80/10/10: {excess:.3f} nats above the best that trusts every word")
assert excess < 0.03 < berts["loss"] - trusting.mean().item()

# %% [markdown]
# So what you saw after 600 steps is the *speed of learning*, and not a price that remains: at the end it is at most about a
# hundredth of a nat, in the toy world.
#
# How much does 80/10/10 matter for what BERT is used for? Less than the space that explanations give to it. Devlin et al.
# (2019, table 8) pretrained BERT-base with several proportions. MNLI asks whether one sentence follows from another, *named
# entities* asks which words are names; *fine-tuned* means that all weights are trained on for the task, *features* that only
# a small model on top is trained. Higher is better:
#
# | `[MASK]` / kept / replaced | MNLI, fine-tuned | named entities, fine-tuned | named entities, features |
# |---|---|---|---|
# | 80 / 10 / 10 | 84.2 | 95.4 | 94.9 |
# | 100 / 0 / 0 | 84.3 | 94.9 | 94.0 |
# | 80 / 20 / 0 | 84.4 | 95.2 | 94.7 |
#
# If you fine-tune all the weights, dropping the rule costs at most half a point, and nothing on MNLI. If you use the vectors
# as features, it costs up to 0.9. That fits our four models, where "only masked" ignores words in plain sight, though theirs
# is a far larger model on other tasks. Wettig et al. (2022) revisit the rule together with the masking rate, and NeoBERT uses
# `[MASK]` for everything that it selects.

# %% [markdown]
# ## 10. Exactly 15 %, or 15 % on average?
#
# Independent draws give each text a different number of selected tokens. How often is none at all selected in our sentence of
# 11 words? You can compute that before you count.

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
ax.set(xlabel="number of selected tokens in the course's sentence", ylabel="proportion of the draws")
ax.set_title("Independent draws: sometimes none, sometimes five")
ax.legend()
plots.show(fig, alt=f"Bars from 0 to 7 selected tokens, {none:.0%} at none; the exact count is always 2.")

# %% [markdown]
# Google's BERT selects an **exact count** in each text: 15 % of its tokens, rounded, at least 1 and at most
# `max_predictions_per_seq`, which its README says to set "to around `max_seq_length` * `masked_lm_prob`" (20 for texts of 128
# tokens, 77 for 512). `[CLS]` and `[SEP]` count as tokens here and are never selected. Hugging Face's collator (the function
# that makes batches) draws independently, and so does this course. A batch has many texts, a text without a selected token
# adds nothing to its loss, and independent draws make the best possible loss easier to compute, which lesson 06 needs.
#
# ### Exercise 05.5 · an exact count ●●○ · 12 minutes
#
# Do it Google's way, for a padded batch of the toy world (padding is 0, special tokens are 0 to 4). For each text, the count
# is `rate` times the number of its tokens, padding left out, rounded as `round` and `torch.round` do (a half goes to the even
# number), at least 1 and at most `most`. Select that many of its ordinary words, those with the **lowest** numbers in `draw`
# (no two are equal), or all of them if there are fewer. Return a new boolean mask.


# %% tags=["exercise-05.5"]
def exact_count(ids, draw, rate, most):
    """ids: (B, T), draw: (B, T) -> selected (B, T), bool"""
    ### BEGIN SOLUTION
    ordinary = ids >= 5
    count = (rate * (ids != 0).sum(1)).round().clamp(1, most)  # (B,)
    rank = draw.masked_fill(~ordinary, 2.0).argsort(1).argsort(1)  # 0 for the lowest draw
    return (rank < count[:, None]) & ordinary
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.exact_count(exact_count)

# %% [markdown]
# ## 11. On real text, words come in pieces
#
# In the toy world a token is a word. Real text is cut by byte-pair encoding (BPE, lesson 01): a frequent word is one token,
# and a rare one is several pieces. Here is a sentence as it could be in NumPy's documentation, in the pieces of the course's
# own documentation model, masked piece by piece at 30 %:

# %%
docs, (docs_model, bpe) = load_docs(), load("docs-small")
sentence = "Return the elementwise logarithm of a multidimensional array."
pieces = torch.tensor([bpe.encode(sentence)])  # (1, T)


def show_pieces(corrupted, selected, title, alt):
    rows = [[piece.strip() or "␣" for piece in bpe.tokens(row[0])] for row in (pieces, corrupted)]
    plots.show(draw_masked(*rows, selected[0].tolist(), title), alt=alt)


word_of = torch.tensor([[-1, *bpe.backend.encode(sentence, add_special_tokens=False).word_ids, -1]])  # (1, T)
long_word = torch.bincount(word_of[word_of >= 0]).argmax()  # the word of the most pieces
for number in range(100):  # a draw that selects a part of it, to have something to see
    hidden = torch.rand(pieces.shape, generator=seeded(number)).lt(0.3) & (pieces > 4)
    if 0 < hidden[word_of == long_word].float().mean() < 1:
        break
show_pieces(
    pieces.masked_fill(hidden, bpe.mask_id),
    hidden,
    "Piece by piece: the rest of a word may be in sight",
    "A sentence of documentation cut into pieces; some pieces of long words are masked while others of them are seen.",
)

# %% [markdown]
# **Whole-word masking** makes one draw for each word, and all its pieces share the draw. The tokenizer knows the word of each
# piece, and an index does the rest. (`[CLS]` and `[SEP]` belong to no word and get −1. As an index −1 would silently read the
# *last* word's draw, so they must be taken out.)

# %%
print(word_of)
for number in range(100):  # a draw that selects it, to have something to see
    draw_of_word = torch.rand(int(word_of.max()) + 1, generator=seeded(number))
    if draw_of_word[long_word] < 0.3:
        break
whole = (draw_of_word[word_of.clamp(min=0)] < 0.3) & (word_of >= 0)
for word in word_of.unique():
    assert whole[word_of == word].unique().numel() == 1
show_pieces(
    pieces.masked_fill(whole, bpe.mask_id),
    whole,
    "Whole words: all pieces of a word, or none",
    "The same sentence; where a piece is masked, all pieces of its word are masked.",
)

# %% [markdown]
# Is a piece easier to guess when another piece of its word is in sight? We ask the documentation model on 200 texts that it
# has not seen in training, masked at 15 % both ways, and sort the selected pieces into three kinds. How much higher, in nats,
# is the loss when the whole word is masked? Guess.


# %%
def pieces_of(texts):
    """Return ids (B, T), the mask of real tokens and the number of each piece's word, -1 for none; 128 tokens at most."""
    encoded = bpe.backend.encode_batch(texts, add_special_tokens=False)
    ids, mask = pad([[bpe.cls_id, *e.ids[:126], bpe.sep_id] for e in encoded], bpe.pad_id)
    word_of, _ = pad([torch.tensor([-1, *e.word_ids[:126], -1]) for e in encoded], -1)
    return ids, mask, word_of


@torch.no_grad()
def piece_losses(texts, by_word, generator):
    """Return the loss of each selected piece, the number of its word's pieces, and how many of them are selected."""
    ids, mask, word_of = pieces_of(texts)
    index = word_of.clamp(min=0)
    draw = torch.rand(ids.shape, generator=generator)
    draw = draw.gather(1, index) if by_word else draw  # one of the row's draws for each word
    in_word = (word_of >= 0) & (ids > 4)
    selected = (draw < 0.15) & in_word
    logits = docs_model.eval()(ids.masked_fill(selected, bpe.mask_id), mask)
    losses = F.cross_entropy(logits[selected], ids[selected], reduction="none")
    count = [
        torch.zeros(ids.shape).scatter_add_(1, index, part.float()).gather(1, index) for part in (in_word, selected)
    ]
    return losses, count[0][selected], count[1][selected]


# %% [markdown]
# Documentation differs a little from machine to machine, so your numbers will differ from the stored ones:

# %%
texts = [document.text for document in docs.validation[:200]]
found = {}
for by_word in (False, True):
    parts = [piece_losses(texts[i : i + 40], by_word, seeded(seed, i)) for i in range(0, 200, 40)]
    losses, size, hidden = map(torch.cat, zip(*parts, strict=True))
    found[by_word] = losses.mean().item()
    if not by_word:
        found["the word is one piece"] = losses[size == 1]
        found["part of its word in sight"] = losses[(size > 1) & (hidden < size)]
        in_sight = ((size > 1) & (hidden < size)).float().mean().item()
    else:
        found["the whole word masked"] = losses[size > 1]
for kind, losses in list(found.items()):
    if isinstance(kind, str):
        print(f"{kind:>26}: {losses.mean():.2f} ± {losses.std() / len(losses) ** 0.5:.2f} nats, {len(losses):,} pieces")
print(f"piece by piece, {in_sight:.0%} of the selected pieces have another piece of their word in sight")
print(f"mean loss: piece by piece {found[False]:.2f}, whole words {found[True]:.2f}")
assert found["the whole word masked"].mean() > found["part of its word in sight"].mean() + 1
assert abs(found["part of its word in sight"].mean() - found["the word is one piece"].mean()) < 0.5
assert 0.1 < in_sight < 0.8 and found[True] > found[False] + 0.3

# %% [markdown]
# A piece whose word is partly in sight is about as easy as a word of one piece. With the whole word masked it is far
# harder. So piece by piece, a part of the questions is about spelling. (The model was trained piece by piece, so whole words
# are also new to it. The comparison says how hard the questions are for this model, and not which training is better.)
#
# Google's code has whole-word masking as an option; the original BERT and RoBERTa mask piece by piece, and so do the next
# lessons, where losses are to be compared with theirs.
#
# ## What to remember
#
# * Text asks its own questions: cover a word, and the answer is known. **Select 15 %; of these 80 % become `[MASK]`, 10 % a
#   random word, 10 % stay**; never a special token. Labels are −100 elsewhere.
# * One draw decides among the three cases. Two draws of 10 % give 81/10/9, and only a **test with a stated false-alarm rate**
#   on enough text shows it in the output.
# * Kept words teach the model to look at a word, replaced words to doubt it. In the toy world the rule changes how fast a
#   model learns, and costs a perfect predictor almost nothing.
# * The loss starts at **ln V + σ²/2**, with σ² = C s², as long as σ is well below √(2 ln V). Check it before you train.
# * The loss is the mean over the **selected** tokens. The logits of all others get exactly zero gradient, so the head need
#   not run there.
#
# **What this scale cannot show.** Our four models saw 600 steps of a small language. Whether 80/10/10 pays in a large model
# is a question for its downstream tasks, and the published answer is "a little, sometimes".
#
# **What the field did since.** Higher rates (20 to 40 %), `[MASK]` alone (NeoBERT), questions at every token (ELECTRA), and a
# rate drawn anew for each text, which turns a masked model into one that can write (masked diffusion).
#
# **An open problem.** How many tokens to mask, and which? 15 % was a choice of 2018. The best rate depends on the size of the
# model and on how the tokens are chosen (Wettig et al. 2022), and no theory predicts it.
#
# **Where this comes from**
#
# * Jacob Devlin et al., *BERT*, 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805); its code,
#   [google-research/bert](https://github.com/google-research/bert), has the exact counts.
# * Yinhan Liu et al., *RoBERTa*, 2019, [arXiv:1907.11692](https://arxiv.org/abs/1907.11692).
# * Ofir Press and Lior Wolf, *Using the Output Embedding to Improve Language Models*, 2017,
#   [arXiv:1608.05859](https://arxiv.org/abs/1608.05859).
# * Kevin Clark et al., *ELECTRA*, 2020, [arXiv:2003.10555](https://arxiv.org/abs/2003.10555).
# * Alexander Wettig et al., *Should You Mask 15% in Masked Language Modeling?*, 2022,
#   [arXiv:2202.08005](https://arxiv.org/abs/2202.08005).
# * Benjamin Warner et al., *ModernBERT*, 2024, [arXiv:2412.13663](https://arxiv.org/abs/2412.13663); *NeoBERT*, 2025,
#   [arXiv:2502.19587](https://arxiv.org/abs/2502.19587).
# * Wilson L. Taylor, *"Cloze Procedure": A New Tool for Measuring Readability*, Journalism Quarterly 30, 1953: covered words,
#   for people.
# * The bugs: [d2l-en issue 2582](https://github.com/d2l-ai/d2l-en/issues/2582), where the empty slots of a list of
#   predictions are counted, and the [MLM of
#   labml](https://github.com/labmlai/annotated_deep_learning_paper_implementations).
#
# **Next:** lesson 06 trains this model until it can hardly get better, and knows where that is.
