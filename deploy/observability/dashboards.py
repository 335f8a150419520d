#!/usr/bin/env python3
"""Writes the Grafana dashboards in dashboards/. --check: are they current?

A panel is a title, a unit and its queries; the layout follows. A panel that an alert watches names its runbook.
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent / "dashboards"
RATE = "[$__rate_interval]"


def quantiles(metric, by="", where=""):
    """p50, p99 and p99.9 of a histogram."""
    kept = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        (f"histogram_quantile({q}, sum by ({kept}) (rate({metric}_bucket{where}{RATE})))", f"p{100 * q:g}{legend}")
        for q in (0.5, 0.99, 0.999)
    ]


def rate(metric, by, where=""):
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [(f"sum by ({by}) (rate({metric}{where}{RATE}))", legend)]


# title -> [(panel, unit, [(query, legend)…], runbook or None, red above or None)…]
DASHBOARDS = {
    "Truth": [
        ("Violations found by verification", "short", [("max by (invariant) (modelfaucet_invariant_violations)", "{{invariant}}")], "invariant-violated", 1),
        ("Time since each check", "s", [("time() - max by (invariant) (modelfaucet_invariant_last_check_timestamp_seconds)", "{{invariant}}")], "invariant-check-stale", 7200),
        ("Age of the newest base backup", "s", [("time() - max(modelfaucet_backup_last_success_timestamp_seconds)", "age")], "backup-old", 129600),
        ("WAL that is not copied yet", "s", [("time() - max(modelfaucet_wal_archived_timestamp_seconds)", "now"), ("max(modelfaucet_wal_archive_age_seconds)", "when last written down")], "wal-archive-old", 120),
        ("Time since a restore drill passed", "s", [("time() - max(modelfaucet_restore_drill_last_success_timestamp_seconds)", "age")], "restore-drill-overdue", 172800),
        ("Last restore drill", "short", [("max(modelfaucet_restore_drill_seconds)", "seconds to serve"), ("max(modelfaucet_restore_drill_events_lost)", "events lost"), ("max(modelfaucet_restore_drill_failed)", "failed")], "restore-drill-overdue", None),
        ("Log against the heads that were seen", "short", [("max(modelfaucet_log_contradicts_heads)", "contradicts")], "log-contradicts-heads", 1),
        ("Log", "short", [("max by (shard) (modelfaucet_log_head_position)", "head of shard {{shard}}")], None, None),
        ("Freezes", "short", [("sum by (scope) (max by (scope, shard) (modelfaucet_freezes))", "{{scope}}")], "freeze-forgotten", 1),
        ("Open holds", "short", [("max by (shard) (modelfaucet_holds_open)", "shard {{shard}}")], None, None),
        ("Clearing accounts, in units of 1e-8 USD", "short", [("abs(max by (account) (modelfaucet_clearing_units))", "{{account}}")], "recon-unexplained", None),
        ("Payments on which Stripe and the ledger differ", "short", [("max by (source, age) (modelfaucet_recon_exceptions)", "{{source}}, for a {{age}}")], "recon-unexplained", None),
        ("What they differ by after a day, in units of 1e-8 USD", "short", [("max by (source) (modelfaucet_recon_unexplained_units)", "{{source}}")], "recon-unexplained", 1),
        ("Time since the second source was fetched", "s", [("time() - max by (source) (modelfaucet_recon_last_success_timestamp_seconds)", "{{source}}")], "recon-stale", 172800),
        ("Time since the last webhook", "s", [("time() - max by (provider) (modelfaucet_webhook_last_received_timestamp_seconds)", "{{provider}}")], "webhook-silence", 93600),
        ("Top-ups that wait for their payment", "short", [("max by (shard) (modelfaucet_topups_pending)", "shard {{shard}}")], "webhook-silence", None),
        ("Time until the next hold or session expires", "s", [("max by (shard) (modelfaucet_next_expiry_timestamp_seconds) - time()", "shard {{shard}}")], "holds-overdue", None),
        ("Holds that expired", "ops", rate("modelfaucet_holds_expired_total", "dispatched"), "dispatched-hold-expired", None),
    ],
    "Flow": [
        ("Commands by outcome", "ops", rate("modelfaucet_commands_total", "outcome"), None, None),
        ("Commands without a decision", "percentunit", [("modelfaucet:commands_undecided:ratio_rate5m", "5 minutes"), ("modelfaucet:commands_undecided:ratio_rate1h", "1 hour")], "command-burn-fast", 0.0072),
        ("Events by kind", "ops", rate("modelfaucet_events_appended_total", "type"), None, None),
        ("Time of an append", "s", quantiles("modelfaucet_append_duration_seconds"), None, None),
        ("Events per append", "short", quantiles("modelfaucet_append_batch_size"), None, None),
        ("Webhooks of Stripe without a valid signature", "short", [("sum(increase(modelfaucet_stripe_unsigned_total[10m]))", "in ten minutes")], "webhook-bad-signature", 5),
        ("What Stripe told us and we refused", "short", [("sum(increase(modelfaucet_stripe_refused_total[1h]))", "in an hour")], "stripe-refused", 1),
        ("Commands that wait", "short", [("max by (instance) (modelfaucet_writer_queue_depth)", "{{instance}}")], None, None),
        ("Appends in doubt", "ops", [(f"sum(rate(modelfaucet_appends_in_doubt_total{RATE}))", "in doubt")], "command-burn-fast", None),
        ("Requests by status", "ops", rate("modelfaucet_http_requests_total", "service, status"), "read-errors", None),
        ("Time of a request", "s", quantiles("modelfaucet_http_request_duration_seconds", "service", '{route=~"/v1/.*"}'), None, None),
        ("Instances", "short", [('up{job=~"modelfaucet-.+"}', "{{job}} {{instance}} answers"), ("modelfaucet_ready", "{{service}} {{instance}} ready")], "role-down", None),
        ("Connections refused", "ops", rate("modelfaucet_connections_refused_total", "job, reason"), "connections-refused", None),
        ("Database connections for reading", "short", [("sum by (state) (modelfaucet_db_pool_connections)", "{{state}}")], "pool-exhausted", None),
        ("Reads without a connection in time", "ops", [(f"sum(rate(modelfaucet_db_pool_timeouts_total{RATE}))", "timeouts")], "pool-exhausted", None),
    ],
    "Projections": [
        ("Behind, in time", "s", [('max by (projection, version, state) (modelfaucet_projection_lag_seconds)', "{{projection}} v{{version}} {{state}}")], "projection-lag", 10),
        ("Behind, in events", "short", [('max by (projection, version, state) (modelfaucet_projection_lag_events)', "{{projection}} v{{version}} {{state}}")], "projection-lag", None),
        ("Position", "short", [('max by (projection, version, state) (modelfaucet_projection_position)', "{{projection}} v{{version}} {{state}}")], "projection-stuck", None),
        ("Time of a batch", "s", quantiles("modelfaucet_projection_apply_duration_seconds"), None, None),
        ("Events put aside", "short", [("max by (projection, shard) (modelfaucet_dead_letters)", "{{projection}} shard {{shard}}")], "dead-letters", 1),
        ("Events that came twice", "ops", rate("modelfaucet_projection_duplicates_total", "projection"), None, None),
        ("Where events come from", "ops", rate("modelfaucet_projector_events_total", "source"), None, None),
        ("Not published yet, in events", "short", [("max by (shard) (modelfaucet_relay_pending)", "shard {{shard}}")], "relay-behind", None),
        ("Not published yet, in time", "s", [("max by (shard) (modelfaucet_relay_oldest_age_seconds)", "shard {{shard}}")], "relay-behind", 300),
        ("Relays", "short", [("sum by (shard) (modelfaucet_relay_working)", "work on shard {{shard}}"), ("max by (shard) (modelfaucet_relay_halted)", "halted, shard {{shard}}")], "relay-halted", None),
        ("The broker takes no messages", "short", [("max(modelfaucet_amqp_blocked)", "blocked")], "broker-blocked", 1),
        ("Messages to the broker", "ops", rate("modelfaucet_publish_total", "outcome"), "relay-behind", None),
        ("Messages from the broker", "ops", rate("modelfaucet_broker_messages_total", "outcome"), None, None),
    ],
    "Gateway": [
        ("Calls by result", "ops", rate("gateway_requests_total", "endpoint, code"), None, None),
        ("Time of each stage, p50", "s", [(f"histogram_quantile(0.5, sum by (le, stage) (rate(gateway_stage_seconds_bucket{RATE})))", "{{stage}}")], None, None),
        ("Time of each stage, p99", "s", [(f"histogram_quantile(0.99, sum by (le, stage) (rate(gateway_stage_seconds_bucket{RATE})))", "{{stage}}")], None, None),
        ("Requests to providers", "ops", rate("gateway_attempts_total", "outcome"), "provider-failing", None),
        ("Holds by what became of them", "ops", rate("gateway_holds_total", "outcome"), None, None),
        ("Used more than was held", "short", [("sum(increase(gateway_over_hold_total[1h]))", "in an hour")], "over-hold", 1),
        ("Calls given back after a death", "short", [("sum by (how) (increase(gateway_recovered_total[1h]))", "{{how}}, in an hour")], "calls-absorbed", 1),
        ("Where usage comes from", "ops", rate("gateway_usage_total", "source, anomaly"), "usage-anomalies", None),
        ("Clients that left", "ops", rate("gateway_disconnects_total", "policy"), None, None),
        ("Shorter answers for small wallets", "ops", [(f"sum(rate(gateway_clamped_total{RATE}))", "clamped")], None, None),
        ("Another way tried", "ops", rate("gateway_fallbacks_total", "kind"), "provider-failing", None),
        ("Addresses that the guard refused", "ops", rate("gateway_guard_refusals_total", "reason"), "tripwire", None),
        ("Answers from where none may come", "short", [("sum(increase(gateway_tripwires_total[1h]))", "in an hour")], "tripwire", 1),
        ("Refused for being too many", "ops", rate("gateway_limited_total", "scope, unit, backend"), "limits-alone", None),
        ("Redis counts", "short", [("min by (job) (gateway_limits_redis_available)", "{{job}}")], "limits-alone", None),
        ("Answers kept for repeats", "ops", rate("gateway_answers_kept_total", "outcome"), None, None),
        ("Answers repeated to the same key", "ops", [(f"sum(rate(gateway_replays_total{RATE}))", "replayed")], None, None),
    ],
}
SOURCE = {"type": "prometheus", "uid": "modelfaucet-prometheus"}


def panel(index, title, unit, queries, runbook, red):
    steps = [{"color": "green", "value": None}] + ([{"color": "red", "value": red}] if red is not None else [])
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"h": 8, "w": 8, "x": 8 * (index % 3), "y": 8 * (index // 3)},
        "description": f"Runbook: docs/runbooks/{runbook}.md" if runbook else "",
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps},
                         "custom": {"lineWidth": 1, "fillOpacity": 5, "thresholdsStyle": {"mode": "line" if red is not None else "off"}}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for at, (query, legend) in enumerate(queries)
        ],
    }


def render(title, panels):
    board = {
        "uid": f"modelfaucet-{title.lower()}",
        "title": f"ModelFaucet · {title}",
        "tags": ["modelfaucet"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "annotations": {"list": []},
        "templating": {"list": []},
        "links": [{"type": "dashboards", "tags": ["modelfaucet"], "title": "ModelFaucet", "asDropdown": False}],
        "panels": [panel(index, *one) for index, one in enumerate(panels)],
    }
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


def main():
    texts = {FOLDER / f"{title.lower()}.json": render(title, panels) for title, panels in DASHBOARDS.items()}
    if sys.argv[1:] == ["--check"]:
        found = {path: path.read_text() for path in FOLDER.glob("*.json")}
        if found != texts:
            sys.exit("dashboards are not what dashboards.py makes: run deploy/observability/dashboards.py")
        print(f"dashboards are current: {len(texts)}, {sum(map(len, DASHBOARDS.values()))} panels")
    elif sys.argv[1:]:
        sys.exit(f"usage: {sys.argv[0]} [--check]")
    else:
        FOLDER.mkdir(exist_ok=True)
        for path, text in texts.items():
            path.write_text(text)


if __name__ == "__main__":
    main()
