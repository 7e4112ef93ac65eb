"""What a finished run leaves in its folder, from the adapter to the summary."""

import json
import shutil

from checkpoints import ADAPTER_FILES, SUMMARY_FILE, Run
from config import Config, write_text
from merging.base_identity import write_identity
from model_card import write_model_card
from prompt_contract import write_contract
from run_log import read_metrics
from safe_files import sync_file, sync_folder, write_manifest


def save_run(trainer, config: Config, run: Run) -> None:
    """Write adapter, tokenizer, contract, base fingerprint and card; the summary last."""
    scratch = run.folder / ".saving"
    shutil.rmtree(scratch, ignore_errors=True)
    trainer.save_adapter(scratch)
    trainer.processing_class.save_pretrained(scratch)
    write_contract(trainer.processing_class, config, scratch)
    write_identity(config, scratch)
    write_model_card(config, scratch, read_metrics(run.log_folder))
    write_manifest(scratch, ADAPTER_FILES)
    sync_folder(scratch)
    for file in scratch.iterdir():
        file.replace(run.folder / file.name)
    scratch.rmdir()
    sync_file(run.folder)
    told = ("steps", "seconds", "train_loss", "resumed_at")
    summary = {name: getattr(run, name) for name in told}
    write_text(run.folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
