"""The benchmark compares like with like, and reports with the right arithmetic. Nothing here depends on a time."""

import dataclasses
import json
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from oracles import huggingface_names, perturbed, words
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as bench
from benchmarks import gpu, measure, sentences
from benchmarks.arms import (
    HUGGINGFACE,
    MAKE,
    OURS,
    TORCH,
    check_same,
    configuration,
    make_arms,
    our_epoch,
    padded_batches,
    random_batch,
    torch_state,
    trainer_epoch,
    training_step,
)
from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.corpora.toy_world import ToyWorld

TINY = configuration(C=16, layers=2, V=205, T=24)


def texts(lengths=(20, 7, 13, 9, 24, 5, 11, 16)):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 205, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="module")
def batch():
    """One padded batch of four texts with masked tokens."""
    (batch,) = padded_batches(texts()[:4], words(), B=4, n=1)
    assert not batch["mask"].all() and (batch["labels"] != IGNORE).sum() > 2
    return batch


# The arms


def test_all_arms_compute_the_same_loss_and_the_same_gradients(batch):
    ours = perturbed(MaskedLanguageModel(Encoder(TINY)))
    arms = {name: make(ours) for name, make in MAKE.items()}
    for arm in arms.values():
        arm.model.double().train()
        arm.loss(batch).backward()
    gradients = {
        **dict.fromkeys(HUGGINGFACE, huggingface_names(ours, of=lambda p: p.grad)),
        TORCH: torch_state({name: p.grad for name, p in ours.named_parameters()}),
    }
    for name, expected in gradients.items():
        torch.testing.assert_close(arms[name].loss(batch), arms[OURS].loss(batch), rtol=1e-10, atol=1e-10)
        theirs = dict(arms[name].model.named_parameters())
        assert set(theirs) == set(expected)  # the tied table comes once
        for key, gradient in expected.items():
            torch.testing.assert_close(theirs[key].grad, gradient, rtol=1e-10, atol=1e-10)


def test_all_arms_give_the_same_logits_and_hidden_vectors_at_real_tokens(batch):
    arms = make_arms(TINY)
    for what in ("logits", "hidden"):
        expected = getattr(arms[OURS], what)(batch)[batch["mask"]]
        for name, arm in arms.items():
            torch.testing.assert_close(getattr(arm, what)(batch)[batch["mask"]], expected, msg=lambda m, n=name: n + m)


def test_arms_that_compute_something_else_are_refused(batch):
    arms = make_arms(TINY, [OURS, HUGGINGFACE[0]])
    assert check_same(arms, batch) > 0
    with torch.no_grad():
        arms[HUGGINGFACE[0]].model.lm_head.bias[7] += 1
    with pytest.raises(AssertionError, match="Hugging Face, sdpa: loss"):
        check_same(arms, batch)


def test_each_arm_has_the_attention_and_the_dropout_that_its_name_says():
    arms = make_arms(dataclasses.replace(TINY, dropout=0.25))
    for name, attention in zip(HUGGINGFACE, ("sdpa", "eager"), strict=True):
        assert arms[name].model.config._attn_implementation == attention
    for name, arm in arms.items():
        rates = {part.p for part in arm.model.modules() if isinstance(part, torch.nn.Dropout)}
        assert rates == {0.25} and arm.model.training, name
    assert arms[TORCH].model.encoder.layers[0].self_attn.dropout == 0.25
    assert arms[OURS].model.encoder.layers[0].attention.dropout == 0.25


def test_all_arms_take_the_same_training_steps(batch):
    losses = []
    for arm in make_arms(TINY).values():
        step = training_step(arm)
        losses.append([step(batch) for _ in range(3)])
    assert losses[0][2] < losses[0][0]
    for theirs in losses[1:]:
        assert theirs == pytest.approx(losses[0], rel=1e-5)


def test_padded_batches_keep_the_order_of_the_texts():
    first, second = padded_batches(texts(), words(), B=4, n=2)
    assert first["ids"].shape == (4, 20) and second["mask"].sum(1).tolist() == [24, 5, 11, 16]
    original = torch.where(first["labels"] == IGNORE, first["ids"], first["labels"])
    assert original[1, :7].tolist() == texts()[1]


def test_both_epochs_train_on_the_same_texts_once():
    ours = make_arms(TINY, [OURS])[OURS].model
    before = [p.clone() for p in ours.parameters()]
    assert our_epoch(ours, texts(), words(), B=4) > 0
    pytest.importorskip("accelerate")
    assert trainer_epoch(ours, texts(), words(), B=4) > 0
    assert all(map(torch.equal, before, ours.parameters()))  # each trained a copy


# The arms of the contrastive part


def pairs(n=6):
    """Pairs of texts of different lengths, the last longer than T."""
    generator = torch.Generator().manual_seed(1)

    def text(length):
        return " ".join(f"w{i}" for i in torch.randint(200, (length,), generator=generator).tolist())

    return [(text(1 + i), text(4 * i + 7)) for i in range(n)]


def test_all_sentence_arms_compute_the_same_loss_and_the_same_gradients():
    ours = perturbed(MaskedLanguageModel(Encoder(TINY)))
    arms = {name: make(ours, words()) for name, make in sentences.MAKE.items()}
    for arm in arms.values():
        arm.model.train()
        arm.loss(pairs()).backward()
    trained = SimpleNamespace(encoder=arms[sentences.OURS].model.encoder, head=ours.head)
    expected = huggingface_names(trained, of=lambda p: p.grad)
    expected = {name.removeprefix("roberta."): g for name, g in expected.items() if name.startswith("roberta.")}
    plain = arms[sentences.OURS]
    for name, arm in arms.items():
        torch.testing.assert_close(arm.loss(pairs()), plain.loss(pairs()), rtol=1e-10, atol=1e-10)
        if isinstance(arm.model, SentenceEncoder):
            own, theirs = ({n: p.grad for n, p in a.model.named_parameters()} for a in (plain, arm))
        else:
            own, theirs = expected, {n: p.grad for n, p in arm.model[0].auto_model.named_parameters()}
        assert set(theirs) == set(own), name
        for key, gradient in own.items():
            torch.testing.assert_close(theirs[key], gradient, rtol=1e-10, atol=1e-10)


def test_sentence_arms_have_the_dropout_asked_for_and_the_fused_attention():
    arms = sentences.make_sentence_arms(dataclasses.replace(TINY, dropout=0.25), words())
    for name, arm in arms.items():
        assert {part.p for part in arm.model.modules() if isinstance(part, torch.nn.Dropout)} == {0.25}, name
        assert arm.model.training
    theirs = arms[sentences.THEIRS].model
    assert theirs[0].auto_model.config._attn_implementation == "sdpa" and theirs.max_seq_length == 24


def test_sentence_arms_read_the_same_ids_and_give_the_same_vectors():
    arms = sentences.make_sentence_arms(TINY, words(), [sentences.OURS, sentences.THEIRS])
    texts = [text for pair in pairs() for text in pair]
    features = arms[sentences.THEIRS].model.preprocess(texts)
    ids = [
        row[real.bool()].tolist()
        for row, real in zip(*(features[name] for name in ("input_ids", "attention_mask")), strict=True)
    ]
    assert ids == words().encode_batch(texts, max_len=24)
    assert sentences.check_same_sentences(arms, pairs()) > 0
    with torch.no_grad():
        arms[sentences.THEIRS].model[0].auto_model.embeddings.LayerNorm.bias[7] += 1
    with pytest.raises(AssertionError, match="sentence-transformers: loss"):
        sentences.check_same_sentences(arms, pairs())


# The arithmetic


def test_arms_run_in_turn_and_the_warm_up_is_not_counted():
    order, ticks = [], count()
    arms = {name: (lambda round_, name=name: order.append((name, round_))) for name in "AB"}
    seconds = measure.alternate(arms, rounds=2, warmup=1, clock=lambda: next(ticks))
    assert order == [("A", -1), ("B", -1), ("A", 0), ("B", 0), ("A", 1), ("B", 1)]
    assert seconds == {"A": [1, 1], "B": [1, 1]}


def test_medians_quartiles_and_ratios():
    assert measure.quartiles([5, 1, 3, 2, 4]) == (2, 3, 4)
    assert measure.quartiles([7.0]) == (7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="at least one round"):
        measure.quartiles([])
    assert measure.ratios([2, 30, 8], [1, 10, 2]) == (2.5, 3, 3.5)  # in pairs: a slow round slows both
    with pytest.raises(ValueError):
        measure.ratios([1, 2], [1])


def test_figures_are_written_as_a_median_with_its_quartiles():
    assert measure.spread((1.711, 1.75, 1.8)) == "1.75 (1.71-1.80)"
    assert measure.spread((1.0, 1.2344, 2.0), digits=0, scale=1e3) == "1,234 (1,000-2,000)"
    assert measure.spread((0.6, 0.65, 0.7), 0, 100, " %") == "65 % (60-70)"


def test_tables_are_markdown_and_a_row_that_does_not_fit_is_refused():
    assert measure.table(["", "ms"], [["ours", 3]]) == "|  | ms |\n| --- | ---: |\n| ours | 3 |"
    with pytest.raises(ValueError, match="1 cells; the header has 2"):
        measure.table(["", "ms"], [["ours"]])


def test_a_goal_is_reached_or_not_before_it_is_rounded():
    lines = measure.goals({"a": (1.6999, 1.7), "b": (0.65, 0.65)}).splitlines()[2:]
    assert lines == ["| a | 1.7 | 1.70 | no |", "| b | 0.65 | 0.65 | yes |"]


def test_the_formula_counts_what_torch_counts():
    batch = random_batch(V=205, B=3, T=24)
    ours = make_arms(TINY, [OURS])[OURS]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused kernel is not counted
        ours.loss(batch).backward()
    selected = int((batch["labels"] != IGNORE).sum())
    assert counter.get_total_flops() == measure.step_flops(16, 2, 205, [24] * 3, selected)


def test_operations_fall_into_their_groups():
    for operation, group in {
        "aten::addmm": "matrix products",
        "aten::mm": "matrix products",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
        "Optimizer.step#AdamW.step": "optimizer",
        "aten::_fused_adamw_": "optimizer",
        "aten::native_layer_norm_backward": "layer norm",
        "aten::_log_softmax": "softmax and loss",
        "aten::gelu_backward": "activation",
        "aten::bernoulli_": "dropout",
        "aten::index_select": "embedding, selection",
        "aten::add_": "sums, copies, new tensors",
        "aten::view": "other operations",
    }.items():
        assert bench.group_of(operation) == group, operation


def test_the_report_names_the_machine_and_its_versions():
    machine = measure.machine()
    assert machine["processor"] and machine["threads"] >= 1
    assert machine["versions"]["torch"] == torch.__version__ or machine["versions"]["torch"] in torch.__version__
    assert measure.installed("no-such-package") is None


def test_peak_memory_never_falls():
    before = measure.peak_memory()
    if before is None:
        pytest.skip("this system does not tell a process's peak")
    held = torch.ones(8 << 20)  # 32 MiB
    assert held.sum() > 0 and measure.peak_memory() >= before


# Sections


def test_sections_write_tables_numbers_and_goals(batch, capsys):
    report, arms = bench.Report(), make_arms(TINY)
    bench.step_times(report, "tiny", arms, [batch], rounds=2)
    assert [name.rsplit(": ")[1] for name in report.goals] in (
        [f"{HUGGINGFACE[0]} / ours", f"{TORCH} / ours"],
        [f"{HUGGINGFACE[1]} / ours", f"{TORCH} / ours"],
    )
    data = report.data["training step, tiny"]
    assert set(data["seconds"]) == set(MAKE) and all(len(s) == 2 for s in data["seconds"].values())
    assert all(f"| {name} |" in report.text[-1] for name in MAKE)
    assert report.text[-1] in capsys.readouterr().out


def test_the_contrastive_sections_write_tables_numbers_and_goals(capsys):
    report, arms = bench.Report(), sentences.make_sentence_arms(TINY, words())
    bench.contrastive_steps(report, "dropout 0", arms, [pairs(), pairs(4)], rounds=2)
    assert set(report.data["contrastive step, dropout 0"]["seconds"]) == set(sentences.MAKE)
    plain = {name: arms[name] for name in (sentences.OURS, sentences.THEIRS)}
    bench.embedding(report, plain, {"bodies": [body for _, body in pairs()]}, rounds=2)
    assert list(report.goals) == [
        "contrastive step, dropout 0: sentence-transformers / ours",
        "embedding, bodies: ours / sentence-transformers, texts a second",
    ]
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in arms) and "| 6 bodies: nextbert_lite |" in shown


# On a GPU: where there is none, the script runs on the CPU with a small model


def test_the_script_for_gpus_trains_resumes_and_embeds(tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--rounds", "2", "--lessons", "--out", str(tmp_path / "report.md")]) == 0
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in (OURS, *HUGGINGFACE)) and "the same weights to the bit" in shown
    assert (tmp_path / "report.md").read_text(encoding="utf-8").strip() == shown.strip()


def test_the_script_for_gpus_fails_where_resuming_gives_other_weights(monkeypatch):
    class Forgetful(gpu.Halting):
        """Batches by how many were asked for, not by the step: after the break they begin again with the first one."""

        calls = -1

        def __call__(self, step):
            self.calls += 1
            return super().__call__(self.calls)

    config = configuration(C=16, layers=2, V=ToyWorld().tokenizer().vocab_size, T=24)
    monkeypatch.setattr(gpu, "Halting", Forgetful)
    with pytest.raises(AssertionError, match="does not resume"):
        gpu.resuming(lambda *parts: None, torch.device("cpu"), config, steps=8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_for_gpus_says_so(capsys):
    assert gpu.main([]) == 1 and "There is no NVIDIA GPU here" in capsys.readouterr().err


def test_the_command_writes_text_and_numbers_but_nothing_when_quick(tmp_path, monkeypatch, capsys):
    def run(quick):
        report = bench.Report()
        report.say("# Title")
        report.data["step"] = {"seconds": [1 / 3, 1e-7 / 3]}
        report.goal("speed", 2.0, 1.7)
        return report

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    assert bench.main(["--quick"]) == 0 and not (tmp_path / "results").exists()
    assert bench.main([]) == 0
    text, numbers = (next((tmp_path / "results").glob(f"*.{kind}")) for kind in ("md", "json"))
    assert text.read_text(encoding="utf-8").startswith("# Title\n\nTook ")
    stored = json.loads(numbers.read_text(encoding="utf-8"))
    assert stored == {"goals": {"speed": [2.0, 1.7]}, "step": {"seconds": [0.333333, 3.33333e-08]}}


def test_a_wrong_number_of_threads_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--threads", "0"])
    assert "it must be at least 1" in capsys.readouterr().err
