"""Lesson 22: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import numpy as np
import pytest
import torch
from exercises import ALL

from nextbert_lite.checks import core, lesson_22
from nextbert_lite.checks.core import CheckFailed

NEARLY_22 = [pytest.param(*pair, id=f"lesson22.1-{pair[0]}") for pair in lesson_22.NEARLY_RIGHT]


@pytest.mark.parametrize("switches, sentence", NEARLY_22)
def test_lesson22_names_what_is_nearly_a_rank_correlation(switches, sentence):
    with pytest.raises(CheckFailed) as failure:
        ALL["22.1"](lesson_22.wrong_scorer(**switches))
    assert sentence in str(failure.value)


def scored_22(change=None, hit=None):
    """The right scorer, of which the arguments, the results or the hit of one text are changed."""

    def score(scores, truth, words):
        found = lesson_22.score_explanation(scores, truth, words)
        for i in range(len(scores)) if hit else ():
            if not found[1][i].isnan():
                found[1][i] = hit(scores[i].abs(), truth[i], words[i])
        return found if change is None else change(scores, truth, words, *found)

    return score


def in_place_22(scores, truth, words, *found):
    truth[~words] = 0
    return found


def tops_22(s, t, w):
    return s[w] == s[w].max(), t[w] == t[w].max()


SCORES_22 = {
    "in place": (scored_22(in_place_22), "`truth` is changed in place"),
    "float32": (lambda s, t, w: lesson_22.score_explanation(s.float(), t, w), "nearly equal are taken for equal"),
    "a hit of all": (
        scored_22(hit=lambda s, t, w: t[w][s[w] == s[w].max()].eq(t.max()).double().mean()),
        "a hit is not",
    ),
    "sets": (
        scored_22(hit=lambda *x: (lambda a, b: (a & b).sum() / (a | b).sum())(*tops_22(*x))),
        r"are \[1, 2, 3\], with",
    ),
    "drawn": (scored_22(lambda s, t, w, c, h: (c, torch.bernoulli(h.nan_to_num()) + 0 * h)), "Draw nothing"),
    "all of the tied": (
        scored_22(hit=lambda *x: (lambda a, b: b[a].all().double())(*tops_22(*x))),
        "if .all. of the tied",
    ),
    "zero": (scored_22(lambda s, t, w, c, h: (c, h.nan_to_num())), "where all truths are 0, .* yours are nan and 0.00"),
    "some left out": (scored_22(lambda s, t, w, c, h: (c[~c.isnan()], h)), "are 1 of 5 numbers"),
    "pooled": (lesson_22.wrong_scorer(ranks="pooled"), "stage 5 .* of .all. texts"),
}


@pytest.mark.parametrize("answer, words", SCORES_22.values(), ids=[f"lesson22.1-{name}" for name in SCORES_22])
def test_lesson22_says_what_is_wrong_with_a_score(answer, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["22.1"](answer)


def integrated_22(
    alpha=lambda k, n: (k + 0.5) / n, end=lambda x, e, g: ((x - e) * g).sum(-1), gather=torch.sum, detach=True
):
    def integrate(f, x, baseline, steps):
        if detach:
            x, baseline = x.detach(), baseline.detach()
        total = torch.zeros_like(x)
        for k in range(steps):
            point = (baseline + alpha(k, steps) * (x - baseline)).detach().requires_grad_()
            total = total + torch.autograd.grad(gather(f(point)), point)[0] / steps
        return end(x, baseline, total)

    return integrate


def keeps_gradients_22(f, x, baseline, steps):
    found = lesson_22.right_gradients(f, x, baseline, steps)
    x.requires_grad_()
    return found


GRADIENTS_22 = {
    "left": (integrated_22(lambda k, n: k / n), r"at α = 0.00, 0.17, .* are 0.08, 0.25"),
    "both ends": (integrated_22(lambda k, n: k / (n - 1)), r"at α = 0.00, 0.20"),
    "the middle": (lambda f, x, e, n: lesson_22.right_gradients(f, x, e, 1), r"at α = 0.50\. "),
    "other steps": (lambda f, x, e, n: lesson_22.right_gradients(f, x, e, 50), r"0.11, …"),
    "only the last": (
        integrated_22(lambda k, n: 1 - 0.5 / n, end=lambda x, e, g: ((x - e) * g).sum(-1) / 6),
        "only the last step's",
    ),
    "zeros": (integrated_22(end=lambda x, e, g: 0 * g.sum(-1)), "every value is 0 times"),
    "beside": (lambda f, x, e, n: lesson_22.right_gradients(f, x, e[:1].expand_as(x), n), "beside the straight line"),
    "tokens": (integrated_22(end=lambda x, e, g: ((x - e) * g).sum(1)), "runs over the tokens"),
    "features kept": (integrated_22(end=lambda x, e, g: (x - e) * g), "nothing is summed"),
    "a mean": (integrated_22(end=lambda x, e, g: ((x - e) * g).mean(-1)), "0.2 times .* over the features"),
    "a mean of f": (integrated_22(gather=torch.mean), "0.3333 times .* over the texts"),
    "no number": (integrated_22(gather=lambda x: x), "one number for each text"),
    "no sign": (integrated_22(end=lambda x, e, g: ((x - e) * g).sum(-1).abs()), "the sign is lost"),
    "x + baseline": (integrated_22(end=lambda x, e, g: ((x + e) * g).sum(-1)), "your points are right"),
    "nothing asked": (lambda f, x, e, n: x.sum(-1), "never asked"),
    "a graph of x": (integrated_22(detach=False), "where x comes with a graph"),
    "requires_grad": (keeps_gradients_22, "of an argument is switched on"),
    "no_grad": (torch.no_grad()(integrated_22()), "runs under `torch.no_grad"),
    "no leaf": (lambda f, x, e, n: torch.autograd.grad(f(x).sum(), x)[0], "keeps no record"),
}


@pytest.mark.parametrize("answer, words", GRADIENTS_22.values(), ids=[f"lesson22.2-{name}" for name in GRADIENTS_22])
def test_lesson22_says_at_which_points_a_gradient_is_taken(answer, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["22.2"](answer)


@torch.no_grad()
def both_texts_in_one_run(model, clean, corrupt, module, position, measure, donor=None, head=None):
    """One batch holds the source and the corrupted texts, and the hook copies from its first half to the second."""
    B, b = len(corrupt), torch.arange(len(corrupt))

    def move(x):
        x = x.clone()
        D = 0 if head is None else x.shape[-1] // module.H
        part = slice(None) if head is None else slice(head * D, head * D + D)
        x[B + b, position, part] = x[b, position, part]
        return x

    m_clean, m_corrupt = measure(model(clean)), measure(model(corrupt))
    if head is None:
        handle = module.register_forward_hook(
            lambda module, inputs, out: (move(out[0]), *out[1:]) if isinstance(out, tuple) else move(out)
        )
    else:
        handle = module.out.register_forward_pre_hook(lambda module, inputs: move(inputs[0]))
    with handle:
        both = model(torch.cat([clean if donor is None else donor, corrupt]))
    return (measure(both[B:]) - m_corrupt) / (m_clean - m_corrupt)


def patched_22(put=None, back=None, formula=None, given=lambda x: x, of=None, base=None):
    """The right patch, of which one part is exchanged."""

    @torch.no_grad()
    def patch(model, clean, corrupt, module, position, measure, donor=None, head=None):
        b, kept, replaces = torch.arange(len(corrupt)), [], []
        D = 0 if head is None else module.out.in_features // module.H
        part = slice(None) if head is None else slice(head * D, head * D + D)
        place = of(model, module) if of else module if head is None else module.out

        def hook(module, inputs, output=None):
            value = inputs if head is not None else output
            x = value[0] if isinstance(value, tuple) else value
            if not replaces:
                return kept.append(x.clone())
            new = x.clone()
            new[b, position, part] = kept[0][b, position, part]
            new = put(x.clone(), kept[0], b, position, part) if put else new
            new = (new, *value[1:]) if isinstance(value, tuple) else new
            return back(new) if back else new

        m = [measure(given(model(ids))) for ids in (clean, corrupt)]
        with place.register_forward_hook(hook) if head is None else place.register_forward_pre_hook(hook):
            model(clean if donor is None else donor)
            replaces.append(True)
            m.append(measure(given(model(base(clean, corrupt) if base else corrupt))))
        return formula(*m) if formula else (m[2] - m[1]) / (m[0] - m[1])

    return patch


def puts_22(vectors, shift=0, everywhere=False):
    def put(x, kept, b, position, part):
        if everywhere and part != slice(None):
            x[..., part] = kept[..., part]
            return x
        part = part if part == slice(None) or not shift else slice(part.start - shift, part.stop - shift)
        x[b, position, part] = vectors(kept)[b, position, part]
        return x

    return put


def gives_none_22(answer):
    def patch(*arguments, **more):
        try:
            return answer(*arguments, **more)
        except ArithmeticError:
            return None

    return patch


def turns_off_22(*arguments, **more):
    torch.set_grad_enabled(False)
    return lesson_22.restored(*arguments, **more)


def changes_ids_22(model, clean, corrupt, module, position, *more, **named):
    found = lesson_22.restored(model, clean, corrupt, module, position, *more, **named)
    corrupt[torch.arange(len(corrupt)), position] = 5
    return found


PATCHES_22 = {
    "the head before": (
        patched_22(puts_22(lambda kept: kept, shift=4)),
        r"features \[0, 1, 2, 3\] are changed. Those of",
    ),
    "a head everywhere": (
        patched_22(puts_22(lambda kept: kept, everywhere=True)),
        r"the positions \[0, 1, .* for 1 alone",
    ),
    "zeros": (patched_22(puts_22(torch.zeros_like)), "is none that a run gave. Put what the run on .clean."),
    "of text 0": (patched_22(puts_22(lambda kept: kept[:1].expand_as(kept))), "is that of text 0 at 3, .clean."),
    "no return": (patched_22(back=lambda new: None), "no run is patched. Are your hooks on .module."),
    "a hook on the model": (patched_22(of=lambda model, module: model), "no run is patched"),
    "a short tuple": (
        patched_22(back=lambda new: new[:1] if isinstance(new, tuple) else new),
        "makes of it a tuple of 1",
    ),
    "probabilities": (patched_22(given=lambda logits: logits.softmax(-1)), ".measure. gets a tensor .* not all logits"),
    "some logits": (patched_22(given=lambda logits: logits[:, :1]), r".measure. gets a tensor of shape \(4, 1, 17\)"),
    "the clean run": (patched_22(base=lambda clean, corrupt: clean), "on .clean., and gets its own"),
    "necessity": (lambda m, c, k, *a, **n: lesson_22.restored(m, k, c, *a, **n), "the run on .clean. is patched"),
    "a size": (
        patched_22(formula=lambda clean, bad, new: (new - bad) / (clean - bad).abs()),
        "the formula is not. In text",
    ),
    "a mean": (
        patched_22(formula=lambda clean, bad, new: (new - bad) / (clean - bad).mean()),
        "the formula is not. In text",
    ),
    "an error lost": (gives_none_22(lesson_22.restored), "caught and lost"),
    "gradients off": (turns_off_22, "gradients stay switched off"),
    "other ids": (changes_ids_22, "the ids that came in are changed"),
    "the text": (lesson_22.wrong_patching(direction="texts"), "exchange the .word. in the text"),
}


@pytest.mark.parametrize("answer, words", PATCHES_22.values(), ids=[f"lesson22.3-{name}" for name in PATCHES_22])
def test_lesson22_says_what_a_hook_has_done(answer, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["22.3"](answer)
    assert torch.is_grad_enabled()


CELLS_22 = {
    (1, 38): "A 1 is missing",
    (13, 24): "fewer ones",
    (2, 36): "zeros too many. After layer 1",
    (2, 26): "twelve are left",
    (2, 20): "zeros too few",
    (2, 12): "zeros are missing",
    (3, 37): "you count 40",
    (2, 24, 13): "a pair",
}


@pytest.mark.parametrize("guess", [pytest.param(guess, id=f"lesson22.4-{guess}") for guess in CELLS_22])
def test_lesson22_says_which_cells_are_miscounted(guess):
    with pytest.raises(CheckFailed, match=f"is not it. .*{CELLS_22[guess]}"):
        ALL["22.4"](guess)


@pytest.mark.parametrize(
    "id_, answer",
    [
        pytest.param("22.3", both_texts_in_one_run, id="lesson22.3-in one run"),
        pytest.param("22.3", patched_22(), id="lesson22.3-one hook"),
        pytest.param("22.4", [2, 24], id="lesson22.4-a list"),
        pytest.param("22.4", torch.tensor([2, 24]), id="lesson22.4-a tensor"),
        pytest.param("22.4", np.array([2, 24]), id="lesson22.4-an array"),
    ],
)
def test_lesson22_takes_further_right_answers(id_, answer, capsys):
    ALL[id_](answer)
    assert "is right" in capsys.readouterr().out


def test_lesson22_a_number_in_place_of_nan_is_shown():
    assert "should be NaN, the first at (1,): yours is 0" in core.difference(
        torch.zeros(2), torch.tensor([0, torch.nan])
    )
