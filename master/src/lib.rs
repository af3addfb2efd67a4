//! trawl's master: owns the frontier, the visited set and the page store.
