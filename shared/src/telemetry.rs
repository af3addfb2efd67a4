//! Logs, set up the same way in every program: to standard error, filtered by
//! `TRAWL_LOG` (`warn` unless it says otherwise), as lines or as JSON.
//!
//! Whatever an event holds, a line of the log is one line and does nothing to a terminal: what
//! hosts and workers send gets into errors, and at `trace` libraries quote it. So do panics,
//! which are written the same way.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic,
};

use log::Log;
use serde_json::json;
use tracing_log::LogTracer;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::untrusted::{one_line, printable_json};

/// The environment variable with the log filter, such as `info` or
/// `trawl_master=debug,warn`.
pub const LOG_VARIABLE: &str = "TRAWL_LOG";

/// What is logged unless the environment says otherwise: our own warnings. The
/// network and HTML libraries would quote what hosts sent.
const DEFAULT_FILTER: &str = "warn,hyper=off,hyper_util=off,h2=off,hickory_net=off,\
                              hickory_resolver=off,rustls=off,html5ever=off";

/// Starts logging, of panics too. `json` chooses one JSON object a line instead of text.
///
/// # Errors
/// If the filter is not one, or logging has been started before.
pub fn start(json: bool) -> Result<(), String> {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.into());
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| format!("{LOG_VARIABLE} = {filter:?} is not a log filter: {error}"))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours would be escapes too, which could not be told from those of a page.
        .with_ansi(false)
        // A log that cannot be written, as on a full disk, must not end the program: the
        // complaint about it would be printed, and printing panics.
        .log_internal_errors(false)
        .with_writer(move || Lines { json });
    if json {
        tracing::subscriber::set_global_default(logs.json().finish())
    } else {
        tracing::subscriber::set_global_default(logs.finish())
    }
    .map_err(|error| error.to_string())?;
    log::set_boxed_logger(Box::new(Bridge(LogTracer::new()))).map_err(|error| error.to_string())?;
    log::set_max_level(tracing_log::AsLog::as_log(&LevelFilter::current()));
    panic::set_hook(Box::new(move |panic| {
        let mut text = panic.to_string();
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            text += &format!("\n{trace}");
        }
        // Not as an event: the panic may be one of the logs' own.
        let _ = Lines { json }.write_all(panic_event(&text, json).as_bytes());
    }));
    Ok(())
}

/// A panic as it is written: whatever the filter is, since it is a defect.
fn panic_event(text: &str, json: bool) -> String {
    match json {
        true => json!({"level": "ERROR", "fields": {"message": text}}).to_string(),
        false => format!("ERROR {text}"),
    }
}

/// What libraries log by the `log` crate, as events. Of sled no more than its warnings: it
/// logs even while a thread ends, when an event cannot be made any more and the attempt
/// would end the program.
struct Bridge(LogTracer);

impl Log for Bridge {
    fn enabled(&self, about: &log::Metadata<'_>) -> bool {
        let is_sleds = about.target().starts_with("sled");
        !(is_sleds && about.level() > log::Level::Warn) && self.0.enabled(about)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {}
}

/// Standard error, for events: each is written at once, with its line's end.
struct Lines {
    json: bool,
}

impl Write for Lines {
    #[expect(clippy::disallowed_methods, reason = "what is written here is safe to print")]
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(line(event, self.json).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line(event: &[u8], json: bool) -> String {
    let text = String::from_utf8_lossy(event.strip_suffix(b"\n").unwrap_or(event));
    let mut line = if json { printable_json(&text) } else { one_line(&text).into_owned() };
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sled_logs_nothing_that_could_come_as_a_thread_ends() {
        let _ = start(false);
        log::set_max_level(log::LevelFilter::Trace);
        let is_heard = |target, level| {
            let about = log::Metadata::builder().target(target).level(level).build();
            log::logger().enabled(&about)
        };
        assert!(is_heard("sled::pagecache", log::Level::Warn));
        assert!(!is_heard("sled::pagecache", log::Level::Debug));
        assert!(!is_heard("sled", log::Level::Trace));
    }

    #[test]
    fn a_panic_is_one_line_as_well() {
        let text = "panicked at a.rs:1:1:\n`\x1b]52;c;x\u{202e}`";
        let plain = line(panic_event(text, false).as_bytes(), false);
        assert_eq!(plain, "ERROR panicked at a.rs:1:1:\\u{a}`\\u{1b}]52;c;x\\u{202e}`\n");
        let json = line(panic_event(text, true).as_bytes(), true);
        assert!(json.contains(r"\n`\u001b]52;c;x\u202e`"), "{json}");
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(event["fields"]["message"], text);
    }

    #[test]
    fn an_event_is_one_line_that_does_nothing_to_a_terminal() {
        let event = "WARN a\x1b[2J\n INFO b\u{202e}\n".as_bytes();
        assert_eq!(line(event, false), "WARN a\\u{1b}[2J\\u{a} INFO b\\u{202e}\n");
        let event = "{\"a\":\"\u{9b}31m\"}\n".as_bytes();
        assert_eq!(line(event, true), "{\"a\":\"\\u009b31m\"}\n");
    }
}
