"""Lesson 21: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import re

import pytest
import torch
import torch.nn.functional as F
from exercises import ALL

from nextbert_lite.checks import lesson_21
from nextbert_lite.checks.core import CheckFailed
from nextbert_lite.use import rerank
from nextbert_lite.use.search import ndcg_at


def _shuffled_ties(scores, grades, k):
    order = torch.randperm(scores.shape[1])
    return lesson_21.wrong_ndcg(ties=True)(scores[:, order], grades[:, order], k)


def _last_type_two(query, text, keys, max_len):
    ids, types = rerank.join(query, text, keys, max_len)
    return ids, [*types[:-1], 2]


def _topk(scores, near, k):
    kept = scores.masked_fill(near | torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    found = kept.argsort(dim=1, descending=True, stable=True)[:, :k]
    last = len(scores) - 1 - kept.flip(1).argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.cat([found[:1], last[1:]])  # ties broken now so, now so


def _whole_chunks(fewest):
    """The scores of whole chunks, `fewest` chunks at least, are written into a table of zeros."""

    def score(query, query_mask, text, text_mask, chunk=64):
        found = torch.zeros(len(query), len(text))
        for n in range(max(fewest, len(text) // chunk)):
            at = slice(n * chunk, (n + 1) * chunk)
            found[:, at] = lesson_21.max_sim(query, query_mask, text[at], text_mask[at])
        return found

    return score


def _only_the_query_has_length_one(query, query_mask, text, text_mask, chunk=64):
    return lesson_21.wrong_max_sim(normal="none")(F.normalize(query, dim=-1), query_mask, text, text_mask, chunk)


@pytest.mark.parametrize(
    "number, answer, words",
    [
        ("21.5", _whole_chunks(0), "a case by hand: with 7 texts and `chunk=3`, the seventh has other scores"),
        ("21.5", _whole_chunks(1), "chunks: with 7 texts and `chunk=3`, the seventh has other scores"),
        ("21.5", _only_the_query_has_length_one, "if a vector of the text is made three times as long"),
        ("21.2", lambda q, t, keys, n: rerank.join(q, t, keys, 40), "your ids are 40 numbers; expected 64"),
        ("21.2", lambda q, t, keys, n: rerank.join(q, t, keys, 64), "right on some inputs, but not for"),
        ("21.2", _last_type_two, "types: the first that differs is at place 63: 2; expected 1"),
        ("21.4", _topk, "`topk` and a plain `argsort` promise none"),
        (
            "21.4",
            lambda s, near, k: lesson_21.hard_negatives(s, near | torch.eye(300).bool(), k),
            "a size written into",
        ),
        ("21.4", lambda s, near, k: lesson_21.hard_negatives(s, near, k).tolist(), "expected a tensor"),
        ("21.6", lambda s, grades, k: ndcg_at(s, k, grades=grades), "Write the measure itself"),
        ("21.6", _shuffled_ties, "another value each time"),
        ("21.6", lambda s, grades, k: lesson_21.wrong_ndcg(ties=True)(s.flip(1), grades.flip(1), k), "without ties"),
        ("21.6", lambda s, grades, k: 0.5, "already without ties"),
    ],
    ids=lambda value: f"lesson{value}" if isinstance(value, str) and value.startswith("21.") else "",
)
def test_lesson21_says_what_is_wrong_where_no_mistake_fits(number, answer, words):
    with pytest.raises(CheckFailed, match=re.escape(words)):
        ALL[number](answer)


class _LinearFirst(rerank.CrossEncoder):
    def forward(self, ids, types, mask):
        scores = self.out(self.encoder(ids, mask, types))[..., 0]
        return torch.where(mask, scores, 0.0).sum(1) / mask.sum(1)


def _by_text(query, query_mask, text, text_mask, chunk=64):
    query, columns = F.normalize(query, dim=-1), []
    for vectors, real in zip(text, text_mask, strict=True):
        best = (query @ F.normalize(vectors[real], dim=-1).T).amax(-1)
        columns.append((best * query_mask).sum(1))
    return torch.stack(columns, dim=1)


def _minus_two(query, query_mask, text, text_mask, chunk=64):
    query, found = F.normalize(query, dim=-1), []
    for vectors, real in zip(text.split(chunk), text_mask.split(chunk), strict=True):
        flat = F.normalize(vectors, dim=-1).flatten(0, 1)
        cosine = (query.flatten(0, 1) @ flat.T).view(*query.shape[:2], *vectors.shape[:2])
        best = torch.where(real, cosine, torch.tensor(-2.0)).amax(-1)
        found.append(torch.where(query_mask[..., None], best, 0.0).sum(1))
    return torch.hstack(found)


def _by_mean_grades(scores, grades, k):
    worth, values = 1 / torch.log2(2 + torch.arange(k).double()), []
    for row, marks in zip(scores, grades.double(), strict=True):
        groups, group = row.unique(return_inverse=True)
        mean = torch.zeros(len(groups)).double().index_add(0, group, marks) / torch.bincount(group)
        got = (mean[group][row.argsort(descending=True)[:k]] * worth).sum()
        values.append(got / (marks.sort(descending=True).values[:k] * worth).sum())
    return torch.stack(values).mean()


def _infinity_twice(scores, near, k):
    kept = scores.clone()
    kept[near] = -torch.inf
    kept.fill_diagonal_(-torch.inf)
    return torch.argsort(-kept, dim=1, stable=True)[:, :k]


def _by_table(query, text, keys, max_len):
    key, words = torch.tensor(keys), torch.tensor(query[1:-1][:32])
    body = torch.tensor(text[1:-1])[: max_len - 3 - len(words)]
    equal = key[words][:, None] == key[body]
    types = [0, *(2 * equal.any(1)).tolist(), 0, *(1 + 2 * equal.any(0)).tolist(), 1]
    return [query[0], *words.tolist(), query[-1], *body.tolist(), text[-1]], types


@pytest.mark.parametrize(
    "number, answer",
    [
        ("21.2", _by_table),
        ("21.3", _LinearFirst),
        ("21.4", _infinity_twice),
        ("21.5", _by_text),
        ("21.5", _minus_two),
        ("21.6", _by_mean_grades),
    ],
    ids=lambda value: f"lesson{value}" if isinstance(value, str) else "",
)
def test_lesson21_takes_further_right_answers(number, answer, capsys):
    ALL[number](answer)
    assert "is right" in capsys.readouterr().out
