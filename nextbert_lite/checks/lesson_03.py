"""The checks of lesson 03, Many heads."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite.checks.core import (
    Build,
    Exercise,
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
    "hint",
    "merge_heads",
    "mine",
    "multi_head_attention",
    "parameters",
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


def heads_to_merge(generator):
    return (torch.randn(2, 4, 4, 4, generator=generator),)


merge_heads = Exercise(
    id="03.2",
    right=lambda heads: heads.transpose(1, 2).flatten(2),
    inputs=heads_to_merge,
    also=lambda generator: (torch.randn(3, 2, 5, 3, generator=generator),),
    mistakes=(
        Mistake(
            "no exchange",
            lambda heads: heads.reshape(heads.shape[0], heads.shape[2], -1),
            "the shape is right and the numbers are in the wrong places: reshape reads (B, H, T, D) in order, so a "
            "token gets the outputs of several tokens. First exchange H and T back.",
            "the reverse of exercise 03.1; reshape hides it, view would raise an error",
        ),
        Mistake(
            "mean of the heads",
            lambda heads: heads.mean(1),
            "the heads are averaged: what each found is blended again, which is what several heads were to avoid. "
            "Put them side by side.",
            "concatenation and mean confused",
        ),
        Mistake(
            "features first",
            lambda heads: heads.permute(0, 2, 3, 1).flatten(2),
            "the features of the heads are interleaved: 0 of each head, then 1 of each head. Head 0's D features come "
            "first.",
            "the permutation of the last two dimensions",
        ),
    ),
    hints=("It is the way back: exchange H and T, then join H and D.", "`.transpose(1, 2)` and then `.flatten(2)`."),
    praise="Side by side: concatenation, as in the paper.",
    other_ways=(
        lambda h: torch.cat(tuple(h.unbind(1)), -1),
        lambda h: torch.einsum("bhtd->bthd", h).flatten(2),
    ),
)

parameters = Prediction(
    id="03.3",
    right=1.0,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "a head costs as much as the first",
            8.0,
            "8 would be true if each head had the full width. Each has its own slice, D = C / H: more heads, thinner "
            "heads.",
            "the figure of parallel heads in Vaswani et al. 2017, read without D = C / H",
        ),
        Mistake(
            "thinner means fewer",
            0.125,
            "each head has an eighth, and there are eight of them.",
            "one head counted in place of all",
        ),
    ),
    hints=("The packed projection is C → 3C, whatever H is.",),
    praise="Heads are free: the same matrices, cut differently.",
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
    y, weights = module(answer, generator)(texts(generator))
    return tuple(y.shape), weights is None


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
    y, weights = it(x, padding(generator), return_weights=True)
    empty = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    empty[1, 0, 2] = False  # token 2 of text 1 may look at nothing
    return y, weights, *it(x, empty, return_weights=True)


def other_sizes(answer, generator):
    return module(answer, generator, C=10, H=5)(texts(generator, 3, 4, 10))[0]


def gradients(answer, generator):
    it, x = module(answer, generator), texts(generator).requires_grad_()
    it(x, padding(generator))[0].square().sum().backward()
    return x.grad, *(it.get_parameter(name).grad for name in ("qkv.weight", "qkv.bias", "out.weight", "out.bias"))


def dropped(answer, generator):
    """Dropout: each value is 1 and each token attends to all alike, so the output is the sum of the weights."""
    it = with_weights(answer(8, 2, 0.5), MultiHeadAttention(8, 2), generator)
    with torch.no_grad():
        it.qkv.weight.zero_(), it.qkv.bias.zero_(), it.out.bias.zero_()
        it.qkv.bias[16:] = 1.0
        it.out.weight.copy_(torch.eye(8))
    x = torch.randn(4, 32, 8, generator=generator)
    found = [it.eval()(x)[0]]
    for shown in (False, True):
        y = it.train()(x, return_weights=shown)[0]
        found += [bool(y.std() > 0.05), bool((y.mean() - 1).abs() < 0.1)]  # 5 standard errors
    return tuple(found)


class Wrong(MultiHeadAttention):
    """MultiHeadAttention with a forward pass that a learner may write; its switches are the mistakes."""

    scaled_by, order, cut, merged, projected, heads, masked, averaged = (
        "D",
        "3HD",
        "tokens",
        True,
        True,
        None,
        "row",
        False,
    )
    drops, drops_in_eval, hides = True, False, True

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
        scores = q @ k.transpose(-2, -1) / {"D": math.sqrt(D), "C": math.sqrt(C), "nothing": 1.0}[self.scaled_by]
        if mask is not None and self.hides:
            mask = ~mask if self.masked == "inverted" else mask
            scores = scores.masked_fill(~mask, -1e9 if self.masked == "large" else -math.inf)
        weights = scores.softmax(-1)
        if mask is not None and self.hides and self.masked == "row":
            weights = weights.masked_fill(~mask, 0.0)
        if self.drops and (self.training or self.drops_in_eval):
            weights = F.dropout(weights, self.dropout)
        heads = weights @ v
        y = heads.transpose(1, 2).reshape(B, T, C) if self.merged else heads.reshape(B, T, C)
        shown = weights.mean(1) if self.averaged else weights
        return self.out(y) if self.projected else y, shown if return_weights else None


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
            weights = self.drop(scores.softmax(-1).nan_to_num(0.0))
            outputs.append(weights @ c)
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
        Stage("gradients", gradients),
        Stage("dropout", dropped),
    ),
    mistakes=(
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
            "the heads are merged without exchanging H and T first (exercise 03.2): tokens get mixed up.",
            "exercise 03.2",
        ),
        Mistake(
            "one head", wrong(heads=1), "H is not used: this is one head of the full width.", "the split forgotten"
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
            "no dropout",
            wrong(drops=False),
            "the attention weights are never dropped. In training, a proportion `dropout` of them becomes 0 before the "
            "values are mixed: `F.dropout(weights, p)`.",
            "the argument accepted and forgotten",
        ),
        Mistake(
            "dropout always",
            wrong(drops_in_eval=True),
            "dropout is on in eval mode too: the same text gets another result each time. Only when `self.training`.",
            "F.dropout's default is training=True",
        ),
    ),
    hints=(
        "`qkv(x)` is (B, T, 3C). View it as (B, T, 3, H, D) and bring the 3 to the front, H before T.",
        "`q, k, v = self.qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)`; then attention as in lesson 02, with √D.",
        "Then `heads.transpose(1, 2).reshape(B, T, C)` and `self.out(…)`.",
        "`scaled_dot_product_attention(q, k, v, mask, dropout)` of lesson 02 takes the mask and the dropout, and gives "
        "the weights. `dropout` is 0.0 unless `self.training`.",
    ),
    praise="With the course's fused path for speed, it is the package's.",
    other_ways=(ByLoop, wrong()),
)


def module_and_batch(generator):
    C = 8
    module = nn.MultiheadAttention(C, 2)  # batch_first=False
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) / math.sqrt(C)
    x = torch.randn(5, 5, C, generator=generator)  # B = T: nothing tells by its shape
    return module.requires_grad_(False), x


def through(module, x):
    return module(x, x, x, need_weights=False)[0]


self_attend = Exercise(
    id="03.5",
    right=lambda module, x: through(module, x.transpose(0, 1)).transpose(0, 1),
    inputs=module_and_batch,
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
    ),
    hints=(
        "torch's modules from before 2021 expect the time first: (T, B, C).",
        "Exchange the first two dimensions before the call and back after it, or build it with batch_first=True.",
    ),
    praise="In your own code write batch_first=True, or use a module that has no other order.",
    also=lambda generator: (module_and_batch(generator)[0], torch.randn(3, 5, 8, generator=generator)),
    other_ways=(lambda m, x: torch.stack([m(t, t, t)[0] for t in x]),),
)
