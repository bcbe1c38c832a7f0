#!/usr/bin/env bash
# Look up the packages of launch/lock/ in the public lists of known vulnerabilities, in the versions
# for this Python. Exit code 1: there is one. Where no list can be reached, one line says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment dev
report=$(mktemp -d)
trap 'rm -r "$report"' EXIT
audit=(.venv/bin/pip-audit --disable-pip --progress-spinner off --timeout 5)
for lock in launch/lock/*.txt; do audit+=(--requirement "$lock"); done
"${audit[@]}" --dry-run 2> "$report/errors" || { cat "$report/errors" >&2; exit 2; }
for service in pypi osv; do
  # the exit code says too little: 1 may be a failed look-up, 0 a list that knows no package
  timeout 300 "${audit[@]}" --vulnerability-service "$service" --format json \
    > "$report/$service.json" 2> "$report/errors" || true
done
.venv/bin/python - "$report" <<'PY'
import json, pathlib, sys

audited = {}
for file in pathlib.Path(sys.argv[1]).glob("*.json"):
    for package in json.loads(file.read_text() or "{}").get("dependencies", []):
        if "vulns" in package:
            name = f"{package['name']} {package['version']}"
            audited.setdefault(name, set()).update(each["id"] for each in package["vulns"])
if not audited:
    print("audit: no list of known vulnerabilities can be reached from here; nothing was checked")
for name in sorted(name for name, found in audited.items() if found):
    print(f"audit: {name} has {', '.join(sorted(audited[name]))}")
if audited:
    print(f"audit: {len(audited)} packages were checked")
sys.exit(any(audited.values()))
PY
