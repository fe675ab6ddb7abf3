//! Builds the HTTP clients of the program: the one of the API and the one of notifications.
//!
//! The URLs of both contain secrets, and errors of reqwest contain URLs. [`describe`] removes the
//! URLs.

use std::sync::Once;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use crate::model::with_causes;

/// Builds a client for the host of this URL, without redirects. `timeout` is the maximum time from
/// sending a request to the end of its answer. At most `idle_connections` stay open.
#[expect(clippy::disallowed_methods, reason = "the only place that builds an HTTP client")]
pub fn client(url: &Url, timeout: Duration, idle_connections: usize) -> reqwest::Result<Client> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // This fails only if a provider is already installed, which can be used as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let mut builder = Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .https_only(url.scheme() == "https")
        .connect_timeout(timeout)
        .timeout(timeout)
        .tcp_nodelay(true)
        .pool_max_idle_per_host(idle_connections);
    if is_loopback(url) {
        builder = builder.no_proxy();
        if url.scheme() == "http" {
            // Plain HTTP needs no CA certificates, and loading them fails on a machine without any.
            builder = builder.tls_certs_only([]);
        }
    }
    builder.build()
}

/// Returns whether the host of a URL is `localhost` or a loopback address.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
        None => false,
    }
}

/// Returns the text of an error of reqwest and its causes, without the URL.
#[must_use]
pub fn describe(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_localhost_and_loopback_addresses_are_loopback() {
        for (url, expected) in [
            ("http://127.0.0.1:80", true),
            ("http://[::1]:80", true),
            ("http://localhost", true),
            ("https://console.tim.qq.com", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
