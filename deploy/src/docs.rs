//! The API document as a page: three files inside the program, so that it works without a network.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};

/// Only what this server itself serves; nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// `/docs` and what it needs.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/docs", get(async || file("text/html; charset=utf-8", include_str!("docs/index.html"))))
        .route("/docs/style.css", get(async || file("text/css; charset=utf-8", include_str!("docs/style.css"))))
        .route("/docs/script.js", get(async || file("text/javascript; charset=utf-8", include_str!("docs/script.js"))))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    /// Nothing is fetched from anywhere else, and nothing of the document becomes HTML.
    #[test]
    fn the_page_needs_nothing_but_this_server() {
        for text in [include_str!("docs/index.html"), include_str!("docs/style.css"), include_str!("docs/script.js")] {
            for foreign in ["http://", "https://", "//cdn", "@import", "innerHTML", "eval(", "document.write"] {
                assert!(!text.contains(foreign), "{foreign}");
            }
        }
        assert!(include_str!("docs/index.html").contains("docs/script.js"));
    }
}
