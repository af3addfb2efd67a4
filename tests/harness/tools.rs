//! The tools of others, which hold trawl's results against what they make of them.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Output},
};

use crate::env;

/// What a tool printed, and whether it was content.
#[derive(Debug)]
pub struct Printed {
    /// Whether it ended with exit code 0.
    pub is_ok: bool,
    /// Standard output, then standard error.
    pub text: String,
}

/// Runs a Python script of the tests' folder.
pub fn python<A: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = A>) -> Printed {
    let mut command = Command::new(env::folder().join("venv/bin/python"));
    command.arg(env::tests().join(script)).args(args);
    printed(&mut command)
}

/// Runs a program that a Python package of the tests' requirements brings, such as `warcio`.
pub fn tool<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Printed {
    printed(Command::new(env::folder().join("venv/bin").join(name)).args(args))
}

/// Runs a program of the system on a file.
pub fn system<'a>(name: &str, args: impl IntoIterator<Item = &'a str>, file: &Path) -> Printed {
    printed(Command::new(name).args(args).arg(file))
}

/// Runs a shell script with a mount namespace of its own, in which it may mount what it likes: all
/// of it is gone when the script ends. `$TRAWL` is the program under test.
///
/// # Panics
/// If this system lets nobody have such a namespace.
pub async fn in_mount_namespace(script: &str) -> Printed {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-euc"]);
    command.arg(format!("mount -t tmpfs tmpfs /mnt || exit 97\numount /mnt\n{script}"));
    command.env("TRAWL", env::trawl());
    // The sites of the test must go on answering meanwhile.
    let printed = tokio::task::spawn_blocking(move || printed(&mut command)).await.unwrap();
    assert!(
        !printed.text.starts_with("unshare: ") && !printed.text.starts_with("mount: "),
        "this test must mount a file system of its own, which this machine does not allow (it \
         needs root, or user namespaces): {}",
        printed.text
    );
    printed
}

fn printed(command: &mut Command) -> Printed {
    let output = command.output();
    let Output { status, stdout, stderr } =
        output.unwrap_or_else(|error| panic!("{command:?} could not be run: {error}"));
    let text = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Printed { is_ok: status.success(), text }
}

impl Printed {
    /// The text, of a tool that was content.
    ///
    /// # Panics
    /// With the text, if it was not.
    pub fn ok(self) -> String {
        assert!(self.is_ok, "{}", self.text);
        self.text
    }
}
