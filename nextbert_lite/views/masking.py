"""The masking game to be touched: hide a word, see what the model believes and what a perfect one would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.bayes import FIRST_WORD, PerfectModel
from nextbert_lite.corpora.toy_world import COURSE_SENTENCE, ToyWorld
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.validate import check_gap_filler, check_logits, check_tokenizer
from nextbert_lite.views import plots
from nextbert_lite.views.view import View, integers, packed, script

PREPARED, CHOICES, MAX_TOKENS, RANDOM_WORDS = 20, 5, 32, 100
DOCS = (
    "Return the sum of all elements in the list.",
    "Raise an error if the file does not exist.",
    "Compute the mean of the array along the given axis.",
    "Return a new tensor with the same shape.",
    "Draw a line between two points on the axes.",
    "Set the color of the text.",
    "Return True if the object is callable.",
    "Open the file and return a stream.",
    "Create a figure with the given size.",
    "Convert the string to an integer.",
    "Return the number of bytes that were written.",
    "Split the array into several parts.",
    "Compute the gradient of the loss.",
    "Remove the first item from the queue.",
    "Return the name of the current thread.",
    "Apply a function to each element of the input.",
    "Sort the list in ascending order.",
    "Set the label for the x axis.",
    "Wait until the process ends.",
    "Return a random number between zero and one.",
)


class Guesses(NamedTuple):
    """One sentence with each token masked in turn: T gaps, k words each, the likeliest by either predictor first."""

    tokens: list[str]  # T
    words: list[list[str]]  # (T, k)
    model: np.ndarray  # (T, k), probabilities
    perfect: np.ndarray | None


class MaskingPlayground(View):
    """A sentence whose words can be masked by a click; the model's answer, beside the perfect one in a toy world.

    model: a masked language model with its tokenizer. world: the toy world it was trained on, for the perfect
    predictor. sentences: twenty are prepared unless given; each word of each is masked in Python in advance, so that
    the view works without a kernel; with one, a sentence can be typed. The button "corrupt" plays 80/10/10.
    token: which one is masked at first, counted from 0; the middle one unless given.
    Raises ValueError for a sentence that is empty, longer than 32 tokens, or has a word that the toy world lacks.
    """

    _esm = script("masking.js")
    sentences = traitlets.List().tag(sync=True)
    words = traitlets.List().tag(sync=True)  # all words that are offered anywhere
    choices = traitlets.Int(CHOICES).tag(sync=True)
    guesses = traitlets.Bytes().tag(sync=True)  # for each sentence (T, k), numbers into words
    model = traitlets.Bytes().tag(sync=True)  # the same, probabilities
    perfect = traitlets.Bytes().tag(sync=True)  # the same, or empty
    random_words = traitlets.List().tag(sync=True)  # what "corrupt" draws from
    sentence = traitlets.Int(0).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        model: MaskedLanguageModel,
        tokenizer: Tokenizer,
        world: ToyWorld | None = None,
        sentences: Sequence[str] | None = None,
        *,
        title: str = "",
        token: int | None = None,
    ):
        check_tokenizer(tokenizer)
        check_gap_filler(model, "gaps are filled by a MaskedLanguageModel")
        self._model, self._tokenizer = model, tokenizer
        self._world = world
        self._predictor = None if world is None else PerfectModel(world)
        if sentences is None:
            drawn = [] if world is None else [s.text for s in world.sample(PREPARED - 1, seed=5)]
            sentences = DOCS if world is None else [COURSE_SENTENCE, *drawn]
        sentences = plots.strings_of(sentences, "the sentences")
        if not sentences:
            raise ValueError("there are no sentences; give at least one, or leave the argument out.")
        found = [self.guess(sentence) for sentence in sentences]
        token = len(found[0].tokens) // 2 if token is None else token
        if token not in range(len(found[0].tokens)) or isinstance(token, float):
            raise ValueError(f"token is {token}; the first sentence has the tokens 0 to {len(found[0].tokens) - 1}.")
        words = list(dict.fromkeys(word for one in found for row in one.words for word in row))
        number = {word: i for i, word in enumerate(words)}
        generator = torch.Generator().manual_seed(0)
        picked = torch.randperm(tokenizer.vocab_size - FIRST_WORD, generator=generator)[:RANDOM_WORDS] + FIRST_WORD
        super().__init__(
            title=title,
            token=token,
            sentences=[one.tokens for one in found],
            words=words,
            choices=len(found[0].words[0]),
            guesses=b"".join(integers([[number[word] for word in row] for row in one.words]) for one in found),
            model=b"".join(packed(one.model) for one in found),
            perfect=b"".join(packed(one.perfect) for one in found if one.perfect is not None),
            random_words=sorted(tokenizer.tokens(picked)),
        )
        self.on_msg(self._answer)

    def guess(self, text: str) -> Guesses:
        """Return what model and perfect predictor put into each gap of a sentence, one word masked at a time."""
        ids = torch.tensor(self._ids(text))
        T = len(ids) - 2
        rows = ids.repeat(T, 1)  # (T, T + 2), row t with token t masked
        gaps = torch.arange(T) + 1
        rows[torch.arange(T), gaps] = self._tokenizer.mask_id
        model = _probabilities(self._model, rows)[torch.arange(T), gaps]  # (T, V)
        model[:, :FIRST_WORD] = 0  # a special token is never the answer
        perfect = None if self._predictor is None else self._predictor(rows)[torch.arange(T), gaps]
        ranked = model if perfect is None else torch.maximum(model, perfect)
        best = ranked.topk(min(CHOICES, ranked.shape[1] - FIRST_WORD)).indices  # (T, k)
        words = [self._tokenizer.tokens(row) for row in best]
        chosen = [None if p is None else p.gather(1, best).numpy() for p in (model, perfect)]
        return Guesses(self._tokenizer.tokens(ids[1:-1]), words, *chosen)

    def figure(self) -> Figure:
        """Return the first sentence's gap as bars."""
        one = self.guess("".join(self.sentences[0]) if self._world is None else " ".join(self.sentences[0]))
        t = self.token
        fig, ax = plots.figure(size=(6.0, 2.8))
        k = len(one.words[t])
        pairs = [("the model", one.model[t], plots.BLUE)]
        if one.perfect is not None:
            pairs.append(("the perfect predictor", one.perfect[t], plots.ORANGE))
        for number, (name, values, colour) in enumerate(pairs):
            ax.barh(np.arange(k) + 0.4 * number, values, height=0.38, color=colour, label=name)
        ax.set_yticks(np.arange(k) + 0.2 * (len(pairs) - 1), map(plots.plain, one.words[t]))
        ax.invert_yaxis()
        ax.set(xlabel="probability", xlim=(0, 1))
        ax.legend(loc="lower right")
        gap = " ".join("____" if i == t else token.strip() for i, token in enumerate(one.tokens))
        ax.set_title(plots.plain(self.title or f"What fits into the gap?\n{gap}"), wrap=True)
        return fig

    def _ids(self, text: str) -> list[int]:
        """Return a sentence's ids; a ValueError that the reader of the view can use."""
        if not text.strip():
            raise ValueError("The sentence is empty: write one.")
        if self._world is not None:
            text = " ".join(text.replace(".", " ").replace(",", " ").lower().split())
            unknown = [word for word in text.split() if word not in self._world.words]
            if unknown:
                some = ", ".join(sorted(self._world.words)[:: len(self._world.words) // 8])
                raise ValueError(
                    f"'{unknown[0]}' is no word of the toy world. It has {len(self._world.words)} words, for example "
                    f"{some}."
                )
        ids = self._tokenizer.encode(text)
        limit = min(MAX_TOKENS, self._model.encoder.config.max_len - 2)
        if len(ids) - 2 > limit:
            raise ValueError(f"The sentence has {len(ids) - 2} tokens; at most {limit} can be read here. Shorten it.")
        return ids

    def _answer(self, _, content: dict, __: list) -> None:
        """Answer the view: to "hello", that a kernel is there; to "guess", what fits into each gap of its text."""
        if content.get("ask") == "hello":
            self.send({"answer": "hello"})
        if content.get("ask") == "guess":
            try:
                one = self.guess(str(content.get("text", "")))
            except ValueError as error:
                self.send({"answer": "error", "error": str(error)})
                return
            perfect = None if one.perfect is None else one.perfect.round(5).tolist()
            shown = {"tokens": one.tokens, "words": one.words, "model": one.model.round(5).tolist(), "perfect": perfect}
            self.send({"answer": "guess", **shown})


@torch.no_grad()
def _probabilities(model: MaskedLanguageModel, ids: Tensor) -> Tensor:
    """Return the softmax at every position, (B, T, V), float64, on the CPU; the model's mode is kept."""
    with evaluating(model):
        return check_logits(model(ids.to(model.head.bias.device))).double().softmax(-1).cpu()
