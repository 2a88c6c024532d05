"""`keys create`, `ls` and `revoke`, against a stub daemon."""

from tests.cli.conftest import Run
from tests.client.stub import Stub, answer

MADE = {
    "id": "k1",
    "user_id": "ada",
    "role": "user",
    "status": "active",
    "created_at": "2026-01-01T00:00:00.000000Z",
}


def test_keys_are_made_listed_and_revoked(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/keys"] = answer(201, {**MADE, "key": "fml_secret"})
    stub.handlers["GET /v1/keys"] = answer(200, [MADE])
    stub.handlers["DELETE /v1/keys/k1"] = answer(204, None)
    assert client("keys", "create", "--user", "ada", "--expires", "30d").out.startswith("fml_secret\nkey k1 of ada")
    assert client("-q", "keys", "create", "--user", "ada").out == "fml_secret\n"
    assert client("keys", "create").code == 2
    assert client("keys", "create", "--user", "ada", "--role", "king").code == 2
    assert client("keys", "ls").out.splitlines()[1].split()[:4] == ["k1", "ada", "user", "active"]
    assert client("keys", "revoke", "k1").out == "k1 is revoked\n"
