# ruff: noqa: E501 - the queries are data, one beside the other
"""SQL from people: what can be asked, and more than a hundred ways in which it must not work."""

from collections.abc import Iterator
from typing import Any

import pytest

from fetchmld.core.errors import FetchmlError, Invalid
from fetchmld.store import history_sql
from fetchmld.store.history import History
from fetchmld.store.history_sql import Answer
from fetchmld.store.ledger import Ledger
from tests.store import task_facts as facts
from tests.store.task_facts import START_US


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    directory = tmp_path_factory.mktemp("sql")
    with_secret: dict[str, Any] = {"env": {"TOKEN": "s3cret"}, "entrypoint": "python s3cret.py", "cpu": 2}
    ledger = Ledger.open(directory / "ledger", segment_bytes=2**18)
    ledger.append(
        [
            *facts.whole_life("t1", **with_secret),
            facts.submit("t2", user="bob"),
            facts.start("t2"),
            facts.requeue("t2"),
            facts.start("t2", attempt=2),
            facts.end("t2", "failed", attempt=2, error="EXIT_NONZERO: 1"),
            facts.submit("t3"),
            facts.start("t3"),
            facts.experiment("e1", "one"),
            facts.login("eve", success=False),
        ]
    )
    opened = History(directory / "index.duckdb", directory / "ledger")
    opened.catch_up()
    yield opened
    opened.close()
    ledger.close()


def ask(history: History, sql: str, **other: Any) -> Answer:
    bounds = {"rows_max": 100, "time_max_s": 20.0, "audit": True, "redacted": False, **other}
    return history.ask(sql, **bounds)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT id, status FROM tasks ORDER BY id", [["t1", "completed"], ["t2", "failed"], ["t3", "running"]]),
        ("select status, count(*) as n from tasks group by all order by n desc, status limit 1;", [["completed", 1]]),
        ("SELECT task_id, attempt, outcome FROM attempts WHERE task_id = 't2' ORDER BY attempt",
         [["t2", 1, "requeued"], ["t2", 2, "failed"]]),
        ("SELECT outcome FROM attempts WHERE task_id = 't3'", [["running"]]),
        ("SELECT run_s, exit_code, started_at FROM attempts WHERE task_id = 't1'", [[2.0, 0, "2025-10-09T08:53:21Z"]]),
        ("SELECT cpu, entrypoint, env ->> 'TOKEN' FROM tasks WHERE id = 't1'", [[2, "python s3cret.py", "s3cret"]]),
        ("SELECT name FROM experiments", [["one"]]),
        ("SELECT count(*) FROM events WHERE event_type = 'auth_attempt' AND NOT success", [[1]]),
        ("WITH mine AS (SELECT * FROM tasks WHERE user_id = 'bob') SELECT id FROM mine", [["t2"]]),
        ("WITH a AS (SELECT 1 AS x), b AS (SELECT x + 1 AS y FROM a) SELECT y FROM b", [[2]]),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT max(i) FROM n", [[3]]),
        ("FROM tasks SELECT count(*)", [[3]]),
        ("VALUES (1), (2)", [[1], [2]]),
        ("SELECT i FROM range(3) AS t(i)", [[0], [1], [2]]),
        ("SELECT unnest([1, 2])", [[1], [2]]),
        ("SELECT list_transform([1, 2], lambda x: x + 1)[2]", [[3]]),
        ("SELECT [1, 2, 3][1:2], {'a': 1}.a", [[[1, 2], 1]]),
        ("SELECT t.id FROM tasks t JOIN attempts a ON a.task_id = t.id WHERE a.attempt = 2", [["t2"]]),
        ("SELECT id, row_number() OVER (ORDER BY id DESC) FROM tasks ORDER BY 2 LIMIT 1", [["t3", 1]]),
        ("SELECT (SELECT max(seq) FROM events), EXISTS (SELECT 1 FROM tasks WHERE id = 'x')", [[11, False]]),
        ("SELECT 1 UNION SELECT 2 ORDER BY 1 DESC", [[2], [1]]),
        ("SELECT id FROM tasks WHERE id NOT ILIKE 'T1%' AND id GLOB 't*' AND id LIKE 't!_' ESCAPE '!'", []),
        ("SELECT id FROM tasks WHERE id LIKE 't_' AND id IN ('t1', 't9') AND cpu BETWEEN 1 AND 2 -- a comment", [["t1"]]),
        ("SELECT CASE WHEN status = 'failed' THEN 'x' || id ELSE NULL END FROM tasks WHERE id = 't2'", [["xt2"]]),
        ("SELECT 2::HUGEINT * 9223372036854775807, 1.5::DECIMAL(4, 1), 'ab'::BLOB, INTERVAL 90 SECOND, 'nan'::DOUBLE",
         [["18446744073709551614", 1.5, "6162", 90.0, "nan"]]),
        ("SELECT date_trunc('day', created_at), extract(hour FROM created_at) FROM tasks WHERE id = 't1'",
         [["2025-10-09T00:00:00Z", 8]]),
    ],
)  # fmt: skip
def test_what_can_be_asked(history: History, sql: str, rows: list[list[Any]]) -> None:
    assert ask(history, sql)["rows"] == rows


def test_columns_have_names_and_types(history: History) -> None:
    answer = ask(history, "SELECT id, created_at AS made, 1 AS one FROM tasks")
    assert answer["columns"] == [
        {"name": "id", "type": "VARCHAR"},
        {"name": "made", "type": "TIMESTAMP"},
        {"name": "one", "type": "INTEGER"},
    ]
    assert (answer["row_count"], answer["truncated"]) == (3, False)


def test_more_rows_than_allowed_are_cut_and_it_says_so(history: History) -> None:
    answer = ask(history, "SELECT i FROM range(1000) t(i)", rows_max=10)
    assert (answer["row_count"], answer["truncated"], answer["rows"][-1]) == (10, True, [9])
    assert not ask(history, "SELECT i FROM range(10) t(i)", rows_max=10)["truncated"]


def test_an_answer_is_bounded_in_bytes_too(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_sql, "RESULT_BYTES_MAX", 1_000)
    answer = ask(history, "SELECT string_agg(i::VARCHAR) FROM range(100) t(i), range(50) u(j) GROUP BY j")
    assert answer["truncated"]
    assert 0 < answer["row_count"] < 50


def test_the_order_asked_for_is_kept(history: History) -> None:
    answer = ask(history, "SELECT i FROM range(5000) t(i) ORDER BY hash(i), i", rows_max=5000)
    assert answer == {
        **answer,
        "rows": ask(history, "SELECT i FROM range(5000) t(i) ORDER BY hash(i), i", rows_max=5000)["rows"],
    }
    assert answer["rows"] != sorted(answer["rows"])


def test_events_are_for_those_who_may_audit(history: History) -> None:
    with pytest.raises(Invalid, match="no table 'events' here; there are attempts, experiments, tasks"):
        ask(history, "SELECT * FROM events", audit=False)
    assert ask(history, "SELECT count(*) FROM attempts", audit=False)["rows"] == [[4]]


@pytest.mark.parametrize("column", ["entrypoint", "args", "env", "metadata"])
def test_a_redacted_task_has_no_column_that_may_hold_secrets(history: History, column: str) -> None:
    with pytest.raises(Invalid, match="not found"):
        ask(history, f"SELECT {column} FROM tasks", redacted=True)
    shown = ask(history, "SELECT * FROM tasks", redacted=True)
    assert "s3cret" not in str(shown)
    assert column not in [one["name"] for one in shown["columns"]]


SOMEWHERE = ["/etc/passwd", "'/etc/passwd'", "'/tmp/x.parquet'", "'http://127.0.0.1:1/x.csv'", "'s3://bucket/x'"]
HOSTILE = [
    "", ";", "   ", "nonsense", "SELECT", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE tasks", "SELECT '\0'",
    "SELECT 1) AS asked; DROP TABLE events; --", "SELECT 1) UNION ALL (SELECT metadata FROM main.events", "SELECT 1 /*",
    "SELECT 1) AS asked LIMIT 1 -- ", "SELECT $1", "SELECT ?", "SELECT $name", "x" * 30_000,
    # other statements
    "INSERT INTO tasks SELECT * FROM tasks", "DELETE FROM events", "UPDATE tasks SET user_id = 'eve'", "DROP TABLE events",
    "CREATE TABLE x AS SELECT 1", "CREATE VIEW x AS SELECT 1", "CREATE MACRO f() AS 1", "CREATE SECRET (TYPE s3)",
    "ALTER TABLE tasks DROP COLUMN id", "TRUNCATE events", "COPY tasks TO '/tmp/x.csv'", "COPY tasks FROM '/etc/passwd'",
    "COPY (SELECT 1) TO '/dev/stdout'", "EXPORT DATABASE '/tmp/x'", "IMPORT DATABASE '/tmp/x'", "ATTACH '/tmp/x.db' AS x",
    "ATTACH ':memory:' AS x", "DETACH index", "USE memory", "INSTALL httpfs", "LOAD httpfs", "FORCE INSTALL spatial",
    "SET memory_limit = '100GB'", "SET enable_external_access = true", "RESET ALL", "SET VARIABLE x = 1",
    "PRAGMA database_list", "PRAGMA table_info('tasks')", "PRAGMA version", "CHECKPOINT", "VACUUM", "ANALYZE", "BEGIN",
    "COMMIT", "ROLLBACK", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1", "DESCRIBE tasks", "SHOW TABLES", "SHOW ALL TABLES",
    "SUMMARIZE tasks", "CALL pragma_version()", "PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p",
    "PIVOT tasks ON status", "SELECT * FROM (PIVOT tasks ON status USING count(*))", "SELECT * FROM (DESCRIBE tasks)",
    "SELECT * FROM (SHOW TABLES)", "SELECT * FROM (SUMMARIZE tasks)", "COMMENT ON TABLE tasks IS 'x'", "GRANT ALL",
    # files and the network
    *(f"SELECT * FROM {where}" for where in SOMEWHERE),
    *(f"SELECT * FROM {reader}('/etc/passwd')" for reader in (
        "read_csv", "read_csv_auto", "read_text", "read_blob", "read_json", "read_json_auto", "read_json_objects",
        "read_ndjson", "read_parquet", "parquet_scan", "parquet_metadata", "parquet_schema", "sniff_csv", "glob",
        "read_duckdb", "sqlite_scan", "postgres_scan", "iceberg_scan", "delta_scan", "st_read", "arrow_scan",
    )),
    "SELECT read_text('/etc/passwd')", "SELECT * FROM tasks, read_text('/etc/passwd')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))", "WITH x AS (SELECT * FROM glob('/*')) SELECT * FROM x",
    "SELECT * FROM tasks WHERE id IN (SELECT file FROM glob('/*'))", "SELECT * FROM tasks ORDER BY (SELECT file FROM glob('*'))",
    "SELECT 1 LIMIT (SELECT count(*) FROM glob('*'))", "SELECT list_transform([1], lambda x: getenv('HOME'))",
    # SQL within SQL
    "SELECT * FROM query('SELECT 1')", "SELECT * FROM query_table('meta')", "SELECT * FROM json_execute_serialized_sql('{}')",
    "SELECT json_execute_serialized_sql('{}')", "SELECT json_serialize_sql('SELECT 1')", "SELECT json_serialize_plan('SELECT 1')",
    "SELECT * FROM sql_auto_complete('S')", "SELECT * FROM from_substrait('x'::BLOB)",
    # what is inside
    "SELECT * FROM meta", "SELECT * FROM main.meta", "SELECT * FROM main.tasks", "SELECT view FROM main.tasks", "SELECT * FROM index.main.tasks",
    "SELECT * FROM arriving", "SELECT * FROM information_schema.tables", "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM sqlite_master", "SELECT * FROM duckdb_tables", "SELECT * FROM duckdb_settings()", "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_functions()", "SELECT * FROM duckdb_databases()", "SELECT * FROM pragma_database_list()",
    "SELECT * FROM pragma_storage_info('tasks')", "SELECT * FROM duckdb_temporary_files()", "SELECT * FROM duckdb_memory()",
    "SELECT * FROM which_secret('x', 's3')", "SELECT * FROM duckdb_logs()", "SELECT * FROM test_all_types()", "SELECT * FROM seq_scan('meta')",
    "SELECT * FROM summary((SELECT 1))", "SELECT * FROM pg_timezone_names()", "SELECT * FROM repeat_row(1, num_rows = 1000000000)",
    "WITH meta AS (SELECT * FROM meta) SELECT * FROM meta", "SELECT * FROM (WITH meta AS (SELECT 1) SELECT 1), meta",
    "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", "SELECT * FROM meta UNION ALL (WITH meta AS (SELECT 1) SELECT * FROM meta)",
    "SELECT view FROM tasks", "SELECT rowid FROM tasks", "SELECT * FROM tasks AT (VERSION => 1)",
    # functions about the system
    *(f"SELECT {call}" for call in (
        "getenv('HOME')", "current_setting('memory_limit')", "getvariable('x')", "version()", "current_database()", "current_schemas(true)",
        "current_query()", "txid_current()", "nextval('x')", "setseed(0.5)", "write_log('x')", "sleep_ms(1000000)", "pg_sleep(1000)",
        "pg_postmaster_start_time()", "inet_server_addr()", "error('x')", "get_block_size('x')", "main.lower('X')", "system.main.lower('X')",
        "uuid()", "parse_path('/x')", "hive_partition_component('x')", "gen_random_uuid()",
    )),
    # long in one call, which nothing interrupts
    "SELECT levenshtein(id, id) FROM tasks", "SELECT 'a' LIKE id FROM tasks", "SELECT id ILIKE id || '%' FROM tasks", "SELECT id GLOB id FROM tasks",
    "SELECT id NOT LIKE (SELECT string_agg('_', '') FROM range(9)) FROM tasks", "SELECT id LIKE '" + "_" * 1_001 + "' FROM tasks",
    "SELECT id LIKE id ESCAPE '!' FROM tasks", "SELECT like_escape(id, id, '!') FROM tasks", "SELECT id ~~ id FROM tasks",
    # much out of little, in one call
    *(f"SELECT {call}" for call in (
        "repeat('x', 1000000000)", "lpad('x', 2000000000, 'y')", "rpad('x', 2000000000, 'y')", "printf('%2000000000d', 1)",
        "format('{:2000000000}', 1)", "bar(1, 0, 1, 2000000000)", "range(1000000000)", "generate_series(1, 1000000000)",
        "list_resize([1], 1000000000)", "replace('aaaa', 'a', 'aaaa')", "regexp_replace('a', 'a', 'aa', 'g')", "json_pretty('[]')",
        "translate('a', 'a', 'b')", "array_resize([1], 10)", "list_reduce([1], lambda x, y: x)", "to_json('\"')", "regexp_split_to_table('a', 'a')",
    )),
]  # fmt: skip


def test_there_are_more_than_a_hundred_hostile_queries() -> None:
    assert len(set(HOSTILE)) > 150


@pytest.mark.parametrize("sql", HOSTILE)
def test_what_must_not_work_is_refused_before_it_runs(history: History, sql: str) -> None:
    with pytest.raises(Invalid, match="sql: "):
        ask(history, sql)


def test_nesting_beyond_all_sense_is_refused(history: History) -> None:
    for sql in (
        "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
        "SELECT 1" + " + 1" * 4_000,
        "SELECT " + "-" * 9_000 + "1",
    ):
        with pytest.raises(Invalid):
            ask(history, sql)


BOMBS = [
    "SELECT count(*) FROM range(1000000000000) a, range(1000000000) b",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
    "SELECT list(i) FROM range(1000000000000) t(i)",
    "SELECT string_agg(i::VARCHAR) FROM range(1000000000000) t(i)",
    "SELECT count(DISTINCT hash(i)) FROM range(1000000000000) t(i)",
    "SELECT array_agg(i) OVER () FROM range(1000000000) t(i)",
    "SELECT i FROM range(1000000000000) t(i) ORDER BY hash(i)",
    "SELECT a.i FROM range(100000000) a(i) JOIN range(100000000) b(i) ON a.i % 7 = b.i % 7 WHERE a.i + b.i < 0",
]


@pytest.mark.parametrize("sql", BOMBS)
def test_what_takes_too_much_ends_and_leaves_the_index_as_it_was(history: History, sql: str) -> None:
    with pytest.raises(Invalid, match="which is the limit|more memory"):
        ask(history, sql, time_max_s=0.5)
    assert ask(history, "SELECT count(*) FROM tasks")["rows"] == [[3]]
    assert history.tasks({})["total"] == 3


def test_the_file_is_as_it_was_after_all_that(history: History) -> None:
    tables = history.file.db.execute("SELECT table_name, estimated_size FROM duckdb_tables() ORDER BY 1").fetchall()
    for sql in (*HOSTILE, *BOMBS[:1]):
        with pytest.raises(FetchmlError):
            ask(history, sql, time_max_s=0.2)
    assert history.check()["valid"]
    after = history.file.db.execute("SELECT table_name, estimated_size FROM duckdb_tables() ORDER BY 1").fetchall()
    assert (len(after), after) == (6, tables)


def test_times_start_where_the_facts_do(history: History) -> None:
    answer = ask(history, "SELECT epoch_us(created_at) FROM tasks WHERE id = 't1'")
    assert answer["rows"] == [[START_US]]
