use inp_former::eval::heatmap::*;
#[test]
fn look() {
    let (w, h) = (320, 240);
    let mut rows = vec![];
    let mut pics = vec![];
    for i in 0..5usize {
        let mut p = Rgb::filled(w, h, [0, 0, 0]);
        for y in 0..h {
            for x in 0..w {
                let k = (y * w + x) * 3;
                let v = 120.0 + 60.0 * ((x as f32 / 17.0).sin() * (y as f32 / 23.0).cos());
                p.data[k] = (v * 0.8) as u8;
                p.data[k + 1] = v as u8;
                p.data[k + 2] = (v * 0.9) as u8;
            }
        }
        p.fill(60 + i * 30, 80, 30, 40, [200, 190, 170]);
        let map: Vec<f32> = (0..65536)
            .map(|q| {
                let (x, y) = ((q % 256) as f32 / 256.0 * w as f32, (q / 256) as f32 / 256.0 * h as f32);
                let d = ((x - (75.0 + 30.0 * i as f32)).powi(2) + (y - 100.0).powi(2)) / 900.0;
                0.03 + 0.4 * (-d).exp() * (i as f32 + 1.0) / 5.0 + 0.02 * (x / 40.0).sin()
            })
            .collect();
        let mask: Vec<u8> = (0..65536)
            .map(|q| {
                let (x, y) = ((q % 256) as f32 / 256.0 * w as f32, (q / 256) as f32 / 256.0 * h as f32);
                (x >= 60.0 + 30.0 * i as f32 && x < 90.0 + 30.0 * i as f32 && y >= 80.0 && y < 120.0) as u8
            })
            .collect();
        pics.push((p, map, mask));
    }
    for (i, (p, m, k)) in pics.iter().enumerate() {
        rows.push(SheetRow{picture:p,map:m,mask:if i==3 {None} else {Some(k)},title:["bottle/broken_large/000.png","The quick brown fox jumps over the lazy dog; 0123456789 (sphinx of black quartz) judge my vow","ABCDEFGHIJKLMNOPQRSTUVWXYZ","!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ abcdefghijklmnopqrstuvwxyz","good/é"][i],score:0.0123*(i as f32+1.0)});
    }
    let s = contact_sheet(
        &rows,
        &Sheet { title: "bottle: worst of 83 images", side: 256, scale: (0.02, 0.4), cell: 192, columns: 2 },
    )
    .unwrap();
    write_png(std::path::Path::new("/tmp/sheet.png"), s.width, s.height, &s.data).unwrap();
    let ramp: Vec<f32> = (0..40 * 512).map(|i| (i % 512) as f32 / 511.0).collect();
    write_png(std::path::Path::new("/tmp/ramp.png"), 512, 40, &colourise(&ramp, (0.0, 1.0)).unwrap())
        .unwrap();
}
