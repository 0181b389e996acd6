//! The command line: every subcommand, and where each finds the store. What they do is in
//! `command`, `web` and `relay`.

mod command;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use outgate::{
    config::{self, PlatformSettings, RelaySettings, SecretKeySettings, StoreSettings, WebSettings},
    telemetry,
};

use command::{
    accounts::Accounts, administrator::Administrator, credential::Credential, domain::Domain, gateway::Gateway,
    limit::Limit, organization::Organization, relay::RelayCommand, route::Route, secret_key::SecretKey, sender::Sender,
    store::Store, up::Up, volume::Volume,
};

/// Says where an organization's outbound mail leaves, and relays it there.
#[derive(Debug, Parser)]
#[command(name = "outgate", version)]
struct Cli {
    #[command(flatten)]
    store: StoreSettings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything: the store unless DATABASE_URL is set, the pages and a relay
    Up(Box<Up>),
    /// Run the admin pages
    Web {
        #[command(flatten)]
        platform: PlatformSettings,
        #[command(flatten)]
        web: WebSettings,
    },
    /// Run a relay, or list and forget relays
    #[command(args_conflicts_with_subcommands = true)]
    Relay {
        #[command(flatten)]
        platform: PlatformSettings,
        #[command(flatten)]
        relay: Box<RelaySettings>,
        #[command(subcommand)]
        command: Option<RelayCommand>,
    },
    /// Make the roles and tables of the store, or bring them up to this version
    Migrate,
    /// Organizations
    #[command(subcommand)]
    Organization(Organization),
    /// Mail domains
    Domain {
        #[command(flatten)]
        platform: PlatformSettings,
        #[command(subcommand)]
        command: Domain,
    },
    /// Administrators of organizations
    #[command(subcommand)]
    Administrator(Administrator),
    /// Mail accounts
    Accounts {
        #[command(flatten)]
        platform: PlatformSettings,
        #[command(subcommand)]
        command: Accounts,
    },
    /// Relay credentials, with which mail is submitted
    #[command(subcommand)]
    Credential(Credential),
    /// Outbound gateways
    Gateway {
        #[command(flatten)]
        platform: PlatformSettings,
        #[command(subcommand)]
        command: Gateway,
    },
    /// Keys that relays open passwords of gateways with
    SecretKey {
        #[command(flatten)]
        keys: SecretKeySettings,
        #[command(subcommand)]
        command: SecretKey,
    },
    /// How much mail is sent
    #[command(subcommand)]
    Volume(Volume),
    /// How much may be sent
    #[command(subcommand)]
    Limit(Limit),
    /// Say what a sender is, exempt or block it, or send what waits of it for a limit
    #[command(subcommand)]
    Sender(Sender),
    /// Where mail goes
    Route {
        #[command(flatten)]
        platform: PlatformSettings,
        #[command(subcommand)]
        command: Route,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outgate: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong and why. Causes that only repeat what was said before them are left out.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        said if said.contains(&cause) => said.to_owned(),
        said => format!("{said}: {cause}"),
    })
}

/// Help goes to who asked for it; a mistake is one sentence.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        error.exit();
    }
    let sentence = config::wrong_setting(error, &Cli::command()).unwrap_or_else(|| {
        let rendered = error.to_string();
        let first = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        // What is missing stands on lines of its own.
        let missing: Vec<&str> = rendered.lines().skip(1).map_while(|line| line.strip_prefix("  ")).collect();
        format!("{first} {}", missing.join(" ")).trim_end().to_owned()
    });
    eprintln!("outgate: {sentence}");
    let words: String = subcommand_words().iter().map(|word| format!("{word} ")).collect();
    eprintln!("Try: outgate {words}--help");
    ExitCode::from(2)
}

/// The words before the first flag, as far as they are subcommands.
fn subcommand_words() -> Vec<String> {
    let mut command = Cli::command();
    let mut words = Vec::new();
    for word in std::env::args_os().skip(1).map(OsString::into_string).map_while(Result::ok) {
        let Some(found) = command.find_subcommand(&word).cloned() else { break };
        words.push(word);
        command = found;
    }
    words
}

fn run(mut cli: Cli) -> anyhow::Result<()> {
    let _log = telemetry::start()?;
    allow_many_connections();
    // One TLS provider for the whole process; a second call would be the only way to fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Command::Up(up) = cli.command {
        return command::up::run(*up, cli.store);
    }
    if let Command::Accounts { command, .. } = &mut cli.command {
        command.open_file()?;
    }
    match &mut cli.command {
        Command::SecretKey { keys, .. } => keys.secret_key_file = Some(keys.file(&cli.store)?),
        Command::Relay { relay, command: None, .. } => relay.keys.find(&cli.store)?,
        _ => {}
    }
    let store = Store::find(cli.store)?;
    let ended = command::runtime()?.block_on(run_on(&store, cli.command));
    store.leave()?;
    ended
}

/// A relay has more connections than most systems let a process have unasked. What it gets decides whether clients
/// are turned away, so that it gets no more is no reason not to start.
fn allow_many_connections() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

async fn run_on(store: &Store, command: Command) -> anyhow::Result<()> {
    let owner = async || store.owner().await;
    match command {
        Command::Up(_) => unreachable!("up finds its store itself"),
        Command::Web { platform, web } => command::serve::web(store, &platform, &web).await,
        Command::Relay { command: Some(command), .. } => command::relay::run(command, &owner().await?).await,
        Command::Relay { platform, relay, command: None } => command::serve::relay(store, &platform, &relay).await,
        Command::Migrate => {
            outgate::store::roles::migrate(&store.owner_before_migration().await?).await?;
            println!("The store is ready for this version.");
            Ok(())
        }
        Command::Organization(command) => command::organization::run(command, &owner().await?).await,
        Command::Domain { platform, command } => {
            command::domain::run(command, &owner().await?, &command::allowed(&platform)).await
        }
        Command::Administrator(command) => command::administrator::run(command, &owner().await?).await,
        Command::Accounts { platform, command } => {
            command::accounts::run(command, &owner().await?, &command::allowed(&platform)).await
        }
        Command::Credential(command) => command::credential::run(command, &owner().await?).await,
        Command::Gateway { platform, command } => {
            command::gateway::run(command, &owner().await?, &command::allowed(&platform)).await
        }
        Command::SecretKey { keys, command } => {
            let file = keys.secret_key_file.context("OUTGATE_SECRET_KEY_FILE is not set")?;
            command::secret_key::run(command, &file, &owner().await?).await
        }
        Command::Volume(command) => command::volume::run(command, &owner().await?).await,
        Command::Sender(command) => command::sender::run(command, &owner().await?).await,
        Command::Limit(command) => command::limit::run(command, &owner().await?).await,
        Command::Route { platform, command } => {
            command::route::run(command, &owner().await?, &platform.required_default_route()?).await
        }
    }
}
