"""The demonstration: everything from reading to pictures, and Ctrl-C keeps what was trained."""

import dataclasses
import re
import signal
from contextlib import redirect_stdout
from io import StringIO

import pytest

from nextbert_lite.course import demo
from nextbert_lite.training import loop


@pytest.fixture(scope="module")
def shown(docs, tmp_path_factory):
    """Run the demonstration on a tenth of the texts, interrupted as by Ctrl-C at its fifth step."""
    out, text, interrupted = tmp_path_factory.mktemp("demo"), StringIO(), []
    few = dataclasses.replace(docs, train=docs.train[::10], validation=docs.validation[::10])
    original = loop.linear_schedule

    def schedule(step, total, warmup):
        if total > 6 and step == 5 and not interrupted:  # not the trial that measures the speed
            interrupted.append(step)
            signal.raise_signal(signal.SIGINT)
        return original(step, total, warmup)

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(text):
        patch.setattr(demo, "load_docs", lambda: few)
        patch.setattr(loop, "linear_schedule", schedule)
        code = demo.run_demo(out, minutes=0.1, seed=0, device="cpu")
    return out, text.getvalue(), code


def test_ctrl_c_keeps_what_was_trained_and_still_shows_it(shown):
    out, text, code = shown
    assert code == 0
    assert re.search(r"Stopped at step 6 of \d+; the model keeps what it learned", text)
    assert text.count("wanted") == text.count("before") == text.count("after") == 5
    for name in ("loss.png", "attention.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f"wrote {out / name}" in text


def test_the_loss_before_training_is_near_that_of_knowing_nothing(shown):
    before, after = map(float, re.search(r"held-out loss ([\d.]+) -> ([\d.]+)", shown[1]).groups())
    assert 7.6 < before < 8.7  # ln 2048 = 7.62, a little more for random logits
    assert after < before


def test_the_questions_are_held_out_sentences_with_one_gap(shown, docs):
    summaries = {d.summary for d in docs.test}
    lines = [line for line in shown[1].splitlines() if "____" in line]
    wanted = re.findall(r"wanted '(.+)'", shown[1])
    assert len(lines) == len(wanted) == 5
    assert all(line.replace("____", word) in summaries for line, word in zip(lines, wanted, strict=True))
