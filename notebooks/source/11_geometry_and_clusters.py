# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Geometry and clusters
#     question: What does a good embedding space look like, and can you see it?
#     minutes: 150
#     part: "Part III: contrast"
# ---

# %% [markdown]
# # 11 · Geometry and clusters
#
# Take two pages of documentation that have nothing to do with each other, and ask the masked language model of lesson 08 how
# similar they are. The answer is a cosine, a number from −1 to 1, where 1 means "the same direction". What would you expect for
# two random texts? Zero, or near it?
#
# **The question of this lesson:** what does a good embedding space look like, and can you see it?
#
# | | |
# |---|---|
# | You will | measure how vectors lie in space, before and after contrastive training; build whitening and find out when such a repair helps search; build k-means and cluster real texts; ask a model who did what to whom; and catch a picture inventing clusters |
# | You need | lesson 06 (the toy world and `toy-small`), lesson 09 (the contrastive loss), lesson 10 (pooling, pairs, the MRR); the words *mean* and *variance* |
# | It takes | about 150 minutes, five exercises, two of them builds of 30 and 25 minutes; sections 7 and 8 can wait for another day; the machine needs less than a minute and a half |
#
# Here are the cosines of many random pairs of texts, two different ones each time:

# %% tags=["hide-input"]
import torch
import torch.nn.functional as F

from nextbert_lite import Encoder, SentenceEncoder, load, load_docs, pad, plots

texts = [body for _, body in load_docs().pairs("validation")[:200]]
(first_masked, first_tokenizer), (first_contrastive, _) = load("docs-small"), load("docs-contrastive")
torch.manual_seed(0)
first_models = {
    "untrained": SentenceEncoder(Encoder(first_masked.encoder.config)).eval(),
    "masked": SentenceEncoder(first_masked.encoder).eval(),
    "contrastive": first_contrastive,
}
fig, ax = plots.figure(size=(7.0, 3.2))
for name, model in first_models.items():
    ids, mask = pad(first_tokenizer.encode_batch(texts, max_len=64), first_tokenizer.pad_id)
    with torch.no_grad():
        model.chunk = 32
        unit = F.normalize(model.encode(ids, mask), dim=-1)
    cosines = (unit @ unit.T)[torch.ones(200, 200).triu(1).bool()]
    ax.hist(cosines, bins=60, range=(-0.5, 1), density=True, histtype="step", linewidth=1.8, label=name)
ax.set(xlabel="cosine of two different texts", ylabel="density")
ax.set_title("To the masked model, two random texts look alike")
ax.legend(loc="upper left")
plots.show(fig, alt="Histograms of the cosines of random pairs: masked far to the right, contrastive nearest to zero.")

# %%
import copy
import math

import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, silhouette_samples, silhouette_score

from nextbert_lite import SentenceEncoder, fit, load, load_docs, pad, plots, seeded, show, stored_table
from nextbert_lite.checks import lesson_11 as check
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.corpora.toy_world import COURSE_SENTENCE, ToyWorld
from nextbert_lite.use.search import paired_bootstrap, reciprocal_ranks
from nextbert_lite.validate import check_vectors
from nextbert_lite.views.embeddings import EmbeddingExplorer

# %% tags=["parameters"]
# Another seed gives another untrained model, other texts to fit on and other trained toy models.
seed = 0
every_row = False  # True also trains the toy models of section 7 of which the lesson shows the stored results

# %% [markdown]
# Three models of the same size and shape, each with mean pooling (lesson 10):
#
# * **untrained**: random weights;
# * **masked**: `docs-small`, which learned to predict masked tokens of documentation and nothing else;
# * **contrastive**: `docs-contrastive`, which started as *masked* and was then trained with the contrastive loss. Its card says
#   on which pairs: 60 % were a summary and its body, 30 % some words and the text around them, and 10 % the *name* of an entry
#   (such as "torch distributed all reduce") and its text. Remember the last kind when we come to clusters, because many of
#   these names begin with the name of the library.

# %%
masked, tokenizer = load("docs-small")
contrastive, _ = load("docs-contrastive")
torch.manual_seed(seed)
untrained = SentenceEncoder(Encoder(masked.encoder.config)).eval()
models = {"untrained": untrained, "masked": SentenceEncoder(masked.encoder).eval(), "contrastive": contrastive}


@torch.no_grad()
def embed(model, texts):
    """Return one vector for each text, (N, C), of its first 64 tokens."""
    model.chunk = 32  # 32 texts of similar length at a time
    return model.encode(*pad(tokenizer.encode_batch(texts, max_len=64), tokenizer.pad_id))


# %% [markdown]
# Reading 64 tokens saves time, so the numbers differ a little from those of lessons that read more. The texts are the summaries
# and bodies of the **validation** split: no model was trained on them or on a near-duplicate of them. (The split did serve to
# choose the models' settings; the test split waits for lesson 12.) What has to be *fitted* below is fitted on 1,200 pairs of
# the training split.

# %%
docs = load_docs()
pairs, training = docs.pairs("validation"), docs.pairs("train")
fitting = [training[i] for i in torch.randperm(len(training), generator=seeded(seed, 5))[:1200].tolist()]
summaries, bodies, fit_summaries, fit_bodies = {}, {}, {}, {}  # name of the model -> vectors (N, C)
for name, model in models.items():
    for into, part in ((summaries, pairs), (fit_summaries, fitting)):
        into[name] = embed(model, [summary for summary, _ in part])
    for into, part in ((bodies, pairs), (fit_bodies, fitting)):
        into[name] = embed(model, [body for _, body in part])
N, C = bodies["masked"].shape
print(f"{N} pairs to measure on, {len(fitting)} to fit on, vectors of width {C}")
print("the first numbers of the first body, masked:", [round(n, 2) for n in bodies["masked"][0, :6].tolist()])

# %% [markdown]
# ## 1. One number for the cone
#
# In the picture, hardly any pair of texts is near zero for the masked model: its vectors fill a narrow cone. A space in which
# all directions are used alike is **isotropic**, and the opposite is **anisotropic**. The usual measure is the mean of what you
# have just seen, the cosine of two different texts (Ethayarajh 2019 took it over words in context):
#
# $$\text{anisotropy} = \frac{1}{N(N-1)} \sum_{i \ne j} \cos(x_i, x_j)$$
#
# By this measure 0 is isotropic, and 1 means that all vectors point the same way. With loops, over the first 50 bodies:

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
# A matrix product gives all cosines at once. Its diagonal holds the cosine of each text with itself, which is 1, and has to
# stay out:

# %%
unit = F.normalize(x, dim=-1)  # (50, C), each of length 1
cosines = unit @ unit.T  # (50, 50)
by_matrix = (cosines.sum() - cosines.diagonal().sum()) / (50 * 49)
print(f"the same by a matrix: {by_matrix:.4f}")
assert abs(by_matrix - by_loops) < 1e-5

# %% [markdown]
# A shorter way tells what anisotropy *is*. The sum of all entries of the matrix, with the diagonal, is $\sum_{ij} u_i \cdot u_j
# = (\sum_i u_i) \cdot (\sum_j u_j)$, the squared length of the sum of the unit vectors. So for large N the anisotropy is the
# squared length of their **mean**: a narrow cone has a long mean vector.


# %%
def anisotropy(x):
    """x: (N, C) -> the mean cosine of two different rows"""
    m = F.normalize(x, dim=-1).mean(0)  # (C,)
    return ((len(x) * m @ m - 1) / (len(x) - 1)).item()


print(f"the same by the mean vector: {anisotropy(x):.4f}")
assert abs(anisotropy(x) - by_loops) < 1e-5

# %% [markdown]
# Now measure all bodies with all three models, and also how well the vectors search. A summary is the query, all bodies are
# sorted by cosine, and the **MRR** of lesson 10 is the mean of 1 / (rank of its own body). Equal cosines count as if they stood
# in random order, so a model that knows nothing gets what chance gets. Guess first: does training on masked tokens widen the
# cone of the untrained model, or narrow it? And does the model with the narrowest cone find worst?


# %%
def found(queries, texts):
    """queries, texts: (N, C), row i of both belong together -> 1 / rank of each query's own text, (N,)"""
    return reciprocal_ranks(F.normalize(queries, dim=-1) @ F.normalize(texts, dim=-1).T)


def interval(a, b):
    """-> the mean of a - b, with a 95 % interval of the paired bootstrap, as text"""
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*paired_bootstrap(a, b))


chance = sum(1 / rank for rank in range(1, N + 1)) / N
for name in models:
    print(
        f"{name:<12} anisotropy {anisotropy(bodies[name]):.3f}  MRR {found(summaries[name], bodies[name]).mean():.3f}"
    )
print(f"by chance{'':<20} MRR {chance:.3f}")
cone = {name: anisotropy(bodies[name]) for name in models}
assert cone["masked"] > cone["untrained"] > 2 * cone["contrastive"]
assert (
    found(summaries["masked"], bodies["masked"]).mean() > 2 * found(summaries["untrained"], bodies["untrained"]).mean()
)

# %% [markdown]
# Training on masked tokens made the cone narrower here, and the search better. The masked loss never compares two texts, so
# nothing in it asks for vectors that lie apart; the contrastive loss does.
#
# **How much of the cone is one coordinate?** Timkey and van Schijndel (2021) looked into BERT and GPT-2 and wrote:
#
# > We find that a small number of rogue dimensions, often just 1-3, dominate these measures.
#
# Look for them here. The squared length of the mean unit vector is a sum over the C features, so you can see which feature
# contributes how much. As a control, we leave out each of the 192 features in turn and measure the anisotropy again.

# %%
for name in models:
    m = F.normalize(bodies[name], dim=-1).mean(0)
    contribution = m.square() / (m @ m)  # (C,), sums to 1
    without = torch.tensor([anisotropy(bodies[name][:, torch.arange(C) != i]) for i in range(C)])
    drop, feature = (cone[name] - without).topk(2)
    print(
        f"{name:<12} feature {feature[0].item():>3}: {contribution[feature[0]]:.0%} of the mean vector; without it "
        f"{without[feature[0]]:.3f} in place of {cone[name]:.3f}; without the next one {without[feature[1]]:.3f}"
    )
    if name == "masked":
        rogue, others = feature[0].item(), torch.arange(C) != feature[0]
        assert contribution[rogue] > 0.25 and drop[0] > 0.08 and drop[1] < 0.03
    else:
        assert contribution.max() < 0.12
plain = found(summaries["masked"], bodies["masked"])
left_out = found(summaries["masked"][:, others], bodies["masked"][:, others])
print("MRR of the masked model without its rogue feature, change:", interval(left_out, plain))
assert abs(left_out.mean() - plain.mean()) < 0.02

# %% [markdown]
# In the masked model one feature of 192 makes a large part of the cone, and no other comes near it. Search hardly misses it
# (the numbers in brackets are a 95 % interval over the queries, from lesson 12's paired bootstrap). Most of the anisotropy
# remains without it, though. The untrained and the contrastive model have no such feature.

# %% [markdown]
# ## 2. Alignment and uniformity
#
# Is a low anisotropy what we want? Not by itself: random vectors have it and know nothing. Wang and Isola (2020) took the
# contrastive loss apart into two properties:
#
# > We prove that, asymptotically, the contrastive loss optimizes these properties, and analyze their positive effects on
# > downstream tasks.
#
# 1. Texts that belong together should lie close. **Alignment** is the mean squared distance of partners on the sphere of unit
#    vectors.
# 2. The vectors should use the sphere evenly. That is **uniformity**.
#
# $$\text{alignment} = \frac1N \sum_i \lVert u_i - v_i \rVert^2$$
#
# Here $u_i$ is the unit vector of a summary and $v_i$ that of its body. By a loop:

# %%
u, v = (F.normalize(vectors["masked"], dim=-1) for vectors in (summaries, bodies))
total = 0.0
for i in range(N):
    total += ((u[i] - v[i]) ** 2).sum().item()
by_loop = total / N
print(f"alignment of the masked model: {by_loop:.4f}")
print(f"2 - 2 · the mean cosine of partners: {2 - 2 * (u * v).sum(1).mean():.4f}")

# %% [markdown]
# The two lines agree because for unit vectors $\lVert u - v \rVert^2 = 2 - 2\cos(u, v)$: the same vector has 0, a right angle
# 2, opposite vectors 4. Lower is better. In the package it stands like this, with a check that says in words what is wrong with
# vectors that cannot be used:


# %%
def alignment(a, b):
    """a, b: (N, C), row i of both belong together -> the mean squared distance of partners on the unit sphere"""
    a, b = check_vectors(a), check_vectors(b)
    if a.shape != b.shape:
        raise ValueError(f"a has the shape {tuple(a.shape)}, b {tuple(b.shape)}: row i of both must belong together.")
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return (a - b).square().sum(-1).mean()


print(f"the same: {alignment(summaries['masked'], bodies['masked']):.4f}")
assert abs(alignment(summaries["masked"], bodies["masked"]) - by_loop) < 1e-4

# %% [markdown]
# How would you measure "evenly spread"? The mean squared distance of all pairs does not work: it is 2 minus twice the
# anisotropy, and two tight heaps at opposite poles have about 2, just as an even spread has. Wang and Isola let every pair
# repel each other, strongly when close and hardly at all when far, and take the logarithm of the mean repulsion:
#
# $$\text{uniformity} = \ln \frac{1}{N(N-1)} \sum_{i \ne j} e^{-2 \lVert u_i - u_j \rVert^2}$$
#
# If all vectors lie in one point, it is ln 1 = 0, the worst value. Lower is better. With loops over 50 bodies:

# %%
total = 0.0
for i in range(50):
    for j in range(50):
        if i != j:
            total += math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum().item())
by_loops = math.log(total / (50 * 49))
print(f"uniformity of 50 bodies: {by_loops:.4f}")

# %% [markdown]
# `torch.pdist` gives the distance of each pair once. The sum above counts each pair twice, so the mean is the same.


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
# We take uniformity over the bodies; lesson 10 took it over summaries and bodies together, so do not compare the numbers of the
# two lessons.
#
# Where do random directions stand? In many dimensions they are nearly at right angles, so the squared distance is about 2 and
# the uniformity about −2 · 2 = −4. It is a little higher, because close pairs count more than far ones: the cosine has a
# variance of 1/C, and the mean of $e^{4\cos}$ is about $e^{8/C}$. With infinitely many vectors an even spread is the best there
# is (Wang and Isola prove it); a finite set can do a little better than random. The second line below takes the 2C points ±1 on
# the axes.

# %% tags=["nbval-check-output"]
noise = {part: torch.randn(N, C, generator=seeded(seed, i)) for i, part in enumerate(("summaries", "bodies"))}
axes_of_space = torch.cat([torch.eye(C), -torch.eye(C)])  # (2C, C)
print(f"random directions: predicted {-4 + 8 / C:.3f}, drawn {uniformity(noise['bodies']):.3f}")
print(f"plus and minus the axes: {uniformity(axes_of_space):.3f}")
assert abs(uniformity(noise["bodies"]) - (-4 + 8 / C)) < 0.01
assert uniformity(axes_of_space) < uniformity(noise["bodies"])

# %% [markdown]
# ### Exercise 11.1 · predict the result ●●○ · 6 minutes
#
# Half of a very large number of vectors lie at the north pole of the sphere, the other half at the south pole. The anisotropy
# is 0: half of the pairs have the cosine 1, half have −1. By the mean cosine this space is perfectly isotropic. What is its
# uniformity, to four decimals? (Count exactly half of the pairs at distance 0 and half at opposite poles, and do not drop the
# far pairs because they are small. You may write an expression with `math`.)

# %% tags=["exercise-11.1"]
two_poles = None
### BEGIN SOLUTION
two_poles = math.log((1 + math.exp(-2 * 4)) / 2)
### END SOLUTION

# %% tags=["nbval-check-output"]
check.two_poles(two_poles)

# %% [markdown]
# ## 3. A repair without training: centring
#
# If a long mean vector is the trouble, subtract it. **Centring** replaces each vector x by x − μ, where μ is the mean of the
# training vectors. It must not be fitted on the texts that are tested, and it has to exist before the first question comes.
#
# But *which* mean? Summaries are short and bodies are long, and their vectors may have different means. Look:

# %%
offsets = {}
for name in models:
    distance = (fit_summaries[name].mean(0) - fit_bodies[name].mean(0)).norm()
    offsets[name] = distance / torch.cat([fit_summaries[name], fit_bodies[name]]).var(0).sum().sqrt()
    print(f"{name:<12} distance of the two means: {offsets[name]:.2f} of the standard deviation of all vectors")
assert offsets["contrastive"] < 0.6 * min(offsets["untrained"], offsets["masked"])

# %% [markdown]
# Between images and texts such an offset is known as the *modality gap* (Liang et al. 2022). So there are two candidates:
# subtract one mean, that of the bodies, from both sides; or subtract from each side its own. Both centre the bodies equally
# well, so their anisotropy is the same, near 0. Guess before you run the cell: which of the two helps search, and for which
# model?


# %%
def hubs(queries, texts, k=10):
    """-> (N,), how many of the queries have each text among their k nearest"""
    nearest = (F.normalize(queries, dim=-1) @ F.normalize(texts, dim=-1).T).topk(k).indices  # (N, k)
    return torch.bincount(nearest.flatten(), minlength=len(texts))


changes, never = {}, {}
print(f"{'':<24}{'anisotropy':>12}{'MRR':>8}{'change, 95 % interval':>30}{'never found':>14}")
for name in models:
    a, b = summaries[name], bodies[name]
    mean_a, mean_b = fit_summaries[name].mean(0), fit_bodies[name].mean(0)
    plain = found(a, b)
    versions = {"as it is": (a, b), "one mean": (a - mean_b, b - mean_b), "own means": (a - mean_a, b - mean_b)}
    for how, (q, t) in versions.items():
        changes[name, how], never[name, how] = paired_bootstrap(found(q, t), plain), (hubs(q, t) == 0).double().mean()
        change = interval(found(q, t), plain) if how != "as it is" else ""
        print(
            f"{name + ', ' + how:<24}{anisotropy(t):12.3f}{found(q, t).mean():8.3f}{change:>30}{never[name, how]:14.0%}"
        )
assert changes["untrained", "own means"][1] > 0.04 and changes["masked", "own means"][1] > 0
assert max(abs(changes["contrastive", how][0]) for how in ("one mean", "own means")) < 0.02
assert changes["untrained", "own means"][0] > changes["untrained", "one mean"][0] + 0.05
assert changes["masked", "own means"][0] > changes["masked", "one mean"][0] + 0.01
assert max(changes[name, "one mean"][0] for name in models) < 0.01

# %% [markdown]
# With **one** mean the cone is gone and search is no better. With its **own mean for each side** the untrained model's MRR is
# about three times as high. The masked model gains a little, but its whole interval is above zero. The contrastive model hardly
# changes; its offset was the smallest of the three.
#
# The last column shows what goes wrong. It counts the bodies that are among the ten nearest of *no* query; in return, a few
# others are near to everything. Such **hubs** are known from many high-dimensional data sets (Radovanović, Nanopoulos and
# Ivanović 2010). If all queries share an offset, the bodies that lie in the direction of that offset are near to all of them.
# Here is how often each body is among the ten nearest:

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(8.0, 3.0), sharey=True)
for ax, name in zip(axes, ("untrained", "masked"), strict=True):
    q, t = summaries[name], bodies[name]
    sides = {"as it is": (q, t), "one mean": (q - fit_bodies[name].mean(0), t - fit_bodies[name].mean(0))}
    sides["own means"] = (q - fit_summaries[name].mean(0), t - fit_bodies[name].mean(0))
    for (how, (q, t)), style in zip(sides.items(), ("-", ":", "--"), strict=True):
        counts = hubs(q, t).sort(descending=True).values
        ax.plot(range(1, N + 1), counts.clamp(min=0.5), style, label=how)
    ax.set(xlabel="bodies, most often found first", yscale="log", ylim=(0.45, 700))
    ax.set_title(name, fontsize=10)
axes[0].set_ylabel("queries that have it among ten")
axes[0].set_yticks([0.5, 1, 10, 100], ["0", "1", "10", "100"])
axes[1].legend()
fig.suptitle("With each side centred on its own mean, more bodies are found", x=0.01, ha="left")
plots.show(
    fig,
    alt="How often each body is found, sorted: untrained as it is and with one mean fall steeply from hundreds to zero; "
    "with own means the curves are flatter, for masked as well.",
)
assert never["untrained", "own means"] < 0.5 * min(never["untrained", how] for how in ("as it is", "one mean"))
assert never["masked", "own means"] < min(never["masked", how] for how in ("as it is", "one mean"))

# %% [markdown]
# ## 4. Whitening
#
# After centring, some directions still vary much more than others. The **covariance matrix** $X^\top X / N$ of centred vectors
# (one in each row of X) holds how any two features vary together. It has axes of its own, at right angles: its
# **eigenvectors**. The variances along them are its **eigenvalues**. Guess: of the variance of 192 directions, what proportion
# do the ten largest hold?

# %% tags=["hide-input"]
variances, directions = {}, {}
fig, ax = plots.figure(size=(7.0, 3.0))
for name in models:
    both = torch.cat([fit_summaries[name] - fit_summaries[name].mean(0), fit_bodies[name] - fit_bodies[name].mean(0)])
    variances[name], directions[name] = torch.linalg.eigh(both.T @ both / len(both))  # rising
    proportion = variances[name].flip(0) / variances[name].sum()
    ax.plot(range(1, C + 1), proportion.clamp(min=1e-5), label=name)
    print(f"{name:<12} the ten largest hold {proportion[:10].sum():.0%} of the variance")
ax.set(xlabel="direction, by variance", ylabel="proportion of the variance", yscale="log", ylim=(1e-5, 1))
ax.set_title("A few directions hold much of the variance, and the last one none")
ax.legend()
plots.show(
    fig, alt="Proportions of the variance of 192 directions: a steep beginning, a slow fall, and a drop at the end."
)

# %% [markdown]
# **Whitening** turns the vectors onto these axes and divides each by its standard deviation, the square root of the variance.
# After that every axis counts the same:
#
# $$x' = \frac{(x - \mu)\, E}{\sqrt{\lambda}}$$
#
# E holds the eigenvectors as columns, and λ the eigenvalues. Su et al. (2021) proposed it for BERT's sentence vectors, under
# the name of BERT-whitening. In two dimensions you can follow each number. The standard deviation along one axis is
# three times that along the other:

# %% tags=["nbval-check-output"]
points = torch.tensor([[4.0, 2.0], [-2.0, 2.0], [1.0, 3.0], [1.0, 1.0]])
mean = points.mean(0)
covariance = (points - mean).T @ (points - mean) / len(points)
small_variances, small_axes = torch.linalg.eigh(covariance)
white = (points - mean) @ small_axes / small_variances.sqrt()
print("mean", mean.tolist(), " covariance", covariance.tolist())
print("whitened: lengths", [round(n, 3) for n in white.norm(dim=1).tolist()])
print("covariance after it", (white.T @ white / 4).round(decimals=3).tolist())

# %% [markdown]
# The last direction of the figure has no variance at all. It comes from the layer norm that ends each encoder: before its scale
# and shift, the features of a token sum to zero, and so do those of a mean of tokens. That is one condition, so one direction
# is empty. Dividing by a standard deviation of zero would blow up rounding errors, so whitening has to drop such directions.

# %%
for name, model in models.items():
    norm = model.encoder.layers[-1].norm2
    features = (bodies[name] - norm.bias.detach()) / norm.weight.detach()  # before scale and shift
    print(f"{name:<12} largest sum of the features of a body: {features.sum(1).abs().max():.4f}")
    assert features.sum(1).abs().max() < 0.01

# %% [markdown]
# ### Exercise 11.2 · build whitening ●●● · 30 minutes
#
# Write a class `Whitening` for two sides, queries and texts, with three methods.
#
# * `Whitening(keep=1e-4)` makes an object that is not fitted yet.
# * `fit(queries, texts)` takes training vectors, `(N, C)` and `(M, C)`, where N and M may differ. It keeps the mean of **each
#   side**. It subtracts from each side its own mean, puts the N + M centred rows below each other and takes their covariance,
#   divided by N + M. It keeps the eigenvectors whose variance is larger than `keep` times the *largest* variance, K of them. It
#   returns the object itself.
# * `queries(x)` and `texts(x)` take new vectors `(n, C)`, where n may be 1, subtract the fitted mean of their side and give the
#   whitened vectors `(n, K)` in the dtype of x.
#
# Order and sign of the K axes are free: the check compares inner products. No argument may be changed in place. The attributes
# may have any names. Write it in three steps and run the check after each:
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | the two means; the methods subtract them | stage 3, the covariance |
# | 2 | the covariance, its axes, and the division by standard deviations | stage 6, small and empty directions |
# | 3 | `keep` | nothing more |


# %% tags=["exercise-11.2", "my-bert-geometry"]
class Whitening:
    """Each side at mean zero, and the covariance of both together the identity."""

    def __init__(self, keep=1e-4):
        ### BEGIN SOLUTION
        self.keep = keep
        ### END SOLUTION

    def fit(self, queries, texts):
        """queries: (N, C), texts: (M, C) -> self"""
        ### BEGIN SOLUTION
        self.mean_of_queries, self.mean_of_texts = queries.mean(0), texts.mean(0)  # (C,) each
        centred = torch.cat([queries - self.mean_of_queries, texts - self.mean_of_texts])  # (N + M, C)
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))  # (C,) and (C, C)
        kept = variances > self.keep * variances.max()
        self.matrix = axes[:, kept] / variances[kept].sqrt()  # (C, K)
        return self
        ### END SOLUTION

    def queries(self, x):
        """x: (n, C) -> (n, K)"""
        ### BEGIN SOLUTION
        return (x - self.mean_of_queries) @ self.matrix
        ### END SOLUTION

    def texts(self, x):
        """x: (n, C) -> (n, K)"""
        ### BEGIN SOLUTION
        return (x - self.mean_of_texts) @ self.matrix
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.whitening(Whitening)

# %% [markdown]
# The rest of the lesson runs on your class once it passes, and on the course's until then:

# %% tags=["nbval-check-output"]
Whitening = check.mine("11.2", Whitening)

# %% [markdown]
# On the rows that it was fitted on, the covariance is now the identity matrix. On new texts it is so only nearly, because it
# was estimated: 192 directions have 192 · 193 / 2 = 18,528 variances and covariances, and each is known only as well as the
# sample is large. Directions that hardly vary are enlarged most, errors and all. So look at the MRR as the number of texts to
# fit on grows. Guess for each model: will whitening help search, and from how many texts on?

# %%
sizes, curves, whitened_change = (200, 400, 800, 1200), {}, {}
print("MRR as it is, and whitened with so many summaries and as many bodies:")
for name in models:
    plain = found(summaries[name], bodies[name])
    for n in sizes:
        w = Whitening().fit(fit_summaries[name][:n], fit_bodies[name][:n])
        after = found(w.queries(summaries[name]), w.texts(bodies[name]))
        curves[name, n], whitened_change[name, n] = after.mean().item(), paired_bootstrap(after, plain)
    shown = "  ".join(f"{n}: {curves[name, n]:.3f}" for n in sizes)
    print(f"{name:<12} {plain.mean():.3f} | {shown} | change at {n}: {interval(after, plain)}")
few, many = sizes[0], sizes[-1]
assert all(whitened_change["untrained", n][1] > 0.08 and whitened_change["contrastive", n][2] < -0.01 for n in sizes)
assert whitened_change["masked", few][2] < -0.02 and abs(whitened_change["masked", many][0]) < 0.03
assert all(curves[name, many] > curves[name, few] + 0.03 for name in models)

# %% [markdown]
# The same numbers as curves, each beside the dotted line of its model as it is:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.2))
for name, colour in zip(models, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True):
    ax.plot(sizes, [curves[name, n] for n in sizes], "o-", color=colour, label=f"{name}, whitened")
    ax.axhline(found(summaries[name], bodies[name]).mean(), color=colour, linestyle=":", linewidth=1.2)
ax.set(xlabel="summaries, and as many bodies, to fit on", ylabel="MRR", ylim=(0, 0.62), xticks=sizes)
ax.set_title("Whitening gains from more texts, and does not help every model")
ax.plot([], [], ":", color=plots.GREY, label="as it is")
ax.legend(fontsize=8.5, loc="upper left", ncols=2)
plots.show(
    fig,
    alt="MRR over the number of texts to fit on: all three curves rise; untrained ends far above its dotted line, masked "
    "at its line, contrastive below its line.",
)

# %% [markdown]
# Three models, three answers. With 200 texts a side whitening hurts the masked model clearly; with 1,200 it is back at where it
# was without. The untrained model gains much at every size, and the contrastive model loses at every size. (One reading, which
# we have not tested: whitening gives the noisy directions as much weight as those that training made useful.) So neither
# "whitening helps" nor "whitening hurts" is a law, and a repair is only as good as the sample on which it is fitted.
#
# Published results concern something else. On seven sets of sentence pairs whose similarity people scored (STS), averaging
# BERT-base's first and last layer has a Spearman correlation of 56.70 (× 100) with the people's scores, BERT-whitening 66.28,
# unsupervised SimCSE 76.25 (Gao et al. 2021, table 5). There whitening pays: another model, other texts, another task.

# %% [markdown]
# ## 5. Ten spaces on one plane
#
# Three models, each as it is, centred (each side with its own mean) and whitened (on 1,200 texts a side), make nine spaces. The
# tenth is **noise**: a random vector for each text. The **alignment–uniformity plane** draws the two measures of section 2.
# Both are better when lower, so the corner to aim at is at the bottom left. Before you run the cell: which of the ten has the
# best alignment, which the best uniformity, and which finds best?

# %%
spaces = {}
for name in models:
    w = Whitening().fit(fit_summaries[name], fit_bodies[name])
    spaces[name] = summaries[name], bodies[name]
    spaces[f"{name}, centred"] = (
        summaries[name] - fit_summaries[name].mean(0),
        bodies[name] - fit_bodies[name].mean(0),
    )
    spaces[f"{name}, whitened"] = w.queries(summaries[name]), w.texts(bodies[name])
spaces["noise"] = noise["summaries"], noise["bodies"]
by_space = {}
print(f"{'':<22}{'MRR':>12}{'anisotropy':>12}{'alignment':>12}{'uniformity':>12}")
for name, (a, b) in spaces.items():
    row = {"mrr": found(a, b).mean().item(), "anisotropy": anisotropy(b)}
    row |= {"alignment": alignment(a, b).item(), "uniformity": uniformity(b).item()}
    by_space[name] = row
    print(f"{name:<22}" + "".join(f"{value:12.3f}" for value in row.values()))
assert by_space["masked"]["alignment"] == min(row["alignment"] for row in by_space.values())
assert by_space["noise"]["uniformity"] == min(row["uniformity"] for row in by_space.values())
assert abs(by_space["noise"]["anisotropy"]) < 0.005 and by_space["noise"]["mrr"] < 0.03
centred = {name: by_space[f"{name}, centred"] for name in ("masked", "contrastive")}
assert centred["contrastive"]["alignment"] < centred["masked"]["alignment"] - 0.2
assert abs(centred["contrastive"]["uniformity"] - centred["masked"]["uniformity"]) < 0.3

# %% [markdown]
# The last two columns as a plane; the colour is the MRR, and a line leads from each model to its centred and its whitened
# space:

# %% tags=["hide-input"]
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
    alt="Alignment against uniformity for ten spaces. Centring and whitening move the untrained and the masked model to "
    "the left and up; the contrastive one stays lowest there.",
)

# %% [markdown]
# Follow the lines.
#
# * **As it is**, the masked model has the best *alignment* of all ten: partners lie close. But so does everything else.
#   Alignment alone is worth nothing, because a model that gives every text the same vector has 0.
# * **Noise** has the best uniformity and an anisotropy of zero, and finds by chance.
# * **Contrastive** training moved the vectors apart, and the partners with them, but the partners less. Compare the two squares
#   of the trained models: at about the same uniformity, the partners of the contrastive one are much closer.

# %% [markdown]
# ## 6. Which measure does search quality follow?
#
# Could one number tell, before any search, that a space is good? Here are four more candidates.
#
# * **Few hubs**: the skewness of the counts of section 3, low when no text is near to everything.
# * **Effective rank**: how many directions are in use. Take the singular values of the bodies' vectors, divide them by their
#   sum, and take e to the power of the entropy of these proportions. Garrido et al. (2022) propose it under the name RankMe, to
#   judge self-supervised models without labels, and only to compare runs of one method. Our ten spaces are a harder case.
#   Higher should be better.
# * **Alignment + uniformity**, the sum.
# * **Separation**: how far partners stand out from strangers. It is the difference of their mean cosines in units of the
#   strangers' spread, close to what signal detection calls d′:
#
# $$d' = \frac{\text{mean cosine of partners} - \text{mean cosine of strangers}}{\text{standard deviation of the strangers' cosines}}$$


# %%
def skewness(counts):
    z = (counts.double() - counts.double().mean()) / counts.double().std(correction=0)
    return z.pow(3).mean().item()


def effective_rank(x):
    """x: (N, C) -> between 1 and C"""
    p = torch.linalg.svdvals(x) / torch.linalg.svdvals(x).sum()
    return torch.special.entr(p).sum().exp().item()


def separation(a, b):
    cosines = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T  # (N, N)
    strangers = cosines[~torch.eye(len(a), dtype=torch.bool)]
    return ((cosines.diagonal().mean() - strangers.mean()) / strangers.std()).item()


print(f"{'':<22}{'MRR':>12}{'skewness':>12}{'rank':>12}{'separation':>12}")
for name, (a, b) in spaces.items():
    row = by_space[name]
    row |= {"skewness": skewness(hubs(a, b)), "rank": effective_rank(b), "separation": separation(a, b)}
    print(f"{name:<22}" + "".join(f"{row[key]:12.3f}" for key in ("mrr", "skewness", "rank", "separation")))

# %% [markdown]
# A **rank correlation** (Spearman's ρ) asks whether two lists put the spaces in the same order: 1 the same, 0 unrelated, −1 the
# reverse. It is the ordinary correlation of the ranks. We turn the sign of each measure so that higher means "should be
# better".
#
# How large must ρ be to mean something? We try seven measures and look at the best, so the best of seven is what chance has to
# be asked about: shuffle the MRRs of the ten spaces, and take the largest of the seven correlations, 1,000 times. Guess the
# order of the seven. Then:


# %%
def rank_correlation(x, y):
    """x, y: lists of n numbers -> the correlation of their ranks"""
    ranks = torch.stack([torch.tensor(values).argsort().argsort() for values in (x, y)])  # (2, n)
    return torch.corrcoef(ranks.double())[0, 1].item()


def orders(rows):
    low = {f"low {key}": [-row[key] for row in rows] for key in ("anisotropy", "uniformity", "skewness", "alignment")}
    both = [-row["alignment"] - row["uniformity"] for row in rows]
    high = {"high rank": [row["rank"] for row in rows], "high separation": [row["separation"] for row in rows]}
    return low | high | {"low alignment + uniformity": both}


rows = list(by_space.values())
quality, measures = [row["mrr"] for row in rows], orders(rows)
best_by_chance = [
    max(rank_correlation(order, [quality[i] for i in torch.randperm(10, generator=seeded(k)).tolist()])
        for order in measures.values())
    for k in range(1000)
]  # fmt: skip
level = torch.tensor(best_by_chance).quantile(0.95).item()
rho = {name: rank_correlation(order, quality) for name, order in measures.items()}
nine = orders(rows[:-1])  # without noise
print(f"{'':<28}{'ten spaces':>11}{'without noise':>15}")
for name in sorted(rho, key=rho.get):
    print(f"{name:<28}{rho[name]:11.2f}{rank_correlation(nine[name], quality[:-1]):15.2f}")
print(f"the best of seven, by chance: below {level:.2f} in 95 of 100 cases")
without_pairs = [rho[name] for name in ("low anisotropy", "low uniformity", "low skewness", "high rank")]
one, two = by_space["contrastive"], by_space["contrastive, whitened"]
assert two["separation"] > one["separation"] - 0.05 and two["mrr"] < one["mrr"] - 0.02
assert rho["high separation"] == max(rho.values()) and rho["high separation"] > level > max(without_pairs)
assert rank_correlation(nine["low skewness"], quality[:-1]) > rho["low skewness"] + 0.1
assert all(by_space[f"{name}, whitened"]["rank"] > by_space[name]["rank"] for name in models)

# %% [markdown]
# Three of the measures beside the MRR, a colour for each model:

# %% tags=["hide-input"]
units = {
    "anisotropy": "anisotropy (mean cosine)",
    "skewness": "skewness of the counts",
    "separation": "separation (d′)",
}
fig, axes = plots.figure(1, 3, size=(8.0, 3.0), sharey=True)
families = dict(zip(models, (plots.BLUE, plots.ORANGE, plots.GREEN), strict=True)) | {"noise": plots.GREY}
for ax, key in zip(axes, units, strict=True):
    for base, colour in families.items():
        chosen = [row for name, row in by_space.items() if name.startswith(base)]
        ax.plot([row[key] for row in chosen], [row["mrr"] for row in chosen], "o", color=colour, label=base)
    ax.set(xlabel=units[key], ylim=(0, None))
axes[0].set_ylabel("MRR")
axes[2].legend(fontsize=8.5)
fig.suptitle("In these ten spaces the MRR follows separation, not anisotropy", x=0.01, ha="left")
plots.show(
    fig, alt="MRR against anisotropy and against skewness: no clear order. Against separation the points rise together."
)

# %% [markdown]
# **Low anisotropy is not good search**, and neither is low uniformity or a high effective rank: each of the four measures that
# need no pairs stays below the level of chance. Few hubs does better once noise is left out, since noise has no hubs and no
# meaning either. Alignment and uniformity together do well; with ten spaces from three models, which are far from independent,
# we cannot tell whether separation is really better than their sum.
#
# Nor is separation a law. It looks at the very pairs that search is judged on, so it nearly restates the question, and it still
# errs: compare the last two columns of the table for the contrastive model before and after whitening. The separation does not
# fall with the MRR.

# %% [markdown]
# ## 7. The same words, another meaning
#
# Documentation can be searched by words alone, and lesson 12 shows how far that goes. Is there anything that a bag of words
# cannot do? The toy world of lesson 06 was built with such a question in it:

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
# Here the words differ a little (*is*, *are*). The **role-swap test** takes only sentences in which both people are one or both
# are several, so that the paraphrase and its reverse have exactly the same words. Which of the two is nearer to the sentence?
# Here is one of a thousand such questions:

# %% tags=["nbval-check-output"]
test = world.role_swap_test(1000, seed=500 + seed)
for text in (test[0].sentence.text, test[0].paraphrase.text, test[0].swapped.text):
    print(text)
for item in test:
    assert sorted(item.paraphrase.words) == sorted(item.swapped.words) and item.paraphrase.text != item.swapped.text

# %% [markdown]
# A bag of words gives both the same vector, so the cosines are *equal*, a tie. A test that counts with `>` would give it 0 %, a
# test with `>=` 100 %, and rounding in the last digit anything in between. All three are wrong: it has no opinion, so it should
# score what guessing scores.

# %% [markdown]
# ### Exercise 11.3 · ties ●●○ · 6 minutes
#
# Return the proportion of questions that are right, as a number or a tensor of one number. The paraphrase should have the
# larger cosine. A tie counts one half, and two cosines that differ by less than a millionth are a tie. Both arguments stay as
# they are.


# %% tags=["exercise-11.3"]
def proportion_right(right, wrong):
    """right, wrong: (N,), the cosines with the paraphrase and with its swap -> the proportion, a tie counts 0.5"""
    ### BEGIN SOLUTION
    difference = right - wrong
    tie = difference.abs() < 1e-6
    return ((difference > 0) & ~tie).float().mean() + 0.5 * tie.float().mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.proportion_right(proportion_right)

# %% [markdown]
# Three models take the test, all with mean pooling:
#
# * a **bag of words**: an encoder without layers and without positions, so that only the mean of word vectors is left;
# * `toy-small` from lesson 06, which is **pretrained**: it learned to predict masked words, and passes tests of grammar;
# * an encoder of the same shape with **random** weights.
#
# First the score *before* any contrastive training. Guess: does the pretrained one know who did what to whom?


# %%
def toy_batch(sentences):
    return pad(toy_tokenizer.encode_batch([sentence.text for sentence in sentences]), toy_tokenizer.pad_id)


@torch.no_grad()
def role_scores(model, items):
    """Return for each question 1 if right, 0 if wrong, 0.5 for a tie: (N,)"""
    model = copy.deepcopy(model).double().eval()  # in float64 a tie is a tie
    a, p, s = (model(*toy_batch([getattr(i, part) for i in items])) for part in ("sentence", "paraphrase", "swapped"))
    difference = F.cosine_similarity(a, p) - F.cosine_similarity(a, s)
    return torch.where(difference.abs() < 1e-6, 0.5, (difference > 0).double())


toy, _ = load("toy-small")
torch.manual_seed(seed)
config = toy.encoder.config
sizes_of_bag = dict(vocab_size=config.vocab_size, width=config.width, layers=0, positions="none")
options = {"temperature": 0.1, "symmetric": True}
starts = {
    "bag of words": SentenceEncoder(Encoder(EncoderConfig(**sizes_of_bag, init_std="fan_in")), **options),
    "pretrained encoder": SentenceEncoder(toy.encoder, **options),
    "random encoder": SentenceEncoder(Encoder(config), **options),
}
before = {start: role_scores(model, test).mean().item() for start, model in starts.items()}
print({start: round(right, 3) for start, right in before.items()})
assert before["bag of words"] == 0.5 and before["pretrained encoder"] < 0.75

# %% [markdown]
# That the bag ties every time needs no measurement: it is a proof, because a mean does not depend on the order of what is
# averaged. The other two are not far from a coin flip. Whatever `toy-small` knows about the roles, the cosine of its *mean*
# vectors does not show it.
#
# Now contrastive training: a positive pair is a sentence and a paraphrase, with the 64 pairs of a batch as in lesson 09. There
# are two ways to do it. **With hard negatives**, each batch also holds the 128 sentences and paraphrases with who and whom
# exchanged, as further wrong answers. Those are exactly the wrong answers of the test. **Without** them, the wrong answers are
# only the other paraphrases of the batch, which say something else in other words.

# %%
ALL = ("active", "passive", "cleft", "object_cleft")


def template(sentence):
    return world.frames[sentence.frame].template


def train_roles(model, hard, templates):
    """Return a trained copy of the model, and the texts that it was shown."""
    shown = set()

    def batch(step):
        drawn = world.sample(240, seed=10_000 * (seed + 1) + step)
        sentences = [s for s in drawn if template(s) in templates][:64]
        others = [[p for p in world.paraphrases(s) if template(p) in templates] for s in sentences]
        parts = {"": sentences, "positive_": [choices[step % len(choices)] for choices in others]}
        if hard:
            parts["negative_"] = [world.swap_roles(s) for part in list(parts.values()) for s in part]
        shown.update(s.text for part in parts.values() for s in part)
        tensors = {name: toy_batch(part) for name, part in parts.items()}
        return {
            f"{name}{what}": t for name, two in tensors.items() for what, t in zip(("ids", "mask"), two, strict=True)
        }

    model = copy.deepcopy(model)
    fit(model, batch, steps=220, lr=3e-3, warmup=20, seed=seed)
    return model, shown


# %% [markdown]
# The world is small, so some of the test's sentences come up in training too. We note what was shown, and count only the
# questions of which no sentence was. One more start serves as a control: the pretrained encoder with the numbers of each weight
# tensor in random order, which has the same sizes of weights and no knowledge.


# %%
def shuffled(model):
    """Return a copy of the model with the numbers of each weight tensor in random order."""
    model = copy.deepcopy(model)
    for i, p in enumerate(model.parameters()):
        p.data = p.data.flatten()[torch.randperm(p.numel(), generator=seeded(seed, i))].view_as(p)
    return model


# %% [markdown]
# Which of the runs will pass the test? Guess for each: the pretrained, the random and the shuffled encoder without hard
# negatives; the bag and the random encoder with them.


# %%
def measured(start, hard, templates):
    """Train from a start; return its row of the table, measured on questions of which no sentence was shown."""
    model, shown = train_roles(starts[start], hard, templates)
    new = [item for item in test if not shown & {item.sentence.text, item.paraphrase.text, item.swapped.text}]
    cleft = torch.tensor([any("that" in s.words for s in (item.sentence, item.paraphrase)) for item in new])
    scores = role_scores(model, new)
    row = {"seed": seed, "start": start, "trained_on": " ".join(templates), "before": before[start]}
    row |= {"right": scores.mean().item(), "ties": (scores == 0.5).double().mean().item()}
    row |= {"plain": scores[~cleft].mean().item(), "cleft": scores[cleft].mean().item()}
    print(f"{start:<20}{'with' if hard else 'without':>8} hard negatives: right {row['right']:.3f} of {len(new)} new")
    return row


starts["shuffled encoder"] = shuffled(starts["pretrained encoder"])
before["shuffled encoder"] = role_scores(starts["shuffled encoder"], test).mean().item()
without = {start: measured(start, False, ALL)["right"] for start in list(starts)[1:]}
with_hard = [("bag of words", ALL), ("random encoder", ALL)]
if every_row:
    with_hard = [(start, ALL) for start in list(starts)[:3]] + [(start, ALL[:2]) for start in list(starts)[1:3]]
results_roles = [measured(start, True, templates) for start, templates in with_hard]
live = {row["start"]: row for row in results_roles if row["trained_on"] == " ".join(ALL)}
assert without["pretrained encoder"] > 0.9 and max(without["random encoder"], without["shuffled encoder"]) < 0.75
assert live["bag of words"]["right"] == 0.5 and live["random encoder"]["right"] > 0.95

# %% [markdown]
# **Without hard negatives, pretraining decides.** The pretrained encoder learns who did what to whom from pairs that never
# showed it the reverse. The random encoder, trained in the same way on the same batches, does not; nor does the *shuffled* one,
# which has the pretrained encoder's numbers in random order, so it is not the size of the weights. A likely reason, which we
# have not tested: words are enough to tell a sentence from nearly all others of its batch, so the loss hardly asks for roles,
# and what the pretrained encoder had learned of grammar carries over.
#
# **With hard negatives, the start does not matter.** The random encoder learns the roles too, because now the loss asks for
# them: the batch holds exactly the wrong answers of the test. And the bag stays at one half, whatever its training. So hard
# negatives teach what you thought of showing, and pretraining adds some of what you did not show.
#
# How far does a rule that was learned from hard negatives carry over? The stored runs answer it. They were trained *with* hard
# negatives from three seeds, some on active and passive sentences alone, while the test also asks for clefts ("it is the cook
# that …", "it is the waiters that the cook …").

# %% tags=["nbval-check-output"]
table = stored_table("11_roles")  # `results_roles` of three seeds
by_run = {}
for row in table:
    by_run.setdefault((row["start"], row["trained_on"]), []).append(row)
print(f"{'':<58}{'right, active and passive':>27}{'right, with a cleft':>27}")
for (start, trained_on), rows in by_run.items():
    shown = ["  ".join(f"{float(row[part]):.3f}" for row in rows) for part in ("plain", "cleft")]
    print(f"{start + ', trained on ' + trained_on:<58}{shown[0]:>27}{shown[1]:>27}")
for row in table:  # the live rows of this seed agree with the stored ones
    if row["seed"] == str(seed) and row["trained_on"] == " ".join(ALL) and row["start"] in live:
        assert abs(float(row["right"]) - live[row["start"]]["right"]) < 0.05
shown = [row for start in ("pretrained", "random") for row in by_run[f"{start} encoder", " ".join(ALL)]]
assert len(shown) >= 6 and min(float(row["right"]) for row in shown) > 0.99
unseen = {start: by_run[f"{start} encoder", "active passive"] for start in ("pretrained", "random")}
assert all(float(row["plain"]) > float(row["cleft"]) + 0.1 for row in unseen["random"])
assert all(
    float(a["cleft"]) > float(b["cleft"]) + 0.1 for a, b in zip(unseen["pretrained"], unseen["random"], strict=True)
)

# %% [markdown]
# The stored rows show that what was shown is learned: more than 0.99 in every run with all four templates, from either start. On the
# templates that training left out, the random encoder does far worse in all three runs, perhaps because a rule that is right
# for active and passive can be wrong for a cleft. The pretrained encoder has seen clefts as a masked model, and loses little: in each of
# the three pairs of runs it is ahead by more than a tenth.

# %% [markdown]
# ## 8. Clusters, in the vectors
#
# Back to documentation. Do texts of one library lie together? Pictures come later, because they persuade too easily. We measure
# first, with two baselines: the untrained model, and **TF-IDF** vectors of the same 64 tokens (lesson 10), which
# know words and nothing else.
#
# **kNN accuracy.** Let the ten nearest *fitting* bodies of a text vote on its library. For what proportion of the texts do they
# name the right one? Near-copies of a text are never among them, since the corpus was split that way. For one text:

# %%
library_of = {d.body: d.library for d in docs.documents}
labels = [library_of[body] for _, body in pairs]
known = [library_of[body] for _, body in fitting]
x, stored = (F.normalize(vectors["masked"], dim=-1) for vectors in (bodies, fit_bodies))
nearest = (x[0] @ stored.T).topk(10).indices.tolist()
print(f"this text is from {labels[0]}; its neighbours: {', '.join(known[i] for i in nearest)}")

# %% [markdown]
# For all texts at once, `F.one_hot` turns the neighbours' labels into votes:


# %%
def tf_idf():
    """Return TF-IDF vectors of the bodies and of the fitting bodies, from the tokens that the models read."""
    texts = [[body for _, body in part] for part in (fitting, pairs)]
    tokens = [[" ".join(map(str, ids)) for ids in tokenizer.encode_batch(part, max_len=64)] for part in texts]
    words = TfidfVectorizer(token_pattern=r"\d+", sublinear_tf=True, min_df=3)
    stored, x = words.fit_transform(tokens[0]), words.transform(tokens[1])
    return torch.tensor(x.toarray()).float(), torch.tensor(stored.toarray()).float()


def knn_votes(x, stored, stored_labels, labels, k=10):
    """x: (N, C), stored: (M, C), with a label each -> 1 where the k nearest of stored vote for the label of x, (N,)"""
    names = sorted(set(stored_labels))
    numbers, wanted = (torch.tensor([names.index(label) for label in part]) for part in (stored_labels, labels))
    nearest = (F.normalize(x, dim=-1) @ F.normalize(stored, dim=-1).T).topk(k).indices  # (N, k)
    votes = F.one_hot(numbers[nearest], len(names)).sum(1)  # (N, number of libraries)
    return (votes.argmax(1) == wanted).double()


vectors = {name: (bodies[name], fit_bodies[name]) for name in models} | {"TF-IDF": tf_idf()}
largest = max(set(known), key=known.count)
majority = labels.count(largest) / N
print(f"always saying {largest}: {majority:.3f}")
votes = {name: knn_votes(x, stored, known, labels) for name, (x, stored) in vectors.items()}
print({name: round(right.mean().item(), 3) for name, right in votes.items()})
gain = paired_bootstrap(votes["contrastive"], votes["masked"])
print("contrastive minus masked:", interval(votes["contrastive"], votes["masked"]))
assert votes["untrained"].mean() > majority + 0.1 and votes["TF-IDF"].mean() > votes["untrained"].mean() + 0.1
assert votes["masked"].mean() > votes["untrained"].mean() + 0.1 and -0.02 < gain[0] < 0.1
assert abs(votes["TF-IDF"].mean() - votes["masked"].mean()) < 0.06

# %% [markdown]
# **An untrained model is far above the majority**: a mean of random word vectors, mixed by random layers, is still a
# fingerprint of the words, and libraries use different words. TF-IDF is about as good as the masked model. So 0.8 has to be
# read beside these two, and not beside a coin. Contrastive training changes the vote by a few points at most; the interval
# tells whether the gain is larger than the chance of which texts we ask about, and with other fitting texts (another `seed`) it
# is sometimes not. Part of a gain may come from the pairs of a *name* and a text, which taught the model the names of
# libraries; to separate the two, you would have to train the same model without such pairs.

# %% [markdown]
# ### Exercise 11.4 · find the bug ●●○ · 8 minutes
#
# Sometimes there are no other texts to vote, and each text is judged by the rest: *leave one out*. This function gives the
# proportion of rows whose nearest **other** row, by cosine, has the same label. On the masked model's bodies nobody noticed
# anything. Then somebody centres the vectors, and a text that is the only one of its label counts as right:


# %% tags=["nbval-check-output"]
def buggy_leave_one_out(x, labels):
    """x: (N, C), labels: (N,) of whole numbers -> the proportion of rows whose nearest other row has their label"""
    unit = F.normalize(x, dim=-1)
    cosines = (unit @ unit.T).fill_diagonal_(0)
    return (labels[cosines.argmax(1)] == labels).float().mean()


four = torch.tensor([[1.0, 0.1], [1.0, 0.2], [1.0, -0.1], [-1.0, 0.3]])
print(buggy_leave_one_out(four, torch.tensor([0, 0, 0, 1])))

# %% [markdown]
# Only three of the four can be right. Repair it: return the proportion, as a number or a tensor of one number. No two cosines
# of a row are equal, no row is zero, and both arguments stay as they are.


# %% tags=["exercise-11.4"]
def leave_one_out(x, labels):
    """x: (N, C), labels: (N,) of whole numbers -> the proportion of rows whose nearest other row has their label"""
    ### BEGIN SOLUTION
    unit = F.normalize(x, dim=-1)
    cosines = (unit @ unit.T).fill_diagonal_(-torch.inf)  # 0 is larger than a negative cosine
    return (labels[cosines.argmax(1)] == labels).float().mean()
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.leave_one_out(leave_one_out)

# %% [markdown]
# **Silhouette.** kNN looks at the nearest few. The silhouette asks whether a text lies in its own group *as a whole* (Rousseeuw
# 1987). Let a be its mean distance to the others of its group, and b the smallest of its mean distances to the members of
# another group:
#
# $$s = \frac{b - a}{\max(a, b)}$$
#
# 1 is deep inside a tight cluster, 0 on a border, negative means nearer to another group than to its own. By hand for one text,
# with 1 − cosine as the distance:

# %%
unit = F.normalize(bodies["contrastive"], dim=-1)
distance = 1 - unit @ unit.T  # (N, N)
groups = {name: [i for i, label in enumerate(labels) if label == name] for name in sorted(set(labels))}
a = distance[0, [i for i in groups[labels[0]] if i != 0]].mean()
b = min(distance[0, rows].mean() for name, rows in groups.items() if name != labels[0])
by_sklearn = silhouette_samples(unit.numpy(), labels, metric="cosine")[0]
print(f"by hand {(b - a) / max(a, b):.4f}, by scikit-learn {by_sklearn:.4f}")
assert abs((b - a) / max(a, b) - by_sklearn) < 1e-4

# %% [markdown]
# Both measures are told the labels. A harder question: would somebody who does *not* know the libraries find them? **k-means**
# looks for K centres such that the rows lie close to their nearest centre. It makes this sum small:
#
# $$\sum_i \lVert x_i - c_{k(i)} \rVert^2, \qquad k(i) = \text{the number of the centre nearest to } x_i$$
#
# Lloyd's algorithm alternates two moves, and neither can make the sum larger: give each row to its nearest centre, then move
# each centre to the mean of its rows. One step by hand, for six numbers and two centres that both start on the left:

# %% tags=["nbval-check-output"]
numbers, two_centres = [1.0, 2.0, 3.0, 8.0, 9.0, 10.0], [1.0, 2.0]
for step in range(4):
    given = [min((0, 1), key=lambda k: (number - two_centres[k]) ** 2) for number in numbers]
    total = sum((number - two_centres[k]) ** 2 for number, k in zip(numbers, given, strict=True))
    print(f"step {step}: centres {[round(c, 2) for c in two_centres]}, labels {given}, sum {total:.2f}")
    for k in (0, 1):
        mine_of_k = [number for number, g in zip(numbers, given, strict=True) if g == k]
        two_centres[k] = sum(mine_of_k) / len(mine_of_k)

# %% [markdown]
# ### Exercise 11.5 · build k-means ●●● · 25 minutes
#
# Write Lloyd's algorithm as a function `k_means(x, centres, steps=100)`. x is `(N, C)`, and `centres` holds the K centres to
# start from, `(K, C)` in the dtype of x. One step is:
#
# 1. give each row the number of its nearest centre, by Euclidean distance; of equal distances the lower number;
# 2. move each centre to the mean of its rows. A centre without rows stays where it is.
#
# Make `steps` steps (`steps` is at least 1), or stop as soon as a step gives the same labels as the step before. Return a pair: the
# labels of the last step, `(N,)` of int64, and the centres after its move, `(K, C)` in the dtype of x. Both arguments stay as
# they are: the moved centres are new tensors. Write it in three steps:
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | one step, with a loop over the K centres if you like | stage 3, two steps |
# | 2 | the loop over the steps | stage 5, a group without rows |
# | 3 | the centre without rows | nothing more |


# %% tags=["exercise-11.5", "my-bert-geometry"]
def k_means(x, centres, steps=100):
    """x: (N, C), centres: (K, C) to start from -> labels (N,), centres (K, C)"""
    ### BEGIN SOLUTION
    labels = None
    for _ in range(steps):
        nearest = torch.cdist(x, centres).argmin(1)  # (N,)
        if labels is not None and torch.equal(nearest, labels):
            break
        labels = nearest
        members = F.one_hot(labels, len(centres)).to(x.dtype)  # (N, K)
        counts = members.sum(0)[:, None]  # (K, 1)
        centres = torch.where(counts > 0, members.T @ x / counts.clamp(min=1), centres)
    return labels, centres
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.k_means(k_means)

# %% [markdown]
# From here on, your function does the clustering:

# %% tags=["nbval-check-output"]
k_means = check.mine("11.5", k_means)

# %% [markdown]
# How well do the groups agree with the libraries? The numbers of the groups mean nothing, so accuracy will not do. The
# **adjusted Rand index** (ARI) looks at all pairs of texts: are they in one group, and in one library? It is shifted and scaled
# so that groups at random have 0 in the mean, and the same groups have 1 (Hubert and Arabie 1985).
#
# k-means finds *a* minimum, and which one depends on the start. Here are five starts, each from four random bodies of the
# contrastive model. The second number is the sum that k-means makes small; it needs no labels:


# %%
def from_random_rows(x, K, generator):
    """-> labels, and the sum of squared distances, from K random rows"""
    labels, centres = k_means(x, x[torch.randperm(len(x), generator=generator)[:K]])
    return labels, (x - centres[labels]).square().sum().item()


def best_of(x, K, generator, starts=60):
    """-> the labels with the smallest sum"""
    return min((from_random_rows(x, K, generator) for _ in range(starts)), key=lambda pair: pair[1])[0]


for i in range(5):
    groups_found, total = from_random_rows(unit, 4, seeded(seed, 10 + i))
    print(f"start {i}: agreement {adjusted_rand_score(labels, groups_found):.2f}, sum of squared distances {total:.2f}")

# %% [markdown]
# So start many times, here 60, and keep the smallest sum; choosing by the agreement would be cheating. Guess before you
# look: contrastive training changed the vote only a little. Will it change the agreement, and the silhouette?

# %%
clusters = {}
vectors["noise"] = noise["bodies"], noise["summaries"]
print(f"{'':<12}{'silhouette':>12}{'k-means ARI':>14}")
for i, (name, (x, _)) in enumerate(vectors.items()):
    x = F.normalize(x, dim=-1)
    groups_found = best_of(x, 4, seeded(seed, 20 + i))
    silhouette = float(silhouette_score(x.numpy(), labels, metric="cosine"))
    clusters[name] = {
        "silhouette": silhouette,
        "ari": adjusted_rand_score(labels, groups_found),
        "groups": groups_found,
    }
    print(f"{name:<12}{silhouette:12.3f}{clusters[name]['ari']:14.3f}")
ari = {name: row["ari"] for name, row in clusters.items()}
assert ari["contrastive"] > ari["masked"] + 0.1 and ari["masked"] > ari["untrained"] + 0.05
assert abs(ari["noise"]) < 0.02 and ari["contrastive"] > ari["TF-IDF"] + 0.1
assert abs(clusters["contrastive"]["silhouette"] - clusters["masked"]["silhouette"]) < 0.04

# %% [markdown]
# Three measures, three answers about the same two models. The vote of the neighbours changes by a few points, the silhouette
# stays where it was, and the groups that k-means finds *without any labels* agree with the libraries far better after
# contrastive training. Which one is right? They answer different questions: about the nearest ten, about whole groups whose
# borders are given, and about the broad directions in which texts differ. And this is one pair of models, not a law about
# contrastive training; its pairs with names may have helped here too.
#
# Here are the four groups of the contrastive model, by library:

# %%
names = sorted(set(labels))
print(" " * 12 + "".join(f"group {k}".rjust(10) for k in range(4)))
for name in names:
    inside = clusters["contrastive"]["groups"][[i for i, label in enumerate(labels) if label == name]]
    counts = torch.bincount(inside, minlength=4).tolist()
    print(f"{name:<12}" + "".join(f"{count:10}" for count in counts))

# %% [markdown]
# ## 9. The pictures
#
# How do you draw 192 dimensions? **PCA** takes the two axes along which the vectors vary most. You have them already: they are
# the last two eigenvectors of section 4 (of training texts, summaries and bodies together). It is a projection, so two
# different things may fall on one point. **t-SNE** (van der Maaten and Hinton 2008) tries to place the points so that near
# neighbours in the space are near in the picture, and gives up everything else for it.

# %%
sample = torch.randperm(N, generator=seeded(seed, 6))[:400]
sample_labels = [labels[i] for i in sample.tolist()]
pictures = {}
for name in models:
    x = F.normalize(bodies[name][sample], dim=-1)
    pictures[name] = torch.tensor(TSNE(init="pca", random_state=seed).fit_transform(x.numpy()))  # perplexity 30
    drawn = best_of(pictures[name], 4, seeded(seed, 30))
    print(
        f"{name:<12} silhouette: vectors {silhouette_score(x.numpy(), sample_labels, metric='cosine'):.3f}, picture "
        f"{silhouette_score(pictures[name], sample_labels):.3f}; k-means ARI: vectors "
        f"{adjusted_rand_score(sample_labels, best_of(x, 4, seeded(seed, 31))):.3f}, picture "
        f"{adjusted_rand_score(sample_labels, drawn):.3f}"
    )

# %% [markdown]
# The pictures below show these 400 texts. The numbers above each column were measured in the vectors of all texts, not in the
# picture.

# %% tags=["hide-input"]
colours = {"torch": plots.BLUE, "numpy": plots.ORANGE, "matplotlib": plots.GREEN, "python": plots.PINK}
same_library = torch.tensor([[a == b for b in sample_labels] for a in sample_labels])  # (400, 400)
seen = {}
fig, axes = plots.figure(2, 3, size=(8.0, 5.4))
for column, name in enumerate(models):
    shadow = (bodies[name][sample] - fit_bodies[name].mean(0)) @ directions[name][:, -2:]  # (400, 2)
    proportion = variances[name][-2:].sum() / variances[name].sum()
    drawn = {"PCA": shadow, "t-SNE": pictures[name]}
    for ax, (how, points) in zip(axes[:, column], drawn.items(), strict=True):
        nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)  # in the picture
        seen[name, how] = same_library[range(len(points)), nearest].float().mean()
        for lib, colour in colours.items():
            rows = [i for i, label in enumerate(sample_labels) if label == lib]
            ax.scatter(points[rows, 0], points[rows, 1], s=6, color=colour, label=lib, linewidths=0)
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0, column].set_title(f"{name}\nkNN {votes[name].mean():.2f}, ARI {ari[name]:.2f} in the vectors", fontsize=8.5)
    axes[0, column].set_xlabel(f"two axes, {proportion:.0%} of the variance")
    axes[1, column].set_xlabel("t-SNE has no unit")
axes[0, 0].set_ylabel("PCA")
axes[1, 0].set_ylabel("t-SNE")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5, markerscale=2)
fig.suptitle("Trained models: t-SNE shows regions where two PCA axes show a mixture", x=0.01, ha="left")
plots.show(
    fig,
    alt="400 bodies in PCA and t-SNE pictures of three models, coloured by library: mixed for untrained; in regions "
    "for masked and contrastive in t-SNE, overlapping in PCA.",
)
assert all(seen[name, "t-SNE"] > seen[name, "PCA"] + 0.1 for name in ("masked", "contrastive"))

# %% [markdown]
# Now go into a picture: the 400 bodies before and after contrastive training, each with its summary. Point at a text; its five
# nearest neighbours are those in the 192 dimensions. Find one that lies in another library's region: are its neighbours on the
# map its neighbours in the vectors? Then move the slider. Do the neighbours get better?

# %%
before_and_after = ("masked", "contrastive")
view = EmbeddingExplorer(
    {name: pictures[name].numpy() for name in before_and_after},
    sample_labels,
    [pairs[i][0] for i in sample.tolist()],
    vectors={name: bodies[name][sample] for name in before_and_after},
    title="Are the neighbours on the map the neighbours in the vectors?",
)
show(view, alt="400 bodies by t-SNE, masked and contrastive, coloured by library: in regions that touch, for both.")

# %% [markdown]
# The cosines are smaller after training, because the whole space is less narrow: do not compare cosines between two models.
# Whether the neighbours fit better in *meaning* you have to read.

# %% [markdown]
# ## 10. What t-SNE invents
#
# Does the picture of a space without any clusters show none? There is such a space: noise. Take four hundred random vectors in
# 192 dimensions; no two of them are much nearer to each other than the rest. t-SNE has a setting, the **perplexity**: about how
# many neighbours each point should care for. Its authors name 5 to 50 as typical; 30 is scikit-learn's default. Both pictures
# here start from random points, because a start from PCA (scikit-learn's default, and ours above) keeps more of the broad
# layout (Kobak and Linderman 2021), and noise has none. Guess what you will see at 5 and at 30.

# %%
points = F.normalize(noise["bodies"][:400], dim=-1)
flat = {p: TSNE(perplexity=p, init="random", random_state=seed).fit_transform(points.numpy()) for p in (5, 30)}
flat = {p: torch.tensor(picture) for p, picture in flat.items()}
angle, radius = (torch.rand(400, generator=seeded(seed, n)) for n in (3, 4))
disc = torch.stack([angle.mul(2 * math.pi).cos(), angle.mul(2 * math.pi).sin()], 1) * radius.sqrt()[:, None]
flat["scattered"] = disc  # evenly at random in a disc


def crowding(points):
    """The mean distance to the nearest neighbour, in units of the mean distance from the middle."""
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)  # (N, N)
    return (distances.min(1).values.mean() / (points - points.mean(0)).norm(dim=1).mean()).item()


crowd = {name: crowding(picture) / crowding(flat["scattered"]) for name, picture in flat.items()}
print({name: round(value, 2) for name, value in crowd.items()})
groups_of = {name: best_of(picture, 8, seeded(seed, 40), starts=10) for name, picture in flat.items()}
assert crowd[5] < 0.75 and crowd[30] > crowd[5] + 0.2

# %% [markdown]
# The printed number is the mean distance to the nearest neighbour, relative to the size of the picture, where 1 is what points
# scattered at random in a disc have. We also ask your k-means, which always finds as many groups as it is told, for eight:

# %% tags=["hide-input"]
palette = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, plots.SKY, plots.RED, plots.YELLOW, plots.GREY]
fig, axes = plots.figure(1, 3, size=(8.0, 3.2))
titles = {5: "noise, perplexity 5", 30: "noise, perplexity 30", "scattered": "scattered in a disc"}
for ax, (name, picture) in zip(axes, flat.items(), strict=True):
    ax.scatter(picture[:, 0], picture[:, 1], s=6, c=[palette[g] for g in groups_of[name]], linewidths=0)
    ax.set_title(titles[name], fontsize=10, weight="normal")
    ax.set_xlabel(f"silhouette of the colours {silhouette_score(picture, groups_of[name]):.2f}")
    ax.set_xticks([])
    ax.set_yticks([])
fig.suptitle("t-SNE draws noise in clumps at perplexity 5", x=0.01, ha="left")
plots.show(
    fig,
    alt="t-SNE of random vectors: small clumps and strings at perplexity 5, a disc at perplexity 30; beside them "
    "points scattered in a disc. Each is coloured in eight groups.",
)

# %% [markdown]
# t-SNE made the clumps of the first picture; the vectors have none. And the eight colours? In each picture their silhouette is
# far higher than that of the real libraries in section 8, and the plain scattered points have it too, because k-means cuts any
# plane into compact pieces. Now the eight groups of the first picture, measured in the vectors:

# %%
in_picture = silhouette_score(flat[5], groups_of[5])
in_vectors = silhouette_score(points, groups_of[5])
print(f"eight groups found in the picture of noise: silhouette {in_picture:.2f} there, {in_vectors:.3f} in the vectors")
assert min(silhouette_score(picture, groups_of[name]) for name, picture in flat.items()) > 0.25
assert 0.25 > clusters["contrastive"]["silhouette"] + 0.1 and abs(in_vectors) < 0.02

# %% [markdown]
# So measure in the *vectors*, and let the picture illustrate what the numbers have shown. In a t-SNE picture, read neither the
# size of an island, nor the distance between two, nor their number (Wattenberg, Viégas and Johnson 2016). What it tries to keep
# is the near neighbours. How well does it, on texts and on noise?


# %%
def neighbours(points, k=10):
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)  # (N, N)
    return distances.topk(k, largest=False).indices.tolist()


def kept(vectors, picture):
    """The proportion of each point's ten nearest in the vectors that are among its ten nearest in the picture."""
    both = zip(neighbours(vectors), neighbours(picture), strict=True)
    return sum(len(set(a) & set(b)) for a, b in both) / (10 * len(vectors))


kept_of = {name: kept(F.normalize(bodies[name][sample], dim=-1), pictures[name]) for name in models}
kept_of["noise"] = kept(points, flat[30])
print("of the ten nearest stay among the ten nearest:", {name: f"{part:.0%}" for name, part in kept_of.items()})
print(f"by chance: {10 / 399:.1%}")
assert min(kept_of[name] for name in models) > kept_of["noise"] + 0.05 > 0.1 and max(kept_of.values()) < 0.5

# %% [markdown]
# The pictures of the texts keep more than that of noise does, and even so they lose more than half. A picture in two dimensions
# is a good place to get ideas, and no place to prove them.

# %% [markdown]
# ## What to remember
#
# * **Anisotropy** is the mean cosine of different texts, nearly the squared length of the mean unit vector. One rogue feature
#   can make much of it. **Alignment** asks whether partners are close, **uniformity** whether the sphere is evenly used. Alone,
#   each is satisfied by something useless.
# * Queries and documents can have different means: centre each side with its own, and measure. Many hubs, texts that are near
#   to nearly every query, are a sign that it may help.
# * Whitening is better when it is fitted on more texts. Here it helped the untrained model at every size, with 1,200 texts a
#   side left the masked one where it was, and hurt the contrastive one. Fit it on training texts, and measure.
# * In these ten spaces, no measure that does without pairs predicted search quality. How far the partner stands from the
#   strangers did, and it looks at the pairs.
# * A bag of words cannot tell who did what to whom. An encoder learned it from hard negatives from either start; *without*
#   them only the pretrained encoder did.
# * Measure clusters **in the vectors**, beside the majority, an untrained model and TF-IDF. Measures disagree, because they ask
#   different questions. k-means and t-SNE find groups in noise too.

# %% [markdown]
# **What this scale cannot show.** Ten spaces from three small models and one kind of text are too few for a law about
# anisotropy. The masked and the contrastive model are one checkpoint each. That whitening does not help the masked model here
# says nothing about BERT on everyday sentences, where it was reported to help. And the role-swap test lives in a language of
# four templates.

# %% [markdown]
# **What the field did since.** Liang et al. (2022) traced the offset of the two sides to the cone of a random initialisation
# together with the contrastive loss, in models of images and texts; Fahim, Murphy and Fyshe (2024) find it with one modality
# too, and close it by adding uniformity and alignment to the loss. Steck, Ekanadham and Kallus (2024) show for linear models
# that regularisation can make cosines arbitrary, and advise against using them blindly. For pictures, UMAP (McInnes, Healy and
# Melville 2018) is as common as t-SNE now; Kobak and Linderman (2021) found that its reputation of keeping the broad layout
# better came from its start, not from its algorithm.

# %% [markdown]
# **An open problem.** Can you tell from the vectors alone, without any labelled pair, whether a space is good for search?
# Garrido et al. (2022) found the effective rank good enough to choose among runs of one method for self-supervised image
# models. Across our ten spaces it failed, as it must with noise, whose rank is full, and with whitening, which raises the rank
# of any space. A measure of *how much* the vectors say cannot know *what* they say. Which measure would survive whitening and
# noise?

# %% [markdown]
# **Where this comes from**
#
# * Tongzhou Wang and Phillip Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity on the
#   Hypersphere*, 2020, [arXiv:2005.10242](https://arxiv.org/abs/2005.10242).
# * Kawin Ethayarajh, *How Contextual are Contextualized Word Representations?*, 2019,
#   [arXiv:1909.00512](https://arxiv.org/abs/1909.00512): anisotropy as the mean cosine, of words in context.
# * William Timkey and Marten van Schijndel, *All Bark and No Bite: Rogue Dimensions in Transformer Language Models Obscure
#   Representational Quality*, 2021, [arXiv:2109.04404](https://arxiv.org/abs/2109.04404).
# * Jianlin Su et al., *Whitening Sentence Representations for Better Semantics and Faster Retrieval*, 2021,
#   [arXiv:2103.15316](https://arxiv.org/abs/2103.15316); Tianyu Gao, Xingcheng Yao and Danqi Chen, *SimCSE*, 2021,
#   [arXiv:2104.08821](https://arxiv.org/abs/2104.08821): the numbers on STS.
# * Miloš Radovanović, Alexandros Nanopoulos and Mirjana Ivanović, *Hubs in Space*, Journal of Machine Learning Research 11,
#   2010.
# * Weixin Liang et al., *Mind the Gap*, 2022, [arXiv:2203.02053](https://arxiv.org/abs/2203.02053); Abrar Fahim, Alex Murphy
#   and Alona Fyshe, *It's Not a Modality Gap*, 2024, [arXiv:2405.18570](https://arxiv.org/abs/2405.18570).
# * Quentin Garrido et al., *RankMe*, 2022, [arXiv:2210.02885](https://arxiv.org/abs/2210.02885); Harald Steck, Chaitanya
#   Ekanadham and Nathan Kallus, *Is Cosine-Similarity of Embeddings Really About Similarity?*, 2024,
#   [arXiv:2403.05440](https://arxiv.org/abs/2403.05440).
# * Peter J. Rousseeuw, *Silhouettes*, Journal of Computational and Applied Mathematics 20, 1987; Lawrence Hubert and Phipps
#   Arabie, *Comparing Partitions*, Journal of Classification, 1985.
# * Laurens van der Maaten and Geoffrey Hinton, *Visualizing Data using t-SNE*, Journal of Machine Learning Research 9, 2008;
#   Martin Wattenberg, Fernanda Viégas and Ian Johnson, *How to Use t-SNE Effectively*, Distill, 2016,
#   [doi:10.23915/distill.00002](https://doi.org/10.23915/distill.00002).
# * Dmitry Kobak and George Linderman, *Initialization is critical for preserving global data structure in both t-SNE and UMAP*,
#   Nature Biotechnology, 2021, [doi:10.1038/s41587-020-00809-z](https://doi.org/10.1038/s41587-020-00809-z); Leland McInnes,
#   John Healy and James Melville, *UMAP*, 2018, [arXiv:1802.03426](https://arxiv.org/abs/1802.03426).
#
# **Next:** lesson 12 builds a search engine out of all this, and starts with the methods that are hard to beat.
