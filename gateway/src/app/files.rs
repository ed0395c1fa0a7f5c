//! Whether files have changed, by what the file system says of them: names, places on the disk, sizes and times.
//!
//! Links are followed, so that a file put in place by a rename and a folder that is swapped by a symbolic link (as
//! Kubernetes mounts are) both show. Asked again and again rather than told by the kernel: it works on every file
//! system, and has nothing to lose track of.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files of one folder that are looked at; manifests beyond are refused anyway.
const FILES_MAX: usize = 5000;

/// How a set of files looked at one moment. Equal: nothing has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look(BTreeMap<PathBuf, Stamp>);

/// What is there: device, inode, size, and the nanoseconds of the last change of the content and of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

impl Look {
    /// Looks at `manifests`, files and folders of them, and at the certificates, keys and bundles in `identity`. Blocks
    /// on the disk.
    pub(super) fn at(manifests: &[PathBuf], identity: &Path) -> Self {
        Self::at_manifests(manifests).and_identity(identity)
    }

    /// The first half of [`Look::at`], for whoever has to read the manifests to learn where the identity is.
    pub(super) fn at_manifests(manifests: &[PathBuf]) -> Self {
        let mut look = Self::default();
        for path in manifests {
            look.file(path.clone());
            look.folder(path, &["yaml", "yml"]);
        }
        look
    }

    /// The second half.
    pub(super) fn and_identity(mut self, identity: &Path) -> Self {
        self.folder(identity, &["crt", "key"]);
        self.folder(&identity.join("bundles"), &["pem"]);
        self
    }

    fn folder(&mut self, folder: &Path, extensions: &[&str]) {
        // What is no folder, or cannot be read, holds nothing; reading it later says why.
        let Ok(entries) = fs::read_dir(folder) else { return };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let wanted = |path: &PathBuf| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| extensions.contains(&extension))
        };
        for path in paths.filter(wanted).take(FILES_MAX) {
            self.file(path);
        }
    }

    fn file(&mut self, path: PathBuf) {
        if let Ok(found) = fs::metadata(&path)
            && found.is_file()
        {
            self.0.insert(path, Stamp::of(&found));
        }
    }
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        let (modified, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        Self(found.dev(), found.ino(), found.size(), modified, changed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    /// Looks before and after `change` of a folder that holds a manifest and an identity.
    fn changes(change: impl FnOnce(&Path)) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["v1", "v2", "pki/bundles"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["west.yaml", "v1/cart.yaml", "v2/cart.yaml", "pki/tls.crt", "pki/bundles/east.pem"] {
            fs::write(at(file), "same").unwrap();
        }
        symlink("v1", at("data")).unwrap();
        symlink("data/cart.yaml", at("cart.yaml")).unwrap();
        let look = || Look::at(&[at("west.yaml"), dir.path().to_path_buf()], &at("pki"));
        let before = look();
        assert_eq!(before, look());
        change(dir.path());
        before != look()
    }

    #[test]
    fn a_file_put_in_place_by_a_rename_is_seen() {
        assert!(changes(|dir| {
            fs::write(dir.join("new"), "same").unwrap();
            fs::rename(dir.join("new"), dir.join("west.yaml")).unwrap();
        }));
    }

    #[test]
    fn a_folder_swapped_by_its_link_is_seen() {
        assert!(changes(|dir| {
            symlink("v2", dir.join("fresh")).unwrap();
            fs::rename(dir.join("fresh"), dir.join("data")).unwrap();
        }));
    }

    #[test]
    fn files_that_come_and_go_are_seen() {
        assert!(changes(|dir| fs::write(dir.join("more.yml"), "").unwrap()));
        assert!(changes(|dir| fs::remove_file(dir.join("west.yaml")).unwrap()));
        assert!(changes(|dir| fs::remove_file(dir.join("pki/bundles/east.pem")).unwrap()));
        assert!(changes(|dir| fs::write(dir.join("pki/tls.key"), "").unwrap()));
    }

    #[test]
    fn what_is_no_manifest_and_no_certificate_is_not_looked_at() {
        assert!(!changes(|dir| fs::write(dir.join("notes.txt"), "").unwrap()));
        assert!(!changes(|dir| fs::write(dir.join("pki/tls.crt.new"), "").unwrap()));
    }
}
