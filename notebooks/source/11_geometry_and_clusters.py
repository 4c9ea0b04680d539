# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Geometry and clusters
#     question: What does a good embedding space look like, and can you see it?
#     minutes: 95
#     part: "Part III: contrast"
# ---

# %% [markdown]
# # 11 · Geometry and clusters
#
# Take two pages of documentation that have nothing to do with each other, and ask the masked language model of lesson 08 how
# alike they are. Its answer is a cosine, a number from −1 to 1, and 1 means "the same direction". What would you expect for
# two random texts? Zero, or near it? The first picture will tell.
#
# **The question of this lesson:** what does a good embedding space look like, and can you see it?
#
# | | |
# |---|---|
# | You will | measure how vectors lie in space, before and after contrastive training; repair a space without training and see what that is worth; find out which of these figures search quality follows; ask a model who did what to whom; draw clusters, and catch a picture inventing some |
# | You need | lesson 09 for the contrastive loss, lesson 10 for pooling and pairs; the words *mean* and *variance* |
# | It takes | about 95 minutes, five exercises; the machine needs about a minute |

# %%
import copy
import math
import os
import random

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples, silhouette_score
from sklearn.neighbors import NearestNeighbors

from nextbert_lite import (
    COURSE_SENTENCE,
    Encoder,
    EncoderConfig,
    SentenceEncoder,
    ToyWorld,
    fit,
    load,
    load_docs,
    pad,
    pick_device,
    plots,
    seeded,
    stored_table,
)
from nextbert_lite.checks import lesson_11 as check
from nextbert_lite.validate import check_vectors

seed = int(os.environ.get("NEXTBERT_SEED", 0))
every_row = "NEXTBERT_ALL" in os.environ  # tools/results.py sets it to make the stored tables
docs = load_docs()
rng = random.Random(seed)

# %% [markdown]
# Three models of the same size and shape, each with mean pooling (lesson 10):
#
# * **untrained**: random weights, as they were drawn;
# * **masked**: `docs-small`, which learned to fill gaps in documentation and nothing else;
# * **contrastive**: `docs-contrastive`, which started as *masked* and then learned by the contrastive loss to put a summary
#   beside its own body.

# %%
masked, tokenizer = load("docs-small")
contrastive, _ = load("docs-contrastive")
torch.manual_seed(seed)
untrained = SentenceEncoder(Encoder(masked.encoder.config)).eval()
models = {"untrained": untrained, "masked": SentenceEncoder(masked.encoder).eval(), "contrastive": contrastive}
device = pick_device()


@torch.no_grad()
def embed(model, texts):
    """Return one vector a text, (N, C), of the first 64 tokens of each."""
    model.to(device).chunk = 32  # 32 texts of like length at a time
    ids, mask = pad(tokenizer.encode_batch(texts, max_len=64), tokenizer.pad_id)
    return model.encode(ids.to(device), mask.to(device)).cpu()


# %% [markdown]
# We cut each text after 64 tokens to save time, so the figures differ a little from those of lessons that read more of it.
# The texts are the summaries and bodies of the **validation** split: none of the models was trained on them, nor on a
# near-duplicate of them. (The validation split did serve to choose settings; the test split waits for lesson 12, except for the
# topics of section 7, which are few; nothing is chosen by them.)
#
# From the training split we take 800 bodies, for what has to be *fitted* later on.

# %%
pairs = docs.pairs("validation")
fitting = rng.sample([body for _, body in docs.pairs("train")], 800)
summaries, bodies, train = {}, {}, {}  # name of the model -> vectors (N, C)
for name, model in models.items():
    summaries[name] = embed(model, [summary for summary, _ in pairs])
    bodies[name] = embed(model, [body for _, body in pairs])
    train[name] = embed(model, fitting)
N, C = bodies["masked"].shape
print(f"{N} pairs, vectors of width {C}")

# %% [markdown]
# Now the picture: the cosines of many random pairs of bodies, two different texts each.

# %%
one, other = torch.randint(N, (2, 20_000), generator=seeded(seed))
one, other = one[one != other], other[one != other]
fig, ax = plots.figure(size=(7.0, 3.2))
for name in models:
    cosines = F.cosine_similarity(bodies[name][one], bodies[name][other])
    ax.hist(cosines, bins=60, range=(-0.5, 1), density=True, histtype="step", linewidth=1.8, label=name)
    print(f"{name:<12} mean {cosines.mean():.2f}, standard deviation {cosines.std():.2f}")
ax.set(xlabel="cosine of two different bodies", ylabel="density")
ax.set_title("Two random texts look alike to the masked model")
ax.legend(loc="upper left")
plots.show(fig, alt="Histograms of the cosines of random pairs: masked far to the right, contrastive nearest to zero.")

# %% [markdown]
# By its cosines, all documentation is alike to the masked model. Its vectors fill a narrow cone; no pair is near zero. After contrastive
# training they point in many more directions. And the random weights? Their cone is *wider* than that of the masked model:
# training on gaps has made it narrower here. The masked loss never compares two texts, so it never asks for them to be apart.

# %% [markdown]
# ## 1. One number for the cone
#
# A space in which all directions are used alike is **isotropic**. The opposite is **anisotropic**, and the usual measure is
# the one you have just drawn: the mean cosine of two different texts.
#
# $$\text{anisotropy} = \frac{1}{N(N-1)} \sum_{i \ne j} \cos(x_i, x_j)$$
#
# 0 is isotropic by this measure, 1 means that all vectors point the same way. With loops, over the first 50 bodies:

# %%
x = bodies["masked"][:50]
total = 0.0
for i in range(50):
    for j in range(50):
        if i != j:
            total += (x[i] @ x[j] / (x[i].norm() * x[j].norm())).item()
by_loops = total / (50 * 49)
print(f"anisotropy of 50 bodies: {by_loops:.4f}")

# %% [markdown]
# A matrix product gives all cosines at once. The diagonal holds each text's cosine with itself, 1 by definition, and has to
# stay out:

# %%
unit = F.normalize(x, dim=-1)  # (50, C), each of length 1
cosines = unit @ unit.T  # (50, 50)
by_matrix = (cosines.sum() - cosines.diagonal().sum()) / (50 * 49)
print(f"the same by a matrix: {by_matrix:.4f}")
assert abs(by_matrix - by_loops) < 1e-5

# %% [markdown]
# There is a shorter way, and it says what anisotropy *is*. The sum of all entries of the matrix, diagonal and all, is
# $\sum_{ij} u_i \cdot u_j = (\sum_i u_i) \cdot (\sum_j u_j)$: the squared length of the sum of the unit vectors. So for large
# N the anisotropy is the squared length of their **mean**. A narrow cone has a long mean vector.

# %%
m = unit.mean(0)  # (C,)
by_mean = (50 * m @ m - 1) / 49
print(f"the same by the mean vector: {by_mean:.4f}; its squared length alone: {m @ m:.4f}")
assert abs(by_mean - by_loops) < 1e-5

# %% [markdown]
# ### Exercise 11.1 · anisotropy ●○○ · 6 minutes
#
# Write it for any vectors, which need not have length 1. Either of the two short ways will do.


# %% tags=["exercise-11.1"]
def mean_cosine(x):
    """x: (N, C) -> the mean cosine of two different rows"""
    ### BEGIN SOLUTION
    unit = F.normalize(x, dim=-1)
    cosines = unit @ unit.T
    return (cosines.sum() - cosines.diagonal().sum()) / (len(x) * (len(x) - 1))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.mean_cosine(mean_cosine)


# %%
def anisotropy(x):
    m = F.normalize(x, dim=-1).mean(0)
    return (len(x) * m @ m - 1) / (len(x) - 1)


for name in models:
    print(f"{name:<12} {anisotropy(bodies[name]):.3f}")
assert anisotropy(bodies["masked"]) > 0.5 > 2 * anisotropy(bodies["contrastive"])
assert anisotropy(bodies["masked"]) > anisotropy(bodies["untrained"])

# %% [markdown]
# ## 2. Two wishes: alignment and uniformity
#
# Is a low anisotropy what we want? Not by itself: vectors drawn at random have it, and know nothing. What do we want? Two
# things, say Wang and Isola (2020), who took the contrastive loss apart:
#
# 1. Texts that belong together shall lie close. **Alignment** is the mean squared distance of partners, on the sphere of unit
#    vectors.
# 2. The vectors shall use the sphere evenly. That is **uniformity**.
#
# $$\text{alignment} = \frac1N \sum_i \lVert u_i - v_i \rVert^2$$
#
# Here u is a summary's unit vector and v its body's. By a loop:

# %%
u, v = (F.normalize(vectors["masked"], dim=-1) for vectors in (summaries, bodies))
total = 0.0
for i in range(N):
    total += ((u[i] - v[i]) ** 2).sum().item()
by_loop = total / N
print(f"alignment of the masked model: {by_loop:.4f}")
print(f"2 - 2 · the mean cosine of partners: {2 - 2 * (u * v).sum(1).mean():.4f}")

# %% [markdown]
# The second line is no accident. For unit vectors $\lVert u - v \rVert^2 = 2 - 2\cos(u, v)$: the same vector has 0, a right
# angle 2, opposite vectors 4. Lower is better. In the package it stands like this, with a check that says in words what is
# wrong with vectors that cannot be used:


# %%
def alignment(a, b):
    """a, b: (N, C), row i of both belong together -> the mean squared distance of partners on the unit sphere"""
    if a.shape != b.shape:
        raise ValueError(f"a has the shape {tuple(a.shape)}, b {tuple(b.shape)}: row i of both must belong together.")
    a, b = (F.normalize(check_vectors(x), dim=-1) for x in (a, b))
    return (a - b).square().sum(-1).mean()


print(f"the same: {alignment(summaries['masked'], bodies['masked']):.4f}")
assert abs(alignment(summaries["masked"], bodies["masked"]) - by_loop) < 1e-4

# %% [markdown]
# How would you measure "evenly spread"? The mean squared distance of all pairs will not do. It is 2 minus twice the anisotropy, and two
# tight heaps at opposite poles have about 2, as an even spread has. Wang and Isola let every pair repel each other, strongly
# when close and hardly at all when far, and take the
# logarithm of the mean repulsion:
#
# $$\text{uniformity} = \ln \frac{1}{N(N-1)} \sum_{i \ne j} e^{-2 \lVert x_i - x_j \rVert^2}$$
#
# All vectors in one point give ln 1 = 0, the worst value. Lower is better. Loops over 50 bodies again:

# %%
total = 0.0
for i in range(50):
    for j in range(50):
        if i != j:
            total += math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum().item())
by_loops = math.log(total / (50 * 49))
print(f"uniformity of 50 bodies: {by_loops:.4f}")

# %% [markdown]
# `torch.pdist` gives the distance of each pair once. Each counts twice in the sum above, so the mean is the same.


# %%
def uniformity(x, t=2.0):
    """x: (N, C) -> the log of the mean of exp(-t · squared distance) over all pairs on the unit sphere"""
    if len(x) < 2:
        raise ValueError(f"uniformity needs at least two vectors, got {len(x)}.")
    distances = torch.pdist(F.normalize(check_vectors(x), dim=-1))
    return distances.square().mul(-t).exp().mean().log()


print(f"the same: {uniformity(x):.4f}")
assert abs(uniformity(x) - by_loops) < 1e-4

# %% [markdown]
# How low can it go? Random directions in a space of many dimensions are nearly at right angles, so the squared distance is
# about 2 and the uniformity about −2 · 2 = −4. It is a little higher, because close pairs count more than far ones. (For
# those who know the bell curve: the cosine has variance 1/C, and the mean of e^(4 cos) is about e^(8/C).) Predicted and
# drawn:

# %%
noise = {"a": torch.randn(N, C, generator=seeded(seed, 1)), "b": torch.randn(N, C, generator=seeded(seed, 2))}
print(f"predicted {-4 + 8 / C:.3f}, drawn {uniformity(noise['b']):.3f}")
assert abs(uniformity(noise["b"]) - (-4 + 8 / C)) < 0.01

# %% [markdown]
# ### Exercise 11.2 · predict the result ●●○ · 6 minutes
#
# Half of a thousand vectors lie at the north pole of the sphere, the other half at the south pole. The anisotropy is nearly
# 0: half of the pairs have the cosine 1, half have −1. By the mean cosine this is a perfectly isotropic space. What is its
# uniformity? (Half of the pairs have distance 0. Take exactly half; you need `math`, or a pocket calculator.)

# %% tags=["exercise-11.2"]
two_poles = None
### BEGIN SOLUTION
two_poles = math.log((1 + math.exp(-2 * 4)) / 2)
### END SOLUTION

# %% tags=["nbval-check-output"]
check.two_poles(two_poles)

# %% [markdown]
# ## 3. A repair without training
#
# If a long mean vector is the trouble, take it away. **Centring** subtracts the mean of the vectors from each:
#
# $$x' = x - \mu$$
#
# μ is fitted on the training bodies, not on the texts that we test. It must not know them, and it has to exist before the
# first question comes.

# %%
spaces = {name: (summaries[name], bodies[name], train[name]) for name in models}
for name in models:
    mean = train[name].mean(0)
    spaces[f"{name}, centred"] = tuple(vectors - mean for vectors in spaces[name])
    print(f"{name:<12} anisotropy {anisotropy(bodies[name]):.2f} -> {anisotropy(spaces[f'{name}, centred'][1]):.2f}")
    assert anisotropy(spaces[f"{name}, centred"][1]) < 0.15

# %% [markdown]
# The cone is gone. **Whitening** goes one step further: some directions still vary much more than others. The
# **covariance matrix** XᵀX / N of the centred vectors X (one a row) holds how each two features vary together. It has
# axes of its own, at right angles, its **eigenvectors**; the variances along them are its **eigenvalues**. Guess: of the
# variance of 192 directions,
# which share is in the ten largest?

# %%
variances, directions = {}, {}
fig, ax = plots.figure(size=(7.0, 3.0))
for name in models:
    centred = spaces[f"{name}, centred"][2]  # the training bodies (800, C)
    variances[name], directions[name] = torch.linalg.eigh(centred.T @ centred / len(centred))  # rising
    share = variances[name].flip(0) / variances[name].sum()
    ax.plot(range(1, C + 1), share.clamp(min=1e-5), label=name)
    print(f"{name:<12} ten largest: {share[:10].sum():.0%}; smallest / largest: {share[-1].abs() / share[0]:.0e}")
ax.set(xlabel="direction, by variance", ylabel="share of the variance", yscale="log", ylim=(1e-5, 1))
ax.set_title("A few directions hold much of the variance")
ax.legend()
plots.show(fig, alt="Shares of the variance of 192 directions, falling from about a tenth to a thousandth and less.")

# %% [markdown]
# Whitening turns the vectors onto these axes and divides each by its standard deviation, the square root of the variance.
# After that every axis counts the same:
#
# $$x' = \frac{(x - \mu)\, E}{\sqrt{\lambda}}$$
#
# E holds the axes (eigenvectors) as columns, λ their variances. One trap shows at the right end of the picture: the last
# direction has no variance at all. It comes from the layer norm that ends each encoder. Before its scale and shift the
# features of a token sum to zero, and so do those of a mean of tokens: one condition, one empty direction.

# %%
for name, model in models.items():
    norm = model.encoder.layers[-1].norm2
    features = (bodies[name] - norm.bias.detach().cpu()) / norm.weight.detach().cpu()  # before scale and shift
    print(f"{name:<12} largest sum of the features of a body: {features.sum(1).abs().max():.3f}")
    assert features.sum(1).abs().max() < 0.01

# %% [markdown]
# Dividing by a standard deviation of zero would blow rounding errors up to the size of everything else. So whitening drops
# what varies next to nothing.


# %%
def fit_whitening(train):
    """train: (N, C) -> the mean (C,) and the matrix (C, K) that whitens: (x - mean) @ matrix"""
    mean = train.mean(0)
    variances, directions = torch.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    keep = variances > 1e-4 * variances.max()
    return mean, directions[:, keep] / variances[keep].sqrt()


for name in models:
    mean, matrix = fit_whitening(train[name])
    spaces[f"{name}, whitened"] = tuple((vectors - mean) @ matrix for vectors in spaces[name])
    fitted = spaces[f"{name}, whitened"][2]
    covariance = fitted.T @ fitted / len(fitted)
    assert (covariance - torch.eye(len(covariance))).abs().max() < 1e-2
    print(f"{name:<12} {matrix.shape[1]} of {C} directions kept")

# %% [markdown]
# On the training bodies the covariance is now the identity matrix, as the assert says. This is what the literature calls
# BERT-whitening (Su et al. 2021).
#
# ### Exercise 11.3 · find the bug ●●○ · 10 minutes
#
# Somebody shipped this. "The figures of the test were fine. But when one user sends one query, the answer is all NaN."
# There is a second bug too; it never showed in a crash. Repair both. (Take for granted that no direction is empty.)
#
# ```python
# def whitened(train, x):
#     centred = x - x.mean(0)
#     variances, directions = torch.linalg.eigh(centred.T @ centred / len(x))
#     return centred @ directions / variances
# ```


# %% tags=["exercise-11.3"]
def whitened(train, x):
    """train: (N, C), x: (M, C) -> x whitened, (M, C)"""
    ### BEGIN SOLUTION
    mean = train.mean(0)
    variances, directions = torch.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    return (x - mean) @ directions / variances.sqrt()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.whitened(whitened)

# %% [markdown]
# ## 4. Ten spaces on one plane
#
# Three models, each as it is, centred and whitened, make nine spaces. The tenth is **noise**: a random vector for each text,
# with nothing behind it. For each we take the figures of above, and what they are supposed to be good for: search.
#
# A summary is the query; all bodies are ranked by cosine; what counts is the rank of its own body. The **mean reciprocal
# rank** (MRR) is the mean of 1/rank: 1 if the right body always comes first, 0.5 if always second. If equal cosines occur,
# the right body counts as the last of them.


# %%
def mrr(queries, texts):
    """queries, texts: (N, C), row i of both belong together -> the mean of 1/rank"""
    scores = F.normalize(queries, dim=-1) @ F.normalize(texts, dim=-1).T  # (N, N)
    rank = (scores >= scores.diagonal()[:, None]).sum(1)  # the right one counts itself
    return (1 / rank).mean().item()


chance = sum(1 / rank for rank in range(1, N + 1)) / N
print(f"MRR among {N} bodies by chance: {chance:.3f}")

# %% [markdown]
# Before you run the next cell, order them in your mind. Which of the ten has the best anisotropy, which the best uniformity,
# which the best alignment? Which finds best?

# %%
spaces["noise"] = noise["a"], noise["b"], None
results_geometry = []
for name, (a, b, _) in spaces.items():
    cosines = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T  # (N, N), summaries against bodies
    strangers = cosines[~torch.eye(N, dtype=torch.bool)]
    row = {"seed": seed, "space": name, "mrr": mrr(a, b), "anisotropy": anisotropy(b).item()}
    row |= {"alignment": alignment(a, b).item(), "uniformity": uniformity(b).item()}
    row["separation"] = ((cosines.diagonal().mean() - strangers.mean()) / strangers.std()).item()  # section 5
    results_geometry.append(row)
by_space = {row["space"]: row for row in results_geometry}
figures = ["mrr", "anisotropy", "alignment", "uniformity"]
print(f"{'':<22}" + "".join(f"{figure:>12}" for figure in figures))
for name, row in by_space.items():
    print(f"{name:<22}" + "".join(f"{row[figure]:12.3f}" for figure in figures))

# %% [markdown]
# The **alignment–uniformity plane** draws the last two columns. Both are better when lower, so the corner to aim at is below
# on the left; the colour is the MRR.

# %%
# the rows of `results_geometry`, drawn
fig, ax = plots.figure(size=(7.0, 4.2))
kinds = {"as it is": "o", "centred": "s", "whitened": "^"}
for name, row in by_space.items():
    base, _, kind = name.partition(", ")
    dots = ax.scatter(
        row["uniformity"], row["alignment"], c=row["mrr"], cmap="viridis", vmin=0, vmax=0.5, s=70,
        marker="x" if name == "noise" else kinds[kind or "as it is"], linewidths=2 if name == "noise" else 0,
    )  # fmt: skip
for base, colour in zip(models, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True):
    line = [by_space[name] for name in (base, f"{base}, centred", f"{base}, whitened")]
    ax.plot([r["uniformity"] for r in line], [r["alignment"] for r in line], color=colour, linewidth=1, zorder=0)
    ax.annotate(base, (line[0]["uniformity"], line[0]["alignment"]), (8, 4), textcoords="offset points", color=colour)
ax.annotate(
    "noise", (by_space["noise"]["uniformity"], by_space["noise"]["alignment"]), (8, 4), textcoords="offset points"
)
for kind, marker in kinds.items():
    ax.scatter([], [], color=plots.GREY, marker=marker, label=kind)
ax.legend(loc="upper right")
ax.set(
    xlabel="uniformity of the bodies (ln, lower is more even)", ylabel="alignment (squared distance)", xlim=(-4.3, -0.5)
)
ax.set_title("Evenly spread is easy; close partners as well is not")
fig.colorbar(dots, ax=ax, label="MRR")
plots.show(
    fig,
    alt="Alignment against uniformity for ten spaces. Centring and whitening move each model to the left and up; the "
    "contrastive one stays lowest there.",
)

# %% [markdown]
# Walk along the lines.
#
# * **As it is**, the masked model has the best *alignment* of all ten: partners lie close. So does everything else. Alignment
#   alone is worth nothing; a model that says the same of every text has 0.
# * **Centring** it removes nearly all of the anisotropy, and search hardly notices.
# * **Whitening** brings it still nearer to an even spread, and its search gets *worse*. The untrained model gains by it:
#   whitened, it finds better than the whitened masked model. The contrastive model loses by it
#   as well. So "whitening helps" is no law.
# * **Noise** has the best anisotropy and the best uniformity of all, and finds by chance.
# * **Contrastive** training moved the vectors apart too, and the partners with them, but the partners less. Compare the
#   two squares: at about the same uniformity as the centred masked model, the partners of the contrastive one are much
#   closer.

# %%
plain, centred, whitened_ = (by_space[f"masked{kind}"] for kind in ("", ", centred", ", whitened"))
assert plain["alignment"] == min(row["alignment"] for row in results_geometry)
assert plain["anisotropy"] - centred["anisotropy"] > 0.5 and abs(plain["mrr"] - centred["mrr"]) < 0.03
assert whitened_["uniformity"] < centred["uniformity"] and whitened_["mrr"] < plain["mrr"]
assert by_space["untrained, whitened"]["mrr"] > by_space["untrained"]["mrr"] + 0.08
assert by_space["contrastive, whitened"]["mrr"] < by_space["contrastive"]["mrr"] - 0.03
assert by_space["untrained, whitened"]["mrr"] > whitened_["mrr"]
assert by_space["noise"]["uniformity"] == min(row["uniformity"] for row in results_geometry)
assert abs(by_space["noise"]["anisotropy"]) < 0.005 and by_space["noise"]["mrr"] < 0.03
assert by_space["contrastive"]["mrr"] > 1.4 * plain["mrr"]
assert by_space["contrastive, centred"]["alignment"] < centred["alignment"] - 0.2
assert abs(by_space["contrastive, centred"]["uniformity"] - centred["uniformity"]) < 0.3

# %% [markdown]
# Published results look different, and are about something else: on pairs of everyday sentences scored by people (STS, seven
# sets), averaging BERT-base's first and last layer has a Spearman correlation (section 5; × 100 here) of 56.70 with the people's scores,
# BERT-whitening 66.28, unsupervised SimCSE 76.25 (Gao et al. 2021, table 5 has more). There whitening pays. A larger model,
# other texts, another task, another answer: measure.
#
# ## 5. Which figure does search follow?
#
# A **rank correlation** (Spearman's ρ) asks whether two lists put the spaces in the same order: 1 the same, 0 unrelated, −1
# the reverse. It is the ordinary correlation of the ranks. "Better" is lower for our three figures, so we turn their sign.


# %% tags=["nbval-check-output"]
def rank_correlation(x, y):
    """x, y: lists of N numbers -> the correlation of their ranks"""
    ranks = torch.stack([torch.tensor(values).argsort().argsort() for values in (x, y)])  # (2, N)
    return torch.corrcoef(ranks.double())[0, 1].item()


def followed(rows):
    """Return for each figure how far the order of the MRRs follows it."""
    orders = {f"low {figure}": [-row[figure] for row in rows] for figure in figures[1:]}
    orders["low alignment + uniformity"] = [-row["alignment"] - row["uniformity"] for row in rows]
    orders["separation"] = [row["separation"] for row in rows]
    return {name: rank_correlation(order, [row["mrr"] for row in rows]) for name, order in orders.items()}


print("Two orders of the same ten things, unrelated:")
shuffled = [abs(rank_correlation(range(10), torch.randperm(10, generator=seeded(i)).tolist())) for i in range(2000)]
print(f"in 5 of 100 cases |ρ| is above {torch.tensor(shuffled).quantile(0.95):.2f} by chance")

# %% [markdown]
# With ten spaces, a ρ of one half means little. And ours are three families, not ten independent models: less still. Keep
# that in mind.
#
# One candidate more. Search asks whether the partner stands out among strangers. So take the difference of the two mean
# cosines, and measure it in the unit that matters, the spread of the strangers:
#
# $$\text{separation} = \frac{\text{mean cosine of partners} - \text{mean cosine of strangers}}{\text{standard deviation of the cosines of strangers}}$$
#
# Guess the order of the five. Then:

# %%
ours = followed(results_geometry)
for name, rho in ours.items():
    print(f"{name:<28} {rho:5.2f}")
assert ours["separation"] == max(ours.values()) and ours["separation"] > 0.75

# %% [markdown]
# The same with other random weights, other training bodies and other noise (two of the models stay):

# %% tags=["nbval-check-output"]
table = stored_table("11_geometry")  # `results_geometry` of three seeds
for row in table:
    row |= {figure: float(row[figure]) for figure in [*figures, "separation"]}
by_seed = [followed([row for row in table if row["seed"] == str(s)]) for s in range(3)]
for name in ours:
    print(f"{name:<28}" + "".join(f"{rhos[name]:7.2f}" for rhos in by_seed))
assert all(rhos["separation"] == max(rhos.values()) and rhos["separation"] > 0.75 for rhos in by_seed)
assert all(abs(rhos["low anisotropy"]) < 0.6 and abs(rhos["low uniformity"]) < 0.6 for rhos in by_seed)

# %%
# the stored `results_geometry`, drawn
units = {"anisotropy": "anisotropy (cosine)", "uniformity": "uniformity (ln)"}
units["separation"] = "separation (std. deviations)"
fig, axes = plots.figure(1, 3, size=(8.0, 3.0), sharey=True)
colours = dict(zip(models, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True)) | {"noise": plots.GREY}
for ax, figure in zip(axes, ("anisotropy", "uniformity", "separation"), strict=True):
    for base, colour in colours.items():
        rows = [row for row in table if row["space"].startswith(base)]
        ax.plot([row[figure] for row in rows], [row["mrr"] for row in rows], "o", color=colour, label=base)
    ax.set(xlabel=units[figure], ylim=(0, None))
axes[0].set_ylabel("MRR")
axes[2].legend(fontsize=8.5)
fig.suptitle("In these ten spaces the MRR follows separation, not anisotropy", x=0.01, ha="left")
plots.show(fig, alt="MRR against anisotropy and uniformity: no order. Against separation: the points rise together.")

# %% [markdown]
# **Low anisotropy is not good search**, and neither is low uniformity: their ρ could be chance. Alignment does better,
# alone or with uniformity, but not far above what chance gives (0.62). Best of the five in each seed is the separation. Do not
# make a law of that either. Separation
# looks at the very pairs that search is judged on, so it is close to a restatement of it. What it teaches is the form: not
# "how far apart is everything" but "how far is the partner from the strangers, in units of the strangers' spread".

# %% [markdown]
# ## 6. The same words, another meaning
#
# Documentation can be searched by words alone, and lesson 12 shows how far that goes. Is there anything that a bag of words
# cannot do? The toy world was built with such a question in it:

# %% tags=["nbval-check-output"]
world = ToyWorld()
toy_tokenizer = world.tokenizer()
course = world.parse(COURSE_SENTENCE)
paraphrase = world.paraphrases(course)[0]
for label, sentence in {
    "sentence": course,
    "says the same": paraphrase,
    "says the reverse": world.swap_roles(paraphrase),
}.items():
    print(f"{label:>16}: {sentence.text}")

# %% [markdown]
# Here the words differ a little (*is*, *are*). The **role-swap test** takes only sentences in which both people are one or
# both are many, so that the last two lines have exactly the same words. Which of the two is nearer to the first line? A test
# of a thousand such questions; one of them:

# %% tags=["nbval-check-output"]
test = world.role_swap_test(1000, seed=500 + seed)
for text in (test[0].sentence.text, test[0].paraphrase.text, test[0].swapped.text):
    print(text)
for item in test:
    assert sorted(item.paraphrase.words) == sorted(item.swapped.words) and item.paraphrase.text != item.swapped.text

# %% [markdown]
# A bag of words gives both the same vector, so the cosines are *equal*: a tie. A test that counts with `>` would give it 0 %,
# a test with `>=` 100 %, and rounding in the last digit would make it anything in between. All three are wrong: it has no
# opinion, so it shall have what guessing has.
#
# ### Exercise 11.4 · ties ●●○ · 6 minutes
#
# Return the share of tests that are right. A tie counts one half, and two cosines that differ by less than a millionth are a
# tie.


# %% tags=["exercise-11.4"]
def share_right(right, wrong):
    """right, wrong: (N,), the cosines with the paraphrase and with its swap -> the share, a tie counts 0.5"""
    ### BEGIN SOLUTION
    difference = right - wrong
    tie = difference.abs() < 1e-6
    return ((difference > 0) & ~tie).float().mean() + 0.5 * tie.float().mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.share_right(share_right)

# %% [markdown]
# Three models take the test, all with mean pooling:
#
# * a **bag of words**: an encoder without layers and without positions, so that only the mean of word vectors is left;
# * `toy-small` from lesson 06, which is **pretrained**: it learned to fill gaps, and passes tests of grammar;
# * an encoder of the same shape with **random** weights.
#
# First the score *before* any contrastive training. Guess: does the pretrained one know who did what to whom?

# %%
toy, _ = load("toy-small")
torch.manual_seed(seed)
config = toy.encoder.config
sizes = dict(vocab_size=config.vocab_size, width=config.width, layers=0, positions="none")
bag_config = EncoderConfig(**sizes, init_std="fan_in")
options = {"temperature": 0.1, "symmetric": True}
starts = {
    "bag of words": SentenceEncoder(Encoder(bag_config), **options),
    "pretrained encoder": SentenceEncoder(toy.encoder, **options),
    "random encoder": SentenceEncoder(Encoder(config), **options),
}


def with_cleft(item):
    """Whether one of its sentences is a cleft: "it is the cook that …", "it is the waiters that the cook …"."""
    return any("that" in sentence.words for sentence in (item.sentence, item.paraphrase))


def toy_batch(sentences):
    return pad(toy_tokenizer.encode_batch([sentence.text for sentence in sentences]), toy_tokenizer.pad_id)


@torch.no_grad()
def role_score(model, items):
    """Return the share right, and the share of ties, over items of the role-swap test."""
    model = copy.deepcopy(model).cpu().double().eval()  # in float64 a tie is a tie
    a, p, s = (
        model(*toy_batch([getattr(item, part) for item in items])) for part in ("sentence", "paraphrase", "swapped")
    )
    difference = F.cosine_similarity(a, p) - F.cosine_similarity(a, s)
    tie = difference.abs() < 1e-6
    return ((difference > 0) & ~tie).double().mean().item() + tie.double().mean().item() / 2, tie.double().mean().item()


before = {name: role_score(model, test) for name, model in starts.items()}
for name, (right, ties) in before.items():
    print(f"{name:<20} right {right:.3f}, ties {ties:.3f}")
assert before["bag of words"] == (0.5, 1.0) and before["pretrained encoder"][0] < 0.75

# %% [markdown]
# The bag ties every time, and the other two are not far from a coin flip. Whatever `toy-small` knows about the roles, the
# cosine of its *mean* vectors does not show it.
#
# Now contrastive training. Positives are a sentence and a paraphrase. And each batch brings **hard negatives**: the sentence
# and the paraphrase once more, with who and whom exchanged. `SentenceEncoder.loss` hands them to `info_nce_loss` as further
# wrong answers.


# %%
ALL = ("active", "passive", "cleft", "object_cleft")


def template(sentence):
    return world.frames[sentence.frame].template


def train_roles(model, templates):
    """Return a trained copy of the model, the mean loss of the last ten steps, and the texts it was shown."""
    shown = set()

    def batch(step):
        drawn = world.sample(240, seed=10_000 * (seed + 1) + step)
        sentences = [s for s in drawn if template(s) in templates][:64]
        others = [[p for p in world.paraphrases(s) if template(p) in templates] for s in sentences]
        paraphrases = [choices[step % len(choices)] for choices in others]
        swapped = [world.swap_roles(s) for s in sentences + paraphrases]
        shown.update(s.text for s in sentences + paraphrases + swapped)
        names = ("ids", "mask", "positive_ids", "positive_mask", "negative_ids", "negative_mask")
        return dict(zip(names, [t for part in (sentences, paraphrases, swapped) for t in toy_batch(part)], strict=True))

    model = copy.deepcopy(model)
    history = fit(model, batch, steps=300, lr=3e-3, warmup=20, seed=seed)
    return model, sum(history.loss[-10:]) / 10, shown


# %% [markdown]
# The test asks for all four templates, and training shows all four. The world is small, so some of the test's sentences
# come up in training too. We note what was shown, and count only the questions of which no sentence was. Before you run it:
# will the bag's score rise? Its loss fall?

# %%
runs = [(start, ALL) for start in starts]
if every_row:
    runs += [(start, ("active", "passive")) for start in list(starts)[1:]]
results_roles = []
for start, templates in runs:
    model, loss, shown = train_roles(starts[start], templates)
    new = [item for item in test if not shown & {item.sentence.text, item.paraphrase.text, item.swapped.text}]
    row = {"seed": seed, "start": start, "trained_on": " ".join(templates), "before": before[start][0]}
    row["right"], row["ties"] = role_score(model, new)
    row["plain"] = role_score(model, [item for item in new if not with_cleft(item)])[0]
    row["cleft"] = role_score(model, [item for item in new if with_cleft(item)])[0]
    results_roles.append(row)
    print(f"{start:<20} loss {loss:.2f} nats; {len(new)} new: right {row['right']:.3f}, ties {row['ties']:.3f}")
bag, *encoders = (row["right"] for row in results_roles[:3])
assert bag == 0.5 and results_roles[0]["ties"] == 1.0 and min(encoders) >= 0.95

# %% [markdown]
# The bag has a low loss as well (guessing would have 4.7 nats, the mean of ln 192 and ln 64): words are enough to tell a
# sentence from most others of the batch. But whatever the
# training, the test stays a tie, because for a bag it cannot be anything else. The encoders see the order of words, through
# positions and attention, and use it.
#
# Was it pretraining that made it work? No: the random encoder gets there too, in the same number of steps. And does it learn
# *roles*, or the templates that it was shown? The stored table has runs for three seeds, and one more kind: trained with
# active and passive sentences only, while the test also asks for clefts ("it is the cook that …", "it is the waiters that
# the cook …").

# %% tags=["nbval-check-output"]
table = stored_table("11_roles")  # `results_roles` of three seeds
names = dict.fromkeys((row["start"], row["trained_on"]) for row in table)
print(f"{'':<58}{'right, active and passive':>27}{'right, with a cleft':>27}")
by_run = {}
for start, trained_on in names:
    rows = [row for row in table if (row["start"], row["trained_on"]) == (start, trained_on)]
    by_run[start, trained_on] = [[float(row[part]) for row in rows] for part in ("plain", "cleft")]
    shown = "".join(f"{'  '.join(f'{value:.3f}' for value in values):>27}" for values in by_run[start, trained_on])
    print(f"{start + ', trained on ' + trained_on:<58}{shown}")
pretrained_runs = [value for values in by_run["pretrained encoder", " ".join(ALL)] for value in values]
random_runs = [value for values in by_run["random encoder", " ".join(ALL)] for value in values]
assert min(pretrained_runs + random_runs) >= 0.9995
unseen = {start: by_run[f"{start} encoder", "active passive"] for start in ("pretrained", "random")}
assert all(min(plain) > max(cleft) for plain, cleft in unseen.values())
assert min(unseen["random"][0]) > max(unseen["random"][1]) + 0.1
assert all(a > b + 0.1 for a, b in zip(unseen["pretrained"][1], unseen["random"][1], strict=True))

# %% [markdown]
# What it was shown, it can do: 1.000 in every run, from either start. The templates it was never shown are
# another matter. The random encoder does far worse there in all three runs: a rule that is right for active and passive can
# be wrong for a cleft. The pretrained encoder has seen clefts as a masked model, and loses little: in each of the three pairs
# of runs it is ahead of the random one by more than a tenth. So for what you show, the start does not matter here; for what
# you do not show, it does.
#
# ## 7. Clusters: two figures before any picture
#
# Back to documentation. Do texts of one library lie together? Pictures come later; they persuade too easily. First two
# figures.
#
# **kNN accuracy.** Let the ten nearest *training* bodies of a text vote on its library. What share of the texts is named
# right? The training bodies, because a near-copy of a text is never among them (the corpus was split that way), so the vote
# cannot be won by copies. For one text:

# %%
library_of = {d.body: d.library for d in docs.documents}
sample = torch.tensor(rng.sample(range(N), 400))  # of the validation bodies
library = {"test": [library_of[pairs[i][1]] for i in sample.tolist()], "train": [library_of[body] for body in fitting]}
x, stored = (F.normalize(vectors["masked"], dim=-1) for vectors in (bodies, train))
nearest = (x[sample[0]] @ stored.T).topk(10).indices.tolist()
print(f"this text is from {library['test'][0]}; its neighbours: {', '.join(library['train'][i] for i in nearest)}")


# %%
def knn_accuracy(x, labels, stored, stored_labels, k=10):
    """x: (N, C), stored: (M, C), with a label each -> the share of x whose k nearest of stored vote for its label"""
    names = sorted(set(stored_labels))
    number = {name: i for i, name in enumerate(names)}
    nearest = (F.normalize(x, dim=-1) @ F.normalize(stored, dim=-1).T).topk(k).indices  # (N, k)
    votes = F.one_hot(torch.tensor([number[label] for label in stored_labels])[nearest], len(names)).sum(1)
    return (votes.argmax(1) == torch.tensor([number[label] for label in labels])).double().mean().item()


largest = max(set(library["train"]), key=library["train"].count)
majority = library["test"].count(largest) / len(sample)
print(f"who always says {largest}: {majority:.3f}")
for name in models:
    accuracy = knn_accuracy(bodies[name][sample], library["test"], train[name], library["train"])
    print(f"{name:<12} {accuracy:.3f}")
    assert accuracy > majority + 0.1

# %% [markdown]
# Look at the second line before you praise the third. **An untrained model is far above the majority**: a mean of random word
# vectors, mixed by random layers, is still a fingerprint of the words, and libraries use different ones. A figure like 0.8 is
# to be read beside this one, not beside a coin.

# %% [markdown]
# ### Exercise 11.5 · the nearest other one ●●○ · 8 minutes
#
# Sometimes there are no training texts, and each text is judged by the others: *leave one out*. Return the share of rows
# whose nearest **other** row, by cosine, has the same label.


# %% tags=["exercise-11.5"]
def leave_one_out(x, labels):
    """x: (N, C), labels: (N,) of whole numbers -> the share of rows whose nearest other row has their label"""
    ### BEGIN SOLUTION
    unit = F.normalize(x, dim=-1)
    cosines = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return (labels[cosines.argmax(1)] == labels).float().mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.leave_one_out(leave_one_out)

# %% [markdown]
# **Silhouette.** kNN looks at the nearest few. The silhouette asks whether a text lies in its own group *as a whole*
# (Rousseeuw 1987). Let a be its mean distance to the others of its group, and b to the members of the nearest other group:
#
# $$s = \frac{b - a}{\max(a, b)}$$
#
# 1 is deep inside a tight cluster, 0 on a border, negative means nearer to another group than to its own. By hand for one
# text, with 1 − cosine as the distance:

# %%
unit = F.normalize(bodies["contrastive"][sample], dim=-1)
distance = 1 - unit @ unit.T  # (400, 400)
groups = {
    name: [i for i, label in enumerate(library["test"]) if label == name] for name in sorted(set(library["test"]))
}
own = library["test"][0]
a = distance[0, [i for i in groups[own] if i != 0]].mean()
b = min(distance[0, rows].mean() for name, rows in groups.items() if name != own)
by_sklearn = silhouette_samples(unit.numpy(), library["test"], metric="cosine")[0]
print(f"by hand {(b - a) / max(a, b):.4f}, by scikit-learn {by_sklearn:.4f}")
assert abs((b - a) / max(a, b) - by_sklearn) < 1e-4

# %% [markdown]
# The mean over all texts is the silhouette of the space. A library is a broad thing: *python* holds e-mail and arithmetic. So
# here is a second set of labels, narrower: nine **topics**, each a module with those below it, two or three from each
# library. They are few, so we take them from the validation *and* the test split, and 40 training texts of each for the vote.

# %%
TOPICS = {
    "torch": ("torch.distributed", "torch.distributions"),
    "numpy": ("numpy.char", "numpy.random"),
    "matplotlib": ("matplotlib.axes", "matplotlib.widgets"),
    "python": ("asyncio", "email", "unittest"),
}
topics = [topic for names in TOPICS.values() for topic in names]


def topic_of(document):
    return next((t for t in topics if f"{document.module}.".startswith(f"{t}.")), None)


held_out = [d for d in (*docs.validation, *docs.test) if topic_of(d)]
known = [d for t in topics for d in rng.sample([d for d in docs.train if topic_of(d) == t], 40)]
topic = {"test": [topic_of(d) for d in held_out], "train": [topic_of(d) for d in known]}
print(f"{len(held_out)} held-out texts:", ", ".join(f"{t} {topic['test'].count(t)}" for t in topics))

# %% [markdown]
# For the last column of the next table each set of vectors is also laid out in a picture by t-SNE, of which more below, and
# the silhouette of the *points in the picture* is taken. Guess: will it be lower or higher than that of the vectors?

# %%
by_topic = {
    name: [embed(model, [d.text for d in part]) for part in (held_out, known)] for name, model in models.items()
}
pictures, results_clusters = {}, []
for name in models:
    for labels, which, (x, stored) in (
        ("library", library, (bodies[name][sample], train[name])),
        ("topic", topic, by_topic[name]),
    ):
        x = F.normalize(x, dim=-1)
        picture = TSNE(init="random", random_state=seed).fit_transform(x.numpy())
        pictures[labels, name] = picture
        common = max(set(which["train"]), key=which["train"].count) if labels == "library" else "torch.distributed"
        row = {"seed": seed, "labels": labels, "model": name, "majority": which["test"].count(common) / len(x)}
        row["knn"] = knn_accuracy(x, which["test"], stored, which["train"])
        row["silhouette"] = float(silhouette_score(x.numpy(), which["test"], metric="cosine"))
        row["picture"] = float(silhouette_score(picture, which["test"]))
        results_clusters.append(row)

# %%
columns = ["majority", "knn", "silhouette", "picture"]


def show_clusters(rows):
    print(f"{'':<24}" + "".join(f"{column:>12}" for column in columns))
    for labels in ("library", "topic"):
        for name in models:
            chosen = [row for row in rows if row["labels"] == labels and row["model"] == name]
            mean = {column: sum(float(row[column]) for row in chosen) / len(chosen) for column in columns}
            print(f"{labels + ', ' + name:<24}" + "".join(f"{mean[column]:12.3f}" for column in columns))


show_clusters(results_clusters)
clusters = {(row["labels"], row["model"]): row for row in results_clusters}
for labels in ("library", "topic"):
    first, second, third = (clusters[labels, name] for name in models)
    assert second["knn"] > first["knn"] + 0.1 and third["knn"] > first["knn"] + 0.1
    assert min(second["silhouette"], third["silhouette"]) > first["silhouette"] + 0.03
assert clusters["topic", "contrastive"]["silhouette"] > clusters["topic", "masked"]["silhouette"]

# %% [markdown]
# And over three seeds, which change the random weights, the sampled texts and the pictures. (The held-out texts of the
# topics stay, so the topic silhouettes of the two trained models are the same three times.)

# %% tags=["nbval-check-output"]
table = stored_table("11_clusters")  # `results_clusters` of three seeds
for column in ("knn", "silhouette", "picture"):
    print(f"\n{column}")
    for labels, name in clusters:
        values = [float(row[column]) for row in table if row["labels"] == labels and row["model"] == name]
        print(f"{labels + ', ' + name:<24}" + "".join(f"{value:8.3f}" for value in values))
mean = {key: sum(float(r["knn"]) for r in table if (r["labels"], r["model"]) == key) / 3 for key in clusters}

# %% [markdown]
# * Most of the kNN accuracy was there **before** contrastive training: masked training alone brought the larger step.
# * Contrastive training makes the *topics* tighter: their silhouette grows. The libraries' does not, it even falls a little in
#   each seed. Why they differ we have not measured; the loss names neither topics nor libraries. All these values are small:
#   groups have an inside, and wide, overlapping borders.
# * The silhouette of the picture is larger than that of the vectors in the mean over the seeds, for both trained models and
#   both kinds of labels, though not in every single run. For the untrained model it is smaller in every run. (The distances
#   differ too: 1 − cosine in the vectors, straight lines in the picture.) So a picture's silhouette says little about the
#   vectors.

# %%
for labels in ("library", "topic"):
    assert mean[labels, "masked"] - mean[labels, "untrained"] > mean[labels, "contrastive"] - mean[labels, "masked"]
    for name in ("masked", "contrastive"):
        rows = [row for row in table if row["labels"] == labels and row["model"] == name]
        assert sum(float(row["picture"]) - float(row["silhouette"]) for row in rows) / len(rows) > 0.01
assert all(float(r["picture"]) < float(r["silhouette"]) for r in table if r["model"] == "untrained")
inside = {(r["seed"], r["labels"], r["model"]): float(r["silhouette"]) for r in table}
for s in "012":
    assert inside[s, "library", "contrastive"] < inside[s, "library", "masked"]
    assert inside[s, "topic", "contrastive"] > inside[s, "topic", "masked"]

# %% [markdown]
# ## 8. The pictures
#
# How do you draw 192 dimensions? **PCA** takes the two axes along which the vectors vary most. You have them already: the
# last two eigenvectors of section 3. It is a shadow, nothing more, and the shadow of two different things may fall on one
# place. **t-SNE** (van der Maaten and Hinton 2008) tries to place the points so that whoever is near in the space is near in the
# picture, and gives up everything else for it.

# %%
colours = {"torch": plots.RED, "numpy": plots.BLUE, "matplotlib": plots.GREEN, "python": plots.ORANGE}
fig, axes = plots.figure(2, 3, size=(8.0, 5.4))
for column, name in enumerate(models):
    shadow = (bodies[name][sample] - train[name].mean(0)) @ directions[name][:, -2:]  # (400, 2)
    share = variances[name][-2:].sum() / variances[name].sum()
    for ax, points in zip(axes[:, column], (shadow.numpy(), pictures["library", name]), strict=True):
        for lib, colour in colours.items():
            rows = [i for i, label in enumerate(library["test"]) if label == lib]
            ax.scatter(points[rows, 0], points[rows, 1], s=6, color=colour, label=lib, linewidths=0)
        ax.set_xticks([])
        ax.set_yticks([])
    row = clusters["library", name]
    axes[0, column].set_title(f"{name}\nkNN {row['knn']:.2f}, silhouette {row['silhouette']:z.2f}", fontsize=10)
    axes[0, column].set_xlabel(f"two axes, {share:.0%} of the variance")
    axes[1, column].set_xlabel("t-SNE has no unit")
axes[0, 0].set_ylabel("PCA")
axes[1, 0].set_ylabel("t-SNE")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5, markerscale=2)
fig.suptitle("Four libraries: after training t-SNE shows regions, PCA much less", x=0.01, ha="left")
plots.show(
    fig,
    alt="400 bodies in PCA and t-SNE pictures of three models, coloured by library: mixed for untrained; in regions "
    "for masked and contrastive in t-SNE, overlapping in PCA.",
)

# %% [markdown]
# The nine topics, colours by library as before, a mark for each topic:

# %%
fig, axes = plots.figure(1, 3, size=(8.0, 3.9))
for ax, name in zip(axes, models, strict=True):
    points = pictures["topic", name]
    for lib, names in TOPICS.items():
        for t, marker in zip(names, "o^x", strict=False):
            rows = [i for i, label in enumerate(topic["test"]) if label == t]
            ax.scatter(
                points[rows, 0], points[rows, 1], s=12, color=colours[lib], marker=marker, label=t, linewidths=0.9
            )
    row = clusters["topic", name]
    ax.set_title(f"{name}\nkNN {row['knn']:.2f}, silhouette {row['silhouette']:.2f}", fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("t-SNE has no unit")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
fig.suptitle("Nine topics: training gathers them", x=0.01, ha="left")
plots.show(
    fig,
    alt="t-SNE pictures of nine topics: scattered for the untrained model, gathered in islands for masked and contrastive.",
)

# %% [markdown]
# The picture of the *untrained* model has islands as well. Some hold one topic, perhaps texts that share many words. Its silhouette
# is below zero all the same: as a whole, the topics are not groups in its vectors.
#
# Now go into a picture: the 400 bodies before and after contrastive training, each with its summary. Point at a text; its five
# nearest neighbours are those in the 192 dimensions. Find one that lies in another library's region: are its neighbours on the map
# its neighbours in the vectors? Then move the slider. Do the neighbours get better?

# %%
from nextbert_lite import EmbeddingExplorer, show

before_and_after, shares_of = ("masked", "contrastive"), {}
view = EmbeddingExplorer(
    {name: pictures["library", name] for name in before_and_after},
    library["test"],
    [pairs[i][0] for i in sample.tolist()],
    vectors={name: bodies[name][sample] for name in before_and_after},
    title="Are the neighbours on the map the neighbours in the vectors?",
)
show(view, alt="400 bodies by t-SNE, masked and contrastive, coloured by library: in regions that touch, for both.")

# %% [markdown]
# How many of the five nearest are of the same library, before and after?

# %%
for name in before_and_after:
    unit = F.normalize(bodies[name][sample], dim=-1)
    five = (unit @ unit.T).fill_diagonal_(-1).topk(5).indices.tolist()
    same = [library["test"][i] == library["test"][j] for i, row in enumerate(five) for j in row]
    shares_of[name] = sum(same) / len(same)
    print(f"{name:<12} {shares_of[name]:.0%} of the neighbours are of the same library")
assert min(shares_of.values()) > 0.6 and abs(shares_of["contrastive"] - shares_of["masked"]) < 0.1

# %% [markdown]
# By this figure next to nothing has changed, as the kNN accuracy of section 7 said: nobody asked for libraries. The cosines are smaller
# after training, since the whole space is less narrow: do not compare them between two models. Whether the neighbours fit better
# in *meaning* you have to read. (How many of the neighbours in the vectors are neighbours on the map? Section 9 counts.)
#
# ## 9. What t-SNE invents
#
# Does the picture of a space without any clusters show none? There is such a space: noise. Four hundred random vectors in 192
# dimensions; no two of them are much nearer to each other than the rest. t-SNE has a setting, the **perplexity**: about how
# many neighbours each
# point shall care for. 30 is usual; smaller ones are in use for small data sets. Guess what you will see.

# %%
points = F.normalize(noise["b"][:400], dim=-1).numpy()
drawn = {p: TSNE(perplexity=p, init="random", random_state=seed).fit_transform(points) for p in (3, 30)}
angle, radius = (torch.rand(400, generator=seeded(seed, n)) for n in (3, 4))
scattered = torch.stack([angle.mul(2 * math.pi).cos(), angle.mul(2 * math.pi).sin()], 1) * radius.sqrt()[:, None]
drawn["scattered"] = scattered.numpy()  # evenly at random in a disc


def crowding(points):
    """The mean distance to the nearest neighbour, in units of the mean distance from the middle."""
    distances, _ = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)  # the nearest is the point itself
    from_middle = ((points - points.mean(0)) ** 2).sum(1) ** 0.5
    return distances[:, 1].mean() / from_middle.mean()


by_chance = crowding(drawn["scattered"])
crowd = {name: crowding(points) / by_chance for name, points in drawn.items()}
print({name: round(float(value), 2) for name, value in crowd.items()})

# %% [markdown]
# The printed figure is the mean distance to the nearest neighbour, relative to the size of the picture, where 1 is what points
# scattered at random in a disc have.

# %%
groups_of = {}
palette = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, plots.SKY, plots.RED, plots.YELLOW, plots.GREY]
fig, axes = plots.figure(1, 3, size=(8.0, 3.2))
titles = {3: "noise, perplexity 3", 30: "noise, perplexity 30", "scattered": "scattered in a disc"}
for ax, (name, flat) in zip(axes, drawn.items(), strict=True):
    groups_of[name] = KMeans(8, n_init=4, random_state=seed).fit_predict(flat)
    ax.scatter(flat[:, 0], flat[:, 1], s=6, c=[palette[g] for g in groups_of[name]], linewidths=0)
    ax.set_title(titles[name], fontsize=10, weight="normal")
    ax.set_xlabel(f"silhouette of the colours {silhouette_score(flat, groups_of[name]):.2f}")
    ax.set_xticks([])
    ax.set_yticks([])
fig.suptitle("Noise, drawn by t-SNE: clumps at a small perplexity", x=0.01, ha="left")
plots.show(
    fig,
    alt="t-SNE of random vectors: small clumps and strings at perplexity 3, a disc at perplexity 30; beside them "
    "points scattered in a disc.",
)

# %% [markdown]
# t-SNE made the clumps of the first picture; in the vectors there are none. And the colours? We asked k-means, a method that
# always finds as many groups as it is told, for eight. In the picture their silhouette is higher than that of any real groups
# in section 7, and in
# plain scattered points too. The same eight groups in the vectors:

# %%
in_picture = silhouette_score(drawn[3], groups_of[3])
in_vectors = silhouette_score(points, groups_of[3])
print(f"eight groups found in the picture of noise: silhouette {in_picture:.2f} there, {in_vectors:.3f} in the vectors")
assert in_picture > 0.25 and abs(in_vectors) < 0.02
assert crowd[3] < 0.75 and crowd[30] > crowd[3] + 0.2

# %% [markdown]
# So: cluster the *vectors*, measure in the *vectors*, and let the picture illustrate what the figures have shown. In a t-SNE
# picture do not read the size of an island, nor the distance between two, nor their number (Wattenberg, Viégas and Johnson
# 2016). One thing it tries to keep is who is near whom. How well does it?


# %%
def neighbours(points, k=10):
    return NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points, return_distance=False)[:, 1:]


def kept(vectors, picture):
    """The share of each point's ten nearest in the vectors that are among its ten nearest in the picture."""
    both = zip(neighbours(vectors), neighbours(picture), strict=True)
    return sum(len(set(a) & set(b)) for a, b in both) / (10 * len(vectors))


kept_of = {name: kept(F.normalize(bodies[name][sample], dim=-1).numpy(), pictures["library", name]) for name in models}
kept_of["noise"] = kept(points, drawn[30])
for name, share in kept_of.items():
    print(f"{name:<12} {share:.0%} of the ten nearest neighbours stay neighbours; by chance {10 / 399:.0%}")
assert all(0.1 < share < 0.9 for share in kept_of.values())

# %% [markdown]
# Far more than chance, and far from all. A picture in two dimensions is a good place to get ideas. It is no place to prove
# them.

# %% [markdown]
# ## What to remember
#
# * **Anisotropy** is the mean cosine of different texts, the squared length of the mean unit vector. **Alignment** asks
#   whether partners are close, **uniformity** whether the sphere is evenly used. Alone, each is satisfied by something
#   useless.
# * Centring and whitening make a space more even without training. Fit them on training texts. Whether search gains must be
#   measured: here centring changed little; whitening helped the untrained model and hurt both trained ones.
# * In these ten spaces, search followed **how far the partner stands from the strangers, in units of their spread**, and not the
#   anisotropy.
# * A bag of words cannot tell who did what to whom. An encoder learns it in seconds from hard negatives, with or without
#   pretraining, for the templates it is shown; on those it is not shown the pretrained one is far ahead.
# * Clusters: kNN accuracy and silhouette **in the vectors**, beside the majority *and* beside an untrained model. A t-SNE
#   picture can show groups that the vectors do not have.

# %% [markdown]
# **What this scale cannot show.** Ten spaces from three small models and one kind of text are too few for a law about
# anisotropy. That whitening hurts the masked model here says nothing about BERT on everyday sentences, where it was reported
# to help. And the role-swap test lives in a language of four templates.
#
# **An open problem.** Can one say from the vectors alone, without any labelled pair, whether a space is good for search? None
# of the figures that need no pairs did it here. For large models this is open too: a good figure would spare much annotation.
#
# **Where this comes from**
#
# * Tongzhou Wang and Phillip Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity on
#   the Hypersphere*, 2020, [arXiv:2005.10242](https://arxiv.org/abs/2005.10242).
# * Kawin Ethayarajh, *How Contextual are Contextualized Word Representations?*, 2019,
#   [arXiv:1909.00512](https://arxiv.org/abs/1909.00512): anisotropy as the mean cosine.
# * Jianlin Su et al., *Whitening Sentence Representations for Better Semantics and Faster Retrieval*, 2021,
#   [arXiv:2103.15316](https://arxiv.org/abs/2103.15316).
# * Tianyu Gao, Xingcheng Yao and Danqi Chen, *SimCSE*, 2021, [arXiv:2104.08821](https://arxiv.org/abs/2104.08821).
# * Peter J. Rousseeuw, *Silhouettes*, Journal of Computational and Applied Mathematics 20, 1987.
# * Laurens van der Maaten and Geoffrey Hinton, *Visualizing Data using t-SNE*, Journal of Machine Learning Research 9, 2008.
# * Martin Wattenberg, Fernanda Viégas and Ian Johnson, *How to Use t-SNE Effectively*, Distill, 2016,
#   [doi:10.23915/distill.00002](https://doi.org/10.23915/distill.00002).
#
# **Next:** lesson 12 builds a search engine out of all this, and starts with the methods that are hard to beat.
