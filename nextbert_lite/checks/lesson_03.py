"""The checks of lesson 03, Many heads."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["hint", "merge_heads", "multi_head", "parameters", "self_attend", "solution", "split_heads"]


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


def packed_attention(generator, B=2, T=5, C=12, H=3):
    x = torch.randn(B, T, C, generator=generator)
    qkv, out = nn.Linear(C, 3 * C), nn.Linear(C, C)
    for p in (*qkv.parameters(), *out.parameters()):
        p.data = torch.randn(p.shape, generator=generator) / math.sqrt(C)
    return x, qkv.requires_grad_(False), out.requires_grad_(False), H


def attend(x, qkv, out, H, scale=None, order=(2, 0, 3, 1, 4), project=True, merge=True):
    B, T, C = x.shape
    packed = qkv(x).view(B, T, 3, H, C // H) if order[0] == 2 else qkv(x).view(B, T, H, 3, C // H)
    q, k, v = packed.permute(*order)
    weights = (q @ k.transpose(-2, -1) / (scale or math.sqrt(C // H))).softmax(-1)
    heads = weights @ v
    y = heads.transpose(1, 2).reshape(B, T, C) if merge else heads.reshape(B, T, C)
    return out(y) if project else y


def cut_in_one_view(x, qkv, out, H):
    B, T, C = x.shape
    q, k, v = (part.reshape(B, H, T, C // H) for part in qkv(x).chunk(3, -1))
    heads = (q @ k.transpose(-2, -1) / math.sqrt(C // H)).softmax(-1) @ v
    return out(heads.transpose(1, 2).reshape(B, T, C))


def heads_by_loop(x, qkv, out, H):
    q, k, v = qkv(x).chunk(3, -1)
    split = [F.scaled_dot_product_attention(*parts) for parts in zip(*(t.chunk(H, -1) for t in (q, k, v)), strict=True)]
    return out(torch.cat(split, -1))


multi_head = Exercise(
    id="03.4",
    right=attend,
    inputs=packed_attention,
    also=lambda generator: packed_attention(generator, B=3, T=4, C=10, H=5),
    mistakes=(
        Mistake(
            "√C",
            lambda x, qkv, out, H: attend(x, qkv, out, H, scale=math.sqrt(x.shape[-1])),
            "you divide by √C, the width of the model. A head's dot product has only D = C / H terms: divide by √D.",
            "https://github.com/omihub777/ViT-CIFAR/pull/11, "
            "https://github.com/Graylab/DL4Proteins-notebooks/issues/12",
        ),
        Mistake(
            "not divided",
            lambda x, qkv, out, H: attend(x, qkv, out, H, scale=1.0),
            "the scores are not divided by √D.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "cut in the wrong places",
            cut_in_one_view,
            "queries, keys and values are right, but each is cut into heads by one view to (B, H, T, D), which mixes "
            "tokens and features (exercise 03.1).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "not projected",
            lambda x, qkv, out, H: attend(x, qkv, out, H, project=False),
            "the output projection is missing: `out` mixes what the heads found, without it they never meet.",
            "the last step of equation (MultiHead) in Vaswani et al. 2017, section 3.2.2",
        ),
        Mistake(
            "heads before q, k, v",
            lambda x, qkv, out, H: attend(x, qkv, out, H, order=(3, 0, 2, 1, 4)),
            "you read the packed output as (H, 3, D). It is (3, H, D): first all queries, then all keys, then all "
            "values. (Some published models do pack by head, GPT-NeoX for one.)",
            "both layouts exist in published weights",
        ),
        Mistake(
            "heads merged without the exchange",
            lambda x, qkv, out, H: attend(x, qkv, out, H, merge=False),
            "the heads are merged without exchanging H and T first (exercise 03.2): tokens get mixed up.",
            "exercise 03.2",
        ),
        Mistake(
            "one head",
            lambda x, qkv, out, H: attend(x, qkv, out, 1),
            "H is not used: this is one head of the full width.",
            "the split forgotten",
        ),
    ),
    hints=(
        "`qkv(x)` is (B, T, 3C). View it as (B, T, 3, H, D) and bring the 3 to the front, T before D.",
        "`q, k, v = qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)`; then attention as in lesson 02, with √D.",
        "Then `heads.transpose(1, 2).reshape(B, T, C)` and `out(…)`.",
    ),
    praise="With mask and dropout it is the package's MultiHeadAttention.",
    other_ways=(heads_by_loop,),
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
