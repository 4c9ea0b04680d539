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
    return x.grad, *(it.get_parameter(name).grad for name in names)


def layer_dropout(answer, generator):
    """Attention gives 1, the feed-forward network 10, whatever goes in: what comes out of 0 shows what was dropped."""
    it = with_weights(answer(small(norm="pre", dropout=0.5)), EncoderLayer(small()), generator)
    with torch.no_grad():
        for part, value in ((it.attention.out, 1.0), (it.ffn_out, 10.0)):
            part.weight.zero_(), part.bias.fill_(value)
    zeros = torch.zeros(4, 16, 12)
    found = [it.eval()(zeros)[0].unique(), it.train()(zeros)[0].unique()]
    with torch.no_grad():  # now each attention gives the sum of its weights, and the feed-forward network nothing
        it.attention.qkv.weight.zero_(), it.attention.qkv.bias.fill_(1.0), it.ffn_out.bias.zero_()
        it.attention.out.weight.copy_(torch.eye(12)), it.attention.out.bias.zero_()
    seen = it(zeros)[0]
    return *found, bool(seen[seen > 0].std() > 0.05)


class WrongLayer(EncoderLayer):
    """EncoderLayer with what a learner may write; its switches are the mistakes."""

    order, second, middle, shows, masks, dropped = "config", "norm2", "gelu", True, True, "branch"

    def drop(self, x):
        return self.dropout(x) if self.dropped == "branch" else x

    def feed_forward(self, x):
        x = self.ffn_in(x)
        return self.ffn_out(x if self.middle == "none" else x.relu() if self.middle == "relu" else self.activation(x))

    def forward(self, x, mask=None, return_weights=False):
        def attend(x):
            return self.attention(x, mask if self.masks else None, return_weights)

        norm2 = getattr(self, self.second)
        order = ("pre" if self.pre else "post") if self.order == "config" else self.order
        if order == "pre":
            attended, weights = attend(self.norm1(x))
            x = x + self.drop(attended)
            x = x + self.drop(self.feed_forward(norm2(x)))
            x = self.dropout(x) if self.dropped == "sum" else x
        elif order == "no residual":
            attended, weights = attend(x)
            x = norm2(self.feed_forward(self.norm1(attended)))
        elif order == "norm of the branch":
            attended, weights = attend(x)
            x = x + self.norm1(attended)
            x = x + norm2(self.feed_forward(x))
        elif order == "from the start":
            attended, weights = attend(x)
            x = norm2(x + self.feed_forward(self.norm1(x + attended)))
        else:
            attended, weights = attend(x)
            x = self.norm1(x + self.drop(attended))
            x = norm2(x + self.drop(self.feed_forward(x)))
        return x, weights if self.shows else None


def wrong_layer(**switches):
    return type("EncoderLayer", (WrongLayer,), switches)


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
            "the residuals are missing: x + attention(x), and x + ffn(x).",
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
            'config.norm is "pre" here, and this is post-norm: x + f(norm(x)), twice.',
            "the second branch left out",
        ),
        Mistake(
            "no mask",
            wrong_layer(masks=False),
            "the mask has no effect: pass it on to the attention.",
            "an argument accepted and forgotten",
        ),
        Mistake(
            "no weights",
            wrong_layer(shows=False),
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
            "no dropout",
            wrong_layer(dropped="nothing"),
            "in training a proportion `config.dropout` of what each half *adds* becomes 0: x + dropout(f(x)).",
            "self.dropout made and not called",
        ),
        Mistake(
            "dropout of the sum",
            wrong_layer(dropped="sum"),
            "dropout acts on the sum, so it also takes away what came in. Drop what is added: x + dropout(f(x)).",
            "Vaswani et al. 2017, section 5.4: to the output of each sub-layer, before it is added",
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
    return with_weights(answer(small(**changes)), Encoder(small(**changes)), generator).eval()


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
    return tuple(plain.shape), tuple(without.shape)


def at_the_start(answer, generator):
    """Fault unless each weight was drawn as the text says."""
    for std in (0.02, "fan_in", 0.3):
        config = small(vocab_size=200, width=48, ffn_width=64, token_types=40, max_len=40, init_std=std)
        it = answer(config)
        given = {name: t.detach() for name, t in named(it).items()}
        for name, t in given.items():
            if "norm" in name:
                if not torch.equal(t, torch.full_like(t, float(name.endswith("weight")))):
                    raise Fault(f"{name} must stay as nn.LayerNorm makes it: gain 1, bias 0.")
            elif name.endswith("bias"):
                if t.any():
                    raise Fault(f"{name} is not zero at the start.")
            else:
                expected = t.shape[-1] ** -0.5 if std == "fan_in" else std
                if abs(t.std() / expected - 1) > 5 / math.sqrt(2 * t.numel()):
                    raise Fault(
                        f"with init_std={std!r} the standard deviation of {name} is {t.std():.1g}; expected "
                        f"{expected:.2g}."
                    )
                if t.abs().max() < 2.2 * expected:
                    raise Fault(f"{name} is not drawn from a normal distribution: `nn.init.normal_`.")
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
    return *found, encoder_of(answer, generator, positions="none")(ids)


def masks_and_types(answer, generator):
    it, ids = encoder_of(answer, generator, token_types=2), padded_ids(generator)
    real = ids != 0
    types = torch.randint(2, ids.shape, generator=generator)
    among = real[:, None, :] & torch.ones(6, 6, dtype=torch.bool).tril()  # (B, T, T): each token and what is before it
    found = untouched(it, ids, real), untouched(it, ids), untouched(it, ids, among)
    found = [x[real] for x in found]  # what padding itself gives does not matter
    hidden_words = real.clone()
    hidden_words[0, 2] = False  # a mask of one's own: not what the padding says
    return *found, it(ids, hidden_words)[real], untouched(it, ids, real, types)[real]


def positions(answer, generator):
    found = []
    for pad_id, offset in ((1, 2), (0, 1)):
        it = encoder_of(answer, generator, pad_id=pad_id, position_offset=offset)
        ids = padded_ids(generator, pad_id)
        found += [it.position_ids(ids), it(ids)[ids != pad_id]]
    plain = encoder_of(answer, generator).position_ids(padded_ids(generator))
    return *found, plain + torch.zeros(3, 6, dtype=torch.long)  # (T,) would do there


def pre_norm_encoder(answer, generator):
    it, ids = encoder_of(answer, generator, norm="pre"), some_ids(generator)
    return it.embed(ids), untouched(it, ids)


def inside_of(answer, generator):
    found = []
    for norm in ("post", "pre"):
        it, ids = encoder_of(answer, generator, norm=norm), padded_ids(generator)
        x, inside = it(ids, return_inside=True)
        if not isinstance(inside, Inside):
            raise Fault(f"the second result is of type {type(inside).__name__}; expected `Inside(hidden, weights)`.")
        if any(w is None for w in inside.weights):
            raise Fault("the weights are None: pass return_weights on to each layer.")
        found += [len(inside.hidden), len(inside.weights), x, *inside.hidden, *inside.weights]
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
    found = [it.get_parameter(name).grad for name in names]
    it = with_weights(answer(small(dropout=0.5)), Encoder(small()), generator)
    ids = some_ids(generator, 8, 9)
    dropped = (it.train().embed(ids) == 0).double().mean()
    return *found, bool(abs(dropped - 0.5) < 0.1), bool((it.eval().embed(ids) == 0).any())


class WrongEncoder(Encoder):
    """Encoder with what a learner may write; its switches are the mistakes."""

    count, first_norm, last_norm, look, default, zero_types, kept = "real", "post", "pre", "keys", "real", True, "all"
    drops = True

    def position_ids(self, ids):
        real = ids != self.config.pad_id
        offset = self.config.position_offset
        every = torch.arange(ids.shape[1]).expand(ids.shape)
        if self.count == "from 1":
            return every + max(1, offset)
        if not offset and self.count != "real always":
            return every
        return {
            "real always": real.cumsum(1) * real + offset - 1,
            "real": real.cumsum(1) * real + offset - 1,
            "padding too": every + offset,
            "one too far": torch.where(real, real.cumsum(1) + offset, offset - 1),
            "padding at the last": real.cumsum(1) + offset - 1,
            "padding at zero": (real.cumsum(1) + offset - 1) * real,
        }[self.count]

    def embed(self, ids, token_types=None):
        x = self.tokens(ids)
        if self.config.positions == "learned":
            x = x + self.positions(self.position_ids(ids))
        if self.config.token_types and (token_types is not None or self.zero_types):
            x = x + self.types(torch.zeros_like(ids) if token_types is None else token_types)
        if self.first_norm in (self.config.norm, "both"):
            x = self.norm(x)
        return self.dropout(x) if self.drops else x

    def forward(self, ids, mask=None, token_types=None, return_inside=False):
        if (mask is None and self.default == "real") or self.default == "always":
            mask = ids != self.config.pad_id
        if mask is not None:
            if self.look == "queries":
                mask = mask[:, None, :, None] if mask.ndim == 2 else mask[:, None]
            elif self.look == "two":
                mask = mask[:, None, None]
            else:
                mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        x = self.embed(ids, token_types)
        inside = Inside([] if self.kept == "no embeddings" else [x], [])
        for layer in self.layers:
            x, weights = layer(x, mask if self.look != "none" else None, return_weights=return_inside)
            inside.hidden.append(x)
            inside.weights.append(weights)
        if self.last_norm in (self.config.norm, "both"):
            x = self.norm(x)
            if self.kept == "normed":
                inside.hidden[-1] = x
        return (x, inside) if return_inside else x


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


def fan_out(self, config):
    if config.init_std == "fan_in":
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=module.weight.shape[0] ** -0.5)


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
            "fan out",
            made(fan_out, Encoder),
            'with "fan_in" you take the number of outputs (of rows, for an embedding). fan in is the last dimension of '
            "`weight`: nn.Linear keeps it as (outputs, inputs).",
            "nn.Linear's weight read as (inputs, outputs)",
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
            "the last one normalised",
            wrong_encoder(kept="normed"),
            "pre-norm: the last entry of `hidden` is the last layer's own output, before `self.norm`.",
            "Hugging Face's GPT-2 stores it after the norm: two conventions",
        ),
        Mistake(
            "no dropout",
            wrong_encoder(drops=False),
            "the embeddings are not dropped: in training `self.dropout` acts on their sum, after the norm if there is "
            "one.",
            "Vaswani et al. 2017, section 5.4: also to the sums of the embeddings",
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
            "with no layer at all a position knows one hop, its own pointer. And layer 2 reads from positions "
            "that have read already.",
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
    """Return how many layers there are, whether a model would find their weights, how many weights, how many alike."""
    layers = list(stack)
    weights = [next(layer.parameters()) for layer in layers]
    alike = sum(torch.equal(weights[0], other) for other in weights[1:])
    return len(layers), isinstance(stack, nn.Module), sum(p.numel() for p in nn.ModuleList(layers).parameters()), alike


def make_linear():
    return nn.Linear(3, 3)


def copied(make_layer, n):
    layer = make_layer()
    stack = []
    for _ in range(n):
        stack.append(make_layer())
        stack[-1].load_state_dict(layer.state_dict())
    return stack


stack = Exercise(
    id="04.4",
    right=lambda make_layer, n: nn.ModuleList(make_layer() for _ in range(n)),
    inputs=lambda generator: (make_linear, int(torch.randint(3, 7, (), generator=generator))),
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
            "n layers with weights of their own, but all start with the same numbers, because they are copies. Call "
            "make_layer() for each.",
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
            "one too few",
            lambda make_layer, n: nn.ModuleList(make_layer() for _ in range(n - 1)),
            "one layer is missing: count how many times your loop runs.",
            "a range that starts at 1: range(1, n)",
        ),
    ),
    hints=(
        "What does `[[]] * 3` hold, and what happens when you append to one of the three?",
        "Call make_layer n times.",
    ),
    praise="n layers, n sets of weights.",
    other_ways=(
        lambda make, n: torch.nn.ModuleList([make() for _ in range(n)]),
        lambda make, n: torch.nn.Sequential(*(make() for _ in range(n))),
    ),
)
