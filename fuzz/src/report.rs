//! What a master takes from a worker: the parts of a report, each with its length before it, as one
//! stream of messages.

use prost::{Message, bytes::Buf};
use trawl_master::api::deliveries;
use trawl_proto::v1::ReportPart;
use trawl_shared::{page::OUTLINKS_MAX, robots::SITEMAPS_MAX, url::URL_BYTES_MAX};

pub(super) fn run(data: &[u8]) {
    let mut rest = data;
    let mut parts = Vec::new();
    while rest.has_remaining() {
        let Ok(message) = ReportPart::decode_length_delimited(&mut rest) else { break };
        parts.extend(message.part);
    }
    let Ok(deliveries) = deliveries(parts) else { return };
    for delivery in deliveries {
        let offers = &delivery.report.offers;
        assert!(offers.len() <= OUTLINKS_MAX + SITEMAPS_MAX + 1);
        assert!(offers.iter().all(|offer| offer.url.len() <= URL_BYTES_MAX));
        if let Some(records) = delivery.records {
            let lengths = records.lengths;
            let announced: u64 =
                [lengths.response, lengths.request, lengths.metadata].map(u64::from).iter().sum();
            let arrived: usize = records.pieces.iter().map(|piece| piece.len()).sum();
            assert_eq!(announced, arrived as u64, "records are whole");
        }
    }
}
