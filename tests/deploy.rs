//! The files of `deploy/`, held against the schemas and the programs of those who read them, and
//! against the program that they start.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use harness::{Trawl, tools};

/// All files below `deploy/` or a folder of it.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn with_ending(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = files(folder);
    found.retain(|path| path.extension().is_some_and(|it| it == ending));
    assert!(!found.is_empty(), "no .{ending} in deploy/{folder}");
    found
}

/// What comes before the first character that `is_in` refuses.
fn leading(text: &str, is_in: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|character| !is_in(character)).unwrap_or(text.len())]
}

#[test]
fn compose_files_are_valid_by_the_compose_specification() {
    for file in with_ending("", "yml") {
        let args = ["--builtin-schema", "vendor.compose-spec"].map(Into::into);
        tools::tool("check-jsonschema", args.into_iter().chain([file.into_os_string()])).ok();
    }
}

#[test]
fn manifests_are_valid_by_the_schemas_of_kubernetes_and_fit_together() {
    let manifests = with_ending("kubernetes", "yaml");
    tools::python("readers/kubernetes_manifests.py", manifests).ok();
}

#[test]
fn units_are_valid_and_let_services_do_no_more_than_they_need() {
    let trawl = Trawl::new();
    for file in with_ending("", "service") {
        let unit = fs::read_to_string(&file).unwrap();
        // systemd looks for the program too, which is not installed here.
        assert!(unit.contains("ExecStart=/usr/local/bin/trawl "), "{}", file.display());
        let unit = unit.replace("=/usr/local/bin/trawl ", "=/usr/bin/true ");
        let name = file.file_name().unwrap().to_string_lossy().replace("@.", "@1.");
        let unit = trawl.write(&name, &unit);
        let said = tools::system("systemd-analyze", ["verify", "--man=no"], &unit).ok();
        assert!(!said.contains(&name), "{said}");
        // Of 100, where 100 is a service that may do everything.
        tools::system("systemd-analyze", ["security", "--offline=yes", "--threshold=20"], &unit)
            .ok();
    }
}

#[tokio::test]
async fn every_setting_is_one_that_the_program_has() {
    let trawl = Trawl::new();
    let mut known = String::new();
    for verb in ["master", "worker", "health", "crawl"] {
        let help = trawl.command(verb, ["--help"]).unset("--data").done().await.expect(0);
        known += &help.stdout;
    }
    let mut seen = BTreeSet::new();
    for file in files("") {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("TRAWL_") {
            let name = leading(&text[at..], |it| it.is_ascii_uppercase() || it == '_');
            // Those in braces are of the compose file itself, which says what they are.
            let is_ours = text.contains(&format!("${{{name}"));
            assert!(is_ours || known.contains(name), "{}: {name} means nothing", file.display());
            seen.insert(name.to_owned());
        }
    }
    assert!(seen.contains("TRAWL_TOKEN_FILE"), "{seen:?}");
}

#[test]
fn images_bear_the_version_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    let mut count = 0;
    for file in files("") {
        let text = fs::read_to_string(&file).unwrap();
        for before in ["trawl:", "TRAWL_VERSION:-", "image.version=\""] {
            for (at, _) in text.match_indices(before) {
                let found =
                    leading(&text[at + before.len()..], |it| it.is_ascii_digit() || it == '.');
                if !found.is_empty() {
                    assert_eq!(found, version, "in {} after {before}", file.display());
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 4, "only {count} versions were found");
}
