# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Where the time goes
#     question: What does an encoder spend its time on, and how much of it can be saved without changing a result?
#     minutes: 150
#     part: "Part V: the next generation"
# ---

# %% [markdown]
# # 18 · Where the time goes
#
# You start a training run, and the machine is busy for an hour. Busy with what? Some of that hour goes into matrix products
# that the model needs. Some goes into products whose result nobody reads, and some into moving numbers to and from memory.
# A profiler shows you *where* the time went. It does not tell you how much of it was necessary. For that you have to count.
#
# **The question of this lesson:** what does an encoder spend its time on, and how much of it can be saved without changing a
# result?
#
# | | |
# |---|---|
# | You will | predict the operations, parameters and bytes of a training step, and find each number again by measurement; draw a roofline of your own machine; build an encoder that computes nothing for padding, equal to the padded one to ten digits; climb a ladder of six changes and measure each; compute with numbers of 16 and of 8 bits and see what that costs in search quality; distil a small student for the same search |
# | You need | lessons 03 to 05 for the encoder and its head, lesson 10 for sentence embeddings, lesson 12 for MRR |
# | It takes | about 150 minutes, four exercises, two of them builds of 30 and 40 minutes; the machine needs about a minute and a half |
#
# Here is something to begin with: 24 texts of the documentation inside Python, PyTorch, NumPy and Matplotlib, drawn at
# random and padded to one batch. (`docs-small` is the course's masked model of these texts. `docs-contrastive` is that
# model after it was trained with lesson 09's loss; it finds the body that belongs to a summary, and is the search encoder
# of this lesson.) A padded encoder computes every cell of this picture in every layer, with all its matrix products.

# %% tags=["hide-input"]
import torch

from nextbert_lite import load, load_docs, pad, plots, seeded
from nextbert_lite.training.tokenizer import cut

docs = load_docs()
teacher, tokenizer = load("docs-contrastive")
texts = [docs.train[i].text for i in torch.randperm(len(docs.train), generator=seeded(18))[:24].tolist()]
drawn = [cut(ids, 128) for ids in tokenizer.encode_batch(texts)]
ids, mask = pad(drawn)

fig, ax = plots.figure(size=(8.2, 3.2))
ax.imshow(mask.int().numpy(), cmap=plots.plt.matplotlib.colors.ListedColormap(["#dddddd", plots.BLUE]), aspect="auto")
ax.set(xlabel="position", ylabel="text")
handles = [plots.plt.Rectangle((0, 0), 1, 1, color=c) for c in (plots.BLUE, "#dddddd")]
ax.legend(handles, ["real token", "padding"], loc="center left", bbox_to_anchor=(1, 0.5))
ax.set_title(f"{1 - mask.float().mean():.0%} of the positions of this batch are padding")
plots.show(
    fig,
    alt="A grid of 24 texts by 128 positions: each row is blue up to the length of its text and grey behind it, and most texts are shorter than the longest.",
)

# %%
import copy
import statistics
import time

import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel, embed, fit, load, mrr, stored_table
from nextbert_lite.checks import lesson_18 as check
from nextbert_lite.training.loop import adamw

# %% [markdown]
# What another run may change:

# %% tags=["parameters"]
seed = 0
every_row = False  # True also trains every row of the stored table, which takes some minutes

# %% [markdown]
# ## 1. Operations
#
# Nearly all arithmetic of an encoder is in matrix products. One entry of the product of an (m, k) and a (k, n) matrix is a sum
# of k terms: k multiplications and, to add them up, k additions. (One addition fewer, to be exact; nobody counts that.)
#
# $$\text{operations of } (m, k) \times (k, n) = 2\,m\,k\,n$$
#
# First the count by hand, in the most literal way, with three loops; then by formula; then by torch, which has a counter:


# %% tags=["nbval-check-output"]
def product_by_hand(a, b):
    """Return a @ b of two lists of rows, and how many multiplications and additions that took."""
    operations, rows = 0, []
    for row in a:
        rows.append([])
        for j in range(len(b[0])):
            total = 0.0
            for x, column in zip(row, b, strict=True):
                total += x * column[j]
                operations += 2
            rows[-1].append(total)
    return rows, operations


m, k, n = 3, 4, 5
a, b = torch.randn(m, k, generator=seeded(1)), torch.randn(k, n, generator=seeded(2))
by_hand, operations = product_by_hand(a.tolist(), b.tolist())
with FlopCounterMode(display=False) as counter:
    by_torch = a @ b
print(f"counted by hand {operations}, formula {2 * m * k * n}, torch's counter {counter.get_total_flops()}")
assert torch.allclose(torch.tensor(by_hand), by_torch, atol=1e-6)

# %% [markdown]
# Some tools print half of this, because they count a multiplication and its addition as one operation, a *multiply-add* or MAC.
# The maintainers of fvcore, whose counter does, [call it](https://github.com/facebookresearch/fvcore/issues/69) "a
# long-standing confusion". A factor of two between two papers is often just that.
#
# Counters have blind spots as well. Ask torch's for the operations of attention, as plain products and by torch's own fused
# function:


# %% tags=["nbval-check-output"]
def counted(run):
    """Return the operations of all matrix products in run(), as torch counts them."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


q = torch.randn(2, 4, 16, 8)  # (B, H, T, D)
by_formula = 2 * (2 * 16 * 16 * 8) * 4 * 2
print(f"attention as plain products: {counted(lambda: F.scaled_dot_product_attention(q, q, q)):,} operations")
print(f"the formula, 2 products of 2·T·T·D a head: {by_formula:,}")

# %%
with FlopCounterMode(display=False) as counter:
    F.scaled_dot_product_attention(q, q, q)
print(
    f"the fused function on the CPU: {counter.get_total_flops():,} operations (torch {torch.__version__.split('+')[0]})"
)
assert counter.get_total_flops() in (0, by_formula)

# %% [markdown]
# To a counter the fused function is one opaque call. The counter of torch 2.13 has no rule for it on the CPU, so it counts
# nothing: a [reported bug](https://github.com/pytorch/pytorch/issues/195460), which another version may not have. `counted`
# forbids the fused function (`SDPBackend.MATH`), and the products come into view. Never trust a count that you did not compare
# with a formula once.
#
# ### Which parts of a layer grow with what?
#
# A layer of width C with a feed-forward network of width F has four kinds of products. For *each token* of a text of T tokens:
#
# | product | operations a token |
# |---|---|
# | queries, keys and values, (1, C) × (C, 3C) | 6 C² |
# | scores q·k with all T tokens, and mixing T values | 4 T C |
# | output, (1, C) × (C, C) | 2 C² |
# | feed-forward, (1, C) × (C, F) and back | 4 C F |
#
# With F = 4C that is 24 C² + 4 T C. The first term does not know how long the text is. The second is the famous "quadratic cost
# of attention".
#
# ### Exercise 18.1 · predict the result ●○○ · 5 minutes
#
# BERT-base has C = 768 and F = 4C. At how many tokens T do scores and mixing take as many operations as the layer's linear layers
# all together? Guess first, then compute.

# %% tags=["exercise-18.1"]
tokens_of_balance = None  # a whole number
### BEGIN SOLUTION
tokens_of_balance = 6 * 768  # 24 C² = 4 T C
### END SOLUTION

# %% tags=["nbval-check-output"]
check.balance(tokens_of_balance)

# %% [markdown]
# BERT reads at most 512 tokens. So within BERT's own range, what proportion of a layer's operations are the quadratic ones? And in
# the narrow model that reads our documentation?

# %% tags=["nbval-check-output"]
for C, T in ((768, 128), (768, 512), (768, 8192), (192, 128)):
    quadratic = 4 * T * C / (24 * C * C + 4 * T * C)
    print(f"width {C}, {T:>5} tokens: {quadratic:.0%} of a layer's operations are scores and mixing")

# %% [markdown]
# At the length of the documentation's texts, 128 tokens at most, the quadratic part is small in both models, and the number of
# tokens counts most. That is why this lesson cares more about padding than about attention.
#
# ### The whole step
#
# The head of lesson 05 runs on the selected tokens only: a linear layer C → C, and scores for V words. The backward pass has
# two products for each one of the forward pass: one for the gradient of its input, and one for the gradient of its weight. So a
# training step costs three times its forward pass, if all results of the forward pass are kept.
#
# Two things fill the memory of a training step. The weights, with their gradients and what the optimizer keeps for each of them,
# are there all the time. The **activations**, the results of the forward pass that the backward pass needs again, are there until
# the backward pass has used them.
#
# ### Exercise 18.2 · build a profile ●●● · 30 minutes
#
# Write `step_profile(config, lengths, selected)`: what one training step of lesson 05's `MaskedLanguageModel(Encoder(config))`
# costs, by formula. `config` is an `EncoderConfig`. `lengths` is a list with the number of tokens of each
# text *as they are computed*, so with padding where padding is computed: for example [128] * 24 for a batch of 24 texts that are
# all padded to 128. `selected` is how many tokens the head is asked for. No model is made, and no argument is changed.
# Return a dict of whole numbers:
#
# | key | what it holds |
# |---|---|
# | `"parameters"` | all parameters of encoder and head, biases and norms included; the tied table counts once. The tables: tokens, positions if `config.positions` is "learned" (`max_len + position_offset` rows), token types (`token_types` rows). One layer norm in the encoder besides those of the layers, a weight and a bias each. The head (lesson 05): a linear layer C → C, a layer norm, a bias of V numbers. |
# | `"multiplied"` | of these, the entries of the layers' weight *matrices*: each token is multiplied by each of them once. No table, norm, bias, or head. |
# | `"forward"` | operations of all matrix products of a forward pass, a multiplication and its addition counted as two. The linear layers, the scores and the mixing of each text with itself, the head on the selected tokens. No softmax, norms, biases or look-ups. |
# | `"training"` | operations of forward and backward pass together. |
# | `"state"` | bytes of the weights, their gradients and AdamW's two moments, all in float32 (4 bytes). |
# | `"activations"` | bytes that the layers keep for the backward pass, in float32. Each layer keeps for each token: its own input, queries, keys and values, the heads' outputs, the inputs of both norms, the output of the first norm, and the feed-forward network's hidden numbers before and after the activation function. Nothing of size T × T: the fused attention recomputes that. (A pre-norm layer keeps other tensors and as many numbers.) The head, the embeddings, and a few numbers a token for the statistics of norms and softmax are left out. |
#
# The check goes through the keys in this order.


# %% tags=["exercise-18.2", "my-bert-profile"]
def step_profile(config, lengths, selected):
    """config: an EncoderConfig, lengths: tokens of each text -> what a training step costs, by formula, as a dict"""
    ### BEGIN SOLUTION
    C, V, F, layers = config.width, config.vocab_size, config.ffn_width, config.layers
    tokens = sum(lengths)
    matrices = layers * (4 * C * C + 2 * C * F)
    biases_and_norms = layers * (3 * C + C + F + C + 2 * 2 * C)
    rows = V + config.token_types
    if config.positions == "learned":
        rows += config.max_len + config.position_offset
    head = C * C + C + 2 * C + V
    parameters = rows * C + 2 * C + matrices + biases_and_norms + head
    forward = 2 * matrices * tokens
    forward += 4 * C * layers * sum(T * T for T in lengths)  # each text with itself
    forward += selected * (2 * C * C + 2 * C * V)
    return {
        "parameters": parameters,
        "multiplied": matrices,
        "forward": forward,
        "training": 3 * forward,
        "state": 4 * (1 + 1 + 2) * parameters,
        "activations": 4 * layers * tokens * (8 * C + 2 * F),
    }
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.profile(step_profile)

# %% [markdown]
# From here on the lesson counts with your function if it passes, and with the course's if it does not:

# %% tags=["nbval-check-output"]
step_profile = check.mine("18.2", step_profile)

# %% [markdown]
# Now the measurements. A model of the size of `docs-small`, a batch of 8 texts of 64 tokens, 15 % of them selected. Parameters
# can be counted, and so can operations. Both must agree with the formula to the last one:

# %% tags=["nbval-check-output"]
config = EncoderConfig.preset("small", tokenizer.vocab_size)
torch.manual_seed(seed)
model = MaskedLanguageModel(Encoder(config))
batch_ids = torch.randint(5, config.vocab_size, (8, 64), generator=seeded(3))
chosen = torch.rand(8, 64, generator=seeded(4)) < 0.15
batch = {"ids": batch_ids, "labels": torch.where(chosen, batch_ids, -100), "mask": torch.ones_like(chosen)}
profile = step_profile(config, [64] * 8, int(chosen.sum()))

measured = {
    "parameters": sum(p.numel() for p in model.parameters()),
    "multiplied": sum(p.numel() for name, p in model.encoder.layers.named_parameters() if p.ndim == 2),
    "forward": counted(lambda: model.loss(**batch)),
    "training": counted(lambda: model.loss(**batch).backward()),
}
for name, value in measured.items():
    print(f"{name:>10}: by formula {profile[name]:>14,}, measured {value:>14,}")
    assert profile[name] == value

# %% [markdown]
# ### The rule of thumb, 6ND
#
# "A training run costs 6ND": six operations for each of N parameters and each of D tokens. Two for the forward pass, four for
# the backward pass. But which parameters? An embedding is looked up and not multiplied, so it must not count; a head that
# scores *all* words multiplies the same table, so it must. Kaplan et al. (2020) leave embeddings out, Hoffmann et al. (2022)
# count them, and Pearce and Song (2024) find that this explains much of why the two arrived at different scaling laws. For our
# model the answer matters:

# %% tags=["nbval-check-output"]
D = 8 * 64
for name, N in {"all parameters": profile["parameters"], "multiplied ones": profile["multiplied"]}.items():
    print(f"6ND with {name}: {6 * N * D / profile['training']:.2f} × the operations of the step")
everywhere = step_profile(config, [64] * 8, D)  # the head asked at every token
print(f"6ND with all, head at every token: {6 * profile['parameters'] * D / everywhere['training']:.2f} ×")
assert 6 * profile["multiplied"] * D < profile["training"] < 6 * profile["parameters"] * D

base = EncoderConfig.preset("base", 30522)
big = step_profile(base, [512] * 8, round(0.15 * 512 * 8))
print(f"BERT-base, 512 tokens: 6ND with all parameters {6 * big['parameters'] * 512 * 8 / big['training']:.2f} ×")
for name, c, T, costs in (("ours", config, 64, profile), ("BERT-base", base, 512, big)):
    tables, attention = (c.vocab_size + c.max_len) * c.width / costs["parameters"], T / (6 * c.width + T)
    print(f"{name}: tables {tables:.0%} of the parameters, scores and mixing {attention:.0%} of a layer's operations")

# %% [markdown]
# With a head on selected tokens, 6ND over all parameters is off by nearly a third here. For BERT-base at 512 tokens it is off by
# an eighth. Two errors are of opposite sign: the table counts although it is not multiplied, and attention does not count
# because it has no parameters. In BERT-base the first is smaller and the second larger, so they cancel better. A rule of thumb
# is for large models; for small ones, count.

# %% [markdown]
# ## 2. Bytes
#
# ### The state of the optimizer
#
# One step of AdamW, then add up what is there. The gradients have the size of the weights, and AdamW keeps two moments for each:

# %% tags=["nbval-check-output"]
optimizer = adamw(model, lr=0.0)
model.loss(**batch).backward()
optimizer.step()
held = {
    "weights": [p for p in model.parameters()],
    "gradients": [p.grad for p in model.parameters()],
    "first moments": [optimizer.state[p]["exp_avg"] for p in model.parameters()],
    "second moments": [optimizer.state[p]["exp_avg_sq"] for p in model.parameters()],
}
for name, tensors in held.items():
    print(f"{name:>14}: {sum(t.nbytes for t in tensors) / 1e6:5.1f} MB")
print(f"{'by formula':>14}: {profile['state'] / 1e6:5.1f} MB together")
assert sum(t.nbytes for tensors in held.values() for t in tensors) == profile["state"]
print(f"BERT-base: weights {4 * big['parameters'] / 1e9:.2f} GB, state of a training step {big['state'] / 1e9:.2f} GB")

# %% [markdown]
# The state of training takes four times the memory of the weights, whatever the batch.
#
# ### Activations
#
# torch tells what it keeps: every tensor that a backward pass will need goes through a hook. Several of them may be views of one
# memory, queries, keys and values for example, so count each memory once, and the weights not at all.


# %%
from torch.utils.checkpoint import checkpoint


def kept(run, weights):
    """Return the bytes that run() keeps for its backward pass, without those of the weights."""
    found, known = {}, {p.untyped_storage().data_ptr() for p in weights}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage  # kept alive: its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in found.values())


def through_layers(x, return_weights=False, again=False):
    """x: (B, T, C) through the layers; open attention if the weights are asked for; again: recompute each layer"""
    for layer in model.encoder.layers:
        if again:
            x = checkpoint(lambda y, layer=layer: layer(y)[0], x, use_reentrant=False)
        else:
            x, _ = layer(x, return_weights=return_weights)
    return x


# %% [markdown]
# The same 2,048 tokens, as many short texts or as few long ones. Guess: what does the formula of lesson 02, which writes down
# all T × T weights, keep at T = 512 in proportion to the fused function?

# %%
lengths = (32, 64, 128, 256, 512)
bytes_kept = {"open formula": [], "fused": [], "by formula": []}
for T in lengths:
    x = torch.randn(2048 // T, T, config.width, requires_grad=True)
    bytes_kept["open formula"].append(kept(lambda x=x: through_layers(x, return_weights=True), model.parameters()))
    bytes_kept["fused"].append(kept(lambda x=x: through_layers(x), model.parameters()))
    bytes_kept["by formula"].append(step_profile(config, [T] * (2048 // T), 0)["activations"])
for name, values in bytes_kept.items():
    print(f"{name:>12}: " + "  ".join(f"T = {T} {v / 1e6:6.0f} MB" for T, v in zip(lengths, values, strict=True)))
print(f"at T = 512 the open formula keeps {bytes_kept['open formula'][-1] / bytes_kept['fused'][-1]:.1f} times as much")
for fused, formula in zip(bytes_kept["fused"], bytes_kept["by formula"], strict=True):
    assert formula <= fused < 1.02 * formula  # the statistics of norms and softmax are the rest
for T, value in zip(lengths, bytes_kept["open formula"], strict=True):
    more = 4 * config.layers * config.heads * 2048 * (T - lengths[0])  # one number for each head and pair of tokens
    assert abs(value - bytes_kept["open formula"][0] - more) < 0.001 * value

# %% [markdown]
# The open formula keeps one more number for each head and each *pair* of tokens, as the last assert says. For each token:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(6.6, 3.2))
for name, style in {"open formula": "o-", "fused": "s-", "by formula": "k--"}.items():
    ax.plot(lengths, [v / 2048 / 1e3 for v in bytes_kept[name]], style, label=name)
ax.set(xlabel="tokens a text, T", ylabel="kilobytes a token", xscale="log", ylim=(0, None))
ax.set_xticks(lengths, [str(T) for T in lengths])
ax.minorticks_off()
ax.legend()
ax.set_title("Fused attention takes T out of the memory of a training step")
plots.show(
    fig,
    alt="Kilobytes kept for each token against the length of the texts: the open formula's line climbs steeply, the fused function's is flat and lies on the line by formula.",
)

# %% [markdown]
# Fused attention (Dao et al. 2022) saves no operations. It never writes the T × T weights to memory: it keeps one number
# for each row of them and computes the scores again in the backward pass. So it makes a few *more* operations; our formula, and
# our counter, which forbids the fused function, leave them out. **Gradient checkpointing** (Chen et al. 2016) makes a similar
# bargain with layers. In its usual form it keeps each layer's input only, and runs the layer a second time in the backward pass.
# What do you expect of bytes and operations?

# %% tags=["nbval-check-output"]
x = torch.randn(8, 64, config.width, generator=seeded(5), requires_grad=True)
whole, again = (counted(lambda again=again: through_layers(x, again=again).sum().backward()) for again in (False, True))
all_kept = kept(lambda: through_layers(x), model.parameters())
least = kept(lambda: through_layers(x, again=True), model.parameters())
one_layer = kept(lambda: model.encoder.layers[0](x), model.parameters())
inputs = config.layers * x.nbytes
print(f"operations: {again / whole:.3f} × as many")
print(f"bytes: {least:,} kept, which is the input of {config.layers} layers: {least == inputs}")
print(f"by formula a layer keeps {profile['activations'] / inputs:.0f} times its input")
print(f"while one layer is complete again: {(least + one_layer - x.nbytes) / all_kept:.0%} of all activations")
print(f"by formula, for {config.layers} layers {(config.layers + 15) / (16 * config.layers):.0%}", end="")
print(f", for BERT-base's {base.layers} layers {(base.layers + 15) / (16 * base.layers):.0%}")
assert 3 * again == 4 * whole and least == inputs
assert abs((least + one_layer - x.nbytes) / all_kept - (config.layers + 15) / (16 * config.layers)) < 0.01

# %% [markdown]
# A third more operations, and a sixteenth of the activations *between* the two passes. In the backward pass one layer at a time is
# complete again. So at the peak, which is what must fit, (layers + 15) / (16 · layers) of the activations are there: the more
# layers, the larger the gain.

# %% [markdown]
# ## 3. A roofline of your machine
#
# A processor can do two things at a time: calculate, and fetch numbers from memory. A step that makes many operations with each
# byte that it fetches is limited by the first; one that makes few, by the second. Operations per byte are called **arithmetic
# intensity**, and the limits of a machine, drawn over it, its **roofline** (Williams, Waterman and Patterson 2009):
#
# $$\text{operations a second} \le \min(\text{peak},\; \text{intensity} \times \text{bandwidth})$$
#
# We measure the peak with a large product of two matrices, and the bandwidth by adding 1 to each number of a tensor that is too
# large for most processors' caches. We add in place, because a copy to another place moves more than it seems: before a processor
# writes, it usually reads what was there. Both rates are what *torch reaches* on this machine, not what a data sheet says. We
# count processor seconds, so that waiting for other programs does not count. With several threads the rates are per core, with
# all threads at work. (All this is on the CPU, even if there is a GPU. There, parts as small as these would measure how long it
# takes to start them.)


# %% tags=["times"]
def best_times(runs, rounds=15):
    """Run each in turn; return the fewest processor seconds of each: what the machine can do when little disturbs it."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


square, large = torch.randn(1024, 1024), torch.zeros(32_000_000)
MACHINE = {"peak": lambda: square @ square, "bandwidth": lambda: large.add_(1.0)}
seconds = best_times(MACHINE)
peak = 2 * 1024**3 / seconds["peak"]  # operations a second
bandwidth = 2 * large.nbytes / seconds["bandwidth"]  # bytes a second: each number is read once and written once
ridge = peak / bandwidth
print(f"{peak / 1e9:,.0f} billion operations a second, {bandwidth / 1e9:,.0f} billion bytes a second")
print(f"so {ridge:.1f} operations must be made with each byte, or the memory is the limit")

# %% [markdown]
# Now the parts of one encoder layer, for 2,048 tokens as 16 texts of 128. Each part reads its inputs and writes its outputs
# once; that gives the bytes. For those that are no matrix product we count one operation for each arithmetic step on a number:
# the softmax has five (maximum, difference, exponential, sum, quotient), a layer norm seven, GELU five, the residual sum one,
# and AdamW about twelve. (AdamW moves seven numbers for each weight: it reads the weight, its gradient and two moments, and
# writes all but the gradient.) One part is no part of a layer but a control: a change of sign, which reads and writes exactly what the
# softmax does, and makes one operation with each number.

# %% tags=["times"]
B, T, C, H = 16, 128, config.width, config.heads
n, Fw = B * T, config.ffn_width
x, y, wide, scores = (torch.randn(*s) for s in ((n, C), (n, C), (n, Fw), (B * H, T, T)))
q, k = torch.randn(2, B * H, T, C // H)
wq, wf = torch.randn(3 * C, C), torch.randn(Fw, C)
few = nn.Parameter(torch.randn(4_000_000))
few.grad = torch.randn_like(few)
step_of_adamw = torch.optim.AdamW([few], lr=0.0, fused=True)
PARTS = {  # name -> operations, numbers read and written, how to run it
    "Q, K, V": (6 * n * C * C, n * C + 3 * C * C + 3 * n * C, lambda: F.linear(x, wq)),
    "feed-forward": (2 * n * C * Fw, n * C + C * Fw + n * Fw, lambda: F.linear(x, wf)),
    "scores": (2 * n * T * C, 2 * n * C + scores.numel(), lambda: q @ k.mT),
    "softmax": (5 * scores.numel(), 2 * scores.numel(), lambda: scores.softmax(-1)),
    "change of sign": (scores.numel(), 2 * scores.numel(), lambda: -scores),
    "layer norm": (7 * n * C, 2 * n * C, lambda: F.layer_norm(x, (C,))),
    "GELU": (5 * n * Fw, 2 * n * Fw, lambda: F.gelu(wide)),
    "residual": (n * C, 3 * n * C, lambda: x + y),
    "AdamW": (12 * few.numel(), 7 * few.numel(), step_of_adamw.step),
}
with torch.no_grad():
    took = best_times({name: run for name, (_, _, run) in PARTS.items()} | MACHINE, rounds=20)
peak = max(peak, 2 * 1024**3 / took["peak"])  # measured again, in turn with the parts: the better one counts
bandwidth = max(bandwidth, 2 * large.nbytes / took["bandwidth"])
points = {}
for name, (made, moved, _) in PARTS.items():
    points[name] = (made / (4 * moved), made / took[name])
    reached = points[name][1] / min(peak, points[name][0] * bandwidth)
    print(f"{name:>14}: {points[name][0]:6.2f} operations a byte, {reached:5.0%} of the roof")
print(f"the softmax takes {took['softmax'] / took['change of sign']:.1f} times as long as the change of sign")
assert took["softmax"] > 1.2 * took["change of sign"]

# %% [markdown]
# Slope and flat roof meet at the **ridge**, at about as many operations a byte as the first cell of this section printed. Left of it the
# memory sets the bound, right of it the arithmetic. (A point may lie *above* the slope: tensors of a few
# megabytes stay in the processor's cache, which is faster than the memory that we measured.) The roof is a bound and no more. The
# softmax moves what the change of sign moves and takes longer, so memory is not what limits it. An exponential is not one
# operation for a processor, and the sum over a row must be complete before the first quotient. The roof of the softmax is not
# that of matrix products.

# %% tags=["hide-input", "times"]
fig, ax = plots.figure(size=(7.6, 4.0))
line = [10 ** (e / 20) for e in range(-30, 56)]
ax.plot(line, [min(peak, i * bandwidth) / 1e9 for i in line], color=plots.GREY, label="roof: what this machine reaches")
PLACE = {
    "Q, K, V": (6, -18),
    "feed-forward": (9, -5),
    "AdamW": (-46, -4),
    "softmax": (-20, -18),
    "layer norm": (8, -6),
    "GELU": (8, -4),
    "change of sign": (8, -6),
    "scores": (-16, -18),
    "residual": (-46, 6),
}
for name, (intensity, speed) in points.items():
    product = name in ("Q, K, V", "feed-forward", "scores")
    ax.plot(intensity, speed / 1e9, "o" if product else "s", color=plots.BLUE if product else plots.ORANGE)
    ax.annotate(name, (intensity, speed / 1e9), xytext=PLACE.get(name, (6, 6)), textcoords="offset points", fontsize=9)
ax.plot([], [], "o", color=plots.BLUE, label="a matrix product")
ax.plot([], [], "s", color=plots.ORANGE, label="a step on each number")
ax.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="billion operations a second")
ax.legend(loc="lower right")
ax.set_title("Only the matrix products come near the machine's arithmetic")
plots.show(
    fig,
    alt="A roofline on logarithmic axes: a slope that turns flat; three matrix products lie to the right near the flat part, softmax, norms, GELU, residual, AdamW and a change of sign far to the left and lower.",
)
slowest_product = min(points[name][1] for name in ("Q, K, V", "feed-forward"))
fastest_other = max(speed for name, (_, speed) in points.items() if name not in ("Q, K, V", "feed-forward", "scores"))
assert slowest_product > 1.5 * fastest_other

# %% [markdown]
# Two lessons from one picture. Operations alone do not predict time: an operation of a layer norm or of AdamW is many times as
# expensive as one of a linear layer. And there are two ways to become faster: make fewer operations, or move fewer bytes. Fused
# attention is of the second kind, and so is every "fused kernel".

# %% [markdown]
# ## 4. Nothing for padding
#
# A linear layer works on each token alone. Give it the real tokens only, one behind the other in a single row, and it does
# exactly what is needed. The same holds for norms, activation functions and dropout. Only attention must know which tokens belong
# together: it works text by text. This is **unpadding**; ModernBERT is built on it.
#
# ```
# padded batch (B, T)          packed row (1, N)
# the cook sings  ·            the cook sings | she | a text of four
# she  ·   ·   ·       ->
# a text of four
# ```
#
# ### Exercise 18.3 · build an encoder without padding ●●● · 40 minutes
#
# Write `UnpaddedEncoder`, a subclass of lesson 04's `Encoder`. It has the same weights, takes the same arguments `ids` and
# `mask`, and gives the same vectors at every real token. At padding it gives zeros. (It leaves out lesson 04's `token_types`,
# `return_inside`, masks of shape (B, T, T), and the checks of its arguments.)
#
# | method | write |
# |---|---|
# | `pack(x, mask)` | (B, T, C) → (1, N, C): the N tokens where `mask` is True, text after text, in the order in which they stand. Padding may be on either side, or in between. |
# | `unpack(x, mask)` | (1, N, C) → (B, T, C): every token back in its place, zeros elsewhere. Gradients flow back through it. |
# | `attend(q, k, v, lengths, dropout)` | each (1, H, N, D) → (1, H, N, D). `lengths` is the list of the texts' numbers of tokens. Each text attends to itself and to nothing else. Use `F.scaled_dot_product_attention(..., dropout_p=dropout)`, once for each text or once for all texts of one length. |
# | `layer_forward(layer, x, lengths)` | one `EncoderLayer` on the packed row, (1, N, C) → (1, N, C), pre- or post-norm as `layer.pre` says, with `self.attend` for its attention. Use the layer's own parts: `layer.attention.qkv`, `.out`, `.H`, `.dropout` (a number, which counts in training only: `layer.training`), `layer.norm1`, `layer.norm2`, `layer.feed_forward`, and `layer.dropout` (a module: on what the attention gives and on what the feed-forward network gives, before the residual is added). Split the features as lesson 03's class does: queries, keys and values one after the other, each head by head. |
# | `forward(ids, mask=None)` | embed, pack, `layer_forward` for all layers, the last norm if `config.norm` is "pre", unpack. Embed with `self.embed(ids)`, which knows the positions. No mask means `ids != config.pad_id`; a mask that is given decides alone, whatever the ids are. If the whole batch has no real token, an empty batch included, raise a `ValueError` with a message of your own that says so. A single text without one is no error: its row is zeros. |
#
# No linear layer may see padding, no score may be computed between two texts or with padding: the check counts the
# operations. No argument is changed.


# %% tags=["exercise-18.3", "my-bert-unpadding"]
class UnpaddedEncoder(Encoder):
    """Lesson 04's encoder, which computes nothing for padding: linear layers on real tokens, attention text by text."""

    def pack(self, x, mask):
        """x: (B, T, C), mask: (B, T), True = a real token -> the real tokens, (1, N, C)"""
        ### BEGIN SOLUTION
        return x[mask][None]
        ### END SOLUTION

    def unpack(self, x, mask):
        """x: (1, N, C) -> (B, T, C), zeros at padding"""
        ### BEGIN SOLUTION
        padded = x.new_zeros(*mask.shape, x.shape[-1])
        padded[mask] = x[0]
        return padded
        ### END SOLUTION

    def attend(self, q, k, v, lengths, dropout=0.0):
        """q, k, v: (1, H, N, D) -> (1, H, N, D): each text attends to itself"""
        ### BEGIN SOLUTION
        texts = zip(*(part.split(lengths, dim=2) for part in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*text, dropout_p=dropout) for text in texts], dim=2)
        ### END SOLUTION

    def layer_forward(self, layer, x, lengths):
        """x: (1, N, C) -> (1, N, C), one encoder layer"""
        ### BEGIN SOLUTION
        attention, N, C = layer.attention, *x.shape[1:]
        qkv = attention.qkv(layer.norm1(x) if layer.pre else x).view(1, N, 3, attention.H, C // attention.H)
        heads = self.attend(*qkv.permute(2, 0, 3, 1, 4), lengths, attention.dropout if layer.training else 0.0)
        attended = layer.dropout(attention.out(heads.transpose(1, 2).reshape(1, N, C)))
        if layer.pre:
            x = x + attended
            return x + layer.dropout(layer.feed_forward(layer.norm2(x)))
        x = layer.norm1(x + attended)
        return layer.norm2(x + layer.dropout(layer.feed_forward(x)))
        ### END SOLUTION

    def forward(self, ids, mask=None):
        """ids: (B, T), mask: (B, T), True = a real token -> (B, T, C), zeros at padding"""
        ### BEGIN SOLUTION
        mask = ids != self.config.pad_id if mask is None else mask
        if not mask.any():
            raise ValueError(f"there is no real token in this batch of shape {tuple(ids.shape)}: leave it out.")
        lengths = mask.sum(1).tolist()
        x = self.pack(self.embed(ids), mask)
        for layer in self.layers:
            x = self.layer_forward(layer, x, lengths)
        if self.config.norm == "pre":
            x = self.norm(x)
        return self.unpack(x, mask)
        ### END SOLUTION


# %% tags=["nbval-check-output"]
check.unpadding(UnpaddedEncoder)

# %% [markdown]
# From here on your class does the work, if it passes:

# %% tags=["nbval-check-output"]
UnpaddedEncoder = check.mine("18.3", UnpaddedEncoder)

# %% [markdown]
# The same comparison on real texts: the batch of the first picture, in float64, outputs and gradients of the padded encoder and of
# yours. The padded one is written out here, because the package's own `Encoder` leaves padding out by itself where that saves
# time.


# %%
class PaddedEncoder(Encoder):
    """Lesson 04's encoder, every padded position computed in every layer."""

    def forward(self, ids, mask=None):
        mask = ids != self.config.pad_id if mask is None else mask
        x = self.embed(ids)
        for layer in self.layers:
            x, _ = layer(x, mask[:, None, None])
        return self.norm(x) if self.config.norm == "pre" else x


def like(encoder, kind):
    """Return an encoder of this class with the same weights."""
    other = kind(encoder.config)
    other.load_state_dict(encoder.state_dict())
    return other.to(next(encoder.parameters()))


# %% [markdown]
# Now the batch goes through both, forward and backward:

# %% tags=["nbval-check-output"]
exact = copy.deepcopy(teacher.encoder).double()
padded, unpadded = like(exact, PaddedEncoder), like(exact, UnpaddedEncoder)
aim = torch.randn(*ids.shape, config.width, generator=seeded(6), dtype=torch.float64)
outputs, gradients = [], []
for encoder in (padded, unpadded):
    out = encoder(ids, mask)[mask]
    (out * aim[mask]).sum().backward()
    outputs.append(out.detach())
    gradients.append({name: p.grad for name, p in encoder.named_parameters()})
differences = [(g - gradients[1][name]).abs().max() / g.abs().max() for name, g in gradients[0].items()]
print(f"outputs equal to ten digits: {bool((outputs[0] - outputs[1]).abs().max() < 1e-10)}")
print(f"gradients of {len(differences)} parameters equal to ten digits: {max(differences) < 1e-10}")
assert (outputs[0] - outputs[1]).abs().max() < 1e-10 and max(differences) < 1e-10

# %% [markdown]
# How much should it gain? Linear layers fall to the proportion of real tokens. Attention falls further, because
# its cost goes with the square of the length. So the formula predicts, for a forward pass of this batch:

# %%
lengths = mask.sum(1).tolist()
before, after = (step_profile(config, T, 0)["forward"] for T in ([ids.shape[1]] * len(ids), lengths))
measured = [counted(lambda encoder=encoder: encoder(ids, mask)) for encoder in (padded, unpadded)]
print(f"real tokens: {mask.float().mean():.3f} of the batch; operations by formula {after / before:.3f}")
print(f"operations counted: {measured[1] / measured[0]:.3f}")
assert [before, after] == measured
assert after / before <= mask.float().mean()
mixed = [8192] + 7 * [1024]
saved = step_profile(base, [8192] * 8, 0)["forward"] / step_profile(base, mixed, 0)["forward"]
print(
    f"a text of 8,192 tokens and seven of 1,024 at BERT-base's width and depth: operations {saved:.1f} times fewer, ",
    end="",
)
print(f"tokens {8 * 8192 / sum(mixed):.1f} times")


# %% [markdown]
# And in time? Two rules for measuring on a machine that does other things as well: let the candidates take turns, so that what
# slows one slows all, every second round in reverse order; and compare within a round, then take the median. We count processor
# seconds of this process, all its threads together, so that *waiting* for other programs does not count. (They still take cache
# and memory bandwidth from us.)


# %% tags=["times"]
def in_turn(runs, rounds, warm_up=True):
    """Run each in turn, A B C C B A …; return the processor seconds of each, one number a round."""
    seconds = {name: [] for name in runs}
    for number in range(-1 if warm_up else 0, rounds):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            runs[name]()
            if number >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratios(seconds, slow, fast):
    """Return how many times as fast the second is, one number a round."""
    return [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def times_as_fast(seconds, slow, fast):
    """Return the median over rounds of how many times as fast the second is."""
    return statistics.median(ratios(seconds, slow, fast))


both = {"padded": like(teacher.encoder, PaddedEncoder), "unpadded": like(teacher.encoder, UnpaddedEncoder)}
batches_of = {
    "this batch": (ids, mask),
    "5, 10, 15, … 125 tokens": pad([drawn[0][:1] * length for length in range(5, 129, 5)]),
}
for name, (some, real) in batches_of.items():
    with torch.no_grad():
        seconds = in_turn({kind: lambda e=e, s=some, r=real: e(s, r) for kind, e in both.items()}, rounds=5)
    gain = times_as_fast(seconds, "padded", "unpadded")
    fewer = step_profile(config, [real.shape[1]] * len(real), 0)["forward"]
    fewer /= step_profile(config, real.sum(1).tolist(), 0)["forward"]
    print(f"{name}: {real.float().mean():.0%} real, operations {fewer:.2f} times fewer, {gain:.2f} times as fast")
assert gain > 1.1  # of the second batch, of which less than half is padding

# %% [markdown]
# The loop over texts in Python costs less than it saves, because each call still has a whole text to work on. On a GPU it would
# cost more: there, one call must do all texts, which FlashAttention's functions for variable lengths do.
#
# The mechanism of the package's `Encoder` is in `nextbert_lite.core.unpadding`. The class `Packed` holds a mask's bookkeeping; it sorts texts by length, so that texts of one length share a call.
# Yours against the package's:

# %% tags=["nbval-check-output"]
from nextbert_lite.core.unpadding import Packed

packed = Packed(mask)
vectors = torch.randn(*ids.shape, config.width, generator=seeded(7), dtype=torch.float64)
there_and_back = packed.unpack(packed.pack(vectors)), unpadded.unpack(unpadded.pack(vectors, mask), mask)
print(f"packed shapes: {tuple(packed.pack(vectors).shape) == tuple(unpadded.pack(vectors, mask).shape)}")
print(f"there and back, equal: {torch.equal(*there_and_back)}")
with torch.no_grad():
    theirs = exact(ids, mask)[mask]
print(f"the package's encoder equal to yours to ten digits: {bool((theirs - outputs[1]).abs().max() < 1e-10)}")
assert torch.equal(*there_and_back) and (theirs - outputs[1]).abs().max() < 1e-10

# %% [markdown]
# ## 5. The ladder
#
# Now a whole training step, and six changes, one after the other. Each keeps those before it:
#
# | step | what changes | saves |
# |---|---|---|
# | 0 textbook | three products for q, k, v; open attention; head at every position; texts in random order | |
# | 1 packed QKV | one product in place of three | calls, and bytes: its input is read once |
# | 2 fused attention | the T × T weights are never written to memory | bytes |
# | 3 head on selected | the head sees 15 % of the tokens | operations |
# | 4 sorted by length | texts of about the same length share a batch | padding |
# | 5 unpadding | your encoder (once more without step 4, to compare) | the rest of the padding |
# | 6 bfloat16 | matrix products with numbers of 16 bits | bytes, and operations where the processor has them |
#
# Each step is the same training step for the same 24 texts, in three batches of 8: forward, backward, AdamW. The learning rate
# is zero, so that all rounds see the same weights. That gives a strong test: neither the loss of the 24 texts nor its gradient may
# move. (The ladder is climbed on the CPU even if there is a GPU, where its steps would have other heights.)


# %%
from nextbert_lite import MultiHeadAttention, mask_tokens, scaled_dot_product_attention


class TextbookAttention(MultiHeadAttention):
    """Lesson 03's attention, with two of its shortcuts to switch off."""

    packed = fused = True

    def forward(self, x, mask=None, return_weights=False):
        B, T, C = x.shape
        if self.packed:
            q, k, v = self.qkv(x).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)
        else:
            parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
            q, k, v = (F.linear(x, w, b).view(B, T, self.H, -1).transpose(1, 2) for w, b in parts)
        heads = F.scaled_dot_product_attention(q, k, v, mask) if self.fused else None
        if heads is None:
            heads, _ = scaled_dot_product_attention(q, k, v, mask)
        return self.out(heads.transpose(1, 2).reshape(B, T, C)), None


def step_of(masked_model, batches, packed, fused, selected, unpadded, bf16):
    """Return a function that makes a training step on each of the batches, and gives the sum of the losses.

    With a dict `gradients` it also collects there the gradient of that sum.
    """
    model = MaskedLanguageModel(like(masked_model.encoder, UnpaddedEncoder if unpadded else PaddedEncoder))
    model.head.load_state_dict(masked_model.head.state_dict())
    for layer in model.encoder.layers:
        layer.attention.__class__ = TextbookAttention  # the same weights, another forward; yours uses its own instead
        layer.attention.packed, layer.attention.fused = packed, fused
    optimizer = adamw(model, lr=0.0)

    def run(gradients=None):
        total = 0.0
        for ids, labels, mask in batches:
            asked = labels != -100
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                hidden = model.encoder(ids, mask)
                table = model.encoder.tokens.weight
                logits = model.head(hidden[asked], table) if selected else model.head(hidden, table)[asked]
            loss = F.cross_entropy(logits.float(), labels[asked], reduction="sum")
            loss.backward()
            for name, p in model.named_parameters() if gradients is not None else ():
                gradients[name] = gradients.get(name, 0) + p.grad
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        return total

    return run


# %% [markdown]
# The texts are put into batches twice, as they come and by length. Then each step of the ladder runs once, for its loss and its
# gradient:

# %%
masked_model, _ = load("docs-small")
rows = [docs.train[i].text for i in torch.randperm(len(docs.train), generator=seeded(seed, 18))[:24].tolist()]
rows = [cut(ids, 128) for ids in tokenizer.encode_batch(rows)]
pairs = [mask_tokens(torch.tensor(row), tokenizer, 0.15, seeded(seed, i)) for i, row in enumerate(rows)]


def in_batches(order):
    """Return the texts in this order as batches of 8: ids, labels, mask."""
    batches = []
    for start in range(0, len(order), 8):
        some = [pairs[i] for i in order[start : start + 8]]
        ids, mask = pad([corrupted for corrupted, _ in some])
        batches.append((ids, pad([labels for _, labels in some], -100)[0], mask))
    return batches


at_random, by_length = in_batches(range(24)), in_batches(sorted(range(24), key=lambda i: len(rows[i])))
LADDER = {  # name: batches, packed, fused, selected, unpadded, bf16
    "textbook": (at_random, False, False, False, False, False),
    "packed QKV": (at_random, True, False, False, False, False),
    "fused attention": (at_random, True, True, False, False, False),
    "head on selected": (at_random, True, True, True, False, False),
    "sorted by length": (by_length, True, True, True, False, False),
    "unpadding": (by_length, True, True, True, True, False),
    "unpadding, unsorted": (at_random, True, True, True, True, False),
    "bfloat16": (by_length, True, True, True, True, True),
}
runs = {name: step_of(masked_model, *options) for name, options in LADDER.items()}
asked = sum(int((labels != -100).sum()) for _, labels, _ in at_random)
losses, gradients = {}, {}
for name, run in runs.items():
    losses[name] = run(found := {})
    gradients[name] = torch.cat([gradient.flatten() for _, gradient in sorted(found.items())])
    off = float((gradients[name] - gradients["textbook"]).norm() / gradients["textbook"].norm())
    print(f"{name:>19}: loss {losses[name] / asked:.4f} nats, gradient off by {off:.0e} of its length")
    assert abs(losses[name] / losses["textbook"] - 1) < (0.01 if name == "bfloat16" else 1e-4)
    assert off < (0.1 if name == "bfloat16" else 1e-3)

# %% [markdown]
# Five steps leave the loss and the gradient as they are, up to the rounding of float32. The sixth, with numbers of 16 bits, moves
# them a little. The formula says how many *operations* each step has.
# Write down the step from which you expect the largest gain in *time*.

# %% tags=["times"]
rounds = in_turn(runs, rounds=3, warm_up=False)  # each has run once already


def operations_of(batches, packed, fused, selected, unpadded, bf16):
    """Return the operations of a training step on all batches, by formula."""
    total = 0
    for ids, labels, mask in batches:
        computed = mask.sum(1).tolist() if unpadded else [ids.shape[1]] * len(ids)
        total += step_profile(config, computed, int((labels != -100).sum()) if selected else ids.numel())["training"]
    return total


made = {name: operations_of(*options) for name, options in LADDER.items()}
gains = {name: times_as_fast(rounds, "textbook", name) for name in LADDER}
spread = {name: (min(ratios(rounds, "textbook", name)), max(ratios(rounds, "textbook", name))) for name in LADDER}
for name, (low, high) in spread.items():
    print(f"{name:>19}: {made[name] / made['textbook']:4.2f} of the operations, ", end="")
    print(f"{gains[name]:4.2f} times as fast ({low:.2f} to {high:.2f})")
one_by_one = [name for name in LADDER if name != "unpadding, unsorted"]
alone = {b: times_as_fast(rounds, a, b) for a, b in zip(one_by_one[:-1], one_by_one[1:], strict=True)}
print("over the step before: " + ", ".join(f"{name} {gain:.2f}" for name, gain in alone.items()))
print(f"the largest gain in these rounds: {max(alone, key=alone.get)}")
rest = made["unpadding"] / made["sorted by length"]
print(f"after sorting, unpadding still leaves out {1 - rest:.0%} of the operations")
last = ratios(rounds, "unpadding", "bfloat16")
print(
    f"the last step alone, round by round: {statistics.median(last):.2f} times as fast ({min(last):.2f} to {max(last):.2f})"
)
if min(last) < 1:
    print("so on this machine it is not sure that the last step wins anything")
assert list(made.values()) == sorted(made.values(), reverse=True)
assert made["unpadding"] == made["unpadding, unsorted"] and rest < 0.95
assert gains["unpadding"] > 1.2 and made["unpadding"] < 0.7 * made["textbook"]

# %% [markdown]
# In the picture, a thick black mark shows where its number of operations alone would put a step, and a thin line goes from the
# smallest to the largest of the three rounds:

# %% tags=["hide-input", "times"]
fig, ax = plots.figure(size=(7.6, 3.4))
for y, name in enumerate(LADDER):
    colour = {"bfloat16": plots.ORANGE, "unpadding, unsorted": plots.SKY}.get(name, plots.BLUE)
    ax.barh(-y, gains[name], color=colour, height=0.62)
    ax.text(0.03, -y, f"{gains[name]:.2f}", va="center", color="white" if colour == plots.BLUE else "black", fontsize=9)
    ax.plot(spread[name], [-y, -y], color="black", lw=0.8)
    ax.plot([made["textbook"] / made[name]] * 2, [-y - 0.36, -y + 0.36], color="black", lw=2)
ax.plot([], [], color="black", lw=2, label="from operations alone")
ax.plot([], [], color="black", lw=0.8, label="smallest to largest of three rounds")
ax.set_yticks([-y for y in range(len(LADDER))], list(LADDER))
ax.set(xlabel="times as fast as the textbook's step", xlim=(0, 1.15 * max(high for _, high in spread.values())))
ax.legend(loc="upper right", fontsize=8)
ax.set_title(f"The same loss and gradient in float32, {gains['unpadding']:.1f} times as fast")
plots.show(
    fig,
    alt="Bars of speed for eight versions of a training step, each with the range of its rounds as a thin line and a thick mark where its number of operations alone would put it; the bars grow from the textbook to unpadding, and bfloat16 is the last.",
)

# %% [markdown]
# First see how much of a difference to believe. The two rows with unpadding have nearly the same work, and the thin lines show how
# far a step's own rounds are apart. Then read the black marks against the bars. Where a bar goes further than its mark, and its
# thin line too, bytes or calls were saved, not operations. Fused attention is made for that; on a busy machine you may not see
# it. Where a bar stays behind its mark, something grew in weight that the formula leaves out: norms, GELU, AdamW, Python. The
# better the products become, the more of the time is in the rest. (This is Amdahl's law.) Sorting and unpadding are two cures for
# one illness: unpadding alone has as few operations as both together, and sorting alone removes only a part of the padding, as
# the line below the table says, because a batch of eight still has texts of several lengths. With many more texts to sort, the
# texts of a batch would be more alike. And bfloat16 has to convert weights and activations in each layer; whether it gains all the same depends on the processor.
#
# What proportion of the peak of a large product does a training step reach? Two proportions have a name. (FLOPs are
# floating-point operations.) *Hardware* FLOPs utilization counts every operation that is made. **Model FLOPs utilization**, MFU (Chowdhery et al. 2022), counts only those
# that the model needs:

# %% tags=["times"]
peak_now = 2 * 1024**3 / best_times(MACHINE)["peak"]
needed = made["unpadding"]  # what the model needs for these texts, however a step computes it
utilization = {}
for name in ("textbook", "unpadding"):
    per_operation = 1 / min(rounds[name]) / peak_now
    utilization[name] = needed * per_operation
    print(f"{name:>10}: {made[name] * per_operation:.0%} of the peak is used, ", end="")
    print(f"{utilization[name]:.0%} for what the model needs (MFU)")
assert utilization["textbook"] < utilization["unpadding"]

# %% [markdown]
# A padded step looks busy by the first measure and not by the second. That is why MFU is the one to report.

# %% [markdown]
# ## 6. Fewer bits
#
# A float32 has a sign, 8 bits for the exponent and 23 for the digits. **bfloat16** keeps the exponent and rounds the digits to 7 bits:
# the range stays, two to three decimal digits remain. **int8** is a whole number from −128 to 127, and a scale must be kept
# beside it. Both need less memory. Whether they are *faster* depends on the processor: some have instructions for products of
# 16-bit or 8-bit numbers, others convert to float32 and back, and lose. So measure:


# %% tags=["times"]
def bits(number):
    """Return sign, exponent and digits of a float32 as it is stored."""
    (whole,) = torch.tensor([number]).view(torch.int32).tolist()
    text = f"{whole & 0xFFFFFFFF:032b}"
    return f"{text[0]} {text[1:9]} {text[9:]}"


for number in (1 / 3, torch.tensor(1 / 3).bfloat16().item()):
    print(f"{number:.7f}: {bits(number)}")

x, w = torch.randn(2048, 192, generator=seeded(8)), torch.randn(768, 192, generator=seeded(9))
x16, w16 = x.bfloat16(), w.bfloat16()
x8, w8 = (torch.randint(-127, 128, t.shape, dtype=torch.int8) for t in (x, w))
products = {"float32": lambda: x @ w.T, "bfloat16": lambda: x16 @ w16.T, "int8": lambda: torch._int_mm(x8, w8.T)}
seconds = in_turn(products, rounds=9)
for name in ("bfloat16", "int8"):
    ratio = times_as_fast(seconds, "float32", name)
    told = f"{ratio:.1f} times as fast" if ratio > 1 else f"{1 / ratio:.1f} times as SLOW"
    print(f"one product of 2,048 tokens in {name}: {told} as in float32, on this machine")
print(f"the ladder's whole step in bfloat16: {statistics.median(last):.2f} times as fast as in float32")

# %% [markdown]
# (`torch._int_mm` is torch's product of int8 matrices with a sum in int32. The underscore means what it says: it may change.)
# Compare the product's line in bfloat16 with the last line: in the whole step, weights and activations are converted in each layer, and
# residual sums, norms and AdamW stay in float32.
#
# ### Whole numbers with a scale
#
# To store a row of weights as int8, choose a scale s for the row, the size of one step, and round each weight to whole steps. The
# stored number q then stands for q · s, and what is lost in a weight is at most half a step:
#
# $$q_j = \text{round}(w_j / s), \qquad |q_j\, s - w_j| \le s / 2$$
#
# ### Exercise 18.4 · find the bug ●●○ · 10 minutes
#
# A colleague wrote it like this, put all linear layers of the search encoder into int8, and reports that 8 bits are too few for
# this model. You look at one weight matrix. The mean error is tiny, as it should be. Then you look at the largest error.


# %%
def buggy_quantize(w):
    scale = w.abs().amax(1) / 128  # int8 has 256 values
    return (w / scale[:, None]).round().to(torch.int32).to(torch.int8), scale


w = teacher.encoder.layers[0].ffn_in.weight.detach()
q, scale = buggy_quantize(w)
error = (q * scale[:, None] - w).abs()
print(f"mean error {error.mean():.4f} at a mean weight of {w.abs().mean():.4f}")
print(f"largest error {error.max():.2f} at a largest weight of {w.abs().max():.2f}")

# %% [markdown]
# Write `quantize(w)` right. w, (rows, columns), holds float numbers. Return q, int8 of the same shape, and the scale of each
# row, (rows,), in w's dtype. −w must give −q; the weight of the largest size in each row must be stored exactly, up to the
# rounding of floats; no error may exceed half a step; and the steps should be as fine as these three allow. A row of zeros
# gives zeros and the scale 1, so that nobody divides by 0 later.


# %% tags=["exercise-18.4"]
def quantize(w):
    """w: (rows, columns) -> int8 (rows, columns), scale (rows,)"""
    ### BEGIN SOLUTION
    scale = w.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (w / scale[:, None]).round().to(torch.int8), scale
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.quantized(quantize)

# %% [markdown]
# Where the number of the largest size in a row is positive, it turns its sign: 128 does not exist in int8 and becomes −128. How
# often is that so? In the weights, and in what the linear layers get as inputs, token by token, for the batch of the first
# picture:


# %%
def turned(rows):
    """rows: (n, features) -> the proportion of rows whose number of the largest size is positive"""
    return (rows.amax(1) == rows.abs().amax(1)).float().mean().item()


def noted(kind):
    """Return a hook that notes the inputs of a linear layer."""
    return lambda part, given, out: inputs[kind].append(given[0].flatten(0, -2))


KINDS = ("qkv", "out", "ffn_in", "ffn_out")
weights, inputs, hooks = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}, []
for name, part in both["unpadded"].layers.named_modules():
    if (kind := name.split(".")[-1]) in KINDS:
        weights[kind].append(part.weight.detach())
        hooks.append(part.register_forward_hook(noted(kind)))
with torch.no_grad():
    both["unpadded"](ids, mask)
for kind in KINDS:
    share = turned(torch.cat(weights[kind])), turned(torch.cat(inputs[kind]))
    print(f"{kind:>8}: turned in {share[0]:.0%} of the rows of weights and {share[1]:.0%} of the inputs")
    assert 0.4 < share[0] < 0.65
assert share[1] > 0.99  # of the inputs of ffn_out, behind GELU
for hook in hooks:
    hook.remove()

# %% [markdown]
# In about half of the rows of weights, and in every token that enters the second layer of a feed-forward network: behind GELU the
# number of the largest size is positive.
#
# What do fewer bits cost in search? The measure is the MRR, the mean over the questions of 1 / rank of the right text. Three
# versions of `docs-contrastive`. In bfloat16, matrix products take numbers of 16 bits, in the linear layers and in attention,
# and the weights stay stored in float32. In int8, all linear layers work with 8 bits: the weights with one scale a row, the
# inputs with one scale a token, made anew each time. (The embedding table stays in float32.) Then the colleague's int8, and to
# find out what hurts, his function for the weights alone and for the inputs alone. A product of whole numbers below 128 in rows
# of 768 stays below 2²⁴, where float32 is exact, so the test can multiply in float32 and gets to the digit what an int8 unit
# would give.


# %%
class Int8Linear(nn.Module):
    """A linear layer whose weights, and inputs token by token, are whole numbers of 8 bits with a scale."""

    def __init__(self, linear, of_weights, of_inputs):
        super().__init__()
        self.of_inputs, self.bias = of_inputs, linear.bias
        self.stored, self.scale = of_weights(linear.weight.detach())

    @property
    def weight(self):
        """What the stored numbers stand for; the encoder asks for its dtype."""
        return self.stored * self.scale[:, None]

    def forward(self, x):
        q, scale = self.of_inputs(x.flatten(0, -2))
        y = q.float() @ self.stored.float().T  # exact: whole numbers below 2^24
        return (y * scale[:, None] * self.scale + self.bias).view(*x.shape[:-1], -1)


def in_int8(module, of_weights, of_inputs):
    """Put an Int8Linear in the place of each linear layer within a module."""
    for name, part in module.named_children():
        if isinstance(part, nn.Linear):
            setattr(module, name, Int8Linear(part, of_weights, of_inputs))
        else:
            in_int8(part, of_weights, of_inputs)
    return module


def rounded(w):
    """Exercise 18.4, the course's way, for what follows."""
    scale = w.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (w / scale[:, None]).round().to(torch.int8), scale


test = docs.pairs("test")[:200]
queries, bodies = map(list, zip(*test, strict=True))


def search_quality(model, precision="float32"):
    """Return the MRR of finding each summary's own body among 200."""
    found = [
        embed(side, (model, tokenizer), long="cut", device="cpu", precision=precision) for side in (queries, bodies)
    ]
    return mrr(found[0] @ found[1].T)


INT8 = {  # name: what makes whole numbers of the weights, and of the inputs
    "int8": (rounded, rounded),
    "colleague's weights": (buggy_quantize, rounded),
    "colleague's inputs": (rounded, buggy_quantize),
    "colleague's int8": (buggy_quantize, buggy_quantize),
}
quality = {"float32": search_quality(teacher), "bfloat16": search_quality(teacher, "bfloat16")}
for name, functions in INT8.items():
    quality[name] = search_quality(in_int8(copy.deepcopy(teacher), *functions))
lost = {name: quality["float32"] - value for name, value in quality.items()}
for name, value in quality.items():
    print(f"{name:>19}: MRR {value:.3f}")
assert abs(lost["bfloat16"]) < 0.02 and abs(lost["int8"]) < 0.02
assert lost["colleague's weights"] > 0.02 and lost["colleague's inputs"] > 0.02
assert lost["colleague's int8"] > max(lost["colleague's weights"], lost["colleague's inputs"]) + 0.01

# %% [markdown]
# Sixteen bits and eight bits change the quality of this search by less than two hundredths. The colleague's eight bits spoil
# it, through one number in a row, of weights or of inputs: each alone costs some hundredths, and both together more. So a bad
# result of a quantised model says nothing about 8 bits until the arithmetic has been checked. Ours is a model of 2.6 million
# parameters, though. In large language models a few features take values so much larger than all others that one scale a token
# no longer serves the rest, and they are multiplied apart in 16 bits (Dettmers et al. 2022).

# %% [markdown]
# ## 7. A smaller student
#
# All of the above leaves the model as it is. The other way is a smaller model. Trained on the same pairs alone it would be
# worse; but the large model can help. In **distillation** (Hinton et al. 2015) a small model, the *student*, learns to give what the
# large one, the *teacher*, gives. For search that is simple: the student's vector of a text should point where the teacher's points. No
# negatives are needed, no pairs, no large batches:
#
# $$\text{loss} = 1 - \cos\big(\text{student}(x),\ \text{teacher}(x)\big)$$
#
# The student has two layers in place of four and a width of 120 in place of 192, and a last linear layer to the teacher's 192
# features. Its table starts as the teacher's, projected onto the 120 directions along which it varies most.


# %%
from nextbert_lite import PairBatches, SentenceEncoder, length_buckets
from nextbert_lite.training.batches import Batches


class Student(SentenceEncoder):
    """A small sentence encoder whose vectors have the teacher's width."""

    def __init__(self, encoder, width):
        super().__init__(encoder, temperature=0.05, symmetric=True, chunk=16)
        self.out = nn.Linear(encoder.config.width, width)

    def forward(self, ids, mask=None):
        return self.out(super().forward(ids, mask))


class Distilled(Student):
    """A student that is trained to point where the teacher points."""

    def loss(self, ids, mask, target):
        return (1 - F.cosine_similarity(self(ids, mask), target)).mean()


small = EncoderConfig(tokenizer.vocab_size, width=120, layers=2, heads=3, ffn_width=480, max_len=128, init_std="fan_in")


def new_student(kind):
    """Return a fresh student; its table is the teacher's, projected."""
    torch.manual_seed(seed)
    student = kind(Encoder(small), teacher.encoder.config.width)
    with torch.no_grad():
        table = teacher.encoder.tokens.weight - teacher.encoder.tokens.weight.mean(0)
        directions = torch.linalg.svd(table, full_matrices=False).Vh[: small.width]
        table = table @ directions.T
        student.encoder.tokens.weight.copy_(table / table.std() / small.width**0.5)
    return student


class Pointed(Batches):
    """Batches of texts of about the same length, with the teacher's vectors."""

    def __init__(self, rows, vectors, batch_size, seed):
        super().__init__(len(rows), batch_size, seed)
        self.rows_, self.vectors = rows, vectors

    def start_epoch(self, epoch):
        return length_buckets([len(row) for row in self.rows_], self.batch_size, seeded(self.seed, epoch))

    def batch(self, rows):
        ids, mask = pad([self.rows_[i] for i in rows])
        return {"ids": ids, "mask": mask, "target": self.vectors[torch.tensor(rows)]}


# %% [markdown]
# The controls: the teacher itself; a student of the same size, from the same start, that is trained *without* a teacher, by
# lesson 09's loss on the same pairs, with as many texts in all; and the same in batches half as large, so that it has as many
# updates as the distilled one. The last column belongs to one more control: a linear map from a student's vectors to the
# teacher's, fitted on training texts by least squares, after the student was trained. The map itself learns from the teacher, so it
# is fitted for an untrained student as well. The full rows, with 2,500 pairs, are stored. Two short ones, with 600 pairs, are
# trained here. (Their map has the 1,200 texts of these pairs; in the stored table every map has 3,000 texts.)

# %%
all_pairs = docs.pairs("train")
order = torch.randperm(len(all_pairs), generator=seeded(18, 1)).tolist()
ROWS = {  # name: what trains it, pairs, updates, texts or pairs of texts in a batch
    "distilled, short": (Distilled, 600, 40, 64),
    "pairs, short": (Student, 600, 20, 64),
    "distilled": (Distilled, 2500, 200, 64),
    "pairs": (Student, 2500, 100, 64),
    "pairs, 200 updates": (Student, 2500, 200, 32),
    "untrained": (Student, 2500, 0, 64),
}
train_now = ROWS if every_row else {name: row for name, row in ROWS.items() if "short" in name}
largest = max(row[1] for row in train_now.values())
train_texts = [text for i in order[:largest] for text in all_pairs[i]]
train_rows = [cut(ids, 128) for ids in tokenizer.encode_batch(train_texts)]
everything = docs.pairs("test")
aims = embed(train_texts, (teacher, tokenizer), long="cut")
teachers_index = embed([body for _, body in everything], (teacher, tokenizer), long="cut")


def train_student(kind, pairs, updates, size):
    """Return a student, trained on so many pairs: texts one by one with the teacher, or two by two without."""
    rows = train_rows[: 2 * pairs]
    if kind is Distilled:
        batches = Pointed(rows, aims[: 2 * pairs], size, seed)
    else:
        batches = PairBatches(list(zip(rows[::2], rows[1::2], strict=True)), tokenizer, size, seed)
    student = new_student(kind)
    if updates:
        fit(student, batches, updates, lr=3e-3, warmup=updates // 10, seed=seed, device="cpu", progress=False)
    return student


def map_to_teacher(student, texts=3000):
    """Return a matrix that takes a student's vectors to the teacher's, fitted on so many training texts or fewer."""
    X, Y = embed(train_texts[:texts], (student, tokenizer), long="cut"), aims[:texts]
    ridge = 1e-3 * len(X) / X.shape[1]  # a thousandth of the mean eigenvalue of X'X, because the vectors have length 1
    return torch.linalg.solve(X.T @ X + ridge * torch.eye(X.shape[1]), X.T @ Y)


results_student = []
for name, row in train_now.items():
    student = train_student(*row)
    asked, found = (embed(list(side), (student, tokenizer), long="cut") for side in zip(*everything, strict=True))
    mapped = F.normalize(asked @ map_to_teacher(student), dim=1)
    scores = {"mrr": asked @ found.T, "mrr_with_teachers_index": asked @ teachers_index.T}
    scores["mrr_mapped"] = mapped @ teachers_index.T
    results_student.append(dict(seed=seed, student=name) | {column: mrr(value) for column, value in scores.items()})
    print(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in list(results_student[-1].items())[2:]))

# %% [markdown]
# All stored rows, each at three seeds, and the teacher. (The teacher found more in the section before, among 200 bodies. Here all
# test bodies are there to be confused.)

# %%
table = stored_table("18_student")
columns = ("mrr", "mrr_with_teachers_index", "mrr_mapped")
stored = {name: [row for row in table if row["student"] == name] for name in ROWS}
values = {name: {c: [float(row[c]) for row in rows] for c in columns} for name, rows in stored.items()}
for name, found in values.items():
    print(f"{name:>18}: " + "; ".join(f"{c} " + " ".join(f"{v:.3f}" for v in vs) for c, vs in found.items()))
teachers_queries = embed([query for query, _ in everything], (teacher, tokenizer), long="cut")
best = mrr(teachers_queries @ teachers_index.T)
print(f"{'the teacher':>18}: {best:.3f} among {len(everything)} bodies")
chance = sum(1 / rank for rank in range(1, len(everything) + 1)) / len(everything)
print(f"{'a random order':>18}: {chance:.3f}")

live = {row["student"]: row for row in results_student}
for name in ("distilled, short", "pairs, short"):  # the rows trained here are like their stored ones
    assert abs(live[name]["mrr"] - statistics.mean(values[name]["mrr"])) < 0.05
assert live["pairs, short"]["mrr"] > live["distilled, short"]["mrr"]  # with few updates the control is ahead
assert live["pairs, short"]["mrr_with_teachers_index"] < 0.05 < live["distilled, short"]["mrr_with_teachers_index"]
assert live["pairs, short"]["mrr_mapped"] > live["pairs, short"]["mrr"] + 0.05

short, _, distilled, pairs, more_updates, untrained = (values[name] for name in ROWS)
assert all(a < b for a, b in zip(short["mrr_with_teachers_index"], short["mrr"], strict=True))
assert min(distilled["mrr_mapped"]) > max(distilled["mrr_with_teachers_index"])
assert min(distilled["mrr"]) > max(pairs["mrr"] + more_updates["mrr"]) + 0.03
assert max(more_updates["mrr"]) < min(pairs["mrr"])
assert max(distilled["mrr_with_teachers_index"]) < best
assert all(a > b for a, b in zip(distilled["mrr_with_teachers_index"], distilled["mrr"], strict=True))
assert max(pairs["mrr_with_teachers_index"] + more_updates["mrr_with_teachers_index"]) < 1.5 * chance
assert min(untrained["mrr_mapped"]) > max(untrained["mrr"]) + 0.15
assert abs(statistics.mean(untrained["mrr_mapped"]) - statistics.mean(pairs["mrr"])) < 0.04
assert min(pairs["mrr_mapped"]) > max(untrained["mrr_mapped"] + pairs["mrr"]) + 0.02
assert min(distilled["mrr_with_teachers_index"]) > max(pairs["mrr_mapped"]) + 0.03

# %% [markdown]
# Begin with the first column. After 200 updates the student with a teacher is ahead of both controls at every stored seed. It is not
# the number of updates: the control with as many is behind the one with half as many and larger batches. (The learning rate is
# 3·10⁻³ for all. For the control with batches of 64 pairs we also tried 10⁻³ and 6·10⁻³ at one seed, which were worse.) After 40
# updates the order is the other way round, and the student that was trained on pairs is ahead: this distillation needs some
# time. Why does it win in the end? One reason may be that each text brings a whole vector of 192 numbers to learn from, where
# the contrastive loss asks one question, *which of 64?* Another is that these vectors carry what the teacher learnt in its
# pretraining and its longer training. This comparison cannot tell them apart.
#
# Now the second column. The distilled student's *questions* find more in the **teacher's** index than in the student's own,
# after 200 updates. (After 40 it is the other way round at all three stored seeds.) That is practical: documents are encoded once,
# by the large model, when nobody waits. Queries are encoded by the small one. A student that was trained on pairs alone finds no
# more there than a random order does, because its vectors live in a space of their own.
#
# The third column warns against too simple a conclusion. With a linear map, fitted on 3,000 training texts, the student that was
# trained on pairs finds more in the teacher's index than in its own. So its vectors held more than they showed. But most of this is
# the work of the map: a student that was never trained, whose table alone comes from the teacher, finds with such a map about as
# much as 100 updates on pairs teach. The map is itself a small distillation. Neither reaches the student that was distilled
# with all its layers, and that one gains a little from a map as well: its own training did not make its vectors agree with the
# teacher's completely.
#
# (All models of this section have seen training texts only. Four in ten of the teacher's pairs were of other kinds, some words with
# what is around them or a name with its text; the students' were all a summary with its body.)
#
# And how much faster is it? The formula first, then the clock:

# %% tags=["times"]
student = new_student(Distilled).eval()
of_parameters = sum(p.numel() for p in student.parameters()) / sum(p.numel() for p in teacher.parameters())
of_operations = step_profile(small, [64], 0)["forward"] / step_profile(teacher.encoder.config, [64], 0)["forward"]
print(f"the student has {of_parameters:.2f} of the teacher's parameters and {of_operations:.2f} of its operations")
some, real = pad(drawn[:16])
with torch.no_grad():
    seconds = in_turn({"teacher": lambda: teacher(some, real), "student": lambda: student(some, real)}, rounds=9)
speed = times_as_fast(seconds, "teacher", "student")
print(f"it is {speed:.1f} times as fast on this machine; from operations alone {1 / of_operations:.1f}")
assert speed > 1.3

# %% [markdown]
# Quality against speed:

# %% tags=["hide-input", "times"]
fig, ax = plots.figure(size=(7.0, 3.6))
ax.plot([1], [best], "D", color="black", label="teacher", ms=8)
KINDS_OF_STUDENT = (
    (untrained["mrr_mapped"], "^", plots.GREY, "untrained student, mapped to the teacher's index"),
    (pairs["mrr"], "o", plots.ORANGE, "student, pairs alone"),
    (pairs["mrr_mapped"], "^", plots.ORANGE, "the same, mapped to the teacher's index"),
    (distilled["mrr"], "o", plots.BLUE, "student, distilled"),
    (distilled["mrr_with_teachers_index"], "^", plots.BLUE, "the same, the teacher's index"),
)
for number, (found, marker, colour, label) in enumerate(KINDS_OF_STUDENT):
    ax.plot([speed * (0.92 + 0.04 * number)] * len(found), found, marker, color=colour, label=label)
ax.axvline(speed, color=plots.GREY, lw=0.8, ls=":", zorder=0)
ax.set(
    xlabel="times as fast as the teacher (all students at the dotted line, drawn side by side)",
    ylabel="MRR among test bodies",
)
ax.set(xlim=(0, 1.35 * speed), ylim=(0, 1.1 * best))
ax.legend(loc="lower left")
kept_share = statistics.mean(distilled["mrr"]) / best
ax.set_title(f"The distilled student keeps {kept_share:.0%} of the teacher's MRR\nat {speed:.1f} times the speed")
plots.show(
    fig,
    alt="MRR against speed: the teacher as one point at speed 1; at the student's speed students trained on pairs and untrained ones with a map lie lowest, those trained on pairs higher once they are mapped to the teacher's index, distilled ones above, and with the teacher's index highest.",
)

# %% [markdown]
# Compare the two numbers of speed. The student has about a fifth of the operations, and the clock shows less than the formula
# promises: the narrower the matrices, the more of the time goes to norms, GELU and Python, as the roofline showed.

# %% [markdown]
# ## What to remember
#
# * **Count before you measure.** A product of (m, k) and (k, n) takes 2·m·k·n operations; a training step three forward passes.
#   For one layer and token, with F = 4C: 24 C² + 4 T C. The quadratic part overtakes the linear one at T = 6C, nine times as long as BERT's
#   longest text.
# * Compare a count with a formula once. Some counters take a multiplication and its addition for one operation, and torch 2.13's
#   counts fused attention on the CPU as nothing.
# * **6ND** is a rule for large models. At small sizes say which N, and whether the head is asked at every token.
# * Training keeps **16 bytes a parameter** in float32, and for each token and layer 8C + 2F activations. Fused attention
#   removes the T × T part; recomputing each layer leaves (layers + 15) / (16 · layers) of the rest at the peak, for a third more
#   operations.
# * Arithmetic and memory each set a bound, and the **roofline** tells which of the two is lower. A part may be limited by neither.
#   Only large matrix products come near the peak.
# * **Unpadding** changes no result: linear layers on real tokens, attention text by text. What it can gain is the operations before
#   over the operations after: a little more than 1 / the proportion of real tokens for short texts, clearly more where very long and shorter texts meet.
# * Measure ratios, in turn, take medians, and look at the spread. A loss and a gradient that stay the same are part of the
#   measurement. If you report a utilization, report **MFU**, which counts only what the model needs.
# * **Fewer bits** cost this search next to nothing. Whether they are faster is a property of the processor, and of how much is
#   converted on the way. A result that gets worse in int8 is first of all a reason to look for a bug.
# * A **distilled** student was ahead of one trained on the same pairs alone, given enough updates, and shares the teacher's index.
#   A linear map to the teacher's vectors gives much of that, even to a student that was never trained.
#
# **What this scale cannot show.** One thread or two, 2.6 million parameters, texts of 128 tokens. On a GPU the order of the
# ladder is another one: launching small kernels costs more than computing them, a Python loop over texts is the wrong tool, and
# bfloat16 is nearly free. At a width of 4,096 the linear layers weigh more, at 8,192 tokens attention does. That int8 costs
# nothing here does not carry over to models with outlier features. And the student was judged on the kind of text that it was
# distilled on.
#
# **What the field did since.** Unpadding won benchmarks for the training of BERT: an unpadded BERT was first of its class in
# MLPerf Training 2.0 (Zeng et al. 2022). It became part of MosaicBERT and ModernBERT. ModernBERT unpads once, before the
# embedding, and its authors report 10 to 20 percent more speed than with implementations that unpad and pad again between
# layers. The other way is to *pack* several texts into a row: Krell et al. (2021) found up to 50 % padding in common data sets,
# and made the second phase of BERT's pretraining twice as fast, with masks that keep texts apart. PaLM (2022) made utilization
# a number to report: it reached 46.2 % MFU. And small models that share the large model's space are in use: LEAF (2025) is
# trained much like our student, without negatives, and its authors also find that the teacher's index helps the student's
# queries.
#
# **An open problem.** A roofline tells what one operation could reach on one machine. It does not tell which *model* is best
# for a given machine and a given time to answer. Rules that rank shapes without training exist for families of causal models:
# Javaheripi et al. (2022) rank by the decoder's number of parameters and measure only the speed. Whether such a rule holds for
# encoders, across tokenizers, training data and tasks, is open.

# %% [markdown]
# **Where this comes from**
#
# * Samuel Williams, Andrew Waterman and David Patterson, *Roofline: An Insightful Visual Performance Model for Multicore
#   Architectures*, Communications of the ACM 52(4), 2009, [doi:10.1145/1498765.1498785](https://doi.org/10.1145/1498765.1498785).
# * Jared Kaplan et al., *Scaling Laws for Neural Language Models*, 2020, [arXiv:2001.08361](https://arxiv.org/abs/2001.08361);
#   Jordan Hoffmann et al., *Training Compute-Optimal Large Language Models*, 2022,
#   [arXiv:2203.15556](https://arxiv.org/abs/2203.15556); Tim Pearce and Jinyeop Song, *Reconciling Kaplan and Chinchilla Scaling
#   Laws*, 2024, [arXiv:2406.12907](https://arxiv.org/abs/2406.12907); Aakanksha Chowdhery et al., *PaLM*, 2022,
#   [arXiv:2204.02311](https://arxiv.org/abs/2204.02311).
# * Tri Dao et al., *FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness*, 2022,
#   [arXiv:2205.14135](https://arxiv.org/abs/2205.14135); Tianqi Chen, Bing Xu, Chiyuan Zhang and Carlos Guestrin, *Training Deep
#   Nets with Sublinear Memory Cost*, 2016, [arXiv:1604.06174](https://arxiv.org/abs/1604.06174).
# * Mario Michael Krell, Matej Kosec, Sergio P. Perez and Andrew Fitzgibbon, *Efficient Sequence Packing without
#   Cross-contamination: Accelerating Large Language Models without Impacting Performance*, 2021, [arXiv:2107.02027](https://arxiv.org/abs/2107.02027); Jinle Zeng et al., *Boosting Distributed
#   Training Performance of the Unpadded BERT Model*, 2022, [arXiv:2208.08124](https://arxiv.org/abs/2208.08124); Jacob Portes et
#   al., *MosaicBERT*, 2023, [arXiv:2312.17482](https://arxiv.org/abs/2312.17482); Benjamin Warner et al., *ModernBERT*, 2024,
#   [arXiv:2412.13663](https://arxiv.org/abs/2412.13663).
# * Tim Dettmers, Mike Lewis, Younes Belkada and Luke Zettlemoyer, *LLM.int8(): 8-bit Matrix Multiplication for Transformers at
#   Scale*, 2022, [arXiv:2208.07339](https://arxiv.org/abs/2208.07339). The bug of exercise 18.4 was seen in
#   [a review of oneDNN](https://github.com/uxlfoundation/oneDNN/pull/5879).
# * Geoffrey Hinton, Oriol Vinyals and Jeff Dean, *Distilling the Knowledge in a Neural Network*, 2015,
#   [arXiv:1503.02531](https://arxiv.org/abs/1503.02531); Robin Vujanic and Thomas Rueckstiess, *LEAF: Knowledge
#   Distillation of Text Embedding Models with Teacher-Aligned Representations*, 2025,
#   [arXiv:2509.12539](https://arxiv.org/abs/2509.12539).
# * Mojan Javaheripi et al., *LiteTransformerSearch: Training-free Neural Architecture Search for Efficient Language Models*, 2022,
#   [arXiv:2203.02094](https://arxiv.org/abs/2203.02094).
#
# **Next:** lesson 19 asks how far all this scales, and fits a law whose end is known.
