//! Which barriers and waits of a kernel do nothing, proved from its text: a mutant without them is the same program.
//!
//! A wait does nothing when without it no instruction can meet more groups of copies in flight than with it. A barrier does
//! nothing when no access between the barriers before and it conflicts with one between it and the barriers after.

use std::collections::HashMap;

/// What a line does, as far as barriers and waits go.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Nothing,
    Commit,
    Wait(u32),
    Barrier,
    Access(u8),
}
const SHARED_READ: u8 = 1;
const SHARED_WRITE: u8 = 2;
const GLOBAL_READ: u8 = 4;
const GLOBAL_WRITE: u8 = 8;
/// More groups than any kernel has in flight.
const MANY: u32 = 32;

/// The lines of a kernel with what may follow each.
pub struct Flow {
    does: Vec<Does>,
    next: Vec<Vec<usize>>,
    /// Whether there are any asynchronous copies.
    copies: bool,
}

fn does(op: &str, rest: &str) -> Does {
    let writes = |op: &str| op.starts_with("st") || op.starts_with("atom") || op.starts_with("red.");
    match op {
        "cp.async.commit_group" => Does::Commit,
        "cp.async.wait_all" => Does::Wait(0),
        "cp.async.wait_group" => Does::Wait(rest.trim().trim_end_matches(';').parse().unwrap_or(0)),
        _ if op.starts_with("bar.sync") || op.starts_with("barrier.sync") => Does::Barrier,
        _ if op.starts_with("cp.async") => Does::Access(SHARED_WRITE | GLOBAL_READ),
        _ if op.starts_with("ldmatrix") || op.starts_with("ld.shared") => Does::Access(SHARED_READ),
        _ if op.starts_with("ld.global") => Does::Access(GLOBAL_READ),
        _ if ["ld.param", "ld.local", "ld.const", "st.local", "st.param"]
            .iter()
            .any(|p| op.starts_with(p)) =>
        {
            Does::Nothing
        }
        _ if writes(op) && op.contains(".shared") => Does::Access(SHARED_WRITE),
        _ if writes(op) && op.contains(".global") => Does::Access(GLOBAL_WRITE),
        _ if writes(op) || op.starts_with("ld") || op.starts_with("mbarrier") => Does::Access(15),
        _ => Does::Nothing,
    }
}

impl Flow {
    /// From the lines of one kernel's body.
    pub fn new(lines: &[&str]) -> Self {
        let label = |l: &&str| l.trim().strip_suffix(':').map(str::to_string);
        let labels: HashMap<_, _> =
            lines.iter().enumerate().filter_map(|(i, l)| Some((label(l)?, i))).collect();
        let copies = lines.iter().any(|l| l.contains("cp.async.c") && !l.contains("commit"));
        let mut flow = Self { does: vec![], next: vec![], copies };
        for (i, line) in lines.iter().enumerate() {
            let code = line.trim().trim_start_matches('{').trim();
            let (guarded, code) = match code.strip_prefix('@') {
                Some(c) => (true, c.split_once(char::is_whitespace).map_or("", |c| c.1).trim()),
                None => (false, code),
            };
            let (op, rest) = code.split_once(char::is_whitespace).unwrap_or((code.trim_end_matches(';'), ""));
            let jump = op.starts_with("bra");
            let ends = (jump || ["ret", "exit", "trap"].contains(&op)) && !guarded;
            let target = labels.get(rest.trim().trim_end_matches(';').trim()).filter(|_| jump);
            let on = (!ends && i + 1 < lines.len()).then_some(i + 1);
            flow.next.push(target.copied().into_iter().chain(on).collect());
            flow.does.push(does(op, rest));
        }
        flow
    }
    /// Most groups of copies that may be in flight before each line.
    fn pending(&self) -> Vec<u32> {
        let mut p = vec![0; self.does.len()];
        let mut again = true;
        while again {
            again = false;
            for i in 0..p.len() {
                let after = match self.does[i] {
                    Does::Commit => (p[i] + 1).min(MANY),
                    Does::Wait(n) => p[i].min(n),
                    _ => p[i],
                };
                for &n in &self.next[i] {
                    again |= p[n] < after;
                    p[n] = p[n].max(after);
                }
            }
        }
        p
    }
    /// Accesses since the last barrier (before each line), or until the next (from each line on).
    fn accesses(&self, forward: bool) -> Vec<u8> {
        let pending = self.pending();
        let own = |i: usize| match self.does[i] {
            Does::Access(a) => a,
            // What it completes becomes visible.
            Does::Wait(n) if pending[i] > n && self.copies => SHARED_WRITE,
            _ => 0,
        };
        let mut seen = vec![0u8; self.does.len()];
        let mut again = true;
        while again {
            again = false;
            for i in 0..seen.len() {
                for &n in &self.next[i] {
                    let (to, from, passing) = if forward { (n, i, i) } else { (i, n, n) };
                    let through =
                        if self.does[passing] == Does::Barrier { 0 } else { seen[from] | own(from) };
                    let new = seen[to] | through;
                    again |= new != seen[to];
                    seen[to] = new;
                }
            }
        }
        seen
    }
    /// Whether shared memory may still be touched after a line.
    fn shared_after(&self, line: usize) -> bool {
        let (mut todo, mut seen) = (self.next[line].clone(), vec![false; self.next.len()]);
        while let Some(i) = todo.pop() {
            if std::mem::replace(&mut seen[i], true) {
                continue;
            }
            if matches!(self.does[i], Does::Access(a) if a & (SHARED_READ | SHARED_WRITE) != 0) {
                return true;
            }
            todo.extend(&self.next[i]);
        }
        false
    }
    /// Whether the program stays the same when a line's barrier or wait goes (`None`) or waits for less.
    pub fn redundant(&self, line: usize, weaker: Option<u32>) -> bool {
        if self.does[line] == Does::Barrier {
            let (before, after) = (self.accesses(true)[line], self.accesses(false)[line]);
            let conflict = |write: u8, any: u8| {
                before & write != 0 && after & any != 0 || after & write != 0 && before & any != 0
            };
            return !conflict(SHARED_WRITE, SHARED_READ | SHARED_WRITE)
                && !conflict(GLOBAL_WRITE, GLOBAL_READ | GLOBAL_WRITE);
        }
        if !self.copies {
            return true;
        }
        let mut mutant = Self { does: self.does.clone(), next: self.next.clone(), copies: true };
        mutant.does[line] = weaker.map_or(Does::Nothing, Does::Wait);
        let waits = |i: usize| matches!(self.does[i], Does::Wait(_));
        let (with, without) = (self.pending(), mutant.pending());
        // Copies that nobody reads or overwrites may be in flight to the end.
        let idle = !self.shared_after(line);
        idle || (0..with.len()).all(|i| waits(i) || without[i] <= with[i])
    }
}

#[test]
fn redundancy() {
    let text = "cp.async.ca.shared.global [%r1], [%rd1], 4;\ncp.async.commit_group;\n$L1:\ncp.async.wait_group 0;\ncp.async.wait_group 0;
bar.sync 0;\nld.shared.b32 %r2, [%r1];\nbar.sync 0;\nld.shared.b32 %r2, [%r1];\nbar.sync 0;\nst.shared.b32 [%r1], %r2;\n@%p1 bra $L1;\nret;";
    let flow = Flow::new(&text.lines().collect::<Vec<_>>());
    let barriers: Vec<_> = [5, 7, 9].iter().map(|&l| flow.redundant(l, None)).collect();
    assert_eq!(barriers, [false, true, false]);
    assert!(flow.redundant(3, Some(1)) && flow.redundant(4, None), "one of two waits");
    let single = text.replacen("cp.async.wait_group 0;\n", "", 1);
    assert!(!Flow::new(&single.lines().collect::<Vec<_>>()).redundant(3, Some(1)));
}
