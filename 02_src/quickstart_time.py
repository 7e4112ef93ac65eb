"""How long the quickstart takes on this machine: a second of calibration, no download.

seconds = estimate_quickstart()
"""

from config import load_config, resolve_path
from hardware import find_device

EMBEDDED_SHAPE = {  # SmolLM2-135M
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
QUICKSTART = "00_configs/quickstart.json"
PROMPT_TOKENS, ANSWERS_TOKENS = 44, 26  # of a usual pair of the quickstart
AROUND_TRAINING = 0.95  # validation, evaluation, merge, asking: share of the steps' time
FIXED_SECONDS = 65.0  # starting four programs, loading, reference pass


def estimate_quickstart() -> float:
    """Seconds of training, evaluation, merge and asking; installation and download excluded."""
    from transformers import AutoConfig

    from memory.plan import plan_memory
    from memory.shape import describe_model
    from memory.speed import measure_rates
    from qlora import choose_precision

    config = load_config(QUICKSTART)
    device = find_device(config)
    shape = describe_model(AutoConfig.for_model("llama", **EMBEDDED_SHAPE))
    rates = measure_rates(device.kind, choose_precision(config, device).base)
    with resolve_path(config.dataset_hf).open(encoding="utf-8") as stream:
        pairs = sum(bool(line.strip()) for line in stream)
    usual = (PROMPT_TOKENS + ANSWERS_TOKENS - 1, ANSWERS_TOKENS)
    plan = plan_memory(config, device, shape, [usual] * pairs, rates)
    steps = config.num_train_epochs * pairs / config.effective_batch
    return steps * plan.step_seconds * (1 + AROUND_TRAINING) + FIXED_SECONDS
