//! Compiles `crawl/v1` with protox, so that nobody installs protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=crawl");
    let files = ["crawl/v1/worker.proto", "crawl/v1/control.proto"];
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        // Page records are handed from the socket to the segment without a copy.
        .bytes(".trawl.crawl.v1.UrlReport.records")
        .bytes(".trawl.crawl.v1.ReportPart.chunk")
        .compile_fds(descriptors)?;
    Ok(())
}
