"""The checks of lesson 04, The encoder."""

import copy
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
    describe,
    hint,
    mine,
    named,
    solution,
    untouched,
    with_weights,
)
from nextbert_lite.core.attention import MultiHeadAttention
from nextbert_lite.core.encoder import ACTIVATIONS, Encoder, EncoderConfig, EncoderLayer, Inside

__all__ = ["encoder", "encoder_layer", "gelu", "hint", "layer_norm", "mine", "reach", "solution", "stack"]


def vectors_to_norm(generator):
    x = 0.02 * torch.randn(2, 3, 4, generator=generator) + 0.5  # small spread, so that eps and N - 1 show
    return x, torch.rand(4, generator=generator) + 0.5, torch.randn(4, generator=generator), 1e-3


def normed(x, gain, bias, eps, dim=-1, correction=0, outside=False, affine=True, root=True):
    mean = x.mean(dim, keepdim=True)
    variance = x.var(dim, keepdim=True, correction=correction)
    if outside:
        y = (x - mean) / (variance.sqrt() + eps)
    else:
        y = (x - mean) / ((variance + eps).sqrt() if root else variance + eps)
    return gain * y + bias if affine else y


layer_norm = Exercise(
    id="04.1",
    right=normed,
    inputs=vectors_to_norm,
    also=lambda generator: (*(torch.randn(*size, generator=generator) for size in ((3, 5, 6), (6,), (6,))), 0.1),
    mistakes=(
        Mistake(
            "divided by N - 1",
            lambda *a: normed(*a, correction=1),
            "x.var() and x.std() divide by N - 1 unless told otherwise. The layer norm divides by N: correction=0. "
            "With C = 768 nobody sees it, with C = 4 it is 15 %.",
            "https://github.com/harvardnlp/annotated-transformer/pull/119",
        ),
        Mistake(
            "eps outside the root",
            lambda *a: normed(*a, outside=True),
            "you add eps to the standard deviation. It belongs under the root, to the variance.",
            "https://github.com/codertimo/BERT-pytorch/issues/30, https://github.com/hyunwoongko/transformer/issues/7",
        ),
        Mistake(
            "eps fixed",
            lambda x, gain, bias, eps: normed(x, gain, bias, 1e-5),
            "you use 1e-5 in place of the eps that is passed in. BERT's is 1e-12, RoBERTa's 1e-5: it must be a choice.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "both",
            lambda *a: normed(*a, outside=True, correction=1),
            "two things: eps belongs under the root, and the variance divides by N (correction=0), not N - 1.",
            "https://github.com/harvardnlp/annotated-transformer/issues/122",
        ),
        Mistake(
            "no root",
            lambda *a: normed(*a, root=False),
            "you divide by the variance; divide by its square root.",
            "https://github.com/pbcquoc/transformer/issues/2",
        ),
        Mistake(
            "over the tokens",
            lambda *a: normed(*a, dim=1),
            "you normalise over the tokens (dim 1), so words change with their neighbours and with padding. A layer "
            "norm looks at one token's C features: dim=-1.",
            "layer and batch norm confused (Ba et al. 2016 compare the two)",
        ),
        Mistake(
            "without gain and bias",
            lambda *a: normed(*a, affine=False),
            "gain and bias are missing: the model must be able to undo what the norm does.",
            "elementwise_affine=False by hand",
        ),
        Mistake(
            "the gain times the bias too",
            lambda x, gain, bias, eps: gain * (normed(x, 1, 0, eps) + bias),
            "the gain multiplies the bias too. First the gain, then add the bias: g · z + b.",
            "a bracket too many; a fresh reader of this lesson",
        ),
        Mistake(
            "RMSNorm",
            lambda x, gain, bias, eps: gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt() + bias,
            "the mean is not subtracted: this is RMSNorm (Zhang and Sennrich 2019) with a bias. Layer norm has "
            "x - mean above the line, and the variance, not the mean square, below it.",
            "the norm of many later models; a fresh reader of this lesson",
        ),
        Mistake(
            "no keepdim",
            lambda x, gain, bias, eps: x - x.mean(-1),
            "mean and variance of (B, T, C) over the last dimension are (B, T), which does not fit (B, T, C). With "
            "keepdim=True they are (B, T, 1), and are broadcast.",
            "keepdim forgotten; a fresh reader of this lesson",
        ),
        Mistake(
            "over a whole text",
            lambda *a: normed(*a, dim=(1, 2)),
            "you normalise over a whole text, tokens and features together, so words change with their neighbours. "
            "A layer norm looks at one token's C features: dim=-1.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "over the batch",
            lambda *a: normed(*a, dim=(0, 1)),
            "you normalise each feature over all tokens of the batch, as a batch norm does, so a text changes with "
            "the texts beside it. A layer norm looks at one token's C features: dim=-1.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "without eps",
            lambda x, gain, bias, eps: normed(x, gain, bias, 0),
            "eps is missing: divide by the root of variance + eps. Without it, a token whose features are all equal "
            "gives nan.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "without the gain",
            lambda x, gain, bias, eps: normed(x, 1, bias, eps),
            "the gain is missing: multiply by it before you add the bias.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "without the bias",
            lambda x, gain, bias, eps: normed(x, gain, 0, eps),
            "the bias is missing: it is added at the end.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the mean alone divided",
            lambda x, gain, bias, eps: (
                gain * x - x.mean(-1, keepdim=True) / (x.var(-1, keepdim=True, correction=0) + eps).sqrt() + bias
            ),
            "a bracket is missing: the division applies to the mean alone. Subtract first: (x - mean) / root.",
            "a fresh reader of this lesson",
        ),
    ),
    hints=(
        "Mean and variance of the last dimension, with keepdim=True.",
        "`x.var(-1, keepdim=True, correction=0)` divides by N.",
        "`gain * (x - mean) / (variance + eps).sqrt() + bias`",
    ),
    praise="Equal to torch's layer norm.",
    other_ways=(
        lambda x, g, b, eps: F.layer_norm(x, g.shape, g, b, eps),
        lambda x, g, b, eps: g * ((d := x - x.mean(-1)[..., None]) / (d.square().mean(-1)[..., None] + eps) ** 0.5) + b,
    ),
)

gelu = Exercise(
    id="04.2",
    right=lambda x: F.gelu(x),
    inputs=lambda generator: (2 * torch.randn(50, generator=generator),),
    also=lambda generator: (torch.randn(2, 3, 4, generator=generator),),
    mistakes=(
        Mistake(
            "the tanh formula",
            lambda x: F.gelu(x, approximate="tanh"),
            "this is the tanh approximation, which GPT-2 has, and Google's BERT code since February 2019. RoBERTa, and "
            "BERT in Hugging Face's library, have the exact one, with erf. The difference is small and adds up over "
            "the layers.",
            "the code: tanh in google-research/bert since commit bee6030, exact in Hugging Face's BertModel",
        ),
        Mistake(
            "the sigmoid formula",
            lambda x: x * torch.sigmoid(1.702 * x),
            "this is the coarse approximation x σ(1.702 x), which CLIP uses under the name quick GELU.",
            "Hendrycks and Gimpel 2016 give it as an alternative",
        ),
        Mistake(
            "only Φ",
            lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2))),
            "this is Φ(x), a probability. GELU is x · Φ(x).",
            "the factor x forgotten",
        ),
        Mistake(
            "√2 forgotten",
            lambda x: 0.5 * x * (1 + torch.erf(x)),
            "Φ(x) = (1 + erf(x / √2)) / 2: the √2 inside erf is missing.",
            "erf and Φ confused",
        ),
        Mistake(
            "ReLU",
            lambda x: x.relu(),
            "this is ReLU, which is nn.TransformerEncoderLayer's default. BERT uses GELU.",
            "nn.TransformerEncoderLayer's documented defaults: ReLU and 2048",
        ),
        Mistake(
            "the half forgotten",
            lambda x: x * (1 + torch.erf(x / math.sqrt(2))),
            "twice too large: 1 + erf(…) goes from 0 to 2, and Φ, a probability, is half of it.",
            "the division by 2 left out; a fresh reader of this lesson",
        ),
        Mistake(
            "half of erf alone",
            lambda x: x * (1 + torch.erf(x / math.sqrt(2)) / 2),
            "you halve erf alone. Φ(x) = (1 + erf(x / √2)) / 2: the whole bracket is halved.",
            "the bracket in the wrong place; a fresh reader of this lesson",
        ),
        Mistake(
            "no bracket",
            lambda x: x * 1 + torch.erf(x / math.sqrt(2)) / 2,
            "brackets are missing: x multiplies the 1 alone, and erf alone is halved. Φ(x) is the whole of "
            "(1 + erf(x / √2)) / 2, and x multiplies all of it.",
            "Python's order of operations; a fresh reader of this lesson",
        ),
        Mistake(
            "√2 outside erf",
            lambda x: x * 0.5 * (1 + torch.erf(x) / math.sqrt(2)),
            "you divide erf by √2. It is x that is divided, inside: erf(x / √2).",
            "the bracket in the wrong place; a fresh reader of this lesson",
        ),
        Mistake(
            "2 in place of √2",
            lambda x: 0.5 * x * (1 + torch.erf(x / 2)),
            "you divide x by 2 inside erf. It is √2: erf(x / √2).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "times √2",
            lambda x: 0.5 * x * (1 + torch.erf(x * math.sqrt(2))),
            "you multiply x by √2 inside erf. It is divided: erf(x / √2).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "erf in place of Φ",
            lambda x: x * torch.erf(x / math.sqrt(2)),
            "you multiply x by erf itself, which goes from -1 to 1. Φ goes from 0 to 1: (1 + erf(x / √2)) / 2.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "SiLU",
            lambda x: F.silu(x),
            "this is SiLU, x σ(x), also called Swish. GELU has Φ, the normal distribution's cumulative function, in "
            "place of the sigmoid.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the density",
            lambda x: x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi),
            "you multiply by the normal *density*. Φ(x) is the probability below x, the area under the density: (1 "
            "+ erf(x / √2)) / 2.",
            "a fresh reader of this lesson",
        ),
    ),
    hints=(
        "Φ is the normal distribution's cumulative function: Φ(x) = (1 + erf(x / √2)) / 2.",
        "`torch.erf` and `math.sqrt(2)`; then multiply by x.",
    ),
    praise="The exact GELU, as in RoBERTa.",
    other_ways=(
        torch.nn.GELU(),
        lambda x: x * torch.distributions.Normal(0, 1).cdf(x),
        lambda x: x * torch.special.ndtr(x),
    ),
)


# --- the first build: EncoderLayer ------------------------------------------------------------------------------------

SMALL = {"vocab_size": 20, "width": 12, "layers": 2, "heads": 3, "ffn_width": 20, "max_len": 9}


def small(**changes):
    return EncoderConfig(**{**SMALL, **changes})


def layer(answer, generator, **changes):
    """Return the learner's layer with the course's parts and seeded weights, in eval mode."""
    return with_weights(answer(small(**changes)), EncoderLayer(small(**changes)), generator).eval()


def hidden(generator, B=2, T=5, C=12):
    return torch.randn(B, T, C, generator=generator)


def last_hidden(T=5):
    """A mask (2, 1, 1, T): the second text has two real tokens."""
    return (torch.arange(T) < torch.tensor([[T], [2]]))[:, None, None, :]


def layer_shapes(answer, generator):
    found = layer(answer, generator)(hidden(generator))
    if not isinstance(found, tuple) or len(found) != 2:
        raise Fault(f"forward returns {describe(found)}; expected two results, `return x, weights`.")
    return tuple(found[0].shape), found[1] is None


def nothing_added(answer, generator):
    """Attention and feed-forward network give zeros: what is left are the residuals and the norms."""
    it = layer(answer, generator)
    with torch.no_grad():
        for part in (it.attention.out, it.ffn_out):
            part.weight.zero_(), part.bias.zero_()
    return untouched(it, hidden(generator))[0]


def post_norm(answer, generator):
    return untouched(layer(answer, generator), hidden(generator))[0]


def pre_norm(answer, generator):
    return untouched(layer(answer, generator, norm="pre"), hidden(generator))[0]


def layer_masks(answer, generator):
    it, x = layer(answer, generator), hidden(generator)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    masked, weights = untouched(it, x, last_hidden(), True)
    if weights is None:
        raise Fault("the second result is None, and return_weights was True.")
    return masked, weights, untouched(it, x, causal)[0]


def activation_and_eps(answer, generator):
    x = hidden(generator)
    kinds = [layer(answer, generator, activation=name)(2 * x)[0] for name in ACTIVATIONS]
    return *kinds, layer(answer, generator, eps=0.5)(x)[0], layer(answer, generator, eps=0.5, norm="pre")(x)[0]


def layer_sizes(answer, generator):
    changes = {"width": 10, "heads": 5, "ffn_width": 7}
    return layer(answer, generator, **changes)(hidden(generator, 3, 4, 10))[0]


def layer_gradients(answer, generator):
    it, x = layer(answer, generator), hidden(generator).requires_grad_()
    it(x, last_hidden())[0].square().sum().backward()
    names = ("attention.qkv.weight", "norm1.weight", "ffn_in.weight", "ffn_out.bias", "norm2.bias")
    return x.grad, *gradients(it, names)


def gradients(it, names):
    """Return the gradients of these parameters; Fault if one has none."""
    for name in names:
        if it.get_parameter(name).grad is None:
            raise Fault(f"{name} gets no gradient: is something detached on the way, or computed under no_grad?")
    return [it.get_parameter(name).grad for name in names]


def shown(values):
    """Return the different numbers in a tensor as words."""
    numbers = sorted({round(v, 2) for v in values.flatten().tolist()})
    return ", ".join(f"{v:g}" for v in numbers[:6]) + (", …" if len(numbers) > 6 else "")


def layer_dropout(answer, generator):
    """Fault unless dropout acts on what each half adds and nowhere else, in training, for both orders.

    Whatever goes in, the attention gives 1 and the feed-forward network 10, and a norm adds 1000: what comes out of 100
    shows what was dropped.
    """
    faults = []
    for norm, base in (("pre", 100), ("post", 2100)):
        config = small(norm=norm, dropout=0.2, activation="relu")
        it = with_weights(answer(config), EncoderLayer(small()), generator)
        called = []

        def plus_1000(x, called=called):
            called.append(1)
            return x + 1000

        with torch.no_grad():
            it.attention.out.weight.zero_(), it.attention.out.bias.fill_(1.0)
            it.ffn_in.weight.zero_(), it.ffn_in.bias.fill_(1.0)
            it.ffn_out.weight.fill_(0.5), it.ffn_out.bias.zero_()  # 20 inner features, each 1
            for part in (it.norm1, it.norm2):
                part.weight.fill_(1.0), part.bias.zero_()
                part.forward = plus_1000
        hundreds = torch.full((4, 16, 12), 100.0)
        found = it.eval()(hundreds)[0]
        if not called:  # the norms were written by hand from gain and bias, so they cannot be replaced here
            continue
        if shown(found) != f"{base + 11}":
            faults.append(f"{norm}-norm drops in eval mode too: {shown(found)} in place of {base + 11}")
        found = it.train()(hundreds)[0]
        expected = torch.tensor([base + one + ten for one in (0, 1.25) for ten in (0, 12.5)])
        if shown(found) != shown(expected):
            faults.append(f"{norm}-norm in training: {shown(found)} in place of {shown(expected)}")
    if faults:
        raise Fault(
            "dropout 0.2, x = 100; the attention was made to give 1, the feed-forward network 10, and each norm to add "
            f"1000. {'; '.join(faults)}. What each half adds is dropped or divided by 0.8, and nothing else is."
        )
    it = with_weights(answer(small(norm="pre", dropout=0.5)), EncoderLayer(small()), generator).train()
    with torch.no_grad():  # now each attention gives the sum of its weights, and the feed-forward network nothing
        it.attention.qkv.weight.zero_(), it.attention.qkv.bias.fill_(1.0)
        it.ffn_out.weight.zero_(), it.ffn_out.bias.zero_()
        it.attention.out.weight.copy_(torch.eye(12)), it.attention.out.bias.zero_()
    seen = it(torch.zeros(4, 16, 12))[0]
    if seen[seen > 0].std() <= 0.05:
        raise Fault("the attention drops none of its weights in training.")
    return True


class WrongLayer(EncoderLayer):
    """EncoderLayer with what a learner may write; its switches are the mistakes."""

    order, first, second, middle, shows, masks, dropped = "config", "norm1", "norm2", "gelu", "asked", "used", "branch"
    p = None

    def __init__(self, config):
        super().__init__(config)
        if self.p is not None:
            self.dropout.p = self.p

    def drop(self, x, half):
        if self.dropped == "always":
            return F.dropout(x, self.dropout.p)
        return self.dropout(x) if self.dropped in ("branch", "inside too", half, self.order_now) else x

    def drop_sum(self, x, kind="sum"):
        return self.dropout(x) if self.dropped == kind else x

    def feed_forward(self, x):
        x = self.ffn_in(x)
        x = x if self.middle == "none" else x.relu() if self.middle == "relu" else self.activation(x)
        return self.ffn_out(self.drop_sum(x, "inside too"))

    def forward(self, x, mask=None, return_weights=False):
        def attend(x):
            used = None if mask is None or self.masks == "none" else ~mask if self.masks == "inverted" else mask
            return self.attention(x, used, return_weights or self.shows == "always")

        norm1, norm2, old = getattr(self, self.first), getattr(self, self.second), x
        order = ("pre" if self.pre else "post") if self.order == "config" else self.order
        self.order_now = order + " alone"
        if order in ("first added", "second added", "branch normed", "ffn not normed", "post in the second"):
            return self.half_right(x, attend, order)
        if order == "pre" or (self.pre and order in ("stream normed", "norm at the end", "old x")):
            y = norm1(x)
            attended, weights = attend(y)
            x = self.drop_sum((y if order == "stream normed" else x) + self.drop(attended, "first"))
            y = norm2(old if order == "old x" else x)
            x = self.drop_sum((y if order == "stream normed" else x) + self.drop(self.feed_forward(y), "second"))
            x = norm2(x) if order == "norm at the end" else x
        elif order == "no residual":
            attended, weights = attend(x)
            x = norm2(self.feed_forward(norm1(attended)))
        elif order == "norm of the branch":
            attended, weights = attend(x)
            x = x + norm1(attended)
            x = x + norm2(self.feed_forward(x))
        elif order == "from the start":
            attended, weights = attend(x)
            x = norm2(x + self.feed_forward(norm1(x + attended)))
        else:
            attended, weights = attend(x)
            x = norm1(self.drop_sum(x + self.drop(attended, "first")))
            x = self.drop_sum(x, "after the norm")
            x = norm2(self.drop_sum(x + self.drop(self.feed_forward(old if order == "old x" else x), "second")))
            x = self.drop_sum(x, "after the norm") if self.dropped != "after norm2" else self.dropout(x)
        return x, None if self.shows == "never" else weights

    def half_right(self, x, attend, order):
        """One half or one order is right."""
        if not self.pre:
            attended, weights = attend(x)
            x = self.norm1(attended if order == "second added" else x + self.dropout(attended))
            return self.norm2(x + self.dropout(self.feed_forward(x))), weights
        if order == "branch normed":
            attended, weights = attend(x)
            x = x + self.norm1(attended)
            return x + self.norm2(self.feed_forward(x)), weights
        attended, weights = attend(self.norm1(x))
        x = attended if order == "second added" else x + attended
        if order == "ffn not normed":
            return x + self.feed_forward(x), weights
        if order == "post in the second":
            return self.norm2(x + self.feed_forward(x)), weights
        return (x if order == "second added" else 0) + self.feed_forward(self.norm2(x)), weights


def wrong_layer(**switches):
    return type("EncoderLayer", (WrongLayer,), switches)


def wrong_dropout(kind):
    """Return a layer that is right in pre-norm, and in post-norm drops after both norms or the second."""

    class EncoderLayer(WrongLayer):
        def drop(self, x, half):
            return self.dropout(x) if self.pre or (kind == "after norm2" and half == "first") else x

    EncoderLayer.dropped = kind
    return EncoderLayer


def made(change, base=EncoderLayer):
    """Return a class of modules that are changed right after they were made."""

    def start(self, config):
        base.__init__(self, config)
        change(self, config)

    return type(base.__name__, (base,), {"__init__": start})


def one_norm_for_both(self, config):
    self.norm2 = self.norm1


def torchs_eps(self, config):
    self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)


def always_gelu(self, config):
    self.activation = nn.GELU()


def four_times_as_wide(self, config):
    self.ffn_in, self.ffn_out = nn.Linear(config.width, 4 * config.width), nn.Linear(4 * config.width, config.width)


def one_head(self, config):
    self.attention = MultiHeadAttention(config.width, 1, config.dropout)


def attention_keeps_all(self, config):
    self.attention.dropout = 0.0


class LayerBySteps(nn.Module):
    """Another way: a method for each half, and functions in place of modules."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.attention = MultiHeadAttention(config.width, config.heads, dropout=config.dropout)
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, config.eps) for _ in range(2))
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.ffn_out = nn.Linear(config.ffn_width, config.width)

    def half(self, x, part, norm):
        if self.config.norm == "pre":
            return x + F.dropout(part(norm(x)), self.config.dropout, self.training)
        return norm(x + F.dropout(part(x), self.config.dropout, self.training))

    def forward(self, x, mask=None, return_weights=False):
        seen = []

        def attend(x):
            y, weights = self.attention(x, mask=mask, return_weights=return_weights)
            seen.append(weights)
            return y

        def think(x):
            tanh = self.config.activation == "gelu_tanh"
            x = self.ffn_in(x)
            x = x.relu() if self.config.activation == "relu" else F.gelu(x, approximate="tanh" if tanh else "none")
            return self.ffn_out(x)

        x = self.half(self.half(x, attend, self.norm1), think, self.norm2)
        return x, seen[0]


encoder_layer = Build(
    id="04.3",
    course=EncoderLayer,
    stages=(
        Stage("parts and shapes", layer_shapes),
        Stage("residuals and norms alone", nothing_added),
        Stage("post-norm", post_norm),
        Stage("pre-norm", pre_norm),
        Stage("masks and weights", layer_masks),
        Stage("activation and eps", activation_and_eps),
        Stage("other sizes", layer_sizes),
        Stage("gradients", layer_gradients),
        Stage("dropout", layer_dropout),
    ),
    mistakes=(
        Mistake(
            "4C in place of ffn_width",
            made(four_times_as_wide),
            "the feed-forward network's inner width is 4C. It is `config.ffn_width`, which need not be 4C.",
            "the paper's 4C written as a number",
        ),
        Mistake(
            "no residual",
            wrong_layer(order="no residual"),
            "a residual is missing, in the second half at least: x + attention(x), then x + ffn(x).",
            "section 2 of the lesson",
        ),
        Mistake(
            "pre-norm always",
            wrong_layer(order="pre"),
            'this is pre-norm, and config.norm is "post": BERT normalises the sum, norm(x + f(x)).',
            "https://github.com/harvardnlp/annotated-transformer/issues/1: the text says one and the code the other",
        ),
        Mistake(
            "norm inside",
            wrong_layer(order="norm of the branch"),
            "you normalise what is added, x + norm(f(x)). In BERT the norm is around the sum: norm(x + f(x)).",
            "a third order, read from figure 1 of Vaswani et al. 2017 (Add & Norm)",
        ),
        Mistake(
            "residual from the start",
            wrong_layer(order="from the start"),
            "the second residual adds the layer's input; it must add what came out of the first half.",
            "x not renewed between the two halves",
        ),
        Mistake(
            "one norm twice",
            wrong_layer(second="norm1"),
            "norm1 is used twice. Each half has its own gain and bias: norm2 belongs to the second.",
            "copy and paste of the first half",
        ),
        Mistake(
            "one norm under two names",
            made(one_norm_for_both),
            "norm1 and norm2 are one and the same module, so both halves share a gain and a bias. Make two.",
            "self.norm2 = self.norm1; the state dict has both names",
        ),
        Mistake(
            "no activation function",
            wrong_layer(middle="none"),
            "the activation function between `ffn_in` and `ffn_out` is missing: two linear layers in a row are one.",
            "self.activation made and not called",
        ),
        Mistake(
            "ReLU",
            wrong_layer(middle="relu"),
            "the activation function is ReLU, which is nn.TransformerEncoderLayer's default. `config.activation` says "
            "which one to use.",
            "nn.TransformerEncoderLayer's documented defaults: ReLU and 2048",
        ),
        Mistake(
            "post-norm always",
            wrong_layer(order="post"),
            'config.norm is "pre" here, and yours is still post-norm. Pre-norm is x + f(norm(x)), twice.',
            "the second branch left out",
        ),
        Mistake(
            "no mask",
            wrong_layer(masks="none"),
            "the mask has no effect: pass it on to the attention.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "no weights",
            wrong_layer(shows="never"),
            "with return_weights=True the second result must be the attention's weights, (B, H, T, T).",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "the exact GELU always",
            made(always_gelu),
            "this is the exact GELU whatever `config.activation` says. Look the function up in `ACTIVATIONS`.",
            "one of the three names tried",
        ),
        Mistake(
            "torch's eps",
            made(torchs_eps),
            "the norms have torch's eps, 1e-5. Take `config.eps`: BERT's is 1e-12.",
            "nn.LayerNorm(C) without eps; https://github.com/huggingface/transformers has 1e-12 as BERT's default",
        ),
        Mistake(
            "weights always",
            wrong_layer(shows="always"),
            "without return_weights the second result must be None: pass return_weights on to the attention.",
            "`self.attention(x, mask, True)`; a fresh reader of this lesson",
        ),
        Mistake(
            "the mask inverted",
            wrong_layer(masks="inverted"),
            "the mask is the wrong way round: True means *may be attended to*. Pass it on as it is.",
            "torch's key_padding_mask, where True means padding; a fresh reader of this lesson",
        ),
        Mistake(
            "norms exchanged",
            wrong_layer(first="norm2", second="norm1"),
            "norm1 and norm2 are exchanged: norm1 belongs to the attention's half, norm2 to the other's.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the old x",
            wrong_layer(order="old x"),
            "the feed-forward network reads the layer's input; it must read what came out of the first half.",
            "x not renewed between the two halves; a fresh reader of this lesson",
        ),
        Mistake(
            "the stream normed",
            wrong_layer(order="stream normed"),
            "pre-norm: you add to the *normalised* x, norm(x) + f(norm(x)). The residual takes x as it came in: "
            "x + f(norm(x)).",
            "`x = self.norm1(x)` before the sum; a fresh reader of this lesson",
        ),
        Mistake(
            "a norm at the end",
            wrong_layer(order="norm at the end"),
            "pre-norm: one norm too many, at the end of the layer. Nothing touches the sum; the encoder has one "
            "norm after its last layer.",
            "pre-norm and post-norm mixed; a fresh reader of this lesson",
        ),
        Mistake(
            "no residual in the first half",
            wrong_layer(order="second added"),
            "the residual of the first half is missing: x + attention(x). The second is there.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "no residual in pre-norm's second half",
            wrong_layer(order="first added"),
            "pre-norm: the second half does not add to what came in: x + ffn(norm2(x)).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the branch normed in pre-norm",
            wrong_layer(order="branch normed"),
            "pre-norm: you normalise what comes *out* of each part, x + norm(f(x)). Normalise what goes in: x + "
            "f(norm(x)).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "no norm before the feed-forward network",
            wrong_layer(order="ffn not normed"),
            "pre-norm: the feed-forward network gets x without a norm. Both halves normalise what goes in: x + "
            "ffn(norm2(x)).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "post-norm in the second half",
            wrong_layer(order="post in the second"),
            "pre-norm: the first half is right, and the second is still post-norm. It is x + ffn(norm2(x)), and "
            "nothing touches the sum.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "one head",
            made(one_head),
            "the attention has another number of heads than `config.heads`, one perhaps: MultiHeadAttention(C, "
            "config.heads, config.dropout).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "no dropout",
            wrong_layer(dropped="nothing"),
            "neither half drops anything. In training a proportion `config.dropout` of what each half *adds* becomes "
            "0: x + dropout(f(x)).",
            "self.dropout made and not called",
        ),
        Mistake(
            "dropout in pre-norm alone",
            wrong_layer(dropped="pre alone"),
            "pre-norm drops what it should, and post-norm nothing: norm(x + dropout(f(x))).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "dropout in post-norm alone",
            wrong_layer(dropped="post alone"),
            "post-norm may be right, but in pre-norm nothing is dropped: x + dropout(f(norm(x))).",
            "the second branch forgotten",
        ),
        Mistake(
            "dropout of the attention's half alone",
            wrong_layer(dropped="first"),
            "only what the attention adds is dropped. What the feed-forward network adds must be dropped too.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "dropout of the feed-forward half alone",
            wrong_layer(dropped="second"),
            "only what the feed-forward network adds is dropped. What the attention adds must be dropped too (its own "
            "dropout, inside, is another one: it drops attention weights).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "dropout of the sum",
            wrong_layer(dropped="sum"),
            "dropout acts on the sum, so it also takes away what came in. Drop what is added: x + dropout(f(x)).",
            "Vaswani et al. 2017, section 5.4: to the output of each sub-layer, before it is added",
        ),
        Mistake(
            "dropout after the norm",
            wrong_dropout("after the norm"),
            "post-norm: dropout acts after the norm, on all that the layer passes on. Drop what is added, before it is "
            "added: norm(x + dropout(f(x))).",
            "`self.dropout(self.norm1(x + a))`; a fresh reader of this lesson",
        ),
        Mistake(
            "dropout after the second norm",
            wrong_dropout("after norm2"),
            "post-norm: the first half is right; in the second, dropout acts after the norm. Drop what the "
            "feed-forward network adds: norm2(x + dropout(ffn(x))).",
            "`self.dropout(self.norm2(x + ffn(x)))`; a fresh reader of this lesson",
        ),
        Mistake(
            "dropout inside the feed-forward network too",
            wrong_layer(dropped="inside too"),
            "there is one dropout too many, inside the feed-forward network. nn.TransformerEncoderLayer has it there; "
            "BERT has not.",
            "torch's layer: linear2(dropout(activation(linear1(x)))); a fresh reader of this lesson",
        ),
        Mistake(
            "dropout in eval mode too",
            wrong_layer(dropped="always"),
            "dropout acts in eval mode too: `F.dropout(x, p)` does unless it is told `self.training`. `nn.Dropout` "
            "knows by itself.",
            "F.dropout's default is training=True; a fresh reader of this lesson",
        ),
        Mistake(
            "0.1 always",
            wrong_layer(p=0.1),
            "dropout has the probability 0.1 whatever the configuration says. Take `config.dropout`.",
            "BERT's number written into the code; a fresh reader of this lesson",
        ),
        Mistake(
            "torch's p",
            wrong_layer(p=0.5),
            "dropout has torch's default probability, 0.5: `nn.Dropout(config.dropout)`.",
            "nn.Dropout() without an argument; a fresh reader of this lesson",
        ),
        Mistake(
            "attention without dropout",
            made(attention_keeps_all),
            "the attention has no dropout: it takes config.dropout as its third argument.",
            "MultiHeadAttention(C, H), its default is 0",
        ),
    ),
    hints=(
        "`MultiHeadAttention` returns two things, (output, weights). Keep both.",
        "post: `x = self.norm1(x + self.dropout(attended))`, then the same with the feed-forward network and norm2.",
        "pre: `attended, weights = self.attention(self.norm1(x), mask, return_weights)`, `x = x + "
        "self.dropout(attended)`, then the same with the feed-forward network and norm2.",
        "The feed-forward network is `self.ffn_out(self.activation(self.ffn_in(x)))`.",
    ),
    praise="One class, two kinds of layer: BERT's and GPT-2's.",
    other_ways=(LayerBySteps, wrong_layer()),
)


# --- the second build: Encoder, in three steps ------------------------------------------------------------------------


def encoder_of(answer, generator, **changes):
    """Return the learner's encoder with the course's parts and seeded weights, in eval mode."""
    return filled(answer(small(**changes)), Encoder(small(**changes)), generator).eval()


def filled(it, like, generator):
    """Return the module with random weights; Fault if its layers are in a plain list, where a model finds none."""
    if isinstance(getattr(it, "layers", None), list | tuple):
        raise Fault("`layers` is a plain list, in which a model does not find any parameters: use nn.ModuleList.")
    return with_weights(it, like, generator)


def some_ids(generator, B=2, T=6, V=20, least=2):
    return torch.randint(least, V, (B, T), generator=generator)


def padded_ids(generator, pad_id=0):
    """Three texts of 6, 4 and 1 tokens."""
    ids = some_ids(generator, B=3)
    ids[1, 4:], ids[2, 1:] = pad_id, pad_id
    return ids


def encoder_shapes(answer, generator):
    plain = encoder_of(answer, generator)(some_ids(generator))
    without = encoder_of(answer, generator, positions="none")(some_ids(generator))
    for found in (plain, without):
        if not isinstance(found, torch.Tensor):
            raise Fault(f"without return_inside, forward returns the hidden states alone; yours is {describe(found)}.")
    return tuple(plain.shape), tuple(without.shape)


def at_the_start(answer, generator):
    """Fault unless each weight was drawn as the text says."""
    for std in (0.02, "fan_in", 0.3):
        config = small(vocab_size=200, width=96, ffn_width=64, token_types=40, max_len=40, init_std=std)
        given = {name: t.detach() for name, t in named(answer(config)).items()}
        drawn = [name for name in named(Encoder(config)) if "norm" not in name and not name.endswith("bias")]
        for name, t in given.items():
            if "norm" in name and not torch.equal(t, torch.full_like(t, float(name.endswith("weight")))):
                raise Fault(f"{name} must stay as nn.LayerNorm makes it: gain 1, bias 0.")
        wrong = []
        for name in drawn:
            t, expected = given[name], given[name].shape[-1] ** -0.5 if std == "fan_in" else std
            if abs(t.std() / expected - 1) > 5 / math.sqrt(2 * t.numel()):
                wrong.append(f"that of {name} is {t.std():.1g}; expected {expected:.2g}")
        if wrong:
            which = f"{len(wrong)} of {len(drawn)} weights have another standard deviation"
            raise Fault(f"with init_std={std!r} {which}: {wrong[0]}.")
        for name in drawn:
            if given[name].abs().max() < 2.2 * given[name].std():
                raise Fault(f"{name} is not drawn from a normal distribution: `nn.init.normal_`.")
        if not given["tokens.weight"][config.pad_id].any():
            raise Fault("the row of `tokens` for padding is zero. It is drawn like the others.")
        for name, t in given.items():
            if name.endswith("bias") and "norm" not in name and t.any():
                raise Fault(f"{name} is not zero at the start.")
        first, second = (given[f"layers.{i}.ffn_in.weight"] for i in (0, 1))
        if first.data_ptr() == second.data_ptr():
            raise Fault("layers 0 and 1 are the same module: there is one set of weights for all layers.")
        if torch.equal(first, second):
            raise Fault("layers 0 and 1 start with the same numbers: one is a copy of the other.")
    return True


def embeddings_and_stack(answer, generator):
    ids = some_ids(generator)
    it = encoder_of(answer, generator)
    found = it.embed(ids), untouched(it, ids)
    another_eps = encoder_of(answer, generator, eps=0.5).embed(ids)
    return *found, encoder_of(answer, generator, positions="none")(ids), another_eps


def masks_and_types(answer, generator):
    it, ids = encoder_of(answer, generator, token_types=2), padded_ids(generator)
    real = ids != 0
    types = torch.randint(2, ids.shape, generator=generator)
    among = real[:, None, :] & torch.ones(6, 6, dtype=torch.bool).tril()  # (B, T, T): each token and what is before it
    found = untouched(it, ids, real), untouched(it, ids), untouched(it, ids, among)
    found = [x[real] for x in found]  # what padding itself gives does not matter
    hidden_words = real.clone()
    hidden_words[0, 0], hidden_words[0, 2] = False, False  # a mask of one's own: not what the padding says
    hidden_words[1, 4] = True  # it may even show padding
    another = encoder_of(answer, generator, pad_id=3)
    threes = torch.where(real, ids.clamp(min=4), 3)
    found += [untouched(it, ids, hidden_words)[real], untouched(it, ids, real, types)[real]]
    return *found, it.embed(ids, types), another(threes)[real]


def positions(answer, generator):
    found = []
    for pad_id, offset in ((1, 2), (0, 1)):
        it = encoder_of(answer, generator, pad_id=pad_id, position_offset=offset)
        ids = padded_ids(generator, pad_id)
        found += [untouched(it.position_ids, ids), it(ids)[ids != pad_id]]
    return *found, encoder_of(answer, generator).position_ids(padded_ids(generator))


def pre_norm_encoder(answer, generator):
    it, ids = encoder_of(answer, generator, norm="pre"), some_ids(generator)
    return it.embed(ids), untouched(it, ids), encoder_of(answer, generator, norm="pre", eps=0.5)(ids)


def inside_of(answer, generator):
    found = []
    for norm in ("post", "pre"):
        it, ids = encoder_of(answer, generator, norm=norm), padded_ids(generator)
        x, inside = it(ids, return_inside=True)
        if not isinstance(inside, Inside):
            raise Fault(f"the second result is of type {type(inside).__name__}; expected `Inside(hidden, weights)`.")
        for name, value in inside._asdict().items():
            if not isinstance(value, list | tuple):
                raise Fault(f"`{name}` of Inside is {describe(value)}; expected a list with a tensor for each layer.")
        if any(w is None for w in inside.weights):
            raise Fault("the weights are None: pass return_weights on to each layer.")
        lengths = f"{norm}-norm: {len(inside.hidden)} in hidden, {len(inside.weights)} in weights"
        found += [lengths, x, tuple(inside.hidden), tuple(inside.weights)]
    return tuple(found)


def encoder_sizes(answer, generator):
    changes = {"vocab_size": 31, "width": 10, "layers": 3, "heads": 5, "ffn_width": 7, "max_len": 4, "token_types": 3}
    return encoder_of(answer, generator, **changes)(some_ids(generator, 3, 4, 31))


def encoder_gradients(answer, generator):
    it, ids = encoder_of(answer, generator), padded_ids(generator)
    it(ids)[ids != 0].square().sum().backward()
    names = (
        "tokens.weight",
        "positions.weight",
        "norm.weight",
        "layers.0.attention.out.weight",
        "layers.1.ffn_in.bias",
    )
    found = gradients(it, names)
    ids = some_ids(generator, 64, 9)
    it = filled(answer(small(dropout=0.2, layers=0)), Encoder(small(layers=0)), generator).train()
    embedded, left = (in_words(it.embed(ids)), in_words(it(ids)))  # without layers: the same
    changes = not torch.allclose(it.embed(ids), it.eval().embed(ids))
    if (it.embed(ids) == 0).any():
        raise Fault("embed drops in eval mode too: dropout acts in training only.")
    if (embedded, left) != ("20 %", "20 %"):
        raise Fault(
            f"dropout 0.2, in training: of what embed returns, {embedded} is zero, and of what goes into "
            f"the first layer "
            f"{left}; expected 20 % of both.{' What embed returns is random, though.' if changes else ''}"
        )
    between = dropped_between(answer)
    if between:
        raise Fault(
            f"dropout acts on the whole of {between}. In the encoder, only embed drops; the layers have their own."
        )
    return tuple(found)


class Ones(nn.Module):
    """In place of a layer: it gives ones, and keeps what went in."""

    def __init__(self):
        super().__init__()
        self.seen = None

    def forward(self, x, *arguments, **named_arguments):
        self.seen = x
        return torch.ones_like(x), None


def dropped_between(answer):
    """Return which of two layers' results are dropped by the encoder, in words; "" if none."""
    it = answer(small(dropout=0.2)).train()
    it.layers = nn.ModuleList([Ones(), Ones()])
    x = it(torch.full((8, 9), 5))
    second = it.layers[1].seen
    places = [("what goes into the second layer", second), ("what the last layer returns", x)]
    return " and ".join(name for name, values in places if values is not None and (values == 0).any())


def in_words(x):
    """Return how much of x is zero: the proportion that dropouts of 0.1, 0.2 (once, twice) and 0.5 leave, or so."""
    proportion = (x == 0).double().mean().item()
    known = {"nothing": 0.0, "10 %": 0.1, "20 %": 0.2, "36 %": 0.36, "half": 0.5}
    return next((words for words, p in known.items() if abs(proportion - p) < 0.03), f"{100 * proportion:.0f} %")


class WrongEncoder(Encoder):
    """Encoder with what a learner may write; its switches are the mistakes."""

    count, first_norm, last_norm, look, default, zero_types, kept = "real", "post", "pre", "keys", "real", True, "all"
    drops, types_used, scaled, eps, pair, p = "last", "yes", False, None, False, None
    placed, chained, between = True, "all", False

    def __init__(self, config):
        super().__init__(config)
        if self.eps is not None:
            self.norm = nn.LayerNorm(config.width, self.eps)
        if self.p is not None:
            self.dropout.p = self.p

    def position_ids(self, ids):
        real = ids != self.config.pad_id
        offset = self.config.position_offset
        every = torch.arange(ids.shape[1]).expand(ids.shape)
        if self.count == "from 1":
            return every + max(1, offset)
        if not offset and self.count == "one row":
            return every[0]
        if not offset and self.count == "real from 0":
            return (real.cumsum(1) - 1) * real
        if self.count == "from 0" or (not offset and self.count != "real always"):
            return every
        return {
            "real always": real.cumsum(1) * real + offset - 1,
            "real": real.cumsum(1) * real + offset - 1,
            "one row": real.cumsum(1) * real + offset - 1,
            "real from 0": real.cumsum(1) * real + offset - 1,
            "padding too": every + offset,
            "one too far": torch.where(real, real.cumsum(1) + offset, offset - 1),
            "padding at the last": real.cumsum(1) + offset - 1,
            "padding at zero": (real.cumsum(1) + offset - 1) * real,
            "over the texts": real.cumsum(0) * real + offset - 1,
        }[self.count]

    def embed(self, ids, token_types=None):
        x = self.tokens(ids) * (self.config.width**0.5 if self.scaled else 1)
        if self.first_norm == "tokens" and not self.config.norm == "pre":
            x = self.norm(x)
        if self.config.positions == "learned" and self.placed:
            x = x + self.positions(self.position_ids(ids))
        types = self.config.token_types and self.types_used != "never"
        if types and (token_types is not None or self.zero_types):
            x = x + self.types(torch.zeros_like(ids) if token_types is None else token_types)
        x = self.dropout(x) if self.drops == "before the norm" else x
        if self.first_norm in (self.config.norm, "both"):
            x = self.norm(x)
        return self.dropout(x) if self.drops in ("last", "twice") else x

    def forward(self, ids, mask=None, token_types=None, return_inside=False):
        if (mask is None and self.default == "real") or self.default == "always":
            mask = ids != self.config.pad_id
        elif mask is None and self.default == "not 0":
            mask = ids != 0
        elif mask is None and self.default == "inverted":
            mask = ids == self.config.pad_id
        elif mask is None and self.default == "both":
            mask = ids != self.config.pad_id
        elif self.default == "both":
            mask = mask & (ids != self.config.pad_id if mask.ndim == 2 else (ids != self.config.pad_id)[:, None])
        if mask is not None:
            if self.look == "queries":
                mask = mask[:, None, :, None] if mask.ndim == 2 else mask[:, None]
            elif self.look == "two":
                mask = mask[:, None, None]
            elif self.look == "transposed" and mask.ndim == 3:
                mask = mask.transpose(1, 2)[:, None]
            elif self.look == "first row" and mask.ndim == 3:
                mask = mask[:, None, :1]
            else:
                mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        x = self.embed(ids, token_types if self.types_used == "yes" else None)
        x = self.dropout(x) if self.drops in ("in forward", "twice") else x
        inside = Inside({"no embeddings": [], "not the last": [], "twice": [x, x]}.get(self.kept, [x]), [])
        embedded = x
        for layer in self.layers:
            old = x
            layer = self.layers[0] if self.chained == "first layer" else layer
            x = embedded if self.chained == "embeddings" else x
            x, weights = layer(x, mask if self.look != "none" else None, return_weights=return_inside)
            mask = None if self.look == "first layer" else mask
            x = self.norm(x) if self.between == "norm" else self.dropout(x) if self.between == "dropout" else x
            inside.hidden.append(old if self.kept in ("before the layer", "not the last") else x)
            inside.weights.append(weights)
        if self.last_norm in (self.config.norm, "both"):
            x = self.norm(x)
            if self.kept == "normed":
                inside.hidden[-1] = x
            elif self.kept == "normed too":
                inside.hidden.append(x)
        if self.kept == "exchanged":
            inside = Inside(inside.weights, inside.hidden)
        if self.kept == "tensors" and return_inside:
            inside = Inside(torch.stack(inside.hidden), torch.stack(inside.weights))
        return (x, inside) if return_inside or self.pair else x


def wrong_encoder(**switches):
    return type("Encoder", (WrongEncoder,), switches)


def the_same_layer(self, config):
    self.layers = nn.ModuleList([self.layers[0]] * config.layers)


def copies_of_a_layer(self, config):
    self.layers = nn.ModuleList(copy.deepcopy(self.layers[0]) for _ in range(config.layers))


def torchs_start(self, config):
    for module in self.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.reset_parameters()


def start_with(std):
    def change(self, config):
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)

    return change


def norms_too(self, config):
    for p in self.parameters():
        nn.init.normal_(p, std=1 / math.sqrt(p.shape[-1]) if config.init_std == "fan_in" else config.init_std)


def torchs_biases(self, config):
    for module in self.modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.bias, -bound, bound)


def fan_out(kinds):
    def change(self, config):
        if config.init_std == "fan_in":
            for module in self.modules():
                if isinstance(module, kinds):
                    nn.init.normal_(module.weight, std=module.weight.shape[0] ** -0.5)

    return change


def root_forgotten(self, config):
    if config.init_std == "fan_in":
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=1 / module.weight.shape[1])


def drawn(std, draw=nn.init.normal_):
    """Return a change that draws all weights anew: with std(init_std), or as draw does it, if init_std is a number."""

    def change(self, config):
        if config.init_std != "fan_in":
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    draw(module.weight, std=std(config.init_std))

    return change


def uniform(weight, std):
    nn.init.uniform_(weight, -std, std)


def torchs_embeddings(self, config):
    for module in self.modules():
        if isinstance(module, nn.Embedding):
            module.reset_parameters()


def always_positions(self, config):
    self.positions = nn.Embedding(config.max_len + config.position_offset, config.width)


def always_types(self, config):
    self.types = nn.Embedding(max(2, config.token_types), config.width)


def embeddings_at_002(self, config):
    if config.init_std == "fan_in":
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)


def layers_after_apply(self, config):
    self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))


def padding_at_zero(self, config):
    self.tokens.weight.data[config.pad_id] = 0


def layers_in_a_list(self, config):
    layers = list(self.layers)
    del self.layers
    self.layers = layers


def a_short_table(self, config):
    if config.positions == "learned":
        self.positions = nn.Embedding(config.max_len, config.width)
        self.initialise(self.positions)


class EncoderBySteps(nn.Module):
    """Another way: lists that grow, and parts that are None where the configuration has none."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        rows = config.max_len + config.position_offset
        self.positions = nn.Embedding(rows, config.width) if config.positions == "learned" else None
        self.types = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.norm, self.dropout = nn.LayerNorm(config.width, config.eps), nn.Dropout(config.dropout)
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.layers)])
        for module in self.modules():
            self.initialise(module)

    def initialise(self, module):
        if type(module) in (nn.Linear, nn.Embedding):
            std = self.config.init_std
            std = module.weight.shape[1] ** -0.5 if std == "fan_in" else std
            module.weight.data.normal_(0, std)
        if type(module) is nn.Linear:
            module.bias.data.fill_(0)

    def position_ids(self, ids):
        if self.config.position_offset == 0:
            return torch.arange(ids.shape[1])[None].repeat(len(ids), 1)
        real = (ids != self.config.pad_id).long()
        return torch.where(real.bool(), real.cumsum(1) + self.config.position_offset - 1, self.config.pad_id)

    def embed(self, ids, token_types=None):
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(self.position_ids(ids))
        if self.types is not None:
            x = x + (self.types.weight[0] if token_types is None else self.types(token_types))
        return self.dropout(self.norm(x) if self.config.norm == "post" else x)

    def forward(self, ids, mask=None, token_types=None, return_inside=False):
        mask = (ids != self.config.pad_id) if mask is None else mask
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask[:, None, None]
        hidden, weights = [self.embed(ids, token_types)], []
        for layer in self.layers:
            x, w = layer(hidden[-1], mask, return_inside)
            hidden, weights = [*hidden, x], [*weights, w]
        x = self.norm(hidden[-1]) if self.config.norm == "pre" else hidden[-1]
        return (x, Inside(hidden, weights)) if return_inside else x


encoder = Build(
    id="04.5",
    course=Encoder,
    stages=(
        Stage("step 1 (parts and shapes)", encoder_shapes),
        Stage("step 1 (initialisation)", at_the_start),
        Stage("step 1 (embeddings and stack)", embeddings_and_stack),
        Stage("step 1 (masks and token types)", masks_and_types),
        Stage("step 2 (positions)", positions),
        Stage("step 3 (pre-norm)", pre_norm_encoder),
        Stage("step 3 (inside)", inside_of),
        Stage("other sizes", encoder_sizes),
        Stage("gradients and dropout", encoder_gradients),
    ),
    mistakes=(
        Mistake(
            "layers in a plain list",
            made(layers_in_a_list, Encoder),
            "`layers` is a plain Python list, in which a model does not find the layers: no parameters for the "
            "optimizer, no move to the GPU. Use nn.ModuleList (exercise 04.4).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a position table always",
            made(always_positions, Encoder),
            'there is a table of positions although config.positions is "none". Make it, and add it, only if it is '
            '"learned".',
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a table of types always",
            made(always_types, Encoder),
            "there is a table of types although config.token_types is 0. Make it, and add it, only if it is not 0.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "always a pair",
            wrong_encoder(pair=True),
            "forward returns a pair although return_inside is False. Then it returns the hidden states alone.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the root forgotten",
            made(root_forgotten, Encoder),
            "with init_std of fan_in your standard deviation is 1/(fan in). It is 1/√(fan in): the root is missing.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "embeddings at 0.02",
            made(embeddings_at_002, Encoder),
            "with init_std of fan_in the linear layers are right, but the embeddings are drawn with 0.02. They "
            "too get 1/√(fan in), which is 1/√C.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "apply before the layers",
            made(layers_after_apply, Encoder),
            "the layers have torch's own initialisation: `self.apply` reaches only the parts that exist when it "
            "is called. Make it the last line of __init__.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the padding vector zeroed",
            made(padding_at_zero, Encoder),
            "the vector of padding is set to zero. Here it is drawn like the others: nobody looks at padding anyway.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "tokens times √C",
            wrong_encoder(scaled=True),
            "the token vectors are multiplied by √C, as in Vaswani et al. (2017). BERT adds them as they are.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "eps of its own",
            wrong_encoder(eps=1e-5),
            "`self.norm` has an eps of its own, torch's 1e-5 perhaps. It needs eps=config.eps, as the layers' "
            "norms do.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the mask and the padding",
            wrong_encoder(default="both"),
            "a mask that is given is combined with `ids != pad_id`. Use it as it is: `ids != pad_id` stands for "
            "None only.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "pad_id fixed at 0",
            wrong_encoder(default="not 0"),
            "without a mask you hide the tokens with the id 0. Which id is padding is `config.pad_id`: RoBERTa's is 1.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the mask transposed",
            wrong_encoder(look="transposed"),
            "a mask (B, T, T) is transposed in your code: entry [b, i, j] says whether token i may look at token "
            "j. `mask[:, None]` keeps it so.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the first row of the mask",
            wrong_encoder(look="first row"),
            "of a mask (B, T, T) you use the first row for all tokens. Each token has its own row: `mask[:, None]`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the mask in the first layer",
            wrong_encoder(look="first layer"),
            "the mask reaches the first layer only. Each layer needs it.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "types not handed on",
            wrong_encoder(types_used="in embed"),
            "embed uses token_types, but forward does not hand them on: `self.embed(ids, token_types)`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "types never added",
            wrong_encoder(types_used="never"),
            "`self.types` is made and never used: the vector of a token's type is part of the sum.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "step 1 alone",
            wrong_encoder(count="from 0"),
            "step 1 is right. Step 2 is not written yet: with a position_offset, real tokens are counted from the "
            "offset.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "positions of one row",
            wrong_encoder(count="one row"),
            "with an offset of 0 your position_ids has the shape (T,). The text asks for (B, T), one row for each "
            "text: `.expand(B, T)`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "real tokens from 0",
            wrong_encoder(count="real from 0"),
            "with an offset of 0 padding counts too: 0, 1, 2, … for every text. Only with an offset are real "
            "tokens counted.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "steps 1 and 2 alone",
            wrong_encoder(first_norm="both", last_norm="never"),
            "steps 1 and 2 are right. Step 3 is not written yet: in pre-norm, `self.norm` leaves the embeddings "
            "alone and comes after the last layer.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "stacked",
            wrong_encoder(kept="tensors"),
            "`hidden` and `weights` of Inside are one tensor each. The text asks for lists, with one tensor for "
            "each layer: do not stack them.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the embeddings twice",
            wrong_encoder(kept="twice"),
            "`hidden` begins with the embeddings twice. It has layers + 1 entries: the embeddings once, then each "
            "layer's output.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "appended before the layer",
            wrong_encoder(kept="before the layer"),
            "`hidden` has what goes *into* each layer appended, so the embeddings are there twice and the last "
            "layer's output is missing. Append after the layer.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "dropout before the norm",
            wrong_encoder(drops="before the norm"),
            "the embeddings are dropped before the norm. embed ends with `self.dropout`: after the norm, if there "
            "is one.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "dropout in forward",
            wrong_encoder(drops="in forward"),
            "dropout is in forward and not in embed. embed returns what goes into the first layer, so it ends "
            "with `self.dropout`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "dropout twice",
            wrong_encoder(drops="twice"),
            "the embeddings are dropped twice, in embed and in forward. Once is enough: embed ends with "
            "`self.dropout`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the same layer",
            made(the_same_layer, Encoder),
            "all layers are one and the same module, with one set of weights (exercise 04.4). Make a new one each "
            "time.",
            "https://github.com/espnet/espnet/issues/1278, https://github.com/IDEA-Research/DAB-DETR/pull/17",
        ),
        Mistake(
            "copies of a layer",
            made(copies_of_a_layer, Encoder),
            "the layers start with the same numbers, because they are copies of one. Make each anew, or draw the "
            "weights after copying: `self.apply(self.initialise)` as the last line of __init__.",
            "https://github.com/pytorch/pytorch/issues/86274",
        ),
        Mistake(
            "torch's own start",
            made(torchs_start, Encoder),
            "the weights start as torch makes them: embeddings with a standard deviation of 1, 50 times BERT's. Is "
            "`initialise` applied to every part? `self.apply(self.initialise)`.",
            "initialise written and never called",
        ),
        Mistake(
            "0.02 always",
            made(start_with(0.02), Encoder),
            'the weights are drawn with 0.02 whatever init_std says. "fan_in" asks for 1/√(fan in), and a number is '
            "the standard deviation itself.",
            "BERT's number written into the code",
        ),
        Mistake(
            "0.02 for each number",
            made(drawn(lambda std: 0.02), Encoder),
            'with "fan_in" it is right, and any number draws with 0.02. A number is the standard deviation itself: '
            "take `config.init_std`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "uniform",
            made(drawn(lambda std: std, uniform), Encoder),
            "the weights are not drawn with the standard deviation init_std: they look uniform between -init_std "
            "and init_std, which is smaller by √3. The text asks for a normal distribution: "
            "`nn.init.normal_(weight, std=…)`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the root of init_std",
            made(drawn(math.sqrt), Encoder),
            "you take the root of init_std. It is the standard deviation already, not the variance.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "embeddings not drawn",
            made(torchs_embeddings, Encoder),
            "the embeddings start as torch makes them, with a standard deviation of 1. `initialise` draws "
            "nn.Embedding as well as nn.Linear.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "fan out",
            made(fan_out(nn.Linear | nn.Embedding), Encoder),
            'with "fan_in" you take the number of outputs (of rows, for an embedding). fan in is the last dimension of '
            "`weight`: nn.Linear keeps it as (outputs, inputs).",
            "nn.Linear's weight read as (inputs, outputs)",
        ),
        Mistake(
            "fan out of the linear layers",
            made(fan_out(nn.Linear), Encoder),
            'with "fan_in" the embeddings are right, and for the linear layers you take the number of outputs. fan in '
            "is the number of inputs, `weight.shape[-1]`.",
            "in_features and out_features confused; a fresh reader of this lesson",
        ),
        Mistake(
            "fan in of the rows",
            made(fan_out(nn.Embedding), Encoder),
            'with "fan_in" the linear layers are right, and for the embeddings you take the number of rows. fan in is '
            "the last dimension of `weight` here too, so C.",
            "num_embeddings taken for the inputs; a fresh reader of this lesson",
        ),
        Mistake(
            "norms drawn too",
            made(norms_too, Encoder),
            "the layer norms' gains are drawn at random too. Only nn.Linear and nn.Embedding are.",
            "a loop over self.parameters()",
        ),
        Mistake(
            "biases not zero",
            made(torchs_biases, Encoder),
            "the biases of the linear layers must be zero at the start.",
            "nn.Linear draws them by default",
        ),
        Mistake(
            "no norm of the embeddings",
            wrong_encoder(first_norm="never"),
            "the embeddings' sum is not normalised. BERT does so before the first layer: `self.norm`.",
            "Vaswani et al. 2017 have no such norm; google-research/bert, embedding_postprocessor",
        ),
        Mistake(
            "positions from 1",
            wrong_encoder(count="from 1"),
            "without an offset positions are counted from 0: 0, 1, 2, …",
            "counting from one where the table begins at zero",
        ),
        Mistake(
            "no positions",
            wrong_encoder(placed=False),
            "the positions are not added: two tokens with the same id get the same vector. "
            "`self.positions(self.position_ids(ids))` is part of the sum.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "positions after the norm",
            wrong_encoder(first_norm="tokens"),
            "the positions are added after the norm. BERT normalises the whole sum, at the end.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the first layer always",
            wrong_encoder(chained="first layer"),
            "the first layer is called each time. In the loop, call each layer of self.layers in turn.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "each layer reads the embeddings",
            wrong_encoder(chained="embeddings"),
            "each layer reads the embeddings. It must read what the layer before it returned.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a norm after each layer",
            wrong_encoder(between="norm"),
            "`self.norm` acts after each layer too. The layers have norms of their own; in post-norm it is for the "
            "embeddings only.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "no mask inverted",
            wrong_encoder(default="inverted"),
            "without a mask you hide the real tokens and show padding. True means *may be attended to*: `ids != "
            "pad_id`, not ==.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a norm at the end",
            wrong_encoder(last_norm="both"),
            "there is one norm too many: a post-norm encoder has none after its last layer, which ends with one.",
            "nn.Transformer has it; so have GPT-2 and other pre-norm models",
        ),
        Mistake(
            "the mask is not used",
            wrong_encoder(look="none"),
            "the mask has no effect: pass it on to each layer.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "no mask means none",
            wrong_encoder(default="none"),
            "without a mask, real tokens attend to padding. `mask=None` stands for `ids != config.pad_id`.",
            "BertModel's default is a mask of ones: a classic source of slightly wrong vectors",
        ),
        Mistake(
            "padding in place of the mask",
            wrong_encoder(default="always"),
            "the mask that is passed in is replaced by `ids != pad_id`. That stands for None only: a mask may hide "
            "more than padding, or say who may look at whom.",
            "the default computed and never questioned",
        ),
        Mistake(
            "real tokens counted without an offset",
            wrong_encoder(count="real always"),
            "with an offset of 0 your positions begin at -1: there BERT counts 0, 1, 2, …, padding too. Only with an "
            "offset are real tokens counted.",
            "RoBERTa's formula with BERT's offset",
        ),
        Mistake(
            "the mask hides queries",
            wrong_encoder(look="queries"),
            "your (B, T) mask hides whole rows of the weights, the tokens that look. It must hide what is looked at, "
            "the last dimension: `mask[:, None, None, :]`.",
            "the None in the wrong place",
        ),
        Mistake(
            "a mask of two dimensions only",
            wrong_encoder(look="two"),
            "a mask (B, T, T), who may look at whom, becomes (B, 1, T, T): `mask[:, None]`. Yours works for "
            "(B, T) only.",
            "the second form forgotten",
        ),
        Mistake(
            "no types means none",
            wrong_encoder(zero_types=False),
            "without token_types every token has type 0, whose vector is added too. Leaving it out gives "
            "other numbers.",
            "BERT's token_type_ids default to zeros",
        ),
        Mistake(
            "a table without the offset",
            made(a_short_table, Encoder),
            "the position table needs `max_len + position_offset` rows: the largest position is "
            "max_len + position_offset - 1. (RobertaConfig's 512 rows fit texts of 510 tokens.)",
            "RobertaConfig() has 512 rows: 512 tokens crash",
        ),
        Mistake(
            "padding counted",
            wrong_encoder(count="padding too"),
            "with an offset, padding counts too in your positions. Count real tokens only, and leave padding at "
            "pad_id.",
            "arange + offset",
        ),
        Mistake(
            "one too far",
            wrong_encoder(count="one too far"),
            "the first real token has the position offset + 1; it must be offset. cumsum is 1 there, not 0.",
            "counting from one where the table begins at zero",
        ),
        Mistake(
            "counted over the texts",
            wrong_encoder(count="over the texts"),
            "you count over the texts of the batch: cumsum(0). Positions run along each text: cumsum(1).",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "padding at the last position",
            wrong_encoder(count="padding at the last"),
            "padding has the position of the last real token. It must stay at pad_id, which is offset - 1.",
            "the product with the mask forgotten",
        ),
        Mistake(
            "padding at zero",
            wrong_encoder(count="padding at zero"),
            "padding has the position 0. It must stay at pad_id, which is offset - 1: multiply by the mask before you "
            "add the offset.",
            "the product in the wrong place",
        ),
        Mistake(
            "embeddings normalised in pre-norm too",
            wrong_encoder(first_norm="both"),
            "a pre-norm encoder does not normalise its embeddings: `self.norm` is for the last layer's output there.",
            "one name, two places",
        ),
        Mistake(
            "no norm at the end",
            wrong_encoder(last_norm="never"),
            "a pre-norm encoder's last layer ends with a sum that nothing has normalised: `self.norm` comes after it.",
            "GPT-2's ln_f forgotten",
        ),
        Mistake(
            "inside without the embeddings",
            wrong_encoder(kept="no embeddings"),
            "`hidden` has layers + 1 entries: what goes into the first layer comes first.",
            "Hugging Face's hidden_states has layers + 1 too",
        ),
        Mistake(
            "without the last",
            wrong_encoder(kept="not the last"),
            "`hidden` lacks the last layer's output: you keep what goes into each layer. It has layers + 1 entries; "
            "append once more after the loop.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the normed one too",
            wrong_encoder(kept="normed too"),
            "pre-norm: what `self.norm` gives at the end is appended to `hidden` too. `hidden` ends with the last "
            "layer's own output, before that norm.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "exchanged",
            wrong_encoder(kept="exchanged"),
            "hidden states and weights are exchanged: `Inside(hidden, weights)`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the last one normalised",
            wrong_encoder(kept="normed"),
            "pre-norm: the last entry of `hidden` is the last layer's own output, before `self.norm`.",
            "Hugging Face's GPT-2 stores it after the norm: two conventions",
        ),
        Mistake(
            "no dropout",
            wrong_encoder(drops="never"),
            "the embeddings are not dropped: in training `self.dropout` acts on their sum, after the norm if there is "
            "one.",
            "Vaswani et al. 2017, section 5.4: also to the sums of the embeddings",
        ),
        Mistake(
            "torch's p",
            wrong_encoder(p=0.5),
            "dropout has torch's default probability, 0.5: `nn.Dropout(config.dropout)`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "0.1 always",
            wrong_encoder(p=0.1),
            "dropout has the probability 0.1 whatever the configuration says: `nn.Dropout(config.dropout)`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "dropout after each layer",
            wrong_encoder(between="dropout"),
            "dropout acts on what each layer returns, and so on the residual stream. In the encoder, only embed "
            "drops; the layers have their own.",
            "a fresh reader of this lesson",
        ),
    ),
    hints=(
        "Step 1: `x = self.tokens(ids) + self.positions(self.position_ids(ids))`, `self.dropout(self.norm(x))`, then "
        "each of `self.layers`, `x, weights = layer(x, mask)`.",
        "A mask (B, T) becomes `mask[:, None, None, :]`, a mask (B, T, T) becomes `mask[:, None]`.",
        "`initialise` gets every part of the model, one after the other: `isinstance(module, nn.Linear | "
        "nn.Embedding)` tells which it is; `nn.init.normal_(module.weight, std=…)`.",
        "Step 2: `real.cumsum(1)` counts real tokens, 1, 2, 3, 3, 3; times `real` it is 1, 2, 3, 0, 0.",
        "Step 3: begin with `inside = Inside([x], [])` and append in the loop; `self.norm` at the start or at the end, "
        "as config.norm says.",
    ),
    praise="It is the package's encoder; the package also refuses impossible arguments.",
    other_ways=(EncoderBySteps, wrong_encoder()),
)

reach = Prediction(
    id="04.6",
    right=5,
    mistakes=(
        Mistake(
            "doubling",
            4,
            "four is what doubling gives, and two layers do follow four hops. They can do more: a position knows its "
            "own index too, so it can find the position that points *to it*, and read what lies behind it as well.",
            "the argument by doubling, taken for the limit; the first edition of this lesson",
        ),
        Mistake(
            "a hop a layer",
            3,
            "that is one more hop with each layer: 1 + 2. But layer 2 looks at positions that have already read "
            "something in layer 1, so it gets more than one hop from them.",
            "the common picture of 'one hop a layer'",
        ),
        Mistake(
            "a hop a layer, without one's own",
            2,
            "that is a hop for each layer. But with no layer a position knows f(i) already, which is one hop, and "
            "layer 2 reads from positions that have read already.",
            "the common picture of 'one hop a layer'",
        ),
        Mistake(
            "all of them",
            8,
            "two layers do not follow every pointer: there is a first number of hops at which they fail.",
            "a guess at the largest",
        ),
        Mistake(
            "a doubling too many",
            16,
            "the model is asked for 1 to 8 hops; and no layer at all already knows 1.",
            "the count started at the wrong layer",
        ),
        Mistake(
            "one more",
            6,
            "one too many. After layer 1 a position knows from 1 hop back to 2 ahead. It can find the "
            "one that is 2 + 1 hops "
            "away, and that one knows how many more?",
            "the position that was met counted twice; a fresh reader of this lesson",
        ),
        Mistake(
            "one more than doubling",
            7,
            "that is 1, 3, 7, twice as many and one more with each layer. After layer 1 a position knows two hops "
            "ahead, and one back: count again from there.",
            "2a + 1 in place of 2a + b; a fresh reader of this lesson",
        ),
        Mistake(
            "no hop won",
            1,
            "one hop is what a position knows without any layer: f(i) is its own token. Each layer adds what other "
            "positions know.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the whole stretch",
            10,
            "ten positions is all that a position knows after two layers: those ahead, those behind, and "
            "itself. How many "
            "of them are ahead?",
            "the stretch in both directions; a fresh reader of this lesson",
        ),
        Mistake(
            "powers of three",
            9,
            "what a position knows does triple with each layer, but it is a stretch in both directions, and you count "
            "hops ahead alone.",
            "the powers 1, 3, 9 of the known stretch",
        ),
    ),
    hints=(
        "Without a layer, position i knows two things: i itself and f(i). What can it look for in the others?",
        "After layer 1 a position can know from one hop back to two hops ahead.",
        "It matches what lies farthest ahead of it with what lies farthest back in the other: 2 + 1, and reads what "
        "lies 2 ahead of that one.",
    ),
    praise="2 + 1 + 2: more than the four of doubling.",
)


def size_of(stack):
    """Return how many layers there are, in which kind of list, how many weights, and how many are alike."""
    layers = list(stack)
    weights = [next(layer.parameters()) for layer in layers]
    alike = sum(torch.equal(weights[0], other) for other in weights[1:])
    kind = "nn.ModuleList" if isinstance(stack, nn.ModuleList) else type(stack).__name__
    return len(layers), kind, sum(p.numel() for p in nn.ModuleList(layers).parameters()), alike


def make_linear():
    return nn.Linear(3, 3)


def copied(make_layer, n):
    layer = make_layer()
    stack = []
    for _ in range(n):
        stack.append(make_layer())
        stack[-1].load_state_dict(layer.state_dict())
    return nn.ModuleList(stack)


stack = Exercise(
    id="04.4",
    right=lambda make_layer, n: nn.ModuleList(make_layer() for _ in range(n)),
    inputs=lambda generator: (make_linear, int(torch.randint(3, 6, (), generator=generator))),
    reads=size_of,
    also=lambda generator: (lambda: nn.Linear(2, 5), 2),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda make_layer, n: nn.ModuleList([make_layer()] * n),
            "the bug is still there: [layer] * n is n times the *same* layer, one set of weights. Make a new one each "
            "time.",
            "https://github.com/espnet/espnet/issues/1278, https://github.com/IDEA-Research/DAB-DETR/pull/17",
        ),
        Mistake(
            "copies of one",
            copied,
            "n layers with weights of their own, but all begin with the same numbers: they are copies of one, or the "
            "seed is set anew before each. Call make_layer() for each.",
            "https://github.com/pytorch/pytorch/issues/86274",
        ),
        Mistake(
            "a plain list",
            lambda make_layer, n: [make_layer() for _ in range(n)],
            "n layers of their own, but in a plain Python list, in which a model does not find them: no parameters for "
            "the optimizer, no move to the GPU. Put them into nn.ModuleList.",
            "a fresh reader of this lesson; torch's documentation of nn.ModuleList",
        ),
        Mistake(
            "nn.Sequential",
            lambda make_layer, n: nn.Sequential(*(make_layer() for _ in range(n))),
            "the layers are right, but in an nn.Sequential, which hands on a single result. An encoder "
            "layer returns two "
            "and gets a mask: put them into an nn.ModuleList.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "one too few",
            lambda make_layer, n: nn.ModuleList(make_layer() for _ in range(n - 1)),
            "one layer is missing: count how many times your loop runs.",
            "a range that starts at 1: range(1, n)",
        ),
        Mistake(
            "one too many",
            lambda make_layer, n: nn.ModuleList(make_layer() for _ in range(n + 1)),
            "one layer too many: perhaps one was made before the loop and kept.",
            "a first layer made before a loop of n; a fresh reader of this lesson",
        ),
        Mistake(
            "six always",
            lambda make_layer, n: nn.ModuleList(make_layer() for _ in range(6)),
            "six layers whatever n is. Six was the number in the example; make n.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the function itself",
            lambda make_layer, n: nn.ModuleList([make_layer for _ in range(n)]),
            "your list holds the function make_layer itself, n times. Call it, with brackets: make_layer().",
            "a fresh reader of this lesson",
        ),
    ),
    hints=(
        "What does `[[]] * 3` hold, and what happens when you append to one of the three?",
        "Call make_layer n times.",
    ),
    praise="n layers, n sets of weights.",
    other_ways=(
        lambda make, n: torch.nn.ModuleList([make() for _ in range(n)]),
        lambda make, n: torch.nn.ModuleList().extend(make() for _ in range(n)),
    ),
)
