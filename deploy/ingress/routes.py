#!/usr/bin/env python3
"""Writes routes.conf: what of docs/openapi.json the ingress lets through, and to which role. --check: is it current?

A read goes to `query`, everything else to `command`, what the gateway serves to `gateway`. What is not in the document is
answered 404 by the ingress itself: probes, metrics and routes between roles are not reachable from outside.
"""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "openapi.json"
ROUTES = HERE / "routes.conf"

# Between roles only, although they are in the document.
PRIVATE = ("/v1/gateway/", "/v1/log")
# Reads that the write side answers, from what is not in read tables.
COMMAND_READS = ("/v1/admin/stripe/unfinished", "/v1/admin/stripe/sweep")
# The most bytes of a body, where it is not the default of 1 MiB. The roles have the same limits.
BODIES = {"/v1/usage/batch": "16m", "/v1/admin/rate-cards": "8m"}


def location(path):
    """`/v1/holds/{id}` as nginx finds it: exact where it is fixed, else by a pattern in which an id has no slash."""
    if "{" not in path:
        return f"= {path}"
    return "~ ^" + re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(path).replace(r"\-", "-").replace("/", "/")) + "$"


def block(path, operations):
    tags = {tag for operation in operations.values() for tag in operation.get("tags", [])}
    lines = []
    # What administrates the gateway is in its chapter of the document, but a command like any other.
    if "gateway" in tags and not path.startswith("/v1/admin/"):
        lines.append("include gateway.conf;")
    else:
        lines.append("include export.conf;" if path.endswith(".csv") else "include api.conf;")
        methods = set(operations)
        if path in COMMAND_READS:
            lines.append("proxy_pass http://command;")
        elif methods == {"get"}:
            lines.append("proxy_pass http://query;")
        elif "get" in methods:
            lines.append("proxy_pass http://$side;")
        else:
            lines.append("proxy_pass http://command;")
    if path in BODIES:
        lines.append(f"client_max_body_size {BODIES[path]};")
    if path.startswith("/v1/admin/"):
        lines.append("include admin-networks.conf;")
    inner = "".join(f"    {line}\n" for line in lines)
    return f"location {location(path)} {{\n{inner}}}\n"


def render():
    paths = json.loads(DOCUMENT.read_text())["paths"]
    head = "# Made by routes.py from docs/openapi.json. Do not edit: run deploy/ingress/routes.py.\n"
    shown = {path: operations for path, operations in paths.items() if not path.startswith(PRIVATE)}
    return head + "".join(block(path, shown[path]) for path in sorted(shown))


def main():
    text = render()
    if sys.argv[1:] == ["--check"]:
        if not ROUTES.exists() or ROUTES.read_text() != text:
            sys.exit("routes.conf is not what docs/openapi.json says: run deploy/ingress/routes.py")
        print(f"routes.conf is current: {text.count('location ')} routes")
    elif sys.argv[1:]:
        sys.exit(f"usage: {sys.argv[0]} [--check]")
    else:
        ROUTES.write_text(text)


if __name__ == "__main__":
    main()
