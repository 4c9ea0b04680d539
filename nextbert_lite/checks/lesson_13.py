"""The checks of lesson 13, Fine-tuning."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution
from nextbert_lite.use.finetuning import calibration_error as package_error
from nextbert_lite.use.finetuning import fit_temperature

__all__ = ["calibrated", "hint", "mean_gap", "solution", "start_training", "temperature_of_two", "token_loss"]

# --- 13.1 freeze ------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """An encoder with dropout inside, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4)))
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))


def a_model(generator):
    return (Small().eval(),)


def state_of(model):
    """Return, for encoder and head: are all its parts in training mode, is any; is all of it to be trained, is any."""
    if not isinstance(model, Small):
        return torch.tensor([False])  # not the model
    rows = []
    for part in (model.encoder, model.head):
        modes = [m.training for m in part.modules()]
        wanted = [p.requires_grad for p in part.parameters()]
        rows += [all(modes), any(modes), all(wanted), any(wanted)]
    return torch.tensor(rows)


def starts(train=True, encoder_eval=True, freeze="encoder", last_train=False, head_train=False):
    """Return a right or wrong `start_training`."""

    def start(model):
        model.train(train)
        if head_train:
            model.head.train()
        if freeze == "encoder":
            model.encoder.requires_grad_(False)
        elif freeze == "all":
            model.requires_grad_(False)
        if encoder_eval:
            model.encoder.eval()
        if last_train:
            model.train()
        return model

    return start


def freezing_by_loops(model):
    for parameter in model.encoder.parameters():
        parameter.requires_grad = False
    for part, mode in ((model, True), (model.encoder, False)):
        part.train(mode)
    return model


start_training = Exercise(
    id="13.1",
    right=starts(),
    inputs=a_model,
    reads=state_of,
    mistakes=(
        Mistake(
            "dropout left on",
            starts(encoder_eval=False),
            "the encoder's weights are frozen, but it is in training mode: its dropout is on, and the same text gets "
            "another vector each time. `model.encoder.eval()`, after `model.train()`, turns that off.",
            "https://github.com/nickgkan/butd_detr/issues/8",
        ),
        Mistake(
            "eval taken for frozen",
            starts(freeze=None),
            "the encoder is in eval mode, but its weights still get a gradient: eval() turns dropout off and freezes "
            "nothing. `requires_grad_(False)` freezes.",
            "https://github.com/alexrich021/3dvnet/issues/11",
        ),
        Mistake(
            "the head frozen too",
            starts(freeze="all"),
            "nothing is left to train: `requires_grad_(False)` on the whole model froze the head as well.",
            "https://github.com/pytorch/pytorch/issues/8582 (freezing a part of a model)",
        ),
        Mistake(
            "all in eval mode",
            starts(train=False),
            "the head is in eval mode, so its own dropout is off while it learns. First `model.train()`, then the "
            "encoder alone into eval mode.",
            "https://github.com/pytorch/audio/issues/1995 (which part is to be in which mode)",
        ),
        Mistake(
            "nothing frozen",
            starts(freeze=None, encoder_eval=False),
            "that is fine-tuning: the encoder is in training mode and its weights get a gradient.",
            "https://github.com/ialhashim/DenseDepth/issues/89",
        ),
    ),
    hints=(
        "Two different things: no gradient into the weights, and no dropout. Each has its own call.",
        "`model.train()` first; it sets all parts to training mode, the encoder too.",
        "`model.train(); model.encoder.requires_grad_(False); model.encoder.eval(); return model`",
    ),
    praise="No gradient and no dropout in the encoder, both in the head.",
    other_ways=(freezing_by_loops,),
)

# --- 13.2 the loss of a token classifier ------------------------------------------------------------------------------


def token_logits(generator):
    logits = 2 * torch.randn(3, 6, 4, generator=generator)
    labels = torch.randint(4, (3, 6), generator=generator)
    labels[:, 0] = -100
    labels[0, 5], labels[1, 3:], labels[2, 4:] = -100, -100, -100
    return logits, labels


def no_padding(generator):
    logits, labels = token_logits(generator)
    return logits[:2, :, :3], labels[:2].clamp(min=0, max=2)


def token_loss_right(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def padding_as_class_0(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten())


def softmax_before(logits, labels):
    return token_loss_right(logits.softmax(-1), labels)


def over_all_places(logits, labels):
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    return total / labels.numel()


def mean_of_texts(logits, labels):
    return torch.stack([F.cross_entropy(row, label) for row, label in zip(logits, labels, strict=True)]).mean()


def classes_and_tokens_mixed(logits, labels):
    B, T, K = logits.shape
    return F.cross_entropy(logits.reshape(B, K, T), labels)


token_loss = Exercise(
    id="13.2",
    right=token_loss_right,
    inputs=token_logits,
    also=no_padding,
    mistakes=(
        Mistake(
            "padding counted",
            padding_as_class_0,
            "tokens without a label are counted as class 0: the model is praised for calling padding a class, and the "
            "longer the padding the better the loss looks. Leave out where the label is -100.",
            "https://github.com/kaiyinzhou/BERT-NER/issues/3",
        ),
        Mistake(
            "softmax before the loss",
            softmax_before,
            "`F.cross_entropy` takes logits and has a softmax inside. With a softmax before it the loss cannot get "
            "near 0: even a perfect answer has probabilities 1 and 0, and e^1 against e^0 is not much.",
            "https://github.com/lansinuote/Huggingface_Toturials/issues/6",
        ),
        Mistake(
            "both at once",
            lambda logits, labels: padding_as_class_0(logits.softmax(-1), labels),
            "two things: a softmax before `F.cross_entropy`, which has its own, and tokens without a label counted as "
            "class 0.",
            "https://github.com/kaiyinzhou/BERT-NER/issues/3 and https://github.com/ariecattan/SciCo/issues/2",
        ),
        Mistake(
            "divided by all places",
            over_all_places,
            "the sum is right, but you divide by all places, padding too: the more padding, the smaller the loss. "
            "Divide by the number of labelled tokens.",
            "https://github.com/huggingface/transformers/pull/251",
        ),
        Mistake(
            "a mean of means",
            mean_of_texts,
            "you take the mean of each text and then of the texts: a token of a short text counts more than one of a "
            "long text. One mean over all labelled tokens.",
            "https://github.com/huggingface/transformers/issues/24725",
        ),
        Mistake(
            "reshaped, not transposed",
            classes_and_tokens_mixed,
            "`F.cross_entropy` wants the classes in dimension 1, and `reshape` or `view` to (B, K, T) mixes classes "
            "and tokens. Use `logits.transpose(1, 2)`, or flatten to (B·T, K).",
            "https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html (the shape of the input)",
        ),
    ),
    hints=(
        "`F.cross_entropy` wants (N, K) and (N,): flatten the batch and the tokens into one dimension.",
        "It leaves out the label -100 by itself, and divides by the number of the others.",
        "`F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)`",
    ),
    praise="Labelled tokens only, each counts the same.",
    other_ways=(
        lambda logits, labels: F.cross_entropy(logits.transpose(1, 2), labels),
        lambda logits, labels: F.nll_loss(logits.log_softmax(-1)[labels >= 0], labels[labels >= 0]),
        lambda logits, labels: F.cross_entropy(logits.log_softmax(-1).reshape(-1, logits.shape[-1]), labels.view(-1)),
    ),
)

# --- 13.3 predict: a temperature --------------------------------------------------------------------------------------

temperature_of_two = Prediction(
    id="13.3",
    right=1 / (1 + math.exp(-1)),
    tolerance=0.004,
    mistakes=(
        Mistake(
            "the probability divided",
            1 / (1 + math.exp(-2)) / 2,
            "you divided the probability by 2. Then the two would no longer sum to 1. The *logits* are divided.",
            "https://github.com/gpleiss/temperature_scaling (the README: logits, not probabilities)",
        ),
        Mistake(
            "temperature one",
            1 / (1 + math.exp(-2)),
            "that is the probability before: temperature 1.",
            "softmax without a temperature, section 8",
        ),
        Mistake(
            "multiplied",
            1 / (1 + math.exp(-4)),
            "you multiplied the logits by 2. A temperature above 1 divides: the model gets less sure.",
            "logits times T in place of logits / T, section 8",
        ),
        Mistake(
            "softmax twice",
            1 / (1 + math.exp(-(2 / (1 + math.exp(-2)) - 1) / 2)),
            "you divided the probabilities by 2 and took a softmax of them. There is one softmax, of logits / T.",
            "https://github.com/runame/laplace-redux/pull/1 (softmax applied twice)",
        ),
    ),
    hints=(
        "Divide both logits by the temperature: 1.5 and 0.5.",
        "Only their difference counts: e^1.5 / (e^1.5 + e^0.5) = 1 / (1 + e^−1).",
        "`1 / (1 + math.exp(-1))`",
    ),
    praise="Less sure, and the same answer: the larger logit stays the larger one.",
)

# --- 13.4 expected calibration error ----------------------------------------------------------------------------------


def probabilities_and_labels(generator):
    logits = 2.5 * torch.randn(60, 3, generator=generator)
    labels = torch.where(
        torch.rand(60, generator=generator) < 0.6, logits.argmax(-1), torch.randint(3, (60,), generator=generator)
    )
    p = logits.softmax(-1)
    sure = p.max(-1).values > 0.9
    labels = torch.where(sure & (torch.rand(60, generator=generator) < 0.35), (p.argmax(-1) + 1) % 3, labels)
    return p, labels


def one_sure_and_wrong(generator):
    return torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.05, 0.05]]), torch.tensor([1, 0])


def binned(weight=True, absolute=True, confidence=None, skip_last=False, squared=False):
    """Return a right or wrong `mean_gap`."""

    def gap(probabilities, labels):
        top, guess = probabilities.max(-1)
        sure = top if confidence is None else confidence(probabilities, labels)
        right = (guess == labels).float()
        number = (sure * 10).ceil().clamp(1, 10)
        total, bins = torch.tensor(0.0), 0
        for i in range(1, 10 if skip_last else 11):
            inside = number == i
            if inside.any():
                d = sure[inside].mean() - right[inside].mean()
                d = d.square() if squared else d.abs() if absolute else d
                total, bins = total + d * (inside.float().mean() if weight else 1.0), bins + 1
        return total if weight else total / bins

    return gap


def of_the_right_class(probabilities, labels):
    return probabilities.gather(1, labels[:, None])[:, 0]


def mean_gap_by_bincount(probabilities, labels):
    top, guess = probabilities.max(-1)
    number = torch.bucketize(top, torch.arange(1, 10) / 10)
    gap = torch.bincount(number, top - (guess == labels).float(), minlength=10)
    return gap.abs().sum() / len(labels)


mean_gap = Exercise(
    id="13.4",
    right=binned(),
    inputs=probabilities_and_labels,
    also=one_sure_and_wrong,
    reads=lambda value: torch.as_tensor(value).float(),
    mistakes=(
        Mistake(
            "bins not weighted",
            binned(weight=False),
            "each bin counts the same here, however few texts it holds. Weigh a bin with its share of the texts.",
            "https://github.com/ethen8181/machine-learning/issues/20",
        ),
        Mistake(
            "gaps cancel",
            binned(absolute=False),
            "a bin that is too sure and one that is not sure enough cancel each other. Take the absolute value of each "
            "bin's gap before you add.",
            "https://github.com/mead-ml/mead-baseline/pull/484 (the absolute difference of each bin)",
        ),
        Mistake(
            "the probability of the right class",
            binned(confidence=of_the_right_class),
            "you took the probability of the *right* class. Confidence is the largest probability, that of the answer "
            "that the model gives, right or wrong.",
            "https://github.com/EFS-OpenSource/calibration-framework/issues/25",
        ),
        Mistake(
            "the last bin left out",
            binned(skip_last=True),
            "the last bin, from 0.9 to 1, is missing: the answers that the model is most sure of.",
            "https://github.com/texttron/BrowseComp-Plus/pull/18",
        ),
        Mistake(
            "squared",
            binned(squared=True),
            "you squared the gaps. That is another measure; here it is the absolute value.",
            "https://github.com/torchgeo/torchgeo-bench/pull/105 (two measures, L1 and L2)",
        ),
    ),
    hints=(
        "`confidence, guess = probabilities.max(-1)`; whether it is right: `guess == labels`.",
        "The number of a text's bin, 1 to 10: `(confidence * 10).ceil()`. Go through the bins; skip an empty one.",
        "In a bin: `(confidence[inside].mean() - right[inside].mean()).abs() * inside.float().mean()`; add these up.",
    ),
    praise="Each bin's gap, weighed with its share of the texts.",
    other_ways=(
        mean_gap_by_bincount,
        lambda p, y: package_error(p, y, bins=10),
    ),
)

# --- 13.5 find the bug: a temperature from the test -------------------------------------------------------------------


def two_sets(generator):
    sets = []
    for scale in (5.0, 3.0):
        logits = scale * torch.randn(80, 3, generator=generator)
        noisy = logits / scale + 0.8 * torch.randn(80, 3, generator=generator)
        sets += [logits, noisy.argmax(-1)]
    return tuple(sets)


def small_test(generator):
    validation, labels, test, test_labels = two_sets(generator)
    return validation, labels, test[:1], test_labels[:1]


def calibrating(fitted_on="validation", divide="logits", power=1):
    """Return a right or wrong `calibrated`."""

    def error(validation, validation_labels, test, test_labels):
        both = torch.cat([validation, test]), torch.cat([validation_labels, test_labels])
        sets = {"validation": (validation, validation_labels), "test": (test, test_labels), "both": both}
        t = fit_temperature(*sets[fitted_on]) ** power
        p = (test / t).softmax(-1) if divide == "logits" else (test.softmax(-1) / t).softmax(-1)
        return package_error(p, test_labels)

    return error


def calibrated_by_search(validation, validation_labels, test, test_labels):
    t = fit_temperature(validation, validation_labels)
    return package_error(F.softmax(test * (1 / t), dim=1), test_labels)


calibrated = Exercise(
    id="13.5",
    right=calibrating(),
    inputs=two_sets,
    also=small_test,
    reads=lambda value: torch.as_tensor(value).float(),
    mistakes=(
        Mistake(
            "the bugs as they were",
            calibrating("test", "probabilities"),
            "both bugs are still there. Which entries may choose the temperature, if the test entries are to judge it? "
            "And what does a temperature divide?",
            "https://github.com/gpleiss/temperature_scaling/issues/37 and https://github.com/runame/laplace-redux/pull/1",
        ),
        Mistake(
            "fitted on the test",
            calibrating("test"),
            "the temperature is still chosen on the test entries, and on them it looks better than it is. Choose it on "
            "the validation entries.",
            "https://github.com/gpleiss/temperature_scaling/issues/37 (which set may choose T)",
        ),
        Mistake(
            "softmax twice",
            calibrating("validation", "probabilities"),
            "the right entries, but you divide probabilities, and a second softmax flattens them. Divide the logits, "
            "then take one softmax.",
            "https://github.com/runame/laplace-redux/pull/1",
        ),
        Mistake(
            "both sets together",
            calibrating("both"),
            "validation and test entries together chose the temperature. The test entries must have no part in it.",
            "https://github.com/gpleiss/temperature_scaling/issues/37",
        ),
        Mistake(
            "multiplied",
            calibrating("validation", "logits", -1),
            "you multiply the logits by the temperature. `fit_temperature` returns what to *divide* by.",
            "logits times T in place of logits / T, section 8",
        ),
    ),
    hints=(
        "Where do the two arguments of `fit_temperature` come from? They judge as well.",
        "softmax(logits / T), once.",
        "`t = fit_temperature(validation, validation_labels)`, then `(test / t).softmax(-1)`.",
    ),
    praise="Chosen on validation, judged on the test.",
    other_ways=(calibrated_by_search,),
)
