"""The experiment tracker a config asks for: MLflow, into a file under logging_dir.

`mlflow ui --backend-store-uri sqlite:///05_logs/mlflow.db` shows the runs side by side. A
MLFLOW_TRACKING_URI or MLFLOW_EXPERIMENT_NAME of the user's own is left as it is.
"""

import os
from importlib.util import find_spec

from config import Config, resolve_path
from errors import UserError

STORE = "mlflow.db"  # sqlite: MLflow gives up its folders of files
EXPERIMENT = "dpo"


def choose_tracker(config: Config) -> list[str] | str:
    """transformers' report_to; MLflow's place is set for this process.

    Raises:
        UserError: the package is not installed.
    """
    if config.report_to is None:
        return "none"
    if find_spec("mlflow") is None:
        raise UserError("report_to: mlflow is not installed; run: pip install mlflow")
    place = resolve_path(config.logging_dir) / STORE
    place.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{place.as_posix()}")
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it takes no DO_NOT_TRACK=1
    return [config.report_to]
