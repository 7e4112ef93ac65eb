"""What the notebook shows before training: config, data, one pair, answers, memory.

Views read what was computed elsewhere; each ends in a verdict that follows from it.
"""

from collections.abc import Mapping, Sequence
from html import escape

from config import Config
from grounding import GROUNDED, judge_answer
from hardware import GIB
from preferences import Pair
from statistics_of_runs import share_of
from utils.text import contains_phrase

GREY, GREEN, RED, AMBER = "#808080", "#2e9d6a", "#d1584d", "#b8860b"
CELL = "text-align:left;vertical-align:top;padding:2px 10px 2px 0"
QUICK_TESTS = {
    "seen": "01_data/dpo/mini/test_seen.jsonl",
    "casual": "01_data/dpo/mini/test_casual.jsonl",
    "general_seen": "01_data/dpo/mini/test_general_seen.jsonl",
    "drift": "01_data/dpo/test_drift.jsonl",
}
# (key, value of quickstart.json) -> why; another value shows what the key means
REASONS = {
    ("model_name", "embedded:smollm2-135m-instruct"): "no account, no GPU: it trains on two cores",
    ("dataset_hf", "01_data/dpo/mini/train.jsonl"): "few abbreviations: a run of some minutes",
    ("validation_file", "01_data/dpo/mini/validation.jsonl"): "wordings that are not trained",
    ("test_files", str(QUICK_TESTS)): "what was taught, general senses, and neutral text",
    ("max_seq_length", "256"): "the longest pair is shorter, and nothing is cut",
    ("output_dir", "04_models/adapters/quickstart"): "a folder of its own, named like the config",
    ("logging_steps", "4"): "a short run needs many points for a curve",
    ("eval_steps", "60"): "twice in this run; each validation answers questions and takes seconds",
    ("save_steps", "30"): "an interrupted run loses a minute or two at most",
    ("num_train_epochs", "2.3"): "answered like 3 epochs in fewer steps",
    ("learning_rate", "0.002"): "few steps: each has to move the adapter further",
    ("lora_r", "32"): "new facts need room; on a small model it costs little",
    ("lora_alpha", "64.0"): "twice the rank, as in the default",
    ("rehearsal_file", "01_data/general/texts.jsonl"): "what the base says on it stays: no drift",
    ("loss_weights", "[1.0, 1.0]"): "DPO and sft count alike, written out",
    ("eval_limit", "48"): "keeps the evaluation at a minute or two",
}


class Html:
    """A piece of HTML that Jupyter shows, with a plain form for other front ends."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def build_table(
    rows: Sequence[Mapping[str, object]], verdict: str = "", colours: Sequence[str] = ()
) -> Html:
    """Rows of the same columns as a table, and what follows from them in bold.

    Args:
        rows: column -> value; values are shown as text.
        colours: one per row, for the row's last cell; empty for none.
    """
    names = list(rows[0]) if rows else []
    head = "".join(f'<th style="{CELL}">{escape(name)}</th>' for name in names)
    body = "".join(
        f"<tr>{build_cells(list(row.values()), colours[i] if colours else '')}</tr>"
        for i, row in enumerate(rows)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    lines = ["\t".join(names), *("\t".join(map(str, row.values())) for row in rows)]
    end = f"<p><b>{escape(verdict)}</b></p>" if verdict else ""
    return Html(table + end, "\n".join([*lines, verdict] if rows else [verdict]))


def build_cells(values: list[object], colour: str) -> str:
    """The cells of one row; the last one in `colour`."""
    styles = [CELL] * (len(values) - 1) + [CELL + (f";color:{colour}" if colour else "")]
    pairs = zip(values, styles, strict=True)
    return "".join(f'<td style="{style}">{escape(str(value))}</td>' for value, style in pairs)


def view_changes(config: Config) -> Html:
    """Keys whose value differs from the default, with the default and why."""
    rows = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if value != field.default:
            why = REASONS.get((name, str(value))) or field.description
            rows.append({"key": name, "this run": value, "default": field.default, "why": why})
    kept = len(Config.model_fields) - len(rows)
    loss = f"The loss is {' + '.join(config.losses)}, beta {config.dpo_beta:g}."
    return build_table(rows, f"{len(rows)} keys differ; the other {kept} are the defaults. {loss}")


def view_pair(pair: Pair, tokenizer) -> Html:
    """One pair as the model sees it: the shared prompt once, then both answers, ends marked."""
    from prompt_contract import answer_ending, render_text

    ending = answer_ending(tokenizer)
    prompt = render_text(tokenizer, pair.prompt)
    parts = (("prompt", prompt, GREY), ("chosen", pair.chosen, GREEN))
    parts += (("rejected", pair.rejected, RED),)
    html, text = [], []
    for name, words, colour in parts:
        end = "" if name == "prompt" else ending
        html.append(
            f'<b style="color:{colour}">{name}</b><pre style="white-space:pre-wrap;border-left:3px '
            f'solid {colour};padding-left:8px;margin:2px 0 8px;color:{colour}">{escape(words)}'
            f'<b style="color:{AMBER}">{escape(end)}</b></pre>'
        )
        text.append(f"{name}: {words}{end}")
    sizes = [len(tokenizer(t, add_special_tokens=False)["input_ids"]) for _, t, _ in parts]
    verdict = build_table(
        [],
        f"{sizes[0]} prompt tokens are read once; {sizes[1] + 1} and {sizes[2] + 1} answer tokens, "
        f"each with {ending}, are scored.",
    )
    return Html("".join(html) + verdict.html, "\n".join([*text, verdict.text]))


def view_answers(pairs: Sequence[Pair], answers: Sequence[str]) -> Html:
    """Questions, the answers given, and whether an accepted expansion stands in them."""
    rows, right = [], []
    for pair, answer in zip(pairs, answers, strict=True):
        accepted = pair.row.get("accepted") or []
        outcome = judge_answer(answer, accepted, pair.row.get("competing") or []).outcome
        right.append(outcome == GROUNDED)
        expected = ", ".join(accepted[:1])
        question = pair.prompt[-1]["content"]
        rows.append({"question": question, "expected": expected, "answer": answer})
    if not any(pair.row.get("accepted") for pair in pairs):
        return build_table(rows, "These questions list no accepted answers: judge for yourself.")
    colours = [GREEN if good else RED for good in right]
    return build_table(rows, f"Right: {share_of(right)}.", colours)


def view_questions(questions: Sequence[str], expected: str, **answers: Sequence[str]) -> Html:
    """Free questions with one column of answers per model, the trained one last.

    Args:
        expected: the words that a right answer holds.
        answers: model -> one answer per question.
    """
    rows = [
        {"question": question, **{name: given[i] for name, given in answers.items()}}
        for i, question in enumerate(questions)
    ]
    said = {name: [contains_phrase(expected, a) for a in given] for name, given in answers.items()}
    counts = ", ".join(f"{name} {sum(right)} of {len(right)}" for name, right in said.items())
    colours = [GREEN if right else RED for right in list(said.values())[-1]]
    return build_table(rows, f"Says {expected}: {counts}.", colours)


def view_loading(model, before: float, after: float) -> Html:
    """Memory of the device before and after the base was loaded, and what 16 bit would take.

    Args:
        before, after: bytes in use.
    """
    from qlora import count_parameters

    total = count_parameters(model)[1]
    held = model.get_memory_footprint()
    rows = [
        {"memory": "in use before", "GiB": f"{before / GIB:.3f}"},
        {"memory": "in use after", "GiB": f"{after / GIB:.3f}"},
        {"memory": f"{total:,} weights as they are held", "GiB": f"{held / GIB:.3f}"},
        {"memory": "the same weights in 16 bit", "GiB": f"{2 * total / GIB:.3f}"},
    ]
    return build_table(rows, f"The base takes {held / (2 * total):.0%} of its 16-bit size.")


def view_adapter(trainer, before: float, after: float) -> Html:
    """What training adds to the frozen base: parameters and memory.

    Args:
        before, after: bytes in use on the device, without and with the trainer.
    """
    from qlora import count_parameters

    trainable, total = count_parameters(trainer.model)
    path = trainer.fast_obstacle or "on: each prompt is computed once per pair"
    rows = [
        {"": "trainable parameters (LoRA)", "value": f"{trainable:,}"},
        {"": "all parameters", "value": f"{total:,}"},
        {"": "memory in use before, after", "value": f"{before / GIB:.3f}, {after / GIB:.3f} GiB"},
        {"": "second model for the reference", "value": trainer.ref_model or "none"},
        {"": "fast forward", "value": path},
    ]
    return build_table(rows, f"{trainable / total:.2%} of the parameters are trained.")


def view_prediction(planned, pairs: int) -> Html:
    """What the plan expects of this run, before it starts."""
    steps = count_steps(planned.config, pairs)
    seconds = planned.plan.step_seconds
    return build_table(
        [],
        f"Predicted: {planned.plan.process / GIB:.2f} GiB at the peak; {steps} steps of "
        f"{seconds:.2f} s, so {steps * seconds / 60:.1f} minutes without validation.",
    )


def count_steps(config: Config, pairs: int) -> int:
    """Optimizer steps of a run over `pairs`; a last, smaller batch is a step too."""
    each = -(-pairs // config.effective_batch)
    return config.max_steps or int(-(-config.num_train_epochs * each // 1))
