//! Which certificates are believed: those of the system's authorities.
//!
//! They are handed to reqwest by name, because what it would use of itself, the
//! platform verifier, logs every certificate that it refuses as an error, in the
//! words of whoever sent it.

use reqwest::Certificate;
use rustls::RootCertStore;
use tracing::warn;

/// The system's root certificates. Without any, TLS fails for every host, but
/// there may be other pages to fetch; a warning says so.
pub(super) fn root_certificates() -> Vec<Certificate> {
    let found = rustls_native_certs::load_native_certs();
    // One that cannot be read must not spoil the others.
    let mut readable = RootCertStore::empty();
    let certificates: Vec<_> = found
        .certs
        .into_iter()
        .filter(|certificate| readable.add(certificate.clone()).is_ok())
        .filter_map(|certificate| Certificate::from_der(&certificate).ok())
        .collect();
    if certificates.is_empty() {
        warn!("no https page can be fetched: install CA certificates or set SSL_CERT_FILE");
    }
    certificates
}
