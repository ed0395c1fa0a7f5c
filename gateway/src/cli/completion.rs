//! `ringway completion`: a script with which a shell completes commands and options.

use clap::CommandFactory;
use serde::Serialize;

use super::Cli;
use super::output::{Format, print, print_json};

/// Print a script that makes a shell complete `ringway` commands and options.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(ringway completion bash)                  for this shell; in ~/.bashrc for every one
  ringway completion zsh > \"${fpath[1]}/_ringway\"
  ringway completion fish > ~/.config/fish/completions/ringway.fish")]
pub(super) struct Args {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// A shell that scripts are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script, as programs read it.
#[derive(Serialize)]
struct Script {
    script: String,
}

/// Runs the command.
pub(super) fn run(args: &Args, format: Format) {
    let script = script(args.shell);
    match format {
        Format::Json => print_json(&Script { script }),
        Format::Text => print(&script),
    }
}

fn script(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringway", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_of_every_command_that_is_shown() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
                assert!(script.contains(command.get_name()), "{} for {shell:?}", command.get_name());
            }
            assert!(script.contains("admin"), "options of {shell:?}");
        }
    }
}
