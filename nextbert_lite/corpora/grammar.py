"""The grammar file of a toy world, read and checked: a wrong edit is a sentence that names the key and the fault."""

from __future__ import annotations

import math
import re
import tomllib
import unicodedata
from pathlib import Path
from typing import Any

from nextbert_lite.files import read_text

MAX_WORDS = 14
NUMBERS = ("singular", "plural")
GROUPS = ("group_a", "group_b")
MARK = "\u0300"  # stands for every mark that belongs to the letter before it, such as a vowel sign of Hindi
LETTERS = rf"(?:[^\W\d_]{MARK}*)+"  # of any alphabet
WORD = re.compile(rf"{LETTERS}(?:['’\u200c\u200d-]{LETTERS})*")  # with inner hyphens, apostrophes and joiners


def read_grammar(path: str | Path) -> dict[str, Any]:
    """Read a grammar file and check all of it; a pattern comes back as a list of its words and slots, like "{who}".

    Raises FileNotFoundError, or ValueError with the file, the key, what is wrong and what was expected.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no grammar file {path}; ToyWorld() without a path takes the shipped one.")
    content = read_text(path)
    try:
        return _check_grammar(tomllib.loads(content))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be a grammar.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_grammar(grammar: dict[str, Any]) -> dict[str, Any]:
    grammar.setdefault("held_out", {})
    _table(grammar, "", ("probabilities", "templates", "held_out", "pieces", "words", "topics"))
    shares = grammar["probabilities"]
    if isinstance(shares, dict):
        shares.setdefault("front", {"attractor": 0.0, "place": 0.0})
    _table(shares, "probabilities", ("number", "attractor", "front", "ending"))
    for key, names in (("number", NUMBERS), ("attractor", ("none", *NUMBERS)), ("ending", ("place", "pronoun"))):
        table = _table(shares[key], f"probabilities.{key}", names)
        _probabilities({f"probabilities.{key}.{name}": p for name, p in table.items()})
    for name, p in _table(shares["front"], "probabilities.front", ("attractor", "place")).items():
        _probability(p, f"probabilities.front.{name}")

    taken: dict[str, str] = {}  # word -> the key that has it: a word has one use
    words = _table(grammar["words"], "words", ("be", "pronoun", "reasons"))
    _forms(words["be"], "words.be", NUMBERS, taken)
    for i, word in enumerate(_list(words["reasons"], "words.reasons")):
        _word(word, f"words.reasons[{i}]", taken)
    _forms(words["pronoun"], "words.pronoun", NUMBERS, taken)
    topics = _table(grammar["topics"], "topics")
    if len(topics) < 2:
        raise ValueError(
            f"`topics` has {len(topics)} topic; there must be at least 2, or no word depends on the topic."
        )
    for name, topic in topics.items():
        _table(topic, f"topics.{name}", (*GROUPS, "things", "verbs", "places"))
        for part in (*GROUPS, "things", "verbs"):
            for i, entry in enumerate(_list(topic[part], f"topics.{name}.{part}")):
                forms = (*NUMBERS, "participle") if part == "verbs" else NUMBERS
                _forms(entry, f"topics.{name}.{part}[{i}]", forms, taken)
        for i, word in enumerate(_list(topic["places"], f"topics.{name}.places")):
            _word(word, f"topics.{name}.places[{i}]", taken)
    for form in words["be"].values():
        del taken[form]  # a template may spell it out: "it is the cook that praises"

    pieces = _table(grammar["pieces"], "pieces", ("near", "place", "pronoun"))
    pieces["near"] = _pattern(pieces["near"], "pieces.near", taken, "{attractor}")
    pieces["place"] = _pattern(pieces["place"], "pieces.place", taken, "{place}")
    pieces["pronoun"] = _pattern(pieces["pronoun"], "pieces.pronoun", taken, "{pronoun} {reason}")
    for name, template in _table(grammar["templates"], "templates").items():
        _table(template, f"templates.{name}", ("probability", "text"))
        _template(template, f"templates.{name}.text", taken, pieces)
    for name, template in _table(grammar["held_out"], "held_out", any_number=True).items():
        if name in grammar["templates"]:
            raise ValueError(f"`held_out.{name}` has the name of a template; expected: another name.")
        _table(template, f"held_out.{name}", ("text",))
        _template(template, f"held_out.{name}.text", taken, pieces)
        template["probability"] = 1 / len(grammar["held_out"])
    templates = grammar["templates"]
    _probabilities({f"templates.{name}.probability": template["probability"] for name, template in templates.items()})
    return grammar


def _template(template: dict[str, Any], key: str, taken: dict[str, str], pieces: dict[str, list[str]]) -> None:
    """Check one template, split its text, and note which slot is its subject."""
    kinds = "{who} {verb} {whom} {end}", "{whom} {be} {participle} {who} {end}"
    text = template["text"] = _pattern(template["text"], key, taken, *kinds, optional=("{front}", "{near}"))
    template["subject"] = "who" if "{verb}" in text else "whom"
    subject = f"{{{template['subject']}}}"
    if "{near}" in text and text[text.index("{near}") - 1] != subject:
        raise ValueError(f"`{key}` must have {{near}} right behind its subject, {subject}.")
    if "{front}" in text[1:] or text[-1] != "{end}":
        raise ValueError(f"`{key}` must have {{end}} last, and {{front}} first if it has one.")
    near, place, pronoun = (len(pieces[name]) for name in ("near", "place", "pronoun"))
    longest = len([part for part in text if part not in ("{front}", "{near}", "{end}")]) + max(place, pronoun)
    longest += near if {"{front}", "{near}"} & {*text} else 0
    if longest > MAX_WORDS:
        raise ValueError(f"`{key}` gives sentences of up to {longest} words; expected: at most {MAX_WORDS}.")


def _table(value: Any, key: str, names: tuple[str, ...] = (), any_number: bool = False) -> dict[str, Any]:
    """Check that the value is a table with exactly these keys; without names, with any keys but at least one."""
    if not isinstance(value, dict) or not (value or names or any_number):
        raise ValueError(f"`{key}` must be a table with {', '.join(names) or 'at least one entry'}, not {value!r}.")
    start = f"{key}." if key else ""
    for name in names:
        if name not in value:
            raise ValueError(f"`{start}{name}` is missing; expected: {', '.join(names)}.")
    for name in value:
        if names and name not in names:
            raise ValueError(f"`{start}{name}` is not a key of a grammar; expected: {', '.join(names)}.")
    return value


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"`{key}` must be a list with at least one entry, not {value!r}.")
    return value


def _probabilities(values: dict[str, Any]) -> None:
    for key, p in values.items():
        _probability(p, key)
    total = math.fsum(values.values())
    if abs(total - 1) > 1e-9:
        keys = ", ".join(f"`{key}`" for key in values)
        raise ValueError(f"{keys} must sum to 1; their sum is {total:.6g}.")


def _probability(p: Any, key: str) -> None:
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ValueError(f"`{key}` must be a probability, a number from 0 to 1, not {p!r}.")


def _forms(value: Any, key: str, names: tuple[str, ...], taken: dict[str, str]) -> None:
    for name, word in _table(value, key, names).items():
        _word(word, f"{key}.{name}", taken)


def _word(word: Any, key: str, taken: dict[str, str]) -> None:
    marked = "".join(MARK if unicodedata.category(c)[0] == "M" else c for c in word) if isinstance(word, str) else ""
    if not WORD.fullmatch(marked) or word != word.lower():
        raise ValueError(f"`{key}` has {word!r}; expected: a word, letters in lower case without a space.")
    if word in taken:
        raise ValueError(
            f"`{key}` has '{word}', which `{taken[word]}` has already; expected: a word with this one use in the whole "
            "file, or agreement and topic have no single right answer."
        )
    taken[word] = key


def _pattern(text: Any, key: str, taken: dict[str, str], *kinds: str, optional: tuple[str, ...] = ()) -> list[str]:
    """Split a pattern at its spaces. It must have the slots of one of the kinds, each once, in any order."""
    parts = text.split() if isinstance(text, str) else []
    slots = [part for part in parts if part[0] == "{" and part[-1] == "}"]
    for slot in slots:
        if slot not in " ".join((*kinds, *optional)).split():
            raise ValueError(f"`{key}` has the unknown slot {slot}; expected: {' or '.join(kinds)}.")
    needed = sorted(slot for slot in slots if slot not in optional)
    if needed not in [sorted(kind.split()) for kind in kinds] or len({*slots}) < len(slots):
        may = f" (and may have {' and '.join(optional)})" if optional else ""
        raise ValueError(
            f"`{key}` must be a text with each of these slots once: {' or '.join(kinds)}{may}; not {text!r}."
        )
    for part in parts:
        if part not in slots:
            _word(part, key, dict(taken))  # a copy: patterns may share their own words
    return parts
