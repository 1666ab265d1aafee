//! `eval`: the files and their schema, every option, every layout from training to metrics, pictures that fail.

use serde_json::Value;

use super::{Place, keys, mask, picture, save};

const EVAL: &str = "eval --model model.safetensors --data data";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn json_csv_and_stdout_hold_the_seven_metrics() {
    let place = Place::with_model();
    let ran = place.run(&format!("{EVAL} --json new/m.json --csv new/m.csv --report new/r.html")).ok();
    let v = json(&place.text("new/m.json"));
    assert_eq!(v, json(&ran.out));
    assert_eq!(keys(&v), ["classes", "mean", "settings"]);
    assert_eq!(keys(&v["classes"]), ["bolt", "nut"]);
    let mut csv = csv::Reader::from_path(place.path("new/m.csv")).unwrap();
    let header = "class,images,image_auroc,image_ap,image_f1max,pixel_auroc,pixel_ap,pixel_f1max,pixel_aupro";
    assert_eq!(csv.headers().unwrap(), header.split(',').collect::<Vec<_>>());
    let rows: Vec<_> = csv.records().map(|r| r.unwrap()).collect();
    for (row, (name, one)) in rows.iter().zip([
        ("bolt", &v["classes"]["bolt"]),
        ("nut", &v["classes"]["nut"]),
        ("mean", &v["mean"]),
    ]) {
        assert_eq!(keys(one), ["image", "pixel", "images"]);
        assert_eq!(keys(&one["image"]), ["auroc", "ap", "f1max"]);
        assert_eq!(keys(&one["pixel"]), ["auroc", "ap", "f1max", "aupro"]);
        assert_eq!(one["images"], if name == "mean" { 8 } else { 4 });
        let values: Vec<f64> = ["image", "pixel"]
            .iter()
            .flat_map(|k| one[k].as_object().unwrap().values())
            .map(|x| x.as_f64().unwrap())
            .collect();
        assert!(values.iter().all(|x| (0.0..=1.0).contains(x)), "{one}");
        assert_eq!((&row[0], &row[1]), (name, &*one["images"].to_string()));
        assert_eq!(row.iter().skip(2).map(|f| f.parse().unwrap()).collect::<Vec<f64>>(), values);
    }
    assert_eq!((rows.len(), &v["mean"]["image"]["auroc"]), (3, &1.0.into()));
    let s = &v["settings"];
    assert_eq!(
        (&s["metrics"], &s["gt_binarize"], &s["zero_shot"]),
        (&"exact".into(), &"half".into(), &false.into())
    );
    assert_eq!((&s["model"], &s["data"]), (&"model.safetensors".into(), &"data".into()));
    assert!(place.text("new/r.html").contains("</html>"));
}

#[test]
fn options_change_what_they_should() {
    let place = Place::with_model();
    let run = |args: &str| json(&place.run(&format!("{EVAL} {args} --quiet")).ok().out);
    // A rim of grey is part of a defect for `any` alone.
    let mut soft = mask();
    (20..40).for_each(|x| soft.put_pixel(x, 45, image::Rgb([90; 3])));
    save(&place.path("data/nut/ground_truth/cut/0_mask.png"), &soft);
    let exact = run("");
    let official = run("--metrics official");
    assert_eq!(official["settings"]["metrics"], "official");
    let (a, b) = (&official["mean"]["pixel"]["aupro"], &exact["mean"]["pixel"]["aupro"]);
    assert!(a != b && (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= 0.05, "{a} {b}");
    let any = run("--gt-binarize any");
    assert_eq!(any["settings"]["gt_binarize"], "any");
    assert!(any["mean"]["image"] == exact["mean"]["image"] && any["mean"]["pixel"] != exact["mean"]["pixel"]);
    let zero = run("--zero-shot");
    assert!(zero["settings"]["zero_shot"] == true && zero["mean"]["pixel"] != exact["mean"]["pixel"]);
    let nut = run("--classes nut");
    assert_eq!(keys(&nut["classes"]), ["nut"]);
    assert_eq!(nut["mean"], exact["classes"]["nut"]);
}

#[test]
fn a_folder_of_models_gives_each_class_its_own() {
    let place = Place::new();
    place.train("--setting single --iterations 3 --out models").ok();
    let v = json(&place.run("eval --model models --data data").ok().out);
    for class in ["bolt", "nut"] {
        let alone =
            place.run(&format!("eval --model models/{class}.safetensors --data data --classes {class}"));
        assert_eq!(v["classes"][class], json(&alone.ok().out)["mean"]);
    }
}

#[test]
fn without_masks_pixel_metrics_are_null() {
    let place = Place::with_model();
    std::fs::remove_dir_all(place.path("data/bolt/ground_truth")).unwrap();
    let v = json(&place.run(&format!("{EVAL} --csv m.csv")).ok().out);
    for key in ["auroc", "ap", "f1max", "aupro"] {
        assert!(v["classes"]["bolt"]["pixel"][key].is_null());
        assert_eq!(v["mean"]["pixel"][key], v["classes"]["nut"]["pixel"][key]);
    }
    assert!(v["classes"]["bolt"]["image"]["auroc"].is_f64());
    assert!(place.text("m.csv").lines().any(|l| l.starts_with("bolt,4,") && l.ends_with(",,,,")));
    // Good pictures alone have neither kind of metric; a class without a test is said and left out.
    std::fs::remove_dir_all(place.path("data/bolt/test/cut")).unwrap();
    std::fs::remove_dir_all(place.path("data/nut/test")).unwrap();
    let ran = place.run(EVAL).ended(0, "warning: nut: no test pictures, skipped");
    let v = json(&ran.out);
    assert_eq!((keys(&v["classes"]), &v["mean"]["images"]), (vec!["bolt"], &2.into()));
    assert!(v["mean"]["image"]["auroc"].is_null() && v["mean"]["pixel"]["auroc"].is_null());
    std::fs::remove_dir_all(place.path("data/bolt/test")).unwrap();
    place.run(EVAL).ended(2, "no class could be evaluated");
}

#[test]
fn damaged_pictures_and_masks_are_named_and_the_rest_measured() {
    let place = Place::with_model();
    let before = json(&place.run(EVAL).ok().out);
    std::fs::write(place.path("data/nut/test/good/x.png"), "no picture").unwrap();
    let ran = place.run(EVAL).ended(1, "error: data/nut/test/good/x.png: this is not a picture");
    assert_eq!(json(&ran.out), before);
    std::fs::write(place.path("data/nut/ground_truth/cut/0_mask.png"), "no mask").unwrap();
    let ran = place.run(EVAL).ended(1, "error: data/nut/ground_truth/cut/0_mask.png: this is not a picture");
    let v = json(&ran.out);
    assert_eq!(
        (&v["classes"]["nut"]["images"], &v["classes"]["bolt"]),
        (&3.into(), &before["classes"]["bolt"])
    );
}

#[test]
fn visa_from_training_to_metrics() {
    let place = Place::new();
    let mut list = "object,split,label,image,mask\n".to_string();
    for i in 0..6 {
        save(&place.path(&format!("visa/candle/Data/Images/Normal/{i}.png")), &picture(i, false));
        let split = if i < 4 { "train" } else { "test" };
        list += &format!("candle,{split},normal,candle/Data/Images/Normal/{i}.png,\n");
    }
    save(&place.path("visa/candle/Data/Images/Anomaly/0.png"), &picture(7, true));
    save(&place.path("visa/candle/Data/Masks/Anomaly/0.png"), &mask());
    list += "candle,test,anomaly,candle/Data/Images/Anomaly/0.png,candle/Data/Masks/Anomaly/0.png\n";
    std::fs::create_dir(place.path("visa/split_csv")).unwrap();
    std::fs::write(place.path("visa/split_csv/1cls.csv"), list).unwrap();
    place.train("--data visa --iterations 10 --out m.safetensors").ended(0, "1 classes, 4 good images");
    let v = json(&place.run("eval --model m.safetensors --data visa").ok().out);
    assert_eq!((&v["settings"]["dataset"], &v["classes"]["candle"]["images"]), (&"visa".into(), &3.into()));
    assert!(v["mean"]["image"]["auroc"].is_f64() && v["mean"]["pixel"]["aupro"].is_f64(), "{v}");
}

#[test]
fn real_iad_from_training_to_metrics() {
    let place = Place::new();
    let at = |file: &str| place.path(&format!("iad/realiad_1024/zipper/{file}"));
    let entry = |path: &str, mask: &str, class: &str| {
        let mask = if mask.is_empty() { Value::Null } else { mask.into() };
        serde_json::json!({"category": "zipper", "image_path": path, "mask_path": mask, "anomaly_class": class})
    };
    (0..4).for_each(|i| save(&at(&format!("OK/{i}.jpg")), &picture(i, false)));
    save(&at("NG/AK/5.jpg"), &picture(5, true));
    save(&at("NG/AK/5.png"), &mask());
    let lists = serde_json::json!({
        "meta": {"prefix": "zipper/"},
        "train": (0..3).map(|i| entry(&format!("OK/{i}.jpg"), "", "OK")).collect::<Vec<_>>(),
        "test": [entry("OK/3.jpg", "", "OK"), entry("NG/AK/5.jpg", "NG/AK/5.png", "AK")],
    });
    std::fs::create_dir_all(place.path("iad/realiad_jsons/realiad_jsons")).unwrap();
    std::fs::write(place.path("iad/realiad_jsons/realiad_jsons/zipper.json"), lists.to_string()).unwrap();
    place.train("--data iad --iterations 10 --out m.safetensors").ended(0, "1 classes, 3 good images");
    let v = json(&place.run("eval --model m.safetensors --data iad").ok().out);
    assert_eq!(
        (&v["settings"]["dataset"], &v["classes"]["zipper"]["images"]),
        (&"real-iad".into(), &2.into())
    );
    assert!(v["mean"]["image"]["auroc"].is_f64() && v["mean"]["pixel"]["aupro"].is_f64(), "{v}");
}

#[test]
fn own_folder_with_defects() {
    let place = Place::with_model();
    (0..10).for_each(|i| save(&place.path(&format!("own/good/{i}.png")), &picture(i, false)));
    save(&place.path("own/scratch/0.png"), &picture(11, true));
    place.train("--data own --iterations 10 --out m.safetensors").ended(0, "1 classes, 8 good images");
    let ran = place.run("eval --model m.safetensors --data own").ended(0, "2 of 10 good pictures are kept");
    let v = json(&ran.out);
    assert_eq!((keys(&v["classes"]), &v["mean"]["images"]), (vec!["own"], &3.into()));
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_unicode() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with_model();
    let odd = std::ffi::OsStr::from_bytes(b"data/caf\xe9");
    std::fs::rename(place.path("data/nut"), place.dir.path().join(odd)).unwrap();
    let mut command = place.command("eval --model model.safetensors --data");
    let v = json(&super::Ran::new(command.arg(odd).output().unwrap()).ok().out);
    assert_eq!(v["settings"]["data"], "data/caf\u{fffd}");
    let records = place.run("score --model model.safetensors data --maps maps").ok().records();
    assert!(records.len() == 18 && records.iter().any(|r| r["path"] == "data/caf\u{fffd}/test/good/0.png"));
}
