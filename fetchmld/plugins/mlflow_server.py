"""MLflow's server, one process at a unix socket. Runs in the sidecar's own environment, which has no FetchML in it.

`mlflow server` would start this as a child of its own and stay beside it for nothing but to wait: twice the memory, and its
libraries imported twice. The names with an underscore are those that it passes on to that child; the lock file names the
version that they hold for.
"""

import os
import sys


def main() -> None:
    os.umask(0o077)
    socket, store, artifacts = sys.argv[1], os.environ["FETCHML_BACKEND_STORE_URI"], os.environ["FETCHML_ARTIFACTS"]
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = os.environ["_MLFLOW_SERVER_REGISTRY_STORE"] = store
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
    os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = artifacts
    os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"

    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, "mlflow-artifacts:/")
    uvicorn.run("mlflow.server.fastapi_app:app", uds=socket, workers=1, log_level="warning")


if __name__ == "__main__":
    main()
