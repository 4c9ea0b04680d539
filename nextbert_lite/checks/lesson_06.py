"""The checks of lesson 06, Pretrain a tiny BERT."""

import torch

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution
from nextbert_lite.training.loop import linear_schedule

__all__ = ["better_side", "fill_gap", "hint", "loss_of_all", "schedule", "solution", "without_head"]


# --- 06.1 the right distribution for a gap ----------------------------------------------------------------------------


def frames_and_evidence(generator):
    """Three frames, unequally likely, two seen tokens, five words."""
    prior = torch.tensor([0.6, 0.3, 0.1])[torch.randperm(3, generator=generator)]
    evidence = torch.rand(3, 2, generator=generator) + 0.05
    tables = torch.rand(3, 5, generator=generator)
    return prior, evidence, tables / tables.sum(1, keepdim=True)


def more_evidence(generator):
    prior, evidence, tables = (torch.rand(*size, generator=generator) + 0.05 for size in ((4,), (4, 3), (4, 6)))
    return prior / prior.sum(), evidence, tables / tables.sum(1, keepdim=True)


def right_gap(prior, evidence, tables):
    joint = prior * evidence.prod(1)
    return joint @ tables / joint.sum()


def best_frame_only(prior, evidence, tables):
    return tables[(prior * evidence.prod(1)).argmax()]


def evidence_added(prior, evidence, tables):
    joint = prior * evidence.sum(1)
    return joint @ tables / joint.sum()


fill_gap = Exercise(
    id="06.1",
    right=right_gap,
    inputs=frames_and_evidence,
    also=more_evidence,
    mistakes=(
        Mistake(
            "no prior",
            lambda prior, evidence, tables: right_gap(torch.ones_like(prior), evidence, tables),
            "the prior P(z) is missing: all frames count as equally likely before anything is seen. A frame that is "
            "six times as common needs a sixth of the evidence.",
            "https://github.com/cardmagic/classifier/issues/4 (a Bayes classifier without its prior)",
        ),
        Mistake(
            "no evidence",
            lambda prior, evidence, tables: prior @ tables,
            "the evidence is missing: this is what one would guess without seeing any other word.",
            "https://github.com/LedgerInvesting/bayesblend/pull/34 (prior weights in place of posterior ones)",
        ),
        Mistake(
            "not normalised",
            lambda prior, evidence, tables: prior * evidence.prod(1) @ tables,
            "the numbers do not sum to 1: they are P(gap = w *and* what is seen). Divide by the sum over all frames, "
            "which is P(what is seen).",
            "https://github.com/tskit-dev/tsdate/pull/232, https://github.com/horenbergerb/BernoulliDiffusion/issues/28",
        ),
        Mistake(
            "the best frame only",
            best_frame_only,
            "you take the one likeliest frame and forget the others. The others keep some probability, and the best "
            "prediction is the mixture: sum over all frames.",
            "https://github.com/jolideco/jolideco/issues/10 (the argmax of a mixture in place of the weighted sum)",
        ),
        Mistake(
            "evidence added",
            evidence_added,
            "you add what the tokens say. Given the frame they are independent, so their probabilities multiply: "
            "evidence.prod(1). (Their *logarithms* would be added.)",
            "https://github.com/tmills/uhhmm/issues/8 (evidence comes in by multiplication)",
        ),
    ),
    hints=(
        "How well does a frame explain what is seen? Prior times the product of its row of the evidence: (F,).",
        "`weights = prior * evidence.prod(1)`, then divide by their sum.",
        "Mix the rows of the tables with these weights: `weights @ tables`.",
    ),
    praise="Weigh the frames, mix their tables. The floor is this, for every token.",
    other_ways=(
        lambda p, e, t: ((p.log() + e.log().sum(1)).softmax(0)[:, None] * t).sum(0),
        lambda p, e, t: (w := torch.einsum("f,fv->v", p * e.log().sum(1).exp(), t)) / w.sum(),
    ),
)


# --- 06.2 the learning rate's schedule --------------------------------------------------------------------------------


def run_length(generator):
    warmup = int(torch.randint(3, 8, (), generator=generator))
    return warmup + int(torch.randint(5, 20, (), generator=generator)), warmup


def shares(rule):
    """Return a schedule from the rule of one step."""
    return lambda steps, warmup: [rule(s, steps, warmup) for s in range(steps)]


def from_zero(s, steps, warmup):
    return min(s / max(1, warmup), (steps - s) / max(1, steps - warmup), 1.0)


def never_down(s, steps, warmup):
    return min((s + 1) / max(1, warmup), 1.0)


def never_up(s, steps, warmup):
    return (steps - s) / steps


def with_a_jump(s, steps, warmup):
    return (s + 1) / warmup if s < warmup else (steps - s) / steps


def zero_at_the_end(s, steps, warmup):
    return min((s + 1) / max(1, warmup), (steps - 1 - s) / max(1, steps - 1 - warmup), 1.0)


schedule = Exercise(
    id="06.2",
    right=shares(linear_schedule),
    inputs=run_length,
    also=lambda generator: (6, 0),
    reads=lambda numbers: torch.tensor([float(number) for number in numbers]),
    mistakes=(
        Mistake(
            "from zero",
            shares(from_zero),
            "the first share is 0: a whole step is computed and changes nothing, and the warm-up ends one step late. "
            "Steps count from 0, so the first share is 1 / warmup.",
            "https://github.com/google-research/bert/issues/1293, https://github.com/EleutherAI/gpt-neox/issues/1373",
        ),
        Mistake(
            "never down",
            shares(never_down),
            "the share stays at 1 after the warm-up. It must fall to 0, in a straight line: the last, small steps "
            "average out the noise of the batches.",
            "transformers' documentation: get_constant_schedule_with_warmup stands beside the linear one",
        ),
        Mistake(
            "never up",
            shares(never_up),
            "the warm-up is missing: the first step already has the full rate. Section 5 shows what that can do.",
            "Xiong et al. 2020, arXiv:2002.04745, ask whether warm-up is needed, and find that post-norm needs it",
        ),
        Mistake(
            "a jump",
            shares(with_a_jump),
            "there is a jump where the warm-up ends: your line down starts at the first step of all. It must start "
            "at 1 where the warm-up ends: (steps - s) / (steps - warmup). (Google's BERT has this jump.)",
            "google-research/bert, optimization.py: the decay runs over all steps, the warm-up replaces its beginning",
        ),
        Mistake(
            "zero at the end",
            shares(zero_at_the_end),
            "the last step has the share 0 and does nothing. The line reaches 0 only *after* the last step.",
            "https://github.com/pytorch/torchtitan/pull/1010 (a table of rates that ends with 0.0)",
        ),
    ),
    hints=(
        "Up: at step s = 0, 1, 2, … the share is (s + 1) / warmup.",
        "Down: (steps - s) / (steps - warmup) is 1 where the warm-up ends, and 0 after the last step.",
        "The smaller of the two lines, never more than 1: min(up, down, 1). For warmup = 0 divide by max(1, warmup).",
    ),
    praise="Up in `warmup` steps, down to nothing after the last one: what `fit` does.",
    other_ways=(
        lambda n, w: [(s + 1) / w if s < w else (n - s) / (n - w) for s in range(n)],
        lambda n, w: torch.cat([torch.arange(1, w + 1) / max(1, w), torch.arange(n - w, 0, -1) / (n - w)]),
    ),
)


# --- 06.3 find the bug: a held-out loss that depends on the batch size ------------------------------------------------


def batches_of_losses(generator):
    """Mean losses of batches and their numbers of selected tokens; one batch has none, and so the loss 0."""
    losses = torch.rand(6, generator=generator) + 0.2
    counts = torch.randint(1, 30, (6,), generator=generator)
    losses[4], counts[4] = 0.0, 0
    return losses, counts


def all_tokens(losses, counts):
    return (losses * counts).sum() / counts.sum()


loss_of_all = Exercise(
    id="06.3",
    right=all_tokens,
    inputs=batches_of_losses,
    also=lambda generator: (torch.rand(3, generator=generator), torch.tensor([4, 0, 9])),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda losses, counts: losses.mean(),
            "the bug is still there: a batch with one selected token counts as much as one with thirty, and a batch "
            "without any brings in a loss of 0. Weigh each batch's mean by its number of tokens.",
            "https://github.com/huggingface/transformers/issues/24839, https://github.com/huggingface/transformers/"
            "issues/41898",
        ),
        Mistake(
            "empty batches left out",
            lambda losses, counts: losses[counts > 0].mean(),
            "leaving the empty batches out is half of it. A batch with one selected token still counts as much as one "
            "with thirty.",
            "https://github.com/meta-pytorch/torchtune/pull/1875 (x1/n1 + x2/n2 is not (x1 + x2)/(n1 + n2))",
        ),
        Mistake(
            "divided by the batches",
            lambda losses, counts: (losses * counts).sum() / len(losses),
            "the sum over all tokens is right, but you divide it by the number of batches. Divide by the number of "
            "tokens, counts.sum().",
            "https://github.com/tensorflow/tensorflow/issues/21557 (a loss that is a sum over tokens, or over batches)",
        ),
        Mistake(
            "divided twice",
            lambda losses, counts: losses.sum() / counts.sum(),
            "each loss is a mean already. Multiply it by its count to get that batch's sum before you divide by all.",
            "https://github.com/lucidrains/reformer-pytorch/issues/147 (a loss that is divided again and again)",
        ),
    ),
    hints=(
        "A mean times its count is a sum. What is the sum of the losses of all tokens of all batches?",
        "Divide it by the number of all tokens.",
    ),
    praise="The same number, however the tokens are cut into batches.",
    other_ways=(
        lambda x, n: x @ n.float() / n.sum(),
        lambda x, n: sum(a * b for a, b in zip(x.tolist(), n.tolist(), strict=True)) / int(n.sum()),
    ),
)


# --- 06.4 predict: what one knows -------------------------------------------------------------------------------------

better_side = Prediction(
    id="06.4",
    right=("both", "left", "left, no length"),
    mistakes=(
        Mistake(
            "less is better",
            ("both", "left, no length", "left"),
            "both is lowest, that is right. But the length is something to know: whoever is told it can always forget "
            "it again, so the floor cannot be higher with it than without.",
            "models that read from left to right are the common case; this world's floors are measured in section 8",
        ),
    ),
    hints=(
        "Whoever sees more can't have a higher floor: leaving something unread is always allowed.",
        "What does the length of a sentence tell, if one sees its beginning only?",
        "Of a sentence of eight words one knows before reading on that nothing stands near anybody.",
    ),
    praise="Knowing more never costs: both sides are best, and the length is worth something too.",
)


# --- 06.5 take a head away --------------------------------------------------------------------------------------------


def output_weight(generator):
    H, D = 3, 4
    return torch.randn(H * D, H * D, generator=generator), H, 1 + int(torch.randint(0, 2, (), generator=generator))


def zeroed(part):
    """Return a function that sets a part of a copy of the weight to zero; `part` gives the index."""

    def cut(weight, H, h):
        weight = weight.clone()
        weight[part(len(weight) // H, H, h)] = 0.0
        return weight

    return cut


def keep_only(weight, H, h):
    D = len(weight) // H
    kept = torch.zeros_like(weight)
    kept[:, h * D : (h + 1) * D] = weight[:, h * D : (h + 1) * D]
    return kept


ALL = slice(None)

without_head = Exercise(
    id="06.5",
    right=zeroed(lambda D, H, h: (ALL, slice(h * D, (h + 1) * D))),
    inputs=output_weight,
    also=lambda generator: (torch.randn(10, 10, generator=generator), 2, 0),
    mistakes=(
        Mistake(
            "rows",
            zeroed(lambda D, H, h: slice(h * D, (h + 1) * D)),
            "you zero rows. A weight of nn.Linear is (out, in), and a row is one output feature, which mixes all "
            "heads. What comes from head h enters through the *columns*: weight[:, h * D : (h + 1) * D].",
            "https://github.com/microsoft/nni/issues/5187, https://github.com/huggingface/transformers/issues/850",
        ),
        Mistake(
            "every H-th column",
            zeroed(lambda D, H, h: (ALL, slice(h, None, H))),
            "you take every H-th column, so a bit of each head. The heads lie one after the other, D columns each "
            "(lesson 03): head h has h * D to (h + 1) * D.",
            "https://github.com/pytorch/pytorch/issues/111932 (which features belong to which head?)",
        ),
        Mistake(
            "H in place of D",
            zeroed(lambda D, H, h: (ALL, slice(h * H, (h + 1) * H))),
            "the slices are H wide. A head is D = C / H features wide.",
            "https://github.com/microsoft/fastformers/issues/12 (number of heads and head width mixed up)",
        ),
        Mistake(
            "counted from 1",
            zeroed(lambda D, H, h: (ALL, slice((h - 1) * D, h * D))),
            "you removed the head before it: the titles of our figures count heads from 1, the code from 0.",
            "plots.attention_heads counts from 1 in its titles",
        ),
        Mistake(
            "all but this one",
            keep_only,
            "you kept this head and zeroed the others. (In transformers' head_mask a 1 means *keep*.)",
            "https://github.com/huggingface/transformers/issues/1365 (head_mask: 1 is not masked, 0 is masked)",
        ),
    ),
    hints=(
        "After the heads are joined, features h·D to (h + 1)·D - 1 come from head h, with D = C / H.",
        "`F.linear(x, weight)` multiplies input feature i with column i of the weight.",
        "`weight = weight.clone()`, then set `weight[:, h * D : (h + 1) * D]` to 0.",
    ),
    praise="The other heads do not notice.",
    other_ways=(
        lambda w, H, h: (w.view(len(w), H, -1) * (torch.arange(H) != h)[:, None]).flatten(1),
        lambda w, H, h: torch.cat([torch.zeros_like(c) if i == h else c for i, c in enumerate(w.chunk(H, 1))], 1),
    ),
)
