"""Any text comes back as it was; a special token in a text is text unless it is asked for."""

from functools import partial

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


def backend_of(vocabulary, unknown):
    return Backend(models.WordLevel(vocabulary, unk_token=unknown))


OTHER = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "word": 4}
GAPS = {**{token: i for i, token in enumerate(NAMES.values())}, "word": 9}
ONE_TEXT = r"encode takes one text \(a str\), not {}.*use encode_batch"
NO_TEXT = "text 1 is {}; each text must be a str"
REPEATED = "each once and no special token; repeated: {}"
OTHER_IDS = r"\['\[PAD\]', '\[UNK\]', '\[MASK\]'\] do not have the ids .*train_bpe or"
REFUSED = {
    "encode: bytes": (lambda: BPE.encode(b"bytes"), TypeError, ONE_TEXT.format("bytes")),
    "encode: a list": (lambda: BPE.encode(["a list"]), TypeError, ONE_TEXT.format("list")),
    "encode: None": (lambda: BPE.encode(None), TypeError, ONE_TEXT.format("NoneType")),
    "encode: a number": (lambda: BPE.encode(5), TypeError, ONE_TEXT.format("int")),
    "batch: one text": (lambda: BPE.encode_batch("one text"), TypeError, "put a single text into a list"),
    "batch: bytes": (lambda: BPE.encode_batch(["fine", b"bytes"]), TypeError, NO_TEXT.format("bytes")),
    "batch: a pair": (lambda: BPE.encode_batch(["fine", ("a", "pair")]), TypeError, NO_TEXT.format("tuple")),
    "batch: a list": (lambda: BPE.encode_batch(["fine", ["a", "pair"]]), TypeError, NO_TEXT.format("list")),
    "batch: None": (lambda: BPE.encode_batch(["fine", None]), TypeError, NO_TEXT.format("NoneType")),
    "room for 260": (lambda: train_bpe(TEXTS, 260), ValueError, "is 260; the 256 bytes and 5 special tokens need 261"),
    "learn from one text": (lambda: train_bpe("one text"), TypeError, "put a single text into a list"),
    "learn from nothing": (lambda: train_bpe([]), ValueError, "the list of texts is empty"),
    "learn from nothing that comes": (lambda: train_bpe(iter([])), ValueError, "the list of texts is empty"),
    "learn from None": (lambda: train_bpe(["fine", None]), TypeError, NO_TEXT.format("NoneType")),
    "a word twice": (lambda: word_level(["cat", "dog", "cat"]), ValueError, REPEATED.format(r"\['cat'\]")),
    "a special word": (lambda: word_level(["cat", "[MASK]"]), ValueError, REPEATED.format(r"\['\[MASK\]'\]")),
    "no word": (lambda: word_level([]), ValueError, REPEATED.format(r"\[\]")),
    "an unknown token": (lambda: words(9).id("cat"), KeyError, "'cat' is not a token of this vocabulary of 14"),
    "other special ids": (lambda: Tokenizer(backend_of(OTHER, "[UNK]")), ValueError, OTHER_IDS),
    "gaps": (lambda: Tokenizer(backend_of(GAPS, "<unk>"), NAMES), ValueError, "ids of this vocabulary of 6 have gaps"),
}
for wrong in (-1, -100, 330, 10**6):
    no_id = f"there is no id {wrong}: this tokenizer has the ids 0 to "
    REFUSED[f"decode: id {wrong}"] = partial(BPE.decode, [5, wrong]), ValueError, no_id
    REFUSED[f"tokens: id {wrong}"] = partial(BPE.tokens, [5, wrong]), ValueError, no_id
for length in (2, 0, -1):
    message = f"max_len is {length}; a text needs at least 3 places"
    REFUSED[f"max_len {length}"] = partial(BPE.encode, "text", max_len=length), ValueError, message
for role in NAMES:
    five, other = "they must name five different tokens for ", NAMES["cls" if role == "pad" else "pad"]
    others = {key: token for key, token in NAMES.items() if key != role}
    unknown = r"the special tokens \['<none>'\] are not in this vocabulary of 12"
    REFUSED[f"an unknown {role}"] = partial(published, **{role: "<none>"}), ValueError, unknown
    REFUSED[f"another's {role}"] = partial(published, **{role: other}), ValueError, five
    REFUSED[f"no {role}"] = partial(Tokenizer, published().backend, others), ValueError, five


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_encoded_decoded_or_made_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_half_a_surrogate_pair_is_refused_with_its_repair():
    broken = "half \ud83d here"
    with pytest.raises(ValueError, match=r"text 1 holds half a surrogate pair.*text\.encode\('utf-8', 'replace'\)"):
        BPE.encode_batch(["fine", broken])
    BPE.encode(broken.encode("utf-8", "replace").decode())


def test_a_vocabulary_of_the_bytes_and_special_tokens_alone_is_enough():
    tokenizer = train_bpe(TEXTS, vocab_size=261)
    assert tokenizer.decode(tokenizer.encode("é")) == "é"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, r"there is no tokenizer file .*tokenizer\.json"),
        *(
            (text, ValueError, r"is no tokenizer file: .*`Tokenizer\.save`")
            for text in ("", "{}", '{"version": "1.0"', "no")
        ),
        (published().backend.to_str(), ValueError, r"do not have the ids \[0, 1, 2, 3, 4\]"),
    ],
    ids=["missing", "empty", "{}", "cut", "no JSON", "another library's"],
)
def test_a_file_that_is_no_tokenizer_of_ours_is_named(tmp_path, content, error, message):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        Tokenizer.load(path)
