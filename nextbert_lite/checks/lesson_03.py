"""The checks of lesson 03, Many heads."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    solution,
    untouched,
    with_weights,
)
from nextbert_lite.core.attention import MultiHeadAttention

__all__ = [
    "growth",
    "head_parts",
    "hint",
    "mine",
    "multi_head_attention",
    "self_attend",
    "solution",
    "split_heads",
]


def tokens_to_split(generator):
    return torch.randn(2, 4, 16, generator=generator), 2


def right_split(x, H):
    B, T, C = x.shape
    return x.view(B, T, H, C // H).transpose(1, 2)


split_heads = Exercise(
    id="03.1",
    right=right_split,
    inputs=tokens_to_split,
    also=lambda generator: (torch.randn(3, 5, 12, generator=generator), 3),
    mistakes=(
        Mistake(
            "one view",
            lambda x, H: x.reshape(x.shape[0], H, x.shape[1], x.shape[2] // H),
            "the shape is right and the numbers are in the wrong places: one view cuts the texts into pieces, so a "
            "head gets all features of a few tokens. Cut the features, view(B, T, H, D), then exchange T and H.",
            "https://github.com/jadore801120/attention-is-all-you-need-pytorch (view and transpose in this order)",
        ),
        Mistake(
            "not exchanged",
            lambda x, H: x.view(*x.shape[:2], H, -1),
            "this is (B, T, H, D): attention runs over the last two dimensions, so the heads of one token would look "
            "at each other. Exchange T and H: .transpose(1, 2).",
            "a missing transpose; runs without an error whenever T = H",
        ),
        Mistake(
            "features interleaved",
            lambda x, H: x.view(*x.shape[:2], -1, H).permute(0, 3, 1, 2),
            "head 0 gets the features 0, H, 2H, … A consistent layout of your own would learn as well, but it cannot "
            "read anyone else's weights: by convention head 0 has the first D features.",
            "fused QKV layouts differ in published checkpoints; see lesson 14",
        ),
        Mistake(
            "exchanged before the cut",
            lambda x, H: x.transpose(1, 2).reshape(x.shape[0], H, x.shape[1], -1),
            "you exchange tokens and features first and cut after that, so a row of a head holds one feature of "
            "several tokens. Cut first, view(B, T, H, D), then exchange T and H.",
            "the two steps in the other order; seen in answers to this exercise",
        ),
        Mistake(
            "H and D exchanged",
            lambda x, H: x.view(*x.shape[:2], H, -1).transpose(2, 3),
            "this is (B, T, D, H): you exchanged the last two dimensions. T and H change places: .transpose(1, 2).",
            "the wrong pair of dimensions; seen in answers to this exercise",
        ),
        Mistake(
            "H to the front",
            lambda x, H: x.view(*x.shape[:2], H, -1).permute(2, 0, 1, 3),
            "this is (H, B, T, D), the heads before the texts. The result is (B, H, T, D): .transpose(1, 2) does it.",
            "a stack over heads; seen in answers to this exercise",
        ),
        Mistake(
            "slices of H",
            lambda x, H: torch.stack(x.split(H, dim=-1), dim=1),
            "your slices have H features, so there are D of them. `split` takes the size of a slice, D = C / H; "
            "`chunk` takes their number.",
            "torch.split and torch.chunk confused; seen in answers to this exercise",
        ),
    ),
    hints=(
        "The C features of each token are cut into H slices of D: view(B, T, H, D).",
        "Attention wants (…, T, D) at the end: exchange the dimensions T and H.",
    ),
    praise="Each head has its own slice of every token.",
    other_ways=(
        lambda x, H: torch.stack(x.chunk(H, -1), 1),
        lambda x, H: x.unflatten(-1, (H, -1)).movedim(2, 1),
    ),
)


def heads_and_matrix(generator, B=2, H=4, T=4, D=4):
    return torch.randn(B, H, T, D, generator=generator), torch.randn(H * D, H * D, generator=generator)


def right_parts(heads, W_out):
    return heads @ W_out.unflatten(0, heads.shape[1::2])  # (B, H, T, D) @ (H, D, C)


def parts_by_loop(heads, W_out):
    D = heads.shape[-1]
    return torch.stack([heads[:, h] @ W_out[h * D : (h + 1) * D] for h in range(heads.shape[1])], 1)


def parts_by_zeros(heads, W_out):
    """All heads but one are set to zero, then merged and mixed as always."""
    alone = torch.eye(heads.shape[1])[:, None, :, None, None] * heads  # (H, B, H, T, D): one head each
    return (alone.transpose(2, 3).flatten(3) @ W_out).transpose(0, 1)


head_parts = Exercise(
    id="03.2",
    right=right_parts,
    inputs=heads_and_matrix,
    also=lambda generator: heads_and_matrix(generator, 3, 2, 5, 3),
    mistakes=(
        Mistake(
            "columns of W_out",
            lambda heads, W_out: heads @ W_out.T.unflatten(0, heads.shape[1::2]),
            "you cut the columns of `W_out`. It multiplies from the right, so head h, whose D features stand at "
            "h·D … (h+1)·D, meets the *rows* with these numbers. (In the weight of an `nn.Linear`, which is stored "
            "turned, they are columns.)",
            "nn.Linear stores its weight as (out, in)",
        ),
        Mistake(
            "rows interleaved",
            lambda heads, W_out: heads @ W_out.unflatten(0, (-1, heads.shape[1])).transpose(0, 1),
            "head h gets the rows h, H + h, 2H + h, … Side by side means that head 0's D features come first, so "
            "head h has D neighbouring rows, from h·D on.",
            "the interleaved layout of exercise 03.1",
        ),
        Mistake(
            "the first rows for each head",
            lambda heads, W_out: heads @ W_out[: heads.shape[-1]],
            "each head is multiplied by the first D rows. Those belong to head 0; head h has the rows from h·D on.",
            "a slice without h",
        ),
        Mistake(
            "the sum",
            lambda heads, W_out: heads.transpose(1, 2).flatten(2) @ W_out,
            "that is the output of all heads together. Return what each head adds, (B, H, T, C), before the sum.",
            "the merge and the projection as section 3 writes them",
        ),
        Mistake(
            "equal parts of the sum",
            lambda heads, W_out: (
                (heads.transpose(1, 2).flatten(2) @ W_out)[:, None].expand(-1, heads.shape[1], -1, -1) / heads.shape[1]
            ),
            "each head gets the same part of the output. Their sum is right, but a head adds only what its own D "
            "features give.",
            "a decomposition that only makes the sum come out",
        ),
        Mistake(
            "the whole for each head",
            lambda heads, W_out: (heads.transpose(1, 2).flatten(2) @ W_out)[:, None].expand(-1, heads.shape[1], -1, -1),
            "each head gets the whole output, so the sum over the heads is H times too large. Head h adds what its own "
            "D features give.",
            "the output repeated; seen in answers to this exercise",
        ),
        Mistake(
            "divided by H",
            lambda heads, W_out: right_parts(heads, W_out) / heads.shape[1],
            "you divide by H. The layer's output is the sum of the parts and not their mean.",
            "a mean for a sum; seen in answers to this exercise",
        ),
        Mistake(
            "slices that overlap",
            lambda heads, W_out: torch.stack(
                [heads[:, h] @ W_out[h : h + heads.shape[-1]] for h in range(heads.shape[1])], 1
            ),
            "your slices begin at row h and overlap. Head h has the D rows from h·D on.",
            "h in place of h·D; seen in answers to this exercise",
        ),
        Mistake(
            "stacked in front",
            lambda heads, W_out: right_parts(heads, W_out).transpose(0, 1),
            "the parts are right, but stacked in front: this is (H, B, T, C). The result is (B, H, T, C): `dim=1`.",
            "torch.stack's default is dim=0; seen in answers to this exercise",
        ),
    ),
    hints=(
        "Side by side, head h has the features h·D … (h+1)·D. In a product with `W_out` from the right, which rows of "
        "`W_out` do those features meet?",
        "Head h adds `heads[:, h] @ W_out[h * D : (h + 1) * D]`, of the shape (B, T, C).",
        "Stack the H parts along dimension 1; or cut `W_out` into (H, D, C) and let the product broadcast over B.",
    ),
    praise="A concatenation and a matrix are a sum: each head writes into the output on its own.",
    other_ways=(
        parts_by_loop,
        parts_by_zeros,
        lambda heads, W_out: torch.einsum("bhtd,hdc->bhtc", heads, W_out.reshape(heads.shape[1], -1, len(W_out))),
    ),
)

growth = Prediction(
    id="03.3",
    right=(1, 8),
    mistakes=(
        Mistake(
            "a head costs as much as the first",
            (8, 8),
            "the weights are right. But 8 times the parameters would be true if each head had the full width; each has "
            "its own slice, D = C / H. More heads are thinner heads.",
            "the figure of parallel heads in Vaswani et al. 2017, read without D = C / H",
        ),
        Mistake(
            "free in everything",
            (1, 1),
            "the parameters are right. But each head has a (T, T) map of its own, whatever its width.",
            "the sentence that heads are free",
        ),
        Mistake(
            "thinner means fewer",
            (0.125, 8),
            "the weights are right. Of the parameters each head has an eighth, and there are eight heads.",
            "one head counted in place of all",
        ),
        Mistake(
            "exchanged",
            (8, 1),
            "it is the other way round: count the numbers in `qkv` and `out`, then those in a (B, H, T, T) tensor.",
            "the two numbers written in the other order",
        ),
        Mistake(
            "squared",
            (1, 64),
            "the parameters are right. Eight heads make eight maps (T, T): 8 times the weights and not 8².",
            "the square of T² given to H; seen in answers to this exercise",
        ),
        Mistake(
            "added, not multiplied",
            (0, 8),
            "the weights are right. 'Not at all' is right for the parameters too, but what does not grow is multiplied "
            "by 1, not by 0.",
            "a reader of this lesson who meant growth by nothing",
        ),
    ),
    hints=(
        "The packed projection is C → 3C and the output C → C. Does H occur?",
        "Each head makes a map of weights (T, T) for each text.",
    ),
    praise="Free in parameters, not in memory; and section 6 shows a second price, the rank.",
)


# --- the build: MultiHeadAttention ------------------------------------------------------------------------------------


def module(answer, generator, C=12, H=3, dropout=0.0):
    """Return the learner's module with the course's parts and seeded weights, in eval mode."""
    return with_weights(answer(C, H, dropout), MultiHeadAttention(C, H), generator).eval()


def texts(generator, B=2, T=5, C=12):
    return torch.randn(B, T, C, generator=generator)


def padding(generator, B=2, T=5):
    """A padding mask (B, 1, 1, T): the second text has two real tokens."""
    return (torch.arange(T) < torch.tensor([T] + [2] * (B - 1))[:, None])[:, None, None, :]


def shapes(answer, generator):
    result = module(answer, generator)(texts(generator))
    if not isinstance(result, tuple) or len(result) != 2:
        raise Fault("`forward` should return a pair: `return output, weights`, with None for weights not asked for.")
    y, weights = result
    return f"an output {tuple(y.shape)}", "no weights" if weights is None else "weights that nobody asked for"


def one_head(answer, generator):
    return untouched(module(answer, generator, H=1), texts(generator))[0]


def several_heads(answer, generator):
    return untouched(module(answer, generator), texts(generator))[0]


def masks(answer, generator):
    it, x = module(answer, generator), texts(generator)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    per_head = torch.rand(2, 3, 5, 5, generator=generator) < 0.7
    per_head |= torch.eye(5, dtype=torch.bool)
    return tuple(untouched(it, x, mask)[0] for mask in (padding(generator), causal, per_head))


def weights_too(answer, generator):
    it, x = module(answer, generator), texts(generator)
    y, weights = untouched(it, x, padding(generator), True)
    empty = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    empty[1, 0, 2] = False  # token 2 of text 1 may look at nothing
    return y, weights, *it(x, empty, return_weights=True)


def other_sizes(answer, generator):
    wider = module(answer, generator, C=10, H=5)(texts(generator, 3, 4, 10))[0]
    return wider, module(answer, generator)(texts(generator, 1, 1))[0]


def double(answer, generator):
    return module(answer, generator).double()(texts(generator).double(), padding(generator), return_weights=True)


def gradients(answer, generator):
    it, x = module(answer, generator), texts(generator).requires_grad_()
    it(x, padding(generator))[0].square().sum().backward()
    return x.grad, *(it.get_parameter(name).grad for name in ("qkv.weight", "qkv.bias", "out.weight", "out.bias"))


def dropped(answer, generator):
    """Dropout: each value is 1 and each token attends to all alike, so the output is the sum of the weights."""
    it = with_weights(answer(8, 2, 0.25), MultiHeadAttention(8, 2), generator)
    with torch.no_grad():
        it.qkv.weight.zero_(), it.qkv.bias.zero_(), it.out.bias.zero_()
        it.qkv.bias[16:] = 1.0
        it.out.weight.copy_(torch.eye(8))
    x = torch.randn(8, 32, 8, generator=generator)
    quiet = it.eval()(x)[0]
    plain, _ = it.train()(x)
    shown, weights = it(x, return_weights=True)
    whole = bool((weights.sum(-1) - 1).abs().max() < 1e-4)
    return quiet, seen(plain), seen(shown), f"the returned weights {'sum' if whole else 'do not sum'} to 1"


def seen(y):
    """What dropout with p = 0.25 did to sums of 32 weights of 1/32: mean 1, standard deviation √(p / (1 − p) / 32)."""
    spread, mean = y[..., 0].std().item(), y.mean().item()  # of 256: the deviation is known to 5 %, the mean to 0.005
    if spread < 1e-3:
        return "nothing is dropped"
    if abs(mean - 1) > 0.04:
        return "the kept weights are not scaled by 1 / (1 - dropout)"
    if spread > 0.42:
        return "more than single weights is dropped"
    return "weights are dropped" if 0.075 < spread < 0.13 else "weights are dropped with another probability"


class Wrong(MultiHeadAttention):
    """MultiHeadAttention with a forward pass that a learner may write; its switches are the mistakes."""

    scaled_by, order, cut, merged, projected, heads, hides, masked = "D", "3HD", "tokens", True, True, None, True, "row"
    lone, always, summed, roles = False, False, -1, (0, 1, 2)
    averaged, drops, drops_in_eval, keeps, shown_dropped, shown = False, "weights", False, False, False, "weights"

    def forward(self, x, mask=None, return_weights=False):
        B, T, C = x.shape
        H = self.heads or self.H
        D = C // H
        if self.order == "3HD":
            q, k, v = self.qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = self.qkv(x).view(B, T, H, 3, D).permute(3, 0, 2, 1, 4)
        if self.cut == "one view":
            q, k, v = (part.reshape(B, H, T, D) for part in self.qkv(x).chunk(3, -1))
        if self.cut == "interleaved":
            q, k, v = (part.reshape(B, T, D, H).permute(0, 3, 1, 2) for part in self.qkv(x).chunk(3, -1))
        q, k, v = ((q, k, v)[i] for i in self.roles)
        scores = q @ k.transpose(-2, -1) / {"D": math.sqrt(D), "C": math.sqrt(C), "nothing": 1.0}[self.scaled_by]
        if mask is not None and self.hides:
            mask = ~mask if "inverted" in self.masked else mask
            mask = mask.transpose(-2, -1) if self.masked == "row of queries" else mask
            if self.masked != "row alone":
                scores = scores.masked_fill(~mask, -1e9 if self.masked == "large" else -math.inf)
        weights = scores.softmax(self.summed)
        if mask is not None and self.hides and "row" in self.masked:
            weights = weights.masked_fill(~mask, 0.0)
        on = self.training or self.drops_in_eval
        p = 1 - self.dropout if self.keeps else self.dropout
        kept = F.dropout(weights, p) if on and self.drops in ("weights", "unscaled") else weights
        kept = kept * (1 - p) if on and self.drops == "unscaled" else kept
        heads = kept @ v
        if on and self.drops == "blends":
            heads = F.dropout(heads, p)
        y = heads.transpose(1, 2).reshape(B, T, C) if self.merged else heads.reshape(B, T, C)
        y = heads.permute(0, 2, 3, 1).reshape(B, T, C) if self.merged == "D first" else y
        weights = kept if self.shown_dropped else scores if self.shown == "scores" else weights
        shown = weights.mean(1) if self.averaged else weights
        y = self.out(y) if self.projected else y
        return y if self.lone else (y, shown if return_weights or self.always else None)


def wrong(**switches):
    return type("MultiHeadAttention", (Wrong,), switches)


class ByLoop(nn.Module):
    """Another way: a head after the other."""

    def __init__(self, C, H, dropout=0.0):
        super().__init__()
        self.H, self.drop = H, nn.Dropout(dropout)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x, mask=None, return_weights=False):
        q, k, v = self.qkv(x).chunk(3, -1)
        D = x.shape[-1] // self.H
        outputs, shown = [], []
        for h, (a, b, c) in enumerate(zip(*(t.split(D, -1) for t in (q, k, v)), strict=True)):
            scores = torch.einsum("btd,bsd->bts", a, b) / D**0.5
            if mask is not None:
                allowed = mask.expand(len(x), self.H, *scores.shape[1:])[:, h]
                scores = scores.masked_fill(~allowed, -math.inf)
            weights = scores.softmax(-1).nan_to_num(0.0)
            outputs.append(self.drop(weights) @ c)
            shown.append(weights)
        return self.out(torch.cat(outputs, -1)), torch.stack(shown, 1) if return_weights else None


multi_head_attention = Build(
    id="03.4",
    course=MultiHeadAttention,
    stages=(
        Stage("parts and shapes", shapes),
        Stage("one head", one_head),
        Stage("several heads", several_heads),
        Stage("masks", masks),
        Stage("the weights", weights_too),
        Stage("other sizes", other_sizes),
        Stage("float64", double),
        Stage("gradients", gradients),
        Stage("dropout", dropped),
    ),
    mistakes=(
        Mistake(
            "the output alone",
            wrong(lone=True),
            "`forward` returns the output alone. It should return a pair: `return output, weights`, with None in the "
            "place of weights that nobody asked for.",
            "an attention layer that returns one tensor, as in most tutorials",
        ),
        Mistake(
            "weights always",
            wrong(always=True),
            "the weights are returned although nobody asked for them. Without `return_weights` the second result is "
            "None, so that nothing has to keep B · H · T² numbers.",
            "need_weights=True is the default of nn.MultiheadAttention",
        ),
        Mistake(
            "keys and values exchanged",
            wrong(roles=(0, 2, 1)),
            "the second third of the packed output is used as values and the last as keys. The order is queries, keys, "
            "values.",
            "a slip in unpacking three tensors of one shape",
        ),
        Mistake(
            "queries and keys exchanged",
            wrong(roles=(1, 0, 2)),
            "the first third of the packed output is used as keys and the second as queries, so each token is weighed "
            "the wrong way round. The order is queries, keys, values.",
            "a slip in unpacking three tensors of one shape; seen in answers to this exercise",
        ),
        Mistake(
            "features interleaved",
            wrong(cut="interleaved"),
            "head 0 gets the features 0, H, 2H, … of queries, keys and values. By convention it has the first D: "
            "view(B, T, H, D), and then exchange T and H (exercise 03.1).",
            "the interleaved layout of exercise 03.1; seen in answers to this exercise",
        ),
        Mistake(
            "merged with D first",
            wrong(merged="D first"),
            "the heads are joined with D before H, so their features alternate. Side by side, all features of head 0 "
            "come first: `heads.transpose(1, 2)`, and then join H and D.",
            "permute(0, 2, 3, 1) on the way back; seen in answers to this exercise",
        ),
        Mistake(
            "softmax over the queries",
            wrong(summed=-2),
            "the softmax runs over the queries, so the columns of the weights sum to 1. Each token shares out its own "
            "attention: take the softmax over the keys, `dim=-1`.",
            "a wrong dim in softmax; both dimensions have the size T",
        ),
        Mistake(
            "√C",
            wrong(scaled_by="C"),
            "you divide by √C, the width of the model. A head's dot product has only D = C / H terms: divide by √D.",
            "https://github.com/omihub777/ViT-CIFAR/pull/11, "
            "https://github.com/Graylab/DL4Proteins-notebooks/issues/12",
        ),
        Mistake(
            "not divided",
            wrong(scaled_by="nothing"),
            "the scores are not divided by √D.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "cut in the wrong places",
            wrong(cut="one view"),
            "queries, keys and values are right, but each is cut into heads by one view to (B, H, T, D), which mixes "
            "tokens and features (exercise 03.1).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "not projected",
            wrong(projected=False),
            "the output projection is missing: `out` mixes what the heads found, without it they never meet.",
            "the last step of equation (MultiHead) in Vaswani et al. 2017, section 3.2.2",
        ),
        Mistake(
            "heads before q, k, v",
            wrong(order="H3D"),
            "you read the packed output as (H, 3, D). It is (3, H, D): first all queries, then all keys, then all "
            "values. (Some published models do pack by head, GPT-NeoX for one.)",
            "both layouts exist in published weights",
        ),
        Mistake(
            "heads merged without the exchange",
            wrong(merged=False),
            "the heads are put side by side without exchanging H and T first, so a token gets the outputs of several "
            "tokens: `heads.transpose(1, 2)`, and then join H and D.",
            "the reverse of exercise 03.1; reshape hides it, view would raise an error",
        ),
        Mistake(
            "one head", wrong(heads=1), "H is not used: this is one head of the full width.", "the split forgotten"
        ),
        Mistake(
            "the notebook's H",
            wrong(heads=3),
            "your forward pass makes three heads although this module was built with another H: `H` is a name of the "
            "notebook there, where it is 3. Keep the argument in `__init__`, `self.H = H`, and use `self.H`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "no mask",
            wrong(hides=False),
            "the mask has no effect: where it is False, the score must become -inf before the softmax.",
            "pytorch/pytorch#32590 and the like: a mask that is accepted and not used",
        ),
        Mistake(
            "the mask means the opposite",
            wrong(masked="inverted"),
            "you hide what may be attended to. In this course True means *may be attended to*; only in "
            "nn.MultiheadAttention does True mean *hidden*.",
            "torch's two conventions: key_padding_mask and scaled_dot_product_attention's attn_mask",
        ),
        Mistake(
            "the mask means the opposite, without NaN",
            wrong(masked="inverted row"),
            "you hide what may be attended to: the mask is turned round, `~mask`. True means *may be attended to* here "
            "and in lesson 02's function; only in nn.MultiheadAttention does True mean *hidden*.",
            "~mask given to a function that takes care of empty rows; seen in answers to this exercise",
        ),
        Mistake(
            "the mask of the queries",
            wrong(masked="row of queries"),
            "the mask is transposed: you hide rows, what a token looks *from*. Its last dimension says which keys may "
            "be looked *at*, as in the scores.",
            "mask.transpose(-2, -1), or the two sides of the map confused; seen in answers to this exercise",
        ),
        Mistake(
            "the mask after the softmax alone",
            wrong(masked="row alone"),
            "the weights of what is hidden become 0 only after the softmax, so the others do not sum to 1. Set the "
            "*scores* to -inf before it.",
            "weights * mask; seen in answers to this exercise",
        ),
        Mistake(
            "NaN in an empty row",
            wrong(masked="inf"),
            "a token that may look at nothing gets NaN: a softmax over -inf alone is 0 / 0. Set the weights of what is "
            "hidden to 0 after the softmax; then such a row is zeros.",
            "pytorch/pytorch#41508",
        ),
        Mistake(
            "a large number for -inf",
            wrong(masked="large"),
            "a token that may look at nothing gets the mean of all values: with -1e9 everywhere the softmax is even. "
            "Use -inf, and set the weights of what is hidden to 0 after the softmax.",
            "-1e9 in the Annotated Transformer",
        ),
        Mistake(
            "weights averaged over the heads",
            wrong(averaged=True),
            "the weights are averaged over the heads. Return each head's own, (B, H, T, T).",
            "average_attn_weights=True is the default of nn.MultiheadAttention",
        ),
        Mistake(
            "the scores",
            wrong(shown="scores"),
            "you return the scores from before the softmax. The weights are what comes after it: each row sums to 1.",
            "one name for scores and weights; seen in answers to this exercise",
        ),
        Mistake(
            "no dropout",
            wrong(drops=None),
            "the attention weights are never dropped: also in training, no weight becomes 0. Drop a proportion "
            "`dropout` of the weights themselves (and not of the scores), before the values are mixed: "
            "`F.dropout(weights, p)`.",
            "the argument accepted and forgotten",
        ),
        Mistake(
            "dropout on the blends",
            wrong(drops="blends"),
            "dropout acts on what the heads have read, or on the output. It should act on the attention weights, "
            "before they meet the values: a dropped weight hides one token from one head.",
            "a dropout layer put behind the product",
        ),
        Mistake(
            "not scaled",
            wrong(drops="unscaled"),
            "single weights are dropped and the others stay as they are, so a row sums to less than 1 on average. The "
            "others are divided by 1 - dropout, as `F.dropout` does it.",
            "dropout by a comparison of random numbers; seen in answers to this exercise",
        ),
        Mistake(
            "the probability to keep",
            wrong(keeps=True),
            "`dropout` is the probability that a weight is dropped, as in all of torch; in your module it is the "
            "probability that a weight is kept.",
            "keep_prob in TensorFlow 1 and in Google's BERT code",
        ),
        Mistake(
            "the weights after dropout",
            wrong(shown_dropped=True),
            "the output is right, but in training the weights that you return are those after dropout: their rows do "
            "not sum to 1. Return the weights from before dropout.",
            "one name for the weights before and after dropout",
        ),
        Mistake(
            "dropout always",
            wrong(drops_in_eval=True),
            "dropout is on in eval mode too: the same text gets another result each time. Only when `self.training`.",
            "F.dropout's default is training=True",
        ),
    ),
    hints=(
        "Without heads first: `q, k, v = self.qkv(x).chunk(3, -1)`, attention as in lesson 02, then `self.out(…)`. The "
        "check then passes two stages.",
        "`qkv(x)` is (B, T, 3C). View it as (B, T, 3, H, D) and bring the 3 to the front, H before T.",
        "`q, k, v = self.qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)`; then attention as in lesson 02, with √D.",
        "Then `heads.transpose(1, 2).reshape(B, T, C)` and `self.out(…)`.",
        "`scaled_dot_product_attention(q, k, v, mask, dropout)` of lesson 02 takes the mask and the dropout, and gives "
        "the weights. `dropout` is 0.0 unless `self.training`.",
    ),
    praise="The package's differs in one thing: where no weights are asked for, it calls torch's fused function.",
    other_ways=(ByLoop, wrong()),
)


def module_and_batch(generator, B=3, T=6, C=8):  # B ≠ T, or `reshape(T, B, C)` would do nothing
    module = nn.MultiheadAttention(C, 2)  # batch_first=False
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) / math.sqrt(C)
    return module.requires_grad_(False), torch.randn(B, T, C, generator=generator)


def through(module, x):
    return module(x, x, x, need_weights=False)[0]


def switched(answer, case):
    """The text asks that the module stay as it is."""
    module, x = case
    settings = module.training, module.dropout
    answer(module, x)
    if (module.training, module.dropout) != settings:
        return (
            "your function changes a setting of the module, its mode (`eval()` or `train()`) or its dropout: whoever "
            "uses it elsewhere goes on with another one. Leave the module alone and change the order of x."
        )
    if module.batch_first:
        return (
            "your function sets `module.batch_first`: whoever uses the same module elsewhere finds it changed, and the "
            "text forbids it. Change the order of x, not the module."
        )
    return None


def still_mixed(answer, case):
    """Return a sentence where a change of text 1 alone changes more than one text of the result."""
    module, x = case
    other = x.clone()
    other[1] = 0.0
    y, changed = answer(module, x), answer(module, other)
    if y.shape not in (x.shape, x.transpose(0, 1).shape) or (y - changed).abs().amax(-1).gt(1e-6).sum() <= x.shape[1]:
        return None
    return (
        "the texts still mix: when only text 1 changes, the results of other texts change too. The module reads "
        "(T, B, C), so token t of text b, x[b, t], has to stand at [t, b] of what it is given."
    )


def a_new_module(module, x):
    """Another module with the same weights and the batch first; the given one stays as it is."""
    own = nn.MultiheadAttention(module.embed_dim, module.num_heads, batch_first=True)
    own.load_state_dict(module.state_dict())
    return own(x, x, x, need_weights=False)[0].detach()


self_attend = Exercise(
    id="03.5",
    right=lambda module, x: through(module, x.transpose(0, 1)).transpose(0, 1),
    inputs=module_and_batch,
    limit=switched,
    mistakes=(
        Mistake(
            "the bug as it was",
            through,
            "the bug is still there: this module reads (T, B, C), so token t of one text looks at token t of the other "
            "texts, and at no other token of its own.",
            "batch_first=False is nn.MultiheadAttention's default; seen in public BERT teaching code",
        ),
        Mistake(
            "not turned back",
            lambda module, x: through(module, x.transpose(0, 1)),
            "right inside, but the result is (T, B, C): exchange the two dimensions back.",
            "half of the repair",
        ),
        Mistake(
            "turned back only",
            lambda module, x: through(module, x).transpose(0, 1),
            "you exchange the dimensions of the result, but texts were already mixed inside: exchange them before too.",
            "half of the repair",
        ),
        Mistake(
            "reshape",
            lambda module, x: through(module, x.reshape(x.shape[1], len(x), -1)).reshape(x.shape),
            "`reshape` and `view` exchange no dimensions: they fill the shape (T, B, C) with the tokens in their old "
            "order, so pieces of different texts still look at each other. Exchange the first two dimensions.",
            "the right shape without a transpose; seen in answers to this exercise",
        ),
        Mistake(
            "one long text",
            lambda module, x: through(module, x.reshape(-1, 1, x.shape[-1])).reshape(x.shape),
            "you join all texts into one, so each token looks at all tokens of all texts.",
            "B · T in place of a batch; seen in answers to this exercise",
        ),
        Mistake(
            "only itself",
            lambda module, x: module(
                x, x, x, need_weights=False, attn_mask=~torch.eye(len(x), dtype=torch.bool, device=x.device)
            )[0],
            "no text sees another one now, but each token looks at itself alone: the mask hides the rest. The module "
            "still reads (T, B, C); give it x in that order, and no mask.",
            "a mask against the symptom; seen in answers to this exercise",
        ),
    ),
    hints=(
        "A token of text 0 reads from text 1. Which dimension of x does the module take for the tokens? "
        "`print(module.batch_first)`, and look at the shapes in `help(nn.MultiheadAttention.forward)`.",
        "The module expects (T, B, C): torch's older layers have the time first.",
        "Exchange the first two dimensions of x before the call, and those of the result after it.",
    ),
    praise="In your own code write batch_first=True, or use a module that has no other order.",
    also=lambda generator: module_and_batch(generator, 5, 5),  # B = T: nothing tells by its shape
    about=still_mixed,
    other_ways=(lambda m, x: torch.stack([m(t, t, t)[0] for t in x]), a_new_module),
)
