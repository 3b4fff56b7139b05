"""``make audit``: has a package of requirements.lock a known vulnerability?

pip-audit asks a database; where that does not answer it ends as if all were well, and so this says
how many packages were looked up. Run as a file, by a Python that has pip-audit:

    python arcnn/workshop/setup/audit.py [OPTION OF PIP-AUDIT ...]

Ends with 0 where every package was looked up and has none, with 1 where one has, with 2 where not
every package could be looked up.
"""

import json
import subprocess
import sys
from pathlib import Path
from textwrap import shorten

LOCK = Path(__file__).resolve().parents[3] / "requirements.lock"
DATABASES = ("pypi", "osv")  # as pip-audit calls them; the second where the first knows nothing


def look_up(*options: str) -> tuple[list[dict], str]:
    """Each package as pip-audit's JSON has it, with ``vulns`` where it was looked up; and the last
    line of what pip-audit said beside."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner=off"]
    command += ["--format=json", f"--requirement={LOCK}", *options]
    ran = subprocess.run(command, capture_output=True, text=True)
    said = (ran.stderr.strip() or "nothing").splitlines()[-1]
    try:
        return json.loads(ran.stdout)["dependencies"], said
    except (ValueError, KeyError):
        return [], said


def main(options: list[str]) -> int:
    """Do what the module's docstring says."""
    tries = [options] if options else [[f"--vulnerability-service={name}"] for name in DATABASES]
    for each in tries:
        packages, said = look_up(*each)
        checked = [package for package in packages if "vulns" in package]
        if checked:
            break
    bad = [package for package in checked if package["vulns"]]
    for package in bad:
        ids = ", ".join(f"{v['id']} (mended in {v['fix_versions']})" for v in package["vulns"])
        print(f"{package['name']} {package['version']}: {ids}")
    if missed := len(packages) - len(checked):
        said = next(package["skip_reason"] for package in packages if "vulns" not in package)
    if missed or not checked:
        print(
            f"Not checked: {missed or 'all'} packages of {LOCK.name} could not be looked up, since "
            f"no database of vulnerabilities answers for them ({shorten(said, 120)}). Try again "
            "where there is a network, or name a database with AUDIT_ARGS.",
            file=sys.stderr,
        )
    print(f"{len(checked)} packages of {LOCK.name} looked up, {len(bad)} with vulnerabilities.")
    return 1 if bad else 2 if missed or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
