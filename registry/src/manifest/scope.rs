//! Collects what is wrong with one object while its fields are read.

use std::borrow::Borrow;

use serde_saphyr::{Location, Spanned};

use super::document;
use super::problem::{Excerpt, Problem, Severity};
use super::raw::{Field, Later, List};
use super::units::Wrong;
use crate::model::{ObjectName, ServiceName};

/// Most problems that are kept: enough for a morning's work, and a bound for a file of nothing but errors.
pub(super) const PROBLEMS_MAX: usize = 200;

/// Where a document stands.
#[derive(Clone)]
pub(super) struct Origin<'a> {
    /// Its file, as problems name it.
    pub(super) file: &'a str,
    /// Its own text.
    pub(super) text: &'a str,
    /// The file's line on which its text starts, from 1.
    pub(super) first_line: u32,
    /// `Kind namespace/name`, as far as known.
    pub(super) object: Option<String>,
    /// The object that it declares, where that is known and a process is not meant.
    pub(super) name: Option<ObjectName>,
}

impl Origin<'_> {
    /// A problem at `at`, a place counted from this document's start.
    pub(super) fn problem(&self, at: Location, severity: Severity, wrong: Wrong) -> Problem {
        let index = self.line_index(at);
        let column = u32::try_from(at.column()).unwrap_or(u32::MAX).max(1);
        let excerpt = document::lines(self.text).nth(index).map(|line| Excerpt::new(line, column));
        Problem {
            file: self.file.to_owned(),
            line: self.line(at),
            column,
            object: self.object.clone(),
            message: wrong.message,
            hint: wrong.hint,
            severity,
            excerpt,
        }
    }

    /// The file's line of `at`.
    pub(super) fn line(&self, at: Location) -> u32 {
        u32::try_from(self.line_index(at)).unwrap_or(u32::MAX).saturating_add(self.first_line)
    }

    /// The index of `at`'s line in this document.
    fn line_index(&self, at: Location) -> usize {
        match usize::try_from(at.line()).unwrap_or(usize::MAX) {
            // The parser could not say where.
            0 => document::first_content_line(self.text),
            line => line - 1,
        }
    }
}

/// A name that must mean something once everything is read.
pub(super) struct Reference<'a> {
    pub(super) origin: Origin<'a>,
    pub(super) at: Location,
    pub(super) target: Target,
}

/// What a [`Reference`] names.
pub(super) enum Target {
    /// The service of a policy or a listener, and which of the two.
    Service(ServiceName, &'static str),
    /// A cluster, and what it is named as, such as `spec.export.to`.
    Cluster(String, &'static str),
}

/// What was found so far, over all documents.
#[derive(Default)]
pub(super) struct Findings<'a> {
    pub(super) problems: Vec<Problem>,
    /// Whether one of them, kept or not, stops everything.
    pub(super) failed: bool,
    pub(super) references: Vec<Reference<'a>>,
    /// The worst of what was found beyond [`PROBLEMS_MAX`].
    pub(super) dropped: Option<Severity>,
}

impl Findings<'_> {
    pub(super) fn push(&mut self, problem: Problem) {
        if self.takes(problem.severity) {
            self.problems.push(problem);
        }
    }

    /// Keeps what is wrong at `at`. Of what is not kept nothing is put together: that takes a look through the document.
    pub(super) fn report(&mut self, origin: &Origin<'_>, at: Location, severity: Severity, wrong: Wrong) {
        if self.takes(severity) {
            self.problems.push(origin.problem(at, severity, wrong));
        }
    }

    /// Whether to read no further: it fails, and no more is shown of why.
    pub(super) fn gives_up(&mut self) -> bool {
        let gives_up = self.failed && self.problems.len() >= PROBLEMS_MAX;
        if gives_up {
            self.dropped = Some(Severity::Error);
        }
        gives_up
    }

    fn takes(&mut self, severity: Severity) -> bool {
        self.failed |= severity == Severity::Error;
        let takes = self.problems.len() < PROBLEMS_MAX;
        if !takes {
            self.dropped = Some(self.dropped.map_or(severity, |s| s.min(severity)));
        }
        takes
    }
}

/// One object being read. Every method reports what is wrong and then gives `None`, so that reading goes on.
pub(super) struct Scope<'a, 'f> {
    pub(super) origin: &'f Origin<'a>,
    pub(super) findings: &'f mut Findings<'a>,
}

impl<'a> Scope<'a, '_> {
    pub(super) fn error(&mut self, at: Location, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.report(self.origin, at, Severity::Error, Wrong::new(message, hint));
    }

    pub(super) fn warning(&mut self, at: Location, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.report(self.origin, at, Severity::Warning, Wrong::new(message, hint));
    }

    /// Notes a name to be looked up when everything is read.
    pub(super) fn refers(&mut self, at: Location, target: Target) {
        self.findings.references.push(Reference { origin: self.origin.clone(), at, target });
    }

    /// Refuses a field whose time has not come.
    pub(super) fn later(&mut self, field: &Later, name: &str) {
        if let Some(field) = field {
            self.error(field.referenced, format!("{name} is not available yet"), "leave it out for now");
        }
    }

    /// A field or entry that is there, read by `parse`.
    pub(super) fn read<R: Borrow<B>, B: ?Sized, T>(
        &mut self,
        value: &Spanned<R>,
        name: &str,
        parse: impl Fn(&B) -> Result<T, Wrong>,
    ) -> Option<T> {
        parse(value.value.borrow())
            .map_err(|wrong| {
                let wrong = Wrong { message: format!("{name}: {}", wrong.message), ..wrong };
                self.findings.report(self.origin, value.referenced, Severity::Error, wrong);
            })
            .ok()
    }

    /// A field that must be there; `parent` is where it is missed, `example` what to write.
    pub(super) fn present<'r, R>(
        &mut self,
        field: &'r Field<R>,
        name: &str,
        parent: Location,
        example: &str,
    ) -> Option<&'r Spanned<R>> {
        if field.is_none() {
            self.error(parent, format!("{name} is missing"), format!("add `{example}`"));
        }
        field.as_ref()
    }

    /// A field that must be there, read by `parse`.
    pub(super) fn required<R: Borrow<B>, B: ?Sized, T>(
        &mut self,
        field: &Field<R>,
        name: &str,
        parent: Location,
        example: &str,
        parse: impl Fn(&B) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.present(field, name, parent, example)?;
        self.read(value, name, parse)
    }

    /// A field that may be left out, read by `parse`; `Some(None)` if it was.
    pub(super) fn optional<R: Borrow<B>, B: ?Sized, T>(
        &mut self,
        field: &Field<R>,
        name: &str,
        parse: impl Fn(&B) -> Result<T, Wrong>,
    ) -> Option<Option<T>> {
        match field {
            None => Some(None),
            Some(value) => self.read(value, name, parse).map(Some),
        }
    }

    /// The entries of a list of at most `most`; none if it was left out.
    pub(super) fn list<'r, R>(
        &mut self,
        list: &'r List<R>,
        name: &str,
        most: usize,
    ) -> Option<&'r [Spanned<R>]> {
        match list {
            None => Some(&[]),
            Some(list) if list.value.len() <= most => Some(&list.value),
            Some(list) => {
                let message = format!("{name} has {} entries", list.value.len());
                self.error(list.referenced, message, format!("at most {most} are allowed"));
                None
            }
        }
    }
}
