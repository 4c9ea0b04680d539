"""The checks of lesson NN, TITLE.

REPLACE each exercise by your own, and take this paragraph out. A mistake is one that people really make: `source` says
where it was seen, in a public issue, a documented pitfall or a reader's attempt. All mistakes of an exercise must give
different results on `inputs`, or they are one mistake.
"""

import torch

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["hint", "largest", "mean_of_real", "mean_with_padding", "solution"]


def vectors_and_mask(generator):
    """Return random arguments, drawn so that the mistakes show: one text fills the batch, the others have padding."""
    lengths = torch.tensor([3, 8, 5, 6])
    return torch.randn(4, 8, 6, generator=generator), torch.arange(8) < lengths[:, None]


def other_sizes(generator):
    """Arguments of other sizes: who took a number from the notebook in place of an argument is found out."""
    return torch.randn(2, 5, 3, generator=generator), torch.arange(5) < torch.tensor([[5], [2]])


def negative(arguments):
    vectors, mask = arguments
    return -vectors.abs(), mask


def negative_vectors_and_mask(generator):
    return negative(vectors_and_mask(generator))


mean_of_real = Exercise(
    id="NN.1",
    right=lambda vectors, mask: (vectors * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True),
    inputs=vectors_and_mask,
    also=other_sizes,
    mistakes=(
        Mistake(
            "padding in the mean",
            lambda vectors, mask: vectors.mean(1),
            "this is the mean over all positions, padding and all: a text's vector then depends on the longest text of "
            "its batch. Take the sum over the real tokens and divide by their number.",
            "https://github.com/huggingface/transformers/issues/17463",
        ),
        Mistake(
            "divided by the width",
            lambda vectors, mask: (vectors * mask[:, :, None]).mean(1),
            "the right sum, but divided by the width of the batch. Divide by the number of real tokens, `mask.sum(1)`.",
            "https://github.com/huggingface/sentence-transformers/issues/230 (what is the sum divided by?)",
        ),
    ),
    hints=(
        "What should the vectors at the padding count in the sum?",
        "Multiply by the mask, `vectors * mask[:, :, None]`, sum over the tokens, divide by `mask.sum(1)`.",
    ),
    praise="REPLACE: what was right about it, in one sentence.",
    other_ways=(
        lambda vectors, mask: torch.stack([text[real].mean(0) for text, real in zip(vectors, mask, strict=True)]),
    ),
)

mean_with_padding = Prediction(
    id="NN.2",
    right=2.0,
    mistakes=(
        Mistake(
            "padding left out",
            8.0,
            "this is the mean of the real tokens. Without the mask, the zeros of the padding count as values too.",
            "REPLACE: where was this mistake seen?",
        ),
        Mistake(
            "the sum",
            24.0,
            "this is the sum. The mean divides it by the number of positions.",
            "REPLACE: where was this mistake seen?",
        ),
    ),
    hints=("What is the sum over all 12 positions?", "The sum is 3 times 8. Divide it by 12."),
    praise="REPLACE: what was right about it, in one sentence.",
    tolerance=0.01,
)

largest = Exercise(
    id="NN.3",
    right=lambda vectors, mask: vectors.masked_fill(~mask[:, :, None], -torch.inf).amax(1),
    inputs=negative_vectors_and_mask,
    also=lambda generator: negative(other_sizes(generator)),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda vectors, mask: (vectors * mask[:, :, None]).amax(1),
            "the bug is still there: times the mask, padding becomes 0, and 0 is larger than each value below it. What "
            "should padding be, so that it is never the largest?",
            "sentence-transformers' model cards, on max pooling: 'Set padding tokens to large negative value'",
        ),
        Mistake(
            "no mask",
            lambda vectors, mask: vectors.amax(1),
            "this is the largest value over all positions, padding and all. Only real tokens should be compared.",
            "REPLACE: where was this mistake seen?",
        ),
    ),
    hints=("What does `vectors * mask` put in place of padding?", "`masked_fill(~mask[:, :, None], -torch.inf)`."),
    praise="REPLACE: what was right about it, in one sentence.",
    other_ways=(
        lambda vectors, mask: torch.stack([text[real].amax(0) for text, real in zip(vectors, mask, strict=True)]),
    ),
)
