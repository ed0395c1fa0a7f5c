//! Manifests from the file system.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use ::files::FileError;

use super::suggest::suggest;
use super::{FILE_BYTES_MAX, Manifests, Problem, Problems, Source, TOTAL_BYTES_MAX, parse, read};

/// Most files of one directory.
const FILES_MAX: usize = 4096;

/// Reads manifests from files; of a directory, all its `*.yaml` and `*.yml` in the order of their names. A file that
/// is named twice is read once.
///
/// # Errors
/// Everything that is wrong with the manifests, or every file that cannot be read.
pub fn load(paths: &[PathBuf]) -> Result<Manifests, Problems> {
    parse(&sources(paths)?)
}

/// The text of the files that [`load`] reads.
///
/// # Errors
/// Every file that cannot be read.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Problems> {
    let mut problems = Vec::new();
    let mut sources = Vec::new();
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for path in paths {
        let files = match list(path) {
            Ok(files) => files,
            Err(problem) => {
                problems.push(*problem);
                continue;
            }
        };
        for file in files {
            // The one that makes them too many is named by whoever reads them.
            if total <= TOTAL_BYTES_MAX && !file.canonicalize().is_ok_and(|real| !seen.insert(real)) {
                match text(&file) {
                    Ok(text) => {
                        total += text.len();
                        sources.push(Source { name: file, text });
                    }
                    Err(problem) => problems.push(*problem),
                }
            }
        }
    }
    if paths.is_empty() {
        let hint = Some("name one with -f FILE".into());
        problems.push(Problem::of_file("manifests".into(), "no file was given".into(), hint));
    }
    let files: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    Problems::check(problems, &files)?;
    Ok(sources)
}

/// The file itself, or the manifests in the directory.
fn list(path: &Path) -> Result<Vec<PathBuf>, Box<Problem>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| unreadable(path, &e))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml") && !p.is_dir())
        .take(FILES_MAX + 1)
        .collect();
    files.sort();
    let wrong = match files.len() {
        0 => "this directory holds no *.yaml file".to_owned(),
        n if n > FILES_MAX => format!("this directory holds more than {FILES_MAX} manifest files"),
        _ => return Ok(files),
    };
    Err(Box::new(Problem::of_file(path.display().to_string(), wrong, None)))
}

/// The whole text of a file within the limit.
fn text(path: &Path) -> Result<String, Box<Problem>> {
    let bytes = ::files::read(path, FILE_BYTES_MAX as u64).map_err(|error| match error {
        FileError::TooLong { .. } => Box::new(read::too_large(path.display().to_string())),
        FileError::Io { source, .. } => unreadable(path, &source),
        FileError::NotRegular { kind, .. } => {
            let hint = "only regular files are read; what comes through a pipe, `ringway apply -f -` takes";
            let message = format!("this is a {kind}");
            Box::new(Problem::of_file(path.display().to_string(), message, Some(hint.into())))
        }
        other => Box::new(Problem::of_file(path.display().to_string(), other.to_string(), None)),
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let good = String::from_utf8_lossy(&e.as_bytes()[..valid]).into_owned();
        let line = good.split('\n').count();
        let column = good.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        let hint = Some("save the file as UTF-8".into());
        let mut problem = Problem::of_file(path.display().to_string(), "this is not UTF-8".into(), hint);
        problem.line = u32::try_from(line).unwrap_or(u32::MAX);
        problem.column = u32::try_from(column).unwrap_or(u32::MAX);
        Box::new(problem)
    })
}

/// A file or directory that cannot be read, with the neighbour that was likely meant.
fn unreadable(path: &Path, error: &io::Error) -> Box<Problem> {
    let file = path.display().to_string();
    let problem = match error.kind() {
        io::ErrorKind::NotFound => {
            let hint = neighbour(path).map(|n| format!("did you mean `{}`?", n.display()));
            let here = "paths on the command line count from the current directory".into();
            Problem::of_file(file, "no such file".into(), hint.or(Some(here)))
        }
        io::ErrorKind::PermissionDenied => {
            let hint = Some("let the user that runs ringway read it".into());
            Problem::of_file(file, "no permission to read this file".into(), hint)
        }
        _ => Problem::of_file(file, format!("cannot be read: {error}"), None),
    };
    Box::new(problem)
}

/// A file beside `path` with almost its name.
fn neighbour(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).ok()?.take(FILES_MAX);
    let names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    let near = suggest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near))
}
