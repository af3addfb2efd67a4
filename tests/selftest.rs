//! `trawl selftest`: it passes where nothing is wrong, and fails, with the right words and the right
//! exit code, where something is.

use std::fs;

use harness::{Command, Trawl, secs, tools};
use serde_json::Value;

/// Exit codes: something was found wrong; no usable directory; no room.
const FOUND: i32 = 7;
const DATA_DIR: i32 = 4;
const DISK_FULL: i32 = 5;

fn selftest(trawl: &Trawl) -> Command {
    let command = trawl.command::<&str>("selftest", []).set("--time", "10s");
    // Settings for other commands do not reach its processes.
    command.variable("TRAWL_MASTER", "http://127.0.0.1:1").variable("TRAWL_TOKEN_FILE", "/nowhere")
}

#[tokio::test]
async fn a_machine_that_is_well_passes() {
    let trawl = Trawl::new();
    let ended = selftest(&trawl).set("--seed", "7").set_flag("--json").done().await.expect(0);

    println!("{ended}");
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&told["passed"], &told["seed"]), (&Value::Bool(true), &Value::from(7)));
    for nothing in ["lost", "double", "different"] {
        assert_eq!(told[nothing], 0, "{nothing}");
    }
    for kind in ["master_kills", "master_stops", "worker_kills", "worker_stops"] {
        assert!(told[kind]["count"].as_u64().unwrap() >= 1, "{kind} of {told:#}");
        assert!(told[kind]["max_us"].as_u64() >= told[kind]["median_us"].as_u64());
    }
    assert!(told["pages"].as_u64().unwrap() >= 100, "{told:#}");
    assert!(told["disk"]["sync_p99_us"].as_u64() >= told["disk"]["sync_median_us"].as_u64());
    assert!(told["fetched_again"].as_u64() <= told["lent_at_kills"].as_u64());
    assert_eq!(fs::read_dir(trawl.data()).unwrap().count(), 0, "its directory is gone");
}

#[tokio::test]
async fn a_master_that_dies_by_itself_is_found() {
    let trawl = Trawl::new();
    let running = selftest(&trawl).set_flag("--keep").start();
    running.says_line("a worker was stopped", secs(60)).await;

    running.kill_child("master");

    let ended = running.done().await.expect(FOUND);
    ended.says(["fault        master ended by itself", "FAILED in ", "--seed ", "kept: "]);
    let kept = fs::read_dir(trawl.data()).unwrap().next().unwrap().unwrap().path();
    assert!(kept.join("data/frontier").exists() && kept.join("master.log").exists());
}

#[tokio::test]
async fn a_disk_without_room_is_told_of_before_anything_is_begun() {
    let script = "mount -t tmpfs -o size=64m tmpfs /mnt\n\
                  \"$TRAWL\" selftest --data /mnt && exit 1 || echo \"code $?\"\n\
                  ls -A /mnt";
    let told = tools::in_mount_namespace(script).await.ok();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 2, "nothing is left there: {told}");
    assert!(lines.contains(&&*format!("code {DISK_FULL}")), "{told}");
    assert!(told.contains("/mnt/trawl-selftest-") && told.contains("needs 256.0 MiB"), "{told}");

    let trawl = Trawl::new();
    let nowhere = selftest(&trawl).set("--data", "/proc/nowhere");
    nowhere.done().await.expect(DATA_DIR).says(["no directory can be made in /proc/nowhere"]);
}
