//! A small authority of one's own: a certificate for the master, by which it is known
//! and TLS is spoken, and certificates for those who call it. And tokens.
//!
//! Nothing that is there is written over: whoever has the authority's key decides who
//! belongs to the cluster.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use clap::Args;
use jiff::{ToSpan, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use trawl_shared::{clock::wall_now, security::Certificates, untrusted::Untrusted};

use crate::{
    exit::{Exit, Failure},
    render,
};

/// Years that the authority is valid.
const AUTHORITY_YEARS: i32 = 10;

/// Years that the certificates are valid that it signs.
const CERTIFICATE_YEARS: i32 = 2;

/// Names by which a master is known on its own machine, such as to its health check.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// Files that hold a secret are for their owner alone.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

#[derive(Args, Debug)]
pub(crate) struct CertsArgs {
    /// The directory to write to; what it has of earlier runs is kept, and used
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Name or address of the master's machine, as it stands in its URL; may be repeated
    #[arg(long, value_name = "NAME-OR-IP", required = true, num_args = 1..)]
    host: Vec<String>,

    /// Whom to make certificates for that call the master; may be repeated
    #[arg(long, value_name = "NAME", default_value = "worker", num_args = 1..)]
    client: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// The file to write to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Makes a token.
pub(crate) fn token(args: &TokenArgs) -> Result<Exit, Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_new(&args.out, &format!("{token}\n"), SECRET)?;
    let path = args.out.display();
    render::print(&format!(
        "{path}: a new token; give it by --token-file {path} to the master, its workers and \
         whoever operates it"
    ))?;
    Ok(Exit::Done)
}

/// Makes an authority, and certificates that it signs.
pub(crate) fn certs(args: &CertsArgs) -> Result<Exit, Failure> {
    for client in &args.client {
        check_client(client)?;
    }
    let folder = Folder::open(&args.out)?;
    let today = wall_now().to_zoned_datetime(TimeZone::UTC).date();
    let authority = folder.authority(today)?;
    folder.certificate(&authority, "master", master(&args.host)?, today)?;
    for client in &args.client {
        folder.certificate(&authority, client, caller(client), today)?;
    }
    let at = |name: &str| args.out.join(name).display().to_string();
    let client = args.client.first().map_or("worker", String::as_str);
    let host = args.host.first().map_or("HOST", String::as_str);
    render::print(&format!(
        "\nthe master:   trawl master --listen 0.0.0.0:7070 --token-file FILE \
         --tls-cert {} --tls-key {} --client-ca {}\n\
         its callers:  trawl worker --master https://{host}:7070 --token-file FILE --ca {} \
         --cert {} --key {}\n\
         Keep {} where nobody else can read it; the cluster does not need it.",
        at("master.pem"),
        at("master-key.pem"),
        at("ca.pem"),
        at("ca.pem"),
        at(&format!("{client}.pem")),
        at(&format!("{client}-key.pem")),
        at("ca-key.pem"),
    ))?;
    Ok(Exit::Done)
}

fn check_client(name: &str) -> Result<(), Failure> {
    let is_name = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !name.starts_with(['.', '-']);
    if is_name && !["ca", "master"].contains(&name) {
        return Ok(());
    }
    let name = Untrusted::new(name);
    Err(Failure::usage(format!(
        "--client {name}: a name has 1 to 64 letters, digits, `-`, `_` and `.`, and is neither ca \
         nor master"
    )))
}

fn master(hosts: &[String]) -> Result<CertificateParams, Failure> {
    let mut names = hosts.to_vec();
    names.extend(LOOPBACK.iter().map(|&name| name.to_owned()));
    names.sort_unstable();
    names.dedup();
    let mut params = CertificateParams::new(names)
        .map_err(|error| Failure::usage(format!("--host: {error}")))?;
    params.distinguished_name = called("trawl master");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn caller(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called(&format!("trawl {name}"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// An authority's certificate. Its name follows from its key, so that two authorities
/// never share one, and an authority can be used again without reading its certificate.
fn authority(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called(&authority_name(key));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn authority_name(key: &KeyPair) -> String {
    let id = CertificateParams::default().key_identifier(key);
    let id: String = id.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("trawl authority {id}")
}

fn called(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::CommonName, name);
    full
}

/// Where the files are.
struct Folder<'a>(&'a Path);

impl<'a> Folder<'a> {
    fn open(path: &'a Path) -> Result<Self, Failure> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| in_file(path, &error))?;
        Ok(Self(path))
    }

    /// The authority that is there, or a new one.
    fn authority(&self, today: Date) -> Result<Issuer<'static, KeyPair>, Failure> {
        let Some((certificate, key)) = self.pair("ca")? else {
            let key = KeyPair::generate().map_err(defect)?;
            let mut params = authority(&key);
            let until = set_validity(&mut params, today, AUTHORITY_YEARS)?;
            let certificate = params.self_signed(&key).map_err(defect)?;
            self.write("ca", &certificate.pem(), &key)?;
            self.tell("ca", &format!("a new authority, valid until {until}"))?;
            return Ok(Issuer::new(params, key));
        };
        Certificates::read(&certificate)?;
        let pem = fs::read_to_string(&key).map_err(|error| in_file(&key, &error))?;
        let key = KeyPair::from_pem(&pem).map_err(|error| in_file(&key, &error))?;
        let certificate_pem =
            fs::read_to_string(&certificate).map_err(|error| in_file(&certificate, &error))?;
        if !is_named(&certificate_pem, &authority_name(&key)) {
            return Err(Failure::usage(format!(
                "{}: is not an authority that trawl made with the key beside it; choose another \
                 directory, or make the certificates by other means",
                certificate.display()
            )));
        }
        self.tell("ca", "the authority that is there")?;
        Ok(Issuer::new(authority(&key), key))
    }

    /// Makes a certificate, unless there is one.
    fn certificate(
        &self,
        authority: &Issuer<'_, KeyPair>,
        name: &str,
        mut params: CertificateParams,
        today: Date,
    ) -> Result<(), Failure> {
        if self.pair(name)?.is_some() {
            return self.tell(name, "is there already; delete it and its key to have a new one");
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let until = set_validity(&mut params, today, CERTIFICATE_YEARS)?;
        let key = KeyPair::generate().map_err(defect)?;
        let certificate = params.signed_by(&key, authority).map_err(defect)?;
        self.write(name, &certificate.pem(), &key)?;
        let hosts = params.subject_alt_names.iter().map(|name| match name {
            rcgen::SanType::DnsName(name) => name.to_string(),
            rcgen::SanType::IpAddress(address) => address.to_string(),
            other => format!("{other:?}"),
        });
        let hosts: Vec<_> = hosts.collect();
        let whom = if hosts.is_empty() { name.to_owned() } else { hosts.join(", ") };
        self.tell(name, &format!("for {whom}, valid until {until}"))
    }

    /// A certificate and its key, if they are there.
    fn pair(&self, name: &str) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
        let (certificate, key) = self.paths(name);
        match (certificate.exists(), key.exists()) {
            (true, true) => Ok(Some((certificate, key))),
            (false, false) => Ok(None),
            (is_key_missing, _) => {
                let (there, missing) =
                    if is_key_missing { (certificate, key) } else { (key, certificate) };
                Err(Failure::usage(format!(
                    "{} is there, but {} is not; put it back, or take the other away",
                    there.display(),
                    missing.display()
                )))
            }
        }
    }

    fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.0.join(format!("{name}.pem")), self.0.join(format!("{name}-key.pem")))
    }

    fn write(&self, name: &str, certificate: &str, key: &KeyPair) -> Result<(), Failure> {
        let (certificate_path, key_path) = self.paths(name);
        write_new(&key_path, &key.serialize_pem(), SECRET)?;
        write_new(&certificate_path, certificate, PUBLIC)
    }

    fn tell(&self, name: &str, what: &str) -> Result<(), Failure> {
        let (certificate, _) = self.paths(name);
        Ok(render::print(&format!("{}: {what}", certificate.display()))?)
    }
}

/// From yesterday, since clocks differ, for so many years. Returns the last day.
fn set_validity(params: &mut CertificateParams, today: Date, years: i32) -> Result<Date, Failure> {
    let moment = |date: Date| {
        let number = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(date.year().into(), number(date.month()), number(date.day()))
    };
    let from = today.yesterday().map_err(defect)?;
    let until = today.checked_add(years.years()).map_err(defect)?;
    params.not_before = moment(from);
    params.not_after = moment(until);
    Ok(until)
}

/// Whether a certificate names this authority. A name stands in it as it is.
fn is_named(certificate_pem: &str, name: &str) -> bool {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(certificate_pem.as_bytes()).is_ok_and(|certificate| {
        certificate.windows(name.len()).any(|window| window == name.as_bytes())
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| in_file(path, &error))
}

fn in_file(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}

fn defect(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("no certificate can be made: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(out: &Path, client: &[&str]) -> CertsArgs {
        let client = client.iter().map(|&name| name.to_owned()).collect();
        CertsArgs { out: out.to_owned(), host: vec!["master.example".into()], client }
    }

    #[test]
    fn what_is_there_is_kept_and_the_authority_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("pki");
        certs(&args(&out, &["worker"])).unwrap();
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        let before = ["ca.pem", "ca-key.pem", "master.pem", "worker.pem"].map(read);

        certs(&args(&out, &["worker", "operator"])).unwrap();
        assert_eq!(["ca.pem", "ca-key.pem", "master.pem", "worker.pem"].map(read), before);
        assert!(read("operator.pem").contains("BEGIN CERTIFICATE"));

        let mode = |name: &str| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
        for name in ["ca-key.pem", "master-key.pem", "worker-key.pem", "operator-key.pem"] {
            assert_eq!(mode(name), 0o600, "{name}");
        }
    }

    #[test]
    fn half_a_pair_and_foreign_authorities_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        certs(&args(&one, &["worker"])).unwrap();
        certs(&args(&other, &["worker"])).unwrap();

        fs::copy(other.join("ca.pem"), one.join("ca.pem")).unwrap();
        let refused = certs(&args(&one, &["late"])).unwrap_err();
        assert!(refused.message.contains("is not an authority that trawl made"), "{refused:?}");

        fs::remove_file(one.join("ca-key.pem")).unwrap();
        let refused = certs(&args(&one, &["late"])).unwrap_err();
        assert!(refused.message.contains("ca-key.pem is not; put it back"), "{refused:?}");
        assert!(!one.join("late.pem").exists());
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for name in ["", "..", "a/b", "ca", "master", "-x"] {
            assert_eq!(check_client(name).unwrap_err().exit, Exit::Usage, "{name}");
        }
    }

    #[test]
    fn a_token_is_random_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let out = folder.path().join(name);
            token(&TokenArgs { out: out.clone() }).unwrap();
            out
        };
        let (one, other) = (make("one"), make("other"));
        assert_ne!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
        assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o600);
        trawl_shared::security::Secret::read(&one).unwrap();
        assert!(token(&TokenArgs { out: one }).unwrap_err().message.contains("exists"));
    }
}
