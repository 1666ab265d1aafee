//! Writing files so that a reader never meets half of one.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};

/// Writes `bytes` to `path`, as [`write_with`] does.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write_atomic`], but does not wait for the disk: a power cut may lose the file. For what is many and can be made
/// again, as maps are; models, checkpoints and tables of results must survive.
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, false, |file| file.write_all(bytes))
}

/// Writes to `path` what `body` writes: to a temporary file in the same folder, flushed to the disk, then renamed over
/// `path`. On failure the old file is untouched and the temporary one removed. A link is followed; what is there and is
/// no regular file (a pipe, `/dev/stdout`) is written to directly. What a process that was killed left of its own is
/// removed by the next that writes into the folder.
///
/// Errors: a read-only file, no such folder, no permission, a full disk, each as a sentence.
pub fn write_with(path: &Path, body: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    write(path, true, body)
}

/// What can be known of the errors of [`write_with`] before the work whose result it will write.
pub fn expect_writable(path: &Path) -> Result<()> {
    let mut opened = false;
    let written = write(path, false, |_| {
        opened = true;
        Err(ErrorKind::Other.into())
    });
    if opened { Ok(()) } else { written }
}

fn write(path: &Path, sync: bool, body: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done = match std::fs::metadata(&target) {
        Ok(meta) if meta.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(meta) if !meta.is_file() => {
            OpenOptions::new().write(true).open(&target).and_then(|mut f| body(&mut f))
        }
        // A rename would not ask.
        Ok(meta) if meta.permissions().readonly() => {
            Err(io::Error::other("this file is read-only; make it writable or name another one"))
        }
        _ => replace(&target, folder, sync, body),
    };
    done.map_err(|e| Error::file(path, sentence(&e, folder)))
}

const TEMP: &str = ".inp-former-";

fn replace(
    target: &Path,
    folder: &Path,
    sync: bool,
    body: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    clean(folder);
    let (mut file, temp) = loop {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let temp = folder.join(format!("{TEMP}{}-{n}.tmp", std::process::id()));
        match File::create_new(&temp) {
            // Left by a process of the same number that was killed.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            opened => break (opened?, temp),
        }
    };
    // Held until the file has its name: says to `clean` that somebody writes here. Without locks it removes nothing.
    let _ = file.try_lock();
    let written = body(&mut file).and_then(|()| if sync { file.sync_all() } else { Ok(()) });
    written.and_then(|()| std::fs::rename(&temp, target)).inspect_err(|_| {
        // The error worth reporting is the first one.
        let _ = std::fs::remove_file(&temp);
    })
}

/// Removes the temporary files of killed processes, once for each folder: those that nobody holds, and that are not so
/// young that their writer may be about to. Whatever goes wrong here, the write can go on.
fn clean(folder: &Path) {
    static CLEANED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    if !CLEANED.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_path_buf()) {
        return;
    }
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let old =
            |m: std::fs::Metadata| m.modified().ok()?.elapsed().ok().map(|t| t > Duration::from_secs(2));
        if name.starts_with(TEMP)
            && name.ends_with(".tmp")
            && let Ok(file) = OpenOptions::new().write(true).open(&path)
            && file.metadata().ok().and_then(old) == Some(true)
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(&path);
        }
    }
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
