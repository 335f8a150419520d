"use strict";
// Shows the API document of this server, and sends requests to it. Nothing comes from elsewhere; texts are set as texts, never as HTML.

const METHODS = ["get", "post", "patch", "put", "delete"];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function resolve(api, schema) {
  let seen = 0;
  while (schema && schema.$ref && seen++ < 32) {
    schema = schema.$ref.split("/").slice(1).reduce((node, key) => node && node[key], api);
  }
  return schema || {};
}

// A schema as indented text: name, type, what it means.
function describe(api, schema, depth = 0) {
  const known = resolve(api, schema);
  if (depth > 5) return "…";
  const pad = "  ".repeat(depth);
  const parts = known.oneOf || known.anyOf || known.allOf;
  if (parts) {
    const word = known.oneOf ? "one of" : known.anyOf ? "any of" : "all of";
    return word + parts.map((part) => `\n${pad}  - ${describe(api, part, depth + 1)}`).join("");
  }
  const type = [].concat(known.type || (known.properties ? "object" : "any")).join(" or ");
  if (known.properties) {
    const required = new Set(known.required || []);
    const lines = Object.entries(known.properties).map(([name, property]) => {
      const about = resolve(api, property).description || property.description || "";
      const mark = required.has(name) ? "" : "?";
      return `\n${pad}  ${name}${mark}: ${describe(api, property, depth + 1)}${about ? "   // " + about.split("\n")[0] : ""}`;
    });
    return type + lines.join("");
  }
  if (type.includes("array")) return `array of ${describe(api, known.items || {}, depth + 1)}`;
  const facts = [known.enum && known.enum.map((word) => JSON.stringify(word)).join(" | "), known.pattern, known.format];
  return [type, ...facts.filter(Boolean)].join(" ");
}

function example(api, schema, depth = 0) {
  const known = resolve(api, schema);
  if (known.example !== undefined) return known.example;
  if (known.default !== undefined) return known.default;
  if (known.enum) return known.enum[0];
  const part = (known.oneOf || known.anyOf || known.allOf || [])[0];
  if (part) return example(api, part, depth + 1);
  if (known.properties && depth < 6) {
    const required = known.required || [];
    return Object.fromEntries(required.map((name) => [name, example(api, known.properties[name], depth + 1)]));
  }
  const type = [].concat(known.type || "object")[0];
  return { string: "", integer: 0, number: 0, boolean: false, array: [], null: null }[type] ?? {};
}

function table(rows) {
  return element("table", {}, ...rows.map((row, index) =>
    element("tr", {}, ...row.map((cell) => element(index === 0 ? "th" : "td", {}, cell)))));
}

function media(content) {
  return Object.entries(content || {})[0] || ["", {}];
}

function form(api, method, path, operation) {
  const inputs = new Map();
  const fields = (operation.parameters || []).map((parameter) => {
    const input = element("input", { "aria-label": parameter.name });
    inputs.set(parameter, input);
    return element("label", {}, `${parameter.name} (${parameter.in}) `, input);
  });
  const [kind, body] = media(operation.requestBody && operation.requestBody.content);
  const area = kind && element("textarea", { "aria-label": "body" });
  if (area) area.value = JSON.stringify(example(api, body.schema || {}), null, 2);
  const answer = element("pre", { "aria-live": "polite" });
  const send = async (event) => {
    event.preventDefault();
    let target = path;
    const query = new URLSearchParams();
    const headers = {};
    const token = document.getElementById("token").value;
    if (token) headers.authorization = `Bearer ${token}`;
    for (const [parameter, input] of inputs) {
      if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value && parameter.in === "query") query.set(parameter.name, input.value);
      else if (input.value && parameter.in === "header") headers[parameter.name] = input.value;
    }
    if (area) headers["content-type"] = kind;
    const url = target.replace(/^\//, "") + (query.size ? `?${query}` : "");
    answer.textContent = "…";
    try {
      const reply = await fetch(url, { method: method.toUpperCase(), headers, body: area ? area.value : undefined });
      const text = await reply.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it is */ }
      const position = reply.headers.get("ledger-position");
      answer.textContent = `${reply.status}${position ? "  ledger-position " + position : ""}\n${shown.slice(0, 100000)}`;
    } catch (error) {
      answer.textContent = String(error);
    }
  };
  return element("form", { onsubmit: send }, ...fields, ...(area ? [area] : []), element("button", {}, "Send"), answer);
}

function show(api, method, path, operation) {
  const who = (operation.security || []).map((one) => (one.bearer || []).join(", ") || "anybody").join(" or ");
  const inside = () => {
    const parts = [element("pre", {}, operation.description || ""), element("p", {}, `Who may: ${who || "any token"}`)];
    if (operation.parameters) {
      parts.push(table([["parameter", "in", "type", "meaning"], ...operation.parameters.map((parameter) =>
        [parameter.name, parameter.in, describe(api, parameter.schema || {}), parameter.description || ""])]));
    }
    const [kind, body] = media(operation.requestBody && operation.requestBody.content);
    if (kind) parts.push(element("h4", {}, `Body: ${kind}`), element("pre", {}, describe(api, body.schema || {})));
    for (const [status, response] of Object.entries(operation.responses || {})) {
      const [type, content] = media(response.content);
      parts.push(element("h4", {}, `${status} ${response.description || ""}`));
      if (type && /^2/.test(status)) parts.push(element("pre", {}, `${type}\n${describe(api, content.schema || {})}`));
    }
    parts.push(form(api, method, path, operation));
    return parts;
  };
  const summary = element("summary", {}, element("b", {}, method.toUpperCase()), element("code", {}, path),
    element("span", {}, operation.summary || ""));
  const details = element("details", { "data-find": `${method} ${path} ${JSON.stringify(operation)}`.toLowerCase() }, summary);
  details.addEventListener("toggle", () => details.childElementCount === 1 && details.append(...inside()), { once: true });
  return details;
}

function filter() {
  const wanted = document.getElementById("find").value.toLowerCase();
  for (const details of document.querySelectorAll("details")) details.hidden = !details.dataset.find.includes(wanted);
}

async function load() {
  const api = await (await fetch("openapi.json")).json();
  document.getElementById("title").textContent = `${api.info.title} ${api.info.version}`;
  document.title = document.getElementById("title").textContent;
  document.getElementById("about").textContent = api.info.description || "";
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((known) => item[known])) {
      const tag = (item[method].tags || ["other"])[0];
      groups.set(tag, [...(groups.get(tag) || []), show(api, method, path, item[method])]);
    }
  }
  const place = document.getElementById("operations");
  place.replaceChildren(...[...groups].sort(([a], [b]) => a.localeCompare(b)).flatMap(([tag, operations]) =>
    [element("h2", {}, tag), ...operations]));
  document.getElementById("find").addEventListener("input", filter);
}

load().catch((error) => { document.getElementById("operations").textContent = String(error); });
