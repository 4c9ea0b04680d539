"""Lesson 14: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import sys

import pytest

from nextbert_lite.checks import lesson_14

OWN = "from nextbert_lite import Encoder as Base\n\n\nclass Encoder(Base): ...\n\n\n"


PACKAGES = {
    "none": (None, "there is no my_bert beside this notebook"),
    "passes": (f"{OWN}YOURS = ('Encoder', 'EncoderLayer')", "yours, from my_bert, with your EncoderLayer."),
    "the course's": (f"{OWN}YOURS = ('train',)", "since 04.5 is not yours yet"),
    "fails": ("class Encoder: ...\n\n\nYOURS = ('Encoder',)", "my_bert's does not pass 04.5"),
    "broken": ("import nothing_of_this_name", "my_bert cannot be used (ModuleNotFoundError"),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, id=f"lesson14.1-{kind}") for kind in PACKAGES])
def test_lesson_14_takes_the_learners_encoder_where_it_passes_and_says_whose_it_is(kind, tmp_path, monkeypatch, capsys):
    text, said = PACKAGES[kind]
    if text is not None:
        (tmp_path / "my_bert").mkdir()
        (tmp_path / "my_bert" / "__init__.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_bert", raising=False)
    path = list(sys.path)
    encoder = lesson_14.my_encoder()
    sys.modules.pop("my_bert", None)
    assert sys.path == path
    assert encoder.__module__ == ("my_bert" if kind == "passes" else "nextbert_lite.core.encoder")
    out = capsys.readouterr().out
    assert said in out and out.count("\n") == 1
