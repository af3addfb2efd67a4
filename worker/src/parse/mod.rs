//! A page in, outlinks and fields out.
