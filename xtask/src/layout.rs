// SPDX-License-Identifier: GPL-2.0-only
//! Where things lie.
//!
//! Everything that xtask fetches or makes goes below `target/worldswitch/` of the workspace: nothing outside of it is written, save the
//! machine packages that setup installs. Removing `target/` is a complete uninstall.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace's folders.
pub struct Layout {
    /// The workspace's root.
    pub root: PathBuf,
    /// `target/worldswitch`: what xtask keeps.
    pub state: PathBuf,
    /// Cargo's target folder, as the caller's cargo uses it.
    pub cargo_target: PathBuf,
}

impl Layout {
    /// The layout of the workspace that this program was built in.
    pub fn new() -> Result<Layout> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask's folder has no parent")?.to_path_buf();
        let cargo_target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(folder)?,
            None => root.join("target"),
        };
        let state = root.join("target/worldswitch");
        std::fs::create_dir_all(&state).with_context(|| format!("{}: cannot be created", state.display()))?;
        Ok(Layout { root, state, cargo_target })
    }

    /// A path below `target/worldswitch`.
    pub fn state(&self, path: impl AsRef<Path>) -> PathBuf {
        self.state.join(path)
    }

    /// Waits until no other xtask sets up or builds here; ends when the returned file is dropped.
    pub fn lock(&self) -> Result<File> {
        use rustix::fs::{FlockOperation, flock};
        let path = self.state("lock");
        let file = File::create(&path).with_context(|| format!("{}: cannot be created", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            crate::progress("waiting for another cargo xtask to finish setting up or building");
            flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("{}: cannot be locked", path.display()))?;
        }
        Ok(file)
    }
}
