//! `etcd cert`: an authority of one's own in a folder, and certificates that it signs.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::tls::mint::{Authority, MintError};
use crate::tls::{CertError, CertFolder, written};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is one already.
    #[error("{0}; --renew replaces it")]
    Exists(CertError),
    /// The folder has none.
    #[error(transparent)]
    Folder(CertError),
    /// There is no authority yet.
    #[error("{} is no authority yet: etcd cert init makes one there", .0.display())]
    NoAuthority(PathBuf),
    /// It cannot be minted.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// For whom a certificate is.
#[derive(Clone, Debug)]
pub enum Holder {
    /// A machine, that is reached at these hosts.
    Machine {
        /// Its name.
        name: String,
        /// The names and addresses.
        hosts: Vec<String>,
    },
    /// A client.
    Client {
        /// The user.
        user: String,
    },
}

/// Makes an authority in a folder.
///
/// # Errors
///
/// If there is one already, or it cannot be written.
pub fn init(folder: &CertFolder, out: &mut dyn Write) -> Result<(), CertificateError> {
    folder.found().map_err(CertificateError::Folder)?;
    let (certificate, key) = folder.authority_paths();
    writeln!(out, "{}  the authority: machines and clients are given it", certificate.display())?;
    writeln!(out, "{}  its key: whoever has it can sign for anybody", key.display())?;
    Ok(())
}

/// Signs a certificate with the authority of a folder. One that is there is replaced only if
/// it is to be renewed.
///
/// # Errors
///
/// If there is no authority, or one of the files is there and not to be renewed.
pub fn issue(
    folder: &CertFolder,
    holder: &Holder,
    life: Duration,
    renew: bool,
    out: &mut dyn Write,
) -> Result<(), CertificateError> {
    CertFolder::refuse_unfit(holder.name()).map_err(CertificateError::Folder)?;
    let authority = authority(folder)?;
    if !renew {
        folder.refuse_existing(holder.name()).map_err(CertificateError::Exists)?;
    }
    let minted = match holder {
        Holder::Machine { name, hosts } => authority.machine(name, hosts, life)?,
        Holder::Client { user } => authority.client(user, life)?,
    };
    folder.issue(holder.name(), &minted).map_err(CertificateError::Folder)?;
    tell(folder, holder, life, out)?;
    Ok(())
}

/// Revokes a certificate that the authority of a folder has signed.
///
/// # Errors
///
/// If there is no authority, or no such certificate.
pub fn revoke(
    folder: &CertFolder,
    name: &str,
    out: &mut dyn Write,
) -> Result<(), CertificateError> {
    CertFolder::refuse_unfit(name).map_err(CertificateError::Folder)?;
    let list = folder.revoke(&authority(folder)?, name).map_err(CertificateError::Folder)?;
    let list = list.display();
    writeln!(out, "{list}  {name} counts no longer")?;
    writeln!(out, "machines look at it: --client-crl {list}, --server-crl {list}")?;
    Ok(())
}

fn authority(folder: &CertFolder) -> Result<Authority, CertificateError> {
    let authority = folder.authority().map_err(CertificateError::Folder)?;
    authority.ok_or_else(|| CertificateError::NoAuthority(folder.path().to_owned()))
}

/// Says what was made, and how it is used.
fn tell(
    folder: &CertFolder,
    holder: &Holder,
    life: Duration,
    out: &mut dyn Write,
) -> io::Result<()> {
    let until = written(SystemTime::now() + life);
    let ((ca, _), (certificate, key)) = (folder.authority_paths(), folder.paths(holder.name()));
    let [ca, certificate, key] = [&ca, &certificate, &key].map(|path| path.display());
    match holder {
        Holder::Machine { name, hosts } => {
            let hosts = hosts.join(", ");
            writeln!(out, "{certificate}  machine {name} at {hosts}, until {until}")?;
            writeln!(out, "{key}  its key")?;
            writeln!(out, "run it:")?;
            writeln!(out, "  etcd -n {name} --server-cert {certificate} --server-key {key} \\")?;
            writeln!(out, "    --client-cert {certificate} --client-key {key} \\")?;
            writeln!(out, "    --server-ca-file {ca} --client-ca-file {ca}")
        }
        Holder::Client { user } => {
            writeln!(out, "{certificate}  client {user}, until {until}")?;
            writeln!(out, "{key}  its key")?;
            writeln!(out, "use it:")?;
            writeln!(
                out,
                "  curl --cacert {ca} --cert {certificate} --key {key} https://…/v1/keys/"
            )
        }
    }
}

impl Holder {
    fn name(&self) -> &str {
        match self {
            Self::Machine { name, .. } => name,
            Self::Client { user } => user,
        }
    }
}
