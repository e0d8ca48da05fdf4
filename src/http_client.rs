//! How other servers are asked: our name, the certificates that are believed, and how long we wait for them.
//!
//! Proxies come from the usual variables (`HTTPS_PROXY`, `NO_PROXY`, ...). Deliberately does not know what is asked.

use std::time::Duration;

use ureq::config::ConfigBuilder;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use url::Url;

/// How long a server may take to accept a connection and to begin an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every request has in common; errors of the server arrive as plain responses.
pub fn configure() -> ConfigBuilder<AgentScope> {
    // Certificates of companies are known to the system only.
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    ureq::Agent::config_builder()
        .user_agent(concat!("comfyd/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .tls_config(tls)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
}

/// The address of a server, if it is one for HTTP.
pub fn server(address: &str) -> Option<Url> {
    Url::parse(address.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// An address without the password it may carry, and without what signs it.
pub fn shown(address: &Url) -> String {
    let mut plain = address.clone();
    // Fails for addresses that cannot have a user, which is as good.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.set_query(None);
    plain.to_string()
}
