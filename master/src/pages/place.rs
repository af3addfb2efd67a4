//! Where a page's records are, and how much of a crawl's segments counts.

use trawl_shared::warc::Lengths;

/// Where a page's three gzip members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's number; 1 is the first.
    pub segment: u32,
    /// The byte at which the response's member starts.
    pub offset: u64,
    /// Bytes of the response's member. The request's follows it.
    pub response_len: u32,
    /// Bytes of the request's member. The metadata's follows it.
    pub request_len: u32,
    /// Bytes of the metadata's member.
    pub metadata_len: u32,
}

/// How far a crawl's segments count: all before `segment`, and `bytes` of it.
/// The frontier's store keeps this in the same write as the pages' outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The last segment's number; 0 while there is none.
    pub segment: u32,
    /// Bytes of the last segment that count.
    pub bytes: u64,
}

impl Place {
    /// Bytes of a place in the store.
    pub const BYTES: usize = 24;

    /// The place of members of these lengths.
    pub fn new(segment: u32, offset: u64, lengths: Lengths) -> Self {
        let Lengths { response, request, metadata } = lengths;
        Self {
            segment,
            offset,
            response_len: response,
            request_len: request,
            metadata_len: metadata,
        }
    }

    /// The lengths of the members.
    pub fn lengths(&self) -> Lengths {
        Lengths {
            response: self.response_len,
            request: self.request_len,
            metadata: self.metadata_len,
        }
    }

    /// The byte at which the request's member starts; saturating.
    pub fn request_at(&self) -> u64 {
        self.offset.saturating_add(self.response_len.into())
    }

    /// The byte at which the metadata's member starts; saturating.
    pub fn metadata_at(&self) -> u64 {
        self.request_at().saturating_add(self.request_len.into())
    }

    /// The byte after the page's last one; saturating.
    pub fn end(&self) -> u64 {
        self.metadata_at().saturating_add(self.metadata_len.into())
    }

    /// As it is stored: segment (4 bytes), offset (8), the lengths of response,
    /// request and metadata (4 each), all big-endian; so places sort as pages lie.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.segment.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.response_len.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.request_len.to_be_bytes());
        bytes[20..].copy_from_slice(&self.metadata_len.to_be_bytes());
        bytes
    }

    /// What [`Place::encode`] made; none for any other number of bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (segment, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (response, rest) = rest.split_first_chunk()?;
        let (request, rest) = rest.split_first_chunk()?;
        let metadata = rest.try_into().ok()?;
        Some(Self {
            segment: u32::from_be_bytes(*segment),
            offset: u64::from_be_bytes(*offset),
            response_len: u32::from_be_bytes(*response),
            request_len: u32::from_be_bytes(*request),
            metadata_len: u32::from_be_bytes(metadata),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        any::<(u32, u64, u32, u32, u32)>().prop_map(
            |(segment, offset, response, request, metadata)| {
                Place::new(segment, offset, Lengths { response, request, metadata })
            },
        )
    }

    proptest! {
        #[test]
        fn a_place_is_stored_in_24_bytes_and_read_back(place in place()) {
            prop_assert_eq!(Place::decode(&place.encode()), Some(place));
            prop_assert_eq!(Place::new(place.segment, place.offset, place.lengths()), place);
        }

        #[test]
        fn places_sort_as_pages_lie(a in place(), b in place()) {
            let order = (a.segment, a.offset).cmp(&(b.segment, b.offset));
            prop_assume!(order.is_ne());
            prop_assert_eq!(a.encode().cmp(&b.encode()), order);
        }

        #[test]
        fn other_bytes_are_no_place(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(Place::decode(&bytes).is_some(), bytes.len() == Place::BYTES);
        }
    }

    #[test]
    fn the_layout_of_a_place() {
        let lengths = Lengths { response: 3, request: 4, metadata: 5 };
        let bytes = Place::new(1, 2, lengths).encode();
        assert_eq!(bytes, *b"\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05");
    }
}
