"""A merge killed at any point leaves nothing or a complete folder, and the next one goes on."""

import multiprocessing
import os
import pathlib
import signal

from transformers import AutoModelForCausalLM, AutoTokenizer

HARDEST = signal.SIGTERM if os.name == "nt" else signal.SIGKILL  # both end a process at once
LLAMA = "transformers.models.llama.modeling_llama"
FORKED = "forkserver" in multiprocessing.get_all_start_methods()
# The n-th rename (plan, shard, settings, ... of both candidates), or the one that ends the merge.
POINTS = (2, 5, 9, "target") if FORKED else (2, "target")


def merge_and_die(run: str, target: str, point: int | str, after: bool) -> None:
    """Merge in this process, which is killed at one rename: no cleanup, no exit handlers."""
    from merge_lora import merge

    count = 0

    def watch(rename):
        def wrapped(source, place):
            nonlocal count
            count += 1
            here = count == point or (point == "target" and str(place) == target)
            if here and not after:
                os.kill(os.getpid(), HARDEST)
            rename(source, place)
            if here:
                os.kill(os.getpid(), HARDEST)

        return wrapped

    os.replace = watch(os.replace)
    pathlib.Path.rename = watch(pathlib.Path.rename)
    merge(run)


def run_killed(run, target, point, after=False) -> int:
    """Exit code of a merging process that dies at `point`."""
    context = multiprocessing.get_context("forkserver" if FORKED else "spawn")
    if FORKED:  # imports once, for all the processes
        context.set_forkserver_preload(["torch", "bitsandbytes", "peft", LLAMA])
    process = context.Process(target=merge_and_die, args=(str(run), str(target), point, after))
    process.start()
    process.join(300)
    return process.exitcode


def is_complete(folder) -> bool:
    """Whether plain transformers loads model and tokenizer, and report and contract are there."""
    AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    return names >= {"merge_report.json", "prompt_contract.json", "run_config.json", "README.md"}


def test_a_merge_killed_at_any_rename_leaves_nothing_or_a_complete_folder(make_run):
    run = make_run(merge_samples=2)
    target = run.parent.parent / "merged" / "tiny"
    for point in POINTS:  # each goes on where the one before was killed
        assert run_killed(run, target, point) not in (0, 1, 2), point
        assert not target.exists(), point
    assert run_killed(run, target, "target", after=True) not in (0, 1, 2)
    assert is_complete(target)


def test_a_replaced_model_is_whole_before_the_old_one_goes(make_run):
    from merge_lora import merge

    run = make_run(merge_samples=2)
    target = merge(run)
    os.utime(target / "model.safetensors", (1, 1))  # the old one
    settings = run / "run_config.json"
    settings.write_text(settings.read_text().replace('"merge_samples": 2', '"merge_samples": 3'))
    assert run_killed(run, target, "target") not in (0, 1, 2)
    aside = target.with_name(".tiny.replaced")
    assert not target.exists() and is_complete(aside)
    assert merge(run) == target and is_complete(target)
    assert not aside.exists() and (target / "model.safetensors").stat().st_mtime > 1
