//! Compiles `crawl/v1` with protox, so that nobody installs protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=crawl");
    let files = ["crawl/v1/worker.proto", "crawl/v1/control.proto"];
    let descriptors = protox::compile(files, ["."])?;
    // For the reflection service, which tells callers what they may call.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("crawl.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Page records are handed from the socket to the segment without a copy.
        .bytes(".trawl.crawl.v1.UrlReport.records")
        .bytes(".trawl.crawl.v1.ReportPart.chunk")
        .bytes(".trawl.crawl.v1.PagePart.chunk")
        .bytes(".trawl.crawl.v1.ExportPart.chunk")
        .compile_fds(descriptors)?;
    Ok(())
}
