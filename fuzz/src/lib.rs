//! What trawl takes from strangers, held against random bytes.
//!
//! A target is a function that takes any bytes and panics if a promise is broken: not only that
//! nothing panics, but what holds of the result. libFuzzer looks for such bytes (`fuzz/run`);
//! `cargo test` runs each target over its folder in `corpus/`, where bytes stay that once broke one.

mod canonicalisation;

mod coding;

mod decoding;

mod links;

mod master;

mod report;

mod robots;

mod sitemap;

mod store;

/// A target, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("canonicalisation", canonicalisation::run),
    ("coding", coding::run),
    ("decoding", decoding::run),
    ("links", links::run),
    ("master", master::run),
    ("report", report::run),
    ("robots", robots::run),
    ("sitemap", sitemap::run),
    ("store", store::run),
];

/// What stands before the first byte `by`, and what after it; all and nothing if there is none.
fn split(data: &[u8], by: u8) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == by) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_target_holds_on_its_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, run) in TARGETS {
            let files = fs::read_dir(corpus.join(name)).unwrap();
            let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name} has no corpus");
            for file in files {
                println!("{}", file.display());
                run(&fs::read(file).unwrap());
            }
            run(b"");
        }
    }
}
