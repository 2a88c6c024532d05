"""Train a small neural network to read handwritten digits: 1,797 real ones, 8 by 8 pixels each.

Reads its data from where FetchML mounted it, prints its progress epoch by epoch, and leaves the model and its metrics
in the output directory. Nothing here knows FetchML but for two environment variables.
"""

import argparse
import gzip
import json
import os
import time
import urllib.request
from pathlib import Path

import joblib
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

DIGITS = np.arange(10)


def main() -> None:
    options = parse_options()
    dataset = Path(os.environ["FETCHML_DATASET_DIGITS"])
    output = Path(os.environ["FETCHML_OUTPUT_DIR"])
    with gzip.open(dataset) as lines:
        table = np.loadtxt(lines, delimiter=",")  # each line: 64 pixels from 0 to 16, then the digit
    pixels, digits = table[:, :-1] / 16, table[:, -1].astype(int)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits, test_size=0.25, stratify=digits, random_state=options.seed
    )
    print(f"{len(digits)} digits read from {dataset.name}; {len(train_y)} to learn from, {len(test_y)} to be tested on")

    model = MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=0.003, random_state=options.seed)
    started = time.monotonic()
    for epoch in range(1, options.epochs + 1):
        model.partial_fit(train_x, train_y, classes=DIGITS)
        test_loss = log_loss(test_y, model.predict_proba(test_x), labels=DIGITS)
        accuracy = accuracy_score(test_y, model.predict(test_x))
        log_metrics(epoch, loss=float(model.loss_), test_loss=float(test_loss), test_accuracy=float(accuracy))
        print(
            f"epoch {epoch:3}  loss {model.loss_:.4f}  test loss {test_loss:.4f}  test accuracy {accuracy:.4f}",
            flush=True,
        )
        time.sleep(options.pause)

    metrics = {
        "test_accuracy": round(float(accuracy), 4),
        "test_loss": round(float(test_loss), 4),
        "epochs": options.epochs,
        "train_s": round(time.monotonic() - started, 3),
        "confusion": confusion_matrix(test_y, model.predict(test_x), labels=DIGITS).tolist(),
    }
    (output / "metrics.json").write_text(json.dumps(metrics))
    joblib.dump(model, output / "model.joblib")
    print(f"wrote metrics.json and model.joblib: {100 * accuracy:.1f} % of the test digits were read right")


def log_metrics(step: int, **values: float) -> None:
    """Into the run of MLflow that was made for us, if there is one: what `mlflow.log_metrics` does, without MLflow."""
    if "MLFLOW_RUN_ID" not in os.environ:
        return
    now = time.time_ns() // 1_000_000
    metrics = [{"key": name, "value": value, "timestamp": now, "step": step} for name, value in values.items()]
    body = json.dumps({"run_id": os.environ["MLFLOW_RUN_ID"], "metrics": metrics}).encode()
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}",
    }
    where = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/log-batch"
    try:
        urllib.request.urlopen(urllib.request.Request(where, body, headers), timeout=10).close()
    except OSError as error:
        print(f"not logged: {error}", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a classifier on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the data")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the weights")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of rest after each epoch, to watch it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
