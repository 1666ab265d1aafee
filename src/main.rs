//! `inp-former`: universal visual anomaly detection from the command line.

mod cli;

fn main() -> std::process::ExitCode {
    inp_former::runtime::cpu::keep_freed_memory();
    cli::main()
}
