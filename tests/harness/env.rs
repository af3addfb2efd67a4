//! Where the program under test and the tools are.

use std::{env, path::PathBuf};

/// The program under test.
pub(crate) fn trawl() -> PathBuf {
    from_environment("TRAWL_BIN")
}

/// A build of it that is linked dynamically.
pub(crate) fn dynamic_trawl() -> PathBuf {
    from_environment("TRAWL_DYNAMIC_BIN")
}

/// The folder that `tests/setup` made.
pub fn folder() -> PathBuf {
    from_environment("TRAWL_TEST_ENV")
}

/// The folder of the tests themselves.
pub(crate) fn tests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn from_environment(name: &str) -> PathBuf {
    let path = env::var_os(name).map(PathBuf::from);
    let path = path.unwrap_or_else(|| {
        panic!("{name} is not set: run tests/run, which builds and installs what the tests need")
    });
    assert!(path.exists(), "{name} names {}, which is not there: run tests/run", path.display());
    path
}
