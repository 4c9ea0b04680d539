# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: The encoder
#     question: What has to stand around attention so that layers can be stacked?
#     minutes: 150
#     part: "Part I: build an encoder"
# ---

# %% [markdown]
# # 04 · The encoder
#
# Attention lets tokens read other tokens, and BERT does it in twelve layers. But if you stack twelve attention layers and
# nothing else, all tokens of a text soon point in the same direction. This lesson adds what is missing piece by piece, asks
# what each piece is good for, and ends with the real thing: an encoder, written by you, that computes what RoBERTa computes.
#
# **The question of this lesson:** what has to stand around attention so that layers can be stacked?
#
# | | |
# |---|---|
# | You will | build layer norm, GELU, an encoder layer and the whole encoder; check that yours equals PyTorch's and Hugging Face's; see what the initialisation of the weights decides; and measure what depth buys |
# | You need | lessons 02 and 03; lesson 01 for the embeddings |
# | It takes | about two and a half hours, six exercises, two of them builds; the machine needs a minute or two |
#
# Here is one layer, as BERT has it. The grey line is the **residual connection**: what comes in also goes around.

# %% tags=["hide-input"]
from nextbert_lite import plots

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

# %%
import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import MultiHeadAttention, ToyWorld, seeded, stored_table
from nextbert_lite.checks import lesson_04 as check

# %% [markdown]
# Two values for the whole lesson:

# %% tags=["parameters"]
seed = 0  # another number draws other weights and other data
every_row = False  # True trains every row of the stored tables, which takes some minutes

# %% [markdown]
# ## 1. Attention alone makes all tokens alike
#
# Each head's output is a weighted mean of values (lesson 02), and weighted means lie between the things they are means of, so
# they are usually more alike. Here are three tokens with two features each, and attention weights that differ quite a bit
# from row to row. Compare the spread of the three tokens before and after.

# %% tags=["nbval-check-output"]
values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # (T, D)
weights = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]])  # (T, T), each row sums to 1
once = weights @ values
print("values         ", values.tolist())
print("weights @ values", [[round(n, 2) for n in row] for row in once.tolist()])
print("and once more   ", [[round(n, 2) for n in row] for row in (weights @ once).tolist()])

# %% [markdown]
# Now for real attention layers, 48 of them, on 64 texts of 12 random vectors. How similar do the tokens of a text become? We
# measure the mean **cosine similarity** of two tokens: about 0 for independent random vectors, 1 when they point the same
# way.
#
# The numbers that the layers' weights have before any training, the **initialisation**, are a choice too. Three are common,
# and in this lesson they will matter more than once:
#
# * **1/√(fan in)**, where *fan in* is the number of inputs of a layer: with this standard deviation, a product keeps the size
#   of the numbers that go through it;
# * **torch's default** for `nn.Linear`, which is uniform with standard deviation 1/√(3 · fan in), and has random biases;
# * **0.02**, BERT's and GPT-2's, whatever the width. The biases are zero, as with the first. (BERT's original code cuts the
#   normal distribution off at two standard deviations.)

# %%
C, H, T = 64, 4, 12
starts = {"1/√(fan in)": 1 / math.sqrt(C), "torch's default": None, "BERT's 0.02": 0.02}


def fresh_attention(std, C=64, H=4):
    """Return an attention with weights of this standard deviation and biases of zero; None: as torch makes it."""
    attention = MultiHeadAttention(C, H)
    for part in (attention.qkv, attention.out) if std else ():
        nn.init.normal_(part.weight, std=std)
        nn.init.zeros_(part.bias)
    return attention.double().requires_grad_(False)


def similarity(x):
    """Return the mean cosine similarity of two different tokens of a text; x: (B, T, C)."""
    unit = x / x.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.transpose(1, 2)  # (B, T, T), with ones on the diagonal
    T = x.shape[1]
    return ((cosines.sum((1, 2)) - T) / (T * (T - 1))).mean().item()


# %% [markdown]
# We run the stack twice for each initialisation: attention alone, $x \leftarrow f(x)$, and with what came in added,
# $x \leftarrow x + f(x)$. The sum that is handed from layer to layer is called the **residual stream**, and $f$, which is
# added to it, the **residual branch**. (A third run in the code divides what each layer adds by √48; it is used below.) Guess
# the similarity after 2 and after 12 layers, for each of the six.

# %%
torch.manual_seed(seed)
x0 = torch.randn(64, T, C).double()  # double: at 0.02 the numbers become very small
stacks = {name: [fresh_attention(std) for _ in range(48)] for name, std in starts.items()}
steps_of = {
    "alone": lambda x, f: f(x)[0],
    "with residual": lambda x, f: x + f(x)[0],
    "residual, f / √48": lambda x, f: x + f(x)[0] / math.sqrt(48),
}


def measured(attentions, step):
    """Return the similarity and the standard deviation of the features before the first layer and after each."""
    x, found = x0, [(similarity(x0), x0.std().item())]
    for f in attentions:
        x = step(x, f)
        found.append((similarity(x), x.std().item()))
    return found


runs = {(name, kind): measured(stacks[name], steps_of[kind]) for name in starts for kind in steps_of}
print(f"{'similarity of two tokens after':<33}" + "  ".join(f"{i:>4}" for i in (1, 2, 12, 48)), "layers")
for name in starts:
    for kind in ("alone", "with residual"):
        shown = "  ".join(f"{runs[name, kind][i][0]:z4.2f}" for i in (1, 2, 12, 48))
        print(f"{name:>16}, {kind:<13}  {shown}")
    assert runs[name, "alone"][2][0] > 0.95
at_12 = [runs[name, "with residual"][12][0] for name in starts]
assert at_12[0] > 0.8 and 0.1 < at_12[1] < 0.6 and abs(at_12[2]) < 0.05

# %% tags=["hide-input"]
fig, ax = plots.figure()
for (name, colour), marker in zip(zip(starts, (plots.RED, plots.ORANGE, plots.BLUE), strict=True), "so^", strict=True):
    for kind, line in (("alone", ":"), ("with residual", "-")):
        ax.plot([s for s, _ in runs[name, kind]], line + marker, markersize=3, color=colour, label=f"{name}, {kind}")
ax.set(xlabel="number of attention layers", ylabel="mean cosine similarity of two tokens", ylim=(-0.05, 1.05))
ax.set_title("A residual keeps tokens apart if the layer adds little")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.show(
    fig,
    alt="Alone, all three initialisations reach similarity 1 after two layers. With residuals, 0.02 stays at 0, torch's default climbs slowly to 1 by 48 layers, and 1/√(fan in) is near 1 after 12.",
)

# %% [markdown]
# Attention alone collapses from each of these three initialisations: after two layers, twelve tokens point in one direction.
# (Larger weights only delay it.) Dong et al. (2021) prove, for weights that are not too large, that such a stack converges
# "doubly exponentially to a rank-1 matrix". With the residual the answer depends on the initialisation. At 0.02 the tokens
# stay apart, with torch's default they drift together, and with 1/√(fan in) twelve layers make them point in nearly one
# direction.
#
# What differs is how much the branch adds to the stream. Compare the two sizes in the first layer:

# %%
for name in starts:
    (_, before), (_, added) = runs[name, "alone"][:2]
    smaller = runs[name, "residual, f / √48"][48][0]
    print(
        f"{name:>15}: f(x) is {added / before:.3f} times as large as x; with f / √48, similarity {smaller:z.2f} at 48"
    )
    assert smaller < 0.3
assert runs["1/√(fan in)", "with residual"][48][0] > 0.95

# %% [markdown]
# The last number is the test of this explanation: the *same* weights, each addition divided by √48, and the tokens stay
# apart for 48 layers. GPT-2's authors scale the weights themselves, once: "We scale the weights of residual layers at
# initialization by a factor of 1/√N where N is the number of residual layers" (Radford et al. 2019). At the start that is
# the same as our division; during training it is not. So, if the tokens are to stay apart **at the start, the branch must
# be small beside the stream.** Whether a model then learns better is another question: in section 7, with four layers,
# the larger initialisation learns faster.
#
# Torch's default has one more cause of drift, its random biases, which add the same vector to every token. How much of the
# drift is theirs? Here are the same weights with biases of zero:

# %%
stacks["no biases"] = []
for attention in stacks["torch's default"]:
    state = {name: t * (not name.endswith("bias")) for name, t in attention.state_dict().items()}
    stacks["no biases"].append(fresh_attention(None))
    stacks["no biases"][-1].load_state_dict(state)
unbiased = measured(stacks["no biases"], steps_of["with residual"])
for layers in (12, 48):
    biased = runs["torch's default", "with residual"][layers][0]
    print(f"torch's default, similarity after {layers} layers: {biased:.2f}; without biases {unbiased[layers][0]:.2f}")
assert unbiased[12][0] < at_12[1] - 0.02 and unbiased[12][0] > 0.05

# %% [markdown]
# So a part of the drift comes from the biases, and the tokens drift together without them too.
#
# One caution. Is 0.02 small? That depends on the width, because a sum over more inputs is larger. Here are twelve layers at
# three widths; 768 is BERT's. At that width the tokens have already begun to drift together:

# %%
for width, heads in ((64, 4), (256, 4), (768, 12)):
    torch.manual_seed(seed)
    stream = torch.randn(8, T, width).double()
    for _ in range(12):
        stream = stream + fresh_attention(0.02, width, heads)(stream)[0]
    print(f"C = {width}: 1/√C = {width**-0.5:.3f}; at 0.02, similarity {similarity(stream):z.2f} after 12 layers")
assert 0.05 < similarity(stream) < 0.4

# %% [markdown]
# ## 2. The residual connection
#
# > "We employ a residual connection around each of the two sub-layers, followed by layer normalization. That is, the output
# > of each sub-layer is LayerNorm(x + Sublayer(x))." (Vaswani et al. 2017, section 3.1)
#
# $$x \leftarrow x + f(x)$$
#
# A layer now writes only a *change*, and a token stays as it is unless a layer has something to add. The gradient benefits
# too: the derivative of $x + f(x)$ is $1 + f'(x)$, so while $f'$ is small beside 1, the gradient passes through one layer
# nearly unchanged; over L layers, $f'$ has to be small beside 1/L. (It is $f'$ that must be small: a small $f$ can be
# steep.) But note that this is the derivative of the sum. In BERT a norm follows, and the gradient has to pass through it in
# each layer. Xiong et al. (2020) prove that the gradients near the output are then large at the start, and give this as the
# reason for the warm-up of the learning rate; lesson 06 measures when it is needed.

# %% [markdown]
# ## 3. Layer norm
#
# Adding has a price: the numbers may grow. By how much, after 48 layers, for each initialisation?

# %%
for name in starts:
    print(f"{name:>15}: standard deviation {runs[name, 'with residual'][48][1]:,.1f} after 48 additions, 1 before")
grown = [runs[name, "with residual"][48][1] for name in starts]
assert grown[0] > 1e4 and 2 < grown[1] < 30 and abs(grown[2] - 1) < 0.1
print(f"1/√(fan in): a factor of {grown[0] ** (1 / 48):.2f} a layer; √2 is {math.sqrt(2):.2f}")

# %% [markdown]
# From 1 to millions with the first, hardly at all with the last. (With the first, once the tokens agree, the mean over them
# no longer makes the branch smaller. Each layer then adds about as much as is there, in another direction, and that is
# roughly a factor of √2.) **Layer norm** (Ba et al. 2016) brings each token back to mean 0 and variance 1 over its own C
# features, then lets the model choose a gain and a bias for each feature. A small $\varepsilon$ (eps) keeps the division
# safe:
#
# $$\mathrm{norm}(x) = g \cdot \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + b$$
#
# With loops, for one token:

# %%
token = x0[0, 0].float()
mu = sum(token.tolist()) / C
variance = sum((number - mu) ** 2 for number in token.tolist()) / C
by_loops = [(number - mu) / math.sqrt(variance + 1e-5) for number in token.tolist()]
print("ours:   ", [round(number, 4) for number in by_loops[:4]])
print("torch's:", [round(number, 4) for number in F.layer_norm(token, (C,))[:4].tolist()])
torch.testing.assert_close(torch.tensor(by_loops), F.layer_norm(token, (C,)))

# %% [markdown]
# ### Exercise 04.1 · layer norm ●●○ · 8 minutes
#
# Write it for a whole batch without loops, from `mean` and `var` (`F.layer_norm` would pass the check too, but it is what you
# are about to understand). Return a new tensor; `x` must stay as it is.


# %% tags=["exercise-04.1"]
def layer_norm(x, gain, bias, eps):
    """x: (B, T, C), gain, bias: (C,), eps: a number -> (B, T, C)"""
    ### BEGIN SOLUTION
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, correction=0)
    return gain * (x - mean) / (variance + eps).sqrt() + bias
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.layer_norm(layer_norm)

# %% [markdown]
# Does the norm also keep tokens apart? Guess, then run the stack once more, with the norm after each addition, as BERT has
# it.

# %%
for name in starts:
    normed = measured(stacks[name], lambda x, f: F.layer_norm(x + f(x)[0], (C,)))
    print(f"{name:>15}: standard deviation {normed[48][1]:.2f}, similarity {normed[12][0]:z.2f} after 12 layers")
    assert abs(normed[48][1] - 1) < 0.01
    assert abs(normed[12][0] - runs[name, "with residual"][12][0]) < 0.2

# %% [markdown]
# It does not. The norm keeps the numbers in range, and the size of the branch beside the stream decides whether tokens stay
# apart. Section 7 shows what each is worth in training.

# %% [markdown]
# ## 4. GELU and the feed-forward network
#
# Attention mixes what different tokens hold. The **feed-forward network** then processes what each token has gathered. It
# acts on every token separately: a linear layer to a larger width (usually 4C), a non-linearity, called the **activation
# function**, and a linear layer back to C.
#
# $$\mathrm{ffn}(x) = W_2\,\mathrm{GELU}(W_1 x + b_1) + b_2 \qquad \mathrm{GELU}(x) = x \cdot \Phi(x)$$
#
# Φ(x) is the probability that a standard normal number is below x. GELU (Hendrycks and Gimpel 2016) is therefore a soft
# switch: for a large x it returns nearly x, for a very negative x nearly 0, and it is smooth where ReLU has a corner.

# %% tags=["hide-input"]
grid = torch.linspace(-4, 4, 400)
off = F.gelu(grid, approximate="tanh") - F.gelu(grid)
fig, axes = plots.figure(1, 2, size=(8.0, 3.1))
axes[0].plot(grid, F.relu(grid), "--", label="ReLU")
axes[0].plot(grid, F.gelu(grid), label="GELU")
axes[0].set(xlabel="x", ylabel="output")
axes[0].set_title("GELU: like ReLU, but smooth, with a dip")
axes[0].legend()
axes[1].plot(grid, 1e4 * off, color=plots.RED)
axes[1].set(xlabel="x", ylabel="tanh formula − exact, × 10⁴")
axes[1].set_title("The tanh formula differs slightly")
plots.show(
    fig, alt="Left: ReLU with its corner and GELU without. Right: tanh formula minus exact GELU, a few ten-thousandths."
)
print(f"largest difference {off.abs().max():.1e}")
assert 1e-4 < off.abs().max() < 1e-3

# %% [markdown]
# Two formulas are in use: the exact one, and an approximation by tanh. The code that Google released with BERT in October
# 2018 has the exact one; in February 2019 it was changed to tanh. Hugging Face's BERT and RoBERTa kept the exact formula,
# GPT-2 has tanh. So both have been "BERT's GELU", and a difference in the fourth decimal between two implementations can
# be just this.

# %% [markdown]
# ### Exercise 04.2 · GELU ●○○ · 5 minutes
#
# Write the exact one with `torch.erf`: Φ(x) = (1 + erf(x / √2)) / 2. Return a new tensor.


# %% tags=["exercise-04.2"]
def gelu(x):
    """x · Φ(x), for a tensor of any shape."""
    ### BEGIN SOLUTION
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.gelu(gelu)

# %% [markdown]
# "Every token separately" means that applying the network to the whole batch gives the same as applying it to each token
# alone:

# %% tags=["nbval-check-output"]
widen, narrow = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
with torch.no_grad():
    together = narrow(F.gelu(widen(x0.float())))  # (B, T, C)
    alone = narrow(F.gelu(widen(x0[5, 7].float())))  # (C,)
torch.testing.assert_close(together[5, 7], alone)
print("token 7 of text 5 does not notice the others")

# %% [markdown]
# ## 5. The layer
#
# Now the pieces of the picture become a module. `EncoderConfig` is a dataclass with the numbers that define an encoder; it is
# frozen, and refuses impossible values. Everything that you build below reads its sizes from it.

# %% tags=["nbval-check-output"]
from nextbert_lite import EncoderConfig, Inside
from nextbert_lite.core.encoder import ACTIVATIONS
from nextbert_lite.validate import check_ids, check_padding_mask, check_types

for name, value in dataclasses.asdict(EncoderConfig(vocab_size=196)).items():
    print(f"{name:>16} = {value!r}")
print("activation functions:", ", ".join(ACTIVATIONS))

# %% [markdown]
# BERT's order is **post-norm**: do something, add it, normalise the sum. GPT-2 and most models since are **pre-norm**: they
# normalise what goes *into* each part, and nothing touches the sum.
#
# | | post-norm (`config.norm == "post"`) | pre-norm (`"pre"`) |
# |---|---|---|
# | first half | x ← norm1(x + attention(x)) | x ← x + attention(norm1(x)) |
# | second half | x ← norm2(x + ffn(x)) | x ← x + ffn(norm2(x)) |

# %% [markdown]
# ### Exercise 04.3 · build an encoder layer ●●● · 30 minutes
#
# Write both orders as one module. The check fills its parts with weights by name, so they must have these names:
#
# * `attention`: a `MultiHeadAttention(C, heads, dropout)` from lesson 03, with `config.width` as C;
# * `norm1`, `norm2`: an `nn.LayerNorm(C, eps=config.eps)` for each half;
# * `ffn_in`, `ffn_out`: `nn.Linear`, C → `config.ffn_width` → C, with biases.
#
# `forward` gets `x` (B, T, C); `mask`, which it hands on to the attention; and `return_weights`. It returns two things: the
# new (B, T, C), and the attention's weights (B, H, T, T) if they were asked for, else None. The activation function is
# `ACTIVATIONS[config.activation]`, a module that is made already: call it with a tensor. In training, dropout with the
# probability `config.dropout` acts on what each half *adds*, before it is added, and nowhere else (torch's layer has one
# more, inside the feed-forward network). The attention has its own, inside. Change no argument in place. The
# initialisation does not matter here: the encoder will draw the weights.
#
# The check goes in stages. Write post-norm without dropout first, run the check, and go on from what it says.


# %% tags=["exercise-04.3", "my-bert-encoder"]
class EncoderLayer(nn.Module):
    """Attention, then a feed-forward network, each with a residual and a layer norm."""

    def __init__(self, config):
        super().__init__()
        ### BEGIN SOLUTION
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
        ### END SOLUTION

    def forward(self, x, mask=None, return_weights=False):
        """x: (B, T, C), mask: (B, 1 or H, 1 or T, T), True = may be attended to -> (B, T, C), weights or None."""
        ### BEGIN SOLUTION
        if self.pre:
            attended, weights = self.attention(self.norm1(x), mask, return_weights)
            x = x + self.dropout(attended)
            x = x + self.dropout(self.feed_forward(self.norm2(x)))
        else:
            attended, weights = self.attention(x, mask, return_weights)
            x = self.norm1(x + self.dropout(attended))
            x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x, weights
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.encoder_layer(EncoderLayer)

# %% [markdown]
# From here on the lesson uses your layer if it passes, and the course's if not:

# %% tags=["nbval-check-output"]
EncoderLayer = check.mine("04.3", EncoderLayer)

# %% [markdown]
# ### Exercise 04.4 · find the bug ●●○ · 6 minutes
#
# Somebody stacks six layers like this. (A small linear layer stands for an encoder layer.) It runs without a complaint, and
# the model trains, but the number of parameters looks wrong:

# %% tags=["nbval-check-output"]
layers = nn.ModuleList([nn.Linear(3, 3)] * 6)
print(len(layers), "layers,", sum(p.numel() for p in layers.parameters()), "parameters; one layer has", 3 * 3 + 3)
assert sum(p.numel() for p in layers.parameters()) == 12

# %% [markdown]
# Write it as it was meant: an `nn.ModuleList` of n layers, each with an initialisation of its own, so that no two layers
# begin with the same numbers.


# %% tags=["exercise-04.4"]
def stack(make_layer, n):
    """make_layer: a function without arguments that returns a new layer -> nn.ModuleList of n layers"""
    ### BEGIN SOLUTION
    return nn.ModuleList(make_layer() for _ in range(n))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.stack(stack)

# %% [markdown]
# Copies made with `copy.deepcopy` are not enough: each has its own weights, but all begin with the same numbers. This
# mistake happens in practice. Look at how torch's own stack begins:

# %% tags=["nbval-check-output"]
one = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
theirs = nn.TransformerEncoder(one, 3, enable_nested_tensor=False)
first, second = (theirs.layers[i].linear1.weight for i in (0, 1))
print("torch's layers 0 and 1: the same module:", first is second, "| the same numbers:", torch.equal(first, second))
assert first is not second and torch.equal(first, second)

# %% [markdown]
# (If you use it, draw the weights anew; see [pytorch/pytorch#86274](https://github.com/pytorch/pytorch/issues/86274).)

# %% [markdown]
# ## 6. The encoder, in three steps
#
# The encoder turns token ids into one vector per token: embeddings (lesson 01), then a stack of layers. You will build it in
# three steps, each of which adds a few lines to the class of the step before. The check has nine stages: the parts, the
# initialisation, the stack and the masks are step 1; positions are step 2; pre-norm and what happened inside are step 3; two
# more try other sizes, gradients and dropout.

# %% [markdown]
# ### Step 1 · embeddings and a stack
#
# What goes into the first layer is a sum: a vector for the token, plus a vector for its position, plus, in BERT, a vector
# for the **token type**. BERT can read two sentences in one text, and the type tells sentence A from sentence B. BERT
# normalises the sum. In numbers small enough to print, for a text of three tokens and C = 4:

# %% tags=["nbval-check-output"]
tokens = torch.tensor([[1.0, 0.0, 2.0, 1.0], [0.0, 3.0, 0.0, 1.0], [1.0, 0.0, 2.0, 1.0]])  # the first word again at 2
positions = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
type_a = torch.tensor([0.5, 0.0, 0.0, 0.0])
summed = tokens + positions + type_a  # (T, C): type_a is broadcast over the tokens
print("sum       ", summed.tolist())
print("normalised", [[round(n, 2) for n in row] for row in F.layer_norm(summed, (4,)).tolist()])

# %% [markdown]
# Tokens 0 and 2 are the same word, and their vectors differ by their positions alone. After the embeddings come the layers,
# each made anew (exercise 04.4), and last of all the weights are drawn: every `nn.Linear` and `nn.Embedding` from a normal
# distribution with mean 0 and standard deviation `config.init_std`. If that is the string "fan_in", the standard deviation is
# 1/√(fan in), and fan in is the last dimension of `weight` (so 1/√C for an embedding). The vector of padding is drawn like the
# others. Biases of linear layers become zero; layer norms stay as torch makes them.
#
# Each layer gets the mask as (B, 1, 1 or T, T): a (B, T) mask becomes `mask[:, None, None, :]`, a (B, T, T) mask
# `mask[:, None]`, and None stands for `ids != pad_id`. A mask that is given is used as it is.

# %% [markdown]
# ### Step 2 · RoBERTa's positions
#
# BERT counts positions 0, 1, 2, … and counts padding too. RoBERTa has two peculiarities here, and overlooking them costs
# hours: it counts *real tokens only*, beginning at `position_offset` = 2, and every padding token stays at the position
# `pad_id` = 1, which is the offset minus 1. (Should the two ever differ, take the offset minus 1; in the check they agree.)
# With loops, for two texts of which the second is padded:

# %% tags=["nbval-check-output"]
pad_id, offset = 1, 2
for text in ([7, 9, 4, 8, 6], [5, 3, 8, 1, 1]):
    row, seen = [], 0
    for token in text:
        row.append(offset + seen if token != pad_id else pad_id)
        seen += token != pad_id
    print("ids", text, "-> positions", row)

# %% [markdown]
# So the table of positions needs `max_len + position_offset` rows. An offset of 0 means BERT's way. Without loops, you may
# want `cumsum`.

# %% [markdown]
# ### Step 3 · pre-norm, and what happened inside
#
# In a pre-norm encoder the sum of the embeddings is *not* normalised, and nothing normalises the last layer's output either.
# So the one norm that the encoder has, `self.norm`, moves: post-norm uses it on the embeddings, pre-norm after the last
# layer. If you want to look inside, you have to ask for it: with `return_inside=True` the encoder also returns an
# `Inside(hidden, weights)`, where `hidden` is the list of what went into the first layer and what came out of each layer
# (before a final norm), so layers + 1 tensors (B, T, C), called **hidden states**; and `weights` is the list of each layer's
# attention weights (B, H, T, T).

# %% [markdown]
# ### Exercise 04.5 · build the encoder ●●● · 45 minutes
#
# The parts' names: `tokens`, `positions` (only if `config.positions` is "learned", not if it is "none") and `types` (only if
# `config.token_types` is not 0) are `nn.Embedding`; `norm` is an `nn.LayerNorm(C, eps=config.eps)`; `dropout` is an
# `nn.Dropout(config.dropout)`: `embed` ends with it, after the norm if there is one, and nothing else in the encoder uses it
# (the layers have their own); `layers` is an `nn.ModuleList` of `config.layers` of your `EncoderLayer`. Keep the configuration
# as `config`. The methods:
#
# * `initialise(module)` draws the weights of one part as step 1 says, and does nothing to other kinds of parts.
#   `self.apply(self.initialise)` calls it for each part of the model;
# * `position_ids(ids)`, torch.int64, (B, T);
# * `embed(ids, token_types=None)` returns what goes into the first layer. Without token types every token has type 0. (Token
#   types given to a model with `config.token_types` = 0 are an error; the check does not try it);
# * `forward(ids, mask=None, token_types=None, return_inside=False)`. The boolean mask (True = may be attended to) is
#   either (B, T), which tokens may be looked at, or (B, T, T), who may look at whom; None stands for `ids != pad_id`.
#   It returns the hidden states of the last layer, and with return_inside the pair of them and an `Inside`.
#
# Every text has at least one token that may be looked at. Change no argument in place. The course's solution also calls three
# checks of its arguments, `check_ids`, `check_padding_mask` and `check_types`; you may leave them out. Begin with step 1, let
# `position_ids` count from 0, and run the check.


# %% tags=["exercise-04.5", "my-bert-encoder"]
class Encoder(nn.Module):
    """Token ids in, one vector a token out: embeddings, then `config.layers` encoder layers."""

    def __init__(self, config):
        super().__init__()
        ### BEGIN SOLUTION
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
        ### END SOLUTION

    def initialise(self, module):
        """Draw the weights of one part: normal with config.init_std, or 1/√(fan in); biases are zero."""
        ### BEGIN SOLUTION
        if isinstance(module, nn.Linear | nn.Embedding):
            std, fan_in = self.config.init_std, module.weight.shape[-1]
            nn.init.normal_(module.weight, std=1 / math.sqrt(fan_in) if std == "fan_in" else std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        ### END SOLUTION

    def position_ids(self, ids):
        """Return the row of the position table for each token, (B, T)."""
        ### BEGIN SOLUTION
        B, T = ids.shape
        if not self.config.position_offset:
            return torch.arange(T, device=ids.device).expand(B, T)
        real = ids != self.config.pad_id
        return real.cumsum(1) * real + self.config.position_offset - 1
        ### END SOLUTION

    def embed(self, ids, token_types=None):
        """Return what goes into the first layer: token + position + type embeddings, (B, T, C)."""
        ### BEGIN SOLUTION
        x = self.tokens(ids)
        if self.config.positions == "learned":
            x = x + self.positions(self.position_ids(ids))
        types = check_types(token_types, ids, self.config.token_types)
        if self.config.token_types:
            x = x + self.types(types)
        if self.config.norm == "post":
            x = self.norm(x)
        return self.dropout(x)
        ### END SOLUTION

    def forward(self, ids, mask=None, token_types=None, return_inside=False):
        """ids: (B, T) -> hidden states (B, T, C); with return_inside also what happened in each layer."""
        ### BEGIN SOLUTION
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
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.encoder(Encoder)

# %% [markdown]
# Everything below runs on your encoder if it passes: PyTorch's and RoBERTa's numbers, two experiments, and a trained model.

# %% tags=["nbval-check-output"]
Encoder = check.mine("04.5", Encoder)

# %% [markdown]
# ### Is it right?
#
# First against torch's own `nn.TransformerEncoder`, post-norm and pre-norm, in float64. All weights are first moved away from
# their initialisation, because fresh gains of 1 and biases of 0 would hide mistakes:

# %%
names = {
    "attention.qkv.": "self_attn.in_proj_",
    "attention.out": "self_attn.out_proj",
    "ffn_in": "linear1",
    "ffn_out": "linear2",
}
torch.manual_seed(seed)
for norm in ("post", "pre"):
    ours = Encoder(EncoderConfig(vocab_size=40, width=16, heads=4, ffn_width=32, norm=norm)).double()
    for p in ours.parameters():
        p.data += 0.3 * torch.randn_like(p)
    layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True, norm_first=norm == "pre")
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
# Then against Hugging Face's `RobertaModel`. Its outputs with our weights are stored with the course (`data/oracles/`, made by
# `tools/oracles.py`), so nothing has to be installed or downloaded. There are two texts, one of them padded, and the hidden
# states of all layers are compared:

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
    encoder = Encoder(dataclasses.replace(roberta, **changes)).double()
    rows = encoder.positions.num_embeddings
    encoder.load_state_dict(weights | {"positions.weight": weights["positions.weight"][:rows]})
    with torch.no_grad():
        _, inside = encoder(oracle["ids"], return_inside=True)
    real = oracle["ids"] != roberta.pad_id
    pairs = zip(inside.hidden, oracle["hidden"], strict=True)
    return max((h[real] - expected[real]).abs().max().item() for h, expected in pairs)


# %% [markdown]
# How much would each well-known mistake show? Guess which one is the smallest.

# %%
mistakes = {
    "positions from 0": {"position_offset": 0},
    "BERT's eps, 1e-12": {"eps": 1e-12},
    "the tanh GELU": {"activation": "gelu_tanh"},
    "pre-norm": {"norm": "pre"},
}
print(f"as RoBERTa:        {largest_difference():.0e}")
for name, change in mistakes.items():
    print(f"{name + ':':<18} {largest_difference(**change):.0e}")
    assert largest_difference(**change) > 1e-7
assert largest_difference() < 1e-10

# %% [markdown]
# Your encoder computes what Hugging Face's `RobertaModel` computes, to ten decimals and more, on these small random weights.
# Each of the four mistakes shows, the smallest of them (BERT's eps) in the fifth decimal: small enough to overlook, and
# large enough to know that something is wrong. **What you built is what you import.**

# %% [markdown]
# ## 7. Take one piece away
#
# What is each piece good for? We train encoders whose *layers* lack one piece on the toy world: 30 % of the words are
# selected, most of them hidden, and the model fills them in (lesson 05 says how and why). The norm of the embeddings and the
# output layer at the end stay as they are. Four layers, 300 steps, learning rate 0.002, everything else the same, and each
# variant from both initialisations. Before you look: which missing piece hurts most? Is there one that you could do
# without?

# %%
from nextbert_lite import MaskedLanguageModel, fit, mask_tokens

world = ToyWorld()
tokenizer = world.tokenizer()


def feed_forward(layer, x):
    return layer.ffn_out(F.gelu(layer.ffn_in(x)))


class WithoutResidual(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        attended, weights = self.attention(x, mask, return_weights)
        return self.norm2(feed_forward(self, self.norm1(attended))), weights


class WithoutNorm(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        attended, weights = self.attention(x, mask, return_weights)
        x = x + attended
        return x + feed_forward(self, x), weights


class WithoutAttention(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        return self.norm2(x + feed_forward(self, x)), None


class WithoutFeedForward(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        attended, weights = self.attention(x, mask, return_weights)
        return self.norm1(x + attended), weights


# %% [markdown]
# The training data and the training:

# %%
variants = {
    "nothing": (EncoderLayer, "learned"),
    "residual": (WithoutResidual, "learned"),
    "positions": (EncoderLayer, "none"),
    "attention": (WithoutAttention, "learned"),
    "norm": (WithoutNorm, "learned"),
    "feed-forward": (WithoutFeedForward, "learned"),
}
labels = {name: "the whole" if name == "nothing" else f"without {name}" for name in variants}


def hidden_words(step):
    """Return batch `step` of fresh sentences with words hidden."""
    ids, mask = world.sample_ids(64, seed=1000 + step)
    corrupted, labels = mask_tokens(ids, tokenizer, rate=0.3, generator=seeded(seed, step))
    return {"ids": corrupted, "labels": labels, "mask": mask}


def train_without(missing, start, lr=2e-3):
    """Train four layers that lack this piece and return the mean loss of the last 30 of 300 steps."""
    layer_class, positions = variants[missing]
    torch.manual_seed(seed)
    config = EncoderConfig(tokenizer.vocab_size, layers=4, max_len=20, positions=positions, init_std=start)
    encoder = Encoder(config)
    encoder.layers = nn.ModuleList(layer_class(config) for _ in range(config.layers)).apply(encoder.initialise)
    history = fit(MaskedLanguageModel(encoder), hidden_words, steps=300, lr=lr, warmup=50, seed=seed)
    return sum(history.loss[-30:]) / 30


# %% [markdown]
# Live, the whole layer, the layer without residuals and the layer without norms, from both initialisations:

# %%
runs_now = [(missing, start, 2e-3) for missing in variants for start in ("fan_in", 0.02)]
runs_now += [("residual", "fan_in", lr) for lr in (5e-4, 5e-3)]
if not every_row:
    runs_now = [run for run in runs_now if run[0] in ("nothing", "residual", "norm") and run[2] == 2e-3]
results_parts = []
for missing, start, lr in runs_now:
    loss = train_without(missing, start, lr)
    results_parts.append({"seed": seed, "missing": missing, "start": start, "lr": lr, "loss": loss})
    print(f"{labels[missing]:<20} start {start}, learning rate {lr}: loss {loss:.2f} nats")
found = {(row["missing"], row["start"]): row["loss"] for row in results_parts if row["lr"] == 2e-3}
for start in ("fan_in", 0.02):
    assert found["residual", start] > found["nothing", start] + 1
without_norm = {start: found["norm", start] - found["nothing", start] for start in ("fan_in", 0.02)}
assert without_norm["fan_in"] > without_norm[0.02] + 0.1

# %% [markdown]
# All six variants for three seeds and both initialisations, as stored with the course. The dotted line is the loss of a
# model that knows only how frequent each word is.

# %%
table = stored_table("04_parts")
real, _ = world.sample_ids(5000, seed=1)
proportions = torch.bincount(real[real > 4]).double() / (real > 4).sum()  # ids 0 to 4 are not words
frequencies = -torch.special.xlogy(proportions, proportions).sum().item()
print(f"knowing only the frequencies: {frequencies:.2f} nats")


def stored(missing, start, lr=2e-3):
    """Return the stored losses of three seeds."""
    wanted = (missing, str(start), lr)
    return [float(r["loss"]) for r in table if (r["missing"], r["start"], float(r["lr"])) == wanted]


for missing in variants:
    both = [" ".join(f"{loss:.2f}" for loss in stored(missing, start)) for start in ("fan_in", 0.02)]
    print(f"{labels[missing]:<20}: 1/√(fan in) {both[0]} | 0.02 {both[1]}")

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.4, 3.3))
for row, missing in enumerate(reversed(variants)):
    for start, name, colour, up in (("fan_in", "1/√(fan in)", plots.RED, 0.12), (0.02, "0.02", plots.BLUE, -0.12)):
        losses = stored(missing, start)
        label = f"initialisation {name}" if row == 0 else None
        ax.plot(losses, [row + up] * len(losses), "o" if up > 0 else "^", color=colour, label=label)
ax.set_yticks(range(len(variants)), [labels[name] for name in reversed(variants)])
ax.axvline(frequencies, color=plots.GREY, linestyle=":", label="frequencies only")
ax.set(xlabel="training loss, mean of steps 271 to 300 (nats per selected word)", xlim=(0, None))
ax.set_title("Without residuals, 300 steps teach little\nmore than frequencies")
ax.legend(loc="lower left")
plots.show(
    fig,
    alt="Losses of six variants, three seeds and two initialisations each: without residual it is worst from both, without feed-forward close to the whole.",
)


# %%
def mean(losses):
    return sum(losses) / len(losses)


for start in ("fan_in", 0.02):
    whole = max(stored("nothing", start))
    assert min(stored("residual", start)) > whole + 1 and min(stored("attention", start)) > whole + 0.5
    assert min(stored("positions", start)) > whole + 0.5
    assert abs(mean(stored("feed-forward", start)) - mean(stored("nothing", start))) < 0.3
norm_costs = {start: mean(stored("norm", start)) - mean(stored("nothing", start)) for start in ("fan_in", 0.02)}
print("without norm the loss is higher by", {start: round(cost, 2) for start, cost in norm_costs.items()})
assert norm_costs["fan_in"] > norm_costs[0.02] + 0.1
at_rates = {lr: round(mean(stored("residual", "fan_in", lr)), 2) for lr in (5e-4, 2e-3, 5e-3)}
print("without residual, 1/√(fan in), by learning rate:", at_rates)
at_best = min(min(stored("residual", "fan_in", lr)) for lr in (5e-4, 2e-3, 5e-3))
assert at_best > max(stored("nothing", "fan_in")) + 1 and at_best > max(stored("attention", "fan_in"))
assert abs(min(stored("residual", 0.02)) - frequencies) < 0.1
both = [(start, round(mean(stored("nothing", start)), 2)) for start in ("fan_in", 0.02)]
costs = [
    b - a for start, _ in both for a, b in zip(stored("nothing", start), stored("feed-forward", start), strict=True)
]
print("the whole:", both, "| without feed-forward, more in each pair:", [round(cost, 2) for cost in costs])
assert all(a < b for a, b in zip(stored("nothing", "fan_in"), stored("nothing", 0.02), strict=True))
assert 0 < min(costs) and max(costs) < 0.1

# %% [markdown]
# Without residuals, little more than the words' frequencies is learned in these 300 steps: from 0.02 nothing, and from
# 1/√(fan in), at the best of three learning rates, less than a model without attention learns from the positions alone. The
# whole encoder learns slightly *faster* from 1/√(fan in) than from 0.02, in all three seeds, although section 1 showed that
# this initialisation makes tokens alike. Without attention a hidden word knows its position and nothing else; without
# positions the model sees the sentence as a bag of words. Both are far behind. Then it becomes interesting:
#
# * Without **norms** the model is clearly behind if it starts from 1/√(fan in), and hardly if it starts from 0.02. That fits
#   section 3: with small branches the numbers may grow little in four layers, so there would be less for a norm to repair.
#   (Their growth in these models is not measured.) So "training needs norms" depends on the initialisation. That it also
#   depends on depth and learning rate is likely, and not measured here.
# * The **feed-forward network**, which holds two thirds of a layer's weights, is hardly missed on this task at this size
#   (0.01 to 0.06 nats, though worse in all six pairs). Do not conclude that it is useless: in larger language models,
#   feed-forward layers act as key-value memories of patterns in the training text (Geva et al. 2021), and the toy world may
#   simply have few patterns to store. That reading is not tested here.
#
# These are losses after 300 steps. A variant that is behind may catch up later; the table cannot tell.

# %% [markdown]
# ## 8. What depth buys
#
# What do more layers buy? Here is a task that shows it clearly. 13 positions hold pointers: position i says "go to position
# f(i)", and if you follow the pointers, you visit all positions in turn before you are back. For each position, the model
# must say where 1, 2, 3, … 8 hops lead. A small case with 5 positions:

# %% tags=["nbval-check-output"]
f = [3, 0, 4, 2, 1]  # 0 → 3 → 2 → 4 → 1 → 0
for start in (0, 1):
    place, path = start, []
    for _ in range(4):
        place = f[place]
        path.append(place)
    print(f"from position {start}: f = {f[start]}, and 1, 2, 3, 4 hops lead to", path)

# %% [markdown]
# The model is your `Encoder`: pre-norm, one head, BERT's initialisation, its layers without the feed-forward network. The
# token at position i is f(i), and a linear layer reads eight answers off each position's last hidden state.

# %% [markdown]
# ### Exercise 04.6 · predict the result ●●○ · 8 minutes
#
# With no layer, position i knows two things: its own index i (from the position embedding) and f(i). How many hops in a row
# (1, 2, 3, … without a failure) does a trained encoder with **two** layers follow? Draw what a position knows after the
# first layer before you answer.

# %% tags=["exercise-04.6"]
farthest = None
### BEGIN SOLUTION
farthest = 5  # after layer 1 a position knows one hop back to two ahead: 2 + 1 to meet another one, + 2 that it knows
### END SOLUTION

# %% tags=["nbval-check-output"]
check.reach(farthest)

# %% [markdown]
# The model and its data:

# %%
PLACES, HOPS = 13, 8


class AttentionOnly(EncoderLayer):
    def forward(self, x, mask=None, return_weights=False):
        attended, weights = self.attention(self.norm1(x), mask, return_weights)
        return x + attended, weights


class Pointers(nn.Module):
    """An encoder that follows pointers among 13 positions."""

    def __init__(self, layers, start=0.02):
        super().__init__()
        config = EncoderConfig(PLACES + 1, layers=layers, heads=1, max_len=PLACES, norm="pre", init_std=start)
        self.encoder = Encoder(config)
        self.encoder.layers = nn.ModuleList(AttentionOnly(config) for _ in range(layers)).apply(self.encoder.initialise)
        self.read = nn.Linear(config.width, HOPS * PLACES)

    def forward(self, f):
        """f: (B, 13) pointers -> logits (B, 13, 8, 13) for 1 to 8 hops."""
        return self.read(self.encoder(f + 1)).unflatten(-1, (HOPS, PLACES))  # + 1: the token 0 is padding

    def loss(self, f, answers):
        return F.cross_entropy(self(f).flatten(0, 2), answers.flatten())


def random_cycles(n, *numbers):
    """Return n random cycles through 13 positions, (n, 13), and where 1 to 8 hops lead, (n, 13, 8)."""
    order = torch.rand(n, PLACES, generator=seeded(*numbers)).argsort(dim=1)
    f = torch.empty_like(order).scatter_(1, order, order.roll(-1, 1))
    hops = [f]
    for _ in range(HOPS - 1):
        hops.append(f.gather(1, hops[-1]))
    return f, torch.stack(hops, dim=2)


# %% [markdown]
# Models with no layer, one and two, trained now and tested on 500 new cycles:


# %%
def follow(layers, start, steps):
    """Train a model; return it and the proportion of right answers for 1 to 8 hops on new cycles."""
    torch.manual_seed(seed)
    model = Pointers(layers, start)

    def batch(step):
        return dict(zip(("f", "answers"), random_cycles(64, seed, step), strict=True))

    fit(model, batch, steps, lr=5e-3, warmup=100, seed=seed)
    f, answers = random_cycles(500, seed, 10**6)
    with torch.no_grad():
        return model.cpu(), (model(f).argmax(-1) == answers).float().mean((0, 1)).tolist()


runs_now = [(2, 0.02, 1200), (0, 0.02, 200), (1, 0.02, 400)]
if every_row:
    runs_now += [(3, 0.02, 1500), (1, "fan_in", 500), (2, "fan_in", 2000)]
results_hops = []
for layers, start, steps in runs_now:
    model, right = follow(layers, start, steps)
    if (layers, start) == (2, 0.02):
        two_layers = model
    row = {"seed": seed, "layers": layers, "start": start}
    results_hops.append(row | {f"hops_{k}": proportion for k, proportion in enumerate(right, 1)})
    print(f"{layers} layers, start {start}: hops 1 to 8", "  ".join(f"{proportion:.2f}" for proportion in right))
reach = {0: 1, 1: 2, 2: 5, 3: 8}
for row in results_hops:
    proportions = [row[f"hops_{k}"] for k in range(1, HOPS + 1)]
    hops = reach[row["layers"]]
    assert min(proportions[:hops]) > 0.95 and max(proportions[hops:], default=0) < 0.6

# %% [markdown]
# One hop, two, then five, and not six. Three seeds, and a third layer, as stored:

# %% tags=["hide-input"]
table = stored_table("04_hops")


def stored_hops(layers, start=0.02):
    """Return the proportions of right answers, (seeds, 8)."""
    rows = [r for r in table if (int(r["layers"]), r["start"]) == (layers, str(start))]
    return torch.tensor([[float(r[f"hops_{k}"]) for k in range(1, HOPS + 1)] for r in rows])


fig, ax = plots.figure(size=(6.6, 3.2))
shown = torch.stack([stored_hops(n).mean(0) for n in range(4)])
image = ax.imshow(shown, vmin=0, vmax=1, aspect="auto")
for n in range(4):
    for i in range(HOPS):
        right = shown[n, i].item()
        ax.text(i, n, f"{right:.2f}", ha="center", va="center", color="white" if right > 0.55 else "#303030")
ax.set_xticks(range(HOPS), range(1, HOPS + 1))
ax.set(xlabel="hops to follow", ylabel="layers", yticks=range(4))
ax.set_title("L layers follow at least 2ᴸ hops: 1, 2, 5, and all 8")
fig.colorbar(image, ax=ax, label="proportion right, mean of 3 seeds")
plots.show(
    fig,
    alt="A staircase: with no layer only 1 hop is right, with one layer 1 and 2, with two layers 1 to 5, with three layers all 8; elsewhere 0.09, 0.11 and 0.33.",
)

# %%
for layers, hops in reach.items():
    assert stored_hops(layers)[:, :hops].min() > 0.95 and (hops == 8 or stored_hops(layers)[:, hops:].max() < 0.6)
for number, proportions in enumerate(stored_hops(2, "fan_in").tolist()):
    print(f"two layers, 1/√(fan in), seed {number}:", "  ".join(f"{p:.2f}" for p in proportions))
assert stored_hops(1, "fan_in")[:, :2].min() > 0.95 and stored_hops(1, "fan_in")[:, 2:].max() < 0.6
assert stored_hops(2, "fan_in")[:, :5].min() > 0.95 and stored_hops(2, "fan_in")[:, 5:].max() < 0.6

# %% [markdown]
# The usual argument gives a doubling: after layer 1 a position knows two hops, because it has read from the position it points
# to. In layer 2 the position that it reads from knows two hops as well, which makes four. Then why five?
#
# Because a position knows more than what lies ahead. It knows its own index, so it can also find the position that points
# to *itself*. Suppose each position knows the stretch from b hops back to a hops ahead. In the next layer it can look for a
# position whose farthest knowledge *back* is its own farthest *ahead*: that position is a + b hops away, and knows a hops
# more. So a becomes 2a + b. In the other direction b becomes 2b + a. One head can do both if it puts half of its weight on the
# position a + b ahead and half on the one a + b back: what arrives is half the sum of two vectors, and a linear layer can
# read both from it if they lie in different directions. The cell after next looks whether your model does so.

# %% tags=["nbval-check-output"]
a, b = 1, 0  # without a layer: f(i) is one hop ahead, i itself is zero hops back
for layers in range(4):
    known = min(PLACES, a + b + 1)
    chance = (
        f"guess among {PLACES - known}: {1 / (PLACES - known):.2f}" if known < PLACES else "nothing is left to guess"
    )
    print(f"{layers} layers: from {b} back to {a} ahead, {a + b + 1} positions; in a cycle of 13, {chance}")
    a, b = 2 * a + b, 2 * b + a

# %% [markdown]
# The length of the known stretch in hops, a + b, *triples*: 1, 3, 9, 27. (It covers one position more: 2, 4, 10, 28.) Now
# compare the last column with the "failures" in the figure: 0.09, 0.11 and 0.33 are the proportions for a model that has
# ruled out everything that it knows and guesses among the rest. If that is right, then the *probabilities* that your
# two-layer model gives to its answers to "8 hops" should lie on the positions beyond what it knows, 6, 7 and 8 hops ahead,
# and should be near zero everywhere else. Are they? And where does its second layer look, 3 hops ahead and 3 back (10 ahead,
# in a cycle of 13)?

# %%
f, answers = random_cycles(500, seed, 10**6)
with torch.no_grad():
    probabilities = two_layers(f)[:, :, HOPS - 1].softmax(-1)  # for "8 hops", (500, 13, 13)
    _, inside = two_layers.encoder(f + 1, return_inside=True)
ahead, looked, place = [], ([], []), torch.arange(PLACES).expand_as(f)
for _ in range(PLACES):  # the mean for the position itself, for one hop ahead, and so on to 12
    ahead.append(probabilities.gather(2, place[..., None]).mean().item())
    for row, weights in zip(looked, inside.weights, strict=True):
        row.append(weights[:, 0].gather(2, place[..., None]).mean().item())
    place = f.gather(1, place)
print("hops ahead:         ", "  ".join(f"{k:4}" for k in range(PLACES)))
print("probability, 8 hops:", "  ".join(f"{p:4.2f}" for p in ahead))
for layer, row in enumerate(looked, 1):
    print(f"layer {layer}'s attention:", "  ".join(f"{p:4.2f}" for p in row))
assert sum(ahead[5:9]) > 0.85

# %% [markdown]
# Nearly everything from 4 hops back (9 to 12 ahead, in a cycle of 13) to 5 hops ahead is ruled out, and in this run 6, 7 and 8
# get about a third each. Other runs can leave a part of the probability on 5, although the model answers the question "5
# hops" perfectly: being able to name a position and ruling it out in another question are two different skills. Such a run
# can be right less often than guessing, as one from 1/√(fan in) is above. And in this run the second layer looks both ways:
# the two largest weights are at 3 hops ahead and at 3 back. (In layer 1, neighbours in the cycle get less weight than the
# others. A head can tell a position by leaving it out, and with seed 5 layer 2 does so too. So "has read from" is not to be
# taken literally.)
#
# So what was measured is this: L layers, for L from 0 to 3, follow *at least* $2^L$ hops (of the eight asked), which is what
# doubling gives, and with two layers this model does better. Both initialisations lead to the same reach, for one layer and
# for two, but 1/√(fan in) got more steps for it (500 in place of 400, 2000 in place of 1200). (That no model of this kind
# could do more is not shown here, and "right" means learned in these steps.) That "logarithmic depth is sufficient for
# transformers to solve basic computational tasks" is a theorem (Sanford, Hsu and Telgarsky 2024; for a close relative of
# ours, k-hop induction heads, with a depth of order log k).

# %% [markdown]
# ## 9. What it costs
#
# A layer's weights: $4C^2$ in the attention, $8C^2$ in the feed-forward network (with its width 4C), and biases and norms
# that hardly count. So $12 C^2$ a layer, and $V \cdot C$ for the words.

# %% tags=["nbval-check-output"]
base = EncoderConfig.preset("base", vocab_size=30522, token_types=2)  # BERT-base's sizes
with torch.device("meta"):  # shapes only, no memory
    model = Encoder(base)
counted = sum(p.numel() for p in model.parameters())
width, L = base.width, base.layers
by_formula = L * (12 * width**2 + 13 * width) + (base.vocab_size + base.max_len + base.token_types + 2) * width
print(f"counted {counted:,}, by formula {by_formula:,}; 12 C² L alone: {12 * width**2 * L:,}")
assert counted == by_formula

# %% [markdown]
# The computation: every weight of a layer is used once for each token, in a multiplication and an addition. These are two
# **floating-point operations** (FLOPs; a count of products alone is half as large). That makes $24 C^2$ FLOPs per token and
# layer, plus $4TC$ for the scores and the weighted means. Counted by torch while it runs:

# %% tags=["nbval-check-output"]
from torch.utils.flop_counter import FlopCounterMode

small = Encoder(EncoderConfig.preset("small", vocab_size=1000))
c = small.config
for length in (32, 128):
    ids = torch.randint(5, 1000, (1, length))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(ids, return_inside=True)  # the open formula: torch counts its products
    formula = c.layers * length * (24 * c.width**2 + 4 * length * c.width)
    print(f"T = {length:3}: counted {counter.get_total_flops():,}, by formula {formula:,}")
    assert counter.get_total_flops() == formula

# %% [markdown]
# ## 10. Before and after training
#
# The course ships an encoder that was pretrained on Python documentation, `docs-small`: four post-norm layers, initialised
# with 0.02. Its weights fit into yours. Do training and depth make the tokens of a text alike? We compare three encoders of
# the same shape: fresh with 0.02, fresh with 1/√(fan in), and trained. And because a similarity within a text proves little
# by itself, we also measure it *between* texts. Guess which curves rise.

# %%
from nextbert_lite import load, load_docs, pad

trained, bpe = load("docs-small")
trained = trained.encoder
texts = [document.text for document in load_docs().test[:80]]
ids, real = pad([bpe.encode(text, max_len=48) for text in texts], bpe.pad_id)
encoders = {"trained": Encoder(trained.config)}
encoders["trained"].load_state_dict(trained.state_dict())
for start in (0.02, "fan_in"):
    torch.manual_seed(seed)
    encoders[start] = Encoder(dataclasses.replace(trained.config, init_std=start))


def within_and_between(x, real):
    """Return the mean cosine similarity of two tokens of the same text, and of tokens of different texts."""
    unit = (x / x.norm(dim=-1, keepdim=True))[real]  # (real tokens, C)
    owner = real.nonzero()[:, 0]
    cosines, same = unit @ unit.T, owner[:, None] == owner
    others = same & ~torch.eye(len(owner), dtype=torch.bool)
    return cosines[others].mean().item(), cosines[~same].mean().item()


alike = {}
with torch.no_grad():
    for name, encoder in encoders.items():
        _, inside = encoder.eval()(ids, real, return_inside=True)
        alike[name] = [within_and_between(x, real) for x in inside.hidden]
described = {"trained": "trained", 0.02: "untrained, 0.02", "fan_in": "untrained, 1/√(fan in)"}
for name, values in alike.items():
    for which, kind in enumerate(("within a text", "between texts")):
        print(f"{described[name]:>22}, {kind}:", "  ".join(f"{value[which]:.2f}" for value in values))

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(7.2, 3.4))
for (name, values), colour, marker in zip(alike.items(), (plots.GREEN, plots.BLUE, plots.RED), "so^", strict=True):
    ax.plot([v[0] for v in values], marker + "-", color=colour, label=f"{described[name]}, within a text")
    ax.plot([v[1] for v in values], marker + ":", color=colour, label="between texts", markersize=4)
ax.set(xlabel="after layer (0: the embeddings)", ylabel="mean cosine similarity of two tokens", ylim=(-0.05, None))
ax.set_xticks(range(trained.config.layers + 1))
ax.set_title("From 0.02, four untrained layers leave tokens apart;\ntrained ones do not")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.show(
    fig,
    alt="The untrained encoder at 0.02 stays at 0 in all layers. The trained one rises to about a third, within and between texts alike. The one with 1/√(fan in) rises untrained.",
)

# %%
assert max(alike[0.02][-1]) < 0.05 and alike["trained"][-1][0] > 0.2
assert alike["fan_in"][-1][0] > alike["fan_in"][0][0] + 0.1
rise = [after - before for before, after in zip(alike["trained"][0], alike["trained"][-1], strict=True)]
print(f"training: + {rise[0]:.2f} within a text, + {rise[1]:.2f} between texts")
assert min(rise) > 0.1 and abs(rise[0] - rise[1]) < 0.15

# %% [markdown]
# From 0.02, four untrained layers of this width change next to nothing (section 1 shows that more layers of a greater width
# would), and after *training* the tokens are more alike, more so in each layer. But look at the dotted line: two tokens of
# different texts become nearly as similar as two of the same text. So most of what rises is a component that all tokens
# share, and not a blending within each text. This agrees with Ethayarajh (2019), who found that word vectors "are not
# isotropic in any layer" of BERT, ELMo and GPT-2, which means that they do not spread evenly over all directions; lesson 11
# comes back to it.
#
# From 1/√(fan in) the dotted line rises too, before any training, although section 1's texts, with attention alone, each went
# a way of their own. Is it the feed-forward network? Two controls: the same encoder with its feed-forward networks
# silenced (`ffn_out` zero), and each encoder's last layer with the mean over all tokens subtracted. Section 1's stack is
# measured in the same way. Guess what is left.

# %%
silent = Encoder(encoders["fan_in"].config).eval()
silent.load_state_dict({n: t * ("ffn_out" not in n) for n, t in encoders["fan_in"].state_dict().items()})
x = x0
for f in stacks["1/√(fan in)"][:12]:
    x = x + f(x)[0]
with torch.no_grad():
    last = {"section 1, 12 layers": (x, torch.ones(x.shape[:2], dtype=torch.bool))}
    last |= {described[name]: (encoder(ids, real), real) for name, encoder in encoders.items() if name != 0.02}
    last["untrained, no feed-forward"] = (silent(ids, real), real)
left = {}
for name, (x, tokens_in) in last.items():
    left[name] = [*within_and_between(x, tokens_in), *within_and_between(x - x[tokens_in].mean(0), tokens_in)]
    a, b, c, d = left[name]
    print(f"{name:>26}: within {a:.2f}, between {b:z.2f}; mean subtracted: within {c:.2f}, between {d:z.2f}")
whole, without = left["untrained, 1/√(fan in)"], left["untrained, no feed-forward"]
assert left["section 1, 12 layers"][0] > 0.8 and abs(left["section 1, 12 layers"][1]) < 0.1
assert whole[1] > 0.25 and without[0] < whole[0] - 0.1 and without[1] < whole[1] - 0.1
assert 0.05 < whole[2] < 0.4 and abs(whole[3]) < 0.05

# %% [markdown]
# From 1/√(fan in) tokens become alike before any training, but it is not quite what section 1 showed. There each text
# collapsed onto a direction of its own. Here tokens of different texts become alike too, mostly because the feed-forward
# networks push all tokens in a common direction; besides, the texts share words and positions. What is left within a text
# after the common mean is subtracted is the blending (and what the tokens of one text have in common from the start). So a
# sentence such as "deep encoders make all tokens alike" depends on the initialisation, on the training, and on what you
# compare.

# %% [markdown]
# ### The whole encoder on a real sentence
#
# What do the heads of these encoders look at? Half the sum of the *absolute* differences between two tokens' rows of weights
# tells how differently the two look (a token with itself included): 0 if both spread their attention in the same way, 1 if
# they look at different tokens altogether. The mean over all pairs of tokens and over all heads, layer by layer:

# %%
sentence = "Return the shape of an array."
ids = torch.tensor([bpe.encode(sentence)])
pieces = [piece.strip() or "␣" for piece in bpe.tokens(ids[0])]
seen = {}
with torch.no_grad():
    for name, encoder in encoders.items():
        _, inside = encoder(ids, return_inside=True)
        seen[name] = inside.weights
        apart = [(w[0, :, :, None] - w[0, :, None]).abs().sum(-1).mean().item() / 2 for w in inside.weights]
        print(f"{described[name]:>22}, layers 1 to 4:", "  ".join(f"{value:.2f}" for value in apart))
        if name == 0.02:
            assert max(apart) < 0.1
        elif name == "trained":
            assert min(apart) > 0.1
        else:
            assert apart[-1] < apart[0]

# %% [markdown]
# Untrained at 0.02, all maps are nearly flat: every token looks at all tokens alike. Untrained from 1/√(fan in), the maps
# begin with chance patterns. In both the fresh 1/√(fan in) encoder and the trained one the rows differ less further up; the
# trained ones differ most in every layer. Here are the trained ones. Choose a layer and a head, and walk over the tokens: in
# the first head nearly every token looks at the one *before* it. Can you find a head that looks at the *next* one?
# (What a head is *for* is a question for experiments, as lesson 02 showed, and not for a picture.)

# %%
from nextbert_lite import AttentionExplorer, show

view = AttentionExplorer(
    pieces, torch.cat(seen["trained"]), token=3, title="The trained encoder: does a head look at the next token?"
)
show(
    view,
    alt="The attention map of layer 1, head 1: nearly every token looks at the one before it.",
)

# %% [markdown]
# ## What to remember
#
# * **x + f(x)**: at the start, tokens stay apart in a deep stack only if what a layer adds is small beside what is there; the
#   initialisation decides that. (Attention and residuals only; BERT's layers also have norms and feed-forward networks.)
# * **Norms** keep the numbers in range, **attention** moves information between tokens, the **feed-forward network** works on
#   each token separately. BERT is **post-norm**: norm(x + f(x)).
# * Details decide whether published weights fit: eps, the exact GELU, RoBERTa's positions from 2.
# * **Depth**: on a task of following pointers, L layers, for L up to 3, could follow at least $2^L$ hops, and two layers five.
# * $12C^2$ weights per layer, and $24C^2 + 4TC$ FLOPs per token and layer.
#
# **What the field did since.** Most large language models since GPT-2 are pre-norm, many with RMSNorm, which leaves out the
# mean (Zhang and Sennrich 2019), and with gated feed-forward networks (Shazeer 2020); BERT's direct successors, RoBERTa
# among them, stayed post-norm. ModernBERT (Warner et al. 2024) is a BERT with some of these habits (it keeps layer norm):
# pre-norm, GeGLU, rotary positions in place of a table, and no biases in its layers.
#
# **What this scale cannot show.** Our four post-norm layers were trained with 50 steps of warm-up; what happens without is a
# question for lesson 06. Depth was measured up to three layers on one synthetic task. And what feed-forward networks store
# needs data that has something to store.
#
# **An open problem.** How many layers does a task need? For following pointers we could measure it, and even here the answer
# was not the one that the usual argument gives. For language there are empirical scaling rules, but no way to
# derive from a task how many layers it needs.
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
# * Alec Radford et al., *Language Models are Unsupervised Multitask Learners* (GPT-2), 2019: section 2.3.
# * Yihe Dong, Jean-Baptiste Cordonnier and Andreas Loukas, *Attention Is Not All You Need*, 2021,
#   [arXiv:2103.03404](https://arxiv.org/abs/2103.03404).
# * Ruibin Xiong et al., *On Layer Normalization in the Transformer Architecture*, 2020,
#   [arXiv:2002.04745](https://arxiv.org/abs/2002.04745).
# * Mor Geva, Roei Schuster, Jonathan Berant and Omer Levy, *Transformer Feed-Forward Layers Are Key-Value Memories*, 2021,
#   [arXiv:2012.14913](https://arxiv.org/abs/2012.14913).
# * Kawin Ethayarajh, *How Contextual are Contextualized Word Representations?*, 2019,
#   [arXiv:1909.00512](https://arxiv.org/abs/1909.00512).
# * Clayton Sanford, Daniel Hsu and Matus Telgarsky, *Transformers, Parallel Computation, and Logarithmic Depth*, 2024,
#   [arXiv:2402.09268](https://arxiv.org/abs/2402.09268).
# * Biao Zhang and Rico Sennrich, *Root Mean Square Layer Normalization*, 2019,
#   [arXiv:1910.07467](https://arxiv.org/abs/1910.07467).
# * Noam Shazeer, *GLU Variants Improve Transformer*, 2020, [arXiv:2002.05202](https://arxiv.org/abs/2002.05202).
# * Benjamin Warner et al., *Smarter, Better, Faster, Longer* (ModernBERT), 2024,
#   [arXiv:2412.13663](https://arxiv.org/abs/2412.13663).
#
# **Next:** lesson 05 hides words, so that the encoder has something to learn.
