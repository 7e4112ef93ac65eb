"""Run a stage as accelerate launch does with 00_configs/accelerate/fsdp_qlora.yaml, on CPUs.

python -m torch.distributed.run ... 02_src/tests/sharded_stage.py STAGE ARGUMENTS

accelerate refuses FSDP without GPUs before it looks at the model; torch's FSDP 2 and bitsandbytes'
4-bit weights run here as they do there.
"""

import os
import runpy
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "02_src"), str(REPOSITORY / "03_scripts")]


def read_environment() -> dict[str, str]:
    """What accelerate's launcher puts into the environment for the file."""
    from accelerate.commands.config.config_args import load_config_from_file

    file = REPOSITORY / "00_configs" / "accelerate" / "fsdp_qlora.yaml"
    config = load_config_from_file(str(file))
    assert config.distributed_type.value == "FSDP"
    found = {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}
    return found | {
        name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in config.fsdp_config.items()
    }


if __name__ == "__main__":
    os.environ.update(read_environment())
    from accelerate import state

    state.PartialState._prepare_backend = lambda *_, **__: (
        "gloo", state.DistributedType.MULTI_GPU
    )  # fmt: skip
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
