//! Compiles `kernels/*.cu` for each architecture and embeds what comes out: a table of fat binaries, each the PTX and the
//! machine code that was assembled from exactly that PTX (compressed, or they would be 10 MB each), and what `ptxas` says of
//! each kernel.
//!
//! | variable | meaning |
//! |---|---|
//! | `INP_NVCC` | the nvcc to use; else that of `CUDA_HOME` or `CUDA_PATH`, of `PATH`, of `target/cuda-toolkit` |
//! | `INP_CUDA_ARCHS` | architectures, `80,90,120`; by default 80 alone, which every newer GPU runs from its PTX |
//! | `INP_CUDA_CACHE` | folder for compiled images, by a hash of all that made them (default: in the build's own folder) |
//! | `INP_REQUIRE_CUDA=1` | no nvcc is an error, not a warning and an empty table |
//! | `INP_DENY_SPILLS=1` | a kernel that spills registers is an error, not a warning |

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

const FLAGS: [&str; 4] = ["-ptx", "-std=c++17", "-lineinfo", "-Wno-deprecated-gpu-targets"];

/// Where tools/install-cuda-toolkit puts it.
const TOOLKIT: &str = "target/cuda-toolkit/nvidia/cu13/bin/nvcc";

fn main() {
    for name in [
        "INP_NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "INP_CUDA_ARCHS",
        "INP_CUDA_CACHE",
        "INP_REQUIRE_CUDA",
        "INP_DENY_SPILLS",
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    match table() {
        Ok(rows) => {
            let path = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("images.rs");
            fs::write(&path, format!("&[{rows}]")).expect("OUT_DIR can be written");
        }
        Err(errors) => errors.lines().for_each(|line| println!("cargo::error={line}")),
    }
}

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|v| v == "1")
}

/// The rows of `IMAGES` as Rust, or what went wrong.
fn table() -> Result<String, String> {
    let Some(nvcc) = nvcc()? else {
        let what = "no nvcc was found";
        let how = "run tools/install-cuda-toolkit or set INP_NVCC";
        if is_set("INP_REQUIRE_CUDA") {
            return Err(format!("{what}, and INP_REQUIRE_CUDA=1 asks for one: {how}"));
        }
        // A file that is not there makes cargo ask again each time: a toolkit installed later is found.
        println!("cargo::rerun-if-changed={TOOLKIT}");
        println!("cargo::warning={what}: this build holds no CUDA kernels and runs on the CPU ({how})");
        return Ok(String::new());
    };
    let sources = sources()?;
    let jobs: Vec<_> = archs()?.into_iter().flat_map(|arch| sources.iter().map(move |s| (s, arch))).collect();
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).min(jobs.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || jobs.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(take).map(|(s, arch)| nvcc.image(s, *arch)).collect::<Vec<_>>()
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|t| t.join().expect("a compiling thread does not panic")).collect()
    });
    let (mut images, mut errors) = (Vec::new(), Vec::new());
    for r in results {
        match r {
            Ok(image) => images.push(image),
            Err(e) => errors.push(e),
        }
    }
    images.sort_by(|a, b| (&a.stem, a.arch).cmp(&(&b.stem, b.arch)));
    let mut stems = BTreeMap::new();
    for image in &images {
        for k in &image.kernels {
            let first = stems.entry(&k.name).or_insert(&image.stem);
            if *first != &image.stem {
                errors.push(format!(
                    "kernels/{}.cu and kernels/{first}.cu both have a kernel {}",
                    image.stem, k.name
                ));
            }
            if k.spills > 0 {
                let what = format!(
                    "kernels/{}.cu: {} spills {} bytes of registers on sm_{}",
                    image.stem, k.name, k.spills, image.arch
                );
                match is_set("INP_DENY_SPILLS") {
                    true => errors.push(what),
                    false => println!("cargo::warning={what}"),
                }
            }
        }
    }
    if errors.is_empty() { Ok(images.iter().map(Image::row).collect()) } else { Err(errors.join("\n")) }
}

/// `INP_CUDA_ARCHS`, each once.
fn archs() -> Result<BTreeSet<u32>, String> {
    let list = env::var("INP_CUDA_ARCHS").ok().filter(|v| !v.is_empty()).unwrap_or("80".into());
    let arch = |word: &str| match word.trim().parse() {
        Ok(n) if n >= 80 => Ok(n),
        _ => Err(format!("INP_CUDA_ARCHS: \"{word}\" is no architecture from 80 on; write 80,90,120")),
    };
    list.split(',').map(arch).collect()
}

/// A `.cu` file and all that goes into its compilation.
struct Source {
    stem: String,
    path: PathBuf,
    /// Names and contents of the file and of every header that it includes.
    content: Vec<u8>,
}

fn sources() -> Result<Vec<Source>, String> {
    let Ok(entries) = fs::read_dir("kernels") else { return Ok(Vec::new()) };
    let paths: BTreeSet<_> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "cu")).collect();
    let source = |path: PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut content = Vec::new();
        gather(&path, &mut BTreeSet::new(), &mut content)?;
        Ok(Source { stem, path, content })
    };
    paths.into_iter().map(source).collect()
}

/// Appends a file and what its `#include "…"` lines name, each once.
fn gather(path: &Path, seen: &mut BTreeSet<PathBuf>, content: &mut Vec<u8>) -> Result<(), String> {
    if !seen.insert(path.to_path_buf()) {
        return Ok(());
    }
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    content.extend(format!("\n{} {}\n{text}", path.display(), text.len()).bytes());
    let named = |line: &str| line.trim().strip_prefix("#include")?.split('"').nth(1).map(str::to_owned);
    for header in text.lines().filter_map(named) {
        // A header of the toolkit written in quotes is none of ours.
        let file = path.with_file_name(header);
        if file.exists() {
            gather(&file, seen, content)?;
        }
    }
    Ok(())
}

/// The compiler.
struct Nvcc {
    path: PathBuf,
    version: String,
    cache: PathBuf,
}

fn nvcc() -> Result<Option<Nvcc>, String> {
    let asked = env::var_os("INP_NVCC").filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(p) = asked.as_ref().filter(|p| !p.is_file()) {
        return Err(format!("INP_NVCC: {} is not there", p.display()));
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|h| PathBuf::from(h).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let places = asked
        .into_iter()
        .chain(homes)
        .chain(env::split_paths(&path).map(|f| f.join("nvcc")))
        .chain([TOOLKIT.into()]);
    let Some(path) = places.filter_map(|p| p.canonicalize().ok()).find(|p| p.is_file()) else {
        return Ok(None);
    };
    let out = run(Command::new(&path).arg("--version"))?;
    let version = String::from_utf8_lossy(&out.stdout).lines().last().unwrap_or_default().to_owned();
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("cuda");
    let cache = env::var_os("INP_CUDA_CACHE").filter(|v| !v.is_empty()).map_or(out_dir, PathBuf::from);
    fs::create_dir_all(&cache).map_err(|e| format!("{} cannot be made: {e}", cache.display()))?;
    let cache = cache.canonicalize().map_err(|e| format!("{}: {e}", cache.display()))?;
    Ok(Some(Nvcc { path, version, cache }))
}

/// Runs a command; what it wrote when it fails.
fn run(command: &mut Command) -> Result<Output, String> {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("{} cannot be run: {e}", program.display()))?;
    if !out.status.success() {
        let said = [out.stderr, out.stdout].concat();
        return Err(format!("{name} failed ({}):\n{}", out.status, String::from_utf8_lossy(&said).trim()));
    }
    Ok(out)
}

/// A kernel as ptxas describes it.
struct Kernel {
    name: String,
    registers: u32,
    /// Bytes stored and loaded.
    spills: u32,
    /// Bytes of static shared memory.
    shared: u32,
}

struct Image {
    stem: String,
    arch: u32,
    fatbin: PathBuf,
    kernels: Vec<Kernel>,
}

impl Nvcc {
    /// Compiles and assembles, unless the cache has it.
    fn image(&self, source: &Source, arch: u32) -> Result<Image, String> {
        let key = format!("fatbin\n{}\n{FLAGS:?}\n{arch}\n{}", self.version, env!("CARGO_PKG_VERSION"));
        let hash = fnv(key.bytes().chain(source.content.iter().copied()));
        let files = self.cache.join(format!("{}-{arch}-{hash:032x}", source.stem));
        let log = files.with_extension("log");
        // The log comes last: where it is, the fat binary is.
        if !log.exists() {
            self.compile(source, arch, &files)?;
        }
        let said = fs::read_to_string(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let kernels = kernels(&said)
            .ok_or_else(|| format!("{}: what ptxas said cannot be read:\n{said}", log.display()))?;
        Ok(Image { stem: source.stem.clone(), arch, fatbin: files.with_extension("fatbin"), kernels })
    }
    fn compile(&self, source: &Source, arch: u32, files: &Path) -> Result<(), String> {
        // Other builds may be filling the same cache: everything is made under a name of this process and renamed.
        let own = |ending: &str| files.with_extension(format!("{}.{ending}", std::process::id()));
        let [ptx, cubin, fatbin, log] = ["ptx", "cubin", "fatbin", "log"].map(own);
        let said = |e| format!("{}, sm_{arch}: {e}", source.path.display());
        let virt = format!("-arch=compute_{arch}");
        let out = run(Command::new(&self.path).args(FLAGS).args([&virt, "-o"]).arg(&ptx).arg(&source.path))
            .map_err(said)?;
        for line in String::from_utf8_lossy(&out.stderr).lines().filter(|l| !l.is_empty()) {
            println!("cargo::warning={line}");
        }
        let file = |e: std::io::Error| said(e.to_string());
        // Line tables that name `kernels/x.cu` are the same on every machine.
        let here = format!("{}/", env::current_dir().map_err(file)?.display());
        fs::write(&ptx, fs::read_to_string(&ptx).map_err(file)?.replace(&here, "")).map_err(file)?;
        let tool = |name: &str| Command::new(self.path.with_file_name(name));
        let real = format!("-arch=sm_{arch}");
        let out =
            run(tool("ptxas").args(["-v", "-lineinfo", &real, "-o"]).arg(&cubin).arg(&ptx)).map_err(said)?;
        fs::write(&log, [out.stdout, out.stderr].concat()).map_err(file)?;
        let part =
            |kind: &str, path: &Path| format!("--image3=kind={kind},sm={arch},file={}", path.display());
        let parts = [part("elf", &cubin), part("ptx", &ptx), format!("--create={}", fatbin.display())];
        run(tool("fatbinary").args(["-64", "--compress-mode=size"]).args(parts)).map_err(said)?;
        for made in [ptx, cubin] {
            fs::remove_file(made).map_err(file)?;
        }
        for (from, ending) in [(fatbin, "fatbin"), (log, "log")] {
            fs::rename(from, files.with_extension(ending)).map_err(file)?;
        }
        Ok(())
    }
}

/// FNV-1a, 128 bits.
fn fnv(bytes: impl Iterator<Item = u8>) -> u128 {
    let step = |h: u128, b: u8| (h ^ b as u128).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, step)
}

/// What `ptxas -v` says: an entry, its spills, then its registers and shared memory.
fn kernels(log: &str) -> Option<Vec<Kernel>> {
    let mut all: Vec<Kernel> = Vec::new();
    let before = |line: &str, what: &str| -> Option<u32> {
        line.split(what)
            .next()
            .filter(|_| line.contains(what))?
            .split([' ', ','])
            .rfind(|w| !w.is_empty())?
            .parse()
            .ok()
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            all.push(Kernel { name: rest.split('\'').next()?.into(), registers: 0, spills: 0, shared: 0 });
        } else if line.contains("bytes spill stores") {
            all.last_mut()?.spills +=
                before(line, " bytes spill stores")? + before(line, " bytes spill loads")?;
        } else if line.contains("Used ") {
            let k = all.last_mut()?;
            (k.registers, k.shared) = (before(line, " registers")?, before(line, " bytes smem").unwrap_or(0));
        }
    }
    all.iter().all(|k| k.registers > 0).then_some(all)
}

impl Image {
    /// This image as Rust.
    fn row(&self) -> String {
        let Self { stem, arch, fatbin, kernels } = self;
        let mut row =
            format!("Image {{ stem: {stem:?}, arch: {arch}, data: include_bytes!({fatbin:?}), kernels: &[");
        for Kernel { name, registers, spills, shared } in kernels {
            let _ = write!(
                row,
                "KernelInfo {{ name: {name:?}, registers: {registers}, spills: {spills}, shared: {shared} }}, "
            );
        }
        row + "] },\n"
    }
}
