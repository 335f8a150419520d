#!/usr/bin/env python3
"""Do the checks of the shape notice what they are for? Each mutation of a copy must make its check fail.

usage: modelfaucet help config | deploy/checks/mutations.py     (a Python with PyYAML, check-jsonschema, kubernetes-validate)
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = sys.executable
BIN = pathlib.Path(PYTHON).parent
MANIFESTS = [PYTHON, "deploy/checks/manifests.py"]
METRICS = [PYTHON, "deploy/observability/metrics.py"]
ROUTES = [PYTHON, "deploy/ingress/routes.py", "--check"]
BOARDS = [PYTHON, "deploy/observability/dashboards.py", "--check"]
COMPOSE = [PYTHON, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/container/compose.yaml"]


def kubernetes(name):
    return [str(BIN / "kubernetes-validate"), "--strict", "--kubernetes-version", "1.33", f"deploy/kubernetes/{name}.yaml"]


# what is wrong, file, text, text instead, check
MUTATIONS = [
    ("a setting that does not exist", "deploy/container/compose.yaml", "ADMIN_TOKEN_FILE:", "ADMIN_TOKENS_FILE:", MANIFESTS),
    ("a secret in clear", "deploy/kubernetes/query.yaml", "{name: ADMIN_TOKEN_FILE, value: /secrets/admin_token}", "{name: ADMIN_TOKEN, value: x}", MANIFESTS),
    ("PostgreSQL with a way out", "deploy/container/compose.yaml", "    networks: [database]\n\n  migrate", "    networks: [database, outside]\n\n  migrate", MANIFESTS),
    ("a port of a role on the host", "deploy/container/compose.yaml", "    command: [projector]\n", "    command: [projector]\n    ports: ['8080:8080']\n", MANIFESTS),
    ("the projector reaches the internet", "deploy/kubernetes/network-policies.yaml", "values: [litellm, modelfaucet-gateway]", "values: [litellm, modelfaucet-gateway, modelfaucet-projector]", MANIFESTS),
    ("everybody reaches PostgreSQL", "deploy/kubernetes/network-policies.yaml", "    - from: [{podSelector: {matchExpressions: [{key: app.kubernetes.io/name, operator: In, values: [modelfaucet-command, modelfaucet-query, modelfaucet-projector,", "    - from: [{podSelector: {}}]\n      ports: [{protocol: TCP, port: 5432}]\n    - from: [{podSelector: {matchExpressions: [{key: app.kubernetes.io/name, operator: In, values: [modelfaucet-command, modelfaucet-query, modelfaucet-projector,", MANIFESTS),
    ("the relay reaches providers", "deploy/kubernetes/network-policies.yaml", "operator: In, values: [litellm, modelfaucet-gateway]}]}\n  policyTypes: [Egress]", "operator: In, values: [litellm, modelfaucet-gateway, modelfaucet-relay]}]}\n  policyTypes: [Egress]", MANIFESTS),
    ("everybody reaches the broker", "deploy/kubernetes/network-policies.yaml", "values: [modelfaucet-relay]}]}}]\n      ports: [{protocol: TCP, port: 5671}]", "values: [modelfaucet-relay, modelfaucet-query]}]}}]\n      ports: [{protocol: TCP, port: 5671}]", MANIFESTS),
    ("a relay without a budget for disruptions", "deploy/kubernetes/relay.yaml", "kind: PodDisruptionBudget", "kind: LimitRange", MANIFESTS),
    ("a relay without the broker's password", "deploy/kubernetes/relay.yaml", "              - {key: amqp_url, path: amqp_url}\n", "", MANIFESTS),
    ("a relay that nobody scrapes", "deploy/observability/prometheus.yml", "relay:8080", "relais:8080", MANIFESTS),
    ("a broker that may write to its image", "deploy/container/compose.yaml", "  rabbitmq:\n    <<: *hardened\n", "  rabbitmq:\n    security_opt: ['no-new-privileges:true']\n    cap_drop: [ALL]\n", MANIFESTS),
    ("no drill in Kubernetes", "deploy/kubernetes/backup.yaml", "args: [drill, ", "args: [backup, run, ", MANIFESTS),
    ("no copy of the WAL in the compose file", "deploy/container/compose.yaml", "command: [backup, wal, ", "command: [backup, check, ", MANIFESTS),
    ("no unit for base backups", "deploy/systemd/modelfaucet-backup.service", "modelfaucet backup run ", "modelfaucet backup check ", MANIFESTS),
    ("backups on a claim that is not there", "deploy/kubernetes/backup.yaml", "claimName: backup}", "claimName: backups}", MANIFESTS),
    ("a schedule that Kubernetes does not know", "deploy/kubernetes/backup.yaml", "  schedule:", "  scheduled:", kubernetes("backup")),
    ("a relay's broker in clear", "deploy/systemd/modelfaucet-relay.service", "AMQP_URL_FILE=%d/amqp_url", "AMQP_URL=amqps://x", MANIFESTS),
    ("a container that may write", "deploy/kubernetes/gateway.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", MANIFESTS),
    ("no budget for disruptions", "deploy/kubernetes/command.yaml", "kind: PodDisruptionBudget", "kind: LimitRange", MANIFESTS),
    ("a credential nobody uses", "deploy/systemd/modelfaucet-query.service", "ADMIN_TOKEN_FILE=%d/admin_token", "", MANIFESTS),
    ("a field that Kubernetes does not know", "deploy/kubernetes/gateway.yaml", "minReplicas:", "minimumReplicas:", kubernetes("gateway")),
    ("a member that compose files do not have", "deploy/container/compose.yaml", "    command: [query]\n", "    comand: [query]\n", COMPOSE),
    ("a metric that nobody watches", "command/src/writer/series.rs", '"modelfaucet_holds_open"', '"modelfaucet_holds_opened"', METRICS),
    ("an alert on nothing", "deploy/observability/rules.yml", "gateway_over_hold_total", "gateway_overhold_total", METRICS),
    ("an alert that no test fires", "deploy/observability/rules.test.yml", "alertname: ModelFaucetOverHold\n        exp_alerts", "alertname: ModelFaucetNotReady\n        exp_alerts", METRICS),
    ("a runbook without its end", "docs/runbooks/over-hold.md", "## Over", "## Otherwise", METRICS),
    ("a route that the API does not have", "deploy/ingress/routes.conf", "location = /v1/models ", "location = /metrics ", ROUTES),
    ("an operation that the ingress does not know", "docs/openapi.json", '"/v1/models"', '"/v1/other-models"', ROUTES),
    ("a dashboard edited by hand", "deploy/observability/dashboards/truth.json", '"refresh": "15s"', '"refresh": "1m"', BOARDS),
]


def main():
    settings = sys.stdin.read()
    unseen = []
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for part in ("deploy", "docs", "schema/src", "command/src", "projector/src", "query/src", "gateway/src"):
            shutil.copytree(ROOT / part, copy / part)

        def fails(check):
            done = subprocess.run(check, cwd=copy, input=settings, capture_output=True, text=True)
            return done.returncode != 0

        for check in (MANIFESTS, METRICS, ROUTES, BOARDS, COMPOSE, kubernetes("gateway"), kubernetes("backup")):
            if fails(check):
                sys.exit(f"{' '.join(check)} fails without a mutation")
        for what, file, text, instead, check in MUTATIONS:
            path = copy / file
            before = path.read_text()
            if text not in before:
                unseen.append(f"{what}: {file} has no {text!r} any more")
                continue
            path.write_text(before.replace(text, instead))
            if not fails(check):
                unseen.append(what)
            path.write_text(before)
    if unseen:
        sys.exit("not noticed: " + "; ".join(unseen))
    print(f"ok: {len(MUTATIONS)} mutations, each noticed")


if __name__ == "__main__":
    main()
