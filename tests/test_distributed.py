"""Several ranks train as one device does: its gradients, its weights, one voice, and a run that survives a kill."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracles import config, words

from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.course import runs
from nextbert_lite.training import distributed
from nextbert_lite.training.batches import MLMBatches, PairBatches
from nextbert_lite.training.loop import fit

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked processes")
CASES = ("gradients", "training", "resumed", "bfloat16", "agreement", "refusals", "commands")
HERE = Path(__file__).parent
LOST = "a rank has ended, so training ends on all of them"


def of_cases(folder, *cases):
    """Run cases of ranks.py and return what each found."""
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(HERE / "ranks.py"), str(folder), *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1_500)
    assert done.returncode == 0, done.stderr
    return {case: torch.load(folder / f"{case}.pt", weights_only=False) for case in cases}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return of_cases(tmp_path_factory.mktemp("ranks"), *CASES)


# --- one device's numbers ---------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize(
    "kind",
    [
        "mlm",
        "mlm, a rank without a selected token",
        "mlm, no selected token at all",
        "mlm, fewer rows than ranks",
        "a text's label",
        "a token's label",
        "pairs",
        "pairs, cached",
    ],
)
def test_loss_and_gradients_are_one_devices(kind, found):
    off = {
        way: value for (size, name, *way), value in found["gradients"].items() if name == kind for way in [(size, *way)]
    }
    assert {(2, 1, False), (3, 1, False), (2, 1, True), (3, 1, True)} <= off.keys()  # ranks, parts, sharded
    assert kind.startswith("pairs") or {(1, 2, False), (2, 2, False), (3, 2, False)} <= off.keys()
    assert max(off.values()) < 1e-12, off


@needs_fork
def test_a_run_on_two_or_three_ranks_ends_with_the_weights_of_one_device_on_every_rank(found):
    assert {way: len(ranks) for way, ranks in found["training"].items()} == {(2, False): 2, (3, True): 3}
    for ranks in found["training"].values():
        for weights, losses, same_tokens in ranks:
            assert weights < 1e-12
            assert losses < 1e-6  # one device tells its losses in float32
            assert same_tokens


@needs_fork
def test_bfloat16_on_ranks_is_near_bfloat16_on_one_device(found):
    alone, *ranks = found["bfloat16"]
    assert len(ranks) == 4  # two of each way
    for losses, products, weights in (alone, *ranks):
        assert losses == pytest.approx(alone[0], abs=2e-3)
        assert products == {torch.bfloat16} and weights == {torch.float32}


# --- going on ---------------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("size, shard", [(3, False), (2, True)])
def test_a_run_that_was_stopped_goes_on_bit_for_bit_on_as_many_ranks(size, shard, found):
    assert found["resumed"]["stopped", size, shard] == [(4, True)] * size  # asked of one or all, all stop
    weights, same_losses = found["resumed"]["again", size, shard]
    assert weights == [0.0] * size and same_losses
    name = f"{size} {shard}.safetensors"
    assert found["resumed"]["files", size, shard] == [name, *([f"{name}.shards-6"] if shard else [])]  # no older ones


@needs_fork
@pytest.mark.parametrize(
    "before, was, after, now", [(2, f, *to) for f in (False, True) for to in ((1, False), (3, not f))]
)
def test_a_run_goes_on_with_another_number_of_ranks_sharded_or_not(before, was, after, now, found):
    off, files = found["resumed"]["moved", before, was, after, now]
    assert off < 1e-10
    assert files == ["moved.safetensors", *(["moved.safetensors.shards-6"] if now else [])]


@needs_fork
def test_a_damaged_shard_is_refused_and_the_model_stays(found):
    told, off = found["resumed"]["damaged"]
    assert re.fullmatch(r"ValueError: .*\.distcp is missing or damaged\. Give another file name, .*", told) and off == 0


# --- one voice --------------------------------------------------------------------------------------------------------


@needs_fork
def test_one_rank_that_is_asked_to_stop_stops_all_after_the_same_step(found):
    assert found["agreement"]["stopped"] == [(3, True), (3, True)]


@needs_fork
def test_what_an_evaluation_sees_are_the_weights_of_that_step_sharded_or_not(found):
    alone, *ranks = found["agreement"]["evaluated"]
    assert len(alone) == 2 and alone[0] != pytest.approx(alone[1], abs=1e-3)
    assert len(ranks) == 4
    for sizes in ranks:
        assert sizes == pytest.approx(alone, abs=1e-4)


@needs_fork
@pytest.mark.parametrize(
    "case, words",
    [
        ("a batch of 9", "ValueError: a batch of 9 cannot be shared equally by 2 ranks; take one of 10, for example."),
        ("pairs for 2 of 11", "ValueError: a batch of 11 cannot be shared equally by 2 ranks; take one of 12"),
        ("pairs in parts", "ValueError: pairs are each other's negatives, so accumulate must be 1"),
        (
            "other batches",
            "ValueError: the ranks drew different batches at step 0: a batch must depend on the step alone",
        ),
        ("no part in the loss", "ValueError: spare.weight has no part in the loss: freeze it"),
        ("not finite", "FloatingPointError: training stopped at step 0: the loss is nan"),
        ("not finite, sharded", "FloatingPointError: training stopped at step 0: the loss is nan"),
        ("ended by torchrun", f"RuntimeError: {LOST}"),
    ],
)
def test_what_goes_wrong_on_one_rank_is_the_same_error_on_all_and_the_weights_stay(case, words, found):
    assert len(found["refusals"][case]) == 2
    for told, off in found["refusals"][case]:
        assert told.startswith(words) and off == 0


@needs_fork
@pytest.mark.parametrize("name", ["pretrain", "pairs"])
def test_a_command_on_two_ranks_writes_one_devices_model_once_and_only_the_first_rank_speaks(name, found):
    codes, printed, off, files = found["commands"][name]
    assert codes == [0, 0] and off < 1e-3  # of weights in float16
    assert files == ["card.json", "model.safetensors", "tokenizer.json"]
    assert printed[1] == "" and printed[0].count("Reading the ") == 1 and printed[0].count("Wrote ") == 1
    assert "12/12" in printed[0]  # the progress bar


@needs_fork
@pytest.mark.parametrize("name, rank", [("pretrain", 0), ("pairs", 1)])
def test_a_rank_that_is_killed_ends_all_with_one_sentence_and_the_same_command_goes_on(name, rank, found):
    codes, printed, left, codes_again, same = found["commands"][name, "killed", rank]
    assert sorted(codes) == [-9, 1] and codes[rank] == -9
    assert "".join(printed).count(f"nextbert-lite: {LOST}") == 1 and "Traceback" not in "".join(printed)
    assert left == ["run.json", "training.safetensors"]
    assert codes_again == [0, 0] and same


@needs_fork
@pytest.mark.parametrize(
    "case, words", [("held", "another command is at work in"), ("there is a model", "has a model already")]
)
@pytest.mark.parametrize("name", ["pretrain", "pairs"])
def test_a_folder_that_is_taken_is_one_sentence_of_one_rank_and_exit_code_1_of_all(name, case, words, found):
    codes, _, printed = found["commands"][name, case]
    assert codes == [1, 1]
    assert "".join(printed).count("\n") == 1 and words in "".join(printed)


@needs_fork
def test_a_streamed_corpus_on_two_ranks_trains_one_processes_model(found):
    codes, off = found["commands"]["streamed"]
    assert codes == [0, 0, 0] and off < 1e-3  # of weights in float16


@needs_fork
def test_what_each_rank_has_is_everybodys_and_so_is_an_error_of_one(found):
    told, failed = found["agreement"]["on each"]
    assert told == [["a", "b"]] * 2 and failed == ["invalid literal for int() with base 10: 'x'"] * 2


@needs_fork
def test_a_time_becomes_the_same_number_of_steps_on_all_ranks(found):
    assert found["commands"]["minutes"] == [0, 0]


def test_torchrun_with_a_number_of_ranks_that_does_not_divide_the_batch(tmp_path):
    out = tmp_path / "out"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = ["-m", "nextbert_lite", "pretrain", "--corpus", "toy", "--steps", "3", "--batch", "33", "--out", str(out)]
    done = subprocess.run([*launcher, *command], cwd=HERE.parent, capture_output=True, text=True)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("nextbert-lite")]
    assert ours == ["nextbert-lite: a batch of 33 cannot be shared equally by 2 ranks; take one of 34, for example."]
    codes = re.findall(r"exitcode  : (-?\d+) ", done.stderr)  # torchrun ends with -15 a rank that is not ready yet
    assert done.returncode == 1 and "1" in codes and set(codes) <= {"1", "-15"}
    assert not out.exists()


@needs_fork
@pytest.mark.slow
def test_a_rank_that_is_killed_at_any_moment_costs_nothing(tmp_path):
    for case, (tried, survived) in of_cases(tmp_path, "killings")["killings"].items():
        assert tried >= 8 and survived == tried, case


# --- one device -------------------------------------------------------------------------------------------------------


def small(seed=0):
    torch.manual_seed(seed)
    return MaskedLanguageModel(Encoder(config())).double()


def batches(size=8):
    texts = [[2, *(5 + (i + k) % 35 for k in range(4 + i % 5)), 3] for i in range(20)]  # the last batch has 4
    return MLMBatches(texts, words(35), batch_size=size, rate=0.3)


def trained(**options):
    model = small()
    fit(model, batches(), 6, device="cpu", progress=False, warmup=0, **options)
    return model.state_dict()


def test_parts_of_a_batch_one_after_the_other_train_as_the_whole_batch_does():
    whole, parts = trained(), trained(accumulate=4)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-12, rtol=0)


def test_without_other_ranks_there_is_nothing_to_shard_and_nothing_to_wait_for():
    assert not distributed.join() and distributed.on_first(lambda: 7) == 7
    whole, alone = trained(), trained(shard=True)
    assert all(torch.equal(alone[name], whole[name]) for name in whole)


def test_parts_that_a_batch_cannot_be_cut_into_are_refused():
    with pytest.raises(
        ValueError, match=r"a batch of 8 cannot be shared equally by 1 ranks, 3 parts each; take one of 9"
    ):
        trained(accumulate=3)
    with pytest.raises(ValueError, match="accumulate is 0; it must be a whole number of at least 1"):
        trained(accumulate=0)
    pairs = PairBatches([([2, 5 + i, 3], [2, 6 + i, 3]) for i in range(8)], words(35), 4)
    with pytest.raises(ValueError, match="pairs are each other's negatives"):
        fit(SentenceEncoder(Encoder(config())), pairs, 2, accumulate=2, device="cpu", progress=False)


def test_a_folder_is_one_commands_alone_and_left_as_it_was(tmp_path):
    pytest.importorskip("fcntl")
    out = tmp_path / "new"
    with runs.alone_in(out), pytest.raises(ValueError, match=r"another command is at work in .*new: wait until"):
        with runs.alone_in(out):
            pytest.fail("two commands in one folder")
    assert not out.exists()
    with runs.alone_in(out):
        (out / "kept").touch()
    with runs.alone_in(out):
        pass
    assert (out / "kept").exists()
