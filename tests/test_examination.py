"""The examination: each number of a model answer is computed again, with the package where it has the formula."""

import math
import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from test_book import FOUND, book

from nextbert_lite import Encoder, EncoderConfig, info_nce_loss, scaled_dot_product_attention
from nextbert_lite.core.contrastive import pool
from nextbert_lite.core.modern import rotate
from nextbert_lite.use.search import mrr, recall_at

QUESTIONS = book.questions()


def near(value, wanted, digits):
    """Whether the number that the answer prints is the computed one, rounded."""
    return round(value, digits) == wanted


def mean_and_error(values):
    values = torch.tensor(values, dtype=torch.float64)
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def one_query():
    q = torch.tensor([[2.0, 0, 0, 0]])
    k = torch.tensor([[math.log(3), 0, 0, 0], [0, 0, 0, 0], [math.log(4), 0, 0, 0]])
    v = torch.tensor([[8.0, 0], [0, 4], [8, 8]])
    two, _ = scaled_dot_product_attention(q, k[:2], v[:2])
    hidden, _ = scaled_dot_product_attention(q, k, v, torch.tensor([[True, True, False]]))
    _, weights = scaled_dot_product_attention(q, k, v)
    late = weights * torch.tensor([1, 1, 0])
    torch.testing.assert_close(two, torch.tensor([[6.0, 1.0]]))
    torch.testing.assert_close(hidden, two)
    torch.testing.assert_close(weights, torch.tensor([[3 / 8, 1 / 8, 4 / 8]]))
    torch.testing.assert_close(late @ v, torch.tensor([[3.0, 0.5]]))
    torch.testing.assert_close(late.sum(), torch.tensor(0.5))
    torch.testing.assert_close((q @ k[:2].T).softmax(-1) @ v[:2], torch.tensor([[7.2, 0.4]]))  # undivided
    return "0.75 and 0.25", "(6, 1)", "3/8, 1/8 and 4/8", "(3, 0.5)", "sum to 0.5"


def a_layer():
    C, F_, T = 256, 1024, 128
    (layer,) = Encoder(EncoderConfig(vocab_size=5, width=C, layers=1, heads=4, ffn_width=F_)).layers
    parameters = sum(p.numel() for p in layer.parameters())
    attention, network, norms = 4 * C**2 + 4 * C, 2 * C * F_ + F_ + C, 4 * C
    assert parameters == attention + network + norms and 12 * C**2 == 786_432
    cost, saved = 24 * C**2 + 4 * T * C, 4 * C * T // 2
    assert 24 * C**2 == 4 * (6 * C) * C
    percent = f"{100 * saved / cost:.1f} %"
    return (*(f"{n:,}" for n in (attention, network, norms, parameters, cost, saved, 6 * C)), percent, "32 features")


def no_order():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(vocab_size=9, positions="none", max_len=8)).double().eval()
    ids = torch.tensor([[1, 2, 3, 1, 4], [1, 4, 3, 1, 2]])  # the dog bites the man
    mask = torch.ones_like(ids, dtype=torch.bool)
    first, second = pool(encoder(ids, mask), mask)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    return ("They are equal",)


def eighty_ten_ten():
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    masked = torch.rand(n, generator=generator) < 0.8
    random = ~masked & (torch.rand(n, generator=generator) < 0.1)
    found = [masked.float().mean().item(), random.float().mean().item(), (~masked & ~random).float().mean().item()]
    assert [round(x, 2) for x in found] == [0.8, 0.02, 0.18]
    deviation = (10_000 * 0.1 * 0.9) ** 0.5
    assert math.isclose(deviation, 30) and near((1000 - 200) / deviation, 26.7, 1)
    needed = (4 * 0.3 / 0.01) ** 2
    assert math.isclose(0.01 * needed, 4 * (needed * 0.09) ** 0.5)
    return "2 %, and 18 % stay", "26.7", f"n = {needed:,.0f}", "must be 0.5"


def the_first_loss():
    V, C = 8192, 64
    generator = torch.Generator().manual_seed(0)
    for s, wanted in ((0.02, 9.02), (0.125, 9.51)):
        assert near(math.log(V) + C * s**2 / 2, wanted, 2)
        x = F.layer_norm(torch.randn(256, C, generator=generator), (C,))
        logits = x @ (s * torch.randn(V, C, generator=generator)).T
        target = torch.randint(V, (256,), generator=generator)
        assert abs(F.cross_entropy(logits, target).item() - wanted) < 0.1
    assert near(0.15 * 9.51, 1.43, 2)
    return "9.02", "9.51", "1.43 = 0.15 · 9.51"


def a_floor():
    a, b = 3 / 4 * 1 / 3, 1 / 4
    x = a / (a + b) * 2 / 3
    floor = -(x * math.log(x) + (1 - x) * math.log(1 - x))
    deviation = (x * math.log(x) ** 2 + (1 - x) * math.log(1 - x) ** 2 - floor**2) ** 0.5
    error = deviation / 200**0.5
    assert math.isclose(x, 1 / 3) and near(-math.log(x), 1.099, 3) and near(-math.log(1 - x), 0.405, 3)
    return (
        *("P(x | w) = 1/2 · 2/3 = 1/3", f"{floor:.3f} nats", f"{math.log(2) - floor:.3f}", f"{deviation:.3f}"),
        *(f"{error:.3f}", f"{(floor - 0.60) / error:.1f} of them"),
    )


def which_change():
    mean, error = mean_and_error([0.05, -0.02, 0.06])
    return f"{mean:.3f}", f"{error:.3f}", f"−{abs(mean - 4.30 * error):.2f} to {mean + 4.30 * error:.2f}", "four times"


def a_long_training():
    tokens = 16 * 1.25e6
    operations = 6 * 2.6e6 * tokens
    seconds = operations / 5e10
    assert math.isclose(operations, 3.12e14) and round(seconds) == 6240 and (16 - 4) / 16 == 0.75
    validation = {1: 3.20, 2: 3.00, 4: 2.90, 8: 3.05, 16: 3.60}
    best = min(validation, key=validation.get)
    clock = f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"
    return "3.12·10¹⁴", f"{seconds:,.0f} seconds", clock, f"after {best} passes", "75 %", f"{tokens / 1e6:.0f} million"


def four_pairs():
    cosines = torch.full((4, 4), 0.2, dtype=torch.float64)
    cosines.fill_diagonal_(0.8)
    loss = F.cross_entropy(cosines / 0.1, torch.arange(4))
    assert math.isclose(loss.item(), math.log(1 + 3 * math.exp(-6)), rel_tol=1e-9)
    same = torch.ones(4, 3)
    assert near(info_nce_loss(same, same, 0.1).item(), 1.386, 3)
    scores = torch.zeros(1, 4, requires_grad=True)
    F.cross_entropy(scores, torch.tensor([0])).backward()
    assert scores.grad.tolist() == [[-0.75, 0.25, 0.25, 0.25]]
    assert near(F.cross_entropy(cosines, torch.arange(4)).item(), 0.97, 2)  # without the temperature
    enough = math.ceil(math.exp(5))
    gains = [math.log(256) - 4.10, math.log(32) - 2.90]
    return (
        *(f"{loss.item():.4f}", "ln 4 = 1.386", f"{math.log(4) - loss.item():.3f} nats", f"B ≥ {enough}", "−3/4"),
        *(f"{math.log(256):.2f}", f"{math.log(32):.2f}", *(f"{gain:.2f}" for gain in gains)),
    )


def one_vector():
    hidden = torch.tensor([[[2.0, 4], [4, 0], [9, -6], [9, -6]]])
    mask = torch.tensor([[True, True, False, False]])
    assert pool(hidden, mask).tolist() == [[3, 2]] and hidden.mean(1).tolist() == [[6, -2]]
    tied = mrr(torch.zeros(1, 1000), torch.tensor([0]))
    assert math.isclose(tied, sum(1 / r for r in range(1, 1001)) / 1000)
    return "(3, 2)", "(6, −2)", f"{tied:.4f}"


def five_questions():
    a, b = [1, 2, 1, 10, 1], [1, 1, 5, 2, 1]
    scores = [torch.arange(10.0, 0, -1).expand(5, 10)] * 2
    right = [torch.tensor(ranks) - 1 for ranks in (a, b)]
    found = [mrr(s, r) for s, r in zip(scores, right, strict=True)]
    assert [recall_at(s, 1, r) for s, r in zip(scores, right, strict=True)] == pytest.approx([0.6, 0.6])
    differences = [1 / y - 1 / x for x, y in zip(a, b, strict=True)]
    mean, error = mean_and_error(differences)
    variance = 5 * error**2
    texts = "MRR {:.2f} and {:.2f}".format(*found), f"mean {mean:.2f}", f"error {error:.3f}"
    return *texts, f"{variance:.3f}", f"{variance / 0.01**2:,.0f}"


def sure_and_right():
    trained, whole = 8 * (768 + 768), 768 * 768
    ece = 0.6 * abs(0.95 - 51 / 60) + 0.4 * abs(0.70 - 26 / 40)
    cold, warm = (torch.tensor([2.0, 0.0]).div(t).softmax(0)[0].item() for t in (1, 2))
    percent = f"{100 * trained / whole:.1f} %"
    return (
        f"{trained:,} of {whole:,}, {percent}",
        f"ECE = 0.6 · 0.10 + 0.4 · 0.05 = {ece:.2f}",
        f"{cold:.3f}, and {warm:.3f}",
    )


def nearly_the_same():
    x = F.layer_norm(torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64), (64,), eps=0)
    factors = []
    for scale in (0.1, 1.0):  # variances 0.01 and 1
        small, large = (F.layer_norm(scale * x, (64,), eps=eps) for eps in (1e-12, 1e-5))
        factors.append((large / small).mean().item())
        torch.testing.assert_close(large, small * factors[-1])
    return f"{factors[0]:.4f}, and {factors[1]:.6f}", "10⁻¹⁰ or less"


def turned_and_near():
    # rotate turns its first pair by one radian a position: its own speed, so that π/6 is tried by hand beside it
    x = rotate(torch.tensor([1.0, 0.0], dtype=torch.float64).expand(106, 2))
    assert torch.isclose(x[3] @ x[5], x[103] @ x[105]) and math.isclose((x[3] @ x[5]).item(), math.cos(2))
    turned = [torch.tensor([math.cos(t * math.pi / 6), math.sin(t * math.pi / 6)]) for t in (3, 5, 103, 105)]
    for score in (turned[0] @ turned[1], turned[2] @ turned[3]):
        assert near(score.item(), 0.5, 5)
    T, w = 4096, 128
    assert near(T**2 / (T * 3 * w), 10.7, 1)
    return "cos(π/3) = 0.5", f"{T * 3 * w:,} scores", f"{T**2:,}", "10.7 times"


def ninety_one():
    assert math.isclose(0.15 * (1 - 0.4), 0.09)
    return "0.15 · 0.6 = 9 %", "91 %"


def two_gaps():
    sentences = {("New", "York"): 0.5, ("Los", "Angeles"): 0.5}
    first, second = ({pair[i]: 0.5 for pair in sentences} for i in (0, 1))
    possible = sum(first[a] * second[b] for a, b in product(first, second) if (a, b) in sentences)
    lost = sum(p * math.log(p / (first[a] * second[b])) for (a, b), p in sentences.items())
    assert possible == 0.5
    return "1/2 are possible", f"ln 2 = {lost:.3f}"


def two_bounds():
    intensity, ridge = 2 * 512**3 / (3 * 512**2 * 4), 1e11 / 1e10
    norm = 8 / (2 * 4) * 1e10 / 1e11
    lengths = [32, 64, 128, 32]
    padded, real = 4 * 128, sum(lengths)
    before, after = 4 * 128**2, sum(n * n for n in lengths)
    assert intensity > ridge == 10 and norm == 0.1 and padded / real == 2
    return (
        f"{intensity:.0f} operations a byte",
        "10 %",
        f"{before:,} against {after:,}, {before / after:.1f} times",
        "256 real",
    )


def three_points():
    def fitted(first, second, third):
        alpha = math.log((first - second) / (second - third)) / math.log(4)
        A = (first - second) / (1 - 4**-alpha)
        return first - A, A, alpha

    assert fitted(3.0, 2.0, 1.5) == pytest.approx((1, 2, 0.5))
    E, A, alpha = fitted(3.0, 2.0, 1.6)
    for N, loss in ((1, 3.0), (4, 2.0), (16, 1.6)):
        assert math.isclose(E + A / N**alpha, loss)
    assert near(math.log(3.0 / 1.5) / math.log(16), 0.25, 2)  # a line through the logarithms of the losses
    return "A = 2 and E = 1", f"α = {alpha:.3f}", f"A = {A:.3f}", f"E = {E:.3f}", f"by {E - 1:.3f}"


def the_subject():
    rule, head = round(0.93 * 500), round(0.95 * 500)
    return f"{rule} sentences", f"only {500 - rule}", f"{head} sentences", f"{head - rule} of the {500 - rule}"


COMPUTED = {
    1: one_query, 2: a_layer, 3: no_order, 4: eighty_ten_ten, 5: the_first_loss, 6: a_floor, 7: which_change,
    8: a_long_training, 9: four_pairs, 10: one_vector, 11: five_questions, 13: sure_and_right, 14: nearly_the_same,
    15: turned_and_near, 16: ninety_one, 17: two_gaps, 18: two_bounds, 19: three_points, 20: the_subject,
}  # fmt: skip


@pytest.mark.parametrize("number", COMPUTED)
def test_each_number_of_a_model_answer_is_the_one_that_is_computed(number):
    answer = " ".join(QUESTIONS[number - 1].answer.split())
    for text in COMPUTED[number]():
        assert text in answer


def test_there_are_twenty_questions_of_a_hundred_points_on_lessons_of_all_five_parts():
    assert [question.number for question in QUESTIONS] == list(range(1, 21))
    assert sum(question.points for question in QUESTIONS) == 100
    parts = {lesson.number: lesson.part.split(":")[0] for lesson in FOUND}
    assert {parts[question.lesson] for question in QUESTIONS} == {f"Part {n}" for n in ("I", "II", "III", "IV", "V")}
    lessons = [question.lesson for question in QUESTIONS]
    assert lessons == sorted(lessons)


@pytest.mark.parametrize("question", [pytest.param(q, id=str(q.number)) for q in QUESTIONS])
def test_each_question_has_an_answer_points_for_its_parts_and_what_a_wrong_answer_shows(question):
    assert re.findall(r"^\*\*(.+?)\.\*\*", question.answer, re.MULTILINE) == [
        "Model answer", "Points", "What a wrong answer shows",
    ]  # fmt: skip
    (points,) = re.findall(r"\*\*Points\.\*\* (.+)\.", question.answer)
    each = [int(number) for number in points.split(", ")]
    assert sum(each) == question.points
    assert len(each) == len(re.findall(r"^\d\. ", question.text, re.MULTILINE))


def test_teachers_get_the_answers_by_a_command(tmp_path, capsys):
    assert book.main(["examination", "--out", str(tmp_path)]) == 0
    path = tmp_path / "examination-with-answers.md"
    assert str(path) in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert all(question.text in text and question.answer in text for question in QUESTIONS) and "<!--" not in text


def test_a_shorter_plan_is_told_which_questions_fit_it():
    plans = book.settings()["plans"]
    taken = {lesson.number for lesson in book.chosen(FOUND, plans[1])}
    fitting = [question for question in QUESTIONS if question.lesson in taken]
    sentence = book.exam_table(FOUND, plans).splitlines()[-1]
    assert [int(n) for n in re.findall(r"\d+", sentence)] == [
        plans[1]["weeks"], *(question.number for question in fitting), sum(question.points for question in fitting),
    ]  # fmt: skip


def test_a_question_without_an_answer_is_named(monkeypatch, tmp_path):
    (tmp_path / "examination.md").write_text("# E\n\n## 1. A\n\n*Lesson 02 · 3 points*\n\nWhat?\n", encoding="utf-8")
    monkeypatch.setattr(book, "BOOK", tmp_path)
    with pytest.raises(book.Trouble, match=r"'1\. A' needs its lesson, its points and one answer"):
        book.questions()
