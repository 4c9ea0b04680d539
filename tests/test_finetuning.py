"""A learner's own file: read, trained on, predicted, saved; and whatever is wrong with it is said in words."""

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import config, few, perturbed, words
from torch.testing import assert_close

from nextbert_lite.core.classify import TextClassifier
from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.course.tables import read_csv
from nextbert_lite.training.batches import LabelledBatches, pad
from nextbert_lite.training.loop import fit
from nextbert_lite.training.tokenizer import train_bpe
from nextbert_lite.use import checkpoints, finetuning
from nextbert_lite.use.checkpoints import CARD, seal
from nextbert_lite.use.finetuning import (
    Classifier,
    _split,
    calibration_bins,
    calibration_error,
    class_logits,
    fine_tune,
    fit_temperature,
    macro_f1,
    with_dropout,
)

HEADER = "text,label\n"


@pytest.fixture
def write(tmp_path):
    def write(content, name="mine.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# --- reading a file ---------------------------------------------------------------------------------------------------


def test_a_file_of_texts_and_labels_is_read_in_its_order(write):
    path = write(HEADER + 'Good.,yes\n"Bad, very ""bad"".",no\n"two\nlines", yes \n')
    assert read_csv(path) == (["Good.", 'Bad, very "bad".', "two\nlines"], ["yes", "no", "yes"])


@pytest.mark.parametrize(
    "content",
    [
        "\ufefftext,label\nCafé,a\n",
        "id,label,text\n7,a,Café\n",
        "text,label\r\nCafé,a\r\n",
        " text , label \nCafé,a\n\n\n",
        "text,label\nCafé,a",
    ],
    ids=[
        "byte order mark",
        "other columns and order",
        "Windows line ends",
        "spaces and blank lines",
        "no last line end",
    ],
)
def test_usual_forms_of_the_same_file_give_the_same(write, content):
    assert read_csv(write(content)) == (["Café"], ["a"])


def test_unusual_line_separators_inside_a_text_do_not_end_it(write):
    assert read_csv(write(HEADER + "one\u2028two\x0bthree,a\n")) == (["one\u2028two\x0bthree"], ["a"])


def test_a_quoted_field_after_a_space_is_read_without_its_quotes(write):
    path = write('text, label\nfilm, "pos"\n "so, so", neg\nsay "a", pos\n')
    assert read_csv(path) == (["film", "so, so", 'say "a"'], ["pos", "neg", "pos"])


def test_a_field_of_any_length_is_read_and_the_limit_of_others_stays(write):
    limit, long = csv.field_size_limit(), "word " * 40_000
    assert read_csv(write(f"{HEADER}{long},a\n")) == ([long], ["a"])
    assert csv.field_size_limit() == limit
    with pytest.raises(ValueError, match="no texts"):
        read_csv(write(HEADER))
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("encoding", ["utf-8", "utf8", "UTF-8", "utf_8", "U8", "utf-8-sig"])
def test_a_byte_order_mark_is_dropped_however_utf_8_is_spelt(write, encoding):
    assert read_csv(write("\ufefftext,label\nCafé,a\n"), encoding=encoding) == (["Café"], ["a"])
    if encoding != "utf-8-sig":
        with pytest.raises(ValueError, match="written in UTF-16"):
            read_csv(write((HEADER + "x,a\n").encode("utf-16")), encoding=encoding)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_can_be_named(write, mark):
    path = write(f"text{mark}label\nOne, two.{mark}a\n")
    assert read_csv(path, separator=mark) == (["One, two."], ["a"])
    with pytest.raises(ValueError, match=r"line 2: 3 fields, .* A text with a (semicolon|tab|bar) or"):
        read_csv(write(f"text{mark}label\nOne{mark} two.{mark}a\n"), separator=mark)


@pytest.mark.parametrize("mark", ["", ";;", " ", '"', "\n"])
def test_what_cannot_part_fields_is_refused(write, mark):
    with pytest.raises(ValueError, match="must be one character between the fields"):
        read_csv(write(HEADER + "x,a\n"), separator=mark)


def test_a_first_line_of_long_texts_is_not_printed_whole(write):
    with pytest.raises(ValueError, match="word…, a, a, a, a, a, a, a, and 12 more") as error:
        read_csv(write("word " * 500 + ",a" * 19))
    assert len(str(error.value)) < 500


def test_columns_and_encoding_can_be_named(write):
    path = write("comment;,class\nCafé,a\n".replace(";", "").encode("cp1252"))
    assert read_csv(path, text="comment", label="class", encoding="cp1252") == (["Café"], ["a"])
    assert read_csv(write((HEADER + "Café,a\n").encode("utf-16")), encoding="utf-16") == (["Café"], ["a"])


WRONG = {
    "nothing": ("", "is empty; expected a first line such as text,label"),
    "blank lines": (" \n\n", "is empty; expected a first line such as text,label"),
    "a byte order mark alone": ("\ufeff", "is empty"),
    "no row": (HEADER, "has a first line and no texts below it"),
    "no column of texts": ("comment,label\nx,a\n", "no column 'text'. Columns found: comment, label. Rename one"),
    "no column of labels": ("text,class\nx,a\n", "no column 'label'. Columns found: text, class."),
    "semicolons": (
        "text;label\nx;a\n",
        'not separated by commas but, it seems, by semicolons. Name the separator: separator=";"',
    ),
    "tabs": ("text\tlabel\nx\ta\n", r'by tabs. Name the separator: separator="\\t"'),
    "bars": ("text|label\nx|a\n", r'by bars. Name the separator: separator="\|"'),
    "semicolons and a comma": ("text;label;a, b\nx;a;y\n", "it seems, by semicolons"),
    "a spreadsheet's line": ("sep=;\ntext;label\nx;a\n", "line 'sep=;', .* Delete it and name the .*separator=\";\""),
    "a spreadsheet's needless line": ("sep=,\ntext,label\nx,a\n", "line 'sep=,', which spreadsheets add. Delete it.$"),
    "no line of names": (
        "Good,a\nBad,b\n",
        "found: Good, a. .* If the first line is a text already, .*it: text,label.",
    ),
    "a quote after a tab": (HEADER + 'x,a\nfilm,\t"pos"\n', "line 3: before the double quote of the label stands a"),
    "a space after a quote": (HEADER + '"film" ,a\n', "line 2: .* is there a space behind one"),
    "a column twice": ("text,label,text\nx,a,y\n", "more than one column 'text'"),
    "an empty text": (HEADER + "x,a\n  ,a\n", "line 3: the text is empty. Fill it in, or delete the row"),
    "an empty label": (HEADER + "x,a\ny,\n", "line 3: the label is empty"),
    "an empty text below two lines": (HEADER + '"x\ny",a\n,b\n', "line 4: the text is empty"),
    "an empty label of two lines": (HEADER + '"x\ny",\n', "line 2: the label is empty"),
    "a field too many": (HEADER + "x,a\nno, not so,a\n", 'line 3: 3 fields, .* has 2. A text with a comma .* "double'),
    "a field too few": (HEADER + "x\n", "line 2: 1 fields, but the first line has 2"),
    "an open quote": (HEADER + 'x,a\n"open,a\n', "line 3: unexpected end of data. Is a double quote left open"),
    "cp1252": ((HEADER + "x,a\nCafé,b\n").encode("cp1252"), "not utf-8: byte 0xe9 in line 3 .number 18 of .* as UTF-8"),
    "UTF-16": ((HEADER + "x,a\n").encode("utf-16"), 'in UTF-16. Save it as UTF-8, .* encoding="utf-16"'),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_file_is_said_with_its_place(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=message) as error:
        read_csv(path)
    assert str(path) in str(error.value)


def test_a_text_in_utf_16_or_32_is_not_read_as_another(write):
    content = HEADER + "Good.,yes\n"
    for encoding, told in (
        ("utf-16-le", "utf-8"),
        ("utf-16-be", "utf-8"),
        ("utf-32", "utf-16"),
        ("utf-32", "utf-16-le"),
    ):
        path = write(content.encode(encoding))
        with pytest.raises(
            ValueError, match=r"mine\.csv holds the character NUL: it is no text, or in UTF-16 or UTF-32"
        ):
            read_csv(path, encoding=told)
    for encoding in ("utf-16-le", "utf-16", "utf-32"):
        assert read_csv(write(content.encode(encoding)), encoding=encoding) == (["Good."], ["yes"])


def test_one_column_is_not_taken_for_text_and_label(write):
    path = write(HEADER + "Good.,yes\n")
    with pytest.raises(ValueError, match=r"the columns are named \('label', 'label'\); name 2 different ones"):
        read_csv(path, text="label")


def test_a_file_that_is_not_there_and_an_unknown_encoding_are_refused(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.csv"):
        read_csv(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path)  # a folder
    with pytest.raises(ValueError, match="there is no encoding 'klingon'"):
        read_csv(write(HEADER + "x,a\n"), encoding="klingon")


# --- calibration ------------------------------------------------------------------------------------------------------


def test_the_calibration_error_by_hand():
    p = torch.tensor([[0.95, 0.05], [0.91, 0.09], [0.65, 0.35], [0.4, 0.6]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0])
    # bins: (0.9, 1] twice, mean 0.93, one of two right; (0.6, 0.7] 0.65, right; (0.5, 0.6] 0.6, wrong
    assert calibration_error(p, labels) == pytest.approx(0.5 * 0.43 + 0.25 * 0.35 + 0.25 * 0.6)


@pytest.mark.parametrize("bins", [1, 5, 10, 15])
def test_the_bins_hold_all_answers_the_extremes_too(bins):
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.7, 0.3]])
    found = calibration_bins(p, torch.tensor([0, 1, 1]), bins)
    assert found.shape == (bins, 3)
    assert found[:, 0].sum() == pytest.approx(1)
    assert (found[:, 0] * found[:, 2]).sum() == pytest.approx(1 / 3)
    assert found[-1, 1] > 0  # 1.0 is in the last bin


@few
@given(seed=st.integers(0, 10**6), scale=st.floats(0.3, 8))
def test_the_temperature_is_the_one_with_the_least_loss(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(truth.softmax(-1), 1, generator=generator)[:, 0]
    t = fit_temperature(scale * truth, labels)
    losses = [F.cross_entropy(scale * truth / x, labels) for x in (t, 0.99 * t, 1.01 * t)]
    assert losses[0] <= losses[1] and losses[0] <= losses[2]
    assert t == pytest.approx(scale * fit_temperature(truth, labels), rel=1e-6)


def test_a_temperature_never_changes_an_answer_and_stays_in_its_limits():
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == pytest.approx(0.05)  # all right: as sure as allowed
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(20.0)  # all wrong


@pytest.mark.parametrize("function", [fit_temperature, calibration_error])
@pytest.mark.parametrize("n", [0, 2])
def test_rows_and_labels_of_another_number_are_refused(function, n):
    message = r"labels have the shape \(3,\); expected \(2,\)" if n else r"have the shape \(0, 3\); expected \(N, K\)"
    with pytest.raises(ValueError, match=message):
        function(torch.rand(n, 3), torch.zeros(n and 3, dtype=torch.int64))


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start():
    """A small model for the words w0 to w34, random, and its tokenizer."""
    torch.manual_seed(0)
    return MaskedLanguageModel(Encoder(config(max_len=10, init_std="fan_in"))).eval(), words(35)


def rows(n=40, labels=("even", "odd", "third")):
    """Texts that begin with a word of their label."""
    return [f"w{i % len(labels)} w{3 + i % 30}" for i in range(n)], [labels[i % len(labels)] for i in range(n)]


NOISE = [("a", "b")[k] for k in torch.randint(2, (40,), generator=torch.Generator().manual_seed(0))]  # nothing to learn


@pytest.fixture(scope="module", autouse=True)
def without_dropout():
    """So few texts are learned faster without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "DROPOUT", 0.0)
        yield


def quick(start, texts, labels, **options):
    return fine_tune(texts, labels, start, **{"epochs": 15, "lr": 1e-2, **options})


def test_five_lines_learn_a_file_and_keep_what_they_learned(write, start, tmp_path, capsys):
    texts, labels = rows(60)
    path = write(HEADER + "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)))
    texts, labels = read_csv(path)
    classifier = quick(start, texts, labels)
    answers = classifier.predict(["w0 w9", "w1 w9", "w2 w9"])
    assert [label for label, _ in answers] == ["even", "odd", "third"]
    assert all(0.5 < p <= 1 for _, p in answers)
    classifier.save(tmp_path / "made")
    assert Classifier.load(tmp_path / "made").predict(["w0 w9", "w1 w9", "w2 w9"]) == answers
    said = capsys.readouterr().out
    assert "60 texts, 3 labels: 48 to train, 12 held out" in said
    assert "accuracy 1.00 on the held-out texts (always 'even': 0.33), macro-F1 1.00" in said


@pytest.mark.parametrize("of", [list, torch.tensor, np.array, lambda row: list(torch.tensor(row))])
def test_labels_of_torch_and_numpy_get_their_plain_names(start, of):
    made = quick(start, rows(20)[0], of([i % 3 for i in range(20)]), epochs=1, report=None)
    assert made.labels == ("0", "1", "2")


def test_spaces_around_a_label_make_no_other_label(start):
    texts, labels = rows(20, ("even", "odd"))
    made = quick(start, texts, [f" {x}" if i < 9 else x for i, x in enumerate(labels)], epochs=1, report=None)
    assert made.labels == ("even", "odd")


def test_the_start_stays_as_it_was(start):
    before = {name: tensor.clone() for name, tensor in start[0].state_dict().items()}
    quick(start, *rows(), epochs=2, report=None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start[0].state_dict().items())
    assert not start[0].training


def test_the_same_seed_gives_the_same_classifier_and_another_seed_another(start):
    one, two, other = (quick(start, *rows(), epochs=2, seed=seed, report=None) for seed in (3, 3, 4))
    assert torch.equal(one.probabilities(["w1 w2"]), two.probabilities(["w1 w2"]))
    assert not torch.equal(one.probabilities(["w1 w2"]), other.probabilities(["w1 w2"]))


def test_the_epoch_with_the_least_held_out_loss_is_kept_and_training_stops_soon_after(start):
    texts, noise = rows(40)[0], NOISE
    made = quick(start, texts, noise, epochs=60, report=None)
    losses = [entry["loss"] for entry in made.history]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 1 + finetuning.PATIENCE < 60
    _, held_out = _split(texts, noise, 0.2, 0)
    ids = made.tokenizer.encode_batch([texts[i] for i in held_out])
    labels = torch.tensor([made.labels.index(noise[i]) for i in held_out])
    assert F.cross_entropy(class_logits(made.model, ids, 0), labels).item() == pytest.approx(losses[best], rel=1e-5)


def test_the_temperature_is_chosen_on_the_held_out_texts_and_is_at_least_one(start):
    texts, labels, found = rows()[0], NOISE, []
    for seed in range(4):
        made = quick(start, texts, labels, epochs=4, lr=0.05, seed=seed, report=None)
        _, held_out = _split(texts, labels, 0.2, seed)
        logits = class_logits(made.model, made.tokenizer.encode_batch([texts[i] for i in held_out]), 0)
        best = fit_temperature(logits, torch.tensor([made.labels.index(labels[i]) for i in held_out]))
        assert made.temperature == pytest.approx(max(1.0, best))
        found.append(made.temperature)
        one = class_logits(made.model, made.tokenizer.encode_batch(["w1"]), 0)
        assert_close(made.probabilities(["w1"]), (one / made.temperature).softmax(-1))
    assert max(found) > 1.1


def test_a_few_held_out_texts_that_are_all_right_make_no_classifier_surer(start):
    made = quick(start, *rows(), report=None)
    assert made.history[-1]["accuracy"] == made.history[-1]["macro_f1"] == 1.0 and made.temperature == 1.0


def test_a_frozen_encoder_keeps_its_weights(start):
    made = quick(start, *rows(), frozen=True, epochs=3, report=None)
    mine, theirs = made.model.encoder.state_dict(), start[0].encoder.state_dict()
    assert all(torch.equal(mine[name].cpu(), theirs[name]) for name in theirs)


def test_a_frozen_encoder_reads_each_text_once_and_learns_what_it_would_by_reading_again(start, monkeypatch):
    monkeypatch.setattr(finetuning, "DROPOUT", 0.1)
    texts, labels = rows(40)
    calls, forward = [], Encoder.forward
    monkeypatch.setattr(
        Encoder, "forward", lambda self, ids, *more: calls.append(len(ids)) or forward(self, ids, *more)
    )
    made = fine_tune(texts, labels, start, frozen=True, epochs=4, lr=1e-2, report=None)
    assert sum(calls) == len(texts) and len(made.history) == 4

    train, test = _split(texts, labels, 0.2, 0)
    ids, y = start[1].encode_batch(texts), [made.labels.index(label) for label in labels]
    torch.manual_seed(0)
    again = TextClassifier(with_dropout(start[0].encoder, 0.1), 3, frozen=True)
    batches = LabelledBatches([ids[i] for i in train], [y[i] for i in train], start[1])
    losses = []

    def evaluate():
        logits = class_logits(again, [ids[i] for i in test], 0)
        losses.append(F.cross_entropy(logits, torch.tensor([y[i] for i in test])).item())

    epoch = len(batches)
    fit(again, batches, 4 * epoch, lr=1e-2, warmup=epoch, evaluate=evaluate, evaluate_every=epoch, progress=False)
    assert [entry["loss"] for entry in made.history] == pytest.approx(losses, rel=1e-5)
    assert losses[-1] == min(losses)
    assert_close(made.model.head.out.weight, again.head.out.weight, rtol=1e-4, atol=1e-6)


def late(n=80):
    """Texts of 22 tokens; only the last word tells the label."""
    before = torch.randint(3, 34, (n, 19), generator=torch.Generator().manual_seed(0)).tolist()
    return [" ".join(f"w{k}" for k in [*row, i % 2]) for i, row in enumerate(before)], ["ab"[i % 2] for i in range(n)]


def test_windows_read_what_is_cut_off_otherwise(start, capsys):
    texts, labels = late()
    made = quick(start, texts, labels, long="windows", epochs=25)
    assert "longer than" not in capsys.readouterr().out
    answers = made.predict(texts, report=None)
    assert sum(label == right for (label, _), right in zip(answers, labels, strict=True)) > 0.9 * len(texts)
    cut = quick(start, texts, labels, epochs=25)
    assert (
        "80 texts are longer than 10 tokens: only their beginning is read. 55% of all tokens" in capsys.readouterr().out
    )
    assert max(entry["accuracy"] for entry in cut.history) < max(entry["accuracy"] for entry in made.history)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_text_in_windows_has_the_mean_of_their_vectors(start, frozen, tmp_path):
    made = quick(start, *late(), long="windows", epochs=2, frozen=frozen, report=None)
    text = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11"
    parts = [[2, 6, 7, 8, 9, 10, 3], [2, 11, 12, 13, 14, 15, 16, 3]]  # 5 and 6 words: windows of about the same length
    with torch.no_grad():
        vectors = torch.cat([SentenceEncoder(made.model.encoder)(torch.tensor([part])) for part in parts])
        logits = made.model.head.out(vectors.mean(0))
    assert_close(made.probabilities([text])[0], (logits / made.temperature).softmax(-1), atol=1e-6, rtol=1e-5)
    made.save(tmp_path / "kept")
    again = Classifier.load(tmp_path / "kept")
    assert again.long == "windows" and torch.equal(again.probabilities([text]), made.probabilities([text]))


def test_no_way_of_reading_long_texts_is_taken_for_another(start):
    with pytest.raises(ValueError, match="long is 'window'; choose one of error, cut, windows"):
        quick(start, *rows(), long="window")
    with pytest.raises(ValueError, match="text 0 has 22 tokens; this model reads 10"):
        quick(start, *late(), long="error")


def test_the_report_says_plainly_when_words_alone_do_better(start, capsys):
    quick(start, *late(), epochs=1)  # the word that tells is cut off
    said = re.search(r"on the same texts. have accuracy (\d\.\d\d)\. Words alone do better", capsys.readouterr().out)
    assert float(said[1]) > 0.6
    quick(start, *rows(60))
    assert "have accuracy 1.00.\n" in capsys.readouterr().out


def test_words_alone_are_trained_and_tried_on_the_same_split(start, monkeypatch):
    seen = []
    monkeypatch.setattr(finetuning, "words_alone", lambda texts, labels, *split: seen.append(split) or 0.0)
    quick(start, *rows(), epochs=1, seed=3, report=lambda line: None)
    assert seen == [_split(*rows(), 0.2, 3)]
    quick(start, *rows(), epochs=1, report=None)
    assert len(seen) == 1  # in silence nothing is computed for a report


def test_words_of_any_script_and_signs_alone_have_their_accuracy():
    texts, labels = ["好", "坏", "!", "?"] * 5, ["a", "b", "a", "b"] * 5
    assert finetuning.words_alone(texts, labels, range(12), range(12, 20)) == 1.0


def test_the_share_of_known_words_by_hand(start):
    assert finetuning.known_words(["w1 w2 w1", "w3 zebra"], start[1]) == 4 / 5
    assert finetuning.known_words(["!!"], start[1]) == 0
    bpe = train_bpe(["low lower lowest low low"] * 5, 300)
    assert finetuning.known_words(["say low low zq"], bpe) == 2 / 4


def test_the_pooling_of_a_sentence_encoder_is_kept(start):
    made = quick((SentenceEncoder(start[0].encoder, "cls"), start[1]), *rows(), epochs=1, report=None)
    assert made.model.head.pooling == "cls"


def test_texts_that_are_cut_are_counted_in_training_and_in_prediction(start, capsys):
    texts, labels = rows(20)
    texts[3] += " w5" * 20
    texts[7] += " w6" * 20
    made = quick(start, texts, labels, epochs=1)
    assert "2 of 20 texts are longer than 10 tokens: only their beginning is read." in capsys.readouterr().out
    long = made.predict(["w1 " * 30])
    assert "1 of 1 texts are longer than 10 tokens" in capsys.readouterr().out
    assert long == made.predict(["w1 " * 8], report=None)
    assert capsys.readouterr().out == ""


def test_equal_texts_with_different_labels_are_told(start, capsys):
    texts, labels = rows(30)
    quick(start, [*texts, "w0 w3", "w1 w4 "], [*labels, "odd", "even"], epochs=1)
    assert "2 of the texts stand there with different labels, such as 'w0 w3'" in capsys.readouterr().out
    quick(start, texts, labels, epochs=1)
    assert "different labels" not in capsys.readouterr().out


def test_equal_texts_lie_on_one_side_and_each_label_on_both():
    texts = [f"t{i // 3}" for i in range(60)]  # each text three times
    labels = [("a", "b")[(i // 3) % 2] for i in range(60)]
    train, test = _split(texts, labels, 0.2, 0)
    assert sorted(train + test) == list(range(60))
    assert not {texts[i] for i in train} & {texts[i] for i in test}
    for part in (train, test):
        assert {labels[i] for i in part} == {"a", "b"}
    assert len(test) == 12


@few
@given(
    counts=st.lists(st.integers(4, 30), min_size=2, max_size=5), share=st.floats(0.01, 0.99), seed=st.integers(0, 9999)
)
def test_the_split_leaves_each_label_something_on_both_sides(counts, share, seed):
    labels = [str(k) for k, count in enumerate(counts) for _ in range(count)]
    texts = [f"text {i}" for i in range(len(labels))]
    train, test = _split(texts, labels, share, seed)
    assert sorted(train + test) == list(range(len(labels)))
    for part in (train, test):
        assert {labels[i] for i in part} == set(labels)


A_LIST = "put a single text into a list"
FEW = "needs at least 4 different texts: 'y' has 1. Add texts"
FIT_REFUSED = {
    "no texts": ([], [], {}, ValueError, "the list of texts is empty"),
    "one text": ("w1", ["x"], {}, TypeError, A_LIST),
    "a label missing": (["a", "b"], ["x"], {}, ValueError, "2 texts and 1 labels; each text needs its own"),
    "an empty text": (["a", " "], ["x", "y"], {}, ValueError, "text 1 is empty"),
    "an empty label": (["a", "b"], ["x", " "], {}, ValueError, "the label of text 1 is empty"),
    "a label None": (["a", "b"], ["x", None], {}, ValueError, "label of text 1 is missing .None.: fill it in, or"),
    "a label NaN": (["a", "b"], [1.0, math.nan], {}, ValueError, "label of text 1 is missing .nan."),
    "a label NaN of NumPy": (["a", "b"], np.array([1, np.nan]), {}, ValueError, "label of text 1 is missing"),
    "a label NaN of torch": (["a", "b"], torch.tensor([1, math.nan]), {}, ValueError, "label of text 1 is missing"),
    "a label NaN as a text": (["a", "b"], ["x", "NaN"], {}, ValueError, "label of text 1 is missing"),
    "a label of bytes": (["a", "b"], ["x", b"y"], {}, TypeError, "label of text 1 is bytes; each label must be a str"),
    "rows of numbers": (["a", "b"], torch.eye(2), {}, TypeError, "label of text 0 is Tensor"),
    "one str of labels": (["a", "b"], "xy", {}, TypeError, "expected a list of labels"),
    "one label": (["a", "b"], ["x", "x"], {}, ValueError, "all 2 texts have the label 'x': with one"),
    "too few texts of a label": (list("abcde"), ["x"] * 4 + ["y"], {}, ValueError, FEW),
    "too few different ones": (list("abcd") + ["e"] * 9, ["x"] * 4 + ["y"] * 9, {}, ValueError, FEW),
    "no epochs": (*rows(), {"epochs": 0}, ValueError, "epochs is 0"),
    "nothing held out": (*rows(), {"held_out": 0.0}, ValueError, "held_out 0.0; expected .* between 0 and 1"),
    "all held out": (*rows(), {"held_out": 1}, ValueError, "held_out 1"),
    "longer than the model": (*rows(), {"max_len": 11}, ValueError, "max_len is 11; it must be from 3 to 10"),
    "no room for a token": (*rows(), {"max_len": 2}, ValueError, "max_len is 2"),
}


@pytest.mark.parametrize(("texts", "labels", "options", "error", "message"), FIT_REFUSED.values(), ids=FIT_REFUSED)
def test_what_nothing_can_be_learned_from_is_refused(start, texts, labels, options, error, message):
    with pytest.raises(error, match=message):
        quick(start, texts, labels, **options)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [("w1", TypeError, A_LIST), (["w1", None], TypeError, "text 1 is NoneType"), ([""], ValueError, "text 0 is empty")],
)
def test_what_is_no_list_of_texts_cannot_be_predicted(made, texts, error, message):
    with pytest.raises(error, match=message):
        made.predict(texts)


def test_the_logits_come_in_the_order_of_the_texts_whatever_their_length_and_mode_is_kept():
    torch.manual_seed(0)
    model = perturbed(TextClassifier(Encoder(config(dropout=0.5)), 3)).float().train()
    texts = [[2] + [5 + i] * (1 + (7 * i) % 9) + [3] for i in range(9)]
    found = class_logits(model, texts, 0)
    assert model.training and model.encoder.training
    model.eval()
    for text, row in zip(texts, found, strict=True):
        assert_close(row, model(*pad([text]))[0].detach(), atol=1e-5, rtol=1e-5)


def test_a_copy_with_dropout_is_a_copy(start):
    encoder = start[0].encoder
    copy = with_dropout(encoder, 0.3)
    assert copy.config.dropout == 0.3 and encoder.config.dropout == 0.0
    assert torch.equal(copy.tokens.weight, encoder.tokens.weight)
    assert copy.tokens.weight.data_ptr() != encoder.tokens.weight.data_ptr()


# --- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(start):
    return quick(start, *rows(), epochs=2, max_len=8, report=None)


def test_a_classifier_never_takes_the_place_of_another_model(made, start, tmp_path):
    checkpoints.save(tmp_path / "mine", *start, {"name": "mine"})
    with pytest.raises(FileExistsError, match="holds a model that is no classifier: name another folder"):
        made.save(tmp_path / "mine")
    assert isinstance(checkpoints.load(tmp_path / "mine").model, MaskedLanguageModel)
    made.save(tmp_path / "tuned")
    made.save(tmp_path / "tuned")  # an older classifier is replaced
    (tmp_path / "tuned" / CARD).write_text("damaged")
    made.save(tmp_path / "tuned")
    assert Classifier.load(tmp_path / "tuned").labels == made.labels


def test_what_is_loaded_is_what_was_saved(made, tmp_path):
    made.save(tmp_path)
    again = Classifier.load(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, "model.safetensors", "tokenizer.json"]
    assert (again.labels, again.temperature, again.max_len) == (made.labels, made.temperature, 8)
    assert again.history == made.history
    assert torch.equal(again.probabilities(["w1 w2", "w3"]), made.probabilities(["w1 w2", "w3"]))
    assert not again.model.training


def card(**changes):
    def change(content):
        told = json.loads(content) | changes
        del told["sha256"]
        return json.dumps(told | {"sha256": seal(told)}).encode()

    return change


WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
MISSING = "{} is missing, damaged, or not the one"
DAMAGED = {
    "cut weights": (WEIGHTS, lambda content: content[:-20], ValueError, MISSING.format(WEIGHTS)),
    "no weights": (WEIGHTS, None, ValueError, MISSING.format(WEIGHTS)),
    "a cut tokenizer": (TOKENIZER, lambda content: content[:-20], ValueError, MISSING.format(TOKENIZER)),
    "no tokenizer": (TOKENIZER, None, ValueError, MISSING.format(TOKENIZER)),
    "no card": (CARD, None, FileNotFoundError, r"there is no classifier in .*card\.json is missing"),
    "a newer card": (CARD, card(format=99), ValueError, "has the format 99; this version reads up to 2"),
    "labels of others": (CARD, card(labels=["a"] * 7), ValueError, "do not fit the configuration"),
    "a broken card": (CARD, lambda content: b"{", ValueError, "is damaged"),
}


@pytest.mark.parametrize(("name", "change", "error", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_a_missing_and_a_newer_file_are_refused(made, tmp_path, name, change, error, message):
    made.save(tmp_path)
    if change is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(error, match=message):
        Classifier.load(tmp_path)


def test_macro_f1_counts_a_rare_class_as_much_as_a_common_one():
    labels = torch.tensor([0] * 8 + [1, 1])
    assert macro_f1(torch.zeros(10, dtype=torch.long), labels, 2) == pytest.approx((2 * 0.8 / 1.8 + 0) / 2)
    assert macro_f1(labels, labels, 2) == 1.0
    assert macro_f1(labels, labels, 3) == pytest.approx(2 / 3)  # a class that is neither there nor guessed counts 0
