//! A certificate authority of the test's own, and the certificates it issues, as PEM files.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

use super::servers::scratch;

/// See the module page; its files go with it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, folder: scratch("certificates-") };
        std::fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// For a server by these names and addresses.
    pub fn issue(&self, hosts: &[&str]) -> Identity {
        self.sign(&params("server", hosts))
    }

    /// The same, over since the year 2001.
    pub fn issue_expired(&self, hosts: &[&str]) -> Identity {
        let mut params = params("server", hosts);
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        self.sign(&params)
    }

    /// The same, good for so long from now.
    pub fn issue_for(&self, hosts: &[&str], lifetime: Duration) -> Identity {
        let mut params = params("server", hosts);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        params.not_after = date_time_ymd(1970, 1, 1) + now + lifetime;
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A certificate that nobody but itself vouches for.
pub fn self_signed(hosts: &[&str]) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity { certificate: params("itself", hosts).self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

impl Identity {
    /// Writes `certificate.pem` and `key.pem` into `folder`.
    pub fn install(&self, folder: &Path) {
        std::fs::write(folder.join("certificate.pem"), &self.certificate).unwrap();
        std::fs::write(folder.join("key.pem"), &self.key).unwrap();
    }

    /// Both in one file, as Kafka's PEM stores have it.
    pub fn store(&self, file: &Path) -> PathBuf {
        std::fs::write(file, format!("{}{}", self.key, self.certificate)).unwrap();
        file.to_owned()
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("{name} of a test"));
    params
}
