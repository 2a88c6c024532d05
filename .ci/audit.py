"""`make audit`: are there known vulnerabilities in what the lock files name?

pip-audit asks for each Python package, `npm audit` for the console's. Ends with 0: all were asked about and none is known;
1: some are known, each is named; 3: of some packages nobody could say (the registry at hand does not serve such data),
and none is known of the others. Nothing is changed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from locks import CONSOLE, DAEMON, ENVIRONMENTS, NPM_LOCK, WORKBENCH, npm_packages

CLEAN: Final = 0
FOUND: Final = 1
UNKNOWN: Final = 3
ASK_MAX_S: Final = 900


@dataclass(slots=True)
class Verdict:
    """What was learnt of one lock."""

    asked: int = 0
    known: list[str] = field(default_factory=list)  # a line for each vulnerability
    unknown: list[str] = field(default_factory=list)  # of these nobody could say

    @property
    def code(self) -> int:
        return FOUND if self.known else UNKNOWN if self.unknown else CLEAN

    def lines(self, name: str) -> list[str]:
        said = [f"{name}: {self.asked} packages asked about, {len(self.known)} vulnerabilities known"]
        if self.unknown:
            shown = ", ".join(self.unknown[:3]) + (", ..." if len(self.unknown) > 3 else "")
            said[0] += f"; of {len(self.unknown)} nobody could say ({shown})"
        return said + [f"  {one}" for one in self.known]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("locks", nargs="*", type=Path, help="lock files [all of ours, and the console's]")
    words.add_argument(
        "--osv-url", metavar="URL", help="ask a server that speaks OSV's API instead of the package index"
    )
    given = words.parse_args()
    service = ["--vulnerability-service", "osv", "--osv-url", given.osv_url] if given.osv_url else []
    verdicts = {lock.name: python(lock, service) for lock in given.locks or (DAEMON, *ENVIRONMENTS, *WORKBENCH)}
    if not given.locks:
        verdicts[NPM_LOCK.name] = npm()
    for name, verdict in verdicts.items():
        print(*verdict.lines(name), sep="\n")
    codes = {verdict.code for verdict in verdicts.values()}
    code = FOUND if FOUND in codes else max(codes)
    if code == UNKNOWN:
        print("The audit is not complete: the registry at hand does not say what is known of these packages.")
    raise SystemExit(code)


def python(lock: Path, service: list[str]) -> Verdict:
    """By pip-audit, which resolves nothing: the lock is complete."""
    command = [
        "--requirement",
        str(lock),
        "--require-hashes",
        "--disable-pip",
        "--progress-spinner=off",
        "--format=json",
    ]
    ran = _run([sys.executable, "-m", "pip_audit", *command, *service])
    found = _json(ran.stdout)
    if found is None:
        return Verdict(0, [], [f"{lock.name}: {_last(ran)}"])
    return judged(found["dependencies"])


def judged(dependencies: list[dict[str, Any]]) -> Verdict:
    """What pip-audit's JSON says. It counts a package that its source does not know as no finding; we do not."""
    verdict = Verdict()
    for one in dependencies:
        if "skip_reason" in one:
            verdict.unknown.append(one["name"])
            continue
        verdict.asked += 1
        for each in one["vulns"]:
            fixed = ", ".join(each["fix_versions"]) or "no version yet"
            verdict.known.append(f"{one['name']} {one['version']}: {each['id']} (fixed in {fixed})")
    return verdict


def npm() -> Verdict:
    """By `npm audit` over the console's lock."""
    names = [one.name for one in npm_packages()]
    program = shutil.which("npm")
    ran = _run([program, "audit", "--json"]) if program else None
    found = _json(ran.stdout) if ran is not None else None
    if found is None or "vulnerabilities" not in found:
        return Verdict(0, [], names)
    known = [
        f"{name}: {entry['severity']} ({', '.join(_titles(entry))})" for name, entry in found["vulnerabilities"].items()
    ]
    return Verdict(len(names), known)


def _titles(entry: dict[str, Any]) -> list[str]:
    return [via if isinstance(via, str) else via["title"] for via in entry["via"]]


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_MAX_S, cwd=CONSOLE)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _last(ran: "subprocess.CompletedProcess[str]") -> str:
    return (ran.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]


if __name__ == "__main__":
    main()
