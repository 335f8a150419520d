// What a page of an origin that is not listed tries with tokens that are right.

export async function run(call, { developer, session }) {
    const app = "/v1/developer/apps/app_pub_demo";
    await call("GET", "/health");
    await call("GET", "/v1/developer/apps", { token: developer });
    await call("POST", "/v1/developer/apps", { token: developer, body: { public_app_id: "stolen", name: "Stolen" } });
    await call("PATCH", app, { token: developer, body: { name: "Stolen" } });
    await call("DELETE", app, { token: developer });
    await call("GET", "/v1/user/provider-keys", { token: session });
}
