"""Send `train.py` through a FetchML daemon and show what came back. `make example` runs this.

Every step is a call that any program could make: POST /v1/tasks with a dataset and its sum, the log while it runs, and
GET /v1/tasks/{id}/artifacts/metrics.json at the end.
"""

import argparse
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from fetchmld.client import ApiError, Client, ClientError

HERE: Final = Path(__file__).resolve().parent
DATASET: Final = HERE / "data" / "digits.csv.gz"
# The file that ships with scikit-learn: optical recognition of handwritten digits, UCI Machine Learning Repository.
SHA256: Final = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


def main() -> int:
    options = parse_options()
    place_dataset()
    with connect(options.data_dir.resolve()) as client:
        print(f"Submitting train.py to {client.address} ...")
        task = client.submit(request(options.epochs))
        print(f"Task {task['id']}; its output:\n")
        for piece in client.logs(task["id"], follow=True):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        ended = client.wait(task["id"])
        if ended["status"] != "completed":
            print(f"\nThe task failed: {ended.get('error')}", file=sys.stderr)
            return 1
        show_metrics(json.loads(client.artifact(task["id"], "metrics.json")))
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("var/fetchml"), help="the daemon's data directory")
    parser.add_argument("--epochs", type=int, default=30)
    return parser.parse_args()


def place_dataset() -> None:
    """Put the digits where the daemon may read them, and check that they are the ones we mean."""
    if not DATASET.exists():
        spec = importlib.util.find_spec("sklearn")
        if spec is None or spec.origin is None:
            raise SystemExit(f"scikit-learn is missing; install it with: pip install -r {HERE / 'requirements.txt'}")
        DATASET.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", DATASET)
        print(f"Took the digits out of scikit-learn: {DATASET}")
    found = hashlib.sha256(DATASET.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{DATASET} has the sum {found}, not {SHA256}; remove it and try again")


def connect(data_dir: Path) -> Client:
    """A client of the daemon of `data_dir`, which is started where none runs."""
    client = client_of(data_dir)
    if client is None:
        print(f"No daemon runs in {data_dir}; starting one (it stays: stop it with `make stop`).")
        command = [sys.executable, "-m", "fetchmld", "--data-dir", str(data_dir)]
        subprocess.run([*command, "start", "--head", "--dataset-root", str(DATASET.parent)], check=True)
        client = client_of(data_dir)
    if client is None:
        raise SystemExit(f"the daemon of {data_dir} does not answer; see {data_dir / 'logs'}")
    return client


def client_of(data_dir: Path) -> Client | None:
    """A client of the daemon that runs in `data_dir`, or None where none answers."""
    try:
        url = json.loads((data_dir / "daemon.json").read_text())["url"]
        client = Client(url, (data_dir / "admin.key").read_text().strip())
        client.ready()
    except (OSError, ValueError, KeyError, ClientError):
        return None
    return client


def request(epochs: int) -> dict[str, Any]:
    """The CreateTaskRequest: what to run, with which data, and what that data's sum must be."""
    return {
        "job_name": "digits",
        "entrypoint": str(HERE / "train.py"),
        "args": f"--epochs {epochs}",
        "cpu": 1,
        "dataset_specs": [
            {"name": "digits", "source": str(DATASET), "sha256": SHA256, "mount_path": "data/digits.csv.gz"}
        ],
    }


def show_metrics(metrics: dict[str, Any]) -> None:
    print("\nmetrics.json, as the daemon collected it:")
    for name, value in metrics.items():
        if name != "confusion":
            print(f"  {name:14} {value}")
    print("  confusion      (rows: what it was, columns: what the model read)")
    for row in metrics["confusion"]:
        print("    " + " ".join(f"{count:3}" for count in row))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ApiError as error:
        sys.exit(f"{error}\n(Was the daemon started with {DATASET.parent} among its dataset roots? `make start` does.)")
    except ClientError as error:
        sys.exit(str(error))
