//! The pictures a command is given: files, folders, globs, names on standard input.

use std::collections::{HashMap, HashSet};
use std::io::BufRead;
use std::path::{Component, Path, PathBuf};

use inp_former::data::image::is_image;
use inp_former::error::IoContext;
use inp_former::runtime::Tensor;
use inp_former::runtime::weights::WeightFile;
use inp_former::{Error, Result};

/// The tensor `input` of a safetensors file.
pub fn tensor(path: &Path) -> Result<Tensor> {
    let file = WeightFile::read(path)?;
    let raw = file.tensors.get("input").ok_or_else(|| Error::file(path, "there is no tensor `input`"))?;
    raw.to_f32().map_err(|e| super::score::about(path, e))
}

/// One picture to work on.
#[derive(Clone, Debug)]
pub struct Input {
    pub path: PathBuf,
    /// Its name below the argument that gave it: what outputs are called after.
    pub name: PathBuf,
}

/// Expands the arguments, in their order; folders are walked, sorted. Nothing found is an error.
pub fn expand(args: &[String]) -> Result<Vec<Input>> {
    let mut all = Vec::new();
    for arg in args {
        let path = Path::new(arg);
        if arg == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.at("stdin", "read the names of pictures")?;
                if !line.trim().is_empty() {
                    let path = PathBuf::from(line.trim());
                    all.push(Input { name: relative(&path), path });
                }
            }
        } else if path.is_dir() {
            let before = all.len();
            walk(path, path, &mut all)?;
            if all.len() == before {
                return Err(Error::file(
                    path,
                    "there is no picture in this folder (png, jpg, bmp, tif, webp)",
                ));
            }
        } else if path.exists() || !arg.contains(['*', '?', '[']) {
            // A missing file is reported when its turn comes, and the rest are done.
            all.push(Input { path: path.to_path_buf(), name: path.file_name().unwrap_or_default().into() });
        } else {
            let paths = glob::glob(arg).map_err(|e| Error::usage(format!("{arg}: not a pattern: {e}")))?;
            let fixed: PathBuf = path
                .components()
                .take_while(|c| !c.as_os_str().to_string_lossy().contains(['*', '?', '[']))
                .collect();
            let before = all.len();
            for found in paths.flatten().filter(|p| p.is_file() && is_image(p)) {
                let name = found.strip_prefix(&fixed).map_or_else(|_| relative(&found), Path::to_path_buf);
                all.push(Input { path: found, name });
            }
            if all.len() == before {
                return Err(Error::usage(format!("{arg}: no picture matches this pattern")));
            }
        }
    }
    if all.is_empty() {
        return Err(Error::usage("no pictures were given"));
    }
    Ok(all)
}

/// Where each input's output goes: `folder/name.extension`. Two inputs with one output, and an output that would
/// replace an input, are an error before any work.
pub fn outputs(folder: &Path, inputs: &[Input], extension: &str) -> Result<Vec<PathBuf>> {
    let mut taken: HashMap<PathBuf, &Path> = HashMap::new();
    let mut all = Vec::with_capacity(inputs.len());
    let sources: HashSet<PathBuf> = inputs.iter().filter_map(|i| i.path.canonicalize().ok()).collect();
    for input in inputs {
        let out = folder.join(&input.name).with_extension(extension);
        if let Some(other) = taken.insert(out.clone(), &input.path) {
            return Err(Error::usage(format!(
                "{} and {} would both be written to {}; score them in separate runs",
                other.display(),
                input.path.display(),
                out.display()
            )));
        }
        if out.canonicalize().is_ok_and(|out| sources.contains(&out)) {
            let what = "this is one of the pictures to score, and would be replaced; choose another folder";
            return Err(Error::file(out, what));
        }
        all.push(out);
    }
    Ok(all)
}

/// Makes the folder that a file goes into.
pub fn make_parent(path: &Path) -> Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder).at(folder, "make the folder"),
        None => Ok(()),
    }
}

fn walk(root: &Path, folder: &Path, all: &mut Vec<Input>) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .at(folder, "read the folder")?
        .collect::<std::io::Result<_>>()
        .at(folder, "read the folder")?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links to folders are not followed: they may lead in circles.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(root, &path, all)?;
        } else if is_image(&path) && path.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            all.push(Input { path, name });
        }
    }
    Ok(())
}

/// A path without what leads out of a folder (`/`, `..`).
fn relative(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, Component::Normal(_))).collect()
}
