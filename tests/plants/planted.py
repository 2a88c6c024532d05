"""Mistakes in the product's own source, each of which somebody could make, and the tests that must notice it.

A plant replaces `old` by `new` in one file of a copy of the source. `old` has to be there exactly once, so that a plant
that has nothing to do with the source any more is noticed too. The simulator's plants are in `tests/sim/plants.py`.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Plant:
    """One mistake. `tests`: as pytest takes them; at least one of them has to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    is_long: bool = False  # with FETCHML_CHAOS=1 only


def plant(name: str, file: str, old: str, new: str, *tests: str, is_long: bool = False) -> Plant:
    return Plant(name, file, old, new, tests, is_long)


_LEDGER: Final = "tests/store/test_ledger.py"
_RUNNER: Final = "tests/runner/test_serve.py"
_ROLES: Final = "tests/api/test_roles.py"
_SSRF: Final = "tests/security/test_ssrf.py"
_PATHS: Final = "tests/security/test_paths.py"

PLANTS: Final[tuple[Plant, ...]] = (
    # -- the record
    plant(
        "skip the sync", "fetchmld/store/ledger.py",
        "        write_at(self._file, frame, self._offset)\n        self._sync(self._file)\n",
        "        write_at(self._file, frame, self._offset)\n",
        f"{_LEDGER}::test_one_batch_is_one_write_and_one_sync",
    ),
    plant(
        "acknowledge what the disk refused", "fetchmld/store/ledger.py",
        "            self._clean_quietly()\n            raise LedgerUnavailable(_what_to_do(problem)) from problem\n",
        "            self._clean_quietly()\n",
        f"{_LEDGER}::test_a_failed_batch_does_not_count_and_the_next_does",
    ),
    plant(
        "leave the bytes of a refused batch", "fetchmld/store/ledger.py",
        "        write_zeros(self._file, self._offset, self._dirty_until)\n", "",
        f"{_LEDGER}::test_a_refused_batch_leaves_nothing_behind_what_counts",
    ),
    plant(
        "write on in a segment whose next one has its name", "fetchmld/store/ledger.py",
        "        self._rotating = True\n", "",
        f"{_LEDGER}::test_a_rotation_that_failed_is_finished_also_before_a_batch_that_would_have_fitted",
    ),
    plant(
        "count at a start what a killed writer had not synced", "fetchmld/store/ledger.py",
        "        os.fsync(descriptor)\n", "",
        "tests/fault/test_power.py",
        is_long=True,
    ),
    plant(
        "trust a file whose sync failed", "fetchmld/store/ledger.py",
        "        write_at(descriptor, os.pread(descriptor, end.offset - end.frame_at, end.frame_at), end.frame_at)\n", "",
        "tests/fault/test_power.py",
        is_long=True,
    ),
    plant(
        "let two write one ledger", "fetchmld/store/ledger.py",
        "        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "        pass\n",
        f"{_LEDGER}::test_two_writers_are_refused",
        is_long=True,
    ),
    plant(
        "take a loss for a shorter ledger", "fetchmld/store/ledger.py",
        "        acknowledged.append((head.next_seq, head.event_hash))\n", "        pass\n",
        f"{_LEDGER}::test_a_tail_that_head_vouches_for_is_never_cut",
    ),
    plant(
        "start on less than was signed", "fetchmld/store/ledger.py",
        "    if (signed := signed_size(directory)) > end.next_seq:", "    if (signed := signed_size(directory)) < 0:",
        "tests/store/test_log_tree.py", "tests/actors/test_transparency.py",
        is_long=True,
    ),
    plant(
        "follow a link of the chain that does not hold", "fetchmld/store/recovery.py",
        "    if buffer[prev_at : prev_at + HASH_BYTES] != end.head_hash:", "    if False:",
        f"{_LEDGER}::test_a_frame_of_another_chain_is_refused",
    ),
    plant(
        "believe a ledger that ends too soon", "fetchmld/verify_walk.py",
        "        if self._head is not None and self._upto is None:", "        if False:",
        "tests/test_verify.py::test_every_tampering_is_found_at_the_right_event",
        is_long=True,
    ),
    plant(
        "let the wall clock count time", "fetchmld/store/clock.py",
        "from fetchmld.runner.loop import boottime\n", "from time import time as boottime\n",
        "tests/store/test_clock.py::test_it_is_the_clock_that_nobody_sets",
    ),
    plant(
        "make a key's second task", "fetchmld/core/intents.py",
        "    if deed.body == intent.body:", "    if deed.body != intent.body:",
        "tests/core/test_intents.py::test_the_same_again_makes_nothing_and_tells_what_was_made",
        is_long=True,
    ),
    # -- the runner
    plant(
        "adopt by the pid alone", "fetchmld/runner/attempts.py",
        "    if stat is None or not attempt.asked_t - proctree.TICK_S <= stat.started_t <= attempt.started_t:",
        "    if stat is None:",
        f"{_RUNNER}::test_a_pid_alone_is_never_adopted",
    ),
    plant(
        "ignore the lease", "fetchmld/runner/lease.py",
        "        return self.until > 0 and now >= self.until - LEASE_GRACE_S\n", "        return False\n",
        f"{_RUNNER}::test_a_lease_that_runs_out_ends_it",
    ),
    plant(
        "start what is asked for twice", "fetchmld/runner/journal.py",
        '                self.entries.setdefault(key, Entry(-1)).exit = record\n', "                pass\n",
        f"{_RUNNER}::test_a_newer_agent_replaces_the_older_and_hears_of_unacknowledged_ends",
        f"{_RUNNER}::test_an_end_without_a_runner_is_unknown",
        f"{_RUNNER}::test_a_killed_runner_leaves_its_attempts_to_the_next",
        is_long=True,
    ),
    plant(
        "give a task our own environment", "actors/workspace.py",
        "        **_base(),\n        **user,\n", "        **os.environ,\n        **_base(),\n        **user,\n",
        "tests/actors/test_agent.py::test_the_environment_is_built_from_nothing",
    ),
    plant(
        "collect what a link leads to", "fetchmld/store/artifacts.py",
        "        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=base_fd)\n",
        "        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=base_fd)\n",
        "tests/store/test_artifacts.py::test_links_and_special_files_stay_out",
        is_long=True,
    ),
    # -- who gets in
    plant(
        "open a route", "fetchmld/api/app.py",
        'Operation("getMetrics", "GET", "/metrics", health.metrics)',
        'Operation("getMetrics", "GET", "/metrics", health.metrics, is_open=True)',
        "tests/security/test_routes.py::test_the_open_routes_are_these_and_no_others",
    ),
    plant(
        "show everybody another's task", "fetchmld/api/access.py",
        '    if task is None or not (task["user_id"] == caller.user_id or caller.role in _SEES_ALL):',
        "    if task is None:",
        f"{_ROLES}::test_one_object_own_and_another_s",
    ),
    plant(
        "forget the roles", "fetchmld/api/access.py",
        "    if caller.role != ADMIN and operation_id not in MAY.get(caller.role, frozenset()):", "    if False:",
        f"{_ROLES}::test_each_role_has_its_operations_and_no_others",
    ),
    plant(
        "show the auditor what may be secret", "fetchmld/api/access.py",
        '    return caller.role == "auditor"\n', "    return False\n",
        f"{_ROLES}::test_one_object_own_and_another_s",
        is_long=True,
    ),
    plant(
        "say that another's server is there", "fetchmld/api/pages.py",
        '        if not _may_see(caller, view["user_id"]):\n            raise no_such_service(service_id)\n', "",
        f"{_ROLES}::test_one_object_own_and_another_s",
        is_long=True,
    ),
    plant(
        "take a key for ever", "fetchmld/core/model.py",
        "        return not self.revoked_at and (not self.expires_at or at < self.expires_at)\n",
        "        return not self.revoked_at\n",
        "tests/api/test_guard.py::test_an_expired_key_is_refused",
    ),
    plant(
        "put the key on record", "fetchmld/api/handlers/keys.py",
        "    sha256 = hashlib.sha256(secret.encode()).hexdigest()\n", "    sha256 = secret\n",
        "tests/api/test_keys.py::test_the_record_has_the_hash_and_never_the_key",
        is_long=True,
    ),
    plant(
        "promise a token and give it away", "fetchmld/api/rates.py",
        "            heapq.heappush(bucket.promises, now_s + wait_s)\n", "            pass\n",
        "tests/api/test_rates.py",
    ),
    plant(
        "answer to any name", "fetchmld/api/doors.py",
        "            if host not in self._names and not self._is_ours(host, request):", "            if False:",
        "tests/api/test_doors.py::test_a_handshake_from_another_s_page_or_name_is_refused",
    ),
    plant(
        "serve anybody's page", "fetchmld/api/doors.py",
        '        if "Origin" in request.headers:\n', "        if False:\n",
        "tests/api/test_doors.py::test_a_handshake_from_another_s_page_or_name_is_refused",
        is_long=True,
    ),
    plant(
        "hand our key on to a notebook", "fetchmld/api/proxy_headers.py",
        '_OURS: Final = frozenset({"x-api-key", "cookie", "expect", "forwarded"})',
        '_OURS: Final = frozenset({"cookie", "expect", "forwarded"})',
        "tests/api/test_proxy.py::test_nothing_of_ours_goes_up",
    ),
    plant(
        "leave Ray's token to all readers", "actors/ray_compat.py",
        "    os.chmod(path, 0o600)\n", "    os.chmod(path, 0o644)\n",
        "tests/actors/test_ray_compat.py::test_a_token_is_made_once_and_closed_to_others",
        is_long=True,
    ),
    # -- where names and addresses lead
    plant(
        "fetch from inside", "fetchmld/store/datasets.py",
        "                if not self._private_hosts and not is_public(place[0]):", "                if False:",
        f"{_SSRF}::test_a_dataset_comes_from_the_address_that_was_checked",
    ),
    plant(
        "check a name and connect to it anew", "fetchmld/plugins/calls.py",
        "    if not is_public(place[0]):\n", '    if not is_public(place[0]) and getattr(_public_only, "seen", 0):\n',
        f"{_SSRF}::test_the_address_that_was_checked_is_the_one_connected_to",
        is_long=True,
    ),
    plant(
        "follow a plugin's redirect", "fetchmld/plugins/calls.py",
        "allow_redirects=False, **given)", "allow_redirects=True, **given)",
        f"{_SSRF}::test_no_redirect_of_a_plugin_is_followed",
    ),
    plant(
        "let a path climb", "fetchmld/manifest.py",
        '        if part in ("", ".", ".."):', '        if part in ("", "."):',
        f"{_PATHS}::test_no_hostile_name_is_taken",
    ),
    plant(
        "unpack through a link", "fetchmld/unpacking.py",
        "_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        "tests/test_unpacking.py::test_nothing_that_is_there_is_followed_or_written_to",
        is_long=True,
    ),
    plant(
        "mount outside", "fetchmld/store/datasets.py",
        '    if not parts or mount_path.startswith("/") or ".." in parts:', "    if not parts:",
        f"{_PATHS}::test_no_mount_leaves_the_working_directory",
        is_long=True,
    ),
    plant(
        "believe a dataset's sum", "fetchmld/store/datasets.py",
        "            if wanted and sha256 != wanted:", "            if False:",
        "tests/store/test_datasets.py::test_a_wrong_sum_is_told_and_nothing_stays",
    ),
    plant(
        "record a plugin's password", "fetchmld/plugins/secrets.py",
        "        return {_KEY: self._keep(value)}\n", "        return value\n",
        "tests/plugins/test_secrets.py::test_a_secret_is_kept_hidden_and_found_again",
    ),
)  # fmt: skip
