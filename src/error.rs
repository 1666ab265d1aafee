//! One error type for the library: each variant says what went wrong, where, and what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Everything that can go wrong, as sentences a user can act on. The fields are the words of each sentence.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor that an op was given does not have the shape it needs.
    #[error("{op}: tensor `{tensor}` should be {wanted}, but it is {got}")]
    Shape { op: &'static str, tensor: &'static str, wanted: String, got: String },
    /// A file could not be read, written or understood.
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String },
    /// Weights do not fit the model: every problem at once, a line each.
    #[error("{}: the weights do not fit:\n  {}", path.display(), problems.join("\n  "))]
    Weights { path: PathBuf, problems: Vec<String> },
    /// A data set is not laid out as it should be.
    #[error("data set {}: {what}", root.display())]
    Dataset { root: PathBuf, what: String },
    /// An option or a combination of options makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A number came out as NaN or infinite.
    #[error("{0}")]
    NotFinite(String),
    /// There is no GPU to use, or no kernels for it.
    #[error("{0}")]
    Device(String),
    /// A call of the CUDA driver failed.
    #[error("CUDA: {what} failed: {why}")]
    Cuda { what: String, why: String },
    /// A kernel could not be launched.
    #[error("CUDA: kernel {kernel} {geometry}: {why}")]
    Launch { kernel: String, geometry: String, why: String },
    /// A GPU has not enough memory.
    #[error("{device} has not enough memory: {asked} were asked for, {free} of {total} are free; {hint}")]
    DeviceMemory { device: String, asked: String, free: String, total: String, hint: String },
    /// The user asked to stop (ctrl-C); what was done is saved.
    #[error("{0}")]
    Interrupted(String),
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A file error with a sentence.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), what: what.into() }
    }
    /// A data-set error with a sentence.
    pub fn dataset(root: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Dataset { root: root.as_ref().to_path_buf(), what: what.into() }
    }
    /// A usage error.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::Usage(what.into())
    }
}

/// Attaches a path and a verb to an `std::io::Result`, so that no bare "No such file" reaches a user.
pub trait IoContext<T> {
    /// `what` reads as "cannot `what`".
    fn at(self, path: impl AsRef<Path>, what: &str) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, path: impl AsRef<Path>, what: &str) -> Result<T> {
        self.map_err(|e| {
            let why = match e.kind() {
                ErrorKind::NotFound => "it does not exist; check the path".to_string(),
                ErrorKind::PermissionDenied => "no permission; check who owns it".to_string(),
                ErrorKind::StorageFull => "the disk is full; free some space or write elsewhere".to_string(),
                _ => e.to_string(),
            };
            Error::file(path, format!("cannot {what}: {why}"))
        })
    }
}
