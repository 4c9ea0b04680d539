"""The checks: right answers pass however they are written, and each usual mistake is named, by its own message."""

import importlib
import itertools
import json
import math
import pkgutil
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nextbert_lite.checks
from nextbert_lite.checks import core
from nextbert_lite.checks.core import CheckFailed, Exercise, Mistake, Prediction
from nextbert_lite.core.contrastive import info_nce_loss, nt_xent_loss
from nextbert_lite.training.batches import seeded
from nextbert_lite.use.finetuning import calibration_error, fit_temperature

MODULES = [
    importlib.import_module(f"nextbert_lite.checks.{module.name}")
    for module in pkgutil.iter_modules(nextbert_lite.checks.__path__)
    if module.name.startswith("lesson_")
]
ALL = {e.id: e for m in MODULES for e in vars(m).values() if isinstance(e, Exercise | Prediction)}
EXERCISES = [pytest.param(e, id=e.id) for e in ALL.values() if isinstance(e, Exercise)]
PREDICTIONS = [pytest.param(e, id=e.id) for e in ALL.values() if isinstance(e, Prediction)]
MISTAKES = [pytest.param(e, m, id=f"{e.id}-{m.name}") for e in ALL.values() for m in e.mistakes]


def attention_in_place(q, k, v):
    scores = torch.einsum("td,sd->ts", q, k)
    scores *= q.shape[-1] ** -0.5
    scores -= scores.max()
    scores.exp_()
    scores /= scores.sum(1, keepdim=True)
    return torch.einsum("ts,sd->td", scores, v), scores


def attention_with_loops(q, k, v):
    rows = [torch.stack([(a * b).sum() for b in k]) / math.sqrt(len(q[0])) for a in q]
    weights = torch.stack([row.softmax(0) for row in rows])
    return [weights @ v, weights]  # a list in place of a tuple


def masked_in_place(scores, mask):
    weights = torch.zeros_like(scores)
    for i in range(len(scores)):
        if mask[i].any():
            weights[i, mask[i]] = scores[i, mask[i]].softmax(0)
    return weights


def padded_in_place(q, k, v, mask):
    scores = torch.einsum("btd,bsd->bts", q, k).mul_(q.shape[-1] ** -0.5)
    scores[~mask[:, None].expand_as(scores)] = -torch.inf
    return torch.softmax(scores, 2).bmm(v)


def train_by_hand(w, x, y, lr, steps):
    for _ in range(steps):
        w = w - lr * 2 * x.T @ (x @ w - y) / len(x)
    return w


def train_with_set_to_none(w, x, y, lr, steps):
    w = torch.nn.Parameter(w.clone())
    for _ in range(steps):
        F.mse_loss(x @ w, y).backward()
        with torch.no_grad():
            w -= lr * w.grad
        w.grad = None
    return w  # still a parameter


def merged_by_stack(symbols, pair):
    out, just_merged = [], False
    for symbol in symbols:
        if out and not just_merged and (out[-1], symbol) == pair:
            out[-1], just_merged = "".join(pair), True
        else:
            out.append(symbol)
            just_merged = False
    return out


def padded_by_loops(sequences, pad_id):
    T = max(len(s) for s in sequences)
    ids, mask = torch.full((len(sequences), T), pad_id), torch.zeros(len(sequences), T, dtype=bool)
    for i, s in enumerate(sequences):
        ids[i, : len(s)] = torch.tensor(s)
        mask[i, : len(s)] = True
    return ids, mask


def sinusoids_by_loops(T, C):
    f = [math.sin, math.cos]
    return torch.tensor([[f[c % 2](t / 10000 ** ((c - c % 2) / C)) for c in range(C)] for t in range(T)])


def heads_by_loop(x, qkv, out, H):
    q, k, v = qkv(x).chunk(3, -1)
    split = [F.scaled_dot_product_attention(*parts) for parts in zip(*(t.chunk(H, -1) for t in (q, k, v)), strict=True)]
    return out(torch.cat(split, -1))


def pair_by_loops(documents, i, j, is_next, cls_id, sep_id):
    j = i if is_next else (j if j != i else (i + 1 if i + 1 < len(documents) else 0))
    ids, types = [cls_id], [0]
    for sentence in documents[i][: len(documents[i]) - 1]:
        ids.extend(sentence)
        types += [0 for _ in sentence]
    last = documents[j][len(documents[j]) - 1]
    return [[*ids, sep_id, *last, sep_id], [*types, 0, *(1 for _ in last), 1], 1 if is_next else 0]


def nt_xent_without_the_diagonal(a, b, temperature):
    views = torch.nn.functional.normalize(torch.cat((a, b)), p=2, dim=1)
    n = len(views)
    scores = (views @ views.mT)[~torch.eye(n, dtype=bool)].view(n, n - 1) / temperature  # no row holds itself
    partner = [len(b) - 1 + i for i in range(len(a))] + list(range(len(b)))
    return F.cross_entropy(scores, torch.tensor(partner))


def three_passes_by_surrogate(weight, x, y, chunk):
    w = weight.detach().clone().requires_grad_()
    both = torch.cat([x, y])
    with torch.no_grad():
        vectors = torch.cat([(rows @ w).tanh() for rows in both.split(chunk)])
    vectors.requires_grad_()
    info_nce_loss(*vectors.chunk(2)).backward()
    for start in range(0, len(both), chunk):
        rows = slice(start, start + chunk)
        ((both[rows] @ w).tanh() * vectors.grad[rows]).sum().backward()
    return w.grad


def exact_count_by_loops(ids, draw, rate):
    selected = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(ids):
        words = [i for i, token in enumerate(text.tolist()) if token > 4]
        k = min(20, max(1, round(rate * int((text != 0).sum()))))
        selected[row, sorted(words, key=draw[row].tolist().__getitem__)[:k]] = True
    return selected


def whitened_by_svd(train, x):
    mean = train.mean(0)
    _, s, v = torch.linalg.svd(train - mean, full_matrices=False)
    return (x - mean) @ v.T / s * len(train) ** 0.5


def chunks_written_back(encode, lengths, size):
    out = None
    for rows in lengths.sort(descending=True).indices.split(size):
        vectors = encode(rows)
        out = torch.zeros(len(lengths), vectors.shape[1]) if out is None else out
        out[rows] = vectors
    return out


def middle_of_the_ties(scores, right):
    out = []
    for row, i in zip(scores.tolist(), right.tolist(), strict=True):
        places = [place for place, score in enumerate(sorted(row, reverse=True), 1) if score == row[i]]
        out.append(len(places) / sum(places))
    return torch.tensor(out)


def weight_by_loop(bm25_validation, cosine_validation, bm25_test, cosine_test):
    def z(s):
        return (s - s.mean(1, keepdim=True)) / s.std(1, keepdim=True)  # another deviation, the same order

    def score(a, b, w):
        mixed = w * z(a) + (1 - w) * z(b)
        return (1 / (1 + (mixed > mixed.diag()[:, None]).sum(1))).mean()

    best = max((i / 20 for i in range(21)), key=lambda w: score(bm25_validation, cosine_validation, w))
    return score(bm25_test, cosine_test, best)


def freezing_by_loops(model):
    for parameter in model.encoder.parameters():
        parameter.requires_grad = False
    for part, mode in ((model, True), (model.encoder, False)):
        part.train(mode)
    return model


def mean_gap_by_bincount(probabilities, labels):
    top, guess = probabilities.max(-1)
    number = torch.bucketize(top, torch.arange(1, 10) / 10)
    gap = torch.bincount(number, top - (guess == labels).float(), minlength=10)
    return gap.abs().sum() / len(labels)


def calibrated_by_search(validation, validation_labels, test, test_labels):
    t = fit_temperature(validation, validation_labels)
    return calibration_error(F.softmax(test * (1 / t), dim=1), test_labels)


def name_by_its_end(names):
    ends = {
        "attention.output.dense": "attention.out",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "ffn_in",
        "output.dense": "ffn_out",
        "output.LayerNorm": "norm2",
    }
    ours = []
    for name in names:
        _, _, layer, *middle, part = name.split(".")
        ours.append(f"layers.{layer}.{ends['.'.join(middle)]}.{part}")
    return ours


def embedded_by_hand(ids, tokens, positions, types, weight, bias):
    x = torch.stack([torch.stack([tokens[i] + positions[t] + types[0] for t, i in enumerate(row)]) for row in ids])
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt() * weight + bias


def looks_back_by_loops(weights, words):
    total, count = 0.0, 0
    for b in range(len(words)):
        for t in range(1, words.shape[1]):
            if words[b, t] and words[b, t - 1]:
                total, count = total + weights[b, :, t, t - 1], count + 1
    return total / count


OTHER_WAYS = {
    "14.1": [
        lambda q, k, v: torch.vstack([q, k, v]),
        lambda q, k, v: torch.stack([q, k, v]).flatten(0, 1),
        lambda q, k, v: torch.cat([q.T, k.T, v.T], dim=1).T,
    ],
    "14.2": [name_by_its_end],
    "14.4": [
        embedded_by_hand,
        lambda ids, tokens, positions, types, weight, bias: F.layer_norm(
            F.embedding(ids, tokens)
            + positions[torch.arange(ids.shape[1]).expand_as(ids)]
            + types[torch.zeros_like(ids)],
            weight.shape,
            weight,
            bias,
            1e-12,
        ),
    ],
    "14.5": [
        looks_back_by_loops,
        lambda w, words: (
            torch.einsum("bhtt,bt->h", w[:, :, 1:, :-1], (words[:, 1:] * words[:, :-1]).float())
            / (words[:, 1:] & words[:, :-1]).sum()
        ),
    ],
    "13.1": [freezing_by_loops],
    "13.4": [mean_gap_by_bincount, lambda p, y: calibration_error(p, y, bins=10)],
    "13.5": [calibrated_by_search],
    "13.2": [
        lambda logits, labels: F.cross_entropy(logits.transpose(1, 2), labels),
        lambda logits, labels: F.nll_loss(logits.log_softmax(-1)[labels >= 0], labels[labels >= 0]),
        lambda logits, labels: F.cross_entropy(logits.log_softmax(-1).reshape(-1, logits.shape[-1]), labels.view(-1)),
    ],
    "12.1": [
        lambda c, n: (
            math.log(1 + (len(c) - (k := int(c.count_nonzero())) + 0.5) / (k + 0.5))
            / (1 + (0.375 + 1.125 * n / n.mean()) / c)
        ),
        lambda c, n: torch.stack(
            [
                torch.log((len(c) + 1) / (sum(c > 0) + 0.5)) * x / (x + 1.5 * (0.25 + 0.75 * m * len(n) / n.sum()))
                for x, m in zip(c, n, strict=True)
            ]
        ),
    ],
    "12.2": [
        middle_of_the_ties,
        lambda s, r: (
            2 / (1 + (s > (own := s[torch.arange(len(s)), r][:, None])).sum(1) + (s >= own).sum(1).clamp(min=1))
        ),
    ],
    "12.4": [weight_by_loop],
    "12.5": [
        lambda s, right, k: (
            torch.stack([t[row.argsort(descending=True)[:k]].any() for row, t in zip(s, right, strict=True)])
            .float()
            .mean()
        ),
        lambda s, right, k: sum(bool(t[row.topk(k).indices].sum()) for row, t in zip(s, right, strict=True)) / len(s),
    ],
    "11.1": [
        lambda x: ((n := len(x)) * F.normalize(x, dim=-1).mean(0).square().sum() - 1) / (n - 1),
        lambda x: torch.stack([F.cosine_similarity(a, b, dim=0) for a, b in itertools.permutations(x, 2)]).mean(),
    ],
    "11.3": [
        lambda train, x: (x - train.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(train.T.cov(correction=0))).T,
        whitened_by_svd,
    ],
    "11.4": [
        lambda right, wrong: (
            sum(0.5 if abs(a - b) < 1e-6 else float(a > b) for a, b in zip(right, wrong, strict=True)) / 20
        ),
        lambda right, wrong: ((right - wrong).mul(1e6).round().sign() + 1).mean() / 2,
    ],
    "11.5": [
        lambda x, y: (y[F.cosine_similarity(x[:, None], x, dim=-1).topk(2).indices[:, 1]] == y).double().mean(),
        lambda x, y: (
            sum(
                y[max((j for j in range(len(x)) if j != i), key=lambda j: F.cosine_similarity(x[i], x[j], dim=0))]
                == y[i]
                for i in range(len(x))
            )
            / len(x)
        ),
    ],
    "00.1": [lambda x: x.sum(1) / x.shape[1], lambda x: torch.stack([row.mean() for row in x])],
    "00.3": [lambda a, b: torch.einsum("id,jd->ij", a, b), lambda a, b: (a[:, None] * b[None]).sum(-1)],
    "00.4": [
        lambda logits, labels: -logits.softmax(1).gather(1, labels[:, None]).log().mean(),
        lambda logits, labels: sum(-row.log_softmax(0)[i] for row, i in zip(logits, labels, strict=True)) / len(labels),
        lambda logits, labels: (logits.logsumexp(-1) - logits[torch.arange(6), labels]).mean().item(),
    ],
    "00.5": [train_by_hand, train_with_set_to_none],
    "01.2": [
        lambda w: max((c := Counter(p for x, n in w.items() for p in list(itertools.pairwise(x)) * n)), key=c.get)
    ],
    "01.3": [lambda s, p: json.loads(json.dumps(merged_by_stack(s, p)))],
    "01.4": [padded_by_loops],
    "01.5": [sinusoids_by_loops],
    "01.6": [lambda max_len, C: torch.stack([torch.zeros(C)] * max_len)],
    "03.1": [lambda x, H: torch.stack(x.chunk(H, -1), 1), lambda x, H: x.unflatten(-1, (H, -1)).movedim(2, 1)],
    "03.2": [lambda h: torch.cat(tuple(h.unbind(1)), -1), lambda h: torch.einsum("bhtd->bthd", h).flatten(2)],
    "03.4": [heads_by_loop],
    "03.5": [lambda m, x: torch.stack([m(t, t, t)[0] for t in x])],
    "04.1": [
        lambda x, g, b, eps: F.layer_norm(x, (4,), g, b, eps),
        lambda x, g, b, eps: g * ((d := x - x.mean(-1)[..., None]) / (d.square().mean(-1)[..., None] + eps) ** 0.5) + b,
    ],
    "04.2": [
        torch.nn.GELU(),
        lambda x: x * torch.distributions.Normal(0, 1).cdf(x),
        lambda x: x * torch.special.ndtr(x),
    ],
    "04.3": [lambda x, a, f, n, m: m((h := n(a(x) + x)) + f(h))],
    "04.5": [
        lambda make, n: torch.nn.ModuleList([make() for _ in range(n)]),
        lambda make, n: torch.nn.Sequential(*(make() for _ in range(n))),
    ],
    "07.1": [
        lambda n, r, s, e, c: torch.rand(n, generator=seeded(s, e if c is None else e % c)).lt(r),
        lambda n, r, s, e, c: torch.rand(n, generator=seeded(s, e - c * (e // c) if c else e)) < r,
    ],
    "07.2": [pair_by_loops],
    "07.3": [
        lambda w, y, p, n: F.nll_loss(w[y > 0], y[y > 0]) + F.nll_loss(p, n),
        lambda w, y, p, n: F.nll_loss(w.mT, y, ignore_index=0) - p.gather(1, n[:, None]).mean(),
    ],
    "07.5": [
        lambda nats, n, text: n * nats * math.log2(math.e) / len(text.encode("utf-8")),
        lambda nats, n, text: torch.tensor(nats * n / len(bytes(text, "utf-8"))) / torch.tensor(2.0).log(),
    ],
    "06.1": [
        lambda p, e, t: ((p.log() + e.log().sum(1)).softmax(0)[:, None] * t).sum(0),
        lambda p, e, t: (w := torch.einsum("f,fv->v", p * e[:, 0] * e[:, 1], t)) / w.sum(),
    ],
    "06.2": [
        lambda n, w: [(s + 1) / w if s < w else (n - s) / (n - w) for s in range(n)],
        lambda n, w: torch.cat([torch.arange(1, w + 1) / max(1, w), torch.arange(n - w, 0, -1) / (n - w)]),
    ],
    "06.3": [
        lambda x, n: x @ n.float() / n.sum(),
        lambda x, n: sum(a * b for a, b in zip(x.tolist(), n.tolist(), strict=True)) / int(n.sum()),
    ],
    "06.5": [
        lambda w, H, h: (w.view(len(w), H, -1) * (torch.arange(H) != h)[:, None]).flatten(1),
        lambda w, H, h: torch.cat([torch.zeros_like(c) if i == h else c for i, c in enumerate(w.chunk(H, 1))], 1),
    ],
    "05.1": [
        lambda ids, draw, rate: torch.where((draw < rate) & (ids > 4), ids, -100),
        lambda ids, draw, rate: (ids + 100) * ((draw < rate) & (ids > 4)) - 100,
    ],
    "05.2": [
        lambda ids, s, d, w: torch.where(s & (d < 0.8), 4, torch.where(s & (d >= 0.8) & (d < 0.9), w, ids)),
        lambda ids, s, d, w: ids * (~s | (d >= 0.9)) + 4 * (s & (d < 0.8)) + w * (s & (d >= 0.8) & (d < 0.9)),
    ],
    "05.4": [
        lambda z, y, s: F.cross_entropy(z[s], y[s], reduction="sum") / max(1, int(s.sum())),
        lambda z, y, s: F.cross_entropy(z[s], y[s]) if s.any() else torch.tensor(0.0),
        lambda z, y, s: -(z.log_softmax(-1).gather(-1, y[..., None])[..., 0] * s).sum() / max(1, s.sum()),
    ],
    "05.5": [exact_count_by_loops],
    "08.1": [
        lambda L, C, T, V, r: 6 * (L * (12 * C * C + 2 * T * C) + r * C * (C + V)),
        lambda L, C, T, V, r: sum(3 * (24 * C**2 + 4 * T * C) for _ in range(L)) + 3 * r * (2 * C**2 + 2 * V * C),
    ],
    "08.3": [
        lambda x, y, f, at: f + np.exp(np.polyval(np.polyfit(x.log().numpy(), (y - f).log().numpy(), 1), math.log(at))),
        lambda x, y, f, at: float(
            f + 10 ** np.polyval(np.polyfit(x.log10().numpy(), (y - f).log10().numpy(), 1), math.log10(at))
        ),
    ],
    "08.4": [
        lambda c, k: torch.stack([(row + k * (c.sum(0) + 1) / (c.sum() + 5)) / (row.sum() + k) for row in c]),
        lambda c, k: (
            (1 - (w := k / (c.sum(1, keepdim=True) + k))) * c / c.sum(1, keepdim=True).clamp(min=1)
            + w * F.normalize(c.sum(0) + 1, p=1, dim=0)
        ),
    ],
    "10.1": [
        lambda h, m: torch.stack([text[real].mean(0) for text, real in zip(h, m, strict=True)]),
        lambda h, m: torch.einsum("btc,bt->bc", h, m / m.sum(1)[:, None]),
    ],
    "10.2": [
        lambda h, m: torch.stack([(h[1] + h[-1])[i, real].mean(0) / 2 for i, real in enumerate(m)]),
        lambda h, m: sum((x * m[..., None]).sum(1) / m.sum(1)[:, None] for x in (h[1], h[-1])) / 2,
    ],
    "10.3": [chunks_written_back, lambda encode, lengths, size: encode(torch.arange(len(lengths)))],
    "10.4": [
        lambda ids, start, n: [2, *ids[start + 1 : min(start + 1 + n, len(ids) - 1)], 3],
        lambda ids, start, n: [2, *list(itertools.islice(ids, start + 1, len(ids) - 1))[:n], 3],
    ],
    "09.1": [
        lambda S, t: F.cross_entropy(S / t, torch.arange(len(S)), reduction="none"),
        lambda S, t: -(S / t).log_softmax(1).diag(),
        lambda S, t: -torch.log(torch.exp(S / t).diagonal() / torch.exp(S / t).sum(dim=1)),
    ],
    "09.3": [
        lambda S, t: torch.func.grad(lambda s: F.cross_entropy(s / t, torch.arange(len(s))))(S),
        lambda S, t: (S.div(t).softmax(-1) - torch.diag(torch.ones(len(S)))) / len(S) / t,
    ],
    "09.4": [
        nt_xent_without_the_diagonal,
        lambda a, b, t: nt_xent_loss(b, a, t),
    ],
    "09.5": [
        three_passes_by_surrogate,
        lambda w, x, y, c: torch.func.grad(lambda w: info_nce_loss((x @ w).tanh(), (y @ w).tanh()))(w),
    ],
    "02.1": [
        lambda s: F.softmax(s, dim=1),
        lambda s: (s - s.max(1, keepdim=True).values).softmax(1),
        lambda s: s.log_softmax(-1).exp(),
    ],
    "02.3": [attention_in_place, attention_with_loops, lambda q, k, v: ((w := (q / 8**0.5 @ k.T).softmax(1)) @ v, w)],
    "02.4": [masked_in_place, lambda s, m: torch.where(m, s, -torch.inf).softmax(-1).nan_to_num(0.0)],
    "02.5": [
        padded_in_place,
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m.unsqueeze(1)),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m[:, None, :].expand(4, 4, 4)),
    ],
    "02.6": [
        lambda T: torch.arange(T)[:, None] >= torch.arange(T),
        lambda T: ~torch.ones(T, T, dtype=bool).triu(1),
        lambda T: torch.tensor([[j <= i for j in range(T)] for i in range(T)]),
    ],
}


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_right_answer_passes(exercise, capsys):
    exercise(exercise.right)
    assert f"✓ {exercise.id} is right" in capsys.readouterr().out


@pytest.mark.parametrize("exercise", EXERCISES)
def test_right_answers_written_differently_pass(exercise, capsys):
    for answer in OTHER_WAYS[exercise.id]:
        exercise(answer)
        assert "is right" in capsys.readouterr().out


@pytest.mark.parametrize("exercise, mistake", MISTAKES)
@pytest.mark.parametrize("seeds", [(0, 1, 2), (11, 12, 13), (101, 202, 303)], ids=lambda s: f"seeds{s[0]}")
def test_each_mistake_gets_its_own_message(exercise, mistake, seeds, monkeypatch):
    monkeypatch.setattr(core, "SEEDS", seeds)
    with pytest.raises(CheckFailed) as failure:
        exercise(mistake.wrong)
    assert str(failure.value) == f"{exercise.id}: {mistake.message}"


@pytest.mark.parametrize("exercise", [pytest.param(e, id=e.id) for e in ALL.values()])
def test_messages_differ_and_each_mistake_states_its_source(exercise):
    messages = [m.message for m in exercise.mistakes]
    assert len(set(messages)) == len(messages) >= 1
    assert all(len(m.source) > 10 and len(m.message) > 30 for m in exercise.mistakes)
    assert exercise.hints and exercise.praise


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_blank_is_told_so_and_fails_only_when_graded(exercise, capsys, monkeypatch):
    def empty(*arguments):
        """A docstring may stand here."""
        ...

    def not_implemented(*arguments):
        raise NotImplementedError

    for blank in (empty, not_implemented):
        monkeypatch.delenv("NEXTBERT_GRADE", raising=False)
        exercise(blank)
        assert f"○ {exercise.id} is still blank" in capsys.readouterr().out
        monkeypatch.setenv("NEXTBERT_GRADE", "1")
        with pytest.raises(CheckFailed, match="blank"):
            exercise(blank)


@pytest.mark.parametrize("exercise", PREDICTIONS)
def test_a_prediction_passes_is_named_wrong_or_is_blank(exercise, capsys, monkeypatch):
    exercise(exercise.right)
    assert "is right" in capsys.readouterr().out
    exercise(None)
    assert "still blank" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="is not it"):
        exercise((1, 2, 3, 4) if isinstance(exercise.right, tuple) else -7.5)
    with pytest.raises(CheckFailed, match="The answer is of type"):
        exercise("six")
    monkeypatch.setenv("NEXTBERT_GRADE", "1")
    with pytest.raises(CheckFailed, match="blank"):
        exercise(None)


# --- what is not a named mistake is described -------------------------------------------------------------------------

DOUBLE = Exercise(
    id="99.1",
    right=lambda x: 2 * x,
    inputs=lambda generator: (torch.randn(2, 3, generator=generator),),
    mistakes=(Mistake("half", lambda x: x / 2, "that is half of it", "made for this test"),),
    hints=("Multiply.",),
    praise="Twice.",
)


def add_in_place(x):
    x += x.clone()
    return x


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda x: 2 * x[0], r"the shape is \(3,\); expected \(2, 3\)"),
        (lambda x: (2 * x).double(), "the dtype is torch.float64; expected torch.float32"),
        (lambda x: torch.full_like(x, torch.nan), "6 of 6 values are not finite"),
        (lambda x: 2 * x + 0.5 * (torch.arange(3) == 1), r"the largest difference is 0.5, at \(\d, 1\)"),
        (lambda x: [2 * x, x], "yours is a list of 2"),
        (lambda x: x.missing, "raised AttributeError"),
        (lambda x: print(end=""), "is a `return` missing"),
        (add_in_place, "changes its argument number 1 in place"),
        (7, "expects your function itself"),
    ],
)
def test_other_wrong_answers_are_described(answer, words):
    with pytest.raises(CheckFailed, match=words):
        DOUBLE(answer)


def test_an_answer_right_on_some_inputs_only_is_wrong():
    calls = []

    def right_at_first(x):
        calls.append(1)
        return 2 * x if len(calls) == 1 else x

    with pytest.raises(CheckFailed, match="largest difference"):
        DOUBLE(right_at_first)


def test_hints_come_one_by_one_and_point_to_the_solution_at_the_end(capsys):
    core._hints_given.clear()
    n = len(ALL["02.3"].hints)
    for i in range(1, n + 1):
        core.hint("02.3")
        assert capsys.readouterr().out.startswith(f"Hint {i} of {n}:")
    core.hint("02.3")
    assert "check.solution('02.3')" in capsys.readouterr().out
    core.hint("02.3", 1)
    assert capsys.readouterr().out.startswith(f"Hint 1 of {n}:")
    with pytest.raises(ValueError, match=f"1 to {n}"):
        core.hint("02.3", 9)


@pytest.mark.parametrize("exercise_id", sorted(ALL))
def test_every_exercise_has_a_solution_that_can_be_shown(exercise_id, capsys):
    core.solution(exercise_id)
    assert len(capsys.readouterr().out.strip()) > 10


@pytest.mark.parametrize("name", ["02.99", "77.1", "", "two"])
def test_an_unknown_exercise_is_refused(name):
    with pytest.raises(ValueError, match="there is no exercise"):
        core.find(name)


def test_a_notebook_shows_the_message_without_a_traceback():
    assert CheckFailed("02.1: wrong")._render_traceback_() == ["CheckFailed: 02.1: wrong"]
