//! `tools/emulate` and `tools/install-cuda-toolkit`: how they end. What takes a network or minutes was tried by hand.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A tool of the repository; nothing when the crate stands alone.
fn tool(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    if !path.exists() {
        println!("SKIPPED: tools/{name} is not there");
        return None;
    }
    Some(path)
}
/// Runs a tool: its exit code and what it said.
fn run(tool: &Path, args: &[&str], settings: &[(&str, &str)]) -> (i32, String) {
    let out =
        Command::new("bash").arg(tool).args(args).envs(settings.iter().copied()).output().expect("bash runs");
    let text = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    (out.status.code().expect("no signal"), text)
}
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("inp-tools-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder for temporary files");
    path
}

#[test]
fn emulate_ends_as_its_command_or_with_99() {
    let Some(tool) = tool("emulate") else { return };
    let exe = std::env::current_exe().unwrap();
    let (driver, exe) = (crate::driver::library(), exe.to_str().unwrap());
    let (driver, report) = (driver.to_str().unwrap(), folder("report").join("r.json"));
    let go = |options: &[&str], command: &[&str]| {
        run(&tool, &[&["--driver", driver], options, &["--"], command].concat(), &[])
    };
    // The command's own end.
    assert_eq!(go(&[], &["true"]).0, 0);
    assert_eq!(go(&[], &["sh", "-c", "exit 7"]).0, 7);
    // A program that succeeds, quiet and with a fault; one that fails keeps its code.
    let test = |name: &str| [exe, "--exact", name].map(str::to_owned);
    let [a, b] = ["driver::adds_vectors", "driver::a_fault_stays_with_its_context"].map(test);
    let words = |v: &[String; 3]| v.clone();
    let r = report.to_str().unwrap();
    let a = words(&a);
    let quiet =
        go(&["--gpu", "h100", "--check", "all", "--seed", "1", "--report", r], &[&a[0], &a[1], &a[2]]);
    assert_eq!(quiet.0, 0, "{}", quiet.1);
    assert!(std::fs::read_to_string(&report).unwrap().contains("\"findings\":0"));
    let b = words(&b);
    let fault = go(&["--check", "memcheck", "--report", r], &[&b[0], &b[1], &b[2]]);
    assert_eq!(fault.0, 99, "{}", fault.1);
    assert!(fault.1.contains("fault:"), "{}", fault.1);
    assert!(std::fs::read_to_string(&report).unwrap().contains("\"faults\":1"));
    let broken = go(&[], &["sh", "-c", "\"$@\"; exit 3", "sh", &b[0], &b[1], &b[2]]);
    assert_eq!(broken.0, 3, "{}", broken.1);
    // What it refuses.
    let without = |args: &[&str]| run(&tool, args, &[]);
    for (args, code, what) in [
        (&["--gpu"][..], 2, "--gpu needs a value"),
        (&["--bogus", "--", "true"][..], 2, "unknown argument"),
        (&["--driver", driver][..], 2, "no command"),
        (&["--driver", driver, "--"][..], 2, "no command"),
        (&["--driver", "/no/such.so", "--", "true"][..], 2, "is not there"),
        (&["--driver", driver, "--", "no-such-command"][..], 127, "no-such-command"),
    ] {
        let (got, text) = without(args);
        assert!(got == code && text.contains(what), "{args:?}: {got} {text}");
    }
    // A setting that cannot be read is said by the driver, to which no device is left.
    let (code, text) = go(&["--gpu", "b300"], &[&a[0], &a[1], &a[2]]);
    assert!(code != 0 && text.contains("no GPU is called \"b300\""), "{code} {text}");
    std::fs::remove_dir_all(report.parent().unwrap()).unwrap();
}

#[test]
fn the_toolkit_is_installed_whole_or_not_at_all() {
    let Some(tool) = tool("install-cuda-toolkit") else { return };
    let place = folder("toolkit");
    let at = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let refuses = |args: &[&str], settings: &[(&str, &str)], what: &str| {
        let (code, text) = run(&tool, args, settings);
        assert!(code == 1 && text.contains(what), "{args:?}: {code} {text}");
    };
    refuses(&["--bogus"], &[], "unknown argument");
    refuses(&["--dir"], &[], "--dir needs a folder");
    refuses(&["--dir", ""], &[], "--dir needs a folder");
    // A folder with something else, and one with a broken nvcc.
    let wrong = at("wrong");
    std::fs::create_dir_all(place.join("wrong/nvidia/cu13/bin")).unwrap();
    std::fs::write(place.join("wrong/nvidia/cu13/bin/nvcc"), "no program").unwrap();
    refuses(&["--dir", &wrong], &[], "remove it and run again");
    // No Python: only what the script itself needs is on the path.
    let bin = place.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for name in ["bash", "dirname", "grep", "mktemp", "rm", "mkdir", "tail", "cut"] {
        let found = ["/usr/bin", "/bin"].map(|d| Path::new(d).join(name)).into_iter().find(|p| p.exists());
        std::os::unix::fs::symlink(found.expect("a usual tool"), bin.join(name)).unwrap();
    }
    refuses(&["--dir", &at("new")], &[("PATH", bin.to_str().unwrap())], "python3 with pip is needed");
    // A place where no folder can be made.
    refuses(&["--dir", "/proc/no/toolkit"], &[], "no folder can be made");
    // An index that does not answer; nothing is left behind.
    if Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success()) {
        let deaf =
            [("PIP_INDEX_URL", "http://127.0.0.1:9/simple"), ("PIP_RETRIES", "0"), ("PIP_TIMEOUT", "1")];
        refuses(&["--dir", &at("new")], &deaf, "pip could not install the toolkit");
    } else {
        println!("SKIPPED: no python3 with pip for the install that fails");
    }
    let left: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    std::fs::remove_dir_all(&place).unwrap();
}
