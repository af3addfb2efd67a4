//! `trawl repair`: a data directory mended.

use std::path::PathBuf;

use clap::Args;
use trawl_master::repair::{self, RepairError, Repaired};
use trawl_shared::units::Size;

use crate::{
    exit::{Exit, Failure},
    render::{self, counted},
    tables::json_text,
};

#[derive(Args, Debug)]
pub(crate) struct RepairArgs {
    /// The data directory, which nothing uses
    #[arg(long, value_name = "DIR", default_value = "trawl-data")]
    data: PathBuf,

    /// Say what there is to do, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Mends a data directory, and tells what was done.
pub(crate) fn repair(args: &RepairArgs) -> Result<Exit, Failure> {
    let done = repair::repair(&args.data, args.dry_run)?;
    if args.json {
        let value =
            serde_json::to_value(&done).map_err(|error| Failure::new(Exit::Failed, error))?;
        render::print(&json_text(&value))?;
    } else {
        print(&done, args)?;
    }
    Ok(if done.left.is_empty() { Exit::Done } else { Exit::Wrong })
}

fn print(done: &Repaired, args: &RepairArgs) -> Result<(), Failure> {
    let Repaired {
        pages_found,
        pages_queued,
        pages_forgotten,
        links_taken_in,
        aside_bytes,
        segments_made,
        rows_mended,
        counts_mended,
        left,
    } = done;
    if args.dry_run {
        render::print("this is what there is to do; nothing was done")?;
    }
    let aside = args.data.join("aside");
    for (count, text) in [
        (pages_found, format!("{} found in the segments", counted(*pages_found, "page"))),
        (
            pages_queued,
            format!("{} gone or damaged, to be fetched again", counted(*pages_queued, "page")),
        ),
        (
            pages_forgotten,
            format!(
                "{} not known any more: fetched when they are met again",
                counted(*pages_forgotten, "URL")
            ),
        ),
        (links_taken_in, format!("{} taken in of pages' links", counted(*links_taken_in, "URL"))),
        (aside_bytes, format!("{} put into {}", Size::bytes(*aside_bytes), aside.display())),
        (
            segments_made,
            format!("{} missing, made without a page", counted(*segments_made, "segment")),
        ),
        (rows_mended, format!("{} written or removed", counted(*rows_mended, "row"))),
        (counts_mended, format!("{} set right", counted(*counts_mended, "count"))),
    ] {
        if *count > 0 {
            render::print(&text)?;
        }
    }
    for left in left {
        render::print(&format!("not mended: {}", left.replace(char::is_control, " ")))?;
    }
    if done.is_nothing() && left.is_empty() {
        render::print("there is nothing to mend")?;
    }
    Ok(())
}

impl From<RepairError> for Failure {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Start(error) => error.into(),
            RepairError::Store(error) => error.into(),
            RepairError::Sort(ref sort) if sort.is_disk_full() => {
                Self::caused(Exit::DiskFull, &error)
            }
            RepairError::Pages(ref pages) if pages.is_disk_full() => {
                Self::caused(Exit::DiskFull, &error)
            }
            RepairError::Aside { ref source, .. }
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                Self::caused(Exit::DiskFull, &error)
            }
            error => Self::caused(Exit::DataDir, &error),
        }
    }
}
