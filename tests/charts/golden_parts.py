"""What a change of the chart must not change unnoticed: permissions, network access, where secrets come from.

`python -m tests.charts.golden_parts` writes the files in golden/; look at their difference before keeping it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.charts.rendering import VALUE_SETS, Container, Document, containers, of_kind, rendered

GOLDEN = Path(__file__).parent / "golden"


def golden_path(name: str) -> Path:
    return GOLDEN / f"{name}.yaml"


def security_of(documents: list[Document]) -> dict[str, Any]:
    """The parts of these documents that decide about security, as plain data."""
    return {
        "pods": {found.workload: _of_pod(found) for found in containers(documents)},
        "networkPolicies": {name: policy["spec"] for name, policy in of_kind(documents, "NetworkPolicy").items()},
        "serviceAccounts": {
            name: account["automountServiceAccountToken"]
            for name, account in of_kind(documents, "ServiceAccount").items()
        },
        "roles": sorted(document["kind"] for document in documents if "Role" in document["kind"]),
        "secrets": {name: sorted(secret["data"]) for name, secret in of_kind(documents, "Secret").items()},
    }


def _of_pod(found: Container) -> dict[str, Any]:
    pod, container = found.pod, found.container
    return {
        "serviceAccount": [pod["serviceAccountName"], pod["automountServiceAccountToken"]],
        "host": sorted(key for key in pod if key.startswith("host") and pod[key]),
        "securityContext": pod["securityContext"],
        "container": container["securityContext"],
        "secrets": {
            name: "{name}/{key}".format(**variable["valueFrom"]["secretKeyRef"])
            for name, variable in found.env.items()
            if "secretKeyRef" in variable.get("valueFrom", {})
        },
        "mounts": {
            mount["mountPath"]: "read" if mount.get("readOnly") else "write" for mount in container["volumeMounts"]
        },
    }


def main() -> None:
    for name in VALUE_SETS:
        text = yaml.safe_dump(security_of(rendered(name)), sort_keys=True, width=120)
        golden_path(name).write_text(text)


if __name__ == "__main__":
    main()
