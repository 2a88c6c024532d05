-- The index over the ledger. It holds nothing that the segments do not say, so it may be dropped at any time.
-- No primary keys and no other indexes: rows lie in the order of the ledger, and DuckDB's zone maps do the rest.
-- Long columns are not compressed: a page reads single rows, and a compressed one costs the 2,048 around it.

CREATE TABLE meta (
    schema_version INTEGER NOT NULL,
    installation BLOB NOT NULL,      -- prev_hash of event 0: names the installation; empty while there is no event
    next_seq UBIGINT NOT NULL,       -- everything below it is indexed; moves in the same transaction as the rows
    last_hash BLOB NOT NULL,         -- event_hash of event next_seq - 1
    first_seq UBIGINT NOT NULL,      -- the events before it were pruned
    before_us BIGINT NOT NULL        -- time of the newest of those
);

CREATE TABLE events (                -- one row per event, appended in order, never changed
    seq UBIGINT,
    at_us BIGINT,
    clock_us BIGINT,
    event_type VARCHAR,
    action VARCHAR,
    user_id VARCHAR,
    resource VARCHAR USING COMPRESSION uncompressed,
    success BOOLEAN,
    ip_address VARCHAR,
    error VARCHAR,
    prev_hash BLOB USING COMPRESSION uncompressed,
    event_hash BLOB USING COMPRESSION uncompressed,
    metadata VARCHAR USING COMPRESSION uncompressed  -- JSON exactly as the ledger hashed it
);

CREATE TABLE places (                -- where every 8th event lies: hints for readers of single events
    seq UBIGINT,
    lies_at UBIGINT                  -- byte of its segment
);

CREATE TABLE carried (               -- events that were pruned and are kept: of tasks that live on, of experiments
    seq UBIGINT,
    at_us BIGINT,
    clock_us BIGINT,
    event_type VARCHAR,
    action VARCHAR,
    user_id VARCHAR,
    resource VARCHAR USING COMPRESSION uncompressed,
    success BOOLEAN,
    ip_address VARCHAR,
    error VARCHAR,
    prev_hash BLOB USING COMPRESSION uncompressed,
    event_hash BLOB USING COMPRESSION uncompressed,
    metadata VARCHAR USING COMPRESSION uncompressed
);

CREATE TABLE tasks (                 -- one row per task, as its newest event left it
    id VARCHAR,
    user_id VARCHAR,
    submit_seq UBIGINT,              -- the event that made the row: its key here, since it follows the order of rows
    created_us BIGINT,
    job_name VARCHAR,
    status VARCHAR,                  -- queued, running, completed or failed: phases are not durable
    priority INTEGER,
    node_count INTEGER,
    reservation_id VARCHAR,          -- '' where it names none
    experiment_id VARCHAR,           -- '' where it belongs to none
    plugins VARCHAR[],               -- names, sorted
    started_us BIGINT,               -- of the newest attempt; 0 = never
    ended_us BIGINT,                 -- 0 = not yet
    attempt INTEGER,
    worker_id VARCHAR,               -- of rank 0
    error VARCHAR,
    reason VARCHAR,
    array_id VARCHAR,                -- of an element, else ''
    array_index INTEGER,             -- of an element, else -1
    array_size INTEGER,              -- of an array, else 0; its elements have rows once a fact has named them
    units INTEGER,                   -- how many tasks end with this row: 1; of an array, its elements without a row
    deleted BOOLEAN,                 -- taken out of the listings
    last_seq UBIGINT,                -- the newest event about it
    view VARCHAR USING COMPRESSION uncompressed,  -- the whole task view, JSON
    view_sum UBIGINT,                -- the first 64 bits of its BLAKE3 hash
    slot UBIGINT DEFAULT 0           -- where index.views has it, too; 0: nowhere
);

CREATE TABLE experiments (
    id VARCHAR,
    name VARCHAR,
    description VARCHAR,
    status VARCHAR,                  -- active, archived or deleted
    commit_id VARCHAR,               -- '' where none was given
    created_us BIGINT,
    user_id VARCHAR,
    seq UBIGINT,                     -- the event that created it
    last_seq UBIGINT                 -- the newest event about it
);
