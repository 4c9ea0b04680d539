# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Writing with a masked model
#     question: Can a model that fills gaps write whole sentences, and are they the right ones?
#     minutes: 130
#     part: "Part V: the next generation"
# ---

# %% [markdown]
# # 17 · Writing with a masked model
#
# > [MASK] [MASK] [MASK] [MASK] [MASK] [MASK] [MASK] [MASK] [MASK] [MASK] [MASK]
#
# BERT fills gaps. What if there is nothing but gaps? GPT writes from left to right, each word drawn given the words
# before it. A masked model can draw a word for *any* gap, read the text again with that word in it, and go on until no
# gap is left. Since 2024 models of billions of weights write like this, under the name **masked diffusion**.
#
# **The question of this lesson:** can a model that fills gaps write whole sentences, and are they the right ones?
#
# | | |
# |---|---|
# | You will | turn BERT's loss into a bound on the probability of a sentence, and build it; build the sampler that starts from gaps; compare four ways to choose the masking rate; measure what several words at once cost, even a perfect model, and what "the surest draw first" does to diversity; fill a gap in the middle, which a left-to-right model cannot without special training or search; and read what our model of documentation writes |
# | You need | lesson 05 for masking and its loss, lesson 06 for the perfect predictor of the toy world; probabilities, the chain rule |
# | It takes | about 130 minutes, five exercises, two of them builds of 20 and 40 minutes; the machine needs about a minute |
#
# This is the masked model of lesson 06, which nobody trained to write. In each step it draws one word:

# %% tags=["hide-input"]
from nextbert_lite import WritingSteps, load, show

title = "Eleven gaps become a sentence, one word a step; darker: it was surer"
view = WritingSteps(*load("toy-small"), " ".join(["[MASK]"] * 11), orders=["random"], title=title)
sentence = " ".join(view.tokens[0])
show(
    view,
    alt=f"A table with a row for each of eleven steps: one more word is written in each, in random positions. The last: {sentence}.",
)

# %% [markdown]
# (In a running notebook the picture is a view: walk through the steps with its buttons, and click a gap.) The lesson
# needs these imports; others are imported where they are needed.

# %%
import itertools
import math
from collections import Counter

import torch
import torch.nn.functional as F

from nextbert_lite import COURSE_SENTENCE, PerfectModel, ToyWorld, load, plots, seeded
from nextbert_lite.checks import lesson_17 as check
from nextbert_lite.core.diffusion import ORDERS
from nextbert_lite.validate import check_hidden, check_writing

# %% tags=["parameters"]
# Another seed draws other sentences, gaps and weights; what the text claims should hold for it too.
seed = 0
every_row = False  # True also trains every row of the table in section 5, which takes some minutes

# %% [markdown]
# ## 1. One word after the other, in any order
#
# How probable is a whole sentence? The chain rule multiplies the probability of each word, given those that are known
# already. It holds for every order of the words, not only from left to right (σ₁ is the position of the word that comes
# first, σ₂ of the second, and so on):
#
# $$-\ln P(x) = \sum_{i=1}^{n} -\ln P(x_{\sigma_i} \mid x_{\sigma_1} \dots x_{\sigma_{i-1}}) \qquad \text{for every order } \sigma$$
#
# Each factor is what a masked model gives: the known words are visible, all others are `[MASK]`. The toy world knows
# the true factors: each sentence has a hidden *frame* (lesson 06), with its template, topic and ending, and the exact
# probability is a sum over all frames. `perfect` returns the logarithms of the factors, in the form of logits. (It
# allows a wrong word with a tiny probability, 10⁻⁶, so that it has an answer for impossible texts too. A probability of
# 0 becomes e⁻¹⁰⁰⁰, because a position such as `[CLS]`, where no word is possible, would otherwise have −∞ alone and no
# softmax.)

# %% tags=["nbval-check-output"]
world = ToyWorld()
tokenizer = world.tokenizer()
MASK = tokenizer.mask_id
exact_model = PerfectModel(world, rate=1e-6)
trained, _ = load("toy-small")  # lesson 06's model: half of the words selected, of these 80 % masked


def perfect(ids):
    """ids: (B, T) -> log P(word at each position | visible words), (B, T, V)"""
    return exact_model(ids).log().clamp(min=-1000.0)


ids = torch.tensor([tokenizer.encode(COURSE_SENTENCE)])  # (1, 13): [CLS], eleven words, [SEP]
words_of = ToyWorld().lengths  # the number of words of each frame
log_length = {n: world.frame_probabilities[words_of == n].sum().log().item() for n in set(words_of.tolist())}
exact = log_length[11] - world.log_probability([COURSE_SENTENCE]).item()
print(f"-ln P(sentence | it has 11 words) = {exact:.3f} nats, a sum over all frames")

# %% [markdown]
# A sentence shows its length, so we ask for the probability among the sentences of eleven words. Now the sum along an
# order. Guess: will the perfect model give the same sum in every order? And will the trained model?


# %%
@torch.no_grad()
def along(model, ids, order):
    """Return -ln P of the words of one sentence in this order of positions, starting from gaps at all of them."""
    seen, total = ids.clone(), 0.0
    seen[0, order] = MASK
    for i in order:
        total -= model(seen)[0, i].double().log_softmax(-1)[ids[0, i]].item()
        seen[0, i] = ids[0, i]  # from here on this word is known
    return total


forward = list(range(1, 12))
shuffled = [1 + i for i in torch.randperm(11, generator=seeded(seed)).tolist()]
sums = {}
for name, order in {"left to right": forward, "right to left": forward[::-1], "at random": shuffled}.items():
    sums[name] = along(perfect, ids, order), along(trained, ids, order)
    print(f"{name:>14}: perfect {sums[name][0]:.3f}, trained {sums[name][1]:.3f} nats")
assert all(abs(p - exact) < 1e-3 for p, _ in sums.values())
by_trained = [trained_sum for _, trained_sum in sums.values()]
assert max(by_trained) - min(by_trained) > 0.05

# %% [markdown]
# The perfect model gives the exact number in each order. The trained model gives another one for each order: its
# answers do not belong to one joint distribution. That is no accident of a small model: the same was measured on
# LLaDA-2.1, a model of billions of weights ([arXiv:2606.00997](https://arxiv.org/abs/2606.00997)).
#
# So what is *the* probability that a trained masked model gives a sentence? It depends on how you write with it. Take
# the simplest way: **draw the order at random**, then the words in that order. Then P(x) is the mean of the products
# over all orders, and since −ln is convex, the mean of the sums lies above (*Jensen's inequality*):
#
# $$-\ln P(x) \;=\; -\ln \operatorname{mean}_\sigma P_\sigma(x) \;\le\; \operatorname{mean}_\sigma \bigl(-\ln P_\sigma(x)\bigr)$$
#
# The right side is the **bound** of this lesson. For the perfect model all orders agree, so the bound is met.

# %% [markdown]
# ## 2. From orders to masks
#
# There are 11! orders, about 40 million, and one order takes eleven passes of the model. Sort the terms differently.
# When k words are still hidden, the next word is one of these k, each equally likely, and each set of k hidden words is
# equally likely too. So the bound is a sum over k, of the *mean* loss of k hidden words:
#
# $$\text{bound} = \sum_{k=1}^{n} \operatorname{mean}_{|H| = k}\; \frac1k \sum_{i \in H} -\ln p(x_i \mid x \text{ without } H)
# \;=\; \operatorname{mean}_{k,\,H}\; \frac{n}{k} \sum_{i \in H} -\ln p(x_i \mid x \text{ without } H)$$
#
# with k uniform in 1 … n. One pass of the model estimates it: draw k, hide k words, add up their losses, times n/k.
# That is BERT's loss with another number of masks and a weight. For three hidden words we can check the two sides
# completely: six orders against the seven sets of one, two or three hidden words.

# %%
three = [2, 6, 8]  # cook, praises, waiters
by_orders = sum(along(trained, ids, list(order)) for order in itertools.permutations(three)) / 6
by_sets = 0.0
for k in (1, 2, 3):
    sets = list(itertools.combinations(three, k))
    for hidden in sets:
        seen = ids.clone()
        seen[0, list(hidden)] = MASK
        with torch.no_grad():
            log_p = trained(seen)[0].double().log_softmax(-1)
        losses = [-log_p[i, ids[0, i]].item() for i in hidden]
        by_sets += 3 / k * sum(losses) / len(sets) / 3  # weight n/k, the mean over the sets and over k
print(f"the mean over 6 orders {by_orders:.6f}, the weighted mean over 7 sets {by_sets:.6f}")
assert abs(by_orders - by_sets) < 1e-9  # mathematics

# %% [markdown]
# The papers on masked diffusion come from another side and write it differently. A **rate** t is drawn uniformly from 0
# to 1, every word is hidden by a draw of its own with probability t, and the sum of the losses is divided by t (MDLM,
# Sahoo et al. 2024; LLaDA, Nie et al. 2025):
#
# $$\text{bound} = \operatorname{mean}_{t,\,H}\; \frac{1}{t} \sum_{i \in H} -\ln p(x_i \mid x \text{ without } H)$$
#
# This is the same number: a set of k words comes with the weight $\int_0^1 \tfrac1t\, t^k (1-t)^{n-k}\, dt =
# \tfrac{1}{k} \big/ \tbinom{n}{k}$, just as above. If slowly covering a picture with noise is "diffusion", so is hiding
# one word after another: a word's noise is its absence.

# %% tags=["nbval-check-output"]
every_rate = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
for k in (1, 5, 11):
    weight, sets = (every_rate ** (k - 1) * (1 - every_rate) ** (11 - k)).mean().item(), math.comb(11, k)
    print(f"a set of {k:>2} hidden words: by the integral {weight:.6f}, 1 / (k · n over k) = {1 / k / sets:.6f}")
    assert abs(weight * k * sets - 1) < 1e-4

# %% [markdown]
# ## 3. Your own loss
#
# First the masks. With `rates`, each text has its own t. Without, each text has its own k.


# %% tags=["nbval-check-output"]
def hide_words(ids, tokenizer, rates=None, generator=None):
    """ids: (B, T), rates: (B,) or None -> boolean (B, T), True = hidden; never a special token"""
    words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids, device=ids.device))
    draws = torch.rand(ids.shape, generator=generator).to(ids.device)  # drawn on the CPU, by its generator
    if rates is not None:
        return words & (draws < rates[:, None])
    k = 1 + (torch.rand(len(ids), generator=generator).to(ids.device) * words.sum(1)).long()
    place_in_queue = draws.masked_fill(~words, torch.inf).argsort(1).argsort(1)
    return words & (place_in_queue < k[:, None])


many, _ = world.sample_ids(4000, seed=100 + seed)
hidden = hide_words(many, tokenizer, generator=seeded(seed, 1))
n = (many >= 5).sum(1)  # the number of words of each text; the ids 0 to 4 are special
counts = hidden.sum(1)[n == 11].bincount(minlength=12)[1:]
print("texts of 11 words with k = 1 … 11 hidden words:", counts.tolist())
assert (counts - counts.sum() / 11).abs().max() < 5 * math.sqrt(counts.sum() / 11)

# %% [markdown]
# ### Exercise 17.1 · build the diffusion loss ●●○ · 20 minutes
#
# Write `diffusion_loss(model, ids, hidden, tokenizer, rates)`. It returns the bound **in nats a word** of a batch, a
# tensor without dimensions through which gradients flow: the weighted losses of all hidden words of all texts, added
# up, divided by the number of *all* words of the batch, hidden or not.
#
# * `model(ids)` takes (B, T) and returns logits (B, T, V). Call it once, with `tokenizer.mask_id` in the hidden
#   positions.
# * `ids` (B, T) are whole texts with `[CLS]`, `[SEP]` and padding; a **word** is a token whose id is not among
#   `tokenizer.special_ids`, a tuple (for an index, make it a list: `list(tokenizer.special_ids)`). `hidden` (B, T) is
#   boolean and True at words only. Neither is changed.
# * `rates` is (B,), the rate t of each text, or None. With rates, a text's losses are multiplied by 1/t, and a text may
#   have no hidden word at all, which adds nothing. Without rates they are multiplied by n/k: n words, of which k are
#   hidden, in this text; k is then at least 1.
#
# The solution calls `check_hidden`, the course's check of arguments; you may leave it out.


# %% tags=["exercise-17.1", "my-bert-diffusion"]
def diffusion_loss(model, ids, hidden, tokenizer, rates=None):
    """ids: (B, T), hidden: boolean (B, T), rates: (B,) or None -> the bound in nats a word, a scalar"""
    ### BEGIN SOLUTION
    words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids, device=ids.device))
    check_hidden(ids, hidden, words, rates)
    logits = model(ids.masked_fill(hidden, tokenizer.mask_id))
    losses = F.cross_entropy(logits[hidden], ids[hidden], reduction="none")  # (hidden words,)
    weights = words.sum(1) / hidden.sum(1) if rates is None else 1 / rates  # (B,)
    return (weights[:, None].expand(ids.shape)[hidden] * losses).sum() / words.sum()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.diffusion_loss(diffusion_loss)

# %% [markdown]
# The lesson goes on with your loss if it passes, and with the course's if it does not:

# %% tags=["nbval-check-output"]
diffusion_loss = check.mine("17.1", diffusion_loss)

# %% [markdown]
# Does the perfect model meet the bound? The exact mean of −ln P(sentence | length) over 4,000 sentences, beside the
# estimate by one mask a sentence, in nats *a sentence*. Guess how far above it lesson 06's model lies.


# %%
@torch.no_grad()
def bound(model, ids, hidden, rates=None):
    """Return the bound of each sentence in nats, (B,)."""
    logs = []
    for some, gaps in zip(ids.split(1000), hidden.split(1000), strict=True):
        log_p = model(some.masked_fill(gaps, MASK)).double().log_softmax(-1)
        logs.append(log_p.gather(2, some[..., None])[..., 0])
    losses = -torch.cat(logs).masked_fill(~hidden, 0.0).sum(1)
    return losses * ((ids >= 5).sum(1) / hidden.sum(1) if rates is None else 1 / rates)


def mean_and_error(values):
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


texts = [tokenizer.decode(row) for row in many]
truth = torch.tensor([log_length[k] for k in n.tolist()]) - world.log_probability(texts)  # (4000,)
of_perfect, of_trained = bound(perfect, many, hidden), bound(trained, many, hidden)
print(f"exact           {truth.mean():.3f}")
print("perfect model   {:.3f} ± {:.3f}".format(*mean_and_error(of_perfect)))
above, error = mean_and_error(of_perfect - truth)
above_trained, error_trained = mean_and_error(of_trained - of_perfect)
print(f"perfect - exact {above:+.3f} ± {error:.3f}; trained - perfect {above_trained:+.3f} ± {error_trained:.3f}")
assert abs(above) < 4 * error and above_trained > 4 * error_trained
check_value = diffusion_loss(perfect, many[:1000], hidden[:1000], tokenizer) * n[:1000].sum() / 1000  # your function
assert abs(check_value - of_perfect[:1000].mean()) < 1e-3, f"diffusion_loss gives {check_value:.3f} nats a sentence"

# %% [markdown]
# The perfect model meets the bound, as far as this estimate can tell. (One standard error stands after ±, and a
# difference of one or two of them is usual.) So the excess of a masked model's bound over the perfect model's says how
# far its *writing*, in random order, is from the language **at most**, in nats (by lesson 06's Kullback–Leibler
# divergence): at most, because the excess contains the step by Jensen's inequality too. Lesson 06's model was scored
# there by its loss at 15 %. Here it is asked for whole sentences, where any number of words may be hidden.
#
# The two ways of hiding words estimate the same number. Do they estimate it equally well? Look at single sentences:

# %%
rates = 1 - torch.rand(len(many), generator=seeded(seed, 2))  # uniform, and never 0
hidden_by_rate = hide_words(many, tokenizer, rates, seeded(seed, 3))
by_rate = bound(perfect, many, hidden_by_rate, rates)
noise = {}
for name, values in {"n/k": of_perfect - truth, "1/t": by_rate - truth}.items():
    noise[name] = values.std().item()
    print(f"{name}: mean {values.mean():+.2f}, standard deviation {noise[name]:.1f}, largest {values.max():.0f} nats")
used = (1 / rates)[hidden_by_rate.any(1)]  # the weights that meet a hidden word
print(f"largest weights: n/k {(n / hidden.sum(1)).max():.0f}, 1/t {used.max():.0f}")
assert (n / hidden.sum(1)).max() <= n.max() and used.max() > 2 * n.max()

# %% [markdown]
# The same mean, with more noise. A rate below 0.001 comes once in a thousand sentences. A word is then hardly ever
# hidden, but if one is, it counts more than 1000 times. (The variance of this estimate is not even finite: a single
# hidden word has the probability nt and the weight 1/t, and the mean of $nt \cdot 1/t^2$ over t diverges. The deviation
# printed for 1/t is therefore that of this sample, and another sample can give quite another one. LLaDA keeps t above
# 0.001.) With n/k no weight is greater than n, and k is never 0.
#
# The form with n/k is the older one. A model of this kind is called an **any-order autoregressive model**:
# order-agnostic NADE (Uria et al. 2014) was trained by this objective, and Hoogeboom et al. (2021) saw that it is
# diffusion. Mask-Predict (Ghazvininejad et al. 2019) drew the number of hidden words uniformly, for translation. That
# both forms are equal is shown by Ou et al. (2024) and Zheng et al. (2024). Section 5 asks what the noise does to
# training.

# %% [markdown]
# ## 4. Your own sampler
#
# Now the other direction. All words are gaps; draw one, write it, look again. Done one word a step in a random order,
# this is the writing whose probability section 1 bounds. A step is a pass of the whole model over the whole text, which
# costs much with 8 billion weights, so people write *several* words a step, and choose the positions with care.
#
# ### Exercise 17.2 · build the sampler ●●● · 40 minutes
#
# Write `fill_gaps(model, ids, tokenizer, steps, order, temperature, generator)`. It returns the texts `ids` (B, T) with
# a word in each gap, as a new tensor. Take it in four parts; the check tells you how far you are.
#
# | part | write | the check then stops at |
# |---|---|---|
# | 1 | **one step.** A gap is a position that holds `tokenizer.mask_id`; nothing else is ever changed. `model(ids)` returns logits (B, T, V); `model` may be a plain function. Draw the word of each gap from the softmax of its logits, without the tokens in `tokenizer.special_ids`: their probability is 0, and the others' sum to 1 | stage 3, steps |
# | 2 | **`steps` steps**, each with one call of the model for the whole batch, which sees what is written so far. What is written stays. With s steps left (this one included), a text with g gaps left writes g/s of them, rounded up: 7 gaps in 3 steps are 3, 2 and 2. A text that has no gap left waits for the others. Any choice of gaps will do for now | stage 5, left to right |
# | 3 | **`order`**: which gaps come first. `"left"`: from the left. `"random"`: any choice of gaps is equally likely, and each text has its own. `"surest"`: the gaps whose likeliest word has the largest probability. With these three the words are drawn as before. `"drawn"`: draw a word for every gap; the gaps whose drawn word has the largest probability come first, and that word is written. Ties may go either way | stage 8, temperature |
# | 4 | **`temperature`**: the logits are divided by it before anything else, so the probabilities after it decide what is "surest", and which draw has the largest. **`generator`**: every random number comes from it (None means torch's own). A model in training mode (`model.training`, where the model has it) writes without dropout and gets its mode back | nothing more |
#
# (LLaDA uses `"drawn"` when its temperature is above 0, with the probability before the temperature; MaskGIT, 2022, did
# it for images, with noise on the scores. Mask-Predict, 2019, is an ancestor: it takes the likeliest word everywhere
# and masks the least sure again, written ones included.)
#
# `torch.multinomial(p, 1, generator=generator)` draws a column for each row of p. Probabilities in float64 are safer;
# section 10 says why. `check_writing` checks arguments; you may leave it out.


# %% tags=["exercise-17.2", "my-bert-diffusion"]
def fill_gaps(model, ids, tokenizer, steps, order="random", temperature=1.0, generator=None):
    """ids: (B, T) with gaps -> (B, T) without; model: (B, T) -> logits (B, T, V)"""
    ### BEGIN SOLUTION
    check_writing(steps, order, temperature, ORDERS)
    training = getattr(model, "training", False)
    if training:
        model.eval()
    ids = ids.clone()
    try:
        for left in range(steps, 0, -1):
            gaps = ids == tokenizer.mask_id  # (B, T)
            if not gaps.any():
                break
            with torch.no_grad():
                logits = model(ids)[gaps].double()  # (G, V), G gaps of all texts
            logits[:, list(tokenizer.special_ids)] = -torch.inf
            p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)  # at most 0 before the division
            drawn = torch.multinomial(p, 1, generator=generator)  # (G, 1)
            first = {
                "random": torch.rand(len(p), generator=generator, dtype=p.dtype),
                "left": -gaps.nonzero()[:, 1].to(p.dtype),
                "surest": p.amax(-1),
                "drawn": p.gather(1, drawn)[:, 0],
            }[order]
            scores = torch.full(ids.shape, -torch.inf, dtype=p.dtype).masked_scatter(gaps, first)
            queue = scores.argsort(dim=1, descending=True, stable=True).argsort(1)  # (B, T), 0 is first
            now = queue < gaps.sum(1, keepdim=True).add(left - 1).div(left, rounding_mode="floor")
            ids = torch.where(now, ids.masked_scatter(gaps, drawn[:, 0]), ids)
    finally:  # even if the model raises an error
        if training:
            model.train()
    return ids
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.fill_gaps(fill_gaps)

# %% [markdown]
# All that is written from here on is written by your sampler, once it passes:

# %% tags=["nbval-check-output"]
fill_gaps = check.mine("17.2", fill_gaps)

# %% [markdown]
# Five sentences of the perfect model and five of lesson 06's, by your sampler, one word a step in random order. (Both
# draw with the same random numbers, so many of their words agree.) `log_probability` says whether the language has a
# sentence. An impossible sentence is marked ✗.


# %%
def empty(number, words=11):
    """Return (number, words + 2) ids: [CLS], gaps, [SEP]."""
    row = [tokenizer.cls_id] + [MASK] * words + [tokenizer.sep_id]
    return torch.tensor([row] * number)


def written(model, number, stream, steps=11, order="random", temperature=1.0):
    """Return so many sentences of eleven words that the model writes."""
    rows = fill_gaps(model, empty(number), tokenizer, steps, order, temperature, seeded(seed, stream))
    return [tokenizer.decode(row) for row in rows]


def possible(sentences):
    return (world.log_probability(sentences) > -math.inf).double()  # (number,)


for name, model in {"perfect": perfect, "lesson 06": trained}.items():
    sentences = written(model, 5, stream=10)
    for text, fine in zip(sentences, possible(sentences).tolist(), strict=True):
        print(f"{name:>10}{' ' if fine else '✗'} {text}")

# %% [markdown]
# Is a possible sentence a good sample? A writer that always says "the cook praises the waiters …" makes no mistake. So
# look at the **variety** too: the frame behind a sentence has a template, a topic and an ending. The entropy of these
# triples is known for the language; what is written can be counted.


# %% tags=["nbval-check-output"]
def kind(frame):
    return frame.template, frame.topic, frame.ending


def entropy(counted):
    total = sum(counted.values())
    return -sum(c / total * math.log(c / total) for c in counted.values())


def variety(sentences):
    """Return the entropy of (template, topic, ending) over the possible ones of the sentences, in nats."""
    fine = [text for text, yes in zip(sentences, possible(sentences).tolist(), strict=True) if yes]
    return entropy(Counter(kind(world.frames[world.parse(text).frame]) for text in fine)) if fine else math.nan


in_language = Counter()
for frame, p, length in zip(world.frames, world.frame_probabilities.tolist(), words_of.tolist(), strict=True):
    if length == 11:
        in_language[kind(frame)] += p
print(f"{len(in_language)} kinds of sentences of eleven words, entropy {entropy(in_language):.2f} nats")

# %% [markdown]
# And what is written, 400 sentences of each:

# %%
samples = {"perfect": written(perfect, 400, stream=11), "lesson 06": written(trained, 400, stream=12)}
for name, sentences in samples.items():
    print(f"{name:>9}: possible {possible(sentences).mean():.3f}, variety {variety(sentences):.2f} nats")
assert possible(samples["perfect"]).all()
assert abs(variety(samples["perfect"]) - entropy(in_language)) < 0.12
assert 0.3 < possible(samples["lesson 06"]).mean() < 0.98

# %% [markdown]
# ## 5. Which masking rate teaches writing?
#
# Now train from random weights: the same small encoder, the same 2,000 steps of 64 fresh sentences, and four ways to
# hide words.
#
# * **1/t**: the rate is drawn for each text, the losses are divided by it. The bound itself, in its plainest form.
#   (MDLM spreads the rates of a batch evenly, LLaDA keeps them above 0.001; both have less noise than this.)
# * **n/k**: the number is drawn, the weight is n/k. The same bound with less noise.
# * **50 %** and **15 %** of the words, always. The first is lesson 06's rate, the second BERT's. (Here each selected
#   word becomes `[MASK]`, without the 80/10/10 of lesson 05.)
#
# A model that saw 85 % of the words on average has never seen an empty text. Guess an order for the four by the
# bound, and an order by the proportion of possible sentences. Will they agree?


# %%
from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel, fit, stored_table


class Writer(MaskedLanguageModel):
    """A masked model that is trained by the diffusion loss, your own if it passed."""

    def loss(self, ids, hidden, rates=None):
        return diffusion_loss(self, ids, hidden, tokenizer, rates)


def batches_of(way, stream=0):
    """Return step -> a batch of 64 fresh sentences and their hidden words."""

    def make(step):
        ids, _ = world.sample_ids(64, seed=1_000_000 * (10 * seed + stream + 1) + step)
        generator = seeded(seed, stream, step)
        if way == "n/k":
            return {"ids": ids, "hidden": hide_words(ids, tokenizer, generator=generator)}
        rates = 1 - torch.rand(64, generator=generator) if way == "1/t" else torch.full((64,), float(way))
        return {"ids": ids, "hidden": hide_words(ids, tokenizer, rates, generator), "rates": rates}

    return make


def new_writer():
    torch.manual_seed(seed)
    return Writer(Encoder(EncoderConfig.preset("tiny", tokenizer.vocab_size, init_std="fan_in", dropout=0.0)))


# %% [markdown]
# What is measured: the bound's excess over the perfect model's, on the same sentences and masks, and 500 written
# sentences. The stored table has each of the four with five seeds. Your run trains a short one, 300 steps.

# %%
WAYS, LONG, SHORT = ("n/k", "1/t", "0.5", "0.15"), 2000, 300
results_rates = []
for way, steps in [*itertools.product(WAYS, [LONG]), ("n/k", SHORT)] if every_row else [("n/k", SHORT)]:
    writer = new_writer()
    fit(writer, batches_of(way), steps, lr=3e-3, warmup=100, seed=seed, device="cpu", progress=False)
    excess = (bound(writer, many, hidden) - of_perfect).mean().item()
    sentences = written(writer, 500, stream=13)
    results_rates.append(
        {
            "seed": seed,
            "way": way,
            "steps": steps,
            "excess": excess,
            "possible": possible(sentences).mean().item(),
            "variety": variety(sentences),
        }
    )
live = results_rates[-1]
print(f"trained now, n/k, {SHORT} steps: {live['excess']:.2f} nats a sentence above the perfect model")

# %% [markdown]
# Read the stored table now. Each number is the mean of five seeds; after ± comes half of its 95 % interval by Student's
# t, which is 2.776 standard errors for five values. A pair of conditions is compared seed by seed, since both saw the
# same sentences.

# %% tags=["nbval-check-output"]
table = stored_table("17_rates")
labels = {"excess": "excess of the bound (nats)", "possible": "possible sentences", "variety": "variety (nats)"}


def column(way, name, steps=LONG):
    """Return a column of the stored table for one way, (5,), by seed."""
    return torch.tensor([float(r[name]) for r in table if (r["way"], int(r["steps"])) == (way, steps)])


def half_width(values):
    """Return half of the 95 % interval of the mean of four or five values."""
    return {4: 3.182, 5: 2.776}[len(values)] * values.std().item() / math.sqrt(len(values))


for way in WAYS:
    parts = []
    for name in labels:
        values = column(way, name)
        values = values[values.isfinite()]  # no variety where not one sentence was possible
        parts.append(f"{name} {values.mean():.2f} ± {half_width(values):.2f}")
    print(f"{way:>5}: {', '.join(parts)}")
short = column("n/k", "excess", SHORT)
if not every_row:
    assert short.min() - 0.5 < live["excess"] < short.max() + 0.5  # this run belongs to the stored ones


# %% [markdown]
# Pairs, seed by seed. The first number is the mean difference with its interval:


# %% tags=["nbval-check-output"]
def paired(name, one, other):
    """Print and return one way less the other, seed by seed, (5,)."""
    difference = column(one, name) - column(other, name)
    difference = difference[difference.isfinite()]
    by_seed = ", ".join(f"{d:+.2f}" for d in difference.tolist())
    print(f"{name:>8}, {one} less {other}: {difference.mean():+.3f} ± {half_width(difference):.3f} ({by_seed})")
    return difference


behind = paired("excess", "1/t", "n/k")
others = behind.sort().values[:4]  # without the run of 1/t that failed
print(f"    without the largest: {others.mean():+.3f} ± {half_width(others):.3f}")
assert (behind > 0).all() and behind.mean() < half_width(behind) and others.mean() > half_width(others)
halves = {name: paired(name, "0.5", "n/k") for name in labels}
assert all(abs(half.mean()) < half_width(half) for half in halves.values())  # five seeds leave each open
assert (halves["possible"] > 0).sum() == 4 and (halves["variety"] > 0).all()
assert (paired("excess", "0.15", "n/k") > 2).all()
against = {name: paired(name, "0.15", "1/t") for name in labels}
assert (against["excess"] > 0).sum() == 4 and column("1/t", "possible").min() == 0
assert (against["possible"] > 0).all() and not (against["variety"] > 0).any()

# %% [markdown]
# * **n/k against 1/t.** The same bound, the same steps, and the noisier form is behind in all five seeds. One run of
#   1/t went badly wrong; it makes more than half of the mean difference, and with it the interval contains 0. Without
#   it, it does not, but to leave out a run after a look at it is no fair test. (Five equal signs come by chance once in
#   16.) None of these models is finished: they are compared in the middle of learning. With many more steps both could
#   arrive at the same place, because they minimise the same number. But `fit` clips the gradient, which changes the
#   mean of a noisy one, and all four have one learning rate.
# * **n/k against a fixed 50 %.** By the bound: no ranking. By what they write, 50 % is ahead rather than behind:
#   possible in four seeds of five, variety in all five. Five seeds leave both open. Nothing here says that the random
#   rate is needed for these sentences, though the loss at 50 % bounds nothing.
# * **15 %** is more than two nats a sentence behind n/k in every seed. It has practised with nearly whole sentences
#   only, and it guessed fewer than a third as many words: 1.65 of a sentence's eleven on average, n/k six.
# * **15 % against 1/t.** By the bound, 15 % is worse in four seeds of five. (In the fifth, 1/t is the run that went
#   wrong: it wrote no possible sentence at all.) By the look of single sentences 15 % is *better*, in all five: more of
#   its sentences are possible. The lead is small, and the interval of its mean just contains 0. They are of fewer
#   kinds, as the variety shows. In four seeds, a proportion of possible sentences alone would have chosen the model
#   with the worse bound.
#
# Read the variety with care: an entropy that is counted from N sentences comes out too small, by about (K − 1)/2N nats
# for K kinds. With 36 kinds and 65 possible sentences this is 0.27 nats. So 15 % is less varied than 1/t, which has
# fewer possible sentences to count; but the difference between n/k and 50 % may be due to the counting in part.

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 3, size=(9.4, 3.2))
for ax, (name, label) in zip(axes, labels.items(), strict=True):
    for k, (way, marker) in enumerate(zip(WAYS, "os^v", strict=True)):
        colour = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED][k]
        ax.scatter([k] * 5, column(way, name), marker=marker, color=colour, alpha=0.8)
    ax.set_xticks(range(4), ["n/k", "1/t", "50 %", "15 %"])
    ax.set(xlabel="training", ylabel=label, ylim=(0, None), xlim=(-0.5, 3.5))
fig.suptitle(
    "15 %: a worse bound than 1/t in four seeds of five, more possible sentences in all five", x=0.01, ha="left"
)
plots.show(
    fig,
    alt="Three panels, four ways, five seeds each: by the excess n/k and 50 % are best, 1/t is behind and 15 % mostly worst; by possible "
    "sentences 15 % is above 1/t; by variety 15 % is lowest.",
)

# %% [markdown]
# ### A masked model becomes a writer
#
# You need not start from random weights. Lesson 06's model has learned the words and the grammar from half-masked
# sentences. It had little practice with nearly empty ones. ModernBERT was turned into a chat model in this way (dLLM,
# 2025). We give ours 300 steps of the bound. Any 300 steps more could help, so a control gets 300 steps with half of
# the words hidden, on the same sentences:


# %%
def tuned_by(way):
    model = new_writer()
    model.load_state_dict(trained.state_dict())
    fit(model, batches_of(way, stream=5), 300, lr=1e-3, warmup=30, seed=seed, device="cpu", progress=False)
    return model


tuned, control = tuned_by("n/k"), tuned_by("0.5")
bounds = {}
for name, model in {"lesson 06": trained, "control": control, "tuned": tuned}.items():
    bounds[name] = bound(model, many, hidden)
    samples[name] = written(model, 400, stream=12)
    nats, fine = (bounds[name] - of_perfect).mean(), possible(samples[name])
    print(
        f"{name:>9}: {nats:.3f} nats above the perfect model, possible {{:.3f}} ± {{:.3f}}".format(
            *mean_and_error(fine)
        )
    )
gain, error = mean_and_error(bounds["control"] - bounds["tuned"])
print(f"control - tuned: {gain:.3f} ± {error:.3f} nats, sentence by sentence")
fine = {name: possible(sentences).mean().item() for name, sentences in samples.items()}
worse, error = mean_and_error(bounds["control"] - bounds["lesson 06"])
assert bounds["tuned"].mean() < bounds["lesson 06"].mean() and worse < 2 * error  # the control: better, or as good
assert min(fine["tuned"], fine["control"]) > fine["lesson 06"]
assert abs(fine["tuned"] - fine["control"]) < 4 * math.sqrt(2 * 0.1 * 0.9 / 400)  # four standard errors

# %% [markdown]
# 300 more steps help: after either kind more of the sentences are possible, and the bound is better, or (the control at
# seed 4) as good as before. Whether those with the bound help more than 300 more at 50 % depends on the seed: by the
# bound's own measure they are ahead at seed 0, and not at seed 3; by possible sentences the two cannot be told apart.
# So we cannot say that practice with nearly empty sentences was what the model lacked. (Both kinds also write `[MASK]`
# for every chosen word, as the sampler does, and lesson 06 did so for only 80 % of them; this may be part of the gain.
# It is one run of each; another seed is yours to try.)

# %% [markdown]
# Look at its writing. In a running notebook, the view also shows how likely the likeliest word of each gap is; in the
# printed picture the gaps are dots. (A position is chosen by its likeliest word. The word that is then drawn there can
# be another one, so an early word can be light.)

# %%
from nextbert_lite import WritingSteps, show

title = "The surest position first: it need not be the next one"
orders = ("surest", "drawn", "left", "random")
view = WritingSteps(tuned, tokenizer, " ".join(["[MASK]"] * 11), orders=orders, title=title, step=6)
show(
    view, alt="A sentence of eleven words written step by step, a row a step; what is new is shaded by its probability."
)

# %% [markdown]
# ## 6. Several words at once
#
# Eleven words took eleven calls of the model. Can it write two words in each call, or all of them? The model gives a
# distribution for *each* gap. Words drawn in one step do not see each other.
#
# ### Exercise 17.3 · predict the result ●●○ · 6 minutes
#
# > the [MASK] [MASK] the [MASK] in the kitchen
#
# The **perfect** model fills the three gaps in one step. The kitchen tells it the topic. There, two groups of people
# (three cooks, three guests, each in the singular and the plural) act on each other: members of one group act only on
# members of the other, and three verbs say what they do. All other choices are equally likely. In what proportion of
# the draws is the sentence possible? A number from 0 to 1.

# %% tags=["exercise-17.3"]
proportion_possible = None
### BEGIN SOLUTION
proportion_possible = 1 / 2 * 1 / 2  # the verb agrees with the subject; the two people come from different groups
### END SOLUTION

# %% tags=["nbval-check-output"]
check.three_at_once(proportion_possible)

# %% [markdown]
# Two thousand draws each, in one, two and three steps:

# %%
three_gaps = torch.tensor([tokenizer.encode("the [MASK] [MASK] the [MASK] in the kitchen", allow_specials=True)] * 2000)
shares = {}
for steps in (1, 2, 3):
    rows = fill_gaps(perfect, three_gaps, tokenizer, steps, "left", generator=seeded(seed, 20 + steps))
    shares[steps] = possible([tokenizer.decode(row) for row in rows]).mean().item()
    print(f"steps: {steps}, from the left: possible {shares[steps]:.3f}")
assert abs(shares[1] - 0.25) < 0.05 and abs(shares[2] - 0.5) < 0.06 and shares[3] == 1

# %% [markdown]
# (In two steps the first two words come together and can disagree in number; the third sees them both and fits.)
#
# ### Exercise 17.4 · two gaps together ●●○ · 12 minutes
#
# What would it take to draw two words together, and rightly? Their **joint** distribution: by the chain rule, the
# first word's probability times the second's *given* the first. Write `pair_probabilities(model, ids, first,
# second)`: `ids` is one text (1, T), with gaps at the positions `first` and `second`; `model(ids)` returns logits (B,
# T, V). Return (V, V), entry [a, b] the probability of token a at `first` and b at `second`, when `first` is asked
# for first and `second` with a written in. All V tokens count, specials too. `ids` stays as it is.


# %% tags=["exercise-17.4"]
def pair_probabilities(model, ids, first, second):
    """ids: (1, T) with gaps at two positions -> P(a at first, b at second), (V, V)"""
    ### BEGIN SOLUTION
    p = model(ids)[0, first].softmax(-1)  # (V,)
    texts = ids.repeat(len(p), 1)
    texts[:, first] = torch.arange(len(p))  # text a has token a at `first`
    return p[:, None] * model(texts)[:, second].softmax(-1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.pair_probabilities(pair_probabilities)

# %% [markdown]
# The table takes one call of the model for the first gap, and one for each of the V words there: with many gaps it
# cannot be made. (A single *draw* from it takes two calls, the first word and then the second, which is writing one by
# one.) How far is the joint distribution from the product of the two separate ones, which drawing at once uses? Their
# Kullback–Leibler divergence is called the **mutual information** of the two words, in nats. For subject and verb we
# can say beforehand what it should be.


# %%
@torch.no_grad()
def joint_of(model, ids, first, second):
    """Return P(a at first, b at second) over the words, (V - 5, V - 5), `first` asked for first."""

    def of_words(ids):  # the five special tokens left out: word 0 is token 5
        return model(ids + 5)[..., 5:].double()

    return check.pair_probabilities.right(of_words, ids - 5, first, second)  # the course's version of 17.4


def information(joint):
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    return (torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, product)).sum().item()


pair = torch.tensor([tokenizer.encode("the [MASK] [MASK] the waiters in the kitchen", allow_specials=True)])
for name, model in {"perfect": perfect, "tuned": tuned}.items():
    one, other = joint_of(model, pair, 2, 3), joint_of(model, pair, 3, 2).T
    far = (one - other).abs().sum().item() / 2  # total variation, 0 to 1
    print(
        f"{name:>7}: mutual information {information(one):.3f} nats (ln 2 = 0.693); the two orders differ by {far:.4f}"
    )
    if name == "perfect":
        assert abs(information(one) - math.log(2)) < 1e-3 and far < 1e-6
    else:
        assert information(one) > 0.3 and far > 1e-3

# %% [markdown]
# One bit, ln 2 nats: the number of the subject, which the verb must share. If you draw both at once, you lose it, and
# with it half of the sentences. (What is lost when three or more words are drawn at once is their *total correlation*:
# how far the product of their separate distributions is from the joint one, in nats.) The perfect model's joint is the
# same from both sides, and the trained one's is not, as in section 1.
#
# Now for whole sentences. Guess the picture before you run the cell: the proportion of possible sentences against the
# number of steps, from 1 to 11, for positions in random order, from the left, and the surest first; for the perfect
# model and for the tuned one.

# %%
STEPS = (1, 2, 4, 6, 11)
found = {}
for (name, model), order in itertools.product(
    {"perfect": perfect, "tuned": tuned}.items(), ("random", "left", "surest")
):
    found[name, order] = [possible(written(model, 200, 30 + s, s, order)).mean().item() for s in STEPS]
    print(
        f"{name:>7}, {order:>6}:", *(f"{s}: {f:.2f}" for s, f in zip(STEPS, found[name, order], strict=True)), sep="  "
    )
for order in ("random", "left", "surest"):
    of_perfect_one, of_tuned = found["perfect", order], found["tuned", order]
    as_exact = of_perfect_one[-1] == 1 and of_perfect_one[1] < 0.2 and of_perfect_one[2] < 0.65
    assert as_exact, (
        f"the perfect model, {order}: {of_perfect_one}; is each word drawn, and the model asked in each step?"
    )
    assert abs(of_perfect_one[2] - of_tuned[2]) < 0.2  # at 4 steps: four standard errors of 200 sentences each
    assert of_tuned[-1] < 1
assert found["perfect", "surest"][2] > found["perfect", "random"][2] > found["perfect", "left"][2]

# %% [markdown]
# The same numbers as a picture. Solid is the perfect model, dotted the tuned one:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.4, 3.4))
marks = {"random": (plots.BLUE, "o"), "left": (plots.ORANGE, "s"), "surest": (plots.GREEN, "^")}
for (name, order), shares in found.items():
    colour, marker = marks[order]
    label = {"random": "random positions", "left": "left to right", "surest": "the surest first"}[order]
    style = "-" if name == "perfect" else ":"
    ax.plot(STEPS, shares, style, marker=marker, markersize=4, color=colour, label=label if name == "perfect" else None)
ax.plot([], [], ":", color="black", label="dotted: the tuned model")
ax.set(xlabel="steps for eleven words", ylabel="possible sentences", ylim=(-0.03, 1.05))
ax.set_xticks(STEPS)
ax.legend(fontsize=9, loc="upper left")
ax.set_title("Fewer steps lose sentences, for the perfect model too")
plots.show(
    fig,
    alt="The proportion of possible sentences against steps: near 0 for one and two steps, rising to 1 for the perfect model "
    "with eleven steps, one word each; the tuned model follows it closely except near the end.",
)

# %% [markdown]
# One word a step, the perfect model makes no mistake, in any order. In two steps few sentences are right, although
# every single distribution was perfect. At four steps the trained model is close to the perfect one, and at eleven only
# the perfect one makes no mistake. So at few steps this is a loss of **parallelism**, not of learning, and no training
# towards the true probabilities removes it. At four steps the surest first loses least here, and left to right most. A
# likely reason: words that are drawn together should have little to do with each other, and neighbours have much. (The
# ranking belongs to these sentences, and not to masked models.) Tang et al. show the same loss with the exact model of
# another language, a Markov chain ([arXiv:2602.19619](https://arxiv.org/abs/2602.19619)). What is done about it: choose
# positions that hardly depend on each other ([arXiv:2604.02560](https://arxiv.org/abs/2604.02560)), or write only what
# is nearly certain, however few words that are (Fast-dLLM, [arXiv:2505.22618](https://arxiv.org/abs/2505.22618)).
# Drawing certain words at once loses little, because a certain word has no information to share.

# %% [markdown]
# ## 7. Which position first?
#
# One word a step, the order does not matter to the perfect model, as long as the position is chosen *before* the word,
# by looking at what is written. The chain rule holds for every such order. Choosing by the **drawn** word is another
# matter: the draw decides whether it counts. LLaDA's "low-confidence remasking" does this at a temperature above 0, and
# so did MaskGIT. (At LLaDA's default temperature, 0, nothing is drawn, and the two rules are the same.) Guess what it
# does to the possible sentences of the perfect model, and to their variety.

# %%
ways = {
    "random positions": ("random", 1.0),
    "left to right": ("left", 1.0),
    "the surest position": ("surest", 1.0),
    "the surest draw": ("drawn", 1.0),
    "random, temperature 0.5": ("random", 0.5),
}
in_pool = [kind(world.frames[world.parse(text).frame]) for text in texts if len(text.split()) == 11]  # of the 4,000


def variation(kinds):
    """Return the total variation, 0 to 1, between a list of kinds and the language."""
    counted = Counter(kinds)
    total = sum(in_language.values())
    every = counted.keys() | in_language.keys()
    return sum(abs(counted[k] / len(kinds) - in_language[k] / total) for k in every) / 2


results, said, off = {}, {}, {}
for (which, model), (name, (order, temperature)) in itertools.product(
    {"perfect": perfect, "tuned": tuned}.items(), ways.items()
):
    sentences = written(model, 300, 50, order=order, temperature=temperature)
    results[which, name] = possible(sentences).mean().item(), variety(sentences)
    said[which, name] = [text for text, yes in zip(sentences, possible(sentences).tolist(), strict=True) if yes]
    off[which, name] = variation([kind(world.frames[world.parse(text).frame]) for text in said[which, name]])
    share, nats = results[which, name]
    print(f"{which:>7}, {name:>23}: possible {share:.3f}, variety {nats:.2f} nats, off by {off[which, name]:.2f}")
by_luck = variation(in_pool[:300])  # 300 sentences of the language itself
print(f"in the language: variety {entropy(in_language):.2f} nats; 300 of its own sentences are off by {by_luck:.2f}")

# %% [markdown]
# Now check the claims of the text:

# %%
for name in ("random positions", "left to right", "the surest position"):
    assert results["perfect", name][0] == 1 and abs(results["perfect", name][1] - entropy(in_language)) < 0.17
assert results["perfect", "the surest draw"][0] == 1
lost = results["perfect", "random positions"][1] - results["perfect", "the surest draw"][1]
assert lost > 0.5 and results["tuned", "the surest draw"][1] < results["tuned", "random positions"][1] - 0.3
assert results["tuned", "the surest draw"][0] > results["tuned", "random positions"][0] + 0.03
for which in ("perfect", "tuned"):
    assert max(off, key=lambda pair: off[pair] if pair[0] == which else 0) == (which, "the surest draw")
    assert off[which, "the surest draw"] > off[which, "random positions"] + 0.1
sharp, plain_draw = results["tuned", "random, temperature 0.5"], results["tuned", "random positions"]
assert sharp[0] > plain_draw[0] + 0.03 and sharp[1] > entropy(in_language) - 0.17

# %% [markdown]
# Which sentences take over? Count the plainest kind, the active sentence that ends with a place ("the cook near the
# ovens praises the waiters in the kitchen"):


# %%
def plainest(kinds):
    """Return the proportion of active sentences with a place at the end in a count of (template, topic, ending)."""
    return sum(c for (template, _, ending), c in kinds.items() if (template, ending) == ("active", "place")) / sum(
        kinds.values()
    )


plain = {"the language": plainest(in_language)}
for name in ("random positions", "the surest draw"):
    plain[name] = plainest(Counter(kind(world.frames[world.parse(text).frame]) for text in said["perfect", name]))
print("active, with a place:", ", ".join(f"{name} {share:.2f}" for name, share in plain.items()))
assert abs(plain["random positions"] - plain["the language"]) < 0.11 and plain["the surest draw"] > 0.5

# %% [markdown]
# The variety of each of the five ways. The dotted line is the language's own:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.4, 3.0))
for k, (which, colour) in enumerate({"perfect": plots.BLUE, "tuned": plots.ORANGE}.items()):
    ax.scatter(
        [results[which, name][1] for name in ways],
        [row + 0.12 * (2 * k - 1) for row in range(len(ways))],  # one above the other
        color=colour,
        marker="os"[k],
        label=f"{which} model",
        zorder=3,
    )
ax.axvline(entropy(in_language), color="black", linestyle=":", label="the language")
ax.set_yticks(range(len(ways)), list(ways))
ax.invert_yaxis()
ax.set(xlabel="variety: entropy of (template, topic, ending), nats")
ax.set_title("Choosing by the drawn word costs variety")
ax.legend(fontsize=9, loc="upper left")
plots.show(
    fig,
    alt="Variety of what is written in five ways: random, left to right and the surest position lie at the language's entropy; the "
    "surest draw lies clearly below it, for the perfect and for the tuned model.",
)

# %% [markdown]
# For the perfect model, any order that looks only at what is written keeps all sentences possible and the variety of
# the language. (A count of 300 sentences gives a little less than the true entropy, about 35/600 = 0.06 nats.) **The
# surest draw** keeps its sentences possible too, and loses most of a nat: the plainest kind of sentence, less than a
# third of the language, becomes more than half of what is written, since its words win the competition for the next
# position. For the trained model it *raises* the proportion of possible sentences, because it avoids whatever the model
# is unsure of. By the look of the trained model's sentences it beats random positions. By the kinds of sentences, it is
# the farthest of these five from the language. ("Off by" is the total variation between the kinds written and the
# language's, 0 to 1; the variety alone does not tell, since kinds that come too evenly are wrong too, and have a larger
# entropy.)
#
# So a sampler that looks better need not come from a better model, nor give better samples. The same holds for models:
# the table of section 5 has the proportion of possible sentences beside the bound.
#
# The temperature of 0.5 costs no variety here: the toy world chooses mostly among *equally* likely words, and
# sharpening leaves equals equal. What it suppresses is the trained model's small errors, so more of its sentences are
# possible. Real text has rare words and common ones; section 9 tries it there. The public record has more of these
# stories: repetitive answers of LLaDA with the likeliest word ([issue 59](https://github.com/ML-GSAI/LLaDA/issues/59)),
# repeated sentences of MDLM with confident positions ([issue 35](https://github.com/kuleshov-group/mdlm/issues/35)).

# %% [markdown]
# ## 8. A gap in the middle
#
# So far a left-to-right model could do the same. Now ask for what comes *between* given words:
#
# > it is the [MASK] that [MASK] the waiters in the kitchen
#
# A model that reads from the left meets the first gap knowing only "it is the". The perfect left-to-right model of this
# world is a `PerfectModel` too. Who will write how many possible sentences?

# %%
middle = torch.tensor(
    [tokenizer.encode("it is the [MASK] that [MASK] the waiters in the kitchen", allow_specials=True)]
)
left_model = PerfectModel(world, rate=1e-6, sees="left")


def reads_left(ids):
    return left_model(ids).log().clamp(min=-1000.0)


rows = middle.repeat(500, 1)
fitted, texts_of = {}, {}
for name, (model, order) in {
    "left only": (reads_left, "left"),
    "both sides": (perfect, "left"),
    "tuned": (tuned, "random"),
}.items():
    out = fill_gaps(model, rows, tokenizer, 2, order, generator=seeded(seed, 60))
    texts_of[name] = [tokenizer.decode(row) for row in out]
    fitted[name] = possible(texts_of[name]).mean().item()
    print(f"{name:>10}: possible {fitted[name]:.3f}, for example: {texts_of[name][0]}")
assert fitted["both sides"] == 1 and fitted["left only"] < 0.3 and fitted["tuned"] > 0.8

# %% [markdown]
# Reading from the left, even the perfect model cannot know that a kitchen comes. A left-to-right model can be *trained*
# to fill gaps, by moving the middle to the end of the text (Bavarian et al. 2022), or you can draw many endings and
# throw most away. And what the tuned model writes into the first gap can be compared with the exact posterior, the
# distribution of the word given all that is visible on both sides:

# %%
exact_words = exact_model(middle)[0, 4]  # (V,), the first gap: token 4
drawn = Counter(text.split()[3] for text in texts_of["tuned"])
words = [tokenizer.tokens([v])[0] for v in exact_words.topk(6).indices.tolist()]
counted = torch.zeros(len(exact_words), dtype=torch.float64)
for word, count in drawn.items():
    counted[tokenizer.id(word)] = count / len(rows)
for word in words:
    v = tokenizer.id(word)
    print(f"{word:>10}: exact {exact_words[v]:.3f}, of 500 drawn {counted[v]:.3f}")
distance = (exact_words - counted).abs().sum().item() / 2
by_chance = (2 * exact_words * (1 - exact_words) / (500 * math.pi)).sqrt().sum().item() / 2  # of 500 exact draws
print(f"total variation {distance:.3f}; 500 exact draws would show {by_chance:.3f} by chance")
assert distance < 0.15

# %% [markdown]
# ## 9. What our model of documentation writes
#
# `docs-small` is the course's masked model of real text, the documentation inside Python, PyTorch, NumPy and
# Matplotlib. It was trained with 30 % of the tokens selected, 80/10/10, and never asked to write. `write` does for one
# text what your sampler does for a batch. Expect nothing like a chat model: it has four layers, and its training texts
# have 1.8 million tokens.

# %%
from nextbert_lite import load_docs, write

reader, pieces = load("docs-small")
gapped = "Return the" + "[MASK]" * 12 + "."
for order in ORDERS:
    for draw in (0, 1):
        print(f"{order:>7}: {' '.join(write(reader, pieces, gapped, order=order, seed=10 * seed + draw).split())}")

# %% [markdown]
# Some of it looks like documentation, and most of it means nothing. To us, "drawn" looks best. Is it written, or
# remembered? Count the **sequences of four words** (or signs) that occur in the training texts. That proportion is not
# 0 for new text either, because documentation repeats itself. So here are two controls: summaries (first sentences) of
# *test* entries of our form, "Return the … .", that do not occur in the training texts; and the same with their words
# in random order.

# %%
import re


def fours(text):
    parts = re.findall(r"\w+|[^\w\s]", text.lower())
    return [tuple(parts[i : i + 4]) for i in range(len(parts) - 3)]


docs = load_docs()
seen_fours = {four for document in docs.split("train") for four in fours(document.text)}


def remembered(texts):
    every = [four for text in texts for four in fours(text)]
    return sum(four in seen_fours for four in every) / len(every)


in_training = {document.summary for document in docs.split("train")}
new_texts = [
    text
    for text in (document.summary for document in docs.split("test"))
    if text.startswith("Return the ")
    and text.endswith(".")
    and 6 <= len(text.split()) <= 14
    and text not in in_training
]
scrambled = [
    " ".join(t.split()[int(i)] for i in torch.randperm(len(t.split()), generator=seeded(seed, k)))
    for k, t in enumerate(new_texts)
]
compared = {"test entries": new_texts, "their words mixed": scrambled}
rows = torch.tensor([pieces.encode(gapped, allow_specials=True)] * 60)
for order, temperature in (("random", 1.0), ("surest", 1.0), ("drawn", 1.0), ("random", 0.5)):
    out = fill_gaps(reader, rows, pieces, 12, order, temperature, seeded(seed, 70))
    compared[f"{order}, temperature {temperature:g}"] = [pieces.decode(row) for row in out]
words_of_each = {name: re.findall(r"\w+", " ".join(those).lower()) for name, those in compared.items()}
least = min(len(words) for words in words_of_each.values())  # as many words of each
known, different = {}, {}
for name, those in compared.items():
    known[name], different[name] = remembered(those), len(set(words_of_each[name][:least]))
    print(f"{name:>24}: {known[name]:.2f} of the sequences occur in the training texts;", end=" ")
    print(f"{different[name]} different words among {least}")
assert known["random, temperature 1"] < known["test entries"] / 2
assert abs(known["random, temperature 1"] - known["their words mixed"]) < 0.07
for name in ("drawn, temperature 1", "random, temperature 0.5"):
    assert known[name] > 3 * known["random, temperature 1"] and known[name] < known["test entries"] + 0.1
    assert different[name] < min(different["random, temperature 1"], different["test entries"]) - 30

# %% [markdown]
# With random positions, about as few sequences occur in the training texts as after mixing the words of new entries:
# the model misses most of the usual phrases. The surest draw and the lower temperature find more than three times as
# many, and that may be why they look better. This is no sign of copying: real entries that the model never saw have
# about as many. But both ways pay with variety: they use clearly fewer different words than real entries, the same ones
# again and again. (These are 60 texts and one draw of each.) None of the samplers makes the model better. A sequence of
# four words is a small unit, too: whether a *whole* text is copied is another question, for a search of the longest
# common run.

# %% [markdown]
# ## 10. A bug that makes texts look better
#
# ### Exercise 17.5 · find the bug ●●○ · 15 minutes
#
# A colleague makes the sampler faster. A draw from a softmax needs no softmax: add **Gumbel noise**, −ln(−ln u) with u
# uniform in 0 … 1, to each logit and take the largest (the *Gumbel-max trick*, which is exact). The model runs in
# bfloat16, as large ones do, and `draw_words` gets its logits (N, V) as they are. The first texts look good, better
# than before: there are no odd words any more. Then somebody counts them. Here word 0 has the probability ½, and 299
# other words share the other half:


# %% tags=["nbval-check-output"]
def buggy_draw_words(logits, seed):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    return (logits - torch.log(-torch.log(u))).argmax(-1)


logits = torch.full((4000, 300), -math.log(299))
logits[:, 0] = 0.0
drawn = buggy_draw_words(logits.to(torch.bfloat16), 5)
print(f"word 0 in more than 60 % of the draws: {bool((drawn == 0).double().mean() > 0.6)}")

# %% [markdown]
# Write the function right: `draw_words(logits, seed)` draws one word a row, each from the softmax of its logits, and
# returns their numbers (N,), int64. The rows may differ. The logits may come in bfloat16, float16 or float32. The same
# seed gives the same words, whatever was drawn elsewhere before. You may keep the trick or not. The check draws 4,000
# rows.


# %% tags=["exercise-17.5"]
def draw_words(logits, seed):
    """logits: (N, V) -> (N,), one word a row, drawn from the softmax"""
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    return (logits.double() - torch.log(-torch.log(u))).argmax(-1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.draw_words(draw_words)

# %% [markdown]
# How large can the noise be in each precision? `torch.rand` returns multiples of a smallest step, and never 1:

# %% tags=["nbval-check-output"]
for kind, digits in {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24, torch.float64: 53}.items():
    most = -math.log(-math.log1p(-(2.0**-digits)))
    values = torch.rand(1_000_000, generator=seeded(seed, 80), dtype=kind)
    assert values.max().item() <= 1 - 2.0**-digits
    print(f"{kind!s:>15}: largest number 1 - 2^-{digits}, largest noise {most:5.1f}, a factor of {math.exp(most):.0e}")

# %% [markdown]
# A word can win only if its noise makes up for what its logit lacks. In bfloat16 noise never exceeds 5.5, so a word a
# few hundred times less likely than the best one comes too seldom, as in the exercise, and one a few thousand times
# less likely almost never: much like a lower temperature, and texts that look cleaner. In float32 the limit of 16.6
# lies far out, and still it shows where a word is drawn from tens of thousands at each of a thousand positions: Zheng
# et al. (2024, [arXiv:2409.02908](https://arxiv.org/abs/2409.02908)) found that it lowers the effective temperature and
# the diversity, so that published comparisons of masked diffusion by generative perplexity (how likely another language
# model finds the texts) had come out too well. LLaDA's code says so in a comment and draws in float64.

# %% [markdown]
# ## What to remember
#
# * A masked model can **write**: from gaps to a sentence, a word at a time, in any order.
# * BERT's loss with a random number of hidden words and the weight **n/k**, or a random rate and the weight **1/t**, is
#   an upper bound on −ln P(text) of a writer in random order. The perfect model meets it.
# * The two forms have the same mean; n/k has less noise.
# * In equal steps, n/k learned more than plain 1/t in all five seeds. By the bound, a fixed 50 % could not be told from
#   n/k, and it wrote no worse. BERT's 15 % was far behind n/k by the bound, and yet slightly more of its sentences were
#   possible than of 1/t's.
# * **One word a step is exact for a perfect model**, in any order that looks only at what is written. Several at once
#   are not, even for it: what is lost is the mutual information of the words that are drawn together (for three or
#   more, their *total correlation*), given what is seen.
# * Choosing positions by the **drawn** word's probability, a lower temperature on real text, or noise with too few
#   digits: each makes texts look better and less varied. Ask for both numbers.
# * Infilling uses both sides, which a left-to-right model cannot without special training or search.
#
# **What this scale cannot show.** What we wrote has eleven words, a length known beforehand; real writers must also
# decide where to stop, and lengths of thousands of words make eleven calls for eleven words expensive. Whether masked
# diffusion is a better way to *train* a language model than predicting the next word is a question about billions of
# words. And the toy world has few frames: the joint distribution is hard, but small.
#
# **What the field did since.** LLaDA (2025) has 8 billion weights, ModernBERT was turned into a chat model (*BERTs that
# chat*, dLLM, November 2025), and much work goes into fewer steps and into caching what does not change. The bound
# itself is questioned: it describes writing in random order, and most large models are used with another order (DUEL,
# [arXiv:2603.01367](https://arxiv.org/abs/2603.01367)).
#
# **An open problem.** Which words may be drawn together? To know it exactly one needs the joint distribution, which
# costs far more calls than writing one by one. Predicting from one call how much two gaps depend on each other is what
# current work tries.

# %% [markdown]
# **Where this comes from**
#
# * Subham Sahoo et al., *Simple and Effective Masked Diffusion Language Models* (MDLM), NeurIPS 2024,
#   [arXiv:2406.07524](https://arxiv.org/abs/2406.07524); Shen Nie et al., *Large Language Diffusion Models* (LLaDA),
#   2025, [arXiv:2502.09992](https://arxiv.org/abs/2502.09992), and its
#   [generate.py](https://github.com/ML-GSAI/LLaDA/blob/main/generate.py).
# * The bound before its name: Benigno Uria, Iain Murray and Hugo Larochelle, *A Deep and Tractable Density Estimator*,
#   2014, [arXiv:1310.1757](https://arxiv.org/abs/1310.1757); Jacob Austin et al. (D3PM), 2021,
#   [arXiv:2107.03006](https://arxiv.org/abs/2107.03006); Emiel Hoogeboom et al., *Autoregressive Diffusion Models*,
#   2021, [arXiv:2110.02037](https://arxiv.org/abs/2110.02037); Jingyang Ou et al., 2024,
#   [arXiv:2406.03736](https://arxiv.org/abs/2406.03736).
# * The surest draw first: Huiwen Chang et al., *MaskGIT*, 2022, [arXiv:2202.04200](https://arxiv.org/abs/2202.04200).
#   The middle moved to the end: Mohammad Bavarian et al., 2022, [arXiv:2207.14255](https://arxiv.org/abs/2207.14255).
# * Marjan Ghazvininejad et al., *Mask-Predict*, 2019 (uniform numbers of hidden words, the least sure masked again),
#   [arXiv:1904.09324](https://arxiv.org/abs/1904.09324); that its objective is the bound, if the loss is the mean over
#   each text's hidden words, is said in [LLaDA's issue 4](https://github.com/ML-GSAI/LLaDA/issues/4). Alex Wang and
#   Kyunghyun Cho, *BERT has a Mouth, and It Must Speak*, 2019, [arXiv:1902.04094](https://arxiv.org/abs/1902.04094),
#   wrote with BERT before.
# * Kaiwen Zheng et al., *Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
#   Categorical Sampling*, 2024, [arXiv:2409.02908](https://arxiv.org/abs/2409.02908).
# * Several words at once: Chengyue Wu et al., *Fast-dLLM*, 2025,
#   [arXiv:2505.22618](https://arxiv.org/abs/2505.22618); Liran Ringel et al., 2026,
#   [arXiv:2604.02560](https://arxiv.org/abs/2604.02560); Luhan Tang et al., *Is Your Diffusion Sampler Actually
#   Correct?*, 2026, [arXiv:2602.19619](https://arxiv.org/abs/2602.19619). The order: Jaeyeon Kim et al., *Train for
#   the Worst, Plan for the Best*, 2025, [arXiv:2502.06768](https://arxiv.org/abs/2502.06768).
# * Orders that do not agree: Lin Yao, 2026, [arXiv:2606.00997](https://arxiv.org/abs/2606.00997). The bound and the
#   sampler: Gilad Turok et al., *DUEL*, 2026, [arXiv:2603.01367](https://arxiv.org/abs/2603.01367).
# * Zhou et al., *BERTs that chat*, dLLM, 2025,
#   [report](https://wandb.ai/asap-zzhou/dllm/reports/dLLM-BERT-Chat--VmlldzoxNDg0MzExNg).
#
# **Next:** lesson 18 asks where the time of an encoder goes, and how much of it can be saved.
