//! Atomic writes: the old file or the new one, no leftovers, a sentence on failure.

use std::path::Path;

use inp_former::fs::{write_atomic, write_unsynced, write_with};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn writes_and_replaces_without_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.bin");
    for bytes in [&b"one"[..], &b""[..], &[7; 100_000]] {
        write_atomic(&path, bytes).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(names(dir.path()), ["a.bin"]);
        write_unsynced(&dir.path().join("a.bin"), b"other").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"other");
    }
}

/// A killed process leaves its temporary file, which nobody holds; one that still writes keeps its own.
#[test]
fn what_killed_writers_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, age: u64| {
        let path = dir.path().join(name);
        let file = std::fs::File::create(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        file
    };
    drop(make(".inp-former-4000000-3.tmp", 60));
    drop(make(".inp-former-4000000-young.tmp", 0));
    drop(make("notes.tmp", 60));
    let held = make(".inp-former-4000001-0.tmp", 60);
    held.lock().unwrap();
    write_atomic(&dir.path().join("a"), b"x").unwrap();
    let kept = [".inp-former-4000000-young.tmp", ".inp-former-4000001-0.tmp", "a", "notes.tmp"];
    assert_eq!(names(dir.path()), kept);
    // What is being written is locked.
    write_with(&dir.path().join("b"), |_| {
        let temp = names(dir.path())
            .into_iter()
            .find(|n| n.starts_with(&format!(".inp-former-{}-", std::process::id())));
        let other = std::fs::File::open(dir.path().join(temp.unwrap()))?;
        assert!(other.try_lock().is_err());
        Ok(())
    })
    .unwrap();
}

#[test]
fn failures_are_sentences_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |path: &Path, part: &str| {
        let e = write_atomic(path, b"x").unwrap_err().to_string();
        assert!(e.contains(part) && e.contains(path.to_str().unwrap()), "{e}");
    };
    fails(&dir.path().join("nowhere/a"), "no such folder");
    fails(dir.path(), "this is a folder");
    std::fs::write(dir.path().join("file"), "").unwrap();
    fails(&dir.path().join("file/a"), "cannot write");
    if Path::new("/dev/full").exists() {
        fails(Path::new("/dev/full"), "the disk is full");
    } else {
        println!("SKIPPED: no /dev/full here");
    }
    assert_eq!(names(dir.path()), ["file"]);
}

#[cfg(unix)]
#[test]
fn no_permission_keeps_the_old_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    match write_atomic(&path, b"new") {
        Ok(()) => println!("SKIPPED: this user may write anywhere"),
        Err(e) => {
            assert!(e.to_string().contains("no permission"), "{e}");
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
        }
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(names(dir.path()), ["a"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_devices_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    write_atomic(&link, b"new").unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::read(&real).unwrap(), b"new");
    write_atomic(Path::new("/dev/null"), b"x").unwrap();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}
