//! Logs, set up the same way in every program: to standard error, filtered by
//! `TRAWL_LOG` (`warn` unless it says otherwise), as lines or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The environment variable with the log filter, such as `info` or
/// `trawl_master=debug,warn`.
pub const LOG_VARIABLE: &str = "TRAWL_LOG";

/// What is logged unless the environment says otherwise: our own warnings. The
/// network and HTML libraries would quote what hosts sent.
const DEFAULT_FILTER: &str = "warn,hyper=off,hyper_util=off,h2=off,hickory_net=off,\
                              hickory_resolver=off,rustls=off,html5ever=off";

/// Starts logging. `json` chooses one JSON object a line instead of text.
///
/// # Errors
/// If the filter is not one, or logging has been started before.
pub fn start(json: bool) -> Result<(), String> {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.into());
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| format!("{LOG_VARIABLE} = {filter:?} is not a log filter: {error}"))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that cannot be written, as on a full disk, must not end the program: the
        // complaint about it would be printed, and printing panics.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    if json { logs.json().try_init() } else { logs.try_init() }.map_err(|error| error.to_string())
}
