"""The checks of lesson 15, A modern encoder."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    named,
    same,
    solution,
    untouched,
    with_weights,
)
from nextbert_lite.core import modern
from nextbert_lite.core.attention import scaled_dot_product_attention
from nextbert_lite.core.modern import ModernConfig, near

__all__ = [
    "gated_feed_forward",
    "hint",
    "local_attention",
    "mine",
    "rotary_heads",
    "rotate",
    "solution",
    "times_more_scores",
]


# --- 15.1 the build: rotate -------------------------------------------------------------------------------------------


def drawn(generator, *shape):
    return torch.randn(*shape, generator=generator)


ADDED = (
    "you *add* something to x that does not depend on x, as lesson 01 does with its sinusoids. Here nothing is added: "
    "each pair of features is turned, a cos - b sin and b cos + a sin."
)


def one_pair(answer, generator):
    x = drawn(generator, 3, 2)
    found = untouched(answer, x)
    if isinstance(found, torch.Tensor) and found.shape == x.shape and not torch.equal(found, x):
        more = answer(x + 1)
        if isinstance(more, torch.Tensor) and more.shape == x.shape and (more - found - 1).abs().max() < 1e-5:
            raise Fault(ADDED)
    return found


def several_pairs(answer, generator):
    return untouched(answer, drawn(generator, 5, 6))


def texts_and_heads(answer, generator):
    return untouched(answer, drawn(generator, 2, 3, 5, 8)), untouched(answer, drawn(generator, 4, 6, 4))


def other_bases(answer, generator):
    x = drawn(generator, 2, 7, 6)
    return untouched(answer, x, 50.0), answer(x, theta=160_000.0)


def other_shapes(answer, generator):
    return tuple(untouched(answer, drawn(generator, *shape)) for shape in ((1, 7, 10), (9, 4), (2, 1, 1, 2)))


def low_precision(answer, generator):
    x = drawn(generator, 2, 300, 4).bfloat16()
    found, exact = untouched(answer, x), modern.rotate(x.double())
    if not isinstance(found, torch.Tensor) or found.dtype != torch.bfloat16:
        kind = getattr(found, "dtype", type(found).__name__)
        raise Fault(
            f"for x in bfloat16 the result is {kind}. It should have the dtype of x: convert cos and sin with `.to`."
        )
    if found.shape != x.shape or (found.double() - exact).abs().max() > 0.08:
        raise Fault(
            "in bfloat16 far positions are turned by wrong angles: an angle of 257 radians does not exist there. "
            "Compute positions and angles in float32, and convert only cos and sin."
        )
    return "bfloat16"


def high_precision(answer, generator):
    x = drawn(generator, 3000, 4).double().requires_grad_()
    found, exact = untouched(answer, x), modern.rotate(x)
    if not isinstance(found, torch.Tensor) or found.shape != x.shape or found.dtype != torch.float64:
        raise Fault("for x in float64 the result must be a float64 tensor of the same shape.")
    if (found - exact).abs().max() > 1e-9:
        raise Fault(
            "for x in float64 the result is right to a few digits only, because the angles are in float32. Compute "
            "them in float64 where x is: `torch.promote_types(x.dtype, torch.float32)` gives the right dtype for both."
        )
    if not found.requires_grad:
        raise Fault("no gradient comes back through the rotation: no `detach`, `data` or `no_grad`.")
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return torch.autograd.grad((found * weights).sum(), x)[0]


def wrong_rotate(**switches):
    """Return a rotate that a learner may write; its switches are the mistakes."""
    switch = dict.fromkeys("pairs result start axis exponent sign base angles second".split()) | switches

    def rotate(x, theta=10_000.0):
        T, D = x.shape[-2:]
        theta = 10_000.0 if switch["base"] == "fixed" else theta
        exact = torch.promote_types(x.dtype, torch.float32)
        exact = {"of x": x.dtype, "float32": torch.float32}.get(switch["angles"], exact)
        share = torch.arange(0, D, 2, dtype=exact) / D
        if switch["exponent"] == "half":
            share = torch.arange(D // 2, dtype=exact) / D
        elif switch["exponent"] == "double":
            share = 2 * torch.arange(0, D, 2, dtype=exact) / D
        elif switch["exponent"] == "to the end":
            share = torch.arange(D // 2, dtype=exact) / max(1, D // 2 - 1)
        speed = theta ** (share if switch["exponent"] == "positive" else -share)
        if switch["exponent"] == "none":
            speed = torch.ones_like(share)
        if switch["exponent"] == "reversed":
            speed = speed.flip(0)
        position = torch.arange(T, dtype=exact) + (1 if switch["start"] == "one" else 0)
        angle = position[:, None] * speed
        if switch["axis"] and x.ndim > 2:
            number = torch.arange(x.shape[-3], dtype=exact)
            angle = number[:, None, None] * speed
        if switch["angles"] == "degrees":
            angle = angle * math.pi / 180
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        if switch["result"] == "added":
            return x + torch.cat([sin, cos], dim=-1)
        if switch["pairs"] == "mixed":
            cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
            a, b = x.chunk(2, dim=-1)
            return x * cos + torch.cat([-b, a], -1) * sin
        if switch["pairs"] == "neighbours":
            a, b = x[..., ::2], x[..., 1::2]
        else:
            a, b = x.chunk(2, dim=-1)
        sin = -sin if switch["sign"] == "back" else sin
        first, second = a * cos - b * sin, b * cos + a * sin
        if switch["second"] == "mirror":
            second = b * cos - a * sin
        if switch["second"] == "plus":
            first = a * cos + b * sin
        if switch["second"] == "overwritten":
            second = b * cos + first * sin
        if switch["second"] == "only cos":
            first, second = a * cos, b * cos
        if switch["result"] == "neighbours":
            return torch.stack([first, second], dim=-1).flatten(-2)
        if switch["result"] == "exchanged":
            return torch.cat([second, first], dim=-1)
        return torch.cat([first, second], dim=-1)

    return rotate


def rotate_by_halves(x, theta=10_000.0):
    """As Hugging Face writes it: x cos + rotate_half(x) sin."""
    wide = torch.promote_types(x.dtype, torch.float32)
    inv_freq = 1.0 / (theta ** (torch.arange(0, x.shape[-1], 2).to(wide) / x.shape[-1]))
    freqs = torch.outer(torch.arange(x.shape[-2]).to(wide), inv_freq)
    both = torch.cat((freqs, freqs), dim=-1)
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * both.cos().to(x.dtype) + torch.cat((-x2, x1), dim=-1) * both.sin().to(x.dtype)


def rotate_by_complex(x, theta=10_000.0):
    """As a product of complex numbers, computed in float32 at least and converted at the end."""
    wide = x.double() if x.dtype == torch.float64 else x.float()
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=wide.dtype).unsqueeze(1) / theta ** (
        torch.arange(half, dtype=wide.dtype) / half
    )
    turned = torch.complex(wide[..., :half], wide[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


def rotate_by_loops(x, theta=10_000.0):
    T, D = x.shape[-2], x.shape[-1]
    columns = [None] * D
    t = torch.arange(T, dtype=torch.float64)
    for i in range(D // 2):
        c, s = (f(t * theta ** (-2 * i / D)).to(x.dtype) for f in (torch.cos, torch.sin))
        columns[i] = x[..., i] * c - x[..., i + D // 2] * s
        columns[i + D // 2] = x[..., i + D // 2] * c + x[..., i] * s
    return torch.stack(columns, dim=-1)


rotate = Build(
    id="15.1",
    course=modern.rotate,
    stages=(
        Stage("one pair", one_pair),
        Stage("several pairs", several_pairs),
        Stage("texts and heads", texts_and_heads),
        Stage("another theta", other_bases),
        Stage(OTHER_SIZES, other_shapes),
        Stage("bfloat16", low_precision),
        Stage("float64 and gradients", high_precision),
    ),
    mistakes=(
        Mistake(
            "added",
            wrong_rotate(result="added"),
            ADDED,
            "Vaswani et al. 2017, section 3.5: sinusoids are added to the embeddings",
        ),
        Mistake(
            "positions from 1",
            wrong_rotate(start="one"),
            "your first row is turned, so your positions begin at 1. They begin at 0, where nothing is turned. (The "
            "scores would be the same, since only distances count, but not the vectors that others store.)",
            "fairseq's RoBERTa, whose positions begin at padding_idx + 1",
        ),
        Mistake(
            "turned backwards",
            wrong_rotate(sign="back"),
            "you turn the other way: from b towards a. The new a is a cos - b sin, the new b is b cos + a sin.",
            "rotate_half with the sign on the wrong half: cat(x2, -x1) for cat(-x2, x1)",
        ),
        Mistake(
            "a mirror",
            wrong_rotate(second="mirror"),
            "your new b is b cos - a sin. Then both formulas have a minus, and that is a mirror image and not a "
            "rotation: lengths change. The new b is b cos *plus* a sin.",
            "the two signs of a rotation matrix",
        ),
        Mistake(
            "no minus",
            wrong_rotate(second="plus"),
            "your new a is a cos + b sin. With plus in both formulas lengths are not kept: the new a is a cos *minus* "
            "b sin.",
            "rotate_half without its minus: cat(x2, x1)",
        ),
        Mistake(
            "a overwritten",
            wrong_rotate(second="overwritten"),
            "your new b is made with the *new* a. Compute both from the old ones: a, b = a cos - b sin, b cos + a sin.",
            "an assignment to the variable that the next line still needs",
        ),
        Mistake(
            "only the cosine",
            wrong_rotate(second="only cos"),
            "you only multiply by the cosine. A rotation mixes the two features of a pair: a cos - b sin, b cos "
            "+ a sin.",
            "half of the formula",
        ),
        Mistake(
            "degrees",
            wrong_rotate(angles="degrees"),
            "your angles are in degrees. `cos` and `sin` take radians, and ω is in radians a position.",
            "torch.deg2rad where no degrees are",
        ),
        Mistake(
            "b in front",
            wrong_rotate(result="exchanged"),
            "your result has the new b in its first half. The first half is the new a.",
            "the two halves in the other order",
        ),
        Mistake(
            "neighbours are pairs",
            wrong_rotate(pairs="neighbours", result="neighbours"),
            "you pair neighbours, 2i and 2i + 1, as the paper and Meta's LLaMA do. Here feature i and feature i + D/2 "
            "are a pair, as in Hugging Face's models. Both work, but weights of one do not fit the other.",
            "https://github.com/huggingface/transformers/issues/25199",
        ),
        Mistake(
            "neighbours in, halves out",
            wrong_rotate(pairs="neighbours"),
            "you take neighbours as pairs, 2i and 2i + 1, and put the results into halves, so the features come back "
            "in another order. Feature i and feature i + D/2 are a pair, and stay where they are.",
            "https://github.com/rasbt/LLMs-from-scratch/pull/802 (the two layouts)",
        ),
        Mistake(
            "halves in, neighbours out",
            wrong_rotate(result="neighbours"),
            "your halves are put back alternately, so the features come back in another order. Put the new a into the "
            "first half and the new b into the second: `torch.cat`.",
            "torch.stack(...).flatten(-2), which belongs to pairs of neighbours",
        ),
        Mistake(
            "the two layouts mixed",
            wrong_rotate(pairs="mixed"),
            "your pairs are feature i and i + D/2, but your angles are laid out for neighbours: each twice in a row. "
            "Then the two features of a pair turn by different angles. Use `torch.cat([angle, angle], dim=-1)`.",
            "https://github.com/raiyanyahya/how-to-train-your-gpt/pull/7 (halves with the angles of neighbours)",
        ),
        Mistake(
            "half of the exponent",
            wrong_rotate(exponent="half"),
            "your speeds are θ^(-i/D). The exponent is -2i/D, so the slowest pair is near 1/θ and not near 1/√θ.",
            "arange(D / 2) / D; the 2 of the formula lost",
        ),
        Mistake(
            "twice the exponent",
            wrong_rotate(exponent="double"),
            "your speeds are θ^(-4i/D): the 2 is in there twice, in the steps of `arange(0, D, 2)` and again.",
            "2 * arange(0, D, 2) / D",
        ),
        Mistake(
            "no minus in the exponent",
            wrong_rotate(exponent="positive"),
            "your speeds grow: θ^(+2i/D), up to nearly θ radians a position. The exponent is negative.",
            "the sign of the exponent",
        ),
        Mistake(
            "speeds to the end",
            wrong_rotate(exponent="to the end"),
            "your slowest pair turns with exactly 1/θ: you divide by D/2 - 1, as tensor2tensor's sinusoids do. Here "
            "pair i has θ^(-2i/D).",
            "get_timing_signal_1d in tensor2tensor: num_timescales - 1",
        ),
        Mistake(
            "one speed for all",
            wrong_rotate(exponent="none"),
            "all your pairs turn with the speed 1, so all hands of the clock agree. Pair i turns with θ^(-2i/D).",
            "the formula of one pair, used for all",
        ),
        Mistake(
            "slowest first",
            wrong_rotate(exponent="reversed"),
            "your first pair is the slowest. Pair 0 is the fastest, with 1 radian a position.",
            "the order of the speeds",
        ),
        Mistake(
            "the position is the head",
            wrong_rotate(axis=True),
            "you number the dimension before the positions, which are the heads or the texts. The position of a row is "
            "its number along the dimension before the last: `x.shape[-2]`.",
            "https://github.com/facebookresearch/xformers/issues/841",
        ),
        Mistake(
            "theta is fixed",
            wrong_rotate(base="fixed"),
            "right for θ = 10,000, but `theta` changes nothing. Use the argument.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "angles in bfloat16",
            wrong_rotate(angles="of x"),
            "your angles are computed in the dtype of x. In bfloat16 there is no 257, so far positions get the angles "
            "of their neighbours. Compute angles in float32, and convert only cos and sin.",
            "bfloat16 has 8 bits of precision; https://github.com/npatsakula/svod/pull/122 (cos and sin made in "
            "float32)",
        ),
        Mistake(
            "angles in float32 for float64",
            wrong_rotate(angles="float32"),
            "your angles are always in float32. Where x is float64 they must be float64, or a test at 1e-10 cannot "
            "pass: `torch.promote_types(x.dtype, torch.float32)`.",
            "the inverse frequencies as a float32 buffer, as in Hugging Face's models",
        ),
    ),
    hints=(
        "Speeds: `theta ** -(torch.arange(0, D, 2) / D)`, (D/2,). Angles: `torch.arange(T)[:, None] * speed`, "
        "(T, D/2).",
        "`a, b = x.chunk(2, dim=-1)`; the angles, (T, D/2), broadcast over all dimensions before them.",
        "`torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)`.",
        "The dtype of the angles: `exact = torch.promote_types(x.dtype, torch.float32)`, and `cos.to(x.dtype)`.",
    ),
    praise="Positions without a table, for texts of any length.",
    other_ways=(rotate_by_halves, rotate_by_complex, rotate_by_loops, wrong_rotate()),
)


# --- 15.2 find the bug ------------------------------------------------------------------------------------------------


def tokens_and_matrix(generator, B=2, T=5, C=8, H=2):
    return drawn(generator, B, T, C), drawn(generator, C, 3 * C), H, 100.0


def cut(x, W, H):
    B, T, C = x.shape
    return (x @ W).view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)


def right_rotary_heads(x, W, H, theta):
    q, k, v = cut(x, W, H)
    return modern.rotate(q, theta), modern.rotate(k, theta), v


def rotary_heads_not_repaired(x, W, H, theta):
    q, k, v = cut(x, W, H).transpose(2, 3)
    return modern.rotate(q, theta).transpose(1, 2), modern.rotate(k, theta).transpose(1, 2), v.transpose(1, 2)


def rotary_heads_before_the_cut(x, W, H, theta):
    q, k, v = (x @ W).chunk(3, dim=-1)
    parts = modern.rotate(q, theta), modern.rotate(k, theta), v
    return tuple(part.unflatten(-1, (H, -1)).transpose(1, 2) for part in parts)


def rotary_heads_each_with_three(x, W, H, theta):
    q, k, v = (x @ W).unflatten(-1, (H, -1)).transpose(1, 2).chunk(3, dim=-1)
    return modern.rotate(q, theta), modern.rotate(k, theta), v


def rotary_heads_by_chunks(x, W, H, theta):
    q, k, v = (part.unflatten(-1, (H, -1)).transpose(1, 2) for part in (x @ W).chunk(3, dim=-1))
    return modern.rotate(q, theta), modern.rotate(k, theta), v


def rotary_heads_by_stack(x, W, H, theta):
    heads = [part.split(x.shape[-1] // H, dim=-1) for part in (x @ W).split(x.shape[-1], dim=-1)]
    q, k = (torch.stack([rotate_by_halves(head, theta) for head in part], 1) for part in heads[:2])
    return [q, k, torch.stack(heads[2], 1)]


def rotary_heads_turned_twice(x, W, H, theta):
    q, k, v = rotary_heads_not_repaired(x, W, H, theta)
    return modern.rotate(q, theta), modern.rotate(k, theta), v


def rotary_heads_in_another_order(x, W, H, theta):
    q, k, v = right_rotary_heads(x, W, H, theta)
    return k, q, v


def heads_exchanged_again(answer, case):
    """Return a sentence on the results that are right and (B, T, H, D), if there are any."""
    pairs = zip("qkv", answer(*case), right_rotary_heads(*case), strict=True)
    found = [name for name, yours, right in pairs if yours.ndim == 4 and same(yours.transpose(1, 2), right)]
    if found:
        return (
            f"with T and H exchanged, {' and '.join(found)} would be right: (B, T, H, D) comes back, and attention "
            "wants (B, H, T, D). Exchange the two once, for q and k before the rotation, and not again in the `return`."
        )


rotary_heads = Exercise(
    id="15.2",
    right=right_rotary_heads,
    inputs=tokens_and_matrix,
    also=lambda generator: tokens_and_matrix(generator, 1, 4, 12, 3),
    mistakes=(
        Mistake(
            "not repaired",
            rotary_heads_not_repaired,
            "this still gives what the colleague's function gives. Look at the shape that `rotate` gets: it takes the "
            "dimension before the last for the position. Which dimension is that here?",
            "https://github.com/mlfoundations/open_lm/issues/4",
        ),
        Mistake(
            "no rotation",
            lambda x, W, H, theta: tuple(cut(x, W, H)),
            "the heads are right, and nothing is rotated. Without positions two exchanged words still go unnoticed: "
            "`rotate` the queries and the keys.",
            "the faulty line deleted and not replaced",
        ),
        Mistake(
            "turned twice",
            rotary_heads_turned_twice,
            "you rotate twice: along the positions, which is right, and still along the heads, as the colleague does. "
            "Take the old rotation out.",
            "a line added below the faulty one, which stays",
        ),
        Mistake(
            "keys first",
            rotary_heads_in_another_order,
            "you return the keys first. The order is queries, keys, values.",
            "three names in another order",
        ),
        Mistake(
            "values rotated too",
            lambda x, W, H, theta: tuple(modern.rotate(part, theta) for part in cut(x, W, H)),
            "the values are rotated too. Only scores need positions: a rotated value would carry the number of its own "
            "position into the mean, and that is an absolute position again.",
            "Su et al. 2021, equation 16: queries and keys only",
        ),
        Mistake(
            "only the queries",
            lambda x, W, H, theta: (modern.rotate(cut(x, W, H)[0], theta), *cut(x, W, H)[1:]),
            "the keys are not rotated. Then the score depends on the position of the query alone. Both must turn, so "
            "that only the difference of their angles is left.",
            "half of the rotation",
        ),
        Mistake(
            "only the keys",
            lambda x, W, H, theta: (cut(x, W, H)[0], modern.rotate(cut(x, W, H)[1], theta), cut(x, W, H)[2]),
            "the queries are not rotated. Then the score depends on the position of the key alone. Both must turn, so "
            "that only the difference of their angles is left.",
            "half of the rotation",
        ),
        Mistake(
            "rotated before the cut",
            rotary_heads_before_the_cut,
            "you rotate before the heads are cut, so the positions are right, but feature i is paired with i + C/2, "
            "which lies in another head. Then a head's score no longer depends on the distance alone. Cut first.",
            "https://github.com/kingoflolz/mesh-transformer-jax/issues/260 (why each head and not the full width)",
        ),
        Mistake(
            "the tokens rotated",
            lambda x, W, H, theta: tuple(cut(modern.rotate(x, theta), W, H)),
            "you rotate the tokens before the matrix. W mixes the pairs after that, so nothing is left of the "
            "rule that "
            "only the distance counts, and the values carry positions too. Rotate the queries and keys of each head.",
            "positions added at the embedding, as BERT does",
        ),
        Mistake(
            "not turned back",
            lambda x, W, H, theta: tuple(part.transpose(1, 2) for part in right_rotary_heads(x, W, H, theta)),
            "the rotation is right, but the result is (B, T, H, D). Attention wants (B, H, T, D).",
            "https://github.com/vukrosic/leo-optimizer/pull/2 (two transposes around RoPE)",
        ),
        Mistake(
            "theta left out",
            lambda x, W, H, theta: right_rotary_heads(x, W, H, 10_000.0),
            "`theta` is not handed on to `rotate`: it must be that of the argument.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "a view in place of an exchange",
            lambda x, W, H, theta: (
                *(modern.rotate(p.reshape(len(x), H, x.shape[1], -1), theta) for p in (x @ W).chunk(3, -1)[:2]),
                (x @ W).chunk(3, -1)[2].reshape(len(x), H, x.shape[1], -1),
            ),
            "the shapes are right, but the view mixes tokens and heads: (B, T, C) cannot be *viewed* as (B, H, T, D). "
            "Cut into (B, T, H, D) first, and exchange T and H.",
            "lesson 03, exercise 03.1",
        ),
        Mistake(
            "each head with its three",
            rotary_heads_each_with_three,
            "your columns of W are ordered by head, with query, key and value inside each. The text orders them as all "
            "queries, all keys, all values. (NeoBERT's code has your order.)",
            "https://github.com/pszemraj/NeoBERT, src/neobert/model/model.py (view, then chunk)",
        ),
    ),
    hints=(
        "Print the shape of what `rotate` gets. Which dimension does it number?",
        "`rotate` numbers the dimension before the last. In (B, T, H, D) that is the head.",
        "Exchange T and H before the rotation; rotate q and k, not v.",
    ),
    about=heads_exchanged_again,
    praise="The position is that of the token again, and no longer the number of the head.",
    other_ways=(rotary_heads_by_chunks, rotary_heads_by_stack),
)


# --- 15.3 the build: GatedFeedForward ---------------------------------------------------------------------------------


def gated(answer, generator, width=4, ffn_width=6, gate="gelu"):
    """Return the answer's module for these sizes with seeded weights."""
    config = ModernConfig(9, width=width, heads=1, ffn_width=ffn_width, gate=gate)
    module = answer(config)
    biases = [name for name in named(module) if name.endswith("bias")]
    if biases:
        raise Fault(f"the module has {' and '.join(biases)}. Both linear layers are without bias: `bias=False`.")
    return with_weights(module, modern.GatedFeedForward(config), generator)


def its_parts(answer, generator):
    return sorted(named(gated(answer, generator)))


DROPPED = (
    "two calls with the same x give two results, because there is dropout inside. There is none here; the layer has "
    "its own."
)


def one_token(answer, generator):
    module, x = gated(answer, generator), 2 * drawn(generator, 4)
    try:
        found = untouched(module, x)
    except (IndexError, ValueError) as error:
        raise Fault(
            f"for one token, x of the shape (4,), your code raised {type(error).__name__}: {error}. x may have any "
            "number of dimensions before its last: take the features as dimension -1, and do not unpack `x.shape`."
        ) from None
    if any(isinstance(found, torch.Tensor) and not torch.equal(module(x), found) for _ in range(40)):
        raise Fault(DROPPED)
    return found


def as_wide(answer, generator):
    return untouched(gated(answer, generator, ffn_width=4), 2 * drawn(generator, 3, 4))


def with_silu(answer, generator):
    return untouched(gated(answer, generator, gate="silu"), 2 * drawn(generator, 3, 4))


def other_networks(answer, generator):
    sizes = (((2, 3, 6), 10), ((5, 8), 3), ((1, 2, 2, 2), 8))
    return tuple(untouched(gated(answer, generator, s[-1], W), drawn(generator, *s)) for s, W in sizes)


def gated_gradients(answer, generator):
    module, x = gated(answer, generator).double(), drawn(generator, 3, 4).double().requires_grad_()
    out = module(x)
    if not isinstance(out, torch.Tensor) or not out.requires_grad:
        raise Fault("no gradient comes back: keep the graph, without `detach` or `no_grad`.")
    return torch.autograd.grad(out.square().sum(), (x, module.into.weight, module.out.weight))


def wrong_gate(forward):
    """Return the module with another forward: of it, the two halves and the activation."""

    def of_halves(self, x):
        return forward(self, *self.into(x).chunk(2, dim=-1), self.activation)

    return type("GatedFeedForward", (modern.GatedFeedForward,), {"forward": of_halves})


class GatedByNeighbours(modern.GatedFeedForward):
    def forward(self, x):
        inner = self.into(x)
        return self.out(self.activation(inner[..., ::2]) * inner[..., 1::2])


class GatedFirstDimension(modern.GatedFeedForward):
    def forward(self, x):
        a, g = self.into(x).chunk(2)
        return self.out(self.activation(a) * g)


class GatedSecondDimension(modern.GatedFeedForward):
    def forward(self, x):
        a, g = self.into(x).chunk(2, 1)
        return self.out(self.activation(a) * g)


class GatedThreeDimensions(modern.GatedFeedForward):
    def forward(self, x):
        B, T, C = x.shape
        return super().forward(x).view(B, T, C)


class GatedTwoDimensions(modern.GatedFeedForward):
    def forward(self, x):
        N, C = x.shape
        return super().forward(x).view(N, C)


class GatedWithResidual(modern.GatedFeedForward):
    def forward(self, x):
        return x + super().forward(x)


class GatedWithDropout(modern.GatedFeedForward):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.1)


class GatedWithCall(modern.GatedFeedForward):
    def __init__(self, config):
        super().__init__(config)
        self.activation = modern.GATES[config.gate]()


class GatedByConfig(nn.Module):
    """Reads the activation from the configuration, and cuts by hand."""

    def __init__(self, config):
        super().__init__()
        self.W, self.gate = config.ffn_width, config.gate
        self.into = nn.Linear(config.width, 2 * self.W, bias=False)
        self.out = nn.Linear(self.W, config.width, bias=False)

    def forward(self, x):
        inner = F.linear(x, self.into.weight)
        act = F.gelu if self.gate == "gelu" else F.silu
        return F.linear(act(inner[..., : self.W]) * inner[..., self.W :], self.out.weight)


class GatedByErf(modern.GatedFeedForward):
    def forward(self, x):
        a, g = torch.tensor_split(self.into(x), 2, dim=-1)
        phi = torch.sigmoid(a) if isinstance(self.activation, nn.SiLU) else 0.5 * (1 + torch.erf(a / math.sqrt(2)))
        return self.out(a * phi * g)


gated_feed_forward = Build(
    id="15.3",
    course=modern.GatedFeedForward,
    stages=(
        Stage("the parts", its_parts),
        Stage("one token", one_token),
        Stage("inner width as the outer", as_wide),
        Stage("SiLU", with_silu),
        Stage(OTHER_SIZES, other_networks),
        Stage("gradients, in float64", gated_gradients),
    ),
    mistakes=(
        Mistake(
            "gate and value exchanged",
            wrong_gate(lambda self, a, g, act: self.out(a * act(g))),
            "you apply the activation to the *second* half. Here it acts on the first, act(a) · g. A model "
            "trained from "
            "nothing would learn as well, but published weights would give nonsense.",
            "https://github.com/NVIDIA/TensorRT-LLM/issues/1842",
        ),
        Mistake(
            "the activation of the product",
            wrong_gate(lambda self, a, g, act: self.out(act(a * g))),
            "you multiply first and apply the activation to the product. It acts on a alone: act(a) · g.",
            "brackets in the wrong place",
        ),
        Mistake(
            "both halves activated",
            wrong_gate(lambda self, a, g, act: self.out(act(a) * act(g))),
            "you apply the activation to both halves. g stays linear: act(a) · g, so the product may have any sign.",
            "one activation on all of In x, before it is cut",
        ),
        Mistake(
            "no activation",
            wrong_gate(lambda self, a, g, act: self.out(a * g)),
            "the activation is missing. That is the *bilinear* variant of Shazeer's paper; GeGLU is act(a) · g.",
            "Shazeer 2020, equation 6 lists Bilinear beside GEGLU",
        ),
        Mistake(
            "the plain GLU",
            wrong_gate(lambda self, a, g, act: self.out(torch.sigmoid(a) * g)),
            "your gate is a sigmoid. That is the first GLU (Dauphin et al. 2016); here the activation is "
            "`GATES[config.gate]`.",
            "Dauphin et al. 2016; torch's F.glu",
        ),
        Mistake(
            "torch's glu",
            wrong_gate(lambda self, a, g, act: self.out(a * torch.sigmoid(g))),
            "this is `F.glu`: a · σ(g), with a sigmoid on the second half. Here the activation "
            "`GATES[config.gate]` acts "
            "on the first half.",
            "torch.nn.functional.glu, whose name promises more",
        ),
        Mistake(
            "a sum",
            wrong_gate(lambda self, a, g, act: self.out(act(a) + g)),
            "you add the halves. A gate multiplies: act(a) · g.",
            "⊙ read as ⊕",
        ),
        Mistake(
            "the second half is not used",
            wrong_gate(lambda self, a, g, act: self.out(act(a))),
            "g is not used: this is an ordinary feed-forward network. Multiply: act(a) · g.",
            "BERT's network with another width",
        ),
        Mistake(
            "the gate after Out",
            wrong_gate(lambda self, a, g, act: self.out(act(a)) * self.out(g)),
            "you send both halves through `out` and multiply after that. The product is made of inner features: "
            "out(act(a) · g).",
            "the gate on the wrong side of the last matrix",
        ),
        Mistake(
            "gated by x",
            wrong_gate(lambda self, a, g, act: self.out(act(a) * g.sigmoid())),
            "you put a sigmoid around g. g is linear: act(a) · g.",
            "a gate thought of as a number between 0 and 1",
        ),
        Mistake(
            "the tanh formula",
            wrong_gate(lambda self, a, g, act: self.out(F.gelu(a, approximate="tanh") * g)),
            "nearly right: you use GELU's tanh approximation, which differs in the fourth digit. `GATES` has the exact "
            "one, as ModernBERT does.",
            "lesson 04: two formulas have both been called BERT's GELU",
        ),
        Mistake(
            "neighbours are halves",
            GatedByNeighbours,
            "you take every second feature for a and the others for g. The first *half* is a and the second half g: "
            "`chunk(2, dim=-1)`.",
            "interleaved layouts, as with rotary pairs",
        ),
        Mistake(
            "cut along the wrong dimension",
            GatedFirstDimension,
            "right for one token, but you cut along the first dimension. x is (..., C), and the features are its last "
            "dimension: `chunk(2, dim=-1)`.",
            "torch.chunk's default is dim=0",
        ),
        Mistake(
            "cut along dimension 1",
            GatedSecondDimension,
            "you cut along dimension 1, which one token, x of the shape (C,), does not have; in (B, T, C) it is the "
            "tokens. The features are the last dimension: `chunk(2, dim=-1)`.",
            "dim=1, right for (N, C) and for nothing else",
        ),
        Mistake(
            "three dimensions only",
            GatedThreeDimensions,
            "you unpack `x.shape` into B, T and C, but x may have any number of dimensions before its last, for "
            "example none. You need none of the three: linear layers and `chunk(2, dim=-1)` take any shape.",
            "B, T, C = x.shape, from the layers around it",
        ),
        Mistake(
            "two dimensions only",
            GatedTwoDimensions,
            "you unpack `x.shape` into two sizes, but x may have any number of dimensions before its last, for "
            "example none. Linear layers and `chunk(2, dim=-1)` take any shape.",
            "N, C = x.shape, from networks without texts",
        ),
        Mistake(
            "the residual inside",
            GatedWithResidual,
            "you add x to the result. The residual connection is the layer's: x = x + feed-forward(norm(x)). Here only "
            "out(act(a) · g) is returned.",
            "the layer's line written into its part",
        ),
        Mistake(
            "dropout inside",
            GatedWithDropout,
            DROPPED,
            "BERT's code, where a dropout follows the second linear layer of the network",
        ),
        Mistake(
            "the activation called",
            GatedWithCall,
            "`GATES[config.gate]` is an instance already, so the brackets after it call it without a tensor. Leave "
            "them "
            "out: `GATES[config.gate](a)` applies it.",
            "nn.GELU() is a class that is called first, GATES holds what that returns",
        ),
        Mistake(
            "always GELU",
            wrong_gate(lambda self, a, g, act: self.out(F.gelu(a) * g)),
            'right for "gelu", but `config.gate` changes nothing. Use `GATES[config.gate]`.',
            "an argument accepted and forgotten",
        ),
    ),
    hints=(
        "Two layers: `nn.Linear(config.width, 2 * config.ffn_width, bias=False)` and one back.",
        "`a, g = self.into(x).chunk(2, dim=-1)`.",
        "`self.out(self.activation(a) * g)`, with `self.activation = GATES[config.gate]`.",
    ),
    praise="Three matrices' worth of weights in two, and a product of two things that the token says.",
    other_ways=(GatedByConfig, GatedByErf),
)


# --- 15.4 the build: local_attention ----------------------------------------------------------------------------------


def heads_of(generator, B=1, H=1, T=12, D=4, dtype=torch.float32):
    """Return q, k, v, drawn so that weights are far from equal, and a mask without padding."""
    q, k, v = torch.randn(3, B, H, T, D, generator=generator).to(dtype)
    return 2 * q, 2 * k, v, torch.ones(B, 1, 1, T, dtype=torch.bool)


def no_padding(answer, generator):
    return untouched(answer, *heads_of(generator), 4)


def some_texts(answer, generator):
    return untouched(answer, *heads_of(generator, 2, 3), 4), untouched(answer, *heads_of(generator, 3, 2, 9), 3)


BLIND = (
    "right, except for a query that sees no real token: it must get zeros, and yours gets a mean of what it may not "
    "see. "
    "A large negative number in place of -∞ does that, since all scores are then equally large. Set these rows to 0, "
    "or "
    "use `F.scaled_dot_product_attention`."
)
NOT_CUT = "Cut off what was padded: `[:, :, :T]`."
LOST = "The last positions are lost: round the number of blocks up, n = -(-T // window), and pad T to n · window."


def with_padding(answer, generator):
    q, k, v, mask = heads_of(generator, 3, 2, 16)
    mask[0, ..., 9:] = False
    mask[1, ..., 5:8] = False  # in the middle
    mask[2, ..., 2:] = False  # the last queries see nothing
    found, expected = untouched(answer, q, k, v, mask, 4), modern.local_attention(q, k, v, mask, 4)
    if isinstance(found, torch.Tensor) and found.shape == expected.shape and found.isfinite().all():
        blind = ~(mask & near(16, 4)).any(-1, keepdim=True)  # queries that see no real token
        apart = (found - expected).abs() > 1e-4
        if (apart & blind).any() and not (apart & ~blind).any():
            raise Fault(BLIND)
    if isinstance(found, torch.Tensor) and not found.isfinite().all():
        raise Fault(
            "a query that sees no real token gives NaN, and in the next layer NaN spreads, since 0 · NaN is "
            "NaN. Such a "
            "query gets zeros: `F.scaled_dot_product_attention` does that, a softmax over nothing but -∞ does not."
        )
    return found


def any_length(answer, generator):
    found = []
    for T, window in ((10, 4), (7, 3), (2, 5), (1, 1), (5, 1)):
        q, k, v, mask = heads_of(generator, 2, 2, T)
        mask[0, ..., T - T // 3 :] = False
        try:
            found.append(untouched(answer, q, k, v, mask, window))
        except Fault:
            raise
        except Exception as error:  # noqa: BLE001 - a learner's code may raise anything
            raise Fault(
                f"for T = {T} and a window of {window} your code raised {type(error).__name__}. T need not be a "
                f"multiple "
                "of the window, and may be smaller: pad it to whole blocks, and cut the result to T."
            ) from None
        if isinstance(found[-1], torch.Tensor) and found[-1].ndim == 4 and found[-1].shape[2] != T:
            count = found[-1].shape[2]
            what = NOT_CUT if count > T else LOST
            raise Fault(f"for T = {T} and a window of {window} the result has {count} positions. {what}")
    return tuple(found)


def other_heads(answer, generator):
    sizes = ((1, 4, 20, 2, 6), (4, 1, 9, 6, 2), (2, 2, 31, 8, 5))
    return tuple(untouched(answer, *heads_of(generator, *s, dtype=torch.float64), window) for *s, window in sizes)


class Watched(TorchDispatchMode):
    """Sees the largest tensor that is made, and adds up the scores that products compute."""

    def __init__(self):
        super().__init__()
        self.largest, self.scores = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.untyped_storage().nbytes() // part.element_size())
        name, shapes = str(function), [a.shape for a in args if isinstance(a, torch.Tensor)]
        if "scaled_dot_product" in name:
            self.scores += math.prod(shapes[0][:-1]) * shapes[1][-2]
        elif name.startswith(("aten.bmm", "aten.mm", "aten.baddbmm", "aten.addmm")):
            self.scores += result.numel()
        return result


MASK_CUT = "Each block needs its own piece of |i - j| <= window only: number its queries and keys, and compare those."


def the_work(answer, generator):
    T, window = 1024, 4
    q, k, v, mask = heads_of(generator, T=T, D=2)
    with Watched() as watched:
        found = answer(q, k, v, mask, window)
    if watched.largest >= T * T / 4 and watched.scores < T * T / 4:
        raise Fault(
            f"the result is right, and the scores are computed in blocks, but for T = {T} your function makes a tensor "
            f"of {watched.largest:,} numbers, where T² is {T * T:,}. Is it a mask of all pairs? {MASK_CUT}"
        )
    if watched.largest >= T * T / 4:
        raise Fault(
            f"the result is right, but for T = {T} your function makes a tensor of {watched.largest:,} numbers, where "
            f"T² is {T * T:,}: it computes all scores, or a mask for all of them, and throws most of them away. With "
            f"blocks it is about T · 3 · window = {3 * T * window:,}."
        )
    if watched.scores >= T * T / 4:
        raise Fault(
            f"the result is right, but for T = {T} and a window of {window} your function computes {watched.scores:,} "
            f"scores in parts, where T² is {T * T:,}. A block of queries needs its own keys and those of its two "
            "neighbours only."
        )
    return found


def local_gradients(answer, generator):
    q, k, v, mask = heads_of(generator, 2, 2, 11, dtype=torch.float64)
    mask[1, ..., 7:] = False
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = answer(q, k, v, mask, 3)
    if not isinstance(out, torch.Tensor) or not out.requires_grad:
        raise Fault("no gradient comes back: keep the graph, without `detach` or `no_grad`.")
    found = torch.autograd.grad(out.square().sum(), (q, k, v), allow_unused=True, materialize_grads=True)
    expected = F.scaled_dot_product_attention(q, k, v, mask & near(11, 3))
    if out.shape == expected.shape and (out - expected).abs().max() > 1e-10:
        raise Fault("in float64 the result is right to a few digits only: something in it is computed in float32.")
    return out, *found


def with_dropout(answer, generator):
    q, k, v, mask = heads_of(generator, 4, 4, 32)
    v = torch.ones_like(v)
    found = answer(q, k, v, mask, 8, 0.5)
    if torch.equal(found, answer(q, k, v, mask, 8, 0.0)):
        raise Fault("`dropout` changes nothing. Hand it on to `F.scaled_dot_product_attention`.")
    if not torch.equal(answer(q, k, v, mask, 8), answer(q, k, v, mask, 8)):
        raise Fault("without `dropout` two calls differ: its default must be 0.")
    if abs(found.mean() - 1) > 0.15:
        raise Fault(
            f"with dropout the weights sum to {found.mean():.2f} on average. Those that stay are to be divided by "
            "1 - dropout, as `F.dropout` and `F.scaled_dot_product_attention` do."
        )
    return "dropped"


def wrong_local(**switches):
    """Return a local_attention that a learner may write; its switches are the mistakes."""
    switch = dict.fromkeys("band ends fill mask blocks cut unfolded work dropout before".split()) | switches

    def local_attention(q, k, v, mask, window, dropout=0.0):
        B, H, T, D = q.shape
        w, n = window, -(-T // window)
        extra = n * w - T
        dropout = 0.0 if switch["dropout"] == "ignored" else dropout
        if switch["work"] == "masked":
            return F.scaled_dot_product_attention(q, k, v, mask & near(T, w), dropout)
        if switch["work"] == "in parts":
            allowed = (mask & near(T, w)).split(32, dim=2) if T < 500 else None
            parts = []
            for number, some in enumerate(q.split(32, dim=2)):
                t = torch.arange(32 * number, 32 * number + some.shape[2])
                band = mask & ((t[:, None] - torch.arange(T)).abs() <= w) if allowed is None else allowed[number]
                parts.append(F.scaled_dot_product_attention(some, k, v, band, dropout))
            return torch.cat(parts, dim=2)
        if switch["work"] == "global":
            return F.scaled_dot_product_attention(q, k, v, mask, dropout)
        if switch["cut"] == "rounded down":
            T = T // w * w
            n, extra = T // w, 0
            q, k, v, mask = q[:, :, :T], k[:, :, :T], v[:, :, :T], mask[..., :T]
        if switch["before"] == "rotated":
            q, k = modern.rotate(q), modern.rotate(k)
        if switch["before"] == "not scaled":
            q = q * math.sqrt(D)
        if switch["mask"] == "zeroed":
            k, v = k * mask.transpose(2, 3), v * mask.transpose(2, 3)
        real = mask
        mask = torch.ones_like(mask) if switch["mask"] in ("ignored", "zeroed") else mask
        if switch["mask"] == "inverted" and not mask.all():
            mask = ~mask
        q = F.pad(q, (0, 0, 0, extra))
        if switch["blocks"] == "mixed":
            q = q.reshape(B * n, H, w, D)
        else:
            q = q.view(B, H, n, w, D).transpose(1, 2).reshape(B * n, H, w, D)
        k, v = (F.pad(x, (0, 0, w, w + extra)).unfold(2, 3 * w, w) for x in (k, v))
        k, v = (x.transpose(1, 2) for x in (k, v))  # (B, n, H, D, 3w)
        if switch["unfolded"] == "as it is":
            k, v = (x.reshape(B * n, H, 3 * w, D) for x in (k, v))
        else:
            k, v = (x.transpose(3, 4).reshape(B * n, H, 3 * w, D) for x in (k, v))
        there = F.pad(mask[:, 0, 0], (w, w + extra))
        if switch["ends"] == "all":
            there[:, :w] = there[:, w + T :] = True
        if switch["fill"] == "real":
            there[:, w + T : w + T + extra] = True
        there = there.unfold(1, 3 * w, w)
        i, j = torch.arange(w)[:, None], torch.arange(3 * w) - w
        if switch["band"] == "not moved":
            j = j + w
        d = i - j
        band = {
            "half": d.abs() <= w // 2,
            "exclusive": d.abs() < w,
            "left": (d >= 0) & (d <= w),
            "right": (d <= 0) & (d >= -w),
            "all": torch.ones(w, 3 * w, dtype=torch.bool),
            "own": (d.abs() <= w) & (j >= 0) & (j < w),
            "no right block": (d.abs() <= w) & (j < w),
            "no left block": (d.abs() <= w) & (j >= 0),
            "not itself": (d.abs() <= w) & (d != 0),
        }.get(switch["band"], d.abs() <= w)
        seen = there[:, :, None] & band
        seen = (seen.transpose(0, 1) if switch["mask"] == "blocks first" else seen).reshape(B * n, 1, w, 3 * w)
        if switch["mask"] == "a large number":
            scores = (q @ k.transpose(-1, -2) / math.sqrt(D)).masked_fill(~seen, -1e9)
            out = F.dropout(scores.softmax(-1), dropout) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, seen, dropout)
        if switch["blocks"] == "put back mixed":
            return out.reshape(B, H, n * w, D)[:, :, :T]
        out = out.view(B, n, H, w, D).transpose(1, 2).reshape(B, H, n * w, D)
        out = out if switch["cut"] == "forgotten" else out[:, :, :T]
        return out * real.transpose(2, 3) if switch["mask"] == "of the queries too" else out

    return local_attention


def local_by_roll(q, k, v, mask, window, dropout=0.0):
    """The neighbours of a block by torch.roll, so that the first and the last block are neighbours."""
    B, H, T, D = q.shape
    w, n = window, -(-T // window)
    q, k, v = (F.pad(x, (0, 0, 0, n * w - T)).view(B, H, n, w, D).transpose(1, 2) for x in (q, k, v))
    there = F.pad(mask[:, 0, 0], (0, n * w - T)).view(B, n, w)
    k, v = (torch.cat([x.roll(1, 1), x, x.roll(-1, 1)], dim=3) for x in (k, v))  # (B, n, H, 3w, D)
    there = torch.cat([there.roll(1, 1), there, there.roll(-1, 1)], dim=2)
    band = (torch.arange(w)[:, None] - torch.arange(3 * w) + w).abs() <= w
    out = F.scaled_dot_product_attention(q, k, v, (there[:, :, None] & band)[:, :, None], dropout)
    return out.transpose(1, 2).reshape(B, H, n * w, D)[:, :, :T]


def local_by_cut_mask(q, k, v, mask, window, dropout=0.0):
    """Block by block, but with pieces of a mask of all pairs."""
    T, parts = q.shape[2], []
    band = near(T, window)
    for start in range(0, T, window):
        rows, columns = slice(start, start + window), slice(max(0, start - window), start + 2 * window)
        allowed = mask[..., columns] & band[rows, columns]
        parts.append(
            F.scaled_dot_product_attention(q[:, :, rows], k[:, :, columns], v[:, :, columns], allowed, dropout)
        )
    return torch.cat(parts, dim=2)


def local_by_tokens(q, k, v, mask, window, dropout=0.0):
    """Token by token, with the open formula."""
    parts = []
    for t in range(q.shape[2]):
        seen = slice(max(0, t - window), t + window + 1)
        part, _ = scaled_dot_product_attention(
            q[:, :, t : t + 1], k[:, :, seen], v[:, :, seen], mask[..., seen], dropout
        )
        parts.append(part)
    return torch.cat(parts, dim=2)


def local_by_block_loop(q, k, v, mask, window, dropout=0.0):
    """Block by block, with slices of the keys."""
    T, parts = q.shape[2], []
    for start in range(0, T, window):
        stop, low, high = min(T, start + window), max(0, start - window), min(T, start + 2 * window)
        band = (torch.arange(start, stop)[:, None] - torch.arange(low, high)).abs() <= window
        allowed = mask[..., low:high] & band
        parts.append(
            F.scaled_dot_product_attention(
                q[:, :, start:stop], k[:, :, low:high], v[:, :, low:high], allowed, dropout_p=dropout
            )
        )
    return torch.cat(parts, dim=2)


def local_by_windows(q, k, v, mask, window, dropout=0.0):
    """Each token with its own 2 window + 1 keys: nothing is computed in vain, but keys are copied often."""
    size = 2 * window + 1
    k, v = (F.pad(x, (0, 0, window, window)).unfold(2, size, 1) for x in (k, v))  # (B, H, T, D, size)
    there = F.pad(mask[:, :, 0], (window, window)).unfold(2, size, 1)  # (B, 1, T, size)
    scores = torch.einsum("bhtd,bhtds->bhts", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~there, -torch.inf).softmax(-1).nan_to_num()
    return torch.einsum("bhts,bhtds->bhtd", F.dropout(weights, dropout), v)


local_attention = Build(
    id="15.4",
    course=modern.local_attention,
    stages=(
        Stage("without padding", no_padding),
        Stage("texts and heads", some_texts),
        Stage("padding", with_padding),
        Stage("any length", any_length),
        Stage(OTHER_SIZES, other_heads),
        Stage("the work", the_work),
        Stage("gradients, in float64", local_gradients),
        Stage("dropout", with_dropout),
    ),
    mistakes=(
        Mistake(
            "the window forgotten",
            wrong_local(work="global"),
            "every token sees the whole text, however far: the window is not there (or not for a text as short as this "
            "one). It holds for any T: |i - j| <= window.",
            "https://github.com/vllm-project/semantic-router/issues/3406 (a window that was ignored)",
        ),
        Mistake(
            "not scaled",
            wrong_local(before="not scaled"),
            "your scores are not divided by √D. With your own products you must do that; "
            "`F.scaled_dot_product_attention` does it for you.",
            "lesson 02: the scale of scores",
        ),
        Mistake(
            "rotated again",
            wrong_local(before="rotated"),
            "you rotate queries and keys, but they come already rotated. Attention takes them as they are.",
            "RotaryAttention rotates before it calls this function",
        ),
        Mistake(
            "first and last are neighbours",
            local_by_roll,
            "the first block sees the last one, and the last the first: `roll` puts what falls off one end on at the "
            "other. Beyond the ends there is nothing, so pad there, with a mask that is False.",
            "torch.roll for neighbours, as in the shifted windows of images (Swin), which need a mask for it",
        ),
        Mistake(
            "the window halved",
            wrong_local(band="half"),
            "you take `window` for the whole width, and let a token see half of it on each side. Here it is the number "
            "of tokens on *one* side. (ModernBERT's `local_attention` is the whole width: 128 for 64 on each side.)",
            "https://github.com/huggingface/transformers/pull/43030 (the reviewer had to double check)",
        ),
        Mistake(
            "the edge left out",
            wrong_local(band="exclusive"),
            "your tokens see distances *smaller* than `window`. The window is inclusive: |i - j| <= window.",
            "https://github.com/huggingface/transformers/pull/40163 (window sizes one off)",
        ),
        Mistake(
            "to the left only",
            wrong_local(band="left"),
            "your tokens see only what stands before them, as in a decoder. An encoder's window has two sides.",
            "the sliding window of Mistral, which is causal",
        ),
        Mistake(
            "to the right only",
            wrong_local(band="right"),
            "your tokens see only what comes after them. The window has two sides: take the absolute distance.",
            "the sign of i - j",
        ),
        Mistake(
            "the band forgotten",
            wrong_local(band="all"),
            "your tokens see all of the three blocks, so some see nearly twice as far on one side as on the other. "
            "Within the blocks the mask |i - j| <= window is still needed.",
            "https://github.com/allenai/longformer/issues/157 (chunks compute more than the window)",
        ),
        Mistake(
            "its own block only",
            wrong_local(band="own"),
            "a block sees only itself, so a token at its edge has no neighbour across it. It sees the blocks "
            "before and "
            "after it too.",
            "https://github.com/allenai/longformer/pull/100 (sliding chunks without overlap)",
        ),
        Mistake(
            "no block to the right",
            wrong_local(band="no right block"),
            "a block does not see the block after it: tokens lack neighbours on their right side.",
            "pad on one side only",
        ),
        Mistake(
            "no block to the left",
            wrong_local(band="no left block"),
            "a block does not see the block before it: tokens lack neighbours on their left side.",
            "pad on one side only",
        ),
        Mistake(
            "a token does not see itself",
            wrong_local(band="not itself"),
            "a token does not see itself. The distance 0 belongs to the window.",
            "0 < |i - j| <= window",
        ),
        Mistake(
            "keys not moved",
            wrong_local(band="not moved"),
            "your keys are numbered 0 … 3 · window - 1 and your queries 0 … window - 1, as if both began at the same "
            "place. The first key stands one block before the first query: number the keys from -window.",
            "two arange that begin at different tokens",
        ),
        Mistake(
            "the ends count",
            wrong_local(ends="all"),
            "tokens near the ends of the text see the zeros that you padded. A zero key has the score 0 and so gets "
            "weight. What was padded is not there: its mask is False.",
            "F.pad of the keys without F.pad of the mask",
        ),
        Mistake(
            "unfold's order",
            wrong_local(unfolded="as it is"),
            "`unfold` puts the positions of a piece *last*: (B, H, n, D, 3w). You view that as (…, 3w, D), which mixes "
            "features and positions. Exchange the last two dimensions first.",
            "torch.Tensor.unfold's documentation: an additional dimension is appended",
        ),
        Mistake(
            "blocks and heads mixed",
            wrong_local(blocks="mixed"),
            "right for one text with one head. With several, your view mixes blocks and heads: (B, H, T, D) is "
            "(B, H, n, w, D), and H and n must change places before B and n become one dimension.",
            "lesson 03, exercise 03.1: a view in place of an exchange",
        ),
        Mistake(
            "put back in another order",
            wrong_local(blocks="put back mixed"),
            "right for one text with one head. With several, the blocks are put back in the wrong order: the result is "
            "(B · n, H, w, D), and n must change places with H before n and w become T again.",
            "a reshape without the transpose that undoes the first",
        ),
        Mistake(
            "the mask in another order",
            wrong_local(mask="blocks first"),
            "right for one text. With several, your queries are in the order (B, n), each text's blocks one after the "
            "other, and your mask in the order (n, B), so blocks get the mask of others. Use one order for all.",
            "B · n as one dimension, put together in two ways",
        ),
        Mistake(
            "a mean in place of zeros",
            wrong_local(mask="a large number"),
            BLIND,
            "masked_fill(~mask, -1e9) before the softmax, as in many tutorials",
        ),
        Mistake(
            "padded queries zeroed",
            wrong_local(mask="of the queries too"),
            "you set the results of padded queries to zero. Only keys are masked: a padded query that has real tokens "
            "near it gets their mean, as with the mask `mask & near(T, window)`.",
            "a mask multiplied onto the result, which hides padding a second time",
        ),
        Mistake(
            "keys and values zeroed",
            wrong_local(mask="zeroed"),
            "you set the keys and values of padding to zero and let them be seen. A zero key has the score 0, and e⁰ "
            "= 1 "
            "is a weight, which the real tokens then lack. Padding must be masked: its score is -∞.",
            "x * mask in place of a mask; lesson 02",
        ),
        Mistake(
            "not cut",
            wrong_local(cut="forgotten"),
            f"for T = 10 and a window of 4 the result has 12 positions. {NOT_CUT}",
            "n blocks hold n · window positions, which is more than T",
        ),
        Mistake(
            "rounded down",
            wrong_local(cut="rounded down"),
            f"for T = 10 and a window of 4 the result has 8 positions. {LOST}",
            "n = T // window",
        ),
        Mistake(
            "padding ignored",
            wrong_local(mask="ignored"),
            "padding is seen: `mask` changes nothing. A token may see what is near *and* real.",
            "https://github.com/vllm-project/semantic-router/issues/3406",
        ),
        Mistake(
            "the mask inverted",
            wrong_local(mask="inverted"),
            "your tokens see padding and no real token. True means *may be attended to*.",
            "torch's own modules have both polarities; lesson 02",
        ),
        Mistake(
            "the last block filled up",
            wrong_local(fill="real"),
            "where T is no multiple of the window, the zeros that fill up the last block are seen. Their mask "
            "is False.",
            "F.pad of the mask with True",
        ),
        Mistake(
            "a mask of all pairs, cut",
            local_by_cut_mask,
            f"the result is right, and the scores are computed in blocks, but you make `near(T, window)`, a mask of "
            "T², and "
            f"cut pieces of it. {MASK_CUT}",
            "the text offers `near` as the right mask, so it is what one reaches for",
        ),
        Mistake(
            "all scores, then a mask",
            wrong_local(work="masked"),
            "the result is right, but nothing is skipped: all T² scores, or a mask of T², are computed and most thrown "
            "away. That is the masked version of the text. Cut the queries into blocks, each with three blocks "
            "of keys.",
            "https://github.com/huggingface/transformers/issues/29777 (where is the saving?)",
        ),
        Mistake(
            "all keys for each block",
            wrong_local(work="in parts"),
            "the result is right, and memory is saved, but each block of queries still meets *all* keys: T² scores, in "
            "parts. It needs its own block and its two neighbours only.",
            "chunked attention, which saves memory and no work",
        ),
        Mistake(
            "no dropout",
            wrong_local(dropout="ignored"),
            "`dropout` changes nothing. Hand it on to `F.scaled_dot_product_attention` (its `dropout_p`).",
            "an argument accepted and forgotten",
        ),
    ),
    hints=(
        "n = -(-T // window) blocks, extra = n · window - T positions to add: `F.pad(q, (0, 0, 0, extra))`, then "
        "`.view(B, H, n, window, D)`.",
        "Keys: `F.pad(k, (0, 0, window, window + extra)).unfold(2, 3 * window, window)` is (B, H, n, D, 3 · window).",
        "`.permute(0, 2, 1, 4, 3).reshape(B * n, H, 3 * window, D)` makes a batch of blocks of it; the queries "
        "likewise.",
        "The mask: pad and unfold `mask[:, 0, 0]` in the same way, and combine it with |i - j| <= window, where "
        "i = 0 … "
        "window - 1 and j = -window … 2 · window - 1.",
    ),
    praise="Work in proportion to T, and the same numbers as the mask.",
    other_ways=(local_by_tokens, local_by_block_loop, local_by_windows, wrong_local()),
)


# --- 15.5 predict -----------------------------------------------------------------------------------------------------

times_more_scores = Prediction(
    id="15.5",
    right=8192 / 192,
    tolerance=0.3,
    mistakes=(
        Mistake(
            "rounded down",
            42.0,
            "nearly: you rounded down. Give one digit after the point.",
            "// in place of /",
        ),
        Mistake(
            "rounded up",
            43.0,
            "nearly: you rounded to a whole number. Give one digit after the point.",
            "round() without a number of digits",
        ),
        Mistake(
            "the window alone",
            8192 / 129,
            "this is T over the 129 tokens of the window. Blocks compute more than the window: each query meets three "
            "blocks of keys.",
            "the formula of an ideal kernel",
        ),
        Mistake(
            "128",
            8192 / 128,
            "this is T over 128. Blocks of 64 queries meet three blocks of 64 keys, and part of what they compute lies "
            "outside the window.",
            "local_attention: 128, read as what is computed",
        ),
        Mistake(
            "128 on each side",
            8192 / 384,
            "you take the whole width, 128 or 129 tokens, for a block. `local_attention: 128` counts both sides: 64 on "
            "each, and so a block has 64 tokens.",
            "https://github.com/huggingface/transformers/pull/43030",
        ),
        Mistake(
            "one block",
            8192 / 64,
            "this is T over one block. Each query meets three blocks of keys: its own and its two neighbours.",
            "the neighbours forgotten",
        ),
        Mistake(
            "one side and itself",
            8192 / 65,
            "this is T over 65, one side of the window and the token itself. There are two sides, and blocks compute "
            "three blocks of 64 keys for each query.",
            "the window of a decoder",
        ),
        Mistake(
            "four blocks",
            8192 / 256,
            "this is T over four blocks. A block of queries meets three blocks of keys: itself, the one before and the "
            "one after.",
            "two neighbours on each side of two, or the queries counted as well",
        ),
        Mistake(
            "the mean over the layers",
            1 / (1 / 3 + 2 / 3 * 192 / 8192),
            "this is the saving over all layers, of which every third is global. The question is about one local "
            "layer.",
            "a layer and the whole encoder mixed up",
        ),
        Mistake(
            "in percent",
            100 * 8192 / 192,
            "this is in percent. The question is how many *times* more: divide by 100.",
            "a ratio written as a percentage",
        ),
        Mistake(
            "the scores of a local layer",
            8192 * 192.0,
            "this is the number of scores of the local layer, T · 3w. Divide the number of the global layer, T², by "
            "it.",
            "one of the two counts in place of their ratio",
        ),
        Mistake(
            "the scores of a global layer",
            8192 * 8192.0,
            "this is the number of scores of the global layer, T². Divide it by that of the local layer.",
            "one of the two counts in place of their ratio",
        ),
        Mistake(
            "the other way round",
            192 / 8192,
            "a number below 1 says how many times *fewer* a local layer computes. The question is how many times "
            "more a "
            "global layer computes, so the answer is greater than 1.",
            "a fraction turned over",
        ),
    ),
    hints=("A global layer computes T² scores. And blocks? T queries, each with three blocks of keys.",),
    praise="T over three windows: the longer the text, the more is saved.",
)
