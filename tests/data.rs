//! Pictures, data sets, few-shot views.

mod dataset;
mod image;
mod prefetch;
mod views;

/// Text file of `tests/data/pillow`, made by its make.py: the words of each line.
pub fn pillow(file: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(pillow_path(file)).unwrap();
    text.lines().map(|l| l.split_whitespace().map(String::from).collect()).collect()
}

/// A file of `tests/data/pillow`.
pub fn pillow_path(file: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pillow").join(file)
}
