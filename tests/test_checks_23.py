"""Lesson 23: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from exercises import ALL

from nextbert_lite.checks import lesson_23
from nextbert_lite.checks.core import CheckFailed


def _battery(**methods):
    return lesson_23.instead(**methods)


def _repeats_and_trains(self, model):
    model.eval()
    ids = self.texts(2, 6)
    with torch.no_grad():
        same = torch.equal(model(ids, ids > 0), model(ids, ids > 0))
    model.train()
    return same


def _rows_awake(self, model):
    ids = self.texts(2, 6)
    other = torch.stack([ids[0], ids[1].flip(0)])
    return torch.allclose(model(ids, ids > 0)[0], model(other, other > 0)[0], atol=1e-4)


def _learns(zero=True, prepare=lambda model: model.eval()):
    def overfits(self, model):
        model, batch = copy.deepcopy(model), self.batch()
        prepare(model)
        optimizer, start = torch.optim.Adam(model.parameters(), lr=0.02), model.loss(*batch).item()
        for _ in range(50):
            if zero:
                optimizer.zero_grad()
            model.loss(*batch).backward()
            optimizer.step()
        return model.loss(*batch).item() < start / 10

    return _battery(overfits=overfits)


def _without_dropout(model):
    model.dropout.p = 0.0


def _embeds(rows, place):
    class Embeddings(torch.nn.Module):
        def __init__(self, V, C, max_len):
            super().__init__()
            self.tokens, self.positions = torch.nn.Embedding(V, C), torch.nn.Embedding(rows(V, C, max_len), C)

        def forward(self, ids):
            return self.tokens(ids) + place(self.positions, ids)

    return Embeddings


def _scores(a, *keys):
    return F.normalize(a, dim=-1) @ F.normalize(torch.cat(keys), dim=-1).T


def _chosen(scores):
    return F.cross_entropy(scores, torch.arange(len(scores)))


def _tied(finish, bias=False):
    def __init__(self, V, C, std):
        torch.nn.Module.__init__(self)
        self.tokens, self.output = torch.nn.Embedding(V, C), torch.nn.Linear(C, V, bias=bias)
        torch.nn.init.normal_(self.tokens.weight, std=std)
        finish(self, std)

    def forward(self, ids):
        return F.linear(self.tokens(ids), self.tokens.weight)

    return type("Tied", (torch.nn.Module,), {"__init__": __init__, "forward": forward})


def _tie(model, std):
    model.output.weight = model.tokens.weight


def _accumulates(n=lambda labels: (labels != -100).sum(), step=False, running=False, before=1.0, backward=True):
    def accumulate(model, batches):
        total, whole = 0, 0.0
        for p in model.parameters():
            p.grad = None if p.grad is None else p.grad * before
        for i, (ids, labels) in enumerate(batches, 1):
            total = sum(n(y) for _, y in batches[: i if running else None])
            loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction="sum")
            if backward:
                (loss / total).backward()
            whole += loss.item()
        if step:
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        return float(whole / total)

    return accumulate


def _corrupts(chosen=lambda ids: ids >= 0, last=False, never_old=False):
    def corrupt(ids, selected, mask_id, V, generator=None):
        draw = torch.rand(ids.shape, generator=generator)
        words = torch.randint(V, ids.shape, generator=generator)
        words = torch.where(words == ids, (words + 1) % V, words) if never_old else words
        selected = selected & chosen(ids)
        corrupted = ids.masked_fill(selected & (draw < 0.8), mask_id)
        return torch.where(selected & (draw < 0.9) & (draw >= (0 if last else 0.8)), words, corrupted)

    return corrupt


def _same_list(rows, corrupt, epochs):
    epoch, result = [], []
    for _ in range(epochs):
        epoch.clear()
        epoch.extend(map(corrupt, rows))
        result.append(epoch)
    return result


def _noisy(noise, logits_as=torch.Tensor.double):
    return lambda z: (logits_as(z) + noise(torch.rand(z.shape, dtype=torch.float64).clamp(1e-300))).argmax(-1)


def _evaluates(reads, modes=torch.nn.Module.modules):
    def accuracy(model, ids, labels):
        was = [(part, part.training) for part in modes(model)]
        model.eval()
        with torch.no_grad():
            right = (model(ids).argmax(-1) == labels).double()
        for part, mode in was:
            part.training = mode
        return reads(right)

    return accuracy


def _gradients_off(model, ids, labels):
    torch.set_grad_enabled(False)
    return lesson_23.accuracy(model, ids, labels)


def _dropout_modules_only(model, ids, labels):
    parts = [(part, part.training) for part in model.modules() if isinstance(part, torch.nn.Dropout)]
    for part, _ in parts:
        part.eval()
    with torch.no_grad():
        right = (model(ids).argmax(-1) == labels).double().mean().item()
    for part, mode in parts:
        part.train(mode)
    return right


def _grouped(kept, parameters=torch.nn.Module.named_parameters, decay=None):
    def groups(model, weight_decay):
        named = list(parameters(model))
        return [
            {"params": [p for n, p in named if not kept(n, p)], "weight_decay": decay or weight_decay},
            {"params": [p for n, p in named if kept(n, p)], "weight_decay": 0.0},
        ]

    return groups


_bound, _mask_of = lesson_23.double_softmax.right, lambda mask: mask[:, :, None]


UNNAMED_23 = {
    "23.1-train at the end": (_battery(repeats=_repeats_and_trains), "stage 1 .*one came in eval mode"),
    "23.1-training mode": (_battery(rows=_rows_awake), "stage 4 .*it calls it in training mode"),
    "23.1-one place": (
        _battery(context=lambda self, model: bool((lesson_23.moved_by(self, model, 4) > 1e-4).all())),
        "stage 5 .*places 0, 3, 6.*places 2, 5, 8.*at .each. place",
    ),
    "23.1-three places": (
        _battery(
            context=lambda self, model: all((lesson_23.moved_by(self, model, t) > 1e-4).all() for t in (0, 4, 7)),
        ),
        "stage 5 .*places 2, 5, 8.*at .each. place",
    ),
    "23.1-no answer": (_battery(order=lambda self, model: print(end="")), "stage 6 .*still blank"),
    "23.1-no zero_grad": (_learns(zero=False), "stage 9 .*set to zero before each step"),
    "23.1-with dropout": (_learns(prepare=lambda model: None), "stage 9 .*trains with dropout"),
    "23.2-a probability": (0.106, "is the probability"),
    "23.2-base 10": (_bound / 2.302585, "to the base e"),
    "23.2-one digit": (2.2, "two digits after the point"),
    "23.2-not divided": (3.247, "above ln 24"),
    "23.3-from 1": (
        _embeds(lambda V, C, n: n + 1, lambda table, ids: table(torch.arange(1, ids.shape[1] + 1))),
        "25 rows where max_len is",
    ),
    "23.3-backwards": (
        _embeds(lambda V, C, n: n, lambda table, ids: table(torch.arange(ids.shape[1]).flip(0))),
        "place 0 gets row",
    ),
    "23.3-by word": (_embeds(lambda V, C, n: V, lambda table, ids: table(ids)), "not on the word"),
    "23.3-by text": (
        _embeds(lambda V, C, n: n, lambda table, ids: table(torch.arange(len(ids)))[:, None]),
        "which text it is",
    ),
    "23.3-full length": (_embeds(lambda V, C, n: n, lambda table, ids: table.weight), "Any length up to max_len"),
    "23.4-eval": (
        lambda C, H: torch.nn.TransformerEncoderLayer(C, H, 4 * C, activation="gelu", batch_first=True).eval(),
        "turns it off until you train",
    ),
    "23.5-no negatives": (lambda a, p, n, t: _chosen(_scores(a, p) / t), "`negatives` has no effect"),
    "23.5-times": (lambda a, p, n, t: _chosen(_scores(a, p, n) * t), "divided by it"),
    "23.5-lengths": (
        lambda a, p, n, t: _chosen(torch.cat([_scores(a, p), F.normalize(a, dim=-1) @ n.T], 1) / t),
        "lengths of the negatives count",
    ),
    "23.5-both ways": (
        lambda a, p, n, t: (_chosen(_scores(a, p, n) / t) + _chosen(_scores(p, a, n) / t)) / 2,
        "anchors and positives can be exchanged",
    ),
    "23.5-another order": (lambda a, p, n, t: _chosen(_scores(a, n, p) / t), "your labels take negative 0"),
    "23.5-softmax": (lambda a, p, n, t: _chosen((_scores(a, p, n) / t).softmax(1)), "comes before that of the cross"),
    "23.7-whole batch": (lambda h, m: (h * _mask_of(m)).sum(1) / m.sum(), "the divisor is not: .* times 0.41, 0.18"),
    "23.7-one mean": (lambda h, m: h[m].mean(0).expand(len(h), -1), "your mean runs over the texts"),
    "23.7-no keepdim": (lambda h, m: (h * _mask_of(m)).sum(1) / m.sum(1), "must match .*keepdim"),
    "23.7-padding": (lambda h, m: h.sum(1) / m.sum(1, keepdim=True), "padding's vectors are still in your sum"),
    "23.7-features": (lambda h, m: h.mean(2), "you average over the features"),
    "23.7-float32": (
        lambda h, m: (h * _mask_of(m).float()).sum(1) / m.float().sum(1, keepdim=True),
        "where hidden is float16 yours is torch.float32",
    ),
    "23.8-not divided": (lambda q, k, v, m: lesson_23.attend(q * q.shape[-1] ** 0.5, k, v, m), "are not divided"),
    "23.8-by D": (lambda q, k, v, m: lesson_23.attend(q / q.shape[-1] ** 0.5, k, v, m), "are divided by D. "),
    "23.8-queries": (lambda q, k, v, m: lesson_23.attend(q, k, v, m | m.mT), "value of a padded word reaches"),
    "23.8-zeros": (lambda q, k, v, m: lesson_23.attend(q, k, v, m) * m.mT, "the real words are right"),
    "23.9-reshaped": (
        lambda l, y, w: lesson_23.weighted(l.reshape(l.shape[0], l.shape[2], -1).mT, y, w),
        "mixes the words' numbers",
    ),
    "23.9-each": (lambda l, y, w: lesson_23.each_loss(l, y) * w, "one number for each token"),
    "23.9-by texts": (lambda l, y, w: (lesson_23.each_loss(l, y) * w).sum() / len(y), "is 1.75 times the right one"),
    "23.9-a text of none": (
        lambda l, y, w: ((lesson_23.each_loss(l, y) * w).sum(1) / w.sum(1)).mean(),
        "is NaN. One text of the batch has no selected token",
    ),
    "23.9-the others": (lambda l, y, w: lesson_23.weighted(l, y, 1 - w), "were .not. selected"),
    "23.9-texts": (lambda l, y, w: lesson_23.weighted(l, y, w.mean(1, keepdim=True).expand_as(w)), "still change"),
    "23.10-summed": (
        lambda p, n, w, y: F.cross_entropy(p, n) + F.cross_entropy(w.mT, y, ignore_index=0, reduction="sum"),
        "loss of the words counts .* times",
    ),
    "23.10-ones": (
        lambda p, n, w, y: F.cross_entropy(p, n, ignore_index=1) + F.cross_entropy(w.mT, y, ignore_index=0),
        "pairs with the label 1 do not count",
    ),
    "23.10-columns": (
        lambda p, n, w, y: lesson_23.both_losses(p.flip(1), n, w, y),
        "the loss of the pairs is not that of their labels",
    ),
    "23.11-zeroed": (_accumulates(before=0.0), "what was in the gradients before"),
    "23.11-no backward": (_accumulates(backward=False), "is `backward` missing"),
    "23.11-all tokens": (_accumulates(torch.numel), "0.425 times the right ones"),
    "23.11-0 is a word": (_accumulates(lambda labels: (labels > 0).sum()), "labels that are not -100"),
    "23.11-running": (_accumulates(running=True), "number of .all. selected tokens"),
    "23.11-a step": (_accumulates(step=True), "changes the weights of its model"),
    "23.11-half": (lambda *a: _accumulates()(*a) / 2, "you return is 0.5 times"),
    "23.11-a graph": (lambda *a: _accumulates()(*a) + 0 * next(a[0].parameters()).sum(), "still holds the graph"),
    "23.12-last": (_corrupts(last=True), "overwrites the .MASK. of before"),
    "23.12-again": (_corrupts(lambda ids: torch.rand(ids.shape) < 0.15), "do not choose again"),
    "23.12-never old": (_corrupts(never_old=True), "never the old one"),
    "23.13-a generator": (lambda r, f, n: (list(map(f, r)) for _ in range(n)), "one of yours is a generator"),
    "23.13-maps": (lambda r, f, n: [map(f, r) for _ in range(n)], "one of yours is a map"),
    "23.13-one list": (_same_list, "one list that you fill again"),
    "23.13-turned": (lambda r, f, n: [[f(x) for x in r][::-1] for _ in range(n)], "entry i of an epoch is not text i"),
    "23.13-first as it is": (
        lambda r, f, n: [list(r), *([f(x) for x in r] for _ in range(n - 1))],
        "called 9 times; .* is 12",
    ),
    "23.14-sign": (_noisy(lambda u: (-u.log()).log()), "its sign is turned round"),
    "23.14-one log": (_noisy(lambda u: -u.log()), "one logarithm is missing"),
    "23.14-normal": (_noisy(lambda u: torch.special.ndtri(u)), "0.67, 0.24 and 0.09 are drawn with"),
    "23.14-clamped": (_noisy(lambda u: -(-u.clamp(1e-3, 1 - 1e-3).log()).log()), "a clamp"),
    "23.14-one for all": (_noisy(lambda u: -(-u[:1].log()).log()), "draw for each row on its own"),
    "23.14-coarse": (lambda z: (z.double() - (-torch.rand_like(z).double().log()).log()).argmax(-1), "in float16"),
    "23.14-int32": (lambda z: lesson_23.draw(z).int(), "torch.int32; expected torch.int64"),
    "23.15-per cent": (
        _evaluates(lambda right: 100 * right.mean().item()),
        "a proportion of right answers; yours is 90",
    ),
    "23.15-children": (
        _evaluates(lambda right: right.mean().item(), torch.nn.Module.children),
        "mode of the model itself",
    ),
    "23.15-off for ever": (_gradients_off, "gradients stay switched off"),
    "23.15-nn.Dropout": (_dropout_modules_only, "dropout is still on"),
    "23.16-uniform": (
        _tied(lambda m, std: _tie(m, std) or torch.nn.init.uniform_(m.tokens.weight, -std, std)),
        "table is 0.012, not 0.02",
    ),
    "23.16-bias": (_tied(_tie, bias=True), "`output` has a bias"),
    "23.16-in forward": (_tied(lambda m, std: None), "two parameters, whatever forward does"),
    "23.17-bias in a name": (
        _grouped(lambda n, p: p.ndim < 2 or "bias" in n),
        "not decayed that should be: unbiased.weight",
    ),
    "23.17-tied": (
        _grouped(lambda n, p: p.ndim < 2, lambda model: model.named_parameters(remove_duplicate=False)),
        "tokens.weight 2 times",
    ),
    "23.17-frozen": (
        _grouped(lambda n, p: p.ndim < 2, lambda model: [x for x in model.named_parameters() if x[1].requires_grad]),
        "dense.weight .frozen. 0 times",
    ),
    "23.17-another number": (_grouped(lambda n, p: p.ndim < 2, decay=0.1), "one of yours has 0.1"),
    "23.17-names": (
        _grouped(lambda n, p: n.endswith("bias"), lambda model: [(n, n) for n, _ in model.named_parameters()]),
        "yours holds a str",
    ),
}


@pytest.mark.parametrize(
    "name, answer, words", [pytest.param(n[:5].rstrip("-"), *v, id=f"lesson{n}") for n, v in UNNAMED_23.items()]
)
def test_lesson_23_says_what_is_wrong_where_no_mistake_fits(name, answer, words):
    with pytest.raises(CheckFailed, match=f"(?s)^{name}: .*{words}"):
        ALL[name](answer)


@pytest.mark.parametrize(
    "name, answer",
    [
        pytest.param("23.1", _learns(prepare=_without_dropout), id="lesson23.1-a copy whose dropout is 0"),
        pytest.param("23.13", lambda r, f, n: tuple(tuple(map(f, r)) for _ in range(n)), id="lesson23.13-tuples"),
        pytest.param("23.18", {n: f"({x})" for n, x in lesson_23.PAGE.items()}, id="lesson23.18-brackets"),
    ],
)
def test_lesson_23_takes_further_right_answers(name, answer, capsys):
    ALL[name](answer)
    assert "is right" in capsys.readouterr().out
