//! The program `etcd`: a machine of the store, and the tools for its log.

use std::process::ExitCode;

use etcd::cli::Cli;

fn main() -> ExitCode {
    stop_on_panic();
    let cli = Cli::read();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // That a line makes no sense may turn out late.
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                let _written = usage.print();
                return ExitCode::from(2);
            }
            etcd::cli::complain(&*error);
            ExitCode::from(etcd::cli::status(&*error))
        }
    }
}

/// Ends the process with the first panic, in builds that would unwind: half a
/// machine must not go on.
fn stop_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
