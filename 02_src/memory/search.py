"""The fastest setting that fits: how the effective batch is split, and checkpointing."""

from config import Config
from hardware import Device
from memory.plan import Lengths, Plan, plan_memory
from memory.shape import ModelShape
from memory.speed import Rates

WORTH_CHANGING = 0.9  # a setting that fits is left alone unless another takes this share of time


def list_settings(config: Config) -> list[Config]:
    """Every split of the effective batch, with and without checkpointing; the config's first."""
    whole = config.effective_batch
    found = [config]
    for checkpointing in (False, True):
        for batch in range(whole, 0, -1):
            if whole % batch == 0:
                keys = {
                    "per_device_train_batch_size": batch,
                    "gradient_accumulation_steps": whole // batch,
                    "gradient_checkpointing": checkpointing,
                    "per_device_eval_batch_size": min(batch, config.eval_batch),
                }
                found.append(config.model_copy(update=keys))
    return found


def list_plans(
    config: Config, device: Device, shape: ModelShape, lengths: Lengths, rates: Rates | None
) -> list[Plan]:
    """A plan for each setting; the config's own first."""
    return [
        plan_memory(setting, device, shape, lengths, rates) for setting in list_settings(config)
    ]


def fit_plan(
    config: Config, device: Device, shape: ModelShape, lengths: Lengths, rates: Rates | None
) -> Plan | None:
    """The config's own plan where it fits and is fast enough, else the fastest that fits.

    None where no split of the batch fits: shorter rows, 4 bit or a smaller model are needed.
    """
    plans = list_plans(config, device, shape, lengths, rates)
    return choose_plan(plans)


def choose_plan(plans: list[Plan]) -> Plan | None:
    """The best of plans; the first is the one to keep where nothing is much faster."""
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        return None
    fastest = min(fitting, key=rank_speed)
    own = plans[0]
    if own.fits and (own.step_seconds or 0) * WORTH_CHANGING <= (fastest.step_seconds or 0):
        return own
    return fastest


def rank_speed(plan: Plan) -> tuple[float, bool, int]:
    """Smaller is better: the step time; unknown, then less recomputation and larger batches."""
    return plan.step_seconds or 0.0, plan.checkpointing, -plan.batch


def find_smaller(plans: list[Plan], failed: Plan) -> Plan | None:
    """The fastest plan that takes clearly less than one that ran out of memory."""
    smaller = [plan for plan in plans if plan.process < 0.9 * failed.process and plan.fits]
    smaller = smaller or [plan for plan in plans if plan.process < 0.9 * failed.process]
    return min(smaller, key=rank_speed) if smaller else None


def suggest_keys(config: Config, shape: ModelShape, smallest: Plan, device: Device) -> list[str]:
    """What else makes a run smaller when no split of the batch fits."""
    hints = []
    if not config.load_in_4bit:
        hints.append("load_in_4bit=true")
    if smallest.step.width > 128:
        hints.append(f"max_seq_length={max(64, smallest.step.width // 4)}")
    if config.lora_r > 8:
        hints.append("lora_r=8")
    if "8bit" not in config.optim and device.kind == "cuda":
        hints.append("optim=paged_adamw_8bit")
    return hints or ["a smaller model_name, such as embedded:smollm2-135m-instruct"]
