# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   lesson:
#     title: Many devices
#     question: How can many devices train one model and get one device's numbers?
#     minutes: 150
#     part: "Part V: the next generation"
# ---

# %% [markdown]
# # 20 · Many devices
#
# One device is too slow, so you take eight. Each gets a copy of the model and an eighth of the batch, each computes a gradient, and the
# gradients are averaged. That is **data parallelism**, and it sounds as if nothing could go wrong. The loss falls, the model learns,
# nothing complains. Yet where the devices have unequal numbers of tokens it is a different training from the one on a single device. A
# library that very many people use had it even for its popular models: between the parts of a batch until October 2024, and between
# devices, by default, until July 2025. For BERT itself its version 5.23 still has it.
#
# **The question of this lesson:** how can many devices train one model and get one device's numbers?
#
# | | |
# |---|---|
# | You will | predict what one token counts for; build the backward pass of many devices and run it in real processes against one device, torch's DDP and FSDP2; find out why four devices learned like one; build a gather whose gradient comes back; compute what each device keeps and measure it; time an all-reduce on your machine; and compute on paper where more devices stop paying off, its computing half checked against BERT, RoBERTa and ModernBERT |
# | You need | lesson 05 for the masked loss, lesson 09 for the contrastive loss, lesson 07 for the critical batch size, lesson 18 for operations and bytes |
# | It takes | about 150 minutes, five exercises, two of them builds of 30 minutes each |
#
# Here is a batch of 32 sentences of the toy world, dealt out to eight devices, which are called **ranks**. The number of selected tokens,
# the ones that the loss is about, differs from rank to rank. If each rank takes the mean of its losses and the ranks' gradients are
# averaged, this is what one token counts for:

# %% tags=["hide-input"]
from nextbert_lite import IGNORE, ToyWorld, fresh_batches, plots

world = ToyWorld()
tokenizer = world.tokenizer()
first_batch = fresh_batches(world.sample_ids, tokenizer, 32, 0.15, seed=1)(0)
selected = (first_batch["labels"] != IGNORE).sum(1).view(8, 4).sum(1)  # of each rank
weights = selected.sum() / (8 * selected)

fig, axes = plots.figure(1, 2, size=(8.2, 3.2))
axes[0].bar(range(8), selected, color=plots.BLUE)
axes[0].set(xlabel="rank", ylabel="selected tokens", xticks=range(8))
axes[1].bar(range(8), weights, color=plots.ORANGE)
axes[1].axhline(1, color=plots.GREY, linestyle="--", label="on one device")
axes[1].set(xlabel="rank", ylabel="weight of one token, relative", xticks=range(8))
axes[1].legend(fontsize=8, loc="upper left")
fig.suptitle("An equal vote for each rank is an unequal vote for each token")
plots.show(
    fig,
    alt="Left: bars of the selected tokens of eight ranks, which differ. Right: the weight of one token on each rank, large where the left bar is small; the dashed line at 1 is one device.",
)
assert weights.max() > 1.5 * weights.min()

# %% [markdown]
# Why does it matter to a token who else is on its device, and how do you get rid of that? The imports:

# %%
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel, SentenceEncoder, mask_tokens, seeded
from nextbert_lite.checks import lesson_20 as check
from nextbert_lite.checks.ranks import on_processes, on_threads
from nextbert_lite.training.loop import adamw

# %% [markdown]
# What another run may change:

# %% tags=["parameters"]
seed = 0

# %% [markdown]
# ## 1. A sum that everybody gets
#
# Data parallelism needs one operation, the **all-reduce**: each rank brings a tensor, and each rank leaves with the sum. In torch it is
# `dist.all_reduce(tensor)`, where `dist` is `torch.distributed`. It works *in place* and returns nothing. All ranks have to call it; a
# rank that calls it alone waits for the others.
#
# Ranks are usually processes, each with its own device. Starting processes takes seconds, so we use two kinds of ranks here.
# `on_threads(n, work)` runs `work(dist)` in n threads of this notebook; its `dist` is a small stand-in with the same function names.
# `on_processes(n, work)` starts n real processes, connects them by gloo (torch's library for CPUs), and hands `work` torch's own `dist`.
# The same function runs in both.

# %% tags=["nbval-check-output"]


def meet(dist):
    """Two numbers of each rank, and what they are after an all-reduce."""
    numbers = torch.tensor([1.0, 10.0]) * (dist.get_rank() + 1)
    before = numbers.tolist()
    dist.all_reduce(numbers)
    return before, numbers.tolist()


for rank, (before, after) in enumerate(on_threads(3, meet)):
    print(f"rank {rank} brings {before} and leaves with {after}")

# %% [markdown]
# Now take losses. Rank 0 has three selected tokens, rank 1 has one. What is the mean over the four tokens, and what is the mean of the
# two ranks' means?

# %% tags=["nbval-check-output"]
losses = [[2.0, 4.0, 6.0], [1.0]]
every = [loss for of_rank in losses for loss in of_rank]
print("mean over all tokens:", sum(every) / len(every))
means = [sum(of_rank) / len(of_rank) for of_rank in losses]
print("mean of the ranks' means:", sum(means) / len(means))
shares = [sum(of_rank) / len(of_rank) * len(of_rank) / len(every) for of_rank in losses]
print("sum of the means, each times its rank's proportion of the tokens:", sum(shares))

# %% [markdown]
# The last line is the remedy. With $n_r$ selected tokens on rank r, n in all, and $L_r$ the mean loss of rank r,
#
# $$L = \sum_r \frac{n_r}{n} L_r \qquad\text{and not}\qquad \frac{1}{R}\sum_r L_r$$
#
# for R ranks. The gradient follows the same rule, because it is linear in the losses. The two agree when all ranks have the same number of
# tokens, and this is why the mistake is so hard to see: on texts of one length, with a label for each token, there is none.

# %% [markdown]
# ### Exercise 20.1 · predict the result ●●○ · 5 minutes
#
# torch's `DistributedDataParallel` (DDP) adds up the ranks' gradients and divides by the number of ranks. Four ranks have 12, 6, 2 and 0
# selected tokens, 20 in all; each takes the mean over its own, and the loss of a rank without any is 0, as in lesson 05. How many times
# as much as on one device does a token of the *third* rank count for, the rank with 2 of them? Give a number.

# %% tags=["exercise-20.1"]
guessed_weight = None
### BEGIN SOLUTION
guessed_weight = (1 / 2 / 4) / (1 / 20)
### END SOLUTION

# %% tags=["nbval-check-output"]
check.token_weight(guessed_weight)

# %% [markdown]
# ## 2. The backward pass of many ranks
#
# The same sum has a second use. If a batch does not fit into memory, you cut it into parts, go forward and backward with one after the
# other and let the gradients add up: **gradient accumulation**. Ranks cut a batch in space, accumulation cuts it in time, and a part that
# ignores how many tokens the others have makes the same mistake in both. So one function can do both.

# %% [markdown]
# ### Exercise 20.2 · build the backward pass ●●● · 30 minutes
#
# Write `parallel_backward(model, parts, dist)`. It runs on each rank.
#
# * `model` is a `MaskedLanguageModel`, with the same weights on all ranks. `model.loss(ids, labels, mask)` is the mean over the selected
#   tokens of one batch, those with a label other than `IGNORE`. If there are none it is 0, and its gradient is zeros.
# * `parts` is this rank's list of batches (dicts with `ids`, `labels` and `mask`): the same number of parts on each rank, at least
#   one. Parts may differ in their numbers of rows and in length.
# * `dist` has `get_rank()`, `get_world_size()`, `all_reduce(tensor)` (in place, the sum) and `all_gather(list, tensor)`. Use this
#   argument and not `torch.distributed`.
# * Afterwards each parameter's `.grad` holds, on every rank, the gradient of the mean loss over *all* selected tokens of all parts of all
#   ranks. What was in `.grad` before does not count. Frozen parameters (`requires_grad=False`) have the `.grad` None, and keep it.
# * Gradients have the exactness of the model's dtype, which may be float64.
# * Return that mean loss, as a number or a tensor of one number. If no token is selected anywhere, loss and gradients are 0.
# * Send each gradient once, after the last part. (A few numbers more may be sent, 50 at most.) Change no weight and no batch.


# %% tags=["exercise-20.2", "my-bert-parallel"]
def parallel_backward(model, parts, dist):
    """model: the same on all ranks; parts: this rank's batches -> the loss of all tokens; the gradients are in place"""
    ### BEGIN SOLUTION
    model.zero_grad()
    counts = [int((part["labels"] != IGNORE).sum()) for part in parts]
    total = torch.tensor(sum(counts))
    dist.all_reduce(total)
    loss = 0.0
    for part, count in zip(parts, counts, strict=True):
        share = model.loss(**part) * count / max(1, int(total))
        share.backward()
        loss = loss + share.detach()
    dist.all_reduce(loss)
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
    return float(loss)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.parallel(parallel_backward)

# %% [markdown]
# The lesson goes on with your version if it passed, else with the course's:

# %% tags=["nbval-check-output"]
parallel_backward = check.mine("20.2", parallel_backward)

# %% [markdown]
# ### Against one device
#
# A small model in float64, and a batch of 32 sentences. We deal them out, to ranks and to parts, and put the gradient beside that of one
# device with the whole batch. The control is the mean of means.

# %%
V, T = tokenizer.vocab_size, int(world.lengths.max()) + 2
batches = fresh_batches(world.sample_ids, tokenizer, 32, 0.15, seed)


def new_model():
    """Return the same untrained model each time, in float64."""
    torch.manual_seed(seed)
    sizes = dict(width=32, layers=2, heads=4, ffn_width=128, max_len=T)
    return MaskedLanguageModel(Encoder(EncoderConfig(V, **sizes, init_std="fan_in"))).double()


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def dealt(batch, ranks, parts=1):
    """Cut a batch into as many parts for each rank: found[rank][part] is a batch."""
    cut = {name: tensor.chunk(ranks * parts) for name, tensor in batch.items()}
    pieces = [dict(zip(cut, values, strict=True)) for values in zip(*cut.values(), strict=True)]
    return [pieces[rank * parts : (rank + 1) * parts] for rank in range(ranks)]


# %% [markdown]
# The mean of means, as DDP with accumulation does it when each part's loss is a mean:


# %%
def mean_of_means(model, parts, dist):
    model.zero_grad()
    for part in parts:
        (model.loss(**part) / len(parts)).backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()


def off_by(way, batch, ranks, parts=1):
    """Return how far a way's gradient is from one device's, relative to its length, on the first rank."""
    one = new_model()
    one.loss(**batch).backward()
    models, given = [new_model() for _ in range(ranks)], dealt(batch, ranks, parts)
    on_threads(ranks, lambda dist: way(models[dist.get_rank()], given[dist.get_rank()], dist))
    return float((gradient(models[0]) - gradient(one)).norm() / gradient(one).norm())


none_on_the_last = {name: tensor.clone() for name, tensor in batches(0).items()}
none_on_the_last["labels"][24:] = IGNORE
for text, batch in {"a batch": batches(0), "no token selected on the last rank": none_on_the_last}.items():
    right, wrong = off_by(parallel_backward, batch, ranks=4), off_by(mean_of_means, batch, ranks=4)
    print(f"{text}: by tokens, off by less than 1e-12: {right < 1e-12}; the mean of means, off by {wrong:.1%}")
    assert right < 1e-12 < 1e-3 < wrong

# %% [markdown]
# One gradient is one device's to the last digits, also with an empty rank. The other is not. Does it matter whether the
# parts follow each other in time or sit on different ranks? And does the error shrink or grow with smaller parts? Guess, then look: ten
# batches, cut into 2 to 16 parts.

# %%
cuts = [2, 4, 8, 16]
in_time, by_tokens = [], []
for n in cuts:
    in_time.append(statistics.mean(off_by(mean_of_means, batches(step), 1, n) for step in range(10)))
    by_tokens.append(max(off_by(parallel_backward, batches(step), 2, n // 2) for step in range(2)))
same = [off_by(mean_of_means, batches(0), 1, n) - off_by(mean_of_means, batches(0), n, 1) for n in cuts]
print("mean of means, n parts in time:", [f"{value:.1%}" for value in in_time])
print("the same in time and in space:", max(map(abs, same)) < 1e-12)
assert in_time == sorted(in_time) and in_time[-1] > 0.2 and max(by_tokens) < 1e-12 and max(map(abs, same)) < 1e-12

# %% [markdown]
# The error of a mean of means, for parts of 16 sentences down to 2:

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(6.6, 3.2))
ax.plot(cuts, [100 * value for value in in_time], "o-", color=plots.RED, label="mean of means, in time or in space")
ax.axhline(0, color=plots.BLUE, linestyle="--", label="weighted by tokens")
ax.set(xscale="log", xlabel="parts of the batch", ylabel="error of the gradient, %")
ax.set_xticks(cuts, [str(n) for n in cuts])
ax.minorticks_off()
ax.legend(fontsize=8, loc="upper left")
ax.set_title("The smaller the parts, the more a mean of means is off")
plots.show(
    fig,
    alt="Relative error of the gradient in per cent against the number of parts: the mean of means rises from some per cent to more than a fifth; a dashed line at zero is the weighting by tokens.",
)

# %% [markdown]
# The error is the same number in time and in space. In time it has a date. In October 2024 users of gradient accumulation found that
# training with it and without it gave different losses, and the cause was this mean of means, in the trainer of transformers and in others
# ([pull request 34191](https://github.com/huggingface/transformers/pull/34191); it had been [reported in July
# 2023](https://github.com/huggingface/transformers/issues/24725)). Its cousin between devices was reported [in the same
# week](https://github.com/huggingface/transformers/issues/34242). The repair needs models that use the number of tokens which the trainer
# passes on, and it was made [for "the most popular models" only](https://github.com/huggingface/transformers/issues/37766). In transformers
# 5.23 `ModernBertForMaskedLM` uses it; `BertForMaskedLM` and `RobertaForMaskedLM` accept it, ignore it and return a plain mean, and the
# trainer, which takes that for weighted, adds up the parts' means without dividing. When torchtune's authors mended theirs, they dedicated
# the change to "the day the ML community first discovered the fact that (x1 / n1) + (x2 / n2) != (x1 + x2) / (n1 + n2)" ([pull request
# 1875](https://github.com/meta-pytorch/torchtune/pull/1875)).
#
# Is it noise that averages out over many batches? Compare a token's weight in short and in long sentences, over 8,000 sentences, for
# parts of 1, 4 and 16 of them:

# %%
many = fresh_batches(world.sample_ids, tokenizer, 8000, 0.15, seed)(0)
n_selected, words = (many["labels"] != IGNORE).sum(1).double(), many["mask"].sum(1) - 2
ratios = []
for size in (1, 4, 16):
    of_part = n_selected.view(-1, size).sum(1).repeat_interleave(size).clamp(min=1)
    weight = {n: (n_selected / of_part)[words == n].sum() / n_selected[words == n].sum() for n in (8, 14)}
    ratios.append(float(weight[8] / weight[14]))
    print(
        f"parts of {size:>2}: a token of an 8-word sentence counts {ratios[-1]:.2f} times as much as one of a 14-word one"
    )
assert ratios[0] > 1.25 > ratios[1] > 1.07 > ratios[2] > 0.95

# %% [markdown]
# Each part has one vote. In a part of one sentence, the tokens of a short sentence share it among fewer. That does not average out, however
# many batches you take: you train on another distribution than the one that you evaluate on. What helps is larger parts, because with texts
# dealt at random all of them have nearly the same number of tokens. So the mistake matters for small parts, sparse labels and texts sorted
# by length, and hardly for ranks with thousands of selected tokens of random texts.

# %% [markdown]
# ### In real processes
#
# Now the proof with two processes: your function, then torch's DDP with local means, then DDP with each rank's loss multiplied by $n_r R
# / n$ (DDP divides by R afterwards). The last is **FSDP2**, `fully_shard`, where each rank keeps only a part of each weight matrix;
# section 5 looks at it. The ranks get 22 and 10 of the 32 sentences. Which of the four gradients will equal one device's? Guess first.
# (Starting takes some seconds.)


# %%
class Loss(nn.Module):
    """`model.loss` as a forward pass, because DDP and FSDP2 act when a module is called."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, part):
        return self.model.loss(**part)


batch = batches(0)
unequal = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(22), slice(22, 32))]
counts = [int((part["labels"] != IGNORE).sum()) for part in unequal]


def with_torch(dist, wrap, weight):
    """Return the gradient after torch's own data parallelism; weight: what this rank's loss is multiplied by."""
    model = new_model()
    wrapped = wrap(Loss(model))
    (wrapped(unequal[dist.get_rank()]) * weight).backward()
    grads = [p.grad for p in wrapped.parameters()]
    return torch.cat([(g.full_tensor() if hasattr(g, "full_tensor") else g).flatten() for g in grads])


def sharded(loss):
    """Cut each layer and the rest into as many parts as there are ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in loss.model.encoder.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(loss, mesh=mesh)


# %% [markdown]
# And a short run: five steps of AdamW with your function. At its end both ranks should have one device's
# weights. (`kept_by` counts bytes, for section 5.)


# %%
def five_steps(dist, parts):
    """Train for five steps on the same parts; return the weights."""
    model = new_model()
    optimizer = adamw(model, lr=1e-3)
    for _ in range(5):
        parallel_backward(model, parts, dist)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def kept_by(dist, wrap):
    """Return the bytes of weights, gradients and AdamW's moments on this rank, after one step."""
    wrapped = wrap(Loss(new_model()))
    optimizer = adamw(wrapped, lr=1e-3)
    wrapped(unequal[dist.get_rank()]).backward()
    optimizer.step()
    states = [optimizer.state[p][name] for p in wrapped.parameters() for name in ("exp_avg", "exp_avg_sq")]
    kinds = [list(wrapped.parameters()), [p.grad for p in wrapped.parameters()], states]
    return [sum((t.to_local() if hasattr(t, "to_local") else t).nbytes for t in kind) for kind in kinds]


def in_each_process(dist):
    rank, size = dist.get_rank(), dist.get_world_size()
    model = new_model()
    found = {"loss": parallel_backward(model, [unequal[rank]], dist), "by hand": gradient(model)}
    ddp, weight = nn.parallel.DistributedDataParallel, counts[rank] * size / sum(counts)
    found["DDP, local means"] = with_torch(dist, ddp, 1.0)
    found["DDP, weighted"] = with_torch(dist, ddp, weight)
    found["FSDP2, weighted"] = with_torch(dist, sharded, weight)
    found["weights"] = five_steps(dist, [unequal[rank]])
    found["kept"] = {"DDP": kept_by(dist, ddp), "FSDP2": kept_by(dist, sharded)}
    return found


processes = on_processes(2, in_each_process)

# %% [markdown]
# What came out:

# %% tags=["nbval-check-output"]
one = new_model()
whole = one.loss(**batch)
whole.backward()
for name in ("by hand", "DDP, local means", "DDP, weighted", "FSDP2, weighted"):
    offs = [float((found[name] - gradient(one)).norm() / gradient(one).norm()) for found in processes]
    print(f"{name:<17} equal to one device's gradient: {max(offs) < 1e-12}")
    assert (max(offs) < 1e-12) == (name != "DDP, local means") and (max(offs) < 1e-12 or min(offs) > 0.01)
print("loss equal:", all(abs(found["loss"] - whole.item()) < 1e-12 for found in processes))
(alone,) = on_threads(1, lambda dist: five_steps(dist, [batch]))
apart = max(float((found["weights"] - alone).abs().max()) for found in processes)
print("after five steps, weights equal to one device's:", apart < 1e-10)
assert apart < 1e-10 and all(abs(found["loss"] - whole.item()) < 1e-12 for found in processes)

# %% [markdown]
# Real processes give the same numbers as the threads. DDP and FSDP2 do what they are told; with local means they are told the wrong
# thing. The package's `fit` weights in the same way. It notices by itself when `torchrun --nproc-per-node 2` starts it: that is
# `nextbert_lite/training/distributed.py`. The book's page *Several processes, GPUs or machines* tells how to use it, and how a sharded
# run goes on after a stop with another number of ranks.

# %% [markdown]
# ## 3. Who reads what
#
# The weights are right, and a second thing has to be: the ranks must read different texts.

# %% [markdown]
# ### Exercise 20.3 · find the bug ●●○ · 10 minutes
#
# Somebody trains with a batch of 64 on 1, 2 and 4 ranks. Each run is as fast as it should be. But the loss of the run on 4 ranks is
# noisier. To see why, we measure the noise: the variance of the whole batch's gradient from step to step, relative to that
# of one rank.


# %%
def rows_of(n, batch, rank, size, seed, step):
    """Return the rows of the corpus that this rank reads in this step."""
    return torch.randperm(n, generator=seeded(seed, step))[: batch // size]


corpus = fresh_batches(world.sample_ids, tokenizer, 400, 0.15, seed + 1)(0)


def noise_of(rows_of, size, steps=40):
    """Return the summed variance, over steps, of the gradient of a batch of 64 rows on so many ranks."""
    model, found = new_model(), []
    for step in range(steps):
        rows = torch.cat([rows_of(len(corpus["ids"]), 64, rank, size, seed, step) for rank in range(size)])
        model.zero_grad()
        model.loss(**{name: tensor[rows] for name, tensor in corpus.items()}).backward()
        found.append(gradient(model))
    return float(torch.stack(found).var(0).sum())


noise = {size: noise_of(rows_of, size) for size in (1, 2, 4)}
print({size: round(value / noise[1], 1) for size, value in noise.items()})
assert noise[2] > 1.5 * noise[1] and noise[4] > 1.5 * noise[2]

# %% [markdown]
# Find out what is wrong. Then write `rows_for(n, batch, rank, size, seed, step)`: the corpus has n rows, `batch` is the number of rows of
# one step on *all* `size` ranks together, a multiple of `size`. In each step the ranks together should read what one rank would read: the
# first `batch` numbers of `torch.randperm(n, generator=seeded(seed, step))`. Each rank gets a contiguous part of them, rank 0 the first.
# Return this rank's row numbers, whole numbers (batch / size,).


# %% tags=["exercise-20.3"]
def rows_for(n, batch, rank, size, seed, step):
    """n: rows of the corpus, batch: rows a step on all ranks together -> this rank's rows, (batch / size,)"""
    ### BEGIN SOLUTION
    together = torch.randperm(n, generator=seeded(seed, step))[:batch]
    return together.chunk(size)[rank]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.rows(rows_for)

# %% [markdown]
# The control, with rows that differ from rank to rank:

# %%
mended = {size: noise_of(check.rows.right, size) for size in (1, 2, 4)}
print("the mended rule:", {size: round(value / mended[1], 3) for size, value in mended.items()})
n = len(corpus["ids"])
expected = {size: (1 - 64 / size / n) / (64 / size) / ((1 - 64 / n) / 64) for size in (1, 2, 4)}
print("expected of a batch of 64, 32 and 16 rows:", {size: round(value, 1) for size, value in expected.items()})
assert all(abs(value / mended[1] - 1) < 1e-9 for value in mended.values())

# %% [markdown]
# Four ranks that read the same 16 rows know what one knows: the noise is that of a batch of 16. (The variance of a mean of b rows, drawn
# from n without repetition, is proportional to (1 − b / n) / b; that is the second line. The rest is chance in 40 steps.) Nothing fails,
# since reading twice is no error. All ranks even have the same loss. Before each update the package's `fit` compares checksums of the whole
# batches that the ranks drew. In torch's own `DistributedSampler` the twin of this bug is to forget `set_epoch`: then each *epoch* has the
# same order ([issue 31771](https://github.com/pytorch/pytorch/issues/31771)).

# %% [markdown]
# ## 4. Negatives on other ranks
#
# In the contrastive loss of lesson 09 a pair of texts is an *anchor* and its *positive*, and the other positives of the batch
# are its negatives. Dealt out to ranks, a text should still see *all* of them. So the ranks exchange their vectors:
# `dist.all_gather(list, tensor)` gives each rank the tensors of all. What comes back are copies of numbers. Autograd does not
# know where they came from.
#
# With gathered positives, rank r computes the loss of its own anchors. For its anchors this is all there is. A *positive* has more to
# hear: it is the negative of anchors on other ranks, and their losses have a gradient for it, too. Those gradients are on the other
# ranks.

# %% [markdown]
# ### Exercise 20.4 · build a gather with a gradient ●●● · 30 minutes
#
# Write `gather_rows(rows, dist)`. `rows` is this rank's, (B, C), the same number on each rank. Return the rows of all ranks, (ranks · B,
# C), in the order of the ranks, on each rank the same. If each rank then goes backward from its own loss, `rows` should get the gradient of
# the **sum of all ranks' losses**. (Whoever averages over ranks afterwards divides there.) Every rank goes forward and backward through it
# equally often.
#
# `dist` has `get_rank()`, `get_world_size()`, `all_reduce(tensor)` and `all_gather(list, tensor)`, as before; the list has one tensor for
# each rank, which is filled. Change neither `rows` nor the gradient that comes in. `rows` and that gradient may be non-contiguous, and
# torch's collectives refuse such tensors. The usual way is a class derived from `torch.autograd.Function`, with static methods
# `forward(ctx, rows)` and `backward(ctx, gradient)`, called by `.apply(rows)`; any way that gives these numbers is right. (A class or
# function of your own above it, in the same cell, is fine.) Rows and gradients keep the exactness of their dtype, which may be float64.
# If `rows` need no gradient, as in an evaluation, return the rows of all ranks all the same.


# %% tags=["exercise-20.4", "my-bert-parallel"]
def gather_rows(rows, dist):
    """rows: this rank's, (B, C) -> the rows of all ranks in their order, (ranks · B, C), with gradients"""

    ### BEGIN SOLUTION
    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
            dist.all_gather(found, rows.contiguous())
            return torch.cat(found)

        @staticmethod
        def backward(ctx, gradient):
            gradient = gradient.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(gradient)
            return gradient.chunk(dist.get_world_size())[dist.get_rank()]

    return Gather.apply(rows)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.gathered(gather_rows)

# %% tags=["nbval-check-output"]
gather_rows = check.mine("20.4", gather_rows)

# %% [markdown]
# Sixteen sentences, each masked twice in different places, are 16 pairs. There are three ways to compute their loss on ranks: your
# gather; a gather without gradient, with the rank's own rows put back into the list ([OpenCLIP's issue
# 616](https://github.com/mlfoundations/open_clip/issues/616) shows it); and the same with the *whole* loss on each rank.


# %%
def pairs_of(n, seed):
    """Return n sentences, masked in two ways, and their mask: (n, T) each."""
    ids, mask = world.sample_ids(n, seed=seed)
    return (*(mask_tokens(ids, tokenizer, 0.15, seeded(seed, i))[0] for i in (1, 2)), mask)


def new_encoder():
    torch.manual_seed(seed)
    sizes = dict(width=32, layers=2, heads=4, ffn_width=128, max_len=T)
    return SentenceEncoder(Encoder(EncoderConfig(V, **sizes, init_std="fan_in"))).double()


def own_put_back(rows, dist):
    """All ranks' rows; only this rank's own are connected to the graph."""
    found = [torch.empty_like(rows).detach() for _ in range(dist.get_world_size())]
    dist.all_gather(found, rows.detach().contiguous())
    found[dist.get_rank()] = rows
    return torch.cat(found)


def scores(anchors, positives):
    return F.normalize(anchors, dim=-1) @ F.normalize(positives, dim=-1).T / 0.1  # temperature


def contrastive(dist, model, pairs, gather, whole_loss=False):
    """Put the gradient into the model on each rank, averaged over the ranks as DDP does."""
    first, second, mask = pairs
    every = torch.arange(len(first))
    own = every.chunk(dist.get_world_size())[dist.get_rank()]
    a, b = model(first[own], mask[own]), gather(model(second[own], mask[own]), dist)
    right = every if whole_loss else own
    F.cross_entropy(scores(gather(a, dist) if whole_loss else a, b), right).backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()


# %% [markdown]
# Both wrong ways have the right *loss*, on each rank. What about the direction and the length of their gradients?

# %%
pairs, one = pairs_of(16, 5 + seed), new_encoder()
first, second, mask = pairs
F.cross_entropy(scores(one(first, mask), one(second, mask)), torch.arange(16)).backward()
target, ranks = gradient(one), (1, 2, 4, 8)
ways = {
    "gather with gradient, own anchors": (gather_rows, False),
    "own rows put back, own anchors": (own_put_back, False),
    "own rows put back, whole loss": (own_put_back, True),
}
cosines, lengths = {name: [] for name in ways}, {name: [] for name in ways}
for name, way in ways.items():
    for n in ranks:
        models = [new_encoder() for _ in range(n)]
        on_threads(n, lambda dist, way=way, models=models: contrastive(dist, models[dist.get_rank()], pairs, *way))
        found = gradient(models[0])
        cosines[name].append(float(F.cosine_similarity(found, target, dim=0)))
        lengths[name].append(float(found.norm() / target.norm()))
    print(f"{name:<34} cosine", [f"{c:.2f}" for c in cosines[name]], "length", [f"{x:.2f}" for x in lengths[name]])
assert min(cosines["gather with gradient, own anchors"]) > 1 - 1e-12
assert max(abs(x - 1) for x in lengths["gather with gradient, own anchors"]) < 1e-12
assert min(cosines["own rows put back, whole loss"]) > 1 - 1e-12
assert all(abs(x * n - 1) < 1e-12 for x, n in zip(lengths["own rows put back, whole loss"], ranks, strict=True))
wrong = cosines["own rows put back, own anchors"]
assert wrong[0] > 1 - 1e-12 and wrong == sorted(wrong, reverse=True) and wrong[-1] < 0.97

# %% tags=["hide-input"]
fig, ax = plots.figure(size=(6.6, 3.2))
for (name, values), style in zip(cosines.items(), ("s-", "o-", "^:"), strict=True):
    ax.plot(ranks, values, style, label=name)
ax.set(xscale="log", xlabel="ranks that share 16 pairs", ylabel="cosine with one device's gradient", ylim=(0, 1.1))
ax.set_xticks(ranks, [str(n) for n in ranks])
ax.minorticks_off()
ax.legend(fontsize=8, loc="lower left")
ax.set_title("The own anchors' loss needs the others' gradient")
plots.show(
    fig,
    alt="Cosine with one device's gradient against the number of ranks: two ways stay at 1, the own rows put back with the own anchors' loss falls with more ranks.",
)

# %% [markdown]
# With the whole loss on each rank the wrong way has the right direction and is too short, by exactly the number of ranks. AdamW hardly
# notices a factor, unless the gradient is clipped or the loss is one of several. With the loss of the own anchors, the cheaper way, it
# points in a wrong direction, more so with more ranks. Which direction? Look at one positive. Its own anchor *pulls* it, and every other
# anchor *pushes* it, as strongly as the softmax confuses the two:

# %%
n = 4
with torch.no_grad():
    probabilities = scores(one(first, mask), one(second, mask)).softmax(1)  # [anchor, positive]
apart = ~torch.eye(16, dtype=torch.bool)
near = (torch.arange(16) // (16 // n))[:, None] == torch.arange(16) // (16 // n)  # on the same rank
pull = (1 - probabilities.diagonal()).sum()
push, heard = probabilities[apart].sum(), probabilities[apart & near].sum()
print(
    f"pull on all positives {pull:.1f}; push by all anchors {push:.1f}; push by the anchors of the own rank {heard:.1f}"
)
assert abs(pull - push) < 1e-9 and heard < 0.35 * push

# %% [markdown]
# On one device pull and push are equal in sum, because each anchor's probabilities add up to 1. On four ranks without the others'
# gradient the positives feel the whole pull and about a fifth of the push. The anchors are not affected: they see every positive. So the
# loss still falls. But if the push is missing, the vectors of different texts should stay more alike. Do they? Twenty steps on eight
# ranks, with and without the others' gradient, and new pairs as a test:


# %%
def after_training(gather, n=8, steps=20):
    """Train on n ranks; return the loss on new pairs and the mean cosine of different texts."""
    models = [new_encoder() for _ in range(n)]
    optimizers = [adamw(model, lr=1e-3) for model in models]
    for step in range(steps):
        batch = pairs_of(32, 1000 * (seed + 1) + step)
        for model in models:
            model.zero_grad()
        on_threads(n, lambda dist, batch=batch: contrastive(dist, models[dist.get_rank()], batch, gather))
        for optimizer in optimizers:
            optimizer.step()
    first, second, mask = pairs_of(200, 10**6 + seed)
    with torch.no_grad():
        found = scores(models[0](first, mask), models[0](second, mask))
    different = found[~torch.eye(200, dtype=torch.bool)].mean() * 0.1
    return float(F.cross_entropy(found, torch.arange(200))), float(different)


trained = {
    "before training": after_training(gather_rows, steps=0),
    "with the others' gradient": after_training(gather_rows),
    "without": after_training(own_put_back),
}
for name, (loss, different) in trained.items():
    print(f"{name:<25} loss on new pairs {loss:.2f} nats, mean cosine of different texts {different:.2f}")
(loss_before, cosine_before), (loss_with, cosine_with), (loss_without, cosine_without) = trained.values()
assert loss_before > loss_without > loss_with + 0.2 and cosine_before > cosine_without > cosine_with + 0.1

# %% [markdown]
# They do. Before training all texts are alike. With the others' gradient different texts come far apart; without it, after the same steps,
# they stay more alike, and the loss on new pairs is clearly higher. That is no collapse: the anchors still feel the whole push, and the
# positives that of their own rank. But it is a worse geometry. A maintainer of OpenCLIP writes that the loss of the own anchors, *with* a
# gradient through the gather, is what pretty much all their models were trained with, since it is "the only option that scales" ([issue
# 894](https://github.com/mlfoundations/open_clip/issues/894)). In April and July 2026 the same factor 1 / ranks was found in two of
# lightly's losses, whose `all_reduce` autograd did not see (issues [1920](https://github.com/lightly-ai/lightly/issues/1920) and
# [1977](https://github.com/lightly-ai/lightly/issues/1977)).

# %% [markdown]
# ## 5. What each rank keeps
#
# In data parallelism each rank keeps all weights, all gradients and the whole state of the optimizer. The same numbers lie on a thousand
# devices. **ZeRO** (Rajbhandari et al. 2020) cuts them up, in three stages. In stage 1 each rank keeps only its part of the optimizer's
# state, updates that part of the weights and sends it to the others. In stage 2 it keeps only the same part of the gradients as well. In
# stage 3 also of the weights: before a layer is used, the ranks fetch it from each other, and drop it afterwards. FSDP2 with its default
# settings is stage 3, except that the outermost part of the model stays whole from the forward to the backward pass.

# %% [markdown]
# ### Exercise 20.5 · what a device keeps ●●○ · 10 minutes
#
# Write `kept_bytes(parameters, ranks, weight=2, gradient=2, optimizer=12)`. The last three are bytes for each parameter: of the weights,
# the gradients and the optimizer's state. (The defaults are those of the paper, for mixed precision: float16 weights and gradients;
# AdamW's two moments and a copy of the weights in float32.) Return four numbers, the bytes that *each* rank keeps: with nothing cut, in
# stage 1, in stage 2 and in stage 3. Cut into `ranks` equal parts; a part may be a fraction of a
# parameter, so do not round.


# %% tags=["exercise-20.5"]
def kept_bytes(parameters, ranks, weight=2, gradient=2, optimizer=12):
    """bytes a parameter of each kind -> bytes that each rank keeps: of nothing cut, and of the stages 1, 2 and 3"""
    ### BEGIN SOLUTION
    whole = parameters * (weight + gradient + optimizer)
    first = parameters * (weight + gradient + optimizer / ranks)
    second = parameters * (weight + (gradient + optimizer) / ranks)
    return whole, first, second, whole / ranks
    ### END SOLUTION


# %% tags=["nbval-check-output"]
check.bytes_on_device(kept_bytes)

# %% [markdown]
# The two processes of section 2 have counted what they kept in float64, where a parameter has 8 bytes of weight, 8 of gradient and 16 of
# moments:

# %% tags=["nbval-check-output"]
N = sum(p.numel() for p in new_model().parameters())
for way in ("DDP", "FSDP2"):
    for rank, found in enumerate(processes):
        of_weights, of_gradients, of_moments = (b / N for b in found["kept"][way])
        kinds = f"weights {of_weights:.0f}, gradients {of_gradients:.0f}, moments {of_moments:.0f}"
        print(f"{way:<5} rank {rank}, bytes a parameter: {kinds}")
assert all(found["kept"]["DDP"] == [8 * N, 8 * N, 16 * N] for found in processes)
assert [sum(found["kept"]["FSDP2"][k] for found in processes) for k in range(3)] == [8 * N, 8 * N, 16 * N]

# %% [markdown]
# (That is what lies there between two steps. While a layer is at work, its whole weights are there as well. DDP's buckets, in which it
# sends, are a second copy of the gradients, unless you set `gradient_as_bucket_view=True`.)
#
# The split into kinds depends on the kind of mixed precision. torch's autocast keeps float32 weights and gradients and no further copy,
# 4 + 4 + 8 bytes. (Section 7 sends such float32 gradients.) The sum is 16 as well, but the stages save differently:

# %% tags=["nbval-check-output"]
for name, kinds in {"the paper's, 2 + 2 + 12": (2, 2, 12), "autocast's, 4 + 4 + 8": (4, 4, 8)}.items():
    found = check.bytes_on_device.right(1, 64, *kinds)
    print(f"{name:<24} on 64 ranks, bytes a parameter:", [round(value, 2) for value in found])

# %% [markdown]
# What does it cost? Each step
# of plain data parallelism all-reduces the gradients. An all-reduce is two halves: the ranks add up so that each has *one part* of the
# sum (**reduce-scatter**), and then send the parts around (**all-gather**). Stages 1 and 2 need the same two halves, the first for
# gradients and the second for new weights. Stage 3 gathers the weights twice, forward and backward: one and a half times as much, if
# weights and gradients travel in numbers of the same width.

# %% [markdown]
# ## 6. What an all-reduce costs
#
# How do n ranks add up m numbers each? If all send everything to rank 0, its line carries everything. In a **ring** each rank sends to
# the next one only. Cut the m numbers into n pieces. For n − 1 rounds each rank passes on one piece, and the receiver adds its own to it;
# then each rank holds one piece of the sum. For another n − 1 rounds the finished pieces go around.


# %% tags=["nbval-check-output"]
def ring_all_reduce(rows):
    """rows: (n, m), one row a rank -> the sum on each rank, (n, m), and how many numbers each rank has sent"""
    n = len(rows)
    pieces, sent = [list(row.clone().chunk(n)) for row in rows], 0
    for step in range(2 * (n - 1)):
        which = [(rank - step) % n for rank in range(n)]  # the piece that each rank passes on
        moving = [pieces[rank][k].clone() for rank, k in enumerate(which)]
        for rank, k in enumerate(which):
            to = pieces[(rank + 1) % n]
            to[k] = to[k] + moving[rank] if step < n - 1 else moving[rank]
        sent += len(moving[0])
    return torch.stack([torch.cat(row) for row in pieces]), sent


for n in (2, 4, 8, 16):
    rows = torch.randn(n, 1600, generator=seeded(seed, n), dtype=torch.float64)
    result, sent = ring_all_reduce(rows)
    right = torch.allclose(result, rows.sum(0).expand(n, -1), atol=1e-12)
    print(f"{n:>2} ranks: the sum on each {right}, numbers sent by each {sent:,} = {sent / 1600:.3f} × 1,600")
    assert right and sent == 2 * (n - 1) * 1600 // n

# %% [markdown]
# Each rank sends $2\frac{n-1}{n}$ times the numbers, nearly twice, *however many ranks there are*. This is the formula behind the "bus
# bandwidth" of NVIDIA's own test ([nccl-tests, PERFORMANCE.md](https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md)), and
# with one line for each rank no algorithm of sending and receiving needs less. (Switches that add up themselves need about half.) What
# does grow with n is the number of rounds, 2(n − 1), and each round costs the
# **latency** of a message:
#
# $$t = 2\,\frac{n-1}{n}\cdot\frac{\text{bytes}}{\text{bandwidth}} + 2(n-1)\cdot\text{latency}$$
#
# Now your own machine. Two processes, float32, from 4 kilobytes to 64 megabytes. The formula is about an undisturbed line, and your
# machine has other things to do, so we take the *shortest* of several times. In the same processes your gather has its proof, too.

# %% tags=["times"]
kilobytes = [4, 64, 1024, 16 * 1024, 64 * 1024]


def seconds(dist):
    """Return the shortest time of an all-reduce for each size."""
    found = []
    for size in kilobytes:
        numbers, times = torch.ones(256 * size), []
        for _ in range(40 if size < 10_000 else 6):
            dist.all_reduce(torch.ones(1))  # begin together
            start = time.perf_counter()
            dist.all_reduce(numbers)
            times.append(time.perf_counter() - start)
            numbers.fill_(1.0)
        found.append(min(times))
    return found


def timed_and_gathered(dist):
    times, model = seconds(dist), new_encoder()
    contrastive(dist, model, pairs, gather_rows)
    return times, gradient(model)


timed = on_processes(2, timed_and_gathered)
print("gathered in two processes, equal to one device:", max(float((g - target).norm()) for _, g in timed) < 1e-10)
took = [max(both) for both in zip(*(times for times, _ in timed), strict=True)]
latency, bandwidth = took[0] / 2, kilobytes[-1] * 1024 / took[-1]  # n = 2: 2 (n - 1) / n = 1, and two rounds
for size, t in zip(kilobytes, took, strict=True):
    print(f"{size:>6} kB: {1e3 * t:8.2f} ms")
print(f"bandwidth {bandwidth / 1e9:.2f} GB a second, latency {1e6 * latency:.0f} µs")
assert max(float((g - target).norm()) for _, g in timed) < 1e-10 and took[-1] > 5 * took[0]

# %% tags=["hide-input", "times"]
fig, ax = plots.figure(size=(6.6, 3.2))
ax.plot(kilobytes, [1e3 * t for t in took], "o", color=plots.BLUE, label="measured, two processes")
line = [1e3 * (1024 * size / bandwidth + 2 * latency) for size in kilobytes]
ax.plot(kilobytes, line, "--", color=plots.GREY, label="formula, from the two ends")
ax.set(xscale="log", yscale="log", xlabel="kilobytes", ylabel="milliseconds")
ax.legend(fontsize=8)
ax.set_title("Small messages pay for the round, large ones for the bytes")
plots.show(
    fig,
    alt="Time of an all-reduce against its size on two logarithmic axes: the line of the formula, flat for small messages and then straight, and the measured points, of which it meets the first and the last.",
)

# %% [markdown]
# The line goes through the first and the last point by construction. The points in the middle show how far the formula holds on your
# machine. Where they lie far above the line, the processes waited for a processor and not for a line; run the cell again and compare.
# Here gloo sends through the memory
# of one machine. Between GPUs of one machine there is NVLink, between machines InfiniBand or Ethernet, and the formula is the same.

# %% [markdown]
# ## 7. A thousand devices on paper
#
# You have all the parts of a model of *cost*. A step of data parallelism costs 6ND operations, D being the tokens of its batch (lesson
# 18; for a whole run, D is the tokens of all its batches), shared by n devices that reach some proportion of their peak, the
# **utilization**. And it costs an all-reduce of the gradients, which DDP runs during the backward pass, two thirds of the work. What
# takes longer than that is seen. So is the gradient that is complete only at the end: that of the embeddings, which the head uses as
# well, about a quarter of ModernBERT-base's weights.
#
# Devices are grouped in **nodes**, usually of eight, with fast lines inside and slower ones between. An all-reduce then goes in two levels.
# The devices of a node add up among themselves, so that each holds an eighth of the sum. Each sends *its eighth* to its counterparts on the
# other nodes, over a line of its own; then the eighths are gathered within the node. So all eight lines work. In one flat ring through all
# devices, seven of a node's eight lines would idle. (NVIDIA's library NCCL uses all lines too, with one ring for each. For H100s with a
# line of 400 gigabits each, a provider tells its customers to [expect 400 to
# 450](https://saturncloud.io/blog/crusoe-nccl-cluster-validation) gigabytes a second of bus bandwidth on large messages; a single line has
# 50. Our two levels run one after the other and stay well below that: we rather overestimate the sending.) The functions are short enough
# to keep:


# %%
@dataclass(frozen=True)
class Machine:
    """Devices and their lines: operations a second of each, bytes a second of each line within and between nodes."""

    peak: float
    inside: float = 450e9
    between: float = 50e9  # for each device
    latency: float = 1e-5
    node: int = 8  # devices that are connected by the faster line


def operations(parameters, tokens):
    """Operations of training: 6ND."""
    return 6 * parameters * tokens


def all_reduce_seconds(size, ranks, bandwidth, latency):
    """Seconds of a ring all-reduce of so many bytes."""
    return 2 * (ranks - 1) / ranks * size / bandwidth + 2 * (ranks - 1) * latency


def sending_seconds(size, ranks, machine):
    """Seconds of an all-reduce of so many bytes on two levels: over nodes each device sends its part of its node's sum."""
    if ranks <= machine.node:
        return all_reduce_seconds(size, ranks, machine.inside, machine.latency)
    of_node = all_reduce_seconds(size, machine.node, machine.inside, machine.latency)
    return of_node + all_reduce_seconds(size / machine.node, ranks / machine.node, machine.between, machine.latency)


def step_seconds(parameters, tokens, ranks, machine, utilization, last=0.25):
    """Seconds of one step: computing, and what of sending float32 gradients is not hidden behind the backward pass.

    last: the proportion of the gradients that is complete only at the end of the backward pass.
    """
    computing = operations(parameters, tokens) / (ranks * machine.peak * utilization)
    sending, tail = (sending_seconds(part * 4 * parameters, ranks, machine) for part in (1, last))
    return computing + max(tail, sending - computing * 2 / 3)


def days(parameters, tokens, batch, ranks, machine, utilization):
    """Days of training on so many tokens, in batches of so many tokens."""
    return tokens / batch * step_seconds(parameters, batch, ranks, machine, utilization) / 86400


def memory_bytes(parameters, layers, width, tokens, ranks, stage=0):
    """Bytes on each rank: the paper's state, cut by ZeRO, and activations of its tokens (bfloat16, 16 C a layer)."""
    cut = [ranks if stage >= first else 1 for first in (3, 2, 1)]  # weights, gradients, optimizer
    state = parameters * (2 / cut[0] + 2 / cut[1] + 12 / cut[2])
    return state + 2 * 16 * width * layers * tokens


def tokens_needed(least, batch, critical):
    """Tokens to the same loss with another batch: E = E_min (1 + B / B_critical), McCandlish et al. 2018."""
    return least * (1 + batch / critical)


# %% [markdown]
# ### Against runs that happened
#
# Five published runs say what they trained, on what and for how long. The utilization is what the model has to be told, so compute it
# first: operations over what the chips could have done in that time. (BERT's paper does not name its TPU. We take version 2, a board of
# four chips with 180 teraFLOPS, because the [authors' own text on the code](https://github.com/google-research/bert) says that base takes
# about two weeks on one of them, with smaller batches: nearly the paper's four boards for four days. BERT read 256 sequences a step for a
# million steps, 90 % of them of 128 tokens and the rest of 512. RoBERTa's row is its first run, with 100,000 steps of 8,192 × 512 tokens.)
# Guess: what proportion of the peak did they use?

# %% tags=["nbval-check-output"]
TPU2, V100, H100 = Machine(45e12), Machine(125e12), Machine(989.4e12)
bert_tokens = 1_000_000 * 256 * (0.9 * 128 + 0.1 * 512)
runs = {  # parameters, tokens, tokens a batch, devices, machine, hours
    "BERT-base, 2018": (110e6, bert_tokens, bert_tokens / 1e6, 16, TPU2, 4 * 24),
    "BERT-large, 2018": (340e6, bert_tokens, bert_tokens / 1e6, 64, TPU2, 4 * 24),
    "RoBERTa-large, 2019": (355e6, 100_000 * 8192 * 512, 8192 * 512, 1024, V100, 24),
    "ModernBERT-base, 2024": (149e6, 1.719e12, 4608 * 1024, 8, H100, 191.1),
    "ModernBERT-large, 2024": (395e6, 1.719e12, 4928 * 1024, 8, H100, 420.4),
}
utilization = {}
for name, (N, D, _, n, machine, hours) in runs.items():
    utilization[name] = operations(N, D) / (n * machine.peak * hours * 3600)
    print(f"{name:<23} 6ND = {operations(N, D):.1e}, {n:>5} devices, {utilization[name]:.0%} of their peak")
assert abs(50_368 * 768 / 149e6 - 0.25) < 0.02  # ModernBERT-base's words × numbers of each
assert min(utilization[name] for name in runs if "Modern" in name) > 2 * max(
    u for name, u in utilization.items() if "Modern" not in name
)

# %% [markdown]
# About a tenth in 2018 and 2019, about a third in 2024. This way of counting books everything as idle that is no useful operation: padding,
# slow kernels, waiting for other devices. And it books the table of embeddings as work for each token, although a token's row is only
# looked up, and the head multiplies by the table for selected tokens alone. (ModernBERT's authors packed texts without padding and used
# fused attention, two steps of lesson 18's ladder. How much each cause contributes, the table cannot say.) So a utilization is no law of
# nature, and a plan has to take it from a run like its own. Does the model predict then? Take the utilization from each *base* run and
# predict the *large* run of the same authors:

# %% tags=["nbval-check-output"]
for family in ("BERT", "ModernBERT"):
    base, large = (next(name for name in runs if name.startswith(f"{family}-{size}")) for size in ("base", "large"))
    N, D, B, n, machine, hours = runs[large]
    predicted = 24 * days(N, D, B, n, machine, utilization[base])
    print(f"{large}: hours predicted: {predicted:.0f}; hours reported: {hours:.0f}")
    assert 0.7 < predicted / hours < 1.35
for N, D, B, n, machine, hours in runs.values():
    assert sending_seconds(4 * N, n, machine) < 0.05 * hours * 3600 / (D / B)
N, D, B, n, machine, hours = runs["RoBERTa-large, 2019"]
predicted = 24 * days(N, D, B, n, machine, utilization["BERT-large, 2018"])
print(f"RoBERTa-large with BERT-large's utilization: hours predicted: {predicted:.0f}; reported: about {hours:.0f}")

# %% [markdown]
# Good to a third, within a family. From BERT to RoBERTa it is nearly right as well, but we call that luck: the chips and the software were
# others. A computation on paper tells you whether something takes a day or a month. But this tests the *operations* alone: in all five
# runs the model's all-reduce takes less than a twentieth of a step (over today's lines, which the two older machines did not have). What
# follows on sending rests on the formula, and no published run checks it here.

# %% [markdown]
# ### Where does it stop paying off?
#
# Take ModernBERT-base's run, its batch and its utilization, and give it more H100s, up to 4,096, where each has one text or two. The
# lines are those of such machines: NVLink's 450 GB a second in one direction within a node of eight, 400 gigabits a second for each GPU
# between nodes; 10 µs a round is our assumption. There are two ways to use more devices. With the **same batch** each device gets less
# to do in a step. With a **batch that grows** each keeps its work, and there are fewer steps, but above the critical batch size (lesson
# 07) more text is needed for the same loss. We know of no measurement of this size for ModernBERT. Its authors tried 4K to 16K sequences and
# found 4–5K "a sweet spot", so we compute two cases: the critical batch is theirs, or four times theirs. Which way is faster on 4,096
# devices?

# %% tags=["nbval-check-output"]
N, D, B, _, _, _ = runs["ModernBERT-base, 2024"]
u, devices = utilization["ModernBERT-base, 2024"], [8 * 2**k for k in range(10)]
same_batch = [days(N, D, B, n, H100, u) for n in devices]
growing = {}
for times in (1, 4):
    least = D / tokens_needed(1, B, times * B)  # so that their batch needs their D
    needed = [tokens_needed(least, B * n / 8, times * B) for n in devices]
    growing[times] = [days(N, d, B * n / 8, n, H100, u) for d, n in zip(needed, devices, strict=True)]
ideal = [same_batch[0] * 8 / n for n in devices]
print("devices  same batch  growing, critical = 1 × theirs  4 × theirs  without losses  (days)")
for n, *found in zip(devices, same_batch, *growing.values(), ideal, strict=True):
    print(f"{n:>7}" + "".join(f"{value:>{w}.2f}" for value, w in zip(found, (12, 32, 12, 16), strict=True)))
assert all(same_batch[-1] < slow[-1] / 10 for slow in growing.values())
assert growing[1][-1] > 0.5 * growing[1][0] and growing[4][-1] > 0.2 * growing[4][0]
part = [n * sending_seconds(4 * N, n, H100) * H100.peak * u / operations(N, B) for n in devices]  # sending by computing
assert part[-3] < 1 < part[-2] and same_batch[6] < 1.2 * ideal[6] and same_batch[-1] > same_batch[-2] > 1.5 * ideal[-2]

# %% tags=["hide-input"]
fig, axes = plots.figure(1, 2, size=(8.4, 3.4))
for values, style, name in (
    (same_batch, "o-", "same batch"),
    (growing[1], "s-", "growing, critical = theirs"),
    (growing[4], "^-", "growing, critical = 4 × theirs"),
    (ideal, "k:", "no losses"),
):
    axes[0].plot(devices, values, style, label=name)
    axes[1].plot(devices, [n * value for n, value in zip(devices, values, strict=True)], style, label=name)
axes[0].set(xscale="log", yscale="log", xlabel="H100s", ylabel="days")
axes[1].set(xscale="log", yscale="log", xlabel="H100s", ylabel="device-days")
for ax in axes:
    ax.set_xticks(devices[::3], [f"{n:,}" for n in devices[::3]])
    ax.minorticks_off()
axes[0].legend(fontsize=7)
fig.suptitle("Sending limits the same batch, the critical size a growing one")
plots.show(
    fig,
    alt="Days and device-days against the number of H100s: with the same batch the days fall to about two thousand devices and then rise; with a growing batch they level off and the device-days grow and grow.",
)

# %% [markdown]
# With the **same batch** time falls nearly as 1/n as far as 512 devices. Beyond, a device has so few tokens that the sending no longer
# hides, and from 2,048 on it takes longer than computing. The bytes stay: nearly twice the gradients, on 16 devices and on 4,096. The
# rounds become more, and at 4,096 devices the run is even *slower* than at 2,048. That depends on our 10 µs a round. (For this reason
# libraries can add up in a *tree* as well, whose number of rounds grows with log n.) With the **growing batch** sending never matters, but
# the law of the critical batch gives the same loss with at best half the steps if their batch is the critical one, and with a fifth if it
# is a quarter of it, however large the batch becomes. In the end the price doubles with the devices and the time hardly falls.
#
# Would a larger model help? Take ten times the parameters, and ten times the batch, on 1,024 and on 4,096 devices:

# %% tags=["nbval-check-output"]
losses_at = {}
for name, (more_N, more_B) in {"as it is": (1, 1), "10 × parameters": (10, 1), "10 × batch": (1, 10)}.items():
    alone, many = days(more_N * N, D, more_B * B, 1, H100, u), (1024, 4096)
    losses_at[name] = [n * days(more_N * N, D, more_B * B, n, H100, u) / alone for n in many]
    print(f"{name:<15} a step takes {losses_at[name][0]:.2f} and {losses_at[name][1]:.2f} times the ideal")
per_byte = [operations(more * N, B) / (4 * more * N) for more in (1, 10)]
print(f"operations a byte of gradient: {per_byte[0]:,.0f} and with 10 × parameters {per_byte[1]:,.0f}")
assert losses_at["10 × batch"][1] < losses_at["10 × parameters"][1] < losses_at["as it is"][1]

# %% [markdown]
# The operations a byte of gradient are 1.5 times the tokens of the batch, whatever the model: 6ND / 4N. A larger model helps only
# against the latency of the rounds. Large clusters therefore need *large batches*, and the critical batch grows with the text (Zhang et
# al. 2024).
#
# At how many devices is half of the money wasted? It depends on the lines between the nodes:

# %% tags=["nbval-check-output"]


def half_wasted(machine):
    """Return the smallest number of devices, doubled from 2 on, with less than half of the ideal speed."""
    alone = days(N, D, B, 1, machine, u)
    return next(n for n in (2**k for k in range(1, 20)) if days(N, D, B, n, machine, u) * n > 2 * alone)


lines = {
    "400 Gbit/s for each GPU": H100,
    "100 Gbit/s for each GPU": Machine(989.4e12, between=12.5e9),
    "one line of 100 Gbit/s a node": Machine(989.4e12, between=12.5e9 / 8),
    "one line of 10 Gbit/s a node": Machine(989.4e12, between=1.25e9 / 8),
}
wasted = {name: half_wasted(machine) for name, machine in lines.items()}
for name, n in wasted.items():
    print(f"{name:<30} half wasted at {n:,} devices")
assert all(a > b for a, b in zip(list(wasted.values()), list(wasted.values())[1:], strict=False))
assert wasted["400 Gbit/s for each GPU"] > 1000 and wasted["one line of 10 Gbit/s a node"] < 100

# %% [markdown]
# And your own line of section 6, if each H100 had one such line and none faster, and what base's gradients would take on it:

# %% tags=["times"]
yours = Machine(989.4e12, between=bandwidth, latency=latency, node=1)
print(f"by your line: half wasted at {half_wasted(yours)} devices")
print(f"base's gradients by your line, 2 ranks: {all_reduce_seconds(4 * 110e6, 2, bandwidth, latency):.1f} s")
assert half_wasted(yours) <= half_wasted(H100)

# %% [markdown]
# ### A plan
#
# Last, the question that you may really have: *base* on 8 and on 64 GPUs. BERT's text and batch, and ModernBERT's:

# %% tags=["nbval-check-output"]
plans = {
    "BERT's text and batch": (110e6, bert_tokens, bert_tokens / 1e6),
    "ModernBERT's": (149e6, 1.719e12, 4608 * 1024),
}
speedup = {}
for name, (N, D, B) in plans.items():
    took = {n: days(N, D, B, n, H100, u) for n in (8, 64)}
    speedup[name] = took[8] / took[64]
    print(f"{name}, {B:,.0f} tokens a batch: 64 are {speedup[name]:.1f} times as fast as 8")
    for n, d in took.items():
        print(f"  {n:>2} H100s, {B / n:>7,.0f} tokens a device: {d:.2f} days, {n * d:.1f} device-days")
for n, stage in ((64, 0), (64, 3)):
    need = memory_bytes(149e6, 22, 768, 96 * 1024, n, stage)
    print(f"memory at 96 × 1,024 tokens a device, {n} ranks, stage {stage}: {need / 1e9:.1f} GB of an H100's 80")
state = 16 * 149e6 / memory_bytes(149e6, 22, 768, 96 * 1024, 8)
print(f"weights, gradients and optimizer are {state:.0%} of the first")
logits = 96 * 1024 * 0.3 * 50_368 * 2  # bfloat16, of the 30 % that are masked, for 50,368 words
print(f"besides, the head's logits, and as much for their gradient: {logits / 1e9:.1f} GB each")
assert speedup["BERT's text and batch"] < 4 and speedup["ModernBERT's"] > 7 and state < 0.1

# %% [markdown]
# With BERT's batch eight times as many GPUs are only three times as fast, and the run costs nearly three times as many device-days: a
# device has a few hundred tokens, and sending takes longer than computing them. With ModernBERT's batch they are eight times as fast, in
# this model at the same price. The number of GPUs that you can use is decided by the batch. And at base's size the memory goes into
# activations and logits; cutting the state, as stage 3 does, saves next to nothing. ModernBERT was trained with plain DDP, on 8 GPUs, with
# 96 sequences at a time on each. (Whether your utilization is that of ModernBERT's authors is a question of software; measure an hour of
# your own run first.)

# %% [markdown]
# ## What to remember
#
# * One mean over all selected tokens: **all-reduce the number of tokens first**, weight each part by its own, add up. A mean of means is
#   another training, in which tokens of short texts and of sparse ranks count for more.
# * **Accumulation is data parallelism in time**, with the same mistake and the same remedy.
# * DDP divides by the number of ranks. So multiply the share by it, or do not use DDP's mean. Divide exactly once.
# * All ranks make **the same calls**, also one without a token. All read **different texts**, drawn from one generator.
# * `all_gather` and `all_reduce` are invisible to autograd. Gathered negatives need the **sum of all ranks' gradients**; without it the
#   loss of the own anchors has a wrong direction (too little push), and the whole loss a gradient too short by the number of ranks.
# * ZeRO's stages cut the optimizer's state, the gradients, the weights, in this order. An all-reduce sends nearly **twice the gradients**,
#   whatever the number of ranks, in rounds that become more.
# * More devices pay until **sending takes longer than computing** (same batch) or the **batch exceeds the critical size** (growing
#   batch).
#
# **What this scale cannot show.** The errors of a mean of means are large here because the parts are small; a rank of a real run has
# thousands of selected tokens. Two processes on one machine have no network, no slow neighbour and no failing device; at a thousand,
# something is often broken. Our times are those of gloo on CPUs. The model of cost leaves out the waiting for the slowest rank, the falling
# utilization of small shares, loading of data and evaluation. With accumulation it hides sending behind all parts, although only the last
# part's backward pass can hide it. It takes one critical batch size for the whole run, although it grows during training. It knows data
# parallelism only: models that do not fit are also cut across layers (pipeline) and within matrices (tensor parallelism). And its H100
# numbers are from data sheets; nothing in this lesson ran on one.
#
# **What the field did since.** You et al. (2019) trained BERT-large in 76 minutes on a TPU pod with the optimizer LAMB and batches of up
# to 65,536 sequences, 8,599 steps in place of a million: with LAMB the critical batch is larger than BERT's own 256 by far. PyTorch's DDP
# paper (Li et al. 2020) describes the buckets in which gradients are sent while the backward pass goes on, nearly linear to 256 GPUs.
# transformers counts tokens over devices, for models that use the count, since its pull request 34373 of October 2024, by an option, which
# is on by default since [pull request 39395](https://github.com/huggingface/transformers/pull/39395) of July 2025; sentence-transformers'
# pull request 3442 of the same month gathers negatives. DiLoCo (Douillard et al. 2023) gives up one device's numbers on purpose: each
# worker makes hundreds of steps by itself before they average, and 500 times less is sent. Charles et al. (2025) fitted scaling laws to it,
# for models of up to billions of parameters, and found that it can even beat data parallelism.
#
# **An open problem.** One device's numbers are a strong requirement: it makes a thousand devices testable, and it makes them wait for
# each other at every step. DiLoCo shows that a training may be as good without it. Then what should a test of such a system compare, if
# not the numbers? In the toy world the distance to the floor is known, so you could ask how far two workers may drift apart before it
# grows, and whether anything that you can measure on one rank tells you in time.
#
# **Where this comes from**
#
# * Samyam Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020,
#   [arXiv:1910.02054](https://arxiv.org/abs/1910.02054).
# * Jacob Devlin et al., *BERT*, 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805), appendix A.2 (16 and 64 TPU chips, four
#   days); Yinhan Liu et al., *RoBERTa*, 2019, [arXiv:1907.11692](https://arxiv.org/abs/1907.11692), section 5 (1,024 V100s, about one
#   day); Benjamin Warner et al., *ModernBERT*, 2024, [arXiv:2412.13663](https://arxiv.org/abs/2412.13663), table 3 (8 H100s, DDP, 191.1
#   and 420.4 hours of training) and appendix D.2.
# * Peak rates: [H100, 989.4 teraFLOPS in bfloat16 and 900 GB a second of NVLink in both
#   directions](https://glennklockwood.com/garden/processors/h100); V100, 125, and a TPU v2 board, 180 ([a table of
#   2019](https://gist.github.com/syhw/b8067966a498b604b4750e9458f36804)); 400 gigabit lines as in [a machine of MLPerf with
#   H200s](https://raw.githubusercontent.com/mlcommons/inference_results_v4.1/main/closed/NVIDIA/systems/H200-SXM-141GBx8_TRT_MaxQ.json).
# * Sam McCandlish, Jared Kaplan et al., *An Empirical Model of Large-Batch Training*, 2018,
#   [arXiv:1812.06162](https://arxiv.org/abs/1812.06162); Hanlin Zhang et al., *How Does Critical Batch Size Scale in Pre-training?*,
#   2024, [arXiv:2410.21676](https://arxiv.org/abs/2410.21676).
# * Yang You et al., *Large Batch Optimization for Deep Learning: Training BERT in 76 minutes*, 2019,
#   [arXiv:1904.00962](https://arxiv.org/abs/1904.00962); Shen Li et al., *PyTorch Distributed*, 2020,
#   [arXiv:2006.15704](https://arxiv.org/abs/2006.15704); Arthur Douillard et al., *DiLoCo*, 2023,
#   [arXiv:2311.08105](https://arxiv.org/abs/2311.08105); Zachary Charles et al., *Scaling Laws for DiLoCo*, 2025,
#   [arXiv:2503.09799](https://arxiv.org/abs/2503.09799).
# * transformers, [34191](https://github.com/huggingface/transformers/pull/34191),
#   [34242](https://github.com/huggingface/transformers/issues/34242) and [34373](https://github.com/huggingface/transformers/pull/34373);
#   OpenCLIP, [616](https://github.com/mlfoundations/open_clip/issues/616) and
#   [894](https://github.com/mlfoundations/open_clip/issues/894); sentence-transformers,
#   [3442](https://github.com/huggingface/sentence-transformers/pull/3442).
#
# **Next:** lesson 21 lets a second model look again at what a search found.
