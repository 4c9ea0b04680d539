# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Many heads
#     question: How can a word look at several things at once?
#     minutes: 100
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 03 · Many heads
#
# > the cook near the ovens **praises** the waiters in the kitchen
#
# *praises* needs two words: *cook*, the person who praises, and *waiters*, the people who are praised. In lesson 02 each word
# had one row of weights. *praises* can put half of its weight on each of the two words, but what it reads is then one blend
# of both, and the blend does not say who praises whom.
#
# **The question of this lesson:** how can a word look at several things at once?
#
# | | |
# |---|---|
# | You will | build multi-head attention, from a loop over heads to one module whose outputs equal PyTorch's; prove what a single head cannot do and find where the proof stops; and know what a head costs in parameters, in rank, in memory and in operations |
# | You need | lesson 02, attention |
# | It takes | about 100 minutes, five exercises, one of them a build of 30 minutes; the machine needs less than a minute |
#
# The goal is two arcs from one word that stay apart:

# %% tags=["hide-input"]
import torch

from nextbert_lite import COURSE_SENTENCE, plots

words = COURSE_SENTENCE.split()
wanted = torch.zeros(len(words))
wanted[[words.index("cook"), words.index("waiters")]] = 0.5
fig = plots.attention_from(wanted, words, words.index("praises"), title="Who, and whom: two arcs from one word")
plots.show(
    fig,
    alt="Two arcs from praises, one to cook on the left and one to waiters on the right, each with half the weight.",
)

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nextbert_lite import COURSE_SENTENCE, AttentionExplorer, fit, plots, scaled_dot_product_attention, seeded, show
from nextbert_lite.checks import lesson_03 as check
from nextbert_lite.validate import check_attention, check_heads

# %% tags=["parameters"]
# Another seed gives other random numbers and other trained models; what the text claims should hold for it too.
seed = 0
every_row = False  # True also trains the two long runs of section 5, of which the lesson shows the stored results

# %% [markdown]
# ## 1. One row of weights is one blend
#
# Let *praises* put half of its weight on *cook* and half on *waiters*. Then exchange the two words in the sentence, so that
# the waiters praise the cook. Does *praises* notice? Guess before you run the cell. Each word has a random vector here, and
# each position has one too, added to the word's as in BERT; only the row of weights is ours.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(seed)
words = COURSE_SENTENCE.split()
vector = {word: torch.randn(8, generator=generator) for word in words}
position = torch.randn(len(words), 8, generator=generator)
row = torch.tensor([0.5 if word in ("cook", "waiters") else 0.0 for word in words])

exchanged = [{"cook": "waiters", "waiters": "cook"}.get(word, word) for word in words]
reads = [row @ (torch.stack([vector[w] for w in text]) + position) for text in (words, exchanged)]  # two times (D,)
for text in (words, exchanged):
    print(" ".join(text))
print("praises reads the same from both:", torch.allclose(*reads, atol=1e-6))
assert torch.allclose(*reads, atol=1e-6)

# %% [markdown]
# It does not notice, because a sum has no order. Position vectors do not help either: the sum over the two words and the
# two positions is the same after the exchange. The authors of the Transformer put it in two sentences (Vaswani et al. 2017,
# section 3.2.2):
#
# > Multi-head attention allows the model to jointly attend to information from different representation subspaces at
# > different positions. With a single attention head, averaging inhibits this.
#
# Would unequal weights help, 0.6 on *cook* and 0.4 on *waiters*? Keep your guess; section 5 answers it with an experiment
# and a proof. First we build the remedy: two rows of weights, whose two results are kept side by side. Each row is made by
# a **head**, with queries, keys and values of its own.

# %% [markdown]
# ## 2. A loop over heads
#
# For H heads, divide the model's width C into H slices of D = C / H features, so H must divide C. Head h has three matrices
# of its own, each C × D. It attends as in lesson 02, dividing the scores by √D, and gives D numbers for each token. The
# outputs of the heads are concatenated, which makes C numbers again, and one last matrix mixes them:
#
# $$\mathrm{head}_h = \mathrm{Attention}(x W^Q_h,\; x W^K_h,\; x W^V_h), \qquad
# \mathrm{MultiHead}(x) = [\mathrm{head}_1; \ldots; \mathrm{head}_H]\, W^O$$

# %%
B, T, C, H = 2, 5, 12, 3  # 2 texts of 5 tokens, width 12, 3 heads
D = C // H
x = torch.randn(B, T, C, generator=generator)
W_query, W_key, W_value = torch.randn(3, H, C, D, generator=generator) / math.sqrt(C)  # each (H, C, D)
W_out = torch.randn(C, C, generator=generator) / math.sqrt(C)

heads, maps = [], []
for h in range(H):
    head, weights = scaled_dot_product_attention(x @ W_query[h], x @ W_key[h], x @ W_value[h])
    heads.append(head)  # (B, T, D)
    maps.append(weights)  # (B, T, T)
by_loop = torch.cat(heads, dim=-1) @ W_out  # (B, T, C)
print("token 0 begins", [round(n, 4) for n in by_loop[0, 0, :3].tolist()])

# %% [markdown]
# Three heads are three rows of weights for each token. This is what token 0 of the first text looks at, in each head:

# %%
for h in range(H):
    print(f"head {h}:", [round(w, 2) for w in maps[h][0, 0].tolist()])
print("a head's output:", tuple(heads[0].shape), " concatenated and mixed:", tuple(by_loop.shape))
assert all(torch.allclose(w.sum(-1), torch.ones(B, T)) for w in maps)

# %% [markdown]
# ## 3. One product for all heads
#
# The loop makes 3H small products for queries, keys and values. Put their matrices side by side and they become one large
# product, C → 3C: one call in place of nine here. Its result is then *cut*, first into queries, keys and values, then each
# of those into heads. The cut is easy to get wrong, so you try it first.

# %% [markdown]
# ### Exercise 03.1 · split into heads ●●○ · 8 minutes
#
# Write a function that cuts a tensor x of shape `(B, T, C)` into H heads and returns `(B, H, T, D)` with D = C / H. Head 0
# gets the first D features of each token, head 1 the next D, and so on. H divides C. The result holds the numbers of x in
# x's dtype; x itself stays as it is. Be careful: several wrong ways give the right shape.


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
# One text of two tokens with six features each, cut into two heads, shows the right way and the tempting one. Each number
# tells where it came from: 14 is feature 4 of token 1. Which of the two gives head 0 the features 0, 1, 2 of *both* tokens?

# %% tags=["nbval-check-output"]
small = torch.tensor([[[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]]])  # (B, T, C) = (1, 2, 6)
right = small.view(1, 2, 2, 3).transpose(1, 2)  # cut the features, then exchange tokens and heads
wrong = small.view(1, 2, 2, 3)  # also (1, 2, 2, 3), because T = H here
for name, cut in [("view, then transpose", right), ("view alone", wrong)]:
    print(f"{name}: head 0 {cut[0, 0].tolist()}, head 1 {cut[0, 1].tolist()}")

# %% [markdown]
# Without the exchange, each "head" holds all features of one token. With T = H nothing tells you by its shape.
#
# Now all of it at once, with one more dimension: the packed product is cut into *which of q, k, v*, *which head* and *which
# feature*. Watch the shapes, and compare the last line with the loop's.

# %%
packed = torch.cat([W[h] for W in (W_query, W_key, W_value) for h in range(H)], dim=1)  # (C, 3C)
product = x @ packed
cut = product.view(B, T, 3, H, D)  # which of q, k, v; which head; which of its features
q, k, v = cut.permute(2, 0, 3, 1, 4)  # (3, B, H, T, D): the 3 to the front, H before T
heads, _ = scaled_dot_product_attention(q, k, v)
side_by_side = heads.transpose(1, 2).reshape(B, T, C)  # H and D are neighbours again, and become C
by_product = side_by_side @ W_out

steps = {"x": x, "x @ packed": product, "view": cut, "permute, then q": q, "heads": heads, "side by side": side_by_side}
for name, tensor in steps.items():
    print(f"{name:>16} {tuple(tensor.shape)}")
print("token 0 begins", [round(n, 4) for n in by_product[0, 0, :3].tolist()])
torch.testing.assert_close(by_product, by_loop)

# %% [markdown]
# The same numbers as from the loop. What do the cuts cost? A `view` or a `permute` copies nothing: the result reads the same
# memory with other strides. The way back is different, because after `transpose` the features of a token no longer lie
# beside each other, and `reshape` has to copy them. Tensors that share memory have the same pointer:

# %% tags=["nbval-check-output"]
for name, a, b in [("x @ packed and q", product, q), ("heads and side by side", heads, side_by_side)]:
    shared = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    print(f"{name}: {'the same memory' if shared else 'a copy'}")

# %% [markdown]
# And this is what happens to one token's C features:

# %% tags=["hide-input"]
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
# ### Exercise 03.2 · what each head adds ●●○ · 8 minutes
#
# "Concatenate, then multiply by $W^O$" hides something useful. The output is a *sum* of H terms, one for each head, because
# the features of head h meet only some of the numbers in $W^O$. Return these terms. `heads` is `(B, H, T, D)` as above,
# before it is put side by side; `W_out` is `(C, C)` with C = H · D and multiplies from the right, as in section 2. The
# result is `(B, H, T, C)`, and its sum over the heads is the layer's output. Both arguments stay as they are. A loop over
# the heads is fine.


# %% tags=["exercise-03.2"]
def head_parts(heads, W_out):
    """heads: (B, H, T, D), W_out: (C, C) -> (B, H, T, C), what each head adds to the output"""
    ### BEGIN SOLUTION
    H, D = heads.shape[1], heads.shape[3]
    parts = [heads[:, h] @ W_out[h * D : (h + 1) * D] for h in range(H)]  # head h meets D rows of W_out
    return torch.stack(parts, dim=1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.head_parts(head_parts)

# %% [markdown]
# So each head adds to the output on its own, and you can remove one without touching the others: set its part to zero.
# Section 5 does that. (Elhage et al. 2021 build a whole method of reading Transformers on this sum.)

# %% [markdown]
# ### Exercise 03.3 · predict the result ●○○ · 4 minutes
#
# A model of width C = 64 goes from one head to eight; everything else stays. By which number is each of these multiplied?
#
# 1. The number of parameters of its attention: the matrices C → 3C and C → C with their biases.
# 2. The number of attention weights that it computes for one text of T tokens.
#
# Write a tuple of the two numbers. (What does not change is multiplied by 1.)

# %% tags=["exercise-03.3"]
growth = None  # (parameters, attention weights)
### BEGIN SOLUTION
growth = (1, 8)  # only the cuts change; but each head has a (T, T) map of its own
### END SOLUTION

# %% tags=["nbval-check-output"]
check.growth(growth)

# %% [markdown]
# ## 4. The module
#
# ### Exercise 03.4 · build multi-head attention ●●● · 30 minutes
#
# Put it together as an `nn.Module`, built by `MultiHeadAttention(C, H, dropout)`. It has exactly two parts, both linear
# layers with a bias:
#
# * `self.qkv`, C → 3C. Its output holds all queries, then all keys, then all values, and within each of these head 0's D
#   features first.
# * `self.out`, C → C, which mixes the heads.
#
# `forward(x, mask, return_weights)` returns a pair: the output `(B, T, C)` in x's dtype, and the weights or `None`. It
# changes neither x nor the mask.
#
# * `mask` is `None` or boolean, with four dimensions that broadcast to `(B, H, T, T)`. True means *may be attended to*. A
#   token that may attend to nothing gets zeros from every head (then `out` adds its bias), and its weights are zeros.
# * `return_weights=True` returns the attention weights of each head, `(B, H, T, T)`, from before dropout.
# * In training, and only then, dropout acts on the attention weights: each becomes 0 with the probability `dropout`, and
#   the others are divided by 1 − `dropout`, as `F.dropout` does it.
#
# Write it in five steps and run the check after each; it tells you how far you are.
#
# | step | write | the check then stops at |
# |---|---|---|
# | 1 | the two parts, and attention without heads: cut `self.qkv(x)` into three pieces of C | stage 3, several heads |
# | 2 | the heads | stage 4, masks |
# | 3 | the mask | stage 5, the weights |
# | 4 | the weights | stage 9, dropout |
# | 5 | dropout | nothing more |
#
# You may call `scaled_dot_product_attention` of lesson 02, which takes `(q, k, v, mask, dropout)` and returns output and
# weights. Without weights there is also torch's `F.scaled_dot_product_attention`, one fused function that does the same and
# never stores the weights; the solution uses it. The solution also begins with the course's checks of arguments,
# `check_heads(C, H)` and `mask = check_attention(x, mask, self.H, self.qkv.weight)`, which turn mistakes of a caller into
# clear messages. You may leave them out.


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
# The rest of the lesson uses your class if it passes, and the course's if it does not:

# %% tags=["nbval-check-output"]
MultiHeadAttention = check.mine("03.4", MultiHeadAttention)

# %% [markdown]
# Was your prediction in 03.3 right? Here both numbers are counted on the module, for a text of 10 tokens:

# %% tags=["nbval-check-output"]
for number in (1, 8):
    module = MultiHeadAttention(64, number)
    _, weights = module(torch.zeros(1, 10, 64), return_weights=True)
    print(
        f"H = {number}: {sum(p.numel() for p in module.parameters()):,} parameters, {weights.numel()} attention weights"
    )

# %% [markdown]
# The parameters are $4C^2 + 4C$, whatever H is. Heads are free in this respect only; sections 6 and 7 have the prices.
#
# Is the module PyTorch's? `nn.MultiheadAttention` packs the three matrices in the same order, so we can copy the weights. One text is
# shorter than the other here. Note that torch's `key_padding_mask` means the opposite of our mask.

# %% tags=["nbval-check-output"]
torch.manual_seed(seed)
ours = MultiHeadAttention(C, H).double()
torchs = nn.MultiheadAttention(C, H, batch_first=True).double()
names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias", "out_proj.weight": "out.weight"}
names["out_proj.bias"] = "out.bias"
torchs.load_state_dict({theirs: ours.get_parameter(name) for theirs, name in names.items()})

real = torch.arange(T) < torch.tensor([5, 3])[:, None]  # (B, T), True: a real token
mask = real[:, None, None, :]  # (B, 1, 1, T): the same keys are hidden from all heads and all queries
y, weights = ours(x.double(), mask, return_weights=True)
theirs = torchs(*3 * [x.double()], key_padding_mask=~real, average_attn_weights=False)
for name, a, b in [
    ("output", y, theirs[0]),
    ("weights", weights, theirs[1]),
    ("no weights", ours(x.double(), mask)[0], y),
]:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    print(f"{name}: {tuple(a.shape)}, equal to 1e-10")

# %% [markdown]
# ## 5. What one head cannot do
#
# A task made for the question. A text is a row of 16 random letters out of 16. At each position but the first and the last,
# the model must name **both neighbours**, the letter before and the letter after:

# %% tags=["nbval-check-output"]
letters = "abcdefghijklmnop"
example = torch.randint(16, (16,), generator=torch.Generator().manual_seed(3)).tolist()
print("text:  ", " ".join(letters[i] for i in example))
print("before:", " ".join(["·"] + [letters[i] for i in example[:-2]] + ["·"]))
print("after: ", " ".join(["·"] + [letters[i] for i in example[2:]] + ["·"]))

# %% [markdown]
# The model is one attention layer and nothing else: the letter's vector and the position's vector go in, attention reads the
# text, and a linear **read-out** gives 16 scores for each of the two answers. (`network=True` puts a small network in the
# place of the linear read-out. We need it later.)


# %%
class Neighbours(nn.Module):
    """One attention layer that reads off the letter before and the letter after."""

    def __init__(self, H, C=64, network=False):
        super().__init__()
        self.letters, self.positions = nn.Embedding(16, C), nn.Embedding(16, C)
        for table in (self.letters, self.positions):
            nn.init.normal_(table.weight, std=0.5)
        self.attention = MultiHeadAttention(C, H)
        hidden = [nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, 32)]
        self.read = nn.Sequential(*hidden) if network else nn.Linear(C, 32)

    def forward(self, ids):
        """ids: (B, 16) -> scores (B, 14, 2, 16) at the inner positions, and the attention weights (B, H, 16, 16)."""
        x = self.letters(ids) + self.positions.weight
        y, weights = self.attention(x, return_weights=True)
        return self.read(y)[:, 1:-1].unflatten(-1, (2, 16)), weights

    def loss(self, ids):
        return F.cross_entropy(self(ids)[0].flatten(0, 2), answers(ids).flatten())


def answers(ids):
    """Return the letters before and after each inner position, (B, 14, 2)."""
    return torch.stack([ids[:, :-2], ids[:, 2:]], dim=2)


# %% [markdown]
# We train it with one, two and four heads on the same texts for the same 400 steps. `fit` is the training loop of lesson 00
# with two additions, which lesson 06 builds: the optimizer AdamW, which sets the length of each weight's step, and a
# warm-up, in which the learning rate rises over the first steps. All three models have the same number of parameters.


# %%
def random_texts(n, *seeds):
    return torch.randint(16, (n, 16), generator=seeded(*seeds))


def train(H, C=64, steps=400, network=False):
    torch.manual_seed(seed)
    model = Neighbours(H, C, network)
    fit(model, lambda step: {"ids": random_texts(64, seed, step)}, steps=steps, lr=3e-3, warmup=20)
    return model.cpu().eval()


@torch.no_grad()
def accuracy(model):
    """Return the accuracy on the letter before, on the letter after, and on both at once, over 500 new texts."""
    right = model(test_ids)[0].argmax(-1) == answers(test_ids)  # (B, 14, 2)
    return *right.float().mean(dim=(0, 1)).tolist(), right.all(-1).float().mean().item()


test_ids = random_texts(500, seed, 10**6)

# %% [markdown]
# What do you expect of one head? Both answers right half of the time, one answer right and the other not at all, or
# something in between? A letter guessed at random is right with probability 1/16 = 0.06.

# %%
trained = {H: train(H) for H in (1, 2, 4)}
for H, model in trained.items():
    before, after, both = accuracy(model)
    print(f"H = {H}: before {before:.2f}, after {after:.2f}, both {both:.2f}")

sizes = {sum(p.numel() for p in model.parameters()) for model in trained.values()}
print("numbers of parameters:", sizes)
assert len(sizes) == 1
assert max(accuracy(trained[1])[:2]) > 0.98 and min(accuracy(trained[1])[:2]) < 0.2
assert min(accuracy(trained[2])[2], accuracy(trained[4])[2]) > 0.98

# %% [markdown]
# One head always names one of the neighbours and is near chance on the other. Two heads name both.
#
# What does the one head answer when it is wrong? Guess again: a random letter, or the letter of the other side?

# %%
with torch.no_grad():
    scores = trained[1](test_ids)[0]  # (B, 14, 2, 16)
told, wanted = scores.argmax(-1), answers(test_ids)  # each (B, 14, 2)
same = (told[..., 0] == told[..., 1]).float().mean().item()
first_two = scores.topk(2).indices[..., None, :]  # its two best letters for each of the two questions
knows = ((first_two == wanted[:, :, None, :, None]).any(-1).all(-1)).all(-1)  # both neighbours, for both questions
knows = knows | (wanted[..., 0] == wanted[..., 1])  # equal neighbours are one letter
print(f"it gives the same letter to both questions: {same:.2f}")
print(f"both neighbours are its two best letters:   {knows.float().mean():.2f}")
assert same > 0.9 and knows.float().mean() > 0.9

# %% [markdown]
# It *knows* both letters and cannot tell which is which, so it gives the same one to both questions. Now look at where the
# heads look, averaged over the 500 texts. The diagonal just below the middle is the letter before, the one just above it the
# letter after.

# %% tags=["hide-input"]
with torch.no_grad():
    mean_weights = {H: trained[H](test_ids)[1].mean(dim=0) for H in (1, 2, 4)}  # (H, T, T)
pictures = [mean_weights[1][0], *mean_weights[2]]
fig, axes = plots.figure(1, 3, size=(8.0, 3.2), sharey=True)
for ax, weights, name in zip(axes, pictures, ["one head", "two heads: head 0", "two heads: head 1"], strict=True):
    image = ax.imshow(weights, vmin=0, vmax=1)
    ax.set_title(name, fontsize=10, weight="normal")
    ax.set(xlabel="looks at (position)", xticks=range(0, 16, 5), yticks=range(0, 16, 5))
axes[0].set(ylabel="looks from (position)")
fig.colorbar(image, ax=axes, shrink=0.75, label="mean attention weight")
fig.suptitle("One head blends both neighbours, two heads take one each", x=0.01, ha="left")
plots.show(
    fig,
    alt="Three maps: one head with two pale diagonals, and two heads with one dark diagonal each, before and after.",
)

# %% [markdown]
# A map is not yet an explanation. So we intervene: remove one head by setting its part of the output to zero (exercise
# 03.2; in an `nn.Linear` the D rows of $W^O$ are D *columns* of `out.weight`), and ask both questions again. If head 0 only
# serves one neighbour, then only that answer may suffer, and removing the other head is the control.


# %%
def on_neighbours(weights):
    """Return the mean weight on the letter before and on the letter after, of a map (T, T)."""
    return weights[1:-1].diagonal(0).mean().item(), weights[1:-1].diagonal(2).mean().item()


@torch.no_grad()
def without(H, h):
    """Return the accuracies, before and after, of the model with H heads when head h adds nothing."""
    weight, D = trained[H].attention.out.weight, 64 // H
    kept = weight.clone()
    weight[:, h * D : (h + 1) * D] = 0.0
    result = accuracy(trained[H])[:2]
    weight.copy_(kept)
    return result


looks = [on_neighbours(weights) for weights in mean_weights[2]]
left = [without(2, h) for h in range(2)]
for h in range(2):
    print(f"head {h} looks before {looks[h][0]:.2f}, after {looks[h][1]:.2f}", end="; ")
    print(f"without it: before {left[h][0]:.2f}, after {left[h][1]:.2f}")
first = 0 if looks[0][0] > looks[0][1] else 1  # the head that looks before
assert looks[first][0] > 0.75 and looks[1 - first][1] > 0.75  # one each, not the same one twice
assert left[first][0] < 0.3 and left[first][1] > 0.9 and left[1 - first][0] > 0.9 and left[1 - first][1] < 0.3
assert min(on_neighbours(mean_weights[1][0])) > 0.25  # the one head: both

# %% [markdown]
# The two heads divided the work, although nothing says which head should take which. Each answer needs one head and does
# without the other, and because each head writes through rows of $W^O$ of its own, the read-out can tell the two apart. (Rows 0 and 15 have only one neighbour and are not scored.)
#
# Four heads were no better than two. What do they do with two neighbours? Here they are for one text. Choose each head in turn
# and point at letters in the middle. Does one head do nothing, or do several share a neighbour?

# %%
with torch.no_grad():
    _, four = trained[4](torch.tensor([example]))  # (1, H, T, T)
title = "Four heads, two neighbours: who looks where?"
view = AttentionExplorer([letters[i] for i in example], four[0], token=7, title=title)
show(
    view,
    alt="Four maps of sixteen letters, to be chosen; one of them large, with the weights of the eighth letter as arcs.",
)

# %% [markdown]
# Over all test texts, where each head looks and what is lost without it:

# %%
for h, weights in enumerate(mean_weights[4]):
    (before, after), lost = on_neighbours(weights), without(4, h)
    print(f"head {h} looks before {before:.2f}, after {after:.2f}", end="; ")
    print(f"without it: before {lost[0]:.2f}, after {lost[1]:.2f}")
looks = [on_neighbours(weights) for weights in mean_weights[4]]
assert max(before for before, _ in looks) > 0.5 and max(after for _, after in looks) > 0.5

# %% [markdown]
# Both neighbours are covered. Several heads may share one, and a head may blend both. Which does what depends on the random
# start.

# %% [markdown]
# ### Why one head cannot: a proof
#
# So far we have seen that one head *did not* name both neighbours in 400 steps. Could it, with more training or a better
# start? Fix a position, and suppose that its row of weights is the same for every text: a on the letter before, b on the
# letter after, with a ≥ b. We show that a linear read-out of this head cannot always name the letter *after*, the lighter
# one. (If b is larger, exchange the two sides.)
#
# Keep all other letters of the text fixed. With s before and t after, the head reads a·v(s) + b·v(t) plus what the others
# give (a letter's vector and a position's are added here, so a letter gives the same v on either side). The read-out is linear, so the score of a candidate c for the answer *after* has the form
#
# $$\mathrm{score}_c(s, t) = a\, m(c, s) + b\, m(c, t) + d_c ,$$
#
# where m(c, l) is what a letter l adds to the candidate c, and d_c collects everything else: the other letters, the
# positions, the biases. Take three different letters s, t, u and write X = m(s, s) + m(t, t) − m(s, t) − m(t, s).
#
# * In the text (s, t) the answer t must beat s, and in (t, s) the answer s must beat t. Add the two inequalities. The d's
#   cancel and (b − a) X > 0 remains. As a ≥ b, X must be negative.
# * In (u, t) the answer t must beat s, and in (u, s) the answer s must beat t. Add them. The d's and all that u adds cancel,
#   and b X > 0 remains. So X must be positive.
#
# X cannot be both. At least one of the four texts is answered wrongly, whatever the values, the read-out and the training. ∎
#
# As the argument holds for every s, t and u, at most three quarters of all pairs of different letters can be right, and at
# most 49/64 = 0.77 of all pairs (a sixteenth has equal letters, 1/16 + 15/16 · 3/4). A residual connection, which adds
# the input of a layer to its output (lesson 04), would not help, since it only adds to d_c.
#
# The proof is a ceiling. What does a read-out reach in practice? For 21 fixed rows of weights we train one by gradient
# descent on all 256 pairs of letters. With one-hot letter vectors it can represent every m. What do you expect at 0.6
# and 0.4, and what at 0.5?

# %%
before, after = torch.cartesian_prod(torch.arange(16), torch.arange(16)).T  # all 256 pairs of letters
letter = torch.eye(16)  # a one-hot vector for each
a = torch.linspace(0, 1, 21)[:, None, None]  # the weight on the letter before; the one after gets 1 - a
blends = a * letter[before] + (1 - a) * letter[after]  # (21, 256, 16)
both = torch.stack([before, after], dim=1)  # (256, 2)

m = torch.zeros(21, 16, 2 * 16, requires_grad=True)  # for each row of weights: letter -> scores of both answers
optimizer = torch.optim.Adam([m], lr=0.3)
for _ in range(150):
    scores = (blends @ m).unflatten(-1, (2, 16))
    loss = F.cross_entropy(scores.flatten(0, 2), both.expand(21, 256, 2).flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
correct = (scores.argmax(-1) == both).float().mean(dim=1)  # (21, 2)
heavier, lighter = correct.max(dim=1).values, correct.min(dim=1).values
for i in (0, 8, 10, 12, 20):
    print(f"weight on the letter before {a[i].item():.1f}: before {correct[i, 0]:.2f}, after {correct[i, 1]:.2f}")
assert lighter.max() <= 49 / 64  # must hold: proved
assert heavier[(a.flatten() - 0.5).abs() > 0.04].min() > 0.99 and lighter.max() < 0.7

# %% [markdown]
# A small difference of the weights is enough to name one neighbour always, and it is never enough for the other. The trained
# read-outs stay far below the ceiling for the lighter letter:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.2))
for i, (name, style) in enumerate([("the letter before", "o-"), ("the letter after", "s--")]):
    ax.plot(a.flatten(), correct[:, i].detach(), style, markersize=4, label=name)
ax.axhline(49 / 64, color=plots.GREY, linestyle=":")
ax.text(0.005, 49 / 64 + 0.02, "ceiling for the lighter one (proved)", color=plots.GREY, fontsize=9, ha="left")
ax.set(
    xlabel="weight on the letter before (the letter after has the rest)",
    ylabel="accuracy of the read-out",
    ylim=(0, 1.05),
)
ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.42), title="naming")
ax.set_title("A fixed row names the heavier neighbour, not always both")
plots.show(
    fig,
    alt="Two curves against the weight on the letter before: each answer is right in a sixteenth of the pairs while its letter is the lighter one, and jumps to all pairs where it becomes the heavier one.",
)

# %% [markdown]
# ### Where the proof stops
#
# A proof is as good as its assumptions. Ours are three: a *linear* read-out, a row of weights that *does not depend on the
# letters*, and values to which a letter adds the same *wherever it stands*, since letter and position are only added before
# them. Drop any of them, and one head can name both.
#
# The third one falls as soon as something nonlinear stands before the attention, such as an earlier layer. Say the value of
# a letter holds its one-hot vector twice, once growing and once shrinking with the position. Then a fixed row of 0.5 and 0.5
# is enough, with one linear read-out for all positions:

# %% tags=["nbval-check-output"]
place, one_hot = 1.0 + torch.arange(16)[:, None], letter[test_ids]  # (16, 1) and (500, 16, 16)
placed = torch.cat([(17 - place) * one_hot, place * one_hot], dim=-1)  # (500, 16, 32): shrinking, growing
halves = (0.5 * placed[:, :-2] + 0.5 * placed[:, 2:]).unflatten(-1, (2, 16))  # the blend of both neighbours
both_right = (halves.argmax(-1) == answers(test_ids)).all(-1).float().mean()  # the scores are the blend itself
print(f"a fixed row and values that know their position: both neighbours right {both_right:.2f}")
assert both_right == 1

# %% [markdown]
# Take the row first. A head may give each letter a weight in proportion to a size of its own, 1 for a, 2 for b, up to 16 for p
# (its score is the logarithm of the size). Then the weights themselves say which letter is on which side. Here is such a
# head, written by hand for one position, as in the proof, with a linear read-out of its blend:

# %% tags=["nbval-check-output"]
size = 1.0 + torch.arange(16)
w = torch.stack([size[before], size[after]], dim=1).log().softmax(dim=1)  # (256, 2), the row on the two neighbours
value = letter / size[:, None]  # cancels the weight: both letters arrive with the same strength
blend = w[:, :1] * value[before] + w[:, 1:] * value[after]  # (256, 16), which two letters there are
balance = w[:, :1] - w[:, 1:]  # one more feature of the values, +1 before and -1 after: which side is heavier
says_before = (1000 * blend + size * balance).argmax(dim=1)  # of the two letters, the larger if before is heavier
says_after = (1000 * blend - size * balance).argmax(dim=1)
right = (says_before == before) & (says_after == after)
print(f"one head by hand: {right.sum().item()} of {len(right)} pairs, both neighbours right")
assert right.all()

# %% [markdown]
# So "one head cannot" is false without the assumption on the row. But this head has to weigh every letter by a size of its
# own. Does training find such weights? Compare how much the weight on the letter before varies with the letters.

# %%
with torch.no_grad():
    varies = trained[1](test_ids)[1][:, 0].std(dim=0)  # (T, T), over the texts
trained_varies, by_hand_varies = on_neighbours(varies)[0], w[:, 0].std().item()
print(f"standard deviation of the weight: trained head {trained_varies:.2f}, head by hand {by_hand_varies:.2f}")
assert trained_varies < 0.05 < 0.15 < by_hand_varies

with torch.no_grad():
    maps = trained[1](test_ids)[1][:, 0, 1:-1]  # (500, 14, 16), the rows of the inner positions
gap = maps.diagonal(0, dim1=1, dim2=2) - maps.diagonal(2, dim1=1, dim2=2)  # (500, 14), weight before - weight after
gap_mean, gap_varies = gap.mean(dim=0).abs().mean().item(), gap.std(dim=0).mean().item()
print(f"difference of its two weights: size of the mean {gap_mean:.3f}, standard deviation {gap_varies:.3f}")
assert gap_varies > 0.2 * gap_mean

# %% [markdown]
# The weight of the trained head varies far less than that of the head by hand. Still, its two weights are so close that this
# is not nothing: compare the difference between them with its standard deviation. So the assumption of the proof holds for
# it only roughly. Does the read-out rely on the variation? Freeze the row: give every text the mean of the rows over all
# texts, which is the case of the proof. Guess how many answers change.

# %%
with torch.no_grad():
    values = trained[1].attention.qkv(trained[1].letters(test_ids) + trained[1].positions.weight)[..., 2 * 64 :]
    frozen = trained[1].read(trained[1].attention.out(mean_weights[1][0] @ values))  # (500, 16, 32)
frozen = frozen[:, 1:-1].unflatten(-1, (2, 16)).argmax(-1)  # (500, 14, 2)
frozen_right = (frozen == wanted).float().mean(dim=(0, 1))
print(f"answers that change: {(frozen != told).float().mean():.2f}")
print(f"with the frozen row: before {frozen_right[0]:.2f}, after {frozen_right[1]:.2f}")
assert frozen_right.max() > 0.85 and frozen_right.min() < 0.25

# %% [markdown]
# Some answers change, so the trained head uses its small variation a little. The failure stays of the kind that the proof
# describes: one neighbour is named in most cases, the other hardly ever.
#
# The last assumption is the linear read-out. Behind the attention layers of a Transformer there is a feed-forward network
# (lesson 04), which is not linear. With the small network in place of the linear read-out, one head is trained on the same
# texts for as many steps. Guess: how often is it right about both?


# %%
def row_of(model, H, C=64, steps=400, read_out="linear"):
    before, after, both = accuracy(model)
    run = {"seed": seed, "heads": H, "width": C, "steps": steps, "read_out": read_out}
    with torch.no_grad():
        varies = model(test_ids)[1].std(dim=0)  # (H, T, T), over the texts
    varies = max(on_neighbours(head)[0] for head in varies)  # of the weight on the letter before
    return run | {"before": before, "after": after, "both": both, "varies": varies}


results_heads = [row_of(model, H) for H, model in trained.items()]
results_heads.append(row_of(train(1, network=True), 1, read_out="network"))
if every_row:  # longer training, and a wider model
    results_heads += [row_of(train(1, C, 2000), 1, C, 2000) for C in (64, 128)]
print("one head and a network: before {before:.2f}, after {after:.2f}, both {both:.2f}".format(**results_heads[3]))
assert results_heads[3]["both"] > 0.9

# %% [markdown]
# One head and a network name both. A blend does determine which letter is which if its two weights differ: with one-hot letter
# vectors it has the larger weight at one letter and the smaller at the other. It takes a nonlinear function to read that
# off. In a whole Transformer, then, several heads are not the only way to keep two things apart, but they are the way that
# needs no further layer.
#
# A single run may be luck. The figure shows the same conditions for three seeds, stored with the course, and your run on
# top of them. It also has two conditions that take too long for a lesson: five times the training, and that with twice
# the width.

# %% tags=["hide-input"]
import contextlib
import io

from nextbert_lite import stored_table

with contextlib.redirect_stdout(io.StringIO()) as made:
    table = stored_table("03_heads")
names = {
    ("1", "64", "400", "linear"): "one head",
    ("1", "64", "2000", "linear"): "one head, 2,000 steps",
    ("1", "128", "2000", "linear"): "one head, 2,000 steps, C = 128",
    ("1", "64", "400", "network"): "one head and a network",
    ("2", "64", "400", "linear"): "two heads",
    ("4", "64", "400", "linear"): "four heads",
}
condition = lambda row: tuple(str(row[name]) for name in ("heads", "width", "steps", "read_out"))
stored = {key: [float(row["both"]) for row in table if condition(row) == key] for key in names}
live = {condition(row): row["both"] for row in results_heads}
fig, ax = plots.figure(size=(7.5, 3.0))
for y, key in enumerate(names):
    ax.scatter(
        stored[key], [y] * len(stored[key]), s=40, color=plots.GREY, label="stored, three seeds" if not y else None
    )
    if key in live:
        ax.scatter(live[key], y, s=60, marker="x", color=plots.BLUE, label="this run" if not y else None, zorder=3)
ax.set(xlabel="accuracy on both neighbours at once", xlim=(-0.02, 1.02), yticks=range(len(names)))
ax.set_yticklabels(names.values())
ax.invert_yaxis()
ax.legend(loc="lower center")
fig.suptitle("Trained with a linear read-out, one head named both less than half of the time", x=0.01, ha="left")
plots.show(
    fig,
    alt="Dots for six conditions: one head stays near chance, with twice the width and more steps it reaches up to a half, one head with a network, two heads and four heads are near one.",
)
for key, value in live.items():  # this run belongs to the stored ones
    assert min(stored[key]) - 0.05 < value < max(stored[key]) + 0.05, (names[key], value, stored[key])
assert all(max(stored[key]) < 0.5 for key in names if key[0] == "1" and key[3] == "linear")
for key in list(names)[:3]:
    found = sorted((float(row["both"]), float(row["varies"])) for row in table if condition(row) == key)
    print(f"{names[key]}: " + ", ".join(f"both {b:.2f} (weight varies by {v:.3f})" for b, v in found))

# %% [markdown]
# Five times the training changes nothing at C = 64. Twice the width does: in two of three stored runs the head names a part
# of the lighter letters too. The proof says what must have happened if a run passes 0.77, and points to a suspect below
# that: a row that depends on the letters. Indeed, of these three runs the better ones are those in which the weight varies
# more with the letters. That is an association in three runs. To test it, one would train a head whose queries and keys see
# the positions alone.

# %% [markdown]
# ## 6. The rank of a head
#
# Heads are free in parameters. What else do they cost? A head compares queries and keys of D features, so its scores, before
# the division by √D, are
#
# $$Q K^\top = x\, W^Q (W^K)^\top x^\top ,$$
#
# and the matrix $W^Q (W^K)^\top$ is C × C, but its **rank** is at most D, since it is a product through only D features. One
# head of full width has rank up to C. Our three heads of section 2 have:

# %% tags=["nbval-check-output"]
for h in range(len(W_query)):
    print(f"head {h}: W_query @ W_key.T is {C} × {C}, rank {torch.linalg.matrix_rank(W_query[h] @ W_key[h].T)}")
whole = W_query.transpose(0, 1).flatten(1) @ W_key.transpose(0, 1).flatten(1).T  # one head with the same numbers, D = C
print(f"one head of full width: rank {torch.linalg.matrix_rank(whole)}")

# %% [markdown]
# A low rank sounds like a weak head. Is it? Two experiments on 16 tokens, both with queries and keys that we may choose
# freely, so that D is the only limit.
#
# First, *choosing*. Each token is to look at one token, drawn at random. Put the keys on a circle, and let each query point
# at its target. Two features are enough for any number of tokens, if the queries are long enough:

# %% tags=["nbval-check-output"]
target = torch.randperm(16, generator=generator)
angle = 2 * math.pi * torch.arange(16) / 16
keys = torch.stack([angle.cos(), angle.sin()], dim=1)  # (T, D) with D = 2
weights = (100 * keys[target] @ keys.T).softmax(dim=-1)  # the query is the target's own direction, and long
on_target = weights[torch.arange(16), target]
print(f"D = 2: every token has more than 0.99 of its weight on its target: {bool((on_target > 0.99).all())}")
assert (on_target > 0.99).all()

# %% [markdown]
# Second, *any* weights. Now each token is to have 16 weights drawn at random, a whole distribution. The logarithm of a row of
# weights is the row of scores minus one number (softmax subtracts the log of the sum), so the matrix of log-weights has rank
# at most D + 1. A random one has rank 16. It is out of reach for D < 15, by mathematics; how far out, we measure by gradient
# descent on queries and keys. The **excess loss** is the KL divergence, the nats per token that the wrong weights cost. How
# do you expect it to fall with D?

# %%
wish = torch.randn(16, 16, generator=generator).softmax(dim=-1)  # the weights that we want
print("rank of the log-weights:", torch.linalg.matrix_rank(wish.log()).item())

widths = [1, 2, 4, 8, 12, 15, 16]
allowed = (torch.arange(16) < torch.tensor(widths)[:, None])[:, None]  # (7, 1, 16): only the first D features count
q, k = (torch.randn(7, 16, 16, generator=generator).requires_grad_() for _ in range(2))
optimizer = torch.optim.Adam([q, k], lr=0.05)
for _ in range(1500):
    logs = (q * allowed @ k.transpose(-2, -1)).log_softmax(dim=-1)  # (7, T, T)
    excess = (wish * (wish.log() - logs)).sum(-1).mean(-1)  # (7,), KL divergence in nats, mean over the tokens
    optimizer.zero_grad()
    excess.sum().backward()
    optimizer.step()
print("excess loss:", {D: round(e, 3) for D, e in zip(widths, excess.tolist(), strict=True)})
assert all(a > b for a, b in zip(excess[:4], excess[1:5], strict=True)) and excess[3] > 0.005
assert excess[3] < 0.25 * excess[0] and excess[-2:].max() < 1e-3

# %% [markdown]
# Most of the loss is gone with half of the features, and the rest goes only at D = T − 1, where the proof lets it:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.0, 3.0))
ax.plot(widths, excess.detach(), "o-")
ax.axvline(15, color=plots.GREY, linestyle=":")
ax.text(14.8, excess.max().item() * 0.9, "D = T − 1", ha="right", color=plots.GREY)
ax.set(xlabel="features of the head, D", ylabel="excess loss (nats per token)", xticks=widths, ylim=(0, None))
ax.set_title("Random weights on 16 tokens are exact only from 15 features on")
plots.show(
    fig,
    alt="The excess loss falls as the head gets more features, from its largest at one feature to zero at fifteen.",
)

# %% [markdown]
# So a narrow head can choose any token, but cannot produce every pattern of weights. Bhojanapalli et al. (2020) call this the low-rank
# bottleneck of multi-head attention and propose heads as wide as the text is long. BERT's heads are not: BERT-base has
# D = 768 / 12 = 64, BERT-large 1024 / 16 = 64, for texts of up to 512 tokens (Devlin et al. 2018). With C fixed, more heads
# are narrower heads, and both ends are worse: in the Transformer's own experiments, 8 heads were almost one BLEU better than
# a single one in a model of the same size, and too many hurt again (Vaswani et al. 2017, section 6.2). The usual way out is
# to let C grow with the heads.

# %% [markdown]
# ## 7. What it costs, and when T² matters
#
# "Attention costs T²" is what everybody knows about it. Count the **operations** for one text, where a multiplication and an
# addition are two. A product of an (n × k) with a (k × m) matrix takes 2nkm.
#
# * The four projections: $8TC^2$, whatever H is. (Queries, keys, values and the output are C × C each.)
# * Scores and blends: $2T^2D$ each for each head, together $4T^2C$, also whatever H is.
#
# Torch can count too. It sees each product that is really computed:


# %% tags=["nbval-check-output"]
def counted(T, C, H):
    """Return torch's count of the operations of the projections, and of scores and blends, for one text."""
    x, W_in, W_out = torch.zeros(1, T, C), torch.zeros(C, 3 * C), torch.zeros(C, C)
    with FlopCounterMode(display=False) as projections:
        q, k, v = (x @ W_in).view(1, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
        x @ W_out  # the heads side by side have the shape of x
    with FlopCounterMode(display=False) as attention:
        scaled_dot_product_attention(q, k, v)
    return projections.get_total_flops(), attention.get_total_flops()


for T, C, H in [(5, 12, 3), (128, 64, 1), (128, 64, 8), (128, 768, 12), (512, 768, 12)]:
    projections, attention = counted(T, C, H)
    assert (projections, attention) == (8 * T * C**2, 4 * T**2 * C)
    print(f"T = {T:>3}, C = {C:>3}, H = {H:>2}: projections {projections:>13,}, scores and blends {attention:>11,}")

# %% [markdown]
# The formulas are exact, and H drops out: in these products, eight heads cost as many operations as one (the softmax, which
# the count leaves out, has eight times the exponentials). When do scores and blends cost as
# much as the projections? $4T^2C = 8TC^2$ at **T = 2C**. For BERT-base that is T = 1,536, three times its longest text. And
# a layer has a feed-forward network too, of $16TC^2$ operations (lesson 04), so against the whole rest of the layer the
# point is T = 6C = 4,608. What proportion of a layer of BERT-base is the part with T², at its 512 tokens?

# %% tags=["nbval-check-output"]
C, H = 768, 12  # BERT-base
for T in (128, 512, 2 * C, 6 * C, 8192):
    projections, attention = 8 * T * C**2, 4 * T**2 * C
    of_attention = attention / (attention + projections)
    of_layer = attention / (attention + projections + 16 * T * C**2)
    mebibytes = H * T * T * 4 / 2**20  # the weights of one text in one layer, float32
    print(f"T = {T:>5}: {of_attention:4.0%} of attention, {of_layer:4.0%} of a layer; weights {mebibytes:5,.0f} MiB")

# %% [markdown]
# The same as curves, for all lengths. Where each crosses one half, the part with T² costs as much as everything else:

# %% tags=["hide-input"]
lengths = torch.logspace(5, 14, 91, base=2)
fig, ax = plots.figure(size=(7.0, 3.3))
ax.plot(lengths, lengths / (2 * C + lengths), label="of the attention layer")
ax.plot(lengths, lengths / (6 * C + lengths), "--", label="of the whole layer, with feed-forward network")
ax.axhline(0.5, color=plots.GREY, linestyle=":", linewidth=1)
ax.axvspan(32, 512, color=plots.YELLOW, alpha=0.25, linewidth=0)
ax.text(128, 0.92, "BERT's texts", ha="center", color=plots.GREY)
for T, name, offset, side in [(2 * C, "2C", (-4, 6), "right"), (6 * C, "6C", (6, -14), "left")]:
    ax.plot(T, 0.5, "o", color=plots.RED)
    ax.annotate(f"T = {name} = {T:,}", (T, 0.5), xytext=offset, textcoords="offset points", ha=side, fontsize=9)
ax.set_xscale("log", base=2)
ax.set(xlabel="length of the text T (tokens)", ylabel="proportion of the operations", ylim=(0, 1), xlim=(32, 2**14))
ax.set_xticks([32, 128, 512, 2048, 8192], ["32", "128", "512", "2,048", "8,192"])
ax.legend(loc="upper left", bbox_to_anchor=(0.0, 0.88), fontsize=8)
ax.set_title("Up to 512 tokens, T² is at most a tenth of BERT's operations")
plots.show(
    fig,
    alt="Two rising curves over the length of the text: the proportion of scores and blends reaches a half at 1,536 tokens of the attention layer and at 4,608 of the whole layer; at 512 it is a quarter and a tenth.",
)
assert 512 / (6 * 768 + 512) == 0.1

# %% [markdown]
# Up to 512 tokens, the projections and the feed-forward network are the cost of BERT, not T². Beyond some thousands of tokens
# it is the other way round, and models for long texts change the attention: ModernBERT, made for 8,192 tokens, looks at the
# whole text in every third layer only (Warner et al. 2024).
#
# Memory is another matter, and here heads do count. The weights are B · H · T² numbers in each layer, as many exponentials
# in the softmax, and a plain training step keeps them for the backward pass. The last column shows them for one text and
# one layer in float32. This is why fused attention never stores them (FlashAttention, Dao et al. 2022), and why asking for
# `return_weights` costs more than it seems.

# %% [markdown]
# ## 8. A famous bug
#
# ### Exercise 03.5 · find the bug ●●○ · 8 minutes
#
# This function gives the batch x to one of torch's own attention layers. It runs, and shapes and dtype are right. But look at
# what happens to text 0 when only text 1 changes:


# %%
def buggy_self_attend(module, x):
    """x: (B, T, C) -> (B, T, C)"""
    y, _ = module(x, x, x, need_weights=False)
    return y


torch.manual_seed(seed)
module = nn.MultiheadAttention(8, 2)
texts = torch.randn(3, 6, 8, generator=generator)
other = texts.clone()
other[1] = 0.0  # another text of the batch changes
change = (buggy_self_attend(module, other)[0] - buggy_self_attend(module, texts)[0]).abs().max().item()
print(f"text 0 changes by {change:.2f}")
assert change > 0.01

# %% [markdown]
# Repair the function for any `nn.MultiheadAttention` that is made as the one above, so that each text attends to all of its
# own tokens and to nothing else. There is no padding. The module is used elsewhere too and must stay as it is: neither its
# weights nor any of its settings may change. x stays as it is, and the result is `(B, T, C)` in x's dtype.


# %% tags=["exercise-03.5"]
def self_attend(module, x):
    """module: as above, x: (B, T, C) -> (B, T, C)"""
    ### BEGIN SOLUTION
    time_first = x.transpose(0, 1)  # (T, B, C), the order that this module expects
    y, _ = module(time_first, time_first, time_first, need_weights=False)
    return y.transpose(0, 1)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.self_attend(self_attend)

# %% [markdown]
# ## What to remember
#
# * A **head** is one attention in a slice of D = C / H features. It gives each token one blend; several heads keep several
#   blends side by side, and the layer's output is the sum of what the heads add.
# * `view(B, T, 3, H, D)`, then `permute`: cut the features, *then* exchange dimensions. A wrong order has the right shape.
# * Divide by √D of the **head**, not by √C.
# * A row of weights that does not depend on the letters, with values in which letter and position are only added and a linear
#   read-out, cannot always name both neighbours. Drop any of the three, and one head can.
# * More heads cost no parameters and no operations in the matrix products. They cost rank (at most D), and memory and
#   exponentials (B · H · T²).
# * Scores and blends cost as much as the projections at T = 2C, for BERT-base at 1,536 tokens.
#
# **What this scale cannot show.** Our task has two things to find, so two heads suffice. How many heads a language needs is
# not to be read off it. Operations are not time either: softmax, memory traffic and small products cost time that the count
# does not see.
#
# **What the field did since.** Many heads can go: Michel et al. (2019) could remove most heads one at a time, and large parts
# together, with little loss and no retraining, though not most of them at once; Voita et al. (2019), who went on training
# with a penalty on heads, pruned 38 of 48 encoder heads of a translation model for 0.15 BLEU. Many decoders let several
# heads share keys and values, which shrinks what they must keep in memory while they write (grouped-query attention, Ainslie
# et al. 2023).
#
# **An open problem.** Nothing in the loss names a head, and yet they divide the work. Some of it is understood: the heads
# that are pruned last have readable roles (Voita et al. 2019); induction heads, which continue a repeated pattern, form in a
# short phase of training together with a drop of the loss (Olsson et al. 2022); and in masked language models heads that
# follow syntax appear abruptly and come before the grammar that they serve (Chen et al. 2023). Which roles will form, and
# when, we cannot yet predict from data and architecture. Lesson 06 looks for one such head.
#
# **Where this comes from**
#
# * Ashish Vaswani et al., *Attention Is All You Need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762):
#   sections 3.2.2 and 6.2.
# * Jacob Devlin et al., *BERT*, 2018, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805): the sizes of BERT.
# * Srinadh Bhojanapalli et al., *Low-Rank Bottleneck in Multi-head Attention Models*, 2020,
#   [arXiv:2002.07028](https://arxiv.org/abs/2002.07028).
# * Nelson Elhage et al., *A Mathematical Framework for Transformer Circuits*, 2021,
#   [transformer-circuits.pub](https://transformer-circuits.pub/2021/framework/index.html).
# * Paul Michel, Omer Levy and Graham Neubig, *Are Sixteen Heads Really Better than One?*, 2019,
#   [arXiv:1905.10650](https://arxiv.org/abs/1905.10650).
# * Elena Voita et al., *Analyzing Multi-Head Self-Attention*, 2019, [arXiv:1905.09418](https://arxiv.org/abs/1905.09418).
# * Catherine Olsson et al., *In-context Learning and Induction Heads*, 2022,
#   [arXiv:2209.11895](https://arxiv.org/abs/2209.11895).
# * Angelica Chen et al., *Sudden Drops in the Loss*, 2023, [arXiv:2309.07311](https://arxiv.org/abs/2309.07311).
# * Benjamin Warner et al., *ModernBERT* (*Smarter, Better, Faster, Longer*), 2024,
#   [arXiv:2412.13663](https://arxiv.org/abs/2412.13663).
# * Tri Dao et al., *FlashAttention*, 2022, [arXiv:2205.14135](https://arxiv.org/abs/2205.14135); Joshua Ainslie et al.,
#   *GQA*, 2023, [arXiv:2305.13245](https://arxiv.org/abs/2305.13245).
#
# **Next:** lesson 04 puts attention into a layer, and layers on each other.
