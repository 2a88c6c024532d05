"""`make sbom`: writes `dist/fetchml.cdx.json`, a CycloneDX 1.6 bill of what FetchML is made of, from the lock files.

Each package has the hashes that its lock allows (one for each file that its registry has for it: any of them may be the
one that a machine installs), its licence as it says itself, and the locks that name it. Licences are read from what is
installed; the sidecars' environments are put aside for that (`--environments`), as nothing of them is in ours.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from locks import CONSOLE, DAEMON, ENVIRONMENTS, NPM_LOCK, ROOT, Locked, npm_packages, python_packages
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OUTPUT: Final = ROOT / "dist" / "fetchml.cdx.json"
INSTALL_MAX_S: Final = 1800
LICENCE_CHARACTERS_MAX: Final = 200  # a longer one is the text of a licence, not its name
LOCK: Final = "fetchml:lock"

Installed = Mapping[str, Distribution]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--output", type=Path, default=OUTPUT, help="the file to write [%(default)s]")
    words.add_argument("--environments", action="store_true", help="install the sidecars' packages aside, for licences")
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="fetchml-sbom-") as aside:
        bom = bill(Path(aside) if given.environments else None)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"what would be written is no CycloneDX: {problem}")
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(text)
    named = sum(bool(one.licenses) for one in bom.components)
    print(f"{given.output}: {len(bom.components)} components, {named} with a licence, each with its hashes")


def bill(aside: Path | None) -> Bom:
    """`aside`: where the sidecars' packages may be put to read their licences; None: they are listed without."""
    bom = Bom()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    root = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref="fetchmld",
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )
    bom.metadata.component = root
    found: dict[str, Component] = {}
    ours = by_name(distributions())
    for lock in (DAEMON, *ENVIRONMENTS):
        installed = ours if lock == DAEMON else by_name(put_aside(lock, aside)) if aside else {}
        add(found, lock, (component(one, "pypi", installed) for one in python_packages(lock)))
        for name, distribution in installed.items() if lock == DAEMON else ():
            if (ref := ref_of(found, name, distribution.version)) is not None:
                needs = [found[one] for one in needed(distribution, ours) if one in found]
                bom.register_dependency(found[ref], needs)
    add(found, NPM_LOCK, (component(one, "npm", {}) for one in npm_packages()))
    for one in found.values():
        bom.components.add(one)
    bom.register_dependency(root, found.values())
    return bom


def add(found: dict[str, Component], lock: Path, more: Iterable[Component]) -> None:
    """One component for each package and version, whichever locks name it."""
    for one in more:
        found.setdefault(str(one.purl), one).properties.add(Property(name=LOCK, value=str(lock.relative_to(ROOT))))


def component(locked: Locked, kind: str, installed: Installed) -> Component:
    namespace, _, name = locked.name.rpartition("/")
    purl = PackageURL(kind, namespace or None, name, locked.version)
    distribution = installed.get(canonicalize_name(locked.name)) if kind == "pypi" else None
    if distribution is not None and distribution.version != locked.version:
        distribution = None
    licence = locked.licence or (licence_of(distribution) if distribution is not None else "")
    return Component(
        name=locked.name,
        version=locked.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        scope=ComponentScope.EXCLUDED if locked.is_tool else ComponentScope.REQUIRED,
        hashes=[HashType(alg=HashAlgorithm(algorithm), content=digest) for algorithm, digest in locked.hashes],
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )


def licence_of(distribution: Distribution) -> str:
    """As the package says it: an expression, else classifiers, else a short text; "" where it says nothing."""
    said = distribution.metadata
    if expression := _first(said.get_all("License-Expression")):
        return expression
    classifiers = [
        line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or () if line.startswith("License ::")
    ]
    named = [one for one in classifiers if one != "OSI Approved"]
    if named:
        return " or ".join(named)
    return _first(said.get_all("License"))


def _first(values: list[str] | None) -> str:
    """The first line of the first of them."""
    lines = (values or [""])[0].strip().splitlines()
    return lines[0][:LICENCE_CHARACTERS_MAX] if lines else ""


def needed(distribution: Distribution, installed: Installed) -> Iterable[str]:
    """The purls of what it needs on this machine."""
    for line in distribution.requires or ():
        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if applies and (there := installed.get(canonicalize_name(wanted.name))) is not None:
            yield str(PackageURL("pypi", None, canonicalize_name(wanted.name), there.version))


def ref_of(found: Mapping[str, Component], name: str, version: str) -> str | None:
    ref = str(PackageURL("pypi", None, name, version))
    return ref if ref in found else None


def by_name(found: Iterable[Distribution]) -> dict[str, Distribution]:
    return {canonicalize_name(one.metadata["Name"]): one for one in found}


def put_aside(lock: Path, aside: Path) -> Iterable[Distribution]:
    """The packages of a lock, installed (checked by their hashes) where nothing else sees them."""
    target = aside / lock.stem
    command = ["-m", "uv", "pip", "install", "--quiet", "--target", str(target), "--no-deps", "--require-hashes", "-r"]
    subprocess.run([sys.executable, *command, str(lock)], check=True, timeout=INSTALL_MAX_S, cwd=CONSOLE)
    return distributions(path=[str(target)])


if __name__ == "__main__":
    main()
