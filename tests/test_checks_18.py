"""Lesson 18: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from exercises import ALL, replaced

import nextbert_lite.checks
from nextbert_lite.checks import lesson_18
from nextbert_lite.checks.core import CheckFailed

GUESSES_18 = {
    2 * 768 * 5: "That is 10 C, where scores and mixing have 40 C² operations. .* they have 24 C²",
    4224: "have 22 C² .*: 6 for .*, 2 for .*, 16 for .* Are the 2 C² of the output missing",
    3840: "three products of 2 C² each: are they counted as one",
    2688: "two matrices, .* is one of them missing, and the output",
    1152: "Are only queries, keys and values counted",
    6 * 1024: "another model's width",
    12 * 4608: "12, stands on one side only",
    4600: "It is too small, and the exact number is whole: .* have 24,576 operations fewer",
    4609: "It is too large, .* have 3,072 operations more than the linear layers",
    100: "It is too small: .* 0.0217 times",
    5000: "It is too large: .* 1.09 times",
    -1: "positive and finite",
}


@pytest.mark.parametrize("guess, words", GUESSES_18.items(), ids=lambda value: f"lesson18.1-{value}")
def test_lesson_18_says_what_is_true_at_any_wrong_length(guess, words):
    with pytest.raises(CheckFailed, match=f"^18.1: {guess} is not it. .*{words}"):
        ALL["18.1"](guess)


@pytest.mark.parametrize("guess", [pytest.param(9216, id="lesson18.1-twice")])
def test_half_of_scores_and_mixing_is_asked_about_both_ways_to_it(guess):
    with pytest.raises(CheckFailed, match=r"12 C, twice .*leave out the mixing.* its addition as one"):
        ALL["18.1"](guess)


def makes_a_model(config, lengths, selected):
    model = nextbert_lite.MaskedLanguageModel(nextbert_lite.Encoder(config))
    found = lesson_18.step_profile(config, lengths, selected)
    return found | {"parameters": sum(p.numel() for p in model.parameters())}


PROFILES_18 = {
    "three things missing": (
        lesson_18.off("parameters", lambda c, ls, n: -3 * c.width * c.layers - c.vocab_size - c.width**2),
        r"\"parameters\" is too small by (?=.*\bC²)(?=.*\bV\b)(?=.*3·C·layers)",
    ),
    "one too many": (
        lesson_18.off("forward", lambda c, ls, n: 4 * n * c.width**2),
        '"forward" is too large by 4·selected·C²',
    ),
    "a head of C / H": (
        lesson_18.off(
            "forward", lambda c, ls, n: 4 * c.layers * sum(T * T for T in ls) * (c.width // c.heads - c.width)
        ),
        '"forward" is too small by .*ΣT²·C·layers',
    ),
    "both": (
        lesson_18.off("activations", lambda c, ls, n: 4 * c.layers * sum(ls) * (c.ffn_width - c.width)),
        '"activations" is too small by 4·tokens·C·layers and too large by 4·tokens·F·layers',
    ),
    "in one kind": (
        lesson_18.off("state", lambda c, ls, n: 16 * c.width * (c.norm == "pre")),
        "other sizes: with norm='pre': \"state\" is too large by 16·C",
    ),
    "a model": (makes_a_model, "a model was made"),
}


@pytest.mark.parametrize("answer, words", PROFILES_18.values(), ids=[f"lesson18.2-{name}" for name in PROFILES_18])
def test_lesson_18_says_what_an_entry_is_off_by(answer, words):
    with pytest.raises(CheckFailed, match=f"^18.2: stage . of 7, .*{words}"):
        ALL["18.2"](answer)


def unpadded(**methods):
    """Return lesson 18's encoder with other methods, as a learner may write them: name=(old, new)."""
    names = {"torch": torch, "F": F, "Base": lesson_18.UnpaddedEncoder}
    lines = [replaced(inspect.getsource(getattr(names["Base"], name)), change) for name, change in methods.items()]
    exec("class Mine(Base):\n" + "\n".join(lines), names)
    return names["Mine"]


LOOP = "[F.scaled_dot_product_attention(*text, dropout_p=dropout) for text in texts], dim=2"


UNPADDED_18 = {
    "rows turned": (dict(pack=("x[mask][None]", "x[mask].flip(0)[None]")), "pack: .*in another order"),
    "a token lost": (dict(pack=("x[mask][None]", "x[mask][1:][None]")), "pack: tokens are lost: the row has 13"),
    "features first": (dict(pack=("x[mask][None]", "x[mask].T[None]")), "pack: features and tokens have changed"),
    "ones": (dict(unpack=("new_zeros", "new_ones")), "unpack: .*at padding there is something else than zeros"),
    "float32": (dict(unpack=("x.new_zeros(", "torch.zeros(")), "unpack: .*`torch.zeros.*is float32"),
    "the row alone": (dict(unpack=("return padded", "return x")), "unpack: `unpack` gives the shape"),
    "another dimension": (dict(attend=(LOOP, LOOP[:-1] + "1")), "attention: .*dim 1 is the heads"),
    "no root": (dict(attend=("dropout_p=dropout", "scale=1.0")), "attention: the scores are not divided by √D"),
    "swapped": (dict(attend=("(q, k, v)), strict", "(k, q, v)), strict")), "queries and keys are swapped"),
    "another order": (
        dict(layer_forward=("*qkv.permute(2, 0, 3, 1, 4)", "*qkv.permute(2, 0, 3, 1, 4).flip(0)")),
        "v, k, q",
    ),
    "no attend": (
        dict(
            layer_forward=(
                "self.attend(*qkv.permute(2, 0, 3, 1, 4), lengths,",
                "(lambda q, k, v, p: v)(*qkv.permute(2, 0, 3, 1, 4),",
            )
        ),
        "`self.attend` is not called",
    ),
    "a grid": (dict(layer_forward=("heads.transpose(1, 2)", "heads.transpose(2, 3)")), "tokens are mixed"),
    "the network of x": (
        dict(
            layer_forward=(
                "layer.norm2(x + layer.dropout(layer.feed_forward(x)))",
                "layer.norm2(layer.feed_forward(x) * 2 + x)",
            )
        ),
        "post-norm: `layer.norm2` gets something else; expected norm1's output",
    ),
    "one layer less": (
        dict(forward=("in self.layers:", "in self.layers[1:]:")),
        "gets another layer than `self.layers.0.`",
    ),
    "unpack left out": (dict(forward=("return self.unpack(x, mask)", "return x")), "`self.unpack` is not called"),
    "torch's own error for an empty batch": (
        dict(forward=("raise ValueError(", "torch.cat([]), (")),
        "raises a ValueError that says .torch.cat",
    ),
    "other lengths": (
        dict(forward=("mask.sum(1).tolist()", "mask.sum(1).flip(0).tolist()")),
        "`layer_forward` gets the lengths",
    ),
}


@pytest.mark.parametrize("methods, words", UNPADDED_18.values(), ids=[f"lesson18.3-{name}" for name in UNPADDED_18])
def test_lesson_18_says_at_which_step_an_encoder_goes_wrong(methods, words):
    with pytest.raises(CheckFailed, match=f"^18.3: stage . of 9, .*{words}"):
        ALL["18.3"](unpadded(**methods))


def quantize_18(divisor=127.0, size="w.abs().amax(1)", last="q.round().to(torch.int8), scale", zero="1.0"):
    """Return a quantize from these pieces of code."""
    names = {"torch": torch}
    exec(
        f"""
def quantize(w):
    scale = {size} / {divisor}
    scale = torch.where(w.abs().amax(1) > 0, scale, torch.full_like(scale, {zero}))
    q = w / scale[:, None]
    return {last}
""",
        names,
    )
    return names["quantize"]


def the_colleagues(w):
    scale = w.abs().amax(1) / 128
    return (w / scale[:, None]).round().to(torch.int32).to(torch.int8), scale


QUANTIZED_18 = {
    "the colleague's own": (the_colleagues, "the largest weight of a row becomes 128"),
    "clamped, the row of zeros left": (
        quantize_18(128, zero="0.0", last="q.round().clamp(-128, 127).nan_to_num().to(torch.int8), scale"),
        "clamping hides",
    ),
    "127.5": (quantize_18(127.5), "127.5, not a whole number"),
    "126": (quantize_18(126), "becomes 126: steps are left over"),
    "255": (
        quantize_18(255, last="q.round().clamp(-127, 127).to(torch.int8), scale"),
        "becomes 255, which int8 does not have",
    ),
    "the size itself": (quantize_18(1), "the scale is the largest size itself"),
    "the mean": (
        quantize_18(size="w.abs().mean(1)", last="q.clamp(-127, 127).round().to(torch.int8), scale"),
        "the scale comes from the mean",
    ),
    "columns": (lambda w: (w.to(torch.int8), w.abs().amax(0) / 127), "one scale for each column"),
    "kept dimension": (quantize_18(last="q.round().to(torch.int8), scale[:, None]"), r"the shape \(rows, 1\)"),
    "steps a unit": (quantize_18(last="q.round().to(torch.int8), 1 / scale"), "that is steps a unit"),
    "floats": (quantize_18(last="q.round(), scale"), "q is torch.float32"),
    "swapped": (quantize_18(last="scale, q.round().to(torch.int8)"), "first q, then the scale"),
    "no abs, unclamped": (quantize_18(size="w.amax(1)"), "Take absolute values first"),
    "a range, unclamped": (quantize_18(255, size="(w.amax(1) - w.amin(1))"), "with a zero point"),
    "1/127 for zeros": (quantize_18(zero="1 / 127"), "the scale 1/127"),
    "divided after rounding": (
        quantize_18(last="(w.round() / scale[:, None]).to(torch.int8), scale"),
        "before they are divided",
    ),
    "an offset": (quantize_18(last="(q.round() + 128).to(torch.uint8), scale"), "q is torch.uint8; .* needs no offset"),
    "weights again": (
        quantize_18(last="q.round() * scale[:, None], scale"),
        "q is torch.float32|q holds the weights again",
    ),
    "a mean": (
        quantize_18(size="w.mean(1).abs()", last="q.clamp(-127, 127).round().to(torch.int8), scale"),
        "the mean of a row",
    ),
    "signs lost": (quantize_18(last="q.abs().round().to(torch.int8), scale"), "signs are lost"),
    "127 up, 128 down": (
        quantize_18(1, size="torch.maximum(w.amax(1) / 127, -w.amin(1) / 128)"),
        "negative it becomes −128. Then −w does not give −q",
    ),
    "no scale below 1": (quantize_18(size="w.abs().amax(1).clamp(min=127.0)"), "no scale is below 1 .a `clamp`"),
    "no size below 1": (quantize_18(size="w.abs().amax(1).clamp(min=1.0)"), "no scale is below 0.00787"),
    "something added": (quantize_18(1, size="w.abs().amax(1) / 127 + 1e-3"), "0.001 is added to each scale"),
    "whole scales": (
        quantize_18(1, size="(w.abs().amax(1) / 127).ceil()"),
        "the scales are whole numbers. .* keeps its digits",
    ),
    "arrays": (
        quantize_18(last="q.round().char().numpy(), scale.numpy()"),
        r"is a NumPy ndarray of shape \(6, 9\) and",
    ),
    "one for a zero": (
        quantize_18(1, size="torch.where((w == 0).any(1), 1.0, w.abs().amax(1) / 127)"),
        "a row with .one. weight of 0 gets the scale 1",
    ),
    "from the mean": (
        quantize_18(
            size="(w - w.mean(1, keepdim=True)).abs().amax(1)", last="q.round().clamp(-127, 127).char(), scale"
        ),
        "the scale comes from the largest distance from the mean",
    ),
    "times the scale": (
        quantize_18(last="(w * scale[:, None]).round().to(torch.int32).to(torch.int8), scale"),
        "q is w · scale",
    ),
    "rounded before 127": (
        quantize_18(last="((q / 127).round() * 127).to(torch.int8), scale"),
        "rounded, and multiplied by 127 after that",
    ),
    "ones for all": (quantize_18(1, size="torch.ones(len(w))"), "every row has the scale 1, .* decides row by row"),
    "the last row forgotten": (
        quantize_18(1, size="torch.cat([w[:-1].abs().amax(1) / 127, torch.ones(1)])"),
        "the last row alone is wrong: .* its scale 1,",
    ),
    "up": (quantize_18(last="q.ceil().clamp(-127, 127).to(torch.int8), scale"), "`ceil` rounds up"),
    "up, unclamped": (quantize_18(last="q.ceil().to(torch.int8), scale"), "`ceil` rounds up"),
    "away": (
        quantize_18(last="(q.sign() * q.abs().ceil()).clamp(-127, 127).to(torch.int8), scale"),
        "you round away from 0",
    ),
    "by chance": (
        quantize_18(last="(q + torch.rand(q.shape)).floor().clamp(-127, 127).to(torch.int8), scale"),
        "another call with the same w gives another result",
    ),
    "128 for q, 127 for the scale": (
        quantize_18(last="(q * 128 / 127).round().clamp(-127, 127).to(torch.int8), scale"),
        "q is w divided by a 128th of the largest size, and the scale is a 127th",
    ),
    "a pair": (quantize_18(size="w.abs().max(1)"), "`max.1.` gives a pair, .* Take `.values`"),
    "no new axis": (quantize_18(last="(w / scale).round().to(torch.int8), scale"), "must match .* `scale.:, None.`"),
    "float32": (
        quantize_18(last="q.round().to(torch.int8), scale.float()"),
        "torch.float64: result 2 of 2: the dtype is torch.float32; expected torch.float64.$",
    ),
    "halves up": (
        quantize_18(last="(q + 0.5).floor().to(torch.int8), scale"),
        "the result is right, but −w does not give −q",
    ),
}


@pytest.mark.parametrize("answer, words", QUANTIZED_18.values(), ids=[f"lesson18.4-{name}" for name in QUANTIZED_18])
def test_lesson_18_says_what_is_wrong_with_whole_numbers_and_scales(answer, words):
    with pytest.raises(CheckFailed, match=f"^18.4: .*{words}"):
        ALL["18.4"](answer)


def test_an_error_in_a_learners_code_ends_with_one_full_stop():
    def fails(config, lengths, selected):
        raise RuntimeError("It ends.")

    with pytest.raises(CheckFailed, match=r"your code raised RuntimeError: It ends\. For a hint"):
        ALL["18.2"](fails)
