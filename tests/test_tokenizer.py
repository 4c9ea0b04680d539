"""Any text comes back as it was; a special token in a text is text unless it is asked for."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import few, words
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from nextbert_lite.training.tokenizer import SPECIALS, Tokenizer, train_bpe, word_level

TEXTS = ["The key to the cabinets is here.", "def encode(text): return [ids]", "the cat sat on the mat"] * 3
BPE = train_bpe(TEXTS, vocab_size=330)


@few
@given(st.text())
@example("")
@example(" ")
@example("  two  spaces,\ttabs\r\n and lines\n")
@example("naïve café, cafe\u0301, ﬁ, ＡＢ")  # composed, decomposed, compatibility forms: nothing is normalised
@example("你好 🙂 👩‍👩‍👧 \U0010ffff \x00 \ufeff \u202e")
@example("[CLS] is a special token, [MASK] and [PAD] too")
def test_any_text_round_trips(text):
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert ids[0] == BPE.cls_id and ids[-1] == BPE.sep_id
    assert not set(ids[1:-1]) & set(BPE.special_ids)  # nothing is unknown, no text becomes a special token
    assert len(ids) - 2 <= len(text.encode())


@few
@given(st.lists(st.text(), max_size=5))
def test_a_batch_is_its_texts_one_by_one(texts):
    assert BPE.encode_batch(texts) == [BPE.encode(text) for text in texts]


def test_frequent_words_become_one_token_and_rare_ones_more():
    assert BPE.tokens(BPE.encode("the cat")[1:-1]) == ["the", " cat"]
    assert len(BPE.encode("xylophone")) > 4


def test_special_tokens_are_read_only_when_asked_for():
    assert BPE.mask_id not in BPE.encode("a [MASK] b")
    assert BPE.encode("a [MASK] b", allow_specials=True).count(BPE.mask_id) == 1
    assert BPE.mask_id not in BPE.encode("a [MASK] b")  # the last call leaves nothing behind
    assert BPE.decode(BPE.encode("a [MASK] b", allow_specials=True)).split() == ["a", "b"]


def test_special_tokens_in_words_are_unknown_unless_asked_for():
    tokenizer = word_level(["the", "cat"])
    assert tokenizer.encode("the [MASK] [PAD] cat") == [2, 5, tokenizer.unk_id, tokenizer.unk_id, 6, 3]
    assert tokenizer.encode("the [MASK] cat", allow_specials=True) == [2, 5, tokenizer.mask_id, 6, 3]


def test_the_special_tokens_are_the_first_ids():
    for tokenizer in (BPE, words(3)):
        assert [tokenizer.id(token) for token in SPECIALS] == list(range(5)) == list(tokenizer.special_ids)
        specials = tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
        assert specials == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("max_len", [3, 4, 7, 8, 9, 100])
def test_max_len_cuts_before_the_separator(max_len):
    tokenizer = words(9)
    whole = tokenizer.encode("w1 w2 w3 w4 w5 w6")  # 8 with [CLS] and [SEP]
    ids = tokenizer.encode("w1 w2 w3 w4 w5 w6", max_len=max_len)
    assert len(ids) == min(max_len, 8)
    assert ids == [*whole[: len(ids) - 1], tokenizer.sep_id]


@pytest.mark.parametrize("tokenizer", [BPE, words(9)], ids=["BPE", "words"])
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    for again in (Tokenizer.load(path), Tokenizer.load(str(path)), Tokenizer.from_json(tokenizer.to_json())):
        for text in (*TEXTS, "w1 w8 other", "naïve 🙂 [MASK]"):
            for allow in (True, False):
                assert again.encode(text, allow_specials=allow) == tokenizer.encode(text, allow_specials=allow)
            assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
        assert len(again) == again.vocab_size == tokenizer.vocab_size
        assert again.to_json() == tokenizer.to_json()


def test_training_twice_gives_the_same_vocabulary():
    assert train_bpe(TEXTS, vocab_size=330).to_json() == BPE.to_json()


def test_words_are_split_at_spaces_and_others_are_unknown():
    tokenizer = word_level(["the", "cat"])
    assert tokenizer.encode("the  cat\nsat") == [2, 5, 6, 1, 3]
    assert tokenizer.tokens([2, 5, 6, 1, 3]) == ["[CLS]", "the", "cat", "[UNK]", "[SEP]"]
    assert tokenizer.decode([2, 5, 6, 3]) == "the cat"


def test_tokens_give_each_piece_its_own_text():
    ids = BPE.encode("the [MASK] mat", allow_specials=True)
    pieces = BPE.tokens(ids)
    assert pieces[0] == "[CLS]" and "[MASK]" in pieces and pieces[-1] == "[SEP]" and len(pieces) == len(ids)


# --- special tokens of a published tokenizer --------------------------------------------------------------------------

NAMES = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}


def published(**changes):
    """A word-piece tokenizer with other special tokens at other ids, which cuts and pads by itself."""
    words = ["the", "cat", "<s>", "s", "<pad>", "##at", "</s>", "##s", "<unk>", "c", "end", "<mask>"]
    backend = Backend(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True), AddedToken("end", special=True)])
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    return Tokenizer(backend, {**NAMES, **changes})


def test_published_special_tokens_have_their_own_ids():
    tokenizer = published()
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        4,
        8,
        2,
        6,
        11,
    )
    assert tokenizer.special_ids == (2, 4, 6, 8, 10, 11)  # "end" is special too
    assert tokenizer.vocab_size == len(tokenizer) == 12
    other = published(mask="cat", cls="end")
    assert (other.mask_id, other.cls_id) == (1, 10) and other.special_ids == (1, 4, 6, 8, 10, 11)


def test_a_published_tokenizer_neither_cuts_nor_pads():
    tokenizer = published()
    assert tokenizer.encode("the cats") == [2, 0, 1, 7, 6]
    assert tokenizer.encode("cat") == [2, 1, 6]
    assert tokenizer.encode("the cats", max_len=4) == [2, 0, 1, 6]
    assert tokenizer.encode_batch(["sat", "the dog"]) == [[2, 3, 5, 6], [2, 0, 8, 6]]


def test_published_special_tokens_are_read_only_when_asked_for():
    tokenizer = published()
    assert tokenizer.encode("the <mask> <s> end", allow_specials=True) == [2, 0, 11, 2, 10, 6]
    for text in ("the <mask>", "<s>", "<pad>", "</s>", "end"):
        ids = tokenizer.encode(text)
        assert not {*ids[1:-1]} & ({*tokenizer.special_ids} - {tokenizer.unk_id})
        assert tokenizer.encode(text, allow_specials=True)[-2] in tokenizer.special_ids


def test_word_pieces_are_shown_and_joined_again():
    tokenizer = published()
    assert tokenizer.tokens(tokenizer.encode("the cats")) == ["<s>", "the", "cat", "##s", "</s>"]
    assert tokenizer.decode(tokenizer.encode("the cats sat")) == "the cats sat"
    assert tokenizer.decode([2, 0, 11, 10, 1, 6, 4]) == "the cat"


def test_a_saved_published_tokenizer_keeps_its_special_tokens(tmp_path):
    tokenizer = published(cls="end")
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    for again in (Tokenizer.load(path), Tokenizer.from_json(tokenizer.to_json())):
        assert again.specials == tokenizer.specials and again.special_ids == tokenizer.special_ids
        assert again.cls_id == 10 and again.pad_id == 4 and again.to_json() == tokenizer.to_json()
        for text in ("the cats", "the <mask> sat", "dog"):
            for allow in (True, False):
                assert again.encode(text, allow_specials=allow) == tokenizer.encode(text, allow_specials=allow)


def test_our_own_tokenizers_are_saved_as_the_library_writes_them(tmp_path):
    path = tmp_path / "tokenizer.json"
    BPE.save(path)
    assert BPE.to_json() == BPE.backend.to_str() == Backend.from_file(str(path)).to_str()


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"bytes", ["a list"], None, 5])
def test_encode_takes_one_text(text):
    kind = type(text).__name__
    with pytest.raises(TypeError, match=rf"encode takes one text \(a str\), not {kind}.*use encode_batch"):
        BPE.encode(text)


def test_encode_batch_takes_a_list():
    with pytest.raises(TypeError, match="put a single text into a list"):
        BPE.encode_batch("one text")


@pytest.mark.parametrize("wrong", [b"bytes", ("a", "pair"), ["a", "pair"], None])
def test_what_is_no_text_in_a_batch_is_named(wrong):
    with pytest.raises(TypeError, match=rf"text 1 is {type(wrong).__name__}; each text must be a str"):
        BPE.encode_batch(["fine", wrong])


def test_half_a_surrogate_pair_is_refused_with_its_repair():
    broken = "half \ud83d here"
    with pytest.raises(ValueError, match=r"text 1 holds half a surrogate pair.*text\.encode\('utf-8', 'replace'\)"):
        BPE.encode_batch(["fine", broken])
    BPE.encode(broken.encode("utf-8", "replace").decode())


@pytest.mark.parametrize("max_len", [2, 0, -1])
def test_a_max_len_without_room_for_a_token_is_refused(max_len):
    with pytest.raises(ValueError, match=rf"max_len is {max_len}; a text needs at least 3 places"):
        BPE.encode("text", max_len=max_len)


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 260; the 256 bytes and 5 special tokens need 261"):
        train_bpe(TEXTS, vocab_size=260)
    assert train_bpe(TEXTS, vocab_size=261).decode(train_bpe(TEXTS, vocab_size=261).encode("é")) == "é"


@pytest.mark.parametrize(
    ("listed", "repeated"),
    [(["cat", "dog", "cat"], r"\['cat'\]"), (["cat", "[MASK]"], r"\['\[MASK\]'\]"), ([], r"\[\]")],
)
def test_repeated_missing_and_special_words_are_refused(listed, repeated):
    with pytest.raises(ValueError, match=rf"each once and no special token; repeated: {repeated}"):
        word_level(listed)


@pytest.mark.parametrize("wrong", [-1, -100, 330, 10**6])
def test_an_id_that_does_not_exist_is_refused(wrong):
    for read in (BPE.decode, BPE.tokens):
        with pytest.raises(ValueError, match=rf"there is no id {wrong}: this tokenizer has the ids 0 to "):
            read([5, wrong])


def test_a_token_that_does_not_exist_is_refused():
    with pytest.raises(KeyError, match=r"'cat' is not a token of this vocabulary of 14"):
        words(9).id("cat")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer file .*nothing\.json"):
        Tokenizer.load(tmp_path / "nothing.json")


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"', "not JSON"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"broken\.json is no tokenizer file: .*`Tokenizer\.save` writes one"):
        Tokenizer.load(path)


def test_a_tokenizer_with_other_special_ids_is_refused():
    backend = Backend(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "word": 4}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"\['\[PAD\]', '\[UNK\]', '\[MASK\]'\] do not have the ids .*train_bpe or"):
        Tokenizer(backend)


@pytest.mark.parametrize("role", ["pad", "unk", "cls", "sep", "mask"])
def test_published_special_tokens_must_be_five_different_tokens_of_the_vocabulary(role):
    with pytest.raises(ValueError, match=r"the special tokens \['<none>'\] are not in this vocabulary of 12"):
        published(**{role: "<none>"})
    with pytest.raises(ValueError, match="they must name five different tokens for "):
        published(**{role: NAMES["cls" if role == "pad" else "pad"]})
    with pytest.raises(ValueError, match="they must name five different tokens for "):
        Tokenizer(published().backend, {key: token for key, token in NAMES.items() if key != role})


def test_a_published_vocabulary_with_gaps_is_refused():
    words = {**{token: i for i, token in enumerate(NAMES.values())}, "word": 9}
    with pytest.raises(ValueError, match="the ids of this vocabulary of 6 have gaps"):
        Tokenizer(Backend(models.WordLevel(words, unk_token="<unk>")), NAMES)


def test_a_published_file_is_not_loaded_as_our_own(tmp_path):
    path = tmp_path / "tokenizer.json"
    published().backend.save(str(path))
    with pytest.raises(ValueError, match=r"do not have the ids \[0, 1, 2, 3, 4\]"):
        Tokenizer.load(path)
