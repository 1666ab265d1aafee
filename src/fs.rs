//! Writing files so that a reader never meets half of one.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes `bytes` to `path`: to a temporary file in the same folder, flushed to the disk, then renamed over `path`. On
/// failure the old file is untouched and the temporary one removed. A link is followed; what is there and is no
/// regular file (a pipe, `/dev/stdout`) is written to directly.
///
/// Errors: no such folder, no permission, a full disk, each as a sentence.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let done = match std::fs::metadata(&target) {
        Ok(meta) if !meta.is_file() && !meta.is_dir() => {
            OpenOptions::new().write(true).open(&target).and_then(|mut f| f.write_all(bytes))
        }
        Ok(meta) if meta.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => replace(&target, bytes),
    };
    done.map_err(|e| Error::file(path, sentence(&e)))
}

fn replace(target: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = target.file_name().ok_or(ErrorKind::IsADirectory)?.to_string_lossy();
    let unique = format!(".{name}.{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let temp = target.with_file_name(unique);
    let done = File::create_new(&temp)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temp, target));
    if done.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    done
}

fn sentence(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "cannot write: the disk is full; free some space or choose another folder".into()
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "cannot write: no permission; choose a folder that you may write to".into()
        }
        ErrorKind::NotFound => "cannot write: there is no such folder; make it first".into(),
        ErrorKind::IsADirectory => "cannot write: this is a folder; name a file in it".into(),
        _ => format!("cannot write: {e}"),
    }
}
