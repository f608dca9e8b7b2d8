"""What a run left, to be compared with what another one left."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def content(run: Path) -> dict[str, str]:
    """Everything that a run left, by its path: a hash, or for what tells the time of day, the rest of it."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and name not in ("manifest.json", "report.json", "report.html", "run.lock"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    report = json.loads((run / "report.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    report.pop("seconds")
    stages = {name: record["fingerprint"] for name, record in manifest.pop("stages").items()}
    return found | {"report": json.dumps(report), "manifest": json.dumps([manifest, stages], sort_keys=True)}
