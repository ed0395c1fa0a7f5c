//! Manifests from the file system.

use std::fs;
use std::path::{Path, PathBuf};

use registry::manifest::{self, FILE_BYTES_MAX, TOTAL_BYTES_MAX};

use super::right::EXAMPLE;

fn refusal(paths: &[PathBuf], root: &Path) -> String {
    let problems = manifest::load(paths).unwrap_err().to_string();
    problems.replace(&format!("{}/", root.display()), "")
}

#[test]
fn a_directory_means_its_manifests_in_the_order_of_their_names() {
    let root = tempfile::tempdir().unwrap();
    for (n, document) in EXAMPLE.split("---\n").enumerate() {
        let extension = if n == 1 { "yml" } else { "yaml" };
        fs::write(root.path().join(format!("{}.{extension}", 9 - n)), document).unwrap();
    }
    fs::write(root.path().join("notes.txt"), "no manifest").unwrap();
    let first = root.path().join("9.yaml");
    let manifests = manifest::load(&[first, root.path().into()]).unwrap();
    let kinds: Vec<_> = manifests.documents.iter().map(|d| d.kind).collect();
    assert_eq!(kinds, ["Gateway", "TrafficPolicy", "MeshService", "Link"], "a file named twice is read once");
    assert_eq!(manifests.require_gateway().unwrap().identity_dir, root.path().join("pki/west"));
}

#[test]
fn a_file_that_is_not_there_is_named_with_its_likely_neighbour() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("east.yaml"), EXAMPLE).unwrap();
    let paths = [root.path().join("esat.yaml"), root.path().join("other.yaml")];
    let said = refusal(&paths, root.path());
    let expected = "esat.yaml: error: no such file\n      = hint: did you mean `east.yaml`?\n\
                    other.yaml: error: no such file\n      = hint: paths on the command line count from the current directory";
    assert_eq!(said, expected);
    assert!(refusal(&[], root.path()).contains("no file was given"));
}

#[test]
fn what_is_no_text_or_too_much_of_it_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let said = refusal(&[write("latin.yaml", b"a: 1\nb: caf\xe9\n")], root.path());
    assert!(said.starts_with("latin.yaml:2:7: error: this is not UTF-8"), "{said}");
    let filler = format!("{EXAMPLE}{}", "# é\n".repeat(FILE_BYTES_MAX / 5));
    let mut exact = filler.clone().into_bytes();
    exact.resize(FILE_BYTES_MAX, b'\n');
    assert!(manifest::load(&[write("full.yaml", &exact)]).is_ok());
    exact.push(b'\n');
    let said = refusal(&[write("over.yaml", &exact)], root.path());
    assert!(said.starts_with("over.yaml: error: this file is larger than 4 MiB"), "{said}");
    // As many as are read before they are too many, and one that would be.
    let many = root.path().join("many");
    fs::create_dir(&many).unwrap();
    exact.pop();
    for n in 0..=TOTAL_BYTES_MAX / FILE_BYTES_MAX + 1 {
        fs::write(many.join(format!("{n:03}.yaml")), &exact).unwrap();
    }
    let sources = manifest::sources(std::slice::from_ref(&many)).unwrap();
    assert_eq!(sources.len(), TOTAL_BYTES_MAX / FILE_BYTES_MAX + 1);
    assert!(
        refusal(&[many], root.path())
            .contains("many/016.yaml: error: with this file the manifests exceed 64 MiB")
    );
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(refusal(&[empty], root.path()), "empty: error: this directory holds no *.yaml file");
}

#[test]
fn a_pipe_or_a_device_is_refused_at_once() {
    let root = tempfile::tempdir().unwrap();
    let pipe = root.path().join("pipe.yaml");
    // Nobody will ever write to it.
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert!(refusal(&[pipe], root.path()).starts_with("pipe.yaml: error: this is a FIFO"));
    assert!(refusal(&[root.path().into()], root.path()).starts_with("pipe.yaml: error: this is a FIFO"));
    assert!(refusal(&["/dev/zero".into()], root.path()).starts_with("/dev/zero: error: this is a device"));
}
