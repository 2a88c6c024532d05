"""What SQL may be asked about: the views, their columns, and who sees which. `docs/history.md` describes them.

Each is a query over the index's tables that stands before the asked one as a common table expression, so nothing is
kept for them in the file. Times are UTC, without a zone; durations in seconds.
"""

from typing import Final

# What an auditor does not get to see of a task: it may hold secrets.
_SECRET: Final = {"entrypoint": "request", "args": "request", "env": "request", "metadata": "request"}

_TASKS: Final = """
    SELECT id, user_id, job_name, status, priority, node_count, reservation_id, plugins,
           (view ->> '$.request.cpu')::INTEGER AS cpu,
           (view ->> '$.request.memory_gb')::INTEGER AS memory_gb,
           (view ->> '$.request.gpu')::INTEGER AS gpu,
           nullif(experiment_id, '') AS experiment_id,
           make_timestamp(created_us) AS created_at,
           make_timestamp(nullif(started_us, 0)) AS started_at,
           make_timestamp(nullif(ended_us, 0)) AS ended_at,
           (nullif(ended_us, 0) - nullif(started_us, 0)) / 1e6 AS run_s,
           attempt, (view ->> '$.retry_count')::INTEGER AS retry_count,
           worker_id, error, reason, (view ->> '$.report.exit_code')::INTEGER AS exit_code,
           deleted, submit_seq, last_seq{secret}
    FROM main.tasks"""

_ATTEMPTS: Final = """
    SELECT resource AS task_id, (metadata ->> '$.attempt')::INTEGER AS attempt,
           first(user_id ORDER BY seq) AS user_id,
           first(metadata ->> '$.assignments[0].worker_id' ORDER BY seq) FILTER (action = 'task.start') AS worker_id,
           replace(coalesce(arg_max(substr(action, 6), seq) FILTER (action <> 'task.start'), 'running'),
               'requeue', 'requeued') AS outcome,
           make_timestamp(min(at_us) FILTER (action = 'task.start')) AS started_at,
           make_timestamp(max(at_us) FILTER (action <> 'task.start')) AS ended_at,
           (max(at_us) FILTER (action <> 'task.start') - min(at_us) FILTER (action = 'task.start')) / 1e6 AS run_s,
           coalesce(max(metadata ->> '$.cause') FILTER (action = 'task.requeue'), max(error)) AS error,
           (max(metadata ->> '$.report.exit_code') FILTER (action <> 'task.start'))::INTEGER AS exit_code,
           min(seq) AS first_seq, max(seq) AS last_seq
    FROM (FROM main.carried UNION ALL FROM main.events)
    WHERE action IN ('task.start', 'task.requeue', 'task.completed', 'task.failed', 'task.cancelled')
      AND (metadata ->> '$.attempt')::INTEGER > 0
    GROUP BY resource, (metadata ->> '$.attempt')::INTEGER
    HAVING bool_or(action = 'task.start')"""

_EXPERIMENTS: Final = """
    SELECT id, name, description, status, nullif(commit_id, '') AS commit_id, make_timestamp(created_us) AS created_at,
           user_id, seq, last_seq
    FROM main.experiments"""

_EVENTS: Final = """
    SELECT seq, make_timestamp(at_us) AS recorded_at, event_type, action, user_id, resource, success, ip_address, error,
           lower(hex(prev_hash)) AS prev_hash, lower(hex(event_hash)) AS event_hash, metadata
    FROM main.events"""


def definitions(audit: bool, redacted: bool) -> dict[str, str]:
    """The views' queries by name. `audit`: with the events; `redacted`: tasks without what may hold secrets."""
    names = () if redacted else tuple(_SECRET)
    secret = "".join(f",\n           view ->> '$.{_SECRET[name]}.{name}' AS {name}" for name in names)
    found = {"tasks": _TASKS.format(secret=secret), "attempts": _ATTEMPTS, "experiments": _EXPERIMENTS}
    return {**found, "events": _EVENTS} if audit else found
