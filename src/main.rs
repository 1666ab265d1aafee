//! `inp-former`: universal visual anomaly detection from the command line.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
