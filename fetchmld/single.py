"""What `dist/fetchml.pyz` runs: the packages that it carries go into an environment, once, and `fetchmld` runs there.

The archive has this as its `__main__`, and wheels. Standard library only: nothing else is there yet.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path


def main() -> None:
    """Replaces this process by the `fetchmld` of the environment."""
    archive = Path(sys.argv[0]).resolve()
    command = environment(archive) / "bin" / "fetchmld"
    os.execv(command, [str(command), *sys.argv[1:]])


def environment(archive: Path) -> Path:
    """The environment made from this very file by this very Python; made now if it is not there."""
    with archive.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    base = Path(os.environ.get("FETCHML_UNPACKED") or "~/.cache/fetchml").expanduser()
    place = base / f"{content}-{sys.version_info[0]}.{sys.version_info[1]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first starts at once make it once
        if not (place / "made").exists():
            print(f"Unpacking FetchML into {place}", file=sys.stderr)
            try:
                make(archive, place / "venv")
            except subprocess.CalledProcessError:
                version = f"{sys.version_info[0]}.{sys.version_info[1]}"
                sys.exit(f"fetchml: the packages in {archive} do not fit this machine and Python {version}, see above")
            (place / "made").touch()
    return place / "venv"


def make(archive: Path, place: Path) -> None:
    """A virtual environment of the archive's wheels. Raises CalledProcessError where they do not fit this Python."""
    venv.create(place, clear=True, with_pip=True)
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(archive) as packed:
        wheels = [name for name in packed.namelist() if name.endswith(".whl")]
        files = [str(Path(scratch, Path(name).name)) for name in wheels]
        for name, file in zip(wheels, files, strict=True):
            Path(file).write_bytes(packed.read(name))
        pip = [str(place / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-index", "--no-deps", *files], check=True)


if __name__ == "__main__":
    main()
