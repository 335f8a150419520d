// The calls of ModelFaucet 1.2's dashboard, A21 to A35.

// What was written is read back as of its position, which the answer shows in a header.
const behind = (path, written) =>
    `${path}${path.includes("?") ? "&" : "?"}min_position=${written.headers["ledger-position"]}`;

export async function run(call, { developer, session }) {
    const as = (token) => (method, path, body, headers) => call(method, path, { token, body, headers });
    const own = as(developer);
    const user = as(session);
    const app = "/v1/developer/apps/browser-shop";

    await own("GET", "/v1/developer/apps");
    const shop = { public_app_id: "browser-shop", name: "Shop" };
    await own("POST", "/v1/developer/apps", shop, { "x-request-id": "browser-app" });
    await own("PATCH", app, { vertical: "retail" });

    const reply = { feature_key: "reply", display_name: "Reply", policy: {}, pricing: { markup_percent: 30 } };
    await own("POST", `${app}/features`, reply);
    const changed = await own("PATCH", `${app}/features/reply`, { display_name: "Answer" });
    await own("GET", behind(`${app}/features`, changed));
    const removed = await own("DELETE", `${app}/features/reply`);
    await own("GET", behind(`${app}/features`, removed));

    const key = { public_app_id: "browser-shop", provider: "openai", api_key: "sk-browser-developer-1" };
    const keys = "/v1/developer/provider-keys";
    const held = await own("POST", keys, key);
    await own("GET", behind(`${keys}?public_app_id=browser-shop`, held));
    await own("DELETE", `${keys}/${held.body.id}`);

    const users = "/v1/user/provider-keys";
    const my = { provider: "openai", api_key: "sk-browser-user-1" };
    const mine = await user("POST", users, my, { "idempotency-key": "browser-1" });
    await user("POST", users, my, { "idempotency-key": "browser-1" });
    await user("GET", behind(users, mine));
    await user("DELETE", `${users}/${mine.body.id}`);

    const disabled = await own("DELETE", app);
    await own("GET", behind("/v1/developer/operations", disabled));
    // Refusals are read as well as successes.
    await own("PATCH", "/v1/developer/apps/none", {});
    await call("GET", "/v1/developer/apps");
}
