# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: The encoder
#     question: What has to stand around attention so that layers can be stacked?
#     minutes: 90
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 04 · The encoder
#
# Attention lets words read other words. BERT is twelve rounds of it. But stack twelve attentions and nothing else, and after
# a few of them all words have become the same word. This lesson adds what is missing, piece by piece, takes the
# main pieces away again to see what breaks, and ends with the real thing: an encoder that computes what RoBERTa computes.
#
# **The question of this lesson:** what has to stand around attention so that layers can be stacked?
#
# | | |
# |---|---|
# | You will | build residual, layer norm, GELU and feed-forward by hand, stack them, check that your encoder equals PyTorch's and Hugging Face's, and measure what depth buys |
# | You need | lessons 02 and 03; lesson 01 for the embeddings |
# | It takes | about 90 minutes, five exercises; the machine needs one minute |
#
# Here is one layer, as BERT has it. The grey line is the **residual**: what comes in also goes around.

# %%
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import MultiHeadAttention, ToyWorld, plots, seeded, stored_table
from nextbert_lite.checks import lesson_04 as check

seed = int(os.environ.get("NEXTBERT_SEED", 0))
every_row = "NEXTBERT_ALL" in os.environ  # tools/results.py sets it to make the stored tables

fig, ax = plots.figure(size=(8.0, 1.9))
boxes = {0.5: "x", 2.2: "attention", 3.9: "+", 5.2: "norm", 6.9: "feed-\nforward", 8.6: "+", 9.9: "norm", 11.4: "x"}
for x, name in boxes.items():
    color = {"+": "white", "x": "white", "norm": "#FBEBCB"}.get(name, "#DCEBF5")
    style = {"boxstyle": "round,pad=0.5", "fc": color, "ec": plots.GREY if name != "x" else "none"}
    ax.text(x, 0, name, ha="center", va="center", bbox=style)
for start, end in [(0.8, 1.3), (3.0, 3.5), (4.25, 4.7), (5.75, 6.2), (7.6, 8.2), (8.95, 9.4), (10.45, 11.1)]:
    ax.annotate("", (end, 0), (start, 0), arrowprops={"arrowstyle": "->"})
for start, end in [(1.0, 3.9), (5.95, 8.6)]:
    ax.plot([start, start, end], [0, 1, 1], color=plots.GREY, linewidth=2)
    ax.annotate("", (end, 0.3), (end, 1.03), arrowprops={"arrowstyle": "->", "color": plots.GREY, "linewidth": 2})
ax.set(xlim=(0, 11.8), ylim=(-0.6, 1.2))
ax.set_axis_off()
ax.set_title("A BERT layer: twice “do something, add it, normalise”")
plots.show(
    fig,
    alt="Flow from left to right: x, attention, plus, norm, feed-forward, plus, norm, with a line around each part.",
)

# %% [markdown]
# ## 1. Attention alone forgets who is who
#
# A stack of fresh attentions, on 64 sentences of random vectors. How alike do the tokens of a sentence become? We
# measure the mean **cosine** between two tokens: 0 for independent random vectors, 1 when they point the same way. Guess the
# number after two, and after twelve.

# %%
torch.manual_seed(seed)
C, H, T = 64, 4, 12
x = torch.randn(64, T, C)
attentions = nn.ModuleList(MultiHeadAttention(C, H) for _ in range(48)).requires_grad_(False)


def likeness(x):
    """Mean cosine between two different tokens of a sentence."""
    unit = F.normalize(x, dim=-1)
    cosines = unit @ unit.transpose(1, 2)  # (B, T, T)
    T = x.shape[1]
    return ((cosines.sum((1, 2)) - T) / (T * (T - 1))).mean().item()


plain, around = x, x
alike = {"attention alone": [likeness(x)], "with residuals": [likeness(x)]}
for attention in attentions:
    plain = attention(plain)[0]
    around = around + attention(around)[0]
    alike["attention alone"].append(likeness(plain))
    alike["with residuals"].append(likeness(around))
print({name: [round(values[i], 2) for i in (0, 1, 2, 12, 48)] for name, values in alike.items()})
assert alike["attention alone"][2] > 0.95 and alike["with residuals"][12] < 0.5

# %%
fig, ax = plots.figure()
for (name, values), marker in zip(alike.items(), ["s--", "o-"], strict=True):
    ax.plot(range(49), values, marker, markersize=4, label=name)
ax.set(xlabel="number of attentions", ylabel="mean cosine of two tokens", ylim=(-0.05, 1.05))
ax.set_title("Without residuals all tokens become one at once")
ax.legend()
plots.show(
    fig,
    alt=f"Attention alone reaches cosine {alike['attention alone'][2]:.2f} after two; with residuals it is {alike['with residuals'][12]:.2f} after twelve.",
)

# %% [markdown]
# ## 2. The residual
#
# Each attention takes means of values, and means of means are alike: two rounds, and twelve words have become one. (Dong et
# al. 2021 prove that this happens doubly exponentially fast.) Adding what came in slows it down greatly:
#
# $$x \leftarrow x + f(x)$$
#
# A layer now only writes a *change*, and a token stays itself unless a layer has something to add. The gradient gains too: the
# derivative of $x + f(x)$ is $1 + f'(x)$, so while $f$ is small it passes through unharmed.
#
# ## 3. Layer norm
#
# Adding has a price: the numbers grow from layer to layer.

# %%
grown = x
for attention in attentions:
    grown = grown + attention(grown)[0]
print(f"spread of the features: {x.std():.2f} before, {grown.std():.2f} after {len(attentions)} additions")
assert grown.std() > 2 * x.std()

# %% [markdown]
# **Layer norm** (Ba et al. 2016) brings each token back to mean 0 and variance 1 over its own C features, then lets the model
# choose a scale and a shift for each feature. A small eps keeps the division safe.
#
# $$\mathrm{norm}(x) = g \cdot \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + b$$
#
# With loops, for one token:

# %%
token = x[0, 0]
mu = sum(token.tolist()) / C
variance = sum((number - mu) ** 2 for number in token.tolist()) / C
by_loops = [(number - mu) / math.sqrt(variance + 1e-5) for number in token.tolist()]
print("ours:  ", [round(number, 4) for number in by_loops[:4]])
print("torch's:", [round(number, 4) for number in F.layer_norm(token, (C,))[:4].tolist()])
torch.testing.assert_close(torch.tensor(by_loops), F.layer_norm(token, (C,)))

# %% [markdown]
# ### Exercise 04.1 · layer norm ●●○ · 8 minutes
#
# For a whole batch, without loops.


# %% tags=["exercise-04.1"]
def layer_norm(x, gain, bias, eps):
    """x: (B, T, C), gain, bias: (C,) -> (B, T, C)"""
    ### BEGIN SOLUTION
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, correction=0)
    return gain * (x - mean) / (variance + eps).sqrt() + bias
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.layer_norm(layer_norm)

# %% [markdown]
# ## 4. GELU and the feed-forward network
#
# Attention mostly blends what tokens hold. To work on what a token has read there is the **feed-forward network**: each token
# by itself goes through a wider layer (4C), a bend, and back.
#
# $$\mathrm{ffn}(x) = W_2\,\mathrm{GELU}(W_1 x + b_1) + b_2 \qquad \mathrm{GELU}(x) = x \cdot \Phi(x)$$
#
# Φ(x) is the share of a normal distribution that lies below x: a soft switch that lets large positive numbers
# through and stops negative ones, all but a dip below 0.

# %%
grid = torch.linspace(-4, 4, 400)
fig, axes = plots.figure(1, 2, size=(8.0, 3.1))
axes[0].plot(grid, F.relu(grid), "--", label="ReLU")
axes[0].plot(grid, F.gelu(grid), label="GELU")
axes[0].set(xlabel="x", ylabel="output")
axes[0].set_title("GELU bends softly")
axes[0].legend()
off = F.gelu(grid, approximate="tanh") - F.gelu(grid)
axes[1].plot(grid, 1e4 * off, color=plots.RED)
axes[1].set(xlabel="x", ylabel="difference × 10⁴")
axes[1].set_title("The tanh formula is not the same")
plots.show(
    fig, alt="Left: ReLU with its corner and GELU without. Right: tanh formula minus exact GELU, a few ten-thousandths."
)
print(f"largest difference {off.abs().max():.1e}")
assert 1e-4 < off.abs().max() < 1e-3

# %% [markdown]
# Two formulas are in use: Google's BERT has the one with tanh, RoBERTa and Hugging Face's BERT the exact one. A difference in
# the fourth decimal is how you find out that you took the wrong one.
#
# ### Exercise 04.2 · GELU ●○○ · 5 minutes
#
# Write the exact one, with `torch.erf`: Φ(x) = (1 + erf(x / √2)) / 2.


# %% tags=["exercise-04.2"]
def gelu(x):
    """x · Φ(x), for a tensor of any shape."""
    ### BEGIN SOLUTION
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.gelu(gelu)

# %% [markdown]
# "Each token by itself" means: the network on the whole batch is the network on each token.

# %% tags=["nbval-check-output"]
widen, narrow = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
with torch.no_grad():
    together = narrow(F.gelu(widen(x)))  # (B, T, C)
    alone = narrow(F.gelu(widen(x[5, 7])))  # (C,)
torch.testing.assert_close(together[5, 7], alone)
print("token 7 of sentence 5 does not notice the others")

# %% [markdown]
# ### Exercise 04.3 · a layer ●●○ · 8 minutes
#
# Put the pieces of the picture together, in BERT's order: do something, add it, normalise. Twice. `attention` and `ffn` are
# functions of x here.


# %% tags=["exercise-04.3"]
def post_norm_layer(x, attention, ffn, norm1, norm2):
    """x: (B, T, C) -> (B, T, C)"""
    ### BEGIN SOLUTION
    x = norm1(x + attention(x))
    return norm2(x + ffn(x))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.post_norm_layer(post_norm_layer)

# %% [markdown]
# ## 5. The layer and the encoder
#
# Now as modules. `EncoderConfig` is a frozen dataclass with the numbers that define an encoder; an impossible one is refused
# when it is made. A layer can also be **pre-norm**, which normalises what goes *into* each part: GPT-2 and later models do
# so, and lesson 06 shows when it matters.

# %%
from nextbert_lite import EncoderConfig, Inside
from nextbert_lite.core.encoder import ACTIVATIONS
from nextbert_lite.validate import check_ids, check_padding_mask, check_types


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward network, each with a residual and a layer norm."""

    def __init__(self, config):
        super().__init__()
        C = config.width
        self.pre = config.norm == "pre"
        self.attention = MultiHeadAttention(C, config.heads, config.dropout)
        self.norm1 = nn.LayerNorm(C, eps=config.eps)
        self.ffn_in = nn.Linear(C, config.ffn_width)
        self.activation = ACTIVATIONS[config.activation]
        self.ffn_out = nn.Linear(config.ffn_width, C)
        self.norm2 = nn.LayerNorm(C, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def feed_forward(self, x):
        return self.ffn_out(self.activation(self.ffn_in(x)))

    def forward(self, x, mask=None, return_weights=False):
        """x: (B, T, C), mask: (B, 1 or H, 1 or T, T), True = may be attended to -> (B, T, C), weights or None."""
        if self.pre:
            attended, weights = self.attention(self.norm1(x), mask, return_weights)
            x = x + self.dropout(attended)
            x = x + self.dropout(self.feed_forward(self.norm2(x)))
        else:
            attended, weights = self.attention(x, mask, return_weights)
            x = self.norm1(x + self.dropout(attended))
            x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x, weights


# %% [markdown]
# The encoder: embeddings (lesson 01), normalised, then layers. A *token type* is a third vector, by which BERT tells sentence A
# from sentence B. Two details are RoBERTa's and cost hours when they are missed: it counts positions from 2, over real tokens
# only, so a text of three tokens and two [PAD] has the positions 2, 3, 4, 1, 1; and its eps is 1e-5, BERT's 1e-12. (*fan in*
# is the number of inputs of a layer, *hidden states* are what layers hand on.)


# %%
class Encoder(nn.Module):
    """Token ids in, one vector a token out: embeddings, then `config.layers` encoder layers."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = config.width
        self.tokens = nn.Embedding(config.vocab_size, C)
        if config.positions == "learned":
            self.positions = nn.Embedding(config.max_len + config.position_offset, C)
        if config.token_types:
            self.types = nn.Embedding(config.token_types, C)
        self.norm = nn.LayerNorm(C, eps=config.eps)  # post-norm: of the embeddings; pre-norm: of the last layer
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.apply(self.initialise)

    def initialise(self, module):
        """Draw the weights of one part: normal with config.init_std, or 1/√(fan in); biases are zero."""
        if isinstance(module, nn.Linear | nn.Embedding):
            std, fan_in = self.config.init_std, module.weight.shape[-1]
            nn.init.normal_(module.weight, std=1 / math.sqrt(fan_in) if std == "fan_in" else std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def position_ids(self, ids):
        """Return the row of the position table for each token, (B, T)."""
        B, T = ids.shape
        if not self.config.position_offset:
            return torch.arange(T, device=ids.device).expand(B, T)
        real = ids != self.config.pad_id
        return real.cumsum(1) * real + self.config.position_offset - 1

    def embed(self, ids, token_types=None):
        """Return what goes into the first layer: token + position + type embeddings, (B, T, C)."""
        x = self.tokens(ids)
        if self.config.positions == "learned":
            x = x + self.positions(self.position_ids(ids))
        types = check_types(token_types, ids, self.config.token_types)
        if self.config.token_types:
            x = x + self.types(types)
        if self.config.norm == "post":
            x = self.norm(x)
        return self.dropout(x)

    def forward(self, ids, mask=None, token_types=None, return_inside=False):
        """ids: (B, T) -> hidden states (B, T, C); with return_inside also what happened in each layer."""
        check_ids(ids, self.config.vocab_size, self.config.max_len if self.config.positions == "learned" else None)
        mask = check_padding_mask(ids != self.config.pad_id if mask is None else mask, ids, self.config.pad_id)
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        x = self.embed(ids, token_types)
        inside = Inside([x], [])
        for layer in self.layers:
            x, weights = layer(x, mask, return_weights=return_inside)
            if return_inside:
                inside.hidden.append(x)
                inside.weights.append(weights)
        if self.config.norm == "pre":
            x = self.norm(x)
        return (x, inside) if return_inside else x


# %% [markdown]
# Is it right? First against torch's own `nn.TransformerEncoder`, post-norm and pre-norm, in float64, with all weights moved
# away from their starting values and copied:

# %%
names = {
    "attention.qkv.": "self_attn.in_proj_",
    "attention.out": "self_attn.out_proj",
    "ffn_in": "linear1",
    "ffn_out": "linear2",
}
for norm in ("post", "pre"):
    ours = Encoder(EncoderConfig(vocab_size=40, width=16, heads=4, ffn_width=32, norm=norm)).double()
    for p in ours.parameters():  # fresh norms are 1 and 0, fresh biases 0: mistakes with them would not show
        p.data += 0.3 * torch.randn_like(p)
    layer = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm == "pre"
    )
    torchs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    state = {}
    for name, tensor in ours.layers.state_dict().items():
        for our_name, their_name in names.items():
            name = name.replace(our_name, their_name)
        state[f"layers.{name}"] = tensor
    torchs.load_state_dict(state)
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(seed))
    expected = torchs(ours.embed(ids))
    expected = ours.norm(expected) if norm == "pre" else expected
    torch.testing.assert_close(ours(ids), expected, rtol=1e-10, atol=1e-10)
    print(f"{norm}-norm: largest difference {(ours(ids) - expected).abs().max():.0e}")

# %% [markdown]
# Then against Hugging Face's `RobertaModel`. Its answers to our weights are stored with the course (`data/oracles/`, made by
# `tools/oracles.py`), so that nothing has to be installed or downloaded. Two texts, one padded, all layers:

# %%
from safetensors import safe_open

from nextbert_lite.files import share_dir

with safe_open(share_dir("data") / "oracles" / "roberta.safetensors", "pt") as file:
    oracle = {name: file.get_tensor(name) for name in file.keys()}
    print("made with", file.metadata()["versions"])
weights = {name.removeprefix("encoder."): t for name, t in oracle.items() if name.startswith("encoder.")}
roberta = EncoderConfig(
    vocab_size=40, width=16, layers=3, heads=4, ffn_width=32, max_len=12, pad_id=1, position_offset=2, token_types=1
)


def largest_difference(**changes):
    """Return how far an encoder with these weights and a changed configuration is from RobertaModel."""
    import dataclasses

    encoder = Encoder(dataclasses.replace(roberta, **changes)).double()
    state = {name: tensor for name, tensor in weights.items()}
    state["positions.weight"] = state["positions.weight"][: encoder.positions.num_embeddings]
    encoder.load_state_dict(state)
    with torch.no_grad():
        _, inside = encoder(oracle["ids"], return_inside=True)
    real = oracle["ids"] != roberta.pad_id
    return max(
        (h[real] - expected[real]).abs().max().item()
        for h, expected in zip(inside.hidden, oracle["hidden"], strict=True)
    )


print(f"as RoBERTa:           {largest_difference():.0e}")
print(f"positions from 0:     {largest_difference(position_offset=0):.0e}")
print(f"BERT's eps, 1e-12:    {largest_difference(eps=1e-12):.0e}")
print(f"the tanh GELU:        {largest_difference(activation='gelu_tanh'):.0e}")
print(f"pre-norm:             {largest_difference(norm='pre'):.0e}")
assert largest_difference() < 1e-10
assert (
    min(
        largest_difference(position_offset=0), largest_difference(eps=1e-12), largest_difference(activation="gelu_tanh")
    )
    > 1e-7
)

# %% [markdown]
# Equal to RoBERTa to ten digits and more, and each of the famous slips shows. **What you built is what you import.**
#
# ## 6. Take one away
#
# What is each piece good for? We train encoders whose *layers* lack one piece, on the toy world: 30 % of the words are selected,
# most of them hidden, and the model fills them in (lesson 05 says how and why). The embeddings' norm and the read-out at the
# end stay as they are. Four layers, 300 steps, everything else the same. Before you look: which
# missing piece hurts most? Is there one that you could do without?

# %%
from nextbert_lite import MaskedLanguageModel, fit, mask_tokens

world = ToyWorld()
tokenizer = world.tokenizer()


class WithoutResidual(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        attended, weights = self.attention(x, mask, return_weights)
        return self.norm2(self.feed_forward(self.norm1(attended))), weights


class WithoutNorm(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        attended, weights = self.attention(x, mask, return_weights)
        x = x + attended
        return x + self.feed_forward(x), weights


class WithoutAttention(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        return self.norm2(x + self.feed_forward(x)), None


class WithoutFeedForward(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        attended, weights = self.attention(x, mask, return_weights)
        return self.norm1(x + attended), weights


def hidden_words(step):
    """Return batch `step` of fresh sentences with words hidden."""
    ids, mask = world.sample_ids(64, seed=1000 + step)
    corrupted, labels = mask_tokens(ids, tokenizer, rate=0.3, generator=seeded(seed, step))
    return {"ids": corrupted, "labels": labels, "mask": mask}


def train_with(layer_class, positions="learned"):
    """Train four layers of this class and return the mean loss of the last 30 of 300 steps."""
    torch.manual_seed(seed)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size, layers=4, max_len=20, positions=positions, init_std="fan_in"
    )
    encoder = Encoder(config)
    encoder.layers = nn.ModuleList(layer_class(config) for _ in range(config.layers)).apply(encoder.initialise)
    history = fit(MaskedLanguageModel(encoder), hidden_words, steps=300, lr=2e-3, warmup=50, seed=seed)
    return sum(history.loss[-30:]) / 30


variants = {
    "nothing": (EncoderLayer, "learned"),
    "residual": (WithoutResidual, "learned"),
    "positions": (EncoderLayer, "none"),
    "attention": (WithoutAttention, "learned"),
    "norm": (WithoutNorm, "learned"),
    "feed-forward": (WithoutFeedForward, "learned"),
}
# %%
live = variants if every_row else {name: variants[name] for name in ("nothing", "residual")}
results_parts = [{"seed": seed, "missing": name, "loss": train_with(*live[name])} for name in live]
labels = {name: "the whole" if name == "nothing" else f"without {name}" for name in variants}
for row in results_parts:
    print(f"{labels[row['missing']]:<20}: loss {row['loss']:.2f} nats")
assert results_parts[1]["loss"] > results_parts[0]["loss"] + 1

# %% [markdown]
# Two of them you have just seen. All six, for three seeds, as stored:

# %%
table = stored_table("04_parts")
real, _ = world.sample_ids(5000, seed=1)
shares = torch.bincount(real[real > 4]).double() / (real > 4).sum()  # ids 0 to 4 are not words
frequencies = -(shares[shares > 0] * shares[shares > 0].log()).sum().item()
print(f"knowing only how frequent each word is: {frequencies:.2f}")

by_part = {name: [float(r["loss"]) for r in table if r["missing"] == name] for name in variants}
for name, losses in by_part.items():
    print(f"{labels[name]:<20}: {'  '.join(f'{loss:.2f}' for loss in losses)}")

fig, ax = plots.figure(size=(7.0, 3.0))
for row, (name, losses) in enumerate(reversed(by_part.items())):
    ax.plot(losses, [row] * len(losses), "o", color=plots.BLUE if name == "nothing" else plots.RED)
ax.set_yticks(range(len(by_part)), [labels[name] for name in reversed(by_part)])
ax.axvline(frequencies, color=plots.GREY, linestyle=":")
ax.text(frequencies - 0.03, 1.7, "word\nfrequencies", color=plots.GREY, fontsize=9, ha="right", va="top")
ax.set(xlabel="loss after 300 steps (nats per selected word)", xlim=(0, None))
ax.set_title("Take one piece away: what breaks")
plots.show(
    fig,
    alt="Losses of six variants, three seeds each: without residual it is worst, without feed-forward like the whole.",
)
full = max(by_part["nothing"])
assert min(by_part["residual"]) > full + 1 and min(by_part["attention"]) > full + 0.5
assert min(by_part["positions"]) > full + 0.5 and min(by_part["norm"]) > full + 0.1
assert abs(sum(by_part["feed-forward"]) - sum(by_part["nothing"])) / 3 < 0.3

# %% [markdown]
# Without residuals little more than the words' frequencies is learned. Without attention a hidden word knows only its place;
# without positions it does not even know that. Without norms it is clearly behind after the same steps. And the feed-forward network, which holds two thirds of a layer's
# weights? On this task, at this size, it is hardly missed. The toy world is grammar, and grammar is *finding*. What
# feed-forward networks do in models of real language this task cannot tell.
#
# ## 7. Depth is reach
#
# What do more layers buy? Here is a task that shows it exactly. 13 places hold pointers: place i says "go to place f(i)", and
# following the pointers one visits all places in turn. Read off where 1, 2, 4 and 8 hops lead from each place. The model:
# pre-norm attention with residuals, one head, no feed-forward.
#
# ### Exercise 04.4 · predict the result ●●○ · 5 minutes
#
# With no layer, a place knows its own pointer: one hop. How many hops along a chain can **three** layers follow?

# %% tags=["exercise-04.4"]
farthest = None
### BEGIN SOLUTION
farthest = 8  # each layer doubles: a place reads, from where it points, where that place points to
### END SOLUTION

# %% tags=["nbval-check-output"]
check.reach(farthest)


# %%
class Pointers(nn.Module):
    """Attention layers with residuals that follow pointers among 13 places."""

    def __init__(self, layers, places=13, C=64):
        super().__init__()
        self.target, self.place = nn.Embedding(places, C), nn.Embedding(places, C)
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in range(layers + 1))
        self.attentions = nn.ModuleList(MultiHeadAttention(C, H=1) for _ in range(layers))
        self.read = nn.Linear(C, 4 * places)

    def forward(self, f):
        """f: (B, 13) pointers -> logits (B, 13, 4, 13) for 1, 2, 4 and 8 hops."""
        x = self.target(f) + self.place.weight
        for norm, attention in zip(self.norms, self.attentions, strict=False):
            x = x + attention(norm(x))[0]
        return self.read(self.norms[-1](x)).unflatten(-1, (4, -1))

    def loss(self, f, answers):
        return F.cross_entropy(self(f).flatten(0, 2), answers.flatten())


def random_cycles(n, *numbers):
    """Return n random cycles through 13 places, (n, 13), and where 1, 2, 4 and 8 hops lead, (n, 13, 4)."""
    order = torch.rand(n, 13, generator=seeded(*numbers)).argsort(dim=1)
    f = torch.empty_like(order).scatter_(1, order, order.roll(-1, 1))
    hops = [f]
    for _ in range(3):
        hops.append(hops[-1].gather(1, hops[-1]))  # twice as far
    return f, torch.stack(hops, dim=2)


def follow(layers, steps):
    """Train a model with so many layers; return the share of right answers for 1, 2, 4 and 8 hops."""
    torch.manual_seed(seed)
    model = Pointers(layers)
    fit(
        model,
        lambda step: dict(zip(("f", "answers"), random_cycles(64, seed, step), strict=True)),
        steps,
        lr=5e-3,
        warmup=100,
    )
    f, answers = random_cycles(500, seed, 10**6)
    with torch.no_grad():
        return (model.cpu()(f).argmax(-1) == answers).float().mean((0, 1)).tolist()


steps = {0: 300, 1: 500, 2: 2500, 3: 2000}
results_hops = []
for layers in steps if every_row else [2]:
    right = follow(layers, steps[layers])
    results_hops.append({"seed": seed, "layers": layers, **{f"hops_{2**i}": share for i, share in enumerate(right)}})
    print(f"{layers} layers: 1 hop {right[0]:.2f}, 2 hops {right[1]:.2f}, 4 hops {right[2]:.2f}, 8 hops {right[3]:.2f}")
assert all(
    min(r[f"hops_{k}"] for k in (1, 2, 4)) > 0.98 and r["hops_8"] < 0.7 for r in results_hops if r["layers"] == 2
)

# %% [markdown]
# Two layers: four hops, and eight are not solved. The whole table, three seeds:

# %%
table = stored_table("04_hops")
right = torch.tensor(
    [[[float(r[f"hops_{k}"]) for k in (1, 2, 4, 8)] for r in table if int(r["layers"]) == n] for n in range(4)]
)
fig, ax = plots.figure(size=(5.6, 3.4))
image = ax.imshow(right.mean(1), vmin=0, vmax=1, aspect="auto")
for n in range(4):
    for i in range(4):
        share = right[n, :, i].mean().item()
        ax.text(i, n, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.55 else "#303030")
ax.set_xticks(range(4), ["1", "2", "4", "8"])
ax.set(xlabel="hops to follow", ylabel="layers", yticks=range(4))
ax.set_title("Each layer doubles the reach")
fig.colorbar(image, ax=ax, label="share right, mean of 3 seeds")
plots.show(
    fig, alt="A staircase: no layer solves 1 hop, one layer 2, two layers 4, three layers 8; the rest is not solved."
)
for n in range(4):
    for i in range(4):
        solved = i <= n
        assert (right[n, :, i].min() > 0.98) if solved else (right[n, :, i].max() < 0.7)
print(f"by chance: 1 / 11 = {1 / 11:.2f}, for a place knows that the answer is neither itself nor where it points")

# %% [markdown]
# After layer 1 a place holds where it leads in two hops, because it read that from the place it points to. After layer 2 that
# place holds two hops too, so it reads four. Layers do not take one step each: they **double**. (Cells a little above chance
# can rule out more places. And "solved" means: learned in these steps.)
#
# ## 8. What it costs
#
# A layer's weights: $4C^2$ in attention, $8C^2$ in the feed-forward network (with its width 4C), and small change. So
# $12 C^2$ a layer, and $V \cdot C$ for the words.

# %% tags=["nbval-check-output"]
base = EncoderConfig.preset("base", vocab_size=30522, token_types=2)  # BERT-base's sizes
with torch.device("meta"):  # shapes only, no memory
    model = Encoder(base)
counted = sum(p.numel() for p in model.parameters())
C, L = base.width, base.layers
by_formula = L * (12 * C**2 + 13 * C) + (base.vocab_size + base.max_len + base.token_types + 2) * C
print(f"counted {counted:,}, by formula {by_formula:,}; 12 C² L alone: {12 * C**2 * L:,}")
assert counted == by_formula

# %% [markdown]
# The work: every weight of a layer is used once for each token, a multiplication and an addition, so $24 C^2$ operations per
# token and layer, plus $4TC$ for scores and blends. Counted by torch while it runs:

# %% tags=["nbval-check-output"]
from torch.utils.flop_counter import FlopCounterMode

small = Encoder(EncoderConfig.preset("small", vocab_size=1000, init_std="fan_in"))
c = small.config
for T in (32, 128):
    ids = torch.randint(5, 1000, (1, T))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(ids, return_inside=True)  # the open formula: torch counts its products
    formula = c.layers * T * (24 * c.width**2 + 4 * T * c.width)
    print(f"T = {T:3}: counted {counter.get_total_flops():,}, by formula {formula:,}")
    assert counter.get_total_flops() == formula

# %% [markdown]
# ### Exercise 04.5 · find the bug ●●○ · 6 minutes
#
# Somebody stacks layers like this. It runs without a complaint:

# %% tags=["nbval-check-output"]
layers = nn.ModuleList([nn.Linear(3, 3)] * 6)
print(len(layers), "layers,", sum(p.numel() for p in layers.parameters()), "parameters; one layer has", 3 * 3 + 3)
assert sum(p.numel() for p in layers.parameters()) == 12

# %% [markdown]
# Write it so that there are n layers with weights, and starting values, of their own, in an `nn.ModuleList`.


# %% tags=["exercise-04.5"]
def stack(make_layer, n):
    """make_layer: a function without arguments that returns a new layer -> nn.ModuleList of n layers"""
    ### BEGIN SOLUTION
    return nn.ModuleList(make_layer() for _ in range(n))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.stack(stack)

# %% [markdown]
# ## 9. The whole encoder on a real sentence
#
# A sentence of NumPy's documentation goes through four layers of four heads. Nothing has been trained: what do the maps look
# like?

# %%
from nextbert_lite import load_docs, train_bpe

docs = load_docs()
bpe = train_bpe((document.text for document in docs.train[::10]), vocab_size=2048)
sentence = "Return the shape of an array."
ids = torch.tensor([bpe.encode(sentence)])
torch.manual_seed(seed)
encoder = Encoder(EncoderConfig.preset("small", vocab_size=bpe.vocab_size, layers=4, init_std="fan_in")).eval()
with torch.no_grad():
    hidden, inside = encoder(ids, return_inside=True)
pieces = [piece.strip() or "␣" for piece in bpe.tokens(ids[0])]
print(
    "hidden states:",
    tuple(hidden.shape),
    " maps:",
    len(inside.weights),
    "layers of",
    tuple(inside.weights[0].shape[1:]),
)
fig = plots.attention_heads(
    torch.cat(inside.weights), pieces, title="Untrained: no pattern at first, then the same stripes everywhere"
)
plots.show(
    fig, alt="Sixteen maps, four layers by four heads: scattered patches in layer 1, vertical stripes in layer 4."
)
by_layer = [likeness(hidden) for hidden in inside.hidden]
print("mean cosine of two tokens, from the embeddings on:", [round(cosine, 2) for cosine in by_layer])
assert by_layer[-1] > by_layer[0] + 0.3

# %% [markdown]
# In layer 1 each head looks here and there, at random. Further up the maps turn into stripes: all tokens look at the same few,
# because they have begun to resemble each other, as in section 1. Residuals slow that down, they do not stop it; training
# does. In lesson 06 you train such an encoder, and one of its heads learns to find the subject of a verb.
#
# The same maps, to be touched. Go down from layer 1 to layer 4, and walk over the tokens each time. In layer 4, how much
# does it still matter *which* token looks?

# %%
from nextbert_lite import AttentionExplorer, show

view = AttentionExplorer(
    pieces, torch.cat(inside.weights), token=3, title="Does it still matter in layer 4 which token looks?"
)
show(
    view,
    alt="Sixteen small maps, four layers by four heads, to be chosen; the first one large, with one token's weights as arcs.",
)

# %% [markdown]
# One number for it: half the sum of the differences between two tokens' weights, 0 if they look alike, 1 if at different tokens. The mean
# over all pairs of tokens and all heads, layer by layer:

# %%
apart = [
    (w[0, :, :, None] - w[0, :, None]).abs().sum(-1).mean().item() / 2 for w in inside.weights
]  # over (H, T, T, S)
print("how differently two tokens look, layer 1 to 4:", [round(value, 2) for value in apart])
assert apart[3] < 0.8 * apart[0]

# %% [markdown]
# ## What to remember
#
# * **x + f(x)**: residuals keep tokens apart for longer and let gradients through. **Norms** keep the numbers in range.
#   **Attention** moves information between tokens, the **feed-forward** network works on each token alone.
# * BERT is **post-norm**: norm(x + f(x)). Details decide whether weights fit: eps, the exact GELU, RoBERTa's positions from 2.
# * **Depth is reach**: on a task of pure following, each layer doubles it.
# * $12C^2$ weights for each layer, and $24C^2 + 4TC$ operations per token.
#
# **What this scale cannot show.** Our four post-norm layers were trained with 50 steps of warm-up; what happens without, and why
# later models are pre-norm (Xiong et al. 2020), is a question for lesson 06. What feed-forward networks store needs data that
# has something to store.
#
# **An open problem.** How many layers does a task need? For following pointers we could measure it. For language nobody can say
# beforehand which depth is worth its cost.
#
# **Where this comes from**
#
# * Ashish Vaswani et al., *Attention Is All You Need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762).
# * Jacob Devlin et al., *BERT*, 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805).
# * Yinhan Liu et al., *RoBERTa*, 2019, [arXiv:1907.11692](https://arxiv.org/abs/1907.11692).
# * Jimmy Lei Ba, Jamie Ryan Kiros and Geoffrey Hinton, *Layer Normalization*, 2016,
#   [arXiv:1607.06450](https://arxiv.org/abs/1607.06450).
# * Dan Hendrycks and Kevin Gimpel, *Gaussian Error Linear Units*, 2016,
#   [arXiv:1606.08415](https://arxiv.org/abs/1606.08415).
# * Yihe Dong, Jean-Baptiste Cordonnier and Andreas Loukas, *Attention Is Not All You Need*, 2021,
#   [arXiv:2103.03404](https://arxiv.org/abs/2103.03404).
# * Ruibin Xiong et al., *On Layer Normalization in the Transformer Architecture*, 2020,
#   [arXiv:2002.04745](https://arxiv.org/abs/2002.04745).
#
# **Next:** lesson 05 hides words, so that the encoder has something to learn.
