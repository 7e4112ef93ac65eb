"""Kills at seeded random moments: what comes out is what an unbroken run gives, bit for bit.

A tiny random model here; `python 03_scripts/chaos.py` does 20 kills on the embedded model.
"""

import sys

from chaos_run import run_chaos

KILLS = {"load": 1, "precompute": 1, "train": 2, "checkpoint": 2, "evaluate": 1, "merge": 1}
FEW = {"train": 1, "checkpoint": 1, "merge": 1}  # where every start costs ten seconds of imports


def test_a_killed_pipeline_ends_with_the_same_adapter_answers_and_weights(tiny_model, tmp_path):
    forked = sys.platform == "linux"
    figures = run_chaos(tmp_path / "chaos", tiny_model, KILLS if forked else FEW, 1, forked)
    assert figures["kills"] == sum((KILLS if forked else FEW).values())
    assert figures["same"] == {"train": True, "evaluate": True, "merge": True}
    assert figures["resumed_from_checkpoint"] > 0
