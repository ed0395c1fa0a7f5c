//! From text to [`Manifests`]: all documents by shape, then all objects by meaning, then what they refer to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::Location;

use super::document::{self, Chunk};
use super::problem::{Problem, Problems, Severity};
use super::raw::{self, Field, GatewaySpec, LinkSpec};
use super::scope::{Findings, Origin, PROBLEMS_MAX, Reference, Scope, Target};
use super::sidecar::SidecarSpec;
use super::units::{self, Wrong};
use super::{API_VERSION, Document, FILE_BYTES_MAX, Manifests, Source, TOTAL_BYTES_MAX};
use super::{gateway, link, listener, policy, service, shape, sidecar, suggest, version};
use crate::model::VALUE_BYTES_MAX;
use crate::model::{
    ClusterName, Condition, Declared, Gateway, Kind, Listener, ObjectName, Policy, Reason, Service,
    ServiceName, Sidecar,
};

/// The kinds there are.
const KINDS: [&str; 6] = ["Gateway", "Link", "Listener", "MeshService", "Sidecar", "TrafficPolicy"];

/// The kinds that are a process: it reads one of them, which stands in no namespace.
const PROCESSES: [&str; 2] = ["Gateway", "Sidecar"];

/// The kinds of DESIGN 6 whose time has not come.
const LATER_KINDS: [&str; 7] =
    ["AccessPolicy", "ClusterDrain", "HTTPRoute", "GRPCRoute", "ServiceExport", "Processor", "Pipeline"];

/// One document whose kind and name are known.
struct Piece<'a> {
    origin: Origin<'a>,
    source: &'a Source,
    kind: &'static str,
    namespace: String,
    name: String,
    /// Where its name stands.
    at: Location,
    /// `metadata.resourceVersion`, and where it stands.
    revision: Option<(u64, Location)>,
    /// What it says; none if that is wrong.
    spec: Option<Spec>,
}

/// The specification of one kind. What needs nothing from other documents is its meaning already: what was typed takes
/// several times the room, and a service may have ten thousand endpoints.
enum Spec {
    Gateway(Box<Field<GatewaySpec>>),
    Sidecar(Box<Field<SidecarSpec>>),
    Link(Box<Field<LinkSpec>>),
    Listener(Arc<Listener>),
    Service(Arc<Service>),
    /// And where it names its service.
    Policy(Arc<Policy>, Location),
}

/// Reads manifests from text: those of a process, or objects for the running gateway `of`, which holds more of them.
pub(super) fn read(sources: &[Source], of: Option<&Gateway>) -> Result<Manifests, Problems> {
    let files: Vec<String> = sources.iter().map(|s| s.name.display().to_string()).collect();
    check_sizes(sources, &files)?;
    let mut findings = Findings::default();
    let mut pieces = Vec::new();
    // Whether every document could be told by kind and name: if not, what is missing may be in one of the others.
    let mut all_known = true;
    for (source, file) in sources.iter().zip(&files) {
        let chunks = document::split(&source.text);
        if chunks.is_empty() {
            let nothing = Problem::of_file(file.clone(), "this file holds no document".into(), None);
            findings.push(Problem { severity: Severity::Warning, ..nothing });
        }
        for chunk in chunks {
            if findings.gives_up() {
                break;
            }
            match piece(source, file, chunk, of.is_some(), &mut findings) {
                Some(piece) => pieces.push(piece),
                None => all_known = false,
            }
        }
    }
    refuse_duplicates(&pieces, &mut findings);
    match of {
        Some(_) => refuse_processes(&pieces, &mut findings),
        None => refuse_revisions(&pieces, &mut findings),
    }
    let (gateway, sidecar) = processes(&pieces, &mut findings);
    let declared = objects(&pieces, of.or(gateway.as_ref()), &mut findings);
    let conditions = match all_known && of.is_none() {
        true => resolve(&pieces, gateway.as_ref(), &declared, &mut findings),
        false => Vec::new(),
    };
    if let (Some(severity), Some(file)) = (findings.dropped, files.last()) {
        let more = format!("more than {PROBLEMS_MAX} problems; the rest is not shown");
        findings.problems.push(Problem { severity, ..Problem::of_file(file.clone(), more, None) });
    }
    let warnings = Problems::check(findings.problems, &files)?;
    let documents = pieces.into_iter().map(Piece::into_document).collect();
    Ok(Manifests { gateway, sidecar, declared, warnings, conditions, documents })
}

/// Refuses what is too large before it is looked at.
fn check_sizes(sources: &[Source], files: &[String]) -> Result<(), Problems> {
    let mut problems = Vec::new();
    let mut total = 0_usize;
    for (source, file) in sources.iter().zip(files) {
        if source.text.len() > FILE_BYTES_MAX {
            problems.push(too_large(file.clone()));
        }
        let before = total;
        total += source.text.len();
        if before <= TOTAL_BYTES_MAX && total > TOTAL_BYTES_MAX {
            let message = format!("with this file the manifests exceed {} MiB", TOTAL_BYTES_MAX >> 20);
            problems.push(Problem::of_file(file.clone(), message, None));
        }
    }
    Problems::check(problems, files).map(drop)
}

/// A file above [`FILE_BYTES_MAX`].
pub(super) fn too_large(file: String) -> Problem {
    let message = format!("this file is larger than {} MiB", FILE_BYTES_MAX >> 20);
    Problem::of_file(file, message, Some("split it".into()))
}

/// The objects that `sources` declare, as their heads name them; those that cannot be read are left out. Each is read as
/// it is asked for, and nothing but its head is looked at.
pub(super) fn names(sources: &[Source]) -> impl Iterator<Item = ObjectName> {
    let chunks = sources.iter().flat_map(|source| document::split(&source.text));
    chunks.filter_map(|chunk| {
        let mut findings = Findings::default();
        let origin =
            Origin { file: "", text: chunk.text, first_line: chunk.first_line, object: None, name: None };
        let head: raw::Head = shape::read(&origin, &mut findings)?;
        let kind = Kind::of(&head.kind?.value)?;
        let at = Location::UNKNOWN;
        let mut scope = Scope { origin: &origin, findings: &mut findings };
        let (namespace, name, _) = metadata(kind.as_str(), &head.metadata, at, &mut scope);
        (!name.is_empty()).then(|| ObjectName::new(kind, &namespace, &name))
    })
}

/// Reads one document's shape; none if not even its kind and name are known. One that is to be `applied` is read no
/// further if it is larger than the registry could keep.
fn piece<'a>(
    source: &'a Source,
    file: &'a str,
    chunk: Chunk<'a>,
    applied: bool,
    findings: &mut Findings<'a>,
) -> Option<Piece<'a>> {
    let mut origin =
        Origin { file, text: chunk.text, first_line: chunk.first_line, object: None, name: None };
    let head: raw::Head = shape::read(&origin, findings)?;
    let start = head.kind.as_ref().or(head.api_version.as_ref()).map_or(Location::UNKNOWN, |f| f.referenced);
    let mut scope = Scope { origin: &origin, findings };
    let kind = scope.required(&head.kind, "kind", start, "kind: MeshService", kind)?;
    origin.object = Some(kind.to_owned());
    let mut scope = Scope { origin: &origin, findings };
    let example = format!("apiVersion: {API_VERSION}");
    let known = scope.required(&head.api_version, "apiVersion", start, &example, api_version);
    let (namespace, name, at) = metadata(kind, &head.metadata, start, &mut scope);
    let revision = head.metadata.as_ref().and_then(|metadata| metadata.value.resource_version.as_ref());
    let revision = revision.and_then(|field| {
        Some((scope.read(field, "metadata.resourceVersion", version::revision)?, field.referenced))
    });
    if !name.is_empty() {
        let slash = if namespace.is_empty() { "" } else { "/" };
        origin.object = Some(format!("{kind} {namespace}{slash}{name}"));
        origin.name = Kind::of(kind).map(|kind| ObjectName::new(kind, &namespace, &name));
    }
    let known = known.filter(|()| {
        let too_large = applied && chunk.text.len() > VALUE_BYTES_MAX;
        if too_large {
            let mut scope = Scope { origin: &origin, findings };
            let message =
                format!("has {} bytes, {VALUE_BYTES_MAX} are allowed in the registry", chunk.text.len());
            let hint = "declare it in a file of each gateway, or leave out what it can do without";
            scope.error(Location::UNKNOWN, message, hint);
        }
        !too_large
    });
    // A document of another version may have another shape: nothing more can be said about it.
    let spec = known.and_then(|()| match kind {
        "Gateway" => shape::document(&origin, findings).map(|d| Spec::Gateway(d.spec.into())),
        "Sidecar" => shape::document(&origin, findings).map(|d| Spec::Sidecar(d.spec.into())),
        "Link" => shape::document(&origin, findings).map(|d| Spec::Link(d.spec.into())),
        "MeshService" => shape::document(&origin, findings).and_then(|d| {
            let mut scope = Scope { origin: &origin, findings };
            let name = ServiceName::new(&namespace, &name).ok();
            service::read(name, &d.spec, at, &mut scope).map(|service| Spec::Service(service.into()))
        }),
        "Listener" => shape::document(&origin, findings).and_then(|d| {
            let mut scope = Scope { origin: &origin, findings };
            let folder = (!applied).then(|| source.name.parent().unwrap_or(Path::new("")));
            let read = listener::read(&namespace, &name, &d.spec, at, folder, &mut scope);
            read.map(|listener| Spec::Listener(listener.into()))
        }),
        _ => shape::document(&origin, findings).and_then(|d| {
            let mut scope = Scope { origin: &origin, findings };
            let read = policy::read(&namespace, &name, &d.spec, at, &mut scope);
            read.map(|(policy, at)| Spec::Policy(policy.into(), at))
        }),
    });
    Some(Piece { origin, source, kind, namespace, name, at, revision, spec })
}

/// Namespace, name and the name's place; both are empty where they are wrong, so that reading goes on.
fn metadata(
    kind: &str,
    field: &Field<raw::Metadata<true>>,
    start: Location,
    scope: &mut Scope<'_, '_>,
) -> (String, String, Location) {
    let process = PROCESSES.contains(&kind);
    let default = if process { "" } else { "default" };
    let Some(metadata) = scope.present(field, "metadata", start, "metadata: { name: ... }") else {
        return (default.into(), String::new(), start);
    };
    let (at, metadata) = (metadata.referenced, &metadata.value);
    let name = scope.required(&metadata.name, "metadata.name", at, "name: ...", units::label);
    let namespace = match (&metadata.namespace, process) {
        (Some(namespace), true) => {
            let message = format!("metadata.namespace: a {kind} stands in no namespace");
            scope.error(namespace.referenced, message, "leave `namespace` out");
            None
        }
        (namespace, _) => scope.optional(namespace, "metadata.namespace", units::label).flatten(),
    };
    let at = metadata.name.as_ref().map_or(at, |n| n.referenced);
    (namespace.unwrap_or_else(|| default.into()), name.unwrap_or_default(), at)
}

fn kind(text: &str) -> Result<&'static str, Wrong> {
    if let Some(kind) = KINDS.iter().find(|kind| **kind == text) {
        return Ok(kind);
    }
    if LATER_KINDS.contains(&text) {
        let hint = format!("available now: {}", suggest::list(&KINDS));
        return Err(Wrong::new(format!("`{text}` is not available yet"), hint));
    }
    Err(Wrong::new(format!("`{text}` is not known"), suggest::hint(text, &KINDS, "the kinds are")))
}

fn api_version(text: &str) -> Result<(), Wrong> {
    if text == API_VERSION {
        return Ok(());
    }
    Err(Wrong::new(format!("`{text}` is not known"), format!("write `apiVersion: {API_VERSION}`")))
}

impl Piece<'_> {
    fn place(&self) -> String {
        format!("{}:{}:{}", self.origin.file, self.origin.line(self.at), self.at.column())
    }

    fn into_document(self) -> Document {
        let bytes = match self.revision {
            Some((_, at)) => version::without(self.origin.text, at),
            None => self.origin.text.to_owned(),
        };
        Document {
            kind: self.kind,
            namespace: self.namespace,
            name: self.name,
            bytes,
            revision: self.revision.map(|(revision, _)| revision),
            file: self.source.name.clone(),
            line: self.origin.first_line,
        }
    }
}

/// An object is declared once; a process is one Gateway or Sidecar; a peer has one Link, whatever its namespace.
fn refuse_duplicates<'a>(pieces: &[Piece<'a>], findings: &mut Findings<'a>) {
    let mut seen: BTreeMap<(&str, &str, &str), &Piece<'a>> = BTreeMap::new();
    for piece in pieces.iter().filter(|p| !p.name.is_empty()) {
        let key = match piece.kind {
            kind if PROCESSES.contains(&kind) => (kind, "", ""),
            "Link" => (piece.kind, "", piece.name.as_str()),
            kind => (kind, piece.namespace.as_str(), piece.name.as_str()),
        };
        let Some(first) = seen.get(&key) else {
            seen.insert(key, piece);
            continue;
        };
        let mut scope = Scope { origin: &piece.origin, findings };
        let (message, hint) = match piece.kind {
            "Gateway" => ("a second Gateway", "one process reads one Gateway: give each its own file"),
            "Sidecar" => ("a second Sidecar", "one process reads one Sidecar: give each its own file"),
            "Link" => ("a second Link to this cluster", "keep one of the two"),
            _ => ("declared twice", "rename or remove one of the two"),
        };
        scope.error(piece.at, format!("{message}; the first stands at {}", first.place()), hint);
    }
}

/// A process is what it reads in its own files at its start.
fn refuse_processes<'a>(pieces: &[Piece<'a>], findings: &mut Findings<'a>) {
    for piece in pieces.iter().filter(|piece| PROCESSES.contains(&piece.kind)) {
        let mut scope = Scope { origin: &piece.origin, findings };
        let message = format!("a {} is a process and stands in its own file only", piece.kind);
        scope.error(piece.at, message, "leave this document out");
    }
}

/// Files have no revisions.
fn refuse_revisions<'a>(pieces: &[Piece<'a>], findings: &mut Findings<'a>) {
    for piece in pieces {
        if let Some((_, at)) = piece.revision {
            let mut scope = Scope { origin: &piece.origin, findings };
            let message = "metadata.resourceVersion: only what is applied has one";
            scope.error(at, message, "leave it out, or use `ringway apply`");
        }
    }
}

/// The first Gateway and the first Sidecar that can be read.
fn processes<'a>(pieces: &[Piece<'a>], findings: &mut Findings<'a>) -> (Option<Gateway>, Option<Sidecar>) {
    let (mut gateway, mut sidecar) = (None, None);
    for piece in pieces {
        let mut scope = Scope { origin: &piece.origin, findings };
        let folder = piece.source.name.parent().unwrap_or(Path::new(""));
        match &piece.spec {
            Some(Spec::Gateway(spec)) => {
                gateway = gateway.or(gateway::read(&piece.name, spec, piece.at, folder, &mut scope));
            }
            Some(Spec::Sidecar(spec)) => {
                sidecar = sidecar.or(sidecar::read(&piece.name, spec, piece.at, folder, &mut scope));
            }
            _ => {}
        }
    }
    (gateway, sidecar)
}

/// Everything but the processes.
fn objects<'a>(pieces: &[Piece<'a>], gateway: Option<&Gateway>, findings: &mut Findings<'a>) -> Declared {
    let mut declared = Declared::default();
    let mut policies: BTreeMap<ServiceName, String> = BTreeMap::new();
    for piece in pieces {
        let mut scope = Scope { origin: &piece.origin, findings };
        match &piece.spec {
            Some(Spec::Link(spec)) => {
                let cluster = cluster_of(piece, &mut scope);
                let link = link::read(cluster, spec, piece.at, gateway, &mut scope);
                declared.links.extend(link.map(|l| (l.cluster.clone(), l)));
            }
            Some(Spec::Listener(listener)) => {
                declared.listeners.insert(listener.object(), listener.clone());
            }
            Some(Spec::Service(service)) => {
                declared.services.insert(service.name.clone(), service.clone());
            }
            Some(Spec::Policy(policy, at)) => {
                if let Some(first) = policies.get(&policy.service) {
                    let message = format!(
                        "spec.service: a second policy for {}; the first stands at {first}",
                        policy.service
                    );
                    scope.error(*at, message, "join the two: a service has one TrafficPolicy");
                    continue;
                }
                policies.insert(policy.service.clone(), piece.place());
                declared.policies.insert(policy.service.clone(), policy.clone());
            }
            Some(Spec::Gateway(_) | Spec::Sidecar(_)) | None => {}
        }
    }
    declared
}

/// The peer that a Link is named after; none if that is wrong.
fn cluster_of(piece: &Piece<'_>, scope: &mut Scope<'_, '_>) -> Option<ClusterName> {
    match units::cluster(&piece.name) {
        // Reported with the metadata.
        Err(_) if piece.name.is_empty() => None,
        Ok(cluster) => Some(cluster),
        Err(wrong) => {
            scope.error(
                piece.at,
                format!("metadata.name: {}", wrong.message),
                wrong.hint.unwrap_or_default(),
            );
            None
        }
    }
}

/// Looks up what the objects refer to: a name without an object is a warning and a condition.
fn resolve<'a>(
    pieces: &[Piece<'a>],
    gateway: Option<&Gateway>,
    declared: &Declared,
    findings: &mut Findings<'a>,
) -> Vec<Condition> {
    let named = |kind: &'static str| pieces.iter().filter(move |p| p.kind == kind);
    let services: BTreeSet<(&str, &str)> = named("MeshService").map(|p| (&*p.namespace, &*p.name)).collect();
    let own = gateway.map(|g| g.cluster.as_str());
    let clusters: BTreeSet<&str> = named("Link").map(|p| p.name.as_str()).chain(own).collect();
    let mut conditions = BTreeSet::new();
    for Reference { origin, at, target } in std::mem::take(&mut findings.references) {
        let (reason, message, hint) = match target {
            Target::Service(name, of) => {
                let here = services.contains(&(&*name.namespace, &*name.name));
                if here || declared.links.values().any(|l| l.import_rule(&name).is_some()) {
                    continue;
                }
                let near: Vec<&str> =
                    services.iter().filter(|(ns, _)| *ns == &*name.namespace).map(|(_, n)| *n).collect();
                let hint = suggest::suggest(&name.name, near).map(|n| format!("did you mean `{n}`?"));
                let hint = hint.unwrap_or_else(|| format!("until one is, this {of} has no effect"));
                let message =
                    format!("spec.service: no MeshService {name} is declared, and no Link imports one");
                (Reason::BackendNotFound, message, hint)
            }
            // Whether our own cluster is meant is known only with a Gateway.
            Target::Cluster(name, _) if clusters.contains(name.as_str()) || own.is_none() => continue,
            Target::Cluster(name, field) => {
                let hint = suggest::suggest(&name, clusters.iter().copied())
                    .map(|near| format!("did you mean `{near}`?"))
                    .unwrap_or_else(|| "until a Link leads there, it gets nothing".into());
                (Reason::LinkNotFound, format!("{field}: no Link leads to the cluster `{name}`"), hint)
            }
        };
        if let Some(object) = origin.name.clone() {
            conditions.insert(Condition::new(object, reason, message.clone()));
        }
        findings.report(&origin, at, Severity::Warning, Wrong::new(message, hint));
    }
    conditions.into_iter().collect()
}
