//! Every layout, and what can be wrong with each.

use std::path::Path;

use inp_former::data::dataset::*;
use tempfile::TempDir;

/// A data set's folder, with the files named (pictures are empty: nothing is decoded here).
fn tree(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        write(dir.path(), file, "");
    }
    dir
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn open(dir: &TempDir) -> inp_former::Result<Dataset> {
    Dataset::open(dir.path(), None, &[])
}

#[track_caller]
fn refused(dir: &TempDir, words: &[&str]) {
    let text = open(dir).unwrap_err().to_string();
    assert!(
        words.iter().all(|w| text.contains(w)) && !text.contains('\n'),
        "`{text}` lacks one of {words:?}"
    );
}

/// `train` and `test` of a class, as paths below the root: `TRAIN` and `TEST DEFECT MASK`.
fn shown(data: &Dataset, class: usize) -> (Vec<String>, Vec<String>) {
    let below = |p: &Path| p.strip_prefix(&data.root).unwrap().to_string_lossy().replace('\\', "/");
    let class = &data.classes[class];
    let test = class.test.iter().map(|s| {
        let mask = s.mask.as_ref().map_or("-".into(), |m| below(m));
        format!("{} {} {mask}", below(&s.path), s.defect.as_deref().unwrap_or("-"))
    });
    (class.train.iter().map(|p| below(p)).collect(), test.collect())
}

fn names(data: &Dataset) -> Vec<&str> {
    data.classes.iter().map(|c| c.name.as_str()).collect()
}

const MVTEC: [&str; 14] = [
    "license.txt",
    "nut/train/good/001.png",
    "nut/train/good/000.PNG",
    "nut/train/good/.hidden.png",
    "nut/train/good/Thumbs.db",
    "nut/test/good/000.png",
    "nut/test/cut/001.jpg",
    "nut/test/cut/000.JPG",
    "nut/ground_truth/cut/000_mask.png",
    "nut/ground_truth/cut/001_mask.png",
    "nut/test/bent/7.bmp",
    "nut/ground_truth/bent/7.png",
    "cable/train/good/0.tif",
    ".cache/train/good/0.png",
];

#[test]
fn mvtec() {
    let dir = tree(&MVTEC);
    let data = open(&dir).unwrap();
    assert_eq!((data.layout, names(&data)), (Layout::Mvtec, vec!["cable", "nut"]));
    let (train, test) = shown(&data, 1);
    assert_eq!(train, ["nut/train/good/000.PNG", "nut/train/good/001.png"]);
    assert_eq!(
        test,
        [
            "nut/test/bent/7.bmp bent nut/ground_truth/bent/7.png",
            "nut/test/cut/000.JPG cut nut/ground_truth/cut/000_mask.png",
            "nut/test/cut/001.jpg cut nut/ground_truth/cut/001_mask.png",
            "nut/test/good/000.png - -",
        ]
    );
    assert_eq!(data.notes, ["cable: there is no test folder"]);
    // One class by name, one class as the root itself, a name that is not there.
    let nut = Dataset::open(dir.path(), Some(Layout::Mvtec), &["nut".into()]).unwrap();
    assert_eq!(nut.classes, data.classes[1..]);
    let alone = Dataset::open(&dir.path().join("nut"), None, &[]).unwrap();
    assert_eq!(alone.classes, data.classes[1..]);
    let e = Dataset::open(dir.path(), None, &["screw".into()]).unwrap_err().to_string();
    assert!(e.contains("`screw`") && e.contains("cable, nut"), "{e}");
}

#[test]
fn masks_pair_by_stem_or_by_order_or_not_at_all() {
    let base = ["a/train/good/0.png", "a/test/cut/0.png", "a/test/cut/1.png"];
    let with = |more: &[&str]| tree(&[&base[..], more].concat());
    // No stem matches: sorted order, and it is said.
    let data = open(&with(&["a/ground_truth/cut/x.png", "a/ground_truth/cut/b.png"])).unwrap();
    let masks: Vec<_> = data.classes[0].test.iter().map(|s| s.mask.clone().unwrap()).collect();
    assert!(masks[0].ends_with("b.png") && masks[1].ends_with("x.png"));
    assert!(data.notes[0].contains("sorted order"), "{:?}", data.notes);
    // Unequal counts; some stems match, others not.
    refused(&with(&["a/ground_truth/cut/0.png"]), &["a/cut has 2 pictures but 1 masks"]);
    refused(&with(&["a/ground_truth/cut/0_mask.png", "a/ground_truth/cut/x.png"]), &["a/cut: 1 ", "1.png"]);
    // No masks at all, and masks for another defect only.
    let data = open(&with(&[])).unwrap();
    assert!(data.classes[0].test.iter().all(|s| s.mask.is_none()) && data.notes.is_empty());
    let data = open(&with(&["a/test/hole/0.png", "a/ground_truth/hole/0.png"])).unwrap();
    assert!(data.notes[0].contains("no masks for `cut`"), "{:?}", data.notes);
}

#[test]
fn what_is_wrong_with_mvtec_is_said() {
    refused(&tree(&[]), &["no known layout"]);
    refused(&tree(&["nut/readme.txt"]), &["no known layout"]);
    refused(&tree(&["nut/train/good/readme.txt"]), &["class `nut` has no training pictures"]);
    refused(&tree(&["nut/train/good/0.png", "bolt/test/good/0.png"]), &["class `bolt` has no train/good"]);
    let e = Dataset::open(Path::new("does/not/exist"), None, &[]).unwrap_err().to_string();
    assert!(e.contains("no such folder"), "{e}");
    let dir = tree(&["0.png"]);
    let e = Dataset::open(&dir.path().join("0.png"), None, &[]).unwrap_err().to_string();
    assert!(e.contains("a file, not a folder"), "{e}");
    let e = Dataset::open(dir.path(), Some(Layout::Mvtec), &[]).unwrap_err().to_string();
    assert!(e.contains("train/good"), "{e}");
    let data = open(&tree(&["a/train/good/0.png", "a/test/0.png"])).unwrap();
    assert!(data.notes[0].contains("1 pictures directly in test/"), "{:?}", data.notes);
}

#[test]
fn plain_folders() {
    let dir = tree(&["1.png", "0.jpeg", "notes.txt", "sub/2.png"]);
    let data = open(&dir).unwrap();
    assert_eq!(
        (data.layout, shown(&data, 0)),
        (Layout::Folder, (vec!["0.jpeg".into(), "1.png".into()], vec![]))
    );
    assert_eq!(names(&data), [dir.path().file_name().unwrap().to_str().unwrap()]);
    refused(&tree(&["good/readme.txt"]), &["no pictures"]);
}

#[test]
fn good_beside_defects() {
    let mut files: Vec<String> = (0..6).map(|i| format!("good/{i}.png")).collect();
    files.extend(["scratch/0.png".into(), "dent/0.png".into(), "ground_truth/dent/0_mask.png".into()]);
    let dir = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let data = open(&dir).unwrap();
    let (train, test) = shown(&data, 0);
    assert_eq!(train, ["good/0.png", "good/1.png", "good/2.png", "good/3.png", "good/5.png"]);
    assert_eq!(
        test,
        ["dent/0.png dent ground_truth/dent/0_mask.png", "good/4.png - -", "scratch/0.png scratch -"]
    );
    assert!(
        data.notes.iter().any(|n| n.contains("1 of 6 good pictures are kept for testing")),
        "{:?}",
        data.notes
    );
    // Without defects all are trained on.
    let data = open(&tree(&["good/0.png", "good/1.png", "good/2.png", "good/3.png", "good/4.png"])).unwrap();
    assert_eq!((data.classes[0].train.len(), data.classes[0].test.len()), (5, 0));
}

#[test]
#[cfg(unix)]
fn links_in_a_circle_do_not_hang() {
    let dir = tree(&["nut/train/good/0.png", "nut/test/good/0.png"]);
    for at in ["loop", "nut/test/loop", "nut/train/good/loop", "nut/train/good/loop.png"] {
        std::os::unix::fs::symlink(dir.path(), dir.path().join(at)).unwrap();
    }
    std::os::unix::fs::symlink("self", dir.path().join("self")).unwrap();
    let data = Dataset::open(dir.path(), None, &["nut".into()]).unwrap();
    assert_eq!((data.classes[0].train.len(), data.classes[0].test.len()), (1, 1));
}

const VISA: &str = "object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/1.JPG,
candle,train,normal,candle/Data/Images/Normal/0.JPG,
candle,test,normal,candle/Data/Images/Normal/2.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png
";

fn visa(csv: &str) -> TempDir {
    let dir = tree(&[
        "candle/Data/Images/Normal/0.JPG",
        "candle/Data/Images/Normal/1.JPG",
        "candle/Data/Images/Normal/2.JPG",
        "candle/Data/Images/Anomaly/0.JPG",
        "candle/Data/Masks/Anomaly/0.png",
    ]);
    write(dir.path(), "split_csv/1cls.csv", csv);
    dir
}

#[test]
fn visa_as_published_and_after_the_split() {
    let data = open(&visa(VISA)).unwrap();
    assert_eq!((data.layout, names(&data)), (Layout::Visa, vec!["candle"]));
    assert!(data.classes[0].numbered_masks);
    let (train, test) = shown(&data, 0);
    assert_eq!(train, ["candle/Data/Images/Normal/0.JPG", "candle/Data/Images/Normal/1.JPG"]);
    assert_eq!(
        test,
        [
            "candle/Data/Images/Anomaly/0.JPG bad candle/Data/Masks/Anomaly/0.png",
            "candle/Data/Images/Normal/2.JPG - -",
        ]
    );
    // A byte-order mark, spaces, other columns and another order of them change nothing.
    let mut csv = "\u{feff}extra,mask,image, label,split,object\n".to_string();
    for line in VISA.lines().skip(1) {
        let f: Vec<&str> = line.split(',').collect();
        csv += &format!("x,{},{}, {} ,{},{}\r\n", f[4], f[3], f[2], f[1], f[0]);
    }
    assert_eq!(shown(&open(&visa(&csv)).unwrap(), 0), (train, test));
    let split = tree(&[
        "candle/train/good/0.JPG",
        "candle/test/good/1.JPG",
        "candle/test/bad/2.JPG",
        "candle/ground_truth/bad/2.png",
    ]);
    let data = Dataset::open(split.path(), Some(Layout::Visa), &[]).unwrap();
    assert!(!data.classes[0].numbered_masks);
    assert_eq!(
        shown(&data, 0).1,
        ["candle/test/bad/2.JPG bad candle/ground_truth/bad/2.png", "candle/test/good/1.JPG - -"]
    );
}

#[test]
fn what_is_wrong_with_visa_is_said() {
    refused(&visa(""), &["1cls.csv", "names no pictures"]);
    refused(&visa("object,split,label,image\ncandle,train,normal,x\n"), &["line 2", "mask"]);
    refused(&visa("object,split,label,image,mask\ncandle,train\n"), &["1cls.csv", "line: 2"]);
    refused(
        &visa(&VISA.replace("Normal/1.JPG", "Normal/9.JPG")),
        &["line 2", "candle/Data/Images/Normal/9.JPG"],
    );
    refused(&visa(&VISA.replace("Anomaly/0.png", "Anomaly/9.png")), &["line 5", "Masks/Anomaly/9.png"]);
    refused(&visa(&VISA.replace("test,normal", "test,fine")), &["line 4", "`fine`"]);
    refused(&visa(&VISA.replace("test,normal", "val,normal")), &["line 4", "`val`"]);
    refused(&visa(&VISA.replace("test,anomaly", "train,anomaly")), &["line 5", "training"]);
    refused(&visa(&VISA.replace(",train,", ",test,")), &["`candle` has no training pictures"]);
    let data = open(&visa(&VISA.replace("candle/Data/Masks/Anomaly/0.png", ""))).unwrap();
    assert_eq!(data.notes, ["candle: 1 anomalies have no mask"]);
}

const REAL_IAD: &str = r#"{"meta": {"prefix": "audiojack/"},
"train": [{"category": "audiojack", "image_path": "OK/S1/b.jpg", "mask_path": null, "anomaly_class": "OK"},
          {"image_path": "OK/S1/a.jpg", "anomaly_class": "OK"}],
"test": [{"image_path": "OK/S2/c.jpg", "mask_path": null, "anomaly_class": "OK"},
         {"image_path": "NG/AK/d.jpg", "mask_path": "NG/AK/d.png", "anomaly_class": "AK"}]}"#;

fn real_iad(json: &str) -> TempDir {
    let at = "realiad_1024/audiojack";
    let files = ["OK/S1/a.jpg", "OK/S1/b.jpg", "OK/S2/c.jpg", "NG/AK/d.jpg", "NG/AK/d.png"];
    let dir = tree(&files.map(|f| format!("{at}/{f}")).each_ref().map(String::as_str));
    write(dir.path(), "realiad_jsons/realiad_jsons/audiojack.json", json);
    dir
}

#[test]
fn real_iad_lists() {
    let dir = real_iad(REAL_IAD);
    let data = open(&dir).unwrap();
    assert_eq!((data.layout, names(&data)), (Layout::RealIad, vec!["audiojack"]));
    let at = |f: &str| format!("realiad_1024/audiojack/{f}");
    assert_eq!(
        shown(&data, 0),
        (
            vec![at("OK/S1/a.jpg"), at("OK/S1/b.jpg")],
            vec![format!("{} AK {}", at("NG/AK/d.jpg"), at("NG/AK/d.png")), at("OK/S2/c.jpg") + " - -"],
        )
    );
    // A class that is listed but was not downloaded is left out, unless it is asked for.
    write(dir.path(), "realiad_jsons/realiad_jsons/zipper.json", REAL_IAD);
    let data = open(&dir).unwrap();
    assert_eq!((names(&data), data.notes.len()), (vec!["audiojack"], 1));
    let e = Dataset::open(dir.path(), None, &["zipper".into()]).unwrap_err().to_string();
    assert!(e.contains("realiad_1024/zipper"), "{e}");
    let e = Dataset::open(dir.path(), None, &["phone".into()]).unwrap_err().to_string();
    assert!(e.contains("audiojack, zipper"), "{e}");
}

#[test]
fn what_is_wrong_with_real_iad_is_said() {
    refused(&real_iad("{"), &["audiojack.json", "line 1"]);
    refused(&real_iad("{\"train\": []}"), &["audiojack.json", "`test`"]);
    refused(
        &real_iad(&REAL_IAD.replace("\"image_path\": \"OK/S2", "\"picture\": \"OK/S2")),
        &["`image_path`", "line 4"],
    );
    refused(&real_iad(&REAL_IAD.replace("S1/a.jpg", "S1/z.jpg")), &["train[1]", "OK/S1/z.jpg"]);
    refused(&real_iad(&REAL_IAD.replace("AK/d.png", "AK/z.png")), &["test[1]", "NG/AK/z.png"]);
    refused(
        &real_iad(&REAL_IAD.replace("a.jpg\", \"anomaly_class\": \"OK", "a.jpg\", \"anomaly_class\": \"BX")),
        &["train[1]", "`BX`"],
    );
    refused(&real_iad("{\"train\": [], \"test\": []}"), &["`audiojack` has no training pictures"]);
    refused(&tree(&["realiad_1024/audiojack/OK/a.jpg"]), &["realiad_jsons"]);
    refused(&tree(&["realiad_1024/a/OK/a.jpg", "realiad_jsons/realiad_jsons/x.txt"]), &["no json files"]);
    let data = open(&real_iad(&REAL_IAD.replace("\"NG/AK/d.png\"", "\"\""))).unwrap();
    assert_eq!(data.notes, ["audiojack: 1 defects have no mask"]);
}
