//! Weight files and namings: every lie of a header is a sentence, nothing panics, and other readers agree.

pub mod naming;
pub mod pth;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use inp_former::runtime::Tensor;
use inp_former::runtime::weights::{Dtype, RawTensor, WeightFile};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::support::random;

/// A file's bytes from a header and the number of data bytes.
fn bytes_of(header: &str, data: usize) -> Vec<u8> {
    let mut v = (header.len() as u64).to_le_bytes().to_vec();
    v.extend(header.as_bytes());
    v.extend((0..data).map(|i| i as u8));
    v
}

/// A small file of every dtype, with an empty tensor, a scalar, odd sizes, odd names and metadata.
fn sample() -> WeightFile {
    let mut tensors = BTreeMap::new();
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        let shape = vec![i % 3 + 1, 3];
        let bytes = (0..(i % 3 + 1) * 3 * dtype.size()).map(|b| (b * 37 + i) as u8).collect();
        tensors.insert(format!("t.{}", dtype.name()), RawTensor { dtype, shape, bytes });
    }
    tensors.insert("empty".into(), RawTensor { dtype: Dtype::F32, shape: vec![4, 0], bytes: vec![] });
    tensors
        .insert("scalar".into(), RawTensor { dtype: Dtype::F32, shape: vec![], bytes: vec![0, 0, 128, 63] });
    tensors.insert("\"ü\n".into(), RawTensor::from_f32(&random("w", &[5, 7])));
    let metadata = [("inp_former", r#"{"heads": 2}"#), ("é\"", "\n\\")].map(|(k, v)| (k.into(), v.into()));
    WeightFile { path: "sample".into(), tensors, metadata: metadata.into() }
}

/// The sample's bytes, through a file.
fn sample_bytes() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    sample().write(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut v: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into()).collect();
    v.sort();
    v
}

#[test]
fn round_trip_is_exact_and_deterministic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let want = WeightFile { path: path.clone(), ..sample() };
    want.write(&path).unwrap();
    let first = std::fs::read(&path).unwrap();
    let got = WeightFile::read(&path).unwrap();
    assert_eq!(got, want);
    got.write(&path).unwrap(); // over itself
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert_eq!(WeightFile::from_bytes(&path, &first).unwrap(), want);
    assert_eq!(u64::from_le_bytes(first[..8].try_into().unwrap()) % 8, 0);
    assert_eq!(names(dir.path()), [PathBuf::from("a.safetensors")]);

    let none = WeightFile { path: path.clone(), tensors: BTreeMap::new(), metadata: BTreeMap::new() };
    none.write(&path).unwrap();
    assert_eq!(WeightFile::read(&path).unwrap(), none);
}

#[test]
fn f32_f16_and_bf16_become_f32() {
    let x = random("x", &[3, 5]);
    assert_eq!(RawTensor::from_f32(&x).to_f32().unwrap(), x);
    let raw = |dtype, bytes| RawTensor { dtype, shape: vec![3, 5], bytes };
    let half = raw(Dtype::F16, x.data.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect());
    let want = x.data.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
    assert_eq!(half.to_f32().unwrap(), Tensor::new(&[3, 5], want));
    let brain = raw(Dtype::Bf16, x.data.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect());
    let want = x.data.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
    assert_eq!(brain.to_f32().unwrap(), Tensor::new(&[3, 5], want));
    let e = raw(Dtype::I64, vec![0; 120]).to_f32().unwrap_err().to_string();
    assert!(e.contains("must be F32, F16 or BF16, but this tensor is I64"), "{e}");
    let e = raw(Dtype::F32, vec![0; 59]).to_f32().unwrap_err().to_string();
    assert!(e.contains("cannot have 59 bytes"), "{e}");
}

#[test]
fn the_safetensors_crate_reads_what_we_write() {
    let bytes = sample_bytes();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata: BTreeMap<_, _> = header.metadata().clone().unwrap().into_iter().collect();
    assert_eq!(metadata, sample().metadata);
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), sample().tensors.len());
    for (name, want) in sample().tensors {
        let got = theirs.tensor(&name).unwrap();
        assert_eq!((got.shape(), got.data()), (&want.shape[..], &want.bytes[..]), "{name}");
        assert_eq!(got.dtype().to_string(), want.dtype.name());
    }
}

#[test]
fn we_read_what_the_safetensors_crate_writes() {
    let ours = sample();
    let views = ours.tensors.iter().map(|(name, t)| {
        let dtype = serde_json::from_value(t.dtype.name().into()).unwrap();
        (name, TensorView::new(dtype, t.shape.clone(), &t.bytes).unwrap())
    });
    let metadata = Some(ours.metadata.clone().into_iter().collect());
    let bytes = safetensors::serialize(views, metadata).unwrap();
    assert_eq!(WeightFile::from_bytes("sample", &bytes).unwrap(), ours);
}

/// Every lie that a header can tell, and a piece of the sentence that answers it.
#[test]
fn each_lie_is_one_sentence() {
    let a = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
    };
    let two = |at: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{{"dtype":"F32","shape":[1],"data_offsets":{at}}}}}"#
        )
    };
    let one = r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let mut not_utf8 = bytes_of(r#"{"?":{}}"#, 0);
    not_utf8[10] = 0xFF;
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "it has 0 bytes, and the header's length alone takes 8"),
        (vec![1; 7], "it has 7 bytes"),
        (vec![0; 8], "does not begin with `{`"),
        (u64::MAX.to_le_bytes().to_vec(), "18446744073709551615 bytes, and 100000000 is the limit"),
        (100_000_001u64.to_le_bytes().to_vec(), "100000001 bytes, and 100000000 is the limit"),
        (99_999_999u64.to_le_bytes().to_vec(), "should have 99999999 bytes, but the file has only 0"),
        (b"PK\x03\x04\0\0\x08\x08....".to_vec(), "the zip archive is damaged or cut short"),
        (bytes_of("[1, 2]", 0), "does not begin with `{`"),
        (not_utf8, "not valid UTF-8"),
        (bytes_of("{\"a\":", 0), "not a safetensors header: EOF"),
        (bytes_of("{} x", 0), "trailing characters"),
        (bytes_of(&deep, 0), "not a safetensors header"),
        (bytes_of(&format!(r#"{{"a":{one},"a":{one}}}"#), 1), "the name \"a\" is there twice"),
        (bytes_of(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "\"__metadata__\" is there twice"),
        (bytes_of(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0), "the name \"k\" is there twice"),
        (bytes_of(r#"{"__metadata__":{"k":1}}"#, 0), "expected a string"),
        (bytes_of(r#"{"__metadata__":"k"}"#, 0), "expected an object of strings"),
        (bytes_of(r#"{"a":{"dtype":"F32","dtype":"F32"}}"#, 0), "duplicate field `dtype`"),
        (bytes_of(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4), "missing field `data_offsets`"),
        (bytes_of(r#"{"a":{"dtype":"F32","extra":[1]}}"#, 4), "unknown field `extra`"),
        (bytes_of(&a("F4", "[2]", 0, 1), 1), "unknown dtype \"F4\"; known are BOOL, U8"),
        (bytes_of(&a("f32", "[1]", 0, 4), 4), "unknown dtype \"f32\""),
        (bytes_of(&a("F32", "[-1]", 0, 4), 4), "invalid value: integer `-1`"),
        (bytes_of(&a("F32", "[1.5]", 0, 4), 4), "invalid type: floating point"),
        (bytes_of(&a("F32", "[4294967296,4294967296]", 0, 4), 4), "more than can be addressed"),
        (bytes_of(&a("F64", "[2305843009213693952]", 0, 4), 4), "more than can be addressed"),
        (bytes_of(&a("F32", "[4294967296,4294967296,0]", 0, 0), 0), "more than can be addressed"),
        (bytes_of(&a("F32", "[1]", 8, 4), 8), "ends at byte 4 of the data, before its begin at 8"),
        (bytes_of(&a("F32", "[2]", 0, 4), 8), "dtype F32 needs 8 bytes, but its offsets span 4"),
        (bytes_of(&a("F32", "[]", 0, 8), 8), "needs 4 bytes, but its offsets span 8"),
        (bytes_of(&a("F32", "[2]", 0, 8), 7), "ends at byte 8 of the data, but the file holds only 7"),
        (
            bytes_of(&a("U8", "[1000000000000]", 0, 1_000_000_000_000), 9),
            "the file holds only 9; it is truncated",
        ),
        (bytes_of(&two("[4,8]"), 8), "the tensors \"a\" and \"b\" overlap at byte 4"),
        (bytes_of(&two("[0,4]"), 8), "overlap"),
        (bytes_of(&two("[12,16]"), 16), "the bytes 8 to 12 of the data belong to no tensor"),
        (bytes_of(&two("[8,12]"), 15), "3 bytes after the last tensor's data belong to no tensor"),
        (bytes_of(&a("F32", "[1]", 4, 8), 8), "the bytes 0 to 4 of the data belong to no tensor"),
        (bytes_of("{}", 3), "3 bytes after the last tensor"),
    ];
    for (bytes, want) in cases {
        let got = WeightFile::from_bytes("lie.safetensors", &bytes).unwrap_err().to_string();
        assert!(got.starts_with("lie.safetensors: ") && got.contains(want), "wanted {want:?} in {got:?}");
        assert!(!got.contains('\n'), "{got:?} is not one line");
    }
}

/// Seeded numbers below `n` (xorshift).
fn dice(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |n| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) as usize % n
    }
}

/// Seeded damage to a small file: an error or a consistent file, never a panic.
#[test]
fn damaged_files_never_panic() {
    let good = sample_bytes();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut next = dice(1);
    let mut accepted = 0;
    for case in 0..6000 {
        let mut bytes = good.clone();
        for _ in 0..next(4) + 1 {
            match next(6) {
                0 => bytes.truncate(next(bytes.len() + 1)),
                1 => bytes.insert(next(bytes.len() + 1), next(256) as u8),
                2 if !bytes.is_empty() => drop(bytes.remove(next(bytes.len()))),
                3 if bytes.len() >= header => bytes[8 + next(header - 8)] = b"0123456789,:[]{}\" "[next(18)],
                _ if !bytes.is_empty() => {
                    let at = next(bytes.len().min(if case % 2 == 0 { 8 } else { usize::MAX }));
                    bytes[at] ^= 1 << next(8);
                }
                _ => {}
            }
        }
        if let Ok(file) = WeightFile::from_bytes("damaged", &bytes) {
            accepted += 1;
            let data: usize = file.tensors.values().map(|t| t.bytes.len()).sum();
            assert!(data <= bytes.len(), "case {case}: more data than the file has");
        }
    }
    assert!(accepted < 6000, "no damage was noticed");
}

#[test]
fn what_cannot_be_read_or_written_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let said = |e: inp_former::Result<()>, want: &str| {
        let e = e.unwrap_err().to_string();
        assert!(e.contains(want), "wanted {want:?} in {e:?}");
    };
    said(WeightFile::read(at("none")).map(drop), "cannot read the weights: ");
    said(WeightFile::read(dir.path()).map(drop), "not a regular file; give the path");
    said(sample().write(at("none/a")), "there is no such folder as ");
    said(sample().write(dir.path()), "this is a folder; name a file in it");
    let mut lying = sample();
    lying.tensors.get_mut("scalar").unwrap().shape = vec![2];
    said(
        lying.write(at("a")),
        "the tensor \"scalar\": a tensor of shape [2] and dtype F32 cannot have 4 bytes",
    );
    let mut reserved = sample();
    reserved.tensors.insert("__metadata__".into(), RawTensor::from_f32(&Tensor::zeros(&[1])));
    said(reserved.write(at("a")), "cannot be called \"__metadata__\"");
    assert_eq!(names(dir.path()), Vec::<PathBuf>::new());
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    sample().write(&real).unwrap();
    std::os::unix::fs::symlink("real", &link).unwrap();
    let changed = WeightFile { metadata: BTreeMap::new(), ..sample() };
    changed.write(&link).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(WeightFile::read(&real).unwrap().metadata, BTreeMap::new());
}

/// A write that fails half way keeps the old file and leaves nothing beside it. The limit on file size (in a child
/// process, since it cannot be raised again) stands in for a full disk: both fail inside `write`.
#[cfg(unix)]
#[test]
fn a_failed_write_leaves_the_old_file() {
    const FOLDER: &str = "INP_TEST_FAILED_WRITE";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let mut big = sample();
        big.tensors.insert("big".into(), RawTensor::from_f32(&Tensor::zeros(&[1 << 20])));
        let e = big.write(PathBuf::from(folder).join("a")).unwrap_err().to_string();
        assert!(e.contains("cannot write: ") || e.contains("the disk is full"), "{e}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sample().write(dir.path().join("a")).unwrap();
    let old = std::fs::read(dir.path().join("a")).unwrap();
    let child = std::process::Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact weights::a_failed_write_leaves_the_old_file",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), old);
    assert_eq!(names(dir.path()), [PathBuf::from("a")]);
}

#[test]
fn the_hash_follows_the_content() {
    let a = sample();
    let all = |f: &WeightFile| f.content_hash(f.tensors.keys().map(String::as_str));
    let b = WeightFile { path: "elsewhere".into(), metadata: BTreeMap::new(), ..sample() };
    assert_eq!(all(&a), all(&b));
    assert_eq!(a.content_hash(["empty", "scalar"]), a.content_hash(["scalar", "empty", "scalar"]));
    let mut seen = vec![all(&a), a.content_hash([]), a.content_hash(["empty"]), a.content_hash(["absent"])];
    let mut change = |edit: &dyn Fn(&mut RawTensor)| {
        let mut c = sample();
        edit(c.tensors.get_mut("scalar").unwrap());
        seen.push(all(&c));
    };
    change(&|t| t.bytes[0] ^= 1);
    change(&|t| t.shape = vec![1]);
    change(&|t| t.dtype = Dtype::I32);
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count);
}
