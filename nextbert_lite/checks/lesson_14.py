"""The checks of lesson 14, Real weights."""

import importlib
import os
import re
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    find,
    hint,
    mine,
    solution,
    untouched,
)
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.use.pretrained import BERT, their_names

__all__ = [
    "bert_loader",
    "embedded",
    "hint",
    "longest_text",
    "mine",
    "my_encoder",
    "norm_weighting",
    "solution",
]

# --- the learner's own encoder ----------------------------------------------------------------------------------------


def my_encoder():
    """Return the `Encoder` of the learner's package my_bert where it lies beside the notebook and passes 04.5.

    Else the course's. One line says whose it is, and why.
    """
    chosen, why = None, "there is no my_bert beside this notebook; `nextbert-lite assemble` makes it"
    if Path("my_bert", "__init__.py").is_file():
        here = os.getcwd()
        sys.path.insert(0, here)
        try:
            package = importlib.import_module("my_bert")
            own = getattr(package, "YOURS", ())
            if "Encoder" not in own:
                why = "my_bert has the course's too, since 04.5 is not yours yet"
            elif find("04.5").verdict(package.Encoder)[0] == "passes":
                chosen = package.Encoder
            else:
                why = "my_bert's does not pass 04.5"
        except Exception as error:  # noqa: BLE001 - it is the learner's package: whatever it raises is told
            why = f"my_bert cannot be used ({type(error).__name__}: {error})"
        finally:
            sys.path.remove(here)
    if chosen is None:
        print(f"Encoder: the course's, because {why}.")
        return Encoder
    inner = [name for name in ("EncoderLayer", "MultiHeadAttention") if name in own]
    print(f"Encoder: yours, from my_bert{', with your ' + ' and '.join(inner) if inner else ''}.")
    return chosen


# --- 14.1 the build: load_bert ----------------------------------------------------------------------------------------


def load_bert(encoder, tensors):
    """Copy a published BERT's tensors into an Encoder, all of them or none, and return it."""
    parts = {
        "tokens": ["embeddings.word_embeddings"],
        "positions": ["embeddings.position_embeddings"],
        "types": ["embeddings.token_type_embeddings"],
        "norm": ["embeddings.LayerNorm"],
        "attention.qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
        "attention.out": ["attention.output.dense"],
        "norm1": ["attention.output.LayerNorm"],
        "ffn_in": ["intermediate.dense"],
        "ffn_out": ["output.dense"],
        "norm2": ["output.LayerNorm"],
    }
    left = {}  # what has found no place yet
    for name, tensor in tensors.items():
        name = name.removeprefix("bert.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if not name.startswith(("pooler.", "cls.")) and name != "embeddings.position_ids":
            left[name] = tensor
    state = {}
    for ours, parameter in encoder.state_dict().items():
        layer, part, kind = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(weight|bias)", ours).groups()
        start = f"encoder.layer.{layer}." if layer else ""
        names = [f"{start}{theirs}.{kind}" for theirs in parts[part]]
        shape = (parameter.shape[0] // len(names), *parameter.shape[1:])
        for name in names:
            if name not in left:
                raise ValueError(f"{name} is missing")
            if left[name].shape != shape:
                raise ValueError(f"{name} has the shape {tuple(left[name].shape)}; expected {shape}")
        state[ours] = torch.cat([left.pop(name) for name in names])
    if left:
        raise ValueError(f"{min(left)} has no place in this encoder")
    encoder.load_state_dict(state)
    return encoder


def fresh(**changes):
    sizes = {"vocab_size": 20, "width": 12, "layers": 1, "heads": 3, "ffn_width": 20, "max_len": 9, "token_types": 2}
    return Encoder(EncoderConfig(**{**sizes, **changes}))


def published(generator, dtype=torch.float32, **changes):
    """Return an encoder's random tensors under the published names, in the order of a file, and under ours."""
    theirs, ours = {}, {}
    for name, like in fresh(**changes).state_dict().items():
        ours[name] = torch.randn(like.shape, generator=generator).to(dtype)
        names = their_names(f"encoder.{name}", BERT, "")
        theirs |= {n: t.clone() for n, t in zip(names, ours[name].chunk(len(names)), strict=True)}
    return {name: theirs[name] for name in sorted(theirs)}, ours


def loaded(answer, encoder, tensors):
    result = answer(encoder, tensors)
    if result is not encoder:
        raise Fault(f"it returns {describe(result)}; return the encoder that came in.")
    return encoder


def compare(encoder, ours, only=""):
    """Fault with the first part of the encoder that does not hold what it should."""
    given = {n: t for n, t in encoder.state_dict().items() if only in n}
    if wrong := [
        n for n, t in given.items() if t.shape != ours[n].shape or not torch.equal(t.float(), ours[n].float())
    ]:
        name, same = wrong[0], sum(int((t == ours[n]).sum()) for n, t in given.items() if t.shape == ours[n].shape)
        yours, right = given[name].float(), ours[name].float()
        row = int((yours != right).reshape(len(right), -1).any(1).float().argmax())
        part = same / sum(t.numel() for t in given.values())
        raise Fault(
            f"{100 * part:.2f} % of the encoder's values are the file's. The first part that differs is {name}: its "
            f"row {row} begins with {yours[row].flatten()[0]:.4f}; expected {right[row].flatten()[0]:.4f}."
        )
    return True


def embeddings_alone(answer, generator):
    tensors, ours = published(generator, layers=0)
    return compare(loaded(answer, fresh(layers=0), tensors), ours)


def query_key_value(answer, generator):
    tensors, ours = published(generator)
    return compare(loaded(answer, fresh(), tensors), ours, "attention.qkv")


def whole_layer(answer, generator):
    tensors, ours = published(generator)
    return compare(loaded(answer, fresh(), tensors), ours)


def twelve_layers(answer, generator):
    tensors, ours = published(generator, layers=12)
    return compare(loaded(answer, fresh(layers=12), tensors), ours)


def other_files(answer, generator):
    """The names of BertForPreTraining, and of files from before 2020, one difference at a time."""
    tensors, ours = published(generator)
    C = 12
    heads = {
        "pooler.dense.weight": torch.zeros(C, C),
        "pooler.dense.bias": torch.zeros(C),
        "cls.predictions.bias": torch.zeros(20),
        "cls.predictions.transform.LayerNorm.weight": torch.ones(C),
        "cls.seq_relationship.weight": torch.zeros(2, C),
    }
    ids = {"embeddings.position_ids": torch.arange(9)[None]}
    prefixed = {f"bert.{n}": t for n, t in tensors.items()}
    kinds = {
        "whose names begin with `bert.`": prefixed,
        "with LayerNorm.gamma and LayerNorm.beta": {
            n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for n, t in tensors.items()
        },
        "with a pooler and heads": tensors | heads,
        "with embeddings.position_ids": tensors | ids,
        "with bert.pooler and bert.embeddings.position_ids": prefixed
        | {n if n.startswith("cls.") else f"bert.{n}": t for n, t in (heads | ids).items()},
    }
    for what, file in kinds.items():
        try:
            compare(loaded(answer, fresh(), file), ours)
        except (ValueError, KeyError, RuntimeError) as error:
            if isinstance(error, Fault):
                raise
            raise Fault(f"a file {what} is refused. It has all that the encoder needs.") from error
    return True


FFN_OUT = "encoder.layer.0.output.dense.weight"


def misfits(generator):
    """Yield what does not fit, the tensor that the error should name, and the tensors."""
    tensors, _ = published(generator)
    for name in ("encoder.layer.0.output.LayerNorm.bias", "embeddings.token_type_embeddings.weight"):
        yield f"a file without {name}", name, {n: t for n, t in tensors.items() if n != name}
    yield "a tensor that no part takes", "encoder.relative.weight", tensors | {"encoder.relative.weight": torch.ones(3)}
    second, _ = published(generator, layers=2)
    yield "a second layer for an encoder of one", "encoder.layer.1", second
    yield f"another shape of {FFN_OUT}", FFN_OUT, tensors | {FFN_OUT: torch.ones(20, 12)}
    query, key = (f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key"))
    uneven = {query: torch.ones(13, 12), key: torch.ones(11, 12)}
    yield "a query of 13 rows beside a key of 11, in place of 12 each", (query, key), tensors | uneven
    for name in ("classifier.weight", "encoder.layer.0.pooler.weight"):
        yield f"{name}, which no part takes", name, tensors | {name: torch.ones(2, 12)}
    norm = "encoder.layer.0.output.LayerNorm"
    old = {f"bert.{n}": t for n, t in tensors.items() if n != f"{norm}.weight"}
    yield f"bert.{norm}.gamma of another shape", f"{norm}.weight", old | {f"bert.{norm}.gamma": torch.ones(5)}


def refusals(answer, generator):
    for what, name, tensors in misfits(generator):
        try:
            answer(fresh(), tensors)
        except ValueError as error:
            if not any(one in str(error) for one in ([name] if isinstance(name, str) else name)):
                raise Fault(f"{what}: the ValueError does not name {name}.") from None
        except Exception as error:  # noqa: BLE001 - a learner's code may raise anything
            raise Fault(
                f"{what}: expected a ValueError that names {name}; yours is a {type(error).__name__}."
            ) from None
        else:
            raise Fault(f"{what} was loaded without an error.")
    return True


def all_or_nothing(answer, generator):
    for what, _, tensors in misfits(generator):
        encoder = fresh()
        before = {n: t.clone() for n, t in encoder.state_dict().items()}
        try:
            answer(encoder, tensors)
        except ValueError:
            pass
        changed = [n for n, t in encoder.state_dict().items() if not torch.equal(t, before[n])]
        if changed:
            raise Fault(f"{what} was refused, but {len(changed)} parts of the encoder have changed.")
    tensors, _ = published(generator)
    prefixed = {f"bert.{n}": t for n, t in tensors.items()} | {"bert.pooler.dense.bias": torch.zeros(12)}
    for file in (prefixed, tensors):
        kept, encoder = {n: t.clone() for n, t in file.items()}, fresh()
        loaded(answer, encoder, file)
        if list(file) != list(kept):
            raise Fault("the dict of tensors has changed: whoever called it finds theirs changed.")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 1.0
    if any(not torch.equal(t, kept[n]) for n, t in tensors.items()):
        raise Fault("when the encoder is trained, the tensors of the dict change with it: they share memory.")
    return True


def half_precision(answer, generator):
    for dtype in (torch.float16, torch.bfloat16):
        tensors, ours = published(generator, dtype)
        encoder = loaded(answer, fresh(), tensors)
        if any(t.dtype != dtype for t in tensors.values()):
            raise Fault(f"a file of {dtype}: the tensors in the caller's dict have been converted.")
        kinds = {str(p.dtype) for p in encoder.parameters()}
        if kinds != {"torch.float32"}:
            raise Fault(f"a file of {dtype}: the encoder's parameters are now {', '.join(sorted(kinds))}.")
        compare(encoder, ours)
    return True


def other_sizes(answer, generator):
    sizes = {"vocab_size": 31, "width": 10, "layers": 3, "heads": 5, "ffn_width": 7, "max_len": 4, "token_types": 3}
    tensors, ours = published(generator, **sizes)
    return compare(loaded(answer, fresh(**sizes), tensors), ours)


PARTS = {
    "tokens": ["embeddings.word_embeddings"],
    "positions": ["embeddings.position_embeddings"],
    "types": ["embeddings.token_type_embeddings"],
    "norm": ["embeddings.LayerNorm"],
    "attention.qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "attention.out": ["attention.output.dense"],
    "norm1": ["attention.output.LayerNorm"],
    "ffn_in": ["intermediate.dense"],
    "ffn_out": ["output.dense"],
    "norm2": ["output.LayerNorm"],
}


def is_head_or_ids(name):
    return name.startswith(("pooler.", "cls.")) or name == "embeddings.position_ids"


def loads(
    changes=None,
    forget=(),
    join=torch.cat,
    layer_of=lambda layer, layers: layer,
    prefix=True,
    old=True,
    heads_out=True,
    refuses=("missing", "shape", "left"),
    strict=True,
    empties=False,
    at_once=True,
    assign=False,
    half=False,
    returns=True,
    missing=ValueError,
    is_head=is_head_or_ids,
):
    """Return a load_bert that a learner may write; the switches are the mistakes."""
    table = {ours: theirs for ours, theirs in (PARTS | (changes or {})).items() if ours not in forget}

    def load_bert(encoder, tensors):
        left = tensors if empties else dict(tensors)
        if prefix:
            left = tensors if empties else {n.removeprefix("bert."): t for n, t in left.items()}
        if old and not empties:
            left = {
                n.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): t for n, t in left.items()
            }
        if empties:
            names = [n.removeprefix("bert.").replace("Norm.gamma", "Norm.weight") for n in tensors]
            for n, new in zip(list(tensors), names, strict=True):
                tensors[new.replace("Norm.beta", "Norm.bias")] = tensors.pop(n)
        if heads_out:
            for n in list(left):
                if is_head(n):
                    del left[n]
        state, own = {}, encoder.state_dict()
        layers = encoder.config.layers
        for ours, parameter in own.items():
            found = re.match(r"layers\.(\d+)\.", ours)
            module, _, kind = ours[found.end() if found else 0 :].rpartition(".")
            if module not in table:
                continue
            start = f"encoder.layer.{layer_of(int(found[1]), layers)}." if found else ""
            names = [f"{start}{n}.{kind}" for n in table[module]]
            if lost := [n for n in names if n not in left]:
                if "missing" in refuses:
                    raise missing(f"{lost[0]} is missing")
                continue
            for n in names if "shape" in refuses or ("thirds" in refuses and len(names) == 3) else ():
                if left[n].shape != (len(parameter) // len(names), *parameter.shape[1:]):
                    raise ValueError(f"{n} has another shape")
            value = join([left[n] for n in names]) if len(names) > 1 else left[names[0]]
            for n in names:
                left.pop(n)
            if value.shape != parameter.shape and "joined shape" in refuses:
                raise ValueError(f"{names[0]} has another shape")
            state[ours] = value
            if not at_once:
                parameter.copy_(value)
        if left and "left" in refuses:
            raise ValueError(f"{min(left)} is left over")
        if half:
            encoder.to(next(iter(state.values())).dtype)
        encoder.load_state_dict(state, strict=strict, assign=assign)
        return encoder if returns else None

    return load_bert


def translating(theirs_first=True, long_first=True, checks=True):
    """Return a load_bert that goes through the file and translates each name."""
    pairs = [(t, o) for o, names in PARTS.items() if o != "attention.qkv" for t in names]
    pairs = sorted(pairs, key=lambda pair: len(pair[0]), reverse=long_first)

    def load_bert(encoder, tensors):
        state, rows = {}, {}
        for name, tensor in tensors.items():
            new = name.removeprefix("bert.")
            if new.startswith(("pooler.", "cls.")) or new == "embeddings.position_ids":
                continue
            new = new.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias")
            new = new.replace("encoder.layer.", "layers.")
            found = re.fullmatch(r"(layers\.\d+\.attention\.)self\.(query|key|value)\.(weight|bias)", new)
            if found:
                rows.setdefault(f"{found[1]}qkv.{found[3]}", {})[found[2]] = tensor
                continue
            for theirs, ours in pairs:
                new = new.replace(theirs, ours)
            state[new] = tensor
        if not checks:
            state |= {n: torch.cat([three[k] for k in ("query", "key", "value")]) for n, three in rows.items()}
            encoder.load_state_dict(state)
            return encoder
        own = encoder.state_dict()
        for n, three in rows.items():
            for k in ("query", "key", "value"):
                whole = n.replace("layers.", "encoder.layer.").replace("qkv", f"self.{k}")
                if k not in three:
                    raise ValueError(f"{whole} is missing")
                if n in own and three[k].shape[0] * 3 != own[n].shape[0]:
                    raise ValueError(f"{whole} has the shape {tuple(three[k].shape)}")
            state[n] = torch.cat([three[k] for k in ("query", "key", "value")])
        for n, t in own.items():
            whole = their_names(f"encoder.{n}", BERT, "")[0]
            if n not in state:
                raise ValueError(f"{whole} is missing")
            if state[n].shape != t.shape:
                raise ValueError(f"{whole} has the shape {tuple(state[n].shape)}")
        for n in state:
            if n not in own:
                raise ValueError(f"{n.replace('layers.', 'encoder.layer.')} is left over")
        with torch.no_grad():
            for n, parameter in encoder.named_parameters():
                parameter.copy_(state[n])
        return encoder

    return load_bert


def sorted_as_text(layer, layers):
    return sorted(range(layers), key=str)[layer]


def exchanged(parts):
    return torch.cat([parts[1], parts[0], *parts[2:]])


def values_second(parts):
    return torch.cat([parts[0], *parts[:0:-1]])


def head_after_head(parts):
    """The first head's queries, keys and values, then the second head's (of three heads of a quarter each)."""
    return torch.cat([part.unflatten(0, (3, -1)) for part in parts], dim=1).flatten(0, 1)


def turned(parts):
    return torch.cat([part.T for part in parts])


def heads_before_the_prefix(encoder, tensors):
    """Leave out the heads by their names as they stand in the file, and take the prefix off afterwards."""
    return loads(heads_out=False)(encoder, {n: t for n, t in tensors.items() if not is_head_or_ids(n)})


def today(name):
    """Return a name without the prefix, and with weight and bias for gamma and beta."""
    return name.removeprefix("bert.").replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias")


def torch_refuses(encoder, tensors):
    """Let load_state_dict find the shapes that do not fit, and turn its error into a ValueError with all the names."""
    try:
        return loads(refuses=("missing", "left", "thirds"))(encoder, tensors)
    except RuntimeError as error:
        raise ValueError(f"{error}; the file has {', '.join(map(today, tensors))}") from error


def names_as_in_the_file(encoder, tensors):
    """Check what fits, and name it as the file does, with gamma and beta."""
    try:
        return loads()(encoder, tensors)
    except ValueError as error:
        message = str(error)
        for name in tensors:
            message = message.replace(today(name), name)
        raise ValueError(message) from None


def converts_the_dict(encoder, tensors):
    """Convert the caller's tensors, in the caller's dict, before loading them."""
    for name in tensors:
        tensors[name] = tensors[name].float()
    return loads()(encoder, tensors)


bert_loader = Build(
    id="14.1",
    course=load_bert,
    stages=(
        Stage("the embeddings", embeddings_alone),
        Stage("query, key and value", query_key_value),
        Stage("a whole layer", whole_layer),
        Stage("twelve layers", twelve_layers),
        Stage("other files", other_files),
        Stage("what does not fit", refusals),
        Stage("all or nothing", all_or_nothing),
        Stage("half precision", half_precision),
        Stage("other sizes", other_sizes),
    ),
    mistakes=(
        Mistake(
            "the encoder is not returned",
            loads(returns=False),
            "the tensors are in their places, but nothing is returned. End with `return encoder`.",
            "load_state_dict changes a module in place and returns something else",
        ),
        Mistake(
            "no token types",
            loads(forget=("types",), refuses=("missing", "shape"), strict=False),
            "`types` keeps its random numbers: `embeddings.token_type_embeddings` belongs there. With strict=False "
            "torch does not tell you what was forgotten.",
            "https://github.com/keras-team/keras-hub/issues/642 (weights converted, outputs differ)",
        ),
        Mistake(
            "keys before queries",
            loads(join=exchanged),
            "keys and queries are exchanged: the first C rows of `qkv` are the queries, the next C the keys, then the "
            "values.",
            "https://github.com/explosion/curated-transformers/pull/50 (thirds in another order than torch's)",
        ),
        Mistake(
            "values before keys",
            loads(join=values_second),
            "keys and values are exchanged: the first C rows of `qkv` are the queries, the next C the keys, then "
            "the values.",
            "https://github.com/explosion/curated-transformers/pull/50 (thirds in another order than torch's)",
        ),
        Mistake(
            "head after head",
            loads(join=head_after_head),
            "the rows go head by head. Our `qkv` has all queries first, then all keys, then all values, each with head "
            "0 first, as their matrices have it.",
            "the layout of GPT-NeoX's query_key_value, which goes head by head",
        ),
        Mistake(
            "transposed",
            loads(
                join=lambda parts: turned(parts) if parts[0].ndim == 2 else torch.cat(parts),
            ),
            "the three matrices are transposed. Both sides are torch's `nn.Linear`, which stores (out, in): take them "
            "as they are. (TensorFlow's checkpoints and GPT-2's need the transpose.)",
            "https://github.com/huggingface/transformers/issues/4514 (which axis of a linear layer is which)",
        ),
        Mistake(
            "norms exchanged",
            loads({"norm1": ["output.LayerNorm"], "norm2": ["attention.output.LayerNorm"]}),
            "the two layer norms of a layer have changed places: `norm1` comes after the attention. Both have the same "
            "shape, so it loads without an error.",
            "https://github.com/NVIDIA/TensorRT-LLM/issues/1173 (BERT's two norms mapped by hand)",
        ),
        Mistake(
            "the short name first",
            translating(long_first=False, checks=False),
            "`output.dense` is also the end of `attention.output.dense`, and `LayerNorm` of several names. Replaced "
            "first, the short name takes the attention's tensors too: replace the longer names first.",
            "https://github.com/huggingface/transformers/issues/8242 (names of BERT's tensors, one inside the other)",
        ),
        Mistake(
            "layers sorted as text",
            loads(layer_of=sorted_as_text),
            "the layers are in another order: as text, 10 and 11 come before 2. Take the number out of the name.",
            "https://github.com/huggingface/transformers/issues/8242 (layer_10 among the names of a base model)",
        ),
        Mistake(
            "the prefix",
            loads(prefix=False),
            "a file of a BERT with a head calls its encoder's tensors `bert.embeddings…`, `bert.encoder…`. Take the "
            "prefix `bert.` off.",
            "https://github.com/NLPScott/bert-Chinese-classification-task/issues/23 (keys that do not match)",
        ),
        Mistake(
            "gamma and beta",
            loads(old=False),
            "old files call a norm's weight `gamma` and its bias `beta`; bert-base-uncased still does.",
            "the names in the published bert-base-uncased; modeling_utils of transformers renames them",
        ),
        Mistake(
            "the heads refused",
            loads(heads_out=False),
            "the pooler, the heads (`cls.`) and `embeddings.position_ids` are no parts of an encoder. Leave them out "
            "without an error.",
            "unexpected keys of a BertForPreTraining loaded as BertModel",
        ),
        Mistake(
            "only the heads left out",
            loads(is_head=lambda name: name.startswith(("pooler.", "cls."))),
            "`embeddings.position_ids` holds the numbers 0, 1, 2, … and no weights: leave it out without an "
            "error, as the heads.",
            "old checkpoints of transformers, which saved this buffer",
        ),
        Mistake(
            "the heads before the prefix",
            heads_before_the_prefix,
            "`bert.pooler.dense.weight` was not left out: you ask for `pooler.` while the prefix `bert.` is still "
            "there. Take the prefix off first.",
            "BertForPreTraining calls its pooler bert.pooler",
        ),
        Mistake(
            "missing ones pass",
            loads(refuses=("shape", "left"), strict=False),
            "a part for which the file has nothing keeps its random numbers, and no error says so. Raise a ValueError "
            "that names the missing tensor.",
            "strict=False, advised in many answers to a failed load_state_dict",
        ),
        Mistake(
            "KeyError for a missing one",
            loads(missing=KeyError),
            "a missing tensor ends in Python's KeyError. Ask whether the name is in the file, and raise a "
            "ValueError that names it.",
            "a lookup without a test",
        ),
        Mistake(
            "left-over ones pass",
            loads(refuses=("missing", "shape")),
            "a tensor that no part takes was ignored. It may be half of another kind of model: raise a ValueError that "
            "names it.",
            "strict=False, advised in many answers to a failed load_state_dict",
        ),
        Mistake(
            "only the encoder's names are looked at",
            loads(
                is_head=lambda name: (
                    not name.startswith(("embeddings.", "encoder.")) or name == "embeddings.position_ids"
                )
            ),
            "you leave out whatever does not begin with `embeddings.` or `encoder.`. Only `pooler.`, `cls.` and "
            "`embeddings.position_ids` may be left out; anything else is an error that names it.",
            "a filter that keeps what is known in place of one that drops what is known",
        ),
        Mistake(
            "heads anywhere in the name",
            loads(is_head=lambda name: any(part in name for part in ("pooler", "cls", "position_ids"))),
            "you leave out each name that *contains* `pooler` or `cls`. Only those that begin with it are heads: "
            "use `startswith`.",
            "`in` on a string in place of startswith",
        ),
        Mistake(
            "the shape of the three together",
            loads(refuses=("missing", "left", "joined shape")),
            "no error says that a query has a row too many and a key one too few. After `torch.cat` they fit, with "
            "rows in the wrong places: compare query, key and value each with a third of `qkv`.",
            "sizes that cancel in a concatenation",
        ),
        Mistake(
            "the names as in the file",
            names_as_in_the_file,
            "the error should name a norm's tensors by weight and bias, also where the file has gamma and beta.",
            "the text of 14.1",
        ),
        Mistake(
            "torch's own error",
            translating(checks=False),
            "what does not fit ends in an error of torch or of Python. Raise a ValueError that gives the tensor's name "
            "in the file, before anything is loaded.",
            "load_state_dict alone: it names our parts, not the file's",
        ),
        Mistake(
            "the shapes left to torch",
            loads(refuses=("missing", "left")),
            "a tensor of another shape ends in load_state_dict's RuntimeError, which names our part, not the "
            "file's tensor. Compare the shapes first, and raise a ValueError.",
            "load_state_dict alone: it names our parts, not the file's",
        ),
        Mistake(
            "half loaded",
            loads(at_once=False),
            "some parts were copied before the misfit was found. Collect everything first, and load it at the end.",
            "load_state_dict itself copies what fits before it raises",
        ),
        Mistake(
            "torch's error caught",
            torch_refuses,
            "load_state_dict found the misfit, but by then it had copied all that fits. Compare names and shapes "
            "before you call it.",
            "load_state_dict copies what fits before it raises",
        ),
        Mistake(
            "the dict emptied",
            loads(empties=True),
            "your function takes tensors out of the caller's dict, or renames them there. Work on a dict of your own.",
            "pop on an argument; lesson 01's checks meet the same with lists",
        ),
        Mistake(
            "the dict converted",
            converts_the_dict,
            "you convert the tensors in the caller's dict: whoever called it finds other tensors there. Nothing "
            "needs converting; load_state_dict and copy_ do it.",
            "assignment to an argument's items",
        ),
        Mistake(
            "shared memory",
            loads(assign=True),
            "with assign=True the encoder's parameters are the file's tensors themselves: train the one and the other "
            "changes. Without it load_state_dict copies, and converts to the parameters' dtype.",
            "load_state_dict(assign=True), which exists for models on the meta device",
        ),
        Mistake(
            "the file's dtype",
            loads(half=True),
            "the encoder's parameters take over the file's dtype. Load into the parameters as they are: copying "
            "converts to float32.",
            "a model that was loaded with torch_dtype='auto' and trained in the file's float16",
        ),
    ),
    hints=(
        "Walk through `encoder.state_dict()`: each of our names has one tensor in the file, or three. A dict from our "
        "part to a list of their names says which: the table above.",
        "Split our name: `layers.3.ffn_out.weight` is layer 3, part `ffn_out`, kind `weight`; "
        '`re.fullmatch(r"(?:layers\\.(\\d+)\\.)?(.+)\\.(weight|bias)", name).groups()` gives the three (None for no '
        "layer). `torch.cat` puts one or three tensors one below the other.",
        "First make a dict of your own of the file's tensors: prefix off, gamma and beta renamed, heads left out. "
        "`pop` what you use from *that* dict: what is left at the end has no place.",
        "Raise before you load: `encoder.load_state_dict(state)` is the last line but one.",
    ),
    praise="Every tensor in its place, and nothing half loaded.",
    other_ways=(translating(), loads()),
)


# --- 14.2 predict the result: the longest text ------------------------------------------------------------------------

longest_text = Prediction(
    id="14.2",
    right=510,
    mistakes=(
        Mistake(
            "all rows",
            514,
            "that would use all rows. But this family starts to count at pad_id + 1, so the first rows stay unused.",
            "https://github.com/rinnakk/japanese-pretrained-models/issues/3 (the maintainer's first answer there)",
        ),
        Mistake(
            "as in RoBERTa",
            512,
            "that holds for RoBERTa itself, whose pad_id is 1: 514 - 2. Here pad_id is 3.",
            "https://github.com/huggingface/transformers/issues/1363 (why 514?)",
        ),
        Mistake(
            "starts at pad_id",
            511,
            "the first token's position is pad_id + 1, not pad_id: that row is for padding.",
            "https://github.com/huggingface/transformers/issues/11242 (positions of RoBERTa one off)",
        ),
        Mistake(
            "the special tokens taken off",
            508,
            "`<s>` and `</s>` take two of the rows, but they are counted here: take off only the unused rows.",
            "a limit that counts words alone",
        ),
        Mistake(
            "one row too many",
            509,
            "rows 0 to 3 stay unused. That is four rows, not five.",
            "an off-by-one",
        ),
    ),
    hints=(
        "The rows are numbered 0 to 513. Which is the first that a token gets?",
        "Rows 4, 5, …, 513 are left.",
        "`514 - (3 + 1)`",
    ),
    praise="No real token ever uses four of the rows; longer texts are an IndexError, or worse on a GPU.",
)

# --- 14.3 find the bug: embeddings ------------------------------------------------------------------------------------


def embedding_tables(generator):
    def draw(*shape):
        return 0.02 * torch.randn(*shape, generator=generator)  # as small as BERT's, so that eps counts

    ids = torch.randint(20, (3, 5), generator=generator)
    tables = draw(20, 8), draw(6, 8), draw(2, 8)
    return ids, *tables, 1 + 10 * draw(8), 10 * draw(8)


def one_text(generator):
    ids, *tables = embedding_tables(generator)
    tokens, positions, types, weight, bias = (table[..., :6].contiguous() for table in tables)
    tokens[ids[0, 0]], positions[0] = (
        -types[0],
        0.0,
    )  # all features of the sum are 0: without eps 0 would be divided by 0
    return ids[:1, :4], tokens, positions, types, weight, bias


def embeds(with_type=True, eps=1e-12, type_id=0, positions_of=1):
    def embed(ids, tokens, positions, types, weight, bias):
        x = tokens[ids] + (positions[: ids.shape[1]] if positions_of == 1 else positions[: ids.shape[0], None])
        x = x + types[type_id] if with_type else x
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    return embed


def norms(norm, first=0):
    def embed(ids, tokens, positions, types, weight, bias):
        return norm(tokens[ids] + positions[first : ids.shape[1] + first] + types[0], weight, bias)

    return embed


def corrected(x, weight, bias):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-12) * weight + bias


def both_types(ids, tokens, positions, types, weight, bias):
    x = tokens[ids] + positions[: ids.shape[1]] + types.sum(0)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-12)


def type_after_norm(ids, tokens, positions, types, weight, bias):
    x = tokens[ids] + positions[: ids.shape[1]]
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-12) + types[0]


def embedded_by_hand(ids, tokens, positions, types, weight, bias):
    x = torch.stack([torch.stack([tokens[i] + positions[t] + types[0] for t, i in enumerate(row)]) for row in ids])
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt() * weight + bias


embedded = Exercise(
    id="14.3",
    right=embeds(),
    inputs=embedding_tables,
    also=one_text,
    mistakes=(
        Mistake(
            "the bugs as they were",
            embeds(with_type=False, eps=1e-5),
            "both bugs are still there. Which of the five tables is not used? And which eps does config.json name, "
            "which one does F.layer_norm take if nobody says?",
            "https://github.com/keras-team/keras-hub/issues/642 and FACTS.md (add token_type_embeddings[0])",
        ),
        Mistake(
            "the type still missing",
            embeds(with_type=False),
            "eps is right now. But `types` is still not used: a model with token types adds one to every token, row 0 "
            "where there is only one sentence.",
            "FACTS.md (add token_type_embeddings[0])",
        ),
        Mistake(
            "the default eps",
            embeds(eps=1e-5),
            "the token type is there. But F.layer_norm takes eps = 1e-5 unless you say otherwise, and this model has "
            "1e-12. BERT's embeddings are small, so eps is seen in the result.",
            "https://github.com/nomic-ai/gpt4all/pull/1946 (all-MiniLM-L6-v2 run with another eps)",
        ),
        Mistake(
            "an eps between",
            embeds(eps=1e-6),
            "the token type is there. But eps is not the one of this model: `layer_norm_eps` in section 1.",
            "eps of ViT and T5",
        ),
        Mistake(
            "type 1",
            embeds(type_id=1),
            "you add row 1, the type of a *second* sentence. A single text is of type 0.",
            "https://github.com/john-hewitt/structural-probes/issues/13 (ones in place of zeros)",
        ),
        Mistake(
            "type 1, default eps",
            embeds(type_id=1, eps=1e-5),
            "you add row 1, the type of a *second* sentence; a single text is of type 0. And eps is still the default.",
            "https://github.com/huggingface/transformers/issues/2506 (all types 1 by mistake)",
        ),
        Mistake(
            "both types",
            both_types,
            "you add both rows of `types`. Each token has one type: row 0 for a single text.",
            "FACTS.md (add token_type_embeddings[0])",
        ),
        Mistake(
            "type after the norm",
            type_after_norm,
            "the type is added behind the norm. All three embeddings are summed first, and the norm comes last.",
            "FACTS.md (add token_type_embeddings[0], to the sum of the embeddings)",
        ),
        Mistake(
            "positions from 1",
            norms(lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b, 1e-12), first=1),
            "your positions begin with row 1. BERT's begin with row 0, at `[CLS]`.",
            "a count that begins at 1",
        ),
        Mistake(
            "weight and bias unused",
            norms(lambda x, w, b: F.layer_norm(x, (x.shape[-1],), eps=1e-12)),
            "the norm's own weight and bias are not used: F.layer_norm takes them as its third and fourth argument.",
            "F.layer_norm without its weight",
        ),
        Mistake(
            "the standard deviation of a sample",
            norms(corrected),
            "`std` and `var` divide by C - 1 unless you say otherwise, a layer norm by C: `correction=0`.",
            "torch.std's default correction",
        ),
        Mistake(
            "one norm for all tokens",
            norms(lambda x, w, b: F.layer_norm(x, x.shape[1:], eps=1e-12) * w + b),
            "you norm over tokens and features together. A layer norm takes each token by itself, over its C features.",
            "normalized_shape with two dimensions",
        ),
    ),
    hints=(
        "Five tables come in. Are all of them used?",
        "`help(F.layer_norm)`: what is eps if you do not give it?",
        "`x = tokens[ids] + positions[:T] + types[0]`, and `eps=1e-12`",
    ),
    praise="Three tables, one norm, and the eps of the file: the first layer gets what it got in training.",
    other_ways=(
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
    ),
)

# --- 14.4 the second build: what a head reads -------------------------------------------------------------------------


def norm_weighted(weights, values, out):
    """Return each token's part in what each head adds, (B, H, T, T): its length as a proportion of the row's."""
    H, D = values.shape[1], values.shape[3]
    parts = values @ out.T.unflatten(0, (H, D))  # (B, H, T, C)
    lengths = weights * parts.norm(dim=-1)[:, :, None, :]  # (B, H, T, T)
    return lengths / lengths.sum(-1, keepdim=True)


def maps_and_values(generator, B=2, H=3, T=4, D=4):
    weights = torch.randn(B, H, T, T, generator=generator).softmax(-1)
    values = torch.randn(B, H, T, D, generator=generator) * torch.rand(B, 1, T, 1, generator=generator)
    return weights, values, torch.randn(H * D, H * D, generator=generator)


def single_head(answer, generator):
    return untouched(answer, *maps_and_values(generator, H=1))


def three_heads(answer, generator):
    return untouched(answer, *maps_and_values(generator))


def padded(answer, generator):
    weights, values, out = maps_and_values(generator)
    weights[1, :, :, 2:] = 0.0  # the second text has two tokens; what stands behind them has no weight
    return answer(weights / weights.sum(-1, keepdim=True), values, out)


def in_float64(answer, generator):
    return answer(*(t.double() for t in maps_and_values(generator)))


def short_vectors(answer, generator):
    weights, values, out = maps_and_values(generator)
    return answer(weights, 1e-6 * values, out)


def sizes_of_maps(answer, generator):
    return answer(*maps_and_values(generator, 1, 5, 6, 2))


def weighs(
    by=None,
    rows=lambda out, H, D: out.T.unflatten(0, (H, D)),
    norm=2,
    divide=-1,
    squared=False,
    query=False,
    plus=0.0,
    alpha=True,
):
    """Return a norm_weighted that a learner may write; the arguments are the mistakes."""

    def norm_weighted(weights, values, out):
        H, D = values.shape[1], values.shape[3]
        parts = values if by == "values" else values @ rows(out, H, D)
        if by == "all heads":
            parts = parts.sum(1, keepdim=True)
        lengths = parts.sum(-1) if by == "sum" else parts.norm(norm, dim=-1)
        lengths = lengths**2 if squared else lengths
        lengths = (weights if alpha else 1.0) * (lengths[..., :, None] if query else lengths[..., None, :])
        if callable(divide):
            return divide(lengths, weights, parts)
        lengths = lengths.expand_as(weights)
        return lengths if divide is None else lengths / (lengths.sum(divide, keepdim=True) + plus)

    return norm_weighted


def one_key_at_a_time(weights, values, out, dtype=None):
    _, H, T, D = values.shape
    lengths = torch.zeros(weights.shape, dtype=dtype or weights.dtype)
    for h in range(H):
        for s in range(T):
            added = weights[:, h, :, s, None] * (values[:, h, s] @ out[:, h * D : (h + 1) * D].T)[:, None]  # (B, T, C)
            lengths[:, h, :, s] = added.norm(dim=-1)
    return lengths / lengths.sum(-1, keepdim=True)


norm_weighting = Build(
    id="14.4",
    course=norm_weighted,
    stages=(
        Stage("one head", single_head),
        Stage("several heads", three_heads),
        Stage("padding", padded),
        Stage("float64", in_float64),
        Stage("short vectors", short_vectors),
        Stage("other sizes", sizes_of_maps),
    ),
    mistakes=(
        Mistake(
            "columns and rows",
            weighs(rows=lambda out, H, D: out.unflatten(0, (H, D))),
            "`out` is used as it is stored. `nn.Linear` computes x @ out.T: turn it first.",
            "nn.Linear stores its weight as (out, in)",
        ),
        Mistake(
            "without out",
            weighs(by="values"),
            "you take the length of the values alone. What a head adds to the output is α · v times the "
            "transpose of its columns of `out`.",
            "Kobayashi et al. 2020, equation 2: the transformed vector has W_O in it",
        ),
        Mistake(
            "lengths of the queries' tokens",
            weighs(query=True),
            "the length belongs to the token that is looked at, the column. Along a row it is the same factor "
            "everywhere, so dividing by the row's sum takes it out again, and the weights are left.",
            "a None in the wrong place",
        ),
        Mistake(
            "not divided",
            weighs(divide=None),
            "these are lengths; divide each row by its sum, so that it adds up to 1 as the weights do.",
            "the proportions of Kobayashi et al. 2020, before normalisation",
        ),
        Mistake(
            "divided along the columns",
            weighs(divide=-2),
            "each column adds up to 1. It is a row, one token that looks, whose parts should add up to 1.",
            "dim=-2 in place of dim=-1",
        ),
        Mistake(
            "squared lengths",
            weighs(squared=True),
            "you take squared lengths. `norm` is the root of the sum of squares.",
            "square().sum() without the root",
        ),
        Mistake(
            "sums of absolute values",
            weighs(norm=1),
            "you add up absolute values. The Euclidean length is the root of the sum of squares: `norm(dim=-1)`.",
            "norm(1) in place of norm(2)",
        ),
        Mistake(
            "without the weights",
            weighs(alpha=False),
            "the attention weights are missing: a term is α · v times W, and a token that is hardly looked at "
            "adds hardly anything.",
            "the length of the transformed vector alone",
        ),
        Mistake(
            "softmax",
            weighs(divide=lambda lengths, weights, parts: lengths.softmax(-1)),
            "you put a softmax over the lengths. A proportion is the length divided by the row's sum.",
            "softmax as the habitual way to rows that add up to 1",
        ),
        Mistake(
            "divided by the longest",
            weighs(divide=lambda lengths, weights, parts: lengths / lengths.amax(-1, keepdim=True)),
            "you divide by the longest term. The proportions of a row add up to 1: divide by the sum of the lengths.",
            "the maximum in place of the sum",
        ),
        Mistake(
            "divided by the length of the sum",
            weighs(divide=lambda lengths, weights, parts: lengths / (weights @ parts).norm(dim=-1)[..., None]),
            "you divide by the length of the sum of the terms, in which they partly cancel. Divide by the sum of "
            "their lengths.",
            "the norm and the sum in the wrong order",
        ),
        Mistake(
            "sums for lengths",
            weighs(by="sum"),
            "you add up the features, where large ones of both signs cancel. The length is `norm(dim=-1)`.",
            "sum in place of norm",
        ),
        Mistake(
            "all heads together",
            weighs(by="all heads"),
            "you add the heads' parts before taking the length. Each head has its own.",
            "exercise 03.2: what each head adds",
        ),
        Mistake(
            "divided over heads too",
            weighs(divide=(1, 3)),
            "you divide by the sum over all heads. Each head's row adds up to 1 by itself.",
            "a sum over one dimension too many",
        ),
        Mistake(
            "heads and features the wrong way round",
            weighs(rows=lambda out, H, D: out.T.unflatten(0, (D, H)).transpose(0, 1)),
            "you cut `out` feature by feature: H·D columns are H blocks of D, head 0's first, so it is "
            "`unflatten(…, (H, D))`.",
            "view with D before H",
        ),
        Mistake(
            "the first rows for each head",
            weighs(rows=lambda out, H, D: out.T[:D].expand(H, D, -1)),
            "each head is multiplied by head 0's part of `out`. Head h has the columns h·D … (h+1)·D of the stored "
            "matrix.",
            "a slice without h; exercise 03.2",
        ),
        Mistake(
            "always float32",
            lambda weights, values, out: one_key_at_a_time(weights, values, out, torch.float32),
            "the result is float32 whatever comes in, because torch.zeros makes float32. torch.zeros_like(weights) has "
            "the dtype of the arguments.",
            "torch.zeros without a dtype; the oracles of this course are compared in float64",
        ),
        Mistake(
            "a constant in the denominator",
            weighs(plus=1e-6),
            "with short vectors the constant in your denominator counts: the rows no longer add up to 1. No row "
            "is all zeros here, so divide by the sum alone.",
            "an eps against division by zero",
        ),
        Mistake(
            "a floor under the denominator",
            weighs(divide=lambda lengths, weights, parts: lengths / lengths.sum(-1, keepdim=True).clamp(min=1e-3)),
            "with short vectors the floor under your denominator counts: the rows no longer add up to 1. No row "
            "is all zeros here, so divide by the sum alone.",
            "clamp against division by zero",
        ),
    ),
    hints=(
        "Lesson 03, exercise 03.2: head h adds α · v_h times the rows h·D … (h+1)·D of `out.T`.",
        "`parts = values @ out.T.unflatten(0, (H, D))` is (B, H, T, C): what each token would add at weight 1.",
        "The length of α · x is α times the length of x: `weights * parts.norm(dim=-1)[:, :, None, :]`; then divide.",
    ),
    praise="A weight says where a head looks; this says what it gets there.",
    other_ways=(one_key_at_a_time, weighs()),
)
