# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Looking inside
#     question: Which explanations of a model can you believe?
#     minutes: 150
#     part: "Part V: the next generation"
# ---

# %% [markdown]
# # 22 · Looking inside
#
# > the cook near the ovens [MASK] the waiters in the kitchen
#
# Your model fills in *serves*, with *praises* and *feeds* close behind, and you want to know why. Many methods answer with
# one number for each word: attention weights, gradients, words hidden one by one. On a real text nobody knows the right answer, so an
# explanation that looks plausible is all that you get. In the toy world the right answer is known: how much the exact
# probabilities at the [MASK] change when one more word is hidden. Here explanations can be marked like exam papers.
#
# **The question of this lesson:** which explanations of a model can you believe?
#
# | | |
# |---|---|
# | You will | build the scorer that marks explanations against the truth; mark eight methods, with random explanations, an untrained model and simple rules as controls; build activation patching, which finds the one head that carries the subject's number; probe each layer with control tasks; read predictions off the middle of the model; rank heads by gradient and by removal; then look at MiniLM, where no truth is known |
# | You need | lesson 03 for heads, lesson 06 for the toy world's exact probabilities and for ablation, lesson 14 for value norms |
# | It takes | about 150 minutes, four exercises, two of them builds of 30 and 40 minutes; the machine needs about a minute |
#
# Here is the truth for this sentence, and what five explanations of the same prediction say. Which of them would have
# convinced you?

# %% tags=["hide-input"]
import torch

from nextbert_lite import COURSE_SENTENCE, ToyWorld, explain, load, plots
from nextbert_lite.corpora.bayes import influence

world, (model, tokenizer) = ToyWorld(), load("toy-small")
text = COURSE_SENTENCE.replace("praises", "[MASK]")
ids = torch.tensor([tokenizer.encode(text, allow_specials=True)])
gap = (ids == tokenizer.mask_id).int().argmax(1)
with torch.no_grad():
    _, inside = model.eval().encoder(ids, return_inside=True)
shown = {"the truth": influence(world, ids, gap)[0, 1:-1]}
names = {"occlusion": "hide the word (occlusion)", "gradient": "gradient", "attention": "attention, layer 2"}
for method, name in names.items():
    shown[name] = torch.tensor([score for _, score in explain(model, tokenizer, text, method)])
shown["attention, layer 1"] = inside.weights[0][0].mean(0)[gap[0], 1:-1]
joined = (torch.eye(ids.shape[1]) + inside.weights[1][0].mean(0)) @ (
    torch.eye(ids.shape[1]) + inside.weights[0][0].mean(0)
)
shown["attention rollout"] = joined[gap[0], 1:-1] / 4
table = torch.stack([row / row.max() for row in shown.values()])
table[:, gap[0] - 1] = 0  # the gap explains nothing
fig, ax = plots.figure(size=(8.2, 3.0))
ax.imshow(table / table.amax(1, keepdim=True), cmap="Blues", aspect="auto")
ax.set_xticks(range(len(text.split())), text.split(), rotation=35, ha="right")
ax.set_yticks(range(len(shown)), list(shown))
ax.tick_params(length=0)
ax.set(xlabel="word", ylabel="explanation")
first = [text.split()[int(row.argmax())] for row in table]
agree = sum(word == first[0] for word in first[1:])
ax.set_title(f"{agree} of 5 explanations put the truth's first word, {first[0]}, first")
plots.show(
    fig,
    alt="Six rows of shades over the words of the sentence. In the row of the truth only cook is dark. "
    "Occlusion's row looks the same, and the other four are shaded at other words too.",
)
assert first[0] == "cook" and 1 <= agree < 5

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import PerfectModel, ToyWorld, load, pad, paired_bootstrap, plots, seeded
from nextbert_lite.checks import lesson_22 as check
from nextbert_lite.corpora.bayes import influence, posterior

# %% tags=["parameters"]
# Another seed draws other texts, gaps, untrained models and donors; what the text claims should hold for it too.
seed = 0

# %% [markdown]
# ## 1. The right answer
#
# What a word is worth to a prediction can be asked without any model. Let P be the exact distribution of the word at the
# gap, given the visible words. Hide one more word, and it becomes Q. The word's **influence** is how far the distribution
# moves, in nats:
#
# $$\text{influence} = \mathrm{KL}(P \,\|\, Q) = \sum_w P(w)\,\ln\frac{P(w)}{Q(w)}$$
#
# First by hand, for *cook*. The function `posterior` of lesson 06's module gives P and Q. Without the subject, the verb may
# be singular or plural with equal probability. Which influence do you expect?

# %% tags=["nbval-check-output"]
world = ToyWorld()
model, tokenizer = load("toy-small")
model.eval()
MASK = tokenizer.mask_id
sentence = "the cook near the ovens [MASK] the waiters in the kitchen"


def read(*texts):
    """Return the ids of texts with [MASK]s, (B, T), padded."""
    return pad([tokenizer.encode(text, allow_specials=True) for text in texts])[0]


ids = read(sentence)
gap = int((ids[0] == MASK).nonzero())
P = posterior(world, ids)[0, gap]
Q = posterior(world, read(sentence.replace("cook", "[MASK]")))[0, gap]
possible = P > 0
by_hand = (P[possible] * (P[possible] / Q[possible]).log()).sum()
with torch.no_grad():
    likely = model(ids)[0, gap].softmax(-1).topk(3)
fills = [tokenizer.backend.id_to_token(i) for i in likely.indices.tolist()]
print("the model fills in", ", ".join(f"{w} {p:.2f}" for w, p in zip(fills, likely.values.tolist(), strict=True)))
print(f"KL(P || Q) = {by_hand:.4f} nats; ln 2 = {math.log(2):.4f}")
assert abs(by_hand - math.log(2)) < 1e-9 and fills == ["serves", "praises", "feeds"]

# %% [markdown]
# Exactly ln 2: one yes-or-no question, *one cook or several?*, has lost its answer. `influence` computes the same for every
# word at once:

# %% tags=["nbval-check-output"]
truth = influence(world, ids, torch.tensor([gap]))[0]
for word, value in zip(sentence.split(), truth[1:-1].tolist(), strict=True):
    print(f"{word:>8} {value:.4f}")
assert abs(truth[2] - by_hand) < 1e-12

# %% [markdown]
# All other words have none. *ovens* and *kitchen* do tell that this is about cooking, but each of them tells it alone, so
# nothing changes when only one is hidden. Keep this in mind: **influence asks what is missing when a word goes**, and
# redundant evidence is not missed. A method that shares credit among redundant words answers another question.
#
# One right word in a sentence is too easy an exam. So we also hide about half of the other words, a little more than the
# training of `toy-small` hid (80 % of one half), and ask for any word. Then the evidence is thin, and sometimes several words
# matter. We keep the texts in which at least one word matters, round the truth to a millionth so that equal is equal, and
# call a word *visible* if it is no [MASK]:


# %% tags=["nbval-check-output"]
def asks(ids, truth):
    """Return for each text whether a visible word matters, and not all alike, (n,)."""
    least = truth.masked_fill(ids < 5, torch.inf).amin(1)  # of the visible words
    return (truth.amax(1) > 0.01) & (truth.amax(1) > least)


def drawn(n, seed, all_kinds=False):
    """Return n texts with hidden words (n, T), the gap that is asked for (n,), and its true influences (n, T).

    all_kinds: keep also the texts in which no visible word matters, or all matter equally.
    """
    ids, _ = world.sample_ids(n if all_kinds else 4 * n, seed)
    generator = seeded(seed, 22)
    is_word = ids >= 5  # 0 to 4 are the special tokens
    gap = (torch.rand(ids.shape, generator=generator) * is_word).argmax(1)
    hidden = is_word & (torch.rand(ids.shape, generator=generator) < 0.5)
    hidden[torch.arange(len(ids)), gap] = True
    ids = ids.masked_fill(hidden, MASK)
    truth = (influence(world, ids, gap) * 1e6).round() / 1e6
    kept = (asks(ids, truth) | all_kinds).nonzero()[:n, 0]
    return ids[kept], gap[kept], truth[kept]


N = 300
texts, gaps, truth = drawn(N, 100 + seed)
words = texts >= 5  # (N, T), the visible words: what an explanation is about
many, many_gaps, many_truth = drawn(3000, 400 + seed, all_kinds=True)  # other texts, of all kinds, for later
kept = asks(many, many_truth)
print(f"a word matters in {kept.double().mean():.0%} of the drawn texts; only such texts are kept")
print(f"{len(texts)} texts with {words.sum(1).double().mean():.1f} visible words on average")
print(f"of the visible words, {(truth[words] == 0).double().mean():.0%} have no influence at all")
several = ((truth > 0.01).sum(1) > 1).double().mean()
print(f"in {several:.0%} of the texts more than one word matters")
assert len(texts) == N and 0.1 < several < 0.9 and 0.7 < (truth[words] == 0).double().mean() < 0.8

# %% [markdown]
# ## 2. Marking an explanation
#
# An explanation gives each visible word a score. How well does it fit the truth? We ask for two things:
#
# * **Top-1 hit**: is the word with the largest score one that truly matters most?
# * **Rank correlation** (Spearman): does the order of all words agree? It is 1 for the same order, 0 for no relation and
#   −1 for the reverse. It is the ordinary correlation of the two lists of *ranks*.
#
# Both are computed **within one text** and then averaged over texts. Scores of two texts live on two scales, so pooling all
# words into one list would mix *which text* with *which word*. And both must treat ties fairly, since three words in
# four have the same true influence, 0. Words with equal values share the mean of the ranks that they occupy. For the hit we take the
# **expectation**: a word is drawn at random from those with the largest score. So an explanation that says nothing, with
# equal scores everywhere, gets what guessing gets.

# %% [markdown]
# ### Exercise 22.1 · build the scorer of explanations ●●● · 30 minutes
#
# Write `score_explanation(scores, truth, words)`. All three are (B, T): the scores of an explanation, which may be negative,
# the true influences, which are not, and which tokens count (True). It returns the rank correlation and the hit of each
# text, two tensors (B,) in float64. It changes no argument.
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | a loop over the texts; in each, the ranks of its own words and the correlation of the two lists of ranks; the hit where one word has the largest score and one the largest truth | stage 2, only the words |
# | 2 | only the tokens with True in `words` count; special tokens, gaps and padding are left out, not set to zero | stage 3, signs |
# | 3 | the *size* of a score counts: a word that speaks strongly against the guess matters too, so take absolute values of the scores. A correlation keeps its sign | stage 4, ties |
# | 4 | ties, by exact equality, without rounding: equal values share the mean of their ranks. The hit is the proportion, among the words with the largest score (after step 3), of those whose truth is the largest of the text | stage 6, what asks nothing |
# | 5 | where all the truths of the words that count are equal, or no word counts, the text asks nothing, and both results are NaN. Where all the scores are equal and the truths are not, the correlation is 0 | nothing more |


# %% tags=["exercise-22.1", "my-bert-explain"]
def mean_ranks(x):
    """x: (n,) -> the rank of each value, from 0; equal values share the mean of their ranks"""
    ### BEGIN SOLUTION
    below = (x[None, :] < x[:, None]).sum(1)
    equal = (x[None, :] == x[:, None]).sum(1)
    return below + (equal - 1).double() / 2
    ### END SOLUTION


def score_explanation(scores, truth, words):
    """scores, truth: (B, T), words: boolean (B, T) -> rank correlations (B,) and hits (B,), float64"""
    ### BEGIN SOLUTION
    correlations, hits = torch.full((2, len(scores)), torch.nan, dtype=torch.float64)
    for i in range(len(scores)):
        s, t = scores[i, words[i]].abs(), truth[i, words[i]]
        if len(t) == 0 or (t == t[0]).all():
            continue  # the text asks nothing
        a, b = mean_ranks(s), mean_ranks(t)
        a, b = a - a.mean(), b - b.mean()
        lengths = a.norm() * b.norm()
        correlations[i] = a @ b / lengths if lengths > 0 else 0
        hits[i] = (t[s == s.max()] == t.max()).double().mean()
    return correlations, hits
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.explanation_scorer(score_explanation)

# %% tags=["nbval-check-output"]
score_explanation = check.mine("22.1", score_explanation)

# %% [markdown]
# Before any method is marked, we need to know what the marks mean. Five rows without the model:
#
# * **random** numbers: what ignorance gets;
# * **the nearest word** to the gap counts most: a rule that needs no model;
# * **the rarest word** counts most: function words rarely matter, and a table of frequencies is all that it needs;
# * **where the truth usually lies**: the mean true influence of a word at this position, for this position of the gap and this
#   length, over other texts. It reads no word. But it has seen truths of other texts, which no method has;
# * **the perfect reader under noise**: in training, one visible word in twelve was a random one, and the reader knows that.
#   `PerfectModel` computes its exact distributions, and its influences are scored like any explanation. It is not the truth,
#   because the reader trusts no word completely.
#
# The last row shows what a *perfect* pupil of that training would get. Will it reach a rank correlation of 1?


# %%
def rows(ids):
    return torch.arange(len(ids))


def kl(p, q):
    """KL of two log distributions, (..., V) -> (...)"""
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum(-1).clamp(min=0)


def occlusion(predict, ids, gap, change=kl):
    """Hide each visible word in turn: the change at the gap, (B, T). predict: ids, gap -> log P, (B, V)"""
    before, moved = predict(ids, gap), torch.zeros(ids.shape, dtype=torch.float64)
    for t in range(1, ids.shape[1] - 1):
        these = (ids[:, t] >= 5).nonzero()[:, 0]
        if len(these):
            without = ids[these].clone()
            without[:, t] = MASK
            moved[these, t] = change(before[these], predict(without, gap[these]))
    return moved


# %% [markdown]
# Now the five rows, and their marks:


# %% tags=["nbval-check-output"]
noisy = PerfectModel(world, rate=0.5)  # the reader of training's corruption


def perfect(ids, gap):
    return (noisy(ids)[rows(ids), gap] + 1e-300).log()


frequency = torch.full((tokenizer.vocab_size,), 1.0, dtype=torch.float64)
frequency[5:] = torch.einsum("f,ftv->v", world.frame_probabilities, world.emissions)
distance = (torch.arange(texts.shape[1]) - gaps[:, None]).abs()
noisy_truth = (occlusion(perfect, texts, gaps) * 1e6).round() / 1e6


def by_place(ids, gap):
    """Return the mean truth of kept texts at each word's position, for the gap's position and the length, (B, T)."""
    at, n = gap[:, None].expand(ids.shape), (ids > 0).sum(1, keepdim=True).expand(ids.shape)
    return (at * 20 + n) * 20 + torch.arange(ids.shape[1])  # one number for each of the three together


places, visible = by_place(many[kept], many_gaps[kept]), many[kept] >= 5
sums, counts = torch.zeros(2, 8000, dtype=torch.float64)
sums.index_add_(0, places[visible], many_truth[kept][visible])
counts.index_add_(0, places[visible], torch.ones(int(visible.sum()), dtype=torch.float64))
usually = (sums / counts.clamp(min=1))[by_place(texts, gaps)]
controls = {
    "random": torch.rand(texts.shape, generator=seeded(seed, 1)),
    "the nearest word": 1 / (1 + distance),
    "the rarest word": 1 / frequency[texts],
    "where the truth usually lies": usually,
    "the perfect reader under noise": noisy_truth,
}


def marked(explanations, truth, words):
    """Return name -> (correlations, hits) of the texts."""
    return {name: score_explanation(scores, truth, words) for name, scores in explanations.items()}


def tell(marks):
    for name, (correlation, hit) in marks.items():
        error = hit.std() / math.sqrt(len(hit))
        print(f"{name:>32}: rank correlation {correlation.mean():5.2f}, hits {hit.mean():.2f} ± {error:.2f}")


marks = marked(controls, truth, words)
tell(marks)
chance = ((truth == truth.masked_fill(~words, -1).amax(1, keepdim=True)) & words).sum(1) / words.sum(1)
print(f"a word drawn at random hits in {chance.mean():.2f}")
assert abs(marks["random"][1].mean() - chance.mean()) < 4 * math.sqrt(chance.mean() * (1 - chance.mean()) / N)
rule = max(("the nearest word", "the rarest word"), key=lambda name: marks[name][1].mean())  # the better one
assert marks[rule][1].mean() > 1.5 * chance.mean() and abs(marks["random"][0].mean()) < 0.12
assert marks["the perfect reader under noise"][1].mean() > 0.97
assert 0.6 < marks["the perfect reader under noise"][0].mean() < 0.95

# %% [markdown]
# The rules are serious opponents: the better of the two simple ones hits about twice as often as chance and has looked at no
# model, and the table of positions hits more often still, without reading a word. In this world grammar decides where the
# evidence stands. And even the perfect reader does not get 1 in rank correlation, because it orders the words that the
# truth calls equal, by differences that are mostly tiny but not zero. A rank correlation is at its worst with so many ties. We
# report it because the field does, and let the hits decide wherever there is a truth.

# %% [markdown]
# ## 3. What attention says
#
# The cheapest explanation is there already: how much does the gap attend to each word? There are eight heads in two layers,
# so somebody has to choose. Take the mean over all, or the last layer, whose output is read at the gap. Or follow the
# attention through the layers. **Attention rollout** (Abnar and Zuidema 2020) takes the mean A of a layer's heads, adds
# the residual connection as if it carried as much as attention does, and multiplies the layers, the later ones from the
# left:
#
# $$\text{rollout} = \tfrac12 (A_L + I)\cdots \tfrac12 (A_1 + I)$$
#
# The fourth corrects each weight by the length of the vector that is read (Kobayashi et al. 2020, lesson 14): for each layer,
# $\lVert \sum_h \alpha^h_{ts} v^h_s W_h \rVert$, as a proportion of the row.


# %%
def attention_maps(encoder, inside):
    """Return name -> (B, T, T): how much each token takes from each, four ways."""
    H, C = encoder.config.heads, encoder.config.width
    means = [w.mean(1) for w in inside.weights]  # each (B, T, T)
    rolled = torch.eye(means[0].shape[-1])
    for A in means:
        rolled = (A + torch.eye(A.shape[-1])) / 2 @ rolled
    lengths = []
    for layer, x, weights in zip(encoder.layers, inside.hidden, inside.weights, strict=False):
        values = layer.attention.qkv(x)[..., 2 * C :].unflatten(-1, (H, C // H)).transpose(1, 2)  # (B, H, T, D)
        parts = values @ layer.attention.out.weight.T.unflatten(0, (H, C // H))  # (B, H, T, C)
        read = torch.einsum("bhts,bhsc->btsc", weights, parts).norm(dim=-1)
        lengths.append(read / read.sum(-1, keepdim=True))
    return {
        "attention, all layers": torch.stack(means).mean(0),
        "attention, last layer": means[-1],
        "attention rollout": rolled,
        "attention × value norm": torch.stack(lengths).mean(0),
    }


@torch.no_grad()
def by_attention(model, ids, gap):
    _, inside = model.encoder(ids, return_inside=True)
    return {name: A[rows(ids), gap] for name, A in attention_maps(model.encoder, inside).items()}


found = by_attention(model, texts, gaps)
marks |= marked(found, truth, words)
tell({name: marks[name] for name in found})

# %% [markdown]
# Which differences are real? Each text was marked under every explanation, so we compare in pairs, with the bootstrap of
# lesson 12:


# %%
def compared(a, b, part=1):
    """Print the mean difference of two explanations' hits (part 0: correlations); return its 95 % interval."""
    difference, low, high = paired_bootstrap(marks[a][part], marks[b][part])
    print(f"{a} − {b}: {difference:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}")
    return low, high


assert all(compared(name, rule)[0] > 0 for name in found)
assert compared("attention rollout", "attention, all layers")[0] < 0
assert compared("attention × value norm", "attention, all layers")[0] < 0.1
beyond_places = {name: compared(name, "where the truth usually lies") for name in found}
assert all(low < 0.1 for low, _ in beyond_places.values())

# %% [markdown]
# All of them are far above chance and above the two simple rules in hits. But the table of positions, which reads no word,
# hits about as often as attention: only the last layer's map may be a little better. (As often does not mean in the same
# texts, so the maps may well show more than positions. But their number of hits is no evidence of it.) They are also far from
# the perfect reader. For the mean over layers, the correction by value norms helps a little at most, and rollout is no better
# than the maps that it multiplies. (Abnar and Zuidema found rollout closer to their ablation scores than raw attention, in
# deeper models. It treats every head alike and lets attention and residual weigh the same; we have not tested whether that is
# the reason here. Kobayashi et al. 2021 also put the residual connection and the layer norm into the weights, which would be
# a stronger baseline than this one.)

# %% [markdown]
# ## 4. What gradients say
#
# The model is differentiable, so ask how the prediction changes when a word's vector changes a little. The prediction is
# one number, the log probability of the likeliest word at the gap. The vectors are the token embeddings $e_t$. Three
# readings of the gradient $g_t$ are in use:
#
# * its **length** $\lVert g_t \rVert$: how sensitive is the prediction?
# * **gradient × input**, $g_t \cdot e_t$: how much would a linear model attribute to the word?
# * **integrated gradients** (Sundararajan, Taly and Yan 2017): walk on a straight line from a baseline text $e'$, in which
#   every visible word is [MASK], to the text, take the mean gradient on the way, and multiply it by the difference of the two vectors:
#
# $$\text{IG}_t = (e_t - e'_t) \cdot \int_0^1 g_t\big(e' + \alpha\,(e - e')\big)\, d\alpha$$
#
# The integral has a property that the others lack, and the authors call it **completeness**: the sum over the words is
# exactly F(text) − F(baseline).

# %% [markdown]
# ### Exercise 22.2 · find the bug ●●○ · 10 minutes
#
# This function computes integrated gradients of any `f`, which maps vectors (B, T, C) to (B,), with the midpoint of each step.
# Somebody has tested it: with a baseline of zeros the sums over the tokens equal f(x) − f(baseline). With the embeddings of
# [MASK] as baseline they do not, however many steps are taken. What is wrong?


# %% tags=["nbval-check-output"]
def buggy_gradients(f, x, baseline, steps):
    total = torch.zeros_like(x)
    for k in range(steps):
        alpha = (k + 0.5) / steps
        point = (alpha * x).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(f(point).sum(), point)
        total = total + gradient / steps
    return ((x - baseline) * total).sum(-1)


def squares(x):
    return (x.sum((1, 2)) ** 2) / 10


generator = seeded(seed, 2)
x, other = torch.randn(2, 3, 4, 5, generator=generator)
for name, baseline in (("zeros", torch.zeros_like(x)), ("another text", other)):
    sums, wanted = buggy_gradients(squares, x, baseline, 50).sum(1), squares(x) - squares(baseline)
    print(f"baseline of {name}: the sums are off by {(sums - wanted).abs().max():.3f}")

# %% [markdown]
# Write it right: (B, T), and `x` and `baseline` unchanged. The result has no graph, even if `x` comes with one, as a model's
# embeddings do. Keep the midpoints.


# %% tags=["exercise-22.2"]
def integrated_gradients(f, x, baseline, steps):
    """f: (B, T, C) -> (B,); x, baseline: (B, T, C) -> each token's attribution, (B, T)"""
    ### BEGIN SOLUTION
    total = torch.zeros_like(x)
    for k in range(steps):
        alpha = (k + 0.5) / steps
        point = (baseline + alpha * (x - baseline)).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(f(point).sum(), point)
        total = total + gradient / steps
    return ((x - baseline) * total).sum(-1).detach()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.integrated_gradients(integrated_gradients)

# %% [markdown]
# The lesson goes on with a function of its own. To put vectors of our choice in place of the token embeddings we use a
# **forward hook**: a function that torch calls with what a module gives, and whose own result, if there is one, replaces
# it. You will need hooks for the second build. Note the last line: what was hooked must be unhooked.


# %%
def with_embeddings(encoder, vectors, run):
    """Return run() while the token embeddings are these vectors, (B, T, C)."""
    handle = encoder.tokens.register_forward_hook(lambda module, inputs, output: vectors)
    try:
        return run()
    finally:
        handle.remove()


def by_gradient(encoder, ids, visible, mask_id, f, steps=12):
    """Three explanations of f() -> (B,), a number that depends on the token embeddings; visible: (B, T)."""

    def gradient(at):
        at = at.detach().requires_grad_()
        return torch.autograd.grad(with_embeddings(encoder, at, f).sum(), at)[0]

    with torch.no_grad():
        x, baseline = encoder.tokens(ids), encoder.tokens(ids.masked_fill(visible, mask_id))
        change = with_embeddings(encoder, x, f) - with_embeddings(encoder, baseline, f)
    here = gradient(x)
    path = [gradient(baseline + (k + 0.5) / steps * (x - baseline)) for k in range(steps)]
    integrated = ((x - baseline) * torch.stack(path).mean(0)).sum(-1)
    found = {"gradient": here.norm(dim=-1), "gradient × input": (here * x).sum(-1)}
    return found | {"integrated gradients": integrated}, (integrated.sum(1) - change, change)


# %% [markdown]
# Here the number to be explained is the log probability of the likeliest word at the gap:


# %%
def toy_gradients(model, ids, gap):
    def f():  # the log probability of the likeliest word
        return model(ids)[rows(ids), gap].log_softmax(-1).gather(1, best[:, None])[:, 0]

    with torch.no_grad():
        best = model(ids)[rows(ids), gap].argmax(-1)
    return by_gradient(model.encoder, ids, ids >= 5, MASK, f)


gradients, (missed, change) = toy_gradients(model, texts, gaps)
tell(marked(gradients, truth, words))
print(
    f"completeness: the sums miss F(text) − F(baseline) by {missed.abs().mean():.3f}; it is {change.mean():.2f} on average"
)
assert missed.abs().mean() < 0.1 * change.abs().mean()

# %% [markdown]
# The length of the gradient and integrated gradients are about as good as each other, and better than gradient × input.
# Integrated gradients differ from it in two ways: they subtract a baseline, so that *nothing* has a meaning (an embedding has
# no natural zero), and they take the mean gradient on the way. Which of the two helps? Mark $g_t \cdot (e_t - e'_t)$ and look.

# %% [markdown]
# ## 5. What hiding says
#
# The last method asks the model the same question that the truth asks the world: hide one word and see how far the
# prediction moves. It is called **occlusion**, or erasure (Li, Monroe and Jurafsky 2016). We wrote it in section 2 and only
# exchange who predicts. It needs one forward pass for each word.


# %%
def predictor(model):
    @torch.no_grad()
    def predict(ids, gap):
        return model(ids)[rows(ids), gap].double().log_softmax(-1)

    return predict


found |= gradients | {"occlusion": occlusion(predictor(model), texts, gaps)}
marks |= marked({name: found[name] for name in (*gradients, "occlusion")}, truth, words)
tell({name: marks[name] for name in ("occlusion", "the perfect reader under noise")})


def of_likeliest(p, q):
    """How far the log probability of the word that was likeliest moves; a drop-in for kl."""
    return (p - q).gather(1, p.argmax(-1, keepdim=True))[:, 0].abs()


one_word = {"occlusion of one word's log P": occlusion(predictor(model), texts, gaps, of_likeliest)}
marks |= marked(one_word, truth, words)
tell({name: marks[name] for name in one_word})

# %% tags=["hide-input"]
order = sorted((*controls, *found), key=lambda name: marks[name][1].mean())
fig, axes = plots.figure(1, 2, size=(9.0, 4.0))
for ax, part, name in zip(axes, (1, 0), ("top-1 hits", "rank correlation"), strict=True):
    means = torch.stack([marks[n][part].mean() for n in order])
    errors = torch.stack([1.96 * marks[n][part].std() / math.sqrt(N) for n in order])
    colours = [plots.GREY if n in controls else plots.BLUE for n in order]
    ax.barh(range(len(order)), means, xerr=errors, color=colours, error_kw={"linewidth": 1})
    ax.set_yticks(range(len(order)), order if part == 1 else [])
    ax.set(xlabel=name, xlim=(min(0, means.min().item() - 0.1), 1.05))
    ax.axvline(0, color="black", linewidth=0.6)
axes[0].set(ylabel="explanation")
axes[0].set_title(f"Of the methods, {max(found, key=lambda n: marks[n][1].mean())} finds the word most often")
plots.show(
    fig,
    alt="Bars of hits and rank correlations with intervals for five controls, in grey, and eight methods, in blue. "
    "Occlusion is the highest method, random the lowest row.",
)

# %% [markdown]
# Which differences are real? In pairs:

# %%
best_map = max(
    ("attention, all layers", "attention, last layer", "attention × value norm"), key=lambda n: marks[n][1].mean()
)
for better, worse in (
    ("occlusion", "gradient"),
    ("occlusion", "integrated gradients"),
    ("occlusion", best_map),
    ("gradient", "gradient × input"),
    ("integrated gradients", "gradient × input"),
    ("occlusion", "where the truth usually lies"),
    ("occlusion of one word's log P", "gradient"),
):
    assert compared(better, worse)[0] > 0
_ = compared("gradient", best_map)
for name in gradients:
    compared(name, "where the truth usually lies")

# %% [markdown]
# Occlusion comes first by a clear margin. That is no surprise, and no victory for occlusion in general: the truth was
# *defined* by hiding words, so it favours the method that hides words. It is not the KL that they share: occlusion is also above
# the gradient if it looks only at the log probability of the likeliest word, which is all that the gradient looks at. What the
# result says is that the model, under the same question, answers nearly as the world does. The other methods answer other
# questions. Which of those questions did you mean when you asked *why?*

# %% [markdown]
# ### By construction
#
# An average over random gaps can hide a shortcut. So we mark the same methods at the verb, whose number only the subject
# tells, separately for each construction. Everything else is visible. Only *misleading* questions enter: those in which
# another noun suggests the wrong number.


# %% tags=["nbval-check-output"]
questions = [q for q in world.agreement_test(700, 200 + seed) if q.misleading]
verb_texts, verb_gaps = pad([tokenizer.encode(q.sentence.text) for q in questions])[0], []
for row, q in enumerate(questions):
    verb_texts[row, q.position + 1] = MASK
verb_gaps = torch.tensor([q.position + 1 for q in questions])
verb_truth = (influence(world, verb_texts, verb_gaps) * 1e6).round() / 1e6
once = verb_truth.amax(1) > 0.1  # in some passives a pronoun tells the number a second time
questions = [q for q, told_once in zip(questions, once, strict=True) if told_once]
verb_texts, verb_gaps, verb_truth = verb_texts[once], verb_gaps[once], verb_truth[once]
subjects = torch.tensor([q.sentence.position(q.sentence.subject) + 1 for q in questions])
assert (verb_truth.argmax(1) == subjects).all() and ((verb_truth > 0).sum(1) == 1).all()
print(f"{len(questions)} questions: the truth names the subject, and nothing else, in every one")
right, wrong = (torch.tensor([tokenizer.id(getattr(q, k)) for q in questions]) for k in ("right", "wrong"))
with torch.no_grad():
    at_verb = model(verb_texts)[rows(verb_texts), verb_gaps]
own_verb, number = at_verb.argmax(-1) == right, at_verb[rows(right), right] > at_verb[rows(right), wrong]
print(f"the likeliest word is the sentence's own verb in {own_verb.double().mean():.0%}; that verb comes before")
print(f"its form of the wrong number in {number.double().mean():.0%}")


def all_methods(model, ids, gap):
    return (
        by_attention(model, ids, gap)
        | toy_gradients(model, ids, gap)[0]
        | {"occlusion": occlusion(predictor(model), ids, gap)}
    )


# %% [markdown]
# There is a catch. At the verb, the truth is about the *number*, because only the subject's number is told once. The gradients
# explain log P(the likeliest verb), and *which* verb it is depends on the topic as well. So we also give them the target that
# asks for the number alone: the logit of the right form minus that of the wrong one. Eight methods and these three rows, with
# the hits averaged by construction. Which rows will change with the target?

# %%
at_verbs = all_methods(model, verb_texts, verb_gaps)


def right_minus_wrong():
    logits = model(verb_texts)[rows(verb_texts), verb_gaps]
    return logits[rows(right), right] - logits[rows(right), wrong]


by_number, _ = by_gradient(model.encoder, verb_texts, verb_texts >= 5, MASK, right_minus_wrong)
at_verbs |= {f"{name}, of right − wrong": scores for name, scores in by_number.items()}
at_verbs["the rarest word"] = 1 / frequency[verb_texts]
verb_marks = marked(at_verbs, verb_truth, verb_texts >= 5)
# "object cleft, person": the construction, and what the misleading noun near the subject is, if there is one
kinds = [q.sentence.construction + ("" if (a := q.sentence.attractor) == "none" else f", {a}") for q in questions]
columns = [kind for kind in sorted(set(kinds)) if kinds.count(kind) >= 8]
left_out = [kind for kind in set(kinds) if kind not in columns]
print(f"left out, with fewer than 8 sentences: {len(left_out)} kinds, {sum(map(kinds.count, left_out))} sentences")
by_kind = {
    name: [hit[torch.tensor([k == kind for k in kinds])].mean().item() for kind in columns]
    for name, (_, hit) in verb_marks.items()
}
with torch.no_grad():
    _, inside = model.encoder(verb_texts, return_inside=True)
last = inside.weights[1][rows(verb_texts), :, verb_gaps]  # (B, 4, T), layer 2's heads at the gap
alone = marked({"head 2.1 alone": last[:, 0], "the other three": last[:, 1:].mean(1)}, verb_truth, verb_texts >= 5)
tell(alone)
assert alone["head 2.1 alone"][1].mean() > 0.95 and alone["the other three"][1].mean() < 0.5

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(9.0, 5.2))
ax.imshow(torch.tensor(list(by_kind.values())), cmap="Blues", vmin=0, vmax=1, aspect="auto")
for i, values in enumerate(by_kind.values()):
    for j, value in enumerate(values):
        ax.text(
            j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value > 0.55 else "#303030"
        )
ax.set_xticks(range(len(columns)), [f"{kind} ({kinds.count(kind)})" for kind in columns], rotation=35, ha="right")
ax.set_yticks(range(len(by_kind)), list(by_kind))
ax.tick_params(length=0)
ax.set(xlabel="construction, and kind of misleading noun near the subject (sentences)", ylabel="explanation")
worst = {name: min(values) for name, values in by_kind.items()}
sure = [name for name, least in worst.items() if least > 0.95]
ax.set_title("Asked for the number, two gradients find every subject")
plots.show(
    fig,
    alt="A table of hits by method and construction. Attention in the last layer, occlusion, and the gradient and integrated "
    "gradients of right minus wrong are near 1 everywhere; the other rows vary between constructions.",
)
assert worst["occlusion"] > 0.95 and worst["attention, last layer"] > 0.95
assert worst["attention rollout"] < 0.5 and worst["gradient × input"] < 0.7
assert set(sure) == {"attention, last layer", "occlusion"} | {
    f"{n}, of right − wrong" for n in by_number if "×" not in n
}
assert sum(a > b for a, b in zip(by_kind["attention, all layers"], by_kind["attention × value norm"], strict=True)) >= 3
mean_hit = {name: hit.mean() for name, (_, hit) in verb_marks.items()}
assert all(mean_hit[f"{name}, of right − wrong"] > mean_hit[name] for name in by_number)

# %% [markdown]
# Here the order is another one. Attention in the last layer is perfect, because this model has a head for the subject
# (lesson 06), and this question is that head's: the head alone finds the subject, and the mean of the other three does not.
# On random gaps the same map missed one text in five. Rollout fails in some constructions altogether, and in several columns
# the map over all layers is *worse* with value norms than without.
#
# With the default target, gradients and integrated gradients miss some subjects. Our guess: the words that tell the topic
# raise log P(the likeliest verb) too and take their share of the credit. The three added rows fit it: with a target that asks
# for the number alone, these two find the subject nearly always. (Gradient × input still misses many, and no row shows which
# word took the credit.) A method's score is a property of the method, of the question *and of the target*. If somebody shows
# you one example in which attention points at the right word, ask how the examples were chosen.

# %% [markdown]
# ## 6. Is it the model that is explained?
#
# An explanation may look right without depending on what the model learned. Adebayo et al. (2018) found image
# explanations that hardly changed when the weights were replaced by random ones; such an explanation is a picture of the
# input. Their **sanity check** is easy: run every method on an untrained twin. Two numbers: its hits, and how similar the
# explanations of the two models are. (For the second there is no truth, so it is a rank correlation.)

# %%
from nextbert_lite import Encoder, MaskedLanguageModel

torch.manual_seed(seed)
untrained = MaskedLanguageModel(Encoder(model.encoder.config)).eval()
of_twin = all_methods(untrained, texts, gaps)
twin_marks = marked(of_twin, truth, words)
print(f"{'':>24}  trained  untrained  similarity of the two")
for name, scores in of_twin.items():
    alike = score_explanation(found[name], scores.abs().double(), words)[0].nanmean().item()
    print(f"{name:>24} {marks[name][1].mean():8.2f} {twin_marks[name][1].mean():9.2f} {alike:12.2f}")
    assert twin_marks[name][1].mean() < marks[rule][1].mean() and abs(alike) < 0.5
    assert paired_bootstrap(marks[name][1], twin_marks[name][1])[1] > 0.1

# %% [markdown]
# All eight pass: on the twin they hit less often than the better of the two simple rules, about as often as chance. Passing says that a method looks at the
# weights. It does not say that it is right: gradient × input passes too.

# %% [markdown]
# ### Faithful to the model, or to the world?
#
# There are two truths. The world's: what a word is worth. The model's: what the model makes of the word. An explanation of
# a *model* should follow the model even where it is wrong about the world. How far are the two apart? The model is nearly
# perfect as a predictor:

# %%
exact = posterior(world, texts)[rows(texts), gaps]
log_p = predictor(model)(texts, gaps)
alone = posterior(world, texts.masked_fill(words, MASK))[
    rows(texts), gaps
]  # knows the gap's position and the sentence's length only


def from_exact(log_q, p=exact):
    """KL of the exact distribution from another's logarithm, (N,)"""
    return (torch.special.xlogy(p, p) - torch.where(p > 0, p * log_q, 0)).sum(-1)


excess, all_there_is = from_exact(log_p).mean().item(), from_exact(alone.clamp(min=1e-300).log()).mean().item()
reader = from_exact(perfect(texts, gaps)).mean().item()
print(f"KL from the exact distribution: the model {excess:.3f} nats, the perfect reader under noise {reader:.3f}, ")
print(f"a reader of the position and the length alone {all_there_is:.3f}")
own = (found["occlusion"] * 1e9).round() / 1e9  # the model's own influences
print("scored against the model's own influences:")
against_own = marked({"the world's influences": truth, "the perfect reader under noise": noisy_truth}, own, words)
tell(against_own)
difference, low, high = paired_bootstrap(*(correlation for correlation, _ in reversed(against_own.values())))
print(f"rank correlation, the reader − the world: {difference:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}")
assert excess < 0.1 * all_there_is and against_own["the world's influences"][1].mean() > 0.9 and low > 0

# %% [markdown]
# The model misses little of what there is to know, and its strongest word is nearly always the world's. So in this lesson
# an explanation that is right about the world is nearly always right about the model, as far as the strongest word goes. Further
# down the list they part: the world gives most words exactly zero, while most of them move the model a little. Not all of that
# is error: the *perfect* reader of its training, which trusts no word completely, is also moved by some of these words, and
# orders the words more like the model does.
# Here are the methods against the model's own influences. Does the order change? (Occlusion is the yardstick now, so it is
# left out.)

# %%
own_marks = marked({name: scores for name, scores in found.items() if name != "occlusion"} | controls, own, words)
tell(own_marks)
others = [name for name in found if name != "occlusion"]
both = torch.tensor([[marks[n][1].mean(), own_marks[n][1].mean()] for n in others])
same_order = score_explanation(both[:, 0][None], both[:, 1][None], torch.ones(1, len(others), dtype=torch.bool))[
    0
].item()
print(f"rank correlation of the two orders of the seven methods: {same_order:.2f}")
assert same_order > 0.5

# %% [markdown]
# ## 7. Activation patching
#
# So far we explained with *words*. But which *part of the model* carries the subject's number to the verb? A map of a head
# is a hypothesis, and lesson 06 tested one by taking the head away. **Activation patching** (also called causal tracing, or
# interchange intervention) asks more precisely: run the model on two texts that differ in one thing, and move one
# activation from one run into the other.
#
# | run | text | m: logit difference at the [MASK], singular − plural |
# |---|---|---|
# | **clean** | the **cook** near the ovens [MASK] … | positive |
# | **corrupted** | the **cooks** near the ovens [MASK] … | negative |
# | **patched** | corrupted, but *one* activation comes from the clean run | how much of the way back? |
#
# $$\text{restored} = \frac{m(\text{patched}) - m(\text{corrupted})}{m(\text{clean}) - m(\text{corrupted})}$$
#
# It is 0 if the activation changes nothing and 1 if it alone brings everything back. Use a difference of logits for m, not
# probabilities, which saturate (Zhang and Nanda 2023; Heimersheim and Nanda 2024). And mind the direction: clean into
# corrupted asks what *suffices*, corrupted into clean what is *necessary*.

# %% [markdown]
# ### Exercise 22.3 · build activation patching ●●● · 40 minutes
#
# Write `restored(model, clean, corrupt, module, position, measure, donor=None, head=None)`.
#
# * `clean`, `corrupt`, `donor`: ids (B, T). `measure` maps the model's logits, (B, T, V), to (B,). `position`: (B,), for each
#   text the position whose activation is moved, counted in ids.
# * The activation is what `module` *gives*, (B, T, C). `module` may give a tensor, or a tuple whose first part is that tensor,
#   as the course's layers do; then the other parts stay.
# * Record it in a run on `donor`, or on `clean` if there is no donor. Put its vector at `position` into a run on `corrupt`.
# * Return the formula above, (B,), without a graph.
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | three measures: of the clean run, the corrupted run and the patched run. A hook records, another one replaces, for each text at its own position. Remove each of them by its handle, or the next run is patched too | stage 3, tensors and tuples |
# | 2 | both kinds of output | stage 4, a donor |
# | 3 | `donor`: only *what is moved* comes from it; the formula's clean run stays | stage 5, one head |
# | 4 | `head=h` (from 0): `module` is a `MultiHeadAttention`, and only what head h found is moved: the features h·D … (h + 1)·D of what goes *into* `module.out`, with D = C / `module.H` | stage 7, no trace |
# | 5 | **leave no trace**: when the function ends, with a result or with an error (of the model or of `measure`, which goes on to the caller), no hook of yours is left on any module, and hooks of others are still there. Change a copy (`clone`) of what a module gives, never the tensor itself, which may belong to the model; and record a copy, too | nothing more |
#
# `module.register_forward_hook(f)` calls `f(module, inputs, output)` after the module has run, and what f returns, unless it
# is None, replaces the output. `register_forward_pre_hook(f)` calls `f(module, inputs)` before; return a tuple of new inputs.
# Both give a handle with the method `remove()`.


# %% tags=["exercise-22.3", "my-bert-explain"]
def restored(model, clean, corrupt, module, position, measure, donor=None, head=None):
    """ids (B, T), position (B,), measure: logits -> (B,); the proportion that one moved activation restores, (B,)"""
    ### BEGIN SOLUTION
    b, recorded = torch.arange(len(corrupt)), []
    place, part = module, slice(None)
    if head is not None:
        D = module.out.in_features // module.H
        place, part = module.out, slice(head * D, (head + 1) * D)

    def moved(x):
        x = x.clone()
        if not recorded:  # the run that gives the activation
            recorded.append(x)
        else:
            x[b, position, part] = recorded[0][b, position, part]
        return x

    def on_output(module, inputs, output):
        return (moved(output[0]), *output[1:]) if isinstance(output, tuple) else moved(output)

    def on_input(module, inputs):
        return (moved(inputs[0]), *inputs[1:])

    with torch.no_grad():
        m_clean, m_corrupt = measure(model(clean)), measure(model(corrupt))
        handle = place.register_forward_hook(on_output) if head is None else place.register_forward_pre_hook(on_input)
        try:
            model(clean if donor is None else donor)
            m_patched = measure(model(corrupt))
        finally:
            handle.remove()
    return (m_patched - m_corrupt) / (m_clean - m_corrupt)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.activation_patching(restored)

# %% tags=["nbval-check-output"]
restored = check.mine("22.3", restored)

# %% [markdown]
# ### Exercise 22.4 · predict the result ●●○ · 5 minutes
#
# The two texts differ in *cook* and *cooks* only. We patch the residual stream (the vector of each token that is handed from
# layer to layer), once at each of the 13 positions ([CLS] and [SEP] included), at three depths: after the embeddings, after
# layer 1, and after layer 2, which is the last. That makes 39 numbers; m reads the logits at the [MASK] only, as in the table
# above. In exact arithmetic, and for *any* trained weights, how many of them are exactly 1, and how many exactly 0?

# %% tags=["exercise-22.4"]
ones_and_zeros = None  # (how many are exactly 1, how many exactly 0)
### BEGIN SOLUTION
ones_and_zeros = (
    2,
    24,
)  # 1: the subject before anything is mixed, the gap after all is mixed; 0: the rest of these rows
### END SOLUTION

# %% tags=["nbval-check-output"]
check.certain_cells(ones_and_zeros)

# %% [markdown]
# The grid, with your own function if it passes:

# %%
clean, corrupt = read(sentence, sentence.replace("cook", "cooks"))[:, None]
singular, plural = (tokenizer.id(word) for word in ("praises", "praise"))


def difference(logits):
    return (logits[:, gap, singular] - logits[:, gap, plural]).double()


depths = [model.encoder.dropout, *model.encoder.layers]  # `dropout` gives out what goes into layer 1
grid = torch.stack(
    [
        torch.cat(
            [restored(model, clean, corrupt, module, torch.tensor([t]), difference) for t in range(clean.shape[1])]
        )
        for module in depths
    ]
)
with torch.no_grad():
    print(f"clean {difference(model(clean)).item():+.2f}, corrupted {difference(model(corrupt)).item():+.2f}")
print(f"after the embeddings, at the subject: {grid[0, 2]:.4f}; after layer 2, at the gap: {grid[2, gap]:.4f}")
off = grid.clone()
off[0, 2] = off[2, gap] = off[1] = 0
assert abs(grid[0, 2] - 1) < 1e-4 and abs(grid[2, gap] - 1) < 1e-4 and off.abs().max() < 1e-4
assert grid[1, 2] > 0.9 and grid[1, gap].abs() < 0.1

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(8.2, 2.6))
ax.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
for i, values in enumerate(grid.tolist()):
    for j, value in enumerate(values):
        ax.text(
            j,
            i,
            f"{round(value, 2) + 0:.2f}",  # + 0: no "-0.00"
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > 0.55 else "#303030",
        )
ax.set_xticks(range(clean.shape[1]), ["[CLS]", *sentence.split(), "[SEP]"], rotation=35, ha="right")
ax.set_yticks(range(3), ["embeddings", "after layer 1", "after layer 2"])
ax.tick_params(length=0)
ax.set(xlabel="position that is patched", ylabel="depth")
ax.set_title("In this sentence, the number moves from the subject to the verb in layer 2")
plots.show(
    fig,
    alt="A grid of proportions restored. In the first two rows only the cell of the subject is 1, in the last one only the cell "
    "of the masked verb.",
)

# %% [markdown]
# Two of the three rows had to come out as they did: they are a *check* of the code, not a finding. After the embeddings the
# texts differ at one position only, and after the last layer only the gap is read. The middle row is the finding: layer 1
# leaves the number where it was, and layer 2 moves it. Which head does? Now over many sentences, by construction, each with
# its subject's number changed, and each head's output patched at the gap:


# %%
def number_pairs(questions):
    """Return the questions' texts with the verb masked and the subject in the other number, (B, T)."""
    changed = []
    for q in questions:
        slot = q.sentence.position(q.sentence.subject)
        texts = list(q.sentence.words)
        texts[q.position] = "[MASK]"
        texts[slot] = other_number[texts[slot]]
        changed.append(" ".join(texts))
    return read(*changed)


# %% [markdown]
# On all questions of section 5, by construction:

# %%
people = [p for topic in world.grammar["topics"].values() for group in ("group_a", "group_b") for p in topic[group]]
other_number = {p[a]: p[b] for p in people for a, b in (("singular", "plural"), ("plural", "singular"))}
corrupted = number_pairs(questions)
at_gap = rows(verb_texts)


def of_verbs(logits):
    return (logits[at_gap, verb_gaps, right] - logits[at_gap, verb_gaps, wrong]).double()


heads = [(layer, h) for layer in range(2) for h in range(4)]
by_head = {
    (layer, h): restored(
        model, verb_texts, corrupted, model.encoder.layers[layer].attention, verb_gaps, of_verbs, head=h
    )
    for layer, h in heads
}
constructions = [q.sentence.construction for q in questions]
print("restored by   ", *(f"{layer + 1}.{h + 1:<5}" for layer, h in heads))
for name in sorted(set(constructions)):
    here = torch.tensor([c == name for c in constructions])
    print(f"{name:>16}", *(f"{by_head[pair][here].mean():6.2f}" for pair in heads), f"  ({int(here.sum())} sentences)")
carrier = max(heads, key=lambda pair: by_head[pair].mean())
rest = max(by_head[pair].abs().mean().item() for pair in heads if pair != carrier)
print(f"head {carrier[0] + 1}.{carrier[1] + 1} restores {by_head[carrier].mean():.2f}, any other at most {rest:.2f}")
least = min(by_head[carrier][torch.tensor([c == name for c in constructions])].mean() for name in set(constructions))
assert carrier[0] == 1 and least > 0.8 and rest < 0.15

# %% [markdown]
# One head of eight brings nearly everything back, in every construction. Three **controls**. The first must come out, or the
# code is wrong; the other two can fail:
#
# * a donor that is the corrupted text itself changes *nothing* beyond rounding;
# * does another sentence, of the same construction but of another topic, whose subject has the *corrupted* number restore
#   nothing?
# * does such a sentence whose subject has the *clean* number restore as much as the text's own twin? It has another subject,
#   so if it works, then what the head carries is the number and not the word.
#
# An untrained twin would be no control here, since its two measures hardly differ, and the formula divides by that.

# %%
attention = model.encoder.layers[carrier[0]].attention
nothing = restored(model, verb_texts, corrupted, attention, verb_gaps, of_verbs, donor=corrupted, head=carrier[1])
assert nothing.abs().max() < 1e-5
is_plural = torch.tensor([q.sentence.subject_number == "plural" for q in questions])
topics = [world.frames[q.sentence.frame].topic for q in questions]
alike = list(zip(constructions, verb_gaps.tolist(), strict=True))  # a donor needs its gap at the same position
stranger, generator = torch.arange(len(questions)), seeded(seed, 3)
for i in rows(stranger).tolist():
    others = [j for j in rows(stranger).tolist() if alike[j] == alike[i] and topics[j] != topics[i]]
    if others:
        stranger[i] = others[int(torch.randint(len(others), (1,), generator=generator))]
donated = restored(
    model, verb_texts, corrupted, attention, verb_gaps, of_verbs, donor=verb_texts[stranger], head=carrier[1]
)
strange = stranger != torch.arange(len(questions))
same_number = is_plural[stranger] == is_plural
kept, gone = donated[strange & same_number], donated[strange & ~same_number]
subject_words = verb_texts[rows(verb_texts), subjects]
same_word = (subject_words[stranger] == subject_words)[strange].double().mean()
by_twin = by_head[carrier][strange & same_number]
print(f"donor: the corrupted text itself: {nothing.abs().max():.6f}")
print(f"donor: a stranger with the clean text's number: {kept.mean():.2f} ({len(kept)} sentences)")
lost = by_twin - kept
print(
    f"    the own twin on these: {by_twin.mean():.2f}; paired difference {lost.mean():.2f} ± {lost.std() / len(lost) ** 0.5:.2f}"
)
print(f"donor: a stranger with the corrupted text's number: {gone.mean():.2f} ({len(gone)} sentences)")
print(f"strangers with the same subject word: {same_word:.0%}")
assert kept.mean() > 0.8 and gone.mean().abs() < 0.15 and same_word == 0 and 0 < lost.mean() < 0.12

# %% [markdown]
# A stranger restores nearly as much as the own twin, and one with the wrong number next to nothing: what the head brings to m
# is the number, and it hardly depends on the word. (m compares two forms of one verb, so it would not show whether the head
# carries something else as well.)
#
# ### Patching as an explanation of words
#
# Patching can be marked like the other methods. Take the text as the base run, and as *clean* run the text with one word
# hidden. Then patch that word's position: at the embeddings this restores everything, because it *is* occlusion. After layer
# 1 it restores only what reaches the gap from that word's own position; what other words have taken from it in layer 1
# stays. So restored × occlusion is what the word's **own position alone** carries. In the other direction we move everything
# *but* that position: run the text with the word hidden, and put the own position back. Guess: how much does each bring?


# %%
def two_routes(model, ids, gap):
    """Return what a word's own position alone and all others alone bring of its occlusion in layer 2, two (B, T)."""
    before, (own, others) = predictor(model)(ids, gap), torch.zeros(2, *ids.shape, dtype=torch.float64)
    for t in range(1, ids.shape[1] - 1):
        these = (ids[:, t] >= 5).nonzero()[:, 0]
        if len(these) == 0:
            continue
        base, hidden, p, at = ids[these], ids[these].clone(), before[these], gap[these]
        hidden[:, t] = MASK

        def moved(logits, p=p, at=at):
            return kl(p, logits[torch.arange(len(at)), at].double().log_softmax(-1))

        with torch.no_grad():
            whole = moved(model(hidden)) - moved(model(base))
        where = model.encoder.layers[0], torch.full((len(these),), t), moved
        own[these, t] = restored(model, hidden, base, *where) * whole
        others[these, t] = (1 - restored(model, base, hidden, *where)) * whole
    return own, others


own_position, other_positions = two_routes(model, texts, gaps)
marks |= marked({"patching after layer 1": own_position}, truth, words)
tell({name: marks[name] for name in ("occlusion", "patching after layer 1", "attention, last layer")})
matters = truth > 0.1
part, rest = ((x[matters].sum() / found["occlusion"][matters].sum()).item() for x in (own_position, other_positions))
print(f"of the influence of words that matter, the own position alone carries {part:.0%}, all others alone {rest:.0%}")
assert 0.5 < part < 0.98 and 0 < rest < part / 3 and part + rest < 0.99
assert compared("occlusion", "patching after layer 1")[0] > 0

# %% [markdown]
# Most of the influence comes from the word's own position. Some of it is in the other positions, the gap's own included,
# because layer 1 has mixed it into their vectors. The parts of a KL do not add up to 1, so the remainder is no route of its own.
# That is one reason why a map of layer 2, however perfect, cannot be the whole explanation.

# %% [markdown]
# ## 8. Probes, and what they prove
#
# A **probe** is a small classifier that reads a property off a hidden state. Can the subject be read off a person's vector
# after each layer? And its number? The usual recipe is a logistic regression on the vectors of each layer, and its accuracy
# on new sentences:


# %%
said = world.sample(900, 300 + seed)
probe_ids, _ = pad([tokenizer.encode(s.text) for s in said])
persons = {form for p in people for form in p.values()}
spots = [(i, t + 1, s) for i, s in enumerate(said) for t, word in enumerate(s.words) if word in persons]
at = torch.tensor([(i, t) for i, t, _ in spots]).T
of_word = probe_ids[at[0], at[1]]  # the word type at each spot
plurals = torch.tensor([tokenizer.id(p["plural"]) for p in people])
generator = seeded(seed, 4)
labels = {
    "subject": torch.tensor([t - 1 == s.position(s.subject) for _, t, s in spots]),
    "number": torch.isin(of_word, plurals),
    "control": torch.randint(2, (tokenizer.vocab_size,), generator=generator)[of_word].bool(),
}
training = at[0] < 600  # sentences to learn from; the others are new


def probe(x, y, learn, judge):
    """Return the accuracy of a logistic regression, learned on some rows and judged on others."""
    x = (x - x[learn].mean(0)) / x[learn].std(0)
    weight, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=30, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (
            F.binary_cross_entropy_with_logits(x[learn] @ weight + bias, y[learn].float())
            + 1e-3 * weight.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return (((x @ weight + bias) > 0) == y)[judge].double().mean().item()


@torch.no_grad()
def states(model):
    """Return the vectors of the persons after the embeddings and after each layer, each (spots, C)."""
    return [x[at[0], at[1]] for x in model.encoder(probe_ids, return_inside=True)[1].hidden]


hidden = {"trained": states(model), "untrained": states(untrained)}
accuracy = {
    (who, name): [probe(x, y, training, ~training) for x in hidden[who]] for who in hidden for name, y in labels.items()
}
usual = 1 - labels["subject"].double().mean().item()
print(f"{'':>20} embeddings  layer 1  layer 2")
for (who, name), values in accuracy.items():
    print(f"{who:>10} {name:>9}", *(f"{value:9.2f}" for value in values))
print(f"“never the subject” is right in {usual:.2f}")

# %% [markdown]
# The row *control* is the **control task** of Hewitt and Liang (2019): every word type gets a label by the toss of a coin, once
# and for all. No model can know such labels; a probe can only learn them by heart, word by word. They call the difference
# of the two accuracies **selectivity**. By it, "the embeddings know a word's number" is worth little: the probe memorises most
# of the coin tosses as well, and it reads the number even off an *untrained* model, no better than it memorises there. "The
# subject can be read off layer 1" is different: an untrained model's layer 1 shows it no more than its embeddings (word and
# position) do.
#
# The control task is memorised, so here is a second control, which memory cannot pass: learn the probe on half of the words
# (singular and plural of a word together) and judge it on the other half.

# %%
lemma = {tokenizer.id(p[k]): i for i, p in enumerate(people) for k in ("singular", "plural")}
half = torch.randperm(len(people), generator=generator) < len(people) // 2
known = half[torch.tensor([lemma[w] for w in of_word.tolist()])]
unseen = {
    (who, name): [probe(x, y, training & known, ~training & ~known) for x in hidden[who]]
    for who in hidden
    for name, y in labels.items()
}
lemmas = [len({lemma[w] for w in of_word[learn].tolist()}) for learn in (training & known, ~training & ~known)]
print(f"learned on {lemmas[0]} lemmas, judged on {lemmas[1]} that are new to the probe:")
for (who, name), values in unseen.items():
    print(f"{who:>10} {name:>9}", *(f"{value:9.2f}" for value in values))
assert accuracy["trained", "control"][0] > 0.8  # memorised
assert 0.85 < accuracy["untrained", "number"][0] < accuracy["untrained", "control"][0] + 0.05  # not selective
assert unseen["untrained", "number"][0] < 0.85
assert unseen["trained", "number"][0] > 0.95 > unseen["trained", "control"][0] + 0.1
assert unseen["trained", "subject"][1] > 0.9 > unseen["trained", "subject"][0] + 0.05
assert unseen["untrained", "subject"][1] < 0.85

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.2, 3.6))
styles = {"subject": ("o", plots.BLUE), "number": ("s", plots.ORANGE), "control": ("^", plots.GREY)}
for name, (marker, colour) in styles.items():
    for who, line in (("trained", "-"), ("untrained", ":")):
        ax.plot(range(3), unseen[who, name], line, marker=marker, color=colour, label=f"{name}, {who}")
ax.axhline(0.5, color="black", linewidth=0.6)
ax.set_xticks(range(3), ["embeddings", "layer 1", "layer 2"])
ax.set(xlabel="depth", ylabel="accuracy on words new to the probe", ylim=(0.3, 1.05))
ax.set_title("Training makes number and subject readable on new lemmas")
ax.legend(ncol=3, fontsize=8, loc="lower center")
plots.show(
    fig,
    alt="Accuracy of probes on unseen words by depth: number is near 1 at every depth of the trained model, subject rises after "
    "layer 1; control and the untrained model stay low.",
)

# %% [markdown]
# Now the two statements are worth something. Training has given *plural* one direction that holds for words which are new to
# the probe; and layer 1 is where *subject* becomes readable. (The independent unit is the lemma, and there are few, so
# accuracies near one half scatter.) Even so, a probe shows what *can* be read, not what the model uses. The patch of section
# 7 showed that the *number* is used. It did not touch what the subject probe reads, so whether the head finds the subject by
# it is open.

# %% [markdown]
# ## 9. What would the model say if it stopped here?
#
# The head of the model turns the last hidden state into logits. Nothing forbids applying it to an earlier one: the **logit
# lens** (nostalgebraist 2020). On real text one looks whether the words are plausible. Here we can measure: the KL from the
# exact distribution, by layer. Two readers without any model give it a scale: one knows only the gap's *position*, one also
# the sentence's *length*. After the embeddings a [MASK] holds its position and nothing else. So what is the least KL that
# *any* reading of that state can have?

# %%
head, embedding = model.head, model.encoder.tokens.weight


@torch.no_grad()
def at_gaps(model, ids, gap):
    return [x[rows(ids), gap] for x in model.encoder(ids, return_inside=True)[1].hidden]


any_texts, any_gaps, _ = drawn(600, 350 + seed, all_kinds=True)  # not chosen by what matters: the readers must fit them
of_any = posterior(world, any_texts)[rows(any_texts), any_gaps]
of_length = posterior(world, any_texts.masked_fill(any_texts >= 5, MASK))[rows(any_texts), any_gaps]
# the gap is a random one of the sentence's words, so a position is as frequent as 1 / length
weight = world.frame_probabilities / world.lengths
by_position = torch.einsum("f,ftv->tv", weight, world.emissions)
by_position = F.pad(by_position / by_position.sum(-1, keepdim=True), (5, 0))[any_gaps - 1]
position_reader = from_exact(by_position.clamp(min=1e-300).log(), of_any)
floor = position_reader.mean().item()
length_reader = from_exact(of_length.clamp(min=1e-300).log(), of_any).mean().item()
seen = at_gaps(model, any_texts, any_gaps)
with torch.no_grad():
    lens = [from_exact(head(x, embedding).double().log_softmax(-1), of_any).mean().item() for x in seen]
print(f"readers: position {floor:.2f}, position and length {length_reader:.2f}")
print("logit lens after the embeddings, layer 1, layer 2:", *(f"{value:.2f}" for value in lens))
assert lens[0] > floor and lens[2] == min(lens)

# %% [markdown]
# By the logit lens, the model knows after layer 1 about as little as a reader of position and length alone. Is that so, or does
# layer 1 write the same knowledge in directions that the head does not read? The **tuned lens** (Belrose et al. 2023) learns one affine map for each
# layer, so that the head's reading comes as close as it can to the model's final output. The model itself stays as it is.

# %%
learn = at_gaps(model, many, many_gaps)
with torch.no_grad():
    final = head(learn[-1], embedding).softmax(-1)
tuned, generator = [], seeded(seed, 5)
for layer in range(3):
    with torch.random.fork_rng(devices=[]):
        translate = nn.Linear(64, 64)
    nn.init.eye_(translate.weight)
    nn.init.zeros_(translate.bias)
    optimizer = torch.optim.Adam(translate.parameters(), lr=3e-3)
    for _ in range(250):
        some = torch.randint(len(many), (128,), generator=generator)
        loss = F.cross_entropy(head(translate(learn[layer][some]), embedding), final[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad()
    with torch.no_grad():
        log_q = head(translate(seen[layer]), embedding).double().log_softmax(-1)
    tuned.append(from_exact(log_q, of_any))
above = tuned[0] - position_reader
print(f"tuned lens after the embeddings, above the position's bound: {above.mean():.3f} ± {above.std() / 600**0.5:.3f}")
tuned = [values.mean().item() for values in tuned]
print("tuned lens after the embeddings, layer 1, layer 2:", *(f"{value:.2f}" for value in tuned))
print(f"at layer 1, the tuned lens removes {lens[1] - tuned[1]:.2f} of the logit lens's {lens[1]:.2f} nats")
print(
    f"beyond position and length, layer 1 holds {length_reader - tuned[1]:.2f} nats; layer 2 brings another {tuned[1] - tuned[2]:.2f}"
)
assert above.mean() > -3 * above.std() / 600**0.5 and tuned[0] < lens[0] - 1 and above.mean() < 0.25
assert tuned[1] - tuned[2] > 1.5 * (length_reader - tuned[1]) > 0 and 0.2 < 1 - tuned[1] / lens[1] < 0.45
assert tuned[1] < min(lens[1], length_reader) - 0.2 and tuned[2] < 0.15 and tuned[1] > 5 * tuned[2]

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(6.6, 3.5))
ax.plot(range(3), lens, "o-", color=plots.GREY, label="logit lens")
ax.plot(range(3), tuned, "s-", color=plots.BLUE, label="tuned lens")
ax.axhline(floor, color="black", linestyle=":", linewidth=1, label="knows the position only")
ax.axhline(length_reader, color=plots.ORANGE, linestyle="--", linewidth=1, label="knows position and length")
ax.set_xticks(range(3), ["embeddings", "layer 1", "layer 2"])
ax.set(xlabel="depth", ylabel="KL from the exact distribution (nats)", ylim=(0, None))
ax.set_title("The logit lens underestimates what layer 1 knows")
ax.legend()
plots.show(
    fig,
    alt="KL from the exact distribution by depth. The tuned lens lies below the logit lens after the embeddings and layer 1; both "
    "end near zero after layer 2.",
)

# %% [markdown]
# About a third of the logit lens's distance at layer 1 was such a mismatch, not ignorance. The tuned lens cannot invent: after
# the embeddings it stops a little above the bound of the position. After layer 1 it shows that the gap's own vector already holds
# something beyond position and length, but layer 2 brings far more.

# %% [markdown]
# ## 10. Which heads can go?
#
# Lesson 06 took away one head after another, which takes a run for each. Michel, Levy and Neubig (2019) rank all heads from
# **one** backward pass: multiply a head's output by a mask ξ, which is 1, and take the gradient of the loss in ξ. The
# importance of a head is the mean over texts of $|\partial L / \partial \xi_h|$. Up to its sign, a text's gradient is a
# first-order estimate of what ξ = 0 would do to its loss; without the absolute value, texts could cancel each other. Is it
# any good? Take the head away and measure the loss. But what stands in its place? Zeros, or the mean over all texts and
# positions, are both outputs that the layer above never reads there. Another text's output is one, if that text has the *same
# length*: otherwise the head would also bring a foreign length, or outputs of padding. And the mean *per length and position*
# takes away only what differs between texts. Will the four agree?

# %%
from nextbert_lite import mask_tokens

sample, sample_mask = world.sample_ids(700, 500 + seed)
noised, answers = mask_tokens(sample, tokenizer, 0.15, seeded(seed, 6))
chosen = answers != -100


def loss_of(reduction="mean"):
    return F.cross_entropy(model(noised)[chosen], answers[chosen], reduction=reduction)


def hooked(functions, run):
    """Return run() with a pre-hook on each layer's output projection; functions: layer -> function of its input."""
    handles = [
        model.encoder.layers[i].attention.out.register_forward_pre_hook(lambda module, inputs, f=f: (f(inputs[0]),))
        for i, f in functions.items()
    ]
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()


xi = [torch.ones(len(noised), 4, requires_grad=True) for _ in range(2)]  # one mask a text and head
scaled = {i: lambda x, i=i: (x.unflatten(-1, (4, 16)) * xi[i][:, None, :, None]).flatten(-2) for i in range(2)}
slopes = torch.autograd.grad(hooked(scaled, lambda: loss_of("sum")), xi)
importance = torch.cat([g.abs().mean(0) for g in slopes])  # (8,)

# %% [markdown]
# That was the estimate. Now the true effects:

# %%
outputs = {}
with torch.no_grad():
    whole = hooked({i: lambda x, i=i: outputs.setdefault(i, x) for i in range(2)}, loss_of).item()
    of_place = {i: x.clone() for i, x in outputs.items()}  # the mean for each length and position
mixed, generator, lengths = rows(noised), seeded(seed, 7), sample_mask.sum(1)
for n in lengths.unique().tolist():
    members = (lengths == n).nonzero()[:, 0]
    mixed[members] = members[torch.randperm(len(members), generator=generator)]  # another text of this length
    for i, x in outputs.items():
        of_place[i][members] = x[members].mean(0)


def removed(pairs, how):
    """Return a hook for each layer that replaces the heads in pairs, (layer, head) from 0."""

    def replace(i, x):
        x = x.clone().unflatten(-1, (4, 16))
        mean = outputs[i][sample_mask].mean(0).view(4, 16)
        other = {"resample": outputs[i][mixed], "mean of the place": of_place[i]}
        for j, h in pairs:
            if j == i:
                x[..., h, :] = (
                    {"zero": 0.0, "mean": mean[h]}[how]
                    if how not in other
                    else other[how].unflatten(-1, (4, 16))[..., h, :]
                )
        return x.flatten(-2)

    return {i: lambda x, i=i: replace(i, x) for i in range(2)}


with torch.no_grad():
    effect = {
        how: torch.tensor([hooked(removed([pair], how), loss_of).item() - whole for pair in heads])
        for how in ("zero", "mean", "resample", "mean of the place")
    }
print(f"{'head':>24}", *(f"{i + 1}.{h + 1:<4}" for i, h in heads))
for name, values in {"importance by gradient": importance, **{f"loss, {how}": v for how, v in effect.items()}}.items():
    print(f"{name:>24}", *(f"{value:6.3f}" for value in values.tolist()))
all_eight = torch.ones(1, 8, dtype=torch.bool)
agreement = {how: score_explanation(importance[None], v[None], all_eight)[0].item() for how, v in effect.items()}
print("rank correlation of the gradient with", ", ".join(f"{how} {value:.2f}" for how, value in agreement.items()))
early = importance[:4].max() < importance[4:].min()
print(f"by gradient, every head of layer 2 comes before every head of layer 1: {bool(early)}")
for how, values in effect.items():
    print(
        f"{how}: the costliest head of layer 1 costs {values[:4].max():.2f}, the cheapest of layer 2 {values[4:].min():.2f}"
    )
assert early and max(agreement["zero"], agreement["mean"]) < agreement["resample"]
assert all(effect[how][:4].max() > 2 * effect[how][4:].min() for how in ("zero", "mean"))
assert all(effect[how][:4].max() < effect[how][4:].min() for how in ("resample", "mean of the place"))

# %% [markdown]
# Whether the gradient is right depends on what *away* means. Against zeros or one global mean, it puts two costly heads of
# layer 1 behind cheap ones of layer 2. Against another text of the same length, or the mean per length and position, every
# head of layer 2 does cost more than every head of layer 1, as the gradient says. For any *one* head of layer 1, the loss
# hardly needs what differs between texts of a length. For some of them it needs what these texts share, which zeros take away
# too. (What it costs to replace several heads at once is another question.) Choose the ablation that your question means.
# (Compare the orders only: an importance is per text, a loss per hidden word.)
#
# If you prune a model, you ask for zeros, because a head that is cut off adds nothing. For zeros, comparing raw gradients between layers
# misleads, and the pruning command in the README of Michel et al. divides the importances of each layer by their norm
# (`--normalize_pruning_by_layer`), so that only the proportions within a layer count. What does it cost in practice? Prune with
# zeros, by the raw gradient, by the gradient layer by layer, and by the measured single effects. With eight heads we can also try
# *every* choice of one to six heads. Which order will be best once four heads are gone?

# %%
from itertools import combinations

noised, answers, chosen = noised[:200], answers[:200], chosen[:200]  # fewer texts, for 246 choices
with torch.no_grad():
    whole = loss_of().item()
    price = {
        some: hooked(removed([heads[k] for k in some], "zero"), loss_of).item() - whole
        for n in range(1, 7)
        for some in combinations(range(8), n)
    }
singles = torch.tensor([price[k,] for k in range(8)])
ranked = {
    "gradient": importance.argsort().tolist(),
    "measured effect": singles.argsort().tolist(),
    "gradient, layer by layer": torch.cat([g / g.norm() for g in importance.view(2, 4)]).argsort().tolist(),
}
every = [torch.tensor([cost for some, cost in price.items() if len(some) == n]) for n in range(1, 7)]
curves = {name: [price[tuple(sorted(order[:n]))] for n in range(1, 7)] for name, order in ranked.items()}
for name, values in {
    **curves,
    "mean of all choices": [costs.mean() for costs in every],
    "best of all choices": [costs.min() for costs in every],
}.items():
    print(f"{name:>25}: loss with 1 to 6 heads away", *(f"+{value:.2f}" for value in values))
four = {name: values[3] for name, values in curves.items()}
cheaper = (every[3] < four["gradient"] - 1e-9).double().mean().item()
print(f"of the {len(every[3])} choices of four heads, {cheaper:.0%} cost less than the raw gradient's")
assert cheaper > 0.85 and four["gradient"] > every[3].mean() > four["measured effect"]
assert four["gradient"] > four["gradient, layer by layer"]

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(6.8, 3.5))
ax.fill_between(
    range(1, 7),
    [costs.min() for costs in every],
    [costs.max() for costs in every],
    color=plots.GREY,
    alpha=0.25,
    label="all choices",
)
ax.plot(range(1, 7), [costs.mean() for costs in every], ":", color=plots.GREY, label="mean of all choices")
for (name, values), colour in zip(curves.items(), (plots.ORANGE, plots.BLUE, plots.GREEN), strict=True):
    ax.plot(range(1, 7), values, "o-", color=colour, label=name)
ax.set(xlabel="heads taken away, of 8", ylabel="rise of the loss (nats)")
ax.set_title(f"With four heads gone, {cheaper:.0%} of all choices beat the raw gradient's")
ax.legend(fontsize=8)
plots.show(
    fig,
    alt="Rise of the loss against the number of heads taken away, for three orders, with the range and the mean of all choices. "
    "With four heads gone, the raw gradient is near the top of the range.",
)

# %% [markdown]
# With four heads gone, the raw gradient has taken layer 1 away as a whole, and nearly every other choice costs less. With one
# or two it may be better or worse than the mean of all choices, because layer 1's importances are nearly equal and their
# order changes with the drawn texts (try another seed). Layer by layer, the same numbers do better at four heads; by how much
# depends on the draw, too. The measured order has an advantage that it should not have: it was measured on the texts on which
# it is judged. (The gradient saw these texts too, among others.) Even so it is not always the best choice, because it says
# what *one* head's removal costs while all others are there, and heads stand in for each other. No list of single heads can
# know that.

# %% [markdown]
# ## 11. MiniLM: when nobody knows the truth
#
# Now a model of real text, all-MiniLM-L6-v2, a published sentence encoder of six layers (lesson 14). What is explained is a
# similarity: the cosine of a documentation entry's summary with the entry's name. There is no exact posterior, and the
# summaries have no true influences. All that is left is to compare the methods *with each other*, by your rank correlation,
# with random scores as control. Neely et al. (2021) conclude that such correlations do not measure a method's quality; here
# they only show disagreement. (Without the package, `docs-contrastive` takes MiniLM's place, and the numbers are its own.)

# %%
from nextbert_lite import SentenceEncoder, load_docs, load_pretrained, minilm_folder

try:
    published = load_pretrained(minilm_folder())
    encoder, real_tokenizer, NAME = published.encoder, published.tokenizer, "MiniLM"
except FileNotFoundError as error:
    print(error)
    shipped, real_tokenizer = load("docs-contrastive")
    encoder, NAME = shipped.encoder.eval(), "docs-contrastive"
documents = load_docs().documents
fits = [d for d in documents if 8 <= len(d.summary.split()) <= 14]
entries = [fits[i] for i in torch.randperm(len(fits), generator=seeded(seed, 9))[:20].tolist()]
real_ids, real_mask = pad([real_tokenizer.encode(d.summary) for d in entries], real_tokenizer.pad_id)
real_words = real_mask & ~torch.isin(real_ids, torch.tensor(real_tokenizer.special_ids))
sentences = SentenceEncoder(encoder).eval()
with torch.no_grad():
    asked = pad(
        [real_tokenizer.encode(d.name.replace(".", " ").replace("_", " ")) for d in entries], real_tokenizer.pad_id
    )
    wanted = F.normalize(sentences(*asked), dim=-1)


def cosine(ids=real_ids):
    return (F.normalize(sentences(ids, real_mask), dim=-1) * wanted).sum(-1)


with torch.no_grad():
    _, inside = encoder(real_ids, real_mask, return_inside=True)
    look = real_mask / real_mask.sum(1, keepdim=True)  # the vector is the mean of all tokens
    of_real = {name: torch.einsum("bt,bts->bs", look, A) for name, A in attention_maps(encoder, inside).items()}
    base, dropped = cosine(), torch.zeros(real_ids.shape)
    for t in range(1, real_ids.shape[1] - 1):
        one = real_words & (torch.arange(real_ids.shape[1]) == t)
        dropped[:, t] = base - cosine(real_ids.masked_fill(one, real_tokenizer.mask_id))
of_gradient, (missed, change) = by_gradient(encoder, real_ids, real_words, real_tokenizer.mask_id, cosine)
of_real |= of_gradient
of_real |= {"occlusion": dropped, "random": torch.rand(real_ids.shape, generator=seeded(seed, 10))}
print(f"{NAME}: {len(entries)} summaries, mean cosine with the name {base.mean():.2f}")
print(
    f"completeness: the sums miss F(text) − F(baseline) by {missed.abs().mean():.3f}; it is {change.mean():.2f} on average"
)
assert missed.abs().mean() < 0.1 * change.abs().mean()


# %%
def pairwise(explanations, words):
    """Return the mean rank correlation of each two explanations, (n, n)."""
    sizes = [scores.abs().double() for scores in explanations.values()]
    table = torch.eye(len(sizes), dtype=torch.float64)
    for i, j in combinations(range(len(sizes)), 2):
        table[i, j] = table[j, i] = score_explanation(sizes[i], sizes[j], words)[0].nanmean()
    return table


names = [name for name in of_real if name != "random"]
real_table = pairwise(of_real, real_words)
toy_table = pairwise({name: found[name] for name in names} | {"random": controls["random"]}, words)
off = ~torch.eye(len(names), dtype=torch.bool)
for where, table in ((NAME, real_table), ("toy-small", toy_table)):
    between = table[:-1, :-1][off]
    print(
        f"{where:>16}: mean of the pairs {between.mean():.2f}, least {between.min():.2f}, largest {between.max():.2f}; "
        f"with random {table[-1, :-1].abs().max():.2f} at most"
    )
lexical = real_table[names.index("occlusion"), :-1]
print(
    "occlusion with",
    ", ".join(f"{n} {v:.2f}" for n, v in zip(names, lexical.tolist(), strict=True) if n != "occlusion"),
)
assert real_table[:-1, :-1][off].mean() < 0.6 and real_table[:-1, :-1][off].min() < 0.2

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(9.6, 4.4))
for ax, (where, table) in zip(axes, ((NAME, real_table), ("toy-small", toy_table)), strict=True):
    ax.imshow(table, cmap="Blues", vmin=0, vmax=1)
    for i, values in enumerate(table.tolist()):
        for j, value in enumerate(values):
            ax.text(
                j,
                i,
                f"{round(value, 1) + 0:.1f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if value > 0.55 else "#303030",
            )
    ax.set_xticks(range(len(of_real)), list(of_real), rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(of_real)), list(of_real) if where == NAME else [], fontsize=8)
    ax.tick_params(length=0)
    ax.set(xlabel=where, ylabel="explanation" if where == NAME else "")
axes[0].set_title(f"On {NAME} the methods disagree")
plots.show(
    fig,
    alt="Two tables of rank correlations between eight methods and random scores, for the published model on the left and "
    "toy-small on the right. On the left, some pairs of methods are as pale as the pairs with random scores.",
)

# %% [markdown]
# The methods disagree: some pairs have hardly more in common than with random scores. (Do not compare the two tables: the
# texts differ in number and length, and so does the target.) Krishna et al. (2022) found such disagreement
# for tables and texts, and that practitioners then choose by heuristics of their own. What may be said about MiniLM?
#
# * *"By occlusion, this word moves the cosine most"* is true by definition, and says what was done.
# * *"Attention shows that the model relies on this word"* is not supported: other methods, just as plausible, deny it.
# * *"Occlusion was right in the toy world, so it is right here"* carries the claim to another model, another task and texts
#   for which [MASK] was never a word that this model read in its contrastive training. Nothing here has tested that. The
#   same holds for integrated gradients, whose baseline consists of [MASK]s.
# * Agreement would not be truth either. Methods that share an ingredient agree because of it.
#
# If a decision depends on it, make the intervention that you mean. Change the word, and look.

# %% [markdown]
# ## 12. In one call
#
# The package's `explain` gives one number for each word of a text with one [MASK], by occlusion unless you ask for another
# method. Here are its three methods and the truth, for you to explore. Choose *ovens*: which methods let the misleading
# noun count, and how much?

# %%
from nextbert_lite import ExplanationMatrix, explain, show

for word, score in explain(model, tokenizer, sentence):
    print(f"{word:>8} {score:.3f}")

# %%
shown = {"the truth": influence(world, ids, torch.tensor([gap]))[0, 1:-1].tolist()}
for method in ("occlusion", "gradient", "attention"):
    shown[method] = [score for _, score in explain(model, tokenizer, sentence, method)]
view = ExplanationMatrix(sentence.split(), shown, word=4, title="Which word does the verb rest on?")
show(view, alt="A table of four explanations of the masked verb, word by word; the truth's only word is cook.")
assert max(zip(shown["occlusion"], sentence.split(), strict=True))[1] == "cook"

# %% [markdown]
# ## What to remember
#
# * An explanation is a measurement, so it needs a **yardstick, controls and intervals**: random scores, rules without a
#   model (the rarest word, the nearest, a table of positions), an untrained twin, and pairs.
# * Score **within a text**, let equal values share ranks, and take the size of a signed score.
# * Every method answers its own question. **Occlusion** asks what is missing when a word goes, and redundant words get
#   nothing. Gradients explain the target that you give them: for one word's log probability, all that supports the word shares
#   the credit. Attention says where a head reads.
# * The last layer's attention was perfect where one of its heads did the work. On random gaps it was wrong in a fifth of the
#   texts, and hit hardly more often than a table of positions.
# * **Activation patching** moves one activation between two runs. Clean into corrupted asks what suffices. Check that the
#   text itself changes nothing and that a stranger with the wrong property restores nothing. Remove your hooks.
# * A **probe** needs a control task, words that it has not seen, and an intervention before you say *uses*.
# * The **logit lens** can underestimate. A head's cost depends on what replaces it: resample within one length.
# * Without a truth you see whether methods disagree, but not which of them is right.

# %% [markdown]
# **What this scale cannot show.** All of this is one checkpoint, of two layers, in a language where most words are
# redundant. The seeds drew other texts, not other trainings; in another training the work may be spread over several heads
# (lesson 06). In two layers rollout has little to roll, and deeper models can partly repair what is taken away (McGrath et
# al. 2023), so that one removal shows less. Which method is *best* was decided by a truth that hides words; another
# definition of truth may order them otherwise.
#
# **What the field did since.** Attention to single heads has given way to *circuits* and to *features*. Because one neuron
# serves many purposes, sparse autoencoders look for more directions than there are neurons, each active rarely (Cunningham et
# al. 2023). Patching has become the usual test of such claims, and its best practice is still being written (Zhang and Nanda
# 2023; Heimersheim and Nanda 2024).

# %% [markdown]
# **An open problem.** How do you score an explanation where no truth is known? Hiding words makes texts unlike those the
# model was trained on. A masked language model is a lucky case, since [MASK] is a word that it knows. For most other models
# the *absence* of a word has no agreed meaning, and every choice of a baseline is a choice of the answer.

# %% [markdown]
# **Where this comes from**
#
# * Samira Abnar and Willem Zuidema, *Quantifying Attention Flow in Transformers*, 2020 (rollout),
#   [arXiv:2005.00928](https://arxiv.org/abs/2005.00928); Goro Kobayashi et al., *Attention is Not Only a Weight*, 2020,
#   [arXiv:2004.10102](https://arxiv.org/abs/2004.10102), and, with residual connection and layer norm, 2021,
#   [arXiv:2109.07152](https://arxiv.org/abs/2109.07152).
# * Mukund Sundararajan, Ankur Taly and Qiqi Yan, *Axiomatic Attribution for Deep Networks*, 2017 (integrated gradients),
#   [arXiv:1703.01365](https://arxiv.org/abs/1703.01365); Jiwei Li, Will Monroe and Dan Jurafsky, *Understanding Neural
#   Networks through Representation Erasure*, 2016, [arXiv:1612.08220](https://arxiv.org/abs/1612.08220).
# * Controls: Julius Adebayo et al., *Sanity Checks for Saliency Maps*, 2018,
#   [arXiv:1810.03292](https://arxiv.org/abs/1810.03292); Michael Neely et al., *Order in the Court*, 2021 (against rank
#   correlation between methods), [arXiv:2105.03287](https://arxiv.org/abs/2105.03287); Satyapriya Krishna et al., *The Disagreement Problem in
#   Explainable Machine Learning*, 2022, [arXiv:2202.01602](https://arxiv.org/abs/2202.01602).
# * Patching: Fred Zhang and Neel Nanda, *Towards Best Practices of Activation Patching in Language Models*, 2023,
#   [arXiv:2309.16042](https://arxiv.org/abs/2309.16042); Stefan Heimersheim and Neel Nanda, *How to use and interpret
#   activation patching*, 2024, [arXiv:2404.15255](https://arxiv.org/abs/2404.15255). A hook left behind
#   after an error, in public: [TransformerLens pull request 156](https://github.com/TransformerLensOrg/TransformerLens/pull/156).
# * Probes: John Hewitt and Percy Liang, *Designing and Interpreting Probes with Control Tasks*, 2019,
#   [arXiv:1909.03368](https://arxiv.org/abs/1909.03368). Lenses: nostalgebraist, *interpreting GPT: the logit lens*, 2020,
#   [LessWrong](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens); Nora Belrose et al.,
#   *Eliciting Latent Predictions from Transformers with the Tuned Lens*, 2023,
#   [arXiv:2303.08112](https://arxiv.org/abs/2303.08112).
# * Heads: Paul Michel, Omer Levy and Graham Neubig, *Are Sixteen Heads Really Better than One?*, 2019,
#   [arXiv:1905.10650](https://arxiv.org/abs/1905.10650). Self-repair: Thomas McGrath et al., *The Hydra Effect*, 2023,
#   [arXiv:2307.15771](https://arxiv.org/abs/2307.15771). Features: Hoagy Cunningham et al., *Sparse Autoencoders Find Highly
#   Interpretable Features in Language Models*, 2023, [arXiv:2309.08600](https://arxiv.org/abs/2309.08600).
# * Ranks computed with `argsort` alone, and ties broken by position:
#   [statlab/permute issue 191](https://github.com/statlab/permute/issues/191),
#   [TheAlgorithms/Python issue 14887](https://github.com/TheAlgorithms/Python/issues/14887).
#
# **Next:** lesson 23 is the clinic: famous bugs, to be found and repaired.
