"""The checks of lesson 04, The encoder."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["gelu", "hint", "layer_norm", "post_norm_layer", "reach", "solution", "stack"]

EPS = 1e-5


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
            "this is the tanh approximation, which Google's BERT used and GPT-2 too. RoBERTa, and BERT in Hugging "
            "Face's library, have the exact one, with erf. The difference is small and adds up over the layers.",
            "the code: tanh in google-research/bert, exact in Hugging Face's BertModel",
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
            "this is Φ(x), the share that is let through. GELU is x · Φ(x).",
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


def layer_parts(generator, B=2, T=3, C=6):
    attention, ffn = nn.Linear(C, C), nn.Linear(C, C)
    norm1, norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
    for module in (attention, ffn, norm1, norm2):
        for p in module.parameters():
            p.data = torch.randn(p.shape, generator=generator)
        module.requires_grad_(False)
    return torch.randn(B, T, C, generator=generator), attention, ffn, norm1, norm2


def right_layer(x, attention, ffn, norm1, norm2):
    x = norm1(x + attention(x))
    return norm2(x + ffn(x))


def pre_norm(x, attention, ffn, norm1, norm2):
    x = x + attention(norm1(x))
    return x + ffn(norm2(x))


def without_residual(x, attention, ffn, norm1, norm2):
    return norm2(ffn(norm1(attention(x))))


def norm_inside(x, attention, ffn, norm1, norm2):
    x = x + norm1(attention(x))
    return x + norm2(ffn(x))


def residual_of_the_input(x, attention, ffn, norm1, norm2):
    return norm2(x + ffn(norm1(x + attention(x))))


def one_norm(x, attention, ffn, norm1, norm2):
    x = norm1(x + attention(x))
    return norm1(x + ffn(x))


post_norm_layer = Exercise(
    id="04.3",
    right=right_layer,
    inputs=layer_parts,
    also=lambda generator: layer_parts(generator, B=4, T=2, C=5),
    mistakes=(
        Mistake(
            "the first sentence only",
            lambda x, attention, ffn, norm1, norm2: norm2((h := norm1(x + attention(x)[0])) + ffn(h)),
            "attention(x)[0]: MultiHeadAttention returns two things, but `attention` is a plain function here, and [0] "
            "takes the first sentence and adds it to all.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "pre-norm",
            pre_norm,
            "this is pre-norm: it normalises what goes *into* attention and feed-forward. BERT normalises the sum: "
            "norm(x + f(x)).",
            "https://github.com/harvardnlp/annotated-transformer/issues/1: the text says one and the code the other",
        ),
        Mistake(
            "no residual",
            without_residual,
            "the residuals are missing: x + attention(x), and x + ffn(x). Without them a deep stack does not learn "
            "(section 6).",
            "section 2 of the lesson",
        ),
        Mistake(
            "norm inside",
            norm_inside,
            "you normalise f(x) alone and then add. In BERT the norm is around the sum: norm(x + f(x)).",
            "a third order, read from figure 1 of Vaswani et al. 2017 (Add & Norm)",
        ),
        Mistake(
            "residual from the start",
            residual_of_the_input,
            "the second residual adds the layer's input; it must add what came out of the first half.",
            "x not renewed between the two halves",
        ),
        Mistake(
            "one norm twice",
            one_norm,
            "norm1 is used twice. Each half has its own gain and bias: norm2 belongs to the second.",
            "copy and paste of the first half",
        ),
    ),
    hints=(
        "Two halves of the same form: x = norm(x + f(x)).",
        "`x = norm1(x + attention(x))`, then the same with ffn.",
    ),
    praise="Add, then norm, twice. That is a BERT layer.",
    other_ways=(lambda x, a, f, n, m: m((h := n(a(x) + x)) + f(h)),),
)

reach = Prediction(
    id="04.4",
    right=8,
    mistakes=(
        Mistake(
            "a hop a layer",
            4,
            "that would be one more hop with each layer: 1 + 3. But layer 2 looks at places that already know where "
            "*they* lead in two hops, so each layer doubles the reach: 1, 2, 4, …",
            "the common picture of 'one hop a layer'",
        ),
        Mistake(
            "a hop a layer, without one's own",
            3,
            "with no layer at all a place knows one hop, its own pointer. And each layer doubles the reach: it does "
            "not add one hop.",
            "the common picture of 'one hop a layer'",
        ),
        Mistake(
            "two a layer",
            7,
            "that adds two hops with each layer: 1 + 6. The reach doubles with each layer.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "two a layer, without one's own",
            6,
            "the reach doubles with each layer, starting from one hop; it does not grow by two.",
            "addition in place of doubling",
        ),
        Mistake(
            "a doubling too many",
            16,
            "no layer at all already knows 1 hop; three doublings of 1.",
            "the count started at the wrong layer",
        ),
    ),
    hints=("How far does a place see before any layer? It holds its own pointer.", "Each layer doubles: 1, 2, 4, …"),
    praise="2 to the power of the number of layers.",
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
    id="04.5",
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
