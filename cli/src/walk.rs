//! Every row of a data directory: read in it, or sent by whoever uses it.

use tokio::task::yield_now;
use trawl_master::{archive::Archive, data_dir::FORMAT, dump, store::Batch};
use trawl_proto::v1::{WalkHead, WalkPart, WalkRequest, walk_part::Part};
use trawl_shared::{VERSION, url::CANON_VERSION};

use crate::{
    exit::{Exit, Failure},
    operate::Operator,
    source::{Source, Unreceived},
};

/// What takes the rows of a walk.
pub(crate) trait Taker {
    /// Hears whose rows will come.
    fn begin(&mut self, head: dump::Head) -> Result<(), Failure>;

    /// Takes the next rows, which are to be applied in their order.
    fn take(&mut self, rows: &Batch) -> Result<(), Failure>;
}

/// Hands every row of the source to the taker. When it returns, all have come.
pub(crate) async fn walk(source: &Source, taker: &mut impl Taker) -> Result<(), Failure> {
    match source {
        Source::Archive(archive) => in_archive(archive, taker).await,
        Source::Master(master) => at_master(master, taker).await,
    }
}

async fn in_archive(archive: &Archive, taker: &mut impl Taker) -> Result<(), Failure> {
    taker.begin(head(FORMAT, VERSION.to_owned(), archive.instance()?))?;
    let mut rows = archive.rows(None)?;
    while let Some((last, _)) = rows.last() {
        let next = archive.rows(Some(last))?;
        taker.take(&rows)?;
        rows = next;
        // So that a signal is heard.
        yield_now().await;
    }
    Ok(())
}

async fn at_master(master: &Operator, taker: &mut impl Taker) -> Result<(), Failure> {
    let mut parts = master.ask(async |mut control| control.walk(WalkRequest {}).await).await?;
    let mut next = async || match parts.message().await {
        Ok(Some(WalkPart { part: Some(part) })) => Ok(part),
        Ok(Some(WalkPart { part: None })) => Err(Unreceived::NotWhole("a part of it is empty")),
        Ok(None) => Err(Unreceived::NotWhole("it has no end")),
        Err(status) => Err(status.into()),
    };
    let failed = |error: Unreceived| error.failure(master);
    let Part::Head(WalkHead { format, version, instance }) = next().await.map_err(failed)? else {
        return Err(failed(Unreceived::NotWhole("it has no beginning")));
    };
    if format > FORMAT {
        return Err(Failure::new(
            Exit::DataDir,
            format!(
                "{} is used by trawl {version} and has format {format}, this trawl knows formats \
                 up to {FORMAT}; use that version",
                master.url
            ),
        ));
    }
    taker.begin(head(format, version, instance))?;
    let mut count = 0;
    loop {
        match next().await.map_err(failed)? {
            Part::Rows(rows) => {
                let rows: Batch = rows.rows.into_iter().map(|row| (row.key, row.value)).collect();
                count += rows.len() as u64;
                taker.take(&rows)?;
            }
            Part::End(end) if end.rows == count => return Ok(()),
            Part::End(_) => return Err(failed(Unreceived::NotWhole("rows of it are missing"))),
            Part::Head(_) => return Err(failed(Unreceived::NotWhole("it begins twice"))),
        }
    }
}

fn head(format: u32, trawl: String, instance: String) -> dump::Head {
    dump::Head { dump: dump::DUMP_FORMAT, format, trawl, canon: CANON_VERSION, instance }
}
