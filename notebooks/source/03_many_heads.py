# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Many heads
#     question: How can a word look at several things at once?
#     minutes: 60
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 03 · Many heads
#
# > the cook near the ovens **praises** the waiters in the kitchen
#
# *praises* needs two words: *cook*, who does it, and *waiters*, who get it. In lesson 02 a word had one row of weights. It
# can put half on each, but what it reads is then one blend of both, and the blend does not say who was who.
#
# **The question of this lesson:** how can a word look at several things at once?
#
# | | |
# |---|---|
# | You will | build multi-head attention, from a loop over heads to one packed matrix; find it equal to PyTorch's; and train a task that one head of attention cannot do and two can |
# | You need | lesson 02, attention |
# | It takes | about 60 minutes, five exercises; the machine needs half a minute |
#
# What we are after, two arcs that stay apart:

# %%
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import COURSE_SENTENCE, plots, scaled_dot_product_attention, stored_table
from nextbert_lite.checks import lesson_03 as check

seed = int(os.environ.get("NEXTBERT_SEED", 0))
words = COURSE_SENTENCE.split()
verb, who, whom = (words.index(word) for word in ("praises", "cook", "waiters"))
wanted = torch.zeros(len(words))
wanted[[who, whom]] = 0.5
fig = plots.attention_from(wanted, words, verb, title="Who, and whom: two arcs from one word")
plots.show(
    fig,
    alt="Two arcs from praises, one to cook on the left and one to waiters on the right, each with half the weight.",
)

# %% [markdown]
# ## 1. One row is one blend
#
# Let *praises* put half of its weight on *cook* and half on *waiters*, and exchange the two words. Does it notice? Guess
# first. Every word has a random vector here; only the row of weights is ours.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(seed)
vector = {word: torch.randn(8, generator=generator) for word in words}
row = torch.zeros(len(words))
row[[who, whom]] = 0.5

values = torch.stack([vector[word] for word in words])  # (T, D)
swapped = list(words)
swapped[who], swapped[whom] = words[whom], words[who]
values_swapped = torch.stack([vector[word] for word in swapped])

torch.testing.assert_close(row @ values, row @ values_swapped)
print("reads the same from:", " ".join(words), "| and:", " ".join(swapped))

# %% [markdown]
# It does not notice. A sum has no order. (Position vectors do not help: the sum of word and position vectors is the same
# after the exchange.) Unequal weights would help a little, 0.6 and 0.4, but then *who* and *whom* are told apart by a
# shade. Better: two rows of weights, and the two results kept side by side. Each row is made by a **head**,
# with queries, keys and values of its own.
#
# ## 2. A loop over heads
#
# For H heads, cut the model's width C into H slices of D = C / H features (H must divide C). Head h has its own three
# matrices, C × D each. It attends as in lesson 02, dividing by √D, and gives D numbers for each token. The heads' outputs are put side by side (C again), and one
# last matrix mixes them:
#
# $$\mathrm{head}_h = \mathrm{Attention}(x W^Q_h,\; x W^K_h,\; x W^V_h), \qquad
# \mathrm{MultiHead}(x) = [\mathrm{head}_1; \ldots; \mathrm{head}_H]\, W^O$$

# %%
B, T, C, H = 2, 5, 12, 3
D = C // H
x = torch.randn(B, T, C, generator=generator)
W_query, W_key, W_value = torch.randn(3, H, C, D, generator=generator) / math.sqrt(C)  # each (H, C, D)
W_out = torch.randn(C, C, generator=generator) / math.sqrt(C)

heads = []
for h in range(H):
    head, _ = scaled_dot_product_attention(x @ W_query[h], x @ W_key[h], x @ W_value[h])
    heads.append(head)  # (B, T, D)
by_loop = torch.cat(heads, dim=-1) @ W_out  # (B, T, C)
print("a head:", tuple(heads[0].shape), " all together:", tuple(by_loop.shape))
print("token 0 begins", [round(n, 4) for n in by_loop[0, 0, :3].tolist()])

# %% [markdown]
# ## 3. One product for all heads
#
# The loop makes 3 H small products. Put the matrices side by side and it is one large product, C → 3C, and a machine likes
# one large product better than many small ones. Its result is then *cut* into queries, keys and values, and each of those into heads. Cutting
# costs nothing: `view` only reads the same numbers with other indices.

# %%
packed = torch.cat([W[h] for W in (W_query, W_key, W_value) for h in range(H)], dim=1)  # (C, 3C)
qkv = x @ packed
shapes = [("x", x), ("x @ packed", qkv)]
qkv = qkv.view(B, T, 3, H, D)  # which of q, k, v; which head; which of its features
shapes.append(("view", qkv))
q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (3, B, H, T, D): the 3 to the front, H before T
shapes.append(("permute, then q", q))
heads, _ = scaled_dot_product_attention(q, k, v)
shapes.append(("attention", heads))
side_by_side = heads.transpose(1, 2).reshape(B, T, C)
shapes.append(("side by side", side_by_side))
by_product = side_by_side @ W_out
for name, tensor in shapes:
    print(f"{name:>16} {tuple(tensor.shape)}")

print("token 0 begins", [round(n, 4) for n in by_product[0, 0, :3].tolist()])
torch.testing.assert_close(by_product, by_loop)

# %% [markdown]
# The same numbers. Here is what happened to one token's C features:

# %%
fig, ax = plots.figure(size=(8.0, 2.7))
colours = [plots.BLUE, plots.ORANGE, plots.GREEN]
rows = {
    "x: C features": (2, C, "#CCCCCC"),
    "x @ packed: 3C": (1, 3 * C, None),
    "q, k, v of each head": (0, 3 * C, None),
}
for label, (y, width, colour) in rows.items():
    ax.text(-0.8, y + 0.3, label, ha="right", va="center")
    for i in range(width):
        head = i % C // D
        gap = (0.6 * (i // C) + 0.25 * (i // D)) if y == 0 else 0
        shade = colour or colours[head]
        ax.add_patch(plots.plt.Rectangle((i + gap, y), 0.9, 0.6, color=shade, alpha=0.9 if y < 2 else 1))
for part, name in enumerate(["queries", "keys", "values"]):
    ax.text(part * (C + 0.6 + 0.75) + C / 2, -0.35, name, ha="center", va="center", color=plots.GREY)
ax.set(xlim=(-10, 3 * C + 5), ylim=(-0.6, 2.8))
ax.set_axis_off()
ax.set_title("One product, then only cuts: a colour is a head")
plots.show(
    fig,
    alt="A token's features as boxes: one row of 12, a row of 36 after the product, then cut into queries, keys and values, each of three heads.",
)

# %% [markdown]
# ### Exercise 03.1 · split into heads ●●○ · 8 minutes
#
# Cut `(B, T, C)` into `(B, H, T, D)`. Head 0 gets each token's first D features. Careful: there is a wrong way with the
# right shape.


# %% tags=["exercise-03.1"]
def split_heads(x, H):
    """x: (B, T, C) -> (B, H, T, D)"""
    ### BEGIN SOLUTION
    B, T, C = x.shape
    return x.view(B, T, H, C // H).transpose(1, 2)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.split_heads(split_heads)

# %% [markdown]
# ### Exercise 03.2 · and back ●○○ · 5 minutes
#
# Put the heads side by side again.


# %% tags=["exercise-03.2"]
def merge_heads(heads):
    """heads: (B, H, T, D) -> (B, T, C) with C = H · D"""
    ### BEGIN SOLUTION
    B, H, T, D = heads.shape
    return heads.transpose(1, 2).reshape(B, T, H * D)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.merge_heads(merge_heads)

# %% [markdown]
# ### Exercise 03.3 · predict the result ●○○ · 3 minutes
#
# A model of width C = 64 goes from one head to eight. By which **factor** does the number of parameters of its attention
# grow?

# %% tags=["exercise-03.3"]
growth = None
### BEGIN SOLUTION
growth = 1.0  # the packed matrix stays C × 3C, the output matrix C × C: only the cuts change
### END SOLUTION

# %% tags=["nbval-check-output"]
check.parameters(growth)

# %% [markdown]
# ## 4. The module
#
# ### Exercise 03.4 · build multi-head attention ●●● · 30 minutes
#
# Put it together as a module. It has two linear layers with a bias: `qkv`, C → 3C, whose output holds all queries, then all
# keys, then all values, each with head 0's D features first; and `out`, C → C, which mixes the heads. Besides `x` it takes
#
# * `mask`, boolean, with four dimensions that broadcast to (B, H, T, T): True means *may be attended to*. A token that may
#   attend to nothing gets zeros from every head;
# * `return_weights`: True returns the weights too, (B, H, T, T), before dropout; False returns None in their place.
#
# In training, and only then, dropout acts on the attention weights with the probability `dropout`. You may call
# `scaled_dot_product_attention`, or torch's `F.scaled_dot_product_attention`, which is faster and gives no weights.
# The check goes in stages: write the plain case first, run it, go on.

# %%
from nextbert_lite.validate import check_attention, check_heads


# %% tags=["exercise-03.4", "my-bert-attention"]
class MultiHeadAttention(nn.Module):
    """H attentions side by side, each in its own slice of D = C / H features."""

    def __init__(self, C, H, dropout=0.0):
        super().__init__()
        ### BEGIN SOLUTION
        check_heads(C, H)
        self.H = H
        self.dropout = dropout
        self.qkv = nn.Linear(C, 3 * C)  # queries, keys and values of all heads in one product
        self.out = nn.Linear(C, C)
        ### END SOLUTION

    def forward(self, x, mask=None, return_weights=False):
        """x: (B, T, C) -> (B, T, C) and, if asked for, the weights (B, H, T, T), else None."""
        ### BEGIN SOLUTION
        mask = check_attention(x, mask, self.H, self.qkv.weight)
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        if return_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, mask, dropout)
        else:
            heads, weights = F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        return self.out(heads.transpose(1, 2).reshape(B, T, C)), weights
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.multi_head_attention(MultiHeadAttention)

# %% [markdown]
# The rest of the lesson uses your class if it passes, and the course's if not:

# %% tags=["nbval-check-output"]
MultiHeadAttention = check.mine("03.4", MultiHeadAttention)

# %% [markdown]
# Is it PyTorch's? `nn.MultiheadAttention` packs the three matrices in the same order. With its weights copied, and one text
# shorter than the other (note that its mask means the opposite of ours):

# %% tags=["nbval-check-output"]
torch.manual_seed(seed)
ours = MultiHeadAttention(C, H).double()
torchs = nn.MultiheadAttention(C, H, batch_first=True).double()
torchs.load_state_dict(
    {
        "in_proj_weight": ours.qkv.weight,
        "in_proj_bias": ours.qkv.bias,
        "out_proj.weight": ours.out.weight,
        "out_proj.bias": ours.out.bias,
    }
)
real = torch.arange(T) < torch.tensor([5, 3])[:, None]  # (B, T), True: a real token
x64 = x.double()
y, weights = ours(x64, real[:, None, None, :], return_weights=True)
expected, expected_weights = torchs(x64, x64, x64, key_padding_mask=~real, average_attn_weights=False)
torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
torch.testing.assert_close(weights, expected_weights, rtol=1e-10, atol=1e-10)
fused, _ = ours(x64, real[:, None, None, :])
torch.testing.assert_close(fused, y, rtol=1e-10, atol=1e-10)
print("equal to nn.MultiheadAttention, output and weights; fused and open path equal")

# %% [markdown]
# What it costs, by formula and counted. The projections are $4C^2$ weights and $4C$ biases, whatever H is. The work for a
# text is $4TC^2$ products for the projections and $2T^2C$ for scores and blends: long texts pay for the second.

# %% tags=["nbval-check-output"]
for heads_now in (1, 2, 4, 8):
    counted = sum(p.numel() for p in MultiHeadAttention(64, heads_now).parameters())
    print(f"C = 64, H = {heads_now}: {counted:,} parameters; by formula {4 * 64**2 + 4 * 64:,}")
    assert counted == 4 * 64**2 + 4 * 64
longer = 2 * 64  # 4 T C² = 2 T² C at T = 2C
print(f"scores cost as much as projections at T = 2C = {longer}")
assert 4 * longer * 64**2 == 2 * longer**2 * 64

# %% [markdown]
# ## 5. A task that one head cannot do
#
# Rows of 16 random letters. At each place the model must name **both neighbours**, the letter before and the letter after.
# The model is one attention layer, nothing else: letter and place vectors in, attention, and a linear read-out for each of
# the two answers.

# %% tags=["nbval-check-output"]
letters = "abcdefghijklmnop"
example = torch.randint(16, (16,), generator=torch.Generator().manual_seed(3)).tolist()
print("text:  ", " ".join(letters[i] for i in example))
print("before:", " ".join(["·"] + [letters[i] for i in example[:-2]] + ["·"]))
print("after: ", " ".join(["·"] + [letters[i] for i in example[2:]] + ["·"]))


# %%
class Neighbours(nn.Module):
    """One attention layer that reads off the token before and the token after."""

    def __init__(self, H, C=64, V=16, T=16):
        super().__init__()
        self.V = V
        self.tokens, self.places = nn.Embedding(V, C), nn.Embedding(T, C)
        nn.init.normal_(self.tokens.weight, std=0.5)
        nn.init.normal_(self.places.weight, std=0.5)
        self.attention = MultiHeadAttention(C, H)
        self.read = nn.Linear(C, 2 * V)

    def forward(self, ids):
        """ids: (B, T) -> scores (B, T - 2, 2, V) at the inner places, attention weights (B, H, T, T)."""
        x = self.tokens(ids) + self.places.weight
        y, weights = self.attention(x, return_weights=True)
        return self.read(y)[:, 1:-1].unflatten(-1, (2, self.V)), weights  # 2V numbers become (2, V)

    def loss(self, ids):
        scores, _ = self(ids)
        return F.cross_entropy(scores.flatten(0, 2), answers(ids).flatten())


def answers(ids):
    """Return the tokens before and after each inner place, (B, T - 2, 2)."""
    return torch.stack([ids[:, :-2], ids[:, 2:]], dim=2)


# %% [markdown]
# One, two and four heads, the same number of parameters, the same data and steps. What do you expect of one head: both half
# right, or one right and the other not at all?

# %%
from nextbert_lite import fit


def random_texts(n, *seeds):
    from nextbert_lite import seeded

    return torch.randint(16, (n, 16), generator=seeded(*seeds))


results_heads, trained = [], {}
test_ids = random_texts(500, seed, 10**6)
for H in (1, 2, 4):
    torch.manual_seed(seed)
    model = Neighbours(H)
    fit(model, lambda step: {"ids": random_texts(64, seed, step)}, steps=400, lr=3e-3, warmup=20)
    trained[H] = model.cpu()
    with torch.no_grad():
        right = model(test_ids)[0].argmax(-1) == answers(test_ids)  # (B, T - 2, 2)
    before, after = right.float().mean(dim=(0, 1)).tolist()
    results_heads.append(
        {"seed": seed, "heads": H, "before": before, "after": after, "both": right.all(-1).float().mean().item()}
    )

for r in results_heads:
    print(f"{r['heads']} heads: before {r['before']:.2f}, after {r['after']:.2f}, both {r['both']:.2f}")
sizes = {sum(p.numel() for p in model.parameters()) for model in trained.values()}
print("parameters:", sizes)
assert len(sizes) == 1
assert results_heads[0]["both"] < 0.2 and min(results_heads[1]["both"], results_heads[2]["both"]) > 0.98

# %% [markdown]
# One head gets one neighbour right always and fails at the other. Two heads get both. One run is an anecdote; here is the
# table over three seeds that is stored with the course, with the command that made it. Which of the two neighbours the one
# head gets depends on its random start:

# %% tags=["nbval-check-output"]
table = stored_table("03_heads")
print("seed  heads  before  after  both")
for r in table:
    print(
        f"{r['seed']:>4}  {r['heads']:>5}  {float(r['before']):6.2f} {float(r['after']):6.2f} {float(r['both']):5.2f}"
    )
assert all((float(r["both"]) > 0.98) == (int(r["heads"]) > 1) for r in table)

# %% [markdown]
# What does the one head answer when it is wrong?

# %%
with torch.no_grad():
    scores = trained[1](test_ids)[0]  # (B, T - 2, 2, V)
said, wanted = scores.argmax(-1), answers(test_ids)
same = (said[..., 0] == said[..., 1]).float().mean().item()
twins = (wanted[..., 0] == wanted[..., 1]).float().mean().item()
top_two = scores.topk(2).indices  # its two best letters for each of the two questions
known = ((top_two == wanted[..., :1, None]).any(-1) & (top_two == wanted[..., 1:, None]).any(-1)) | (
    wanted[..., :1] == wanted[..., 1:]
)
print(f"the same letter for both questions: {same:.2f}")
print(f"both neighbours among its two best letters: {known.float().mean():.2f}")
print(f"places whose neighbours are the same letter: {twins:.2f}")
assert same > 0.9 and known.float().mean() > 0.9

# %% [markdown]
# It *knows* both letters, and gives the same one for both questions: it is right about the other neighbour only where the two
# are the same letter anyway. Look at where the heads look, averaged over 500 texts. The diagonal just below the middle is the token before, the one
# just above it the token after.

# %%
with torch.no_grad():
    mean_weights = {H: trained[H](test_ids)[1].mean(dim=0) for H in (1, 2)}  # (H, T, T)
maps = [mean_weights[1][0], *mean_weights[2]]
fig, axes = plots.figure(1, 3, size=(8.0, 3.2), sharey=True)
for ax, weights, name in zip(axes, maps, ["one head", "two heads: first", "two heads: second"], strict=True):
    image = ax.imshow(weights, vmin=0, vmax=1)
    ax.set_title(name, fontsize=10, weight="normal")
    ax.set(xlabel="looks at (place)", xticks=range(0, 16, 5), yticks=range(0, 16, 5))
axes[0].set(ylabel="looks from (place)")
fig.colorbar(image, ax=axes, shrink=0.75, label="mean attention weight")
fig.suptitle("One head blends both neighbours, two heads take one each", x=0.01, ha="left")
plots.show(
    fig,
    alt="Three maps: one head with two pale diagonals, and two heads with one dark diagonal each, before and after.",
)


def on_neighbours(weights):
    """Return the mean weight on the token before and on the token after."""
    return weights[1:-1].diagonal(0).mean().item(), weights[1:-1].diagonal(2).mean().item()


for name, weights in zip(["one head", "first of two", "second of two"], maps, strict=True):
    print(f"{name:>13}: before {on_neighbours(weights)[0]:.2f}, after {on_neighbours(weights)[1]:.2f}")
one = on_neighbours(maps[0])
assert min(one) > 0.3 and max(max(on_neighbours(w)) for w in maps[1:]) > 0.75

# %% [markdown]
# The one head looks at both neighbours, at one a little more. Its blend tells *which* two letters stand beside it, and the
# heavier one wins, for both questions. The two heads divide the work, nobody told them how, and because their outputs stand
# side by side, nothing is lost. (Rows 0 and 15 have only one neighbour and are not scored.)
#
# (The claim is about the attention layer alone. A feed-forward network behind it, lesson 04, can take an unequal blend apart.)
#
# Four heads were no better than two. What do they do with two neighbours? Here they are on one text. Choose each head in turn, and point
# at letters in the middle. Does one head do nothing, or do several share a neighbour?

# %%
from nextbert_lite import AttentionExplorer, show

with torch.no_grad():
    _, four = trained[4](torch.tensor([example]))  # (1, H, T, T)
view = AttentionExplorer(
    [letters[i] for i in example], four[0], token=7, title="Four heads, two neighbours: who looks where?"
)
show(
    view,
    alt="Four maps of sixteen letters, to be chosen; one of them large, with the weights of the eighth letter as arcs.",
)

# %% [markdown]
# Over all test texts, the weight that each head has on the token before and on the one after:

# %%
with torch.no_grad():
    of_four = [on_neighbours(weights) for weights in trained[4](test_ids)[1].mean(dim=0)]
for number, (before, after) in enumerate(of_four, 1):
    print(f"head {number}: before {before:.2f}, after {after:.2f}")
assert max(before for before, _ in of_four) > 0.5 and max(after for _, after in of_four) > 0.5

# %% [markdown]
# Both neighbours are covered; how the four divide them is an accident of the random start.
#
# ### Exercise 03.5 · find the bug ●●○ · 8 minutes
#
# `nn.MultiheadAttention(C, H)` was built without `batch_first=True`. The call runs, the shapes look right:


# %%
def buggy_self_attend(module, x):
    """x: (B, T, C)"""
    y, _ = module(x, x, x, need_weights=False)
    return y


torch.manual_seed(seed)
module = nn.MultiheadAttention(8, 2)
texts = torch.randn(3, 6, 8, generator=generator)
other = texts.clone()
other[1] = 0.0  # another text of the batch changes
change = (buggy_self_attend(module, other)[0] - buggy_self_attend(module, texts)[0]).abs().max().item()
print(f"text 0 changes by {change:.2f} although only text 1 did")
assert change > 0.01

# %% [markdown]
# Write it so that each text attends to itself only, with the module as it is.


# %% tags=["exercise-03.5"]
def self_attend(module, x):
    """module: nn.MultiheadAttention with batch_first=False, x: (B, T, C) -> (B, T, C)"""
    ### BEGIN SOLUTION
    time_first = x.transpose(0, 1)  # (T, B, C)
    y, _ = module(time_first, time_first, time_first, need_weights=False)
    return y.transpose(0, 1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.self_attend(self_attend)

# %% [markdown]
# ## What to remember
#
# * A **head** is one attention in a slice of D = C / H features. Its output is one blend per token; several heads keep several
#   blends side by side, at no extra parameters.
# * `view(B, T, 3, H, D)`, then `permute`: cut the features, *then* exchange dimensions. A wrong order has the right shape.
# * Divide by √D of the **head**, not by √C.
#
# **What this scale cannot show.** Our task has two things to find, so two heads suffice. In trained BERT models many heads
# can be removed after training with little loss (Michel et al. 2019); how many are needed *while* learning is another
# question.
#
# **An open problem.** Heads were meant to divide the work, but nothing in the loss asks them to. When and why they
# specialise is not understood; lesson 06 measures one that does.
#
# **Where this comes from**
#
# * Ashish Vaswani et al., *Attention Is All You Need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762):
#   section 3.2.2.
# * Paul Michel, Omer Levy and Graham Neubig, *Are Sixteen Heads Really Better than One?*, 2019,
#   [arXiv:1905.10650](https://arxiv.org/abs/1905.10650).
#
# **Next:** lesson 04 puts attention into a layer, and layers on each other.
