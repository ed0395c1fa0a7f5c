//! `spec.registry` of a Gateway: in the state directory, or an etcd.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::gateway::directory;
use super::raw::{Directory, Empty, Field, List};
use super::scope::Scope;
use super::units::{self, Wrong};
use crate::model::Backend;
use crate::model::{EtcdOptions, EtcdUser};

/// Most members of one etcd: more than seven are not run.
const ENDPOINTS_MAX: usize = 16;
/// Bytes of a prefix: what is left of a key must name a service.
const PREFIX_BYTES_MAX: usize = 255;
/// Bytes of a user's name.
const USER_BYTES_MAX: usize = 255;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    embedded: Field<Empty>,
    etcd: Field<Etcd>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Etcd {
    endpoints: List<String>,
    prefix: Field<String>,
    tls: Field<Directory>,
    user: Field<String>,
    password_file: Field<String>,
}

/// Reads where the registry is kept; relative paths count from `folder`.
pub(super) fn read(field: &Field<Registry>, folder: &Path, scope: &mut Scope<'_, '_>) -> Option<Backend> {
    let Some(Spanned { value: registry, referenced, .. }) = field else { return Some(Backend::Embedded) };
    match (&registry.embedded, &registry.etcd) {
        (_, None) => Some(Backend::Embedded),
        (None, Some(etcd)) => read_etcd(&etcd.value, etcd.referenced, folder, scope).map(Backend::Etcd),
        (Some(_), Some(_)) => {
            let message = "spec.registry: `embedded` and `etcd` stand here both";
            scope.error(*referenced, message, "keep one of the two");
            None
        }
    }
}

fn read_etcd(etcd: &Etcd, at: Location, folder: &Path, scope: &mut Scope<'_, '_>) -> Option<EtcdOptions> {
    let endpoints = endpoints(etcd, at, scope);
    let prefix = scope.optional(&etcd.prefix, "spec.registry.etcd.prefix", prefix);
    let tls = match &etcd.tls {
        None => Some(None),
        Some(_) => directory(&etcd.tls, "registry.etcd.tls", "pki/etcd", at, folder, scope).map(Some),
    };
    let user = user(etcd, at, folder, scope);
    let (endpoints, tls) = (endpoints?, tls?);
    if let Some(first) = etcd.endpoints.as_ref().and_then(|list| list.value.first()) {
        secured(&endpoints, first.referenced, tls.as_ref(), scope)?;
    }
    Some(EtcdOptions { endpoints, prefix: prefix?.unwrap_or_default(), tls, user: user? })
}

fn endpoints(etcd: &Etcd, at: Location, scope: &mut Scope<'_, '_>) -> Option<Vec<String>> {
    let (name, example) = ("spec.registry.etcd.endpoints", "endpoints: [http://127.0.0.1:2379]");
    scope.present(&etcd.endpoints, name, at, example)?;
    let entries = scope.list(&etcd.endpoints, name, ENDPOINTS_MAX)?;
    if entries.is_empty() {
        scope.error(at, format!("{name} is empty"), format!("name at least one: `{example}`"));
        return None;
    }
    let mut endpoints = Vec::with_capacity(entries.len());
    let mut whole = true;
    for entry in entries {
        match scope.read(entry, name, endpoint) {
            Some(known) if endpoints.contains(&known) => {
                scope.error(entry.referenced, format!("{name}: {known} stands here twice"), "remove one");
                whole = false;
            }
            Some(endpoint) => endpoints.push(endpoint),
            None => whole = false,
        }
    }
    whole.then_some(endpoints)
}

/// Refuses a mixture of endpoints with TLS and without, and TLS without anybody to trust.
fn secured(
    endpoints: &[String],
    at: Location,
    tls: Option<&PathBuf>,
    scope: &mut Scope<'_, '_>,
) -> Option<()> {
    let secure = endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    let name = "spec.registry.etcd";
    let (message, hint) = match (tls, secure) {
        (None, 0) => return Some(()),
        (Some(_), n) if n == endpoints.len() => return Some(()),
        (None, _) => (
            "`https` needs a certificate to trust",
            "add `tls: { directory: pki/etcd }`, which holds `ca.crt`",
        ),
        (Some(_), _) => ("`tls` and an endpoint without it", "write `https://` before every endpoint"),
    };
    scope.error(at, format!("{name}: {message}"), hint);
    None
}

fn user(etcd: &Etcd, at: Location, folder: &Path, scope: &mut Scope<'_, '_>) -> Option<Option<EtcdUser>> {
    match (&etcd.user, &etcd.password_file) {
        (None, None) => Some(None),
        (Some(user), Some(file)) => {
            let user = scope.read(user, "spec.registry.etcd.user", user_name);
            let file = scope.read(file, "spec.registry.etcd.passwordFile", file_name);
            Some(Some(EtcdUser { name: user?, password_file: folder.join(file?) }))
        }
        _ => {
            let message = "spec.registry.etcd: `user` and `passwordFile` go together";
            scope.error(at, message, "write both, or none if the etcd has no users");
            None
        }
    }
}

fn endpoint(text: &str) -> Result<String, Wrong> {
    let Some((scheme @ ("http" | "https"), rest)) = text.split_once("://") else {
        return Err(Wrong::new(format!("`{text}` is no endpoint"), "such as `http://127.0.0.1:2379`"));
    };
    let address = units::host_port(rest.strip_suffix('/').unwrap_or(rest))?;
    Ok(format!("{scheme}://{address}"))
}

fn prefix(text: &str) -> Result<String, Wrong> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let right = text.starts_with('/') && !text.ends_with('/') && text.bytes().all(fits);
    if right && text.len() <= PREFIX_BYTES_MAX {
        return Ok(text.into());
    }
    let hint =
        "such as `/west`: letters, digits, `-`, `_`, `.` and `/`, which it begins with and does not end with";
    Err(Wrong::new(format!("`{text}` is no prefix of keys"), hint))
}

fn file_name(text: &str) -> Result<String, Wrong> {
    if !text.is_empty() && !text.contains('\0') {
        return Ok(text.into());
    }
    Err(Wrong::new("this is no path", "such as `passwordFile: etcd-password`"))
}

fn user_name(text: &str) -> Result<String, Wrong> {
    if (1..=USER_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control) {
        return Ok(text.into());
    }
    Err(Wrong::new("this is no name of a user", format!("write 1 to {USER_BYTES_MAX} bytes on one line")))
}
