//! The forms of the ISA's instructions that `forms/isa.txt` writes down, as PTX.

use inp_cuda_emulator::ptx::ast::Type;

/// A line of the list: its section, the words as written and every instruction that it stands for.
pub struct Forms {
    pub section: String,
    pub target: String,
    pub syntax: String,
    pub all: Vec<String>,
}

/// Every choice of `(a|b)` taken.
fn expand(s: &str) -> Vec<String> {
    let Some(open) = s.find('(') else { return vec![s.to_owned()] };
    let (mut depth, mut from, mut choices, mut close) = (0, open + 1, vec![], open);
    for (n, c) in s.char_indices().skip(open) {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => {
                choices.push(&s[from..n]);
                close = n;
                break;
            }
            ')' => depth -= 1,
            '|' if depth == 1 => {
                choices.push(&s[from..n]);
                from = n + 1;
            }
            _ => {}
        }
    }
    let tails = expand(&s[close + 1..]);
    let heads = choices.iter().flat_map(|c| expand(c));
    heads
        .flat_map(|h| tails.iter().map(move |t| (h.clone(), t)))
        .map(|(h, t)| format!("{}{h}{t}", &s[..open]))
        .collect()
}

/// Puts registers and addresses where the operands' letters are.
fn instruction(form: &str) -> String {
    let (spelling, operands) = form.split_once(' ').unwrap_or((form, ""));
    let words: Vec<&str> = spelling.split('.').collect();
    let has = |w: &str| words.contains(&w);
    let types: Vec<Type> = words.iter().filter_map(|w| Type::named(w)).collect();
    let letter = |n: usize| match types.get(n).map_or(32, |t| t.bits()) {
        1 => "p",
        8 | 16 => "h",
        32 => "r",
        64 => "d",
        _ => "q",
    };
    let count = if has("v8") {
        8
    } else if has("v4") {
        4
    } else if has("v2") {
        2
    } else {
        1
    };
    let place = ["global", "shared", "shared::cta", "shared::cluster", "const", "local", "param"]
        .iter()
        .find(|s| has(s));
    let mut next = 0;
    let mut register = |letter: &str| {
        next += 1;
        format!("%{letter}{}", next % 16)
    };
    let mut set = |letter: &str, n: usize| {
        let all: Vec<String> = (0..n).map(|_| register(letter)).collect();
        format!("{{{}}}", all.join(", "))
    };
    let (mut out, mut rest) = (String::new(), operands);
    while !rest.is_empty() {
        let n = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"*_%.".contains(c)).unwrap_or(rest.len());
        let (token, after) = if n == 0 { rest.split_at(1) } else { rest.split_at(n) };
        rest = after;
        let one = |set: &mut dyn FnMut(&str, usize) -> String, l: &str| {
            set(l, 1).trim_matches(['{', '}']).to_owned()
        };
        out += &match token.split_once('*') {
            Some((l, n)) => set(l, n.parse().unwrap()),
            None => match token {
                "h" | "r" | "d" | "q" | "p" => one(&mut set, token),
                "T" => one(&mut set, letter(0)),
                "U" => one(&mut set, letter(1)),
                "P" => format!("{}|{}", one(&mut set, "p"), one(&mut set, "p")),
                "VT" | "VR" if count == 1 => one(&mut set, letter(0)),
                "VT" | "VR" | "W" => set(letter(0), count),
                "M" => set("r", if has("x4") { 4 } else { 1 + usize::from(has("x2")) }),
                "M2" => set("r", if has("x2") { 4 } else { 2 }),
                "rB" => one(&mut set, "r") + ".b1",
                "rH" => one(&mut set, "r") + ".h1",
                "rM" => one(&mut set, "r") + if spelling.contains('4') { ".b20" } else { ".h1" },
                "rN" => one(&mut set, "r") + if spelling.contains("4.") { ".b7610" } else { ".h21" },
                "AT" | "AB" | "g" | "s" | "c" | "l" | "a" => match (token, place) {
                    ("g", _) | ("AT", Some(&"global")) => "%d30".into(),
                    ("s", _) | (_, Some(&("shared" | "shared::cta" | "shared::cluster"))) => "%r30".into(),
                    (_, Some(&"const")) => "constants".into(),
                    (_, Some(&"local")) => "locals".into(),
                    (_, Some(&"param")) if words[0] == "st" => "args".into(),
                    (_, Some(&"param")) => "n".into(),
                    _ => "%d31".into(),
                },
                "ZZ" => String::new(),
                "Zp" | "rZp" | "_Zp" => {
                    format!("{}|{}", token[..token.len() - 2].replace('r', "%r9"), one(&mut set, "p"))
                }
                "LABEL" => "DONE".into(),
                "LABELS" => "TARGETS".into(),
                "CALL" => "(ret0), f, (arg0)".into(),
                t => t.to_owned(),
            },
        };
    }
    let combined = words[0].starts_with("set") && (has("and") || has("or") || has("xor"));
    format!("{spelling} {out}{};", if combined { ", %p15" } else { "" })
}

/// A module with these instructions, each on a line of its own.
pub fn module(instructions: &[String], target: &str) -> String {
    format!(
        ".version 9.0\n.target sm_{target}\n.address_size 64\n.const .align 16 .b8 constants[64];\n\
         .func (.param .b32 y) f (.param .b32 x) {{ ret; }}\n\
         .visible .entry k(.param .align 16 .b8 n[64])\n{{ .reg .b8 %b<2>; .reg .b16 %h<32>; .reg .b32 %r<32>; .reg .b64 %d<32>; .reg .b128 %q<32>; .reg .pred %p<32>; \
         .local .align 16 .b8 locals[64]; .shared .align 16 .b8 shareds[1024]; .param .b32 ret0; .param .b32 arg0; .param .align 16 .b8 args[64]; TARGETS: .branchtargets DONE;\n{}\nDONE: ret;\n}}\n",
        instructions.join("\n")
    )
}

/// The list.
pub fn list() -> Vec<Forms> {
    let mut section = String::new();
    let mut all = vec![];
    for line in include_str!("forms/isa.txt").lines() {
        if let Some(s) = line.strip_prefix("## ") {
            section = s.to_owned();
        } else if !line.is_empty() && !line.starts_with('#') {
            let (target, form) = match line.strip_prefix('@') {
                Some(l) => l.split_once(' ').unwrap(),
                None => ("80", line),
            };
            let syntax = form.split_once(' ').map_or(form, |f| f.0).to_owned();
            let forms = expand(form).iter().map(|f| instruction(f)).collect();
            all.push(Forms { section: section.clone(), target: target.to_owned(), syntax, all: forms });
        }
    }
    all
}
