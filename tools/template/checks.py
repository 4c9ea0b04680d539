"""The checks of lesson NN, TITLE.

REPLACE each exercise by your own, and take this paragraph out. A mistake is one that people really make: `source` says
where it was seen, in a public issue, a documented pitfall or a reader's attempt. All mistakes of an exercise must give
different results on `inputs`, or they are one mistake.
"""

import torch

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    solution,
    untouched,
)

__all__ = ["hint", "largest", "mean_over_real", "mean_with_padding", "mine", "solution"]


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


# --- the build: what the lesson goes on with --------------------------------------------------------------------------


def mean_of_real(vectors, mask):
    """vectors: (B, T, C), mask: (B, T), True at real tokens -> (B, C)"""
    total = (vectors * mask[:, :, None]).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def by_hand(answer, generator):
    """One text without padding: what any mean gives."""
    return untouched(answer, torch.tensor([[[1.0, 6.0], [3.0, 2.0]]]), torch.ones(1, 2, dtype=torch.bool))


def padded(answer, generator):
    return untouched(answer, *vectors_and_mask(generator))


def no_token(answer, generator):
    vectors, mask = vectors_and_mask(generator)
    mask[2] = False
    return untouched(answer, vectors, mask)


def precise(answer, generator):
    vectors, mask = vectors_and_mask(generator)
    return untouched(answer, vectors.double(), mask)


def sizes(answer, generator):
    return untouched(answer, *other_sizes(generator))


mean_over_real = Build(
    id="NN.1",
    course=mean_of_real,
    stages=(
        Stage("a text by hand", by_hand),
        Stage("padding", padded),
        Stage("a text without tokens", no_token),
        Stage("float64", precise),
        Stage(OTHER_SIZES, sizes),
    ),
    mistakes=(
        Mistake(
            "the sum",
            lambda vectors, mask: (vectors * mask[:, :, None]).sum(1),
            "this is the sum. Divide it by the number of real tokens.",
            "REPLACE: where was this mistake seen?",
        ),
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
        Mistake(
            "nothing divided by nothing",
            lambda vectors, mask: (vectors * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True),
            "a text without a real token gives NaN, because 0 is divided by 0. Divide by at least 1.",
            "REPLACE: where was this mistake seen?",
        ),
        Mistake(
            "always float32",
            lambda vectors, mask: mean_of_real(vectors, mask).float(),
            "the result is float32 although the vectors are float64. Keep the dtype of the vectors.",
            "REPLACE: where was this mistake seen?",
        ),
        Mistake(
            "a width of the notebook",
            lambda vectors, mask: mean_of_real(vectors, mask)[:, :6].reshape(len(vectors), 6),
            "the number of features is a number in your code. Take it from the arguments.",
            "REPLACE: where was this mistake seen?",
        ),
    ),
    hints=(
        "What should the vectors at the padding count in the sum?",
        "Multiply by the mask, sum over the tokens, and divide by `mask.sum(1)`, but by 1 at least.",
    ),
    praise="REPLACE: what was right about it, in one sentence.",
    other_ways=(
        lambda vectors, mask: torch.stack(
            [x[m].mean(0) if m.any() else torch.zeros_like(x[0]) for x, m in zip(vectors, mask, strict=True)]
        ),
    ),
)

# --- the other exercises ----------------------------------------------------------------------------------------------

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
