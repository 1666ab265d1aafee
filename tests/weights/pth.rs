//! PyTorch checkpoints: read as torch.save makes them, and refused with a sentence when anything else is in them.
//!
//! `tests/data/make_pth.py` made the two files.

use std::io::{Cursor, Read, Write};
use std::path::PathBuf;

use half::{bf16, f16};
use inp_former::runtime::weights::{Dtype, RawTensor, WeightFile};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::dice;

fn committed(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A checkpoint `m` of these entries.
pub fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(format!("m/{name}"), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A checkpoint of protocol 2 whose pickle is `body`, with six f32 in storage 0.
fn checkpoint(body: &[u8]) -> Vec<u8> {
    let pickle = [b"\x80\x02", body, b"."].concat();
    archive(&[("data.pkl", &pickle), ("data/0", &[1; 24])], CompressionMethod::Stored)
}

pub fn text(s: &str) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
}

fn ints(v: &[i32]) -> Vec<u8> {
    let each = v.iter().flat_map(|i| [b"J".to_vec(), i.to_le_bytes().to_vec()].concat());
    [b"(".to_vec(), each.collect(), b"t".to_vec()].concat()
}

/// A tensor over storage `key` of `numel` elements.
pub fn tensor(class: &str, key: &str, numel: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("c{class}\n").replace("torch.", "torch\n").into_bytes(),
        text(key),
        text("cpu"),
        ints(&[numel])[1..6].to_vec(),
        b"tQ".to_vec(),
        ints(&[offset])[1..6].to_vec(),
        ints(shape),
        ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

fn state(value: &[u8]) -> Vec<u8> {
    [b"}".to_vec(), text("w"), value.to_vec(), b"s".to_vec()].concat()
}

#[test]
fn checkpoints_are_read_in_protocols_2_and_5() {
    // Element i of every storage is (i - 3) / 4.
    let f32s = |shape: &[usize], elements: &[usize]| {
        let bytes = elements.iter().flat_map(|i| ((*i as f32 - 3.0) / 4.0).to_le_bytes()).collect();
        RawTensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    };
    let value = |i: usize| (i as f32 - 3.0) / 4.0;
    let raw = |dtype, shape: &[usize], bytes: Vec<u8>| RawTensor { dtype, shape: shape.to_vec(), bytes };
    let want = [
        ("whole", f32s(&[2, 3], &[0, 1, 2, 3, 4, 5])),
        ("transposed", f32s(&[3, 2], &[0, 3, 1, 4, 2, 5])),
        ("view", f32s(&[2, 3, 2], &[5, 6, 7, 8, 9, 10, 17, 18, 19, 20, 21, 22])),
        ("rows", f32s(&[2, 6], &(6..18).collect::<Vec<_>>())),
        ("tied.a", f32s(&[2, 2], &[0, 1, 2, 3])),
        ("tied.b", f32s(&[2, 2], &[0, 1, 2, 3])),
        ("half", raw(Dtype::F16, &[5], (0..5).flat_map(|i| f16::from_f32(value(i)).to_le_bytes()).collect())),
        (
            "brain",
            raw(Dtype::Bf16, &[5], (0..5).flat_map(|i| bf16::from_f32(value(i)).to_le_bytes()).collect()),
        ),
        ("double", raw(Dtype::F64, &[2], (0..2).flat_map(|i| (value(i) as f64).to_le_bytes()).collect())),
        ("long", raw(Dtype::I64, &[], vec![0; 8])),
        ("bool", raw(Dtype::Bool, &[1, 2], vec![0, 1])),
        ("empty", f32s(&[0, 3], &[])),
    ]
    .map(|(k, v)| (k.to_string(), v));
    for name in ["tiny.pth", "tiny_protocol5.pth"] {
        let got = WeightFile::read(committed(name)).unwrap();
        assert_eq!(got.tensors, want.clone().into(), "{name}");
        let bytes = std::fs::read(committed(name)).unwrap();
        assert_eq!(WeightFile::from_bytes(committed(name), &bytes).unwrap(), got);
        // And on as a file of ours.
        let dir = tempfile::tempdir().unwrap();
        got.write(dir.path().join("a")).unwrap();
        assert_eq!(WeightFile::read(dir.path().join("a")).unwrap().tensors, got.tensors);
    }
}

#[test]
fn a_state_dict_by_itself_is_read() {
    let got = WeightFile::from_bytes(
        "m.pth",
        &checkpoint(&state(&tensor("torch.FloatStorage", "0", 6, 0, &[6], &[1]))),
    );
    let t = got.unwrap().tensors.remove("w").unwrap();
    assert_eq!(t, RawTensor { dtype: Dtype::F32, shape: vec![6], bytes: vec![1; 24] });
}

/// What is in a checkpoint but should not be, and a piece of the sentence that answers it.
#[test]
fn what_is_not_a_state_dict_is_refused() {
    let f32s = |numel, offset, shape: &[i32], strides: &[i32]| {
        checkpoint(&state(&tensor("torch.FloatStorage", "0", numel, offset, shape, strides)))
    };
    let stored = CompressionMethod::Stored;
    let good =
        [b"\x80\x02".to_vec(), state(&tensor("torch.FloatStorage", "0", 6, 0, &[6], &[1])), b".".to_vec()]
            .concat();
    let mut damaged = archive(&[("data.pkl", &good), ("data/0", &[77; 24])], stored);
    let at = damaged.windows(4).position(|w| w == [77; 4]).unwrap();
    damaged[at] = 78;
    let mut itself = b"}q\x00".to_vec();
    itself.extend([text("model"), b"h\x00s".to_vec()].concat());
    let mut legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    legacy.extend([0; 64]);
    let nested = |n: usize| [b"}".to_vec(), b"\x85".repeat(n)].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (legacy, "the format from before 1.6, which is not read; save it anew in Python: torch.save("),
        (archive(&[("other", b"x")], stored), "has no data.pkl"),
        (
            archive(&[("data.pkl", &good)], CompressionMethod::Deflated),
            "is compressed, which torch.save never does",
        ),
        (archive(&[("data.pkl", &good), ("byteorder", b"big")], stored), "big-endian"),
        (archive(&[("data.pkl", &good)], stored), "the entry \"m/data/0\" is not to be had"),
        (
            archive(&[("data.pkl", &good), ("data/0", &[1; 23])], stored),
            "6 elements of F32 in \"data/0\", which has 23",
        ),
        (
            archive(&[("data.pkl", &vec![b'N'; (8 << 20) + 1])], stored),
            "claims 8388609 bytes, more than the 8388608",
        ),
        (damaged, "the entry \"m/data/0\" is damaged (Invalid checksum)"),
        (
            checkpoint(b"cos\nsystem\n(X\x02\x00\x00\x00lstR"),
            "the Python object \"os.system\", which no state dict needs",
        ),
        (checkpoint(b"\x8c\x08builtins\x8c\x04eval\x93"), "the Python object \"builtins.eval\""),
        (checkpoint(b"ctorch\nload\n"), "(nothing was executed); save the weights alone"),
        (checkpoint(b"}(i__main__\nC\n"), "the instruction 0x69 at byte 4"),
        (checkpoint(b"N"), "it holds no state dict"),
        (checkpoint(b"}"), "it holds no tensors where"),
        (checkpoint(&state(b"K\x01")), "the first keys there are [\"w\"]"),
        (checkpoint(&itself), "it holds no tensors where"),
        (checkpoint(&nested(1_000_000)), "it holds no state dict"),
        (checkpoint(b""), "uses a value that is not there"),
        (checkpoint(b"(0"), "uses a value that is not there"),
        (checkpoint(b"t"), "lacks a mark"),
        (checkpoint(b"h\x07"), "recalls the value 7, never stored"),
        (checkpoint(b"}NNu"), "lacks a mark"),
        (checkpoint(b"}(Nu"), "fills what is no dict"),
        (checkpoint(b"N(NNu"), "fills what is no dict"),
        (checkpoint(b"}Na"), "appends to what is no list"),
        (checkpoint(b"NNb"), "changes an object that is no state dict"),
        (checkpoint(b"}X\xff\xff\xff\x7fab"), "ends within the instruction"),
        (checkpoint(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab"), "ends within the instruction"),
        (checkpoint(b"X\x01\x00\x00\x00\xff"), "is not UTF-8"),
        (checkpoint(b"cabc"), "ends within a name"),
        (checkpoint(b"NQ"), "storage is not described as torch.save does it"),
        (checkpoint(b"ccollections\nOrderedDict\nNR"), "not built as torch.save does it"),
        (checkpoint(b"}}R"), "not built as torch.save does it"),
        (
            checkpoint(&state(&tensor("torch.StringStorage", "0", 6, 0, &[6], &[1]))),
            "\"torch.StringStorage\"",
        ),
        (
            checkpoint(&state(&tensor("torch.DoubleStorage", "0", 6, 0, &[6], &[1]))),
            "6 elements of F64 in \"data/0\"",
        ),
        (
            checkpoint(&state(&tensor("torch.FloatStorage", "../0", 6, 0, &[6], &[1]))),
            "\"m/data/../0\" is not to be had",
        ),
        (f32s(6, 0, &[7], &[1]), "the tensor \"w\" reaches beyond its storage of 6 elements"),
        (f32s(6, 1, &[6], &[1]), "reaches beyond"),
        (f32s(6, 0, &[2, 2], &[5, 1]), "reaches beyond"),
        (f32s(6, 0, &[i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1]), "which cannot be"),
        (f32s(6, 0, &[3, 3], &[0, 1]), "repeats its storage's 6 elements to 9; save it contiguous"),
        (f32s(6, 0, &[2, 3], &[1]), "which cannot be"),
        (f32s(6, 0, &[-6], &[1]), "has no sizes as torch.save writes them"),
        (f32s(6, 0, &[6], &[-1]), "has no sizes as torch.save writes them"),
        (f32s(6, 0, &[1; 9], &[1; 9]), "has no sizes as torch.save writes them"),
        (f32s(6, -1, &[6], &[1]), "not built as torch.save does it"),
        (f32s(-6, 0, &[6], &[1]), "storage is not described as torch.save does it"),
    ];
    for (bytes, want) in cases {
        let got = WeightFile::from_bytes("m.pth", &bytes).unwrap_err().to_string();
        assert!(got.starts_with("m.pth: ") && got.contains(want), "wanted {want:?} in {got:?}");
        assert!(!got.contains('\n'), "{got:?} is not one line");
    }
}

/// A thousand names for one storage would take a thousand times the file's memory.
#[test]
fn a_small_file_cannot_ask_for_much() {
    let one = tensor("torch.FloatStorage", "0", 100_000, 0, &[100_000], &[1]);
    let mut body = [b"}".to_vec(), text("w"), one, b"q\x01s".to_vec()].concat();
    for i in 0..1000 {
        body.extend([text(&i.to_string()), b"h\x01s".to_vec()].concat());
    }
    let pickle = [b"\x80\x02".to_vec(), body, b".".to_vec()].concat();
    let bytes = archive(&[("data.pkl", &pickle), ("data/0", &[0; 400_000])], CompressionMethod::Stored);
    let got = WeightFile::from_bytes("m.pth", &bytes).unwrap_err().to_string();
    assert!(got.contains("its tensors would take 400400000 bytes, over eight times the file's"), "{got}");
}

/// Seeded damage to the archive, and to the pickle in a sound archive: an error or a file, never a panic.
#[test]
fn damaged_checkpoints_never_panic() {
    let mut next = dice(2);
    let mut damage = |bytes: &mut Vec<u8>| {
        for _ in 0..next(3) + 1 {
            match next(5) {
                0 if next(8) == 0 => bytes.truncate(next(bytes.len() + 1)),
                1 => bytes.insert(next(bytes.len() + 1), next(256) as u8),
                2 if !bytes.is_empty() => drop(bytes.remove(next(bytes.len()))),
                3 if !bytes.is_empty() => {
                    let at = next(bytes.len());
                    bytes[at] = next(256) as u8;
                }
                _ if !bytes.is_empty() => {
                    let at = next(bytes.len());
                    bytes[at] ^= 1 << next(8);
                }
                _ => {}
            }
        }
    };
    let mut accepted = 0;
    for name in ["tiny.pth", "tiny_protocol5.pth"] {
        let good = std::fs::read(committed(name)).unwrap();
        let mut entries = Vec::new();
        let mut zip = ZipArchive::new(Cursor::new(&good)).unwrap();
        for i in 0..zip.len() {
            let mut entry = zip.by_index(i).unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            entries.push((entry.name().split_once('/').unwrap().1.to_string(), bytes));
        }
        let pickle = entries.iter().position(|(name, _)| name == "data.pkl").unwrap();
        for case in 0..3000 {
            let bytes = if case % 2 == 0 {
                let mut bytes = good.clone();
                damage(&mut bytes);
                bytes
            } else {
                let mut entries = entries.clone();
                damage(&mut entries[pickle].1);
                let parts: Vec<_> = entries.iter().map(|(n, b)| (&n[..], &b[..])).collect();
                archive(&parts, CompressionMethod::Stored)
            };
            if let Ok(file) = WeightFile::from_bytes("damaged", &bytes) {
                accepted += 1;
                let data: usize = file.tensors.values().map(|t| t.bytes.len()).sum();
                assert!(data <= 8 * bytes.len(), "case {case}: more data than was allowed");
            }
        }
    }
    assert!(0 < accepted && accepted < 6000, "{accepted} of 6000 accepted");
}
