"""Lesson 13: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import re

import pytest
import torch
from exercises import ALL, edited

from nextbert_lite.checks import lesson_13
from nextbert_lite.checks.core import CheckFailed

LOOP_13, LORA_13 = ("13.2", "by_epochs"), ("13.3", "WithProducts")


B_13, Y_13 = "w.new_zeros(self.out_features, rank))", "y = F.linear(F.linear(x, self.A), self.B)"


ANSWERS_13 = [
    (*LORA_13, "weight can still learn", (("self.weight.requires_grad = False", "pass"),)),
    (*LORA_13, "`merged()` changes the output", (("return layer", "self.alpha = 0\n        return layer"),)),
    (
        *LOOP_13,
        "20 steps for 40 calls",
        (("            model.loss", "            model.loss(**batches(step))\n            model.loss"),),
    ),
    (*LOOP_13, "in step 1 the model is in eval", (("step += 1", "step += 1\n            model.eval()"),)),
    (
        *LOOP_13,
        "ends in training mode",
        (("    model.eval()\n    return", "    if not losses:\n        model.eval()\n    return"),),
    ),
    (
        *LOOP_13,
        "weights after 10 steps; expected those after 4",
        (("                break", "                return losses"),),
    ),
    (*LOOP_13, "what you load is no copy", (("copy.deepcopy(model.state_dict())", "dict(model.state_dict())"),)),
    (*LOOP_13, "those you load only where training stops early", (("    if kept:", "    if step < steps:"),)),
    (
        *LOOP_13,
        "your copy was made after the last",
        (
            (
                "len(losses) - 1, copy.deepcopy(model.state_dict())",
                "len(losses) - 1, None\n            kept = copy.deepcopy(model.state_dict())",
            ),
        ),
    ),
    (
        *LOOP_13,
        "load it into this `model`",
        (
            (
                "        model.load_state_dict(kept)",
                "        model = copy.deepcopy(model)\n        model.load_state_dict(kept)",
            ),
        ),
    ),
    (*LOOP_13, "losses [1.0, 0.99, 9.0], your loop makes 10 steps", (("losses[best] or", "losses[best] - 0.2 or"),)),
    (
        "13.1",
        "freezing_by_loops",
        "returns a copy",
        (("    for parameter", "    model = copy.deepcopy(model)\n    for parameter"),),
    ),
    ("13.1", "freezing_by_loops", "type Sequential", (("return model", "return model.head"),)),
    (
        "13.1",
        "freezing_by_loops",
        "in training mode, the encoder is in training",
        (("(model, True), (model.encoder, False)", "(model.head, True),"),),
    ),
    (
        "13.1",
        "freezing_by_loops",
        "not frozen: `0.weight`, `0.bias`, `1.1.w",
        (("parameters()", "parameters(recurse=False)"),),
    ),
    (*LOOP_13, "gets the dict itself", (("**batches", "batches"),)),
    (*LOOP_13, "is not trained", (("    optimizer = ", "    model = copy.deepcopy(model)\n    optimizer = "),)),
    (*LOOP_13, "takes batch 1; expected `batches(0)`", (("batches(step)", "batches(step + 1)"),)),
    (
        *LOOP_13,
        "in step 0 of 20, with lr = 0.1, the learning rate is 0.1; expected 0.05",
        (("schedule(step,", "schedule(step + 1,"),),
    ),
    (
        *LOOP_13,
        "step 4 has a new optimizer",
        (("        model.train()", "        model.train()\n        optimizer = adamw(model, lr)"),),
    ),
    (*LOOP_13, "not that of `adamw(model, lr)`", (("adamw(model, lr)", "torch.optim.AdamW(model.parameters(), lr)"),)),
    (
        *LOOP_13,
        "norm 1.9 when the optimizer makes its step; expected 1,",
        (("norm_(list(model.parameters()), max_norm=1)", "value_(model.parameters(), 1)"),),
    ),
    (*LOOP_13, "gradients are zero", (("optimizer.step()", "optimizer.zero_grad(), optimizer.step()"),)),
    (*LOOP_13, "where `held_out_loss` is None, your code raised", (("held_out_loss is not None and ", ""),)),
    (*LOOP_13, "gradients are off", (("with torch.no_grad():", "if torch.set_grad_enabled(False):"),)),
    (
        *LOOP_13,
        "more often than there are full epochs",
        (("float(held_out_loss())", "float(held_out_loss() + held_out_loss())"),),
    ),
    (
        *LOOP_13,
        "after [5, 10, 13] steps; expected after [5, 10]",
        (("step % len(batches) == 0", "(step % len(batches) == 0 or step == steps)"),),
    ),
    (
        *LOOP_13,
        "makes 10 steps; expected 13",
        (("while step < steps", "while step < steps // len(batches) * len(batches)"),),
    ),
    (*LOOP_13, "the list holds tensors", (("float(held_out_loss())", "torch.tensor(held_out_loss())"),)),
    (*LOOP_13, "your list is [1.0]", (("return losses", "return losses[:1]"),)),
    (
        *LOOP_13,
        "ends with the weights after 3 steps; expected those after 6",
        (("losses[-1] < losses[best]", "losses[-1] > losses[best]"),),
    ),
    (
        *LORA_13,
        "`in_features` is 4 and",
        (
            ("linear.in_features, linear.out_features", "linear.out_features, linear.in_features"),
            ("empty(rank, self.in_features", "empty(rank, w.shape[1]"),
            ("zeros(self.out_features", "zeros(w.shape[0]"),
        ),
    ),
    (*LORA_13, "works for x of shape (5, 6) and not for", ((Y_13, "y = torch.mm(torch.mm(x, self.A.T), self.B.T)"),)),
    (*LORA_13, "other numbers than", (("self.weight = linear.weight\n", "pass\n"),)),
    (
        *LORA_13,
        "new Parameter around",
        (("self.weight = linear.weight\n", "self.weight = nn.Parameter(linear.weight)\n"),),
    ),
    (
        *LORA_13,
        "the weight is a copy",
        (("self.weight = linear.weight\n", "self.weight = copy.deepcopy(linear.weight)\n"),),
    ),
    (*LORA_13, "A and B cannot learn", ((B_13, f"{B_13}\n        self.requires_grad_(False)"),)),
    (*LORA_13, "neither A nor B starts at zero", (("new_zeros", "new_ones"),)),
    (*LORA_13, "no number of A is negative", (("normal_(self.A, std=self.in_features**-0.5)", "uniform_(self.A)"),)),
    (*LORA_13, "the old layer's output is missing", (("return F.linear(x, self.weight, self.bias) + y", "return y"),)),
    (
        *LORA_13,
        "the bias is in the output 0 times",
        (("F.linear(x, self.weight, self.bias)", "F.linear(x, self.weight)"),),
    ),
    (
        *LORA_13,
        "not in `__init__`",
        ((B_13, f"{B_13}\n        self.BA = self.B @ self.A"), (Y_13, "y = x @ self.BA.T")),
    ),
    (*LORA_13, "multiplied by 3.46", (("y * self.alpha / self.rank", "y * self.alpha / self.rank**0.5"),)),
    (*LORA_13, "in eval mode", (("self.bias) + y", "self.bias) + self.training * y"),)),
    (*LORA_13, "`x` is changed in place", ((Y_13, f"x *= 1.5\n        {Y_13}"),)),
    (*LORA_13, "the merged weight is W -2 · B A", (("self.A) * self.alpha", "self.A) * -self.alpha"),)),
    (
        *LORA_13,
        "the merged layer has no bias, or another",
        (("if self.bias is not None:\n            layer", "if False:\n            layer"),),
    ),
    (*LORA_13, "`merged()` changes B", (("return layer", "self.B.data.zero_()\n        return layer"),)),
    (*LORA_13, "has no bias, it is None", (("if linear.bias is not None:", "if True:"),)),
    (*LORA_13, "has no bias, and your layer has", (("bias=linear.bias is not None", "bias=True"),)),
    ("13.4", "labels_by_sums", "at [SEP]: there is nothing", (("[*found, -100]", "found"),)),
    (
        "13.4",
        "labels_by_sums",
        "expected -100. You return 20 labels for 22 ids",
        (("found = [-100]", "found = []"), ("[*found, -100]", "found")),
    ),
    ("13.4", "labels_by_sums", "the labels come first", (("ids, [*found, -100]", "[*found, -100], ids"),)),
    (
        "13.4",
        "labels_by_sums",
        "one list of whole numbers; there is a tensor",
        (("return ids", "return torch.tensor(ids)"),),
    ),
    (
        "13.4",
        "labels_by_sums",
        "IndexError at a word without any piece",
        (("found += (", "found += word[0] * [] + ("),),
    ),
    (
        "13.6",
        "calibrated_by_search",
        "the validation labels have no influence",
        (("fit_temperature(validation, validation_labels)", "2.0"),),
    ),
    (
        "13.6",
        "calibrated_by_search",
        "the test logits have no influence",
        (("F.softmax(test * (1 / t), dim=1), test_", "F.softmax(validation / t, dim=1), validation_"),),
    ),
    ("13.6", "calibrated_by_search", "returns 2 results", (("return p", "return t, p"),)),
]


@pytest.mark.parametrize(
    "number, name, words, changes", [pytest.param(*row, id=f"lesson{row[0]}-{row[2]}") for row in ANSWERS_13]
)
def test_lesson_13_says_what_is_wrong_where_no_mistake_fits(number, name, words, changes):
    with pytest.raises(CheckFailed, match=re.escape(words)):
        ALL[number](edited(getattr(lesson_13, name), *changes))
    assert torch.is_grad_enabled()


GUESSES_13 = {73: "from 0 to 1", 0.4: "the other class", 0.92: "surer than before", 0.8: "between 0.5 and 0.88"}


@pytest.mark.parametrize("guess, words", GUESSES_13.items(), ids=[f"lesson13.5-{guess}" for guess in GUESSES_13])
def test_lesson_13_says_where_a_probability_can_lie(guess, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["13.5"](guess)
