"""Ask an exported GGUF through llama.cpp itself, on the same sample as its export report.

    pip install llama-cpp-python            # compiles llama.cpp; minutes; not in requirements.txt
    python 03_scripts/try_llama_cpp.py --gguf 04_models/exported/quickstart/quickstart-q8_0.gguf

Checks that llama.cpp makes the contract's token ids of the canary prompts, then asks the sample's
questions greedily with those ids and prints one JSON line: grounding accuracy, its interval, and
the seconds. Exit code 1 where a canary's ids differ.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "02_src"))

from config import load_run_config, resolve_path, show_path
from errors import UserError, run_main


def render_all(folder: Path, prompts: list) -> list[str]:
    """The prompts as the contract's template renders them."""
    from jinja2 import Environment

    from prompt_contract import read_contract

    template = Environment().from_string(read_contract(folder)["chat_template"])
    return [template.render(messages=p, add_generation_prompt=True) for p in prompts]


def count_other_ids(llm, folder: Path) -> int:
    """How many canaries llama.cpp's tokenizer turns into other ids than training's."""
    from prompt_contract import read_contract

    canaries = read_contract(folder)["canaries"]
    texts = render_all(folder, [canary["messages"] for canary in canaries])
    found = [llm.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    return sum(ids != canary["ids"] for ids, canary in zip(found, canaries, strict=True))


def answer_all(llm, folder: Path, prompts: list, longest: int) -> list[str]:
    """Greedy answers to `prompts`, through llama.cpp's own completion."""
    answers = []
    for text in render_all(folder, prompts):
        ids = llm.tokenize(text.encode(), add_bos=False, special=True)
        done = llm.create_completion(ids, max_tokens=longest, temperature=0.0)
        answers.append(done["choices"][0]["text"].strip())
    return answers


def import_llama() -> type:
    """llama-cpp-python's Llama; UserError where it is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        raise UserError("llama_cpp is not installed; run: pip install llama-cpp-python") from None
    return Llama


def main() -> int:
    """Load, check the canaries, ask, print one JSON line."""
    parser = argparse.ArgumentParser(description="Ask a GGUF through llama.cpp.")
    parser.add_argument("--gguf", required=True, help="an exported .gguf")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    file = resolve_path(arguments.gguf)
    Llama = import_llama()

    from merging.measure import judge_all
    from merging.sample import load_sample
    from statistics_of_runs import share_of

    config = load_run_config(file.parent)
    sample = load_sample(config)
    llm = Llama(str(file), n_ctx=512, n_threads=arguments.threads, verbose=False)
    started, wrong = time.monotonic(), count_other_ids(llm, file.parent)
    answers = answer_all(llm, file.parent, [p.prompt for p in sample.asked], config.max_new_tokens)
    share = share_of(list(judge_all(sample, answers)))
    figures = {"file": show_path(file), "canaries_with_other_ids": wrong}
    figures |= {"grounding": share.to_dict(), "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    run_main(main)
