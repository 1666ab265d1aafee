//! VisA as published: `split_csv/1cls.csv` lists every picture, its split, label and mask.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Class, Sample, listed, select};
use crate::error::{Error, IoContext, Result};

/// Where the list lies.
pub const CSV: &str = "split_csv/1cls.csv";

/// The columns of the list that are read.
#[derive(serde::Deserialize)]
struct Row {
    object: String,
    split: String,
    label: String,
    image: String,
    mask: String,
}

pub fn open(root: &Path, wanted: &[String], notes: &mut Vec<String>) -> Result<Vec<Class>> {
    let csv = root.join(CSV);
    let text = std::fs::read_to_string(&csv).at(&csv, "read the list")?;
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let mut objects: BTreeMap<String, Vec<(u64, Row)>> = BTreeMap::new();
    let broken =
        |e: csv::Error| Error::file(&csv, format!("this is no list of pictures as VisA has it: {e}"));
    let headers = reader.headers().map_err(broken)?.clone();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, |p| p.line());
        let row: Row =
            record.deserialize(Some(&headers)).map_err(|e| Error::file(&csv, format!("line {line}: {e}")))?;
        objects.entry(row.object.clone()).or_default().push((line, row));
    }
    if objects.is_empty() {
        return Err(Error::file(&csv, "the list names no pictures"));
    }
    let mut classes = Vec::new();
    for (name, rows) in select(root, objects.into_iter().collect(), wanted)? {
        let mut class = Class { name, numbered_masks: true, ..Class::default() };
        let mut bare = 0;
        for (line, row) in rows {
            let place = format!("line {line}");
            let bad = |what: &str| Err(Error::file(&csv, format!("{place}: {what}")));
            let path = listed(root, root.join(&row.image), &csv, &place)?;
            let anomalous = match row.label.as_str() {
                "normal" => false,
                "anomaly" => true,
                other => return bad(&format!("label `{other}` is neither normal nor anomaly")),
            };
            match (row.split.as_str(), anomalous) {
                ("train", false) => class.train.push(path),
                ("train", true) => return bad("an anomaly in the training split"),
                ("test", _) => {
                    let mask = match row.mask.as_str() {
                        mask if !mask.is_empty() && anomalous => {
                            Some(listed(root, root.join(mask), &csv, &place)?)
                        }
                        _ => None,
                    };
                    bare += usize::from(anomalous && mask.is_none());
                    class.test.push(Sample { path, defect: anomalous.then(|| "bad".into()), mask });
                }
                (other, _) => return bad(&format!("split `{other}` is neither train nor test")),
            }
        }
        if bare > 0 {
            notes.push(format!("{}: {bare} anomalies have no mask", class.name));
        }
        classes.push(class);
    }
    Ok(classes)
}
