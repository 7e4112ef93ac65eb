"""report_to: a tracker that is not installed is named; one that is gets every record."""

import os
import sys

import pytest

from config import resolve_path
from errors import UserError
from experiment_tracker import EXPERIMENT, STORE, choose_tracker

NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY")


def test_no_tracker_is_used_unless_asked_for(tiny_config):
    assert choose_tracker(tiny_config("plain")) == "none"


def test_a_missing_tracker_is_one_line_with_the_command(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    config = tiny_config("tracked", report_to="mlflow")
    with pytest.raises(UserError, match="report_to: mlflow is not installed; run: pip install"):
        choose_tracker(config)


@pytest.mark.mlflow
def test_a_run_is_in_the_local_store(train_tiny, tiny_config, tmp_path, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    place = str(tmp_path / "logs")
    _, records, _ = train_tiny("tracked", report_to="mlflow", logging_dir=place)
    assert (resolve_path(place) / STORE).is_file() and str(tmp_path) in os.environ[
        "MLFLOW_TRACKING_URI"
    ]
    import mlflow

    run = mlflow.search_runs(experiment_names=[EXPERIMENT]).iloc[0]
    last = [record for record in records if "loss" in record][-1]
    assert run["metrics.loss"] == pytest.approx(last["loss"])
    assert run["metrics.rewards/margins"] == pytest.approx(last["rewards/margins"])
