"""The served document: valid, equal to what is mounted, and a true superset of the contract's facts."""

import copy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from aiohttp import web
from openapi_spec_validator import validate

from fetchmld.api.access import MAY
from fetchmld.api.app import OPERATIONS, build_app
from fetchmld.api.openapi import DOCS, build_document, document_path
from fetchmld.config import Config
from tests.api.local_head import LocalHead
from tests.api.served import Api, with_api

FACTS: Final[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "facts.yaml").read_text())
DOCUMENT: Final = build_document(OPERATIONS)

# Keywords that narrow what a schema lets through: none may be added to a schema that the contract has, but those that
# only say what has no meaning (a page of nothing, a negative offset), or that refuse fields nobody has defined.
NARROWING: Final = frozenset(
    {"enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "format", "required",
     "additionalProperties", "uniqueItems", "multipleOf"}
)  # fmt: skip
ALLOWED: Final = frozenset(
    {
        ("/v1/tasks get limit", "minimum"),
        ("/v1/tasks get offset", "minimum"),
        ("/v1/audit/events get limit", "minimum"),
        ("/v1/audit/events get offset", "minimum"),
        ("CreateTaskRequest", "additionalProperties"),
        ("CreateExperimentRequest", "additionalProperties"),
        ("CreateReservationRequest", "additionalProperties"),
        ("DatasetSpec", "additionalProperties"),
        ("StartJupyterRequest", "additionalProperties"),
    }
)


def test_the_document_is_valid_openapi() -> None:
    validate(copy.deepcopy(DOCUMENT))
    assert DOCUMENT["openapi"] == "3.0.3"


def test_the_document_is_what_is_mounted(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        status, served = await api.call("GET", "/openapi.json", key=None)
        assert (status, served) == (200, DOCUMENT)

    with_api(tmp_path, test)
    app = build_app(LocalHead(), Config(data_dir=tmp_path))
    assert mounted(app) == documented()


def mounted(app: web.Application) -> set[tuple[str, str]]:
    routes = [(route.method, route.resource) for route in app.router.routes()]
    found = {(method, document_path(resource.canonical)) for method, resource in routes if resource is not None}
    found -= {(op.method, document_path(op.path)) for op in OPERATIONS if not op.is_described}
    return {(method, path) for method, path in found if method != "HEAD" or ("GET", path) not in found}


def documented() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}


def test_operation_ids_are_unique_and_each_is_described_once() -> None:
    ids = [op.id for op in OPERATIONS]
    assert len(ids) == len(set(ids))
    assert {op.id for op in OPERATIONS if op.is_described} == DOCS.keys()
    assert document_path("/a/{x}/{y:.+}") == "/a/{x}/{y}"


def test_a_closed_operation_says_401_and_403_and_an_open_one_that_it_is_open() -> None:
    for op in [one for one in OPERATIONS if one.is_described]:
        served = DOCUMENT["paths"][document_path(op.path)][op.method.lower()]
        assert (served.get("security") == []) == op.is_open, op.id
        assert {"400", "500"} <= served["responses"].keys()
        if not op.is_open:
            assert {"401", "403", "503"} <= served["responses"].keys(), op.id
            assert any(op.id in allowed for allowed in MAY.values()) or op.id in {
                "putPluginConfig",
                "disablePlugin",
                "rotateAuditKey",
                "pruneAudit",
                "listKeys",
                "createKey",
                "revokeKey",
            }


def test_the_facts_have_thirty_operations_on_twenty_two_paths() -> None:
    assert len(FACTS["paths"]) == 22
    assert sum(len(item) for item in FACTS["paths"].values()) == 30


@pytest.mark.parametrize("part", ["openapi", "security"])
def test_the_facts_around_the_paths_are_kept(part: str) -> None:
    assert DOCUMENT[part] == FACTS[part]


def test_the_facts_about_keys_and_titles_are_kept() -> None:
    assert DOCUMENT["components"]["securitySchemes"] == FACTS["components"]["securitySchemes"]
    assert {name: DOCUMENT["info"][name] for name in FACTS["info"]} == FACTS["info"]


@pytest.mark.parametrize("path", FACTS["paths"])
def test_every_operation_of_the_contract_is_served_and_not_narrowed(path: str) -> None:
    for method, facts in FACTS["paths"][path].items():
        served = DOCUMENT["paths"][path][method]
        where = f"{path} {method}"
        check_parameters(facts.get("parameters", []), served.get("parameters", []), where)
        check_responses(facts["responses"], served["responses"], where)
        assert set(facts.get("tags", [])) <= set(served["tags"])
        assert facts.get("security", FACTS["security"]) == served.get("security", FACTS["security"])
        if "requestBody" in facts:
            check_schema(facts["requestBody"], served["requestBody"], where)
        else:
            assert "requestBody" not in served


@pytest.mark.parametrize("name", FACTS["components"]["schemas"])
def test_every_schema_of_the_contract_is_kept(name: str) -> None:
    check_schema(FACTS["components"]["schemas"][name], DOCUMENT["components"]["schemas"][name], name)


@pytest.mark.parametrize("name", FACTS["components"]["responses"])
def test_every_response_of_the_contract_is_kept(name: str) -> None:
    facts = {key: value for key, value in FACTS["components"]["responses"][name].items() if key != "description"}
    check_schema(facts, DOCUMENT["components"]["responses"][name], name)


def check_parameters(facts: list[dict[str, Any]], served: list[dict[str, Any]], where: str) -> None:
    by_name = {(p["name"], p["in"]): p for p in served}
    for fact in facts:
        kept = by_name.pop((fact["name"], fact["in"]))
        assert kept.get("required", False) == fact.get("required", False)
        check_schema(fact["schema"], kept["schema"], f"{where} {fact['name']}", widen=fact["name"] == "status")
    assert not any(added.get("required") for added in by_name.values()), f"{where}: a new parameter is required"


def check_responses(facts: dict[str, Any], served: dict[str, Any], where: str) -> None:
    for status, fact in facts.items():
        assert status in served, f"{where}: {status} is missing"
        without_words = {key: value for key, value in fact.items() if key != "description"}
        check_schema(without_words, served[status], f"{where} {status}")
    for status, answer in served.items():
        if status.startswith(("4", "5")):
            assert answer["$ref"].startswith("#/components/responses/")


def check_schema(fact: Any, served: Any, where: str, *, widen: bool = False) -> None:
    """Everything that `fact` says, `served` says too; what it adds does not narrow."""
    if isinstance(fact, dict):
        for key, value in fact.items():
            if widen and key == "enum":
                assert set(value) <= set(served[key]), where
            else:
                assert key in served, f"{where}: {key} is missing"
                check_schema(value, served[key], where)
        is_schema = "type" in fact and isinstance(fact["type"], str)
        added = (served.keys() - fact.keys()) & NARROWING if is_schema else set()
        assert all((where, key) in ALLOWED for key in added), f"{where}: narrowed by {added}"
    elif isinstance(fact, list):
        assert sorted(fact) == sorted(served), where
    else:
        assert fact == served, where


def test_the_check_itself_can_see() -> None:
    fact = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    for worse in (
        {"type": "object", "properties": {}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a", "b"]},
    ):
        with pytest.raises(AssertionError):
            check_schema(fact, worse, "x")
    check_schema(fact, {**fact, "properties": {**fact["properties"], "b": {"type": "string", "maxLength": 3}}}, "x")  # type: ignore[dict-item]
