//! A walk through the store on its way to a client.

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use trawl_proto::v1::{StoredRow, WalkEnd, WalkHead, WalkPart, WalkRows, walk_part::Part};
use trawl_shared::VERSION;

use crate::{crawl::Walking, data_dir::FORMAT, frontier::Piece};

/// Rows of one message. The largest are 16 KiB, so that it stays below its limit.
const MESSAGE_ROWS: usize = 200;

/// The answer to a walk: its head, rows, its end.
pub(super) type WalkStream = BoxStream<'static, Result<WalkPart, Status>>;

/// The parts of a walk as they come.
pub(super) fn stream(walking: Walking) -> WalkStream {
    let Walking { instance, pieces } = walking;
    let head = WalkHead { format: FORMAT, version: VERSION.to_owned(), instance };
    // What is sent, and whether the end has come.
    let state = (0u64, false);
    let pieces = ReceiverStream::new(pieces).map(Some).chain(stream::iter([None]));
    let parts = pieces.scan(state, |(sent, has_ended), piece| {
        let parts = match piece {
            Some(piece) => {
                *sent += piece.rows.len() as u64;
                *has_ended = piece.is_last;
                parts(piece, *sent)
            }
            None if *has_ended => Vec::new(),
            None => vec![Err(Status::aborted(
                "the walk broke off: the master is stopping, or too little of it was taken",
            ))],
        };
        std::future::ready(Some(stream::iter(parts)))
    });
    let head = stream::iter([Ok(part(Part::Head(head)))]);
    head.chain(parts.flatten()).boxed()
}

fn parts(piece: Piece, sent: u64) -> Vec<Result<WalkPart, Status>> {
    let mut parts: Vec<_> =
        piece.rows.chunks(MESSAGE_ROWS).map(|rows| Ok(part(Part::Rows(message(rows))))).collect();
    if piece.is_last {
        parts.push(Ok(part(Part::End(WalkEnd { rows: sent }))));
    }
    parts
}

fn message(rows: &[(Vec<u8>, Option<Vec<u8>>)]) -> WalkRows {
    let row = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| StoredRow {
        key: key.clone(),
        value: value.clone(),
    };
    WalkRows { rows: rows.iter().map(row).collect() }
}

fn part(part: Part) -> WalkPart {
    WalkPart { part: Some(part) }
}
