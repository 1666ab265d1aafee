//! `info`: what this build and this machine can do.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use inp_former::engine::Precision;
use inp_former::ops::attention::cuda as attention;
use inp_former::ops::inp_coefficients::cuda as inp_coefficients;
use inp_former::ops::inp_decode::cuda as inp_decode;
use inp_former::ops::inp_extract::cuda as inp_extract;
use inp_former::ops::inp_factors::cuda as inp_factors;
use inp_former::ops::linear::cuda as linear;
use inp_former::ops::patch_embed::cuda as patch_embed;
use inp_former::runtime::cuda::cost::{Candidate, Prediction, pick};
use inp_former::runtime::cuda::image::IMAGES;
use inp_former::runtime::cuda::{self, Gpu, Machine};
use inp_former::runtime::{Cpu, DType, Tier};
use inp_former::{Error, Result};
use serde_json::{Value, json};

use super::{Common, Done, fit, print};

#[derive(Args)]
pub struct Info {
    /// Also show which kernels there are, which are chosen, and why
    #[arg(long)]
    kernels: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Info {
    pub fn run(self, common: &Common) -> Result<Done> {
        let cpu = Cpu::new(common.threads.map(usize::from))?;
        let gpus = match common.device.as_str() {
            "cpu" | "auto" => cuda::count().and_then(|n| (0..n).map(Gpu::open).collect()),
            _ => Ok(vec![common.gpu()?]),
        };
        let (mut have, mut lack) = (Vec::new(), Vec::new());
        for tier in Tier::ALL {
            if tier.is_supported() { have.push(tier.name()) } else { lack.push(tier.name()) }
        }
        let tier = cpu.tier().name();
        let auto = Precision::Auto.on_cpu(&cpu)?.name();
        let precisions = [Precision::F32, Precision::Of(DType::Bf16), Precision::Int8]
            .map(|p| p.on_cpu(&cpu).map(|p| p.name()));
        let precisions: Vec<_> = precisions.into_iter().flatten().collect();
        let mut archs: Vec<u32> = IMAGES.iter().map(|i| i.arch).collect();
        archs.sort_unstable();
        archs.dedup();
        let first = gpus.iter().flatten().next();
        let of = first.map_or("an A100, as there is no GPU", Gpu::name);
        let machine = first.map_or(Machine::A100, Machine::from);
        let dtype = common.precision()?.on_cuda().unwrap_or(DType::Bf16);
        let describe = |g: &Gpu| {
            json!({
                "name": g.name(), "arch": g.arch(), "multiprocessors": g.sms(), "emulated": g.is_emulated(),
            })
        };
        if self.json {
            let found: Vec<Value> = gpus.iter().flatten().map(describe).collect();
            let why = gpus.as_ref().err().map(ToString::to_string);
            let mut v = json!({
                "version": env!("CARGO_PKG_VERSION"), "device": "cpu", "threads": cpu.threads(), "simd": tier,
                "simd_supported": have, "precisions": precisions, "precision": auto, "gpus": found, "no_gpu_because": why,
                "cuda_images": archs, "cuda_precisions": DType::ALL.map(DType::name),
            });
            if self.kernels {
                v["kernels"] = kernels().into_iter().map(Kernel::json).collect();
                let choices = choices(&machine, dtype);
                v["choices"] = choices.iter().map(|c| c.json(&machine)).collect::<Result<_>>()?;
                v["choices_for"] = json!({ "gpu": of, "precision": dtype.name() });
            }
            print(&format!("{v:#}\n"))?;
            return Ok(Done::All);
        }
        let lacking = if lack.is_empty() { String::new() } else { format!(" (not: {})", lack.join(", ")) };
        let mut text = format!(
            "inp-former    {}\nprocessor     {} threads; {}, auto is {auto}\ninstructions  {tier}; this processor has {}{lacking}; \
             INP_SIMD=NAME chooses another\n",
            env!("CARGO_PKG_VERSION"),
            cpu.threads(),
            precisions.join(", "),
            have.join(", "),
        );
        match &gpus {
            Ok(all) => all.iter().for_each(|g| {
                let kind = if g.is_emulated() { "emulated GPU " } else { "GPU          " };
                let (name, arch, sms) = (g.name(), g.arch(), g.sms());
                text += &format!("{kind} {name}, sm_{arch}, {sms} multiprocessors; bf16, f16, tf32\n");
            }),
            Err(e) => text += &format!("GPU           none: {e}\n"),
        }
        text += &match archs.as_slice() {
            [] => "cuda images   none in this build, as there was no nvcc: run tools/install-cuda-toolkit and build again\n".into(),
            _ => format!(
                "cuda images   {}\n",
                archs.iter().map(|a| format!("sm_{a}")).collect::<Vec<_>>().join(", ")
            ),
        };
        if self.kernels {
            text += &format!(
                "kernels       every op has one CPU body, compiled for each instruction set; {tier} was chosen {}\n",
                match std::env::var_os("INP_SIMD") {
                    Some(_) => "by INP_SIMD",
                    None => "as the best that this processor has",
                }
            );
            if !archs.is_empty() {
                let (mut all, mut chosen) = (table(), chosen(&machine, dtype)?);
                let of_all = fit(&mut all, None, &["static shared bytes"]);
                let of_chosen = fit(&mut chosen, Some("others µs"), &["others µs", "waves", "bound by"]);
                text += &format!(
                    "{all}\n{of_all}chosen for {of}, {} at 392 pixels: the shortest predicted time, or what INP_KERNEL=stem=variant,… asks \
                     for; predicted, not measured, without the launch itself\n{chosen}\n{of_chosen}",
                    dtype.name(),
                );
            }
        }
        print(&text)?;
        Ok(Done::All)
    }
}

/// An embedded kernel.
struct Kernel {
    name: &'static str,
    arch: u32,
    registers: u32,
    spills: u32,
    shared: u32,
}

impl Kernel {
    fn json(self) -> Value {
        json!({
            "kernel": self.name, "arch": self.arch, "registers": self.registers, "spills": self.spills,
            "static_shared": self.shared,
        })
    }
}

fn kernels() -> Vec<Kernel> {
    let of = |i: &'static cuda::image::Image| {
        i.kernels.iter().map(|k| Kernel {
            name: k.name,
            arch: i.arch,
            registers: k.registers,
            spills: k.spills,
            shared: k.shared,
        })
    };
    IMAGES.iter().flat_map(of).collect()
}

fn table() -> Table {
    let mut t = Table::new();
    t.load_preset(presets::UTF8_BORDERS_ONLY);
    t.set_header(["kernel", "for", "registers", "spilled bytes", "static shared bytes"]);
    for k in kernels() {
        let numbers = [k.registers, k.spills, k.shared].map(|x| x.to_string());
        t.add_row([k.name.to_string(), format!("sm_{}", k.arch)].into_iter().chain(numbers));
    }
    t.column_iter_mut().skip(2).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    t
}

/// Names of the variants of every stem that has some, as `INP_KERNEL` takes them.
pub fn variants(m: &Machine, dtype: DType) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(_, Vec<_>)> = Vec::new();
    for c in choices(m, dtype) {
        if all.iter().all(|(stem, _)| *stem != c.stem) {
            all.push((c.stem, c.candidates.iter().filter(|c| c.fits(m)).map(|c| c.name).collect()));
        }
    }
    all
}

/// A launch of a model, and what the model of costs says of its variants.
struct Choice {
    model: &'static str,
    batch: usize,
    stem: &'static str,
    launch: &'static str,
    candidates: Vec<Candidate>,
}

/// Every launch that has variants, of the published sizes at 392 pixels.
fn choices(m: &Machine, dtype: DType) -> Vec<Choice> {
    const SIDE: usize = 28;
    const PREFIX: usize = 5;
    let mut all = Vec::new();
    for (model, heads, blocks) in [("S", 6, 8), ("B", 12, 8), ("L", 16, 8)] {
        for batch in [1, 8] {
            let (channels, tokens) = (64 * heads, SIDE * SIDE);
            let mut put =
                |stem, launch, candidates| all.push(Choice { model, batch, stem, launch, candidates });
            let patches = patch_embed::Shape { batch, side: SIDE, prefix: PREFIX, channels };
            put("patch_embed", "", patch_embed::candidates(dtype, m, &patches));
            for (launch, outputs, inputs) in [("qkv", 3, 1), ("proj", 1, 1), ("fc1", 4, 1), ("fc2", 1, 4)] {
                let rows = batch * (tokens + PREFIX);
                let s = linear::Shape { rows, outputs: outputs * channels, inputs: inputs * channels };
                put("linear", launch, linear::candidates(dtype, m, &s, launch == "fc1"));
            }
            let s = attention::Shape { batch, tokens: tokens + PREFIX, heads };
            put("attention", "", attention::candidates(dtype, m, &s));
            let s = inp_extract::Shape { batch, tokens, channels, heads, prototypes: 6 };
            put("inp_extract", "", inp_extract::candidates(dtype, &s));
            put("inp_factors", "", inp_factors::candidates(dtype, &s, blocks));
            put("inp_coefficients", "", inp_coefficients::candidates(dtype, m, &s));
            put("inp_decode_fc1", "", inp_decode::fc1_candidates(dtype, m, &s));
            put("inp_decode", "fc2", inp_decode::candidates(dtype, m, &s));
        }
    }
    all
}

impl Choice {
    /// The variant that is used, and whether `INP_KERNEL` asks for it.
    fn picked(&self, m: &Machine) -> Result<(&'static str, bool)> {
        let asked = cuda::asked(self.stem);
        pick(self.stem, m, &self.candidates, asked.as_deref()).map(|name| (name, asked.is_some()))
    }
    /// Every candidate with its prediction, the fastest first.
    fn sorted(&self, m: &Machine) -> Vec<(&Candidate, Prediction)> {
        let mut all: Vec<_> = self.candidates.iter().map(|c| (c, c.predict(m))).collect();
        all.sort_by(|(_, a), (_, b)| a.us.total_cmp(&b.us).then(a.computing.total_cmp(&b.computing)));
        all
    }
    fn json(&self, m: &Machine) -> Result<Value> {
        let (picked, asked) = self.picked(m)?;
        let candidate = |(c, p): (&Candidate, Prediction)| {
            json!({
                "variant": c.name, "predicted_us": p.us, "bound": p.bound, "waves": p.waves, "fits": c.fits(m),
            })
        };
        Ok(json!({
            "model": self.model, "batch": self.batch, "stem": self.stem, "launch": self.launch, "picked": picked,
            "asked_for": asked, "candidates": self.sorted(m).into_iter().map(candidate).collect::<Vec<_>>(),
        }))
    }
}

/// What each launch gets, why, and what else there is.
fn chosen(m: &Machine, dtype: DType) -> Result<Table> {
    let mut t = Table::new();
    t.load_preset(presets::UTF8_BORDERS_ONLY);
    t.set_header(["model", "batch", "launch", "variant", "predicted µs", "waves", "bound by", "others µs"]);
    for c in choices(m, dtype) {
        let (picked, asked) = c.picked(m)?;
        let sorted = c.sorted(m);
        let of = sorted.iter().find(|(c, _)| c.name == picked).map(|(_, p)| *p);
        let Prediction { us, waves, bound, .. } = of.ok_or_else(|| Error::usage("no candidate"))?;
        let other = |(c, p): &(&Candidate, Prediction)| {
            (c.name != picked).then(|| match c.fits(m) {
                true => format!("{}\u{a0}{:.1}", c.name, p.us),
                false => format!("{} does not fit", c.name),
            })
        };
        t.add_row([
            c.model.into(),
            c.batch.to_string(),
            format!("{} {}", c.stem, c.launch),
            format!("{picked}{}", if asked { " (INP_KERNEL)" } else { "" }),
            format!("{us:.1}"),
            format!("{waves:.1}"),
            bound.into(),
            sorted.iter().filter_map(other).collect::<Vec<_>>().join(", "),
        ]);
    }
    for i in [1, 4, 5] {
        if let Some(c) = t.column_mut(i) {
            c.set_cell_alignment(CellAlignment::Right);
        }
    }
    Ok(t)
}
