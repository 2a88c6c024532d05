"""SQL from people: what may be asked, and how it is kept within bounds.

A query is one SELECT. It is parsed by DuckDB and its tree is walked: every table must be one of the views or the query's
own, every function must be on the list below, every kind of node must be known. Nothing on the list reaches files, the
network, settings or the system, and none makes much out of little in one call, which nothing could interrupt. Then the
text that was checked, and no other, is run read-only, for a limited time, in a limited part of the memory.
"""

import math
import re
import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from time import monotonic
from typing import Any, Final, TypedDict

import duckdb
import orjson

from fetchmld.core.errors import Invalid, Unavailable
from fetchmld.store.history_views import definitions

TEXT_CHARACTERS_MAX: Final = 20_000
RESULT_BYTES_MAX: Final = 8 * 2**20  # of text and numbers in an answer
HEADROOM_BYTES: Final = 2**30  # that the whole process may grow by while a query runs
_FETCH_ROWS: Final = 1_000

_WORDS: Final = (
    # how many, how much, which one
    """any_value approx_count_distinct approx_quantile arbitrary arg_max arg_min argmax argmin array_agg avg bit_and bit_or
    bool_and bool_or corr count count_if count_star countif covar_pop covar_samp entropy favg first fsum geomean
    geometric_mean group_concat histogram kurtosis last list listagg mad max max_by mean median min min_by mode product
    quantile quantile_cont quantile_disc regr_intercept regr_r2 regr_slope sem skewness stddev stddev_pop stddev_samp
    string_agg sum var_pop var_samp variance"""
    # windows
    """ cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number"""
    # numbers
    """ abs acos asin atan atan2 cbrt ceil ceiling cos cosh cot degrees even exp floor gcd greatest hash isfinite isinf
    isnan lcm least ln log log10 log2 mod nextafter pi pow power radians random round round_even sign sin sinh sqrt tan
    tanh trunc xor"""
    # texts
    """ ascii char_length character_length chr concat concat_ws contains ends_with hamming instr jaccard
    jaro_winkler_similarity lcase left len length like_escape ilike_escape not_like_escape not_ilike_escape
    lower ltrim md5 nfc_normalize octet_length ord position prefix regexp_extract regexp_full_match regexp_matches reverse
    right rtrim sha256 split_part starts_with strlen strpos strip_accents substr substring suffix trim ucase unicode
    upper hex format_bytes"""
    # time
    """ age ago century date_add date_diff date_part date_sub date_trunc datediff datepart datetrunc day dayname dayofmonth
    dayofweek dayofyear epoch epoch_ms epoch_us hour isodow isoyear last_day make_date make_timestamp microsecond
    millisecond minute month monthname now quarter second strftime time_bucket to_days to_hours to_milliseconds to_minutes
    to_months to_seconds to_timestamp to_weeks to_years today week weekday weekofyear year yearweek
    current_date get_current_timestamp"""
    # lists, structs, JSON
    """ array_contains array_extract array_length array_position element_at flatten json_array_length json_contains
    json_exists json_extract json_extract_path json_extract_path_text json_extract_string json_keys json_type json_valid
    list_aggregate list_avg list_contains list_count list_distinct list_element list_extract list_filter list_has
    list_has_all list_has_any list_max list_min list_position list_slice list_sort list_sum list_transform list_unique
    list_value map_keys map_values row struct_extract struct_pack unnest cardinality"""
    # choices
    """ coalesce constant_or_null if ifnull nullif typeof"""
)
_FUNCTIONS: Final = frozenset(_WORDS.split())
_TABLE_FUNCTIONS: Final = frozenset({"generate_series", "range", "unnest"})
_PATTERNS: Final = re.compile(r"!?~~\*?|~~~|(not_)?i?like_escape")  # their time is the text's length by the pattern's
PATTERN_CHARACTERS_MAX: Final = 1_000
_OPERATOR: Final = re.compile(r"[^a-z_]{1,4}")
_KINDS: Final = re.compile(
    r"SELECT_NODE|SET_OPERATION_NODE|RECURSIVE_CTE_NODE|CTE_NODE|JOIN|EMPTY|EMPTY_FROM|EXPRESSION_LIST|BASE_TABLE"
    r"|TABLE_FUNCTION|SUBQUERY|FUNCTION|COLUMN_REF|VALUE_CONSTANT|CONSTANT|STAR|LAMBDA|LAMBDA_REF|POSITIONAL_REFERENCE"
    r"|COLLATE|BETWEEN|CAST|OPERATOR_CAST|CASE_EXPR|CASE|WINDOW|COMPARE_\w+|CONJUNCTION_\w+|OPERATOR_\w+|WINDOW_\w+"
    r"|\w+_MODIFIER|ORDER_DEFAULT|ASCENDING|DESCENDING|ARRAY_CONSTRUCTOR|ARRAY_EXTRACT|ARRAY_SLICE|STRUCT_EXTRACT|TYPE"
)

Connection = duckdb.DuckDBPyConnection


class Column(TypedDict):
    name: str
    type: str  # as DuckDB calls it


class Answer(TypedDict):
    """`truncated`: there is more than the rows here; `elapsed_ms`: from the first to the last row."""

    columns: list[Column]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    elapsed_ms: float


def ask(db: Connection, sql: str, *, rows_max: int, time_max_s: float, audit: bool, redacted: bool) -> Answer:
    """The answer to `sql`. `db` is a connection of its own, with a bound on its memory, used by one thread at a time.

    Raises `Invalid` for what may not be asked, is wrong or takes too much, `Unavailable` where the index is broken.
    """
    views = definitions(audit, redacted)
    checked = _checked(db, sql, views, rows_max + 1)
    prelude = ",".join(f"{name} AS NOT MATERIALIZED ({text}\n)" for name, text in views.items())
    start = monotonic()
    try:
        with _read_only(db), _limited_memory(), limited_time(db, time_max_s):
            return _fetched(db.execute(f"WITH {prelude} {checked}"), rows_max, start)
    except duckdb.InterruptException as error:
        raise Invalid(f"sql: it took more than {time_max_s:g} s, which is the limit; ask for less") from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise Invalid("sql: it needs more memory than a query may take; ask for less at a time") from error
    except (duckdb.FatalException, duckdb.IOException, duckdb.InternalException) as error:
        raise _broken(error) from error
    except duckdb.Error as error:
        raise Invalid(f"sql: {_first_lines(error)}") from error


# ---- what may be asked ----------------------------------------------------------------------------------------------


def _checked(db: Connection, sql: str, views: Mapping[str, str], rows_max: int) -> str:
    """The query in a frame that ends it after `rows_max` rows, once every part of it is known to be harmless."""
    if not sql.strip() or len(sql) > TEXT_CHARACTERS_MAX or "\0" in sql:
        raise Invalid(f"sql: must be one SELECT of at most {TEXT_CHARACTERS_MAX} characters")
    framed = f"SELECT * FROM (\n{sql.strip().rstrip(';')}\n) AS asked LIMIT {rows_max}"
    tree = _parsed(db, framed)
    try:
        _walk(tree, frozenset(views))
    except RecursionError:
        raise Invalid("sql: it is nested too deeply") from None
    return framed


def _parsed(db: Connection, framed: str) -> Any:
    try:
        ((text,),) = db.execute("SELECT json_serialize_sql(?::VARCHAR)", [framed]).fetchall()
    except duckdb.Error as error:
        raise Invalid(f"sql: {_first_lines(error)}") from error
    found = orjson.loads(text)
    if found["error"]:
        raise Invalid(f"sql: {found.get('error_message', 'it cannot be read')}")
    (statement,) = found["statements"]
    if statement.get("named_param_map"):
        raise Invalid("sql: parameters are not taken; write the values")
    return statement["node"]


def _walk(part: Any, tables: frozenset[str]) -> None:
    """Refuse whatever is not known. `tables`: the names that a table may have here."""
    if isinstance(part, list):
        for item in part:
            _walk(item, tables)
    if not isinstance(part, dict):
        return
    kind = part.get("type")
    if isinstance(kind, str) and not _KINDS.fullmatch(kind):
        raise Invalid(f"sql: {kind.lower().replace('_', ' ')} is not available here")
    if kind == "BASE_TABLE":
        _check_table(part, tables)
    if kind == "TABLE_FUNCTION":
        _check_function(part["function"], _TABLE_FUNCTIONS, "as a table")
        part = {**part, "function": part["function"].get("arguments")}
    elif "function_name" in part:
        _check_function(part, _FUNCTIONS, "in a query")
        _check_pattern(part)
    if kind == "RECURSIVE_CTE_NODE":
        tables |= {part["cte_name"].lower()}
    tables = _with_own_tables(part, tables)
    for name, item in part.items():
        if name != "cte_map":
            _walk(item, tables)


def _with_own_tables(part: Mapping[str, Any], tables: frozenset[str]) -> frozenset[str]:
    """`tables` and those that the query defines itself; each definition may use the ones before it."""
    for entry in (part.get("cte_map") or {}).get("map", ()):
        _walk(entry["value"], tables)
        tables |= {entry["key"].lower()}
    return tables


def _check_table(part: Mapping[str, Any], tables: frozenset[str]) -> None:
    name = str(part.get("table_name", ""))
    elsewhere = part.get("schema_name") or part.get("catalog_name") or len(_path(part)) > 1 or part.get("at_clause")
    if elsewhere or name.lower() not in tables:
        raise Invalid(f"sql: there is no table {name[:64]!r} here; there are {', '.join(sorted(tables))}")


def _check_function(part: Mapping[str, Any], allowed: frozenset[str], where: str) -> None:
    name = str(part["function_name"]).lower()
    if part.get("schema") or part.get("catalog") or len(_path(part)) > 1:
        raise Invalid(f"sql: {name[:64]}: functions are named without a schema")
    if name not in allowed and not (allowed is _FUNCTIONS and _OPERATOR.fullmatch(name)):
        raise Invalid(f"sql: the function {name[:64]!r} is not available {where}")


def _check_pattern(part: Mapping[str, Any]) -> None:
    """Of LIKE and its kin. One that a query makes could be so long that a single call takes hours."""
    if not _PATTERNS.fullmatch(str(part["function_name"]).lower()):
        return
    given = [one.get("expression") or {} for one in part.get("arguments", ())]
    text = (given[1].get("literal") or {}).get("text") if len(given) > 1 else None
    if not isinstance(text, str) or len(text) > PATTERN_CHARACTERS_MAX:
        most = f"written out in the query, with at most {PATTERN_CHARACTERS_MAX} characters"
        raise Invalid(
            f"sql: the pattern of LIKE must be {most}; compare with starts_with, contains or ends_with instead"
        )


def _path(part: Mapping[str, Any]) -> list[str]:
    return list((part.get("qualified_name") or {}).get("path", ()))


# ---- within bounds --------------------------------------------------------------------------------------------------


@contextmanager
def _read_only(db: Connection) -> Iterator[None]:
    db.execute("BEGIN TRANSACTION READ ONLY")
    try:
        yield
    finally:
        db.rollback()


@contextmanager
def limited_time(db: Connection, time_max_s: float) -> Iterator[None]:
    """Raises InterruptException in a query that is not done by then."""
    timer = threading.Timer(time_max_s, db.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextmanager
def _limited_memory() -> Iterator[None]:
    """DuckDB's own bound does not count the texts that functions make; the kernel counts everything."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now_bytes = int(file.read().split()[0]) * resource.getpagesize()
    limit = now_bytes + HEADROOM_BYTES
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _fetched(found: Connection, rows_max: int, start: float) -> Answer:
    columns = [Column(name=name, type=str(kind)) for name, kind, *_ in found.description or ()]
    rows: list[list[Any]] = []
    room = RESULT_BYTES_MAX
    truncated = False
    while not truncated and (batch := found.fetchmany(_FETCH_ROWS)):
        for row in batch:
            plain = [_plain(value) for value in row]
            room -= len(orjson.dumps(plain))
            truncated = room < 0 or len(rows) == rows_max
            if truncated:
                break
            rows.append(plain)
    elapsed_ms = round((monotonic() - start) * 1e3, 3)
    return Answer(columns=columns, rows=rows, row_count=len(rows), truncated=truncated, elapsed_ms=elapsed_ms)


def _plain(value: Any) -> Any:
    """A value as JSON has it: times as RFC 3339, intervals in seconds, bytes in hex, numbers that do not fit as text."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= 2**53 else str(value)
        case float() | Decimal():
            return float(value) if math.isfinite(value) else str(value)
        case datetime():
            return value.isoformat() + ("" if value.tzinfo else "Z")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
    return str(value)


def _broken(error: duckdb.Error) -> Exception:
    return Unavailable(f"the index could not be read: {_first_lines(error)}")


def _first_lines(error: Exception) -> str:
    """DuckDB's complaint without the copy of the query, in which it would show our frame."""
    return str(error).split("\n\nLINE")[0].strip()[:500]
