"""One effective batch over several processes: the config's pairs per optimizer step stay the same.

mine = split_batch(config, processes)    # what each process takes
config = join_batch(mine, processes)     # and back, for the run's folder
"""

from config import Config
from errors import UserError


def split_batch(config: Config, processes: int) -> Config:
    """The config of one of several processes: fewer micro-steps, then smaller ones.

    Raises:
        UserError: the effective batch cannot be divided by the number of processes.
    """
    pairs, rest = divmod(config.effective_batch, processes)
    if rest:
        nearest = processes * max(1, round(config.effective_batch / processes))
        raise UserError(
            f"gradient_accumulation_steps: {config.effective_batch} pairs per optimizer step "
            f"(per_device_train_batch_size x gradient_accumulation_steps) cannot be divided over "
            f"{processes} processes; make them {nearest}, or launch another number"
        )
    largest = min(pairs, config.per_device_train_batch_size)
    batch = next(size for size in range(largest, 0, -1) if pairs % size == 0)
    keys = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": pairs // batch}
    # The size of a validation step is not changed with it.
    return config.model_copy(update={**keys, "per_device_eval_batch_size": config.eval_batch})


def join_batch(config: Config, processes: int) -> Config:
    """The config of the whole run, from that of one of its processes."""
    steps = config.gradient_accumulation_steps * processes
    return config.model_copy(update={"gradient_accumulation_steps": steps})


def describe_split(config: Config, processes: int) -> str:
    """One line: who takes how many pairs; `config` is that of one process."""
    return (
        f"{processes} processes: {config.per_device_train_batch_size} pairs x "
        f"{config.gradient_accumulation_steps} micro-steps each, effective batch "
        f"{config.effective_batch * processes} as on one; a higher gradient_accumulation_steps "
        "gives each process more"
    )
