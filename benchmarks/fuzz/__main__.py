"""Hostile files, requests and clients sent to a running API, and what must hold of its answers.

`python -m benchmarks.fuzz` runs every scenario on SQLite and on PostgreSQL and prints what was required and reached.
"""

import sys

from benchmarks import scenarios
from benchmarks.fuzz import mutations, schema, sockets, uploads

SCENARIOS: dict[str, scenarios.Scenario] = {
    "attacks": uploads.attack_files,
    "mutations": mutations.mutate_uploads,
    "schema": schema.run,
    "sockets": sockets.run,
}

if __name__ == "__main__":
    sys.exit(scenarios.command("python -m benchmarks.fuzz", __doc__.splitlines()[0], SCENARIOS))
