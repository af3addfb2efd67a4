//! The wire contract: messages and services, generated from `crawl/v1`.
//!
//! Everything here is data as it arrived. It is checked once, where it enters
//! the master (`master::api`) or the worker (`worker::master`), and turned into
//! the types of `trawl_shared`.

/// Version 1 of the contract.
pub mod v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated code; its documentation stands in the .proto files"
    )]
    tonic::include_proto!("trawl.crawl.v1");
}

/// The contract's descriptors, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/crawl.v1.bin"));

/// The major version of the contract. Sides that differ in it do not talk.
pub const PROTOCOL: u32 = 1;

/// Bytes of page records that travel in one message; the rest follows in chunks.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// Offers that travel in one message; the rest follows. At two kilobytes a URL they
/// fit into [`MESSAGE_BYTES_MAX`] with room to spare.
pub const CHUNK_OFFERS: usize = 1_000;

/// Bytes of one message, either way. Larger ones are refused by the receiver.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
