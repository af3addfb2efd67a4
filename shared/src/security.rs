//! Who may talk to whom: the secret token that a master and its callers share, and
//! certificates in files. What is read here is checked here, so that an error names
//! the file.

use std::{fmt, fs, io, path::Path, path::PathBuf, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use subtle::ConstantTimeEq;

/// Characters of the shortest token. As many random hexadecimal digits are 64 bits.
const TOKEN_CHARS_MIN: usize = 16;

/// Characters of the longest token, so that it fits into a header.
const TOKEN_CHARS_MAX: usize = 1_024;

/// Bytes of the largest file that is read: a bundle of all public authorities has a
/// fraction of it.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What stands before the token in the `authorization` header (RFC 6750).
const SCHEME: &str = "Bearer ";

/// Why a token or a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A file is too long for what it should be.
    #[error("{}: is longer than {FILE_BYTES_MAX} bytes; is it the right file?", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold a token.
    #[error(
        "{}: is not a token: one line of {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} visible ASCII \
         characters; make one by: trawl token --out FILE",
        path.display()
    )]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// A file has no certificate in it.
    #[error("{}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file has no private key in it.
    #[error("{}: holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
}

/// The token that a master and its callers share. It is shown by nothing.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Reads a token from a file. White space around it does not count.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, SecurityError> {
        let bytes = read(path)?;
        let text = str::from_utf8(&bytes).ok().map(str::trim);
        let is_token = |text: &&str| {
            (TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let token = text.filter(is_token);
        token
            .map(|text| Self(text.into()))
            .ok_or_else(|| SecurityError::Token { path: path.to_owned() })
    }

    /// The value of the `authorization` header that shows the token.
    pub fn authorization(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// Whether an `authorization` header shows this token. How long it takes tells
    /// nothing of the token but its length.
    pub fn is_shown_by(&self, authorization: &[u8]) -> bool {
        let token = authorization.strip_prefix(SCHEME.as_bytes());
        token.is_some_and(|token| token.ct_eq(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Certificates in PEM form, at least one.
#[derive(Clone, Debug)]
pub struct Certificates(Vec<u8>);

impl Certificates {
    /// Reads a file of certificates.
    ///
    /// # Errors
    /// If the file cannot be read, or has none in it.
    pub fn read(path: &Path) -> Result<Self, SecurityError> {
        let bytes = read(path)?;
        let mut found = CertificateDer::pem_slice_iter(&bytes);
        match found.next() {
            Some(Ok(_)) if found.all(|certificate| certificate.is_ok()) => Ok(Self(bytes)),
            _ => Err(SecurityError::NoCertificate { path: path.to_owned() }),
        }
    }

    /// The file's content.
    pub fn pem(&self) -> &[u8] {
        &self.0
    }
}

/// A certificate, with those of the authorities between if there are any, and its
/// private key.
#[derive(Clone)]
pub struct Identity {
    certificates: Certificates,
    key: Vec<u8>,
}

impl Identity {
    /// Reads a certificate and its key. Whether they fit together is for TLS to say.
    ///
    /// # Errors
    /// If a file cannot be read, or holds something else.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, SecurityError> {
        let certificates = Certificates::read(certificate)?;
        let pem = read(key)?;
        match PrivateKeyDer::from_pem_slice(&pem) {
            Ok(_) => Ok(Self { certificates, key: pem }),
            Err(_) => Err(SecurityError::NoKey { path: key.to_owned() }),
        }
    }

    /// The certificate in PEM form.
    pub fn certificate_pem(&self) -> &[u8] {
        self.certificates.pem()
    }

    /// The private key in PEM form.
    pub fn key_pem(&self) -> &[u8] {
        &self.key
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SecurityError> {
    let failed = |source| SecurityError::File { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX + 1), &mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(SecurityError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Result<Secret, SecurityError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        Secret::read(&path)
    }

    #[test]
    fn a_token_is_a_line_of_enough_visible_characters() {
        for text in ["0123456789abcdef", "0123456789abcdef\n", "  !~correct-horse-battery\r\n"] {
            assert!(secret(text).is_ok(), "{text:?}");
        }
        for text in ["", "short", "0123456789 abcdef", "0123456789abcdef\n2nd line", "éééééééééé"]
        {
            let error = secret(text).unwrap_err().to_string();
            assert!(error.contains("is not a token") && error.contains("trawl token"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "it shows what it read: {error}");
        }
        assert!(secret(&"x".repeat(TOKEN_CHARS_MAX)).is_ok());
        assert!(secret(&"x".repeat(TOKEN_CHARS_MAX + 1)).is_err());
    }

    #[test]
    fn only_the_whole_token_opens() {
        let ours = secret("0123456789abcdef").unwrap();
        assert!(ours.is_shown_by(ours.authorization().as_bytes()));
        for other in [
            "",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!ours.is_shown_by(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let ours = secret("0123456789abcdef").unwrap();
        assert_eq!(format!("{ours:?}"), "Secret(…)");
    }

    #[test]
    fn files_that_hold_something_else_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let said = |error: SecurityError| {
            let text = error.to_string();
            assert!(text.starts_with(&path.display().to_string()), "{text}");
            text
        };
        assert!(said(Certificates::read(&path).unwrap_err()).contains("cannot be read"));
        fs::write(&path, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
        assert!(said(Certificates::read(&path).unwrap_err()).contains("no certificate"));
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(Certificates::read(&path).is_ok());
        assert!(said(Identity::read(&path, &path).unwrap_err()).contains("no private key"));
    }
}
