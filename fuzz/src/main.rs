//! libFuzzer's program: `TRAWL_FUZZ` names the target, the arguments are libFuzzer's. `fuzz/run`
//! builds and runs it.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("TRAWL_FUZZ").unwrap_or_default();
        let target = trawl_fuzz::TARGETS.iter().find(|(known, _)| *known == name);
        TARGET.get_or_init(|| target.unwrap_or_else(|| panic!("no target {name:?}")).1);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
