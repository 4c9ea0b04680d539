"""Text to token ids and back: byte-level BPE for real text, whole words for the toy world.

Both are one class around Hugging Face's `tokenizers` library, and so are published tokenizers, which have other special
tokens. Lesson 01 builds the ten lines that matter by hand.
"""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from nextbert_lite.files import write_text
from nextbert_lite.validate import check_count, check_texts

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLES = ("pad", "unk", "cls", "sep", "mask")  # what the five are for, in this order


class Tokenizer:
    """Turn text into ids that start with [CLS] and end with [SEP], and back.

    Make one with `train_bpe`, `word_level` or `Tokenizer.load`. The five special tokens have the ids 0 to 4.

    specials: a published tokenizer's own, at any id: {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>",
    "mask": "<mask>"}, say. They take the places of [PAD], [UNK], [CLS], [SEP] and [MASK] in what is said here. What
    such a tokenizer stores on cutting and padding is switched off: it would cut without a word. One of
    bytes may have no "unk": `unk_id` is None then.
    `special_ids`: the ids of all special tokens, in ascending order.
    """

    def __init__(self, backend: Backend, specials: dict[str, str] | None = None):
        self.backend, self.specials = backend, specials
        if specials is None:
            self._check_own()
        else:
            self._check_published()
        names = SPECIALS if specials is None else [specials.get(role) for role in ROLES]
        five = [token and backend.token_to_id(token) for token in names]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = five
        more = (i for i, token in backend.get_added_tokens_decoder().items() if token.special)
        self.special_ids = tuple(sorted({*five, *more} - {None}))

    def _check_own(self) -> None:
        missing = [token for i, token in enumerate(SPECIALS) if self.backend.token_to_id(token) != i]
        if missing:
            raise ValueError(
                f"the special tokens {missing} do not have the ids {list(range(5))} in this order: {SPECIALS}. "
                "Make the tokenizer with train_bpe or word_level, or load one that they saved."
            )

    def _check_published(self) -> None:
        no_unknown = isinstance(self.backend.model, models.BPE) and "unk" not in self.specials
        roles = set(ROLES) - ({"unk"} if no_unknown else set())
        if set(self.specials) != roles or len(set(self.specials.values())) < len(roles):
            raise ValueError(f"specials are {self.specials}; they must name five different tokens for {ROLES}.")
        missing = [token for token in self.specials.values() if self.backend.token_to_id(token) is None]
        if missing:
            raise ValueError(f"the special tokens {missing} are not in this vocabulary of {self.vocab_size}.")
        if max(self.backend.get_vocab().values()) >= self.vocab_size:
            raise ValueError(f"the ids of this vocabulary of {self.vocab_size} have gaps: its largest is not the last.")
        self.backend.add_special_tokens(  # special, where they were only words of the vocabulary
            [AddedToken(t, special=True, normalized=False) for t in self.specials.values() if not self._is_special(t)]
        )
        self.backend.no_truncation()
        self.backend.no_padding()

    def _is_special(self, token: str) -> bool:
        added = self.backend.get_added_tokens_decoder().get(self.backend.token_to_id(token))
        return added is not None and added.special

    @property
    def vocab_size(self) -> int:
        """Number of different ids, V."""
        return self.backend.get_vocab_size()

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str, *, max_len: int | None = None, allow_specials: bool = False) -> list[int]:
        """Return the ids of one text, [CLS] and [SEP] included.

        max_len: the longest result; what is longer is cut before [SEP]. None cuts nothing.
        allow_specials: read "[MASK]" in the text as the special token. Off, it is text like any other, so that
        every string comes back from `decode` as it was.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes one text (a str), not {type(text).__name__}. For several, use encode_batch.")
        return self.encode_batch([text], max_len=max_len, allow_specials=allow_specials)[0]

    def encode_batch(
        self, texts: Sequence[str], *, max_len: int | None = None, allow_specials: bool = False
    ) -> list[list[int]]:
        """Return the ids of each text, as `encode` does, with all processor cores."""
        texts = check_texts(texts, blank=True, least=0, whole=True)
        if max_len is not None and (max_len < 3 or not check_count("max_len", max_len)):
            raise ValueError(f"max_len is {max_len}; a text needs at least 3 places: [CLS], one token, [SEP].")
        self.backend.encode_special_tokens = not allow_specials
        ids = [e.ids for e in self.backend.encode_batch(texts, add_special_tokens=False)]
        if not allow_specials:  # a word list would find "[MASK]" in its vocabulary
            ids = [[self.unk_id if i in self.special_ids else i for i in row] for row in ids]
        whole = [[self.cls_id, *row, self.sep_id] for row in ids]
        return whole if max_len is None else [cut(row, max_len) for row in whole]

    def offsets(self, text: str, *, allow_specials: bool = False) -> list[tuple[int, int]]:
        """Return where in the text each token begins and ends, in characters, without [CLS] and [SEP]."""
        self.backend.encode_special_tokens = not allow_specials
        return self.backend.encode(text, add_special_tokens=False).offsets

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids; special tokens are left out."""
        return self.backend.decode(self.check_range(ids), skip_special_tokens=True)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return each id's own piece of text, for labels in figures. A space is shown as it is."""
        pieces = []
        for i in self.check_range(ids):
            token = self.backend.id_to_token(i)
            is_bytes = i not in self.special_ids and isinstance(self.backend.decoder, decoders.ByteLevel)
            pieces.append(self.backend.decode([i]) if is_bytes else token)
        return pieces

    def check_range(self, ids: Iterable[int]) -> list[int]:
        """Return the ids as a list; ValueError for one that this vocabulary does not have."""
        try:
            ids = [operator.index(i) for i in ids]  # int() would take 5.7 for 5
        except TypeError:
            raise TypeError(f"expected one text's token ids, a list of whole numbers; got {ids!r:.60}.") from None
        V = self.vocab_size
        wrong = [i for i in ids if not 0 <= i < V]
        if wrong:
            raise ValueError(f"there is no id {wrong[0]}: this tokenizer has the ids 0 to {V - 1}.")
        return ids

    def id(self, token: str) -> int:
        """Return the id of one token, as the vocabulary spells it; KeyError when there is none."""
        found = self.backend.token_to_id(token)
        if found is None:
            raise KeyError(f"'{token}' is not a token of this vocabulary of {self.vocab_size}.")
        return found

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as one JSON file, which the `tokenizers` library reads too where `specials` is None."""
        write_text(path, self.backend.to_str(pretty=True) if self.specials is None else self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer that `save` wrote."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no tokenizer file {path}. `Tokenizer.save` writes one.")
        try:
            backend, specials = _read(Path(path).read_text(encoding="utf-8"))
        except OSError:
            raise
        except Exception as error:  # the library has no class of its own for this
            raise ValueError(f"{path} is no tokenizer file: {error}. `Tokenizer.save` writes one.") from error
        return cls(backend, specials)

    def to_json(self) -> str:
        """Return the whole tokenizer as a JSON string; `from_json` reads it."""
        text = self.backend.to_str()
        return text if self.specials is None else json.dumps({**json.loads(text), "specials": self.specials})

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Read a tokenizer from the string that `to_json` gave."""
        return cls(*_read(text))


def cut(ids: Sequence[int], max_len: int) -> list[int]:
    """Return an encoded text of at most max_len ids: what is longer is cut before its [SEP]."""
    return list(ids) if len(ids) <= max_len else [*ids[: max_len - 1], ids[-1]]


def windows(ids: Sequence[int], max_len: int) -> list[list[int]]:
    """Return an encoded text in consecutive parts of about the same length, each with its [CLS] and [SEP]."""
    first, *words, last = ids
    count = max(1, -(-len(words) // (max_len - 2)))
    ends = [len(words) * i // count for i in range(count + 1)]
    return [[first, *words[a:b], last] for a, b in pairwise(ends)]


def _read(text: str) -> tuple[Backend, dict[str, str] | None]:
    """Return the library's tokenizer and, of a published one, its specials, which the library has no place for."""
    content = json.loads(text)
    specials = content.pop("specials", None)
    return Backend.from_str(text if specials is None else json.dumps(content)), specials


def train_bpe(texts: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """Learn a byte-level BPE vocabulary: any Unicode string can be written with it, none is unknown.

    Starts from the 256 bytes and adds the most frequent pair again and again (Sennrich et al. 2016, arXiv:1508.07909;
    on bytes: Radford et al. 2019). Raises ValueError when vocab_size has no room for the bytes and the specials,
    and for no texts at all; TypeError for one text alone and for what is no text.
    """
    least = 256 + len(SPECIALS)
    if check_count("vocab_size", vocab_size) < least:
        raise ValueError(f"vocab_size is {vocab_size}; the 256 bytes and {len(SPECIALS)} special tokens need {least}.")
    texts = check_texts(texts, blank=True, whole=True)
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def word_level(words: Iterable[str]) -> Tokenizer:
    """Make a tokenizer with one id per word, split at spaces; a word outside the list becomes [UNK]."""
    words = check_texts(words, blank=True, least=0, whole=True)
    repeated = [word for word, count in Counter([*SPECIALS, *words]).items() if count > 1]
    if not words or repeated:
        raise ValueError(f"the word list must have words, each once and no special token; repeated: {repeated}.")
    if spaced := [word for word in words if word.split() != [word]]:
        raise ValueError(f"{spaced[0]!r} is no word: it is blank or holds a space, so it would be found in no text.")
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *words])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return Tokenizer(backend)
