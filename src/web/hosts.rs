//! The host names that requests may use. The check defeats DNS rebinding: a web page of another
//! site cannot read answers by resolving its name to this machine.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;

use crate::model::ListenAddress;

/// The hosts that a listener accepts in requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// Accepts `localhost`, IP literals and these names, which are in lower case.
    Listed(Arc<[String]>),
    Any,
}

impl AllowedHosts {
    /// Returns the hosts that a listener on this address accepts, given the configured names.
    /// Without names, a listener that other machines can reach accepts any host. So does a Unix
    /// socket, which no browser can reach.
    #[must_use]
    pub fn of(address: &ListenAddress, names: &[String]) -> Self {
        let is_loopback = matches!(address, ListenAddress::Tcp(address) if address.ip().is_loopback());
        if names.is_empty() && !is_loopback {
            return Self::Any;
        }
        Self::Listed(names.iter().map(|name| normalised(name)).collect())
    }

    pub(super) fn allow(&self, request: &Request) -> bool {
        let Self::Listed(names) = self else { return true };
        // A request without a host is accepted. Browsers always send one, and DNS rebinding needs a
        // browser.
        requested_host(request).is_none_or(|host| {
            host.is_ok_and(|host| is_localhost_or_address(&host) || names.contains(&normalised(&host)))
        })
    }
}

/// Returns the host of a request's URL or `Host` header, if it has one. `Err` if the header is
/// malformed.
fn requested_host(request: &Request) -> Option<Result<String, ()>> {
    if let Some(host) = request.uri().host() {
        return Some(Ok(host.to_owned()));
    }
    let header = request.headers().get(HOST)?;
    let authority = header.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    Some(authority.map(|authority| authority.host().to_owned()).ok_or(()))
}

fn is_localhost_or_address(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let name = normalised(host);
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// Returns a host name in lower case, without the trailing dot of the DNS root.
fn normalised(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
