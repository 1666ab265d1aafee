//! Writing files so that a reader never meets half of one.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes `bytes` to `path`, as [`write_with`] does.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes to `path` what `body` writes: to a temporary file in the same folder, flushed to the disk, then renamed over
/// `path`. On failure the old file is untouched and the temporary one removed. A link is followed; what is there and is
/// no regular file (a pipe, `/dev/stdout`) is written to directly.
///
/// Errors: no such folder, no permission, a full disk, each as a sentence.
pub fn write_with(path: &Path, body: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done = match std::fs::metadata(&target) {
        Ok(meta) if meta.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(meta) if !meta.is_file() => {
            OpenOptions::new().write(true).open(&target).and_then(|mut f| body(&mut f))
        }
        _ => replace(&target, folder, body),
    };
    done.map_err(|e| Error::file(path, sentence(&e, folder)))
}

fn replace(target: &Path, folder: &Path, body: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (mut file, temp) = loop {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let temp = folder.join(format!(".inp-former-{}-{n}.tmp", std::process::id()));
        match File::create_new(&temp) {
            // Left by a process of the same number that was killed.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            opened => break (opened?, temp),
        }
    };
    let written = body(&mut file).and_then(|()| file.sync_all());
    drop(file);
    written.and_then(|()| std::fs::rename(&temp, target)).inspect_err(|_| {
        // The error worth reporting is the first one.
        let _ = std::fs::remove_file(&temp);
    })
}

fn sentence(e: &io::Error, folder: &Path) -> String {
    let shown = folder.display();
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "cannot write: the disk is full; free some space or choose another folder".into()
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            format!("cannot write: no permission in the folder {shown}; choose one that you may write to")
        }
        ErrorKind::NotFound if !folder.is_dir() => {
            format!("cannot write: there is no such folder as {shown}; make it first")
        }
        ErrorKind::IsADirectory => "cannot write: this is a folder; name a file in it".into(),
        _ => format!("cannot write: {e}"),
    }
}
