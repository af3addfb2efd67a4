//! `trawl workers` and `trawl drain`.

use clap::Args;
use serde_json::{Value, json};
use trawl_proto::v1::{DrainRequest, WorkerStatus, WorkersRequest};
use trawl_shared::{units::Size, untrusted::Untrusted};

use super::{Operator, about};
use crate::{
    connect::MasterArgs,
    exit::{Exit, Failure},
    render::{self, counted},
    tables::{Table, json_text},
};

#[derive(Args, Debug)]
pub(crate) struct WorkersArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    master: MasterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// The worker
    #[arg(value_name = "WORKER")]
    worker: String,

    /// Let it work again
    #[arg(long)]
    undo: bool,

    #[command(flatten)]
    master: MasterArgs,
}

/// Lists the workers.
pub(super) async fn workers(args: &WorkersArgs) -> Result<Exit, Failure> {
    let operator = Operator::new(&args.master)?;
    let reply = operator.ask(async |mut it| it.workers(WorkersRequest {}).await).await?;
    let text = if args.json {
        let workers: Vec<_> = reply.workers.iter().map(as_json).collect();
        json_text(&json!({"workers": workers}))
    } else {
        as_text(&reply.workers)
    };
    render::print(&text)?;
    Ok(Exit::Done)
}

/// Lets a worker end what it has, or work again.
pub(super) async fn drain(args: &DrainArgs) -> Result<Exit, Failure> {
    let operator = Operator::new(&args.master)?;
    let request = DrainRequest { worker: args.worker.clone(), undo: args.undo };
    let reply = operator.ask(async |mut it| it.drain(request).await).await?;
    let worker = Untrusted::new(&args.worker);
    let leases = counted(reply.leases.into(), "lease");
    render::print(&match (args.undo, reply.leases) {
        (true, _) => format!("worker {worker} works again"),
        (false, 0) => format!("worker {worker} is drained"),
        (false, _) => format!("worker {worker} drains; it has {leases} to end"),
    })?;
    Ok(Exit::Done)
}

fn as_text(workers: &[WorkerStatus]) -> String {
    let mut table = Table::new(&[
        "WORKER", "STATE", "LANES", "BUSY", "LEASES", "URLS", "PAGES", "FAILURES", "RECEIVED",
        "OUTBOX", "JOINED", "HEARD", "VERSION", "ADDRESS",
    ]);
    for worker in workers {
        table.row([
            // Workers choose their names and versions themselves.
            Untrusted::new(&worker.name).to_string(),
            worker.state.clone(),
            worker.lanes.to_string(),
            worker.lanes_busy.to_string(),
            worker.leases.to_string(),
            worker.urls.to_string(),
            worker.pages.to_string(),
            worker.failures.to_string(),
            Size::bytes(worker.wire_bytes).to_string(),
            Size::bytes(worker.outbox_bytes).to_string(),
            about(worker.joined_ms),
            about(worker.heard_ms),
            Untrusted::new(&worker.version).to_string(),
            worker.address.clone(),
        ]);
    }
    table.to_string()
}

fn as_json(worker: &WorkerStatus) -> Value {
    json!({
        "name": worker.name,
        "version": worker.version,
        "address": worker.address,
        "state": worker.state,
        "lanes": worker.lanes,
        "lanes_busy": worker.lanes_busy,
        "leases": worker.leases,
        "urls": worker.urls,
        "joined_ms": worker.joined_ms,
        "heard_ms": worker.heard_ms,
        "pages": worker.pages,
        "failures": worker.failures,
        "wire_bytes": worker.wire_bytes,
        "outbox_bytes": worker.outbox_bytes,
    })
}
