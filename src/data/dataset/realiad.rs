//! Real-IAD: a json file a class lists its pictures below `realiad_1024/CLASS/`.

use std::path::{Path, PathBuf};

use super::{Class, Sample, list, listed, select};
use crate::error::{Error, IoContext, Result};

/// The fields of a class's file that are read.
#[derive(serde::Deserialize)]
struct Lists {
    train: Vec<Entry>,
    test: Vec<Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    image_path: String,
    #[serde(default)]
    mask_path: Option<String>,
    anomaly_class: String,
}

/// What a good picture's `anomaly_class` says.
const GOOD: &str = "OK";

pub fn open(root: &Path, wanted: &[String], notes: &mut Vec<String>) -> Result<Vec<Class>> {
    let at = [root.join("realiad_jsons/realiad_jsons"), root.join("realiad_jsons")];
    let Some(folder) = at.iter().find(|p| p.is_dir()) else {
        return Err(Error::dataset(
            root,
            "there is no realiad_jsons/realiad_jsons folder with a json file a class",
        ));
    };
    let is_json = |p: &Path| p.is_file() && p.extension().is_some_and(|e| e == "json");
    let named = |p: PathBuf| (p.file_stem().unwrap_or_default().to_string_lossy().into_owned(), p);
    let present: Vec<_> = list(folder, is_json)?.into_iter().map(named).collect();
    if present.is_empty() {
        return Err(Error::dataset(root, format!("there are no json files in {}", folder.display())));
    }
    let mut classes = Vec::new();
    for (name, json) in select(root, present, wanted)? {
        let pictures = root.join("realiad_1024").join(&name);
        if pictures.is_dir() {
            classes.push(class(root, name, &json, &pictures, notes)?);
        } else if wanted.is_empty() {
            notes.push(format!("{name}: left out, for its folder realiad_1024/{name} is not there"));
        } else {
            return Err(Error::dataset(root, format!("there is no realiad_1024/{name}")));
        }
    }
    if classes.is_empty() {
        return Err(Error::dataset(
            root,
            "realiad_1024 has the folder of none of the classes listed in realiad_jsons",
        ));
    }
    Ok(classes)
}

fn class(root: &Path, name: String, json: &Path, folder: &Path, notes: &mut Vec<String>) -> Result<Class> {
    let bytes = std::fs::read(json).at(json, "read the list")?;
    let lists: Lists = serde_json::from_slice(&bytes)
        .map_err(|e| Error::file(json, format!("this is no list of pictures as Real-IAD has it: {e}")))?;
    let find =
        |path: &str, list: &str, i: usize| listed(root, folder.join(path), json, &format!("{list}[{i}]"));
    let mut class = Class { name, ..Class::default() };
    for (i, entry) in lists.train.iter().enumerate() {
        if entry.anomaly_class != GOOD {
            return Err(Error::file(json, format!("train[{i}] has the defect `{}`", entry.anomaly_class)));
        }
        class.train.push(find(&entry.image_path, "train", i)?);
    }
    let mut bare = 0;
    for (i, entry) in lists.test.into_iter().enumerate() {
        let path = find(&entry.image_path, "test", i)?;
        let defect = (entry.anomaly_class != GOOD).then_some(entry.anomaly_class);
        let mask = match entry.mask_path {
            Some(mask) if !mask.is_empty() && defect.is_some() => Some(find(&mask, "test", i)?),
            _ => None,
        };
        bare += usize::from(defect.is_some() && mask.is_none());
        class.test.push(Sample { path, defect, mask });
    }
    if bare > 0 {
        notes.push(format!("{}: {bare} defects have no mask", class.name));
    }
    Ok(class)
}
