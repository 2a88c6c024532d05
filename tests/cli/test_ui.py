from tests.cli.conftest import Run
from tests.client.stub import Stub, answer


def test_ui_prints_where_a_browser_logs_in(client: Run, stub: Stub) -> None:
    made = {"ticket": "t", "url": "http://h/sessions/t", "expires_at": "2026-01-31T12:00:00Z"}
    stub.handlers["POST /v1/sessions/tickets"] = answer(201, made)
    assert client("ui").out == "http://h/sessions/t\n"
    assert client("ui", "--page", "/jupyter/x/lab?a=b").out == "http://h/sessions/t?to=/jupyter/x/lab%3Fa%3Db\n"
